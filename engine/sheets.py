"""Rows as files: CSV, XLSX, JSON lines. One row after the other, so that whoever writes many can do other things.

What a spreadsheet would take for a formula is text here: in CSV it gets a leading ``'`` (OWASP ASVS 1.2.10), in XLSX
its cell says that it is text. Numbers stay numbers in both, with their digits; times are as they came, RFC 3339.
"""

from __future__ import annotations

import csv
import json
from collections.abc import Callable, Iterable, Sequence
from collections.abc import Set as AbstractSet
from decimal import Decimal
from pathlib import Path
from typing import Any, Final, Protocol

from engine.log import escape
from engine.model.numbers import parse_signed

Row = dict[str, Any]
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
"""Columns of the engine's lists whose text is a number in decimal notation."""


class Sheet(Protocol):
    """A file that takes rows. ``columns`` are written in their order; ``numbers`` are those whose text is a number."""

    def add(self, row: Row) -> None:
        """Write one row."""
        ...

    def close(self) -> None:
        """Write what is left; the file is whole then."""
        ...


class CsvSheet:
    """CSV (RFC 4180) in UTF-8; ``mark``: begin with the byte order mark that spreadsheets look for."""

    def __init__(
        self,
        path: Path,
        columns: Sequence[str],
        numbers: AbstractSet[str] = NUMBERS,
        *,
        mark: bool = False,
    ) -> None:
        self._columns = columns
        self._numbers = numbers
        self._file = path.open("w", encoding="utf-8-sig" if mark else "utf-8", newline="")
        self._writer = csv.writer(self._file)
        self._writer.writerow([safe_cell("", name) for name in columns])

    def add(self, row: Row) -> None:
        """Write one row."""
        self._writer.writerow(
            [safe_cell(name, row.get(name), self._numbers) for name in self._columns]
        )

    def close(self) -> None:
        """Write what is left."""
        self._file.close()


class JsonlSheet:
    """Rows as they are, one JSON object a line."""

    def __init__(
        self, path: Path, _columns: Sequence[str], _numbers: AbstractSet[str] = NUMBERS
    ) -> None:
        self._file = path.open("w", encoding="utf-8")

    def add(self, row: Row) -> None:
        """Write one row."""
        self._file.write(json.dumps(row) + "\n")

    def close(self) -> None:
        """Write what is left."""
        self._file.close()


class XlsxSheet:
    """A workbook of one sheet. ``close`` packs it, which takes a while for many rows and may run in a thread."""

    def __init__(
        self, path: Path, columns: Sequence[str], numbers: AbstractSet[str] = NUMBERS
    ) -> None:
        from openpyxl import Workbook  # type: ignore[import-untyped]  # slow, and only needed here
        from openpyxl.cell import WriteOnlyCell  # type: ignore[import-untyped]

        self._path = path
        self._columns = columns
        self._numbers = numbers
        self._cell = WriteOnlyCell
        self._book = Workbook(write_only=True)
        self._sheet = self._book.create_sheet("volley")
        self._sheet.append([self._written(name) for name in columns])

    def add(self, row: Row) -> None:
        """Write one row."""
        self._sheet.append(
            [self._written(_typed(name, row.get(name), self._numbers)) for name in self._columns]
        )

    def _written(self, value: Any) -> Any:
        cell = self._cell(self._sheet, escape(value) if isinstance(value, str) else value)
        if isinstance(value, str):
            cell.data_type = "s"  # never "f", whatever it begins with
            cell.quotePrefix = value.startswith(_FORMULA)  # also when it is edited
        return cell

    def close(self) -> None:
        """Pack the workbook."""
        self._book.save(self._path)


SHEETS: Final[dict[str, Callable[[Path, Sequence[str]], Sheet]]] = {
    "csv": CsvSheet,
    "jsonl": JsonlSheet,
    "xlsx": XlsxSheet,
}


def write_rows(kind: str, path: Path, columns: Sequence[str], rows: Iterable[Row]) -> None:
    """Write rows to a file at once; ``kind`` is a key of ``SHEETS``."""
    sheet = SHEETS[kind](path, columns)
    try:
        for row in rows:
            sheet.add(row)
    finally:
        sheet.close()


def safe_cell(column: str, value: Any, numbers: AbstractSet[str] = NUMBERS) -> Any:
    """Return a value that no spreadsheet takes for a formula."""
    plain = _typed(column, value, numbers)
    if isinstance(plain, Decimal):
        return value  # the digits as they are
    if isinstance(plain, str) and plain.startswith(_FORMULA):
        return plain if column in numbers and _number(plain) is not None else f"'{plain}"
    return plain


def _typed(column: str, value: Any, numbers: AbstractSet[str]) -> Any:
    """Return numbers as numbers, everything else as text or what it is."""
    if isinstance(value, dict | list):
        return json.dumps(value)
    if column in numbers and isinstance(value, str):
        number = _number(value)
        if number is not None and len(number.as_tuple().digits) <= _EXACT_DIGITS:
            return number
    return value


def _number(text: str) -> Decimal | None:
    try:
        return parse_signed(text)
    except ValueError:
        return None
