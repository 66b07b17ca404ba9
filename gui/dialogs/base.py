"""The base of dialogs: not modal, facts above, fields in the middle, the safe button focused."""

from __future__ import annotations

from collections.abc import Callable
from decimal import Decimal
from typing import Any

from PySide6.QtCore import QElapsedTimer, QRectF, Qt, QTimer
from PySide6.QtGui import QPainter, QPaintEvent
from PySide6.QtWidgets import (
    QDialog,
    QGridLayout,
    QHBoxLayout,
    QLineEdit,
    QPushButton,
    QVBoxLayout,
    QWidget,
)
from shiboken6 import isValid

from engine.errors import CommandRefused
from engine.model.numbers import parse_decimal, to_text
from gui.commands import Work
from gui.desk import Desk
from gui.panel import Caption
from gui.theme import active
from gui.words import tr

HOLD_MS = 800


class HoldButton(QPushButton):
    """A button that acts after being held for 0.8 s, by mouse or Space; letting go stops it."""

    def __init__(self, text: str, act: Callable[[], None]) -> None:
        super().__init__(text)
        self.setProperty("variant", "danger")
        self.setAutoDefault(False)
        self._act = act
        self._since = QElapsedTimer()
        self._timer = QTimer(self)
        self._timer.setInterval(16)
        self._timer.timeout.connect(self._step)
        self.pressed.connect(self._begin)
        self.released.connect(self._end)

    def _begin(self) -> None:
        self._since.start()
        self._timer.start()

    def _end(self) -> None:
        self._timer.stop()
        self.update()

    def _step(self) -> None:
        if self._since.elapsed() >= HOLD_MS:
            self._end()
            self.setEnabled(False)
            self._act()
        self.update()

    def paintEvent(self, event: QPaintEvent) -> None:
        """Fill from the left while held."""
        super().paintEvent(event)
        if self._timer.isActive():
            painter = QPainter(self)
            share = min(1.0, self._since.elapsed() / HOLD_MS)
            painter.fillRect(
                QRectF(1, 1, (self.width() - 2) * share, self.height() - 2),
                active().color("kill", 110),
            )
            painter.end()


class Dialog(QDialog):
    """A dialog about one subject."""

    WIDTH = 440

    def __init__(self, desk: Desk, subject: dict[str, Any]) -> None:
        super().__init__(desk.window_widget)
        self.desk = desk
        self.subject = subject
        self.setAttribute(Qt.WidgetAttribute.WA_DeleteOnClose)
        self.setModal(False)
        self.page = QVBoxLayout(self)
        self.page.setContentsMargins(18, 16, 18, 14)
        self.page.setSpacing(10)
        self._fields: QGridLayout | None = None
        self._error = Caption("", 12, 500, "crit")
        self._error.setWordWrap(True)
        self._error.hide()
        self._go: QPushButton | None = None
        self.setMinimumWidth(active().px(self.WIDTH))
        self.build()

    def build(self) -> None:
        """Make the widgets."""

    def there(self) -> bool:
        """Say whether it still exists: it may have been closed while the engine was asked."""
        return isValid(self)

    def present(self) -> None:
        """Show it over the window, without taking the window away."""
        self.show()
        self.activateWindow()

    # --- parts --------------------------------------------------------------------------------

    def heading(self, title: str, text: str = "") -> None:
        """Put a heading, and a sentence below it."""
        title = tr(title)
        self.setWindowTitle(title)
        self.setAccessibleName(title)
        self.page.addWidget(Caption(title, 15, 600, "text"))
        if text:
            line = Caption(tr(text), 12.5)
            line.setWordWrap(True)
            self.page.addWidget(line)

    def facts(self, facts: list[tuple[str, str]]) -> None:
        """Put facts in two columns."""
        grid = QGridLayout()
        grid.setHorizontalSpacing(18)
        grid.setVerticalSpacing(4)
        grid.setColumnStretch(1, 1)
        for at, (name, value) in enumerate(facts):
            grid.addWidget(Caption(tr(name), 12.5), at, 0, Qt.AlignmentFlag.AlignTop)
            label = Caption(value, 12.5, 500, "text")
            label.setWordWrap(True)
            grid.addWidget(label, at, 1)
        self.page.addLayout(grid)

    def field(self, name: str, widget: QWidget, about: str = "") -> None:
        """Put a labelled field."""
        if self._fields is None:
            self._fields = QGridLayout()
            self._fields.setHorizontalSpacing(14)
            self._fields.setVerticalSpacing(7)
            self._fields.setColumnStretch(1, 1)
            self.page.addLayout(self._fields)
        row = self._fields.rowCount()
        name, about = tr(name), tr(about)
        widget.setAccessibleName(name)
        if about:
            widget.setToolTip(about)
            widget.setAccessibleDescription(about)
        self._fields.addWidget(Caption(name, 12.5), row, 0)
        self._fields.addWidget(widget, row, 1)

    def number_field(self, name: str, value: object = "", about: str = "") -> QLineEdit:
        """Put a field for an exact number."""
        edit = QLineEdit("" if value is None else str(value))
        edit.setPlaceholderText("as it is" if not value else "")
        self.field(name, edit, about)
        return edit

    def buttons(
        self, go: str, act: Callable[[], None], *, hold: bool = False, focus_go: bool = False
    ) -> None:
        """Put the safe button and the one that acts; the safe one has the focus unless ``focus_go``."""
        self.page.addWidget(self._error)
        self.page.addStretch(1)
        line = QHBoxLayout()
        line.addStretch(1)
        safe = QPushButton(tr("Back" if focus_go else "Keep as it is"))
        go = tr(go)
        safe.setAccessibleName(safe.text())
        safe.clicked.connect(self.reject)
        button = HoldButton(go, act) if hold else QPushButton(go)
        button.setAccessibleName(go)
        button.setObjectName("go")
        if not hold:
            button.setProperty("variant", "primary")
            button.clicked.connect(act)
        line.addWidget(safe)
        line.addWidget(button)
        self.button_line = line
        self.page.addLayout(line)
        self._go = button
        chosen = button if focus_go and not hold else safe
        chosen.setDefault(True)
        if not focus_go:
            safe.setFocus()

    def closing_line(self, others: list[tuple[str, Callable[[], None]]]) -> None:
        """Put the buttons of a dialog that only tells: others, then the one that closes it."""
        row = QHBoxLayout()
        row.addStretch(1)
        close = QPushButton(tr("Close"))
        buttons = [(QPushButton(tr(text)), act) for text, act in others]
        for button, act in (*buttons, (close, self.reject)):
            button.setAccessibleName(button.text())
            button.clicked.connect(act)
            row.addWidget(button)
        close.setDefault(True)
        close.setFocus()
        self.page.addStretch(1)
        self.page.addLayout(row)

    # --- acting -------------------------------------------------------------------------------

    def number(self, edit: QLineEdit, name: str) -> str | None:
        """Return an exact number as text, ``None`` when empty; says what is wrong with it.

        Raises:
            ValueError: not a plain positive number.
        """
        text = "".join(edit.text().split())
        wrong = ""
        value = Decimal(0)
        if text:
            try:
                value = parse_decimal(text)
            except ValueError:
                wrong = f"{name}: {edit.text()!r} is not a plain number like 101.25"
            if not wrong and value <= 0:
                wrong = f"{name}: must be greater than zero"
        edit.setProperty("invalid", bool(wrong))
        edit.style().unpolish(edit)
        edit.style().polish(edit)
        if wrong:
            raise ValueError(wrong)
        return to_text(value) if text else None

    def fail(self, text: str) -> None:
        """Say what is wrong, and let it be tried again."""
        self._error.setText(text)
        self._error.show()
        self.adjustSize()  # a sentence of several lines squeezes no field
        if self._go is not None:
            self._go.setEnabled(True)

    def tell(self, problem: str) -> None:
        """Say what is wrong with what was put in, or nothing any more."""
        if problem:
            self.fail(problem)
        else:
            self._error.hide()

    def run(self, work: Work, title: str) -> None:
        """Run a command; the dialog stays with the reason when it is refused, else it closes."""
        self._error.hide()
        if self._go is not None:
            self._go.setEnabled(False)
        self.desk.spawn(self._work(work), title)

    async def _work(self, work: Work) -> None:
        try:
            await work
        except CommandRefused as refusal:
            if not self.there():
                raise  # said as a notice instead
            self.fail(f"{refusal.message} ({refusal.code})")
            return
        if self.there():
            self.accept()
