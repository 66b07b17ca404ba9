"""What the accounts at one address of OANDA share: connections, budget, instruments, prices."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from decimal import Decimal

from engine.brokers.dial import Route
from engine.brokers.http import BaseUrl, HttpClient, Reply, check_base_url
from engine.brokers.hub import WireHub
from engine.brokers.oanda import account as account_facts
from engine.brokers.oanda import mapping
from engine.brokers.oanda.stream import AddressBudget
from engine.brokers.shared_wire import SharedWire
from engine.errors import BrokerRejected
from engine.model.instrument import Instrument

QUOTE_AGE_S = 0.5
"""For how long a price serves every account that asks."""
_ABSENT_AGE_S = 60.0  # how long "no such instrument" is believed
Get = Callable[[str, Mapping[str, str]], Awaitable[Reply]]


class Venue:
    """One address as one way out reaches it. ``get`` reads a path below the account that asks."""

    def __init__(
        self,
        hub: WireHub,
        base: BaseUrl,
        route: Route | None,
        budget: AddressBudget,
        connects_per_second: float,
        idle_s: float,
    ) -> None:
        self.budget = budget
        self.wire = SharedWire(
            hub, base, egress=route, connects_per_second=connects_per_second, idle_s=idle_s
        )
        self.stream_base = base
        if not base.simulated:
            host = mapping.STREAM_HOSTS[base.host]
            self.stream_base = check_base_url("", f"https://{host}", {host}, allow_simulated=False)
        # OANDA counts connections by where they come from, so its stream host shares the pace.
        self.pacer = hub.pacer(base.host, route, connects_per_second)
        self.http = HttpClient(
            base,
            context=hub.context() if base.tls else None,
            egress=route,
            pacer=self.pacer,
            turn=budget.look_up,
        )
        self._instruments: dict[str, Instrument] = {}
        self._absent: dict[str, float] = {}
        self._locks: dict[str, asyncio.Lock] = {}
        self._prices: dict[str, tuple[float, Decimal, bool]] = {}

    def tick(self, symbol: str) -> Decimal | None:
        """Return an instrument's smallest price step, ``None`` if nobody asked for the instrument yet."""
        known = self._instruments.get(symbol)
        return known.tick if known is not None else None

    async def instrument(self, account: str, symbol: str, get: Get) -> Instrument | None:
        """Read what a symbol is, once for all accounts; ``None``: OANDA has no such instrument."""
        async with self._locks.setdefault(symbol, asyncio.Lock()):
            if symbol in self._instruments or self._lacks(symbol):
                return self._instruments.get(symbol)
            try:
                reply = await get("/instruments", {"instruments": symbol})
            except BrokerRejected:
                self._absent[symbol] = time.monotonic()
                return None
            self._instruments.update(account_facts.instruments(account, reply.body))
            if symbol not in self._instruments:
                self._absent[symbol] = time.monotonic()
            return self._instruments.get(symbol)

    async def prices_of(self, symbols: Sequence[str], get: Get) -> dict[str, tuple[Decimal, bool]]:
        """Return (mid price, whether it trades now) of those of ``symbols`` that OANDA quotes."""
        now = time.monotonic()
        known = self._prices
        wanted = [
            symbol
            for symbol in symbols
            if not self._lacks(symbol)
            and (symbol not in known or now - known[symbol][0] >= QUOTE_AGE_S)
        ]
        if wanted:
            await self._read_prices(wanted, get)
        fresh = now - QUOTE_AGE_S
        return {s: known[s][1:] for s in symbols if s in known and known[s][0] >= fresh}

    async def _read_prices(self, symbols: Sequence[str], get: Get) -> None:
        """Read prices; OANDA refuses the whole list for one unknown name, so halve it until that is found."""
        try:
            reply = await get("/pricing", {"instruments": ",".join(symbols)})
        except BrokerRejected:
            if len(symbols) == 1:
                self._absent[symbols[0]] = time.monotonic()
                return
            half = len(symbols) // 2
            await self._read_prices(symbols[:half], get)
            await self._read_prices(symbols[half:], get)
            return
        now = time.monotonic()
        for symbol, (price, trades) in account_facts.prices(reply.body, symbols).items():
            self._prices[symbol] = now, price, trades

    def _lacks(self, symbol: str) -> bool:
        """Say whether OANDA cannot have an instrument of this name, or said lately that it has none."""
        if not mapping.INSTRUMENT.fullmatch(symbol):
            return True
        return time.monotonic() - self._absent.get(symbol, -_ABSENT_AGE_S) < _ABSENT_AGE_S
