"""Another theme for the widgets that are there: those in sight at once, the others right after, a few at a time.

The colours of the style sheet are roles of the palette (``gui.theme``), so another theme leaves the sheet as it is. Qt
looks roles up when it first makes a widget's rules, and keeps those: ``QStyle.polish`` makes it look again. Setting the
sheet anew instead would polish every widget twice and have every layout measured again, for seven times the work.
"""

from __future__ import annotations

from collections.abc import Iterable
from time import perf_counter
from typing import Final

from PySide6.QtCore import QObject, Qt, QTimer
from PySide6.QtWidgets import QWidget
from shiboken6 import isValid

from gui.paint_later import PaintLater
from gui.panel import Caption, Restyled, seen

_DIRECT: Final = Qt.FindChildOption.FindDirectChildrenOnly
PAINT_FIRST_MS: Final = 80
SLICE_S: Final = 0.003
"""This much of one turn of the loop goes to widgets out of sight."""


class Restyler(QObject):
    """Brings the palette's colours to a window's widgets."""

    def __init__(self, window: QWidget) -> None:
        super().__init__(window)
        self._window = window
        self._rest: list[QWidget] = []
        self._painting = PaintLater(window)
        self._timer = QTimer(self)
        self._timer.timeout.connect(self._step)

    @property
    def done(self) -> bool:
        """Say whether every widget has the theme in force."""
        return not self._rest

    def restyle(self) -> None:
        """Give every widget the colours of the palette that is set.

        The window is painted in the next turn of the loop, all of it in the new colours: this one has worked enough.
        """
        self._painting.hold()
        now: list[QWidget] = []
        self._rest = []
        for top in self._window.findChildren(QWidget, options=_DIRECT):
            below = [top, *top.findChildren(QWidget)]
            if not seen(top):  # nor is anything in it, unless it is a window of its own
                self._rest += below
                continue
            for widget in below:
                (now if seen(widget) else self._rest).append(widget)
        _polish([*now, self._window])
        self._timer.start(PAINT_FIRST_MS)

    def raised(self, top: QWidget) -> None:
        """Give what is in a widget that comes into sight its colours now."""
        if self._rest:
            now = [widget for widget in self._rest if isValid(widget) and top.isAncestorOf(widget)]
            gone = set(now)
            self._rest = [widget for widget in self._rest if widget not in gone]
            _polish(now)

    def _step(self) -> None:
        self._timer.setInterval(0)
        until, at = perf_counter() + SLICE_S, 0
        try:
            while at < len(self._rest) and perf_counter() < until:
                at += 1
                _polish(self._rest[at - 1 : at])
        finally:  # one that cannot be polished is not tried for ever
            del self._rest[:at]
        if not self._rest:
            self._timer.stop()


def _polish(widgets: Iterable[QWidget]) -> None:
    for widget in widgets:
        if not isValid(widget):  # a dialog may have gone meanwhile
            continue
        if isinstance(widget, Restyled):
            widget.catch_up()
        # Captions take their ink themselves, and would lose it.
        if not isinstance(widget, Caption):
            widget.style().polish(widget)
            if seen(widget):
                widget.update()
