"""Opening connections: straight, from one of our addresses, or through a proxy.

Brokers bind keys to addresses, so each account has its own way out. Whatever goes wrong here is an
``OSError`` whose text is fit for a user, and proof that not a byte of a request left.
"""

from __future__ import annotations

import asyncio
import base64
import contextlib
import heapq
import ipaddress
import socket
import ssl
from collections.abc import AsyncIterator, Callable, Mapping
from dataclasses import dataclass, field
from enum import IntEnum
from time import monotonic_ns
from typing import Any, TypeVar
from urllib.parse import urlsplit
from weakref import WeakKeyDictionary

from engine.errors import ConfigError
from engine.model.account import Egress

_ProtocolT = TypeVar("_ProtocolT", bound=asyncio.BaseProtocol)
_HEAD_MAX = 16 << 10
_AT_ONCE = 128
"""Connections being opened to one place at a time: a thousand TLS handshakes begun together would all
still be at it when their time is over."""
_APART = 1.05
"""What is sent evenly arrives less so; a broker counts it as it arrives."""
_Gates = dict[tuple[str, int, "Route | None"], asyncio.Semaphore]
_gates: WeakKeyDictionary[asyncio.AbstractEventLoop, _Gates] = WeakKeyDictionary()
_SOCKS_REFUSALS = {
    1: "general failure",
    2: "its rules forbid this connection",
    3: "the network cannot be reached",
    4: "the host cannot be reached",
    5: "the host refuses connections",
    6: "the connection took too long",
    7: "it cannot do this",
    8: "it does not know this kind of address",
}


class ProxyError(ConnectionError):
    """The proxy would not, or could not, connect us; not a byte of ours reached the server."""


@dataclass(frozen=True, slots=True)
class Route:
    """A way out of this machine. ``proxy`` is ``http://host:port`` or ``socks5://host:port``."""

    local_address: str = ""
    proxy: str = ""
    user: str = field(default="", repr=False)
    password: str = field(default="", repr=False)

    @classmethod
    def of(
        cls, account: str, egress: Egress | None, credentials: Mapping[str, str]
    ) -> Route | None:
        """Read an account's way out; ``None``: the machine's usual one.

        Raises:
            ConfigError: an address that is none, a port out of range, or a local address and a proxy
                (the broker would see only the proxy's).
        """
        if egress is None or not (egress.local_address or egress.proxy):
            return None
        if egress.local_address and egress.proxy:
            raise ConfigError(
                f"account {account}: egress has local_address and proxy; expected one of them"
            )
        try:
            if egress.local_address:
                ipaddress.ip_address(egress.local_address)
                return cls(local_address=egress.local_address)
            _proxy_address(egress.proxy or "")
        except ValueError:
            raise ConfigError(
                f"account {account}: egress {egress.local_address or egress.proxy!r} is no address; "
                "expected an IP address, or http://host:port or socks5://host:port"
            ) from None
        user, password = credentials.get("proxy_user", ""), credentials.get("proxy_password", "")
        if any(len(part.encode()) > 255 for part in (user, password)) or ":" in user:
            raise ConfigError(
                f"account {account}: proxy_user and proxy_password must have at most 255 bytes "
                "each, proxy_user no colon"
            )
        return cls(proxy=egress.proxy or "", user=user, password=password)

    def __str__(self) -> str:
        return f"through {self.proxy}" if self.proxy else f"from {self.local_address}"


def _proxy_address(proxy: str) -> tuple[str, str, int]:
    parts = urlsplit(proxy)
    if parts.scheme not in {"http", "socks5"} or not parts.hostname or not parts.port:
        raise ValueError(proxy)
    return parts.scheme, parts.hostname, parts.port


class Rank(IntEnum):
    """Who connects first where connecting is slow."""

    NEEDED = 0  # the first connection of its kind: nothing goes without it
    ORDERS = 1
    READS = 2
    STREAMS = 3


class Pacer:
    """Spaces what a broker limits by time: new connections of an address. Lower ranks first, then who came first."""

    def __init__(self, per_second: float) -> None:
        self._step_ns = int(_APART * 1e9 / per_second) if per_second > 0 else 0
        self._next_ns = 0
        self._line: list[tuple[Rank, int, asyncio.Future[None]]] = []
        self._came = 0
        self._timer: asyncio.TimerHandle | None = None

    @property
    def slow(self) -> bool:
        """Say whether there is a limit."""
        return self._step_ns > 0

    @property
    def crowded(self) -> bool:
        """Say whether a newcomer would have to wait behind others."""
        return any(not turn.done() for _, _, turn in self._line)

    async def turn(self, rank: Rank = Rank.NEEDED) -> None:
        """Wait until the last turn is long enough ago, as it was taken, not as it was planned."""
        if not self._step_ns:
            return
        loop = asyncio.get_running_loop()
        turn: asyncio.Future[None] = loop.create_future()
        self._came += 1
        heapq.heappush(self._line, (rank, self._came, turn))
        if self._timer is None:
            self._call(loop)
        await turn

    def _call(self, loop: asyncio.AbstractEventLoop) -> None:
        """Give the next their turn if it is time, and come back as long as somebody waits."""
        self._timer = None
        while self._line:
            wait_ns = self._next_ns - monotonic_ns()
            if wait_ns > 0:
                self._timer = loop.call_later(wait_ns / 1e9, self._call, loop)
                return
            _, _, turn = heapq.heappop(self._line)
            if not turn.done():  # else whoever it was has left
                turn.set_result(None)
                self._next_ns = monotonic_ns() + self._step_ns


async def dial(
    factory: Callable[[], _ProtocolT],
    host: str,
    port: int,
    *,
    context: ssl.SSLContext | None = None,
    route: Route | None = None,
    timeout_s: float = 10.0,
) -> tuple[asyncio.BaseTransport, _ProtocolT]:
    """Open a connection; ``timeout_s`` is for the opening, not for the wait until it is its turn.

    Raises:
        OSError: nobody there, a certificate that cannot be trusted, a proxy that refuses; see ``why``.
    """
    gates = _gates.setdefault(asyncio.get_running_loop(), {})
    gate = gates.setdefault((host, port, route), asyncio.Semaphore(_AT_ONCE))
    async with gate, asyncio.timeout(timeout_s):
        return await _open(factory, host, port, context, route)


async def _open(
    factory: Callable[[], _ProtocolT],
    host: str,
    port: int,
    context: ssl.SSLContext | None,
    route: Route | None,
) -> tuple[asyncio.BaseTransport, _ProtocolT]:
    if context is not None:
        raw, _ = await _plain(asyncio.Protocol, host, port, route)
        return await _encrypt(factory, raw, host, context)
    return await _plain(factory, host, port, route)


async def _plain(
    factory: Callable[[], _ProtocolT], host: str, port: int, route: Route | None
) -> tuple[asyncio.Transport, _ProtocolT]:
    loop = asyncio.get_running_loop()
    if route is None or not route.proxy:
        local = (route.local_address, 0) if route is not None and route.local_address else None
        return await loop.create_connection(factory, host, port, local_addr=local)
    sock = await _through(route, host, port)
    # From here on the socket is the transport's.
    return await loop.create_connection(factory, sock=sock)


async def _encrypt(
    factory: Callable[[], _ProtocolT], raw: asyncio.Transport, host: str, context: ssl.SSLContext
) -> tuple[asyncio.Transport, _ProtocolT]:
    """Shake hands over a plain connection. What is encrypted is with the system before ``write`` returns: uvloop keeps
    it until the turn of its loop ends, unless nothing may be kept, and its own TLS connections cannot be told that.
    """
    raw.set_write_buffer_limits(0)
    early = _Early()
    loop = asyncio.get_running_loop()
    transport = await loop.start_tls(raw, early, context, server_hostname=host)
    if transport is None:
        raise ConnectionResetError
    protocol = factory()
    transport.set_protocol(protocol)
    protocol.connection_made(transport)
    early.pass_on(protocol)
    return transport, protocol


class _Early(asyncio.Protocol):
    """Keeps what comes between the end of a handshake and the moment its user is there."""

    def __init__(self) -> None:
        self._received = bytearray()
        self._ended: Exception | bool | None = False

    def data_received(self, data: bytes) -> None:
        self._received += data

    def connection_lost(self, exc: Exception | None) -> None:
        self._ended = exc

    def pass_on(self, protocol: Any) -> None:
        if self._received:
            protocol.data_received(bytes(self._received))
        if self._ended is not False:
            protocol.connection_lost(self._ended)


def why(error: BaseException) -> str:
    """Say in a sentence why a connection could not be opened."""
    if isinstance(error, ssl.SSLCertVerificationError):
        return f"its certificate is not trusted ({error.verify_message or error.reason})"
    if isinstance(error, ssl.SSLError):
        return f"no TLS with it ({error.reason or error})"
    if isinstance(error, TimeoutError) and not error.args:
        return "no answer in time"
    if isinstance(error, ConnectionError) and not error.args:
        return "it closed the connection"
    return getattr(error, "strerror", None) or str(error) or type(error).__name__


async def _through(route: Route, host: str, port: int) -> socket.socket:
    """Ask the proxy for a connection; what is returned carries not a byte yet."""
    scheme, proxy_host, proxy_port = _proxy_address(route.proxy)
    where = f"proxy {proxy_host}:{proxy_port}"
    async with _complaining(where):
        sock = await _connect(proxy_host, proxy_port)
    try:
        async with _complaining(where):
            ask = _ask_http if scheme == "http" else _ask_socks
            await ask(_Talk(sock), route, host, port)
    except BaseException:
        sock.close()
        raise
    return sock


@contextlib.asynccontextmanager
async def _complaining(where: str) -> AsyncIterator[None]:
    try:
        yield
    except asyncio.CancelledError:
        raise
    except OSError as error:
        raise ProxyError(f"{where}: {why(error)}") from None


async def _connect(host: str, port: int) -> socket.socket:
    loop = asyncio.get_running_loop()
    error: OSError = OSError("it has no address")
    for family, kind, proto, _, address in await loop.getaddrinfo(
        host, port, type=socket.SOCK_STREAM
    ):
        sock = socket.socket(family, kind, proto)
        sock.setblocking(False)
        try:
            await loop.sock_connect(sock, address)
        except OSError as failed:
            sock.close()
            error = failed
        except BaseException:
            sock.close()
            raise
        else:
            return sock
    raise error


class _Talk:
    """A few words over a bare socket."""

    def __init__(self, sock: socket.socket) -> None:
        self._sock = sock
        self._loop = asyncio.get_running_loop()

    async def say(self, words: bytes) -> None:
        await self._loop.sock_sendall(self._sock, words)

    async def hear(self, size: int) -> bytes:
        heard = b""
        while len(heard) < size:
            more = await self._loop.sock_recv(self._sock, size - len(heard))
            if not more:
                raise ProxyError("it closed the connection")
            heard += more
        return heard

    async def hear_head(self) -> bytes:
        """Read up to the empty line; anything behind it nobody can have said yet."""
        head = b""
        while b"\r\n\r\n" not in head:
            more = await self._loop.sock_recv(self._sock, 4096)
            head += more
            if not more or len(head) > _HEAD_MAX:
                raise ProxyError("its answer is not HTTP")
        if not head.endswith(b"\r\n\r\n") or head.count(b"\r\n\r\n") > 1:
            raise ProxyError("it speaks before it is spoken to")
        return head


async def _ask_http(talk: _Talk, route: Route, host: str, port: int) -> None:
    authority = f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
    lines = f"CONNECT {authority} HTTP/1.1\r\nHost: {authority}\r\n"
    if route.user or route.password:
        pair = base64.b64encode(f"{route.user}:{route.password}".encode()).decode("ascii")
        lines += f"Proxy-Authorization: Basic {pair}\r\n"
    await talk.say(f"{lines}\r\n".encode("ascii"))
    words = (await talk.hear_head()).split(b"\r\n", 1)[0].split(b" ", 2)
    if len(words) < 2 or not words[0].startswith(b"HTTP/1.") or not words[1].isdigit():
        raise ProxyError("its answer is not HTTP")
    status = int(words[1])
    if status == 407:
        raise ProxyError("it refuses proxy_user and proxy_password")
    if not 200 <= status < 300:
        raise ProxyError(f"it refuses to connect (HTTP {status})")


async def _ask_socks(talk: _Talk, route: Route, host: str, port: int) -> None:
    """RFC 1928, with user and password after RFC 1929; the proxy resolves names."""
    signed = bool(route.user or route.password)
    await talk.say(b"\x05\x02\x00\x02" if signed else b"\x05\x01\x00")
    version, method = await talk.hear(2)
    if version != 5 or method not in ({0, 2, 0xFF} if signed else {0, 0xFF}):
        raise ProxyError("its answer is not SOCKS5")
    if method == 0xFF:
        raise ProxyError("it wants credentials, or refuses ours")
    if method == 2:
        user, password = route.user.encode(), route.password.encode()
        await talk.say(b"\x01" + bytes([len(user)]) + user + bytes([len(password)]) + password)
        if (await talk.hear(2))[1] != 0:
            raise ProxyError("it refuses proxy_user and proxy_password")
    await talk.say(b"\x05\x01\x00" + _socks_address(host) + port.to_bytes(2, "big"))
    version, refusal, _, kind = await talk.hear(4)
    if version != 5:
        raise ProxyError("its answer is not SOCKS5")
    if refusal:
        raise ProxyError(
            f"it refuses to connect ({_SOCKS_REFUSALS.get(refusal, f'code {refusal}')})"
        )
    size = (await talk.hear(1))[0] if kind == 3 else {1: 4, 4: 16}.get(kind, 0)
    if not size:
        raise ProxyError("its answer is not SOCKS5")
    await talk.hear(size + 2)


def _socks_address(host: str) -> bytes:
    try:
        address: Any = ipaddress.ip_address(host)
    except ValueError:
        name = host.encode("idna")
        return b"\x03" + bytes([len(name)]) + name
    return (b"\x01" if address.version == 4 else b"\x04") + bytes(address.packed)
