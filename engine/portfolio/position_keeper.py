"""Every account's positions, from the fills applied to them."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from decimal import Decimal

from engine.model.messages import Fill
from engine.model.numbers import ZERO
from engine.model.position import Position
from engine.portfolio.marks import Marks


@dataclass(frozen=True, slots=True)
class Pnl:
    """Profit and loss of an account or of the firm, in quote currency."""

    realised: Decimal = ZERO
    unrealised: Decimal = ZERO
    exposure: Decimal = ZERO
    positions: int = 0

    @property
    def total(self) -> Decimal:
        """Return realised plus unrealised."""
        return self.realised + self.unrealised


class PositionKeeper:
    """Positions by account and symbol."""

    def __init__(self, marks: Marks) -> None:
        self._marks = marks
        self._positions: dict[str, dict[str, Position]] = {}
        self._holders: dict[str, set[str]] = {}
        self.moved: Callable[[Position], None] = lambda _position: None
        """Called with every position whose quantity has changed."""

    def load(self, positions: list[Position]) -> None:
        """Take positions as they were before a restart."""
        for position in positions:
            self._positions.setdefault(position.account, {})[position.symbol] = position
            self._holders.setdefault(position.symbol, set()).add(position.account)

    def apply(self, fill: Fill) -> Position:
        """Add a fill and return the position it led to."""
        of_account = self._positions.setdefault(fill.account, {})
        position = of_account.get(fill.symbol)
        if position is None:
            position = of_account[fill.symbol] = Position(fill.account, fill.symbol)
            self._holders.setdefault(fill.symbol, set()).add(fill.account)
        position.apply(fill.side, fill.last_qty, fill.last_px)
        if fill.fee_qty:
            position.take_fee(fill.fee_qty)
        self.moved(position)
        return position

    def get(self, account: str, symbol: str) -> Position | None:
        """Return one position, also when it is flat."""
        return self._positions.get(account, {}).get(symbol)

    def of(self, account: str) -> list[Position]:
        """Return an account's positions, flat ones too."""
        return list(self._positions.get(account, {}).values())

    def open_symbols(self, account: str) -> set[str]:
        """Return the symbols an account holds."""
        return {
            symbol for symbol, position in self._positions.get(account, {}).items() if position.qty
        }

    def holders(self, symbol: str) -> set[str]:
        """Return the accounts that have or had a position in ``symbol``."""
        return self._holders.get(symbol, set())

    def __iter__(self) -> Iterator[Position]:
        for of_account in self._positions.values():
            yield from of_account.values()

    def mark(self, position: Position) -> Decimal:
        """Return the price a position is valued at: the market's, or what it cost where there is none."""
        price = self._marks.price(position.symbol)
        return position.avg_px if price is None else price

    def pnl(self, account: str) -> Pnl:
        """Return an account's P&L now."""
        realised = unrealised = exposure = ZERO
        count = 0
        for position in self._positions.get(account, {}).values():
            realised += position.realised
            if position.qty:
                mark = self.mark(position)
                unrealised += position.unrealised(mark)
                exposure += abs(position.qty * mark)
                count += 1
        return Pnl(realised, unrealised, exposure, count)
