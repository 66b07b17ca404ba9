"""Where practice accounts live between runs: rows of (account, kind, key) → document.

``save`` calls back once the rows are safe; the session tells nothing to the engine before that, so
after a crash the ledger knows all that anyone was ever told.
"""

from __future__ import annotations

import asyncio
import sqlite3
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple, Protocol

from engine.errors import StoreError

_SCHEMA = """
CREATE TABLE IF NOT EXISTS facts (
    account TEXT NOT NULL, kind TEXT NOT NULL, key TEXT NOT NULL, document TEXT NOT NULL,
    PRIMARY KEY (account, kind, key)
) WITHOUT ROWID
"""
_UPSERT = "INSERT OR REPLACE INTO facts (account, kind, key, document) VALUES (?, ?, ?, ?)"
_SELECT = "SELECT account, kind, key, document FROM facts WHERE account = ?"


class Row(NamedTuple):
    """One fact; ``document`` is JSON text."""

    account: str
    kind: str
    key: str
    document: str


Saved = Callable[[BaseException | None], None]


class PaperLedger(Protocol):
    """Keeps rows. One for all accounts; used from one event loop."""

    async def load(self, account: str) -> list[Row]:
        """Return every row of an account, in no order.

        Raises:
            StoreError: the ledger cannot be read.
        """
        ...

    def save(self, rows: Sequence[Row], saved: Saved) -> None:
        """Insert or replace rows; ``saved`` is called later, in order, with the error if any."""
        ...

    async def close(self) -> None:
        """Finish what was asked and release everything."""
        ...


class MemoryLedger:
    """Rows that live as long as the process."""

    def __init__(self) -> None:
        self._rows: dict[str, dict[tuple[str, str], Row]] = {}

    async def load(self, account: str) -> list[Row]:
        """Return every row of an account."""
        return list(self._rows.get(account, {}).values())

    def save(self, rows: Sequence[Row], saved: Saved) -> None:
        """Insert or replace rows."""
        for row in rows:
            self._rows.setdefault(row.account, {})[row.kind, row.key] = row
        asyncio.get_running_loop().call_soon(saved, None)

    async def close(self) -> None:
        """Release nothing."""


class SqliteLedger:
    """Rows in SQLite, written by one thread; what piles up meanwhile shares a transaction."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="paper-ledger")
        self._connection: sqlite3.Connection | None = None
        self._waiting: list[tuple[Sequence[Row], Saved]] = []
        self._writing: asyncio.Future[None] | None = None

    async def load(self, account: str) -> list[Row]:
        """Return every row of an account, all saves so far included."""
        await self._drain()
        loop = asyncio.get_running_loop()
        try:
            return await loop.run_in_executor(self._thread, self._select, account)
        except (sqlite3.Error, OSError) as error:
            raise StoreError(f"paper ledger {self._path} cannot be read: {error}") from error

    def save(self, rows: Sequence[Row], saved: Saved) -> None:
        """Insert or replace rows soon."""
        self._waiting.append((rows, saved))
        if self._writing is None:
            self._write_next()

    async def close(self) -> None:
        """Write what is pending and close the file."""
        await self._drain()
        await asyncio.get_running_loop().run_in_executor(self._thread, self._close)
        self._thread.shutdown()

    async def _drain(self) -> None:
        while self._writing is not None:
            await asyncio.wait([self._writing])
            await asyncio.sleep(0)  # its callback starts the next write

    def _write_next(self) -> None:
        batch, self._waiting = self._waiting, []
        rows = [row for saved_rows, _ in batch for row in saved_rows]
        loop = asyncio.get_running_loop()
        self._writing = loop.run_in_executor(self._thread, self._upsert, rows)

        def written(future: asyncio.Future[None]) -> None:
            error = future.exception()
            self._writing = None
            if self._waiting:
                self._write_next()
            for _, saved in batch:
                saved(error)

        self._writing.add_done_callback(written)

    # On the ledger's thread

    def _open(self) -> sqlite3.Connection:
        if self._connection is None:
            self._path.parent.mkdir(parents=True, exist_ok=True)
            self._connection = sqlite3.connect(self._path, isolation_level=None)
            self._connection.execute("PRAGMA journal_mode=WAL")
            self._connection.execute("PRAGMA synchronous=NORMAL")
            self._connection.execute(_SCHEMA)
        return self._connection

    def _select(self, account: str) -> list[Row]:
        return [Row(*columns) for columns in self._open().execute(_SELECT, (account,))]

    def _upsert(self, rows: list[Row]) -> None:
        connection = self._open()
        connection.execute("BEGIN IMMEDIATE")
        try:
            connection.executemany(_UPSERT, rows)
        except BaseException:
            connection.execute("ROLLBACK")
            raise
        connection.execute("COMMIT")

    def _close(self) -> None:
        if self._connection is not None:
            self._connection.close()
            self._connection = None
