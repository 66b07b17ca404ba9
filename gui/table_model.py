"""Tables of live rows: column specifications, the model, and the delegate that paints them.

Raw rows stay as they came; text is made only for cells that are looked at, and kept until the row changes. The
model keeps its own order: new rows and new sort values move rows at most three times a second, and never while
the pointer is over the table or a menu is open on it, so nothing slides under a click.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from time import monotonic
from typing import Any, Protocol

from PySide6.QtCore import (
    QAbstractTableModel,
    QModelIndex,
    QPersistentModelIndex,
    QRect,
    QRectF,
    Qt,
)
from PySide6.QtGui import QBrush, QColor, QFont, QFontMetrics, QPainter
from PySide6.QtGui import Qt as RichText
from PySide6.QtWidgets import QStyledItemDelegate, QStyleOptionViewItem, QWidget

from engine.client import Row
from gui import formatting as fmt
from gui.theme import active

Index = QModelIndex | QPersistentModelIndex
Rows = dict[str, Row]
DISPLAY, DECORATION, TOOL_TIP, FONT, ALIGN = 0, 1, 3, 6, 7
BACKGROUND, FOREGROUND, ACCESSIBLE = 8, 9, 11
RAW = 0x0100  # the raw value of a cell
LEFT = int(Qt.AlignmentFlag.AlignLeft.value | Qt.AlignmentFlag.AlignVCenter.value)
RIGHT = int(Qt.AlignmentFlag.AlignRight.value | Qt.AlignmentFlag.AlignVCenter.value)
CENTRE = int(Qt.AlignmentFlag.AlignCenter.value)
HORIZONTAL = Qt.Orientation.Horizontal
FLASH_S = 0.4
RESORT_S = 0.34
PAD = 7


@dataclass(frozen=True, slots=True)
class Column:
    """One column: where its value comes from, how it is written, painted, sorted and filtered.

    ``kind``: ``text`` (left), ``number`` (right, sorted as a number), ``chip`` (a state in its tone), ``bar`` (a
    share of ``bar``), ``toggle`` (a switch), ``mono`` (identifiers). ``live`` cells are rewritten as time passes.
    """

    key: str
    title: str
    width: int
    kind: str = "text"
    text: Callable[[Row], str] | None = None
    raw: Callable[[Row], Any] | None = None
    tone: Callable[[Row], str] | None = None
    bar: Callable[[Row], float | None] | None = None
    tip: Callable[[Row], str] | None = None
    visible: bool = True
    live: bool = False
    flash: bool = False
    about: str = ""

    def value(self, row: Row) -> Any:
        """Return the raw value: what is sorted, exported and compared."""
        return self.raw(row) if self.raw else row.get(self.key)

    def write(self, row: Row) -> str:
        """Return the text shown."""
        if self.text:
            return self.text(row)
        value = row.get(self.key)
        return "" if value is None else str(value)

    def sort_value(self, row: Row) -> Any:
        """Return what rows are ordered by."""
        value = self.value(row)
        if self.kind in {"number", "bar"}:
            return fmt.number(value)
        return value if value is None or isinstance(value, int | float) else str(value)


class Source(Protocol):
    """Where rows come from (``gui.bridge.Store``)."""

    def rows(self, table: str) -> Rows:
        """Return a table's rows by key."""
        ...

    def watch(
        self,
        table: str,
        changed: Callable[[Iterable[str], Iterable[str]], None],
        reset: Callable[[], None],
    ) -> None:
        """Tell changed and removed keys once a frame; ``reset`` on a snapshot."""
        ...

    def animate(self, step: Callable[[float], bool]) -> None:
        """Call ``step`` once a frame until it says it is done."""
        ...


class TableModel(QAbstractTableModel):
    """Rows of one table of the feed, or rows put here by a panel, in the order the user asked for."""

    def __init__(
        self, columns: tuple[Column, ...], store: Source, parent: QWidget | None = None
    ) -> None:
        super().__init__(parent)
        self.columns = columns
        self.store = store
        self.rows: Rows = {}
        self.order: list[str] = []
        self.pos: dict[str, int] = {}
        self.sort_column = -1
        self.descending = False
        self.filter_text = ""
        self.keep: Callable[[Row], bool] | None = None
        self.frozen: Callable[[], bool] = bool  # bool() is False
        self.visible_span: Callable[[], tuple[int, int]] = lambda: (0, len(self.order) - 1)
        self.flashing = True
        self.stale = False
        self.waiting: dict[str, None] = {}
        self.leaving: dict[str, None] = {}  # changed so that they are not kept any more
        self._cells: dict[str, list[str]] = {}
        self._values: dict[str, Any] = {}  # what rows are ordered by, as of the last look
        self._flashes: dict[str, dict[int, float]] = {}
        self._flash_columns = tuple(at for at, c in enumerate(columns) if c.flash)
        self._live_columns = tuple(at for at, c in enumerate(columns) if c.live)
        self._sort_due = False
        self._sorted_at = 0.0
        self._stepped_at = 0.0

    # --- feeding ------------------------------------------------------------------------------

    def attach(self, table: str) -> None:
        """Show a table of the store."""
        self.rows = self.store.rows(table)
        self.store.watch(table, self.apply, self.load)
        self.load()

    def load(self) -> None:
        """Take every row anew (first connection, reconnection, another filter)."""
        self.beginResetModel()
        self._cells.clear()
        self._values.clear()
        self._flashes.clear()
        self.waiting.clear()
        self.leaving.clear()
        self._set_order(self._arranged())
        self.endResetModel()

    def show_rows(self, rows: Rows) -> None:
        """Show rows of the panel's own; a changed set of keys is a load, else a change of each row."""
        if rows.keys() == self.rows.keys():
            self.rows = rows
            self.apply(rows, ())
        else:
            self.rows = rows
            self.load()

    def apply(self, changed: Iterable[str], removed: Iterable[str]) -> None:
        """Take changed and removed keys; rows that nobody sees cost a dictionary look-up."""
        span = self.visible_span()
        fresh: list[str] = []
        for key in changed:
            if key in self.pos:
                self._apply_one(key, span)
            elif key not in self.waiting and self._passes(self.rows[key]):
                fresh.append(key)
        self._remove([key for key in removed if key in self.pos or key in self.waiting])
        if fresh:
            self.waiting.update(dict.fromkeys(fresh))
        if self.waiting:
            self._admit()
        if self.leaving and not self.frozen():
            self._dismiss()
        if self._restless():
            self.store.animate(self.step)

    def _apply_one(self, key: str, span: tuple[int, int]) -> None:
        at = self.pos[key]
        if not self._kept(key):
            self.leaving[key] = None
        if self.sort_column >= 0:
            value = self.columns[self.sort_column].sort_value(self.rows[key])
            self._sort_due = self._sort_due or value != self._values.get(key)
            self._values[key] = value
        old = self._cells.pop(key, None)
        if span[0] <= at <= span[1]:
            if old is not None and self._flash_columns and self.flashing:
                self._flash(key, old)
            self.dataChanged.emit(self.index(at, 0), self.index(at, len(self.columns) - 1))

    def _kept(self, key: str) -> bool:
        return self.keep is None or self.keep(self.rows[key])

    def _restless(self) -> bool:
        sorting = self._sort_due and self.sort_column >= 0
        return bool(sorting or self.waiting or self.leaving or self._flashes)

    def _dismiss(self) -> None:
        """Take out rows that are not kept any more; they stay while the order is frozen."""
        leaving, self.leaving = self.leaving, {}
        self._remove([key for key in leaving if key in self.rows and not self._kept(key)])

    def _flash(self, key: str, old: list[str]) -> None:
        row = self.rows[key]
        new = self.cells(key)
        hits = {at: monotonic() for at in self._flash_columns if new[at] != old[at] and row}
        if hits:
            self._flashes.setdefault(key, {}).update(hits)

    def step(self, now: float) -> bool:
        """Fade flashes, admit waiting rows, re-sort when due; part of the frame pump."""
        if now - self._stepped_at < 0.08:
            return True
        self._stepped_at = now
        for key in list(self._flashes):
            cells = self._flashes[key]
            for at in [at for at, when in cells.items() if now - when > FLASH_S]:
                del cells[at]
            if not cells:
                del self._flashes[key]
            self._touch(key)
        if not self.frozen():
            if self.leaving:
                self._dismiss()
            if self.waiting:
                self._admit()
            if self._sort_due and self.sort_column >= 0 and now - self._sorted_at >= RESORT_S:
                self.resort()
        return self._restless()

    def tick(self) -> None:
        """Rewrite the cells that change with time alone (ages, countdowns), where they are seen."""
        if not self._live_columns or not self.order:
            return
        first, last = self.visible_span()
        for at in range(max(first, 0), min(last, len(self.order) - 1) + 1):
            cells = self._cells.get(self.order[at])
            if cells is None:
                continue
            row = self.rows[self.order[at]]
            for column in self._live_columns:
                text = self.columns[column].write(row)
                if text != cells[column] or self.columns[column].kind == "bar":
                    cells[column] = text
                    index = self.index(at, column)
                    self.dataChanged.emit(index, index)

    def _touch(self, key: str) -> None:
        at = self.pos.get(key)
        if at is not None:
            self.dataChanged.emit(self.index(at, 0), self.index(at, len(self.columns) - 1))

    def _admit(self) -> None:
        """Insert rows that came, in one batch; they wait while the order is frozen."""
        if self.order and self.frozen():
            return
        fresh = [key for key in self.waiting if key in self.rows and self._kept(key)]
        self.waiting.clear()
        if not fresh:
            return
        column = self.sort_column
        front = self.descending and column >= 0
        block = self._sorted(fresh) if column >= 0 else fresh
        at = 0 if front else len(self.order)
        upper, lower = (block, self.order) if front else (self.order, block)
        if column >= 0 and upper and lower:
            self._sort_due = self._sort_due or not self._in_order(upper[-1], lower[0])
        self.beginInsertRows(QModelIndex(), at, at + len(block) - 1)
        self._set_order(upper + lower)
        self.endInsertRows()

    def _remove(self, keys: list[str]) -> None:
        rows = []
        for key in keys:
            self.waiting.pop(key, None)
            self._cells.pop(key, None)
            self._values.pop(key, None)
            self._flashes.pop(key, None)
            if key in self.pos:
                rows.append(self.pos[key])
        if not rows:
            return
        if len(rows) > 64:
            self.load()
            return
        for at in sorted(rows, reverse=True):
            self.beginRemoveRows(QModelIndex(), at, at)
            del self.order[at]
            self.endRemoveRows()
        self._set_order(self.order)

    # --- order --------------------------------------------------------------------------------

    def _set_order(self, order: list[str]) -> None:
        self.order = order
        self.pos = {key: at for at, key in enumerate(order)}

    def _arranged(self) -> list[str]:
        keys = [key for key, row in self.rows.items() if self._passes(row)]
        self._sort_due = False
        self._sorted_at = monotonic()
        return self._sorted(keys) if self.sort_column >= 0 else keys

    def _sorted(self, keys: list[str]) -> list[str]:
        """Sort by the chosen column; rows without a value come last either way."""
        column, rows, values = self.columns[self.sort_column], self.rows, self._values
        for key in keys:
            if key not in values:
                values[key] = column.sort_value(rows[key])
        known = [key for key in keys if values[key] is not None]
        known.sort(key=values.__getitem__, reverse=self.descending)
        return known + [key for key in keys if values[key] is None]

    def _in_order(self, upper: str, lower: str) -> bool:
        one, other = self._values.get(upper), self._values.get(lower)
        if one is None or other is None:
            return other is None
        return bool(one >= other if self.descending else one <= other)

    def _passes(self, row: Row) -> bool:
        if self.keep is not None and not self.keep(row):
            return False
        if not self.filter_text:
            return True
        blob = " ".join(column.write(row) for column in self.columns if not column.live).lower()
        raw = " ".join(str(value) for value in row.values() if isinstance(value, str)).lower()
        return all(word in blob or word in raw for word in self.filter_text.split())

    def resort(self) -> None:
        """Put rows in order now, keeping selection and scroll with the rows."""
        self._sort_due = False
        self._sorted_at = monotonic()
        order = self._sorted(list(self.order)) if self.sort_column >= 0 else list(self.order)
        if order == self.order:
            return
        self.layoutAboutToBeChanged.emit()
        old = self.persistentIndexList()
        keys = [self.order[index.row()] for index in old]
        self._set_order(order)
        new = [
            self.index(self.pos[key], index.column()) for key, index in zip(keys, old, strict=True)
        ]
        self.changePersistentIndexList(old, new)
        self.layoutChanged.emit()

    def sort(self, column: int, order: Qt.SortOrder = Qt.SortOrder.AscendingOrder) -> None:
        """Sort by a column (the header's click)."""
        self.sort_column = column if column < len(self.columns) else -1
        self._values.clear()
        self.descending = order is Qt.SortOrder.DescendingOrder
        self.resort()

    def set_filter(self, text: str) -> None:
        """Show only rows in which every word of ``text`` occurs."""
        self.filter_text = text.strip().lower()
        self.load()

    # --- Qt's side ----------------------------------------------------------------------------

    def rowCount(self, parent: Index = QModelIndex()) -> int:  # noqa: B008
        """Return the number of rows."""
        return 0 if parent.isValid() else len(self.order)

    def columnCount(self, parent: Index = QModelIndex()) -> int:  # noqa: B008
        """Return the number of columns."""
        return 0 if parent.isValid() else len(self.columns)

    def data(self, index: Index, role: int = DISPLAY) -> Any:
        """Answer the view; the delegate reads cells directly, this serves tools and readers."""
        if role in (DISPLAY, ACCESSIBLE):
            return self.cells(self.order[index.row()])[index.column()]
        if role == ALIGN:
            return RIGHT if self.columns[index.column()].kind == "number" else LEFT
        if role == FOREGROUND:
            tone = self.tone(self.order[index.row()], index.column())
            return QBrush(active().colors[tone]) if tone else None
        if role == TOOL_TIP:
            return self._tip(index)
        if role == RAW:
            return self.columns[index.column()].value(self.rows[self.order[index.row()]])
        return None

    def _tip(self, index: Index) -> str | None:
        column = self.columns[index.column()]
        key = self.order[index.row()]
        text = column.tip(self.rows[key]) if column.tip else self.cells(key)[index.column()]
        # A broker's words with a tag in them are shown, not obeyed.
        return (
            RichText.convertFromPlainText(text) if RichText.mightBeRichText(text) else text
        ) or None

    def headerData(self, section: int, orientation: Qt.Orientation, role: int = DISPLAY) -> Any:
        """Return a column's title, explanation or alignment."""
        if orientation is not HORIZONTAL or section >= len(self.columns):
            return None
        column = self.columns[section]
        if role == DISPLAY:
            mark = ""
            if section == self.sort_column:
                mark = f" {fmt.DOWN}" if self.descending else f" {fmt.UP}"
            return column.title + mark
        if role == TOOL_TIP:
            return column.about or column.title
        if role == ALIGN:
            return RIGHT if column.kind == "number" else LEFT
        return None

    def cells(self, key: str) -> list[str]:
        """Return the texts of a row, made once until it changes."""
        found = self._cells.get(key)
        if found is None:
            row = self.rows.get(key, {})
            found = self._cells[key] = [column.write(row) for column in self.columns]
        return found

    def tone(self, key: str, column: int) -> str:
        """Return the colour token of a cell, empty for plain text."""
        made = self.columns[column].tone
        return made(self.rows.get(key, {})) if made else ""

    def flash_of(self, key: str, column: int) -> float:
        """Return how bright a cell still flashes: 1 just changed, 0 at rest."""
        cells = self._flashes.get(key)
        when = cells.get(column) if cells else None
        return 0.0 if when is None else max(0.0, 1.0 - (monotonic() - when) / FLASH_S)

    def row_at(self, at: int) -> Row | None:
        """Return the row shown at a position."""
        return self.rows.get(self.order[at]) if 0 <= at < len(self.order) else None

    # --- taking it elsewhere ------------------------------------------------------------------

    def as_tsv(self, keys: list[str], columns: list[int]) -> str:
        """Return rows as tab-separated text with a title line, for the clipboard."""
        lines = ["\t".join(self.columns[at].title for at in columns)]
        lines += [
            "\t".join(self.cells(key)[at].replace("\t", " ") for at in columns) for key in keys
        ]
        return "\n".join(lines)

    def as_csv(self) -> str:
        """Return every row shown as CSV: raw values, every column, nothing a spreadsheet would run."""
        out = io.StringIO()
        writer = csv.writer(out, lineterminator="\n")
        writer.writerow([column.key for column in self.columns])
        for key in self.order:
            row = self.rows[key]
            writer.writerow([fmt.csv_cell(column.value(row)) for column in self.columns])
        return out.getvalue()


class RowDelegate(QStyledItemDelegate):
    """Paints cells straight from the model: no roles, no style option, no widget per cell."""

    def __init__(self, model: TableModel, parent: QWidget) -> None:
        super().__init__(parent)
        self.model = model
        self.current_row: Callable[[], int] = lambda: -1
        self.chosen: list[
            tuple[int, int]
        ] = []  # selected rows; asking each cell's option costs 3 µs
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
