"""Many accounts changed at once: all or none, written down, durable, by whoever may."""

from __future__ import annotations

import asyncio
import json
import sqlite3
from contextlib import closing
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest

from engine.home import Home
from engine.operators import Operators, Role
from tests.world import World, paper, world

THREE = [paper(1), paper(2, limits={"max_positions": 4}), paper(3, approval="review")]
ALL = ["P-001", "P-002", "P-003"]


def written(home: Path) -> list[dict[str, Any]]:
    with closing(sqlite3.connect(f"file:{home / 'journal.sqlite3'}?mode=ro", uri=True)) as base:
        rows = base.execute(
            "SELECT account, facts FROM audit WHERE kind = 'set_account' ORDER BY seq"
        ).fetchall()
    return [{"account": account, **json.loads(facts)} for account, facts in rows]


def documents(w: World) -> dict[str, Any]:
    return {name: state.account for name, state in w.engine.fleet.states.items()}


async def test_a_group_is_changed_at_once_and_stays_so(tmp_path: Path) -> None:
    async with world(tmp_path, THREE) as w:
        answer = await w.command(
            "set_account", accounts=[*ALL, "P-001"], approval="review", reason="new desk",
            sizing={"method": "percent_equity", "percent": "0.25"},
            limits={"max_order_value": "5000", "max_positions": None},
        )  # fmt: skip
        assert answer["changed"] == ALL
        for account in documents(w).values():
            assert (account.approval, str(account.sizing.percent)) == ("review", "0.25")
            assert str(account.limits.max_order_value) == "5000"
            assert account.limits.max_positions is None
        [alert] = [
            r for r in w.engine.alerts if r["code"] == "ACCOUNTS_CHANGED" and "P-001" in r["text"]
        ]
        assert (
            "limits, approval, sizing of P-001, P-002, P-003, by operator: new desk"
            in alert["text"]
        )
        again = await w.command("set_account", accounts=ALL, approval="review", reason="again")
        assert again["changed"] == []
        home = w.path
        w.engine.set_prices({"AAPL": Decimal(100)})
        held = await w.post()
        assert held.json()["state"] == "held"  # in force for what is planned from now on
    rows = written(home)
    assert [row["account"] for row in rows[:3]] == ALL
    assert rows[1]["before"]["limits"]["max_positions"] == 4
    assert rows[1]["after"]["limits"]["max_positions"] is None
    assert {row["reason"] for row in rows} == {"new desk", "again"}
    async with world(tmp_path) as w:
        assert {account.approval for account in documents(w).values()} == {"review"}


@pytest.mark.parametrize(
    ("fields", "status", "says"),
    [
        ({"accounts": [*ALL, "X"], "approval": "review"}, 404, "no account X"),
        ({"limits": {"max_lots": "1"}}, 422, "no such limit"),
        ({"limits": {"max_order_value": "-1"}}, 422, "limits.max_order_value"),
        ({"limits": {}}, 422, "name at least one"),
        ({"sizing": {"method": "fixed"}}, 422, "needs quantity"),
        ({"sizing": {"method": "fixed", "quantity": "1", "percent": "2"}}, 422, "does not take"),
        ({"approval": "never"}, 422, "approval"),
        ({}, 422, "name approval, sizing or limits"),
        ({"approval": "review", "accounts": []}, 422, "accounts"),
        ({"approval": "review", "reason": ""}, 422, "reason"),
        ({"active": False}, 422, "active"),
    ],
)
async def test_one_wrong_value_changes_nobody(
    tmp_path: Path, fields: dict[str, Any], status: int, says: str
) -> None:
    async with world(tmp_path, THREE) as w:
        before = documents(w)
        answer = await w.try_command("set_account", **({"accounts": ALL, "reason": "x"} | fields))
        assert answer.status_code == status
        assert says in answer.json()["message"]
        assert documents(w) == before
        await w.engine.journal.flushed()
        assert not written(w.path)


async def test_whole_numbers_as_json_numbers(tmp_path: Path) -> None:
    async with world(tmp_path, THREE) as w:
        sizing = {"method": "fixed", "quantity": 7}
        await w.command("set_account", accounts=ALL, sizing=sizing,
                        limits={"max_orders_per_day": 9}, reason="x")  # fmt: skip
        [account] = {a.sizing.quantity: a for a in documents(w).values()}.values()
        assert (account.sizing.quantity, account.limits.max_orders_per_day) == (7, 9)


async def test_it_takes_the_role_risk_and_its_pin(tmp_path: Path) -> None:
    async with world(tmp_path, THREE) as w:
        operators = Operators(Home(w.path))
        change = {"accounts": ALL, "approval": "review", "reason": "x"}
        for role, pin, code in (
            (Role.TRADE, "", "FORBIDDEN"), (Role.RISK, "2468", "PIN_REQUIRED"), (Role.RISK, "2468", ""),
        ):  # fmt: skip
            token = await asyncio.to_thread(operators.add, "ann", role)
            if pin:
                await asyncio.to_thread(operators.set_pin, "ann", pin)
            w.http.headers["Authorization"] = f"Bearer {token}"
            given = {} if code else {"pin": pin}
            answer = await w.try_command("set_account", **change, **given)
            assert (answer.status_code, answer.json().get("code", "")) == (
                403 if code else 200,
                code,
            )
            stored = {account.approval for account in documents(w).values()}
            assert (stored == {"review"}) is not bool(code)


async def test_many_are_switched_by_one_command(tmp_path: Path) -> None:
    async with world(tmp_path, THREE) as w:
        answer = await w.command("set_accounts_active", accounts=ALL[:2], active=False)
        assert answer == {"result": "inactive", "accounts": ALL[:2]}
        assert {name: account.active for name, account in documents(w).items()} == {
            "P-001": False, "P-002": False, "P-003": True,
        }  # fmt: skip
        assert await w.refused("set_accounts_active", accounts=["P-003", "X"], active=False) == (
            404, "NOT_FOUND",
        )  # fmt: skip
        assert documents(w)["P-003"].active
