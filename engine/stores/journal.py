"""The journal: SQLite in the home, the one durable truth about signals, intents, orders, fills and latches.

WAL with ``synchronous=FULL``: a commit that returned survives a power cut
(https://www.sqlite.org/pragma.html#pragma_synchronous). All work happens in one thread of the journal's own; the
engine's loop only hands it work. Two kinds of work: what must be durable before anything follows (``commit_*``,
awaited), and rows that follow the facts (``note_*``, gathered for a quarter of a second, so that an order's whole
life is one row, and written in one transaction). A crash takes at most those: what was sent is in its signal's durable
plan, and what became of it the brokers are asked again. Audit rows go along with either, in the same transaction.
"""

from __future__ import annotations

import asyncio
import sqlite3
from collections.abc import Callable
from decimal import Decimal
from pathlib import Path
from typing import Any, TypeVar

import orjson

from engine import failpoints
from engine.clock import Clock, SystemClock, rfc3339
from engine.errors import StoreError
from engine.model.messages import Fill
from engine.model.order import Order
from engine.model.position import Position
from engine.stores import audit
from engine.stores.audit_rows import (
    Tell,
    tell_command,
    tell_orders,
    tell_result,
    tell_signal,
)
from engine.stores.journal_opening import Finding, Opener, open_file
from engine.stores.journal_pending import First, Pending, after, fact_work
from engine.stores.journal_rows import (
    PUT_COMMAND,
    PUT_ORDER,
    LoadedState,
    SignalEntry,
    command_row,
    load_state,
    order_from_row,
    order_row,
    page_of,
    signal_entry,
)
from engine.stores.journal_thread import Job, JournalThread, Results

T = TypeVar("T")

FLUSH_AFTER_S = (
    0.25  # long enough for an order's whole life to be one row; recovery looks up what is younger
)


class Journal:
    """The journal of one home. Open it once, use it from one loop, close it last."""

    def __init__(self, path: Path, clock: Clock | None = None, opener: Opener = open_file) -> None:
        self._path = path
        self._opener = opener
        self._clock = clock or SystemClock()
        self._thread: JournalThread | None = None
        self._loop: asyncio.AbstractEventLoop | None = None
        self._flush_timer: asyncio.TimerHandle | None = None
        self._pending = Pending()
        self._audits: list[audit.Entry] = []
        self._begun: dict[str, dict[str, Any]] = {}  # commands that are carried out, by id
        self._first: list[First] = []
        self.failed: str = (
            ""  # why the journal can no longer be trusted; non-empty stops all sending
        )
        self.on_failure: Callable[[str], None] = lambda number_text: None
        self.book = ""
        self.epoch = 0
        self.findings: list[Finding] = []
        """What was out of order when it was opened, for the operator."""

    # ---- life -----------------------------------------------------------------------------------------------

    async def open(self) -> None:
        """Open or create the file and check that it is sound.

        Raises:
            StoreError: it cannot be opened, or is of a newer version. A damaged one is salvaged (``findings``).
        """
        self._loop = asyncio.get_running_loop()
        thread = JournalThread(self._path, self._loop, self._deliver, self._opener)
        opening = await thread.start(self._now())
        self._thread = thread
        self.book, self.epoch, self.findings = opening.book, opening.epoch, opening.findings

    async def close(self) -> None:
        """Write what is pending and close the file."""
        if self._thread is None:
            return
        self._flush()
        self.audit("stop", {"epoch": self.epoch})
        self._flush()
        thread, self._thread = self._thread, None
        await thread.stop()

    def _deliver(self, results: Results, failure: BaseException | None) -> None:
        if failure is not None and not self.failed:
            # An fsync or write error is not survivable by retrying on the same handle: stop sending.
            self.failed = str(failure)
            self.on_failure(self.failed)
        for future, outcome, error in results:
            if future.done():
                continue
            if error is not None:
                future.set_exception(error)
            else:
                future.set_result(outcome)

    async def _do(
        self,
        work: Callable[[sqlite3.Connection], T],
        tell: Tell | None = None,
        *,
        closing: bool = False,
        alone: bool = False,
    ) -> T:
        if self.failed and not closing:
            raise StoreError(self.failed)
        if self._thread is None:
            raise StoreError("the journal is closed")
        future: asyncio.Future[T] = asyncio.get_running_loop().create_future()
        self._put(work, tell, future, closing=closing, alone=alone)
        return await future

    def _put(
        self,
        work: Callable[[sqlite3.Connection], Any],
        tell: Tell | None = None,
        future: asyncio.Future[Any] | None = None,
        *,
        closing: bool = True,
        alone: bool = False,
    ) -> None:
        """Hand work to the thread, with the commands and the audit rows that were queued before it unless ``alone``."""
        audits: list[audit.Entry] = []
        if not alone:
            audits, self._audits = self._audits, []
            if self._first:
                work, tell = after(self._first, work, tell)
                self._first = []
        if self._thread is not None:
            self._thread.put(Job(work, future, audits, tell, closing))

    async def _read(self, work: Callable[[sqlite3.Connection], T]) -> T:
        """Run a query; its failure is the asker's alone and says nothing about the writes around it."""

        def guarded(connection: sqlite3.Connection) -> T | StoreError:
            try:
                return work(connection)
            except Exception as error:  # noqa: BLE001 (a number no query takes, a damaged row)
                return StoreError(f"journal: {error}")

        outcome = await self._do(guarded)
        if isinstance(outcome, StoreError):
            raise outcome
        return outcome

    # ---- durable before anything follows ------------------------------------------------------------------

    async def commit_signal(self, entry: SignalEntry) -> SignalEntry | None:
        """Write a signal with its plan. Return ``None`` when durable, or the earlier entry of the same key."""
        if failpoints.ARMED:
            failpoints.hit("K03.before")
        plan = orjson.dumps(entry.plan)

        def work(connection: sqlite3.Connection) -> SignalEntry | None:
            if failpoints.ARMED:
                failpoints.hit("K07.before")
            cursor = connection.execute(
                "INSERT INTO signals (source, id, body_hash, body, origin, received_at, state, code, message, plan, "
                "settled) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?) ON CONFLICT DO NOTHING",
                (
                    entry.source, entry.id, entry.body_hash, entry.body, entry.origin, entry.received_at, entry.state,
                    entry.code, entry.message, plan, int(entry.settled),
                ),
            )  # fmt: skip
            if failpoints.ARMED:
                failpoints.hit("K07.after")
            if cursor.rowcount == 1:
                entry.seq = int(cursor.lastrowid or 0)
                return None
            return signal_entry(
                connection.execute(
                    "SELECT * FROM signals WHERE source = ? AND id = ?", (entry.source, entry.id)
                ).fetchone()
            )

        at = self._now()
        if failpoints.ARMED:
            failpoints.hit("K03.after")
        return await self._do(
            work,
            lambda earlier: [tell_signal(at, "signal", entry, plan)] if earlier is None else [],
        )

    async def commit_plan(self, entry: SignalEntry) -> None:
        """Replace a signal's state and plan (approval, rejection, forced sends)."""
        plan = orjson.dumps(entry.plan)

        def work(connection: sqlite3.Connection) -> None:
            connection.execute(
                "UPDATE signals SET plan = ?, state = ?, code = ?, message = ?, settled = ? WHERE seq = ?",
                (plan, entry.state, entry.code, entry.message, int(entry.settled), entry.seq),
            )

        at = self._now()
        await self._do(work, lambda _: [tell_signal(at, "plan", entry, plan)])

    async def commit_orders(self, orders: list[Order]) -> None:
        """Write orders made by hand before they leave."""
        rows = [order_row(order) for order in orders]
        at = self._now()
        await self._do(
            lambda connection: connection.executemany(PUT_ORDER, rows) and None,
            lambda _: tell_orders(at, "intent", rows),
        )

    async def commit_halt(self, scope: str, state: str, reason: str, at: str, by: str) -> None:
        """Write a latch."""
        await self._do(
            lambda connection: (
                connection.execute(
                    "INSERT OR REPLACE INTO halts VALUES (?, ?, ?, ?, ?)",
                    (scope, state, reason, at, by),
                )
                and None
            ),
            lambda _: [
                (at, "latch", "", {"scope": scope, "state": state, "reason": reason, "by": by})
            ],
            closing=True,
        )

    async def commit_fact(self, kind: str, key: str, value: dict[str, Any] | None) -> None:
        """Keep a small durable fact of a control under ``kind`` and ``key`` (``None``: forget it); JSON values only."""
        self._pending.facts.pop((kind, key), None)  # what was noted before is older
        await self._do(fact_work({(kind, key): value}), closing=True)

    async def clear_halt(self, scope: str) -> None:
        """Lift a latch."""
        at = self._now()
        await self._do(
            lambda connection: (
                connection.execute("DELETE FROM halts WHERE scope = ?", (scope,)) and None
            ),
            lambda _: [(at, "latch", "", {"scope": scope, "state": "active"})],
        )

    async def commit_command(
        self, command_id: str, at: str, body: dict[str, Any]
    ) -> dict[str, Any] | None:
        """Note a command; return the earlier result when this id has been carried out before."""
        if (running := self._begun.get(command_id)) is not None:
            return await self._row_of(command_id) or running
        text = orjson.dumps(body)

        def work(connection: sqlite3.Connection) -> dict[str, Any] | None:
            earlier = command_row(connection, command_id)
            if earlier is None:
                connection.execute(PUT_COMMAND, (command_id, at, text))
            return earlier

        return await self._do(
            work,
            lambda earlier: [tell_command(at, command_id, body, text)] if earlier is None else [],
        )

    async def begin_command(
        self, command_id: str, at: str, body: dict[str, Any]
    ) -> dict[str, Any] | None:
        """As ``commit_command``, but the note goes with what is committed next: one wait for the disk instead of two.

        For a command that does nothing before a commit of its own. ``note_result`` must follow, whatever comes of it.
        """
        if (running := self._begun.get(command_id)) is not None:
            return await self._row_of(command_id) or running
        result = {"result": "in progress"}
        self._begun[command_id] = {"body": body, "result": result, "interrupted": False}
        earlier: dict[str, Any] | None = self._begun[command_id]
        try:
            earlier = await self._row_of(command_id)
        finally:
            if earlier is not None:
                del self._begun[command_id]
        if earlier is None:
            text = orjson.dumps(body)
            self._first.append(
                (
                    lambda base: base.execute(PUT_COMMAND, (command_id, at, text)),
                    lambda _: [tell_command(at, command_id, body, text)],
                )
            )
            self._soon()
        return earlier

    async def _row_of(self, command_id: str) -> dict[str, Any] | None:
        return await self._do(lambda base: command_row(base, command_id), alone=True)

    # ---- rows that follow the facts ------------------------------------------------------------------------

    def note_order(self, order: Order) -> None:
        """Write the order's newest state soon."""
        self._pending.orders[order.cl_ord_id] = order
        self._soon()

    def note_fill(self, fill: Fill, position: Position) -> None:
        """Write a fill, its order and the position it led to soon, in one transaction."""
        self._pending.fills.append(fill)
        self.note_position(position)

    def note_position(self, position: Position) -> None:
        """Write a position soon."""
        self._pending.positions[position.account, position.symbol] = position
        self._soon()

    def note_settled(self, seq: int) -> None:
        """Mark that every intent of a signal has an order row (written in the same transaction or before)."""
        self._pending.settled.append(seq)
        self._soon()

    def note_trace(self, seq: int, trace: dict[str, Any]) -> None:
        """Write a signal's stage stamps soon."""
        self._pending.traces[seq] = trace
        self._soon()

    def note_fact(self, kind: str, key: str, value: dict[str, Any] | None) -> None:
        """As ``commit_fact``, written with the next flush; the newest value counts."""
        self._pending.facts[kind, key] = value
        self._soon()

    def audit(self, kind: str, facts: dict[str, Any], account: str = "") -> None:
        """Queue a row of the audit trail; it becomes durable with the next commit, or the flush.

        ``facts`` are turned into JSON in the journal's thread: nobody may change them afterwards.
        """
        self._audits.append((self._now(), kind, account, facts))
        self._soon()

    def note_day(self, account: str, day: str, baseline: Decimal) -> None:
        """Write the P&L an account's day starts from."""
        values = (account, day, str(baseline))
        self._put(
            lambda connection: connection.execute(
                "INSERT OR IGNORE INTO days VALUES (?, ?, ?)", values
            )
        )

    def note_square_off(self, account: str, day: str) -> None:
        """Write the session's date an account has been squared off on."""
        self._put(
            lambda connection: connection.execute(
                "INSERT OR REPLACE INTO square_offs VALUES (?, ?)", (account, day)
            )
        )

    def note_result(self, command_id: str, result: dict[str, Any]) -> None:
        """Write a command's result."""
        text, at = orjson.dumps(result, default=str), self._now()
        self._begun.pop(command_id, None)  # its row is on its way: from now on the file knows
        self._put(
            lambda connection: connection.execute(
                "UPDATE commands SET result = ? WHERE id = ?", (text, command_id)
            ),
            tell=lambda _: [tell_result(at, command_id, text)],
        )

    def _now(self) -> str:
        return rfc3339(self._clock.now())

    def _soon(self) -> None:
        if self._flush_timer is None and self._loop is not None:
            self._flush_timer = self._loop.call_later(FLUSH_AFTER_S, self._flush)

    def _flush(self) -> None:
        if self._flush_timer is not None:
            self._flush_timer.cancel()
            self._flush_timer = None
        if self._pending or self._audits or self._first:
            self._put(*self._pending.taken(self._now()))

    async def flushed(self) -> None:
        """Return once everything noted so far is durable."""
        self._flush()
        await self._do(lambda _connection: None, closing=True)

    # ---- reading ---------------------------------------------------------------------------------------------

    async def load(self) -> LoadedState:
        """Read what the engine needs to go on after a restart."""
        if failpoints.ARMED:
            failpoints.hit("K30.before")
        loaded = await self._read(load_state)
        if failpoints.ARMED:
            failpoints.hit("K30.after")
        return loaded

    async def signal(self, source: str, signal_id: str) -> SignalEntry | None:
        """Read one signal."""

        def work(connection: sqlite3.Connection) -> SignalEntry | None:
            row = connection.execute(
                "SELECT * FROM signals WHERE source = ? AND id = ?", (source, signal_id)
            ).fetchone()
            return None if row is None else signal_entry(row)

        return await self._read(work)

    async def orders_of(self, source: str, signal_id: str) -> list[Order]:
        """Read the orders of one signal."""
        return await self._read(
            lambda connection: [
                order_from_row(row)
                for row in connection.execute(
                    "SELECT * FROM orders WHERE source = ? AND signal_id = ?", (source, signal_id)
                )
            ]
        )

    async def order(self, cl_ord_id: str) -> Order | None:
        """Read one order with the ids of its fills."""

        def work(connection: sqlite3.Connection) -> Order | None:
            row = connection.execute(
                "SELECT * FROM orders WHERE cl_ord_id = ?", (cl_ord_id,)
            ).fetchone()
            if row is None:
                return None
            order = order_from_row(row)
            order.restore_fills(
                r[0]
                for r in connection.execute(
                    "SELECT exec_id FROM fills WHERE cl_ord_id = ?", (cl_ord_id,)
                )
            )
            return order

        return await self._read(work)

    async def count_orders(self, since: str) -> list[tuple[str, str, int]]:
        """Return how many orders of ours each account and strategy has had since a stamp, denied ones left out."""
        return await self._read(
            lambda connection: [
                tuple(row)
                for row in connection.execute(
                    "SELECT account, strategy, count(*) FROM orders "
                    "WHERE created_at >= ? AND status <> 'denied' AND parent = '' GROUP BY account, strategy",
                    (since,),
                )
            ]
        )

    async def page(
        self, table: str, where: dict[str, str], limit: int, after: str | None
    ) -> list[dict[str, Any]]:
        """Read rows newest first; ``after`` is the ``cursor`` of the last row of the page before."""
        return await self._read(lambda connection: page_of(connection, table, where, limit, after))
