"""Kite as a broker: which addresses and options there are, and what accounts share."""

from __future__ import annotations

import ssl
from collections.abc import Callable

from engine.brokers.credentials import check_options
from engine.brokers.dial import Route
from engine.brokers.http import BaseUrl, base_for, tls_context
from engine.brokers.hub import WireHub
from engine.brokers.kite import mapping
from engine.brokers.kite.session import CAPABILITIES, KiteSession
from engine.brokers.kite.venue import Venue
from engine.brokers.session_cache import SessionCache
from engine.model.account import Account
from engine.ports import BrokerSink, TokenStore

CONFIRM = (
    'a live Kite account needs the option confirmed = "static-ip": with it you confirm that its orders leave '
    "from a static IP address registered with Zerodha for this app, that the account is your own or your "
    "immediate family's, that at most 10 orders a second go to one exchange, and that market orders go "
    "with market protection (SEBI 2025-02-04, NSE/INVG/67858)"
)
"""What a person confirms; ``volley`` keeps to the last two by itself."""

_HOSTS = {"live": mapping.LIVE_HOST, "paper": mapping.SANDBOX_HOST}
_OPTIONS = {"product": mapping.PRODUCTS, "confirmed": {"static-ip"}, "user_id": None}


def base_of(account: Account, *, allow_simulated: bool) -> BaseUrl:
    """Return where an account's API is: Kite, its sandbox (environment ``paper``), or loopback.

    Raises:
        ConfigError: ``base_url`` is not allowed, or does not fit the environment.
    """
    return base_for(account, _HOSTS, allow_simulated=allow_simulated)


def unconfirmed(account: Account, base: BaseUrl) -> str:
    """Return what a person has to confirm before a live account is connected, empty when nothing."""
    if account.environment != "live" or base.simulated:
        return ""
    return "" if account.options.get("confirmed") == "static-ip" else CONFIRM


class KiteAdapter:
    """Makes Kite sessions; shares one wire hub, the session cache and, per address, look-ups and lists."""

    name = "kite"
    capabilities = CAPABILITIES

    def __init__(
        self,
        *,
        allow_simulated: bool = False,
        reply_timeout_s: float = 10.0,
        idle_s: float = 60.0,
        tls: Callable[[], ssl.SSLContext] = tls_context,
        tokens: TokenStore | None = None,
    ) -> None:
        self.idle_s = idle_s
        self.hub = WireHub(reply_timeout_s=reply_timeout_s, tls=tls)
        self.bodies = mapping.OrderBodies()
        self.sessions = SessionCache(tokens)
        self._allow_simulated = allow_simulated
        self._venues: dict[tuple[str, Route | None], Venue] = {}

    def session(
        self, account: Account, credentials: dict[str, str], sink: BrokerSink
    ) -> KiteSession:
        """Make one account's session.

        Raises:
            ConfigError: a credential is missing, ``base_url`` or an option is not allowed.
        """
        check_options(account, _OPTIONS)
        base = base_of(account, allow_simulated=self._allow_simulated)
        route = Route.of(account.id, account.egress, credentials)
        return KiteSession(
            account,
            credentials,
            sink,
            base,
            venue=self._venue(base, route),
            hub=self.hub,
            bodies=self.bodies,
            sessions=self.sessions,
            refuse=unconfirmed(account, base),
            idle_s=self.idle_s,
        )

    def _venue(self, base: BaseUrl, route: Route | None) -> Venue:
        venue = self._venues.get((base.url, route))
        if venue is None:
            venue = self._venues[base.url, route] = Venue(base, route, self.hub)
        return venue

    async def close(self) -> None:
        """Close the shared connections."""
        venues = list(self._venues.values())
        self._venues.clear()
        for venue in venues:
            await venue.close()
