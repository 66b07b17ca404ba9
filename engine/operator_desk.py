"""What an operator may do by hand: release, refuse, force, cancel, change, close, flatten, pause, kill, re-arm."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Iterable
from dataclasses import replace
from decimal import Decimal
from typing import Any

from engine.clock import rfc3339
from engine.errors import BrokerError, CommandRefused, StoreError
from engine.kill import KillRun
from engine.model import commands as c
from engine.model import tables
from engine.model.account_state import AccountState
from engine.model.codes import CODES
from engine.model.enums import (
    ExecType,
    OrderStatus,
    OrderType,
    Side,
    SignalState,
    TimeInForce,
    TradingState,
)
from engine.model.identifiers import ClOrdIDs
from engine.model.messages import ExecutionReport
from engine.model.numbers import floor_to, to_text
from engine.model.order import Order
from engine.model.signal import Signal
from engine.planner import Plan, Release
from engine.risk.trading_state import FIRM, refusal
from engine.signal_record import SignalRecord
from engine.trading_engine import OPERATOR, TradingEngine

log = logging.getLogger(__name__)

Result = dict[str, Any]

LOOK_EVERY_S = 0.05
CANCELED_WITHIN_S = 30.0


class OperatorDesk:
    """Carries out commands, each at most once per command id."""

    def __init__(self, engine: TradingEngine) -> None:
        self._engine = engine
        self.kill_runs: dict[str, KillRun] = {}  # by scope, the newest press last

    async def handle(self, document: Result) -> Result:
        """Carry out one command; a repeat of its id gets the first result.

        Raises:
            CommandRefused: wrong fields (422), nothing like that (404) or not in this state (409).
        """
        command = c.parse_command(document)
        body = command.model_dump(mode="json")
        if isinstance(command, c.Kill):
            # The latch goes before the books: nothing may delay it.
            await self._latch_kill(command)
        try:
            earlier = await self._engine.journal.commit_command(
                command.id, rfc3339(self._engine.clock.now()), body
            )
        except StoreError:
            # Getting out must work without the books; everything else waits for them.
            if not isinstance(command, c.Kill | c.CancelOrder):
                raise
            return await self._carry_out(command)
        # What a crash cut short is carried out again only where doing it twice does no harm.
        again = earlier is not None and earlier["interrupted"] and isinstance(command, c.Kill)
        if earlier is not None and not again:
            return self._first_result(earlier, body, command.id)
        result: Result = {"error": "INTERNAL", "message": "it failed half way", "status": 500}
        try:
            result = await self._carry_out(command)
        except CommandRefused as error:
            result = {"error": error.code, "message": error.message, "status": error.status}
            raise
        finally:
            self._engine.journal.note_result(command.id, result)
        return result

    @staticmethod
    def _first_result(earlier: Result, body: Result, command_id: str) -> Result:
        if earlier["body"] != body:
            raise CommandRefused(
                "DUPLICATE_ID", f"command id {command_id} was used for another command"
            )
        result: Result = earlier["result"]
        if "error" in result:
            raise CommandRefused(result["error"], result["message"], result["status"])
        return result

    async def _carry_out(self, command: c.Command) -> Result:  # noqa: C901 (one line a command)
        match command:
            case c.Approve():
                return await self._approve(command)
            case c.Reject():
                return await self._reject(command)
            case c.Force():
                return await self._force(command)
            case c.Resend():
                return await self._resend(command)
            case c.CancelOrder():
                return self._cancel_order(command)
            case c.ReplaceOrder():
                return await self._replace_order(command)
            case c.ClosePosition():
                return await self._close_position(command)
            case c.Flatten():
                return await self._flatten(command.scope, command.id)
            case c.SetStops():
                return self._set_stops(command)
            case c.Pause():
                return await self._set_state(
                    command.scope, TradingState.REDUCING, command.reason or "paused by hand"
                )
            case c.Resume():
                return await self._resume(command)
            case c.Kill():
                return await self._kill(command)
            case c.Rearm():
                return await self._rearm(command)
            case c.Disarm():
                return await self._disarm(command)
            case c.ResolveUnknown():
                return self._resolve_unknown(command)
            case c.SetAccountActive():
                return await self._set_account_active(command)
            case c.ReloadAccounts():
                return {"result": "done", "changed": await self._engine.fleet.reload()}

    # ---- held signals ------------------------------------------------------------------------------------------

    def _record(self, key: str) -> SignalRecord:
        record = self._engine.records.get(key)
        if record is None:
            raise CommandRefused("NOT_FOUND", f"no recent signal {key}", 404)
        return record

    @staticmethod
    def _held(record: SignalRecord, accounts: Iterable[str] | None) -> list[str]:
        chosen = list(record.held) if accounts is None else list(dict.fromkeys(accounts))
        wrong = [account for account in chosen if account not in record.held]
        if wrong or not chosen:
            what = (
                f"not held for {', '.join(wrong[:5])}"
                if wrong
                else f"{record.state.value}, nothing is held"
            )
            raise CommandRefused("NOT_HELD", f"{record.key} is {what}")
        return chosen

    async def _approve(self, command: c.Approve) -> Result:
        record = self._record(command.signal)
        await self._engine.prepare(record.signal)
        chosen = self._held(record, command.accounts)
        signal = _changed(record.signal, command)
        plan = self._plan(signal, Release(frozenset(chosen), command.scale))
        if plan.code and not (plan.skipped or plan.refused):
            raise CommandRefused(plan.code, plan.message)
        for account in chosen:
            del record.held[account]
        if record.state is SignalState.HELD:
            if plan.orders:
                record.state = SignalState.ACCEPTED
            elif not record.held:
                record.state = SignalState.REFUSED
                record.code, record.message = plan.code, plan.message
        return await self._release(record, plan, "approved")

    def _plan(self, signal: Signal, release: Release) -> Plan:
        """Plan a release; when it comes to nothing the reasons per account are still told."""
        latch = self._engine.states.strictest(
            f"strategy:{signal.strategy}", f"symbol:{signal.symbol}"
        )
        if latch is not None:
            raise CommandRefused(*refusal(latch))
        return self._engine.planner.plan(signal, release)

    async def _release(self, record: SignalRecord, plan: Plan, result: str) -> Result:
        engine = self._engine
        record.skipped.update(plan.skipped)
        record.refused.update(plan.refused)
        for order in plan.orders:
            record.orders[order.account] = order
            record.skipped.pop(order.account, None)
            record.refused.pop(order.account, None)
        record.released = True
        engine.release_hold(record)
        for order in plan.orders:
            engine.orders.add(order)
        try:
            await engine.commit_record(record)
        except StoreError:
            for order in plan.orders:
                engine.orders.take_back(order)
            raise
        # An operator's decision is as fresh as the moment it was made: the age limit starts anew.
        seconds = record.signal.valid_for_s or engine.config.signals.max_age_s
        engine.send(plan.orders, record, engine.clock.monotonic_ns() + int(float(seconds) * 1e9))
        engine.publisher.touch(tables.SIGNALS, record.key)
        refused = {**plan.skipped, **plan.refused}
        return {
            "result": result,
            "orders": {order.account: order.cl_ord_id for order in plan.orders},
            "refused": {
                account: {"code": code, "message": text}
                for account, (code, text) in refused.items()
            },
        }

    async def _reject(self, command: c.Reject) -> Result:
        record = self._record(command.signal)
        chosen = self._held(record, command.accounts)
        text = command.reason or "rejected by an operator"
        for account in chosen:
            del record.held[account]
            record.skipped[account] = ("REJECTED_BY_OPERATOR", text)
        if record.state is SignalState.HELD and not record.held:
            record.state = SignalState.REJECTED
        self._engine.release_hold(record)
        await self._engine.commit_record(record)
        self._engine.publisher.touch(tables.SIGNALS, record.key)
        return {"result": "rejected", "accounts": chosen}

    async def _force(self, command: c.Force) -> Result:
        record = self._record(command.signal)
        engine = self._engine
        await engine.prepare(record.signal)
        for account in command.accounts:
            if account not in engine.fleet.states:
                raise CommandRefused("NOT_FOUND", f"no account {account}", 404)
            self._may_force(record, account)
        plan = self._plan(record.signal, Release(frozenset(command.accounts), forced=True))
        if plan.code and not (plan.skipped or plan.refused):
            raise CommandRefused(plan.code, plan.message)
        for order in plan.orders:
            before = record.orders.get(order.account)
            if before is not None:  # denied before it left: a new leg, never the old id
                signal, leg = record.signal, f"{before.leg}.f"
                order.leg = leg
                order.cl_ord_id = ClOrdIDs(engine.journal.book, signal.source, signal.id).make(
                    order.account, leg
                )
            record.held.pop(order.account, None)
        if plan.orders and record.state is not SignalState.ACCEPTED:
            record.state, record.code = SignalState.ACCEPTED, ""
            record.message = f"forced: {command.reason}"
        accounts = ", ".join(order.account for order in plan.orders)
        engine.alert(
            "warning",
            "FORCED",
            "",
            f"{record.key} forced for {accounts or 'nobody'}: {command.reason}",
        )
        return await self._release(record, plan, "forced")

    @staticmethod
    def _may_force(record: SignalRecord, account: str) -> None:
        order = record.orders.get(account)
        absent = (
            order is not None and order.status is OrderStatus.EXPIRED and order.code == "ABSENT"
        )
        if order is not None and order.status is not OrderStatus.DENIED and not absent:
            raise CommandRefused(
                "ALREADY_SENT", f"{account} has order {order.cl_ord_id}, {order.status.value}"
            )
        reason = record.skipped.get(account) or record.refused.get(account)
        code = order.code if order is not None else reason[0] if reason else record.code
        if account in record.held or not code:
            return
        info = CODES.get(code)
        if info is None or not info.soft:
            raise CommandRefused(code, f"{account}: {code} is a hard block and cannot be forced")

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

    def _cancel_order(self, command: c.CancelOrder) -> Result:
        order = self._working(command.cl_ord_id)
        engine = self._engine
        if not engine.cancel(order, "CANCELED_BY_OPERATOR", "canceled by hand before it left"):
            raise CommandRefused("NOT_CONNECTED", f"account {order.account} has no broker session")
        result = "canceled" if order.status.terminal else "requested"
        return {"result": result, "cl_ord_id": order.cl_ord_id}

    def _session(self, account: str) -> Any:
        session = self._engine.fleet.sessions.get(account)
        if session is None:
            raise CommandRefused("NOT_CONNECTED", f"account {account} has no broker session")
        return session

    async def _replace_order(self, command: c.ReplaceOrder) -> Result:
        order = self._working(command.cl_ord_id)
        session = self._session(order.account)
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
        replacement = self._by_hand(
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
        self._may_replace(replacement)
        await self._engine.journal.commit_orders([replacement])
        self._may_replace(replacement)
        self._engine.orders.add(replacement)
        self._engine.publisher.touch(tables.ORDERS, replacement.cl_ord_id)
        session.replace(order, replacement)
        return {
            "result": "requested",
            "cl_ord_id": replacement.cl_ord_id,
            "replaces": order.cl_ord_id,
        }

    def _may_replace(self, replacement: Order) -> None:
        """Hold a replacement to every limit a new order has.

        Raises:
            CommandRefused: with the code of the limit.
        """
        engine = self._engine
        state = self._state(replacement.account)
        refused = engine.gate(replacement) or engine.planner.check_by_hand(state, replacement)
        if refused is not None:
            raise CommandRefused(*refused)

    @staticmethod
    def _may_resend(order: Order) -> None:
        absent = order.status is OrderStatus.EXPIRED and order.code == "ABSENT"
        if order.status is not OrderStatus.UNKNOWN and not absent:
            raise CommandRefused("NOT_UNKNOWN", f"{order.cl_ord_id} is {order.status.value}")
        if order.leg == "replace":
            raise CommandRefused("NOT_PROVEN", "a replacement cannot be sent as a new order")

    async def _resend(self, command: c.Resend) -> Result:
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
        try:
            found = await session.find(order.cl_ord_id)
        except BrokerError as error:
            raise CommandRefused("NOT_PROVEN", f"the look-up failed: {error}") from None
        if found is not None:
            engine.on_report(found)
            raise CommandRefused(
                "EXISTS", f"the broker has {order.cl_ord_id}: {found.status or found.exec_type}"
            )
        self._may_resend(order)  # another may have been faster, or the proof have come
        settled = (engine.clock.now() - order.created_at).total_seconds()
        if settled < session.capabilities.settle_s:
            raise CommandRefused("NOT_PROVEN", "the broker may still be taking it in: try again")
        order.reopen()
        engine.orders.add_again(order)
        order.send_before_ns = engine.clock.monotonic_ns() + int(
            float(engine.config.signals.max_age_s) * 1e9
        )
        engine.dispatcher.lanes[order.account].put(order)
        return {"result": "sent", "cl_ord_id": order.cl_ord_id}

    def _resolve_unknown(self, command: c.ResolveUnknown) -> Result:
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

    def _by_hand(
        self, account: str, symbol: str, side: Side, quantity: Decimal, command_id: str, leg: str
    ) -> Order:
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

    def _state(self, account: str) -> AccountState:
        state = self._engine.fleet.states.get(account)
        if state is None:
            raise CommandRefused("NOT_FOUND", f"no account {account}", 404)
        return state

    async def _close_position(self, command: c.ClosePosition) -> Result:
        state = self._state(command.account)
        if command.fraction != 1:  # a part is rounded to the instrument's lot
            await self._engine.instruments.ensure(state.account.broker, command.symbol)
        order = self._exit(state, command.symbol, command.id, command.fraction)
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
    ) -> Order | None:
        quantity = self._engine.planner.closable(state, symbol)
        if fraction != 1:
            instrument = self._engine.instruments.get(state.account.broker, symbol)
            quantity = floor_to(quantity * fraction, instrument.lot)
        if not quantity:
            return None
        side = Side.SELL if quantity > 0 else Side.BUY
        return self._by_hand(state.id, symbol, side, abs(quantity), command_id, leg)

    async def send_by_hand(self, orders: list[Order]) -> None:
        """Make orders durable and send them, within a minute."""
        engine = self._engine
        for order in orders:
            engine.orders.add(
                order
            )  # counts from now on: a second press finds nothing left to close
        try:
            await engine.journal.commit_orders(orders)
        except StoreError:
            for order in orders:
                engine.orders.take_back(order)
            raise
        deadline = engine.clock.monotonic_ns() + 60_000_000_000
        engine.send(orders, None, deadline)

    async def _flatten(self, scope: str, command_id: str) -> Result:
        canceled = self.cancel_all(scope)
        orders = self.exits(scope, command_id)
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
        if exits:
            await self.send_by_hand(exits)

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
        engine = self._engine
        orders = []
        for state in engine.fleet.states.values():
            for symbol in engine.keeper.open_symbols(state.id):
                strategies = self._strategies(scope, state.id, symbol)
                if any(self.in_scope(scope, state, symbol, strategy) for strategy in strategies):
                    order = self._exit(state, symbol, command_id)
                    if order is not None:
                        orders.append(order)
        return orders

    def _strategies(self, scope: str, account: str, symbol: str) -> set[str]:
        if not scope.startswith("strategy:"):
            return {""}
        return {
            f.strategy
            for f in self._engine.orders.fills
            if f.account == account and f.symbol == symbol
        }

    def _set_stops(self, command: c.SetStops) -> Result:
        self._state(command.account)
        if not self._engine.set_stops(
            command.account, command.symbol, command.stop_loss, command.take_profit
        ):
            raise CommandRefused("NO_POSITION", f"{command.account} holds no {command.symbol}")
        return {"result": "done"}

    # ---- states ---------------------------------------------------------------------------------------------------

    def _check_scope(self, scope: str) -> None:
        kind, _, name = scope.partition(":")
        states = self._engine.fleet.states
        if kind == "account" and name not in states:
            raise CommandRefused("NOT_FOUND", f"no account {name}", 404)
        if kind == "broker" and all(state.account.broker != name for state in states.values()):
            raise CommandRefused("NOT_FOUND", f"no account is at broker {name}", 404)

    async def _set_state(self, scope: str, state: TradingState, reason: str) -> Result:
        self._check_scope(scope)
        latch = self._engine.states.get(scope)
        if latch is not None and latch.state in {TradingState.HALTED, TradingState.DISARMED}:
            raise CommandRefused(
                latch.state.value.upper(),
                f"{scope} is {latch.state.value} already, which is stricter",
            )
        await self._engine.latch(scope, state, reason, OPERATOR)
        return {"result": state.value, "scope": scope}

    async def _resume(self, command: c.Resume) -> Result:
        latch = self._engine.states.get(command.scope)
        if latch is None:
            return {"result": TradingState.ACTIVE.value, "scope": command.scope}
        if latch.state is not TradingState.REDUCING:
            raise CommandRefused(
                latch.state.value.upper(),
                f"{command.scope} is {latch.state.value}: rearm lifts that",
            )
        await self._engine.latch(command.scope, TradingState.ACTIVE, "", OPERATOR)
        return {"result": TradingState.ACTIVE.value, "scope": command.scope}

    async def _rearm(self, command: c.Rearm) -> Result:
        engine = self._engine
        if engine.journal.failed:
            raise CommandRefused(
                "INTERNAL", f"the journal failed, restart the engine: {engine.journal.failed}"
            )
        if engine.states.get(command.scope) is None:
            return {"result": TradingState.ACTIVE.value, "scope": command.scope}
        engine.alert("warning", "REARM", "", f"{command.scope}: {command.reason}")
        for scope, run in list(self.kill_runs.items()):
            if command.scope in {scope, FIRM}:
                run.stop()
                del self.kill_runs[scope]
        await engine.latch(command.scope, TradingState.ACTIVE, command.reason, OPERATOR)
        return {"result": TradingState.ACTIVE.value, "scope": command.scope}

    async def _disarm(self, command: c.Disarm) -> Result:
        latch = self._engine.states.get(FIRM)
        if latch is not None and latch.state is TradingState.HALTED:
            raise CommandRefused("HALTED", "the firm is halted already, which is stricter")
        await self._engine.latch(
            FIRM, TradingState.DISARMED, command.reason or "disarmed by hand", OPERATOR
        )
        return {"result": TradingState.DISARMED.value, "scope": FIRM}

    # ---- kill -----------------------------------------------------------------------------------------------------

    async def _latch_kill(self, command: c.Kill) -> None:
        latch = self._engine.states.get(command.scope)
        if latch is None or latch.state is not TradingState.HALTED:
            await self._engine.latch(
                command.scope, TradingState.HALTED, command.reason or "kill switch", OPERATOR
            )

    async def _kill(self, command: c.Kill) -> Result:
        before = self.kill_runs.pop(command.scope, None)
        if before is not None:
            before.stop()
        flatten = command.flatten or (before is not None and before.flatten)
        # Exits of a run that was cut short keep their ids: this one's are its own.
        run_id = f"{command.id[:40]}.{self._engine.clock.monotonic_ns():x}"
        run = KillRun(self._engine, self, command.scope, run_id, flatten)
        self.kill_runs[command.scope] = run
        canceled = await run.begin()
        return {
            "result": "halted",
            "scope": command.scope,
            "cancels": canceled,
            "flatten": command.flatten,
        }

    # ---- accounts ------------------------------------------------------------------------------------------------

    async def _set_account_active(self, command: c.SetAccountActive) -> Result:
        state = self._state(command.account)
        account = state.account.model_copy(update={"active": command.active})
        await self._engine.fleet.store.put([account])
        await self._engine.fleet.reload()
        return {"result": "active" if command.active else "inactive", "account": command.account}


def _changed(signal: Signal, command: c.Approve) -> Signal:
    """Return the signal as the operator changed it; a limit price makes a market order a limit order."""
    changes: dict[str, Any] = {}
    if command.limit_price is not None:
        changes["limit_price"] = command.limit_price
        if signal.order_type is OrderType.MARKET:
            changes["order_type"] = OrderType.LIMIT
        elif not signal.order_type.needs_limit:
            raise CommandRefused(
                "INVALID_COMMAND", f"a {signal.order_type.value} order takes no limit_price", 422
            )
    for name in ("stop_loss", "take_profit"):
        value = getattr(command, name)
        if value is not None:
            changes[name] = value
    return replace(signal, **changes) if changes else signal
