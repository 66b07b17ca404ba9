"""Orders by hand at the desk, against a running engine and venue: ticket, preview, undo, parts, flatten, unknown."""

from __future__ import annotations

from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest
from PySide6.QtCore import Qt
from PySide6.QtWidgets import QPushButton, QWidget
from pytestqt.qtbot import QtBot
from shiboken6 import isValid

from gui import dialogs
from gui.dialogs.base import HoldButton
from tests.e2e.test_desk import (
    LEFT,
    AtDesk,
    attached,
    by_account,
    engine,
    home,
    on_qt,
    until,
    venue,
)
from tests.processes import EngineProcess, VenueProcess

__all__ = ["engine", "home", "venue"]
pytestmark = pytest.mark.qt_log_ignore(
    "does not support propagateSizeHints", "does not support raise", "grabbing the keyboard"
)
CTRL = Qt.KeyboardModifier.ControlModifier


async def dialog(desk: AtDesk, kind: str) -> Any:
    """Return the one open dialog of a kind."""

    def found() -> list[QWidget]:
        return [w for w in desk.window.findChildren(dialogs.ALL[kind]) if w.isVisible()]

    await until(found, what=f"{kind} is open")
    assert len(found()) == 1
    return found()[0]


def closed(box: QWidget) -> bool:
    return not isValid(box) or not box.isVisible()


async def hold(desk: AtDesk, box: Any) -> None:
    """Hold the dialog's button until it has acted."""
    button = box.findChild(HoldButton, "go")
    desk.qtbot.mousePress(button, LEFT)
    await until(lambda: closed(box), what="held long enough")


async def ticket(desk: AtDesk, **fields: str) -> Any:
    """Open a ticket by its key for the account that needs no approval, and fill it in."""
    desk.window.activateWindow()
    await until(desk.window.isActiveWindow)
    desk.qtbot.keyClick(desk.window, Qt.Key.Key_F9)
    box = await dialog(desk, "ticket")
    await until(box.isActiveWindow)
    box._who.setCurrentIndex(box._who.findData("some"))
    box._accounts.setText(fields.get("accounts", "A-003"))
    desk.qtbot.keyClicks(box._symbol, "aapl")
    if "limit" in fields:
        box._kind.setCurrentIndex(box._kind.findData("limit"))
        box._limit.setText(fields["limit"])
    return box


async def buy(desk: AtDesk) -> None:
    """Buy 3 AAPL for A-003 by a ticket."""
    box = await ticket(desk)
    desk.qtbot.keyClick(box._symbol, Qt.Key.Key_Return, CTRL)
    await until(lambda: closed(box), what="the ticket is sent")
    await desk.row("positions", "A-003/AAPL")


def test_a_ticket_shows_what_it_will_do_sends_it_once_and_is_undone(
    qtbot: QtBot, home: Path, engine: EngineProcess, venue: VenueProcess
) -> None:
    async def scenario() -> None:
        async with attached(qtbot, home, engine, venue) as desk:
            box = await ticket(desk, accounts="A-001 A-003", limit="97")
            await until(lambda: box.preview.answer.get("accounts"))
            rows = {row["account"]: row for row in box.preview.answer["accounts"]}
            assert (rows["A-003"]["outcome"], rows["A-003"]["quantity"]) == ("send", "3")
            assert Decimal(rows["A-003"]["value"]) == 291
            assert rows["A-001"]["outcome"] == "hold"
            assert "1 to send" in box.preview.total.text()
            assert venue.orders() == [], "a preview sends nothing"

            for _ in range(3):
                qtbot.keyClick(box._symbol, Qt.Key.Key_Return, CTRL)
            working = {"A-003": (Decimal(0), "new")}
            await desk.orders(lambda orders: by_account(orders) == working)
            await until(desk.window.desk.undo.available)
            toast = desk.window.toaster.toasts[-1]
            qtbot.mouseClick(toast.findChild(QPushButton, "toast.action"), LEFT)
            canceled = {"A-003": (Decimal(0), "canceled")}
            book = await desk.orders(lambda orders: by_account(orders) == canceled)
            assert len(book) == 1, "three presses were one order"
            key = desk.window.desk.signal_key
            await until(lambda: desk.shown("signals")[key]["Held"] == "·")
            held = {r["account"]: r for r in engine.detail(key)["accounts"]}["A-001"]
            assert held["code"] == "REJECTED_BY_OPERATOR"

    on_qt(scenario)


def test_parts_of_a_position_are_closed_and_a_symbol_is_flattened(
    qtbot: QtBot, home: Path, engine: EngineProcess, venue: VenueProcess
) -> None:
    async def scenario() -> None:
        async with attached(qtbot, home, engine, venue) as desk:
            await buy(desk)
            await desk.pick("positions", "A-003/AAPL")
            await desk.click("position.part")
            box = await dialog(desk, "close_part")
            box._quantity.setText("1")
            qtbot.keyClick(box._quantity, Qt.Key.Key_Return)
            await until(lambda: desk.shown("positions")["A-003/AAPL"]["Qty"] == "2")

            await desk.pick("positions", "A-003/AAPL")
            desk.window.desk.registry.run("position.flatten_symbol")
            await hold(desk, await dialog(desk, "confirm"))
            held = desk.window.desk.store.rows("positions")
            await until(lambda: held["A-003/AAPL"]["qty"] == "0", what="nothing is held")
            sold = [o for o in venue.orders() if o["side"] == "sell"]
            assert sorted(Decimal(o["filled_qty"]) for o in sold) == [1, 2]

    on_qt(scenario)


def test_a_pause_by_the_menu_holds_entries_back_until_it_is_undone(
    qtbot: QtBot, home: Path, engine: EngineProcess, venue: VenueProcess
) -> None:
    async def scenario() -> None:
        async with attached(qtbot, home, engine, venue) as desk:
            await buy(desk)
            await desk.pick("positions", "A-003/AAPL")
            desk.window.desk.registry.run("position.pause_symbol")
            await until(desk.window.desk.undo.available)
            halts = desk.window.desk.store.rows("halts")
            await until(lambda: halts.get("symbol:AAPL", {}).get("state") == "reducing")
            desk.window.desk.registry.run("trading.undo")
            await until(lambda: "symbol:AAPL" not in halts)
            box = await ticket(desk)
            await until(lambda: "1 to send" in box.preview.total.text())

    on_qt(scenario)


def test_an_unknown_order_is_seen_looked_up_and_settled(
    qtbot: QtBot, home: Path, engine: EngineProcess, venue: VenueProcess
) -> None:
    async def scenario() -> None:
        async with attached(qtbot, home, engine, venue) as desk:
            silent = {"path": "/v2/orders:by_client_order_id"}
            venue.post(
                "/sim/faults",
                [
                    {"action": "drop", "match": {"method": "POST"}, "times": 0},
                    {"action": "http_500", "match": silent, "times": 0},
                ],
            )
            box = await ticket(desk)
            qtbot.keyClick(box._symbol, Qt.Key.Key_Return, CTRL)
            await until(lambda: desk.window.docks["unknown"].windowTitle() == "▲ Unknown 1")
            key = next(iter(desk.shown("unknown")))
            row = desk.shown("unknown")[key]
            assert (row["Account"], row["Symbol"], row["Qty"]) == ("A-003", "AAPL", "3")
            assert row["The broker"].startswith("D")
            await desk.pick("unknown", key)
            await desk.click("unknown.look")
            said = desk.window.desk.notifier.history
            await until(lambda: any("look-up failed" in notice.text for notice in said))
            await desk.click("unknown.absent")
            await hold(desk, await dialog(desk, "confirm"))
            await until(lambda: desk.window.docks["unknown"].windowTitle() == "Unknown")
            await until(lambda: desk.shown("orders").get(key, {}).get("Status") == "– Expired")
            assert venue.orders() == []

    on_qt(scenario)
