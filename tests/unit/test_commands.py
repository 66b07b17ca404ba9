"""Operators' commands: what each takes, and that a refusal names the field."""

from __future__ import annotations

from decimal import Decimal

import pytest

from engine.errors import CommandRefused
from engine.model import commands as c
from engine.model.commands import parse_command

ORDER = "ABCDEFGHIJKLMNOP2345"
KEY = "bot/s-1"

VALID = {
    "approve": ({"signal": KEY}, c.Approve),
    "reject": ({"signal": KEY}, c.Reject),
    "force": ({"signal": KEY, "accounts": ["A-1"], "reason": "because"}, c.Force),
    "resend": ({"cl_ord_id": ORDER}, c.Resend),
    "cancel_order": ({"cl_ord_id": ORDER}, c.CancelOrder),
    "replace_order": ({"cl_ord_id": ORDER, "limit_price": "1.5"}, c.ReplaceOrder),
    "close_position": ({"account": "A-1", "symbol": "AAPL"}, c.ClosePosition),
    "flatten": ({"scope": "all"}, c.Flatten),
    "set_stops": ({"account": "A-1", "symbol": "AAPL", "stop_loss": "9.5"}, c.SetStops),
    "pause": ({"scope": "strategy:breakout"}, c.Pause),
    "resume": ({"scope": "strategy:breakout"}, c.Resume),
    "kill": ({}, c.Kill),
    "rearm": ({"reason": "checked"}, c.Rearm),
    "disarm": ({}, c.Disarm),
    "resolve_unknown": ({"cl_ord_id": ORDER, "exists": False}, c.ResolveUnknown),
    "set_account_active": ({"account": "A-1", "active": True}, c.SetAccountActive),
    "reload_accounts": ({}, c.ReloadAccounts),
    "set_accounts_active": ({"accounts": ["A-1"], "active": True}, c.SetAccountsActive),
}
COMMANDS = list(VALID)


def document(command: str, **changes: object) -> dict[str, object]:
    return {"id": "c-1", "command": command} | VALID[command][0] | changes


def refused(made: object) -> str:
    """Return the sentence with which a document is refused."""
    with pytest.raises(CommandRefused) as caught:
        parse_command(made)
    assert caught.value.status == 422
    assert caught.value.code == "INVALID_COMMAND"
    return caught.value.message


@pytest.mark.parametrize("command", COMMANDS)
def test_the_least_each_command_needs(command):
    made = parse_command(document(command))
    assert type(made) is VALID[command][1]
    assert made.id == "c-1"
    assert parse_command(made.model_dump(mode="json")) == made


@pytest.mark.parametrize(
    ("command", "field"),
    [
        (command, field)
        for command in COMMANDS
        for field in ["id", *VALID[command][0]]
        if (command, field) not in {("replace_order", "limit_price"), ("set_stops", "stop_loss")}
    ],
)
def test_what_is_missing_is_named(command, field):
    made = document(command)
    del made[field]
    assert refused(made) == f"{field}: Field required"


@pytest.mark.parametrize("command", COMMANDS)
def test_what_is_not_known_is_named(command):
    assert refused(document(command, wish=1)) == "wish: Extra inputs are not permitted"


@pytest.mark.parametrize(
    "made", [{}, {"id": "c-1"}, {"command": "explode", "id": "c-1"}, {"command": 7}]
)
def test_no_command_and_unknown_ones(made):
    assert refused(made).startswith("command: ")


@pytest.mark.parametrize("made", [None, [], "kill", 1])
def test_what_is_no_object_is_refused(made):
    assert refused(made)


WRONG = {
    "id": ("kill", ["", "x" * 65, 7, None]),
    "signal": ("approve", ["s-1", "a/b/c", "a b/c", "", "/", "bot/" + "x" * 65, None]),
    "cl_ord_id": ("resend", ["", ORDER[:-1], ORDER + "A", ORDER.lower(), ORDER[:-1] + "1", None]),
    "account": ("close_position", ["", "a b", "a/b", "x" * 65, None]),
    "symbol": ("close_position", ["", "aapl", "A B", "-A", "A" * 33, None]),
    "fraction": ("close_position", ["0", "-0.5", "1.0001", "2", "1e-1", "NaN", "", 0.5, True]),
    "scope": (
        "flatten",
        ["", "everything", "account:", "account:a b", "broker:", "symbol:aapl", "user:x", "all ", None],
    ),
    "reason": ("rearm", ["", "   ", "x" * 257, 7]),
    "exists": ("resolve_unknown", ["true", 1, 0, None]),
    "active": ("set_account_active", ["yes", 1, None]),
    "flatten": ("kill", ["yes", 1, None]),
    "scale": ("approve", ["0", "-1", "1e3", "Infinity", 0.5, False]),
    "limit_price": ("replace_order", ["0", "-1", " 1", "1_0", "0." + "1" * 13, 1.5]),
    "stop_price": ("replace_order", ["0", "abc"]),
    "order_qty": ("replace_order", ["0", "-1", "1" * 19]),
    "stop_loss": ("set_stops", ["0", "x"]),
    "take_profit": ("set_stops", ["0", []]),
    "accounts": ("force", [[], "A-1", None]),
}  # fmt: skip


@pytest.mark.parametrize(
    ("field", "command", "value"),
    [(field, command, value) for field, (command, values) in WRONG.items() for value in values],
)
def test_wrong_values_are_refused_by_name(field, command, value):
    assert refused(document(command, **{field: value})).startswith(f"{field}: ")


def test_a_wrong_account_is_named_by_its_place():
    assert refused(document("force", accounts=["A-1", "b c"])).startswith("accounts.1: ")


def test_a_refusal_does_not_say_the_value():
    assert "hunter2" not in refused(document("close_position", account="hunter2 !"))


def test_numbers_are_read_exactly():
    approve = parse_command(
        document(
            "approve", accounts=["A-1", "A-2"], scale="0.1", limit_price="101.250", stop_loss=99
        )
    )
    assert approve.accounts == ("A-1", "A-2")
    assert (approve.scale, approve.limit_price, approve.stop_loss) == (
        Decimal("0.1"),
        Decimal("101.25"),
        99,
    )
    assert approve.model_dump(mode="json")["limit_price"] == "101.25"


@pytest.mark.parametrize("fraction", ["1", "0.5", "0.000000000001"])
def test_a_fraction_is_more_than_nothing_and_at_most_all(fraction):
    assert parse_command(document("close_position", fraction=fraction)).fraction == Decimal(
        fraction
    )
    assert parse_command(document("close_position")).fraction == 1


@pytest.mark.parametrize(
    "scope", ["all", "account:A-1", "broker:alpaca", "strategy:x.y_z", "symbol:BTC/USD"]
)
@pytest.mark.parametrize("command", ["kill", "rearm", "pause", "resume", "flatten"])
def test_scopes(command, scope):
    assert parse_command(document(command, scope=scope)).scope == scope


def test_defaults_of_the_kill_switch():
    kill = parse_command(document("kill"))
    assert (kill.scope, kill.flatten, kill.reason) == ("all", False, None)
    assert parse_command(document("rearm", reason="  ok ")).reason == "ok"


def test_commands_do_not_change():
    with pytest.raises(ValueError, match="frozen"):
        parse_command(document("kill")).scope = "account:A-1"


def test_a_command_there_is_not_is_told_which_there_are():
    missing, unknown = refused({"id": "c-1"}), refused({"id": "c-1", "command": "kil\nl"})
    assert missing.startswith("command: expected one of approve, reject, ")
    assert unknown.startswith("command: 'kil\\nl': expected one of approve, reject, ")
    half = refused(document("close_position", fraction="1.5"))
    assert half == "fraction: must be at most 1 (all of it)"
