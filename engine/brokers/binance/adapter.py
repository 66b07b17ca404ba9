"""Binance Spot as a broker: sessions that sign and send over the wire and share what an address can share."""

from __future__ import annotations

import ssl
from collections.abc import Callable
from dataclasses import replace as changed

from engine.brokers.binance.reads import RECV_WINDOW_MS
from engine.brokers.binance.session import BinanceSession
from engine.brokers.binance.venue import Venue
from engine.brokers.credentials import check_options
from engine.brokers.dial import Route
from engine.brokers.http import BaseUrl, check_base_url, tls_context
from engine.brokers.hub import WireHub
from engine.errors import ConfigError
from engine.model.account import Account
from engine.model.enums import OrderType, TimeInForce
from engine.ports import BrokerSink, Capabilities

_PROCESSING_S = 10.0
# Unfilled orders of an account: 50 in 10 s. Requests of an address: 300,000 in 5 minutes; orders that are taken
# have cost no request weight since 2026-04-02. (exchangeInfo's samples; sessions read the limits in force.)
CAPABILITIES = Capabilities(
    client_id="open_only",
    # A request is taken within recvWindow of its timestamp or never, and then processed within 10 s (rest-api.md).
    settle_s=RECV_WINDOW_MS / 1000 + _PROCESSING_S,
    order_types=frozenset(OrderType),
    time_in_force=frozenset(TimeInForce),
    max_orders_per_second=5.0,
    burst=50,
    native_exits=True,
    per_address_second=1000.0,
    spot=True,
    cash="trades",
    # Of 6000 weight a minute a quarter; a list of all open orders weighs 80, the account 20 (rest-api.md).
    reads_per_second=6000 / 60 / 4,
    orders_cost=80,
    positions_cost=20,
)
_LIVE = ("api", "api-gcp", "api1", "api2", "api3", "api4")
_TESTNET, _DEMO = "testnet.binance.vision", "demo-api.binance.com"
_WEBSOCKETS = {
    **{f"{name}.binance.com": "wss://ws-api.binance.com:443" for name in _LIVE},
    _TESTNET: "wss://ws-api.testnet.binance.vision",
    _DEMO: "wss://demo-ws-api.binance.com",
}
_OPTIONS = {"venue": ("spot", "demo"), "quote_asset": None, "day_as_gtc": ("yes", "no")}


class BinanceAdapter:
    """Makes Binance sessions; accounts at one address by one way out share its look-ups, clock and order stream.

    ``settle_s`` is how long a look-up must wait before "not found" is believed.
    """

    name = "binance"

    def __init__(
        self,
        *,
        allow_simulated: bool = False,
        order_connections: int = 1,
        reply_timeout_s: float = 10.0,
        idle_s: float = 60.0,
        settle_s: float = CAPABILITIES.settle_s,
        tls: Callable[[], ssl.SSLContext] = tls_context,
    ) -> None:
        self.capabilities = changed(CAPABILITIES, settle_s=settle_s)
        self.order_connections = order_connections
        self.idle_s = idle_s
        self.hub = WireHub(reply_timeout_s=reply_timeout_s, tls=tls)
        self._allow_simulated = allow_simulated
        self._venues: dict[tuple[str, Route | None], Venue] = {}

    def session(
        self, account: Account, credentials: dict[str, str], sink: BrokerSink
    ) -> BinanceSession:
        """Make one account's session.

        Raises:
            ConfigError: a credential is missing or no key, an option is not known, ``base_url`` is not allowed.
        """
        check_options(account, _OPTIONS)
        base = self._base(account)
        route = Route.of(account.id, account.egress, credentials)
        venue = self._venue(base, route)
        return BinanceSession(self, account, base, venue, credentials, sink)

    def _base(self, account: Account) -> BaseUrl:
        demo = account.options.get("venue") == "demo"
        if account.environment == "live":
            if demo:
                raise ConfigError(
                    f"account {account.id}: option venue = 'demo' does not fit environment 'live'; "
                    "the demo exchange is practice"
                )
            own = [f"{name}.binance.com" for name in _LIVE]
        else:
            own = [_DEMO if demo else _TESTNET]
        return check_base_url(
            account.id,
            account.base_url or f"https://{own[0]}",
            own,
            allow_simulated=self._allow_simulated,
        )

    def _venue(self, base: BaseUrl, route: Route | None) -> Venue:
        venue = self._venues.get((base.url, route))
        if venue is None:
            websocket = base.websocket if base.simulated else _WEBSOCKETS[base.host]
            venue = Venue(base, websocket + "/ws-api/v3", route, self.hub)
            self._venues[base.url, route] = venue
        return venue

    async def close(self) -> None:
        """Close the shared connections."""
        venues = list(self._venues.values())
        self._venues.clear()
        for venue in venues:
            await venue.close()
