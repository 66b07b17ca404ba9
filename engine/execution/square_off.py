"""Time exits: an account whose hours name a ``square_off`` is flat from that local time on, once every session.

The moments are reckoned in the account's own zone and compared in UTC, so a day of 23 or 25 hours has one of them like
any other. A session is done once the account is flat within it; that is kept in the journal, so neither a restart nor
a position opened by hand afterwards is squared off again.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, date, datetime, time, timedelta
from zoneinfo import ZoneInfo

from engine.model.account import Hours

AFTER_CLOSE = timedelta(minutes=15)
"""How long a square-off may go on where it is not followed by the close."""


@dataclass(frozen=True, slots=True)
class Window:
    """When a session is squared off: from ``begins`` until ``ends`` (UTC); ``day`` is the session's date."""

    day: date
    begins: datetime
    ends: datetime


def window_of(hours: Hours, now: datetime) -> Window | None:
    """Return the newest window that has begun by ``now`` (aware), ``None`` where there is no square-off.

    Sessions begin on weekdays (those over midnight on Sunday, too, and not on Friday), as entries do.
    """
    if hours.square_off is None:
        return None
    zone = ZoneInfo(hours.zone)
    today = now.astimezone(zone).date()
    for back in range(8):
        day = today - timedelta(days=back)
        if not _is_session(hours, day):
            continue
        begins = _moment(hours, day, hours.square_off, zone)
        if begins <= now:
            closes = _moment(hours, day, hours.close, zone)
            return Window(day, begins, closes if closes > begins else begins + AFTER_CLOSE)
    return None


def _is_session(hours: Hours, day: date) -> bool:
    if hours.close < hours.open:  # over midnight
        return day.weekday() in {0, 1, 2, 3, 6}
    return day.weekday() < 5


def _moment(hours: Hours, day: date, at: time, zone: ZoneInfo) -> datetime:
    """Return a local time of the session of ``day`` in UTC; of a session over midnight it may be the day after's."""
    if hours.close < hours.open and at < hours.open:
        day += timedelta(days=1)
    # A time the clocks skip counts as if they had not, one that comes twice as the first of both.
    return datetime.combine(day, at, zone).astimezone(UTC)
