"""Who would trade and why not: asked as a person asks, on a scripted engine that answers with a thousand accounts."""

from __future__ import annotations

from typing import Any

from PySide6.QtCore import QPoint, Qt
from pytestqt.qtbot import QtBot

from engine.errors import CommandRefused
from engine.obstacles import RULES as RULES_OF_THE_ENGINE
from gui.panels.eligibility import EVERYBODY, PASSED_OVER, RULES, EligibilityPanel
from tests.gui.conftest import DeskUnderTest, until
from tests.gui.test_desk import button, select, valid

WHY = (("NOT_SUBSCRIBED", "strategy", "skip"), ("QTY_MAX", "quantity", "refuse"),
       ("OUTSIDE_HOURS", "hours", "skip"))  # fmt: skip


def row(number: int) -> dict[str, Any]:
    """Return every fourth account's row as one that trades, the others each with a reason."""
    made: dict[str, Any] = {
        "account": f"A-{number:04d}", "outcome": "send", "code": "", "message": "", "side": "buy",
        "quantity": "10", "price": "228.4", "value": "2284", "risk": "40", "leaves_in_s": 0.0, "rule": "",
        "blocks": [], "unasked": [],
    }  # fmt: skip
    if number % 4:
        code, rule, outcome = WHY[number % 4 - 1]
        blocks = [{"rule": rule, "code": code, "message": f"{code} of this account"}]
        if number % 8 == 1:
            blocks.append({"rule": "value", "code": "VALUE_MAX", "message": "2284 > 100"})
        made |= {"outcome": outcome, "code": code, "message": blocks[0]["message"], "rule": rule,
                 "blocks": blocks, "unasked": ["position"]}  # fmt: skip
    return made


def answer(count: int, **fields: Any) -> dict[str, Any]:
    return {"code": "", "message": "", "price": "228.4", "finish_s": 1.25, "rules": list(RULES),
            "accounts": [row(number) for number in range(count)]} | fields  # fmt: skip


async def shown(desk: DeskUnderTest, accounts: int = 40) -> EligibilityPanel:
    desk.client.answers["preview"] = answer(accounts)
    desk.desk.registry.run("eligibility.show")
    panel = desk.window.panels["eligibility"]
    assert isinstance(panel, EligibilityPanel)
    await until(panel.isVisible)
    return panel


def cell(panel: EligibilityPanel, account: str, column: str) -> Any:
    keys = [c.key for c in panel.model.columns]
    return panel.model.index(panel.model.pos[account], keys.index(column))


def visible_rules(panel: EligibilityPanel) -> list[str]:
    return [
        column.key.removeprefix("rule.")
        for at, column in enumerate(panel.model.columns)
        if column.key.startswith("rule.") and not panel.view.isColumnHidden(at)
    ]


def test_every_rule_of_the_engine_has_a_column_in_its_order() -> None:
    assert tuple(RULES) == RULES_OF_THE_ENGINE


async def test_a_question_is_typed_and_answered_account_by_account(
    qtbot: QtBot, desk: DeskUnderTest
) -> None:
    panel = await shown(desk)
    assert "Name a symbol" in panel.view.empty_text or panel.symbol.hasFocus()
    qtbot.keyClicks(panel.symbol, "aapl")
    qtbot.keyClicks(panel.numbers["stop_loss"], "220")
    qtbot.keyClicks(panel.numbers["quantity"], "10")
    qtbot.keyClick(panel.numbers["quantity"], Qt.Key.Key_Return)
    await until(lambda: len(panel.model.rows) == 40)
    assert desk.sent("preview")[-1] == {
        "rules": True,
        "signal": {"strategy": "manual", "symbol": "AAPL", "action": "buy", "order_type": "market",
                   "stop_loss": "220", "quantity": "10"},
    }  # fmt: skip
    assert panel.total.text().startswith("✓ 10 would trade")
    assert "30 passed over: Not subscribed 10" in panel.total.text()
    assert cell(panel, "A-0000", "rule.value").data() == "✓"
    assert cell(panel, "A-0001", "rule.strategy").data() == "✕ Not subscribed"
    assert cell(panel, "A-0001", "code").data() == "Not subscribed  +1"
    assert cell(panel, "A-0001", "rule.position").data() == "?"
    tip = cell(panel, "A-0001", "rule.strategy").data(Qt.ItemDataRole.ToolTipRole.value)
    assert "NOT_SUBSCRIBED of this account" in tip
    assert "This decides." in tip
    tip = cell(panel, "A-0001", "rule.value").data(Qt.ItemDataRole.ToolTipRole.value)
    assert "It would stop it, too." in tip
    tip = cell(panel, "A-0001", "rule.position").data(Qt.ItemDataRole.ToolTipRole.value)
    assert "Cannot be asked" in tip
    valid(desk.client.sent)


async def test_only_what_stops_somebody_is_shown_until_all_is_wanted(
    qtbot: QtBot, desk: DeskUnderTest
) -> None:
    panel = await shown(desk)
    qtbot.keyClicks(panel.symbol, "AAPL")
    await until(lambda: panel.model.rows)
    assert visible_rules(panel) == ["strategy", "hours", "quantity", "value"]
    qtbot.mouseClick(button(desk, "eligibility.rules"), Qt.MouseButton.LeftButton)
    assert visible_rules(panel) == list(RULES)
    qtbot.mouseClick(button(desk, "eligibility.rules"), Qt.MouseButton.LeftButton)
    assert visible_rules(panel) == ["strategy", "hours", "quantity", "value"]


async def test_only_those_passed_over_or_those_of_one_code(
    qtbot: QtBot, desk: DeskUnderTest
) -> None:
    panel = await shown(desk)
    qtbot.keyClicks(panel.symbol, "AAPL")
    await until(lambda: panel.model.rows)
    texts = [panel.codes.itemText(at) for at in range(panel.codes.count())]
    assert texts[:2] == ["Every account (40)", "Only those passed over (30)"]
    assert "Not subscribed (10)" in texts
    panel.codes.setFocus()
    qtbot.keyClick(panel.codes, Qt.Key.Key_Down)
    assert panel.codes.currentData() == PASSED_OVER
    assert panel.model.rowCount() == 30
    qtbot.keyClick(panel.codes, Qt.Key.Key_Down)
    assert panel.model.rowCount() == 10
    code = panel.codes.currentData()
    # A new answer without that code shows everybody again.
    fewer = answer(40, accounts=[row(number) for number in range(0, 40, 4)])
    desk.client.answers["preview"] = fewer
    panel.asker.ask()
    await until(lambda: len(panel.model.rows) == 10)
    assert panel.codes.findData(code) < 0
    assert panel.codes.currentData() == EVERYBODY
    assert panel.model.rowCount() == 10


async def test_the_selected_signal_is_asked_about_as_it_came(
    qtbot: QtBot, desk: DeskUnderTest
) -> None:
    signal = await select(desk, "accepted")
    desk.client.answers["preview"] = answer(8)
    desk.window.desk.show_panel("eligibility")
    panel = desk.window.panels["eligibility"]
    await until(panel.isVisible)
    qtbot.mouseClick(button(desk, "eligibility.signal"), Qt.MouseButton.LeftButton)
    await until(lambda: desk.sent("preview"))
    asked = desk.sent("preview")[-1]["signal"]
    raw = (await desk.client.signal_detail(signal["key"]))["raw"]
    assert {name: asked.get(name) for name in ("symbol", "strategy", "action")} == {
        name: raw.get(name) for name in ("symbol", "strategy", "action")
    }
    assert not {"id", "issued_at"} & asked.keys()
    assert asked.get("source") == raw.get("source")
    # What is typed is a question of one's own again.
    qtbot.keyClicks(panel.symbol, "X")
    panel.asker.ask()
    await until(lambda: "source" not in desk.sent("preview")[-1]["signal"])


async def test_what_is_missing_or_refused_is_said_in_place(
    qtbot: QtBot, desk: DeskUnderTest
) -> None:
    panel = await shown(desk)
    panel.kind.setCurrentIndex(panel.kind.findData("limit"))
    panel.kind.activated.emit(panel.kind.currentIndex())
    qtbot.keyClicks(panel.symbol, "AAPL")
    qtbot.keyClick(panel.symbol, Qt.Key.Key_Return)
    await until(lambda: "needs a price" in panel.total.text())
    assert not desk.sent("preview")
    desk.client.refuse = CommandRefused("FORMAT", "limit_price: no number", 422)
    qtbot.keyClicks(panel.numbers["price"], "x")
    await until(lambda: panel.total.text() == "limit_price: no number (FORMAT)")
    assert panel.model.rowCount() == 0
    desk.client.refuse = None
    desk.client.answers["preview"] = answer(
        4, code="HALTED", message="all is halted",
        accounts=[row(n) | {"outcome": "refuse", "code": "HALTED"} for n in range(4)],
    )  # fmt: skip
    panel.asker.ask()
    await until(lambda: "Nobody would trade: all is halted (HALTED)" in panel.total.text())


async def test_nobody_is_asked_while_nobody_looks(qtbot: QtBot, desk: DeskUnderTest) -> None:
    panel = await shown(desk)
    qtbot.keyClicks(panel.symbol, "AAPL")
    await until(lambda: panel.model.rows)
    panel.asker._again.setInterval(10)
    panel.asker._again.start()
    count = len(desk.sent("preview"))
    await until(lambda: len(desk.sent("preview")) > count + 1)  # prices move: it is asked again
    desk.window.docks["eligibility"].hide()
    await until(lambda: not panel.isVisible())
    assert not panel.asker._again.isActive()
    assert not panel.asker._debounce.isActive()


async def test_a_thousand_accounts(qtbot: QtBot, desk: DeskUnderTest) -> None:
    panel = await shown(desk, 1000)
    qtbot.keyClicks(panel.symbol, "AAPL")
    await until(lambda: len(panel.model.rows) == 1000)
    assert panel.codes.itemText(0) == "Every account (1000)"
    panel.filter.setText("A-0999")
    assert panel.model.rowCount() == 1
    panel.filter.setText("")
    panel.view.sortByColumn(3, Qt.SortOrder.DescendingOrder)
    assert panel.model.rowCount() == 1000
    # The row menu's command leads to the account.
    point = panel.view.visualRect(panel.model.index(0, 0)).center()
    qtbot.mouseClick(panel.view.viewport(), Qt.MouseButton.LeftButton, pos=QPoint(point))
    places: list[tuple[str, str]] = []
    desk.desk.place_wanted.connect(lambda *place: places.append(place))
    desk.desk.registry.run("eligibility.account")
    assert places == [("accounts", panel.view.current_key())]
