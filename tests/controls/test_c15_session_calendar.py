"""C15, session calendar: hours in the account's zone, holidays, early closes, clock changes; exits at any time."""

from __future__ import annotations

from datetime import UTC, date, datetime, timedelta
from pathlib import Path

import pytest
from pydantic import ValidationError

from engine.execution.square_off import window_of
from engine.model.account import Account, Hours
from engine.model.trading_hours import TradingHours
from engine.planner import Release
from tests.controls.restarts import control, home, outcome
from tests.helpers import make_account, make_state
from tests.planning import Desk, codes, only

NEW_YORK = {
    "zone": "America/New_York", "open": "09:30", "close": "16:00", "square_off": "15:55",
    "holidays": ["2026-11-26", "2026-12-25"], "early_closes": {"2026-11-27": "13:00", "2026-12-24": "13:00"},
}  # fmt: skip
CHICAGO = {
    "zone": "America/Chicago", "open": "17:00", "close": "16:00", "square_off": "15:45",
    "holidays": ["2026-12-24"], "early_closes": {"2026-11-25": "12:00", "2026-11-26": "23:00"},
}  # fmt: skip


def calendar(**fields: object) -> TradingHours:
    return TradingHours(Hours.model_validate(fields))


def utc(text: str) -> datetime:
    return datetime.fromisoformat(text).replace(tzinfo=UTC)


@pytest.mark.parametrize(
    ("fields", "now", "allowed"),
    [
        (NEW_YORK, "2026-11-25 20:54:59", True),
        (NEW_YORK, "2026-11-25 20:55:00", False),  # square-off
        (NEW_YORK, "2026-11-26 15:00:00", False),  # Thanksgiving
        (NEW_YORK, "2026-11-27 14:29:59", False),
        (NEW_YORK, "2026-11-27 14:30:00", True),
        (NEW_YORK, "2026-11-27 17:54:59", True),
        (NEW_YORK, "2026-11-27 17:55:00", False),  # square-off comes forward with the early close
        (NEW_YORK, "2026-11-28 15:00:00", False),  # Saturday
        (CHICAGO, "2026-11-25 23:00:00", True),  # Wednesday's session begins in the evening
        (CHICAGO, "2026-11-26 17:44:59", True),
        (CHICAGO, "2026-11-26 17:45:00", False),  # and closes early on Thursday at noon
        (CHICAGO, "2026-11-26 23:00:00", True),
        (CHICAGO, "2026-11-27 04:44:59", True),
        (CHICAGO, "2026-11-27 04:45:00", False),  # Thursday's closes before midnight
        (CHICAGO, "2026-12-24 15:00:00", True),  # the session of the 23rd
        (CHICAGO, "2026-12-24 23:30:00", False),  # the holiday is that of the evening
        (CHICAGO, "2026-12-25 12:00:00", False),
    ],
)
def test_entries_are_allowed_within_a_session(fields, now, allowed):
    assert calendar(**fields).allows(utc(now)) is allowed


def test_the_answer_does_not_depend_on_what_was_asked_before():
    made, moment = calendar(**NEW_YORK), utc("2026-11-20 00:00")
    asked = {moment + timedelta(minutes=7 * n): None for n in range(3000)}
    there = {now: made.allows(now) for now in asked}
    assert {now: made.allows(now) for now in reversed(asked)} == there
    assert {now: calendar(**NEW_YORK).allows(now) for now in list(asked)[::50]} == {
        now: there[now] for now in list(asked)[::50]
    }


@pytest.mark.parametrize(
    ("fields", "now", "begins", "ends"),
    [
        (NEW_YORK, "2026-11-25 21:30", "2026-11-25 20:55", "2026-11-25 21:00"),
        (NEW_YORK, "2026-11-26 22:00", "2026-11-25 20:55", "2026-11-25 21:00"),
        (NEW_YORK, "2026-11-27 17:55", "2026-11-27 17:55", "2026-11-27 18:00"),
        (CHICAGO, "2026-11-26 18:30", "2026-11-26 17:45", "2026-11-26 18:00"),
        (CHICAGO, "2026-11-27 04:50", "2026-11-27 04:45", "2026-11-27 05:00"),
    ],
)
def test_the_square_off_follows_the_calendar(fields, now, begins, ends):
    window = window_of(Hours.model_validate(fields), utc(now))
    assert window is not None
    assert (window.begins, window.ends) == (utc(begins), utc(ends))


@pytest.mark.parametrize(
    ("zone", "opens", "closes", "day", "begins", "ends"),
    [
        # the clocks skip 02:00 to 03:00 in New York: 02:30 counts as if they had not
        (
            "America/New_York",
            "02:30",
            "16:00",
            "2027-03-15",
            "2027-03-15 06:30",
            "2027-03-15 20:00",
        ),
        ("America/New_York", "18:00", "02:30", "2027-03-12", None, None),
        # Sunday's session over midnight, beside each change
        ("Europe/London", "23:00", "22:00", "2026-10-25", "2026-10-25 23:00", "2026-10-26 22:00"),
        ("Europe/London", "23:00", "22:00", "2027-03-28", "2027-03-28 22:00", "2027-03-29 21:00"),
        # Cairo's Friday 2026-04-24 has no midnight; its Thursday 2026-10-29 has 23:30 twice
        ("Africa/Cairo", "00:00", "10:00", "2026-04-24", "2026-04-23 22:00", "2026-04-24 07:00"),
        ("Africa/Cairo", "09:00", "23:30", "2026-10-29", "2026-10-29 06:00", "2026-10-29 20:30"),
    ],
)
def test_a_session_has_one_opening_and_one_close_whatever_the_clocks_do(
    zone, opens, closes, day, begins, ends
):
    found = calendar(zone=zone, open=opens, close=closes).session(date.fromisoformat(day))
    if begins is None:
        assert found is None  # over midnight there is none on a Friday
    else:
        assert found is not None
        assert (found.opens, found.closes) == (utc(begins), utc(ends))


@pytest.mark.parametrize(
    ("now", "ends"),
    [
        ("2026-11-23 15:00", "is 2026-11-23 10:00, next from 2026-11-23 09:30"),
        ("2026-11-23 22:30", "is 2026-11-23 17:30, next from 2026-11-24 09:30"),
        ("2026-11-26 15:00", "is 2026-11-26 10:00, 2026-11-26 is a holiday, next from 2026-11-27 09:30"),
        ("2026-11-27 19:00", "is 2026-11-27 14:00, 2026-11-27 closes at 13:00, next from 2026-11-30 09:30"),
    ],
)  # fmt: skip
def test_the_sentence_names_the_hours_the_time_and_the_next_session(now, ends):
    text = calendar(**NEW_YORK).closed_because(utc(now))
    begins = "entries are allowed 09:30 to 16:00 America/New_York, on weekdays; it "
    assert text == begins + ends


def test_entries_are_refused_softly_and_exits_pass():
    desk = Desk(make_state(make_account(hours=NEW_YORK)))
    desk.clock.advance(6 * 3600)  # 16:00 in New York
    desk.marks.set("AAPL", desk.marks.price("AAPL"))
    plan = desk.plan()
    assert codes(plan.skipped) == {"A-1": "OUTSIDE_HOURS"}
    assert "it is 2026-11-23 16:00" in only(plan.skipped)[1]
    assert desk.plan(Release(frozenset({"A-1"}), forced=True)).orders
    desk.hold("10")
    assert desk.plan(action="close").orders


@pytest.mark.parametrize(
    "wrong",
    [
        {"holidays": ["2026-13-01"]},
        {"holidays": ["20261225"]},
        {"holidays": [20261225]},
        {"early_closes": {"2026-11-27": "25:00"}},
        {"early_closes": {"2026-11-27": "13:00+01:00"}},
        {"early_closes": {"2026-11-27": "16:00"}},  # not early
        {"early_closes": {"2026-11-27": "09:30"}},
        {"early_closes": {"2026-11-27": "09:00"}},
        {"early_closes": {"soon": "13:00"}},
    ],
)
def test_a_wrong_calendar_is_refused(wrong):
    with pytest.raises(ValidationError, match="hours"):
        make_account(hours=NEW_YORK | wrong)


def test_a_calendar_survives_its_document():
    account = make_account(hours=NEW_YORK)
    again = Account.model_validate(account.document())
    assert again == account
    assert again.hours is not None
    assert hash(again.hours) == hash(account.hours)
    assert account.document()["hours"]["holidays"] == ["2026-11-26", "2026-12-25"]


def test_a_year_without_any_session_allows_nothing():
    start = date(2026, 1, 1)
    closed = [(start + timedelta(days=n)).isoformat() for n in range(800)]
    made = calendar(zone="UTC", open="09:00", close="17:00", holidays=closed)
    now = utc("2026-06-01 10:00")
    assert not made.allows(now)
    assert made.next_close(now) is None
    assert made.closed_because(now).endswith("2026-06-01 is a holiday, no session is in sight")


async def test_a_holiday_is_one_after_a_restart_too(tmp_path: Path) -> None:
    today = datetime.now(UTC).date()
    days = [(today + timedelta(days=n)).isoformat() for n in (-1, 0, 1)]
    hours = {"zone": "UTC", "open": "00:00", "close": "23:59", "holidays": days}
    async with home(tmp_path, hours=hours) as place:
        for turn in range(2):
            async with place.engine() as running:
                code, text = await outcome(running, f"s-{turn}")
                assert code == "OUTSIDE_HOURS"
                assert "is a holiday" in text
                row = control(running, "C15")
                assert (row["state"], row["refusals"]) == ("on", 1)
