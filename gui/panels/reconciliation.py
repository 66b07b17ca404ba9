"""Expected and actual: where a broker's books differ from ours, and what works there that is not ours."""

from __future__ import annotations

from functools import partial
from typing import Any

from PySide6.QtCore import Qt
from PySide6.QtWidgets import QSplitter, QVBoxLayout, QWidget

from engine.client import Row
from engine.model import tables
from gui import columns as col
from gui import formatting as fmt
from gui.commands import CONFIRM, HOLD, Command
from gui.desk import Desk
from gui.panel import Caption, TablePanel
from gui.table_model import TableModel
from gui.table_view import TableView

KIND_TONES = {"position": "crit", "order": "warn", "cash": "muted"}
KIND_MARKS = {"position": "▣", "order": "○", "cash": "¤"}
WORDS = {
    "adopt": "The broker's value becomes ours: positions, profit and limits count it from then on.",
    "repair": "An order is sent, or cancelled, so that the broker's book becomes what ours says.",
}


class ReconciliationPanel(TablePanel):
    """Differences with a choice for each, and the orders of others."""

    NAME = "reconciliation"
    TITLE = "Expected and actual"
    ABOUT = "Where the brokers' books differ from ours, and orders there that are not ours"
    TABLE = tables.DIFFERENCES
    SORT = ("since", True)
    EMPTY = (
        "Books agree",
        "Orders, positions and cash are compared with every broker's all day; what differs twice shows here.",
    )

    def __init__(self, desk: Desk) -> None:
        super().__init__(desk)
        self.external = TableModel(_external_columns(), desk.store, self)
        self.external_view = TableView(self.external, "external", self)
        self.external_view.empty_title = "No orders of others"
        self.external_view.empty_text = (
            "Working orders that were entered at the broker by hand, or by other software: counted as exposure, "
            "and touched by nothing but the kill switch."
        )
        self.external_view.changed = desk.layout_touched.emit
        self.external.attach(tables.EXTERNAL)
        self.external.sort(0, Qt.SortOrder.AscendingOrder)
        self._summary = Caption("", 12, 500, "text")
        desk.registry.add_all(self._commands())

    def columns(self) -> tuple[Any, ...]:
        """Return the columns of the differences."""
        age = self.desk.store.age_of
        return (
            col.chip("kind", "What", 92, KIND_TONES, KIND_MARKS),
            col.text("account", "Account", 84),
            col.text("symbol", "Subject", 110),
            col.text("expected", "Expected", 92, kind="number"),
            col.text("actual", "At the broker", 96, kind="number"),
            col.text("difference", "Difference", 92, kind="number", tone=lambda _row: "warn"),
            col.money("value", "Value", 90),
            col.count("seen", "Seen", 48, about="Comparisons in a row that found it"),
            col.aged("since", "Since", age, full=600.0),
            col.text("text", "What it means", 320, tip=lambda row: str(row.get("text") or "")),
            col.quiet("broker", "Broker", 76),
        )

    def build(self) -> None:
        """Put both tables in."""
        self.view.installEventFilter(self)
        halves = QSplitter(Qt.Orientation.Vertical)
        halves.setChildrenCollapsible(False)
        lower = QWidget()
        lines = QVBoxLayout(lower)
        lines.setContentsMargins(0, 0, 0, 0)
        lines.setSpacing(0)
        self._summary.setContentsMargins(10, 5, 10, 5)
        self._summary.shrink()
        lines.addWidget(self._summary)
        lines.addWidget(self.external_view, 1)
        halves.addWidget(self.view)
        halves.addWidget(lower)
        halves.setSizes([220, 140])
        self.body.addWidget(halves, 1)
        button = self.desk.registry.button
        self.tools = [button("difference.adopt", "Adopt…"), button("difference.repair", "Repair…")]

    def _commands(self) -> list[Command]:
        group = "Expected and actual"
        return [
            Command("difference.adopt", "Adopt the broker's value…", partial(self._confirm, "adopt", CONFIRM),
                    "reconcile accept broker truth", "", group, CONFIRM, enabled=self._can("adopt"), scope=self.view,
                    about=WORDS["adopt"]),
            Command("difference.repair", "Repair at the broker…", partial(self._confirm, "repair", HOLD),
                    "reconcile fix send cancel", "", group, HOLD, enabled=self._can("repair"), scope=self.view,
                    about=WORDS["repair"]),
        ]  # fmt: skip

    def _can(self, action: str) -> Any:
        return self.offers(lambda row: action in (row.get("actions") or ()))

    def menu_commands(self) -> list[str]:
        """Return the row menu."""
        return ["difference.adopt", "difference.repair"]

    def tick(self) -> None:
        """Say how many orders of others work, and what they are worth."""
        super().tick()
        rows = self.external.rows
        text = f"Orders of others: {len(rows)}" if rows else "Orders of others"
        if self._summary.text() != text:
            self._summary.setText(text)
        self.external.tick()

    def on_link(self) -> None:
        """Grey both tables while not live."""
        super().on_link()
        self.external.stale = self.model.stale
        self.external_view.viewport().update()

    def _confirm(self, command: str, danger: int) -> None:
        rows = [row for row in self.chosen() if command in (row.get("actions") or ())]
        if not rows:
            return
        row, word = rows[0], command.capitalize()
        self.desk.ask(
            "confirm",
            title=f"{word} {row['symbol'] or row['kind']} in {row['account']}",
            facts=[
                ("Expected", str(row.get("expected") or "none")),
                ("At the broker", str(row.get("actual") or "none")),
                ("Difference", str(row.get("difference") or "")),
                ("What happens", WORDS[command]),
            ],
            go=f"Hold to {command}" if danger == HOLD else word,
            run=lambda: self._send(command, row),
            danger=danger,
        )

    async def _send(self, command: str, row: Row) -> None:
        await self.desk.command(command, key=row["key"], reason="by hand at the desk")
        self.desk.say("ok", f"{command.capitalize()}: {row['symbol']} in {row['account']}")

    def state(self) -> dict[str, Any]:
        """Keep both tables' columns."""
        return super().state() | {"external": self.external_view.layout_state()}

    def restore(self, state: dict[str, Any]) -> None:
        """Take back both tables' columns."""
        super().restore(state)
        self.external_view.restore_layout(state.get("external", {}))


def _external_columns() -> tuple[Any, ...]:
    return (
        col.text("account", "Account", 84),
        col.text("symbol", "Symbol", 90),
        col.side(),
        col.text("order_type", "Type", 80, text=lambda row: fmt.words(row.get("order_type"))),
        col.quantity("order_qty", "Quantity"),
        col.quantity("leaves_qty", "Left"),
        col.price("limit_price", "Limit"),
        col.price("stop_price", "Stop"),
        col.money("value", "Value"),
        col.stamp("since", "Seen since"),
        col.quiet("broker", "Broker", 76),
        col.quiet("order_id", "Broker's id", 150),
        col.quiet("cl_ord_id", "Client id", 150, visible=False),
    )
