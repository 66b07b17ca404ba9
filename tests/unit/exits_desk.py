"""A desk for tests of exits: the engine's own parts over a broker that is a dictionary, and a journal in memory.

Everything is synchronous. The broker acts at once; what it tells waits in ``mail`` until ``deliver`` is called. What
the engine notes is in the journal once ``flush`` is called; what it commits is there at once.
"""

from __future__ import annotations

import sqlite3
from collections import deque
from contextlib import suppress
from dataclasses import dataclass, field
from decimal import Decimal
from typing import Any

from engine.execution.closing import Closing
from engine.execution.order_manager import OrderManager
from engine.execution.protective_exits import ProtectiveExits
from engine.model.enums import ExecType, OrderStatus, OrderType
from engine.model.identifiers import OPERATOR, exit_leg_id
from engine.model.messages import ExecutionReport, Fill, Quote
from engine.model.numbers import ZERO
from engine.model.order import Order
from engine.model.position import Levels, Position
from engine.portfolio.marks import Marks
from engine.portfolio.position_keeper import PositionKeeper
from engine.stores import journal_rows as rows
from engine.stores.journal_schema import SCHEMA
from tests.helpers import CAPABILITIES, HandClock, make_account, make_order, make_state

D = Decimal
SYMBOL = "AAPL"


@dataclass
class Held:
    """An order at the broker."""

    order: Order
    quantity: Decimal
    is_exit: bool
    filled: Decimal = ZERO
    status: OrderStatus = OrderStatus.NEW
    sibling: str = ""


class Broker:
    """One account's book. It nets: whatever fills moves the position, past zero too."""

    def __init__(self) -> None:
        self.orders: dict[str, Held] = {}
        self.mail: deque[ExecutionReport] = deque()
        self.native: set[str] = set()
        self.deaf = False  # takes orders, and answers nothing
        self.gone = False  # takes nothing, and answers nothing
        self.refuses = ""
        self.position = D(0)
        self.fills = 0

    def take(self, order: Order) -> None:
        order.first_byte_ns = order.last_byte_ns = 1
        assert order.cl_ord_id not in self.orders, "the same order twice"
        if self.gone:
            return self.say(order, ExecType.UNKNOWN, OrderStatus.UNKNOWN)
        if self.refuses:
            return self.say(order, ExecType.REJECTED, OrderStatus.REJECTED, text=self.refuses)
        self.orders[order.cl_ord_id] = Held(order, order.order_qty, order.reducing)
        if self.deaf:
            return self.say(order, ExecType.UNKNOWN, OrderStatus.UNKNOWN)
        self.say(order, ExecType.NEW, OrderStatus.NEW, order_id=f"b-{order.cl_ord_id}")
        return None

    def bracket(self, entry: Order) -> None:
        """Make the exits an entry carries."""
        ids = {leg: exit_leg_id(entry.cl_ord_id, leg) for leg in ("stop", "target")}
        for leg, price in (("stop", entry.stop_loss), ("target", entry.take_profit)):
            other = ids["target" if leg == "stop" else "stop"]
            name = ids[leg]
            if price is None:
                continue
            kind = OrderType.STOP if leg == "stop" else OrderType.LIMIT
            made = make_order(
                name, entry.side.opposite.value, str(entry.order_qty), order_type=kind
            )
            self.orders[name] = Held(made, entry.order_qty, is_exit=True, sibling=other)
        self.mail.extend(self.legs(entry))

    def legs(self, entry: Order) -> list[ExecutionReport]:
        """Tell of the exits made along with an entry, as they are now."""
        told = []
        for leg in ("stop", "target"):
            name = exit_leg_id(entry.cl_ord_id, leg)
            if (held := self.orders.get(name)) is not None:
                told.append(
                    ExecutionReport(
                        entry.account, name, ExecType.STATUS, held.status, order_id=f"b-{name}",
                        side=held.order.side, order_type=held.order.order_type, order_qty=held.order.order_qty,
                        stop_price=entry.stop_loss if leg == "stop" else None, symbol=SYMBOL,
                        limit_price=entry.take_profit if leg == "target" else None,
                        cum_qty=held.filled, avg_px=D(100) if held.filled else None,
                        parent=entry.cl_ord_id, leg=leg,
                    )
                )  # fmt: skip
        return told

    def fill(self, name: str, quantity: Decimal | None = None, price: str = "100") -> None:
        held = self.orders[name]
        assert held.status is OrderStatus.NEW
        quantity = min(quantity or held.quantity, held.quantity - held.filled)
        held.filled += quantity
        self.fills += 1
        self.position += quantity * held.order.side.sign
        if held.filled == held.quantity:
            held.status = OrderStatus.FILLED
        self.mail.append(
            ExecutionReport(
                "A-1", name, ExecType.TRADE, exec_id=f"x{self.fills}", last_qty=quantity,
                last_px=D(price), cum_qty=held.filled,
            )
        )  # fmt: skip
        sibling = self.orders.get(held.sibling)
        if sibling is not None and sibling.status is OrderStatus.NEW:
            if held.status is OrderStatus.FILLED:
                self.end(held.sibling)
            else:
                sibling.quantity = held.quantity - held.filled

    def end(self, name: str, exec_type: ExecType = ExecType.CANCELED) -> None:
        held = self.orders[name]
        held.status = OrderStatus(exec_type.value)
        self.mail.append(ExecutionReport("A-1", name, exec_type, held.status))

    def cancel(self, order: Order) -> None:
        held = self.orders.get(order.cl_ord_id)
        if held is None or held.status is not OrderStatus.NEW:
            self.say(order, ExecType.CANCEL_REJECTED)
            return
        self.end(order.cl_ord_id)
        if held.sibling in self.orders and self.orders[held.sibling].status is OrderStatus.NEW:
            self.end(held.sibling)

    def find(self, order: Order) -> ExecutionReport:
        """Answer a look-up at once: totals, or an end for what never arrived."""
        held = self.orders.get(order.cl_ord_id)
        if held is None:
            return ExecutionReport("A-1", order.cl_ord_id, ExecType.EXPIRED, text="absent")
        return ExecutionReport(
            "A-1", order.cl_ord_id, ExecType.STATUS, held.status, order_id=f"b-{order.cl_ord_id}",
            cum_qty=held.filled, avg_px=D(100) if held.filled else None,
        )  # fmt: skip

    def say(self, order: Order, exec_type: ExecType, status: Any = None, **fields: Any) -> None:
        self.mail.append(ExecutionReport("A-1", order.cl_ord_id, exec_type, status, **fields))

    def live_exits(self) -> list[Held]:
        """Return exits under way (not those that rest)."""
        return [
            held
            for held in self.orders.values()
            if held.is_exit and held.status is OrderStatus.NEW and not held.order.rests
            and held.order.order_type is OrderType.MARKET
        ]  # fmt: skip


@dataclass
class Session:
    capabilities: Any
    broker: Broker

    def works_exits(self, order: Order) -> bool:
        return order.cl_ord_id in self.broker.native


@dataclass
class Desk:
    """One account, one symbol, one engine's life."""

    broker: Broker = field(default_factory=Broker)
    clock: HandClock = field(default_factory=HandClock)

    def __post_init__(self) -> None:
        self.db = sqlite3.connect(":memory:", isolation_level=None)
        self.db.row_factory = sqlite3.Row
        self.db.executescript(SCHEMA)
        self.alerts: list[tuple[str, str]] = []
        self.halted = ""
        self.mute = False  # the broker does not tell of its legs when asked
        self.entries = self.closes = 0
        self.start()

    def start(self) -> None:
        loaded = rows.load_state(self.db)
        self.account = make_state(make_account("A-1"))
        self.marks = Marks(self.clock)
        self.keeper = PositionKeeper(self.marks)
        self.unwritten: list[tuple[str, tuple[Any, ...]]] = []
        self.broken: list[str] = []
        self.session_ = Session(CAPABILITIES, self.broker)
        self.manager = OrderManager(
            self.clock, {"A-1": self.account}, self._changed, self._filled,
            lambda _account, text: self.broken.append(text),
        )  # fmt: skip
        self.guards = ProtectiveExits("book", self.clock, self, 5_000_000_000)
        self.closing = Closing(self.clock, self)
        self.marks.listen(self.guards.on_price)
        for order in loaded.orders:
            if order.status is OrderStatus.PENDING_NEW:
                order.status = OrderStatus.UNKNOWN
        self.keeper.load(loaded.positions)
        self.manager.load(loaded.orders, loaded.fills)
        self.guards.load(self.keeper)

    def restart(self, *, kept: bool) -> None:
        """End the engine and start another; without ``kept`` what was noted last is lost. Then reconcile."""
        if kept:
            self.flush()
        self.broker.mail.clear()
        self.broker.deaf = self.broker.gone = False
        self.start()
        self.reconcile()

    def reconcile(self) -> None:
        for order in list(self.account.working.values()):
            self.look_up(order)
        self.guards.on_reconciled("A-1")

    # ---- what the parts need -----------------------------------------------------------------------------------

    def position(self, account: str, symbol: str) -> Position | None:
        return self.keeper.get(account, symbol)

    def state(self, account: str) -> Any:
        return self.account

    def session(self, account: str) -> Any:
        return self.session_

    def quote(self, symbol: str) -> Quote | None:
        return self.marks.get(symbol)

    def gate(self, order: Order) -> tuple[str, str] | None:
        return (self.halted, "latched") if self.halted else None

    def follow(self, symbol: str) -> None:
        pass

    def alert(self, severity: str, code: str, account: str, text: str) -> None:
        self.alerts.append((severity, code))

    def note(self, position: Position) -> None:
        self.unwritten.append((rows.PUT_POSITION, rows.position_row(position, "now")))

    def send_exits(self, orders: list[Order]) -> None:
        for order in orders:
            self.manager.add(order)
            self.db.execute(rows.PUT_ORDER, rows.order_row(order))
        self.before_send()
        for order in orders:
            if self.closing.fits(order) and not self.closing.hold(order):
                self.send(order)

    def before_send(self) -> None:
        """Stand between the commit and the first byte."""

    def lot(self, account: str, symbol: str) -> Decimal:
        return ZERO

    def cancel(self, order: Order) -> None:
        self.broker.cancel(order)

    def look_up(self, order: Order) -> None:
        for leg in self.broker.legs(order):
            self.manager.apply(leg)
        self.manager.apply(self.broker.find(order))

    def ask_for_legs(self, position: Position) -> None:
        entries = [o for o in self.manager.orders.values() if o.levels and o.cum_qty]
        for leg in self.broker.legs(entries[-1]) if entries else ():
            if not self.mute:
                self.manager.apply(leg)

    def send(self, order: Order) -> None:
        refused = self.gate(order)
        if refused is not None and order.source != OPERATOR:
            self.manager.deny(order, *refused)
        else:
            self.broker.take(order)

    def close(self, order: Order, code: str, text: str) -> None:
        self.manager.deny(order, code, text)

    def _changed(self, order: Order, report: ExecutionReport | None) -> None:
        self.unwritten.append((rows.PUT_ORDER, rows.order_row(order)))
        self.closing.on_order(order)
        self.guards.on_order(order)

    def _filled(self, fill: Fill, order: Order) -> None:
        position = self.keeper.apply(fill)
        self.guards.on_fill(fill, order, position)
        self.unwritten.append(
            (
                "INSERT OR IGNORE INTO fills VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
                (fill.account, fill.exec_id, fill.cl_ord_id, fill.symbol, fill.side.value,
                 str(fill.last_qty), str(fill.last_px), fill.at.isoformat(), fill.strategy, fill.source,
                 fill.signal_id, str(fill.fee_qty)),
            )
        )  # fmt: skip
        self.note(position)

    # ---- what happens ---------------------------------------------------------------------------------------------

    def flush(self) -> None:
        """Write what was noted; the newest row of each position is what it is now."""
        for statement, values in self.unwritten:
            self.db.execute(statement, values)
        for position in self.keeper:
            self.db.execute(rows.PUT_POSITION, rows.position_row(position, "now"))
        self.unwritten.clear()

    def deliver(self, most: int = 1_000) -> None:
        """Let the broker's mail arrive."""
        while self.broker.mail and most:
            most -= 1
            self.manager.apply(self.broker.mail.popleft())

    def enter(
        self,
        levels: Levels | None = None,
        quantity: str = "10",
        side: str = "buy",
        *,
        native: bool = False,
        fill: str | None = None,
    ) -> Order:
        """Send an entry, filled at once (or ``fill`` units of it); its mail waits."""
        self.entries += 1
        levels = levels or Levels()
        entry = make_order(
            f"ENTRY{self.entries}", side, quantity, source="bot", signal_id=f"s-{self.entries}",
            strategy="breakout", stop_loss=levels.stop_loss, take_profit=levels.take_profit,
            trail_percent=levels.trail_percent,
        )  # fmt: skip
        self.manager.add(entry)
        self.db.execute(rows.PUT_ORDER, rows.order_row(entry))
        deaf, gone, refuses = self.broker.deaf, self.broker.gone, self.broker.refuses
        self.broker.deaf = self.broker.gone = False
        self.broker.refuses = ""
        self.broker.take(entry)
        if native:
            self.broker.native.add(entry.cl_ord_id)
            self.broker.bracket(entry)
        self.broker.fill(entry.cl_ord_id, D(fill) if fill else None)
        self.broker.deaf, self.broker.gone, self.broker.refuses = deaf, gone, refuses
        return entry

    def close_by_hand(self) -> Order | None:
        """Close what no exit under way closes."""
        position = self.held
        under_way = sum(
            (o.leaves_qty for o in self.account.working.values() if o.reducing and not o.rests),
            D(0),
        )
        left = abs(position.qty) - under_way if position is not None else D(0)
        if left <= 0:
            return None
        self.closes += 1
        side = "sell" if position.qty > 0 else "buy"
        order = make_order(
            f"CLOSE{self.closes}", side, str(left), reducing=True, source=OPERATOR, leg="close"
        )
        self.manager.add(order)
        self.db.execute(rows.PUT_ORDER, rows.order_row(order))
        if self.closing.fits(order) and not self.closing.hold(order):
            self.send(order)
        return order

    def price(self, price: str | Decimal) -> None:
        self.marks.set(SYMBOL, D(price))

    def wait(self, seconds: float) -> None:
        """Let time pass."""
        self.clock.advance(seconds)
        self.guards.tick()
        self.closing.tick()

    @property
    def held(self) -> Position | None:
        return self.keeper.get("A-1", SYMBOL)

    @property
    def exits(self) -> list[Order]:
        """Return the exits the engine has made."""
        return [order for order in self.manager.orders.values() if order.source == "protective"]

    def codes(self, severity: str = "critical") -> list[str]:
        return [code for level, code in self.alerts if level == severity]

    def under_way(self) -> bool:
        return any(o.reducing and not o.rests for o in self.account.working.values())

    def shut(self) -> None:
        with suppress(sqlite3.Error):
            self.db.close()
