"""From the engine's feed to the panels: newest row per key, delivered once a frame.

The client calls ``Store`` as rows arrive; the store only updates dictionaries and notes keys. One 16 ms timer,
running only while something is dirty or moving, hands each table's changed keys to whoever shows them.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Iterable
from contextlib import suppress
from time import monotonic, perf_counter

from PySide6.QtCore import QObject, Qt, QTimer, Signal

from engine.client import EngineClient, Row
from engine.errors import CommandRefused
from engine.model import tables
from engine.model.enums import ConnectionState
from gui.formatting import epoch
from gui.garbage import collect_if_due

FRAME_MS = 16
QUIET_MS = 1_000
PRESENCE_S = 2.0
CAPS: dict[str, int] = {
    tables.SIGNALS: 5_000,
    tables.ORDERS: 20_000,
    tables.FILLS: 20_000,
    tables.ALERTS: 5_000,
    tables.PNL: 20_000,
}
"""The most rows kept here; the oldest leave first (the engine's lists still have them)."""

PULSE = frozenset((tables.ENGINE, tables.LATENCY, tables.PNL, tables.BARS))
"""Tables that tell how things go, every second; no command may or may not run because of them."""

QUIET: dict[str, frozenset[str]] = {
    tables.ENGINE: frozenset(("now", "loop_lag_ms")),
    tables.ACCOUNTS: frozenset(("last_probe_at", "rate_left", "updated_at")),
}
"""Fields that move while nothing happens; rows that differ in these alone are shown as the next second begins."""

Rows = dict[str, Row]
Changes = Callable[[Iterable[str], Iterable[str]], None]
"""Takes changed and removed keys of one table."""
Animation = Callable[[float], bool]
"""Draws one step at a moment (monotonic seconds); says whether it wants another."""


class Watch:
    """What one panel wants to hear about one table."""

    __slots__ = ("changed", "reset")

    def __init__(self, changed: Changes, reset: Callable[[], None]) -> None:
        self.changed = changed
        self.reset = reset


class FrameMeter:
    """Times of the frame pump: the interval between frames and the work in each (milliseconds)."""

    def __init__(self) -> None:
        self.intervals: deque[float] = deque(maxlen=240)
        self.work: deque[float] = deque(maxlen=240)
        self.longest = 0.0

    def note(self, interval: float | None, work: float) -> None:
        """Add one frame."""
        if interval is not None:
            self.intervals.append(interval)
        self.work.append(work)
        self.longest = max(self.longest, work)

    def p99(self) -> float | None:
        """Return the 99th percentile of the work per frame of the last few seconds, in milliseconds."""
        if not self.work:
            return None
        ordered = sorted(self.work)
        return ordered[min(len(ordered) - 1, int(len(ordered) * 0.99))]


class Store(QObject):
    """Everything the engine has said, and what of it changed since the last frame (an EngineListener)."""

    link_changed = Signal()
    reset_done = Signal()
    stirred = Signal()  # something was told that is not quiet

    def __init__(self, parent: QObject | None = None) -> None:
        super().__init__(parent)
        self.tables: dict[str, Rows] = {name: {} for name in tables.KEYS}
        self.link = ConnectionState.CONNECTING
        self.link_text = "Starting…"
        self.meter = FrameMeter()
        self.changes_seen = 0
        self.news = 0  # how often something was told: rows, a snapshot, the state of the link
        self.matters = 0  # the same without what no command depends on
        self.recorded = False  # a recorded day: its time stands still between two moments
        self._watches: dict[str, list[Watch]] = {}
        self._dirty: dict[str, dict[str, None]] = {}
        self._removed: dict[str, dict[str, None]] = {}
        self._animations: list[Animation] = []
        self._heard_at: float | None = None
        self._engine_clock: tuple[float, float] | None = None
        self._frame_at: float | None = None
        self._framed_at = float("-inf")
        self._soon = True  # the pump that runs is not waiting for the next second
        self._timer = QTimer(self)
        self._timer.setTimerType(Qt.TimerType.PreciseTimer)
        self._timer.setInterval(FRAME_MS)
        self._timer.timeout.connect(self.frame)

    # --- the listener -------------------------------------------------------------------------

    def on_snapshot(self, snapshot: dict[str, list[Row]]) -> None:
        """Replace everything known."""
        self._heard()
        self._told()
        self._dirty.clear()
        self._removed.clear()
        for name, key in tables.KEYS.items():
            rows = self.tables[name]
            rows.clear()
            rows.update((row[key], row) for row in snapshot.get(name, ()))
            self._trim(name)
        self._set_engine_clock()
        for watches in self._watches.values():
            for watch in watches:
                watch.reset()
        self.reset_done.emit()

    def on_batch(self, changes: dict[str, list[Row]], removed: dict[str, list[str]]) -> None:
        """Take changed rows and removed keys; they are shown with the next frame."""
        self._heard()
        quiet = not removed and self._is_quiet(changes)
        if not quiet:
            self._told(PULSE.issuperset(changes) and not removed)
        for name, changed in changes.items():
            key = tables.KEYS.get(name)
            if key is None:
                continue  # a newer engine's table
            rows = self.tables[name]
            dirty = self._dirty.setdefault(name, {})
            gone = self._removed.get(name)
            for row in changed:
                at = row[key]
                rows[at] = row
                dirty[at] = None
                if gone:
                    gone.pop(at, None)
            self.changes_seen += len(changed)
            self._trim(name)
        for name, keys in removed.items():
            if name in self.tables:
                self._drop(name, keys)
        if tables.ENGINE in changes:
            self._set_engine_clock()
        self.wake(soon=not quiet)

    def on_link(self, state: ConnectionState, text: str) -> None:
        """Take the state of the link; rows are stale unless it is connected."""
        self.link = state
        self.link_text = text
        self._told()
        if state is ConnectionState.CONNECTED:
            self._heard()
        self.link_changed.emit()

    def put_local(self, table: str, row: Row) -> None:
        """Show a row of the desk's own among the engine's; it lasts until the next snapshot."""
        key = row[tables.KEYS[table]]
        self._told()
        self.tables[table][key] = row
        self._dirty.setdefault(table, {})[key] = None
        self.wake()

    # --- for panels ---------------------------------------------------------------------------

    def watch(self, table: str, changed: Changes, reset: Callable[[], None]) -> None:
        """Tell ``changed`` a table's changed and removed keys, once a frame; ``reset`` on a snapshot."""
        self._watches.setdefault(table, []).append(Watch(changed, reset))

    def animate(self, step: Animation) -> None:
        """Call ``step`` once a frame until it says it is done."""
        if step not in self._animations:
            self._animations.append(step)
        self.wake()

    def wake(self, *, soon: bool = True) -> None:
        """Start the frame pump, if it rests: at once when the last frame is long over, else at the usual pace.

        Not ``soon``: as the next second begins (``catch_up``), with everything else that moves then.
        """
        if self._timer.isActive() and (self._soon or not soon):
            return
        rested = (monotonic() - self._framed_at) * 1e3 >= FRAME_MS
        self._soon, self._frame_at = soon, None
        self._timer.start((0 if rested else FRAME_MS) if soon else QUIET_MS)

    def catch_up(self) -> None:
        """Deliver what is quiet now: a second begins."""
        if not self._soon:
            self.frame()

    def rows(self, table: str) -> Rows:
        """Return a table's rows by key; not to be changed."""
        return self.tables[table]

    @property
    def engine(self) -> Row:
        """Return the engine's own row; empty until it has spoken."""
        return self.tables[tables.ENGINE].get("engine", {})

    @property
    def connected(self) -> bool:
        """Say whether what is shown is live."""
        return self.link is ConnectionState.CONNECTED

    def age(self) -> float | None:
        """Return the seconds since the engine last said anything; ``None`` before it has."""
        if self._heard_at is None:
            return None
        return 0.0 if self.recorded else monotonic() - self._heard_at

    def now(self) -> float | None:
        """Return the engine's time now, in seconds since 1970 (its clock, not this machine's)."""
        if self._engine_clock is None:
            return None
        stamp, at = self._engine_clock
        return stamp if self.recorded else stamp + monotonic() - at

    def age_of(self, stamp: str | None) -> float | None:
        """Return how many seconds ago a stamp of the engine's was."""
        then, now = epoch(stamp), self.now()
        return None if then is None or now is None else now - then

    # --- inside -------------------------------------------------------------------------------

    def _heard(self) -> None:
        self._heard_at = monotonic()

    def _told(self, pulse: bool = False) -> None:
        self.news += 1
        self.matters += not pulse
        self.stirred.emit()

    def _is_quiet(self, changes: dict[str, list[Row]]) -> bool:
        """Say whether these rows differ from those known in nothing but what moves while nothing happens."""
        if not changes.keys() <= _MAY_BE_QUIET:
            return False
        return all(
            _differs_in(self.tables[name].get(row[tables.KEYS[name]]), row, QUIET[name])
            for name, rows in changes.items()
            if name in QUIET
            for row in rows
        )

    def _set_engine_clock(self) -> None:
        stamp = epoch(self.engine.get("now"))
        if stamp is not None:
            self._engine_clock = (stamp, monotonic())

    def _trim(self, name: str) -> None:
        rows = self.tables[name]
        over = len(rows) - CAPS.get(name, len(rows))
        if over > 0:
            self._drop(name, [key for key, _ in zip(rows, range(over), strict=False)])

    def _drop(self, name: str, keys: Iterable[str]) -> None:
        rows, dirty = self.tables[name], self._dirty.get(name)
        gone = self._removed.setdefault(name, {})
        for key in keys:
            if rows.pop(key, None) is not None:
                gone[key] = None
            if dirty:
                dirty.pop(key, None)

    def frame(self) -> None:
        """Deliver what changed since the last frame (the pump; tests may call it)."""
        started = perf_counter()
        interval = None if self._frame_at is None else (started - self._frame_at) * 1e3
        self._frame_at = started
        self._framed_at = monotonic()
        self._soon = True
        if self._timer.interval() != FRAME_MS:
            self._timer.setInterval(FRAME_MS)
        dirty, self._dirty = self._dirty, {}
        removed, self._removed = self._removed, {}
        for name in dirty.keys() | removed.keys():
            changed, gone = dirty.get(name, {}), removed.get(name, {})
            for watch in self._watches.get(name, ()):
                watch.changed(changed, gone)
        if self._animations:
            now = monotonic()
            self._animations = [step for step in self._animations if step(now)]
        collect_if_due()
        self.meter.note(interval, (perf_counter() - started) * 1e3)
        if not self._dirty and not self._removed and not self._animations:
            self._timer.stop()


_MAY_BE_QUIET = QUIET.keys() | {tables.PNL}


def _differs_in(before: Row | None, row: Row, fields: frozenset[str]) -> bool:
    """Say whether a row is another version of one that is known, and differs from it in nothing but these fields."""
    if before is None or before is row or before.keys() != row.keys():
        return False
    return all(value == before[name] or name in fields for name, value in row.items())


async def present(store: Store, client: EngineClient) -> None:
    """Tell the engine every other second that a desk is there (its dead-man's switch), until cancelled.

    It runs on the desk's own loop: a desk that hangs falls silent.
    """
    while True:
        if store.connected:
            with suppress(CommandRefused):  # an engine of before knows no such command
                await client.command("presence")
        await asyncio.sleep(PRESENCE_S)
