"""Practice prices: a random walk per symbol, for engines without any market."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable
from decimal import Decimal

EVERY_S = 0.25
STEP = 0.0004  # standard deviation of a step, as a fraction of the price
_START = {
    "AAPL": "189.40",
    "MSFT": "415.20",
    "NVDA": "131.50",
    "TSLA": "246.10",
    "BTCUSDT": "46350",
    "ETHUSDT": "3105",
}
_CENT = Decimal("0.01")


class SimulatedPrices:
    """Walks every symbol that is followed. The seed makes a run repeatable."""

    def __init__(self, on_price: Callable[[str, Decimal], None], seed: int = 7) -> None:
        self._on_price = on_price
        self._random = random.Random(seed)  # noqa: S311 (prices for practice, not secrets)
        self._prices: dict[str, Decimal] = {}
        self._task: asyncio.Task[None] | None = None
        self.problem = ""

    def follow(self, symbol: str) -> None:
        """Give a symbol a price from now on."""
        if symbol not in self._prices:
            self._prices[symbol] = Decimal(_START.get(symbol, "100"))
            self._on_price(symbol, self._prices[symbol])

    async def ask(self, symbol: str) -> None:
        """Give a symbol a price now."""
        self.follow(symbol)

    async def start(self) -> None:
        """Begin walking."""
        self._task = asyncio.get_running_loop().create_task(self._walk(), name="simulated-prices")

    async def stop(self) -> None:
        """Stop walking."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)
            self._task = None

    async def _walk(self) -> None:
        while True:
            await asyncio.sleep(EVERY_S)
            for symbol, price in self._prices.items():
                factor = Decimal(1) + Decimal(f"{self._random.gauss(0, STEP):.6f}")
                self._prices[symbol] = max(_CENT, (price * factor).quantize(_CENT))
                self._on_price(symbol, self._prices[symbol])
