"""The one place that reads clocks: monotonic nanoseconds for intervals, aware UTC for stamps."""

from __future__ import annotations

import time
from datetime import UTC, datetime
from functools import lru_cache
from typing import Protocol


class Clock(Protocol):
    """What the engine needs of time; a test or a simulation brings its own."""

    def now(self) -> datetime:
        """Return the wall clock as aware UTC."""
        ...

    def monotonic_ns(self) -> int:
        """Return nanoseconds on a clock that never steps."""
        ...


class SystemClock:
    """The machine's clocks."""

    __slots__ = ()

    def now(self) -> datetime:
        """Return the wall clock as aware UTC."""
        return datetime.now(UTC)

    monotonic_ns = staticmethod(time.monotonic_ns)


@lru_cache(maxsize=256)  # all orders of a signal share their first stamp
def rfc3339(moment: datetime) -> str:
    """Write an aware stamp as RFC 3339 in UTC with microseconds and ``Z``."""
    if moment.tzinfo is not UTC:
        moment = moment.astimezone(UTC)
    return moment.isoformat("T", "microseconds")[:26] + "Z"  # without its +00:00
