"""``main.py audit``: verify, show and export the audit trail; reads the journal only, beside a running engine too."""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import sqlite3
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from engine.cli.common import DONE, FAILED, emit, open_home, say, table, whole_of
from engine.errors import StoreError
from engine.home import Home
from engine.stores.audit import KeptHead, Verdict, kept_head, rows_of, verify

_COLUMNS = {"seq": "#", "at": "At", "kind": "Kind", "account": "Account", "facts": "Facts"}
_SHOWN = 160  # characters of a row's facts on a screen


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the actions and their options."""
    actions = parser.add_subparsers(dest="action", required=True, metavar="ACTION")
    actions.add_parser("verify", help="check the whole chain; exit status 1 if a row is broken")
    show = actions.add_parser("show", help="print the newest rows")
    show.add_argument("--limit", type=whole_of(1, 1_000_000), default=20, metavar="N")
    export = actions.add_parser("export", help="write every row to a file, one JSON object a line")
    export.add_argument("--out", type=Path, required=True, metavar="FILE")


def run(args: argparse.Namespace) -> int:
    """Do the action; return the exit status."""
    home = open_home(args)
    # The head first: rows added while we read are only ever behind it.
    kept = kept_head(home.journal)
    with _trail(home) as connection:
        if args.action == "verify":
            return _verify(args, connection, kept)
        if args.action == "show":
            return _show(args, connection)
        return _export(args, connection)


@contextlib.contextmanager
def _trail(home: Home) -> Iterator[sqlite3.Connection]:
    """Yield a read-only connection to the home's journal.

    Raises:
        StoreError: there is none, it cannot be read, or it is older than the audit trail.
    """
    if not home.journal.exists():
        raise StoreError(f"no journal in {home.path}")
    connection = sqlite3.connect(f"{home.journal.as_uri()}?mode=ro", uri=True, timeout=5.0)
    try:
        connection.row_factory = sqlite3.Row
        connection.execute("BEGIN")  # one picture of it, whatever is added meanwhile
        names = {row[0] for row in connection.execute("SELECT name FROM sqlite_master")}
        if "audit" not in names:
            raise StoreError(f"{home.journal}: no audit trail yet; start the engine once")
        yield connection
    except sqlite3.Error as error:
        raise StoreError(f"{home.journal}: {error}") from None
    finally:
        connection.close()


def _verify(args: argparse.Namespace, connection: sqlite3.Connection, kept: KeptHead | None) -> int:
    verdict = verify(connection, kept)
    if args.json:
        emit({"verified": verdict.verified, "broken": verdict.broken, "reason": verdict.reason})
    else:
        say(_sentence(verdict))
    return DONE if verdict.broken is None else FAILED


def _sentence(verdict: Verdict) -> str:
    if verdict.broken is None:
        return f"Chain verified to #{verdict.verified:,}"
    return (
        f"Chain broken at row #{verdict.broken:,}: {verdict.reason} (good to #{verdict.verified:,})"
    )


def _as_row(row: sqlite3.Row) -> dict[str, Any]:
    return {**dict(row), "facts": json.loads(row["facts"]), "hash": row["hash"].hex()}


def _show(args: argparse.Namespace, connection: sqlite3.Connection) -> int:
    newest = connection.execute("SELECT * FROM audit ORDER BY seq DESC LIMIT ?", (args.limit,))
    rows = newest.fetchall()[::-1]
    if args.json:
        emit([_as_row(row) for row in rows])
        return DONE
    shown = [{**dict(row), "facts": row["facts"][:_SHOWN]} for row in rows]
    say(table(shown, _COLUMNS))
    return DONE


def _export(args: argparse.Namespace, connection: sqlite3.Connection) -> int:
    """Write every row, oldest first; the file is whole or not there."""
    handle, draft = tempfile.mkstemp(dir=args.out.absolute().parent, prefix=".audit-")
    count = 0
    try:
        with os.fdopen(handle, "w", encoding="utf-8") as file:
            for row in rows_of(connection):
                file.write(json.dumps(_as_row(row)) + "\n")
                count += 1
        os.replace(draft, args.out)
    except BaseException:
        Path(draft).unlink(missing_ok=True)
        raise
    if args.json:
        emit({"file": str(args.out), "rows": count})
    else:
        say(f"{count} rows in {args.out}")
    return DONE
