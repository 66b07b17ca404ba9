"""One recorded day: everything a home's journal, and the record beside it, tell of it. Reads only."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any, Final, NamedTuple
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

import orjson

from engine.clock import rfc3339
from engine.days.record import Line, lines_of
from engine.errors import ConfigError
from engine.model.messages import Fill
from engine.model.order import Order
from engine.model.position import Position
from engine.notes import FACT as NOTE
from engine.stores.journal_reading import journal_of, reading
from engine.stores.journal_rows import (
    SignalEntry,
    fill_from_row,
    order_from_row,
    signal_entry,
)

PositionKey = tuple[str, str]
LASTING: Final = (
    "difference",
    "difference_gone",
    "adopt",
    "trip",
    "trip_over",
    "tripped",
    "reviewed",
    "breaker",
)
"""Kinds of the audit trail, beside latches, whose effect may last over midnight."""
_EVER: Final = ("1970-01-01T00:00:00.000000Z", "9998-12-31T00:00:00.000000Z")


class Told(NamedTuple):
    """One row of the audit trail."""

    seq: int
    at: str
    kind: str
    account: str
    facts: dict[str, Any]


class KeptOrder(NamedTuple):
    """An order as it stands in the journal, with the latencies its row keeps (microseconds)."""

    order: Order
    send_us: int | None
    ack_us: int | None


@dataclass(slots=True)
class RecordedDay:
    """A day of one book. Stamps are RFC 3339 in UTC; ``begin`` ≤ what happened < ``end``."""

    place: Path
    day: date
    zone: str
    begin: str
    end: str
    book: str = ""
    signals: list[SignalEntry] = field(default_factory=list)
    orders: list[KeptOrder] = field(default_factory=list)
    """Those of the day, and those from before that still worked in it."""
    fills: list[Fill] = field(default_factory=list)
    opening: dict[PositionKey, Position] = field(default_factory=dict)
    """Positions at ``begin``: every fill before it, added up."""
    audit: list[Told] = field(default_factory=list)
    latches: dict[str, Told] = field(default_factory=dict)
    """Latches in force at ``begin``, by scope."""
    standing: list[Told] = field(default_factory=list)
    """Rows of ``LASTING`` kinds from before ``begin``, in their order."""
    notes: dict[str, dict[str, Any]] = field(default_factory=dict)
    lines: list[Line] = field(default_factory=list)

    @property
    def begins(self) -> datetime:
        """Return the first moment."""
        return datetime.fromisoformat(self.begin)

    @property
    def ends(self) -> datetime:
        """Return the first moment after it."""
        return datetime.fromisoformat(self.end)


def bounds(day: date, zone: str) -> tuple[str, str]:
    """Return the first stamp of a day in a zone, and the first after it.

    Raises:
        ConfigError: there is no such zone, or day.
    """
    try:
        place = ZoneInfo(zone)
        first = datetime(day.year, day.month, day.day, tzinfo=place)
        after = day + timedelta(days=1)
        last = datetime(after.year, after.month, after.day, tzinfo=place)
    except (ZoneInfoNotFoundError, ValueError, OverflowError):
        raise ConfigError(f"{day} {zone[:60]!a}: expected a day and a zone like UTC") from None
    return rfc3339(first.astimezone(UTC)), rfc3339(last.astimezone(UTC))


def parse_day(text: str) -> date:
    """Read a day.

    Raises:
        ConfigError: it is none.
    """
    try:
        return date.fromisoformat(text)
    except ValueError:
        raise ConfigError(f"{text[:40]!a}: expected a day like 2026-11-23") from None


def recorded_days(place: Path) -> list[str]:
    """Return the days (UTC) on which a journal has signals, orders or fills, newest first.

    Raises:
        StoreError: there is no journal, or it cannot be read.
    """
    with reading(journal_of(place)) as connection:
        found = connection.execute(
            "SELECT substr(received_at, 1, 10) AS day FROM signals UNION "
            "SELECT substr(created_at, 1, 10) FROM orders UNION SELECT substr(at, 1, 10) FROM fills "
            "ORDER BY day DESC"
        )
        return [row[0] for row in found]


def read_day(place: Path, day: date, zone: str = "UTC") -> RecordedDay:
    """Read a day of the journal at ``place`` (a home, or a copy of its journal).

    Raises:
        StoreError: there is no journal, or it cannot be read.
        ConfigError: no such zone.
    """
    return _read(RecordedDay(journal_of(place), day, zone, *bounds(day, zone)))


def read_whole(place: Path, day: date) -> RecordedDay:
    """Read all a journal has, as if it were one day. Raises as ``read_day``."""
    return _read(RecordedDay(journal_of(place), day, "UTC", *_EVER))


def _read(found: RecordedDay) -> RecordedDay:
    path, begin = found.place, found.begin
    with reading(path) as connection:
        row = connection.execute("SELECT value FROM meta WHERE key = 'book'").fetchone()
        found.book = row[0] if row else ""
        found.signals = [
            signal_entry(row) for row in _between(connection, "signals", "received_at", found)
        ]
        found.orders = list(_orders(connection, found))
        found.opening = _positions_before(connection, begin)
        found.fills = [fill_from_row(row) for row in _between(connection, "fills", "at", found)]
        found.audit = list(map(_told, _between(connection, "audit", "at", found)))
        found.latches, found.standing = _standing_before(connection, begin)
        found.notes = {
            row["key"]: orjson.loads(row["value"])
            for row in connection.execute("SELECT key, value FROM facts WHERE kind = ?", (NOTE,))
        }
    if (found.begin, found.end) != _EVER:
        found.lines = list(_lines(path.parent, found))
    return found


def _between(
    connection: sqlite3.Connection, table: str, column: str, day: RecordedDay
) -> Iterator[sqlite3.Row]:
    tie = {"signals": "seq", "audit": "seq", "fills": "rowid"}[table]
    yield from connection.execute(
        f"SELECT * FROM {table} WHERE {column} >= ? AND {column} < ? ORDER BY {column}, {tie}",  # noqa: S608 (our own names)
        (day.begin, day.end),
    )


def _orders(connection: sqlite3.Connection, day: RecordedDay) -> Iterator[KeptOrder]:
    rows = connection.execute(
        "SELECT * FROM orders WHERE (created_at >= ?1 AND created_at < ?2) "
        "OR (created_at < ?1 AND (working = 1 OR updated_at >= ?1)) ORDER BY created_at, rowid",
        (day.begin, day.end),
    )
    for row in rows:
        yield KeptOrder(order_from_row(row), row["send_us"], row["ack_us"])


def _positions_before(connection: sqlite3.Connection, begin: str) -> dict[PositionKey, Position]:
    found: dict[PositionKey, Position] = {}
    rows = connection.execute("SELECT * FROM fills WHERE at < ? ORDER BY at, rowid", (begin,))
    for row in rows:
        apply_fill(found, fill_from_row(row))
    return found


def apply_fill(positions: dict[PositionKey, Position], fill: Fill) -> Position:
    """Add a fill to positions as the engine did; return the one it led to."""
    key = fill.account, fill.symbol
    position = positions.get(key)
    if position is None:
        position = positions[key] = Position(*key)
    position.apply(fill.side, fill.last_qty, fill.last_px)
    if fill.fee_qty:
        position.take_fee(fill.fee_qty)
    return position


def _told(row: sqlite3.Row) -> Told:
    return Told(row["seq"], row["at"], row["kind"], row["account"], orjson.loads(row["facts"]))


def _standing_before(
    connection: sqlite3.Connection, begin: str
) -> tuple[dict[str, Told], list[Told]]:
    """Return the latches in force at a moment, and what else of before may still stand."""
    latches: dict[str, Told] = {}
    lasting: list[Told] = []
    marks = ", ".join("?" * len(LASTING))
    rows = connection.execute(
        f"SELECT * FROM audit WHERE kind IN ('latch', {marks}) AND at < ? ORDER BY seq",  # noqa: S608 (our own names)
        (*LASTING, begin),
    )
    for told in map(_told, rows):
        if told.kind == "latch":
            latches[str(told.facts.get("scope", ""))] = told
        else:
            lasting.append(told)
    standing = {
        scope: told for scope, told in latches.items() if told.facts.get("state") != "active"
    }
    return standing, lasting


def _lines(home: Path, day: RecordedDay) -> Iterator[Line]:
    """Read the record's lines of the day; a day of another zone lies in two files."""
    first, last = day.begins.date(), (day.ends - timedelta(microseconds=1)).date()
    for at in dict.fromkeys((first, last)):
        for line in lines_of(home, at.isoformat()):
            if day.begin <= line["at"] < day.end:
                yield line


def prices_at(lines: list[Line], moment: str) -> dict[str, Decimal]:
    """Return the prices the record knew at a moment."""
    found: dict[str, Decimal] = {}
    for line in lines:
        if line["at"] > moment:
            break
        found.update({name: Decimal(text) for name, text in (line.get("prices") or {}).items()})
    return found
