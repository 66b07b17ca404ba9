"""``python -m tests.simulation``: simulated trading days by the thousand, or one seed, twice, with its trace."""

from __future__ import annotations

import argparse
import os
import sys
from pathlib import Path

from tests.simulation.day import run_seed
from tests.simulation.money import compare
from tests.simulation.runner import Summary, run_many, say, serve
from tests.simulation.sabotages import SABOTAGES, sabotaged


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m tests.simulation", description=__doc__)
    parser.add_argument("--seeds", type=int, default=2000, help="how many seeds")
    parser.add_argument("--from", dest="first", type=int, default=1, help="the first of them")
    parser.add_argument("--processes", type=int, default=2)
    parser.add_argument("--seed", type=int, help="one seed only")
    parser.add_argument(
        "--twice", action="store_true", help="with --seed: run it twice and compare"
    )
    parser.add_argument(
        "--hours", type=float, default=0.0, help="with --seed: so much of a day (6.5: all of it)"
    )
    parser.add_argument("--trace", type=Path, help="with --seed: write its trace to this file")
    parser.add_argument(
        "--sabotage", default="", choices=["", *SABOTAGES], help="break the engine so"
    )
    parser.add_argument(
        "--money", type=int, metavar="FILLS", help="compare money with exact fractions"
    )
    parser.add_argument("--worker", action="store_true", help=argparse.SUPPRESS)
    return parser


def _one(seed: int, *, hours: float, twice: bool, trace: Path | None) -> int:
    lines: list[str] | None = [] if trace else None
    outcome = run_seed(seed, lines, hours)
    say(f"seed {seed}: {outcome.digest} after {outcome.simulated_s:.1f} simulated seconds")
    say(f"  {outcome.counts} faults {outcome.faults}")
    for violation in outcome.violations:
        say(f"  FAILED {violation}")
    if trace is not None and lines is not None:
        trace.write_text("\n".join(lines) + "\n", "utf-8")
    if twice:
        again = run_seed(seed, hours=hours)
        same = again.digest == outcome.digest
        say(f"seed {seed}: {again.digest} {'the same' if same else 'ANOTHER'} the second time")
        return 0 if same and not outcome.violations else 1
    return 1 if outcome.violations else 0


def _progress(summary: Summary) -> None:
    if summary.seeds % 1000 == 0:
        say(next(summary.lines()))
        for seed in list(summary.failures)[-3:]:
            say(f"  seed {seed} FAILED: {summary.failures[seed][0]}")


def main() -> int:
    """Run what the command line asks for; 1 when anything failed."""
    options = _parser().parse_args()
    if options.worker:
        serve(options.sabotage)
        return 0
    if options.money is not None:
        lines = compare(options.money)
        say("\n".join(lines))
        return len(lines) > 1
    if options.seed is not None:
        if os.environ.get("PYTHONHASHSEED") != "0":
            os.environ["PYTHONHASHSEED"] = "0"  # as the runs of many seeds have it
            os.execv(sys.executable, [sys.executable, "-m", "tests.simulation", *sys.argv[1:]])
        with sabotaged(options.sabotage):
            return _one(options.seed, hours=options.hours, twice=options.twice, trace=options.trace)
    summary = run_many(
        options.first,
        options.seeds,
        processes=options.processes,
        sabotage=options.sabotage,
        progress=_progress,
    )
    say("\n".join(summary.lines()))
    return 1 if summary.failures else 0


if __name__ == "__main__":
    sys.exit(main())
