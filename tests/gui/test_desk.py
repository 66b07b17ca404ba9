from __future__ import annotations

import asyncio
import json
from pathlib import Path
from typing import Any

import pytest
from PySide6.QtCore import QEvent, QPoint, Qt
from PySide6.QtGui import QKeyEvent, QPalette
from PySide6.QtWidgets import (
    QAbstractButton,
    QApplication,
    QComboBox,
    QLineEdit,
    QListWidget,
    QPlainTextEdit,
    QTableView,
    QWidget,
)
from pytestqt.qtbot import QtBot

from engine.errors import CommandRefused
from engine.model import tables
from engine.model.commands import parse_command
from engine.model.enums import ConnectionState
from gui import dialogs, panels
from gui.dialogs.base import Dialog, HoldButton
from gui.main_window import MainWindow
from gui.panel import Caption
from gui.theme import active
from tests.gui.conftest import DeskUnderTest, active_now, until

CTRL_SHIFT = Qt.KeyboardModifier.ControlModifier | Qt.KeyboardModifier.ShiftModifier
INTERACTIVE = (QAbstractButton, QLineEdit, QComboBox, QTableView, QListWidget, QPlainTextEdit)


def button(desk: DeskUnderTest, command: str) -> QAbstractButton:
    found = desk.window.findChild(QAbstractButton, command + ".button")
    assert found is not None, command
    return found


def opened(desk: DeskUnderTest, kind: str) -> Dialog:
    found = [w for w in desk.window.findChildren(dialogs.ALL[kind]) if w.isVisible()]
    assert len(found) == 1, kind
    return found[0]


def valid(sent: list[tuple[str, dict[str, Any]]]) -> None:
    """Every command the desk sends is one the engine takes."""
    for name, fields in sent:
        parse_command({**fields, "id": "x", "command": name})


async def select(desk: DeskUnderTest, state: str) -> dict[str, Any]:
    row = next(r for r in desk.client.tables[tables.SIGNALS].values() if r["state"] == state)
    assert desk.view.select_key(row["key"])
    await asyncio.sleep(0)
    return row


# --- signals ----------------------------------------------------------------------------------


@pytest.mark.parametrize(("command", "said"), [("approve", "Approved"), ("reject", "Rejected")])
async def test_a_held_signal_is_approved_or_rejected_by_a_click(
    qtbot: QtBot, desk: DeskUnderTest, command: str, said: str
) -> None:
    row = await select(desk, "held")
    qtbot.mouseClick(button(desk, f"signal.{command}"), Qt.MouseButton.LeftButton)
    await until(lambda: desk.sent(command))
    assert desk.sent(command) == [{"signal": row["key"]}]
    await until(lambda: desk.desk.notifier.history)
    assert desk.desk.notifier.history[-1].title.startswith(said)
    valid(desk.client.sent)


async def test_keys_act_on_the_selected_signal(qtbot: QtBot, desk: DeskUnderTest) -> None:
    row = await select(desk, "held")
    await active_now(desk.window)
    desk.view.setFocus()
    qtbot.keyClick(desk.view, Qt.Key.Key_A)
    await until(lambda: desk.sent("approve"))
    assert desk.sent("approve") == [{"signal": row["key"]}]


async def test_what_is_not_held_cannot_be_approved(desk: DeskUnderTest) -> None:
    await select(desk, "expired")
    assert not button(desk, "signal.approve").isEnabled()
    desk.desk.registry.run("signal.approve")
    assert desk.client.acted == []


async def test_a_refusal_is_told_with_its_code(desk: DeskUnderTest) -> None:
    await select(desk, "held")
    desk.client.refuse = CommandRefused("EXPIRED", "The review was over.", 409)
    desk.desk.registry.run("signal.approve")
    await until(lambda: desk.desk.notifier.history)
    notice = desk.desk.notifier.history[-1]
    assert notice.severity == "warning"
    assert "The review was over." in notice.text
    assert "EXPIRED" in notice.text


async def test_cancel_takes_the_working_orders_of_this_signal_only(desk: DeskUnderTest) -> None:
    orders = desk.client.tables[tables.ORDERS].values()
    order = next(r for r in orders if r["status"] == "new")
    key = f"{order['source']}/{order['signal_id']}"
    expected = {
        r["cl_ord_id"]
        for r in orders
        if r["signal_id"] == order["signal_id"]
        and r["status"] in {"new", "partially_filled", "pending_new"}
    }
    desk.view.select_key(key)
    desk.desk.registry.run("signal.cancel")
    await until(lambda: len(desk.sent("cancel_order")) == len(expected))
    assert {fields["cl_ord_id"] for fields in desk.sent("cancel_order")} == expected
    valid(desk.client.sent)


async def test_close_asks_with_facts_then_closes_each_position(
    qtbot: QtBot, desk: DeskUnderTest
) -> None:
    signal = await select(desk, "accepted")
    accounts = list(desk.client.tables[tables.ACCOUNTS])[:3]
    for account in accounts:
        desk.client.order(signal, account, "filled", desk.client.now)
        desk.client.position(account, signal["symbol"], 10)
    desk.frame()
    expected = {
        r["account"] for r in desk.client.tables[tables.ORDERS].values()
        if r["signal_id"] == signal["id"] and r["status"] != "denied"
        and f"{r['account']}/{signal['symbol']}" in desk.client.tables[tables.POSITIONS]
    }  # fmt: skip
    assert set(accounts) <= expected
    desk.desk.registry.run("signal.close")
    dialog = opened(desk, "confirm")
    assert desk.client.acted == []
    qtbot.mouseClick(dialog.findChild(QAbstractButton, "go"), Qt.MouseButton.LeftButton)
    await until(lambda: len(desk.sent("close_position")) == len(expected))
    assert {fields["account"] for fields in desk.sent("close_position")} == expected
    valid(desk.client.sent)


async def test_force_needs_an_account_and_a_reason(desk: DeskUnderTest) -> None:
    row = await select(desk, "accepted")
    desk.desk.registry.run("signal.force")
    dialog = opened(desk, "force")
    await until(lambda: dialog.accounts.count() and dialog.accounts.item(0).data(0x0100))
    go = dialog.findChild(QAbstractButton, "go")
    go.click()
    assert desk.client.acted == []
    dialog.accounts.item(0).setCheckState(Qt.CheckState.Checked)
    dialog._reason.setText("news priced in")
    go.click()
    await until(lambda: desk.sent("force"))
    account = (
        dialog.accounts.item(0).data(0x0100)
        if desk.sent("force") is None
        else desk.sent("force")[0]["accounts"][0]
    )
    assert desk.sent("force") == [
        {"signal": row["key"], "accounts": [account], "reason": "news priced in"}
    ]
    valid(desk.client.sent)


async def test_approve_with_changes_sends_only_what_changed(desk: DeskUnderTest) -> None:
    row = await select(desk, "held")
    desk.desk.registry.run("signal.approve_edit")
    dialog = opened(desk, "approve")
    await until(lambda: dialog.accounts.count() and dialog.accounts.item(0).data(0x0100))
    dialog._scale.setText("50")
    dialog._stop.setText("1e5")
    go = dialog.findChild(QAbstractButton, "go")
    go.click()
    assert desk.sent("approve") == [], "an exponent is no plain number"
    dialog._stop.setText("99.80")
    dialog.accounts.item(0).setCheckState(Qt.CheckState.Unchecked)
    left = [dialog.accounts.item(at).data(0x0100) for at in range(1, dialog.accounts.count())]
    go.click()
    await until(lambda: desk.sent("approve"))
    assert desk.sent("approve") == [
        {"signal": row["key"], "scale": "0.5", "stop_loss": "99.8", "accounts": left}
    ]
    valid(desk.client.sent)


async def test_the_review_says_how_long_the_fan_out_would_take(desk: DeskUnderTest) -> None:
    row = await select(desk, "held")
    column = [column.key for column in desk.view.table.columns].index("predicted_finish_ms")
    at = desk.view.table.index(desk.view.table.pos[row["key"]], column)
    assert at.data() == "▲2  1.4 s"
    said = "The last of 4 orders leaves in about 1.4 s; 2 accounts have no free connection now"
    assert at.data(Qt.ItemDataRole.ToolTipRole.value) == said
    desk.desk.registry.run("signal.approve_edit")
    dialog = opened(desk, "approve")
    await until(dialog.finish.text)
    count = dialog.accounts.count()
    assert count > 1
    assert dialog.finish.text() == said.replace("of 4 orders", f"of {count} orders")
    # As accounts are ticked off, the time holds for more orders than these; who is away is named.
    away = dialog.accounts.item(0).data(0x0100)
    desk.client.change(tables.ACCOUNTS, away, connection="disconnected")
    dialog.accounts.item(1).setCheckState(Qt.CheckState.Unchecked)
    desk.frame()
    await until(lambda: "not connected" in dialog.finish.text())
    less = "order leaves" if count == 2 else f"last of {count - 1} orders leaves"
    assert dialog.finish.text() == (
        f"The {less} in at most 1.4 s; ▲ 1 account is not connected: {away}"
    )
    # As the limits move, so does what is said.
    desk.client.change(tables.SIGNALS, row["key"], predicted_finish_ms=0, predicted_cold=0)
    desk.frame()
    await until(lambda: "at once" in dialog.finish.text())
    assert at.data() == "at once"


async def test_detail_shows_every_account_with_its_reason(desk: DeskUnderTest) -> None:
    panel = desk.window.panels["signal_detail"]
    row = await select(desk, "accepted")
    await until(lambda: panel.key == row["key"] and panel.model.rows)
    assert len(panel.model.rows) == len(desk.client.tables[tables.ACCOUNTS])
    reasons = {panel.model.index(at, 2).data() for at in range(panel.model.rowCount())}
    assert "Not subscribed" in reasons
    assert '"id"' in panel._raw.toPlainText()
    assert panel._fall.trace["last_ack"] == 8_790_000


# --- the kill switch --------------------------------------------------------------------------


async def test_kill_acts_on_the_press(qtbot: QtBot, desk: DeskUnderTest) -> None:
    kill = button(desk, "trading.kill")
    assert kill.isVisible()
    qtbot.mousePress(kill, Qt.MouseButton.LeftButton)
    await until(lambda: desk.sent("kill"))
    assert desk.sent("kill")[0]["scope"] == "all"
    assert desk.sent("kill")[0]["flatten"] is False
    qtbot.mouseRelease(kill, Qt.MouseButton.LeftButton)
    await asyncio.sleep(0.02)
    assert len(desk.sent("kill")) == 1
    valid(desk.client.sent)


@pytest.mark.parametrize("place", ["window", "filter", "dialog"])
async def test_the_kill_key_works_wherever_one_types(
    qtbot: QtBot, desk: DeskUnderTest, place: str
) -> None:
    await active_now(desk.window)
    target: QWidget = desk.window
    if place == "filter":
        target = desk.window.panels["signals"].filter
    elif place == "dialog":
        desk.desk.registry.run("order.ticket")
        dialog = opened(desk, "ticket")
        assert not dialog.isModal()
        target = dialog._symbol
        await active_now(dialog)
    target.setFocus()
    qtbot.keyClick(target, Qt.Key.Key_K, CTRL_SHIFT)
    await until(lambda: desk.sent("kill"))


async def test_a_held_kill_key_is_one_kill(qtbot: QtBot, desk: DeskUnderTest) -> None:
    await active_now(desk.window)
    qtbot.keyPress(desk.window, Qt.Key.Key_K, CTRL_SHIFT)
    for _ in range(5):
        QApplication.sendEvent(
            desk.window, QKeyEvent(QEvent.Type.KeyPress, Qt.Key.Key_K, CTRL_SHIFT, "", autorep=True)
        )
    await until(lambda: desk.sent("kill"))
    await asyncio.sleep(0.02)
    assert len(desk.sent("kill")) == 1


async def test_the_kill_key_works_in_an_open_menu(qtbot: QtBot, desk: DeskUnderTest) -> None:
    menu = desk.window.menuBar().actions()[1].menu()
    menu.popup(desk.window.mapToGlobal(QPoint(50, 50)))
    qtbot.keyClick(menu, Qt.Key.Key_K, CTRL_SHIFT)
    await until(lambda: desk.sent("kill"))
    menu.close()


async def test_a_kill_nobody_heard_is_said_and_sent_again(desk: DeskUnderTest) -> None:
    desk.client.refuse = CommandRefused("NO_ENGINE", "no answer", 503)
    desk.desk.registry.run("trading.kill")
    await until(lambda: desk.window.banner.shown == "kill")
    assert "NOT CONFIRMED" in desk.window.banner.conditions["kill"].text
    desk.client.refuse = None
    desk.store.on_link(ConnectionState.DISCONNECTED, "gone")
    desk.store.on_link(ConnectionState.CONNECTED, "back")
    await until(lambda: len(desk.sent("kill")) == 2 and "kill" not in desk.window.banner.conditions)


async def test_a_kill_unanswered_for_a_second_takes_the_second_road(
    desk: DeskUnderTest, monkeypatch: pytest.MonkeyPatch
) -> None:
    answer = asyncio.Event()

    async def hangs(_command: str, **_fields: Any) -> dict[str, Any]:
        await answer.wait()
        return {}

    roads: list[bool] = []
    monkeypatch.setattr(desk.client, "command", hangs)
    desk.window.second_road = roads.append
    desk.desk.registry.run("trading.kill")
    await until(lambda: roads == [False])
    assert "has not answered yet" in desk.window.banner.conditions["kill"].text
    desk.window.kill_latched()
    assert "left in the home" in desk.window.banner.conditions["kill"].text
    answer.set()
    await until(lambda: "kill" not in desk.window.banner.conditions)


async def test_the_progress_of_a_kill_comes_to_the_front(desk: DeskUnderTest) -> None:
    desk.client.killed()
    desk.frame()
    risk = desk.window.panels["risk"]
    await until(risk.isVisible)
    desk.window.tick()
    assert "accounts done" in risk.summary.text()
    assert desk.window.banner.shown == "halted"
    assert "HALTED" in desk.window.top_bar.trading.text
    left = [risk.second.rows[key]["working"] for key in risk.second.order]
    assert left == sorted(left, reverse=True)


# --- arming -----------------------------------------------------------------------------------


async def test_arming_needs_a_reason_and_a_held_button(desk: DeskUnderTest) -> None:
    desk.client.put(tables.ENGINE, desk.client.engine(trading="disarmed"))
    desk.frame()
    desk.desk.registry.run("trading.arm")
    dialog = opened(desk, "rearm")
    go = dialog.findChild(HoldButton, "go")
    go.click()
    await asyncio.sleep(0.05)
    assert desk.client.acted == []
    go._act()
    assert desk.client.acted == [], "no reason"
    dialog._reason.setText("start of day")
    go.setEnabled(True)
    go.setDown(True)
    go.pressed.emit()
    await until(lambda: desk.sent("rearm"))
    assert desk.sent("rearm") == [{"scope": "all", "reason": "start of day"}]
    valid(desk.client.sent)


async def test_disarming_asks_nothing(desk: DeskUnderTest) -> None:
    desk.desk.registry.run("trading.arm")
    await until(lambda: desk.sent("disarm"))
    valid(desk.client.sent)


# --- orders, positions, accounts --------------------------------------------------------------


async def test_orders_are_cancelled_replaced_and_resolved(desk: DeskUnderTest) -> None:
    panel = desk.window.panels["orders"]
    order = next(r for r in desk.client.tables[tables.ORDERS].values() if r["status"] == "new")
    panel.view.select_key(order["cl_ord_id"])
    desk.desk.registry.run("order.cancel")
    await until(lambda: desk.sent("cancel_order"))
    desk.desk.registry.run("order.replace")
    dialog = opened(desk, "replace")
    dialog._edits["order_qty"].setText("77")
    dialog.findChild(QAbstractButton, "go").click()
    await until(lambda: desk.sent("replace_order"))
    assert desk.sent("replace_order") == [{"cl_ord_id": order["cl_ord_id"], "order_qty": "77"}]
    desk.client.change(tables.ORDERS, order["cl_ord_id"], status="unknown")
    desk.frame()
    panel.view.select_key(order["cl_ord_id"])
    assert not desk.desk.registry.commands["order.cancel"].enabled()
    desk.desk.registry.run("order.resolve")
    opened(desk, "resolve").findChild(QAbstractButton, "go").click()
    await until(lambda: desk.sent("resolve_unknown"))
    assert desk.sent("resolve_unknown") == [{"cl_ord_id": order["cl_ord_id"], "exists": True}]
    valid(desk.client.sent)


async def test_one_position_closes_at_once_and_stops_are_set(desk: DeskUnderTest) -> None:
    panel = desk.window.panels["positions"]
    key = panel.model.order[0]
    row = panel.model.rows[key]
    panel.view.select_key(key)
    desk.desk.registry.run("position.half")
    await until(lambda: desk.sent("close_position"))
    assert desk.sent("close_position") == [
        {"account": row["account"], "symbol": row["symbol"], "fraction": "0.5"}
    ]
    desk.desk.registry.run("position.stops")
    dialog = opened(desk, "stops")
    dialog._stop.setText("")
    dialog._profit.setText("300.50")
    dialog._trail.setText("2.50")
    dialog.findChild(QAbstractButton, "go").click()
    await until(lambda: desk.sent("set_stops"))
    assert desk.sent("set_stops")[0] == {
        "account": row["account"], "symbol": row["symbol"], "stop_loss": None, "take_profit": "300.5",
        "trail_percent": "2.5",
    }  # fmt: skip
    valid(desk.client.sent)


async def test_flattening_is_held_not_clicked(desk: DeskUnderTest) -> None:
    desk.desk.registry.run("position.flatten_all")
    dialog = opened(desk, "confirm")
    go = dialog.findChild(HoldButton, "go")
    go.click()
    await asyncio.sleep(0.05)
    assert desk.client.acted == []
    go.pressed.emit()
    await until(lambda: desk.sent("flatten"))
    valid(desk.client.sent)


async def test_a_flat_position_is_not_shown(desk: DeskUnderTest) -> None:
    panel = desk.window.panels["positions"]
    before = panel.model.rowCount()
    desk.client.position("A-001", "META", 0)
    desk.frame()
    assert panel.model.rowCount() in {before, before - 1}
    assert all(panel.model.rows[key]["qty"] != "0" for key in panel.model.order)


async def test_the_switch_moves_when_the_engine_says_so(qtbot: QtBot, desk: DeskUnderTest) -> None:
    view = desk.window.panels["accounts"].view
    key = view.table.order[0]
    was = view.table.rows[key]["active"]
    where = view.visualRect(view.table.index(0, 0)).center()
    qtbot.mouseClick(view.viewport(), Qt.MouseButton.LeftButton, pos=where)
    await until(lambda: desk.sent("set_account_active"))
    assert desk.sent("set_account_active") == [{"account": key, "active": not was}]
    assert view.table.index(0, 0).data() == ("On" if was else "Off"), (
        "nothing is shown before it is so"
    )
    desk.client.change(tables.ACCOUNTS, key, active=not was)
    desk.frame()
    assert view.table.index(0, 0).data() == ("Off" if was else "On")
    valid(desk.client.sent)


async def test_accounts_that_need_something_are_shown_alone_and_say_what(
    qtbot: QtBot, desk: DeskUnderTest
) -> None:
    panel = desk.window.panels["accounts"]
    everybody = list(panel.model.order)
    todo = {key for key, row in panel.model.rows.items() if row["todo"]}
    assert todo
    qtbot.mouseClick(button(desk, "account.needs"), Qt.MouseButton.LeftButton)
    shown = set(panel.model.order)
    assert todo <= shown < set(everybody)
    healthy = next(key for key in everybody if key not in shown and panel.model.rows[key]["active"])
    desk.client.change(
        tables.ACCOUNTS, healthy, todo="log it in again", session_expires_at="2026-11-23T00:30:00Z"
    )
    desk.frame()
    assert healthy in panel.model.order
    keys = [column.key for column in panel.model.columns]
    at = panel.model.index(panel.model.pos[healthy], keys.index("ready"))
    tip = at.data(Qt.ItemDataRole.ToolTipRole.value)
    assert "To do: log it in again" in tip
    assert "Connections: 2/2" in tip
    assert "Session ends: 2026-11-2" in tip
    button(desk, "account.needs").click()
    assert panel.model.order == everybody


async def test_the_ticket_makes_a_signal(desk: DeskUnderTest) -> None:
    desk.desk.registry.run("order.ticket")
    dialog = opened(desk, "ticket")
    dialog._symbol.setText("aapl")
    dialog._kind.setCurrentIndex(1)
    go = dialog.findChild(QAbstractButton, "go")
    go.click()
    assert desk.client.signals_sent == [], "a limit order needs its price"
    dialog._limit.setText("101.250")
    dialog._quantity.setText("10")
    go.click()
    await until(lambda: desk.client.signals_sent)
    document = desk.client.signals_sent[0]
    expected = {
        "source": "desk", "symbol": "AAPL", "action": "buy", "order_type": "limit", "limit_price": "101.25",
        "quantity": "10", "time_in_force": "day", "strategy": "manual",
    }  # fmt: skip
    assert {name: document[name] for name in expected} == expected
    assert set(document) - set(expected) == {"id", "issued_at"}


# --- link, banners, status --------------------------------------------------------------------


async def test_a_lost_link_greys_and_says_so(desk: DeskUnderTest) -> None:
    desk.store.on_link(ConnectionState.DISCONNECTED, "connection reset")
    assert desk.view.table.stale
    assert desk.window.banner.shown == "link"
    assert not desk.desk.registry.commands["trading.arm"].enabled()
    assert desk.desk.registry.commands["trading.kill"].enabled(), "kill is always offered"
    assert "Unknown" in desk.window.top_bar.trading.text
    desk.client.connect()
    assert not desk.view.table.stale
    assert "link" not in desk.window.banner.conditions


async def test_the_bars_tell_what_the_engine_says(desk: DeskUnderTest) -> None:
    engine = desk.client.engine(day_pnl="-1234.50", unknown_orders=2)
    desk.client.put(tables.ENGINE, engine)
    desk.frame()
    desk.window.tick()
    assert desk.window.top_bar.pnl._value.text() == "▼ \u22121\u202f234.50"
    assert desk.window.status._cells["unknown"].isVisible()
    assert desk.window.banner.shown == "unknown"
    assert (
        f"{engine['connected']}/{engine['accounts']}" in desk.window.status._cells["brokers"].text()
    )


async def test_live_is_said_as_soon_as_one_account_is(desk: DeskUnderTest) -> None:
    assert desk.window.top_bar.mode.text == "PAPER"
    desk.client.change(tables.ACCOUNTS, "A-002", environment="live")
    desk.frame()
    desk.window.tick()
    assert desk.window.top_bar.mode.text == "LIVE"


async def test_a_row_of_a_newer_engine_harms_nobody(desk: DeskUnderTest) -> None:
    desk.store.on_batch(
        {"weather": [{"key": "x"}], tables.SIGNALS: [{"key": "s/1", "state": "new_state"}]},
        {"weather": ["x"]},
    )
    desk.store.frame()
    desk.window.tick()
    assert "s/1" in desk.view.table.pos


# --- palette, keyboard, accessibility ---------------------------------------------------------


async def test_every_command_is_in_the_palette_and_has_words(desk: DeskUnderTest) -> None:
    desk.desk.registry.run("desk.palette")
    palette = opened(desk, "palette")
    assert palette.list.count() == len(desk.desk.registry.commands)
    palette.search("theme")
    assert palette.list.item(0).data(0x0101) == "view.theme"
    before = active().tokens.name
    palette._run()
    assert active().tokens.name != before


async def test_shortcuts_are_unique_where_they_meet(desk: DeskUnderTest) -> None:
    seen: dict[tuple[int, str], str] = {}
    for command in desk.desk.registry.commands.values():
        for key in filter(None, command.shortcut.split(" | ")):
            place = (id(command.scope), key)
            assert place not in seen, f"{key}: {command.id} and {seen.get(place)}"
            seen[place] = command.id
            if command.scope is not None:
                assert (id(None), key) not in seen
    for action in desk.desk.registry.actions.values():
        assert not (action.shortcut().toString() and action.autoRepeat())


async def test_everything_one_can_touch_has_a_name(desk: DeskUnderTest) -> None:
    def nameless(root: QWidget) -> list[str]:
        widgets = [w for kind in INTERACTIVE for w in root.findChildren(kind)]
        own = [
            w
            for w in widgets
            if not w.objectName().startswith("qt_")
            and type(w).__module__.startswith(("gui", "PySide6"))
        ]
        inner = {"ScrollLeftButton", "ScrollRightButton", "qt_spinbox_lineedit"}
        return [
            f"{type(w).__name__} {w.objectName()}" for w in own
            if not w.accessibleName() and w.objectName() not in inner and type(w).__name__ not in
            {"QToolButton", "QComboBoxListView", "QTableCornerButton"} and not _inside(w)
        ]  # fmt: skip

    assert nameless(desk.window) == []
    held = await select(desk, "held")
    order = next(iter(desk.client.tables[tables.ORDERS].values()))
    subjects: dict[str, dict[str, Any]] = {
        "approve": {"signal": held}, "force": {"signal": held},
        "replace": {"order": order}, "resolve": {"order": order}, "why": {"order": order},
        "close_part": {"position": next(iter(desk.client.tables[tables.POSITIONS].values()))},
        "scope": {"act": "pause"},
        "rearm": {"scope": "all", "state": "disarmed"}, "token": {"url": "ws://h:1", "answer": str},
        "stops": {"position": next(iter(desk.client.tables[tables.POSITIONS].values()))},
        "confirm": {"title": "t", "facts": [], "go": "Go", "run": None, "danger": 2},
        "log_in": {"account": next(iter(desk.client.tables[tables.ACCOUNTS].values()))},
        "limits": {"account": next(iter(desk.client.tables[tables.ACCOUNTS].values()))},
        "pin": {"text": "rearm needs the PIN", "answer": str},
        "note": {"on": "order", "key": order["cl_ord_id"], "name": "an order", "row": order},
        "recording": {"home": "nowhere"}, "rerun": {"home": "nowhere"},
        "save_view": {"title": "Signals", "save": str},
    }  # fmt: skip
    for name in dialogs.ALL:
        desk.window.open_dialog(name, subjects.get(name, {}))
        dialog = opened(desk, name)
        assert dialog.accessibleName(), name
        assert nameless(dialog) == [], name
        dialog.close()
    # Closed before the engine answered: nothing of them fails, and nobody is told that it did.
    await asyncio.sleep(0.1)
    assert [n for n in desk.desk.notifier.history if n.severity == "critical"] == []


def _inside(widget: QWidget) -> bool:
    """Parts of a composite widget speak through it."""
    parent = widget.parentWidget()
    return isinstance(parent, (QLineEdit, QComboBox)) or type(parent).__name__ in {
        "QComboBoxPrivateContainer",
        "QTabBar",
    }


async def test_panels_have_constant_names_and_all_are_docked(desk: DeskUnderTest) -> None:
    assert [panel.NAME for panel in panels.ALL] == [
        "signals", "signal_detail", "orders", "unknown", "positions", "fills", "alerts", "accounts",
        "eligibility", "todo", "risk", "controls", "reconciliation", "heat_map", "price", "latency",
        "throughput", "pnl",
    ]  # fmt: skip
    for name, dock in desk.window.docks.items():
        assert dock.objectName() == f"dock.{name}"


@pytest.mark.parametrize("preset", ["trade", "review", "latency", "risk"])
async def test_presets_keep_every_panel(desk: DeskUnderTest, preset: str) -> None:
    desk.desk.registry.run(f"layout.{preset}")
    await asyncio.sleep(0.02)
    assert all(not dock.isHidden() for dock in desk.window.docks.values())
    assert desk.view.isVisible() or preset in {"latency", "risk"}


async def test_themes_switch_while_running(desk: DeskUnderTest) -> None:
    desk.desk.registry.run("view.theme")
    assert active().tokens.name == "light"
    desk.desk.registry.run("view.blue_orange")
    desk.desk.registry.run("view.larger")
    assert (active().blue_orange, active().scale) == (True, 110)
    for caption in desk.window.findChildren(Caption):  # no label keeps the other theme's ink
        ink = caption.palette().color(QPalette.ColorRole.WindowText)
        assert ink == active().colors[caption._tone], caption.text()
    desk.client.step(50)
    desk.frame()
    desk.window.tick()


# --- layout -----------------------------------------------------------------------------------


async def test_layout_is_remembered(qtbot: QtBot, desk: DeskUnderTest, tmp_path: Path) -> None:
    first = desk.window
    first.panels["orders"].view.show_column(3, False)
    first.panels["fills"].filter.setText("AAPL")
    first.docks["pnl"].hide()
    first.settings.change(theme="light")
    first.save_layout()
    document = json.loads((tmp_path / "layout.json").read_text("utf-8"))
    assert document["preset"] == "trade"
    kept = json.loads((tmp_path / "preferences.json").read_text("utf-8"))
    assert kept["theme"] == "light"
    second = MainWindow(tmp_path)
    qtbot.addWidget(second)
    second.show()
    second.build()
    await until(lambda: second.panels["fills"].filter.text() == "AAPL")
    assert second.panels["orders"].view.isColumnHidden(3)
    assert second.docks["pnl"].isHidden()
    assert not second.docks["signals"].isHidden()
    second.closing = True


@pytest.mark.parametrize(
    "content", ["", "{", "[]", '{"version": 99}', '{"version": 2, "panels": {"orders": 3}}']
)
async def test_a_broken_layout_file_is_the_default(
    qtbot: QtBot, tmp_path: Path, content: str
) -> None:
    (tmp_path / "layout.json").write_text(content, "utf-8")
    window = MainWindow(tmp_path)
    qtbot.addWidget(window)
    window.show()
    window.build()
    await asyncio.sleep(0.02)
    assert window.docks["signals"].isVisible()
    window.closing = True


# --- words, and the end -----------------------------------------------------------------------


async def test_what_the_desk_says_stays_among_the_alerts(desk: DeskUnderTest) -> None:
    desk.desk.say("warning", "Cancel 1 order", "Too late. (409)")
    desk.store.frame()
    panel = desk.window.panels["alerts"]
    texts = [row["text"] for row in panel.model.rows.values()]
    assert "Cancel 1 order. Too late. (409)" in texts
    desk.client.connect()
    desk.store.frame()
    assert "Cancel 1 order. Too late. (409)" in [row["text"] for row in panel.model.rows.values()]


async def test_a_new_critical_alert_is_shown_but_a_snapshot_is_not_shouted(
    desk: DeskUnderTest,
) -> None:
    assert desk.window.toaster.toasts == []
    alert = {"id": "al-9", "at": "2026-11-22T14:30:00Z", "severity": "critical", "area": "session",
             "code": None, "account": "A-003", "text": "credentials refused"}  # fmt: skip
    desk.client.put(tables.ALERTS, alert)
    desk.frame()
    assert [toast.notice.title for toast in desk.window.toaster.toasts] == ["Session A-003"]


async def test_at_most_three_toasts_and_the_same_one_is_counted(desk: DeskUnderTest) -> None:
    for number in range(5):
        desk.desk.say("info", f"notice {number}")
    desk.desk.say("info", "notice 4")
    toasts = desk.window.toaster.toasts
    assert [toast.notice.title for toast in toasts] == ["notice 2", "notice 3", "notice 4"]
    assert toasts[-1].notice.times == 2


async def test_closing_a_trading_desk_asks_once(qtbot: QtBot, desk: DeskUnderTest) -> None:
    ended: list[bool] = []
    desk.window.close_wanted.connect(lambda: ended.append(True))
    desk.window.stops_engine = True
    desk.desk.registry.run("desk.quit")
    dialog = opened(desk, "confirm")
    assert ended == []
    dialog.reject()
    desk.desk.registry.run("desk.quit")
    await until(
        lambda: [w for w in desk.window.findChildren(dialogs.ALL["confirm"]) if w.isVisible()]
    )
    opened(desk, "confirm").findChild(QAbstractButton, "go").click()
    await until(lambda: ended)


async def test_a_demo_closes_without_a_question(desk: DeskUnderTest) -> None:
    ended: list[bool] = []
    desk.window.close_wanted.connect(lambda: ended.append(True))
    desk.window.close()
    assert ended == [True]
    assert desk.window.isVisible(), "the application takes it down when all has stopped"
