"""The journal's tables: what a row of each holds, how objects become rows and rows objects."""

from __future__ import annotations

import sqlite3
from dataclasses import dataclass, field
from datetime import datetime
from decimal import Decimal
from typing import Any

import orjson

from engine.clock import rfc3339
from engine.model.enums import OrderStatus, OrderType, Side, TimeInForce
from engine.model.messages import Fill
from engine.model.numbers import to_text
from engine.model.order import Order
from engine.model.position import Position

MOST_DONE = 3_000  # finished orders that a restart brings back into memory

ORDER_COLUMNS = (
    "cl_ord_id", "account", "symbol", "side", "order_type", "time_in_force", "order_qty", "limit_price",
    "stop_price", "status", "working", "cum_qty", "cash", "order_id", "code", "text", "strategy", "source",
    "signal_id", "leg", "reducing", "created_at", "updated_at", "send_us", "ack_us", "stop_loss", "take_profit",
    "trail_percent", "parent",
)  # fmt: skip
_POSITION_COLUMNS = (
    "account", "symbol", "qty", "cash", "cost", "stop_loss", "take_profit", "trail_percent", "best", "native",
    "generation", "source", "signal_id", "strategy", "updated_at",
)  # fmt: skip
PUT_POSITION = (
    f"INSERT OR REPLACE INTO positions ({', '.join(_POSITION_COLUMNS)}) "  # noqa: S608 (our own names)
    f"VALUES ({', '.join('?' * len(_POSITION_COLUMNS))})"
)
PUT_COMMAND = "INSERT OR IGNORE INTO commands (id, at, body) VALUES (?, ?, ?)"
PUT_ORDER = (
    f"INSERT INTO orders ({', '.join(ORDER_COLUMNS)}) VALUES ({', '.join('?' * len(ORDER_COLUMNS))}) "  # noqa: S608 (our own names)
    "ON CONFLICT (cl_ord_id) DO UPDATE SET status = excluded.status, working = excluded.working, "
    "order_qty = excluded.order_qty, limit_price = excluded.limit_price, stop_price = excluded.stop_price, "
    "cum_qty = excluded.cum_qty, cash = excluded.cash, order_id = excluded.order_id, code = excluded.code, "
    "text = excluded.text, updated_at = excluded.updated_at, "
    # Stamps of a process that is gone are kept: the next one knows them no more.
    "send_us = coalesce(excluded.send_us, send_us), ack_us = coalesce(excluded.ack_us, ack_us)"
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


def number_text(value: Decimal | None) -> str | None:
    """Write an exact number, or nothing."""
    return None if value is None else to_text(value)


def order_row(order: Order) -> tuple[Any, ...]:
    """Return an order's row as it is now."""
    return (
        order.cl_ord_id, order.account, order.symbol, order.side._value_, order.order_type._value_,
        order.time_in_force._value_, to_text(order.order_qty), number_text(order.limit_price),
        number_text(order.stop_price), order.status._value_, int(order.status.working),
        to_text(order.cum_qty), str(order.cash), order.order_id, order.code, order.text[:500], order.strategy,
        order.source, order.signal_id, order.leg, int(order.reducing), rfc3339(order.created_at),
        rfc3339(order.updated_at),
        (order.last_byte_ns - order.planned_ns) // 1000 if order.last_byte_ns and order.planned_ns else None,
        (order.acked_ns - order.last_byte_ns) // 1000 if order.acked_ns and order.last_byte_ns else None,
        number_text(order.stop_loss), number_text(order.take_profit), number_text(order.trail_percent),
        order.parent,
    )  # fmt: skip


def position_row(position: Position, at: str) -> tuple[Any, ...]:
    """Return a position's row as it is now."""
    p = position
    return (
        p.account, p.symbol, to_text(p.qty), str(p.cash), str(p.cost), number_text(p.stop_loss),
        number_text(p.take_profit), number_text(p.trail_percent), number_text(p.best), int(p.native),
        p.generation, p.source, p.signal_id, p.strategy, at,
    )  # fmt: skip


def _number(text: str | None) -> Decimal | None:
    return Decimal(text) if text else None


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
        limit_price=_number(row["limit_price"]),
        stop_price=_number(row["stop_price"]),
        source=row["source"],
        signal_id=row["signal_id"],
        strategy=row["strategy"],
        leg=row["leg"],
        reducing=bool(row["reducing"]),
        stop_loss=_number(row["stop_loss"]),
        take_profit=_number(row["take_profit"]),
        trail_percent=_number(row["trail_percent"]),
        parent=row["parent"],
    )
    order.status = OrderStatus(row["status"])
    order.cum_qty = Decimal(row["cum_qty"])
    order.cash = Decimal(row["cash"])
    order.order_id = row["order_id"]
    order.code = row["code"]
    order.text = row["text"]
    order.updated_at = datetime.fromisoformat(row["updated_at"])
    return order


@dataclass(slots=True)
class LoadedState:
    """Everything a restart needs."""

    signals: list[SignalEntry]  # newest last; at least every one that is held or not settled
    orders: list[Order]  # working ones with their exec_ids, and the newest others
    fills: list[Fill]  # the newest
    positions: list[Position]
    halts: list[dict[str, str]]
    days: list[tuple[str, str, Decimal]]
    square_offs: dict[str, str]  # account → the last session's date it was squared off on
    counts: dict[str, int]
    facts: dict[str, dict[str, Any]] = field(default_factory=dict)  # kind → key → value


def signal_entry(row: sqlite3.Row) -> SignalEntry:
    """Rebuild a signal's entry."""
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


def fill_from_row(row: sqlite3.Row) -> Fill:
    """Rebuild a fill."""
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
        fee_qty=Decimal(row["fee_qty"]),
    )


def position_from_row(row: sqlite3.Row) -> Position:
    """Rebuild a position."""
    position = Position(row["account"], row["symbol"])
    position.qty, position.cash, position.cost = (
        Decimal(row["qty"]),
        Decimal(row["cash"]),
        Decimal(row["cost"]),
    )
    for name in ("stop_loss", "take_profit", "trail_percent", "best"):
        setattr(position, name, _number(row[name]))
    for name in ("generation", "source", "signal_id", "strategy"):
        setattr(position, name, row[name])
    position.native = bool(row["native"])
    return position


def load_state(connection: sqlite3.Connection) -> LoadedState:
    """Read everything a restart needs."""
    # Commands that a crash cut short: nobody carries them out any more.
    connection.execute(
        "UPDATE commands SET result = ? WHERE result IS NULL",
        (
            orjson.dumps(
                {
                    "error": "INTERRUPTED",
                    "message": "the engine stopped while it was carried out: look before you repeat it",
                    "status": 409,
                }
            ),
        ),
    )
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
    # A signal whose intents are not all noted, or that is held, is gone through order by order.
    touched = connection.execute(
        "SELECT o.* FROM signals s JOIN orders o ON o.source = s.source AND o.signal_id = s.id "
        "WHERE (s.settled = 0 OR s.state = 'held') AND o.working = 0"
    ).fetchall()
    recent = [
        order_from_row(row)
        for row in connection.execute(
            "SELECT * FROM orders WHERE working = 0 ORDER BY created_at DESC LIMIT ?", (MOST_DONE,)
        )
    ]
    known = {order.cl_ord_id for order in recent}
    recent += [order_from_row(row) for row in touched if row["cl_ord_id"] not in known]
    # A broker may tell an execution again long after its order is done.
    told = dict[str, list[str]]()
    for row in connection.execute(
        "SELECT cl_ord_id, exec_id FROM fills WHERE cl_ord_id IN (SELECT value FROM json_each(?))",
        (orjson.dumps([order.cl_ord_id for order in recent]).decode("ascii"),),
    ):
        told.setdefault(row["cl_ord_id"], []).append(row["exec_id"])
    for order in recent:
        order.restore_fills(told.get(order.cl_ord_id, ()))
    fills = connection.execute("SELECT * FROM fills ORDER BY at DESC LIMIT 2000").fetchall()
    return LoadedState(
        signals=[signal_entry(row) for row in signals],
        orders=recent[::-1] + orders,
        fills=[fill_from_row(row) for row in reversed(fills)],
        positions=[position_from_row(row) for row in connection.execute("SELECT * FROM positions")],
        halts=[dict(row) for row in connection.execute("SELECT * FROM halts")],
        days=[
            (row["account"], row["day"], Decimal(row["baseline"]))
            for row in connection.execute(
                "SELECT account, max(day) AS day, baseline FROM days GROUP BY account"
            )
        ],
        square_offs=dict(connection.execute("SELECT account, day FROM square_offs").fetchall()),
        counts={
            table: connection.execute(f"SELECT count(*) FROM {table}").fetchone()[0]  # noqa: S608
            for table in ("signals", "orders", "fills")
        },
        facts=_facts(connection),
    )


def _facts(connection: sqlite3.Connection) -> dict[str, dict[str, Any]]:
    found: dict[str, dict[str, Any]] = {}
    for row in connection.execute("SELECT kind, key, value FROM facts"):
        found.setdefault(row["kind"], {})[row["key"]] = orjson.loads(row["value"])
    return found


_PAGES: dict[str, tuple[str, str, dict[str, str]]] = {
    # table: (order column, unique column that breaks ties, columns one may filter by)
    "signals": ("seq", "seq", {"status": "state"}),
    "orders": (
        "created_at",
        "cl_ord_id",
        {"account": "account", "symbol": "symbol", "status": "status"},
    ),
    # An execution's id is unique in its account only.
    "fills": ("at", "account || '/' || exec_id", {"account": "account", "symbol": "symbol"}),
}


def page_of(
    connection: sqlite3.Connection, table: str, where: dict[str, str], limit: int, after: str | None
) -> list[dict[str, Any]]:
    """Read a page of a table, newest first; each row with the ``cursor`` the next page begins after."""
    order, tie, columns = _PAGES[table]
    clauses: list[str] = []
    values: list[Any] = []
    for name, value in where.items():
        column = columns.get(name)
        if column:
            clauses.append(f"{column} = ?")
            values.append(value)
        elif table == "signals" and name == "account":
            clauses.append(
                "EXISTS (SELECT 1 FROM orders o WHERE o.source = signals.source "
                "AND o.signal_id = signals.id AND o.account = ?)"
            )
            values.append(value)
        elif table == "signals" and name == "symbol":
            clauses.append("json_extract(CAST(body AS TEXT), '$.symbol') = ?")
            values.append(value)
    if after:
        clause, place = _behind(table, after)
        clauses.append(clause)
        values += place
    condition = f"WHERE {' AND '.join(clauses)}" if clauses else ""
    rows = connection.execute(
        f"SELECT *, {tie} AS tie FROM {table} {condition} ORDER BY {order} DESC, tie DESC LIMIT ?",  # noqa: S608 (our own names)
        (*values, limit),
    ).fetchall()
    page = []
    for row in rows:
        item = dict(row)
        item["cursor"] = f"{row[order]}|{item.pop('tie')}"
        page.append(item)
    return page


def _behind(table: str, after: str) -> tuple[str, list[Any]]:
    """Return what holds for the rows behind ``after``: a cursor, or the key of a row; behind an unknown one is none."""
    order, tie, _ = _PAGES[table]
    head, cut, tail = after.partition("|")
    is_cursor = cut and "/" not in head  # an execution's id may hold a bar, too
    if is_cursor and table == "signals":
        return "seq < ?", [min(int(head), 2**62) if head.isascii() and head.isdigit() else 0]
    if is_cursor:
        return f"({order}, {tie}) < (?, ?)", [head, tail]
    if table == "orders":
        key, values = "cl_ord_id = ?", [after]
    else:
        name = "source = ? AND id = ?" if table == "signals" else "account = ? AND exec_id = ?"
        owner, _, identifier = after.partition("/")
        key, values = name, [owner, identifier]
    row = f"SELECT {order}, {tie} FROM {table} WHERE {key}"  # noqa: S608 (our own names)
    return f"({order}, {tie}) < ({row})", values


def command_row(connection: sqlite3.Connection, command_id: str) -> dict[str, Any] | None:
    """Read what came of a command, if it was given before."""
    row = connection.execute(
        "SELECT body, result FROM commands WHERE id = ?", (command_id,)
    ).fetchone()
    if row is None:
        return None
    result = orjson.loads(row["result"]) if row["result"] else {"result": "in progress"}
    return {
        "body": orjson.loads(row["body"]),
        "result": result,
        "interrupted": result.get("error") == "INTERRUPTED",
    }
