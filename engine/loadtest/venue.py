"""The simulated venue in a process of its own, so that its work is not counted as ours."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from engine.errors import TradingError
from engine.services.child import own_command


@asynccontextmanager
async def simulated_venue(dialect: str) -> AsyncIterator[str]:
    """Run ``main.py simbroker`` and yield its URL.

    Raises:
        TradingError: it does not start.
    """
    process = await asyncio.create_subprocess_exec(
        *own_command(
            "simbroker", "--port", "0", "--dialect", dialect, "--lifeline", "--cash", "1000000000"
        ),
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
    )
    assert process.stdin is not None
    assert process.stdout is not None
    try:
        line = (await process.stdout.readline()).decode(errors="replace").strip()
        if "http://" not in line:
            raise TradingError(f"the simulated venue did not start: {line or 'it ended at once'}")
        yield "http://" + line.rpartition("http://")[2]
    finally:
        process.stdin.close()
        await process.wait()
