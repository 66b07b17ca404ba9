"""One signal: its terms, where its time went, and one row per account with the reason."""

from __future__ import annotations

import json
from time import monotonic
from typing import Any

from PySide6.QtCore import QRect, QRectF, QSize, Qt
from PySide6.QtGui import QPainter, QPaintEvent
from PySide6.QtWidgets import QPlainTextEdit, QPushButton, QStackedWidget, QVBoxLayout, QWidget

from engine.client import Row
from engine.errors import CommandRefused
from engine.model import tables
from gui import columns as col
from gui import formatting as fmt
from gui.commands import Command
from gui.desk import Desk
from gui.filter_edit import FilterEdit
from gui.panel import Caption, Panel
from gui.table_model import Column, TableModel
from gui.table_view import TableView
from gui.theme import active

STEPS = (
    ("received", "From producer"),
    ("validated", "Validated"),
    ("durable", "Durable"),
    ("planned", "Planned"),
    ("first_byte", "First byte"),
    ("last_byte", "Last byte"),
    ("first_ack", "First ack"),
    ("last_ack", "Last ack"),
)
FOLLOW_S = 2.0
TONES = ("muted", "muted", "muted", "accent", "pos", "pos", "warn", "warn")
FAR = 3  # a producer so many times further away than all the rest took gets no bar on the scale of the rest


class Waterfall(QWidget):
    """Stages of one signal as bars on a common scale, from its producer to the last acknowledgement.

    The producer's part is by two clocks (its own and this machine's); the others are by one.
    """

    def __init__(self) -> None:
        super().__init__()
        self.trace: dict[str, Any] = {}
        self.lead_ns: float | None = None
        self.setAccessibleName("Where the time went")

    def sizeHint(self) -> QSize:
        """Return the room the stages need."""
        return QSize(320, active().px(17) * len(STEPS) + 14)

    def show_trace(self, trace: dict[str, Any], lead_ns: float | None = None) -> None:
        """Draw a trace: nanoseconds since the signal was received; ``lead_ns``: since it was issued until then."""
        self.trace = trace
        self.lead_ns = lead_ns
        said = [(title, self._said(name)) for name, title in STEPS]
        self.setAccessibleDescription(", ".join(f"{title} {text}" for title, text in said if text))
        self.update()

    def _said(self, name: str) -> str:
        """Return what stands beside a stage, empty for one that was not reached."""
        if name == "received":
            if self.lead_ns is None:
                return ""
            return "clocks differ" if self.lead_ns < 0 else _ns(self.lead_ns)
        return "" if self.trace.get(name) is None else _ns(self.trace[name])

    def spans(self) -> list[tuple[float, float] | None]:
        """Return where each stage's bar begins and ends, as shares of the width; ``None``: no bar."""
        reached = [fmt.number(self.trace.get(name)) for name, _ in STEPS[1:]]
        whole = max([at for at in reached if at is not None], default=0.0)
        lead = max(self.lead_ns or 0.0, 0.0)
        far = lead > FAR * whole
        scale = whole if far else lead + whole
        if not scale:
            return [None] * len(STEPS)
        start = 0.0 if far else lead
        found: list[tuple[float, float] | None] = [
            (0.0, lead / scale) if lead and not far else None
        ]
        before = start
        for at in reached:
            found.append(
                None if at is None else (min(before, start + at) / scale, (start + at) / scale)
            )
            before = max(before, start + (at or 0.0))
        return found

    def paintEvent(self, _event: QPaintEvent) -> None:
        """Paint one line per stage: what it took, and where on the way."""
        theme = active()
        painter = QPainter(self)
        painter.setFont(theme.font(11.5))
        width_of, line = painter.fontMetrics().horizontalAdvance, theme.px(17)
        label = max(width_of(title) for _, title in STEPS) + 8
        value = max(width_of(self._said(name)) for name, _ in STEPS)  # the bars get what is left
        left, width = 10 + label, max(12, self.width() - label - value - 22)
        for row, ((name, title), span) in enumerate(zip(STEPS, self.spans(), strict=True)):
            top = 7 + row * line
            painter.setPen(theme.colors["muted"])
            painter.drawText(
                QRect(10, top, label, line), int(Qt.AlignmentFlag.AlignVCenter.value), title
            )
            painter.fillRect(QRect(left, top + line - 1, width, 1), theme.colors["line"])
            if span is not None:
                start, end = left + width * span[0], left + width * span[1]
                bar = QRectF(start, top + 4, max(2.0, end - start), line - 8)
                painter.fillRect(bar, theme.colors[TONES[row]])
            painter.setPen(theme.colors["text"])
            box = QRect(left + width + 6, top, value, line)
            painter.drawText(
                box,
                int((Qt.AlignmentFlag.AlignRight | Qt.AlignmentFlag.AlignVCenter).value),
                self._said(name),
            )
        painter.end()


class SignalDetailPanel(Panel):
    """What happened to one signal, account by account."""

    NAME = "signal_detail"
    TITLE = "Signal detail"
    ABOUT = "One signal: its time line and a row per account with the reason"

    def __init__(self, desk: Desk) -> None:
        super().__init__(desk)
        self.key: str | None = None
        self._wanted = False
        self._busy = False
        self._followed_at = 0.0
        self._title = Caption("", 14, 600, "text")
        self._terms = Caption("", 12)
        self._why = Caption("", 12)
        self._terms.setWordWrap(True)
        self._why.setWordWrap(True)
        self._title.shrink()
        self._fall = Waterfall()
        self._whose = Caption("", 11.5)
        self._whose.setAccessibleName("Whose times")
        self._whose.setContentsMargins(10, 3, 10, 0)
        self._whose.shrink()
        self._trace: dict[str, Any] = {}
        self._lead_ns: float | None = None
        self.model = TableModel(_columns(), desk.store, self)
        self.model.sort(0)
        self.view = TableView(self.model, self.NAME, self)
        self.view.changed = desk.layout_touched.emit
        self.view.chosen.connect(self._on_chosen)
        self.view.activated_key.connect(self._open)
        self.view.fill_menu = lambda menu: desk.registry.fill(
            menu, ["detail.order", "detail.why", "detail.whole"]
        )
        self.filter = FilterEdit("accounts of the signal", self.model)
        self.filter.textChanged.connect(self.model.set_filter)
        self._raw = QPlainTextEdit()
        self._raw.setReadOnly(True)
        self._raw.setAccessibleName("The signal as it came in")
        self._pages = QStackedWidget()
        self._raw_button = QPushButton("Raw")
        desk.signal_picked.connect(self.show_signal)
        desk.store.watch(tables.SIGNALS, self._on_signals, self._on_reset)
        desk.registry.add_all(self._commands())

    def _commands(self) -> list[Command]:
        view, group = self.view, "Signals"
        return [
            Command("detail.order", "Go to this account's order", lambda: self._open(self.view.current_key()),
                    "open select link", "O", group, enabled=lambda: bool((self._chosen() or {}).get("cl_ord_id")),
                    scope=view, about="Select the order of the chosen account in Orders (also Enter)"),
            Command("detail.why", "Why this outcome?", self._explain, "reason code explain passed over refused", "W",
                    group, enabled=lambda: bool(self._chosen()), scope=view,
                    about="What the reason of the chosen account means, and what helps"),
            Command("detail.whole", "Times of the whole signal", view.clearSelection, "waterfall all accounts", "T",
                    group, enabled=lambda: bool(self._chosen()), scope=view,
                    about="Show the waterfall of all accounts together again"),
        ]  # fmt: skip

    def _chosen(self) -> Row | None:
        return self.model.rows.get(self.view.current_key() or "")

    def _on_chosen(self) -> None:
        """Show the times of the chosen account, or of all."""
        self._show_times()
        self.desk.registry.refresh()

    def _open(self, account: str | None) -> None:
        row = self.model.rows.get(account or "", {})
        if row.get("cl_ord_id"):
            self.desk.go_to("orders", str(row["cl_ord_id"]))
        elif row:
            self._explain()

    def _explain(self) -> None:
        row = self._chosen()
        if row:
            self.desk.ask("codes", code=str(row.get("code") or ""))

    def _show_times(self) -> None:
        row = self._chosen()
        trace = self._trace if row is None else (row.get("trace") or {})
        self._fall.show_trace(trace, self._lead_ns)
        whose = "All accounts" if row is None else str(row["account"])
        if row is not None and not any(trace.get(name) for name, _ in STEPS[4:]):
            whose += ": no order left, so it has no times of its own"
        self._whose.setText(whose)

    def build(self) -> None:
        """Put heading, waterfall and table in."""
        self.view.empty_title = "Select a signal"
        self.view.empty_text = (
            "Its accounts appear here, each with its outcome, its order, its fill and the reason."
        )
        head = QWidget()
        lines = QVBoxLayout(head)
        lines.setContentsMargins(10, 7, 10, 3)
        lines.setSpacing(2)
        for widget in (self._title, self._terms, self._why):
            lines.addWidget(widget)
        self._head = head
        self._raw_button.setCheckable(True)
        self._raw_button.setProperty("variant", "flat")
        self._raw_button.setAccessibleName("Show the signal as it came in")
        self._raw_button.toggled.connect(lambda on: self._pages.setCurrentIndex(int(on)))
        self._pages.addWidget(self.view)
        self._pages.addWidget(self._raw)
        self.body.addWidget(head)
        self.body.addWidget(self._whose)
        self.body.addWidget(self._fall)
        self.body.addWidget(self._pages, 1)
        self.tools = [self._raw_button, self.filter]
        head.hide()
        self._fall.hide()
        self._whose.hide()

    def show_signal(self, key: str) -> None:
        """Show another signal."""
        self.key = key
        self._wanted = True
        self._paint_head(self.store.rows(tables.SIGNALS).get(key))
        self._fetch()

    def tick(self) -> None:
        """Ask again when the signal has changed since; follow the newest until one is picked."""
        if self.desk.signal_key is None:
            self._follow_newest()
        if self._wanted and not self._busy:
            self._fetch()

    def _follow_newest(self) -> None:
        if monotonic() - self._followed_at < FOLLOW_S:
            return
        rows = self.store.rows(tables.SIGNALS)
        newest = max(rows.values(), key=lambda row: row.get("received_at") or "", default=None)
        if newest is not None and newest["key"] != self.key:
            self._followed_at = monotonic()
            self.show_signal(newest["key"])

    def _on_signals(self, changed: Any, _removed: Any) -> None:
        if self.key in changed:
            self._wanted = True
            self._paint_head(self.store.rows(tables.SIGNALS).get(self.key or ""))

    def _on_reset(self) -> None:
        self._wanted = self.key is not None

    def _fetch(self) -> None:
        if self.key and self.isVisible() and self.desk.client is not None and not self._busy:
            self._busy = True
            self._wanted = False
            self.desk.spawn(self._load(self.key), "Signal detail")

    async def _load(self, key: str) -> None:
        try:
            detail = await self.desk.signal_detail(key)
        except CommandRefused as refusal:
            if refusal.code != "NO_ENGINE":
                raise
            return
        finally:
            self._busy = False
        if key == self.key:
            self.show_detail(detail)

    def show_detail(self, detail: dict[str, Any]) -> None:
        """Show what the engine says of the signal."""
        self._paint_head(detail.get("signal"))
        self._trace = detail.get("trace") or {}
        self._lead_ns = _lead_ns(detail.get("signal") or {})
        self._fall.setVisible(bool(self._trace))
        self._whose.setVisible(bool(self._trace))
        self._raw.setPlainText(json.dumps(detail.get("raw"), indent=2, ensure_ascii=False))
        self.model.show_rows({row["account"]: row for row in detail.get("accounts", ())})
        self._show_times()

    def _paint_head(self, row: Row | None) -> None:
        self._head.setVisible(row is not None)
        if row is None:
            return
        self._title.setText(f"{fmt.side(row.get('action'))}  {row.get('symbol')}")
        self._title.set_tone(col.SIDE_TONES.get(str(row.get("action")), "text"))
        self._terms.setText(_terms(row))
        reason = col.code_title(row.get("code"))
        said = str(row.get("message") or "")
        state = fmt.words(row.get("state"))
        self._why.setText("  ·  ".join(part for part in (state, reason, said) if part))
        self._why.set_tone(col.SIGNAL_TONES.get(str(row.get("state")), "muted"))

    def restyle(self) -> None:
        """Take fonts of the theme."""
        if hasattr(self, "_raw"):
            self._raw.setFont(active().font(12))

    def on_link(self) -> None:
        """Grey what is not live."""
        self.model.stale = not self.store.connected
        self.view.viewport().update()

    def state(self) -> dict[str, Any]:
        """Keep the columns."""
        return self.view.layout_state()

    def restore(self, state: dict[str, Any]) -> None:
        """Take back the columns."""
        self.view.restore_layout(state)


def _terms(row: Row) -> str:
    parts = [str(row.get("strategy") or ""), fmt.words(row.get("order_type"))]
    for name, title in (
        ("limit_price", "limit"),
        ("stop_price", "stop"),
        ("stop_loss", "SL"),
        ("take_profit", "TP"),
    ):
        if row.get(name):
            parts.append(f"{title} {fmt.price(row[name])}")
    parts.append(f"{row.get('source')}/{row.get('id')}")
    parts.append(fmt.Times.clock(row.get("received_at"), millis=True))
    return "  ·  ".join(part for part in parts if part)


def _lead_ns(row: Row) -> float | None:
    """Return how long a signal was on its way here, by both clocks."""
    issued, received = fmt.epoch(row.get("issued_at")), fmt.epoch(row.get("received_at"))
    return None if issued is None or received is None else (received - issued) * 1e9


def _ns(value: object) -> str:
    at = fmt.number(value)
    return fmt.NONE if at is None else fmt.micros(at / 1_000)


def _trace_us(row: Row, name: str) -> float | None:
    at = fmt.number((row.get("trace") or {}).get(name))
    return None if at is None else at / 1_000


def _result(row: Row) -> str:
    """Return the order's state, else the reason why there is no order."""
    status = str(row.get("status") or "")
    if status and row.get("outcome") not in {"skipped", "refused", "held"}:
        return f"{col.ORDER_MARKS.get(status, '')} {fmt.words(status)}"
    return col.code_title(row.get("code"))


def _result_tone(row: Row) -> str:
    if row.get("outcome") == "sent":
        return col.ORDER_TONES.get(str(row.get("status")), "")
    return "muted"


def _columns() -> tuple[Column, ...]:
    def traced(name: str, title: str, about: str) -> Column:
        return Column(
            name, title, 76, "number", raw=lambda row: _trace_us(row, name), tone=lambda _row: "muted", about=about,
            text=lambda row: "" if _trace_us(row, name) is None else fmt.micros(_trace_us(row, name)),
        )  # fmt: skip

    marks = {
        "sent": "✓",
        "skipped": "–",
        "refused": "✕",
        "held": "◷",
        "unknown": "?",
        "pending": "○",
    }
    return (
        col.text("account", "Account", 74),
        col.chip("outcome", "Outcome", 78, col.OUTCOME_TONES, marks),
        Column(
            "result",
            "Result",
            152,
            text=_result,
            raw=_result,
            tone=_result_tone,
            tip=col.explain,
            about="What became of the order, or why there is none",
        ),
        col.quantity("order_qty", "Qty", 84),
        col.quantity("cum_qty", "Filled", 84),
        col.average("avg_px", "Avg price", 80),
        traced("last_byte", "Out in", "From arrival to this order's last byte"),
        traced("first_ack", "Acked in", "From arrival to the broker's answer"),
        col.text("message", "Sentence", 320, tone=lambda _row: "muted"),
        col.quiet("cl_ord_id", "ClOrdID", 190, visible=False),
    )
