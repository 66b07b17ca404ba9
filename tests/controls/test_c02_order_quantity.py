"""C02, order quantity: per order, and all orders of one decision within a minute; live accounts need the limit."""

from __future__ import annotations

from decimal import Decimal
from pathlib import Path

import pytest

from engine.model.enums import ExecType
from engine.planner import Release
from tests.controls.restarts import control, home, outcome
from tests.helpers import make_account, make_order, make_state
from tests.planning import Desk, codes, limited, only, quantities

D = Decimal
A1 = frozenset({"A-1"})


@pytest.mark.parametrize(
    ("quantity", "code"), [("49", ""), ("50", ""), ("50.01", "QTY_MAX"), ("51", "QTY_MAX")]
)
def test_the_limit_is_the_largest_quantity_that_passes(quantity, code):
    desk = Desk(limited(quantity=quantity, max_order_quantity="50"))
    desk.instrument = type(desk.instrument)("AAPL", lot=D("0.01"), min_qty=D("0.01"))
    plan = desk.plan()
    assert codes(plan.refused) == ({"A-1": code} if code else {})
    assert quantities(plan) == ({} if code else {"A-1": D(quantity)})


def test_the_sentence_names_value_and_limit():
    refused = Desk(limited(quantity="500", max_order_quantity="50")).plan().refused
    assert only(refused) == ("QTY_MAX", "500 > 50")


def test_one_account_over_its_limit_holds_up_no_other():
    desk = Desk(limited("A-1", "51", max_order_quantity="50"), limited("A-2", "51"))
    plan = desk.plan()
    assert quantities(plan) == {"A-2": 51}
    assert codes(plan.refused) == {"A-1": "QTY_MAX"}


def earlier(quantity: str, **fields):
    """Return an order the signal has had already."""
    return make_order("EARLIER", quantity=quantity, source="bot", signal_id="s-1", **fields)


@pytest.mark.parametrize(("before", "code"), [("30", ""), ("31", "QTY_MAX")])
def test_slices_of_one_signal_within_a_minute_count_together(before, code):
    desk = Desk(limited(quantity="20", max_order_quantity="50"))
    plan = desk.plan(Release(A1, forced=True, earlier=(earlier(before),)))
    assert codes(plan.refused) == ({"A-1": code} if code else {})
    if code:
        assert only(plan.refused)[1] == "31 within a minute + 20 > 50"


def test_a_minute_later_slices_count_no_more():
    desk = Desk(limited(quantity="20", max_order_quantity="50"))
    release = Release(A1, forced=True, earlier=(earlier("50"),))
    desk.clock.advance(60)
    desk.marks.set("AAPL", D(100))
    assert codes(desk.plan(release).refused) == {"A-1": "QTY_MAX"}
    desk.clock.advance(0.001)
    assert desk.plan(release).orders


@pytest.mark.parametrize("kind", [ExecType.REJECTED, ExecType.REPLACED])
def test_what_came_to_nothing_is_no_slice(kind):
    desk = Desk(limited(quantity="20", max_order_quantity="50"))
    order = earlier("50")
    desk.orders.add(order)
    desk.end(order, kind)
    assert desk.plan(Release(A1, forced=True, earlier=(order,))).orders


def test_another_account_s_slices_are_its_own():
    desk = Desk(limited(quantity="20", max_order_quantity="50"))
    other = earlier("50", account="A-2")
    assert desk.plan(Release(A1, forced=True, earlier=(other,))).orders


@pytest.mark.parametrize(
    ("quantity", "code"),
    [("50", None), ("51", "QTY_MAX"), ("50.5", "INEXACT"), ("0.5", "INEXACT")],
)
def test_an_order_by_hand_is_held_to_the_same(quantity, code):
    desk = Desk(limited(max_order_quantity="50"))
    refused = desk.planner.check_by_hand(desk.states["A-1"], make_order(quantity=quantity))
    assert (refused[0] if refused else None) == code


def test_two_replacements_of_one_order_count_together():
    desk = Desk(limited(quantity="20", max_order_quantity="50"))
    state = desk.states["A-1"]
    (order,) = desk.take().orders
    first = make_order("R-1", quantity="30", source="operator", signal_id="c-1")
    assert desk.planner.check_by_hand(state, first, instead_of=order) is None
    desk.pretrade.replaces(order, first)
    desk.orders.add(first)
    second = make_order("R-2", quantity="21", source="operator", signal_id="c-2")
    code, text = desk.planner.check_by_hand(state, second, instead_of=order)
    assert (code, text) == ("QTY_MAX", "30 within a minute + 21 > 50")


def test_exits_are_never_refused():
    desk = Desk(limited(max_order_quantity="1"))
    desk.hold("100")
    plan = desk.plan(action="close")
    assert quantities(plan) == {"A-1": 100}
    assert desk.planner.check_by_hand(desk.states["A-1"], plan.orders[0]) is None


@pytest.mark.parametrize(
    ("environment", "limits", "missing"),
    [
        ("paper", {}, None),
        ("live", {}, "max_order_quantity and no max_order_value"),
        ("live", {"max_order_quantity": "1000"}, "max_order_value"),
        ("live", {"max_order_value": "100000"}, "max_order_quantity"),
        ("live", {"max_order_quantity": "1000", "max_order_value": "100000"}, None),
    ],
)
def test_a_live_account_takes_no_entries_before_its_limits_are_set(environment, limits, missing):
    state = make_state(make_account(environment=environment, limits=limits))
    desk = Desk(state)
    plan = desk.plan()
    assert bool(plan.orders) is (missing is None)
    if missing:
        code, text = only(plan.skipped)
        assert code == "LIMITS_UNSET"
        assert f"no {missing};" in text
        assert desk.plan(Release(A1, forced=True)).skipped["A-1"][0] == "LIMITS_UNSET"
        by_hand = desk.planner.check_by_hand(state, make_order())
        assert by_hand is not None
        assert by_hand[0] == "LIMITS_UNSET"
    desk.hold("10")
    assert desk.plan(action="close").orders


async def test_it_holds_after_a_restart_and_is_counted(tmp_path: Path) -> None:
    async with home(tmp_path, limits={"max_order_quantity": "0.5"}) as place:
        for turn in range(2):
            async with place.engine() as running:
                assert await outcome(running, f"s-{turn}") == ("QTY_MAX", "1 > 0.5")
                row = control(running, "C02")
                assert (row["state"], row["refusals"], row["last_code"]) == ("on", 1, "QTY_MAX")
                assert (row["last_account"], row["last_text"]) == ("A-001", "1 > 0.5")


async def test_a_replacement_upward_is_refused_and_told(tmp_path: Path) -> None:
    async with (
        home(tmp_path, limits={"max_order_quantity": "3"}) as place,
        place.engine() as running,
    ):
        detail = await running.send(order_type="limit", limit_price="185")
        order = running.order(detail, "A-001")
        answer = await running.try_command(
            "replace_order", cl_ord_id=order.cl_ord_id, order_qty="4"
        )
        assert (answer.status_code, answer.json()["code"]) == (409, "QTY_MAX")
        assert answer.json()["message"] == "4 > 3"
        assert control(running, "C02")["refusals"] == 1
        await running.command("replace_order", cl_ord_id=order.cl_ord_id, order_qty="3")
