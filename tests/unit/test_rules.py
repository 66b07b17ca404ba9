"""Every rule of eligibility: passes, refuses, and the line between."""

from __future__ import annotations

from datetime import UTC, date, datetime
from decimal import Decimal
from zoneinfo import ZoneInfo

import pytest

from engine.eligibility import rules
from engine.model.account import Hours
from engine.model.account_state import TradingHours
from engine.model.codes import CODES
from engine.model.enums import ConnectionState
from tests.helpers import MONDAY, make_signal, make_state

D = Decimal


def code(skip: rules.Skip) -> str | None:
    if skip is None:
        return None
    assert skip[0] in CODES
    assert skip[1]
    return skip[0]


@pytest.mark.parametrize(
    ("audience", "refused"),
    [
        ({}, False),
        ({"accounts": ["A-1", "A-2"]}, False),
        ({"accounts": ["A-2"]}, True),
        ({"accounts": []}, True),
        ({"tags": ["gold", "x"]}, False),
        ({"tags": ["iron"]}, True),
        ({"tags": []}, True),
        ({"accounts": ["A-1"], "tags": ["gold"]}, False),
        ({"accounts": ["A-1"], "tags": ["iron"]}, True),
        ({"accounts": ["A-2"], "tags": ["gold"]}, True),
    ],
)
def test_audience(audience, refused):
    state = make_state(tags=["gold", "eu"])
    assert code(rules.addressed(state, make_signal(**audience))) == (
        "NOT_IN_AUDIENCE" if refused else None
    )


@pytest.mark.parametrize(
    ("fields", "expected"),
    [
        ({}, None),
        ({"strategies": ["breakout"], "symbols": ["AAPL"]}, None),
        ({"strategies": ["other", "*"], "symbols": ["MSFT", "*"]}, None),
        ({"strategies": ["Breakout"]}, "NOT_SUBSCRIBED"),
        ({"strategies": []}, "NOT_SUBSCRIBED"),
        ({"symbols": ["MSFT"]}, "SYMBOL_NOT_ALLOWED"),
        ({"symbols": []}, "SYMBOL_NOT_ALLOWED"),
        ({"strategies": [], "symbols": []}, "NOT_SUBSCRIBED"),
    ],
)
def test_subscriptions(fields, expected):
    assert code(rules.subscribed(make_state(**fields), make_signal())) == expected


@pytest.mark.parametrize("connection", ConnectionState)
def test_standing(connection):
    state = make_state()
    state.connect(connection, "", MONDAY)
    usable = connection in {ConnectionState.CONNECTED, ConnectionState.DEGRADED}
    assert code(rules.standing(state)) == (None if usable else "NOT_CONNECTED")
    off = make_state(active=False)
    off.connect(connection, "", MONDAY)
    assert code(rules.standing(off)) == "INACTIVE"


def test_why_an_account_is_not_connected_is_told():
    state = make_state()
    state.connect(ConnectionState.ERROR, "the key was revoked", MONDAY)
    assert rules.standing(state) == ("NOT_CONNECTED", "error: the key was revoked")


@pytest.mark.parametrize(
    ("limit", "held", "refused"),
    [
        (None, {"A", "B", "C"}, False),
        (2, set(), False),
        (2, {"A"}, False),
        (2, {"A", "B"}, True),
        (2, {"A", "AAPL"}, False),  # adding to what it holds opens nothing
        (2, {"A", "B", "C"}, True),
        (0, set(), True),
    ],
)
def test_room_for_a_position(limit, held, refused):
    state = make_state(limits={"max_positions": limit})
    assert code(rules.room_for_position(state, held, "AAPL")) == (
        "POSITION_LIMIT" if refused else None
    )


@pytest.mark.parametrize(
    ("least", "reward_risk", "refused"),
    [
        (None, None, False),
        (None, "-1", False),
        ("0", None, False),
        ("1.5", None, True),
        ("1.5", "1.5", False),
        ("1.5", "1.4999999999999999999999", True),
        ("1.5", "2", False),
        ("1.5", "-2", True),
    ],
)
def test_reward_worth_the_risk(least, reward_risk, refused):
    state = make_state(limits={"min_reward_risk": least})
    found = rules.reward_worth_risk(state, reward_risk and D(reward_risk))
    assert code(found) == ("REWARD_RISK" if refused else None)


@pytest.mark.parametrize(
    ("limit", "pnl", "refused"),
    [
        (None, "-1000000", False),
        ("1000", "500", False),
        ("1000", "-999.99", False),
        ("1000", "-1000", True),
        ("1000", "-1000.01", True),
    ],
)
def test_daily_loss(limit, pnl, refused):
    state = make_state(limits={"max_daily_loss": limit})
    assert code(rules.within_daily_loss(state, D(pnl))) == ("DAILY_LOSS" if refused else None)


# Hours. 2026-11-23 is a Monday; New York is at UTC-5 then.


def hours(**fields) -> TradingHours:
    return TradingHours(Hours.model_validate({"zone": "America/New_York"} | fields))


def new_york(day: int, clock: str, month: int = 11, fold: int = 0) -> datetime:
    hour, minute, second = (int(part) for part in f"{clock}:00".split(":")[:3])
    local = datetime(2026, month, day, hour, minute, second, fold=fold)  # noqa: DTZ001 (a wall clock)
    return local.replace(tzinfo=ZoneInfo("America/New_York")).astimezone(UTC)


@pytest.mark.parametrize(
    ("clock", "allowed"),
    [
        ("09:29:59", False),
        ("09:30:00", True),
        ("12:00:00", True),
        ("15:59:59", True),
        ("16:00:00", False),
        ("00:00:00", False),
    ],
)
@pytest.mark.parametrize("day", range(23, 30))
def test_a_session_within_a_day(day, clock, allowed):
    weekday = day < 28  # the 28th is a Saturday
    assert hours(open="09:30", close="16:00").allows(new_york(day, clock)) is (allowed and weekday)


def test_no_entries_once_it_is_time_to_square_off():
    session = hours(open="09:30", close="16:00", square_off="15:55")
    assert session.allows(new_york(23, "15:54:59"))
    assert not session.allows(new_york(23, "15:55"))
    late = hours(open="09:30", close="16:00", square_off="16:30")
    assert late.allows(new_york(23, "15:59:59"))
    assert not late.allows(new_york(23, "16:00"))


@pytest.mark.parametrize(
    ("day", "clock", "allowed"),
    [
        (22, "17:59:59", False),  # Sunday, before the week begins
        (22, "18:00", True),
        (23, "00:00", True),
        (23, "16:59:59", True),
        (23, "17:00", False),
        (23, "17:59:59", False),
        (23, "18:00", True),
        (27, "16:59:59", True),  # Friday, the last session's end
        (27, "18:00", False),
        (28, "00:30", False),
        (28, "18:00", False),
        (29, "12:00", False),
    ],
)
def test_a_session_over_midnight_belongs_to_the_day_it_began_on(day, clock, allowed):
    assert hours(open="18:00", close="17:00").allows(new_york(day, clock)) is allowed


@pytest.mark.parametrize(
    ("clock", "allowed"), [("16:44:59", True), ("16:45", False), ("17:30", False), ("18:00", True)]
)
def test_square_off_ends_a_session_over_midnight_too(clock, allowed):
    session = hours(open="18:00", close="17:00", square_off="16:45")
    assert session.allows(new_york(24, clock)) is allowed


def test_square_off_before_midnight_ends_a_session_over_midnight():
    session = hours(open="18:00", close="02:00", square_off="23:30")
    assert session.allows(new_york(23, "23:29:59"))
    assert not session.allows(new_york(23, "23:30"))
    assert not session.allows(new_york(24, "01:00"))


@pytest.mark.parametrize(
    ("month", "day", "offset"), [(3, 6, 5), (3, 9, 4), (10, 30, 4), (11, 2, 5)]
)
def test_the_session_follows_daylight_saving(month, day, offset):
    session = hours(open="09:30", close="16:00")
    opens = datetime(2026, month, day, 9 + offset, 30, tzinfo=UTC)
    assert session.allows(opens)
    assert not session.allows(opens.replace(minute=29))


def test_the_hour_that_comes_twice_and_the_one_that_never_comes():
    # Clocks go back on Sunday 2026-11-01 at 02:00; Sunday evening futures are over midnight.
    session = hours(open="18:00", close="17:00")
    assert session.allows(new_york(2, "01:30"))
    cairo = TradingHours(
        Hours.model_validate({"zone": "Africa/Cairo", "open": "00:00", "close": "01:00"})
    )
    # In Cairo Friday 2026-04-24 has no 00:xx at all.
    before, after = (
        datetime(2026, 4, 23, 21, 59, tzinfo=UTC),
        datetime(2026, 4, 23, 22, 0, tzinfo=UTC),
    )
    assert not cairo.allows(before)
    assert not cairo.allows(after)
    # And Friday 2026-10-30 begins at the second 23:00 of Thursday: its 00:xx comes once.
    assert cairo.allows(datetime(2026, 10, 29, 22, 30, tzinfo=UTC))


def test_the_day_is_the_account_s_own():
    assert hours(open="09:30", close="16:00").day(datetime(2026, 11, 24, 3, tzinfo=UTC)) == date(
        2026, 11, 23
    )


def test_outside_hours_says_which_hours():
    state = make_state(hours={"zone": "America/New_York", "open": "09:30", "close": "16:00"})
    assert rules.open_hours(state, MONDAY) is None
    refused = rules.open_hours(state, new_york(23, "16:00"))
    assert refused == (
        "OUTSIDE_HOURS",
        (
            "entries are allowed 09:30 to 16:00 America/New_York, on weekdays; it is 2026-11-23 16:00, next from "
            "2026-11-24 09:30"
        ),
    )
    assert rules.open_hours(make_state(), new_york(28, "03:00")) is None


@pytest.mark.parametrize("bad", ["09:30+01:00", "09:30Z", "25:00", "9:30", "soon", 930])
def test_hours_are_local_times(bad):
    with pytest.raises(ValueError, match="open"):
        hours(open=bad, close="16:00")
