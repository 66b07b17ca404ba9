"""A recorded day in the place of an engine: the same rows, at a moment one may choose; nothing can be sent."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Sequence
from datetime import UTC, datetime
from itertools import islice
from pathlib import Path
from typing import Any, Final, TypeVar

from engine.client import EngineListener, Row, tell
from engine.clock import rfc3339
from engine.days.recorded import parse_day, read_day, recorded_days
from engine.days.timeline import Change, Mark, Timeline, timeline_of
from engine.documents import signal_from_document
from engine.errors import CommandRefused, StoreError
from engine.model import tables
from engine.model.enums import ConnectionState
from engine.recovery import record_from_entry
from engine.views import signal_detail

_T = TypeVar("_T")
_Keys = dict[str, dict[str, None]]
_Tables = dict[str, dict[str, Row]]
_STRETCH: Final = 4_000
"""Changes between two pictures of a day, more of them on a long one: what a jump has to go through at most."""
_PICTURES: Final = 64
_SLICE: Final = 1_000
"""Rows told at once; a jump that changes more goes on with ``catch_up``."""
_LIVE: Final = ("status", "cum_qty", "avg_px", "order_id", "code")


def load(place: Path, day: str | None = None) -> ReplayClient:
    """Read a day (default: the newest recorded) of a home, or of a copy of its journal.

    Raises:
        StoreError: there is no journal, it cannot be read, or nothing is recorded.
        ConfigError: no such day.
    """
    if day is None:
        days = recorded_days(place)
        if not days:
            raise StoreError(f"{place}: nothing is recorded there")
        day = days[0]
    timeline = timeline_of(read_day(place, parse_day(day)))
    if not timeline.changes or (timeline.ends - timeline.begins <= 2 and not timeline.marks):
        raise StoreError(f"{place}: nothing is recorded on {day}")
    return ReplayClient(timeline)


class ReplayClient:
    """An ``EngineClient`` over a timeline. ``move`` goes to a moment; the listener hears what changed by it."""

    def __init__(self, timeline: Timeline) -> None:
        self._timeline = timeline
        self._moments = [change.at for change in timeline.changes]
        self._stretch = max(_STRETCH, -(-len(timeline.changes) // _PICTURES))
        self._pictures = self._drawn()
        self._applied = 0
        self._rows: _Tables = _copy(self._pictures[0])
        self._untold: _Keys = {}
        """What has changed, or gone, and the listener has not heard of yet."""
        self._to_tell = 0
        self._listener: EngineListener | None = None
        self.position = timeline.begins

    def _drawn(self) -> list[_Tables]:
        """Go through the day once and keep the rows at every so many changes, so that no jump has far to go.

        Rows are never changed in place: a picture costs its dictionaries, not its rows.
        """
        rows: _Tables = {name: {} for name in tables.KEYS}
        pictures = [_copy(rows)]
        changes = self._timeline.changes
        for start in range(0, len(changes) - self._stretch + 1, self._stretch):
            _apply(rows, changes[start : start + self._stretch])
            pictures.append(_copy(rows))
        return pictures

    # ---- time --------------------------------------------------------------------------------------------------

    @property
    def day(self) -> str:
        """Return the day shown."""
        return str(self._timeline.day.day)

    @property
    def begins(self) -> float:
        """Return the first moment, in seconds since 1970."""
        return self._timeline.begins

    @property
    def ends(self) -> float:
        """Return the last moment."""
        return self._timeline.ends

    @property
    def marks(self) -> list[Mark]:
        """Return the moments worth going to, in their order."""
        return self._timeline.marks

    @property
    def recorded(self) -> frozenset[str]:
        """Return the tables that only the record of the day tells of, as far as it did."""
        return frozenset(self._timeline.recorded)

    @property
    def behind(self) -> float:
        """Return what share of the last jump the listener has still to hear, 0 when it knows all."""
        left = sum(map(len, self._untold.values()))
        return left / self._to_tell if left and self._to_tell else 0.0

    def move(self, moment: float) -> None:
        """Go to a moment of the day; of a long way the listener hears a part, and the rest by ``catch_up``.

        Another ``move`` before that is done turns round where it is: nothing of the way not gone is lost or told twice.
        """
        moment = min(max(moment, self.begins), self.ends)
        back, self.position = moment < self.position, moment
        upto = bisect_right(self._moments, moment)
        before = self._rows
        picture = min(upto // self._stretch, len(self._pictures) - 1)
        if back or picture * self._stretch > self._applied:
            self._rows, self._applied = _copy(self._pictures[picture]), picture * self._stretch
        touched = _apply(self._rows, self._timeline.changes[self._applied : upto])
        self._applied = upto
        self._tell_time()
        if self._listener is None:
            return
        if back:
            self._begin_anew()
        elif self._rows is before:
            for table, keys in touched.items():
                self._untold.setdefault(table, {}).update(keys)
        else:
            self._note_differences(before)
        self._to_tell = sum(map(len, self._untold.values()))
        self.catch_up()

    def catch_up(self) -> None:
        """Tell the listener the next part of what it has not heard of: small tables first, old rows first."""
        changes: dict[str, list[Row]] = {}
        removed: dict[str, list[str]] = {}
        room = _SLICE
        for table in sorted(self._untold, key=lambda name: len(self._untold[name])):
            keys, rows = self._untold[table], self._rows[table]
            part = list(islice(keys, room))
            room -= len(part)
            for key in part:
                del keys[key]
            changes[table] = [rows[key] for key in part if key in rows]
            removed[table] = [key for key in part if key not in rows]
        self._untold = {table: keys for table, keys in self._untold.items() if keys}
        if self._listener is not None and room < _SLICE:
            tell(self._listener.on_batch, _filled(changes), _filled(removed))

    def _note_differences(self, before: _Tables) -> None:
        """Note every row that is not the same one as before, and those that are gone."""
        for table, rows in self._rows.items():
            old = before[table]
            keys = {
                key: None
                for key, row in rows.items()
                if (known := old.get(key)) is not row and known != row
            }
            keys |= dict.fromkeys(old.keys() - rows.keys())
            if keys:
                self._untold.setdefault(table, {}).update(keys)

    def _begin_anew(self) -> None:
        """Let the listener forget all and begin with the first rows of each table: taking thousands out costs more."""
        few = sum(map(len, self._rows.values())) <= _SLICE
        room = _SLICE if few else _SLICE // len(self._rows)
        self._untold = {}
        first: dict[str, list[Row]] = {}
        for table, rows in self._rows.items():
            first[table] = list(islice(rows.values(), room))
            rest = dict.fromkeys(islice(rows, room, None))
            if rest:
                self._untold[table] = rest
        if self._listener is not None:
            tell(self._listener.on_snapshot, first)

    def _tell_time(self) -> None:
        """Let the engine's row say what time it is, and what it then had."""
        rows = self._rows
        accounts = rows[tables.ACCOUNTS].values()
        rows[tables.ENGINE]["engine"] = {
            **rows[tables.ENGINE].get("engine", {"key": "engine"}),
            "now": rfc3339(datetime.fromtimestamp(self.position, UTC)),
            "accounts": len(accounts),
            "connected": sum(row.get("connection") == "connected" for row in accounts),
            "held": sum(bool(row["held"]) for row in rows[tables.SIGNALS].values()),
            **{name: len(rows[name]) for name in (tables.SIGNALS, tables.ORDERS, tables.FILLS)},
            **{
                name: sum(row.get(name) or 0 for row in accounts)
                for name in ("open_orders", "unknown_orders")
            },
        }
        self._untold.setdefault(tables.ENGINE, {})["engine"] = None

    # ---- the client --------------------------------------------------------------------------------------------

    async def start(self, listener: EngineListener) -> None:
        """Show the first moment."""
        self.move(self.position)
        self._listener = listener
        tell(listener.on_link, ConnectionState.CONNECTED, f"recorded day {self.day}")
        tell(listener.on_snapshot, {name: list(rows.values()) for name, rows in self._rows.items()})
        self._untold = {}

    async def stop(self) -> None:
        """Stop listening."""
        self._listener = None

    async def command(self, command: str, **fields: Any) -> dict[str, Any]:
        """Refuse: what is shown is over."""
        raise _refusal(command)

    async def send_signal(self, document: dict[str, Any]) -> dict[str, Any]:
        """Refuse: what is shown is over."""
        raise _refusal("a signal")

    async def signal_detail(self, key: str) -> dict[str, Any]:
        """Return one signal with its rows per account as they were at the moment shown."""
        shown = self._rows[tables.SIGNALS].get(key)
        entries = self._timeline.day.signals
        entry = next((one for one in entries if f"{one.source}/{one.id}" == key), None)
        if shown is None or entry is None:
            raise CommandRefused("NOT_FOUND", f"no signal {key[:130]} at this moment", 404)
        orders = {kept.order.cl_ord_id: kept.order for kept in self._timeline.day.orders}
        detail = signal_detail(
            record_from_entry(entry, signal_from_document(entry.body, entry.body_hash), orders)
        )
        detail |= {name: shown[name] for name in detail if name in shown and name != "accounts"}
        detail["signal"] = shown
        now = self._rows[tables.ORDERS]
        for row in detail["accounts"]:
            known = now.get(row["cl_ord_id"] or "")
            if known is not None:
                row.update({name: known[name] for name in _LIVE}, message=known["text"])
                row["outcome"] = _outcome(str(known["status"]), str(row["outcome"]))
            elif row["cl_ord_id"]:
                row.update(
                    dict.fromkeys(_LIVE), outcome="held" if shown["held"] else "pending", message=""
                )
        return detail


def _copy(state: _Tables) -> _Tables:
    return {name: rows.copy() for name, rows in state.items()}


def _apply(state: _Tables, changes: Sequence[Change]) -> _Keys:
    """Let changes happen; return the keys of what changed or went."""
    touched: _Keys = {}
    for _, table, key, columns in changes:
        rows = state[table]
        touched.setdefault(table, {})[key] = None
        if columns is None:
            rows.pop(key, None)
        else:
            rows[key] = {**rows.get(key, {}), **columns}
    return touched


def _filled(found: dict[str, list[_T]]) -> dict[str, list[_T]]:
    return {name: parts for name, parts in found.items() if parts}


def _outcome(status: str, final: str) -> str:
    words = {"pending_new": "pending", "unknown": "unknown", "denied": "refused"}
    return words.get(status, final if final not in {"unknown", "pending"} else "sent")


def _refusal(what: str) -> CommandRefused:
    return CommandRefused("REPLAY", f"{what} refused: this is a recording, no engine is connected")
