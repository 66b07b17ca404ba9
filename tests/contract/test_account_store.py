"""What every account store promises: the same on SQLite and, by both drivers, on MongoDB."""

from __future__ import annotations

import asyncio
import json
import os
import sqlite3
import subprocess
import sys
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager, closing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from uuid import uuid4

import pymongo
import pytest

from engine.errors import ConfigError, StoreError
from engine.model.account import Account
from engine.ports import AccountStore
from engine.stores.accounts_mongo import MongoAccountStore
from engine.stores.accounts_sqlite import SqliteAccountStore
from engine.stores.mongo import open_mongo
from tests.servers import Mongo, collected, driver_sockets  # noqa: F401 (a fixture)

pytestmark = [driver_sockets, pytest.mark.usefixtures("collected")]


def account(account_id: str, **changes: Any) -> Account:
    document = {
        "id": account_id,
        "name": "Alice",
        "broker": "alpaca",
        "base_url": "https://paper-api.alpaca.markets",
        "credentials": {"key_id": "env:ALICE_KEY", "secret": "enc:v1:AAAA"},
        "tags": ["gold", "eu"],
        "strategies": ["breakout"],
        "symbols": ["AAPL", "BTC/USD"],
        "approval": "review",
        "sizing": {"method": "risk_percent", "percent": "0.50"},
        "limits": {"max_order_quantity": "0.000000000001", "max_positions": 10},
        "hours": {"zone": "America/New_York", "open": "09:30", "close": "16:00"},
    }
    return Account.model_validate(document | changes)


@dataclass
class Rig:
    """A kind of store: opens instances of it, and writes into it as another program would."""

    opened: Callable[[], Any]  # an async context manager of a store
    write_raw: Callable[[str, dict[str, Any]], None]
    remove_raw: Callable[[str], None]


@pytest.fixture(params=["sqlite", "pymongo", "motor"])
async def rig(request: pytest.FixtureRequest, tmp_path: Path) -> Rig:
    if request.param == "sqlite":
        return _sqlite_rig(tmp_path / "home" / "accounts.sqlite3")
    server: Mongo = request.getfixturevalue("mongo")
    return _mongo_rig(server.database(f"accounts_{uuid4().hex}"), request.param)


def _sqlite_rig(path: Path) -> Rig:
    @asynccontextmanager
    async def opened() -> AsyncIterator[AccountStore]:
        store = SqliteAccountStore(path)
        await store.open()
        try:
            yield store
        finally:
            await store.close()

    def execute(sql: str, *values: str) -> None:
        with closing(sqlite3.connect(path)) as db, db:
            db.execute(sql, values)

    def write_raw(account_id: str, document: dict[str, Any]) -> None:
        text = json.dumps({"id": account_id, **document})
        execute("INSERT OR REPLACE INTO accounts (id, document) VALUES (?, ?)", account_id, text)

    return Rig(opened, write_raw, lambda i: execute("DELETE FROM accounts WHERE id = ?", i))


def _mongo_rig(url: str, driver: Any) -> Rig:
    @asynccontextmanager
    async def opened() -> AsyncIterator[AccountStore]:
        database = open_mongo(url, driver)
        store = MongoAccountStore(database)
        try:
            await store.open()
            yield store
            await store.close()
        finally:
            await database.close()

    def write_raw(account_id: str, document: dict[str, Any]) -> None:
        with pymongo.MongoClient(url) as client:
            accounts = client.get_default_database()["accounts"]
            accounts.replace_one({"_id": account_id}, {"_id": account_id, **document}, upsert=True)

    def remove_raw(account_id: str) -> None:
        with pymongo.MongoClient(url) as client:
            client.get_default_database()["accounts"].delete_one({"_id": account_id})

    return Rig(opened, write_raw, remove_raw)


@dataclass
class Watcher:
    """Runs ``watch`` and gathers what it tells."""

    told: list[str] = field(default_factory=list)
    news: asyncio.Event = field(default_factory=asyncio.Event)

    async def changed(self, ids: Sequence[str]) -> None:
        self.told.extend(ids)
        self.news.set()

    async def expect(self, *ids: str, within: float = 1.0) -> None:
        async with asyncio.timeout(within):
            while not set(ids) <= set(self.told):
                self.news.clear()
                await self.news.wait()
        self.told.clear()


@asynccontextmanager
async def watching(store: AccountStore) -> AsyncIterator[Watcher]:
    watcher = Watcher()
    task = asyncio.create_task(store.watch(watcher.changed))
    try:
        yield watcher
        assert not task.done(), task
    finally:
        task.cancel()
        async with asyncio.timeout(5):
            with pytest.raises(asyncio.CancelledError):
                await task


async def test_what_is_put_comes_back_whole(rig: Rig) -> None:
    accounts = [account("A-2"), account("A-1", hours=None, limits={}, tags=[], base_url=None)]
    async with rig.opened() as store:
        assert await store.load() == []
        await store.put(accounts)
        assert await store.load() == [accounts[1], accounts[0]]
        assert await store.get("A-2") == accounts[0]
        assert await store.get("A-3") is None
    async with rig.opened() as store:  # and after a restart
        loaded = await store.load()
        assert [a.document() for a in loaded] == [accounts[1].document(), accounts[0].document()]
        assert store.problems() == {}


async def test_put_replaces_and_remove_removes(rig: Rig) -> None:
    async with rig.opened() as store:
        await store.put([account("A-1"), account("A-2")])
        await store.put([account("A-1", active=False, hours=None)])
        await store.put([])
        assert await store.get("A-1") == account("A-1", active=False, hours=None)
        assert await store.remove("A-1") is True
        assert await store.remove("A-1") is False
        assert await store.load() == [account("A-2")]


async def test_put_is_all_or_none(rig: Rig) -> None:
    class Bomb(Account):
        def document(self) -> dict[str, Any]:
            raise RuntimeError("boom")

    async with rig.opened() as store:
        await store.put([account("A-1")])
        bomb = Bomb.model_validate(account("A-3").document())
        with pytest.raises(RuntimeError, match="boom"):
            await store.put([account("A-1", name="changed"), account("A-2"), bomb])
        huge = account("A-9").model_copy(update={"name": "x" * 17_000_000, "id": 1 << 70})
        with pytest.raises(Exception, match=r".+"):  # each driver refuses it in its own words
            await store.put([account("A-1", name="changed"), account("A-2"), huge])
        assert await store.load() == [account("A-1")]


async def test_unreadable_documents_are_told_and_never_hide_the_others(rig: Rig) -> None:
    good = account("A-1").document() | {"credentials": {"secret": "canary-secret"}}
    del good["id"]
    async with rig.opened() as store:
        await store.put([account("A-0")])
        rig.write_raw("A-1", good)
        rig.write_raw("A-2", {**good, "credentials": {"secret": 17}, "surprise": "canary-other"})
        rig.write_raw("A-3", {**good, "sizing": {"method": "fixed", "quantity": 0.1}})
        rig.write_raw("A-4", {})
        assert [a.id for a in await store.load()] == ["A-0", "A-1"]
        problems = store.problems()
        assert set(problems) == {"A-2", "A-3", "A-4"}
        assert problems["A-2"].startswith("credentials.secret: ")
        assert "(and 1 more)" in problems["A-2"]
        assert "written as text" in problems["A-3"]
        assert "canary" not in str(problems)
        assert await store.get("A-2") is None
        rig.write_raw("A-2", good)
        assert await store.get("A-2") is not None
        assert set(store.problems()) == {"A-3", "A-4"}


async def test_watch_tells_changes_of_any_program_within_a_second(rig: Rig) -> None:
    document = account("A-1").document()
    del document["id"]
    async with rig.opened() as store, rig.opened() as other:
        await store.put([account("A-1"), account("A-2")])
        await store.load()
        await other.put([account("A-3")])  # between load and watch: not lost either
        async with watching(store) as watcher:
            await watcher.expect("A-3")
            await other.put([account("A-1", active=False)])
            await watcher.expect("A-1")
            await other.put([account(f"B-{n:03}") for n in range(200)])
            await watcher.expect(*(f"B-{n:03}" for n in range(200)))
            await other.remove("A-2")
            await watcher.expect("A-2")
            rig.write_raw("A-1", document)
            await watcher.expect("A-1")
            rig.remove_raw("A-1")
            await watcher.expect("A-1")
            await store.put([account("A-9")])  # its own change too
            await watcher.expect("A-9")


async def test_stores_that_write_together_lose_nothing(rig: Rig) -> None:
    async with rig.opened() as one, rig.opened() as two:
        await asyncio.gather(
            *(
                store.put([account(f"{name}-{n}")])
                for n in range(25)
                for store, name in ((one, "A"), (two, "B"))
            )
        )
        assert len(await one.load()) == len(await two.load()) == 50


async def test_watch_can_be_cancelled_at_any_moment(rig: Rig) -> None:
    async def ignore(_: Sequence[str]) -> None: ...

    async with rig.opened() as store:
        for turns in range(25):
            task = asyncio.create_task(store.watch(ignore))
            for _ in range(turns):
                await asyncio.sleep(0)
            task.cancel()
            async with asyncio.timeout(5):
                with pytest.raises(asyncio.CancelledError):
                    await task
        await store.put([account("A-1")])
        assert await store.get("A-1") == account("A-1")


# SQLite's own promises


async def test_sqlite_file_is_private_and_another_process_may_write_it(tmp_path: Path) -> None:
    path = tmp_path / "accounts.sqlite3"
    script = f"""
import asyncio, json, sys
from pathlib import Path
from engine.model.account import Account
from engine.stores.accounts_sqlite import SqliteAccountStore
async def main():
    store = SqliteAccountStore(Path({str(path)!r}))
    await store.open()
    await store.put([Account.model_validate(json.loads(sys.stdin.read()))])
    await store.close()
asyncio.run(main())
"""
    async with _sqlite_rig(path).opened() as store:
        await store.load()
        if os.name == "posix":
            modes = {p.name: p.stat().st_mode & 0o777 for p in os.scandir(tmp_path)}
            assert set(modes.values()) == {0o600}, modes
        async with watching(store) as watcher:
            await asyncio.to_thread(
                subprocess.run,
                [sys.executable, "-c", script],
                input=json.dumps(account("A-1").document()).encode(),
                check=True,
                timeout=30,
            )
            await watcher.expect("A-1")
        assert await store.get("A-1") == account("A-1")


async def test_sqlite_failures_are_store_errors(tmp_path: Path) -> None:
    path = tmp_path / "accounts.sqlite3"
    store = SqliteAccountStore(path)
    with pytest.raises(StoreError, match="not open"):
        await store.load()
    path.write_bytes(b"this is no database, " * 100)
    with pytest.raises(StoreError, match="not a database"):
        await store.open()
    path.unlink()
    await store.open()
    await store.close()
    await store.close()


# MongoDB's own promises


@pytest.mark.parametrize("driver", ["pymongo", "motor"])
async def test_mongo_indexes_and_layout(mongo: Mongo, driver: Any) -> None:
    url = mongo.database(f"accounts_{uuid4().hex}")
    async with _mongo_rig(url, driver).opened() as store:
        await store.put([account("A-1")])
    with pymongo.MongoClient(url) as client:
        accounts = client.get_default_database()["accounts"]
        indexed = {
            name for index in accounts.index_information().values() for name, _ in index["key"]
        }
        assert {"active", "tags", "strategies"} <= indexed
        document = accounts.find_one()
    fields = account("A-1").document()
    assert document == {"_id": fields.pop("id"), **fields}


@pytest.mark.parametrize("driver", ["pymongo", "motor"])
async def test_mongo_without_change_streams_and_through_a_restart(driver: Any) -> None:
    with Mongo(standalone=True) as server:
        rig = _mongo_rig(server.url, driver)
        async with rig.opened() as store:
            await store.load()
            async with watching(store) as watcher:
                rig.write_raw("A-1", {"broker": "paper"})
                await watcher.expect("A-1")


@pytest.mark.parametrize("driver", ["pymongo", "motor"])
async def test_mongo_watch_survives_a_killed_server(driver: Any) -> None:
    with Mongo() as server:
        rig = _mongo_rig(server.url, driver)
        async with rig.opened() as store:
            await store.put([account("A-1")])
            await store.load()
            async with watching(store) as watcher:
                rig.write_raw("A-2", {"broker": "paper"})
                await watcher.expect("A-2")
                await asyncio.to_thread(server.stop)
                with pytest.raises(StoreError, match="does not answer"):
                    await store.get("A-1")
                await asyncio.to_thread(server.start)
                rig.write_raw("A-3", {"broker": "paper"})
                await watcher.expect("A-3", within=10)
            assert await store.get("A-1") == account("A-1")


@pytest.mark.parametrize("driver", ["pymongo", "motor"])
async def test_mongo_away_is_a_store_error_and_a_bad_url_a_config_error(driver: Any) -> None:
    with Mongo() as server:
        url = server.url
    async with asyncio.timeout(10):
        with pytest.raises(StoreError, match="MongoDB does not answer"):
            async with _mongo_rig(url, driver).opened():
                pass
    for bad in (
        "redis://user:canary@host/0",
        "mongodb://user:can:ary@h:p/x",
        "",
        "mongodb://h/?w=x&journal=maybe",
    ):
        with pytest.raises(ConfigError, match=r"storage\.mongo_url") as caught:
            open_mongo(bad, driver)
        assert "canary" not in str(caught.value)
