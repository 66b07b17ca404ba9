"""What the engine says would come of a signal: totals in a few lines, and below them every account's part."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from decimal import Decimal
from typing import Any

from PySide6.QtCore import QObject, QTimer, Signal
from PySide6.QtWidgets import QVBoxLayout, QWidget

from engine.client import Row
from engine.errors import CommandRefused
from gui import columns as col
from gui import formatting as fmt
from gui.desk import Desk
from gui.grouping import ZERO, exact
from gui.panel import Caption
from gui.table_model import Column, TableModel
from gui.table_view import TableView

DEBOUNCE_MS = 150
AGAIN_MS = 2_000
"""Prices and limits move while one thinks: what is shown is asked anew."""
WORDS = {
    "send": "to send",
    "hold": "to be approved first",
    "skip": "passed over",
    "refuse": "refused",
}
TONES = {"send": "pos", "hold": "warn", "skip": "muted", "refuse": "crit"}
MARKS = {"send": "✓", "hold": "○", "skip": "–", "refuse": "✕"}
RANK = {"send": 0, "hold": 1, "refuse": 2, "skip": 3}


class Asker(QObject):
    """Asks for previews: a moment after the last change, one at a time, only the newest answer counts.

    ``question`` returns the fields of the command ``preview``, or raises ``ValueError`` with what is missing.
    """

    answered = Signal(object)
    failed = Signal(str, str)  # tone, words
    outdated = Signal()

    def __init__(self, desk: Desk, question: Callable[[], dict[str, Any]], parent: QObject) -> None:
        super().__init__(parent)
        self._desk = desk
        self._question = question
        self._serial = 0
        self._asking = False
        self.asked: dict[str, Any] | None = None
        """The fields that the shown answer is about; ``None`` while there is none."""
        self._debounce = QTimer(self)
        self._debounce.setSingleShot(True)
        self._debounce.setInterval(DEBOUNCE_MS)
        self._debounce.timeout.connect(self.ask)
        self._again = QTimer(self)
        self._again.setInterval(AGAIN_MS)
        self._again.timeout.connect(self._ask_again)

    def changed(self) -> None:
        """Take note that the question is another; it is asked in a moment."""
        self._serial += 1
        self.asked = None
        self.outdated.emit()
        self._debounce.start()

    def stop(self) -> None:
        """Ask no more; an answer under way is dropped."""
        self._serial += 1
        self._debounce.stop()
        self._again.stop()

    def _ask_again(self) -> None:
        if not self._debounce.isActive():
            self.ask()

    def ask(self) -> None:
        """Ask now."""
        self._debounce.stop()
        if self._asking:
            self._debounce.start()
            return
        try:
            fields = self._question()
        except ValueError as error:
            self.failed.emit("muted", str(error))
            return
        self._asking = True
        self._desk.spawn(self._ask(fields, self._serial), "Preview")

    async def _ask(self, fields: dict[str, Any], serial: int) -> None:
        answer: dict[str, Any] = {}
        words = ""
        try:
            answer = await self._desk.command("preview", **fields)
        except CommandRefused as refusal:
            words = f"{refusal.message} ({refusal.code})"
        finally:
            self._asking = False
        if serial != self._serial:
            return  # about something that is not asked any more
        if words:
            self.failed.emit("crit", words)
            return
        self.asked = fields
        self._again.start()
        self.answered.emit(answer)


class PreviewView(QWidget):
    """Totals and accounts of one preview."""

    def __init__(self, desk: Desk) -> None:
        super().__init__()
        self.answer: dict[str, Any] = {}
        self.model = TableModel(_columns(desk), desk.store, self)
        self.model.sort([column.key for column in self.model.columns].index("outcome"))
        self.view = TableView(self.model, "preview", self)
        self.view.setAccessibleName("Preview, account by account")
        self.view.empty_title = "Nothing to preview yet"
        self.view.empty_text = (
            "What every account would do appears here as you type, before anything is sent."
        )
        self.total = Caption("", 13.5, 600, "text")
        self.total.setAccessibleName("What would come of it")
        self.detail = Caption("", 12)
        self.detail.setAccessibleName("Totals and predicted finish")
        for label in (self.total, self.detail):
            label.setWordWrap(True)
        lines = QVBoxLayout(self)
        lines.setContentsMargins(0, 0, 0, 0)
        lines.setSpacing(6)
        lines.addWidget(self.total)
        lines.addWidget(self.detail)
        lines.addWidget(self.view, 1)

    def show_answer(self, answer: dict[str, Any]) -> None:
        """Show what the engine answered."""
        self.answer = answer
        rows = answer.get("accounts", ())
        self.model.stale = False
        self.model.show_rows({row["account"]: row for row in rows})
        self.model.resort()
        counts = Counter(str(row["outcome"]) for row in rows)
        said = [f"{counts[name]} {WORDS[name]}" for name in WORDS if counts[name]]
        whole = answer.get("code")
        if whole:
            self.total.setText(f"Refused as a whole: {answer.get('message')} ({whole})")
        else:
            self.total.setText("  ·  ".join(said) or "No account would act on it")
        self.total.set_tone("text" if counts["send"] or counts["hold"] else "warn")
        self.detail.setText(_totals(answer))
        self.view.viewport().update()

    def show_words(self, tone: str, words: str) -> None:
        """Say why there is no preview."""
        self.answer = {}
        self.total.setText(words)
        self.total.set_tone(tone)
        self.detail.setText("")
        self.model.show_rows({})

    def show_outdated(self) -> None:
        """Grey what is shown: it is about what was typed before."""
        self.model.stale = True
        self.total.set_tone("muted")
        self.view.viewport().update()

    def sends(self) -> int:
        """Return how many orders would be sent or held."""
        rows = self.answer.get("accounts", ())
        return sum(row["outcome"] in {"send", "hold"} for row in rows)


def _totals(answer: dict[str, Any]) -> str:
    """Return quantity, cost, risk and finish of all that would be sent or held."""
    rows = [row for row in answer.get("accounts", ()) if row["outcome"] in {"send", "hold"}]
    if not rows:
        return ""

    def total(name: str) -> Decimal:
        return sum((exact(row.get(name)) for row in rows), ZERO)

    parts = [f"Quantity {fmt.quantity(total('quantity'))}"]
    unpriced = sum(row.get("value") is None for row in rows)
    parts.append(
        "Cost unknown: no price" if unpriced == len(rows) else f"Cost {fmt.money(total('value'))}"
    )
    risks = [row for row in rows if row.get("risk") is not None]
    parts.append(f"Risk to the stop {fmt.money(total('risk'))}" if risks else "Risk: no stop loss")
    if risks and len(risks) < len(rows):
        parts[-1] += f" (of {len(risks)} of {len(rows)})"
    sends = sum(row["outcome"] == "send" for row in rows)
    if sends:
        parts.append(col.leaving(round(float(answer.get("finish_s") or 0) * 1000), None, sends))
    return "  ·  ".join(parts)


def _columns(desk: Desk) -> tuple[Column, ...]:
    def name(row: Row) -> str:
        account = desk.store.rows("accounts").get(str(row["account"]), {})
        return str(account.get("name") or "")

    def outcome(row: Row) -> str:
        value = str(row["outcome"])
        return f"{MARKS.get(value, '')} {fmt.words(value)}".strip()

    def leaves(row: Row) -> str:
        seconds = row.get("leaves_in_s")
        return "" if seconds is None else col.in_about(round(float(seconds) * 1000))

    return (
        col.text("account", "Account", 74),
        col.text("outcome", "Outcome", 80, kind="chip", text=outcome, tone=lambda row: TONES[row["outcome"]],
                 raw=lambda row: RANK[row["outcome"]]),
        col.side(width=60, visible=False),
        col.quantity("quantity", "Qty", 64),
        col.price("price", "Price", 78, visible=False),
        col.money("value", "Cost", 84),
        col.money("risk", "Risk", 74),
        col.text("leaves_in_s", "Leaves", 66, kind="number", text=leaves, tone=lambda _row: "muted"),
        col.quiet("name", "Name", 120, text=name, raw=name, visible=False),
        col.code(width=120),
    )  # fmt: skip
