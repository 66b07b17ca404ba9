"""The fan-out: each order to its own lane, nobody always last, the loop never held for long."""

from __future__ import annotations

import asyncio
from collections import Counter

from engine.execution import dispatcher as module
from engine.execution.dispatcher import Dispatcher
from engine.execution.fair_queue import FairQueue
from engine.execution.lane import Lane
from engine.execution.rate_limit import RateLimit, TokenBucket
from engine.model.order import Order
from tests.helpers import HandClock, ScriptedSession, eventually, make_order


class Floor:
    """A dispatcher with a lane per account; ``sent`` in the order of submission over all of them.

    ``own``: orders a second of each account. ``firm``: of all together.
    """

    def __init__(self, *accounts: str, own: int = 10**6, firm: int = 10**6) -> None:
        self.dispatcher = Dispatcher()
        self.dispatcher.denied = self._deny
        self.denied: list[tuple[str, str]] = []
        self.sent: list[Order] = []
        self.clock = HandClock()
        self.way = FairQueue(RateLimit(TokenBucket(firm, 1.0)), self.clock)
        for account in accounts:
            session = ScriptedSession(account)
            session.on_submit = self.sent.append
            limit = RateLimit(TokenBucket(own, 1.0))
            lane = Lane(
                session, limit, self.way, self.clock, lambda _order: None, lambda *_denied: None
            )
            self.dispatcher.lanes[account] = lane

    def _deny(self, order: Order, code: str, _text: str) -> None:
        self.denied.append((order.cl_ord_id, code))

    def fan_out(self, name: str) -> list[Order]:
        orders = [make_order(f"{name}-{a}", account=a) for a in self.dispatcher.lanes]
        self.dispatcher.dispatch(orders)
        return orders


async def test_every_order_goes_to_its_own_account():
    floor = Floor("A", "B", "C")
    orders = floor.fan_out("s")
    assert Counter(order.cl_ord_id for order in floor.sent) == Counter(o.cl_ord_id for o in orders)
    for account, lane in floor.dispatcher.lanes.items():
        assert [order.account for order in lane.session.submitted] == [account]


async def test_the_account_served_first_rotates():
    accounts = [f"A{number}" for number in range(5)]
    floor = Floor(*accounts)
    places: dict[str, Counter[int]] = {account: Counter() for account in accounts}
    for number in range(20):
        floor.sent.clear()
        floor.fan_out(f"s{number}")
        for place, order in enumerate(floor.sent):
            places[order.account][place] += 1
    # Over 20 signals each of five accounts had each of the five places four times.
    assert all(counts == dict.fromkeys(range(5), 4) for counts in places.values())


async def test_orders_of_one_account_keep_their_order_over_many_fan_outs():
    floor = Floor(*(f"A{number}" for number in range(100)))
    for number in range(10):
        floor.fan_out(f"s{number}")
    await eventually(lambda: len(floor.sent) == 1000)
    for account, lane in floor.dispatcher.lanes.items():
        sent = [order.cl_ord_id for order in lane.session.submitted]
        assert sent == [f"s{number}-{account}" for number in range(10)]


async def test_an_account_without_a_lane_is_told_and_keeps_nobody_else_s_order():
    floor = Floor("B", "C")
    orders = [make_order(f"s-{account}", account=account) for account in "ABC"]
    floor.dispatcher.dispatch(orders)
    assert [order.cl_ord_id for order in floor.sent] == ["s-B", "s-C"]
    assert floor.denied == [("s-A", "NOT_CONNECTED")]


async def test_a_large_fan_out_lets_the_loop_turn():
    accounts = [f"A{number}" for number in range(3 * module.CHUNK + 1)]
    floor = Floor(*accounts)
    floor.fan_out("s")
    turns = [len(floor.sent)]
    while len(floor.sent) < len(accounts):
        assert floor.dispatcher.busy
        await asyncio.sleep(0)
        turns.append(len(floor.sent))
    assert turns == [module.CHUNK, 2 * module.CHUNK, 3 * module.CHUNK, len(accounts)]
    assert not floor.dispatcher.busy


async def test_nothing_to_send_moves_nobody_s_turn():
    floor = Floor("A", "B")
    floor.dispatcher.dispatch([])
    floor.fan_out("s1")
    assert [order.account for order in floor.sent] == ["A", "B"]
    floor.dispatcher.dispatch([])
    floor.fan_out("s2")
    assert [order.account for order in floor.sent[2:]] == ["B", "A"]


# ---- how long it would take ----------------------------------------------------------------------------------------


def predicted(floor: Floor, *accounts: str) -> tuple[float, int]:
    said = floor.dispatcher.predict(accounts, floor.clock.monotonic_ns())
    return said.seconds, said.cold


async def test_within_the_limits_a_fan_out_takes_no_time():
    floor = Floor("A", "B", "C")
    assert predicted(floor, "A", "B", "C") == (0.0, 0)
    assert floor.dispatcher.predict((), floor.clock.monotonic_ns()).seconds == 0.0


async def test_the_firm_s_limit_is_foreseen_for_all_together():
    floor = Floor(*(f"A{number}" for number in range(20)), firm=10)
    everybody = tuple(floor.dispatcher.lanes)
    assert predicted(floor, *everybody[:7]) == (0.0, 0)  # 30 % are kept for exits and cancels
    assert predicted(floor, *everybody) == (2.0, 0)
    exits = floor.dispatcher.predict(everybody, floor.clock.monotonic_ns(), entry=False)
    assert exits.seconds == 1.0
    for lane in floor.dispatcher.lanes.values():
        lane.close()
    floor.way.close()


async def test_what_waits_already_goes_first_and_is_foreseen():
    floor = Floor("A", "B", own=1)
    floor.fan_out("s1")
    floor.fan_out("s2")
    assert [len(lane) for lane in floor.dispatcher.lanes.values()] == [1, 1]
    assert predicted(floor, "A") == (2.0, 0)
    floor.clock.advance(0.5)
    assert predicted(floor, "A") == (1.5, 0)
    for lane in floor.dispatcher.lanes.values():
        lane.close()


async def test_accounts_without_a_free_connection_are_counted_apart():
    floor = Floor("A", "B")
    floor.dispatcher.lanes["B"].session.is_ready = False
    assert predicted(floor, "A", "B", "unknown") == (0.0, 2)


async def test_a_prediction_comes_true():
    floor = Floor(*(f"A{number}" for number in range(25)), firm=10)
    seconds, _ = predicted(floor, *floor.dispatcher.lanes)
    began = floor.clock.monotonic_ns()
    floor.fan_out("s")
    while len(floor.sent) < 25:
        last = len(floor.sent)
        floor.clock.advance(0.25)
        floor.way.serve()
        if len(floor.sent) > last:
            finished = floor.clock.monotonic_ns() - began
    assert finished == seconds * 1e9 == 3e9
    floor.way.close()
