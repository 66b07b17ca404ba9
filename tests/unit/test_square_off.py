"""Square-offs: at the local time, on trading days, once, also when the clocks change."""

from __future__ import annotations

from datetime import UTC, date, datetime, timedelta

import pytest

from engine.execution.square_off import window_of
from engine.model.account import Hours

NEW_YORK = {"zone": "America/New_York", "open": "09:30", "close": "16:00", "square_off": "15:55"}
OVERNIGHT = {"zone": "America/Chicago", "open": "17:00", "close": "16:00", "square_off": "15:50"}


def hours(**fields: str) -> Hours:
    return Hours.model_validate(fields)


def utc(text: str) -> datetime:
    return datetime.fromisoformat(text).replace(tzinfo=UTC)


@pytest.mark.parametrize(
    ("fields", "now", "day", "begins", "ends"),
    [
        # a Monday, winter time
        (NEW_YORK, "2026-11-23 20:55", "2026-11-23", "2026-11-23 20:55", "2026-11-23 21:00"),
        (NEW_YORK, "2026-11-23 20:54:59", "2026-11-20", "2026-11-20 20:55", "2026-11-20 21:00"),
        # summer time; the week-end belongs to Friday
        (NEW_YORK, "2026-07-05 22:00", "2026-07-03", "2026-07-03 19:55", "2026-07-03 20:00"),
        # the sessions beside the clock change of 8 March and of 1 November 2026
        (NEW_YORK, "2026-03-06 22:00", "2026-03-06", "2026-03-06 20:55", "2026-03-06 21:00"),
        (NEW_YORK, "2026-03-09 22:00", "2026-03-09", "2026-03-09 19:55", "2026-03-09 20:00"),
        (NEW_YORK, "2026-11-02 22:00", "2026-11-02", "2026-11-02 20:55", "2026-11-02 21:00"),
        # after the close: a quarter of an hour
        (
            NEW_YORK | {"square_off": "16:05"}, "2026-11-23 21:06", "2026-11-23", "2026-11-23 21:05",
            "2026-11-23 21:20",
        ),
        # over midnight: the session of Sunday ends on Monday
        (OVERNIGHT, "2026-11-23 21:55", "2026-11-22", "2026-11-23 21:50", "2026-11-23 22:00"),
        (OVERNIGHT, "2026-11-21 12:00", "2026-11-19", "2026-11-20 21:50", "2026-11-20 22:00"),
    ],
)  # fmt: skip
def test_the_window_of_a_session(fields, now, day, begins, ends):
    found = window_of(hours(**fields), utc(now))
    assert (found.day, found.begins, found.ends) == (
        date.fromisoformat(day),
        utc(begins),
        utc(ends),
    )


def test_without_a_square_off_there_is_none():
    assert (
        window_of(hours(zone="UTC", open="09:00", close="17:00"), utc("2026-11-23 16:00")) is None
    )


@pytest.mark.parametrize(
    "zone", ["America/New_York", "Europe/London", "Asia/Kolkata", "Australia/Lord_Howe"]
)
@pytest.mark.parametrize("at", ["02:15", "02:30", "15:55"])
def test_two_years_have_one_a_trading_day(zone, at):
    """Also where the local time does not exist, or comes twice."""
    fields = hours(zone=zone, open="00:30", close="23:30", square_off=at)
    seen: dict[date, datetime] = {}
    now = utc("2026-01-01 00:00")
    while now < utc("2028-01-01 00:00"):
        window = window_of(fields, now)
        assert window is not None
        assert seen.setdefault(window.day, window.begins) == window.begins
        assert window.begins <= now
        now += timedelta(hours=5)
    days = sorted(seen)
    assert all(day.weekday() < 5 for day in days)
    weekdays = [days[0] + timedelta(days=n) for n in range((days[-1] - days[0]).days + 1)]
    assert days == [day for day in weekdays if day.weekday() < 5]
    moments = [seen[day] for day in days]
    assert moments == sorted(set(moments))
