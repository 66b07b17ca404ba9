"""T04, a program of the same user: stated honestly, and nothing Volley can be made to do takes money out."""

from __future__ import annotations

import re
from pathlib import Path

import engine
from engine.model import commands as c
from engine.operators import NEEDS_PIN, PERMISSIONS, Role

ROOT = Path(engine.__file__).parents[1]
MONEY_OUT = re.compile(
    r"""["'/](sapi/v\d/capital|[\w/-]*withdraw(?!als?_blocked)[\w/-]*|[\w/-]*/transfers?|asset/transfer|[\w/-]*/payout)["'/?]""",
    re.IGNORECASE,
)


def test_the_scan_finds_what_it_looks_for() -> None:
    for text in (
        '"/sapi/v1/capital/withdraw/apply"',
        '"/v1/accounts/x/transfers"',
        "'/withdraw'",
        '"/wallet/payout"',
    ):
        assert MONEY_OUT.search(text), text


def test_no_request_of_an_adapter_moves_money_out() -> None:
    for path in (ROOT / "engine").rglob("*.py"):
        if "simbroker" in path.parts:
            continue
        found = MONEY_OUT.search(path.read_text("utf-8"))
        assert found is None, f"{path}: {found}"


def test_what_loosens_limits_or_adds_accounts_takes_more_than_trading() -> None:
    for command in (c.SetLimits, c.Force, c.Rearm):
        assert command in NEEDS_PIN
        assert PERMISSIONS[command] is Role.RISK
    assert PERMISSIONS[c.ReloadAccounts] is PERMISSIONS[c.SetAccountActive] is Role.ADMIN


def test_the_help_says_what_no_program_can_keep_out() -> None:
    text = " ".join((ROOT / "resources" / "help" / "security.md").read_text("utf-8").split())
    assert "A program that runs as the same user can read what Volley can read" in text
    assert "keys that may trade but not withdraw" in text
    assert "cannot refuse a key that may withdraw" in text
