"""Saved layouts: keep the one in use under a name; use, rename, delete, import and export the others."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from PySide6.QtCore import Qt
from PySide6.QtWidgets import (
    QFileDialog,
    QHBoxLayout,
    QLineEdit,
    QListWidget,
    QPushButton,
    QVBoxLayout,
)

from gui.dialogs.base import Dialog
from gui.words import tr


class LayoutsDialog(Dialog):
    """The list of saved layouts."""

    WIDTH = 460

    def build(self) -> None:
        """Make the widgets."""
        self.heading(
            "Layouts",
            "A layout is where the panels are, with their columns and filters. Ctrl+5 to Ctrl+9 take the first five.",
        )
        self.edit = QLineEdit()
        self.edit.setPlaceholderText(tr("A name for the layout in use"))
        self.edit.setMaxLength(40)
        self.edit.returnPressed.connect(self._save)
        self.field("Name", self.edit)
        self.list = QListWidget()
        self.list.setAccessibleName(tr("Saved layouts"))
        self.list.setMinimumHeight(150)
        self.list.currentTextChanged.connect(self._on_chosen)
        self.list.itemActivated.connect(lambda _item: self._use())
        line = QHBoxLayout()
        line.addWidget(self.list, 1)
        buttons = QVBoxLayout()
        self._buttons = {
            name: self._button(buttons, name, act)
            for name, act in (("Save as", self._save), ("Use", self._use), ("Rename", self._rename),
                              ("Delete", self._delete), ("Export…", self._export), ("Import…", self._import))
        }  # fmt: skip
        buttons.addStretch(1)
        line.addLayout(buttons)
        self.page.addLayout(line)
        self.page.addWidget(self._error)
        close = QPushButton(tr("Close"))
        close.setAccessibleName(tr("Close"))
        close.setAutoDefault(False)
        close.clicked.connect(self.reject)
        self.page.addWidget(close, 0, Qt.AlignmentFlag.AlignRight)
        self._fill()
        self.edit.setFocus()

    def _button(self, into: QVBoxLayout, name: str, act: Callable[[], None]) -> QPushButton:
        button = QPushButton(tr(name))
        button.setObjectName(name.rstrip("…").lower().replace(" ", "_"))
        button.setAccessibleName(tr(name))
        button.setAutoDefault(False)
        button.clicked.connect(act)
        into.addWidget(button)
        return button

    def _fill(self, chosen: str = "") -> None:
        self.list.clear()
        self.list.addItems(list(self.desk.layouts.named))
        for item in self.list.findItems(chosen, Qt.MatchFlag.MatchExactly) if chosen else ():
            self.list.setCurrentItem(item)
        self._on_chosen(self._chosen())

    def _chosen(self) -> str:
        item = self.list.currentItem()
        return item.text() if item is not None else ""

    def _on_chosen(self, name: str) -> None:
        for button in ("Use", "Rename", "Delete"):
            self._buttons[button].setEnabled(bool(name))
        self._buttons["Export…"].setEnabled(self.list.count() > 0)
        if name:
            self.edit.setText(name)

    def _try(self, act: Callable[[], str]) -> None:
        self._error.hide()
        try:
            self._fill(act())
        except ValueError as error:
            self.fail(str(error))

    def _save(self) -> None:
        def act() -> str:
            self.desk.layouts.save_as(self.edit.text())
            return self.desk.layouts.now

        self._try(act)

    def _use(self) -> None:
        if self._chosen():
            self.desk.layouts.use(self._chosen())

    def _rename(self) -> None:
        def act() -> str:
            self.desk.layouts.rename(self._chosen(), self.edit.text())
            return " ".join(self.edit.text().split())

        self._try(act)

    def _delete(self) -> None:
        name = self._chosen()
        kept = self.desk.layouts.named[name]
        self.desk.layouts.delete(name)
        self._fill()

        def back() -> None:
            self.desk.layouts.put_back(name, kept)
            if self.there():
                self._fill(name)

        self.desk.notifier.offer(tr("Layout deleted"), name, tr("Undo"), back, 8_000)

    def _export(self) -> None:
        dialog = QFileDialog(self, tr("Export layouts"), "volley-layouts.json")
        dialog.setAcceptMode(QFileDialog.AcceptMode.AcceptSave)
        dialog.setDefaultSuffix("json")
        dialog.setAttribute(Qt.WidgetAttribute.WA_DeleteOnClose)
        dialog.fileSelected.connect(self.export_to)
        dialog.open()

    def export_to(self, path: str) -> None:
        """Write the chosen layout, or all of them, to a file."""
        names = [self._chosen()] if self._chosen() else list(self.desk.layouts.named)
        wrong = self.desk.layouts.export(names, Path(path))
        if wrong:
            self.fail(wrong)
        else:
            self.desk.say("ok", tr("Layouts exported"), f"{', '.join(names)}: {path}")

    def _import(self) -> None:
        dialog = QFileDialog(self, tr("Import layouts"))
        dialog.setFileMode(QFileDialog.FileMode.ExistingFile)
        dialog.setNameFilter("*.json")
        dialog.setAttribute(Qt.WidgetAttribute.WA_DeleteOnClose)
        dialog.fileSelected.connect(self.import_from)
        dialog.open()

    def import_from(self, path: str) -> None:
        """Take over the layouts of a file."""
        self._try(lambda: self.desk.layouts.take_file(Path(path))[-1])
