"""The audit trail in MongoDB, for other programs: the collection ``audit``, a document a row.

A projection: the journal's own trail is what ``audit verify`` checks. It may lag, nothing waits for it, and after an
outage or a restart it goes on where it had ended.
"""

from __future__ import annotations

import asyncio
import sqlite3
from contextlib import closing
from itertools import islice
from pathlib import Path
from typing import Any, Final

import orjson
from bson.errors import BSONError
from pymongo import ReplaceOne
from pymongo.errors import BulkWriteError, DocumentTooLarge

from engine.model.enums import ConnectionState
from engine.stores.audit import rows_of
from engine.stores.mongo import MongoDatabase
from engine.stores.write_behind import WriteBehind

EVERY_S: Final = 0.5
BATCH: Final = 1_000
_UNWRITABLE: Final = (BSONError, BulkWriteError, DocumentTooLarge, OverflowError)

Row = dict[str, Any]


class MongoAudit:
    """Copies the trail of the ``book`` in the file ``journal`` to ``database``, which it closes at the end."""

    def __init__(self, database: MongoDatabase, journal: Path, book: str) -> None:
        self._database = database
        self._journal = journal
        self._book = book
        self._copied: int | None = None  # the newest row that is there; asked at first
        self._ending = False
        self._behind = WriteBehind("MongoDB audit", self._flush, delay_s=EVERY_S, idle_s=EVERY_S)

    async def start(self) -> None:
        """Begin to copy; a server that is away is waited for in the background."""
        self._behind.start()

    async def stop(self) -> None:
        """Copy what is there, for two seconds at most; what is written later comes at the next start."""
        self._ending = True
        await self._behind.close()
        await self._database.close()

    def status(self) -> tuple[ConnectionState, str]:
        """Return the connection's state and a sentence."""
        return self._behind.status()

    async def _flush(self) -> None:
        if self._ending and self.status()[0] is not ConnectionState.CONNECTED:
            return  # an end does not wait for a server that is away
        if self._copied is None:
            self._copied = await self._begin()
        while rows := await asyncio.to_thread(self._read, self._copied, BATCH):
            await self._write(rows)
            self._copied = rows[-1]["seq"]

    async def _begin(self) -> int:
        """Return the row to go on behind: the newest one here, if it is one of this trail (0: from its begin)."""
        collection = self._database.collection("audit")
        await collection.create_index([("book", 1), ("seq", 1)], unique=True)
        newest = await collection.find_one({"book": self._book}, sort=[("seq", -1)])
        if newest is None:
            await self._database.ping()
            return 0
        seq = int(newest["seq"])
        ours = await asyncio.to_thread(self._read, seq - 1, 1)
        # A journal put back from a copy has other rows under these numbers.
        return seq if ours and ours[0]["hash"] == newest["hash"] else 0

    def _read(self, after: int, most: int) -> list[Row]:
        """Return the documents of the rows behind ``after``."""
        location = f"{self._journal.resolve().as_uri()}?mode=ro"
        with closing(sqlite3.connect(location, uri=True, timeout=5.0)) as connection:
            connection.row_factory = sqlite3.Row
            return [self._document(row) for row in islice(rows_of(connection, after), most)]

    def _document(self, row: sqlite3.Row) -> Row:
        return {
            "_id": f"{self._book}/{row['seq']}",
            "book": self._book,
            "seq": row["seq"],
            "at": row["at"],
            "kind": row["kind"],
            "account": row["account"],
            "facts": orjson.loads(row["facts"]),
            "hash": bytes(row["hash"]).hex(),
        }

    async def _write(self, rows: list[Row]) -> None:
        # In their order: after a restart it goes on behind the newest row that is there.
        collection = self._database.collection("audit")
        try:
            await collection.bulk_write([_replace(row) for row in rows])
        except _UNWRITABLE as error:
            if isinstance(error, BulkWriteError) and (error.details or {}).get(
                "writeConcernErrors"
            ):
                raise
            # What MongoDB has no type for, like a very long number, goes there as the text it is in the journal.
            plain = [row | {"facts": orjson.dumps(row["facts"]).decode()} for row in rows]
            await collection.bulk_write([_replace(row) for row in plain])


def _replace(row: Row) -> ReplaceOne[Any]:
    return ReplaceOne({"_id": row["_id"]}, row, upsert=True)
