"""Takes pictures of the desk on scripted data: ``python -m tests.gui.shoot DIRECTORY [name part]``.

Every picture in both themes; empty, busy and killed; at 1280×800 and 2560×1440; each panel and dialog alone.
"""

from __future__ import annotations

import asyncio
import os
import sys
import tempfile
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

os.environ.setdefault("QT_QPA_PLATFORM", "offscreen")
os.environ.setdefault("QT_API", "pyside6")

import qasync
from PySide6.QtGui import QPixmap
from PySide6.QtWidgets import QApplication, QWidget

from engine.model import tables
from gui import dialogs, panels
from gui.main_window import LoopWatch, MainWindow
from tests.gui.scripted import ScriptedClient


def picture(widget: QWidget, path: Path) -> None:
    pixmap = QPixmap(widget.size())
    widget.render(pixmap)
    pixmap.save(str(path))


async def settle(seconds: float = 0.9) -> None:
    await asyncio.sleep(seconds)


async def shoot(out: Path, only: str) -> None:
    for theme in ("dark", "light"):
        for size in ((1280, 800), (2560, 1440)):
            for mode in ("empty", "busy", "killed"):
                name = f"{mode}-{theme}-{size[0]}"
                if only and only not in name and only not in {"panels", "dialogs"}:
                    continue
                if only in {"panels", "dialogs"} and (mode != "busy" or size[0] != 1280):
                    continue
                await one(out, name, theme, size, mode, only)


async def one(
    out: Path, name: str, theme: str, size: tuple[int, int], mode: str, only: str
) -> None:
    with tempfile.TemporaryDirectory() as home:
        window = MainWindow(Path(home), theme=theme)
        window.resize(*size)
        window.show()
        client = ScriptedClient(accounts=0 if mode == "empty" else 40)
        client.now = datetime.now(UTC)
        if mode != "empty":
            client.morning()
        if only in {"panels", "dialogs"}:
            client.before_the_open()
        window.build()
        window.desk.client = client
        watch = LoopWatch()
        watching = asyncio.create_task(watch.run())
        window.status.ui_lag_ms = watch.lag_ms
        await client.start(window.desk.store)
        if mode != "empty":
            for second in range(240):
                client.latency(client.now - timedelta(seconds=240 - second))
                client.flush()
                window.desk.store.frame()
        if mode == "killed":
            client.killed()
            client.flush()
        view = window.panels["signals"].view
        if mode != "empty":
            view.selectRow(2)
        await settle()
        client.step(60)
        client.put(
            tables.ENGINE, client.engine(**({"trading": "halted"} if mode == "killed" else {}))
        )
        client.flush()
        if mode == "busy" and only in {"", "toast"}:
            window.desk.say("ok", "Approved: NVDA brk-00059", "3 of 3 taken by the engine.")
        await asyncio.sleep(0.15)
        if only == "panels":
            await each_panel(out, window, theme)
        elif only == "dialogs":
            await each_dialog(out, window, client, theme)
        else:
            picture(window, out / f"{name}.png")
            if mode == "busy" and size[0] == 2560:
                for preset in ("review", "latency", "risk"):
                    window.arrange(preset)
                    await settle(0.6)
                    picture(window, out / f"{preset}-{theme}-2560.png")
        watching.cancel()
        window.closing = True
        window.close()
        window.deleteLater()


async def each_panel(out: Path, window: MainWindow, theme: str) -> None:
    for make in panels.ALL:
        dock = window.docks[make.NAME]
        dock.setFloating(True)
        dock.resize(900, 420)
        dock.show()
        await settle(0.6)
        picture(dock, out / f"panel-{make.NAME}-{theme}.png")


async def each_dialog(out: Path, window: MainWindow, client: ScriptedClient, theme: str) -> None:
    held = next(row for row in client.tables[tables.SIGNALS].values() if row["state"] == "held")
    order = next(row for row in client.tables[tables.ORDERS].values() if row["status"] == "new")
    needing = next(row for row in client.tables[tables.ACCOUNTS].values() if row["logs_in"])
    client.answers["log_in"] = {
        "url": "https://kite.zerodha.com/connect/login?v=3&api_key=practicekey"
    }
    window.desk.engine_here = False  # or a browser would open
    subjects: dict[str, dict[str, Any]] = {
        "approve": {"signal": held},
        "force": {"signal": held},
        "replace": {"order": order},
        "resolve": {"order": order},
        "why": {
            "order": next(
                r for r in client.tables[tables.ORDERS].values() if r["status"] == "rejected"
            )
        },
        "close_part": {"position": next(iter(client.tables[tables.POSITIONS].values()))},
        "scope": {"act": "pause"},
        "ticket": {"symbol": "AAPL"},
        "log_in": {"account": needing},
        "limits": {"account": needing},
        "pin": {"text": "rearm needs the PIN of ada", "answer": str},
        "rearm": {"scope": "all", "state": "disarmed"},
        "stops": {"position": next(iter(client.tables[tables.POSITIONS].values()))},
        "note": {
            "row": order,
            "name": order["cl_ord_id"],
            "on": "order",
            "key": order["cl_ord_id"],
        },
        "recording": {"home": out},
        "rerun": {"home": out},
        "comparison": {"home": out},
        "save_view": {"title": "Orders", "names": ["Everything"], "save": str},
        "confirm": {
            "title": "Close 12 positions",
            "facts": [("Symbol", "NVDA"), ("Accounts", "12"), ("Open profit or loss", "+312.40")],
            "go": "Close 12 positions",
            "run": None,
            "danger": 2,
        },
    }
    for name, make in dialogs.ALL.items():
        subject = {"url": "ws://127.0.0.1:8787", "answer": str}
        dialog = make(window.desk, subjects.get(name, subject))
        dialog.present()
        await settle(0.3)
        picture(dialog, out / f"dialog-{name}-{theme}.png")
        dialog.close()


def main() -> int:
    out = Path(sys.argv[1])
    out.mkdir(parents=True, exist_ok=True)
    app = QApplication([])
    app.setStyle("Fusion")
    app.setQuitOnLastWindowClosed(False)
    with asyncio.Runner(loop_factory=lambda: qasync.QEventLoop(app)) as runner:
        runner.run(shoot(out, sys.argv[2] if len(sys.argv) > 2 else ""))
    return 0


if __name__ == "__main__":
    sys.exit(main())
