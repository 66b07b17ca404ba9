"""Whose turn it is to be compared with its broker, and of what: in time, a few at once, behind every order."""

from __future__ import annotations

import asyncio
import zlib
from collections import Counter
from collections.abc import Awaitable, Callable, Mapping

from engine.clock import Clock
from engine.execution.dispatcher import Dispatcher
from engine.execution.standing_back import StandingBack
from engine.model.account_state import AccountState
from engine.ports import BrokerSession, Capabilities

LOOK_S = 0.1
AT_ONCE = 8
"""Comparisons under way at one venue."""
MOST_BEGUN = 16
"""In one look round: with a thousand accounts the loop must still be everybody's."""

Compare = Callable[[AccountState, BrokerSession, list[str]], Awaitable[None]]


class _Pace:
    """What one egress address may still read: every read moves on the moment of the next."""

    def __init__(self) -> None:
        self.free_ns = 0

    def take(self, cost: float, capabilities: Capabilities, now_ns: int) -> bool:
        """Take a read if its time has come; say whether it has."""
        if not capabilities.reads_per_second:
            return True
        if now_ns < self.free_ns:
            return False
        self.free_ns = max(now_ns, self.free_ns) + int(cost / capabilities.reads_per_second * 1e9)
        return True


class Turns:
    """When each account's orders, positions and cash are compared next. ``every_s``: by kind, 0 is never.

    An account takes part from ``begin`` on, until it is removed: then ``gone`` is called. ``compare`` must not raise.
    """

    def __init__(  # noqa: PLR0913 (what turns depend on)
        self,
        clock: Clock,
        states: Mapping[str, AccountState],
        sessions: Mapping[str, BrokerSession],
        dispatcher: Dispatcher,
        every_s: Mapping[str, float],
        compare: Compare,
        gone: Callable[[str], None],
    ) -> None:
        self._clock = clock
        self._states = states
        self._sessions = sessions
        self._dispatcher = dispatcher
        self._every_ns = {kind: int(every * 1e9) for kind, every in every_s.items() if every > 0}
        self._compare = compare
        self._gone = gone
        self._due: dict[str, dict[str, int]] = {}
        self._next: dict[str, int] = {}  # the soonest of them, looked at ten times a second
        self._last: dict[tuple[str, str], tuple[int, int]] = {}  # (begun, how long after the last)
        self._visits: dict[str, asyncio.Task[None]] = {}
        self._paces: dict[tuple[str, ...], _Pace] = {}
        self._standing_back = StandingBack(dispatcher, states)

    async def run(self) -> None:
        """Take turns until cancelled; comparisons under way are given up then."""
        try:
            while True:
                await asyncio.sleep(LOOK_S)
                self._look(self._clock.monotonic_ns())
        finally:
            visits = list(self._visits.values())
            for task in visits:
                task.cancel()
            await asyncio.gather(*visits, return_exceptions=True)

    # ---- who is when -----------------------------------------------------------------------------------------

    def begin(self, account: str) -> None:
        """Let an account take part; the moment of its first turns follows from its id."""
        now = self._clock.monotonic_ns()
        if not self._every_ns:
            return
        due = self._due[account] = {
            kind: now + every * (1 + zlib.crc32(f"{account}/{kind}".encode()) % 1000) // 1000
            for kind, every in self._every_ns.items()
        }
        self._next[account] = min(due.values())

    def soon(self, account: str, kind: str, in_s: float) -> None:
        """Give a turn in so many seconds, should it not come sooner anyway."""
        due, at = self._due.get(account), self._clock.monotonic_ns() + int(in_s * 1e9)
        if due is not None and kind in due:
            due[kind] = min(due[kind], at)
            self._next[account] = min(self._next[account], at)

    def every_s(self, account: str) -> dict[str, float]:
        """Return how often an account's turns really come, by kind: as configured until measured."""
        measured = {}
        for kind, every in self._every_ns.items():
            _begun, took = self._last.get((account, kind), (0, 0))
            measured[kind] = max(every, took) / 1e9
        return measured

    # ---- taking turns ------------------------------------------------------------------------------------------

    def _look(self, now: int) -> None:
        """Begin what is due, the longest overdue first."""
        if self._standing_back.holds(now):
            return
        waiting = sorted(
            (due, account)
            for account, due in self._next.items()
            if due <= now and account not in self._visits
        )
        at_venue = Counter(task.get_name() for task in self._visits.values())
        begun = 0
        for _, account in waiting:
            if begun >= MOST_BEGUN:
                return
            state, session = self._states.get(account), self._sessions.get(account)
            if state is None:  # removed
                del self._due[account], self._next[account]
                self._gone(account)
            if state is None or session is None:
                continue
            venue = f"reconcile {state.venue}"
            if at_venue[venue] >= AT_ONCE or not self._may_read(state, now):
                continue
            if kinds := self._take(state, session, now):
                at_venue[venue] += 1
                begun += 1
                self._visits[account] = asyncio.get_running_loop().create_task(
                    self._visit(state, session, kinds), name=venue
                )

    def _may_read(self, state: AccountState, now: int) -> bool:
        """Say whether an account's broker would hear us: asked for quiet, it gets it."""
        lane = self._dispatcher.lanes.get(state.id)
        return state.usable and (lane is None or lane.paused_until_ns <= now)

    def _take(self, state: AccountState, session: BrokerSession, now: int) -> list[str]:
        """Return what is due and may be read now by the account's address."""
        capabilities = session.capabilities
        costs = {"order": capabilities.orders_cost, "position": capabilities.positions_cost}
        pace = self._paces.setdefault(_address(state), _Pace())
        due, kinds = self._due[state.id], []
        for kind in sorted(due, key=due.__getitem__):
            if due[kind] > now or not pace.take(costs.get(kind, 1.0), capabilities, now):
                continue
            begun, _took = self._last.get((state.id, kind), (0, 0))
            self._last[state.id, kind] = (now, now - begun if begun else 0)
            due[kind] = now + self._every_ns[kind]
            kinds.append(kind)
        self._next[state.id] = min(due.values())
        return kinds

    async def _visit(self, state: AccountState, session: BrokerSession, kinds: list[str]) -> None:
        try:
            await self._compare(state, session, kinds)
        finally:
            del self._visits[state.id]


def _address(state: AccountState) -> tuple[str, ...]:
    """Return what tells one egress address at one broker from another, as far as reading goes."""
    account = state.account
    egress = account.egress
    way = (str(egress.local_address), str(egress.proxy)) if egress else ()
    return (account.broker, str(account.base_url or account.environment), *way)
