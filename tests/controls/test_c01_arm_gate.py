"""C01: after a start an account's entries wait until it has been compared with its broker; a crash may disarm."""

from __future__ import annotations

import contextlib
import sqlite3

import pytest

from engine.home import Home
from engine.model.enums import OrderStatus
from engine.wiring import build_engine
from tests.controls.restarts import home
from tests.world import alpaca, eventually, settings, venue, world

NO_ORDERS = {"action": "http_500", "match": {"method": "GET", "path": "/v2/orders"}, "times": 0}


async def test_entries_wait_for_the_first_comparison_and_then_leave(tmp_path) -> None:
    async with venue() as sim:
        sim.faults.replace([NO_ORDERS])
        async with world(tmp_path, [alpaca(1, f"http://127.0.0.1:{sim.port}")], connected=0) as w:
            state = w.engine.fleet.states["A-001"]
            await eventually(lambda: state.usable)
            lane = w.engine.dispatcher.lanes["A-001"]
            assert lane.waits == {"NOT_RECONCILED": "A-001: not reconciled"}
            assert (await w.post(id="s-1", valid_for_s=60)).json()["state"] == "accepted"
            order = w.engine.records["bot/s-1"].orders["A-001"]
            assert (order.status, order.first_byte_ns, len(lane)) == (OrderStatus.PENDING_NEW, 0, 1)
            assert w.engine.readiness() == ["A-001: not reconciled"]
            (need,) = [n for n in w.engine.to_do() if n["code"] == "NOT_RECONCILED"]
            assert need["account"] == "A-001"
            sim.faults.replace([])
            await eventually(lambda: order.status is OrderStatus.FILLED)
            assert not lane.waits
            assert w.engine.readiness() == []


async def test_what_waits_too_long_is_stale_and_says_what_it_waited_for(tmp_path) -> None:
    async with venue() as sim:
        sim.faults.replace([NO_ORDERS])
        async with world(tmp_path, [alpaca(1, f"http://127.0.0.1:{sim.port}")], connected=0) as w:
            state = w.engine.fleet.states["A-001"]
            await eventually(lambda: state.usable)
            await w.post(id="s-1", valid_for_s=1)
            record = w.engine.records["bot/s-1"]
            await eventually(lambda: record.orders["A-001"].status is OrderStatus.DENIED)
            order = record.orders["A-001"]
            assert order.code == "STALE"
            assert order.text.endswith("it waited: A-001: not reconciled")


async def test_an_account_at_another_broker_is_compared_anew(tmp_path) -> None:
    async with home(tmp_path) as made, made.engine() as w:
        state = w.engine.fleet.states["A-001"]
        await eventually(lambda: state.reconciled)
        account = state.account.model_copy(update={"options": {}, "tags": ("x",)})
        await w.engine.fleet.store.put([account])
        await w.engine.fleet.reload()
        assert state.reconciled  # nothing its session is made of has changed
        w.engine.fleet._open(state)
        assert not state.reconciled
        assert "NOT_RECONCILED" in w.engine.dispatcher.lanes["A-001"].waits
        await eventually(lambda: state.reconciled)


@pytest.mark.parametrize(
    ("disarm", "clean", "state"),
    [(True, False, "disarmed"), (True, True, "active"), (False, False, "active")],
)
async def test_a_crash_disarms_where_that_was_asked_for(tmp_path, disarm, clean, state) -> None:
    place = Home(tmp_path / "home")
    config = settings(safety={"disarm_after_crash": disarm}, market={"source": "none"})
    engine = await build_engine(place, config)
    assert engine.states.firm.value == "active"
    await engine.stop()
    if not clean:  # what a crash leaves behind
        with contextlib.closing(sqlite3.connect(place.journal)) as journal, journal:
            journal.execute("UPDATE meta SET value = '0' WHERE key = 'clean'")
    engine = await build_engine(place, config)
    assert engine.states.firm.value == state
    latch = engine.states.get("all")
    await engine.stop()
    if state == "disarmed":
        assert latch is not None
        assert "did not stop cleanly" in latch.reason
        engine = await build_engine(place, config)  # a clean restart arms nothing by itself
        assert engine.states.firm.value == "disarmed"
        await engine.stop()


async def test_a_start_says_how_much_is_unknown(tmp_path) -> None:
    async with venue() as sim:
        async with world(tmp_path, [alpaca(1, f"http://127.0.0.1:{sim.port}")]) as w:
            await eventually(lambda: not w.engine.dispatcher.lanes["A-001"].waits)
            sim.faults.replace([{"action": "hang", "match": {"method": "POST"}, "times": 0}])
            await w.post(id="s-1", valid_for_s=0.5)
            order = w.engine.records["bot/s-1"].orders["A-001"]
            await eventually(lambda: order.first_byte_ns)
        sim.faults.replace([])
        async with world(tmp_path) as w:
            (alert,) = [row for row in w.engine.alerts if row["code"] == "OUTCOME_UNKNOWN"]
            assert alert["text"].startswith("1 order is of unknown outcome since before the start")
