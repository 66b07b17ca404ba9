"""The keys of every command: search, press another, see who has it already, go back to the default.

The kill switch's key kills here too, as everywhere; it can get another key, never none.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from PySide6.QtCore import Qt
from PySide6.QtGui import QKeySequence
from PySide6.QtWidgets import (
    QAbstractItemView,
    QHBoxLayout,
    QHeaderView,
    QKeySequenceEdit,
    QLineEdit,
    QPushButton,
    QTableWidget,
    QTableWidgetItem,
)

from gui import shortcuts
from gui.commands import Command, sequences
from gui.dialogs.base import Dialog
from gui.panel import Caption
from gui.words import tr

ROLE = 0x0100
LEFT = Qt.AlignmentFlag.AlignLeft | Qt.AlignmentFlag.AlignVCenter


class KeysDialog(Dialog):
    """Every command with its keys."""

    WIDTH = 640

    def build(self) -> None:
        """Make the widgets."""
        self.heading(
            "Customise shortcuts",
            "Choose a command, then press its new key. The kill key kills here too.",
        )
        self.registry = self.desk.registry
        self.search = QLineEdit()
        self.search.setPlaceholderText(tr("Search commands and keys"))
        self.search.setAccessibleName(tr("Search commands and keys"))
        self.search.setClearButtonEnabled(True)
        self.search.textChanged.connect(lambda _text: self._fill())
        self.page.addWidget(self.search)
        self.table = self._make_table()
        self.page.addWidget(self.table, 1)
        self.page.addLayout(self._make_editor())
        self.page.addLayout(self._make_closing())
        self.said = Caption("", 12.5, 500, "warn")
        self.said.setWordWrap(True)
        self.said.setMinimumHeight(self.said.fontMetrics().height() * 2)
        self.page.addWidget(self.said)
        self._fill()
        self.search.setFocus()

    def _make_table(self) -> QTableWidget:
        table = QTableWidget(0, 3)
        table.setAccessibleName(tr("Commands and their keys"))
        table.setHorizontalHeaderLabels([tr("Group"), tr("Command"), tr("Keys")])
        table.setSelectionBehavior(QAbstractItemView.SelectionBehavior.SelectRows)
        table.setSelectionMode(QAbstractItemView.SelectionMode.SingleSelection)
        table.setEditTriggers(QAbstractItemView.EditTrigger.NoEditTriggers)
        table.setTabKeyNavigation(False)
        table.setShowGrid(False)
        table.verticalHeader().setVisible(False)
        table.horizontalHeader().setDefaultAlignment(LEFT)
        table.horizontalHeader().setSectionResizeMode(1, QHeaderView.ResizeMode.Stretch)
        table.setColumnWidth(0, 90)
        table.setColumnWidth(2, 180)
        table.setMinimumHeight(320)
        table.itemSelectionChanged.connect(self._on_chosen)
        return table

    def _make_editor(self) -> QHBoxLayout:
        line = QHBoxLayout()
        self.recorder = QKeySequenceEdit()
        self.recorder.setMaximumSequenceLength(1)
        self.recorder.setAccessibleName(tr("New key"))
        self.recorder.keySequenceChanged.connect(self._on_recorded)
        inner = self.recorder.findChild(QLineEdit)
        if inner is not None:
            inner.setAccessibleName(tr("New key"))
        line.addWidget(Caption(tr("New key"), 12.5))
        line.addWidget(self.recorder, 1)
        self.give = self._button(line, "Assign", self._give)
        self.none = self._button(line, "No key", self._take_away)
        self.default = self._button(line, "Default", self._back)
        return line

    def _make_closing(self) -> QHBoxLayout:
        line = QHBoxLayout()
        line.addStretch(1)
        self._button(line, "All defaults", self._all_back)
        self._button(line, "Close", self.reject)
        return line

    def _button(self, into: QHBoxLayout, name: str, act: Callable[[], None]) -> QPushButton:
        button = QPushButton(tr(name))
        button.setObjectName(name.lower().replace(" ", "_"))
        button.setAccessibleName(tr(name))
        button.setAutoDefault(False)
        button.clicked.connect(act)
        into.addWidget(button)
        return button

    # --- showing ------------------------------------------------------------------------------

    def _fill(self) -> None:
        chosen = self.chosen()
        words = self.search.text().lower().split()
        found = [
            command
            for command in sorted(self.registry.commands.values(), key=lambda c: (c.group, c.title))
            if all(
                word in f"{command.group} {command.title} {command.shortcut}".lower()
                for word in words
            )
        ]
        self.table.setRowCount(len(found))
        for at, command in enumerate(found):
            changed = " *" if command.shortcut != command.default else ""
            texts = (command.group, command.title, command.shortcut.replace(" | ", "  ") + changed)
            for column, text in enumerate(texts):
                item = QTableWidgetItem(text)
                item.setData(ROLE, command.id)
                self.table.setItem(at, column, item)
            if chosen is not None and command.id == chosen.id:
                self.table.selectRow(at)
        self._on_chosen()

    def chosen(self) -> Command | None:
        """Return the selected command."""
        items = self.table.selectedItems()
        return self.registry.commands.get(str(items[0].data(ROLE))) if items else None

    def choose(self, name: str) -> None:
        """Select a command."""
        for at in range(self.table.rowCount()):
            item = self.table.item(at, 0)
            if item is not None and item.data(ROLE) == name:
                self.table.selectRow(at)

    def _on_chosen(self) -> None:
        command = self.chosen()
        self.recorder.setEnabled(command is not None)
        self.recorder.clear()
        self.give.setEnabled(False)
        self.none.setEnabled(
            command is not None and bool(command.shortcut) and command.id != shortcuts.KILL
        )
        self.default.setEnabled(command is not None and command.shortcut != command.default)
        self.said.setText("")

    def _on_recorded(self, key: QKeySequence) -> None:
        command = self.chosen()
        if command is None or key.isEmpty():
            return
        wrong = shortcuts.refusal(self.registry, command.id, key)
        taken = shortcuts.taken_by(self.registry, command.id, key)
        self.give.setEnabled(not wrong)
        if wrong:
            self.said.setText(wrong)
        elif taken is not None:
            self.said.setText(
                f"{key.toString()} is the key of “{taken.title}” now; assigning takes it from there."
            )
        else:
            self.said.setText("")

    # --- changing -----------------------------------------------------------------------------

    def _give(self) -> None:
        command, key = self.chosen(), self.recorder.keySequence()
        if command is None or key.isEmpty():
            return
        try:
            shortcuts.give(self.registry, command.id, key)
        except ValueError as error:
            self.said.setText(str(error))
            return
        self._keep()

    def _take_away(self) -> None:
        command = self.chosen()
        if command is not None and command.id != shortcuts.KILL:
            self.registry.rebind(command.id, "")
            self._keep()

    def _back(self) -> None:
        command = self.chosen()
        if command is None:
            return
        for key in sequences(command.default):
            taken = shortcuts.taken_by(self.registry, command.id, key)
            if taken is not None:
                self.said.setText(
                    f"{key.toString()} is the key of “{taken.title}” now; give that another one first."
                )
                return
        self.registry.rebind(command.id, command.default)
        self._keep()

    def _all_back(self) -> None:
        for name, command in self.registry.commands.items():
            if command.shortcut != command.default:
                self.registry.rebind(name, command.default)
        self._keep()

    def _keep(self) -> None:
        wrong = shortcuts.write(self._home(), self.registry)
        self._fill()
        if wrong:
            self.said.setText(f"The keys work, but cannot be kept: {wrong}")

    def _home(self) -> Path:
        return self.desk.settings.home
