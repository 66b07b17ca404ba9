"""C20, override: soft blocks only, one order, sixty seconds, a reason and the PIN; hard ones take a changed limit."""

from __future__ import annotations

from collections.abc import AsyncIterator
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest

from engine.model.codes import CODES
from engine.signals_by_hand import FORCE_VALID_S
from tests.processes import alpaca
from tests.security.operators import audit_rows, code_of, desks
from tests.world import World, by_account, eventually, venue, world

PIN = "2468"
POOR = {
    "stop_loss": "180",
    "take_profit": "190",
    "limit_price": "189",
    "order_type": "limit",
}  # 1 : 9


def accounts(url: str, **limits: Any) -> list[dict[str, Any]]:
    return [alpaca(1, url, limits={"min_reward_risk": "2", **limits})]


@pytest.fixture
async def made(tmp_path: Path) -> AsyncIterator[World]:
    async with (
        venue() as sim,
        world(tmp_path, accounts(f"http://127.0.0.1:{sim.port}")) as running,
    ):
        yield running


async def blocked(made: World, signal_id: str = "s-1", **fields: Any) -> dict[str, Any]:
    """Send a signal whose reward is too little for its risk."""
    detail = await made.send(id=signal_id, **{**POOR, **fields})
    row = by_account(detail)["A-001"]
    assert row["code"] == "REWARD_RISK", row
    return row


def force(signal_id: str = "s-1", **fields: Any) -> dict[str, Any]:
    return {
        "signal": f"bot/{signal_id}",
        "accounts": ["A-001"],
        "reason": "agreed with the client",
        **fields,
    }


async def test_a_soft_block_is_forced_by_the_risk_role_with_reason_and_pin(made: World) -> None:
    await blocked(made)
    async with desks(made, pins={"risk": PIN}) as found:
        assert code_of(await found["trade"].command("force", **force())) == (403, "FORBIDDEN")
        assert code_of(await found["risk"].command("force", **force())) == (403, "PIN_REQUIRED")
        assert (
            await found["risk"].command("force", **force(reason=""), pin=PIN)
        ).status_code == 422
        assert not await made.rows("orders")
        answer = await found["risk"].command("force", **force(), pin=PIN)
        assert answer.status_code == 200, answer.text
    assert list(answer.json()["orders"]) == ["A-001"]
    [alert] = [row for row in made.engine.alerts if row["code"] == "FORCED"]
    assert "by risk: agreed with the client" in alert["text"]


async def test_a_hard_block_is_not_forced_whoever_asks(tmp_path: Path) -> None:
    async with venue() as sim:
        hard = [alpaca(1, f"http://127.0.0.1:{sim.port}", limits={"max_order_quantity": "0.5"})]
        async with world(tmp_path, hard) as made, desks(made, pins={"admin": PIN}) as found:
            row = by_account(await made.send(id="s-1"))["A-001"]
            assert row["code"] == "QTY_MAX"
            assert not CODES["QTY_MAX"].soft
            for desk in (found["admin"], found["operator"]):
                status, code = code_of(await desk.command("force", **force(), pin=PIN))
                assert (status, code) == (409, "QTY_MAX")
            # The way past it: another limit, by the risk role, for what comes from now on.
            limits = {"max_order_quantity": "1"}
            answer = await found["risk"].command(
                "set_limits", account="A-001", limits=limits, reason="agreed"
            )
            assert answer.json()["before"] == {"max_order_quantity": "0.5"}
            assert answer.json()["after"] == {"max_order_quantity": "1"}
            again = by_account(await made.send(id="s-2"))["A-001"]
            assert again["outcome"] == "sent", again


async def test_one_override_is_one_order(made: World) -> None:
    await blocked(made)
    async with desks(made) as found:
        desk = found["risk"]
        assert (await desk.command("force", **force())).status_code == 200
        assert code_of(await desk.command("force", **force())) == (409, "ALREADY_SENT")
        twice = force(accounts=["A-001", "A-001"])
        assert code_of(await desk.command("force", **twice)) == (409, "ALREADY_SENT")
        # No slicing around a limit: a force takes no quantity of its own.
        sliced = await desk.command("force", **force(), quantity="1")
        assert code_of(sliced) == (422, "INVALID_COMMAND")
    entries = [row for row in await made.rows("orders") if row["leg"] not in {"stop", "target"}]
    assert len(entries) == 1


async def test_what_is_forced_still_passes_every_hard_check(made: World) -> None:
    await blocked(made)
    async with desks(made) as found:
        tight = {"max_order_value": "1"}
        await found["risk"].command("set_limits", account="A-001", limits=tight, reason="tighter")
        answer = await found["risk"].command("force", **force())
    refused = answer.json().get("refused", {}).get("A-001", answer.json())
    assert refused["code"] == "VALUE_MAX"
    assert not await made.rows("orders")


async def test_an_override_holds_for_sixty_seconds(made: World) -> None:
    await blocked(made, valid_for_s=3_600)
    async with desks(made) as found:
        before = made.engine.clock.monotonic_ns()
        assert (await found["risk"].command("force", **force())).status_code == 200
        after = made.engine.clock.monotonic_ns()
    [order] = made.engine.records["bot/s-1"].orders.values()
    assert FORCE_VALID_S == 60
    assert before + 60_000_000_000 <= order.send_before_ns <= after + 60_000_000_000


async def test_changed_limits_survive_a_restart_and_are_in_the_books(tmp_path: Path) -> None:
    async with venue() as sim:
        url = f"http://127.0.0.1:{sim.port}"
        async with world(tmp_path, accounts(url)) as made, desks(made) as found:
            limits = {"min_reward_risk": None, "max_order_value": "900", "max_positions": 3}
            answer = await found["risk"].command(
                "set_limits", account="A-001", limits=limits, reason="new mandate"
            )
            assert answer.status_code == 200, answer.text
            home = made.path
            [alert] = [row for row in made.engine.alerts if row["code"] == "LIMITS_CHANGED"]
            for words in (
                "max_order_value none → 900",
                "min_reward_risk 2 → none",
                "by risk: new mandate",
            ):
                assert words in alert["text"]
        rows = [row for row in audit_rows(home) if row["kind"] == "set_limits"]
        assert rows[0]["account"] == "A-001"
        assert rows[0]["facts"] == {
            "by": "risk", "reason": "new mandate", "before": {"min_reward_risk": "2"},
            "after": {"max_order_value": "900", "max_positions": 3},
        }  # fmt: skip
        async with world(tmp_path) as again:
            limits_now = again.engine.fleet.states["A-001"].account.limits
            assert limits_now.max_order_value == Decimal(900)
            assert limits_now.max_positions == 3
            assert limits_now.min_reward_risk is None
            assert not [row for row in again.engine.alerts if row["code"] == "FINGERPRINT"]


@pytest.mark.parametrize(
    ("limits", "names"),
    [
        ({}, "limits"), ({"max_order": "1"}, "limits.max_order"), ({"max_order_value": "0"}, "limits.max_order_value"),
        ({"max_order_value": "-1"}, "limits.max_order_value"), ({"max_order_value": "1e9"}, "limits.max_order_value"),
        ({"max_positions": "3"}, "limits.max_positions"), ({"max_positions": 1.5}, "limits.max_positions"),
        ({"max_order_value": True}, "limits.max_order_value"), ({"max_orders_per_second": 0}, "limits.max_orders_per"),
    ],
)  # fmt: skip
async def test_wrong_limits_are_named_and_change_nothing(
    made: World, limits: dict[str, Any], names: str
) -> None:
    before = made.engine.fleet.states["A-001"].account
    answer = await made.try_command("set_limits", account="A-001", limits=limits, reason="typo")
    assert code_of(answer) == (422, "INVALID_COMMAND")
    assert names in answer.json()["message"]
    assert made.engine.fleet.states["A-001"].account == before


async def test_limits_of_an_account_that_is_not_there(made: World) -> None:
    limits = {"max_positions": 1}
    answer = await made.try_command("set_limits", account="A-999", limits=limits, reason="x")
    assert code_of(answer) == (404, "NOT_FOUND")


async def test_orders_planned_before_keep_the_limits_they_were_planned_with(made: World) -> None:
    async with desks(made) as found:
        resting = {"order_type": "limit", "limit_price": "185"}
        free = {"min_reward_risk": None}
        answer = await found["risk"].command(
            "set_limits", account="A-001", limits=free, reason="free"
        )
        assert answer.status_code == 200
        await made.send(id="rests", **resting)
        [order] = made.engine.orders.working()
        limits = {"max_order_quantity": "0.1"}
        answer = await found["risk"].command(
            "set_limits", account="A-001", limits=limits, reason="tighter"
        )
        assert answer.status_code == 200
        assert made.engine.orders.working() == [order]
        row = by_account(await made.send(id="new", **resting))["A-001"]
        assert row["code"] == "QTY_MAX"
        assert "0.1" in row["message"] or "0.1" in str(row)
    await eventually(
        lambda: made.engine.orders.working() == [order], what="the earlier order still works"
    )


async def test_the_operator_reads_what_is_blocked_and_by_how_much(made: World) -> None:
    row = await blocked(made)
    text = str(row)
    assert "REWARD_RISK" in text
    assert "2" in text
    assert CODES["REWARD_RISK"].soft
    assert CODES["PIN_WRONG"].explanation
