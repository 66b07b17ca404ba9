"""Closing a part of a position: so many units, or a share of it."""

from __future__ import annotations

from decimal import Decimal
from functools import partial

from PySide6.QtWidgets import QPushButton

from engine.model.numbers import to_text
from gui import formatting as fmt
from gui.dialogs.base import Dialog
from gui.panel import row_of

SHARES = (25, 50, 75, 100)


class ClosePartDialog(Dialog):
    """Subject: ``position``."""

    def build(self) -> None:
        """Make the widgets."""
        row = self.subject["position"]
        self._held = abs(Decimal(str(row["qty"])))
        self.heading(
            f"Close a part of {row['symbol']} in {row['account']}",
            "At the market. A quantity is rounded down to what the broker trades; what is being closed does not count.",
        )
        self.facts([
            ("Position", f"{fmt.quantity(row['qty'])} at {fmt.average_price(row.get('avg_px'))}"),
            ("Mark", fmt.price(row.get("mark"))),
            ("Open profit or loss", fmt.pnl(row.get("unrealised"))),
        ])  # fmt: skip
        self._quantity = self.number_field("Quantity", "", f"Of {fmt.quantity(self._held)}")
        self._quantity.setPlaceholderText(f"at most {fmt.quantity(self._held)}")
        self.field("Share", row_of(*(self._share(percent) for percent in SHARES)))
        self.buttons("Close it", self._on_go, focus_go=True)
        self._quantity.setFocus()

    def _share(self, percent: int) -> QPushButton:
        button = QPushButton(f"{percent} %")
        button.setAccessibleName(f"{percent} percent of the position")
        button.setAutoDefault(False)
        button.clicked.connect(partial(self._fill_in, percent))
        return button

    def _fill_in(self, percent: int) -> None:
        self._quantity.setText(to_text(self._held * percent / 100))
        self._quantity.setFocus()

    def _on_go(self) -> None:
        try:
            quantity = self.number(self._quantity, "Quantity")
        except ValueError as error:
            self.fail(str(error))
            return
        if quantity is None:
            self.fail("Give a quantity.")
        elif Decimal(quantity) > self._held:
            self.fail(f"It holds {fmt.quantity(self._held)}.")
        else:
            self.run(self._send(quantity), "Close a part")

    async def _send(self, quantity: str) -> None:
        row = self.subject["position"]
        answer = await self.desk.command(
            "close_position", account=row["account"], symbol=row["symbol"], quantity=quantity
        )
        sent = fmt.quantity(answer.get("order_qty") or quantity)
        self.desk.say("ok", f"Closing {sent} {row['symbol']} in {row['account']}")
