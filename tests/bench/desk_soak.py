"""Minutes of everything at once, and the longest the desk stood still, by what was done then (G4, G13).

``python -m tests.bench.desk_soak [--minutes M] [--rate CHANGES/S]``. Offscreen, 1920×1080, scripted data under
``--rate`` changes a second. Every other second something a trader does: another theme, another preset, a sort, a
filter, scrolling, dialogs opened and closed, an export of 100,000 executions. A stall is how late a 5 ms timer of the
same loop fires; beside it stands how long the desk's own thread was busy meanwhile: the rest it waited for a processor.
"""

from __future__ import annotations

import argparse
import asyncio
import gc
import random
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Awaitable, Callable
from pathlib import Path

import qasync
from PySide6.QtCore import Qt
from PySide6.QtWidgets import QApplication

from engine.model import tables
from gui import bridge, dialogs
from gui.dialogs.export import ExportDialog
from gui.theme import active
from tests.bench.desk_goals import Bench, _rss
from tests.bench.desk_rates import StallMeter, percentile
from tests.gui.scripted import at

EXPORTED = 100_000
PAUSE_S = 2.0
DIALOGS = ("keys", "preferences", "layouts", "about")
Action = Callable[[int], Awaitable[None]]


class Soak:
    """What is done to the window, each by its name."""

    def __init__(self, bench: Bench, home: Path) -> None:
        self._bench = bench
        self._home = home
        self._written = 0
        self.actions: dict[str, Action] = {
            "theme": self._theme, "preset": self._preset, "sort": self._sort, "filter": self._filter,
            "scroll": self._scroll, "dialog": self._dialog, "export": self._export, "nothing": self._nothing,
        }  # fmt: skip

    async def _nothing(self, number: int) -> None:
        del number

    async def _theme(self, number: int) -> None:
        active().use(("light", "contrast_dark", "dark")[number % 3])

    async def _preset(self, number: int) -> None:
        self._bench.window.arrange(("risk", "latency", "review", "trade")[number % 4])

    async def _sort(self, number: int) -> None:
        self._bench.table("orders").model.sort(number % 5, Qt.SortOrder(number % 2))

    async def _filter(self, number: int) -> None:
        self._bench.table("orders").filter.setText(("a-0", "a-01", "", "nvda", "")[number % 5])

    async def _scroll(self, number: int) -> None:
        for name in ("orders", "fills", "signals"):
            bar = self._bench.table(name).view.verticalScrollBar()
            bar.setValue(bar.maximum() * (number % 5) // 4)

    async def _dialog(self, number: int) -> None:
        window = self._bench.window
        name = DIALOGS[number % len(DIALOGS)]
        window.open_dialog(name, {})
        await asyncio.sleep(0.5)
        for dialog in window.findChildren(dialogs.ALL[name]):
            dialog.reject()

    async def _export(self, number: int) -> None:
        """Write everything there is."""
        dialog = ExportDialog(self._bench.window.desk, {"view": self._bench.table("fills").view})
        dialog.present()
        dialog.which.setCurrentIndex(dialog.which.findData("all"))
        over = asyncio.Event()
        dialog.finished.connect(lambda _result: over.set())
        path = self._home / f"{number}.csv"
        dialog.write(str(path))
        await over.wait()  # it closes when the file is whole
        path.unlink()
        self._written += 1

    @property
    def written(self) -> int:
        """How many exports came to their end."""
        return self._written


def _fill(bench: Bench) -> None:
    """Put as many executions into the table as are exported."""
    client = bench.client
    bridge.CAPS[tables.FILLS] = EXPORTED
    order = next(row for row in client.tables[tables.ORDERS].values() if row["avg_px"])
    for number in range(EXPORTED):
        client.tables[tables.FILLS][f"x{number}"] = {
            "key": f"x{number}", "account": f"A-{number % 40 + 1:03d}", "exec_id": f"x{number}",
            "cl_ord_id": order["cl_ord_id"], "symbol": ("AAPL", "NVDA", "MSFT", "TSLA")[number % 4], "side": "buy",
            "last_qty": "10", "last_px": "100.5", "at": at(client.now), "strategy": "pairs", "source": "tv",
            "signal_id": f"s{number}",
        }  # fmt: skip


async def soak(bench: Bench, home: Path, minutes: float, rate: int) -> None:
    """Do it, and print what came of it."""
    _fill(bench)
    bench.client.connect()
    await asyncio.sleep(3.0)
    work, rng, meter = Soak(bench, home), random.Random(1), StallMeter()
    late: dict[str, list[float]] = defaultdict(list)
    busy: dict[str, list[float]] = defaultdict(list)
    bench.start_load(rate)
    end = time.monotonic() + minutes * 60
    resident: list[float] = []
    number = 0
    while time.monotonic() < end:
        number += 1
        # Each once in a round, in an order of its own: what comes after what is different every time.
        for name in rng.sample(list(work.actions), len(work.actions)):
            meter.start()
            await work.actions[name](number)
            await asyncio.sleep(PAUSE_S)
            meter.stop()
            late[name] += meter.late
            busy[name].append(max(meter.worked))
        gc.collect()
        resident.append(_rss())
    bench.stop_load()
    _tell(late, busy, resident, minutes, rate, work.written)


def _tell(
    late: dict[str, list[float]],
    busy: dict[str, list[float]],
    resident: list[float],
    minutes: float,
    rate: int,
    written: int,
) -> None:
    for name in sorted(late, key=lambda one: -max(late[one])):
        sys.stdout.write(
            f"{name:8} {len(busy[name]):4} times   longest stall {max(late[name]):6.1f} ms "
            f"(busy itself {max(busy[name]):6.1f})   p99.9 {percentile(late[name], 0.999):6.1f} ms\n"
        )
    every = [value for values in late.values() for value in values]
    half = len(resident) // 2
    sys.stdout.write(
        f"{minutes:g} minutes at {rate:,} changes/s, {written} exports of {EXPORTED:,} rows: longest stall "
        f"{max(every):.1f} ms (goal 50), over 50 ms: {sum(one > 50 for one in every)}; resident "
        f"{resident[0]:.0f} → {resident[half]:.0f} → {resident[-1]:.0f} MiB (first, middle, last round)\n"
    )


async def run(args: argparse.Namespace) -> None:
    """Open the window, soak it, close it."""
    with tempfile.TemporaryDirectory() as home:
        bench = Bench(Path(home), 40)
        bench.client.morning()
        await bench.open()
        await soak(bench, Path(home), args.minutes, args.rate)
        await bench.close()


def main() -> int:
    """Run from the command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--minutes", type=float, default=10.0)
    parser.add_argument("--rate", type=int, default=5_000)
    args = parser.parse_args()
    app = QApplication([])
    app.setStyle("Fusion")
    app.setQuitOnLastWindowClosed(False)
    with asyncio.Runner(loop_factory=lambda: qasync.QEventLoop(app)) as runner:
        runner.run(run(args))
    return 0


if __name__ == "__main__":
    sys.exit(main())
