"""A journal read from outside: another process's, or a copy. Never written, never locked, never brought up to date."""

from __future__ import annotations

import contextlib
import sqlite3
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from engine.errors import StoreError
from engine.stores.journal_schema import SCHEMA_VERSION

NAME: Final = "journal.sqlite3"
_BUSY_S: Final = 5.0


def journal_of(place: Path) -> Path:
    """Return the journal of a home, or the file itself where ``place`` is one; makes no directory.

    Raises:
        StoreError: there is none.
    """
    path = place.expanduser().absolute()
    if path.is_dir():
        path /= NAME
    if not path.is_file():
        raise StoreError(f"no journal in {place}: expected a home or a copy of its {NAME}")
    return path


@contextlib.contextmanager
def reading(path: Path) -> Iterator[sqlite3.Connection]:
    """Yield a read-only connection that sees one picture of the journal, whatever is added meanwhile.

    Raises:
        StoreError: it cannot be read, or is of another version.
    """
    connection = _connect(path)
    try:
        connection.row_factory = sqlite3.Row
        connection.execute("BEGIN")
        _check_version(connection, path)
        yield connection
    except sqlite3.Error as error:
        raise StoreError(f"{path}: {error}") from None
    finally:
        connection.close()


def _connect(path: Path) -> sqlite3.Connection:
    """Open the file; one without a log beside it also where its directory takes no writes (a copy on other media)."""
    connection = _open(path, "mode=ro")
    try:
        connection.execute("SELECT count(*) FROM sqlite_master").fetchone()
    except sqlite3.OperationalError:
        connection.close()
        if path.with_name(f"{path.name}-wal").exists():
            raise StoreError(
                f"{path}: cannot be read here; copy it to where you may write"
            ) from None
        return _open(path, "immutable=1")
    except sqlite3.Error as error:
        connection.close()
        raise StoreError(f"{path}: {error}") from None
    return connection


def _open(path: Path, how: str) -> sqlite3.Connection:
    return sqlite3.connect(
        f"{path.as_uri()}?{how}", uri=True, timeout=_BUSY_S, check_same_thread=False
    )


def _check_version(connection: sqlite3.Connection, path: Path) -> None:
    names = {row[0] for row in connection.execute("SELECT name FROM sqlite_master")}
    if "meta" not in names:
        raise StoreError(f"{path}: no journal of Volley")
    found = connection.execute("SELECT value FROM meta WHERE key = 'schema'").fetchone()
    version = found[0] if found is not None else "1"
    if version != str(SCHEMA_VERSION):
        hint = "start the engine on it once" if version < str(SCHEMA_VERSION) else "update Volley"
        raise StoreError(f"{path}: schema version {version}, this reads {SCHEMA_VERSION}; {hint}")
