"""Writing behind: one task takes what is pending to a server, soon, and again after an outage."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Awaitable, Callable

from engine.model.enums import ConnectionState

FIRST_WAIT_S = 0.1
LONGEST_WAIT_S = 2.0
CLOSE_S = 2.0


class WriteBehind:
    """Calls ``flush`` ``delay_s`` after ``wake``, and every ``idle_s`` anyway.

    ``flush`` writes what is pending and raises, having kept it, when the server fails; it is
    then called again with growing pauses. ``what`` names the server in sentences. Nothing here
    ever blocks a caller.
    """

    def __init__(
        self, what: str, flush: Callable[[], Awaitable[None]], *, delay_s: float, idle_s: float
    ) -> None:
        self._what = what
        self._flush = flush
        self._delay_s = delay_s
        self._idle_s = idle_s
        self._wake = asyncio.Event()
        self._task: asyncio.Task[None] | None = None
        self._closing = False
        self._status = (ConnectionState.DISCONNECTED, f"{what} is not open")

    def start(self) -> None:
        """Start the task on the running loop."""
        if self._task is None:
            self._status = (ConnectionState.CONNECTING, f"connecting to {self._what}")
            self._closing = False
            self._wake.set()
            self._task = asyncio.create_task(self._run(), name=f"write-behind {self._what}")

    def wake(self) -> None:
        """Say that something is pending."""
        self._wake.set()

    async def close(self) -> None:
        """Flush once more, waiting two seconds at most, and end the task."""
        task, self._task = self._task, None
        if task is None:
            return
        self._closing = True
        self._wake.set()
        await asyncio.wait({task}, timeout=CLOSE_S)
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await task
        self._status = (ConnectionState.DISCONNECTED, f"{self._what} is closed")

    def status(self) -> tuple[ConnectionState, str]:
        """Return the connection's state and a sentence."""
        return self._status

    async def _run(self) -> None:
        wait = FIRST_WAIT_S
        while True:
            await self._until_woken(self._idle_s)
            if not self._closing:
                await asyncio.sleep(self._delay_s)
            last = self._closing  # what came before close is taken; then it ends
            self._wake.clear()
            try:
                await self._flush()
            except Exception as error:  # noqa: BLE001  (whatever a driver raises)
                self._status = (ConnectionState.DISCONNECTED, sentence(self._what, error))
                pause, wait = wait, min(wait * 2, LONGEST_WAIT_S)
                if not self._closing:
                    await asyncio.sleep(pause)
                self._wake.set()
            else:
                self._status = (ConnectionState.CONNECTED, f"{self._what} is connected")
                wait = FIRST_WAIT_S
            if last:
                return

    async def _until_woken(self, seconds: float) -> None:
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await self._wake.wait()


def sentence(what: str, error: Exception) -> str:
    """Say in one short line that a server failed; drivers' own texts may run over pages."""
    text = " ".join(str(error).split()).split(", Timeout:")[0][:200]
    return f"{what} does not answer: {type(error).__name__}" + (f": {text}" if text else "")
