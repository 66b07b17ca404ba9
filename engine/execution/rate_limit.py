"""Token buckets: how fast orders may leave, and what a broker says of its own counting."""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence

ARRIVAL_NS = 250_000_000
"""How much longer one request may be under way than another. A broker counts arrivals by its own clock: requests that
left at least a second and this apart cannot arrive within one second, whatever its clock says."""
PLENTY = 1 << 30


def for_entries(limit: int) -> int:
    """Return how many of ``limit`` entries may take: 30 % are kept for cancels, replaces and exits (C09)."""
    return max(1, limit * 7 // 10)


class TokenBucket:
    """``limit`` tokens, each of which comes back ``seconds`` after it was taken. Times are monotonic nanoseconds.

    So no stretch of ``seconds`` ever sees more than ``limit``, wherever a broker's own window begins. A bucket
    that is refilled steadily lets up to twice the rule through in its first window.

    Entries may take the first 70 %, exits everything; cancels and replaces are counted and never refused.
    """

    __slots__ = ("_span_ns", "_taken", "_told", "_told_until_ns", "entries", "limit")

    def __init__(self, limit: float, seconds: float) -> None:
        self.limit = max(1, int(limit))
        self.entries = for_entries(self.limit)
        self._span_ns = int(seconds * 1e9)
        self._taken: deque[int] = deque(maxlen=self.limit)  # more would change no answer
        self._told = 0  # tokens the broker says are gone beyond those we took
        self._told_until_ns = 0

    def left(self, now_ns: int, entry: bool = False) -> int:
        """Return how many tokens an exit, or an entry, finds now."""
        taken = self._taken
        if taken:
            horizon = now_ns - self._span_ns
            while taken and taken[0] <= horizon:
                taken.popleft()
        if self._told and now_ns >= self._told_until_ns:
            self._told = 0
        left = (self.entries if entry else self.limit) - len(taken) - self._told
        return left if left > 0 else 0

    def spend(self, now_ns: int) -> None:
        """Take a token, whether or not there is one."""
        self._taken.append(now_ns)

    def wait_ns(self, now_ns: int, entry: bool = False) -> int:
        """Return how long until there is a token."""
        if self.left(now_ns, entry):
            return 0
        if self._told:
            return self.after(1, now_ns, entry)
        return self._taken[-(self.entries if entry else self.limit)] + self._span_ns - now_ns

    def after(self, count: int, now_ns: int, entry: bool = False) -> int:
        """Return how long until the last of ``count`` would have its token, each taken as soon as it is there.

        Changes nothing, so that it may be asked about a moment to come.
        """
        if self._told and now_ns < self._told_until_ns:
            return self._step_by_step(count, now_ns, entry)[-1]
        return self._place(count, self._still_taken(now_ns), now_ns, entry)

    def schedule(self, count: int, now_ns: int, entry: bool = False) -> list[int]:
        """Return ``after`` of 1, 2, ... ``count``, for little more than the last of them costs."""
        if self._told and now_ns < self._told_until_ns:
            return self._step_by_step(count, now_ns, entry)
        taken = self._still_taken(now_ns)
        return [self._place(number, taken, now_ns, entry) for number in range(1, count + 1)]

    def _still_taken(self, now_ns: int) -> list[int]:
        horizon = now_ns - self._span_ns
        return [at for at in self._taken if at > horizon]

    def _place(self, count: int, taken: Sequence[int], now_ns: int, entry: bool) -> int:
        quota, span = (self.entries if entry else self.limit), self._span_ns
        rounds, place = divmod(count - 1, quota)
        before = place + 1 + len(taken) - quota  # so many must have come back first
        first = taken[before - 1] + span - now_ns if before > 0 else 0
        return first + rounds * span

    def _step_by_step(self, count: int, now_ns: int, entry: bool) -> list[int]:
        """Return the same while the broker's word holds, which is as a rule longer or shorter than our window."""
        quota, taken = (self.entries if entry else self.limit), deque(self._still_taken(now_ns))
        at, waits = now_ns, []
        for _ in range(count):
            while True:
                while taken and taken[0] <= at - self._span_ns:
                    taken.popleft()
                told = self._told if at < self._told_until_ns else 0
                if len(taken) + told < quota:
                    break
                changes = [taken[0] + self._span_ns] if taken else []
                at = min([*changes, self._told_until_ns] if told else changes)
            taken.append(at)
            waits.append(at - now_ns)
        return waits

    def lower(self, left: int, now_ns: int, until_ns: int) -> None:
        """Believe the broker that only ``left`` tokens are left until ``until_ns``; it never makes more of them."""
        told_before = self._told if now_ns < self._told_until_ns else 0
        self._told = 0
        told = self.left(now_ns) - left
        if told >= told_before:
            self._told, self._told_until_ns = max(0, told), until_ns
        else:
            self._told = told_before

    def doubt(self, now_ns: int) -> None:
        """Believe in half of what is left, for one round: the broker has refused what we thought it would take."""
        self.lower(self.left(now_ns) // 2, now_ns, now_ns + self._span_ns)


def calendar_second(limit: int) -> TokenBucket:
    """Return a bucket for "at most ``limit`` in one calendar second of the broker's clock".

    That clock's offset is of no use at the edge of a second, where a late packet falls into the next one: kept is
    the stricter rule, not more than ``limit`` in any stretch that could arrive within one second.
    """
    return TokenBucket(limit, 1.0 + ARRIVAL_NS / 1e9)


class RateLimit:
    """Buckets that must all have a token, and the quiet a broker has asked for."""

    __slots__ = ("buckets", "paused_until_ns")

    def __init__(self, *buckets: TokenBucket) -> None:
        self.buckets = buckets
        self.paused_until_ns = 0

    def left(self, now_ns: int, entry: bool = False) -> int:
        """Return how many orders could leave at once."""
        if now_ns < self.paused_until_ns:
            return 0
        least = PLENTY
        for bucket in self.buckets:
            left = bucket.left(now_ns, entry)
            if left < least:
                least = left
        return least

    @property
    def entries(self) -> int:
        """Return how many entries could leave at once, were nothing taken yet."""
        return min((bucket.entries for bucket in self.buckets), default=PLENTY)

    def spend(self, now_ns: int) -> None:
        """Count one request."""
        for bucket in self.buckets:
            bucket.spend(now_ns)

    def take(self, now_ns: int, entry: bool = False) -> bool:
        """Take one token of each bucket, or none of any."""
        if not self.left(now_ns, entry):
            return False
        self.spend(now_ns)
        return True

    def wait_ns(self, now_ns: int, entry: bool = False) -> int:
        """Return how long until every bucket has a token."""
        if now_ns < self.paused_until_ns:
            return self.after(1, now_ns, entry)
        return max((bucket.wait_ns(now_ns, entry) for bucket in self.buckets), default=0)

    def after(self, count: int, now_ns: int, entry: bool = False) -> int:
        """Return how long until the last of ``count`` could have left."""
        quiet = max(0, self.paused_until_ns - now_ns)
        start = now_ns + quiet
        return quiet + max((b.after(count, start, entry) for b in self.buckets), default=0)

    def schedule(self, count: int, now_ns: int, entry: bool = False) -> list[int]:
        """Return ``after`` of 1, 2, ... ``count``."""
        quiet = max(0, self.paused_until_ns - now_ns)
        waits = [quiet] * count
        for bucket in self.buckets:
            each = bucket.schedule(count, now_ns + quiet, entry)
            waits = [max(wait, quiet + own) for wait, own in zip(waits, each, strict=True)]
        return waits

    def note_usage(self, used: int, limit: int, resets_in_s: float, now_ns: int) -> None:
        """Take the broker's own count: lowers our tokens to what it says is left, never raises them."""
        left, until = max(0, limit - used), now_ns + int(resets_in_s * 1e9)
        for bucket in self.buckets:
            bucket.lower(left, now_ns, until)
        if not left and not self.buckets:
            self.paused_until_ns = max(self.paused_until_ns, until)

    def pause(self, seconds: float, now_ns: int) -> None:
        """Let nothing leave for a while: the broker has said 429 or 418."""
        for bucket in self.buckets:
            bucket.doubt(now_ns)
        self.paused_until_ns = max(self.paused_until_ns, now_ns + int(seconds * 1e9))
