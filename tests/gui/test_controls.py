"""Controls, limits, differences, alerts and the PIN, used as a person does, on the scripted desk."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import pytest
from PySide6.QtCore import Qt
from PySide6.QtWidgets import QLineEdit, QPushButton
from pytestqt.qtbot import QtBot
from shiboken6 import isValid

from engine.errors import CommandRefused
from engine.model import tables
from engine.model.controls import CONTROLS
from gui.panels.alerts import waits
from tests.gui.conftest import DeskUnderTest, active_now, until
from tests.gui.test_desk import button, opened, valid


def go(dialog: Any) -> QPushButton:
    found = dialog.findChild(QPushButton, "go")
    assert isinstance(found, QPushButton)
    return found


async def held(dialog: Any, fact: Callable[[], object]) -> None:
    """Hold the dialog's button until what it does has come true."""
    found = go(dialog)
    found.pressed.emit()
    await until(fact)
    if isValid(found):  # it stays open with a reason when it refused
        found.released.emit()


def texts(desk: DeskUnderTest, panel: str, column: str, view: str = "view") -> list[str]:
    table = getattr(desk.window.panels[panel], view).table
    at = [each.key for each in table.columns].index(column)
    return [table.index(row, at).data() for row in range(table.rowCount())]


# --- the thirty controls ----------------------------------------------------------------------


async def test_all_thirty_controls_are_shown_with_what_they_refused(desk: DeskUnderTest) -> None:
    desk.desk.show_panel("controls")
    assert texts(desk, "controls", "number") == [control.number for control in CONTROLS]
    states = texts(desk, "controls", "state")
    assert [states[20], states[23], states[9]] == ["■ Tripped", "▲ Failing", "○ Off"]
    desk.window.panels["controls"].tick()
    assert desk.window.panels["controls"].count.text() == "1 tripped · 3 limits above 80 %"


async def test_a_used_up_limit_has_a_mark_and_not_only_a_colour(desk: DeskUnderTest) -> None:
    shown = texts(desk, "controls", "percent", "second_view")
    assert shown == ["■ 100 %", "▲ 97 %", "▲ 85 %", "30 %"]
    assert texts(desk, "controls", "scope", "second_view")[1] == "The firm"


async def test_a_reviewed_strategy_goes_on(qtbot: QtBot, desk: DeskUnderTest) -> None:
    desk.desk.show_panel("controls")
    panel = desk.window.panels["controls"]
    assert not button(desk, "control.review").isEnabled()
    assert panel.second_view.select_key("account:A-002/max_orders_per_day")
    assert not button(desk, "control.review").isEnabled()
    assert panel.second_view.select_key("strategy:breakout/max_unreviewed")
    qtbot.mouseClick(button(desk, "control.review"), Qt.MouseButton.LeftButton)
    qtbot.mouseClick(go(opened(desk, "confirm")), Qt.MouseButton.LeftButton)
    await until(lambda: desk.sent("review"))
    assert desk.sent("review") == [{"strategy": "breakout"}]
    valid(desk.client.sent)


async def test_the_risk_layout_is_a_key_away(qtbot: QtBot, desk: DeskUnderTest) -> None:
    await active_now(desk.window)
    qtbot.keyClick(desk.window, Qt.Key.Key_4, Qt.KeyboardModifier.ControlModifier)
    await until(lambda: desk.window.layouts.now == "risk")
    assert desk.window.panels["controls"].isVisible()
    assert desk.window.panels["reconciliation"].isVisible()


# --- expected and actual ----------------------------------------------------------------------


async def select_difference(desk: DeskUnderTest, kind: str) -> dict[str, Any]:
    desk.desk.show_panel("reconciliation")
    rows = desk.client.tables[tables.DIFFERENCES].values()
    row = next(each for each in rows if each["kind"] == kind)
    assert desk.window.panels["reconciliation"].view.select_key(row["key"])
    await asyncio.sleep(0)
    return row


async def test_a_difference_is_adopted_after_its_facts_were_shown(
    qtbot: QtBot, desk: DeskUnderTest
) -> None:
    row = await select_difference(desk, "cash")
    assert not button(desk, "difference.repair").isEnabled()
    qtbot.mouseClick(button(desk, "difference.adopt"), Qt.MouseButton.LeftButton)
    dialog = opened(desk, "confirm")
    assert dict(dialog.subject["facts"])["At the broker"] == row["actual"]
    qtbot.mouseClick(go(dialog), Qt.MouseButton.LeftButton)
    await until(lambda: desk.sent("adopt"))
    assert desk.sent("adopt")[0]["key"] == row["key"]
    valid(desk.client.sent)


async def test_a_repair_is_held_not_clicked(qtbot: QtBot, desk: DeskUnderTest) -> None:
    row = await select_difference(desk, "position")
    qtbot.mouseClick(button(desk, "difference.repair"), Qt.MouseButton.LeftButton)
    dialog = opened(desk, "confirm")
    qtbot.mouseClick(go(dialog), Qt.MouseButton.LeftButton)
    await asyncio.sleep(0)
    assert not desk.sent("repair")
    await held(dialog, lambda: desk.sent("repair"))
    assert desk.sent("repair")[0]["key"] == row["key"]
    valid(desk.client.sent)


async def test_orders_of_others_are_counted(desk: DeskUnderTest) -> None:
    panel = desk.window.panels["reconciliation"]
    panel.tick()
    assert panel.summary.text() == "Orders of others: 1"
    assert texts(desk, "reconciliation", "symbol", "second_view") == ["NVDA"]


# --- limits -----------------------------------------------------------------------------------


async def limits_of(desk: DeskUnderTest, name: str) -> Any:
    desk.desk.show_panel("accounts")
    assert desk.window.panels["accounts"].view.select_key(name)
    desk.desk.registry.run("account.limits")
    return opened(desk, "limits")


def edit(dialog: Any, name: str) -> QLineEdit:
    found = dialog.findChild(QLineEdit, f"limit.{name}")
    assert isinstance(found, QLineEdit)
    return found


async def test_limits_are_changed_with_a_reason(qtbot: QtBot, desk: DeskUnderTest) -> None:
    name = next(iter(desk.client.tables[tables.ACCOUNTS]))
    desk.client.change(
        tables.ACCOUNTS, name, limits={"max_order_quantity": "500", "max_positions": 10}
    )
    desk.frame()
    dialog = await limits_of(desk, name)
    assert edit(dialog, "max_order_quantity").text() == "500"
    for key, value in (
        ("max_order_quantity", "50"),
        ("max_positions", ""),
        ("max_orders_per_day", "200"),
    ):
        edit(dialog, key).clear()
        qtbot.keyClicks(edit(dialog, key), value)
    await held(dialog, dialog._error.text)
    assert "reason" in dialog._error.text()
    assert not desk.sent("set_limits")
    dialog._reason.setText("half size this week")
    await held(dialog, lambda: desk.sent("set_limits"))
    assert desk.sent("set_limits") == [{
        "account": name,
        "limits": {"max_order_quantity": "50", "max_positions": None, "max_orders_per_day": 200},
        "reason": "half size this week",
    }]  # fmt: skip
    valid(desk.client.sent)


@pytest.mark.parametrize("wrong", ["-5", "NaN", "1e3", "x", "0"])
async def test_a_limit_that_is_no_number_is_refused_in_place(
    desk: DeskUnderTest, wrong: str
) -> None:
    dialog = await limits_of(desk, next(iter(desk.client.tables[tables.ACCOUNTS])))
    edit(dialog, "max_order_value").setText(wrong)
    dialog._reason.setText("why")
    await held(dialog, dialog._error.text)
    assert "Largest value of an order" in dialog._error.text()
    assert not desk.sent("set_limits")


async def test_a_count_is_a_whole_number(desk: DeskUnderTest) -> None:
    dialog = await limits_of(desk, next(iter(desk.client.tables[tables.ACCOUNTS])))
    edit(dialog, "max_orders_per_day").setText("1.5")
    await held(dialog, dialog._error.text)
    assert "not a whole number" in dialog._error.text()


# --- alerts -----------------------------------------------------------------------------------


async def test_alerts_are_acknowledged_by_key_and_all_at_once(
    qtbot: QtBot, desk: DeskUnderTest
) -> None:
    rows = desk.client.tables[tables.ALERTS]
    (open_one,) = [row["id"] for row in rows.values() if waits(row)]
    desk.desk.show_panel("alerts")
    view = desk.window.panels["alerts"].view
    await active_now(desk.window)
    assert view.select_key(open_one)
    view.setFocus()
    qtbot.keyClick(view, Qt.Key.Key_A)
    await until(lambda: desk.sent("acknowledge"))
    qtbot.mouseClick(button(desk, "alert.acknowledge_all"), Qt.MouseButton.LeftButton)
    await until(lambda: len(desk.sent("acknowledge")) == 2)
    assert desk.sent("acknowledge") == [{"alerts": [open_one]}] * 2
    valid(desk.client.sent)
    desk.client.change(tables.ALERTS, open_one, acknowledged_at=rows[open_one]["at"])
    desk.frame()
    desk.desk.registry.refresh()
    assert not button(desk, "alert.acknowledge_all").isEnabled()


# --- the PIN ----------------------------------------------------------------------------------


async def test_the_pin_is_asked_for_once_and_goes_with_the_command(
    qtbot: QtBot, desk: DeskUnderTest
) -> None:
    given: list[dict[str, Any]] = []

    async def command(name: str, **fields: Any) -> dict[str, Any]:
        given.append({"command": name, **fields})
        if fields.get("pin") != "4711":
            code = "PIN_WRONG" if "pin" in fields else "PIN_REQUIRED"
            raise CommandRefused(code, f"{name} needs the PIN of ada", 403)
        return {}

    desk.client.command = command  # type: ignore[method-assign]
    both = [
        asyncio.create_task(desk.desk.command("rearm", scope=f"account:A-{n}", reason="ok"))
        for n in (1, 2)
    ]
    await until(lambda: len(given) == 2)
    await asyncio.sleep(0)
    dialog = opened(desk, "pin")
    assert dialog._edit.echoMode() is QLineEdit.EchoMode.Password
    qtbot.keyClicks(dialog._edit, "0000")
    qtbot.keyClick(dialog._edit, Qt.Key.Key_Return)
    await until(lambda: len(given) == 4)
    await asyncio.sleep(0)
    dialog = next(d for d in desk.window.findChildren(type(dialog)) if d.isVisible())
    qtbot.keyClicks(dialog._edit, "4711")
    qtbot.keyClick(dialog._edit, Qt.Key.Key_Return)
    await asyncio.gather(*both)
    assert [fields.get("pin") for fields in given] == [None, None, "0000", "0000", "4711", "4711"]


async def test_without_a_pin_the_refusal_stands(desk: DeskUnderTest) -> None:
    desk.client.refuse = CommandRefused("PIN_REQUIRED", "rearm needs the PIN of ada", 403)
    asked = asyncio.create_task(desk.desk.command("rearm", scope="all", reason="ok"))
    await until(lambda: desk.sent("rearm"))
    await asyncio.sleep(0)
    opened(desk, "pin").reject()
    with pytest.raises(CommandRefused, match="needs the PIN"):
        await asked
    assert len(desk.sent("rearm")) == 1
