"""A trader at the desk: engine, venue and API are processes of their own; the window is clicked and typed at here."""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import itertools
import os
import signal
import subprocess
import sys
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Iterator
from decimal import Decimal
from pathlib import Path
from typing import Any, TypeVar

os.environ["QT_QPA_PLATFORM"] = "offscreen"
os.environ["QT_API"] = "pyside6"

import httpx
import pytest
import qasync
from PySide6.QtCore import QEvent, QPoint, QPointF, Qt
from PySide6.QtGui import QCursor, QImage, QMouseEvent
from PySide6.QtWidgets import QAbstractButton, QApplication, QWidget
from pytestqt.qtbot import QtBot

from engine.client import remote_client
from gui import dialogs
from gui.app import _Session
from gui.main_window import MainWindow
from gui.panel import TablePanel
from gui.supervisor import read_address, read_token
from tests.processes import (
    ROOT,
    EngineProcess,
    VenueProcess,
    alpaca,
    environment,
    import_accounts,
    stamp,
    volley,
    write_config,
)
from tests.processes import until as until_now
from tests.servers import free_port

pytestmark = pytest.mark.qt_log_ignore(
    "does not support propagateSizeHints", "does not support raise", "grabbing the keyboard"
)
LEFT = Qt.MouseButton.LeftButton
CTRL_SHIFT = Qt.KeyboardModifier.ControlModifier | Qt.KeyboardModifier.ShiftModifier
T = TypeVar("T")
PRICES = {"AAPL": "100", "MSFT": "400"}
KILL9 = getattr(signal, "SIGKILL", signal.SIGTERM)


# --- the world around the desk ----------------------------------------------------------------


def on_qt(scenario: Callable[[], Coroutine[Any, Any, None]]) -> None:
    """Run a scenario on a qasync loop, as the desk runs."""
    app = QApplication.instance()
    assert isinstance(app, QApplication)
    app.setStyle("Fusion")
    app.setQuitOnLastWindowClosed(False)
    with asyncio.Runner(loop_factory=lambda: qasync.QEventLoop(app)) as runner:
        runner.run(scenario())


async def until(fact: Callable[[], T], seconds: float = 15.0, what: str = "") -> T:
    """Poll until ``fact`` is true and return it."""
    loop = asyncio.get_running_loop()
    deadline = loop.time() + seconds
    while not (value := fact()):
        assert loop.time() < deadline, f"not within {seconds:g} s: {what or fact}"
        await asyncio.sleep(0.01)
    return value


async def until_there(ask: Callable[[], Awaitable[T]], right: Callable[[T], object]) -> T:
    """Ask until the answer is right and return it."""
    answers: list[T] = []
    for _ in range(500):
        answers[:] = [await ask()]
        if right(answers[0]):
            return answers[0]
        await asyncio.sleep(0.02)
    raise AssertionError(f"not what was waited for: {answers[0]}")


@pytest.fixture
def venue(tmp_path: Path) -> Iterator[VenueProcess]:
    with VenueProcess(tmp_path, "--still", "--follow-percent", "0.0001") as made:
        made.post("/sim/price", PRICES)
        yield made


@pytest.fixture
def home(tmp_path: Path, venue: VenueProcess) -> Path:
    """Three accounts: the first two want every signal approved; quantities 1, 2 and 3."""
    made = tmp_path / "home"
    made.mkdir(mode=0o700)
    write_config(made, **{"hooks.tv": {"strategy": "orb"}})
    import_accounts(
        made,
        [
            alpaca(
                number,
                venue.url,
                approval="review" if number < 3 else "auto",
                sizing={"method": "fixed", "quantity": str(number)},
            )
            for number in (1, 2, 3)
        ],
    )
    return made


@pytest.fixture
def engine(home: Path) -> Iterator[EngineProcess]:
    with EngineProcess(home, VOLLEY_ENGINE__LISTEN=f"127.0.0.1:{free_port()}") as made:
        made.wait_connected(3)
        yield made


class AtDesk:
    """A window and the hands on it."""

    def __init__(self, qtbot: QtBot, window: MainWindow, venue: VenueProcess) -> None:
        self.qtbot = qtbot
        self.window = window
        self.venue = venue

    def panel(self, name: str) -> TablePanel:
        found = self.window.panels[name]
        assert isinstance(found, TablePanel)
        return found

    def shown(self, name: str) -> dict[str, dict[str, str]]:
        """Return a table as it is read on the screen: by key, title to text."""
        view = self.panel(name).view
        model = view.model()
        columns = [at for at in range(model.columnCount()) if not view.isColumnHidden(at)]
        titles = {at: model.headerData(at, Qt.Orientation.Horizontal) for at in columns}
        return {
            key: {titles[at].rstrip("▲▼ "): model.index(row, at).data() for at in columns}
            for row, key in enumerate(view.table.order)
        }

    async def row(self, name: str, key: str) -> dict[str, str]:
        return await until(lambda: self.shown(name).get(key), what=f"{key} in {name}")

    async def pick(self, name: str, key: str) -> None:
        """Click on a row."""
        self.window.show_panel(name)
        view = self.panel(name).view
        await until(lambda: view.isVisible() and key in view.table.pos)
        await asyncio.sleep(0.05)
        index = view.table.index(view.table.pos[key], 1)
        view.scrollTo(index)
        await self.press(view.viewport(), view.visualRect(index).center())
        await until(lambda: view.chosen_keys() == [key], what=f"{key} is selected")

    async def click(self, command: str) -> None:
        button = self.window.findChild(QAbstractButton, command + ".button")
        assert button is not None
        await until(lambda: button.isVisible() and button.isEnabled(), what=command)
        await self.press(button, button.rect().center())

    async def press(self, widget: QWidget, where: QPoint) -> None:
        """Move the pointer there, as a hand does, and click."""
        steps = itertools.cycle((QPoint(0, 0), QPoint(1, 0)))

        def there() -> bool:  # what is pointed at may still move: the hand follows
            QCursor.setPos(widget.mapToGlobal(where + next(steps)))
            return widget.underMouse()

        await until(there, what="the pointer is there")
        self.qtbot.mouseClick(widget, LEFT, pos=where)

    async def orders(self, right: Callable[[list[dict[str, Any]]], object]) -> list[dict[str, Any]]:
        """Return the venue's book once it is right."""
        return await until_there(lambda: asyncio.to_thread(self.venue.orders), right)


@contextlib.asynccontextmanager
async def attached(
    qtbot: QtBot, home: Path, engine: EngineProcess, venue: VenueProcess
) -> AsyncIterator[AtDesk]:
    """Open a window on a running engine."""
    window = MainWindow(home.parent)
    window.resize(1600, 1000)
    window.show()
    window.build()
    client = window.desk.client = remote_client(engine.url.replace("http", "ws"), read_token(home))
    await client.start(window.desk.store)
    try:
        await until(
            lambda: window.desk.store.connected and len(window.desk.store.rows("accounts")) == 3
        )
        yield AtDesk(qtbot, window, venue)
    finally:
        await client.stop()
        await window.desk.tasks.stop()
        window.closing = True
        window.close()
        window.deleteLater()


async def alert(home: Path, **fields: str) -> str:
    """Post a TradingView alert to the hook; return the signal's key."""
    told = await asyncio.to_thread(volley, home, "hook", "tv")
    body = {
        "ticker": "NASDAQ:AAPL",
        "action": "buy",
        "timenow": stamp(),
        "valid_for_s": "60",
        **fields,
    }
    async with httpx.AsyncClient(trust_env=False, timeout=20) as http:
        answer = await http.post(told.stdout.strip(), json=body)
    assert answer.status_code == 202, answer.text
    return f"tv/{answer.json()['signal_id'].rpartition('/')[2]}"


def by_account(orders: list[dict[str, Any]], **where: str) -> dict[str, tuple[Decimal, str]]:
    """Return filled quantity and status by account, of the orders that are like ``where``."""
    return {
        order["key_id"].replace("KEY", "A-"): (Decimal(order["filled_qty"]), order["status"])
        for order in orders
        if all(order[name] == value for name, value in where.items())
    }


def processes() -> dict[int, int]:
    """Return every running process and its parent."""
    line = ["ps", "-A", "-o", "pid=,ppid="]
    if os.name == "nt":
        script = 'Get-CimInstance Win32_Process | % { "$($_.ProcessId) $($_.ParentProcessId)" }'
        line = ["powershell", "-NoProfile", "-Command", script]
    listed = subprocess.run(line, capture_output=True, text=True, check=True).stdout
    return {int(pid): int(parent) for pid, parent in map(str.split, listed.splitlines())}


def family(pid: int) -> set[int]:
    """Return a process and all it started, directly or not."""
    parents = processes()
    found = {pid}
    while more := {child for child, parent in parents.items() if parent in found} - found:
        found |= more
    return found


# --- the trader's day -------------------------------------------------------------------------


def test_an_alert_is_seen_approved_filled_held_and_closed(
    qtbot: QtBot, home: Path, engine: EngineProcess, venue: VenueProcess
) -> None:
    async def scenario() -> None:
        async with attached(qtbot, home, engine, venue) as desk:
            key = await alert(home)
            row = await desk.row("signals", key)
            assert (row["Symbol"], row["Action"]) == ("AAPL", "▲ Buy")
            await until(lambda: desk.shown("signals")[key]["Held"] == "2")
            book = await desk.orders(lambda orders: by_account(orders, status="filled"))
            assert by_account(book) == {"A-003": (3, "filled")}, (
                "nothing is sent before it is approved"
            )

            await desk.pick("signals", key)
            await desk.click("signal.approve")
            filled = {f"A-00{n}": (Decimal(n), "filled") for n in (1, 2, 3)}
            await desk.orders(lambda orders: by_account(orders, symbol="AAPL") == filled)
            await until(lambda: desk.shown("signals")[key]["Filled"] == "3")
            for number in (1, 2, 3):
                position = await desk.row("positions", f"A-00{number}/AAPL")
                assert (position["Qty"], position["Avg price"]) == (str(number), "100.00")
            detail = engine.detail(key)
            assert {r["account"]: r["status"] for r in detail["accounts"]} == dict.fromkeys(
                filled, "filled"
            )

            refused = await alert(home, ticker="NASDAQ:MSFT")
            await until(lambda: desk.shown("signals").get(refused, {}).get("Held") == "2")
            await desk.pick("signals", refused)
            qtbot.keyClick(desk.panel("signals").view, Qt.Key.Key_R)
            await until(lambda: desk.shown("signals")[refused]["Held"] == "·")
            rows = {r["account"]: r for r in engine.detail(refused)["accounts"]}
            assert rows["A-001"]["code"] == rows["A-002"]["code"] != rows["A-003"]["code"]
            await desk.orders(
                lambda orders: by_account(orders, symbol="MSFT") == {"A-003": (3, "filled")}
            )

            await desk.pick("positions", "A-002/AAPL")
            await desk.click("position.close")
            sold = {"A-002": (Decimal(2), "filled")}
            await desk.orders(lambda orders: by_account(orders, symbol="AAPL", side="sell") == sold)
            await until(lambda: "A-002/AAPL" not in desk.shown("positions"))
            assert {"A-001/AAPL", "A-003/AAPL", "A-003/MSFT"} == set(desk.shown("positions"))

    on_qt(scenario)


def test_the_kill_key_cancels_what_works_shows_how_far_it_is_and_is_lifted_by_hand(
    qtbot: QtBot, home: Path, engine: EngineProcess, venue: VenueProcess
) -> None:
    async def scenario() -> None:
        async with attached(qtbot, home, engine, venue) as desk:
            await alert(home, order_type="limit", limit_price="97")
            await desk.orders(
                lambda orders: by_account(orders, status="new") == {"A-003": (0, "new")}
            )
            await until(
                lambda: [r for r in desk.shown("orders").values() if r["Status"] == "● New"]
            )

            qtbot.keyClick(desk.window, Qt.Key.Key_K, CTRL_SHIFT)
            await desk.orders(lambda orders: by_account(orders) == {"A-003": (0, "canceled")})
            risk: Any = desk.window.panels["risk"]
            await until(risk.isVisible)
            await until(lambda: set(risk.second.order) == {"A-001", "A-002", "A-003"})
            await until(lambda: all(risk.second.rows[a]["done"] for a in risk.second.order))
            assert [
                risk.second.rows["A-003"][name]
                for name in ("cancels_sent", "cancels_confirmed", "working")
            ] == [1, 1, 0]
            await until(lambda: "3/3 accounts done" in risk.summary.text())
            await until(lambda: "halted" in desk.window.banner.conditions)
            late = await alert(home, ticker="NASDAQ:MSFT")
            await until(lambda: desk.shown("signals").get(late, {}).get("Sent") == "·")
            assert len(venue.orders()) == 1, "nothing is sent while halted"

            await desk.click("trading.arm")
            dialog = await until(lambda: desk.window.findChild(dialogs.ALL["rearm"]))
            dialog._reason.setText("the venue is back")
            go = dialog.findChild(QAbstractButton, "go")
            qtbot.mousePress(go, LEFT)
            await until(lambda: desk.window.desk.store.engine["trading"] == "active")
            await until(lambda: "halted" not in desk.window.banner.conditions)
            assert engine.status()["trading"] == "active"
            again = await alert(home, ticker="NASDAQ:MSFT", price="400")
            await desk.orders(
                lambda orders: by_account(orders, symbol="MSFT") == {"A-003": (3, "filled")}
            )
            await until(lambda: desk.shown("signals").get(again, {}).get("Filled") == "1")

    on_qt(scenario)


def test_a_desk_elsewhere_finds_its_engine_again(
    qtbot: QtBot, home: Path, engine: EngineProcess, venue: VenueProcess
) -> None:
    async def scenario() -> None:
        async with attached(qtbot, home, engine, venue) as desk:
            await alert(home)
            held = await desk.row("positions", "A-003/AAPL")
            engine.kill()
            await until(lambda: "link" in desk.window.banner.conditions)
            assert not desk.window.desk.store.connected
            assert desk.panel("positions").model.stale, "old rows are shown as old"
            await asyncio.to_thread(engine.start)
            await until(lambda: desk.window.desk.store.connected)
            await until(lambda: not desk.window.banner.conditions.keys() & {"link", "crash"})
            assert (await desk.row("positions", "A-003/AAPL"))["Qty"] == held["Qty"] == "3"
            assert len(venue.orders()) == 1

    on_qt(scenario)


# --- the desk and its own engine --------------------------------------------------------------


def test_its_own_engine_killed_comes_back_and_closing_leaves_no_process(
    qtbot: QtBot, home: Path, venue: VenueProcess, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("VOLLEY_ENGINE__LISTEN", "127.0.0.1:0")
    args = argparse.Namespace(
        home=str(home), config=None, demo=False, connect=None, inline=False, seconds=None, screenshot=None
    )  # fmt: skip

    async def scenario() -> None:
        window = MainWindow(home)
        window.resize(1600, 1000)
        window.show()
        session = _Session(args, home, window, "", None)
        running = asyncio.create_task(session.run())
        desk = AtDesk(qtbot, window, venue)
        await until(lambda: "accounts" in window.panels and len(desk.shown("accounts")) == 3, 30)
        await until(lambda: window.desk.store.engine["connected"] == 3)
        await alert(home)
        assert (await desk.row("positions", "A-003/AAPL"))["Qty"] == "3"

        first = session._keeper.pid
        os.kill(first, KILL9)
        await until(lambda: "crash" in window.banner.conditions)
        assert "Restarting" in window.banner.conditions["crash"].text
        await until(lambda: window.desk.store.connected, 30)
        second = session._keeper.pid
        assert second != first
        assert (await desk.row("positions", "A-003/AAPL"))["Qty"] == "3"
        await until(lambda: window.desk.store.engine["connected"] == 3)
        await until(lambda: "crash" not in window.banner.conditions)
        assert len(venue.orders()) == 1, "nothing was sent twice"

        mine = family(second)
        window.close()
        assert await asyncio.wait_for(running, 20) == 0
        assert not mine & processes().keys()
        assert read_address(home) is None
        window.deleteLater()

    on_qt(scenario)


# --- the program itself -----------------------------------------------------------------------


def start(*arguments: str, **more: str) -> subprocess.Popen[str]:
    clean = {
        k: v for k, v in environment(**more).items() if k not in {"DISPLAY", "WAYLAND_DISPLAY"}
    }
    return subprocess.Popen(
        [sys.executable, str(ROOT / "main.py"), "desk", *arguments],
        env=clean | {"QT_QPA_PLATFORM": "offscreen"}, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
        stderr=subprocess.PIPE, text=True,
    )  # fmt: skip


def ended(process: subprocess.Popen[str], picture: Path) -> None:
    """Expect a clean end, nothing said, and a picture that is no blank."""
    out, errors = process.communicate(timeout=120)
    assert (process.returncode, out, errors) == (0, "", "")
    image = QImage(str(picture))
    points = [(x, y) for x in range(0, image.width(), 7) for y in range(0, image.height(), 7)]
    assert len({image.pixel(x, y) for x, y in points}) > 40


def status_of(home: Path) -> dict[str, Any]:
    """Ask the engine that runs on a home for its own row."""
    known = read_address(home)
    if known is None:
        return {}
    headers = {"Authorization": f"Bearer {read_token(home)}"}
    with contextlib.suppress(httpx.TransportError):
        answer = httpx.get(f"{known[0]}/v1/status", headers=headers, trust_env=False)
        return dict(answer.json()["engine"])
    return {}


@pytest.mark.parametrize("where", ["beside", "inline"])
def test_the_demo_trades_and_leaves_no_process(tmp_path: Path, where: str) -> None:
    home, picture = tmp_path / "home", tmp_path / "desk.png"
    inline = ["--inline"] if where == "inline" else []
    desk = start(
        "--demo", *inline, "--home", str(home), "--for", "12", "--screenshot", str(picture)
    )
    until_now(lambda: status_of(home).get("fills", 0) > 0, 60, "practice orders fill")
    running = family(desk.pid)
    assert len(running) == (3 if inline else 4), "desk, venue, watchdog and, unless inside, engine"
    assert (status_of(home)["pid"] == desk.pid) is bool(inline)
    ended(desk, picture)
    assert not running & processes().keys()
    assert read_address(home) is None


def test_connected_to_an_engine_it_shows_it_and_leaves_it_running(
    tmp_path: Path, home: Path, engine: EngineProcess
) -> None:
    token, picture = read_token(home), tmp_path / "desk.png"
    address = engine.url.replace("http", "ws")
    line = (
        "--connect",
        address,
        "--home",
        str(tmp_path / "other"),
        "--for",
        "8",
        "--screenshot",
        str(picture),
    )
    desk = start(*line, VOLLEY_TOKEN=token)
    ended(desk, picture)
    assert engine.status()["connected"] == 3


def test_a_stop_dragged_on_the_price_chart_is_moved_at_the_engine(
    qtbot: QtBot, home: Path, engine: EngineProcess, venue: VenueProcess
) -> None:
    async def scenario() -> None:
        async with attached(qtbot, home, engine, venue) as desk:
            await alert(home, stop_loss="98", take_profit="104")
            await desk.row("positions", "A-003/AAPL")
            rows = desk.window.desk.store.rows("positions")
            await until(lambda: rows["A-003/AAPL"].get("stop_loss") == "98")
            desk.window.show_panel("price")
            panel: Any = desk.window.panels["price"]
            panel.show_symbol("AAPL")
            await until(lambda: panel.levels is not None, what="the chart is built")
            await until(lambda: len(panel.series) or panel.problem, what="bars are read")
            assert panel.problem == ""
            await until(lambda: panel.levels.lines, what="lines are drawn")
            await until(panel.levels.movable, what="a stop that may be moved")
            box, view = panel.plot.getPlotItem().vb, panel.plot.viewport()
            await until(lambda: box.viewRange()[1][0] < 98, what="the stop is in sight")

            def spot(price: float) -> QPoint:
                left, right = box.viewRange()[0]
                at = QPointF(left + 0.3 * (right - left), price)
                return QPoint(panel.plot.mapFromScene(box.mapViewToScene(at)))

            here, there = spot(98), spot(98.5)
            qtbot.mousePress(view, LEFT, pos=here)
            for step in range(1, 6):
                drag_on(view, here + (there - here) * step / 5)
                await asyncio.sleep(0.02)
            qtbot.mouseRelease(view, LEFT, pos=there)
            dialog = await until(lambda: next(iter(desk.window.findChildren(dialogs.Dialog)), None))
            assert "from 98.00 to 98." in dialog.windowTitle()
            new = dialog.windowTitle().rpartition(" ")[2]
            go = dialog.findChild(QAbstractButton, "go")
            qtbot.mouseClick(go, LEFT)
            await until(lambda: Decimal(rows["A-003/AAPL"]["stop_loss"]) == Decimal(new))
            held = {row["account"]: row for row in engine.rows("positions")}
            assert Decimal(held["A-003"]["stop_loss"]) == Decimal(new)
            assert held["A-003"]["take_profit"] == "104"

    on_qt(scenario)


def drag_on(view: QWidget, at: QPoint) -> None:
    """Move the pointer with the left button held."""
    move = QMouseEvent(
        QEvent.Type.MouseMove,
        QPointF(at),
        QPointF(view.mapToGlobal(at)),
        Qt.MouseButton.NoButton,
        LEFT,
        Qt.KeyboardModifier.NoModifier,
    )
    QApplication.sendEvent(view, move)
