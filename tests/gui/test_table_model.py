from __future__ import annotations

import random
from typing import Any

import pytest
from PySide6.QtCore import Qt
from pytestqt.modeltest import ModelTester
from pytestqt.qtbot import QtBot

from engine.model import tables
from engine.model.enums import ConnectionState
from gui.bridge import FRAME_MS, Store
from gui.table_cells import RAW
from gui.table_model import Column, TableModel
from gui.table_view import TableView
from tests.gui.conftest import feed

COLUMNS = (
    Column("cl_ord_id", "Id", 80),
    Column("order_qty", "Qty", 60, "number", flash=True),
    Column("text", "Text", 100),
)
DOWN, UP = Qt.SortOrder.DescendingOrder, Qt.SortOrder.AscendingOrder


def row(key: str, quantity: object = "1", text: str = "") -> dict[str, Any]:
    return {"cl_ord_id": key, "order_qty": quantity, "text": text}


@pytest.fixture
def model(store: Store) -> TableModel:
    made = TableModel(COLUMNS, store)
    made.attach(tables.ORDERS)
    return made


def test_rows_come_change_and_go(
    store: Store, model: TableModel, qtmodeltester: ModelTester
) -> None:
    qtmodeltester.check(model)
    feed(store, row("a"), row("b"), row("c"))
    assert model.order == ["a", "b", "c"]
    feed(store, row("b", "7"), removed=("a",))
    assert model.order == ["b", "c"]
    assert model.index(0, 1).data() == "7"
    assert model.index(0, 1).data(RAW) == "7"
    assert model.pos == {"b": 0, "c": 1}


def test_many_changes_to_one_row_are_one_notice_a_frame(store: Store, model: TableModel) -> None:
    feed(store, row("a"))
    heard: list[int] = []
    model.dataChanged.connect(lambda first, _last: heard.append(first.row()))
    for quantity in range(50):
        store.on_batch({tables.ORDERS: [row("a", str(quantity))]}, {})
    store.frame()
    assert heard == [0]
    assert model.index(0, 1).data() == "49"


def test_rows_out_of_sight_are_not_formatted(store: Store, model: TableModel) -> None:
    feed(store, *(row(f"k{n:03}") for n in range(300)))
    model.visible_span = lambda: (0, 9)
    heard: list[tuple[int, int]] = []
    model.dataChanged.connect(lambda first, last: heard.append((first.row(), last.row())))
    feed(store, *(row(f"k{n:03}", "2") for n in range(300)))
    assert heard == [(0, 9)]


def test_numbers_sort_as_numbers_and_nothing_comes_last(store: Store, model: TableModel) -> None:
    feed(store, row("a", "9"), row("b", "100"), row("c", None), row("d", "-3"))
    model.sort(1, DOWN)
    assert model.order == ["b", "a", "d", "c"]
    model.sort(1, UP)
    assert model.order == ["d", "a", "b", "c"]


def test_new_rows_come_on_top_when_newest_is_first(store: Store, model: TableModel) -> None:
    model.sort(0, DOWN)
    feed(store, row("a"), row("b"))
    feed(store, row("c"))
    assert model.order == ["c", "b", "a"]


def test_nothing_moves_under_the_pointer(store: Store, model: TableModel) -> None:
    model.sort(1, DOWN)
    feed(store, row("a", "1"), row("b", "2"))
    assert model.order == ["b", "a"]
    model.frozen = lambda: True
    feed(store, row("a", "9"), row("c", "5"))
    model.step(1e9)
    assert model.order == ["b", "a"]
    assert list(model.waiting) == ["c"]
    model.frozen = lambda: False
    model.step(2e9)
    model.step(3e9)
    assert model.order == ["a", "c", "b"]
    assert not model.waiting


def test_a_row_that_is_not_kept_any_more_leaves_but_not_under_the_pointer(
    store: Store, model: TableModel
) -> None:
    model.keep = lambda row: row["order_qty"] != "0"
    feed(store, row("a"), row("b"), row("c", "0"))
    assert model.order == ["a", "b"]
    feed(store, row("a", "0"))
    assert model.order == ["b"]
    model.frozen = lambda: True
    feed(store, row("b", "0"))
    assert model.order == ["b"]
    model.frozen = lambda: False
    model.step(1e9)
    assert model.order == []
    feed(store, row("a", "2"))
    assert model.order == ["a"]


def test_only_another_value_in_the_sorted_column_sorts_again(
    store: Store, model: TableModel
) -> None:
    model.sort(1, DOWN)
    feed(store, row("a", "1"), row("b", "2"), row("c", "3"))
    moves: list[int] = []
    model.layoutChanged.connect(lambda *_: moves.append(1))
    feed(store, row("a", "1", "another text"), row("d", "4"))
    model.step(1e9)
    assert (model.order, moves) == (["d", "c", "b", "a"], [])
    feed(store, row("a", "9"))
    model.step(2e9)
    assert (model.order, moves) == (["a", "d", "c", "b"], [1])


def test_a_resort_keeps_the_selection_with_its_row(
    qtbot: QtBot, store: Store, model: TableModel
) -> None:
    view = TableView(model, "orders")
    qtbot.addWidget(view)
    feed(store, *(row(key, str(n)) for n, key in enumerate("abcdef")))
    assert view.select_key("e")
    model.sort(1, DOWN)
    assert view.current_key() == "e"
    feed(store, row("e", "-5"))
    model.resort()
    assert model.order[-1] == "e"
    assert view.current_key() == "e"


def test_filter_takes_every_word(store: Store, model: TableModel) -> None:
    feed(
        store,
        row("a", "5", "rejected by broker"),
        row("b", "6", "filled"),
        row("c", "7", "Broker down"),
    )
    model.set_filter("BROKER")
    assert model.order == ["a", "c"]
    model.set_filter("broker rejected")
    assert model.order == ["a"]
    feed(store, row("d", "8", "rejected: broker"))
    assert model.order == ["a", "d"]
    model.set_filter("")
    assert len(model.order) == 4


def test_a_filter_that_narrows_asks_only_the_rows_it_showed(
    store: Store, model: TableModel
) -> None:
    asked: list[str] = []

    def keep(row: dict[str, Any]) -> bool:
        asked.append(row["cl_ord_id"])
        return True

    feed(store, *(row(f"k{n}", str(n % 7), f"word{n % 10}") for n in range(100)))
    model.sort(1, DOWN)
    model.keep = keep
    model.set_filter("word")
    assert len(model.order) == 100
    asked.clear()
    model.set_filter("word1")
    assert len(asked) == len(model.order) == 10
    asked.clear()
    model.set_filter("word1 k1")
    assert len(model.order) == 2  # k1, k11: in order as before
    assert [model.rows[key]["order_qty"] for key in model.order] == ["4", "1"]
    assert len(asked) == 2
    model.set_filter("word2")  # another word: every row is asked
    assert len(model.order) == 10


def test_what_a_row_is_sorted_by_is_not_of_yesterday_when_the_filter_lets_it_in(
    store: Store, model: TableModel
) -> None:
    feed(store, row("a", "1", "x"), row("b", "2", "y"), row("c", "3", "x"), row("d", "4", "y"))
    model.sort(1, UP)
    model.set_filter("y")
    assert model.order == ["b", "d"]
    feed(store, row("a", "9", "x"), removed=("c",))  # out of sight meanwhile
    feed(store, row("c", "0", "x"))
    assert model.order == ["b", "d"]
    model.set_filter("")
    assert model.order == ["c", "b", "d", "a"]


def test_rows_are_written_ahead_while_the_cursor_is_in_the_filter(store: Store) -> None:
    written: list[str] = []

    def write(found: dict[str, Any]) -> str:
        written.append(found["cl_ord_id"])
        return f"text of {found['cl_ord_id']}"

    model = TableModel((Column("text", "Text", 80, text=write),), store)
    model.visible_span = lambda: (0, -1)
    model.attach(tables.ORDERS)
    feed(store, *(row(f"k{n}") for n in range(50)))
    while model.read_ahead(0.0):
        assert len(written) <= 50
    assert sorted(written) == sorted(model.rows)
    model.set_filter("text of k1")
    model.set_filter("")
    model.set_filter("k2")
    assert len(written) == 50  # no key wrote a row
    feed(store, row("k2", "5"))
    model.set_filter("text")
    assert written[50:] == ["k2"]
    model.set_filter("")
    model.rest()  # the cursor has left
    model.set_filter("k")
    assert len(written) == 101


def test_flash_marks_only_what_changed(store: Store, model: TableModel) -> None:
    feed(store, row("a", "1", "x"))
    model.cells("a")
    feed(store, row("a", "2", "y"))
    assert model.flash_of("a", 1) > 0.5
    assert model.flash_of("a", 2) == 0
    model.step(1e12)
    assert model.flash_of("a", 1) == 0


def test_a_thousand_random_changes_leave_the_model_whole(
    store: Store, model: TableModel, qtmodeltester: ModelTester
) -> None:
    qtmodeltester.check(model)
    rnd = random.Random(11)
    known: dict[str, dict[str, Any]] = {}
    model.sort(1, DOWN)
    for turn in range(1_000):
        key = f"k{rnd.randrange(80)}"
        if rnd.random() < 0.25:
            known.pop(key, None)
            feed(store, removed=(key,))
        else:
            known[key] = row(key, str(rnd.randrange(1000)))
            feed(store, known[key])
        if turn % 50 == 0:
            model.set_filter(rnd.choice(("", "k1", "7")))
    model.set_filter("")
    model.resort()
    assert sorted(model.order) == sorted(known)
    assert {key: at for at, key in enumerate(model.order)} == model.pos
    quantities = [int(known[key]["order_qty"]) for key in model.order]
    assert quantities == sorted(quantities, reverse=True)


def test_a_snapshot_replaces_everything(store: Store, model: TableModel) -> None:
    feed(store, row("a"), row("b"))
    store.on_snapshot({tables.ORDERS: [row("z")]})
    assert model.order == ["z"]


def test_the_oldest_rows_leave_first(
    store: Store, model: TableModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(__import__("gui.bridge").bridge.CAPS, tables.ORDERS, 3)
    feed(store, *(row(key) for key in "abcde"))
    assert model.order == ["c", "d", "e"]
    feed(store, row("f"))
    assert model.order == ["d", "e", "f"]


def test_tsv_has_titles_and_the_columns_asked_for(store: Store, model: TableModel) -> None:
    feed(store, row("a", "5", "x\ty"))
    assert model.as_tsv(["a"], [2, 0]) == "Text\tId\nx y\ta"


@pytest.mark.parametrize(
    ("cell", "pasted"),
    [
        ('=HYPERLINK("http://x")', '\'=HYPERLINK("http://x")'),
        ("+cmd|' /C calc'!A0", "'+cmd|' /C calc'!A0"),
        ("-2+3", "'-2+3"),
        ("@SUM(1)", "'@SUM(1)"),
        ("one\r\n=two", "one  =two"),
        ("+1\u202f243.89", "+1\u202f243.89"),
        ("-5", "-5"),
    ],
)
def test_what_is_pasted_is_no_formula(
    store: Store, model: TableModel, cell: str, pasted: str
) -> None:
    feed(store, row("a", "5", cell))
    assert model.as_tsv(["a"], [2]) == f"Text\n{pasted}"


def test_view_remembers_columns(qtbot: QtBot, store: Store, model: TableModel) -> None:
    view = TableView(model, "orders")
    qtbot.addWidget(view)
    view.show_column(0, False)
    view.horizontalHeader().moveSection(2, 0)
    view.horizontalHeader().resizeSection(1, 133)
    model.sort(1, DOWN)
    state = view.layout_state()
    other = TableView(TableModel(COLUMNS, store), "orders")
    qtbot.addWidget(other)
    other.restore_layout(state)
    assert other.layout_state() == state
    other.show_column(1, False)
    other.show_column(2, False)
    assert not other.isColumnHidden(2), "the last column stays"


def test_news_after_a_rest_are_shown_at_once_and_then_once_a_frame(
    store: Store, model: TableModel
) -> None:
    store.on_batch({tables.ORDERS: [row("a")]}, {})
    assert (store._timer.isActive(), store._timer.interval()) == (True, 0)
    store.animate(lambda _now: True)
    store.frame()
    assert (store._timer.isActive(), store._timer.interval()) == (True, FRAME_MS)
    assert model.order == ["a"]


def test_unused_pump_rests(store: Store, model: TableModel) -> None:
    feed(store, row("a"))
    assert not store._timer.isActive()
    store.on_link(ConnectionState.CONNECTED, "")
    assert store.age() is not None
