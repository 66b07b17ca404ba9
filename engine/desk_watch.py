"""The dead-man's switch: what the engine does when no desk has been heard of for too long (C19)."""

from __future__ import annotations

import asyncio
import logging
from typing import TYPE_CHECKING, Any, Final

from engine.errors import CommandRefused
from engine.model import commands as c
from engine.model.enums import TradingState
from engine.risk.trading_state import FIRM

if TYPE_CHECKING:
    from engine.trading_engine import TradingEngine

log = logging.getLogger(__name__)

LOOK_EVERY_S: Final = 0.25
BY: Final = "dead-man's switch"
_COMMANDS: Final = {"pause": {"command": "pause", "scope": FIRM}, "disarm": {"command": "disarm"}}
_COMMANDS["halt"] = {"command": "kill", "scope": FIRM}


class DeskWatch:
    """Hears desks (``Presence``) and does once what ``safety.desk_lost`` says when all have fallen silent.

    Only after one has been heard since the start: an engine without a desk is none that lost it. A desk that comes
    back resumes nothing: a person does. Time counts while this loop itself moves, so neither a machine that slept nor
    a loop that was blocked makes a desk lost.
    """

    def __init__(self, engine: TradingEngine) -> None:
        self._engine = engine
        self._after_s = float(engine.config.safety.desk_lost_after_s)
        self._what = engine.config.safety.desk_lost
        self._silent_s: float | None = None  # None: none heard since the start, or lost and told
        self._lost = False
        self._task: asyncio.Task[None] | None = None

    async def presence(self, command: c.Presence) -> dict[str, Any]:
        """Hear a desk."""
        del command
        if self._lost:
            self._lost = False
            self._engine.alert("info", "DESK_LOST", "", "a desk is back; nothing resumes by itself")
        self._silent_s = 0.0
        return {"result": "heard", "desk_lost": self._what, "after_s": self._after_s}

    async def start(self) -> None:
        """Begin to listen."""
        if self._what != "ignore":
            self._task = asyncio.get_running_loop().create_task(self._run(), name="desk-watch")

    async def stop(self) -> None:
        """End."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)
            self._task = None

    async def _run(self) -> None:
        clock = self._engine.clock
        last = clock.monotonic_ns()
        while True:
            await asyncio.sleep(LOOK_EVERY_S)
            now = clock.monotonic_ns()
            passed, last = min((now - last) / 1e9, 2 * LOOK_EVERY_S), now
            if self._silent_s is None:
                continue
            self._silent_s += passed
            if self._silent_s > self._after_s:
                self._silent_s = None
                self._lost = True
                await self._act()

    async def _act(self) -> None:
        text = f"no desk for {self._after_s:g} s (safety.desk_lost = {self._what})"
        self._engine.alert("critical", "DESK_LOST", "", text)
        document = {
            **_COMMANDS[self._what],
            "id": f"desk-lost-{self._engine.clock.monotonic_ns():x}",
            "reason": f"DESK_LOST: {text}",
        }
        firm = self._engine.states.firm
        if firm in {TradingState.HALTED, TradingState.DISARMED} and self._what != "halt":
            return  # stricter already
        try:
            await self._engine.handle_command(document)
        except CommandRefused as error:
            log.warning("desk lost: %s", error.message)
            self._engine.alert("critical", "DESK_LOST", "", f"{self._what} failed: {error.message}")
