"""C19: exits of a kill with flatten live on beside a clearing that began earlier, or still chases late orders."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, closing
from datetime import UTC, datetime
from pathlib import Path

import pytest

from engine import kill_latch, kill_out_of_band
from engine.clock import rfc3339
from engine.errors import StoreError
from engine.home import Home
from engine.kill_act import Act, Pressed, latch
from engine.kill_books import Books
from engine.kill_clearing import Clearing, Outcome
from engine.kill_connections import Connections
from engine.kill_exits import FILE as EXITS
from engine.kill_exits import KillExits
from engine.kill_file import KillFile
from engine.kill_latch import CLOSED_OUTSIDE, EXITS_NS, FILE, FIRM, SWEPT_NS, KillLatch
from engine.kill_out_of_band import OutOfBandKill
from engine.model.enums import OrderStatus, Side
from engine.model.order import Order
from engine.simbroker import SimBroker
from tests.controls.test_c18_kill_switch import place_elsewhere
from tests.controls.test_c19_standby import ALL, hanging, ready, requests, resting, url
from tests.processes import alpaca
from tests.world import World, eventually, venue, world

LONG_MS = 3_600_000.0
LOOK_UP = "/v2/orders:by_client_order_id"


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
        beside.flattened(FIRM, "2026-01-01T00:00:00Z")
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


# ---- exits of main.py kill --flatten --------------------------------------------------------------------------------

FLATTEN = Act(FIRM, "test", "test", flatten=True)


@asynccontextmanager
async def flattening(
    w: World, pressed: Pressed, act: Act = FLATTEN
) -> AsyncIterator[asyncio.Task[list[Outcome]]]:
    """Close positions as a process beside the engine does, with a latch of its own."""
    await eventually(lambda: read_books(w).positions, what="the journal has the position")
    with closing(KillLatch(w.path / FILE)) as shared:
        shared.flattened(act.scope, rfc3339(datetime.now(UTC)))
        kill = OutOfBandKill(Home(w.path), w.engine.config, act, pressed)
        kill.shared = shared
        kill.stands = lambda: shared.stands(act.scope)
        task = asyncio.create_task(kill.run())
        try:
            yield task
        finally:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)


def read_books(w: World) -> Books:
    books = Books(w.path / "journal.sqlite3")
    books.read()
    return books


def sells(sim: SimBroker) -> list[OrderStatus | None]:
    """Return what became of every exit at the venue."""
    orders = [o for account in sim.venue.accounts.values() for o in account.orders.values()]
    return [order.status for order in orders if order.side is Side.SELL]


async def test_an_engine_that_moves_again_cancels_no_exit_sent_meanwhile(tmp_path) -> None:
    async with (
        venue() as sim,
        world(tmp_path, [alpaca(1, url(sim))], safety={"reconcile_orders_s": 1}) as w,
        hanging(w),
    ):
        await holding(w, sim)
        await resting(w, sim, 1)
        pressed = latch(w.path, FLATTEN)
        async with flattening(w, pressed):
            await eventually(lambda: sells(sim) == [OrderStatus.NEW])
            await resting_late(w, sim)
            await moves_again(w)
            run = await eventually(lambda: w.engine.operator.kill_runs.get(FIRM))
            await eventually(lambda: (run.row("A-001") or {}).get("verified_at"))
            assert (sells(sim), sim.summary()["open_orders"]) == ([OrderStatus.NEW], 1)
            row = run.row("A-001")
            assert (row["cancels_sent"], row["working"]) == (1, 0)
            told = "is an exit of main.py kill --flatten: not touched"
            await eventually(lambda: any(told in alert["text"] for alert in w.engine.alerts))


async def resting_late(w: World, sim: SimBroker) -> None:
    """Have an order work that the engine knows and the act beside it has not seen."""
    await place_elsewhere(sim, w, "accepted-late")
    assert sim.summary()["open_orders"] == 2


async def moves_again(w: World) -> None:
    """Let the engine look at the latch again."""
    await next(one for one in w.engine.services if isinstance(one, KillFile)).start()


async def test_exits_from_beside_wait_for_the_engine_s_own_cancel_of_all(tmp_path) -> None:
    """It takes its time, and cancels whatever works when it comes."""
    late = {"action": "late_accept", "delay_s": 4.0, "match": {"method": "DELETE"}}
    async with (
        venue() as sim,
        world(tmp_path, [alpaca(1, url(sim))], engine={"reply_timeout_s": 1}) as w,
    ):
        await holding(w, sim)
        await resting(w, sim, 1)
        sim.faults.replace([late])
        await w.command("kill")
        await eventually(lambda: requests(sim, "DELETE") == ["/v2/orders"])
        began = time.monotonic()
        async with flattening(w, latch(w.path, FLATTEN)):
            await eventually(lambda: sells(sim) == [OrderStatus.NEW], 20)
            await eventually(lambda: time.monotonic() - began > 5.5)
            assert sells(sim) == [OrderStatus.NEW]


def row(name: str, since: str, account: str = "A-001", scope: str = FIRM) -> dict[str, str]:
    """Return an exit as it is noted."""
    return {"id": name, "account": account, "symbol": "AAPL", "scope": scope, "since": since}


@pytest.mark.parametrize("by", ["engine", "standby"])
async def test_beside_an_exit_that_was_noted_each_order_is_cancelled_by_itself(
    tmp_path, by: str
) -> None:
    """A cancel of all in one request would take it; without one, that is what leaves."""
    async with (
        venue() as sim,
        world(tmp_path, [alpaca(1, url(sim)), alpaca(2, url(sim))]) as w,
        ready(w, 2) as r,
        hanging(w),
    ):
        await resting(w, sim, 2)
        await place_elsewhere(sim, w, "sent-beside")
        with (
            closing(KillLatch(w.path / FILE)) as shared,
            closing(KillExits(shared)) as beside,
        ):
            pressed = latch(w.path, ALL)
            assert beside.try_turn()
            beside.note([row("sent-beside", pressed.since)])
            if by == "engine":
                await w.command("kill")
                run = w.engine.operator.kill_runs[FIRM]
                await eventually(lambda: all(run.row(a)["verified_at"] for a in run.accounts()))
            else:
                latch(w.path, ALL, taken=False)
                await eventually(lambda: r.results)
                assert r.results[0].clear, r.results
            assert sim.summary()["open_orders"] == 1
            assert sorted(path.count("/") for path in requests(sim, "DELETE")) == [2, 3]


def test_a_noted_exit_counts_for_as_long_as_its_halt_stands(tmp_path) -> None:
    pressed = latch(tmp_path, ALL)
    with closing(KillLatch(tmp_path / FILE)) as shared, closing(KillExits(shared)) as one:
        engine = KillExits(shared)
        assert (engine.of(), one.try_turn(), KillExits(shared).try_turn()) == (set(), True, False)
        one.note([row("A", pressed.since), row("B", pressed.since, "A-002")])
        one.note([row("C", "2020-01-01T00:00:00Z"), row("D", pressed.since, scope="symbol:AAPL")])
        assert (engine.of(), engine.of("A-002"), engine.of("", "MSFT")) == (
            {"A", "B"},
            {"B"},
            set(),
        )
        with (tmp_path / EXITS).open("a") as file:
            file.write('{"id": "cut sh')
        one.note([row("E", pressed.since)])
        assert engine.of() == {"A", "B", "E"}
        one.close()
        assert KillExits(shared).of() == {"A", "B", "E"}, "another process reads the same"
        shared.lift(FIRM)
        assert engine.of() == set()
        assert one.try_turn()
        assert (tmp_path / EXITS).stat().st_size == 0, "lines of halts that were lifted go"


async def test_exits_that_cannot_be_noted_are_sent_and_it_is_said(tmp_path) -> None:
    async with venue() as sim, world(tmp_path, [alpaca(1, url(sim))]) as w, hanging(w):
        await w.send(id="held")
        await eventually(lambda: w.position("A-001") == 1)
        (w.path / EXITS).mkdir()
        async with flattening(w, latch(w.path, FLATTEN)) as task:
            [outcome] = await task
            assert (outcome.residual, outcome.clear) == ({}, True)
            assert outcome.error.startswith("its exits are not noted (")


# ---- positions that another process closes --------------------------------------------------------------------------


async def held_twice(w: World) -> None:
    """Hold a position in each of two accounts."""
    await w.send(id="held")
    await eventually(lambda: (w.position("A-001"), w.position("A-002")) == (1, 1))


async def test_a_wider_flatten_closes_what_no_other_process_does(tmp_path) -> None:
    async with (
        venue() as sim,
        world(tmp_path, [alpaca(1, url(sim)), alpaca(2, url(sim))]) as w,
        hanging(w),
    ):
        await held_twice(w)
        latch(w.path, Act("account:A-001", "test", "test", flatten=True))
        assert (await w.command("kill", flatten=True))["flatten"] is True
        await eventually(lambda: w.position("A-002") == 0)
        run = w.engine.operator.kill_runs[FIRM]
        await eventually(lambda: run.over)
        assert (sells(sim), w.position("A-001")) == ([OrderStatus.FILLED], 1)
        assert ["closed outside the engine" in text for text in incomplete(w)] == [True]


@pytest.mark.parametrize("outside", ["all", "broker:alpaca"])
async def test_a_narrower_flatten_leaves_positions_to_the_process_that_closes_more(
    tmp_path, outside: str
) -> None:
    async with venue() as sim, world(tmp_path, [alpaca(1, url(sim))]) as w, hanging(w):
        await w.send(id="held")
        await eventually(lambda: w.position("A-001") == 1)
        latch(w.path, Act(outside, "test", "test", flatten=True))
        said = await w.command("kill", scope="account:A-001", flatten=True)
        run = w.engine.operator.kill_runs["account:A-001"]
        await eventually(lambda: run.over)
        assert (said["flatten"], sells(sim)) == (False, [])
        assert ["closed outside the engine" in text for text in incomplete(w)] == [True]


async def test_what_a_flatten_cancelled_leaves_behind_is_left_to_whoever_took_it_over(
    tmp_path,
) -> None:
    """The engine's book still holds what the process beside it has closed: a rest closed would turn it around."""
    async with venue() as sim, world(tmp_path, [alpaca(1, url(sim))]) as w, hanging(w):
        await holding(w, sim)
        await resting(w, sim, 1)
        pressed = latch(w.path, ALL)
        await w.command("kill", flatten=True)
        await eventually(lambda: sells(sim) == [OrderStatus.NEW])
        sim.config.fill_delay_ms = 0.0
        run = w.engine.operator.kill_runs[FIRM]
        async with flattening(w, pressed) as task:
            await eventually(lambda: run.over)
            [outcome] = await task
        assert (outcome.clear, outcome.residual) == (True, {})
        assert sells(sim) == [OrderStatus.CANCELED, OrderStatus.FILLED]
        assert [order.leg for order in w.engine.orders.orders.values() if order.reducing] == [
            "close"
        ]


async def test_of_two_processes_that_close_positions_one_sends_the_exits(tmp_path) -> None:
    async with venue() as sim, world(tmp_path, [alpaca(1, url(sim))]) as w, hanging(w):
        await w.send(id="held")
        await eventually(lambda: w.position("A-001") == 1)
        posted = len(requests(sim, "POST"))
        slow = {"action": "delay", "delay_s": 0.3, "times": 0, "match": {"path": LOOK_UP}}
        sim.faults.replace([slow])  # neither sees the other's exit yet
        pressed = latch(w.path, FLATTEN)
        async with flattening(w, pressed) as one, flattening(w, pressed) as other:
            outcomes = [*await one, *await other]
        assert [(o.clear, o.residual, o.error) for o in outcomes] == [(True, {}, "")] * 2
        assert (len(requests(sim, "POST")), sells(sim)) == (posted + 1, [OrderStatus.FILLED])


async def test_one_that_waits_too_long_for_another_says_so_and_sends_nothing(
    tmp_path, monkeypatch
) -> None:
    monkeypatch.setattr(kill_out_of_band, "TURN_WITHIN_S", 0.2)
    async with venue() as sim, world(tmp_path, [alpaca(1, url(sim))]) as w, hanging(w):
        await w.send(id="held")
        await eventually(lambda: w.position("A-001") == 1)
        with closing(KillExits(w.engine.shared)) as another:
            assert another.try_turn()
            async with flattening(w, latch(w.path, FLATTEN)) as task:
                [outcome] = await task
        assert (outcome.clear, sells(sim)) == (False, [])
        assert outcome.error.startswith("another main.py kill --flatten closes positions")


async def test_a_strategy_s_positions_are_not_noted_as_closed_outside(tmp_path) -> None:
    act = Act("strategy:breakout", "test", "test", flatten=True)
    async with venue() as sim, world(tmp_path, [alpaca(1, url(sim))]) as w, hanging(w):
        await w.send(id="held")
        await eventually(lambda: w.position("A-001") == 1)
        latch(w.path, act)
        assert not (w.engine.shared.of(act.scope) or {}).get("flat")
        await w.command("kill", scope=act.scope, flatten=True)
        await eventually(lambda: w.position("A-001") == 0)
        assert sells(sim) == [OrderStatus.FILLED]


async def test_a_journal_that_could_not_be_read_once_marks_no_other_account(tmp_path) -> None:
    act = Act("symbol:AAPL", "test", "test")
    async with (
        venue() as sim,
        world(tmp_path, [alpaca(1, url(sim)), alpaca(2, url(sim))]) as w,
        hanging(w),
    ):
        await resting(w, sim, 2)
        await eventually(lambda: len(read_books(w).orders) == 2)
        kill = OutOfBandKill(Home(w.path), w.engine.config, act, latch(w.path, act))
        session = w.engine.fleet.sessions["A-001"]
        journal = kill._books._path
        kill._books._path = journal.with_name("gone")
        with pytest.raises(StoreError):
            kill.of_scope(await session.open_orders())
        kill._books._path = journal
        outcomes = await kill.run()
        assert [(o.clear, o.error) for o in outcomes] == [(True, "")] * 2
        assert (kill.problem, sim.summary()["open_orders"]) == ("", 0)


async def test_a_press_found_at_the_start_is_told_once(tmp_path) -> None:
    async with venue() as sim:
        async with world(tmp_path, [alpaca(1, url(sim))]) as w:
            latch_path = w.path
        latch(latch_path, ALL)
        async with world(tmp_path) as w:
            await eventually(lambda: FIRM in w.engine.operator.kill_runs)
            run = w.engine.operator.kill_runs[FIRM]
            await eventually(lambda: run.over)
            told = [
                a for a in w.engine.alerts if (a["code"], a["severity"]) == ("HALTED", "critical")
            ]
            assert [(alert["text"], alert["count"]) for alert in told] == [
                ("all is halted: test", 1)
            ]


async def test_an_exit_that_has_not_left_when_another_process_takes_over_does_not_leave(
    tmp_path,
) -> None:
    """The engine hung with it in hand; when it moves, the position is closed, and its book does not know."""
    async with venue() as sim, world(tmp_path, [alpaca(1, url(sim))]) as w, hanging(w):
        await w.send(id="held")
        await eventually(lambda: w.position("A-001") == 1)
        pressed = latch(w.path, ALL)
        lane = w.engine.dispatcher.lanes["A-001"]
        lane.limit.pause(3600, w.engine.clock.monotonic_ns())
        await w.command("kill", flatten=True)
        [exit_] = [order for order in w.engine.orders.working() if order.reducing]
        async with flattening(w, pressed) as task:
            [outcome] = await task
        assert (outcome.residual, sells(sim)) == ({}, [OrderStatus.FILLED])
        lane.limit.paused_until_ns = 0
        lane.pump()
        await eventually(lambda: exit_.status.terminal)
        assert (exit_.status, exit_.code) == (OrderStatus.DENIED, "HALTED")
        assert "closed outside the engine" in exit_.text
        assert sells(sim) == [OrderStatus.FILLED]
        for scope in (FIRM, "account:A-001", "symbol:AAPL"):
            assert (await w.command("flatten", scope=scope))["orders"] == {}
            [told] = [
                alert for alert in w.engine.alerts if alert["text"] == f"{scope}: {CLOSED_OUTSIDE}"
            ]
            assert (told["code"], told["severity"]) == ("KILL_INCOMPLETE", "critical")
        assert sells(sim) == [OrderStatus.FILLED]
        await w.command("close_position", account="A-001", symbol="AAPL")
        await eventually(lambda: len(sells(sim)) == 2, what="a person who has looked may close")


async def test_a_rearm_while_exits_wait_beside_the_engine_sends_none(tmp_path, monkeypatch) -> None:
    announce = OutOfBandKill.announce

    async def armed_meanwhile(kill: OutOfBandKill, exits: list[Order]) -> str:
        said = await announce(kill, exits)
        assert kill.shared is not None
        kill.shared.lift(FIRM)
        return said

    async with venue() as sim, world(tmp_path, [alpaca(1, url(sim))]) as w, hanging(w):
        await w.send(id="held")
        await eventually(lambda: w.position("A-001") == 1)
        pressed = latch(w.path, ALL)
        monkeypatch.setattr(OutOfBandKill, "announce", armed_meanwhile)
        async with flattening(w, pressed) as task:
            [outcome] = await task
        assert "armed again meanwhile" in outcome.error
        assert sells(sim) == []


async def test_a_mark_without_a_time_of_an_earlier_version_keeps_no_exit_by_hand_back(
    tmp_path,
) -> None:
    async with venue() as sim, world(tmp_path, [alpaca(1, url(sim))]) as w, hanging(w):
        await w.send(id="held")
        await eventually(lambda: w.position("A-001") == 1)
        latch(w.path, ALL)
        w.engine.shared._change(FIRM, flat=True)
        await w.command("kill")
        await w.command("close_position", account="A-001", symbol="AAPL")
        await eventually(lambda: w.position("A-001") == 0)
