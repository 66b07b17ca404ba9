"""One account's way out: its orders in turn, within its rate, none later than it may leave."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable

from engine import failpoints
from engine.clock import Clock
from engine.execution.fair_queue import FairQueue, Turn
from engine.execution.rate_limit import RateLimit, TokenBucket
from engine.model.enums import OrderStatus
from engine.model.order import Order
from engine.ports import BrokerSession, SweepingSession, Swept

MOST_TRIES = 3
RETRY_AFTER_NS = 50_000_000
LOOK_AGAIN_NS = 100_000_000

Gate = Callable[[Order], tuple[str, str] | None]
Denied = Callable[[Order, str, str], None]
Conserve = Callable[[Order], str]
"""Counts an order that leaves now; says why it must not, empty if it may (engine.execution.conservation)."""


def _unbounded(_order: Order) -> str:
    return ""


class Lane:
    """The queue between the dispatcher and one broker session.

    One order of an account is in flight at a time, so they reach the venue in order. Exits go before entries.
    An order that has waited past its age limit, or whose scope was halted meanwhile, is denied here, at the
    last moment before its first byte (control C13).

    Entries wait while ``waits`` holds a reason (not reconciled yet, the broker's breaker is open); exits, cancels and
    replacements of exits do not.

    Cancels and replaces go past the queue: they count against every limit and wait for none, except while the
    broker itself has asked for quiet.
    """

    __slots__ = (
        "_busy",
        "_changes",
        "_clock",
        "_closed",
        "_denied",
        "_entries",
        "_exits",
        "_gate",
        "_loop",
        "_timer",
        "_tries",
        "conserve",
        "limit",
        "on_violation",
        "session",
        "sweeping",
        "turn",
        "waits",
        "way",
    )

    def __init__(
        self,
        session: BrokerSession,
        limit: RateLimit,
        way: FairQueue,
        clock: Clock,
        gate: Gate,
        denied: Denied,
    ) -> None:
        self.session = session
        self.limit = limit
        self.way = way
        self.turn: Turn | None = None  # our place in line for what we share with other lanes
        self.conserve: Conserve = _unbounded
        self.on_violation: Callable[[Order, str], None] = lambda _order, _why: None
        self.waits: dict[str, str] = {}  # why entries wait: code → sentence
        self._clock = clock
        self._gate = gate
        self._denied = denied
        self._loop = asyncio.get_running_loop()
        self._exits: deque[Order] = deque()
        self._entries: deque[Order] = deque()
        # Cancels and replaces (with the replacement) that wait for the end of a pause, by ClOrdID.
        self._changes: dict[str, tuple[Order, Order | None]] = {}
        self._tries: dict[str, int] = {}
        self._timer: asyncio.TimerHandle | None = None
        self._busy = (
            False  # denying an order calls back here: the outer call goes on with the queue
        )
        self._closed = False
        self.sweeping = False
        """Whether a cancel of all is under way: what left now it might cancel, too."""

    def __len__(self) -> int:
        return len(self._exits) + len(self._entries)

    @property
    def paused_until_ns(self) -> int:
        """Return until when the broker has asked this account, or its address, to be quiet."""
        return max(self.limit.paused_until_ns, self.way.paused_until_ns)

    def left(self, now_ns: int) -> int:
        """Return how many entries could leave at once, as far as limits go."""
        return min(self.limit.left(now_ns, entry=True), self.way.left(now_ns, entry=True))

    @property
    def most(self) -> int:
        """Return what ``left`` is while nothing has left lately."""
        return min(self.limit.entries, *(stage.limit.entries for stage in self.way.stages))

    # ---- orders ------------------------------------------------------------------------------------------------

    def put(self, order: Order) -> None:
        """Queue an order and send what can be sent."""
        if self._closed:
            self._denied(order, "NOT_CONNECTED", "the account's broker session was closed")
            return
        (self._exits if order.reducing else self._entries).append(order)
        self.pump()

    def put_back(self, order: Order) -> None:
        """Take back an order of which not a byte left, or which the broker proves it did not take; it goes again
        while it is fresh. Waiting for the end of a pause is no try.
        """
        tries = self._tries.get(order.cl_ord_id, 0)
        paused = self.paused_until_ns > self._clock.monotonic_ns()
        tries += not paused
        if self._closed or tries >= MOST_TRIES:
            self.forget(order)
            times = "once" if tries <= 1 else f"in {tries} tries"
            self._denied(order, "NOT_SENT", f"not a byte left {times}: {order.text}")
            return
        self._tries[order.cl_ord_id] = tries
        (self._exits if order.reducing else self._entries).appendleft(order)
        self._wake_in(0 if paused else RETRY_AFTER_NS * tries)

    def forget(self, order: Order) -> None:
        """Take the news that an order needs no more tries."""
        if self._tries:
            self._tries.pop(order.cl_ord_id, None)

    def quieted(self) -> None:
        """Take the news that the broker asked for quiet: what it refused for that was no failed try."""
        self._tries.clear()
        self._wake_in(0)

    def pump(self) -> None:
        """Send from the head of the queue for as long as order, rate and connection allow."""
        if self._busy:
            return
        self._busy = True
        try:
            if self._changes:
                self._send_changes()
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
        if failpoints.ARMED:
            failpoints.hit("K11.before")
        now = self._clock.monotonic_ns()
        refused = self._refused(order, now)
        if refused is not None:
            queue.popleft()
            self.forget(order)
            self._denied(order, *refused)
            return True
        if not self._may_leave(order, now):
            return False
        if failpoints.ARMED:
            failpoints.hit("K11.after")
        queue.popleft()
        if not self._conserved(order):
            return True
        if failpoints.ARMED:
            failpoints.hit("K12.before")
        self.session.submit(order)
        if failpoints.ARMED:
            failpoints.hit("K12.after")
        return True

    def _conserved(self, order: Order) -> bool:
        """Count an order that leaves; one more than planned does not (control C22)."""
        why = self.conserve(order)
        if not why:
            return True
        self.on_violation(order, why)
        if order.status is OrderStatus.PENDING_NEW and not order.was_sent:
            self._denied(order, "CONSERVATION", why)
        return False

    def hold_entries(self, code: str, text: str) -> None:
        """Let entries wait until ``release_entries`` is called with the same code."""
        self.waits[code] = text

    def read_wait_s(self) -> float:
        """Return how long a read must wait; 0: it goes now, and counts where its broker counts it (control C09).

        A look-up may be all that stands between an order and its proof: like a cancel it takes what is left, entries or
        not, and waits only where nothing is, or where the broker asked for quiet.
        """
        now = self._clock.monotonic_ns()
        limits: list[RateLimit | TokenBucket] = [self.way.limit]
        if self.session.capabilities.counts_reads:
            limits.append(self.limit.buckets[0])  # the broker's own; the account's is one of orders
        wait = max(self.paused_until_ns - now, *(limit.wait_ns(now) for limit in limits))
        if wait > 0:
            return wait / 1e9
        for limit in limits:
            limit.spend(now)
        return 0.0

    def age(self, nanoseconds: int) -> None:
        """Make what is queued so much older than the monotonic clock knows, and deny what is too old now."""
        for order in (*self._exits, *self._entries):
            if order.send_before_ns:
                order.send_before_ns = max(1, order.send_before_ns - nanoseconds)
        self.pump()

    def release_entries(self, code: str) -> None:
        """End one reason to wait; what is fresh leaves."""
        if self.waits.pop(code, None) is not None:
            self.pump()

    def _may_leave(self, order: Order, now: int) -> bool:
        """Say whether there is a connection and room in every limit, and see to it that we look again if not."""
        entry = not order.reducing
        if entry and self.waits:
            self._wake_for(order, now, None)  # pumped when the reason is over
            return False
        if self.sweeping:
            self._wake_for(order, now, None)  # pumped when it is answered
            return False
        if not self.limit.left(now, entry):
            if failpoints.ARMED:
                failpoints.hit("K10.before")
            self._wake_for(order, now, self.limit.wait_ns(now, entry))
            return False
        if not self.session.ready():
            # A reply pumps again; a connection that comes back unasked is found by looking.
            self._wake_for(order, now, LOOK_AGAIN_NS)
            return False
        if not self.way.admit(self, entry, now):
            self._wake_for(order, now, None)  # pumped when our turn comes
            return False
        self.limit.spend(now)
        return True

    def deny(self, order: Order, code: str, text: str) -> bool:
        """Deny one queued order; say whether it was still here."""
        for queue in (self._exits, self._entries):
            if order in queue:
                queue.remove(order)
                self.forget(order)
                if order.status is not OrderStatus.PENDING_NEW:
                    return False  # its broker has told of it after all, later than it had promised
                self._denied(order, code, text)
                return True
        return False

    def deny_all(self, code: str, text: str) -> int:
        """Empty the queue, denying each order; return how many."""
        queued = (*self._exits, *self._entries)
        waiting = [order for order in queued if order.status is OrderStatus.PENDING_NEW]
        self._exits.clear()
        self._entries.clear()
        self._tries.clear()
        for order in waiting:
            self._denied(order, code, text)
        return len(waiting)

    def close(self, code: str = "NOT_SENT", text: str = "its lane was closed") -> None:
        """Deny what is queued and take nothing any more."""
        self._closed = True
        if self.turn is not None:
            self.turn.void()
            self.turn = None
        changes = list(self._changes.values())
        self._changes.clear()
        for _, replacement in changes:
            if replacement is not None:
                self._denied(replacement, code, text)
        self.deny_all(code, text)
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _refused(self, order: Order, now: int) -> tuple[str, str] | None:
        if order.send_before_ns and now > order.send_before_ns:
            late = (now - order.send_before_ns) / 1e9
            text = f"{late:.1f} s past its age limit before it could leave"
            if self.waits and not order.reducing:
                text += f"; it waited: {'; '.join(self.waits.values())}"
            return "STALE", text
        return self._gate(order)

    # ---- cancels and replaces ----------------------------------------------------------------------------------

    def cancel(self, order: Order) -> None:
        """Ask the broker to cancel an order."""
        self._change(order, None)

    def replace(self, order: Order, replacement: Order) -> None:
        """Ask the broker to put ``replacement`` in the place of ``order``."""
        self._change(order, replacement)

    def cancel_all(self, done: Callable[[Swept], None]) -> bool:
        """Ask for the cancel of whatever works in the account, ours and others', in one request.

        Say whether: not every broker has one, nor now if it wants quiet. Nothing else leaves until ``done`` is told.
        """
        session = self.session
        if self._closed or self.sweeping or self._must_wait(None):
            return False

        def answered(swept: Swept) -> None:
            self.sweeping = False
            done(swept)
            self._wake_in(0)

        if not isinstance(session, SweepingSession) or not session.cancel_all(answered):
            return False
        self.sweeping = True
        self._spend()
        return True

    def _spend(self) -> None:
        now = self._clock.monotonic_ns()
        self.limit.spend(now)
        self.way.spend(now)

    def _change(self, order: Order, replacement: Order | None) -> None:
        if self._closed and replacement is not None:
            self._denied(replacement, "NOT_CONNECTED", "the account's broker session was closed")
        elif not self._closed and self._must_wait(replacement):
            before = self._changes.get(order.cl_ord_id)
            self._changes[order.cl_ord_id] = (order, replacement)
            if before is not None and before[1] is not None:
                self._denied(before[1], "NOT_SENT", "another change came before it could leave")
            self._wake_in(0)
        else:
            self._send_change(order, replacement)

    def _must_wait(self, replacement: Order | None) -> bool:
        """Say whether a cancel or a replacement must wait; a replaced entry waits with the entries."""
        held = replacement is not None and (
            self.sweeping or (bool(self.waits) and not replacement.reducing)
        )
        return held or self.paused_until_ns > self._clock.monotonic_ns()

    def _send_changes(self) -> None:
        changes = list(self._changes.items())
        for name, (order, replacement) in changes:
            if self._must_wait(replacement) or self._changes.pop(name, None) is None:
                continue
            refused = self._gate(replacement) if replacement is not None else None
            if replacement is not None and (refused is not None or order.status.terminal):
                refused = refused or ("NOT_SENT", f"{order.cl_ord_id} is {order.status.value}")
                self._denied(replacement, *refused)
            elif not order.status.terminal:
                self._send_change(order, replacement)

    def _send_change(self, order: Order, replacement: Order | None) -> None:
        if replacement is not None and not self._conserved(replacement):
            return
        self._spend()
        if replacement is None:
            self.session.cancel(order)
        else:
            self.session.replace(order, replacement)

    # ---- waking ------------------------------------------------------------------------------------------------

    def _wake_for(self, order: Order, now: int, wait_ns: int | None) -> None:
        """Look again after ``wait_ns``, and in any case when the order becomes too old."""
        waits = [] if wait_ns is None else [wait_ns]
        if order.send_before_ns:
            waits.append(order.send_before_ns - now)
        if waits:
            self._wake_in(min(waits))

    def _wake_in(self, delay_ns: int) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if self._changes and delay_ns:
            delay_ns = min(delay_ns, self._quiet_ns())
        self._timer = self._loop.call_later(max(delay_ns, 0) / 1e9 + 0.0005, self._wake)

    def _wake(self) -> None:
        self._timer = None
        if failpoints.ARMED:
            failpoints.hit("K10.after")
        self.pump()
        if self._changes and self._timer is None:
            self._wake_in(self._quiet_ns())

    def _quiet_ns(self) -> int:
        """Return when to look at changes that wait: at the end of the pause, or as often as for a connection."""
        left = self.paused_until_ns - self._clock.monotonic_ns()
        return left if left > 0 else LOOK_AGAIN_NS if self.waits else 1
