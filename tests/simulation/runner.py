"""Many seeds, in processes of their own, and what they came to."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import partial

import orjson

from tests.simulation.day import Outcome, run_seed
from tests.simulation.faults import FAULTS
from tests.simulation.sabotages import sabotaged

say = partial(print, flush=True)
DAY_S = 6.5 * 3600
PER_TURN = 20  # seeds a process is given at a time


@dataclass(slots=True)
class Summary:
    """What a run of many seeds came to."""

    seeds: int = 0
    simulated_s: float = 0.0
    wall_s: float = 0.0
    counts: Counter[str] = field(default_factory=Counter)
    faults: Counter[str] = field(default_factory=Counter)
    failures: dict[int, tuple[str, ...]] = field(default_factory=dict)

    def add(self, outcome: Outcome) -> None:
        """Count one seed."""
        self.seeds += 1
        self.simulated_s += outcome.simulated_s
        self.counts.update(outcome.counts)
        self.faults.update(outcome.faults)
        if outcome.violations:
            self.failures[outcome.seed] = outcome.violations

    def lines(self) -> Iterator[str]:
        """Say it in words."""
        rate = self.seeds / self.wall_s if self.wall_s else 0.0
        yield (
            f"{self.seeds} seeds in {self.wall_s:.1f} s ({rate:.1f} seeds/s), {len(self.failures)} failed; "
            f"{self.simulated_s / 3600:.1f} simulated hours = {self.simulated_s / DAY_S:.1f} trading days"
        )
        counts = self.counts
        yield (
            f"{counts['sent']} orders sent, {counts['venue_orders']} accepted, {counts['venue_fills']} fills, "
            f"{counts['cancel']} cancels, {counts['lives']} engine starts, {counts['crashes']} crashes"
        )
        yield f"{len(self.faults)} of {len(FAULTS)} kinds of fault, {self.faults.total()} in all:"
        for name in sorted(FAULTS):
            yield f"  {self.faults[name]:>9}  {name}"
        for seed, violations in sorted(self.failures.items())[:20]:
            yield f"seed {seed} FAILED: {violations[0]}"
            yield from (f"    {text}" for text in violations[1:3])


def run_here(first: int, count: int, sabotage: str = "") -> Iterator[Outcome]:
    """Run seeds in this process."""
    with sabotaged(sabotage):
        for seed in range(first, first + count):
            yield run_seed(seed)


def run_many(
    first: int,
    count: int,
    *,
    processes: int = 2,
    sabotage: str = "",
    until_failure: bool = False,
    progress: Callable[[Summary], None] | None = None,
) -> Summary:
    """Run seeds in processes, each begun anew with the hash order fixed; a dying process is a failure of its seeds."""
    summary, began = Summary(), time.monotonic()
    workers = [_Worker(sabotage) for _ in range(processes)]
    try:
        for outcome in _spread(workers, first, count):
            summary.add(outcome)
            summary.wall_s = time.monotonic() - began
            if progress is not None:
                progress(summary)
            if until_failure and summary.failures:
                break
    finally:
        for worker in workers:
            worker.stop()
    summary.wall_s = time.monotonic() - began
    return summary


def _spread(workers: list[_Worker], first: int, count: int) -> Iterator[Outcome]:
    """Hand seeds out in turns, so that the order of what comes back is always the same."""
    end = first + count
    given: list[tuple[_Worker, int]] = []
    seed = first
    for worker in workers:
        seed = _give(worker, seed, end, given)
    while given:
        worker, many = given.pop(0)
        for _ in range(many):
            yield worker.take()
        seed = _give(worker, seed, end, given)


def _give(worker: _Worker, seed: int, end: int, given: list[tuple[_Worker, int]]) -> int:
    many = min(PER_TURN, end - seed)
    if many > 0:
        worker.give(seed, many)
        given.append((worker, many))
    return seed + max(many, 0)


class _Worker:
    """A process that runs seeds: orders by its standard input, outcomes by its standard output."""

    def __init__(self, sabotage: str) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-m", "tests.simulation", "--worker", "--sabotage", sabotage],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env={**os.environ, "PYTHONHASHSEED": "0"},
        )

    def give(self, first: int, count: int) -> None:
        """Have it run some seeds."""
        assert self._process.stdin is not None
        self._process.stdin.write(b"%d %d\n" % (first, count))
        self._process.stdin.flush()

    def take(self) -> Outcome:
        """Return the next outcome.

        Raises:
            RuntimeError: the process died.
        """
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            raise RuntimeError(f"a simulation process ended with status {self._process.wait()}")
        fields = orjson.loads(line)
        fields["violations"] = tuple(fields["violations"])
        return Outcome(**fields)

    def stop(self) -> None:
        """End it."""
        process = self._process
        assert process.stdin is not None
        assert process.stdout is not None
        process.terminate()
        process.wait()
        process.stdin.close()
        process.stdout.close()


def serve(sabotage: str) -> None:
    """Be a worker: run what is asked for until nobody asks any more."""
    for line in sys.stdin:
        first, count = map(int, line.split())
        for outcome in run_here(first, count, sabotage):
            sys.stdout.buffer.write(orjson.dumps(outcome, option=orjson.OPT_APPEND_NEWLINE))
            sys.stdout.buffer.flush()
