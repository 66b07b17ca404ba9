"""What charts are drawn with: imports pyqtgraph, so it is itself imported only when the first chart is made.

Rules measured in practice: pens one pixel wide, no fills under long lines, nothing antialiased that is long, only what
is in sight is handed to the painter, and never more of it than there are pixels to show it.
"""

from __future__ import annotations

from collections.abc import Callable
from time import perf_counter
from typing import Any

import numpy as np
import pyqtgraph as pg
from pyqtgraph.Qt.internals import PrimitiveArray
from PySide6.QtCore import QEvent, QLineF, QObject, QPointF, QRectF, Qt
from PySide6.QtGui import QKeyEvent, QMouseEvent, QPainter, QPaintEvent

from gui.theme import active

Array = Any  # numpy.ndarray of float64
LEFT = Qt.MouseButton.LeftButton
BODY = 0.7  # of a bar's width
FAINT = 120  # of 255: how much of a line's colour


class Plot(pg.PlotWidget):  # type: ignore[misc]
    """A plot that knows what its painting costs, ``cost_ms`` (a moving average), and whether a hand holds it, ``held``.

    While one does, whoever scales it must not: what was under the pointer would be elsewhere before it is dragged.
    """

    def __init__(self, **options: Any) -> None:
        self.cost_ms = 0.0
        self.held = False
        super().__init__(**options)

    def mousePressEvent(self, event: QMouseEvent) -> None:
        """Note the button."""
        self.held = bool(event.buttons() & LEFT)
        super().mousePressEvent(event)

    def mouseMoveEvent(self, event: QMouseEvent) -> None:
        """Note the button: it may have been let go elsewhere."""
        self.held = bool(event.buttons() & LEFT)
        super().mouseMoveEvent(event)

    def mouseReleaseEvent(self, event: QMouseEvent) -> None:
        """Note the button."""
        self.held = bool(event.buttons() & LEFT)
        super().mouseReleaseEvent(event)

    def paintEvent(self, event: QPaintEvent) -> None:
        """Paint, and measure it."""
        began = perf_counter()
        super().paintEvent(event)
        self.cost_ms += 0.2 * ((perf_counter() - began) * 1e3 - self.cost_ms)


class LongLine(pg.PlotCurveItem):  # type: ignore[misc]
    """A line of any length: draws the highest and lowest of each pixel column, from halves computed beforehand.

    ``set_line`` takes sorted ``xs``. A million points cost one pass when they are set, and then nothing more per frame
    than a line of two thousand.
    """

    def __init__(self, **options: Any) -> None:
        super().__init__(skipFiniteCheck=True, **options)
        self._xs = self._ys = np.empty(0)
        self._levels: list[tuple[Array, Array]] = []  # lows and highs of 2, 4, 8, … points
        self._shown: tuple[int, int, int] | None = None

    def set_line(self, xs: Array, ys: Array) -> None:
        """Show another line."""
        self._xs, self._ys = np.asarray(xs, float), np.asarray(ys, float)
        self._levels = []
        lows = highs = self._ys
        while len(lows) >= 512:
            whole = len(lows) // 2 * 2
            lows = np.minimum(lows[0:whole:2], lows[1:whole:2])
            highs = np.maximum(highs[0:whole:2], highs[1:whole:2])
            self._levels.append((lows, highs))
        self._shown = None
        self._follow()

    def viewRangeChanged(self) -> None:
        """Follow the view where it goes."""
        super().viewRangeChanged()
        self._follow()

    def viewTransformChanged(self) -> None:
        """Follow the view's size."""
        super().viewTransformChanged()
        self._follow()

    def dataBounds(self, ax: int, frac: float = 1.0, orthoRange: Any = None) -> Any:  # noqa: N803 (pyqtgraph's)
        """Return the bounds of all of it, not of what is in sight."""
        values = self._ys if ax else self._xs
        return (float(values.min()), float(values.max())) if len(values) else (None, None)

    def _follow(self) -> None:
        box = self.getViewBox()
        if box is None or not len(self._xs):
            if len(self._xs) == 0:
                self.setData([], [])
            return
        left, right = box.viewRange()[0]
        columns = max(200, int(box.width()))
        first = max(0, int(np.searchsorted(self._xs, left)) - 1)
        last = min(len(self._xs), int(np.searchsorted(self._xs, right)) + 1)
        level = 0
        while level < len(self._levels) and (last - first) >> level > columns:
            level += 1
        if self._shown == (first, last, level):
            return
        self._shown = (first, last, level)
        if level == 0:
            self.setData(self._xs[first:last], self._ys[first:last])
            return
        lows, highs = self._levels[level - 1]
        size = 2**level
        begin, end = first // size, min(len(lows), -(-last // size))
        ys = np.empty(2 * (end - begin))
        ys[0::2], ys[1::2] = lows[begin:end], highs[begin:end]
        xs = np.repeat(self._xs[begin * size : end * size : size], 2)
        self.setData(xs, ys)


class Word(pg.TextItem):  # type: ignore[misc]
    """A word in the plot, written anew only when it or its ink changed."""

    def setText(self, text: str, color: Any = None) -> None:
        """Write it."""
        if color is not None and color != self.color:
            self.setColor(color)
        if text != self.toPlainText():
            self.textItem.setFont(active().font(11))
            super().setText(text)


class Candles(pg.GraphicsObject):  # type: ignore[misc]
    """Price bars: hollow where the price rose, filled where it fell. ``width`` in seconds."""

    def __init__(self) -> None:
        super().__init__()
        self.bars: Array = np.empty((0, 5))  # start, open, high, low, close
        self.width = 60.0
        self._lines = PrimitiveArray(QLineF, 4)
        self._rects = PrimitiveArray(QRectF, 4)
        self.restyle()

    def restyle(self) -> None:
        """Take the theme's colours."""
        colors = active().colors
        self._rise = pg.mkPen(colors["pos"], width=1)
        self._fall = pg.mkPen(colors["neg"], width=1)
        self._ground = pg.mkBrush(colors["surface"])
        self._full = pg.mkBrush(colors["neg"])
        self.update()

    def set_bars(self, bars: Array, width: float) -> None:
        """Show other bars."""
        self.prepareGeometryChange()
        self.bars, self.width = bars, width
        self.update()

    def in_sight(self) -> Array:
        """Return the bars between the view's edges."""
        box = self.getViewBox()
        if box is None or not len(self.bars):
            return self.bars
        left, right = box.viewRange()[0]
        starts = self.bars[:, 0]
        return self.bars[
            np.searchsorted(starts, left - self.width) : np.searchsorted(starts, right)
        ]

    def boundingRect(self) -> QRectF:
        """Return where anything is drawn."""
        if not len(self.bars):
            return QRectF()
        left, low = self.bars[0, 0], float(self.bars[:, 3].min())
        right, high = self.bars[-1, 0] + self.width, float(self.bars[:, 2].max())
        return QRectF(left, low, right - left, high - low)

    def paint(self, painter: QPainter, *_: Any) -> None:
        """Draw what is in sight; where bars are narrower than a pixel, columns of them."""
        bars, width = self.in_sight(), self.width
        box = self.getViewBox()
        if not len(bars) or box is None:
            return
        (left, right), pixels = box.viewRange()[0], max(1.0, box.width())
        per_pixel = (right - left) / pixels / width
        if per_pixel > 0.5:
            bars, width = merged(bars, width, max(2, int(np.ceil(per_pixel * 2))))
        rose = bars[:, 4] >= bars[:, 1]
        for which, pen, brush in (
            (rose, self._rise, self._ground),
            (~rose, self._fall, self._full),
        ):
            chosen = bars[which]
            if not len(chosen):
                continue
            painter.setPen(pen)
            painter.setBrush(brush)
            self._draw(painter, chosen, width, bodies=per_pixel <= 0.5)

    def _draw(self, painter: QPainter, bars: Array, width: float, *, bodies: bool) -> None:
        middles = bars[:, 0] + width / 2
        self._lines.resize(len(bars))
        lines = self._lines.ndarray()
        lines[:, 0] = lines[:, 2] = middles
        lines[:, 1], lines[:, 3] = bars[:, 3], bars[:, 2]
        painter.drawLines(*self._lines.drawargs())
        if not bodies:
            return
        self._rects.resize(len(bars))
        rects = self._rects.ndarray()
        rects[:, 0], rects[:, 2] = middles - width * BODY / 2, width * BODY
        rects[:, 1] = np.minimum(bars[:, 1], bars[:, 4])
        rects[:, 3] = np.abs(bars[:, 4] - bars[:, 1])
        painter.drawRects(*self._rects.drawargs())


def merged(bars: Array, width: float, count: int) -> tuple[Array, float]:
    """Return bars ``count`` times as wide, made of these."""
    starts = np.arange(0, len(bars), count)
    made = np.empty((len(starts), 5))
    made[:, 0], made[:, 1] = bars[starts, 0], bars[starts, 1]
    made[:, 2] = np.maximum.reduceat(bars[:, 2], starts)
    made[:, 3] = np.minimum.reduceat(bars[:, 3], starts)
    made[:, 4] = bars[np.minimum(starts + count, len(bars)) - 1, 4]
    return made, width * count


class LevelLine(pg.InfiniteLine):  # type: ignore[misc]
    """A price that something waits at, with its label; one that may be moved is dragged up and down.

    ``moved`` hears each new price while it is dragged, ``dropped`` the last. ``cancel`` puts it back; what the hand
    still does with the button down is then ignored.
    """

    def __init__(self, price: float, text: str, *, tone: str, dashed: bool) -> None:
        self.tone, self.dashed = tone, dashed
        super().__init__(
            pos=price,
            angle=0,
            movable=False,
            label=text,
            labelOpts={"position": 0.98, "anchors": [(1, 0.5), (1, 0.5)], "movable": False},
        )
        self.moved: Callable[[float], None] = lambda _price: None
        self.dropped: Callable[[float], None] = lambda _price: None
        self.moving = False
        self.waiting = False  # for an answer: it stands where it was dropped
        self._from = price
        self._grip = 0.0
        self.restyle()

    def restyle(self) -> None:
        """Take the theme's colours; one that waits for an answer is dotted."""
        theme = active()
        color = theme.colors[self.tone]
        style = Qt.PenStyle.DashLine if self.dashed else Qt.PenStyle.SolidLine
        if self.moving or self.waiting:
            style = Qt.PenStyle.DotLine
        full = self.moving or self.waiting or theme.tokens.name.startswith("contrast")
        # Lines pass by others' labels: what these say is to be read first.
        line = theme.color(self.tone, 255 if full else FAINT)
        self.setPen(pg.mkPen(line, width=1, style=style))
        self.setHoverPen(pg.mkPen(theme.colors["text"], width=1))
        self.label.setColor(color)
        self.label.fill = pg.mkBrush(theme.colors["raised"])
        self.label.border = pg.mkPen(line)
        self.label.textItem.setFont(theme.font(11))
        self.label.update()

    def allow(self, may_move: bool) -> None:
        """Say whether it may be dragged."""
        if may_move != self.movable:
            self.setMovable(may_move)
            self.setCursor(Qt.CursorShape.SizeVerCursor if may_move else Qt.CursorShape.ArrowCursor)

    def tell(self, text: str) -> None:
        """Show another label."""
        if self.label.format != text:
            self.label.setFormat(text)

    def begin(self) -> None:
        """Begin to move it, by hand or by key."""
        if not self.moving:
            self._from = self.value()
            self.moving = True
            self.restyle()

    def move_to(self, price: float) -> None:
        """Move it while it is being moved."""
        self.setPos(price)
        self.moved(price)

    def drop(self) -> None:
        """End the move where it is."""
        if self.moving:
            self.moving = False
            self.restyle()
            self.dropped(self.value())

    def cancel(self) -> None:
        """Put it back where it was."""
        if self.moving:
            self.moving = False
            self.setPos(self._from)
            self.restyle()

    def mouseDragEvent(self, event: Any) -> None:
        """Move with the hand."""
        if not self.movable or event.button() != LEFT:
            event.ignore()
            return
        event.accept()
        if event.isStart():
            self._grip = self.value() - self.mapToParent(event.buttonDownPos()).y()
            self.begin()
        if not self.moving:
            return  # it was cancelled
        self.move_to(self._grip + self.mapToParent(event.pos()).y())
        if event.isFinish():
            self.drop()

    def mouseClickEvent(self, event: Any) -> None:
        """Let clicks pass: only a drag moves it."""
        event.ignore()


class Keys(QObject):
    """Gives a plot's Escape, arrows and Return to whoever wants them first; ``take`` says whether it did."""

    def __init__(self, plot: Plot, take: Callable[[int, bool], bool]) -> None:
        super().__init__(plot)
        self._take = take
        plot.installEventFilter(self)

    def eventFilter(self, _watched: QObject, event: QEvent) -> bool:
        """Offer the key; a shortcut of the same key waits while it is wanted here."""
        kinds = (QEvent.Type.KeyPress, QEvent.Type.ShortcutOverride)
        if event.type() in kinds and isinstance(event, QKeyEvent):
            dry = event.type() is QEvent.Type.ShortcutOverride
            if self._take(event.key(), dry):
                event.accept()
                return True
        return False


def spots(groups: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Return marks as a scatter plot wants them."""
    return [
        {
            "pos": QPointF(mark["x"], mark["y"]),
            "symbol": mark["symbol"],
            "size": mark["size"],
            "pen": pg.mkPen(active().colors[mark["tone"]], width=1),
            "brush": pg.mkBrush(active().colors[mark["tone"] if mark["full"] else "surface"]),
            "data": mark["text"],
        }
        for mark in groups
    ]
