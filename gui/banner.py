"""Banners: conditions that last and that money depends on, worst first, across the top of the window."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from PySide6.QtGui import QPainter, QPaintEvent
from PySide6.QtWidgets import QHBoxLayout, QPushButton, QSizePolicy, QWidget

from gui.panel import Caption
from gui.theme import active

ORDER = ("kill", "crash", "link", "stale", "halted", "unprotected", "unknown", "other")


@dataclass(frozen=True, slots=True)
class Condition:
    """Something that lasts: its tone, one sentence, and what can be done about it."""

    tone: str
    text: str
    button: str = ""
    run: Callable[[], object] | None = None


class Banner(QWidget):
    """Shows the worst condition, and how many more there are."""

    def __init__(self) -> None:
        super().__init__()
        self.conditions: dict[str, Condition] = {}
        self.shown = ""
        self.setObjectName("banner")
        self.setAccessibleName("Condition")
        self.setSizePolicy(QSizePolicy.Policy.Expanding, QSizePolicy.Policy.Fixed)
        self._text = Caption("", 12.5, 500, "text")
        self._more = Caption("", 12)
        self._button = QPushButton()
        self._button.setAccessibleName("What can be done")
        self._button.clicked.connect(self._act)
        line = QHBoxLayout(self)
        line.setContentsMargins(14, 5, 10, 5)
        line.setSpacing(12)
        line.addWidget(self._text)
        line.addStretch(1)
        line.addWidget(self._more)
        line.addWidget(self._button)
        self.visible_changed: Callable[[bool], None] = lambda _on: None

    def set_condition(self, name: str, condition: Condition | None) -> None:
        """Raise a condition, change it, or clear it."""
        if self.conditions.get(name) == condition:
            return
        if condition is None:
            del self.conditions[name]
        else:
            self.conditions[name] = condition
        self._show()

    def _show(self) -> None:
        known = [name for name in ORDER if name in self.conditions]
        self.visible_changed(bool(known))
        if not known:
            self.shown = ""
            return
        another, self.shown = known[0] != self.shown, known[0]
        worst = self.conditions[self.shown]
        self._text.setText(worst.text)
        if another:
            self._text.hold()
        self.setAccessibleDescription(worst.text)
        self._more.setText(f"+{len(known) - 1} more" if len(known) > 1 else "")
        self._button.setVisible(bool(worst.button))
        self._button.setText(worst.button)
        self._button.setAccessibleName(worst.button or "What can be done")
        self.update()

    def _act(self) -> None:
        condition = self.conditions.get(self.shown)
        if condition and condition.run:
            condition.run()

    def paintEvent(self, _event: QPaintEvent) -> None:
        """Paint the ground in the tone, with a strong edge: seen, not shouting over the tables."""
        condition = self.conditions.get(self.shown)
        if condition is None:
            return
        theme = active()
        painter = QPainter(self)
        painter.fillRect(self.rect(), theme.colors["surface"])
        painter.fillRect(self.rect(), theme.color(condition.tone, 36))
        painter.fillRect(0, 0, 4, self.height(), theme.colors[condition.tone])
        painter.end()
