"""The prices practice orders fill at: whatever the engine's market was last told."""

from __future__ import annotations

from collections.abc import Callable
from decimal import Decimal

Watcher = Callable[[str, Decimal], None]


class PaperMarket:
    """Last price by symbol; sessions watch the symbols they have working orders in."""

    def __init__(self) -> None:
        self._prices: dict[str, Decimal] = {}
        self._watchers: dict[str, list[Watcher]] = {}

    def set_price(self, symbol: str, price: Decimal) -> None:
        """Take a price above zero and let working orders meet it."""
        self._prices[symbol] = price
        for watcher in tuple(self._watchers.get(symbol, ())):
            watcher(symbol, price)

    def price(self, symbol: str) -> Decimal | None:
        """Return the last price, ``None`` before the first."""
        return self._prices.get(symbol)

    def watch(self, symbol: str, watcher: Watcher) -> None:
        """Call ``watcher`` at every price of ``symbol``, once however often it asks."""
        watchers = self._watchers.setdefault(symbol, [])
        if watcher not in watchers:
            watchers.append(watcher)

    def unwatch(self, symbol: str, watcher: Watcher) -> None:
        """Call ``watcher`` no more."""
        watchers = self._watchers.get(symbol, [])
        if watcher in watchers:
            watchers.remove(watcher)
        if not watchers:
            self._watchers.pop(symbol, None)
