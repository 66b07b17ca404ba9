"""What a kill outside the engine is asked for, and its first step: the latch. Light, so as to come before all else."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from time import monotonic_ns
from typing import Final

from engine.clock import rfc3339
from engine.kill_latch import FILE, KillLatch

GIVE_UP_S: Final = 60.0


@dataclass(frozen=True, slots=True)
class Act:
    """What is asked for."""

    scope: str
    reason: str
    by: str
    flatten: bool = False
    drill: bool = False
    """Only connect and list; nothing is latched and nothing sent."""
    give_up_s: float = GIVE_UP_S

    @property
    def closes(self) -> bool:
        """Say whether it closes positions: what a strategy holds of one is not known outside the engine."""
        return self.flatten and not self.scope.startswith("strategy:")


@dataclass(frozen=True, slots=True)
class Pressed:
    """A latch that stands: how long it took to be durable, since when the scope is halted, which press it was."""

    latch_ms: float
    since: str
    press: int
    at_ns: int


def latch(home: Path, act: Act, *, taken: bool = True) -> Pressed:
    """Halt the scope for whatever engine runs or will run here; durable when this returns.

    ``taken``: the caller cancels, the watchdog need not.

    Raises:
        OSError: the latch cannot be written.
    """
    began = monotonic_ns()
    shared = KillLatch(home / FILE)
    try:
        now = rfc3339(datetime.now(UTC))
        shared.halt(act.scope, act.reason, act.by, now, unfinished=True)
        if act.closes:
            shared.flattened(act.scope, now)
        press = shared.press(taken=taken)
        shared.sync()
        record = shared.of(act.scope)
        since = record["at"] if record else now
        return Pressed((monotonic_ns() - began) / 1e6, since, press, began)
    finally:
        shared.close()


def unlatched() -> Pressed:
    """Return what stands for a latch that could not be written."""
    return Pressed(0.0, rfc3339(datetime.now(UTC)), 0, monotonic_ns())
