"""C08: who has lost the day's limit opens nothing more: at the plan, queued, after a restart, until the next day."""

from __future__ import annotations

from datetime import date, timedelta
from decimal import Decimal
from typing import Any

import pytest

from engine.eligibility import rules
from engine.model.enums import OrderStatus
from engine.risk.daily_loss import DailyLoss
from tests.controls.restarts import control
from tests.helpers import MONDAY, HandClock, make_account, make_state
from tests.world import eventually, paper, world

LIMIT = {"limits": {"max_daily_loss": "100"}}


class Day:
    """Two accounts whose P&L the test sets."""

    def __init__(self, firm: str | None = None, facts: dict[str, Any] | None = None) -> None:
        self.clock = HandClock()
        self.facts = dict(facts or {})
        self.pnl = {"A-1": Decimal(0), "A-2": Decimal(0)}
        self.states = {
            name: make_state(
                make_account(name, limits={"max_daily_loss": "100"} if name == "A-1" else {})
            )
            for name in self.pnl
        }
        for state in self.states.values():
            state.day = MONDAY.date()
        self.tripped: list[tuple[str, str]] = []
        self.cleared: list[str] = []
        self.losses = DailyLoss(
            self.clock,
            self.states,
            None if firm is None else Decimal(firm),
            self.pnl.__getitem__,
            rules.within_daily_loss,
            lambda scope, text: self.tripped.append((scope, text)),
            lambda scope, _why: self.cleared.append(scope),
            self._keep,
        )
        self.losses.load(self.facts)

    def _keep(self, _kind: str, key: str, value: dict[str, Any] | None) -> None:
        self.facts.pop(key, None)
        if value is not None:
            self.facts[key] = value


@pytest.mark.parametrize(("pnl", "trips"), [("-99.99", False), ("-100", True), ("-100.01", True)])
def test_an_account_trips_at_its_limit_once_and_says_so(pnl: str, trips: bool) -> None:
    day = Day()
    day.pnl["A-1"] = day.pnl["A-2"] = Decimal(pnl)
    day.losses.tick()
    day.losses.tick()
    text = f"today's P&L is {Decimal(pnl):.2f}, the limit is a loss of 100"
    assert day.tripped == ([("account:A-1", text)] if trips else [])
    assert bool(day.losses.refusal(day.states["A-1"])) is trips


def test_it_ends_with_the_session_and_not_with_the_loss() -> None:
    day = Day()
    day.pnl["A-1"] = Decimal(-100)
    day.losses.tick()
    day.pnl["A-1"] = Decimal(50)
    day.losses.tick()
    assert day.cleared == []
    day.states["A-1"].day = MONDAY.date() + timedelta(days=1)
    day.losses.tick()
    assert day.cleared == ["account:A-1"]
    assert not day.facts


def test_after_a_restart_it_is_not_told_again_and_still_ends() -> None:
    first = Day()
    first.pnl["A-1"] = Decimal(-100)
    first.losses.tick()
    second = Day(facts=first.facts)
    second.pnl["A-1"] = Decimal(-100)
    second.losses.tick()
    assert second.tripped == []
    second.states["A-1"].day = MONDAY.date() + timedelta(days=1)
    second.losses.tick()
    assert second.cleared == ["account:A-1"]


@pytest.mark.parametrize(("second", "trips"), [("-99.99", False), ("-100", True)])
def test_the_firm_counts_all_accounts_from_the_days_beginning(second: str, trips: bool) -> None:
    day = Day(firm="150")
    day.pnl["A-2"] = Decimal(-1000)  # lost before today
    day.losses.tick()
    day.pnl["A-1"] = Decimal(-50)
    day.pnl["A-2"] = Decimal(-1000) + Decimal(second)
    day.losses.tick()
    day.losses.tick()
    assert [scope for scope, _ in day.tripped] == ["all"] * trips
    if trips:
        assert day.tripped[0][1] == "today's P&L of the firm is -150.00, the limit is a loss of 150"


def test_the_firms_day_survives_a_restart_and_ends_at_midnight_utc() -> None:
    first = Day(firm="150")
    first.losses.tick()
    second = Day(firm="150", facts=first.facts)
    second.pnl["A-2"] = Decimal(-150)
    second.losses.tick()
    assert [scope for scope, _ in second.tripped] == ["all"]
    third = Day(firm="150", facts=second.facts)
    third.pnl["A-2"] = Decimal(-150)
    third.losses.tick()
    assert third.tripped == []
    third.clock.advance(86_400)
    third.losses.tick()
    assert third.cleared[-1] == "all"
    assert date.fromisoformat(third.facts["all"]["day"]) > MONDAY.date()
    third.losses.tick()
    assert third.tripped == []  # what was lost yesterday is not today's


async def test_a_lost_day_holds_for_queued_orders_and_over_a_restart(tmp_path) -> None:
    quiet = {"market": {"source": "none"}}
    async with world(
        tmp_path, [paper(1, sizing={"method": "fixed", "quantity": "100"}, **LIMIT)], **quiet
    ) as w:
        state = w.engine.fleet.states["P-001"]
        await w.http.post("/v1/prices", json={"AAPL": "100"})
        await w.send(id="s-1")
        await eventually(lambda: state.day is not None)
        lane = w.engine.dispatcher.lanes["P-001"]
        lane.hold_entries("TEST", "held up")
        await w.post(id="s-2", valid_for_s=60)
        queued = w.engine.records["bot/s-2"].orders["P-001"]
        await w.http.post("/v1/prices", json={"AAPL": "98.99"})
        lane.release_entries("TEST")
        assert (queued.status, queued.code) == (OrderStatus.DENIED, "DAILY_LOSS")
        w.engine.guards.tick()
        latch = w.engine.states.get("account:P-001")
        assert latch is not None
        assert (latch.state.value, latch.by) == ("reducing", "C08")
        assert "the limit is a loss of 100" in latch.reason
        assert control(w, "C08")["state"] == "tripped"
        assert [row["code"] for row in w.engine.alerts].count("DAILY_LOSS") == 1
        w.engine.set_prices({"AAPL": Decimal(100)})  # won back: entries stay off all the same
        (row,) = (await w.send(id="s-3"))["accounts"]
        assert row["code"] == "DAILY_LOSS"
    async with world(tmp_path, **quiet) as w:
        await w.http.post("/v1/prices", json={"AAPL": "100"})
        assert control(w, "C08")["state"] == "tripped"
        (row,) = (await w.send(id="s-4"))["accounts"]
        assert row["code"] == "DAILY_LOSS"
        assert (await w.send(id="s-5", action="close"))["accounts"][0]["outcome"] == "sent"
        w.engine.fleet.states["P-001"].day += timedelta(days=1)
        w.engine.guards.tick()
        await eventually(lambda: w.engine.states.get("account:P-001") is None)
        assert control(w, "C08")["state"] == "on"
