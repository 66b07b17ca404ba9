"""Control C08: an account, or the firm, that has lost its limit of the day opens nothing more.

An account's day is its session's, and its trip ends with it; the firm's is the UTC day, and it counts from what each
account had made when that day began, or when it was first seen: accounts come and go with all they ever made. Both are
looked at once a second; an account with such a limit also when an order of its leaves.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from datetime import UTC, date
from decimal import Decimal
from typing import Any, Final

from engine.clock import Clock
from engine.model.account_state import AccountState
from engine.model.numbers import to_text
from engine.risk.trading_state import FIRM

FACT: Final = "daily_loss"
Reason = tuple[str, str]
Check = Callable[[AccountState, Decimal], Reason | None]


class DailyLoss:
    """Watches the day's profit and loss. ``total`` is an account's P&L since ever; ``check`` its own limit.

    ``trip`` and ``clear`` are called with a scope and a sentence; ``priced`` says whether every position has a price.
    """

    def __init__(  # noqa: PLR0913 (whom it watches and whom it tells)
        self,
        clock: Clock,
        accounts: Mapping[str, AccountState],
        most: Decimal | None,
        total: Callable[[str], Decimal],
        check: Check,
        trip: Callable[[str, str], None],
        clear: Callable[[str, str], None],
        keep: Callable[[str, str, dict[str, Any] | None], None],
        priced: Callable[[AccountState], bool] = lambda _state: True,
    ) -> None:
        self._clock = clock
        self._accounts = accounts
        self._most = most
        self._total = total
        self._check = check
        self._trip = trip
        self._clear = clear
        self._keep = keep
        self._priced = priced
        self._tripped: dict[str, date] = {}  # account → the day it lost
        self._day: date | None = None  # the firm's
        self._baselines: dict[str, Decimal] = {}  # account → what it had made when that day began
        self._lost = False  # the firm, on its day

    def load(self, facts: Mapping[str, dict[str, Any]]) -> None:
        """Go on after a restart: on the same day the firm counts from where it did."""
        for key, fact in facts.items():
            day = date.fromisoformat(fact["day"])
            if key == FIRM:
                self._day, self._lost = day, fact["lost"]
                self._baselines = {name: Decimal(made) for name, made in fact["made"].items()}
            else:
                self._tripped[key.removeprefix("account:")] = day

    def refusal(self, state: AccountState) -> Reason | None:
        """Say whether an account has lost its limit today."""
        return self._check(state, self._total(state.id) - state.day_baseline)

    def tick(self) -> None:
        """Look at every account with a limit, and at the firm."""
        for state in self._accounts.values():
            if state.limits.max_daily_loss is not None or state.id in self._tripped:
                self._look(state)
        if self._most is not None:
            self._look_at_firm(self._most)

    def _look(self, state: AccountState) -> None:
        scope = f"account:{state.id}"
        lost_on = self._tripped.get(state.id)
        if lost_on is not None:
            if state.day is not None and state.day > lost_on:
                del self._tripped[state.id]
                self._keep(FACT, scope, None)
                self._clear(scope, f"a new session began: {state.day.isoformat()}")
            return
        if state.day is None or not self._priced(state):
            return
        lost = self.refusal(state)
        if lost is not None:
            self._tripped[state.id] = state.day
            self._keep(FACT, scope, {"day": state.day.isoformat()})
            self._trip(scope, lost[1])

    def _look_at_firm(self, most: Decimal) -> None:
        today = self._clock.now().astimezone(UTC).date()
        if not all(self._priced(state) for state in self._accounts.values()):
            return
        if self._day is None or today > self._day:
            self._day, self._lost = today, False
            self._baselines = {account: self._total(account) for account in self._accounts}
            self._note(today)
            self._clear(FIRM, f"a new day began: {today.isoformat()}")
            return
        if added := self._accounts.keys() - self._baselines.keys():
            self._baselines |= {account: self._total(account) for account in added}
            self._note(today)
        made = (self._total(account) - before for account, before in self._baselines.items())
        day_pnl = sum(made, Decimal(0))
        if day_pnl <= -most and not self._lost:
            self._lost = True
            self._note(today)
            self._trip(
                FIRM,
                f"today's P&L of the firm is {day_pnl:.2f}, the limit is a loss of {to_text(most)}",
            )

    def _note(self, today: date) -> None:
        made = {account: str(before) for account, before in self._baselines.items()}
        fact = {"day": today.isoformat(), "made": made, "lost": self._lost}
        self._keep(FACT, FIRM, fact)
