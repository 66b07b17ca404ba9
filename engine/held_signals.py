"""Signals that wait for an operator: each until it is decided, or until its time is over."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from engine.clock import Clock
from engine.model.enums import SignalState
from engine.signal_record import SignalRecord


class HeldSignals:
    """The countdowns. ``over`` is called with a record whose time ran out, after it was changed."""

    def __init__(
        self, clock: Clock, timeout_s: float, over: Callable[[SignalRecord], None]
    ) -> None:
        self._clock = clock
        self._timeout_s = timeout_s
        self._over = over
        self._timers: dict[str, asyncio.TimerHandle] = {}

    def waiting(self) -> list[str]:
        """Return the signals that wait."""
        return list(self._timers)

    def hold(self, record: SignalRecord) -> None:
        """Wait for an operator, until the hold expires."""
        assert record.hold_expires_at is not None
        left = (record.hold_expires_at - self._clock.now()).total_seconds()
        loop = asyncio.get_running_loop()
        if (before := self._timers.get(record.key)) is not None:
            before.cancel()  # held again: the countdown begins anew
        self._timers[record.key] = loop.call_later(max(left, 0.0), self._expire, record)

    def release(self, record: SignalRecord) -> None:
        """Stop the countdown once nothing is held any more."""
        if not record.held and (timer := self._timers.pop(record.key, None)) is not None:
            timer.cancel()
            record.hold_expires_at = None

    def stop(self) -> None:
        """End every countdown."""
        for timer in self._timers.values():
            timer.cancel()
        self._timers.clear()

    def _expire(self, record: SignalRecord) -> None:
        self._timers.pop(record.key, None)
        reason = ("APPROVAL_TIMEOUT", f"nobody approved it within {self._timeout_s:g} s")
        record.skipped.update(dict.fromkeys(record.held, reason))
        record.held.clear()
        record.hold_expires_at = None
        if record.state is SignalState.HELD:
            record.state = SignalState.EXPIRED
        self._over(record)
