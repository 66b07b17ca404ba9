"""Reports that come out of order, say only totals, or say nothing: what an order makes of them."""

from __future__ import annotations

import itertools
from dataclasses import replace
from decimal import Decimal
from fractions import Fraction

import pytest

from engine.errors import InvariantError
from engine.model.enums import ExecType, OrderStatus, Side
from engine.model.position import Position
from tests.helpers import MONDAY, make_order, make_report, make_trade


@pytest.mark.parametrize("turns", list(itertools.permutations(range(3))))
def test_trades_out_of_order_that_carry_totals_lose_nothing(turns):
    order = make_order(quantity="100")
    trades = [
        replace(make_trade(order, exec_id, quantity), cum_qty=Decimal(total))
        for exec_id, quantity, total in (("x1", "40", 40), ("x2", "30", 70), ("x3", "30", 100))
    ]
    for turn in turns:
        order.apply(trades[turn], MONDAY)
    assert order.cum_qty == 100
    assert order.status is OrderStatus.FILLED


@pytest.mark.parametrize("unknown", [False, True])
def test_a_refused_cancel_is_no_proof_that_the_order_exists(unknown):
    order = make_order()
    if unknown:
        order.apply(make_report(order, ExecType.UNKNOWN), MONDAY)
    order.apply(make_report(order, ExecType.CANCEL_REJECTED, text="order not found"), MONDAY)
    assert order.status is (OrderStatus.UNKNOWN if unknown else OrderStatus.PENDING_NEW)


def test_an_order_whose_bytes_left_cannot_be_denied():
    order = make_order()
    order.first_byte_ns = 1
    with pytest.raises(InvariantError):
        order.deny("QTY_MAX", "too many", MONDAY)


def test_cash_is_exact_for_every_number_the_parser_accepts():
    position = Position("A", "X")
    price, quantity = Decimal("959232.91153722"), Decimal("1918465.82309092")
    position.apply(Side.BUY, quantity, price)
    assert Fraction(position.cash) == -Fraction(price) * Fraction(quantity)
