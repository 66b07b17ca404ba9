"""The report of a day, or an account's statement, written to a file."""

from __future__ import annotations

import asyncio
import tempfile
from datetime import UTC, datetime
from pathlib import Path

from PySide6.QtCore import QDate
from PySide6.QtWidgets import (
    QComboBox,
    QDateEdit,
    QFileDialog,
    QHBoxLayout,
    QLineEdit,
    QPushButton,
    QWidget,
)

from engine.errors import CommandRefused
from engine.model import tables
from gui.dialogs.base import Dialog
from gui.supervisor import own_command

FORMS = (
    ("html", "Web page (HTML)"),
    ("pdf", "Document (PDF)"),
    ("csv", "Table (CSV), one account"),
)
EVERYBODY = "All accounts: the report of the day"


class ReportDialog(Dialog):
    """Subject: nothing."""

    WIDTH = 540

    def build(self) -> None:
        """Make the widgets."""
        self.heading(
            "Report of a day",
            "Made from the journal by a process of its own; no order waits for it.",
        )
        self._day = QDateEdit(QDate(*datetime.now(UTC).timetuple()[:3]))
        self._day.setDisplayFormat("yyyy-MM-dd")
        self._day.setButtonSymbols(QDateEdit.ButtonSymbols.NoButtons)
        self.field("Day (UTC)", self._day, "Up and Down change the part the cursor is in")
        self._account = QComboBox()
        self._account.addItems([EVERYBODY, *sorted(self.desk.store.rows(tables.ACCOUNTS))])
        self.field("Of", self._account, "An account's statement has all its fills and orders")
        self._form = QComboBox()
        for form, title in FORMS:
            self._form.addItem(title, form)
        self.field("As", self._form)
        self._path = QLineEdit()
        browse = QPushButton("Browse…")
        browse.setAutoDefault(False)
        browse.setAccessibleName("Choose the file")
        browse.clicked.connect(self._browse)
        line = QWidget()
        both = QHBoxLayout(line)
        both.setContentsMargins(0, 0, 0, 0)
        both.addWidget(self._path, 1)
        both.addWidget(browse)
        self.field("File", line)
        self._path.setAccessibleName("File")
        self._named = ""
        for changed in (
            self._day.dateChanged,
            self._account.currentIndexChanged,
            self._form.currentIndexChanged,
        ):
            changed.connect(lambda *_: self._name())
        self._name()
        self.buttons("Write report", self._write, focus_go=True)

    def _name(self) -> None:
        """Name the file after what is in it, unless a person has."""
        if self._path.text() != self._named:
            return
        about = self._account_id() or "report"
        name = f"volley-{about}-{self._day_text()}.{self._form.currentData()}".replace(":", "-")
        self._named = str(Path.home() / name)
        self._path.setText(self._named)

    def _day_text(self) -> str:
        return self._day.date().toString("yyyy-MM-dd")

    def _account_id(self) -> str | None:
        return self._account.currentText() if self._account.currentIndex() else None

    def _browse(self) -> None:
        chooser = QFileDialog(self, "Write the report to", self._path.text())
        chooser.setAcceptMode(QFileDialog.AcceptMode.AcceptSave)
        chooser.fileSelected.connect(self._path.setText)
        chooser.show()

    def _write(self) -> None:
        if self._form.currentData() == "csv" and self._account_id() is None:
            self.fail(
                "A table is of one account: choose it, or take a page. Lists are exported from their panels."
            )
            return
        if not self._path.text().strip():
            self.fail("Name the file.")
            return
        self.run(self._make(Path(self._path.text().strip()).expanduser()), "Report")

    async def _make(self, path: Path) -> None:
        form = self._form.currentData()
        made = await self.desk.command(
            "report",
            day=self._day_text(),
            account=self._account_id(),
            form="csv" if form == "csv" else "html",
        )
        try:
            if form == "pdf":
                await _write_pdf(str(made["text"]), path)
            else:
                await asyncio.to_thread(path.write_text, str(made["text"]), "utf-8")
        except OSError as error:
            raise CommandRefused("NOT_WRITTEN", f"{path}: {error.strerror or error}") from None
        self.desk.say("ok", "Report written", str(path))


async def _write_pdf(html: str, path: Path) -> None:
    """Turn a page into a PDF in a process of its own: the drawing of a long one would hold up the window."""
    with tempfile.TemporaryDirectory(prefix="volley-report-", ignore_cleanup_errors=True) as folder:
        page = Path(folder) / "page.html"
        await asyncio.to_thread(page.write_text, html, "utf-8")
        argv = own_command("report", "--page", str(page), "--format", "pdf", "-o", str(path))
        process = await asyncio.create_subprocess_exec(
            *argv,
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.DEVNULL,
            stderr=asyncio.subprocess.PIPE,
        )
        _, said = await process.communicate()
        if process.returncode:
            raise OSError(said.decode("utf-8", "replace").strip()[-300:] or "it could not be drawn")
