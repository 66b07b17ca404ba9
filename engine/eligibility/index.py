"""The eligibility index: for each strategy who follows it, kept ready for the next signal."""

from __future__ import annotations

from collections.abc import Iterable

from engine.eligibility import rules
from engine.model.account_state import AccountState
from engine.model.signal import Signal

Skipped = dict[str, tuple[str, str]]
"""Account → code and sentence."""


class EligibilityIndex:
    """Accounts by strategy and symbol. Rebuilt only for what changed, asked on every signal."""

    def __init__(self) -> None:
        self._states: dict[str, AccountState] = {}
        self._routes: dict[tuple[str, str], tuple[list[AccountState], Skipped]] = {}

    def replace(self, states: Iterable[AccountState]) -> None:
        """Take the accounts as they are now; answers worked out before are forgotten."""
        self._states = {state.id: state for state in states}
        self._routes.clear()

    def candidates(self, signal: Signal) -> tuple[list[AccountState], Skipped]:
        """Return the accounts a signal is for, and for every other one the code why not."""
        followers, passed_over = self._route(signal)
        if signal.audience is None:
            return followers, passed_over
        skipped: Skipped = dict(passed_over)
        chosen: list[AccountState] = []
        for state in followers:
            reason = rules.addressed(state, signal)
            if reason is None:
                chosen.append(state)
            else:
                skipped[state.id] = reason
        return chosen, skipped

    def _route(self, signal: Signal) -> tuple[list[AccountState], Skipped]:
        key = (signal.strategy, signal.symbol)
        route = self._routes.get(key)
        if route is None:
            followers: list[AccountState] = []
            skipped: Skipped = {}
            for state in self._states.values():
                reason = rules.subscribed(state, signal)
                if reason is None:
                    followers.append(state)
                else:
                    skipped[state.id] = reason
            if (
                len(self._routes) > 10_000
            ):  # producers choose these words: bound what they may make us keep
                self._routes.clear()
            route = self._routes[key] = (followers, skipped)
        return route
