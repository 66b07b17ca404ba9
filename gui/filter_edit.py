"""The text filter of a table, and what is prepared while the cursor is in it."""

from __future__ import annotations

from typing import Final

from PySide6.QtCore import Qt, QTimer
from PySide6.QtGui import QFocusEvent, QKeyEvent
from PySide6.QtWidgets import QLineEdit

from gui.table_model import TableModel
from gui.theme import active

FILTER_TIP = (
    "Words that occur in the row, or terms on columns: symbol:NVDA  state:held,refused  side=buy  age<60  filled>=3\n"
    "-word: without it.  a|b: one of them.  Quotes keep blanks together.  ( / )"
)
AHEAD_S: Final = 0.003
AHEAD_MS: Final = 6
"""While the cursor is in the filter, rows are written for it so long, so often: the first key finds them done."""


class FilterEdit(QLineEdit):
    """The text filter of a table; Escape clears it. ``model``: the table, where a word is looked for in its rows."""

    def __init__(self, title: str, model: TableModel | None = None) -> None:
        super().__init__()
        self._model = model
        self._ahead = QTimer(self)
        self._ahead.setInterval(AHEAD_MS)
        self._ahead.timeout.connect(self.read_ahead)
        self.setPlaceholderText("Filter")
        self.setAccessibleName(f"Filter {title}")
        self.setToolTip(FILTER_TIP)
        self.setClearButtonEnabled(True)
        self.setMinimumWidth(
            active().px(76)
        )  # the word "Filter", or a symbol with the clear button
        self.setMaximumWidth(active().px(180))

    def tell(self, problem: str) -> None:
        """Mark what was not understood, and say why."""
        self.setToolTip(problem or FILTER_TIP)
        self.setAccessibleDescription(problem)
        if bool(self.property("invalid")) != bool(problem):
            self.setProperty("invalid", bool(problem))
            self.style().unpolish(self)
            self.style().polish(self)

    def read_ahead(self) -> None:
        """Have some more of the table's rows written; stops when all are."""
        if self._model is None or not self._model.read_ahead(AHEAD_S):
            self._ahead.stop()

    def focusInEvent(self, event: QFocusEvent) -> None:
        """Begin to write the rows."""
        super().focusInEvent(event)
        if self._model is not None:
            self._ahead.start()

    def focusOutEvent(self, event: QFocusEvent) -> None:
        """Give back what no filter needs."""
        super().focusOutEvent(event)
        self._ahead.stop()
        if self._model is not None:
            self._model.rest()

    def keyPressEvent(self, event: QKeyEvent) -> None:
        """Clear on Escape."""
        if event.key() == Qt.Key.Key_Escape:
            self.clear()
            return
        super().keyPressEvent(event)
