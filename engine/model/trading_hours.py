"""An account's session calendar (control C15): sessions in its own zone, holidays, early closes, square-offs.

Local times are turned into UTC once a session. A local time the clocks skip counts as if they had not; one that comes
twice is the first of both. So every session has one opening, one close and one square-off, whatever the clocks do.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, date, datetime, time, timedelta
from zoneinfo import ZoneInfo

from engine.model.account import Hours

_DAY = timedelta(days=1)
_WEEKDAYS = frozenset({0, 1, 2, 3, 4})
_EVENINGS = frozenset({6, 0, 1, 2, 3})  # sessions over midnight: from Sunday on, not on Friday
LOOK_AHEAD_DAYS = 400
"""Who has no session within this has none at all."""


@dataclass(frozen=True, slots=True)
class Session:
    """One session, in UTC. ``entries_end``: its close, or its square-off if that comes sooner.

    ``squares_off`` is ``None`` where the hours name no square-off; it may lie after the close.
    """

    day: date
    opens: datetime
    closes: datetime
    entries_end: datetime
    squares_off: datetime | None


class TradingHours:
    """An account's trading hours, ready to be asked."""

    __slots__ = ("_from", "_hours", "_overnight", "_session", "zone")

    def __init__(self, hours: Hours) -> None:
        self._hours = hours
        self.zone = ZoneInfo(hours.zone)
        self._overnight = hours.close < hours.open
        self._session: Session | None = None  # the newest answer of ``current``
        self._from: datetime | None = None  # since when it is the answer

    def session(self, day: date) -> Session | None:
        """Return the session that begins on the local date ``day``; ``None``: there is none."""
        hours = self._hours
        weekdays = _EVENINGS if self._overnight else _WEEKDAYS
        if day.weekday() not in weekdays or day in hours.holidays:
            return None
        regular = self._local(day, hours.close)
        local_close = self._local(day, hours.early_closes.get(day, hours.close))
        opens, closes = self._utc(self._local(day, hours.open)), self._utc(local_close)
        squares_off = None
        entries_end = closes
        if hours.square_off is not None:
            # An early close brings the square-off forward by as much.
            local = self._local(day, hours.square_off)
            squares_off = self._utc(local - (regular - local_close))
            if opens <= squares_off < closes:
                entries_end = squares_off
        return Session(day, opens, closes, entries_end, squares_off)

    def current(self, now: datetime) -> Session | None:
        """Return the session that takes entries, or the next one to do so; ``None``: there is none in sight."""
        session = self._session
        if (
            self._from is not None
            and session is not None
            and self._from <= now < session.entries_end
        ):
            return session
        day = self.local_date(now) - _DAY
        session = None
        for _ in range(LOOK_AHEAD_DAYS):
            found = self.session(day)
            if found is not None and found.entries_end > now and found.entries_end > found.opens:
                session = found
                break
            day += _DAY
        self._session, self._from = session, now
        return session

    def allows(self, now: datetime) -> bool:
        """Say whether entries are allowed now."""
        session = self.current(now)
        return session is not None and session.opens <= now

    def next_close(self, now: datetime) -> datetime | None:
        """Return when the session that is on, or comes next, takes no more entries."""
        session = self.current(now)
        return session.entries_end if session is not None else None

    def day(self, now: datetime) -> date:
        """Return the session's date: the account's own; over midnight that of the evening it began on."""
        day = self.local_date(now)
        early = self._overnight and now < self._utc(datetime.combine(day, self._hours.open))
        return day - _DAY if early else day

    def day_begins(self, now: datetime) -> datetime:
        """Return when the session's date became what ``day`` says (UTC)."""
        at = self._hours.open if self._overnight else time.min
        return self._utc(datetime.combine(self.day(now), at))

    def day_ends(self, now: datetime) -> datetime:
        """Return when ``day`` becomes another one (UTC)."""
        at = self._hours.open if self._overnight else time.min
        return self._utc(datetime.combine(self.day(now) + _DAY, at))

    def local_date(self, now: datetime) -> date:
        """Return the date in the account's zone."""
        return now.astimezone(self.zone).date()

    def closed_because(self, now: datetime) -> str:
        """Say why entries are not allowed now: the hours, what is special today, and when they are allowed again."""
        hours, local = self._hours, now.astimezone(self.zone)
        text = f"entries are allowed {hours.open:%H:%M} to {hours.close:%H:%M} {hours.zone}, on weekdays"
        text += f"; it is {local:%Y-%m-%d %H:%M}"
        day = self.day(now)
        if day in hours.holidays:
            text += f", {day} is a holiday"
        elif day in hours.early_closes:
            text += f", {day} closes at {hours.early_closes[day]:%H:%M}"
        session = self.current(now)
        if session is None:
            return f"{text}, no session is in sight"
        return f"{text}, next from {session.opens.astimezone(self.zone):%Y-%m-%d %H:%M}"

    def _local(self, day: date, at: time) -> datetime:
        """Return a local time of the session of ``day``; over midnight it may be the day after's."""
        if self._overnight and at < self._hours.open:
            day += _DAY
        return datetime.combine(day, at)

    def _utc(self, local: datetime) -> datetime:
        return local.replace(tzinfo=self.zone).astimezone(UTC)
