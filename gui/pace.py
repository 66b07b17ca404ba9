"""How often a chart may be drawn: as often as it is cheap, and seldom while the desk is busy."""

from __future__ import annotations

from collections.abc import Callable

FASTEST_S = 0.05  # 20 a second
SLOWEST_S = 0.5  # 2 a second
SHARE = 0.06  # of the time, that one chart may take
BUSY_MS = 8.0  # work per frame (p99) at which half of a frame is gone


class Pace:
    """Says when a chart is due. ``cost_ms`` tells what one drawing costs, ``work_ms`` what the desk's frames cost."""

    def __init__(
        self, cost_ms: Callable[[], float], work_ms: Callable[[], float | None] = lambda: None
    ) -> None:
        self._cost_ms = cost_ms
        self._work_ms = work_ms
        self._drawn_at = float("-inf")

    @property
    def interval_s(self) -> float:
        """Return the seconds between two drawings now."""
        wanted = max(FASTEST_S, self._cost_ms() / 1e3 / SHARE)
        if (self._work_ms() or 0.0) > BUSY_MS:
            wanted *= 4  # tables and input first
        return min(wanted, SLOWEST_S)

    def left_s(self, now: float) -> float:
        """Return how long to wait until the next drawing; nothing when it is due."""
        return max(0.0, self._drawn_at + self.interval_s - now)

    def note(self, now: float) -> None:
        """Take the news that it was drawn."""
        self._drawn_at = now
