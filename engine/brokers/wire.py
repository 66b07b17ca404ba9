"""The order wire: warm keep-alive HTTP/1.1 connections that say honestly what left and when.

A ``WireHub`` is what all pools of an event loop share. A ``WirePool`` holds the connections of one
account: a lane for orders and a lane for everything that must never wait behind an order. One request
is in flight on a connection; each lane is strictly first in, first out.

Every failure says which it is: ``left=False`` is proof that not a byte was handed to the operating
system, ``left=True`` is anything after ``transport.write`` was called.
"""

from __future__ import annotations

import asyncio
import contextlib
import random
from collections.abc import Callable
from enum import IntEnum
from time import monotonic_ns

from engine import failpoints
from engine.brokers.connection import MAX_REPLY, Connection, Exchange, Stamps, header
from engine.brokers.dial import Rank, Route, dial, why
from engine.brokers.hub import WireHub
from engine.brokers.request_queue import RequestQueue

__all__ = [
    "CONTROL",
    "MAX_REPLY",
    "ORDERS",
    "Exchange",
    "Lane",
    "Stamps",
    "WireHub",
    "WirePool",
    "header",
]

_SECOND = 1_000_000_000


class Lane(IntEnum):
    """Which connections a request takes."""

    ORDERS = 0
    CONTROL = 1


ORDERS = Lane.ORDERS
CONTROL = Lane.CONTROL


class LaneQueue:
    """Connections used first in, first out, and the requests that wait for one."""

    __slots__ = ("idle", "open", "pool", "reason", "slots", "waiting")

    def __init__(self, pool: WirePool, size: int) -> None:
        self.pool = pool
        self.slots = [_Slot(self, number) for number in range(size)]
        self.open: set[Connection] = set()
        self.idle: list[Connection] = []
        self.waiting = RequestQueue(pool.hub, self._why)
        self.reason = "no connection yet"

    def _why(self) -> str:
        why = "every connection waits for an answer" if self.open else self.reason
        return f"no connection was free in time: {why}"

    def enqueue(self, request: bytes, exchange: Exchange) -> None:
        self.waiting.put(request, exchange)
        if not self.open:
            for slot in self.slots:
                slot.wake()

    def release(self, connection: Connection) -> None:
        """Take a connection that is free: the longest waiting request, else idle."""
        if self.waiting.entries:
            if connection.transport.is_closing():
                connection.drop("")
                return
            entry = self.waiting.take()
            if entry is not None:
                connection.write(*entry)
                return
        self.idle.append(connection)

    def doubt(self) -> None:
        """Renew the idle connections, and give them up if that fails."""
        for connection in self.idle:
            connection.doubt()

    def adopt(self, connection: Connection) -> None:
        self.open.add(connection)
        self.pool.changed(self)
        self.release(connection)
        self.pool.opened()

    def discard(self, connection: Connection) -> None:
        self.open.discard(connection)
        with contextlib.suppress(ValueError):
            self.idle.remove(connection)

    def connect_failed(self, reason: str) -> None:
        self.reason = reason
        if not self.open:
            self.pool.changed(self)
            self.waiting.fail_all(reason)


class _Slot:
    """Keeps one connection of a lane open: its task opens, waits, opens again."""

    __slots__ = ("attempted", "connection", "lane", "nap", "rank")

    def __init__(self, lane: LaneQueue, number: int) -> None:
        self.lane = lane
        self.rank = Rank.ORDERS if number else Rank.NEEDED
        self.connection: Connection | None = None
        self.attempted: asyncio.Future[None] | None = None
        self.nap: asyncio.Future[None] | None = None

    async def keep_open(self) -> None:
        failures = 0
        pool = self.lane.pool
        while True:
            try:
                fresh = await pool.connect(self.lane, self.rank)
            except (OSError, ValueError) as error:  # ValueError: a name no resolver takes
                failures += 1
                if self.connection is not None and self.connection.doubted:
                    self.connection.retire()
                self.lane.connect_failed(f"cannot connect to {pool.address}: {why(error)}")
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
            # Not wait_for: before Python 3.12 it loses a cancellation that comes with the wake-up.
            async with asyncio.timeout(ceiling * random.uniform(0.5, 1.0)):  # noqa: S311
                await self.nap
        self.nap = None

    def wake(self) -> None:
        """End a pause early: somebody waits for this connection."""
        if self.nap is not None and not self.nap.done():
            self.nap.set_result(None)


class WirePool:
    """The warm connections of one account to one server.

    ``send`` never raises and never waits. ``idle_s`` is the age at which an unused connection is
    replaced by a new one, to stay ahead of the server's own idle timeout. ``egress`` is the way out.
    ``connects_per_second`` (0: no limit) spaces new connections, together with everybody else's to this
    host by this way out. ``probe`` is a whole cheap request (a read; not HEAD, whose reply looks cut
    short) sent every ``probe_s`` on the control lane: no answer, and all idle connections are renewed; an
    answer, whatever it says, goes to ``on_probe(exchange, status, raw, body)``.
    ``on_change(up, reason)`` tells when orders can leave and when they cannot, ``on_open()`` of each new connection.

    With several order connections, requests still leave in the order given, but the server may take
    them in another.
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
        egress: Route | None = None,
        connects_per_second: float = 0.0,
        probe: bytes = b"",
        probe_s: float = 25.0,
        on_probe: Callable[[Probe, int, bytes, bytes], None] | None = None,
        on_change: Callable[[bool, str], None] | None = None,
        on_open: Callable[[], None] | None = None,
    ) -> None:
        self.hub = hub
        self.host = host
        self.port = port
        self.tls = tls
        self.address = f"{host}:{port}" + (f" {egress}" if egress is not None else "")
        self.idle_ns = int(idle_s * _SECOND)
        self.connect_timeout_s = connect_timeout_s
        self.backoff_s = backoff_s
        self.backoff_max_s = backoff_max_s
        self.up = False
        self.egress = egress
        self._pacer = hub.pacer(host, egress, connects_per_second)
        self.probe = probe
        self._on_probe = on_probe
        self._probe_s = probe_s
        self._probing = False
        self._probe_timer: asyncio.TimerHandle | None = None
        self._on_change = on_change
        self._on_open = on_open
        self._orders = LaneQueue(self, orders)
        self._control = LaneQueue(self, control)
        self._lanes = (self._orders, self._control)
        self._tasks: list[asyncio.Task[None]] = []
        self._stopped = True

    async def start(self) -> None:
        """Open every connection; returns when each has been tried once, whatever came of it.

        Where so many are to be opened that some still wait for their turn after twice the time one may
        take, it returns then; ``on_change`` tells the rest.
        """
        self.open()
        await self._tried([slot for lane in self._lanes for slot in lane.slots])

    def open(self) -> None:
        """Begin to open every connection; must not be called again before ``stop``."""
        self.hub.attach()
        self._stopped = False
        for lane in self._lanes:
            for slot in lane.slots:
                self._begin(slot)
        self._probing = False
        if self.probe:
            self._probe_later()

    def _begin(self, slot: _Slot) -> None:
        slot.attempted = self.hub.loop.create_future()
        self._tasks.append(self.hub.loop.create_task(slot.keep_open()))

    async def first_tried(self) -> None:
        """Return when the first order connection was tried once, whatever came of it, or as ``start`` does."""
        await self._tried(self._orders.slots[:1])

    async def _tried(self, slots: list[_Slot]) -> None:
        attempts = [slot.attempted for slot in slots if slot.attempted is not None]
        await asyncio.wait(attempts, timeout=2 * self.connect_timeout_s)

    def grow(self, orders: int, control: int) -> None:
        """Open more connections, if there are fewer than so many; needs an open pool."""
        for lane, size in zip(self._lanes, (orders, control), strict=True):
            for number in range(len(lane.slots), size):
                slot = _Slot(lane, number)
                lane.slots.append(slot)
                self._begin(slot)

    async def stop(self) -> None:
        """Close everything; what waits has not left, what is in flight has an unknown outcome."""
        self._stopped = True
        self.up = False
        if self._probe_timer is not None:
            self._probe_timer.cancel()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        self._tasks.clear()
        closing = []
        for lane in self._lanes:
            lane.waiting.fail_all("the session was stopped")
            for connection in list(lane.open):
                closing.append(connection.lost)
                connection.drop("the session was stopped before the reply came")
        if closing:
            await asyncio.wait(closing, timeout=2.0)

    def ready(self) -> bool:
        """Say whether an order would be written at once."""
        return bool(self._orders.idle) and not self._orders.waiting.entries

    @property
    def warm(self) -> int:
        """Return how many order connections are open, idle or busy."""
        return len(self._orders.open)

    @property
    def wanted(self) -> int:
        """Return how many order connections there should be."""
        return len(self._orders.slots)

    @property
    def reason(self) -> str:
        """Return why orders cannot leave, as of the last failure."""
        return self._orders.reason

    def send(self, request: bytes, exchange: Exchange, lane: Lane = ORDERS) -> None:
        """Write a request at once if a connection of its lane is idle, else queue it."""
        if lane is ORDERS or not self._control.slots:
            chosen = self._orders
        else:
            chosen = self._control
            blocked = not chosen.open or (self._probing and not chosen.idle)
            if blocked and self._orders.idle:
                chosen = self._orders  # better a shared connection than a cancel that waits
        idle = chosen.idle
        while idle and not self._stopped:
            connection = idle.pop()
            if connection.transport.is_closing():
                connection.drop("")
                continue
            if 0 < exchange.send_before_ns < monotonic_ns():
                idle.append(connection)
                self.hub.refuse(exchange, "it was too old to be sent")
                return
            if self.hub.latched(exchange):
                idle.append(connection)
                self.hub.refuse(exchange, "the kill switch was pressed before it left")
                return
            connection.write(request, exchange)
            return
        if self._stopped:
            self.hub.refuse(exchange, "the session is not running")
        else:
            chosen.enqueue(request, exchange)

    def without_control(self) -> None:
        """Have one lane for everything and ask nothing unasked, before ``start``: for one who sends only cancels."""
        self._control.slots.clear()
        self.probe = b""

    # for a pool shared by many accounts

    def free(self, lane: Lane) -> bool:
        """Say whether a connection of a lane is idle."""
        return bool(self._lanes[lane].idle)

    def relieve(self) -> None:
        """Let idle order connections take what waits for a control connection."""
        orders, control = self._orders, self._control
        while control.waiting.entries and orders.idle:
            entry = control.waiting.take()
            if entry is not None:
                self.send(*entry)

    def withdraw(self, exchange: Exchange) -> bool:
        """Take a request that waits out of its queue without telling anybody; say whether it was there."""
        return any(lane.waiting.withdraw(exchange) for lane in self._lanes)

    def carries(self, exchange: Exchange) -> bool:
        """Say whether a request is in flight: written, and not answered yet."""
        return any(
            connection.exchange is exchange for lane in self._lanes for connection in lane.open
        )

    # for lanes and slots

    async def connect(self, lane: LaneQueue, rank: Rank) -> Connection:
        """Open one connection, when it is this address's turn."""
        await self._pacer.turn(rank)
        context = self.hub.context() if self.tls else None
        if failpoints.ARMED:
            failpoints.hit("K14.before")
        _, connection = await dial(
            lambda: Connection(lane),
            self.host,
            self.port,
            context=context,
            route=self.egress,
            timeout_s=self.connect_timeout_s,
        )
        if failpoints.ARMED:
            failpoints.hit("K14.after")
        return connection

    def _probe_later(self) -> None:
        self._probe_timer = self.hub.loop.call_later(
            self._probe_s * random.uniform(0.8, 1.0),  # noqa: S311 (spreads the load)
            self._send_probe,
        )

    def _send_probe(self) -> None:
        # A connection that is busy is being proven right now.
        if self._control.idle:
            self._probing = True
            self.send(self.probe, Probe(self), CONTROL)
        self._probe_later()

    def probed(self, exchange: Probe, status: int, raw: bytes, body: bytes) -> None:
        """Pass on the answer to a probe."""
        self._probing = False
        if self._on_probe is not None:
            self._on_probe(exchange, status, raw, body)

    def probe_failed(self, left: bool) -> None:
        """Renew every idle connection if the peer left the question without an answer."""
        self._probing = False
        if left:
            for lane in self._lanes:
                lane.doubt()

    def opened(self) -> None:
        """Tell of a new connection; it may have a request already."""
        if self._on_open is not None and not self._stopped:
            self._on_open()

    def changed(self, lane: LaneQueue) -> None:
        """Tell once when the order lane opens and when it is found shut."""
        up = bool(lane.open)
        if lane is not self._orders or self._stopped or up is self.up:
            return
        self.up = up
        if self._on_change is not None:
            self._on_change(up, "" if up else lane.reason)


class Probe(Exchange):
    """A cheap read, ``request``, that shows whether the peer still answers."""

    __slots__ = ("pool", "request")

    def __init__(self, pool: WirePool) -> None:
        super().__init__()
        self.pool = pool
        self.request = pool.probe

    def on_reply(self, status: int, raw: bytes, body: bytes) -> None:
        self.pool.probed(self, status, raw, body)

    def on_failure(self, left: bool, reason: str) -> None:
        self.pool.probe_failed(left)
