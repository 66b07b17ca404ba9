"""Short words about what just happened, kept for the record; ``gui.toasts`` puts them on screen."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime

from PySide6.QtCore import QObject, Signal

KEPT = 500


@dataclass(slots=True)
class Notice:
    """One thing said: severity (``info``, ``ok``, ``warning``, ``critical``), a title and a sentence."""

    severity: str
    title: str
    text: str
    at: datetime
    times: int = 1


class Notifier(QObject):
    """Takes what there is to say and remembers it; emits each notice once."""

    said = Signal(object)

    def __init__(self, parent: QObject | None = None) -> None:
        super().__init__(parent)
        self.history: list[Notice] = []

    def say(self, severity: str, title: str, text: str = "") -> None:
        """Say something."""
        notice = Notice(severity, title, text, datetime.now(UTC))
        self.history.append(notice)
        del self.history[:-KEPT]
        self.said.emit(notice)
