"""A broker that takes its fee of what was bought: the position is what arrived, and an exit sells what can be sold."""

from __future__ import annotations

from decimal import Decimal

import pytest

from engine.brokers.binance import mapping
from engine.model.instrument import Instrument
from engine.model.messages import ExecutionReport
from engine.model.position import Position
from engine.risk import checks
from tests.helpers import MONDAY, make_order, make_trade

D = Decimal


def event(asset: str | None, amount: str, side: str = "BUY") -> ExecutionReport:
    """Return one executionReport as documented, with a commission."""
    return mapping.event_report(
        "A-1",
        {
            "e": "executionReport", "E": 1499405658658, "s": "BTCUSDT", "c": "ID", "S": side, "o": "MARKET",
            "f": "GTC", "q": "1.0", "p": "0", "P": "0", "C": "", "x": "TRADE", "X": "FILLED", "i": 7,
            "l": "1.0", "z": "1.0", "L": "60000", "Z": "60000", "T": 1499405658657, "t": 3, "n": amount, "N": asset,
        },
    )  # fmt: skip


def test_a_fee_of_the_asset_bought_never_reaches_the_position():
    order = make_order("ID", "buy", "1", symbol="BTCUSDT")
    fill = order.apply(event("BTC", "0.001"), MONDAY)
    assert fill is not None
    assert (fill.last_qty, fill.fee_qty) == (1, D("0.001"))
    position = Position("A-1", "BTCUSDT")
    position.apply(fill.side, fill.last_qty, fill.last_px)
    position.take_fee(fill.fee_qty)
    assert position.qty == D("0.999")
    assert position.avg_px == 60_000
    assert position.realised == -60  # 0.001 of 60 000: paid, not sold
    assert position.realised + position.unrealised(D(60_000)) == position.cash + D("0.999") * 60_000


@pytest.mark.parametrize("asset", ["BNB", "USDT", None])
def test_a_fee_in_another_asset_leaves_the_position_alone(asset: str | None):
    assert event(asset, "0.5").fee_qty == 0


def test_a_fee_counts_once_like_its_execution():
    order = make_order("ID", "buy", "1", symbol="BTCUSDT")
    assert order.apply(event("BTC", "0.001"), MONDAY) is not None
    assert order.apply(event("BTC", "0.001"), MONDAY) is None


def test_the_whole_position_can_go_as_fee():
    position = Position("A-1", "BTCUSDT")
    position.apply(make_order().side, D("0.001"), D(100))
    position.take_fee(D("0.002"))
    assert (position.qty, position.cost) == (0, 0)


def test_no_fee_without_a_word_of_one():
    order = make_order("X", "buy", "10")
    fill = order.apply(make_trade(order, "e-1", "10"), MONDAY)
    assert fill is not None
    assert fill.fee_qty == 0


@pytest.mark.parametrize(
    ("instrument", "quantity", "price", "code"),
    [
        (Instrument("X", tradable=False), "1", "10", "NOT_TRADABLE"),
        (Instrument("X", max_qty=D(5)), "5", "10", None),
        (Instrument("X", max_qty=D(5)), "6", "10", "QTY_MAX"),
        (Instrument("X", min_notional=D(10)), "1", "10", None),
        (Instrument("X", min_notional=D(10)), "1", "9.99", "VALUE_MIN"),
        (Instrument("X", min_notional=D(10)), "1", None, None),  # without a price nobody can say
    ],
)
def test_what_the_broker_would_refuse(instrument, quantity, price, code):
    found = checks.tradable(D(quantity), None if price is None else D(price), instrument)
    assert (found[0] if found else None) == code
