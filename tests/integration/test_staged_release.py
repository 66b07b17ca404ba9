"""Approvals that the market has left behind, and releases of which one account goes first, seen at the venue."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest

from engine.simbroker import SimBroker
from tests.processes import (
    EngineProcess,
    VenueProcess,
    alpaca,
    import_accounts,
    until,
    write_config,
)
from tests.world import World, by_account, eventually, venue, world

FAR = "185"  # a limit that rests: the market is at 189.40
OWN_PRICES = {"source": "none"}  # only what POST /v1/prices says


@pytest.fixture
async def sim() -> AsyncIterator[SimBroker]:
    async with venue() as made:
        yield made


def reviewed(sim: SimBroker, count: int = 3, **fields: Any) -> list[dict[str, Any]]:
    url = f"http://127.0.0.1:{sim.port}"
    return [alpaca(n, url, approval="review", **fields) for n in range(1, count + 1)]


def at_venue(sim: SimBroker) -> dict[str, list[str]]:
    """Return the client ids the venue has, by account."""
    found = {}
    for key, account in sim.venue.accounts.items():
        found[key.replace("KEY", "A-")] = [
            order.client_order_id for order in account.orders.values() if not order.leg
        ]
    return {account: ids for account, ids in found.items() if ids}


async def signal(w: World, key: str = "bot/s-1") -> dict[str, Any]:
    return dict((await w.detail(key))["signal"])


async def stage(w: World) -> str:
    return str((await signal(w))["stage"])


async def price(w: World, value: str) -> None:
    assert (await w.http.post("/v1/prices", json={"AAPL": value})).status_code == 200


# ---- price drift ---------------------------------------------------------------------------------------------


async def test_an_approval_beyond_the_band_is_asked_for_again(tmp_path, sim: SimBroker) -> None:
    wide = {"collar_percent": "50"}
    async with world(tmp_path, reviewed(sim), market=OWN_PRICES, limits=wide) as w:
        await price(w, "100")
        await w.post()
        await price(w, "105")  # the band is 5 %: on it is within it
        rows = await w.rows("signals")
        assert (rows[0]["price"], rows[0]["mark"]) == ("100", "105")
        assert (rows[0]["drift_percent"], rows[0]["drifted"]) == ("5.00", False)
        await w.command("approve", signal="bot/s-1", accounts=["A-001"])
        await price(w, "105.01")
        answer = await w.try_command("approve", signal="bot/s-1")
        assert (answer.status_code, answer.json()["code"]) == (409, "PRICE_DRIFT")
        assert answer.json()["message"] == (
            "AAPL is at 105.01, 5.01 % > 5 % from 100 when the signal came"
        )
        assert (await w.rows("signals"))[0]["drifted"]
        assert set(at_venue(sim)) == {"A-001"}
        # Confirmed at a price that has gone as well: asked again, from there.
        await price(w, "120")
        refused = await w.try_command("approve", signal="bot/s-1", seen_price="105.01")
        assert "from 105.01 when you looked" in refused.json()["message"]
        await w.command("approve", signal="bot/s-1", seen_price="119")
        await eventually(lambda: w.position("A-003") == 1)
        assert (await signal(w))["state"] == "accepted"


async def test_drift_is_measured_from_the_producers_price_and_downwards_too(tmp_path, sim) -> None:
    signals = {"approval_drift_percent": "1"}
    async with world(tmp_path, reviewed(sim, 1), market=OWN_PRICES, signals=signals) as w:
        await price(w, "100")
        await w.post(reference_price="101")
        assert (await w.rows("signals"))[0]["price"] == "101"
        await price(w, "99.98")
        assert await w.refused("approve", signal="bot/s-1") == (409, "PRICE_DRIFT")
        await price(w, "99.99")  # 1 % of 101 below it
        await w.command("approve", signal="bot/s-1")


async def test_without_a_band_any_price_will_do(tmp_path, sim: SimBroker) -> None:
    signals = {"approval_drift_percent": "0"}
    async with world(tmp_path, reviewed(sim, 1), market=OWN_PRICES, signals=signals) as w:
        await price(w, "100")
        await w.post()
        await price(w, "300")
        await w.command("approve", signal="bot/s-1")


async def test_what_drifted_may_expire_instead(tmp_path, sim: SimBroker) -> None:
    signals = {"approval_drift": "expire"}
    async with world(tmp_path, reviewed(sim), market=OWN_PRICES, signals=signals) as w:
        await price(w, "100")
        await w.post()
        await price(w, "110")
        assert await w.refused("approve", signal="bot/s-1") == (409, "PRICE_DRIFT")
        detail = await w.detail("bot/s-1")
        assert detail["signal"]["state"] == "expired"
        assert {row["code"] for row in detail["accounts"]} == {"PRICE_DRIFT"}
        assert await w.refused("approve", signal="bot/s-1") == (409, "NOT_HELD")


async def test_the_price_it_came_at_survives_a_restart(tmp_path, sim: SimBroker) -> None:
    async with world(tmp_path, reviewed(sim), market=OWN_PRICES) as w:
        await price(w, "100")
        await w.post()
    async with world(tmp_path, market=OWN_PRICES) as w:
        await price(w, "110")
        assert await w.refused("approve", signal="bot/s-1") == (409, "PRICE_DRIFT")


# ---- quantity ------------------------------------------------------------------------------------------------


async def test_a_quantity_of_ones_own(tmp_path, sim: SimBroker) -> None:
    limits = {"max_order_quantity": "7", "max_order_value": "10000"}
    async with world(tmp_path, reviewed(sim, limits=limits)) as w:
        await w.post()
        assert (await w.refused("approve", signal="bot/s-1", quantity="2", scale="2"))[0] == 422
        result = await w.command("approve", signal="bot/s-1", accounts=["A-001"], quantity="7")
        assert result["refused"] == {}
        await eventually(lambda: w.position("A-001") == 7)
        result = await w.command("approve", signal="bot/s-1", accounts=["A-002"], quantity="7.5")
        assert result["refused"]["A-002"]["code"] in {"QTY_MAX", "INEXACT"}
        result = await w.command("approve", signal="bot/s-1", accounts=["A-003"], quantity="8")
        assert result["refused"]["A-003"]["code"] == "QTY_MAX"


# ---- staged release ------------------------------------------------------------------------------------------


async def test_the_rest_follows_the_canarys_fill(tmp_path, sim: SimBroker) -> None:
    async with world(tmp_path, reviewed(sim, 4)) as w:
        await w.post()
        result = await w.command(
            "approve", signal="bot/s-1", canary="A-002", limit_price=FAR, accounts=["A-001", "A-002", "A-003"]
        )  # fmt: skip
        assert set(result["orders"]) == {"A-002"}
        await eventually(lambda: at_venue(sim))
        row = await signal(w)
        assert (row["stage"], row["held"]) == ("waiting", 3)  # and A-004, of which nothing was said
        assert row["stage_text"] == "canary A-002 1/3 → waiting for its fill"
        outcomes = {a: r["code"] for a, r in by_account(await w.detail("bot/s-1")).items()}
        assert outcomes == {"A-001": "CANARY", "A-002": "", "A-003": "CANARY", "A-004": "REVIEW"}
        # Getting out waits for nobody.
        await w.post(id="s-2", action="close")
        assert (await w.detail("bot/s-2"))["signal"]["state"] != "held"
        assert await w.refused("approve", signal="bot/s-1", canary="A-004") == (409, "CANARY")
        assert set(at_venue(sim)) == {"A-002"}
        sim.venue.market.pin("AAPL", Decimal("184.90"))
        await eventually(lambda: w.position("A-001") == w.position("A-003") == 1)
        row = await signal(w)
        assert (row["stage"], row["held"], row["sent"]) == ("released", 1, 3)
        assert row["stage_text"] == "canary A-002 filled → 2 released"
        assert {account: len(ids) for account, ids in at_venue(sim).items()} == {
            "A-001": 1,
            "A-002": 1,
            "A-003": 1,
        }
        rest = [a.orders for k, a in sim.venue.accounts.items() if k in {"KEY001", "KEY003"}]
        assert {str(o.limit_price) for orders in rest for o in orders.values()} == {FAR}
        await w.command("approve", signal="bot/s-1")  # the one left is released as ever
        await eventually(lambda: len(at_venue(sim)) == 4)


async def test_a_rejected_canary_holds_the_rest_again(tmp_path, sim: SimBroker) -> None:
    async with world(tmp_path, reviewed(sim)) as w:
        await w.post()
        sim.faults.replace([{"action": "http_422", "match": {"method": "POST"}}])
        await w.command("approve", signal="bot/s-1", canary="A-001")
        await eventually(lambda: w.engine.records["bot/s-1"].held)
        row = await signal(w)
        assert (row["stage"], row["held"]) == ("stopped", 2)
        assert row["stage_text"] == "canary A-001 rejected → 2 held again"
        assert row["hold_expires_at"]
        sim.faults.replace([])
        await w.command("approve", signal="bot/s-1", canary="A-003")  # once more, with another
        await eventually(lambda: w.position("A-002") == w.position("A-003") == 1)
        assert w.position("A-001") == 0


async def test_a_canary_cancelled_by_hand_holds_the_rest_again(tmp_path, sim: SimBroker) -> None:
    async with world(tmp_path, reviewed(sim)) as w:
        await w.post()
        result = await w.command("approve", signal="bot/s-1", canary="A-001", limit_price=FAR)
        await eventually(lambda: at_venue(sim))
        await w.command("cancel_order", cl_ord_id=result["orders"]["A-001"])
        record = w.engine.records["bot/s-1"]
        await eventually(lambda: set(record.held) == {"A-002", "A-003"})
        assert "canceled" in (await signal(w))["stage_text"]


async def test_the_rest_expires_without_a_fill(tmp_path, sim: SimBroker) -> None:
    async with world(tmp_path, reviewed(sim)) as w:
        await w.post()
        await w.command(
            "approve", signal="bot/s-1", canary="A-001", limit_price=FAR, canary_timeout_s="0.3"
        )
        record = w.engine.records["bot/s-1"]
        await eventually(lambda: not record.undecided)
        rows = by_account(await w.detail("bot/s-1"))
        assert rows["A-002"]["code"] == rows["A-003"]["code"] == "CANARY_TIMEOUT"
        sim.venue.market.pin("AAPL", Decimal("184.90"))
        await eventually(lambda: w.position("A-001") == 1)
        assert (await signal(w))["stage"] == "expired"
        assert set(at_venue(sim)) == {"A-001"}


async def test_an_operator_decides_on_the_rest_before_the_fill(tmp_path, sim: SimBroker) -> None:
    async with world(tmp_path, reviewed(sim, 4)) as w:
        await w.post()
        await w.command("approve", signal="bot/s-1", canary="A-001", limit_price=FAR)
        # Pressed once more by mistake nothing goes out: the rest must be named.
        assert await w.refused("approve", signal="bot/s-1") == (409, "NOT_HELD")
        await w.command("approve", signal="bot/s-1", accounts=["A-002"])
        await eventually(lambda: w.position("A-002") == 1)
        result = await w.command("reject", signal="bot/s-1")
        assert set(result["accounts"]) == {"A-003", "A-004"}
        assert await stage(w) == "ended"
        sim.venue.market.pin("AAPL", Decimal("184.90"))
        await eventually(lambda: w.position("A-001") == 1)
        assert set(at_venue(sim)) == {"A-001", "A-002"}


async def test_a_latch_or_a_drift_in_between_holds_the_rest_again(tmp_path, sim: SimBroker) -> None:
    async with world(tmp_path, reviewed(sim)) as w:
        for number, (go, back) in enumerate((("pause", "resume"), ("kill", "rearm")), start=1):
            key = f"bot/s-{number}"
            sim.venue.market.pin("AAPL", Decimal("189.40"))
            await w.post(id=f"s-{number}")
            await w.command("approve", signal=key, canary="A-001", limit_price=FAR)
            record = w.engine.records[key]
            await eventually(lambda record=record: record.orders["A-001"].order_id)
            await w.command(go, scope="symbol:AAPL", reason="test")
            sim.venue.market.pin("AAPL", Decimal("184.90"))
            await eventually(lambda record=record: set(record.held) == {"A-002", "A-003"})
            await w.command(back, scope="symbol:AAPL", **({"reason": "on"} if go == "kill" else {}))
        assert set(at_venue(sim)) == {"A-001"}
        assert "PAUSED" in (await signal(w))["stage_text"]


async def test_the_rest_is_not_sent_into_a_market_that_has_drifted(tmp_path, sim) -> None:
    signals = {"approval_drift_percent": "1"}
    async with world(tmp_path, reviewed(sim), market=OWN_PRICES, signals=signals) as w:
        await price(w, "189.40")
        await w.post()
        await w.command("approve", signal="bot/s-1", canary="A-001", limit_price=FAR)
        await price(w, "180")
        sim.venue.market.pin("AAPL", Decimal("184.90"))
        await eventually(lambda: set(w.engine.records["bot/s-1"].held) == {"A-002", "A-003"})
        assert "PRICE_DRIFT" in (await signal(w))["stage_text"]
        assert set(at_venue(sim)) == {"A-001"}


async def test_rejects_halt_what_has_not_left(tmp_path, sim: SimBroker) -> None:
    slow = {"max_orders_per_second": 2}
    async with world(tmp_path, reviewed(sim, 9), limits=slow) as w:
        await w.post(valid_for_s=60)
        sim.faults.replace(
            [{"action": "http_422", "match": {"method": "POST"}, "after": 1, "times": 0}]
        )
        await w.command("approve", signal="bot/s-1", canary="A-005", max_rejects=2)
        record = w.engine.records["bot/s-1"]
        await eventually(
            lambda: record.stage is not None and record.stage.text.startswith("halted")
        )
        await eventually(lambda: not any(o.status.working for o in record.orders.values()))
        row = await signal(w)
        assert row["stage"] == "halted"
        rows = by_account(await w.detail("bot/s-1"))
        codes = [r["code"] for r in rows.values()]
        withheld = codes.count("CANARY_HALTED")
        rejected = codes.count("BROKER_REJECTED")
        assert 2 <= rejected < 8
        assert withheld == 8 - rejected > 0
        assert set(at_venue(sim)) == {"A-005"}
        sim.faults.replace([])
        halted = next(a for a, r in rows.items() if r["code"] == "CANARY_HALTED")
        await w.command("force", signal="bot/s-1", accounts=[halted], reason="looked at it")
        await eventually(lambda: w.position(halted) == 1)


@pytest.mark.parametrize(
    "fields",
    [
        {"canary_timeout_s": "5"},
        {"max_rejects": 3},
        {"canary": "A-001", "canary_timeout_s": "0"},
        {"canary": "A-001", "max_rejects": 0},
        {"canary": "A-001", "max_rejects": True},
    ],
)
async def test_terms_that_make_no_sense(tmp_path, sim: SimBroker, fields) -> None:
    async with world(tmp_path, reviewed(sim, 1)) as w:
        await w.post()
        assert await w.refused("approve", signal="bot/s-1", **fields) == (422, "INVALID_COMMAND")


async def test_a_canary_must_be_among_those_approved(tmp_path, sim: SimBroker) -> None:
    async with world(tmp_path, reviewed(sim)) as w:
        await w.post()
        refused = await w.refused("approve", signal="bot/s-1", canary="A-003", accounts=["A-001"])
        assert refused == (409, "NOT_HELD")
        # One alone has no rest to wait for it: it is released as ever.
        await w.command("approve", signal="bot/s-1", canary="A-003", accounts=["A-003"])
        assert (await signal(w))["stage"] is None


async def test_no_second_canary_while_the_first_release_goes_on(tmp_path, sim: SimBroker) -> None:
    """The first one's rest would be watched no more: its rejects would halt nothing."""
    first = {"canary": "A-001", "accounts": ["A-001", "A-002"]}
    second = {"canary": "A-003", "accounts": ["A-003", "A-004"]}
    async with world(tmp_path, reviewed(sim, 5)) as w:
        await w.post(valid_for_s=3600, order_type="limit", limit_price=FAR)
        record = w.engine.records["bot/s-1"]
        await w.command("approve", signal="bot/s-1", **first)
        for again in (first, second):
            answer = await w.try_command("approve", signal="bot/s-1", **again)
            assert answer.status_code == 409
            assert answer.json()["code"] == ("NOT_HELD" if again is first else "CANARY")
        assert answer.json()["message"] == (
            "the release of bot/s-1 behind the canary A-001 goes on: 1 wait for its fill"
        )
        lost = {"action": "hang", "times": 0, "match": {"method": "POST", "account": "KEY002"}}
        sim.faults.replace([lost])
        sim.venue.market.pin("AAPL", Decimal("184.90"))  # the canary fills, the rest is sent
        await eventually(lambda: any(row.fault == "hang" for row in sim.log.rows()))
        stage_before = record.stage
        answer = await w.try_command("approve", signal="bot/s-1", **second)
        assert (answer.status_code, answer.json()["code"]) == (409, "CANARY")
        assert answer.json()["message"] == (
            "the release of bot/s-1 behind the canary A-001 goes on: 1 of 1 are not answered yet; "
            "wait, or approve without a canary"
        )
        await w.command("approve", signal="bot/s-1", accounts=["A-003"])
        assert record.stage is stage_before
        assert list(record.held) == ["A-004", "A-005"]


async def test_another_canary_once_the_first_release_is_over(tmp_path, sim: SimBroker) -> None:
    async with world(tmp_path, reviewed(sim, 4)) as w:
        await w.post()
        for first, other in (("A-001", "A-002"), ("A-003", "A-004")):
            await w.command("approve", signal="bot/s-1", canary=first, accounts=[first, other])
            await eventually(lambda account=other: w.position(account) == 1)
        assert (await signal(w))["stage_text"] == "canary A-003 filled → 1 released"


async def test_a_clean_restart_goes_on(tmp_path, sim: SimBroker) -> None:
    async with world(tmp_path, reviewed(sim)) as w:
        await w.post()
        await w.command("approve", signal="bot/s-1", canary="A-001", limit_price=FAR)
        await eventually(lambda: at_venue(sim))
    sim.venue.market.pin("AAPL", Decimal("184.90"))
    async with world(tmp_path) as w:
        record = w.engine.records["bot/s-1"]
        await eventually(lambda: w.position("A-002") == w.position("A-003") == 1)
        assert record.stage is not None
        assert await stage(w) == "released"
        assert {account: len(ids) for account, ids in at_venue(sim).items()} == {
            f"A-00{n}": 1 for n in (1, 2, 3)
        }
    async with world(tmp_path) as w:  # and is not done again
        await eventually(lambda: all(s.reconciled for s in w.engine.fleet.states.values()))
        await asyncio.sleep(0)
        assert await stage(w) == "released"
        assert sum(len(ids) for ids in at_venue(sim).values()) == 3


async def test_what_should_have_ended_while_no_engine_ran_expires(tmp_path, sim) -> None:
    """The next engine hears of the canary's fill, and that the time is over, in either order."""
    async with world(tmp_path, reviewed(sim)) as w:
        await w.post()
        await w.command(
            "approve", signal="bot/s-1", canary="A-001", limit_price=FAR, canary_timeout_s="1"
        )
        stopped = w.engine.records["bot/s-1"].stage
        assert stopped is not None
        await eventually(lambda: at_venue(sim))
        clock = w.engine.clock
    sim.venue.market.pin("AAPL", Decimal("184.90"))
    await eventually(lambda: clock.now() > stopped.expires_at)
    async with world(tmp_path) as w:
        await eventually(lambda: w.position("A-001") == 1)
        record = w.engine.records["bot/s-1"]
        await eventually(lambda: record.stage is not None and not record.stage.waits)
        assert await stage(w) == "expired"
        assert set(at_venue(sim)) == {"A-001"}


# ---- kill -9 -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("point", "known"),
    [
        pytest.param("", 1, id="while the rest waits"),
        pytest.param("K24.after=kill@1", 1, id="at the canary's fill"),
        pytest.param("K12.before=kill@2", 1, id="the rest is durable and none of it left"),
        pytest.param("K12.after=kill@3", 2, id="in the middle of the rest"),
    ],
)
def test_killed_in_a_staged_release_every_intent_is_sent_once(
    tmp_path: Path, point: str, known: int
) -> None:
    """Kill the engine where a staged release is decided; the next one finishes it and repeats nothing."""
    home = tmp_path / "home"
    home.mkdir()
    write_config(home, signals={"canary_timeout_s": 120.0, "approval_timeout_s": 120.0})
    with VenueProcess(tmp_path, "--still", "--follow-percent", "0") as sim:
        accounts = [alpaca(n, sim.url, approval="review") for n in range(1, 5)]
        import_accounts(home, accounts)
        with EngineProcess(home, VOLLEY_FAILPOINTS=point) as engine:
            engine.wait_connected(4)
            assert engine.signal(valid_for_s=60).status_code == 202
            engine.command("approve", signal="bot/s-1", canary="A-003", limit_price=FAR)
            until(sim.orders)
            if not point:
                assert engine.detail("bot/s-1")["signal"]["stage"] == "waiting"
                engine.kill()
            sim.post("/sim/price", {"AAPL": "184.90"})
            if point:
                assert engine.process is not None
                until(lambda: engine.process is None or engine.process.poll() is not None)
                engine.kill()
            assert len(sim.orders()) >= known
        with EngineProcess(home) as engine:
            engine.wait_connected(4)
            until(lambda: engine.detail("bot/s-1")["signal"]["stage"] == "released")
            until(lambda: engine.detail("bot/s-1")["signal"]["filled"] == 4, seconds=60)
            orders = sim.orders()
            assert len(orders) == 4
            assert len({order["client_order_id"] for order in orders}) == 4
            rows = engine.detail("bot/s-1")["accounts"]
            assert {row["cl_ord_id"] for row in rows} == {o["client_order_id"] for o in orders}
