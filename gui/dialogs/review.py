"""Reviewing a signal: approve with changes or one account first, or force past soft blocks."""

from __future__ import annotations

from decimal import Decimal
from typing import Any

from PySide6.QtCore import Qt, QTimer
from PySide6.QtGui import QHideEvent, QKeyEvent
from PySide6.QtWidgets import (
    QCheckBox,
    QComboBox,
    QLineEdit,
    QListWidget,
    QListWidgetItem,
    QPushButton,
    QSizePolicy,
)

from engine.errors import CommandRefused
from engine.model import tables
from engine.model.codes import CODES
from engine.model.numbers import to_text
from gui import columns as col
from gui import formatting as fmt
from gui.dialogs.base import Dialog
from gui.panel import Caption, row_of
from gui.preview import Asker
from gui.undo import say_approved

LOOK_MS = 250
ACCOUNT = 0x0100  # the role of an item's account
REJECTS = ("1", "2", "3", "5", "10")
_LINKED = {"connected", "degraded"}  # degraded: orders leave, only the broker's stream is down
CHECKED, UNCHECKED = Qt.CheckState.Checked, Qt.CheckState.Unchecked


class TickList(QListWidget):
    """A list one ticks by keyboard: arrows move, Space ticks, Ctrl+A ticks all or, once all are ticked, none."""

    def keyPressEvent(self, event: QKeyEvent) -> None:
        """Tick, or move."""
        control = event.modifiers() & Qt.KeyboardModifier.ControlModifier
        item = self.currentItem()
        if event.key() == Qt.Key.Key_A and control:
            self.tick_all(any(one.checkState() is UNCHECKED for one in self.items_known()))
        elif event.key() == Qt.Key.Key_Space and item is not None and item.data(ACCOUNT):
            item.setCheckState(UNCHECKED if item.checkState() is CHECKED else CHECKED)
        else:
            super().keyPressEvent(event)

    def items_known(self) -> list[QListWidgetItem]:
        """Return the items that are accounts."""
        items = (self.item(at) for at in range(self.count()))
        return [item for item in items if item.data(ACCOUNT)]

    def tick_all(self, on: bool) -> None:
        """Tick every account, or none."""
        for item in self.items_known():
            item.setCheckState(CHECKED if on else UNCHECKED)


class _AccountsDialog(Dialog):
    """A dialog that offers some accounts of a signal, as the engine lists them."""

    WIDTH = 500

    def account_list(self, name: str) -> QListWidget:
        """Make the list; it is filled when the engine answers."""
        self.accounts = TickList()
        self.accounts.setAccessibleName(name)
        self.accounts.setToolTip("Arrows move, Space ticks, Ctrl+A ticks all or none")
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
                item.setData(ACCOUNT, row["account"])
                item.setFlags(item.flags() | Qt.ItemFlag.ItemIsUserCheckable)
                item.setCheckState(CHECKED if self.preset() else UNCHECKED)
                item.setToolTip(col.explain(row))
                self.accounts.addItem(item)
        self.accounts.setCurrentRow(0)
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
        known = self.accounts.items_known()
        names = [str(item.data(ACCOUNT)) for item in known if item.checkState() is CHECKED]
        return names, len(names) == len(known)

    def title(self) -> str:
        """Return the signal in a few words."""
        row = self.subject["signal"]
        return f"{fmt.side(row['action'])} {row['symbol']}, {row['strategy']}"


class ApproveDialog(_AccountsDialog):
    """Subject: ``signal``. Accounts, size, limit and stops before held orders go out; one account first, if wished.

    Where the market has drifted the button names the price: pressing it confirms that price, and the engine is told.
    """

    WIDTH = 560

    def build(self) -> None:
        """Make the widgets."""
        self.heading("Approve with changes", self.title())
        self.drift = Caption("", 12.5, 500, "text")
        self.drift.setAccessibleName("Price drift since the signal")
        self.drift.setWordWrap(True)
        self.page.addWidget(self.drift)
        self.account_list("Accounts that wait for approval")
        self._everybody = QPushButton("All")
        self._nobody = QPushButton("None")
        for button, on in ((self._everybody, True), (self._nobody, False)):
            button.setProperty("variant", "flat")
            button.setAutoDefault(False)
            button.setAccessibleName(f"Tick {button.text().lower()} accounts")
            button.clicked.connect(lambda _=False, on=on: self.accounts.tick_all(on))
        self.ticks = Caption("", 12)
        self.ticks.setSizePolicy(QSizePolicy.Policy.Expanding, QSizePolicy.Policy.Preferred)
        self.page.addWidget(row_of(self._everybody, self._nobody, self.ticks))
        self.finish = Caption("", 12.5, 500, "text")
        self.finish.setAccessibleName("Predicted finish")
        self.finish.setWordWrap(True)
        self.page.addWidget(self.finish)
        self._size_fields()
        self._stage_fields()
        self._asked = ""
        self._confirms = False  # the engine has refused it for its drift, or would
        self._said: dict[str, Any] = {}  # what the engine says would come of it
        self.asker = Asker(self.desk, self._question, self)
        self.asker.answered.connect(self._on_preview)
        self.asker.outdated.connect(self._forget)
        for edit in (self._scale, self._quantity, self._limit, self._stop, self._profit):
            edit.textChanged.connect(lambda _: self.asker.changed())
        self._look = QTimer(self)  # what it says changes while one thinks
        self._look.setInterval(LOOK_MS)
        self._look.timeout.connect(self.say)
        self.accounts.itemChanged.connect(lambda _item: self._on_ticks())
        self.buttons("Approve", self._on_go, focus_go=True)
        self.accounts.setFocus()

    def _size_fields(self) -> None:
        row = self.subject["signal"]
        self._scale = self.number_field(
            "Scale, %", "100", "100 sends the quantities as they were worked out"
        )
        self._quantity = self.number_field(
            "Quantity each", "", "So many units for each account, instead of its own size"
        )
        self._quantity.setPlaceholderText("as each is sized")
        self._limit = self.number_field("Limit price", row.get("limit_price"))
        self._limit.setEnabled(str(row.get("order_type")) in {"limit", "stop_limit"})
        self._stop = self.number_field("Stop loss", row.get("stop_loss"))
        self._profit = self.number_field("Take profit", row.get("take_profit"))
        self._trail = self.number_field("Trail %", "", "Percent of the best price")

    def hideEvent(self, event: QHideEvent) -> None:
        """Ask no more once nobody looks."""
        self.asker.stop()
        super().hideEvent(event)

    def _stage_fields(self) -> None:
        self.staged = QCheckBox("One account first, the others after its fill")
        self.canary = QComboBox()
        self.rejects = QComboBox()
        self.rejects.addItems(REJECTS)
        self.rejects.setCurrentText("3")
        self.field("Canary", self.staged, "The rest waits for this account's fill, then leaves")
        self.field("Canary account", self.canary)
        self.field(
            "Halt after rejects", self.rejects, "So many rejected: what has not left does not leave"
        )
        for widget in (self.canary, self.rejects):
            widget.setEnabled(False)
            self.staged.toggled.connect(widget.setEnabled)

    def _on_ticks(self) -> None:
        names, _ = self.ticked()
        chosen = self.canary.currentText()
        if names != [self.canary.itemText(at) for at in range(self.canary.count())]:
            self.canary.clear()
            self.canary.addItems(names)
            self.canary.setCurrentIndex(max(0, names.index(chosen) if chosen in names else 0))
        self.asker.changed()
        self.say()

    def _row(self) -> dict[str, Any]:
        """Return the signal's row as it is now."""
        live = self.desk.store.rows(tables.SIGNALS).get(self.subject["signal"]["key"])
        return live or dict(self.subject["signal"])

    def _question(self) -> dict[str, Any]:
        names, _ = self.ticked()
        if not names:
            raise ValueError("no account is ticked")
        return {"held": self.subject["signal"]["key"], "accounts": names, **self._changes()}

    def _forget(self) -> None:
        self._said = {}

    def _on_preview(self, answer: dict[str, Any]) -> None:
        """Show of each account what would come of it."""
        rows = {row["account"]: row for row in answer.get("accounts", ())}
        self._said = answer if rows else {}
        self.accounts.blockSignals(True)
        for item in self.accounts.items_known():
            row = rows.get(item.data(ACCOUNT))
            if row is not None:
                item.setText(self._forecast(row))
                item.setToolTip(col.explain(row) if row["outcome"] != "send" else "")
        self.accounts.blockSignals(False)
        self.say()

    def _forecast(self, row: dict[str, Any]) -> str:
        account = self.desk.store.rows(tables.ACCOUNTS).get(row["account"], {})
        parts = [row["account"], str(account.get("name") or "")]
        if row["outcome"] != "send":
            parts.append(f"✕ {col.code_title(row['code'])}")
        else:
            parts.append(f"{fmt.side(row['side'])} {fmt.quantity(row['quantity'])}")
            if row.get("value"):
                parts.append(fmt.money(row["value"]))
            if row.get("leaves_in_s") is not None:
                parts.append(f"leaves {_soon(row['leaves_in_s'])}")
        return "    ".join(part for part in parts if part)

    def say(self) -> None:
        """Say what changes while one thinks: the drift, the finish, how many are ticked."""
        self.say_finish()
        self.say_drift()
        names, _ = self.ticked()
        self.ticks.setText(f"{len(names)} of {len(self.accounts.items_known())} accounts")

    def say_drift(self) -> None:
        """Say how far the market has moved since the signal came; beyond the band the button names the price."""
        row = self._row()
        self._confirms = self._confirms or bool(row.get("drifted"))
        self.drift.setText(col.drift_sentence(row))
        self.drift.set_tone("crit" if row.get("drifted") else "text")
        self.drift.setVisible(bool(self.drift.text()))
        if self._go is not None and self._confirms and row.get("mark"):
            self._go.setText(f"Approve at {fmt.price(row['mark'])}")
            self._go.setAccessibleName(self._go.text())

    def told(self, detail: dict[str, Any]) -> None:
        """Take the trail, and from then on say how long the orders would take to leave."""
        self.subject["signal"] = detail["signal"]
        self._asked = str((detail.get("raw") or {}).get("trail_percent") or "")
        self._trail.setText(self._trail.text() or self._asked)
        self._on_ticks()
        self._look.start()

    def say_finish(self) -> None:
        """Say when the last order of the ticked accounts would leave, and who of them is not connected."""
        names, everybody = self.ticked()
        signal = self._row()
        accounts = self.desk.store.rows(tables.ACCOUNTS)
        away = [name for name in names if accounts.get(name, {}).get("connection") not in _LINKED]
        cold = int(signal.get("predicted_cold") or 0) - len(away) if everybody else 0
        finish, part = signal.get("predicted_finish_ms"), not everybody
        if self._said:  # of the ticked ones alone
            finish, part = round(self._said["finish_s"] * 1000), False
        text = col.leaving(finish, max(0, cold), len(names), part=part)
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
        waits = (
            self._row().get("stage") == "waiting"
        )  # some of them for a canary: they must be named
        if not everybody or waits:
            fields["accounts"] = names
        if self.staged.isChecked():
            fields["canary"] = self.canary.currentText()
            fields["max_rejects"] = int(self.rejects.currentText())
        if self._confirms and (mark := self._row().get("mark")):
            fields["seen_price"] = mark
        self.run(self._send(fields, len(names)), "Approve")

    def _changes(self) -> dict[str, Any]:
        row, fields = self.subject["signal"], {}
        scale = self.number(self._scale, "Scale")
        if scale is not None and scale != "100":
            fields["scale"] = as_factor(scale)
        quantity = self.number(self._quantity, "Quantity each")
        if quantity is not None:
            fields["quantity"] = quantity
        if "scale" in fields and "quantity" in fields:
            raise ValueError("Give a scale or a quantity, not both.")
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
        key = self.subject["signal"]["key"]
        try:
            answer = await self.desk.command("approve", signal=key, **fields)
        except CommandRefused as refusal:
            if refusal.code == "PRICE_DRIFT" and self.there():
                self._confirms = True
                self.say_drift()
            raise
        if "canary" in fields:
            title = f"Canary sent: {self.title()}"
            self.desk.say("ok", title, f"{fields['canary']} first, {count - 1} after its fill")
            return
        cold = answer.get("predicted_cold")
        text = col.leaving(answer.get("predicted_finish_ms"), cold, len(answer.get("orders") or ()))
        title, said = f"Approved: {self.title()}", text or f"{count} accounts"
        say_approved(self.desk, self.subject["signal"], title, said, answer.get("orders") or {})


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


def _soon(seconds: float) -> str:
    return col.in_about(round(seconds * 1000))


def as_factor(text: str) -> str:
    """Return a percentage as a factor, exactly (``50`` → ``0.5``)."""
    return to_text(Decimal(text) / 100)
