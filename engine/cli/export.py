"""``main.py export``: lists of the running engine as files."""

from __future__ import annotations

import argparse
from pathlib import Path

from engine.cli.common import DONE, check_place, emit, find_engine, open_home, say, whole_file
from engine.model.tables import COLUMNS
from engine.sheets import write_rows


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options."""
    parser.add_argument("what", choices=("orders", "fills", "signals", "positions"))
    parser.add_argument("--format", choices=("csv", "jsonl", "xlsx"), default="csv")
    parser.add_argument("--out", metavar="FILE", type=Path, required=True)


def run(args: argparse.Namespace) -> int:
    """Write every row of the list, newest first; the file is whole or not there."""
    check_place(args.out)
    with find_engine(open_home(args)) as api:
        rows = api.pages(args.what)
    with whole_file(args.out) as draft:
        write_rows(args.format, draft, COLUMNS[args.what], rows)
    if args.json:
        emit({"file": str(args.out), "rows": len(rows)})
    else:
        say(f"{len(rows)} {args.what} in {args.out}")
    return DONE
