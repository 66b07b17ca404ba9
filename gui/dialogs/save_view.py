"""Asks for the name of a view that is to be kept."""

from __future__ import annotations

from PySide6.QtWidgets import QLineEdit

from gui.dialogs.base import Dialog


class SaveViewDialog(Dialog):
    """Subject: ``title`` of the table, ``names`` already given, and ``save``, called with the name."""

    def build(self) -> None:
        """Make the widgets."""
        self.heading(
            f"Save a view of {self.subject['title']}",
            "Filter, columns and order are kept under a name, with the layout.",
        )
        self._name = QLineEdit()
        self._name.setMaxLength(40)
        self.field("Name", self._name, "A name that is there already is given to this view")
        self.buttons("Save", self._on_go, focus_go=True)
        self._name.setFocus()

    def _on_go(self) -> None:
        name = " ".join(self._name.text().split())
        if not name:
            self.fail("Give it a name.")
            return
        self.subject["save"](name)
        self.desk.say("ok", f"View saved: {name}", str(self.subject["title"]))
        self.accept()
