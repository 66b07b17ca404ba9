"""An account's document: what it may say, that it never says a secret, and what the engine makes of it."""

from __future__ import annotations

from decimal import Decimal

import pytest
from pydantic import ValidationError

from engine.model.account import Account, Sizing
from engine.model.account_state import AccountState
from engine.model.enums import ConnectionState
from engine.model.messages import Balances
from tests.helpers import MONDAY, make_account, make_state

SECRET = "canary-5f3a9c"  # looked for everywhere it must not be

FULL = {
    "id": "A-001",
    "name": "Alice",
    "broker": "alpaca",
    "environment": "paper",
    "base_url": None,
    "credentials": {"key_id": "env:ALICE_KEY", "secret": SECRET},
    "active": True,
    "tags": ["gold"],
    "strategies": ["*"],
    "symbols": ["AAPL", "BTC/USD"],
    "approval": "review",
    "sizing": {"method": "risk_percent", "percent": "0.5"},
    "limits": {
        "max_order_quantity": "500",
        "max_order_value": "25000",
        "max_positions": 10,
        "max_daily_loss": "1000",
        "min_reward_risk": "1.0",
        "max_orders_per_second": 8,
    },
    "hours": {"zone": "America/New_York", "open": "09:30", "close": "16:00", "square_off": "15:55"},
}
SIZING = {
    "fixed": {"quantity": "1"},
    "signal": {},
    "percent_equity": {"percent": "1"},
    "risk_percent": {"percent": "1"},
    "notional": {"value": "1"},
    "multiplier": {"factor": "1"},
}


def problem(**changes: object) -> str:
    """Return what is wrong with the full document so changed."""
    with pytest.raises(ValidationError) as caught:
        Account.model_validate(FULL | changes)
    text = str(caught.value)
    assert SECRET not in text
    return text


def test_the_document_of_the_public_interface_goes_in_and_comes_out():
    account = Account.model_validate(FULL)
    again = Account.model_validate(account.document())
    assert again == account
    assert account.document()["credentials"] == FULL["credentials"]
    assert account.document()["limits"]["min_reward_risk"] == "1"
    assert account.document()["hours"]["open"] == "09:30:00"


def test_secrets_are_shown_nowhere():
    account = Account.model_validate(FULL)
    assert account.public()["credentials"] == ["key_id", "secret"]
    for shown in (repr(account), str(account), str(account.public()), account.model_dump_json()):
        assert SECRET not in shown
        assert "ALICE_KEY" not in shown


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("id", ""), ("id", "a b"), ("id", "a/b"), ("id", "x" * 65), ("id", 7), ("name", "x" * 129),
        ("broker", "robinhood"), ("environment", "test"), ("active", "yes"), ("active", 1), ("approval", "maybe"),
        ("tags", ["a b"]), ("tags", "gold"), ("strategies", ["**"]), ("symbols", ["aapl"]),
        ("credentials", {"a b": "x"}), ("sizing", None), ("limits", None), ("base_url", "x" * 257), ("wish", 1),
    ],
)  # fmt: skip
def test_what_a_document_may_not_say(field, value):
    assert field in problem(**{field: value})


@pytest.mark.parametrize("method", SIZING)
def test_each_sizing_method_takes_its_own_field_and_no_other(method):
    fields = SIZING[method]
    assert Sizing.model_validate({"method": method} | fields).method == method
    for name in ("quantity", "percent", "value", "factor"):
        if name not in fields:
            assert f"does not take {name}" in problem(
                sizing={"method": method, **fields, name: "1"}
            )
    for name in fields:
        assert f"needs {name}" in problem(sizing={"method": method})


@pytest.mark.parametrize(
    "number", ["0", "-1", "1e3", "NaN", "Infinity", "", " 1", "1_0", 0.5, True, "1" * 19, None]
)
def test_numbers_are_exact_and_above_zero(number):
    assert "sizing" in problem(sizing={"method": "fixed", "quantity": number})


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("max_order_quantity", "0"), ("max_order_value", "-1"), ("max_positions", -1), ("max_positions", "3"),
        ("max_positions", True), ("max_daily_loss", "0"), ("min_reward_risk", "-1"), ("max_orders_per_second", 0),
        ("max_orders_per_second", 1.5), ("max_orders_per_second", 10_001), ("max_orders", 1),
    ],
)  # fmt: skip
def test_wrong_limits_are_named(name, value):
    assert name in problem(limits={name: value})


@pytest.mark.parametrize(
    ("name", "value"), [("zone", "New York"), ("zone", "../etc"), ("zone", ""), ("open", None), ("close", "24:30")]
)  # fmt: skip
def test_wrong_hours_are_named(name, value):
    assert name in problem(hours={"zone": "UTC", "open": "09:00", "close": "17:00", name: value})


def test_documents_do_not_change():
    with pytest.raises(ValidationError):
        make_account().active = False


# What the engine makes of it.


def test_a_fresh_account_is_not_usable():
    state = AccountState(make_account())
    assert not state.usable
    assert state.equity(Decimal(0)) is None
    for connection in ConnectionState:
        state.connect(connection, "text", MONDAY)
        assert state.usable is (connection.value in {"connected", "degraded"})
        assert (state.connection, state.connection_text, state.updated_at) == (
            connection,
            "text",
            MONDAY,
        )


def test_equity_moves_with_our_positions_since_the_broker_s_last_word():
    state = make_state()
    state.balances = Balances(Decimal(1000), Decimal(400), Decimal(2000))
    state.balance_base = Decimal(30)
    assert state.equity(Decimal(30)) == 1000
    assert state.equity(Decimal("29.5")) == Decimal("999.5")


def test_a_changed_document_is_taken_over_and_live_facts_stay():
    state = make_state(make_account("A", tags=["gold"]))
    state.rejects = 3
    state.update(make_account("A", tags=["iron"], strategies=["x"], symbols=["MSFT"]))
    assert (state.tags, state.strategies, state.all_strategies) == ({"iron"}, {"x"}, False)
    assert (state.symbols, state.all_symbols) == ({"MSFT"}, False)
    assert state.usable
    assert state.rejects == 3
    assert state.balances is not None


def test_only_accounts_that_size_alike_share_a_calculation():
    def key(**sizing: str) -> object:
        return make_state(make_account(sizing=sizing)).sizing_key

    assert key(method="fixed", quantity="1") == key(method="fixed", quantity="1.0")
    assert key(method="fixed", quantity="1") != key(method="fixed", quantity="2")
    assert key(method="multiplier", factor="1") != key(method="signal")
    assert key(method="percent_equity", percent="1") is None
    assert key(method="risk_percent", percent="1") is None
    other = make_account(broker="alpaca", sizing={"method": "signal"})
    assert make_state(other).sizing_key != key(method="signal")
