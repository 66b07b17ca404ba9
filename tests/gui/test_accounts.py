"""The fleet: seen at a glance, added up, changed many at once; by mouse and keys on the scripted desk."""

from __future__ import annotations

from datetime import timedelta
from decimal import Decimal
from typing import Any

import pytest
from PySide6.QtCore import QPoint, Qt
from PySide6.QtWidgets import QAbstractButton, QComboBox, QLineEdit
from pytestqt.qtbot import QtBot

from engine.model import tables
from gui.account_columns import InUse
from gui.dialogs.accounts import AccountsDialog
from gui.panels.accounts import AccountsPanel
from tests.gui.conftest import DeskUnderTest, active_now, until
from tests.gui.test_desk import button, opened, valid

LEFT = Qt.MouseButton.LeftButton


def panel_of(desk: DeskUnderTest) -> AccountsPanel:
    panel = desk.window.panels["accounts"]
    assert isinstance(panel, AccountsPanel)
    desk.desk.show_panel("accounts")
    return panel


def text(panel: AccountsPanel, account: str, column: str) -> str:
    keys = [c.key for c in panel.model.columns]
    return str(panel.model.index(panel.model.pos[account], keys.index(column)).data())


def tip(panel: AccountsPanel, account: str, column: str) -> str:
    keys = [c.key for c in panel.model.columns]
    index = panel.model.index(panel.model.pos[account], keys.index(column))
    return str(index.data(Qt.ItemDataRole.ToolTipRole.value))


def usage(account: str, limit: str, used: int, most: int) -> dict[str, Any]:
    return {
        "key": f"account:{account}/{limit}", "scope": f"account:{account}", "limit": limit, "used": str(used),
        "most": str(most), "percent": used * 100 // most, "unit": "money", "text": f"{used} of {most} money",
        "at": None,
    }  # fmt: skip


def choose(qtbot: QtBot, panel: AccountsPanel, rows: tuple[int, ...]) -> list[str]:
    """Select rows as one does: the first by a click, the others with Ctrl."""
    view = panel.group_view if panel.by else panel.view
    for at, row in enumerate(rows):
        held = Qt.KeyboardModifier.ControlModifier if at else Qt.KeyboardModifier.NoModifier
        where = view.visualRect(view.table.index(row, 1)).center()
        qtbot.mouseClick(view.viewport(), LEFT, held, QPoint(where))
    return view.chosen_keys()


async def test_money_stands_before_what_seldom_matters(desk: DeskUnderTest) -> None:
    titles = [column.title for column in panel_of(desk).model.columns[:9]]
    assert titles == [
        "On",
        "Account",
        "Link",
        "Equity",
        "Day P&L",
        "State",
        "Exposure",
        "Limits",
        "Rate left",
    ]


async def test_what_bears_on_an_account_is_seen_at_a_glance(desk: DeskUnderTest) -> None:
    panel = panel_of(desk)
    desk.client.change(
        tables.ACCOUNTS, "A-002", rate_left=0, rate_most=140, queue=3, state="halted"
    )
    desk.client.change(tables.ACCOUNTS, "A-003", rate_left=0, rate_most=140, queue=0)
    later = (desk.client.now + timedelta(seconds=30)).isoformat()
    desk.client.change(tables.ACCOUNTS, "A-004", rate_left=9, rate_most=140, paused_until=later)
    desk.client.tables[tables.USAGE].clear()
    desk.client.connect()
    desk.client.put(tables.USAGE, usage("A-002", "max_daily_loss", 85, 100))
    desk.client.put(tables.USAGE, usage("A-002", "max_positions", 3, 10))
    desk.client.put(tables.USAGE, usage("A-003", "max_open_value", 100, 100))
    desk.frame()
    assert text(panel, "A-002", "rate_left") == "▲ 0/140"  # orders wait for it
    assert text(panel, "A-003", "rate_left") == "0/140"  # used up for a moment, and nothing waits
    assert text(panel, "A-004", "rate_left") == "▲ 9/140"  # its broker asked for quiet
    assert text(panel, "A-002", "state") == "■ Halted"
    assert text(panel, "A-003", "state") == "Active"
    assert text(panel, "A-002", "used") == "▲ 85 %"
    assert text(panel, "A-003", "used") == "✕ 100 %"
    counted = {str(row["scope"]) for row in desk.client.tables[tables.USAGE].values()}
    free = next(name for name in panel.model.rows if f"account:{name}" not in counted)
    assert text(panel, free, "used") == ""
    assert tip(panel, "A-002", "used") == (
        "Daily loss: 85 of 100 money (85 %)\nPositions: 3 of 10 money (30 %)"
    )
    # As it is used less, it is shown so; a limit taken away is none.
    desk.client.put(tables.USAGE, usage("A-002", "max_daily_loss", 10, 100))
    desk.client.flush()
    desk.store.on_batch({}, {tables.USAGE: ["account:A-003/max_open_value"]})
    desk.store.frame()
    assert text(panel, "A-002", "used") == "30 %"
    assert text(panel, "A-003", "used") == ""


async def test_groups_have_their_totals_and_act_as_their_accounts(
    qtbot: QtBot, desk: DeskUnderTest
) -> None:
    panel = panel_of(desk)
    panel.picker.setFocus()
    qtbot.keyClick(panel.picker, Qt.Key.Key_Down)
    assert panel.by == "broker"
    rows = desk.client.tables[tables.ACCOUNTS]
    assert set(panel.groups.rows) == {row["broker"] for row in rows.values()}
    alpaca = [row for row in rows.values() if row["broker"] == "alpaca"]
    group = panel.groups.rows["alpaca"]
    assert group["rows"] == len(alpaca)
    assert group["equity"] == sum(Decimal(row["equity"]) for row in alpaca)
    assert group["day_pnl"] == sum(Decimal(row["day_pnl"]) for row in alpaca)
    assert group["up"] == sum(row["connection"] == "connected" for row in alpaca)
    name = alpaca[0]["id"]
    desk.client.change(tables.ACCOUNTS, name, day_pnl="1000000.00", connection="disconnected")
    desk.frame()
    after = panel.groups.rows["alpaca"]
    assert after["day_pnl"] == group["day_pnl"] - Decimal(alpaca[0]["day_pnl"]) + 1_000_000
    assert after["up"] == group["up"] - (alpaca[0]["connection"] == "connected")
    # Each account is in the group of each of its tags.
    desk.client.change(tables.ACCOUNTS, name, tags=["gold", "core"])
    desk.frame()
    panel.group_by("tags")
    assert {group: panel.groups.rows[group]["rows"] for group in panel.groups.rows} == {
        tag: sum(tag in row["tags"] for row in rows.values()) for tag in ("gold", "core")
    }
    [chosen] = choose(qtbot, panel, (0,))
    members = {row["id"] for row in rows.values() if chosen in row["tags"]}
    assert {row["id"] for row in panel.chosen()} == members
    desk.desk.registry.run("account.pause")
    await until(lambda: len(desk.sent("pause")) == len(members))
    assert {fields["scope"] for fields in desk.sent("pause")} == {f"account:{m}" for m in members}
    valid(desk.client.sent)


async def test_several_are_switched_by_one_command(qtbot: QtBot, desk: DeskUnderTest) -> None:
    panel = panel_of(desk)
    names = choose(qtbot, panel, (0, 1, 2))
    assert len(names) == 3
    desk.desk.registry.run("account.toggle")
    await until(lambda: desk.sent("set_accounts_active"))
    assert desk.sent("set_accounts_active") == [{"accounts": names, "active": False}]
    assert not desk.sent("set_account_active")
    valid(desk.client.sent)


async def change(qtbot: QtBot, desk: DeskUnderTest, rows: tuple[int, ...]) -> AccountsDialog:
    choose(qtbot, panel_of(desk), rows)
    desk.desk.registry.run("account.change")
    dialog = opened(desk, "accounts")
    assert isinstance(dialog, AccountsDialog)
    return dialog


async def held(qtbot: QtBot, dialog: AccountsDialog, fact: Any) -> None:
    """Hold the button that acts with Space, as one does without a mouse."""
    go = dialog.findChild(QAbstractButton, "go")
    assert isinstance(go, QAbstractButton)
    await active_now(dialog)
    go.setFocus()
    qtbot.keyPress(go, Qt.Key.Key_Space)
    await until(fact)
    if dialog.there():
        qtbot.keyRelease(go, Qt.Key.Key_Space)


def limit(dialog: AccountsDialog, name: str) -> QLineEdit:
    found = dialog.findChild(QLineEdit, f"limit.{name}")
    assert isinstance(found, QLineEdit)
    return found


def pick(qtbot: QtBot, box: QComboBox, value: str) -> None:
    box.setFocus()
    for _ in range(box.findData(value)):
        qtbot.keyClick(box, Qt.Key.Key_Down)
    assert box.currentData() == value


async def test_a_group_edit_sends_only_what_was_changed(qtbot: QtBot, desk: DeskUnderTest) -> None:
    desk.client.change(tables.ACCOUNTS, "A-001", limits={"max_order_value": "500"})
    desk.frame()
    dialog = await change(qtbot, desk, (0, 1, 3))
    assert dialog.windowTitle() == "Change 3 accounts"
    assert limit(dialog, "max_order_value").placeholderText() == "now none (2), 500 (1)"
    pick(qtbot, dialog._approval, "review")
    pick(qtbot, dialog._method, "percent_equity")
    qtbot.keyClicks(dialog._amount, "0.25")
    qtbot.keyClicks(limit(dialog, "max_order_value"), "2500")
    qtbot.keyClicks(limit(dialog, "max_positions"), "7")
    qtbot.keyClicks(limit(dialog, "max_daily_loss"), "None")
    await held(qtbot, dialog, dialog._error.text)
    assert "reason" in dialog._error.text()
    assert not desk.sent("set_account")
    qtbot.keyClicks(dialog._reason, "new mandate")
    await held(qtbot, dialog, lambda: desk.sent("set_account"))
    assert desk.sent("set_account") == [{
        "accounts": ["A-001", "A-002", "A-004"], "approval": "review",
        "sizing": {"method": "percent_equity", "percent": "0.25"},
        "limits": {"max_order_value": "2500", "max_positions": 7, "max_daily_loss": None},
        "reason": "new mandate",
    }]  # fmt: skip
    valid(desk.client.sent)


@pytest.mark.parametrize(
    ("method", "amount", "key", "value", "says"),
    [
        ("fixed", "", "", "", "needs a number"),
        ("fixed", "1e3", "", "", "plain number"),
        ("", "", "max_order_value", "-5", "plain number"),
        ("", "", "max_positions", "1.5", "not a whole number"),
        ("", "", "", "", "Nothing was changed"),
    ],
)
async def test_a_group_edit_says_what_is_wrong_in_place(
    qtbot: QtBot, desk: DeskUnderTest, method: str, amount: str, key: str, value: str, says: str
) -> None:
    dialog = await change(qtbot, desk, (0, 1))
    pick(qtbot, dialog._method, method)
    dialog._amount.setText(amount)
    if key:
        limit(dialog, key).setText(value)
    dialog._reason.setText("x")
    await held(qtbot, dialog, dialog._error.text)
    assert says in dialog._error.text()
    assert not desk.sent("set_account")
    dialog.close()


async def test_a_thousand_accounts(qtbot: QtBot, desk: DeskUnderTest) -> None:
    for number in range(20, 1000):
        desk.client.put(tables.ACCOUNTS, desk.client.account(number) | {"broker": f"b{number % 7}"})
        desk.client.put(tables.USAGE, usage(f"A-{number + 1:03d}", "max_daily_loss", number, 1000))
    desk.client.connect()
    desk.frame()
    panel = panel_of(desk)
    assert panel.model.rowCount() == 1000
    assert text(panel, "A-1000", "used") == "▲ 99 %"
    panel.filter.setText("A-99")
    assert panel.model.rowCount() == 10
    panel.filter.setText("")
    panel.view.selectAll()
    assert len(panel.chosen()) == 1000
    desk.desk.registry.run("account.toggle")
    await until(lambda: desk.sent("set_accounts_active"))
    assert len(desk.sent("set_accounts_active")[0]["accounts"]) == 1000
    panel.group_by("broker")
    assert sum(row["rows"] for row in panel.groups.rows.values()) == 1000
    desk.client.change(tables.ACCOUNTS, "A-1000", equity="5")
    desk.frame()
    total = sum(Decimal(row["equity"]) for row in desk.client.tables[tables.ACCOUNTS].values())
    assert sum(row["equity"] for row in panel.groups.rows.values()) == total
    qtbot.mouseClick(button(desk, "account.needs"), LEFT)
    needing = sum(row["rows"] for row in panel.groups.rows.values())
    assert 0 < needing < 1000


async def test_usage_of_strategies_and_the_firm_is_no_accounts(desk: DeskUnderTest) -> None:
    found = InUse(desk.desk)
    assert found.take(["all/max_daily_loss", "strategy:x/max_unreviewed"], ()) == set()
    assert found.take(["account:A:1/max_positions"], ()) == {"A:1"}
