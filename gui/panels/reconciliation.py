"""Expected and actual: where a broker's books differ from ours, and what works there that is not ours."""

from __future__ import annotations

from functools import partial
from typing import Any

from engine.model import tables
from gui import columns as col
from gui import differences
from gui import formatting as fmt
from gui.commands import CONFIRM, HOLD, Command
from gui.desk import Desk
from gui.panel import PairPanel

KIND_TONES = {"position": "crit", "order": "warn", "cash": "muted"}
KIND_MARKS = {"position": "▣", "order": "○", "cash": "¤"}


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


class ReconciliationPanel(PairPanel):
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

    SECOND = tables.EXTERNAL
    SECOND_COLUMNS = _external_columns()
    SECOND_NAME = "external"
    SECOND_SORT = ("account", False)
    SECOND_EMPTY = (
        "No orders of others",
        "Working orders entered at the broker by hand or by other software: counted, and touched only by a kill.",
    )
    SIZES = (220, 140)

    def __init__(self, desk: Desk) -> None:
        super().__init__(desk)
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
        """Put both tables in, and the buttons."""
        super().build()
        button = self.desk.registry.button
        self.tools = [button("difference.adopt", "Adopt…"), button("difference.repair", "Repair…")]

    def _commands(self) -> list[Command]:
        group = "Expected and actual"
        return [
            Command("difference.adopt", "Adopt the broker's value…", partial(self._settle, differences.ADOPT),
                    "reconcile accept broker truth", "", group, CONFIRM, enabled=self._can("adopt"), scope=self.view,
                    about=differences.WORDS["adopt"]),
            Command("difference.repair", "Repair at the broker…", partial(self._settle, differences.REPAIR),
                    "reconcile fix send cancel", "", group, HOLD, enabled=self._can("repair"), scope=self.view,
                    about=differences.WORDS["repair"]),
        ]  # fmt: skip

    def _can(self, action: str) -> Any:
        return self.offers(lambda row: differences.may(row, action))

    def menu_commands(self) -> list[str]:
        """Return the row menu."""
        return ["difference.adopt", "difference.repair"]

    def summarise(self) -> str:
        """Say how many orders of others work."""
        count = len(self.second.rows)
        return f"Orders of others: {count}" if count else "Orders of others"

    def _settle(self, command: str) -> None:
        row = next((row for row in self.chosen() if differences.may(row, command)), None)
        if row is not None:
            differences.ask(self.desk, command, row)
