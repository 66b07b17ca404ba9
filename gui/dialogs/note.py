"""A note on a signal, an order or a position."""

from __future__ import annotations

from PySide6.QtCore import Qt
from PySide6.QtGui import QKeySequence, QShortcut
from PySide6.QtWidgets import QLineEdit, QPlainTextEdit

from gui.dialogs.base import Dialog
from gui.theme import active

MOST = 2_000


class NoteDialog(Dialog):
    """Subject: ``on`` and ``key`` as in the command ``note``, ``name`` for people, ``row`` as it is."""

    WIDTH = 480

    def build(self) -> None:
        """Make the widgets."""
        row = self.subject["row"]
        self.heading(
            f"Note: {self.subject['name']}", "An empty note without tags removes what was there."
        )
        self._text = QPlainTextEdit(str(row.get("note") or ""))
        self._text.setAccessibleName("Note")
        self._text.setTabChangesFocus(True)
        self._text.setMinimumHeight(active().px(110))
        self._tags = QLineEdit(", ".join(row.get("tags") or ()))
        self._tags.setPlaceholderText("late, news, check")
        self.field("Note", self._text, f"At most {MOST} characters; Ctrl+Enter saves")
        self.field(
            "Tags",
            self._tags,
            "Words of letters, digits, dot, dash and underline, with commas between",
        )
        self.buttons("Save note", self._save)
        for key in ("Ctrl+Return", "Ctrl+Enter"):
            shortcut = QShortcut(QKeySequence(key), self)
            shortcut.activated.connect(self._save)
        self._text.setFocus(Qt.FocusReason.OtherFocusReason)

    def _save(self) -> None:
        text = self._text.toPlainText().strip()
        if len(text) > MOST:
            self.fail(f"{len(text):,} characters; at most {MOST:,} are kept.")
            return
        self.run(self._send(text), "Note")

    async def _send(self, text: str) -> None:
        tags = [tag for part in self._tags.text().split(",") if (tag := part.strip())]
        await self.desk.command(
            "note",
            on=self.subject["on"],
            key=self.subject["key"],
            text=text,
            tags=list(dict.fromkeys(tags)),
        )
        self.desk.say("ok", "Noted" if text or tags else "Note removed", str(self.subject["name"]))
