"""Every check of an order: passes, refuses, and the line between."""

from __future__ import annotations

from decimal import Decimal, InvalidOperation

import pytest

from engine.model.account import Limits
from engine.model.codes import CODES
from engine.model.instrument import Instrument
from engine.risk import checks

D = Decimal
STOCK = Instrument("AAPL")


def code(denied: checks.Denied) -> str | None:
    if denied is None:
        return None
    assert denied[0] in CODES
    assert denied[1]
    return denied[0]


def limits(**fields: str) -> Limits:
    return Limits.model_validate(fields)


@pytest.mark.parametrize(
    ("most", "quantity", "refused"),
    [(None, "1000000000", False), ("500", "499", False), ("500", "500", False), ("500", "500.001", True)],
)  # fmt: skip
def test_quantity(most, quantity, refused):
    checked = limits() if most is None else limits(max_order_quantity=most)
    assert code(checks.quantity(D(quantity), checked)) == ("QTY_MAX" if refused else None)


def test_no_number_is_no_small_number():
    with pytest.raises(InvalidOperation):
        checks.quantity(D("NaN"), limits(max_order_quantity="5"))


@pytest.mark.parametrize(
    ("price", "multiplier", "expected"),
    [
        ("250", "1", None),
        ("250.01", "1", "VALUE_MAX"),
        ("5", "50", None),
        ("5.01", "50", "VALUE_MAX"),
        (None, "1", "REF_MISSING"),
    ],
)
def test_value(price, multiplier, expected):
    instrument = Instrument("X", multiplier=D(multiplier))
    checked = limits(max_order_value="25000")
    assert code(checks.value(D(100), price and D(price), instrument, checked)) == expected
    assert checks.value(D(100), None, instrument, limits()) is None


def test_the_sentence_of_a_value_shows_the_sum():
    denied = checks.value(D(300), D("100.50"), STOCK, limits(max_order_value="25000"))
    assert denied == ("VALUE_MAX", "300 × 100.5 = 30150.00 > 25000")


@pytest.mark.parametrize(
    ("price", "refused"),
    [("100", False), ("105", False), ("95", False), ("105.01", True), ("94.99", True), ("1", True)],
)
def test_collar(price, refused):
    assert code(checks.collar(D(price), D(100), D(5))) == ("COLLAR" if refused else None)


@pytest.mark.parametrize(
    ("market", "refused"),
    [("200", False), ("210", False), ("190", False), ("210.01", True), ("189.99", True)],
)
def test_drift(market, refused):
    assert code(checks.drift(D(market), D(200), D(5))) == ("DRIFT" if refused else None)


@pytest.mark.parametrize(
    ("price", "tick", "refused"),
    [
        (None, "0.01", False),
        ("100.01", "0.01", False),
        ("100.010", "0.01", False),
        ("100.001", "0.01", True),
        ("100.25", "0.25", False),
        ("100.26", "0.25", True),
        ("0.00000001", "0.00000001", False),
    ],
)
def test_tick(price, tick, refused):
    found = checks.tick(price and D(price), Instrument("X", tick=D(tick)))
    assert code(found) == ("TICK" if refused else None)


@pytest.mark.parametrize(
    ("orders", "worth", "expected"),
    [
        (0, "0", None),
        (200, "250000", None),
        (201, "1", "FANOUT_ACCOUNTS"),
        (200, "250000.01", "FANOUT_VALUE"),
        (201, "250000.01", "FANOUT_ACCOUNTS"),
    ],
)
def test_fan_out(orders, worth, expected):
    assert code(checks.fan_out(orders, D(worth), 200, D(250_000))) == expected
