"""Prices from the accounts' own brokers: asked every second for the symbols that matter."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Iterable
from decimal import Decimal

from engine.errors import BrokerError
from engine.ports import BrokerSession

log = logging.getLogger(__name__)

EVERY_S = 1.0
ASK_WITHIN_S = 1.0
ROUND_WITHIN_S = 3.0
ASK_AGAIN_S = 5.0
MOST_SYMBOLS = 500


class BrokerQuotes:
    """Polls one session of every venue. ``on_price`` takes each price, ``sessions`` lists one session a venue."""

    def __init__(
        self,
        sessions: Callable[[], Iterable[BrokerSession]],
        on_price: Callable[[str, Decimal], None],
    ) -> None:
        self._sessions = sessions
        self._on_price = on_price
        self._symbols: dict[str, None] = {}
        self._ask_again: dict[str, float] = {}
        self._task: asyncio.Task[None] | None = None
        self.problem = ""

    def follow(self, symbol: str) -> None:
        """Keep a symbol's price fresh from now on; the least recently named ones give way."""
        self._symbols.pop(symbol, None)
        self._symbols[symbol] = None
        while len(self._symbols) > MOST_SYMBOLS:
            del self._symbols[next(iter(self._symbols))]

    async def start(self) -> None:
        """Begin polling."""
        self._task = asyncio.get_running_loop().create_task(self._poll(), name="broker-quotes")

    async def stop(self) -> None:
        """Stop polling."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)
            self._task = None

    async def ask(self, symbol: str) -> None:
        """Ask for one symbol now; waits at most a second, and not again for a while when nobody knew it."""
        self.follow(symbol)
        now = asyncio.get_running_loop().time()
        if now < self._ask_again.get(symbol, 0.0):
            return
        if len(self._ask_again) > MOST_SYMBOLS:
            self._ask_again.clear()
        self._ask_again[symbol] = now + ASK_AGAIN_S
        try:
            async with asyncio.timeout(ASK_WITHIN_S):
                await self._round([symbol])
        except TimeoutError:
            self.problem = f"no quote of {symbol} within {ASK_WITHIN_S:g} s"

    async def _poll(self) -> None:
        while True:
            await asyncio.sleep(EVERY_S)
            if self._symbols:
                await self._round(list(self._symbols))

    async def _round(self, symbols: list[str]) -> None:
        problems = await asyncio.gather(
            *(self._take(session, symbols) for session in list(self._sessions()))
        )
        self.problem = next((problem for problem in problems if problem), "")

    async def _take(self, session: BrokerSession, symbols: list[str]) -> str:
        """Take one venue's prices as soon as they are there; return what went wrong, if anything did.

        Whatever happens to one venue stays its own: the others' prices are what their accounts trade by.
        """
        try:
            async with asyncio.timeout(ROUND_WITHIN_S):
                prices = await session.quotes(symbols)
        except TimeoutError:
            return f"{session.account_id}: no quotes within {ROUND_WITHIN_S:g} s"
        except BrokerError as error:
            return f"{session.account_id}: {error}"
        except Exception as error:  # a fault of the adapter's must not end all polling
            log.exception("quotes of %s", session.account_id)
            return f"{session.account_id}: {error}"
        for symbol, price in prices.items():
            self._on_price(symbol, price)
        return ""
