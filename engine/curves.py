"""Equity and profit of each account, and profit of each strategy, over the day: what the desk draws as curves.

Kept in memory since the start. Accounts are looked at in turn, each every ``STEP_S``, so that no second has all the
work. Amounts are exact until they are written down as whole cents.
"""

from __future__ import annotations

from array import array
from collections.abc import Callable, Iterable
from datetime import UTC, datetime
from decimal import Decimal
from typing import Any, Final

from engine.clock import Clock, rfc3339
from engine.model import commands as c
from engine.model.account_state import AccountState
from engine.model.enums import Side
from engine.model.messages import Fill
from engine.model.numbers import ZERO
from engine.model.position import Position
from engine.portfolio.position_keeper import PositionKeeper
from engine.views import money

STEP_S: Final = 30
KEPT: Final = 960  # points of a curve: eight hours
MOST_NAMES: Final = 20  # curves of one answer
BY_HAND: Final = "(by hand)"

Row = dict[str, Any]
Price = Callable[[str], Decimal | None]


class StrategyBook:
    """Who made what: the money each strategy has put in and taken out since the start, and what it holds.

    A position of before the start counts with its newest entry's strategy, from its average price. A fill first
    reduces what its own strategy holds of that account and symbol, then what others hold there (a close by hand, a
    square-off); the rest opens for its own. So what all strategies hold is always what the account holds.
    """

    def __init__(self, price: Price) -> None:
        self._price = price
        self._lots: dict[tuple[str, str], dict[str, Decimal]] = {}
        self._sums: dict[str, dict[str, list[Decimal]]] = {}  # strategy, symbol: quantity, cash
        self._last: dict[str, Decimal] = {}  # by symbol, where no price has come
        self._fills: dict[str, int] = {}

    def load(self, positions: Iterable[Position]) -> None:
        """Take the positions as the start found them."""
        for position in positions:
            if position.qty:
                self._add(
                    position.account,
                    position.symbol,
                    position.strategy,
                    position.qty,
                    position.avg_px,
                )

    def on_fill(self, fill: Fill) -> None:
        """Follow a fill."""
        own = fill.strategy or BY_HAND
        signed = fill.last_qty if fill.side is Side.BUY else -fill.last_qty
        lots = self._lots.get((fill.account, fill.symbol))
        if lots and not (len(lots) == 1 and own in lots and (lots[own] > 0) == (signed > 0)):
            signed = self._close(fill, own, lots, signed)
        if signed:
            self._add(fill.account, fill.symbol, own, signed, fill.last_px)
        if fill.fee_qty:
            kept = min(fill.fee_qty, self._lots.get((fill.account, fill.symbol), {}).get(own, ZERO))
            if kept > 0:  # the broker kept them as its fee: a loss, not a sale
                self._add(fill.account, fill.symbol, own, -kept, ZERO)
        self._fills[own] = self._fills.get(own, 0) + 1

    def _close(self, fill: Fill, own: str, lots: dict[str, Decimal], signed: Decimal) -> Decimal:
        """Take a fill from what is held the other way, its own strategy's first; return what is left of it."""
        for strategy in [own, *(name for name in lots if name != own)]:
            held = lots.get(strategy, ZERO)
            if held and signed and (held > 0) != (signed > 0):
                part = max(signed, -held) if signed < 0 else min(signed, -held)
                self._add(fill.account, fill.symbol, strategy, part, fill.last_px)
                signed -= part
        return signed

    def _add(
        self, account: str, symbol: str, strategy: str, signed: Decimal, price: Decimal
    ) -> None:
        strategy = strategy or BY_HAND
        lots = self._lots.setdefault((account, symbol), {})
        lots[strategy] = lots.get(strategy, ZERO) + signed
        if not lots[strategy]:
            del lots[strategy]
        total = self._sums.setdefault(strategy, {}).setdefault(symbol, [ZERO, ZERO])
        total[0] += signed
        total[1] -= signed * price
        if price:
            self._last[symbol] = price

    def names(self) -> list[str]:
        """Return every strategy that held or traded since the start."""
        return list(self._sums)

    def total(self, strategy: str) -> Decimal:
        """Return a strategy's profit or loss since the start, with what it holds at the newest price."""
        return sum(
            (cash + qty * self._mark(symbol) for symbol, qty, cash in self._of(strategy)), ZERO
        )

    def exposure(self, strategy: str) -> Decimal:
        """Return what a strategy holds, gross, at the newest price."""
        return sum((abs(qty * self._mark(symbol)) for symbol, qty, _ in self._of(strategy)), ZERO)

    def fills(self, strategy: str) -> int:
        """Return how many fills a strategy had since the start."""
        return self._fills.get(strategy, 0)

    def _of(self, strategy: str) -> list[tuple[str, Decimal, Decimal]]:
        sums = self._sums.get(strategy, {})
        return [(symbol, qty, cash) for symbol, (qty, cash) in sums.items()]

    def _mark(self, symbol: str) -> Decimal:
        price = self._price(symbol)
        return self._last.get(symbol, ZERO) if price is None else price


class _Curve:
    """Points of one account or strategy: seconds since 1970, cents of equity and of profit."""

    __slots__ = ("points",)

    def __init__(self) -> None:
        self.points: array[int] = array("q")

    def add(self, at: int, equity: Decimal, total: Decimal) -> None:
        """Add a point; the oldest leave in lots."""
        self.points.extend((at, round(equity * 100), round(total * 100)))
        if len(self.points) >= 3 * (KEPT + KEPT // 8):
            del self.points[: len(self.points) - 3 * KEPT]

    def rows(self, *, with_equity: bool) -> list[Row]:
        """Return the points, oldest first."""
        kept = self.points[-3 * KEPT :]
        return [
            {
                "at": rfc3339(datetime.fromtimestamp(kept[at], UTC)),
                "equity": money(Decimal(kept[at + 1]) / 100) if with_equity else None,
                "total": money(Decimal(kept[at + 2]) / 100),
            }
            for at in range(0, len(kept), 3)
        ]


class Curves:
    """Keeps the curves; ``second`` is called once a second."""

    def __init__(
        self,
        clock: Clock,
        keeper: PositionKeeper,
        states: Callable[[], dict[str, AccountState]],
        book: StrategyBook,
    ) -> None:
        self._clock = clock
        self._keeper = keeper
        self._states = states
        self.book = book
        self._accounts: dict[str, _Curve] = {}
        self._strategies: dict[str, _Curve] = {}
        self._turn = 0
        self._told: dict[str, Row] = {}

    def second(self) -> None:
        """Look at those whose turn it is; one that is new is looked at at once."""
        self._turn = (self._turn + 1) % STEP_S
        at = int(self._clock.now().timestamp())
        states = self._states()
        for number, (account, state) in enumerate(states.items()):
            if number % STEP_S == self._turn or account not in self._accounts:
                total = self._keeper.pnl(account).total
                curve = self._accounts.setdefault(account, _Curve())
                curve.add(at, state.equity(total) or ZERO, total)
        for number, name in enumerate(self.book.names()):
            if number % STEP_S == self._turn or name not in self._strategies:
                self._strategies.setdefault(name, _Curve()).add(at, ZERO, self.book.total(name))
        for account in self._accounts.keys() - states.keys():
            del self._accounts[account]

    async def curves(self, command: c.Curves) -> Row:
        """Return the curves of the accounts or strategies named, or of those that moved most."""
        of_accounts = command.of == "account"
        known = self._accounts if of_accounts else self._strategies
        names = command.names or self._most_moved(of_accounts=of_accounts)[: command.top]
        return {
            "of": command.of,
            "curves": {
                name: known[name].rows(with_equity=of_accounts) for name in names if name in known
            },
        }

    def _most_moved(self, *, of_accounts: bool) -> list[str]:
        if of_accounts:
            moved = {
                name: abs(self._keeper.pnl(name).total - state.day_baseline)
                for name, state in self._states().items()
            }
        else:
            moved = {name: abs(self.book.total(name)) for name in self.book.names()}
        return sorted(moved, key=lambda name: (-moved[name], name))

    # ---- the feed's table ---------------------------------------------------------------------------------------

    def row(self, strategy: str) -> Row | None:
        """Return a strategy's row as of now."""
        if strategy not in self._strategies and strategy not in self.book.names():
            return None
        return {
            "strategy": strategy,
            "total": money(self.book.total(strategy)),
            "exposure": money(self.book.exposure(strategy)),
            "fills": self.book.fills(strategy),
        }

    def changed(self) -> list[str]:
        """Return the strategies whose row differs from the last call's."""
        fresh = {name: row for name in self.book.names() if (row := self.row(name)) is not None}
        moved = [name for name, row in fresh.items() if row != self._told.get(name)]
        self._told = fresh
        return moved
