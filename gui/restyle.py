"""Another theme for the widgets that are there: those in sight at once, the others right after, a few at a time.

The colours of the style sheet are roles of the palette (``gui.theme``), so another theme leaves the sheet as it is. Qt
looks roles up when it first makes a widget's rules, and keeps those: ``QStyle.polish`` makes it look again. Setting the
sheet anew instead would polish every widget twice and have every layout measured again, for seven times the work.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

from PySide6.QtCore import QObject, QTimer
from PySide6.QtWidgets import QWidget
from shiboken6 import isValid

from gui.panel import Caption

PAINT_FIRST_MS: Final = 80
SLICE: Final = 60
"""Widgets out of sight that are polished in one turn of the loop: 2–3 ms."""


class Restyler(QObject):
    """Brings the palette's colours to a window's widgets."""

    def __init__(self, window: QWidget) -> None:
        super().__init__(window)
        self._window = window
        self._rest: list[QWidget] = []
        self._timer = QTimer(self)
        self._timer.timeout.connect(self._step)

    @property
    def done(self) -> bool:
        """Say whether every widget has the theme in force."""
        return not self._rest

    def restyle(self) -> None:
        """Give every widget the colours of the palette that is set."""
        seen: list[QWidget] = []
        self._rest = []
        for widget in [*self._window.findChildren(QWidget), self._window]:
            # Captions take their ink themselves, and would lose it.
            if not isinstance(widget, Caption):
                (seen if _in_sight(widget) else self._rest).append(widget)
        _polish(seen)
        self._timer.start(PAINT_FIRST_MS)

    def _step(self) -> None:
        self._timer.setInterval(0)
        now, self._rest = self._rest[:SLICE], self._rest[SLICE:]
        _polish(now)
        if not self._rest:
            self._timer.stop()


def _in_sight(widget: QWidget) -> bool:
    return widget.isVisible() and not widget.visibleRegion().isEmpty()


def _polish(widgets: Iterable[QWidget]) -> None:
    for widget in widgets:
        if isValid(widget):  # a dialog may have gone meanwhile
            widget.style().polish(widget)
            widget.update()
