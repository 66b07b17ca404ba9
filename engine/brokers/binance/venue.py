"""What the accounts at one address share: its clock, its request weight, look-ups, symbols, prices."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Mapping
from decimal import Decimal
from time import monotonic_ns

from engine.brokers.binance import mapping, rules
from engine.brokers.binance.stream import UserStreams
from engine.brokers.dial import Route
from engine.brokers.http import BaseUrl, HttpClient, Reply
from engine.brokers.hub import WireHub
from engine.errors import BrokerProtocolError, BrokerRejected, BrokerUnavailable
from engine.model.instrument import Instrument

CLOCK_AGE_S = 240.0
_SAMPLES = 3
_JUST_NOW_S = 0.25
_SYMBOL_AGE_S = 3600.0
_STATUS_AGE_S = 60.0
_ABSENT_AGE_S = 60.0  # how long "no such symbol" is believed
_PRICE_AGE_S = 0.5
_LIMIT = 6000
_COMMON = "BTCUSDT"  # limits come with any symbol
_READS = 0.7  # of the weight; the rest is kept for orders and cancels that fail


class VenueClock:
    """The broker's clock, by ours that never steps: the sample of ``/api/v3/time`` with the shortest way counts."""

    def __init__(self, http: HttpClient) -> None:
        self._http = http
        self._offset_ns = (
            time.time_ns() - monotonic_ns()
        )  # until it is known: this machine's idea of it
        self._lock = asyncio.Lock()
        self._at = float("-inf")
        self.doubtful = False  # it was refused: what is signed now would be refused, too

    def now_ms(self) -> int:
        """Return the broker's time in milliseconds."""
        return (monotonic_ns() + self._offset_ns) // 1_000_000

    async def fresh(self, account: str, max_age_s: float = CLOCK_AGE_S) -> None:
        """Read it unless that was done less than ``max_age_s`` ago; one at a time for all accounts.

        Raises:
            BrokerError: it cannot be read; what was known stays.
        """
        async with self._lock:
            if time.monotonic() - self._at <= max_age_s:
                self.doubtful = False
                return
            best: tuple[int, int] | None = None
            for _ in range(_SAMPLES):
                sample = await self._sample(account)
                best = sample if best is None else min(best, sample)
            if best is not None:
                self._offset_ns = best[1]
                self._at = time.monotonic()
                self.doubtful = False

    async def refresh(self, account: str) -> None:
        """Read it now: it was refused. A refusal of what was signed before the last reading counts as answered."""
        try:
            await self.fresh(account, _JUST_NOW_S)
        finally:
            self.doubtful = False  # read or not, waiting longer helps nobody

    async def _sample(self, account: str) -> tuple[int, int]:
        before = monotonic_ns()
        reply = await self._http.get(account, "/api/v3/time", headers={})
        after = monotonic_ns()
        told = reply.body.get("serverTime") if isinstance(reply.body, dict) else None
        if type(told) is not int or told <= 0:
            raise BrokerProtocolError(
                f"account {account}: /api/v3/time cannot be read", account=account
            )
        # The answer was made half-way, somewhere within its millisecond.
        return after - before, told * 1_000_000 + 500_000 - (before + after) // 2


class Weights:
    """Request weight of one address a minute: reads wait for the next minute rather than earn a ban."""

    def __init__(self) -> None:
        self.limit = _LIMIT
        self._used = 0
        self._minute = -1

    async def spend(self, weight: int) -> None:
        """Wait until a read of this weight fits."""
        while True:
            now = time.time()
            if int(now) // 60 != self._minute:
                self._minute, self._used = int(now) // 60, 0
            if not self._used or self._used + weight <= self.limit * _READS:
                self._used += weight
                return
            await asyncio.sleep(60.05 - now % 60)

    def told(self, used: int) -> None:
        """Take the broker's own count."""
        if int(time.time()) // 60 == self._minute:
            self._used = max(self._used, used)


class Venue:
    """One address of Binance's by one way out."""

    def __init__(self, base: BaseUrl, websocket: str, route: Route | None, hub: WireHub) -> None:
        context = hub.context() if base.tls else None
        self.route = route
        self.http = HttpClient(base, context=context, egress=route, one_limit=True)
        self.clock = VenueClock(self.http)
        self.weights = Weights()
        self.streams = UserStreams(websocket, hub.context if base.tls else None, route)
        self.limits: dict[tuple[str, int], int] = {}
        self._symbols: dict[str, tuple[float, Instrument]] = {}
        self._absent: dict[str, float] = {}
        self._locks: dict[str, asyncio.Lock] = {}
        self._pairs: dict[tuple[str, str], str] = {}
        self._prices: dict[str, tuple[float, Decimal]] = {}

    async def close(self) -> None:
        """Close the connections."""
        await self.http.close()

    async def ask(self, account: str, path: str, params: Mapping[str, str], weight: int) -> Reply:
        """Read what needs no key.

        Raises:
            BrokerError: as ``HttpClient.get``; a ban of the address is ``BrokerUnavailable``.
        """
        await self.weights.spend(weight)
        reply = await self.http.get(account, path, headers={}, params=params)
        if reply.status == 418:
            raise BrokerUnavailable(
                f"account {account}: GET {path}: Binance has banned this address for a while (HTTP 418)",
                account=account,
                retry_after=reply.retry_after,
            )
        return reply

    async def instrument(
        self, account: str, symbol: str, max_age_s: float = _SYMBOL_AGE_S
    ) -> Instrument | None:
        """Read what a symbol is, once for all accounts; ``None``: there is none of this name.

        Raises:
            BrokerError: it cannot be read.
        """
        async with self._locks.setdefault(symbol, asyncio.Lock()):
            at, known = self._symbols.get(symbol, (float("-inf"), None))
            now = time.monotonic()
            if known is not None and now - at < max_age_s:
                return known
            if now - self._absent.get(symbol, float("-inf")) < _ABSENT_AGE_S:
                return None
            params = {"symbol": symbol, "showPermissionSets": "false"}
            reply = await self.ask(account, "/api/v3/exchangeInfo", params, 20)
            if reply.status != 200:
                if mapping.code_of(reply.body)[0] not in {mapping.BAD_SYMBOL, -1100}:
                    raise BrokerRejected(
                        f"account {account}: exchangeInfo: HTTP {reply.status}", account=account
                    )
                self._absent[symbol] = now
                return None
            return self._learn(account, symbol, reply.body)

    async def read_limits(self, account: str) -> None:
        """Read the limits in force, once for all accounts.

        Raises:
            BrokerError: they cannot be read.
        """
        if not self.limits:
            await self.instrument(account, _COMMON)

    def _learn(self, account: str, symbol: str, body: object) -> Instrument:
        limits = rules.rate_limits(body) if isinstance(body, dict) else {}
        self.limits.update(limits)
        self.weights.limit = limits.get(("REQUEST_WEIGHT", 60), self.weights.limit)
        told = body.get("symbols") if isinstance(body, dict) else None
        row = next(
            (one for one in told or () if isinstance(one, dict) and one.get("symbol") == symbol),
            None,
        )
        instrument, base, quote = rules.instrument(account, row)
        self._symbols[symbol] = (time.monotonic(), instrument)
        self._pairs[base, quote] = symbol
        return instrument

    async def tradable(self, account: str, symbol: str) -> bool | None:
        """Say whether a symbol trades now, as of a minute ago at most."""
        found = await self.instrument(account, symbol, _STATUS_AGE_S)
        return None if found is None else found.tradable

    def symbol_of(self, base: str, quote: str) -> str:
        """Return the symbol of two assets: as read, else as Binance names its symbols."""
        return self._pairs.get((base, quote), base + quote)

    async def prices(self, account: str, symbols: set[str]) -> dict[str, Decimal]:
        """Read current prices of those of ``symbols`` there are, half a second old at most.

        Raises:
            BrokerError: they cannot be read.
        """
        now = time.monotonic()
        wanted = sorted(
            s for s in symbols if now - self._prices.get(s, (float("-inf"),))[0] > _PRICE_AGE_S
        )
        if wanted:
            # One unknown symbol would fail them all: then every price there is, at the same weight.
            names = "[" + ",".join(f'"{symbol}"' for symbol in wanted) + "]"
            reply = await self.ask(account, "/api/v3/ticker/price", {"symbols": names}, 4)
            if reply.status != 200:
                reply = await self.ask(account, "/api/v3/ticker/price", {}, 4)
            at = time.monotonic()
            for symbol, price in rules.prices(reply.body, wanted).items():
                self._prices[symbol] = (at, price)
        fresh = now - _PRICE_AGE_S
        return {
            symbol: self._prices[symbol][1]
            for symbol in symbols
            if symbol in self._prices and self._prices[symbol][0] >= fresh
        }
