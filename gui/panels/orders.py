"""Orders: what is at the brokers, and what was; cancel, replace, settle the unknown."""

from __future__ import annotations

from engine.client import Row
from engine.model import tables
from gui import columns as col
from gui.commands import CONFIRM, Command, Work
from gui.desk import Desk
from gui.panel import TablePanel

_KINDS = {"market": "Market", "limit": "Limit", "stop": "Stop", "stop_limit": "Stop limit"}


def kind_words(row: Row) -> str:
    """Return an order's type in words; ``↳`` before that of an entry's exit."""
    kind = str(row.get("order_type") or "")
    words = _KINDS.get(kind, kind)
    return f"↳ {words}" if row.get("parent") else words


def leg_words(row: Row) -> str:
    """Return which order of its signal this is; an exit says whose: ``↳ stop of K7Q2ABCD``."""
    leg, parent = str(row.get("leg") or ""), str(row.get("parent") or "")
    return f"↳ {leg} of {parent[:8]}" if parent else leg


def leg_tip(row: Row) -> str:
    """Return the whole id of the entry that an exit belongs to."""
    parent = row.get("parent")
    leg = {"stop": "Stop loss", "target": "Take profit"}.get(str(row.get("leg")), "Exit")
    return f"{leg} of the entry {parent} (E goes there)" if parent else kind_words(row)


class OrdersPanel(TablePanel):
    """Every order, newest first."""

    NAME = "orders"
    TITLE = "Orders"
    ABOUT = "Every order: working, filled, refused, unknown"
    TABLE = tables.ORDERS
    SORT = ("created_at", True)
    EMPTY = (
        "No orders yet",
        "An order appears when a signal is sent for an account, and stays with its outcome.",
    )
    COLUMNS = (
        col.stamp("created_at", "Time"),
        col.chip("status", "Status", 112, col.ORDER_TONES, col.ORDER_MARKS),
        col.text("account", "Account", 62),
        col.side(width=56),
        col.text("symbol", "Symbol", 72),
        col.quantity("order_qty", "Qty", 84),
        col.quantity("cum_qty", "Filled", 84, flash=True),
        col.average("avg_px", "Avg price", 78),
        col.quiet("order_type", "Type", 72, text=kind_words, tip=leg_tip),
        col.price("limit_price", "Limit", 74),
        col.price("stop_price", "Stop", visible=False),
        col.micros(
            "first_byte_us",
            "Out in",
            64,
            about="From the signal's arrival to the order's first byte",
        ),
        col.micros("ack_us", "Ack", 64, about="From its last byte to the broker's answer"),
        col.quiet("strategy", "Strategy", 96),
        col.code(),
        col.quiet("signal_id", "Signal", 130, visible=False),
        col.quiet("leg", "Leg", 112, text=leg_words, raw=leg_words, tip=leg_tip),
        col.quiet("parent", "Bracket of", 190, visible=False),
        col.quiet("broker", "Broker", 70),
        col.quiet("time_in_force", "TIF", 50, visible=False),
        col.quiet("cl_ord_id", "ClOrdID", 190),
        col.quiet("order_id", "Broker's id", 160, visible=False),
    )

    def __init__(self, desk: Desk) -> None:
        super().__init__(desk)
        desk.registry.add_all(self._commands())
        self.view.activated_key.connect(self._go_to_signal)

    def build(self) -> None:
        """Put table and buttons in."""
        super().build()
        button = self.desk.registry.button
        self.tools = [
            button("order.cancel", "Cancel"),
            button("order.replace", "Replace…"),
            button("order.resolve", "Resolve…"),
        ]

    def _commands(self) -> list[Command]:
        live, unknown, group = self.offers(col.working), self.offers(_unknown), "Orders"
        return [
            Command("order.ticket", "New order ticket…", lambda: self.desk.ask("ticket"), "buy sell send signal",
                    "Ctrl+N", group, CONFIRM, icon="ticket", enabled=self.can_command,
                    about="Send a signal of your own to chosen accounts"),
            Command("order.cancel", "Cancel order", self._cancel, "withdraw", "X | Del", group, icon="cancel",
                    enabled=live, scope=self.view, about="Cancel the selected working orders"),
            Command("order.replace", "Replace order…", self._replace, "change quantity price modify", "F2", group,
                    CONFIRM, enabled=live, scope=self.view, about="Change quantity or prices of the selected order"),
            Command("order.resolve", "Resolve unknown order…", self._ask_unknown, "exists lost", "U", group,
                    CONFIRM, enabled=unknown, scope=self.view,
                    about="Say whether an order whose fate is unproven exists at the broker"),
            Command("order.entry", "Go to the entry of this exit", self._go_to_entry, "parent bracket stop target",
                    "E", group, enabled=lambda: any(row.get("parent") for row in self.chosen()), scope=self.view,
                    about="Select the entry that the selected stop or target protects"),
            Command("order.resend", "Resend order proven absent", self._resend, "again", "", group, CONFIRM,
                    enabled=self.offers(_absent), about="Send again what the broker proves it never had"),
            Command("order.cancel_all", "Cancel all working orders…", self._cancel_all, "everything", "F6", group,
                    CONFIRM, enabled=lambda: self.can_command() and bool(self._working()),
                    about="Cancel every working order of every account"),
        ]  # fmt: skip

    def menu_commands(self) -> list[str]:
        """Return the row menu."""
        return [
            "order.cancel",
            "order.replace",
            "order.entry",
            "",
            "order.resolve",
            "order.resend",
            "",
            "order.cancel_all",
        ]

    def _working(self) -> list[Row]:
        return [row for row in self.store.rows(tables.ORDERS).values() if col.working(row)]

    def _cancel(self) -> Work:
        return self._cancel_rows([row for row in self.chosen() if col.working(row)])

    def _cancel_rows(self, rows: list[Row]) -> Work:
        title = f"Cancel {len(rows)} order{'s' if len(rows) != 1 else ''}"
        return self.desk.each(
            title, "cancel_order", [{"cl_ord_id": row["cl_ord_id"]} for row in rows]
        )

    def _cancel_all(self) -> None:
        rows = self._working()
        self.desk.ask(
            "confirm",
            title="Cancel all working orders",
            facts=[
                ("Orders", str(len(rows))),
                ("Accounts", str(len({row["account"] for row in rows}))),
                ("Symbols", ", ".join(sorted({row["symbol"] for row in rows})[:8])),
            ],
            go=f"Cancel {len(rows)} orders",
            run=lambda: self._cancel_rows(rows),
            danger=CONFIRM,
        )

    def _replace(self) -> None:
        rows = [row for row in self.chosen() if col.working(row)]
        if rows:
            self.desk.ask("replace", order=dict(rows[0]))

    def _ask_unknown(self) -> None:
        rows = [row for row in self.chosen() if _unknown(row)]
        if rows:
            self.desk.ask("resolve", order=dict(rows[0]))

    def _resend(self) -> Work:
        rows = [row for row in self.chosen() if _absent(row)]
        return self.desk.each("Resend", "resend", [{"cl_ord_id": row["cl_ord_id"]} for row in rows])

    def _go_to_entry(self) -> None:
        row = next((row for row in self.chosen() if row.get("parent")), None)
        if row and not self.view.select_key(str(row["parent"])):
            self.desk.say(
                "info",
                "Not in this table",
                f"The entry {row['parent']} is filtered out or too old.",
            )

    def _go_to_signal(self, key: str) -> None:
        row = self.model.rows.get(key)
        if row and row.get("signal_id"):
            self.desk.pick_signal(f"{row['source']}/{row['signal_id']}")
            self.desk.show_panel("signal_detail")


def _unknown(row: Row) -> bool:
    return row.get("status") == "unknown"


def _absent(row: Row) -> bool:
    return row.get("code") in {"ABSENT", "NOT_SENT"}
