"""What an operator does by hand, each through ``POST /v1/commands``, each seen at the venue."""

from __future__ import annotations

import asyncio
import os
import sqlite3
import time
from collections.abc import AsyncIterator
from contextlib import closing
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest

from engine.model.enums import OrderStatus
from engine.simbroker import SimBroker
from tests.processes import (
    EngineProcess,
    VenueProcess,
    alpaca,
    import_accounts,
    paper,
    signal_document,
    until,
    volley,
    write_config,
)
from tests.world import World, by_account, eventually, venue, world

PRICE = Decimal("189.40")
FAR = {"order_type": "limit", "limit_price": "185"}  # rests: 2.3 % away


@pytest.fixture
async def sim() -> AsyncIterator[SimBroker]:
    async with venue() as made:
        yield made


def url(sim: SimBroker) -> str:
    return f"http://127.0.0.1:{sim.port}"


def at_venue(sim: SimBroker, number: int = 1) -> list[Any]:
    account = sim.venue.accounts.get(f"KEY{number:03d}")
    return [o for o in account.orders.values() if not o.leg] if account else []


def posts(sim: SimBroker) -> int:
    return sum(row.method == "POST" and row.path == "/v2/orders" for row in sim.log.rows())


def reviewed(sim: SimBroker, count: int = 3) -> list[dict[str, Any]]:
    return [alpaca(n, url(sim), approval="review") for n in range(1, count + 1)]


async def holding(w: World, sim: SimBroker, lots: int = 1) -> None:
    """Let every account hold ``lots`` AAPL."""
    for number in range(lots):
        await w.send(id=f"hold-{number}")
    await eventually(lambda: all(w.position(name) == lots for name in w.engine.fleet.states))


async def resting(w: World, account: str = "A-001", **fields: Any) -> str:
    """Leave a working order at the venue; return its client id."""
    detail = await w.send(**({"id": "rest", **FAR} | fields))
    order = w.order(detail, account)
    await eventually(lambda: order.status is OrderStatus.NEW)
    return order.cl_ord_id


# ---- held signals


async def test_approve_all(tmp_path, sim: SimBroker) -> None:
    async with world(tmp_path, [*reviewed(sim), paper(1)]) as w:
        answer = await w.post()
        assert answer.json()["state"] == "accepted"  # the paper account needs no review
        await w.post(id="s-2", audience={"accounts": ["A-001", "A-002"]})
        detail = await w.detail("bot/s-2")
        assert detail["signal"]["state"] == "held"
        assert detail["signal"]["hold_expires_at"]
        assert not at_venue(sim)
        result = await w.command("approve", signal="bot/s-2")
        assert (result["result"], set(result["orders"])) == ("approved", {"A-001", "A-002"})
        await eventually(lambda: w.position("A-001") == w.position("A-002") == 1)
        assert [o.client_order_id for o in at_venue(sim)] == [result["orders"]["A-001"]]
        detail = await w.detail("bot/s-2")
        assert detail["signal"]["state"] == "accepted"
        assert detail["signal"]["hold_expires_at"] is None
        assert (await w.post(id="s-2", audience={"accounts": ["A-001", "A-002"]})).status_code in {
            200,
            409,
        }
        assert await w.refused("approve", signal="bot/s-2") == (409, "NOT_HELD")
        assert await w.refused("approve", signal="bot/none") == (404, "NOT_FOUND")


async def test_approve_some_scaled_and_changed(tmp_path, sim: SimBroker) -> None:
    lots = {"sizing": {"method": "fixed", "quantity": "10"}}
    accounts = [alpaca(n, url(sim), approval="review", **lots) for n in (1, 2, 3)]
    async with world(tmp_path, accounts) as w:
        await w.post(stop_loss="180", take_profit="200")
        result = await w.command(
            "approve", signal="bot/s-1", accounts=["A-002"], scale="0.55", limit_price="189.50",
        )  # fmt: skip
        assert set(result["orders"]) == {"A-002"}
        await eventually(lambda: w.position("A-002") == 5)
        [order] = at_venue(sim, 2)
        assert (order.order_qty, order.limit_price) == (5, Decimal("189.50"))
        rows = by_account(await w.detail("bot/s-1"))
        assert rows["A-001"]["outcome"] == rows["A-003"]["outcome"] == "held"
        assert await w.refused("approve", signal="bot/s-1", accounts=["A-002"]) == (409, "NOT_HELD")
        await w.command("reject", signal="bot/s-1", accounts=["A-001"], reason="no")
        result = await w.command("approve", signal="bot/s-1", scale="0.01")
        assert (result["orders"], result["refused"]["A-003"]["code"]) == ({}, "QTY_MIN")
        rows = by_account(await w.detail("bot/s-1"))
        assert (rows["A-001"]["code"], rows["A-003"]["code"]) == ("REJECTED_BY_OPERATOR", "QTY_MIN")
        assert not at_venue(sim, 1)
        assert not at_venue(sim, 3)


async def test_approval_checks_what_has_changed_since(tmp_path, sim: SimBroker) -> None:
    async with world(tmp_path, reviewed(sim, 2)) as w:
        await w.post()
        await w.command("set_account_active", account="A-001", active=False)
        result = await w.command("approve", signal="bot/s-1")
        assert set(result["orders"]) == {"A-002"}
        assert result["refused"]["A-001"]["code"] == "INACTIVE"
        await w.post(id="s-2")
        await w.command("pause", scope="all")
        assert await w.refused("approve", signal="bot/s-2") == (409, "PAUSED")
        await w.command("resume", scope="all")
        assert await w.refused("approve", signal="bot/s-2", limit_price="300") == (409, "COLLAR")
        assert (await w.detail("bot/s-2"))["signal"]["state"] == "held"
        assert set((await w.command("approve", signal="bot/s-2"))["orders"]) == {"A-002"}


async def test_an_approval_is_as_fresh_as_the_moment_it_is_given(tmp_path, sim: SimBroker) -> None:
    async with world(tmp_path, reviewed(sim, 1)) as w:
        await w.post(valid_for_s=0.2)
        received = time.monotonic()
        await eventually(lambda: time.monotonic() > received + 0.4)
        await w.command("approve", signal="bot/s-1")
        await eventually(lambda: w.position("A-001") == 1)


async def test_reject(tmp_path, sim: SimBroker) -> None:
    async with world(tmp_path, reviewed(sim)) as w:
        await w.post()
        result = await w.command("reject", signal="bot/s-1", reason="not today")
        assert result == {"result": "rejected", "accounts": ["A-001", "A-002", "A-003"]}
        detail = await w.detail("bot/s-1")
        assert detail["signal"]["state"] == "rejected"
        assert {row["code"] for row in detail["accounts"]} == {"REJECTED_BY_OPERATOR"}
        assert {row["message"] for row in detail["accounts"]} == {"not today"}
        assert await w.refused("approve", signal="bot/s-1") == (409, "NOT_HELD")
        assert not posts(sim)


async def test_a_hold_runs_out(tmp_path, sim: SimBroker) -> None:
    async with world(tmp_path, reviewed(sim, 2), signals={"approval_timeout_s": 0.3}) as w:
        first = await w.post()
        assert first.json()["state"] == "held"
        record = w.engine.records["bot/s-1"]
        await eventually(lambda: not record.held)
        detail = await w.detail("bot/s-1")
        assert detail["signal"]["state"] == "expired"
        assert {row["code"] for row in detail["accounts"]} == {"APPROVAL_TIMEOUT"}
        assert await w.refused("approve", signal="bot/s-1") == (409, "NOT_HELD")
        result = await w.command(
            "force", signal="bot/s-1", accounts=["A-001"], reason="was at lunch"
        )
        assert set(result["orders"]) == {"A-001"}
        await eventually(lambda: w.position("A-001") == 1)


# ---- force


async def test_force_passes_soft_blocks_only(tmp_path, sim: SimBroker) -> None:
    here = url(sim)
    accounts = [
        alpaca(1, here, limits={"min_reward_risk": "5"}),
        alpaca(2, here, limits={"max_positions": 0}),
        alpaca(3, here, limits={"max_order_quantity": "0.5"}),
        alpaca(4, here, active=False),
        alpaca(5, here, strategies=["other"]),
        alpaca(6, here),
    ]
    async with world(tmp_path, accounts) as w:
        await w.send(stop_loss="180", take_profit="200")
        for account, code in (
            ("A-003", "QTY_MAX"),
            ("A-004", "INACTIVE"),
            ("A-005", "NOT_SUBSCRIBED"),
        ):
            given = {"signal": "bot/s-1", "accounts": [account], "reason": "please"}
            assert await w.refused("force", **given) == (409, code)
        given = {"signal": "bot/s-1", "accounts": ["A-006"], "reason": "again"}
        assert await w.refused("force", **given) == (409, "ALREADY_SENT")
        given = {"signal": "bot/s-1", "accounts": ["nobody"], "reason": "again"}
        assert await w.refused("force", **given) == (404, "NOT_FOUND")
        assert await w.refused("force", signal="bot/s-1", accounts=["A-001"]) == (
            422,
            "INVALID_COMMAND",
        )
        result = await w.command(
            "force", signal="bot/s-1", accounts=["A-001", "A-002"], reason="I know"
        )
        assert set(result["orders"]) == {"A-001", "A-002"}
        await eventually(lambda: w.position("A-001") == w.position("A-002") == 1)
        rows = by_account(await w.detail("bot/s-1"))
        assert rows["A-001"]["cl_ord_id"] == result["orders"]["A-001"]
        assert rows["A-001"]["code"] == ""
        assert any(alert["code"] == "FORCED" for alert in w.engine.alerts)
        twice = {"signal": "bot/s-1", "accounts": ["A-001"], "reason": "again"}
        assert await w.refused("force", **twice) == (409, "ALREADY_SENT")
        assert len(at_venue(sim, 1)) == 1


async def test_a_forced_signal_was_still_refused_at_first(tmp_path, sim: SimBroker) -> None:
    account = alpaca(1, url(sim), limits={"min_reward_risk": "5"})
    async with world(tmp_path, [account]) as w:
        document = signal_document(stop_loss="180", take_profit="200")
        first = await w.http.post("/v1/signals", json=document)
        assert first.json()["code"] == "NO_ACCOUNTS"
        await w.command("force", signal="bot/s-1", accounts=["A-001"], reason="I know")
        await eventually(lambda: w.position("A-001") == 1)
        again = await w.http.post("/v1/signals", json=document)
        assert again.status_code == 200
        assert again.json() == first.json()


async def test_force_after_stale_uses_a_new_id(tmp_path, sim: SimBroker) -> None:
    slow = alpaca(1, url(sim), limits={"max_orders_per_second": 1})
    async with world(tmp_path, [slow]) as w:
        await w.post(id="s-0")
        await w.post(id="s-1", valid_for_s=0.3)
        order = w.engine.records["bot/s-1"].orders["A-001"]
        await eventually(lambda: order.status is OrderStatus.DENIED)
        assert order.code == "STALE"
        result = await w.command("force", signal="bot/s-1", accounts=["A-001"], reason="late")
        forced = result["orders"]["A-001"]
        assert forced != order.cl_ord_id
        forced_order = w.engine.orders.orders[forced]
        await eventually(lambda: forced_order.status in {OrderStatus.FILLED, OrderStatus.DENIED})
        assert (len(at_venue(sim)) == 2) == (forced_order.status is OrderStatus.FILLED)


# ---- orders


async def test_cancel_order(tmp_path, sim: SimBroker) -> None:
    async with world(tmp_path, [alpaca(1, url(sim)), paper(1)]) as w:
        for account in ("A-001", "P-001"):
            cl_ord_id = await resting(
                w, account, id=f"rest-{account}", audience={"accounts": [account]}
            )
            assert (await w.command("cancel_order", cl_ord_id=cl_ord_id))["result"] == "requested"
            order = w.engine.orders.orders[cl_ord_id]
            await eventually(lambda o=order: o.status is OrderStatus.CANCELED)
            assert await w.refused("cancel_order", cl_ord_id=cl_ord_id) == (409, "NOT_WORKING")
        assert at_venue(sim)[0].status is OrderStatus.CANCELED
        assert await w.refused("cancel_order", cl_ord_id="A" * 20) == (404, "NOT_FOUND")
        assert await w.refused("cancel_order", cl_ord_id="nonsense") == (422, "INVALID_COMMAND")


async def test_a_queued_order_is_cancelled_before_it_leaves(tmp_path, sim: SimBroker) -> None:
    slow = alpaca(1, url(sim), limits={"max_orders_per_second": 1})
    async with world(tmp_path, [slow]) as w:
        await w.post(id="s-0")
        await w.post(id="s-1")
        order = w.engine.records["bot/s-1"].orders["A-001"]
        result = await w.command("cancel_order", cl_ord_id=order.cl_ord_id)
        assert result["result"] == "canceled"
        assert (order.status, order.code) == (OrderStatus.DENIED, "CANCELED_BY_OPERATOR")
        # The answer is a promise: a crash right after it must not bring the order back.
        with closing(sqlite3.connect(tmp_path / "home" / "journal.sqlite3")) as journal:
            query = "SELECT status FROM orders WHERE cl_ord_id = ?"
            assert journal.execute(query, (order.cl_ord_id,)).fetchall() == [("denied",)]
        await w.send(id="s-2")
        assert len(at_venue(sim)) == 2


async def test_replace_order(tmp_path, sim: SimBroker) -> None:
    async with world(tmp_path, [alpaca(1, url(sim)), paper(1)]) as w:
        for number, account in enumerate(("A-001", "P-001")):
            first = await resting(w, account, id=f"rest-{number}", audience={"accounts": [account]})
            w.engine.set_prices({"AAPL": PRICE})
            changes = {"order_qty": "3", "limit_price": "186"}
            result = await w.command("replace_order", cl_ord_id=first, **changes)
            assert result["replaces"] == first
            old, new = (w.engine.orders.orders[i] for i in (first, result["cl_ord_id"]))
            await eventually(lambda o=old: o.status is OrderStatus.REPLACED)
            await eventually(lambda n=new: n.status is OrderStatus.NEW)
            assert (new.order_qty, new.limit_price) == (3, 186)
            state = w.engine.fleet.states[account]
            assert list(state.working) == [new.cl_ord_id]
            assert await w.refused("replace_order", cl_ord_id=first, order_qty="4") == (
                409,
                "NOT_WORKING",
            )
            given = {"cl_ord_id": new.cl_ord_id}
            assert await w.refused("replace_order", **given) == (422, "INVALID_COMMAND")
        sim.venue.market.pin("AAPL", Decimal("185.9"))
        await eventually(lambda: w.position("A-001") == 3)
        assert len(at_venue(sim)) == 2


async def test_a_replacement_the_broker_refuses_leaves_the_order(tmp_path, sim: SimBroker) -> None:
    async with world(tmp_path, [alpaca(1, url(sim))]) as w:
        first = await resting(w)
        result = await w.command("replace_order", cl_ord_id=first, order_qty="1000000")
        new = w.engine.orders.orders[result["cl_ord_id"]]
        await eventually(lambda: new.status is OrderStatus.REJECTED)
        assert w.engine.orders.orders[first].status is OrderStatus.NEW
        assert list(w.engine.fleet.states["A-001"].working) == [first]


# ---- positions


async def test_close_position_by_fractions(tmp_path, sim: SimBroker) -> None:
    sizing = {"method": "fixed", "quantity": "10"}
    async with world(tmp_path, [alpaca(1, url(sim), sizing=sizing)]) as w:
        await w.send()
        await eventually(lambda: w.position("A-001") == 10)
        given = {"account": "A-001", "symbol": "AAPL"}
        result = await w.command("close_position", **given, fraction="0.25")
        assert result["order_qty"] == "2"
        await eventually(lambda: w.position("A-001") == 8)
        assert await w.refused("close_position", **given, fraction="1.5") == (
            422,
            "INVALID_COMMAND",
        )
        assert await w.refused("close_position", **given, fraction="0.01") == (409, "NO_POSITION")
        await w.command("close_position", **given)
        await eventually(lambda: w.position("A-001") == 0)
        assert await w.refused("close_position", **given) == (409, "NO_POSITION")
        await w.send(id="short", action="sell")
        await eventually(lambda: w.position("A-001") == -10)
        await w.command("close_position", **given)
        await eventually(lambda: w.position("A-001") == 0)
        money = sim.venue.accounts["KEY001"].money
        assert money.positions["AAPL"].qty == 0


async def test_flatten_cancels_and_closes_its_scope(tmp_path, sim: SimBroker) -> None:
    accounts = [alpaca(n, url(sim)) for n in (1, 2)]
    async with world(tmp_path, accounts) as w:
        await holding(w, sim)
        await w.send(id="eth", symbol="ETHUSDT")
        await eventually(lambda: w.position("A-002", "ETHUSDT") == 1)
        rest = [
            await resting(w, name, id=f"r-{name}", audience={"accounts": [name]})
            for name in ("A-001", "A-002")
        ]
        result = await w.command("flatten", scope="account:A-001", reason="test")
        assert result["cancels"] == 1
        assert set(result["orders"].values()) == {"A-001"}
        await eventually(lambda: w.position("A-001") == w.position("A-001", "ETHUSDT") == 0)
        orders = w.engine.orders.orders
        await eventually(lambda: orders[rest[0]].status is OrderStatus.CANCELED)
        assert orders[rest[1]].status is OrderStatus.NEW
        assert w.position("A-002") == 1
        await w.command("flatten", scope="symbol:ETHUSDT")
        await eventually(lambda: w.position("A-002", "ETHUSDT") == 0)
        assert w.position("A-002") == 1
        await w.command("flatten", scope="strategy:breakout")
        await eventually(lambda: w.position("A-002") == 0)
        assert not sim.summary()["open_orders"]
        assert (await w.command("flatten", scope="all"))["orders"] == {}


async def test_flatten_closes_what_a_resting_exit_covered(tmp_path, sim: SimBroker) -> None:
    """The exit that covers the position is one of the orders flatten cancels: the position must still go."""
    async with world(tmp_path, [alpaca(1, url(sim))]) as w:
        await holding(w, sim)
        detail = await w.send(id="exit", action="close", order_type="limit", limit_price="195")
        order = w.order(detail, "A-001")
        await eventually(lambda: order.status is OrderStatus.NEW)
        await w.command("flatten", scope="all")
        await eventually(lambda: order.status is OrderStatus.CANCELED)
        await eventually(lambda: w.position("A-001") == 0, what="the position is closed")
        assert sim.venue.accounts["KEY001"].money.positions["AAPL"].qty == 0


async def test_flatten_stops_entries_still_queued(tmp_path, sim: SimBroker) -> None:
    """Entries waiting for their rate limit belong to the scope as well: nothing may open after a flatten."""
    slow = alpaca(1, url(sim), limits={"max_orders_per_second": 1})
    async with world(tmp_path, [slow]) as w:
        for number in range(3):
            await w.post(id=f"s-{number}", valid_for_s=20)
        await eventually(lambda: w.position("A-001") >= 1)
        await w.command("flatten", scope="all")
        orders = [w.engine.records[f"bot/s-{n}"].orders["A-001"] for n in range(3)]
        await eventually(lambda: all(o.status.terminal for o in orders), 15)
        await eventually(lambda: not w.engine.orders.working(), 15)
        assert w.position("A-001") == 0


async def test_set_stops(tmp_path, sim: SimBroker) -> None:
    async with world(tmp_path, [alpaca(1, url(sim))]) as w:
        given = {"account": "A-001", "symbol": "AAPL"}
        assert await w.refused("set_stops", **given, stop_loss="180") == (409, "NO_POSITION")
        await holding(w, sim)
        await w.command("set_stops", **given, stop_loss="180.5", take_profit="200")
        [row] = await w.rows("positions")
        assert (row["stop_loss"], row["take_profit"]) == ("180.5", "200")
        await w.command("set_stops", **given, take_profit="201")
        [row] = await w.rows("positions")
        assert (row["stop_loss"], row["take_profit"]) == (None, "201")
        assert await w.refused("set_stops", **given, stop_loss="-1") == (422, "INVALID_COMMAND")


# ---- states


@pytest.mark.parametrize(
    "scope", ["all", "account:A-001", "broker:alpaca", "strategy:breakout", "symbol:AAPL"]
)
async def test_pause_lets_exits_pass(tmp_path, sim: SimBroker, scope) -> None:
    async with world(tmp_path, [alpaca(1, url(sim))]) as w:
        await holding(w, sim)
        assert (await w.command("pause", scope=scope))["result"] == "reducing"
        answer = await w.post(id="s-2")
        assert answer.json()["state"] == "refused"
        rows = (await w.detail("bot/s-2"))["accounts"]
        assert "PAUSED" in {answer.json()["code"], *(row["code"] for row in rows)}
        assert answer.json()["code"] in {"PAUSED", "NO_ACCOUNTS"}
        await w.send(id="c-1", action="close")
        await eventually(lambda: w.position("A-001") == 0)
        await w.command("resume", scope=scope)
        await w.send(id="s-3")
        await eventually(lambda: w.position("A-001") == 1)


async def test_states_are_told_and_guarded(tmp_path, sim: SimBroker) -> None:
    async with world(tmp_path, [alpaca(1, url(sim))]) as w:
        for command in ("pause", "resume", "rearm", "flatten", "cancel_orders"):
            why = {"reason": "by hand"} if command == "rearm" else {}
            for scope in ("account:nobody", "broker:oanda"):
                assert await w.refused(command, scope=scope, **why) == (404, "NOT_FOUND")
        assert await w.refused("pause", scope="nonsense:x") == (422, "INVALID_COMMAND")
        assert await w.refused("nonsense") == (422, "INVALID_COMMAND")
        assert await w.refused("pause", scope="all", extra=1) == (422, "INVALID_COMMAND")
        await w.command("disarm", reason="lunch")
        status = (await w.http.get("/v1/status")).json()
        assert (status["engine"]["trading"], status["engine"]["reason"]) == ("disarmed", "lunch")
        assert await w.refused("resume", scope="all") == (409, "DISARMED")
        assert await w.refused("pause", scope="all") == (409, "DISARMED")
        assert await w.refused("rearm", scope="all") == (
            422,
            "INVALID_COMMAND",
        )  # a reason is needed
        await w.command("rearm", scope="all", reason="back")
        await w.command("kill", scope="account:A-001", reason="test")
        assert await w.refused("resume", scope="account:A-001") == (409, "HALTED")
        rows = await w.rows("accounts")
        assert rows[0]["state"] == "halted"
        for status, count in (("halted", 1), ("connected", 1), ("active", 0)):
            assert len(await w.rows("accounts", status=status)) == count
        # What no account here is called is halted all the same, and armed again.
        await w.command("kill", scope="account:nobody", reason="misspelt")
        await w.command("rearm", scope="account:nobody", reason="misspelt")
        await w.command("rearm", scope="account:A-001", reason="fine again")
        await w.send()


async def test_commands_are_carried_out_once(tmp_path, sim: SimBroker) -> None:
    async with world(tmp_path, [alpaca(1, url(sim))]) as w:
        await holding(w, sim, lots=2)
        close = {
            "id": "once", "command": "close_position", "account": "A-001", "symbol": "AAPL", "fraction": "0.5",
        }  # fmt: skip
        answers = await asyncio.gather(
            *(w.http.post("/v1/commands", json=close) for _ in range(10))
        )
        assert {answer.status_code for answer in answers} == {200}
        await eventually(lambda: w.position("A-001") == 1)
        later = await w.http.post("/v1/commands", json=close)
        results = {answer.text for answer in answers} | {later.text}
        assert {r for r in results if "in progress" not in r} == {later.text}
        assert len(at_venue(sim)) == 3
        other = await w.http.post("/v1/commands", json=close | {"fraction": "1"})
        assert (other.status_code, other.json()["code"]) == (409, "DUPLICATE_ID")
        refused = {"id": "twice", "command": "reject", "signal": "bot/none"}
        for _ in range(2):
            answer = await w.http.post("/v1/commands", json=refused)
            assert (answer.status_code, answer.json()["code"]) == (404, "NOT_FOUND")


async def test_accounts_are_switched(tmp_path, sim: SimBroker) -> None:
    async with world(tmp_path, [alpaca(1, url(sim)), alpaca(2, url(sim))]) as w:
        assert (await w.command("set_account_active", account="A-001", active=False))[
            "result"
        ] == "inactive"
        assert by_account(await w.send())["A-001"]["code"] == "INACTIVE"
        await w.command("set_account_active", account="A-001", active=True)
        assert by_account(await w.send(id="s-2"))["A-001"]["outcome"] == "sent"
        assert await w.refused("set_account_active", account="x", active=True) == (404, "NOT_FOUND")
        assert await w.command("reload_accounts") == {"result": "done", "changed": 0}


async def test_a_switched_off_account_can_still_get_out(tmp_path, sim: SimBroker) -> None:
    async with world(tmp_path, [alpaca(1, url(sim))]) as w:
        await holding(w, sim)
        rest = await resting(w)
        await w.command("set_account_active", account="A-001", active=False)
        await w.command("cancel_order", cl_ord_id=rest)
        await w.command("close_position", account="A-001", symbol="AAPL")
        await eventually(lambda: w.position("A-001") == 0)
        await eventually(lambda: not w.engine.orders.working())


# ---- unknown


async def test_resend_and_resolve_unknown(tmp_path, sim: SimBroker) -> None:
    accounts = [alpaca(n, url(sim)) for n in (1, 2, 3)]
    async with world(tmp_path, accounts) as w:
        lost = [{"action": "drop", "match": {"method": "POST"}, "times": 0}]
        silent = {
            "action": "http_500",
            "match": {"path": "/v2/orders:by_client_order_id"},
            "times": 0,
        }
        sim.faults.replace([*lost, silent])  # lost, and the broker cannot say so
        await w.post(valid_for_s=0.5)
        orders = w.engine.records["bot/s-1"].orders
        await eventually(lambda: all(o.status is OrderStatus.UNKNOWN for o in orders.values()))
        row = (await w.http.get("/v1/status")).json()["engine"]
        assert row["unknown_orders"] == 3
        first, second, third = (orders[f"A-00{n}"].cl_ord_id for n in (1, 2, 3))
        assert await w.refused("resend", cl_ord_id=first) == (409, "NOT_PROVEN")
        result = await w.command("resolve_unknown", cl_ord_id=second, exists=False)
        assert result["result"] == "expired"
        result = await w.command("resolve_unknown", cl_ord_id=third, exists=True)
        assert result["result"] == "new"
        assert await w.refused("resolve_unknown", cl_ord_id=second, exists=True) == (
            409,
            "NOT_UNKNOWN",
        )
        sim.faults.replace([])
        # Not before the broker has had its time to take it in.
        sent = orders["A-001"].first_byte_ns
        settle_ns = w.engine.fleet.sessions["A-001"].capabilities.settle_s * 1e9
        await eventually(lambda: time.monotonic_ns() > sent + settle_ns)
        answer = await w.try_command("resend", cl_ord_id=first)
        assert answer.status_code == 200, answer.text
        await eventually(lambda: w.position("A-001") == 1)
        assert [o.client_order_id for o in at_venue(sim)] == [first]
        assert not at_venue(sim, 2)
        assert await w.refused("resend", cl_ord_id=first) == (409, "NOT_UNKNOWN")
        assert (orders["A-002"].status, orders["A-002"].code) == (OrderStatus.EXPIRED, "ABSENT")


async def test_resend_of_what_exists_is_refused(tmp_path, sim: SimBroker) -> None:
    async with world(tmp_path, [alpaca(1, url(sim))]) as w:
        sim.faults.replace(
            [
                {"action": "accept_then_drop", "match": {"method": "POST"}},
                {
                    "action": "http_500",
                    "match": {"path": "/v2/orders:by_client_order_id"},
                    "times": 0,
                },
                {"action": "drop", "match": {"path": "/stream"}, "times": 0},
            ]
        )
        for stream in sim.dialect.streams():
            stream.abort()
        await eventually(lambda: w.engine.fleet.states["A-001"].connection.value == "degraded")
        await w.post()
        order = w.engine.records["bot/s-1"].orders["A-001"]
        await eventually(lambda: order.status is OrderStatus.UNKNOWN)
        sim.faults.replace([{"action": "drop", "match": {"path": "/stream"}, "times": 0}])
        given = {"cl_ord_id": order.cl_ord_id}
        status, code = await w.refused("resend", **given)
        assert (status, code) in {(409, "EXISTS"), (409, "NOT_UNKNOWN")}
        await eventually(lambda: w.position("A-001") == 1)
        assert len(at_venue(sim)) == 1


# ---- kill


async def test_kill_stops_cancels_and_stays(tmp_path, sim: SimBroker) -> None:
    accounts = [alpaca(n, url(sim)) for n in range(1, 21)]
    async with world(tmp_path, accounts) as w:
        for number in range(3):
            await w.send(id=f"rest-{number}", **FAR)
        await eventually(lambda: sim.summary()["open_orders"] == 60)
        began = time.monotonic()
        result = await w.command("kill", reason="test")
        latched = time.monotonic() - began
        assert (result["result"], result["cancels"]) == ("halted", 60)
        await eventually(lambda: sim.summary()["open_orders"] == 0, 5)
        assert latched < 2
        before = posts(sim)
        for number in range(5):
            assert (await w.post(id=f"after-{number}")).json()["code"] == "HALTED"
        assert posts(sim) == before
        status = (await w.http.get("/v1/status")).json()
        await eventually(lambda: not w.engine.orders.working())
        assert status["halts"][0]["state"] == "halted"
        status = (await w.http.get("/v1/status")).json()
        assert len(status["kill"]) == 20
        runs = (
            w.engine.operator.kill_runs.values()
        )  # an account is done once its broker's own list was read empty
        await eventually(lambda: all(run.row(a)["done"] for run in runs for a in run.accounts()))
        status = (await w.http.get("/v1/status")).json()
        assert all(row["done"] and row["cancels_sent"] == 3 for row in status["kill"]), status[
            "kill"
        ]
        assert all(row["cancels_confirmed"] == 3 for row in status["kill"])
    async with world(tmp_path) as w:
        assert (await w.post(id="restarted")).json()["code"] == "HALTED"
        assert posts(sim) == before
        await w.command("rearm", reason="all clear")
        await w.send(id="rearmed")
        assert posts(sim) == before + 20


async def test_kill_denies_what_is_queued(tmp_path, sim: SimBroker) -> None:
    slow = [alpaca(n, url(sim), limits={"max_orders_per_second": 1}) for n in (1, 2, 3)]
    async with world(tmp_path, slow) as w:
        for number in range(5):
            await w.post(id=f"s-{number}", valid_for_s=30)
        await eventually(lambda: posts(sim) >= 3)
        await w.command("kill")
        sent = posts(sim)
        await eventually(lambda: not w.engine.orders.working())
        orders = [o for n in range(5) for o in w.engine.records[f"bot/s-{n}"].orders.values()]
        denied = [o for o in orders if o.status is OrderStatus.DENIED]
        assert {o.code for o in denied} == {"HALTED"}
        assert len(denied) == 15 - sent
        assert posts(sim) == sent == sim.venue.order_count


async def test_kill_in_mid_fan_out_leaves_nothing_working(tmp_path) -> None:
    """Orders in flight while the kill comes are accepted late: they are chased and cancelled."""
    async with (
        venue(latency_ms=300) as sim,
        world(tmp_path, [alpaca(n, url(sim)) for n in range(1, 31)]) as w,
    ):
        sim.config.latency_ms = 0
        await w.send(id="warm-up")
        sim.config.latency_ms = 300
        await w.post(**FAR)
        await eventually(lambda: posts(sim) > 30)
        await w.command("kill")
        sim.config.latency_ms = 0
        await eventually(lambda: not w.engine.orders.working(), 20)
        assert sim.summary()["open_orders"] == 0
        statuses = {o.status for o in w.engine.records["bot/s-1"].orders.values()}
        assert statuses <= {OrderStatus.CANCELED, OrderStatus.DENIED}


async def test_kill_with_flatten_closes_positions(tmp_path, sim: SimBroker) -> None:
    async with world(tmp_path, [alpaca(1, url(sim)), paper(1)]) as w:
        await holding(w, sim, lots=3)
        await resting(w)
        await w.command("kill", flatten=True)
        await eventually(lambda: w.position("A-001") == w.position("P-001") == 0)
        await eventually(lambda: not w.engine.orders.working())
        assert sim.summary()["open_orders"] == 0
        assert (await w.post(id="after")).json()["code"] == "HALTED"
        # by hand one still gets out of what is left
        assert await w.refused("close_position", account="A-001", symbol="AAPL") == (
            409,
            "NO_POSITION",
        )


async def test_kill_with_flatten_closes_what_a_resting_exit_covered(
    tmp_path, sim: SimBroker
) -> None:
    async with world(tmp_path, [alpaca(1, url(sim))]) as w:
        await holding(w, sim)
        detail = await w.send(id="exit", action="close", order_type="limit", limit_price="195")
        order = w.order(detail, "A-001")
        await eventually(lambda: order.status is OrderStatus.NEW)
        await w.command("kill", flatten=True)
        await eventually(lambda: order.status is OrderStatus.CANCELED)
        await eventually(lambda: w.position("A-001") == 0, what="the position is closed")


@pytest.mark.parametrize(
    ("scope", "touched"),
    [
        ("account:A-001", {"A-001"}),
        ("broker:alpaca", {"A-001", "A-002"}),
        ("strategy:breakout", {"A-001", "A-002", "P-001"}),
        ("symbol:AAPL", {"A-001", "A-002", "P-001"}),
        ("strategy:other", set()),
    ],
)
async def test_kill_of_a_scope(tmp_path, sim: SimBroker, scope, touched) -> None:
    accounts = [alpaca(1, url(sim)), alpaca(2, url(sim)), paper(1)]
    async with world(tmp_path, accounts) as w:
        w.engine.set_prices({"AAPL": PRICE})
        await w.send(**FAR)
        await eventually(lambda: len(w.engine.orders.working()) == 3)
        result = await w.command("kill", scope=scope)
        assert result["cancels"] == len(touched)
        orders = w.engine.records["bot/s-1"].orders
        await eventually(lambda: {a for a, o in orders.items() if o.status.terminal} == touched)
        answer = await w.post(id="s-2")
        rows = by_account(await w.detail("bot/s-2"))
        if scope.startswith(("strategy:b", "symbol")):
            assert answer.json()["code"] == "HALTED"
        else:
            assert {a for a, row in rows.items() if row["code"] == "HALTED"} == touched


@pytest.mark.skipif(os.name != "posix", reason="SIGSTOP")
def test_kill_while_the_engine_hangs(tmp_path: Path) -> None:
    """Stopped in its tracks, the engine obeys the moment it moves, before anything else leaves."""
    with VenueProcess(tmp_path, "--still", "--follow-percent", "0") as venue_:
        home = tmp_path / "home"
        home.mkdir(mode=0o700)
        write_config(home)
        import_accounts(home, [alpaca(n, venue_.url) for n in range(5)])
        with EngineProcess(home) as engine:
            engine.wait_connected(5)
            engine.signal(**FAR)
            until(lambda: venue_.get("/sim/summary")["open_orders"] == 5)
            engine.pause()
            killed = volley(home, "kill", "--reason", "it hangs")
            assert killed.returncode == 0, killed.stderr
            assert "LATCHED all" in killed.stdout
            engine.resume()
            until(lambda: venue_.get("/sim/summary")["open_orders"] == 0)
            until(lambda: engine.status()["trading"] == "halted")
            assert engine.signal(id="s-2").json()["code"] == "HALTED"
            engine.kill()
            engine.start()
            assert "halted" in engine.line
            assert engine.signal(id="s-3").json()["code"] == "HALTED"
            assert venue_.get("/sim/summary")["orders"] == 5


def test_a_kill_left_for_a_dead_engine_comes_first(tmp_path: Path) -> None:
    """Killed with orders working; `main.py kill` meanwhile: the next engine halts first, and cancels them."""
    with VenueProcess(tmp_path, "--still", "--follow-percent", "0") as venue_:
        home = tmp_path / "home"
        home.mkdir(mode=0o700)
        write_config(home)
        import_accounts(home, [alpaca(n, venue_.url) for n in range(5)])
        with EngineProcess(home) as engine:
            engine.wait_connected(5)
            engine.signal(**FAR)
            until(lambda: venue_.get("/sim/summary")["open_orders"] == 5)
            venue_.post(
                "/sim/faults", [{"action": "drop", "match": {"method": "POST"}, "times": 0}]
            )
            engine.signal(id="in-flight", valid_for_s=300)
            engine.kill()
            venue_.post("/sim/faults", [])
            assert volley(home, "kill").returncode == 0
            engine.start()
            assert "halted" in engine.line
            until(lambda: venue_.get("/sim/summary")["open_orders"] == 0)
            until(lambda: engine.status()["open_orders"] == 0)
            assert {row["code"] for row in engine.detail("bot/in-flight")["accounts"]} == {"ABSENT"}
            assert venue_.get("/sim/summary")["orders"] == 5
