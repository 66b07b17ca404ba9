"""A position from its fills: average cost, exact money; and where it is to be closed."""

from __future__ import annotations

from dataclasses import dataclass
from decimal import Decimal

from engine.model.enums import Side
from engine.model.numbers import ZERO


@dataclass(frozen=True, slots=True)
class Levels:
    """Where a position is to be closed: two prices, and a percentage of its best price. False when there is none."""

    stop_loss: Decimal | None = None
    take_profit: Decimal | None = None
    trail_percent: Decimal | None = None

    def __bool__(self) -> bool:
        return not (self.stop_loss is self.take_profit is self.trail_percent is None)


class Position:
    """One account's holding of one symbol.

    ``qty`` is signed. ``cash`` is the exact sum of all money in and out (sales minus purchases), ``cost`` the
    signed cost of what is still open; realised P&L is ``cash + cost``, so it is exact whenever the position is
    flat, and realised + unrealised = ``cash + qty × mark`` is exact always. Average cost is the convention of
    the brokers served here (https://docs.alpaca.markets, ``avg_entry_price``).

    Its protection (engine.execution.protective_exits): ``stop_loss``, ``take_profit``, ``trail_percent``; ``best``
    is the best price since the entry, or since the trail was set. ``native``: the broker was given the exits along
    with the entry. ``generation`` numbers the engine's own exits, one after the other, for ever. ``source``,
    ``signal_id`` and ``strategy`` are those of the newest entry. ``protected`` says who watches: ``broker``,
    ``engine`` or nobody.
    """

    __slots__ = (
        "account",
        "best",
        "cash",
        "cost",
        "generation",
        "native",
        "protected",
        "qty",
        "signal_id",
        "source",
        "stop_loss",
        "strategy",
        "symbol",
        "take_profit",
        "trail_percent",
    )
    stop_loss: Decimal | None
    take_profit: Decimal | None
    trail_percent: Decimal | None
    best: Decimal | None
    native: bool

    def __init__(self, account: str, symbol: str) -> None:
        self.account = account
        self.symbol = symbol
        self.qty = ZERO
        self.cash = ZERO
        self.cost = ZERO
        self.generation = 1
        self.source = self.signal_id = self.strategy = ""
        self.protected = ""
        self.unprotect()

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

    @property
    def levels(self) -> Levels:
        """Return where it is to be closed."""
        return Levels(self.stop_loss, self.take_profit, self.trail_percent)

    def protect(self, levels: Levels) -> None:
        """Set where it is to be closed; a trail that changes begins anew."""
        if levels.trail_percent != self.trail_percent:
            self.best = None
        self.stop_loss, self.take_profit = levels.stop_loss, levels.take_profit
        self.trail_percent = levels.trail_percent

    def unprotect(self) -> None:
        """Forget where it is to be closed."""
        self.stop_loss = self.take_profit = self.trail_percent = self.best = None
        self.native = False

    def apply(self, side: Side, quantity: Decimal, price: Decimal) -> None:
        """Add one fill: ``quantity`` > 0 units at ``price``. Flat or turned around, it is no longer protected."""
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
            self.unprotect()
        self.qty = after
        if not after:
            self.unprotect()

    def take_fee(self, quantity: Decimal) -> None:
        """Take off ``quantity`` units of a long position that the broker kept as its fee: a loss, not a sale."""
        kept = min(quantity, self.qty)
        if kept > 0:
            self.cost = self.cost * (self.qty - kept) / self.qty
            self.qty -= kept
            if not self.qty:
                self.unprotect()
