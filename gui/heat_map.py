"""A grid of accounts and symbols, painted by hand: what we expect to be held against what the broker holds.

Only the cells in sight are looked up and painted, each as a text that Qt has laid out once. A cell says everything by
words and signs; colour repeats it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass

from PySide6.QtCore import QEvent, QPoint, QPointF, QRect, QSize, Qt, Signal
from PySide6.QtGui import (
    QAccessible,
    QAccessibleEvent,
    QColor,
    QContextMenuEvent,
    QFont,
    QFontMetrics,
    QHelpEvent,
    QKeyEvent,
    QMouseEvent,
    QPainter,
    QPaintEvent,
    QResizeEvent,
    QStaticText,
    QTransform,
)
from PySide6.QtWidgets import QAbstractScrollArea, QFrame, QMenu, QToolTip

from gui.formatting import Privacy
from gui.table_view import paint_empty
from gui.theme import active

CELL_WIDTH = 104
NAME_WIDTH = 96
CACHED_TEXTS = 8_192
PAD = 8


@dataclass(frozen=True, slots=True)
class Cell:
    """One cell: its text, the tone of the text, the tone of its ground and how strong that is (0 to 1), a frame."""

    text: str
    tone: str = ""
    ground: str = ""
    strength: float = 0.0


class HeatMap(QAbstractScrollArea):
    """The grid. ``cell`` says what stands in one, ``words`` what that means; rows and columns are set from outside."""

    moved = Signal()  # another cell is the current one
    chosen = Signal()  # Enter, or a double click

    def __init__(self, cell: Callable[[str, str], Cell], words: Callable[[str, str], str]) -> None:
        super().__init__()
        self.cell = cell
        self.words = words
        self.rows: list[str] = []
        self.columns: list[str] = []
        self.current = (0, 0)  # row, column
        self.empty_title = ""
        self.empty_text = ""
        self.fill_menu: Callable[[QMenu], None] | None = None
        self.menu_guard: Callable[[QMenu], None] | None = None
        self.stale = False
        self._texts: dict[tuple[str, bool], tuple[QStaticText, float]] = {}
        self._grounds: dict[tuple[str, float], QColor] = {}
        self._painted: dict[tuple[str, str], Cell] = {}
        self.setFrameShape(QFrame.Shape.NoFrame)
        self.setFocusPolicy(Qt.FocusPolicy.StrongFocus)
        self.viewport().setMouseTracking(True)
        active().changed.connect(self.restyle)
        self.restyle()

    def restyle(self) -> None:
        """Take fonts, colours and sizes of the theme."""
        theme = active()
        self._font: QFont = theme.font(12)
        self._strong: QFont = theme.font(12, 600)
        self._metrics = QFontMetrics(self._font)
        self._texts.clear()
        self._grounds.clear()
        self.cell_size = QSize(theme.px(CELL_WIDTH), theme.row_height)
        self.head = QSize(theme.px(NAME_WIDTH), theme.row_height + 2)
        self._measure()
        self.viewport().update()

    # --- what is shown ------------------------------------------------------------------------

    def set_axes(self, rows: list[str], columns: list[str]) -> None:
        """Show other rows and columns; the current cell stays on its account and symbol where they are still there."""
        if rows == self.rows and columns == self.columns:
            return
        at = self.current_names()
        self.rows, self.columns = rows, columns
        row = rows.index(at[0]) if at and at[0] in rows else 0
        column = columns.index(at[1]) if at and at[1] in columns else 0
        self.current = (row, column)
        self._measure()
        self.viewport().update()
        self.moved.emit()

    def touch(self, cells: Iterable[tuple[str, str]]) -> None:
        """Repaint if one of the cells that were painted says something else now."""
        for names in cells:
            before = self._painted.get(names)
            if before is not None and self.cell(*names) != before:
                self.viewport().update()
                return

    def current_names(self) -> tuple[str, str] | None:
        """Return account and symbol of the current cell."""
        row, column = self.current
        if row < len(self.rows) and column < len(self.columns):
            return self.rows[row], self.columns[column]
        return None

    def go_to(self, row: int, column: int) -> None:
        """Make a cell the current one and bring it into sight."""
        if not self.rows or not self.columns:
            return
        row = max(0, min(row, len(self.rows) - 1))
        column = max(0, min(column, len(self.columns) - 1))
        changed = (row, column) != self.current
        self.current = (row, column)
        self._bring_in(row, column)
        self.viewport().update()
        if changed:
            self._speak()
            self.moved.emit()

    def _speak(self) -> None:
        names = self.current_names()
        if names is not None:
            self.setAccessibleDescription(self.words(*names).replace("\n", ", "))
            QAccessible.updateAccessibility(
                QAccessibleEvent(self, QAccessible.Event.DescriptionChanged)
            )

    # --- geometry -----------------------------------------------------------------------------

    def _measure(self) -> None:
        view, cell = self.viewport().size(), self.cell_size
        wide = len(self.columns) * cell.width() - (view.width() - self.head.width())
        high = len(self.rows) * cell.height() - (view.height() - self.head.height())
        for bar, most, step, page in (
            (self.horizontalScrollBar(), wide, cell.width(), view.width() - self.head.width()),
            (self.verticalScrollBar(), high, cell.height(), view.height() - self.head.height()),
        ):
            bar.setRange(0, max(0, most))
            bar.setSingleStep(step)
            bar.setPageStep(max(step, page))

    def _bring_in(self, row: int, column: int) -> None:
        cell = self.cell_size
        view = self.viewport().size()
        for bar, at, size, room in (
            (self.horizontalScrollBar(), column * cell.width(), cell.width(), view.width() - self.head.width()),
            (self.verticalScrollBar(), row * cell.height(), cell.height(), view.height() - self.head.height()),
        ):  # fmt: skip
            if at < bar.value():
                bar.setValue(at)
            elif at + size > bar.value() + room:
                bar.setValue(at + size - room)

    def span(self) -> tuple[range, range]:
        """Return the rows and columns in sight."""
        cell, view = self.cell_size, self.viewport().size()
        x, y = self.horizontalScrollBar().value(), self.verticalScrollBar().value()
        room = view.width() - self.head.width(), view.height() - self.head.height()
        rows = range(y // cell.height(), min(len(self.rows), (y + room[1]) // cell.height() + 1))
        columns = range(
            x // cell.width(), min(len(self.columns), (x + room[0]) // cell.width() + 1)
        )
        return rows, columns

    def at(self, where: QPoint) -> tuple[int, int] | None:
        """Return row and column under a point of the viewport."""
        x, y = where.x() - self.head.width(), where.y() - self.head.height()
        if x < 0 or y < 0:
            return None
        row = (y + self.verticalScrollBar().value()) // self.cell_size.height()
        column = (x + self.horizontalScrollBar().value()) // self.cell_size.width()
        return (row, column) if row < len(self.rows) and column < len(self.columns) else None

    def box(self, row: int, column: int) -> QRect:
        """Return where a cell is painted."""
        cell = self.cell_size
        left = self.head.width() + column * cell.width() - self.horizontalScrollBar().value()
        top = self.head.height() + row * cell.height() - self.verticalScrollBar().value()
        return QRect(left, top, cell.width(), cell.height())

    # --- painting -----------------------------------------------------------------------------

    def _text(self, text: str, *, strong: bool = False) -> tuple[QStaticText, float]:
        """Return a text as Qt has laid it out, and its width."""
        found = self._texts.get((text, strong))
        if found is None:
            if len(self._texts) >= CACHED_TEXTS:
                self._texts.clear()
            made = QStaticText(text)
            made.setTextFormat(Qt.TextFormat.PlainText)
            made.prepare(QTransform(), self._strong if strong else self._font)
            found = self._texts[(text, strong)] = made, made.size().width()
        return found

    def _ground(self, cell: Cell) -> QColor:
        key = cell.ground, cell.strength
        found = self._grounds.get(key)
        if found is None:
            alpha = int(24 + 110 * min(cell.strength, 1.0))
            found = self._grounds[key] = active().color(cell.ground, alpha)
        return found

    def paintEvent(self, _event: QPaintEvent) -> None:
        """Paint the cells in sight, then the names over them."""
        painter = QPainter(self.viewport())
        painter.fillRect(self.viewport().rect(), active().colors["surface"])
        if not self.rows or not self.columns:
            box = self.viewport().rect().adjusted(24, 8, -24, -8)
            paint_empty(painter, box, self.empty_title, self.empty_text)
            painter.end()
            self._painted.clear()
            return
        rows, columns = self.span()
        self._paint_cells(painter, rows, columns)
        self._paint_names(painter, rows, columns)
        painter.end()

    def _paint_cells(self, painter: QPainter, rows: range, columns: range) -> None:
        painted: dict[tuple[str, str], Cell] = {}
        texts: dict[
            str, list[tuple[float, float, QStaticText]]
        ] = {}  # by tone: a pen is set once for each
        x, y = self.horizontalScrollBar().value(), self.verticalScrollBar().value()
        wide, high = self.cell_size.width(), self.cell_size.height()
        lift = (high - self._metrics.height()) / 2
        look, lay_out = self.cell, self._text
        lefts = [(self.columns[at], self.head.width() + at * wide - x) for at in columns]
        for row in rows:
            account, up = self.rows[row], self.head.height() + row * high - y
            for symbol, left in lefts:
                names = account, symbol
                cell = painted[names] = look(account, symbol)
                if cell.strength > 0:
                    painter.fillRect(left + 1, up + 1, wide - 1, high - 1, self._ground(cell))
                text, width = lay_out(cell.text)
                tone = "muted" if self.stale else cell.tone
                texts.setdefault(tone, []).append((left + wide - PAD - width, up + lift, text))
        painter.setFont(self._font)
        colors = active().colors
        for tone, words in texts.items():
            painter.setPen(colors[tone])
            for left_at, up_at, text in words:
                painter.drawStaticText(int(left_at), int(up_at), text)
        self._painted = painted
        painter.setPen(colors["accent" if self.hasFocus() else "edge"])
        painter.drawRect(self.box(*self.current).adjusted(0, 0, -1, -1))

    def _paint_names(self, painter: QPainter, rows: range, columns: range) -> None:
        theme, view = active(), self.viewport()
        wide, high = self.cell_size.width(), self.cell_size.height()
        painter.fillRect(QRect(0, 0, view.width(), self.head.height()), theme.colors["raised"])
        painter.fillRect(QRect(0, 0, self.head.width(), view.height()), theme.colors["raised"])
        painter.setFont(self._strong)
        lift = (high - self._metrics.height()) / 2
        here = self.current
        painter.setClipRect(QRect(self.head.width(), 0, view.width(), self.head.height()))
        for column in columns:
            text, width = self._text(self.columns[column], strong=True)
            painter.setPen(theme.colors["text" if column == here[1] else "muted"])
            left = self.head.width() + (column + 1) * wide - self.horizontalScrollBar().value()
            painter.drawStaticText(QPointF(left - PAD - width, lift), text)
        painter.setClipRect(QRect(0, self.head.height(), self.head.width(), view.height()))
        for row in rows:
            text, _width = self._text(Privacy.veil(self.rows[row]), strong=True)
            painter.setPen(theme.colors["text" if row == here[0] else "muted"])
            up = self.head.height() + row * high - self.verticalScrollBar().value()
            painter.drawStaticText(QPointF(PAD, up + lift), text)
        painter.setClipping(False)
        painter.fillRect(QRect(0, self.head.height() - 1, view.width(), 1), theme.colors["line"])
        painter.fillRect(QRect(self.head.width() - 1, 0, 1, view.height()), theme.colors["line"])

    # --- hands --------------------------------------------------------------------------------

    def keyPressEvent(self, event: QKeyEvent) -> None:
        """Move by arrows, pages, Home and End; Enter acts."""
        row, column = self.current
        page = max(1, len(self.span()[0]) - 2)
        far = bool(event.modifiers() & Qt.KeyboardModifier.ControlModifier)
        last_row, last_column = len(self.rows) - 1, len(self.columns) - 1
        keys = {
            Qt.Key.Key_Left: (row, column - 1),
            Qt.Key.Key_Right: (row, column + 1),
            Qt.Key.Key_Up: (row - 1, column),
            Qt.Key.Key_Down: (row + 1, column),
            Qt.Key.Key_PageUp: (row - page, column),
            Qt.Key.Key_PageDown: (row + page, column),
            Qt.Key.Key_Home: (0 if far else row, 0),
            Qt.Key.Key_End: (last_row if far else row, last_column),
        }
        if (to := keys.get(Qt.Key(event.key()))) is not None:
            self.go_to(*to)
        elif event.key() in {Qt.Key.Key_Return, Qt.Key.Key_Enter}:
            self.chosen.emit()
        else:
            super().keyPressEvent(event)

    def mousePressEvent(self, event: QMouseEvent) -> None:
        """Make the cell under the pointer the current one."""
        found = self.at(event.position().toPoint())
        if found is not None:
            self.go_to(*found)

    def mouseDoubleClickEvent(self, event: QMouseEvent) -> None:
        """Act on the cell under the pointer."""
        if self.at(event.position().toPoint()) is not None:
            self.chosen.emit()

    def contextMenuEvent(self, event: QContextMenuEvent) -> None:
        """Open the menu of the cell under the pointer, or of the current one."""
        if event.reason() is QContextMenuEvent.Reason.Mouse:
            found = self.at(self.viewport().mapFromGlobal(event.globalPos()))
            if found is not None:
                self.go_to(*found)
            where = event.globalPos()
        else:
            where = self.viewport().mapToGlobal(self.box(*self.current).bottomLeft())
        if self.fill_menu is None or self.current_names() is None:
            return
        menu = QMenu(self)
        menu.setAttribute(Qt.WidgetAttribute.WA_DeleteOnClose)
        self.fill_menu(menu)
        if self.menu_guard:
            self.menu_guard(menu)
        menu.popup(where)

    def viewportEvent(self, event: QEvent) -> bool:
        """Say in words what the cell under the pointer means."""
        if event.type() is QEvent.Type.ToolTip:
            help_event: QHelpEvent = event  # type: ignore[assignment]
            found = self.at(help_event.pos())
            if found is None:
                QToolTip.hideText()
            else:
                words = Privacy.veil(self.words(self.rows[found[0]], self.columns[found[1]]))
                QToolTip.showText(help_event.globalPos(), words, self.viewport())
            return True
        return super().viewportEvent(event)

    def resizeEvent(self, event: QResizeEvent) -> None:
        """Measure what can be scrolled."""
        super().resizeEvent(event)
        self._measure()

    def scrollContentsBy(self, _dx: int, _dy: int) -> None:
        """Repaint: names stay where they are."""
        self.viewport().update()
