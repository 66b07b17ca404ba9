"""What the journal does not keep of a day: prices, equity, states of accounts, limits in use, alerts, others' orders.

One file a day (UTC) in ``HOME/days``, a line of JSON every ten seconds with what has changed since the line before.
It is a record to look at, not a book: nothing is ever decided by it, it is not synced, and a disk that fails costs
lines of it and nothing else. Nothing here is on an order's way: the figures are read beside, a few accounts at a time.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
from collections.abc import Collection, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import orjson

from engine.clock import rfc3339
from engine.model import tables

if TYPE_CHECKING:
    from engine.trading_engine import TradingEngine

log = logging.getLogger(__name__)

FOLDER: Final = "days"
EVERY_S: Final = 10.0
TURNS: Final = 6
"""An account is looked at every so many lines: once a minute."""
KEPT: Final = 92  # files
HALF: Final = 50
"""Percent from which on the use of an account's limit is kept."""
_AT_ONCE: Final = 20  # accounts before others have a turn
_RESTLESS: Final = frozenset(
    {"updated_at", "queue", "rate_left", "last_probe_at", "ack_p50_us", "warm_connections", "open_orders"}
)  # fmt: skip
"""Columns of an account that change all the time and tell nothing afterwards."""
_FIGURES: Final = ("equity", "day_pnl", "realised", "unrealised", "exposure", "loop_lag_ms")

_CONTROL: Final = ("state", "setting")  # the rest of a control's row the audit trail tells
_SINCE: Final = frozenset({"at", "value"})
"""Columns of others' orders and limits in use that change with time or price alone."""

Line = dict[str, Any]


def file_of(home: Path, day: str) -> Path:
    """Return where a day (``2026-11-23``, UTC) of a home is kept."""
    return home / FOLDER / f"{day}.jsonl"


def lines_of(home: Path, day: str) -> Iterator[Line]:
    """Read a day's lines, oldest first; none where it was not kept, and no line that is cut or damaged."""
    with contextlib.suppress(FileNotFoundError), file_of(home, day).open("rb") as file:
        for text in file:
            with contextlib.suppress(ValueError):
                line = orjson.loads(text)
                if isinstance(line, dict) and isinstance(line.get("at"), str):
                    yield line


class DayRecord:
    """Writes the lines, from ``start`` to ``stop`` of the engine."""

    def __init__(self, engine: TradingEngine, home: Path) -> None:
        self._engine = engine
        self._home = home
        self._task: asyncio.Task[None] | None = None
        self._failed = False
        self._day = ""
        self._turn = 0
        self._forget()

    def _forget(self) -> None:
        """Begin a file: its first line of each thing is whole."""
        self._prices: dict[str, str] = {}
        self._accounts: dict[str, Line] = {}
        self._alerts: dict[str, tuple[Any, ...]] = {}
        self._tables: dict[str, dict[str, Line]] = {}

    async def start(self) -> None:
        """Begin."""
        await asyncio.to_thread(self._tidy)
        self._task = asyncio.get_running_loop().create_task(self._run(), name="day record")

    async def stop(self) -> None:
        """Write a last line and end."""
        task, self._task = self._task, None
        if task is None:
            return
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await task
        await self._write(every_account=True)

    async def _run(self) -> None:
        while True:
            await self._write()
            await asyncio.sleep(EVERY_S)

    async def _write(self, *, every_account: bool = False) -> None:
        line = await self._line(every_account=every_account)
        try:
            await asyncio.to_thread(_append, file_of(self._home, self._day), line)
        except OSError as error:
            if not self._failed:
                log.warning("the record of the day cannot be written: %s", error)
            self._failed = True
            self._forget()  # the next line that can be written is whole
        else:
            self._failed = False

    async def _line(self, *, every_account: bool) -> Line:
        engine = self._engine
        at = rfc3339(engine.clock.now())
        line: Line = {"at": at}
        if at[:10] != self._day:
            self._day = at[:10]
            self._forget()
            line["run"] = rfc3339(engine.started_at)
        row = engine.publisher.makers[tables.ENGINE]("engine") or {}
        line["pnl"] = {name: row.get(name) for name in _FIGURES}
        line["prices"] = _changed(self._prices, row.get("prices") or {})
        line["alerts"] = self._changed_alerts()
        line["accounts"] = await self._changed_accounts(every=every_account)
        controls, others = map(self._engine.publisher.rows, (tables.CONTROLS, tables.EXTERNAL))
        settings = {row["number"]: {name: row[name] for name in _CONTROL} for row in controls}
        line[tables.CONTROLS] = self._changed_rows(tables.CONTROLS, settings)
        external = {row["key"]: row for row in others}
        line[tables.EXTERNAL] = self._changed_rows(tables.EXTERNAL, external)
        usage = await self._usage(every=every_account)
        line[tables.USAGE] = self._changed_rows(tables.USAGE, *usage)
        return line

    async def _usage(self, *, every: bool) -> tuple[dict[str, Line], set[str]]:
        """Return limits in use, and which were looked at: the firm's and strategies', and in turn the accounts'.

        Of an account's only those that are half used: a thousand accounts have thousands that are not.
        """
        make = self._engine.publisher.makers[tables.USAGE]
        rows: dict[str, Line] = {}
        looked: set[str] = set()
        keys = self._engine.publisher.keys(tables.USAGE)
        for number, key in enumerate(keys):
            of_account = key.startswith("account:")
            if of_account and not every and (self._turn + number) % TURNS:
                continue
            looked.add(key)
            row = make(key)
            if row is not None and not (of_account and row["percent"] < HALF):
                rows[key] = row
            if len(looked) % _AT_ONCE == 0:
                await asyncio.sleep(0)
        return rows, looked | (self._tables.get(tables.USAGE, {}).keys() - set(keys))

    def _changed_rows(
        self, table: str, rows: dict[str, Line], looked: Collection[str] | None = None
    ) -> dict[str, Line | None]:
        """Return the rows that are not as last written; ``None``: it went (of those ``looked`` at, else of all)."""
        known = self._tables.setdefault(table, {})
        changed: dict[str, Line | None] = {}
        for key, row in rows.items():
            lasting = {name: value for name, value in row.items() if name not in _SINCE}
            if known.get(key) != lasting:
                known[key], changed[key] = lasting, row
        for key in list(known):
            if key not in rows and (looked is None or key in looked):
                del known[key]
                changed[key] = None
        return changed

    def _changed_alerts(self) -> list[Line]:
        found = []
        for row in self._engine.alerts:
            stamp = (row["count"], row["last_at"], row["acknowledged_at"], row["severity"])
            if self._alerts.get(row["id"]) != stamp:
                self._alerts[row["id"]] = stamp
                found.append(dict(row))
        return found

    async def _changed_accounts(self, *, every: bool) -> dict[str, Line]:
        self._turn += 1
        make = self._engine.publisher.makers[tables.ACCOUNTS]
        changed: dict[str, Line] = {}
        for number, account in enumerate(list(self._engine.fleet.states)):
            new = account not in self._accounts
            if not (every or new or (self._turn + number) % TURNS == 0):
                continue
            row = make(account)
            if row is not None:
                row = {name: value for name, value in row.items() if name not in _RESTLESS}
                difference = _changed(self._accounts.setdefault(account, {}), row)
                if difference:
                    changed[account] = difference
            if number % _AT_ONCE == _AT_ONCE - 1:
                await asyncio.sleep(0)
        return changed

    def _tidy(self) -> None:
        """Remove the oldest files over ``KEPT``."""
        with contextlib.suppress(OSError):
            for path in sorted((self._home / FOLDER).glob("????-??-??.jsonl"))[:-KEPT]:
                path.unlink()


def _changed(known: Line, now: Line) -> Line:
    """Return what of ``now`` is not as in ``known``, and make it so."""
    changed = {name: value for name, value in now.items() if known.get(name, ...) != value}
    known.update(changed)
    return changed


def _append(path: Path, line: Line) -> None:
    path.parent.mkdir(mode=0o700, exist_ok=True)
    with os.fdopen(os.open(path, os.O_CREAT | os.O_APPEND | os.O_WRONLY, 0o600), "ab") as file:
        file.write(orjson.dumps(line) + b"\n")
