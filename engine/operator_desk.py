"""What an operator may do by hand: each command once, to the part that carries it out; states, kill and re-arm here."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable
from typing import Any

from engine import failpoints
from engine.clock import rfc3339
from engine.errors import CommandRefused, ConfigError, StoreError
from engine.kill import KillRun, closed_outside, tell_closed_outside
from engine.kill_latch import GENERATION
from engine.latches import DURABLE_WITHIN_S
from engine.model import commands as c
from engine.model.enums import (
    TradingState,
)
from engine.operators import Authority, acting
from engine.orders_by_hand import OrdersByHand
from engine.pretrade_state import propose
from engine.risk.trading_state import FIRM
from engine.signals_by_hand import SignalsByHand
from engine.trading_engine import TradingEngine

log = logging.getLogger(__name__)

Result = dict[str, Any]
Handler = Callable[[Any], Awaitable[Result]]


class OperatorDesk:
    """Carries out commands, each at most once per command id."""

    def __init__(self, engine: TradingEngine, authority: Authority) -> None:
        self._engine = engine
        self.authority = authority
        self.by_hand = OrdersByHand(engine)
        self.signals = SignalsByHand(engine)
        self.kill_runs: dict[str, KillRun] = {}  # by scope, the newest press last
        self._pressed_ns = self._latched_ns = self._presses = 0
        self.handlers: dict[type[c.Command], Handler] = {}
        """What carries out the commands whose parts wiring puts in."""

    async def handle(self, document: Result) -> Result:
        """Carry out one command; a repeat of its id gets the first result.

        Raises:
            CommandRefused: wrong fields (422), nothing like that (404) or not in this state (409).
        """
        command = c.parse_command(document)
        if isinstance(command, c.UNRECORDED):
            return await self._carry_out(command)
        body = command.model_dump(mode="json")
        asked_of = self._standing(command)
        if isinstance(command, c.Kill):
            # The latch goes before the books: nothing may delay it.
            await self._latch_kill(command)
        await self.authority.check(command)
        try:
            # A hung disk must not hold up the cancels.
            async with asyncio.timeout(DURABLE_WITHIN_S if isinstance(command, c.Kill) else None):
                journal = self._engine.journal
                # An approval does nothing before its plan is committed: its own row goes with that.
                first = isinstance(command, c.Approve)
                note = journal.begin_command if first else journal.commit_command
                earlier = await note(command.id, rfc3339(self._engine.clock.now()), body)
        except (StoreError, TimeoutError):
            # Getting out must work without the books; everything else waits for them.
            if not isinstance(command, c.Kill | c.CancelOrder | c.CancelOrders):
                raise
            return await self._carry_out(command)
        if earlier is not None:
            again = self._kill_again(command, earlier)
            if again is None:
                return self._first_result(earlier, body, command.id)
            command = again
        result: Result = {"error": "INTERNAL", "message": "it failed half way", "status": 500}
        try:
            self._refuse_newer_latch(command, asked_of)
            result = await self._carry_out(command)
        except CommandRefused as error:
            result = {"error": error.code, "message": error.message, "status": error.status}
            self._engine.controls.refused(error.code, "", error.message)
            raise
        finally:
            self._engine.journal.note_result(command.id, result)
        return result

    def _kill_again(self, command: c.Command, earlier: Result) -> c.Kill | None:
        """Return what a repeated kill has to do: what was cut short, or cancels if it was armed again meanwhile.

        Its latch stands anew by then, and a halt with orders working under it is none. Positions are closed once.
        """
        if not isinstance(command, c.Kill):
            return None
        if earlier["interrupted"]:
            return command
        if command.scope in self.kill_runs:
            return None
        return command.model_copy(update={"flatten": False})

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
                return await self.signals.approve(command)
            case c.Reject():
                return await self.signals.reject(command)
            case c.Force():
                return await self.signals.force(command)
            case c.Resend():
                return await self.by_hand.resend(command)
            case c.CancelOrder():
                return await self.by_hand.cancel_order(command)
            case c.CancelOrders():
                self._check_scope(command.scope)
                return await self.by_hand.cancel_orders(command)
            case c.ReplaceOrder():
                return await self.by_hand.replace_order(command)
            case c.ClosePosition():
                return await self.by_hand.close_position(command)
            case c.Flatten():
                self._check_scope(command.scope)
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
            case c.LookUp():
                return await self.by_hand.look_up(command)
            case c.LogIn():
                return await self._log_in(command)
            case c.ReloadAccounts():
                return {"result": "done", "changed": await self._engine.fleet.reload()}
            case _:
                carry_out = self.handlers.get(type(command))
                if carry_out is None:
                    raise CommandRefused("INVALID_COMMAND", f"{command.command}: not here", 422)
                return await carry_out(command)

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
        if latch is not None:  # in its place: resuming ours must not undo what a control has paused
            self.authority.check_trip(scope, latch.by)
        await self._engine.latch(scope, state, reason, acting.get().name)
        return {"result": state.value, "scope": scope}

    async def _resume(self, command: c.Resume) -> Result:
        latch = self._engine.states.get(command.scope)
        if latch is None:
            self._check_scope(command.scope)
            return {"result": TradingState.ACTIVE.value, "scope": command.scope}
        if latch.state is not TradingState.REDUCING:
            raise CommandRefused(
                latch.state.value.upper(),
                f"{command.scope} is {latch.state.value}: rearm lifts that",
            )
        self.authority.check_trip(command.scope, latch.by)
        await self._engine.latch(command.scope, TradingState.ACTIVE, "", acting.get().name)
        return {"result": TradingState.ACTIVE.value, "scope": command.scope}

    def _standing(self, command: c.Command) -> tuple[Any, ...]:
        """Return what a rearm is asked to lift, and which kills have come so far."""
        if not isinstance(command, c.Rearm):
            return ()
        engine = self._engine
        return engine.states.get(command.scope), self._presses, engine.shared.words[GENERATION]

    def _refuse_newer_latch(self, command: c.Command, asked_of: tuple[Any, ...]) -> None:
        """Refuse a rearm where a kill or another latch came while it waited for the books: it was not meant."""
        if self._standing(command) == asked_of:
            return
        assert isinstance(command, c.Rearm)
        latch = self._engine.states.get(command.scope)
        if latch is not None:
            text = f"{command.scope}: the kill switch or another latch came in this moment"
            raise CommandRefused(latch.code, text)

    async def _rearm(self, command: c.Rearm) -> Result:
        engine = self._engine
        if engine.journal.failed:
            raise CommandRefused(
                "INTERNAL", f"the journal failed, restart the engine: {engine.journal.failed}"
            )
        latch = engine.states.get(command.scope)
        if latch is None:
            self._check_scope(command.scope)
            return {"result": TradingState.ACTIVE.value, "scope": command.scope}
        if command.scope == FIRM and latch.state is TradingState.DISARMED:
            self._refuse_without_limits()
        engine.alert("warning", "REARM", "", f"{command.scope}: {command.reason}")
        if engine.shared.words[GENERATION] != engine.shared.seen:  # it would lift that press, too
            engine.last_gate.look_at_latch()
            raise CommandRefused("HALTED", "the kill switch was pressed outside in this moment")
        run = self.kill_runs.pop(command.scope, None)  # those of narrower scopes: their halts stand
        if run is not None:
            run.stop()
            if run.exits_wait:
                text = (
                    f"{command.scope} is armed before its exits could leave: no position is closed"
                )
                engine.alert("critical", "KILL_INCOMPLETE", "", text)
        engine.shared.lift(command.scope)
        try:
            await asyncio.to_thread(engine.shared.sync)
        except OSError as error:
            text = f"{command.scope} is armed, and halted again after a restart: {error}"
            engine.alert("critical", "INTERNAL", "", text)
        if engine.shared.of(command.scope) is not None:
            raise CommandRefused("HALTED", f"{command.scope} was halted again in this moment")
        await engine.latch(command.scope, TradingState.ACTIVE, command.reason, acting.get().name)
        return {"result": TradingState.ACTIVE.value, "scope": command.scope}

    def _refuse_without_limits(self) -> None:
        """Refuse to arm while an account that trades real money has no limits on its orders (C02)."""
        engine = self._engine
        states = engine.fleet.states.values()
        unset = [state for state in states if state.active and state.limits_unset]
        if not unset:
            return
        said = [f"{state.id} ({propose(engine, state).sentence})" for state in unset[:10]]
        more = f" and {len(unset) - 10} more" if unset[10:] else ""
        raise CommandRefused(
            "LIMITS_UNSET",
            "set max_order_quantity and max_order_value (set_limits) before arming: "
            f"{'; '.join(said)}{more}",
        )

    async def _disarm(self, command: c.Disarm) -> Result:
        latch = self._engine.states.get(FIRM)
        if latch is not None and latch.state is TradingState.HALTED:
            raise CommandRefused("HALTED", "the firm is halted already, which is stricter")
        await self._engine.latch(
            FIRM,
            TradingState.DISARMED,
            command.reason or "disarmed by hand",
            acting.get().name,
        )
        return {"result": TradingState.DISARMED.value, "scope": FIRM}

    # ---- kill -----------------------------------------------------------------------------------------------------

    async def _latch_kill(self, command: c.Kill) -> None:
        engine, by = self._engine, acting.get().name
        self._presses += 1
        self._pressed_ns = engine.clock.monotonic_ns()
        reason = command.reason or "kill switch"
        latch = engine.states.get(command.scope)
        if failpoints.ARMED:
            failpoints.hit("K27.before")
        # A restart goes on with what is not through, and tells of positions that were to be closed.
        exits = command.flatten and not closed_outside(engine, command.scope)
        more = engine.shared.halt(
            command.scope,
            reason,
            by,
            rfc3339(engine.clock.now()),
            unfinished=True,
            exits=exits,
        )
        if latch is None or latch.state is not TradingState.HALTED:
            await engine.latch(command.scope, TradingState.HALTED, reason, by)
        elif more:
            await engine.latches.confirm(command.scope)
        self._latched_ns = engine.clock.monotonic_ns()
        if failpoints.ARMED:
            failpoints.hit("K27.after")

    async def _kill(self, command: c.Kill) -> Result:
        before = self.kill_runs.get(command.scope)
        flatten = command.flatten or (before is not None and before.flatten)
        if before is not None and before.covers(flatten):  # the same press, come by latch and API
            return self._killed(command.scope, before.count, flatten)
        if before is not None:
            before.stop()
        if flatten and closed_outside(self._engine, command.scope):
            tell_closed_outside(self._engine, command.scope)
            flatten = False
        # Exits of a run that was cut short keep their ids: this one's are its own.
        run_id = f"{command.id[:40]}.{self._engine.clock.monotonic_ns():x}"
        run = KillRun(self._engine, self.by_hand, command.scope, run_id, flatten)
        self.kill_runs[command.scope] = run
        return self._killed(command.scope, await run.begin(), flatten)

    def _killed(self, scope: str, canceled: int, flatten: bool) -> Result:
        return {
            "result": "halted",
            "scope": scope,
            "cancels": canceled,
            "flatten": flatten,
            "latch_ms": (self._latched_ns - self._pressed_ns) / 1e6,
            "dispatched_ms": (self._engine.clock.monotonic_ns() - self._pressed_ns) / 1e6,
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
