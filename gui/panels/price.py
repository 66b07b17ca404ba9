"""Price: candles with what waits at which price, who bought and sold where, and stops that are moved by hand."""

from __future__ import annotations

from collections.abc import Iterable
from time import monotonic
from typing import Any

from PySide6.QtCore import QTimer
from PySide6.QtGui import QHideEvent, QShowEvent

from engine.client import Row
from engine.errors import CommandRefused
from engine.model import tables
from gui import levels as lv
from gui.chart_marks import FillMarks, mark_near, signal_marks
from gui.commands import CONFIRM, Command
from gui.desk import Desk
from gui.pace import Pace
from gui.panel import CHARTS_AFTER_MS, Caption, EmptyNote, Panel
from gui.price_choosers import accounts_of, combo_box, held_rows, offer, symbols_of
from gui.price_words import bar_words, beyond_words, why_empty
from gui.time_chart import TimeChart

INTERVALS = ((5, "5 s"), (60, "1 min"), (300, "5 min"), (900, "15 min"), (3600, "1 h"))
ASKED = 1_000  # bars of one reading
SHOWN = 120  # bars in sight at first
ROOM = 0.12  # of what is in sight, kept free right of the last bar
AGAIN_S = 60.0  # bars are read anew, which heals every gap
RETRY_S = 3.0
LABEL_ROOM_PX = 14
MARKS_EVERY_S = 1.0


class PricePanel(TimeChart, Panel):
    """One symbol's price, and everything of ours at it."""

    NAME = "price"
    TITLE = "Price"
    ABOUT = "Candles with orders, stops, fills and signals; stops are moved by dragging them"

    def __init__(self, desk: Desk) -> None:
        super().__init__(desk)
        self.symbol = ""
        self.interval_s = 60
        self.account = ""
        self.fit = True
        self.problem = ""
        self.marks: list[dict[str, Any]] = []
        self._fills = FillMarks()
        self.levels: Any = None  # gui.level_lines.LevelLines, once the chart is built
        self.series: Any = None  # gui.bar_series.BarSeries, once the chart is built
        self._span: float = float(SHOWN * self.interval_s)
        self._beyond = (0, 0)  # lines above and below what is in sight
        self._loading = False
        self._asked_at = self._marked_at = float("-inf")
        self._levels_due = self._marks_due = True
        self._pace = Pace(
            lambda: self.plot.cost_ms if self.plot is not None else 0.0, desk.store.meter.p99
        )
        self._timer = QTimer(self)
        self._timer.setSingleShot(True)
        self._timer.timeout.connect(self.draw)
        watch = desk.store.watch
        watch(tables.BARS, self._on_bars, lambda: None)
        for name in (tables.POSITIONS, tables.ORDERS):
            watch(name, self._on_levels, lambda: self._on_levels((), ()))
        for name in (tables.FILLS, tables.SIGNALS):
            watch(name, self._on_marks, lambda: self._on_marks((), ()))
        desk.store.reset_done.connect(self._on_reset)
        desk.registry.add_all(self._commands())

    def _commands(self) -> list[Command]:
        group = "Price chart"

        def some() -> bool:
            return self.can_command() and self.levels is not None and bool(self.levels.movable())

        return [
            *self.moving_commands("price", "Price", "bar", self),
            Command("price.fit", "Price: fit stops and orders", self._toggle_fit, "chart scale range",
                    "A", group, scope=self, checked=lambda: self.fit,
                    about="Scale so that every line is in sight, not only the candles"),
            Command("price.next_symbol", "Price: next symbol", lambda: self._step(1), "chart", "PgDown", group,
                    scope=self),
            Command("price.last_symbol", "Price: symbol before", lambda: self._step(-1), "chart", "PgUp", group,
                    scope=self),
            Command("price.pick", "Price: move a stop or target with the arrow keys",
                    lambda: self.levels.pick() if self.levels else None, "chart stop loss take profit drag", "L",
                    group, CONFIRM, scope=self, enabled=some,
                    about="Takes the next line: ↑ and ↓ move it, Return asks to send it, Escape puts it back"),
            Command("price.stops", "Price: type the stops…", self._type_stops, "chart stop loss take profit", "S",
                    group, CONFIRM, scope=self, enabled=lambda: self.can_command() and bool(self._held()),
                    about="Opens the stops of the account's position in this symbol"),
        ]  # fmt: skip

    # --- building -----------------------------------------------------------------------------

    def build(self) -> None:
        """Make the choosers; the chart is made when first seen."""
        self._symbols = combo_box("Symbol", 84)
        self._symbols.currentIndexChanged.connect(self._on_symbol)
        self._accounts = combo_box("Account", 108)
        offer(self._accounts, accounts_of(self.store, "", ""), "")
        self._accounts.currentIndexChanged.connect(self._on_account)
        self._intervals = combo_box("Width of a bar", 62)
        for seconds, title in INTERVALS:
            self._intervals.addItem(title, seconds)
        self._intervals.setCurrentIndex(self._intervals.findData(self.interval_s))
        self._intervals.currentIndexChanged.connect(self._on_interval)
        button = self.desk.registry.button
        fit, follow = button("price.fit", "Fit", "flat"), button("price.follow", "Follow", "flat")
        self.tools = [self._symbols, self._accounts, self._intervals, fit, follow]
        self._figure = Caption("", 12, 500, "text")
        self._figure.setContentsMargins(10, 4, 10, 2)
        self._figure.shrink()
        self._figure.setAccessibleName("Price under the pointer")
        self._note = EmptyNote("No prices yet", "Candles begin with the first price of a symbol.")
        self.body.addWidget(self._figure)
        self.body.addWidget(self._note, 1)

    def showEvent(self, event: QShowEvent) -> None:
        """Build the chart the first time it is seen."""
        super().showEvent(event)
        if self.plot is None:
            QTimer.singleShot(CHARTS_AFTER_MS, self, self._build_chart)
        self._levels_due = self._marks_due = True
        self.redraw()

    def hideEvent(self, event: QHideEvent) -> None:
        """Draw nothing more until it is seen again."""
        super().hideEvent(event)
        self._timer.stop()

    def _build_chart(self) -> None:
        if self.plot is not None or not self.isVisible():
            return
        from gui import chart_items, charts
        from gui.level_lines import LevelLines

        axes = {"bottom": charts.time_axis(), "left": charts.price_axis()}
        plot = self.make_plot("Price chart", axes)
        self._new_series()
        self._candles = chart_items.Candles()
        plot.addItem(self._candles, ignoreBounds=True)
        self._scatter = charts.scatter(plot)
        self._last = chart_items.LevelLine(0.0, "", tone="text", dashed=True)
        self._last.setVisible(False)
        plot.addItem(self._last, ignoreBounds=True)
        self._down, self._label = charts.cross(plot)
        self._across = charts.across(plot)
        plot.scene().sigMouseMoved.connect(self._on_pointer)
        self.levels = LevelLines(
            self.desk, plot, lambda: self.series.places, self._tell_move, self._draw_levels_soon
        )
        self._keys = chart_items.Keys(plot, self.levels.take_key)
        self.body.addWidget(plot, 1)
        self._choose_symbols()
        self._load()
        self.draw()

    # --- choosing -----------------------------------------------------------------------------

    def show_symbol(self, symbol: str) -> None:
        """Show another symbol."""
        if symbol and symbol != self.symbol:
            self.symbol = symbol
            self._clear()
            self._choose_symbols()
            self._choose_accounts()
            self._load()
            self.desk.layout_touched.emit()

    def _new_series(self) -> None:
        from gui.bar_series import BarSeries

        self.series = BarSeries(self.interval_s)

    def _clear(self) -> None:
        """Forget the bars: those shown are of something else."""
        if self.plot is not None:
            self._new_series()
        self.problem = ""
        self.follow = True
        self._levels_due = self._marks_due = True
        self.redraw()

    def _choose_symbols(self) -> None:
        known = symbols_of(self.store, self.symbol)
        if not self.symbol and known:
            self.symbol = known[0]
        offer(self._symbols, [(symbol, symbol) for symbol in known], self.symbol)

    def _choose_accounts(self) -> None:
        offer(self._accounts, accounts_of(self.store, self.symbol, self.account), self.account)

    def _held(self) -> list[Row]:
        return held_rows(self.store, self.symbol, self.account)

    def _on_symbol(self) -> None:
        self.show_symbol(str(self._symbols.currentData() or ""))

    def _on_account(self) -> None:
        self.account = str(self._accounts.currentData() or "")
        self._levels_due = self._marks_due = True
        self.redraw()
        self.desk.layout_touched.emit()

    def _on_interval(self) -> None:
        self.interval_s = int(self._intervals.currentData())
        self._span = float(SHOWN * self.interval_s)
        self._clear()
        self._load()
        self.desk.layout_touched.emit()

    def _step(self, by: int) -> None:
        count = self._symbols.count()
        if count:
            self._symbols.setCurrentIndex((self._symbols.currentIndex() + by) % count)

    # --- bars ---------------------------------------------------------------------------------

    def _load(self) -> None:
        if self.plot is None or not self.symbol or not self.isVisible() or not self.can_command():
            return
        self._asked_at = monotonic()
        self._loading = True
        self.desk.spawn(self._read(self.symbol, self.interval_s), "Read price bars")
        self._say()

    async def _read(self, symbol: str, interval_s: int) -> None:
        problem = ""
        bars: list[Row] = []
        try:
            answer = await self.desk.command(
                "bars", symbol=symbol, interval_s=interval_s, limit=ASKED
            )
            bars = answer.get("bars") or []
        except CommandRefused as refusal:
            problem = f"{refusal.message} ({refusal.code})"
        if (symbol, interval_s) != (self.symbol, self.interval_s):
            return  # something else was chosen meanwhile
        self._loading, self.problem = False, problem
        if bars or problem:
            self.series.put(bars)
        self._marks_due = True
        self.draw()

    def _on_bars(self, changed: Iterable[str], _removed: Any) -> None:
        key = f"{self.symbol}@{5 if self.interval_s == 5 else 60}"
        if key not in changed or self.plot is None or self._loading:
            return
        row = self.store.rows(tables.BARS)[key]
        self.series.take(row)
        self.problem = ""
        self.redraw()

    # --- drawing ------------------------------------------------------------------------------

    def _on_levels(self, _changed: Any, _removed: Any) -> None:
        self._draw_levels_soon()

    def _on_marks(self, _changed: Any, _removed: Any) -> None:
        self._marks_due = True

    def _on_reset(self) -> None:
        self._fills.forget()
        self._levels_due = self._marks_due = True
        self._load()

    def on_link(self) -> None:
        """Say when it is not live; what is dragged goes back."""
        if not self.store.connected and self.levels is not None:
            self.levels.cancel()
        self._draw_levels_soon()

    def redraw(self) -> None:
        """Draw soon if it is seen, else with its next turn after it was raised."""
        if self.plot is None or self._timer.isActive():
            return
        if not self.in_sight():
            self._marks_due = True
        else:
            self._timer.start(int(self._pace.left_s(monotonic()) * 1e3) + 1)

    def tick(self) -> None:
        """Offer new symbols, read again what is old, draw what is due; nothing while it is out of sight."""
        if self.plot is None or not self.isVisible():
            return
        self._choose_symbols()
        self._choose_accounts()
        since = monotonic() - self._asked_at
        if since >= (RETRY_S if self.problem or not len(self.series) else AGAIN_S):
            self._load()
        if self._marks_due or self._levels_due:
            self.redraw()

    def draw(self) -> None:
        """Draw what changed."""
        if self.plot is None or not self.isVisible():
            return
        now = monotonic()
        self._pace.note(now)
        some = bool(len(self.series))
        self.plot.setVisible(some)
        self._note.setVisible(not some)
        self._say()
        if not some:
            return
        self._candles.set_bars(self.series.bars, self.interval_s)
        if self._levels_due:
            self._levels_due = False
            self._draw_levels()
        if self._marks_due and now - self._marked_at >= MARKS_EVERY_S:
            self._marks_due, self._marked_at = False, now
            self._draw_marks()
        close = float(self.series.bars[-1, 4])
        self._last.setPos(close)
        self._last.tell(self.series.text(close))
        self._last.setVisible(True)
        if self.follow and not self.plot.held:
            self._glue()
        self.fit_height()

    def _glue(self) -> None:
        right = self.series.end + self._span * ROOM
        self.plot.setXRange(right - self._span, right, padding=0)

    def fit_height(self) -> None:
        """Scale to the candles in sight, and to the lines near them."""
        bars = self._candles.in_sight()
        if not len(bars):
            return
        low, high = float(bars[:, 3].min()), float(bars[:, 2].max())
        self._beyond = (0, 0)
        if self.fit:
            low, high, self._beyond = self.levels.reach(low, high)
        # Half a label fits above the highest line and below the lowest.
        height = max(1.0, self.plot.getPlotItem().vb.height())
        room = (high - low or high * 1e-4) * max(0.06, LABEL_ROOM_PX / height)
        if not (self.plot.held or self.levels.moving):
            self.plot.setYRange(low - room, high + room, padding=0)
        self.levels.place_labels(self._last)

    def _draw_levels(self) -> None:
        rows = self.store.rows
        positions, orders = rows(tables.POSITIONS).values(), rows(tables.ORDERS).values()
        found = lv.levels_of(positions, orders, self.symbol, self.account)
        self.levels.draw(found, may_move=self.can_command())

    def _draw_marks(self) -> None:
        from gui import chart_items

        rows = self.store.rows
        fills = self._fills.of(rows, self.symbol, self.account, self.interval_s)
        signals = [row for row in rows(tables.SIGNALS).values() if row["symbol"] == self.symbol]
        self.marks = fills + signal_marks(signals, self.series.price_at, self.interval_s)
        self._scatter.setData(chart_items.spots(self.marks))

    # --- words --------------------------------------------------------------------------------

    def _say(self, at: int | None = None, price: float | None = None, mark: str = "") -> None:
        """Write the line above the chart: the bar under the pointer, or the last."""
        if not len(self.series):
            self._figure.setText("")
            recorded = self.store.recorded
            self._note.say(
                *why_empty(self.symbol, self.problem, loading=self._loading, recorded=recorded)
            )
            return
        bar = self.series.bars[-1 if at is None else at]
        parts = [] if self.store.connected else ["◌ not live"]
        parts.append(bar_words(self.symbol, self.series, bar))
        if price is not None:
            parts.append(f"┼ {self.series.text(price)}")
        parts += [beyond_words(*self._beyond), mark]
        self._figure.setText("   ".join(part for part in parts if part))
        self._figure.set_tone("text" if self.store.connected else "warn")

    def _on_pointer(self, where: Any) -> None:
        box = self.plot.getPlotItem().vb
        inside = box.sceneBoundingRect().contains(where) and bool(len(self.series))
        self._down.setVisible(inside)
        self._across.setVisible(inside)
        if self.levels.moving:
            return
        if not inside:
            self._say()
            return
        point = box.mapSceneToView(where)
        x, y = float(point.x()), float(point.y())
        self._down.setPos(x)
        self._across.setPos(y)
        self._say(self.series.at(x), y, mark_near(self.marks, (x, y), box.viewPixelSize()))

    # --- moving about -------------------------------------------------------------------------

    def newest(self) -> float | None:
        """Return the end of the last bar."""
        return self.series.end if len(self.series) else None

    def handled(self) -> None:
        """Let the button say whether it still follows."""
        self.desk.registry.refresh()

    def _toggle_fit(self) -> None:
        self.fit = not self.fit
        self.redraw()
        self.desk.layout_touched.emit()

    # --- stops --------------------------------------------------------------------------------

    def _tell_move(self, text: str) -> None:
        if text:
            self._figure.setText(text)
        else:
            self._say()

    def _draw_levels_soon(self) -> None:
        self._levels_due = True
        self.redraw()

    def _type_stops(self) -> None:
        held = self._held()
        if len(held) == 1:
            self.desk.ask("stops", position=dict(held[0]))
        elif held:
            self.desk.say("info", "Choose an account", f"{len(held)} accounts hold {self.symbol}.")
            self._accounts.setFocus()

    # --- looks --------------------------------------------------------------------------------

    def restyle(self) -> None:
        """Take the theme's colours."""
        if self.plot is None:
            return
        from gui import charts

        charts.restyle(self.plot)
        for item in (self._candles, self._last, self.levels):
            item.restyle()
        for line in (self._down, self._across):
            line.setPen(charts.pen("edge"))
        self._marks_due = True
        self._marked_at = float("-inf")
        self.redraw()

    def state(self) -> dict[str, Any]:
        """Keep what is shown."""
        shown = {"symbol": self.symbol, "interval": self.interval_s, "account": self.account}
        return shown | {"fit": self.fit}

    def restore(self, state: dict[str, Any]) -> None:
        """Take back what was shown."""
        if state.get("interval") in dict(INTERVALS):
            self._intervals.setCurrentIndex(self._intervals.findData(state["interval"]))
        self.account = str(state.get("account", ""))
        self.fit = bool(state.get("fit", True))
        self.show_symbol(str(state.get("symbol", "")))
