"""The fleet at the desk, against a real engine and venue: asked who would trade, then changed together."""

from __future__ import annotations

import asyncio
from pathlib import Path

import httpx
from PySide6.QtCore import Qt
from PySide6.QtWidgets import QAbstractButton, QLineEdit
from pytestqt.qtbot import QtBot

from gui.dialogs.accounts import AccountsDialog
from gui.panels.accounts import AccountsPanel
from gui.panels.eligibility import EligibilityPanel
from gui.supervisor import read_token
from tests.e2e.test_desk import attached, engine, home, on_qt, pytestmark, until, venue
from tests.processes import EngineProcess, VenueProcess

__all__ = ["engine", "home", "pytestmark", "venue"]


async def stored(engine: EngineProcess, home: Path) -> dict[str, dict[str, object]]:
    headers = {"Authorization": f"Bearer {read_token(home)}"}
    async with httpx.AsyncClient(trust_env=False, timeout=20, headers=headers) as http:
        rows = (await http.get(f"{engine.url}/v1/accounts")).json()["items"]
    return {row["id"]: row for row in rows}


def test_what_would_come_of_it_follows_what_the_accounts_are_set_to(
    qtbot: QtBot, home: Path, engine: EngineProcess, venue: VenueProcess
) -> None:
    async def scenario() -> None:
        async with attached(qtbot, home, engine, venue) as desk:
            registry = desk.window.desk.registry
            registry.run("eligibility.show")
            asked = desk.window.panels["eligibility"]
            assert isinstance(asked, EligibilityPanel)
            qtbot.keyClicks(asked.symbol, "aapl")
            qtbot.keyClick(asked.symbol, Qt.Key.Key_Return)
            await until(lambda: len(asked.model.rows) == 3, what="the engine has answered")
            rows = asked.model.rows
            said = {name: (row["outcome"], row["quantity"]) for name, row in rows.items()}
            assert said == {"A-001": ("hold", "1"), "A-002": ("hold", "2"), "A-003": ("send", "3")}
            assert not await asyncio.to_thread(venue.orders)

            accounts = desk.window.panels["accounts"]
            assert isinstance(accounts, AccountsPanel)
            desk.window.show_panel("accounts")
            accounts.view.selectAll()
            registry.run("account.change")
            [dialog] = desk.window.findChildren(AccountsDialog)
            dialog._approval.setCurrentIndex(dialog._approval.findData("auto"))
            field = dialog.findChild(QLineEdit, "limit.max_order_quantity")
            assert field is not None
            qtbot.keyClicks(field, "2")
            qtbot.keyClicks(dialog._reason, "smaller today")
            go = dialog.findChild(QAbstractButton, "go")
            assert go is not None
            qtbot.mousePress(go, Qt.MouseButton.LeftButton)
            await until(
                lambda: all(
                    (row.get("limits") or {}).get("max_order_quantity") == "2"
                    for row in desk.window.desk.store.rows("accounts").values()
                ),
                what="the feed shows the new limits",
            )
            kept = await stored(engine, home)
            assert {row["approval"] for row in kept.values()} == {"auto"}

            desk.window.show_panel("eligibility")
            asked.asker.ask()
            await until(
                lambda: asked.model.rows["A-003"]["code"] == "QTY_MAX",
                what="the limit stops the third",
            )
            assert {name: row["outcome"] for name, row in asked.model.rows.items()} == {
                "A-001": "send", "A-002": "send", "A-003": "refuse",
            }  # fmt: skip
            cell = [column.key for column in asked.model.columns].index("rule.quantity")
            shown = asked.model.index(asked.model.pos["A-003"], cell).data()
            assert shown == "✕ Quantity limit"
            assert not asked.view.isColumnHidden(cell)

    on_qt(scenario)
