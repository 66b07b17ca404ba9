"""What every table can do, by mouse and keyboard: order, columns, sums, views."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from PySide6.QtCore import QPoint, Qt
from PySide6.QtGui import QAction, QGuiApplication
from PySide6.QtWidgets import QApplication, QMenu
from pytestqt.qtbot import QtBot

from engine.model import tables
from gui import columns as col
from gui.bridge import Store
from gui.table_model import Column, TableModel
from gui.table_view import TableView
from tests.gui.conftest import DeskUnderTest, until
from tests.gui.test_desk import opened, select

LEFT = Qt.MouseButton.LeftButton
SHIFT = Qt.KeyboardModifier.ShiftModifier
AGES = {"a": 10.0, "b": 59.9, "c": 100.0}
COLUMNS = (
    Column("cl_ord_id", "Id", 80),
    Column("symbol", "Symbol", 80),
    col.quantity("order_qty", "Qty", 80),
    col.money("value", "Value", 300),
    Column("age", "Age", 300, live=True, text=lambda _row: "", measure=lambda row: AGES[row["cl_ord_id"]]),
)  # fmt: skip


def row(key: str, symbol: str, quantity: str, value: str = "0.10") -> dict[str, Any]:
    return {"cl_ord_id": key, "symbol": symbol, "order_qty": quantity, "value": value}


@pytest.fixture
def view(qtbot: QtBot, store: Store) -> TableView:
    model = TableModel(COLUMNS, store)
    model.attach(tables.ORDERS)
    made = TableView(model, "orders")
    qtbot.addWidget(made)
    made.resize(400, 300)
    made.show()
    return made


def feed(store: Store, *rows: dict[str, Any], removed: tuple[str, ...] = ()) -> None:
    store.on_batch({tables.ORDERS: list(rows)}, {tables.ORDERS: list(removed)})
    store.frame()


def click_header(qtbot: QtBot, view: TableView, column: int, modifier: Any = None) -> None:
    header = view.header
    where = QPoint(header.sectionViewportPosition(column) + 12, header.height() // 2)
    qtbot.mouseClick(header.viewport(), LEFT, modifier or Qt.KeyboardModifier.NoModifier, pos=where)


def entry(menu: QMenu, words: str) -> QAction:
    return next(action for action in menu.actions() if action.text() == words)


def three(store: Store) -> None:
    feed(store, row("a", "NVDA", "2"), row("b", "AMD", "5"), row("c", "NVDA", "7"))


def said_in(home: Path) -> str:
    return "".join(path.read_text("utf-8") for path in home.glob("*.json"))


# --- order ------------------------------------------------------------------------------------


def test_shift_sorts_by_more_columns(qtbot: QtBot, store: Store, view: TableView) -> None:
    three(store)
    click_header(qtbot, view, 1)
    click_header(qtbot, view, 2, SHIFT)
    assert view.table.order == ["b", "c", "a"]
    titles = [view.table.headerData(at, Qt.Orientation.Horizontal) for at in (1, 2)]
    assert titles == ["Symbol ▲1", "Qty ▼2"]
    click_header(qtbot, view, 2, SHIFT)  # turned round
    assert view.table.order == ["b", "a", "c"]
    feed(store, row("d", "NVDA", "1"), row("e", "AMD", None), row("f", "AMD", "1"))
    view.table.resort()
    assert view.table.order == ["f", "b", "e", "d", "a", "c"]
    click_header(qtbot, view, 2, SHIFT)  # let go
    assert view.table.sorting == [(1, False)]
    click_header(qtbot, view, 2)  # without Shift it is the only one
    assert view.table.sorting == [(2, True)]


async def test_nothing_changes_places_while_a_row_is_worked_on(
    qtbot: QtBot, desk: DeskUnderTest
) -> None:
    view, model = desk.view, desk.view.table
    desk.window.activateWindow()
    view.setFocus()
    await until(view.hasFocus)
    keys = [row["key"] for row in desk.client.tables[tables.SIGNALS].values()]
    picked = model.order[3]
    assert view.select_key(picked)
    top = view.rowViewportPosition(model.pos[picked])
    before = [key for key in model.order if key in keys]
    for _ in range(5):
        desk.client.put(tables.SIGNALS, desk.client.signal(desk.client.now))
    desk.client.change(tables.SIGNALS, model.order[0], received_at="2020-01-01T00:00:00Z")
    desk.frame()
    model.step(1e9)
    assert len(model.order) == len(before) + 5
    assert [key for key in model.order if key in keys] == before, "no row changed places"
    assert view.rowViewportPosition(model.pos[picked]) == top, "it is where it was on screen"
    desk.window.panels["signals"].tick()
    assert "5 above" in desk.window.panels["signals"].count.text()
    qtbot.keyClick(view, Qt.Key.Key_Escape)
    assert not view.chosen_keys()
    model.step(2e9)
    assert model.order[-1] == before[0], "let go, it takes its place"


def test_rows_leave_a_filter_with_time_alone(store: Store, view: TableView, monkeypatch) -> None:
    three(store)
    view.table.set_filter("age<60")
    assert view.table.order == ["a", "b"]
    monkeypatch.setitem(AGES, "b", 60.0)
    monkeypatch.setitem(AGES, "c", 1.0)
    view.table.tick()
    assert view.table.order == ["a", "c"]


def test_a_changed_row_leaves_a_filter_on_its_column(store: Store, view: TableView) -> None:
    three(store)
    view.table.set_filter("symbol:nvda")
    feed(store, row("a", "TSLA", "2"), row("b", "NVDA", "5"))
    assert sorted(view.table.order) == ["b", "c"]


# --- columns ----------------------------------------------------------------------------------


def test_the_header_menu_hides_fits_freezes_and_resets(
    qtbot: QtBot, store: Store, view: TableView
) -> None:
    three(store)
    view._header_menu(QPoint(view.header.sectionViewportPosition(1) + 5, 5))
    menu = QApplication.activePopupWidget()
    assert isinstance(menu, QMenu)
    assert view.is_frozen(), "rows hold still under an open menu"
    entry(menu, "Hide Symbol").trigger()
    assert view.isColumnHidden(1)
    entry(menu, "Fit all columns").trigger()
    assert view.header.sectionSize(3) < 120 < COLUMNS[3].width
    menu.close()
    view.show_header_menu()  # by key
    menu = QApplication.activePopupWidget()
    assert isinstance(menu, QMenu)
    assert not entry(menu, "Symbol").isChecked()
    entry(menu, "Symbol").trigger()
    assert not view.isColumnHidden(1)
    entry(menu, "Freeze first column").trigger()
    assert view.header.frozen
    assert view.layout_state()["frozen"]
    entry(menu, "Reset columns").trigger()
    assert view.header.sectionSize(3) >= COLUMNS[3].width
    assert not view.header.frozen
    menu.close()


def test_a_frozen_column_stays_and_is_what_is_clicked(
    qtbot: QtBot, store: Store, view: TableView
) -> None:
    three(store)
    view.freeze_first(True)
    assert view.header.frozen_width() == 0, "nothing lies below it yet"
    view.horizontalScrollBar().setValue(150)
    width = view.header.frozen_width()
    assert width == view.header.sectionSize(0)
    where = QPoint(width // 2, view.header.height() // 2)
    qtbot.mouseClick(view.header.viewport(), LEFT, pos=where)
    assert view.table.sorting == [(0, False)], "not the column that is scrolled below it"


# --- sums and copies --------------------------------------------------------------------------


def test_selected_rows_are_added_up_exactly(store: Store, view: TableView) -> None:
    three(store)
    view.select_key("a")
    assert view.totals() == "", "one row is its own sum"
    view.selectAll()
    assert view.totals() == "3 selected   Value 0.30", (
        "0.1 + 0.1 + 0.1, and no sum of unlike things"
    )
    feed(store, removed=("b",))
    view.selectAll()
    assert view.totals() == "2 selected   Qty 9   Value 0.20"
    feed(store, row("c", "NVDA", "7", "not a number"))
    assert view.totals() == "2 selected   Qty 9   Value 0.10"


def test_ctrl_c_copies_tab_separated_text(qtbot: QtBot, store: Store, view: TableView) -> None:
    three(store)
    view.show_column(4, False)
    view.selectAll()
    qtbot.keyClick(view, Qt.Key.Key_C, Qt.KeyboardModifier.ControlModifier)
    lines = QGuiApplication.clipboard().text().splitlines()
    assert lines[0] == "Id\tSymbol\tQty\tValue"
    assert len(lines) == 4
    assert lines[1].startswith("a\tNVDA\t2\t")


async def test_the_sum_of_a_selection_stands_below_the_table(desk: DeskUnderTest) -> None:
    panel = desk.window.panels["signals"]
    desk.view.selectAll()
    rows = list(panel.model.rows.values())
    assert panel.totals.isVisible()
    assert f"Sent {sum(row['sent'] for row in rows):,}".replace(",", "") in (
        panel.totals.text().replace("\u2009", "").replace("\u202f", "")
    )
    await select(desk, "held")
    assert not panel.totals.isVisible()


# --- views ------------------------------------------------------------------------------------


async def test_a_view_is_saved_shown_kept_in_the_layout_and_deleted(
    qtbot: QtBot, desk: DeskUnderTest, tmp_path: Path
) -> None:
    panel = desk.window.panels["signals"]
    panel.filter.setText("state:held")
    panel.view.show_column(1, False)
    panel.view.table.sort_by([(4, False), (1, True)])
    desk.desk.registry.run("signals.views")
    menu = panel.views_button.menu()
    await until(menu.actions)
    assert [a.text() for a in menu.actions()][:2] == ["Everything", "Review queue"]
    entry(menu, "Save this view…").trigger()
    menu.close()
    dialog = opened(desk, "save_view")
    assert dialog.focusWidget() is dialog._name
    dialog._on_go()
    assert dialog.isVisible(), "it needs a name"
    qtbot.keyClicks(dialog._name, "Mine")
    qtbot.keyClick(dialog._name, Qt.Key.Key_Return)
    assert "Mine" in panel.views.saved

    panel.views.show("Everything")
    assert panel.filter.text() == ""
    assert panel.view.table.sorting[0][1]
    panel.views.show("Mine")
    assert panel.filter.text() == "state:held"
    assert panel.view.isColumnHidden(1)
    assert panel.view.table.sorting == [(4, False), (1, True)]

    desk.desk.layouts.save()
    assert '"Mine"' in said_in(tmp_path)
    kept = json.loads(json.dumps(panel.state()))
    panel.views.saved.clear()
    panel.restore(kept)
    assert panel.views.saved["Mine"]["filter"] == "state:held"
    panel.restore({})
    assert "Mine" in panel.views.saved, "another layout takes no view away"
    panel.views_button.fill(menu)
    entry(entry(menu, "Delete").menu(), "Mine").trigger()
    assert not panel.views.saved


async def test_a_filter_that_is_not_understood_is_marked(desk: DeskUnderTest) -> None:
    panel = desk.window.panels["signals"]
    panel.filter.setText("age<soon")
    assert panel.filter.property("invalid")
    assert "expected a number" in panel.filter.toolTip()
    assert not panel.model.order
    panel.filter.setText("age<1d")
    assert not panel.filter.property("invalid")
    assert panel.model.order


async def test_the_review_queue_is_a_view_and_n_walks_it(qtbot: QtBot, desk: DeskUnderTest) -> None:
    panel = desk.window.panels["signals"]
    panel.views.show("Review queue")
    held = [k for k, r in panel.model.rows.items() if r["held"]]
    assert sorted(panel.model.order) == sorted(held)
    seen = []
    for _ in held:
        desk.desk.registry.run("signal.next_held")
        seen.append(panel.view.current_key())
    assert sorted(seen) == sorted(held)
    ends = [panel.model.rows[key]["hold_expires_at"] for key in seen]
    assert ends == sorted(ends), "what runs out first is first"
