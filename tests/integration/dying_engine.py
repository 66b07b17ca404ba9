"""An engine that is killed by its own hand at one point of an exit's way; run as a program by a test.

Arguments: the home's parent directory, the venue's port, the point (``committed`` or ``sent``).
"""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from decimal import Decimal
from pathlib import Path

from tests.world import World, eventually, world

KILL = getattr(signal, "SIGKILL", signal.SIGTERM)  # on Windows either ends a process at once


def arm(w: World, point: str) -> None:
    """Set the trap."""
    engine = w.engine

    def die(*_anything: object) -> None:
        os.kill(os.getpid(), KILL)

    if point == "committed":
        engine.dispatcher.dispatch = lambda orders: die() if orders else None  # type: ignore[method-assign]
    else:
        engine.on_report = die  # type: ignore[method-assign]


async def main(path: Path, point: str) -> None:
    """Let the price reach the stop."""
    async with world(path) as w:
        arm(w, point)
        w.engine.set_prices({"AAPL": Decimal(150)})
        await eventually(lambda: False, what="killed")


if __name__ == "__main__":
    asyncio.run(main(Path(sys.argv[1]), sys.argv[2]))
