"""What there is to do before the open: everything that keeps orders from leaving, as one list of lines.

Read from the rows the engine sends anyway; accounts that need the same thing share a line.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace

from engine.client import Row
from engine.model import tables
from gui import formatting as fmt

Ages = Callable[[str | None], float | None]
"""Says how many seconds ago a stamp was, by the engine's clock (``Store.age_of``)."""
Tables = Callable[[str], dict[str, Row]]

SOON_S = 1_800.0
"""A session that ends within this is to be renewed (engine.readiness says so too)."""
MARKS = {"crit": "✕", "warn": "▲", "muted": "○"}
LOG_IN, ENABLE, RESUME, REARM, RELOAD = "log_in", "enable", "resume", "rearm", "reload"
LIMITS, UNKNOWN, COMPARE = "limits", "unknown", "reconciliation"
BUTTONS = {
    LOG_IN: "Log in…",
    ENABLE: "Switch on",
    RESUME: "Resume",
    REARM: "Lift…",
    RELOAD: "Reload accounts",
    LIMITS: "Set limits…",
    UNKNOWN: "Show them",
    COMPARE: "Show it",
}
_ACTIONS = {"SESSION_ENDED": LOG_IN, "SESSION_ENDS": LOG_IN, "LIMITS_UNSET": LIMITS, "OUTCOME_UNKNOWN": UNKNOWN,
            "DISK_FULL": "", "NOT_RECONCILED": "", "RATE": ""}  # fmt: skip
"""What mends a need of the engine's, by its code; a line of the reconciliation's for those that are not here."""
_CRITICAL = frozenset({"DISK_FULL", "SESSION_ENDED", "LIMITS_UNSET"})
_MENDING = {
    LOG_IN: "log in; the account connects by itself",
    RELOAD: "mend its credentials and import the account again, or reload the accounts",
}
"""What to do where the engine only says what is wrong."""
_TONES = tuple(MARKS)
_NAMES_SHOWN = 6


@dataclass(frozen=True, slots=True)
class Item:
    """One line: how bad it is, what is wrong, what to do, whose it is, and the action that does it (of ``BUTTONS``)."""

    tone: str
    what: str
    todo: str
    ids: tuple[str, ...]
    action: str = ""
    state: str = ""  # of a latch

    @property
    def who(self) -> str:
        """Return whose it is: the first few names."""
        more = len(self.ids) - _NAMES_SHOWN
        return ", ".join(self.ids[:_NAMES_SHOWN]) + (f" and {more} more" if more > 0 else "")

    @property
    def key(self) -> tuple[str, ...]:
        """Return what stays the same while only the words change."""
        return (self.tone, self.action, *self.ids)

    @property
    def button(self) -> str:
        """Return the words on the action's button, empty without one."""
        return (
            "Arm…"
            if self.action == REARM and self.ids == ("all",)
            else BUTTONS.get(self.action, "")
        )


def session_left(row: Row, age_of: Ages) -> float | None:
    """Return how many seconds an account's session has left: below zero when it ended, ``None`` if it does not end."""
    age = age_of(row.get("session_expires_at"))
    return None if age is None else -age


def items(rows: Tables, age_of: Ages) -> list[Item]:
    """Return everything there is to do, worst first; accounts switched off come last."""
    found = [*map(_latch, _open_latches(rows(tables.HALTS).values()))]
    engine = rows(tables.ENGINE).get("engine", {})
    found += _services(engine)
    found += [_need(need, "engine", "") for need in engine.get("needs") or ()]
    accounts = rows(tables.ACCOUNTS).values()
    found += _together(item for row in accounts for item in _account(row, age_of))
    return sorted(found, key=lambda item: _TONES.index(item.tone))


def urgent(found: Iterable[Item]) -> int:
    """Return how many lines are more than a remark."""
    return sum(item.tone != "muted" for item in found)


def _open_latches(rows: Iterable[Row]) -> list[Row]:
    return [row for row in rows if row.get("state") not in {None, "active"}]


def _latch(row: Row) -> Item:
    scope, state = str(row["scope"]), str(row["state"])
    paused = state in {"reducing", "paused"}
    reason = f": {row['reason']}" if row.get("reason") else ""
    whose = "Trading" if scope == "all" else fmt.words(scope.replace(":", " "))
    what = f"{whose} is {'paused' if paused else state}{reason}"
    todo = (
        "resume it when entries may go out again" if paused else "lift it when it is safe to go on"
    )
    if str(row.get("reason") or "").startswith("CLOCK"):
        todo = "put this machine's clock right; entries go on by themselves once it agrees"
    return Item(
        "warn" if paused else "crit", what, todo, (scope,), RESUME if paused else REARM, state
    )


def _services(engine: Row) -> list[Item]:
    return [
        Item("warn", f"{fmt.words(name)}: {service.get('text') or service.get('state')}",
             f"look after {name}; it is tried again by itself", ("engine",))
        for name, service in (engine.get("services") or {}).items()
        if service.get("state") != "connected"
    ]  # fmt: skip


def _account(row: Row, age_of: Ages) -> list[Item]:
    """Return a line for each thing an account needs; its link's is the first."""
    name = str(row["id"])
    if not row.get("active"):
        off = "it takes no signals until it is switched on"
        return [Item("muted", "Switched off", off, (name,), ENABLE)]
    needs = row.get("needs")
    if needs is None:  # an engine that does not tell them one by one
        return [item] if (item := _link(row, str(row.get("todo") or ""), age_of)) else []
    found = []
    for need in needs:
        if need["code"] == "NOT_CONNECTED":
            item = _link(row, str(need["todo"]), age_of)
            found += [item] if item else []
        else:
            action = _ACTIONS.get(need["code"], COMPARE)
            found.append(
                _need(need, name, "" if action == LOG_IN and not row.get("logs_in") else action)
            )
    return found


def _need(need: Row, whose: str, action: str) -> Item:
    tone = "crit" if need["code"] in _CRITICAL else "warn"
    return Item(
        tone, _plain(str(need["text"]), whose), _plain(str(need["todo"]), whose), (whose,), action
    )


def _link(row: Row, todo: str, age_of: Ages) -> Item | None:
    """Return what to do about an account's link."""
    if not todo:
        return None
    name, link = str(row["id"]), row.get("connection")
    left = session_left(row, age_of)
    ending = left is not None and left <= SOON_S
    if link in {"connected", "degraded"}:
        what = _ending(left) if left is not None and ending else _standing(row)
        return Item("warn", what, todo, (name,), LOG_IN if ending and row.get("logs_in") else "")
    what = str(row.get("connection_text") or fmt.words(link))
    what, todo = _plain(what, name), _plain(todo, name)
    if link != "error":
        return Item("warn" if link == "connecting" else "crit", what, todo, (name,))
    action = LOG_IN if row.get("logs_in") else RELOAD
    return Item("crit", what, _MENDING[action] if todo == what else todo, (name,), action)


def _plain(text: str, account: str) -> str:
    return text.removeprefix(f"account {account}: ").removeprefix(f"{account}: ")


def _ending(left: float) -> str:
    return f"Its session ends in {fmt.age(left)}" if left > 0 else "Its session has ended"


def _standing(row: Row) -> str:
    if row.get("unknown_orders"):
        return f"{fmt.count(row['unknown_orders'])} of its orders have an unknown outcome"
    return str(row.get("connection_text") or fmt.words(row.get("connection")))


def _together(found: Iterable[Item]) -> list[Item]:
    """Give what is the same for several accounts one line; each login is its own."""
    lines: dict[Item, list[str]] = {}
    for item in found:
        alike = item if item.action == LOG_IN else replace(item, ids=())
        lines.setdefault(alike, []).extend(item.ids)
    return [replace(item, ids=tuple(sorted(ids))) for item, ids in lines.items()]
