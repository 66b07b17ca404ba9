"""The opener: both drivers give the same small surface over a real server."""

from __future__ import annotations

from typing import Any
from uuid import uuid4

import pytest

from engine.errors import StoreError
from engine.stores.mongo import open_mongo
from tests.servers import Mongo, collected, driver_sockets  # noqa: F401 (a fixture)

pytestmark = [driver_sockets, pytest.mark.usefixtures("collected")]

DRIVERS = pytest.mark.parametrize("driver", ["pymongo", "motor"])


@DRIVERS
async def test_both_drivers_write_find_and_roll_back(mongo: Mongo, driver: Any) -> None:
    name = f"opener_{uuid4().hex}"
    database = open_mongo(mongo.database(name), driver)
    assert database.name == name
    await database.ping()
    things = database.collection("things")
    async with database.transaction() as session:
        await things.insert_one({"_id": 1}, session=session)

    async def fails_half_way() -> None:
        async with database.transaction() as session:
            await things.insert_one({"_id": 2}, session=session)
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        await fails_half_way()
    assert [row async for row in things.find()] == [{"_id": 1}]
    await database.close()


@DRIVERS
async def test_a_url_without_a_database_means_volley(mongo: Mongo, driver: Any) -> None:
    database = open_mongo(mongo.database(""), driver)
    assert database.name == "volley"
    await database.close()


@DRIVERS
async def test_a_server_that_is_away_is_told_within_seconds(driver: Any) -> None:
    with Mongo() as server:
        url = server.url
    database = open_mongo(url, driver)
    with pytest.raises(StoreError, match="MongoDB does not answer: ServerSelectionTimeoutError"):
        await database.ping()
    await database.close()
