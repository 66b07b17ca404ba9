"""What the cells of a table say, and how Qt asks for it (``row_painter`` paints them).

Raw rows stay as they came; text is made only for cells that are looked at, and kept until the row changes; only cells
that look different then are told. Which rows there are, and in what order, a subclass says (``gui.table_model``).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from decimal import Decimal, InvalidOperation
from time import monotonic
from typing import Any

from PySide6.QtCore import QAbstractTableModel, QModelIndex, QPersistentModelIndex, Qt
from PySide6.QtGui import QBrush
from PySide6.QtGui import Qt as RichText
from PySide6.QtWidgets import QWidget

from engine.client import Row
from engine.sheets import safe_cell
from gui import formatting as fmt
from gui.table_look import Changes, Column, Look
from gui.theme import active

Index = QModelIndex | QPersistentModelIndex
Rows = dict[str, Row]
DISPLAY, DECORATION, TOOL_TIP, FONT, ALIGN = 0, 1, 3, 6, 7
BACKGROUND, FOREGROUND, ACCESSIBLE = 8, 9, 11
RAW = 0x0100  # the raw value of a cell
LEFT = int(Qt.AlignmentFlag.AlignLeft.value | Qt.AlignmentFlag.AlignVCenter.value)
RIGHT = int(Qt.AlignmentFlag.AlignRight.value | Qt.AlignmentFlag.AlignVCenter.value)
HORIZONTAL = Qt.Orientation.Horizontal
FLASH_S = 0.4
MOST_LOOKS = 512  # several screens of rows
_ONE_CELL = str.maketrans("\t\r\n", "   ")


class CellModel(QAbstractTableModel):
    """Rows in an order, with their looks."""

    def __init__(self, columns: tuple[Column, ...], parent: QWidget | None = None) -> None:
        super().__init__(parent)
        self.columns = columns
        self.rows: Rows = {}
        self.order: list[str] = []
        self.pos: dict[str, int] = {}
        self.sorting: list[
            tuple[int, bool]
        ] = []  # column and whether from the top down, first things first
        self.row_tone: Callable[[Row], str] | None = None
        self.visible_span: Callable[[], tuple[int, int]] = lambda: (0, len(self.order) - 1)
        self.lively = False  # a cell in sight shows tenths of a second
        self._looks: dict[str, Look] = {}
        self._flashes: dict[str, dict[int, float]] = {}
        self._flash_columns = tuple(at for at, c in enumerate(columns) if c.flash)
        self._fields = tuple(column.field for column in columns)

    def _rewrite(self, look: Look, row: Row) -> Iterable[int]:
        """Write the cells of a row that a change may have changed; return the columns that look different now."""
        before, look.row = look.row, row
        tint, look.tint = look.tint, self.row_tone(row) if self.row_tone else ""
        whole = before is row  # changed in place: what it was is not known any more
        moved = [
            at
            for at, field in enumerate(self._fields)
            if (whole or field is None or before.get(field) != row.get(field))
            and look.write(at, self.columns[at], row)
        ]
        return moved if tint == look.tint else range(len(self.columns))

    def _tell(self, seen: Changes) -> None:
        """Tell the view which cells changed, neighbours together: each telling costs more than painting a few cells."""
        for left, right, top, end in seen.blocks():
            self.dataChanged.emit(self.index(top, left), self.index(end, right))

    def _flash(self, key: str, moved: Iterable[int]) -> None:
        if active().still:
            return
        now = monotonic()
        hits = {at: now for at in moved if at in self._flash_columns}
        if hits:
            self._flashes.setdefault(key, {}).update(hits)

    def _fade(self, now: float) -> None:
        """Let the cells that flash fade; those that have faded are told once more."""
        span, seen = self.visible_span(), Changes()
        for key in list(self._flashes):
            cells = self._flashes[key]
            at = self.pos.get(key)
            if at is not None and span[0] <= at <= span[1]:
                seen.add(at, sorted(cells))
            for column in [column for column, when in cells.items() if now - when > FLASH_S]:
                del cells[column]
            if not cells:
                del self._flashes[key]
        self._tell(seen)

    def _move_on(self, look: Look, live: list[int]) -> list[int]:
        """Rewrite a row's cells that change with time alone; return those that look different now."""
        moved = [at for at in live if look.write(at, self.columns[at], look.row)]
        texts = [look.texts[at] for at in live]
        look.slow = not any(text.endswith(" s") for text in texts)
        self.lively = self.lively or (not look.slow and any(map(fmt.in_tenths, texts)))
        return moved

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
        text = fmt.Privacy.veil(text)
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
            return column.heading + self._sort_mark(section)
        if role == TOOL_TIP:
            return column.explained
        if role == ALIGN:
            return RIGHT if column.kind == "number" else LEFT
        return None

    def _sort_mark(self, section: int) -> str:
        """Return a column's arrow, with its place where several are sorted by."""
        for place, (column, descending) in enumerate(self.sorting, 1):
            if column == section:
                number = str(place) if len(self.sorting) > 1 else ""
                return f" {fmt.DOWN if descending else fmt.UP}{number}"
        return ""

    def look(self, key: str) -> Look:
        """Return what a row looks like, made once until it changes."""
        found = self._looks.get(key)
        if found is None:
            if len(self._looks) >= MOST_LOOKS:
                self._looks.clear()  # of rows that were scrolled through
            row = self.rows.get(key, {})
            tint = self.row_tone(row) if self.row_tone else ""
            found = self._looks[key] = Look(self.columns, row, tint)
        return found

    def cells(self, key: str) -> list[str]:
        """Return the texts of a row."""
        return self.look(key).texts

    def tone(self, key: str, column: int) -> str:
        """Return the colour token of a cell, empty for plain text."""
        return self.look(key).tones[column]

    def flashing_cells(self, key: str) -> Iterable[int]:
        """Return the columns of a row that still flash."""
        return self._flashes.get(key, ())

    def flash_of(self, key: str, column: int) -> float:
        """Return how bright a cell still flashes: 1 just changed, 0 at rest."""
        cells = self._flashes.get(key)
        when = cells.get(column) if cells else None
        return 0.0 if when is None else max(0.0, 1.0 - (monotonic() - when) / FLASH_S)

    def row_at(self, at: int) -> Row | None:
        """Return the row shown at a position."""
        return self.rows.get(self.order[at]) if 0 <= at < len(self.order) else None

    # --- taking it elsewhere ------------------------------------------------------------------

    def totals(self, keys: list[str]) -> list[tuple[str, str]]:
        """Add up the rows of ``keys``: title and text of each column that can be, quantities of one symbol only."""
        rows = [self.rows[key] for key in keys if key in self.rows]
        one_symbol = len({row.get("symbol") for row in rows}) == 1
        found = []
        for column in self.columns:
            if not column.total or (column.total == "symbol" and not one_symbol):
                continue
            whole = sum((_exact(column.value(row)) for row in rows), Decimal(0))
            if whole:
                found.append((column.heading, column.write({column.key: format(whole, "f")})))
        return found

    def as_tsv(self, keys: list[str], columns: list[int]) -> str:
        """Return rows as tab-separated text with a title line, for the clipboard."""
        lines = ["\t".join(self.columns[at].heading for at in columns)]
        lines += ["\t".join(_pasted(self.cells(key)[at]) for at in columns) for key in keys]
        return "\n".join(lines)


def _pasted(text: str) -> str:
    """Return a cell that no spreadsheet takes for a formula or for several; a signed number stays one."""
    plain = text.translate(_ONE_CELL)
    bare = plain.replace(fmt.Numbers.thousands, "").replace(fmt.Numbers.decimal, ".")
    return plain if fmt.number(bare) is not None else str(safe_cell("", plain))


def _exact(value: object) -> Decimal:
    """Return a cell's number without rounding; what is none counts nothing."""
    try:
        number = Decimal(str(value))
    except InvalidOperation:
        return Decimal(0)
    return number if number.is_finite() else Decimal(0)
