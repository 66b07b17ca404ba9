"""A damaged journal: kept in quarantine as it is, and what can be read of it taken over into a new one.

The new journal is made beside the damaged one and takes its place in one rename; killed at any moment, the next start
does it again or finishes it. The firm is HALTED in the new journal before it is anyone's: a book of which a part is
missing is never armed by itself.
"""

from __future__ import annotations

import contextlib
import logging
import os
import shutil
import sqlite3
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import orjson

from engine.errors import TradingError
from engine.stores import audit
from engine.stores.journal_rows import (
    fill_from_row,
    order_from_row,
    position_from_row,
    signal_entry,
)
from engine.stores.journal_schema import make_or_migrate

log = logging.getLogger(__name__)

_STEP: Final = 5_000  # rows asked for at once
_BUDGET: Final = 50_000  # questions to one table; a table without its root answers none of them

Check = Callable[[sqlite3.Row], object]


@dataclass(slots=True)
class Report:
    """What became of a damaged journal."""

    folder: Path
    damage: str
    kept: dict[str, int] = field(default_factory=dict)
    lost: dict[str, int | None] = field(default_factory=dict)  # None: nobody can tell how many

    def text(self) -> str:
        """Return it as one sentence for an operator."""
        lost = [
            f"{'an unknown number of' if count is None else count} {table}"
            for table, count in self.lost.items()
            if count != 0
        ]
        kept = ", ".join(f"{count} {table}" for table, count in self.kept.items() if count)
        return (
            f"the journal was damaged ({self.damage}) and lies in {self.folder}; taken over: {kept or 'nothing'}; "
            f"lost: {', '.join(lost) or 'nothing that was found'}. Compare every account with its broker"
        )


def finish(journal: Path) -> None:
    """Put a complete new journal in the place of the damaged one, if a salvage was cut short there."""
    made = _made(journal)
    if not made.exists():
        return
    for name in ("-wal", "-shm"):  # of the damaged file; they would be played into the new one
        Path(f"{journal}{name}").unlink(missing_ok=True)
    os.replace(made, journal)
    _sync_directory(journal.parent)


def salvage(journal: Path, damage: str, stamp: str) -> Report:
    """Take over what can be read of a damaged journal, which must be open nowhere.

    Raises:
        OSError, sqlite3.Error: there is no room, or the disk fails; the damaged file is where it was.
    """
    folder = journal.parent / "quarantine" / stamp.replace(":", "")
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    for suffix in ("", "-wal"):
        source = Path(f"{journal}{suffix}")
        if source.exists() and not (folder / source.name).exists():
            _same_or_copy(source, folder / source.name)
    report = Report(folder, damage)
    draft = folder / "taken over.sqlite3"
    draft.unlink(missing_ok=True)
    with closing(_reader(folder / journal.name)) as old, closing(_writer(draft)) as new:
        book, head = _take_over(old, new, report, audit.kept_head(journal), stamp)
    with draft.open("rb+") as file:
        os.fsync(file.fileno())
    os.replace(draft, _made(journal))
    _sync_directory(journal.parent)
    finish(journal)
    audit.keep_head(journal, book, head)
    return report


def _made(journal: Path) -> Path:
    return journal.with_name(f"{journal.name}.salvaged")


def _same_or_copy(source: Path, target: Path) -> None:
    try:
        os.link(source, target)
    except OSError:
        shutil.copy2(source, target)


def _sync_directory(path: Path) -> None:
    if os.name == "posix":
        handle = os.open(path, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)


def _reader(path: Path) -> sqlite3.Connection:
    connection = sqlite3.connect(f"{path.resolve().as_uri()}?mode=ro", uri=True)
    connection.row_factory = sqlite3.Row
    connection.execute("PRAGMA writable_schema = ON")  # one bad index would hide all tables
    connection.text_factory = lambda raw: raw.decode("utf-8", "surrogateescape")
    return connection


def _writer(path: Path) -> sqlite3.Connection:
    connection = sqlite3.connect(path, isolation_level=None)
    connection.execute("PRAGMA synchronous=FULL")
    return connection


def _take_over(
    old: sqlite3.Connection,
    new: sqlite3.Connection,
    report: Report,
    kept: audit.KeptHead | None,
    at: str,
) -> tuple[str, audit.Head]:
    """Copy row by row; return the book's id and the head of its audit trail, which records the break."""
    meta = {row["key"]: row["value"] for row in _by_key(old, "meta", "key", lambda _: None)}
    make_or_migrate(new)
    new.execute("BEGIN IMMEDIATE")
    book = meta.get("book") or (kept.book if kept is not None else "")
    if book:
        new.execute("UPDATE meta SET value = ? WHERE key = 'book'", (book,))
    else:  # nobody knows it any more: it is another book
        book = str(new.execute("SELECT value FROM meta WHERE key = 'book'").fetchone()[0])
    for key in ("epoch", "binding"):
        if key in meta:
            new.execute("INSERT OR REPLACE INTO meta VALUES (?, ?)", (key, meta[key]))
    for table, key, check in _TABLES:
        rows = _by_number(old, table, check, report) if not key else _by_key(old, table, key, check)
        report.kept[table] = sum(_put(new, table, row) for row in rows)
    head = _take_audit(old, new, book)
    report.kept["audit"] = head.seq
    report.lost["audit"] = max(kept.head.seq - head.seq, 0) if kept is not None else None
    _doubt(new)
    text = report.text()
    new.execute(
        "INSERT OR REPLACE INTO halts VALUES ('all', 'halted', ?, ?, 'engine')",
        (f"QUARANTINED: {text}", at),
    )
    head = audit.append(new, head, [(at, audit.BROKEN, "", {"salvaged": text})])
    new.execute("COMMIT")
    return book, head


def _by_number(
    old: sqlite3.Connection, table: str, check: Check, report: Report
) -> Iterator[sqlite3.Row]:
    """Read a table in the order of writing; a range that cannot be read is halved until only bad rows are left out."""
    report.lost[table] = None
    try:
        top = old.execute(f"SELECT coalesce(max(rowid), 0) FROM {table}").fetchone()[0]  # noqa: S608 (our own names)
    except sqlite3.Error:
        return
    found, asked = 0, 0
    ranges = [(low, min(low + _STEP - 1, top)) for low in range(1, top + 1, _STEP)][::-1]
    while ranges and asked < _BUDGET:
        low, high = ranges.pop()
        asked += 1
        try:
            rows = old.execute(
                f"SELECT * FROM {table} NOT INDEXED WHERE rowid BETWEEN ? AND ? ORDER BY rowid",  # noqa: S608
                (low, high),
            ).fetchall()
        except sqlite3.Error:
            if low < high:
                middle = (low + high) // 2
                ranges += [(middle + 1, high), (low, middle)]
            continue
        for row in rows:
            if _is_sound(row, check):
                found += 1
                yield row
    report.lost[table] = top - found


def _by_key(old: sqlite3.Connection, table: str, key: str, check: Check) -> Iterator[sqlite3.Row]:
    """Read a table from both ends as far as it goes."""
    seen: set[Any] = set()
    for way in ("ASC", "DESC"):
        with contextlib.suppress(sqlite3.Error):
            order = ", ".join(f"{column} {way}" for column in key.split(", "))
            for row in old.execute(f"SELECT * FROM {table} ORDER BY {order}"):  # noqa: S608
                name = tuple(row[column] for column in key.split(", "))
                if name in seen:
                    break
                seen.add(name)
                if _is_sound(row, check):
                    yield row


def _is_sound(row: sqlite3.Row, check: Check) -> bool:
    """Say whether a row of a damaged page still is what it claims to be."""
    try:
        check(row)
    except (ValueError, TypeError, KeyError, ArithmeticError, IndexError, TradingError):
        return False
    return True


def _put(new: sqlite3.Connection, table: str, row: sqlite3.Row) -> int:
    names = row.keys()
    try:
        return new.execute(
            f"INSERT OR IGNORE INTO {table} ({', '.join(names)}) VALUES ({', '.join('?' * len(names))})",  # noqa: S608
            tuple(row),
        ).rowcount
    except (sqlite3.Error, UnicodeError):
        return 0


def _take_audit(old: sqlite3.Connection, new: sqlite3.Connection, book: str) -> audit.Head:
    """Take the trail over as far as its chain is whole."""
    head = audit.first_head(book)
    with contextlib.suppress(sqlite3.Error):
        for row in audit.rows_of(old):
            after = audit.expected(head, row)
            if after is None:
                break
            new.execute(audit.PUT_AUDIT, tuple(row))
            head = after
    return head


def _doubt(new: sqlite3.Connection) -> None:
    """Have every signal gone through again of which an intent has no order row any more."""
    orders = {row[0] for row in new.execute("SELECT cl_ord_id FROM orders")}
    open_again = [
        (seq,)
        for seq, plan in new.execute("SELECT seq, plan FROM signals WHERE settled = 1").fetchall()
        for *_, rows in orjson.loads(plan).get("orders", ())
        if any(intent[0] not in orders for intent in rows)
    ]
    new.executemany("UPDATE signals SET settled = 0 WHERE seq = ?", open_again)


_TABLES: Final[tuple[tuple[str, str, Check], ...]] = (
    ("signals", "", signal_entry),
    ("orders", "", order_from_row),
    ("fills", "", fill_from_row),
    ("positions", "account, symbol", position_from_row),
    ("halts", "scope", lambda row: row["state"].encode("ascii")),
    ("facts", "kind, key", lambda row: orjson.loads(row["value"])),
    ("days", "account, day", lambda row: row["baseline"].encode("ascii")),
    ("square_offs", "account", lambda row: row["day"].encode("ascii")),
    ("commands", "id", lambda row: orjson.loads(row["body"])),
)
"""Each table, the columns of its key where it has no row numbers, and what a sound row survives."""
