"""One account's lane: order, exits first, limits at the last moment, retries of what never left, closing."""

from __future__ import annotations

import asyncio

import pytest

from engine.execution.fair_queue import FairQueue
from engine.execution.lane import MOST_TRIES, Lane
from engine.execution.rate_limit import RateLimit, TokenBucket
from engine.model.order import Order
from tests.helpers import MONDAY, HandClock, ScriptedSession, eventually, make_order, make_trade


class Road:
    """A lane with everything around it in the test's hands."""

    def __init__(self, limit: int = 1000) -> None:
        self.clock = HandClock()
        self.session = ScriptedSession()
        self.denied: list[tuple[str, str]] = []
        self.sentences: list[str] = []
        self.forbidden: tuple[str, str] | None = None
        self.limit = RateLimit(TokenBucket(limit, 1.0))
        self.way = FairQueue(RateLimit(), self.clock)
        self.lane = Lane(
            self.session,
            self.limit,
            self.way,
            self.clock,
            lambda _order: self.forbidden,
            self._deny,
        )

    def _deny(self, order: Order, code: str, text: str) -> None:
        self.denied.append((order.cl_ord_id, code))
        self.sentences.append(text)

    def put(self, *names: str, **fields) -> list[Order]:
        orders = [make_order(name, **fields) for name in names]
        for order in orders:
            self.lane.put(order)
        return orders

    def sent(self) -> list[str]:
        return [order.cl_ord_id for order in self.session.submitted]

    def deadline(self, seconds: float) -> int:
        return self.clock.monotonic_ns() + int(seconds * 1e9)


@pytest.fixture
async def road():
    made = Road()
    yield made
    made.lane.close()
    made.way.close()


@pytest.fixture
async def slow_road():
    """One order a second of the hand-moved clock."""
    made = Road(limit=1)
    yield made
    made.lane.close()


async def test_orders_leave_in_the_order_they_came(road):
    road.put("1", "2", "3")
    assert road.sent() == ["1", "2", "3"]
    assert len(road.lane) == 0


async def test_what_cannot_leave_yet_waits_and_keeps_its_order(road):
    road.session.is_ready = False
    road.put("1", "2", "3")
    assert road.sent() == []
    assert len(road.lane) == 3
    road.session.is_ready = True
    road.lane.pump()
    assert road.sent() == ["1", "2", "3"]


async def test_exits_leave_before_entries(road):
    road.session.is_ready = False
    road.put("entry-1", "entry-2")
    road.put("exit", side="sell", reducing=True)
    road.session.is_ready = True
    road.lane.pump()
    assert road.sent() == ["exit", "entry-1", "entry-2"]


async def test_exits_keep_their_order_among_themselves(road):
    road.session.is_ready = False
    road.put("exit-1", "exit-2", "exit-3", side="sell", reducing=True)
    road.session.is_ready = True
    road.lane.pump()
    assert road.sent() == ["exit-1", "exit-2", "exit-3"]


async def test_a_session_that_takes_one_at_a_time_gets_one_at_a_time(road):
    def busy(_order: Order) -> None:
        road.session.is_ready = False

    road.session.on_submit = busy
    road.put("1", "2")
    assert road.sent() == ["1"]
    road.session.is_ready = True
    road.lane.pump()
    assert road.sent() == ["1", "2"]


async def test_the_rate_holds_orders_back_and_the_lane_wakes_by_itself(slow_road):
    slow_road.put("1", "2")
    assert slow_road.sent() == ["1"]
    slow_road.clock.advance(0.9)
    slow_road.lane.pump()
    assert slow_road.sent() == ["1"]
    slow_road.clock.advance(0.1)
    await eventually(lambda: slow_road.sent() == ["1", "2"])


@pytest.mark.parametrize(("late_ns", "leaves"), [(-1, True), (0, True), (1, False)])
async def test_an_order_leaves_until_its_deadline_and_not_after(road, late_ns, leaves):
    road.session.is_ready = False
    (order,) = road.put("1")
    order.send_before_ns = road.deadline(5)
    road.clock.advance_ns(5_000_000_000 + late_ns)
    road.session.is_ready = True
    road.lane.pump()
    assert road.sent() == (["1"] if leaves else [])
    assert road.denied == ([] if leaves else [("1", "STALE")])


async def test_how_late_is_told(road):
    order = make_order("1")
    order.send_before_ns = road.deadline(-2.5)
    road.lane.put(order)
    assert road.sentences == ["2.5 s past its age limit before it could leave"]


async def test_an_order_expires_by_itself_while_the_session_is_away(road):
    road.session.is_ready = False
    order = make_order("1")
    order.send_before_ns = road.deadline(0.01)
    road.lane.put(order)
    road.clock.advance(1)
    await eventually(lambda: road.denied == [("1", "STALE")])
    assert len(road.lane) == 0


async def test_an_order_without_a_deadline_never_expires(road):
    road.session.is_ready = False
    road.put("1")
    road.clock.advance(1e6)
    road.session.is_ready = True
    road.lane.pump()
    assert road.sent() == ["1"]


async def test_a_halt_between_the_queue_and_the_first_byte_stops_everything_queued(road):
    road.session.is_ready = False
    road.put("1", "2", "3")
    road.forbidden = ("HALTED", "all is halted")
    road.lane.pump()  # not even a connection is needed to be refused
    assert road.denied == [("1", "HALTED"), ("2", "HALTED"), ("3", "HALTED")]
    road.forbidden = None
    road.session.is_ready = True
    road.lane.pump()
    assert road.sent() == []


async def test_a_refused_order_uses_up_no_rate(slow_road):
    slow_road.forbidden = ("HALTED", "")
    slow_road.put("1", "2")
    slow_road.forbidden = None
    slow_road.put("3")
    assert slow_road.sent() == ["3"]


async def test_what_never_left_is_tried_three_times_in_all(road):
    tries = []

    def not_a_byte_left(order: Order) -> None:
        tries.append(order.cl_ord_id)
        order.text = "connection refused"
        road.lane.put_back(order)

    road.session.on_submit = not_a_byte_left
    road.put("1")
    await eventually(lambda: road.denied)
    assert tries == ["1"] * MOST_TRIES == ["1"] * 3
    assert road.denied == [("1", "NOT_SENT")]
    assert road.sentences == ["not a byte left in 3 tries: connection refused"]
    assert len(road.lane) == 0


async def test_what_is_put_back_goes_before_what_came_later(road):
    road.session.is_ready = False
    road.put("2", "3")
    road.lane.put_back(make_order("1"))
    road.session.is_ready = True
    await eventually(lambda: len(road.sent()) == 3)
    assert road.sent() == ["1", "2", "3"]


async def test_an_entry_put_back_does_not_overtake_an_exit(road):
    road.session.is_ready = False
    road.put("exit", side="sell", reducing=True)
    road.lane.put_back(make_order("entry"))
    road.session.is_ready = True
    road.lane.pump()
    assert road.sent() == ["exit", "entry"]


async def test_an_order_that_needs_no_more_tries_is_forgotten(road):
    order = make_order("1")
    for _ in range(MOST_TRIES - 1):
        road.lane.put_back(order)
        road.lane.pump()
    road.lane.forget(order)
    assert road.lane._tries == {}
    road.lane.put_back(order)  # counted from the beginning
    road.lane.pump()
    assert road.session.submitted == [order] * MOST_TRIES
    assert road.denied == []


async def test_what_is_put_back_too_late_is_denied(road):
    order = make_order("1")
    order.send_before_ns = road.deadline(1)
    road.clock.advance(2)
    road.lane.put_back(order)
    await eventually(lambda: road.denied == [("1", "STALE")])
    assert road.sent() == []


async def test_one_queued_order_can_be_taken_out(road):
    road.session.is_ready = False
    first, second, third = road.put("1", "2", "3")
    assert road.lane.deny(second, "CANCELED_BY_OPERATOR", "by hand")
    assert not road.lane.deny(second, "CANCELED_BY_OPERATOR", "by hand")
    assert not road.lane.deny(make_order("4"), "X", "")
    road.session.is_ready = True
    road.lane.pump()
    assert road.session.submitted == [first, third]
    assert road.denied == [("2", "CANCELED_BY_OPERATOR")]
    assert not road.lane.deny(first, "X", "")


async def test_what_its_broker_told_of_while_it_waited_is_not_denied(road):
    """Seed 2004666: proven absent and queued once more, then accepted later than the broker had promised."""
    road.session.is_ready = False
    first, second, _ = road.put("1", "2", "3")
    first.apply(make_trade(first, "E-1", "4"), MONDAY)
    assert not road.lane.deny(first, "CANCELED", "by a signal"), "its cancel goes to the broker"
    second.apply(make_trade(second, "E-2", "4"), MONDAY)
    assert road.lane.deny_all("NOT_SENT", "the engine stopped") == 1
    assert road.denied == [("3", "NOT_SENT")]
    assert len(road.lane) == 0


async def test_a_denied_order_may_look_into_the_lane_however_long_the_queue(road):
    """A denial pumps, as the engine does after every change of an order: it neither nests nor sends."""
    road.lane._denied = lambda order, code, _text: (
        road.denied.append((order.cl_ord_id, code)),
        road.lane.pump(),
    )
    road.session.is_ready = False
    orders = road.put(*(f"O-{number}" for number in range(2000)))
    road.forbidden = ("HALTED", "all is halted")
    road.lane.pump()
    assert road.denied == [(order.cl_ord_id, "HALTED") for order in orders]
    assert len(road.lane) == 0


async def test_emptying_the_lane_sends_nothing_even_when_it_could(road):
    road.lane._denied = lambda order, code, _text: (
        road.denied.append((order.cl_ord_id, code)),
        road.lane.pump(),
    )
    road.session.is_ready = False
    road.put("1", "2", "3", "4")
    road.session.is_ready = True
    assert road.lane.deny_all("NOT_SENT", "the engine stopped") == 4
    assert [name for name, _ in road.denied] == ["1", "2", "3", "4"]
    assert road.sent() == []


async def test_a_closed_lane_takes_nothing_and_starts_no_timer(road):
    road.lane.close()
    road.lane.put_back(make_order("1"))
    assert road.lane._timer is None
    road.put("2")
    assert road.denied == [("1", "NOT_SENT"), ("2", "NOT_CONNECTED")]
    assert road.sent() == []
    assert len(road.lane) == 0


async def test_closing_denies_what_waits_and_leaves_no_timer(slow_road):
    slow_road.put("1", "2", "3")
    slow_road.lane.close("INACTIVE", "taken out of service")
    assert slow_road.denied == [("2", "INACTIVE"), ("3", "INACTIVE")]
    slow_road.clock.advance(60)
    await asyncio.sleep(0)
    assert slow_road.lane._timer is None
    assert slow_road.sent() == ["1"]


# ---- cancels and replaces ------------------------------------------------------------------------------------------


def paused(road: Road, seconds: float = 5.0) -> None:
    """Let the broker ask this account for quiet."""
    road.limit.pause(seconds, road.clock.monotonic_ns())
    road.lane.quieted()


async def test_a_cancel_waits_for_no_limit_and_counts_against_it(slow_road):
    (sent, _) = slow_road.put("1", "2")
    slow_road.clock.advance(0.9)
    slow_road.lane.cancel(sent)
    slow_road.lane.replace(sent, replacement := make_order("3"))
    assert slow_road.session.canceled == [sent]
    assert slow_road.session.replaced == [(sent, replacement)]
    slow_road.clock.advance(0.1)  # the order's own token is back, the cancel took it
    slow_road.lane.pump()
    assert slow_road.sent() == ["1"]
    slow_road.clock.advance(0.9)
    await eventually(lambda: slow_road.sent() == ["1", "2"])


async def test_in_a_pause_cancels_wait_too_and_leave_first_when_it_ends(road):
    (first,) = road.put("1")
    left = []
    road.session.on_submit = lambda order: left.append(order.cl_ord_id)
    paused(road)
    road.put("2")
    road.lane.cancel(first)
    road.lane.cancel(first)  # asked again: still one cancel
    assert (road.sent(), road.session.canceled) == (["1"], [])
    road.clock.advance(5)
    road.lane.pump()
    assert road.session.canceled == [first]
    assert left == ["2"]


async def test_after_a_pause_the_lane_wakes_by_itself(road):
    (first,) = road.put("1")
    paused(road, 0.02)
    road.lane.cancel(first)
    road.put("2")
    road.clock.advance(0.02)
    await eventually(lambda: road.sent() == ["1", "2"])
    assert road.session.canceled == [first]


async def test_an_order_too_old_for_a_pause_is_denied_while_it_lasts(road):
    paused(road)
    order = make_order("1")
    order.send_before_ns = road.deadline(0.01)
    road.lane.put(order)
    road.clock.advance(0.02)
    await eventually(lambda: road.denied == [("1", "STALE")])


async def test_a_replacement_that_waited_is_held_to_the_halt_of_then(road):
    (first,) = road.put("1")
    paused(road)
    road.lane.replace(first, make_order("2"))
    road.forbidden = ("HALTED", "all is halted")
    road.clock.advance(5)
    road.lane.pump()
    assert road.session.replaced == []
    assert road.denied == [("2", "HALTED")]


async def test_of_a_replacement_and_a_later_cancel_that_wait_the_cancel_goes(road):
    (first,) = road.put("1")
    paused(road)
    road.lane.replace(first, make_order("2"))
    road.lane.cancel(first)
    road.clock.advance(5)
    road.lane.pump()
    assert (road.session.replaced, road.session.canceled) == ([], [first])
    assert road.denied == [("2", "NOT_SENT")]


async def test_closing_denies_a_replacement_that_waits(road):
    (first,) = road.put("1")
    paused(road)
    road.lane.replace(first, make_order("2"))
    road.lane.close()
    assert road.denied == [("2", "NOT_SENT")]


# ---- 429 (F12) -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("told_first", [True, False])
async def test_waiting_for_the_end_of_pauses_is_no_try(road, told_first):
    """The broker throttles it more often than an order is tried; it leaves as soon as it is let."""
    (order,) = road.put("1")
    for throttled in range(2 * MOST_TRIES):
        if told_first:
            paused(road, 1.0)
            road.lane.put_back(order)
        else:
            road.lane.put_back(order)
            paused(road, 1.0)
        road.lane.pump()
        assert len(road.sent()) == throttled + 1
        road.clock.advance(1.0)
        road.lane.pump()
        assert len(road.sent()) == throttled + 2
    for _ in range(MOST_TRIES - 1):  # and what fails for another reason has all its tries yet
        road.lane.put_back(order)
        road.lane.pump()
    assert road.denied == []


async def test_what_is_throttled_too_long_is_too_old(road):
    (order,) = road.put("1")
    order.send_before_ns = road.deadline(3.0)
    paused(road, 10.0)
    road.lane.put_back(order)
    road.clock.advance(10.0)
    road.lane.pump()
    assert road.sent() == ["1"]
    assert road.denied == [("1", "STALE")]
