"""C10, orders a day: per account in its own session's day, per strategy and for the firm in UTC days."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from decimal import Decimal
from pathlib import Path

import pytest

from engine.model.account import Hours
from engine.model.trading_hours import TradingHours
from engine.risk.day_counts import DayCounts, bounds
from tests.controls.restarts import RESTS, control, home, outcome, used
from tests.helpers import HandClock, make_account, make_order, make_state
from tests.planning import Desk, codes, limited, only, quantities

D = Decimal


@pytest.mark.parametrize("most", [1, 3])
def test_the_account_s_limit_is_the_number_that_passes(most):
    desk = Desk(limited(max_orders_per_day=most))
    for number in range(most):
        assert desk.take(signal_id=f"s-{number}").orders
    assert codes(desk.plan(signal_id="s-x").refused) == {"A-1": "DAY_MAX"}


def test_the_sentences_name_value_limit_and_whose_it_is():
    desk = Desk(limited(max_orders_per_day=1))
    desk.take(signal_id="s-0")
    assert only(desk.plan().refused)[1] == "the account has had 1 orders today, the limit is 1"
    desk = Desk(max_strategy_orders_per_day=1)
    desk.take(signal_id="s-0")
    assert only(desk.plan().refused)[1] == "the strategy has had 1 orders today, the limit is 1"
    desk = Desk(max_orders_per_day=1)
    desk.take(signal_id="s-0")
    assert only(desk.plan().refused)[1] == "the firm has had 1 orders today, the limit is 1"


def test_the_firm_s_and_the_strategy_s_limits_hold_within_one_fan_out():
    desk = Desk(
        *(limited(name) for name in "abcd"), max_orders_per_day=7, max_strategy_orders_per_day=3
    )
    plan = desk.take(signal_id="s-0")
    assert quantities(plan) == {"a": 10, "b": 10, "c": 10}
    assert codes(plan.refused) == {"d": "DAY_MAX"}
    assert len(desk.take(signal_id="s-1", strategy="other").orders) == 3
    plan = desk.take(signal_id="s-2", strategy="third")
    assert len(plan.orders) == 1
    assert plan.refused["b"][1] == "the firm has had 7 orders today, the limit is 7"


def test_denied_orders_do_not_count_and_exits_do():
    desk = Desk(limited(max_orders_per_day=2))
    (order,) = desk.take(signal_id="s-0").orders
    desk.orders.deny(order, "STALE", "too old")
    assert desk.pretrade.days.of_account("A-1") == 0
    desk.hold("10")
    assert desk.take(signal_id="s-1", action="close").orders
    assert desk.pretrade.days.of_account("A-1") == 1
    (order,) = desk.take(signal_id="s-2").orders
    desk.orders.take_back(order)
    assert desk.pretrade.days.of_account("A-1") == 1


def test_exits_are_never_refused():
    desk = Desk(limited(max_orders_per_day=1), max_orders_per_day=1)
    desk.take(signal_id="s-0")
    desk.hold("10")
    assert desk.plan(action="close").orders


def test_a_replacement_is_an_order_and_a_resend_is_none():
    desk = Desk(limited(max_orders_per_day=1))
    (order,) = desk.take().orders
    state = desk.states["A-1"]
    replacement = make_order("R", source="operator", signal_id="c")
    assert desk.planner.check_by_hand(state, replacement, instead_of=order)[0] == "DAY_MAX"
    assert desk.planner.check_by_hand(state, order, instead_of=order) is None


def test_the_day_ends_in_the_account_s_own_zone():
    tokyo = {"zone": "Asia/Tokyo", "open": "00:00", "close": "23:59"}
    limits = {"max_orders_per_day": 1}
    desk = Desk(make_state(make_account("T", limits=limits, hours=tokyo)), limited("U", **limits))
    desk.clock.advance(-3600 * 2)  # 13:00 UTC on Monday is 22:00 there
    assert len(desk.take(signal_id="s-0").orders) == 2
    desk.clock.advance(7199)
    desk.marks.set("AAPL", D(100))
    assert not desk.plan(signal_id="s-1").orders
    desk.clock.advance(1)
    assert quantities(desk.plan(signal_id="s-1")) == {"T": 10}
    desk.clock.advance(3600 * 9)
    desk.marks.set("AAPL", D(100))
    assert quantities(desk.plan(signal_id="s-2")) == {"T": 10, "U": 10}


ZONES = ["America/New_York", "Europe/London", "Asia/Kolkata", "Africa/Cairo", "Australia/Lord_Howe"]


@pytest.mark.parametrize("zone", ZONES)
@pytest.mark.parametrize(
    ("opens", "closes"), [("09:30", "16:00"), ("18:00", "17:00"), ("01:30", "01:00")]
)
def test_a_day_begins_once_through_two_years_of_clock_changes_and_year_ends(zone, opens, closes):
    hours = TradingHours(Hours.model_validate({"zone": zone, "open": opens, "close": closes}))
    now = datetime(2026, 12, 30, tzinfo=UTC)
    end = datetime(2028, 12, 31, tzinfo=UTC)
    days = 0
    _, ends = bounds(hours, now)
    while now < end:
        begins, new_ends = bounds(hours, now)
        assert begins <= now < new_ends
        assert timedelta(hours=22) <= new_ends - begins <= timedelta(hours=26)
        if new_ends != ends:
            assert begins == ends  # nothing between two days, and none twice
            ends, days = new_ends, days + 1
        now += timedelta(minutes=50)
    assert days in {731, 732}


def test_a_clock_set_back_begins_no_day_anew():
    clock = HandClock(datetime(2026, 12, 31, 23, 59, 50, tzinfo=UTC))
    counts = DayCounts(clock, {"A-1": make_state()})

    def order(number: int) -> None:
        counts.added(make_order(f"O-{number}", strategy="s", created_at=clock.now()))

    order(1)
    clock.advance(15)
    order(2)
    assert (counts.of_account("A-1"), counts.of_firm(), counts.of_strategy("s")) == (1, 1, 1)
    clock.advance(-60)
    order(3)
    assert (counts.of_account("A-1"), counts.of_firm(), counts.of_strategy("s")) == (2, 2, 2)
    clock.advance(60)
    assert counts.of_account("A-1") == 2


async def test_the_counts_survive_a_restart(tmp_path: Path) -> None:
    firm = {"max_orders_per_day": 10, "max_strategy_orders_per_day": 10}
    async with home(tmp_path, limits={"max_orders_per_day": 3}) as place:
        async with place.engine(limits=firm) as running:
            for number in range(2):
                assert (await outcome(running, f"s-{number}", **RESTS))[0] == ""
            assert used(running, "max_orders_per_day") == "2"
        async with place.engine(limits=firm) as running:
            assert used(running, "max_orders_per_day") == "2"
            assert used(running, "max_orders_per_day", "all") == "2"
            assert used(running, "max_strategy_orders_per_day", "strategy:breakout") == "2"
            assert (await outcome(running, "s-2", **RESTS))[0] == ""
            assert (await outcome(running, "s-3"))[0] == "DAY_MAX"
            assert control(running, "C10")["refusals"] == 1
            (order, *_) = running.engine.orders.working()
            await running.refused("replace_order", cl_ord_id=order.cl_ord_id, limit_price="184")
            await running.command("cancel_order", cl_ord_id=order.cl_ord_id)
