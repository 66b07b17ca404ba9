"""The six sizing methods: exact numbers, rounding to the lot, and why there is no quantity."""

from __future__ import annotations

from decimal import Decimal
from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from engine.eligibility.sizing import Prices, prices_of, size
from engine.model.account import Sizing
from engine.model.instrument import Instrument
from tests.helpers import make_signal

D = Decimal
STOCK = Instrument("AAPL")
COIN = Instrument("BTCUSDT", lot=D("0.001"), min_qty=D("0.002"), tick=D("0.1"))
FUTURE = Instrument("ES", multiplier=D(50))
LONG = {"limit_price": "101.25", "stop_loss": "99.80", "take_profit": "104.50"}


def sized(sizing: dict[str, str], *, market="100", equity="10000", instrument=STOCK, **signal):
    """Return what an account trades, as ``size`` answers."""
    asked = make_signal(**signal)
    prices = prices_of(asked, None if market is None else D(market))
    money = None if equity is None else D(equity)
    return size(Sizing.model_validate(sizing), asked, prices, money, instrument)


@pytest.mark.parametrize(
    ("sizing", "signal", "expected"),
    [
        ({"method": "fixed", "quantity": "10"}, {}, "10"),
        ({"method": "fixed", "quantity": "10.9"}, {}, "10"),
        ({"method": "fixed", "quantity": "10"}, {"quantity": "3"}, "10"),
        ({"method": "signal"}, {"quantity": "7"}, "7"),
        ({"method": "signal"}, {"quantity": "7.99"}, "7"),
        ({"method": "multiplier", "factor": "2.5"}, {"quantity": "3"}, "7"),
        ({"method": "multiplier", "factor": "0.5"}, {"quantity": "2"}, "1"),
        ({"method": "notional", "value": "1000"}, {}, "10"),
        ({"method": "notional", "value": "999.99"}, {}, "9"),
        ({"method": "notional", "value": "1000"}, {"limit_price": "101.25"}, "9"),
        ({"method": "notional", "value": "1000"}, {"stop_price": "50"}, "20"),
        ({"method": "percent_equity", "percent": "4"}, {}, "4"),
        ({"method": "percent_equity", "percent": "150"}, {}, "150"),
        # 0.5 % of 10,000 is 50; 1.45 at risk a unit: 34.48
        ({"method": "risk_percent", "percent": "0.5"}, LONG, "34"),
        ({"method": "risk_percent", "percent": "0.5"}, {"stop_loss": "95"}, "10"),
        (
            {"method": "risk_percent", "percent": "0.5"},
            {"action": "sell", "stop_loss": "102.5"},
            "20",
        ),
    ],
)
def test_whole_units(sizing, signal, expected):
    assert sized(sizing, **signal) == D(expected)


@pytest.mark.parametrize(
    ("sizing", "instrument", "signal", "expected"),
    [
        ({"method": "notional", "value": "250"}, COIN, {}, "2.5"),
        ({"method": "notional", "value": "100.1999"}, COIN, {}, "1.001"),
        ({"method": "fixed", "quantity": "0.0029"}, COIN, {}, "0.002"),
        ({"method": "notional", "value": "12000"}, FUTURE, {}, "2"),  # one contract is 5,000
        ({"method": "percent_equity", "percent": "100"}, FUTURE, {}, "2"),
        ({"method": "risk_percent", "percent": "5"}, FUTURE, {"stop_loss": "95"}, "2"),
    ],
)
def test_lots_and_multipliers(sizing, instrument, signal, expected):
    assert sized(sizing, instrument=instrument, **signal) == D(expected)


@pytest.mark.parametrize(
    ("sizing", "kwargs", "code"),
    [
        ({"method": "signal"}, {}, "NO_QUANTITY"),
        ({"method": "multiplier", "factor": "2"}, {}, "NO_QUANTITY"),
        ({"method": "notional", "value": "1000"}, {"market": None}, "REF_MISSING"),
        ({"method": "percent_equity", "percent": "1"}, {"market": None}, "REF_MISSING"),
        ({"method": "percent_equity", "percent": "1"}, {"equity": None}, "NO_EQUITY"),
        ({"method": "percent_equity", "percent": "1"}, {"equity": "0"}, "NO_EQUITY"),
        ({"method": "risk_percent", "percent": "1"}, {"equity": "-5", **LONG}, "NO_EQUITY"),
        ({"method": "risk_percent", "percent": "1"}, {}, "NO_STOP"),
        ({"method": "risk_percent", "percent": "1"}, {"market": None, "stop_loss": "9"}, "NO_STOP"),
        ({"method": "risk_percent", "percent": "1"}, {"stop_loss": "100"}, "STOP_SIDE"),
        ({"method": "risk_percent", "percent": "1"}, {"stop_loss": "100.01"}, "STOP_SIDE"),
        (
            {"method": "risk_percent", "percent": "1"},
            {"action": "sell", "stop_loss": "99.99"},
            "STOP_SIDE",
        ),
        ({"method": "fixed", "quantity": "0.99"}, {}, "QTY_MIN"),
        ({"method": "fixed", "quantity": "0.0019"}, {"instrument": COIN}, "QTY_MIN"),
        ({"method": "notional", "value": "99.99"}, {}, "QTY_MIN"),
    ],
)
def test_refusals(sizing, kwargs, code):
    answer = sized(sizing, **kwargs)
    assert isinstance(answer, tuple)
    assert answer[0] == code
    assert answer[1]


def test_the_sentence_of_a_stop_on_the_wrong_side_names_both_prices():
    _, sentence = sized({"method": "risk_percent", "percent": "1"}, stop_loss="100.50")
    assert sentence == "stop_loss 100.5 must lie below the entry 100"


@pytest.mark.parametrize(
    ("signal", "market", "expected"),
    [
        (LONG, None, Prices(D("101.25"), D("1.45"), D("3.25") / D("1.45"))),
        ({"stop_loss": "98", "take_profit": "104"}, "100", Prices(D(100), D(2), D(2))),
        (
            {"action": "sell", "stop_loss": "101", "take_profit": "97"},
            "100",
            Prices(D(100), D(1), D(3)),
        ),
        (
            {"stop_loss": "98", "take_profit": "99"},
            "100",
            Prices(D(100), D(2), D("-0.5")),
        ),
        ({"take_profit": "104"}, "100", Prices(D(100), None, None)),
        ({"stop_loss": "98"}, "100", Prices(D(100), D(2), None)),
        ({"stop_loss": "98"}, None, Prices(None, None, None)),
        ({"action": "close", "stop_loss": "98"}, "100", Prices(D(100), None, None)),
        ({"limit_price": "99", "stop_price": "98"}, "100", Prices(D(99), None, None)),
    ],
)
def test_prices_are_worked_out_once(signal, market, expected):
    assert prices_of(make_signal(**signal), market and D(market)) == expected


money = st.decimals(min_value="0.01", max_value="10000000", places=2)
price = st.decimals(min_value="0.0001", max_value="100000", places=4)
lots = st.sampled_from([D(1), D("0.1"), D("0.001"), D("0.00000001"), D(100)])


@given(
    equity=money,
    percent=st.decimals(min_value="0.01", max_value="100", places=2),
    entry=price,
    stop=price,
    lot=lots,
    multiplier=st.sampled_from([D(1), D(50), D("0.1")]),
)
def test_nobody_ever_risks_more_than_the_percentage(equity, percent, entry, stop, lot, multiplier):
    instrument = Instrument("X", lot=lot, min_qty=lot, multiplier=multiplier)
    action = "buy" if stop < entry else "sell"
    sizing = Sizing(method="risk_percent", percent=percent)
    signal = make_signal(action=action, stop_loss=stop)
    quantity = size(sizing, signal, prices_of(signal, entry), equity, instrument)
    if isinstance(quantity, tuple):
        assert quantity[0] in {"QTY_MIN", "STOP_SIDE"}
        return
    budget = Fraction(equity) * Fraction(percent) / 100
    at_risk = abs(Fraction(entry) - Fraction(stop)) * Fraction(multiplier)
    assert Fraction(quantity) * at_risk <= budget < (Fraction(quantity) + Fraction(lot)) * at_risk
    assert Fraction(quantity) % Fraction(lot) == 0
