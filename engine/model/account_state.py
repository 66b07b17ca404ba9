"""What the engine holds in memory about one account: its document, compiled, and its live facts."""

from __future__ import annotations

from datetime import date, datetime
from decimal import Decimal

from engine.model.account import Account
from engine.model.enums import ConnectionState
from engine.model.messages import Balances
from engine.model.numbers import ZERO
from engine.model.order import Order
from engine.model.trading_hours import TradingHours

__all__ = ["AccountState", "TradingHours"]


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
        "capped",
        "connection",
        "connection_text",
        "day",
        "day_baseline",
        "hours",
        "id",
        "last_error",
        "limits",
        "limits_unset",
        "reconciled",
        "rejects",
        "review",
        "sizing_key",
        "strategies",
        "summed",
        "symbols",
        "tags",
        "updated_at",
        "usable",
        "venue",
        "working",
    )

    def __init__(self, account: Account) -> None:
        self.connection = ConnectionState.DISCONNECTED
        self.usable = False  # orders can be sent
        self.reconciled = False  # compared with its broker since the start (C01, C25)
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
        self.venue = f"{account.broker} {account.base_url or account.environment}"
        limits = self.limits = account.limits
        # Limits on what orders and positions add up to: most accounts have none, and are spared the sums.
        self.summed = any(
            limit is not None
            for limit in (
                limits.max_position_quantity,
                limits.max_open_value,
                limits.max_gross_exposure,
            )
        )
        self.capped = self.summed or limits.max_orders_per_day is not None
        unlimited = limits.max_order_quantity is None or limits.max_order_value is None
        self.limits_unset = unlimited and account.environment == "live"
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
