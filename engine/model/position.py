"""A position from its fills: average cost, exact money."""

from __future__ import annotations

from decimal import Decimal

from engine.model.enums import Side
from engine.model.numbers import ZERO


class Position:
    """One account's holding of one symbol.

    ``qty`` is signed. ``cash`` is the exact sum of all money in and out (sales minus purchases), ``cost`` the
    signed cost of what is still open; realised P&L is ``cash + cost``, so it is exact whenever the position is
    flat, and realised + unrealised = ``cash + qty × mark`` is exact always. Average cost is the convention of
    the brokers served here (https://docs.alpaca.markets, ``avg_entry_price``).
    """

    __slots__ = ("account", "cash", "cost", "qty", "stop_loss", "symbol", "take_profit")

    def __init__(self, account: str, symbol: str) -> None:
        self.account = account
        self.symbol = symbol
        self.qty = ZERO
        self.cash = ZERO
        self.cost = ZERO
        self.stop_loss: Decimal | None = None
        self.take_profit: Decimal | None = None

    @property
    def avg_px(self) -> Decimal:
        """Return the average price of what is open, zero when flat."""
        return self.cost / self.qty if self.qty else ZERO

    @property
    def realised(self) -> Decimal:
        """Return realised P&L in quote currency."""
        return self.cash + self.cost

    def unrealised(self, mark: Decimal) -> Decimal:
        """Return P&L of the open part at ``mark``."""
        return self.qty * mark - self.cost

    def apply(self, side: Side, quantity: Decimal, price: Decimal) -> None:
        """Add one fill: ``quantity`` > 0 units at ``price``."""
        signed = quantity if side is Side.BUY else -quantity
        self.cash -= signed * price
        before = self.qty
        after = before + signed
        if not before or (before > 0) == (signed > 0):  # opens or adds
            self.cost += signed * price
        elif not after:
            self.cost = ZERO
        elif (after > 0) == (before > 0):  # reduces
            self.cost = self.cost * after / before
        else:  # flips: what is left was opened by this fill
            self.cost = after * price
        self.qty = after
        if not after:
            self.stop_loss = None
            self.take_profit = None
