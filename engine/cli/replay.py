"""``main.py replay``: a recorded day again, under other rules, on the simulated venue; side by side with what was."""

from __future__ import annotations

import argparse
import asyncio
import json
import sys
from pathlib import Path
from typing import Final

from engine.cli.common import ABOVE_ZERO, DONE, emit, number_of, open_home, say, whole_file
from engine.cli.engine import loop_factory
from engine.model.numbers import parse_decimal
from engine.sheets import write_rows

FORMATS: Final = ("html", "csv", "json")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options."""
    add = parser.add_argument
    add(
        "place",
        nargs="?",
        type=Path,
        metavar="HOME",
        help="a home, or a copy of its journal (default: --home)",
    )
    add("--day", required=True, metavar="YYYY-MM-DD", help="which recorded day (UTC)")
    add("--accounts", type=Path, metavar="FILE.json", help="other accounts (default: the home's)")
    add(
        "--speed",
        type=number_of(ABOVE_ZERO, 1e6, "a number greater than 0, at most 1000000"),
        default=60.0,
        metavar="X",
        help="how much faster the signals come (60)",
    )
    add(
        "--cash",
        type=parse_decimal,
        default="100000",
        metavar="N",
        help="of each account at the begin (100000)",
    )
    add(
        "--limit",
        type=_limit,
        action="append",
        default=[],
        metavar="NAME=VALUE",
        help="a limit of every account in the run, like max_order_quantity=100; none takes it away; may be repeated",
    )
    add("--progress", action="store_true", help="say on stderr how far it is, terminal or not")
    add("--format", choices=FORMATS, help="default: by the file's ending, else html")
    add("-o", "--out", type=Path, required=True, metavar="FILE")


def _limit(text: str) -> tuple[str, str | int | None]:
    name, _, value = text.partition("=")
    name, value = name.strip(), value.strip()
    if not name or not value:
        raise argparse.ArgumentTypeError(f"{text!r}: expected NAME=VALUE")
    if value == "none":
        return name, None
    return name, int(value) if value.isdecimal() else value  # counts are no text


def run(args: argparse.Namespace) -> int:
    """Run, write the comparison, say what differs; the file is whole or not there."""
    from engine.days.recorded import parse_day
    from engine.days.rerun import RerunPlan, rerun
    from engine.days.rerun_compare import CSV_COLUMNS, comparison_page

    place = args.place or open_home(args).path
    plan = RerunPlan(
        place,
        parse_day(args.day),
        config=Path(args.config) if args.config else None,
        accounts=args.accounts,
        speed=args.speed,
        cash=args.cash if not isinstance(args.cash, str) else parse_decimal(args.cash),
        limits=dict(args.limit),
    )
    shown = args.progress or (sys.stderr.isatty() and not args.json)
    with asyncio.Runner(loop_factory=loop_factory()) as runner:
        made = runner.run(rerun(plan, _progress if shown else None))
    facts = made.summary()
    ending = args.out.suffix.lstrip(".")
    form = args.format or (ending if ending in FORMATS else "html")
    with whole_file(args.out) as draft:
        if form == "csv":
            write_rows("csv", draft, CSV_COLUMNS, made.rows())
        elif form == "json":
            draft.write_text(json.dumps({**facts, "rows": list(made.rows())}, indent=1), "utf-8")
        else:
            draft.write_text(comparison_page(made), "utf-8")
    if args.json:
        emit({"file": str(args.out), **facts})
    else:
        say(
            f"{facts['lines']} lines, {facts['changed']} came out otherwise; "
            f"P&L {facts['pnl']['then']} then, {facts['pnl']['now']} now; in {args.out}"
        )
    return DONE


def _progress(done: int, total: int) -> None:
    end = "\n" if done == total else ""
    print(f"\r\x1b[2K{done} of {total} signals", end=end, file=sys.stderr, flush=True)
