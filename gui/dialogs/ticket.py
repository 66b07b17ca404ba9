"""The order ticket: a signal by hand, through the same rules and limits as every other."""

from __future__ import annotations

import uuid
from datetime import UTC, datetime
from typing import Any

from PySide6.QtWidgets import QButtonGroup, QComboBox, QLineEdit, QPushButton

from engine.model import tables
from gui.dialogs.base import Dialog
from gui.panel import row_of

KINDS = (("market", "Market"), ("limit", "Limit"), ("stop", "Stop"), ("stop_limit", "Stop limit"))
TIFS = (
    ("day", "Day"),
    ("gtc", "Good till cancelled"),
    ("ioc", "Immediate or cancel"),
    ("fok", "Fill or kill"),
)


class TicketDialog(Dialog):
    """Makes a schema v1 signal with the source ``desk``."""

    WIDTH = 460

    def build(self) -> None:
        """Make the widgets."""
        self.heading(
            "Order ticket", "Sent as a signal: each account's own sizing, limits and hours apply."
        )
        self._side_buttons()
        self._symbol = QLineEdit(str(self.subject.get("symbol", "")))
        self._symbol.setPlaceholderText("AAPL")
        self.field("Symbol", self._symbol)
        self._kind = self._choice("Type", KINDS)
        self._kind.currentIndexChanged.connect(self._on_kind)
        self._limit = self.number_field("Limit price")
        self._stop_price = self.number_field("Stop price")
        self._quantity = self.number_field(
            "Quantity", "", "Used by accounts that size by the signal"
        )
        self._stop = self.number_field("Stop loss")
        self._profit = self.number_field("Take profit")
        self._trail = self.number_field("Trail %", "", "Percent of the best price")
        for edit in (
            self._limit,
            self._stop_price,
            self._quantity,
            self._stop,
            self._profit,
            self._trail,
        ):
            edit.setPlaceholderText("none")
        self._tif = self._choice("Time in force", TIFS)
        self._strategy = QLineEdit("manual")
        self.field("Strategy", self._strategy, "Accounts subscribed to it, or to all, will trade")
        self._tags = self._tag_choice()
        self._accounts = QLineEdit()
        self._accounts.setPlaceholderText("all that follow the strategy, or A-001, A-002")
        self.field("Accounts", self._accounts)
        self.buttons("Send", self._on_go, focus_go=True)
        self._on_kind()
        self._symbol.setFocus()

    def _side_buttons(self) -> None:
        self._sides = QButtonGroup(self)
        made = []
        for at, text in enumerate(("▲ Buy", "▼ Sell")):
            button = QPushButton(text)
            button.setCheckable(True)
            button.setChecked(at == 0)
            button.setAutoDefault(False)
            button.setAccessibleName(text[2:])
            self._sides.addButton(button, at)
            made.append(button)
        self.field("Side", row_of(*made))

    def _choice(self, name: str, entries: tuple[tuple[str, str], ...]) -> QComboBox:
        box = QComboBox()
        for value, text in entries:
            box.addItem(text, value)
        self.field(name, box)
        return box

    def _tag_choice(self) -> QComboBox:
        rows = self.desk.store.rows(tables.ACCOUNTS).values()
        known = sorted({tag for row in rows for tag in row.get("tags") or ()})
        return self._choice("Tag", (("", "Any"), *((tag, tag) for tag in known)))

    def _on_kind(self) -> None:
        kind = self._kind.currentData()
        self._limit.setEnabled(kind in {"limit", "stop_limit"})
        self._stop_price.setEnabled(kind in {"stop", "stop_limit"})

    def document(self) -> dict[str, Any]:
        """Return the signal, schema v1.

        Raises:
            ValueError: with what is missing or wrong.
        """
        symbol = self._symbol.text().strip().upper()
        if not symbol:
            raise ValueError("Symbol: which one?")
        kind = str(self._kind.currentData())
        document: dict[str, Any] = {
            "id": f"ticket-{uuid.uuid4().hex[:16]}",
            "source": "desk",
            "strategy": self._strategy.text().strip() or "manual",
            "symbol": symbol,
            "action": "buy" if self._sides.checkedId() == 0 else "sell",
            "order_type": kind,
            "time_in_force": str(self._tif.currentData()),
            "issued_at": datetime.now(UTC)
            .isoformat(timespec="milliseconds")
            .replace("+00:00", "Z"),
        }
        edits = {
            "limit_price": self._limit,
            "stop_price": self._stop_price,
            "quantity": self._quantity,
            "stop_loss": self._stop,
            "take_profit": self._profit,
            "trail_percent": self._trail,
        }
        for name, edit in edits.items():
            value = (
                self.number(edit, name.replace("_", " ").capitalize()) if edit.isEnabled() else None
            )
            if value is not None:
                document[name] = value
        for name, wanted in (("limit_price", "limit"), ("stop_price", "stop")):
            if wanted in kind and name not in document:
                raise ValueError(
                    f"{name.replace('_', ' ').capitalize()}: a {kind.replace('_', ' ')} order needs one"
                )
        return document | self._audience()

    def _audience(self) -> dict[str, Any]:
        audience: dict[str, Any] = {}
        names = [name for name in self._accounts.text().replace(",", " ").split() if name]
        if names:
            audience["accounts"] = names
        if self._tags.currentData():
            audience["tags"] = [self._tags.currentData()]
        return {"audience": audience} if audience else {}

    def _on_go(self) -> None:
        try:
            document = self.document()
        except ValueError as error:
            self.fail(str(error))
            return
        self.run(self._send(document), "Order ticket")

    async def _send(self, document: dict[str, Any]) -> None:
        answer = await self.desk.send_signal(document)
        state = str(answer.get("state", ""))
        word = {"accepted": "Sent", "held": "Held for review", "refused": "Refused"}.get(
            state, state
        )
        reason = f"{answer.get('code', '')} {answer.get('message', '')}".strip()
        severity = "warning" if state == "refused" else "ok"
        self.desk.say(severity, f"{word}: {document['action']} {document['symbol']}", reason)
        self.desk.pick_signal(f"{document['source']}/{document['id']}")
