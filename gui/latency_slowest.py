"""The slowest orders, each with its waterfall: what of the time was ours, the wire's and the broker's."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any

from PySide6.QtCore import QRectF, Qt
from PySide6.QtGui import QKeyEvent, QMouseEvent, QPainter, QPaintEvent
from PySide6.QtWidgets import QAbstractScrollArea

from gui import formatting as fmt
from gui.latency_samples import Sample
from gui.table_view import paint_empty
from gui.theme import active

STAGES = (
    ("validated", "Validate", "muted"),
    ("durable", "Store", "warn"),
    ("planned", "Plan", "text"),
    ("first_byte", "Wait and send", "accent"),
    ("last_byte", "Write", "pos"),
    ("first_ack", "Broker", "neg"),
)
ALIGN = Qt.AlignmentFlag
Part = tuple[str, str, float]  # title, ink, microseconds


def parts_of(sample: Sample, trace: dict[str, Any] | None) -> list[Part]:
    """Return the parts of an order's time one after the other; without its trace the two that its row tells."""
    if not trace or not trace.get("first_ack"):
        return [("Wait and send", "accent", sample.send_us), ("Broker", "neg", sample.ack_us)]
    parts, before = [], 0.0
    for name, title, ink in STAGES:
        at = fmt.number(trace.get(name))
        if at is not None and at / 1e3 >= before:
            parts.append((title, ink, at / 1e3 - before))
            before = at / 1e3
    return parts


class Slowest(QAbstractScrollArea):
    """A row an order; Return or a double click calls ``open_signal`` with its signal."""

    def __init__(self, open_signal: Callable[[str], None]) -> None:
        super().__init__()
        self.setAccessibleName("Slowest orders")
        self.setFrameShape(self.Shape.NoFrame)
        self.setFocusPolicy(Qt.FocusPolicy.StrongFocus)
        self._open = open_signal
        self.rows: list[tuple[Sample, list[Part]]] = []
        self.chosen = 0

    def show_rows(self, rows: list[tuple[Sample, list[Part]]]) -> None:
        """Show these, the worst first; the chosen order stays chosen."""
        kept = self.rows[self.chosen][0].key if self.chosen < len(self.rows) else ""
        self.rows = rows
        self.chosen = next((n for n, (sample, _) in enumerate(rows) if sample.key == kept), 0)
        self._measure()
        self._describe()
        self.viewport().update()

    def _measure(self) -> None:
        over = self._height() * (len(self.rows) + 1) - self.viewport().height()
        self.verticalScrollBar().setRange(0, max(0, over))
        self.verticalScrollBar().setSingleStep(self._height())
        self.verticalScrollBar().setPageStep(self.viewport().height())

    def _height(self) -> int:
        return active().px(22)

    def _describe(self) -> None:
        if self.chosen < len(self.rows):
            sample, parts = self.rows[self.chosen]
            said = ", ".join(f"{title} {fmt.micros(us)}" for title, _, us in parts)
            self.setAccessibleDescription(
                fmt.Privacy.veil(f"{sample.account} {sample.symbol}: {said}")
            )
            self.viewport().setToolTip(self.accessibleDescription())

    def choose(self, row: int) -> None:
        """Choose a row and scroll to it."""
        if self.rows:
            self.chosen = max(0, min(len(self.rows) - 1, row))
            bar, top = self.verticalScrollBar(), self._height() * self.chosen
            if top < bar.value():
                bar.setValue(top)
            elif top + 2 * self._height() > bar.value() + self.viewport().height():
                bar.setValue(top + 2 * self._height() - self.viewport().height())
            self._describe()
            self.viewport().update()

    def keyPressEvent(self, event: QKeyEvent) -> None:
        """Walk with the arrows, open with Return."""
        step = {Qt.Key.Key_Up: -1, Qt.Key.Key_Down: 1}.get(Qt.Key(event.key()), 0)
        if step:
            self.choose(self.chosen + step)
        elif event.key() in {Qt.Key.Key_Return, Qt.Key.Key_Enter} and self.rows:
            self._open(self.rows[self.chosen][0].signal)
        else:
            super().keyPressEvent(event)

    def _row_at(self, y: float) -> int:
        return int((y + self.verticalScrollBar().value()) // self._height()) - 1

    def mousePressEvent(self, event: QMouseEvent) -> None:
        """Choose the row under the pointer."""
        if 0 <= self._row_at(event.position().y()) < len(self.rows):
            self.choose(self._row_at(event.position().y()))

    def mouseDoubleClickEvent(self, event: QMouseEvent) -> None:
        """Open the signal of the row under the pointer."""
        row = self._row_at(event.position().y())
        if 0 <= row < len(self.rows):
            self._open(self.rows[row][0].signal)

    def paintEvent(self, _event: QPaintEvent) -> None:
        """Paint the rows in sight under a legend."""
        painter, theme, area = QPainter(self.viewport()), active(), self.viewport().rect()
        painter.fillRect(area, theme.colors["surface"])
        if not self.rows:
            paint_empty(painter, area.adjusted(24, 8, -24, -8), "No answered order yet",
                        "The twenty slowest appear here with what took the time.")  # fmt: skip
            painter.end()
            return
        painter.setFont(theme.font(12))
        most = max(sum(us for _, _, us in parts) for _, parts in self.rows) or 1.0
        top = self._height() - self.verticalScrollBar().value()
        for number, (sample, parts) in enumerate(self.rows):
            if -self._height() < top < area.height():
                box = QRectF(0, top, area.width(), self._height())
                self._row(painter, box, number, sample, parts, most)
            top += self._height()
        self._legend(painter)
        painter.end()

    def _row(
        self,
        painter: QPainter,
        box: QRectF,
        number: int,
        sample: Sample,
        parts: list[Part],
        most: float,
    ) -> None:
        theme = active()
        if number == self.chosen:
            painter.fillRect(box, theme.colors["selection"])
        words = theme.px(270)
        when = fmt.Times.clock(datetime.fromtimestamp(sample.at, UTC).isoformat())
        text = f"{when}  {fmt.Privacy.veil(sample.account)}  {sample.broker}  {fmt.side(sample.side)} {sample.symbol}"
        painter.setPen(theme.colors["text"])
        painter.drawText(box.adjusted(10, 0, 0, 0), ALIGN.AlignLeft | ALIGN.AlignVCenter, text)
        painter.drawText(QRectF(words, box.top(), theme.px(66), box.height()), ALIGN.AlignRight | ALIGN.AlignVCenter,
                         fmt.micros(sum(us for _, _, us in parts)))  # fmt: skip
        left = float(words + theme.px(76))
        scale = max(1.0, box.width() - left - 8) / most
        for at, (_, ink, us) in enumerate(parts):
            bar = QRectF(left, box.top() + 5, max(1.0, us * scale), box.height() - 10)
            painter.fillRect(bar, theme.color(ink, 150 if at % 2 else 220))
            left += us * scale

    def _legend(self, painter: QPainter) -> None:
        theme = active()
        painter.fillRect(
            QRectF(0, 0, self.viewport().width(), self._height()), theme.colors["raised"]
        )
        painter.setPen(theme.colors["muted"])
        x = 10.0
        for _, title, ink in STAGES:
            painter.fillRect(QRectF(x, self._height() / 2 - 4, 8, 8), theme.colors[ink])
            box = QRectF(x + 12, 0, 140, self._height())
            painter.drawText(box, ALIGN.AlignLeft | ALIGN.AlignVCenter, title)
            x += 12 + painter.fontMetrics().horizontalAdvance(title) + 14
