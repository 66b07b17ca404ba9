"""ccxt as a broker: which exchanges and options there are, and what accounts share."""

from __future__ import annotations

import asyncio
import ssl
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import replace
from decimal import localcontext
from functools import wraps
from types import ModuleType
from typing import Any

from engine.brokers.ccxt.reads import Terms
from engine.brokers.ccxt.session import CcxtSession
from engine.brokers.ccxt.tracing import trace_config
from engine.brokers.credentials import check_options, credential
from engine.brokers.dial import Route
from engine.brokers.http import BaseUrl, check_base_url, tls_context
from engine.errors import ConfigError
from engine.model.account import Account
from engine.model.enums import OrderType, TimeInForce
from engine.ports import BrokerSink, Capabilities

CAPABILITIES = Capabilities(
    client_id="label",
    settle_s=10.0,
    order_types=frozenset({OrderType.MARKET, OrderType.LIMIT}),
    time_in_force=frozenset(TimeInForce),
    max_orders_per_second=10.0,
    burst=10,
    can_replace=False,
)
"""Of any exchange; a session's own carry its exchange's rate."""
_CREDENTIALS = {"apiKey": "key_id", "secret": "secret", "password": "password", "uid": "uid"}
_OPTIONS = {
    "exchange": None,
    "type": ("spot", "margin", "swap", "future"),
    "quote_asset": None,
    "day_as_gtc": ("yes", "no"),
}
_MARKETS_AGE_S = 3600.0


class CcxtAdapter:
    """Makes sessions at ccxt's exchanges.

    Raises:
        ConfigError: ccxt is not installed.
    """

    name = "ccxt"
    capabilities = CAPABILITIES

    def __init__(
        self,
        *,
        allow_simulated: bool = False,
        reply_timeout_s: float = 10.0,
        tls: Callable[[], ssl.SSLContext] = tls_context,
    ) -> None:
        self._library = _library()
        self._allow_simulated = allow_simulated
        self._reply_timeout_s = reply_timeout_s
        self._tls = tls
        self._context: ssl.SSLContext | None = None
        self._places: dict[tuple[str, str, BaseUrl | None, Route | None], Place] = {}

    def session(
        self, account: Account, credentials: dict[str, str], sink: BrokerSink
    ) -> CcxtSession:
        """Make one account's session.

        Raises:
            ConfigError: an unknown exchange or option, a credential is missing, or the exchange has no sandbox.
        """
        check_options(account, _OPTIONS)
        base = self._base(account)
        exchange = self._exchange(account, credentials, base)
        rate = 1000 / float(exchange.rateLimit or 100)
        capabilities = replace(
            CAPABILITIES,
            max_orders_per_second=rate,
            burst=max(1, int(rate)),
            per_address_second=rate,
            spot=account.options.get("type", "spot") == "spot",
            reads_per_second=rate / 4,
        )
        options = account.options
        return CcxtSession(
            account.id,
            exchange,
            self._place(exchange, base, Route.of(account.id, account.egress, credentials)),
            Terms(
                capabilities,
                quote=options.get("quote_asset", "USDT"),
                day_as_gtc=options.get("day_as_gtc") == "yes",
                secrets=tuple(credentials.values()),
            ),
            sink,
        )

    def _base(self, account: Account) -> BaseUrl | None:
        """Return the simulated venue an account trades at, ``None`` for the exchange itself."""
        if account.base_url is None:
            return None
        return check_base_url(
            account.id, account.base_url, (), allow_simulated=self._allow_simulated
        )

    def _exchange(
        self, account: Account, credentials: Mapping[str, str], base: BaseUrl | None
    ) -> Any:
        name = account.options.get("exchange", "")
        if name not in self._library.exchanges:
            raise ConfigError(
                f"account {account.id}: option exchange = {name!r} is none of ccxt's {len(self._library.exchanges)} "
                "exchanges, like kraken or okx (https://docs.ccxt.com lists them)"
            )
        exchange = getattr(
            self._library, name
        )(
            {
                "enableRateLimit": False,  # the engine's own limits hold for all accounts of an address
                "timeout": int(self._reply_timeout_s * 1000),
                "options": {"warnOnFetchOpenOrdersWithoutSymbol": False},
            }
        )
        for theirs, needed in exchange.requiredCredentials.items():
            ours = _CREDENTIALS.get(theirs)
            if ours is None and needed:
                raise ConfigError(
                    f"account {account.id}: {name} wants {theirs} to log in, which is not supported"
                )
            if ours and (needed or credentials.get(ours)):
                aliases = {"key_id": ("api_key",), "secret": ("api_secret",)}.get(ours, ())
                setattr(exchange, theirs, credential(account.id, credentials, ours, *aliases))
        kind = account.options.get("type", "spot")
        exchange.options["defaultType"] = kind
        if kind == "spot":
            spot_only(exchange)
        if base is not None:
            use_venue(exchange, base.url)
        elif account.environment == "paper":
            if not exchange.urls.get("test"):
                raise ConfigError(
                    f"account {account.id}: {name} has no sandbox; environment must be live"
                )
            exchange.set_sandbox_mode(True)
        return exchange

    def _place(self, exchange: Any, base: BaseUrl | None, route: Route | None) -> Place:
        kind = f"{exchange.options['defaultType']} {exchange.isSandboxModeEnabled}"
        key = (exchange.id, kind, base, route)
        place = self._places.get(key)
        if place is None:
            if route is not None and route.proxy.startswith("socks"):
                raise ConfigError(
                    "egress: ccxt accounts go through http proxies, not through socks5"
                )
            place = self._places[key] = Place(self._trust, route)
        return place

    def _trust(self) -> ssl.SSLContext:
        if self._context is None:
            self._context = self._tls()
        return self._context

    async def close(self) -> None:
        """Close the shared connections."""
        places = list(self._places.values())
        self._places.clear()
        for place in places:
            await place.close()


def _library() -> ModuleType:
    try:
        import ccxt.async_support as library
    except ImportError:
        raise ConfigError(
            "accounts with broker ccxt need ccxt: pip install 'volley[ccxt]'"
        ) from None
    _keep_to_itself(sys.modules["ccxt.base.exchange"])  # the package hides it from an import
    return library  # type: ignore[no-any-return]


def _keep_to_itself(base: Any) -> None:
    """Let ccxt round in a decimal context of its own: it changes the thread's, and with it everybody's money."""
    round_ = base.decimal_to_precision  # every instance takes it from there
    if hasattr(round_, "__wrapped__"):
        return

    @wraps(round_)
    def contained(*given: Any, **named: Any) -> Any:
        with localcontext():
            return round_(*given, **named)

    base.decimal_to_precision = contained


def spot_only(exchange: Any) -> None:
    """Let an instance load what spot trading needs, where ccxt leaves the choice."""
    choice = exchange.options.get("fetchMarkets")
    if isinstance(choice, dict) and "types" in choice:
        choice["types"] = ["spot"]
    exchange.options["fetchMargins"] = False


def use_venue(exchange: Any, url: str) -> None:
    """Let an instance speak to a simulated venue, which knows orders and markets and little else."""
    exchange.urls["api"] = _moved(exchange.urls["api"], url)
    exchange.has["fetchCurrencies"] = False


def _moved(urls: Any, to: str) -> Any:
    """Return ccxt's table of addresses with ``to`` in place of every scheme and host."""
    if isinstance(urls, dict):
        return {name: _moved(url, to) for name, url in urls.items()}
    slash, path = str(urls).partition("://")[2].partition("/")[1:]
    return to + slash + path


class Place:
    """One exchange by one way out: its markets are loaded once, and its accounts share their connections."""

    def __init__(self, tls: Callable[[], ssl.SSLContext], route: Route | None) -> None:
        self._tls = tls
        self._route = route
        self._http: Any = None
        self._source: Any = None  # the instance that loaded the markets
        self._loaded = 0.0
        self._loading = asyncio.Lock()

    def equip(self, exchange: Any) -> None:
        """Give an instance the shared connections; each of its own making would cost a TLS context, too."""
        if self._http is None:
            import aiohttp

            route = self._route
            local = (route.local_address, 0) if route is not None and route.local_address else None
            connector = aiohttp.TCPConnector(ssl=self._tls(), limit=0, local_addr=local)
            self._http = aiohttp.ClientSession(connector=connector, trace_configs=[trace_config()])
        exchange.session = self._http
        exchange.own_session = False
        exchange.ssl_context = self._tls()
        if self._route is not None and self._route.proxy:
            exchange.aiohttp_proxy = _with_user(self._route)

    async def load_markets(self, exchange: Any) -> None:
        """Give an instance the exchange's markets, at most an hour old; raises ccxt's exceptions."""
        async with self._loading:
            if self._source is None or time.monotonic() - self._loaded > _MARKETS_AGE_S:
                await exchange.load_markets(True)
                self._source, self._loaded = exchange, time.monotonic()
        if exchange.markets is not self._source.markets:
            exchange.set_markets_from_exchange(self._source)

    async def close(self) -> None:
        """Close the connections."""
        if self._http is not None:
            await self._http.close()
            self._http = None


def _with_user(route: Route) -> str:
    from urllib.parse import quote

    if not route.user:
        return route.proxy
    user = f"{quote(route.user, safe='')}:{quote(route.password, safe='')}"
    return route.proxy.replace("://", f"://{user}@", 1)
