"""What can be traded at each broker, asked once and remembered."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable

from engine.errors import BrokerError
from engine.model.instrument import Instrument
from engine.ports import BrokerSession

log = logging.getLogger(__name__)

ASK_WITHIN_S = 1.0
ASK_AGAIN_S = 10.0


class Instruments:
    """Instruments by broker and symbol. ``session_of`` returns a usable session of a broker, if there is one."""

    def __init__(self, session_of: Callable[[str], BrokerSession | None]) -> None:
        self._session_of = session_of
        self._known: dict[tuple[str, str], Instrument] = {}
        self._ask_again: dict[tuple[str, str], float] = {}
        self._asking: dict[tuple[str, str], asyncio.Task[None]] = {}

    def get(self, broker: str, symbol: str) -> Instrument:
        """Return what is known, else the cautious default of whole units and cents."""
        return self._known.get((broker, symbol)) or Instrument(symbol)

    def find(self, broker: str, symbol: str) -> Instrument | None:
        """Return what the broker said of a symbol, ``None`` while it was not asked."""
        return self._known.get((broker, symbol))

    def known(self, broker: str, symbol: str) -> bool:
        """Say whether the broker has been asked, or has just failed to answer."""
        key = (broker, symbol)
        now = asyncio.get_running_loop().time()
        return key in self._known or now < self._ask_again.get(key, 0.0)

    async def ensure(self, broker: str, symbol: str) -> None:
        """Ask the broker unless it has been asked; waits at most a second. One question at a time per symbol."""
        key = (broker, symbol)
        if self.known(broker, symbol):
            return
        task = self._asking.get(key)
        if task is None:
            task = self._asking[key] = asyncio.get_running_loop().create_task(
                self._ask(broker, symbol)
            )
            task.add_done_callback(lambda _task: self._asking.pop(key, None))
        await asyncio.wait({task}, timeout=ASK_WITHIN_S)

    async def refresh(self, broker: str, symbol: str) -> None:
        """Ask again; what was known stands until there is an answer."""
        await self._ask(broker, symbol)

    async def _ask(self, broker: str, symbol: str) -> None:
        session = self._session_of(broker)
        if session is None:
            return
        try:
            instrument = await session.instrument(symbol)
        except BrokerError as error:
            log.warning("instrument %s at %s: %s", symbol, broker, error)
            self._ask_again[broker, symbol] = asyncio.get_running_loop().time() + ASK_AGAIN_S
            return
        # A symbol the broker does not have is left to the broker to refuse, in its own words.
        self._known[broker, symbol] = instrument or Instrument(symbol)

    async def stop(self) -> None:
        """End questions under way."""
        tasks = list(self._asking.values())
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
