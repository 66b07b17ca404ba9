"""Orders of the day (control C10): per account in its own session's day, per strategy and for the firm in UTC days.

Every order of ours counts, exits too, from the moment it is planned; one that was denied does not, and neither do the
exits a broker makes by itself. A day begins once: a clock that is set back begins none again.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

from engine.clock import Clock
from engine.model.account_state import AccountState
from engine.model.order import Order
from engine.model.trading_hours import TradingHours

_DAY = timedelta(days=1)


@dataclass(frozen=True, slots=True)
class OrdersSince:
    """How many orders of an account and strategy the journal holds since ``begins``, denied ones left out."""

    begins: datetime
    account: str
    strategy: str
    orders: int


@dataclass(slots=True)
class _Count:
    """Orders of a day that lasts from ``begins`` until ``ends`` (UTC)."""

    begins: datetime
    ends: datetime
    orders: int = 0
    hours: TradingHours | None = None

    def roll(self, now: datetime, hours: TradingHours | None) -> None:
        """Begin another day if this one is over; other hours move its end only."""
        if now >= self.ends or hours is not self.hours:
            begins, ends = bounds(hours, now)
            if now >= self.ends:
                self.begins, self.orders = begins, 0
            self.ends, self.hours = ends, hours


def bounds(hours: TradingHours | None, now: datetime) -> tuple[datetime, datetime]:
    """Return when the day of ``now`` began and when it ends."""
    if hours is None:
        begins = now.astimezone(UTC).replace(hour=0, minute=0, second=0, microsecond=0)
        return begins, begins + _DAY
    return hours.day_begins(now), hours.day_ends(now)


class DayCounts:
    """Counters that begin anew with every day."""

    def __init__(self, clock: Clock, states: Mapping[str, AccountState]) -> None:
        self._clock = clock
        self._states = states
        self._accounts: dict[str, _Count] = {}
        self._strategies: dict[str, int] = {}  # of the firm's day
        begins, ends = bounds(None, clock.now())
        self._firm = _Count(begins, ends)

    # ---- counting --------------------------------------------------------------------------------------------

    def added(self, order: Order) -> None:
        """Count an order that was planned."""
        if order.parent:
            return  # an exit the broker made
        at = order.created_at
        firm = self._firm
        if at >= firm.ends:
            self._roll_firm(at)
        firm.orders += 1
        self._strategies[order.strategy] = self._strategies.get(order.strategy, 0) + 1
        count = self._accounts.get(order.account)
        if count is None or at >= count.ends:
            count = self._account(order.account, at)
        count.orders += 1

    def removed(self, order: Order) -> None:
        """Take back an order that was denied before it left, or never came to be."""
        if order.parent:
            return
        at = order.created_at
        if at >= self._firm.begins:
            self._firm.orders -= 1
            self._strategies[order.strategy] = self._strategies.get(order.strategy, 1) - 1
        count = self._accounts.get(order.account)
        if count is not None and at >= count.begins:
            count.orders -= 1

    def _roll_firm(self, now: datetime) -> None:
        if now >= self._firm.ends:
            self._strategies.clear()
        self._firm.roll(now, None)

    def _account(self, account: str, now: datetime) -> _Count:
        state = self._states.get(account)
        hours = state.hours if state is not None else None
        count = self._accounts.get(account)
        if count is None:
            count = self._accounts[account] = _Count(*bounds(hours, now), hours=hours)
        count.roll(now, hours)
        return count

    # ---- going on after a restart ------------------------------------------------------------------------------

    def begins(self) -> set[datetime]:
        """Return when the days now on began: since these the journal is to be asked."""
        now = self._clock.now()
        found = {bounds(state.hours, now)[0] for state in self._states.values()}
        return found | {bounds(None, now)[0]}

    def load(self, rows: Iterable[OrdersSince], fresh: Iterable[Order]) -> None:
        """Take the counts of before the restart, and the orders the journal holds no row of yet (``fresh``)."""
        now = self._clock.now()
        self._roll_firm(now)
        for row in rows:
            count = self._account(row.account, now)
            if row.begins == count.begins:
                count.orders += row.orders
            if row.begins == self._firm.begins:
                self._firm.orders += row.orders
                known = self._strategies.get(row.strategy, 0)
                self._strategies[row.strategy] = known + row.orders
        for order in fresh:
            self._load_one(order, now)

    def _load_one(self, order: Order, now: datetime) -> None:
        count = self._account(order.account, now)
        if order.created_at >= count.begins:
            count.orders += 1
        if order.created_at >= self._firm.begins:
            self._firm.orders += 1
            self._strategies[order.strategy] = self._strategies.get(order.strategy, 0) + 1

    # ---- what is asked -----------------------------------------------------------------------------------------

    def of_account(self, account: str) -> int:
        """Return an account's orders of its day."""
        return self._account(account, self._clock.now()).orders

    def of_strategy(self, strategy: str) -> int:
        """Return a strategy's orders of the day, over all accounts."""
        self._roll_firm(self._clock.now())
        return self._strategies.get(strategy, 0)

    def of_firm(self) -> int:
        """Return the firm's orders of the day."""
        self._roll_firm(self._clock.now())
        return self._firm.orders

    def strategies(self) -> list[str]:
        """Return the strategies that had orders today."""
        return [name for name in self._strategies if name]
