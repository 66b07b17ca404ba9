"""The same content under another id (control C12): an entry asked for again within the window is refused, softly.

What counts is what the orders would be: source, strategy, symbol, action, type, prices, quantity and audience. Stamps,
the producer's reference price and ``meta`` differ from one copy to the next and do not.
"""

from __future__ import annotations

from collections import OrderedDict
from typing import Any

from engine.model.signal import Signal

_SAME = (
    "source", "strategy", "symbol", "action", "order_type", "time_in_force", "limit_price", "stop_price", "stop_loss",
    "take_profit", "trail_percent", "quantity", "audience",
)  # fmt: skip


class Repeats:
    """Entries of the last while by content; ``window_s`` 0: nothing is compared. Stamps are monotonic nanoseconds."""

    def __init__(self, window_s: float) -> None:
        self._window_ns = int(window_s * 1e9)
        self._seen: OrderedDict[tuple[Any, ...], tuple[int, str]] = OrderedDict()

    @property
    def window_s(self) -> float:
        """Return how long a content is remembered."""
        return self._window_ns / 1e9

    def refusal(self, signal: Signal, now_ns: int) -> tuple[str, str] | None:
        """Refuse an entry whose content came within the window under another id."""
        if not self._window_ns or signal.side is None:
            return None
        found = self._seen.get(_content(signal))
        if found is None or found[1] == signal.key or now_ns - found[0] > self._window_ns:
            return None
        ago = (now_ns - found[0]) / 1e9
        return (
            "REPEATED",
            f"the same as {found[1]} {ago:.1f} s ago, allowed after {self.window_s:g} s",
        )

    def taken(self, signal: Signal, now_ns: int) -> None:
        """Remember an entry that leads to orders, or waits for approval."""
        if not self._window_ns or signal.side is None:
            return
        content = _content(signal)
        self._seen[content] = (now_ns, signal.key)
        self._seen.move_to_end(content)
        while self._seen:
            oldest = next(iter(self._seen.values()))
            if now_ns - oldest[0] <= self._window_ns:
                break
            self._seen.popitem(last=False)

    def taken_back(self, signal: Signal) -> None:
        """Forget an entry that did not become durable."""
        content = _content(signal)
        found = self._seen.get(content)
        if found is not None and found[1] == signal.key:
            del self._seen[content]


def _content(signal: Signal) -> tuple[Any, ...]:
    return tuple(getattr(signal, name) for name in _SAME)
