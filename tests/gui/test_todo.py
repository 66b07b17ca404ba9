"""The list of what to do, and how exits are watched: from rows to words, on the scripted desk."""

from __future__ import annotations

import argparse
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from PySide6.QtCore import Qt
from PySide6.QtGui import QTextDocument
from PySide6.QtWidgets import QLabel, QPushButton
from pytestqt.qtbot import QtBot

from engine.errors import CommandRefused
from engine.model import tables
from gui import todo
from gui.app import _Session
from gui.panels.orders import leg_words
from gui.panels.positions import unwatched, watch_tone, watched
from tests.gui.conftest import DeskUnderTest, active_now, until
from tests.gui.scripted import at
from tests.gui.test_desk import opened, valid

HELD = {
    "qty": "10",
    "stop_loss": "95",
    "take_profit": None,
    "trail_percent": None,
    "mark_age_s": 0.2,
}


def account(name: str, **fields: Any) -> dict[str, Any]:
    return {
        "id": name, "active": True, "connection": "connected", "connection_text": "connected", "todo": "",
        "session_expires_at": None, "logs_in": False, "unknown_orders": 0,
    } | fields  # fmt: skip


def look(
    accounts: list[dict[str, Any]],
    left: float | None = None,
    halts: tuple[dict[str, Any], ...] = (),
    services: dict[str, Any] | None = None,
) -> list[todo.Item]:
    rows = {
        tables.ACCOUNTS: {row["id"]: row for row in accounts},
        tables.HALTS: {row["scope"]: row for row in halts},
        tables.ENGINE: {"engine": {"services": services or {}}},
    }
    return todo.items(rows.__getitem__, lambda stamp: None if not stamp or left is None else -left)


def test_nothing_to_do_is_nothing() -> None:
    assert look([account("A-1")], services={"journal": {"state": "connected", "text": ""}}) == []


def need(code: str, text: str = "it is so", what: str = "do it") -> dict[str, str]:
    return {"code": code, "text": text, "todo": what}


def test_everything_an_account_needs_is_a_line_with_what_mends_it() -> None:
    found = look(
        [
            account("K-1", logs_in=True, needs=[need("SESSION_ENDS", "its session ends before the close")]),
            account("A-2", needs=[need("SESSION_ENDS")]),
            account("L-3", needs=[need("LIMITS_UNSET"), need("OUTCOME_UNKNOWN", "2 orders of unknown outcome")]),
            account("L-4", needs=[need("LIMITS_UNSET")]),
            account("D-5", needs=[need("POSITION_DIFFERS", "10 of AAPL, not 0"), need("RATE", "asked for quiet")]),
            account("E-6", connection="error", connection_text="refused", todo="mend it",
                    needs=[need("NOT_CONNECTED", "refused", "mend it")]),
            account("R-7", needs=[need("NOT_RECONCILED", "R-7: not reconciled")]),
            account("G-8", needs=[]),
        ]
    )  # fmt: skip
    lines = {(item.who, item.action): item for item in found}
    assert lines.keys() == {
        ("K-1", todo.LOG_IN), ("A-2", ""), ("L-3, L-4", todo.LIMITS), ("L-3", todo.UNKNOWN),
        ("D-5", todo.COMPARE), ("D-5", ""), ("E-6", todo.RELOAD), ("R-7", ""),
    }  # fmt: skip
    assert lines["L-3, L-4", todo.LIMITS].tone == "crit"
    assert lines["K-1", todo.LOG_IN].what == "its session ends before the close"
    assert lines["R-7", ""].what == "not reconciled"
    assert all(item.button for item in found if item.action)


def test_what_the_machine_and_the_market_lack_is_to_do() -> None:
    rows = {
        tables.ACCOUNTS: {}, tables.HALTS: {"broker:x": {
            "scope": "broker:x", "state": "reducing", "reason": "CLOCK +3.0 s, by x's clock"}},
        tables.ENGINE: {"engine": {"services": {}, "needs": [
            need("DISK_FULL", "12 MiB free in /home"), need("REF_MISSING", "no price of AAPL is known")]}},
    }  # fmt: skip
    found = todo.items(rows.__getitem__, lambda _stamp: None)
    assert [(item.tone, item.who) for item in found] == [
        ("crit", "engine"), ("warn", "broker:x"), ("warn", "engine"),
    ]  # fmt: skip
    assert "clock right" in found[1].todo
    assert [item.button for item in found] == ["", "Resume", ""]


def test_the_worst_comes_first_and_what_is_alike_shares_a_line() -> None:
    lost = {
        "connection": "disconnected",
        "connection_text": "no route",
        "todo": "check the network",
    }
    found = look(
        [
            account("B-2", active=False),
            account("A-9", connection="degraded", connection_text="stream down", todo="watch it"),
            *(account(f"A-{number}", **lost) for number in range(8)),
        ],
        halts=(
            {"scope": "all", "state": "disarmed", "reason": ""},
            {"scope": "account:A-1", "state": "reducing", "reason": "lunch"},
            {"scope": "broker:x", "state": "active", "reason": ""},
        ),
        services={"redis": {"state": "error", "text": "refused"}},
    )
    assert [(item.tone, item.action, item.who) for item in found] == [
        ("crit", "rearm", "all"),
        ("crit", "", "A-0, A-1, A-2, A-3, A-4, A-5 and 2 more"),
        ("warn", "resume", "account:A-1"),
        ("warn", "", "engine"),
        ("warn", "", "A-9"),
        ("muted", "enable", "B-2"),
    ]
    assert found[0].button == "Arm…"
    assert "lunch" in found[2].what
    assert todo.urgent(found) == 5


@pytest.mark.parametrize(
    ("left", "what"), [(1_500.0, "ends in 25 m"), (-3.0, "has ended"), (7_200.0, "Connected")]
)
def test_a_session_says_how_long_it_has(left: float, what: str) -> None:
    ends = account(
        "K1", logs_in=True, session_expires_at="x", todo="log it in again", connection_text=""
    )
    (item,) = look([ends], left)
    assert what in item.what
    assert (item.action == todo.LOG_IN) == (left <= todo.SOON_S)


def test_each_login_is_a_line_of_its_own() -> None:
    error = {
        "connection": "error",
        "connection_text": "nobody logged in",
        "todo": "nobody logged in",
    }
    found = look([account(name, logs_in=True, **error) for name in ("K1", "K2")])
    assert [(item.ids, item.action) for item in found] == [(("K1",), "log_in"), (("K2",), "log_in")]
    # What is the account's own in a broker's words does not keep like from like.
    refused = [
        account(
            name, connection="error", connection_text=f"account {name}: refused", todo="mend it"
        )
        for name in ("A-1", "A-2")
    ]
    (item,) = look(refused)
    assert (item.who, item.what, item.action) == ("A-1, A-2", "refused", "reload")


async def test_lines_keep_the_focus_while_words_change(qtbot: QtBot, desk: DeskUnderTest) -> None:
    name = next(iter(desk.client.tables[tables.ACCOUNTS]))
    desk.client.change(
        tables.ACCOUNTS, name, connection="error", connection_text="one", todo="mend it"
    )
    desk.frame()
    desk.desk.registry.run("todo.show")
    desk.window.tick()
    await active_now(desk.window)
    button = desk.window.findChild(QPushButton, f"todo.reload.{name}")
    assert button is not None
    button.setFocus()
    desk.client.change(tables.ACCOUNTS, name, connection_text="two")
    desk.frame()
    desk.window.tick()
    assert desk.window.findChild(QPushButton, f"todo.reload.{name}") is button
    assert "Two" in button.accessibleDescription()
    assert button.hasFocus()
    qtbot.keyClick(button, Qt.Key.Key_Space)
    await until(lambda: desk.sent("reload_accounts"))
    valid(desk.client.sent)


async def test_what_brokers_say_is_shown_as_it_is(desk: DeskUnderTest) -> None:
    name = next(iter(desk.client.tables[tables.ACCOUNTS]))
    said = "<b>bad</b> <img src=x> key"
    desk.client.change(
        tables.ACCOUNTS, name, connection="error", connection_text=said, todo="mend it"
    )
    desk.frame()
    desk.desk.show_panel("todo")
    desk.window.tick()
    (label,) = (w for w in desk.window.panels["todo"].findChildren(QLabel) if w.text() == said)
    assert label.textFormat() is Qt.TextFormat.PlainText
    model = desk.window.panels["accounts"].model
    desk.client.change(tables.ACCOUNTS, name, last_error=said)
    desk.frame()
    error = [column.key for column in model.columns].index("last_error")
    tip = model.index(model.pos[name], error).data(Qt.ItemDataRole.ToolTipRole.value)
    page = QTextDocument()
    page.setHtml(tip)
    assert page.toPlainText() == said


async def test_many_are_switched_on_only_after_a_question(
    qtbot: QtBot, desk: DeskUnderTest
) -> None:
    names = list(desk.client.tables[tables.ACCOUNTS])[:3]
    for name, row in desk.client.tables[tables.ACCOUNTS].items():
        desk.client.change(tables.ACCOUNTS, name, active=name not in names or row["active"] is None)
    desk.frame()
    desk.desk.show_panel("todo")
    desk.window.tick()
    go = desk.window.findChild(QPushButton, f"todo.enable.{names[0]}")
    assert go is not None
    qtbot.mouseClick(go, Qt.MouseButton.LeftButton)
    dialog = opened(desk, "confirm")
    assert desk.client.acted == []
    qtbot.mouseClick(dialog.findChild(QPushButton, "go"), Qt.MouseButton.LeftButton)
    await until(lambda: desk.sent("set_accounts_active"))
    assert desk.sent("set_accounts_active") == [{"accounts": names, "active": True}]
    valid(desk.client.sent)


async def test_a_refused_login_is_a_sentence(qtbot: QtBot, desk: DeskUnderTest) -> None:
    name = next(iter(desk.client.tables[tables.ACCOUNTS]))
    desk.client.change(tables.ACCOUNTS, name, logs_in=True, connection="error", todo="log in")
    desk.client.refuse = CommandRefused("NO_LOGIN", "port 8790 cannot be listened on", 409)
    desk.frame()
    assert desk.window.panels["accounts"].view.select_key(name)
    desk.desk.registry.run("account.log_in")
    dialog = opened(desk, "log_in")
    await until(dialog._error.isVisible)
    assert dialog._error.text() == "port 8790 cannot be listened on (NO_LOGIN)"
    assert not dialog._go.isEnabled()
    assert desk.sent("log_in") == [{"account": name}]
    valid(desk.client.sent)
    # An engine that answers with anything but a web page opens nothing.
    desk.client.refuse = None
    desk.client.answers["log_in"] = {"url": "file:///etc/passwd"}
    dialog.reject()
    desk.desk.registry.run("account.log_in")
    await until(lambda: [d for d in [opened(desk, "log_in")] if d._error.isVisible()])
    assert not opened(desk, "log_in")._go.isEnabled()


@pytest.mark.parametrize(
    ("fields", "text", "tone"),
    [
        ({"protected": "broker"}, "✓ Broker", "pos"),
        ({"protected": "engine"}, "✓ Volley", "pos"),
        ({"protected": "engine", "mark_age_s": None}, "▲ Volley, blind", "warn"),
        ({"protected": "engine", "mark_age_s": 60.0}, "▲ Volley, blind", "warn"),
        ({"protected": ""}, "✕ NOBODY", "crit"),
        ({"protected": "", "stop_loss": None, "trail_percent": "2"}, "✕ NOBODY", "crit"),
        ({"protected": "", "stop_loss": None}, "no stops", "muted"),
        ({"protected": "", "qty": "0"}, "no stops", "muted"),
    ],
)
def test_who_watches_a_position_is_said_in_words(
    fields: dict[str, Any], text: str, tone: str
) -> None:
    row = HELD | fields
    age = row["mark_age_s"]
    assert (watched(row, age), watch_tone(row, age)) == (text, tone)
    assert unwatched(row) == (tone == "crit")


async def test_a_price_that_stops_coming_grows_old(desk: DeskUnderTest) -> None:
    panel = desk.window.panels["positions"]
    desk.desk.show_panel("positions")
    key = panel.model.order[0]
    titles = [column.key for column in panel.model.columns]
    cell = panel.model.index(0, titles.index("protected"))
    assert cell.data() == "✓ Volley"
    now = desk.client.now + timedelta(seconds=30)
    desk.client.change(tables.ENGINE, "engine", now=at(now))
    desk.frame()
    panel.tick()
    assert cell.data() == "▲ Volley, blind"
    desk.client.change(tables.POSITIONS, key, updated_at=at(now))
    desk.frame()
    assert cell.data() == "✓ Volley"


async def test_a_position_nobody_watches_is_told_across_the_top(desk: DeskUnderTest) -> None:
    assert "unprotected" not in desk.window.banner.conditions
    key = next(iter(desk.client.tables[tables.POSITIONS]))
    desk.client.change(tables.POSITIONS, key, protected="")
    desk.frame()
    desk.window.tick()
    condition = desk.window.banner.conditions["unprotected"]
    assert "NOBODY" in condition.text
    assert condition.run is not None
    condition.run()
    view = desk.window.panels["positions"].view
    assert view.isVisible()
    titles = [column.key for column in view.table.columns]
    assert view.table.index(view.table.pos[key], titles.index("protected")).data() == "✕ NOBODY"
    desk.client.change(tables.POSITIONS, key, protected="broker")
    desk.frame()
    desk.window.tick()
    assert "unprotected" not in desk.window.banner.conditions


async def test_an_exit_says_whose_it_is_and_leads_there(qtbot: QtBot, desk: DeskUnderTest) -> None:
    orders = desk.client.tables[tables.ORDERS]
    entry, leg = list(orders)[:2]
    desk.client.change(tables.ORDERS, leg, parent=entry, leg="stop", order_type="stop")
    desk.frame()
    view = desk.window.panels["orders"].view
    assert leg_words(orders[leg]) == f"↳ stop of {entry[:8]}"
    desk.desk.show_panel("orders")
    await active_now(desk.window)
    assert view.select_key(leg)
    view.setFocus()
    qtbot.keyClick(view, Qt.Key.Key_E)
    assert view.chosen_keys() == [entry]


async def test_a_trail_is_set_and_cleared_by_hand(qtbot: QtBot, desk: DeskUnderTest) -> None:
    key = next(iter(desk.client.tables[tables.POSITIONS]))
    account_, symbol = key.split("/", 1)
    desk.client.change(tables.POSITIONS, key, trail_percent="1.5")
    desk.frame()
    desk.desk.show_panel("positions")
    view = desk.window.panels["positions"].view
    await active_now(desk.window)
    assert view.select_key(key)
    view.setFocus()
    qtbot.keyClick(view, Qt.Key.Key_S)
    dialog = opened(desk, "stops")
    assert dialog._trail.text() == "1.5"
    dialog._trail.selectAll()
    qtbot.keyClicks(dialog._trail, "2.25")
    qtbot.keyClick(dialog._trail, Qt.Key.Key_Return)
    await until(lambda: desk.sent("set_stops"))
    (fields,) = desk.sent("set_stops")
    assert (fields["account"], fields["symbol"], fields["trail_percent"]) == (
        account_,
        symbol,
        "2.25",
    )
    valid(desk.client.sent)


@pytest.mark.parametrize(
    ("url", "here"),
    [("ws://192.0.2.1:8787", False), ("ws://127.0.0.1:1", True), ("ws://[::1]:1", True)],
)
async def test_a_browser_is_opened_only_beside_the_engine(
    desk: DeskUnderTest, tmp_path: Path, url: str, here: bool
) -> None:
    args = argparse.Namespace(connect=url, inline=False, demo=False, config=None, seconds=None)
    session = _Session(args, tmp_path, desk.window, "a-token", None)
    async with session._elsewhere():
        assert desk.desk.engine_here is here


async def test_a_line_leads_to_what_mends_it(qtbot: QtBot, desk: DeskUnderTest) -> None:
    names = list(desk.client.tables[tables.ACCOUNTS])[:2]
    for name in names:
        desk.client.change(tables.ACCOUNTS, name, active=True, needs=[need("LIMITS_UNSET")])
    desk.client.change(tables.ACCOUNTS, "A-004", active=True, needs=[need("OUTCOME_UNKNOWN")])
    desk.client.change(tables.ACCOUNTS, "A-005", active=True, needs=[need("POSITION_DIFFERS")])
    desk.frame()
    desk.desk.show_panel("todo")
    desk.window.tick()
    for action, who, panel in (
        ("unknown", "A-004", "unknown"),
        ("reconciliation", "A-005", "reconciliation"),
    ):
        go = desk.window.findChild(QPushButton, f"todo.{action}.{who}")
        assert go is not None
        qtbot.mouseClick(go, Qt.MouseButton.LeftButton)
        await until(lambda panel=panel: desk.window.panels[panel].isVisible())
        desk.desk.show_panel("todo")
    go = desk.window.findChild(QPushButton, f"todo.limits.{names[0]}")
    assert go is not None
    go.setFocus()
    qtbot.keyClick(go, Qt.Key.Key_Space)
    dialog = opened(desk, "accounts")
    assert dialog.windowTitle() == "Change 2 accounts"
    dialog.close()
    desk.client.change(tables.ACCOUNTS, names[1], needs=[])
    desk.frame()
    desk.window.tick()
    name = f"todo.limits.{names[0]}"  # the line of both goes before that of one is clicked
    await until(lambda: len(desk.window.findChildren(QPushButton, name)) == 1)
    go = desk.window.findChild(QPushButton, f"todo.limits.{names[0]}")
    assert go is not None
    qtbot.mouseClick(go, Qt.MouseButton.LeftButton)
    assert opened(desk, "limits").subject["account"]["id"] == names[0]
