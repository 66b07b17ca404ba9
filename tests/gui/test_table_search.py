"""A large table is filtered and sorted in slices: whatever comes between them, the end is that of doing it at once."""

from __future__ import annotations

import random
from itertools import pairwise
from typing import Any

import pytest
from pytestqt.modeltest import ModelTester
from pytestqt.qtbot import QtBot

from engine.model import tables
from gui import bridge, slices, table_model, table_order
from gui.bridge import Store
from gui.dialogs.export import ExportDialog
from gui.table_filter import Texts, parse
from gui.table_model import Column, TableModel
from gui.table_view import TableView
from tests.gui.conftest import DeskUnderTest, feed, until

COLUMNS = (
    Column("cl_ord_id", "Id", 80),
    Column("order_qty", "Qty", 60, "number"),
    Column("symbol", "Symbol", 100),
    Column("side", "Side", 100),
)
FILTERS = ("", "n", "nv", "nvd", "nvda", "nvda buy", "a", "amd", "amd|nvda", "-amd", "zzz", "qty>500", "qty>500 nvda",
           "buy", "side:sell", "nv qty<300", "qty<700")  # fmt: skip
SORTS: tuple[list[tuple[int, bool]], ...] = (
    [], [(1, False)], [(1, True)], [(2, False), (1, True)], [(2, True), (3, False)], [(0, True)]
)  # fmt: skip


def row(number: int, quantity: object = "1") -> dict[str, Any]:
    symbol, side = ("NVDA", "AMD", "AAPL")[number % 3], ("buy", "sell")[number % 5 % 2]
    return {"cl_ord_id": f"k{number:05}", "order_qty": quantity, "symbol": symbol, "side": side}


@pytest.fixture
def model(store: Store, monkeypatch: pytest.MonkeyPatch) -> TableModel:
    """A table that is large from the first row on, and in which a slice is a step."""
    monkeypatch.setattr(table_model, "AT_ONCE", 0)
    monkeypatch.setattr(table_model, "FIRST_S", -1.0)
    monkeypatch.setattr(slices, "SLICE_S", -1.0)
    monkeypatch.setattr(table_order, "BLOCK", 4)
    monkeypatch.setattr(table_order, "RUN", 8)
    made = TableModel(COLUMNS, store)
    made.setParent(store)
    made.attach(tables.ORDERS)
    return made


def plain(model: TableModel) -> list[str]:
    """The keys of the rows that belong here, asked one by one."""
    made = parse(model.filter_text, COLUMNS, Texts(COLUMNS))
    return [
        key
        for key, row in model.rows.items()
        if made.holds(row) and (model.keep is None or model.keep(row))
    ]


def in_order(model: TableModel) -> bool:
    down = [descending for _, descending in model.sorting]
    values = [model._value_of(key) for key in model.order]
    return all(table_order.in_order(one, other, down) for one, other in pairwise(values))


def settle(store: Store, model: TableModel) -> None:
    model.finish()
    store.frame()
    for _ in range(3):
        model.step(model._stepped_at + 1e9)
        model.finish()


def whole(model: TableModel) -> None:
    """What holds at every moment."""
    assert len(set(model.order)) == len(model.order)
    assert {key: at for at, key in enumerate(model.order)} == model.pos
    assert set(model.order) <= set(model.rows)


class Play:
    """What happens to a table, at random."""

    def __init__(self, store: Store, model: TableModel, seed: int) -> None:
        self.store, self.model, self.rnd = store, model, random.Random(seed)
        self.known: dict[str, dict[str, Any]] = {}
        self.held = False
        model.frozen = lambda: self.held
        self.acts = {
            self.change: 8, self.remove: 2, self.remove_many: 0.3, self.go_on: 14, self.look: 3, self.type: 3,
            self.sort: 1, self.hold: 0.6, self.load: 0.2, self.keep: 0.3,
        }  # fmt: skip

    def step(self) -> None:
        [act] = self.rnd.choices(list(self.acts), list(self.acts.values()))
        act()
        whole(self.model)

    def change(self) -> None:
        numbers = [self.rnd.randrange(120) for _ in range(self.rnd.randrange(1, 6))]
        made = [row(n, self.rnd.choice((str(self.rnd.randrange(1000)), None))) for n in numbers]
        self.known.update((one["cl_ord_id"], one) for one in made)
        feed(self.store, *made)

    def remove(self) -> None:
        key = f"k{self.rnd.randrange(120):05}"
        self.known.pop(key, None)
        feed(self.store, removed=(key,))

    def remove_many(self) -> None:
        keys = tuple(self.rnd.sample(list(self.known), len(self.known) * 4 // 5))
        for key in keys:
            del self.known[key]
        feed(self.store, removed=keys)

    def go_on(self) -> None:
        self.model._slices.go_on()

    def look(self) -> None:
        self.model.step(self.model._stepped_at + 1.0)

    def type(self) -> None:
        self.model.set_filter(self.rnd.choice(FILTERS))

    def sort(self) -> None:
        self.model.sort_by(list(self.rnd.choice(SORTS)))

    def hold(self) -> None:
        self.held = not self.held

    def load(self) -> None:
        self.model.load()

    def keep(self) -> None:
        self.model.keep = None if self.model.keep else lambda row: row["order_qty"] is not None
        self.model.load()


@pytest.mark.parametrize("seed", range(8))
def test_whatever_comes_in_between_the_end_is_that_of_the_plain_filter(
    store: Store, model: TableModel, monkeypatch: pytest.MonkeyPatch, seed: int
) -> None:
    monkeypatch.setattr(table_model, "MORE_S", (0.0, 1e9)[seed % 2])
    monkeypatch.setattr(table_model, "MANY", (8, 40)[seed // 2 % 2])
    play = Play(store, model, seed)
    for _turn in range(90):
        for _ in range(12):
            play.step()
        play.held = False
        settle(store, model)
        whole(model)
        assert not model.searching
        assert model.rows == play.known
        assert sorted(model.order) == sorted(plain(model))
        assert in_order(model)


def test_views_are_told_every_step(
    store: Store, model: TableModel, qtmodeltester: ModelTester
) -> None:
    qtmodeltester.check(model)
    play = Play(store, model, 99)
    for _ in range(400):
        play.step()
    play.held = False
    settle(store, model)
    assert sorted(model.order) == sorted(plain(model))


@pytest.mark.parametrize("sorting", SORTS)
def test_sorted_in_slices_is_sorted(sorting: list[tuple[int, bool]]) -> None:
    rnd = random.Random(5)
    rows = {f"k{n}": (rnd.choice((None, 1.0, 2.0, 3.0)), rnd.randrange(40)) for n in range(30_000)}
    down = [descending for _, descending in sorting][:2]
    work, steps = table_order.sort(list(rows), lambda keys: map(rows.__getitem__, keys), down), 0
    while True:
        try:
            next(work)
        except StopIteration as end:
            found: list[str] = end.value
            break
        steps += 1
    assert steps > 50
    expected = list(rows)
    for level in reversed(range(len(down))):
        known = [key for key in expected if rows[key][level] is not None]
        lacking = [key for key in expected if rows[key][level] is None]
        known.sort(key=lambda key, level=level: rows[key][level], reverse=down[level])  # type: ignore[misc]
        expected = known + lacking
    assert found == expected


def test_no_half_order_is_ever_shown(store: Store, model: TableModel) -> None:
    rnd = random.Random(4)
    feed(store, *(row(number, str(rnd.randrange(999))) for number in range(200)))
    settle(store, model)
    before = list(model.order)
    model.sort_by([(1, True)])
    turns = 0
    while model._slices.busy:
        assert model.order == before
        model._slices.go_on()
        turns += 1
    assert turns > 20
    assert in_order(model)
    assert model.order != before


def test_the_first_hits_are_those_on_top_also_where_the_order_is_another_one_now(
    store: Store, model: TableModel
) -> None:
    rnd = random.Random(4)
    feed(store, *(row(number, str(rnd.randrange(999))) for number in range(200)))
    settle(store, model)
    model.set_filter("nvda")
    model.finish()
    model.sort_by([(1, True)])
    model.finish()
    model.set_filter("")  # no order of all rows is known
    shown = 0
    while model.searching:
        assert in_order(model)
        shown = max(shown, len(model.order))
        model._slices.go_on()
    assert len(model.order) == 200
    assert in_order(model)


def test_the_first_page_comes_at_once_and_what_is_done_in_it_stays(
    qtbot: QtBot, store: Store, model: TableModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(table_model, "MORE_S", 0.0)
    view = TableView(model, "orders")
    view.empty_title = "Nothing here yet"
    qtbot.addWidget(view)
    view.resize(400, 60)
    view.show()
    model.sort_by([(0, False)])
    feed(store, *(row(number) for number in range(3_000)))
    settle(store, model)
    model.set_filter("nvda")
    assert model.searching
    assert model.order == ["k00000", "k00003"]
    for _ in range(40):
        model._slices.go_on()
    assert view.select_key("k00060")
    assert model.searching
    top = view.verticalScrollBar().value()
    assert top > 0
    view._hover = 1  # the pointer lies on a row: below it rows may come, none moves
    feed(store, row(3_000), row(3_003))
    heard: list[bool] = []
    model.searched = lambda: heard.append(model.searching)
    model.finish()
    assert heard == [False]
    assert view.current_key() == "k00060"
    assert view.verticalScrollBar().value() == top
    view._hover = -1
    settle(store, model)
    assert model.order == sorted(plain(model))
    assert view.current_key() == "k00060"


def test_a_key_that_extends_the_filter_asks_only_what_may_still_match(
    store: Store, model: TableModel
) -> None:
    asked: list[str] = []

    def keep(row: dict[str, Any]) -> bool:
        asked.append(row["cl_ord_id"])
        return True

    feed(store, *(row(number) for number in range(300)))
    settle(store, model)
    model.keep = keep
    model.set_filter("n")
    for _ in range(20):
        model._slices.go_on()
    hits, left = len(model.order) + len(model._search.found), len(model._search.left)
    assert hits < 84 - 40
    asked.clear()
    model.set_filter("nv")
    model.finish()
    assert len(asked) <= hits + left
    assert sorted(model.order) == sorted(plain(model))


def test_what_needs_every_hit_ends_the_search(
    qtbot: QtBot, store: Store, model: TableModel
) -> None:
    view = TableView(model, "orders")
    qtbot.addWidget(view)
    feed(store, *(row(number) for number in range(300)))
    settle(store, model)
    model.set_filter("nvda")
    assert model.searching
    view.selectAll()
    assert not model.searching
    assert len(view.chosen_keys()) == 100
    model.set_filter("amd")
    assert model.searching
    assert view.select_key("k00298")
    assert not view.select_key("k00299")  # of AAPL


async def test_a_large_table_is_searched_between_turns_of_the_desk(
    desk: DeskUnderTest, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(bridge.CAPS, tables.FILLS, 30_000)
    monkeypatch.setattr(table_model, "FIRST_S", -1.0)
    monkeypatch.setattr(slices, "SLICE_S", 0.0)
    panel = desk.window.panels["fills"]
    desk.window.show_panel("fills")
    rows = desk.client.tables[tables.FILLS]
    some = next(iter(rows.values()))
    for number in range(30_000):
        symbol = ("AAPL", "NVDA")[number % 2]
        rows[f"x{number}"] = some | {"key": f"x{number}", "exec_id": f"x{number}", "symbol": symbol}
    desk.client.connect()
    panel.filter.setText("nvda")
    model = panel.model
    assert model.searching
    assert 0 < len(model.order) < 15_000, "the first page"
    assert "Searching" in panel.count.text()
    dialog = ExportDialog(desk.desk, {"view": panel.view})
    assert not model.searching, "a file has every row"
    count = len(model.order)
    assert count >= 15_000
    dialog.reject()
    panel.filter.setText("x1")
    assert model.searching
    turns: list[int] = []
    model.rowsInserted.connect(lambda *_: turns.append(len(model.order)))
    await until(lambda: not model.searching, 60.0)
    assert len(turns) > 1
    assert "Searching" not in panel.count.text()
    assert sorted(model.order) == sorted(
        key for key, one in model.rows.items() if model.filter.holds(one)
    )


def test_a_hit_that_changes_before_it_is_shown_is_judged_anew(
    store: Store, model: TableModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(table_model, "MORE_S", 1e9)
    monkeypatch.setattr(table_model, "MANY", 1_000)
    model.sort_by([(1, False)])
    feed(store, *(row(number, str(600 + number)) for number in range(40)))
    settle(store, model)
    model.set_filter("qty>500")
    for _ in range(3):
        model._slices.go_on()
    hidden = list(model._search.found)
    assert len(hidden) == 12
    feed(store, row(5, "1"), row(6, "900"), removed=("k00007",))
    model.finish()
    assert len(model.order) == 38
    assert not {"k00005", "k00007"} & set(model.order)
    assert model.order[-1] == "k00006", "and it stands where it belongs now"
    assert in_order(model)


def test_rows_that_changed_out_of_sight_stand_where_they_belong_when_the_filter_goes(
    store: Store, model: TableModel
) -> None:
    model.sort_by([(1, False)])
    feed(store, *(row(number, str(number)) for number in range(40)))
    settle(store, model)
    model.set_filter("nvda")
    model.finish()
    feed(store, row(3, "999"))  # in sight, and put in order there
    model.step(model._stepped_at + 1e9)
    model.finish()
    assert model.order[-1] == "k00003"
    model.set_filter("")
    model.finish()
    assert model.order[-1] == "k00003"
    assert in_order(model)
    model.set_filter("nvda")
    model.finish()
    feed(store, row(1, "500"), row(100, "20.5"))  # out of sight
    model.set_filter("")
    model.finish()
    assert len(model.order) == 41
    assert model.order[-2:] == ["k00001", "k00003"]
    assert in_order(model)


def test_a_row_that_came_and_left_the_filter_is_found_by_the_next(
    store: Store, model: TableModel
) -> None:
    model.sort_by([(0, False)])
    feed(store, *(row(number, "600") for number in range(20)))
    settle(store, model)
    model.set_filter("qty>500")
    settle(store, model)
    feed(store, row(90, "700"))
    assert model.order[-1] == "k00090"
    feed(store, row(90, "3"))
    assert "k00090" not in model.pos
    model.set_filter("qty<500")
    model.finish()
    assert model.order == ["k00090"]
    feed(store, removed=("k00090",))
    assert not model._came
