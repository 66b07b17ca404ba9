"""Time exits: an account whose hours name a ``square_off`` is flat from that local time on, once every session.

The moments are reckoned in the account's own zone and compared in UTC, so a day of 23 or 25 hours has one of them like
any other. A session is done once the account is flat within it; that is kept in the journal, so neither a restart nor
a position opened by hand afterwards is squared off again.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import date, datetime, timedelta

from engine.model.account import Hours
from engine.model.trading_hours import TradingHours

AFTER_CLOSE = timedelta(minutes=15)
"""How long a square-off may go on where it is not followed by the close."""
LOOK_BACK_DAYS = 30
"""Longer than any row of holidays."""


@dataclass(frozen=True, slots=True)
class Window:
    """When a session is squared off: from ``begins`` until ``ends`` (UTC); ``day`` is the session's date."""

    day: date
    begins: datetime
    ends: datetime


def window_of(hours: Hours, now: datetime) -> Window | None:
    """Return the newest window that has begun by ``now`` (aware), ``None`` where there is no square-off.

    Holidays have none, and an early close brings it forward (engine.model.trading_hours).
    """
    if hours.square_off is None:
        return None
    calendar = TradingHours(hours)
    today = calendar.local_date(now)
    for back in range(LOOK_BACK_DAYS):
        session = calendar.session(today - timedelta(days=back))
        if session is None or session.squares_off is None:
            continue
        begins = session.squares_off
        if begins <= now:
            ends = session.closes if session.closes > begins else begins + AFTER_CLOSE
            return Window(session.day, begins, ends)
    return None
