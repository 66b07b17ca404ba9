"""C09: reads count and obey pauses, cancels count, and a restart gives no tokens back."""

from __future__ import annotations

from dataclasses import replace

import pytest

from engine.errors import BrokerUnavailable
from engine.execution.dispatcher import Dispatcher
from engine.execution.fair_queue import FairQueue
from engine.execution.lane import Lane
from engine.execution.limits import Limits
from engine.execution.rate_limit import RateLimit, TokenBucket
from tests.helpers import CAPABILITIES, HandClock, ScriptedSession, make_account, make_order
from tests.world import alpaca, venue, world

SECOND = 1_000_000_000


class Road:
    def __init__(self, *, counts_reads: bool = True, address: int = 100, own: int = 10) -> None:
        self.clock = HandClock()
        capabilities = replace(CAPABILITIES, counts_reads=counts_reads)
        session = ScriptedSession(capabilities=capabilities)
        self.limit = RateLimit(
            TokenBucket(own, 60.0), TokenBucket(1, 1.0)
        )  # the broker's, the account's
        self.way = FairQueue(RateLimit(TokenBucket(address, 1.0)), self.clock)
        self.lane = Lane(session, self.limit, self.way, self.clock, lambda _: None, lambda *_: None)

    def close(self) -> None:
        self.lane.close()
        self.way.close()


@pytest.fixture
async def roads():
    made: list[Road] = []

    def make(**kind) -> Road:
        made.append(Road(**kind))
        return made[-1]

    yield make
    for road in made:
        road.close()


async def test_reads_count_where_the_broker_counts_requests(roads) -> None:
    road = roads(own=10)
    assert [road.lane.read_wait_s() for _ in range(10)] == [0] * 10
    assert road.lane.read_wait_s() == pytest.approx(
        60
    )  # and not by the account's own limit of orders
    assert road.limit.left(road.clock.monotonic_ns()) == 0
    road.clock.advance(60)
    assert road.lane.read_wait_s() == 0


async def test_where_it_counts_orders_only_the_addresss_limit_holds(roads) -> None:
    road = roads(counts_reads=False, address=3)
    assert [road.lane.read_wait_s() for _ in range(3)] == [0] * 3
    assert road.lane.read_wait_s() == pytest.approx(1)
    assert road.limit.buckets[0].left(road.clock.monotonic_ns()) == 10


@pytest.mark.parametrize(("after_s", "waits"), [(0.0, True), (4.999, True), (5.0, False)])
async def test_a_broker_that_asked_for_quiet_is_not_read(
    roads, after_s: float, waits: bool
) -> None:
    road = roads()
    road.limit.pause(5, road.clock.monotonic_ns())
    road.clock.advance(after_s)
    assert bool(road.lane.read_wait_s()) is waits


async def test_cancels_and_replacements_count(roads) -> None:
    road = roads()
    now = road.clock.monotonic_ns()
    before = road.limit.buckets[0].left(now)
    road.lane.cancel(make_order("1"))
    road.lane.replace(make_order("2"), make_order("3"))
    assert road.limit.buckets[0].left(now) == before - 2


async def test_a_restart_gives_no_tokens_back() -> None:
    clock = HandClock()
    limits = Limits(clock, Dispatcher(), per_second=5)
    capabilities = replace(
        CAPABILITIES, max_orders_per_second=1.0, burst=10, per_address_second=8.0
    )
    account, other = make_account("A-1"), make_account("A-2")
    limits.recall(
        [(account, SECOND // 2), (account, 30 * SECOND), (other, 0), (account, 61 * SECOND)]
    )
    own, way = limits.of(account, capabilities)
    now = clock.monotonic_ns()
    assert own.left(now) == 9  # in its ten seconds: one
    assert way.limit.left(now) == 6  # in its second: one of each account
    assert limits._firm.limit.left(now) == 3
    clock.advance(10)
    assert own.left(clock.monotonic_ns()) == 10
    limits.close()


async def test_an_engine_that_starts_again_remembers_what_it_sent(tmp_path) -> None:
    async with venue() as sim:
        async with world(tmp_path, [alpaca(1, f"http://127.0.0.1:{sim.port}")]) as w:
            for number in range(5):
                await w.send(id=f"s-{number}")
            # What was sent, and what was read, left the broker's 200 a minute.
            left = w.engine.dispatcher.lanes["A-001"].limit.left(w.engine.clock.monotonic_ns())
            assert left < 195
        async with world(tmp_path) as w:
            lane = w.engine.dispatcher.lanes["A-001"]
            assert lane.limit.left(w.engine.clock.monotonic_ns()) <= 195
            assert w.engine.publisher.rows("accounts")[0]["queue"] == 0


async def test_reads_wait_for_the_end_of_a_pause(tmp_path) -> None:
    async with venue() as sim, world(tmp_path, [alpaca(1, f"http://127.0.0.1:{sim.port}")]) as w:
        session = w.engine.fleet.sessions["A-001"]
        lane = w.engine.dispatcher.lanes["A-001"]
        session.pause(0.4)
        until = lane.paused_until_ns
        assert until > w.engine.clock.monotonic_ns()
        await session.open_orders()
        assert w.engine.clock.monotonic_ns() >= until
        session.pause(60)
        with pytest.raises(BrokerUnavailable, match="not asked, its limits leave no read for"):
            await session.positions()
