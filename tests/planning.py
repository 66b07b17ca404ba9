"""A planner over real parts: index, marks, positions, orders and every check before an order exists; no sockets."""

from __future__ import annotations

from decimal import Decimal
from typing import Any

from engine.config import Config
from engine.eligibility.index import EligibilityIndex
from engine.execution.order_manager import OrderManager
from engine.model.account_state import AccountState
from engine.model.codes import CODES
from engine.model.enums import ExecType, OrderStatus, OrderType, Side, TimeInForce, TradingState
from engine.model.instrument import Instrument
from engine.model.order import Order
from engine.planner import Plan, Planner, Release
from engine.portfolio.marks import Marks
from engine.portfolio.position_keeper import PositionKeeper
from engine.risk.pretrade import PreTrade
from engine.risk.trading_state import Latch, TradingStates
from tests.helpers import (
    MONDAY,
    HandClock,
    make_account,
    make_order,
    make_report,
    make_signal,
    make_state,
    make_trade,
)

D = Decimal


class Desk:
    """A planner over real parts; the price of AAPL is 100, just come in."""

    def __init__(
        self, *states: AccountState, signals: dict[str, Any] | None = None, **limits: Any
    ) -> None:
        self.clock = HandClock()
        self.marks = Marks(self.clock)
        self.keeper = PositionKeeper(self.marks)
        self.latches = TradingStates()
        self.states = {state.id: state for state in states or [make_state()]}
        self.index = EligibilityIndex()
        self.index.replace(self.states.values())
        self.instrument = Instrument("AAPL")
        self.unsupported: set[object] = set()
        config = Config.model_validate({"limits": limits, "signals": signals or {}})
        self.orders = OrderManager(
            self.clock,
            self.states,
            lambda _order, _report: None,
            lambda fill, _order: self.keeper.apply(fill),
            lambda account, text: self.broken.append((account, text)),
        )
        self.broken: list[tuple[str, str]] = []
        self.pretrade = PreTrade(
            config=config,
            clock=self.clock,
            states=self.states,
            positions=self.keeper,
            prices=self.marks,
            instrument_if_known=lambda _broker, _symbol: self.instrument,
            unsupported=self._refusal,
            orders=self.orders.orders.values,
        )
        self.orders.book = self.pretrade
        self.keeper.moved = self.pretrade.moved
        self.pretrade.follow_limits(self.keeper)
        self.planner = Planner(
            book="book",
            config=config,
            clock=self.clock,
            index=self.index,
            keeper=self.keeper,
            marks=self.marks,
            states=self.latches,
            instrument_of=lambda _broker, _symbol: self.instrument,
            instrument_if_known=lambda _broker, _symbol: self.instrument,
            pretrade=self.pretrade,
        )
        self.marks.set("AAPL", D(100))

    def _refusal(self, _state: AccountState, kind: OrderType, tif: TimeInForce) -> str:
        return f"no {kind.value} {tif.value}" if {kind, tif} & self.unsupported else ""

    def plan(self, release: Release | None = None, **signal: Any) -> Plan:
        return self.planner.plan(make_signal(**signal), release)

    def hold(self, quantity: str, account: str = "A-1", symbol: str = "AAPL") -> None:
        """Give an account a position."""
        order = make_order(f"old-{account}-{symbol}", account=account, symbol=symbol)
        order.order_qty = abs(D(quantity))
        order.side = Side.BUY if D(quantity) > 0 else Side.SELL
        fill = order.apply(make_trade(order, order.cl_ord_id, str(order.order_qty)), MONDAY)
        self.keeper.apply(fill)

    def works(self, cl_ord_id: str = "W-1", **fields: Any) -> Order:
        """Give account A-1 a working order."""
        status = fields.pop("status", OrderStatus.NEW)
        order = make_order(cl_ord_id, **fields)
        order.status = status
        self.states[order.account].working[order.cl_ord_id] = order
        self.pretrade.changed(order)
        return order

    def latch(self, scope: str, state: TradingState) -> None:
        self.latches.set(Latch(scope, state, "", "now", "test"))

    # ---- what the engine does with a plan --------------------------------------------------------------------

    def take(self, release: Release | None = None, **signal: Any) -> Plan:
        """Plan a signal and reserve its orders, as the engine does in one turn."""
        made = make_signal(**signal)
        plan = self.planner.plan(made, release)
        self.pretrade.begin(made, sent=bool(plan.orders), held=bool(plan.held))
        for order in plan.orders:
            self.orders.add(order)
        return plan

    def acknowledge(self, order: Order) -> None:
        self.orders.apply(make_report(order, ExecType.NEW, order_id=f"V-{order.cl_ord_id}"))

    def fill(self, order: Order, quantity: str, price: str = "100") -> None:
        self.orders.apply(
            make_trade(order, f"x-{order.cl_ord_id}-{order.cum_qty}", quantity, price)
        )

    def end(self, order: Order, kind: ExecType = ExecType.CANCELED) -> None:
        self.orders.apply(make_report(order, kind))


def limited(account: str = "A-1", quantity: str = "10", **limits: Any) -> AccountState:
    """Return an account of fixed size with limits."""
    sizing = {"method": "fixed", "quantity": quantity}
    return make_state(make_account(account, sizing=sizing, limits=limits))


def codes(table: dict[str, tuple[str, str]]) -> dict[str, str]:
    for code, sentence in table.values():
        assert code in CODES
        assert sentence
    return {account: code for account, (code, _) in table.items()}


def quantities(plan: Plan) -> dict[str, Decimal]:
    return {order.account: order.order_qty for order in plan.orders}


def only(table: dict[str, tuple[str, str]]) -> tuple[str, str]:
    """Return the one refusal there is: code and sentence."""
    (reason,) = table.values()
    return reason
