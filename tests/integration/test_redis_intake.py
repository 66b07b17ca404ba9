"""The signal stream over a real server: nothing lost and nothing acknowledged early."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any

import pytest
from redis.asyncio import Redis

from engine.errors import InvalidSignal, StoreError
from engine.intake.redis_stream import RedisSignals, StreamSettings
from engine.model.enums import ConnectionState
from engine.stores.redis_client import open_redis
from tests.servers import Valkey

STREAM = "volley:signals"
QUICK = StreamSettings(block_s=0.1, retry_s=0.02, claim_idle_s=30)


class Journal:
    """Remembers bodies, as durable as a test needs; fails as told."""

    def __init__(self) -> None:
        self.bodies: Counter[bytes] = Counter()
        self.errors: dict[bytes, Exception] = {}
        self.tries: Counter[bytes] = Counter()
        self.running = 0
        self.together = 0

    async def handle(self, body: bytes) -> None:
        self.running += 1
        self.together = max(self.together, self.running)
        try:
            self.tries[body] += 1
            await asyncio.sleep(0)
            if body in self.errors:
                raise self.errors[body]
            self.bodies[body] += 1
        finally:
            self.running -= 1


async def until(fact: Callable[[], bool | Awaitable[bool]], within: float = 10) -> None:
    async with asyncio.timeout(within):
        while True:
            value = fact()
            if await value if isinstance(value, Awaitable) else value:
                return
            await asyncio.sleep(0.01)


@pytest.fixture
async def client(valkey: Valkey) -> AsyncIterator[Redis]:
    valkey.flush()
    redis = open_redis(valkey.url)
    yield redis
    await redis.aclose()


@asynccontextmanager
async def reading(
    client: Redis, journal: Journal, settings: StreamSettings = QUICK, consumer: str = "desk-1"
) -> AsyncIterator[RedisSignals]:
    signals = RedisSignals(
        client, journal.handle, stream=STREAM, consumer=consumer, settings=settings
    )
    await signals.start()
    try:
        yield signals
    finally:
        await signals.stop()
    assert journal.running == 0


async def send(client: Redis, *bodies: bytes) -> None:
    async with client.pipeline(transaction=False) as pipeline:
        for body in bodies:
            pipeline.xadd(STREAM, {"signal": body})
        await pipeline.execute()


async def pending(client: Redis) -> int:
    return int((await client.xpending(STREAM, "exec:0"))["pending"])


async def test_a_thousand_signals_in_batches(client: Redis) -> None:
    bodies = [b"%d" % n for n in range(1000)]
    await send(client, *bodies[:500])  # before the group exists: begins at 0, not at $
    journal = Journal()
    async with reading(client, journal) as signals:
        await until(lambda: signals.status()[0] is ConnectionState.CONNECTED)
        await send(client, *bodies[500:])
        await until(lambda: signals.acknowledged == 1000)
        calls = await client.info("commandstats")
    assert journal.bodies == Counter(bodies)
    assert journal.together > 50
    assert calls["cmdstat_xack"]["calls"] <= 30
    assert await pending(client) == 0


async def test_refused_signals_go_to_their_own_stream(client: Redis) -> None:
    journal = Journal()
    journal.errors[b"bad"] = InvalidSignal("FORMAT", "symbol", "no symbol")
    async with reading(client, journal) as signals:
        await send(client, b"bad", b"good")
        await client.xadd(STREAM, {"other": b"\xff<x>"})
        await until(lambda: signals.acknowledged == 3)
    rows = [fields for _, fields in await client.xrange(f"{STREAM}:refused")]
    assert [(r[b"code"], r[b"field"], r[b"message"], r[b"original"]) for r in rows] == [
        (b"FORMAT", b"symbol", b"no symbol", b"bad"),
        (
            b"MISSING",
            b"signal",
            b"the stream entry has no field named signal",
            '{"other":"\ufffd<x>"}'.encode(),
        ),
    ]
    assert journal.bodies == Counter([b"good"])
    assert signals.refused == 2
    assert await pending(client) == 0


async def test_poison_is_put_aside_after_three_deliveries_and_others_flow(client: Redis) -> None:
    journal = Journal()
    journal.errors[b"poison"] = ZeroDivisionError("bug")
    journal.errors[b"flaky"] = RuntimeError("once")
    async with reading(client, journal) as signals:
        await send(client, b"poison", b"flaky", *(b"%d" % n for n in range(50)))
        await until(lambda: journal.tries[b"flaky"] == 1)
        del journal.errors[b"flaky"]
        await until(lambda: signals.acknowledged == 52)
    assert journal.tries[b"poison"] == 3
    assert journal.bodies[b"flaky"] == 1
    assert signals.failed == 1
    [(_, row)] = await client.xrange(f"{STREAM}:refused")
    assert (row[b"code"], row[b"original"]) == (b"INTERNAL", b"poison")
    assert b"bug" not in row[b"message"]


async def test_without_a_store_nothing_is_acknowledged_or_given_up(client: Redis) -> None:
    journal = Journal()
    journal.errors[b"1"] = StoreError("disk full")
    async with reading(client, journal) as signals:
        await send(client, b"1", b"2")
        await until(lambda: journal.tries[b"1"] >= 5)
        assert signals.status() == (ConnectionState.ERROR, f"stream {STREAM} waits: disk full")
        assert await pending(client) == 1
        assert await client.exists(f"{STREAM}:refused") == 0
        journal.errors.clear()
        await until(lambda: signals.acknowledged == 2)


async def test_what_was_read_and_not_acknowledged_comes_again_after_a_restart(
    client: Redis,
) -> None:
    await client.xgroup_create(STREAM, "exec:0", id="0", mkstream=True)
    await send(client, *(b"%d" % n for n in range(250)))
    await client.xreadgroup("exec:0", "desk-1", {STREAM: ">"}, count=250)  # then it died
    await client.xtrim(STREAM, maxlen=240, approximate=False)  # ten are gone for good
    journal = Journal()
    async with reading(client, journal):
        await until(lambda: len(journal.bodies) == 240)
        await until(lambda: _is_zero(client))
    assert journal.bodies == Counter(b"%d" % n for n in range(10, 250))


async def test_entries_of_a_dead_consumer_are_taken_over(client: Redis) -> None:
    await client.xgroup_create(STREAM, "exec:0", id="0", mkstream=True)
    await send(client, *(b"%d" % n for n in range(150)))
    await client.xreadgroup("exec:0", "desk-dead", {STREAM: ">"}, count=150)
    journal = Journal()
    quick = StreamSettings(block_s=0.05, claim_idle_s=0.2)
    async with reading(client, journal, quick, consumer="desk-2"):
        await until(lambda: len(journal.bodies) == 150)
        await until(lambda: _is_zero(client))


async def test_a_flushed_server_gets_its_group_again(client: Redis, valkey: Valkey) -> None:
    journal = Journal()
    async with reading(client, journal) as signals:
        await send(client, b"1")
        await until(lambda: signals.acknowledged == 1)
        valkey.flush()
        await send(client, b"2")  # makes the stream anew, without a group
        await until(lambda: journal.bodies[b"2"] == 1)
        await client.delete(STREAM)
        await send(client, b"3")
        await until(lambda: journal.bodies[b"3"] == 1)


async def test_a_key_of_another_kind_is_said_and_mended(client: Redis) -> None:
    await client.set(STREAM, "not a stream")
    journal = Journal()
    async with reading(client, journal) as signals:
        await until(lambda: signals.status()[0] is ConnectionState.ERROR)
        assert "WRONGTYPE" in signals.status()[1]
        await client.delete(STREAM)
        await send(client, b"1")
        await until(lambda: journal.bodies[b"1"] == 1)


async def test_a_killed_server_loses_nothing() -> None:
    journal = Journal()
    sent = Counter[bytes]()
    with Valkey(durable=True) as server:
        client = open_redis(server.url, timeout_s=1)
        producer = open_redis(server.url, timeout_s=1)
        async with reading(client, journal) as signals:
            for round_ in range(3):
                for n in range(100):
                    body = b"%d-%d" % (round_, n)
                    await send(producer, body)
                    sent[body] += 1
                await asyncio.to_thread(server.kill)  # while it reads
                await until(lambda: signals.status()[0] is ConnectionState.DISCONNECTED)
                await asyncio.to_thread(server.start)
                await producer.aclose()
            await until(lambda: set(journal.bodies) == set(sent), within=20)
            await until(lambda: _is_zero(client))
            await until(lambda: signals.status()[0] is ConnectionState.CONNECTED)
        await producer.aclose()
        await client.aclose()
    assert set(journal.bodies) == set(sent)  # some twice: what was not acknowledged when it died


async def test_a_hung_server_never_blocks_the_loop() -> None:
    journal = Journal()
    with Valkey() as server:
        client = open_redis(server.url, timeout_s=0.5)
        async with reading(client, journal) as signals:
            await send(client, b"1")
            await until(lambda: signals.acknowledged == 1)
            server.pause()
            loop = asyncio.get_running_loop()
            worst, last = 0.0, loop.time()
            while signals.status()[0] is ConnectionState.CONNECTED:
                await asyncio.sleep(0.005)
                worst, last = max(worst, loop.time() - last), loop.time()
            server.resume()
            await send(client, b"2")
            await until(lambda: journal.bodies[b"2"] == 1)
        await client.aclose()
    assert worst < 0.25


async def test_it_waits_for_a_server_that_is_not_there_yet() -> None:
    journal = Journal()
    with Valkey() as server:
        server.stop()
        client = open_redis(server.url, timeout_s=1)
        async with reading(client, journal) as signals:
            await until(lambda: "cannot be read" in signals.status()[1])
            await asyncio.to_thread(server.start)
            await send(client, b"1")
            await until(lambda: journal.bodies[b"1"] == 1)
        await client.aclose()


async def test_stop_at_any_moment_loses_nothing(client: Redis) -> None:
    bodies = [b"%d" % n for n in range(300)]
    await send(client, *bodies)
    journal = Journal()
    for turns in range(0, 60, 3):
        async with reading(client, journal, StreamSettings(count=10, block_s=0.05)):
            for _ in range(turns):
                await asyncio.sleep(0)
    async with reading(client, journal):
        await until(lambda: set(journal.bodies) == set(bodies))
    assert await pending(client) == 0
    assert max(journal.bodies.values()) == 1  # a stop ends the batch, acknowledgement and all


async def _is_zero(client: Any) -> bool:
    return await pending(client) == 0
