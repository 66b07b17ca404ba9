"""One stage of latency: percentiles over time with the budget, a histogram, and the table of all stages."""

from __future__ import annotations

import math
from collections import deque
from typing import Any

from PySide6.QtCore import Qt
from PySide6.QtGui import QResizeEvent
from PySide6.QtWidgets import QSplitter, QWidget

from engine.client import Row
from engine.model import tables
from gui import charts
from gui import columns as col
from gui import formatting as fmt
from gui.bridge import Store
from gui.table_model import Column, TableModel
from gui.table_view import TableView
from gui.theme import active

TITLES = {
    "validated": "Validated", "durable": "Durable", "planned": "Planned", "first_byte": "First byte",
    "last_byte": "Last byte", "first_ack": "First ack", "last_ack": "Last ack", "send": "Send (order)",
    "ack": "Ack (order)",
}  # fmt: skip
KEPT = 900
PARTS = ("time", "histogram", "stages")


class StageView(QSplitter):
    """All three where there is room, one (``only``) where there is not. Charts are made by ``make``, once."""

    def __init__(self, store: Store) -> None:
        super().__init__(Qt.Orientation.Horizontal)
        self.setChildrenCollapsible(False)
        self.history: dict[str, deque[tuple[float, float, float]]] = {
            stage: deque(maxlen=KEPT) for stage in tables.STAGES
        }
        self.only = "time"
        self.charts: dict[str, Any] = {}
        self.parts: dict[str, QWidget] = {}
        self.model = TableModel(_columns(), store, self)
        self.model.attach(tables.LATENCY)
        self.model.sort(0)
        self.table = TableView(self.model, "stages", self)
        self.table.empty_title = "Nothing measured yet"
        self.table.empty_text = "Each stage appears with the first signal."
        self.table.hide()

    def make(self) -> None:
        """Make the charts, unless they are there."""
        if self.parts:
            return
        time_plot = charts.plot(
            "Latency over time",
            {"bottom": charts.time_axis(), "left": charts.latency_axis("left", logarithmic=True)},
        )
        bar_plot = charts.plot(
            "Latency histogram", {"bottom": charts.latency_axis("bottom", logarithmic=True)}
        )
        for widget in (time_plot, bar_plot):
            widget.setMouseEnabled(x=False, y=False)
        self.charts = {
            "time": time_plot,
            "histogram": bar_plot,
            "p99": charts.curve(time_plot, "warn"),
            "p50": charts.curve(time_plot, "accent"),
            "bars": charts.bars(bar_plot),
            "budget": charts.across(time_plot),
        }
        self.parts = {"time": time_plot, "histogram": bar_plot, "stages": self.table}
        for part in self.parts.values():
            self.addWidget(part)
        self.arrange()

    def cost_ms(self) -> float:
        """Return what drawing both charts costs."""
        return sum(
            float(self.charts[name].cost_ms) for name in ("time", "histogram") if self.charts
        )

    def resizeEvent(self, event: QResizeEvent) -> None:
        """Show as many parts as there is room for."""
        super().resizeEvent(event)
        self.arrange()

    def arrange(self) -> None:
        """Show the parts there is room for."""
        if not self.parts:
            return
        wide, tall = self.width() >= 760, self.height() >= 430
        self.setOrientation(
            Qt.Orientation.Horizontal if wide and not tall else Qt.Orientation.Vertical
        )
        roomy = wide or tall
        if roomy:
            self.setSizes([5, 4, 4] if wide and not tall else [5, 4, 5])
        for name, part in self.parts.items():
            part.setVisible(roomy or name == self.only)

    def remember(self, stage: str, row: Row) -> None:
        """Keep the percentiles of a second."""
        second = row.get("second") or {}
        at = fmt.epoch(row.get("at"))
        p50, p99 = fmt.number(second.get("p50")), fmt.number(second.get("p99"))
        kept = self.history[stage]
        if at is None or p50 is None or p99 is None or (kept and kept[-1][0] >= at):
            return
        kept.append((at, max(p50, 1.0), max(p99, 1.0)))

    def draw(self, stage: str, row: Row, limit: float | None, *, over: bool) -> None:
        """Draw what is in sight of a stage; ``limit``: its budget in microseconds."""
        if self.parts and self.parts["time"].isVisible():
            self._draw_time(stage, limit, over=over)
        if self.parts and self.parts["histogram"].isVisible():
            self._draw_histogram(row)

    def _draw_time(self, stage: str, limit: float | None, *, over: bool) -> None:
        kept = self.history[stage]
        xs = [at for at, _, _ in kept]
        for name, place in (("p50", 1), ("p99", 2)):
            self.charts[name].setData(xs, [math.log10(sample[place]) for sample in kept])
        line = self.charts["budget"]
        line.setVisible(limit is not None)
        if limit is not None:
            line.setPos(math.log10(limit))
            line.setPen(charts.pen("crit" if over else "muted", dashed=True))

    def _draw_histogram(self, row: Row) -> None:
        edges = [(fmt.number(edge), fmt.number(count)) for edge, count in row.get("buckets") or ()]
        known = [(edge, count) for edge, count in edges if edge and count is not None]
        if not known:
            self.charts["bars"].setOpts(x=[], height=[], width=[])
            return
        lows, highs, heights = [], [], []
        before = known[0][0] / 2 if known[0][0] else 1.0
        for edge, count in known:
            if count:
                lows.append(math.log10(max(before, 0.5)))
                highs.append(math.log10(max(edge, 1.0)))
                heights.append(count)
            before = edge
        widths = [max(0.01, (high - low) * 0.92) for low, high in zip(lows, highs, strict=True)]
        middles = [(low + high) / 2 for low, high in zip(lows, highs, strict=True)]
        self.charts["bars"].setOpts(x=middles, height=heights, width=widths)

    def restyle(self) -> None:
        """Take the theme's colours."""
        if not self.charts:
            return
        for name in ("time", "histogram"):
            charts.restyle(self.charts[name])
        self.charts["p50"].setPen(charts.pen("accent"))
        self.charts["p99"].setPen(charts.pen("warn"))
        self.charts["bars"].setOpts(brush=charts.brush("accent", 150))


def figures_of(row: Row, limit: float | None, *, over: bool) -> str:
    """Return the stage's figures; the dashes are the legend of the chart."""
    minute, span = row.get("minute") or {}, "last minute"
    if not minute.get("count"):
        minute, span = row.get("total") or {}, "since start"
    if not minute.get("count"):
        return ""
    colors = active().colors
    marks = {"p50": colors["accent"].name(), "p99": colors["warn"].name(), "max": ""}
    parts = []
    for name, color in marks.items():
        mark = f'<span style="color:{color}">━</span> ' if color else ""
        parts.append(f"{mark}{name} {fmt.micros(minute.get(name))}")
    parts.append(span)
    if limit is not None:
        said = (
            f"▲ over the budget of {fmt.micros(limit)}" if over else f"✓ budget {fmt.micros(limit)}"
        )
        parts.append(
            f'<span style="color:{colors["crit" if over else "muted"].name()}">{said}</span>'
        )
    return "&nbsp;&nbsp; ".join(parts)


def _columns() -> tuple[Column, ...]:
    def of(part: str, name: str, title: str, **more: Any) -> Column:
        def value(row: Row) -> Any:
            return (row.get(part) or {}).get(name)

        def write(row: Row) -> str:
            return fmt.quiet_count(value(row)) if name == "count" else fmt.micros(value(row))

        return Column(f"{part}.{name}", title, 70, "number", text=write, raw=value, **more)

    return (
        col.text("stage", "Stage", 96, text=lambda row: TITLES.get(row["stage"], row["stage"]),
                 raw=lambda row: tables.STAGES.index(row["stage"]) if row["stage"] in tables.STAGES else 99),
        of("minute", "p50", "p50", about="Last minute"),
        of("minute", "p99", "p99", about="Last minute"),
        of("minute", "max", "Max", about="Last minute"),
        of("minute", "count", "n", about="Last minute"),
        of("total", "p50", "p50 all", about="Since start"),
        of("total", "p99", "p99 all", about="Since start"),
        of("total", "p999", "p99.9 all", about="Since start"),
        of("total", "max", "Max all", about="Since start"),
    )  # fmt: skip
