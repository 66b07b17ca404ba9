"""Paints the rows of a ``TableModel``: all cells of an area in one go, with what is costly made once and kept."""

from __future__ import annotations

from collections.abc import Callable, Hashable
from typing import Any, Generic, TypeVar

from PySide6.QtCore import QPointF, QRect, QRectF, Qt
from PySide6.QtGui import QColor, QFont, QFontMetrics, QPainter, QPixmap, QStaticText

from gui.table_look import Column, Look
from gui.table_model import TableModel
from gui.theme import active

PAD = 7
EDGE = 3  # the width of a toned row's mark
CHIP_ALPHA, BAR_ALPHA, TINT_ALPHA, FLASH_ALPHA = 34, 46, 15, 170
Kept = TypeVar("Kept")
Place = tuple[int, int, int]
"""A column in sight, where it begins and how wide it is (pixels)."""


class Recent(Generic[Kept]):
    """Keeps what was made last: at most twice ``most`` things, those asked for lately among them."""

    def __init__(self, most: int) -> None:
        self._most = most
        self._young: dict[Hashable, Kept] = {}
        self._old: dict[Hashable, Kept] = {}

    def __len__(self) -> int:
        return len(self._young) + len(self._old)

    def get(self, name: Hashable) -> Kept | None:
        """Return a thing, if it is still there."""
        found = self._young.get(name)
        if found is None:
            found = self._old.pop(name, None)
            if found is not None:
                self.put(name, found)
        return found

    def put(self, name: Hashable, made: Kept) -> None:
        """Keep a thing; the oldest half leaves when there are too many."""
        if len(self._young) >= self._most:
            self._old, self._young = self._young, {}
        self._young[name] = made

    def clear(self) -> None:
        """Forget everything."""
        self._young.clear()
        self._old.clear()


_texts: Recent[tuple[QStaticText, float]] = Recent(2_048)  # laid out, and how wide; of all tables
_shapes: Recent[QPixmap] = Recent(256)


class RowPainter:
    """Paints cells straight from the model: no roles, no style option, no call back from Qt for each cell."""

    def __init__(self, model: TableModel) -> None:
        self.model = model
        self.current_row: Callable[[], int] = lambda: -1
        self.chosen: list[tuple[int, int]] = []  # selected rows
        self.first = 0  # the column at the left edge
        self.height = 1  # of a row
        self._fonts: dict[str, QFont] = {}
        self._metrics: dict[str, QFontMetrics] = {}
        self._inks: dict[tuple[str, int], QColor] = {}
        self.refresh()

    def refresh(self) -> None:
        """Take fonts and colours of the theme anew."""
        theme = active()
        fonts = {
            "": theme.font(12.5),
            "chip": theme.font(11.5, 500),
            "strong": theme.font(12.5, 500),
        }
        if fonts != self._fonts:  # texts are laid out without colour: another theme leaves them
            self._fonts = fonts
            self._metrics = {name: QFontMetrics(font) for name, font in fonts.items()}
            _texts.clear()
        self._inks.clear()
        _shapes.clear()

    def width_of(self, title: str, texts: list[str]) -> int:
        """Return how wide a column must be for its title and these cells."""
        widest = max(map(self._metrics[""].horizontalAdvance, texts), default=0)
        return max(36, widest + 2 * PAD + 4, self._metrics["strong"].horizontalAdvance(title) + 18)

    def paint(self, painter: QPainter, area: QRect, top: int, places: list[Place]) -> None:
        """Paint the ground and the cells that lie in an area. ``top``: of the first row; ``places``: left to right."""
        painter.fillRect(area, self._ink("surface"))
        left, right = area.left(), area.right()
        hit = [place for place in places if place[1] <= right and place[1] + place[2] > left]
        if not hit:
            return
        first = max(0, (area.top() - top) // self.height)
        last = min((area.bottom() - top) // self.height, len(self.model.order) - 1)
        for at in range(first, last + 1):
            self._row(painter, at, top + at * self.height, hit)

    def _row(self, painter: QPainter, at: int, top: int, places: list[Place]) -> None:
        model = self.model
        key = model.order[at]
        look = model.look(key)
        left, end = places[0][1], places[-1][1] + places[-1][2]
        band = QRect(left, top, end - left, self.height)
        self._ground(painter, band, at)
        if look.tint and not model.stale:
            self._tint(painter, band, look.tint, places[0][0] == self.first)
        flashing = model.flashing_cells(key)
        for column, x, width in places:
            if flashing and (bright := model.flash_of(key, column)) > 0:
                ground = QRect(x, top, width, self.height)
                painter.fillRect(ground, self._ink("flash", int(FLASH_ALPHA * bright)))
            self._cell(painter, model.columns[column], look, column, (x, top, width))

    def _ground(self, painter: QPainter, band: QRect, at: int) -> None:
        if any(top <= at <= end for top, end in self.chosen):
            painter.fillRect(band, self._ink("selection"))
        elif at == self.current_row():
            painter.fillRect(band, self._ink("hover"))
        elif at & 1:
            painter.fillRect(band, self._ink("zebra"))

    def _tint(self, painter: QPainter, band: QRect, tone: str, first: bool) -> None:
        """Lay a breath of a row's tone over it, with a mark at its edge; its cells say the same in words."""
        painter.fillRect(band, self._ink(tone, TINT_ALPHA))
        if first:
            edge = QRect(band.left(), band.top(), EDGE, band.height() - 1)
            painter.fillRect(edge, self._ink(tone))

    def _cell(
        self, painter: QPainter, spec: Column, look: Look, column: int, box: tuple[int, int, int]
    ) -> None:
        text, tone, kind = look.texts[column], look.tones[column], spec.kind
        if kind == "toggle":
            self._toggle(painter, box, text == "On", tone or "accent")
            return
        if kind == "bar":
            self._bar(painter, box, look.shares[column], tone)
        if not text:
            return
        if kind == "chip":
            self._chip(painter, box, text, tone or "muted")
        else:
            self._text(painter, box, text, tone, to_right=kind in {"number", "bar"})

    def _ink(self, tone: str, alpha: int = 255) -> QColor:
        found = self._inks.get((tone, alpha))
        if found is None:
            found = self._inks[tone, alpha] = QColor(active().color(tone, alpha))
        return found

    def _live(self, tone: str) -> str:
        """Return a tone, or muted where what is shown is old."""
        return "muted" if self.model.stale else tone

    # --- kinds of cells -----------------------------------------------------------------------

    def _laid_out(self, text: str, width: int, font: str) -> tuple[QStaticText, float]:
        """Return a text ready to be painted, shortened where it is too wide, and its width."""
        name = (text, width, font)
        found = _texts.get(name)
        if found is None:
            static = self._static(text, font)
            if static.size().width() > width:
                fitting = self._metrics[font].elidedText(text, Qt.TextElideMode.ElideRight, width)
                static = self._static(fitting, font)
            found = static, static.size().width()
            _texts.put(name, found)
        return found

    def _static(self, text: str, font: str) -> QStaticText:
        static = QStaticText(text)
        static.setTextFormat(
            Qt.TextFormat.PlainText
        )  # a broker's words with a tag are shown as such
        static.prepare(font=self._fonts[font])
        return static

    def _text(
        self,
        painter: QPainter,
        box: tuple[int, int, int],
        text: str,
        tone: str,
        *,
        to_right: bool,
    ) -> None:
        left, top, width = box
        laid_out, wide = self._laid_out(text, width - 2 * PAD, "")
        painter.setPen(self._ink(self._live(tone)))
        painter.setFont(self._fonts[""])
        x = left + width - PAD - wide if to_right else left + PAD
        painter.drawStaticText(QPointF(x, top + self._middle("")), laid_out)

    def _middle(self, font: str) -> int:
        """Return how far below a row's top a text begins."""
        return (self.height - self._metrics[font].height()) // 2

    def _chip(self, painter: QPainter, box: tuple[int, int, int], text: str, tone: str) -> None:
        left, top, width = box
        laid_out, wide = self._laid_out(text, width - 14, "chip")
        ink, high = self._live(tone), self._metrics["chip"].height() + 2
        at = QPointF(left + PAD - 3, top + (self.height - high) / 2)
        room = min(round(wide) + 14, width - 6)
        painter.drawPixmap(at, self._shape(painter, ("chip", ink), (room, high), self._paint_chip))
        painter.setPen(self._ink(ink))
        painter.setFont(self._fonts["chip"])
        painter.drawStaticText(
            QPointF(at.x() + (room - wide) / 2, top + self._middle("chip")), laid_out
        )

    def _toggle(self, painter: QPainter, box: tuple[int, int, int], on: bool, tone: str) -> None:
        left, top, _width = box
        name = ("on" if on else "off", self._live(tone) if on else "muted")
        shape = self._shape(painter, name, (26, 15), self._paint_toggle)
        painter.drawPixmap(QPointF(left + PAD - 1, top + (self.height - 15) // 2), shape)

    def _bar(
        self, painter: QPainter, box: tuple[int, int, int], share: float | None, tone: str
    ) -> None:
        if share is None or share <= 0:
            return
        left, top, width = box
        wide = max(2, round((width - 6) * min(share, 1.0)))
        color = self._ink(self._live(tone or "accent"), BAR_ALPHA)
        painter.fillRect(left + 3, top + 4, wide, self.height - 8, color)

    # --- shapes that are painted once ---------------------------------------------------------

    def _shape(
        self,
        painter: QPainter,
        name: tuple[str, str],
        size: tuple[int, int],
        paint: Callable[[QPainter, tuple[str, str], tuple[int, int]], None],
    ) -> QPixmap:
        ratio = painter.device().devicePixelRatioF()
        found = _shapes.get((name, size, ratio))
        if found is None:
            found = QPixmap(round(size[0] * ratio), round(size[1] * ratio))
            found.setDevicePixelRatio(ratio)
            found.fill(Qt.GlobalColor.transparent)
            brush = QPainter(found)
            brush.setRenderHint(QPainter.RenderHint.Antialiasing, True)
            paint(brush, name, size)
            brush.end()
            _shapes.put((name, size, ratio), found)
        return found

    def _paint_chip(self, brush: QPainter, name: tuple[str, str], size: tuple[int, int]) -> None:
        brush.setPen(Qt.PenStyle.NoPen)
        brush.setBrush(self._ink(name[1], CHIP_ALPHA))
        brush.drawRoundedRect(QRectF(0, 0, *size), 4, 4)

    def _paint_toggle(self, brush: QPainter, name: tuple[str, str], _size: Any) -> None:
        on, ink = name[0] == "on", self._ink(name[1])
        box = QRectF(1, 1, 24, 13)
        brush.setPen(Qt.PenStyle.NoPen if on else ink)
        brush.setBrush(ink if on else Qt.BrushStyle.NoBrush)
        brush.drawRoundedRect(box, 6.5, 6.5)
        brush.setBrush(self._ink("surface") if on else ink)
        brush.setPen(Qt.PenStyle.NoPen)
        left = box.right() - 11.5 if on else box.left() + 2
        brush.drawEllipse(QRectF(left, box.top() + 2, 9, 9))
