"""Risk: what is halted and by whom, how to lift it, and how far a kill has come, account by account."""

from __future__ import annotations

from typing import Any

from PySide6.QtCore import Qt
from PySide6.QtWidgets import QSplitter, QVBoxLayout, QWidget

from engine.client import Row
from engine.model import tables
from gui import columns as col
from gui import formatting as fmt
from gui.commands import HOLD, Command
from gui.desk import Desk
from gui.panel import Caption, TablePanel
from gui.table_model import Column, TableModel
from gui.table_view import TableView

STATE_TONES = {
    "halted": "crit",
    "reducing": "warn",
    "disarmed": "muted",
    "active": "pos",
    "paused": "warn",
}
STATE_MARKS = {"halted": "■", "reducing": "▼", "disarmed": "○", "active": "●", "paused": "◐"}


class RiskPanel(TablePanel):
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

    def __init__(self, desk: Desk) -> None:
        super().__init__(desk)
        self.kill = TableModel(_kill_columns(), desk.store, self)
        self.kill_view = TableView(self.kill, "kill", self)
        self.kill_view.empty_title = "No kill in progress"
        self.kill_view.empty_text = (
            "After a kill, per account: entries blocked, cancels sent and confirmed, what is left."
        )
        self.kill_view.changed = desk.layout_touched.emit
        self.kill.attach(tables.KILL)
        self.kill.sort(
            [column.key for column in self.kill.columns].index("working"),
            Qt.SortOrder.DescendingOrder,
        )
        self._summary = Caption("", 12, 500, "text")
        desk.registry.add_all(self._commands())

    def build(self) -> None:
        """Put both tables in."""
        self.view.installEventFilter(self)
        halts = QSplitter(Qt.Orientation.Vertical)
        halts.setChildrenCollapsible(False)
        lower = QWidget()
        lines = QVBoxLayout(lower)
        lines.setContentsMargins(0, 0, 0, 0)
        lines.setSpacing(0)
        self._summary.setContentsMargins(10, 5, 10, 5)
        self._summary.shrink()
        lines.addWidget(self._summary)
        lines.addWidget(self.kill_view, 1)
        halts.addWidget(self.view)
        halts.addWidget(lower)
        halts.setSizes([120, 240])
        self.body.addWidget(halts, 1)
        button = self.desk.registry.button
        self.tools = [
            button("risk.rearm", "Re-arm…"),
            button("risk.flatten", "Flatten residual…", "danger"),
        ]

    def _commands(self) -> list[Command]:
        group = "Risk"
        return [
            Command("risk.rearm", "Lift halt or pause…", self._rearm, "re-arm resume unlock", "", group, HOLD,
                    icon="arm", enabled=self.offers(lambda _row: True), about="Lift the selected halt, with a reason"),
            Command("risk.flatten", "Flatten residual positions…", self._flatten, "kill close", "", group, HOLD,
                    enabled=lambda: self.can_command() and bool(self.residual()),
                    about="Close what is still held after a kill"),
        ]  # fmt: skip

    def menu_commands(self) -> list[str]:
        """Return the row menu."""
        return ["risk.rearm", "risk.flatten"]

    def residual(self) -> list[Row]:
        """Return the accounts that still hold something after a kill."""
        return [row for row in self.kill.rows.values() if row.get("residual")]

    def tick(self) -> None:
        """Say how far the kill has come."""
        super().tick()
        rows = list(self.kill.rows.values())
        done = sum(1 for row in rows if row.get("done"))
        left = sum(int(row.get("working") or 0) for row in rows)
        holding = len(self.residual())
        text = "Kill progress"
        if rows:
            facts = (
                f"{done}/{len(rows)} accounts done",
                f"{left} orders left",
                f"{holding} hold positions",
            )
            text = "Kill: " + "  ·  ".join(facts)
        if self._summary.text() != text:
            self._summary.setText(text)

    def on_link(self) -> None:
        """Grey both tables while not live."""
        super().on_link()
        self.kill.stale = self.model.stale
        self.kill_view.viewport().update()

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

    def state(self) -> dict[str, Any]:
        """Keep both tables' columns."""
        return super().state() | {"kill": self.kill_view.layout_state()}

    def restore(self, state: dict[str, Any]) -> None:
        """Take back both tables' columns."""
        super().restore(state)
        self.kill_view.restore_layout(state.get("kill", {}))


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
