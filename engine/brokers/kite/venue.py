"""What Kite accounts at one address share: connections for look-ups, instruments, quotes."""

from __future__ import annotations

import asyncio
import ssl
import time
from collections.abc import Mapping, Sequence
from datetime import datetime
from decimal import Decimal
from typing import Any

import orjson

from engine.brokers.dial import Route
from engine.brokers.http import BaseUrl, HttpClient, read_json
from engine.brokers.hub import WireHub
from engine.brokers.kite import mapping, portfolio
from engine.brokers.kite.calls import call
from engine.brokers.reading import reading
from engine.errors import BrokerAuthError, BrokerProtocolError, BrokerRejected, BrokerUnavailable
from engine.model.instrument import Instrument

_QUOTE_AGE_S = 1.0  # Kite answers one request for quotes a second
_MOST_QUOTES = 500


class Venue:
    """What accounts at one address share by one way out: look-ups, instruments, quotes."""

    def __init__(self, base: BaseUrl, route: Route | None, hub: WireHub) -> None:
        self.base = base
        self.route = route
        self.prefix = mapping.prefix(base.host)
        self._context = hub.context if base.tls else None
        self.http = HttpClient(base, context=hub.context() if base.tls else None, egress=route)
        self._lists: dict[str, portfolio.InstrumentList] = {}
        self._list_locks: dict[str, asyncio.Lock] = {}
        self._quotes: dict[str, tuple[float, Decimal]] = {}
        self._quote_lock = asyncio.Lock()
        self._quoted_at = float("-inf")
        self._spelled: dict[str, str] = {}

    def context(self) -> ssl.SSLContext | None:
        """Return the TLS context, ``None`` for plain text."""
        return self._context() if self._context is not None else None

    async def close(self) -> None:
        """Close the connections."""
        await self.http.close()

    # Names: ``INFY`` and ``NSE:INFY`` are the same thing, and the engine goes by what it was given first.

    def spell(self, symbol: str) -> None:
        """Note how the engine writes a symbol."""
        if ":" not in symbol:
            self._spelled[f"NSE:{symbol}"] = symbol

    def spelled(self, symbol: str) -> str:
        """Return how the engine writes ``EXCHANGE:SYMBOL``."""
        return self._spelled.get(symbol, symbol)

    async def instrument(
        self, account: str, symbol: str, headers: Mapping[str, str]
    ) -> Instrument | None:
        """Read what a symbol is, from the day's list of its exchange; ``None``: there is none.

        Raises:
            BrokerError: the list cannot be had or read.
        """
        exchange, _ = mapping.split_symbol(symbol)
        if exchange not in mapping.EXCHANGES:
            return None
        self.spell(symbol)
        lock = self._list_locks.setdefault(exchange, asyncio.Lock())
        async with lock:
            found = self._lists.get(exchange)
            today = datetime.now(mapping.IST).date().isoformat()
            if found is None or found.day != today:
                found = self._lists[exchange] = await self._list(account, exchange, today, headers)
        with reading(account, f"the instrument {symbol}"):
            return found.find(symbol)

    async def _list(
        self, account: str, exchange: str, today: str, headers: Mapping[str, str]
    ) -> portfolio.InstrumentList:
        path = f"/instruments/{exchange}"
        status, body = await call(
            self.base,
            "GET",
            path,
            account=account,
            headers=headers,
            context=self.context(),
            route=self.route,
        )
        if status != 200:
            raise BrokerUnavailable(
                f"account {account}: GET {path}: {mapping.refusal(status, body).text}",
                account=account,
            )
        with reading(account, f"the instruments of {exchange}"):
            return portfolio.InstrumentList(body, today)

    async def quotes(
        self, account: str, symbols: Sequence[str], headers: Mapping[str, str]
    ) -> dict[str, Decimal]:
        """Read last prices, for all accounts together at most once a second.

        Raises:
            BrokerError: the broker could not be asked.
        """
        for symbol in symbols:
            self.spell(symbol)
        keys = {symbol: ":".join(mapping.split_symbol(symbol)) for symbol in symbols}
        async with self._quote_lock:
            now = time.monotonic()
            wanted = [key for key in keys.values() if not self._fresh(key, now)][:_MOST_QUOTES]
            if wanted:
                await asyncio.sleep(max(0.0, self._quoted_at + _QUOTE_AGE_S - now))
                self._quoted_at = time.monotonic()
                body = await self.read(account, mapping.ltp_path(wanted), headers)
                for key, price in portfolio.last_prices(body).items():
                    self._quotes[key] = (time.monotonic(), price)
        now = time.monotonic()
        return {
            symbol: self._quotes[key][1] for symbol, key in keys.items() if self._fresh(key, now)
        }

    def _fresh(self, key: str, now: float) -> bool:
        return key in self._quotes and now - self._quotes[key][0] < _QUOTE_AGE_S

    async def read(self, account: str, path: str, headers: Mapping[str, str]) -> Any:
        """Read ``path`` and return its JSON.

        Raises:
            BrokerAuthError: the session is over.
            BrokerRejected: Kite refuses, in its own words.
            BrokerError: no answer that says anything.
        """
        reply = await self.http.get(account, self.prefix + path, headers=headers)
        if 200 <= reply.status < 300:
            return reply.body
        said = orjson.dumps(reply.body, default=str)
        raise _error(account, path.partition("?")[0], reply.status, said)

    @staticmethod
    def judge(account: str, path: str, status: int, body: bytes) -> Any:
        """Return the JSON of a reply that came over the wire; raises as ``read``."""
        if not 200 <= status < 300:
            raise _error(account, path, status, body)
        with reading(account, path):
            return read_json(body)


def _error(account: str, path: str, status: int, body: bytes) -> Exception:
    refusal = mapping.refusal(status, body)
    text = f"account {account}: GET {path}: HTTP {status} {refusal.text}"
    if mapping.session_over(status, body):
        return BrokerAuthError(text, account=account)
    if refusal.proof:
        return BrokerRejected(text, account=account)
    return BrokerProtocolError(text, account=account)
