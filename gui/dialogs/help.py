"""Keys at a glance, and what this program is."""

from __future__ import annotations

import platform
import sys

from PySide6 import __version__ as pyside_version
from PySide6.QtWidgets import QGridLayout, QScrollArea, QWidget

from gui.dialogs.base import Dialog
from gui.panel import Caption


class ShortcutsDialog(Dialog):
    """Every key, by group."""

    WIDTH = 620

    def build(self) -> None:
        """Make the widgets."""
        self.heading(
            "Keyboard shortcuts",
            "Letters work while their table has the focus; the others everywhere. / filters a table, Esc clears it.",
        )
        inside = QWidget()
        grid = QGridLayout(inside)
        grid.setHorizontalSpacing(20)
        grid.setVerticalSpacing(3)
        grid.setColumnStretch(1, 1)
        row, group = 0, ""
        commands = [c for c in self.desk.registry.commands.values() if c.shortcut]
        for command in sorted(commands, key=lambda c: c.group):
            if command.group != group:
                group = command.group
                grid.addWidget(Caption(group, 12.5, 600, "accent"), row, 0, 1, 2)
                row += 1
            grid.addWidget(
                Caption(command.shortcut.replace(" | ", "  or  "), 12.5, 500, "text"), row, 0
            )
            grid.addWidget(Caption(command.title, 12.5), row, 1)
            row += 1
        area = QScrollArea()
        area.setWidget(inside)
        area.setWidgetResizable(True)
        area.setFrameShape(QScrollArea.Shape.NoFrame)
        area.setAccessibleName("Keyboard shortcuts")
        area.setMinimumHeight(420)
        self.page.addWidget(area)
        self.closing_line([("Customise…", self._customise)])

    def _customise(self) -> None:
        self.desk.ask("keys")
        self.reject()


class AboutDialog(Dialog):
    """Versions and licences."""

    def build(self) -> None:
        """Make the widgets."""
        row = self.desk.store.engine
        self.heading(
            "Volley",
            "One trading signal in, every eligible account's order on the wire milliseconds later.",
        )
        self.facts([
            ("Version", str(row.get("version") or "–")),
            ("Engine", f"{row.get('name') or '–'}, process {row.get('pid') or '–'}"),
            ("Storage", str(row.get("profile") or "–")),
            ("Python", f"{platform.python_version()} on {sys.platform}"),
            ("Qt for Python", pyside_version),
            ("Licences", "Volley: MIT. Qt for Python: LGPL-3. Inter: OFL 1.1. Others as their packages say."),
        ])  # fmt: skip
        self.closing_line([])
