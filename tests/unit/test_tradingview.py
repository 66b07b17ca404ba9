"""TradingView alert shapes: each maps to a signal, or is refused with words that say what to change."""

# ruff: noqa: PT017 (refusals inside a loop)
from __future__ import annotations

import json
import random
from datetime import UTC, datetime
from decimal import Decimal

import pytest

from engine.config import HookConfig
from engine.errors import InvalidSignal
from engine.intake.tradingview import map_alert
from engine.model.enums import Action, OrderType, TimeInForce
from tests.bench import fuzz_parser

NOW = datetime(2026, 11, 22, 14, 35, tzinfo=UTC)
HOOK = HookConfig()
ALERT = {
    "ticker": "AAPL",
    "action": "buy",
    "price": "189.43",
    "time": "2026-11-22T14:31:00Z",
    "strategy": "orb-15",
}


def mapped(data: object, hook: HookConfig = HOOK):
    body = data if isinstance(data, bytes) else json.dumps(data).encode()
    return map_alert(body, source="tv", hook=hook, now=NOW)


def refused(data: object, hook: HookConfig = HOOK) -> InvalidSignal:
    with pytest.raises(InvalidSignal) as caught:
        mapped(data, hook)
    assert caught.value.message.isprintable()
    return caught.value


# The four shapes users send.


def test_plain_alert_with_a_secret_of_its_own():
    signal = mapped({**ALERT, "secret": "s3cr3t-canary", "passphrase": "canary2"})
    assert (signal.symbol, signal.action, signal.strategy) == ("AAPL", Action.BUY, "orb-15")
    assert signal.reference_price == Decimal("189.43")
    assert signal.limit_price is None
    assert signal.source == "tv"
    assert "canary" not in repr(signal)
    assert signal.body_hash == mapped({**ALERT, "secret": "another"}).body_hash


def test_strategy_placeholders_without_a_strategy_name():
    alert = {
        "ticker": "NASDAQ:MSFT",
        "strategy.order.action": "sell",
        "strategy.order.contracts": "15",
        "close": 415.2,
        "timenow": "2026-11-22T14:32:05Z",
        "strategy.order.id": "Short",
        "strategy.market_position": "short",
    }
    error = refused(alert)
    assert (error.code, error.field) == ("MISSING", "strategy")
    assert '"strategy"' in error.message
    assert "hooks.tv.strategy" in error.message
    signal = mapped(alert, HookConfig(strategy="orb"))
    assert (signal.symbol, signal.action, signal.strategy) == ("MSFT", Action.SELL, "orb")
    assert signal.quantity == 15
    assert str(signal.reference_price) == "415.2"
    assert signal.issued_at == datetime(2026, 11, 22, 14, 32, 5, tzinfo=UTC)
    assert signal.meta == {"strategy.order.id": "Short", "strategy.market_position": "short"}


@pytest.mark.parametrize(
    "strategy",
    [
        {"order": {"action": "sell", "contracts": "15"}, "market_position": "short"},
        {"order_action": "sell", "order_contracts": "15", "market_position": "short"},
    ],
)
def test_strategy_as_an_object(strategy):
    alert = {key: value for key, value in ALERT.items() if key not in {"action", "strategy"}}
    error = refused({**alert, "strategy": strategy})
    assert (error.code, error.field) == ("MISSING", "strategy")
    signal = mapped({**alert, "strategy": {**strategy, "name": "orb"}})
    assert (signal.action, signal.strategy, signal.quantity) == (Action.SELL, "orb", 15)
    assert signal.meta == {"strategy.market_position": "short"}
    twice = {**alert, "strategy": strategy, "strategy.order.action": "buy"}
    assert refused(twice, HookConfig(strategy="orb")).code == "DUPLICATE_KEY"
    deep = {**alert, "strategy": {"order": {"action": {"x": "buy"}}}}
    assert refused(deep, HookConfig(strategy="orb")).code == "MISSING"


def test_exchange_bot_shape():
    body = (
        b'{"symbol":"BTCUSDT","side":"BUY","orderType":"MARKET","quantity":0.015,'
        b'"time":"2026-11-22T14:33:00Z","strategy":"momo"}'
    )
    signal = mapped(body)
    assert (signal.action, signal.order_type) == (Action.BUY, OrderType.MARKET)
    assert str(signal.quantity) == "0.015"


@pytest.mark.parametrize("time", [1763821980000, "1763821980000", 1763821980, "1763821980"])
def test_exit_with_an_epoch(time):
    signal = mapped(
        {"ticker": "ETHUSDT", "action": "exit", "price": 3105.1, "time": time, "strategy": "momo"}
    )
    assert signal.action is Action.CLOSE
    assert signal.issued_at == datetime(2025, 11, 22, 14, 33, tzinfo=UTC)


# Identity.


def test_a_retry_is_the_same_signal_and_another_alert_is_not():
    first, again = (
        mapped(ALERT),
        mapped(json.dumps(dict(reversed(ALERT.items())), indent=1).encode()),
    )
    assert first == again
    assert first.id.startswith("tv-")
    assert len(first.id) == 35
    others = [
        {**ALERT, "time": "2026-11-22T14:31:01Z"},
        {**ALERT, "price": "189.44"},
        {**ALERT, "note": "x"},
    ]
    assert len({first.id, *(mapped(other).id for other in others)}) == 4


@pytest.mark.parametrize("key", ["id", "alert_id", "alertId"])
def test_its_own_id_counts(key):
    assert mapped({**ALERT, key: "a-1"}).id == "a-1"
    assert mapped({**ALERT, key: 7}).id == "7"
    error = refused({**ALERT, key: "no good"})
    assert (error.code, error.field) == ("FORMAT", key)


# Fields.


@pytest.mark.parametrize(
    ("word", "action"),
    [("buy", "buy"), ("LONG", "buy"), ("Sell", "sell"), ("short", "sell"), ("exit", "close"), ("close", "close"),
     ("flat", "close"), (" buy ", "buy"), ("cancel", "cancel")],
)  # fmt: skip
def test_words_for_actions(word, action):
    assert mapped({**ALERT, "action": word}).action == action


@pytest.mark.parametrize("word", ["hold", "", "b u y", "BUY!"])
def test_other_words_are_refused(word):
    error = refused({**ALERT, "action": word})
    assert (error.code, error.field) == ("FORMAT", "action")
    assert "buy" in error.message


def test_contradictions_are_refused():
    assert refused({**ALERT, "side": "sell"}).code == "NOT_ALLOWED"
    assert mapped({**ALERT, "side": "LONG"}).action is Action.BUY
    assert refused({**ALERT, "Action": "sell"}).code == "DUPLICATE_KEY"
    assert refused(b'{"ticker":"A","ticker":"B"}').code == "DUPLICATE_KEY"


@pytest.mark.parametrize("action", ["buy", "sell", None])
def test_a_strategy_gone_flat_is_a_close(action):
    alert = {**ALERT, "strategy.market_position": "flat", "strategy.order.contracts": 0}
    alert["action"] = action
    if action is None:
        del alert["action"]
    signal = mapped(alert)
    assert signal.action is Action.CLOSE
    assert signal.quantity is None


@pytest.mark.parametrize(("action", "position"), [("sell", "long"), ("buy", "short")])
def test_a_partial_exit_is_refused(action, position):
    error = refused({**ALERT, "action": action, "strategy.market_position": position})
    assert (error.code, error.field) == ("NOT_ALLOWED", "strategy.market_position")
    assert "close" in error.message


@pytest.mark.parametrize(
    "field", ["ticker", "action", "price", "time", "strategy", "sl", "contracts", "note"]
)
def test_placeholders_left_unfilled_are_refused(field):
    error = refused({**ALERT, field: "{{strategy.order.action}}"})
    assert (error.code, error.field) == ("FORMAT", field)
    assert "{{strategy.order.action}}" in error.message
    assert "strategy" in error.message


@pytest.mark.parametrize(
    ("missing", "field", "advice"),
    [("ticker", "ticker", "{{ticker}}"), ("action", "action", "{{strategy.order.action}}"),
     ("time", "timenow", "{{timenow}}"), ("strategy", "strategy", "hooks.tv.strategy")],
)  # fmt: skip
def test_what_is_missing_is_said_with_what_to_add(missing, field, advice):
    error = refused({k: v for k, v in ALERT.items() if k != missing})
    assert (error.code, error.field) == ("MISSING", field)
    assert advice in error.message


def test_the_time_of_the_alert_goes_before_the_time_of_its_bar():
    signal = mapped({**ALERT, "time": "2026-11-22T14:15:00Z", "timenow": "2026-11-22T14:30:00Z"})
    assert signal.issued_at.minute == 30


@pytest.mark.parametrize(
    ("time", "code"),
    [("2026-11-22T14:31:00", "FORMAT"), ("yesterday", "FORMAT"), (True, "TYPE"), (-5, "RANGE"), (0, "RANGE"),
     (1e400, "TYPE"), ("2026-11-22T15:00:00Z", "FUTURE"), (1795359600000000, "RANGE"), ("١٢٣", "FORMAT"),
     (1795359600000, "FUTURE"), ([], "TYPE")],
)  # fmt: skip
def test_times_are_refused(time, code):
    error = refused({**ALERT, "time": time})
    assert (error.code, error.field) == (code, "time")


@pytest.mark.parametrize(
    ("order", "kind", "limit", "stop"),
    [
        ({"orderType": "LIMIT"}, "limit", "189.43", None),
        ({"order_type": "limit", "limit_price": "1"}, "limit", "1", None),
        ({"order_type": "stop", "stopPrice": 2}, "stop", None, "2"),
        ({"order_type": "STOP_LIMIT", "stop_price": 2}, "stop_limit", "189.43", "2"),
        ({"order_type": "stop limit", "stop_price": 2, "limitPrice": 3}, "stop_limit", "3", "2"),
    ],
)
def test_order_types(order, kind, limit, stop):
    signal = mapped({**ALERT, **order})
    assert signal.order_type == kind
    assert signal.limit_price == (Decimal(limit) if limit else None)
    assert signal.stop_price == (Decimal(stop) if stop else None)
    assert signal.reference_price == Decimal("189.43")


def test_a_stop_without_its_price_is_refused():
    assert refused({**ALERT, "order_type": "stop"}).field == "stop_price"


@pytest.mark.parametrize("value", ["0", "NaN", "", "1e5", None, True, "-3", 0])
@pytest.mark.parametrize("field", ["price", "sl", "tp", "quantity", "contracts"])
def test_numbers_are_as_strict_as_in_schema_v1(field, value):
    error = refused({**ALERT, field: value})
    assert error.field == field
    assert error.code in {"TYPE", "FORMAT", "RANGE"}


def test_stops_and_times_in_force():
    signal = mapped({**ALERT, "sl": 180, "takeProfit": "200.5", "tif": "GTC", "valid_for_s": 9})
    assert (signal.stop_loss, signal.take_profit) == (180, Decimal("200.5"))
    assert signal.time_in_force is TimeInForce.GTC
    assert signal.valid_for_s == 9


@pytest.mark.parametrize(
    ("hook", "ticker", "symbol"),
    [
        ({}, "NASDAQ:MSFT", "MSFT"),
        ({}, "btcusdt", "BTCUSDT"),
        ({"strip_exchange": False}, "NASDAQ:MSFT", "NASDAQ:MSFT"),
        ({"symbols": {"BINANCE:BTCUSDT.P": "BTCUSDT"}}, "BINANCE:BTCUSDT.P", "BTCUSDT"),
        ({"symbols": {"BTCUSDT.P": "BTCUSDT"}}, "BINANCE:BTCUSDT.P", "BTCUSDT"),
        ({"symbols": {"NASDAQ:MSFT": "X:Y"}}, "NASDAQ:MSFT", "X:Y"),
    ],
)
def test_tickers(hook, ticker, symbol):
    assert mapped({**ALERT, "ticker": ticker}, HookConfig(**hook)).symbol == symbol


def test_a_ticker_that_cannot_be_a_symbol():
    error = refused({**ALERT, "ticker": "S&P 500"})
    assert (error.code, error.field) == ("FORMAT", "ticker")


def test_the_hook_gives_an_age_limit():
    hook = HookConfig(valid_for_s="10.5")
    assert mapped(ALERT, hook).valid_for_s == Decimal("10.5")
    assert mapped({**ALERT, "valid_for_s": "2"}, hook).valid_for_s == 2


def test_extras_go_to_meta_when_they_are_short_and_clean():
    extras = {"interval": "15", "volume": 1234.5, "plot": {"a": 1}, "long": "x" * 600, "esc": "\x1b[1m",
              "api_key": "canary", "exchange": "NASDAQ"}  # fmt: skip
    meta = mapped({**ALERT, **extras}).meta
    assert meta == {"interval": "15", "volume": "1234.5", "exchange": "NASDAQ"}
    assert len(mapped({**ALERT, **{f"x{i}": "v" for i in range(50)}}).meta) == 20


# Schema v1 on the same address.

V1 = {
    "id": "a", "strategy": "orb", "symbol": "AAPL", "action": "buy", "issued_at": "2026-11-22T14:34:59Z",
}  # fmt: skip


def test_schema_v1_passes_through_unchanged():
    assert mapped(V1).id == "a"
    assert refused({**V1, "extra": 1}).code == "UNKNOWN_FIELD"
    assert refused({**V1, "source": "other"}).code == "NOT_ALLOWED"


def test_a_hook_may_insist_on_a_format():
    assert refused(ALERT, HookConfig(format="v1")).code == "UNKNOWN_FIELD"
    assert mapped(V1, HookConfig(format="v1")).id == "a"
    assert mapped({**V1, "extra": "1"}, HookConfig(format="tradingview")).meta == {"extra": "1"}


@pytest.mark.parametrize("body", [b"AAPL Crossing 189.43", b"[]", b""])
def test_plain_text_alerts_are_told_to_become_json(body):
    error = refused(body)
    assert error.code in {"NOT_JSON", "TYPE"}
    assert "JSON object" in error.message


@pytest.mark.parametrize("body", [b"\xff", b"[" * 9000, b'{"a":' * 20])
def test_hostile_bodies(body):
    assert refused(body).code in {"NOT_UTF8", "TOO_LARGE", "TOO_DEEP"}


def test_no_mutation_of_an_alert_lets_anything_but_a_refusal_escape():
    rng = random.Random(11)
    keys = [
        *ALERT,
        *V1,
        "side",
        "orderType",
        "sl",
        "tp",
        "timenow",
        "strategy.market_position",
        "meta",
        "close",
    ]
    accepted = 0
    for _ in range(20_000):
        members = [(key, json.dumps(value)) for key, value in ALERT.items()]
        for _ in range(rng.randint(0, 3)):
            members.insert(
                rng.randrange(6), (rng.choice(keys), rng.choice(fuzz_parser.HOSTILE_VALUES))
            )
            rng.shuffle(members)
        if rng.random() < 0.5:
            members = list(dict(members).items())
        body = fuzz_parser.write(rng, members)
        if rng.random() < 0.3:
            body = fuzz_parser.mutate_bytes(rng, body)
        try:
            signal = mapped(body)
        except InvalidSignal as error:
            assert error.code in fuzz_parser.CODES
            assert error.message.isprintable()
            continue
        accepted += 1
        numbers = (signal.limit_price, signal.stop_price, signal.stop_loss, signal.take_profit,
                   signal.quantity, signal.reference_price, signal.valid_for_s)  # fmt: skip
        assert all(n is None or (n.is_finite() and n > 0) for n in numbers)
        assert (signal.issued_at - NOW).total_seconds() <= 1
    assert accepted > 1000
