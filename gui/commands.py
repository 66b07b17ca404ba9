"""What can be done: one registry that feeds menus, buttons, keys and the command palette; and how it is done.

``spawn`` runs a coroutine of a command: it keeps the task, and turns a refusal or a failure into a toast.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Coroutine, Iterable
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

from PySide6.QtCore import QObject, Qt, Signal
from PySide6.QtGui import QAction, QKeySequence
from PySide6.QtWidgets import QMenu, QPushButton, QWidget

from engine.errors import CommandRefused
from gui.notifications import Notifier
from gui.theme import icon
from gui.words import tr

log = logging.getLogger(__name__)
Work = Coroutine[Any, Any, None]

SAFE = 0  # runs at once
UNDOABLE = 1
CONFIRM = 2  # asks, with facts; the safe button has the focus
HOLD = 3  # asks to hold a button
SETTLE_AGAIN = 4  # seconds


@dataclass(slots=True)
class Command:
    """One thing a person can do.

    ``danger``: how much friction its own flow puts before it. ``enabled`` is asked before it is offered, and again
    before it runs. ``scope``: the widget whose focus gives the shortcut its meaning; ``None`` for the whole desk.
    ``shortcut`` are the keys in force, ``default`` those it came with.
    """

    id: str
    title: str
    run: Callable[[], Work | None]
    keywords: str = ""
    shortcut: str = ""
    group: str = "Desk"
    danger: int = SAFE
    icon: str = ""
    enabled: Callable[[], bool] = lambda: True
    scope: QWidget | None = None
    checked: Callable[[], bool] | None = None
    about: str = ""
    default: str = ""


class Tasks:
    """Keeps the tasks that commands started: asyncio alone would let them be collected."""

    def __init__(self, notifier: Notifier) -> None:
        self._notifier = notifier
        self._tasks: set[asyncio.Task[None]] = set()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._stopped = False

    def spawn(self, work: Work, title: str) -> None:
        """Run ``work``; a refusal or a failure is said under ``title``. Once stopped, nothing is begun any more."""
        # Qt hands out events also while asyncio's loop rests between two runs.
        with suppress(RuntimeError):
            self._loop = asyncio.get_running_loop()
        if self._stopped or self._loop is None or self._loop.is_closed():
            work.close()
            return
        task = self._loop.create_task(self._guard(work, title), name=title)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        # One cancelled before its first step never came to its work.
        task.add_done_callback(lambda _task: work.close())

    async def _guard(self, work: Work, title: str) -> None:
        try:
            await work
        except CommandRefused as refusal:
            self._notifier.say("warning", title, f"{refusal.message} ({refusal.code})")
        except Exception as error:
            log.exception("command failed: %s", title)
            self._notifier.say("critical", f"{title} failed", f"{type(error).__name__}: {error}")

    async def stop(self) -> None:
        """Cancel what still runs and wait for its end."""
        self._stopped = True
        tasks = list(self._tasks)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


class Registry(QObject):
    """Every command by id, each with one ``QAction`` that menus and buttons share."""

    refreshed = Signal()

    def __init__(self, window: QWidget, start: Callable[[Work, str], object]) -> None:
        super().__init__(window)
        self._window = window
        self._start = start
        self.commands: dict[str, Command] = {}
        self.actions: dict[str, QAction] = {}
        self._told = -1
        self._settled = 0
        self.chosen_keys: dict[str, str] = {}
        """Keys a person chose, by command; read before the first command is added."""

    def add(self, command: Command) -> QAction:
        """Register a command; its shortcut works from then on."""
        command.default = command.shortcut
        command.shortcut = self.chosen_keys.get(command.id, command.default)
        command.title, command.about = tr(command.title), tr(command.about)
        command.group = tr(command.group)
        action = QAction(command.title, self._window)
        action.setObjectName(command.id)
        if command.icon:
            action.setIcon(icon(command.icon))
        if command.about:
            action.setToolTip(command.about)
            action.setStatusTip(command.about)
        action.setShortcuts(sequences(command.shortcut))
        action.setAutoRepeat(False)  # a held key is one order, not twenty
        action.setCheckable(command.checked is not None)
        self._scope(action, command)
        action.triggered.connect(lambda: self.run(command.id))
        self.commands[command.id] = command
        self.actions[command.id] = action
        return action

    def _scope(self, action: QAction, command: Command) -> None:
        context = Qt.ShortcutContext
        if command.scope is not None:
            action.setShortcutContext(context.WidgetWithChildrenShortcut)
            command.scope.addAction(action)
        else:
            action.setShortcutContext(context.ApplicationShortcut)
            self._window.addAction(action)

    def remove(self, name: str) -> None:
        """Forget a command (a layout that was deleted)."""
        command, action = self.commands.pop(name), self.actions.pop(name)
        (command.scope or self._window).removeAction(action)
        action.deleteLater()

    def rebind(self, name: str, keys: str) -> None:
        """Give a command other keys (``Ctrl+K | F2``, empty for none) from now on."""
        self.commands[name].shortcut = keys
        self.actions[name].setShortcuts(sequences(keys))

    def means(self, name: str, key: QKeySequence) -> bool:
        """Say whether a key press is one of a command's."""
        return key in sequences(self.commands[name].shortcut)

    def add_all(self, commands: Iterable[Command]) -> None:
        """Register several commands."""
        for command in commands:
            self.add(command)

    def run(self, name: str) -> None:
        """Run a command if it may run now."""
        command = self.commands[name]
        if not command.enabled():
            return
        work = command.run()
        if work is not None:
            self._start(work, command.title)
        self.refresh()

    def refresh(self) -> None:
        """Ask every command whether it may run now, and show it."""
        for name, command in self.commands.items():
            action = self.actions[name]
            on = command.enabled()
            if action.isEnabled() != on:
                action.setEnabled(on)
            if command.checked is not None and action.isChecked() != command.checked():
                action.setChecked(command.checked())
        self.refreshed.emit()

    def settle(self, told: int) -> None:
        """Refresh if more was told since; at every fourth call in any case, for what nobody tells."""
        self._settled += 1
        if told != self._told or self._settled >= SETTLE_AGAIN:
            self._told, self._settled = told, 0
            self.refresh()

    def unsettle(self) -> None:
        """Refresh when next asked to settle (the focus is elsewhere)."""
        self._told = -1

    def restyle(self) -> None:
        """Redraw icons in the colours of the theme."""
        for name, command in self.commands.items():
            if command.icon:
                self.actions[name].setIcon(icon(command.icon))

    def fill(self, menu: QMenu, names: Iterable[str]) -> None:
        """Put commands into a menu; an empty name draws a line."""
        self.refresh()
        for name in names:
            if name:
                menu.addAction(self.actions[name])
            else:
                menu.addSeparator()

    def button(self, name: str, text: str = "", variant: str = "") -> QPushButton:
        """Return a button for a command; it follows the command's state."""
        command, action = self.commands[name], self.actions[name]
        button = QPushButton(tr(text) or command.title.rstrip("…"))
        button.setObjectName(name + ".button")
        button.setAccessibleName(command.title)
        button.setAutoDefault(False)
        if variant:
            button.setProperty("variant", variant)
        if command.checked is not None:
            button.setCheckable(True)
        button.clicked.connect(lambda: self.run(name))

        def follow() -> None:
            keys = f" ({command.shortcut.split(' | ')[0]})" if command.shortcut else ""
            button.setToolTip((command.about or command.title) + keys)
            button.setEnabled(action.isEnabled())
            if button.isCheckable():
                button.setChecked(action.isChecked())

        action.changed.connect(follow)
        action.toggled.connect(follow)
        follow()
        return button


def sequences(keys: str) -> list[QKeySequence]:
    """Return the key sequences of a command's ``shortcut`` text."""
    return [QKeySequence(key) for key in keys.split(" | ") if key]
