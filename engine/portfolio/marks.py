"""The newest price of every symbol, with its age."""

from __future__ import annotations

from collections.abc import Callable
from decimal import Decimal

from engine.clock import Clock
from engine.model.messages import Quote

PriceListener = Callable[[str, Decimal], None]


class Marks:
    """Prices from wherever they come; the newest arrival wins."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._quotes: dict[str, Quote] = {}
        self._listeners: list[PriceListener] = []

    def listen(self, listener: PriceListener) -> None:
        """Call ``listener`` with every new price."""
        self._listeners.append(listener)

    def set(self, symbol: str, price: Decimal) -> None:
        """Take a price. Anything but a finite number above zero is dropped: it is no price."""
        if not price.is_finite() or price <= 0:
            return
        self._quotes[symbol] = Quote(symbol, price, self._clock.monotonic_ns())
        for listener in self._listeners:
            listener(symbol, price)

    def get(self, symbol: str) -> Quote | None:
        """Return the newest price."""
        return self._quotes.get(symbol)

    def price(self, symbol: str) -> Decimal | None:
        """Return the newest price, however old."""
        quote = self._quotes.get(symbol)
        return quote.price if quote else None

    def age_s(self, symbol: str) -> float | None:
        """Return the age of the newest price in seconds."""
        quote = self._quotes.get(symbol)
        return (self._clock.monotonic_ns() - quote.at_ns) / 1e9 if quote else None

    def symbols(self) -> list[str]:
        """Return every symbol that has a price."""
        return list(self._quotes)
