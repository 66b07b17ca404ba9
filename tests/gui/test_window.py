"""The window as a person has it: layouts, keys, preferences, privacy, export."""

from __future__ import annotations

import asyncio
import csv
import io
import json
from pathlib import Path
from typing import Any

import pytest
from openpyxl import load_workbook
from PySide6.QtCore import QEvent, QObject, QRect, Qt
from PySide6.QtGui import QKeySequence
from PySide6.QtWidgets import QApplication, QComboBox, QPushButton, QWidget
from pytestqt.qtbot import QtBot

from engine.model import tables
from gui import formatting as fmt
from gui import preferences, shortcuts, words
from gui.dialogs.export import ExportDialog
from gui.dialogs.keys import KeysDialog
from gui.dialogs.layouts import LayoutsDialog
from gui.dialogs.palette import PaletteDialog
from gui.dialogs.preferences import PreferencesDialog
from gui.layouts import in_sight
from gui.main_window import MainWindow
from gui.panel import Caption
from gui.theme import active
from tests.gui.conftest import DeskUnderTest, active_now, until
from tests.gui.test_desk import opened

CTRL = Qt.KeyboardModifier.ControlModifier
CTRL_ALT = CTRL | Qt.KeyboardModifier.AltModifier
LEFT = Qt.MouseButton.LeftButton


def press(qtbot: QtBot, dialog: QWidget, name: str) -> None:
    button = dialog.findChild(QPushButton, name)
    assert button is not None, name
    qtbot.mouseClick(button, LEFT)


async def front(desk: DeskUnderTest) -> None:
    desk.window.activateWindow()
    await until(lambda: QApplication.activeWindow() is desk.window)


def near(widget: QWidget, place: QRect) -> bool:
    """A restored splitter may be a few pixels off what it was."""
    pairs = zip(widget.geometry().getRect(), place.getRect(), strict=True)
    return all(abs(now - then) <= 12 for now, then in pairs)


async def ready(desk: DeskUnderTest) -> None:
    await until(lambda: desk.window.layouts.ready)


# --- layouts ----------------------------------------------------------------------------------


async def test_a_layout_is_saved_under_a_name_and_taken_by_its_key(
    qtbot: QtBot, desk: DeskUnderTest
) -> None:
    await ready(desk)
    desk.desk.registry.run("layout.review")
    await until(lambda: not desk.window.layouts._saver.isActive())
    desk.window.panels["orders"].view.show_column(3, False)
    desk.desk.registry.run("layout.save")
    dialog: LayoutsDialog = opened(desk, "layouts")
    qtbot.keyClicks(dialog.edit, "My  morning")
    qtbot.keyClick(dialog.edit, Qt.Key.Key_Return)
    assert [dialog.list.item(at).text() for at in range(dialog.list.count())] == ["My morning"]
    dialog.close()
    kept = json.loads((desk.window.home / "layouts.json").read_text("utf-8"))
    assert [one["name"] for one in kept["layouts"]] == ["My morning"]
    await until(
        lambda: not desk.window.layouts._saver.isActive()
    )  # the docks are where they belong
    place = desk.window.docks["signals"].geometry()
    desk.desk.registry.run("layout.risk")
    desk.window.panels["orders"].view.show_column(3, True)
    assert desk.window.docks["signals"].geometry() != place
    await front(desk)
    qtbot.keyClick(desk.window, Qt.Key.Key_5, CTRL)
    await until(lambda: desk.window.layouts.now == "My morning")
    assert desk.window.panels["orders"].view.isColumnHidden(3)
    await until(lambda: near(desk.window.docks["signals"], place))


async def test_layouts_are_renamed_deleted_and_undeleted(qtbot: QtBot, desk: DeskUnderTest) -> None:
    await ready(desk)
    layouts = desk.window.layouts
    layouts.save_as("One")
    layouts.save_as("Two")
    desk.desk.registry.run("layout.manage")
    dialog: LayoutsDialog = opened(desk, "layouts")
    dialog.list.setCurrentRow(0)
    dialog.edit.setText("Two")
    press(qtbot, dialog, "rename")
    assert "already" in dialog._error.text()
    assert not dialog._error.isHidden()
    dialog.edit.setText("First")
    press(qtbot, dialog, "rename")
    assert list(layouts.named) == ["First", "Two"]
    assert "layout.saved.First" in desk.desk.registry.commands
    assert "layout.saved.One" not in desk.desk.registry.commands
    dialog.list.setCurrentRow(0)
    press(qtbot, dialog, "delete")
    assert list(layouts.named) == ["Two"]
    toast = next(t for t in desk.window.toaster.toasts if t.button is not None)
    qtbot.mouseClick(toast.button, LEFT)
    assert set(layouts.named) == {"First", "Two"}


@pytest.mark.parametrize("name", ["", "   ", "Trade", "x" * 41])
async def test_a_layout_needs_a_name_of_its_own(desk: DeskUnderTest, name: str) -> None:
    await ready(desk)
    with pytest.raises(ValueError, match=r"name|come with"):
        desk.window.layouts.save_as(name)
    assert desk.window.layouts.named == {}


async def test_layouts_travel_in_a_file(desk: DeskUnderTest, tmp_path: Path) -> None:
    await ready(desk)
    layouts = desk.window.layouts
    layouts.save_as("Travelling")
    assert layouts.export(["Travelling"], tmp_path / "out.json") == ""
    assert layouts.take_file(tmp_path / "out.json") == [
        "Travelling 2"
    ]  # the name is taken: both stay
    layouts.delete("Travelling")
    layouts.use("Travelling 2")
    for bad in (
        "",
        "{",
        "[]",
        '{"version": 3, "layouts": [3, {"name": "x"}]}',
        '{"version": 99, "layouts": []}',
    ):
        (tmp_path / "bad.json").write_text(bad, "utf-8")
        with pytest.raises(ValueError, match="no layout"):
            layouts.take_file(tmp_path / "bad.json")


async def test_the_last_change_is_undone(qtbot: QtBot, desk: DeskUnderTest) -> None:
    await ready(desk)
    place = desk.window.docks["latency"].geometry()
    desk.desk.registry.run("layout.latency")
    assert desk.window.docks["latency"].geometry() != place
    await front(desk)
    qtbot.keyClick(desk.window, Qt.Key.Key_Z, CTRL_ALT)
    await until(lambda: near(desk.window.docks["latency"], place))
    assert not desk.window.layouts._undo


async def test_a_panel_moved_by_hand_comes_back_by_undo(desk: DeskUnderTest) -> None:
    await ready(desk)
    dock = desk.window.docks["pnl"]
    dock.setFloating(True)
    await until(lambda: desk.window.layouts._undo)
    desk.desk.registry.run("layout.undo")
    assert not dock.isFloating()


async def test_a_locked_layout_holds_and_stays_locked(
    qtbot: QtBot, desk: DeskUnderTest, tmp_path: Path
) -> None:
    await ready(desk)
    dock = desk.window.docks["orders"]
    view = desk.window.panels["orders"].view
    await front(desk)
    dock.raise_()
    view.setFocus()
    desk.desk.registry.run("panel.float")
    assert dock.isFloating()
    dock.activateWindow()
    await until(lambda: QApplication.activeWindow() is dock)
    desk.desk.registry.run("panel.float")
    assert not dock.isFloating()
    await front(desk)
    desk.desk.registry.run("layout.lock")
    assert dock.features() == dock.DockWidgetFeature.NoDockWidgetFeatures
    view.setFocus()
    desk.desk.registry.run("panel.float")
    desk.desk.registry.run("panel.close")
    assert not dock.isFloating()
    assert not dock.isHidden()
    desk.window.save_layout()
    second = MainWindow(tmp_path)
    qtbot.addWidget(second)
    second.show()
    second.build()
    await until(lambda: second.layouts.ready)
    assert second.layouts.locked
    second.closing = True


async def test_floating_panels_come_back_where_they_were(
    qtbot: QtBot, desk: DeskUnderTest, tmp_path: Path
) -> None:
    await ready(desk)
    dock = desk.window.docks["fills"]
    dock.setFloating(True)
    dock.setGeometry(120, 90, 400, 300)
    desk.window.save_layout()
    second = MainWindow(tmp_path)
    qtbot.addWidget(second)
    second.show()
    second.build()
    await until(lambda: second.layouts.ready)
    again = second.docks["fills"]
    assert again.isFloating()
    assert again.geometry().getRect() == (120, 90, 400, 300)
    second.closing = True


@pytest.mark.parametrize(
    ("box", "screens", "put"),
    [
        ((10, 10, 400, 300), [(0, 0, 800, 600)], (10, 10, 400, 300)),
        (
            (-300, 10, 400, 300),
            [(0, 0, 800, 600)],
            (-300, 10, 400, 300),
        ),  # 100 pixels of the title are in sight
        (
            (2000, 100, 400, 300),
            [(0, 0, 800, 600)],
            (400, 100, 400, 300),
        ),  # the second monitor was taken away
        ((2000, 100, 400, 300), [(0, 0, 800, 600), (800, 0, 1600, 900)], (2000, 100, 400, 300)),
        ((-5000, -900, 4000, 3000), [(0, 0, 800, 600)], (0, 0, 800, 600)),
        (
            (100, -200, 400, 300),
            [(0, 0, 800, 600)],
            (100, 0, 400, 300),
        ),  # the title is above the screen
        ((100, 595, 400, 300), [(0, 0, 800, 600)], (100, 300, 400, 300)),
        ((5, 5, 30, 300), [(0, 0, 800, 600)], (5, 5, 30, 300)),
        ((9999, 0, 10, 10), [], (9999, 0, 10, 10)),
    ],
)
def test_a_window_is_kept_where_its_title_can_be_grabbed(
    box: tuple[int, ...], screens: list[tuple[int, ...]], put: tuple[int, ...]
) -> None:
    assert in_sight(QRect(*box), [QRect(*one) for one in screens]).getRect() == put


async def test_a_panel_newer_than_the_layout_is_not_lost(desk: DeskUnderTest) -> None:
    await ready(desk)
    layouts = desk.window.layouts
    dock = desk.window.docks.pop("pnl")
    desk.window.removeDockWidget(dock)
    dock.setParent(None)
    layouts.save_as("Before")
    dock.setParent(desk.window)
    desk.window.docks["pnl"] = dock
    layouts.use("Before")
    assert desk.window.dockWidgetArea(dock) is not Qt.DockWidgetArea.NoDockWidgetArea


# --- keys -------------------------------------------------------------------------------------


def keys_dialog(desk: DeskUnderTest, command: str) -> KeysDialog:
    desk.desk.registry.run("desk.keys")
    dialog = opened(desk, "keys")
    assert isinstance(dialog, KeysDialog)
    dialog.choose(command)
    return dialog


async def test_a_command_gets_another_key_which_works_and_stays(
    qtbot: QtBot, desk: DeskUnderTest, tmp_path: Path
) -> None:
    dialog = keys_dialog(desk, "view.theme")
    qtbot.keyClick(dialog.recorder, Qt.Key.Key_F11)
    press(qtbot, dialog, "assign")
    dialog.close()
    before = active().tokens.name
    await front(desk)
    qtbot.keyClick(desk.window, Qt.Key.Key_F11)
    assert active().tokens.name != before
    qtbot.keyClick(desk.window, Qt.Key.Key_T, CTRL)  # the old key is free
    assert active().tokens.name != before
    assert shortcuts.read(tmp_path) == {"view.theme": "F11"}
    second = MainWindow(tmp_path)
    qtbot.addWidget(second)
    second.build()
    assert second.desk.registry.commands["view.theme"].shortcut == "F11"
    assert not second.desk.registry.actions["view.theme"].autoRepeat()
    second.closing = True


async def test_a_key_that_is_taken_is_told_and_moves(qtbot: QtBot, desk: DeskUnderTest) -> None:
    dialog = keys_dialog(desk, "view.theme")
    dialog.recorder.setKeySequence(QKeySequence("Ctrl+K"))
    assert "Command palette" in dialog.said.text()
    press(qtbot, dialog, "assign")
    commands = desk.desk.registry.commands
    assert commands["view.theme"].shortcut == "Ctrl+K"
    assert commands["desk.palette"].shortcut == "Ctrl+Shift+P"  # it keeps its other one
    dialog.choose("desk.palette")
    press(qtbot, dialog, "default")
    assert "first" in dialog.said.text()
    press(qtbot, dialog, "all_defaults")
    assert commands["view.theme"].shortcut == "Ctrl+T"
    assert commands["desk.palette"].shortcut == commands["desk.palette"].default
    assert shortcuts.read(desk.window.home) == {}


@pytest.mark.parametrize("key", ["T", "Tab", "Esc", "Shift+T", "Return"])
async def test_keys_that_are_pressed_by_accident_are_refused(desk: DeskUnderTest, key: str) -> None:
    dialog = keys_dialog(desk, "view.theme")
    dialog.recorder.setKeySequence(QKeySequence(key))
    assert dialog.said.text()
    assert not dialog.give.isEnabled()


async def test_the_kill_switch_gets_another_key_but_never_none(
    qtbot: QtBot, desk: DeskUnderTest
) -> None:
    dialog = keys_dialog(desk, "trading.kill")
    assert not dialog.none.isEnabled()
    dialog.choose("view.theme")
    dialog.recorder.setKeySequence(QKeySequence("Ctrl+Shift+K"))
    press(qtbot, dialog, "assign")
    assert "only one" in dialog.said.text()
    assert desk.desk.registry.commands["trading.kill"].shortcut == "Ctrl+Shift+K"
    dialog.choose("trading.kill")
    dialog.recorder.setKeySequence(QKeySequence("Ctrl+Alt+F12"))
    press(qtbot, dialog, "assign")
    dialog.choose("view.theme")
    qtbot.keyClick(dialog.recorder, Qt.Key.Key_F12, CTRL_ALT)  # while a key is being recorded, too
    await until(lambda: desk.sent("kill"))
    assert dialog.recorder.keySequence().isEmpty()


@pytest.mark.parametrize(
    "content", ["[]", '{"trading.kill": ""}', '{"view.theme": 3, "desk.palette": "Quatsch+"}']
)
async def test_a_broken_file_of_keys_leaves_the_defaults(tmp_path: Path, content: str) -> None:
    (tmp_path / "shortcuts.json").write_text(content, "utf-8")
    assert shortcuts.read(tmp_path) == {}


async def test_the_question_mark_shows_every_key(qtbot: QtBot, desk: DeskUnderTest) -> None:
    await front(desk)
    desk.view.setFocus()
    qtbot.keyClick(desk.view, Qt.Key.Key_Question)  # as platforms deliver it: Shift is used up
    sheet = opened(desk, "shortcuts")
    shown = " ".join(caption.text() for caption in sheet.findChildren(Caption))
    for command in desk.desk.registry.commands.values():
        if command.shortcut:
            assert command.title in shown


async def test_keys_and_scopes_never_meet_twice(desk: DeskUnderTest) -> None:
    await ready(desk)
    for number in range(1, 7):
        desk.window.layouts.save_as(f"Number {number}")
    registry = desk.desk.registry
    for command in registry.commands.values():
        for key in shortcuts.sequences(command.shortcut):
            other = shortcuts.taken_by(registry, command.id, key)
            assert other is None, f"{key.toString()}: {command.id} and {other and other.id}"
            assert shortcuts.refusal(registry, command.id, key) == "", command.id


# --- palette ----------------------------------------------------------------------------------


async def test_the_palette_goes_to_an_account_an_order_a_symbol(
    qtbot: QtBot, desk: DeskUnderTest
) -> None:
    account = list(desk.client.tables[tables.ACCOUNTS])[7]
    order = list(desk.client.tables[tables.ORDERS])[5]
    for words_, panel in ((account, "accounts"), (order, "orders")):
        desk.desk.registry.run("desk.palette")
        dialog: PaletteDialog = opened(desk, "palette")
        qtbot.keyClicks(dialog.edit, words_)
        rows = [dialog.list.item(at).data(0x0102) for at in range(dialog.list.count())]
        dialog.list.setCurrentRow(rows.index((panel, words_)))
        qtbot.keyClick(dialog.edit, Qt.Key.Key_Return)
        assert desk.window.panels[panel].view.current_key() == words_
        await asyncio.sleep(0)
    desk.desk.go_to("positions", "/NVDA")
    assert desk.window.panels["positions"].filter.text() == "NVDA"


# --- preferences ------------------------------------------------------------------------------


async def test_preferences_are_in_force_at_once_and_kept(
    qtbot: QtBot, desk: DeskUnderTest, tmp_path: Path
) -> None:
    await front(desk)
    qtbot.keyClick(desk.window, Qt.Key.Key_Comma, CTRL)
    dialog: PreferencesDialog = opened(desk, "preferences")
    numbers = dialog.findChild(QComboBox, "numbers")
    assert numbers is not None
    while numbers.currentData() != "dot":
        qtbot.keyClick(numbers, Qt.Key.Key_Down)
    assert fmt.money("1234567.5") == "1.234.567,50"
    theme = dialog.findChild(QComboBox, "theme")
    assert theme is not None
    qtbot.keyClick(theme, Qt.Key.Key_End)
    assert active().choice == "system"
    qtbot.keyClick(dialog._switches["private"], Qt.Key.Key_Space)
    assert fmt.money("5") == fmt.MASK
    qtbot.keyClick(dialog.scale, Qt.Key.Key_Down)
    assert active().scale == 110
    kept = preferences.read(tmp_path)
    assert (kept.numbers, kept.theme, kept.private, kept.scale) == ("dot", "system", True, 110)


@pytest.mark.parametrize(
    ("field", "bad"),
    [
        ("theme", "pink"),
        ("scale", "big"),
        ("scale", True),
        ("zone", 3),
        ("exchange_zone", "Mars/Base"),
        ("sounds", 1),
    ],
)
def test_a_preference_that_makes_no_sense_is_the_default(
    tmp_path: Path, field: str, bad: Any
) -> None:
    (tmp_path / "preferences.json").write_text(
        json.dumps({field: bad, "density": "compact"}), "utf-8"
    )
    kept = preferences.read(tmp_path)
    assert getattr(kept, field) == getattr(preferences.Preferences(), field)
    assert kept.density == "compact"


async def test_a_zone_that_is_none_is_said_and_not_taken(qtbot: QtBot, desk: DeskUnderTest) -> None:
    desk.window.settings.change(zone="exchange", exchange_zone="Asia/Tokyo")
    assert fmt.Times.clock("2026-11-22T14:30:00Z") == "23:30:00"
    desk.desk.registry.run("view.preferences")
    dialog: PreferencesDialog = opened(desk, "preferences")
    dialog.exchange.setCurrentText("Mars/Base")
    dialog._take_zone()
    assert "Mars/Base" in dialog._error.text()
    assert desk.window.settings.now.exchange_zone == "Asia/Tokyo"


async def test_switching_the_zone_rewrites_what_is_on_screen(desk: DeskUnderTest) -> None:
    table = desk.window.panels["orders"].model
    at = [column.key for column in table.columns].index("created_at")
    stamp = table.rows[table.order[0]]["created_at"]
    desk.window.settings.change(zone="exchange", exchange_zone="Asia/Tokyo")
    tokyo = table.cells(table.order[0])[at]
    desk.desk.registry.run("view.utc")
    assert table.cells(table.order[0])[at] == stamp[11:19] != tokyo


async def test_privacy_masks_money_and_accounts_everywhere(desk: DeskUnderTest) -> None:
    ids = list(desk.client.tables[tables.ACCOUNTS])
    names = {
        str(row["name"]) for row in desk.client.tables[tables.ACCOUNTS].values() if row.get("name")
    }
    desk.desk.registry.run("view.private")
    desk.window.tick()
    for panel in desk.window.panels.values():
        model = getattr(panel, "model", None)
        for key in model.order if model is not None else ():
            for text in model.cells(key):
                assert not any(word in text.split() for word in ids), (panel.NAME, text)
                assert text not in names, (panel.NAME, text)
    assert {caption.text() for caption in desk.window.top_bar.findChildren(Caption)} & {fmt.MASK}
    desk.desk.registry.run("view.private")
    accounts = desk.window.panels["accounts"].model
    assert any(ids[0] in cell for cell in accounts.cells(ids[0]))


@pytest.mark.parametrize("compact", [True, False])
async def test_density_changes_the_rows(desk: DeskUnderTest, compact: bool) -> None:
    desk.window.settings.change(density="compact" if compact else "normal")
    height = desk.view.verticalHeader().defaultSectionSize()
    assert height == active().row_height == active().px(12.5) + (7 if compact else 10)


async def test_with_reduced_motion_nothing_flashes(desk: DeskUnderTest) -> None:
    model = desk.window.panels["signals"].model
    desk.window.settings.change(reduced_motion=True)
    desk.client.step(80)
    desk.frame()
    assert model._flashes == {}


# --- export -----------------------------------------------------------------------------------


def export_dialog(desk: DeskUnderTest, kind: str, which: str) -> ExportDialog:
    desk.desk.registry.run("desk.export")
    dialog = opened(desk, "export")
    assert isinstance(dialog, ExportDialog)
    dialog.kind.setCurrentIndex(dialog.kind.findData(kind))
    dialog.which.setCurrentIndex(dialog.which.findData(which))
    return dialog


@pytest.mark.parametrize("kind", ["csv", "xlsx", "jsonl"])
async def test_a_table_is_exported_as_filtered(
    desk: DeskUnderTest, tmp_path: Path, kind: str
) -> None:
    panel = desk.window.panels["orders"]
    evil = panel.model.order[0]
    desk.client.change(tables.ORDERS, evil, text="=cmd|' /C calc'!A0", symbol="NVDA")
    desk.frame()
    panel.filter.setText("NVDA")
    await front(desk)
    panel.view.setFocus()
    await asyncio.sleep(0)
    dialog = export_dialog(desk, kind, "fields")
    path = tmp_path / f"out.{kind}"
    dialog.write(str(path))
    await until(path.exists, 10)
    expected = [panel.model.rows[key] for key in panel.model.order]
    assert 0 < len(expected) < len(panel.model.rows)
    if kind == "jsonl":
        assert [json.loads(line) for line in path.read_text("utf-8").splitlines()] == expected
        return
    if kind == "csv":
        read = list(csv.reader(io.StringIO(path.read_text("utf-8-sig"))))
    else:
        sheet = load_workbook(path)["volley"]
        assert {cell.data_type for line in sheet.iter_rows() for cell in line} <= {
            "s",
            "inlineStr",
            "n",
            "b",
        }  # no formula
        read = [[cell.value for cell in line] for line in sheet.iter_rows()]
    head = read[0]
    ids = [line[head.index("cl_ord_id")] for line in read[1:]]
    assert ids == [row["cl_ord_id"] for row in expected]
    stamps = [line[head.index("created_at")] for line in read[1:]]
    assert stamps == [row["created_at"] for row in expected]
    texts = [line[head.index("text")] for line in read[1:]]
    assert ("'=cmd" if kind == "csv" else "=cmd") in "".join(text or "" for text in texts)
    quantities = [float(line[head.index("order_qty")]) for line in read[1:]]
    assert quantities == [float(row["order_qty"]) for row in expected]
    await until(lambda: desk.desk.notifier.history)
    assert desk.desk.notifier.history[-1].title == "Exported"


async def test_a_file_that_cannot_be_written_is_said(desk: DeskUnderTest, tmp_path: Path) -> None:
    await active_now(desk.window)  # a display without a window manager activates none by itself
    desk.view.setFocus()
    await until(desk.view.hasFocus)
    dialog = export_dialog(desk, "csv", "shown")
    dialog.write(str(tmp_path / "missing" / "out.csv"))
    await until(lambda: not dialog._error.isHidden())
    assert "No such file" in dialog._error.text()
    assert dialog._go is not None
    assert dialog._go.isEnabled()


@pytest.mark.parametrize("kind", ["csv", "xlsx"])
async def test_an_export_of_many_rows_leaves_the_desk_its_turns(
    desk: DeskUnderTest, tmp_path: Path, kind: str
) -> None:
    model = desk.window.panels["orders"].model
    some = next(iter(model.rows.values()))
    count = 100_000 if kind == "csv" else 10_000
    model.show_rows({f"o{at}": some | {"cl_ord_id": f"o{at}"} for at in range(count)})
    dialog = ExportDialog(desk.desk, {"view": desk.window.panels["orders"].view})
    dialog.kind.setCurrentIndex(dialog.kind.findData(kind))
    path = tmp_path / f"out.{kind}"
    dialog.write(str(path))
    turns = 0
    async with asyncio.timeout(120):
        while not path.exists():
            await asyncio.sleep(0.001)
            turns += 1
    assert turns > 20  # it was written in slices, and the desk had its turns between them


async def test_an_export_that_is_cancelled_leaves_nothing(
    desk: DeskUnderTest, tmp_path: Path
) -> None:
    model = desk.window.panels["orders"].model
    some = next(iter(model.rows.values()))
    model.show_rows({f"o{at}": some | {"cl_ord_id": f"o{at}"} for at in range(20_000)})
    dialog = ExportDialog(desk.desk, {"view": desk.window.panels["orders"].view})
    dialog.write(str(tmp_path / "out.csv"))
    await until(lambda: list(tmp_path.glob("out*")))
    dialog.reject()
    await until(lambda: not list(tmp_path.glob("out*")))
    assert all(notice.title != "Exported" for notice in desk.desk.notifier.history)


# --- words, scale -----------------------------------------------------------------------------


@pytest.fixture
def pseudo() -> Any:
    words.use(words.PSEUDO)
    yield
    words.use("en")


async def test_every_title_is_ready_for_another_language(
    qtbot: QtBot, pseudo: None, tmp_path: Path
) -> None:
    preferences.home_file.write(tmp_path / "preferences.json", {"language": "pseudo"})
    window = MainWindow(tmp_path)
    qtbot.addWidget(window)
    window.resize(1600, 1000)
    window.show()
    window.build()
    for name, command in window.desk.registry.commands.items():
        assert command.title.startswith("["), name
        assert not name.startswith("[")
    for name, dock in window.docks.items():
        assert dock.windowTitle().startswith("["), name
        assert dock.objectName() == f"dock.{name}"  # what is saved is not translated
        title = dock.titleBarWidget().title
        assert title.text().startswith("[")
    for dialog in ("preferences", "layouts", "codes", "keys", "shortcuts", "about"):
        window.open_dialog(dialog, {})
        made = next(
            w
            for w in window.children()
            if isinstance(w, QWidget)
            and w.windowTitle().startswith("[")
            and w.isVisible()
            and w.isWindow()
        )
        for button in made.findChildren(QPushButton):
            assert button.text().startswith("["), (dialog, button.text())
            assert button.width() >= button.minimumSizeHint().width(), (dialog, button.text())
        made.close()
    window.closing = True


def test_a_pseudo_text_is_forty_percent_longer_and_made_once() -> None:
    words.use(words.PSEUDO)
    try:
        made = words.tr("Command palette")
        assert len(made) >= 1.4 * len("Command palette")
        assert words.tr(made) == made
        assert words.tr("") == ""
    finally:
        words.use("en")
    assert words.tr("Command palette") == "Command palette"


class Windows(QObject):
    """Notes which widgets were windows on screen."""

    def __init__(self) -> None:
        super().__init__()
        self.shown: list[str] = []

    def eventFilter(self, watched: QObject, event: QEvent) -> bool:  # noqa: N802 (Qt's name)
        if event.type() is QEvent.Type.Show and isinstance(watched, QWidget) and watched.isWindow():
            self.shown.append(type(watched).__name__)
        return False


async def test_building_shows_no_window_but_the_desk(
    qtbot: QtBot, qapp: QApplication, tmp_path: Path
) -> None:
    """One that is shown before it has its place flashes up and takes the keyboard: the kill key would be lost."""
    window = MainWindow(tmp_path)
    qtbot.addWidget(window)
    window.show()
    await active_now(window)
    seen = Windows()
    qapp.installEventFilter(seen)
    try:
        window.build()
        await until(lambda: window.layouts.ready)
    finally:
        qapp.removeEventFilter(seen)
    assert seen.shown == []
    assert QApplication.activeWindow() is window
    window.closing = True


async def test_a_narrow_dock_keeps_its_filter_and_puts_buttons_into_a_menu(
    qtbot: QtBot, desk: DeskUnderTest
) -> None:
    desk.desk.show_panel("signals")
    title = desk.window.docks["signals"].titleBarWidget()
    panel = desk.window.panels["signals"]
    dock = desk.window.docks["signals"]
    dock.setFloating(True)
    dock.resize(900, 400)
    await until(lambda: title.width() > 800 and not title.tucked)
    assert title.more.isHidden()
    dock.resize(420, 400)
    await until(lambda: title.width() < 450 and title.tucked)
    assert title.more.isVisible()
    assert panel.filter.width() >= panel.filter.minimumWidth() >= 70
    assert panel.tools[0].isVisible(), "Approve stays in sight"
    assert [button.text() for button in title.tucked][-1] == "Cancel"
    title.more.showMenu()
    menu = title.more.menu()
    assert [action.text() for action in menu.actions()] == [b.text() for b in title.tucked]
    assert [action.isEnabled() for action in menu.actions()] == [
        b.isEnabled() for b in title.tucked
    ]
    clicked: list[bool] = []
    title.tucked[0].setEnabled(True)
    title.tucked[0].clicked.disconnect()
    title.tucked[0].clicked.connect(lambda: clicked.append(True))
    menu.actions()[0].setEnabled(True)
    menu.actions()[0].trigger()
    assert clicked == [True]
    menu.close()


async def test_a_panel_behind_another_tab_does_no_work(desk: DeskUnderTest) -> None:
    desk.desk.show_panel("fills")
    desk.desk.show_panel("orders")
    await until(lambda: not desk.window.panels["fills"].in_sight())
    assert desk.window.panels["orders"].in_sight()
    assert desk.window.panels["fills"].view.span() == (0, -1)
    desk.desk.show_panel("fills")
    await until(desk.window.panels["fills"].in_sight)
    first, last = desk.window.panels["fills"].view.span()
    assert first == 0
    assert last > 0
