"""Scrubbing through a long day: whatever way is gone, and wherever it is turned round, what is shown is the moment."""

from __future__ import annotations

import random
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from engine import client_replay
from engine.client_replay import ReplayClient
from engine.days.recorded import RecordedDay, bounds
from engine.days.timeline import Change, Timeline
from engine.model import tables
from tests.listener import Listener

DAY = datetime(2026, 11, 20, tzinfo=UTC)
BEGINS = DAY.timestamp()
CHANGES = 30_000


def long_day() -> Timeline:
    """Return a day of one change a second: orders and fills that come, orders that change, halts that come and go."""
    chance = random.Random(11)
    changes = []
    orders = 0
    for number in range(CHANGES):
        at, kind = BEGINS + number, chance.randrange(10)
        if kind < 4:
            row = {
                "cl_ord_id": f"O{orders}",
                "status": "new",
                "cum_qty": "0",
                "account": "A-001",
            }
            changes.append(Change(at, tables.ORDERS, f"O{orders}", row))
            orders += 1
        elif kind < 7 and orders:
            order = f"O{chance.randrange(orders)}"
            changes.append(Change(at, tables.ORDERS, order, {"cum_qty": str(number)}))
        elif kind < 9:
            changes.append(Change(at, tables.FILLS, f"A-001/{number}", {"key": f"A-001/{number}"}))
        else:
            scope = f"account:A-{chance.randrange(9)}"
            gone = chance.random() < 0.5
            changes.append(Change(at, tables.HALTS, scope, None if gone else {"scope": scope}))
    begin, end = bounds(DAY.date(), "UTC")
    day = RecordedDay(Path("journal.sqlite3"), DAY.date(), "UTC", begin, end)
    return Timeline(day, BEGINS - 1, BEGINS + CHANGES, changes)


def rows_at(timeline: Timeline, moment: float) -> dict[str, dict[str, Any]]:
    found: dict[str, dict[str, Any]] = {name: {} for name in tables.KEYS}
    for change in timeline.changes:
        if change.at > moment:
            break
        if change.columns is None:
            found[change.table].pop(change.key, None)
        else:
            known = found[change.table].get(change.key, {})
            found[change.table][change.key] = {**known, **change.columns}
    del found[tables.ENGINE]
    return found


class Shown(Listener):
    """A listener that knows how much it was told at once."""

    def __init__(self) -> None:
        super().__init__()
        self.most = 0
        self.calls = 0

    def on_snapshot(self, snapshot: dict[str, list[dict[str, Any]]]) -> None:
        self._count(sum(map(len, snapshot.values())))
        super().on_snapshot(snapshot)

    def on_batch(
        self, changes: dict[str, list[dict[str, Any]]], removed: dict[str, list[str]]
    ) -> None:
        self._count(sum(map(len, changes.values())) + sum(map(len, removed.values())))
        super().on_batch(changes, removed)

    def _count(self, rows: int) -> None:
        self.most, self.calls = max(self.most, rows), self.calls + 1

    def rows(self) -> dict[str, dict[str, Any]]:
        return {name: rows for name, rows in self.tables.items() if name != tables.ENGINE}


@pytest.fixture(scope="module")
def timeline() -> Timeline:
    return long_day()


async def begun(timeline: Timeline) -> tuple[ReplayClient, Shown]:
    client, shown = ReplayClient(timeline), Shown()
    await client.start(shown)
    return client, shown


async def test_a_jump_over_the_whole_day_is_told_in_parts(timeline: Timeline) -> None:
    client, shown = await begun(timeline)
    client.move(client.ends)
    left = [client.behind]
    assert left[0] > 0.5
    while client.behind:
        client.catch_up()
        left.append(client.behind)
    assert left == sorted(left, reverse=True)
    assert shown.rows() == rows_at(timeline, client.ends)
    assert shown.most <= client_replay._SLICE
    before = shown.calls
    client.catch_up()
    assert shown.calls == before


async def test_going_back_is_told_in_parts_too(timeline: Timeline) -> None:
    client, shown = await begun(timeline)
    client.move(client.ends)
    while client.behind:
        client.catch_up()
    client.move(client.ends - 100)
    assert client.behind > 0.5
    while client.behind:
        client.catch_up()
    assert shown.rows() == rows_at(timeline, client.ends - 100)
    assert shown.most <= client_replay._SLICE
    client.move(client.begins)
    assert client.behind == 0
    assert shown.rows() == rows_at(timeline, client.begins)


@pytest.mark.parametrize("seed", range(4))
async def test_a_way_may_be_turned_round_anywhere(timeline: Timeline, seed: int) -> None:
    client, shown = await begun(timeline)
    chance = random.Random(seed)
    for _ in range(25):
        step = chance.choice((0.5, 30, 5_000, CHANGES)) * chance.choice((-1, 1))
        client.move(client.position + step * chance.random())
        for _ in range(chance.randrange(4)):
            client.catch_up()
        if chance.random() < 0.3:
            while client.behind:
                client.catch_up()
            assert shown.rows() == rows_at(timeline, client.position)
    while client.behind:
        client.catch_up()
    assert shown.rows() == rows_at(timeline, client.position)


async def test_a_jump_goes_through_a_part_of_the_day_only(
    timeline: Timeline, monkeypatch: pytest.MonkeyPatch
) -> None:
    client, _ = await begun(timeline)
    gone: list[int] = []
    apply = client_replay._apply

    def counted(state: Any, changes: Any) -> Any:
        gone.append(len(changes))
        return apply(state, changes)

    monkeypatch.setattr(client_replay, "_apply", counted)
    for moment in (client.ends, client.begins, client.begins + CHANGES * 0.7, client.ends - 1):
        client.move(moment)
    assert sum(gone) > 0
    assert max(gone) < client._stretch < CHANGES / 5
