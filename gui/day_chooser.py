"""Which recorded day: a journal that is typed or browsed for, and the days it has."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from pathlib import Path

from PySide6.QtWidgets import QComboBox, QFileDialog, QHBoxLayout, QLineEdit, QPushButton, QWidget
from shiboken6 import isValid

from engine.client import days_at
from engine.errors import TradingError
from gui.desk import Desk


class DayChooser(QWidget):
    """The field of the journal; ``days`` is the one of its days, to be put beside. ``told`` takes what is wrong."""

    def __init__(self, desk: Desk, home: object, told: Callable[[str], None]) -> None:
        super().__init__()
        self._desk = desk
        self._told = told
        self._looked = ""
        self._place = QLineEdit(str(home))
        self._place.setAccessibleName("Home or journal")
        self._place.editingFinished.connect(self.look)
        browse = QPushButton("Browse…")
        browse.setAutoDefault(False)
        browse.setAccessibleName("Choose a journal")
        browse.clicked.connect(self._browse)
        line = QHBoxLayout(self)
        line.setContentsMargins(0, 0, 0, 0)
        line.addWidget(self._place, 1)
        line.addWidget(browse)
        self.setFocusProxy(self._place)
        self.days = QComboBox()

    @property
    def place(self) -> str:
        """Return the home or journal chosen."""
        return self._place.text()

    @property
    def day(self) -> str:
        """Return the day chosen, empty where there is none."""
        return self.days.currentText()

    def look(self) -> None:
        """Look which days there are, unless that is known."""
        if self.place != self._looked:
            self._looked = self.place
            self._desk.spawn(self._find_days(self._looked), "Recorded days")

    async def _find_days(self, place: str) -> None:
        days, problem = [], ""
        try:
            days = await asyncio.to_thread(days_at, Path(place))
        except TradingError as error:
            problem = str(error)
        if not isValid(self) or place != self._looked:
            return  # closed, or another was chosen meanwhile
        self.days.clear()
        self.days.addItems(days)
        self._told(problem)

    def _browse(self) -> None:
        chooser = QFileDialog(
            self, "A copy of a journal", self.place, "Journals (*.sqlite3);;All files (*)"
        )
        chooser.setFileMode(QFileDialog.FileMode.ExistingFile)
        chooser.fileSelected.connect(self._chosen)
        chooser.show()

    def _chosen(self, path: str) -> None:
        self._place.setText(path)
        self.look()
