"""Orders made by hand: cancel, change, send again, resolve, close, flatten; and the stops of a position."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Iterator
from contextlib import suppress
from copy import copy
from decimal import Decimal
from typing import Any

from engine.errors import BrokerError, CommandRefused, StoreError
from engine.kill_latch import CLOSED_OUTSIDE
from engine.model import commands as c
from engine.model import tables
from engine.model.account_state import AccountState
from engine.model.enums import ExecType, OrderStatus, OrderType, Side, TimeInForce
from engine.model.identifiers import OPERATOR, ClOrdIDs
from engine.model.messages import ExecutionReport
from engine.model.numbers import floor_to, to_text
from engine.model.order import Order
from engine.model.position import Levels
from engine.ports import BrokerSession
from engine.trading_engine import TradingEngine

Result = dict[str, Any]

LOOK_EVERY_S = 0.05
CANCELED_WITHIN_S = 30.0
LOOK_TWICE_S = 1.0
"""Between the two look-ups that must both find nothing before an order is sent again (control C21)."""
BY_HAND_WITHIN_NS = 60_000_000_000


class OrdersByHand:
    """What an operator does to orders and positions, one command at a time."""

    def __init__(self, engine: TradingEngine) -> None:
        self._engine = engine

    # ---- orders --------------------------------------------------------------------------------------------------

    def _order(self, cl_ord_id: str) -> Order:
        order = self._engine.orders.orders.get(cl_ord_id)
        if order is None:
            raise CommandRefused("NOT_FOUND", f"no recent order {cl_ord_id}", 404)
        return order

    def _working(self, cl_ord_id: str) -> Order:
        order = self._order(cl_ord_id)
        if order.status.terminal:
            raise CommandRefused("NOT_WORKING", f"{cl_ord_id} is {order.status.value}")
        return order

    async def cancel_order(self, command: c.CancelOrder) -> Result:
        """Cancel a working order; one that had not left is closed durably before this says so."""
        order = self._working(command.cl_ord_id)
        engine = self._engine
        if not engine.cancel(order, "CANCELED_BY_OPERATOR", "canceled by hand before it left"):
            raise CommandRefused("NOT_CONNECTED", f"account {order.account} has no broker session")
        if not order.status.terminal:
            return {"result": "requested", "cl_ord_id": order.cl_ord_id}
        with suppress(StoreError):  # then nothing is sent any more
            await engine.journal.flushed()  # or the next engine would find it absent, and send it
        return {"result": "canceled", "cl_ord_id": order.cl_ord_id}

    async def cancel_orders(self, command: c.CancelOrders) -> Result:
        """Cancel every working order of a scope; those that had not left are closed durably before this says so."""
        working = self._engine.orders.working()
        before = len(working)
        asked = self.cancel_all(command.scope)
        with suppress(StoreError):
            await self._engine.journal.flushed()
        closed = sum(order.status.terminal for order in working)
        return {"result": "requested", "cancels": len(asked), "closed": closed, "of": before}

    def _session(self, account: str) -> Any:
        session = self._engine.fleet.sessions.get(account)
        if session is None:
            raise CommandRefused("NOT_CONNECTED", f"account {account} has no broker session")
        return session

    async def replace_order(self, command: c.ReplaceOrder) -> Result:
        """Change a working order's quantity or prices."""
        order = self._working(command.cl_ord_id)
        if order.parent:
            text = f"{order.cl_ord_id} protects a position: set_stops changes its price"
            raise CommandRefused("PROTECTIVE", text)
        session, lane = self._session(order.account), self._engine.dispatcher.lanes[order.account]
        if not session.capabilities.can_replace:
            raise CommandRefused(
                "BROKER_UNSUPPORTED",
                "this broker cannot change an order: cancel it and send another",
            )
        if not order.order_id:
            raise CommandRefused("NOT_WORKING", f"{order.cl_ord_id} is not acknowledged yet")
        if command.order_qty is None and command.limit_price is None and command.stop_price is None:
            raise CommandRefused(
                "INVALID_COMMAND", "one of order_qty, limit_price, stop_price is needed", 422
            )
        if order.cum_qty:
            # Brokers differ in what the new quantity of a partly filled order counts: safe either way.
            raise CommandRefused(
                "PARTIALLY_FILLED",
                f"{to_text(order.cum_qty)} has filled already: cancel the rest and send another",
            )
        replacement = self.make(
            order.account,
            order.symbol,
            order.side,
            command.order_qty or order.order_qty,
            command.id,
            "replace",
        )
        replacement.order_type, replacement.time_in_force = order.order_type, order.time_in_force
        replacement.limit_price = command.limit_price or order.limit_price
        replacement.stop_price = command.stop_price or order.stop_price
        replacement.strategy, replacement.reducing = order.strategy, order.reducing
        replacement.stop_loss, replacement.take_profit = order.stop_loss, order.take_profit
        replacement.trail_percent = order.trail_percent
        await self._reserve_replacement(order, replacement)
        self._engine.publisher.touch(tables.ORDERS, replacement.cl_ord_id)
        lane.replace(order, replacement)
        return {
            "result": "requested",
            "cl_ord_id": replacement.cl_ord_id,
            "replaces": order.cl_ord_id,
        }

    async def _reserve_replacement(self, order: Order, replacement: Order) -> None:
        """Hold a replacement to every limit a new order has, count it at once, and make it durable.

        Raises:
            CommandRefused: with the code of the limit.
            StoreError: it could not be made durable; nothing is changed.
        """
        engine = self._engine
        if not order.reducing:
            await engine.prepare(order)
        state = self.state(replacement.account)
        refused = engine.gate(replacement) or engine.planner.check_by_hand(
            state, replacement, instead_of=order
        )
        if refused is not None:
            raise CommandRefused(*refused)
        engine.pretrade.replaces(order, replacement)
        engine.orders.add(replacement)
        try:
            await engine.journal.commit_orders([replacement])
        except StoreError:
            engine.orders.take_back(replacement)
            raise
        refused = engine.gate(replacement)  # it may have been killed meanwhile
        if refused is not None:
            engine.orders.deny(replacement, *refused)
            raise CommandRefused(*refused)

    @staticmethod
    def _may_resend(order: Order) -> None:
        absent = order.status is OrderStatus.EXPIRED and order.code == "ABSENT"
        if order.status is not OrderStatus.UNKNOWN and not absent:
            raise CommandRefused("NOT_UNKNOWN", f"{order.cl_ord_id} is {order.status.value}")
        if order.leg == "replace":
            raise CommandRefused("NOT_PROVEN", "a replacement cannot be sent as a new order")

    async def resend(self, command: c.Resend) -> Result:
        """Send an order again that the broker proves it never had."""
        order = self._order(command.cl_ord_id)
        self._may_resend(order)
        engine = self._engine
        latch = engine.gate(order)
        if latch is not None:
            raise CommandRefused(*latch)
        session = self._session(order.account)
        if session.capabilities.client_id == "label":
            raise CommandRefused(
                "NOT_PROVEN", "this broker cannot prove that it never had the order"
            )
        if not order.reducing:
            await engine.prepare(order)
        await self.look_for(order, session)
        if self._since_sent_s(order) < session.capabilities.settle_s:
            raise CommandRefused("NOT_PROVEN", "the broker may still be taking it in: try again")
        await asyncio.sleep(LOOK_TWICE_S)
        self._may_resend(order)
        try:
            await self._expect_again(order)
            await self.look_for(order, session)
            self._check_again(order, session)
        except CommandRefused:
            engine.journal.note_order(order)  # it is what it was
            raise
        order.reopen()
        engine.orders.add_again(order)
        order.send_before_ns = engine.clock.monotonic_ns() + int(
            float(engine.config.signals.max_age_s) * 1e9
        )
        engine.news.send_again(order)
        if order.status is OrderStatus.DENIED:
            raise CommandRefused(order.code, order.text)
        return {"result": "sent", "cl_ord_id": order.cl_ord_id}

    async def _expect_again(self, order: Order) -> None:
        """Make durable that an order which was over may leave once more: a restart then looks for it.

        Raises:
            StoreError: it is not durable, and nothing is changed.
        """
        if order.status is not OrderStatus.UNKNOWN:  # one that is unknown is looked for anyway
            again = copy(order)
            again.reopen()
            await self._engine.journal.commit_orders([again])

    def _check_again(self, order: Order, session: BrokerSession) -> None:
        """Refuse what must not be sent once more at this moment."""
        self._may_resend(order)  # another may have been faster, or the proof have come
        if self._since_sent_s(order) < session.capabilities.settle_s:
            raise CommandRefused("NOT_PROVEN", "it has been sent again meanwhile")
        refused = self._engine.planner.check_by_hand(
            self.state(order.account), order, instead_of=order
        )
        if refused is not None:
            raise CommandRefused(*refused)

    def _since_sent_s(self, order: Order) -> float:
        """Return how long ago an order was last sent; one of an earlier process was, when it was made."""
        clock = self._engine.clock
        if order.first_byte_ns:
            return (clock.monotonic_ns() - order.first_byte_ns) / 1e9
        return (clock.now() - order.created_at).total_seconds()

    async def look_for(self, order: Order, session: BrokerSession) -> None:
        """Refuse to send again what the broker has, or cannot be asked about."""
        try:
            found = await session.find(order.cl_ord_id, order.symbol, order.order_id)
        except BrokerError as error:
            raise CommandRefused("NOT_PROVEN", f"the look-up failed: {error}") from None
        if found is not None:
            self._engine.on_report(found)
            raise CommandRefused(
                "EXISTS", f"the broker has {order.cl_ord_id}: {found.status or found.exec_type}"
            )

    async def look_up(self, command: c.LookUp) -> Result:
        """Ask the broker once for an order of unknown outcome; what it says of it is taken at once.

        "Not found" changes nothing by itself: it is proof only after the broker's settling time, and twice.
        """
        order = self._order(command.cl_ord_id)
        if order.status is not OrderStatus.UNKNOWN:
            raise CommandRefused("NOT_UNKNOWN", f"{order.cl_ord_id} is {order.status.value}")
        engine, session = self._engine, self._session(order.account)
        try:
            report = await engine.reconciler.look(order, session)
        except BrokerError as error:
            raise CommandRefused("NOT_PROVEN", f"the look-up failed: {error}") from None
        if report is not None:
            engine.on_report(report)
        elif order.status is OrderStatus.UNKNOWN:
            engine.reconciler.resolve(order, session)  # in case nobody asks on
        return {
            "result": "not_found" if report is None else "found",
            "status": order.status.value,
            "cl_ord_id": order.cl_ord_id,
        }

    def resolve_unknown(self, command: c.ResolveUnknown) -> Result:
        """Take an operator's word on an order of unknown outcome."""
        order = self._order(command.cl_ord_id)
        if order.status is not OrderStatus.UNKNOWN:
            raise CommandRefused("NOT_UNKNOWN", f"{order.cl_ord_id} is {order.status.value}")
        kind = ExecType.NEW if command.exists else ExecType.EXPIRED
        if not command.exists:
            order.code = "ABSENT"
        text = (
            "an operator says it exists" if command.exists else "an operator says it does not exist"
        )
        self._engine.on_report(
            ExecutionReport(
                account=order.account, cl_ord_id=order.cl_ord_id, exec_type=kind, text=text
            )
        )
        self._engine.alert("warning", "RESOLVED", order.account, f"{order.cl_ord_id}: {text}")
        return {"result": order.status.value, "cl_ord_id": order.cl_ord_id}

    # ---- positions -----------------------------------------------------------------------------------------------

    def make(
        self, account: str, symbol: str, side: Side, quantity: Decimal, command_id: str, leg: str
    ) -> Order:
        """Make a market exit by hand; ``leg`` tells apart what one command sends for an account and symbol."""
        engine = self._engine
        order = Order(
            cl_ord_id=ClOrdIDs(engine.journal.book, OPERATOR, command_id).make(
                account, f"{leg}:{symbol}"
            ),
            account=account,
            symbol=symbol,
            side=side,
            order_qty=quantity,
            order_type=OrderType.MARKET,
            time_in_force=TimeInForce.DAY,
            created_at=engine.clock.now(),
            source=OPERATOR,
            signal_id=command_id,
            leg=leg,
            reducing=True,
        )
        order.planned_ns = engine.clock.monotonic_ns()
        return order

    def state(self, account: str) -> AccountState:
        """Return an account, or refuse."""
        state = self._engine.fleet.states.get(account)
        if state is None:
            raise CommandRefused("NOT_FOUND", f"no account {account}", 404)
        return state

    async def close_position(self, command: c.ClosePosition) -> Result:
        """Close a position, or a part of it, at the market."""
        state = self.state(command.account)
        # A part is rounded to the instrument's lot.
        if command.fraction != 1 or command.quantity is not None:
            await self._engine.instruments.ensure(state.account.broker, command.symbol)
        order = self._exit(
            state, command.symbol, command.id, command.fraction, quantity=command.quantity
        )
        if order is None:
            raise CommandRefused(
                "NO_POSITION",
                f"{command.account} holds no {command.symbol} that is not being closed",
            )
        await self.send_by_hand([order])
        return {
            "result": "sent",
            "cl_ord_id": order.cl_ord_id,
            "order_qty": to_text(order.order_qty),
        }

    def _exit(
        self,
        state: AccountState,
        symbol: str,
        command_id: str,
        fraction: Decimal = Decimal(1),
        leg: str = "close",
        *,
        quantity: Decimal | None = None,
    ) -> Order | None:
        held = self._engine.planner.closable(state, symbol)
        part = abs(held) * fraction if quantity is None else quantity
        if part > abs(held) > 0:
            text = f"{to_text(part)} > {to_text(abs(held))}, which is all that is not being closed"
            raise CommandRefused("MORE_THAN_HELD", text)
        if part != abs(held):
            part = floor_to(part, self._engine.instruments.get(state.account.broker, symbol).lot)
        if not held or not part:
            return None
        side = Side.SELL if held > 0 else Side.BUY
        return self.make(state.id, symbol, side, part, command_id, leg)

    async def send_by_hand(self, orders: list[Order]) -> None:
        """Make orders durable and send them, within a minute.

        Whoever asked may go away meanwhile (a kill's run that a rearm ends): what is decided is done whole.

        Raises:
            StoreError: they could not be made durable, and are forgotten.
        """
        for order in orders:
            self._engine.orders.add(
                order
            )  # counts from now on: a second press finds nothing left to close
        problems: list[StoreError] = []
        work = self._commit_and_send(orders, problems)
        await asyncio.shield(self._engine.task(work, "by-hand"))
        if problems:
            raise problems[0]

    async def _commit_and_send(self, orders: list[Order], problems: list[StoreError]) -> None:
        engine = self._engine
        try:
            await engine.journal.commit_orders(orders)
        except StoreError as error:
            for order in orders:
                engine.orders.take_back(order)
            problems.append(error)
            return
        engine.send(orders, None, engine.clock.monotonic_ns() + BY_HAND_WITHIN_NS)

    async def flatten(self, scope: str, command_id: str) -> Result:
        """Cancel a scope's working orders and close its positions, but for those another process closes."""
        canceled = self.cancel_all(scope)
        exits = self.exits(scope, command_id)
        orders = self.left_to_us(exits)
        if len(orders) < len(exits):
            self._engine.alert("critical", "KILL_INCOMPLETE", "", f"{scope}: {CLOSED_OUTSIDE}")
        if orders:
            await self.send_by_hand(orders)
        if canceled:
            self._engine.spawn(self.close_rest(canceled, command_id), f"flatten-{command_id}")
        self._engine.alert(
            "warning", "FLATTEN", "", f"{scope}: {len(canceled)} cancels, {len(orders)} exits"
        )
        return {
            "result": "sent",
            "cancels": len(canceled),
            "orders": {o.cl_ord_id: o.account for o in orders},
        }

    async def close_rest(self, canceled: Iterable[Order], command_id: str) -> None:
        """Close what ``canceled`` orders leave behind once they are through: an exit that covered the position
        until it was canceled, an entry that filled all the same.
        """
        orders = list(canceled)
        looks = int(CANCELED_WITHIN_S / LOOK_EVERY_S)
        while looks and not all(order.status.terminal for order in orders):
            looks -= 1
            await asyncio.sleep(LOOK_EVERY_S)
        exits = []
        for account, symbol in dict.fromkeys((order.account, order.symbol) for order in orders):
            state = self._engine.fleet.states.get(account)
            order = self._exit(state, symbol, command_id, leg="rest") if state else None
            if order is not None:
                exits.append(order)
        if exits := self.left_to_us(exits):
            await self.send_by_hand(exits)

    def left_to_us(self, orders: list[Order]) -> list[Order]:
        """Return those whose positions no other process closes, or has closed since a halt that stands.

        The engine's book knows nothing of what that has sent: an exit of its own could turn a position around.
        """
        scopes = [record["scope"] for record in self._engine.shared.flat()]
        states = self._engine.fleet.states
        return [
            order
            for order in orders
            if (state := states.get(order.account)) is None
            or not any(self.in_scope(scope, state, order.symbol) for scope in scopes)
        ]

    def in_scope(
        self, scope: str, state: AccountState, symbol: str = "", strategy: str = ""
    ) -> bool:
        """Say whether something of an account lies in a scope."""
        kind, _, name = scope.partition(":")
        match kind:
            case "all":
                return True
            case "account":
                return state.id == name
            case "broker":
                return state.account.broker == name
            case "symbol":
                return symbol == name
            case _:
                return strategy == name

    def cancel_all(self, scope: str) -> list[Order]:
        """Cancel the working orders of a scope, those still queued at once; return what the brokers were asked for."""
        asked = []
        for state in self._engine.fleet.states.values():
            for order in list(state.working.values()):
                if not self.in_scope(scope, state, order.symbol, order.strategy):
                    continue
                text = f"canceled with {scope} before it left"
                self._engine.cancel(order, "CANCELED_BY_OPERATOR", text)
                if order.status.working:
                    asked.append(order)
        return asked

    def exits(self, scope: str, command_id: str) -> list[Order]:
        """Make the exit orders of a scope's positions (a strategy's are the symbols it has traded)."""
        orders = (self._exit(state, symbol, command_id) for state, symbol in self.held(scope))
        return [order for order in orders if order is not None]

    def held(self, scope: str) -> Iterator[tuple[AccountState, str]]:
        """Return the positions of a scope: account and symbol."""
        engine = self._engine
        for state in engine.fleet.states.values():
            for symbol in sorted(engine.keeper.open_symbols(state.id)):
                strategies = self._strategies(scope, state.id, symbol)
                if any(self.in_scope(scope, state, symbol, strategy) for strategy in strategies):
                    yield state, symbol

    def _strategies(self, scope: str, account: str, symbol: str) -> set[str]:
        if not scope.startswith("strategy:"):
            return {""}
        return {
            f.strategy
            for f in self._engine.orders.fills
            if f.account == account and f.symbol == symbol
        }

    async def set_stops(self, command: c.SetStops) -> Result:
        """Set or clear the stops of an open position; where the broker works them, it has taken them on return."""
        self.state(command.account)
        position = self._engine.keeper.get(command.account, command.symbol)
        if position is None or not position.qty:
            raise CommandRefused("NO_POSITION", f"{command.account} holds no {command.symbol}")
        levels = Levels(command.stop_loss, command.take_profit, command.trail_percent)
        wrong = self._engine.exits.wrong_side(position, levels)
        if wrong is not None:
            raise CommandRefused(*wrong)
        await self._engine.exits.change(position, levels, f"{OPERATOR}/{command.id}")
        return {"result": "done"}
