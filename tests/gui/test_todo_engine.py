"""What there is to do before the open, at a real engine: accounts that cannot trade, and a login in the browser."""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from PySide6.QtCore import QObject, Qt, QUrl, Slot
from PySide6.QtGui import QDesktopServices
from PySide6.QtWidgets import QLineEdit, QPushButton
from pytestqt.qtbot import QtBot

from engine.client import remote_client
from gui import dialogs
from gui.main_window import MainWindow
from gui.supervisor import read_token
from tests.gui.conftest import active_now, until
from tests.processes import EngineProcess, VenueProcess, alpaca, import_accounts, write_config
from tests.servers import free_port

LEFT = Qt.MouseButton.LeftButton
SECRET = "the-app-secret-that-nobody-may-see"


class Browser(QObject):
    """Takes the place of the desktop's browser: what the desk opens, a person goes through."""

    def __init__(self) -> None:
        super().__init__()
        self.opened: list[str] = []

    @Slot(QUrl)
    def open(self, url: QUrl) -> None:
        self.opened.append(url.toString())

    async def log_in(self, more: str = "") -> str:
        async with httpx.AsyncClient(trust_env=False, follow_redirects=True) as http:
            return (await http.get(self.opened[-1] + more)).text


@pytest.fixture
def browser(qapp: object) -> Iterator[Browser]:
    made = Browser()
    QDesktopServices.setUrlHandler("http", made, "open")
    yield made
    QDesktopServices.unsetUrlHandler("http")


@pytest.fixture
def engine(tmp_path: Path) -> Iterator[EngineProcess]:
    """One account that can trade, and four that need something."""
    home = tmp_path / "home"
    home.mkdir(mode=0o700)
    keys = tmp_path / "keys.json"
    keys.write_text(
        json.dumps(
            {"keyK1": SECRET, "keyK2": SECRET}
            | {f"KEY{number:03d}": f"practice-secret-{number:03d}" for number in (1, 2, 4)}
        )
    )
    (tmp_path / "kite").mkdir()
    with (
        VenueProcess(tmp_path, "--still", "--accounts", str(keys)) as venue,
        VenueProcess(
            tmp_path / "kite", "--dialect", "kite", "--still", "--accounts", str(keys)
        ) as kite,
    ):
        write_config(home)
        wrong = {"key_id": "KEY002", "secret": "a-wrong-secret"}
        import_accounts(
            home,
            [
                alpaca(1, venue.url),
                alpaca(2, venue.url, credentials=wrong),
                alpaca(3, f"http://127.0.0.1:{free_port()}"),
                alpaca(4, venue.url, active=False),
                *(
                    {
                        "id": name,
                        "broker": "kite",
                        "base_url": kite.url,
                        "credentials": {"key_id": f"key{name}", "secret": SECRET},
                        "sizing": {"method": "fixed", "quantity": "3"},
                    }
                    for name in ("K1", "K2")
                ),
            ],
        )
        with EngineProcess(home) as made:
            made.wait_connected(1)
            yield made


@contextlib.asynccontextmanager
async def attached(home: Path, engine: EngineProcess) -> AsyncIterator[MainWindow]:
    window = MainWindow(home.parent)
    window.resize(1600, 1000)
    window.show()
    window.build()
    client = window.desk.client = remote_client(engine.url.replace("http", "ws"), read_token(home))
    await client.start(window.desk.store)
    try:
        rows = window.desk.store.rows("accounts")
        await until(lambda: len(rows) == 6 and rows["A-003"]["connection"] == "disconnected", 15)
        await until(lambda: rows["A-002"]["connection"] == "error", 15)
        window.show_panel("todo")
        window.tick()
        yield window
    finally:
        await client.stop()
        await window.desk.tasks.stop()
        window.closing = True
        window.close()
        window.deleteLater()


def lines(window: MainWindow) -> dict[str, Any]:
    window.tick()
    return {line.item.who: line.item for line in window.panels["todo"].lines}


def press(window: MainWindow, name: str) -> QPushButton:
    found = window.findChild(QPushButton, name)
    assert found is not None, name
    assert found.isEnabled()
    return found


async def test_what_keeps_accounts_from_trading_is_one_list_and_a_login_is_a_click(
    qtbot: QtBot, engine: EngineProcess, browser: Browser
) -> None:
    async with attached(engine.home, engine) as window:
        store = window.desk.store
        found = lines(window)
        assert "A-001" not in found
        assert (found["A-002"].tone, found["A-002"].action) == ("crit", "reload")
        assert (found["A-003"].tone, found["A-003"].action) == ("crit", "")
        assert (found["A-004"].tone, found["A-004"].action) == ("muted", "enable")
        for name in ("K1", "K2"):
            assert (found[name].tone, found[name].action) == ("crit", "log_in")
            assert "nobody has logged in" in found[name].what
            assert found[name].todo == "log in; the account connects by itself"
        assert "To do 4" in window.panels["accounts"].todo.text()

        qtbot.mouseClick(press(window, "todo.log_in.K1"), LEFT)
        dialog = await until_there(window)
        await until(lambda: browser.opened, 5)
        assert dialog.findChild(QLineEdit).text() == browser.opened[0]
        assert SECRET not in browser.opened[0]
        assert "Waiting for you" in dialog.state.text()
        assert "Logged in" in await browser.log_in()
        await until(lambda: store.rows("accounts")["K1"]["connection"] == "connected", 10)
        await until(lambda: not dialogs_open(window), 5)
        notice = window.desk.notifier.history[-1]
        assert notice.title == "Logged in: K1"
        assert "Its session ends" in notice.text
        await until(lambda: "K1" not in lines(window), 10)  # compared with its broker since
        accounts = window.panels["accounts"]
        titles = [column.key for column in accounts.model.columns]
        left = accounts.model.index(accounts.model.pos["K1"], titles.index("session")).data()
        assert " h " in left or " m" in left

        press(window, "todo.enable.A-004").setFocus()
        qtbot.keyClick(press(window, "todo.enable.A-004"), Qt.Key.Key_Space)
        await until(lambda: store.rows("accounts")["A-004"]["active"], 15)
        assert "A-004" not in lines(window)


async def test_a_login_given_up_is_told_and_another_try_goes_through(
    qtbot: QtBot, engine: EngineProcess, browser: Browser
) -> None:
    async with attached(engine.home, engine) as window:
        store = window.desk.store
        accounts = window.panels["accounts"]
        window.show_panel("accounts")
        await active_now(window)
        assert accounts.view.select_key("K2")
        accounts.view.setFocus()
        qtbot.keyClick(accounts.view, Qt.Key.Key_L)
        dialog = await until_there(window)
        await until(lambda: browser.opened, 5)
        await browser.log_in("&cancel=1")
        await until(lambda: "cancelled" in dialog._error.text(), 15)
        assert dialog.isVisible()
        dialog.reject()
        await active_now(window)
        accounts.view.setFocus()
        qtbot.keyClick(accounts.view, Qt.Key.Key_L)
        await until(lambda: len(browser.opened) == 2, 5)
        assert browser.opened[0] != browser.opened[1]
        await browser.log_in()
        await until(lambda: store.rows("accounts")["K2"]["connection"] == "connected", 10)
        # Not every account can be logged in: neither the key nor the menu offers it.
        accounts.view.select_key("A-001")
        await asyncio.sleep(0)
        assert not window.desk.registry.actions["account.log_in"].isEnabled()


async def test_an_engine_elsewhere_opens_no_browser_here(
    qtbot: QtBot, engine: EngineProcess, browser: Browser
) -> None:
    async with attached(engine.home, engine) as window:
        window.desk.engine_here = False
        qtbot.mouseClick(press(window, "todo.log_in.K1"), LEFT)
        dialog = await until_there(window)
        await until(lambda: "engine's machine" in dialog.state.text(), 5)
        assert dialog.findChild(QLineEdit).text().startswith("http")
        assert browser.opened == []
        dialog.reject()


async def test_exits_are_seen_where_they_are_watched(qtbot: QtBot, engine: EngineProcess) -> None:
    async with attached(engine.home, engine) as window:
        sent = engine.signal(symbol="AAPL", stop_loss="1", take_profit="100000")
        assert sent.status_code == 202, sent.text

        def cell(table: str, key: str, column: str) -> str:
            model = window.panels[table].model
            titles = [made.key for made in model.columns]
            at = model.index(model.pos[key], titles.index(column))
            return str(at.data()) if key in model.pos else ""

        orders = window.desk.store.rows("orders")
        await until(lambda: len([row for row in orders.values() if row["parent"]]) == 2, 10)
        (entry,) = (row["cl_ord_id"] for row in orders.values() if not row["parent"])
        legs = {row["leg"]: row["cl_ord_id"] for row in orders.values() if row["parent"] == entry}
        await until(lambda: legs["stop"] in window.panels["orders"].model.pos)
        assert cell("orders", legs["stop"], "order_type") == "↳ Stop"
        assert cell("orders", legs["target"], "leg") == f"↳ target of {entry[:8]}"
        await until(lambda: "A-001/AAPL" in window.panels["positions"].model.pos, 5)
        await until(lambda: cell("positions", "A-001/AAPL", "protected") == "✓ Broker", 5)
        # A trail by hand: the broker has none, so Volley watches from then on.
        window.show_panel("positions")
        await active_now(window)
        view = window.panels["positions"].view
        assert view.select_key("A-001/AAPL")
        view.setFocus()
        qtbot.keyClick(view, Qt.Key.Key_S)
        await until(lambda: window.findChildren(dialogs.ALL["stops"]))
        dialog = window.findChildren(dialogs.ALL["stops"])[0]
        qtbot.keyClicks(dialog._trail, "2.5")
        qtbot.keyClick(dialog._trail, Qt.Key.Key_Return)
        await until(lambda: cell("positions", "A-001/AAPL", "trail_percent") == "2.5 %", 5)
        await until(lambda: "Volley" in cell("positions", "A-001/AAPL", "protected"), 5)
        window.tick()
        assert "unprotected" not in window.banner.conditions


def dialogs_open(window: MainWindow) -> list[dialogs.Dialog]:
    return [d for d in window.findChildren(dialogs.ALL["log_in"]) if d.isVisible()]


async def until_there(window: MainWindow) -> Any:
    await until(lambda: dialogs_open(window), 5)
    return dialogs_open(window)[0]
