"""Latency histograms: a count per bucket, 3 % wide, whole microseconds, no allocation to record."""

from __future__ import annotations

from array import array
from bisect import bisect_left
from collections import defaultdict
from collections.abc import Iterable, Sequence
from itertools import accumulate

_SUB_BITS = 5  # 32 buckets per power of two: at most 1/32 = 3.1 % error
_SUB = 1 << _SUB_BITS
_TOP_BITS = 32  # up to 2^32 µs = 71 minutes
BUCKETS = (_TOP_BITS - _SUB_BITS + 1) * _SUB


def bucket_of(value_us: int) -> int:
    """Return the bucket of a value (the scheme of HdrHistogram, http://hdrhistogram.org)."""
    if value_us < _SUB:
        return max(value_us, 0)
    shift = value_us.bit_length() - _SUB_BITS - 1
    return min((shift + 1) * _SUB + (value_us >> shift) - _SUB, BUCKETS - 1)


def upper_bound(bucket: int) -> int:
    """Return the largest value of a bucket, in microseconds."""
    if bucket < _SUB:
        return bucket
    shift = bucket // _SUB - 1
    return ((bucket % _SUB + _SUB + 1) << shift) - 1


class Histogram:
    """Counts per bucket, and the exact maximum.

    ``lasting``: kept for as long as the engine runs: all its memory, 7 KiB, is taken at once and never grows.
    """

    __slots__ = ("count", "counts", "max", "sum")

    def __init__(self, *, lasting: bool = False) -> None:
        self.counts: defaultdict[int, int] | array[int]
        self.counts = array("Q", bytes(8 * BUCKETS)) if lasting else defaultdict(int)
        self.count = 0
        self.max = 0
        self.sum = 0

    def record(self, value_us: int) -> None:
        """Count one value."""
        self.counts[bucket_of(value_us)] += 1
        self.count += 1
        self.sum += value_us
        if value_us > self.max:
            self.max = value_us

    def _filled(self) -> list[tuple[int, int]]:
        """Return the buckets that are not empty, each with its count, in their order."""
        if isinstance(self.counts, array):
            return [(bucket, count) for bucket, count in enumerate(self.counts) if count]
        return sorted(self.counts.items())

    def add(self, other: Histogram) -> None:
        """Add another histogram's counts."""
        for bucket, count in other._filled():
            self.counts[bucket] += count
        self.count += other.count
        self.sum += other.sum
        self.max = max(self.max, other.max)

    def summary(self) -> dict[str, int | None]:
        """Return count, p50, p90, p99, p99.9 and max in microseconds (upper bounds of their buckets)."""
        if not self.count:
            return {"count": 0, "p50": None, "p90": None, "p99": None, "p999": None, "max": None}
        ranks = {"p50": 0.5, "p90": 0.9, "p99": 0.99, "p999": 0.999}
        found = dict(zip(ranks, self._at(ranks.values()), strict=True))
        return {"count": self.count, **found, "max": self.max}

    def _at(self, quantiles: Iterable[float]) -> list[int]:
        if isinstance(self.counts, array):
            buckets: Sequence[int] = range(BUCKETS)
            reached = list(accumulate(self.counts))
        else:
            buckets = sorted(self.counts)
            reached = list(accumulate(self.counts[bucket] for bucket in buckets))
        ranks = (max(1, -int(-quantile * self.count // 1)) for quantile in quantiles)
        return [min(upper_bound(buckets[bisect_left(reached, rank)]), self.max) for rank in ranks]

    def buckets(self) -> list[list[int]]:
        """Return ``[upper bound, count]`` of every bucket that is not empty."""
        return [[upper_bound(bucket), count] for bucket, count in self._filled()]


class StageLatency:
    """One stage: since start, and over the last minute in seconds."""

    __slots__ = ("_now", "_seconds", "last", "total")

    def __init__(self) -> None:
        self.total = Histogram(lasting=True)
        self.last = Histogram()  # the second that has just ended
        self._now = Histogram()
        self._seconds: list[Histogram] = []

    def record(self, value_us: int) -> None:
        """Count one value."""
        self.total.record(value_us)
        self._now.record(value_us)

    def tick(self) -> bool:
        """End a second; say whether anything in the last minute changed by it."""
        self.last = self._now
        self._seconds.append(self._now)
        self._now = Histogram()
        gone = self._seconds.pop(0) if len(self._seconds) > 60 else None
        return bool(self.last.count or (gone is not None and gone.count))

    def minute(self) -> Histogram:
        """Return the last minute."""
        merged = Histogram()
        for second in (*self._seconds, self._now):
            if second.count:
                merged.add(second)
        return merged
