"""Preferences: every choice is in force as soon as it is made, and kept."""

from __future__ import annotations

from dataclasses import asdict
from typing import Final

from PySide6.QtCore import Qt
from PySide6.QtWidgets import (
    QCheckBox,
    QComboBox,
    QGridLayout,
    QHBoxLayout,
    QLineEdit,
    QPushButton,
    QWidget,
)

from gui import formatting as fmt
from gui import words
from gui.dialogs.base import Dialog
from gui.panel import Caption
from gui.preferences import CHOICES, Preferences, is_zone
from gui.words import tr

WORDS: Final = {
    "theme": {"dark": "Dark", "light": "Light", "contrast_dark": "High contrast, dark",
              "contrast_light": "High contrast, light", "system": "As the system"},
    "prices": {"green_red": "Profit green, loss red", "red_green": "Profit red, loss green",
               "blue_orange": "Profit blue, loss orange"},
    "density": {"normal": "Normal", "compact": "Compact"},
    "zone": {"local": "This machine's", "utc": "UTC", "exchange": "The exchange's"},
    "numbers": {"thin": "1 234.5", "comma": "1,234.5", "dot": "1.234,5", "space_comma": "1 234,5",
                "apostrophe": "1’234.5", "plain": "1234.5", "system": "As the system"},
    "sound_from": {"info": "Everything", "warning": "Warnings and worse", "critical": "Critical only"},
    "notify_from": {"info": "Everything", "warning": "Warnings and worse", "critical": "Critical only"},
}  # fmt: skip
ZONES: Final = ("America/New_York", "America/Chicago", "Europe/London", "Europe/Berlin", "Asia/Kolkata",
                "Asia/Hong_Kong", "Asia/Tokyo", "Australia/Sydney", "UTC")  # fmt: skip


class PreferencesDialog(Dialog):
    """Looks, formats, noise, privacy."""

    WIDTH = 660

    def build(self) -> None:
        """Make the widgets."""
        self.heading("Preferences", "Every choice is in force at once and kept on this machine.")
        self._choices: dict[str, QComboBox] = {}
        self._switches: dict[str, QCheckBox] = {}
        self._columns = (QGridLayout(), QGridLayout())
        self._line = 0
        columns = QHBoxLayout()
        columns.setSpacing(28)
        for grid in self._columns:
            grid.setHorizontalSpacing(14)
            grid.setVerticalSpacing(8)
            grid.setColumnStretch(1, 1)
            grid.setAlignment(Qt.AlignmentFlag.AlignTop)
            columns.addLayout(grid, 1)
        self.page.addLayout(columns)
        self._looks()
        self._line = 0
        self._noise()
        self.page.addSpacing(6)
        self.page.addWidget(self._error)
        self._end()
        self._show()
        self.desk.settings.changed.connect(self._show)

    def _looks(self) -> None:
        self._part(0, "Looks")
        self._choice(0, "theme", "Theme")
        self._choice(0, "prices", "Profit and loss", "Signs and arrows are always there too")
        self._choice(0, "density", "Rows")
        self.scale = QComboBox()
        for percent in range(80, 170, 10):
            self.scale.addItem(f"{percent} %", percent)
        self.scale.activated.connect(
            lambda at: self.desk.settings.change(scale=int(self.scale.itemData(at)))
        )
        self._put(0, "Text size", self.scale)
        self._switch(0, "reduced_motion", "Reduced motion", "Nothing flashes when it changes")
        self.language = QComboBox()
        for name in words.languages():
            self.language.addItem(name, name)
        self.language.activated.connect(
            lambda at: self.desk.settings.change(language=str(self.language.itemData(at)))
        )
        self._put(0, "Language", self.language, "In force when the desk is opened the next time")

    def _noise(self) -> None:
        self._part(1, "Times and numbers")
        self._choice(1, "zone", "Times")
        self.exchange = QComboBox()
        self.exchange.setEditable(True)
        self.exchange.addItems(list(ZONES))
        self.exchange.activated.connect(lambda _at: self._take_zone())
        edit = self.exchange.lineEdit()
        if isinstance(edit, QLineEdit):
            edit.setAccessibleName(tr("The exchange's zone"))
            edit.editingFinished.connect(self._take_zone)
        self._put(
            1,
            "The exchange's zone",
            self.exchange,
            "A name of the time zone database, like Asia/Tokyo",
        )
        self._choice(
            1, "numbers", "Numbers", "How they are shown; fields always take the plain form, 1234.5"
        )
        self._part(1, "Noise and privacy")
        self._switch(1, "sounds", "Sounds")
        self._choice(1, "sound_from", "Sound for")
        self._switch(
            1,
            "notifications",
            "Desktop notifications",
            "Shown by the system while the desk is not in front",
        )
        self._choice(1, "notify_from", "Notify for")
        self._switch(
            1, "private", "Privacy", "Masks money and account names, for a screen that others see"
        )

    def _part(self, column: int, title: str) -> None:
        self._columns[column].addWidget(
            Caption(tr(title), 12.5, 600, "accent"), self._line, 0, 1, 2
        )
        self._line += 1

    def _put(self, column: int, name: str, widget: QWidget, about: str = "") -> None:
        widget.setAccessibleName(tr(name))
        widget.setAccessibleDescription(tr(about))
        widget.setToolTip(tr(about))
        self._columns[column].addWidget(Caption(tr(name), 12.5), self._line, 0)
        self._columns[column].addWidget(widget, self._line, 1)
        self._line += 1

    def _choice(self, column: int, name: str, title: str, about: str = "") -> None:
        combo = self._choices[name] = QComboBox()
        combo.setObjectName(name)
        for value in CHOICES[name]:
            combo.addItem(tr(WORDS[name][value]), value)
        combo.activated.connect(
            lambda at: self.desk.settings.change(**{name: str(combo.itemData(at))})
        )
        self._put(column, title, combo, about)

    def _switch(self, column: int, name: str, title: str, about: str = "") -> None:
        box = self._switches[name] = QCheckBox()
        box.setObjectName(name)
        box.toggled.connect(lambda on: self.desk.settings.change(**{name: on}))
        self._put(column, title, box, about)

    def _end(self) -> None:
        line = QHBoxLayout()
        self.sample = Caption("", 12.5, 500, "text")
        self.sample.setAccessibleName(tr("How it looks"))
        plain = QPushButton(tr("Defaults"))
        plain.setAccessibleName(tr("Back to the defaults"))
        plain.setAutoDefault(False)
        plain.clicked.connect(lambda: self.desk.settings.change(**asdict(Preferences())))
        close = QPushButton(tr("Close"))
        close.setAccessibleName(tr("Close"))
        close.setDefault(True)
        close.clicked.connect(self.reject)
        line.addWidget(self.sample)
        line.addStretch(1)
        line.addWidget(plain)
        line.addWidget(close)
        self.page.addLayout(line)

    def _take_zone(self) -> None:
        name = self.exchange.currentText().strip()
        if is_zone(name):
            self._error.hide()
            self.desk.settings.change(exchange_zone=name)
        else:
            self.fail(f"There is no time zone {name!r}; write it like Europe/London.")

    def _show(self) -> None:
        """Show what is in force, whoever changed it."""
        if not self.there():
            return
        now = self.desk.settings.now
        for name, combo in self._choices.items():
            combo.setCurrentIndex(combo.findData(getattr(now, name)))
        for name, box in self._switches.items():
            box.setChecked(bool(getattr(now, name)))
        self.scale.setCurrentIndex(self.scale.findData(now.scale))
        self.language.setCurrentIndex(self.language.findData(now.language))
        self.exchange.setCurrentText(now.exchange_zone)
        self.exchange.setEnabled(now.zone == "exchange")
        self._choices["sound_from"].setEnabled(now.sounds)
        self._choices["notify_from"].setEnabled(now.notifications)
        self.sample.setText(f"{fmt.pnl('1234567.5')}    {fmt.pnl('-42')}    {fmt.Times.now()}")
