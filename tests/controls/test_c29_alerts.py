"""C29: alerts are grouped, acknowledged, escalated when nobody acknowledges, and survive a restart."""

from __future__ import annotations

from typing import Any

import pytest

from engine.alerts import FACT, GROUP_NS, MOST, AlertBook
from engine.errors import CommandRefused
from engine.model.commands import Acknowledge
from engine.model.tables import COLUMNS
from tests.helpers import HandClock
from tests.world import eventually, paper, world


class Desk:
    """An alert book with everything around it in the test's hands."""

    def __init__(self, halt_after_s: float = 0.0, facts: dict[str, Any] | None = None) -> None:
        self.clock = HandClock()
        self.facts: dict[str, Any] = dict(facts or {})
        self.touched: list[str] = []
        self.escalated: list[str] = []
        self.book = AlertBook(
            self.clock, self.touched.append, self._keep, halt_after_s, self.escalated.append
        )
        self.book.load(self.facts)

    def _keep(self, kind: str, key: str, value: dict[str, Any] | None) -> None:
        assert kind == FACT
        if value is None:
            self.facts.pop(key, None)
        else:
            self.facts[key] = value

    def tell(
        self, severity: str = "warning", code: str = "RATE", account: str = "A", **more: str
    ) -> None:
        self.book.tell(severity, code, account, more.pop("text", "words"), **more)

    def rows(self) -> list[dict[str, Any]]:
        return list(self.book)


def acknowledge(*alerts: str) -> Acknowledge:
    return Acknowledge(id="1", command="acknowledge", alerts=alerts or None)


def test_a_row_has_the_tables_columns_and_is_shown_at_once() -> None:
    desk = Desk()
    desk.tell()
    assert tuple(desk.rows()[0]) == COLUMNS["alerts"]
    assert desk.touched == ["1"]


def test_the_same_again_counts_and_is_no_new_row() -> None:
    desk = Desk()
    desk.tell(text="first")
    desk.clock.advance(5)
    desk.tell(text="second")
    (row,) = desk.rows()
    assert (row["count"], row["text"]) == (2, "second")
    assert row["last_at"] > row["at"]
    assert desk.touched == ["1", "1"]


@pytest.mark.parametrize(("after_ns", "rows"), [(GROUP_NS - 1, 1), (GROUP_NS, 2)])
def test_a_group_ends_after_ten_minutes(after_ns: int, rows: int) -> None:
    desk = Desk()
    desk.tell()
    desk.clock.advance_ns(after_ns)
    desk.tell()
    assert len(desk.book) == rows


@pytest.mark.parametrize(
    "other", [{"code": "CLOCK"}, {"account": "B"}, {"account": ""}, {"subject": "broker:x"}]
)
def test_what_differs_is_a_row_of_its_own(other: dict[str, str]) -> None:
    desk = Desk()
    desk.tell()
    desk.tell(**other)
    assert len(desk.book) == 2


def test_graver_is_new_and_milder_is_not() -> None:
    desk = Desk()
    desk.tell("warning")
    desk.tell("critical")
    desk.tell("info")
    assert [(row["severity"], row["count"]) for row in desk.book] == [
        ("warning", 1),
        ("critical", 2),
    ]


async def test_acknowledged_is_over_and_the_next_is_new() -> None:
    desk = Desk()
    desk.tell("critical")
    result = await desk.book.acknowledge(acknowledge())
    assert result == {"result": "acknowledged", "alerts": ["1"]}
    assert desk.rows()[0]["acknowledged_at"]
    assert not desk.facts
    assert not desk.book.unacknowledged
    desk.tell("critical")
    assert len(desk.book) == 2
    assert desk.book.unacknowledged == 1
    assert (await desk.book.acknowledge(acknowledge("2")))["alerts"] == ["2"]
    assert (await desk.book.acknowledge(acknowledge("2")))["alerts"] == []


async def test_an_unknown_alert_is_refused_and_nothing_is_acknowledged() -> None:
    desk = Desk()
    desk.tell("critical")
    with pytest.raises(CommandRefused, match="no alert 9") as refused:
        await desk.book.acknowledge(acknowledge("1", "9"))
    assert (refused.value.code, refused.value.status) == ("NOT_FOUND", 404)
    assert desk.book.unacknowledged == 1


@pytest.mark.parametrize(("age_s", "escalates"), [(59.9, False), (60.0, True)])
def test_nobody_acknowledges_for_a_minute(age_s: float, escalates: bool) -> None:
    desk = Desk(halt_after_s=60)
    desk.tell("critical", "LATE_ACCEPT", text="look")
    desk.tell("warning", "RATE")
    desk.clock.advance(age_s)
    desk.book.tick()
    desk.book.tick()
    expected = ["nobody acknowledged LATE_ACCEPT A in 60 s: look"] if escalates else []
    assert desk.escalated == expected  # once


def test_what_an_escalation_says_does_not_escalate_again() -> None:
    desk = Desk(halt_after_s=1)
    desk.tell("critical", "UNACKNOWLEDGED")
    desk.tell("critical", "HALTED")
    desk.clock.advance(5)
    desk.book.tick()
    assert desk.escalated == []


def test_unacknowledged_alerts_survive_a_restart_with_their_age() -> None:
    desk = Desk(halt_after_s=60)
    desk.tell("critical", text="look")
    desk.tell("info", "EXIT")
    desk.clock.advance(50)
    after = Desk(halt_after_s=60, facts=desk.facts)
    assert [row["text"] for row in after.book] == ["look"]
    after.clock.advance(60)  # of which the first life's 50 s are part, by the wall
    after.book.tick()
    assert len(after.escalated) == 1
    third = Desk(halt_after_s=60, facts=after.facts)
    third.clock.advance(120)
    third.book.tick()
    assert third.escalated == []  # it has escalated already
    third.tell("critical", "CLOCK")
    assert [row["id"] for row in third.book] == ["1", "2"]  # no id is used twice


def test_the_oldest_goes_first_and_what_waits_for_somebody_last() -> None:
    desk = Desk()
    desk.tell("critical", "LATE_ACCEPT")
    for number in range(MOST + 10):
        desk.tell("info", "EXIT", f"A{number}")
    rows = desk.rows()
    assert len(rows) == MOST
    assert rows[0]["code"] == "LATE_ACCEPT"
    assert rows[-1]["account"] == f"A{MOST + 9}"


async def test_an_unacknowledged_alert_halts_the_engine_and_comes_back_after_a_restart(
    tmp_path,
) -> None:
    quick = {"halt_unacknowledged_s": 0.2}
    async with world(tmp_path, [paper(1)], safety=quick, market={"source": "none"}) as w:
        feed = w.engine.publisher.subscribe()
        feed.snapshot()
        w.engine.alert("critical", "LATE_ACCEPT", "A-001", "look at it")
        batch = feed.take()
        assert batch is not None
        assert [row["code"] for row in batch["changes"]["alerts"]] == ["LATE_ACCEPT"]
        await eventually(lambda: w.engine.states.firm.value == "halted", what="the firm halts")
        latch = w.engine.states.get("all")
        assert latch is not None
        assert latch.reason.startswith("UNACKNOWLEDGED: nobody acknowledged")
        feed.close()
    async with world(tmp_path, safety=quick, market={"source": "none"}) as w:
        assert w.engine.states.firm.value == "halted"
        codes = [row["code"] for row in w.engine.alerts]
        assert "LATE_ACCEPT" in codes
        result = await w.command("acknowledge")
        assert result["result"] == "acknowledged"
        assert result["alerts"]
        await w.command("rearm", scope="all", reason="looked at")
        w.engine.guards.tick()
        assert w.engine.states.firm.value == "active"
    async with world(tmp_path, safety=quick, market={"source": "none"}) as w:
        assert "LATE_ACCEPT" not in [row["code"] for row in w.engine.alerts]
