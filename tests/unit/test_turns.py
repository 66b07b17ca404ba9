"""Whose turn it is: spread over time by account, within what an address may read, behind every order."""

from __future__ import annotations

import asyncio
from collections import Counter
from dataclasses import replace

import pytest

from engine.execution.dispatcher import Dispatcher
from engine.execution.turns import AT_ONCE, MOST_BEGUN, Turns
from tests.helpers import CAPABILITIES, HandClock, ScriptedSession, make_account, make_state

EVERY = {"order": 10.0, "position": 30.0, "cash": 300.0}


class Desk:
    def __init__(self, count: int, every: dict[str, float] | None = None, **capabilities: float):
        able = replace(CAPABILITIES, **capabilities)
        self.clock = HandClock()
        self.states = {
            f"A-{n}": make_state(make_account(f"A-{n}", name=str(n))) for n in range(count)
        }
        self.sessions = {name: ScriptedSession(name, able) for name in self.states}
        self.compared: list[tuple[str, str]] = []
        self.gone: list[str] = []
        self.hold = asyncio.Event()
        self.hold.set()
        self.turns = Turns(
            self.clock,
            self.states,
            self.sessions,
            Dispatcher(),
            EVERY if every is None else every,
            self._compare,
            self.gone.append,
        )

    async def _compare(self, state, session, kinds):
        self.compared += [(state.id, kind) for kind in kinds]
        await self.hold.wait()

    def begin(self) -> None:
        for account in self.states:
            self.turns.begin(account)

    async def pass_time(self, seconds: float, step: float = 0.1) -> None:
        for _ in range(round(seconds / step)):
            self.clock.advance(step)
            self.turns._look(self.clock.monotonic_ns())
            for _ in range(3):
                await asyncio.sleep(0)


async def test_each_account_comes_as_often_as_configured_and_not_all_at_once():
    desk = Desk(20)
    desk.begin()
    moments = {due["order"] for due in desk.turns._due.values()}
    assert len(moments) == 20  # spread over the interval, always the same way
    assert moments == {due["order"] for due in _again(20)}
    await desk.pass_time(300)
    counts = Counter(desk.compared)
    for account in desk.states:
        assert 29 <= counts[account, "order"] <= 30
        assert 9 <= counts[account, "position"] <= 10
        assert counts[account, "cash"] <= 1
        assert desk.turns.every_s(account)["order"] == pytest.approx(10, abs=0.3)


def _again(count: int) -> list[dict[str, int]]:
    desk = Desk(count)
    desk.begin()
    return list(desk.turns._due.values())


async def test_an_address_is_never_read_faster_than_it_may_and_says_how_often():
    desk = Desk(30, reads_per_second=5.0, orders_cost=10.0, positions_cost=5.0)
    desk.begin()
    await desk.pass_time(600)
    spent = sum(
        10 if kind == "order" else 5 if kind == "position" else 1 for _, kind in desk.compared
    )
    assert spent <= 600 * 5 + 10
    assert spent >= 600 * 5 * 0.9  # and what it may is used
    served = Counter(account for account, _ in desk.compared)
    assert len(served) == 30  # nobody starves
    assert max(desk.turns.every_s(account)["order"] for account in desk.states) > 30


async def test_a_venue_and_the_loop_are_never_flooded():
    desk = Desk(100)
    desk.begin()
    desk.hold.clear()
    await desk.pass_time(40)
    assert len(desk.turns._visits) == AT_ONCE
    desk.hold.set()
    begun = len(desk.compared)
    await desk.pass_time(0.1)
    assert len({account for account, _ in desk.compared[begun:]}) <= MOST_BEGUN


async def test_quiet_removed_and_unusable_accounts_are_not_read():
    desk = Desk(3)
    desk.begin()
    desk.states["A-0"].usable = False
    del desk.states["A-1"]
    await desk.pass_time(60)
    assert {account for account, _ in desk.compared} == {"A-2"}
    assert desk.gone == ["A-1"]
    desk.states["A-0"].usable = True
    await desk.pass_time(1)
    assert {account for account, _ in desk.compared} == {"A-0", "A-2"}


async def test_soon_is_sooner_and_never_later():
    desk = Desk(1)
    desk.begin()
    desk.turns.soon("A-0", "cash", 2.0)
    desk.turns.soon("A-0", "cash", 50.0)
    desk.turns.soon("A-9", "cash", 1.0)  # nobody
    await desk.pass_time(1.9)
    assert ("A-0", "cash") not in desk.compared
    await desk.pass_time(0.2)
    assert ("A-0", "cash") in desk.compared


async def test_zero_is_never():
    desk = Desk(2, {"order": 0.0, "position": 5.0, "cash": 0.0})
    desk.begin()
    desk.turns.soon("A-0", "order", 0.1)
    await desk.pass_time(20)
    assert {kind for _, kind in desk.compared} == {"position"}
    nothing = Desk(2, {"order": 0.0, "position": 0.0, "cash": 0.0})
    nothing.begin()
    await nothing.pass_time(20)
    assert nothing.compared == []
