"""A recorded day, to be opened in a window of its own."""

from __future__ import annotations

import asyncio
from pathlib import Path

from PySide6.QtCore import QProcess
from PySide6.QtWidgets import QComboBox, QFileDialog, QHBoxLayout, QLineEdit, QPushButton, QWidget

from engine.client import days_at
from engine.errors import CommandRefused, TradingError
from gui.dialogs.base import Dialog
from gui.supervisor import own_command


class RecordingDialog(Dialog):
    """Subject: ``home``, where to look first."""

    WIDTH = 540

    def build(self) -> None:
        """Make the widgets."""
        self.heading(
            "Open a recorded day",
            "It opens beside this window, which goes on. A journal is read only; a running engine is not touched.",
        )
        self._place = QLineEdit(str(self.subject["home"]))
        self._place.editingFinished.connect(self._look)
        browse = QPushButton("Browse…")
        browse.setAutoDefault(False)
        browse.setAccessibleName("Choose a journal")
        browse.clicked.connect(self._browse)
        line = QWidget()
        both = QHBoxLayout(line)
        both.setContentsMargins(0, 0, 0, 0)
        both.addWidget(self._place, 1)
        both.addWidget(browse)
        self.field("Home or journal", line, "A home's folder, or a copy of its journal.sqlite3")
        self._place.setAccessibleName("Home or journal")
        self._days = QComboBox()
        self.field("Day (UTC)", self._days)
        self.buttons("Open", self._open, focus_go=True)
        self._looked = ""
        self._look()

    def _look(self) -> None:
        if self._place.text() != self._looked:
            self._looked = self._place.text()
            self.desk.spawn(self._find_days(self._looked), "Recorded days")

    async def _find_days(self, place: str) -> None:
        try:
            days = await asyncio.to_thread(days_at, Path(place))
        except TradingError as error:
            days = []
            if self.there():
                self.fail(str(error))
        if not self.there() or place != self._looked:
            return
        self._days.clear()
        self._days.addItems(days)
        if days:
            self._error.hide()

    def _browse(self) -> None:
        chooser = QFileDialog(
            self, "A copy of a journal", self._place.text(), "Journals (*.sqlite3);;All files (*)"
        )
        chooser.setFileMode(QFileDialog.FileMode.ExistingFile)
        chooser.fileSelected.connect(self._chosen)
        chooser.show()

    def _chosen(self, path: str) -> None:
        self._place.setText(path)
        self._look()

    def _open(self) -> None:
        if not self._days.currentText():
            self.fail("There is no recorded day to open.")
            return
        self.run(self._start(), "Open a recorded day")

    async def _start(self) -> None:
        line = own_command(
            "desk", "--replay", self._place.text(), "--day", self._days.currentText()
        )
        started, _ = QProcess.startDetached(line[0], line[1:])
        if not started:
            raise CommandRefused("NOT_STARTED", "the second window could not be started")
        self.desk.say(
            "ok", "Recorded day", f"{self._days.currentText()} opens in a window of its own."
        )
