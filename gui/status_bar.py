"""The status bar: engine, brokers, rates, latency, frames, age of what is shown."""

from __future__ import annotations

from collections.abc import Callable

from PySide6.QtCore import QEvent, Qt
from PySide6.QtWidgets import QHBoxLayout, QPushButton, QStatusBar, QWidget

from engine.client import Row
from engine.model import tables
from engine.model.enums import ConnectionState
from gui import formatting as fmt
from gui.desk import Desk
from gui.theme import active

LIGHTS = {"ok": "●", "warn": "◐", "crit": "○", "muted": "○"}


class Cell(QPushButton):
    """One fact of the status bar; a click leads to the panel behind it."""

    def __init__(self, name: str, about: str) -> None:
        super().__init__()
        self.setProperty("variant", "flat")
        self.setAccessibleName(name)
        self.setToolTip(about)
        self.setFocusPolicy(Qt.FocusPolicy.TabFocus)
        self._tone = "muted"
        self._widest = 0

    def show_fact(self, text: str, tone: str = "muted") -> None:
        """Show another fact."""
        if self.text() != text:
            self.setText(text)
            self._make_room()
        if tone != self._tone:
            self._tone = tone
            self.restyle()

    def _make_room(self) -> None:
        """Grow when the text does not fit, and never shrink: of another size it has the whole window laid out anew."""
        self.ensurePolished()
        width = self.fontMetrics().horizontalAdvance(self.text())
        if width > self._widest:
            self._widest = width
            self.setFixedSize(self.sizeHint())

    def restyle(self) -> None:
        """Take the tone's colour of the theme."""
        color = "" if self._tone == "muted" else active().colors[self._tone].name()
        sheet = color and f"color: {color};"
        if sheet != self.styleSheet():  # Qt would polish it all the same
            self.setStyleSheet(sheet)

    def changeEvent(self, event: QEvent) -> None:
        """Take another font."""
        super().changeEvent(event)
        if event.type() in {QEvent.Type.FontChange, QEvent.Type.StyleChange}:
            self._widest = 0
            self._make_room()


class DeskStatus(QStatusBar):
    """Facts in a row, painted when they change."""

    def __init__(self, desk: Desk) -> None:
        super().__init__()
        self.desk = desk
        self.setObjectName("status")
        self.setSizeGripEnabled(False)
        self.ui_lag_ms: Callable[[], float | None] = lambda: None
        self._cells = {
            "engine": Cell("Engine link", "The link to the engine, and how late its loop runs"),
            "brokers": Cell("Broker connections", "Accounts connected to their broker"),
            "unknown": Cell("Unknown orders", "Orders sent whose fate is not proven; resolve them"),
            "rate": Cell("Rates", "Signals and orders in the last second"),
            "send": Cell("Send latency", "One order, from durable to its last byte: p50 / p99 of the last minute"),
            "ack": Cell("Ack latency", "One order, from its last byte to the answer: p50 / p99 of the last minute"),
            "frame": Cell("Frame time", "p99 of the desk's own work per frame, and its loop's lag"),
            "age": Cell("Data age", "Since the engine last said anything"),
        }  # fmt: skip
        self._lay_out()

    def _lay_out(self) -> None:
        holder = QWidget()
        line = QHBoxLayout(holder)
        line.setContentsMargins(6, 0, 6, 0)
        line.setSpacing(4)
        targets = {"engine": "alerts", "brokers": "accounts", "unknown": "orders", "rate": "orders",
                   "send": "latency", "ack": "latency", "frame": "latency", "age": "alerts"}  # fmt: skip
        for name, cell in self._cells.items():
            cell.clicked.connect(lambda _on=False, panel=targets[name]: self.desk.show_panel(panel))
            line.addWidget(cell)
            if name == "rate":
                line.addStretch(1)
        self.addWidget(holder, 1)

    def restyle(self) -> None:
        """Take the theme's colours."""
        for cell in self._cells.values():
            cell.restyle()

    def tick(self) -> None:
        """Show the facts of now."""
        store = self.desk.store
        row = store.engine
        self._engine(row)
        connected, accounts = row.get("connected") or 0, row.get("accounts") or 0
        tone = "muted" if not accounts else ("ok" if connected == accounts else "warn")
        self._cells["brokers"].show_fact(f"{LIGHTS[tone]} Brokers {connected}/{accounts}", tone)
        unknown = row.get("unknown_orders") or 0
        self._cells["unknown"].show_fact(f"? {unknown} unknown", "warn")
        self._cells["unknown"].setVisible(bool(unknown))
        rates = f"{_rate(row.get('signals_per_s'))} signals/s   {_rate(row.get('orders_per_s'))} orders/s"
        self._cells["rate"].show_fact(rates)
        for name, title in (("send", "Send"), ("ack", "Ack")):
            self._cells[name].show_fact(f"{title} {self._percentiles(name)}")
        self._frame()

    def _engine(self, row: Row) -> None:
        store = self.desk.store
        lag = fmt.number(row.get("loop_lag_ms"))
        if store.connected:
            text = f"{LIGHTS['ok']} Engine" + ("" if lag is None else f"  lag {lag:.1f} ms")
            self._cells["engine"].show_fact(text, "warn" if lag is not None and lag > 50 else "ok")
            return
        waiting = store.link is ConnectionState.CONNECTING
        self._cells["engine"].show_fact(
            f"{LIGHTS['crit']} Engine {store.link.value}", "warn" if waiting else "crit"
        )

    def _percentiles(self, stage: str) -> str:
        row = self.desk.store.rows(tables.LATENCY).get(stage) or {}
        minute = row.get("minute") or {}
        if not minute.get("count"):
            return fmt.NONE
        return f"{fmt.micros(minute.get('p50'))} / {fmt.micros(minute.get('p99'))}"

    def _frame(self) -> None:
        store = self.desk.store
        p99, lag = store.meter.p99(), self.ui_lag_ms()
        text = "Frame " + (fmt.NONE if p99 is None else f"{p99:.1f} ms")
        if lag is not None:
            text += f"  lag {lag:.0f} ms"
        self._cells["frame"].show_fact(text, "warn" if (lag or 0) > 50 else "muted")
        age = store.age()
        self._cells["age"].show_fact(
            f"Data {fmt.whole_age(age)}", "warn" if age is not None and age > 3 else "muted"
        )


def _rate(value: object) -> str:
    rate = fmt.number(value)
    return fmt.NONE if rate is None else (f"{rate:.0f}" if rate >= 10 else f"{rate:.1f}")
