"""The top bar: what this desk is connected to, what it is worth, and the red button."""

from __future__ import annotations

from datetime import UTC, datetime

from PySide6.QtCore import QRect, QSize, Qt
from PySide6.QtGui import QFontMetrics, QPainter, QPaintEvent
from PySide6.QtWidgets import QHBoxLayout, QPushButton, QSizePolicy, QVBoxLayout, QWidget

from engine.client import Row
from engine.model import tables
from gui import formatting as fmt
from gui.desk import Desk
from gui.panel import Caption
from gui.theme import active

MODE_TONES = {"LIVE": "crit", "PAPER": "accent", "DEMO": "pos", "REPLAY": "warn", "…": "muted"}
STATE_WORDS = {
    "active": ("● Armed", "pos"),
    "disarmed": ("○ Disarmed", "warn"),
    "halted": ("■ HALTED", "crit"),
    "reducing": ("▼ Exits only", "warn"),
}


class Badge(QWidget):
    """A word in a frame of its tone."""

    def __init__(self, name: str) -> None:
        super().__init__()
        self.text = ""
        self.tone = "muted"
        self.filled = False
        self.setAccessibleName(name)
        self.setSizePolicy(QSizePolicy.Policy.Fixed, QSizePolicy.Policy.Fixed)

    def show_word(self, text: str, tone: str, *, filled: bool = False) -> None:
        """Show another word."""
        if (text, tone, filled) != (self.text, self.tone, self.filled):
            self.text, self.tone, self.filled = text, tone, filled
            self.setAccessibleDescription(text)
            self.updateGeometry()
            self.update()

    def sizeHint(self) -> QSize:
        """Return the room the word needs."""
        metrics = QFontMetrics(active().font(12, 700))
        return QSize(metrics.horizontalAdvance(self.text) + 24, metrics.height() + 8)

    def paintEvent(self, _event: QPaintEvent) -> None:
        """Paint frame and word."""
        theme = active()
        painter = QPainter(self)
        painter.setRenderHint(QPainter.RenderHint.Antialiasing)
        ink = theme.colors[self.tone]
        painter.setPen(ink)
        painter.setBrush(theme.color(self.tone, 255 if self.filled else 30))
        painter.drawRoundedRect(self.rect().adjusted(1, 1, -1, -1), 4, 4)
        painter.setFont(theme.font(12, 700))
        painter.setPen(theme.colors["surface"] if self.filled else ink)
        painter.drawText(self.rect(), int(Qt.AlignmentFlag.AlignCenter.value), self.text)
        painter.end()


class Figure(QWidget):
    """A quiet title over a number that is read from across the room."""

    def __init__(self, title: str, width: int) -> None:
        super().__init__()
        lines = QVBoxLayout(self)
        lines.setContentsMargins(0, 0, 0, 0)
        lines.setSpacing(0)
        self._value = Caption(fmt.NONE, 15, 600, "text")
        self._title = Caption(title, 10.5, 500)
        lines.addWidget(self._title)
        lines.addWidget(self._value, 0, Qt.AlignmentFlag.AlignLeft)
        self._value.hold()
        self.setMinimumWidth(width)
        self.setAccessibleName(title)

    def show_value(self, text: str, tone: str = "") -> None:
        """Show another value."""
        self._value.set_tone(tone or "text")
        if self._value.text() != text:
            self._value.setText(text)
            self.setAccessibleDescription(text)


class Separator(QWidget):
    """A hairline between groups."""

    def __init__(self) -> None:
        super().__init__()
        self.setFixedWidth(1)

    def paintEvent(self, _event: QPaintEvent) -> None:
        """Paint the line."""
        painter = QPainter(self)
        painter.fillRect(QRect(0, 4, 1, self.height() - 8), active().colors["line"])
        painter.end()


class TopBar(QWidget):
    """Mode, arming, money, clock and KILL."""

    def __init__(self, desk: Desk) -> None:
        super().__init__()
        self.desk = desk
        self.setObjectName("top_bar")
        self.mode = Badge("Mode")
        self.trading = Badge("Trading state")
        self.arm = desk.registry.button("trading.arm")
        self.kill = self._kill_button()
        self.pnl = Figure("DAY P&L", 104)
        self.open_pnl = Figure("OPEN P&L", 92)
        self.equity = Figure("EQUITY", 112)
        self.exposure = Figure("EXPOSURE", 104)
        self.review = Figure("HELD", 44)
        self.clock = Caption("", 13, 500, "text")
        self.clock.setAccessibleName("Clock")
        self.clock.hold()
        desk.second.connect(self.tell_time)
        self._lay_out()
        self.tell_time()

    def tell_time(self) -> None:
        """Show the time of day, as each second begins; a recording shows its own."""
        text = "" if self.desk.store.recorded else fmt.Times.of(datetime.now(UTC))
        if self.clock.text() != text:
            self.clock.setText(text)

    def _kill_button(self) -> QPushButton:
        button = self.desk.registry.button("trading.kill", "KILL", "kill")
        button.setFocusPolicy(Qt.FocusPolicy.TabFocus)
        button.setMinimumHeight(active().px(32))
        button.clicked.disconnect()
        button.pressed.connect(
            lambda: self.desk.registry.run("trading.kill")
        )  # on the press, not the release
        return button

    def _lay_out(self) -> None:
        line = QHBoxLayout(self)
        line.setContentsMargins(10, 5, 10, 5)
        line.setSpacing(12)
        for widget in (self.mode, self.trading, self.arm, Separator(), self.pnl, self.open_pnl, self.equity,
                       self.exposure, self.review):  # fmt: skip
            line.addWidget(widget)
        line.addStretch(1)
        line.addWidget(self.clock)
        line.addWidget(self.kill)

    def tick(self) -> None:
        """Show the engine's state of now."""
        store = self.desk.store
        row = store.engine
        mode = mode_of(self.desk.demo, row, list(store.rows(tables.ACCOUNTS).values()))
        self.mode.show_word(mode, MODE_TONES[mode], filled=mode in {"LIVE", "REPLAY"})
        word, tone = STATE_WORDS.get(str(row.get("trading")), ("… Waiting", "muted"))
        if not store.connected:
            word, tone = "? Unknown", "warn"
        self.trading.show_word(word, tone, filled=tone == "crit")
        armed = row.get("trading") == "active"
        text = "Disarm" if armed else ("Re-arm…" if row.get("trading") == "halted" else "Arm…")
        if self.arm.text() != text:
            self.arm.setText(text)
        self._show_money(row, live=store.connected)
        self.tell_time()

    def _show_money(self, row: Row, *, live: bool) -> None:
        quiet = "" if live else "muted"
        for figure, name in ((self.pnl, "day_pnl"), (self.open_pnl, "unrealised")):
            value = row.get(name)
            mark = fmt.arrow(value)
            text = (
                f"{mark} {fmt.compact_money(value, signed=True)}"
                if mark
                else fmt.compact_money(value)
            )
            figure.show_value(text, quiet or fmt.tone_of(value))
        self.equity.show_value(fmt.compact_money(row.get("equity")), quiet)
        self.exposure.show_value(fmt.compact_money(row.get("exposure")), quiet)
        held = row.get("held")
        self.review.show_value(fmt.count(held), quiet or ("warn" if held else ""))


def mode_of(demo: bool, engine: Row, accounts: list[Row]) -> str:
    """Return what is at stake: ``LIVE`` as soon as one switched-on account is."""
    if demo:
        return "DEMO"
    if not engine:
        return "…"
    if engine.get("replay"):
        return "REPLAY"
    if any(row.get("environment") == "live" and row.get("active") for row in accounts):
        return "LIVE"
    return (
        "DEMO"
        if engine.get("simulated") and all(row.get("broker") == "paper" for row in accounts)
        else "PAPER"
    )
