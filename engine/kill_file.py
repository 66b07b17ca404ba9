"""The kill switch's second road: what was latched outside this process, obeyed at once or first thing at the start.

``HOME/latch`` (engine.kill_latch) is what ``main.py kill`` and the watchdog write; ``HOME/kill.json``, a list of kill
commands, is obeyed, too: earlier versions left it.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
from pathlib import Path
from typing import Any

from engine.errors import CommandRefused
from engine.kill_latch import CARRIED, GENERATION, SEEN, KillLatch, Record
from engine.model import commands as c
from engine.model.enums import TradingState
from engine.orders_by_hand import OrdersByHand
from engine.risk.trading_state import Latch
from engine.trading_engine import TradingEngine

log = logging.getLogger(__name__)

LOOK_EVERY_S = 0.1
MOST_NAMED = 10
LATCH_EVERY_S = 0.02
"""How soon the latch is read where no order leaves; the watchdog waits a little longer before it acts itself."""


class KillFile:
    """Keeps the engine's states and the two files in step; carries out what was pressed outside."""

    def __init__(self, engine: TradingEngine, path: Path) -> None:
        self._engine = engine
        self._path = path
        self._task: asyncio.Task[None] | None = None
        self._shared: KillLatch = engine.shared
        self._running = False

    def _read(self) -> list[dict[str, Any]] | None:
        """Return the commands, or ``None`` without a file. An unreadable one counts as a kill of everything."""
        try:
            content = json.loads(self._path.read_text("utf-8"))
        except FileNotFoundError:
            return None
        except (OSError, ValueError):
            content = None
        if isinstance(content, list) and all(isinstance(item, dict) for item in content):
            return content
        return [
            {
                "id": f"kill-file-{self._written():x}",  # the same command for as long as it lies there
                "command": "kill",
                "scope": "all",
                "reason": f"{self._path.name} cannot be read",
            }
        ]

    def _written(self) -> int:
        try:
            return self._path.stat().st_mtime_ns
        except OSError:
            return self._engine.clock.monotonic_ns()

    # ---- the latch ---------------------------------------------------------------------------------------------

    def take(self) -> None:
        """Put in force what another process has latched; nothing that must not leaves after this returns.

        Called by the gate, in the middle of a fan-out: what is dear follows in a task.
        """
        shared, engine = self._shared, self._engine
        shared.seen = press = shared.words[GENERATION]
        pressed = [r for r in shared.halts() if r["open"] or not self._halted(r)]
        for record in pressed:
            engine.states.set(_latch(record))
        shared.words[SEEN] = press
        if self._running:
            engine.spawn(self._carry_out(pressed, press), "kill-latch")

    def _halted(self, record: Record) -> bool:
        latch = self._engine.states.get(record["scope"])
        return latch is not None and latch.state is TradingState.HALTED

    async def _carry_out(self, records: list[Record], press: int) -> None:
        """Write the rows of halts, and cancel where that is not through (the other process may be at it, too)."""
        for record in records:
            await self._go_on(record)
            await self._halt(record)
        self._shared.words[CARRIED] = press

    async def _resume(self, records: list[Record], press: int) -> None:
        """Cancel what an earlier process has not brought to its end; its halts have their rows, and were told."""
        for record in records:
            await self._go_on(record)
            known = self._engine.states.get(record["scope"])  # armed again: nothing
            if known is not None and not known.reason.startswith(record["reason"]):
                await self._halt(record)  # another one had come in its place
        self._shared.words[CARRIED] = press

    async def _halt(self, record: Record) -> None:
        await self._engine.latch(
            record["scope"], TradingState.HALTED, record["reason"], record["by"]
        )

    async def _go_on(self, record: Record) -> None:
        if record["open"]:
            await self._kill(record["scope"], record["reason"] or "kill switch")

    async def _kill(self, scope: str, reason: str) -> None:
        number = f"{self._engine.clock.monotonic_ns():x}"
        document = {"id": f"latch-{number}", "command": "kill", "scope": scope, "reason": reason}
        try:
            await self._engine.handle_command(document)
        except CommandRefused as error:
            self._engine.alert("critical", "KILL_INCOMPLETE", "", f"{scope}: {error.message}")

    # ---- life --------------------------------------------------------------------------------------------------

    async def latch_first(self) -> None:
        """Put the latches in force before anything connects; the rest follows once the engine runs."""
        self._shared.seen = self._shared.words[GENERATION]
        for record in self._shared.halts():
            if not self._halted(record):  # the journal may be an older one
                await self._halt(record)
        for latch in self._engine.states.latches():
            if latch.state is TradingState.HALTED and self._shared.of(latch.scope) is None:
                self._shared.halt(latch.scope, latch.reason, latch.by, latch.at)
        for document in self._read() or ():
            try:
                command = c.parse_command(document)
            except CommandRefused:
                command = c.Kill(
                    id="kill-file", command="kill", reason="a command in the kill file is malformed"
                )
            if isinstance(command, c.Kill):
                reason = command.reason or "kill switch"
                await self._engine.latch(command.scope, TradingState.HALTED, reason, "kill file")

    async def start(self) -> None:
        """Go on with what an earlier engine, or another process, has not brought to its end; begin to watch."""
        self._running = True
        self._tell_unclosed()
        unfinished = [record for record in self._shared.halts() if record["open"]]
        self._shared.words[SEEN] = self._shared.seen
        self._engine.spawn(self._resume(unfinished, self._shared.seen), "kill-latch")
        self._task = self._engine.task(self._watch(), "kill-file")

    def _tell_unclosed(self) -> None:
        """Alert of positions that were to be closed when the engine ended: to do it now is a person's act again."""
        scopes = [record["scope"] for record in self._shared.halts() if record.get("exits")]
        if not scopes:
            return
        by_hand = OrdersByHand(self._engine)
        held = {f"{state.id} {symbol}" for scope in scopes for state, symbol in by_hand.held(scope)}
        names = ", ".join(sorted(held)[:MOST_NAMED]) or "nothing, as far as is known"
        more = f" and {len(held) - MOST_NAMED} more" if len(held) > MOST_NAMED else ""
        text = f"{', '.join(scopes)}: the engine ended before all positions were closed (kill with flatten)"
        # Critical even so: a fill that came as the engine ended is known once the broker has been asked.
        self._engine.alert("critical", "KILL_INCOMPLETE", "", f"{text}; open: {names}{more}")

    async def stop(self) -> None:
        """End."""
        self._running = False
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)
            self._task = None

    async def _watch(self) -> None:
        while True:
            documents = self._read()
            if documents is not None:
                await self._obey(documents)
                if (
                    self._read() == documents
                ):  # none was added meanwhile; a command is carried out once by its id
                    with contextlib.suppress(OSError):  # held open by its writer: next time
                        self._path.unlink(missing_ok=True)
            for _ in range(round(LOOK_EVERY_S / LATCH_EVERY_S)):
                if self._shared.words[GENERATION] != self._shared.seen:
                    self.take()
                await asyncio.sleep(LATCH_EVERY_S)

    async def _obey(self, documents: list[dict[str, Any]]) -> None:
        for document in documents:
            try:
                await self._engine.handle_command({**document, "command": "kill"})
            except Exception as error:  # noqa: BLE001 (whatever goes wrong, this watch goes on)
                log.warning("kill file: %s", error)
                text = f"kill file: {error}"
                await self._engine.latch("all", TradingState.HALTED, text, "kill file")


def _latch(record: Record) -> Latch:
    return Latch(record["scope"], TradingState.HALTED, record["reason"], record["at"], record["by"])
