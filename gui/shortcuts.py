"""Keys a person chose: kept in HOME, checked before they are taken.

A key means one thing where it is pressed: two commands of the whole desk, or one of the desk and one of a panel, may
not share one. Commands of the whole desk need a modifier or a function key, for a letter there would be typed into
them by accident. The kill switch may get another key, never none.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Final

from PySide6.QtGui import QKeySequence

from gui import home_file
from gui.commands import Command, Registry, sequences

FILE: Final = "shortcuts.json"
KILL: Final = "trading.kill"
CHEAT_SHEET: Final = "desk.shortcuts"  # its "?" harms nobody
_HELD: Final = {"Ctrl", "Alt", "Meta"}
_FUNCTION_KEY: Final = re.compile(r"F\d{1,2}")
_RESERVED: Final = frozenset({"Tab", "Shift+Tab", "Backtab", "Esc"})
"""Keys by which everything else is reached without a mouse."""


def read(home: Path) -> dict[str, str]:
    """Return the chosen keys by command, as kept; one that is no key is left out."""
    stored = home_file.read(home / FILE)
    kept = {
        name: keys
        for name, keys in stored.items()
        if isinstance(keys, str) and all(one.toString() for one in sequences(keys))
    }
    if not kept.get(KILL, "x"):
        del kept[KILL]
    return kept


def write(home: Path, registry: Registry) -> str:
    """Keep every key that is not the default; returns why it could not be written, else nothing."""
    registry.chosen_keys = {
        name: command.shortcut
        for name, command in registry.commands.items()
        if command.shortcut != command.default
    }
    return home_file.write(home / FILE, dict(registry.chosen_keys))


def meet(one: Command, other: Command) -> bool:
    """Say whether two commands hear the same key at some place of the desk."""
    return one.scope is None or other.scope is None or one.scope is other.scope


def taken_by(registry: Registry, name: str, key: QKeySequence) -> Command | None:
    """Return the command that already has a key where ``name`` would hear it."""
    me = registry.commands[name]
    for other in registry.commands.values():
        if other.id != name and meet(me, other) and key in sequences(other.shortcut):
            return other
    return None


def refusal(registry: Registry, name: str, key: QKeySequence) -> str:
    """Return why a command may not have a key, empty when it may; another command's key is no refusal."""
    if key.count() > 1:
        return "One key with its modifiers, not several after each other."
    if key.toString() in _RESERVED:
        return f"{key.toString()} moves the focus or answers dialogs; it cannot be given away."
    everywhere = registry.commands[name].scope is None and name != CHEAT_SHEET
    if everywhere and not _deliberate(key.toString()):
        return "A command of the whole desk needs Ctrl, Alt or a function key: a bare letter is typed by accident."
    return ""


def _deliberate(key: str) -> bool:
    held, _, last = key.rpartition("+")
    return bool(_HELD & set(held.split("+"))) or _FUNCTION_KEY.fullmatch(last) is not None


def give(registry: Registry, name: str, key: QKeySequence) -> None:
    """Give a command a key instead of its own; whoever had it loses it.

    Raises:
        ValueError: the kill switch would be left without a key.
    """
    other = taken_by(registry, name, key)
    while other is not None:
        left = " | ".join(one.toString() for one in sequences(other.shortcut) if one != key)
        if other.id == KILL and not left:
            raise ValueError("That key is the kill switch's only one; give that another key first.")
        registry.rebind(other.id, left)
        other = taken_by(registry, name, key)
    registry.rebind(name, key.toString())
