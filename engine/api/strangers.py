"""How often an address may be wrong: guesses at tokens, secrets and signatures cost little and soon get no answer."""

from __future__ import annotations

import time
from collections import OrderedDict
from collections.abc import Callable
from typing import Final

from engine.api.auth import is_loopback

BURST: Final = 20
PER_SECOND: Final = 1.0
_MOST: Final = 10_000
"""Addresses remembered; beyond it the one wrong longest ago is forgotten."""


class Strangers:
    """A token bucket an address, for what was refused only: whoever is right is never held up by it.

    This machine's own addresses are not counted: behind a proxy everybody has one.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._left: OrderedDict[str, tuple[float, float]] = OrderedDict()  # tries left, as of when

    def wait_s(self, address: str) -> float:
        """Return for how many seconds an address gets no answer, 0 for none."""
        left = self._now_left(address)
        return 0.0 if left >= 1 else (1 - left) / PER_SECOND

    def wrong(self, address: str) -> None:
        """Count a wrong try."""
        if not address or is_loopback(address):
            return
        self._left[address] = self._now_left(address) - 1, self._clock()
        self._left.move_to_end(address)
        if len(self._left) > _MOST:
            self._left.popitem(last=False)

    def _now_left(self, address: str) -> float:
        left, at = self._left.get(address, (float(BURST), 0.0))
        return min(float(BURST), left + (self._clock() - at) * PER_SECOND)
