"""Notes, reports and recorded days, by mouse and keyboard; the recording is of a real engine's journal format."""

from __future__ import annotations

from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any

import orjson
import pytest
from PySide6.QtCore import QPoint, Qt
from PySide6.QtWidgets import QAbstractButton, QComboBox, QLineEdit, QPlainTextEdit, QWidget
from pytestqt.qtbot import QtBot

from engine import client_replay
from engine.client import replay_client
from engine.clock import rfc3339
from engine.documents import signal_document
from engine.errors import CommandRefused
from engine.intake.parser import build_signal
from engine.model import tables
from engine.model.enums import OrderStatus, OrderType, Side, TimeInForce
from engine.model.messages import Fill
from engine.model.order import Order
from engine.model.position import Position
from engine.signal_record import order_intents
from engine.stores.journal import Journal
from engine.stores.journal_rows import SignalEntry
from gui.main_window import MainWindow
from gui.pdf import document_of, write_pdf
from gui.replay import SPEEDS, TransportBar
from tests.gui.conftest import DeskUnderTest, active_now, until

LEFT = Qt.MouseButton.LeftButton
CTRL = Qt.KeyboardModifier.ControlModifier
CTRL_SHIFT = CTRL | Qt.KeyboardModifier.ShiftModifier
OPEN = datetime(2026, 11, 20, 14, 30, tzinfo=UTC)
SIGNALS = 6
APART_S = 600


class At:
    """A clock that stands where it is put."""

    def __init__(self) -> None:
        self.at = OPEN

    def now(self) -> datetime:
        return self.at

    def monotonic_ns(self) -> int:
        return int(self.at.timestamp() * 1e9)


async def record(path: Path) -> None:
    """Write a morning: six signals ten minutes apart, an order and a fill each; a kill before the last."""
    clock = At()
    journal = Journal(path / "journal.sqlite3", clock)
    await journal.open()
    position = Position("A-001", "AAPL")
    for number in range(SIGNALS):
        clock.at = OPEN + timedelta(seconds=number * APART_S)
        if number == SIGNALS - 1:
            journal.audit("operator", {"by": "ada", "role": "trade", "command": "kill", "id": "k"})
            journal.audit("alert", {"code": "HALTED", "text": "all is halted", "scope": "all"})
            await journal.commit_halt("all", "halted", "kill switch", rfc3339(clock.at), "ada")
            clock.at += timedelta(seconds=1)
        document = {"id": f"s-{number}", "strategy": "breakout", "symbol": "AAPL", "action": "buy",
                    "issued_at": rfc3339(clock.at)}  # fmt: skip
        signal = build_signal(document, source="bot", now=clock.at)
        order = Order(
            cl_ord_id=f"{'ABCDEF'[number] * 20}", account="A-001", symbol="AAPL", side=Side.BUY, order_qty=Decimal(10),
            order_type=OrderType.MARKET, time_in_force=TimeInForce.DAY, created_at=clock.at, source="bot",
            signal_id=signal.id, strategy="breakout",
        )  # fmt: skip
        plan = {
            "first": ["accepted", "", ""],
            "orders": order_intents([order]),
            "held": [],
            "reasons": [],
        }
        entry = SignalEntry(
            "bot", signal.id, "hash", orjson.dumps(signal_document(signal)), "api", rfc3339(clock.at), "accepted", "",
            "", plan,
        )  # fmt: skip
        await journal.commit_signal(entry)
        clock.at += timedelta(milliseconds=40)
        fill = Fill("A-001", f"e-{number}", order.cl_ord_id, "AAPL", Side.BUY, Decimal(10), Decimal(100 + number),
                    clock.at, "breakout", "bot", signal.id)  # fmt: skip
        order.cum_qty, order.cash, order.status = (
            Decimal(10),
            Decimal(1000 + 10 * number),
            OrderStatus.FILLED,
        )
        order.updated_at = clock.at
        position.apply(fill.side, fill.last_qty, fill.last_px)
        journal.note_fill(fill, position)
        journal.note_order(order)
        await journal.flushed()
    await journal.close()


class Recorded:
    """A window on the recorded morning and the hands on it."""

    def __init__(self, qtbot: QtBot, window: MainWindow) -> None:
        self.qtbot = qtbot
        self.window = window
        self.bar: TransportBar = window.transport
        self.store = window.desk.store

    def button(self, name: str) -> QAbstractButton:
        found = self.bar.findChild(QAbstractButton, f"{name}.button")
        assert isinstance(found, QAbstractButton)
        return found

    def click(self, name: str) -> None:
        self.qtbot.mouseClick(self.button(name), LEFT)
        self.store.frame()

    def press(self, key: Qt.Key, modifiers: Qt.KeyboardModifier = CTRL) -> None:
        self.qtbot.keyClick(self.window, key, modifiers)
        self.store.frame()

    def count(self, table: str) -> int:
        return len(self.store.rows(table))

    @property
    def at(self) -> float:
        return self.bar.recording.position - OPEN.timestamp()


@pytest.fixture
async def recorded(qtbot: QtBot, tmp_path: Path) -> AsyncIterator[Recorded]:
    home = tmp_path / "home"
    home.mkdir()
    await record(home)
    recording = replay_client(home)
    window = MainWindow(tmp_path / "desk")
    window.resize(1280, 800)
    window.show()
    window.build()
    window.desk.client = recording
    window.show_recording(recording)
    await recording.start(window.desk.store)
    await active_now(window)
    window.tick()
    yield Recorded(qtbot, window)
    window.transport.playing = False
    await window.desk.tasks.stop()
    window.closing = True
    window.close()
    window.deleteLater()


# ---- the transport bar -----------------------------------------------------------------------------------------------


async def test_a_recording_looks_like_nothing_else(recorded: Recorded) -> None:
    assert "REPLAY" in recorded.window.windowTitle()
    assert "2026-11-20" in recorded.window.windowTitle()
    assert recorded.bar.badge.text.startswith("REPLAY")
    recorded.window.tick()
    assert recorded.window.top_bar.mode.text == "REPLAY"
    assert recorded.window.banner.shown != "stale"
    assert recorded.count(tables.SIGNALS) == 0


async def test_step_by_step_with_the_mouse(recorded: Recorded) -> None:
    for number in range(3):
        recorded.click("replay.next")
        assert recorded.at == pytest.approx(number * APART_S, abs=0.001)
        assert recorded.count(tables.SIGNALS) == number + 1
    assert recorded.window.panels["signals"].view.model().rowCount() == 3
    recorded.click("replay.previous")
    assert recorded.count(tables.SIGNALS) == 2
    assert recorded.window.panels["signals"].view.model().rowCount() == 2
    recorded.click("replay.next_alert")
    assert recorded.at == pytest.approx((SIGNALS - 1) * APART_S, abs=0.01)
    assert (
        "halted" in {row["state"] for row in recorded.store.rows(tables.HALTS).values()}
        or recorded.at > 0
    )


async def test_step_by_step_with_the_keyboard(recorded: Recorded) -> None:
    recorded.press(Qt.Key.Key_Right)
    recorded.press(Qt.Key.Key_Right)
    assert recorded.count(tables.SIGNALS) == 2
    recorded.press(Qt.Key.Key_Left)
    assert recorded.count(tables.SIGNALS) == 1
    recorded.press(Qt.Key.Key_End)
    assert (recorded.count(tables.SIGNALS), recorded.count(tables.FILLS)) == (SIGNALS, SIGNALS)
    assert recorded.store.rows(tables.HALTS)["all"]["state"] == "halted"
    assert recorded.store.rows(tables.POSITIONS)["A-001/AAPL"]["qty"] == "60"
    recorded.press(Qt.Key.Key_Home)
    assert recorded.count(tables.SIGNALS) == 0
    assert recorded.store.rows(tables.HALTS) == {}
    recorded.press(Qt.Key.Key_Right, CTRL_SHIFT)
    assert recorded.at == pytest.approx((SIGNALS - 1) * APART_S, abs=0.01)
    recorded.press(Qt.Key.Key_Right, CTRL_SHIFT)
    recorded.press(Qt.Key.Key_Right, CTRL_SHIFT)
    assert recorded.window.desk.notifier.history[-1].text == "There is none after this moment."


async def test_it_plays_at_the_chosen_speed_and_stops_at_the_end(recorded: Recorded) -> None:
    speed = recorded.bar.speed
    before = speed.currentIndex()
    recorded.press(Qt.Key.Key_Up)
    assert speed.currentIndex() == before + 1
    for _ in SPEEDS:
        recorded.press(Qt.Key.Key_Up)
    assert speed.currentText() == "×600"
    recorded.press(Qt.Key.Key_Space)
    assert recorded.bar.playing
    assert recorded.bar.play.text() == "Pause"
    start = recorded.at
    await until(lambda: recorded.at > start + 60)
    recorded.click("replay.play")
    assert not recorded.bar.playing
    assert recorded.bar.play.text() == "Play"
    there = recorded.at
    recorded.store.frame()
    assert recorded.at == there
    recorded.press(Qt.Key.Key_End)
    recorded.bar.go(recorded.bar.recording.ends - 1)
    recorded.press(Qt.Key.Key_Space)
    await until(lambda: not recorded.bar.playing)
    assert recorded.bar.recording.position == recorded.bar.recording.ends
    assert recorded.count(tables.SIGNALS) == SIGNALS


async def test_the_slider_goes_where_it_is_clicked_and_by_keys(recorded: Recorded) -> None:
    slider = recorded.bar.slider
    x = slider.width() - 4
    recorded.qtbot.mouseClick(slider, LEFT, pos=QPoint(x, slider.height() // 2))
    recorded.store.frame()
    assert recorded.count(tables.SIGNALS) == SIGNALS
    recorded.qtbot.mouseClick(slider, LEFT, pos=QPoint(slider.width() // 2, slider.height() // 2))
    recorded.store.frame()
    middle = recorded.count(tables.SIGNALS)
    assert 2 <= middle <= 4
    slider.setFocus()
    before = recorded.at
    recorded.qtbot.keyClick(slider, Qt.Key.Key_Right)
    assert recorded.at == pytest.approx(before + 5, abs=0.01)
    recorded.qtbot.keyClick(slider, Qt.Key.Key_PageDown)
    assert recorded.at != before
    assert recorded.bar.clock.text() != ""


async def test_time_stands_still_between_two_moments(recorded: Recorded) -> None:
    recorded.click("replay.next")
    shown = recorded.store.now()
    recorded.store.frame()
    assert shown == recorded.store.now() == pytest.approx(OPEN.timestamp(), abs=0.01)
    assert recorded.store.age() == 0.0


async def test_nothing_leaves_a_recording(recorded: Recorded) -> None:
    recorded.press(Qt.Key.Key_End)
    recorded.press(Qt.Key.Key_K, CTRL_SHIFT)
    said = recorded.window.desk.notifier.history[-1]
    assert (said.severity, said.title) == ("critical", "NOT KILLED")
    with pytest.raises(CommandRefused) as refusal:
        await recorded.window.desk.command("cancel_order", cl_ord_id="A" * 20)
    assert refusal.value.code == "REPLAY"
    with pytest.raises(CommandRefused):
        await recorded.window.desk.send_signal({"id": "x"})
    recorded.window.panels["signals"].view.selectRow(0)
    recorded.window.desk.registry.refresh()
    buttons = recorded.window.panels["signals"].findChildren(QAbstractButton)
    assert not [
        one.text() for one in buttons if one.objectName().startswith("signal.") and one.isEnabled()
    ]
    detail = await recorded.window.desk.signal_detail("bot/s-0")
    assert detail["accounts"][0]["status"] == "filled"


async def test_empty_tables_say_what_a_recording_holds_and_what_not(recorded: Recorded) -> None:
    panels: Any = recorded.window.panels
    assert recorded.store.rows(tables.USAGE) == {}
    texts = {
        name: (view.empty_title, view.empty_text)
        for name, view in (
            ("usage", panels["controls"].second_view),
            ("others", panels["reconciliation"].second_view),
            ("books", panels["reconciliation"].view),
            ("kill", panels["risk"].second_view),
        )
    }
    assert texts["usage"][0] == "Limits in use are not recorded"
    assert texts["others"][0] == "Orders of others are not recorded"
    assert texts["books"][0] == "Books agree at this moment"
    assert "is not in it" in texts["kill"][1]
    pnl = panels["pnl"]
    pnl.show_of("strategy:breakout")
    assert pnl._note.accessibleName() == "A recording has the total alone"
    price = panels["price"]
    recorded.window.show_panel("price")
    await until(lambda: price.plot is not None)
    price.draw()
    assert price._note.accessibleName() == "A recording has no candles"
    settings = {row["setting"] for row in recorded.store.rows(tables.CONTROLS).values()}
    assert settings == {"not recorded"}


async def test_a_way_in_parts_is_shown_and_can_be_turned_round(
    recorded: Recorded, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(client_replay, "_SLICE", 8)
    recorded.click("replay.next")
    began = recorded.at
    recorded.bar.go(recorded.bar.recording.ends)
    left = recorded.bar.recording.behind
    assert left > 0
    recorded.store.frame()
    assert 0 < recorded.bar.recording.behind < left
    assert recorded.bar.about.text().startswith("Going there")
    recorded.press(Qt.Key.Key_Backspace)
    assert recorded.at == began
    await until(lambda: not recorded.bar.recording.behind)
    await until(lambda: not recorded.bar.about.text().startswith("Going there"))
    assert (recorded.count(tables.SIGNALS), recorded.count(tables.FILLS)) == (1, 0)
    recorded.press(Qt.Key.Key_End)
    await until(lambda: recorded.count(tables.FILLS) == SIGNALS)


async def test_everything_in_the_bar_can_be_reached_and_is_named(recorded: Recorded) -> None:
    for widget in recorded.bar.findChildren(QWidget):
        if widget.focusPolicy() is not Qt.FocusPolicy.NoFocus and widget.isVisible():
            assert widget.accessibleName(), widget
    commands = recorded.window.desk.registry.commands
    assert all(commands[name].shortcut for name in commands if name.startswith("replay."))


# ---- notes -----------------------------------------------------------------------------------------------------------


def dialog(desk: DeskUnderTest, name: str) -> Any:
    found = [
        w for w in desk.window.findChildren(QWidget) if type(w).__name__ == name and w.isVisible()
    ]
    assert len(found) == 1
    return found[0]


@pytest.mark.parametrize(("panel", "on", "key"), [("signals", "signal", "key"), ("orders", "order", "cl_ord_id"),
                                                   ("positions", "position", "key")])  # fmt: skip
async def test_n_writes_a_note_on_the_chosen_row(
    desk: DeskUnderTest, qtbot: QtBot, panel: str, on: str, key: str
) -> None:
    desk.window.show_panel(panel)
    view: Any = desk.window.panels[panel].view
    await until(view.isVisible)
    await active_now(desk.window)
    view.setFocus()
    await until(view.hasFocus)
    view.select_key(view.table.order[0])
    await until(desk.desk.registry.actions[f"{on}.note"].isEnabled)
    shift = Qt.KeyboardModifier.ShiftModifier if on == "signal" else Qt.KeyboardModifier.NoModifier
    qtbot.keyClick(view, Qt.Key.Key_N, shift)
    box = dialog(desk, "NoteDialog")
    edit = box.findChild(QPlainTextEdit)
    qtbot.keyClicks(edit, "late, see chat")
    tags = next(w for w in box.findChildren(QLineEdit) if w.accessibleName() == "Tags")
    qtbot.keyClicks(tags, "late, check,late")
    await active_now(box)
    edit.setFocus()
    qtbot.keyClick(edit, Qt.Key.Key_Return, CTRL)
    await until(lambda: desk.sent("note"))
    sent = desk.sent("note")[0]
    assert sent["on"] == on
    assert sent["key"] == view.current_key()
    assert (sent["text"], sent["tags"]) == ("late, see chat", ["late", "check"])


async def test_a_note_shows_in_its_table_with_its_text_on_hover(desk: DeskUnderTest) -> None:
    order = next(iter(desk.store.rows(tables.ORDERS)))
    desk.client.change(tables.ORDERS, order, note="<b>see chat</b>", tags=["late"])
    desk.frame()
    model: Any = desk.window.panels["orders"].view.model()
    row = desk.window.panels["orders"].view.table.order.index(order)
    column = [
        model.headerData(at, Qt.Orientation.Horizontal) for at in range(model.columnCount())
    ].index("Note")
    assert model.index(row, column).data() == "✎ late"
    tip = model.index(row, column).data(Qt.ItemDataRole.ToolTipRole)
    assert "&lt;b&gt;see\xa0chat" in tip
    assert "late" in tip


# ---- the report ------------------------------------------------------------------------------------------------------


PAGE = ('<html><body><h1>Day</h1><p>text</p><svg xmlns="http://www.w3.org/2000/svg" width="400" height="100">'
        '<rect width="400" height="100" fill="#ff0000"/></svg></body></html>')  # fmt: skip


async def test_the_report_is_asked_for_and_written(
    desk: DeskUnderTest, qtbot: QtBot, tmp_path: Path
) -> None:
    desk.client.answers["report"] = {"result": "made", "text": PAGE}
    desk.window.desk.registry.run("journal.report")
    box = dialog(desk, "ReportDialog")
    path = next(w for w in box.findChildren(QLineEdit) if w.accessibleName() == "File")
    assert path.text().endswith(".html")
    form = next(w for w in box.findChildren(QComboBox) if w.accessibleName() == "As")
    form.setCurrentIndex(2)
    assert path.text().endswith(".csv")
    go = box.findChild(QAbstractButton, "go")
    qtbot.mouseClick(go, LEFT)
    assert box._error.isVisible()
    assert not desk.sent("report")
    form.setCurrentIndex(0)
    path.setText(str(tmp_path / "day.html"))
    qtbot.mouseClick(go, LEFT)
    await until(lambda: (tmp_path / "day.html").exists() and not box_there(desk))
    assert (tmp_path / "day.html").read_text("utf-8") == PAGE
    assert desk.sent("report")[0]["account"] is None


def box_there(desk: DeskUnderTest) -> bool:
    return any(
        type(w).__name__ == "ReportDialog" and w.isVisible()
        for w in desk.window.findChildren(QWidget)
    )


def test_a_page_becomes_a_pdf_with_its_plots(qapp: Any, tmp_path: Path) -> None:
    document = document_of(PAGE, 400)
    assert "<svg" not in document.toHtml()
    assert "plot:0" in document.toHtml()
    write_pdf(PAGE, tmp_path / "day.pdf")
    content = (tmp_path / "day.pdf").read_bytes()
    assert content.startswith(b"%PDF")
    assert b"/Image" in content
    with pytest.raises(FileNotFoundError):
        write_pdf(PAGE, tmp_path / "no" / "day.pdf")


async def test_recorded_days_are_found_and_a_wrong_place_is_told(
    desk: DeskUnderTest, tmp_path: Path
) -> None:
    home = tmp_path / "recorded"
    home.mkdir()
    await record(home)
    desk.window.open_dialog("recording", {"home": home})
    box = dialog(desk, "RecordingDialog")
    days = next(w for w in box.findChildren(QComboBox) if w.accessibleName() == "Day (UTC)")
    await until(lambda: days.count() == 1)
    assert days.currentText() == "2026-11-20"
    place = next(w for w in box.findChildren(QLineEdit) if w.accessibleName() == "Home or journal")
    place.setText(str(tmp_path / "nowhere"))
    place.editingFinished.emit()
    await until(lambda: days.count() == 0)
    await until(lambda: "no journal" in box._error.text())
    box.close()
