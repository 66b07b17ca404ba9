"""C05, projected position: what is held, works, is unknown, and this order together, on its side."""

from __future__ import annotations

from decimal import Decimal
from pathlib import Path

import pytest

from engine.model.enums import ExecType, OrderStatus
from tests.controls.restarts import RESTS, control, home, outcome, used
from tests.helpers import make_order
from tests.planning import Desk, codes, limited, only, quantities

D = Decimal


@pytest.mark.parametrize(
    ("held", "action", "code"),
    [
        ("0", "buy", ""),
        ("15", "buy", ""),
        ("15.01", "buy", "POS_MAX"),
        ("-100", "buy", ""),  # it brings the position nearer to zero
        ("0", "sell", ""),
        ("-15", "sell", ""),
        ("-16", "sell", "POS_MAX"),
        ("100", "sell", ""),
    ],
)
def test_the_position_that_would_be_is_within_the_limit(held, action, code):
    desk = Desk(limited(max_position_quantity="25"))
    if D(held):
        desk.hold(held)
    assert codes(desk.plan(action=action).refused) == ({"A-1": code} if code else {})


def test_the_sentence_shows_the_sum():
    desk = Desk(limited(max_position_quantity="30"))
    desk.hold("15")
    desk.take(signal_id="s-0")
    refused = desk.plan().refused
    assert only(refused) == ("POS_MAX", "position + working + this: 15 + 10 + 10 = 35 > 30")


@pytest.mark.parametrize(
    "status", [OrderStatus.PENDING_NEW, OrderStatus.NEW, OrderStatus.UNKNOWN, OrderStatus.PENDING_CANCEL]
)  # fmt: skip
def test_working_and_unknown_orders_count(status):
    desk = Desk(limited(max_position_quantity="25"))
    (first,) = desk.take(signal_id="s-0").orders
    desk.take(signal_id="s-1", action="sell")  # the other side does not give room
    first.status = status
    desk.orders.book.changed(first)
    refused = desk.planner.check_by_hand(
        desk.states["A-1"], make_order("H-1", quantity="16", signal_id="c-1")
    )
    assert refused is not None
    expected = "UNKNOWN_OPEN" if status is OrderStatus.UNKNOWN else "POS_MAX"
    assert refused[0] == expected
    if status is OrderStatus.UNKNOWN:
        assert desk.pretrade.exposure.working("A-1", "AAPL", first.side) == 10


def test_a_fill_moves_from_working_to_held_and_nothing_is_counted_twice():
    desk = Desk(limited(max_position_quantity="25"))
    (order,) = desk.take(signal_id="s-0").orders
    desk.acknowledge(order)
    desk.fill(order, "4")
    assert desk.take(signal_id="s-1").orders
    assert only(desk.plan(signal_id="s-2").refused)[1].endswith("4 + 16 + 10 = 30 > 25")


@pytest.mark.parametrize("kind", [ExecType.CANCELED, ExecType.REJECTED, ExecType.EXPIRED])
def test_what_ended_gives_its_room_back(kind):
    desk = Desk(limited(max_position_quantity="10"))
    (order,) = desk.take(signal_id="s-0").orders
    assert codes(desk.plan(signal_id="s-1").refused) == {"A-1": "POS_MAX"}
    desk.end(order, kind)
    assert quantities(desk.plan(signal_id="s-1")) == {"A-1": 10}


def test_of_a_bracket_s_exits_only_one_can_fill():
    desk = Desk(limited(max_position_quantity="10"))
    desk.hold("-10")
    desk.works("X-1", side="buy", quantity="10", reducing=True, leg="stop", parent="E-1")
    desk.works("X-2", side="buy", quantity="10", reducing=True, leg="target", parent="E-1")
    assert quantities(desk.plan()) == {"A-1": 10}
    desk.take()
    assert codes(desk.plan(signal_id="s-1").refused) == {"A-1": "POS_MAX"}


def test_a_close_that_outlasts_its_position_counts_on_the_other_side():
    """Seeds 1002964 and 1004918: entries had taken the position to zero while its close still worked."""
    desk = Desk(limited(max_position_quantity="10"))
    desk.hold("-6")
    close = desk.works("X-1", side="buy", quantity="6", reducing=True)
    assert quantities(desk.plan()) == {"A-1": 10}, "-6 + 6 + 10"
    desk.hold("6")
    assert codes(desk.plan(signal_id="s-1").refused) == {"A-1": "POS_MAX"}, "0 + 6 + 10"
    close.status = OrderStatus.CANCELED
    desk.pretrade.changed(close)
    assert quantities(desk.plan(signal_id="s-2")) == {"A-1": 10}


def test_symbols_and_accounts_are_counted_apart():
    desk = Desk(
        limited("A-1", max_position_quantity="10"), limited("A-2", max_position_quantity="10")
    )
    desk.marks.set("MSFT", D(100))
    desk.take(signal_id="s-0", accounts=["A-1"])
    assert codes(desk.plan(signal_id="s-1").refused) == {"A-1": "POS_MAX"}
    assert quantities(desk.plan(signal_id="s-1", symbol="MSFT")) == {"A-1": 10, "A-2": 10}


@pytest.mark.parametrize(("quantity", "code"), [("25", None), ("26", "POS_MAX"), ("5", None)])
def test_a_replacement_counts_instead_of_its_original(quantity, code):
    desk = Desk(limited(max_position_quantity="25"))
    (order,) = desk.take(signal_id="s-0").orders
    replacement = make_order("R", quantity=quantity, source="operator", signal_id="c")
    refused = desk.planner.check_by_hand(desk.states["A-1"], replacement, instead_of=order)
    assert (refused[0] if refused else None) == code


def test_a_smaller_replacement_passes_even_over_the_limit():
    desk = Desk(limited(max_position_quantity="25"))
    desk.hold("20")
    order = make_order("O-1", quantity="10")
    desk.orders.add(order)
    replacement = make_order("R", quantity="9", source="operator", signal_id="c")
    assert desk.planner.check_by_hand(desk.states["A-1"], replacement, instead_of=order) is None


def test_exits_are_never_refused():
    desk = Desk(limited(max_position_quantity="1"))
    desk.hold("100")
    assert quantities(desk.plan(action="close")) == {"A-1": 100}


async def test_working_orders_and_positions_count_after_a_restart(tmp_path: Path) -> None:
    async with home(tmp_path, limits={"max_position_quantity": "2"}) as place:
        async with place.engine() as running:
            assert (await outcome(running, "s-1", **RESTS))[0] == ""
            assert (await outcome(running, "s-2"))[0] == ""
            assert used(running, "max_position_quantity") == "2"
        async with place.engine() as running:
            code, text = await outcome(running, "s-3")
            assert (code, text) == (
                "POS_MAX",
                "position + working + this: 1 + 1 + 1 = 3 > 2",
            )
            assert used(running, "max_position_quantity") == "2"
            assert control(running, "C05")["refusals"] == 1
            (order,) = running.engine.orders.working()
            await running.command("cancel_order", cl_ord_id=order.cl_ord_id)
            assert (await outcome(running, "s-4"))[0] == ""
