"""The desk's own engine: a child process that is started, watched, restarted, and never left behind.

The child's standard input is its lifeline: when this process ends, in whatever way, the pipe closes and the engine
stops cleanly.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import sys
from collections import deque
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from time import monotonic
from typing import Any, Final

from PySide6.QtCore import QObject, QProcess, QProcessEnvironment

HELD: Final = 3  # another engine holds this home
WRONG_USE: Final = 2
MOST_RESTARTS: Final = 5
WITHIN_S: Final = 60.0
READY_S: Final = 30.0
STOP_S: Final = 8.0
POLL_S: Final = 0.03


class EngineFailedError(Exception):
    """The engine did not come up; the text says why. ``status`` is its exit status."""

    def __init__(self, text: str, status: int = 1) -> None:
        super().__init__(text)
        self.status = status


@dataclass(frozen=True, slots=True)
class EngineAddress:
    """Where an engine listens; ``ours`` when this supervisor started it."""

    url: str
    token: str
    ours: bool

    def __repr__(self) -> str:
        return f"EngineAddress({self.url!r}, ours={self.ours})"


def own_command(*arguments: str) -> list[str]:
    """Return the command line that runs this program with ``arguments``, frozen or from source."""
    if getattr(sys, "frozen", False):
        return [sys.executable, *arguments]
    return [sys.executable, str(Path(__file__).resolve().parent.parent / "main.py"), *arguments]


def engine_command(home: Path, extra: Sequence[str] = ()) -> list[str]:
    """Return the command line of an engine process."""
    return own_command("engine", "--home", str(home), "--lifeline", *extra)


def kill_beside(home: Path, flatten: bool, done: Callable[[], None], parent: QObject) -> None:
    """Kill by ``volley kill`` in a process of its own: past a hanging engine, or for its next start."""
    process = QProcess(parent)
    process.setProcessChannelMode(QProcess.ProcessChannelMode.ForwardedErrorChannel)
    process.finished.connect(lambda status, _how: done() if status == 0 else None)
    process.finished.connect(process.deleteLater)
    line = own_command("kill", "--home", str(home), "--reason", "kill switch at the desk")
    process.start(line[0], [*line[1:], *(["--flatten"] if flatten else [])])


def backoff(restarts: int) -> float:
    """Return the seconds to wait before the next start."""
    return float(min(0.25 * 2**restarts, 4.0))


class Supervisor(QObject):
    """Keeps one engine process running on a home.

    ``on_up`` is awaited with the address each time an engine is ready; ``on_down`` is told what happened, the text
    for the trader and whether it gave up.
    """

    def __init__(
        self,
        home: Path,
        command: Sequence[str],
        on_up: Callable[[EngineAddress], Awaitable[None]],
        on_down: Callable[[str, bool], None],
        environment: dict[str, str] | None = None,
    ) -> None:
        super().__init__()
        self.home = home
        self.command = list(command)
        self.restarts = 0
        self.errors: deque[str] = deque(maxlen=20)
        self._on_up = on_up
        self._on_down = on_down
        self._environment = environment or {}
        self._process: QProcess | None = None
        self._finished: asyncio.Future[int] | None = None
        self._deaths: deque[float] = deque(maxlen=MOST_RESTARTS + 1)
        self._stopping = False
        self._again = asyncio.Event()
        self._task: asyncio.Task[None] | None = None
        self.first: asyncio.Future[None] | None = None

    @property
    def pid(self) -> int:
        """Return the process id of the engine, 0 when there is none."""
        return 0 if self._process is None else int(self._process.processId())

    def start(self) -> None:
        """Begin; returns at once. ``first`` is done when an engine is up, or holds why it is not."""
        self.first = asyncio.get_running_loop().create_future()
        self._task = asyncio.get_running_loop().create_task(self._keep(), name="engine supervisor")

    def again(self) -> None:
        """Start once more after giving up."""
        self._deaths.clear()
        self._again.set()

    async def stop(self) -> None:
        """Stop the engine: close its lifeline, wait, then insist. Nothing is left behind."""
        self._stopping = True
        if self._task is not None:
            self._task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._task
        await self._end_process()

    async def _end_process(self) -> None:
        process, finished = self._process, self._finished
        if process is None or finished is None:
            return
        process.closeWriteChannel()
        for insist, patience in ((process.terminate, STOP_S), (process.kill, 2.0)):
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(asyncio.shield(finished), patience)
                break
            insist()
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(asyncio.shield(finished), 2.0)
        process.deleteLater()
        self._process = None

    # --- keeping it up ------------------------------------------------------------------------

    async def _keep(self) -> None:
        while not self._stopping:
            status = await self._once()
            if status == HELD:
                await self._attach()
                return
            self._deaths.append(monotonic())
            await self._after_death(status)

    async def _once(self) -> int:
        """Run one engine from start to end; return its exit status."""
        left = read_address(self.home)  # by one that was killed, a moment ago perhaps
        finished = self._launch()
        ready = asyncio.get_running_loop().create_task(self._ready(left), name="engine ready")
        try:
            waiting: set[asyncio.Future[Any]] = {finished, ready}
            await asyncio.wait(waiting, return_when=asyncio.FIRST_COMPLETED)
            if ready.done() and not finished.done():
                await self._announce(ready.result())
            return await asyncio.shield(finished)
        finally:
            ready.cancel()
            await asyncio.gather(ready, return_exceptions=True)

    async def _announce(self, url: str) -> None:
        await self._on_up(EngineAddress(url, self._token(), ours=True))
        if self.first is not None and not self.first.done():
            self.first.set_result(None)

    def _launch(self) -> asyncio.Future[int]:
        process = QProcess(self)
        environment = QProcessEnvironment.systemEnvironment()
        for name, value in self._environment.items():
            environment.insert(name, value)
        process.setProcessEnvironment(environment)
        finished: asyncio.Future[int] = asyncio.get_running_loop().create_future()

        def on_end(status: int, how: QProcess.ExitStatus) -> None:
            self._read_errors(process)
            if not finished.done():
                finished.set_result(
                    status if how is QProcess.ExitStatus.NormalExit else -max(1, status)
                )

        def on_error(error: QProcess.ProcessError) -> None:
            if error is QProcess.ProcessError.FailedToStart and not finished.done():
                self.errors.append(process.errorString())
                finished.set_result(1)

        process.finished.connect(on_end)
        process.errorOccurred.connect(on_error)
        process.readyReadStandardError.connect(lambda: self._read_errors(process))
        process.readyReadStandardOutput.connect(process.readAllStandardOutput)
        process.start(self.command[0], self.command[1:])
        self._process, self._finished = process, finished
        return finished

    def _read_errors(self, process: QProcess) -> None:
        text = bytes(process.readAllStandardError().data()).decode("utf-8", "replace")
        for line in text.splitlines():
            if line.strip():
                self.errors.append(line.strip())
        if text and sys.stderr is not None:
            sys.stderr.write(text)

    async def _ready(self, left: tuple[str, str] | None) -> str:
        """Return the engine's address as soon as it says where it listens."""
        while True:
            known = read_address(self.home)
            if known is not None and known != left:
                return known[0]
            await asyncio.sleep(POLL_S)

    def _token(self) -> str:
        return read_token(self.home)

    async def _attach(self) -> None:
        """Use the engine that already holds this home."""
        until = monotonic() + READY_S
        while monotonic() < until:
            known = read_address(self.home)
            if known is not None:
                await self._on_up(EngineAddress(known[0], self._token(), ours=False))
                if self.first is not None and not self.first.done():
                    self.first.set_result(None)
                return
            await asyncio.sleep(POLL_S)
        self._fail("Another engine holds this home and does not say where it listens.", HELD)

    async def _after_death(self, status: int) -> None:
        recent = [at for at in self._deaths if monotonic() - at < WITHIN_S]
        last = self.errors[-1] if self.errors else ""
        if status == WRONG_USE or len(recent) > MOST_RESTARTS:
            text = f"The engine does not start (exit {status}). {last}".strip()
            self._fail(text, status)
            self._on_down(text, True)
            self._again.clear()
            await self._again.wait()
            return
        self.restarts += 1
        self._on_down(
            f"The engine stopped (exit {status}). Restarting… trading is disarmed.", False
        )
        await asyncio.sleep(backoff(len(recent) - 1))

    def _fail(self, text: str, status: int) -> None:
        if self.first is not None and not self.first.done():
            self.first.set_exception(EngineFailedError(text, status))
            self.first.exception()  # looked at: whoever cares has a callback on it


def read_address(home: Path) -> tuple[str, str] | None:
    """Return url and start time of the engine that published itself in a home, if one did."""
    try:
        content = json.loads((home / "engine.json").read_text("utf-8"))
        return str(content["url"]), str(content["started_at"])
    except (OSError, ValueError, KeyError, TypeError):
        return None


def read_token(home: Path) -> str:
    """Return the bearer token: ``VOLLEY_TOKEN``, else the home's."""
    given = os.environ.get("VOLLEY_TOKEN", "")
    if given:
        return given
    try:
        return (home / "token").read_text("utf-8").strip()
    except OSError:
        return ""
