"""The journal: SQLite in the home, the one durable truth about signals, intents, orders, fills and latches.

WAL with ``synchronous=FULL``: a commit that returned survives a power cut
(https://www.sqlite.org/pragma.html#pragma_synchronous). All work happens in one thread of the journal's own; the
engine's loop only hands it work. Two kinds of work: what must be durable before anything follows (``commit_*``,
awaited), and rows that follow the facts (``note_*``, gathered and written a few milliseconds later in one
transaction; whatever a crash takes of them, the brokers are asked for again).
"""

from __future__ import annotations

import asyncio
import logging
import sqlite3
import threading
from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import dataclass
from datetime import datetime
from decimal import Decimal
from pathlib import Path
from queue import SimpleQueue
from typing import Any, TypeVar

import orjson

from engine.clock import rfc3339
from engine.errors import StoreError
from engine.model.enums import OrderStatus, OrderType, Side, TimeInForce
from engine.model.messages import Fill
from engine.model.numbers import to_text
from engine.model.order import Order
from engine.model.position import Position

log = logging.getLogger(__name__)
T = TypeVar("T")

SCHEMA_VERSION = 1
FLUSH_AFTER_S = 0.05

_SCHEMA = """
CREATE TABLE IF NOT EXISTS meta (key TEXT PRIMARY KEY, value TEXT NOT NULL) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS signals (
    seq INTEGER PRIMARY KEY, source TEXT NOT NULL, id TEXT NOT NULL, body_hash TEXT NOT NULL, body BLOB NOT NULL,
    origin TEXT NOT NULL, received_at TEXT NOT NULL, state TEXT NOT NULL, code TEXT NOT NULL, message TEXT NOT NULL,
    plan BLOB NOT NULL, trace BLOB, settled INTEGER NOT NULL DEFAULT 0, UNIQUE (source, id));
CREATE INDEX IF NOT EXISTS signals_open ON signals (settled) WHERE settled = 0;
CREATE TABLE IF NOT EXISTS orders (
    cl_ord_id TEXT PRIMARY KEY, account TEXT NOT NULL, symbol TEXT NOT NULL, side TEXT NOT NULL,
    order_type TEXT NOT NULL, time_in_force TEXT NOT NULL, order_qty TEXT NOT NULL, limit_price TEXT,
    stop_price TEXT, status TEXT NOT NULL, working INTEGER NOT NULL, cum_qty TEXT NOT NULL, cash TEXT NOT NULL,
    order_id TEXT NOT NULL, code TEXT NOT NULL, text TEXT NOT NULL, strategy TEXT NOT NULL, source TEXT NOT NULL,
    signal_id TEXT NOT NULL, leg TEXT NOT NULL, reducing INTEGER NOT NULL, created_at TEXT NOT NULL,
    updated_at TEXT NOT NULL, send_us INTEGER, ack_us INTEGER) WITHOUT ROWID;
CREATE INDEX IF NOT EXISTS orders_working ON orders (working) WHERE working = 1;
CREATE INDEX IF NOT EXISTS orders_signal ON orders (source, signal_id);
CREATE INDEX IF NOT EXISTS orders_time ON orders (created_at);
CREATE TABLE IF NOT EXISTS fills (
    account TEXT NOT NULL, exec_id TEXT NOT NULL, cl_ord_id TEXT NOT NULL, symbol TEXT NOT NULL, side TEXT NOT NULL,
    last_qty TEXT NOT NULL, last_px TEXT NOT NULL, at TEXT NOT NULL, strategy TEXT NOT NULL, source TEXT NOT NULL,
    signal_id TEXT NOT NULL, PRIMARY KEY (account, exec_id)) WITHOUT ROWID;
CREATE INDEX IF NOT EXISTS fills_order ON fills (cl_ord_id);
CREATE INDEX IF NOT EXISTS fills_time ON fills (at);
CREATE TABLE IF NOT EXISTS positions (
    account TEXT NOT NULL, symbol TEXT NOT NULL, qty TEXT NOT NULL, cash TEXT NOT NULL, cost TEXT NOT NULL,
    stop_loss TEXT, take_profit TEXT, updated_at TEXT NOT NULL, PRIMARY KEY (account, symbol)) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS halts (
    scope TEXT PRIMARY KEY, state TEXT NOT NULL, reason TEXT NOT NULL, at TEXT NOT NULL, by TEXT NOT NULL)
    WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS days (
    account TEXT NOT NULL, day TEXT NOT NULL, baseline TEXT NOT NULL, PRIMARY KEY (account, day)) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS commands (
    id TEXT PRIMARY KEY, at TEXT NOT NULL, body BLOB NOT NULL, result BLOB) WITHOUT ROWID;
"""

_ORDER_COLUMNS = (
    "cl_ord_id", "account", "symbol", "side", "order_type", "time_in_force", "order_qty", "limit_price",
    "stop_price", "status", "working", "cum_qty", "cash", "order_id", "code", "text", "strategy", "source",
    "signal_id", "leg", "reducing", "created_at", "updated_at", "send_us", "ack_us",
)  # fmt: skip
_PUT_ORDER = (
    f"INSERT INTO orders ({', '.join(_ORDER_COLUMNS)}) VALUES ({', '.join('?' * len(_ORDER_COLUMNS))}) "  # noqa: S608 (our own names)
    "ON CONFLICT (cl_ord_id) DO UPDATE SET status = excluded.status, working = excluded.working, "
    "order_qty = excluded.order_qty, limit_price = excluded.limit_price, stop_price = excluded.stop_price, "
    "cum_qty = excluded.cum_qty, cash = excluded.cash, order_id = excluded.order_id, code = excluded.code, "
    "text = excluded.text, updated_at = excluded.updated_at, send_us = excluded.send_us, ack_us = excluded.ack_us"
)


@dataclass(slots=True)
class SignalEntry:
    """One row of ``signals``. ``plan`` and ``trace`` are JSON objects (engine.planner says what is in them)."""

    source: str
    id: str
    body_hash: str
    body: bytes
    origin: str
    received_at: str
    state: str
    code: str
    message: str
    plan: dict[str, Any]
    trace: dict[str, Any] | None = None
    settled: bool = False
    seq: int = 0


def _text(value: Decimal | None) -> str | None:
    return None if value is None else to_text(value)


def _order_row(order: Order) -> tuple[Any, ...]:
    return (
        order.cl_ord_id, order.account, order.symbol, order.side._value_, order.order_type._value_,
        order.time_in_force._value_, to_text(order.order_qty), _text(order.limit_price), _text(order.stop_price),
        order.status._value_, int(order.status.working), to_text(order.cum_qty), str(order.cash), order.order_id,
        order.code, order.text[:500], order.strategy, order.source, order.signal_id, order.leg, int(order.reducing),
        rfc3339(order.created_at), rfc3339(order.updated_at),
        (order.last_byte_ns - order.planned_ns) // 1000 if order.last_byte_ns and order.planned_ns else None,
        (order.acked_ns - order.last_byte_ns) // 1000 if order.acked_ns and order.last_byte_ns else None,
    )  # fmt: skip


def order_from_row(row: sqlite3.Row) -> Order:
    """Rebuild an order as it was last written; its fills' ids come from the fills table."""
    order = Order(
        cl_ord_id=row["cl_ord_id"],
        account=row["account"],
        symbol=row["symbol"],
        side=Side(row["side"]),
        order_qty=Decimal(row["order_qty"]),
        order_type=OrderType(row["order_type"]),
        time_in_force=TimeInForce(row["time_in_force"]),
        created_at=datetime.fromisoformat(row["created_at"]),
        limit_price=Decimal(row["limit_price"]) if row["limit_price"] else None,
        stop_price=Decimal(row["stop_price"]) if row["stop_price"] else None,
        source=row["source"],
        signal_id=row["signal_id"],
        strategy=row["strategy"],
        leg=row["leg"],
        reducing=bool(row["reducing"]),
    )
    order.status = OrderStatus(row["status"])
    order.cum_qty = Decimal(row["cum_qty"])
    order.cash = Decimal(row["cash"])
    order.order_id = row["order_id"]
    order.code = row["code"]
    order.text = row["text"]
    order.updated_at = datetime.fromisoformat(row["updated_at"])
    return order


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
        self._states: dict[int, tuple[str, str, str]] = {}
        self.failed: str = (
            ""  # why the journal can no longer be trusted; non-empty stops all sending
        )
        self.on_failure: Callable[[str], None] = lambda _text: None
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
        except (sqlite3.Error, StoreError) as error:
            opened.set_exception(StoreError(f"journal {self._path}: {error}"))
            return
        opened.set_result(book)
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
            connection.close()

    def _connect(self) -> sqlite3.Connection:
        connection = sqlite3.connect(self._path, isolation_level=None, timeout=5.0)
        connection.row_factory = sqlite3.Row
        connection.execute("PRAGMA journal_mode=WAL")
        connection.execute("PRAGMA synchronous=FULL")
        connection.execute("PRAGMA wal_autocheckpoint=2000")
        if connection.execute("PRAGMA synchronous").fetchone()[0] != 2:
            raise StoreError("SQLite refuses synchronous=FULL")
        return connection

    def _prepare(self, connection: sqlite3.Connection) -> str:
        check = connection.execute("PRAGMA quick_check(1)").fetchone()[0]
        if check != "ok":
            raise StoreError(f"SQLite's check says {check!r}; restore a copy or move the file away")
        connection.executescript(f"BEGIN; {_SCHEMA} COMMIT;")
        meta = dict(connection.execute("SELECT key, value FROM meta").fetchall())
        version = int(meta.get("schema", SCHEMA_VERSION))
        if version != SCHEMA_VERSION:
            raise StoreError(
                f"its schema is version {version}, this build reads version {SCHEMA_VERSION}"
            )
        book = meta.get("book")
        if not book:
            book = connection.execute("SELECT lower(hex(randomblob(8)))").fetchone()[0]
            connection.execute(
                "INSERT INTO meta VALUES ('schema', ?), ('book', ?)", (str(SCHEMA_VERSION), book)
            )
        return str(book)

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
        future: asyncio.Future[T] = asyncio.get_running_loop().create_future()
        self._work.put((work, future))
        return await future

    async def _read(self, work: Callable[[sqlite3.Connection], T]) -> T:
        """Run a query; its failure is the asker's alone and says nothing about the writes around it."""

        def guarded(connection: sqlite3.Connection) -> T | StoreError:
            try:
                return work(connection)
            except (sqlite3.Error, ValueError) as error:
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
            return _entry(
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

    async def commit_order(self, order: Order) -> None:
        """Write one order made by hand (close, replace, resend) before it leaves."""
        await self.commit_orders([order])

    async def commit_orders(self, orders: list[Order]) -> None:
        """Write orders made by hand before they leave."""
        rows = [_order_row(order) for order in orders]
        await self._do(lambda connection: connection.executemany(_PUT_ORDER, rows) and None)

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
                return {"body": orjson.loads(row["body"]), "result": result}
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

    def note_state(self, seq: int, state: str, code: str, message: str) -> None:
        """Write a signal's state soon."""
        self._states[seq] = (state, code, message)
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
        orders = [_order_row(order) for order in self._orders.values()]
        fills = [
            (f.account, f.exec_id, f.cl_ord_id, f.symbol, f.side._value_, to_text(f.last_qty), str(f.last_px),
             rfc3339(f.at), f.strategy, f.source, f.signal_id)
            for f in self._fills
        ]  # fmt: skip
        now = rfc3339(datetime.now().astimezone())
        positions = [
            (p.account, p.symbol, to_text(p.qty), str(p.cash), str(p.cost), _text(p.stop_loss),
             _text(p.take_profit), now)
            for p in self._positions.values()
        ]  # fmt: skip
        settled = [(seq,) for seq in self._settled]
        traces = [(orjson.dumps(trace), seq) for seq, trace in self._traces.items()]
        states = [(*state, seq) for seq, state in self._states.items()]
        for pending in (
            self._orders,
            self._fills,
            self._positions,
            self._settled,
            self._traces,
            self._states,
        ):
            pending.clear()

        def work(connection: sqlite3.Connection) -> None:
            connection.executemany(_PUT_ORDER, orders)
            connection.executemany(
                "INSERT OR IGNORE INTO fills VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)", fills
            )
            connection.executemany(
                "INSERT OR REPLACE INTO positions VALUES (?, ?, ?, ?, ?, ?, ?, ?)", positions
            )
            connection.executemany("UPDATE signals SET settled = 1 WHERE seq = ?", settled)
            connection.executemany("UPDATE signals SET trace = ? WHERE seq = ?", traces)
            connection.executemany(
                "UPDATE signals SET state = ?, code = ?, message = ? WHERE seq = ?", states
            )

        if orders or fills or positions or settled or traces or states:
            self._work.put((work, None))

    async def flushed(self) -> None:
        """Return once everything noted so far is durable."""
        self._flush()
        await self._do(lambda _connection: None)

    # ---- reading ---------------------------------------------------------------------------------------------

    async def load(self) -> LoadedState:
        """Read what the engine needs to go on after a restart."""
        return await self._read(_load)

    async def signal(self, source: str, signal_id: str) -> SignalEntry | None:
        """Read one signal."""

        def work(connection: sqlite3.Connection) -> SignalEntry | None:
            row = connection.execute(
                "SELECT * FROM signals WHERE source = ? AND id = ?", (source, signal_id)
            ).fetchone()
            return None if row is None else _entry(row)

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
        return await self._read(lambda connection: _page(connection, table, where, limit, after))


@dataclass(slots=True)
class LoadedState:
    """Everything a restart needs."""

    signals: list[SignalEntry]  # newest last; at least every one that is held or not settled
    orders: list[Order]  # working ones with their exec_ids, and the newest others
    fills: list[Fill]  # the newest
    positions: list[Position]
    halts: list[dict[str, str]]
    days: list[tuple[str, str, Decimal]]
    counts: dict[str, int]


def _entry(row: sqlite3.Row) -> SignalEntry:
    return SignalEntry(
        source=row["source"],
        id=row["id"],
        body_hash=row["body_hash"],
        body=row["body"],
        origin=row["origin"],
        received_at=row["received_at"],
        state=row["state"],
        code=row["code"],
        message=row["message"],
        plan=orjson.loads(row["plan"]),
        trace=orjson.loads(row["trace"]) if row["trace"] else None,
        settled=bool(row["settled"]),
        seq=row["seq"],
    )


def _fill_from(row: sqlite3.Row) -> Fill:
    return Fill(
        account=row["account"],
        exec_id=row["exec_id"],
        cl_ord_id=row["cl_ord_id"],
        symbol=row["symbol"],
        side=Side(row["side"]),
        last_qty=Decimal(row["last_qty"]),
        last_px=Decimal(row["last_px"]),
        at=datetime.fromisoformat(row["at"]),
        strategy=row["strategy"],
        source=row["source"],
        signal_id=row["signal_id"],
    )


def _position_from(row: sqlite3.Row) -> Position:
    position = Position(row["account"], row["symbol"])
    position.qty, position.cash, position.cost = (
        Decimal(row["qty"]),
        Decimal(row["cash"]),
        Decimal(row["cost"]),
    )
    position.stop_loss = Decimal(row["stop_loss"]) if row["stop_loss"] else None
    position.take_profit = Decimal(row["take_profit"]) if row["take_profit"] else None
    return position


def _load(connection: sqlite3.Connection) -> LoadedState:
    signals = connection.execute(
        "SELECT * FROM signals WHERE settled = 0 OR state = 'held' "
        "OR seq > (SELECT coalesce(max(seq), 0) FROM signals) - 2000 ORDER BY seq"
    ).fetchall()
    orders = [
        order_from_row(row) for row in connection.execute("SELECT * FROM orders WHERE working = 1")
    ]
    for order in orders:
        order.restore_fills(
            r[0]
            for r in connection.execute(
                "SELECT exec_id FROM fills WHERE cl_ord_id = ?", (order.cl_ord_id,)
            )
        )
    recent = connection.execute(
        "SELECT * FROM orders WHERE working = 0 ORDER BY created_at DESC LIMIT 3000"
    ).fetchall()
    fills = connection.execute("SELECT * FROM fills ORDER BY at DESC LIMIT 2000").fetchall()
    return LoadedState(
        signals=[_entry(row) for row in signals],
        orders=[order_from_row(row) for row in reversed(recent)] + orders,
        fills=[_fill_from(row) for row in reversed(fills)],
        positions=[_position_from(row) for row in connection.execute("SELECT * FROM positions")],
        halts=[dict(row) for row in connection.execute("SELECT * FROM halts")],
        days=[
            (row["account"], row["day"], Decimal(row["baseline"]))
            for row in connection.execute(
                "SELECT account, max(day) AS day, baseline FROM days GROUP BY account"
            )
        ],
        counts={
            table: connection.execute(f"SELECT count(*) FROM {table}").fetchone()[0]  # noqa: S608
            for table in ("signals", "orders", "fills")
        },
    )


_PAGES: dict[str, tuple[str, str, dict[str, str]]] = {
    # table: (order column, unique column that breaks ties, columns one may filter by)
    "signals": ("seq", "seq", {"status": "state"}),
    "orders": (
        "created_at",
        "cl_ord_id",
        {"account": "account", "symbol": "symbol", "status": "status"},
    ),
    "fills": ("at", "exec_id", {"account": "account", "symbol": "symbol"}),
}


def _page(
    connection: sqlite3.Connection, table: str, where: dict[str, str], limit: int, after: str | None
) -> list[dict[str, Any]]:
    order, tie, columns = _PAGES[table]
    clauses: list[str] = []
    values: list[Any] = []
    for name, value in where.items():
        column = columns.get(name)
        if column:
            clauses.append(f"{column} = ?")
            values.append(value)
        elif table == "signals" and name == "symbol":
            clauses.append("json_extract(CAST(body AS TEXT), '$.symbol') = ?")
            values.append(value)
    if after:
        head, _, tail = after.partition("|")
        if table == "signals":
            clauses.append("seq < ?")
            values.append(int(head) if head.isdigit() else 0)
        else:
            clauses.append(f"({order}, {tie}) < (?, ?)")
            values += [head, tail]
    condition = f"WHERE {' AND '.join(clauses)}" if clauses else ""
    rows = connection.execute(
        f"SELECT * FROM {table} {condition} ORDER BY {order} DESC, {tie} DESC LIMIT ?",  # noqa: S608 (our own names)
        (*values, limit),
    ).fetchall()
    return [{**dict(row), "cursor": f"{row[order]}|{row[tie]}"} for row in rows]
