"""Every code a refusal or an alert may carry: what it means, and whether an operator may force past it."""

from __future__ import annotations

from PySide6.QtCore import Qt
from PySide6.QtWidgets import QHBoxLayout, QLineEdit, QListWidget, QListWidgetItem, QPlainTextEdit

from engine.model.codes import CODES
from gui.dialogs.base import Dialog
from gui.words import tr

ROLE = 0x0100


class CodesDialog(Dialog):
    """Subject: ``code``, the one to show first (may be missing)."""

    WIDTH = 640

    def build(self) -> None:
        """Make the widgets."""
        self.heading(
            "Codes",
            "Why something was refused, or what an alert is about. Hover any code for its sentence.",
        )
        self.search = QLineEdit()
        self.search.setPlaceholderText(tr("Search codes, titles and explanations"))
        self.search.setAccessibleName(tr("Search codes"))
        self.search.setClearButtonEnabled(True)
        self.search.textChanged.connect(self.fill)
        self.page.addWidget(self.search)
        self.list = QListWidget()
        self.list.setAccessibleName(tr("Codes"))
        self.list.setMinimumHeight(340)
        self.list.setHorizontalScrollBarPolicy(Qt.ScrollBarPolicy.ScrollBarAlwaysOff)
        self.list.currentItemChanged.connect(lambda *_: self._show())
        self.text = QPlainTextEdit()
        self.text.setReadOnly(True)
        self.text.setTabChangesFocus(True)
        self.text.setAccessibleName(tr("What the code means"))
        halves = QHBoxLayout()
        halves.addWidget(self.list, 4)
        halves.addWidget(self.text, 5)
        self.page.addLayout(halves, 1)
        self.closing_line([])
        self.fill("")
        self.choose(str(self.subject.get("code") or ""))
        self.search.setFocus()

    def fill(self, text: str) -> None:
        """List what matches."""
        words = text.lower().split()
        self.list.clear()
        for code, info in sorted(CODES.items()):
            blob = f"{code} {info.title} {info.explanation}".lower()
            if all(word in blob for word in words):
                item = QListWidgetItem(f"{info.title}  ·  {code}")
                item.setData(ROLE, code)
                self.list.addItem(item)
        self.list.setCurrentRow(0)
        self._show()

    def choose(self, code: str) -> None:
        """Show a code, if there is such a one."""
        for at in range(self.list.count()):
            if self.list.item(at).data(ROLE) == code:
                self.list.setCurrentRow(at)

    def _show(self) -> None:
        item = self.list.currentItem()
        if item is None:
            self.text.setPlainText(tr("No code matches."))
            return
        code = str(item.data(ROLE))
        info = CODES[code]
        way = (
            "An operator may force one order past it, with a reason."
            if info.soft
            else "It cannot be forced."
        )
        self.text.setPlainText(f"{info.title}\n{code}\n\n{info.explanation}\n\n{tr(way)}")
