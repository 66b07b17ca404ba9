"""What the journal was told and has not written yet: it becomes rows at the flush, all in one transaction."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable
from dataclasses import dataclass, field
from operator import itemgetter
from typing import Any, Final, TypeVar

import orjson

from engine import failpoints
from engine.clock import rfc3339
from engine.model.messages import Fill
from engine.model.numbers import to_text
from engine.model.order import Order
from engine.model.position import Position
from engine.stores.audit import Entry
from engine.stores.audit_rows import Tell, tell_fills, tell_outcomes
from engine.stores.journal_rows import PUT_ORDER, PUT_POSITION, order_row, position_row

T = TypeVar("T")

PUT_FILL: Final = "INSERT OR IGNORE INTO fills VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)"
PUT_FACT: Final = "INSERT OR REPLACE INTO facts VALUES (?, ?, ?)"
DROP_FACT: Final = "DELETE FROM facts WHERE kind = ? AND key = ?"

Facts = dict[tuple[str, str], dict[str, Any] | None]
Writes = Callable[[sqlite3.Connection], None]
First = tuple[Callable[[sqlite3.Connection], Any], Tell]
"""Work to be done before other work in its transaction, and what it tells the audit trail."""


@dataclass(slots=True)
class Pending:
    """The newest state of everything noted since the last flush."""

    orders: dict[str, Order] = field(default_factory=dict)
    fills: list[Fill] = field(default_factory=list)
    positions: dict[tuple[str, str], Position] = field(default_factory=dict)
    settled: list[int] = field(default_factory=list)
    traces: dict[int, dict[str, Any]] = field(default_factory=dict)
    facts: Facts = field(default_factory=dict)

    def _parts(self) -> tuple[Any, ...]:
        return (self.orders, self.fills, self.positions, self.settled, self.traces, self.facts)

    def __bool__(self) -> bool:
        return any(self._parts())

    def taken(self, now: str) -> tuple[Writes, Tell]:
        """Forget everything; return what writes it as it is now, and what tells the audit trail of it.

        Rows are made here, on the loop, so that the thread never reads an object that is changing. They are sorted
        by key: neighbours are written into the same pages.
        """
        orders = sorted(map(order_row, self.orders.values()), key=itemgetter(0))
        fills = sorted(map(_fill_row, self.fills))
        positions = [position_row(self.positions[key], now) for key in sorted(self.positions)]
        settled = [(seq,) for seq in self.settled]
        traces = [(orjson.dumps(trace), seq) for seq, trace in self.traces.items()]
        write_facts = fact_work(self.facts)
        for part in self._parts():
            part.clear()

        def work(connection: sqlite3.Connection) -> None:
            if failpoints.ARMED:
                failpoints.hit("journal.flush.before")
                failpoints.hit("K20.before")
            connection.executemany(PUT_ORDER, orders)
            if failpoints.ARMED:
                failpoints.hit("K20.after")
            connection.executemany(PUT_FILL, fills)
            connection.executemany(PUT_POSITION, positions)
            connection.executemany("UPDATE signals SET settled = 1 WHERE seq = ?", settled)
            connection.executemany("UPDATE signals SET trace = ? WHERE seq = ?", traces)
            write_facts(connection)
            if failpoints.ARMED:
                failpoints.hit("journal.flush.after")

        return work, lambda _: tell_outcomes(now, orders) + tell_fills(now, fills)


def _fill_row(fill: Fill) -> tuple[Any, ...]:
    f = fill
    return (
        f.account, f.exec_id, f.cl_ord_id, f.symbol, f.side._value_, to_text(f.last_qty), str(f.last_px),
        rfc3339(f.at), f.strategy, f.source, f.signal_id, to_text(f.fee_qty),
    )  # fmt: skip


def fact_work(facts: Facts) -> Writes:
    """Return what writes facts as they are now; a value of ``None`` is one to forget."""
    kept = [(*key, orjson.dumps(value)) for key, value in facts.items() if value is not None]
    gone = [key for key, value in facts.items() if value is None]

    def work(connection: sqlite3.Connection) -> None:
        connection.executemany(PUT_FACT, kept)
        connection.executemany(DROP_FACT, gone)

    return work


def after(
    first: list[First],
    work: Callable[[sqlite3.Connection], T],
    tell: Tell | None,
) -> tuple[Callable[[sqlite3.Connection], T], Tell]:
    """Return work, and what it tells the audit trail, with other work done first in the same transaction."""

    def both(connection: sqlite3.Connection) -> T:
        for one, _ in first:
            one(connection)
        return work(connection)

    def told(outcome: Any) -> list[Entry]:
        entries = [entry for _, say in first for entry in say(None)]
        return entries + (tell(outcome) if tell is not None else [])

    return both, told
