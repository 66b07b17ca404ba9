"""The base of panels: a name that never changes, a header for its tools, a table in most."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, ClassVar, cast

from PySide6.QtCore import QEvent, QObject, Qt, Signal
from PySide6.QtGui import QKeyEvent, QPainter, QPaintEvent, QPalette
from PySide6.QtWidgets import (
    QHBoxLayout,
    QLabel,
    QMainWindow,
    QMenu,
    QSplitter,
    QVBoxLayout,
    QWidget,
)

from engine.client import Row
from engine.model.enums import ConnectionState
from gui import formatting as fmt
from gui.commands import Command
from gui.desk import Desk
from gui.filter_edit import FilterEdit
from gui.table_model import Column, TableModel
from gui.table_view import TableView, paint_empty
from gui.theme import active
from gui.views import View, Views, ViewsButton

CHARTS_AFTER_MS = 60  # pyqtgraph takes 0.3 s to import: first the window, and the engine's start


def seen(widget: QWidget) -> bool:
    """Say whether any of a widget can be seen; to Qt one behind another tab is visible."""
    return widget.isVisible() and not widget.visibleRegion().isEmpty()


class Restyled:
    """A part of a widget that takes the theme's looks itself: at once where it is seen, else when ``catch_up`` says.

    ``gui.restyle`` says so to everything in a main window, a little later or when it is raised.
    """

    late = False

    def on_theme(self) -> None:
        """Take the news of another theme."""
        widget = cast("QWidget", self)
        self.late = not seen(widget) and isinstance(widget.window(), QMainWindow)
        if not self.late:
            self.restyle()

    def catch_up(self) -> None:
        """Take the looks, if they were left for later."""
        if self.late:
            self.late = False
            self.restyle()

    def restyle(self) -> None:
        """Take colours and fonts of the theme."""


class Caption(Restyled, QLabel):
    """A small quiet label in the theme's muted ink (or another token's)."""

    _held = False

    def __init__(
        self, text: str = "", size: float = 11.5, weight: int = 400, tone: str = "muted"
    ) -> None:
        super().__init__(fmt.Privacy.veil(text))
        self.setTextFormat(Qt.TextFormat.PlainText)  # much of it is what brokers said
        self._look = (size, weight)
        self._tone = tone
        self.setForegroundRole(QPalette.ColorRole.WindowText)  # a tool bar would make it a button's
        active().changed.connect(self.on_theme)
        self.restyle()

    def setText(self, text: str) -> None:
        """Show another text; while privacy is on, without the accounts in it."""
        super().setText(fmt.Privacy.veil(text))
        if self._held:
            self._make_room()

    def hold(self) -> None:
        """Fit this text, and only grow from now on: at each other size the whole window is laid out anew."""
        self._held = True
        self.setFixedSize(self.sizeHint())

    def _make_room(self) -> None:
        wanted = self.sizeHint()
        if wanted.width() > self.width() or wanted.height() > self.height():
            self.setFixedSize(wanted.expandedTo(self.minimumSize()))

    def shrink(self) -> None:
        """Ask for no width of its own: a long text must not widen a dock."""
        self.setMinimumWidth(1)

    def set_tone(self, tone: str) -> None:
        """Change the ink."""
        if tone != self._tone:
            self._tone = tone
            self.restyle()

    def restyle(self) -> None:
        """Take font and ink of the theme."""
        self.setFont(active().font(*self._look))
        palette = QPalette()  # all but the ink is the application's
        palette.setColor(QPalette.ColorRole.WindowText, active().colors[self._tone])
        self.setPalette(palette)

    def changeEvent(self, event: QEvent) -> None:
        """Fit the text anew in another font."""
        super().changeEvent(event)
        if self._held and event.type() in {QEvent.Type.FontChange, QEvent.Type.StyleChange}:
            self.hold()


class EmptyNote(QWidget):
    """Stands where a chart will be."""

    def __init__(self, title: str, text: str) -> None:
        super().__init__()
        self._title, self._text = title, text
        self.setAccessibleName(title)
        self.setAccessibleDescription(text)

    def say(self, title: str, text: str) -> None:
        """Stand for something else."""
        if (title, text) != (self._title, self._text):
            self._title, self._text = title, text
            self.setAccessibleName(title)
            self.setAccessibleDescription(text)
            self.update()

    def paintEvent(self, _event: QPaintEvent) -> None:
        """Paint title and sentence."""
        painter = QPainter(self)
        paint_empty(painter, self.rect().adjusted(24, 8, -24, -8), self._title, self._text)
        painter.end()


class Panel(Restyled, QWidget):
    """One dock's content. ``NAME`` is constant and English: layouts are saved under it."""

    NAME: ClassVar[str] = ""
    TITLE: ClassVar[str] = ""
    ABOUT: ClassVar[str] = ""
    touched = Signal()  # something was done in it that ``tick`` has to tell

    def __init__(self, desk: Desk) -> None:
        super().__init__()
        self.desk = desk
        self.store = desk.store
        self.setObjectName(self.NAME)
        self.setAccessibleName(self.TITLE)
        self.tools: list[QWidget] = []
        self.body = QVBoxLayout(self)
        self.body.setContentsMargins(0, 0, 0, 0)
        self.body.setSpacing(0)
        self.setAutoFillBackground(True)
        self.setBackgroundRole(QPalette.ColorRole.Base)
        active().changed.connect(self.on_theme)
        desk.store.link_changed.connect(self.on_link)

    def commands(self) -> list[Command]:
        """Return what can be done here; called once, before ``build``."""
        return []

    def build(self) -> None:
        """Make the widgets; called once, after the first paint of the window."""

    def tick(self) -> None:
        """Rewrite what changes with time alone; while in sight, at each beat that something was told before."""

    def lively(self) -> bool:
        """Say whether it shows what is another thing at every beat (``gui.beat``)."""
        return False

    def on_link(self) -> None:
        """Take a change of the link to the engine."""

    def state(self) -> dict[str, Any]:
        """Return what of this panel is kept with the layout."""
        return {}

    def restore(self, state: dict[str, Any]) -> None:
        """Take back what ``state`` returned."""

    def reset(self) -> None:
        """Give every table its own columns again."""
        for view in self.findChildren(TableView):
            view.reset_columns()

    def in_sight(self) -> bool:
        """Say whether any of it can be seen."""
        return seen(self)

    def can_command(self) -> bool:
        """Say whether commands can reach the engine now; in a recorded day there is none."""
        store = self.store
        return store.connected and self.desk.client is not None and not store.recorded

    def header_tools(self) -> list[QWidget]:
        """Return the widgets of the header row, left to right."""
        return self.tools


class TablePanel(Panel):
    """A panel that is one table of the feed."""

    TABLE: ClassVar[str] = ""
    COLUMNS: ClassVar[tuple[Column, ...]] = ()
    SORT: ClassVar[tuple[str, bool]] = ("", False)
    EMPTY: ClassVar[tuple[str, str]] = ("", "")
    VIEWS: ClassVar[Mapping[str, View]] = {}

    def __init__(self, desk: Desk) -> None:
        super().__init__(desk)
        self.model = TableModel(self.columns(), desk.store, self)
        self.view = TableView(self.model, self.NAME, self)
        self.view.empty_title, self.view.empty_text = self.EMPTY
        self.view.changed = desk.layout_touched.emit
        self.view.chosen.connect(self.on_chosen)
        self.view.verticalScrollBar().valueChanged.connect(lambda _value: self.touched.emit())
        self.view.fill_menu = self.fill_menu
        self.view.fill_header_menu = self._fill_header_menu
        self.filter = FilterEdit(self.TITLE, self.model)
        self.filter.textChanged.connect(self._on_filter)
        self.views = Views(self.VIEWS, self._take_view, self._view_state)
        self.views_button = ViewsButton(
            self.TITLE, self.views, self._save_view, desk.layout_touched.emit
        )
        self._views_of_tables: list[TableView] = []
        self.totals = Caption("", 12, 500, "text")
        self.totals.setAccessibleName(f"{self.TITLE}: totals of the selected rows")
        self.totals.setContentsMargins(10, 3, 10, 4)
        self.totals.shrink()
        self.totals.hide()
        self.count = Caption()
        self.count.hold()
        self.count.setAccessibleName(f"{self.TITLE}: rows")
        self.sort_by(*self.SORT)
        self.model.attach(self.TABLE)
        self.model.searched = self.tick
        desk.registry.add(
            Command(f"{self.NAME}.views", f"Views of {self.TITLE}…", self.views_button.showMenu,
                    "saved filter columns order", "V", "Tables", scope=self.view,
                    about="Show, save or delete a view: filter, columns and order under a name")
        )  # fmt: skip
        desk.registry.add(
            Command(f"{self.NAME}.columns", f"Columns of {self.TITLE}…", self.view.show_header_menu,
                    "chooser hide fit freeze reset", "", "Tables",
                    about="Show, hide, fit, freeze or reset the columns")
        )  # fmt: skip

    def columns(self) -> tuple[Column, ...]:
        """Return the table's columns."""
        return self.COLUMNS

    def build(self) -> None:
        """Put the table in."""
        self.body.addWidget(self.view, 1)
        self.view.installEventFilter(self)

    def sort_by(self, key: str, descending: bool) -> None:
        """Sort by a column's key."""
        keys = [column.key for column in self.model.columns]
        if key in keys:
            order = Qt.SortOrder.DescendingOrder if descending else Qt.SortOrder.AscendingOrder
            self.model.sort(keys.index(key), order)

    def header_tools(self) -> list[QWidget]:
        """Return tools, count, views and filter."""
        return [self.count, *self.tools, self.views_button, self.filter]

    def fill_menu(self, menu: QMenu) -> None:
        """Offer this panel's commands on its rows."""
        self.desk.registry.fill(menu, self.menu_commands())

    def menu_commands(self) -> list[str]:
        """Return the ids of the row menu's commands; an empty one draws a line."""
        return []

    def on_chosen(self) -> None:
        """Take another selection."""
        self.desk.registry.refresh()
        self.show_totals()

    def _tables(self) -> list[TableView]:
        """Return its tables; looked for once, as they are all there when the first row is."""
        if not self._views_of_tables:
            self._views_of_tables = self.findChildren(TableView)
        return self._views_of_tables

    def show_totals(self) -> None:
        """Add up what is selected, in a line below the table."""
        views = [view for view in self._tables() if view.selectionModel().hasSelection()]
        views.sort(key=lambda view: not view.hasFocus())
        text = next((said for view in views if (said := view.totals())), "")
        if not text and not self.totals.text():
            return
        if self.totals.parent() is None:  # whatever a panel is built of, it is the last line
            self.body.addWidget(self.totals)
        if self.totals.text() != text:
            self.totals.setText(text)
            self.totals.setVisible(bool(text))

    def chosen(self) -> list[Row]:
        """Return the selected rows."""
        rows = self.model.rows
        return [rows[key] for key in self.view.chosen_keys() if key in rows]

    def chosen_one(self) -> Row | None:
        """Return the first selected row."""
        rows = self.chosen()
        return rows[0] if rows else None

    def offers(self, test: Callable[[Row], bool]) -> Callable[[], bool]:
        """Return an ``enabled`` for commands on selected rows that pass ``test``."""
        return lambda: self.can_command() and any(test(row) for row in self.chosen())

    def tick(self) -> None:
        """Move ages on and say how many rows there are."""
        self.model.tick()
        shown, all_rows = len(self.model.order), len(self.model.rows)
        text = f"{shown}" if shown == all_rows else f"{shown} of {all_rows}"
        if self.model.searching:
            text = f"{text}  Searching…"
        elif self.model.waiting:
            text = f"{text}  +{len(self.model.waiting)} waiting"
        if above := self.view.above():
            text = f"{text}  {fmt.UP}{above} above"
        self.show_totals()
        if self.count.text() != text:
            self.count.setText(text)

    def lively(self) -> bool:
        """Say whether a table of it shows tenths of a second."""
        return any(view.table.lively for view in self._tables())

    def on_link(self) -> None:
        """Grey the rows while they are not live."""
        stale = self.store.link is not ConnectionState.CONNECTED
        if stale != self.model.stale:
            self.model.stale = stale
            self.view.viewport().update()

    def _on_filter(self, text: str) -> None:
        self.model.set_filter(text)
        self.filter.tell(self.model.filter.problem)
        self.tick()
        self.desk.layout_touched.emit()

    # --- views --------------------------------------------------------------------------------

    def _view_state(self) -> dict[str, Any]:
        return self.view.layout_state() | {"filter": self.filter.text()}

    def _take_view(self, view: View) -> None:
        self.view.restore_layout(dict(view))
        self.filter.setText(str(view.get("filter", "")))

    def _save_view(self) -> None:
        self.desk.ask("save_view", title=self.TITLE, names=self.views.names(), save=self._keep_view)

    def _keep_view(self, name: str) -> None:
        self.views.save(name)
        self.desk.layout_touched.emit()

    def _fill_header_menu(self, menu: QMenu) -> None:
        self.views_button.fill(menu.addMenu("Views"))

    def eventFilter(self, watched: QObject, event: QEvent) -> bool:
        """Jump to the filter on ``/``."""
        if watched is self.view and event.type() is QEvent.Type.KeyPress:
            key: QKeyEvent = event  # type: ignore[assignment]
            if key.text() == "/":
                self.filter.setFocus()
                return True
        return False

    def state(self) -> dict[str, Any]:
        """Keep columns, sorting, filter and saved views."""
        return self._view_state() | {"views": self.views.saved}

    def restore(self, state: dict[str, Any]) -> None:
        """Take back columns, sorting, filter and saved views."""
        self.views.restore(state.get("views"))
        self.view.restore_layout(state)
        self.filter.setText(str(state.get("filter", "")))


class PairPanel(TablePanel):
    """A panel of two tables, one above the other. ``SECOND`` is the other table of the feed.

    ``SECOND_NAME`` is constant: its columns are saved under it. ``SECOND_ABOVE`` puts it on top; ``SIZES`` are the
    heights, from the top. ``summary`` is the line over the lower table, hidden while it is empty.
    """

    SECOND: ClassVar[str] = ""
    SECOND_COLUMNS: ClassVar[tuple[Column, ...]] = ()
    SECOND_NAME: ClassVar[str] = ""
    SECOND_SORT: ClassVar[tuple[str, bool]] = ("", False)
    SECOND_EMPTY: ClassVar[tuple[str, str]] = ("", "")
    SECOND_ABOVE: ClassVar[bool] = False
    SIZES: ClassVar[tuple[int, int]] = (200, 200)

    def __init__(self, desk: Desk) -> None:
        super().__init__(desk)
        self.second = TableModel(self.SECOND_COLUMNS, desk.store, self)
        self.second_view = TableView(self.second, self.SECOND_NAME, self)
        self.second_view.empty_title, self.second_view.empty_text = self.SECOND_EMPTY
        self.second_view.changed = desk.layout_touched.emit
        self.second_view.chosen.connect(desk.registry.refresh)
        self.second_view.chosen.connect(self.touched)
        self.second.attach(self.SECOND)
        key, descending = self.SECOND_SORT
        order = Qt.SortOrder.DescendingOrder if descending else Qt.SortOrder.AscendingOrder
        self.second.sort([column.key for column in self.second.columns].index(key), order)
        self.summary = Caption("", 12, 500, "text")

    def build(self) -> None:
        """Put both tables in."""
        self.view.installEventFilter(self)
        upper, lower = (
            (self.second_view, self.view) if self.SECOND_ABOVE else (self.view, self.second_view)
        )
        below = QWidget()
        lines = QVBoxLayout(below)
        lines.setContentsMargins(0, 0, 0, 0)
        lines.setSpacing(0)
        self.summary.setContentsMargins(10, 5, 10, 5)
        self.summary.shrink()
        self.summary.setVisible(bool(self.summary.text()))
        lines.addWidget(self.summary)
        lines.addWidget(lower, 1)
        halves = QSplitter(Qt.Orientation.Vertical)
        halves.setChildrenCollapsible(False)
        halves.addWidget(upper)
        halves.addWidget(below)
        halves.setSizes(list(self.SIZES))
        self.body.addWidget(halves, 1)

    def summarise(self) -> str:
        """Return the line over the lower table."""
        return ""

    def tick(self) -> None:
        """Move ages on in both tables and rewrite the summary."""
        super().tick()
        self.second.tick()
        text = self.summarise()
        if self.summary.text() != text:
            self.summary.setText(text)
            self.summary.setVisible(bool(text))

    def on_link(self) -> None:
        """Grey both tables while not live."""
        super().on_link()
        self.second.stale = self.model.stale
        self.second_view.viewport().update()

    def state(self) -> dict[str, Any]:
        """Keep both tables' columns."""
        return super().state() | {self.SECOND_NAME: self.second_view.layout_state()}

    def restore(self, state: dict[str, Any]) -> None:
        """Take back both tables' columns."""
        super().restore(state)
        self.second_view.restore_layout(state.get(self.SECOND_NAME, {}))


def row_of(*widgets: QWidget, spacing: int = 6) -> QWidget:
    """Return widgets side by side."""
    holder = QWidget()
    line = QHBoxLayout(holder)
    line.setContentsMargins(0, 0, 0, 0)
    line.setSpacing(spacing)
    for widget in widgets:
        line.addWidget(widget)
    return holder
