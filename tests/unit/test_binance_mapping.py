"""Binance's own documented samples, byte for byte; and what each documented error proves.

Samples: github.com/binance/binance-spot-api-docs at a5e0bc3, rest-api.md, web-socket-api.md, user-data-stream.md,
errors.md, filters.md.
"""

from __future__ import annotations

import json
from base64 import b64decode
from datetime import UTC, datetime
from decimal import Decimal
from urllib.parse import parse_qsl

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.asymmetric.rsa import generate_private_key
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

from engine.brokers.binance import mapping, requests, rules
from engine.brokers.binance.signing import (
    HmacSigner,
    make_signer,
    query_string,
    websocket_payload,
)
from engine.errors import BrokerProtocolError, ConfigError
from engine.model.enums import ExecType, OrderStatus, OrderType, Side, TimeInForce
from engine.model.identifiers import exit_leg_id
from engine.model.order import Order

KEY = "vmPUZE6mv9SD5VNHk4HlWFsOr6aKE2zvsw0MuIgwCIPy6utIco14y7Ju91duEh8A"
SECRET = "NhqPtmdSJYdKjVHjA7PZj4Mge3R5YNiP1e3UZjInClVN65XAbvqqM6A7H5fATj0j"
WIDE = "１２３４５６"
WIDE_ENCODED = "%EF%BC%91%EF%BC%92%EF%BC%93%EF%BC%94%EF%BC%95%EF%BC%96"
DAY, GTC, IOC, FOK = TimeInForce.DAY, TimeInForce.GTC, TimeInForce.IOC, TimeInForce.FOK
MARKET, LIMIT, STOP, STOP_LIMIT = OrderType


def an_order(**changes: object) -> Order:
    facts: dict = {
        "cl_ord_id": "ABCDEFGHIJKLMNOPQRST",
        "account": "A-1",
        "symbol": "BTCUSDT",
        "side": Side.BUY,
        "order_qty": Decimal("0.5"),
        "order_type": OrderType.MARKET,
        "time_in_force": DAY,
        "created_at": datetime.now(UTC),
    }
    return Order(**(facts | changes))


# Signatures


def order_params(symbol: str) -> dict[str, str]:
    return {
        "symbol": symbol,
        "side": "BUY",
        "type": "LIMIT",
        "timeInForce": "GTC",
        "quantity": "1",
        "price": "0.1",
        "recvWindow": "5000",
        "timestamp": "1499827319559",
    }


@pytest.mark.parametrize(
    ("symbol", "encoded", "signature"),
    [
        (
            "LTCBTC",
            "LTCBTC",
            "c8db56825ae71d6d79447849e617115f4a920fa2acdcab2b053c4b2838bd6b71",
        ),
        (
            WIDE,
            WIDE_ENCODED,
            "e1353ec6b14d888f1164ae9af8228a3dbd508bc82eb867db8ab6046442f33ef3",
        ),
    ],
)
def test_hmac_of_a_query_as_documented(symbol: str, encoded: str, signature: str):
    payload = query_string(order_params(symbol))
    assert payload == (
        f"symbol={encoded}&side=BUY&type=LIMIT&timeInForce=GTC&quantity=1&price=0.1"
        "&recvWindow=5000&timestamp=1499827319559"
    )
    signer = HmacSigner(SECRET)
    assert signer.sign_query(payload) == signature
    assert signer.sign_query(payload) == signature  # the prepared state is not used up


@pytest.mark.parametrize(
    ("changes", "signature"),
    [
        (
            {
                "symbol": "BTCUSDT",
                "side": "SELL",
                "quantity": "0.01000000",
                "price": "52000.00",
                "recvWindow": 100,
            },
            "aa1b5712c094bc4e57c05a1a5c1fd8d88dcd628338ea863fec7b88e59fe2db24",
        ),
        (
            {
                "symbol": WIDE,
                "side": "BUY",
                "quantity": "1.00000000",
                "price": "0.10000000",
                "recvWindow": 5000,
            },
            "b33892ae8e687c939f4468c6268ddd4c40ac1af18ad19a064864c47bae0752cd",
        ),
    ],
)
def test_hmac_of_a_websocket_request_as_documented(changes: dict, signature: str):
    params = {
        "type": "LIMIT",
        "timeInForce": "GTC",
        "timestamp": 1645423376532,
        "apiKey": KEY,
        **changes,
    }
    assert HmacSigner(SECRET).sign(websocket_payload(params)) == signature


@pytest.mark.parametrize("length", [1, 63, 64, 65, 200])
def test_hmac_of_secrets_of_any_length(length: int):
    import hmac

    secret = "s" * length
    assert HmacSigner(secret).sign("a=1") == hmac.new(secret.encode(), b"a=1", "sha256").hexdigest()


# RFC 8032, 7.1, TEST 2: an Ed25519 key and the signature of one byte, 0x72 ("r").
ED_SEED = bytes.fromhex("4ccd089b28ff96da9db6c346ec114e0f5b8a319f35aba624da8cf6ed4fb8a6fb")
ED_SIGNATURE = bytes.fromhex(
    "92a009a9f0d4cab8720e820b5f642540a2b27b5416503f8fb3762223ebdb69da"
    "085ac1e43e15996e458f3613d0f11d8c387b2eaeb4302aeeb00d291612bb0c00"
)


def ed_pem() -> str:
    key = Ed25519PrivateKey.from_private_bytes(ED_SEED)
    return key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()).decode()


@pytest.mark.parametrize("escaped", [False, True])
def test_ed25519_signs_in_base64_percent_encoded_in_a_query(escaped: bool):
    pem = ed_pem().replace("\n", "\\n") if escaped else ed_pem()
    key_id, signer, _ = make_signer("A-1", {"key_id": "k", "private_key": pem})
    assert key_id == "k"
    assert b64decode(signer.sign("r")) == ED_SIGNATURE
    in_query = signer.sign_query("r")
    assert not set("+/=") & set(in_query)
    assert dict(parse_qsl(f"signature={in_query}"))["signature"] == signer.sign("r")


def test_credentials_that_do_not_fit():
    rsa = generate_private_key(65537, 2048).private_bytes(
        Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()
    )
    for given, words in [
        ({"key_id": KEY}, "credential secret is missing"),
        ({"secret": SECRET}, "credential key_id is missing"),
        ({"key_id": KEY, "private_key": "rubbish"}, "private_key must be an unencrypted Ed25519"),
        (
            {"key_id": KEY, "private_key": rsa.decode()},
            "private_key must be an unencrypted Ed25519",
        ),
        ({"key_id": KEY, "secret": SECRET, "private_key": ed_pem()}, "exclude each other"),
        ({"key_id": KEY, "secret": "with blank"}, "printable ASCII"),
    ]:
        with pytest.raises(ConfigError, match=words) as caught:
            make_signer("A-1", given)
        assert "A-1" in str(caught.value)
        for value in given.values():
            assert value not in str(caught.value)


def test_nothing_secret_is_shown():
    _, hmac_signer, secrets = make_signer("A-1", {"api_key": KEY, "api_secret": SECRET})
    assert set(secrets) == {KEY, SECRET}
    _, ed_signer, ed_secrets = make_signer("A-1", {"key_id": KEY, "private_key": ed_pem()})
    body = ed_pem().splitlines()[1]
    assert body in ed_secrets
    assert SECRET not in repr(hmac_signer)
    assert body not in repr(ed_signer)


# Requests


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({}, "symbol=BTCUSDT&side=BUY&type=MARKET&newOrderRespType=FULL&quantity=0.5"),
        (
            {"order_type": LIMIT, "limit_price": Decimal("0.10"), "time_in_force": IOC},
            "symbol=BTCUSDT&side=BUY&type=LIMIT&timeInForce=IOC&price=0.1&newOrderRespType=FULL&quantity=0.5",
        ),
        (
            {"order_type": STOP, "stop_price": Decimal(61000), "time_in_force": GTC},
            "symbol=BTCUSDT&side=BUY&type=STOP_LOSS&stopPrice=61000&newOrderRespType=FULL&quantity=0.5",
        ),
        (
            {
                "order_type": STOP_LIMIT,
                "stop_price": Decimal(59000),
                "limit_price": Decimal("58990.5"),
                "time_in_force": DAY,
                "side": Side.SELL,
            },
            (
                "symbol=BTCUSDT&side=SELL&type=STOP_LOSS_LIMIT&timeInForce=GTC&price=58990.5&stopPrice=59000"
                "&newOrderRespType=FULL&quantity=0.5"
            ),
        ),
        (
            {"symbol": "A/B:C"},
            "symbol=A%2FB%3AC&side=BUY&type=MARKET&newOrderRespType=FULL&quantity=0.5",
        ),
    ],
)
def test_a_new_order_byte_for_byte(changes: dict, expected: str):
    order = an_order(**changes)
    expected += "&newClientOrderId=ABCDEFGHIJKLMNOPQRST"
    queries = requests.OrderQueries()
    assert queries.write(order) == expected
    assert queries.write(order) == expected


def test_orders_of_another_signal_are_written_anew():
    queries = requests.OrderQueries()
    queries.write(an_order())
    other = an_order(symbol="ETHUSDT", side=Side.SELL)
    assert queries.write(other).startswith("symbol=ETHUSDT&side=SELL&type=MARKET")


@pytest.mark.parametrize(
    ("order_type", "tif", "day_as_gtc", "word"),
    [
        (MARKET, DAY, False, ""),
        (MARKET, IOC, False, ""),
        (MARKET, FOK, False, "fok"),
        (STOP, FOK, True, "fok"),
        (LIMIT, DAY, False, "day_as_gtc"),
        (STOP, DAY, False, "day_as_gtc"),
        (STOP_LIMIT, DAY, False, "day_as_gtc"),
        (LIMIT, DAY, True, ""),
        (LIMIT, GTC, False, ""),
        (LIMIT, FOK, False, ""),
    ],
)
def test_which_orders_there_are(order_type, tif, day_as_gtc: bool, word: str):
    said = requests.refusal(order_type, tif, day_as_gtc=day_as_gtc)
    assert word in said
    assert bool(said) is bool(word)


def bracket(side: Side = Side.BUY, **changes: object) -> Order:
    low, high = Decimal(90), Decimal(120)
    stop, target = (low, high) if side is Side.BUY else (high, low)
    facts = {
        "side": side,
        "order_type": LIMIT,
        "limit_price": Decimal(100),
        "time_in_force": GTC,
        "stop_loss": stop,
        "take_profit": target,
    }
    return an_order(**(facts | changes))


def test_an_entry_with_both_exits_is_an_otoco():
    stop_id = exit_leg_id("ABCDEFGHIJKLMNOPQRST", "stop")
    target_id = exit_leg_id("ABCDEFGHIJKLMNOPQRST", "target")
    assert requests.list_request(bracket()) == (
        "/api/v3/orderList/otoco",
        (
            "symbol=BTCUSDT&listClientOrderId=L-ABCDEFGHIJKLMNOPQRST&newOrderRespType=FULL"
            "&workingType=LIMIT&workingSide=BUY&workingClientOrderId=ABCDEFGHIJKLMNOPQRST"
            "&workingPrice=100&workingQuantity=0.5&workingTimeInForce=GTC"
            "&pendingSide=SELL&pendingQuantity=0.5"
            f"&pendingAboveType=LIMIT_MAKER&pendingAbovePrice=120&pendingAboveClientOrderId={target_id}"
            f"&pendingBelowType=STOP_LOSS&pendingBelowStopPrice=90&pendingBelowClientOrderId={stop_id}"
        ),
    )
    _, short = requests.list_request(bracket(Side.SELL))
    assert "&pendingAboveType=STOP_LOSS&pendingAboveStopPrice=120&" in short
    assert "&pendingBelowType=LIMIT_MAKER&pendingBelowPrice=90&" in short


def test_an_entry_with_one_exit_is_an_oto():
    path, query = requests.list_request(bracket(take_profit=None))
    assert path == "/api/v3/orderList/oto"
    assert query.endswith(
        "&pendingSide=SELL&pendingQuantity=0.5&pendingType=STOP_LOSS&pendingStopPrice=90"
        f"&pendingClientOrderId={exit_leg_id('ABCDEFGHIJKLMNOPQRST', 'stop')}"
    )
    _, query = requests.list_request(bracket(stop_loss=None))
    assert "&pendingType=LIMIT_MAKER&pendingPrice=120&" in query


@pytest.mark.parametrize(
    ("changes", "works"),
    [
        ({}, True),
        ({"take_profit": None}, True),
        ({"time_in_force": DAY}, True),  # if the account lets day orders rest; the session asks
        ({"stop_loss": None, "take_profit": None}, False),
        ({"order_type": MARKET, "limit_price": None}, False),
        ({"time_in_force": IOC}, False),
        ({"trail_percent": Decimal(1)}, False),
        ({"reducing": True}, False),
        ({"parent": "X"}, False),
    ],
)
def test_whose_exits_go_along(changes: dict, works: bool):
    assert requests.works_exits(bracket(**changes)) is works


def test_a_replacement_names_the_order_by_the_broker_s_id_if_known():
    order = an_order(order_type=LIMIT, limit_price=Decimal(99), time_in_force=GTC)
    new = an_order(cl_ord_id="N" * 20, order_type=LIMIT, limit_price=Decimal(98), time_in_force=GTC)
    query = requests.replace_query(order, new)
    assert query == (
        "symbol=BTCUSDT&side=BUY&type=LIMIT&timeInForce=GTC&price=98&newOrderRespType=FULL&quantity=0.5"
        f"&newClientOrderId={'N' * 20}&cancelReplaceMode=STOP_ON_FAILURE"
        "&cancelOrigClientOrderId=ABCDEFGHIJKLMNOPQRST"
    )
    order.order_id = "28"
    assert requests.replace_query(order, new).endswith("&cancelOrderId=28")


# Replies to orders

FULL = json.loads("""{
    "symbol": "BTCUSDT", "orderId": 28, "orderListId": -1, "clientOrderId": "6gCrw2kRUAF9CvJDGP16IP",
    "transactTime": 1507725176595, "price": "0.00000000", "origQty": "10.00000000",
    "executedQty": "10.00000000", "origQuoteOrderQty": "0.000000", "cummulativeQuoteQty": "10.00000000",
    "status": "FILLED", "timeInForce": "GTC", "type": "MARKET", "side": "SELL",
    "workingTime": 1507725176595, "selfTradePreventionMode": "NONE",
    "fills": [
        {"price": "4000.00000000", "qty": "1.00000000", "commission": "4.00000000",
         "commissionAsset": "USDT", "tradeId": 56},
        {"price": "3999.00000000", "qty": "5.00000000", "commission": "19.99500000",
         "commissionAsset": "USDT", "tradeId": 57},
        {"price": "3998.00000000", "qty": "2.00000000", "commission": "7.99600000",
         "commissionAsset": "USDT", "tradeId": 58},
        {"price": "3997.00000000", "qty": "1.00000000", "commission": "3.99700000",
         "commissionAsset": "USDT", "tradeId": 59},
        {"price": "3995.00000000", "qty": "1.00000000", "commission": "3.99500000",
         "commissionAsset": "USDT", "tradeId": 60}]}""")
THEIRS = "6gCrw2kRUAF9CvJDGP16IP"
AT = datetime(2017, 10, 11, 12, 32, 56, 595000, UTC)


def test_the_documented_full_reply_to_the_last_field():
    reports = mapping.placed("A-1", THEIRS, FULL)
    assert [(r.exec_type, r.exec_id, r.last_qty, r.last_px, r.cum_qty) for r in reports] == [
        (ExecType.TRADE, "BTCUSDT:28:56", 1, 4000, 1),
        (ExecType.TRADE, "BTCUSDT:28:57", 5, 3999, 6),
        (ExecType.TRADE, "BTCUSDT:28:58", 2, 3998, 8),
        (ExecType.TRADE, "BTCUSDT:28:59", 1, 3997, 9),
        (ExecType.TRADE, "BTCUSDT:28:60", 1, 3995, 10),
    ]
    assert {(r.account, r.cl_ord_id, r.order_id, r.transact_time) for r in reports} == {
        ("A-1", THEIRS, "28", AT)
    }
    order = an_order(cl_ord_id=THEIRS, order_qty=Decimal(10), side=Side.SELL)
    for report in reports:
        order.apply(report, AT)
    assert order.status is OrderStatus.FILLED
    assert order.cash == 4000 + 5 * 3999 + 2 * 3998 + 3997 + 3995


def test_the_documented_result_and_ack_replies():
    result = {name: value for name, value in FULL.items() if name != "fills"}
    [report] = mapping.placed("A-1", THEIRS, result)
    assert (report.status, report.cum_qty, report.avg_px) == (OrderStatus.FILLED, 10, 1)
    ack = {
        name: FULL[name]
        for name in ("symbol", "orderId", "orderListId", "clientOrderId", "transactTime")
    }
    [report] = mapping.placed("A-1", THEIRS, ack)
    assert (report.exec_type, report.status, report.order_id) == (
        ExecType.NEW,
        OrderStatus.NEW,
        "28",
    )


def test_what_expires_after_a_part_filled():
    told = FULL | {"status": "EXPIRED", "executedQty": "6.00000000", "fills": FULL["fills"][:2]}
    told["cummulativeQuoteQty"] = "23995.00000000"
    reports = mapping.placed("A-1", THEIRS, told)
    assert [r.exec_type for r in reports] == [ExecType.TRADE, ExecType.TRADE, ExecType.EXPIRED]
    order = an_order(cl_ord_id=THEIRS, order_qty=Decimal(10))
    for report in reports:
        order.apply(report, AT)
    assert (order.status, order.cum_qty, order.cash) == (OrderStatus.EXPIRED, 6, 23995)


def test_executions_a_reply_does_not_tell_are_taken_from_its_totals():
    told = FULL | {"fills": FULL["fills"][:1], "cummulativeQuoteQty": "39981.00000000"}
    order = an_order(cl_ord_id=THEIRS, order_qty=Decimal(10))
    for report in mapping.placed("A-1", THEIRS, told):
        order.apply(report, AT)
    assert (order.status, order.cum_qty, order.cash) == (OrderStatus.FILLED, 10, 39981)


@pytest.mark.parametrize(
    "changes",
    [
        {"clientOrderId": "another"},
        {"orderId": "28"},
        {"orderId": -1},
        {"executedQty": "x"},
        {"executedQty": "-1"},
        {"fills": [{"price": "0", "qty": "1", "tradeId": 1}]},
        {"fills": [{"price": "1"}]},
    ],
)
def test_a_reply_that_cannot_be_read_is_no_proof(changes: dict):
    with pytest.raises((ValueError, KeyError, TypeError)):
        mapping.placed("A-1", THEIRS, FULL | changes)


OTOCO = json.loads("""{
    "orderListId": 1, "contingencyType": "OTO", "listStatusType": "EXEC_STARTED",
    "listOrderStatus": "EXECUTING", "listClientOrderId": "RumwQpBaDctlUu5jyG5rs0",
    "transactionTime": 1712291372842, "symbol": "LTCBTC",
    "orders": [
        {"symbol": "LTCBTC", "orderId": 6, "clientOrderId": "fM9Y4m23IFJVCQmIrlUmMK"},
        {"symbol": "LTCBTC", "orderId": 7, "clientOrderId": "6pcQbFIzTXGZQ1e2MkGDq4"},
        {"symbol": "LTCBTC", "orderId": 8, "clientOrderId": "r4JMv9cwAYYUwwBZfbussx"}],
    "orderReports": [
        {"symbol": "LTCBTC", "orderId": 6, "orderListId": 1, "clientOrderId": "fM9Y4m23IFJVCQmIrlUmMK",
         "transactTime": 1712291372842, "price": "1.00000000", "origQty": "1.00000000",
         "executedQty": "0.00000000", "origQuoteOrderQty": "0.000000",
         "cummulativeQuoteQty": "0.00000000", "status": "NEW", "timeInForce": "GTC", "type": "LIMIT",
         "side": "SELL", "workingTime": 1712291372842, "selfTradePreventionMode": "NONE"},
        {"symbol": "LTCBTC", "orderId": 7, "orderListId": 1, "clientOrderId": "6pcQbFIzTXGZQ1e2MkGDq4",
         "transactTime": 1712291372842, "price": "1.00000000", "origQty": "5.00000000",
         "executedQty": "0.00000000", "origQuoteOrderQty": "0.000000",
         "cummulativeQuoteQty": "0.00000000", "status": "PENDING_NEW", "timeInForce": "IOC",
         "type": "STOP_LOSS_LIMIT", "side": "BUY", "stopPrice": "6.00000000", "workingTime": -1,
         "selfTradePreventionMode": "NONE"},
        {"symbol": "LTCBTC", "orderId": 8, "orderListId": 1, "clientOrderId": "r4JMv9cwAYYUwwBZfbussx",
         "transactTime": 1712291372842, "price": "3.00000000", "origQty": "5.00000000",
         "executedQty": "0.00000000", "origQuoteOrderQty": "0.000000",
         "cummulativeQuoteQty": "0.00000000", "status": "PENDING_NEW", "timeInForce": "GTC",
         "type": "LIMIT_MAKER", "side": "BUY", "workingTime": -1, "selfTradePreventionMode": "NONE"}]}""")


def test_the_documented_otoco_reply_yields_the_entry_and_its_exits():
    order = bracket(cl_ord_id="fM9Y4m23IFJVCQmIrlUmMK", side=Side.SELL)
    told = json.loads(json.dumps(OTOCO))
    for one, leg in ((told["orderReports"][1], "stop"), (told["orderReports"][2], "target")):
        one["clientOrderId"] = exit_leg_id(order.cl_ord_id, leg)
    entry, stop, target = mapping.list_reports("A-1", order, told)
    assert (entry.cl_ord_id, entry.order_id, entry.status) == (
        order.cl_ord_id,
        "6",
        OrderStatus.NEW,
    )
    assert (stop.parent, stop.leg, stop.order_id, stop.status) == (
        order.cl_ord_id, "stop", "7", OrderStatus.NEW,
    )  # fmt: skip
    assert (stop.order_type, stop.stop_price, stop.limit_price) == (STOP_LIMIT, 6, 1)
    assert (target.leg, target.order_type, target.limit_price, target.stop_price) == (
        "target", LIMIT, 3, None,
    )  # fmt: skip
    assert (target.side, target.order_qty, target.symbol) == (Side.BUY, 5, "LTCBTC")
    assert target.cl_ord_id == exit_leg_id(order.cl_ord_id, "target")


@pytest.mark.parametrize(
    ("status", "code", "proof"),
    [
        (400, -1013, ExecType.REJECTED),  # "didn't reach the Matching Engine"
        (400, -1111, ExecType.REJECTED),
        (400, -1121, ExecType.REJECTED),
        (400, -1100, ExecType.REJECTED),
        (400, -1106, ExecType.REJECTED),
        (400, -1022, ExecType.REJECTED),
        (400, -1165, ExecType.REJECTED),
        (400, -2010, ExecType.REJECTED),
        (401, -2015, ExecType.REJECTED),
        (401, -2014, ExecType.REJECTED),
        (400, -1021, ExecType.UNSENT),
        (429, -1003, ExecType.UNSENT),
        (429, -1015, ExecType.UNSENT),
        (418, -1003, ExecType.UNSENT),
        (429, 0, ExecType.UNKNOWN),  # not Binance's words: something on the way
        (400, -1000, ExecType.UNKNOWN),
        (400, -1001, ExecType.UNKNOWN),
        (400, -1006, ExecType.UNKNOWN),
        (400, -1007, ExecType.UNKNOWN),
        (400, -1008, ExecType.UNKNOWN),
        (400, -9999, ExecType.UNKNOWN),
        (400, 0, ExecType.UNKNOWN),
        (403, 0, ExecType.UNKNOWN),  # a web application firewall's page
        (409, -2010, ExecType.UNKNOWN),
        (500, -1013, ExecType.UNKNOWN),
        (503, -1021, ExecType.UNKNOWN),
        (504, -1007, ExecType.UNKNOWN),
    ],
)
def test_what_each_error_proves(status: int, code: int, proof: ExecType):
    report = mapping.refused_or_unknown("A-1", "X", status, code, "said so" if code else "")
    assert report.exec_type is proof
    assert report.text


def test_errors_are_read_as_documented():
    assert mapping.error_of(b'{"code": -1121, "msg": "Invalid symbol."}') == (
        -1121,
        "Invalid symbol.",
    )
    for body in (b"", b"<html>", b"[]", b'{"code": "-1121"}', b'{"code": true}'):
        assert mapping.error_of(body) == (0, "")


# The stream

EVENT = json.loads("""{
    "e": "executionReport", "E": 1499405658658, "s": "ETHBTC", "c": "mUvoqJxFIILMdfAW5iGSOW", "S": "BUY",
    "o": "LIMIT", "f": "GTC", "q": "1.00000000", "p": "0.10264410", "P": "0.00000000",
    "F": "0.00000000", "g": -1, "C": "", "x": "NEW", "X": "NEW", "r": "NONE", "i": 4293153,
    "l": "0.00000000", "z": "0.00000000", "L": "0.00000000", "n": "0", "N": null, "T": 1499405658657,
    "t": -1, "v": 3, "I": 8641984, "w": true, "m": false, "M": false, "O": 1499405658657,
    "Z": "0.00000000", "Y": "0.00000000", "Q": "0.00000000", "W": 1499405658657, "V": "NONE"}""")


def test_the_documented_execution_report_to_the_last_field():
    report = mapping.event_report("A-1", EVENT)
    assert (report.account, report.cl_ord_id, report.order_id) == (
        "A-1", "mUvoqJxFIILMdfAW5iGSOW", "4293153",
    )  # fmt: skip
    assert (report.exec_type, report.status) == (ExecType.NEW, OrderStatus.NEW)
    assert (report.symbol, report.side, report.order_type) == ("ETHBTC", Side.BUY, LIMIT)
    assert (report.time_in_force, report.order_qty) == (GTC, 1)
    assert (report.limit_price, report.stop_price) == (Decimal("0.10264410"), None)
    assert (report.cum_qty, report.avg_px, report.exec_id, report.text) == (0, None, "", "")
    assert report.transact_time == datetime(2017, 7, 7, 5, 34, 18, 657000, UTC)


def test_an_execution_on_the_stream_has_the_id_the_reply_gives_it():
    event = EVENT | {
        "x": "TRADE", "X": "FILLED", "l": "1.00000000", "L": "0.10000000", "t": 56,
        "z": "1.00000000", "Z": "0.10000000", "s": "BTCUSDT", "i": 28,
    }  # fmt: skip
    report = mapping.event_report("A-1", event)
    assert (report.exec_type, report.status) == (ExecType.TRADE, OrderStatus.FILLED)
    assert report.exec_id == mapping.placed("A-1", THEIRS, FULL)[0].exec_id
    assert (report.last_qty, report.last_px, report.cum_qty) == (1, Decimal("0.1"), 1)
    ended = mapping.event_report("A-1", event | {"x": "CANCELED", "X": "CANCELED"})
    assert (ended.exec_id, ended.cum_qty, ended.avg_px) == ("", 1, Decimal("0.1"))


@pytest.mark.parametrize(
    ("changes", "exec_type", "status", "text"),
    [
        ({"x": "CANCELED", "X": "CANCELED"}, ExecType.CANCELED, OrderStatus.CANCELED, ""),
        (
            {"x": "EXPIRED", "X": "EXPIRED", "eR": "OCO_TRIGGER"},
            ExecType.EXPIRED, OrderStatus.EXPIRED, "expired: OCO_TRIGGER",
        ),
        (
            {"x": "REJECTED", "X": "REJECTED", "r": "INSUFFICIENT_BALANCES"},
            ExecType.REJECTED, OrderStatus.REJECTED, "rejected: INSUFFICIENT_BALANCES",
        ),
        (
            {"x": "TRADE_PREVENTION", "X": "EXPIRED_IN_MATCH"},
            ExecType.STATUS, OrderStatus.EXPIRED, "expired by self-trade prevention",
        ),
        ({"x": "NEW", "X": "PENDING_NEW"}, ExecType.NEW, OrderStatus.NEW, ""),
        ({"x": "SOMETHING", "X": "ELSE"}, ExecType.STATUS, None, ""),
    ],
)  # fmt: skip
def test_the_ends_an_order_can_come_to(changes: dict, exec_type, status, text: str):
    report = mapping.event_report("A-1", EVENT | changes)
    assert (report.exec_type, report.status, report.text) == (exec_type, status, text)


def test_a_cancel_is_told_of_the_order_it_cancels():
    event = EVENT | {"x": "CANCELED", "X": "CANCELED", "c": "cancel-1", "C": "mine"}
    assert mapping.event_report("A-1", event).cl_ord_id == "mine"


@pytest.mark.parametrize("changes", [{"i": None}, {"z": "x"}, {"x": "TRADE"}, {"c": ""}, {"s": 1}])
def test_an_event_that_cannot_be_read_is_an_error(changes: dict):
    with pytest.raises(BrokerProtocolError, match="A-1"):
        mapping.event_report("A-1", EVENT | changes)


# Look-ups

QUERIED = json.loads("""{
    "symbol": "LTCBTC", "orderId": 1, "orderListId": -1, "clientOrderId": "myOrder1", "price": "0.1",
    "origQty": "1.0", "executedQty": "0.0", "cummulativeQuoteQty": "0.0", "status": "NEW",
    "timeInForce": "GTC", "type": "LIMIT", "side": "BUY", "stopPrice": "0.0", "icebergQty": "0.0",
    "time": 1499827319559, "updateTime": 1499827319559, "isWorking": true,
    "workingTime": 1499827319559, "origQuoteOrderQty": "0.000000", "selfTradePreventionMode": "NONE"}""")
CANCELED = json.loads("""{
    "symbol": "LTCBTC", "origClientOrderId": "myOrder1", "orderId": 4, "orderListId": -1,
    "clientOrderId": "cancelMyOrder1", "transactTime": 1684804350068, "price": "2.00000000",
    "origQty": "1.00000000", "executedQty": "0.00000000", "origQuoteOrderQty": "0.000000",
    "cummulativeQuoteQty": "0.00000000", "status": "CANCELED", "timeInForce": "GTC", "type": "LIMIT",
    "side": "BUY", "selfTradePreventionMode": "NONE"}""")
TRADE = json.loads("""{
    "symbol": "BNBBTC", "id": 28457, "orderId": 100234, "orderListId": -1, "price": "4.00000100",
    "qty": "12.00000000", "quoteQty": "48.000012", "commission": "10.10000000",
    "commissionAsset": "BNB", "time": 1499865549590, "isBuyer": true, "isMaker": false,
    "isBestMatch": true}""")


def test_the_documented_order_query():
    report = mapping.status_report("A-1", QUERIED)
    assert (report.exec_type, report.status, report.cl_ord_id) == (
        ExecType.STATUS, OrderStatus.NEW, "myOrder1",
    )  # fmt: skip
    assert (report.limit_price, report.stop_price, report.cum_qty) == (Decimal("0.1"), None, 0)
    assert report.transact_time == datetime(2017, 7, 12, 2, 41, 59, 559000, UTC)
    partly = mapping.status_report(
        "A-1",
        QUERIED
        | {"status": "PARTIALLY_FILLED", "executedQty": "0.3", "cummulativeQuoteQty": "0.1"},
    )
    assert (partly.status, partly.cum_qty) == (OrderStatus.PARTIALLY_FILLED, Decimal("0.3"))
    assert partly.avg_px == Decimal("0.333333333333")
    old = mapping.status_report(
        "A-1", QUERIED | {"executedQty": "1.0", "cummulativeQuoteQty": "-1"}
    )
    assert (old.cum_qty, old.avg_px) == (1, None)  # "data is not available at this time"


def test_the_documented_cancel_is_told_of_its_order():
    report = mapping.told_order("A-1", CANCELED, ExecType.CANCELED)
    assert (report.cl_ord_id, report.order_id, report.status) == (
        "myOrder1",
        "4",
        OrderStatus.CANCELED,
    )


def test_the_documented_trade():
    [report] = mapping.trade_reports("A-1", "X", "100234", [TRADE, TRADE | {"orderId": 9}])
    assert report.exec_id == "BNBBTC:100234:28457"
    assert (report.last_qty, report.last_px, report.cum_qty) == (12, Decimal("4.000001"), 12)
    assert (report.side, report.transact_time) == (
        Side.BUY, datetime(2017, 7, 12, 13, 19, 9, 590000, UTC),
    )  # fmt: skip
    with pytest.raises(BrokerProtocolError):
        mapping.trade_reports("A-1", "X", "1", {"code": -1})


def test_an_order_and_its_own_opposite_may_meet():
    # An account that trades with itself has two orders with one trade id; each execution counts.
    assert mapping.exec_id("BTCUSDT", "1", 7) != mapping.exec_id("BTCUSDT", "2", 7)
    assert mapping.exec_id("BTCUSDT", "1", 7) != mapping.exec_id("ETHUSDT", "1", 7)


# Rules, prices, balances

SYMBOL = json.loads("""{
    "symbol": "ETHBTC", "status": "TRADING", "baseAsset": "ETH", "baseAssetPrecision": 8,
    "quoteAsset": "BTC", "quotePrecision": 8, "quoteAssetPrecision": 8, "isSpotTradingAllowed": true,
    "filters": [
        {"filterType": "PRICE_FILTER", "minPrice": "0.00000100", "maxPrice": "100000.00000000",
         "tickSize": "0.00000100"},
        {"filterType": "LOT_SIZE", "minQty": "0.00100000", "maxQty": "100000.00000000",
         "stepSize": "0.00100000"},
        {"filterType": "MARKET_LOT_SIZE", "minQty": "0.00000000", "maxQty": "100.00000000",
         "stepSize": "0.00000000"}]}""")


def test_the_documented_filters():
    found, base, quote = rules.instrument("A-1", SYMBOL)
    assert (found.symbol, base, quote) == ("ETHBTC", "ETH", "BTC")
    assert (found.lot, found.min_qty, found.tick) == (
        Decimal("0.001"), Decimal("0.001"), Decimal("0.000001"),
    )  # fmt: skip
    assert found.tradable
    for changes in ({"status": "HALT"}, {"status": "CANCEL_ONLY"}, {"isSpotTradingAllowed": False}):
        assert not rules.instrument("A-1", SYMBOL | changes)[0].tradable
    bare = rules.instrument("A-1", SYMBOL | {"filters": []})[0]
    assert (bare.lot, bare.min_qty, bare.tick) == (
        Decimal("1e-8"),
        Decimal("1e-8"),
        Decimal("1e-8"),
    )
    with pytest.raises(BrokerProtocolError):
        rules.instrument("A-1", None)


def test_limits_as_documented():
    told = {
        "rateLimits": [
            {
                "rateLimitType": "REQUEST_WEIGHT",
                "interval": "MINUTE",
                "intervalNum": 1,
                "limit": 6000,
            },
            {"rateLimitType": "ORDERS", "interval": "SECOND", "intervalNum": 10, "limit": 50},
            {"rateLimitType": "ORDERS", "interval": "DAY", "intervalNum": 1, "limit": 160000},
            {"rateLimitType": "ORDERS", "interval": "FORTNIGHT", "intervalNum": 1, "limit": 1},
            "rubbish",
        ]
    }
    assert rules.rate_limits(told) == {
        ("REQUEST_WEIGHT", 60): 6000,
        ("ORDERS", 10): 50,
        ("ORDERS", 86_400): 160_000,
    }
    assert rules.rate_limits({}) == {}


def test_the_documented_prices():
    told = [
        {"symbol": "LTCBTC", "price": "4.00000200"},
        {"symbol": "ETHBTC", "price": "0.07946600"},
    ]
    assert rules.prices(told) == {"LTCBTC": Decimal("4.000002"), "ETHBTC": Decimal("0.079466")}
    assert rules.prices(told[0], ["LTCBTC"]) == {"LTCBTC": Decimal("4.000002")}
    assert rules.prices([{"symbol": "A", "price": "0"}, {"symbol": "B"}, "C", {"price": "1"}]) == {}


def test_the_documented_account():
    told = {
        "canTrade": True,
        "balances": [
            {"asset": "BTC", "free": "4723846.89208129", "locked": "0.00000000"},
            {"asset": "LTC", "free": "4763368.68006011", "locked": "1.5"},
        ],
    }
    held, may_trade = rules.holdings("A-1", told)
    assert may_trade
    assert held["BTC"] == (Decimal("4723846.89208129"), 0)
    assert held["LTC"][1] == Decimal("1.5")
    with pytest.raises(BrokerProtocolError):
        rules.holdings("A-1", {"code": -1})
