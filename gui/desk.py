"""The desk as panels and dialogs see it: the store, the engine's client, the commands, a voice."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

from PySide6.QtCore import QObject, Signal
from PySide6.QtWidgets import QWidget

from engine.client import EngineClient
from engine.errors import CommandRefused
from gui.bridge import Store
from gui.commands import Registry, Tasks, Work
from gui.notifications import Notifier
from gui.undo import Undo

if TYPE_CHECKING:
    from gui.layouts import Layouts
    from gui.preferences import Settings

_PIN_CODES = frozenset({"PIN_REQUIRED", "PIN_WRONG"})


class Desk(QObject):
    """What every panel and dialog is given: the store, the client, the registry, words to the user.

    Panels do not know each other or the dialogs; they ask here (``ask``, ``show_panel``, ``pick_signal``), and
    the window answers.
    """

    asked = Signal(str, dict)  # dialog, its subject
    panel_wanted = Signal(str)
    place_wanted = Signal(str, str)  # panel, the key of its row (or "/" and what to filter for)
    signal_picked = Signal(str)
    layout_touched = Signal()
    second = Signal()  # a second of the clock has begun

    def __init__(self, window: QWidget) -> None:
        super().__init__(window)
        self.window_widget = window
        self.store = Store(self)
        self.notifier = Notifier(window)
        self.tasks = Tasks(self.notifier)
        self.registry = Registry(window, self.spawn)
        self.undo = Undo(self.notifier, self.spawn, self.registry.refresh)
        self.client: EngineClient | None = None
        self.settings: Settings  # the window makes these two
        self.layouts: Layouts
        self.demo = False
        self.engine_here = True  # on this machine: a login may be made in the browser here
        self.signal_key: str | None = None
        self._pin_asked: asyncio.Future[str] | None = None

    def spawn(self, work: Work, title: str) -> None:
        """Run a coroutine of a command (kept, guarded)."""
        self.tasks.spawn(work, title)

    def say(self, severity: str, title: str, text: str = "") -> None:
        """Show a notice."""
        self.notifier.say(severity, title, text)

    def ask(self, dialog: str, **subject: Any) -> None:
        """Open a dialog by name."""
        self.asked.emit(dialog, subject)

    def show_panel(self, name: str) -> None:
        """Bring a panel to the front."""
        self.panel_wanted.emit(name)

    def go_to(self, panel: str, key: str) -> None:
        """Bring a panel to the front with a row of it selected; ``/WORD`` filters its rows instead."""
        self.place_wanted.emit(panel, key)

    def panel_title(self, name: str) -> str:
        """Return what a panel is called on screen."""
        command = self.registry.commands.get(f"panel.{name}")
        return command.title.removeprefix("Show ") if command else name

    def pick_signal(self, key: str | None) -> None:
        """Make a signal the one that others show details of."""
        if key and key != self.signal_key:
            self.signal_key = key
            self.signal_picked.emit(key)

    def _engine(self) -> EngineClient:
        if self.client is None:
            raise CommandRefused("NO_ENGINE", "The engine is not there yet.")
        return self.client

    async def command(self, name: str, **fields: Any) -> dict[str, Any]:
        """Send an operator's command, with the PIN if it needs one; raises ``CommandRefused``."""
        while True:
            try:
                return await self._engine().command(name, **fields)
            except CommandRefused as refusal:
                if refusal.code not in _PIN_CODES or not (pin := await self._pin(refusal.message)):
                    raise
                fields["pin"] = pin

    async def _pin(self, text: str) -> str:
        """Ask for the PIN; those that need it at the same time share one answer."""
        if self._pin_asked is None or self._pin_asked.done():
            asked: asyncio.Future[str] = asyncio.get_running_loop().create_future()
            self._pin_asked = asked

            def answer(pin: str) -> None:
                if not asked.done():
                    asked.set_result(pin)

            self.ask("pin", text=text, answer=answer)
        return await asyncio.shield(self._pin_asked)

    async def send_signal(self, document: dict[str, Any]) -> dict[str, Any]:
        """Send a signal; raises ``CommandRefused``."""
        return await self._engine().send_signal(document)

    async def signal_detail(self, key: str) -> dict[str, Any]:
        """Return one signal with its rows per account; raises ``CommandRefused``."""
        return await self._engine().signal_detail(key)

    async def each(self, title: str, command: str, subjects: list[dict[str, Any]]) -> None:
        """Send one command per subject at the same time and say how many were taken."""
        answers = await asyncio.gather(
            *(self.command(command, **fields) for fields in subjects), return_exceptions=True
        )
        refused = [answer for answer in answers if isinstance(answer, BaseException)]
        done = len(answers) - len(refused)
        if not refused:
            self.say("ok", title, f"{done} of {done} taken by the engine.")
            return
        first = refused[0]
        if not isinstance(first, CommandRefused):
            raise first
        text = f"{done} of {len(answers)} taken. First refusal: {first.message} ({first.code})"
        self.say("warning", title, text)
