"""History in MongoDB: signals, orders, fills and audit as other programs like to read them.

A projection of the journal: it may lag behind and never holds anything up. The newest row of a
key wins.
"""

from __future__ import annotations

from itertools import islice
from typing import Any

from bson.errors import BSONError
from pymongo import ReplaceOne
from pymongo.errors import BulkWriteError, DocumentTooLarge

from engine.model.enums import ConnectionState
from engine.stores.mongo import MongoDatabase
from engine.stores.write_behind import WriteBehind

FLUSH_S = 0.1
IDLE_S = 5.0
BATCH = 1_000
MOST_PENDING = 200_000

_UNIQUE: dict[str, list[tuple[str, int]]] = {
    "orders": [("cl_ord_id", 1)],
    "fills": [("account", 1), ("exec_id", 1)],
}
_INDEXED: dict[str, tuple[str, ...]] = {
    "signals": ("received_at", "strategy"),
    "orders": ("account", "signal_id"),
    "fills": ("cl_ord_id",),
}


class MongoHistory:
    """``History`` over ``database``; whoever opened that closes it.

    While the server is away up to ``most_pending`` rows are kept (the newest of each key);
    beyond that the oldest are given up and ``status`` says how many, and the journal still has
    them.
    """

    def __init__(self, database: MongoDatabase, *, most_pending: int = MOST_PENDING) -> None:
        self._database = database
        self._most_pending = most_pending
        self._pending: dict[tuple[str, str], dict[str, Any]] = {}
        self._indexed = False
        self._given_up = 0
        self._refused = 0
        self._last_refusal = ""
        self._behind = WriteBehind("MongoDB history", self._flush, delay_s=FLUSH_S, idle_s=IDLE_S)

    async def open(self) -> None:
        """Start writing; indexes are ensured as soon as the server answers."""
        self._behind.start()

    async def close(self) -> None:
        """Write what is pending, for two seconds at most."""
        await self._behind.close()

    def write(self, collection: str, key: str, row: dict[str, Any]) -> None:
        """Note the newest ``row`` of ``collection`` under ``key`` (its ``_id``)."""
        if (collection, key) not in self._pending and len(self._pending) >= self._most_pending:
            self._pending.pop(next(iter(self._pending)))
            self._given_up += 1
        self._pending[collection, key] = row
        self._behind.wake()

    def status(self) -> tuple[ConnectionState, str]:
        """Return the connection's state and a sentence."""
        state, text = self._behind.status()
        if self._pending:
            text += f"; {len(self._pending)} rows wait"
        if self._given_up:
            text += f"; {self._given_up} rows were given up while it was away"
        if self._refused:
            text += f"; {self._refused} rows were refused, last: {self._last_refusal}"
        if state is ConnectionState.CONNECTED and (self._given_up or self._refused):
            state = ConnectionState.DEGRADED
        return state, text

    async def _flush(self) -> None:
        if not self._indexed:
            await self._ensure_indexes()
        if not self._pending:
            await self._database.ping()
        while self._pending:
            taken = {key: self._pending.pop(key) for key in [*islice(self._pending, BATCH)]}
            try:
                await self._write(taken)
            except BaseException:
                self._pending = (
                    taken | self._pending
                )  # the newer row of a key wins, the order stays
                raise

    async def _write(self, rows: dict[tuple[str, str], dict[str, Any]]) -> None:
        by_collection: dict[str, list[ReplaceOne[Any]]] = {}
        for (collection, key), row in rows.items():
            write = ReplaceOne({"_id": key}, {**row, "_id": key}, upsert=True)
            by_collection.setdefault(collection, []).append(write)
        for collection, writes in by_collection.items():
            await self._bulk(collection, writes)

    async def _bulk(self, collection: str, writes: list[ReplaceOne[Any]]) -> None:
        try:
            await self._database.collection(collection).bulk_write(writes, ordered=False)
        except BulkWriteError as error:
            details = error.details or {}
            if details.get("writeConcernErrors"):
                raise
            for refusal in details.get("writeErrors", []):
                self._refuse(str(refusal.get("errmsg", "")))
        except (BSONError, DocumentTooLarge, OverflowError) as error:
            if len(writes) == 1:  # found: no retry will make it writable
                self._refuse(str(error))
                return
            for write in writes:
                await self._bulk(collection, [write])

    def _refuse(self, text: str) -> None:
        self._refused += 1
        self._last_refusal = text[:120]

    async def _ensure_indexes(self) -> None:
        for collection, keys in _UNIQUE.items():
            await self._database.collection(collection).create_index(keys, unique=True)
        for collection, fields in _INDEXED.items():
            for field in fields:
                await self._database.collection(collection).create_index(field)
        self._indexed = True
