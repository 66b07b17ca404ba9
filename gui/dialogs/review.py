"""Reviewing a signal: approve with changes, or force past soft blocks."""

from __future__ import annotations

from decimal import Decimal
from typing import Any

from PySide6.QtCore import Qt, QTimer
from PySide6.QtWidgets import QLineEdit, QListWidget, QListWidgetItem

from engine.errors import CommandRefused
from engine.model import tables
from engine.model.codes import CODES
from engine.model.numbers import to_text
from gui import columns as col
from gui import formatting as fmt
from gui.dialogs.base import Dialog
from gui.panel import Caption

LOOK_MS = 250
_LINKED = {"connected", "degraded"}  # degraded: orders leave, only the broker's stream is down
CHECKED, UNCHECKED = Qt.CheckState.Checked, Qt.CheckState.Unchecked


class _AccountsDialog(Dialog):
    """A dialog that offers some accounts of a signal, as the engine lists them."""

    WIDTH = 500

    def account_list(self, name: str) -> QListWidget:
        """Make the list; it is filled when the engine answers."""
        self.accounts = QListWidget()
        self.accounts.setAccessibleName(name)
        self.accounts.setMinimumHeight(150)
        self.accounts.setSelectionMode(QListWidget.SelectionMode.NoSelection)
        self.accounts.addItem("Asking the engine…")
        self.page.addWidget(self.accounts)
        self.desk.spawn(self._load(), name)
        return self.accounts

    async def _load(self) -> None:
        try:
            detail = await self.desk.signal_detail(self.subject["signal"]["key"])
        except CommandRefused as refusal:
            if self.there():
                self.fail(f"{refusal.message} ({refusal.code})")
            return
        if not self.there():
            return
        self.accounts.clear()
        for row in detail.get("accounts", ()):
            if self.offered(row):
                item = QListWidgetItem(self.line(row))
                item.setData(0x0100, row["account"])
                item.setFlags(item.flags() | Qt.ItemFlag.ItemIsUserCheckable)
                item.setCheckState(CHECKED if self.preset() else UNCHECKED)
                item.setToolTip(col.explain(row))
                self.accounts.addItem(item)
        self.told(detail)
        if not self.accounts.count():
            self.fail(self.nobody())

    def told(self, detail: dict[str, Any]) -> None:
        """Take what the engine says of the signal as a whole."""

    def offered(self, row: dict[str, Any]) -> bool:
        """Say whether an account belongs in the list."""
        raise NotImplementedError

    def line(self, row: dict[str, Any]) -> str:
        """Return an account's line."""
        raise NotImplementedError

    def preset(self) -> bool:
        """Say whether accounts are ticked at first."""
        return True

    def nobody(self) -> str:
        """Return what to say when no account is offered."""
        return "No account of this signal is concerned."

    def ticked(self) -> tuple[list[str], bool]:
        """Return the ticked accounts, and whether that is all of them."""
        items = [self.accounts.item(at) for at in range(self.accounts.count())]
        known = [item for item in items if item.data(0x0100)]
        names = [str(item.data(0x0100)) for item in known if item.checkState() is CHECKED]
        return names, len(names) == len(known)

    def title(self) -> str:
        """Return the signal in a few words."""
        row = self.subject["signal"]
        return f"{fmt.side(row['action'])} {row['symbol']}, {row['strategy']}"


class ApproveDialog(_AccountsDialog):
    """Subject: ``signal``. Accounts, scale, limit and stops before held orders go out."""

    def build(self) -> None:
        """Make the widgets."""
        row = self.subject["signal"]
        self.heading("Approve with changes", self.title())
        self.account_list("Accounts that wait for approval")
        self.finish = Caption("", 12.5, 500, "text")
        self.finish.setAccessibleName("Predicted finish")
        self.finish.setWordWrap(True)
        self.page.addWidget(self.finish)
        self._scale = self.number_field(
            "Scale, %", "100", "100 sends the quantities as they were worked out"
        )
        self._limit = self.number_field("Limit price", row.get("limit_price"))
        self._limit.setEnabled(str(row.get("order_type")) in {"limit", "stop_limit"})
        self._stop = self.number_field("Stop loss", row.get("stop_loss"))
        self._profit = self.number_field("Take profit", row.get("take_profit"))
        self._trail = self.number_field("Trail %", "", "Percent of the best price")
        self._asked = ""
        self._look = QTimer(self)  # what it says changes while one thinks
        self._look.setInterval(LOOK_MS)
        self._look.timeout.connect(self.say_finish)
        self.accounts.itemChanged.connect(lambda _item: self.say_finish())
        self.buttons("Approve", self._on_go, focus_go=True)

    def told(self, detail: dict[str, Any]) -> None:
        """Take the trail, and from then on say how long the orders would take to leave."""
        self.subject["signal"] = detail["signal"]
        self._asked = str((detail.get("raw") or {}).get("trail_percent") or "")
        self._trail.setText(self._trail.text() or self._asked)
        self.say_finish()
        self._look.start()

    def say_finish(self) -> None:
        """Say when the last order of the ticked accounts would leave, and who of them is not connected."""
        names, everybody = self.ticked()
        signal = self.desk.store.rows(tables.SIGNALS).get(self.subject["signal"]["key"], {})
        accounts = self.desk.store.rows(tables.ACCOUNTS)
        away = [name for name in names if accounts.get(name, {}).get("connection") not in _LINKED]
        cold = int(signal.get("predicted_cold") or 0) - len(away) if everybody else 0
        text = col.leaving(
            signal.get("predicted_finish_ms"), max(0, cold), len(names), part=not everybody
        )
        if text and away:
            more = f" and {len(away) - 4} more" if len(away) > 4 else ""
            verb = "accounts are" if len(away) > 1 else "account is"
            text += f"; ▲ {len(away)} {verb} not connected: {', '.join(away[:4])}{more}"
        self.finish.setText(text if names else "")
        self.finish.set_tone("warn" if away or cold > 0 else "text")

    def offered(self, row: dict[str, Any]) -> bool:
        """Offer what is held."""
        return row.get("outcome") == "held"

    def line(self, row: dict[str, Any]) -> str:
        """Return account and name, and the quantity where it is worked out before the release."""
        account = self.desk.store.rows(tables.ACCOUNTS).get(row["account"], {})
        parts = [row["account"], str(account.get("name") or "")]
        if row.get("order_qty"):
            parts.append(f"{fmt.side(row.get('side'))} {fmt.quantity(row['order_qty'])}")
        return "    ".join(part for part in parts if part)

    def _on_go(self) -> None:
        names, everybody = self.ticked()
        if not names:
            self.fail("Tick at least one account.")
            return
        try:
            fields = self._changes()
        except ValueError as error:
            self.fail(str(error))
            return
        if not everybody:
            fields["accounts"] = names
        self.run(self._send(fields, len(names)), "Approve")

    def _changes(self) -> dict[str, Any]:
        row, fields = self.subject["signal"], {}
        scale = self.number(self._scale, "Scale")
        if scale is not None and scale != "100":
            fields["scale"] = as_factor(scale)
        for name, edit in (
            ("limit_price", self._limit),
            ("stop_loss", self._stop),
            ("take_profit", self._profit),
            ("trail_percent", self._trail),
        ):
            value = self.number(edit, name.replace("_", " ").capitalize())
            before = self._asked if name == "trail_percent" else row.get(name)
            if value is not None and value != before:
                fields[name] = value
        return fields

    async def _send(self, fields: dict[str, Any], count: int) -> None:
        answer = await self.desk.command("approve", signal=self.subject["signal"]["key"], **fields)
        cold = answer.get("predicted_cold")
        text = col.leaving(answer.get("predicted_finish_ms"), cold, len(answer.get("orders") or ()))
        self.desk.say("ok", f"Approved: {self.title()}", text or f"{count} accounts")


class ForceDialog(_AccountsDialog):
    """Subject: ``signal``. Sends for accounts that a soft rule passed over, with a reason."""

    def build(self) -> None:
        """Make the widgets."""
        self.heading(
            "Force past soft blocks",
            f"{self.title()}. Only soft blocks may be forced; limits of quantity and value still hold.",
        )
        self.account_list("Accounts blocked by a soft rule")
        self._reason = QLineEdit()
        self._reason.setPlaceholderText("Why these should trade in spite of the rule")
        self._reason.setMaxLength(256)
        self.field("Reason", self._reason, "Kept in the audit log")
        self.buttons("Force", self._on_go)

    def offered(self, row: dict[str, Any]) -> bool:
        """Offer accounts whose block is soft."""
        found = CODES.get(str(row.get("code") or ""))
        soft = row.get("soft", bool(found and found.soft))
        return bool(soft) and row.get("outcome") in {"skipped", "refused"}

    def line(self, row: dict[str, Any]) -> str:
        """Return account and reason."""
        return f"{row['account']}    {col.code_title(row.get('code'))}"

    def preset(self) -> bool:
        """Leave accounts unticked: each is a decision."""
        return False

    def nobody(self) -> str:
        """Say why the list is empty."""
        return "No account was passed over by a soft rule; hard blocks need a changed limit or a fresh signal."

    def _on_go(self) -> None:
        names, _ = self.ticked()
        reason = self._reason.text().strip()
        if not names or not reason:
            self.fail("Tick at least one account and give a reason.")
            return
        self.run(self._send(names, reason), "Force")

    async def _send(self, names: list[str], reason: str) -> None:
        await self.desk.command(
            "force", signal=self.subject["signal"]["key"], accounts=names, reason=reason
        )
        self.desk.say("ok", f"Forced: {self.title()}", ", ".join(names[:6]))


def as_factor(text: str) -> str:
    """Return a percentage as a factor, exactly (``50`` → ``0.5``)."""
    return to_text(Decimal(text) / 100)
