"""C03, order value: quantity × price × multiplier; what cannot be valued cannot be proven small enough."""

from __future__ import annotations

from decimal import Decimal
from pathlib import Path

import pytest

from engine.model.enums import OrderType
from engine.model.instrument import Instrument
from engine.planner import Release
from tests.controls.restarts import RESTS, control, home, outcome
from tests.helpers import make_order, make_state
from tests.planning import Desk, codes, limited, only

D = Decimal
A1 = frozenset({"A-1"})


@pytest.mark.parametrize(
    ("most", "code"), [("1000", ""), ("1000.01", ""), ("999.99", "VALUE_MAX"), ("1", "VALUE_MAX")]
)
def test_the_limit_is_the_largest_value_that_passes(most, code):
    plan = Desk(limited(max_order_value=most)).plan()
    assert codes(plan.refused) == ({"A-1": code} if code else {})
    assert bool(plan.orders) is not bool(code)


def test_the_sentence_names_value_and_limit():
    refused = Desk(limited(max_order_value="999.5")).plan().refused
    assert only(refused) == ("VALUE_MAX", "10 × 100 = 1000.00 > 999.5")


def test_a_limit_order_is_valued_at_its_own_price():
    desk = Desk(limited(max_order_value="1000"))
    limit = {"order_type": OrderType.LIMIT}
    assert desk.plan(**limit, limit_price="100").orders
    assert codes(desk.plan(**limit, limit_price="100.01").refused) == {"A-1": "VALUE_MAX"}


def test_the_multiplier_counts():
    desk = Desk(limited(max_order_value="49999"))
    desk.instrument = Instrument("AAPL", multiplier=D(50))
    assert only(desk.plan().refused) == ("VALUE_MAX", "10 × 100 = 50000.00 > 49999")


@pytest.mark.parametrize(
    ("limits", "firm"),
    [
        ({"max_order_value": "1000000"}, {}),
        ({"max_open_value": "1000000"}, {}),
        ({"max_gross_exposure": "1000000"}, {}),
        ({}, {"max_open_value": "1000000"}),
        ({}, {"max_gross_exposure": "1000000"}),
    ],
)
def test_without_a_price_no_value_limit_can_be_proven(limits, firm):
    """Where references are required nothing goes without; ``when_available`` lets only what has no limit pass."""
    desk = Desk(limited(**limits), price_reference="when_available", **firm)
    plan = desk.plan(symbol="MSFT")
    code, text = only(plan.refused)
    assert code == "REF_MISSING"
    assert "no price to check" in text
    priced = desk.plan(symbol="MSFT", order_type=OrderType.LIMIT, limit_price="100")
    assert priced.orders


def test_where_no_value_limit_is_set_when_available_goes_on():
    plan = Desk(make_state(), price_reference="when_available").plan(symbol="MSFT")
    assert plan.orders


def test_slices_of_one_signal_count_together():
    desk = Desk(limited(max_order_value="2500"))

    def sliced(quantity: str):
        order = make_order("E", quantity=quantity, source="bot", signal_id="s-1")
        return desk.plan(Release(A1, forced=True, earlier=(order,)))

    assert sliced("15").orders
    assert only(sliced("16").refused) == (
        "VALUE_MAX",
        "1600.00 within a minute + 10 × 100 = 2600.00 > 2500",
    )


@pytest.mark.parametrize(("quantity", "code"), [("10", None), ("11", "VALUE_MAX")])
def test_an_order_by_hand_is_held_to_the_same(quantity, code):
    desk = Desk(limited(max_order_value="1000"))
    refused = desk.planner.check_by_hand(desk.states["A-1"], make_order(quantity=quantity))
    assert (refused[0] if refused else None) == code


def test_exits_are_never_refused():
    desk = Desk(limited(max_order_value="1"))
    desk.hold("100")
    assert desk.plan(action="close").orders


async def test_it_holds_after_a_restart_for_signals_and_replacements(tmp_path: Path) -> None:
    async with home(tmp_path, limits={"max_order_value": "186"}) as place:
        async with place.engine() as running:
            code, text = await outcome(running, "s-1")
            assert code == "VALUE_MAX"
            assert text.endswith("> 186")
            assert (await outcome(running, "s-2", **RESTS))[0] == ""
        async with place.engine() as running:
            assert (await outcome(running, "s-3"))[0] == "VALUE_MAX"
            (order,) = running.engine.orders.working()
            status, code = await running.refused(
                "replace_order", cl_ord_id=order.cl_ord_id, limit_price="186.01"
            )
            assert (status, code) == (409, "VALUE_MAX")
            await running.command("replace_order", cl_ord_id=order.cl_ord_id, limit_price="186")
            assert control(running, "C03")["refusals"] == 2
