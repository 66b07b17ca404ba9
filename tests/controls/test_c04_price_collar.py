"""C04, price collar: every price of an order near a fresh, finite reference; without one nothing is sent."""

from __future__ import annotations

from decimal import Decimal
from pathlib import Path

import pytest

from engine.model.enums import OrderType
from engine.model.messages import Quote
from engine.risk import checks
from tests.controls.restarts import control, home, outcome
from tests.helpers import make_order, make_state
from tests.planning import Desk, limited

D = Decimal
LIMIT, STOP, STOP_LIMIT = OrderType.LIMIT, OrderType.STOP, OrderType.STOP_LIMIT


@pytest.mark.parametrize(
    ("kind", "prices", "code"),
    [
        (LIMIT, {"limit_price": "105"}, ""),
        (LIMIT, {"limit_price": "105.01"}, "COLLAR"),
        (LIMIT, {"limit_price": "95"}, ""),
        (LIMIT, {"limit_price": "94.99"}, "COLLAR"),
        (STOP, {"stop_price": "105"}, ""),
        (STOP, {"stop_price": "105.01"}, "COLLAR"),
        (STOP_LIMIT, {"stop_price": "105", "limit_price": "105"}, ""),
        (STOP_LIMIT, {"stop_price": "105.01", "limit_price": "105"}, "COLLAR"),
        (STOP_LIMIT, {"stop_price": "105", "limit_price": "105.01"}, "COLLAR"),
    ],
)
def test_each_price_lies_within_the_collar(kind, prices, code):
    desk = Desk()
    assert desk.plan(order_type=kind, **prices).code == code
    numbers = {name: D(price) for name, price in prices.items()}
    refused = desk.planner.check_by_hand(desk.states["A-1"], make_order(order_type=kind, **numbers))
    assert (refused[0] if refused else "") == code


def test_the_sentence_names_value_and_limit():
    plan = Desk().plan(order_type=LIMIT, limit_price="112.40")
    assert plan.message == "112.4 is 12.40 % from the reference 100, allowed are 5 %"


@pytest.mark.parametrize(
    ("age_s", "code"), [(5.0, ""), (5.000000001, "REF_STALE"), (8.2, "REF_STALE")]
)
def test_the_reference_is_fresh_when_it_is_planned(age_s, code):
    desk = Desk()
    desk.clock.advance_ns(round(age_s * 1e9))
    plan = desk.plan()
    assert plan.code == code
    if age_s == 8.2:
        assert plan.message == "the newest price of AAPL is 8.2 s old > 5 s"
    refused = desk.planner.check_by_hand(desk.states["A-1"], make_order())
    assert (refused[0] if refused else "") == code


def test_a_market_order_needs_a_reference_too():
    desk = Desk()
    plan = desk.plan(symbol="MSFT")
    assert (plan.code, plan.message) == ("REF_MISSING", "no price of MSFT is known")
    refused = desk.planner.check_by_hand(desk.states["A-1"], make_order(symbol="MSFT"))
    assert refused == ("REF_MISSING", "no price of MSFT is known")


@pytest.mark.parametrize("number", ["NaN", "sNaN", "Infinity", "-Infinity", "0", "-1"])
def test_what_is_no_price_is_no_reference(number, monkeypatch: pytest.MonkeyPatch):
    """``nan > limit`` is false: a check by comparison alone would let it pass."""
    desk = Desk()
    desk.marks.set("MSFT", D(number))
    assert desk.plan(symbol="MSFT").code == "REF_MISSING"
    # And were one to get as far as the marks:
    broken = Quote("AAPL", D(number), desk.clock.monotonic_ns())
    monkeypatch.setattr(desk.marks, "get", lambda _symbol: broken)
    assert desk.plan(order_type=LIMIT, limit_price="100").code == "REF_MISSING"
    assert checks.collar(D(100), D(number), D(5)) is not None
    assert checks.drift(D(number), D(100), D(5)) is not None
    assert checks.drift(D(100), D(number), D(5)) is not None


@pytest.mark.parametrize(
    ("intended", "code"), [("105.26", ""), ("105.27", "DRIFT"), ("95.23", "DRIFT")]
)
def test_the_producer_s_own_price_is_near(intended, code):
    plan = Desk().plan(reference_price=intended)
    assert plan.code == code
    if code:
        assert plan.message.startswith("the market is at 100, ")
        assert "% > 5 % from the producer's" in plan.message


def test_an_order_by_hand_against_a_stale_price_is_let_through_only_when_available():
    desk = Desk(make_state(), price_reference="when_available")
    desk.clock.advance(60)
    order = make_order(order_type=LIMIT, limit_price=D(200))
    assert desk.planner.check_by_hand(desk.states["A-1"], order) is None


def test_exits_need_no_reference():
    desk = Desk(limited())
    desk.hold("10")
    desk.clock.advance(3600)
    assert desk.plan(action="close").orders


async def test_it_holds_after_a_restart(tmp_path: Path) -> None:
    async with home(tmp_path) as place:
        for turn in range(2):
            async with place.engine() as running:
                code, text = await outcome(
                    running, f"s-{turn}", order_type="limit", limit_price="300"
                )
                assert code == "COLLAR"
                assert "300 is " in text
                assert text.endswith("allowed are 5 %")
                assert control(running, "C04")["refusals"] == 1
