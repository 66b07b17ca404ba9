"""Profile ``servers``: signals from a Redis stream, accounts and history in MongoDB, over real servers."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any, TypeVar

import pymongo
import pytest
import redis

from engine.model.account import Account
from engine.simbroker import SimBroker
from engine.stores.accounts_mongo import MongoAccountStore
from engine.stores.mongo import open_mongo
from engine.stores.vault import FileVault
from tests.processes import signal_document
from tests.servers import Mongo, Valkey, collected, driver_sockets  # noqa: F401 (a fixture)
from tests.world import World, alpaca, by_account, eventually, venue, world

pytestmark = [driver_sockets, pytest.mark.usefixtures("collected")]
STREAM, GROUP = "volley:signals", "exec:0"
T = TypeVar("T")


@pytest.fixture
async def sim() -> AsyncIterator[SimBroker]:
    async with venue() as made:
        yield made


async def asked(question: Callable[[], T], seconds: float = 10.0) -> T:
    """Poll a blocking question off the loop until its answer is true; return it."""
    deadline = time.monotonic() + seconds
    while not (answer := await asyncio.to_thread(question)):
        assert time.monotonic() < deadline, "a server never said so"
        await asyncio.sleep(0.01)
    return answer


def url(sim: SimBroker) -> str:
    return f"http://127.0.0.1:{sim.port}"


async def put_accounts(
    path: Any, mongo_url: str, driver: str, documents: list[dict[str, Any]]
) -> None:
    path.mkdir(mode=0o700, exist_ok=True)
    vault = FileVault(path, keyring=None)
    database = open_mongo(mongo_url, driver)
    store = MongoAccountStore(database)
    await store.open()
    await store.put(
        Account.model_validate(
            document
            | {
                "credentials": {
                    n: vault.seal(document["id"], n, t) for n, t in document["credentials"].items()
                }
            }
        )
        for document in documents
    )
    await database.close()


@asynccontextmanager
async def served(
    tmp_path: Any,
    redis_url: str,
    mongo_url: str,
    accounts: list[dict[str, Any]],
    driver: str = "pymongo",
) -> AsyncIterator[World]:
    await put_accounts(tmp_path / "home", mongo_url, driver, accounts)
    storage = {
        "profile": "servers", "redis_url": redis_url, "mongo_url": mongo_url, "mongo_driver": driver,
    }  # fmt: skip
    async with world(tmp_path, storage=storage, connected=len(accounts)) as w:
        yield w


def pending(client: redis.Redis) -> int:
    return int(client.xpending(STREAM, GROUP)["pending"])


@pytest.mark.parametrize("driver", ["pymongo", "motor"])
async def test_from_the_stream_to_every_store(
    tmp_path, valkey: Valkey, mongo: Mongo, sim: SimBroker, driver: str
) -> None:
    valkey.flush()
    name = f"served-{driver}"
    accounts = [alpaca(n, url(sim)) for n in (1, 2, 3)] + [
        alpaca(4, url(sim), strategies=["other"])
    ]
    with (
        redis.Redis.from_url(valkey.url, decode_responses=True) as client,
        pymongo.MongoClient(mongo.url) as documents,
    ):
        events = client.pubsub(ignore_subscribe_messages=True)
        events.subscribe("volley:events")
        async with served(tmp_path, valkey.url, mongo.database(name), accounts, driver) as w:
            for number in range(5):
                client.xadd(STREAM, {"signal": json.dumps(signal_document(id=f"s-{number}"))})
            client.xadd(STREAM, {"signal": json.dumps(signal_document(id="s-0"))})  # once more
            client.xadd(STREAM, {"signal": '{"nonsense": 1}'})
            other = [
                signal_document(id="s-0", quantity="7"),  # sent before, and not that
                signal_document(id="old", issued_at="2026-01-01T00:00:00Z"),
            ]
            for document in other:
                client.xadd(STREAM, {"signal": json.dumps(document)})
            await eventually(lambda: len(w.engine.records) == 6)
            await eventually(lambda: all(w.position(f"A-00{n}") == 5 for n in (1, 2, 3)))
            assert sim.venue.order_count == 15
            await asked(lambda: client.xinfo_groups(STREAM)[0]["lag"] == 0 and not pending(client))
            refused = [row for _, row in client.xrange("volley:signals:refused")]
            assert {row["code"]: row["original"] for row in refused} == {
                "UNKNOWN_FIELD": '{"nonsense": 1}',
                "DUPLICATE": json.dumps(other[0]),
                "STALE": json.dumps(other[1]),
            }
            detail = await w.detail("bot/s-0")
            assert (detail["signal"]["origin"], detail["signal"]["sent"]) == ("redis", 3)
            cl_ord_ids = {
                row["cl_ord_id"]
                for number in range(5)
                for row in (await w.detail(f"bot/s-{number}"))["accounts"]
                if row["cl_ord_id"]
            }
            positions = {
                account: await asked(lambda a=account: client.hgetall(f"volley:position:{a}"))
                for account in ("A-001", "A-002", "A-003")
            }
            await asked(
                lambda: json.loads(client.hget("volley:position:A-001", "AAPL"))["qty"] == "5"
            )
            assert all(set(position) == {"AAPL"} for position in positions.values())
            heard: list[dict[str, Any]] = []

            def all_filled() -> bool:
                while (message := events.get_message(timeout=0.1)) is not None:
                    heard.append(json.loads(message["data"]))
                return sum(event["kind"] == "fill" for event in heard) >= 15

            await asked(all_filled)
            told = {e["row"]["cl_ord_id"] for e in heard if e["kind"] == "order"}
            assert told == cl_ord_ids

            history = documents[name]
            await asked(lambda: history.fills.count_documents({}) == 15)
            await asked(lambda: history.orders.count_documents({"status": "filled"}) == 15)
            assert {row["cl_ord_id"] for row in history.orders.find()} == cl_ord_ids
            await asked(lambda: history.signals.count_documents({"state": "accepted"}) == 5)
            await asked(lambda: history.audit.find_one({"kind": "start", "account": ""}))
            await asked(lambda: history.audit.count_documents({"kind": "signal"}) == 6)
            services = (await w.http.get("/v1/status")).json()["engine"]["services"]
            assert {
                n: services[n]["state"] for n in ("journal", "redis", "mongo", "signals")
            } == dict.fromkeys(("journal", "redis", "mongo", "signals"), "connected")
            assert (await w.http.get("/readyz")).status_code == 200

            # another program changes an account's document
            documents[name].accounts.update_one({"_id": "A-002"}, {"$set": {"active": False}})
            state = w.engine.fleet.states["A-002"]
            await eventually(lambda: not state.account.active)
            assert by_account(await w.send(id="after"))["A-002"]["code"] == "INACTIVE"
            documents[name].accounts.delete_one({"_id": "A-003"})
            # removed, but it holds something: seen and managed, no new orders
            await eventually(lambda: not w.engine.fleet.states["A-003"].active)
        events.close()


async def test_a_working_order_is_mirrored_and_a_resting_one_survives(
    tmp_path, valkey: Valkey, mongo: Mongo, sim: SimBroker
) -> None:
    valkey.flush()
    with redis.Redis.from_url(valkey.url, decode_responses=True) as client:
        storage = mongo.database("mirror")
        async with served(tmp_path, valkey.url, storage, [alpaca(1, url(sim))]) as w:
            detail = await w.send(order_type="limit", limit_price="185")
            cl_ord_id = w.order(detail, "A-001").cl_ord_id
            row = json.loads(await asked(lambda: client.hget("volley:order:A-001", cl_ord_id)))
            assert row["account"] == "A-001"
            await asked(
                lambda: json.loads(client.hget("volley:order:A-001", cl_ord_id))["status"] == "new"
            )
        client.flushall()  # nothing in Redis is the only copy of anything
        async with served(tmp_path, valkey.url, storage, [alpaca(1, url(sim))]) as w:
            await asked(lambda: client.hget("volley:order:A-001", cl_ord_id))
            client.xadd(STREAM, {"signal": json.dumps(signal_document(id="s-2"))})
            await eventually(lambda: w.position("A-001") == 1)


async def test_trading_goes_on_without_redis(tmp_path, mongo: Mongo, sim: SimBroker) -> None:
    with Valkey(durable=True) as server:
        accounts = [alpaca(n, url(sim)) for n in (1, 2)]
        async with served(tmp_path, server.url, mongo.database("no-redis"), accounts) as w:
            with redis.Redis.from_url(server.url) as client:
                client.xadd(STREAM, {"signal": json.dumps(signal_document(id="first"))})
            await eventually(lambda: w.position("A-001") == 1)
            server.kill()

            async def state(name: str) -> str:
                status = (await w.http.get("/v1/status")).json()["engine"]["services"]
                return str(status[name]["state"])

            deadline = time.monotonic() + 15
            while "connected" in {await state("redis"), await state("signals")}:
                assert time.monotonic() < deadline
                await asyncio.sleep(0.02)
            detail = await w.send(id="without")
            assert detail["signal"]["sent"] == 2
            await eventually(lambda: w.position("A-001") == w.position("A-002") == 2)
            assert detail["trace"]["last_ack"] < 5_000_000_000
            server.start()
            with redis.Redis.from_url(server.url, decode_responses=True) as client:
                await asked(
                    lambda: (
                        json.loads(client.hget("volley:position:A-002", "AAPL") or '{"qty": ""}')[
                            "qty"
                        ]
                        == "2"
                    ),
                    20,
                )
                client.xadd(STREAM, {"signal": json.dumps(signal_document(id="again"))})
                await eventually(lambda: w.position("A-001") == w.position("A-002") == 3, 20)
                client.xadd(STREAM, {"signal": json.dumps(signal_document(id="first"))})
                await asked(lambda: not pending(client))
            assert (await state("redis"), await state("signals")) == ("connected", "connected")
            assert sim.venue.order_count == 6


async def test_trading_goes_on_without_mongo(tmp_path, valkey: Valkey, sim: SimBroker) -> None:
    valkey.flush()
    with Mongo() as server:
        async with served(tmp_path, valkey.url, server.url, [alpaca(1, url(sim))]) as w:
            await w.send(id="before")
            server.kill()
            detail = await w.send(id="without")
            assert detail["signal"]["sent"] == 1
            await eventually(lambda: w.position("A-001") == 2)
            server.start()
            with pymongo.MongoClient(server.url) as documents:
                await asked(
                    lambda: documents.volley.orders.count_documents({"status": "filled"}) == 2, 30
                )
                await asked(lambda: documents.volley.fills.count_documents({}) == 2, 30)
                documents.volley.accounts.update_one({"_id": "A-001"}, {"$set": {"active": False}})
            await eventually(lambda: not w.engine.fleet.states["A-001"].account.active, 20)
