"""One keep-alive HTTP/1.1 connection, and what a request on it becomes.

One request is in flight at a time. A connection that timed out, broke or said something unasked is
never used again, so a late reply cannot be taken for the answer to another request.
"""

from __future__ import annotations

import asyncio
import os
import random
import socket
from abc import ABC, abstractmethod
from time import monotonic_ns
from typing import TYPE_CHECKING, Any, Protocol, cast

from httptools import HttpParserError, HttpParserUpgrade, HttpResponseParser

from engine import failpoints

if TYPE_CHECKING:
    from engine.brokers.wire import LaneQueue

MAX_REPLY = 1 << 20
"""Bytes of one reply, head included; more is a failure, outcome unknown."""
_SECOND = 1_000_000_000
_ANSWERED = b"\r\n\r\n"
_KEEPALIVE = (("TCP_KEEPIDLE", 15), ("TCP_KEEPALIVE", 15), ("TCP_KEEPINTVL", 5), ("TCP_KEEPCNT", 3))
"""Half a minute until the system itself finds a peer gone; names differ between systems."""


class Stamps(Protocol):
    """What the wire writes its stamps on: an exchange itself, or the order it carries."""

    first_byte_ns: int
    last_byte_ns: int


class Exchange(ABC):
    """One request and what becomes of it; override the two callbacks.

    Exactly one of them is called, once, on the loop, never from inside ``WirePool.send``. Stamps
    are ``time.monotonic_ns``: ``first_byte_ns`` just before the first byte is handed over,
    ``last_byte_ns`` when the write buffer was seen empty (an upper bound), ``reply_ns`` when the
    reply's last byte was read. ``stamps`` receives the first two; ``send_before_ns`` (0: no limit)
    is the latest moment to write.
    """

    __slots__ = ("first_byte_ns", "last_byte_ns", "reply_ns", "send_before_ns", "stamps")

    def __init__(self, stamps: Stamps | None = None, send_before_ns: int = 0) -> None:
        self.first_byte_ns = 0
        self.last_byte_ns = 0
        self.reply_ns = 0
        self.send_before_ns = send_before_ns
        self.stamps: Stamps = stamps or self

    @abstractmethod
    def on_reply(self, status: int, raw: bytes, body: bytes) -> None:
        """Take a complete reply; ``raw`` begins with its head, see ``header``."""

    @abstractmethod
    def on_failure(self, left: bool, reason: str) -> None:
        """Take the news that no reply will come; ``left``: whether a byte may have left."""


def header(raw: bytes, name: str) -> str:
    """Return a header's value from the head of ``raw``, empty if it is not there."""
    wanted = name.lower().encode("ascii") + b":"
    for line in raw.partition(_ANSWERED)[0].split(b"\r\n")[1:]:
        if line[: len(wanted)].lower() == wanted:
            return line[len(wanted) :].strip().decode("latin-1")
    return ""


def _in_pieces(transport: asyncio.Transport, request: bytes) -> bytes:
    """Pass the points between the pieces of a request, each piece with the system before the next; return the rest.

    The loop would keep what it is given until its turn ends, so the pieces go past it.
    """
    reads = request.startswith(b"GET")
    if reads or transport.get_extra_info("sslcontext") or os.name != "posix":
        return request
    handle = transport.get_extra_info("socket").fileno()
    if not request.startswith(b"POST"):
        failpoints.hit("cancel.sent.before")
        request = request[os.write(handle, request) :]
        failpoints.hit("cancel.sent.after")
        return request
    third = len(request) // 3
    failpoints.hit("K15.after")
    request = request[os.write(handle, request[:third]) :]
    failpoints.hit("K16.before")
    request = request[os.write(handle, request[:third]) :]
    failpoints.hit("K16.after")
    request = request[os.write(handle, request[:-1]) :]
    failpoints.hit("K17.before")
    request = request[os.write(handle, request) :]
    failpoints.hit("K17.after")
    return request


class Connection(asyncio.Protocol):
    """One keep-alive connection with at most one request in flight."""

    __slots__ = (
        "answered",
        "closed",
        "doubted",
        "encrypted",
        "exchange",
        "hub",
        "interim",
        "keep_alive",
        "lane",
        "lost",
        "parser",
        "pieces",
        "received",
        "retired",
        "sent_ns",
        "size",
        "stale",
        "status",
        "timer",
        "transport",
        "used_ns",
    )

    def __init__(self, lane: LaneQueue) -> None:
        self.lane = lane
        self.hub = lane.pool.hub
        self.transport: Any = None
        self.parser = HttpResponseParser(self)
        self.exchange: Exchange | None = None
        self.stale = self.hub.loop.create_future()  # wants a successor: closed, or idle too long
        self.lost = self.hub.loop.create_future()
        self.timer: asyncio.TimerHandle | None = None
        self.encrypted = lane.pool.tls
        self.closed = self.retired = self.answered = self.doubted = False
        self.sent_ns = 0
        self.used_ns = monotonic_ns()
        self._reset()

    def _reset(self) -> None:
        self.received: list[bytes] = []
        self.pieces: list[bytes] = []
        self.size = self.interim = self.status = 0
        self.keep_alive = False

    # asyncio.Protocol

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Take the transport."""
        self.transport = transport
        # uvloop keeps what it is given until its turn ends, unless nothing may be kept: an order that has passed the
        # kill switch's gate would still be here when the process is stopped, and leave whenever it goes on.
        self.transport.set_write_buffer_limits(0)
        sock = transport.get_extra_info("socket")
        if sock is not None:
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
            for name, value in _KEEPALIVE:
                if hasattr(socket, name):
                    sock.setsockopt(socket.IPPROTO_TCP, getattr(socket, name), value)
        self._watch_idle(self.lane.pool.idle_ns)

    def data_received(self, data: bytes) -> None:
        """Read on; a complete reply is delivered at once."""
        now = monotonic_ns()
        if self.exchange is None:
            self.drop("the server spoke unasked")
            return
        if failpoints.ARMED:
            failpoints.hit("K18.before")
        self.received.append(data)
        self.size += len(data)
        if self.size > MAX_REPLY:
            self.drop("the reply is larger than 1 MiB")
            return
        try:
            self.parser.feed_data(data)
        except (HttpParserError, HttpParserUpgrade):
            if not self.status:
                self.drop("the reply is not HTTP")
                return
            self.keep_alive = False  # complete, but followed by something unasked
        if self.status:
            self._finish(now)
        elif failpoints.ARMED:
            failpoints.hit("K18.after")

    def eof_received(self) -> None:
        """Note that the server ended the connection."""
        if self.exchange is not None and self._ends_with_connection():
            self.status = self.parser.get_status_code()
            self.keep_alive = False
            self._finish(monotonic_ns())
        else:
            self.drop("the connection was closed before the reply was complete")

    def connection_lost(self, exc: Exception | None) -> None:
        """Note that it is over."""
        self.drop("the connection was lost before the reply was complete")
        if not self.lost.done():
            self.lost.set_result(None)

    # httptools

    def on_message_begin(self) -> None:
        """Notice a reply beyond the first."""
        if self.status:  # more than one reply to one request: never trust this connection again
            self.keep_alive = False

    def on_body(self, piece: bytes) -> None:
        """Keep a piece of the body."""
        if not self.status:
            self.pieces.append(piece)

    def on_message_complete(self) -> None:
        """Notice the end of a reply."""
        if self.status:
            return
        status = self.parser.get_status_code()
        if status < 200:  # 100, 102, 103: the answer follows
            self.interim += 1
            self.pieces.clear()
        else:
            self.status = status
            self.keep_alive = self.parser.should_keep_alive()

    # ours

    def write(self, request: bytes, exchange: Exchange) -> None:
        """Hand a request to the operating system, or say that nothing of it left."""
        transport = self.transport
        if failpoints.ARMED and request.startswith(b"POST"):
            failpoints.hit("K15.before")
        now = monotonic_ns()
        self.exchange = exchange
        self.sent_ns = exchange.stamps.first_byte_ns = now
        hub = self.hub
        hub.inflight[self] = None
        if hub.timer is None:
            hub.arm()
        try:
            if failpoints.ARMED:
                request = _in_pieces(transport, request)
            transport.write(request)
        except (OSError, RuntimeError) as error:
            hub.loop.call_soon(self.drop, f"the write failed: {error}")
            return
        if self.encrypted or transport.get_write_buffer_size():
            hub.stamp_later(transport, exchange.stamps, self.encrypted)
        else:
            exchange.stamps.last_byte_ns = monotonic_ns()

    def _finish(self, now: int) -> None:
        exchange = cast(Exchange, self.exchange)
        self.exchange = None
        del self.hub.inflight[self]
        self.used_ns = exchange.reply_ns = now
        if not exchange.stamps.last_byte_ns:
            exchange.stamps.last_byte_ns = now
        received, pieces, status = self.received, self.pieces, self.status
        raw = received[0] if len(received) == 1 and not self.interim else self._raw()
        body = pieces[0] if len(pieces) == 1 else b"".join(pieces)
        keep = self.keep_alive and not self.retired
        self._reset()
        self.answered = True
        if keep:
            self.lane.release(self)
        else:
            self.drop("")
        if failpoints.ARMED:
            failpoints.hit("K19.before")
        try:
            exchange.on_reply(status, raw, body)
        except Exception as error:  # noqa: BLE001 (a caller's fault stays the caller's)
            self._complain(error)
        if failpoints.ARMED:
            failpoints.hit("K19.after")

    def _raw(self) -> bytes:
        return b"".join(self.received).split(_ANSWERED, self.interim)[-1]

    def _ends_with_connection(self) -> bool:
        """Say whether the reply has a head without any length: its end is the connection's."""
        head, end, _ = self._raw().partition(_ANSWERED)
        if not end or not head.startswith(b"HTTP/"):
            return False
        return not header(head, "content-length") and not header(head, "transfer-encoding")

    def drop(self, reason: str) -> None:
        """Close for good; a request in flight has an unknown outcome."""
        if not self.closed:
            self.closed = True
            if self.timer is not None:
                self.timer.cancel()
            self.transport.abort()
            self.lane.discard(self)
            self.renew()
        exchange, self.exchange = self.exchange, None
        if exchange is not None:
            del self.hub.inflight[self]
            if not exchange.stamps.last_byte_ns:
                exchange.stamps.last_byte_ns = monotonic_ns()
            try:
                exchange.on_failure(True, reason)
            except Exception as error:  # noqa: BLE001 (as above)
                self._complain(error)

    def retire(self) -> None:
        """Close now if idle, else after the reply: a successor is there."""
        self.retired = True
        if self.exchange is None:
            self.drop("")

    def _watch_idle(self, after_ns: int) -> None:
        self.timer = self.hub.loop.call_later(
            after_ns * random.uniform(0.8, 1.0) / _SECOND,  # noqa: S311 (spreads reconnects)
            self._check_idle,
        )

    def _check_idle(self) -> None:
        rest = self.used_ns + self.lane.pool.idle_ns * 4 // 5 - monotonic_ns()
        if rest > 0 or self.exchange is not None:
            self._watch_idle(max(rest, self.lane.pool.idle_ns // 5))
        else:
            self.renew()

    def renew(self) -> None:
        """Ask for a successor; this connection serves until it is there."""
        if not self.stale.done():
            self.stale.set_result(None)

    def doubt(self) -> None:
        """Take the hint that the peer may be gone; if no successor can be opened, this one goes, too."""
        self.doubted = True
        self.renew()

    def _complain(self, error: Exception) -> None:
        self.hub.loop.call_exception_handler(
            {"message": "an exchange's callback raised", "exception": error}
        )
