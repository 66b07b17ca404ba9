"""A simulated venue in a process of its own: for the demo, and so that its work is not measured as ours."""

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
async def practice_venue(*options: str) -> AsyncIterator[PracticeVenue]:
    """Start the venue with ``options`` of ``main.py simbroker``, without waiting for it.

    It ends with the context, and with this process.
    """
    command = own_command("simbroker", "--port", "0", "--lifeline", *options)
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
