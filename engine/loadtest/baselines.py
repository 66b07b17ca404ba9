"""What people would fan out with otherwise, and the floor: a bare loop over the same prepared bytes.

Every baseline sends one order for each account at once and reads every reply, on connections of its own to the
same venue, in the same process and run as the measured engine. The requests are the engine's own, byte for byte,
written before the clock starts; what a library takes apart (method, path, headers, body) is taken apart then, too.
ccxt writes its own: that is what it is for.
"""

from __future__ import annotations

import asyncio
import selectors
import socket
import ssl
import time
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol, TypeVar
from urllib.parse import urlsplit

import httpx

from engine.config import Config
from engine.errors import TradingError
from engine.loadtest.dialects import Dialect, RequestWriter

Item = TypeVar("Item")

REPLY_WITHIN_S = 30.0
KEEP_S = 3600.0  # no library loses its connections because another one takes its time


@dataclass(frozen=True, slots=True)
class Round:
    """One fan-out; microseconds since it began.

    ``left_us``: when the last order's last byte was handed to the system, ``None`` where a library does not let
    one see it. ``done_us``: when the last reply was read. ``replies_us``: when each reply was.
    """

    left_us: int | None
    done_us: int
    cpu_us: int
    failures: int
    replies_us: Sequence[int] = field(default=(), repr=False)


@dataclass(frozen=True, slots=True)
class Venue:
    """Where a baseline sends, and as whom: ``context`` trusts the venue, ``None`` without TLS."""

    url: str
    dialect: Dialect
    accounts: int
    config: Config
    context: ssl.SSLContext | None

    def writer(self, owner: str) -> RequestWriter:
        """Return what writes the requests of ``owner``'s accounts."""
        return RequestWriter(self.dialect, self.config, owner, self.accounts, self.url)


class Baseline(Protocol):
    """One way to fan out. ``note`` says what is particular about it, for the report."""

    name: str
    note: str

    async def open(self) -> None:
        """Connect and warm up."""
        ...

    async def round(self, number: int) -> Round:
        """Send one order for each account and wait for the replies."""
        ...

    async def close(self) -> None:
        """Disconnect."""
        ...


class Floor:
    """A bare loop: prepared bytes to non-blocking sockets, then replies as they come."""

    name = "floor"
    note = "sockets and a selector, one connection an account"

    def __init__(self, venue: Venue) -> None:
        self._venue = venue
        self._writer = venue.writer("FLOOR")
        self._sockets: list[socket.socket] = []
        self._selector = selectors.DefaultSelector()

    async def open(self) -> None:
        """Connect one socket an account; in a thread, for the engine's loop goes on."""
        await asyncio.to_thread(self._connect)
        await self.round(-1)

    def _connect(self) -> None:
        parts, context = urlsplit(self._venue.url), self._venue.context
        address = (parts.hostname or "", parts.port or (443 if context else 80))
        for number in range(self._venue.accounts):
            sock = socket.create_connection(address, timeout=REPLY_WITHIN_S)
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            if context is not None:
                sock = context.wrap_socket(sock, server_hostname=address[0])
            sock.setblocking(False)
            self._sockets.append(sock)
            self._selector.register(sock, selectors.EVENT_READ, number)

    async def round(self, number: int) -> Round:
        """Write everything, then read everything; nothing else runs meanwhile."""
        requests = self._writer.requests(number)
        received = [b""] * len(requests)
        replies: list[int] = []
        failures = 0
        cpu = time.process_time_ns()
        began = time.monotonic_ns()
        for sock, request in zip(self._sockets, requests, strict=True):
            if sock.send(request) != len(request):
                raise TradingError("floor: a socket's buffer does not hold one order")
        left = time.monotonic_ns()
        while len(replies) < len(requests):
            ready = self._selector.select(REPLY_WITHIN_S)
            if not ready:
                raise TradingError(f"floor: no reply within {REPLY_WITHIN_S:g} s")
            for key, _ in ready:
                account = key.data
                received[account] += _read(self._sockets[account])
                if _complete(received[account]):
                    failures += not received[account].startswith(b"HTTP/1.1 20")
                    received[account] = b""
                    replies.append((time.monotonic_ns() - began) // 1000)
        cpu = time.process_time_ns() - cpu
        return Round((left - began) // 1000, replies[-1], cpu // 1000, failures, replies)

    async def close(self) -> None:
        """Close the sockets."""
        for sock in self._sockets:
            sock.close()
        self._selector.close()
        await self._writer.close()


def _read(sock: socket.socket) -> bytes:
    """Read what is there; a TLS socket may have a session ticket for us, and no byte of a reply."""
    try:
        piece = sock.recv(65536)
    except (ssl.SSLWantReadError, BlockingIOError):
        return b""
    if not piece:
        raise TradingError("floor: the venue closed a connection")
    while isinstance(sock, ssl.SSLSocket) and (waiting := sock.pending()):
        piece += sock.recv(waiting)  # already deciphered: no selector tells of it
    return piece


def _complete(reply: bytes) -> bool:
    head, separator, body = reply.partition(b"\r\n\r\n")
    if not separator:
        return False
    for line in head.split(b"\r\n"):
        if line.lower().startswith(b"content-length:"):
            return len(body) >= int(line[15:])
    return True


@dataclass(frozen=True, slots=True)
class _Call:
    method: str
    path: str
    headers: dict[str, str]
    body: bytes


def _taken_apart(request: bytes) -> _Call:
    """Return a request as a library wants it; it counts the body and names the host itself."""
    head, _, body = request.partition(b"\r\n\r\n")
    first, *lines = head.decode("ascii").split("\r\n")
    method, path, _ = first.split(" ")
    fields = (line.partition(": ") for line in lines)
    headers = {
        name: value
        for name, _, value in fields
        if name.lower() not in {"host", "content-length", "connection"}
    }
    return _Call(method, path, headers, body)


class Httpx:
    """Plain httpx with asyncio.gather: one client with its default pool."""

    name = "httpx"
    # With the pool opened to one warm connection an account it takes far longer still: httpcore 1.0 looks at
    # every pair of idle connections for every request.
    note = "one AsyncClient with its default pool (100 connections, 20 kept)"

    def __init__(self, venue: Venue) -> None:
        self._venue = venue
        self._writer = venue.writer("HTTPX")
        verify: ssl.SSLContext | bool = venue.context if venue.context is not None else False
        self._client = httpx.AsyncClient(
            base_url=venue.url, verify=verify, timeout=120, trust_env=False
        )

    async def open(self) -> None:
        """Warm the pool."""
        await self.round(-1)

    async def round(self, number: int) -> Round:
        """Gather one request an account."""
        calls = [_taken_apart(request) for request in self._writer.requests(number)]
        return await gathered(calls, self._send)

    async def _send(self, call: _Call) -> bool:
        reply = await self._client.request(
            call.method, call.path, content=call.body, headers=call.headers
        )
        return reply.is_success

    async def close(self) -> None:
        """Close the client."""
        await self._client.aclose()
        await self._writer.close()


class Aiohttp:
    """aiohttp with asyncio.gather."""

    name = "aiohttp"
    note = "one ClientSession, a connection an account"

    def __init__(self, venue: Venue) -> None:
        self._venue = venue
        self._writer = venue.writer("AIOHTTP")
        self._session: Any = None

    async def open(self) -> None:
        """Open a session and warm one connection an account."""
        try:
            import aiohttp
        except ImportError:
            raise TradingError("--compare aiohttp needs aiohttp: pip install aiohttp") from None
        self._session = aiohttp.ClientSession(
            self._venue.url,
            connector=aiohttp.TCPConnector(
                limit=self._venue.accounts,
                ssl=self._venue.context or True,
                keepalive_timeout=KEEP_S,
            ),
        )
        await self.round(-1)

    async def round(self, number: int) -> Round:
        """Gather one request an account."""
        calls = [_taken_apart(request) for request in self._writer.requests(number)]
        return await gathered(calls, self._send)

    async def _send(self, call: _Call) -> bool:
        async with self._session.request(
            call.method, call.path, data=call.body, headers=call.headers
        ) as reply:
            await reply.read()
            return bool(reply.ok)

    async def close(self) -> None:
        """Close the session."""
        if self._session is not None:
            await self._session.close()
        await self._writer.close()


async def gathered(items: Sequence[Item], send: Callable[[Item], Awaitable[bool]]) -> Round:
    """Send every item at once and wait for all."""
    replies: list[int] = []

    async def one(item: Item) -> bool:
        answer = await send(item)
        replies.append((time.monotonic_ns() - began) // 1000)
        return answer

    cpu = time.process_time_ns()
    began = time.monotonic_ns()
    answers = await asyncio.gather(*(one(item) for item in items))
    cpu = time.process_time_ns() - cpu
    return Round(None, replies[-1], cpu // 1000, answers.count(False), replies)
