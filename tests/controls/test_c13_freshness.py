"""C13, freshness: the signal's age when its order leaves, not only when it comes in; nothing from the future."""

from __future__ import annotations

import time
from datetime import UTC, datetime, timedelta
from pathlib import Path

import orjson
import pytest

from engine.clock import rfc3339
from engine.errors import InvalidSignal
from engine.execution.fair_queue import FairQueue
from engine.execution.lane import Lane
from engine.execution.rate_limit import RateLimit
from engine.planner import Release
from tests.controls.restarts import RESTS, control, home
from tests.helpers import HandClock, ScriptedSession, make_order, make_state
from tests.planning import Desk
from tests.processes import signal_document
from tests.world import World, by_account, eventually


class StandingWall:
    """The machine's monotonic clock, and a wall clock that stands still."""

    def __init__(self) -> None:
        self.wall = datetime.now(UTC).replace(microsecond=0)

    def now(self) -> datetime:
        return self.wall

    monotonic_ns = staticmethod(time.monotonic_ns)


def body(clock: StandingWall, age: timedelta, **fields: object) -> bytes:
    document = signal_document(issued_at=rfc3339(clock.wall - age), **fields)
    return orjson.dumps({name: value for name, value in document.items() if value is not None})


@pytest.mark.parametrize(
    ("age_us", "valid_for_s", "code"),
    [
        (5_000_000, None, ""),
        (5_000_001, None, "STALE"),
        (30_000_000, 30, ""),
        (30_000_001, 30, "STALE"),
        (100_001, 0.1, "STALE"),
    ],
)
async def test_the_age_limit_is_the_last_moment_taken(
    tmp_path: Path, age_us: int, valid_for_s: float | None, code: str
) -> None:
    async with home(tmp_path) as place, place.engine() as running:
        clock = running.engine.clock = StandingWall()
        age = timedelta(microseconds=age_us)
        receipt = await running.engine.handle_signal(
            body(clock, age, valid_for_s=valid_for_s, action="cancel")
        )
        assert receipt.code == (code or "NO_ACCOUNTS")
        if code:
            seconds = age_us / 1e6
            limit = valid_for_s or 5
            assert (
                receipt.message == f"{seconds:.1f} s old when it came in, allowed are {limit:g} s"
            )


@pytest.mark.parametrize(("ahead_us", "taken"), [(1_000_000, True), (1_000_001, False)])
async def test_a_second_ahead_is_the_most(tmp_path: Path, ahead_us: int, taken: bool) -> None:
    async with home(tmp_path) as place, place.engine() as running:
        clock = running.engine.clock = StandingWall()
        sent = body(clock, -timedelta(microseconds=ahead_us), action="cancel")
        if taken:
            assert (await running.engine.handle_signal(sent)).code == "NO_ACCOUNTS"
        else:
            with pytest.raises(InvalidSignal, match=r"1\.000 s in the future") as refused:
                await running.engine.handle_signal(sent)
            assert refused.value.code == "FUTURE"


@pytest.mark.parametrize(("late_ns", "leaves"), [(0, True), (1, False)])
async def test_the_deadline_is_the_last_moment_an_order_leaves(late_ns: int, leaves: bool) -> None:
    clock, session = HandClock(), ScriptedSession()
    denied: list[tuple[str, str]] = []
    way = FairQueue(RateLimit(), clock)
    lane = Lane(
        session, RateLimit(), way, clock, lambda _order: None,
        lambda _order, code, text: denied.append((code, text)),
    )  # fmt: skip
    session.is_ready = False
    order = make_order("1")
    order.send_before_ns = clock.monotonic_ns() + 5_000_000_000
    lane.put(order)
    clock.advance_ns(5_000_000_000 + late_ns)
    session.is_ready = True
    lane.pump()
    assert bool(session.submitted) is leaves
    assert [code for code, _text in denied] == ([] if leaves else ["STALE"])
    lane.close()
    way.close()


def test_an_operator_s_release_is_as_fresh_as_the_moment_it_is_made():
    """The planner asks no age of a release: its orders have a deadline of their own."""
    desk = Desk(make_state(approval="review"))
    desk.clock.advance(3600)
    desk.marks.set("AAPL", desk.marks.price("AAPL"))
    assert desk.plan(Release(frozenset({"A-1"}))).orders


async def test_what_waits_too_long_for_its_turn_is_denied_and_told(tmp_path: Path) -> None:
    async with (
        home(tmp_path, limits={"max_orders_per_second": 1}) as place,
        place.engine() as running,
    ):
        await _until_one_is_late(running)
        stale = [row for row in running.engine.publisher.rows("orders") if row["code"] == "STALE"]
        assert stale
        assert all(row["status"] == "denied" for row in stale)
        assert all("past its age limit before it could leave" in row["text"] for row in stale)
        assert control(running, "C13")["refusals"] == len(stale)


async def _until_one_is_late(running: World) -> None:
    for number in range(6):
        await running.post(id=f"s-{number}", valid_for_s=0.3, **RESTS)
    orders = running.engine.orders.orders
    await eventually(lambda: any(order.code == "STALE" for order in orders.values()))


async def test_an_old_signal_is_old_after_a_restart_too(tmp_path: Path) -> None:
    old = {"issued_at": rfc3339(datetime.now(UTC) - timedelta(minutes=1))}
    async with home(tmp_path) as place:
        for turn in range(2):
            async with place.engine() as running:
                answer = await running.post(id=f"s-{turn}", **old)
                assert answer.json()["code"] == "STALE"
                assert answer.json()["message"].endswith("allowed are 30 s")
                rows = by_account(await running.detail(f"bot/s-{turn}"))
                assert rows["A-001"]["code"] == "STALE"
                assert control(running, "C13")["last_code"] == "STALE"
