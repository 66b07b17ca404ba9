"""Opening the journal: is the file sound, is it where it was, is its audit trail whole, and whose turn is it.

What is found out of order is latched in the same transaction that takes the file over, so that no crash between the
two can lose it: a damaged or older journal starts HALTED, a copy of a home DISARMED, until a person re-arms.
"""

from __future__ import annotations

import logging
import sqlite3
import threading
from collections.abc import Callable
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from engine.errors import StoreError
from engine.stores import audit, reserve, salvage
from engine.stores.binding import Binding
from engine.stores.journal_schema import make_or_migrate

log = logging.getLogger(__name__)

WAL_BYTES: Final = 16 << 20
CHECK_AT_ONCE_BYTES: Final = (
    64 << 20
)  # a larger file is checked in full beside, not before the start
_STEPS_BETWEEN_LOOKS: Final = 10_000  # of SQLite's machine, some milliseconds
_FIRM: Final = "all"  # the scope of engine.risk.trading_state.FIRM
_STRICT: Final = ("", "reducing", "disarmed", "halted")
_DAMAGE: Final = {sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB}

Opener = Callable[[Path], sqlite3.Connection]


@dataclass(frozen=True, slots=True)
class Finding:
    """Something out of order found at a start, for an operator."""

    code: str
    text: str
    critical: bool = True


@dataclass(slots=True)
class Opening:
    """A journal that was taken over: whose book it is, in which life, and what was found.

    ``epoch`` rises at every open: a process of an earlier one writes nothing any more (control C27).
    """

    book: str = ""
    epoch: int = 0
    head: audit.Head = field(default_factory=lambda: audit.Head(0, b""))
    suspect: bool = False  # to be checked in full, beside
    findings: list[Finding] = field(default_factory=list)


def open_file(path: Path) -> sqlite3.Connection:
    """Open the journal's file; a test puts another file system below by another function like this one."""
    return sqlite3.connect(path, isolation_level=None, timeout=5.0)


def make_durable(connection: sqlite3.Connection) -> None:
    """Set a connection up as the writer's: WAL, every commit on the disk when it returns.

    Raises:
        StoreError: SQLite refuses ``synchronous=FULL``.
    """
    connection.row_factory = sqlite3.Row
    connection.execute("PRAGMA journal_mode=WAL")
    connection.execute("PRAGMA synchronous=FULL")
    connection.execute("PRAGMA wal_autocheckpoint=0")  # the checkpointer's work, not a signal's
    if connection.execute("PRAGMA synchronous").fetchone()[0] != 2:
        raise StoreError("SQLite refuses synchronous=FULL")


def open_journal(path: Path, opener: Opener, at: str) -> tuple[sqlite3.Connection, Opening]:
    """Open the file for writing; a damaged one is put into quarantine and salvaged (engine.stores.salvage).

    Raises:
        StoreError: it is of a newer version. OSError, sqlite3.Error: it cannot be opened at all.
    """
    opening = Opening()
    salvage.finish(path)
    connection, damage = _open_sound(path, opener, opening)
    if damage:
        report = salvage.salvage(path, damage, at)
        log.error("%s", report.text())
        opening.findings.append(Finding("QUARANTINED", report.text()))
        connection, damage = _open_sound(path, opener, opening)
        if damage:
            raise StoreError(f"the salvaged journal is damaged too: {damage}")
    assert connection is not None
    try:
        reserve.hold(path.parent)
        make_or_migrate(connection, lambda: _take_over(connection, path, opening, at))
        _grow_wal(connection)
    except BaseException:
        connection.close()
        raise
    return connection, opening


def suspect_file(journal: Path) -> Path:
    """Return the mark that a full check of this file found damage: the next start checks it before anything else."""
    return journal.with_name(f"{journal.name}.suspect")


def _open_sound(
    path: Path, opener: Opener, opening: Opening
) -> tuple[sqlite3.Connection | None, str]:
    """Open the file and have SQLite check it; return the connection, or what is wrong with the file."""
    connection = opener(path)
    try:
        make_durable(connection)
        stopped = _stopped_cleanly(connection)
        suspect = suspect_file(path).exists()
        full = suspect or (not stopped and path.stat().st_size <= CHECK_AT_ONCE_BYTES)
        opening.suspect = not stopped and not full
        question = "PRAGMA integrity_check(1)" if full else "PRAGMA quick_check(1)"
        said = connection.execute(question).fetchone()[0]
        suspect_file(path).unlink(missing_ok=True)
    except sqlite3.DatabaseError as error:
        connection.close()
        if getattr(error, "sqlite_errorcode", 0) & 0xFF not in _DAMAGE:
            raise
        return None, str(error)
    except BaseException:
        connection.close()
        raise
    if said != "ok":
        connection.close()
        return None, " ".join(said.split())
    return connection, ""


def _stopped_cleanly(connection: sqlite3.Connection) -> bool:
    """Say whether the last life ended by a stop; a file that is new or of an older version counts as such."""
    try:
        row = connection.execute("SELECT value FROM meta WHERE key = 'clean'").fetchone()
    except sqlite3.OperationalError:
        return True  # no such table: new
    return row is None or row[0] == "1"


def _take_over(connection: sqlite3.Connection, path: Path, opening: Opening, at: str) -> None:
    """Begin an epoch: compare the file with what is known of it, and latch what does not fit."""
    meta = dict(connection.execute("SELECT key, value FROM meta").fetchall())
    opening.book = meta["book"]
    opening.epoch = int(meta.get("epoch", "0")) + 1
    kept = audit.kept_head(path)
    salvaged = bool(opening.findings)
    broken = audit.check_tail(connection, opening.book, kept)
    head = audit.read_head(connection, opening.book)
    if not head.seq and (kept is None or not kept.head.seq):
        audit.keep_head(path, opening.book, head)  # before its first row: later, none means removed
    told: list[audit.Entry] = []
    if broken:
        text = f"the audit trail does not fit what was kept beside it: {broken}"
        opening.findings.append(Finding("AUDIT_BROKEN", f"{text}; everything is halted"))
        told.append((at, audit.BROKEN, "", {"found": broken}))
        _latch(connection, "halted", f"AUDIT_BROKEN: {text}", at)
    binding = Binding.of(path)
    if origin := binding.copied_from(meta["binding"]) if "binding" in meta else "":
        text = (
            f"this home was last used on {origin}: make sure that no engine runs there, then re-arm"
        )
        opening.findings.append(Finding("OTHER_HOST", text))
        _latch(connection, "disarmed", f"OTHER_HOST: {text}", at)
    clean = meta.get("clean", "1") == "1"
    if not clean and not salvaged:
        text = f"the engine did not stop cleanly the last time (epoch {opening.epoch - 1})"
        opening.findings.append(Finding("UNCLEAN_STOP", text, critical=False))
    connection.executemany(
        "INSERT OR REPLACE INTO meta VALUES (?, ?)",
        (("epoch", str(opening.epoch)), ("clean", "0"), ("binding", binding.text())),
    )
    facts = {
        "book": opening.book,
        "epoch": opening.epoch,
        "clean": clean,
        "host": binding.host,
        "found": [f.code for f in opening.findings],
    }
    opening.head = audit.append(connection, head, [*told, (at, "open", "", facts)])


def _latch(connection: sqlite3.Connection, state: str, reason: str, at: str) -> None:
    """Latch the firm, unless it is latched as strictly."""
    row = connection.execute("SELECT state FROM halts WHERE scope = ?", (_FIRM,)).fetchone()
    if row is None or _STRICT.index(row[0]) < _STRICT.index(state):
        connection.execute(
            "INSERT OR REPLACE INTO halts VALUES (?, ?, ?, ?, 'engine')", (_FIRM, state, reason, at)
        )


def _grow_wal(connection: sqlite3.Connection) -> None:
    """Give the WAL its size ahead: an fsync that also records a longer file takes several times as long.

    A transaction larger than the page cache spills into the WAL; rolled back, it leaves nothing but the space, which
    later commits overwrite in place, since the checkpointer keeps letting the WAL begin anew.
    """
    connection.execute("PRAGMA cache_size=16")
    connection.execute("BEGIN IMMEDIATE")
    connection.execute("CREATE TABLE growth (space BLOB)")
    connection.execute("INSERT INTO growth VALUES (zeroblob(?))", (WAL_BYTES,))
    connection.execute("ROLLBACK")
    connection.execute("PRAGMA cache_size=-8000")


class Checker:
    """A full check of a large file after an unclean stop, in a thread beside the running engine."""

    def __init__(self, path: Path, opener: Opener, found: Callable[[str], None]) -> None:
        self._path = path
        self._opener = opener
        self._found = found
        self._stopped = False
        self._thread = threading.Thread(target=self._run, name="journal-check", daemon=True)
        self._thread.start()

    def _run(self) -> None:
        try:
            said = self._check()
        except sqlite3.Error as error:
            said = "ok" if self._stopped else str(error)
        if said != "ok":
            suspect_file(self._path).touch()
            self._found(f"the full check of the journal found damage: {said}")

    def _check(self) -> str:
        # Opened here: a connection belongs to the thread that made it.
        with closing(self._opener(self._path)) as connection:
            connection.set_progress_handler(lambda: self._stopped, _STEPS_BETWEEN_LOOKS)
            said = connection.execute("PRAGMA integrity_check(1)").fetchone()[0]
        return str(said)

    def stop(self) -> None:
        """End it, finished or not."""
        self._stopped = True
        self._thread.join()
