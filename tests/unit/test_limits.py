"""The limits of accounts, addresses and the firm: who shares what, what survives, what a broker says."""

from __future__ import annotations

from dataclasses import replace

import pytest

from engine.execution.dispatcher import Dispatcher
from engine.execution.lane import Lane
from engine.execution.limits import Limits
from engine.model.account import Account
from tests.helpers import CAPABILITIES, HandClock, ScriptedSession, make_order

RULES = replace(CAPABILITIES, max_orders_per_second=10.0, burst=100)  # a hundred in ten seconds


def account(name: str, **fields) -> Account:
    document = {"id": name, "broker": "oanda", "sizing": {"method": "fixed", "quantity": "1"}}
    return Account.model_validate(document | fields)


class Desk:
    """Limits with the dispatcher they work on."""

    def __init__(self, firm: int = 1000) -> None:
        self.clock = HandClock()
        self.dispatcher = Dispatcher()
        self.limits = Limits(self.clock, self.dispatcher, firm)
        self.denied: list[str] = []

    def lane(self, made: Account, rules=RULES) -> Lane:
        limit, way = self.limits.of(made, rules)
        lane = self.dispatcher.lanes[made.id] = Lane(
            ScriptedSession(made.id, rules),
            limit,
            way,
            self.clock,
            lambda _order: None,
            lambda order, code, _text: self.denied.append(f"{order.cl_ord_id} {code}"),
        )
        return lane

    def now(self) -> int:
        return self.clock.monotonic_ns()


@pytest.fixture
async def desk():
    made = Desk()
    yield made
    for lane in made.dispatcher.lanes.values():
        lane.close()
    made.limits.close()


async def test_a_broker_s_burst_is_what_its_rate_gives_in_a_window(desk):
    lane = desk.lane(account("A"))
    assert lane.left(desk.now()) == 70
    for _ in range(70):
        lane.put(make_order(account="A"))
    assert lane.left(desk.now()) == 0
    assert lane.limit.wait_ns(desk.now(), entry=True) == 10e9


async def test_a_calendar_second_rule_is_one_more_bucket(desk):
    lane = desk.lane(account("A"), replace(RULES, per_calendar_second=10))
    assert lane.left(desk.now()) == 7
    assert lane.limit.left(desk.now()) == 10


async def test_an_account_s_own_limit_changes_without_giving_tokens_back(desk):
    made = account("A")
    lane = desk.lane(made)
    for _ in range(50):
        lane.put(make_order(account="A"))
    slower = account("A", limits={"max_orders_per_second": 4})
    desk.limits.of(slower, RULES)
    assert lane.left(desk.now()) == 2
    lane.put(make_order(account="A"))
    desk.limits.of(slower, RULES)  # read again, nothing changed: nothing given back
    assert lane.left(desk.now()) == 1
    desk.limits.of(made, RULES)
    assert lane.left(desk.now()) == 19


async def test_a_reconnection_gives_no_tokens_back_and_ends_no_pause(desk):
    made = account("A")
    lane = desk.lane(made)
    for _ in range(50):
        lane.put(make_order(account="A"))
    desk.limits.note("A", retry_after_s=30.0)
    lane.close()
    again = desk.lane(made)
    assert again.paused_until_ns == desk.now() + 30e9
    desk.clock.advance(0.0)
    assert (
        again.limit.buckets[0].left(desk.now(), entry=True) == 0
    )  # half of what was left is doubted
    desk.limits.forget("A")
    assert desk.lane(made).left(desk.now()) == 70


async def test_accounts_share_an_address_at_one_broker_and_leave_by_another_alone(desk):
    rules = replace(RULES, per_address_second=20)
    here = [desk.lane(account(name), rules) for name in ("A", "B")]
    egress = {"local_address": "192.0.2.7"}
    there = desk.lane(account("C", egress=egress), rules)
    same = desk.lane(account("D", egress=egress), rules)
    elsewhere = desk.lane(account("E", broker="kite"), rules)
    live = desk.lane(account("F", environment="live"), rules)
    assert here[0].way is here[1].way
    assert there.way is same.way
    assert len({id(lane.way) for lane in (here[0], there, elsewhere, live)}) == 4
    for _ in range(20):
        here[0].put(make_order(account="A"))
    assert [lane.left(desk.now()) for lane in (*here, there, elsewhere)] == [0, 0, 14, 14]


async def test_the_firm_s_limit_is_everybody_s():
    desk = Desk(firm=10)
    first, other = desk.lane(account("A")), desk.lane(account("B", broker="kite"))
    for _ in range(5):
        first.put(make_order(account="A"))
    assert other.left(desk.now()) == 2
    desk.limits.close()


async def test_a_429_pauses_its_account_alone(desk):
    lane, other = desk.lane(account("A")), desk.lane(account("B"))
    desk.limits.note("A", retry_after_s=2.0)
    lane.put(make_order("1", account="A"))
    other.put(make_order("2", account="B"))
    assert lane.session.submitted == []
    assert len(other.session.submitted) == 1
    desk.clock.advance(2)
    lane.pump()
    assert len(lane.session.submitted) == 1


async def test_a_ban_of_an_address_pauses_all_that_leave_by_it(desk):
    lane, same = desk.lane(account("A")), desk.lane(account("B"))
    elsewhere = desk.lane(account("C", egress={"proxy": "http://192.0.2.9:3128"}))
    desk.limits.note("A", retry_after_s=120.0, address_wide=True)
    for name, at in (("A", lane), ("B", same), ("C", elsewhere)):
        at.put(make_order(f"O-{name}", account=name))
        at.cancel(make_order(f"X-{name}", account=name))
    assert [len(at.session.submitted) for at in (lane, same, elsewhere)] == [0, 0, 1]
    assert [len(at.session.canceled) for at in (lane, same, elsewhere)] == [0, 0, 1]
    desk.clock.advance(120)
    lane.pump()
    same.pump()
    lane.way.serve()
    assert [len(at.session.canceled) for at in (lane, same)] == [1, 1]
    assert [len(at.session.submitted) for at in (lane, same)] == [1, 1]


async def test_usage_lowers_the_account_s_or_the_address_s_tokens(desk):
    rules = replace(RULES, per_address_second=50)
    lane, same = desk.lane(account("A"), rules), desk.lane(account("B"), rules)
    desk.limits.note("A", used=60, limit=100, resets_in_s=8.0)
    assert [lane.left(desk.now()), same.left(desk.now())] == [10, 35]
    desk.limits.note("B", used=95, limit=100, resets_in_s=8.0, address_wide=True)
    assert same.left(desk.now()) == lane.left(desk.now()) == 0
    assert same.way.left(desk.now()) == 5  # exits may draw on what is kept
    desk.clock.advance(8)
    assert [lane.left(desk.now()), same.left(desk.now())] == [35, 35]


async def test_what_is_said_of_an_account_that_has_gone_is_dropped(desk):
    desk.limits.note("gone", used=1, limit=1, retry_after_s=1.0)
    assert desk.dispatcher.lanes == {}
