"""Several curves over time in one plot: named at their ends, read with the pointer, zoomed, panned and followed."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from PySide6.QtCore import QTimer, Signal
from PySide6.QtGui import QShowEvent
from PySide6.QtWidgets import QVBoxLayout, QWidget

from gui import formatting as fmt
from gui.commands import Command, Registry
from gui.pace import Pace
from gui.panel import CHARTS_AFTER_MS
from gui.time_chart import TimeChart

ROOM = 0.02
BEHIND_PX, BEHIND_S = 2, 5.0
"""How far a line that goes straight on may lie behind: pixels; where everything is shown it reaches the edge in any
case, and only the figures below it move: seconds."""
LOOKS = tuple(
    (token, dashed)
    for dashed in (False, True)
    for token in ("accent", "warn", "pos", "neg", "text")
)
"""Ink of the first, second … curve; each is named at its end as well."""


@dataclass(slots=True)
class Curve:
    """One curve: its name, sorted moments in seconds since 1970 and a value at each."""

    name: str
    xs: Sequence[float]
    ys: Sequence[float]


class CurveView(TimeChart, QWidget):
    """``axis`` makes the left axis (from ``gui.charts``), ``write`` writes a value for people."""

    read = Signal(str)  # what is under the pointer; empty when it has left
    moved = Signal()  # follow may have changed

    def __init__(
        self,
        name: str,
        axis: Callable[[], Any],
        write: Callable[[float], str],
        work_ms: Callable[[], float | None],
    ) -> None:
        super().__init__()
        self.setAccessibleName(name)
        self._axis = axis
        self._write = write
        self.curves: list[Curve] = []
        self.zero = False
        self._items: list[tuple[Any, Any]] = []
        self._drawn_to: float | None = None  # the newest moment that is drawn
        self.pace = Pace(lambda: self.plot.cost_ms if self.plot is not None else 0.0, work_ms)
        self._page = QVBoxLayout(self)
        self._page.setContentsMargins(0, 0, 0, 0)

    def commands(self, registry: Registry, name: str, title: str, scope: QWidget) -> None:
        """Register what can be done here with the keyboard, as ``name.follow`` and so on."""
        everything = Command(
            f"{name}.all", f"{title}: show everything", self.show_all, "chart reset zoom", "Home", f"{title} chart",
            scope=scope, enabled=lambda: self.plot is not None,
        )  # fmt: skip
        registry.add_all([*self.moving_commands(name, title, "value", scope), everything])

    def showEvent(self, event: QShowEvent) -> None:
        """Build the chart the first time it is seen."""
        super().showEvent(event)
        if self.plot is None:
            QTimer.singleShot(CHARTS_AFTER_MS, self, self.build)

    def build(self) -> None:
        """Make the plot now, unless it is there."""
        if self.plot is not None:
            return
        from gui import charts

        plot = self.make_plot(
            self.accessibleName(), {"bottom": charts.time_axis(), "left": self._axis()}
        )
        self._zero = plot.addLine(y=0, pen=charts.pen("edge", dashed=True))
        self._line, self._label = charts.cross(plot)
        plot.scene().sigMouseMoved.connect(self._on_pointer)
        self._page.addWidget(plot)
        self.draw()

    # --- drawing ------------------------------------------------------------------------------

    def behind(self, moments: Sequence[float]) -> bool:
        """Say whether what is drawn lies visibly behind the newest of these moments, though the values are the same."""
        if self._drawn_to is None or not moments:
            return True
        left, right = self._sight()
        late = moments[-1] - self._drawn_to
        if self.follow and self._span is None:
            return late >= BEHIND_S
        return late * self.width() >= BEHIND_PX * (right - left)

    def show_curves(self, curves: list[Curve]) -> None:
        """Show these from now on."""
        self.curves = [curve for curve in curves if len(curve.xs)]
        self.draw()

    def draw(self) -> None:
        """Draw the curves, if they can be seen."""
        if self.plot is None or not self.isVisible():
            return
        from time import monotonic

        from gui import charts

        self.pace.note(monotonic())
        self._drawn_to = self.newest()
        while len(self._items) < len(self.curves):
            self._items.append((charts.long_line(self.plot, "accent"), charts.text(self.plot)))
        for number, (line, label) in enumerate(self._items):
            there = number < len(self.curves)
            line.setVisible(there)
            label.setVisible(there and len(self.curves) > 1)
            if there:
                curve = self.curves[number]
                token, dashed = LOOKS[number % len(LOOKS)]
                line.setPen(charts.pen(token, dashed=dashed))
                line.set_line(curve.xs, curve.ys)
                label.setText(fmt.Privacy.veil(curve.name), charts.brush(token))
        self._zero.setVisible(self.zero and bool(self.curves))
        if self.follow and self.curves:
            self._glue()
        self.fit_height()

    def _ends(self) -> tuple[float, float]:
        first = min(curve.xs[0] for curve in self.curves)
        last = max(curve.xs[-1] for curve in self.curves)
        return first, max(last, first + 1.0)

    def _glue(self) -> None:
        first, last = self._ends()
        span = self._span or (last - first)
        room = span * (0.14 if len(self.curves) > 1 else ROOM)  # for the names
        self.plot.setXRange(last + room - span, last + room, padding=0)

    def fit_height(self) -> None:
        """Scale to what is in sight, and put the names at its right end."""
        left, right = self.plot.viewRange()[0]
        lows, highs, ends = [], [], []
        for curve in self.curves:
            first = max(0, bisect_left(curve.xs, left) - 1)
            last = min(len(curve.xs), bisect_left(curve.xs, right) + 1)
            seen = [value for value in curve.ys[first:last] if value == value]
            if seen:
                lows.append(min(seen))
                highs.append(max(seen))
            ends.append((curve.xs[last - 1], seen[-1] if seen else 0.0) if last > first else None)
        if not lows:
            return
        low, high = min(lows), max(highs)
        room = (high - low or abs(high) * 1e-3 or 1.0) * 0.07
        self.plot.setYRange(low - room, high + room, padding=0)
        self._place_names(ends)

    def _place_names(self, ends: list[Any]) -> None:
        """Put names beside their curves' ends, pushed apart where they would cover each other."""
        box = self.plot.getPlotItem().vb
        step = box.viewPixelSize()[1] * 15
        order = [number for number, end in enumerate(ends) if end is not None]
        floor = float("-inf")
        for number in sorted(order, key=lambda n: float(ends[n][1])):
            x, y = ends[number]
            floor = max(y, floor + step)
            self._items[number][1].setPos(x, floor)

    # --- reading ------------------------------------------------------------------------------

    def _on_pointer(self, where: Any) -> None:
        box = self.plot.getPlotItem().vb
        inside = box.sceneBoundingRect().contains(where) and bool(self.curves)
        self._line.setVisible(inside)
        if not inside:
            self.read.emit("")
            return
        x = box.mapSceneToView(where).x()
        longest = max(self.curves, key=lambda curve: len(curve.xs))
        at = longest.xs[min(bisect_left(longest.xs, x), len(longest.xs) - 1)]
        self._line.setPos(at)
        stamp = fmt.Times.clock(datetime.fromtimestamp(at, UTC).isoformat())
        values = [
            f"{curve.name} {self._write(curve.ys[min(bisect_left(curve.xs, at), len(curve.ys) - 1)])}"
            for curve in self.curves
        ]
        self.read.emit("   ".join([stamp, *values]))

    # --- moving about -------------------------------------------------------------------------

    def newest(self) -> float | None:
        """Return the newest moment of all curves."""
        return self._ends()[1] if self.curves else None

    def redraw(self) -> None:
        """Draw now."""
        self.draw()

    def handled(self) -> None:
        """Tell that somebody has moved it."""
        self.moved.emit()

    def show_all(self) -> None:
        """Show everything, and follow."""
        self._span, self.follow = None, True
        self.draw()
        self.moved.emit()

    def restyle(self) -> None:
        """Take the theme's colours."""
        if self.plot is None:
            return
        from gui import charts

        charts.restyle(self.plot)
        self._zero.setPen(charts.pen("edge", dashed=True))
        self._line.setPen(charts.pen("edge"))
        self.draw()
