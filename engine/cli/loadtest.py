"""``main.py loadtest``: measure the engine against the simulated venue, beside its baselines."""

from __future__ import annotations

import argparse
import asyncio

from engine.cli.common import complain, emit, number_of, whole_of
from engine.cli.engine import loop_factory


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options."""
    add_plan(parser)
    parser.add_argument(
        "--compare", default="floor", metavar="LIST", help="floor,httpx,aiohttp,ccxt (floor); none"
    )


def add_plan(parser: argparse.ArgumentParser) -> None:
    """Declare what a run consists of."""
    add = parser.add_argument
    count = whole_of(1, 100_000)
    add("--accounts", type=count, default=200, metavar="N", help="accounts, one order each (200)")
    add("--signals", type=count, default=50, metavar="N", help="signals, one after the other (50)")
    add(
        "--rate",
        type=number_of(0, 1e6, "signals a second, 0 for as fast as they are answered"),
        default=0.0,
        metavar="R",
        help="signals a second (as fast as they are answered)",
    )
    add("--dialect", choices=("alpaca", "binance", "oanda", "kite"), default="alpaca")
    add("--tls", action="store_true", help="over TLS")


def run(args: argparse.Namespace) -> int:
    """Run and print; return the exit status."""
    from engine.loadtest.driver import BASELINES, LoadPlan, measure
    from engine.loadtest.report import as_text, summarise

    names = tuple(name for name in args.compare.split(",") if name and name != "none")
    unknown = [name for name in names if name not in BASELINES]
    if unknown:
        complain(f"--compare {unknown[0]}: expected some of {', '.join(BASELINES)}")
        return 2
    plan = LoadPlan(args.accounts, args.signals, args.rate, args.dialect, names, args.tls)
    with asyncio.Runner(loop_factory=loop_factory()) as runner:
        report = summarise(plan, runner.run(measure(plan)))
    if args.json:
        emit(report)
    else:
        print(as_text(report))
    return 0
