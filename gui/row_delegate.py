"""Paints the rows of a ``TableModel``."""

from __future__ import annotations

from collections.abc import Callable

from PySide6.QtCore import QRect, QRectF, Qt
from PySide6.QtGui import QColor, QFont, QFontMetrics, QPainter
from PySide6.QtWidgets import QStyledItemDelegate, QStyleOptionViewItem, QWidget

from gui.table_model import CENTRE, LEFT, RIGHT, Index, TableModel
from gui.theme import active

PAD = 7
EDGE = 3  # the width of a toned row's mark


class RowDelegate(QStyledItemDelegate):
    """Paints cells straight from the model: no roles, no style option, no widget per cell."""

    def __init__(self, model: TableModel, parent: QWidget) -> None:
        super().__init__(parent)
        self.model = model
        self.current_row: Callable[[], int] = lambda: -1
        self.chosen: list[
            tuple[int, int]
        ] = []  # selected rows; asking each cell's option costs 3 µs
        self.first = 0  # the column at the left edge
        self._fonts: dict[str, QFont] = {}
        self._metrics: dict[str, QFontMetrics] = {}
        self._elided: dict[tuple[str, int, str], str] = {}
        self.refresh()

    def refresh(self) -> None:
        """Take fonts of the theme anew."""
        theme = active()
        self._fonts = {
            "": theme.font(12.5),
            "chip": theme.font(11.5, 500),
            "strong": theme.font(12.5, 500),
        }
        self._metrics = {name: QFontMetrics(font) for name, font in self._fonts.items()}
        self._elided.clear()

    def width_of(self, title: str, texts: list[str]) -> int:
        """Return how wide a column must be for its title and these cells."""
        widest = max(map(self._metrics[""].horizontalAdvance, texts), default=0)
        return max(36, widest + 2 * PAD + 4, self._metrics["strong"].horizontalAdvance(title) + 18)

    def paint(self, painter: QPainter, option: QStyleOptionViewItem, index: Index) -> None:
        """Paint one cell."""
        model, theme = self.model, active()
        at, column = index.row(), index.column()
        if at >= len(model.order):
            return
        key = model.order[at]
        spec = model.columns[column]
        rect: QRect = option.rect
        self._ground(painter, rect, at, any(top <= at <= end for top, end in self.chosen))
        if model.row_tone is not None:
            self._tint(painter, rect, model.row_tone(model.rows.get(key, {})), column == self.first)
        bright = model.flash_of(key, column)
        if bright > 0:
            painter.fillRect(rect, theme.color("flash", int(170 * bright)))
        text = model.cells(key)[column]
        tone = model.tone(key, column)
        if spec.kind == "chip":
            self._chip(painter, rect, text, tone)
        elif spec.kind == "toggle":
            self._toggle(painter, rect, text, tone)
        else:
            if spec.kind == "bar":
                share = spec.bar(model.rows.get(key, {})) if spec.bar else None
                self._bar(painter, rect, share, tone)
            self._text(painter, rect, text, tone, RIGHT if spec.kind in {"number", "bar"} else LEFT)

    def _tint(self, painter: QPainter, rect: QRect, tone: str, first: bool) -> None:
        """Lay a breath of a row's tone over it, with a mark at its edge; its cells say the same in words."""
        if tone and not self.model.stale:
            theme = active()
            painter.fillRect(rect, theme.color(tone, 15))
            if first:
                edge = QRect(rect.left(), rect.top(), EDGE, rect.height() - 1)
                painter.fillRect(edge, theme.colors[tone])

    def _ground(self, painter: QPainter, rect: QRect, at: int, selected: bool) -> None:
        theme = active()
        if selected:
            painter.fillRect(rect, theme.colors["selection"])
        elif at == self.current_row():
            painter.fillRect(rect, theme.colors["hover"])
        elif at & 1:
            painter.fillRect(rect, theme.colors["zebra"])

    def _text(self, painter: QPainter, rect: QRect, text: str, tone: str, align: int) -> None:
        if not text:
            return
        theme = active()
        color = theme.colors["muted"] if self.model.stale else theme.colors[tone]
        painter.setPen(color)
        painter.setFont(self._fonts[""])
        inner = rect.adjusted(PAD, 0, -PAD, 0)
        painter.drawText(inner, align, self._fit(text, inner.width(), ""))

    def _fit(self, text: str, width: int, font: str) -> str:
        found = self._elided.get((text, width, font))
        if found is None:
            if len(self._elided) > 20_000:
                self._elided.clear()
            found = self._metrics[font].elidedText(text, Qt.TextElideMode.ElideRight, width)
            self._elided[(text, width, font)] = found
        return found

    def _chip(self, painter: QPainter, rect: QRect, text: str, tone: str) -> None:
        if not text:
            return
        theme = active()
        ink = theme.colors["muted"] if self.model.stale or not tone else theme.colors[tone]
        metrics = self._metrics["chip"]
        width = min(metrics.horizontalAdvance(text) + 14, rect.width() - 6)
        height = metrics.height() + 2
        top = rect.top() + (rect.height() - height) / 2
        box = QRectF(rect.left() + PAD - 3, top, width, height)
        ground = QColor(ink)
        ground.setAlpha(34)
        painter.setRenderHint(QPainter.RenderHint.Antialiasing, True)
        painter.setPen(Qt.PenStyle.NoPen)
        painter.setBrush(ground)
        painter.drawRoundedRect(box, 4, 4)
        painter.setPen(ink)
        painter.setFont(self._fonts["chip"])
        painter.drawText(box, CENTRE, self._fit(text, int(width) - 8, "chip"))

    def _toggle(self, painter: QPainter, rect: QRect, text: str, tone: str) -> None:
        theme = active()
        on = text == "On"
        ink = (
            theme.colors["muted"] if self.model.stale or not on else theme.colors[tone or "accent"]
        )
        box = QRectF(rect.left() + PAD, rect.center().y() - 5.5, 24, 13)
        painter.setRenderHint(QPainter.RenderHint.Antialiasing, True)
        painter.setPen(Qt.PenStyle.NoPen if on else ink)
        painter.setBrush(ink if on else Qt.BrushStyle.NoBrush)
        painter.drawRoundedRect(box, 6.5, 6.5)
        painter.setBrush(theme.colors["surface"] if on else ink)
        painter.setPen(Qt.PenStyle.NoPen)
        left = box.right() - 11.5 if on else box.left() + 2
        painter.drawEllipse(QRectF(left, box.top() + 2, 9, 9))

    def _bar(self, painter: QPainter, rect: QRect, share: float | None, tone: str) -> None:
        if share is None or share <= 0:
            return
        theme = active()
        inner = rect.adjusted(3, 4, -3, -4)
        width = max(2, round(inner.width() * min(share, 1.0)))
        color = theme.color("muted" if self.model.stale else tone or "accent", 46)
        painter.fillRect(QRect(inner.left(), inner.top(), width, inner.height()), color)
