"""The bars of one chart as numbers: read once, then moved by the live bar of the feed. No drawing here.

Imports numpy: imported when the first chart is made.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import numpy as np

from engine.client import Row
from gui import formatting as fmt
from gui.levels import places_of

KEPT = 5_000
FIGURES = ("open", "high", "low", "close")


class BarSeries:
    """``bars``: a row each of start (seconds since 1970), open, high, low and close; ``places``: decimals of prices."""

    def __init__(self, interval_s: int) -> None:
        self.interval_s = interval_s
        self.bars: Any = np.empty((0, 5))
        self.places = 2

    def __len__(self) -> int:
        return len(self.bars)

    def put(self, rows: Iterable[Row]) -> None:
        """Show what the engine answered, oldest first."""
        told = list(rows)
        figures = [
            [fmt.epoch(row["at"]), *(fmt.number(row[name]) for name in FIGURES)] for row in told
        ]
        self.bars = np.array(figures, float).reshape(-1, 5)
        self.places = places_of(row[name] for row in told[-50:] for name in ("open", "close"))

    def take(self, row: Row) -> None:
        """Let the live bar move, or begin the next one; a live bar may be narrower than those shown."""
        at, opened = fmt.epoch(row.get("at")), fmt.number(row.get("open"))
        high, low, close = (fmt.number(row.get(name)) for name in FIGURES[1:])
        if at is None or opened is None or high is None or low is None or close is None:
            return
        start, bars = at // self.interval_s * self.interval_s, self.bars
        if not len(bars) or start > bars[-1, 0]:
            self.bars = np.vstack([bars[-KEPT + 1 :], [start, opened, high, low, close]])
        elif start == bars[-1, 0]:
            bars[-1, 2:] = max(bars[-1, 2], high), min(bars[-1, 3], low), close
        self.places = max(self.places, places_of((row.get("close"),)))

    def at(self, moment: float) -> int | None:
        """Return which bar a moment is in, or the last before it; ``None`` before the first."""
        if not len(self.bars) or moment < self.bars[0, 0]:
            return None
        return int(np.searchsorted(self.bars[:, 0], moment, side="right")) - 1

    def price_at(self, moment: float) -> float | None:
        """Return the close of the bar at a moment."""
        found = self.at(moment)
        return None if found is None else float(self.bars[found, 4])

    @property
    def end(self) -> float:
        """Return where the last bar ends."""
        return float(self.bars[-1, 0]) + self.interval_s

    def text(self, price: float) -> str:
        """Write a price for people."""
        return fmt.money(f"{price:.{self.places}f}", places=self.places)
