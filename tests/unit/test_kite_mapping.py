"""Kite's words to ours and back; samples as Zerodha publishes them for its client libraries."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from decimal import Decimal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from engine.brokers.http import check_base_url, read_json
from engine.brokers.kite import mapping, portfolio
from engine.brokers.kite.adapter import CONFIRM, KiteAdapter
from engine.brokers.kite.book import DayBook
from engine.brokers.kite.login import ends_at, login_url, read_request_token
from engine.errors import BrokerProtocolError, ConfigError
from engine.model.account import Account
from engine.model.enums import ExecType, OrderStatus, OrderType, Side, TimeInForce
from engine.model.order import Order

CL = "ABCDEFGHIJKLMNOPQRST"
OTHER = "ZYXWVUTSRQPONMLKJIHG"
NOW = datetime(2026, 11, 23, 4, 30, tzinfo=UTC)

CANCELLED = {
    "placed_by": "XXXXXX", "order_id": "100000000000000", "exchange_order_id": "200000000000000",
    "parent_order_id": None, "status": "CANCELLED", "status_message": None,
    "status_message_raw": None, "order_timestamp": "2021-05-31 09:18:57",
    "exchange_update_timestamp": "2021-05-31 09:18:58",
    "exchange_timestamp": "2021-05-31 09:15:38", "variety": "regular", "modified": False,
    "exchange": "CDS", "tradingsymbol": "USDINR21JUNFUT", "instrument_token": 412675,
    "order_type": "LIMIT", "transaction_type": "BUY", "validity": "DAY", "product": "NRML",
    "quantity": 1, "disclosed_quantity": 0, "price": 72, "trigger_price": 0, "average_price": 0,
    "filled_quantity": 0, "pending_quantity": 1, "cancelled_quantity": 1, "market_protection": 0,
    "meta": {}, "tag": None, "guid": "XXXXX",
}  # fmt: skip
COMPLETE = CANCELLED | {
    "order_id": "500000000000000", "status": "COMPLETE", "exchange": "NSE", "tradingsymbol": "IOC",
    "order_type": "MARKET", "transaction_type": "SELL", "product": "CNC", "price": 0,
    "order_timestamp": "2021-05-31 15:20:51", "exchange_update_timestamp": "2021-05-31 15:20:52",
    "average_price": 109.35, "filled_quantity": 1, "pending_quantity": 0, "cancelled_quantity": 0,
}  # fmt: skip
LATE_REJECTION = CANCELLED | {
    "order_id": "220524001859672", "exchange_order_id": None, "status": "REJECTED",
    "status_message": "Insufficient funds. Required margin is 95417.84 but available margin is "
    "74251.80. Check the orderbook for open orders.",
    "order_timestamp": "2022-05-24 12:26:52", "exchange_update_timestamp": None,
    "exchange_timestamp": None, "exchange": "NSE", "tradingsymbol": "SBIN", "product": "CNC",
    "quantity": 200, "price": 463, "cancelled_quantity": 0, "pending_quantity": 200,
    "tag": "icebergord", "tags": ["icebergord"],
}  # fmt: skip
SLICED = {
    "status": "success",
    "data": {
        "order_id": "1914227164488687616",
        "children": [
            {"order_id": "1914227164534824960"},
            {"order_id": "1914227164580962304"},
            {
                "error": {
                    "code": 400,
                    "error_type": "MarginException",
                    "message": "Insufficient funds. Required margin is 228365.92 but available "
                    "margin is 228358.50.",
                    "data": None,
                }
            },
            {"order_id": "1914227164681625600"},
        ],
    },
}


def body(value: object) -> bytes:
    return json.dumps(value).encode()


def exact(value: object) -> object:
    return read_json(body(value))


def make(**changes: object) -> Order:
    facts: dict[str, object] = {
        "cl_ord_id": CL,
        "account": "A",
        "symbol": "NSE:INFY",
        "side": Side.BUY,
        "order_qty": Decimal("1.0"),
        "order_type": OrderType.MARKET,
        "time_in_force": TimeInForce.DAY,
        "created_at": NOW,
    }
    return Order(**(facts | changes))  # type: ignore[arg-type]


def row(**changes: object) -> mapping.Row:
    facts = CANCELLED | {
        "order_id": "1", "status": "OPEN", "exchange": "NSE", "tradingsymbol": "INFY", "tag": CL,
        "quantity": 10, "pending_quantity": 10, "cancelled_quantity": 0, "price": 1500,
    }  # fmt: skip
    return mapping.row("A", exact(facts | changes))


# Requests


@pytest.mark.parametrize(
    ("changes", "product", "expected"),
    [
        (
            {},
            "MIS",
            (
                "exchange=NSE&tradingsymbol=INFY&transaction_type=BUY&quantity=1&product=MIS"
                "&order_type=MARKET&market_protection=-1&validity=DAY&tag=ABCDEFGHIJKLMNOPQRST"
            ),
        ),
        (
            {
                "symbol": "BAJAJ-AUTO",
                "side": Side.SELL,
                "order_type": OrderType.LIMIT,
                "time_in_force": TimeInForce.IOC,
                "limit_price": Decimal("9100.50"),
                "order_qty": Decimal(25),
            },
            "CNC",
            (
                "exchange=NSE&tradingsymbol=BAJAJ-AUTO&transaction_type=SELL&quantity=25&product=CNC"
                "&order_type=LIMIT&price=9100.5&validity=IOC&tag=ABCDEFGHIJKLMNOPQRST"
            ),
        ),
        (
            {
                "symbol": "NFO:NIFTY26NOVFUT",
                "order_type": OrderType.STOP,
                "stop_price": Decimal("26000.05"),
                "order_qty": Decimal(75),
            },
            "NRML",
            (
                "exchange=NFO&tradingsymbol=NIFTY26NOVFUT&transaction_type=BUY&quantity=75&product=NRML"
                "&order_type=SL-M&trigger_price=26000.05&market_protection=-1&validity=DAY"
                "&tag=ABCDEFGHIJKLMNOPQRST"
            ),
        ),
        (
            {
                "order_type": OrderType.STOP_LIMIT,
                "stop_price": Decimal(1510),
                "limit_price": Decimal("1512.00"),
            },
            "MIS",
            (
                "exchange=NSE&tradingsymbol=INFY&transaction_type=BUY&quantity=1&product=MIS"
                "&order_type=SL&price=1512&trigger_price=1510&validity=DAY&tag=ABCDEFGHIJKLMNOPQRST"
            ),
        ),
    ],
)
def test_a_new_order_byte_for_byte(changes: dict[str, object], product: str, expected: str):
    assert mapping.OrderBodies().write(make(**changes), product) == expected


def test_bodies_share_what_orders_of_a_signal_share_and_nothing_else():
    bodies = mapping.OrderBodies()
    first = bodies.write(make(), "MIS")
    assert bodies.write(make(cl_ord_id=OTHER, order_qty=Decimal(7)), "MIS") == first.replace(
        "quantity=1", "quantity=7"
    ).replace(CL, OTHER)
    for changes in (
        {"symbol": "NSE:TCS"},
        {"side": Side.SELL},
        {"time_in_force": TimeInForce.IOC},
        {"order_type": OrderType.LIMIT, "limit_price": Decimal(5)},
        {"order_type": OrderType.LIMIT, "limit_price": Decimal(6)},
        {"order_type": OrderType.STOP, "stop_price": Decimal(6)},
    ):
        changed = make(**changes)
        assert bodies.write(changed, "MIS") == mapping.OrderBodies().write(changed, "MIS")
    assert "product=CNC" in bodies.write(make(), "CNC")


def test_a_change_and_other_paths():
    replacement = make(
        order_type=OrderType.LIMIT, limit_price=Decimal("1500.50"), order_qty=Decimal(12)
    )
    assert mapping.replace_body(replacement) == (
        "quantity=12&order_type=LIMIT&price=1500.5&validity=DAY"
    )
    assert mapping.order_path("151220000000000") == "/orders/regular/151220000000000"
    assert mapping.order_path("a/../b?c") == "/orders/regular/a%2F..%2Fb%3Fc"
    assert mapping.ltp_path(["INFY", "BSE:TCS"]) == "/quote/ltp?i=NSE%3AINFY&i=BSE%3ATCS"


# Replies


def test_the_ids_a_placement_brings():
    one = {"status": "success", "data": {"order_id": "151220000000000"}}
    assert mapping.placed_ids(body(one)) == (["151220000000000"], [])
    ids, refused = mapping.placed_ids(body(SLICED))
    assert ids == ["1914227164534824960", "1914227164580962304", "1914227164681625600"]
    assert refused == [
        "Insufficient funds. Required margin is 228365.92 but available margin is 228358.50."
    ]
    listed = {"status": "success", "data": [{"order_id": "1"}, {"order_id": "2"}]}
    assert mapping.placed_ids(body(listed)) == (["1", "2"], [])
    several = {"status": "success", "data": {"order_id": ["1", "2", "1"]}}
    assert mapping.placed_ids(body(several)) == (["1", "2"], [])


@pytest.mark.parametrize(
    "reply",
    [
        b"",
        b"<html>",
        b"[]",
        b"null",
        b'{"status":"success"}',
        b'{"status":"success","data":{}}',
        b'{"status":"success","data":{"order_id":7}}',
        b'{"status":"error","data":{"order_id":"1"}}',
    ],
)
def test_a_reply_without_ids_proves_nothing(reply: bytes):
    assert mapping.placed_ids(reply)[0] == []


@given(st.binary(max_size=200))
def test_no_reply_makes_the_reader_raise(reply: bytes):
    mapping.placed_ids(reply)
    mapping.refusal(400, reply)


@pytest.mark.parametrize(
    ("status", "kind", "proof"),
    [
        (400, "InputException", True),
        (400, "OrderException", True),
        (400, "MarginException", True),
        (400, "HoldingException", True),
        (403, "PermissionException", True),
        (403, "TokenException", True),
        (400, "UserException", True),
        (429, "NetworkException", False),
        (429, "InputException", False),
        (500, "GeneralException", False),
        (500, "OrderException", False),  # placed or not: a failure behind the API
        (502, "DataException", False),
        (503, "NetworkException", False),
        (504, "", False),
        (400, "SomethingNew", False),
        (404, "GeneralException", False),
    ],
)
def test_what_an_error_proves(status: int, kind: str, proof: bool):
    error = {"status": "error", "message": "Error message", "error_type": kind}
    found = mapping.refusal(status, body(error))
    assert (found.text, found.kind, found.proof) == ("Error message", kind, proof)
    assert mapping.session_over(status, body(error)) is (kind == "TokenException")


def test_an_error_that_is_not_kites_own_is_no_proof():
    assert not mapping.refusal(400, b"<html>bad request</html>").proof
    assert not mapping.refusal(403, b'{"error_type":"TokenException"}').proof
    assert mapping.refusal(502, b"").text == "HTTP 502"


# Rows


def test_the_documented_rows_to_the_last_field():
    cancelled, complete, late = mapping.rows(
        "A", exact({"status": "success", "data": [CANCELLED, COMPLETE, LATE_REJECTION]})
    )
    assert cancelled == mapping.Row(
        "100000000000000", (), "CANCELLED", "", "CDS:USDINR21JUNFUT", Side.BUY, OrderType.LIMIT,
        TimeInForce.DAY, Decimal(1), Decimal(0), Decimal(0), Decimal(72), Decimal(0), False,
        datetime(2021, 5, 31, 3, 48, 58, tzinfo=UTC),
    )  # fmt: skip
    assert (complete.status, complete.avg_px) == (OrderStatus.FILLED, Decimal("109.35"))
    assert late.status is OrderStatus.REJECTED
    assert late.said.startswith("Insufficient funds. Required margin is 95417.84")
    assert late.tags == ("icebergord",)
    assert late.at == datetime(2022, 5, 24, 6, 56, 52, tzinfo=UTC)


@pytest.mark.parametrize(
    ("word", "status", "settled"),
    [
        ("PUT ORDER REQ RECEIVED", OrderStatus.NEW, False),
        ("VALIDATION PENDING", OrderStatus.NEW, False),
        ("OPEN PENDING", OrderStatus.NEW, False),
        ("OPEN", OrderStatus.NEW, True),
        ("TRIGGER PENDING", OrderStatus.NEW, True),
        ("MODIFY VALIDATION PENDING", OrderStatus.NEW, False),
        ("MODIFY PENDING", OrderStatus.NEW, False),
        ("MODIFIED", OrderStatus.NEW, False),
        ("CANCEL PENDING", OrderStatus.NEW, False),
        ("AMO REQ RECEIVED", OrderStatus.NEW, False),
        ("UPDATE", OrderStatus.NEW, True),
        ("COMPLETE", OrderStatus.FILLED, True),
        ("CANCELLED", OrderStatus.CANCELED, True),
        ("REJECTED", OrderStatus.REJECTED, True),
        ("A WORD OF TOMORROW", OrderStatus.NEW, False),
    ],
)
def test_every_status(word: str, status: OrderStatus, settled: bool):
    found = row(status=word)
    assert (found.status, found.settled) == (status, settled)


def test_tags_are_read_from_both_places():
    assert row(tag="a", tags=["a", "mktp", "mktp:2.00"]).tags == ("a", "mktp", "mktp:2.00")
    assert row(tag=None, tags=["autoslice", "autoslice:7"]).tags == ("autoslice", "autoslice:7")
    assert row(tag=None, tags=None).tags == ()


@pytest.mark.parametrize(
    "changes",
    [
        {"order_id": None},
        {"quantity": None},
        {"quantity": -1},
        {"filled_quantity": 11},
        {"quantity": True},
        {"average_price": "NaN"},
        {"exchange": ""},
        {"status": None},
    ],
)
def test_a_row_that_cannot_be_read_is_no_news(changes: dict[str, object]):
    with pytest.raises(BrokerProtocolError):
        row(**changes)
    with pytest.raises(BrokerProtocolError):
        mapping.row("A", None)


def test_trades():
    sample = {
        "status": "success",
        "data": [
            {
                "trade_id": "40000000", "order_id": "500000000000000", "exchange": "CDS",
                "tradingsymbol": "USDINR21JUNFUT", "instrument_token": 412675, "product": "MIS",
                "average_price": 72.755, "quantity": 1, "exchange_order_id": "600000000000000",
                "transaction_type": "BUY", "fill_timestamp": "2021-05-31 11:18:27",
                "order_timestamp": "11:18:27", "exchange_timestamp": "2021-05-31 11:18:27",
            },
            {
                "trade_id": "10000000", "order_id": "200000000000000", "exchange": "NSE",
                "tradingsymbol": "SBIN", "instrument_token": 779521, "product": "CNC",
                "average_price": 420.65, "quantity": 1, "exchange_order_id": "300000000000000",
                "transaction_type": "BUY", "fill_timestamp": "2021-05-31 09:16:39",
                "order_timestamp": "09:16:39", "exchange_timestamp": "2021-05-31 09:16:39",
            },
        ],
    }  # fmt: skip
    assert mapping.trades("A", exact(sample)) == [
        mapping.Trade(
            "10000000", "200000000000000", Decimal(1), Decimal("420.65"),
            datetime(2021, 5, 31, 3, 46, 39, tzinfo=UTC),
        ),
        mapping.Trade(
            "40000000", "500000000000000", Decimal(1), Decimal("72.755"),
            datetime(2021, 5, 31, 5, 48, 27, tzinfo=UTC),
        ),
    ]  # fmt: skip


# The account

MARGINS = {
    "status": "success",
    "data": {
        "equity": {
            "enabled": True,
            "net": 99725.05000000002,
            "available": {
                "adhoc_margin": 0, "cash": 245431.6, "opening_balance": 245431.6,
                "live_balance": 99725.05000000002, "collateral": 0, "intraday_payin": 0,
            },
            "utilised": {"debits": 145706.55, "exposure": 38981.25, "span": 101989},
        },
        "commodity": {"enabled": True, "net": 100661.7, "available": {"cash": 100661.7}},
    },
}  # fmt: skip
POSITIONS = {
    "status": "success",
    "data": {
        "net": [
            {
                "tradingsymbol": "LEADMINI17DECFUT", "exchange": "MCX", "product": "NRML",
                "quantity": 1, "overnight_quantity": 0, "multiplier": 1000, "average_price": 161.05,
                "last_price": 161.05, "value": -161050, "pnl": 0, "m2m": 0,
                "day_buy_value": 161050, "day_sell_value": 0,
            },
            {
                "tradingsymbol": "GOLDGUINEA17DECFUT", "exchange": "MCX", "product": "NRML",
                "quantity": 0, "overnight_quantity": 3, "multiplier": 1, "average_price": 0,
                "last_price": 23355, "value": 801, "pnl": 801, "m2m": 276,
                "day_buy_value": 23388, "day_sell_value": 93360,
            },
            {
                "tradingsymbol": "SBIN", "exchange": "NSE", "product": "CO", "quantity": 0,
                "average_price": 0, "last_price": 308.4, "value": -2, "pnl": -2, "m2m": -2,
                "day_buy_value": 311, "day_sell_value": 309,
            },
        ],
        "day": [],
    },
}  # fmt: skip
HOLDINGS = {
    "status": "success",
    "data": [
        {
            "tradingsymbol": "AARON", "exchange": "NSE", "product": "CNC", "quantity": 1,
            "used_quantity": 0, "t1_quantity": 0, "opening_quantity": 1, "average_price": 161,
            "last_price": 352.95,
            "mtf": {"quantity": 1000, "used_quantity": 0, "average_price": 100, "value": 100000},
        },
        {
            "tradingsymbol": "SBIN", "exchange": "BSE", "product": "CNC", "quantity": 16,
            "used_quantity": 0, "t1_quantity": 0, "opening_quantity": 16,
            "average_price": 801.78125, "last_price": 762.45,
            "mtf": {"quantity": 0, "used_quantity": 0, "average_price": 0, "value": 0},
        },
    ],
}  # fmt: skip


def test_balances():
    found = portfolio.balances("A", exact(MARGINS), exact(POSITIONS), None)
    assert found.cash == Decimal("245429.6")  # less 2 lost on shares today
    assert found.equity == Decimal("245431.6") + 0 + 276 - 2
    assert found.buying_power == Decimal("99725.05000000002")
    assert (found.currency, found.blocked) == ("INR", False)
    held = portfolio.balances("A", exact(MARGINS), exact(POSITIONS), exact(HOLDINGS))
    assert held.equity - found.equity == Decimal("352.95") + 16 * Decimal("762.45")
    with pytest.raises(BrokerProtocolError):
        portfolio.balances("A", {"data": {}}, exact(POSITIONS), None)


def test_positions_are_those_of_the_accounts_product():
    found = portfolio.positions("A", "NRML", exact(POSITIONS))
    assert [(p.symbol, p.qty, p.avg_px) for p in found] == [
        ("MCX:LEADMINI17DECFUT", 1, Decimal("161.05"))
    ]
    assert portfolio.positions("A", "MIS", exact(POSITIONS)) == []
    held = portfolio.positions("A", "CNC", exact(POSITIONS), exact(HOLDINGS))
    assert [(p.symbol, p.qty, p.avg_px) for p in held] == [
        ("NSE:AARON", 1, 161),
        ("BSE:SBIN", 16, Decimal("801.78125")),
    ]
    funded = portfolio.positions("A", "MTF", exact(POSITIONS), exact(HOLDINGS))
    assert [(p.symbol, p.qty, p.avg_px) for p in funded] == [("NSE:AARON", 1000, 100)]


def test_shares_sold_today_come_off_what_was_held():
    sold = {"net": [{"tradingsymbol": "SBIN", "exchange": "BSE", "product": "CNC", "quantity": -6,
                     "average_price": 760}]}  # fmt: skip
    found = portfolio.positions("A", "CNC", {"data": sold}, exact(HOLDINGS))
    assert [(p.symbol, p.qty) for p in found] == [("BSE:SBIN", 10), ("NSE:AARON", 1)]


def test_last_prices():
    sample = {"status": "success", "data": {"NSE:INFY": {"last_price": 1074.35}, "NSE:X": {}}}
    assert portfolio.last_prices(exact(sample)) == {"NSE:INFY": Decimal("1074.35")}
    assert portfolio.last_prices(None) == {}


CSV = (
    b"instrument_token,exchange_token,tradingsymbol,name,last_price,expiry,strike,tick_size,"
    b"lot_size,instrument_type,segment,exchange\n"
    b"3813889,14898,CENTRALBK-BE,CENTRAL BANK OF INDIA,0.0,,0.0,0.05,1,EQ,NSE,NSE\n"
    b"13693186,53489,ADANIPORTS17DEC490PE,,80.65,2017-12-28,490.0,0.05,2500,PE,NFO-OPT,NFO\n"
    b'1,1,LT,"LARSEN, LT, TOUBRO",0.0,,0.0,0.05,1,EQ,NSE,NSE\n'
    b"2,2,LT-BE,LT,0.0,,0.0,0.05,1,EQ,NSE,NSE\n"
    b"3,3,GOLD26DECFUT,,0.0,2026-12-05,0.0,1.0,1,FUT,MCX-FUT,MCX\n"
    b"4,4,NIFTY 50,NIFTY 50,0.0,,0.0,0.0,0,EQ,INDICES,NSE\n"
    b"5,5,LAST,LAST,0.0,,0.0,0.01,1,EQ,NSE,NSE"
)


def test_instruments_are_found_in_the_list_as_it_came():
    found = portfolio.InstrumentList(CSV, "2026-11-23")
    option = found.find("NFO:ADANIPORTS17DEC490PE")
    assert option is not None
    assert (option.lot, option.min_qty, option.tick) == (2500, 2500, Decimal("0.05"))
    assert option.tradable
    larsen = found.find("NSE:LT")
    assert larsen is not None
    assert (larsen.symbol, larsen.lot) == ("NSE:LT", 1)
    assert found.find("LAST") is not None
    assert found.find("BSE:LT") is None
    assert found.find("NSE:LARSEN") is None
    gold = found.find("MCX:GOLD26DECFUT")
    assert gold is not None
    assert not gold.tradable  # its multiplier is not in the list
    with pytest.raises(ValueError, match="no lot"):
        found.find("NSE:NIFTY 50")
    with pytest.raises(ValueError, match="column"):
        portfolio.InstrumentList(b"<html>", "2026-11-23")


# The day's book


def test_one_order_is_told_as_it_stands():
    book = DayBook("A")
    book.sent(make(order_qty=Decimal(10)))
    family = book.take(row())
    assert family is not None
    told = family.report("A")
    assert (told.cl_ord_id, told.order_id, told.exec_type) == (CL, "1", ExecType.STATUS)
    assert (told.status, told.order_qty, told.cum_qty) == (OrderStatus.NEW, 10, 0)
    assert (told.limit_price, told.stop_price, told.symbol) == (1500, None, "NSE:INFY")
    assert book.take(row()) is None  # the same again
    assert book.take(row(status="OPEN", filled_quantity=4, average_price=1500)) is family
    assert book.take(row()) is None  # late
    assert family.report("A").status is OrderStatus.PARTIALLY_FILLED


def test_slices_are_one_order_and_their_sum_is_checked():
    book = DayBook("A")
    order = make(order_qty=Decimal(10))
    book.sent(order)
    book.placed(CL, ["1", "2"])
    family = book.take(row(order_id="1", tag=None, quantity=5, filled_quantity=5, status="COMPLETE",
                           average_price=100))  # fmt: skip
    assert family is not None
    assert family.cl_ord_id == CL
    assert family.report("A").status is OrderStatus.NEW  # the other is not heard of yet
    book.take(row(order_id="2", tag=None, quantity=5, filled_quantity=2, average_price=101.5))
    told = family.report("A")
    assert (told.status, told.order_qty, told.cum_qty) == (OrderStatus.PARTIALLY_FILLED, 10, 7)
    assert told.avg_px == (5 * Decimal(100) + 2 * Decimal("101.5")) / 7
    book.take(row(order_id="2", tag=None, quantity=5, filled_quantity=5, status="COMPLETE",
                  average_price=101.5))  # fmt: skip
    assert family.report("A").status is OrderStatus.FILLED
    assert family.warning() == ""


def test_a_slice_that_was_refused_ends_the_order_short():
    book = DayBook("A")
    book.sent(make(order_qty=Decimal(10)))
    family = book.placed(CL, ["1"], ["Insufficient funds."])
    book.take(row(quantity=5, filled_quantity=5, status="COMPLETE", average_price=100))
    told = family.report("A")
    assert (told.status, told.cum_qty) == (OrderStatus.CANCELED, 5)
    assert told.text == "only 5 of 10 was placed: Insufficient funds."


def test_two_orders_under_one_tag_are_seen():
    book = DayBook("A")
    book.sent(make(order_qty=Decimal(10)))
    book.take(row(order_id="1"))
    family = book.take(row(order_id="2"))
    assert family is not None
    assert family.warning() == "the broker has 20 where 10 was ordered"
    assert family.report("A").text == family.warning()


def test_executions_come_once_with_running_totals():
    book = DayBook("A")
    book.sent(make(order_qty=Decimal(10)))
    family = book.take(row(filled_quantity=10, status="COMPLETE", average_price=100))
    assert family is not None
    trades = [
        mapping.Trade("t1", "1", Decimal(4), Decimal(99), NOW),
        mapping.Trade("t0", "9", Decimal(4), Decimal(99), NOW),  # of another order
        mapping.Trade("t2", "1", Decimal(6), Decimal(101), NOW),
    ]
    first = family.executions("A", trades[:2])
    assert [(e.exec_id, e.last_qty, e.last_px, e.cum_qty) for e in first] == [("1:t1", 4, 99, 4)]
    assert family.counted < family.filled
    rest = family.executions("A", trades)
    assert [(e.exec_id, e.cum_qty) for e in rest] == [("1:t2", 10)]
    assert family.counted == family.filled == 10
    assert family.executions("A", trades) == []


def test_a_changed_order_goes_by_the_name_of_its_replacement():
    book = DayBook("A")
    first, second = make(order_qty=Decimal(10)), make(cl_ord_id=OTHER, order_qty=Decimal(12))
    first.order_id = "1"
    book.sent(first)
    book.take(row())
    book.succeed(first, second)
    family = book.take(row(modified=True, quantity=12, price=1501, filled_quantity=3,
                           average_price=1501))  # fmt: skip
    assert family is not None
    told = family.report("A")
    assert (told.cl_ord_id, told.order_qty, told.cum_qty) == (OTHER, 12, 3)
    assert book.named(CL) is None


def test_what_filled_before_a_change_stays_with_the_first_order():
    book = DayBook("A")
    first, second = make(order_qty=Decimal(10)), make(cl_ord_id=OTHER, order_qty=Decimal(12))
    first.order_id, first.cum_qty, first.cash = "1", Decimal(2), Decimal(2000)
    first.exec_ids.add("1:t1")
    book.sent(first)
    book.take(row(filled_quantity=2, average_price=1000))
    family = book.succeed(first, second)
    book.take(row(modified=True, quantity=12, status="COMPLETE", filled_quantity=12,
                  average_price=1500))  # fmt: skip
    told = family.report("A")
    assert (told.cl_ord_id, told.cum_qty, told.avg_px) == (OTHER, 10, 1600)
    assert told.status is OrderStatus.CANCELED  # 2 of the 12 asked for had filled before
    trades = [
        mapping.Trade("t1", "1", Decimal(2), Decimal(1000), NOW),
        mapping.Trade("t2", "1", Decimal(10), Decimal(1600), NOW),
    ]
    assert [(e.exec_id, e.cum_qty) for e in family.executions("A", trades)] == [("1:t2", 10)]


def test_an_order_changed_before_a_restart_has_no_name_until_it_is_asked_for():
    book = DayBook("A")
    family = book.take(row(modified=True))
    assert family is not None
    assert family.report("A").cl_ord_id == ""  # the engine goes by Kite's id
    assert book.named(CL) is None
    assert book.claim(OTHER, "1") is family
    assert family.report("A").cl_ord_id == OTHER
    assert book.named(OTHER) is family


def test_the_orders_of_others_have_no_name():
    family = DayBook("A").take(row(tag="connect test", tags=["connect test", "mktp"]))
    assert family is not None
    assert family.report("A").cl_ord_id == ""


def test_a_cancel_the_exchange_refused():
    book = DayBook("A")
    family = book.take(row())
    assert family is not None
    book.take(row(status="CANCEL PENDING"))
    book.take(row(status="OPEN", status_message="Too late"))
    told = family.state("A")
    assert (told.exec_type, told.text) == (ExecType.CANCEL_REJECTED, "Too late")


# Signatures and the login


def test_checksums():
    assert mapping.login_checksum("xxx", "yyy", "zzz") == (
        "cc6c955cadf2cc09442c0848ce8e165b8f9aa5974916de7186a9e1b6c4e7937e"
    )
    postback = {
        "order_id": "220303000308932",
        "order_timestamp": "2022-03-03 09:24:25",
        "status": "COMPLETE",
        "checksum": "b3afa438f9e3208086b7658b3c0717da4c6541a0034906e9e62529eca8e6cb71",
    }
    assert mapping.postback_is_genuine(postback, "app-secret")
    assert not mapping.postback_is_genuine(postback, "another")
    assert not mapping.postback_is_genuine(postback | {"order_id": "1"}, "app-secret")
    assert not mapping.postback_is_genuine(postback | {"checksum": "é"}, "app-secret")
    assert not mapping.postback_is_genuine({}, "app-secret")
    assert not mapping.postback_is_genuine(None, "app-secret")


@pytest.mark.parametrize(
    ("login", "end"),
    [
        (datetime(2026, 11, 23, 3, 0, tzinfo=UTC), datetime(2026, 11, 24, 0, 30, tzinfo=UTC)),
        (datetime(2026, 11, 23, 18, 0, tzinfo=UTC), datetime(2026, 11, 24, 0, 30, tzinfo=UTC)),
        (datetime(2026, 11, 23, 0, 0, tzinfo=UTC), datetime(2026, 11, 23, 0, 30, tzinfo=UTC)),
        (datetime(2026, 11, 23, 0, 30, tzinfo=UTC), datetime(2026, 11, 24, 0, 30, tzinfo=UTC)),
    ],
)
def test_a_session_ends_at_six_in_india(login: datetime, end: datetime):
    assert ends_at(login) == end


def test_where_to_log_in():
    live = check_base_url("A", "https://api.kite.trade", {mapping.LIVE_HOST}, allow_simulated=False)
    assert login_url(live, "key", "s1") == (
        "https://kite.zerodha.com/connect/login?v=3&api_key=key&redirect_params=state%3Ds1"
    )
    here = check_base_url("A", "http://127.0.0.1:9101", (), allow_simulated=True)
    assert login_url(here, "key", "s1", 8790) == (
        "http://127.0.0.1:9101/connect/login?v=3&api_key=key&redirect_params=state%3Ds1"
        "&redirect_url=http%3A%2F%2F127.0.0.1%3A8790%2F"
    )


def test_what_a_person_pastes():
    assert read_request_token(" abc123\n") == "abc123"
    pasted = "http://127.0.0.1:8790/?action=login&status=success&request_token=abc123&type=login"
    assert read_request_token(pasted) == "abc123"
    for wrong in ("", "a b", "http://127.0.0.1/?request_token=", "a" * 129, "a/b"):
        with pytest.raises(ConfigError):
            read_request_token(wrong)


# Accounts


class Nobody:
    def on_report(self, report: object) -> None: ...
    def on_connection(self, *told: object) -> None: ...
    def on_limits(self, account: str, **told: object) -> None: ...


def account(**changes: object) -> Account:
    facts = {"id": "A", "broker": "kite", "sizing": {"method": "signal"}} | changes
    return Account.model_validate(facts)


GOOD = {"key_id": "key", "secret": "app-secret", "access_token": "token-of-the-day"}


@pytest.mark.parametrize(
    ("changes", "credentials", "names"),
    [
        ({}, {"key_id": "key"}, "secret"),
        ({}, {"secret": "app-secret"}, "key_id"),
        ({}, GOOD | {"access_token": "with blank"}, "access_token"),
        ({"options": {"produkt": "MIS"}}, GOOD, "produkt"),
        ({"options": {"product": "BO"}}, GOOD, "product"),
        ({"options": {"confirmed": "yes"}}, GOOD, "confirmed"),
        ({"base_url": "https://api.kite.trade"}, GOOD, "environment"),
        ({"base_url": "https://example.com"}, GOOD, "base_url"),
        ({"base_url": "http://127.0.0.1:9101"}, GOOD, "base_url"),
    ],
)
async def test_accounts_that_cannot_be(changes: dict, credentials: dict, names: str):
    adapter = KiteAdapter()
    with pytest.raises(ConfigError, match=names) as caught:
        adapter.session(account(**changes), credentials, Nobody())
    assert "app-secret" not in str(caught.value)
    await adapter.close()


async def test_requests_byte_for_byte():
    adapter = KiteAdapter()
    live = account(environment="live", options={"confirmed": "static-ip", "product": "CNC"})
    session = adapter.session(live, GOOD, Nobody())
    order = make()
    form = (
        b"exchange=NSE&tradingsymbol=INFY&transaction_type=BUY&quantity=1&product=CNC"
        b"&order_type=MARKET&market_protection=-1&validity=DAY&tag=ABCDEFGHIJKLMNOPQRST"
    )
    head = (
        b" HTTP/1.1\r\nHost: api.kite.trade\r\nUser-Agent: volley\r\nX-Kite-Version: 3\r\n"
        b"Authorization: token key:token-of-the-day\r\n"
    )
    kind = b"Content-Type: application/x-www-form-urlencoded\r\nContent-Length: "
    assert session.new_order_request(order) == (
        b"POST /orders/regular" + head + kind + b"%d\r\n\r\n" % len(form) + form
    )
    assert session.cancel_request(order) is None
    order.order_id = "151220000000000"
    assert session.cancel_request(order) == (
        b"DELETE /orders/regular/151220000000000" + head + b"\r\n"
    )
    change = make(order_type=OrderType.LIMIT, limit_price=Decimal(1500), order_qty=Decimal(2))
    assert session.replace_request(order, change) == (
        b"PUT /orders/regular/151220000000000" + head + kind
        + b"51\r\n\r\nquantity=2&order_type=LIMIT&price=1500&validity=DAY"
    )  # fmt: skip
    assert session.works_exits(order) is False
    paper = adapter.session(account(), GOOD, Nobody())
    assert paper.new_order_request(make()).startswith(
        b"POST /oms/orders/regular HTTP/1.1\r\nHost: sandbox"
    )
    await adapter.close()


async def test_a_live_account_waits_for_the_confirmation():
    adapter = KiteAdapter()
    session = adapter.session(account(environment="live"), GOOD, Nobody())
    await session.start()
    assert session.state == "error"
    assert session.headroom().todo.startswith("account A: a live Kite account needs the option")
    assert "static IP" in CONFIRM
    await session.stop()
    await adapter.close()
