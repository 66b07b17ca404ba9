"""``main.py report``: the report of a day, or one account's statement, from a journal; beside a running engine too."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from datetime import UTC, date, datetime
from pathlib import Path
from typing import Final

from engine.cli.common import DONE, emit, open_home, say, whole_file
from engine.days.page import CSV_COLUMNS, day_page, statement_page, statement_rows
from engine.days.recorded import parse_day, read_day
from engine.days.report import DayFigures, figures_of
from engine.errors import ConfigError
from engine.sheets import write_rows

FORMATS: Final = ("html", "pdf", "csv")
PdfWriter = Callable[[str, Path], None]
"""Writes a page of HTML as PDF (the desk's libraries can)."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options."""
    add = parser.add_argument
    add("--day", metavar="YYYY-MM-DD", help="which (default: today)")
    add("--zone", default="UTC", metavar="NAME", help="whose midnight begins it (default: UTC)")
    add("--account", metavar="ID", help="this account's statement instead of the whole day")
    add("--format", choices=FORMATS, default="html", help="csv: with --account only")
    add(
        "--page", type=Path, metavar="FILE", help=argparse.SUPPRESS
    )  # a page made before, to be written as PDF
    add("-o", "--out", type=Path, required=True, metavar="FILE")


def run(args: argparse.Namespace, write_pdf: PdfWriter | None = None) -> int:
    """Write the report; the file is whole or not there."""
    if args.format == "csv" and not args.account:
        raise ConfigError(
            "--format csv: expected --account ID beside it; volley export writes lists as CSV"
        )
    if args.page is not None:
        with whole_file(args.out) as draft:
            _pdf(write_pdf, args.page.read_text("utf-8"), draft)
        return DONE
    day = parse_day(args.day) if args.day else datetime.now(UTC).date()
    made = figures_of(read_day(open_home(args).path, day, args.zone), args.account or "")
    _refuse_stranger(made)
    with whole_file(args.out) as draft:
        if args.format == "csv":
            write_rows("csv", draft, CSV_COLUMNS, statement_rows(made))
        elif args.format == "pdf":
            _pdf(write_pdf, _page(made), draft)
        else:
            draft.write_text(_page(made), "utf-8")
    _tell(args, made, day)
    return DONE


def _pdf(write_pdf: PdfWriter | None, page: str, draft: Path) -> None:
    if write_pdf is None:
        raise ConfigError("--format pdf: needs the desk's libraries")
    write_pdf(page, draft)


def _page(made: DayFigures) -> str:
    return statement_page(made) if made.account else day_page(made)


def _refuse_stranger(made: DayFigures) -> None:
    """Refuse an account that the journal and the record of the day know nothing of.

    Raises:
        ConfigError: it is a slip of the pen.
    """
    name, day = made.account, made.day
    if not name or made.orders or made.fills or made.held:
        return
    told = any(name in line.get("accounts", {}) for line in day.lines)
    planned = any(f'"{name}"' in str(entry.plan).replace("'", '"') for entry in day.signals)
    if not told and not planned:
        raise ConfigError(f"--account {name[:80]!a}: nothing is recorded of it on {day.day}")


def _tell(args: argparse.Namespace, made: DayFigures, day: date) -> None:
    facts = {
        "file": str(args.out),
        "day": str(day),
        "signals": made.signals.total(),
        "orders": len(made.orders),
        "fills": len(made.fills),
        "pnl": f"{made.total.total:.2f}",
    }
    if args.json:
        emit(facts)
    else:
        counts = ", ".join(f"{facts[name]} {name}" for name in ("signals", "orders", "fills"))
        say(f"{day}: {counts}, P&L {facts['pnl']}; in {args.out}")
