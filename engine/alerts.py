"""What the operator is told (control C29): grouped, acknowledged, and escalated when nobody acknowledges.

The same code of the same account within ten minutes is one row with a count, unless it has become graver or somebody
has acknowledged it: then it is a row of its own. Critical alerts that nobody has acknowledged survive a restart.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Iterator, Mapping
from datetime import datetime
from typing import Any, Final

from engine.clock import Clock, rfc3339
from engine.errors import CommandRefused
from engine.model.commands import Acknowledge

log = logging.getLogger(__name__)

Row = dict[str, Any]
FACT: Final = "alert"
GROUP_NS: Final = 600_000_000_000
MOST: Final = 500
_RANK: Final = {"info": 0, "warning": 1, "critical": 2}
_LEVEL: Final = {"critical": logging.ERROR, "warning": logging.WARNING}
_OWN: Final = frozenset({"UNACKNOWLEDGED", "HALTED"})
"""What an escalation itself says; it must not escalate again."""


class AlertBook:
    """The newest alerts, oldest first. ``touch`` hears the id of every row that changed; ``keep`` writes a fact.

    ``escalate`` is called once for each critical alert that nobody acknowledged for ``halt_after_s`` (0: never).
    """

    def __init__(
        self,
        clock: Clock,
        touch: Callable[[str], None],
        keep: Callable[[str, str, dict[str, Any] | None], None],
        halt_after_s: float = 0.0,
        escalate: Callable[[str], None] = lambda _text: None,
    ) -> None:
        self._clock = clock
        self._touch = touch
        self._keep = keep
        self._halt_after_ns = int(halt_after_s * 1e9)
        self._escalate = escalate
        self._rows: dict[str, Row] = {}
        self._since: dict[str, int] = {}  # monotonic, by id
        self._groups: dict[
            tuple[str, str, str, str], str
        ] = {}  # the row that counts more of its kind
        self._waiting: dict[str, bool] = {}  # critical and not acknowledged → whether it escalated
        self._number = 0
        self.pass_on: Callable[[str, str, str, str], None] = lambda *_: None
        """Hears severity, code, account and text of everything told (engine.alert_channels)."""
        self.told = 0
        """How many alerts there were, grouped ones counted each."""

    def __iter__(self) -> Iterator[Row]:
        return iter(list(self._rows.values()))

    def __len__(self) -> int:
        return len(self._rows)

    def keys(self) -> Iterable[str]:
        """Return the ids of all rows."""
        return list(self._rows)

    def row(self, key: str) -> Row | None:
        """Return one row."""
        return self._rows.get(key)

    @property
    def unacknowledged(self) -> int:
        """Return how many critical alerts wait for somebody."""
        return len(self._waiting)

    # ---- life ------------------------------------------------------------------------------------------------

    def load(self, facts: Mapping[str, dict[str, Any]]) -> None:
        """Take back what nobody had acknowledged before a restart."""
        wall, mono = self._clock.now(), self._clock.monotonic_ns()
        for key in sorted(facts, key=int):
            row = dict(facts[key]["row"])
            age_s = (wall - datetime.fromisoformat(row["at"])).total_seconds()
            self._rows[key] = row
            self._since[key] = mono - int(max(age_s, 0.0) * 1e9)
            self._waiting[key] = bool(facts[key]["escalated"])
            self._number = max(self._number, int(key))
            self._touch(key)

    # ---- telling ---------------------------------------------------------------------------------------------

    def tell(self, severity: str, code: str, account: str, text: str, subject: str = "") -> None:
        """Tell one thing. ``subject``: what else tells it from its like (a scope, where there is no account)."""
        self.told += 1
        self.pass_on(severity, code, account, text)
        log.log(_LEVEL.get(severity, logging.INFO), "%s %s %s", code, account, text)
        group = (code, account, "account" if account else "engine", subject)
        known = self._rows.get(self._groups.get(group, ""))
        now, at = self._clock.monotonic_ns(), rfc3339(self._clock.now())
        if known is not None and self._joins(known, severity, now):
            known["count"] += 1
            known["last_at"], known["text"] = at, text
            self._show(known)
            return
        self._number += 1
        key = str(self._number)
        row = {
            "id": key,
            "at": at,
            "severity": severity,
            "area": group[2],
            "code": code,
            "account": account,
            "text": text,
            "count": 1,
            "last_at": at,
            "acknowledged_at": None,
        }
        self._rows[key] = row
        self._since[key] = now
        self._groups[group] = key
        if severity == "critical":
            self._waiting[key] = False
        self._show(row)
        self._evict()

    def _joins(self, known: Row, severity: str, now: int) -> bool:
        graver = _RANK.get(severity, 0) > _RANK.get(known["severity"], 0)
        recent = now - self._since[known["id"]] < GROUP_NS
        return recent and not graver and known["acknowledged_at"] is None

    def _show(self, row: Row) -> None:
        key = row["id"]
        if key in self._waiting:
            self._keep(FACT, key, {"row": dict(row), "escalated": self._waiting[key]})
        self._touch(key)

    def _evict(self) -> None:
        """Forget the oldest, those that wait for somebody last."""
        while len(self._rows) > MOST:
            key = next((key for key in self._rows if key not in self._waiting), None)
            if key is None:
                key = next(iter(self._rows))
                del self._waiting[key]
                self._keep(FACT, key, None)
            del self._rows[key], self._since[key]
            self._touch(key)
        if len(self._groups) > 2 * MOST:
            self._groups = {g: key for g, key in self._groups.items() if key in self._rows}

    # ---- acknowledging ---------------------------------------------------------------------------------------

    async def acknowledge(self, command: Acknowledge) -> dict[str, Any]:
        """Carry out the command: alerts were seen, all or those named.

        Raises:
            CommandRefused: there is no such alert (404).
        """
        wanted = self.keys() if command.alerts is None else command.alerts
        unknown = [key for key in wanted if key not in self._rows]
        if unknown:
            raise CommandRefused("NOT_FOUND", f"no alert {unknown[0]}", 404)
        at, seen = rfc3339(self._clock.now()), []
        for key in wanted:
            row = self._rows[key]
            if row["acknowledged_at"] is None:
                row["acknowledged_at"] = at
                seen.append(key)
                if self._waiting.pop(key, None) is not None:
                    self._keep(FACT, key, None)
                self._touch(key)
        return {"result": "acknowledged", "alerts": seen}

    def tick(self) -> None:
        """Escalate what nobody has acknowledged in time; once each."""
        if not self._halt_after_ns:
            return
        late = self._clock.monotonic_ns() - self._halt_after_ns
        for key, escalated in list(self._waiting.items()):
            row = self._rows[key]
            if escalated or self._since[key] > late or row["code"] in _OWN:
                continue
            self._waiting[key] = True
            self._show(row)
            seconds = self._halt_after_ns / 1e9
            self._escalate(
                f"nobody acknowledged {row['code']} {row['account']} in {seconds:g} s: {row['text']}"
            )
