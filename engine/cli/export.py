"""``main.py export``: lists of the running engine as files."""

from __future__ import annotations

import argparse
import os
import tempfile
from pathlib import Path

from engine.cli.common import DONE, FAILED, complain, emit, find_engine, open_home, say
from engine.model.tables import COLUMNS
from engine.sheets import write_rows


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options."""
    parser.add_argument("what", choices=("orders", "fills", "signals", "positions"))
    parser.add_argument("--format", choices=("csv", "jsonl", "xlsx"), default="csv")
    parser.add_argument("--out", metavar="FILE", type=Path, required=True)


def run(args: argparse.Namespace) -> int:
    """Write every row of the list, newest first; the file is whole or not there."""
    place = args.out.absolute()
    if place.is_dir() or not place.parent.is_dir():
        problem = "is a directory" if place.is_dir() else f"there is no directory {place.parent}"
        complain(f"--out {args.out}: {problem}")
        return FAILED
    with find_engine(open_home(args)) as api:
        rows = api.pages(args.what)
    handle, draft = tempfile.mkstemp(dir=place.parent, prefix=".export-")
    os.close(handle)
    try:
        write_rows(args.format, Path(draft), COLUMNS[args.what], rows)
        os.replace(draft, args.out)
    except BaseException:
        Path(draft).unlink(missing_ok=True)
        raise
    if args.json:
        emit({"file": str(args.out), "rows": len(rows)})
    else:
        say(f"{len(rows)} {args.what} in {args.out}")
    return DONE
