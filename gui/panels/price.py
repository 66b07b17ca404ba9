"""Price: candles with what waits at which price, who bought and sold where, and stops that are moved by hand."""

from __future__ import annotations

from collections.abc import Iterable
from time import monotonic
from typing import Any

from PySide6.QtCore import Qt, QTimer
from PySide6.QtGui import QHideEvent, QShowEvent

from engine.client import Row
from engine.errors import CommandRefused
from engine.model import tables
from gui import formatting as fmt
from gui import levels as lv
from gui.chart_marks import fill_marks, signal_marks
from gui.commands import CONFIRM, Command
from gui.desk import Desk
from gui.pace import Pace
from gui.panel import CHARTS_AFTER_MS, Caption, EmptyNote, Panel
from gui.price_choosers import accounts_of, combo_box, held_rows, offer, symbols_of

INTERVALS = ((5, "5 s"), (60, "1 min"), (300, "5 min"), (900, "15 min"), (3600, "1 h"))
ASKED = 1_000  # bars of one reading
SHOWN = 120  # bars in sight at first
ROOM = 0.12  # of what is in sight, kept free right of the last bar
AGAIN_S = 60.0  # bars are read anew, which heals every gap
RETRY_S = 3.0
MARKS_EVERY_S = 1.0
REACH = 3.0  # heights of the candles, to which "fit" stretches for lines
NEAR = 0.025  # or this share of the price
LABEL_PX = 21  # labels nearer than this to each other stand side by side
LABEL_RIGHT, LABEL_LEFT = 0.985, 0.4  # shares of the width between which labels stand
LABELS_FIRST = (lv.STOP, lv.ORDER, lv.TARGET, lv.ENTRY)


class PricePanel(Panel):
    """One symbol's price, and everything of ours at it."""

    NAME = "price"
    TITLE = "Price"
    ABOUT = "Candles with orders, stops, fills and signals; stops are moved by dragging them"

    def __init__(self, desk: Desk) -> None:
        super().__init__(desk)
        self.symbol = ""
        self.interval_s = 60
        self.account = ""
        self.follow = True
        self.fit = True
        self.problem = ""
        self.marks: list[dict[str, Any]] = []
        self.levels: Any = None  # gui.level_lines.LevelLines, once the chart is built
        self.series: Any = None  # gui.bar_series.BarSeries, once the chart is built
        self._plot: Any = None
        self._span = float(SHOWN * self.interval_s)
        self._beyond = (0, 0)  # lines above and below what is in sight
        self._loading = False
        self._asked_at = float("-inf")
        self._marked_at = float("-inf")
        self._levels_due = self._marks_due = True
        self._pace = Pace(
            lambda: self._plot.cost_ms if self._plot is not None else 0.0, desk.store.meter.p99
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

        def there() -> bool:
            return self._plot is not None

        def some() -> bool:
            return self.can_command() and there() and bool(self.levels.movable())

        return [
            Command("price.follow", "Price: follow the newest bar", self._toggle_follow, "chart live right edge",
                    "End", group, scope=self, checked=lambda: self.follow, about="Keep the newest bar in sight"),
            Command("price.fit", "Price: fit stops and orders", self._toggle_fit, "chart scale range",
                    "A", group, scope=self, checked=lambda: self.fit,
                    about="Scale so that every line is in sight, not only the candles"),
            Command("price.zoom_in", "Price: zoom in", lambda: self._zoom(0.7), "chart closer", "+ | =", group,
                    scope=self, enabled=there),
            Command("price.zoom_out", "Price: zoom out", lambda: self._zoom(1 / 0.7), "chart wider", "-", group,
                    scope=self, enabled=there),
            Command("price.left", "Price: move left", lambda: self._pan(-0.25), "chart pan earlier", "Left", group,
                    scope=self, enabled=there),
            Command("price.right", "Price: move right", lambda: self._pan(0.25), "chart pan later", "Right", group,
                    scope=self, enabled=there),
            Command("price.next_symbol", "Price: next symbol", lambda: self._step(1), "chart", "PgDown", group,
                    scope=self),
            Command("price.last_symbol", "Price: symbol before", lambda: self._step(-1), "chart", "PgUp", group,
                    scope=self),
            Command("price.pick", "Price: move a stop or target with the arrow keys", self._pick,
                    "chart stop loss take profit drag", "L", group, CONFIRM, scope=self, enabled=some,
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
        self.tools = [
            self._symbols,
            self._accounts,
            self._intervals,
            button("price.fit", "Fit", "flat"),
            button("price.follow", "Follow", "flat"),
        ]
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
        if self._plot is None:
            QTimer.singleShot(CHARTS_AFTER_MS, self, self._build_chart)
        self._levels_due = self._marks_due = True
        self._draw_soon()

    def hideEvent(self, event: QHideEvent) -> None:
        """Draw nothing more until it is seen again."""
        super().hideEvent(event)
        self._timer.stop()

    def _build_chart(self) -> None:
        if self._plot is not None or not self.isVisible():
            return
        from gui import chart_items, charts
        from gui.level_lines import LevelLines

        self._plot = plot = charts.plot(
            "Price chart", {"bottom": charts.time_axis(), "left": charts.price_axis()}
        )
        plot.setFocusPolicy(Qt.FocusPolicy.StrongFocus)
        plot.setMouseEnabled(x=True, y=False)
        box = plot.getPlotItem().vb
        box.disableAutoRange()
        box.sigRangeChangedManually.connect(self._on_hand)
        box.sigXRangeChanged.connect(lambda *_: self._fit_height())
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
        if self._plot is not None:
            self._new_series()
        self.problem = ""
        self.follow = True
        self._levels_due = self._marks_due = True
        self._draw_soon()

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
        self._draw_soon()
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
        if self._plot is None or not self.symbol or not self.isVisible() or not self.can_command():
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
        if key not in changed or self._plot is None or self._loading:
            return
        row = self.store.rows(tables.BARS)[key]
        self.series.take(row)
        self.problem = ""
        self._draw_soon()

    # --- drawing ------------------------------------------------------------------------------

    def _on_levels(self, _changed: Any, _removed: Any) -> None:
        self._draw_levels_soon()

    def _on_marks(self, _changed: Any, _removed: Any) -> None:
        self._marks_due = True

    def _on_reset(self) -> None:
        self._levels_due = self._marks_due = True
        self._load()

    def on_link(self) -> None:
        """Say when it is not live; what is dragged goes back."""
        if not self.store.connected and self.levels is not None:
            self.levels.cancel()
        self._draw_levels_soon()

    def _draw_soon(self) -> None:
        if self._plot is not None and self.isVisible() and not self._timer.isActive():
            self._timer.start(int(self._pace.left_s(monotonic()) * 1e3) + 1)

    def tick(self) -> None:
        """Offer new symbols, read again what is old, draw what is due; nothing while it is out of sight."""
        if self._plot is None or not self.isVisible():
            return
        self._choose_symbols()
        self._choose_accounts()
        since = monotonic() - self._asked_at
        if since >= (RETRY_S if self.problem or not len(self.series) else AGAIN_S):
            self._load()
        if self._marks_due or self._levels_due:
            self._draw_soon()

    def draw(self) -> None:
        """Draw what changed."""
        if self._plot is None or not self.isVisible():
            return
        now = monotonic()
        self._pace.note(now)
        some = bool(len(self.series))
        self._plot.setVisible(some)
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
        if self.follow:
            self._glue()
        self._fit_height()

    def _glue(self) -> None:
        right = self.series.end + self._span * ROOM
        self._plot.setXRange(right - self._span, right, padding=0)

    def _fit_height(self) -> None:
        bars = self._candles.in_sight()
        if not len(bars):
            return
        low, high = float(bars[:, 3].min()), float(bars[:, 2].max())
        self._beyond = (0, 0)
        if self.fit:
            low, high = self._with_lines(low, high)
        room = (high - low or high * 1e-4) * 0.06
        if not self.levels.moving:
            self._plot.setYRange(low - room, high + room, padding=0)
        self._place_labels()

    def _with_lines(self, low: float, high: float) -> tuple[float, float]:
        """Return a range with the lines in it, but for those so far off that the candles would be flat."""
        reach = max(REACH * (high - low), high * NEAR)
        prices = self.levels.prices()
        near = [price for price in prices if low - reach <= price <= high + reach]
        self._beyond = (
            sum(price > high + reach for price in prices),
            sum(price < low - reach for price in prices),
        )
        return min([low, *near]), max([high, *near])

    def _place_labels(self) -> None:
        """Put no label on another: what is moved and the last price first, stops before entries; no room, no label."""
        box = self._plot.getPlotItem().vb
        low, high = box.viewRange()[1]
        wide, per_pixel = max(1.0, box.width()), (high - low) / max(1.0, box.height())
        order = {name: at for at, name in enumerate(LABELS_FIRST)}
        kinds = [
            (order[self.levels.levels[name].kind], line) for name, line in self.levels.lines.items()
        ]
        taken: list[tuple[float, float, float]] = []  # left, right and height of those placed
        for _, line in sorted(
            [(-1, self._last), *kinds],
            key=lambda one: (not (one[1].moving or one[1].waiting), one[0], one[1].value()),
        ):
            label, height = line.label, line.value() / per_pixel
            width, right = label.boundingRect().width(), LABEL_RIGHT * wide
            for left, end, at in sorted(taken, reverse=True):
                if abs(at - height) < LABEL_PX and left < right and right - width < end:
                    right = left - 4
            shown = right - width >= LABEL_LEFT * wide or line.moving or line.waiting
            label.setVisible(shown)
            if shown:
                label.setPosition(max(right / wide, 0.3))
                taken.append((right - width, right, height))

    def _draw_levels(self) -> None:
        rows = self.store.rows
        found = lv.levels_of(
            rows(tables.POSITIONS).values(),
            rows(tables.ORDERS).values(),
            self.symbol,
            self.account,
        )
        self.levels.draw(found, may_move=self.can_command())

    def _draw_marks(self) -> None:
        from gui import chart_items

        rows = self.store.rows
        fills = [row for row in rows(tables.FILLS).values() if row["symbol"] == self.symbol]
        signals = [row for row in rows(tables.SIGNALS).values() if row["symbol"] == self.symbol]
        self.marks = fill_marks(
            fills, rows(tables.ORDERS), rows(tables.SIGNALS), self.interval_s, self.account
        ) + signal_marks(signals, self.series.price_at, self.interval_s)
        self._scatter.setData(chart_items.spots(self.marks))

    # --- words --------------------------------------------------------------------------------

    def _say(self, at: int | None = None, price: float | None = None, mark: str = "") -> None:
        """Write the line above the chart: the bar under the pointer, or the last."""
        if not len(self.series):
            self._figure.setText("")
            if self.problem:
                self._note.say("No candles", f"{self.problem} Trying again.")
            elif self._loading:
                self._note.say(f"Reading {self.symbol}…", "")
            elif not self.symbol:
                self._note.say("No symbol yet", "It begins with the first signal, order or price.")
            else:
                self._note.say("No prices yet", f"No price of {self.symbol} has come so far.")
            return
        bar = self.series.bars[-1 if at is None else at]
        opened, high, low, close = (self.series.text(value) for value in bar[1:])
        parts = [] if self.store.connected else ["◌ not live"]
        parts += [f"{self.symbol} {fmt.Times.clock(_stamp(float(bar[0])))}"]
        parts += [f"O {opened}  H {high}  L {low}  C {close}  {fmt.arrow(bar[4] - bar[1])}"]
        if price is not None:
            parts.append(f"┼ {self.series.text(price)}")
        above, below = self._beyond
        parts.append(
            " ".join(f"{sign}{count}" for sign, count in (("↑", above), ("↓", below)) if count)
        )
        parts.append(mark)
        self._figure.setText("   ".join(part for part in parts if part))
        self._figure.set_tone("text" if self.store.connected else "warn")

    def _on_pointer(self, where: Any) -> None:
        box = self._plot.getPlotItem().vb
        inside = box.sceneBoundingRect().contains(where) and bool(len(self.series))
        self._down.setVisible(inside)
        self._across.setVisible(inside)
        if self.levels.moving:
            return
        if not inside:
            self._say()
            return
        point = box.mapSceneToView(where)
        self._down.setPos(point.x())
        self._across.setPos(point.y())
        self._say(self.series.at(point.x()), point.y(), self._mark_near(point.x(), point.y()))

    def _mark_near(self, x: float, y: float) -> str:
        box = self._plot.getPlotItem().vb
        wide, tall = box.viewPixelSize()
        for mark in self.marks:
            if abs(mark["x"] - x) < 9 * wide and abs(mark["y"] - y) < 9 * tall:
                return str(mark["text"])
        return ""

    # --- moving about -------------------------------------------------------------------------

    def _on_hand(self, *_: Any) -> None:
        """Take a pan or a zoom: whoever looks at the past is left there."""
        left, right = self._plot.getPlotItem().vb.viewRange()[0]
        self._span = right - left
        self.follow = bool(len(self.series) and right >= self.series.end)
        self.desk.registry.refresh()

    def _toggle_follow(self) -> None:
        self.follow = not self.follow
        self._draw_soon()

    def _toggle_fit(self) -> None:
        self.fit = not self.fit
        self._draw_soon()
        self.desk.layout_touched.emit()

    def _zoom(self, factor: float) -> None:
        box = self._plot.getPlotItem().vb
        left, right = box.viewRange()[0]
        anchor = right if self.follow else (left + right) / 2
        box.setXRange(
            anchor - (anchor - left) * factor, anchor + (right - anchor) * factor, padding=0
        )
        left, right = box.viewRange()[0]
        self._span = right - left
        self._draw_soon()

    def _pan(self, share: float) -> None:
        box = self._plot.getPlotItem().vb
        left, right = box.viewRange()[0]
        box.setXRange(left + share * (right - left), right + share * (right - left), padding=0)
        self._on_hand()

    # --- stops --------------------------------------------------------------------------------

    def _tell_move(self, text: str) -> None:
        if text:
            self._figure.setText(text)
        else:
            self._say()

    def _draw_levels_soon(self) -> None:
        self._levels_due = True
        self._draw_soon()

    def _pick(self) -> None:
        self.levels.pick()

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
        if getattr(self, "_plot", None) is None:
            return
        from gui import charts

        charts.restyle(self._plot)
        for item in (self._candles, self._last, self.levels):
            item.restyle()
        for line in (self._down, self._across):
            line.setPen(charts.pen("edge"))
        self._marks_due = True
        self._marked_at = float("-inf")
        self._draw_soon()

    def state(self) -> dict[str, Any]:
        """Keep what is shown."""
        return {
            "symbol": self.symbol,
            "interval": self.interval_s,
            "account": self.account,
            "fit": self.fit,
        }

    def restore(self, state: dict[str, Any]) -> None:
        """Take back what was shown."""
        if state.get("interval") in dict(INTERVALS):
            self._intervals.setCurrentIndex(self._intervals.findData(state["interval"]))
        self.account = str(state.get("account", ""))
        self.fit = bool(state.get("fit", True))
        self.show_symbol(str(state.get("symbol", "")))


def _stamp(seconds: float) -> str:
    from datetime import UTC, datetime

    return datetime.fromtimestamp(seconds, UTC).isoformat()
