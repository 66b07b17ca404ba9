"""Alpaca's words to ours and back."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from decimal import Decimal

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from engine.brokers.alpaca import mapping
from engine.brokers.alpaca.adapter import AlpacaAdapter
from engine.brokers.registry import make_adapter
from engine.config import Config
from engine.errors import BrokerError, BrokerProtocolError, ConfigError
from engine.model.account import Account
from engine.model.enums import ExecType, OrderStatus, OrderType, Side, TimeInForce
from engine.model.order import Order

CL = "ABCDEFGHIJKLMNOPQRST"
NOW = datetime(2026, 11, 22, 14, 30, tzinfo=UTC)
PLACED = {
    "id": "904837e3-3b76-47ec-b432-046db621571b",
    "client_order_id": CL,
    "submitted_at": "2026-11-22T14:30:00.123456789Z",
    "symbol": "AAPL",
    "qty": "10",
    "filled_qty": "0",
    "filled_avg_price": None,
    "type": "limit",
    "side": "buy",
    "time_in_force": "day",
    "limit_price": "101.25",
    "stop_price": None,
    "status": "accepted",
    "legs": None,
}


def make(**changes: object) -> Order:
    facts: dict[str, object] = {
        "cl_ord_id": CL,
        "account": "A",
        "symbol": "AAPL",
        "side": Side.BUY,
        "order_qty": Decimal("10.50"),
        "order_type": OrderType.MARKET,
        "time_in_force": TimeInForce.DAY,
        "created_at": NOW,
    }
    return Order(**(facts | changes))  # type: ignore[arg-type]


def reply(status: int, body: object, raw: bytes = b""):
    content = body if isinstance(body, bytes) else json.dumps(body).encode()
    return mapping.submit_report("A", CL, status, content, raw)


# Requests


def test_bodies_carry_numbers_as_text_and_only_what_belongs():
    bodies = mapping.OrderBodies()
    orders = {
        "market": (make(), {}),
        "limit": (
            make(order_type=OrderType.LIMIT, limit_price=Decimal("101.250")),
            {"limit_price": "101.25"},
        ),
        "stop": (
            make(order_type=OrderType.STOP, stop_price=Decimal(99), side=Side.SELL),
            {"stop_price": "99", "side": "sell"},
        ),
        "stop_limit": (
            make(
                order_type=OrderType.STOP_LIMIT,
                stop_price=Decimal("0.00000001"),
                limit_price=Decimal("1E+3"),
                symbol="BTC/USD",
                time_in_force=TimeInForce.IOC,
            ),
            {
                "stop_price": "0.00000001",
                "limit_price": "1000",
                "symbol": "BTC/USD",
                "time_in_force": "ioc",
            },
        ),
    }
    for _ in range(2):  # whichever came before leaves nothing behind
        for kind, (order, more) in orders.items():
            assert json.loads(bodies.write(order)) == {
                "symbol": "AAPL",
                "side": "buy",
                "type": kind,
                "time_in_force": "day",
                "qty": "10.5",
                "client_order_id": CL,
                **more,
            }


def test_replace_body_and_path():
    order = make(order_type=OrderType.LIMIT, limit_price=Decimal("9.9"))
    assert json.loads(mapping.replace_body(order)) == {
        "qty": "10.5", "time_in_force": "day", "client_order_id": CL, "limit_price": "9.9",
    }  # fmt: skip
    assert mapping.order_path("904837e3-3b76") == "/v2/orders/904837e3-3b76"
    hostile = mapping.order_path("x HTTP/1.1\r\nA: b/../é?#")
    assert hostile == "/v2/orders/x%20HTTP%2F1.1%0D%0AA%3A%20b%2F..%2F%C3%A9%3F%23"


# What a reply to an order proves


@pytest.mark.parametrize(
    ("status", "exec_type", "ours"),
    [
        ("accepted", ExecType.NEW, OrderStatus.NEW),
        ("pending_new", ExecType.NEW, OrderStatus.NEW),
        ("new", ExecType.NEW, OrderStatus.NEW),
        ("held", ExecType.NEW, OrderStatus.NEW),
        ("a status of next year", ExecType.NEW, OrderStatus.NEW),
        ("rejected", ExecType.REJECTED, OrderStatus.REJECTED),
        ("canceled", ExecType.CANCELED, OrderStatus.CANCELED),
        ("expired", ExecType.EXPIRED, OrderStatus.EXPIRED),
    ],
)
def test_a_placed_order(status: str, exec_type: ExecType, ours: OrderStatus):
    report = reply(200, PLACED | {"status": status})
    assert (report.exec_type, report.status) == (exec_type, ours)
    assert report.order_id == PLACED["id"]
    assert report.cum_qty == 0
    assert report.transact_time == datetime(2026, 11, 22, 14, 30, 0, 123456, UTC)


def test_fills_in_the_reply_are_counted_once():
    report = reply(
        200, PLACED | {"status": "filled", "filled_qty": "10", "filled_avg_price": "101.2"}
    )
    assert (report.cum_qty, report.avg_px) == (10, Decimal("101.2"))
    order = make(order_qty=Decimal(10))
    assert order.apply(report, NOW).last_px == Decimal("101.2")
    assert order.status is OrderStatus.FILLED
    event = {"event": "fill", "execution_id": "e-1", "qty": "10", "price": "101.2"}
    streamed = mapping.stream_report(
        "A", event | {"order": PLACED | {"status": "filled", "filled_qty": "10"}}
    )
    assert order.apply(streamed, NOW) is None
    assert order.cum_qty == 10


def test_numbers_without_quotes_stay_exact():
    body = json.dumps(PLACED | {"status": "filled"}).replace(
        '"filled_qty": "0", "filled_avg_price": null',
        '"filled_qty": 0.1000000000000000055511151231257827, "filled_avg_price": 101.10',
    )
    report = reply(200, body.encode())
    assert report.cum_qty == Decimal("0.1000000000000000055511151231257827")
    assert report.avg_px == Decimal("101.10")


@pytest.mark.parametrize(
    ("status", "body", "words"),
    [
        (403, {"code": 40310000, "message": "insufficient buying power"}, "buying power"),
        (422, {"code": 42210000, "message": "invalid qty"}, "invalid qty"),
        (422, {"code": 40010001, "message": 'could not find us_equity "X"'}, "us_equity"),
        (401, {"code": 40110000, "message": "request is not authorized"}, "not authorized"),
        (403, {"message": "forbidden."}, "forbidden"),
        (400, {"code": 40010000, "message": "request body format is invalid"}, "format"),
        (404, {"code": 40410000, "message": "endpoint not found."}, "not found"),
        (422, {"code": 42210000}, "42210000"),
    ],
)
def test_definite_refusals(status: int, body: dict, words: str):
    report = reply(status, body)
    assert (report.exec_type, report.status) == (ExecType.REJECTED, OrderStatus.REJECTED)
    assert words in report.text


@pytest.mark.parametrize(
    ("status", "body"),
    [
        (500, {"code": 50010000, "message": "internal server error"}),
        (503, b"<html>busy</html>"),
        (504, b""),
        (500, PLACED),
        (429, {"code": 42910000, "message": "rate limit exceeded"}),
        (408, {"message": "timeout"}),
        (409, {"message": "conflict"}),
        (302, b""),
        (204, b""),
        (200, b"<html>please log in</html>"),
        (200, b""),
        (200, b"[]"),
        (200, b"null"),
        (200, {}),
        (200, {"message": "ok"}),
        (200, PLACED | {"id": None}),
        (200, PLACED | {"id": 7}),
        (200, PLACED | {"client_order_id": "ANOTHERACCOUNTSORDER"}),
        (200, PLACED | {"filled_qty": "NaN"}),
        (200, PLACED | {"filled_qty": "1e30"}),
        (200, PLACED | {"filled_qty": "-1"}),
        (200, PLACED | {"filled_qty": True}),
        (403, b"<html>blocked by a firewall</html>"),
        (404, b"no such page"),
        (422, b""),
        (422, {"code": 40010001, "message": "client_order_id must be unique"}),
    ],
)
def test_no_proof_is_unknown(status: int, body: object):
    report = reply(status, body)
    assert (report.exec_type, report.status) == (ExecType.UNKNOWN, OrderStatus.UNKNOWN)
    assert report.text
    assert report.cl_ord_id == CL


def test_a_refusal_that_carries_a_placed_order_is_placed():
    report = reply(422, PLACED)
    assert (report.exec_type, report.order_id) == (ExecType.NEW, PLACED["id"])


def test_429_tells_how_long_to_wait():
    raw = b"HTTP/1.1 429 Too Many Requests\r\nRetry-After: 17\r\n\r\n"
    assert "retry after 17 s" in reply(429, {"message": "slow down"}, raw).text


def test_the_brokers_words_are_capped_and_plain():
    report = reply(422, {"code": 1, "message": "a\x00\x1b[31m\nb " + "x" * 10_000})
    assert report.text.startswith("a [31m b x")
    assert len(report.text) <= 200


def test_a_reply_cut_anywhere_is_never_a_success():
    whole = json.dumps(PLACED).encode()
    for cut in range(len(whole)):
        assert reply(200, whole[:cut]).exec_type is ExecType.UNKNOWN
    assert reply(200, whole).exec_type is ExecType.NEW


@settings(max_examples=300, deadline=None)
@given(
    st.integers(200, 599),
    st.binary(max_size=60)
    | st.dictionaries(
        st.sampled_from([*PLACED, "message", "code"]),
        st.none() | st.booleans() | st.integers() | st.text(max_size=9) | st.lists(st.none()),
    ).map(lambda body: json.dumps(body).encode())
    | st.dictionaries(
        st.sampled_from([*PLACED, "message", "code"]),
        st.floats() | st.text(max_size=9),
    ).map(lambda body: json.dumps(PLACED | body).encode()),
)
def test_no_reply_whatsoever_breaks_it(status: int, body: bytes):
    report = reply(status, body)
    assert report.cl_ord_id == CL
    assert report.account == "A"
    if report.exec_type is ExecType.REJECTED and "id" not in body.decode("latin-1"):
        assert 400 <= status < 500
    for number in (report.cum_qty, report.avg_px):
        assert number is None or number.is_finite()
    try:
        mapping.stream_report("A", mapping.read_object(body))
        mapping.status_report("A", mapping.read_object(body))
    except BrokerError:
        pass


# Stream and look-ups


@pytest.mark.parametrize(
    ("event", "exec_type", "status", "ours"),
    [
        ("new", ExecType.NEW, "new", OrderStatus.NEW),
        ("pending_new", ExecType.NEW, "pending_new", OrderStatus.NEW),
        ("partial_fill", ExecType.TRADE, "partially_filled", OrderStatus.PARTIALLY_FILLED),
        ("fill", ExecType.TRADE, "filled", OrderStatus.FILLED),
        ("canceled", ExecType.CANCELED, "canceled", OrderStatus.CANCELED),
        ("canceled", ExecType.CANCELED, "new", OrderStatus.CANCELED),
        ("expired", ExecType.EXPIRED, "expired", OrderStatus.EXPIRED),
        ("replaced", ExecType.REPLACED, "replaced", OrderStatus.REPLACED),
        ("rejected", ExecType.REJECTED, "rejected", OrderStatus.REJECTED),
        ("pending_cancel", ExecType.PENDING_CANCEL, "pending_cancel", OrderStatus.PENDING_CANCEL),
        ("pending_replace", ExecType.STATUS, "pending_replace", OrderStatus.NEW),
        ("done_for_day", ExecType.STATUS, "done_for_day", OrderStatus.NEW),
        ("calculated", ExecType.STATUS, "calculated", OrderStatus.NEW),
        ("suspended", ExecType.STATUS, "suspended", OrderStatus.NEW),
        ("order_cancel_rejected", ExecType.CANCEL_REJECTED, "new", None),
        ("order_replace_rejected", ExecType.CANCEL_REJECTED, "new", None),
        ("an event of next year", ExecType.STATUS, "whatever", None),
    ],
)
def test_stream_events(event: str, exec_type: ExecType, status: str, ours: OrderStatus | None):
    data = {
        "event": event,
        "execution_id": "e-1",
        "qty": "4",
        "price": "101.1",
        "timestamp": "2026-11-22T14:30:01Z",
        "order": PLACED | {"status": status, "replaces": "older"},
    }
    report = mapping.stream_report("A", data)
    assert (report.exec_type, report.status) == (exec_type, ours)
    assert (report.cl_ord_id, report.order_id, report.replaces) == (CL, PLACED["id"], "older")
    assert report.transact_time == datetime(2026, 11, 22, 14, 30, 1, tzinfo=UTC)
    if exec_type is ExecType.TRADE:
        assert (report.exec_id, report.last_qty, report.last_px) == ("e-1", 4, Decimal("101.1"))
    else:
        assert (report.exec_id, report.last_qty) == ("", 0)


@pytest.mark.parametrize(
    "data",
    [
        None,
        [],
        {},
        {"event": "fill"},
        {"event": "new", "order": {}},
        {"event": "fill", "order": PLACED},
        {"event": "fill", "order": PLACED, "qty": "0", "price": "1"},
        {"event": "fill", "order": PLACED, "qty": "1", "price": "-1"},
        {"event": "fill", "order": PLACED, "qty": "Infinity", "price": "1"},
        {"event": "new", "order": PLACED | {"limit_price": "NaN"}},
    ],
)
def test_unreadable_events_are_refused(data: object):
    with pytest.raises(BrokerProtocolError, match="account A"):
        mapping.stream_report("A", data)


def test_order_objects_of_kinds_we_do_not_have():
    report = mapping.status_report(
        "A", PLACED | {"type": "trailing_stop", "time_in_force": "opg", "qty": None, "side": "?"}
    )
    assert (report.order_type, report.time_in_force) == (None, None)
    assert (report.order_qty, report.side) == (None, None)
    partly = mapping.status_report("A", PLACED | {"status": "held", "filled_qty": "3"})
    assert partly.status is OrderStatus.PARTIALLY_FILLED


# The account


def test_account_positions_assets_prices():
    money = mapping.balances(
        "A", {"equity": "1.10", "cash": "-5.2", "buying_power": "4", "account_blocked": True}
    )
    assert (money.equity, money.cash, money.blocked) == (Decimal("1.10"), Decimal("-5.2"), True)
    for qty in ("-5", "5"):
        short = {"symbol": "AAPL", "qty": qty, "side": "short", "avg_entry_price": "9.123456789"}
        assert mapping.position("A", short).qty == -5
    whole = mapping.instrument("A", "AAPL", {"fractionable": False, "tradable": True})
    assert (whole.lot, whole.min_qty, whole.tick) == (1, 1, Decimal("0.01"))
    part = mapping.instrument("A", "AAPL", {"fractionable": True, "tradable": False})
    assert (part.lot, part.tradable) == (Decimal("1E-9"), False)
    coin = mapping.instrument(
        "A",
        "BTC/USD",
        {
            "tradable": True,
            "min_order_size": "0.0001",
            "min_trade_increment": "0.000000001",
            "price_increment": "0.5",
        },
    )
    assert (coin.min_qty, coin.lot, coin.tick) == (
        Decimal("0.0001"), Decimal("1E-9"), Decimal("0.5"),
    )  # fmt: skip
    trades = {"A": {"p": Decimal("1.5")}, "B": {"p": "x"}, "C": None, "D": {"p": 0}}
    assert mapping.prices({"trades": trades}, ["A", "B", "C", "D", "E"]) == {"A": Decimal("1.5")}
    assert mapping.prices(None, ["A"]) == {}
    for reader in (mapping.balances, mapping.position):
        for body in (None, [], {}, {"qty": "x", "equity": "NaN"}):
            with pytest.raises(BrokerProtocolError, match="account A"):
                reader("A", body)


# Which accounts may go where


class Sink:
    def on_report(self, report: object) -> None:
        raise AssertionError(report)

    def on_connection(self, account: str, state: object, text: str) -> None:
        raise AssertionError(text)

    def on_limits(self, account: str, **told: object) -> None:
        pass


def account(environment: str = "paper", base_url: str | None = None) -> Account:
    return Account.model_validate(
        {
            "id": "A-7",
            "broker": "alpaca",
            "environment": environment,
            "base_url": base_url,
            "sizing": {"method": "signal"},
        }
    )


GOOD = {"key_id": "PK1", "secret": "canary-of-this-test"}


@pytest.mark.parametrize(
    "credentials",
    [
        {},
        {"key_id": "PK1"},
        {"secret": "s"},
        GOOD | {"key_id": "a b"},
        GOOD | {"secret": "x\r\ny: z"},
    ],
)
def test_credentials_are_checked_and_never_shown(credentials: dict[str, str]):
    with pytest.raises(ConfigError, match=r"account A-7: credential (key_id|secret)") as caught:
        AlpacaAdapter().session(account(), credentials, Sink())
    assert not any(value in str(caught.value) for value in credentials.values() if len(value) > 3)


async def test_environment_and_address_must_agree():
    adapter = AlpacaAdapter()
    for environment, url in (
        ("live", "https://paper-api.alpaca.markets"),
        ("paper", "https://api.alpaca.markets"),
    ):
        with pytest.raises(ConfigError, match="does not fit base_url"):
            adapter.session(account(environment, url), GOOD, Sink())
    for url in ("http://127.0.0.1:9101", "https://data.alpaca.markets"):
        with pytest.raises(ConfigError, match="is not allowed"):
            adapter.session(account("paper", url), GOOD, Sink())
    session = adapter.session(account("live"), GOOD, Sink())
    assert "canary" not in repr(session)
    assert not session.ready()
    await adapter.close()


def test_registry():
    from engine.brokers.paper import PaperMarket

    config, market = Config(), PaperMarket()
    for name in ("alpaca", "paper", "binance", "oanda", "kite"):
        assert make_adapter(name, config, market).name == name
    with pytest.raises(ConfigError, match="'etrade' is none of"):
        make_adapter("etrade", config, market)
