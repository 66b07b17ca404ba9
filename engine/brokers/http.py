"""Everything that is not order entry: look-ups over ``httpx``, and which addresses an account
may use.

Requests sent with ``HttpClient`` must be safe to repeat (reads). Errors name the account and the
path, never a header, a query or a body of ours.
"""

from __future__ import annotations

import json
import os
import re
import ssl
import sys
from collections.abc import Awaitable, Callable, Collection, Mapping
from dataclasses import dataclass
from decimal import Decimal
from typing import Any

import httpx
import orjson

from engine.brokers.dial import Pacer, Route
from engine.brokers.http_transport import LookupTransport
from engine.errors import (
    BrokerAuthError,
    BrokerProtocolError,
    BrokerUnavailable,
    ConfigError,
    OutcomeUnknown,
)
from engine.model.account import Account

MAX_BODY = 16 << 20
_TEXT_CAP = 200
_LOOPBACK = {"127.0.0.1", "localhost", "[::1]"}
# Exactly scheme://host[:port][/]; no user, no path, no query, nothing percent-encoded.
_BASE_URL = re.compile(
    r"(?P<scheme>https?)://(?P<host>\[[0-9a-f:]+\]|[a-z0-9.-]+)(?::(?P<port>[0-9]{1,5}))?/?",
    re.ASCII | re.IGNORECASE,
)
_AUTHORITIES = (
    "/etc/ssl/certs/ca-certificates.crt",  # Debian, Ubuntu, Gentoo
    "/etc/pki/ca-trust/extracted/pem/tls-ca-bundle.pem",  # Fedora, RHEL
    "/etc/ssl/ca-bundle.pem",  # SUSE
    "/etc/ssl/cert.pem",  # Alpine, Arch
)
_NEVER_LEFT = (
    httpx.ConnectError,
    httpx.ConnectTimeout,
    httpx.PoolTimeout,
    httpx.UnsupportedProtocol,
    httpx.LocalProtocolError,
)


@dataclass(frozen=True, slots=True)
class BaseUrl:
    """A checked address of a broker. ``host`` is fit for a socket, ``authority`` for a Host
    header."""

    url: str
    host: str
    port: int
    tls: bool
    authority: str
    simulated: bool

    @property
    def websocket(self) -> str:
        """Return the same address for a WebSocket."""
        return ("wss://" if self.tls else "ws://") + self.authority


def check_base_url(
    account: str, url: str, allowed_hosts: Collection[str], *, allow_simulated: bool
) -> BaseUrl:
    """Read an account's base URL: https to a host on the adapter's list, or loopback if allowed.

    Raises:
        ConfigError: anything else; names the account, the value and what is allowed.
    """
    match = _BASE_URL.fullmatch(url)
    if match:
        scheme, host = match["scheme"].lower(), match["host"].lower()
        port = int(match["port"] or (443 if scheme == "https" else 80))
        simulated = host in _LOOPBACK
        known = scheme == "https" and host in allowed_hosts and port == 443
        if 0 < port < 65536 and ((simulated and allow_simulated) or known):
            default = port == (443 if scheme == "https" else 80)
            authority = host if default else f"{host}:{port}"
            return BaseUrl(
                f"{scheme}://{authority}",
                host.strip("[]"),
                port,
                scheme == "https",
                authority,
                simulated,
            )
    allowed = [f"https://{host}" for host in sorted(allowed_hosts)]
    if allow_simulated:
        allowed.append("http(s)://127.0.0.1, localhost or [::1] with any port")
    raise ConfigError(
        f"account {account}: base_url {_without_user(url)!r} is not allowed; allowed: "
        + ", ".join(allowed)
        + ("" if allow_simulated else " (loopback needs engine.allow_simulated_venues = true)")
    )


def base_for(account: Account, hosts: Mapping[str, str], *, allow_simulated: bool) -> BaseUrl:
    """Return where an account's broker is: ``hosts`` by environment, or its own ``base_url``.

    Raises:
        ConfigError: the address is not allowed, or belongs to another environment.
    """
    own = hosts[account.environment]
    base = check_base_url(
        account.id,
        account.base_url or f"https://{own}",
        hosts.values(),
        allow_simulated=allow_simulated,
    )
    if not base.simulated and base.host != own:
        raise ConfigError(
            f"account {account.id}: environment {account.environment!r} does not fit base_url "
            f"{base.url!r}; expected https://{own}"
        )
    return base


def _without_user(url: str) -> str:
    """Cut what may be a password out of an address that is about to be shown."""
    before, at, after = url[:256].rpartition("@")
    return f"{before.partition('://')[0]}://***@{after}" if at else url[:256]


def tls_context() -> ssl.SSLContext:
    """Return a context that verifies certificates against the authorities this system trusts.

    macOS and Windows keep them where OpenSSL cannot look, so ``truststore`` asks the system itself;
    elsewhere they are in files, which truststore would read again for every connection.
    """
    if sys.platform in {"darwin", "win32"}:
        import truststore

        context: ssl.SSLContext = truststore.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    else:
        context = ssl.create_default_context()
        if not context.get_ca_certs():  # OpenSSL was built for another distribution
            files = [name for name in _AUTHORITIES if os.path.isfile(name)]
            if files:
                context.load_verify_locations(cafile=files[0])
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.set_alpn_protocols(["http/1.1"])
    return context


def plain(text: object, secrets: Collection[str] = ()) -> str:
    """Return a broker's words fit to be shown: one line, printable, capped, without our secrets."""
    words = str(text)[: 4 * _TEXT_CAP]
    for secret in secrets:
        if len(secret) >= 6:  # shorter ones would only deface the words
            words = words.replace(secret, "***")
    words = "".join(letter if letter.isprintable() else " " for letter in words)
    words = " ".join(words.split())
    return words if len(words) <= _TEXT_CAP else words[: _TEXT_CAP - 1] + "…"


def _no_constant(name: str) -> Any:
    raise ValueError(f"{name} is no number")


def read_json(body: bytes) -> Any:
    """Read JSON with exact numbers: whole ones as int, others as Decimal.

    Raises:
        ValueError: not JSON, not UTF-8, half a surrogate pair (which no journal could keep), NaN or infinity, nested
            beyond reason.
    """
    text = str(body, "utf-8-sig")  # of bytes, json would let half a pair pass
    if "\\u" in text:
        orjson.loads(text)  # refuses one that is written as an escape
    try:
        return json.loads(text, parse_float=Decimal, parse_constant=_no_constant)
    except RecursionError:
        raise ValueError("nested too deeply") from None


@dataclass(frozen=True, slots=True)
class Reply:
    """A complete reply. ``body`` is the JSON, ``None`` if there was none."""

    status: int
    body: Any
    retry_after: float | None = None


class HttpClient:
    """One server's connections for look-ups by one way out, shared by its accounts; authentication
    goes per request. ``pacer`` spaces new connections, see ``WireHub.pacer``. ``turn`` is awaited
    before each request, after the wait for a connection: those that waited together must not go at once.
    """

    def __init__(
        self,
        base: BaseUrl,
        *,
        context: ssl.SSLContext | None = None,
        timeout_s: float = 10.0,
        egress: Route | None = None,
        pacer: Pacer | None = None,
        turn: Callable[[], Awaitable[None]] | None = None,
    ) -> None:
        self._base = base
        self._turn = turn
        if base.tls and context is None:
            context = tls_context()
        limits = httpx.Limits(max_connections=8, max_keepalive_connections=8, keepalive_expiry=30.0)
        # httpx looks at every connection of its pool on each request, so few serve many accounts
        # better.
        transport = LookupTransport(context if base.tls else None, limits, egress, pacer)
        self._gate = transport.gate
        self._client = httpx.AsyncClient(
            base_url=base.url,
            transport=transport,
            timeout=httpx.Timeout(timeout_s, connect=5.0, pool=30.0),
            trust_env=False,
            follow_redirects=False,
        )

    async def close(self) -> None:
        """Close every connection."""
        await self._client.aclose()

    async def get(
        self,
        account: str,
        path: str,
        *,
        headers: Mapping[str, str],
        params: Mapping[str, str] | None = None,
    ) -> Reply:
        """Read ``path``; return replies below 500 other than 401 and 429.

        Raises:
            BrokerUnavailable: nothing left, or the broker asks for a pause; may be read again.
            OutcomeUnknown: no complete reply, or a server error.
            BrokerAuthError: the broker refuses the credentials.
            BrokerProtocolError: a reply that is not JSON, or larger than 16 MiB.
        """
        where = f"account {account}: GET {self._base.url}{path}"
        try:
            async with self._gate:
                if self._turn is not None:
                    await self._turn()
                request = self._client.stream("GET", path, headers=headers, params=params)
                async with request as reply:
                    content = await _content(reply, where, account)
        except _NEVER_LEFT as error:
            raise BrokerUnavailable(f"{where}: {_reason(error)}", account=account) from None
        except httpx.HTTPError as error:
            raise OutcomeUnknown(f"{where}: {_reason(error)}", account=account) from None
        return _judge(reply, content, where, account)


async def _content(reply: httpx.Response, where: str, account: str) -> bytes:
    content = bytearray()
    async for piece in reply.aiter_bytes():
        content += piece
        if len(content) > MAX_BODY:
            raise BrokerProtocolError(f"{where}: reply larger than 16 MiB", account=account)
    return bytes(content)


def _judge(reply: httpx.Response, content: bytes, where: str, account: str) -> Reply:
    status = reply.status_code
    pause = _seconds(reply.headers.get("retry-after", ""))
    if status >= 500:
        raise OutcomeUnknown(f"{where}: HTTP {status}", account=account, retry_after=pause)
    if status == 429:
        raise BrokerUnavailable(
            f"{where}: the broker's rate limit is used up (HTTP 429)",
            account=account,
            retry_after=pause,
        )
    if status == 401:
        raise BrokerAuthError(f"{where}: the broker refuses these credentials", account=account)
    try:
        body = read_json(content) if content.strip() else None
    except ValueError:
        raise BrokerProtocolError(f"{where}: HTTP {status}, not JSON", account=account) from None
    return Reply(status, body, pause)


def _seconds(text: str) -> float | None:
    return float(text) if re.fullmatch(r"[0-9]{1,6}(\.[0-9]{1,6})?", text) else None


def _reason(error: httpx.HTTPError) -> str:
    if isinstance(error, httpx.PoolTimeout):
        return "no connection was free in time"
    if isinstance(error, httpx.TimeoutException):
        return "no answer in time"
    return plain(str(error) or type(error).__name__)
