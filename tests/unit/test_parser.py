"""Every rule of "A signal" in the public interface, one refusal at a time."""

# ruff: noqa: E501 (tables)
from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta, timezone
from decimal import Decimal

import pytest

from engine.errors import InvalidSignal
from engine.intake.parser import parse_prices, parse_signal
from engine.model.enums import Action, OrderType, TimeInForce

NOW = datetime(2026, 11, 22, 14, 30, 1, tzinfo=UTC)
BASE = {
    "id": "brk-2026-11-22-0001",
    "source": "my-bot",
    "strategy": "breakout",
    "symbol": "AAPL",
    "action": "buy",
    "order_type": "limit",
    "limit_price": "101.25",
    "stop_loss": "99.80",
    "take_profit": "104.50",
    "time_in_force": "day",
    "issued_at": "2026-11-22T14:30:00.123Z",
    "valid_for_s": 5.0,
    "audience": {"tags": ["gold"]},
}
MARKET = {k: BASE[k] for k in ("id", "source", "strategy", "symbol", "action", "issued_at")}


def parse(data: object, source: str | None = None):
    return parse_signal(json.dumps(data).encode(), source=source, now=NOW)


def raw(field: str, value: str):
    """Parse a market signal with ``value`` written as raw JSON."""
    body = json.dumps(MARKET)[:-1] + f', "{field}": {value}}}'
    return parse_signal(body.encode(), source=None, now=NOW)


def refused(call, *args, **kwargs) -> InvalidSignal:
    with pytest.raises(InvalidSignal) as caught:
        call(*args, **kwargs)
    assert caught.value.message
    assert "\n" not in caught.value.message
    return caught.value


def test_the_example_of_the_interface_is_read_exactly():
    signal = parse(BASE)
    assert signal.key == "my-bot/brk-2026-11-22-0001"
    assert (signal.action, signal.order_type) == (Action.BUY, OrderType.LIMIT)
    assert signal.time_in_force is TimeInForce.DAY
    assert str(signal.limit_price) == "101.25"
    assert str(signal.stop_loss) == "99.80"
    assert signal.valid_for_s == Decimal("5.0")
    assert signal.issued_at == datetime(2026, 11, 22, 14, 30, 0, 123000, tzinfo=UTC)
    assert signal.audience.tags == {"gold"}
    assert signal.audience.accounts is None
    assert len(signal.body_hash) == 64


def test_defaults():
    signal = parse(MARKET)
    assert signal.order_type is OrderType.MARKET
    assert signal.time_in_force is TimeInForce.DAY
    assert signal.audience is None
    assert signal.meta == {}
    assert (signal.limit_price, signal.quantity, signal.valid_for_s) == (None, None, None)


@pytest.mark.parametrize("field", ["id", "source", "strategy", "symbol", "action", "issued_at"])
def test_required_fields(field):
    error = refused(parse, {k: v for k, v in BASE.items() if k != field})
    assert (error.code, error.field) == ("MISSING", field)


@pytest.mark.parametrize("field", ["id", "source", "strategy"])
@pytest.mark.parametrize("value", ["", "a b", "ä", "x" * 65, "a\n", "a/b", "a|b", "\x00", "١"])
def test_names_are_refused(field, value):
    error = refused(parse, {**BASE, field: value})
    assert (error.code, error.field) == ("FORMAT", field)


@pytest.mark.parametrize("field", ["id", "source", "strategy"])
def test_longest_name(field):
    assert getattr(parse({**BASE, field: "aZ9._:-" + "x" * 57}), field) == "aZ9._:-" + "x" * 57


@pytest.mark.parametrize(
    "symbol", ["", "aapl", ".A", "A B", "A" * 33, "АAPL", "A\n", "A$", "A\u202e"]
)
def test_symbols_are_refused(symbol):
    error = refused(parse, {**BASE, "symbol": symbol})
    assert (error.code, error.field) == ("FORMAT", "symbol")
    assert error.message.isascii()


@pytest.mark.parametrize("symbol", ["A", "BTC/USD", "BRK.B", "NSE:NIFTY-26", "0700.HK", "A" * 32])
def test_symbols_are_taken(symbol):
    assert parse({**BASE, "symbol": symbol}).symbol == symbol


@pytest.mark.parametrize(
    ("order_type", "given", "code", "field"),
    [
        ("limit", [], "MISSING", "limit_price"),
        ("stop", [], "MISSING", "stop_price"),
        ("stop_limit", ["stop_price"], "MISSING", "limit_price"),
        ("stop_limit", ["limit_price"], "MISSING", "stop_price"),
        ("market", ["limit_price"], "NOT_ALLOWED", "limit_price"),
        ("market", ["stop_price"], "NOT_ALLOWED", "stop_price"),
        ("limit", ["limit_price", "stop_price"], "NOT_ALLOWED", "stop_price"),
        ("stop", ["stop_price", "limit_price"], "NOT_ALLOWED", "limit_price"),
        (None, ["limit_price"], "NOT_ALLOWED", "limit_price"),
    ],
)
def test_prices_belong_to_the_order_type(order_type, given, code, field):
    data = {**MARKET, **({"order_type": order_type} if order_type else {})}
    error = refused(parse, data | dict.fromkeys(given, "10"))
    assert (error.code, error.field) == (code, field)


@pytest.mark.parametrize(
    ("order_type", "given"),
    [
        ("market", []),
        ("limit", ["limit_price"]),
        ("stop", ["stop_price"]),
        ("stop_limit", ["limit_price", "stop_price"]),
    ],
)
def test_each_order_type_with_its_prices(order_type, given):
    signal = parse({**MARKET, "order_type": order_type} | dict.fromkeys(given, "10"))
    assert signal.order_type == order_type


@pytest.mark.parametrize(
    "field",
    ["stop_loss", "take_profit", "quantity", "reference_price", "trail_percent", "valid_for_s"],
)
@pytest.mark.parametrize(
    ("value", "code"),
    [
        ("NaN", "TYPE"), ("Infinity", "TYPE"), ("-Infinity", "TYPE"), ("true", "TYPE"), ("false", "TYPE"),
        ("null", "TYPE"), ("[]", "TYPE"), ("{}", "TYPE"), ("[1]", "TYPE"),
        ("1e3", "FORMAT"), ("1E3", "FORMAT"), ("1e400", "FORMAT"), ("1.5e-2", "FORMAT"),
        ('"1e3"', "FORMAT"), ('"NaN"', "FORMAT"), ('"Infinity"', "FORMAT"), ('"sNaN"', "FORMAT"),
        ('"1_000"', "FORMAT"), ('"1,5"', "FORMAT"), ('" 1"', "FORMAT"), ('"1 "', "FORMAT"), ('"+1"', "FORMAT"),
        ('"٣"', "FORMAT"), ('"１"', "FORMAT"), ('"0x1"', "FORMAT"), ('""', "FORMAT"), ('"1."', "FORMAT"),
        ('".5"', "FORMAT"), ('"1\\u0000"', "FORMAT"), ("9" * 5000, "FORMAT"), ("0." + "1" * 13, "FORMAT"),
        ("-1", "RANGE"), ('"-1"', "RANGE"), ("0", "RANGE"), ("0.000", "RANGE"), ('"0"', "RANGE"),
        ("-0", "RANGE"), ('"-0.0"', "RANGE"),
    ],
)  # fmt: skip
def test_numbers_are_refused(field, value, code):
    error = refused(raw, field, value)
    assert (error.code, error.field) == (code, field)
    assert len(error.message) < 300


@pytest.mark.parametrize(
    ("written", "expected"),
    [
        ("0.1", "0.1"), ('"0.1"', "0.1"), ("1", "1"), ("101.250", "101.250"), ("0.000000000001", "1E-12"),
        ("123456789012345678.123456789012", "123456789012345678.123456789012"),
        ("9007199254740993", "9007199254740993"), ("0.30000000000000004", None), ('"007"', "7"),
    ],
)  # fmt: skip
def test_numbers_are_read_exactly(written, expected):
    if expected is None:  # 17 decimals: more than any market quotes
        assert refused(raw, "quantity", written).code == "FORMAT"
    else:
        assert str(raw("quantity", written).quantity) == expected


@pytest.mark.parametrize("value", ["100", "100.5", '"1000"'])
def test_trail_percent_is_below_100(value):
    assert refused(raw, "trail_percent", value).code == "RANGE"


@pytest.mark.parametrize(("value", "ok"), [("0.1", 1), ("86400", 1), ("0.09", 0), ("86400.1", 0)])
def test_valid_for_s(value, ok):
    if ok:
        assert raw("valid_for_s", value).valid_for_s == Decimal(value)
    else:
        assert refused(raw, "valid_for_s", value).code == "RANGE"


@pytest.mark.parametrize(
    "stamp",
    [
        "2026-11-22T14:30:00", "2026-11-22", "2026-11-22 14:30:00Z", "2026-11-22T14:30Z", "20261122T143000Z",
        "2026-11-22T14:30:60Z", "2026-11-22T24:00:00Z", "2026-02-29T00:00:00Z", "2026-11-22T14:30:00+2:00",
        "2026-11-22T14:30:00+0200", "2026-11-22T14:30:00,5Z", "2026-11-22T14:30:00.Z", "0000-01-01T00:00:00Z",
        "2026-11-22T14:30:00+24:00", "2026-11-22T14:30:00+00:80", "0001-01-01T00:00:00+01:00", "2026-W47-7T14:30:00Z", "１026-11-22T14:30:00Z",
        "2026-11-22T14:30:00Z\n", "", "now",
    ],
)  # fmt: skip
def test_stamps_are_refused(stamp):
    error = refused(parse, {**BASE, "issued_at": stamp})
    assert (error.code, error.field) == ("FORMAT", "issued_at")


def test_a_stamp_must_be_text():
    assert refused(parse, {**BASE, "issued_at": 1763821980}).code == "TYPE"


@pytest.mark.parametrize(
    "stamp",
    ["2026-11-22T14:30:00Z", "2026-11-22T16:30:00+02:00", "2026-11-22t14:30:00.000000000z",
     "2026-11-22T09:30:00-05:00", "2026-11-22T14:30:00-00:00"],
)  # fmt: skip
def test_stamps_of_one_moment(stamp):
    signal = parse({**BASE, "issued_at": stamp})
    assert signal.issued_at == datetime(2026, 11, 22, 14, 30, tzinfo=UTC)
    assert signal.issued_at.tzinfo is UTC


@pytest.mark.parametrize(
    ("ahead_us", "ok"), [(1_000_000, True), (1_000_001, False), (10**12, False)]
)
def test_at_most_a_second_in_the_future(ahead_us, ok):
    stamp = (NOW + timedelta(microseconds=ahead_us)).astimezone(timezone(timedelta(hours=9)))
    data = {**BASE, "issued_at": stamp.isoformat()}
    if ok:
        assert parse(data).issued_at == stamp
    else:
        error = refused(parse, data)
        assert (error.code, error.field) == ("FUTURE", "issued_at")


def test_age_is_not_judged_here():
    assert parse({**BASE, "issued_at": "1999-01-01T00:00:00Z"}).issued_at.year == 1999


@pytest.mark.parametrize(
    ("field", "value"),
    [("action", "BUY"), ("action", "hold"), ("order_type", "Limit"), ("time_in_force", "gtd"), ("action", "")],
)  # fmt: skip
def test_words_are_refused(field, value):
    error = refused(parse, {**BASE, field: value})
    assert (error.code, error.field) == ("FORMAT", field)


@pytest.mark.parametrize("field", [*MARKET, "order_type", "time_in_force"])
@pytest.mark.parametrize("value", [None, True, 1, 1.5, [], {}, ["buy"]])
def test_text_must_be_text(field, value):
    error = refused(parse, {**MARKET, field: value})
    assert (error.code, error.field) == ("TYPE", field)


@pytest.mark.parametrize(
    ("change", "code", "field"),
    [
        ({"action": "modify"}, "MISSING", "stop_loss"),
        ({"action": "modify", "stop_loss": "1", "order_type": "limit", "limit_price": "1"}, "NOT_ALLOWED", "order_type"),
        ({"action": "modify", "stop_loss": "1", "limit_price": "1"}, "NOT_ALLOWED", "limit_price"),
        ({"action": "cancel", "limit_price": "1"}, "NOT_ALLOWED", "limit_price"),
        ({"action": "cancel", "order_type": "limit", "limit_price": "1"}, "NOT_ALLOWED", "order_type"),
        ({"action": "close", "order_type": "stop", "stop_price": "1"}, "NOT_ALLOWED", "order_type"),
        ({"action": "close", "order_type": "limit"}, "MISSING", "limit_price"),
    ],
)  # fmt: skip
def test_actions_refuse_what_makes_no_sense(change, code, field):
    error = refused(parse, {**MARKET, **change})
    assert (error.code, error.field) == (code, field)


@pytest.mark.parametrize(
    "change",
    [
        {"action": "close"},
        {"action": "close", "order_type": "limit", "limit_price": "1"},
        {"action": "cancel"},
        {"action": "modify", "stop_loss": "1"},
        {"action": "modify", "take_profit": "1"},
        {"action": "modify", "trail_percent": "1"},
    ],
)
def test_actions_with_what_they_need(change):
    signal = parse({**MARKET, **change})
    assert signal.action == change["action"]
    assert signal.side is None


@pytest.mark.parametrize(
    ("audience", "code"),
    [
        ({}, "RANGE"), ({"tags": []}, "RANGE"), ({"accounts": []}, "RANGE"), ([], "TYPE"), ("gold", "TYPE"),
        (None, "TYPE"), ({"tags": "gold"}, "TYPE"), ({"tags": [1]}, "TYPE"), ({"tags": [None]}, "TYPE"),
        ({"tags": [""]}, "FORMAT"), ({"tags": ["a b"]}, "FORMAT"), ({"users": ["a"]}, "UNKNOWN_FIELD"),
        ({"tags": ["gold"], "$where": ["1"]}, "UNKNOWN_FIELD"),
        ({"accounts": ["a"] * 1001}, "RANGE"), ({"tags": [["a"]]}, "TYPE"), ({"tags": {"a": 1}}, "TYPE"),
    ],
)  # fmt: skip
def test_audiences_are_refused(audience, code):
    error = refused(parse, {**MARKET, "audience": audience})
    assert error.code == code
    assert error.field.startswith("audience")


def test_audience_of_accounts_and_tags():
    audience = parse({**MARKET, "audience": {"accounts": ["A-1", "A-2"], "tags": ["g"]}}).audience
    assert audience.accounts == {"A-1", "A-2"}
    assert audience.tags == {"g"}
    assert len(parse({**MARKET, "audience": {"accounts": ["a"] * 1000}}).audience.accounts) == 1


@pytest.mark.parametrize(
    ("meta", "code"),
    [
        ([], "TYPE"), ("x", "TYPE"), (None, "TYPE"), ({"k": 1}, "TYPE"), ({"k": None}, "TYPE"), ({"k": {}}, "TYPE"),
        ({f"k{i}": "v" for i in range(21)}, "RANGE"), ({"": "v"}, "FORMAT"), ({"k" * 65: "v"}, "FORMAT"),
        ({"k": "v" * 513}, "FORMAT"), ({"k": "a\x1b[31m"}, "FORMAT"), ({"k": "a\r\nb"}, "FORMAT"),
        ({"k": "\ud800"}, "FORMAT"), ({"k\n": "v"}, "FORMAT"), ({"k": "\u202eabc"}, "FORMAT"), ({"k": "\x7f"}, "FORMAT"),
    ],
)  # fmt: skip
def test_meta_is_refused(meta, code):
    error = refused(parse, {**MARKET, "meta": meta})
    assert error.code == code
    assert error.field.startswith("meta")
    assert error.message.isprintable()
    assert error.field.isprintable()


def test_meta_is_kept_as_it_is():
    meta = {"k" * 64: "v" * 512, "note": 'Ärger, 😀 <b>&"quoted"', "f": "=1+1"}
    assert parse({**MARKET, "meta": meta}).meta == meta


@pytest.mark.parametrize(
    ("body", "code"),
    [
        (b"", "NOT_JSON"), (b"{", "NOT_JSON"), (b"{}{}", "NOT_JSON"), (b"{} x", "NOT_JSON"), (b"{'a':1}", "NOT_JSON"),
        (b'{"a":1,}', "NOT_JSON"), (b"\xef\xbb\xbf{}", "NOT_JSON"), (b"buy AAPL", "NOT_JSON"), (b'{"a":01}', "NOT_JSON"),
        (b'{"a":"\n"}', "NOT_JSON"), (b'{"a":.5}', "NOT_JSON"), (b'{"a":+1}', "NOT_JSON"), (b"\x00", "NOT_JSON"),
        (b"[]", "TYPE"), (b"1", "TYPE"), (b'"x"', "TYPE"), (b"null", "TYPE"), (b"NaN", "TYPE"),
        (b"\xff\xfe", "NOT_UTF8"), (b'{"id":"\xed\xa0\x80"}', "NOT_UTF8"), (b'{"id":"\xc0\x80"}', "NOT_UTF8"),
        ('{"id":"é"}'.encode("latin-1"), "NOT_UTF8"), ("{}".encode("utf-16"), "NOT_UTF8"),
        (b'{"id":"a","id":"a"}', "DUPLICATE_KEY"), (b'{"id":"a","\\u0069d":"b"}', "DUPLICATE_KEY"),
        (b'{"meta":{"a":"1","a":"2"}}', "DUPLICATE_KEY"),
        (b" " * 8193, "TOO_LARGE"), (b"[" * 100_000, "TOO_LARGE"),
        (b"[" * 9 + b"]" * 9, "TOO_DEEP"), (b'{"a":' * 9 + b"1" + b"}" * 9, "TOO_DEEP"), (b"[" * 8192, "TOO_DEEP"),
        (b'{"a":' * 1600, "TOO_DEEP"),
        (b'{"meta":"[[[[[[[[[[[[","id":1}', "TYPE"),
        (b'{"extra":1}', "UNKNOWN_FIELD"), (b'{"ID":"a"}', "UNKNOWN_FIELD"), (b'{"\\ud800":1}', "UNKNOWN_FIELD"),
    ],
)  # fmt: skip
def test_bodies_are_refused(body, code):
    error = refused(parse_signal, body, source=None, now=NOW)
    assert error.code == code
    assert error.message.isprintable()
    assert set(error.as_dict()) == {"code", "field", "message"}


def test_depth_ignores_brackets_inside_text():
    signal = parse({**MARKET, "meta": {"k": '[[[[[[[[[["\\{{{{{{{{{{'}})
    assert signal.meta["k"].startswith("[[[")


def test_8192_bytes_are_taken():
    body = json.dumps(MARKET).encode()
    assert parse_signal(body + b" " * (8192 - len(body)), source=None, now=NOW)
    refused(parse_signal, body + b" " * (8193 - len(body)), source=None, now=NOW)


def test_an_unknown_field_is_named_but_its_value_is_not():
    error = refused(parse, {**MARKET, "limit_prise": "s3cr3t-canary"})
    assert error.field == "limit_prise"
    assert "limit_price" in error.message
    assert "canary" not in error.message


def test_the_entry_point_may_set_the_source():
    data = {k: v for k, v in MARKET.items() if k != "source"}
    assert parse(data, source="tv").source == "tv"
    assert parse({**data, "source": "tv"}, source="tv").source == "tv"
    error = refused(parse, MARKET, source="tv")
    assert (error.code, error.field) == ("NOT_ALLOWED", "source")
    assert refused(parse, {**data, "source": None}, source="tv").code == "NOT_ALLOWED"


def test_the_hash_follows_the_content_only():
    plain = parse(BASE).body_hash
    backwards = json.dumps(dict(reversed(BASE.items())), indent=3).replace('"id"', '"\\u0069d"')
    assert parse_signal(backwards.encode(), source=None, now=NOW).body_hash == plain
    without = {k: v for k, v in BASE.items() if k != "source"}
    assert parse(without, source="my-bot").body_hash == plain


@pytest.mark.parametrize("field", list(BASE))
def test_any_value_changes_the_hash(field):
    changed = {
        "id": "b", "source": "b", "strategy": "b", "symbol": "B", "action": "sell", "order_type": "limit",
        "limit_price": "101.26", "stop_loss": "99.81", "take_profit": "104.51", "time_in_force": "gtc",
        "issued_at": "2026-11-22T14:30:00.124Z", "valid_for_s": 5.1, "audience": {"tags": ["silver"]},
    }  # fmt: skip
    if field == "order_type":
        data = {k: v for k, v in BASE.items() if k not in ("order_type", "limit_price")}
    else:
        data = {**BASE, field: changed[field]}
    assert parse(data).body_hash != parse(BASE).body_hash


def test_prices_from_outside():
    prices = parse_prices(b'{"AAPL": "189.43", "BTC/USD": 46430.10}')
    assert prices == {"AAPL": Decimal("189.43"), "BTC/USD": Decimal("46430.10")}
    assert str(prices["BTC/USD"]) == "46430.10"
    assert parse_prices(b"{}") == {}


@pytest.mark.parametrize(
    ("body", "code"),
    [
        (b'{"AAPL": "0"}', "RANGE"), (b'{"AAPL": -1}', "RANGE"), (b'{"AAPL": NaN}', "TYPE"), (b'{"AAPL": true}', "TYPE"),
        (b'{"AAPL": 1e5}', "FORMAT"), (b'{"aapl": 1}', "FORMAT"), (b'{"A": 1, "A": 2}', "DUPLICATE_KEY"),
        (b"[]", "TYPE"), (b"{", "NOT_JSON"), (b"\xff", "NOT_UTF8"), (b" " * 65537, "TOO_LARGE"), (b'{"A": {}}', "TYPE"),
    ],
)  # fmt: skip
def test_prices_are_as_strict(body, code):
    assert refused(parse_prices, body).code == code
