"""The two requests that are neither orders nor look-ups: a login's form, and the instrument list (CSV)."""

from __future__ import annotations

import ssl
from collections.abc import Mapping

import httpx

from engine.brokers.dial import Route
from engine.brokers.http import BaseUrl, plain, tls_context
from engine.brokers.http_transport import OwnTransport
from engine.brokers.lookups import MAX_BODY
from engine.errors import BrokerProtocolError, BrokerUnavailable, OutcomeUnknown


async def call(  # noqa: PLR0913 (a request has this many parts)
    base: BaseUrl,
    method: str,
    path: str,
    *,
    account: str,
    headers: Mapping[str, str],
    context: ssl.SSLContext | None = None,
    form: Mapping[str, str] | None = None,
    route: Route | None = None,
    timeout_s: float = 30.0,
) -> tuple[int, bytes]:
    """Send one request on a connection of its own; return status and body, whatever they are.

    Raises:
        BrokerUnavailable: not a byte left.
        OutcomeUnknown: no complete reply.
        BrokerProtocolError: a reply larger than 16 MiB.
    """
    where = f"account {account}: {method} {base.url}{path}"
    if base.tls and context is None:
        context = tls_context()
    limits = httpx.Limits(max_connections=1, max_keepalive_connections=0)
    transport = OwnTransport(context if base.tls else None, limits, route)
    timeout = httpx.Timeout(timeout_s, connect=5.0)
    body = bytearray()
    try:
        async with (
            httpx.AsyncClient(
                base_url=base.url, transport=transport, timeout=timeout, trust_env=False
            ) as client,
            client.stream(method, path, headers=dict(headers), data=form) as reply,
        ):
            async for piece in reply.aiter_bytes():
                body += piece
                if len(body) > MAX_BODY:
                    raise BrokerProtocolError(f"{where}: reply larger than 16 MiB", account=account)
            return reply.status_code, bytes(body)
    except (httpx.ConnectError, httpx.ConnectTimeout, httpx.ProxyError) as error:
        raise BrokerUnavailable(f"{where}: {_reason(error)}", account=account) from None
    except httpx.HTTPError as error:
        raise OutcomeUnknown(f"{where}: {_reason(error)}", account=account) from None


def _reason(error: httpx.HTTPError) -> str:
    if isinstance(error, httpx.TimeoutException):
        return "no answer in time"
    return plain(str(error) or type(error).__name__)
