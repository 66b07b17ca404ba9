"""C16, exact numbers: Decimal from text, finite, positive, on tick and lot, at every boundary."""

from __future__ import annotations

from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from engine.config import load_config
from engine.errors import CommandRefused, ConfigError, InvalidSignal
from engine.intake.parser import parse_signal
from engine.model.commands import parse_command
from engine.model.enums import ExecType, OrderType
from engine.model.instrument import Instrument
from engine.model.messages import Balances
from engine.risk import checks
from tests.controls.restarts import control, home, outcome
from tests.helpers import MONDAY, make_account, make_order, make_report, make_state
from tests.planning import Desk, codes, limited, only

D = Decimal
WRONG_TEXT = [
    '"NaN"', '"Infinity"', '"-1"', '"0"', '"1e3"', '"1_000"', '"0x10"', '"٣"', '" 1"', '""', '"1."', '".5"',
    '"1000000000000000000"', '"0.0000000000001"', "true", "null", "[]", "-1", "0", "1e3",
]  # fmt: skip


@pytest.mark.parametrize("number", [*WRONG_TEXT, "NaN", "Infinity"])
@pytest.mark.parametrize("field", ["quantity", "limit_price", "stop_loss", "reference_price"])
def test_a_signal_s_numbers_are_plain(field, number):
    text = (
        '{"id":"1","source":"b","strategy":"s","symbol":"AAPL","action":"buy","order_type":"limit",'
        f'"issued_at":"2026-11-23T15:00:00Z","{field}":{number}'
        + (',"limit_price":"1"}' if field != "limit_price" else "}")
    )
    with pytest.raises(InvalidSignal):
        parse_signal(text.encode(), source=None, now=MONDAY)


@pytest.mark.parametrize(
    "number", [1.5, True, "NaN", "inf", "-1", "0", "1e3", "1_000", D("NaN"), D("Infinity"), D("1E+999999")]
)  # fmt: skip
@pytest.mark.parametrize(
    "limit",
    ["max_order_quantity", "max_order_value", "max_position_quantity", "max_open_value", "max_gross_exposure"],
)  # fmt: skip
def test_an_account_s_limits_are_plain(limit, number):
    with pytest.raises(ValidationError):
        make_account(limits={limit: number})


@pytest.mark.parametrize(
    "number", ["nan", "inf", "-1", "0", "true", '"1e3"', '"NaN"', "1e999999999"]
)
@pytest.mark.parametrize("key", ["max_signal_value", "max_open_value", "max_gross_exposure"])
def test_the_configuration_s_limits_are_plain(tmp_path: Path, key, number):
    (tmp_path / "volley.toml").write_text(f"[limits]\n{key} = {number}\n")
    with pytest.raises(ConfigError, match=f"limits.{key}"):
        load_config(tmp_path, environ={})


@pytest.mark.parametrize("number", ["NaN", "-1", "0", "1e3", 1.5, True, None, "1_0"])
def test_a_command_s_numbers_are_plain(number):
    document: dict[str, Any] = {"id": "c", "command": "approve", "signal": "a/b", "scale": number}
    if number is None:
        assert parse_command(document)
        return
    with pytest.raises(CommandRefused, match="scale"):
        parse_command(document)


@pytest.mark.parametrize("number", ["NaN", "sNaN", "Infinity", "0", "-1"])
@pytest.mark.parametrize("field", ["lot", "tick", "multiplier"])
def test_a_broker_s_steps_are_numbers_above_zero(field, number):
    desk = Desk(make_state(sizing={"method": "notional", "value": "1000"}))
    desk.instrument = Instrument("AAPL", **{field: D(number)})
    code, text = only(desk.plan().refused)
    assert code == "INEXACT"
    assert text == f"the broker's {field} {number} of AAPL is not a number greater than 0"
    refused = desk.planner.check_by_hand(desk.states["A-1"], make_order())
    assert refused == (code, text)


@pytest.mark.parametrize("number", ["NaN", "Infinity", "-1"])
@pytest.mark.parametrize("field", ["min_qty", "max_qty", "min_notional"])
def test_a_broker_s_bounds_are_numbers(field, number):
    desk = Desk()
    desk.instrument = Instrument("AAPL", **{field: D(number)})
    assert codes(desk.plan().refused) == {"A-1": "INEXACT"}


@pytest.mark.parametrize("number", ["NaN", "Infinity", "-Infinity"])
@pytest.mark.parametrize("method", ["percent_equity", "risk_percent"])
def test_an_equity_that_is_no_number_sizes_nothing(method, number):
    state = make_state(sizing={"method": method, "percent": "1"})
    state.balances = Balances(D(number), D(1), D(1))
    code, text = only(Desk(state).plan(stop_loss="95").refused)
    assert code == "INEXACT"
    assert number in text


@pytest.mark.parametrize(
    ("price", "code"), [("100.05", ""), ("100.03", "TICK"), ("100.051", "TICK")]
)
def test_prices_lie_on_the_tick_and_are_never_rounded(price, code):
    desk = Desk()
    desk.instrument = Instrument("AAPL", tick=D("0.05"))
    plan = desk.plan(order_type=OrderType.LIMIT, limit_price=price)
    assert codes(plan.refused) == ({"A-1": code} if code else {})
    if code:
        assert only(plan.refused)[1] == f"{price} is not a multiple of 0.05"


@pytest.mark.parametrize(
    ("quantity", "code", "text"),
    [
        ("1", None, None),
        ("0.5", None, None),
        ("0.7", "INEXACT", "quantity 0.7 is not a multiple of the lot 0.5"),
        ("1.000000000001", "INEXACT", "quantity 1.000000000001 is not a multiple of the lot 0.5"),
    ],
)
def test_a_quantity_by_hand_lies_on_the_lot(quantity, code, text):
    desk = Desk()
    desk.instrument = Instrument("AAPL", lot=D("0.5"), min_qty=D("0.5"))
    refused = desk.planner.check_by_hand(desk.states["A-1"], make_order(quantity=quantity))
    assert refused == ((code, text) if code else None)


@pytest.mark.parametrize("number", ["NaN", "sNaN", "Infinity", "-Infinity", "0", "-1"])
def test_no_comparison_is_made_with_what_is_no_number(number):
    assert checks.exact(D(number), D(1)) is not None
    assert checks.exact(D(1), D(number)) is not None
    refused = Desk(limited(max_order_quantity="1")).planner.check_by_hand(
        limited(max_order_quantity="1"), make_order(quantity=number)
    )
    assert refused is not None
    assert refused[0] == "INEXACT"


@pytest.mark.parametrize(
    "told",
    [
        {"last_qty": D("NaN"), "last_px": D(100)},
        {"last_qty": D(1), "last_px": D("NaN")},
        {"last_qty": D("Infinity"), "last_px": D(100)},
        {"last_qty": D(-1), "last_px": D(100)},
        {"cum_qty": D("NaN"), "avg_px": D(100)},
        {"cum_qty": D(1), "avg_px": D("Infinity")},
    ],
)
def test_an_execution_that_is_not_told_in_numbers_halts_its_account(told):
    desk = Desk()
    (order,) = desk.take().orders
    desk.orders.apply(make_report(order, ExecType.TRADE, exec_id="x", **told))
    ((account, text),) = desk.broken
    assert account == "A-1"
    assert "the broker told an execution of" in text
    assert order.cum_qty == 0
    assert desk.keeper.get("A-1", "AAPL") is None


@given(
    quantity=st.decimals(allow_nan=True, allow_infinity=True),
    lot=st.decimals("0.0001", "10", places=4),
    price=st.decimals(allow_nan=True, allow_infinity=True),
)
@settings(max_examples=300, deadline=None)
def test_whatever_the_numbers_an_order_by_hand_is_checked_without_an_error(quantity, lot, price):
    desk = Desk(
        limited(max_order_quantity="1000", max_order_value="100000", max_open_value="100000")
    )
    desk.instrument = Instrument("AAPL", lot=lot, min_qty=lot)
    order = make_order(order_type=OrderType.LIMIT, limit_price=price)
    order.order_qty = quantity
    refused = desk.planner.check_by_hand(desk.states["A-1"], order)
    if refused is None:
        assert 0 < quantity <= 1000
        assert quantity % lot == 0
        assert quantity * price <= 100_000
        assert 95 <= price <= 105


async def test_it_holds_after_a_restart(tmp_path: Path) -> None:
    async with home(tmp_path) as place:
        for turn in range(2):
            async with place.engine() as running:
                fields = {"order_type": "limit", "limit_price": "185.001"}
                code, text = await outcome(running, f"s-{turn}", **fields)
                assert (code, text) == ("TICK", "185.001 is not a multiple of 0.01")
                assert (await running.post(id="bad", quantity="NaN")).status_code == 400
                assert control(running, "C16")["refusals"] == 1
