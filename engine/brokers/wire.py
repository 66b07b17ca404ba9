"""The order wire: warm keep-alive HTTP/1.1 connections that say honestly what left and when.

A ``WireHub`` is what all pools of an event loop share (one timer, one stamping sweep, one TLS
context). A ``WirePool`` holds the connections of one account: a lane for orders and a lane for
everything that must never wait behind an order. One request is in flight on a connection; each lane
is strictly first in, first out. A connection that timed out, broke or said something unasked is
never used again, so a late reply cannot be taken for the answer to another request.

Every failure says which it is: ``left=False`` is proof that not a byte was handed to the operating
system, ``left=True`` is anything after ``transport.write`` was called.
"""

from __future__ import annotations

import asyncio
import contextlib
import random
import socket
import ssl
from collections import deque
from collections.abc import Callable
from enum import IntEnum
from time import monotonic_ns
from typing import Any, Protocol, cast

from httptools import HttpParserError, HttpParserUpgrade, HttpResponseParser

MAX_REPLY = 1 << 20
"""Bytes of one reply, head included; more is a failure, outcome unknown."""
MAX_QUEUE = 10_000
_SECOND = 1_000_000_000
_ANSWERED = b"\r\n\r\n"


class Lane(IntEnum):
    """Which connections a request takes."""

    ORDERS = 0
    CONTROL = 1


ORDERS = Lane.ORDERS
CONTROL = Lane.CONTROL


class Stamps(Protocol):
    """What the wire writes its stamps on: an exchange itself, or the order it carries."""

    first_byte_ns: int
    last_byte_ns: int


class Exchange:
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

    def on_reply(self, status: int, raw: bytes, body: bytes) -> None:
        """Take a complete reply; ``raw`` begins with its head, see ``header``."""
        raise NotImplementedError

    def on_failure(self, left: bool, reason: str) -> None:
        """Take the news that no reply will come; ``left``: whether a byte may have left."""
        raise NotImplementedError


def header(raw: bytes, name: str) -> str:
    """Return a header's value from the head of ``raw``, empty if it is not there."""
    wanted = name.lower().encode("ascii") + b":"
    for line in raw.partition(_ANSWERED)[0].split(b"\r\n")[1:]:
        if line[: len(wanted)].lower() == wanted:
            return line[len(wanted) :].strip().decode("latin-1")
    return ""


class WireHub:
    """What the pools of one event loop share; ``reply_timeout_s`` is for a whole exchange."""

    def __init__(
        self, *, reply_timeout_s: float = 10.0, tls: Callable[[], ssl.SSLContext] | None = None
    ) -> None:
        self.reply_timeout_ns = int(reply_timeout_s * _SECOND)
        self.loop: asyncio.AbstractEventLoop = cast(asyncio.AbstractEventLoop, None)
        self.timer: asyncio.TimerHandle | None = None
        # Oldest first, because the timeout is the same for all: the tick stops at a young one.
        self.inflight: dict[_Connection, None] = {}
        self.queued: dict[_Lane, None] = {}
        self._tls = tls or ssl.create_default_context
        self._context: ssl.SSLContext | None = None
        self._tick_s = min(0.25, max(0.02, reply_timeout_s / 8))
        self._unstamped: list[tuple[Any, Stamps]] = []
        self._encrypted: list[tuple[Any, Stamps]] = []
        self._sweeping = False

    def attach(self) -> None:
        """Bind to the running loop."""
        self.loop = asyncio.get_running_loop()

    def context(self) -> ssl.SSLContext:
        """Return the one TLS context; it is dear to make."""
        if self._context is None:
            self._context = self._tls()
        return self._context

    def arm(self) -> None:
        """Start the timer that finds requests without an answer; it stops by itself."""
        self.timer = self.loop.call_later(self._tick_s, self._tick)

    def stamp_later(self, transport: Any, stamps: Stamps, encrypted: bool) -> None:
        """Stamp the last byte once it is flushed: one sweep a loop iteration for all."""
        # A TLS transport counts plain text only: wait one more iteration, by then the cipher text
        # is out.
        (self._encrypted if encrypted else self._unstamped).append((transport, stamps))
        if not self._sweeping:
            self._sweeping = True
            self.loop.call_soon(self._sweep)

    def _sweep(self) -> None:
        now = monotonic_ns()
        entries, self._unstamped = self._unstamped, self._encrypted
        self._encrypted = []
        fresh = bool(self._unstamped)
        for entry in entries:
            transport, stamps = entry
            if stamps.last_byte_ns:
                continue  # the reply was faster
            if transport.is_closing():
                stamps.last_byte_ns = now
            elif transport.get_write_buffer_size():
                self._unstamped.append(entry)
            else:
                stamps.last_byte_ns = now
        if fresh:
            self.loop.call_soon(self._sweep)
        elif self._unstamped:  # the peer's window is full: no hurry, and no busy loop
            self.loop.call_later(0.001, self._sweep)
        else:
            self._sweeping = False

    def _tick(self) -> None:
        self.timer = None
        now = monotonic_ns()
        late = now - self.reply_timeout_ns
        overdue = []
        for connection in self.inflight:
            if connection.sent_ns > late:
                break
            overdue.append(connection)
        for connection in overdue:
            connection.drop("no complete reply in time")
        for lane in list(self.queued):
            lane.expire(now, late)
        if self.inflight or self.queued:
            self.arm()


class _Connection(asyncio.Protocol):
    """One keep-alive connection with at most one request in flight."""

    __slots__ = (
        "answered",
        "closed",
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

    def __init__(self, lane: _Lane) -> None:
        self.lane = lane
        self.hub = lane.pool.hub
        self.transport: Any = None
        self.parser = HttpResponseParser(self)
        self.exchange: Exchange | None = None
        self.stale = self.hub.loop.create_future()  # wants a successor: closed, or idle too long
        self.lost = self.hub.loop.create_future()
        self.timer: asyncio.TimerHandle | None = None
        self.encrypted = lane.pool.tls
        self.closed = self.retired = self.answered = False
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
        self.transport = transport
        sock = transport.get_extra_info("socket")
        if sock is not None:
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
        self._watch_idle(self.lane.pool.idle_ns)

    def data_received(self, data: bytes) -> None:
        now = monotonic_ns()
        if self.exchange is None:
            self.drop("the server spoke unasked")
            return
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

    def eof_received(self) -> None:
        if self.exchange is not None and self._ends_with_connection():
            self.status = self.parser.get_status_code()
            self.keep_alive = False
            self._finish(monotonic_ns())
        else:
            self.drop("the connection was closed before the reply was complete")

    def connection_lost(self, exc: Exception | None) -> None:
        self.drop("the connection was lost before the reply was complete")
        if not self.lost.done():
            self.lost.set_result(None)

    # httptools

    def on_message_begin(self) -> None:
        if self.status:  # more than one reply to one request: never trust this connection again
            self.keep_alive = False

    def on_body(self, piece: bytes) -> None:
        if not self.status:
            self.pieces.append(piece)

    def on_message_complete(self) -> None:
        status = self.parser.get_status_code()
        if status < 200:  # 100, 102, 103: the answer follows
            self.interim += 1
            self.pieces.clear()
        elif not self.status:
            self.status = status
            self.keep_alive = self.parser.should_keep_alive()

    # ours

    def write(self, request: bytes, exchange: Exchange) -> None:
        """Hand a request to the operating system, or say that nothing of it left."""
        transport = self.transport
        now = monotonic_ns()
        self.exchange = exchange
        self.sent_ns = exchange.stamps.first_byte_ns = now
        hub = self.hub
        hub.inflight[self] = None
        if hub.timer is None:
            hub.arm()
        try:
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
        try:
            exchange.on_reply(status, raw, body)
        except Exception as error:  # noqa: BLE001 (a caller's fault stays the caller's)
            self._complain(error)

    def _raw(self) -> bytes:
        return b"".join(self.received).split(_ANSWERED, self.interim)[-1]

    def _ends_with_connection(self) -> bool:
        """Say whether the reply has a head without any length: its end is the connection's."""
        head, end, _ = self._raw().partition(_ANSWERED)
        if not end:
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
            if not self.stale.done():
                self.stale.set_result(None)
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
        elif not self.stale.done():
            self.stale.set_result(None)

    def _complain(self, error: Exception) -> None:
        self.hub.loop.call_exception_handler(
            {"message": "an exchange's callback raised", "exception": error}
        )


class _Lane:
    """Connections used first in, first out, and the requests that wait for one."""

    __slots__ = ("idle", "open", "pool", "queue", "reason", "slots")

    def __init__(self, pool: WirePool, size: int) -> None:
        self.pool = pool
        self.slots = [_Slot(self) for _ in range(size)]
        self.open: set[_Connection] = set()
        self.idle: list[_Connection] = []
        self.queue: deque[tuple[bytes, Exchange, int]] = deque()
        self.reason = "no connection yet"

    def enqueue(self, request: bytes, exchange: Exchange) -> None:
        if len(self.queue) >= MAX_QUEUE:
            self.pool.refuse(exchange, "too many requests are waiting for a connection")
            return
        hub = self.pool.hub
        self.queue.append((request, exchange, monotonic_ns()))
        hub.queued[self] = None
        if hub.timer is None:
            hub.arm()
        if not self.open:
            for slot in self.slots:
                slot.wake()

    def release(self, connection: _Connection) -> None:
        """Take a connection that is free: the longest waiting request, else idle."""
        while self.queue:
            request, exchange, _ = self.queue.popleft()
            if not self.queue:
                self.pool.hub.queued.pop(self, None)
            if 0 < exchange.send_before_ns < monotonic_ns():
                self.pool.refuse(exchange, "it was too old by the time a connection was free")
                continue
            if connection.transport.is_closing():
                self.queue.appendleft((request, exchange, monotonic_ns()))
                self.pool.hub.queued[self] = None
                connection.drop("")
                return
            connection.write(request, exchange)
            return
        self.idle.append(connection)

    def adopt(self, connection: _Connection) -> None:
        self.open.add(connection)
        self.pool.changed(self)
        self.release(connection)

    def discard(self, connection: _Connection) -> None:
        self.open.discard(connection)
        with contextlib.suppress(ValueError):
            self.idle.remove(connection)

    def connect_failed(self, reason: str) -> None:
        self.reason = reason
        if not self.open:
            self.pool.changed(self)
            self.fail_all(reason)

    def expire(self, now: int, late: int) -> None:
        """Fail what waited too long, or may not be sent any more."""
        kept = deque(entry for entry in self.queue if _may_wait(entry, now, late))
        if len(kept) != len(self.queue):
            failed = [entry for entry in self.queue if not _may_wait(entry, now, late)]
            self.queue = kept
            for _, exchange, _ in failed:
                self.pool.refuse(exchange, f"no connection was free in time: {self.reason}")
        if not self.queue:
            self.pool.hub.queued.pop(self, None)

    def fail_all(self, reason: str) -> None:
        waiting, self.queue = self.queue, deque()
        self.pool.hub.queued.pop(self, None)
        for _, exchange, _ in waiting:
            self.pool.refuse(exchange, reason)


def _may_wait(entry: tuple[bytes, Exchange, int], now: int, late: int) -> bool:
    _, exchange, since = entry
    return since > late and not 0 < exchange.send_before_ns < now


class _Slot:
    """Keeps one connection of a lane open: its task opens, waits, opens again."""

    __slots__ = ("attempted", "connection", "lane", "nap", "tried_ns")

    def __init__(self, lane: _Lane) -> None:
        self.lane = lane
        self.connection: _Connection | None = None
        self.attempted: asyncio.Future[None] | None = None
        self.nap: asyncio.Future[None] | None = None
        self.tried_ns = 0

    async def keep_open(self) -> None:
        failures = 0
        pool = self.lane.pool
        while True:
            self.tried_ns = monotonic_ns()
            try:
                fresh = await pool.connect(self.lane)
            except (OSError, TimeoutError) as error:
                failures += 1
                self.lane.connect_failed(f"cannot connect to {pool.address}: {_why(error)}")
                self._attempt_over()
                await self._pause(failures)
                continue
            before, self.connection = self.connection, fresh
            if before is not None:
                before.retire()
            if not fresh.closed:
                self.lane.adopt(fresh)
            self._attempt_over()
            await fresh.stale
            if fresh.answered or not fresh.closed:
                failures = 0
            else:  # accepted and closed unused: do not run in circles
                failures += 1
                self.lane.reason = f"{pool.address} closed the connection"
                await self._pause(failures)

    def _attempt_over(self) -> None:
        if self.attempted is not None and not self.attempted.done():
            self.attempted.set_result(None)

    async def _pause(self, failures: int) -> None:
        pool = self.lane.pool
        ceiling = min(pool.backoff_s * 2 ** min(failures - 1, 10), pool.backoff_max_s)
        self.nap = pool.hub.loop.create_future()
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(self.nap, ceiling * random.uniform(0.5, 1.0))  # noqa: S311
        self.nap = None

    def wake(self) -> None:
        """End a pause early: somebody waits for this connection."""
        if self.nap is not None and not self.nap.done():
            self.nap.set_result(None)


def _why(error: BaseException) -> str:
    if isinstance(error, ssl.SSLCertVerificationError):
        return f"its certificate is not trusted ({error.verify_message})"
    if isinstance(error, TimeoutError) and not error.args:
        return "no answer in time"
    return getattr(error, "strerror", None) or str(error) or type(error).__name__


class WirePool:
    """The warm connections of one account to one server.

    ``send`` never raises and never waits. ``idle_s`` is the age at which an unused connection is
    replaced by a new one, to stay ahead of the server's own idle timeout. ``on_change(up, reason)``
    tells when orders can leave and when they cannot.
    """

    def __init__(  # noqa: PLR0913 (every knob of a connection)
        self,
        hub: WireHub,
        host: str,
        port: int,
        *,
        tls: bool,
        orders: int = 1,
        control: int = 1,
        idle_s: float = 60.0,
        connect_timeout_s: float = 5.0,
        backoff_s: float = 0.1,
        backoff_max_s: float = 5.0,
        local_addr: str | None = None,
        on_change: Callable[[bool, str], None] | None = None,
    ) -> None:
        self.hub = hub
        self.host = host
        self.port = port
        self.tls = tls
        self.address = f"{host}:{port}"
        self.idle_ns = int(idle_s * _SECOND)
        self.connect_timeout_s = connect_timeout_s
        self.backoff_s = backoff_s
        self.backoff_max_s = backoff_max_s
        self.up = False
        self._local_addr = local_addr
        self._on_change = on_change
        self._orders = _Lane(self, orders)
        self._control = _Lane(self, control)
        self._lanes = (self._orders, self._control)
        self._tasks: list[asyncio.Task[None]] = []
        self._stopped = True

    async def start(self) -> None:
        """Open every connection; returns when each has been tried once, whatever came of it."""
        self.hub.attach()
        self._stopped = False
        attempts = []
        for lane in self._lanes:
            for slot in lane.slots:
                slot.attempted = self.hub.loop.create_future()
                attempts.append(slot.attempted)
                self._tasks.append(self.hub.loop.create_task(slot.keep_open()))
        await asyncio.gather(*attempts)

    async def stop(self) -> None:
        """Close everything; what waits has not left, what is in flight has an unknown outcome."""
        self._stopped = True
        self.up = False
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        self._tasks.clear()
        closing = []
        for lane in self._lanes:
            lane.fail_all("the session was stopped")
            for connection in list(lane.open):
                closing.append(connection.lost)
                connection.drop("the session was stopped before the reply came")
        if closing:
            await asyncio.wait(closing, timeout=2.0)

    def ready(self) -> bool:
        """Say whether an order would be written at once."""
        return bool(self._orders.idle) and not self._orders.queue

    @property
    def reason(self) -> str:
        """Return why orders cannot leave, as of the last failure."""
        return self._orders.reason

    def send(self, request: bytes, exchange: Exchange, lane: Lane = ORDERS) -> None:
        """Write a request at once if a connection of its lane is idle, else queue it."""
        if lane is ORDERS:
            chosen = self._orders
        else:
            chosen = self._control
            if not chosen.open and self._orders.idle:
                chosen = self._orders  # better a shared connection than a cancel that waits
        idle = chosen.idle
        while idle and not self._stopped:
            connection = idle.pop()
            if connection.transport.is_closing():
                connection.drop("")
                continue
            if 0 < exchange.send_before_ns < monotonic_ns():
                idle.append(connection)
                self.refuse(exchange, "it was too old to be sent")
                return
            connection.write(request, exchange)
            return
        if self._stopped:
            self.refuse(exchange, "the session is not running")
        else:
            chosen.enqueue(request, exchange)

    # for lanes and slots

    async def connect(self, lane: _Lane) -> _Connection:
        """Open one connection."""
        context = self.hub.context() if self.tls else None
        local = (self._local_addr, 0) if self._local_addr else None
        async with asyncio.timeout(self.connect_timeout_s):
            _, connection = await self.hub.loop.create_connection(
                lambda: _Connection(lane),
                self.host,
                self.port,
                ssl=context,
                server_hostname=self.host if context else None,
                local_addr=local,
            )
        return connection

    def refuse(self, exchange: Exchange, reason: str) -> None:
        """Tell, a little later, that not a byte of this request left."""
        loop = self.hub.loop or asyncio.get_running_loop()
        loop.call_soon(exchange.on_failure, False, reason)

    def changed(self, lane: _Lane) -> None:
        """Tell once when the order lane opens and when it is found shut."""
        up = bool(lane.open)
        if lane is not self._orders or self._stopped or up is self.up:
            return
        self.up = up
        if self._on_change is not None:
            self._on_change(up, "" if up else lane.reason)
