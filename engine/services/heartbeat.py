"""The engine's side of its watchdog: beats for as long as the loop moves, and the process that listens to them."""

from __future__ import annotations

import asyncio
import contextlib
import os
import subprocess
from collections.abc import AsyncIterator
from typing import Final

from engine.child import own_command
from engine.home import Home
from engine.kill_latch import BEATS, RUNNING, STALLED_MS, STATE
from engine.services.watchdog import REPORT
from engine.trading_engine import TradingEngine

BEAT_S: Final = 0.5
STOPPING: Final = 2
NOBODY: Final = 0
_ENDS_WITHIN_S: Final = 3.0
_LONGEST_PATH: Final = 300


class Heartbeat:
    """Beats into ``HOME/latch`` and keeps the watchdog's process, for one running engine."""

    def __init__(self, engine: TradingEngine, home: Home, config_file: str) -> None:
        self._engine = engine
        self._home = home.path
        self._words = engine.shared.words
        self._after_s = float(engine.config.safety.watchdog_s)
        self._options = ["--home", str(home.path)]
        if config_file:
            self._options += ["--config", config_file]
        self._process: subprocess.Popen[bytes] | None = None
        self._task: asyncio.Task[None] | None = None

    async def start(self) -> None:
        """Begin to beat, and start the watchdog unless ``safety.watchdog_s`` is 0."""
        self._words[STALLED_MS] = 0
        self._words[BEATS] += 1
        self._words[STATE] = RUNNING
        self._task = asyncio.get_running_loop().create_task(self._run(), name="heartbeat")

    async def stop(self) -> None:
        """Say that the engine is stopping, and let the watchdog go."""
        self._words[STATE] = STOPPING
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)
        if self._process is not None:
            await asyncio.to_thread(self._let_go, self._process)
        self._words[STATE] = NOBODY

    @staticmethod
    def _let_go(process: subprocess.Popen[bytes]) -> None:
        assert process.stdin is not None
        process.stdin.close()
        try:
            process.wait(_ENDS_WITHIN_S)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()

    async def _run(self) -> None:
        while True:
            self._words[BEATS] += 1
            stalled_ms = self._words[STALLED_MS]
            if stalled_ms:
                self._words[STALLED_MS] = 0
                self._tell(stalled_ms / 1000)
            if self._after_s and (self._process is None or self._process.poll() is not None):
                self._spawn()
            await asyncio.sleep(BEAT_S)

    def _tell(self, stalled_s: float) -> None:
        acted = ""
        if self._after_s and stalled_s >= self._after_s:
            acted = f": the watchdog halted and canceled, {REPORT} says what came of it"
        text = f"the engine stood still for {stalled_s:.1f} s{acted}"
        self._engine.alert("critical", "ENGINE_HUNG", "", text)

    def _spawn(self) -> None:
        if self._process is not None:
            assert self._process.stdin is not None
            self._process.stdin.close()
            text = f"the watchdog ended (status {self._process.returncode}) and is started again"
            self._engine.alert("warning", "INTERNAL", "", text)
            self._process = None
        try:
            self._process = self._popen()
        except OSError as error:
            self._engine.alert("warning", "INTERNAL", "", f"no watchdog: {error.strerror}")
            self._after_s = 0.0

    def _popen(self) -> subprocess.Popen[bytes]:
        command = own_command(*self._options, "watchdog", "--after", f"{self._after_s:g}")
        if self._engine.config.safety.kill_standby:
            command.append("--standby")
        return subprocess.Popen(  # noqa: S603 (our own program)
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )


@contextlib.asynccontextmanager
async def watched(
    engine: TradingEngine, home: Home, config_file: str | None, *, demo: bool
) -> AsyncIterator[None]:
    """Have the engine watched until the context ends; other processes learn how it was started."""
    path = _absolute(config_file) if config_file else ""
    known = path if len(path) <= _LONGEST_PATH else ""
    engine.shared.name_engine(pid=os.getpid(), config=known, demo=demo)
    heartbeat = Heartbeat(engine, home, path)
    await heartbeat.start()
    try:
        yield
    finally:
        await heartbeat.stop()


def _absolute(path: str) -> str:
    return os.path.abspath(path)
