"""What the desk's charts cost: ``python -m tests.bench.desk_charts [--check]``.

G15: panning and zooming a line of a million points, per frame. G16: 5,000 candles of which the last moves, per tick.
Each is set and painted, at 1,200 × 600, and stands beside what plain pyqtgraph needs for the same. ``--check`` exits
with 1 when a figure is more than half above its goal.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Callable
from time import thread_time
from typing import Any

os.environ.setdefault("QT_QPA_PLATFORM", "offscreen")
os.environ.setdefault("QT_API", "pyside6")

import numpy as np
import pyqtgraph as pg
from PySide6.QtCore import QCoreApplication
from PySide6.QtGui import QPixmap
from PySide6.QtWidgets import QApplication, QWidget

from gui import charts
from gui.chart_items import Candles, LongLine
from gui.theme import active

POINTS, BARS, FRAMES = 1_000_000, 5_000, 300
GOALS = {"G15": 16.0, "G16": 1.5}


def frames(plot: Any, step: Callable[[int], None], count: int = FRAMES) -> tuple[float, float]:
    """Return p50 and p99 of ``count`` steps, each painted: milliseconds of this thread's own time."""
    picture = QPixmap(plot.size())
    times = []
    for number in range(count + 20):
        began = thread_time()
        step(number)
        QWidget.render(plot, picture)
        times.append((thread_time() - began) * 1e3)
    times = sorted(times[20:])
    return times[len(times) // 2], times[int(len(times) * 0.99)]


def a_plot() -> Any:
    plot = charts.plot("Bench", {"bottom": charts.time_axis(), "left": charts.price_axis()})
    plot.resize(1_200, 600)
    plot.getPlotItem().vb.disableAutoRange()
    plot.show()
    QCoreApplication.processEvents()
    return plot


def pan_and_zoom(plot: Any, xs: Any, ys: Any) -> Callable[[int], None]:
    low, high = float(ys.min()), float(ys.max())
    plot.setYRange(low, high, padding=0)

    def step(number: int) -> None:
        width = POINTS * (0.02 + 0.98 * abs(np.sin(number / 40)))
        left = (POINTS - width) * abs(np.sin(number / 17))
        plot.setXRange(xs[0] + left, xs[0] + left + width, padding=0)

    return step


def million(*, ours: bool) -> tuple[float, float]:
    rng = np.random.default_rng(7)
    xs, ys = 1.79e9 + np.arange(float(POINTS)), rng.standard_normal(POINTS).cumsum()
    plot = a_plot()
    if ours:
        line = LongLine(pen=charts.pen("accent"))
        plot.addItem(line)
        line.set_line(xs, ys)
    else:
        plot.plot(xs, ys, pen=charts.pen("accent"), skipFiniteCheck=True)
    measured = frames(plot, pan_and_zoom(plot, xs, ys))
    plot.close()
    return measured


def some_bars() -> Any:
    rng = np.random.default_rng(7)
    close = 100 + rng.standard_normal(BARS).cumsum() * 0.05
    opened = np.concatenate(([100.0], close[:-1]))
    high = np.maximum(opened, close) + rng.random(BARS) * 0.05
    low = np.minimum(opened, close) - rng.random(BARS) * 0.05
    return np.column_stack((1.79e9 + 60.0 * np.arange(BARS), opened, high, low, close))


def candles(shown: int) -> tuple[float, float]:
    bars, plot = some_bars(), a_plot()
    item = Candles()
    plot.addItem(item, ignoreBounds=True)
    seen = bars[-shown:]
    plot.setXRange(seen[0, 0], seen[-1, 0] + 60, padding=0)
    plot.setYRange(seen[:, 3].min(), seen[:, 2].max(), padding=0)
    rng = np.random.default_rng(8)

    def step(_number: int) -> None:
        bars[-1, 4] = bars[-1, 1] + rng.standard_normal() * 0.02
        item.set_bars(bars, 60.0)

    measured = frames(plot, step)
    plot.close()
    return measured


def candles_as_pictures(shown: int) -> tuple[float, float]:
    """The usual way: a picture of all bars, drawn anew with every tick."""
    from PySide6.QtCore import QPointF, QRectF
    from PySide6.QtGui import QPainter, QPicture

    bars, plot = some_bars(), a_plot()

    class Pictured(pg.GraphicsObject):  # type: ignore[misc]
        def __init__(self) -> None:
            super().__init__()
            self.picture = QPicture()

        def draw(self) -> None:
            painter = QPainter(self.picture)
            rise, fall = (pg.mkPen(active().colors[name], width=1) for name in ("pos", "neg"))
            for at, opened, high, low, close in bars:
                painter.setPen(rise if close >= opened else fall)
                painter.drawLine(QPointF(at + 30, low), QPointF(at + 30, high))
                painter.drawRect(QRectF(at + 9, opened, 42, close - opened))
            painter.end()
            self.update()

        def paint(self, painter: QPainter, *_: Any) -> None:
            painter.drawPicture(0, 0, self.picture)

        def boundingRect(self) -> QRectF:  # noqa: N802 (Qt's)
            return QRectF(bars[0, 0], bars[:, 3].min(), BARS * 60, np.ptp(bars[:, 2:4]))

    item = Pictured()
    plot.addItem(item, ignoreBounds=True)
    seen = bars[-shown:]
    plot.setXRange(seen[0, 0], seen[-1, 0] + 60, padding=0)
    plot.setYRange(seen[:, 3].min(), seen[:, 2].max(), padding=0)

    def step(_number: int) -> None:
        bars[-1, 4] += 0.001
        item.draw()

    measured = frames(plot, step, 60)
    plot.close()
    return measured


def empty() -> tuple[float, float]:
    """Return what the axes and the ground cost alone."""
    plot = a_plot()
    plot.setXRange(1.79e9, 1.79e9 + 6_000, padding=0)
    plot.setYRange(99, 101, padding=0)
    measured = frames(plot, lambda _number: plot.viewport().update())
    plot.close()
    return measured


def say(text: str) -> None:
    sys.stdout.write(text + "\n")


def main() -> int:
    """Measure, print, and judge."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--check", action="store_true")
    asked = parser.parse_args()
    app = QApplication([])
    app.setStyle("Fusion")
    active().use("dark")
    bare = empty()
    say(f"an empty plot (axes, grid)                 p50 {bare[0]:6.2f}  p99 {bare[1]:6.2f} ms")
    long, plain = million(ours=True), million(ours=False)
    say(
        f"G15 1 M points, pan and zoom               p50 {long[0]:6.2f}  p99 {long[1]:6.2f} ms   goal {GOALS['G15']} ms"
    )
    say(f"    the same, pyqtgraph's own downsampling p50 {plain[0]:6.2f}  p99 {plain[1]:6.2f} ms")
    results = {"G15": long[1]}
    for shown in (BARS, 120):
        found = candles(shown)
        above = found[0] - bare[0]
        results.setdefault("G16", above)
        say(f"G16 5,000 candles, {shown:5} in sight, a tick    p50 {found[0]:6.2f}  p99 {found[1]:6.2f} ms"
              f"   {above:.2f} ms above the empty plot, goal {GOALS['G16']} ms")  # fmt: skip
    picture = candles_as_pictures(BARS)
    say(
        f"    the same, a picture drawn anew         p50 {picture[0]:6.2f}  p99 {picture[1]:6.2f} ms"
    )
    late = {name: value for name, value in results.items() if value > 1.5 * GOALS[name]}
    if asked.check and late:
        say("above one and a half times the goal: " + ", ".join(late))
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
