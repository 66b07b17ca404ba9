"""C06, exposure: open orders and gross exposure of an account and of the firm, counted when an order is reserved."""

from __future__ import annotations

import asyncio
from decimal import Decimal
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from engine.model.enums import ExecType, OrderStatus, OrderType, Side
from engine.model.instrument import Instrument
from engine.model.order import Order
from engine.risk.exposure import ForeignOrder
from tests.controls.restarts import RESTS, control, home, outcome, used
from tests.helpers import make_order
from tests.planning import Desk, codes, limited, only, quantities
from tests.processes import alpaca
from tests.world import by_account, venue, world

D = Decimal


@pytest.mark.parametrize(
    ("limit", "code", "name"),
    [
        ("max_open_value", "OPEN_VALUE_MAX", "open orders"),
        ("max_gross_exposure", "EXPOSURE_MAX", "gross exposure"),
    ],
)
@pytest.mark.parametrize("most", ["2000", "1999.99"])
def test_the_limit_is_the_largest_sum_that_passes(limit, code, name, most):
    desk = Desk(limited(**{limit: most}))
    desk.take(signal_id="s-0")
    plan = desk.plan()
    if most == "2000":
        assert plan.orders
    else:
        text = f"{name} of account A-1: 1000.00 + 1000.00 = 2000.00 > 1999.99"
        assert only(plan.refused) == (code, text)


@pytest.mark.parametrize(
    ("limit", "code"),
    [("max_open_value", "OPEN_VALUE_MAX"), ("max_gross_exposure", "EXPOSURE_MAX")],
)
def test_the_firm_s_sum_holds_within_one_fan_out(limit, code):
    desk = Desk(*(limited(name) for name in "abcde"), **{limit: "3000"})
    plan = desk.take()
    assert quantities(plan) == {"a": 10, "b": 10, "c": 10}
    assert codes(plan.refused) == {"d": code, "e": code}
    assert plan.refused["d"][1].endswith("of the firm: 3000.00 + 1000.00 = 4000.00 > 3000")
    assert codes(desk.plan(signal_id="s-2").refused) == dict.fromkeys("abcde", code)


def test_positions_count_for_the_gross_exposure_either_way_and_not_for_open_orders():
    desk = Desk(limited(max_gross_exposure="3000", max_open_value="1000"))
    desk.hold("-20")
    assert desk.plan().orders
    desk.marks.set("AAPL", D("100.01"))
    assert codes(desk.plan().refused) == {"A-1": "OPEN_VALUE_MAX"}
    desk.marks.set("AAPL", D(101))
    limit = {"order_type": OrderType.LIMIT, "limit_price": "100"}
    assert codes(desk.plan(**limit).refused) == {"A-1": "EXPOSURE_MAX"}


def test_the_firm_s_gross_exposure_holds_all_accounts_positions():
    desk = Desk(limited("A-1"), limited("A-2"), max_gross_exposure="3999")
    desk.pretrade.follow_limits(desk.keeper)
    desk.hold("20", "A-1")
    desk.hold("-10", "A-2")
    assert desk.pretrade.exposure.gross() == 3000
    plan = desk.plan()
    assert not plan.orders
    assert codes(plan.refused) == {"A-1": "EXPOSURE_MAX", "A-2": "EXPOSURE_MAX"}


def test_fills_reduce_what_is_open_and_stay_in_the_gross_exposure():
    desk = Desk(limited(max_open_value="1500", max_gross_exposure="100000"))
    (order,) = desk.take(signal_id="s-0").orders
    assert codes(desk.plan().refused) == {"A-1": "OPEN_VALUE_MAX"}
    desk.fill(order, "5")
    assert desk.pretrade.exposure.open_value("A-1") == 500
    assert desk.pretrade.exposure.gross("A-1") == 1000
    assert desk.plan().orders


def test_unknown_orders_stay_reserved_until_they_are_proven():
    desk = Desk(limited(max_open_value="1500"))
    (order,) = desk.take(signal_id="s-0").orders
    desk.end(order, ExecType.UNKNOWN)
    assert order.status is OrderStatus.UNKNOWN
    assert desk.pretrade.exposure.open_value("A-1") == 1000
    assert codes(desk.plan(action="sell").refused) == {"A-1": "OPEN_VALUE_MAX"}
    order.code = "ABSENT"
    desk.end(order, ExecType.EXPIRED)
    assert desk.pretrade.exposure.open_value("A-1") == 0


def test_what_does_not_become_durable_gives_its_room_back():
    desk = Desk(limited(max_open_value="1000"))
    (order,) = desk.take(signal_id="s-0").orders
    desk.orders.take_back(order)
    assert desk.plan().orders


def test_foreign_orders_count_and_are_forgotten_when_they_are_gone():
    desk = Desk(limited(max_open_value="1500"))
    foreign = ForeignOrder("V-1", "MSFT", Side.SELL, D(6), D(100))
    desk.pretrade.exposure.foreign("A-1", [foreign, foreign])
    assert codes(desk.plan().refused) == {"A-1": "OPEN_VALUE_MAX"}
    desk.pretrade.exposure.foreign("A-1", [])
    assert desk.plan().orders


def test_an_open_order_of_unknown_value_proves_nothing():
    desk = Desk(limited(max_open_value="5000"), price_reference="when_available")
    desk.orders.add(make_order("W-1", symbol="MSFT"))
    code, text = only(desk.plan().refused)
    assert code == "REF_MISSING"
    assert "W-1" in text
    desk.marks.set("MSFT", D(50))
    assert desk.plan().orders
    assert desk.pretrade.exposure.open_value("A-1") == 500


def test_a_replacement_counts_for_what_goes_beyond_its_original():
    desk = Desk(limited(max_open_value="2000"))
    (order,) = desk.take(signal_id="s-0").orders
    replacement = make_order("R", quantity="15", source="operator", signal_id="c")
    state = desk.states["A-1"]
    assert desk.planner.check_by_hand(state, replacement, instead_of=order) is None
    desk.pretrade.replaces(order, replacement)
    desk.orders.add(replacement)
    book = desk.pretrade.exposure
    assert book.open_value("A-1") == 1500
    desk.end(order, ExecType.REPLACED)
    assert book.open_value("A-1") == 1500
    too_much = make_order("R-2", quantity="21", source="operator", signal_id="c-2")
    assert (
        desk.planner.check_by_hand(state, too_much, instead_of=replacement)[0] == "OPEN_VALUE_MAX"
    )


def test_exits_are_never_refused_and_count_for_nothing():
    desk = Desk(limited(max_open_value="1", max_gross_exposure="1"))
    desk.hold("100")
    plan = desk.take(action="close")
    assert quantities(plan) == {"A-1": 100}
    assert desk.pretrade.exposure.open_value("A-1") == 0


# ---- the book is what a count from scratch says


def recounted(desk: Desk) -> tuple[dict[str, Decimal], Decimal]:
    """Return open values counted anew from the orders: by account, and the firm's."""
    found = {
        state.id: sum(
            (
                (order.order_qty - order.cum_qty)
                * (order.limit_price or order.stop_price or D(100))
                for order in state.working.values()
                if not order.reducing
            ),
            D(0),
        )
        for state in desk.states.values()
    }
    return found, sum(found.values(), D(0))


STEPS = st.lists(
    st.tuples(
        st.sampled_from(
            ["new", "ack", "fill", "cancel", "unknown", "reject", "back", "deny", "exit"]
        ),
        st.integers(0, 7),
        st.decimals("0.01", "30", places=2),
        st.sampled_from([None, "95.5", "104.25"]),
    ),
    max_size=60,
)


@given(STEPS)
@settings(max_examples=150, deadline=None)
def test_the_book_is_what_counting_anew_would_find(steps):
    desk = Desk(limited("A-1", max_open_value="1000000"), limited("A-2"))
    made: list[Order] = []
    for number, (what, which, quantity, price) in enumerate(steps):
        if what in {"new", "exit"} or not made:
            order = make_order(
                f"O-{number}",
                "buy" if which % 2 else "sell",
                str(quantity),
                account=f"A-{1 + which % 2}",
                limit_price=D(price) if price else None,
                reducing=what == "exit",
            )
            desk.orders.add(order)
            made.append(order)
            continue
        order = made[which % len(made)]
        _step(desk, made, order, what, quantity)
        by_account, firm = recounted(desk)
        book = desk.pretrade.exposure
        assert {account: book.open_value(account) for account in by_account} == by_account
        assert book.open_value() == firm
        held = sum((abs(position.qty) * 100 for position in desk.keeper), D(0))
        assert book.gross() == firm + held
        for state in desk.states.values():
            for side in Side:
                working = sum(
                    o.order_qty - o.cum_qty
                    for o in state.working.values()
                    if o.side is side and not o.reducing
                )
                assert book.working(state.id, "AAPL", side) == working
    assert not desk.broken


def _step(desk: Desk, made: list[Order], order: Order, what: str, quantity: Decimal) -> None:
    fresh = order.status is OrderStatus.PENDING_NEW and not order.was_sent
    match what:
        case "ack":
            desk.acknowledge(order)
        case "fill" if order.leaves_qty:
            desk.fill(order, str(min(quantity, order.leaves_qty)))
        case "cancel" | "unknown" | "reject":
            kinds = {
                "cancel": ExecType.CANCELED,
                "unknown": ExecType.UNKNOWN,
                "reject": ExecType.REJECTED,
            }
            desk.end(order, kinds[what])
        case "back" if fresh:
            desk.orders.take_back(order)
            made.remove(order)
        case "deny" if fresh:
            desk.orders.deny(order, "STALE", "too old")


@given(
    st.lists(
        st.tuples(
            st.sampled_from(["signal", "fill", "end"]),
            st.integers(0, 9),
            st.sampled_from(["buy", "sell"]),
        ),
        max_size=40,
    )
)
@settings(max_examples=100, deadline=None)
def test_the_limits_hold_at_every_step(steps):
    """Whatever comes: no sum is ever beyond its limit (G16)."""
    account = {
        "max_position_quantity": "35",
        "max_open_value": "2500",
        "max_gross_exposure": "4500",
    }
    desk = Desk(limited("A-1", **account), limited("A-2", **account), max_open_value="4000",
                max_gross_exposure="7000")  # fmt: skip
    made: list[Order] = []
    for number, (what, which, action) in enumerate(steps):
        if what == "signal" or not made:
            made += desk.take(signal_id=f"s-{number}", action=action).orders
        elif what == "fill":
            order = made[which % len(made)]
            if order.leaves_qty:
                desk.fill(order, str(min(D(4), order.leaves_qty)))
        else:
            desk.end(made[which % len(made)])
        book = desk.pretrade.exposure
        assert book.open_value() <= 4000
        assert book.gross() <= 7000
        for state in desk.states.values():
            assert book.open_value(state.id) <= 2500
            assert book.gross(state.id) <= 4500
            for side in Side:
                total = book.position(state, "AAPL", side) + book.working(state.id, "AAPL", side)
                assert total <= 35


def test_the_multiplier_counts_in_every_sum():
    desk = Desk(limited(max_open_value="50000"), max_gross_exposure="100000")
    desk.instrument = Instrument("AAPL", multiplier=D(50))
    desk.take(signal_id="s-0")
    assert desk.pretrade.exposure.open_value() == 50_000
    assert codes(desk.plan().refused) == {"A-1": "OPEN_VALUE_MAX"}


# ---- the whole engine


async def test_two_signals_and_an_approval_at_once_do_not_pass_the_firm_s_limit(
    tmp_path: Path,
) -> None:
    async with venue() as sim:
        url = f"http://127.0.0.1:{sim.port}"
        accounts = [alpaca(1, url), alpaca(2, url), alpaca(3, url, approval="review")]
        limits = {"max_open_value": "600", "reference_max_age_s": 3600.0}
        async with world(tmp_path, accounts, limits=limits, market={"source": "none"}) as running:
            running.engine.set_prices({"AAPL": D("189.43")})
            held = await running.post(id="s-held", audience={"accounts": ["A-003"]}, **RESTS)
            assert held.json()["state"] == "held"
            fields = {"audience": {"accounts": ["A-001", "A-002"]}, **RESTS}
            answers = await asyncio.gather(
                running.post(id="s-1", **fields),
                running.post(id="s-2", **fields),
                running.try_command("approve", signal="bot/s-held"),
                running.post(id="s-3", **fields),
            )
            assert all(answer.status_code in {200, 202} for answer in answers)
            working = running.engine.orders.working()
            assert len(working) == 3  # of 185 each
            assert used(running, "max_open_value", "all") == "555"
            refused = 0
            for name in ("s-1", "s-2", "s-3", "s-held"):
                rows = by_account(await running.detail(f"bot/{name}"))
                refused += sum(row["code"] == "OPEN_VALUE_MAX" for row in rows.values())
            assert refused == 4


async def test_what_was_reserved_counts_after_a_restart(tmp_path: Path) -> None:
    async with home(
        tmp_path, limits={"max_open_value": "370", "max_gross_exposure": "10000"}
    ) as place:
        async with place.engine() as running:
            assert (await outcome(running, "s-1", **RESTS))[0] == ""
            assert (await outcome(running, "s-2", **RESTS))[0] == ""
        async with place.engine() as running:
            assert used(running, "max_open_value") == "370"
            code, text = await outcome(running, "s-3", **RESTS)
            assert code == "OPEN_VALUE_MAX"
            assert text == "open orders of account A-001: 370.00 + 185.00 = 555.00 > 370"
            assert control(running, "C06")["refusals"] == 1
            for order in running.engine.orders.working():
                await running.command("cancel_order", cl_ord_id=order.cl_ord_id)
            assert (await outcome(running, "s-4", **RESTS))[0] == ""


async def test_limits_set_while_it_runs_count_what_is_open_already(tmp_path: Path) -> None:
    async with home(tmp_path) as place, place.engine() as running:
        assert (await outcome(running, "s-1", **RESTS))[0] == ""
        await running.command(
            "set_limits", account="A-001", limits={"max_open_value": "200"}, reason="test"
        )
        assert (await outcome(running, "s-2", **RESTS))[0] == "OPEN_VALUE_MAX"
