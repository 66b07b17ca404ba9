"""When a broker may be read of our own accord: not while orders leave or their answers are awaited, but not never."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from engine.execution.dispatcher import Dispatcher
from engine.model.account_state import AccountState
from engine.model.enums import OrderStatus

ALONE_S: Final = 0.3
"""Reading goes on this long after orders were last sent: by then their replies are in."""
HELD_NS: Final = 1_000_000_000
"""Where signals come without a pause, something is read this often all the same, between two of them if it can be."""
ANSWERS_S: Final = 1.0
"""Answers that do not come within this are waited for no longer."""
MOST_NS: Final = 2 * HELD_NS
"""No stretch without any reading is longer, whatever is awaited."""


class StandingBack:
    """One reader's patience: a reading costs as much CPU as a dozen orders."""

    def __init__(self, dispatcher: Dispatcher, states: Mapping[str, AccountState]) -> None:
        self._dispatcher = dispatcher
        self._states = states
        self._read_ns = 0

    def holds(self, now_ns: int) -> bool:
        """Say whether reading has to wait; else count it as begun now."""
        idle_s, since_ns = self._dispatcher.idle_s(), now_ns - self._read_ns
        if idle_s < ALONE_S and since_ns < HELD_NS:
            return True
        if idle_s < ANSWERS_S and since_ns < MOST_NS and self._awaited():
            return True
        self._read_ns = now_ns
        return False

    def _awaited(self) -> bool:
        return any(
            order.status is OrderStatus.PENDING_NEW
            for state in self._states.values()
            for order in state.working.values()
        )
