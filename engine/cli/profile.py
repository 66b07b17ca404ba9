"""``main.py profile``: a load test under a sampling profiler; writes a flame graph."""

from __future__ import annotations

import argparse
import asyncio
from pathlib import Path
from typing import Any, Final

from engine.cli.common import DONE, check_place, emit, say, table, whole_file
from engine.cli.engine import loop_factory
from engine.cli.loadtest import add_plan

_FILE: Final = "volley-profile.svg"
_HOTTEST: Final = 15
_COLUMNS: Final = {"percent": "%", "own_ms": "OWN MS", "function": "FUNCTION", "place": "WHERE"}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options."""
    add_plan(parser)
    parser.add_argument(
        "--out", type=Path, default=Path(_FILE), metavar="FILE", help=f"the flame graph ({_FILE})"
    )


def run(args: argparse.Namespace) -> int:
    """Run, write the flame graph, print where the time went; return the exit status."""
    from engine.loadtest.driver import LoadPlan, measure
    from engine.loadtest.flame import Profiled, as_svg, hottest
    from engine.loadtest.report import as_text, summarise

    place = args.out.absolute()
    check_place(place)
    plan = LoadPlan(args.accounts, args.signals, args.rate, args.dialect, (), args.tls)
    profiled = Profiled()
    with asyncio.Runner(loop_factory=loop_factory()) as runner:
        measured = runner.run(measure(plan, profiled))
    tree = profiled.tree()
    figures: dict[str, Any] = {"file": str(place), **profiled.figures()}
    figures["busy_seconds"] = round(tree.seconds, 3)
    figures["hottest"] = hottest(tree, _HOTTEST)
    report = summarise(plan, measured)
    title = (
        f"volley profile: {plan.dialect}, {plan.signals} signals × {plan.accounts} accounts, "
        f"{figures['busy_seconds']:g} s busy of {figures['seconds']:g} s, {figures['samples']} samples"
    )
    with whole_file(place) as draft:
        draft.write_text(as_svg(tree, title), "utf-8")
    if args.json:
        emit({**figures, "loadtest": report})
        return DONE
    say(as_text(report))
    say("\nUnder the profiler everything takes longer; the parts are what counts.\n")
    say(table(figures["hottest"], _COLUMNS))
    say(f"\n{title}\nflame graph: {place}")
    return DONE
