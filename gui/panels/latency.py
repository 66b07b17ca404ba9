"""Latency: percentiles over time and a histogram of one stage, and a table of all of them."""

from __future__ import annotations

import math
from collections import deque
from time import monotonic
from typing import Any

from PySide6.QtCore import Qt, QTimer
from PySide6.QtGui import QResizeEvent, QShowEvent
from PySide6.QtWidgets import QComboBox, QPushButton, QSplitter, QWidget

from engine.client import Row
from engine.model import tables
from gui import columns as col
from gui import formatting as fmt
from gui.desk import Desk
from gui.panel import CHARTS_AFTER_MS, Caption, EmptyNote, Panel
from gui.table_model import Column, TableModel
from gui.table_view import TableView
from gui.theme import active

TITLES = {
    "validated": "Validated", "durable": "Durable", "planned": "Planned", "first_byte": "First byte",
    "last_byte": "Last byte", "first_ack": "First ack", "last_ack": "Last ack", "send": "Send (order)",
    "ack": "Ack (order)",
}  # fmt: skip
KEPT = 900
VIEWS = (("time", "Over time"), ("histogram", "Histogram"), ("stages", "Stages"))


class LatencyPanel(Panel):
    """How fast: each stage of a signal and of an order."""

    NAME = "latency"
    TITLE = "Latency"
    ABOUT = "Percentiles over time and a histogram by stage"

    def __init__(self, desk: Desk) -> None:
        super().__init__(desk)
        self.history: dict[str, deque[tuple[float, float, float]]] = {
            stage: deque(maxlen=KEPT) for stage in tables.STAGES
        }
        self.stage = "last_byte"
        self._drawn_at = 0.0
        self._due = True
        self._charts: dict[str, Any] = {}
        self._parts: dict[str, QWidget] = {}
        self._view = "time"
        self.model = TableModel(_columns(), desk.store, self)
        self.model.attach(tables.LATENCY)
        self.model.sort(0)
        desk.store.watch(tables.LATENCY, self._on_rows, self._on_reset)
        self._on_reset()

    def build(self) -> None:
        """Make the selector; charts are made when first seen."""
        self._select = QComboBox()
        self._select.setAccessibleName("Stage")
        for stage in tables.STAGES:
            self._select.addItem(TITLES[stage], stage)
        self._select.setCurrentIndex(self._select.findData(self.stage))
        self._select.currentIndexChanged.connect(self._on_stage)
        self._buttons: dict[str, QPushButton] = {}
        for name, title in VIEWS:
            button = QPushButton(title)
            button.setCheckable(True)
            button.setProperty("variant", "flat")
            button.setAccessibleName(f"Latency: {title}")
            button.clicked.connect(lambda _on=False, name=name: self._show(name))
            self._buttons[name] = button
        self._figures = Caption("", 12, 500, "text")
        self._figures.setTextFormat(
            Qt.TextFormat.RichText
        )  # the lines' colours; no word of it is from outside
        self._figures.setContentsMargins(10, 4, 10, 2)
        self._figures.shrink()
        self._split = QSplitter(Qt.Orientation.Horizontal)
        self._split.setChildrenCollapsible(False)
        self._note = EmptyNote(
            "Nothing measured yet", "Each stage is timed from the first signal on."
        )
        self.body.addWidget(self._figures)
        self.body.addWidget(self._note, 1)
        self.body.addWidget(self._split, 1)
        self.tools = [*self._buttons.values(), self._select]

    def showEvent(self, event: QShowEvent) -> None:
        """Build the charts the first time they are seen."""
        super().showEvent(event)
        if not self._parts:
            QTimer.singleShot(CHARTS_AFTER_MS, self, self._build_charts)
        self._due = True

    def _build_charts(self) -> None:
        if self._parts:
            return
        from gui import charts

        time_plot = charts.plot(
            "Latency over time",
            {"bottom": charts.time_axis(), "left": charts.latency_axis("left", logarithmic=True)},
        )
        bar_plot = charts.plot(
            "Latency histogram", {"bottom": charts.latency_axis("bottom", logarithmic=True)}
        )
        for widget in (time_plot, bar_plot):
            widget.setMouseEnabled(x=False, y=False)
        self._charts = {
            "time": time_plot,
            "histogram": bar_plot,
            "p99": charts.curve(time_plot, "warn"),
            "p50": charts.curve(time_plot, "accent"),
            "bars": charts.bars(bar_plot),
        }
        view = TableView(self.model, "stages", self)
        view.empty_title = "Nothing measured yet"
        view.empty_text = "Each stage appears with the first signal."
        view.activated_key.connect(self.select_stage)
        self._parts = {"time": time_plot, "histogram": bar_plot, "stages": view}
        for part in self._parts.values():
            self._split.addWidget(part)
        self._arrange()
        self.draw()

    def resizeEvent(self, event: QResizeEvent) -> None:
        """Show all three where there is room, one where there is not."""
        super().resizeEvent(event)
        self._arrange()

    def _arrange(self) -> None:
        if not self._parts:
            return
        wide, tall = self.width() >= 760, self.height() >= 460
        self._split.setOrientation(
            Qt.Orientation.Horizontal if wide and not tall else Qt.Orientation.Vertical
        )
        roomy = wide or tall
        if roomy:
            self._split.setSizes([5, 4, 4] if wide and not tall else [5, 4, 5])
        for name, part in self._parts.items():
            part.setVisible(roomy or name == self._view)
            self._buttons[name].setVisible(not roomy)
            self._buttons[name].setChecked(name == self._view)

    def _show(self, name: str) -> None:
        self._view = name
        self._arrange()
        self._due = True

    def _on_stage(self) -> None:
        self.stage = str(self._select.currentData())
        self._due = True
        self.draw()

    def select_stage(self, stage: str) -> None:
        """Show another stage."""
        self._select.setCurrentIndex(self._select.findData(stage))

    def _on_reset(self) -> None:
        self._on_rows(self.store.rows(tables.LATENCY), ())

    def _on_rows(self, changed: Any, _removed: Any) -> None:
        rows = self.store.rows(tables.LATENCY)
        for stage in changed:
            row = rows.get(stage)
            if row and stage in self.history:
                self._remember(stage, row)
        self._due = True

    def _remember(self, stage: str, row: Row) -> None:
        second = row.get("second") or {}
        at = fmt.epoch(row.get("at"))
        p50, p99 = fmt.number(second.get("p50")), fmt.number(second.get("p99"))
        kept = self.history[stage]
        if at is None or p50 is None or p99 is None or (kept and kept[-1][0] >= at):
            return
        kept.append((at, max(p50, 1.0), max(p99, 1.0)))

    def tick(self) -> None:
        """Draw when there is something new."""
        self.model.tick()
        if self._due and monotonic() - self._drawn_at >= 0.2:
            self.draw()

    def draw(self) -> None:
        """Redraw the charts in sight."""
        self._due = False
        self._drawn_at = monotonic()
        row = self.store.rows(tables.LATENCY).get(self.stage) or {}
        self._figures.setText(_figures(row))
        measured = bool(self.model.order)
        self._note.setVisible(not measured)
        self._split.setVisible(measured)
        if not self._parts:
            return
        if self._parts["time"].isVisible():
            self._draw_time()
        if self._parts["histogram"].isVisible():
            self._draw_histogram(row)

    def _draw_time(self) -> None:
        kept = self.history[self.stage]
        xs = [at for at, _, _ in kept]
        for name, place in (("p50", 1), ("p99", 2)):
            self._charts[name].setData(xs, [math.log10(sample[place]) for sample in kept])

    def _draw_histogram(self, row: Row) -> None:
        edges = [(fmt.number(edge), fmt.number(count)) for edge, count in row.get("buckets") or ()]
        known = [(edge, count) for edge, count in edges if edge and count is not None]
        if not known:
            self._charts["bars"].setOpts(x=[], height=[], width=[])
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
        self._charts["bars"].setOpts(x=middles, height=heights, width=widths)

    def restyle(self) -> None:
        """Take the theme's colours."""
        if not getattr(self, "_charts", None):
            return
        from gui import charts

        for name in ("time", "histogram"):
            charts.restyle(self._charts[name])
        self._charts["p50"].setPen(charts.pen("accent"))
        self._charts["p99"].setPen(charts.pen("warn"))
        self._charts["bars"].setOpts(brush=charts.brush("accent", 150))
        self._due = True

    def state(self) -> dict[str, Any]:
        """Keep stage and view."""
        return {"stage": self.stage, "view": self._view}

    def restore(self, state: dict[str, Any]) -> None:
        """Take back stage and view."""
        if state.get("stage") in tables.STAGES:
            self.select_stage(state["stage"])
        if state.get("view") in dict(VIEWS):
            self._show(state["view"])


def _figures(row: Row) -> str:
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
    return "&nbsp;&nbsp; ".join([*parts, span])


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
