"""Accounts in MongoDB: ``_id`` is the account's id, every other field as in the accounts file."""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Iterable, Mapping
from hashlib import blake2b
from typing import Any

import bson
from pymongo import ReplaceOne
from pymongo.errors import OperationFailure, PyMongoError

from engine.errors import StoreError
from engine.model.account import Account
from engine.ports import AccountsChanged
from engine.stores.account_documents import read_account
from engine.stores.mongo import MongoDatabase, end_if_cancelled, settled
from engine.stores.write_behind import sentence

POLL_S = 0.5
PUT_ATTEMPTS = 6
GATHER_S = 0.25  # changes made together are told together
LONGEST_WAIT_S = 2.0
# 40573: no replica set; 20 and 263: neither transactions nor streams here; 59: no such command.
_UNSUPPORTED = frozenset({20, 59, 115, 263, 40324, 40573})


class MongoAccountStore:
    """``AccountStore`` over the collection ``accounts``; whoever opened ``database`` closes it.

    A failing server is a ``StoreError``. ``get`` of a document that cannot be read returns
    ``None`` and notes it in ``problems``.
    """

    def __init__(self, database: MongoDatabase) -> None:
        self._database = database
        self._accounts = database.collection("accounts")
        self._problems: dict[str, str] = {}
        self._seen: dict[str, bytes] | None = None  # id → digest the watcher has told, or load read

    async def open(self) -> None:
        """Connect and ensure the indexes on ``active``, ``tags`` and ``strategies``."""
        try:
            for field in ("active", "tags", "strategies"):
                await self._accounts.create_index(field)
        except PyMongoError as error:
            raise _failed(error) from error

    async def close(self) -> None:
        """Do nothing: the database is shared and closed by its opener."""

    async def load(self) -> list[Account]:
        """Return every readable account, by id; the others are in ``problems``."""
        documents = await self._documents()
        if self._seen is None:
            self._seen = _digests(documents)
        self._problems = {}
        accounts = (self._read(document) for document in documents)
        return [account for account in accounts if account is not None]

    def problems(self) -> dict[str, str]:
        """Return id → sentence for the documents that could not be read."""
        return dict(self._problems)

    async def get(self, account_id: str) -> Account | None:
        """Return one account, ``None`` if there is none or it cannot be read."""
        try:
            document = await self._accounts.find_one({"_id": account_id})
        except PyMongoError as error:
            raise _failed(error) from error
        self._problems.pop(account_id, None)
        return None if document is None else self._read(document)

    async def put(self, accounts: Iterable[Account]) -> None:
        """Insert or replace accounts, all or none.

        A server without transactions (a standalone ``mongod``) gets one ordered bulk write,
        which only a failure of the server itself can cut short.
        """
        writes = [ReplaceOne({"_id": a.id}, _stored(a), upsert=True) for a in accounts]
        if not writes:
            return
        for attempt in range(PUT_ATTEMPTS):
            try:
                await self._put_once(writes)
            except PyMongoError as error:
                collided = error.has_error_label("TransientTransactionError")  # nothing was written
                if not collided or attempt == PUT_ATTEMPTS - 1:
                    raise _failed(error) from error
                await asyncio.sleep(random.uniform(0, 0.02 * 2**attempt))  # noqa: S311 (jitter)
            else:
                return

    async def _put_once(self, writes: list[ReplaceOne[Any]]) -> None:
        try:
            async with self._database.transaction() as session:
                await self._accounts.bulk_write(writes, session=session)
        except OperationFailure as error:
            if error.code not in _UNSUPPORTED:
                raise
            await self._accounts.bulk_write(writes)

    async def remove(self, account_id: str) -> bool:
        """Remove one; say whether it was there."""
        try:
            result = await self._accounts.delete_one({"_id": account_id})
        except PyMongoError as error:
            raise _failed(error) from error
        return bool(result.deleted_count)

    async def watch(self, changed: AccountsChanged) -> None:
        """Call ``changed`` with the ids added, changed or removed by any program, until cancelled.

        Follows the change stream; where the server has none, compares twice a second. Changes
        count from the first ``load``. While the server is away it is tried again; what changed
        meanwhile is told.
        """
        wait = GATHER_S
        while True:
            try:
                async with await self._stream() as stream:
                    wait = GATHER_S
                    await self._tell_differences(changed)  # what the stream was not there to see
                    await self._follow(stream, changed)
            except (PyMongoError, StoreError) as error:
                if getattr(error, "code", None) in _UNSUPPORTED:
                    await self._poll(changed)
                end_if_cancelled()
                await asyncio.sleep(wait)
                wait = min(wait * 2, LONGEST_WAIT_S)

    async def _stream(self) -> Any:
        milliseconds = int(GATHER_S * 1000)
        return await settled(self._accounts.watch(max_await_time_ms=milliseconds))

    async def _follow(self, stream: Any, changed: AccountsChanged) -> None:
        while stream.alive:
            end_if_cancelled()
            ids: dict[str, None] = {}
            deadline = time.monotonic() + GATHER_S
            while (change := await stream.try_next()) is not None:
                end_if_cancelled()
                if "documentKey" not in change:  # dropped or renamed: open anew and compare
                    return
                ids[str(change["documentKey"]["_id"])] = None
                if time.monotonic() > deadline:
                    break
            if ids:
                await changed(list(ids))

    async def _poll(self, changed: AccountsChanged) -> None:
        while True:
            await self._tell_differences(changed)
            end_if_cancelled()
            await asyncio.sleep(POLL_S)

    async def _tell_differences(self, changed: AccountsChanged) -> None:
        now = _digests(await self._documents())
        before = now if self._seen is None else self._seen
        ids = sorted(i for i in before.keys() | now.keys() if before.get(i) != now.get(i))
        if ids:
            await changed(ids)
        self._seen = now

    async def _documents(self) -> list[dict[str, Any]]:
        try:
            return [document async for document in self._accounts.find().sort("_id", 1)]
        except PyMongoError as error:
            raise _failed(error) from error

    def _read(self, document: Mapping[str, Any]) -> Account | None:
        account_id = str(document["_id"])
        fields = {name: value for name, value in document.items() if name != "_id"}
        try:
            return read_account(account_id, {"id": account_id, **fields})
        except ValueError as error:
            self._problems[account_id] = str(error)
            return None


def _stored(account: Account) -> dict[str, Any]:
    document = account.document()
    return {"_id": document.pop("id"), **document}


def _digests(documents: list[dict[str, Any]]) -> dict[str, bytes]:
    return {str(d["_id"]): blake2b(bson.encode(d), digest_size=16).digest() for d in documents}


def _failed(error: PyMongoError) -> StoreError:
    return StoreError(sentence("the accounts in MongoDB", error))
