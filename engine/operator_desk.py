"""What an operator may do by hand: release, refuse, force, cancel, change, close, flatten, pause, kill, re-arm."""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable, Iterable
from dataclasses import replace
from typing import Any

from engine.clock import rfc3339
from engine.errors import CommandRefused, ConfigError, StoreError
from engine.kill import KillRun
from engine.model import commands as c
from engine.model import tables
from engine.model.codes import CODES
from engine.model.enums import (
    OrderStatus,
    OrderType,
    SignalState,
    TradingState,
)
from engine.model.identifiers import OPERATOR, ClOrdIDs
from engine.model.signal import Signal
from engine.orders_by_hand import OrdersByHand
from engine.planner import Plan, Release
from engine.risk.trading_state import FIRM, refusal
from engine.signal_record import SignalRecord
from engine.trading_engine import TradingEngine

log = logging.getLogger(__name__)

Result = dict[str, Any]
Handler = Callable[[Any], Awaitable[Result]]


class OperatorDesk:
    """Carries out commands, each at most once per command id."""

    def __init__(self, engine: TradingEngine) -> None:
        self._engine = engine
        self.by_hand = OrdersByHand(engine)
        self.kill_runs: dict[str, KillRun] = {}  # by scope, the newest press last
        self.handlers: dict[type[c.Command], Handler] = {}
        """What carries out the commands whose parts wiring puts in."""

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
                return await self.by_hand.resend(command)
            case c.CancelOrder():
                return self.by_hand.cancel_order(command)
            case c.ReplaceOrder():
                return await self.by_hand.replace_order(command)
            case c.ClosePosition():
                return await self.by_hand.close_position(command)
            case c.Flatten():
                return await self.by_hand.flatten(command.scope, command.id)
            case c.SetStops():
                return await self.by_hand.set_stops(command)
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
                return self.by_hand.resolve_unknown(command)
            case c.SetAccountActive():
                return await self._set_account_active(command)
            case c.LogIn():
                return await self._log_in(command)
            case c.ReloadAccounts():
                return {"result": "done", "changed": await self._engine.fleet.reload()}
            case _:
                carry_out = self.handlers.get(type(command))
                if carry_out is None:
                    raise CommandRefused("INVALID_COMMAND", f"{command.command}: not here", 422)
                return await carry_out(command)

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
        engine.held.release(record)
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
        finish = engine.dispatcher.predict(
            [order.account for order in plan.orders],
            engine.clock.monotonic_ns(),
            entry=record.signal.side is not None,
        )
        engine.send(plan.orders, record, engine.clock.monotonic_ns() + int(float(seconds) * 1e9))
        engine.publisher.touch(tables.SIGNALS, record.key)
        refused = {**plan.skipped, **plan.refused}
        return {
            "result": result,
            "orders": {order.account: order.cl_ord_id for order in plan.orders},
            "predicted_finish_ms": round(finish.seconds * 1000),
            "predicted_cold": finish.cold,
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
        self._engine.held.release(record)
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
        run = KillRun(self._engine, self.by_hand, command.scope, run_id, flatten)
        self.kill_runs[command.scope] = run
        canceled = await run.begin()
        return {
            "result": "halted",
            "scope": command.scope,
            "cancels": canceled,
            "flatten": command.flatten,
        }

    # ---- accounts ------------------------------------------------------------------------------------------------

    async def _log_in(self, command: c.LogIn) -> Result:
        session = self._engine.fleet.sessions.get(command.account)
        begin = getattr(session, "log_in", None)  # only brokers whose sessions end have it
        if begin is None:
            raise CommandRefused("NO_LOGIN", f"account {command.account} needs no login")
        try:
            return {"result": "requested", "url": await begin()}
        except ConfigError as error:
            raise CommandRefused("NO_LOGIN", str(error)) from None

    async def _set_account_active(self, command: c.SetAccountActive) -> Result:
        state = self.by_hand.state(command.account)
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
    for name in ("stop_loss", "take_profit", "trail_percent"):
        value = getattr(command, name)
        if value is not None:
            changes[name] = value
    return replace(signal, **changes) if changes else signal
