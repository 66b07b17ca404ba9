"""Latency: each stage over time, its histogram and its budget; who is slow, which orders were, and our own loops."""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Iterable
from contextlib import suppress
from time import monotonic
from typing import Any

from PySide6.QtCore import Qt, QTimer
from PySide6.QtGui import QShowEvent
from PySide6.QtWidgets import QComboBox, QLineEdit, QStackedWidget, QWidget

from engine.errors import CommandRefused
from engine.model import tables
from gui import charts
from gui import formatting as fmt
from gui.commands import Command
from gui.curve_view import Curve, CurveView
from gui.desk import Desk
from gui.latency_budget import Budgets
from gui.latency_heat import HeatGrid, HeatMap, whose_words
from gui.latency_samples import Samples
from gui.latency_slowest import Slowest, parts_of
from gui.latency_stage import PARTS, TITLES, StageView, figures_of
from gui.pace import Pace
from gui.panel import CHARTS_AFTER_MS, Caption, EmptyNote, Panel
from gui.seconds import Seconds
from gui.theme import active

WORST = 20
VIEWS = {
    "time": "Over time",
    "histogram": "Histogram",
    "stages": "Stages",
    "heat": "Heat map",
    "broker": "By broker",
    "account": "By account",
    "slowest": "Slowest orders",
    "loops": "Our loops",
}
LOOPS = ("Engine loop lag", "Desk frame p99")


class LatencyPanel(Panel):
    """How fast: each stage of a signal and of an order."""

    NAME = "latency"
    TITLE = "Latency"
    ABOUT = "Percentiles over time, histogram, heat maps, the slowest orders, budgets"

    def __init__(self, desk: Desk) -> None:
        super().__init__(desk)
        self.stage = "last_byte"
        self.whose = ""
        self.measured = "ack_us"
        self.budgets = Budgets()
        self.samples = Samples(desk.store)
        self.details: dict[str, dict[str, Any]] = {}  # traces by ClOrdID
        self._asked: set[str] = set()
        self._reading = False
        self._seconds = Seconds(desk.store, ("loop_lag_ms",))
        self._frames: deque[tuple[float, float]] = deque(maxlen=7_200)
        self._due = True
        self._view = "time"
        self._text = ""
        self.stages = StageView(desk.store)
        self.stages.table.activated_key.connect(self.select_stage)
        self._pace = Pace(self.stages.cost_ms, desk.store.meter.p99)
        self.loops = CurveView(
            "Loop lag of the engine and frame time of the desk",
            charts.millis_axis,
            _millis,
            desk.store.meter.p99,
        )
        self.heat = HeatMap(self._read_cell)
        self.grid = HeatGrid()
        self.slowest = Slowest(self._open_signal)
        desk.second.connect(self._note_frames)
        desk.store.watch(tables.LATENCY, self._on_rows, self._on_reset)
        self._on_reset()
        desk.registry.add_all(self._commands())

    def _commands(self) -> list[Command]:
        made = [
            Command(f"latency.{name}", f"Latency: {title.lower()}", self._shower(name), "chart speed slow",
                    "", "Latency", about=f"Show the latency panel with {title.lower()}")
            for name, title in VIEWS.items()
        ]  # fmt: skip
        made.append(
            Command("latency.budget", "Latency: set the budget of a stage", self._ask_budget, "limit alarm p99",
                    "", "Latency", about="A stage whose p99 of the last minute is above its budget is told once")
        )  # fmt: skip
        return made

    def _shower(self, name: str) -> Any:
        def show() -> None:
            self.desk.show_panel(self.NAME)
            self.show_view(name)

        return show

    def _ask_budget(self) -> None:
        self.desk.show_panel(self.NAME)
        if self._view not in PARTS:
            self.show_view("time")
        self._budget.setFocus()
        self._budget.selectAll()

    # --- building -----------------------------------------------------------------------------

    def build(self) -> None:
        """Make the choosers; charts are made when first seen."""
        self._views = self._combo("Latency view", VIEWS.items())
        self._views.currentIndexChanged.connect(
            lambda: self.show_view(str(self._views.currentData()))
        )
        self._select = self._combo("Stage", [(stage, TITLES[stage]) for stage in tables.STAGES])
        self._select.setCurrentIndex(self._select.findData(self.stage))
        self._select.currentIndexChanged.connect(self._on_stage)
        self._budget = QLineEdit()
        self._budget.setAccessibleName("Budget of the stage, milliseconds")
        self._budget.setToolTip(
            "Of this stage's p99, in milliseconds; above it an alert is told. Empty: none."
        )
        self._budget.setPlaceholderText("Budget ms")
        self._budget.setFixedWidth(active().px(92))  # "Budget ms" whole, whatever is beside it
        self._budget.editingFinished.connect(self._on_budget)
        self._whose = self._combo("Whose orders", [("", whose_words(""))])
        self._whose.currentIndexChanged.connect(self._on_whose)
        self._metric = self._combo("What is measured", [("ack_us", "Ack"), ("send_us", "Send")])
        self._metric.currentIndexChanged.connect(self._on_whose)
        self._figures = Caption("", 12, 500, "text")
        self._figures.setTextFormat(
            Qt.TextFormat.RichText
        )  # the lines' colours; no word of it is from outside
        self._figures.setContentsMargins(10, 4, 10, 2)
        self._figures.shrink()
        self._note = EmptyNote(
            "Nothing measured yet", "Each stage is timed from the first signal on."
        )
        self._stack = QStackedWidget()
        for page in (self._note, self.stages, self.heat, self.grid, self.slowest, self.loops):
            self._stack.addWidget(page)
        self.loops.read.connect(self._read_cell)
        self.body.addWidget(self._figures)
        self.body.addWidget(self._stack, 1)
        self.tools = [self._budget, self._select, self._metric, self._whose, self._views]
        for tool in self.tools:
            tool.setParent(self)  # without one, showing it would open a window
        self.show_view(self._view)

    def _combo(self, name: str, items: Iterable[tuple[str, str]]) -> QComboBox:
        combo = QComboBox()
        combo.setAccessibleName(name)
        combo.setToolTip(name)
        for data, title in items:
            combo.addItem(title, data)
        combo.setMaximumWidth(active().px(128))
        return combo

    def showEvent(self, event: QShowEvent) -> None:
        """Build the charts the first time they are seen."""
        super().showEvent(event)
        if not self.stages.parts:
            QTimer.singleShot(CHARTS_AFTER_MS, self, self._build_charts)
        self._due = True

    def _build_charts(self) -> None:
        self.stages.make()
        self.draw()

    # --- choosing -----------------------------------------------------------------------------

    def show_view(self, name: str) -> None:
        """Show another view (``VIEWS``)."""
        changed = name != self._view
        self._view = name
        self._views.setCurrentIndex(self._views.findData(name))
        by_stage = name in PARTS
        self._select.setVisible(by_stage)
        self._budget.setVisible(by_stage)
        self._whose.setVisible(name == "heat")
        self._metric.setVisible(name == "heat")
        self._show_budget()
        if by_stage:
            self.stages.only = name
            self.stages.arrange()
        self.draw()
        if changed:
            self.desk.layout_touched.emit()

    def _on_stage(self) -> None:
        self.stage = str(self._select.currentData())
        self._show_budget()
        self.draw()
        self.desk.layout_touched.emit()

    def select_stage(self, stage: str) -> None:
        """Show another stage."""
        self._select.setCurrentIndex(self._select.findData(stage))

    def _on_whose(self) -> None:
        self.whose, self.measured = (
            str(self._whose.currentData() or ""),
            str(self._metric.currentData()),
        )
        self.draw()

    # --- budgets ------------------------------------------------------------------------------

    def _show_budget(self) -> None:
        limit = self.budgets.limits.get(self.stage)
        self._budget.setText("" if limit is None else f"{limit / 1e3:g}")

    def _on_budget(self) -> None:
        """Take a budget that was typed; what is no number above zero is put back."""
        text = "".join(self._budget.text().split())
        limit = fmt.number(text)
        if text and (limit is None or not 0 < limit < math.inf):
            self.desk.say(
                "warning", "Budget", f"{self._budget.text()!r} is no time in milliseconds like 2.5"
            )
            self._show_budget()
            return
        wanted = None if limit is None else limit * 1e3
        if wanted == self.budgets.limits.get(self.stage):
            return
        self.budgets.set(self.stage, wanted)
        self._judge(self.stage)
        self.draw()
        self.desk.layout_touched.emit()

    def _judge(self, stage: str) -> None:
        """Compare a stage's last minute with its budget, and tell a crossing."""
        minute = (self.store.rows(tables.LATENCY).get(stage) or {}).get("minute") or {}
        p99 = fmt.number(minute.get("p99")) if minute.get("count") else None
        if self.budgets.look(stage, p99):
            text = f"p99 of the last minute is {fmt.micros(p99)}, the budget {fmt.micros(self.budgets.limits[stage])}"
            self.desk.say("warning", f"{TITLES[stage]} is over its latency budget", text)

    # --- what comes in ------------------------------------------------------------------------

    def _on_reset(self) -> None:
        self._on_rows(self.store.rows(tables.LATENCY), ())

    def _on_rows(self, changed: Any, _removed: Any) -> None:
        rows = self.store.rows(tables.LATENCY)
        for stage in changed:
            row = rows.get(stage)
            if row and stage in tables.STAGES:
                self.stages.remember(stage, row)
                self._judge(stage)
        self._due = True

    def _note_frames(self) -> None:
        """Keep what the desk's frames cost, once a second."""
        now, p99 = self.store.now(), self.store.meter.p99()
        if now is not None and p99 is not None and (not self._frames or now > self._frames[-1][0]):
            self._frames.append((now, p99))
            self._due = True

    def _open_signal(self, key: str) -> None:
        self.desk.pick_signal(key)
        self.desk.show_panel("signal_detail")

    async def _read_traces(self, wanted: list[tuple[str, str]]) -> None:
        """Read the traces of these orders (ClOrdID and signal), a signal at a time."""
        try:
            for signal in dict.fromkeys(signal for _, signal in wanted):
                with suppress(CommandRefused):  # known no more: the two parts of its row are shown
                    await self._read_trace(signal)
        finally:
            self._reading = False
        self._due = True

    async def _read_trace(self, signal: str) -> None:
        detail = await self.desk.signal_detail(signal)
        for row in detail.get("accounts") or ():
            if row.get("cl_ord_id") and row.get("trace"):
                self.details[row["cl_ord_id"]] = (detail.get("trace") or {}) | row["trace"]

    # --- drawing ------------------------------------------------------------------------------

    def tick(self) -> None:
        """Draw when there is something new."""
        self.stages.model.tick()
        if (self._due or self.samples.fresh) and not self._pace.left_s(monotonic()):
            self.draw()

    def draw(self) -> None:
        """Redraw the view in sight."""
        self._due = self.samples.fresh = False
        self._pace.note(monotonic())
        page: QWidget
        if self._view in PARTS:
            page = self._draw_stage()
        elif self._view == "heat":
            page = self._draw_heat()
        elif self._view == "slowest":
            page = self._draw_slowest()
        elif self._view == "loops":
            page = self._draw_loops()
        else:
            page = self.grid
            self.grid.show_samples(self.samples.kept, self._view)
            self._text = f"{len(self.samples.kept)} orders; stronger: slower"
        self._stack.setCurrentWidget(page)
        self._figures.setText(self._text)

    def _draw_stage(self) -> QWidget:
        row = self.store.rows(tables.LATENCY).get(self.stage) or {}
        over = self.stage in self.budgets.over
        limit = self.budgets.limits.get(self.stage)
        self._text = figures_of(row, limit, over=over)
        for at in range(self._select.count()):
            stage = str(self._select.itemData(at))
            mark = "▲ " if stage in self.budgets.over else ""
            if self._select.itemText(at) != mark + TITLES[stage]:
                self._select.setItemText(at, mark + TITLES[stage])
        if not self.stages.model.order:
            return self._note
        self.stages.draw(self.stage, row, limit, over=over)
        return self.stages

    def _draw_heat(self) -> QWidget:
        names = ["", *self.samples.names()]
        if [self._whose.itemData(at) for at in range(self._whose.count())] != names:
            self._whose.blockSignals(True)
            self._whose.clear()
            for name in names:
                self._whose.addItem(whose_words(name), name)
            self._whose.setCurrentIndex(max(0, self._whose.findData(self.whose)))
            self._whose.blockSignals(False)
        found = self.samples.of(self.whose)
        self.heat.show_values([(sample.at, getattr(sample, self.measured)) for sample in found])
        self._text = f"{len(found)} orders; stronger: more of them"
        return self.heat

    def _draw_slowest(self) -> QWidget:
        worst = self.samples.slowest(WORST)
        self.slowest.show_rows(
            [(sample, parts_of(sample, self.details.get(sample.key))) for sample in worst]
        )
        wanted = [
            (s.key, s.signal)
            for s in worst
            if s.key not in self._asked and s.key not in self.details
        ]
        if wanted and not self._reading and self.can_command():
            self._reading = True
            self._asked.update(key for key, _ in wanted)
            self.desk.spawn(self._read_traces(wanted), "Read the traces of slow orders")
        self._text = (
            f"The {len(worst)} slowest of {len(self.samples.kept)} orders; Return opens the signal"
        )
        return self.slowest

    def _draw_loops(self) -> QWidget:
        lag = Curve(LOOPS[0], self._seconds.at, self._seconds.columns["loop_lag_ms"])
        frames = Curve(LOOPS[1], [at for at, _ in self._frames], [ms for _, ms in self._frames])
        self.loops.show_curves([lag, frames])
        now = [f"{curve.name} {_millis(curve.ys[-1])}" for curve in (lag, frames) if len(curve.ys)]
        self._text = "   ".join(now)
        return self.loops

    def _read_cell(self, text: str) -> None:
        self._figures.setText(text or self._text)

    def restyle(self) -> None:
        """Take the theme's colours."""
        if "stages" not in self.__dict__:
            return  # it is being made
        self.stages.restyle()
        self.loops.restyle()
        self.heat.update()
        self._due = True

    def state(self) -> dict[str, Any]:
        """Keep stage, view and budgets."""
        return {"stage": self.stage, "view": self._view, "budgets": self.budgets.state()}

    def restore(self, state: dict[str, Any]) -> None:
        """Take back stage, view and budgets."""
        self.budgets.restore(state.get("budgets"), tables.STAGES)
        if state.get("stage") in tables.STAGES:
            self.select_stage(state["stage"])
        if state.get("view") in VIEWS:
            self.show_view(state["view"])
        self._show_budget()
        for stage in self.budgets.limits:
            self._judge(stage)


def _millis(value: float) -> str:
    return fmt.micros(value * 1e3)
