"""The review of a held signal as a person does it: keys alone, drift confirmed with the price seen, a canary first."""

from __future__ import annotations

from typing import Any

from PySide6.QtCore import Qt
from PySide6.QtWidgets import QAbstractButton, QApplication
from pytestqt.qtbot import QtBot

from engine.errors import CommandRefused
from engine.model import tables
from gui.dialogs.review import ApproveDialog
from tests.gui.conftest import DeskUnderTest, until
from tests.gui.test_desk import opened, select, valid

Key = Qt.Key
CONTROL = Qt.KeyboardModifier.ControlModifier


async def focused(desk: DeskUnderTest) -> None:
    desk.window.activateWindow()
    desk.view.setFocus()
    await until(desk.view.hasFocus)


async def reviewing(desk: DeskUnderTest) -> ApproveDialog:
    """Press Shift+A on the selected signal and wait for its accounts."""
    desk.desk.registry.run("signal.approve_edit")
    dialog = opened(desk, "approve")
    assert isinstance(dialog, ApproveDialog)
    await until(dialog.accounts.items_known)
    dialog.activateWindow()
    await until(lambda: dialog.focusWidget() is not None)
    return dialog


def names(dialog: ApproveDialog) -> list[str]:
    return [item.data(0x0100) for item in dialog.accounts.items_known()]


def orders_sent(desk: DeskUnderTest) -> list[dict[str, Any]]:
    valid(desk.client.sent)
    return desk.sent("approve")


async def test_shift_a_edits_and_approves_by_keyboard_alone(
    qtbot: QtBot, desk: DeskUnderTest
) -> None:
    row = await select(desk, "held")
    await focused(desk)
    qtbot.keyClick(desk.view, Key.Key_A, Qt.KeyboardModifier.ShiftModifier)
    await until(lambda: desk.window.findChildren(ApproveDialog))
    dialog = opened(desk, "approve")
    await until(dialog.accounts.items_known)
    everybody = names(dialog)
    assert len(everybody) >= 2
    assert dialog.focusWidget() is dialog.accounts, "one can tick at once"
    qtbot.keyClick(dialog.accounts, Key.Key_Down)
    qtbot.keyClick(dialog.accounts, Key.Key_Space)
    assert dialog.ticks.text() == f"{len(everybody) - 1} of {len(everybody)} accounts"
    qtbot.keyClick(dialog.accounts, Key.Key_A, CONTROL)
    assert dialog.ticked()[1], "all again"
    qtbot.keyClick(dialog.accounts, Key.Key_A, CONTROL)
    assert dialog.ticked()[0] == []
    qtbot.keyClick(dialog.accounts, Key.Key_Return)
    assert not orders_sent(desk)
    assert "at least one" in dialog._error.text()
    qtbot.keyClick(dialog.accounts, Key.Key_Space)
    for _ in range(4):  # All, None, Scale, Quantity each
        qtbot.keyClick(dialog.focusWidget(), Key.Key_Tab)
    qtbot.keyClicks(dialog.focusWidget(), "7")
    qtbot.keyClick(dialog.focusWidget(), Key.Key_Return)
    await until(lambda: orders_sent(desk))
    assert orders_sent(desk) == [
        {"signal": row["key"], "quantity": "7", "accounts": [everybody[1]]}
    ]


async def test_tab_goes_through_the_dialog_as_one_reads_it(
    qtbot: QtBot, desk: DeskUnderTest
) -> None:
    await select(desk, "held")
    dialog = await reviewing(desk)
    dialog.staged.setChecked(True)
    order = []
    for _ in range(14):
        widget = dialog.focusWidget()
        assert widget is not None
        order.append(widget.accessibleName())
        qtbot.keyClick(widget, Key.Key_Tab)
    limit = [] if "Limit price" not in order else ["Limit price"]
    assert order[: 12 + len(limit)] == [
        "Accounts that wait for approval", "Tick all accounts", "Tick none accounts", "Scale, %", "Quantity each",
        *limit, "Stop loss", "Take profit", "Trail %", "Canary", "Canary account", "Halt after rejects", "Back",
        "Approve",
    ][: 12 + len(limit)]  # fmt: skip
    dialog.close()


async def test_a_scale_or_a_quantity_not_both(desk: DeskUnderTest) -> None:
    await select(desk, "held")
    dialog = await reviewing(desk)
    dialog._scale.setText("50")
    dialog._quantity.setText("3")
    dialog._on_go()
    assert "not both" in dialog._error.text()
    assert not orders_sent(desk)
    dialog.close()


async def test_each_accounts_line_says_what_the_engine_would_do(desk: DeskUnderTest) -> None:
    await select(desk, "held")
    dialog = await reviewing(desk)
    first, *rest = names(dialog)
    plain = {"side": "buy", "price": "10", "risk": None}
    answer = [
        {"account": first, "outcome": "refuse", "code": "QTY_MAX", "message": "9 > 5", "quantity": None,
         "value": None, "leaves_in_s": None, **plain},
        *({"account": name, "outcome": "send", "code": "", "message": "", "quantity": "4", "value": "40",
           "leaves_in_s": 0.7, **plain} for name in rest),
    ]  # fmt: skip
    desk.client.answers["preview"] = {"finish_s": 0.7, "accounts": answer}
    dialog._scale.setText("40")
    await until(lambda: "Quantity limit" in dialog.accounts.item(0).text())
    asked = desk.sent("preview")[-1]
    assert (asked["scale"], asked["accounts"]) == ("0.4", [first, *rest])
    valid(desk.client.sent)
    assert "9 > 5" in dialog.accounts.item(0).toolTip()
    assert "Buy 4" in dialog.accounts.item(1).text()
    assert "leaves 0.7 s" in dialog.accounts.item(1).text()
    assert "in about 0.7 s" in dialog.finish.text()
    dialog.accounts.item(0).setCheckState(Qt.CheckState.Unchecked)
    assert "at most" in dialog.finish.text(), "what was said of others holds no more"
    dialog.close()


# --- price drift ------------------------------------------------------------------------------


async def test_drift_is_shown_with_its_sign_and_a_mark(desk: DeskUnderTest) -> None:
    row = await select(desk, "held")
    model = desk.view.table
    column = [c.key for c in model.columns].index("drift_percent")
    assert model.cells(row["key"])[column] == "+0.40 %"
    desk.client.change(tables.SIGNALS, row["key"], drift_percent="-7.00", drifted=True)
    desk.frame()
    assert model.cells(row["key"])[column] == "⚠ −7.00 %"
    assert model.tone(row["key"], column) == "crit"
    assert model.row_tone is not None
    assert model.row_tone(model.rows[row["key"]]) == "crit"


async def test_a_drifted_signal_is_confirmed_at_the_price_on_the_button(
    qtbot: QtBot, desk: DeskUnderTest
) -> None:
    row = await select(desk, "held")
    desk.client.change(tables.SIGNALS, row["key"], drift_percent="7.00", drifted=True, mark="107")
    desk.frame()
    await focused(desk)
    qtbot.keyClick(desk.view, Key.Key_A)  # plain approval: it is shown, not sent
    await until(lambda: desk.window.findChildren(ApproveDialog))
    dialog = opened(desk, "approve")
    await until(dialog.accounts.items_known)
    assert not orders_sent(desk)
    assert "+7.00 %" in dialog.drift.text()
    go = dialog.findChild(QAbstractButton, "go")
    assert go.text() == "Approve at 107.00"
    desk.client.change(tables.SIGNALS, row["key"], mark="108.5")
    desk.frame()
    await until(lambda: go.text() == "Approve at 108.50")
    qtbot.keyClick(dialog.accounts, Key.Key_Return)
    await until(lambda: orders_sent(desk))
    assert orders_sent(desk) == [{"signal": row["key"], "seen_price": "108.5"}]


async def test_an_engine_that_refuses_for_drift_is_asked_once_more_with_the_price(
    desk: DeskUnderTest,
) -> None:
    row = await select(desk, "held")
    dialog = await reviewing(desk)
    go = dialog.findChild(QAbstractButton, "go")
    assert go.text() == "Approve"
    desk.client.refuse = CommandRefused("PRICE_DRIFT", "AAPL is at 110, 10.00 % > 5 % from 100")
    go.click()
    await until(lambda: "PRICE_DRIFT" in dialog._error.text())
    assert go.text().startswith("Approve at ")
    desk.client.refuse = None
    go.click()
    await until(lambda: len(orders_sent(desk)) == 2)
    assert "seen_price" not in orders_sent(desk)[0]
    assert orders_sent(desk)[1]["seen_price"] == row["mark"]


# --- staged release ---------------------------------------------------------------------------


async def test_one_account_first(qtbot: QtBot, desk: DeskUnderTest) -> None:
    row = await select(desk, "held")
    dialog = await reviewing(desk)
    everybody = names(dialog)
    assert not dialog.canary.isEnabled()
    dialog.staged.setFocus()
    qtbot.keyClick(dialog.staged, Key.Key_Space)
    assert dialog.canary.isEnabled()
    qtbot.keyClick(dialog.canary, Key.Key_Down)
    assert dialog.canary.currentText() == everybody[1]
    dialog.accounts.item(0).setCheckState(Qt.CheckState.Unchecked)
    assert dialog.canary.currentText() == everybody[1], "the choice stays as others are ticked off"
    dialog.findChild(QAbstractButton, "go").click()
    await until(lambda: orders_sent(desk))
    assert orders_sent(desk) == [
        {"signal": row["key"], "accounts": everybody[1:], "canary": everybody[1], "max_rejects": 3}
    ]


async def test_the_blotter_shows_the_stage_and_releases_the_rest_by_name(
    desk: DeskUnderTest,
) -> None:
    row = await select(desk, "accepted")
    desk.client.change(
        tables.SIGNALS, row["key"], stage="waiting", held=2,
        stage_text="canary A-001 1/3 → waiting for its fill", stage_expires_at=row["received_at"],
    )  # fmt: skip
    desk.frame()
    model = desk.view.table
    cells = model.cells(row["key"])
    assert "◷ Canary" in cells
    assert "canary A-001 1/3 → waiting for its fill" in cells
    original = desk.client.detail

    def detail(of: dict[str, Any]) -> dict[str, Any]:
        made = original(of)
        for one in made["accounts"][1:3]:
            one.update(outcome="held", code="CANARY")
        return made

    desk.client.detail = detail
    desk.desk.registry.run("signal.release_rest")
    dialog = opened(desk, "confirm")
    assert not orders_sent(desk)
    dialog.findChild(QAbstractButton, "go").click()
    await until(lambda: orders_sent(desk))
    accounts = [one["account"] for one in detail(row)["accounts"][1:3]]
    assert orders_sent(desk) == [{"signal": row["key"], "accounts": accounts}]


# --- the detail -------------------------------------------------------------------------------


async def test_the_waterfall_begins_at_the_producer_and_is_each_accounts_own(
    qtbot: QtBot, desk: DeskUnderTest
) -> None:
    panel = desk.window.panels["signal_detail"]
    row = await select(desk, "accepted")
    desk.client.change(
        tables.SIGNALS, row["key"],
        issued_at="2026-11-23T01:00:00.000000Z", received_at="2026-11-23T01:00:00.004395Z",
    )  # fmt: skip
    desk.frame()
    await until(lambda: "From producer 4.39 ms" in panel._fall.accessibleDescription()
                or "From producer 4.40 ms" in panel._fall.accessibleDescription())  # fmt: skip
    spans = panel._fall.spans()
    assert spans[0] is not None
    assert spans[0][0] == 0
    assert abs(spans[0][1] - 4.395 / (4.395 + 8.79)) < 0.001
    assert spans[-1] is not None
    assert spans[-1][1] == 1
    sent = next(k for k, r in panel.model.rows.items() if r["outcome"] == "sent")
    panel.view.select_key(sent)
    assert panel._whose.text() == sent
    assert panel._fall.trace == panel.model.rows[sent]["trace"]
    skipped = next(k for k, r in panel.model.rows.items() if r["outcome"] == "skipped")
    panel.view.select_key(skipped)
    assert "no order left" in panel._whose.text()
    qtbot.keyClick(panel.view, Key.Key_Escape)
    assert panel._whose.text() == "All accounts"


async def test_a_producer_far_away_does_not_squeeze_the_rest(desk: DeskUnderTest) -> None:
    fall = desk.window.panels["signal_detail"]._fall
    fall.show_trace({"validated": 1_000, "last_ack": 2_000}, 9e9)
    assert fall.spans()[0] is None
    assert fall.spans()[1] == (0.0, 0.5)
    assert "From producer 9.00 s" in fall.accessibleDescription()
    fall.show_trace({"validated": 1_000}, -5e6)
    assert "clocks differ" in fall.accessibleDescription()
    fall.show_trace({}, None)
    assert fall.spans() == [None] * 8


async def test_enter_goes_to_the_accounts_order_and_explains_where_there_is_none(
    qtbot: QtBot, desk: DeskUnderTest
) -> None:
    panel = desk.window.panels["signal_detail"]
    order = next(iter(desk.client.tables[tables.ORDERS].values()))
    key = f"{order['source']}/{order['signal_id']}"
    assert desk.view.select_key(key)
    await until(lambda: panel.key == key and panel.model.rows)
    account, row = next((k, r) for k, r in panel.model.rows.items() if r["cl_ord_id"])
    panel.view.select_key(account)
    qtbot.keyClick(panel.view, Key.Key_Return)
    await until(lambda: desk.window.panels["orders"].view.current_key() == row["cl_ord_id"])
    row = await select(desk, "accepted")
    await until(
        lambda: panel.key == row["key"] and any(r["code"] for r in panel.model.rows.values())
    )
    nobody = next(k for k, r in panel.model.rows.items() if r["code"])
    panel.view.select_key(nobody)
    qtbot.keyClick(panel.view, Key.Key_Return)
    dialog = opened(desk, "codes")
    assert panel.model.rows[nobody]["code"] in dialog.list.currentItem().text()
    dialog.close()
    assert QApplication.activePopupWidget() is None
