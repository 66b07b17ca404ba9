"""One engine a book where a Redis is shared (C27, F24, F50): with the real server, killed, hung, emptied, restarted."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from engine.errors import HomeLocked
from engine.stores.lease_redis import BookLease
from engine.stores.redis_client import open_redis
from tests.helpers import HandClock, eventually
from tests.servers import Valkey, collected, driver_sockets  # noqa: F401 (a fixture)

pytestmark = [driver_sockets, pytest.mark.usefixtures("collected")]
TTL_S = 1.0
HERE, THERE = Path("/homes/here"), Path("/homes/there")


@pytest.fixture
def server() -> Any:
    with Valkey() as made:
        yield made


@asynccontextmanager
async def lease(server: Valkey, home: Path = HERE, **named: Any) -> AsyncIterator[BookLease]:
    client = open_redis(server.url, timeout_s=0.3)
    made = BookLease(client, "book", home, **({"ttl_s": TTL_S} | named))
    try:
        await made.start()
        yield made
    finally:
        await made.stop()
        await client.aclose()


def may_send(made: BookLease) -> bool:
    return made.refusal() is None


async def stays(fact: Any, seconds: float) -> None:
    """Look again and again that something stays true for so long."""
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        assert fact()
        await asyncio.sleep(0.01)


async def test_a_second_engine_is_told_who_holds_the_book(server):
    async with lease(server) as first:
        assert may_send(first)
        with pytest.raises(
            HomeLocked, match=r"another engine holds this book: process \d+ on .+ since .+"
        ):
            async with lease(server, THERE):
                pass
        await stays(lambda: may_send(first), 2 * TTL_S)  # renewed again and again
    async with lease(server, THERE) as second:  # given back: no waiting
        assert may_send(second)
        assert second.epoch == first.epoch + 1


async def test_an_engine_restarted_on_its_home_takes_its_lease_over_at_once(server):
    async with lease(server) as killed:
        killed._task.cancel()  # as a SIGKILL leaves it: neither renewed nor given back
        async with lease(server) as again:
            assert may_send(again)
            assert again.epoch == killed.epoch + 1
            await killed._ask("renew")
            assert killed.refusal()[0] == "EPOCH"


async def test_trading_goes_on_while_there_is_no_server(server):
    """F24: the address refuses connections, so nobody else can have been granted anything."""
    async with lease(server) as held:
        server.kill()
        await stays(lambda: may_send(held), 3 * TTL_S)
        server.start()
        await stays(lambda: may_send(held), TTL_S)
        with pytest.raises(HomeLocked):  # the emptied server knows it again
            async with lease(server, THERE):
                pass


async def test_a_server_that_hangs_proves_nothing(server):
    async with lease(server) as held:
        server.pause()
        began = time.monotonic()
        await eventually(lambda: not may_send(held))
        assert time.monotonic() - began <= TTL_S / 2 + 0.2
        assert held.refusal()[0] == "EPOCH"
        server.resume()
        await eventually(lambda: may_send(held))


async def test_a_start_without_a_server_sends_nothing_until_it_answers(server):
    server.kill()
    async with lease(server) as made:
        await stays(lambda: not may_send(made), TTL_S)
        server.start()
        await eventually(lambda: may_send(made))


async def test_paused_longer_than_the_lease_it_sends_nothing_ever_again(server):
    """F50: the process was stopped, another took the book over; woken, it has no proof and then learns why."""
    told: list[str] = []
    async with lease(server) as paused:
        paused.on_lost = told.append
        paused._task.cancel()
        await asyncio.gather(paused._task, return_exceptions=True)
        await eventually(
            lambda: not may_send(paused)
        )  # its own clock alone says so, before it asked anybody
        client = open_redis(server.url)
        second = BookLease(client, "book", THERE, ttl_s=TTL_S)
        try:
            while True:
                try:
                    await second.start()
                    break
                except HomeLocked:
                    second.taken_by = ""
                    await asyncio.sleep(0.02)
            assert not may_send(second)  # the one before did not say goodbye: it is given time
            assert not may_send(paused)
            keep = asyncio.create_task(paused._keep())
            await eventually(lambda: may_send(second))
            await keep
            assert told
            assert told == [paused.taken_by]
            await stays(lambda: not may_send(paused) and may_send(second), 2 * TTL_S)
        finally:
            await second.stop()
            await client.aclose()
        await paused._ask("renew")
        assert not may_send(paused)  # free again, and it may have been used meanwhile


async def test_the_time_counts_from_before_the_question(server):
    clock = HandClock()
    async with lease(server, clock=clock) as held:
        clock.advance(TTL_S / 2 - 0.001)
        assert may_send(held)
        clock.advance(0.001)
        assert not may_send(held)


@pytest.mark.parametrize(
    ("last", "waits"),
    [
        (None, False),
        ({"epoch": 4, "released": True}, False),
        ({"epoch": 4, "released": False}, True),
    ],
)
async def test_an_emptied_server_is_not_believed_after_a_crash(server, last, waits):
    noted: list[dict[str, Any]] = []
    async with lease(server, last=last) as made:
        assert may_send(made) is not waits
        await eventually(lambda: may_send(made))
        assert made.epoch == (5 if last else 1)
        made.on_change = noted.append
    assert noted == [{"epoch": made.epoch, "released": True}]
