"""Throughput: signals, orders and fills a second, over the last hours."""

from __future__ import annotations

from time import monotonic
from typing import Any

from gui import charts
from gui.curve_view import Curve, CurveView
from gui.desk import Desk
from gui.panel import Caption, EmptyNote, Panel
from gui.seconds import Seconds

NAMES = (("signals", "Signals"), ("orders", "Orders"), ("fills", "Fills"))


class ThroughputPanel(Panel):
    """How much goes through."""

    NAME = "throughput"
    TITLE = "Throughput"
    ABOUT = "Signals, orders and fills a second"

    def __init__(self, desk: Desk) -> None:
        super().__init__(desk)
        self._seconds = Seconds(desk.store, tuple(name for name, _ in NAMES))
        self._peaks: dict[str, float] = {}
        self._text = ""
        self.chart = CurveView(
            "Signals, orders and fills a second", charts.rate_axis, _rate, desk.store.meter.p99
        )
        self.chart.read.connect(self._say)
        self.chart.moved.connect(desk.registry.refresh)
        self.chart.commands(desk.registry, self.NAME, self.TITLE, self)

    def build(self) -> None:
        """Put the chart in."""
        self._figure = Caption("", 12, 500, "text")
        self._figure.setContentsMargins(10, 4, 10, 2)
        self._figure.shrink()
        self._note = EmptyNote("Nothing yet", "The engine tells its counts once a second.")
        self.body.addWidget(self._figure)
        self.body.addWidget(self._note, 1)
        self.body.addWidget(self.chart, 1)
        self.tools = [self.desk.registry.button("throughput.follow", "Follow", "flat")]
        self.draw()

    def tick(self) -> None:
        """Draw when there is something new."""
        seconds = self._seconds
        if not seconds.fresh or self.chart.pace.left_s(monotonic()):
            return
        if seconds.moved or self.chart.behind(seconds.at):
            self.draw()

    def draw(self) -> None:
        """Redraw the curves and the figures."""
        self._seconds.fresh = self._seconds.moved = False
        xs = self._seconds.at[1:]
        curves = [Curve(title, xs, self._seconds.rates(name)) for name, title in NAMES]
        self._note.setVisible(not xs)
        self.chart.setVisible(bool(xs))
        self.chart.show_curves(curves)
        now = [
            f"{curve.name} {_rate(curve.ys[-1])} (most {_rate(max(curve.ys))})"
            for curve in curves
            if len(curve.ys)
        ]
        self._text = "   ".join(now)
        self._say("")

    def _say(self, under_pointer: str) -> None:
        self._figure.setText(under_pointer or self._text)

    def restyle(self) -> None:
        """Take the theme's colours."""
        if "chart" in self.__dict__:
            self.chart.restyle()

    def state(self) -> dict[str, Any]:
        """Keep nothing of its own."""
        return {}


def _rate(value: float) -> str:
    return f"{value:.0f}/s" if value >= 10 else f"{value:.1f}/s"
