"""Facts before something large: what, how much, and a button to press or to hold."""

from __future__ import annotations

from gui.commands import HOLD
from gui.dialogs.base import Dialog


class ConfirmDialog(Dialog):
    """Subject: ``title``, ``facts``, ``go``, ``run`` (makes the coroutine), ``danger``; ``back`` when it is not."""

    def build(self) -> None:
        """Make the widgets."""
        self.heading(self.subject["title"])
        self.facts(self.subject["facts"])
        if "back" in self.subject:
            self.rejected.connect(self.subject["back"])
        self.buttons(self.subject["go"], self._on_go, hold=self.subject["danger"] >= HOLD)

    def _on_go(self) -> None:
        self.run(self.subject["run"](), self.subject["title"])
