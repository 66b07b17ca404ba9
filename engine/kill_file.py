"""The kill switch's second road: a file in the home, obeyed at once by a living engine and first by a starting one."""

from __future__ import annotations

import asyncio
import json
import logging
from pathlib import Path
from typing import Any

from engine.errors import CommandRefused
from engine.model import commands as c
from engine.model.enums import TradingState
from engine.trading_engine import TradingEngine

log = logging.getLogger(__name__)

LOOK_EVERY_S = 0.1


class KillFile:
    """Watches ``HOME/kill.json``: a list of kill commands left by ``main.py kill``."""

    def __init__(self, engine: TradingEngine, path: Path) -> None:
        self._engine = engine
        self._path = path
        self._task: asyncio.Task[None] | None = None

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
                "id": f"kill-file-{self._engine.clock.monotonic_ns():x}",
                "command": "kill",
                "scope": "all",
                "reason": f"{self._path.name} cannot be read",
            }
        ]

    async def latch_first(self) -> None:
        """Put the latches in force before anything connects; the rest follows once the engine runs."""
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
        """Begin to watch."""
        self._task = asyncio.get_running_loop().create_task(self._watch(), name="kill-file")

    async def stop(self) -> None:
        """End."""
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
                    self._path.unlink(missing_ok=True)
            await asyncio.sleep(LOOK_EVERY_S)

    async def _obey(self, documents: list[dict[str, Any]]) -> None:
        for document in documents:
            try:
                await self._engine.handle_command({**document, "command": "kill"})
            except Exception as error:  # noqa: BLE001 (whatever goes wrong, this watch goes on)
                log.warning("kill file: %s", error)
                text = f"kill file: {error}"
                await self._engine.latch("all", TradingState.HALTED, text, "kill file")
