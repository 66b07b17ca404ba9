"""C26: a clock that steps, differs from the brokers', or lies before what the book has seen, takes entries off."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from engine.clock import rfc3339
from engine.home import Home
from engine.model.enums import OrderStatus
from engine.risk.clock_guard import ClockGuard
from engine.stores.journal import Journal
from engine.wiring import build_engine
from tests.controls.restarts import control
from tests.helpers import MONDAY, HandClock
from tests.world import eventually, paper, settings, world

QUIET = {"market": {"source": "none"}}


class Watch:
    def __init__(self, facts: dict[str, Any] | None = None, now: datetime = MONDAY) -> None:
        self.clock = HandClock(now)
        self.facts = dict(facts or {})
        self.trips: list[tuple[str, str]] = []
        self.cleared: list[str] = []
        self.warned: list[str] = []
        self.aged: list[int] = []
        self.guard = ClockGuard(
            self.clock,
            250,
            1000,
            lambda scope, text: self.trips.append((scope, text)),
            lambda scope, _why: self.cleared.append(scope),
            lambda _broker, text: self.warned.append(text),
            self.aged.append,
            lambda _kind, key, value: self.facts.__setitem__(key, value),
        )
        self.guard.load(self.facts)

    def step(self, milliseconds: float) -> None:
        """Set the wall clock only."""
        self.clock._now += timedelta(milliseconds=milliseconds)

    def date(self, milliseconds: float, took_ms: int = 0) -> None:
        """Hear a broker whose clock is so much ahead of ours; the answer took some time."""
        now = self.clock.monotonic_ns()
        theirs = (self.clock.now() + timedelta(milliseconds=milliseconds)).replace(microsecond=0)
        self.guard.heard("alpaca", theirs, now - took_ms * 1_000_000, now)


@pytest.mark.parametrize(
    ("milliseconds", "trips", "warns"),
    [
        (0, 0, 0),
        (250, 0, 0),
        (251, 0, 1),
        (1000, 0, 1),
        (1001, 1, 0),
        (-1001, 1, 0),
        (-3_600_000, 1, 0),
    ],
)
def test_a_step_against_the_monotonic_clock(milliseconds: int, trips: int, warns: int) -> None:
    watch = Watch()
    watch.clock.advance(1)
    watch.step(milliseconds)
    watch.guard.tick()
    watch.guard.tick()
    assert (len(watch.trips), len(watch.warned)) == (trips, warns)
    if trips:
        text = f"CLOCK {milliseconds / 1000:+.1f} s: it was set while the engine ran"
        assert watch.trips == [("all", text)]


def test_time_that_passes_is_no_step() -> None:
    watch = Watch()
    for seconds in (1, 3600, 86_400):
        watch.clock.advance(seconds)
        watch.guard.tick()
    assert watch.trips == watch.aged == []


def test_put_right_it_clears_by_itself_and_accepted_it_is_the_new_truth() -> None:
    watch = Watch()
    watch.step(-3_600_000)
    watch.guard.tick()
    watch.step(3_600_000)
    watch.guard.tick()
    assert watch.cleared == ["all"]
    watch.step(-3_600_000)
    watch.guard.tick()
    watch.guard.accept("all")
    watch.guard.tick()
    assert len(watch.trips) == 2
    watch.step(3_600_000)
    watch.guard.tick()
    assert len(watch.trips) == 3


def test_the_machine_slept_and_what_waits_is_as_much_older() -> None:
    watch = Watch()
    watch.step(8 * 3_600_000)
    watch.guard.look()
    assert watch.aged == [8 * 3_600_000_000_000]
    watch.date(0)  # a broker says that the time is right
    assert watch.cleared[-1] == "all"


@pytest.mark.parametrize(
    ("milliseconds", "took_ms", "trips"),
    [
        (0, 0, 0),
        (999, 0, 0),
        (3000, 0, 1),
        (-3000, 0, 1),
        (3000, 5000, 0 + 1),
        (-3000, 5000, 0),
        (-60_000, 5000, 1),
    ],
)
def test_a_brokers_date_counts_for_what_it_proves(
    milliseconds: int, took_ms: int, trips: int
) -> None:
    watch = Watch()
    watch.date(milliseconds, took_ms)
    assert [scope for scope, _ in watch.trips] == ["broker:alpaca"] * trips
    watch.date(0)
    assert watch.cleared[-1] == "broker:alpaca"


@pytest.mark.parametrize(("behind_s", "trips"), [(-10, 0), (0, 0), (1, 0), (1.001, 1), (86_400, 1)])
def test_a_start_before_the_latest_moment_of_the_book(behind_s: float, trips: int) -> None:
    first = Watch()
    first.guard.mark()
    second = Watch(first.facts, MONDAY - timedelta(seconds=behind_s))
    assert len(second.trips) == trips
    if trips:
        assert second.trips[0][1].endswith(f"the book has seen {rfc3339(MONDAY)}")
        second.guard.mark()
        assert second.facts == first.facts  # a wrong clock never moves the mark
        second.clock.advance(behind_s)
        second.guard.tick()
        assert second.cleared == ["all"]


async def test_a_step_blocks_entries_lets_exits_pass_and_survives_a_restart(tmp_path) -> None:
    async with world(tmp_path, [paper(1)], **QUIET) as w:
        await w.http.post("/v1/prices", json={"AAPL": "100"})
        await w.send(id="held")
        clock = w.engine.guards.clock
        clock._offset -= 5_000_000_000  # as if the wall clock had been set five seconds ahead
        refused = (await w.post(id="s-1")).json()
        assert (refused["state"], refused["code"]) == ("refused", "CLOCK")
        assert control(w, "C26")["state"] == "tripped"
        (alert,) = [row for row in w.engine.alerts if row["code"] == "CLOCK"]
        assert "CLOCK +5.0 s: it was set while the engine ran" in alert["text"]
        closed = await w.send(id="close", action="close")
        assert closed["accounts"][0]["outcome"] == "sent"
    async with world(tmp_path, **QUIET) as w:
        await w.http.post("/v1/prices", json={"AAPL": "100"})
        assert (await w.post(id="s-2")).json()["code"] == "CLOCK"
        await w.command("resume", scope="all")  # a person has looked
        assert control(w, "C26")["state"] == "on"
        assert (await w.send(id="s-3"))["accounts"][0]["outcome"] == "sent"


async def test_a_clock_set_back_before_the_start_blocks_it(tmp_path) -> None:
    place = Home(tmp_path / "home")
    late = rfc3339(datetime.now(UTC) + timedelta(days=1))
    journal = Journal(place.journal)
    await journal.open()
    await journal.commit_fact("clock", "latest", {"at": late})
    await journal.close()
    engine = await build_engine(place, settings(**QUIET))
    latch = engine.states.get("all")
    await engine.stop()
    assert latch is not None
    assert (latch.state.value, latch.code) == ("reducing", "CLOCK")
    assert latch.reason.endswith(f"the book has seen {late}")


async def test_what_waits_expires_when_the_machine_has_slept(tmp_path) -> None:
    async with world(tmp_path, [paper(1)], **QUIET) as w:
        await w.http.post("/v1/prices", json={"AAPL": "100"})
        await eventually(lambda: not w.engine.dispatcher.lanes["P-001"].waits)
        w.engine.dispatcher.lanes["P-001"].hold_entries("TEST", "held up")
        await w.post(id="s-1", valid_for_s=60)
        order = w.engine.records["bot/s-1"].orders["P-001"]
        w.engine.guards.clock._offset -= 61_000_000_000
        w.engine.guards.tick()
        assert (order.status, order.code) == (OrderStatus.DENIED, "STALE")
