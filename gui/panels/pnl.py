"""P&L: curves of equity and of profit and loss, of the whole, of accounts and of strategies."""

from __future__ import annotations

from time import monotonic
from typing import Any

from PySide6.QtGui import QShowEvent
from PySide6.QtWidgets import QComboBox, QPushButton

from engine.errors import CommandRefused
from engine.model import tables
from gui import charts
from gui import formatting as fmt
from gui.curve_view import Curve, CurveView
from gui.desk import Desk
from gui.panel import Caption, EmptyNote, Panel
from gui.seconds import Seconds

SERIES = (("total", "P&L"), ("equity", "Equity"), ("realised", "Realised"), ("unrealised", "Open"))
TOP = 8
AGAIN_S = 120.0  # curves of accounts and strategies are read anew
LIVE_S = 1.0
MOST_LIVE = 7_200  # points a curve grows by here, between two readings
TOTAL, ACCOUNTS, STRATEGIES = "total", "account:*", "strategy:*"


class PnlPanel(Panel):
    """How the money moves."""

    NAME = "pnl"
    TITLE = "P&L"
    ABOUT = "Curves of equity and of profit and loss: all, per account, per strategy"

    def __init__(self, desk: Desk) -> None:
        super().__init__(desk)
        self.series = "total"
        self.of = TOTAL
        self.problem = ""
        self._seconds = Seconds(desk.store, tuple(name for name, _ in SERIES))
        self._curves: dict[str, tuple[list[float], dict[str, list[float]]]] = {}
        self._asked_at = self._live_at = float("-inf")
        self._text = ""
        self._choice: list[Any] = []  # what is chosen, and what can be
        self.chart = CurveView(
            "Profit and loss over time", charts.money_axis, self._write, desk.store.meter.p99
        )
        self.chart.read.connect(self._say)
        self.chart.moved.connect(desk.registry.refresh)
        self.chart.commands(desk.registry, self.NAME, self.TITLE, self)
        desk.store.reset_done.connect(self._read_soon)

    def build(self) -> None:
        """Make the choosers; the chart is made when first seen."""
        self._figure = Caption("", 12, 500, "text")
        self._figure.setContentsMargins(10, 4, 10, 2)
        self._figure.shrink()
        self._note = EmptyNote("No profit or loss yet", "The curve begins with the first fill.")
        self.body.addWidget(self._figure)
        self.body.addWidget(self._note, 1)
        self.body.addWidget(self.chart, 1)
        self._whose = QComboBox()
        self._whose.setAccessibleName("Whose curve")
        self._whose.setMinimumWidth(76)
        self._whose.setMaximumWidth(150)
        self._choose()
        self._whose.currentIndexChanged.connect(self._on_whose)
        self._buttons: dict[str, QPushButton] = {}
        for name, title in SERIES:
            button = QPushButton(title.replace("&", "&&"))
            button.setCheckable(True)
            button.setProperty("variant", "flat")
            button.setAccessibleName(f"Curve: {title}")
            button.clicked.connect(lambda _on=False, name=name: self.show_series(name))
            self._buttons[name] = button
        follow = self.desk.registry.button("pnl.follow", "Follow", "flat")
        self.tools = [self._whose, *self._buttons.values(), follow]
        for tool in self.tools:
            tool.setParent(self)  # without one, showing it would open a window
        self._arrange()
        self.draw()

    def showEvent(self, event: QShowEvent) -> None:
        """Draw what came while nobody looked."""
        super().showEvent(event)
        self._seconds.fresh = self._seconds.moved = True

    # --- choosing -----------------------------------------------------------------------------

    def _choose(self) -> None:
        """Offer the whole, the groups, and each strategy and account by name."""
        rows = self.store.rows
        strategies, accounts = sorted(rows(tables.STRATEGIES)), sorted(rows(tables.ACCOUNTS))
        choice = [self.of, strategies, accounts]
        if choice == self._choice:
            return
        self._choice = choice
        items = [
            ("All", TOTAL),
            (f"Accounts, top {TOP}", ACCOUNTS),
            (f"Strategies, top {TOP}", STRATEGIES),
        ]
        items += [(f"Strategy {name}", f"strategy:{name}") for name in strategies]
        items += [(fmt.Privacy.veil(f"Account {name}"), f"account:{name}") for name in accounts]
        if self.of not in {data for _, data in items}:
            items.append((self.of.replace(":", " "), self.of))
        self._whose.blockSignals(True)
        self._whose.clear()
        for text, data in items:
            self._whose.addItem(text, data)
        self._whose.setCurrentIndex(self._whose.findData(self.of))
        self._whose.blockSignals(False)

    def _on_whose(self) -> None:
        self.show_of(str(self._whose.currentData() or TOTAL))

    def show_of(self, of: str) -> None:
        """Show the curves of the whole (``total``), of ``account:`` or ``strategy:`` and a name, or ``*``."""
        self.of, self.problem = of, ""
        self._curves = {}
        self._choose()
        self._whose.setCurrentIndex(self._whose.findData(of))
        if self.series not in self._offered():
            self.series = "total"
        self._arrange()
        self._read_soon()
        self.chart.show_all() if self.chart.plot is not None else None
        self.draw()
        self.desk.layout_touched.emit()

    def _offered(self) -> tuple[str, ...]:
        if self.of == TOTAL:
            return tuple(name for name, _ in SERIES)
        return ("total", "equity") if self.of.startswith("account") else ("total",)

    def _arrange(self) -> None:
        offered = self._offered()
        for name, button in self._buttons.items():
            button.setVisible(name in offered and len(offered) > 1)
            button.setChecked(name == self.series)

    def show_series(self, name: str) -> None:
        """Show another curve."""
        self.series = name
        self._arrange()
        self.draw()
        self.desk.layout_touched.emit()

    # --- curves of accounts and strategies ----------------------------------------------------

    def _read_soon(self) -> None:
        if self.of != TOTAL and self.can_command():
            self._asked_at = monotonic()
            self.desk.spawn(self._read(self.of), "Read the curves")

    async def _read(self, of: str) -> None:
        kind, _, name = of.partition(":")
        which: dict[str, Any] = {"top": TOP} if name == "*" else {"names": [name]}
        try:
            answer = await self.desk.command("curves", of=kind, **which)
            problem = ""
        except CommandRefused as refusal:
            answer, problem = {}, f"{refusal.message} ({refusal.code})"
        if of != self.of:
            return  # something else was chosen meanwhile
        self.problem = problem
        if not problem:
            self._curves = {
                name: _columns(points) for name, points in (answer.get("curves") or {}).items()
            }
        self.draw()

    def _live(self) -> None:
        """Let the curves grow by what the rows say now."""
        kind = self.of.partition(":")[0]
        rows, now = (
            self.store.rows(tables.ACCOUNTS if kind == "account" else tables.STRATEGIES),
            self.store.now(),
        )
        for name, (xs, values) in self._curves.items():
            row = rows.get(name)
            if row is None or now is None or (xs and now <= xs[-1]):
                continue
            parts = (row.get("realised"), row.get("unrealised"))
            amounts = [fmt.number(part) for part in parts]
            total = (
                fmt.number(row.get("total"))
                if kind == "strategy"
                else sum(amount or 0.0 for amount in amounts)
            )
            equity = fmt.number(row.get("equity"))
            xs.append(now)
            for column, value in (("total", total), ("equity", equity)):
                values[column].append(float("nan") if value is None else value)
                del values[column][:-MOST_LIVE]
            del xs[:-MOST_LIVE]

    # --- drawing ------------------------------------------------------------------------------

    def tick(self) -> None:
        """Draw when there is something new."""
        now = monotonic()
        if self.chart.pace.left_s(now):
            return
        if self.of == TOTAL:
            if self._seconds.fresh and (self._seconds.moved or self.chart.behind(self._seconds.at)):
                self.draw()
        elif now - self._live_at >= LIVE_S:
            self._live_at = now
            if now - self._asked_at >= AGAIN_S:
                self._read_soon()
            if self.store.connected:
                self._live()
            self.draw()
        self._choose()

    def draw(self) -> None:
        """Redraw the curves and the figures."""
        self._seconds.fresh = self._seconds.moved = False
        if self.of == TOTAL:
            curves = [
                Curve(
                    dict(SERIES)[self.series], self._seconds.at, self._seconds.columns[self.series]
                )
            ]
        else:
            curves = [
                Curve(name, xs, values[self.series]) for name, (xs, values) in self._curves.items()
            ]
        some = any(len(curve.xs) for curve in curves)
        self._note.setVisible(not some)
        self.chart.setVisible(some)
        if not some and self.problem:
            self._note.say("The curves cannot be read", self.problem)
        elif not some and self.store.recorded and self.of != TOTAL:
            self._note.say(
                "A recording has the total alone",
                "Curves of accounts and strategies are the engine's to tell; All has what was recorded.",
            )
        elif not some:
            self._note.say("No profit or loss yet", "The curve begins with the first fill.")
        self.chart.zero = self.series != "equity"
        self.chart.show_curves(curves)
        self._text = self._summary(curves)
        self._say("")

    def _summary(self, curves: list[Curve]) -> str:
        values = [value for value in curves[0].ys if value == value] if len(curves) == 1 else []
        self._tone = "text"
        if not values:
            return f"{len(curves)} curves" if len(curves) > 1 else ""
        self._tone = (fmt.tone_of(values[-1]) if self.series != "equity" else "") or "text"
        low, high = (self._write(value, places=0) for value in (min(values), max(values)))
        return f"{self._write(values[-1])}    low {low}    high {high}"

    def _write(self, value: float, places: int = 2) -> str:
        return fmt.money(f"{value:.2f}", signed=self.series != "equity", places=places)

    def _say(self, under_pointer: str) -> None:
        self._figure.setText(under_pointer or self._text)
        self._figure.set_tone("text" if under_pointer else self._tone)

    def restyle(self) -> None:
        """Take the theme's colours."""
        if "chart" in self.__dict__:
            self.chart.restyle()

    def state(self) -> dict[str, Any]:
        """Keep the curves shown."""
        return {"series": self.series, "of": self.of}

    def restore(self, state: dict[str, Any]) -> None:
        """Take back the curves shown."""
        self.show_of(str(state.get("of", TOTAL)))
        if state.get("series") in self._offered():
            self.show_series(str(state["series"]))


def _columns(points: list[dict[str, Any]]) -> tuple[list[float], dict[str, list[float]]]:
    """Return a curve as the engine told it, as columns."""
    known = [(fmt.epoch(point.get("at")), point) for point in points]
    told = [(at, point) for at, point in known if at is not None]
    values = {
        name: [
            float("nan") if (value := fmt.number(point.get(name))) is None else value
            for _, point in told
        ]
        for name in ("total", "equity")
    }
    return [at for at, _ in told], values
