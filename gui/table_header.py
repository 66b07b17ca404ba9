"""The header of tables: sorting by several columns, and a first column that stays in sight."""

from __future__ import annotations

from PySide6.QtCore import QRect, Qt, Signal
from PySide6.QtGui import QMouseEvent, QPainter, QPaintEvent
from PySide6.QtWidgets import QHeaderView, QWidget

from gui.theme import active


class TableHeader(QHeaderView):
    """A horizontal header. ``frozen``: its first section stays at the left edge while the rest scrolls below it."""

    sort_wanted = Signal(int, bool)  # column, whether as well as those before (Shift)

    def __init__(self, parent: QWidget) -> None:
        super().__init__(Qt.Orientation.Horizontal, parent)
        self.frozen = False
        self._more = False
        self.sectionClicked.connect(lambda column: self.sort_wanted.emit(column, self._more))

    def first(self) -> int:
        """Return the column at the left edge."""
        shown = (self.logicalIndex(place) for place in range(self.count()))
        return next((column for column in shown if not self.isSectionHidden(column)), 0)

    def frozen_width(self) -> int:
        """Return how wide the part is that stays over what is scrolled below it, 0 for none."""
        return self.sectionSize(self.first()) if self.frozen and self.offset() > 0 else 0

    def mousePressEvent(self, event: QMouseEvent) -> None:
        """Note Shift; a click on the frozen section is its own, whatever lies below it."""
        self._more = bool(event.modifiers() & Qt.KeyboardModifier.ShiftModifier)
        left = event.button() is Qt.MouseButton.LeftButton
        if left and event.position().x() < self.frozen_width():
            self.sort_wanted.emit(self.first(), self._more)
            return
        super().mousePressEvent(event)

    def paintEvent(self, event: QPaintEvent) -> None:
        """Paint the sections, and the frozen one over them."""
        super().paintEvent(event)
        width = self.frozen_width()
        if width:
            painter = QPainter(self.viewport())
            box = QRect(0, 0, width, self.viewport().height())
            painter.fillRect(box, self.palette().button())
            self.paintSection(painter, box, self.first())
            painter.fillRect(QRect(width - 1, 0, 1, box.height()), active().colors["line"])
            painter.end()
