"""A recorded day, to be opened in a window of its own."""

from __future__ import annotations

from PySide6.QtCore import QProcess

from engine.errors import CommandRefused
from gui.day_chooser import DayChooser
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
        self.chooser = DayChooser(self.desk, self.subject["home"], self.tell)
        self.field(
            "Home or journal", self.chooser, "A home's folder, or a copy of its journal.sqlite3"
        )
        self.field("Day (UTC)", self.chooser.days)
        self.buttons("Open", self._open, focus_go=True)
        self.chooser.look()

    def _open(self) -> None:
        if not self.chooser.day:
            self.fail("There is no recorded day to open.")
            return
        self.run(self._start(), "Open a recorded day")

    async def _start(self) -> None:
        place, day = self.chooser.place, self.chooser.day
        line = own_command("desk", "--replay", place, "--day", day)
        started, _ = QProcess.startDetached(line[0], line[1:])
        if not started:
            raise CommandRefused("NOT_STARTED", "the second window could not be started")
        self.desk.say("ok", "Recorded day", f"{day} opens in a window of its own.")
