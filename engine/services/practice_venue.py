"""A simulated venue in a process of its own: for the demo, and so that its work is not measured as ours."""

from __future__ import annotations

import asyncio
import re
import tempfile
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

from engine.child import own_command
from engine.errors import TradingError

_STOPS_WITHIN_S = 3.0
_URL = re.compile(r"https?://\S+")


class PracticeVenue:
    """A venue that is starting, or runs. ``authority``: the file that vouches for its certificate, if it has one."""

    def __init__(self, process: asyncio.subprocess.Process, authority: Path | None) -> None:
        self._process = process
        self.authority = authority

    async def url(self) -> str:
        """Return where it listens, as soon as it does.

        Raises:
            TradingError: it does not start.
        """
        assert self._process.stdout is not None
        line = (await self._process.stdout.readline()).decode(errors="replace").strip()
        found = _URL.search(line)
        if found is None:
            raise TradingError(f"the simulated venue did not start: {line or 'it ended at once'}")
        return found[0]


@asynccontextmanager
async def practice_venue(*options: str, tls: bool = False) -> AsyncIterator[PracticeVenue]:
    """Start the venue with ``options`` of ``main.py simbroker``, without waiting for it.

    It ends with the context, and with this process. ``tls``: it makes an authority and a certificate of its own,
    good for this run.
    """
    with tempfile.TemporaryDirectory(prefix="volley-venue-", ignore_cleanup_errors=True) as path:
        authority = Path(path) / "authority.pem" if tls else None
        if authority is not None:
            options = (*options, "--tls", str(authority))
        command = own_command("simbroker", "--port", "0", "--lifeline", *options)
        process = await asyncio.create_subprocess_exec(
            *command, stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE
        )
        try:
            yield PracticeVenue(process, authority)
        finally:
            await _ended(process)


async def _ended(process: asyncio.subprocess.Process) -> None:
    assert process.stdin is not None
    process.stdin.close()  # its lifeline
    try:
        async with asyncio.timeout(_STOPS_WITHIN_S):
            await process.wait()
    except TimeoutError:
        process.kill()
        await process.wait()
