"""What comparing many accounts with their brokers costs the loop: ``python -m tests.bench.reconciliation [ACCOUNTS]``.

Runs an engine with that many accounts (default 1,000) at a simulated venue in a process of its own, every account
compared as often as configured by default, and prints how late the loop was and how often accounts' turns really came.
"""

from __future__ import annotations

import asyncio
import sys
import tempfile
import time
from pathlib import Path

from tests.processes import VenueProcess
from tests.world import alpaca, eventually, world

SECONDS = 30.0
STEP_S = 0.005


def say(text: str) -> None:
    sys.stdout.write(f"{text}\n")
    sys.stdout.flush()


async def lateness(seconds: float) -> list[float]:
    """Return by how many milliseconds the loop was late, every few milliseconds."""
    loop = asyncio.get_running_loop()
    late, end = [], loop.time() + seconds
    while (due := loop.time() + STEP_S) < end:
        await asyncio.sleep(STEP_S)
        late.append((loop.time() - due) * 1000)
    return sorted(late)


def line(name: str, late: list[float]) -> str:
    p50, p99 = late[len(late) // 2], late[len(late) * 99 // 100]
    return f"{name}: loop late p50 {p50:.2f} ms, p99 {p99:.2f} ms, most {late[-1]:.1f} ms"


async def measure(path: Path, count: int, **safety: float) -> None:
    with VenueProcess(path, "--dialect", "alpaca", "--still") as venue:
        accounts = [alpaca(number, venue.url) for number in range(count)]
        began = time.monotonic()
        async with world(
            path, accounts, safety=safety, connected=1, market={"source": "none"}
        ) as here:
            states = here.engine.fleet.states.values()
            await eventually(lambda: all(state.reconciled for state in states), 300)
            say(f"{count} accounts connected and compared in {time.monotonic() - began:.1f} s")
            counts = here.engine.reconciliation.counts
            before, cpu = counts["comparisons_total"], time.process_time()
            late = await lateness(SECONDS)
            done = counts["comparisons_total"] - before
            busy = (time.process_time() - cpu) / SECONDS * 100
            say(line(f"{safety or 'as configured by default'}", late))
            say(f"  {done / SECONDS:.0f} comparisons a second, {busy:.0f} % of a core")
            every = [here.engine.reconciliation.turns.every_s(state.id) for state in states]
            for kind in every[0]:
                turns = sorted(one[kind] for one in every)
                say(f"  {kind}: every {turns[0]:.0f} to {turns[-1]:.0f} s")


def main() -> None:
    count = int(sys.argv[1]) if len(sys.argv) > 1 else 1000
    off = {"reconcile_orders_s": 0.0, "reconcile_positions_s": 0.0, "reconcile_cash_s": 0.0}
    for safety in (off, {}):
        with tempfile.TemporaryDirectory() as path:
            asyncio.run(measure(Path(path), count, **safety))


if __name__ == "__main__":
    main()
