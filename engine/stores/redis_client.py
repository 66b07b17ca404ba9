"""One opener for Redis: every wait bounded, nothing decoded, nothing resent behind our back."""

from __future__ import annotations

from urllib.parse import parse_qs, urlsplit

from redis.asyncio import Redis
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff

from engine.errors import ConfigError
from engine.stores.remote import is_here

TIMEOUT_S = 2.0  # of connecting, and of any one answer; a blocking read must ask for less
HEALTH_S = 15


def open_redis(url: str, *, timeout_s: float = TIMEOUT_S) -> Redis:
    """Make a client for ``url``; it connects when first used, and ``aclose`` ends it.

    The driver's own retries are off: a command that timed out may have run, and only its caller
    knows whether it may run twice. A cancelled command's connection is dropped by the driver, so
    that no reply reaches another caller.

    Raises:
        ConfigError: the URL is none Redis understands (it is not quoted: it may hold a password), or leads to
            another machine without TLS and a password.
    """
    _check_remote(url)
    try:
        client: Redis = Redis.from_url(
            url,
            decode_responses=False,
            socket_timeout=timeout_s,
            socket_connect_timeout=timeout_s,
            socket_keepalive=True,
            health_check_interval=HEALTH_S,
            retry=Retry(NoBackoff(), 0),
            client_name="volley",
        )
    except (ValueError, TypeError) as error:
        raise ConfigError(
            f"storage.redis_url is not a Redis URL ({type(error).__name__}): "
            "expected redis://HOST:PORT/DATABASE, rediss:// or unix://"
        ) from None
    return client


def _check_remote(url: str) -> None:
    """Refuse what would speak in the open: Redis trusts whoever reaches it (its own security page)."""
    parts = urlsplit(url)
    if parts.scheme == "unix" or is_here(parts.hostname or ""):
        return
    password = parts.password or parse_qs(parts.query).get("password")
    if parts.scheme != "rediss" or not password:
        raise ConfigError(
            "storage.redis_url leads to another machine without TLS and a password: "
            "expected rediss://USER:PASSWORD@HOST:PORT/DATABASE, or an address of this machine"
        )
    if parse_qs(parts.query).get("ssl_cert_reqs", ["required"]) != ["required"]:
        raise ConfigError(
            "storage.redis_url asks for TLS without checking certificates: leave ssl_cert_reqs out"
        )
