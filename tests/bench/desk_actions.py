"""What a hand at the desk waits for, against a real engine and a simulated venue, over real sockets.

``python -m tests.bench.desk_actions [--tries N] [--accounts N] [--json]``. Every process reads one monotonic clock
(Linux), and the venue notes when each request arrived. ``approve``: from the press of the Approve button to the first
order's arrival. ``halt``: from the kill key to the engine's latch and to the last cancel's arrival, all accounts with
five working orders each. ``hung``: the same, pressed with ``main.py kill`` while the desk's own thread is blocked.
``launch``: from starting the desk's process to its first live rows; a first start that compiles it is not counted.
``killed``: the desk ended with SIGKILL while a signal goes out, and started again: orders lost, and the time until it
is live.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import Any

os.environ.setdefault("QT_QPA_PLATFORM", "offscreen")
os.environ.setdefault("QT_API", "pyside6")

import qasync
from PySide6.QtCore import Qt
from PySide6.QtTest import QTest
from PySide6.QtWidgets import QAbstractButton, QApplication

from engine.client import remote_client
from gui.garbage import keep_to_this_thread
from gui.main_window import MainWindow
from gui.panel import TablePanel
from gui.supervisor import read_token
from tests.bench.desk_rates import percentile
from tests.processes import (
    ROOT,
    EngineProcess,
    VenueProcess,
    alpaca,
    environment,
    import_accounts,
    volley,
    write_config,
)

PER_ACCOUNT = 5
CTRL_SHIFT = Qt.KeyboardModifier.ControlModifier | Qt.KeyboardModifier.ShiftModifier
LEFT = Qt.MouseButton.LeftButton


class World:
    """Venue, engine and a window attached to it."""

    def __init__(
        self, venue: VenueProcess, engine: EngineProcess, window: MainWindow, accounts: int
    ) -> None:
        self.venue, self.engine, self.window, self.accounts = venue, engine, window, accounts
        self._after = 0

    async def ask(self, act: Callable[..., Any], *arguments: Any, **fields: Any) -> Any:
        return await asyncio.to_thread(act, *arguments, **fields)

    async def arrived(self, methods: set[str]) -> list[int]:
        """Return when the venue's new requests of these methods arrived (monotonic nanoseconds)."""
        rows = await self.ask(self.venue.get, "/sim/log", after=self._after)
        if rows:
            self._after = rows[-1]["n"]
        return [row["monotonic_ns"] for row in rows if row["method"] in methods]

    async def until(self, fact: Callable[[], object], seconds: float = 60.0) -> None:
        async with asyncio.timeout(seconds):
            while not fact():  # noqa: ASYNC110 (a bounded poll: what is waited for has no event)
                await asyncio.sleep(0.005)

    async def working(self, count: int) -> None:
        """Wait until the venue works so many orders."""
        async with asyncio.timeout(90):
            while True:
                summary = await self.ask(self.venue.orders)
                if (
                    sum(
                        order["status"] in {"new", "accepted", "partially_filled"}
                        for order in summary
                    )
                    == count
                ):
                    return
                await asyncio.sleep(0.1)


async def approve(world: World, tries: int) -> dict[str, list[float]]:
    """A signal is held for review; its row is chosen, and the Approve button pressed."""
    panel = world.window.panels["signals"]
    assert isinstance(panel, TablePanel)
    button = world.window.findChild(QAbstractButton, "signal.approve.button")
    assert button is not None
    first, whole = [], []
    for number in range(tries):
        await world.arrived({"POST"})
        identity = f"approve-{number}"
        side = "buy" if number % 2 == 0 else "sell"
        answer = await world.ask(
            world.engine.signal, id=identity, action=side, audience={"tags": ["held"]}
        )
        assert answer.json()["state"] == "held", answer.text
        key = f"bot/{identity}"
        await world.until(lambda: key in panel.view.table.pos)  # noqa: B023 (awaited here)
        panel.view.select_key(key)
        await world.until(button.isEnabled)
        begun = time.monotonic_ns()
        QTest.mouseClick(button, LEFT)
        rows = world.window.desk.store.rows("signals")
        await world.until(lambda: rows[key]["state"] == "accepted")  # noqa: B023 (awaited here)
        await asyncio.sleep(0.3)
        times = await world.arrived({"POST"})
        assert len(times) == world.accounts, (len(times), world.accounts)
        first.append((min(times) - begun) / 1e6)
        whole.append((max(times) - begun) / 1e6)
    return {
        "press of Approve → first order at the venue": first,
        f"… → last of {world.accounts}": whole,
    }


async def _fill_books(world: World, tag: str) -> None:
    """Give every account five orders that rest."""
    for number in range(PER_ACCOUNT):
        answer = await world.ask(
            world.engine.signal, id=f"{tag}-{number}", order_type="limit", limit_price="396", symbol="MSFT",
            audience={"tags": ["all"]},
        )  # fmt: skip
        assert answer.status_code == 202, answer.text
    await world.working(PER_ACCOUNT * world.accounts)


async def _rearm(world: World) -> None:
    await world.working(0)
    await world.ask(world.engine.command, "rearm", scope="all", reason="the bench goes on")
    await world.until(lambda: world.window.desk.store.engine.get("trading") == "active")


async def halt(world: World, tries: int) -> dict[str, list[float]]:
    """The kill key, with working orders everywhere."""
    last, told = [], []
    for number in range(max(1, tries // 10)):
        await _fill_books(world, f"halt-{number}")
        await world.arrived({"DELETE"})
        begun = time.monotonic_ns()
        QTest.keyClick(world.window, Qt.Key.Key_K, CTRL_SHIFT)
        await world.until(lambda: world.window.desk.store.engine.get("trading") == "halted")
        told.append((time.monotonic_ns() - begun) / 1e6)
        await world.working(0)
        times = await world.arrived({"DELETE"})
        last.append((max(times) - begun) / 1e6)
        await _rearm(world)
    return {
        "kill key → the desk shows that the engine has halted": told,
        f"kill key → last cancel at the venue ({world.accounts} × {PER_ACCOUNT})": last,
    }


async def hung(world: World, _tries: int) -> dict[str, list[float]]:
    """The desk's own thread is blocked for five seconds; ``main.py kill`` is started meanwhile."""
    await _fill_books(world, "hung")
    await world.arrived({"DELETE"})
    stamps: list[int] = []

    def press() -> None:
        stamps.append(time.monotonic_ns())
        volley(world.engine.home, "kill", "--reason", "the desk hangs")

    thread = threading.Thread(target=press)
    thread.start()
    time.sleep(5)  # noqa: ASYNC251 (the hang itself: nothing on this loop runs)
    await world.ask(thread.join)
    await world.working(0)
    times = await world.arrived({"DELETE"})
    await _rearm(world)
    return {
        "main.py kill, desk hung: process start → first cancel": [(min(times) - stamps[0]) / 1e6],
        "… → last cancel": [(max(times) - stamps[0]) / 1e6],
    }


def desk_process(world: World, out: Path) -> subprocess.Popen[bytes]:
    """Start the desk as a user does, attached to the engine; it notes its first live rows."""
    token = (world.engine.home / "token").read_text("utf-8").strip()
    line = [
        sys.executable,
        "-m",
        "tests.bench.desk_actions",
        "--as-desk",
        world.engine.url,
        "--note",
        str(out),
    ]
    around = environment(VOLLEY_TOKEN=token, PYTHONPYCACHEPREFIX=str(out.parent / "bytecode"))
    around.pop("PYTHONDONTWRITEBYTECODE", None)  # an installed desk is compiled but once
    return subprocess.Popen(line, cwd=ROOT, env=around)


def be_desk(url: str, note: Path) -> int:
    """Open a window; write the monotonic time at which its first rows were painted; stay."""
    app = _app()

    async def run() -> None:
        with tempfile.TemporaryDirectory() as home:
            window = MainWindow(Path(home))
            window.resize(1600, 1000)
            window.show()
            window.build()
            client = window.desk.client = remote_client(
                url.replace("http", "ws"), os.environ["VOLLEY_TOKEN"]
            )
            await client.start(window.desk.store)
            store = window.desk.store
            while not (store.connected and store.rows("accounts")):  # noqa: ASYNC110 (a poll)
                await asyncio.sleep(0.001)
            await asyncio.sleep(0)
            note.write_text(str(time.monotonic_ns()), "ascii")  # noqa: ASYNC240 (once, at the end)
            await asyncio.Event().wait()

    with asyncio.Runner(loop_factory=lambda: qasync.QEventLoop(app)) as runner:
        runner.run(run())
    return 0


async def launch(world: World, tries: int) -> dict[str, list[float]]:
    times = []
    for number in range(max(3, tries // 8) + 1):
        note = world.engine.home.parent / f"launch-{number}"
        begun = time.monotonic_ns()
        process = desk_process(world, note)
        await world.until(note.exists)
        await world.until(note.read_bytes)
        if number:
            times.append((int(note.read_text("ascii")) - begun) / 1e6)
        process.kill()
        await world.ask(process.wait)
    return {f"starting the process → live rows of {world.accounts} accounts": times}


async def killed(world: World, tries: int) -> dict[str, list[float]]:
    lost, back = [], []
    for number in range(max(3, tries // 8)):
        note = world.engine.home.parent / f"killed-{number}"
        process = desk_process(world, note)
        await world.until(note.exists)
        await world.arrived({"POST"})
        process.send_signal(signal.SIGKILL)
        answer = await world.ask(
            world.engine.signal, id=f"killed-{number}", audience={"tags": ["all"]}
        )
        assert answer.status_code == 202
        await world.ask(process.wait)
        again = note.with_suffix(".again")
        begun = time.monotonic_ns()
        process = desk_process(world, again)
        await world.until(again.exists)
        await world.until(again.read_bytes)
        back.append((int(again.read_text("ascii")) - begun) / 1e6)
        process.kill()
        await world.ask(process.wait)
        lost.append(float(world.accounts - len(await world.arrived({"POST"}))))
    return {"desk killed with SIGKILL: started again → live": back, "… orders lost (count)": lost}


PARTS = {"approve": approve, "halt": halt, "hung": hung, "launch": launch, "killed": killed}


async def run(args: argparse.Namespace, directory: Path) -> dict[str, list[float]]:
    found: dict[str, list[float]] = {}
    home = directory / "home"
    home.mkdir(mode=0o700)
    with ExitStack() as stack:
        venue = stack.enter_context(
            VenueProcess(directory, "--still", "--follow-percent", "0.0001")
        )
        venue.post("/sim/price", {"AAPL": "100", "MSFT": "400"})
        write_config(home)
        import_accounts(
            home,
            [alpaca(n, venue.url, tags=["all"]) for n in range(args.accounts)]
            + [
                alpaca(1_000 + n, venue.url, tags=["held"], approval="review")
                for n in range(args.accounts)
            ],
        )
        engine = stack.enter_context(EngineProcess(home))
        await asyncio.to_thread(engine.wait_connected, 2 * args.accounts)
        window = MainWindow(directory / "desk")
        window.resize(1600, 1000)
        window.show()
        window.build()
        keep_to_this_thread()
        client = window.desk.client = remote_client(
            engine.url.replace("http", "ws"), read_token(home)
        )
        await client.start(window.desk.store)
        world = World(venue, engine, window, args.accounts)
        await world.until(lambda: window.desk.store.connected)
        for name in args.only:
            found |= await PARTS[name](world, args.tries)
        await client.stop()
        await window.desk.tasks.stop()
        window.closing = True
        window.close()
    return found


def _app() -> QApplication:
    app = QApplication([])
    app.setStyle("Fusion")
    app.setQuitOnLastWindowClosed(False)
    return app


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    add = parser.add_argument
    add("--tries", type=int, default=40)
    add("--accounts", type=int, default=50)
    add("--only", type=lambda text: text.split(","), default=list(PARTS))
    add("--json", action="store_true")
    add("--as-desk", metavar="URL", help=argparse.SUPPRESS)
    add("--note", type=Path, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.as_desk:
        return be_desk(args.as_desk, args.note)
    app = _app()
    with (
        tempfile.TemporaryDirectory() as directory,
        asyncio.Runner(loop_factory=lambda: qasync.QEventLoop(app)) as runner,
    ):
        found = runner.run(run(args, Path(directory)))
    if args.json:
        sys.stdout.write(json.dumps(found, ensure_ascii=False) + "\n")
        return 0
    for name, times in found.items():
        unit = "" if "count" in name else " ms"
        sys.stdout.write(
            f"{name:62} n {len(times):3}  p50 {percentile(times, 0.5):7.1f}  p99 {percentile(times, 0.99):7.1f}{unit}\n"
        )
    return 0


if __name__ == "__main__":
    sys.exit(main())
