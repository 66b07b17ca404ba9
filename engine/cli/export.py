"""``main.py export``: lists of the running engine as files."""

from __future__ import annotations

import argparse
import csv
import json
import os
import tempfile
from collections.abc import Iterable
from pathlib import Path
from typing import IO, Any, Final

from engine.cli.common import DONE, FAILED, Row, complain, emit, find_engine, open_home, say
from engine.model.tables import COLUMNS

_FORMULA: Final = ("=", "+", "-", "@", "\t", "\r")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options."""
    parser.add_argument("what", choices=("orders", "fills", "signals", "positions"))
    parser.add_argument("--format", choices=("csv", "jsonl", "xlsx"), default="csv")
    parser.add_argument("--out", metavar="FILE", type=Path, required=True)


def run(args: argparse.Namespace) -> int:
    """Write every row of the list, newest first; the file is whole or not there."""
    if args.format == "xlsx":
        complain("export to xlsx comes with a later version; csv opens in spreadsheets too")
        return FAILED
    with find_engine(open_home(args)) as api:
        rows = api.pages(args.what)
    handle, draft = tempfile.mkstemp(dir=args.out.absolute().parent, prefix=".export-")
    try:
        with open(handle, "w", encoding="utf-8", newline="") as file:
            _write(file, args.format, COLUMNS[args.what], rows)
        os.replace(draft, args.out)
    except BaseException:
        Path(draft).unlink(missing_ok=True)
        raise
    if args.json:
        emit({"file": str(args.out), "rows": len(rows)})
    else:
        say(f"{len(rows)} {args.what} in {args.out}")
    return DONE


def _write(file: IO[str], kind: str, columns: Iterable[str], rows: list[Row]) -> None:
    if kind == "jsonl":
        file.writelines(json.dumps(row) + "\n" for row in rows)
        return
    names = list(columns)
    writer = csv.writer(file)
    writer.writerow(names)
    writer.writerows([safe_cell(row.get(name)) for name in names] for row in rows)


def safe_cell(value: Any) -> Any:
    """Return a value that no spreadsheet takes for a formula; numbers stay numbers."""
    if not isinstance(value, str):
        return json.dumps(value) if isinstance(value, dict | list) else value
    if value.startswith(_FORMULA) and not _is_number(value):
        return f"'{value}"
    return value


def _is_number(text: str) -> bool:
    return text[1:].replace(".", "", 1).isdecimal() and text[0] in "+-"
