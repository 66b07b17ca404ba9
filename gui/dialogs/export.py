"""Export: the table as it is filtered and sorted, to CSV, XLSX or JSON lines.

Rows are written a few milliseconds at a time between the window's own work: a hundred thousand of them stall nothing.
The file appears under its name when it is whole.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from time import monotonic
from typing import Any, Final

from PySide6.QtCore import Qt
from PySide6.QtWidgets import QComboBox, QFileDialog, QHBoxLayout, QProgressBar, QPushButton

from engine.client import Row
from engine.sheets import NUMBERS, CsvSheet, JsonlSheet, Sheet, XlsxSheet
from gui import formatting as fmt
from gui.dialogs.base import Dialog
from gui.table_model import Column
from gui.table_view import TableView
from gui.words import tr

SLICE_S: Final = 0.006
KINDS: Final = {"csv": "CSV", "xlsx": "Excel (XLSX)", "jsonl": "JSON lines"}
Columns = list[tuple[str, Column | None]]


@dataclass(frozen=True, slots=True)
class Frozen:
    """The rows of a table as they were at one moment, and their order."""

    order: list[str]
    by_key: dict[str, Row]


class ExportDialog(Dialog):
    """Subject: ``view``, the table."""

    WIDTH = 420

    def build(self) -> None:
        """Make the widgets."""
        view: TableView | None = self.subject.get("view")
        self.view = view
        rows = self._rows()
        self.heading("Export table", "Raw numbers and full times, whatever the screen shows.")
        facts = [("Rows, as filtered", fmt.count(rows))]
        if fmt.Privacy.on:
            facts.append(("Privacy", "masks the screen, not the file"))
        self.facts(facts)
        self.kind = QComboBox()
        for kind, name in KINDS.items():
            self.kind.addItem(name, kind)
        self.field("Format", self.kind)
        self.which = QComboBox()
        self.which.addItem(tr("As shown"), "shown")
        self.which.addItem(tr("All columns of the table"), "all")
        self.which.addItem(tr("Every field the engine told"), "fields")
        self.field("Columns", self.which)
        self.progress = QProgressBar()
        self.progress.setAccessibleName(tr("Progress"))
        self.progress.setRange(0, max(1, rows))
        self.progress.hide()
        self.page.addWidget(self.progress)
        self.page.addWidget(self._error)
        self._stopped = False
        line = QHBoxLayout()
        line.addStretch(1)
        self.back = QPushButton(tr("Cancel"))
        self.back.setAccessibleName(tr("Cancel"))
        self.back.setAutoDefault(False)
        self.back.clicked.connect(self.reject)
        self._go = QPushButton(tr("Choose file…"))
        self._go.setObjectName("go")
        self._go.setAccessibleName(tr("Choose file"))
        self._go.setProperty("variant", "primary")
        self._go.setDefault(True)
        self._go.setEnabled(rows > 0)
        self._go.clicked.connect(self._choose)
        line.addWidget(self.back)
        line.addWidget(self._go)
        self.page.addLayout(line)

    def reject(self) -> None:
        """Stop what is being written; nothing is left of it."""
        self._stopped = True
        super().reject()

    def _choose(self) -> None:
        kind = str(self.kind.currentData())
        dialog = QFileDialog(self, tr("Export table"), self._name(kind))
        dialog.setAcceptMode(QFileDialog.AcceptMode.AcceptSave)
        dialog.setDefaultSuffix(kind)
        dialog.setAttribute(Qt.WidgetAttribute.WA_DeleteOnClose)
        dialog.fileSelected.connect(self.write)
        dialog.open()

    def _rows(self) -> int:
        """Return how many rows there are to write; of a search that still goes on, every one."""
        if self.view is None:
            return 0
        self.view.table.finish()
        return len(self.view.table.order)

    def _name(self, kind: str) -> str:
        name = self.view.objectName().partition(".")[0] if self.view is not None else "table"
        return f"volley-{name}.{kind}"

    def columns(self) -> Columns:
        """Return what is written: the name in the file, and the column it comes from (``None``: the row's field)."""
        view = self.view
        if view is None:
            return []
        if self.which.currentData() == "fields":
            fields: dict[str, None] = {}
            for key in view.table.order[:1_000]:
                fields.update(dict.fromkeys(view.table.rows[key]))
            return [(name, None) for name in fields]
        header, every = view.horizontalHeader(), self.which.currentData() == "all"
        order = sorted(range(len(view.table.columns)), key=header.visualIndex)
        chosen = [view.table.columns[at] for at in order if every or not view.isColumnHidden(at)]
        return [
            (column.key, column) for column in chosen if not column.live
        ]  # ages change as one looks

    def write(self, path: str) -> None:
        """Write the table to a file."""
        if self.view is None:
            return
        self.view.table.finish()
        self._error.hide()
        if self._go is not None:
            self._go.setEnabled(False)
        self.kind.setEnabled(False)
        self.which.setEnabled(False)
        self.progress.show()
        # The feed replaces rows, it does not change them. The whole table is quickly copied; it takes seven times as
        # long to look up every row of it, so each is when its turn comes.
        rows = Frozen(self.view.table.order.copy(), self.view.table.rows.copy())
        work = self._write(Path(path), str(self.kind.currentData()), self.columns(), rows)
        self.desk.spawn(work, tr("Export"))

    async def _write(self, path: Path, kind: str, columns: Columns, rows: Frozen) -> None:
        draft = path.with_name(path.name + ".part")
        try:
            loop = asyncio.get_running_loop()
            sheet = await loop.run_in_executor(
                None, _open, kind, draft, columns
            )  # openpyxl loads slowly
            written = await self._fill(sheet, columns, rows)
            await loop.run_in_executor(None, sheet.close)
            if written and not self._stopped:
                draft.replace(path)
        except OSError as error:
            if self.there():
                self.fail(f"{path}: {error.strerror or error}")
                self.kind.setEnabled(True)
                self.which.setEnabled(True)
                self.progress.hide()
            return
        finally:
            draft.unlink(missing_ok=True)
        if not self._stopped:
            self.desk.say("ok", tr("Exported"), f"{fmt.count(len(rows.order))} rows in {path}")
            if self.there():
                self.accept()

    async def _fill(self, sheet: Sheet, columns: Columns, rows: Frozen) -> bool:
        """Write the rows, a slice at a time; says whether all were."""
        since = monotonic()
        for at, row in enumerate(_values(columns, rows), 1):
            sheet.add(row)
            if monotonic() - since < SLICE_S:
                continue
            if self._stopped or not self.there():
                return False
            self.progress.setValue(at)
            await asyncio.sleep(0.001)
            since = monotonic()
        return True


def _values(columns: Columns, rows: Frozen) -> Iterator[dict[str, Any]]:
    for key in rows.order:
        row = rows.by_key.get(key)
        if row is None:  # gone from the feed, not yet from the table
            continue
        yield {
            name: row.get(name) if column is None or name in row else column.value(row)
            for name, column in columns
        }


def _open(kind: str, path: Path, columns: Columns) -> Sheet:
    names = [name for name, _ in columns]
    numbers = NUMBERS | {
        name for name, column in columns if column is not None and column.kind == "number"
    }
    if kind == "csv":
        return CsvSheet(path, names, numbers, mark=True)
    return XlsxSheet(path, names, numbers) if kind == "xlsx" else JsonlSheet(path, names, numbers)
