"""The desk beside a real engine: does it stay fluent, and does it cost the engine anything?

``python -m tests.bench.desk_engine [--window 60] [--accounts 40] [--signals 1] [--json]``. A simulated venue whose
prices move, an engine process with accounts on it, signals posted at a steady rate: hundreds of changes a
second on the feed. Windows without and with a desk process (offscreen, 1280×800, attached by ``RemoteClient``) take
turns, so that a slow spell of the machine meets both. Printed: the desk's frames and its loop's longest stall; the
engine's ``send`` and ``last_byte`` in each window (its own last minute; windows of 60 s or more) and the times to the
last byte of the window's signals; and their ratio. ``work``: the longest the desk's own thread was busy at a stretch;
what a stall has beyond it, the desk waited for a processor.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import subprocess
import sys
import tempfile
import time
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import httpx

from tests.processes import (
    ROOT,
    EngineProcess,
    VenueProcess,
    alpaca,
    environment,
    import_accounts,
    signal_document,
    stamp,
    write_config,
)

SYMBOLS = ("AAPL", "MSFT", "NVDA", "TSLA", "AMZN", "SPY", "BTCUSDT", "ETHUSDT")
SETTLE_S = 4.0


# --- the desk process -------------------------------------------------------------------------


def be_desk(url: str, home: str) -> int:
    """Be the desk until standard input closes; then print what was measured."""
    os.environ["QT_QPA_PLATFORM"] = "offscreen"
    os.environ["QT_API"] = "pyside6"
    import qasync
    from PySide6.QtWidgets import QApplication

    from engine.client import remote_client
    from gui.garbage import keep_to_this_thread
    from gui.main_window import MainWindow
    from tests.bench.desk_rates import StallMeter, percentile

    app = QApplication([])
    app.setStyle("Fusion")
    app.setQuitOnLastWindowClosed(False)

    async def run() -> None:
        loop = asyncio.get_running_loop()
        window = MainWindow(Path(home))
        window.resize(1280, 800)
        window.show()
        window.build()
        keep_to_this_thread()
        client = window.desk.client = remote_client(url, os.environ["VOLLEY_TOKEN"])
        store = window.desk.store
        await client.start(store)
        closed = loop.run_in_executor(None, sys.stdin.read)
        await asyncio.sleep(SETTLE_S / 2)
        assert store.connected, store.link_text
        meter, intervals, work = StallMeter(), [], []
        store.meter.intervals.clear()
        store.meter.work.clear()
        began, seen, cpu = time.monotonic(), store.changes_seen, time.process_time()
        meter.start()
        while not closed.done():
            await asyncio.sleep(0.5)
            intervals += store.meter.intervals
            work += store.meter.work
            store.meter.intervals.clear()
            store.meter.work.clear()
        meter.stop()
        wall = time.monotonic() - began
        sys.stdout.write(json.dumps({
            "changes_per_s": round((store.changes_seen - seen) / wall),
            "frames_per_s": round(len(work) / wall, 1),
            "frame_interval_p50_ms": round(percentile(intervals, 0.5), 1),
            "frame_interval_p99_ms": round(percentile(intervals, 0.99), 1),
            "frame_work_p99_ms": round(percentile(work, 0.99), 1),
            "stall_p99_ms": round(percentile(meter.late, 0.99), 1),
            "stall_p999_ms": round(percentile(meter.late, 0.999), 1),
            "stall_max_ms": round(max(meter.late), 1),
            "work_p999_ms": round(percentile(meter.worked, 0.999), 1),
            "work_max_ms": round(max(meter.worked), 1),
            "cpu_percent": round(100 * (time.process_time() - cpu) / wall),
        }))  # fmt: skip
        await client.stop()
        await window.desk.tasks.stop()
        window.closing = True
        window.close()

    with asyncio.Runner(loop_factory=lambda: qasync.QEventLoop(app)) as runner:
        runner.run(run())
    return 0


class DeskProcess:
    """``be_desk`` in a process of its own."""

    def __init__(self, engine: EngineProcess, home: Path) -> None:
        token = (engine.home / "token").read_text("utf-8").strip()
        line = [sys.executable, "-m", "tests.bench.desk_engine"]
        self._process = subprocess.Popen(
            [*line, "--as-desk", engine.url, "--desk-home", str(home)],
            cwd=ROOT, env=environment(VOLLEY_TOKEN=token), text=True,
            stdin=subprocess.PIPE, stdout=subprocess.PIPE,
        )  # fmt: skip

    def end(self) -> dict[str, float]:
        """Close it; return what it measured."""
        said, _ = self._process.communicate(timeout=30)
        return dict(json.loads(said))


# --- the load and the windows -----------------------------------------------------------------


async def post(engine: EngineProcess, rate: float, seconds: float, tag: str) -> None:
    """Post signals at a steady rate; every symbol is bought, then sold again."""
    began = time.monotonic()
    async with httpx.AsyncClient(
        base_url=engine.url, headers=dict(engine.http.headers), trust_env=False, timeout=30
    ) as http:
        number = 0
        while (due := number / rate) < seconds:
            await asyncio.sleep(max(0.0, began + due - time.monotonic()))
            document = signal_document(
                id=f"{tag}-{number}",
                symbol=SYMBOLS[number % len(SYMBOLS)],
                action="buy" if number // len(SYMBOLS) % 2 == 0 else "sell",
                issued_at=stamp(),
            )
            answer = await http.post("/v1/signals", json=document)
            assert answer.status_code == 202, answer.text
            number += 1


def window(engine: EngineProcess, args: argparse.Namespace, tag: str) -> dict[str, float]:
    """Run one window; return the engine's latencies in it, in microseconds."""
    from tests.bench.desk_rates import percentile

    asyncio.run(post(engine, args.signals, args.window, tag))
    rows = [row for row in engine.rows("signals") if row["id"].startswith(f"{tag}-")]
    times = [float(row["last_byte_us"]) for row in rows if row["last_byte_us"] is not None]
    found = {"trace.p50": percentile(times, 0.5), "trace.p99": percentile(times, 0.99)}
    if args.window >= 60:
        stages = engine.get("/v1/latency")["stages"]
        for stage in ("send", "last_byte"):
            for name in ("p50", "p99"):
                found[f"{stage}.{name}"] = float(stages[stage]["minute"][name])
    return found


def measure(args: argparse.Namespace, directory: Path) -> dict[str, Any]:
    """Run the windows in turn."""
    home = directory / "home"
    home.mkdir(mode=0o700)
    alone: list[dict[str, float]] = []
    beside: list[dict[str, float]] = []
    desks: list[dict[str, float]] = []
    with ExitStack() as stack:
        venue = stack.enter_context(VenueProcess(directory, "--tick-interval", "0.1"))
        write_config(home)
        import_accounts(home, [alpaca(n, venue.url) for n in range(args.accounts)])
        engine = stack.enter_context(EngineProcess(home))
        engine.wait_connected(args.accounts)
        asyncio.run(post(engine, args.signals, SETTLE_S, "warm"))
        for turn in range(args.turns):
            alone.append(window(engine, args, f"alone{turn}"))
            desk = DeskProcess(engine, directory / "desk")
            asyncio.run(post(engine, args.signals, SETTLE_S, f"settle{turn}"))
            beside.append(window(engine, args, f"beside{turn}"))
            desks.append(desk.end())
    middle = {
        name: [sorted(one[name] for one in runs)[len(runs) // 2] for runs in (alone, beside)]
        for name in alone[0]
    }
    return {
        "desk": desks,
        "engine": {
            name: {"alone_us": a, "with_desk_us": b, "ratio": round(b / a, 2) if a else None}
            for name, (a, b) in middle.items()
        },
        "windows": {"alone": alone, "with_desk": beside},
    }


def main() -> int:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    add = parser.add_argument
    add("--window", type=float, default=60.0, help="seconds of each window")
    add("--turns", type=int, default=2, help="pairs of windows")
    add("--accounts", type=int, default=40)
    add(
        "--signals",
        type=float,
        default=1.0,
        help="a second; at 2.3 an account is at its rate limit",
    )
    add("--json", action="store_true")
    add("--as-desk", metavar="URL", help=argparse.SUPPRESS)
    add("--desk-home", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.as_desk:
        return be_desk(args.as_desk, args.desk_home)
    with tempfile.TemporaryDirectory() as directory:
        result = measure(args, Path(directory))
    if args.json:
        sys.stdout.write(json.dumps(result) + "\n")
        return 0
    for number, desk in enumerate(result["desk"], 1):
        figures = "  ".join(f"{name} {value}" for name, value in desk.items())
        sys.stdout.write(f"desk, window {number}: {figures}\n")
    for name, row in result["engine"].items():
        sys.stdout.write(
            f"engine {name:14} alone {row['alone_us']:8.0f} µs   with desk {row['with_desk_us']:8.0f} µs"
            f"   ratio {row['ratio']}\n"
        )
    return 0


if __name__ == "__main__":
    sys.exit(main())
