"""Adopting and repairing a difference, line by line: the broker's word becomes ours, or an order brings it to ours.

Before anything is done the broker is asked again, and what differs now must be what the operator has seen. A position
is adopted by a synthetic fill (two for a split) that no order stands behind; its id follows from the command's, and it
is durable before the answer. A repaired position is adopted first and then traded back by an ordinary order by hand: so
the book is right at every moment, whatever becomes of that order, and the loss in between is in it.
"""

from __future__ import annotations

import asyncio
from dataclasses import replace
from decimal import Decimal
from typing import Any, NamedTuple

from engine.errors import BrokerError, CommandRefused
from engine.execution.differences import ADOPT, CASH, POSITION, REPAIR, Finding
from engine.execution.external import as_order
from engine.model import commands as c
from engine.model.account_state import AccountState
from engine.model.enums import ExecType, OrderType, Side, TimeInForce
from engine.model.identifiers import OPERATOR
from engine.model.messages import ExecutionReport, Fill
from engine.model.numbers import to_text
from engine.model.order import Order
from engine.model.position import Position
from engine.operators import acting
from engine.orders_by_hand import LOOK_TWICE_S, OrdersByHand
from engine.ports import BrokerSession
from engine.reconciliation import BY, Reconciliation
from engine.risk.trading_state import refusal
from engine.trading_engine import TradingEngine

Result = dict[str, Any]
_PRICE_DIGITS = 12


class Step(NamedTuple):
    """One synthetic fill of an adoption."""

    side: Side
    quantity: Decimal
    price: Decimal


class Adjustments:
    """Carries out ``adopt`` and ``repair``."""

    def __init__(
        self, engine: TradingEngine, reconciliation: Reconciliation, by_hand: OrdersByHand
    ) -> None:
        self._engine = engine
        self._reconciliation = reconciliation
        self._by_hand = by_hand

    # ---- the commands ------------------------------------------------------------------------------------------

    async def adopt(self, command: c.Adopt) -> Result:
        """Take the broker's value of a line as ours.

        Raises:
            CommandRefused: there is no such line (404), or it is another by now (409).
        """
        state, session = self._whose(command.key)
        async with self._reconciliation.lock(state.id):
            found = await self._seen(command, state, session, ADOPT)
            result = await self._adopt(found, state, session, command.id)
            self._note("adopt", found, command)
            await self._reconciliation.settle(state)
        return result

    async def repair(self, command: c.Repair) -> Result:
        """Bring the broker's value of a line to ours.

        Raises:
            CommandRefused: there is no such line (404), it is another by now, or an order may not leave (409).
        """
        state, session = self._whose(command.key)
        async with self._reconciliation.lock(state.id):
            found = await self._seen(command, state, session, REPAIR)
            if found.kind == POSITION:
                result = await self._repair_position(found, state, session, command.id)
            elif found.difference == "missing":
                result = await self._place_again(found, state, session, command.id)
            elif ADOPT in found.actions:
                result = await self._change_back(found, state, command.id)
            else:
                result = self._cancel_extra(found, state)
            self._note("repair", found, command)
        return result

    def _whose(self, key: str) -> tuple[AccountState, BrokerSession]:
        state = self._by_hand.state(key.partition("/")[0])
        session = self._engine.fleet.sessions.get(state.id)
        if session is None or not state.usable:
            raise CommandRefused("NOT_CONNECTED", f"account {state.id} has no broker session")
        return state, session

    async def _seen(
        self,
        command: c.Adopt | c.Repair,
        state: AccountState,
        session: BrokerSession,
        action: str,
    ) -> Finding:
        """Ask the broker again; return the line if it is still the one the operator has seen."""
        book = self._reconciliation.book
        line = book.get(command.key)
        if line is None:
            raise CommandRefused("NOT_FOUND", f"no difference {command.key}", 404)
        seen, at = line.found, line.at
        try:
            await self._reconciliation.again(state, session, seen.kind)
        except BrokerError as error:
            raise CommandRefused("NOT_CONNECTED", f"the broker cannot be asked: {error}") from None
        line = book.get(command.key)
        if line is None:
            raise CommandRefused("CHANGED", f"{command.key}: nothing differs any more")
        same = (line.found.expected, line.found.actual) == (seen.expected, seen.actual)
        if not same or command.at not in {None, at}:
            raise CommandRefused("CHANGED", f"it is another difference by now: {line.found.text}")
        if action not in line.found.actions:
            can = " or ".join(line.found.actions) or "nothing"
            raise CommandRefused("NOT_POSSIBLE", f"{line.found.text}: {can} can be done about it")
        return line.found

    def _note(self, what: str, found: Finding, command: c.Adopt | c.Repair) -> None:
        by = acting.get().name
        reason = f": {command.reason}" if command.reason else ""
        text = f"{found.text}; {what} by {by}{reason}"
        self._engine.journal.audit(what, {"key": found.key, "text": text, "by": by}, found.account)
        self._engine.alert("info", found.code, found.account, text)

    # ---- adopting ----------------------------------------------------------------------------------------------

    async def _adopt(
        self, found: Finding, state: AccountState, session: BrokerSession, command_id: str
    ) -> Result:
        if found.kind == POSITION:
            await self._adopt_position(found, state, command_id)
        elif found.kind == CASH:
            assert found.qty is not None
            self._reconciliation.agree(state, session, found.qty)
        elif found.difference == "missing":
            self._close_missing(found)
        else:
            self._adopt_terms(found)
        self._reconciliation.adopted(found)
        await self._engine.journal.flushed()
        return {"result": "adopted", "key": found.key, "text": found.text}

    async def _adopt_position(self, found: Finding, state: AccountState, command_id: str) -> None:
        engine = self._engine
        position = engine.keeper.get(found.account, found.symbol)
        position = position or Position(found.account, found.symbol)
        price = engine.marks.price(found.symbol)
        steps_to(position, found, price)  # refused before anything is changed
        moved = Decimal(found.actual) - Decimal(found.expected)
        ours = await self._reconciliation.holdings.absorb(state, found.symbol, moved)
        found = replace(found, qty=position.qty + ours)
        for number, step in enumerate(steps_to(position, found, price) if ours else ()):
            fill = Fill(
                account=found.account,
                exec_id=f"adopt-{command_id}-{number}",
                cl_ord_id="",
                symbol=found.symbol,
                side=step.side,
                last_qty=step.quantity,
                last_px=step.price,
                at=engine.clock.now(),
                source=OPERATOR,
                signal_id=command_id,
            )
            engine.orders.take_fill(fill, self._stand_in(fill))
        self._reconciliation.cash.forget(found.account)  # the money moved when nobody looked

    def _stand_in(self, fill: Fill) -> Order:
        """Return the order a synthetic fill would be of: none that was ever sent, journaled or shown."""
        return Order(
            cl_ord_id="",
            account=fill.account,
            symbol=fill.symbol,
            side=fill.side,
            order_qty=fill.last_qty,
            order_type=OrderType.MARKET,
            time_in_force=TimeInForce.DAY,
            created_at=fill.at,
            source=OPERATOR,
            signal_id=fill.signal_id,
            reducing=True,  # it sets no exits
        )

    def _ours(self, found: Finding) -> Order:
        order = self._engine.orders.orders.get(found.symbol)
        if order is None or order.status.terminal:
            raise CommandRefused("CHANGED", f"{found.symbol} does not work any more")
        return order

    def _close_missing(self, found: Finding) -> None:
        order = self._ours(found)
        text = "the broker has it no more, and an operator took its word"
        self._engine.on_report(
            ExecutionReport(order.account, order.cl_ord_id, ExecType.CANCELED, text=text)
        )

    def _adopt_terms(self, found: Finding) -> None:
        order, report = self._ours(found), found.report
        assert report is not None
        if report.order_qty is not None:
            if report.order_qty <= order.cum_qty:
                raise CommandRefused(
                    "NOT_POSSIBLE",
                    f"{to_text(order.cum_qty)} of {to_text(report.order_qty)} has filled here",
                )
            order.order_qty = report.order_qty
        order.limit_price = report.limit_price or order.limit_price
        order.stop_price = report.stop_price or order.stop_price
        order.text = "changed at the broker, and adopted"
        order.updated_at = self._engine.clock.now()
        self._engine.orders.amended(order)

    # ---- repairing ---------------------------------------------------------------------------------------------

    async def _repair_position(
        self, found: Finding, state: AccountState, session: BrokerSession, command_id: str
    ) -> Result:
        missing = Decimal(found.expected) - Decimal(found.actual)
        side = Side.BUY if missing > 0 else Side.SELL
        order = self._by_hand.make(state.id, found.symbol, side, abs(missing), command_id, "repair")
        held = Decimal(found.actual)
        order.reducing = held * side.sign < 0 and abs(missing) <= abs(held)
        self._may_leave(order, state, found)
        await self._adopt(found, state, session, command_id)
        await self._reconciliation.settle(state)
        await self._by_hand.send_by_hand([order])
        return {"result": "sent", "key": found.key, "cl_ord_id": order.cl_ord_id}

    async def _place_again(
        self, found: Finding, state: AccountState, session: BrokerSession, command_id: str
    ) -> Result:
        """Send once more, under a new id, what is left of an order the broker proves it has not."""
        before = self._ours(found)
        if before.parent:
            text = f"{before.cl_ord_id} protects a position: set_stops makes its exits anew"
            raise CommandRefused("PROTECTIVE", text)
        if session.capabilities.client_id == "label":
            raise CommandRefused(
                "NOT_PROVEN", "this broker cannot prove that it does not have the order"
            )
        order = self._by_hand.make(
            state.id, before.symbol, before.side, before.leaves_qty, command_id, "repair"
        )
        order.order_type, order.time_in_force = before.order_type, before.time_in_force
        order.limit_price, order.stop_price = before.limit_price, before.stop_price
        order.strategy, order.reducing = before.strategy, before.reducing
        order.stop_loss, order.take_profit = before.stop_loss, before.take_profit
        order.trail_percent = before.trail_percent
        self._may_leave(order, state, found)
        await asyncio.sleep(max(LOOK_TWICE_S, session.capabilities.settle_s))
        await self._by_hand.look_for(before, session)
        await self._adopt(found, state, session, command_id)
        await self._reconciliation.settle(state)
        await self._by_hand.send_by_hand([order])
        return {"result": "sent", "key": found.key, "cl_ord_id": order.cl_ord_id}

    async def _change_back(self, found: Finding, state: AccountState, command_id: str) -> Result:
        order = self._ours(found)
        self._may_leave(order, state, found)
        self._reconciliation.adopted(found)  # found again if this comes to nothing
        await self._reconciliation.settle(state)
        result = await self._by_hand.replace_order(
            c.ReplaceOrder(
                id=command_id,
                command="replace_order",
                cl_ord_id=order.cl_ord_id,
                order_qty=order.order_qty,
                limit_price=order.limit_price,
                stop_price=order.stop_price,
            )
        )
        return {**result, "key": found.key}

    def _cancel_extra(self, found: Finding, state: AccountState) -> Result:
        lane = self._engine.dispatcher.lanes.get(state.id)
        extra = as_order(found.report, self._engine.clock.now()) if found.report else None
        if lane is None or extra is None:
            raise CommandRefused("NOT_POSSIBLE", f"{found.text}: cancel it at the broker")
        lane.cancel(extra)
        return {"result": "requested", "key": found.key, "order_id": extra.order_id}

    def _may_leave(self, order: Order, state: AccountState, found: Finding) -> None:
        """Hold a repair to what an order by hand is held to, but for the latch of the very line it mends.

        Raises:
            CommandRefused: with the code of what forbids it.
        """
        if order.reducing:
            return
        engine = self._engine
        latch = engine.states.get(f"account:{state.id}")
        if latch is not None and latch.by == BY:
            others = [
                line.found
                for line in self._reconciliation.book.lines(state.id)
                if line.found.kind != CASH and line.found.key != found.key
            ]
            if others:
                raise CommandRefused(
                    "PAUSED", f"it would be an entry, and something else differs: {others[0].text}"
                )
            elsewhere = engine.states.strictest(f"broker:{state.broker}", f"symbol:{order.symbol}")
            if elsewhere is not None:
                raise CommandRefused(*refusal(elsewhere))
        elif (refused := engine.gate(order)) is not None:
            raise CommandRefused(*refused)
        refused = engine.planner.check_by_hand(state, order)
        if refused is not None:
            raise CommandRefused(*refused)


def steps_to(position: Position, found: Finding, mark: Decimal | None) -> list[Step]:
    """Return the synthetic fills that make a position what the broker says.

    What was added is taken at the price that gives the broker's average; what was taken away at the market's price,
    since nobody knows what it brought. A split keeps cost and gains as they were.

    Raises:
        CommandRefused: no price is known.
    """
    target, now = found.qty, position.qty
    assert target is not None
    if found.code == "CORPORATE_ACTION":
        return [
            _step(-now, position.avg_px),
            _step(target, round(position.cost / target, _PRICE_DIGITS)),
        ]
    delta = target - now
    adds = now * target >= 0 and abs(target) > abs(now)
    price = mark or found.avg_px or position.avg_px
    if adds and found.avg_px:
        exact = round((target * found.avg_px - position.cost) / delta, _PRICE_DIGITS)
        price = exact if exact > 0 else found.avg_px
    if not price:
        text = f"no price of {found.symbol} is known: post one to /v1/prices first"
        raise CommandRefused("REF_MISSING", text)
    return [_step(delta, price)]


def _step(quantity: Decimal, price: Decimal) -> Step:
    return Step(Side.BUY if quantity > 0 else Side.SELL, abs(quantity), price)
