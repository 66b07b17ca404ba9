"""G9: one account's orders against a model of its broker, whose news come late, twice, in any order or never."""

from __future__ import annotations

from datetime import UTC, datetime
from decimal import Decimal
from typing import Any

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from engine.execution.order_manager import OrderManager
from engine.model.account import Account
from engine.model.account_state import AccountState
from engine.model.enums import ExecType, OrderStatus, OrderType, Side, TimeInForce
from engine.model.messages import ExecutionReport, Fill
from engine.model.order import Order
from engine.portfolio.marks import Marks
from engine.portfolio.position_keeper import PositionKeeper
from tests.simulation.world import SimClock, World

NAME = "A-1"
NOW = datetime(2026, 3, 2, 15, tzinfo=UTC)
ZERO = Decimal(0)
_ENDS = {
    ExecType.CANCELED: OrderStatus.CANCELED,
    ExecType.EXPIRED: OrderStatus.EXPIRED,
    ExecType.REJECTED: OrderStatus.REJECTED,
}


class Held:
    """An order as its broker has it, and everything it has ever told of it."""

    def __init__(self, order: Order) -> None:
        self.cl_ord_id = order.cl_ord_id
        self.sign = order.side.sign
        self.order_qty = order.order_qty
        self.status: OrderStatus | None = None  # not there yet
        self.cum_qty = ZERO
        self.gross = ZERO
        self.fills = 0
        self.told: list[ExecutionReport] = []

    def tell(self, kind: ExecType, **fields: Any) -> None:
        """Put an event into the order stream."""
        self.told.append(self.report(kind, **fields))

    def report(self, kind: ExecType = ExecType.STATUS, **fields: Any) -> ExecutionReport:
        """Say how it stands."""
        return ExecutionReport(
            NAME, self.cl_ord_id, kind, self.status, order_id=f"b-{self.cl_ord_id}",
            cum_qty=self.cum_qty, avg_px=self.gross / self.cum_qty if self.cum_qty else None,
            **fields,
        )  # fmt: skip


class Orders(RuleBasedStateMachine):
    """What may happen to orders, in any order."""

    def __init__(self) -> None:
        super().__init__()
        clock = SimClock(World(0))
        document = {"id": NAME, "broker": "alpaca", "sizing": {"method": "signal"}}
        self.state = AccountState(Account.model_validate(document))
        self.keeper = PositionKeeper(Marks(clock))
        self.fills: list[Fill] = []
        self.broken: list[str] = []
        self.ended: dict[str, OrderStatus] = {}
        self.held: list[Held] = []
        self.manager = OrderManager(
            clock,
            {NAME: self.state},
            self._changed,
            self._filled,
            lambda account, text: self.broken.append(f"{account}: {text}"),
        )

    def _changed(self, order: Order, report: ExecutionReport | None) -> None:
        del report
        if order.status.terminal:
            assert self.ended.setdefault(order.cl_ord_id, order.status) is order.status  # I6

    def _filled(self, fill: Fill, order: Order) -> None:
        del order
        self.fills.append(fill)
        self.keeper.apply(fill)

    # ---- what happens ------------------------------------------------------------------------------------------

    @rule(quantity=st.integers(1, 20), buys=st.booleans())
    def send(self, quantity: int, buys: bool) -> None:
        order = Order(
            cl_ord_id=f"c{len(self.held)}", account=NAME, symbol="AAPL",
            side=Side.BUY if buys else Side.SELL, order_qty=Decimal(quantity),
            order_type=OrderType.MARKET, time_in_force=TimeInForce.DAY, created_at=NOW,
        )  # fmt: skip
        order.first_byte_ns = 1
        self.manager.add(order)
        self.held.append(Held(order))

    def _pick(self, data: st.DataObject) -> Held:
        return data.draw(st.sampled_from(self.held))

    @precondition(lambda self: self.held)
    @rule(data=st.data())
    def no_answer(self, data: st.DataObject) -> None:
        held = self._pick(data)
        self.manager.apply(
            ExecutionReport(NAME, held.cl_ord_id, ExecType.UNKNOWN, OrderStatus.UNKNOWN)
        )

    @precondition(lambda self: self.held)
    @rule(data=st.data())
    def accept(self, data: st.DataObject) -> None:
        held = self._pick(data)
        if held.status is None:
            held.status = OrderStatus.NEW
            held.tell(ExecType.NEW)

    @precondition(lambda self: self.held)
    @rule(data=st.data(), quantity=st.integers(1, 9), cents=st.integers(1, 99_999))
    def fill(self, data: st.DataObject, quantity: int, cents: int) -> None:
        held = self._pick(data)
        if held.status is None or held.status.terminal:
            return
        last_qty = min(Decimal(quantity), held.order_qty - held.cum_qty)
        last_px = Decimal(cents) / 100
        held.cum_qty += last_qty
        held.gross += last_qty * last_px
        held.fills += 1
        done = held.cum_qty == held.order_qty
        held.status = OrderStatus.FILLED if done else OrderStatus.PARTIALLY_FILLED
        exec_id = f"{held.cl_ord_id}-{held.fills}"
        held.tell(ExecType.TRADE, exec_id=exec_id, last_qty=last_qty, last_px=last_px)

    @precondition(lambda self: self.held)
    @rule(data=st.data(), kind=st.sampled_from(sorted(_ENDS)))
    def end(self, data: st.DataObject, kind: ExecType) -> None:
        held = self._pick(data)
        if held.status is None or held.status.terminal:
            return
        if kind is ExecType.REJECTED and held.cum_qty:
            return
        held.status = _ENDS[kind]
        held.tell(kind, text="by the broker")

    @precondition(lambda self: self.held)
    @rule(data=st.data())
    def deliver(self, data: st.DataObject) -> None:
        """Deliver any event of one order, perhaps not for the first time."""
        told = self._pick(data).told
        if told:
            self.manager.apply(data.draw(st.sampled_from(told)))

    @precondition(lambda self: self.held)
    @rule(data=st.data(), refused=st.booleans())
    def ask_to_cancel(self, data: st.DataObject, refused: bool) -> None:
        kind = ExecType.CANCEL_REJECTED if refused else ExecType.PENDING_CANCEL
        status = None if refused else OrderStatus.PENDING_CANCEL
        self.manager.apply(ExecutionReport(NAME, self._pick(data).cl_ord_id, kind, status))

    @precondition(lambda self: self.held)
    @rule(data=st.data())
    def look_up(self, data: st.DataObject) -> None:
        held = self._pick(data)
        if held.status is not None:
            self.manager.apply(held.report())

    # ---- what holds --------------------------------------------------------------------------------------------

    @invariant()
    def nothing_is_counted_twice(self) -> None:
        assert self.broken == []
        assert len({fill.exec_id for fill in self.fills}) == len(self.fills)  # I11
        total = ZERO
        for held in self.held:
            order = self.manager.orders[held.cl_ord_id]
            filled = sum((f.last_qty for f in self.fills if f.cl_ord_id == held.cl_ord_id), ZERO)
            assert order.cum_qty == filled
            assert order.cum_qty <= held.cum_qty <= order.order_qty  # I5
            assert order.status is not OrderStatus.FILLED or held.status is OrderStatus.FILLED
            assert (held.cl_ord_id in self.state.working) == order.status.working
            total += filled * held.sign
        position = self.keeper.get(NAME, "AAPL")
        assert (position.qty if position else ZERO) == total  # I7

    def teardown(self) -> None:
        """Let all that was ever told arrive, and look everything up: both sides are the same."""
        for held in self.held:
            for report in [*held.told, *([held.report()] if held.status else [])]:
                self.manager.apply(report)
        self.nothing_is_counted_twice()
        for held in self.held:
            order = self.manager.orders[held.cl_ord_id]
            if held.status is not None:
                assert order.cum_qty == held.cum_qty
                assert order.status.terminal == held.status.terminal
                assert order.status.working or order.status is held.status
            else:
                assert order.status.working


TestOrders = Orders.TestCase
TestOrders.settings = settings(
    max_examples=2000,
    stateful_step_count=50,
    deadline=None,
    derandomize=True,
    database=None,
    suppress_health_check=list(HealthCheck),
)
