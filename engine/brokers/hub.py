"""What the wires of one event loop share: a timer, a stamping sweep, a TLS context, pacers."""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import Callable
from time import monotonic_ns
from typing import TYPE_CHECKING, Any, cast

from engine.brokers.dial import Pacer, Route
from engine.kill_latch import GENERATION, KillLatch
from engine.model.order import Order

if TYPE_CHECKING:
    from engine.brokers.connection import Connection, Exchange, Stamps
    from engine.brokers.request_queue import RequestQueue

_SECOND = 1_000_000_000


class WireHub:
    """What the pools of one event loop share; ``reply_timeout_s`` is for a whole exchange."""

    def __init__(
        self, *, reply_timeout_s: float = 10.0, tls: Callable[[], ssl.SSLContext] | None = None
    ) -> None:
        self.reply_timeout_ns = int(reply_timeout_s * _SECOND)
        self.loop: asyncio.AbstractEventLoop = cast(asyncio.AbstractEventLoop, None)
        self.timer: asyncio.TimerHandle | None = None
        # Oldest first, because the timeout is the same for all: the tick stops at a young one.
        self.inflight: dict[Connection, None] = {}
        self.queued: dict[RequestQueue, None] = {}
        self._tls = tls or ssl.create_default_context
        self._context: ssl.SSLContext | None = None
        self._tick_s = min(0.25, max(0.02, reply_timeout_s / 8))
        self._unstamped: list[tuple[Any, Stamps]] = []
        self._encrypted: list[tuple[Any, Stamps]] = []
        self._sweeping = False
        self._pacers: dict[tuple[str, str], Pacer] = {}
        self.latch: KillLatch | None = None
        """The home's kill switch: what was pressed outside this process keeps orders from being written."""
        self.gate: Callable[[Order], object] = lambda _order: None
        """Says why an order may not leave; asked again of one that had to wait here."""

    def pacer(self, host: str, route: Route | None, per_second: float) -> Pacer:
        """Return what spaces new connections to ``host`` by one way out; 0: no limit.

        All of a host's pools and streams that leave by the same address share it; the first to ask says
        how many a second.
        """
        key = host, (route.local_address or route.proxy) if route is not None else ""
        if key not in self._pacers:
            self._pacers[key] = Pacer(per_second)
        return self._pacers[key]

    def latched(self, exchange: Exchange) -> bool:
        """Say whether an order waits until the engine has looked at the kill switch; cancels and reads never do."""
        latch = self.latch
        return (
            latch is not None
            and latch.words[GENERATION] != latch.seen
            and isinstance(exchange.stamps, Order)
        )

    def barred(self, exchange: Exchange) -> bool:
        """Say whether an order that waited for a connection may not leave any more."""
        order = exchange.stamps
        if not isinstance(order, Order):
            return False
        return self.latched(exchange) or self.gate(order) is not None

    def refuse_barred(self) -> None:
        """Refuse what waits for a connection and may not leave any more, now and not when there is one."""
        for queue in list(self.queued):
            queue.refuse_barred()

    def attach(self) -> None:
        """Bind to the running loop."""
        self.loop = asyncio.get_running_loop()

    def context(self) -> ssl.SSLContext:
        """Return the one TLS context; it is dear to make."""
        if self._context is None:
            self._context = self._tls()
        return self._context

    def refuse(self, exchange: Exchange, reason: str) -> None:
        """Tell, a little later, that not a byte of this request left."""
        loop = self.loop or asyncio.get_running_loop()
        loop.call_soon(exchange.on_failure, False, reason)

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
        for queue in list(self.queued):
            queue.expire(now, late)
        if self.inflight or self.queued:
            self.arm()
