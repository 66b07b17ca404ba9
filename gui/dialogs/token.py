"""The token of an engine elsewhere."""

from __future__ import annotations

from PySide6.QtWidgets import QLineEdit

from gui.dialogs.base import Dialog


class TokenDialog(Dialog):
    """Subject: ``url`` and ``answer``, called with the token, or with an empty text when there is none."""

    def build(self) -> None:
        """Make the widgets."""
        self.heading(
            "Token of the engine",
            f"{self.subject['url']} asks for its bearer token (HOME/token there).",
        )
        self._edit = QLineEdit()
        self._edit.setEchoMode(QLineEdit.EchoMode.Password)
        self.field("Token", self._edit)
        self.buttons("Connect", self.accept, focus_go=True)
        self._edit.setFocus()
        self.finished.connect(
            lambda result: self.subject["answer"](self._edit.text().strip() if result else "")
        )
