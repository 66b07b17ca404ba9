"""What the journal itself puts into the audit trail: signals with their plans, commands, latches, orders, fills.

Made in the journal's thread, from what it writes anyway, in the same transaction: nothing can be decided and kept
without its audit row, and no order waits for one. What is long is told by its SHA-256 and counts.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable
from typing import Any, Final

import orjson

from engine.model.enums import OrderStatus
from engine.stores.audit import Entry
from engine.stores.journal_rows import ORDER_COLUMNS, SignalEntry

Tell = Callable[[Any], list[Entry]]
"""Turns the outcome of a piece of work into its audit rows."""

LONG: Final = 2_000  # bytes of JSON; what is longer is told by a digest
_TOLD_STATES: Final = frozenset(
    status._value_ for status in OrderStatus if status.terminal or status is OrderStatus.UNKNOWN
)
_ORDER_KEYS: Final = (
    "cl_ord_id", "symbol", "side", "order_qty", "status", "cum_qty", "order_id", "code", "text", "source", "signal_id",
    "leg",
)  # fmt: skip
_PLACES: Final = [(key, ORDER_COLUMNS.index(key)) for key in _ORDER_KEYS]
_ACCOUNT: Final = ORDER_COLUMNS.index("account")
_STATUS: Final = ORDER_COLUMNS.index("status")


def shortened(value: Any, text: bytes) -> Any:
    """Return ``value`` if its JSON ``text`` is short, else that text's digest and length."""
    if len(text) <= LONG:
        return value
    return {"sha256": hashlib.sha256(text).hexdigest(), "bytes": len(text)}


def tell_signal(at: str, kind: str, entry: SignalEntry, plan: bytes) -> Entry:
    """Return the row of a signal and what was planned for every account, those passed over included."""
    planned = orjson.loads(plan)  # as it was written: the entry's own may have changed since
    facts = {
        "signal": f"{entry.source}/{entry.id}",
        "body": entry.body_hash,
        "origin": entry.origin,
        "state": entry.state,
        "code": entry.code,
        "message": entry.message,
        "fp": planned.get("fp", ""),
        "intents": sum(len(rows) for *_, rows in planned.get("orders", ())),
        "held": len(planned.get("held", ())),
        "reasons": [
            [how, code, len(accounts)] for how, code, _, accounts in planned.get("reasons", ())
        ],
        "plan": shortened(planned, plan),
    }
    return (at, kind, "", facts)


def tell_orders(at: str, kind: str, rows: Iterable[tuple[Any, ...]]) -> list[Entry]:
    """Return a compact row for each of these orders."""
    return [
        (at, kind, row[_ACCOUNT], {key: row[place] for key, place in _PLACES if row[place]})
        for row in rows
    ]


def tell_outcomes(at: str, rows: Iterable[tuple[Any, ...]]) -> list[Entry]:
    """Return a row for each order that has come to its end, or whose fate is unknown."""
    return tell_orders(at, "order", (row for row in rows if row[_STATUS] in _TOLD_STATES))


def tell_fills(at: str, rows: Iterable[tuple[Any, ...]]) -> list[Entry]:
    """Return a row for each execution (the values of ``fills``)."""
    return [
        (
            at,
            "fill",
            account,
            {"exec_id": exec_id, "cl_ord_id": order, "symbol": symbol, "side": side, "qty": qty, "px": px},
        )
        for account, exec_id, order, symbol, side, qty, px, *_ in rows
    ]  # fmt: skip


def tell_command(at: str, command_id: str, body: dict[str, Any], text: bytes) -> Entry:
    """Return the row of an operator's command; a secret that names itself so is left out."""
    shown = {key: value for key, value in body.items() if key != "pin"}
    return (at, "command", "", {"id": command_id, "command": shortened(shown, text)})


def tell_result(at: str, command_id: str, text: bytes) -> Entry:
    """Return the row of a command's result."""
    return (at, "result", "", {"id": command_id, "result": shortened(orjson.loads(text), text)})
