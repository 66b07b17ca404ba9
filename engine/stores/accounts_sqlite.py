"""Accounts in an SQLite file of their own; the command line writes it while an engine runs."""

from __future__ import annotations

import asyncio
import os
import sqlite3
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TypeVar

import orjson

from engine.errors import StoreError
from engine.model.account import Account
from engine.ports import AccountsChanged
from engine.stores.account_documents import read_account

T = TypeVar("T")

POLL_S = 0.25
BUSY_S = 5.0

# The triggers number every change, so that ``watch`` sees one made by any program (a shell too).
_SCHEMA = """
CREATE TABLE IF NOT EXISTS accounts (
    id TEXT PRIMARY KEY, document TEXT NOT NULL, version INTEGER NOT NULL DEFAULT 0
) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS changes (
    one INTEGER PRIMARY KEY CHECK (one = 1), version INTEGER NOT NULL
);
INSERT OR IGNORE INTO changes VALUES (1, 0);
CREATE TRIGGER IF NOT EXISTS account_added AFTER INSERT ON accounts BEGIN
    UPDATE changes SET version = version + 1;
    UPDATE accounts SET version = (SELECT version FROM changes) WHERE id = NEW.id;
END;
CREATE TRIGGER IF NOT EXISTS account_changed AFTER UPDATE OF id, document ON accounts BEGIN
    UPDATE changes SET version = version + 1;
    UPDATE accounts SET version = (SELECT version FROM changes) WHERE id = NEW.id;
END;
CREATE TRIGGER IF NOT EXISTS account_removed AFTER DELETE ON accounts BEGIN
    UPDATE changes SET version = version + 1;
END;
"""


class SqliteAccountStore:
    """``AccountStore`` over ``path`` (``HOME/accounts.sqlite3``).

    Every statement runs in one thread of its own, never on the loop. A failure of the file is a
    ``StoreError``. ``get`` of an unreadable document returns ``None`` and notes it in ``problems``.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._executor: ThreadPoolExecutor | None = None
        self._db: sqlite3.Connection | None = None
        self._problems: dict[str, str] = {}
        self._seen: dict[str, int] | None = (
            None  # id → version the watcher has told, or load has read
        )

    async def open(self) -> None:
        """Open or create the file, readable by this user only."""
        if self._executor is not None:
            return
        self._executor = ThreadPoolExecutor(1, thread_name_prefix="accounts-sqlite")
        try:
            self._db = await self._run(self._connect)
        except BaseException:
            self._executor.shutdown()
            self._executor = None
            raise

    async def close(self) -> None:
        """Close the file; safe to call twice."""
        executor, self._executor = self._executor, None
        if executor is None:
            return
        db, self._db = self._db, None
        if db is not None:
            await asyncio.get_running_loop().run_in_executor(executor, db.close)
        executor.shutdown()

    async def load(self) -> list[Account]:
        """Return every readable account, by id; the others are in ``problems``."""
        rows = await self._run(self._select_all)
        if self._seen is None:
            self._seen = {account_id: version for account_id, _, version in rows}
        self._problems = {}
        accounts = (self._read(account_id, document) for account_id, document, _ in rows)
        return [account for account in accounts if account is not None]

    def problems(self) -> dict[str, str]:
        """Return id → sentence for the documents that could not be read."""
        return dict(self._problems)

    async def get(self, account_id: str) -> Account | None:
        """Return one account, ``None`` if there is none or it cannot be read."""
        document = await self._run(self._select_one, account_id)
        self._problems.pop(account_id, None)
        return None if document is None else self._read(account_id, document)

    async def put(self, accounts: Iterable[Account]) -> None:
        """Insert or replace accounts in one transaction."""
        rows = [(a.id, orjson.dumps(a.document()).decode()) for a in accounts]
        if rows:
            await self._run(self._upsert, rows)

    async def remove(self, account_id: str) -> bool:
        """Remove one; say whether it was there."""
        return await self._run(self._delete, account_id)

    async def watch(self, changed: AccountsChanged) -> None:
        """Call ``changed`` with the ids added, changed or removed, until cancelled.

        Changes count from the first ``load``, so that none falls between reading and watching.
        A file that cannot be read for a while (a long write by another program) is asked again.
        """
        last = -1
        while True:
            try:
                version = await self._run(self._version)
                now = await self._run(self._versions) if version != last else self._seen
            except StoreError:
                await asyncio.sleep(POLL_S)
                continue
            last = version
            if now is not None and (ids := _difference(self._seen, now)):
                await changed(ids)
            self._seen = now
            await asyncio.sleep(POLL_S)

    def _read(self, account_id: str, document: str | bytes) -> Account | None:
        try:
            return read_account(account_id, orjson.loads(document))
        except orjson.JSONDecodeError:
            self._problems[account_id] = "the document is not JSON"
        except ValueError as error:
            self._problems[account_id] = str(error)
        return None

    async def _run(self, work: Callable[..., T], *args: object) -> T:
        if self._executor is None:
            raise StoreError(f"the accounts file {self._path} is not open")
        try:
            return await asyncio.get_running_loop().run_in_executor(self._executor, work, *args)
        except (sqlite3.Error, OSError) as error:
            raise StoreError(f"the accounts file {self._path} failed: {error}") from error

    # All below runs in the store's own thread.

    def _connect(self) -> sqlite3.Connection:
        self._path.parent.mkdir(parents=True, exist_ok=True)
        os.close(os.open(self._path, os.O_CREAT | os.O_RDWR, 0o600))  # before SQLite makes it wider
        db = sqlite3.connect(
            self._path, timeout=BUSY_S, isolation_level=None, check_same_thread=False
        )
        try:
            db.execute("PRAGMA journal_mode = WAL")
            db.execute("PRAGMA synchronous = FULL")
            db.executescript(_SCHEMA)
        except BaseException:
            db.close()
            raise
        return db

    def _connection(self) -> sqlite3.Connection:
        if self._db is None:
            raise sqlite3.ProgrammingError("the file is closed")
        return self._db

    def _select_all(self) -> list[tuple[str, str, int]]:
        sql = "SELECT id, document, version FROM accounts ORDER BY id"
        return self._connection().execute(sql).fetchall()

    def _select_one(self, account_id: str) -> str | None:
        sql = "SELECT document FROM accounts WHERE id = ?"
        row = self._connection().execute(sql, (account_id,)).fetchone()
        return None if row is None else str(row[0])

    def _version(self) -> int:
        return int(self._connection().execute("SELECT version FROM changes").fetchone()[0])

    def _versions(self) -> dict[str, int]:
        return dict(self._connection().execute("SELECT id, version FROM accounts").fetchall())

    def _upsert(self, rows: list[tuple[str, str]]) -> None:
        sql = (
            "INSERT INTO accounts (id, document) VALUES (?, ?) "
            "ON CONFLICT (id) DO UPDATE SET document = excluded.document"
        )
        db = self._connection()
        db.execute("BEGIN IMMEDIATE")
        with db:  # commits, or rolls everything back
            db.executemany(sql, rows)

    def _delete(self, account_id: str) -> bool:
        cursor = self._connection().execute("DELETE FROM accounts WHERE id = ?", (account_id,))
        return cursor.rowcount > 0


def _difference(before: dict[str, int] | None, now: dict[str, int]) -> list[str]:
    if before is None:
        return []
    return sorted(i for i in before.keys() | now.keys() if before.get(i) != now.get(i))
