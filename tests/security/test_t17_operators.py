"""T17, an unauthorised operator: every command for every role, PINs, the pause after wrong ones, names in the books."""

from __future__ import annotations

import asyncio
import json
import os
from collections.abc import AsyncIterator
from datetime import timedelta
from pathlib import Path
from typing import Any, get_args

import httpx
import pytest
from websockets.asyncio.client import connect

from engine import operators as roles
from engine.errors import CommandRefused, ConfigError
from engine.home import Home
from engine.model import commands as c
from engine.operators import NEEDS_PIN, PERMISSIONS, Authority, Operator, Operators, Role, acting
from tests.helpers import HandClock
from tests.processes import paper, signal_document, volley
from tests.security.operators import audit_rows, code_of, desks
from tests.world import World, eventually, world

ID = "A" * 20
DOCUMENTS: dict[str, dict[str, Any]] = {
    "approve": {"signal": "bot/none"},
    "reject": {"signal": "bot/none"},
    "force": {"signal": "bot/none", "accounts": ["P-001"], "reason": "test"},
    "resend": {"cl_ord_id": ID},
    "cancel_order": {"cl_ord_id": ID},
    "cancel_orders": {"scope": "symbol:NONE"},
    "look_up": {"cl_ord_id": ID},
    "replace_order": {"cl_ord_id": ID, "order_qty": "1"},
    "close_position": {"account": "P-001", "symbol": "NONE"},
    "flatten": {"scope": "symbol:NONE"},
    "set_stops": {"account": "P-001", "symbol": "NONE"},
    "pause": {"scope": "symbol:PAUSED"},
    "resume": {"scope": "symbol:PAUSED"},
    "kill": {"scope": "symbol:NONE"},
    "rearm": {"scope": "symbol:NONE", "reason": "test"},
    "disarm": {},
    "resolve_unknown": {"cl_ord_id": ID, "exists": True},
    "set_account_active": {"account": "P-001", "active": True},
    "log_in": {"account": "P-001"},
    "reload_accounts": {},
    "set_limits": {"account": "P-001", "limits": {"max_positions": 7}, "reason": "test"},
    "set_accounts_active": {"accounts": ["P-001"], "active": True},
    "set_account": {"accounts": ["P-001"], "approval": "auto", "reason": "test"},
    "preview": {"held": "bot/none"},
    "acknowledge": {},
    "review": {"strategy": "breakout"},
    "adopt": {"key": "none"},
    "repair": {"key": "none"},
    "note": {"on": "position", "key": "P-001/AAPL", "text": "why"},
    "report": {"day": "2026-11-23"},
    "bars": {"symbol": "NONE"},
    "curves": {"of": "account"},
    "test_alerts": {},
    "presence": {},
}
MAY = {  # spelled out here, not computed: what a desk agrees on
    "view": {"kill", "presence", "preview", "report", "bars", "curves"},
    "trade": {
        "kill", "presence", "preview", "report", "bars", "curves", "note",
        "approve", "reject", "resend", "cancel_order", "replace_order", "close_position",
        "flatten", "set_stops", "pause", "resume", "disarm", "acknowledge", "log_in",
        "cancel_orders", "look_up", "test_alerts",
    },
}  # fmt: skip
MAY["risk"] = MAY["trade"] | {
    "force", "rearm", "set_limits", "set_account", "adopt", "repair", "resolve_unknown", "review",
}  # fmt: skip
MAY["admin"] = MAY["risk"] | {"set_account_active", "set_accounts_active", "reload_accounts"}
MAY["operator"] = MAY["admin"]


def names() -> dict[str, type[c.Command]]:
    return {
        get_args(kind.model_fields["command"].annotation)[0]: kind for kind in get_args(c.Command)
    }


@pytest.fixture
async def made(tmp_path: Path) -> AsyncIterator[World]:
    async with world(tmp_path, [paper(1)]) as running:
        yield running


def test_every_command_has_a_role() -> None:
    assert set(PERMISSIONS) == set(get_args(c.Command))
    assert names().keys() == DOCUMENTS.keys() == MAY["admin"]
    assert set(NEEDS_PIN) <= set(PERMISSIONS)


async def test_the_whole_matrix(made: World) -> None:
    async with desks(made) as found:
        for who, desk in found.items():
            for command, fields in DOCUMENTS.items():
                answer = await desk.command(command, **fields)
                assert (answer.status_code == 403) is (command not in MAY[who]), (
                    who,
                    command,
                    answer.text,
                )
                if answer.status_code == 403:
                    assert answer.json()["code"] == "FORBIDDEN"
                    assert who in answer.json()["message"]


async def test_nobody_gets_in_with_a_token_that_is_none_of_them(made: World) -> None:
    operators = Operators(Home(made.path))
    token = operators.add("gone", Role.ADMIN)
    async with httpx.AsyncClient(base_url=made.http.base_url, trust_env=False) as stranger:
        for given in (
            "x",
            token[:-1],
            token + "x",
            token.swapcase(),
            "gone",
            json.loads(operators.path.read_text())["operators"]["gone"]["token"],
        ):
            headers = {"Authorization": f"Bearer {given}"}
            assert (await stranger.get("/v1/orders", headers=headers)).status_code == 401
        headers = {"Authorization": f"Bearer {token}"}
        assert (await stranger.get("/v1/orders", headers=headers)).status_code == 200
        assert operators.remove("gone")
        assert (await stranger.get("/v1/orders", headers=headers)).status_code == 401
    stored = operators.path.read_text()
    assert token not in stored
    if os.name == "posix":
        assert operators.path.stat().st_mode & 0o077 == 0


async def test_who_may_only_read_reads_everything_and_sends_nothing(made: World) -> None:
    async with desks(made) as found:
        http = found["view"].http
        for path in ("signals", "orders", "fills", "positions", "accounts", "status", "latency"):
            assert (await http.get(f"/v1/{path}")).status_code == 200, path
        assert code_of(await http.post("/v1/signals", json=signal_document())) == (403, "FORBIDDEN")
        assert code_of(await http.post("/v1/prices", json={"AAPL": "1"})) == (403, "FORBIDDEN")
        url = str(http.base_url).replace("http", "ws") + "/v1/feed"
        async with connect(
            url, additional_headers={"Authorization": http.headers["Authorization"]}, proxy=None
        ) as feed:
            assert json.loads(await feed.recv())["type"] == "snapshot"
        trader = found["trade"].http
        assert (await trader.post("/v1/prices", json={"AAPL": "1"})).status_code == 200
    assert not await made.rows("signals")


async def test_a_kill_asks_for_no_pin_and_bears_the_name_of_who_pressed_it(made: World) -> None:
    async with desks(made, pins=dict.fromkeys(("view", "operator"), "2468")) as found:
        assert (await found["view"].command("kill", scope="account:P-001")).status_code == 200
        latch = made.engine.states.get("account:P-001")
        assert latch is not None
        assert latch.by == "view"
        answer = await found["view"].command("rearm", scope="account:P-001", reason="no")
        assert code_of(answer) == (403, "FORBIDDEN")
        assert made.engine.states.get("account:P-001") is not None


@pytest.mark.parametrize("command", sorted(names()))
async def test_which_commands_ask_for_the_pin(made: World, command: str) -> None:
    needs = command in {
        "rearm",
        "force",
        "set_limits",
        "set_account",
        "adopt",
        "repair",
        "resolve_unknown",
    }
    async with desks(made, pins={"operator": "2468"}) as found:
        desk, fields = found["operator"], DOCUMENTS[command]
        assert (code_of(await desk.command(command, **fields)) == (403, "PIN_REQUIRED")) is needs
        assert (
            code_of(await desk.command(command, **fields, pin="2469")) == (403, "PIN_WRONG")
        ) is needs
        assert (await desk.command(command, **fields, pin="2468")).status_code != 403


async def test_a_refusal_for_the_pin_uses_no_command_id_up_and_keeps_no_pin(made: World) -> None:
    async with desks(made, pins={"risk": "86420-pin"}) as found:
        http, document = (
            found["risk"].http,
            {"id": "once", "command": "set_limits", **DOCUMENTS["set_limits"]},
        )
        assert code_of(await http.post("/v1/commands", json=document)) == (403, "PIN_REQUIRED")
        answer = await http.post("/v1/commands", json=document | {"pin": "86420-pin"})
        assert answer.status_code == 200
        assert (
            await http.post("/v1/commands", json=document | {"pin": "86420-pin"})
        ).json() == answer.json()
    for file in made.path.rglob("*"):
        assert not file.is_file() or b"86420-pin" not in file.read_bytes(), file


class Books:
    """Facts and audit rows in memory."""

    def __init__(self) -> None:
        self.facts: dict[str, Any] = {}
        self.rows: list[dict[str, Any]] = []

    async def commit_fact(self, kind: str, key: str, value: dict[str, Any] | None) -> None:
        assert kind == roles.FACT
        self.facts[key] = value

    def audit(self, kind: str, facts: dict[str, Any], account: str = "") -> None:
        self.rows.append(facts)


def command(pin: str | None) -> c.Command:
    return c.parse_command(
        {"id": "x", "command": "rearm", "reason": "test", **({"pin": pin} if pin else {})}
    )


async def test_five_wrong_pins_then_pauses_that_grow_and_survive_a_restart(tmp_path: Path) -> None:
    home, clock, books = Home(tmp_path), HandClock(), Books()
    operators = Operators(home)
    operators.set_pin("operator", "2468")
    authority = Authority(operators, clock, books)

    async def tried(pin: str) -> str:
        try:
            await authority.check(command(pin))
        except CommandRefused as error:
            return f"{error.code}: {error.message}"
        return ""

    for left in (4, 3, 2, 1):
        assert f"{left} more" in await tried("0000")
    assert "30 s" in await tried("0000")
    assert "none is taken" in await tried("2468")  # even the right one
    assert "none is taken" in await tried("0000")  # and a guess in the pause tells nothing
    pauses = []
    for _ in range(9):
        until = authority._wrong["operator"][1]
        assert until is not None
        pauses.append((until - clock.now()).total_seconds())
        authority = Authority(operators, clock, books)  # the engine has been started again
        authority.load(books.facts)
        assert "none is taken" in await tried("2468")
        clock.advance(pauses[-1] - 0.001)
        assert "none is taken" in await tried("2468")
        clock.advance(0.001)
        await tried("0000")
    assert pauses == [30, 60, 120, 240, 480, 960, 1920, 3600, 3600]
    clock.advance(timedelta(hours=1).total_seconds())
    assert await tried("2468") == ""
    assert books.facts == {"operator": None}
    assert "4 more" in await tried("0000")  # counted from the beginning again


async def test_guesses_side_by_side_get_around_no_pause(tmp_path: Path) -> None:
    operators = Operators(Home(tmp_path))
    operators.set_pin("operator", "2468")
    books = Books()
    authority = Authority(operators, HandClock(), books)
    tries = [authority.check(command(f"{guess:04}")) for guess in range(12)]
    results = await asyncio.gather(*tries, return_exceptions=True)
    assert all(isinstance(result, CommandRefused) for result in results)
    assert books.facts["operator"]["wrong"] == 5  # the other seven were not even looked at


async def test_pins_of_two_operators_are_counted_apart(tmp_path: Path) -> None:
    operators = Operators(Home(tmp_path))
    operators.set_pin("operator", "2468")
    operators.add("alice", Role.RISK)
    operators.set_pin("alice", "1357")
    authority = Authority(operators, HandClock(), Books())
    for _ in range(6):
        with pytest.raises(CommandRefused):
            await authority.check(command("9999"))
    token = acting.set(Operator("alice", Role.RISK))
    try:
        await authority.check(command("1357"))
    finally:
        acting.reset(token)


async def test_a_pause_that_a_control_made_takes_the_risk_role_to_end(made: World) -> None:
    from engine.model.enums import TradingState

    async with desks(made) as found:
        await made.engine.latch("account:P-001", TradingState.REDUCING, "5 rejections", "C23")
        answer = await found["trade"].command("resume", scope="account:P-001")
        assert code_of(answer) == (403, "FORBIDDEN")
        assert "C23" in answer.json()["message"]
        assert (await found["risk"].command("resume", scope="account:P-001")).status_code == 200
        assert (await found["trade"].command("pause", scope="account:P-001")).status_code == 200
        assert made.engine.states.get("account:P-001").by == "trade"
        assert (await found["trade"].command("resume", scope="account:P-001")).status_code == 200


async def test_every_decision_is_in_the_audit_trail_with_a_name(made: World) -> None:
    async with desks(made, pins={"risk": "2468"}) as found:
        await found["view"].command("flatten", scope="symbol:NONE")
        await found["risk"].command("rearm", scope="all", reason="x", pin="1111")
        await found["trade"].command("pause", scope="symbol:NONE")
        await eventually(
            lambda: sum(row["kind"] == "operator" for row in audit_rows(made.path)) >= 3,
            what="the rows are written",
        )
    rows = [row["facts"] for row in audit_rows(made.path) if row["kind"] == "operator"]
    told = [(row["by"], row["command"], row.get("refused", "")) for row in rows]
    assert ("view", "flatten", "FORBIDDEN") in told
    assert ("risk", "rearm", "PIN_WRONG") in told
    assert ("trade", "pause", "") in told


def test_the_command_line(tmp_path: Path) -> None:
    done = volley(tmp_path, "operators", "add", "alice", "--role", "risk", "--json")
    assert done.returncode == 0, done.stderr
    token = json.loads(done.stdout)["token"]
    assert Operators(Home(tmp_path)).of_token(token.encode()) == Operator("alice", Role.RISK)
    done = volley(tmp_path, "operators", "pin", "set", "alice", VOLLEY_PIN="97531")
    assert done.returncode == 0, done.stderr
    assert "97531" not in done.stdout + done.stderr + (tmp_path / "operators.json").read_text()
    listed = json.loads(volley(tmp_path, "operators", "list", "--json").stdout)["operators"]
    assert listed == [
        {"name": "operator", "role": "admin", "pin": False}, {"name": "alice", "role": "risk", "pin": True},
    ]  # fmt: skip
    assert token not in volley(tmp_path, "operators", "list").stdout
    again = json.loads(
        volley(tmp_path, "operators", "add", "alice", "--role", "view", "--json").stdout
    )["token"]
    known = Operators(Home(tmp_path))
    assert known.of_token(token.encode()) is None
    assert known.of_token(again.encode()) == Operator("alice", Role.VIEW)
    assert known.pin_of("alice")
    assert volley(tmp_path, "operators", "remove", "alice").returncode == 0
    assert volley(tmp_path, "operators", "remove", "alice").returncode == 1
    for wrong in (
        ["add", "operator", "--role", "view"],
        ["add", "a b", "--role", "view"],
        ["add", "x", "--role", "god"],
    ):
        assert volley(tmp_path, "operators", *wrong).returncode == 2


@pytest.mark.parametrize(
    "content", ["", "{}", "[]", '{"operators": {"a": {}}}', '{"operators": {"a": {"role": "god"}}}']
)
def test_a_damaged_file_lets_nobody_in(tmp_path: Path, content: str) -> None:
    operators = Operators(Home(tmp_path))
    operators.path.write_text(content)
    with pytest.raises(ConfigError, match="damaged"):
        operators.of_token(b"x")
