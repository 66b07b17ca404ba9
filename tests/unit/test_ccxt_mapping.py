"""What ccxt says, in our words; and which of its exceptions prove what."""

from __future__ import annotations

from datetime import UTC, datetime
from decimal import Decimal, getcontext
from typing import Any

import ccxt.async_support as errors
import pytest

from engine.brokers.ccxt import mapping
from engine.brokers.ccxt.adapter import _library
from engine.errors import BrokerProtocolError
from engine.model.enums import ExecType, OrderStatus, OrderType, Side, TimeInForce
from engine.model.order import Order

ID = "ABCDEFGHIJKLMNOPQRST"


def order(
    order_type: OrderType = OrderType.LIMIT,
    tif: TimeInForce = TimeInForce.GTC,
    quantity: str = "0.015",
    limit: str | None = "101.25",
) -> Order:
    return Order(
        cl_ord_id=ID,
        account="A",
        symbol="BTC/USDT",
        side=Side.SELL,
        order_qty=Decimal(quantity),
        order_type=order_type,
        time_in_force=tif,
        created_at=datetime.now(UTC),
        limit_price=None if limit is None else Decimal(limit),
    )


def told(**fields: Any) -> dict[str, Any]:
    base: dict[str, Any] = {
        "id": "17",
        "clientOrderId": ID,
        "timestamp": 1_795_000_000_123,
        "symbol": "BTC/USDT",
        "type": "limit",
        "side": "sell",
        "price": 101.25,
        "amount": 0.015,
        "filled": 0.0,
        "average": None,
        "cost": 0.0,
        "status": "open",
    }
    return base | fields


def test_arguments() -> None:
    assert mapping.order_arguments(order()) == {
        "symbol": "BTC/USDT",
        "type": "limit",
        "side": "sell",
        "amount": 0.015,
        "price": 101.25,
        "params": {"clientOrderId": ID, "timeInForce": "GTC"},
    }
    market = mapping.order_arguments(order(OrderType.MARKET, TimeInForce.DAY, limit=None))
    assert market["price"] is None
    assert market["params"] == {"clientOrderId": ID}
    day = mapping.order_arguments(order(tif=TimeInForce.DAY))
    assert day["params"]["timeInForce"] == "GTC"


@pytest.mark.parametrize(
    ("refused", "day_as_gtc", "says"),
    [
        (order(), False, ""),
        (order(OrderType.MARKET, TimeInForce.DAY, limit=None), False, ""),
        (order(tif=TimeInForce.DAY), True, ""),
        (order(tif=TimeInForce.DAY), False, "day_as_gtc"),
        (order(OrderType.STOP_LIMIT), False, "stop_limit"),
        (order(quantity="123456789.123456789012"), False, "more digits"),
        (order(limit="99999999999999999.9"), False, "more digits"),
    ],
)
def test_refusal(refused: Order, day_as_gtc: bool, says: str) -> None:
    reason = mapping.refusal(refused, day_as_gtc=day_as_gtc)
    assert bool(reason) is bool(says)
    assert says in reason


REJECTED, UNKNOWN, UNSENT = ExecType.REJECTED, ExecType.UNKNOWN, ExecType.UNSENT
PROOFS = [
    # error, what it proves once a byte left, what it proves when none did
    (errors.InsufficientFunds("binance Account has insufficient balance"), REJECTED, REJECTED),
    (errors.BadSymbol("no such market"), REJECTED, REJECTED),
    (errors.AuthenticationError("bad key"), REJECTED, REJECTED),
    (errors.PermissionDenied("no trading"), REJECTED, REJECTED),
    (errors.AccountSuspended("suspended"), REJECTED, REJECTED),
    (errors.MarketClosed("closed"), REJECTED, REJECTED),
    (errors.InvalidOrder("Filter failure: LOT_SIZE"), REJECTED, REJECTED),
    (errors.OrderImmediatelyFillable("post only"), REJECTED, REJECTED),
    (errors.OrderNotFillable("fok"), REJECTED, REJECTED),
    (errors.BadRequest("Filter failure: NOTIONAL"), REJECTED, REJECTED),
    (errors.ContractUnavailable("delisted"), REJECTED, REJECTED),
    # Refusals that are very likely about our own first try.
    (errors.InvalidOrder('binance {"code":-2010,"msg":"Duplicate order sent."}'), UNKNOWN, REJECTED),
    (errors.InvalidOrder('bybit {"retCode":110072,"retMsg":"OrderLinkedID is duplicate"}'), UNKNOWN, REJECTED),
    (errors.OperationRejected("client id has already been used"), UNKNOWN, REJECTED),
    (errors.BadRequest('alpaca {"message":"client_order_id must be unique"}'), UNKNOWN, REJECTED),
    (errors.DuplicateOrderId("used"), UNKNOWN, REJECTED),
    (errors.OrderNotFound("gone"), UNKNOWN, REJECTED),
    # Answers that say nothing certain.
    (errors.ExchangeError("HTTP 422"), UNKNOWN, REJECTED),
    (errors.BadResponse("half a reply"), UNKNOWN, UNSENT),
    (ValueError("tripped over the reply"), UNKNOWN, REJECTED),
    # No answer, or a throttle that does not say what became of the order.
    (errors.NetworkError("reset"), UNKNOWN, UNSENT),
    (errors.RequestTimeout("late"), UNKNOWN, UNSENT),
    (errors.ExchangeNotAvailable("503"), UNKNOWN, UNSENT),
    (errors.RateLimitExceeded("429"), UNKNOWN, UNSENT),
    (errors.DDoSProtection("418"), UNKNOWN, UNSENT),
    (errors.InvalidNonce("clock"), UNKNOWN, UNSENT),
]  # fmt: skip


@pytest.mark.parametrize(("error", "left", "not_left"), PROOFS, ids=lambda one: type(one).__name__)
def test_only_proofs_are_rejections(error: Exception, left: ExecType, not_left: ExecType) -> None:
    assert mapping.judge_new("A", ID, error, left=True).exec_type is left
    report = mapping.judge_new("A", ID, error, left=False)
    assert report.exec_type is not_left
    assert type(error).__name__ in report.text


def test_every_exception_of_ccxt_is_judged() -> None:
    """A class that a later ccxt adds under one we trust is seen here first."""
    classes = [
        kind
        for kind in vars(errors).values()
        if isinstance(kind, type) and issubclass(kind, errors.BaseError)
    ]
    rejected = {
        kind.__name__
        for kind in classes
        if mapping.judge_new("A", ID, kind("words"), left=True).exec_type is REJECTED
    }
    assert rejected == {
        *("AuthenticationError", "PermissionDenied", "AccountNotEnabled", "AccountSuspended"),
        *(
            "BadRequest",
            "BadSymbol",
            "OperationRejected",
            "MarketClosed",
            "ManualInteractionNeeded",
        ),
        *("RestrictedLocation", "InsufficientFunds", "InvalidOrder", "OrderImmediatelyFillable"),
        *("OrderNotFillable", "ContractUnavailable"),
    }


@pytest.mark.parametrize(
    ("fields", "exec_type", "status", "cum", "average"),
    [
        ({}, ExecType.NEW, OrderStatus.NEW, "0", None),
        ({"status": None}, ExecType.NEW, OrderStatus.NEW, "0", None),
        ({"filled": 0.005, "average": 101.3}, ExecType.NEW, OrderStatus.PARTIALLY_FILLED, "0.005", "101.3"),
        ({"status": "closed", "filled": 0.015, "cost": 1.5195}, ExecType.NEW, OrderStatus.FILLED, "0.015", "101.3"),
        ({"status": "closed", "filled": 0.005, "average": 9.0}, ExecType.CANCELED, OrderStatus.CANCELED, "0.005", "9"),
        ({"status": "canceled"}, ExecType.CANCELED, OrderStatus.CANCELED, "0", None),
        ({"status": "expired"}, ExecType.EXPIRED, OrderStatus.EXPIRED, "0", None),
        ({"status": "rejected"}, ExecType.REJECTED, OrderStatus.REJECTED, "0", None),
    ],
)  # fmt: skip
def test_orders(
    fields: dict[str, Any], exec_type: ExecType, status: OrderStatus, cum: str, average: str | None
) -> None:
    report = mapping.order_report("A", told(**fields))
    assert (report.exec_type, report.status) == (exec_type, status)
    assert report.cum_qty == Decimal(cum)
    assert report.avg_px == (None if average is None else Decimal(average))
    assert (report.order_id, report.cl_ord_id, report.symbol) == ("17", ID, "BTC/USDT")
    assert (report.side, report.order_type) == (Side.SELL, OrderType.LIMIT)
    assert (report.order_qty, report.limit_price) == (Decimal("0.015"), Decimal("101.25"))
    assert report.transact_time == datetime(2026, 11, 18, 11, 6, 40, 123000, UTC)


def test_a_reply_with_nothing_but_an_id_is_proof_of_placement() -> None:
    report = mapping.placed("A", ID, {"id": "17", "info": {}})
    assert (report.status, report.cl_ord_id, report.order_id) == (OrderStatus.NEW, ID, "17")
    assert report.cum_qty is None


@pytest.mark.parametrize(
    "reply",
    [
        {"id": None},
        {},
        {"id": "17", "clientOrderId": "SOMEBODYELSES"},
        {"id": "17", "filled": "many"},
        {"id": "17", "filled": float("nan")},
        {"id": "17", "filled": -1.0},
    ],
    ids=str,
)
def test_unreadable_replies_are_unknown(reply: dict[str, Any]) -> None:
    assert mapping.placed("A", ID, reply).exec_type is ExecType.UNKNOWN


def test_unreadable_orders_are_errors() -> None:
    with pytest.raises(BrokerProtocolError, match="account A"):
        mapping.order_report("A", {"id": "17", "amount": True})


def test_client_ids_may_be_prefixed() -> None:
    orders = [told(clientOrderId=None), told(id="18", clientOrderId=f"t-{ID}")]
    found = mapping.find_by_client_id(orders, ID)
    assert found is not None
    assert found["id"] == "18"
    assert mapping.find_by_client_id(orders, "X" + ID) is None


def test_money() -> None:
    balance = {"free": {"USDT": 90.1}, "total": {"USDT": 100.25, "BTC": 0.5, "DUST": 0.0}}
    found = mapping.balances("A", balance, "USDT")
    assert (found.equity, found.buying_power) == (Decimal("100.25"), Decimal("90.1"))
    assert mapping.balances("A", {}, "USDT").equity == 0
    held = mapping.holdings("A", balance, "USDT", {"BTC/USDT": {}, "DUST/USDT": {}})
    assert [(one.symbol, one.qty) for one in held] == [("BTC/USDT", Decimal("0.5"))]
    short = mapping.position("A", {"symbol": "X/Y:Y", "contracts": 3.0, "side": "short"})
    assert short is not None
    assert short.qty == -3
    assert mapping.position("A", {"symbol": "X/Y:Y", "contracts": 0.0}) is None


def test_markets() -> None:
    market = {
        "symbol": "BTC/USDT",
        "precision": {"amount": 1e-05, "price": 0.01},
        "limits": {"amount": {"min": 0.0001}},
        "active": True,
    }
    found = mapping.instrument("A", market, mapping.TICK_SIZE)
    assert (found.lot, found.min_qty, found.tick) == (
        Decimal("0.00001"),
        Decimal("0.0001"),
        Decimal("0.01"),
    )
    assert found.tradable
    digits = {"symbol": "X/Y", "precision": {"amount": 8, "price": 5}, "active": False}
    found = mapping.instrument("A", digits, 3)
    assert (found.lot, found.tick, found.tradable) == (Decimal("1e-8"), Decimal("1e-8"), False)


def test_prices() -> None:
    assert mapping.price({"last": 46350.0}) == 46350
    assert mapping.price({"price": 1e-08}) == Decimal("1e-8")
    assert mapping.price({}) is None
    assert mapping.price({"last": "nonsense"}) is None


def test_totals_of_trades() -> None:
    trades = [
        {"order": "17", "amount": 0.5, "price": 100.0},
        {"order": "18", "amount": 9.0, "price": 1.0},
        {"order": "17", "amount": 0.25, "price": 103.0},
    ]
    assert mapping.totals("A", trades, "17") == (Decimal("0.75"), Decimal(101))
    assert mapping.totals("A", trades, "19") == (None, None)


def test_ccxt_keeps_its_rounding_to_itself() -> None:
    """Its own rounding changes the thread's decimal context: half a cent of everybody's money with it."""
    before = getcontext().copy()
    exchange = _library().binance()
    assert exchange.decimal_to_precision("0.0155", rounding_mode=1, precision=3) == "0.016"
    assert (getcontext().rounding, getcontext().traps) == (before.rounding, before.traps)
    assert round(Decimal("-1.805"), 2) == Decimal("-1.80")
