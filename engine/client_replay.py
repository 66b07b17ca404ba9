"""A recorded day in the place of an engine: the same rows, at a moment one may choose; nothing can be sent."""

from __future__ import annotations

from bisect import bisect_right
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final

from engine.client import EngineListener, Row, tell
from engine.clock import rfc3339
from engine.documents import signal_from_document
from engine.errors import CommandRefused, StoreError
from engine.model import tables
from engine.model.enums import ConnectionState
from engine.recorded import parse_day, read_day, recorded_days
from engine.recovery import record_from_entry
from engine.replay_timeline import Change, Mark, Timeline, timeline_of
from engine.views import signal_detail

_Keys = dict[str, dict[str, None]]
_FRAME: Final = 10_000
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
        self._applied = 0
        self._rows: dict[str, dict[str, Row]] = {name: {} for name in tables.KEYS}
        self._frames = [{name: dict[str, Row]() for name in tables.KEYS}]
        """The rows at every so many changes: rows are never changed in place, so a picture is cheap."""
        self._listener: EngineListener | None = None
        self.position = timeline.begins

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

    def move(self, moment: float) -> None:
        """Go to a moment of the day."""
        moment = min(max(moment, self.begins), self.ends)
        back, self.position = moment < self.position, moment
        upto = bisect_right(self._moments, moment)
        if back:
            self._begin_before(upto)
        touched: _Keys = {}
        gone: _Keys = {}
        while self._applied < upto:
            stop = min(upto, (self._applied // _FRAME + 1) * _FRAME)
            self._apply(self._timeline.changes[self._applied : stop], touched, gone)
            self._applied = stop
            if stop == len(self._frames) * _FRAME:
                self._frames.append({name: rows.copy() for name, rows in self._rows.items()})
        self._tell_time(touched)
        if self._listener is None:
            return
        if back:
            tell(self._listener.on_snapshot, self._snapshot())
            return
        changes = {
            table: [self._rows[table][key] for key in keys]
            for table, keys in touched.items()
            if keys
        }
        removed = {table: list(keys) for table, keys in gone.items() if keys}
        tell(self._listener.on_batch, changes, removed)

    def _begin_before(self, upto: int) -> None:
        """Take the rows as they were at the last picture before a change: going back costs no more than a stretch."""
        at = min(upto // _FRAME, len(self._frames) - 1)
        self._rows = {name: rows.copy() for name, rows in self._frames[at].items()}
        self._applied = at * _FRAME

    def _apply(self, changes: list[Change], touched: _Keys, gone: _Keys) -> None:
        for _, table, key, columns in changes:
            rows = self._rows[table]
            if columns is None:
                rows.pop(key, None)
                touched.get(table, {}).pop(key, None)
                gone.setdefault(table, {})[key] = None
                continue
            rows[key] = {**rows.get(key, {}), **columns}
            touched.setdefault(table, {})[key] = None
            gone.get(table, {}).pop(key, None)

    def _tell_time(self, touched: dict[str, dict[str, None]]) -> None:
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
        touched.setdefault(tables.ENGINE, {})["engine"] = None

    def _snapshot(self) -> dict[str, list[Row]]:
        return {name: list(rows.values()) for name, rows in self._rows.items()}

    # ---- the client --------------------------------------------------------------------------------------------

    async def start(self, listener: EngineListener) -> None:
        """Show the first moment."""
        self.move(self.position)
        self._listener = listener
        tell(listener.on_link, ConnectionState.CONNECTED, f"recorded day {self.day}")
        tell(listener.on_snapshot, self._snapshot())

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


def _outcome(status: str, final: str) -> str:
    words = {"pending_new": "pending", "unknown": "unknown", "denied": "refused"}
    return words.get(status, final if final not in {"unknown", "pending"} else "sent")


def _refusal(what: str) -> CommandRefused:
    return CommandRefused("REPLAY", f"{what} refused: this is a recording, no engine is connected")
