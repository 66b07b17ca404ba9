"""The demo's simulated venue: a process of its own, started while the engine still loads."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from engine.errors import TradingError
from engine.services.child import own_command

_STOPS_WITHIN_S = 3.0


class PracticeVenue:
    """A venue that is starting, or runs."""

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        self._process = process

    async def url(self) -> str:
        """Return where it listens, as soon as it does.

        Raises:
            TradingError: it does not start.
        """
        assert self._process.stdout is not None
        line = (await self._process.stdout.readline()).decode(errors="replace").strip()
        if "http://" not in line:
            raise TradingError(f"the simulated venue did not start: {line or 'it ended at once'}")
        return "http://" + line.rpartition("http://")[2]


@asynccontextmanager
async def practice_venue() -> AsyncIterator[PracticeVenue]:
    """Start the venue, without waiting for it; it ends with the context, and with this process."""
    command = own_command(
        "simbroker", "--port", "0", "--dialect", "alpaca", "--lifeline", "--latency-ms", "4"
    )
    process = await asyncio.create_subprocess_exec(
        *command, stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE
    )
    assert process.stdin is not None
    try:
        yield PracticeVenue(process)
    finally:
        process.stdin.close()  # its lifeline
        try:
            async with asyncio.timeout(_STOPS_WITHIN_S):
                await process.wait()
        except TimeoutError:
            process.kill()
            await process.wait()
