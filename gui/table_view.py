"""The table widget: fixed rows, a header that remembers, copy, export, and an order that holds still."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from PySide6.QtCore import QEvent, QItemSelectionModel, QModelIndex, QPoint, QRect, Qt, Signal
from PySide6.QtGui import (
    QAccessible,
    QContextMenuEvent,
    QGuiApplication,
    QKeyEvent,
    QKeySequence,
    QMouseEvent,
    QPainter,
    QPaintEvent,
    QResizeEvent,
)
from PySide6.QtWidgets import (
    QAbstractItemView,
    QHeaderView,
    QMenu,
    QTableView,
    QWidget,
)

from gui.row_painter import Place, RowPainter
from gui.table_cells import Index
from gui.table_header import TableHeader
from gui.table_model import TableModel
from gui.theme import active
from gui.words import tr

SELECT_ROWS = QAbstractItemView.SelectionBehavior.SelectRows
EXTENDED = QAbstractItemView.SelectionMode.ExtendedSelection
ONLY_THIS_ROW = (
    QItemSelectionModel.SelectionFlag.ClearAndSelect | QItemSelectionModel.SelectionFlag.Rows
)
FIT_ROWS = 50  # looked at for a width, where fewer are in sight
FEW_COLUMNS = 6  # changed in a row; of more the whole row is painted
PER_PIXEL = QAbstractItemView.ScrollMode.ScrollPerPixel


def paint_empty(painter: QPainter, box: QRect, title: str, text: str) -> None:
    """Paint what will be here, and what to do for it."""
    theme = active()
    flags = Qt.AlignmentFlag.AlignHCenter | Qt.TextFlag.TextWordWrap
    middle, gap = box.center().y(), theme.px(5)
    painter.setFont(theme.font(13.5, 600))
    painter.setPen(theme.colors["text"])
    upper = QRect(box.left(), middle - 60, box.width(), 60 - gap)
    painter.drawText(upper, int((flags | Qt.AlignmentFlag.AlignBottom).value), title)
    painter.setFont(theme.font(12.5))
    painter.setPen(theme.colors["muted"])
    lower = QRect(box.left(), middle + gap, box.width(), max(40, box.bottom() - middle))
    painter.drawText(lower, int((flags | Qt.AlignmentFlag.AlignTop).value), text)


class TableView(QTableView):
    """A view of one ``TableModel``."""

    chosen = Signal()  # the selection is another
    toggled = Signal(str, str)  # row key, column key: a switch was clicked
    activated_key = Signal(str)
    export_wanted = Signal()

    def __init__(self, model: TableModel, name: str, parent: QWidget | None = None) -> None:
        super().__init__(parent)
        self.table = model
        self.setObjectName(name + ".table")
        self.setAccessibleName(name.capitalize() + " table")
        self.empty_title = ""
        self.empty_text = ""
        self.fill_menu: Callable[[QMenu], None] | None = None
        self.menu_guard: Callable[[QMenu], None] | None = None
        self.changed: Callable[[], None] | None = None
        self.fill_header_menu: Callable[[QMenu], None] | None = None
        self._menu_open = False
        self._hover = -1
        self._rows = RowPainter(model)
        self._rows.current_row = lambda: self._hover
        self._set_up()
        model.frozen = self.is_frozen
        model.order_held = self.is_order_held
        model.visible_span = self.span
        model.column_in_sight = self.shows_column
        self.setModel(model)
        self._set_up_header()
        model.rowsInserted.connect(self._hold_place)
        self.selectionModel().selectionChanged.connect(lambda *_: self.chosen.emit())
        self.activated.connect(self._on_activated)
        active().changed.connect(self.restyle)
        self.restyle()

    def _set_up(self) -> None:
        self.viewport().setAttribute(
            Qt.WidgetAttribute.WA_OpaquePaintEvent
        )  # else what lies below is painted at each change of a cell
        self.setSelectionBehavior(SELECT_ROWS)
        self.setSelectionMode(EXTENDED)
        self.setVerticalScrollMode(PER_PIXEL)
        self.setHorizontalScrollMode(PER_PIXEL)
        self.setWordWrap(False)
        self.setShowGrid(False)
        self.setCornerButtonEnabled(False)
        self.setTabKeyNavigation(False)
        self.setMouseTracking(True)
        self.setEditTriggers(QAbstractItemView.EditTrigger.NoEditTriggers)
        self.verticalHeader().setVisible(False)
        self.verticalHeader().setSectionResizeMode(QHeaderView.ResizeMode.Fixed)
        self.verticalHeader().setMinimumSectionSize(12)

    def _set_up_header(self) -> None:
        header = self.header = TableHeader(self)
        self.setHorizontalHeader(header)
        header.setSectionResizeMode(QHeaderView.ResizeMode.Interactive)
        header.setSectionsMovable(True)
        header.setSectionsClickable(True)
        header.setStretchLastSection(self.table.columns[-1].kind != "number")
        header.setHighlightSections(False)
        header.setMinimumSectionSize(28)
        header.setContextMenuPolicy(Qt.ContextMenuPolicy.CustomContextMenu)
        header.customContextMenuRequested.connect(self._header_menu)
        header.sort_wanted.connect(self._on_header)
        header.sectionResized.connect(lambda *_: self._note_change())
        header.sectionMoved.connect(lambda *_: self._note_change())
        self.reset_columns()

    def restyle(self) -> None:
        """Take fonts, colours and the row height of the theme."""
        theme = active()
        self._rows.refresh()
        self.verticalHeader().setDefaultSectionSize(theme.row_height)
        self.horizontalHeader().setFixedHeight(theme.px(12.5) + 11)
        self.viewport().update()

    # --- what is seen, what is chosen ----------------------------------------------------------

    def span(self) -> tuple[int, int]:
        """Return the first and last row in sight; an empty span while hidden, or behind another tab."""
        if not self.isVisible() or self.visibleRegion().isEmpty():
            return (0, -1)
        height = max(1, self.verticalHeader().defaultSectionSize())
        first = self.verticalScrollBar().value() // height
        return (first, first + self.viewport().height() // height + 1)

    def shows_column(self, at: int) -> bool:
        """Say whether a column can be seen: not hidden, and not beyond an edge."""
        if self.isColumnHidden(at):
            return False
        left = self.columnViewportPosition(at)
        inside = left < self.viewport().width() and left + self.columnWidth(at) > 0
        return inside or (self.header.frozen and at == self.header.first())

    def is_frozen(self) -> bool:
        """Say whether rows must hold still: pointer over them, or a menu open on them."""
        return self._menu_open or (self._hover >= 0 and self.viewport().underMouse())

    def is_order_held(self) -> bool:
        """Say whether no row may change places: rows are selected, and the keys act on them."""
        return self.hasFocus() and self.selectionModel().hasSelection()

    def _hold_place(self, _parent: QModelIndex, first: int, last: int) -> None:
        """Keep what is being worked on where it is on screen when rows come above it."""
        at = self.currentIndex().row()
        if self.is_order_held() and first <= at:
            bar, height = self.verticalScrollBar(), self.verticalHeader().defaultSectionSize()
            target = bar.value() + (last - first + 1) * height
            self.updateGeometries()  # the bar's range does not know the new rows yet
            bar.setValue(target)

    def above(self) -> int:
        """Return how many rows came above the first in sight while the order was held."""
        return self.span()[0] if self.is_order_held() else 0

    def chosen_keys(self) -> list[str]:
        """Return the keys of the selected rows, from top to bottom."""
        if not self.selectionModel().hasSelection():
            return []
        rows = sorted({index.row() for index in self.selectionModel().selectedRows()})
        order = self.table.order
        return [order[row] for row in rows if row < len(order)]

    def current_key(self) -> str | None:
        """Return the key of the one selected row, or of the first of several."""
        keys = self.chosen_keys()
        return keys[0] if keys else None

    def select_key(self, key: str) -> bool:
        """Select a row and bring it into sight; says whether it is there."""
        at = self.table.pos.get(key)
        if at is None and self.table.searching:
            self.table.finish()
            at = self.table.pos.get(key)
        if at is None:
            return False
        index = self.table.index(at, 0)
        # not selectRow(): it does nothing while the table lies under another tab
        self.selectionModel().setCurrentIndex(index, ONLY_THIS_ROW)
        self.scrollTo(index)
        return True

    def selectAll(self) -> None:
        """Select every row, those too that a search has not come to yet."""
        self.table.finish()
        super().selectAll()

    def _on_activated(self, index: QModelIndex) -> None:
        if index.row() < len(self.table.order):
            self.activated_key.emit(self.table.order[index.row()])

    # --- events -------------------------------------------------------------------------------

    def mouseMoveEvent(self, event: QMouseEvent) -> None:
        """Follow the pointer, to mark its row and hold the order."""
        self._set_hover(self.rowAt(event.position().toPoint().y()))
        super().mouseMoveEvent(event)

    def leaveEvent(self, event: QEvent) -> None:
        """Let the order move again."""
        self._set_hover(-1)
        self.table.store.animate(self.table.step)
        super().leaveEvent(event)

    def _set_hover(self, row: int) -> None:
        if row == self._hover:
            return
        old, self._hover = self._hover, row
        width, height = self.viewport().width(), self.verticalHeader().defaultSectionSize()
        for at in (old, row):
            if at >= 0:
                self.viewport().update(QRect(0, self.rowViewportPosition(at), width, height))

    def mousePressEvent(self, event: QMouseEvent) -> None:
        """Flip a switch that is clicked; else select."""
        where = event.position().toPoint()
        index = self.indexAt(where)
        if where.x() < self.header.frozen_width():  # what is clicked is what is seen
            index = self.table.index(index.row(), self.header.first())
        if index.isValid() and event.button() is Qt.MouseButton.LeftButton:
            column = self.table.columns[index.column()]
            if column.kind == "toggle":
                self.toggled.emit(self.table.order[index.row()], column.key)
                return
        super().mousePressEvent(event)

    def keyPressEvent(self, event: QKeyEvent) -> None:
        """Copy with the platform's copy keys; Escape lets go of the selection, and the order move again."""
        if event.key() == Qt.Key.Key_Escape and self.selectionModel().hasSelection():
            self.clearSelection()
            self.table.store.animate(self.table.step)
            return
        if event.matches(QKeySequence.StandardKey.Copy):
            self.copy()
            return
        super().keyPressEvent(event)

    def contextMenuEvent(self, event: QContextMenuEvent) -> None:
        """Open the row's menu; the order holds still while it is open."""
        menu = QMenu(self)
        menu.setAttribute(Qt.WidgetAttribute.WA_DeleteOnClose)
        if self.fill_menu:
            self.fill_menu(menu)
        if not menu.isEmpty():
            menu.addSeparator()
        menu.addAction("Copy", self.copy)
        menu.addAction("Export table…", self.export_wanted.emit)
        self._open_menu(menu, event.globalPos())

    def _open_menu(self, menu: QMenu, where: QPoint) -> None:
        self._menu_open = True
        menu.aboutToHide.connect(self._menu_closed)
        if self.menu_guard:
            self.menu_guard(menu)
        menu.popup(where)

    def _menu_closed(self) -> None:
        self._menu_open = False
        self.table.store.animate(self.table.step)

    def paintEvent(self, event: QPaintEvent) -> None:
        """Paint the rows, or what will be here when there are none."""
        ranges = self.selectionModel().selection()
        chosen = (ranges.at(at) for at in range(ranges.count()))
        rows, top = self._rows, -self.verticalHeader().offset()
        rows.chosen = [(part.top(), part.bottom()) for part in chosen]
        rows.first = self.header.first()
        rows.height = max(1, self.verticalHeader().defaultSectionSize())
        painter, places = QPainter(self.viewport()), self._places()
        for area in event.region():  # type: ignore[attr-defined]  # the stubs do not know
            rows.paint(painter, area, top, places)
        if width := self.header.frozen_width():
            self._paint_frozen(painter, width, top)
        painter.end()
        if self.table.order or not self.empty_title:
            return
        filtered = bool(self.table.filter_text)
        title = "No row matches the filter" if filtered else self.empty_title
        text = "Press Escape in the filter to clear it." if filtered else self.empty_text
        if self.table.searching:
            title, text = "Searching…", ""
        painter = QPainter(self.viewport())
        paint_empty(painter, self.viewport().rect().adjusted(24, 8, -24, -8), title, text)
        painter.end()

    def _places(self) -> list[Place]:
        """Return the columns in sight, from left to right."""
        header, right = self.header, self.viewport().width()
        found = []
        for visual in range(header.count()):
            at = header.logicalIndex(visual)
            left, width = header.sectionViewportPosition(at), header.sectionSize(at)
            if left < right and left + width > 0 and width:
                found.append((at, left, width))
        return sorted(found, key=lambda place: place[1])

    def _paint_frozen(self, painter: QPainter, width: int, top: int) -> None:
        """Paint the first column once more, over what is scrolled below it."""
        box = QRect(0, 0, width, self.viewport().height())
        painter.setClipRect(box)
        self._rows.paint(painter, box, top, [(self.header.first(), 0, width)])
        painter.fillRect(QRect(width - 1, 0, 1, box.height()), active().colors["line"])
        painter.setClipping(False)

    def dataChanged(self, upper: Index, lower: Index, roles: Sequence[int] = ()) -> None:
        """Paint the cells that changed and no pixel more; Qt would take the neighbours below and to the right along."""
        if QAccessible.isActive():
            super().dataChanged(upper, lower, roles)
        height = self.verticalHeader().defaultSectionSize()
        top = self.rowViewportPosition(upper.row())
        tall = (lower.row() - upper.row() + 1) * height
        columns = range(upper.column(), lower.column() + 1)
        if len(columns) > FEW_COLUMNS:
            self.viewport().update(0, top, self.viewport().width(), tall)
            return
        for at in columns:
            left, width = self.columnViewportPosition(at), self.columnWidth(at)
            if width:
                self.viewport().update(left, top, width, tall)
        if width := self.header.frozen_width():  # what is frozen has its own place out of sight
            self.viewport().update(0, top, width, tall)

    def scrollContentsBy(self, dx: int, dy: int) -> None:
        """Scroll; pixels that were moved sideways do not take the frozen column along."""
        super().scrollContentsBy(dx, dy)
        if dx:
            self.table.tick(whole=True)  # columns that come into sight have the ages of now
        if dx and self.header.frozen:
            self.viewport().update()
            self.header.viewport().update()

    def resizeEvent(self, event: QResizeEvent) -> None:
        """Keep cells in sight fresh."""
        super().resizeEvent(event)
        self.viewport().update()

    # --- columns ------------------------------------------------------------------------------

    def _on_header(self, column: int, more: bool) -> None:
        """Sort by a column, or with Shift as well by it; once more turns it round, a third Shift lets it go."""
        model = self.table
        first = model.columns[column].kind in {"number", "bar"}  # the largest on top
        now = dict(model.sorting).get(column)
        if not more:
            model.sort_by([(column, not first if now is first else first)])
        elif now is None:
            model.sort_by([*model.sorting, (column, first)])
        elif now is first:
            model.sort_by([(at, not down if at == column else down) for at, down in model.sorting])
        else:
            model.sort_by([(at, down) for at, down in model.sorting if at != column])
        self.header.viewport().update()
        self._note_change()

    def _header_menu(self, where: QPoint) -> None:
        menu = QMenu(self)
        menu.setAttribute(Qt.WidgetAttribute.WA_DeleteOnClose)
        menu.setAccessibleName("Columns")
        here = self.header.logicalIndexAt(where)
        if here >= 0:
            title = self.table.columns[here].heading
            menu.addAction(f"{tr('Hide')} {title}", lambda: self.show_column(here, False))
            menu.addAction(f"{tr('Fit')} {title}", lambda: self.fit_columns([here]))
        menu.addAction(tr("Fit all columns"), self.fit_columns)
        freeze = menu.addAction(tr("Freeze first column"))
        freeze.setCheckable(True)
        freeze.setChecked(self.header.frozen)
        freeze.toggled.connect(self.freeze_first)
        menu.addAction(tr("Reset columns"), self.reset_columns)
        if self.fill_header_menu:
            self.fill_header_menu(menu)
        menu.addSeparator()
        for at, column in enumerate(self.table.columns):
            action = menu.addAction(column.heading or column.key)
            action.setToolTip(column.explained)
            action.setCheckable(True)
            action.setChecked(not self.isColumnHidden(at))
            action.toggled.connect(lambda on, at=at: self.show_column(at, on))
        self._open_menu(menu, self.header.mapToGlobal(where))

    def show_header_menu(self) -> None:
        """Open the columns' menu by key."""
        self._header_menu(QPoint(8, self.header.height() - 2))

    def fit_columns(self, columns: list[int] | None = None) -> None:
        """Make columns as wide as what they show now (the title and the rows in sight); ``None``: every one shown."""
        first, last = self.span()
        keys = self.table.order[max(first, 0) : max(last, FIT_ROWS) + 1]
        for at in range(len(self.table.columns)) if columns is None else columns:
            if not self.isColumnHidden(at):
                texts = [self.table.cells(key)[at] for key in keys]
                title = str(self.table.headerData(at, Qt.Orientation.Horizontal))
                self.header.resizeSection(at, self._rows.width_of(title, texts))
        self._note_change()

    def freeze_first(self, on: bool) -> None:
        """Keep the first column in sight while the others scroll, or let it scroll with them."""
        self.header.frozen = on
        self.viewport().update()
        self.header.viewport().update()
        self._note_change()

    def show_column(self, at: int, on: bool) -> None:
        """Show or hide a column; the last one stays."""
        shown = [i for i in range(len(self.table.columns)) if not self.isColumnHidden(i)]
        if on or shown != [at]:
            self.setColumnHidden(at, not on)
            self.table.tick(whole=True)
            self._note_change()

    def reset_columns(self) -> None:
        """Give every column its own width, place and visibility."""
        header = self.horizontalHeader()
        for at, column in enumerate(self.table.columns):
            header.moveSection(header.visualIndex(at), at)
            header.resizeSection(at, active().px(column.width))
            self.setColumnHidden(at, not column.visible)
        self.freeze_first(False)

    def _note_change(self) -> None:
        if self.changed:
            self.changed()

    def layout_state(self) -> dict[str, Any]:
        """Return order, widths, hidden columns and sorting by column key, for the layout file."""
        header, columns = self.horizontalHeader(), self.table.columns
        order = sorted(range(len(columns)), key=header.visualIndex)
        hidden = [columns[at].key for at in order if self.isColumnHidden(at)]
        sorting = [(columns[at].key, down) for at, down in self.table.sorting]
        return {
            "order": [columns[at].key for at in order],
            "widths": {
                columns[at].key: header.sectionSize(at)
                for at in order
                if not self.isColumnHidden(at)
            },
            "hidden": hidden,
            "sort": sorting[0][0] if sorting else "",
            "descending": self.table.descending,
            "then": sorting[1:],
            "frozen": self.header.frozen,
        }

    def restore_layout(self, state: dict[str, Any]) -> None:
        """Take back what ``layout_state`` returned; columns it does not know keep their defaults."""
        header, columns = self.horizontalHeader(), self.table.columns
        by_key = {column.key: at for at, column in enumerate(columns)}
        for place, key in enumerate(key for key in state.get("order", ()) if key in by_key):
            header.moveSection(header.visualIndex(by_key[key]), place)
        for key, width in state.get("widths", {}).items():
            if key in by_key and isinstance(width, int) and 20 <= width <= 2000:
                header.resizeSection(by_key[key], width)
        if "hidden" in state:
            for key, at in by_key.items():
                self.setColumnHidden(at, key in state["hidden"])
        self.freeze_first(bool(state.get("frozen")))
        if state.get("sort") in by_key:
            more = [then for then in state.get("then", ()) if len(then) == 2]
            asked = [(state["sort"], state.get("descending")), *more]
            self.table.sort_by([(by_key[key], bool(down)) for key, down in asked if key in by_key])

    def totals(self) -> str:
        """Return the sums of the selected rows as a line, empty for fewer than two."""
        keys = self.chosen_keys()
        if len(keys) < 2:
            return ""
        parts = [f"{title} {text}" for title, text in self.table.totals(keys)]
        return "   ".join([f"{len(keys)} selected", *parts])

    # --- taking it elsewhere ------------------------------------------------------------------

    def copy(self) -> None:
        """Put the selected rows on the clipboard as tab-separated text."""
        header = self.horizontalHeader()
        order = sorted(range(len(self.table.columns)), key=header.visualIndex)
        columns = [at for at in order if not self.isColumnHidden(at)]
        keys = self.chosen_keys()
        if keys:
            QGuiApplication.clipboard().setText(self.table.as_tsv(keys, columns))
