"""``main.py export``: lists of the running engine as files.

What a spreadsheet would take for a formula is text here: in CSV it gets a leading ``'`` (OWASP ASVS 1.2.10), in XLSX
its cell says that it is text. Numbers stay numbers in both.
"""

from __future__ import annotations

import argparse
import csv
import json
import os
import tempfile
from collections.abc import Sequence
from decimal import Decimal
from pathlib import Path
from typing import Any, Final

from engine.cli.common import DONE, Row, emit, find_engine, open_home, say
from engine.log import escape
from engine.model.numbers import parse_signed
from engine.model.tables import COLUMNS

_FORMULA: Final = ("=", "+", "-", "@", "\t", "\r", "\n", "\0", "＝", "＋", "－", "＠")
_EXACT_DIGITS: Final = 15
"""Spreadsheets keep numbers as binary floats: what has more digits is written as text, whole."""
NUMBERS: Final = frozenset(
    {
        "limit_price", "stop_price", "stop_loss", "take_profit", "quantity", "reference_price", "order_qty", "cum_qty",
        "leaves_qty", "avg_px", "last_qty", "last_px", "fee_qty", "qty", "mark", "mark_age_s", "value", "unrealised",
        "realised", "trail_percent", "stop_distance_percent",
    }
)  # fmt: skip
"""Columns whose text is a number in decimal notation."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options."""
    parser.add_argument("what", choices=("orders", "fills", "signals", "positions"))
    parser.add_argument("--format", choices=("csv", "jsonl", "xlsx"), default="csv")
    parser.add_argument("--out", metavar="FILE", type=Path, required=True)


def run(args: argparse.Namespace) -> int:
    """Write every row of the list, newest first; the file is whole or not there."""
    with find_engine(open_home(args)) as api:
        rows = api.pages(args.what)
    handle, draft = tempfile.mkstemp(dir=args.out.absolute().parent, prefix=".export-")
    os.close(handle)
    try:
        _WRITERS[args.format](Path(draft), COLUMNS[args.what], rows)
        os.replace(draft, args.out)
    except BaseException:
        Path(draft).unlink(missing_ok=True)
        raise
    if args.json:
        emit({"file": str(args.out), "rows": len(rows)})
    else:
        say(f"{len(rows)} {args.what} in {args.out}")
    return DONE


def write_csv(path: Path, columns: Sequence[str], rows: list[Row]) -> None:
    """Write rows as CSV (RFC 4180)."""
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(columns)
        writer.writerows([safe_cell(name, row.get(name)) for name in columns] for row in rows)


def write_jsonl(path: Path, _columns: Sequence[str], rows: list[Row]) -> None:
    """Write rows as they are, one JSON object a line."""
    with path.open("w", encoding="utf-8") as file:
        file.writelines(json.dumps(row) + "\n" for row in rows)


def write_xlsx(path: Path, columns: Sequence[str], rows: list[Row]) -> None:
    """Write rows as a workbook of one sheet."""
    from openpyxl import Workbook  # type: ignore[import-untyped]  # slow, and only needed here
    from openpyxl.cell import WriteOnlyCell  # type: ignore[import-untyped]

    book = Workbook(write_only=True)
    sheet = book.create_sheet("volley")
    sheet.append(list(columns))
    for row in rows:
        cells = []
        for name in columns:
            value = _typed(name, row.get(name))
            cell = WriteOnlyCell(sheet, escape(value) if isinstance(value, str) else value)
            if isinstance(value, str):
                cell.data_type = "s"  # never "f", whatever it begins with
                cell.quotePrefix = value.startswith(_FORMULA)  # also when it is edited
            cells.append(cell)
        sheet.append(cells)
    book.save(path)


_WRITERS: Final = {"csv": write_csv, "jsonl": write_jsonl, "xlsx": write_xlsx}


def safe_cell(column: str, value: Any) -> Any:
    """Return a value that no spreadsheet takes for a formula."""
    plain = _typed(column, value)
    if isinstance(plain, Decimal):
        return value  # the digits as they are
    if isinstance(plain, str) and plain.startswith(_FORMULA):
        return plain if column in NUMBERS and _number(plain) is not None else f"'{plain}"
    return plain


def _typed(column: str, value: Any) -> Any:
    """Return numbers as numbers, everything else as text or what it is."""
    if isinstance(value, dict | list):
        return json.dumps(value)
    if column in NUMBERS and isinstance(value, str):
        number = _number(value)
        if number is not None and len(number.as_tuple().digits) <= _EXACT_DIGITS:
            return number
    return value


def _number(text: str) -> Decimal | None:
    try:
        return parse_signed(text)
    except ValueError:
        return None
