"""One account's way out: its orders in turn, within its rate, none later than it may leave."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable

from engine.clock import Clock
from engine.execution.rate_limit import RateLimit
from engine.model.enums import OrderStatus
from engine.model.order import Order
from engine.ports import BrokerSession

MOST_TRIES = 3
RETRY_AFTER_NS = 50_000_000
LOOK_AGAIN_NS = 100_000_000

Gate = Callable[[Order], tuple[str, str] | None]
Denied = Callable[[Order, str, str], None]


class Lane:
    """The queue between the dispatcher and one broker session.

    One order of an account is in flight at a time, so they reach the venue in order. Exits go before entries.
    An order that has waited past its age limit, or whose scope was halted meanwhile, is denied here, at the
    last moment before its first byte (control C13).
    """

    __slots__ = (
        "_busy",
        "_clock",
        "_closed",
        "_denied",
        "_entries",
        "_exits",
        "_gate",
        "_loop",
        "_timer",
        "_tries",
        "limit",
        "session",
    )

    def __init__(
        self, session: BrokerSession, limit: RateLimit, clock: Clock, gate: Gate, denied: Denied
    ) -> None:
        self.session = session
        self.limit = limit
        self._clock = clock
        self._gate = gate
        self._denied = denied
        self._loop = asyncio.get_running_loop()
        self._exits: deque[Order] = deque()
        self._entries: deque[Order] = deque()
        self._tries: dict[str, int] = {}
        self._timer: asyncio.TimerHandle | None = None
        self._busy = (
            False  # denying an order calls back here: the outer call goes on with the queue
        )
        self._closed = False

    def __len__(self) -> int:
        return len(self._exits) + len(self._entries)

    def put(self, order: Order) -> None:
        """Queue an order and send what can be sent."""
        if self._closed:
            self._denied(order, "NOT_CONNECTED", "the account's broker session was closed")
            return
        (self._exits if order.reducing else self._entries).append(order)
        self.pump()

    def put_back(self, order: Order) -> None:
        """Take back an order of which not a byte left; it goes again while it is fresh."""
        tries = self._tries.get(order.cl_ord_id, 0) + 1
        if self._closed or tries >= MOST_TRIES:
            self.forget(order)
            times = "once" if tries == 1 else f"in {tries} tries"
            self._denied(order, "NOT_SENT", f"not a byte left {times}: {order.text}")
            return
        self._tries[order.cl_ord_id] = tries
        (self._exits if order.reducing else self._entries).appendleft(order)
        self._wake_in(RETRY_AFTER_NS * tries)

    def forget(self, order: Order) -> None:
        """Take the news that an order needs no more tries."""
        if self._tries:
            self._tries.pop(order.cl_ord_id, None)

    def pump(self) -> None:
        """Send from the head of the queue for as long as order, rate and connection allow."""
        if self._busy:
            return
        self._busy = True
        try:
            while (queue := self._exits or self._entries) and self._send_first(queue):
                pass
        finally:
            self._busy = False

    def _send_first(self, queue: deque[Order]) -> bool:
        """Send or deny the first order; say whether to go on."""
        order = queue[0]
        if order.status is not OrderStatus.PENDING_NEW:
            queue.popleft()  # proven or closed meanwhile: it must not leave again
            return True
        now = self._clock.monotonic_ns()
        refused = self._refused(order, now)
        if refused is not None:
            queue.popleft()
            self.forget(order)
            self._denied(order, *refused)
            return True
        if not self.session.ready():
            # A reply pumps again; a connection that comes back unasked is found by looking.
            deadline = order.send_before_ns - now if order.send_before_ns else LOOK_AGAIN_NS
            self._wake_in(min(deadline, LOOK_AGAIN_NS))
            return False
        if not self.limit.take(now):
            self._wake_in(self.limit.wait_ns(now))
            return False
        queue.popleft()
        self.session.submit(order)
        return True

    def deny(self, order: Order, code: str, text: str) -> bool:
        """Deny one queued order; say whether it was still here."""
        for queue in (self._exits, self._entries):
            if order in queue:
                queue.remove(order)
                self.forget(order)
                self._denied(order, code, text)
                return True
        return False

    def deny_all(self, code: str, text: str) -> int:
        """Empty the queue, denying each order; return how many."""
        waiting = [*self._exits, *self._entries]
        self._exits.clear()
        self._entries.clear()
        self._tries.clear()
        for order in waiting:
            self._denied(order, code, text)
        return len(waiting)

    def close(self, code: str = "NOT_SENT", text: str = "its lane was closed") -> None:
        """Deny what is queued and take nothing any more."""
        self._closed = True
        self.deny_all(code, text)
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
