"""Heat maps of latency, painted by hand: over time by powers of ten, and brokers or accounts against stages."""

from __future__ import annotations

import math
from collections.abc import Iterable
from datetime import UTC, datetime
from typing import Any

from PySide6.QtCore import QEvent, QRect, QRectF, Qt
from PySide6.QtGui import QImage, QMouseEvent, QPainter, QPaintEvent, QResizeEvent
from PySide6.QtWidgets import QAbstractScrollArea, QWidget

from gui import formatting as fmt
from gui.latency_samples import Sample, percentile
from gui.table_view import paint_empty
from gui.theme import active

PER_DECADE = 6
LOW, HIGH = 2.0, 7.0  # decimal logarithms of microseconds: 0.1 ms to 10 s
ROWS = round((HIGH - LOW) * PER_DECADE)
COLUMN_S = 5
MOST_COLUMNS = 360  # half an hour
ALIGN = Qt.AlignmentFlag


class HeatMap(QWidget):
    """How many orders took how long, when: a column every five seconds, darker for more. ``say`` reads a cell."""

    def __init__(self, say: Any) -> None:
        super().__init__()
        self.setAccessibleName("Latency heat map")
        self.setMouseTracking(True)
        self._say = say
        self.counts: Any = None  # numpy: rows from the slowest, columns from the oldest
        self._first = 0.0

    def show_values(self, values: list[tuple[float, float]]) -> None:
        """Show moments (seconds since 1970) with latencies in microseconds."""
        import numpy as np

        if not values:
            self.counts = None
            self.update()
            return
        at = np.array([moment for moment, _ in values])
        last = int(at.max() // COLUMN_S) + 1
        columns = int(min(MOST_COLUMNS, max(24, last - at.min() // COLUMN_S)))
        self._first = float((last - columns) * COLUMN_S)
        x = ((at - self._first) // COLUMN_S).astype(int)
        us = np.maximum([value for _, value in values], 1.0)
        y = np.clip(((np.log10(us) - LOW) * PER_DECADE).astype(int), 0, ROWS - 1)
        counts = np.zeros((ROWS, columns), int)
        seen = x >= 0
        np.add.at(counts, (ROWS - 1 - y[seen], x[seen]), 1)
        self.counts = counts
        self.update()

    def _area(self) -> QRect:
        return self.rect().adjusted(active().px(58), 6, -8, -active().px(20))

    def paintEvent(self, _event: QPaintEvent) -> None:
        """Paint cells and axes."""
        painter = QPainter(self)
        if self.counts is None:
            paint_empty(painter, self.rect().adjusted(24, 8, -24, -8), "Nothing measured yet",
                        "Each answered order is one point.")  # fmt: skip
            painter.end()
            return
        area, theme = self._area(), active()
        painter.drawImage(QRectF(area), self._image())
        painter.setFont(theme.font(11))
        painter.setPen(theme.colors["muted"])
        decades = range(int(LOW), int(HIGH) + 1)
        for decade in decades:
            y = area.bottom() - (decade - LOW) / (HIGH - LOW) * area.height()
            box = QRectF(0, y - 8, area.left() - 6, 16)
            painter.drawText(box, ALIGN.AlignRight | ALIGN.AlignVCenter, fmt.micros(10.0**decade))
        columns = self.counts.shape[1]
        for share in (0.0, 0.5, 1.0):
            text = fmt.Times.clock(_stamp(self._first + share * columns * COLUMN_S))
            x = area.left() + share * area.width()
            align = (ALIGN.AlignLeft, ALIGN.AlignHCenter, ALIGN.AlignRight)[round(2 * share)]
            painter.drawText(QRectF(x - 60 * share, area.bottom() + 3, 60, 16), align, text)
        painter.end()

    def _image(self) -> QImage:
        """Return the cells: the accent over the ground, by the logarithm of the count."""
        import numpy as np

        theme = active()
        ground, ink = theme.colors["surface"], theme.colors["accent"]
        share = np.log1p(self.counts) / math.log1p(max(1, int(self.counts.max())))
        share = np.where(self.counts > 0, 0.18 + 0.82 * share, 0.0)
        pixels = np.empty((*self.counts.shape, 4), np.uint8)
        for place, name in enumerate(("blue", "green", "red")):
            low, high = getattr(ground, name)(), getattr(ink, name)()
            pixels[:, :, place] = low + (high - low) * share
        pixels[:, :, 3] = 255
        rows, columns = self.counts.shape
        return QImage(pixels.tobytes(), columns, rows, 4 * columns, QImage.Format.Format_RGB32)

    def cell_text(self, x: float, y: float) -> str:
        """Return what a place of the widget stands for."""
        area = self._area()
        if self.counts is None or not area.contains(int(x), int(y)):
            return ""
        rows, columns = self.counts.shape
        column = min(columns - 1, int((x - area.left()) / area.width() * columns))
        row = min(rows - 1, int((y - area.top()) / area.height() * rows))
        low = LOW + (rows - 1 - row) / PER_DECADE
        count = int(self.counts[row, column])
        when = fmt.Times.clock(_stamp(self._first + column * COLUMN_S))
        between = f"{fmt.micros(10**low)} to {fmt.micros(10 ** (low + 1 / PER_DECADE))}"
        return f"{when}   {between}   {count} order{'s' if count != 1 else ''}"

    def mouseMoveEvent(self, event: QMouseEvent) -> None:
        """Read the cell under the pointer."""
        self._say(self.cell_text(event.position().x(), event.position().y()))

    def leaveEvent(self, event: QEvent) -> None:
        """Read nothing."""
        self._say("")
        super().leaveEvent(event)


COLUMNS = ("Orders", "Send p50", "Send p99", "Ack p50", "Ack p99", "Worst")


class HeatGrid(QAbstractScrollArea):
    """Rows of brokers or accounts against stages: each cell written out, and darker the slower in its column."""

    def __init__(self) -> None:
        super().__init__()
        self.setAccessibleName("Latency by broker or account")
        self.setFrameShape(self.Shape.NoFrame)
        self.setFocusPolicy(Qt.FocusPolicy.StrongFocus)
        self.rows: list[tuple[str, list[float]]] = []

    def show_samples(self, samples: Iterable[Sample], by: str) -> None:
        """Show samples by ``broker`` or ``account``, the slowest answers first."""
        groups: dict[str, list[Sample]] = {}
        for sample in samples:
            groups.setdefault(getattr(sample, by), []).append(sample)
        rows = []
        for name, found in groups.items():
            send, ack = sorted(s.send_us for s in found), sorted(s.ack_us for s in found)
            figures = [percentile(values, share) for values in (send, ack) for share in (0.5, 0.99)]
            rows.append((name, [float(len(found)), *figures, max(s.total_us for s in found)]))
        self.rows = sorted(rows, key=lambda row: -row[1][4])
        self.setAccessibleDescription(
            "; ".join(
                f"{name}: ack p99 {fmt.micros(figures[4])}" for name, figures in self.rows[:10]
            )
        )
        self._measure()
        self.viewport().update()

    def _measure(self) -> None:
        height = active().px(22)
        over = height * (len(self.rows) + 1) - self.viewport().height()
        self.verticalScrollBar().setRange(0, max(0, over))
        self.verticalScrollBar().setSingleStep(height)
        self.verticalScrollBar().setPageStep(self.viewport().height())

    def resizeEvent(self, event: QResizeEvent) -> None:
        """Scroll as far as there are rows."""
        super().resizeEvent(event)
        self._measure()

    def paintEvent(self, _event: QPaintEvent) -> None:
        """Paint the rows in sight."""
        painter, theme = QPainter(self.viewport()), active()
        area = self.viewport().rect()
        painter.fillRect(area, theme.colors["surface"])
        if not self.rows:
            paint_empty(painter, area.adjusted(24, 8, -24, -8), "Nothing measured yet",
                        "Each answered order is counted with its broker and account.")  # fmt: skip
            painter.end()
            return
        height = theme.px(22)
        names = min(theme.px(130), area.width() // 4)
        width = (area.width() - names) / len(COLUMNS)
        most = [max(figures[at] for _, figures in self.rows) for at in range(len(COLUMNS))]
        painter.setFont(theme.font(12))
        top = height - self.verticalScrollBar().value()
        for name, figures in self.rows:
            if -height < top < area.height():
                cells = list(zip(figures, most, strict=True))
                self._row(painter, QRectF(0, top, names, height), width, name, cells)
            top += height
        painter.fillRect(QRectF(0, 0, area.width(), height), theme.colors["raised"])
        painter.setPen(theme.colors["muted"])
        for at, title in enumerate(COLUMNS):
            box = QRectF(names + at * width, 0, width - 8, height)
            painter.drawText(box, ALIGN.AlignRight | ALIGN.AlignVCenter, title)
        painter.end()

    @staticmethod
    def _row(
        painter: QPainter, box: QRectF, width: float, name: str, cells: list[tuple[float, float]]
    ) -> None:
        theme = active()
        painter.setPen(theme.colors["text"])
        words = fmt.Privacy.veil(name)
        painter.drawText(box.adjusted(10, 0, 0, 0), ALIGN.AlignLeft | ALIGN.AlignVCenter, words)
        for at, (value, most) in enumerate(cells):
            cell = QRectF(box.right() + at * width, box.top(), width, box.height())
            if at and most:
                painter.fillRect(
                    cell.adjusted(1, 1, -1, -1), theme.color("warn", int(70 * value / most))
                )
            text = fmt.micros(value) if at else fmt.count(int(value))
            painter.drawText(
                cell.adjusted(0, 0, -8, 0), ALIGN.AlignRight | ALIGN.AlignVCenter, text
            )


def whose_words(whose: str) -> str:
    """Return a choice of ``Samples.names`` for people."""
    kind, _, name = whose.partition(":")
    return fmt.Privacy.veil(f"{fmt.words(kind)} {name}") if kind else "All brokers"


def _stamp(seconds: float) -> str:
    return datetime.fromtimestamp(seconds, UTC).isoformat()
