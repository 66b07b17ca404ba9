"""Everything that is not order entry: look-ups, and which addresses an account may use.

Requests sent with ``HttpClient`` must be safe to repeat (reads). Errors name the account and the
path, never a header, a query or a body of ours.
"""

from __future__ import annotations

import json
import os
import re
import ssl
import sys
import time
from collections.abc import Awaitable, Callable, Collection, Mapping
from dataclasses import dataclass
from decimal import Decimal
from typing import Any
from urllib.parse import quote

import orjson

from engine.brokers.dial import Pacer, Route
from engine.brokers.lookups import (
    Answer,
    Lines,
    NoReplyError,
    NotSentError,
    TooMuchError,
)
from engine.errors import (
    BrokerAuthError,
    BrokerProtocolError,
    BrokerUnavailable,
    ConfigError,
    OutcomeUnknown,
)
from engine.model.account import Account

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
_TARGET = "/?&=%:@,;+!$'()*~._-"
"""What stands in a path as it is; callers quote what comes from outside."""
_SAFE_TARGET = re.compile(rf"[A-Za-z0-9{re.escape(_TARGET)}]+", re.ASCII)
_FORBIDDEN = re.compile(r"[^ -~]", re.ASCII)


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
    ``timeout_s`` is how long not a byte may come. ``one_limit``: a broker's call for quiet (429, 418) is meant for
    all of them, and what waits meanwhile is not asked.
    """

    def __init__(  # noqa: PLR0913 (what a client depends on)
        self,
        base: BaseUrl,
        *,
        context: ssl.SSLContext | None = None,
        timeout_s: float = 10.0,
        egress: Route | None = None,
        pacer: Pacer | None = None,
        turn: Callable[[], Awaitable[None]] | None = None,
        one_limit: bool = False,
    ) -> None:
        self._base = base
        self._turn = turn
        self._one_limit = one_limit
        self._quiet_until = 0.0
        self._timeout_s = timeout_s
        if base.tls and context is None:
            context = tls_context()
        self._lines = Lines(base.host, base.port, context if base.tls else None, egress, pacer)
        self._tail = (
            f" HTTP/1.1\r\nHost: {base.authority}\r\nUser-Agent: volley\r\nAccept: */*\r\n"
            "Accept-Encoding: gzip\r\n"
        )

    async def close(self) -> None:
        """Close every connection."""
        await self._lines.close()

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
            request = self._request(path, params, headers)
            async with self._lines.gate:
                if self._turn is not None:
                    await self._turn()
                self._keep_quiet(where, account)
                answer = await self._lines.read(request, self._timeout_s)
                if self._one_limit and answer.status in {418, 429}:
                    pause = _seconds(answer.retry_after) or 0.0
                    self._quiet_until = max(self._quiet_until, time.monotonic() + pause)
        except NotSentError as error:
            raise BrokerUnavailable(f"{where}: {plain(error)}", account=account) from None
        except NoReplyError as error:
            raise OutcomeUnknown(f"{where}: {plain(error)}", account=account) from None
        except TooMuchError:
            raise BrokerProtocolError(
                f"{where}: reply larger than 16 MiB", account=account
            ) from None
        return _judge(answer, where, account)

    def _keep_quiet(self, where: str, account: str) -> None:
        left = self._quiet_until - time.monotonic()
        if left > 0:
            raise BrokerUnavailable(
                f"{where}: not asked, the broker wants quiet for {left:.0f} s",
                account=account,
                retry_after=left,
            )

    def _request(
        self, path: str, params: Mapping[str, str] | None, headers: Mapping[str, str]
    ) -> bytes:
        target = path if _SAFE_TARGET.fullmatch(path) else quote(path, safe=_TARGET)
        if params:
            pairs = (
                f"{quote(name, safe='')}={quote(value, safe='')}" for name, value in params.items()
            )
            target += ("&" if "?" in target else "?") + "&".join(pairs)
        if any(_FORBIDDEN.search(value) for value in headers.values()):
            raise NotSentError("a header may not be sent: it holds more than printable ASCII")
        lines = "".join([f"{name}: {value}\r\n" for name, value in headers.items()])
        return f"GET {target}{self._tail}{lines}\r\n".encode("ascii")


def _judge(answer: Answer, where: str, account: str) -> Reply:
    status, content = answer.status, answer.body
    pause = _seconds(answer.retry_after)
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
