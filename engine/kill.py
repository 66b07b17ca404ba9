"""The kill switch at work: nothing leaves any more, every working order is cancelled, late ones are chased."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

from engine.clock import rfc3339
from engine.errors import BrokerError, StoreError
from engine.model import tables
from engine.model.account_state import AccountState
from engine.model.enums import OrderStatus, OrderType, TimeInForce
from engine.model.numbers import to_text
from engine.model.order import Order

if TYPE_CHECKING:
    from engine.orders_by_hand import OrdersByHand
    from engine.trading_engine import TradingEngine

LOOK_EVERY_S = 0.1
CANCEL_AGAIN_S = 2.0
GIVE_UP_S = 120.0


class KillRun:
    """One press of the kill switch, from the latch to an empty book; its progress is the table ``kill``."""

    def __init__(
        self, engine: TradingEngine, desk: OrdersByHand, scope: str, command_id: str, flatten: bool
    ) -> None:
        self._engine = engine
        self._desk = desk
        self._scope = scope
        self._command_id = command_id
        self.flatten = flatten
        self._asked: dict[str, set[str]] = {}
        self._canceled: dict[str, Order] = {}
        self._errors: dict[str, str] = {}
        self._task: asyncio.Task[Any] | None = None

    async def begin(self) -> int:
        """Deny what is queued, ask for every cancel; the rest goes on beside. Return the cancels asked for."""
        for account, lane in self._engine.dispatcher.lanes.items():
            lane.pump()  # the gate denies what the latch forbids
            self._asked.setdefault(account, set())
        count = sum(self._cancel(state) for state in self._engine.fleet.states.values())
        self._touch_all()
        if self.flatten:
            # Exits are an operator's own orders: they pass the halt they belong to.
            try:
                await self._desk.send_by_hand(self._desk.exits(self._scope, self._command_id))
            except StoreError as error:
                self._engine.alert("critical", "INTERNAL", "", f"positions are not closed: {error}")
        self._task = self._engine.task(self._chase(), "kill")
        if self._scope.partition(":")[0] in {"all", "account", "broker"}:
            for state in self._engine.fleet.states.values():
                if self._desk.in_scope(self._scope, state):
                    self._engine.spawn(self._cancel_listed(state), f"kill-listed-{state.id}")
        return count

    async def _cancel_listed(self, state: AccountState) -> None:
        """Cancel what works at the broker and is none of ours."""
        session = self._engine.fleet.sessions.get(state.id)
        lane = self._engine.dispatcher.lanes.get(state.id)
        if session is None or lane is None or not state.usable:
            return
        try:
            listed = await session.open_orders()
        except BrokerError as error:
            self._errors[state.id] = f"its list of orders cannot be read: {error}"
            return
        for report in listed:
            known = self._engine.orders.find(report)
            over = known is None or known.status.terminal  # for us; the broker knows better
            if over and report.side and report.order_qty:
                foreign = Order(
                    cl_ord_id=report.cl_ord_id,
                    account=state.id,
                    symbol=report.symbol,
                    side=report.side,
                    order_qty=report.order_qty,
                    order_type=report.order_type or OrderType.MARKET,
                    time_in_force=report.time_in_force or TimeInForce.DAY,
                    created_at=self._engine.clock.now(),
                )
                foreign.order_id = report.order_id
                lane.cancel(foreign)

    def stop(self) -> None:
        """End the chase (a newer press takes over)."""
        if self._task is not None:
            self._task.cancel()

    def accounts(self) -> list[str]:
        """Return the accounts whose progress is shown."""
        return list(self._asked)

    def _working(self, state: AccountState) -> list[Order]:
        return [
            order
            for order in state.working.values()
            if self._desk.in_scope(self._scope, state, order.symbol, order.strategy)
            and not (order.reducing and order.signal_id == self._command_id)
        ]

    def _cancel(self, state: AccountState) -> int:
        orders = self._working(state)
        asked = self._asked.setdefault(state.id, set())
        for order in orders:
            if order.status is OrderStatus.PENDING_CANCEL and order.cl_ord_id in asked:
                continue
            if not self._engine.cancel(order, "HALTED", "the kill switch came before it left"):
                self._errors[state.id] = "no broker session: cancel at the broker"
                continue
            asked.add(order.cl_ord_id)
            self._canceled[order.cl_ord_id] = order
        return len(orders)

    async def _chase(self) -> None:
        """Look again and again: what was accepted late is cancelled too, until nothing works any more."""
        elapsed = since_cancel = 0.0
        while elapsed < GIVE_UP_S:
            await asyncio.sleep(LOOK_EVERY_S)
            elapsed += LOOK_EVERY_S
            since_cancel += LOOK_EVERY_S
            left = sum(len(self._working(state)) for state in self._engine.fleet.states.values())
            self._touch_all()
            if not left:
                if self.flatten:
                    await self._desk.close_rest(self._canceled.values(), self._command_id)
                return
            if since_cancel >= CANCEL_AGAIN_S:
                since_cancel = 0.0
                for state in self._engine.fleet.states.values():
                    self._cancel(state)
        self._engine.alert(
            "critical",
            "KILL_INCOMPLETE",
            "",
            f"{self._scope}: orders still work after {GIVE_UP_S:g} s",
        )

    def _touch_all(self) -> None:
        for account in self._asked:
            self._engine.publisher.touch(tables.KILL, account)

    def row(self, account: str) -> dict[str, Any] | None:
        """Return an account's row of the table ``kill``."""
        state = self._engine.fleet.states.get(account)
        if state is None:
            return None
        working = len(self._working(state))
        asked = len(self._asked.get(account, ()))
        residual = {
            position.symbol: to_text(position.qty)
            for position in self._engine.keeper.of(account)
            if position.qty
        }
        return {
            "account": account,
            "blocked": True,
            "cancels_sent": asked,
            "cancels_confirmed": max(0, asked - working),
            "working": working,
            "residual": residual,
            "done": working == 0,
            "error": self._errors.get(account, ""),
            "at": rfc3339(self._engine.clock.now()),
        }
