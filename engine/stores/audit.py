"""The audit trail: every decision in a row of its own, each chained to the one before by SHA-256 (control C30).

A row's hash covers the hash before it, its number, stamp, kind, account and facts; changing, removing or putting in a
row breaks the chain from there on. Rows cut off the end leave a chain that is whole: therefore the head (number and
hash of the last row) is also kept beside the database (``HOME/audit.head``).
"""

from __future__ import annotations

import hashlib
import sqlite3
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import orjson

from engine.home import write_json_atomic

BROKEN: Final = "audit.broken"
"""The kind of the row that records a break found at a start: the trail never again passes as whole."""
PUT_AUDIT: Final = "INSERT INTO audit VALUES (?, ?, ?, ?, ?, ?)"
_CANONICAL: Final = orjson.OPT_SORT_KEYS | orjson.OPT_NON_STR_KEYS

Entry = tuple[str, str, str, dict[str, Any]]
"""A row to be: stamp, kind, account, facts."""


@dataclass(frozen=True, slots=True)
class Head:
    """The end of a chain: the number of its last row (0: none) and that row's hash."""

    seq: int
    hash: bytes


def first_head(book: str) -> Head:
    """Return what the chain of a book begins with."""
    return Head(0, hashlib.sha256(f"volley audit {book}".encode()).digest())


def chained(head: Head, at: str, kind: str, account: str, facts: str) -> Head:
    """Return the head once this row stands behind ``head``.

    The fields are written as a JSON list, so that no text can move from one to its neighbour.
    """
    seq = head.seq + 1
    return Head(seq, _digest(head.hash, seq, at, kind, account, facts))


def _digest(before: bytes, seq: int, at: str, kind: str, account: str, facts: str) -> bytes:
    covered = orjson.dumps([before.hex(), seq, at, kind, account, facts])
    return hashlib.sha256(covered).digest()


def read_head(connection: sqlite3.Connection, book: str) -> Head:
    """Return where the chain of an open journal ends."""
    row = connection.execute("SELECT seq, hash FROM audit ORDER BY seq DESC LIMIT 1").fetchone()
    return first_head(book) if row is None else Head(row[0], bytes(row[1]))


def append(connection: sqlite3.Connection, head: Head, entries: Iterable[Entry]) -> Head:
    """Write rows behind ``head`` and return the new one; it counts once the transaction is committed."""
    rows = []
    seq, last = head.seq, head.hash
    for at, kind, account, facts in entries:
        text = orjson.dumps(facts, default=str, option=_CANONICAL).decode()
        seq += 1
        last = _digest(last, seq, at, kind, account, text)
        rows.append((seq, at, kind, account, text, last))
    connection.executemany(PUT_AUDIT, rows)
    return Head(seq, last)


def rows_of(connection: sqlite3.Connection, after: int = 0) -> Iterator[sqlite3.Row]:
    """Read the trail from its begin, or behind row ``after``."""
    yield from connection.execute("SELECT * FROM audit WHERE seq > ? ORDER BY seq", (after,))


# ---- the head beside the database ----------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class KeptHead:
    """What ``HOME/audit.head`` says: how far a book's trail had come when it was last written."""

    book: str
    head: Head


def head_file(journal: Path) -> Path:
    """Return where the head of a journal's trail is kept."""
    return journal.with_name("audit.head")


def keep_head(journal: Path, book: str, head: Head) -> None:
    """Write the head beside the journal, atomically and durably; only ever after its row is durable."""
    document = {"book": book, "seq": head.seq, "hash": head.hash.hex()}
    write_json_atomic(head_file(journal), document)


def kept_head(journal: Path) -> KeptHead | None:
    """Read the head kept beside a journal, ``None`` if there is none; one that cannot be read fits no chain."""
    try:
        content = orjson.loads(head_file(journal).read_bytes())
        return KeptHead(
            str(content["book"]), Head(int(content["seq"]), bytes.fromhex(content["hash"]))
        )
    except FileNotFoundError:
        return None
    except (OSError, ValueError, KeyError, TypeError):
        return KeptHead("", Head(-1, b""))


# ---- verifying -----------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Verdict:
    """What a verification found: the last good row, and the first broken one with the reason (none: ``None``)."""

    verified: int
    broken: int | None = None
    reason: str = ""


def verify(connection: sqlite3.Connection, kept: KeptHead | None) -> Verdict:
    """Walk the whole trail. ``kept`` must have been read before ``connection`` reads: the trail only grows."""
    try:
        book = connection.execute("SELECT value FROM meta WHERE key = 'book'").fetchone()[0]
        head = first_head(book)
        at_kept = head.hash
    except (sqlite3.Error, TypeError) as error:
        return Verdict(0, 1, f"the journal cannot be read: {error}")
    try:
        for row in rows_of(connection):
            after = expected(head, row)
            if after is None:
                return Verdict(head.seq, head.seq + 1, _why(head, row))
            head = after
            if row["kind"] == BROKEN:
                return Verdict(head.seq, head.seq, f"it records a break: {row['facts'][:500]}")
            if kept is not None and head.seq == kept.head.seq:
                at_kept = head.hash
    except sqlite3.Error as error:
        return Verdict(head.seq, head.seq + 1, f"cannot be read: {error}")
    return _against(kept, book, head, at_kept)


def expected(head: Head, row: sqlite3.Row) -> Head | None:
    """Return the head behind ``row`` if it is the one that follows ``head``."""
    texts = (row["at"], row["kind"], row["account"], row["facts"])
    if row["seq"] != head.seq + 1 or not all(isinstance(text, str) for text in texts):
        return None
    try:
        after = chained(head, *texts)
    except (TypeError, ValueError):  # a damaged text is no UTF-8
        return None
    return after if row["hash"] == after.hash else None


def _why(head: Head, row: sqlite3.Row) -> str:
    if row["seq"] != head.seq + 1:
        return f"missing: the next row there is #{row['seq']}"
    return "its content does not fit its hash, or the row before was changed"


def _against(kept: KeptHead | None, book: str, head: Head, at_kept: bytes) -> Verdict:
    """Compare a chain that is whole with the head kept beside it."""
    if kept is None:
        if not head.seq:
            return Verdict(0)
        return Verdict(head.seq, head.seq + 1, "audit.head is missing: rows may have been cut off")
    if kept.book != book:
        return Verdict(head.seq, 1, "audit.head is of another book, or was changed")
    if kept.head.seq > head.seq:
        return Verdict(head.seq, head.seq + 1, f"cut off: there was a row #{kept.head.seq}")
    if at_kept != kept.head.hash:
        return Verdict(head.seq, kept.head.seq, "audit.head knows it with another hash")
    return Verdict(head.seq)


def check_tail(connection: sqlite3.Connection, book: str, kept: KeptHead | None) -> str:
    """Say what is wrong between a journal and the head kept beside it, from that one row; empty if nothing is."""
    head = read_head(connection, book)
    if kept is None:
        return f"{head.seq} rows and no audit.head" if head.seq else ""
    if not kept.head.seq and not head.seq:
        return ""  # perhaps of a book that a crash let never begin
    if kept.book != book:
        return "audit.head is of another book: the journal was removed or replaced"
    if kept.head.seq > head.seq:
        return (
            f"it ends at row #{head.seq} and had a row #{kept.head.seq}: rows were cut off, or an older copy was "
            "put in its place"
        )
    if kept.head.seq == 0:
        return ""
    row = connection.execute("SELECT hash FROM audit WHERE seq = ?", (kept.head.seq,)).fetchone()
    if row is None or bytes(row[0]) != kept.head.hash:
        return f"row #{kept.head.seq} is not the one it was"
    return ""
