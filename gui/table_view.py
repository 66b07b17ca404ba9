"""The table widget: fixed rows, a header that remembers, copy, export, and an order that holds still."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from PySide6.QtCore import QEvent, QItemSelectionModel, QModelIndex, QPoint, QRect, Qt, Signal
from PySide6.QtGui import (
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
    QFileDialog,
    QHeaderView,
    QMenu,
    QTableView,
    QWidget,
)

from gui.table_model import RowDelegate, TableModel
from gui.theme import active

SELECT_ROWS = QAbstractItemView.SelectionBehavior.SelectRows
EXTENDED = QAbstractItemView.SelectionMode.ExtendedSelection
ONLY_THIS_ROW = (
    QItemSelectionModel.SelectionFlag.ClearAndSelect | QItemSelectionModel.SelectionFlag.Rows
)
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
        self._menu_open = False
        self._hover = -1
        self._rows = RowDelegate(model, self)
        self._rows.current_row = lambda: self._hover
        self._set_up()
        model.frozen = self.is_frozen
        model.visible_span = self.span
        self.setModel(model)
        self._set_up_header()
        self.selectionModel().selectionChanged.connect(lambda *_: self.chosen.emit())
        self.activated.connect(self._on_activated)
        active().changed.connect(self.restyle)
        self.restyle()

    def _set_up(self) -> None:
        self.setItemDelegate(self._rows)
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
        header = self.horizontalHeader()
        header.setSectionResizeMode(QHeaderView.ResizeMode.Interactive)
        header.setSectionsMovable(True)
        header.setSectionsClickable(True)
        header.setStretchLastSection(self.table.columns[-1].kind != "number")
        header.setHighlightSections(False)
        header.setMinimumSectionSize(28)
        header.setContextMenuPolicy(Qt.ContextMenuPolicy.CustomContextMenu)
        header.customContextMenuRequested.connect(self._header_menu)
        header.sectionClicked.connect(self._on_header)
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
        """Return the first and last row in sight; an empty span while hidden."""
        if not self.isVisible():
            return (0, -1)
        height = max(1, self.verticalHeader().defaultSectionSize())
        first = self.verticalScrollBar().value() // height
        return (first, first + self.viewport().height() // height + 1)

    def is_frozen(self) -> bool:
        """Say whether rows must hold still: pointer over them, or a menu open on them."""
        return self._menu_open or (self._hover >= 0 and self.viewport().underMouse())

    def chosen_keys(self) -> list[str]:
        """Return the keys of the selected rows, from top to bottom."""
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
        if at is None:
            return False
        index = self.table.index(at, 0)
        # not selectRow(): it does nothing while the table lies under another tab
        self.selectionModel().setCurrentIndex(index, ONLY_THIS_ROW)
        self.scrollTo(index)
        return True

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
        index = self.indexAt(event.position().toPoint())
        if index.isValid() and event.button() is Qt.MouseButton.LeftButton:
            column = self.table.columns[index.column()]
            if column.kind == "toggle":
                self.toggled.emit(self.table.order[index.row()], column.key)
                return
        super().mousePressEvent(event)

    def keyPressEvent(self, event: QKeyEvent) -> None:
        """Copy with the platform's copy keys."""
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
        menu.addAction("Export table as CSV…", self.export_csv)
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
        self._rows.chosen = [(part.top(), part.bottom()) for part in chosen]
        super().paintEvent(event)
        if self.table.order or not self.empty_title:
            return
        filtered = bool(self.table.filter_text)
        title = "No row matches the filter" if filtered else self.empty_title
        text = "Press Escape in the filter to clear it." if filtered else self.empty_text
        painter = QPainter(self.viewport())
        paint_empty(painter, self.viewport().rect().adjusted(24, 8, -24, -8), title, text)
        painter.end()

    def resizeEvent(self, event: QResizeEvent) -> None:
        """Keep cells in sight fresh."""
        super().resizeEvent(event)
        self.viewport().update()

    # --- columns ------------------------------------------------------------------------------

    def _on_header(self, column: int) -> None:
        ascending, descending = Qt.SortOrder.AscendingOrder, Qt.SortOrder.DescendingOrder
        model = self.table
        again = column == model.sort_column
        first = descending if model.columns[column].kind in {"number", "bar"} else ascending
        other = ascending if first is descending else descending
        now = descending if model.descending else ascending
        model.sort(column, other if again and now is first else first)
        self.horizontalHeader().viewport().update()
        self._note_change()

    def _header_menu(self, where: QPoint) -> None:
        menu = QMenu(self)
        menu.setAttribute(Qt.WidgetAttribute.WA_DeleteOnClose)
        menu.setAccessibleName("Columns")
        for at, column in enumerate(self.table.columns):
            action = menu.addAction(column.title or column.key)
            action.setCheckable(True)
            action.setChecked(not self.isColumnHidden(at))
            action.toggled.connect(lambda on, at=at: self.show_column(at, on))
        menu.addSeparator()
        menu.addAction("Reset columns", self.reset_columns)
        self._open_menu(menu, self.horizontalHeader().mapToGlobal(where))

    def show_column(self, at: int, on: bool) -> None:
        """Show or hide a column; the last one stays."""
        shown = [i for i in range(len(self.table.columns)) if not self.isColumnHidden(i)]
        if on or shown != [at]:
            self.setColumnHidden(at, not on)
            self._note_change()

    def reset_columns(self) -> None:
        """Give every column its own width, place and visibility."""
        header = self.horizontalHeader()
        for at, column in enumerate(self.table.columns):
            header.moveSection(header.visualIndex(at), at)
            header.resizeSection(at, active().px(column.width))
            self.setColumnHidden(at, not column.visible)
        self._note_change()

    def _note_change(self) -> None:
        if self.changed:
            self.changed()

    def layout_state(self) -> dict[str, Any]:
        """Return order, widths, hidden columns and sorting by column key, for the layout file."""
        header, columns = self.horizontalHeader(), self.table.columns
        order = sorted(range(len(columns)), key=header.visualIndex)
        hidden = [columns[at].key for at in order if self.isColumnHidden(at)]
        sort = columns[self.table.sort_column].key if self.table.sort_column >= 0 else ""
        return {
            "order": [columns[at].key for at in order],
            "widths": {
                columns[at].key: header.sectionSize(at)
                for at in order
                if not self.isColumnHidden(at)
            },
            "hidden": hidden,
            "sort": sort,
            "descending": self.table.descending,
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
        if state.get("sort") in by_key:
            down = bool(state.get("descending"))
            order = Qt.SortOrder.DescendingOrder if down else Qt.SortOrder.AscendingOrder
            self.table.sort(by_key[state["sort"]], order)

    # --- taking it elsewhere ------------------------------------------------------------------

    def copy(self) -> None:
        """Put the selected rows on the clipboard as tab-separated text."""
        header = self.horizontalHeader()
        order = sorted(range(len(self.table.columns)), key=header.visualIndex)
        columns = [at for at in order if not self.isColumnHidden(at)]
        keys = self.chosen_keys()
        if keys:
            QGuiApplication.clipboard().setText(self.table.as_tsv(keys, columns))

    def export_csv(self) -> None:
        """Ask for a file and write every row shown to it as CSV."""
        dialog = QFileDialog(self, "Export as CSV")
        dialog.setAcceptMode(QFileDialog.AcceptMode.AcceptSave)
        dialog.setDefaultSuffix("csv")
        dialog.setAttribute(Qt.WidgetAttribute.WA_DeleteOnClose)
        dialog.fileSelected.connect(self.write_csv)
        dialog.open()

    def write_csv(self, path: str) -> None:
        """Write every row shown to a file as CSV (UTF-8 with a mark, as spreadsheets expect)."""
        with open(path, "w", encoding="utf-8-sig", newline="") as file:
            file.write(self.table.as_csv())
