"""Risk: what is halted and by whom, how to lift it, and how far a kill has come, account by account."""

from __future__ import annotations

from engine.client import Row
from engine.model import tables
from gui import columns as col
from gui import formatting as fmt
from gui.commands import HOLD, UNDOABLE, Command, Work
from gui.desk import Desk
from gui.panel import PairPanel
from gui.table_model import Column

STATE_TONES = {
    "halted": "crit",
    "reducing": "warn",
    "disarmed": "muted",
    "active": "pos",
    "paused": "warn",
}
STATE_MARKS = {"halted": "■", "reducing": "▼", "disarmed": "○", "active": "●", "paused": "◐"}


def residual_text(row: Row) -> str:
    """Return what an account still holds: symbol and signed quantity."""
    held = row.get("residual") or {}
    return "  ".join(f"{symbol} {fmt.quantity(qty)}" for symbol, qty in held.items())


def _kill_columns() -> tuple[Column, ...]:
    def step(key: str, title: str, width: int) -> Column:
        return Column(
            key,
            title,
            width,
            "number",
            text=lambda row: fmt.quiet_count(row.get(key)),
            tone=lambda _row: "muted",
        )

    def blocked(row: Row) -> str:
        return "✓ blocked" if row.get("blocked") else "… blocking"

    return (
        col.text("account", "Account", 62),
        col.text("blocked", "Entries", 80, text=blocked, tone=lambda row: "pos" if row.get("blocked") else "warn"),
        step("cancels_sent", "Cancels", 56),
        step("cancels_confirmed", "Confirmed", 72),
        col.count("working", "Left", 54, "warn", flash=True),
        col.text("done", "Done", 62, text=lambda row: "✓ done" if row.get("done") else "working",
                 tone=lambda row: "pos" if row.get("done") else "accent"),
        col.text("residual", "Still held", 170, text=residual_text, raw=residual_text),
        col.text("error", "Error", 220, tone=lambda _row: "crit"),
    )  # fmt: skip


class RiskPanel(PairPanel):
    """Halts by scope and the progress of the last kill."""

    NAME = "risk"
    TITLE = "Risk"
    ABOUT = "Halts by scope, and how far a kill has come"
    TABLE = tables.HALTS
    SORT = ("at", True)
    EMPTY = (
        "Nothing is halted",
        "A kill (Ctrl+Shift+K) or a pause shows here until somebody lifts it.",
    )
    COLUMNS = (
        col.text("scope", "Scope", 96),
        col.chip("state", "State", 96, STATE_TONES, STATE_MARKS),
        col.stamp("at", "Since"),
        col.text("by", "By", 76, tone=lambda _row: "muted"),
        col.text("reason", "Reason", 260),
    )

    SECOND = tables.KILL
    SECOND_COLUMNS = _kill_columns()
    SECOND_NAME = "kill"
    SECOND_SORT = ("working", True)
    SECOND_EMPTY = (
        "No kill in progress",
        "After a kill, per account: entries blocked, cancels sent and confirmed, what is left.",
    )
    SIZES = (120, 240)

    def __init__(self, desk: Desk) -> None:
        super().__init__(desk)
        desk.registry.add_all(self._commands())

    def build(self) -> None:
        """Put both tables in, and the buttons."""
        super().build()
        button = self.desk.registry.button
        self.tools = [
            button("risk.pause", "Pause…"),
            button("risk.resume", "Resume"),
            button("risk.rearm", "Re-arm…"),
            button("risk.flatten", "Flatten residual…", "danger"),
        ]

    def _commands(self) -> list[Command]:
        group = "Risk"
        return [
            Command("risk.pause", "Pause a scope…", lambda: self.desk.ask("scope", act="pause"),
                    "hold no entries firm account broker strategy symbol", "Ctrl+Shift+.", group, UNDOABLE,
                    enabled=self.can_command, about="Take no new entries of a firm, account, strategy or symbol"),
            Command("risk.resume", "Resume what is paused", self._resume, "end pause", "", group,
                    enabled=self.offers(_paused), scope=self.view, about="End the selected pauses"),
            Command("risk.flatten_scope", "Flatten a scope…", lambda: self.desk.ask("scope", act="flatten"),
                    "close all account strategy symbol", "", group, HOLD, enabled=self.can_command,
                    about="Cancel the orders and close the positions of a scope"),
            Command("risk.rearm", "Lift halt or pause…", self._rearm, "re-arm resume unlock", "", group, HOLD,
                    icon="arm", enabled=self.offers(lambda _row: True), about="Lift the selected halt, with a reason"),
            Command("risk.flatten", "Flatten residual positions…", self._flatten, "kill close", "", group, HOLD,
                    enabled=lambda: self.can_command() and bool(self.residual()),
                    about="Close what is still held after a kill"),
        ]  # fmt: skip

    def menu_commands(self) -> list[str]:
        """Return the row menu."""
        return ["risk.resume", "risk.rearm", "", "risk.pause", "risk.flatten_scope", "risk.flatten"]

    def residual(self) -> list[Row]:
        """Return the accounts that still hold something after a kill."""
        return [row for row in self.second.rows.values() if row.get("residual")]

    def summarise(self) -> str:
        """Say how far the kill has come."""
        rows = list(self.second.rows.values())
        if not rows:
            return "Kill progress"
        done = sum(1 for row in rows if row.get("done"))
        left = sum(int(row.get("working") or 0) for row in rows)
        facts = (
            f"{done}/{len(rows)} accounts done",
            f"{left} orders left",
            f"{len(self.residual())} hold positions",
        )
        recorded = ("by our own orders: brokers' lists are not recorded",) * self.store.recorded
        return "Kill: " + "  ·  ".join((*facts, *recorded))

    def _resume(self) -> Work:
        scopes = [row["scope"] for row in self.chosen() if _paused(row)]
        return self.desk.each("Resumed", "resume", [{"scope": scope} for scope in scopes])

    def _rearm(self) -> None:
        row = self.chosen_one()
        if row:
            self.desk.ask("rearm", scope=row["scope"], state=row.get("state"))

    def _flatten(self) -> None:
        rows = self.residual()
        facts = [(row["account"], residual_text(row)) for row in rows[:8]]
        self.desk.ask(
            "confirm",
            title="Flatten residual positions",
            facts=[("Accounts", str(len(rows))), *facts],
            go="Hold to flatten",
            run=lambda: self.desk.each(
                "Flatten residual",
                "flatten",
                [
                    {"scope": f"account:{row['account']}", "reason": "residual after a kill"}
                    for row in rows
                ],
            ),
            danger=HOLD,
        )


def _paused(row: Row) -> bool:
    return row.get("state") in {"paused", "reducing"}
