"""Control C24: when too many of a broker's answers fail or do not come, entries wait until a read succeeds.

Counted by venue (broker and address), not by account: one signal brings an answer of every account, so a venue that
fails shows at once, while one account rarely has twenty answers in the window; and where less than the share of a
venue's answers fail, its other accounts are none the worse. Not kept over a restart: then every account's first
reconciliation (C01) is the read that proves its broker.
"""

from __future__ import annotations

from collections import deque
from typing import Final

LEAST: Final = 20
FIRST_PROBE_S: Final = 1.0
MOST_PROBE_S: Final = 30.0


class Breaker:
    """One venue's circuit. Times are monotonic nanoseconds."""

    __slots__ = ("_answers", "_failed", "_percent", "_window_ns", "is_open", "probes")

    def __init__(self, percent: int, window_s: float) -> None:
        self._percent = percent
        self._window_ns = int(window_s * 1e9)
        self._answers: deque[tuple[int, bool]] = deque()
        self._failed = 0
        self.is_open = False
        self.probes = 0

    def note(self, failed: bool, now_ns: int) -> str:
        """Count an answer, or that none came; return in a sentence why the circuit opens now, empty if it does not."""
        answers = self._answers
        answers.append((now_ns, failed))
        self._failed += failed
        horizon = now_ns - self._window_ns
        while answers[0][0] <= horizon:
            self._failed -= answers.popleft()[1]
        if self.is_open or not self._percent or not failed or len(answers) < LEAST:
            return ""
        share = self._failed * 100 / len(answers)
        if share < self._percent:
            return ""
        self.is_open = True
        self.probes = 0
        seconds = self._window_ns / 1e9
        return (
            f"{self._failed} of {len(answers)} answers ({share:.0f} %) failed or did not come in {seconds:g} s, "
            f"the limit is {self._percent} %"
        )

    def close(self) -> None:
        """A read succeeded: entries go on, and the count begins anew."""
        self._answers.clear()
        self._failed = self.probes = 0
        self.is_open = False

    def next_probe_s(self) -> float:
        """Return how long to wait before the next read; longer each time."""
        wait = min(FIRST_PROBE_S * float(2**self.probes), MOST_PROBE_S)
        self.probes += 1
        return wait
