"""Short words about what just happened, kept for the record; ``gui.toasts`` puts them on screen."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime

from PySide6.QtCore import QObject, Signal

KEPT = 500


@dataclass(slots=True)
class Notice:
    """One thing said: severity (``info``, ``ok``, ``warning``, ``critical``), a title and a sentence.

    ``act``, if it is given, is offered as a button ``action`` for ``stay_ms`` milliseconds.
    """

    severity: str
    title: str
    text: str
    at: datetime
    times: int = 1
    action: str = ""
    act: Callable[[], None] | None = None
    stay_ms: int = 0


class Notifier(QObject):
    """Takes what there is to say and remembers it; emits each notice once."""

    said = Signal(object)

    def __init__(self, parent: QObject | None = None) -> None:
        super().__init__(parent)
        self.history: list[Notice] = []

    def say(self, severity: str, title: str, text: str = "") -> None:
        """Say something."""
        self._put(Notice(severity, title, text, datetime.now(UTC)))

    def offer(self, title: str, text: str, action: str, act: Callable[[], None], ms: int) -> None:
        """Say that something was done, with a button for ``ms`` milliseconds (undo)."""
        stamp = datetime.now(UTC)
        self._put(Notice("ok", title, text, stamp, action=action, act=act, stay_ms=ms))

    def _put(self, notice: Notice) -> None:
        self.history.append(notice)
        del self.history[:-KEPT]
        self.said.emit(notice)
