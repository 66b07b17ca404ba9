"""OANDA v20's words: requests byte for byte, OANDA's own sample replies read to the last field.

Samples: https://developer.oanda.com/rest-live-v20 (order, transaction and pricing endpoints; client ids and
instruments are what the samples leave open).
"""

from __future__ import annotations

from datetime import UTC, datetime
from decimal import Decimal

import orjson
import pytest

from engine.brokers.oanda import account, mapping
from engine.brokers.oanda.adapter import OandaAdapter
from engine.brokers.oanda.transactions import TransactionReader
from engine.errors import BrokerProtocolError, ConfigError
from engine.model.account import Account
from engine.model.enums import ExecType, OrderStatus, OrderType, Side, TimeInForce
from engine.model.identifiers import STOP_LEG, TARGET_LEG, exit_leg_id
from engine.model.messages import ExecutionReport
from engine.model.order import Order

ID = "AAAABBBBCCCCDDDDEEEE"
OANDA_ID = "101-004-1435156-001"
TOKEN = "canary-token-of-oanda"
PIPETTE = Decimal("0.00001")


def order(**changes) -> Order:
    facts = {
        "cl_ord_id": ID,
        "account": "A-1",
        "symbol": "EUR_USD",
        "side": Side.BUY,
        "order_qty": Decimal(100),
        "order_type": OrderType.MARKET,
        "time_in_force": TimeInForce.DAY,
        "created_at": datetime(2026, 11, 22, tzinfo=UTC),
        "strategy": "breakout",
    }
    for name in (
        "order_qty",
        "limit_price",
        "stop_price",
        "stop_loss",
        "take_profit",
        "trail_percent",
    ):
        if isinstance(changes.get(name), str):
            changes[name] = Decimal(changes[name])
    return Order(**(facts | changes))


def body(**changes) -> dict:
    return orjson.loads(mapping.OrderBodies().write(order(**changes), PIPETTE))["order"]


def session(**changes):
    adapter = OandaAdapter()
    document = {
        "id": "A-1",
        "broker": "oanda",
        "sizing": {"method": "fixed", "quantity": "1"},
        **changes,
    }
    credentials = {"token": TOKEN, "account_id": OANDA_ID}
    return adapter.session(Account.model_validate(document), credentials, sink=None)


# Requests


async def test_a_new_order_byte_for_byte():
    made = session()
    sent = made.new_order_request(order())
    text = (
        '{"order":{"type":"MARKET","instrument":"EUR_USD","timeInForce":"FOK","positionFill":"DEFAULT",'
        f'"units":"100","clientExtensions":{{"id":"{ID}","tag":"volley","comment":"breakout"}},'
        f'"tradeClientExtensions":{{"id":"{ID}"}}}}}}'
    )
    assert (
        sent
        == (
            f"POST /v3/accounts/{OANDA_ID}/orders HTTP/1.1\r\n"
            "Host: api-fxpractice.oanda.com\r\n"
            "User-Agent: volley\r\n"
            f"Authorization: Bearer {TOKEN}\r\n"
            "Accept-Datetime-Format: RFC3339\r\n"
            "Content-Type: application/json\r\n"
            f"Content-Length: {len(text)}\r\n\r\n{text}"
        ).encode()
    )


async def test_cancel_and_replace_byte_for_byte():
    made = session(environment="live")
    old = order()
    assert made.cancel_request(old) is None  # not before OANDA is known to have it
    assert made.replace_request(old, order()) is None
    old.order_id = "2304"
    head = (
        " HTTP/1.1\r\nHost: api-fxtrade.oanda.com\r\nUser-Agent: volley\r\n"
        f"Authorization: Bearer {TOKEN}\r\nAccept-Datetime-Format: RFC3339\r\n"
    )
    path = f"PUT /v3/accounts/{OANDA_ID}/orders/@{ID}"
    assert made.cancel_request(old) == f"{path}/cancel{head}Content-Length: 0\r\n\r\n".encode()
    new = order(
        cl_ord_id="NNNNBBBBCCCCDDDDEEEE",
        side=Side.SELL,
        order_type=OrderType.LIMIT,
        limit_price="1.25000",
        order_qty="50000",
        time_in_force=TimeInForce.GTC,
    )
    text = (
        '{"order":{"type":"LIMIT","instrument":"EUR_USD","timeInForce":"GTC","positionFill":"DEFAULT",'
        '"price":"1.25","units":"-50000","clientExtensions":{"id":"NNNNBBBBCCCCDDDDEEEE","tag":"volley",'
        '"comment":"breakout"}}}'
    )
    length = f"Content-Type: application/json\r\nContent-Length: {len(text)}"
    assert made.replace_request(old, new) == f"{path}{head}{length}\r\n\r\n{text}".encode()


def test_an_order_of_others_is_named_by_oandas_id():
    assert mapping.order_specifier("my_order", "2304") == "2304"
    assert mapping.order_specifier(ID, "2304") == f"@{ID}"
    assert mapping.order_specifier("../..", "23/04") == "23%2F04"


@pytest.mark.parametrize(
    ("tif", "market", "resting"),
    [("day", "FOK", "GFD"), ("gtc", "FOK", "GTC"), ("ioc", "IOC", "IOC"), ("fok", "FOK", "FOK")],
)
def test_time_in_force(tif: str, market: str, resting: str):
    assert body(time_in_force=TimeInForce(tif))["timeInForce"] == market
    limit = body(time_in_force=TimeInForce(tif), order_type=OrderType.LIMIT, limit_price="1.2")
    assert limit["timeInForce"] == resting


def test_types_and_prices():
    stop = body(order_type=OrderType.STOP, stop_price="1.30", time_in_force=TimeInForce.GTC)
    assert (stop["type"], stop["price"]) == ("STOP", "1.3")
    assert "priceBound" not in stop
    both = body(order_type=OrderType.STOP_LIMIT, stop_price="1.30", limit_price="1.31")
    assert (both["type"], both["price"], both["priceBound"]) == ("STOP", "1.3", "1.31")


def test_an_exit_only_reduces_and_names_no_trade():
    closing = body(side=Side.SELL, reducing=True, stop_loss="1.1")
    assert (closing["positionFill"], closing["units"]) == ("REDUCE_ONLY", "-100")
    assert "tradeClientExtensions" not in closing
    assert "stopLossOnFill" not in closing


def test_only_orders_that_fill_at_once_name_their_trade():
    resting = body(order_type=OrderType.LIMIT, limit_price="1.1", time_in_force=TimeInForce.GTC)
    assert "tradeClientExtensions" not in resting
    at_once = body(order_type=OrderType.LIMIT, limit_price="1.1", time_in_force=TimeInForce.IOC)
    assert at_once["tradeClientExtensions"] == {"id": ID}


def test_exits_go_along_under_names_of_ours():
    made = body(stop_loss="1.05", take_profit="1.15")
    assert made["takeProfitOnFill"] == {
        "price": "1.15",
        "timeInForce": "GTC",
        "clientExtensions": {"id": exit_leg_id(ID, TARGET_LEG), "tag": "target", "comment": ID},
    }
    assert made["stopLossOnFill"] == {
        "price": "1.05",
        "timeInForce": "GTC",
        "clientExtensions": {"id": exit_leg_id(ID, STOP_LEG), "tag": "stop", "comment": ID},
    }


@pytest.mark.parametrize(
    ("changes", "works"),
    [
        ({}, False),
        ({"stop_loss": "1.05"}, True),
        ({"take_profit": "1.2"}, True),
        ({"trail_percent": "0.5"}, False),  # a market order names no price
        ({"trail_percent": "0.5", "order_type": OrderType.LIMIT, "limit_price": "1.1"}, True),
        ({"trail_percent": "0.5", "order_type": OrderType.STOP, "stop_price": "1.1"}, True),
        (
            {
                "trail_percent": "0.5",
                "stop_loss": "1",
                "order_type": OrderType.LIMIT,
                "limit_price": "1.1",
            },
            False,
        ),
        ({"stop_loss": "1.05", "reducing": True}, False),
        ({"stop_loss": "1.05", "parent": ID}, False),
    ],
)
def test_which_exits_oanda_works(changes: dict, works: bool):
    assert mapping.works_exits(order(**changes)) is works
    names = {"takeProfitOnFill", "stopLossOnFill", "trailingStopLossOnFill"}
    assert bool(names & set(body(**changes))) is works


@pytest.mark.parametrize(
    ("price", "percent", "tick", "distance"),
    [
        ("1.10000", "0.5", "0.00001", "0.0055"),
        ("1.08537", "0.33", "0.00001", "0.00358"),
        ("151.305", "0.1", "0.001", "0.151"),
        ("1.1", "0.0001", "0.00001", "0.00001"),
        ("1.08537", "0.33", None, "0.00358"),
        ("1", "0.5", None, "1"),
    ],
)
def test_a_trailing_distance_keeps_to_the_tick(price: str, percent: str, tick, distance: str):
    entry = order(order_type=OrderType.LIMIT, limit_price=price, trail_percent=percent)
    found = mapping.trail_distance(entry, None if tick is None else Decimal(tick))
    assert found == Decimal(distance)


def test_a_template_is_never_used_for_another_signal():
    bodies = mapping.OrderBodies()
    variants = [
        order(),
        order(symbol="USD_JPY"),
        order(side=Side.SELL),
        order(order_type=OrderType.LIMIT, limit_price="1.1"),
        order(order_type=OrderType.LIMIT, limit_price="1.2"),
        order(order_type=OrderType.STOP, stop_price="1.2"),
        order(time_in_force=TimeInForce.IOC),
        order(reducing=True),
        order(stop_loss="1.05"),
        order(stop_loss="1.06"),
        order(take_profit="1.06"),
        order(order_type=OrderType.LIMIT, limit_price="1.1", trail_percent="1"),
        order(strategy="other"),
        order(order_qty="7", cl_ord_id="NNNNBBBBCCCCDDDDEEEE"),
    ]
    for variant in [*variants, *reversed(variants)]:
        assert bodies.write(variant, PIPETTE) == mapping.OrderBodies().write(variant, PIPETTE)


# Accounts


@pytest.mark.parametrize("account_id", ["", "101-004 1", "101/004", "x" * 5, "1" * 33, "1\r\nX: y"])
def test_an_account_id_fit_for_a_path(account_id: str):
    document = {"id": "A-1", "broker": "oanda", "sizing": {"method": "signal"}}
    credentials = {"token": TOKEN, "account_id": account_id}
    with pytest.raises(ConfigError, match="account_id") as caught:
        OandaAdapter().session(Account.model_validate(document), credentials, sink=None)
    assert TOKEN not in str(caught.value)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"base_url": "https://api-fxtrade.oanda.com"}, "environment"),
        ({"base_url": "https://api.alpaca.markets"}, "not allowed"),
        ({"base_url": "http://127.0.0.1:8080"}, "not allowed"),
        ({"options": {"nosuch": "1"}}, "nosuch"),
    ],
)
def test_addresses_and_options_that_are_not_oandas(changes: dict, words: str):
    with pytest.raises(ConfigError, match=words):
        session(**changes)


# OANDA's samples, read


def create(kind: str = "MARKET_ORDER", number: str = "6367", **more) -> dict:
    return {
        "accountID": OANDA_ID,
        "batchID": number,
        "id": number,
        "instrument": "EUR_USD",
        "positionFill": "DEFAULT",
        "reason": "CLIENT_ORDER",
        "time": "2016-06-22T18:41:29.285982286Z",
        "timeInForce": "FOK",
        "type": kind,
        "units": "100",
        "userID": 1435156,
        "clientExtensions": {"id": ID},
        **more,
    }


FILL = {
    "accountBalance": "6505973.49885",
    "accountID": OANDA_ID,
    "batchID": "6367",
    "financing": "0.00000",
    "id": "6368",
    "instrument": "EUR_USD",
    "orderID": "6367",
    "clientOrderID": ID,
    "pl": "0.00000",
    "price": "1.13028",
    "reason": "MARKET_ORDER",
    "time": "2016-06-22T18:41:29.285982286Z",
    "tradeOpened": {"tradeID": "6368", "units": "100"},
    "type": "ORDER_FILL",
    "units": "100",
    "userID": 1435156,
}
AT = datetime(2016, 6, 22, 18, 41, 29, 285982, tzinfo=UTC)
CANCEL = {
    "accountID": OANDA_ID,
    "batchID": "6367",
    "id": "6368",
    "orderID": "6367",
    "clientOrderID": ID,
    "reason": "INSUFFICIENT_MARGIN",
    "time": "2016-06-22T18:41:29.285982286Z",
    "type": "ORDER_CANCEL",
    "userID": 1435156,
}


def read(*transactions: dict, reader: TransactionReader | None = None) -> list[ExecutionReport]:
    reader = reader or TransactionReader("A-1", OANDA_ID)
    return [report for told in transactions for report in reader.read(told, in_order=True)]


def verdict(status: int, reply: dict | None) -> ExecutionReport | None:
    return mapping.verdict("A-1", ID, status, reply or {})


def test_a_market_order_that_fills():
    reply = {
        "lastTransactionID": "6368",
        "orderFillTransaction": FILL,
        "orderCreateTransaction": create(),
        "relatedTransactionIDs": ["6367", "6368"],
    }
    assert verdict(201, reply) is None
    told = mapping.transactions_of(reply)
    assert [t["id"] for t in told] == ["6367", "6368"]
    assert read(*told) == [
        ExecutionReport(
            "A-1",
            ID,
            ExecType.NEW,
            OrderStatus.NEW,
            "6367",
            transact_time=AT,
            symbol="EUR_USD",
            side=Side.BUY,
            order_type=OrderType.MARKET,
            time_in_force=TimeInForce.FOK,
            order_qty=Decimal(100),
        ),
        ExecutionReport(
            "A-1",
            ID,
            ExecType.TRADE,
            OrderStatus.FILLED,
            "6367",
            "6368",
            Decimal(100),
            Decimal("1.13028"),
            Decimal(100),
            Decimal("1.13028"),
            transact_time=AT,
            symbol="EUR_USD",
            side=Side.BUY,
            order_type=OrderType.MARKET,
            time_in_force=TimeInForce.FOK,
            order_qty=Decimal(100),
        ),
    ]


def test_a_limit_order_that_rests():
    sample = {
        "orderCreateTransaction": {
            "timeInForce": "GTC",
            "triggerCondition": "TRIGGER_DEFAULT",
            "positionFill": "DEFAULT",
            "stopLossOnFill": {"timeInForce": "GTC", "price": "1.22000"},
            "userID": 1435156,
            "id": "2304",
            "batchID": "2304",
            "instrument": "EUR_USD",
            "reason": "CLIENT_ORDER",
            "time": "2016-10-24T21:48:18.593753865Z",
            "units": "-100",
            "type": "LIMIT_ORDER",
            "price": "1.20000",
            "accountID": OANDA_ID,
            "clientExtensions": {"id": ID},
        },
        "relatedTransactionIDs": ["2304"],
        "lastTransactionID": "2304",
    }
    assert verdict(201, sample) is None
    assert read(*mapping.transactions_of(sample)) == [
        ExecutionReport(
            "A-1",
            ID,
            ExecType.NEW,
            OrderStatus.NEW,
            "2304",
            transact_time=datetime(2016, 10, 24, 21, 48, 18, 593753, tzinfo=UTC),
            symbol="EUR_USD",
            side=Side.SELL,
            order_type=OrderType.LIMIT,
            time_in_force=TimeInForce.GTC,
            order_qty=Decimal(100),
            limit_price=Decimal("1.20000"),
        )
    ]


def test_a_replacement_is_a_cancel_and_an_order():
    reader = TransactionReader("A-1", OANDA_ID)
    read(create("LIMIT_ORDER", "2304", price="1.2", timeInForce="GTC"), reader=reader)
    ended, began = read(
        {
            "orderID": "2304",
            "clientOrderID": ID,
            "replacedByOrderID": "2307",
            "userID": 1435156,
            "batchID": "2306",
            "reason": "CLIENT_REQUEST_REPLACED",
            "time": "2016-10-25T19:45:38.558056359Z",
            "type": "ORDER_CANCEL",
            "id": "2306",
            "accountID": OANDA_ID,
        },
        create(
            "LIMIT_ORDER",
            "2307",
            batchID="2306",
            price="1.25",
            timeInForce="GTC",
            reason="REPLACEMENT",
            replacesOrderID="2304",
            clientExtensions={"id": "NNNNBBBBCCCCDDDDEEEE"},
        ),
        reader=reader,
    )
    assert (ended.cl_ord_id, ended.exec_type, ended.order_id) == (ID, ExecType.REPLACED, "2304")
    assert (began.exec_type, began.order_id, began.replaces) == (ExecType.NEW, "2307", "2304")
    # One that then cannot be is no "rejected": that would say that the old order goes on.
    (gone,) = read(
        {**CANCEL, "id": "2308", "batchID": "2306", "orderID": "2307"}
        | {"clientOrderID": "NNNNBBBBCCCCDDDDEEEE"},
        reader=reader,
    )
    assert (gone.exec_type, gone.status) == (ExecType.CANCELED, OrderStatus.CANCELED)
    assert "INSUFFICIENT_MARGIN" in gone.text


@pytest.mark.parametrize(
    ("reason", "status", "words"),
    [
        ("INSUFFICIENT_MARGIN", "rejected", "not enough margin"),
        ("MARKET_HALTED", "rejected", "the market is halted"),
        ("FIFO_VIOLATION", "rejected", "first-in-first-out"),
        ("SOMETHING_NEW", "rejected", "something new"),
        ("BOUNDS_VIOLATION", "canceled", "past the price bound"),
        ("INSUFFICIENT_LIQUIDITY", "canceled", "liquidity"),
        ("TIME_IN_FORCE_EXPIRED", "canceled", "its time was over"),
        ("CLIENT_REQUEST", "canceled", "on request"),
    ],
)
def test_a_201_is_no_fill(reason: str, status: str, words: str):
    reports = read(create(), {**CANCEL, "reason": reason})
    assert [r.status for r in reports] == ["new", status]
    assert words in reports[1].text
    assert reason in reports[1].text


def test_what_ends_later_was_not_rejected():
    pending = create("LIMIT_ORDER", price="1.1", timeInForce="GTC")
    for reason, status in (("MARKET_HALTED", "canceled"), ("TIME_IN_FORCE_EXPIRED", "expired")):
        later = {**CANCEL, "id": "7000", "batchID": "7000", "reason": reason}
        assert read(pending, later)[1].status == status


def test_partial_closes_are_one_fill_at_the_trades_own_prices():
    (_, fill) = read(
        create(units="-300"),
        {
            **FILL,
            "units": "-300",
            "price": "9.99999",  # deprecated: the trades' prices count
            "tradeOpened": {"tradeID": "6368", "units": "-50", "price": "1.10"},
            "tradesClosed": [{"tradeID": "6000", "units": "-100", "price": "1.13"}],
            "tradeReduced": {"tradeID": "6001", "units": "-150", "price": "1.12"},
        },
    )
    assert (fill.last_qty, fill.exec_id, fill.status) == (300, "6368", "filled")
    assert fill.last_px == Decimal("1.12")  # (50 × 1.10 + 100 × 1.13 + 150 × 1.12) / 300


def test_what_fills_at_once_in_part_has_no_rest():
    reports = read(create(timeInForce="IOC"), {**FILL, "units": "40"})
    assert [(r.exec_type, r.cum_qty) for r in reports] == [
        ("new", None),
        ("trade", 40),
        ("canceled", 40),
    ]
    # The cancel that OANDA may send for the rest says it a second time.
    reader = TransactionReader("A-1", OANDA_ID)
    read(create(timeInForce="IOC"), {**FILL, "units": "40"}, reader=reader)
    assert read({**CANCEL, "id": "6369", "reason": "TIME_IN_FORCE_EXPIRED"}, reader=reader) == []
    found = reader.find(ID)
    assert found is not None
    assert (found.status, found.cum_qty, found.exec_id) == ("canceled", 40, "6368")


def test_a_rest_issued_anew_is_the_same_order():
    reader = TransactionReader("A-1", OANDA_ID)
    resting = {"price": "1.2", "timeInForce": "GTC"}
    reports = read(
        create("LIMIT_ORDER", **resting),
        {**FILL, "units": "40"},
        create("LIMIT_ORDER", "6369", **resting, units="60"),
        {**FILL, "id": "6370", "orderID": "6369", "units": "60"},
        reader=reader,
    )
    assert [(r.exec_type, r.cum_qty, r.status) for r in reports] == [
        ("new", None, "new"),
        ("trade", 40, "partially_filled"),
        ("trade", 100, "filled"),
    ]
    assert {r.order_id for r in reports} == {"6367"}


def test_exits_are_told_with_their_trade():
    entry = create(units="-100")
    fill = {
        **FILL,
        "units": "-100",
        "tradeOpened": {"tradeID": "6368", "units": "-100", "price": "1.13"},
    }

    def exit_of(kind: str, number: str, leg: str, **more) -> dict:
        extensions = {"id": exit_leg_id(ID, leg), "tag": leg, "comment": ID}
        base = {"type": kind, "id": number, "accountID": OANDA_ID, "batchID": "6367"}
        return (
            base
            | {"tradeID": "6368", "reason": "ON_FILL", "timeInForce": "GTC"}
            | more
            | {
                "clientExtensions": extensions,
                "orderFillTransactionID": "6368",
            }
        )

    _, _, target, stop = read(
        entry,
        fill,
        exit_of("TAKE_PROFIT_ORDER", "6369", TARGET_LEG, price="1.10"),
        exit_of("STOP_LOSS_ORDER", "6370", STOP_LEG, price="1.15"),
    )
    assert (target.cl_ord_id, target.parent, target.leg) == (
        exit_leg_id(ID, "target"),
        ID,
        "target",
    )
    assert (target.side, target.order_type, target.order_qty) == (Side.BUY, OrderType.LIMIT, 100)
    assert (target.symbol, target.limit_price, target.stop_price) == (
        "EUR_USD",
        Decimal("1.10"),
        None,
    )
    assert (stop.cl_ord_id, stop.leg, stop.order_id) == (exit_leg_id(ID, "stop"), "stop", "6370")
    assert (stop.order_type, stop.limit_price, stop.stop_price) == ("stop", None, Decimal("1.15"))
    (*_, trailing) = read(
        entry, fill, exit_of("TRAILING_STOP_LOSS_ORDER", "6369", STOP_LEG, distance="0.02")
    )
    assert (trailing.leg, trailing.stop_price) == ("stop", Decimal("1.15"))


def test_an_exit_of_somebody_elses_is_none_of_ours():
    told = {
        "type": "TAKE_PROFIT_ORDER",
        "id": "6369",
        "accountID": OANDA_ID,
        "tradeID": "6368",
        "price": "1.2",
        "clientExtensions": {"id": "mine", "comment": ID},
    }
    (report,) = read(told)
    assert (report.cl_ord_id, report.parent, report.leg) == ("mine", "", "")


def test_each_transaction_counts_once_whoever_brings_it():
    reader = TransactionReader("A-1", OANDA_ID)
    reader.begin(6366)
    assert len(reader.read(create(), in_order=False)) == 1  # by the reply, ahead of the stream
    assert reader.cursor == 6366
    assert len(reader.read(FILL, in_order=True)) == 1
    assert reader.cursor == 6368
    assert reader.read(create(), in_order=True) == ()
    assert reader.read(FILL, in_order=False) == ()
    assert reader.cursor == 6368


def test_a_transaction_that_cannot_be_read_is_told_and_passed():
    reader = TransactionReader("A-1", OANDA_ID)
    for broken in (
        {**FILL, "units": "0"},
        {**FILL, "units": "NaN", "id": "6369"},
        {**FILL, "price": "-1", "id": "6370"},
        {**FILL, "orderID": None, "id": "6371"},
        {**FILL, "accountID": "101-004-1435156-002", "id": "6372"},  # never another account's
    ):
        with pytest.raises(BrokerProtocolError):
            reader.read(broken, in_order=True)
        assert reader.cursor == int(broken["id"])
    for broken in ([], {}, {"id": "x"}, {"id": 7}):
        with pytest.raises(BrokerProtocolError):
            reader.read(broken, in_order=True)


def test_a_second_try_says_nothing_against_the_first():
    reader = TransactionReader("A-1", OANDA_ID)
    read(create(), FILL, reader=reader)
    again = [
        create("MARKET_ORDER", "6400"),
        {**CANCEL, "id": "6401", "orderID": "6400", "reason": "CLIENT_TRADE_ID_ALREADY_EXISTS"},
        create("MARKET_ORDER_REJECT", "6402", rejectReason="CLIENT_ORDER_ID_ALREADY_EXISTS"),
        create("MARKET_ORDER_REJECT", "6403", rejectReason="INSUFFICIENT_MARGIN"),
    ]
    assert read(*again, reader=reader) == []
    found = reader.find(ID)
    assert found is not None
    assert (found.status, found.order_id) == ("filled", "6367")
    # Nor where the first is older than the session.
    reject = create("LIMIT_ORDER_REJECT", "1", rejectReason="CLIENT_ORDER_ID_ALREADY_EXISTS")
    assert read(reject) == []


def test_a_reject_transaction_of_a_new_id_is_a_rejection():
    (report,) = read(create("LIMIT_ORDER_REJECT", rejectReason="PRICE_PRECISION_EXCEEDED"))
    assert (report.cl_ord_id, report.exec_type) == (ID, ExecType.REJECTED)
    assert report.text == "EUR_USD: a price has too many digits (PRICE_PRECISION_EXCEEDED)"


# What a reply proves


REJECT = {
    "orderRejectTransaction": create("MARKET_ORDER_REJECT", rejectReason="INSTRUMENT_UNKNOWN"),
    "errorCode": "INSTRUMENT_UNKNOWN",
    "errorMessage": "The instrument specified does not exist",
}


@pytest.mark.parametrize(
    ("status", "reply", "kind"),
    [
        (400, REJECT, "rejected"),
        (404, REJECT, "rejected"),
        (401, {"errorMessage": "Insufficient authorization to perform request."}, "rejected"),
        (403, {"errorMessage": "Forbidden"}, "rejected"),
        (405, {"errorMessage": "Method Not Allowed"}, "rejected"),
        (429, None, "unknown"),
        (429, {"errorMessage": "Rate limit exceeded"}, "unsent"),
        (400, None, "unknown"),  # no word of OANDA's
        (403, {"message": "blocked"}, "unknown"),
        (404, {}, "unknown"),
        (408, {"errorMessage": "timeout"}, "unknown"),
        (409, {"errorMessage": "conflict"}, "unknown"),
        (500, {"errorMessage": "oops"}, "unknown"),
        (503, None, "unknown"),
        (201, None, "unknown"),
        (201, {}, "unknown"),
        (201, {"orderCreateTransaction": []}, "unknown"),
        (201, {"orderCreateTransaction": create(clientExtensions={"id": "other"})}, "unknown"),
        (201, {"orderCreateTransaction": create(clientExtensions=None)}, "unknown"),
        (
            201,
            {
                "orderCreateTransaction": create(),
                "orderCancelTransaction": {**CANCEL, "reason": "CLIENT_TRADE_ID_ALREADY_EXISTS"},
            },
            "unknown",
        ),
        (
            400,
            {
                "orderRejectTransaction": create(
                    "MARKET_ORDER_REJECT", rejectReason="CLIENT_ORDER_ID_ALREADY_EXISTS"
                )
            },
            "unknown",
        ),
        (400, {"errorCode": "CLIENT_ORDER_ID_ALREADY_EXISTS", "errorMessage": "x"}, "unknown"),
    ],
)
def test_what_a_reply_to_an_order_proves(status: int, reply: dict | None, kind: str):
    report = verdict(status, reply)
    assert report is not None
    assert report.exec_type == kind
    assert report.text


def test_a_cancel_is_judged():
    made = session()
    done = {"orderCancelTransaction": {**CANCEL, "reason": "CLIENT_REQUEST"}}
    found = made.judge_cancel(order(), 200, b"", orjson.dumps(done))
    assert found.outcome == "done"
    assert [(r.cl_ord_id, r.exec_type) for r in found.reports] == [(ID, ExecType.CANCELED)]
    again = made.judge_cancel(order(), 200, b"", orjson.dumps(done))
    assert (again.outcome, list(again.reports)) == ("done", [])  # the stream told it, say
    gone = {
        "orderCancelRejectTransaction": {"id": "7", "rejectReason": "ORDER_DOESNT_EXIST"},
        "errorCode": "ORDER_DOESNT_EXIST",
    }
    refused = made.judge_cancel(order(), 404, b"", orjson.dumps(gone))
    assert (refused.outcome, "ORDER_DOESNT_EXIST" in refused.text) == ("refused", True)
    for status, raw in ((200, b"{}"), (500, b""), (404, b"<html>"), (200, b"\xff")):
        assert made.judge_cancel(order(), status, b"", raw).outcome == "unknown"
    assert made.judge_cancel(order(), 429, b"", b"").outcome == "refused"


# The account


def test_the_summary():
    sample = {
        "account": {
            "NAV": "43650.78835",
            "alias": "My New Account #2",
            "balance": "43650.78835",
            "currency": "CHF",
            "hedgingEnabled": False,
            "id": OANDA_ID,
            "lastTransactionID": "6356",
            "marginAvailable": "43650.78835",
            "marginRate": "0.02",
            "marginUsed": "0.00000",
            "unrealizedPL": "0.00000",
        },
        "lastTransactionID": "6356",
    }
    money, last, hedging = account.balances("A-1", sample)
    assert (money.equity, money.cash, money.currency) == (Decimal("43650.78835"),) * 2 + ("CHF",)
    assert money.buying_power == Decimal("2182539.42")
    assert (last, hedging) == (6356, False)
    del sample["account"]["marginRate"]
    assert account.balances("A-1", sample)[0].buying_power == Decimal("43650.78835")
    sample["account"]["hedgingEnabled"] = True
    assert account.balances("A-1", sample)[2] is True
    for name in ("NAV", "balance", "marginAvailable", "currency"):
        broken = {**sample["account"], name: None}
        with pytest.raises(BrokerProtocolError):
            account.balances("A-1", {"account": broken})


def side(units: str, price: str | None = None) -> dict:
    return {"units": units} | ({"averagePrice": price} if price else {})


@pytest.mark.parametrize(
    ("long", "short", "found"),
    [
        (side("100", "1.13028"), side("0"), (100, "1.13028")),
        (side("0"), side("-600", "1.28241"), (-600, "1.28241")),
        (side("100", "1.1"), side("-600", "1.2"), (-500, "1.2")),  # a hedging account's two sides
        (side("100", "1.1"), side("-100", "1.2"), None),
    ],
)
def test_positions(long: dict, short: dict, found: tuple | None):
    read_one = account.position("A-1", {"instrument": "EUR_USD", "long": long, "short": short})
    if found is None:
        assert read_one is None
    else:
        assert read_one is not None
        assert (read_one.symbol, read_one.qty, read_one.avg_px) == (
            "EUR_USD",
            found[0],
            Decimal(found[1]),
        )


def test_instruments():
    sample = {
        "instruments": [
            {
                "displayName": "USD/JPY",
                "displayPrecision": 3,
                "marginRate": "0.02",
                "maximumOrderUnits": "100000000",
                "minimumTradeSize": "1",
                "name": "USD_JPY",
                "pipLocation": -2,
                "tradeUnitsPrecision": 0,
                "type": "CURRENCY",
            },
            {
                "displayPrecision": 1,
                "minimumTradeSize": "0.1",
                "name": "SPX500_USD",
                "tradeUnitsPrecision": 1,
            },
        ]
    }
    found = account.instruments("A-1", sample)
    yen, index = found["USD_JPY"], found["SPX500_USD"]
    assert (yen.tick, yen.lot, yen.min_qty, yen.tradable) == (Decimal("0.001"), 1, 1, True)
    assert (index.tick, index.lot, index.min_qty) == (Decimal("0.1"),) * 3
    for broken in (
        {},
        {"instruments": [{}]},
        {"instruments": [{"name": "X", "displayPrecision": "5"}]},
    ):
        with pytest.raises(BrokerProtocolError):
            account.instruments("A-1", broken)


def test_prices():
    sample = {
        "prices": [
            {
                "asks": [
                    {"liquidity": 10000000, "price": "1.13028"},
                    {"liquidity": 10000000, "price": "1.13030"},
                ],
                "bids": [{"liquidity": 10000000, "price": "1.13015"}],
                "closeoutAsk": "1.13032",
                "closeoutBid": "1.13011",
                "instrument": "EUR_USD",
                "status": "tradeable",
                "time": "2016-06-22T18:41:36.201836422Z",
            },
            {
                "asks": [],
                "bids": [],
                "closeoutAsk": "1.32",
                "closeoutBid": "1.30",
                "instrument": "USD_CAD",
                "tradeable": False,
            },
            {"instrument": "GBP_USD", "bids": [{"price": "x"}], "asks": []},
        ]
    }
    wanted = ["EUR_USD", "USD_CAD", "GBP_USD", "NZD_USD"]
    assert account.prices(sample, wanted) == {
        "EUR_USD": (Decimal("1.130215"), True),
        "USD_CAD": (Decimal("1.31"), False),
    }
    assert account.prices(None, wanted) == {}
