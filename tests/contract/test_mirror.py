"""The mirror in a real server: the newest row of everything, never waited for, whole again after any loss."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from decimal import Decimal
from typing import Any

import pytest
from redis.asyncio import Redis

from engine.errors import ConfigError
from engine.model.enums import ConnectionState
from engine.stores.mirror_redis import KEPT_ORDERS, RedisMirror
from engine.stores.redis_client import open_redis
from tests.integration.test_redis_intake import until
from tests.servers import Valkey


@pytest.fixture
async def client(valkey: Valkey) -> AsyncIterator[Redis]:
    valkey.flush()
    redis = open_redis(valkey.url)
    yield redis
    await redis.aclose()


@asynccontextmanager
async def mirroring(url: str) -> AsyncIterator[RedisMirror]:
    mirror = RedisMirror(url)
    await mirror.open()
    try:
        yield mirror
    finally:
        await mirror.close()


def order(n: int, status: str = "new") -> dict[str, Any]:
    return {"cl_ord_id": f"O{n}", "status": status, "order_qty": "1.5", "code": None}


async def rows(client: Redis, key: str) -> dict[str, Any]:
    return {k.decode(): json.loads(v) for k, v in (await client.hgetall(key)).items()}


async def mirrored(client: Redis, key: str, expected: dict[str, Any]) -> None:
    async def same() -> bool:
        return await rows(client, key) == expected

    await until(same)


async def test_newest_rows_arrive_in_few_round_trips(client: Redis, valkey: Valkey) -> None:
    async def written() -> int:  # by everybody, since the server started
        stats = await client.info("commandstats")
        return int(stats.get("cmdstat_hset", {"calls": 0})["calls"])

    before = await written()
    async with mirroring(valkey.url) as mirror:
        for status in ("pending_new", "new", "filled"):
            for n in range(300):
                mirror.order("A-1", f"O{n}", order(n, status))
        for n in range(300):
            mirror.position(f"A-{n}", "AAPL", {"qty": str(n), "avg_px": Decimal("1.10")})
        await mirrored(
            client, "volley:order:A-1", {f"O{n}": order(n, "filled") for n in range(300)}
        )
        await mirrored(client, "volley:position:A-299", {"AAPL": {"qty": "299", "avg_px": "1.10"}})
        assert await written() - before <= 305  # one a hash, not one a row
        await until(lambda: mirror.status()[0] is ConnectionState.CONNECTED)


async def test_events_are_published_in_order(client: Redis, valkey: Valkey) -> None:
    async with client.pubsub() as subscription, mirroring(valkey.url) as mirror:
        await subscription.subscribe("volley:events")
        await subscription.get_message(timeout=2)
        for n in range(1200):
            mirror.event("fill", {"n": n})
        seen: list[Any] = []
        async with asyncio.timeout(5):
            while len(seen) < 1200:
                if message := await subscription.get_message(timeout=1):
                    seen.append(json.loads(message["data"]))
        assert seen == [{"kind": "fill", "row": {"n": n}} for n in range(1200)]


async def test_close_writes_what_is_pending(client: Redis, valkey: Valkey) -> None:
    async with mirroring(valkey.url) as mirror:
        mirror.order("A-1", "O1", order(1))
        mirror.position("A-1", "AAPL", {"qty": "1"})
    assert await rows(client, "volley:order:A-1") == {"O1": order(1)}
    assert await rows(client, "volley:position:A-1") == {"AAPL": {"qty": "1"}}
    assert mirror.status()[0] is ConnectionState.DISCONNECTED


async def test_orders_that_are_over_make_room(client: Redis, valkey: Valkey) -> None:
    async with mirroring(valkey.url) as mirror:
        mirror.order("A-1", "O0", order(0))  # works on for ever
        for n in range(1, KEPT_ORDERS + 50):
            mirror.order("A-1", f"O{n}", order(n, "filled"))
        kept = range(51, KEPT_ORDERS + 50)  # with O0 as many as are kept
        expected = {"O0": order(0)} | {f"O{n}": order(n, "filled") for n in kept}
        await mirrored(client, "volley:order:A-1", expected)


async def test_fields_of_an_earlier_run_go(client: Redis, valkey: Valkey) -> None:
    await client.hset("volley:order:A-1", "OLD", "{}")
    async with mirroring(valkey.url) as mirror:
        mirror.order("A-1", "O1", order(1))
        await mirrored(client, "volley:order:A-1", {"O1": order(1)})


async def test_a_flushed_server_is_written_again_without_a_new_row(
    client: Redis, valkey: Valkey
) -> None:
    async with mirroring(valkey.url) as mirror:
        mirror.order("A-1", "O1", order(1))
        mirror.position("A-1", "AAPL", {"qty": "1"})
        await mirrored(client, "volley:order:A-1", {"O1": order(1)})
        valkey.flush()
        await mirrored(client, "volley:order:A-1", {"O1": order(1)})
        await mirrored(client, "volley:position:A-1", {"AAPL": {"qty": "1"}})


async def test_a_killed_server_that_comes_back_empty_is_written_again() -> None:
    with Valkey() as server:
        async with mirroring(server.url) as mirror:
            mirror.order("A-1", "O1", order(1))
            await until(lambda: mirror.status()[0] is ConnectionState.CONNECTED)
            await asyncio.to_thread(server.kill)
            for n in range(2000):
                mirror.order("A-1", "O1", order(n))
            mirror.event("fill", {"n": 1})
            await until(lambda: mirror.status()[0] is ConnectionState.DISCONNECTED)
            await asyncio.to_thread(server.start)
            client = open_redis(server.url)
            await mirrored(client, "volley:order:A-1", {"O1": order(1999)})
            await client.aclose()


async def test_a_hung_server_costs_the_caller_and_the_loop_nothing() -> None:
    with Valkey() as server:
        async with mirroring(server.url) as mirror:
            mirror.order("A-1", "O1", order(1))
            await until(lambda: mirror.status()[0] is ConnectionState.CONNECTED)
            server.pause()
            loop = asyncio.get_running_loop()
            worst, last, n = 0.0, loop.time(), 0
            while mirror.status()[0] is ConnectionState.CONNECTED:
                mirror.order("A-1", "O1", order(n := n + 1))
                await asyncio.sleep(0.005)
                worst, last = max(worst, loop.time() - last), loop.time()
            server.resume()
            client = open_redis(server.url)
            await mirrored(client, "volley:order:A-1", {"O1": order(n)})
            await client.aclose()
    assert worst < 0.25


async def test_a_server_that_is_not_there_is_said_and_close_does_not_wait_for_it() -> None:
    with Valkey() as server:
        url = server.url
    loop = asyncio.get_running_loop()
    async with mirroring(url) as mirror:
        mirror.order("A-1", "O1", order(1))
        await until(lambda: mirror.status()[0] is ConnectionState.DISCONNECTED)
        assert mirror.status()[1].startswith("Redis mirror does not answer: ")
        began = loop.time()
    assert loop.time() - began < 3


@pytest.mark.parametrize("url", ["", "http://canary@host", "redis://user:canary@host:port/0"])
def test_a_bad_url_is_a_config_error_that_keeps_the_password(url: str) -> None:
    with pytest.raises(ConfigError, match=r"storage\.redis_url") as caught:
        open_redis(url)
    assert "canary" not in str(caught.value)
