"""What a person prefers: looks, formats, noise. Kept in HOME, in force at once.

Times, numbers and privacy live in ``gui.formatting``, colours in ``gui.theme``, words in ``gui.words``; this brings a
person's choice to them, and tells the window when what is already on screen must be written again.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from typing import Any, Final
from zoneinfo import ZoneInfo

from PySide6.QtCore import QObject, Signal

from gui import formatting as fmt
from gui import home_file, words
from gui.theme import PRICE_SCHEMES, SYSTEM, THEMES, active

FILE: Final = "preferences.json"
SEVERITIES: Final = ("info", "warning", "critical")
CHOICES: Final[dict[str, tuple[str, ...]]] = {
    "theme": (*THEMES, SYSTEM),
    "prices": PRICE_SCHEMES,
    "density": ("normal", "compact"),
    "zone": ("local", "utc", "exchange"),
    "numbers": (*fmt.Numbers.STYLES, "system"),
    "sound_from": SEVERITIES,
    "notify_from": SEVERITIES,
}


@dataclass(frozen=True, slots=True)
class Preferences:
    """One person's choices. ``scale``: text size in percent. ``sound_from``, ``notify_from``: severities."""

    theme: str = "dark"
    prices: str = "green_red"
    scale: int = 100
    density: str = "normal"
    zone: str = "local"
    exchange_zone: str = "America/New_York"
    numbers: str = "thin"
    language: str = "en"
    sounds: bool = True
    sound_from: str = "warning"
    notifications: bool = True
    notify_from: str = "critical"
    reduced_motion: bool = False
    private: bool = False


def is_zone(name: str) -> bool:
    """Say whether there is such a time zone."""
    try:
        ZoneInfo(name)
    except (KeyError, OSError, ValueError):
        return False
    return True


def _sound(name: str, value: Any, default: Any) -> Any:
    """Return a stored value if it can be one, else the default."""
    if type(value) is not type(default):
        return default
    if name in CHOICES:
        return value if value in CHOICES[name] else default
    if name == "exchange_zone":
        return value if is_zone(value) else default
    return max(80, min(value, 160)) if name == "scale" else value


def read(home: Path) -> Preferences:
    """Return what is kept in HOME; what makes no sense there is the default."""
    stored, plain = home_file.read(home / FILE), Preferences()
    found = {}
    for field in fields(Preferences):
        default = getattr(plain, field.name)
        found[field.name] = _sound(field.name, stored.get(field.name, default), default)
    return Preferences(**found)


class Settings(QObject):
    """The preferences in force. ``changed`` comes after they are; ``rewritten`` when texts on screen are old."""

    changed = Signal()
    rewritten = Signal()

    def __init__(self, home: Path, parent: QObject | None = None, **first: Any) -> None:
        super().__init__(parent)
        self.home = home
        self._shown = False
        self.now = replace(read(home), **first)
        self._apply()

    def change(self, **choices: Any) -> None:
        """Take other choices and keep them."""
        fresh = replace(self.now, **choices)
        if fresh == self.now:
            return
        old, self.now = self.now, fresh
        self._apply()
        home_file.write(self.home / FILE, asdict(fresh))
        texts = ("zone", "exchange_zone", "numbers", "private")
        if any(getattr(old, name) != getattr(fresh, name) for name in texts):
            self.rewritten.emit()
        self.changed.emit()

    def _apply(self) -> None:
        now = self.now
        fmt.Times.use(now.zone, now.exchange_zone)
        fmt.Numbers.use(now.numbers)
        fmt.Privacy.on = now.private
        words.use(now.language)
        theme = active()
        first, self._shown = (
            not self._shown,
            True,
        )  # the application's palette and font are Qt's until then
        looks = (now.theme, now.prices, now.scale, now.density == "compact", now.reduced_motion)
        if first or looks != (theme.choice, theme.prices, theme.scale, theme.compact, theme.still):
            theme.use(looks[0], prices=looks[1], scale=looks[2], compact=looks[3], still=looks[4])
