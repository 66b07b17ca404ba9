"""The queue before a shared limit: first come first served, exits first, nobody twice while another waits."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from engine.execution.fair_queue import FairQueue
from engine.execution.lane import Lane
from engine.execution.rate_limit import RateLimit, TokenBucket
from engine.model.order import Order
from tests.helpers import HandClock, ScriptedSession, eventually, make_order


class Crossing:
    """Accounts that leave by some addresses and share the firm's limit; the clock in the test's hands."""

    def __init__(self, firm: int, *addresses: int | None) -> None:
        self.clock = HandClock()
        self.firm = FairQueue(RateLimit(TokenBucket(firm, 1.0)), self.clock)
        self.ways = [
            FairQueue(RateLimit(*([TokenBucket(rate, 1.0)] if rate else [])), self.clock, self.firm)
            for rate in addresses or (None,)
        ]
        self.lanes: dict[str, Lane] = {}
        self.sent: list[Order] = []
        self.denied: list[str] = []
        self.pumps: Counter[str] = Counter()

    def lane(self, account: str, address: int = 0) -> Lane:
        session = ScriptedSession(account)
        session.on_submit = self.sent.append
        self.lanes[account] = lane = _Counted(
            session,
            RateLimit(),
            self.ways[address],
            self.clock,
            lambda _order: None,
            lambda order, code, _text: self.denied.append(f"{order.cl_ord_id} {code}"),
        )
        lane.crossing = self
        return lane

    def put(self, account: str, *, reducing: bool = False, name: str = "") -> Order:
        order = make_order(
            name or f"{account}-{len(self.sent)}", account=account, reducing=reducing
        )
        self.lanes[account].put(order)
        return order

    def drain(self) -> None:
        """Take every token there is, so that the next one has to wait for its turn."""
        for queue in (self.firm, *self.ways):
            for _ in range(sum(bucket.limit for bucket in queue.limit.buckets)):
                queue.limit.spend(self.clock.monotonic_ns())

    def advance(self, seconds: float) -> None:
        self.clock.advance(seconds)
        for queue in (*self.ways, self.firm):
            queue.serve()

    def served(self) -> list[str]:
        return [order.account for order in self.sent]

    def close(self) -> None:
        for lane in self.lanes.values():
            lane.close()
        for queue in (self.firm, *self.ways):
            queue.close()


class _Counted(Lane):
    """A lane that tells how often it was pumped."""

    crossing: Crossing

    def pump(self) -> None:
        self.crossing.pumps[self.session.account_id] += 1
        super().pump()


@pytest.fixture
async def made() -> Iterator[list[Crossing]]:
    crossings: list[Crossing] = []
    yield crossings
    for crossing in crossings:
        crossing.close()


def crossing(made: list[Crossing], firm: int, *addresses: int | None) -> Crossing:
    made.append(Crossing(firm, *addresses))
    return made[-1]


async def test_lanes_are_served_in_the_order_they_came(made):
    road = crossing(made, 10)
    road.drain()
    for number in range(5):
        road.lane(f"A{number}")
        road.put(f"A{number}")
    assert road.sent == []
    road.advance(1)
    assert road.served() == ["A0", "A1", "A2", "A3", "A4"]


async def test_who_was_served_goes_to_the_end_of_the_line(made):
    road = crossing(made, 10)
    road.drain()
    for account in "ABC":
        road.lane(account)
        for _ in range(3):
            road.put(account)
    road.advance(1)
    assert road.served() == list("ABCABCA")  # seven of ten: the rest is kept
    road.advance(1)
    assert road.served() == list("ABCABCABC")


async def test_exits_of_any_lane_go_before_entries_of_all(made):
    road = crossing(made, 10)
    road.drain()
    for account in "ABC":
        road.lane(account)
        road.put(account)
    road.put("C", reducing=True)
    road.advance(1)
    assert road.served() == ["C", "A", "B", "C"]


async def test_exits_draw_on_what_entries_must_leave(made):
    road = crossing(made, 10)
    for account in "AB":
        road.lane(account)
        for _ in range(10):
            road.put(account)
    assert len(road.sent) == 7
    for _ in range(5):
        road.put("B", reducing=True)
    assert road.served()[7:] == ["B"] * 3
    assert all(order.reducing for order in road.sent[7:])


async def test_nobody_overtakes_who_waits(made):
    """A token that is there when a newcomer asks belongs to the first in line."""
    road = crossing(made, 1)
    road.drain()
    road.lane("A")
    road.lane("B")
    road.put("A")
    road.clock.advance(1)
    road.put("B")
    assert road.sent == []
    road.advance(0)
    assert road.served() == ["A"]
    road.advance(1)
    assert road.served() == ["A", "B"]


async def test_one_address_s_line_holds_up_no_other_s(made):
    road = crossing(made, 1000, 2, None)
    road.lane("slow-1", 0)
    road.lane("slow-2", 0)
    road.lane("free", 1)
    for _ in range(5):
        road.put("slow-1")
        road.put("slow-2")
        road.put("free")
    assert Counter(road.served()) == {"slow-1": 1, "free": 5}
    road.advance(1)
    assert Counter(road.served()) == {"slow-1": 1, "slow-2": 1, "free": 5}


async def test_a_pause_of_an_address_stops_its_lanes_alone(made):
    road = crossing(made, 1000, None, None)
    road.lane("banned", 0)
    road.lane("free", 1)
    road.ways[0].limit.pause(3.0, road.clock.monotonic_ns())
    road.put("banned")
    road.put("free")
    assert road.served() == ["free"]
    road.advance(2.9)
    assert road.served() == ["free"]
    road.advance(0.1)
    assert road.served() == ["free", "banned"]


async def test_the_queue_wakes_by_itself(made):
    road = crossing(made, 1)
    road.drain()
    road.lane("A")
    road.lane("B")
    road.put("A")
    road.put("B")
    road.clock.advance(1)
    await eventually(lambda: road.served() == ["A"])
    road.clock.advance(1)
    await eventually(lambda: road.served() == ["A", "B"])


async def test_a_lane_that_closed_or_emptied_gives_its_place_up(made):
    road = crossing(made, 10)
    road.drain()
    for account in "ABC":
        road.lane(account)
    road.put("A")
    order = road.put("B")
    road.put("C")
    road.lanes["A"].close()
    assert road.lanes["B"].deny(order, "HALTED", "")
    road.advance(1)
    assert road.served() == ["C"]
    road.put("B")
    assert road.served() == ["C", "B"]


async def test_a_lane_whose_connection_is_gone_when_its_turn_comes_loses_only_its_turn(made):
    road = crossing(made, 1)
    road.drain()
    for account in "AB":
        road.lane(account)
        road.put(account)
    road.lanes["A"].session.is_ready = False
    road.advance(1)
    assert road.served() == ["B"]
    road.lanes["A"].session.is_ready = True
    road.lanes["A"].pump()
    road.advance(1)
    assert road.served() == ["B", "A"]


async def test_a_lane_that_fails_holds_up_nobody(made):
    road = crossing(made, 10)
    road.drain()
    for account in "ABC":
        road.lane(account)
        road.put(account)

    def broken(_order: Order) -> None:
        raise OSError("the adapter broke its promise")

    road.lanes["A"].session.on_submit = broken
    with pytest.raises(OSError, match="promise"):
        road.advance(1)
    await eventually(lambda: road.served() == ["B", "C"])


async def test_what_grows_too_old_in_line_is_denied_while_it_waits(made):
    road = crossing(made, 1)
    road.drain()
    lane = road.lane("A")
    order = make_order("old", account="A")
    order.send_before_ns = road.clock.monotonic_ns() + 10_000_000
    lane.put(order)
    road.clock.advance(0.5)  # not yet its turn
    await eventually(lambda: road.denied == ["old STALE"])


async def test_a_thousand_waiting_lanes_are_woken_once_each(made):
    road = crossing(made, 100, 50)
    road.drain()
    for number in range(1000):
        road.lane(f"A{number}")
        road.put(f"A{number}")
    road.pumps.clear()
    rounds = 0
    while len(road.sent) < 1000:
        road.advance(1)
        rounds += 1
    assert rounds == 29  # 35 a second: 70 % of the address's fifty
    assert set(road.pumps.values()) == {1}


@settings(deadline=None, max_examples=60)
@given(
    lanes=st.integers(2, 8),
    orders=st.integers(1, 6),
    limit=st.integers(1, 7),
    addresses=st.integers(1, 3),
    address_limit=st.none() | st.integers(1, 7),
    pace=st.sampled_from([0.05, 0.3, 1.0]),
)
async def test_round_robin(lanes, orders, limit, addresses, address_limit, pace):
    """As long as all have something to send, none is ahead of another at its address by more than one order."""
    road = Crossing(limit, *[address_limit] * addresses)
    try:
        road.drain()
        names = [f"A{number}" for number in range(lanes)]
        for number, name in enumerate(names):
            road.lane(name, number % addresses)
        for _ in range(orders):
            for name in names:
                road.put(name)
        counts = Counter(dict.fromkeys(names, 0))
        turns = 0
        while len(road.sent) < lanes * orders:
            before = len(road.sent)
            road.advance(pace)
            turns += 1
            assert turns < 100 * lanes * orders
            for order in road.sent[before:]:
                counts[order.account] += 1
                for address in range(addresses):
                    at_it = [counts[name] for name in names[address::addresses]]
                    busy = [count for count in at_it if count < orders]
                    assert not busy or max(at_it) - min(busy) <= 1
        assert [counts[name] for name in names] == [orders] * lanes
    finally:
        road.close()


@settings(deadline=None, max_examples=60)
@given(
    st.lists(
        st.tuples(st.sampled_from(["put", "exit", "cancel", "wait", "pause"]), st.integers(0, 3)),
        min_size=1,
        max_size=60,
    )
)
async def test_whatever_happens_limits_hold_and_everything_leaves_in_the_end(moves):
    road = Crossing(5, 3, None)
    try:
        for number in range(4):
            road.lane(f"A{number}", number % 2)
        stamps: list[tuple[int, int]] = []
        asked = 0

        def note() -> None:
            while len(stamps) < len(road.sent):
                account = road.sent[len(stamps)].account
                stamps.append((road.clock.monotonic_ns(), int(account[1]) % 2))

        for what, number in moves:
            lane = road.lanes[f"A{number}"]
            match what:
                case "put" | "exit":
                    asked += 1
                    road.put(f"A{number}", reducing=what == "exit", name=f"O-{asked}")
                case "cancel":
                    lane.cancel(make_order("x", account=f"A{number}"))
                case "pause":
                    lane.way.limit.pause(0.5, road.clock.monotonic_ns())
                case "wait":
                    road.advance(0.3)
            note()
        for _ in range(200):
            road.advance(0.5)
            note()
        assert len(road.sent) == asked
        for at, _ in stamps:
            within = [way for moment, way in stamps if at <= moment < at + 1_000_000_000]
            assert len(within) <= 5
            assert within.count(0) <= 3
    finally:
        road.close()
