"""The same fan-out with ccxt's async client, as its users would write it for many accounts.

One instance an account (its credentials are an instance's), its rate limiter off, markets, HTTP session and TLS
context shared: all that ccxt allows to share. It writes, signs and parses by itself, so its orders are its own.
"""

from __future__ import annotations

import asyncio
from typing import Any

from engine.brokers.ccxt.adapter import spot_only, use_venue
from engine.errors import TradingError
from engine.loadtest.baselines import KEEP_S, Round, Venue, gathered
from engine.model.identifiers import cl_ord_id

OWNER = "CCXT"
_ALPACA_MARKET = {
    "symbol": "BTC/USD",
    "class": "crypto",
    "status": "active",
    "tradable": True,
    "min_order_size": "0.000026873",
    "min_trade_increment": "0.000000001",
    "price_increment": "1",
}


class Ccxt:
    """ccxt.async_support with asyncio.gather."""

    name = "ccxt"

    def __init__(self, venue: Venue) -> None:
        dialect = venue.dialect
        if not dialect.library:
            raise TradingError(f"--compare ccxt: ccxt has no {dialect.name} class")
        self._venue = venue
        self._exchanges: list[Any] = []
        self._session: Any = None
        self._error: type[Exception] = Exception
        self.note = (
            f"async_support.{dialect.library}, create_order {dialect.library_symbol}, rate limiter off, "
            "one session and one set of markets for all"
        )

    async def open(self) -> None:
        """Make the instances and warm one connection an account."""
        try:
            import aiohttp
            import ccxt.async_support as ccxt
        except ImportError:
            raise TradingError("--compare ccxt needs ccxt: pip install 'volley[ccxt]'") from None
        venue = self._venue
        self._error = ccxt.BaseError
        connector = aiohttp.TCPConnector(
            limit=venue.accounts, ssl=venue.context or True, keepalive_timeout=KEEP_S
        )
        self._session = aiohttp.ClientSession(connector=connector)
        for number in range(venue.accounts):
            credentials = venue.dialect.credentials(OWNER, number)
            exchange = getattr(ccxt, venue.dialect.library)(
                {
                    "apiKey": credentials["key_id"],
                    "secret": credentials["secret"],
                    "enableRateLimit": False,
                    "session": self._session,
                    "timeout": 120_000,
                }
            )
            exchange.ssl_context = venue.context or True
            use_venue(exchange, venue.url)
            self._exchanges.append(exchange)
            if number:
                exchange.set_markets_from_exchange(self._exchanges[0])
            else:
                await _load_markets(exchange)
        await self.round(-1)

    async def round(self, number: int) -> Round:
        """Gather one ``create_order`` an account."""
        ids = [
            cl_ord_id("loadtest", OWNER, str(number), str(account))
            for account in range(len(self._exchanges))
        ]
        return await gathered(list(zip(self._exchanges, ids, strict=True)), self._send)

    async def _send(self, what: tuple[Any, str]) -> bool:
        exchange, client_id = what
        try:
            order = await exchange.create_order(
                self._venue.dialect.library_symbol,
                "market",
                "buy",
                self._venue.dialect.quantity,
                params={"clientOrderId": client_id},
            )
        except self._error:
            return False
        return bool(order["id"])

    async def close(self) -> None:
        """Close the instances and their session."""
        # Each waits a quarter of a second as it closes.
        await asyncio.gather(*(exchange.close() for exchange in self._exchanges))
        if self._session is not None:
            await self._session.close()


async def _load_markets(exchange: Any) -> None:
    if (
        exchange.id == "alpaca"
    ):  # the one that is needed: the simulated venue does not list its assets
        exchange.set_markets([exchange.parse_market(_ALPACA_MARKET)])
        return
    spot_only(exchange)
    await exchange.load_markets()
