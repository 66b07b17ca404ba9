"""Positions: what every account holds, what it is worth now, and the ways out of it."""

from __future__ import annotations

from engine.client import Row
from engine.model import tables
from gui import columns as col
from gui import formatting as fmt
from gui.commands import CONFIRM, HOLD, Command, Work
from gui.desk import Desk
from gui.panel import TablePanel


class PositionsPanel(TablePanel):
    """Open positions; exits are never gated by the armed state."""

    NAME = "positions"
    TITLE = "Positions"
    ABOUT = "What every account holds and its profit or loss"
    TABLE = tables.POSITIONS
    SORT = ("account", False)
    EMPTY = (
        "No open positions",
        "A position appears with its first fill and leaves when it is flat.",
    )
    COLUMNS = (
        col.text("account", "Account", 76),
        col.text("symbol", "Symbol", 76),
        col.quantity("qty", "Qty", 84, flash=True, tone=lambda row: fmt.tone_of(row.get("qty"))),
        col.average("avg_px", "Avg price"),
        col.price("mark", "Mark", flash=True),
        col.money("value", "Value", 98),
        col.pnl("unrealised", "Open P&L", flash=True),
        col.pnl("realised", "Realised"),
        col.price("stop_loss", "Stop loss"),
        col.price("take_profit", "Take profit"),
        col.text(
            "mark_age_s",
            "Mark age",
            74,
            kind="number",
            text=lambda row: fmt.age(fmt.number(row.get("mark_age_s"))),
            tone=lambda row: "warn" if (fmt.number(row.get("mark_age_s")) or 0) > 5 else "muted",
        ),
        col.stamp("updated_at", "Updated"),
    )

    def __init__(self, desk: Desk) -> None:
        super().__init__(desk)
        self.model.keep = lambda row: bool(fmt.number(row.get("qty")))
        self.model.load()
        desk.registry.add_all(self._commands())

    def build(self) -> None:
        """Put table and buttons in."""
        super().build()
        button = self.desk.registry.button
        self.tools = [
            button("position.close", "Close"),
            button("position.half", "Close half"),
            button("position.stops", "Stops…"),
        ]

    def _commands(self) -> list[Command]:
        some, group = self.offers(lambda _row: True), "Positions"
        return [
            Command("position.close", "Close position", lambda: self._close("1"), "exit market", "C", group,
                    CONFIRM, icon="close", enabled=some, scope=self.view, about="Close what is selected at the market"),
            Command("position.half", "Close half of position", lambda: self._close("0.5"), "reduce", "H", group,
                    CONFIRM, enabled=some, scope=self.view, about="Close half of the selected positions"),
            Command("position.stops", "Edit stops…", self._stops, "stop loss take profit", "S", group, CONFIRM,
                    enabled=some, scope=self.view, about="Set or clear the stop loss and take profit"),
            Command("position.flatten_symbol", "Flatten symbol…", lambda: self._flatten("symbol"), "close all",
                    "", group, HOLD, enabled=some, about="Cancel and close this symbol in every account"),
            Command("position.flatten_account", "Flatten account…", lambda: self._flatten("account"), "close all",
                    "", group, HOLD, enabled=some, about="Cancel and close everything of this account"),
            Command("position.flatten_all", "Flatten everything…", lambda: self._flatten("all"), "close all exit",
                    "Ctrl+Alt+F6", group, HOLD, enabled=self.can_command,
                    about="Cancel every working order and close every position"),
        ]  # fmt: skip

    def menu_commands(self) -> list[str]:
        """Return the row menu."""
        return ["position.close", "position.half", "position.stops", "", "position.flatten_symbol",
                "position.flatten_account", "position.flatten_all"]  # fmt: skip

    def _close(self, fraction: str) -> Work | None:
        rows = self.chosen()
        subjects = [
            {"account": row["account"], "symbol": row["symbol"], "fraction": fraction}
            for row in rows
        ]
        word = "Close" if fraction == "1" else "Close half of"
        title = f"{word} {len(rows)} position{'s' if len(rows) != 1 else ''}"
        if len(rows) == 1:
            return self.desk.each(title, "close_position", subjects)
        self.desk.ask(
            "confirm",
            title=title,
            facts=_facts(rows),
            go=title,
            run=lambda: self.desk.each(title, "close_position", subjects),
            danger=CONFIRM,
        )
        return None

    def _stops(self) -> None:
        row = self.chosen_one()
        if row:
            self.desk.ask("stops", position=dict(row))

    def _flatten(self, kind: str) -> None:
        row = self.chosen_one()
        scope = kind if kind == "all" or row is None else f"{kind}:{row[kind]}"
        if kind != "all" and row is None:
            return
        held = [r for r in self.model.rows.values() if fmt.number(r.get("qty"))]
        if row is not None and kind != "all":
            held = [r for r in held if r[kind] == row[kind]]
        self.desk.ask(
            "confirm",
            title=f"Flatten {scope.replace(':', ' ')}",
            facts=_facts(held),
            go="Hold to flatten",
            run=lambda: self._send_flatten(scope),
            danger=HOLD,
        )

    async def _send_flatten(self, scope: str) -> None:
        await self.desk.command("flatten", scope=scope, reason="by hand at the desk")
        self.desk.say("ok", f"Flatten {scope}", "Orders are being cancelled and positions closed.")
        self.desk.show_panel("risk")


def _facts(rows: list[Row]) -> list[tuple[str, str]]:
    open_pnl = sum(fmt.number(row.get("unrealised")) or 0.0 for row in rows)
    symbols = sorted({str(row["symbol"]) for row in rows})
    more = f" and {len(symbols) - 6} more" if len(symbols) > 6 else ""
    return [
        ("Positions", str(len(rows))),
        ("Accounts", str(len({row["account"] for row in rows}))),
        ("Symbols", ", ".join(symbols[:6]) + more),
        ("Open profit or loss", fmt.pnl(f"{open_pnl:.2f}")),
        ("How", "Market orders, at once"),
    ]
