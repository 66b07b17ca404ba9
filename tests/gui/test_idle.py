"""What the desk does when there is nothing to do, and that a change costs what it changes: counted, not timed.

The window's events are sent by hand: no timer fires meanwhile, so that what is counted is what was asked for.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from PySide6.QtCore import QCoreApplication, QEvent, QObject, QRect, Qt
from PySide6.QtWidgets import QApplication, QWidget
from pytestqt.qtbot import QtBot

from engine.model import tables
from gui import formatting as fmt
from gui import row_painter
from gui.beat import BEAT_MS, LOOKS, RESTS, Beat, Part
from gui.bridge import QUIET_MS, Store
from gui.commands import SETTLE_AGAIN
from gui.panel import Caption, TablePanel
from gui.row_painter import Recent, RowPainter
from gui.table_look import Changes
from gui.table_model import SLOW_TICKS, Column, TableModel
from gui.table_view import TableView
from tests.gui.conftest import DeskUnderTest
from tests.gui.scripted import at

BEATS = 40
KINDS = (QEvent.Type.Paint, QEvent.Type.LayoutRequest)


class Events(QObject):
    """Counts paints and requests for a layout, by widget."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: dict[QEvent.Type, Counter[QObject]] = {kind: Counter() for kind in KINDS}

    def eventFilter(self, watched: QObject, event: QEvent) -> bool:  # noqa: N802 (Qt's name)
        if event.type() in self.seen and isinstance(watched, QWidget):
            self.seen[event.type()][watched] += 1
        return False

    @property
    def painted(self) -> set[QObject]:
        return set(self.seen[QEvent.Type.Paint])

    @property
    def laid_out(self) -> set[QObject]:
        return set(self.seen[QEvent.Type.LayoutRequest])

    def forget(self) -> None:
        for counter in self.seen.values():
            counter.clear()


def deliver() -> None:
    """Let the window paint and lay out what was asked for."""
    for _ in range(5):
        QCoreApplication.sendPostedEvents()


@pytest.fixture
def events(qapp: QApplication) -> Iterator[Events]:
    made = Events()
    qapp.installEventFilter(made)
    yield made
    qapp.removeEventFilter(made)


class Calm:
    """A desk whose beats are given by hand, at a moment that stands still until it is moved."""

    def __init__(self, desk: DeskUnderTest, monkeypatch: pytest.MonkeyPatch) -> None:
        self.desk = desk
        self.beat = desk.window._beat
        self.moment = (
            desk.client.now.timestamp() + 900.0
        )  # the youngest row is older than ten minutes
        monkeypatch.setattr(desk.store, "now", lambda: self.moment)
        monkeypatch.setattr(desk.store, "age", lambda: 0.3)
        self.beat.stop()
        desk.frame()
        deliver()
        self.beats(RESTS * SLOW_TICKS)  # by then every row's age has been written
        deliver()

    def beats(self, count: int) -> None:
        for _ in range(count):
            self.beat.beat()
            while self.beat._due:
                self.beat.turn()


async def test_an_idle_desk_paints_nothing(
    desk: DeskUnderTest, events: Events, monkeypatch: pytest.MonkeyPatch
) -> None:
    calm = Calm(desk, monkeypatch)
    refreshed: list[int] = []
    desk.desk.registry.refreshed.connect(lambda: refreshed.append(1))
    events.forget()
    calm.beats(BEATS)
    deliver()
    assert (events.painted, events.laid_out) == (set(), set())
    assert len(refreshed) <= BEATS // RESTS // SETTLE_AGAIN + 1
    key = next(iter(desk.view.table.order))
    desk.client.change(tables.SIGNALS, key, symbol="ZZZ")
    desk.frame()
    deliver()
    assert desk.view.viewport() in events.painted


async def test_the_clock_alone_is_painted_when_a_second_begins(
    desk: DeskUnderTest, events: Events, monkeypatch: pytest.MonkeyPatch
) -> None:
    Calm(desk, monkeypatch)
    bar = desk.window.top_bar
    bar.clock.setText("00:00:00 UTC")
    deliver()
    events.forget()
    desk.window._beat.second.emit()
    deliver()
    below = {bar, bar.parentWidget(), desk.window}
    assert events.painted - below == {bar.clock}
    assert events.laid_out == set()


async def test_an_engine_that_only_says_it_lives_has_no_command_asked(
    desk: DeskUnderTest, monkeypatch: pytest.MonkeyPatch
) -> None:
    calm = Calm(desk, monkeypatch)
    refreshed: list[int] = []
    desk.desk.registry.refreshed.connect(lambda: refreshed.append(1))
    desk.client.put(tables.ENGINE, desk.client.engine())
    desk.frame()
    calm.beats(1)
    assert refreshed == []
    desk.client.change(tables.ACCOUNTS, "A-001", active=False)
    desk.frame()
    calm.beats(1)
    assert refreshed == [1]


async def test_facts_of_the_same_width_ask_for_no_layout(
    desk: DeskUnderTest, events: Events, monkeypatch: pytest.MonkeyPatch
) -> None:
    Calm(desk, monkeypatch)
    cell, figure = desk.window.status._cells["age"], desk.window.top_bar.pnl
    cell.show_fact("Data 11 s", "muted")
    figure.show_value("+1 000.00")
    deliver()
    events.forget()
    for second in range(12, 60):
        cell.show_fact(f"Data {second} s", "muted")
        figure.show_value(f"+1 0{second}.00")
        deliver()
    assert events.laid_out == set()
    assert cell in events.painted
    cell.show_fact("Data of the day before yesterday", "muted")
    deliver()
    assert desk.window in events.laid_out
    assert cell.width() >= cell.sizeHint().width()


# --- the beat -----------------------------------------------------------------------------------


class Parts:
    """Three parts that count their turns, and one behind a tab."""

    def __init__(self) -> None:
        self.news = 0
        self.turns: Counter[str] = Counter()
        self.looks: Counter[str] = Counter()
        self.sight = {"calm": True, "lively": True, "behind": False}
        self.parent = QObject()
        self.beat = Beat(lambda: self.news, self.parent)
        self.parts = {name: self._part(name) for name in self.sight}
        for part in self.parts.values():
            self.beat.add(part)

    def _part(self, name: str) -> Part:
        def in_sight() -> bool:
            self.looks[name] += 1
            return self.sight[name]

        return Part(lambda: self.turns.update([name]), in_sight, lambda: name == "lively")

    def beats(self, count: int) -> Counter[str]:
        self.turns.clear()
        for _ in range(count):
            self.beat.beat()
            while self.beat._due:
                self.beat.turn()
        return self.turns


def test_a_part_rests_unless_something_was_told_or_it_shows_tenths(qapp: QApplication) -> None:
    made = Parts()
    made.beats(1)
    assert made.beats(8) == {"calm": 8 // RESTS, "lively": 8}
    made.beats(1)  # the next is not one of those that everybody has
    made.news += 1
    assert made.beats(1)["calm"] == 1
    assert not made.beat._turns.isActive()


def test_one_part_has_its_turn_in_each_turn_of_the_loop(qapp: QApplication) -> None:
    made = Parts()
    made.beat.beat()
    made.beat.turn()
    assert made.turns == {"calm": 1}
    made.beat.beat()  # too early: the rest have theirs first
    made.beat.turn()
    assert made.turns == {"calm": 1, "lively": 1}


def test_what_is_behind_a_tab_is_hardly_looked_at_and_has_its_turn_when_raised(
    qapp: QApplication,
) -> None:
    made = Parts()
    made.parts["behind"].come_and_go(False)
    made.looks.clear()
    assert made.beats(2 * LOOKS)["behind"] == 0
    assert made.looks["behind"] == 2
    made.sight["behind"] = True
    made.parts["behind"].come_and_go(True)
    assert made.beats(1)["behind"] == 1


def test_a_beat_rests_until_the_next_second_and_is_stirred(qapp: QApplication) -> None:
    made = Parts()
    made.sight["lively"] = False
    made.beat._parts.remove(made.parts["lively"])
    made.beats(RESTS)
    beat, timer = made.beat, made.beat._timer
    beat.start()
    seconds: list[int] = []
    beat.second.connect(lambda: seconds.append(1))
    timer.stop()
    beat._on_time()
    assert seconds == [1]  # the count of quarters began with the clock
    assert made.turns  # at once, all together: nothing was told
    assert not made.beat._due
    assert beat._resting
    assert beat._timer.isActive()
    beat._on_time()
    assert len(seconds) <= 2
    beat.stir()
    assert not beat._resting
    assert timer.interval() <= BEAT_MS
    beat._on_time()
    assert beat._resting
    made.news += 1
    beat._on_time()
    assert not beat._resting
    beat.stop()
    beat.stir(made.parts["calm"])
    assert not timer.isActive()
    assert made.parts["calm"].told == -1


async def test_what_moves_while_nothing_happens_is_shown_as_the_second_begins(
    desk: DeskUnderTest, monkeypatch: pytest.MonkeyPatch
) -> None:
    Calm(desk, monkeypatch)
    store, client = desk.store, desk.client
    stirred: list[int] = []
    store.stirred.connect(lambda: stirred.append(1))
    told: list[str] = []
    store.watch(tables.ACCOUNTS, lambda changed, _gone: told.extend(changed), lambda: None)
    news = store.news, store.matters
    key = next(iter(store.rows(tables.ACCOUNTS)))
    client.change(tables.ACCOUNTS, key, rate_left=3, last_probe_at=at(client.now))
    client.put(tables.ENGINE, store.engine | {"now": at(client.now), "loop_lag_ms": 0.11})
    client.flush()
    assert (store.news, store.matters) == news
    assert stirred == []
    assert store._timer.interval() == QUIET_MS
    assert store.rows(tables.ACCOUNTS)[key]["rate_left"] == 3
    desk.window._beat.second.emit()
    assert told == [key]
    assert not store._timer.isActive()
    client.change(tables.ACCOUNTS, key, rate_left=2)
    client.flush()
    client.change(tables.ACCOUNTS, key, active=False)  # and now something does
    client.flush()
    assert store.news == news[0] + 1
    assert stirred == [1]
    assert store._timer.interval() < QUIET_MS
    client.put(tables.ENGINE, store.engine | {"trading": "halted"})
    client.flush()
    assert stirred == [1, 1]


async def test_a_dock_that_is_raised_is_told_to_its_part(
    desk: DeskUnderTest, monkeypatch: pytest.MonkeyPatch
) -> None:
    calm = Calm(desk, monkeypatch)
    ticked: list[str] = []
    panel = desk.window.panels["fills"]
    part = next(part for part in calm.beat._parts if part.in_sight == panel.in_sight)
    part.tick = lambda: ticked.append("fills")
    assert not part.front
    desk.window.show_panel("fills")
    deliver()
    assert part.front
    calm.beats(1)
    assert ticked == ["fills"]


# --- tables -------------------------------------------------------------------------------------


def cells_told(model: TableModel) -> list[tuple[int, int, int, int]]:
    told: list[tuple[int, int, int, int]] = []
    model.dataChanged.connect(lambda a, b: told.append((a.column(), b.column(), a.row(), b.row())))
    return told


def test_only_cells_that_look_different_are_told_and_painted(
    qtbot: QtBot, events: Events, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = Store()
    columns = tuple(Column(name, name, 80) for name in ("cl_ord_id", "symbol", "text"))
    model = TableModel(columns, store)
    model.attach(tables.ORDERS)
    view = TableView(model, "orders")
    qtbot.addWidget(view)
    view.resize(400, 300)
    rows = [{"cl_ord_id": f"k{n}", "symbol": "AAPL", "text": "x"} for n in range(6)]
    store.on_batch({tables.ORDERS: rows}, {})
    store.frame()
    with qtbot.waitExposed(view):
        view.show()
    deliver()
    assert view.viewport() in events.painted
    areas: list[QRect] = []
    paint = RowPainter.paint
    monkeypatch.setattr(
        RowPainter, "paint", lambda *args: (areas.append(QRect(args[2])), paint(*args))
    )
    told = cells_told(model)
    store.on_batch({tables.ORDERS: [rows[2] | {"text": "y"}, rows[4] | {"other": 1}]}, {})
    store.frame()
    deliver()
    assert told == [(2, 2, 2, 2)]
    height = view.verticalHeader().defaultSectionSize()
    left, width = view.columnViewportPosition(2), view.columnWidth(2)
    cell = QRect(left, 2 * height, width, height) & view.viewport().rect()
    assert areas == [cell]
    store.deleteLater()


def test_neighbours_are_told_together() -> None:
    seen = Changes()
    for row in (9, 1, 2, 4):
        seen.add(row, [3, 4, 7])
    seen.add(1, [])
    assert sorted(seen.blocks()) == [(3, 4, 1, 4), (3, 4, 9, 9), (7, 7, 1, 4), (7, 7, 9, 9)]


async def test_columns_of_one_field_look_the_same_without_the_others(desk: DeskUnderTest) -> None:
    checked = 0
    for panel in desk.window.panels.values():
        for view in panel.findChildren(TableView):
            alone = [column for column in view.table.columns if column.field]
            for row in view.table.rows.values():
                for column in alone:
                    bare = {column.field: row[column.field]} if column.field in row else {}
                    assert looks(column, bare) == looks(column, row), (panel.NAME, column.key)
                    checked += 1
    assert checked > 1_000


def looks(column: Column, row: dict[str, Any]) -> tuple[object, ...]:
    return (
        column.write(row),
        column.tone(row) if column.tone else "",
        column.bar(row) if column.bar else None,
    )


async def test_a_row_shows_what_it_would_if_it_were_written_anew(desk: DeskUnderTest) -> None:
    """After any changes a kept look is the one that the row now has."""
    for _ in range(30):
        desk.client.step(200)
        desk.frame()
    compared = 0
    for name in ("orders", "accounts", "signals"):
        panel = desk.window.panels[name]
        assert isinstance(panel, TablePanel)
        model = panel.model
        for key, look in list(model._looks.items()):
            for place, column in enumerate(model.columns):
                if not column.live:
                    fresh = looks(column, model.rows[key])
                    kept = (look.texts[place], look.tones[place], look.shares[place])
                    assert kept == fresh
                    compared += 1
    assert compared > 300


async def test_ages_are_right_to_the_second_and_only_what_moved_is_told(
    desk: DeskUnderTest, monkeypatch: pytest.MonkeyPatch
) -> None:
    calm = Calm(desk, monkeypatch)
    model = desk.view.table
    age = next(n for n, column in enumerate(model.columns) if column.key == "received_at.age")
    came = datetime.fromtimestamp(calm.moment, UTC) - timedelta(seconds=20.5)
    key = desk.client.signal(came, received_at=at(came))["key"]
    desk.frame()
    deliver()
    assert model.look(key).texts[age] == "20 s"
    calm.beats(4)
    told = cells_told(model)
    for second in range(21, 40):
        calm.moment += 1.0
        calm.beats(RESTS)
        assert model.look(key).texts[age] == f"{second} s"
    assert {(left, right) for left, right, _top, _end in told} <= {(age, age)}
    assert not model.lively
    calm.moment -= 35.0
    calm.beats(RESTS)
    assert fmt.in_tenths(model.look(key).texts[age])
    assert model.lively
    assert desk.window.panels["signals"].lively()


async def test_columns_beyond_the_edge_have_the_age_of_now_when_they_come_into_sight(
    desk: DeskUnderTest, monkeypatch: pytest.MonkeyPatch
) -> None:
    calm = Calm(desk, monkeypatch)
    panel = desk.window.panels["accounts"]
    assert isinstance(panel, TablePanel)
    view, model = panel.view, panel.model
    probe = next(n for n, column in enumerate(model.columns) if column.key == "last_probe_at")
    assert not view.shows_column(probe)
    before = model.look(model.order[0]).texts[probe]
    calm.moment += 7_200.0
    calm.beats(RESTS)
    assert model.look(model.order[0]).texts[probe] == before  # nobody sees it
    bar = view.horizontalScrollBar()
    bar.setValue(bar.maximum() // 2)
    while not view.shows_column(probe):
        bar.setValue(bar.value() + 40)
    row = model.rows[model.order[0]]
    assert model.look(model.order[0]).texts[probe] == model.columns[probe].write(row) != before


# --- what is kept -------------------------------------------------------------------------------


def test_what_was_made_is_kept_but_not_without_bound() -> None:
    kept: Recent[int] = Recent(100)
    for number in range(10_000):
        kept.put(number, number)
        assert kept.get(0) == 0 if number < 100 else True
    assert len(kept) <= 200
    assert kept.get(9_999) == 9_999
    assert kept.get(0) is None


async def test_prices_that_never_return_do_not_fill_the_memory(desk: DeskUnderTest) -> None:
    view = desk.window.panels["accounts"].findChild(TableView)
    assert view is not None
    for number in range(6_000):
        fmt.decimal_text(f"{number}.{number}")
        row_painter._texts.put((str(number), 80, ""), (None, 0.0))  # type: ignore[arg-type]
    row_painter._texts.clear()
    assert fmt.decimal_text.cache_info().currsize <= 4_096
    for panel in desk.window.panels.values():
        for table in panel.findChildren(TableView):
            for key in table.table.order:
                table.table.look(key)
            assert len(table.table._looks) <= 512


def test_a_caption_that_holds_only_grows(qtbot: QtBot) -> None:
    caption = Caption("10 s")
    qtbot.addWidget(caption)
    caption.hold()
    small = caption.size()
    caption.setText("9 s")
    assert caption.size() == small
    caption.setText("10 minutes and 12 seconds")
    assert caption.width() >= caption.sizeHint().width() > small.width()
    caption.setText("")
    assert caption.width() > small.width()
    assert caption.textFormat() == Qt.TextFormat.PlainText
