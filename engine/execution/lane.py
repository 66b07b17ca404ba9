"""One account's way out: its orders in turn, within its rate, none later than it may leave."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable

from engine.clock import Clock
from engine.execution.rate_limit import RateLimit
from engine.model.order import Order
from engine.ports import BrokerSession

MOST_TRIES = 3

Gate = Callable[[Order], tuple[str, str] | None]
Denied = Callable[[Order, str, str], None]


class Lane:
    """The queue between the dispatcher and one broker session.

    One order of an account is in flight at a time, so they reach the venue in order. Exits go before entries.
    An order that has waited past its age limit, or whose scope was halted meanwhile, is denied here, at the
    last moment before its first byte (control C13).
    """

    __slots__ = (
        "_clock",
        "_denied",
        "_gate",
        "_limit",
        "_loop",
        "_queue",
        "_timer",
        "_tries",
        "session",
    )

    def __init__(
        self, session: BrokerSession, limit: RateLimit, clock: Clock, gate: Gate, denied: Denied
    ) -> None:
        self.session = session
        self._limit = limit
        self._clock = clock
        self._gate = gate
        self._denied = denied
        self._loop = asyncio.get_running_loop()
        self._queue: deque[Order] = deque()
        self._tries: dict[str, int] = {}
        self._timer: asyncio.TimerHandle | None = None

    def __len__(self) -> int:
        return len(self._queue)

    def put(self, order: Order) -> None:
        """Queue an order and send what can be sent."""
        if order.reducing:
            self._queue.appendleft(order)
        else:
            self._queue.append(order)
        self.pump()

    def put_back(self, order: Order) -> None:
        """Take back an order of which not a byte left; it goes again while it is fresh."""
        tries = self._tries.get(order.cl_ord_id, 0) + 1
        if tries >= MOST_TRIES:
            self._tries.pop(order.cl_ord_id, None)
            self._denied(order, "NOT_SENT", f"not a byte left in {tries} tries: {order.text}")
            return
        self._tries[order.cl_ord_id] = tries
        self._queue.appendleft(order)
        self._wake_in(50_000_000 * tries)

    def pump(self) -> None:
        """Send from the head of the queue for as long as order, rate and connection allow."""
        queue = self._queue
        while queue:
            order = queue[0]
            now = self._clock.monotonic_ns()
            refused = self._refused(order, now)
            if refused is not None:
                queue.popleft()
                self._denied(order, *refused)
                continue
            if not self.session.ready():
                # The session pumps again when it is; until then only the order's own deadline matters.
                if order.send_before_ns:
                    self._wake_in(order.send_before_ns - now)
                return
            if not self._limit.take(now):
                self._wake_in(self._limit.wait_ns(now))
                return
            queue.popleft()
            self.session.submit(order)

    def deny_all(self, code: str, text: str) -> int:
        """Empty the queue, denying each order; return how many."""
        count = 0
        while self._queue:
            self._denied(self._queue.popleft(), code, text)
            count += 1
        return count

    def deny(self, order: Order, code: str, text: str) -> bool:
        """Deny one queued order; say whether it was still here."""
        if order not in self._queue:
            return False
        self._queue.remove(order)
        self._denied(order, code, text)
        return True

    def close(self) -> None:
        """Forget timers; the queue must be empty or its orders denied."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _refused(self, order: Order, now: int) -> tuple[str, str] | None:
        if order.send_before_ns and now > order.send_before_ns:
            late = (now - order.send_before_ns) / 1e9
            return "STALE", f"{late:.1f} s past its age limit before it could leave"
        return self._gate(order)

    def _wake_in(self, delay_ns: int) -> None:
        if self._timer is not None:
            self._timer.cancel()
        self._timer = self._loop.call_later(max(delay_ns, 0) / 1e9 + 0.0005, self._wake)

    def _wake(self) -> None:
        self._timer = None
        self.pump()
