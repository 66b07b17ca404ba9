"""P&L: the curve of equity or of profit and loss, with the value under the pointer."""

from __future__ import annotations

from bisect import bisect_left
from time import monotonic
from typing import Any

from PySide6.QtCore import QTimer
from PySide6.QtGui import QShowEvent
from PySide6.QtWidgets import QPushButton

from engine.model import tables
from gui import formatting as fmt
from gui.desk import Desk
from gui.panel import CHARTS_AFTER_MS, Caption, EmptyNote, Panel

SERIES = (("total", "P&L"), ("equity", "Equity"), ("realised", "Realised"), ("unrealised", "Open"))


class PnlPanel(Panel):
    """How the money moves."""

    NAME = "pnl"
    TITLE = "P&L"
    ABOUT = "The curve of equity and of profit and loss"

    def __init__(self, desk: Desk) -> None:
        super().__init__(desk)
        self.series = "total"
        self._xs: list[float] = []
        self._ys: list[float] = []
        self._plot: Any = None
        self._due = True
        self._drawn_at = 0.0
        desk.store.watch(tables.PNL, lambda *_: self._mark(), self._mark)

    def _mark(self) -> None:
        self._due = True

    def build(self) -> None:
        """Make the selector; the chart is made when first seen."""
        self._figure = Caption("", 12, 500, "text")
        self._figure.setContentsMargins(10, 4, 10, 2)
        self._figure.shrink()
        self._note = EmptyNote("No profit or loss yet", "The curve begins with the first fill.")
        self.body.addWidget(self._figure)
        self.body.addWidget(self._note, 1)
        self._buttons: dict[str, QPushButton] = {}
        for name, title in SERIES:
            button = QPushButton(title.replace("&", "&&"))
            button.setCheckable(True)
            button.setChecked(name == self.series)
            button.setProperty("variant", "flat")
            button.setAccessibleName(f"Curve: {title}")
            button.clicked.connect(lambda _on=False, name=name: self.show_series(name))
            self._buttons[name] = button
        self.tools = list(self._buttons.values())

    def showEvent(self, event: QShowEvent) -> None:
        """Build the chart the first time it is seen."""
        super().showEvent(event)
        if self._plot is None:
            QTimer.singleShot(CHARTS_AFTER_MS, self, self._build_chart)
        self._due = True

    def _build_chart(self) -> None:
        if self._plot is not None:
            return
        from gui import charts

        self._plot = charts.plot(
            "Profit and loss over time", {"bottom": charts.time_axis(), "left": charts.money_axis()}
        )
        self._plot.setMouseEnabled(x=True, y=False)
        self._curve = charts.curve(self._plot, "accent")
        self._zero = self._plot.addLine(y=0, pen=charts.pen("edge", dashed=True))
        self._line, self._label = charts.cross(self._plot)
        self._plot.scene().sigMouseMoved.connect(self._on_pointer)
        self.body.addWidget(self._plot, 1)
        self.draw()

    def show_series(self, name: str) -> None:
        """Show another curve."""
        self.series = name
        for known, button in self._buttons.items():
            button.setChecked(known == name)
        self.draw()

    def tick(self) -> None:
        """Draw when there is something new, at most three times a second."""
        if self._due and monotonic() - self._drawn_at >= 0.3:
            self.draw()

    def draw(self) -> None:
        """Redraw the curve and the figures."""
        self._due = False
        self._drawn_at = monotonic()
        points = []
        for row in self.store.rows(tables.PNL).values():
            at, value = fmt.epoch(row.get("at")), fmt.number(row.get(self.series))
            if at is not None and value is not None:
                points.append((at, value))
        points.sort()
        self._xs = [at for at, _ in points]
        self._ys = [value for _, value in points]
        self._say()
        if self._plot is not None:
            self._plot.setVisible(bool(points))
            self._note.setVisible(not points)
            self._curve.setData(self._xs, self._ys)
            self._zero.setVisible(self.series != "equity" and bool(points))

    def _say(self) -> None:
        if not self._ys:
            self._figure.setText("")
            return
        signed = self.series != "equity"
        last = fmt.money(f"{self._ys[-1]:.2f}", signed=signed)
        low, high = (
            fmt.money(f"{value:.2f}", signed=signed, places=0)
            for value in (min(self._ys), max(self._ys))
        )
        self._figure.setText(f"{last}    low {low}    high {high}")
        self._figure.set_tone((fmt.tone_of(self._ys[-1]) if signed else "") or "text")

    def _on_pointer(self, where: Any) -> None:
        inside = self._plot.sceneBoundingRect().contains(where) and bool(self._xs)
        self._line.setVisible(inside)
        self._label.setVisible(inside)
        if not inside:
            return
        box = self._plot.getPlotItem().vb
        x = box.mapSceneToView(where).x()
        at = min(bisect_left(self._xs, x), len(self._xs) - 1)
        self._line.setPos(self._xs[at])
        left, right = box.viewRange()[0]
        self._label.setAnchor((1, 0) if self._xs[at] > (left + right) / 2 else (0, 0))
        self._label.setPos(self._xs[at], box.viewRange()[1][1])
        stamp = fmt.Times.clock(_stamp(self._xs[at]))
        self._label.setText(
            f"{stamp}  {fmt.money(f'{self._ys[at]:.2f}', signed=self.series != 'equity')}"
        )

    def restyle(self) -> None:
        """Take the theme's colours."""
        if getattr(self, "_plot", None) is None:
            return
        from gui import charts

        charts.restyle(self._plot)
        self._curve.setPen(charts.pen("accent"))
        self._zero.setPen(charts.pen("edge", dashed=True))
        self._line.setPen(charts.pen("edge"))
        self._label.setColor(charts.brush("text"))

    def state(self) -> dict[str, Any]:
        """Keep the curve shown."""
        return {"series": self.series}

    def restore(self, state: dict[str, Any]) -> None:
        """Take back the curve shown."""
        if state.get("series") in dict(SERIES):
            self.show_series(state["series"])


def _stamp(seconds: float) -> str:
    from datetime import UTC, datetime

    return datetime.fromtimestamp(seconds, UTC).isoformat()
