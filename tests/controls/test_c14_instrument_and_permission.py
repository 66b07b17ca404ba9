"""C14, instrument and permission: the restricted list, the account's own list, what the broker trades."""

from __future__ import annotations

from decimal import Decimal
from pathlib import Path

import pytest

from engine.config import load_config
from engine.errors import ConfigError
from engine.model.instrument import Instrument
from engine.planner import Release
from tests.controls.restarts import RESTS, control, home, outcome
from tests.helpers import make_account, make_order, make_state
from tests.planning import Desk, codes, only, quantities

D = Decimal
RESTRICTED = {"restricted_symbols": ["GME", "AAPL"]}


def test_nobody_trades_what_is_restricted():
    desk = Desk(make_state(make_account("A-1")), make_state(make_account("A-2")), **RESTRICTED)
    plan = desk.plan()
    assert plan.code == "RESTRICTED"
    assert not plan.orders
    assert plan.message == "AAPL is on limits.restricted_symbols"


def test_nobody_forces_past_it_and_nobody_sends_it_by_hand():
    desk = Desk(**RESTRICTED)
    assert desk.plan(Release(frozenset({"A-1"}), forced=True)).code == "RESTRICTED"
    refused = desk.planner.check_by_hand(desk.states["A-1"], make_order())
    assert refused == ("RESTRICTED", "AAPL is on limits.restricted_symbols")


@pytest.mark.parametrize("symbol", ["AAPL.X", "AAP", "GMEX"])
def test_only_the_very_symbol_is_restricted(symbol):
    desk = Desk(**RESTRICTED)
    desk.marks.set(symbol, D(100))
    assert desk.plan(symbol=symbol).orders


def test_its_positions_are_closed_and_its_orders_canceled():
    desk = Desk(**RESTRICTED)
    desk.hold("10")
    desk.works(strategy="breakout")
    assert desk.plan(action="cancel").cancels
    assert quantities(desk.plan(action="close")) == {"A-1": 10}


@pytest.mark.parametrize(
    ("symbols", "code"), [(["AAPL"], ""), (["MSFT"], "SYMBOL_NOT_ALLOWED"), (["*"], "")]
)
def test_the_account_s_own_list(symbols, code):
    desk = Desk(make_state(make_account(symbols=symbols)))
    plan = desk.plan()
    assert codes(plan.skipped) == ({"A-1": code} if code else {})
    refused = desk.planner.check_by_hand(desk.states["A-1"], make_order())
    assert (refused[0] if refused else "") == code
    if code:
        assert only(plan.skipped)[1] == "AAPL is not on the account's list of symbols"
        assert refused == only(plan.skipped)


def test_an_empty_list_trades_nothing():
    plan = Desk(make_state(make_account(symbols=[]))).plan()
    assert codes(plan.skipped) == {"A-1": "SYMBOL_NOT_ALLOWED"}


def test_what_the_broker_does_not_trade_now():
    desk = Desk()
    desk.instrument = Instrument("AAPL", tradable=False)
    assert only(desk.plan().refused) == ("NOT_TRADABLE", "the broker does not trade AAPL now")
    refused = desk.planner.check_by_hand(desk.states["A-1"], make_order())
    assert refused == ("NOT_TRADABLE", "the broker does not trade AAPL now")
    desk.hold("10")
    assert desk.plan(action="close").orders


@pytest.mark.parametrize(("quantity", "code"), [("100", ""), ("101", "QTY_MAX")])
def test_the_broker_s_own_largest_order(quantity, code):
    desk = Desk(make_state(sizing={"method": "fixed", "quantity": quantity}))
    desk.instrument = Instrument("AAPL", max_qty=D(100))
    plan = desk.plan()
    assert codes(plan.refused) == ({"A-1": code} if code else {})
    if code:
        assert only(plan.refused)[1] == "101 > the broker's 100"


def test_a_restricted_symbol_is_a_symbol(tmp_path: Path):
    (tmp_path / "volley.toml").write_text('[limits]\nrestricted_symbols = ["gme"]\n')
    with pytest.raises(ConfigError, match="restricted_symbols"):
        load_config(tmp_path, environ={})


async def test_it_holds_after_a_restart_for_what_works_already(tmp_path: Path) -> None:
    async with home(tmp_path) as place:
        async with place.engine() as running:
            assert (await outcome(running, "s-1", **RESTS))[0] == ""
        async with place.engine(limits=RESTRICTED) as running:
            code, text = await outcome(running, "s-2", **RESTS)
            assert (code, text) == ("RESTRICTED", "AAPL is on limits.restricted_symbols")
            assert control(running, "C14")["refusals"] == 1
            assert control(running, "C14")["setting"].endswith("restricted: 2")
            (order,) = running.engine.orders.working()
            refused = await running.refused(
                "replace_order", cl_ord_id=order.cl_ord_id, limit_price="186"
            )
            assert refused == (409, "RESTRICTED")
            await running.command("cancel_order", cl_ord_id=order.cl_ord_id)
