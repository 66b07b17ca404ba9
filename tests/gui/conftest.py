"""Qt without a screen, one qasync loop per async test that asks for ``qtbot``, and a desk on scripted data."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path
from typing import Any

os.environ["QT_QPA_PLATFORM"] = os.environ.get("VOLLEY_TEST_PLATFORM", "offscreen")
os.environ["QT_API"] = "pyside6"

import pytest
import qasync
from PySide6.QtWidgets import QApplication, QWidget
from pytestqt.qtbot import QtBot

from engine.model import tables
from gui.bridge import Store
from gui.formatting import Times
from gui.main_window import MainWindow
from gui.theme import active
from tests.gui.scripted import ScriptedClient

# What Qt's offscreen platform says of windows it cannot raise or hint at: nothing a user would ever see.
OFFSCREEN = (
    "does not support propagateSizeHints",
    "does not support raise",
    "grabbing the keyboard",
)


def _qt_loop() -> asyncio.AbstractEventLoop:
    app = QApplication.instance() or QApplication([])
    app.setQuitOnLastWindowClosed(False)
    return qasync.QEventLoop(app)


def pytest_asyncio_loop_factories(config: pytest.Config, item: pytest.Item) -> dict[str, Any]:
    wants_qt = "qtbot" in getattr(item, "fixturenames", ())
    return {"qt": _qt_loop} if wants_qt else {"plain": asyncio.new_event_loop}


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if Path(__file__).parent in item.path.parents:
            item.add_marker(pytest.mark.qt_log_ignore(*OFFSCREEN))


@pytest.fixture(autouse=True)
def _same_looks(qapp: QApplication) -> Iterator[None]:
    qapp.setStyle("Fusion")
    Times.utc = True
    yield
    Times.utc = False
    active().use("dark", prices="green_red", scale=100, compact=False, still=False)


async def until(fact: Callable[[], object], seconds: float = 3.0) -> None:
    async with asyncio.timeout(seconds):
        while not fact():  # noqa: ASYNC110  (a bounded poll: Qt's facts have no event to await)
            await asyncio.sleep(0.005)


async def active_now(window: QWidget) -> None:
    """Make the window the one that keys go to; the arranging of docks may have taken that from it."""
    window.activateWindow()
    await asyncio.sleep(0.02)
    window.activateWindow()
    await until(window.isActiveWindow)


@pytest.fixture
def store(qtbot: QtBot) -> Iterator[Store]:
    made = Store()
    yield made
    made.deleteLater()


def feed(store: Store, *rows: dict[str, Any], removed: tuple[str, ...] = ()) -> None:
    """Tell the store of orders, and show them."""
    store.on_batch({tables.ORDERS: list(rows)}, {tables.ORDERS: list(removed)})
    store.frame()


class DeskUnderTest:
    """A whole window on a scripted client."""

    def __init__(self, window: MainWindow, client: ScriptedClient) -> None:
        self.window = window
        self.client = client
        self.desk = window.desk
        self.store = window.desk.store
        self.view = window.panels["signals"].view

    def frame(self) -> None:
        self.client.flush()
        self.store.frame()

    def sent(self, command: str) -> list[dict[str, Any]]:
        return [fields for name, fields in self.client.sent if name == command]


@pytest.fixture
async def desk(qtbot: QtBot, tmp_path: Path) -> AsyncIterator[DeskUnderTest]:
    window = MainWindow(tmp_path)
    window.resize(1600, 1000)
    window.show()
    window.build()
    client = ScriptedClient(accounts=20)
    client.morning()
    window.desk.client = client
    await client.start(window.desk.store)
    await asyncio.sleep(0)
    window.tick()
    yield DeskUnderTest(window, client)
    await client.stop()
    await window.desk.tasks.stop()
    window.closing = True
    window.close()
    window.deleteLater()
