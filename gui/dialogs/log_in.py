"""A broker's daily login: the engine listens, the browser asks the person, the account connects by itself."""

from __future__ import annotations

from typing import Any

from PySide6.QtCore import QTimer, QUrl
from PySide6.QtGui import QDesktopServices, QGuiApplication
from PySide6.QtWidgets import QLineEdit, QPushButton

from engine.client import Row
from engine.errors import CommandRefused
from engine.model import tables
from gui import formatting as fmt
from gui.dialogs.base import Dialog
from gui.panel import Caption, row_of

LOOK_MS = 200


class LogInDialog(Dialog):
    """Subject: ``account``, its row. The token goes from the broker to the engine; the desk never has it."""

    WIDTH = 520

    def build(self) -> None:
        """Make the widgets and ask the engine for the address."""
        row = self.subject["account"]
        name = f" ({row['name']})" if row.get("name") else ""
        where = "your browser" if self.desk.engine_here else "a browser on the engine's machine"
        self.heading(
            f"Log in account {row['id']}{name}",
            f"{fmt.words(row.get('broker'))} wants a login each day. It is made in {where}; when you are through, "
            "the account connects by itself.",
        )
        self._url = QLineEdit()
        self._url.setReadOnly(True)
        self._url.setPlaceholderText("Asking the engine…")
        self._copy = QPushButton("Copy")
        self._copy.setAccessibleName("Copy the address")
        self._copy.setAutoDefault(False)
        self._copy.setEnabled(False)
        self._copy.clicked.connect(lambda: QGuiApplication.clipboard().setText(self._url.text()))
        self.field(
            "Address", row_of(self._url, self._copy), "Good for one login; it holds no token"
        )
        self._url.setAccessibleName("Address to log in at")
        self.state = Caption("", 12.5, 500, "text")
        self.state.setWordWrap(True)
        self.state.setAccessibleName("How the login stands")
        self.page.addWidget(self.state)
        self.buttons("Open in the browser", self._open, focus_go=True)
        self._enable(on=False)
        self._look = QTimer(self)
        self._look.setInterval(LOOK_MS)
        self._look.timeout.connect(self._watch)
        self.desk.spawn(self._begin(), f"Log in {row['id']}")

    def _enable(self, *, on: bool) -> None:
        self._copy.setEnabled(on)
        if self._go is not None:
            self._go.setEnabled(on)

    def _row(self) -> Row:
        row: dict[str, Any] = self.subject["account"]
        return self.desk.store.rows(tables.ACCOUNTS).get(str(row["id"]), row)

    async def _begin(self) -> None:
        try:
            answer = await self.desk.command("log_in", account=self.subject["account"]["id"])
        except CommandRefused as refusal:
            if not self.there():
                raise
            self._url.setPlaceholderText("none")
            self.fail(f"{refusal.message} ({refusal.code})")
            self._enable(on=False)
            return
        if not self.there():
            return
        url = str(answer.get("url") or "")
        if QUrl(url).scheme() not in {"https", "http"}:
            self.fail("The engine gave no address of a web page.")
            self._enable(on=False)
            return
        self.subject["account"] = self._row()
        self._url.setText(url)
        self._url.setCursorPosition(0)
        self._enable(on=True)
        self._look.start()
        if self.desk.engine_here:
            self._open()
        else:
            self.state.setText(
                "Open this address on the engine's machine: the broker sends the browser back there."
            )

    def _open(self) -> None:
        opened = QDesktopServices.openUrl(QUrl(self._url.text()))
        self.state.setText(
            "Waiting for you to log in, in the browser…"
            if opened
            else "No browser could be opened here; copy the address into one."
        )

    def _watch(self) -> None:
        """Close when the account is connected; say what the engine says of it until then."""
        before, row = self.subject["account"], self._row()
        renewed = row.get("session_expires_at") != before.get("session_expires_at")
        if row.get("connection") == "connected" and (
            before.get("connection") != "connected" or renewed
        ):
            until = row.get("session_expires_at")
            text = f"Its session ends {fmt.Times.full(until)}." if until else "It is connected."
            self.desk.say("ok", f"Logged in: {row['id']}", text)
            self.accept()
            return
        said = _said(row)
        if said and said != _said(before):
            self.subject["account"] = row
            self.fail(said)


def _said(row: Row) -> str:
    """Return the engine's last word on an account that is not connected."""
    return str(row.get("todo") or row.get("connection_text") or "")
