"""The journal: SQLite in the home, the one durable truth about signals, intents, orders, fills and latches.

WAL with ``synchronous=FULL``: a commit that returned survives a power cut
(https://www.sqlite.org/pragma.html#pragma_synchronous). All work happens in one thread of the journal's own; the
engine's loop only hands it work. Two kinds of work: what must be durable before anything follows (``commit_*``,
awaited), and rows that follow the facts (``note_*``, gathered for a quarter of a second, so that an order's whole
life is one row, and written in one transaction). A crash takes at most those: what was sent is in its signal's durable
plan, and what became of it the brokers are asked again.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import sqlite3
import threading
from collections.abc import Callable
from concurrent.futures import Future
from datetime import datetime
from decimal import Decimal
from operator import itemgetter
from pathlib import Path
from queue import SimpleQueue
from typing import Any, TypeVar

import orjson

from engine.clock import rfc3339
from engine.errors import StoreError
from engine.model.messages import Fill
from engine.model.numbers import to_text
from engine.model.order import Order
from engine.model.position import Position
from engine.stores.journal_rows import (
    MIGRATIONS,
    MOVES,
    PUT_ORDER,
    PUT_POSITION,
    SCHEMA,
    SCHEMA_VERSION,
    LoadedState,
    SignalEntry,
    load_state,
    order_from_row,
    order_row,
    page_of,
    position_row,
    signal_entry,
)

log = logging.getLogger(__name__)
T = TypeVar("T")

FLUSH_AFTER_S = (
    0.25  # long enough for an order's whole life to be one row; recovery looks up what is younger
)
CHECKPOINT_EVERY_S = 2.0
WAL_BYTES = 16 << 20


def _grow_wal(connection: sqlite3.Connection) -> None:
    """Give the WAL its size ahead: an fsync that also records a longer file takes several times as long.

    A transaction larger than the page cache spills into the WAL; rolled back, it leaves nothing but the space, which
    later commits overwrite in place, since the checkpointer keeps letting the WAL begin anew.
    """
    connection.execute("PRAGMA cache_size=16")
    connection.execute("BEGIN IMMEDIATE")
    connection.execute("CREATE TABLE growth (space BLOB)")
    connection.execute("INSERT INTO growth VALUES (zeroblob(?))", (WAL_BYTES,))
    connection.execute("ROLLBACK")
    connection.execute("PRAGMA cache_size=-8000")


def _make_or_migrate(connection: sqlite3.Connection) -> str:
    """Make the tables, or bring those of an older version up to date, in one transaction; return the book's id.

    Raises:
        StoreError: the file is of a newer version; not a byte of it is changed.
    """
    connection.execute("BEGIN IMMEDIATE")
    try:
        version = _version_of(connection)
        steps = range(version + 1, SCHEMA_VERSION + 1) if version else ()
        for statement in (
            *(statement for step in steps for statement in MIGRATIONS[step]),
            *SCHEMA.split(";"),
            *(statement for step in steps for statement in MOVES[step]),
        ):
            connection.execute(statement)
        connection.execute(
            "INSERT OR REPLACE INTO meta VALUES ('schema', ?)", (str(SCHEMA_VERSION),)
        )
        connection.execute("INSERT OR IGNORE INTO meta SELECT 'book', lower(hex(randomblob(8)))")
        book = connection.execute("SELECT value FROM meta WHERE key = 'book'").fetchone()[0]
    except BaseException:
        connection.execute("ROLLBACK")
        raise
    connection.execute("COMMIT")
    if 0 < version < SCHEMA_VERSION:
        log.warning("the journal was brought from version %d to %d", version, SCHEMA_VERSION)
    return str(book)


def _version_of(connection: sqlite3.Connection) -> int:
    """Return a file's version, 0 for a new one; one this build does not read is refused."""
    tables = {row[0] for row in connection.execute("SELECT name FROM sqlite_master")}
    found = None
    if "meta" in tables:
        found = connection.execute("SELECT value FROM meta WHERE key = 'schema'").fetchone()
    if found is None:
        return 1 if "orders" in tables else 0  # version 1 named itself in a second transaction
    if found[0] not in {str(version) for version in range(1, SCHEMA_VERSION + 1)}:
        raise StoreError(
            f"its schema is version {found[0]}, this build reads version {SCHEMA_VERSION}"
        )
    return int(found[0])


class Journal:
    """The journal of one home. Open it once, use it from one loop, close it last."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._work: SimpleQueue[
            tuple[Callable[[sqlite3.Connection], Any], asyncio.Future[Any] | None] | None
        ] = SimpleQueue()
        self._thread: threading.Thread | None = None
        self._loop: asyncio.AbstractEventLoop | None = None
        self._flush_timer: asyncio.TimerHandle | None = None
        self._orders: dict[str, Order] = {}
        self._fills: list[Fill] = []
        self._positions: dict[tuple[str, str], Position] = {}
        self._settled: list[int] = []
        self._traces: dict[int, dict[str, Any]] = {}
        self.failed: str = (
            ""  # why the journal can no longer be trusted; non-empty stops all sending
        )
        self.on_failure: Callable[[str], None] = lambda number_text: None
        self.book = ""

    # ---- life -----------------------------------------------------------------------------------------------

    async def open(self) -> None:
        """Open or create the file and check that it is sound.

        Raises:
            StoreError: it cannot be opened, is of a newer version, or fails SQLite's own check.
        """
        self._loop = asyncio.get_running_loop()
        opened: Future[str] = Future()
        self._thread = threading.Thread(
            target=self._run, args=(opened,), name="journal", daemon=True
        )
        self._thread.start()
        self.book = await asyncio.wrap_future(opened)

    async def close(self) -> None:
        """Write what is pending and close the file."""
        if self._thread is None:
            return
        self._flush()
        self._work.put(None)
        await asyncio.get_running_loop().run_in_executor(None, self._thread.join)
        self._thread = None

    def _run(self, opened: Future[str]) -> None:
        try:
            connection = self._connect()
            book = self._prepare(connection)
        except Exception as error:  # noqa: BLE001 (whatever it is, the opener must hear of it)
            opened.set_exception(StoreError(f"journal {self._path}: {error}"))
            return
        opened.set_result(book)
        stop_checkpoints = threading.Event()
        checkpointer = threading.Thread(
            target=self._checkpoint,
            args=(stop_checkpoints,),
            name="journal-checkpoint",
            daemon=True,
        )
        checkpointer.start()
        try:
            while (first := self._work.get()) is not None:
                batch = [first]
                stop = False
                while not self._work.empty() and len(batch) < 64:
                    item = self._work.get()
                    if item is None:
                        stop = True
                        break
                    batch.append(item)
                self._transact(connection, batch)
                if stop:
                    break
        finally:
            stop_checkpoints.set()
            checkpointer.join()
            connection.close()  # the last connection: SQLite folds the rest of the WAL in

    def _checkpoint(self, stop: threading.Event) -> None:
        """Fold the WAL into the file beside the writer: a passive checkpoint never makes a commit wait for it."""
        connection = sqlite3.connect(self._path, isolation_level=None, timeout=5.0)
        try:
            while not stop.wait(CHECKPOINT_EVERY_S):
                try:
                    connection.execute("PRAGMA wal_checkpoint(PASSIVE)").fetchone()
                except sqlite3.Error as error:
                    log.warning("journal checkpoint: %s", error)
        finally:
            connection.close()

    def _connect(self) -> sqlite3.Connection:
        connection = sqlite3.connect(self._path, isolation_level=None, timeout=5.0)
        connection.row_factory = sqlite3.Row
        connection.execute("PRAGMA journal_mode=WAL")
        connection.execute("PRAGMA synchronous=FULL")
        connection.execute("PRAGMA wal_autocheckpoint=0")  # the checkpointer's work, not a signal's
        if connection.execute("PRAGMA synchronous").fetchone()[0] != 2:
            raise StoreError("SQLite refuses synchronous=FULL")
        return connection

    def _prepare(self, connection: sqlite3.Connection) -> str:
        check = connection.execute("PRAGMA quick_check(1)").fetchone()[0]
        if check != "ok":
            raise StoreError(f"SQLite's check says {check!r}; restore a copy or move the file away")
        book = _make_or_migrate(connection)
        _grow_wal(connection)
        return book

    # ---- the thread ------------------------------------------------------------------------------------------

    def _transact(
        self,
        connection: sqlite3.Connection,
        batch: list[tuple[Callable[[sqlite3.Connection], Any], asyncio.Future[Any] | None]],
    ) -> None:
        results: list[tuple[asyncio.Future[Any], Any, BaseException | None]] = []
        failure: BaseException | None = None
        try:
            connection.execute("BEGIN IMMEDIATE")
            for work, future in batch:
                outcome = work(connection)
                if future is not None:
                    results.append((future, outcome, None))
            connection.execute("COMMIT")
        except Exception as error:  # noqa: BLE001 (any failure here means nothing of the batch is durable)
            failure = StoreError(f"journal: {error}")
            with contextlib.suppress(sqlite3.Error):  # whatever it says, nothing of it is durable
                if connection.in_transaction:
                    connection.execute("ROLLBACK")
            results = [(future, None, failure) for _, future in batch if future is not None]
        assert self._loop is not None
        if results or failure:
            try:
                self._loop.call_soon_threadsafe(self._deliver, results, failure)
            except RuntimeError:  # the loop is closed: nobody is left to be told
                log.warning("journal result after the loop was closed")

    def _deliver(
        self,
        results: list[tuple[asyncio.Future[Any], Any, BaseException | None]],
        failure: BaseException | None,
    ) -> None:
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

    async def _do(self, work: Callable[[sqlite3.Connection], T]) -> T:
        if self.failed:
            raise StoreError(self.failed)
        if self._thread is None:
            raise StoreError("the journal is closed")
        future: asyncio.Future[T] = asyncio.get_running_loop().create_future()
        self._work.put((work, future))
        return await future

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
        plan = orjson.dumps(entry.plan)

        def work(connection: sqlite3.Connection) -> SignalEntry | None:
            cursor = connection.execute(
                "INSERT INTO signals (source, id, body_hash, body, origin, received_at, state, code, message, plan, "
                "settled) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?) ON CONFLICT DO NOTHING",
                (
                    entry.source, entry.id, entry.body_hash, entry.body, entry.origin, entry.received_at, entry.state,
                    entry.code, entry.message, plan, int(entry.settled),
                ),
            )  # fmt: skip
            if cursor.rowcount == 1:
                entry.seq = int(cursor.lastrowid or 0)
                return None
            return signal_entry(
                connection.execute(
                    "SELECT * FROM signals WHERE source = ? AND id = ?", (entry.source, entry.id)
                ).fetchone()
            )

        return await self._do(work)

    async def commit_plan(self, entry: SignalEntry) -> None:
        """Replace a signal's state and plan (approval, rejection, forced sends)."""
        plan = orjson.dumps(entry.plan)

        def work(connection: sqlite3.Connection) -> None:
            connection.execute(
                "UPDATE signals SET plan = ?, state = ?, code = ?, message = ?, settled = ? WHERE seq = ?",
                (plan, entry.state, entry.code, entry.message, int(entry.settled), entry.seq),
            )

        await self._do(work)

    async def commit_orders(self, orders: list[Order]) -> None:
        """Write orders made by hand before they leave."""
        rows = [order_row(order) for order in orders]
        await self._do(lambda connection: connection.executemany(PUT_ORDER, rows) and None)

    async def commit_halt(self, scope: str, state: str, reason: str, at: str, by: str) -> None:
        """Write a latch."""
        await self._do(
            lambda connection: (
                connection.execute(
                    "INSERT OR REPLACE INTO halts VALUES (?, ?, ?, ?, ?)",
                    (scope, state, reason, at, by),
                )
                and None
            )
        )

    async def clear_halt(self, scope: str) -> None:
        """Lift a latch."""
        await self._do(
            lambda connection: (
                connection.execute("DELETE FROM halts WHERE scope = ?", (scope,)) and None
            )
        )

    async def commit_command(
        self, command_id: str, at: str, body: dict[str, Any]
    ) -> dict[str, Any] | None:
        """Note a command; return the earlier result when this id has been carried out before."""
        text = orjson.dumps(body)

        def work(connection: sqlite3.Connection) -> dict[str, Any] | None:
            row = connection.execute(
                "SELECT body, result FROM commands WHERE id = ?", (command_id,)
            ).fetchone()
            if row is not None:
                result = orjson.loads(row["result"]) if row["result"] else {"result": "in progress"}
                return {
                    "body": orjson.loads(row["body"]),
                    "result": result,
                    "interrupted": result.get("error") == "INTERRUPTED",
                }
            connection.execute(
                "INSERT INTO commands (id, at, body) VALUES (?, ?, ?)", (command_id, at, text)
            )
            return None

        return await self._do(work)

    # ---- rows that follow the facts ------------------------------------------------------------------------

    def note_order(self, order: Order) -> None:
        """Write the order's newest state soon."""
        self._orders[order.cl_ord_id] = order
        self._soon()

    def note_fill(self, fill: Fill, position: Position) -> None:
        """Write a fill, its order and the position it led to soon, in one transaction."""
        self._fills.append(fill)
        self.note_position(position)

    def note_position(self, position: Position) -> None:
        """Write a position soon."""
        self._positions[position.account, position.symbol] = position
        self._soon()

    def note_settled(self, seq: int) -> None:
        """Mark that every intent of a signal has an order row (written in the same transaction or before)."""
        self._settled.append(seq)
        self._soon()

    def note_trace(self, seq: int, trace: dict[str, Any]) -> None:
        """Write a signal's stage stamps soon."""
        self._traces[seq] = trace
        self._soon()

    def note_day(self, account: str, day: str, baseline: Decimal) -> None:
        """Write the P&L an account's day starts from."""
        values = (account, day, str(baseline))
        self._work.put(
            (
                lambda connection: connection.execute(
                    "INSERT OR IGNORE INTO days VALUES (?, ?, ?)", values
                ),
                None,
            )
        )

    def note_square_off(self, account: str, day: str) -> None:
        """Write the session's date an account has been squared off on."""
        self._work.put(
            (
                lambda connection: connection.execute(
                    "INSERT OR REPLACE INTO square_offs VALUES (?, ?)", (account, day)
                ),
                None,
            )
        )

    def note_result(self, command_id: str, result: dict[str, Any]) -> None:
        """Write a command's result."""
        values = (orjson.dumps(result, default=str), command_id)
        self._work.put(
            (
                lambda connection: connection.execute(
                    "UPDATE commands SET result = ? WHERE id = ?", values
                ),
                None,
            )
        )

    def _soon(self) -> None:
        if self._flush_timer is None and self._loop is not None:
            self._flush_timer = self._loop.call_later(FLUSH_AFTER_S, self._flush)

    def _flush(self) -> None:
        if self._flush_timer is not None:
            self._flush_timer.cancel()
            self._flush_timer = None
        # Rows are made here, on the loop, so that the thread never reads an object that is changing.
        # Sorted by key: neighbours are written into the same pages.
        orders = sorted(map(order_row, self._orders.values()), key=itemgetter(0))
        fills = sorted(
            (f.account, f.exec_id, f.cl_ord_id, f.symbol, f.side._value_, to_text(f.last_qty), str(f.last_px),
             rfc3339(f.at), f.strategy, f.source, f.signal_id, to_text(f.fee_qty))
            for f in self._fills
        )  # fmt: skip
        now = rfc3339(datetime.now().astimezone())
        positions = [position_row(self._positions[key], now) for key in sorted(self._positions)]
        settled = [(seq,) for seq in self._settled]
        traces = [(orjson.dumps(trace), seq) for seq, trace in self._traces.items()]
        for pending in (
            self._orders,
            self._fills,
            self._positions,
            self._settled,
            self._traces,
        ):
            pending.clear()

        def work(connection: sqlite3.Connection) -> None:
            connection.executemany(PUT_ORDER, orders)
            connection.executemany(
                "INSERT OR IGNORE INTO fills VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)", fills
            )
            connection.executemany(PUT_POSITION, positions)
            connection.executemany("UPDATE signals SET settled = 1 WHERE seq = ?", settled)
            connection.executemany("UPDATE signals SET trace = ? WHERE seq = ?", traces)

        if orders or fills or positions or settled or traces:
            self._work.put((work, None))

    async def flushed(self) -> None:
        """Return once everything noted so far is durable."""
        self._flush()
        await self._do(lambda _connection: None)

    # ---- reading ---------------------------------------------------------------------------------------------

    async def load(self) -> LoadedState:
        """Read what the engine needs to go on after a restart."""
        return await self._read(load_state)

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

    async def page(
        self, table: str, where: dict[str, str], limit: int, after: str | None
    ) -> list[dict[str, Any]]:
        """Read rows newest first; ``after`` is the ``cursor`` of the last row of the page before."""
        return await self._read(lambda connection: page_of(connection, table, where, limit, after))
