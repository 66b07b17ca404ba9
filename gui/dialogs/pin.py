"""The operator's PIN, asked for when a command needs it."""

from __future__ import annotations

from PySide6.QtWidgets import QLineEdit

from gui.dialogs.base import Dialog


class PinDialog(Dialog):
    """Subject: ``text``, why it is asked for, and ``answer``, called with the PIN or with an empty text."""

    def build(self) -> None:
        """Make the widgets."""
        self.heading("Your PIN", self.subject["text"])
        self._edit = QLineEdit()
        self._edit.setEchoMode(QLineEdit.EchoMode.Password)
        self._edit.setMaxLength(64)
        self.field(
            "PIN", self._edit, "It goes to the engine with this one command and is kept nowhere"
        )
        self.buttons("Go on", self.accept, focus_go=True)
        self._edit.setFocus()
        self.finished.connect(self._answer)

    def _answer(self, result: int) -> None:
        pin = self._edit.text() if result else ""
        self._edit.clear()
        self.subject["answer"](pin)
