"""History in a real server: the newest row of every key, in order, through outages, never waited for."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any
from uuid import uuid4

import pymongo
import pytest

from engine.model.enums import ConnectionState
from engine.stores.history_mongo import MongoHistory
from engine.stores.mongo import open_mongo
from tests.integration.test_redis_intake import until
from tests.servers import Mongo, collected, driver_sockets  # noqa: F401 (a fixture)

pytestmark = [driver_sockets, pytest.mark.usefixtures("collected")]

DRIVERS = pytest.mark.parametrize("driver", ["pymongo", "motor"])


@asynccontextmanager
async def writing(url: str, driver: Any = "pymongo", **options: Any) -> AsyncIterator[MongoHistory]:
    database = open_mongo(url, driver)
    history = MongoHistory(database, **options)
    await history.open()
    try:
        yield history
    finally:
        await history.close()
        await database.close()


def stored(url: str, collection: str) -> dict[str, dict[str, Any]]:
    with pymongo.MongoClient(url) as client:
        return {row.pop("_id"): row for row in client.get_default_database()[collection].find()}


def order(n: int, status: str = "new") -> dict[str, Any]:
    return {"cl_ord_id": f"O{n}", "account": "A-1", "status": status, "order_qty": "1.5"}


@pytest.fixture
def url(mongo: Mongo) -> str:
    return mongo.database(f"history_{uuid4().hex}")


@DRIVERS
async def test_the_newest_row_of_each_key(url: str, driver: Any) -> None:
    hostile = {"id": "1", "meta": {"$gt": "", "a.b": "$where", "": "x"}}
    async with writing(url, driver) as history:
        for status in ("pending_new", "new", "filled"):
            for n in range(1500):
                history.write("orders", f"O{n}", order(n, status))
        fill = {"account": "A-1", "exec_id": "E1", "last_qty": "1", "last_px": "2.50"}
        history.write("fills", "A-1/E1", fill)
        history.write("signals", "bot/1", hostile)
        history.write("audit", "1", {"seq": 1})
        await until(lambda: history.status()[1] == "MongoDB history is connected")
        history.write("orders", "O0", order(0, "replaced"))
    orders = stored(url, "orders")
    assert orders.pop("O0") == order(0, "replaced")
    assert orders == {f"O{n}": order(n, "filled") for n in range(1, 1500)}
    assert stored(url, "fills") == {"A-1/E1": fill}
    assert stored(url, "signals") == {"bot/1": hostile}
    assert stored(url, "audit") == {"1": {"seq": 1}}


@DRIVERS
async def test_unique_orders_and_fills(url: str, driver: Any) -> None:
    async with writing(url, driver) as history:
        history.write("orders", "O1", order(1))
        history.write("orders", "other key", order(1))
        for key in ("one", "two"):
            history.write("fills", key, {"account": "A-1", "exec_id": "E1"})
        history.write("orders", "O2", order(2))
        await until(lambda: "2 rows were refused" in history.status()[1])
        assert history.status()[0] is ConnectionState.DEGRADED
    assert stored(url, "orders") == {"O1": order(1), "O2": order(2)}
    assert len(stored(url, "fills")) == 1


@DRIVERS
async def test_a_row_that_cannot_be_written_stops_no_other(url: str, driver: Any) -> None:
    async with writing(url, driver) as history:
        history.write("orders", "O1", order(1))
        history.write("orders", "O2", order(2) | {"text": object()})
        history.write("orders", "O3", order(3) | {"ns": 1 << 70})
        history.write("orders", "O4", order(4))
        await until(lambda: "2 rows were refused" in history.status()[1])
    assert stored(url, "orders") == {"O1": order(1), "O4": order(4)}


@DRIVERS
async def test_a_killed_server_gets_everything_when_it_is_back(driver: Any) -> None:
    with Mongo() as server:
        async with writing(server.url, driver) as history:
            history.write("orders", "O0", order(0))
            await until(lambda: history.status()[1] == "MongoDB history is connected")
            await asyncio.to_thread(server.kill)
            for status in ("pending_new", "filled"):
                for n in range(2500):
                    history.write("orders", f"O{n}", order(n, status))
            await until(lambda: history.status()[0] is ConnectionState.DISCONNECTED)
            assert "2500 rows wait" in history.status()[1]
            await asyncio.to_thread(server.start)
            await until(lambda: history.status()[1] == "MongoDB history is connected", within=20)
        assert stored(server.url, "orders") == {f"O{n}": order(n, "filled") for n in range(2500)}


async def test_what_waits_is_bounded_and_what_was_given_up_is_said() -> None:
    with Mongo() as server:
        server.stop()
        async with writing(server.url, most_pending=100) as history:
            for n in range(150):
                history.write("orders", f"O{n}", order(n))
            history.write(
                "orders", "O149", order(149, "filled")
            )  # a newer row of a key costs nothing
            assert "100 rows wait; 50 rows were given up" in history.status()[1]
            await asyncio.to_thread(server.start)
            await until(lambda: history.status()[0] is ConnectionState.DEGRADED, within=20)
        expected = {f"O{n}": order(n) for n in range(50, 149)} | {"O149": order(149, "filled")}
        assert stored(server.url, "orders") == expected


async def test_a_hung_server_costs_the_caller_and_the_loop_nothing() -> None:
    with Mongo() as server:
        async with writing(server.url) as history:
            history.write("orders", "O0", order(0))
            await until(lambda: history.status()[1] == "MongoDB history is connected")
            server.pause()
            loop = asyncio.get_running_loop()
            worst, last = 0.0, loop.time()
            for n in range(200):
                history.write("orders", f"O{n}", order(n, "filled"))
                await asyncio.sleep(0.005)
                worst, last = max(worst, loop.time() - last), loop.time()
            server.resume()
            await until(lambda: history.status()[1] == "MongoDB history is connected", within=20)
        assert stored(server.url, "orders") == {f"O{n}": order(n, "filled") for n in range(200)}
    assert worst < 0.25
