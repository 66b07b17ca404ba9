"""The stops of an open position."""

from __future__ import annotations

from gui import formatting as fmt
from gui.dialogs.base import Dialog


class StopsDialog(Dialog):
    """Subject: ``position``. An empty field clears that stop."""

    def build(self) -> None:
        """Make the widgets."""
        row = self.subject["position"]
        self.heading(
            f"Stops of {row['symbol']} in {row['account']}", "An empty field clears that stop."
        )
        self.facts([
            ("Position", f"{fmt.quantity(row['qty'])} at {fmt.price(row.get('avg_px'))}"),
            ("Mark", fmt.price(row.get("mark"))),
            ("Watched by", {"broker": "the broker", "engine": "Volley"}.get(row.get("protected") or "", "nobody")),
            ("Open profit or loss", fmt.pnl(row.get("unrealised"))),
        ])  # fmt: skip
        self._stop = self.number_field("Stop loss", row.get("stop_loss"))
        self._profit = self.number_field("Take profit", row.get("take_profit"))
        about = (
            "Percent of the best price; closes the position when the price falls that far from it."
        )
        self._trail = self.number_field("Trail %", row.get("trail_percent"), about)
        for edit in (self._stop, self._profit, self._trail):
            edit.setPlaceholderText("none")
        self.buttons("Set stops", self._on_go, focus_go=True)
        self._stop.setFocus()

    def _on_go(self) -> None:
        try:
            stop = self.number(self._stop, "Stop loss")
            profit = self.number(self._profit, "Take profit")
            trail = self.number(self._trail, "Trail %")
        except ValueError as error:
            self.fail(str(error))
            return
        self.run(self._send(stop, profit, trail), "Set stops")

    async def _send(self, stop: str | None, profit: str | None, trail: str | None) -> None:
        row = self.subject["position"]
        await self.desk.command(
            "set_stops",
            account=row["account"],
            symbol=row["symbol"],
            stop_loss=stop,
            take_profit=profit,
            trail_percent=trail,
        )
        self.desk.say("ok", f"Stops of {row['symbol']} in {row['account']} set")
