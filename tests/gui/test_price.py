"""The price chart as a trader uses it: choosing, panning, reading, and moving stops by hand and by key."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime
from typing import Any

import pytest
from PySide6.QtCore import QPoint, QPointF, Qt
from PySide6.QtTest import QTest
from PySide6.QtWidgets import QPushButton

from engine.errors import CommandRefused
from engine.model import tables
from engine.model.commands import parse_command
from engine.model.enums import ConnectionState
from gui.chart_marks import FillMarks, signal_marks
from gui.dialogs.base import Dialog
from gui.levels import ENTRY, MOST_LINES, ORDER, STOP, TARGET, Move, levels_of
from gui.pace import FASTEST_S, SLOWEST_S, Pace
from gui.panels.price import PricePanel
from tests.gui.conftest import DeskUnderTest, until

LEFT = Qt.MouseButton.LeftButton


def position(account: str, quantity: str, **fields: Any) -> dict[str, Any]:
    row = {"key": f"{account}/NVDA", "account": account, "symbol": "NVDA", "qty": quantity, "avg_px": "141.00",
           "mark": "141.20", "stop_loss": "139.00", "take_profit": "144.00", "trail_percent": None}  # fmt: skip
    return row | fields


def order(name: str, account: str, **fields: Any) -> dict[str, Any]:
    row = {"cl_ord_id": name, "account": account, "symbol": "NVDA", "side": "buy", "order_type": "limit",
           "limit_price": "140.50", "stop_price": None, "leaves_qty": "5", "status": "new", "parent": "",
           "leg": "entry"}  # fmt: skip
    return row | fields


# --- lines ------------------------------------------------------------------------------------


def test_accounts_with_the_same_price_share_a_line() -> None:
    rows = [position("A-1", "10"), position("A-2", "5"), position("A-3", "-5", stop_loss="143.00")]
    found = {(level.kind, level.side): level for level in levels_of(rows, [], "NVDA")}
    assert found[STOP, "buy"].accounts == ("A-1", "A-2")
    assert str(found[STOP, "buy"].quantity) == "15"
    assert found[STOP, "buy"].text == "✕ Stop 139.00 · 2 accounts · 15"
    assert found[STOP, "sell"].text == "✕ Stop 143.00 · A-3 · −5"
    assert found[TARGET, "buy"].accounts == ("A-1", "A-2")
    assert found[ENTRY, "sell"].word == "Short"
    assert {level.accounts for level in levels_of(rows, [], "NVDA", "A-2")} == {("A-2",)}


def test_only_working_orders_of_their_own_have_lines() -> None:
    rows = [
        order("1", "A-1"), order("2", "A-2"), order("3", "A-3", status="filled"),
        order("4", "A-1", parent="1", leg="target"), order("5", "A-1", symbol="AAPL"),
        order("6", "A-1", order_type="stop", limit_price=None, stop_price="142"),
        order("7", "A-1", order_type="market", limit_price=None),
    ]  # fmt: skip
    found = {level.word: level for level in levels_of([], rows, "NVDA") if level.kind == ORDER}
    assert set(found) == {"▲ Buy limit", "▲ Buy stop"}
    assert found["▲ Buy limit"].keys == ("1", "2")


def test_many_prices_share_few_lines_parted_at_the_widest_gaps() -> None:
    rows = [
        position(f"A-{n}", "1", stop_loss=f"{130 + n // 10 * 2 + n % 10 / 100:.2f}")
        for n in range(40)
    ]  # four clusters of ten
    stops = [level for level in levels_of(rows, [], "NVDA") if level.kind == STOP]
    assert len(stops) == MOST_LINES[STOP] == 4
    assert [len(level.keys) for level in stops] == [10, 10, 10, 10]
    assert stops[0].prices == "130.00…130.09"


def test_a_move_keeps_the_other_levels_and_leaves_out_who_moved_on() -> None:
    all_rows = (
        position("A-1", "10", trail_percent="1.5"),
        position("A-2", "5"),
        position("A-3", "5"),
    )
    rows = {row["key"]: row for row in all_rows}
    level = next(level for level in levels_of(rows.values(), [], "NVDA") if level.kind == STOP)
    rows["A-2/NVDA"]["stop_loss"] = "140.00"  # somebody else moved it meanwhile
    rows["A-3/NVDA"]["qty"] = "0"
    move = Move(level, level.low + 1)
    chosen = move.rows(rows.get)
    assert move.subjects(chosen) == [
        {"account": "A-1", "symbol": "NVDA", "stop_loss": "140.00", "take_profit": "144.00", "trail_percent": "1.5"}
    ]  # fmt: skip
    facts = dict(move.facts(chosen))
    assert facts["Price"] == "139.00 → 140.00"
    assert (facts["Closed there, before"], facts["Closed there, after"]) == ("−20.00", "−10.00")
    assert facts["Difference"] == "+10.00"


# --- marks ------------------------------------------------------------------------------------


def test_fills_of_one_bar_and_kind_are_one_mark() -> None:
    def fill(number: int, side: str, price: str, **fields: Any) -> dict[str, Any]:
        return {"key": f"A/{number}", "account": "A", "side": side, "last_px": price, "last_qty": "2", "symbol": "NVDA",
                "cl_ord_id": str(number), "at": f"2026-11-23T10:00:{number:02d}Z", "source": "s", "signal_id": "1",
                **fields}  # fmt: skip

    fills = [fill(1, "buy", "100"), fill(2, "buy", "102"), fill(3, "sell", "103"),
             fill(4, "sell", "99", source="protective"), fill(5, "buy", "98")]  # fmt: skip
    known: dict[str, dict[str, Any]] = {
        "fills": {row["key"]: row for row in fills},
        "orders": {"5": {"leg": "target"}},
        "signals": {"s/1": {"action": "buy"}},
    }
    kept = FillMarks()
    marks = kept.of(known.__getitem__, "NVDA", "", 60)
    assert [(mark["symbol"], mark["full"], mark["y"]) for mark in marks] == [
        ("t1", True, 101.0), ("t", True, 103.0), ("t", False, 99.0), ("t1", False, 98.0),
    ]  # fmt: skip
    assert marks[0]["text"] == "▲ Buy entry  4 at 101.00  2 fills"
    more = fill(6, "buy", "101")
    known["fills"][more["key"]] = more
    assert (
        kept.of(known.__getitem__, "NVDA", "", 60)[0]["text"] == "▲ Buy entry  6 at 101.00  3 fills"
    )
    assert kept.of(known.__getitem__, "NVDA", "", 60) == FillMarks().of(
        known.__getitem__, "NVDA", "", 60
    )
    assert kept.of(known.__getitem__, "NVDA", "B", 60) == []
    assert kept.of(known.__getitem__, "AAPL", "", 60) == []


def test_fills_that_were_read_are_not_read_again() -> None:
    class Fills(dict[str, dict[str, Any]]):
        read = 0

        def __getitem__(self, key: str) -> dict[str, Any]:
            self.read += 1
            return super().__getitem__(key)

    def row(number: int) -> dict[str, Any]:
        return {"account": "A", "side": "buy", "last_px": "1", "last_qty": "1", "symbol": "NVDA",
                "at": "2026-11-23T10:00:00Z", "cl_ord_id": "", "source": "s", "signal_id": str(number)}  # fmt: skip

    fills = Fills({str(number): row(number) for number in range(1_000)})
    known: dict[str, dict[str, Any]] = {"fills": fills, "orders": {}, "signals": {}}
    kept = FillMarks()
    assert kept.of(known.__getitem__, "NVDA", "", 60)[0]["text"].endswith("1000 fills")
    assert fills.read == 1_000
    fills["new"] = row(1_000)
    del fills["0"]  # the table holds only so many
    assert kept.of(known.__getitem__, "NVDA", "", 60)[0]["text"].endswith("1001 fills")
    assert fills.read == 1_001
    kept.forget()
    assert kept.of(known.__getitem__, "NVDA", "", 60)[0]["text"].endswith("1000 fills")


def test_signals_that_were_refused_look_otherwise() -> None:
    rows = [
        {
            "id": str(n),
            "received_at": "2026-11-23T10:00:00Z",
            "state": state,
            "action": "buy",
            "reference_price": None,
        }
        for n, state in enumerate(("accepted", "refused"))
    ]
    marks = signal_marks(rows, lambda _at: 100.0, 60)
    assert [mark["symbol"] for mark in marks] == ["d", "x"]
    assert signal_marks(rows, lambda _at: None, 60) == []


# --- how often --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("cost_ms", "work_ms", "interval_s"),
    [(0.5, 1.0, FASTEST_S), (6.0, 1.0, 0.1), (6.0, 12.0, 0.4), (400.0, None, SLOWEST_S)],
)
def test_charts_slow_down_by_what_they_and_the_desk_cost(
    cost_ms: float, work_ms: float | None, interval_s: float
) -> None:
    pace = Pace(lambda: cost_ms, lambda: work_ms)
    assert pace.interval_s == pytest.approx(interval_s)
    assert pace.left_s(100.0) == 0
    pace.note(100.0)
    assert pace.left_s(100.0 + interval_s / 2) == pytest.approx(interval_s / 2)
    assert pace.left_s(101.0) == 0


# --- the panel --------------------------------------------------------------------------------


@pytest.fixture
async def price(desk: DeskUnderTest) -> PricePanel:
    """NVDA with two positions whose stop is the same, and nothing else of it."""
    client = desk.client
    for table in (tables.POSITIONS, tables.ORDERS, tables.FILLS, tables.SIGNALS):
        client.tables[table].clear()
    client.put(tables.POSITIONS, client.position("A-001", "NVDA", 10) | position("A-001", "10"))
    client.put(tables.POSITIONS, client.position("A-002", "NVDA", 5) | position("A-002", "5"))
    client.connect()
    panel = desk.window.panels["price"]
    assert isinstance(panel, PricePanel)
    dock = desk.window.docks["price"]
    dock.setFloating(True)
    dock.resize(900, 500)
    dock.show()
    panel.show_symbol("NVDA")
    await until(lambda: panel.levels is not None and len(panel.series.bars) and panel.levels.lines)
    panel.draw()
    await asyncio.sleep(0)
    return panel


def spot(panel: PricePanel, price: float, at: float = 0.4) -> QPoint:
    """Return where a price is on the screen, ``at`` of the way across."""
    box = panel.plot.getPlotItem().vb
    (left, right), _ = box.viewRange()
    scene = box.mapViewToScene(QPointF(left + at * (right - left), price))
    return panel.plot.mapFromScene(scene)


async def drag(panel: PricePanel, here: QPoint, there: QPoint, *, let_go: bool = True) -> None:
    view = panel.plot.viewport()
    QTest.mouseMove(view, here)
    await asyncio.sleep(0.02)
    QTest.mousePress(view, LEFT, pos=here)
    for step in range(1, 9):
        at = here + (there - here) * step / 8
        QTest.mouseMove(view, at)
        event_at(view, at)
        await asyncio.sleep(0.02)
    if let_go:
        QTest.mouseRelease(view, LEFT, pos=there)
        await asyncio.sleep(0.02)


def event_at(view: Any, at: QPoint) -> None:
    """Send the move with the button down, which QTest leaves out."""
    from PySide6.QtCore import QCoreApplication, QEvent
    from PySide6.QtGui import QMouseEvent

    where = QPointF(at)
    move = QMouseEvent(
        QEvent.Type.MouseMove, where, QPointF(view.mapToGlobal(at)), Qt.MouseButton.NoButton, LEFT,
        Qt.KeyboardModifier.NoModifier,
    )  # fmt: skip
    QCoreApplication.sendEvent(view, move)


def stop_line(panel: PricePanel) -> Any:
    return next(line for name, line in panel.levels.lines.items() if name.startswith(STOP))


def asked(desk: DeskUnderTest) -> Dialog:
    return next(dialog for dialog in desk.window.findChildren(Dialog) if dialog.isVisible())


async def test_a_stop_is_dragged_asked_about_and_sent_for_every_account(
    desk: DeskUnderTest, price: PricePanel
) -> None:
    await drag(price, spot(price, 139.0), spot(price, 139.5))
    await until(lambda: desk.window.findChildren(Dialog))
    dialog = asked(desk)
    assert stop_line(price).waiting
    assert desk.sent("set_stops") == []
    new = f"{stop_line(price).value():.2f}"
    assert abs(float(new) - 139.5) < 0.05
    assert f"from 139.00 to {new}" in dialog.windowTitle()
    go = dialog.findChild(QPushButton, "go")
    assert go.text() == "Move 2 stops"
    QTest.mouseClick(go, LEFT)
    await until(lambda: len(desk.sent("set_stops")) == 2)
    for fields in desk.sent("set_stops"):
        assert fields == {
            "account": fields["account"], "symbol": "NVDA", "stop_loss": new, "take_profit": "144.00",
            "trail_percent": None,
        }  # fmt: skip
        parse_command({"id": "x", "command": "set_stops", **fields})
    assert {fields["account"] for fields in desk.sent("set_stops")} == {"A-001", "A-002"}
    await until(lambda: not stop_line(price).waiting)
    assert stop_line(price).value() == 139.0  # the engine has not said otherwise


async def test_escape_while_dragging_puts_it_back(desk: DeskUnderTest, price: PricePanel) -> None:
    here, there = spot(price, 139.0), spot(price, 140.0)
    await drag(price, here, there, let_go=False)
    assert stop_line(price).moving
    assert "139.00 →" in stop_line(price).label.format
    QTest.keyClick(price.plot, Qt.Key.Key_Escape)
    assert not stop_line(price).moving
    assert stop_line(price).value() == 139.0
    QTest.mouseRelease(price.plot.viewport(), LEFT, pos=there)
    await asyncio.sleep(0.05)
    assert not desk.window.findChildren(Dialog)
    assert stop_line(price).label.format == "✕ Stop 139.00 · 2 accounts · 15"


async def test_nothing_moves_away_under_the_hand(desk: DeskUnderTest, price: PricePanel) -> None:
    here, there = spot(price, 139.0), spot(price, 139.5)
    view, before = price.plot.viewport(), price.plot.viewRange()
    QTest.mousePress(view, LEFT, pos=here)
    desk.client.live_bar("NVDA", "150.00")
    desk.frame()
    price.draw()
    assert price.plot.viewRange() == before
    event_at(view, there)
    event_at(view, there)
    assert stop_line(price).moving
    QTest.mouseRelease(view, LEFT, pos=there)
    price.draw()
    assert price.plot.viewRange()[1][1] > 150


async def test_keep_as_it_is_sends_nothing(desk: DeskUnderTest, price: PricePanel) -> None:
    await drag(price, spot(price, 144.0), spot(price, 143.5))
    await until(lambda: desk.window.findChildren(Dialog))
    asked(desk).reject()
    await until(lambda: not any(line.waiting for line in price.levels.lines.values()))
    assert desk.sent("set_stops") == []
    assert {line.value() for line in price.levels.lines.values()} == {139.0, 141.0, 144.0}


async def test_one_account_moves_alone(desk: DeskUnderTest, price: PricePanel) -> None:
    desk.window.tick()
    price._accounts.setCurrentIndex(price._accounts.findData("A-002"))
    price.draw()
    await drag(price, spot(price, 139.0), spot(price, 138.5))
    await until(lambda: desk.window.findChildren(Dialog))
    QTest.mouseClick(asked(desk).findChild(QPushButton, "go"), LEFT)
    await until(lambda: desk.sent("set_stops"))
    assert [fields["account"] for fields in desk.sent("set_stops")] == ["A-002"]


async def test_a_line_is_moved_by_keys_alone(desk: DeskUnderTest, price: PricePanel) -> None:
    desk.desk.registry.run("price.pick")
    assert stop_line(price).moving  # the lowest first
    for _ in range(3):
        QTest.keyClick(price.plot, Qt.Key.Key_Up)
    QTest.keyClick(price.plot, Qt.Key.Key_PageDown)
    assert stop_line(price).value() == pytest.approx(138.93)
    QTest.keyClick(price.plot, Qt.Key.Key_Return)
    await until(lambda: desk.window.findChildren(Dialog))
    QTest.mouseClick(asked(desk).findChild(QPushButton, "go"), LEFT)
    await until(lambda: len(desk.sent("set_stops")) == 2)
    assert desk.sent("set_stops")[0]["stop_loss"] == "138.93"


async def test_the_next_line_is_taken_with_the_same_key(desk: DeskUnderTest, price: PricePanel) -> None:  # fmt: skip
    desk.desk.registry.run("price.pick")
    desk.desk.registry.run("price.pick")
    moving = [name for name, line in price.levels.lines.items() if line.moving]
    assert [name.partition("/")[0] for name in moving] == [TARGET]
    QTest.keyClick(price.plot, Qt.Key.Key_Escape)
    assert not any(line.moving for line in price.levels.lines.values())


async def test_without_a_link_nothing_is_moved(desk: DeskUnderTest, price: PricePanel) -> None:
    desk.desk.registry.run("price.pick")
    desk.store.on_link(ConnectionState.DISCONNECTED, "gone")
    price.draw()
    assert not any(line.moving or line.movable for line in price.levels.lines.values())
    assert "not live" in price._figure.text()
    await drag(price, spot(price, 139.0), spot(price, 139.5))
    assert not desk.window.findChildren(Dialog)


async def test_what_the_engine_says_moves_the_line(desk: DeskUnderTest, price: PricePanel) -> None:
    for account in ("A-001", "A-002"):
        desk.client.change(tables.POSITIONS, f"{account}/NVDA", stop_loss="140.10")
    desk.frame()
    price.draw()
    assert stop_line(price).value() == 140.1
    desk.client.change(tables.POSITIONS, "A-001/NVDA", qty="0")
    desk.client.change(tables.POSITIONS, "A-002/NVDA", qty="0")
    desk.frame()
    price.draw()
    assert price.levels.lines == {}


async def test_panning_ends_following_and_the_button_begins_it_again(
    desk: DeskUnderTest, price: PricePanel
) -> None:
    assert price.follow
    await drag(price, spot(price, 141.7, 0.3), spot(price, 141.7, 0.8))
    assert not price.follow
    right = price.plot.viewRange()[0][1]
    desk.client.now = datetime.now(UTC)
    desk.client.live_bar("NVDA", "141.30")
    desk.frame()
    price.draw()
    assert price.plot.viewRange()[0][1] == right  # whoever looks at the past is left there
    button = desk.window.findChild(QPushButton, "price.follow.button")
    QTest.mouseClick(button, LEFT)
    price.draw()
    assert price.follow
    assert price.plot.viewRange()[0][1] > price.series.bars[-1, 0]


async def test_the_wheel_zooms(price: PricePanel) -> None:
    from PySide6.QtCore import QCoreApplication
    from PySide6.QtGui import QWheelEvent

    before = price._span
    at = QPointF(spot(price, 141.0, 0.5))
    view = price.plot.viewport()
    event = QWheelEvent(
        at, QPointF(view.mapToGlobal(at.toPoint())), QPoint(), QPoint(0, 240), Qt.MouseButton.NoButton,
        Qt.KeyboardModifier.NoModifier, Qt.ScrollPhase.NoScrollPhase, False,
    )  # fmt: skip
    QCoreApplication.sendEvent(view, event)
    assert price._span < before


async def test_the_live_bar_moves_and_the_next_begins(desk: DeskUnderTest, price: PricePanel) -> None:  # fmt: skip
    count, client = len(price.series.bars), desk.client
    client.live_bar("NVDA", "150.00")
    desk.frame()
    assert len(price.series.bars) in {count, count + 1}
    assert (price.series.bars[-1, 2], price.series.bars[-1, 4]) == (150.0, 150.0)
    count = len(price.series.bars)
    client.change(tables.BARS, "NVDA@60", at="2036-01-01T00:00:00Z", close="149.00")
    desk.frame()
    assert len(price.series.bars) == count + 1
    client.live_bar("AAPL", "1.00")
    desk.frame()
    assert price.series.bars[-1, 4] == 149.0


async def test_the_pointer_reads_the_bar_below_it(price: PricePanel) -> None:
    box = price.plot.getPlotItem().vb
    bar = price.series.bars[-20]
    price._on_pointer(box.mapViewToScene(QPointF(bar[0] + 20, bar[4])))
    text = price._figure.text()
    assert f"O {bar[1]:.2f}" in text
    assert f"C {bar[4]:.2f}" in text
    assert price._down.isVisible()
    price._on_pointer(QPointF(-5, -5))
    assert not price._down.isVisible()


async def test_another_width_is_read_from_the_engine(desk: DeskUnderTest, price: PricePanel) -> None:  # fmt: skip
    price._intervals.setCurrentIndex(price._intervals.findData(300))
    await until(
        lambda: len(price.series.bars) and price.series.bars[1, 0] - price.series.bars[0, 0] == 300
    )
    assert desk.sent("bars")[-1] == {"symbol": "NVDA", "interval_s": 300, "limit": 1_000}
    assert price.state()["interval"] == 300


async def test_no_bars_are_said_not_drawn(desk: DeskUnderTest, price: PricePanel) -> None:
    desk.client.refuse = CommandRefused(
        "NO_PRICE", "no price of MSFT has come since the start", 404
    )
    price.show_symbol("MSFT")
    await until(lambda: price.problem)
    price.draw()
    assert not price.plot.isVisible()
    assert price._note.accessibleName() == "No candles"
    assert "NO_PRICE" in price._note.accessibleDescription()
    desk.client.refuse = None
    price._load()
    await until(lambda: len(price.series.bars))
    assert price.plot.isVisible()


async def test_hidden_it_draws_nothing(desk: DeskUnderTest, price: PricePanel) -> None:
    desk.window.docks["price"].hide()
    drawn = price._pace._drawn_at
    desk.client.live_bar("NVDA", "150.00")
    desk.frame()
    await asyncio.sleep(0.15)
    assert price._pace._drawn_at == drawn
    assert not price._timer.isActive()


@pytest.mark.parametrize("height", [160, 420])
async def test_no_label_lies_on_another(
    desk: DeskUnderTest, price: PricePanel, height: int
) -> None:
    for number in range(12):
        stop, target = f"{139 + number / 5:.2f}", f"{144 + number / 5:.2f}"
        row = position(f"B-{number:02d}", "5", stop_loss=stop, take_profit=target)
        desk.client.put(tables.POSITIONS, row)
    desk.frame()
    price.resize(760, height)
    price.plot.resize(740, height - 60)
    price._levels_due = True
    price.draw()
    lines = [*price.levels.lines.values(), price._last]
    boxes = [
        line.label.mapRectToScene(line.label.boundingRect())
        for line in lines
        if line.label.isVisible()
    ]
    assert boxes
    assert price._last.label.isVisible()
    crossed = [
        (one, other)
        for at, one in enumerate(boxes)
        for other in boxes[at + 1 :]
        if one.adjusted(1, 1, -1, -1).intersects(other.adjusted(1, 1, -1, -1))
    ]
    assert not crossed
