"""Reading accounts' money, in turn and a few at a time: looking must never crowd out an order."""

from __future__ import annotations

import asyncio
import logging
from collections import Counter
from collections.abc import Callable, Iterable, Mapping

from engine.clock import Clock
from engine.errors import BrokerError
from engine.execution.dispatcher import Dispatcher
from engine.execution.standing_back import StandingBack
from engine.model.account_state import AccountState
from engine.model.numbers import ZERO
from engine.portfolio.position_keeper import PositionKeeper
from engine.ports import BrokerSession

log = logging.getLogger(__name__)

EVERY_NS = 15_000_000_000
AFTER_FILL_NS = 3_000_000_000
AT_ONCE = 4
PAUSE_S = 0.2


class BalanceReader:
    """Keeps every usable account's money fresh; a venue that does not answer holds up no other's.

    It stands back while orders leave; in between, an account's equity follows its own fills (``balance_base``).
    Sessions are the fleet's own.
    """

    def __init__(
        self,
        clock: Clock,
        states: Mapping[str, AccountState],
        sessions: Mapping[str, BrokerSession],
        dispatcher: Dispatcher,
        keeper: PositionKeeper,
        changed: Callable[[str], None],
    ) -> None:
        self._clock = clock
        self._states = states
        self._sessions = sessions
        self._dispatcher = dispatcher
        self._keeper = keeper
        self._changed = changed
        self._due_ns: dict[str, int] = {}
        self._standing_back = StandingBack(dispatcher, states)
        self._reading: dict[str, asyncio.Task[None]] = {}  # by account

    def now(self, account_id: str) -> None:
        """Read an account's money as soon as it is its turn."""
        self._due_ns[account_id] = 0

    def soon(self, account_id: str) -> None:
        """Read an account's money again in a moment (after a fill)."""
        due = self._clock.monotonic_ns() + AFTER_FILL_NS
        if self._due_ns.get(account_id, 0) > due:
            self._due_ns[account_id] = due

    async def run(self) -> None:
        """Read until cancelled."""
        try:
            while True:
                hurry = self._begin(self._clock.monotonic_ns())
                if hurry and self._reading:
                    await asyncio.wait(
                        self._reading.values(),
                        timeout=PAUSE_S,
                        return_when=asyncio.FIRST_COMPLETED,
                    )
                else:
                    await asyncio.sleep(PAUSE_S)
        finally:
            reading = list(self._reading.values())
            for task in reading:
                task.cancel()
            await asyncio.gather(*reading, return_exceptions=True)

    def _begin(self, now: int) -> bool:
        """Begin what is due, a few at a venue; say whether it is somebody's first time: those need no pause."""
        due = [state for state in self._states.values() if self._is_due(state, now)]
        if self._begin_some((state for state in due if state.balances is None), now):
            return True
        if not self._standing_back.holds(now):
            self._begin_some((state for state in due if state.balances is not None), now)
        return False

    def _begin_some(self, states: Iterable[AccountState], now: int) -> int:
        at_venue = Counter(task.get_name() for task in self._reading.values())
        before = len(self._reading)
        for state in states:
            venue = f"balances {state.broker} {state.account.base_url}"
            if at_venue[venue] < AT_ONCE:
                at_venue[venue] += 1
                self._due_ns[state.id] = now + EVERY_NS
                work = self._read_once(state)
                self._reading[state.id] = asyncio.get_running_loop().create_task(work, name=venue)
        return len(self._reading) - before

    async def _read_once(self, state: AccountState) -> None:
        try:
            await self.read(state)
        except Exception:  # one account's failure stays its own
            log.exception("reading the money of %s failed", state.id)
        finally:
            del self._reading[state.id]

    def _is_due(self, state: AccountState, now: int) -> bool:
        if not state.usable or state.id in self._reading or self._due_ns.get(state.id, 0) > now:
            return False
        lane = self._dispatcher.lanes.get(state.id)
        return lane is None or lane.paused_until_ns <= now  # asked for quiet, the broker gets it

    async def read(self, state: AccountState) -> None:
        """Read an account's money now; a failure is shown in its row."""
        session = self._sessions.get(state.id)
        if session is None:
            return
        try:
            state.balances = await session.balances()
        except BrokerError as error:
            state.last_error = f"balances: {error}"
        else:
            state.balance_base = (
                self._keeper.pnl(state.id).total if self._keeper.of(state.id) else ZERO
            )
        state.updated_at = self._clock.now()
        self._changed(state.id)
