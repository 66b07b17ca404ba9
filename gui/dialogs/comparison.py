"""A day and its rerun side by side: sums of both, and every signal of every account with what came out otherwise."""

from __future__ import annotations

import asyncio
from pathlib import Path

from PySide6.QtCore import Qt
from PySide6.QtWidgets import (
    QCheckBox,
    QFileDialog,
    QHBoxLayout,
    QPlainTextEdit,
    QSplitter,
    QVBoxLayout,
    QWidget,
)

from engine.client import Row
from gui import formatting as fmt
from gui.dialogs.base import Dialog
from gui.filter_edit import FilterEdit
from gui.panel import Caption
from gui.rerun_table import LINE_COLUMNS, SUM_COLUMNS, Compared, NoComparisonError, read
from gui.table_model import Column, TableModel
from gui.table_view import TableView
from gui.theme import active
from gui.words import tr

WELCOME = (
    "No rerun is open",
    "Open a result that `volley replay … -o FILE.json` wrote, or run a day again from here.",
)
READING = ("Reading the rerun…", "Large days take a moment.")
NOTHING = ("Nothing to compare", "The run had no signal for any account.")
ALL_SAME = (
    "Everything came out as it was",
    "No outcome, reason, quantity, fill or state is another. Show all lines to see prices and times.",
)
NO_MATCH = ("No line fits the filter", "Clear it to see the others.")


class ComparisonDialog(Dialog):
    """Subject: ``path``, a rerun's file (may be absent), and ``home``, where reruns begin."""

    WIDTH = 900

    def build(self) -> None:
        """Make the widgets."""
        self.compared: Compared | None = None
        self.heading(
            "A day and its rerun",
            "Then: as it was recorded. Now: the same signals on a simulated venue.",
        )
        self.summary = Caption("", 13.5, 600, "text")
        self.summary.setAccessibleName(tr("What came out otherwise"))
        self.summary.hide()
        self.page.addWidget(self.summary)
        self.sums, self.sums_view = self._table(SUM_COLUMNS, "rerun.sums", "Sums, then and now")
        self.lines, self.view = self._table(
            LINE_COLUMNS, "rerun.lines", "Signals and accounts, then and now"
        )
        self.lines.keep = self._kept
        self.lines.searched = self._count
        self.notes = QPlainTextEdit()
        self.notes.setReadOnly(True)
        self.notes.setTabChangesFocus(True)
        self.notes.setPlaceholderText(tr("Where a run is not exact is said here."))
        self.notes.setAccessibleName(tr("Where the run is not exact"))
        above = QSplitter(Qt.Orientation.Horizontal)
        above.addWidget(self.sums_view)
        above.addWidget(self.notes)
        above.setSizes([active().px(640), active().px(500)])
        halves = QSplitter(Qt.Orientation.Vertical)
        halves.setChildrenCollapsible(False)
        halves.addWidget(above)
        halves.addWidget(self._below())
        halves.setSizes([active().px(200), active().px(330)])
        self.page.addWidget(halves, 100)  # the line of buttons has a stretch of its own
        self.page.addWidget(self._error)
        self.closing_line([
            ("Open a result…", self._choose),
            ("Run a day again…", lambda: self.desk.ask("rerun", home=self.subject.get("home", ""))),
            ("Export lines…", lambda: self.desk.ask("export", view=self.view)),
            ("Export sums…", lambda: self.desk.ask("export", view=self.sums_view)),
        ])  # fmt: skip
        self.resize(active().px(1200), active().px(720))
        self._say(*WELCOME)
        if self.subject.get("path"):
            self.open_file(str(self.subject["path"]))

    def _table(
        self, columns: tuple[Column, ...], name: str, title: str
    ) -> tuple[TableModel, TableView]:
        model = TableModel(columns, self.desk.store, self)
        view = TableView(model, name, self)
        view.setAccessibleName(tr(title))
        view.export_wanted.connect(lambda: self.desk.ask("export", view=view))
        return model, view

    def _below(self) -> QWidget:
        self.only = QCheckBox(tr("Only what came out otherwise"))
        self.only.setAccessibleName(self.only.text())
        self.only.setChecked(True)
        self.only.toggled.connect(lambda _on: self._show_lines())
        self.filter = FilterEdit(tr("lines"))
        self.filter.textChanged.connect(self._on_filter)
        self.count = Caption()
        self.count.setAccessibleName(tr("Lines shown"))
        below = QWidget()
        tools = QHBoxLayout()
        for widget in (self.only, self.count):
            tools.addWidget(widget)
        tools.addStretch(1)
        tools.addWidget(self.filter)
        lines = QVBoxLayout(below)
        lines.setContentsMargins(0, 6, 0, 0)
        lines.addLayout(tools)
        lines.addWidget(self.view, 1)
        return below

    # --- opening ------------------------------------------------------------------------------

    def _choose(self) -> None:
        chooser = QFileDialog(
            self, tr("A rerun's result"), str(self.subject.get("path") or self.subject.get("home", "")),
            "Results (*.json);;All files (*)",
        )  # fmt: skip
        chooser.setFileMode(QFileDialog.FileMode.ExistingFile)
        chooser.setAttribute(Qt.WidgetAttribute.WA_DeleteOnClose)
        chooser.fileSelected.connect(self.open_file)
        chooser.open()

    def open_file(self, path: str) -> None:
        """Read a rerun's file and show it."""
        self.subject["path"] = path
        self._error.hide()
        self._show(None)
        self._say(*READING)
        self.desk.spawn(self._read(path), "Read the rerun")

    async def _read(self, path: str) -> None:
        compared, problem = None, ""
        try:
            compared = await asyncio.to_thread(read, Path(path))
        except NoComparisonError as error:
            problem = str(error)
        if not self.there() or path != self.subject["path"]:
            return  # closed, or another was chosen meanwhile
        if compared is None:
            self._say("It cannot be read", problem)
            return
        self._show(compared)

    def _show(self, compared: Compared | None) -> None:
        self.compared = compared
        self.sums.show_rows(compared.sums if compared else {})
        self.notes.setPlainText(
            "\n".join(f"• {note}" for note in compared.notes) if compared else ""
        )
        text = ""
        if compared is not None:
            total, changed = len(compared.lines), compared.changed
            text = f"{compared.day}: {fmt.count(changed)} of {fmt.count(total)} lines came out otherwise"
        self.summary.setText(text)
        self.summary.setVisible(bool(text))
        self._show_lines()

    # --- the lines ----------------------------------------------------------------------------

    def _kept(self, row: Row) -> bool:
        return bool(row["changed"]) or not self.only.isChecked()

    def _show_lines(self) -> None:
        compared = self.compared
        self.lines.rows = compared.lines if compared else {}
        self.lines.load()
        self._count()
        if compared is None:
            return
        if not compared.lines:
            self._say(*NOTHING)
        elif self.only.isChecked() and not compared.changed:
            self._say(*ALL_SAME)
        else:
            self._say(*NO_MATCH)

    def _on_filter(self, text: str) -> None:
        self.lines.set_filter(text)
        self.filter.tell(self.lines.filter.problem)
        self._count()

    def _count(self) -> None:
        shown, total = len(self.lines.order), len(self.lines.rows)
        self.count.setText(f"{fmt.count(shown)} of {fmt.count(total)} lines" if total else "")

    def _say(self, title: str, text: str) -> None:
        """Say in the empty tables what is to be seen there."""
        self.view.empty_title, self.view.empty_text = tr(title), tr(text)
        self.sums_view.empty_title, self.sums_view.empty_text = tr(title), ""
        for view in (self.view, self.sums_view):
            view.viewport().update()
