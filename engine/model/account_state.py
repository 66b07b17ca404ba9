"""What the engine holds in memory about one account: its document, compiled, and its live facts."""

from __future__ import annotations

from datetime import date, datetime, time, timedelta
from decimal import Decimal
from zoneinfo import ZoneInfo

from engine.model.account import Account, Hours
from engine.model.enums import ConnectionState
from engine.model.messages import Balances
from engine.model.numbers import ZERO
from engine.model.order import Order


class TradingHours:
    """An account's trading hours, ready to be asked."""

    __slots__ = ("_close", "_open", "_overnight", "zone")

    def __init__(self, hours: Hours) -> None:
        self.zone = ZoneInfo(hours.zone)
        self._overnight = hours.close < hours.open
        self._open: time = hours.open
        self._close: time = hours.close
        square_off = hours.square_off
        if square_off is not None and _into(hours, square_off) < _into(hours, hours.close):
            self._close = square_off

    def allows(self, now: datetime) -> bool:
        """Say whether entries are allowed now: on weekdays, from open to close (or to square-off, if sooner)."""
        local = now.astimezone(self.zone)
        clock = local.time().replace(tzinfo=None)
        if not self._overnight:
            return local.weekday() < 5 and self._open <= clock < self._close
        # A session over midnight belongs to the day it began on.
        ends_tomorrow = self._close < self._open
        if clock >= self._open:
            return local.weekday() in {0, 1, 2, 3, 6} and (ends_tomorrow or clock < self._close)
        return local.weekday() < 5 and ends_tomorrow and clock < self._close

    def next_close(self, now: datetime) -> datetime:
        """Return when the session that is on, or comes next, takes no more entries."""
        # A session over midnight begins on the evening before; squared off before midnight, it ends there.
        evenings = self._overnight and self._close > self._open
        weekdays = {6, 0, 1, 2, 3} if evenings else {0, 1, 2, 3, 4}
        day = now.astimezone(self.zone).date()
        while True:
            close = datetime.combine(day, self._close, self.zone)
            if close > now and close.weekday() in weekdays:
                return close
            day += timedelta(days=1)

    def day(self, now: datetime) -> date:
        """Return the session's date, in the account's own zone."""
        return now.astimezone(self.zone).date()


def _into(hours: Hours, moment: time) -> timedelta:
    """Return how far into the session a local time lies, over midnight if need be."""
    began = timedelta(hours=hours.open.hour, minutes=hours.open.minute, seconds=hours.open.second)
    then = timedelta(hours=moment.hour, minutes=moment.minute, seconds=moment.second)
    return (then - began) % timedelta(days=1)


class AccountState:
    """One account as the engine sees it now. Money in the account's currency."""

    __slots__ = (
        "account",
        "active",
        "all_strategies",
        "all_symbols",
        "balance_base",
        "balances",
        "broker",
        "connection",
        "connection_text",
        "day",
        "day_baseline",
        "hours",
        "id",
        "last_error",
        "limits",
        "rejects",
        "review",
        "sizing_key",
        "strategies",
        "symbols",
        "tags",
        "updated_at",
        "usable",
        "working",
    )

    def __init__(self, account: Account) -> None:
        self.connection = ConnectionState.DISCONNECTED
        self.usable = False  # orders can be sent
        self.connection_text = ""
        self.balances: Balances | None = None
        self.balance_base = ZERO  # our own total P&L when the balances were read
        self.day: date | None = None
        self.day_baseline = ZERO
        self.last_error = ""
        self.rejects = 0
        self.working: dict[str, Order] = {}  # orders that may still fill, by ClOrdID
        self.updated_at: datetime | None = None
        self.update(account)

    def update(self, account: Account) -> None:
        """Take a changed document."""
        self.account = account
        self.id = account.id
        # Read for every signal: slots here, not fields of a model two objects away.
        self.active = account.active
        self.broker = account.broker
        self.limits = account.limits
        self.review = account.approval == "review"
        self.all_strategies = "*" in account.strategies
        self.all_symbols = "*" in account.symbols
        self.strategies = frozenset(account.strategies)
        self.symbols = frozenset(account.symbols)
        self.tags = frozenset(account.tags)
        sizing = account.sizing
        # Accounts that size alike whatever their equity share one calculation a signal.
        depends_on_equity = sizing.percent is not None
        self.sizing_key = (
            None
            if depends_on_equity
            else (account.broker, sizing.method, sizing.quantity, sizing.value, sizing.factor)
        )
        self.hours = TradingHours(account.hours) if account.hours else None

    def connect(self, connection: ConnectionState, text: str, now: datetime) -> None:
        """Take the broker session's state."""
        self.connection = connection
        self.connection_text = text
        self.usable = connection in {ConnectionState.CONNECTED, ConnectionState.DEGRADED}
        self.updated_at = now

    def equity(self, total_pnl: Decimal) -> Decimal | None:
        """Return equity now: the broker's last word plus what our positions have made since."""
        if self.balances is None:
            return None
        return self.balances.equity + total_pnl - self.balance_base
