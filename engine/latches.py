"""Setting and lifting latches: in force at once, durable when the call returns, told to everybody."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine, Iterable
from dataclasses import dataclass
from typing import Any

from engine.clock import Clock, rfc3339
from engine.errors import StoreError
from engine.kill_latch import KillLatch
from engine.model import tables
from engine.model.enums import TradingState
from engine.publisher import Publisher
from engine.risk.trading_state import Latch, TradingStates
from engine.stores.journal import Journal

DURABLE_WITHIN_S = 1.0


@dataclass(slots=True)
class LatchHooks:
    """What a latch needs of the engine and whom it tells."""

    shared: Callable[[], KillLatch]  # the home's own latch, which other processes see
    accounts: Callable[[], Iterable[str]]
    alert: Callable[[str, str, str, str, str], None]  # severity, code, account, text, scope
    changed: Callable[[str, Latch | None, Latch], None]  # a scope, its latch before and after
    loosened: Callable[[], None]  # exits may leave that could not


class Latches:
    """Puts scopes into states."""

    def __init__(
        self,
        clock: Clock,
        states: TradingStates,
        journal: Journal,
        publisher: Publisher,
        hooks: LatchHooks,
    ) -> None:
        self._clock = clock
        self._states = states
        self._journal = journal
        self._publisher = publisher
        self._hooks = hooks

    async def set(self, scope: str, state: TradingState, reason: str, by: str) -> None:
        """Put a scope into a state: in force at once, durable when this returns."""
        at = rfc3339(self._clock.now())
        before, after = self._states.get(scope), Latch(scope, state, reason, at, by)
        self._states.set(after)
        self._hooks.changed(scope, before, after)
        self._publisher.touch(tables.HALTS, scope)
        self._publisher.touch(tables.ENGINE, "engine")
        for account in self._hooks.accounts():
            self._publisher.touch(tables.ACCOUNTS, account)
        await self._durable(scope, self._keep(after))
        if state in {TradingState.ACTIVE, TradingState.REDUCING}:
            self._hooks.loosened()
        severity = "critical" if state is TradingState.HALTED else "info"
        text = f"{scope} is {state.value}" + (f": {reason}" if reason else "")
        self._hooks.alert(severity, state.value.upper(), "", text, scope)

    async def confirm(self, scope: str) -> None:
        """Make durable what a press has added to a halt that stands already."""
        await self._durable(scope, asyncio.to_thread(self._hooks.shared().sync))

    async def _durable(self, scope: str, keeping: Coroutine[Any, Any, None]) -> None:
        try:
            async with asyncio.timeout(
                DURABLE_WITHIN_S
            ):  # a hung disk must not hold up the cancels
                await keeping
        except (StoreError, OSError, TimeoutError) as error:
            text = f"the latch of {scope} is in force but not durable: {error}"
            self._hooks.alert("critical", "INTERNAL", "", text, scope)

    async def _keep(self, latch: Latch) -> None:
        scope, state = latch.scope, latch.state
        if state is TradingState.HALTED:  # beside the row: a halt stands if either says so
            shared = self._hooks.shared()
            shared.halt(scope, latch.reason, latch.by, latch.at)
            row = self._journal.commit_halt(scope, state.value, latch.reason, latch.at, latch.by)
            await asyncio.gather(asyncio.to_thread(shared.sync), row)
        elif state is TradingState.ACTIVE:
            await self._journal.clear_halt(scope)
        else:
            await self._journal.commit_halt(scope, state.value, latch.reason, latch.at, latch.by)
