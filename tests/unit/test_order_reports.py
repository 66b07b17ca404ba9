"""Bugs in engine/model, each shown by a failing test (run: python -m pytest /tmp/test_model_bugs.py from the checkout)."""
import itertools, sys
from decimal import Decimal
from fractions import Fraction
import pytest
sys.path.insert(0, "/work/main")
from engine.errors import InvariantError
from engine.model.enums import ExecType, OrderStatus, Side
from engine.model.position import Position
from tests.unit.test_model import AT, new_order, report, trade

@pytest.mark.parametrize("order_of", list(itertools.permutations(range(3))))
def test_out_of_order_trades_that_carry_totals_lose_fills(order_of):
    reports = [trade("x1", 40, cum_qty=Decimal(40)), trade("x2", 30, cum_qty=Decimal(70)), trade("x3", 30, cum_qty=Decimal(100))]
    order = new_order()
    for i in order_of:
        order.apply(reports[i], AT)
    assert order.cum_qty == 100 and order.status is OrderStatus.FILLED

@pytest.mark.parametrize("first", [[], [report(ExecType.UNKNOWN)]])
def test_a_refused_cancel_is_no_proof_that_the_order_exists(first):
    order = new_order()
    for one in [*first, report(ExecType.CANCEL_REJECTED, text="order not found")]:
        order.apply(one, AT)
    assert order.status is (OrderStatus.UNKNOWN if first else OrderStatus.PENDING_NEW)

def test_an_order_whose_bytes_left_cannot_be_denied():
    order = new_order()
    order.first_byte_ns = 1
    with pytest.raises(InvariantError):
        order.deny("QTY_MAX", "x", AT)

def test_cash_is_exact_for_every_number_the_parser_accepts():
    position = Position("A", "X")
    price, quantity = Decimal("959232.91153722"), Decimal("1918465.82309092")
    position.apply(Side.BUY, quantity, price)
    assert Fraction(position.cash) == -Fraction(price) * Fraction(quantity)
