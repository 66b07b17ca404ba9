"""C19: exits of a kill with flatten live on beside a clearing that began earlier, or still chases late orders."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, closing
from pathlib import Path

import pytest

from engine import kill_latch
from engine.home import Home
from engine.kill_act import Act, latch
from engine.kill_clearing import Clearing, Outcome
from engine.kill_connections import Connections
from engine.kill_latch import EXITS_NS, FILE, FIRM, SWEPT_NS, KillLatch
from engine.kill_out_of_band import OutOfBandKill
from engine.simbroker import SimBroker
from tests.controls.test_c18_kill_switch import place_elsewhere
from tests.controls.test_c19_standby import ALL, hanging, ready, requests, resting, url
from tests.processes import alpaca
from tests.world import World, eventually, venue, world

LONG_MS = 3_600_000.0


def exits(w: World) -> list[str]:
    """Return the ClOrdIDs of the operator's orders that work."""
    return [order.cl_ord_id for order in w.engine.orders.working() if order.source == "operator"]


async def holding(w: World, sim: SimBroker) -> None:
    """Hold a position whose exit rests at the venue."""
    await w.send(id="held")
    await eventually(lambda: w.position("A-001") == 1)
    sim.config.fill_delay_ms = LONG_MS


async def test_a_clearing_that_goes_on_cancels_late_orders_and_no_exit(tmp_path) -> None:
    async with (
        venue() as sim,
        world(tmp_path, [alpaca(1, url(sim))]) as w,
        ready(w, 1) as r,
        hanging(w),
    ):
        await holding(w, sim)
        await resting(w, sim, 1)
        latch(w.path, ALL, taken=False)
        await eventually(lambda: requests(sim, "DELETE"))  # it has begun, and looks on for a second
        await w.command("kill", flatten=True)
        await eventually(lambda: sim.summary()["open_orders"] == 1 and exits(w))
        await place_elsewhere(sim, w, "accepted-late")
        await eventually(lambda: r.results)
        [outcome] = r.results[0].outcomes
        assert outcome.clear, outcome
        [exit_] = exits(w)
        order = w.engine.orders.orders[exit_]
        assert (sim.summary()["open_orders"], order.status.value) == (1, "new")
        assert not any(path.endswith(order.order_id) for path in requests(sim, "DELETE"))


@asynccontextmanager
async def waiting(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> AsyncIterator[tuple[World, SimBroker, KillLatch]]:
    """Press kill with flatten while another process's cancel of all is on its way: no exit has left yet."""
    monkeypatch.setattr(kill_latch, "SWEEP_NS", 3_600_000_000_000)
    async with venue() as sim, world(tmp_path, [alpaca(1, url(sim))]) as w:
        await holding(w, sim)
        with closing(KillLatch(w.path / FILE)) as beside:
            assert beside.begin_sweep(1)
            posted = len(requests(sim, "POST"))
            await w.command("kill", flatten=True)
            assert (len(requests(sim, "POST")), exits(w)) == (posted, [])
            yield w, sim, beside


def incomplete(w: World) -> list[str]:
    """Return what was said of a kill that is not complete."""
    return [row["text"] for row in w.engine.alerts if row["code"] == "KILL_INCOMPLETE"]


async def test_exits_wait_for_a_cancel_of_all_that_left_beside_the_engine(
    tmp_path, monkeypatch
) -> None:
    async with waiting(tmp_path, monkeypatch) as (w, sim, beside):
        posted = len(requests(sim, "POST"))
        run = next(iter(w.engine.operator.kill_runs.values()))
        await eventually(lambda: run.row("A-001")["verified_at"])
        assert (len(requests(sim, "POST")), exits(w)) == (posted, [])
        assert not beside.begin_sweep(1), "another one would take the exits with it"
        beside.end_sweep(proven=True)
        await eventually(lambda: len(requests(sim, "POST")) == posted + 1)
        assert len(exits(w)) == 1


async def test_exits_that_wait_are_not_sent_once_another_process_closed_the_positions(
    tmp_path, monkeypatch
) -> None:
    async with waiting(tmp_path, monkeypatch) as (w, sim, beside):
        posted = len(requests(sim, "POST"))
        beside.flattened(FIRM)
        beside.end_sweep(proven=True)
        run = next(iter(w.engine.operator.kill_runs.values()))
        await eventually(lambda: run.over)
        assert (len(requests(sim, "POST")), exits(w)) == (posted, [])
        assert ["closed outside the engine" in text for text in incomplete(w)] == [True]


async def test_exits_that_wait_and_are_given_up_by_a_rearm_are_told(tmp_path, monkeypatch) -> None:
    async with waiting(tmp_path, monkeypatch) as (w, sim, beside):
        posted = len(requests(sim, "POST"))
        await w.command("rearm", reason="it was nothing")
        beside.end_sweep(proven=True)
        assert (len(requests(sim, "POST")), exits(w), w.position("A-001")) == (posted, [], 1)
        assert incomplete(w) == ["all is armed before its exits could leave: no position is closed"]


async def test_a_cancel_of_all_that_had_to_wait_does_not_follow_exits(tmp_path) -> None:
    async with venue() as sim, world(tmp_path, [alpaca(1, url(sim))]) as w, hanging(w):
        home, config = Home(w.path), w.engine.config
        connections = Connections(home, config)
        line = connections.line(w.engine.fleet.states["A-001"].account)
        kill = OutOfBandKill(home, config, ALL, latch(w.path, ALL), connections)
        kill.shared = w.engine.shared
        clearing = Clearing(kill, line, Outcome("A-001", "alpaca"))
        await line.session.start()
        try:
            line.listener.on_limits("A-001", retry_after_s=0.1)  # the broker wants quiet
            asking = asyncio.create_task(clearing.cancel_in_one())
            w.engine.shared.begin_exits()
            assert not await asking
            assert (requests(sim, "DELETE"), w.engine.shared.words[SWEPT_NS]) == ([], 0)
        finally:
            await line.session.stop()
            await connections.close()


def test_what_may_still_arrive_is_waited_for_and_no_longer(tmp_path) -> None:
    with closing(KillLatch(tmp_path / FILE)) as shared:
        assert (shared.sweep_left_s(), shared.begin_sweep(1), shared.begin_sweep(1)) == (
            0,
            True,
            True,
        )
        shared.end_sweep(proven=True)
        assert shared.sweep_left_s() > 0, "the other one is on its way"
        shared.end_sweep(proven=False)
        assert shared.sweep_left_s() > 0, "it may still come"
        assert shared.begin_sweep(1)
        shared.end_sweep(proven=True)
        assert shared.sweep_left_s() > 0, "the earlier one may still come"
        shared.words[SWEPT_NS] += 10**15  # of before the machine started
        assert shared.sweep_left_s() == 0


def test_exits_of_before_the_machine_started_keep_no_cancel_of_all_from_leaving(tmp_path) -> None:
    with closing(KillLatch(tmp_path / FILE)) as shared:
        shared.words[EXITS_NS] = time.monotonic_ns() + 10**15
        assert shared.begin_sweep(time.monotonic_ns())
        shared.begin_exits()
        assert not shared.begin_sweep(1)


@pytest.mark.parametrize("first", [0, 1])
def test_one_process_s_answer_does_not_stand_for_another_s(tmp_path, first: int) -> None:
    with (
        closing(KillLatch(tmp_path / FILE)) as one,
        closing(KillLatch(tmp_path / FILE)) as other,
        closing(KillLatch(tmp_path / FILE)) as engine,
    ):
        assert one.begin_sweep(1)
        assert other.begin_sweep(1)
        (one, other)[first].end_sweep(proven=True)
        assert engine.sweep_left_s() > 0, "the other's is on its way"


@pytest.mark.parametrize("flatten", [False, True])
async def test_an_act_that_closes_positions_itself_takes_exits_over(
    tmp_path, flatten: bool
) -> None:
    """Two exits of one position, one of the engine's and one of its own, would open the other side."""
    async with venue() as sim, world(tmp_path, [alpaca(1, url(sim))]) as w, hanging(w):
        await holding(w, sim)
        pressed = latch(w.path, ALL)
        await w.command("kill", flatten=True)
        await eventually(lambda: sim.summary()["open_orders"] == 1 and exits(w))
        act = Act(FIRM, "test", "test", flatten)
        kill = OutOfBandKill(Home(w.path), w.engine.config, act, pressed)
        kill._books.read()
        ours = kill.ours_of_scope("A-001")
        assert (exits(w)[0] in ours) is flatten
