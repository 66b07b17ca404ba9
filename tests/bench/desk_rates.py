"""How the desk holds up: frame intervals and the longest stall of its loop at 1,000 and 20,000 changes a second.

``python -m tests.bench.desk_rates [--seconds S] [--rates 1000,20000] [--size 1920x1080] [--json]``. Offscreen, the
script in a process of its own, every panel of the Trade layout in sight, charts moving. A stall is how late a 5 ms
timer of the same loop fires; ``exit 1`` when one is longer than 50 ms at 1,000 changes a second.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import sys
import tempfile
import time
from datetime import UTC, datetime, timedelta
from pathlib import Path

os.environ.setdefault("QT_QPA_PLATFORM", "offscreen")
os.environ.setdefault("QT_API", "pyside6")

import qasync
from PySide6.QtCore import Qt, QTimer
from PySide6.QtWidgets import QApplication

from engine.model import tables
from gui.main_window import MainWindow
from tests.bench.script import Script
from tests.gui.scripted import ScriptedClient

LIMIT_MS = 50.0


class StallMeter:
    """How late a precise 5 ms timer fires: what a click would have waited (milliseconds).

    ``worked``: how long this thread itself was busy meanwhile; the rest it waited for a processor.
    """

    def __init__(self) -> None:
        self.late: list[float] = []
        self.worked: list[float] = []
        self._at = time.perf_counter()
        self._busy = time.thread_time()
        self._timer = QTimer()
        self._timer.setTimerType(Qt.TimerType.PreciseTimer)
        self._timer.setInterval(5)
        self._timer.timeout.connect(self._fire)

    def start(self) -> None:
        self.late.clear()
        self.worked.clear()
        self._at, self._busy = time.perf_counter(), time.thread_time()
        self._timer.start()

    def stop(self) -> None:
        self._timer.stop()

    def _fire(self) -> None:
        now, busy = time.perf_counter(), time.thread_time()
        self.late.append((now - self._at) * 1e3 - 5.0)
        self.worked.append((busy - self._busy) * 1e3)
        self._at, self._busy = now, busy


def percentile(values: list[float], share: float) -> float:
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(len(ordered) * share))] if ordered else 0.0


async def measure(
    window: MainWindow, client: ScriptedClient, rate: int, seconds: float
) -> dict[str, float]:
    meter = StallMeter()
    pump = window.desk.store.meter
    pump.intervals.clear()
    pump.work.clear()
    intervals: list[float] = []
    work: list[float] = []
    client.flush()
    with Script(client, rate) as script:
        await asyncio.sleep(0.3)
        for changes in script.news():
            client.listener.on_batch(changes, {})
        script.made = 0
        meter.start()
        cpu, begun = time.process_time(), time.perf_counter()
        second = 0
        while (elapsed := time.perf_counter() - begun) < seconds:
            for changes in script.news():
                client.listener.on_batch(changes, {})
            if int(elapsed) > second:
                second = int(elapsed)
                client.latency(datetime.now(UTC))
                client.put(tables.ENGINE, client.engine())
                client.signal(datetime.now(UTC))
                client.flush()
            intervals += pump.intervals
            work += pump.work
            pump.intervals.clear()
            pump.work.clear()
            await asyncio.sleep(0.012)
        meter.stop()
        cpu, wall = time.process_time() - cpu, time.perf_counter() - begun
    return {
        "rate": rate,
        "changes_per_s": round(script.made / wall),
        "frames_per_s": round(len(work) / wall, 1),
        "frame_interval_p50_ms": round(percentile(intervals, 0.5), 2),
        "frame_interval_p99_ms": round(percentile(intervals, 0.99), 2),
        "frame_work_p50_ms": round(percentile(work, 0.5), 2),
        "frame_work_p99_ms": round(percentile(work, 0.99), 2),
        "stall_p99_ms": round(percentile(meter.late, 0.99), 2),
        "stall_max_ms": round(max(meter.late), 2),
        "work_max_ms": round(max(meter.worked), 2),
        "cpu_percent_without_script": round(100 * cpu / wall),
    }


async def run(args: argparse.Namespace) -> list[dict[str, float]]:
    width, height = (int(part) for part in args.size.split("x"))
    with tempfile.TemporaryDirectory() as home:
        window = MainWindow(Path(home))
        window.resize(width, height)
        window.show()
        window.build()
        client = ScriptedClient(accounts=40)
        client.morning()
        window.desk.client = client
        await client.start(window.desk.store)
        for number in range(120):
            client.latency(client.now - timedelta(seconds=120 - number))
            client.flush()
            window.desk.store.frame()
        window.panels["signals"].view.select_key(next(reversed(client.tables[tables.SIGNALS])))
        await asyncio.sleep(1.0)
        results = [await measure(window, client, rate, args.seconds) for rate in args.rates]
        await window.desk.tasks.stop()
        window.closing = True
        window.close()
        return results


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seconds", type=float, default=6.0)
    parser.add_argument(
        "--rates",
        type=lambda text: [int(part) for part in text.split(",")],
        default=[1_000, 20_000],
    )
    parser.add_argument("--size", default="1920x1080")
    parser.add_argument("--json", action="store_true")
    args = parser.parse_args()
    app = QApplication([])
    app.setStyle("Fusion")
    app.setQuitOnLastWindowClosed(False)
    with asyncio.Runner(loop_factory=lambda: qasync.QEventLoop(app)) as runner:
        results = runner.run(run(args))
    for result in results:
        sys.stdout.write(json.dumps(result) + "\n" if args.json else _lines(result))
    calm = [result for result in results if result["rate"] <= 1_000]
    return int(any(result["stall_max_ms"] > LIMIT_MS for result in calm))


def _lines(result: dict[str, float]) -> str:
    body = "\n".join(f"  {name:28} {value}" for name, value in result.items() if name != "rate")
    return f"{int(result['rate']):,} changes a second\n{body}\n"


if __name__ == "__main__":
    sys.exit(main())
