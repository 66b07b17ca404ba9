"""One opener for Redis: every wait bounded, nothing decoded, nothing resent behind our back."""

from __future__ import annotations

from redis.asyncio import Redis
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff

from engine.errors import ConfigError

TIMEOUT_S = 2.0  # of connecting, and of any one answer; a blocking read must ask for less
HEALTH_S = 15


def open_redis(url: str, *, timeout_s: float = TIMEOUT_S) -> Redis:
    """Make a client for ``url``; it connects when first used, and ``aclose`` ends it.

    The driver's own retries are off: a command that timed out may have run, and only its caller
    knows whether it may run twice. A cancelled command's connection is dropped by the driver, so
    that no reply reaches another caller.

    Raises:
        ConfigError: the URL is none Redis understands (it is not quoted: it may hold a password).
    """
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
