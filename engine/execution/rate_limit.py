"""Token buckets: how fast orders may leave."""

from __future__ import annotations


class TokenBucket:
    """``rate`` tokens a second, at most ``burst`` saved up. Times are monotonic nanoseconds."""

    __slots__ = ("_at_ns", "_burst", "_per_ns", "tokens")

    def __init__(self, rate: float, burst: float, now_ns: int) -> None:
        self._per_ns = rate / 1e9
        self._burst = max(1.0, burst)
        self.tokens = self._burst
        self._at_ns = now_ns

    def wait_ns(self, now_ns: int) -> int:
        """Return how long until there is a token."""
        self.refill(now_ns)
        return 0 if self.tokens >= 1.0 else int((1.0 - self.tokens) / self._per_ns) + 1

    def refill(self, now_ns: int) -> None:
        """Add what has come in since the last time, never more than the burst."""
        if now_ns > self._at_ns:
            self.tokens = min(self._burst, self.tokens + (now_ns - self._at_ns) * self._per_ns)
            self._at_ns = now_ns


class RateLimit:
    """Several buckets that must all have a token: the account's own, its broker's, the firm's."""

    __slots__ = ("_buckets",)

    def __init__(self, *buckets: TokenBucket) -> None:
        self._buckets = buckets

    def take(self, now_ns: int) -> bool:
        """Take one token of each, or none of any."""
        for bucket in self._buckets:
            bucket.refill(now_ns)
            if bucket.tokens < 1.0:
                return False
        for bucket in self._buckets:
            bucket.tokens -= 1.0
        return True

    def wait_ns(self, now_ns: int) -> int:
        """Return how long until every bucket has a token."""
        return max(bucket.wait_ns(now_ns) for bucket in self._buckets)
