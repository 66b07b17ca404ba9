"""Token buckets: how fast orders may leave."""

from __future__ import annotations


class TokenBucket:
    """``rate`` tokens a second, at most ``burst`` saved up. Times are monotonic nanoseconds."""

    __slots__ = ("_at_ns", "_burst", "_per_ns", "_tokens")

    def __init__(self, rate: float, burst: float, now_ns: int) -> None:
        self._per_ns = rate / 1e9
        self._burst = max(1.0, burst)
        self._tokens = self._burst
        self._at_ns = now_ns

    def has_one(self, now_ns: int) -> bool:
        """Say whether a token is there."""
        if now_ns > self._at_ns:
            self._tokens = min(self._burst, self._tokens + (now_ns - self._at_ns) * self._per_ns)
            self._at_ns = now_ns
        return self._tokens >= 1.0

    def spend(self) -> None:
        """Use a token that ``has_one`` has found."""
        self._tokens -= 1.0

    def wait_ns(self, now_ns: int) -> int:
        """Return how long until there is a token."""
        return 0 if self.has_one(now_ns) else int((1.0 - self._tokens) / self._per_ns) + 1


class RateLimit:
    """Several buckets that must all have a token: the account's own, its broker's, the firm's."""

    __slots__ = ("_buckets",)

    def __init__(self, *buckets: TokenBucket) -> None:
        self._buckets = buckets

    def take(self, now_ns: int) -> bool:
        """Take one token of each, or none of any."""
        for bucket in self._buckets:
            if not bucket.has_one(now_ns):
                return False
        for bucket in self._buckets:
            bucket.spend()
        return True

    def wait_ns(self, now_ns: int) -> int:
        """Return how long until every bucket has a token."""
        return max(bucket.wait_ns(now_ns) for bucket in self._buckets)
