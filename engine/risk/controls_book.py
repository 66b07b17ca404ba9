"""The thirty controls at work (table ``controls``): how each is set, what it refused, which tripped or fail."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from engine.model.controls import BY_CODE, CONTROLS, Control

Setting = tuple[bool, str]
"""Whether a control is on, and how it is set, in words."""
_CONTROLS: Mapping[str, Control] = {control.number: control for control in CONTROLS}


@dataclass(slots=True)
class _Entry:
    refusals: int = 0
    last_at: str | None = None
    last_code: str = ""
    last_account: str = ""
    last_text: str = ""
    tripped: dict[str, str] = field(
        default_factory=dict
    )  # what tripped (an account, a broker, …) → why
    failing: dict[str, str] = field(default_factory=dict)


class ControlsBook:
    """One row per control. Counts begin with the process; whatever keeps a control tripped is durable elsewhere.

    ``stamp`` tells the time as RFC 3339, ``changed`` hears the number of every row that changed, ``settings`` says of
    every control whether it is on and how it is set; it is asked again after ``renew`` only.
    """

    def __init__(
        self,
        stamp: Callable[[], str],
        changed: Callable[[str], None],
        settings: Callable[[], Mapping[str, Setting]],
    ) -> None:
        self._stamp = stamp
        self._changed = changed
        self._settings = settings
        self._set: Mapping[str, Setting] | None = None  # as it was last asked
        self._entries = {number: _Entry() for number in _CONTROLS}

    # ---- what happens ----------------------------------------------------------------------------------------

    def refused(self, code: str, account: str, text: str) -> None:
        """Count one refusal with the control its code belongs to; codes of no control are none of ours."""
        number = BY_CODE.get(code)
        if number is not None:
            self._entries[number].refusals += 1
            self._note(number, code, account, text)

    def refused_all(self, reasons: Mapping[str, tuple[str, str]]) -> None:
        """Count the refusals of a plan: account → code and sentence."""
        for account, (code, text) in reasons.items():
            if code in BY_CODE:
                self.refused(code, account, text)

    def told(self, code: str, account: str, text: str) -> None:
        """Take an alert: the newest thing a control has done, if its code belongs to one."""
        number = BY_CODE.get(code)
        if number is not None:
            self._note(number, code, account, text)

    def trip(
        self, number: str, text: str, *, code: str = "", account: str = "", key: str = ""
    ) -> None:
        """Show a control as tripped until ``clear`` is called with the same ``key``.

        ``key`` names what tripped where several may at once: a broker, a strategy; the account where it is left out.
        """
        self._entries[number].tripped[key or account] = text
        self._note(number, code, account, text)

    def fail(self, number: str, text: str, *, key: str = "") -> None:
        """Show that a control cannot do its work, until ``clear`` is called with the same ``key``."""
        self._entries[number].failing[key] = text
        self._note(number, "", "", text)

    def clear(self, number: str, key: str = "") -> None:
        """Show that what tripped or failed under ``key`` is over."""
        entry = self._entries[number]
        was_tripped = entry.tripped.pop(key, None)
        was_failing = entry.failing.pop(key, None)
        if was_tripped is not None or was_failing is not None:
            self._changed(number)

    def _note(self, number: str, code: str, account: str, text: str) -> None:
        entry = self._entries[number]
        entry.last_at = self._stamp()
        entry.last_code, entry.last_account, entry.last_text = code, account, text
        self._changed(number)

    def renew(self) -> None:
        """Take the news that accounts or their limits have changed, and with them how controls are set."""
        self._set = None
        for number in _CONTROLS:
            self._changed(number)

    # ---- what is told ----------------------------------------------------------------------------------------

    def is_tripped(self, number: str, key: str = "") -> bool:
        """Say whether a control is tripped for ``key``."""
        return key in self._entries[number].tripped

    def keys(self) -> Iterable[str]:
        """Return the numbers of all controls."""
        return list(_CONTROLS)

    def row(self, number: str) -> dict[str, Any] | None:
        """Return a row of ``controls``."""
        control, entry = _CONTROLS.get(number), self._entries.get(number)
        if control is None or entry is None:
            return None
        if self._set is None:
            self._set = self._settings()
        on, words = self._set[number]
        return {
            "number": number,
            "title": control.title,
            "state": _state(entry, on=on),
            "setting": words,
            "refusals": entry.refusals,
            "last_at": entry.last_at,
            "last_code": entry.last_code,
            "last_account": entry.last_account,
            "last_text": _text(entry),
            "meaning": control.meaning,
        }


def _state(entry: _Entry, *, on: bool) -> str:
    if entry.failing:
        return "failing"
    if entry.tripped:
        return "tripped"
    return "on" if on else "off"


def _text(entry: _Entry) -> str:
    """Return what keeps a control tripped or failing, else what it did last."""
    standing = [*entry.failing.values(), *entry.tripped.values()]
    if not standing:
        return entry.last_text
    more = f" (and {len(standing) - 1} more)" if len(standing) > 1 else ""
    return f"{standing[-1]}{more}"
