"""What the kill switch reads when the engine does not answer: the journal and the accounts, changed by nothing here.

A reader of SQLite's WAL waits for no writer, so it does not matter where the engine hangs.
"""

from __future__ import annotations

import sqlite3
from collections import defaultdict
from collections.abc import Iterable
from contextlib import closing
from decimal import Decimal
from pathlib import Path

import orjson

from engine.config import Config
from engine.errors import StoreError
from engine.home import Home
from engine.model.account import Account
from engine.model.identifiers import OPERATOR
from engine.model.order import Order
from engine.stores.account_documents import read_account
from engine.stores.journal_rows import order_from_row

_MOST_IDS = 500  # in one statement


class Books:
    """The journal as it was last written.

    ``orders``: by account, those that are not over as far as it knows. ``planned``: by account, orders of taken
    signals that have no row yet (ClOrdID → symbol and strategy). ``positions``: by account and symbol, signed.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self.book = ""
        self.orders: dict[str, list[Order]] = defaultdict(list)
        self.planned: dict[str, dict[str, tuple[str, str]]] = defaultdict(dict)
        self.positions: dict[tuple[str, str], Decimal] = {}

    def read(self) -> None:
        """Read it.

        Raises:
            StoreError: there is none, or it cannot be read.
        """
        try:
            with closing(_reader(self._path)) as db:
                self.book = db.execute("SELECT value FROM meta WHERE key = 'book'").fetchone()[0]
                for row in db.execute("SELECT * FROM orders WHERE working = 1"):
                    self.orders[row["account"]].append(order_from_row(row))
                for row in db.execute("SELECT account, symbol, qty FROM positions"):
                    self.positions[row["account"], row["symbol"]] = Decimal(row["qty"])
                for row in db.execute("SELECT body, plan FROM signals WHERE settled = 0"):
                    self._plan(orjson.loads(row["body"]), orjson.loads(row["plan"]))
        except (sqlite3.Error, OSError, LookupError, TypeError, ValueError) as error:
            raise StoreError(f"{self._path} cannot be read: {error}") from None

    def _plan(self, signal: dict[str, str], plan: dict[str, list[list[object]]]) -> None:
        for *_, rows in plan.get("orders", ()):
            for cl_ord_id, account, _quantity in rows:  # type: ignore[attr-defined]
                self.planned[account][cl_ord_id] = (signal["symbol"], signal["strategy"])

    def strategies(self, cl_ord_ids: Iterable[str]) -> dict[str, str]:
        """Return the strategy of each of these orders that is ours.

        Raises:
            StoreError: the journal cannot be read.
        """
        wanted = list(cl_ord_ids)
        found = {row["cl_ord_id"]: row["strategy"] for row in self._rows(wanted)}
        for planned in self.planned.values():
            found.update((i, planned[i][1]) for i in wanted if i in planned)
        return found

    def exits_by_hand(self, cl_ord_ids: Iterable[str], since: str) -> set[str]:
        """Return those that are an operator's exits made since then (RFC 3339): they have a row before they leave.

        Raises:
            StoreError: the journal cannot be read.
        """
        return {
            row["cl_ord_id"]
            for row in self._rows(list(cl_ord_ids))
            if row["source"] == OPERATOR and row["reducing"] and row["created_at"] >= since
        }

    def _rows(self, cl_ord_ids: list[str]) -> list[sqlite3.Row]:
        found: list[sqlite3.Row] = []
        try:
            with closing(_reader(self._path)) as db:
                for start in range(0, len(cl_ord_ids), _MOST_IDS):
                    part = cl_ord_ids[start : start + _MOST_IDS]
                    marks = ", ".join("?" * len(part))
                    found += db.execute(
                        "SELECT cl_ord_id, strategy, source, reducing, created_at FROM orders "  # noqa: S608
                        f"WHERE cl_ord_id IN ({marks})",
                        part,
                    )
        except sqlite3.Error as error:
            raise StoreError(f"{self._path} cannot be read: {error}") from None
        return found


def _reader(path: Path) -> sqlite3.Connection:
    db = sqlite3.connect(f"{path.as_uri()}?mode=ro", uri=True, timeout=1.0)
    db.row_factory = sqlite3.Row
    return db


async def accounts_of(home: Home, config: Config) -> tuple[list[Account], dict[str, str]]:
    """Return every account, switched off or not, and why others cannot be read (by id).

    Raises:
        StoreError: the accounts cannot be read.
    """
    if config.storage.profile == "servers":
        from engine.stores.accounts_mongo import MongoAccountStore
        from engine.stores.mongo import open_mongo

        database = open_mongo(config.storage.mongo_url, config.storage.mongo_driver)
        try:
            store = MongoAccountStore(database)
            return await store.load(), store.problems()
        finally:
            await database.close()
    path = home.path / "accounts.sqlite3"
    if not path.exists():
        return [], {}
    try:
        with closing(_reader(path)) as db:
            rows = db.execute("SELECT id, document FROM accounts ORDER BY id").fetchall()
    except (sqlite3.Error, OSError) as error:
        raise StoreError(f"{path} cannot be read: {error}") from None
    accounts, problems = [], {}
    for account_id, document in rows:
        try:
            accounts.append(read_account(account_id, orjson.loads(document)))
        except ValueError as error:
            problems[account_id] = str(error)
    return accounts, problems
