"""A window that is painted in a turn of the loop of its own, after one that has worked enough."""

from __future__ import annotations

from PySide6.QtCore import QCoreApplication, QEvent, QObject, QTimer
from PySide6.QtWidgets import QWidget


class PaintLater(QObject):
    """Keeps back the painting of a window; whatever else waits for the loop comes in between.

    Qt counts the painting as asked for all the while, so nothing is lost. (It is when ``setUpdatesEnabled`` is used for
    this: after the second time in a row Qt never paints the window again.)
    """

    def __init__(self, window: QWidget) -> None:
        super().__init__(window)
        self._window = window

    def hold(self) -> None:
        """Paint what this turn of the loop asks for in the next one."""
        self._window.installEventFilter(self)

    def eventFilter(self, _watched: QObject, event: QEvent) -> bool:
        """Swallow Qt's next request to paint; ``_paint`` makes it again."""
        if event.type() is not QEvent.Type.UpdateRequest:
            return False
        self._window.removeEventFilter(self)
        QTimer.singleShot(0, self, self._paint)
        return True

    def _paint(self) -> None:
        QCoreApplication.postEvent(self._window, QEvent(QEvent.Type.UpdateRequest))
