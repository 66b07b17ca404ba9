"""The audit trail's copy in a real MongoDB: every row once, through outages, restarts and a journal put back."""

from __future__ import annotations

import asyncio
import shutil
import sqlite3
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, closing
from pathlib import Path
from typing import Any
from uuid import uuid4

import orjson
import pymongo
import pytest

from engine.stores import audit_mongo
from engine.stores.audit import rows_of
from engine.stores.audit_mongo import MongoAudit
from engine.stores.journal import Journal
from engine.stores.mongo import open_mongo
from tests.integration.test_redis_intake import until
from tests.servers import Mongo, collected, driver_sockets  # noqa: F401 (a fixture)

pytestmark = [driver_sockets, pytest.mark.usefixtures("collected")]


@asynccontextmanager
async def written(path: Path, *kinds: str, **facts: Any) -> AsyncIterator[Journal]:
    """Open a journal, tell its trail of ``kinds``, and keep it open."""
    journal = Journal(path)
    await journal.open()
    try:
        for kind in kinds:
            journal.audit(kind, {"why": kind, **facts}, "A-1")
        await journal.flushed()
        yield journal
    finally:
        await journal.close()


def trail(path: Path) -> list[dict[str, Any]]:
    """Return the documents that a journal's trail is to be."""
    with closing(sqlite3.connect(path)) as connection:
        connection.row_factory = sqlite3.Row
        (book,) = connection.execute("SELECT value FROM meta WHERE key = 'book'").fetchone()
        return [
            {
                "_id": f"{book}/{row['seq']}",
                "book": book,
                **{name: row[name] for name in ("seq", "at", "kind", "account")},
                "facts": orjson.loads(row["facts"]),
                "hash": row["hash"].hex(),
            }
            for row in rows_of(connection)
        ]


def stored(url: str) -> list[dict[str, Any]]:
    with pymongo.MongoClient(url) as client:
        return list(client.get_default_database().audit.find().sort("seq"))


async def copied(url: str, path: Path, book: str, driver: Any = "pymongo") -> None:
    """Run a copy until MongoDB has what the journal has."""
    copy = MongoAudit(open_mongo(url, driver), path, book)
    await copy.start()
    try:
        await same(url, path)
    finally:
        await copy.stop()


async def same(url: str, path: Path) -> None:
    async def is_same() -> bool:
        return await asyncio.to_thread(lambda: stored(url) == trail(path))

    await until(is_same)


@pytest.fixture
def url(mongo: Mongo) -> str:
    return mongo.database(f"audit_{uuid4().hex}")


@pytest.mark.parametrize("driver", ["pymongo", "motor"])
async def test_every_row_and_on_from_there_at_the_next_start(
    url: str, tmp_path: Path, driver: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(audit_mongo, "BATCH", 2)
    path = tmp_path / "journal.sqlite3"
    async with written(path, "one", "two", "three", "four", "five") as journal:
        await copied(url, path, journal.book, driver)
    with pymongo.MongoClient(url) as client:  # what is there is not written again
        client.get_default_database().audit.update_one({"seq": 1}, {"$set": {"seen": True}})
    async with written(path, "six") as journal:
        copy = MongoAudit(open_mongo(url, driver), path, journal.book)
        await copy.start()
        await until(lambda: asyncio.to_thread(lambda: stored(url)[-1]["kind"] == "six"))
        journal.audit("seven", {})
        await journal.flushed()
        await until(lambda: asyncio.to_thread(lambda: stored(url)[-1]["kind"] == "seven"))
        await copy.stop()
        first, *rest = stored(url)
        assert first.pop("seen") is True
        assert [first, *rest] == trail(path)


async def test_an_outage_loses_nothing(tmp_path: Path) -> None:
    path = tmp_path / "journal.sqlite3"
    with Mongo() as server:
        async with written(path, "before") as journal:
            copy = MongoAudit(open_mongo(server.url), path, journal.book)
            await copy.start()
            await same(server.url, path)
            server.kill()
            journal.audit("meanwhile", {})
            await journal.flushed()
            await until(lambda: copy.status()[0].value == "disconnected")
            server.start()
            await same(server.url, path)
            await copy.stop()


async def test_a_journal_put_back_from_a_copy_is_what_is_shown(url: str, tmp_path: Path) -> None:
    path, kept = tmp_path / "journal.sqlite3", tmp_path / "kept.sqlite3"
    async with written(path, "one"):
        pass
    shutil.copy(path, kept)
    async with written(path, "lost") as journal:
        await copied(url, path, journal.book)
    shutil.copy(kept, path)  # closed: there is no log beside it
    async with written(path, "instead", "and more", "and more") as journal:
        await copied(url, path, journal.book)


async def test_what_mongodb_has_no_type_for_is_there_as_text(url: str, tmp_path: Path) -> None:
    path = tmp_path / "journal.sqlite3"
    async with written(path, "large", n=2**63) as journal:
        copy = MongoAudit(open_mongo(url), path, journal.book)
        await copy.start()
        await until(lambda: asyncio.to_thread(lambda: stored(url)))
        await copy.stop()
    row = next(row for row in stored(url) if row["kind"] == "large")
    assert orjson.loads(row["facts"]) == {"why": "large", "n": 2**63}
