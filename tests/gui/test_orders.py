"""Orders, unknown orders, positions, the heat map, the ticket and undo, as a person at the desk uses them."""

from __future__ import annotations

import asyncio
from decimal import Decimal
from typing import Any

import pytest
from PySide6.QtCore import QPoint, Qt
from PySide6.QtGui import QPixmap
from PySide6.QtWidgets import QAbstractButton, QComboBox, QPushButton, QWidget
from pytestqt.qtbot import QtBot
from shiboken6 import isValid

from engine.errors import CommandRefused
from engine.model import tables
from engine.model.commands import parse_command
from gui import dialogs
from gui.dialogs.base import HOLD_MS, Dialog, HoldButton
from gui.undo import UNDO_MS
from tests.gui.conftest import DeskUnderTest, until

LEFT = Qt.MouseButton.LeftButton
CTRL = Qt.KeyboardModifier.ControlModifier


def button(desk: DeskUnderTest, command: str) -> QAbstractButton:
    found = desk.window.findChild(QAbstractButton, command + ".button")
    assert found is not None, command
    return found


def opened(desk: DeskUnderTest, kind: str) -> Dialog:
    found = [w for w in desk.window.findChildren(dialogs.ALL[kind]) if w.isVisible()]
    assert len(found) == 1, kind
    return found[0]


def go(dialog: QWidget) -> QPushButton:
    found = dialog.findChild(QPushButton, "go")
    assert found is not None
    return found


def closed(dialog: QWidget) -> bool:
    return not isValid(dialog) or not dialog.isVisible()


async def hold(qtbot: QtBot, dialog: QWidget) -> None:
    pressed = go(dialog)
    assert isinstance(pressed, HoldButton)
    qtbot.mousePress(pressed, LEFT)
    await until(lambda: closed(dialog) or not pressed.isEnabled(), HOLD_MS / 1000 + 3)
    if not closed(dialog):
        qtbot.mouseRelease(pressed, LEFT)


def valid(desk: DeskUnderTest) -> None:
    """Every command the desk sent is one the engine takes."""
    for name, fields in desk.client.sent:
        parse_command({**fields, "id": "x", "command": name})


async def to_front(desk: DeskUnderTest) -> None:
    """Keys go to the window that is active."""
    desk.window.activateWindow()
    await until(desk.window.isActiveWindow)


async def show(desk: DeskUnderTest, name: str) -> Any:
    await to_front(desk)
    desk.window.show_panel(name)
    panel = desk.window.panels[name]
    await until(panel.isVisible)
    return panel


def of_status(desk: DeskUnderTest, *states: str) -> dict[str, dict[str, Any]]:
    rows = desk.client.tables[tables.ORDERS]
    return {key: row for key, row in rows.items() if row["status"] in states}


# --- orders -----------------------------------------------------------------------------------


async def test_working_done_and_all_are_a_click_each(qtbot: QtBot, desk: DeskUnderTest) -> None:
    panel = await show(desk, "orders")
    everything = set(desk.client.tables[tables.ORDERS])
    working = set(of_status(desk, "new", "partially_filled", "unknown"))
    qtbot.mouseClick(button(desk, "order.show_working"), LEFT)
    assert set(panel.model.order) == working
    assert button(desk, "order.show_working").isChecked()
    assert not button(desk, "order.show_all").isChecked()
    # What fills leaves the list by itself, without another click.
    key = next(iter(of_status(desk, "new")))
    desk.client.change(tables.ORDERS, key, status="filled")
    desk.frame()
    await until(lambda: key not in panel.model.order)
    qtbot.mouseClick(button(desk, "order.show_done"), LEFT)
    assert set(panel.model.order) == everything - working | {key}
    kept = panel.state()
    qtbot.mouseClick(button(desk, "order.show_all"), LEFT)
    assert set(panel.model.order) == everything
    panel.restore(kept)
    assert panel.shown == "done"


async def test_orders_add_up_by_symbol_and_move_with_their_rows(desk: DeskUnderTest) -> None:
    panel = await show(desk, "orders")
    picker = panel.picker
    assert isinstance(picker, QComboBox)
    picker.setCurrentIndex(picker.findData("symbol"))
    rows = list(desk.client.tables[tables.ORDERS].values())
    assert set(panel.groups.order) == {row["symbol"] for row in rows}
    group = panel.groups.rows["AAPL"]
    of_it = [row for row in rows if row["symbol"] == "AAPL"]
    assert group["rows"] == len(of_it)
    assert group["of_account"] == len({row["account"] for row in of_it})
    bought = sum(Decimal(row["cum_qty"]) for row in of_it if row["side"] == "buy")
    assert group["bought"] == bought
    row = next(row for row in of_it if row["status"] == "new" and row["side"] == "buy")
    desk.client.change(tables.ORDERS, row["cl_ord_id"], status="filled", cum_qty=row["order_qty"])
    desk.frame()
    assert panel.groups.rows["AAPL"]["bought"] == bought + Decimal(row["order_qty"])
    # The commands act on a group's orders; Enter goes to them.
    panel.group_view.select_key("AAPL")
    assert {one["symbol"] for one in panel.chosen()} == {"AAPL"}
    panel.open_group("AAPL")
    assert panel.by == ""
    assert {panel.model.rows[key]["symbol"] for key in panel.model.order} == {"AAPL"}


async def test_many_orders_are_cancelled_at_once_and_many_more_ask_first(
    qtbot: QtBot, desk: DeskUnderTest
) -> None:
    panel = await show(desk, "orders")
    qtbot.mouseClick(button(desk, "order.show_working"), LEFT)
    live = set(of_status(desk, "new", "partially_filled"))
    panel.view.selectAll()
    panel.view.setFocus()
    qtbot.keyClick(panel.view, Qt.Key.Key_X)
    assert len(live) >= 20
    dialog = opened(desk, "confirm")
    assert desk.sent("cancel_order") == []
    qtbot.mouseClick(go(dialog), LEFT)
    await until(lambda: len(desk.sent("cancel_order")) == len(live))
    assert {fields["cl_ord_id"] for fields in desk.sent("cancel_order")} == live
    valid(desk)


async def test_all_orders_of_a_symbol_are_one_command(qtbot: QtBot, desk: DeskUnderTest) -> None:
    panel = await show(desk, "orders")
    row = next(iter(of_status(desk, "new").values()))
    panel.view.select_key(row["cl_ord_id"])
    desk.client.answers["cancel_orders"] = {"result": "requested", "cancels": 3, "closed": 1}
    desk.desk.registry.run("order.cancel_symbol")
    dialog = opened(desk, "confirm")
    safe = [b for b in dialog.findChildren(QPushButton) if b.text() == "Keep as it is"]
    assert safe[0].isDefault(), "Enter keeps everything as it is"
    qtbot.keyClick(dialog, Qt.Key.Key_Return)
    await until(lambda: closed(dialog))
    assert desk.sent("cancel_orders") == []
    desk.desk.registry.run("order.cancel_symbol")
    qtbot.mouseClick(go(opened(desk, "confirm")), LEFT)
    await until(lambda: desk.sent("cancel_orders"))
    assert desk.sent("cancel_orders") == [{"scope": f"symbol:{row['symbol']}"}]
    await until(lambda: desk.desk.notifier.history)
    assert "3 asked" in desk.desk.notifier.history[-1].text
    valid(desk)


async def test_why_rejected_and_the_trace_behind_it(qtbot: QtBot, desk: DeskUnderTest) -> None:
    panel = await show(desk, "orders")
    row = next(iter(of_status(desk, "rejected").values()))
    panel.view.select_key(row["cl_ord_id"])
    panel.view.setFocus()
    qtbot.keyClick(panel.view, Qt.Key.Key_W)
    dialog = opened(desk, "why")
    said = " ".join(
        label.text() for label in dialog.findChildren(QWidget) if hasattr(label, "text")
    )
    for words in ("BROKER_REJECTED", "insufficient buying power", row["account"]):
        assert words in said
    trace = next(b for b in dialog.findChildren(QPushButton) if b.text() == "Open trace")
    qtbot.mouseClick(trace, LEFT)
    assert desk.desk.signal_key == f"{row['source']}/{row['signal_id']}"
    assert not dialog.isVisible()


async def test_only_what_is_proven_absent_is_sent_again(desk: DeskUnderTest) -> None:
    panel = await show(desk, "orders")
    row = next(iter(of_status(desk, "rejected").values()))
    for status, code, may in (
        ("expired", "ABSENT", True),
        ("denied", "NOT_SENT", False),
        ("expired", "", False),
        ("unknown", "OUTCOME_UNKNOWN", False),
    ):
        desk.client.change(tables.ORDERS, row["cl_ord_id"], status=status, code=code)
        desk.frame()
        panel.view.select_key(row["cl_ord_id"])
        assert desk.desk.registry.commands["order.resend"].enabled() is may, (status, code)


# --- unknown ----------------------------------------------------------------------------------


async def test_unknown_orders_have_a_tab_with_their_count(desk: DeskUnderTest) -> None:
    dock = desk.window.docks["unknown"]
    many = len(desk.client.tables[tables.UNKNOWN])
    assert many
    assert dock.windowTitle() == f"▲ Unknown {many}"
    desk.client.unknown(next(iter(of_status(desk, "new").values())))
    desk.frame()
    assert dock.windowTitle() == f"▲ Unknown {many + 1}"
    desk.client.tables[tables.UNKNOWN].clear()
    desk.client.connect()
    assert dock.windowTitle() == "Unknown"


async def test_an_unknown_order_is_looked_up_and_settled(qtbot: QtBot, desk: DeskUnderTest) -> None:
    panel = await show(desk, "unknown")
    key = panel.model.order[0]
    cells = [panel.model.index(0, at).data() for at in range(panel.model.columnCount())]
    assert "4 ×" in cells
    assert "not found" in cells
    panel.view.select_key(key)
    panel.view.setFocus()
    desk.client.answers["look_up"] = {"result": "not_found", "status": "unknown"}
    qtbot.keyClick(panel.view, Qt.Key.Key_L)
    await until(lambda: desk.desk.notifier.history)
    assert desk.sent("look_up") == [{"cl_ord_id": key}]
    assert "proves nothing" in desk.desk.notifier.history[-1].text
    qtbot.mouseClick(button(desk, "unknown.exists"), LEFT)
    dialog = opened(desk, "confirm")
    qtbot.mouseClick(go(dialog), LEFT)
    await until(lambda: closed(dialog))
    qtbot.mouseClick(button(desk, "unknown.absent"), LEFT)
    dialog = opened(desk, "confirm")
    qtbot.mouseClick(go(dialog), LEFT)
    await asyncio.sleep(0.05)
    assert len(desk.sent("resolve_unknown")) == 1, "a click is not a hold"
    await hold(qtbot, dialog)
    await until(lambda: len(desk.sent("resolve_unknown")) == 2)
    assert [fields["exists"] for fields in desk.sent("resolve_unknown")] == [True, False]
    valid(desk)


async def test_what_cannot_be_proven_absent_is_never_sent_again(
    qtbot: QtBot, desk: DeskUnderTest
) -> None:
    panel = await show(desk, "unknown")
    key = panel.model.order[0]
    panel.view.select_key(key)
    desk.client.change(tables.UNKNOWN, key, promise="N", may_resend=False)
    desk.frame()
    desk.desk.registry.refresh()
    assert not button(desk, "unknown.resend").isEnabled()
    desk.client.change(tables.UNKNOWN, key, promise="D", may_resend=True)
    desk.frame()
    desk.desk.registry.refresh()
    qtbot.mouseClick(button(desk, "unknown.resend"), LEFT)
    qtbot.mouseClick(go(opened(desk, "confirm")), LEFT)
    await until(lambda: desk.sent("resend"))
    assert desk.sent("resend") == [{"cl_ord_id": key}]
    valid(desk)


# --- positions --------------------------------------------------------------------------------


@pytest.mark.parametrize(("key", "fraction"), [("C", "1"), ("H", "0.5"), ("Q", "0.25")])
async def test_keys_close_parts_of_a_position(
    qtbot: QtBot, desk: DeskUnderTest, key: str, fraction: str
) -> None:
    panel = await show(desk, "positions")
    row = panel.model.rows[panel.model.order[0]]
    panel.view.select_key(row["key"])
    panel.view.setFocus()
    qtbot.keyClick(panel.view, Qt.Key(ord(key)))
    await until(lambda: desk.sent("close_position"))
    assert desk.sent("close_position") == [
        {"account": row["account"], "symbol": row["symbol"], "fraction": fraction}
    ]
    valid(desk)


async def test_a_quantity_of_a_position_is_closed(qtbot: QtBot, desk: DeskUnderTest) -> None:
    panel = await show(desk, "positions")
    row = panel.model.rows[panel.model.order[0]]
    panel.view.select_key(row["key"])
    qtbot.mouseClick(button(desk, "position.part"), LEFT)
    dialog = opened(desk, "close_part")
    held = abs(Decimal(row["qty"]))
    dialog._quantity.setText(str(held + 1))
    qtbot.keyClick(dialog._quantity, Qt.Key.Key_Return)
    assert desk.sent("close_position") == []
    share = next(b for b in dialog.findChildren(QPushButton) if b.text() == "50 %")
    qtbot.mouseClick(share, LEFT)
    qtbot.keyClick(dialog._quantity, Qt.Key.Key_Return)
    await until(lambda: desk.sent("close_position"))
    sent = desk.sent("close_position")[0]
    assert Decimal(sent["quantity"]) == held / 2
    valid(desk)


async def test_positions_net_by_symbol_and_close_as_a_group(
    qtbot: QtBot, desk: DeskUnderTest
) -> None:
    panel = await show(desk, "positions")
    panel.group_by("symbol")
    rows = [r for r in desk.client.tables[tables.POSITIONS].values() if r["symbol"] == "TSLA"]
    group = panel.groups.rows["TSLA"]
    assert group["net"] == sum(Decimal(row["qty"]) for row in rows)
    assert group["unrealised"] == sum(Decimal(row["unrealised"]) for row in rows)
    desk.client.change(tables.POSITIONS, rows[0]["key"], qty="0", value="0", unrealised="0")
    desk.frame()
    assert panel.groups.rows["TSLA"]["rows"] == len(rows) - 1
    panel.group_view.select_key("TSLA")
    panel.group_view.setFocus()
    qtbot.keyClick(panel.group_view, Qt.Key.Key_H)
    qtbot.mouseClick(go(opened(desk, "confirm")), LEFT)
    await until(lambda: len(desk.sent("close_position")) == len(rows) - 1)
    assert {f["symbol"] for f in desk.sent("close_position")} == {"TSLA"}
    panel.group_by("account")
    several = next(r for r in panel.groups.rows.values() if r["of_symbol"] > 1)
    column = [c.key for c in panel.groups.columns].index("net")
    at = panel.groups.index(panel.groups.pos[several["group"]], column)
    assert at.data() == "–", "quantities of different symbols are not added up"
    valid(desk)


@pytest.mark.parametrize("kind", ["symbol", "account"])
async def test_flatten_of_a_scope_is_held(qtbot: QtBot, desk: DeskUnderTest, kind: str) -> None:
    panel = await show(desk, "positions")
    row = panel.model.rows[panel.model.order[0]]
    panel.view.select_key(row["key"])
    desk.desk.registry.run(f"position.flatten_{kind}")
    dialog = opened(desk, "confirm")
    assert desk.sent("flatten") == []
    await hold(qtbot, dialog)
    await until(lambda: desk.sent("flatten"))
    assert desk.sent("flatten")[0]["scope"] == f"{kind}:{row[kind]}"
    valid(desk)


async def test_a_strategy_is_flattened_by_name(qtbot: QtBot, desk: DeskUnderTest) -> None:
    desk.desk.registry.run("position.flatten_strategy")
    dialog = opened(desk, "scope")
    dialog._name.setEditText("breakout")
    assert "In it now" in dialog.touched.text()
    await hold(qtbot, dialog)
    await until(lambda: desk.sent("flatten"))
    assert desk.sent("flatten")[0]["scope"] == "strategy:breakout"
    valid(desk)


# --- pausing and undo -------------------------------------------------------------------------


async def test_a_pause_can_be_undone_for_five_seconds(qtbot: QtBot, desk: DeskUnderTest) -> None:
    panel = await show(desk, "positions")
    row = panel.model.rows[panel.model.order[0]]
    panel.view.select_key(row["key"])
    assert not desk.desk.undo.available()
    desk.desk.registry.run("position.pause_symbol")
    await until(desk.desk.undo.available)
    assert desk.sent("pause")[0]["scope"] == f"symbol:{row['symbol']}"
    toast = desk.window.toaster.toasts[-1]
    assert toast.button is not None
    assert toast.button.text() == "Undo (5 s)"
    qtbot.mouseClick(toast.button, LEFT)
    await until(lambda: desk.sent("resume"))
    assert desk.sent("resume") == [{"scope": f"symbol:{row['symbol']}"}]
    assert toast not in desk.window.toaster.toasts
    assert not desk.desk.undo.available()
    desk.desk.registry.run("trading.undo")
    await asyncio.sleep(0.02)
    assert len(desk.sent("resume")) == 1, "undone once"
    valid(desk)


async def test_what_is_offered_for_a_time_ends_with_it(
    desk: DeskUnderTest, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("gui.undo.UNDO_MS", 40)
    ran: list[str] = []

    async def run() -> None:
        ran.append("run")

    desk.desk.undo.offer("Sent", "", run)
    toast = desk.window.toaster.toasts[-1]
    await until(lambda: toast not in desk.window.toaster.toasts)
    await until(lambda: not desk.desk.undo.available())
    desk.desk.undo.run()
    await asyncio.sleep(0.01)
    assert ran == []
    assert UNDO_MS == 5_000


async def test_a_scope_is_paused_from_the_risk_panel_and_resumed(
    qtbot: QtBot, desk: DeskUnderTest
) -> None:
    panel = await show(desk, "risk")
    qtbot.mouseClick(button(desk, "risk.pause"), LEFT)
    dialog = opened(desk, "scope")
    dialog._kind.setCurrentIndex(dialog._kind.findData("strategy"))
    dialog._name.setEditText("pairs")
    dialog._reason.setText("odd fills")
    qtbot.mouseClick(go(dialog), LEFT)
    await until(lambda: desk.sent("pause"))
    assert desk.sent("pause") == [{"scope": "strategy:pairs", "reason": "odd fills"}]
    await until(desk.desk.undo.available)
    halt = {
        "scope": "strategy:pairs",
        "state": "reducing",
        "reason": "odd fills",
        "at": None,
        "by": "me",
    }
    desk.client.put(tables.HALTS, halt)
    desk.frame()
    panel.view.select_key("strategy:pairs")
    desk.desk.registry.refresh()
    qtbot.mouseClick(button(desk, "risk.resume"), LEFT)
    await until(lambda: desk.sent("resume"))
    assert desk.sent("resume") == [{"scope": "strategy:pairs"}]
    valid(desk)


# --- the heat map -----------------------------------------------------------------------------


async def test_the_heat_map_finds_and_settles_a_difference_by_keyboard(
    qtbot: QtBot, desk: DeskUnderTest
) -> None:
    panel = await show(desk, "heat_map")
    grid = panel.view
    assert panel.count.text() == "▲ 1 differs"
    assert grid.rows == sorted(desk.client.tables[tables.ACCOUNTS])
    grid.setFocus()
    qtbot.keyClick(grid, Qt.Key.Key_N)
    assert grid.current_names() == ("A-003", "AAPL")
    assert panel.cell("A-003", "AAPL").text == "+120 ≠ +80"
    assert "At the broker 80" in panel.said.text()
    assert "At the broker 80" in grid.accessibleDescription()
    qtbot.keyClick(grid, Qt.Key.Key_R)
    dialog = opened(desk, "confirm")
    await hold(qtbot, dialog)
    await until(lambda: desk.sent("repair"))
    row = desk.client.tables[tables.DIFFERENCES]["A-003/position/AAPL"]
    assert desk.sent("repair")[0]["key"] == row["key"]
    assert desk.sent("repair")[0]["at"] == row["at"], "refused if it has changed since it was shown"
    qtbot.keyClick(grid, Qt.Key.Key_Return)
    qtbot.mouseClick(
        go(next(d for d in desk.window.findChildren(dialogs.ALL["confirm"]) if d.isVisible())), LEFT
    )
    await until(lambda: desk.sent("adopt"))
    valid(desk)


async def test_arrows_pages_and_the_mouse_move_over_the_heat_map(
    qtbot: QtBot, desk: DeskUnderTest
) -> None:
    panel = await show(desk, "heat_map")
    grid = panel.view
    grid.setFocus()
    for key, at in (
        (Qt.Key.Key_Down, (1, 0)),
        (Qt.Key.Key_Right, (1, 1)),
        (Qt.Key.Key_Up, (0, 1)),
        (Qt.Key.Key_Left, (0, 0)),
        (Qt.Key.Key_Left, (0, 0)),
        (Qt.Key.Key_End, (0, len(grid.columns) - 1)),
        (Qt.Key.Key_Home, (0, 0)),
    ):
        qtbot.keyClick(grid, key)
        assert grid.current == at
    qtbot.keyClick(grid, Qt.Key.Key_End, CTRL)
    assert grid.current == (len(grid.rows) - 1, len(grid.columns) - 1)
    assert grid.viewport().rect().contains(grid.box(*grid.current)), "scrolled into sight"
    qtbot.keyClick(grid, Qt.Key.Key_Home, CTRL)
    qtbot.mouseClick(grid.viewport(), LEFT, pos=grid.box(2, 1).center())
    assert grid.current == (2, 1)
    assert grid.at(QPoint(3, 3)) is None, "names are no cells"


async def test_the_heat_map_says_what_is_flat_unproven_and_filtered(desk: DeskUnderTest) -> None:
    panel = await show(desk, "heat_map")
    key = next(k for k, r in desk.client.tables[tables.POSITIONS].items() if Decimal(r["qty"]) < 0)
    account, symbol = key.split("/", 1)
    assert panel.cell(account, symbol).text.startswith("\u2212"), "a sign, not only a colour"
    desk.client.change(tables.ACCOUNTS, account, reconciliation="not compared since the start")
    desk.frame()
    assert panel.cell(account, symbol).text.endswith("?")
    assert "Not compared" in panel.words(account, symbol)
    desk.client.change(tables.POSITIONS, key, qty="0")
    desk.frame()
    assert panel.cell(account, symbol).text == "·"
    panel.filter.setText("A-00 aapl")
    assert panel.view.columns == ["AAPL"]
    assert panel.view.rows == [f"A-00{n}" for n in range(1, 10)]
    panel.filter.setText("nothing like it")
    assert panel.view.rows == []
    panel.filter.clear()
    desk.desk.registry.run("heat.only")
    assert (panel.view.rows, panel.view.columns) == (["A-003"], ["AAPL"])
    desk.client.tables[tables.DIFFERENCES].clear()
    desk.client.connect()
    assert panel.view.rows == []
    assert panel.view.empty_title == "No differences"


async def test_the_heat_map_of_a_thousand_accounts_paints_only_what_is_in_sight(
    desk: DeskUnderTest,
) -> None:
    panel = await show(desk, "heat_map")
    grid = panel.view
    rows = [f"A-{n:04d}" for n in range(1000)]
    columns = [f"SYM{n:02d}" for n in range(50)]
    asked: list[tuple[str, str]] = []
    plain = grid.cell

    def counted(account: str, symbol: str) -> Any:
        asked.append((account, symbol))
        return plain(account, symbol)

    grid.set_axes(rows, columns)
    grid.resize(1200, 700)
    pixmap = QPixmap(grid.viewport().size())
    grid.viewport().render(pixmap)
    grid.cell = counted
    paints = 0
    for at in range(0, 900, 30):
        grid.verticalScrollBar().setValue(at * grid.cell_size.height())
        grid.viewport().render(pixmap)
        paints += 1
    in_sight = len(grid.span()[0]) * len(grid.span()[1])
    assert len(asked) == in_sight * paints
    assert in_sight < 600


# --- the ticket -------------------------------------------------------------------------------


async def open_ticket(qtbot: QtBot, desk: DeskUnderTest) -> Any:
    await to_front(desk)
    qtbot.keyClick(desk.window, Qt.Key.Key_F9)
    return opened(desk, "ticket")


async def test_the_ticket_by_keyboard_alone(qtbot: QtBot, desk: DeskUnderTest) -> None:
    dialog = await open_ticket(qtbot, desk)
    assert dialog.focusWidget() is dialog._symbol
    qtbot.keyClicks(dialog._symbol, "aapl")
    dialog._stop.setText("220")
    await until(lambda: dialog.preview.answer)
    asked = desk.sent("preview")[-1]["signal"]
    assert (asked["symbol"], asked["stop_loss"]) == ("AAPL", "220")
    assert not {"id", "issued_at", "source"} & set(asked)
    rows = dialog.preview.answer["accounts"]
    sends = sum(row["outcome"] == "send" for row in rows)
    assert f"{sends} to send" in dialog.preview.total.text()
    cost = sum(Decimal(row["value"]) for row in rows if row["value"])
    assert f"{cost:,.2f}".replace(",", "\u202f") in dialog.preview.detail.text()
    assert "leaves in about" in dialog.preview.detail.text()
    held = sum(row["outcome"] == "hold" for row in rows)
    assert go(dialog).text() == f"Send {sends + held} orders"
    assert desk.client.signals_sent == [], "a preview sends nothing"
    before = len(desk.sent("preview"))
    qtbot.keyClick(dialog._stop, Qt.Key.Key_Return)
    await until(lambda: len(desk.sent("preview")) == before + 1)
    assert desk.client.signals_sent == [], "Enter previews"
    qtbot.keyClick(dialog._stop, Qt.Key.Key_Return, CTRL)
    await until(lambda: desk.client.signals_sent)
    assert len(desk.client.signals_sent) == 1
    await until(lambda: closed(dialog))
    valid(desk)


async def test_typing_asks_once_for_the_last_word(qtbot: QtBot, desk: DeskUnderTest) -> None:
    dialog = await open_ticket(qtbot, desk)
    qtbot.keyClicks(dialog._symbol, "msft")
    await until(lambda: dialog.preview.answer)
    assert [f["signal"]["symbol"] for f in desk.sent("preview")] == ["MSFT"]
    dialog._limit.setText("x")
    dialog._kind.setCurrentIndex(1)
    assert dialog.preview.model.stale, "what is shown is about what was typed before"
    await until(lambda: "plain number" in dialog.preview.total.text())
    assert dialog.preview.model.rows == {}
    dialog._limit.setText("400")
    await until(lambda: dialog.preview.answer)
    desk.client.refuse = CommandRefused("SYMBOL_UNKNOWN", "nobody trades that", 422)
    dialog._symbol.setText("XYZ")
    await until(lambda: "nobody trades that" in dialog.preview.total.text())


async def test_a_double_press_sends_one_order(qtbot: QtBot, desk: DeskUnderTest) -> None:
    dialog = await open_ticket(qtbot, desk)
    dialog._symbol.setText("AAPL")
    gate = asyncio.Event()
    sent: list[dict[str, Any]] = []

    async def slowly(document: dict[str, Any]) -> dict[str, Any]:
        sent.append(document)
        await gate.wait()
        return {"signal_id": document["id"], "state": "accepted"}

    desk.client.send_signal = slowly
    for _ in range(3):
        qtbot.keyClick(dialog, Qt.Key.Key_Return, CTRL)
        qtbot.mouseClick(go(dialog), LEFT)
    await until(lambda: sent)
    await asyncio.sleep(0.02)
    gate.set()
    await until(lambda: closed(dialog))
    assert len(sent) == 1


async def test_without_an_answer_the_same_order_goes_again_to_the_letter(
    qtbot: QtBot, desk: DeskUnderTest
) -> None:
    dialog = await open_ticket(qtbot, desk)
    dialog._symbol.setText("AAPL")
    desk.client.refuse = CommandRefused("NO_ENGINE", "no answer in time", 503)
    qtbot.mouseClick(go(dialog), LEFT)
    await until(go(dialog).isEnabled)
    qtbot.mouseClick(go(dialog), LEFT)
    await until(lambda: len(desk.client.signals_sent) == 2)
    await until(go(dialog).isEnabled)
    first, second = desk.client.signals_sent
    assert first == second, "the engine knows the id and sends it once"
    # Changed, and still no word of the first: the same id, so that the engine refuses if it has it.
    dialog._symbol.setText("MSFT")
    qtbot.mouseClick(go(dialog), LEFT)
    await until(lambda: len(desk.client.signals_sent) == 3)
    await until(go(dialog).isEnabled)
    assert desk.client.signals_sent[2]["id"] == first["id"]
    desk.client.refuse = CommandRefused("SYMBOL", "no such symbol", 400)
    qtbot.mouseClick(go(dialog), LEFT)
    await until(lambda: len(desk.client.signals_sent) == 4)
    await until(go(dialog).isEnabled)
    desk.client.refuse = None
    qtbot.mouseClick(go(dialog), LEFT)
    await until(lambda: len(desk.client.signals_sent) == 5)
    assert desk.client.signals_sent[4]["id"] != first["id"], "it is known that nothing came of it"


@pytest.mark.parametrize(
    ("who", "audience"),
    [
        ("everybody", None),
        ("tag", {"tags": ["gold"]}),
        ("some", {"accounts": ["A-001", "A-002"]}),
    ],
)
async def test_the_ticket_addresses_one_a_group_or_everybody(
    qtbot: QtBot, desk: DeskUnderTest, who: str, audience: dict[str, Any] | None
) -> None:
    dialog = await open_ticket(qtbot, desk)
    dialog._symbol.setText("AAPL")
    dialog._who.setCurrentIndex(dialog._who.findData(who))
    dialog._tags.setCurrentText("gold")
    dialog._accounts.setText("A-001, A-002")
    qtbot.mouseClick(go(dialog), LEFT)
    await until(lambda: desk.client.signals_sent)
    assert desk.client.signals_sent[0].get("audience") == audience


async def test_a_resting_order_can_be_taken_back(qtbot: QtBot, desk: DeskUnderTest) -> None:
    dialog = await open_ticket(qtbot, desk)
    dialog._symbol.setText("AAPL")
    dialog._kind.setCurrentIndex(1)
    dialog._limit.setText("200")
    qtbot.mouseClick(go(dialog), LEFT)
    await until(desk.desk.undo.available)
    await until(lambda: closed(dialog))
    sent = desk.client.signals_sent[0]

    async def detail(key: str) -> dict[str, Any]:
        assert key == f"desk/{sent['id']}"
        return {
            "accounts": [
                {"account": "A-001", "outcome": "sent", "cl_ord_id": "A" * 20, "status": "new"},
                {"account": "A-002", "outcome": "sent", "cl_ord_id": "B" * 20, "status": "filled"},
                {"account": "A-003", "outcome": "held", "cl_ord_id": None, "status": None},
            ]
        }

    desk.client.signal_detail = detail
    await to_front(desk)
    qtbot.keyClick(desk.window, Qt.Key.Key_Z, CTRL)
    await until(lambda: desk.sent("cancel_order"))
    assert desk.sent("cancel_order") == [{"cl_ord_id": "A" * 20}]
    assert desk.sent("reject")[0]["signal"] == f"desk/{sent['id']}"
    valid(desk)


async def test_a_market_order_offers_no_undo(qtbot: QtBot, desk: DeskUnderTest) -> None:
    dialog = await open_ticket(qtbot, desk)
    dialog._symbol.setText("AAPL")
    qtbot.mouseClick(go(dialog), LEFT)
    await until(lambda: desk.desk.notifier.history)
    assert not desk.desk.undo.available(), "it may have filled: there is nothing honest to offer"


async def test_a_refused_ticket_stays_open_with_the_reason(
    qtbot: QtBot, desk: DeskUnderTest
) -> None:
    dialog = await open_ticket(qtbot, desk)
    dialog._symbol.setText("AAPL")

    async def refuse(document: dict[str, Any]) -> dict[str, Any]:
        return {
            "signal_id": document["id"],
            "state": "refused",
            "code": "HALTED",
            "message": "all is halted",
        }

    desk.client.send_signal = refuse
    qtbot.mouseClick(go(dialog), LEFT)
    await until(lambda: "all is halted" in dialog._error.text())
    assert dialog.isVisible()
    assert go(dialog).isEnabled()


async def test_an_approved_resting_order_can_be_taken_back(desk: DeskUnderTest) -> None:
    held = next(r for r in desk.client.tables[tables.SIGNALS].values() if r["state"] == "held")
    row = desk.client.change(
        tables.SIGNALS, held["key"], action="buy", order_type="limit", limit_price="1.00"
    )
    desk.frame()
    desk.view.select_key(row["key"])
    desk.client.answers["approve"] = {"orders": {"A-002": "C" * 20}}
    desk.desk.registry.run("signal.approve")
    await until(desk.desk.undo.available)

    async def detail(_key: str) -> dict[str, Any]:
        return {
            "accounts": [
                {"account": "A-001", "outcome": "sent", "cl_ord_id": "A" * 20, "status": "new"},
                {"account": "A-002", "outcome": "sent", "cl_ord_id": "C" * 20, "status": "new"},
                {"account": "A-003", "outcome": "held", "cl_ord_id": None, "status": None},
            ]
        }

    desk.client.signal_detail = detail
    desk.desk.undo.run()
    await until(lambda: desk.sent("cancel_order"))
    assert desk.sent("cancel_order") == [{"cl_ord_id": "C" * 20}], "only what the approval released"
    assert desk.sent("reject") == []
    valid(desk)


async def test_a_scope_paused_before_is_not_resumed_by_undo(desk: DeskUnderTest) -> None:
    panel = await show(desk, "positions")
    row = panel.model.rows[panel.model.order[0]]
    scope = f"account:{row['account']}"
    halt = {"scope": scope, "state": "reducing", "reason": "by ada", "at": None, "by": "ada"}
    desk.client.put(tables.HALTS, halt)
    desk.frame()
    panel.view.select_key(row["key"])
    desk.desk.registry.run("position.pause_account")
    await until(lambda: desk.desk.notifier.history)
    assert desk.sent("pause")
    assert not desk.desk.undo.available()
