"""The command ``report``: a day's report, made by a process of its own so that no order waits for it."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from engine.child import own_command
from engine.days.recorded import bounds, parse_day
from engine.errors import CommandRefused, ConfigError
from engine.model.commands import Report

if TYPE_CHECKING:
    from engine.trading_engine import TradingEngine

PATIENCE_S: Final = 60.0
_LARGEST: Final = 64 << 20  # bytes of a report that are still handed over
_CALM: Final[int] = getattr(subprocess, "BELOW_NORMAL_PRIORITY_CLASS", 0)  # Windows


class DayReports:
    """Makes reports of the journal the engine writes, one at a time."""

    def __init__(self, engine: TradingEngine, home: Path) -> None:
        self._engine = engine
        self._home = home
        self._one = asyncio.Lock()

    async def report(self, command: Report) -> dict[str, Any]:
        """Carry out the command.

        Raises:
            CommandRefused: no such day, account or zone (422), or it could not be made (409).
            StoreError: the journal failed.
        """
        try:
            bounds(parse_day(command.day), command.zone)
        except ConfigError as error:
            raise CommandRefused("INVALID_COMMAND", str(error), 422) from None
        if command.account is not None and command.account not in self._engine.fleet.states:
            raise CommandRefused("NOT_FOUND", f"no account {command.account}", 404)
        async with self._one:
            await self._engine.journal.flushed()
            with tempfile.TemporaryDirectory(
                prefix="volley-report-", ignore_cleanup_errors=True
            ) as path:
                made = Path(path) / "report"
                await self._make(command, made)
                text = await asyncio.to_thread(_text, made)
        return {"result": "made", "day": command.day, "account": command.account, "text": text}

    async def _make(self, command: Report, made: Path) -> None:
        options = ["--day", command.day, "--zone", command.zone, "--format", command.form]
        if command.account is not None:
            options += ["--account", command.account]
        argv = own_command("report", "--home", str(self._home), *options, "-o", str(made))
        process = await asyncio.create_subprocess_exec(
            *argv,
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.DEVNULL,
            stderr=asyncio.subprocess.PIPE,
            creationflags=_CALM,
        )
        if sys.platform != "win32":
            os.setpriority(os.PRIO_PROCESS, process.pid, 15)  # orders come first
        try:
            async with asyncio.timeout(PATIENCE_S):
                _, said = await process.communicate()
        except TimeoutError:
            process.kill()
            await process.wait()
            text = f"it was not made within {PATIENCE_S:g} s; volley report makes it in a shell"
            raise CommandRefused("TIMEOUT", text) from None
        except asyncio.CancelledError:
            process.kill()
            await process.wait()
            raise
        if process.returncode:
            text = said.decode("utf-8", "replace").strip()[-300:]
            raise CommandRefused("REPORT_FAILED", text or "the report could not be made")


def _text(path: Path) -> str:
    if path.stat().st_size > _LARGEST:
        raise CommandRefused("TOO_LARGE", "the report is too large to be sent; make it in a shell")
    return path.read_text("utf-8")
