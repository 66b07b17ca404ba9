"""A review at the desk, against a real engine and venue: one account first, and a price that has moved."""

from __future__ import annotations

import os
from pathlib import Path

os.environ["QT_QPA_PLATFORM"] = "offscreen"
os.environ["QT_API"] = "pyside6"

import pytest
from PySide6.QtCore import QPoint, Qt
from PySide6.QtGui import QCursor
from PySide6.QtWidgets import QAbstractButton
from pytestqt.qtbot import QtBot

from gui.dialogs.review import ApproveDialog
from tests.e2e.test_desk import (
    AtDesk,
    alert,
    attached,
    by_account,
    engine,
    home,
    on_qt,
    until,
    until_there,
    venue,
)
from tests.processes import EngineProcess, VenueProcess

__all__ = ["engine", "home", "venue"]  # fixtures
pytestmark = pytest.mark.qt_log_ignore(
    "does not support propagateSizeHints", "does not support raise", "grabbing the keyboard"
)
SHIFT = Qt.KeyboardModifier.ShiftModifier


async def review(desk: AtDesk, modifier: Qt.KeyboardModifier) -> ApproveDialog:
    """Press A (with Shift) on the selected signal; return the dialog with its accounts."""
    before = set(desk.window.findChildren(ApproveDialog))
    view = desk.panel("signals").view
    desk.window.activateWindow()
    view.setFocus()
    await until(view.hasFocus)
    desk.qtbot.keyClick(view, Qt.Key.Key_A, modifier)

    def opened() -> list[ApproveDialog]:
        fresh = set(desk.window.findChildren(ApproveDialog)) - before
        return [dialog for dialog in fresh if dialog.accounts.items_known()]

    return (await until(opened))[0]


def test_a_canary_goes_first_and_a_moved_price_is_confirmed(
    qtbot: QtBot, home: Path, engine: EngineProcess, venue: VenueProcess
) -> None:
    async def scenario() -> None:
        async with attached(qtbot, home, engine, venue) as desk:
            key = await alert(home)
            await until(lambda: desk.shown("signals").get(key, {}).get("Held") == "2")
            await desk.pick("signals", key)
            dialog = await review(desk, SHIFT)
            await until(lambda: "leaves" in dialog.accounts.item(1).text(), what="the preview")
            assert "Buy 2" in dialog.accounts.item(1).text()
            dialog.staged.setFocus()
            qtbot.keyClick(dialog.staged, Qt.Key.Key_Space)
            qtbot.keyClick(dialog.canary, Qt.Key.Key_Down)
            assert dialog.canary.currentText() == "A-002"
            qtbot.keyClick(dialog.accounts, Qt.Key.Key_Return)
            everybody = {f"A-00{n}": (n, "filled") for n in (1, 2, 3)}
            await desk.orders(lambda orders: by_account(orders, status="filled") == everybody)
            rows = {row["account"]: row for row in engine.detail(key)["accounts"]}
            assert rows["A-001"]["trace"]["first_byte"] > rows["A-002"]["trace"]["last_ack"]
            release = "canary A-002 filled → 1 released"
            await until(lambda: desk.shown("signals")[key]["Release"] == release)

            QCursor.setPos(desk.window.mapToGlobal(QPoint(4, 4)))  # rows wait under the pointer
            moved = await alert(home)
            await until(lambda: desk.shown("signals").get(moved, {}).get("Held") == "2")
            venue.post("/sim/price", {"AAPL": "107"})
            await until(lambda: desk.shown("signals")[moved]["Drift"] == "⚠ +7.00 %")
            await desk.pick("signals", moved)
            dialog = await review(desk, Qt.KeyboardModifier.NoModifier)
            go = dialog.findChild(QAbstractButton, "go")
            assert go.text() == "Approve at 107.00"
            qtbot.keyClick(dialog.accounts, Qt.Key.Key_Return)
            await until_there(
                lambda: desk.orders(bool),
                lambda orders: sum(order["status"] == "filled" for order in orders) == 6,
            )
            filled = await until(
                lambda: [r for r in engine.detail(moved)["accounts"] if r["status"] == "filled"]
            )
            prices = {r["account"]: r["avg_px"] for r in filled}
            assert prices == {"A-001": "107", "A-002": "107", "A-003": "100"}

    on_qt(scenario)
