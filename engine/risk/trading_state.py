"""Who may trade: the states of every scope, the strictest winning."""

from __future__ import annotations

from dataclasses import dataclass

from engine.model.controls import BY_CODE
from engine.model.enums import TradingState

FIRM = "all"
_STRICTNESS = {
    TradingState.ACTIVE: 0,
    TradingState.REDUCING: 1,
    TradingState.DISARMED: 2,
    TradingState.HALTED: 3,
}
_CODES = {
    TradingState.REDUCING: "PAUSED",
    TradingState.DISARMED: "DISARMED",
    TradingState.HALTED: "HALTED",
}


@dataclass(frozen=True, slots=True)
class Latch:
    """One scope's state, why, since when and by whom."""

    scope: str
    state: TradingState
    reason: str
    at: str
    by: str

    @property
    def code(self) -> str:
        """Return the code of what it refuses: a control's own where one has tripped (its reason begins with that)."""
        word, colon, _ = self.reason.partition(":")
        if colon and word in BY_CODE and self.state is TradingState.REDUCING:
            return word
        return _CODES[self.state]


class TradingStates:
    """The latches in force; false when there are none."""

    def __init__(self) -> None:
        self._latches: dict[str, Latch] = {}

    def __bool__(self) -> bool:
        return bool(self._latches)

    def set(self, latch: Latch) -> None:
        """Put a latch in force (``ACTIVE`` lifts it)."""
        if latch.state is TradingState.ACTIVE:
            self._latches.pop(latch.scope, None)
        else:
            self._latches[latch.scope] = latch

    def get(self, scope: str) -> Latch | None:
        """Return the latch of one scope."""
        return self._latches.get(scope)

    def latches(self) -> list[Latch]:
        """Return every latch in force."""
        return list(self._latches.values())

    @property
    def firm(self) -> TradingState:
        """Return the firm's own state."""
        latch = self._latches.get(FIRM)
        return latch.state if latch else TradingState.ACTIVE

    def strictest(self, *scopes: str) -> Latch | None:
        """Return the strictest latch of the firm and ``scopes``; ``None`` when all are active."""
        if not self._latches:
            return None
        found: Latch | None = None
        for scope in (FIRM, *scopes):
            latch = self._latches.get(scope)
            if latch and (found is None or _STRICTNESS[latch.state] > _STRICTNESS[found.state]):
                found = latch
        return found


def refusal(latch: Latch) -> tuple[str, str]:
    """Return the code and sentence with which ``latch`` refuses an entry."""
    code = latch.code
    sentence = f"{latch.scope} is {latch.state.value} since {latch.at}"
    return code, f"{sentence}: {latch.reason}" if latch.reason else sentence


def may_send(latch: Latch | None, *, reducing: bool, manual: bool) -> bool:
    """Say whether an order may leave under ``latch``.

    Exits pass unless halted; under a halt only an operator's own exits do (flattening after a kill). While
    disarmed nothing automatic leaves.
    """
    if latch is None:
        return True
    if not reducing:
        return False
    return manual or latch.state is TradingState.REDUCING
