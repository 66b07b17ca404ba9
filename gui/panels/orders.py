"""Orders: what is at the brokers, and what was; working, done or all, each or added up; cancel, replace, why not."""

from __future__ import annotations

from decimal import Decimal
from functools import partial
from typing import Any

from PySide6.QtWidgets import QWidget

from engine.client import Row
from engine.model import tables
from gui import columns as col
from gui.commands import CONFIRM, Command, Work
from gui.desk import Desk
from gui.grouping import GroupedPanel, exact
from gui.panel import row_of
from gui.table_model import Column

ALL, WORKING, DONE = "all", "working", "done"
SHOWN = {ALL: "All", WORKING: "Working", DONE: "Done"}
ASK_FROM = 20
"""Cancelling so many at once asks first."""
_OPEN = frozenset({"pending_new", "new", "partially_filled", "pending_cancel", "unknown"})
_FAILED = frozenset({"rejected", "denied", "expired"})
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


class OrdersPanel(GroupedPanel):
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
        col.note(),
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
        self.shown = ALL
        desk.registry.add_all(self._commands())
        self.view.activated_key.connect(self._go_to_signal)

    def group_columns(self) -> tuple[Column, ...]:
        """Return the columns of orders added up."""
        return (
            col.text("group", "Group", 110),
            col.count("rows", "Orders", 62),
            col.count("working", "Working", 66, "accent", flash=True),
            col.count("filled", "Filled", 62, "pos", flash=True),
            col.count("failed", "Refused", 66, "crit"),
            col.count("unknown", "Unknown", 68, "warn"),
            col.quantity("bought", "Bought", 84),
            col.quantity("sold", "Sold", 84),
            col.quantity("leaves", "Left to fill", 86),
            col.money("value", "Filled value", 104),
            col.count("of_account", "Accounts", 70),
            col.count("of_symbol", "Symbols", 68),
        )

    def parts(self, row: Row) -> dict[str, Decimal]:
        """Return what an order adds: counts by state, quantities by side, the value filled."""
        status, done = row.get("status"), exact(row.get("cum_qty"))
        value = done * exact(row.get("avg_px"))
        parts = {"value": value, "leaves": exact(row.get("leaves_qty"))}
        parts["bought" if row.get("side") == "buy" else "sold"] = done
        for name, is_it in (
            ("working", status in _OPEN and status != "unknown"),
            ("filled", status == "filled"),
            ("failed", status in _FAILED),
            ("unknown", status == "unknown"),
        ):
            parts[name] = Decimal(is_it)
        return parts

    def build(self) -> None:
        """Put table and buttons in."""
        super().build()
        button = self.desk.registry.button
        segments = [button(f"order.show_{name}", words, "flat") for name, words in SHOWN.items()]
        self.tools: list[QWidget] = [
            row_of(*segments, spacing=1),
            self.picker,
            button("order.cancel", "Cancel"),
            button("order.replace", "Replace…"),
            button("order.why", "Why?"),
        ]

    def _commands(self) -> list[Command]:
        live, group, scope = self.offers(col.working), "Orders", self.stack
        one = self.offers(lambda _row: True)
        return [
            Command("order.ticket", "New order ticket…", lambda: self.desk.ask("ticket"), "buy sell send signal",
                    "F9 | Ctrl+N", group, CONFIRM, icon="ticket", enabled=self.can_command,
                    about="Send a signal of your own to chosen accounts"),
            Command("order.cancel", "Cancel order", self._cancel, "withdraw", "X | Del", group, icon="cancel",
                    enabled=live, scope=scope, about="Cancel the selected working orders"),
            Command("order.replace", "Replace order…", self._replace, "change quantity price modify", "F2", group,
                    CONFIRM, enabled=live, scope=scope, about="Change quantity or prices of the selected order"),
            Command("order.why", "Why this outcome?", self._why, "rejected refused denied reason code", "W", group,
                    enabled=lambda: bool(self.chosen()), scope=scope,
                    about="The reason of the selected order: code, the broker's words, what it means"),
            Command("order.trace", "Open trace", self._trace, "signal waterfall latency", "T", group,
                    enabled=lambda: any(row.get("signal_id") for row in self.chosen()), scope=scope,
                    about="The signal of the selected order, with its times"),
            Command("order.resolve", "Resolve unknown order…", self._ask_unknown, "exists lost", "U", group,
                    CONFIRM, enabled=self.offers(_unknown), scope=scope,
                    about="Say whether an order whose fate is unproven exists at the broker"),
            Command("order.entry", "Go to the entry of this exit", self._go_to_entry, "parent bracket stop target",
                    "E", group, enabled=lambda: any(row.get("parent") for row in self.chosen()), scope=scope,
                    about="Select the entry that the selected stop or target protects"),
            Command("order.resend", "Resend order proven absent", self._resend, "again", "", group, CONFIRM,
                    enabled=self.offers(_absent), about="Send again what the broker proves it never had"),
            Command("order.cancel_symbol", "Cancel all orders of this symbol…", partial(self._cancel_scope, "symbol"),
                    "withdraw", "", group, CONFIRM, enabled=one,
                    about="Cancel every working order of the selected order's symbol, in every account"),
            Command("order.cancel_account", "Cancel all orders of this account…",
                    partial(self._cancel_scope, "account"), "withdraw", "", group, CONFIRM, enabled=one,
                    about="Cancel every working order of the selected order's account"),
            Command("order.cancel_all", "Cancel all working orders…", self._cancel_all, "everything", "F6", group,
                    CONFIRM, enabled=lambda: self.can_command() and bool(self._working()),
                    about="Cancel every working order of every account"),
            Command("trading.undo", "Undo", self.desk.undo.run, "take back cancel", "Ctrl+Z", "Trading",
                    enabled=self.desk.undo.available, about="Take back what was just done, for five seconds"),
            *(
                Command(f"order.show_{name}", f"Orders: show {words.lower()}", partial(self.show_only, name), "filter",
                        "", group, checked=partial(self._is_shown, name), about=f"Show {words.lower()} orders")
                for name, words in SHOWN.items()
            ),
        ]  # fmt: skip

    def menu_commands(self) -> list[str]:
        """Return the row menu."""
        return ["order.cancel", "order.replace", "order.why", "order.trace", "order.entry", "",
                "order.resolve", "order.resend", "", "order.note", "", "order.cancel_symbol", "order.cancel_account",
                "order.cancel_all"]  # fmt: skip

    # --- what is shown ------------------------------------------------------------------------

    def _is_shown(self, name: str) -> bool:
        return self.shown == name

    def show_only(self, name: str) -> None:
        """Show all orders, those that work, or those that are done."""
        self.shown = name
        self.model.keep = {WORKING: _is_open, DONE: _is_done}.get(name)
        self.model.load()
        self._regroup()
        self.tick()
        self.desk.registry.refresh()
        self.desk.layout_touched.emit()

    def state(self) -> dict[str, Any]:
        """Keep what is shown with the columns."""
        return super().state() | {"shown": self.shown}

    def restore(self, state: dict[str, Any]) -> None:
        """Take back what is shown."""
        if state.get("shown") in SHOWN:
            self.show_only(str(state["shown"]))
        super().restore(state)

    # --- acting -------------------------------------------------------------------------------

    def _working(self) -> list[Row]:
        return [row for row in self.store.rows(tables.ORDERS).values() if col.working(row)]

    def _cancel(self) -> Work | None:
        rows = [row for row in self.chosen() if col.working(row)]
        title = f"Cancel {len(rows)} order{'s' if len(rows) != 1 else ''}"
        subjects = [{"cl_ord_id": row["cl_ord_id"]} for row in rows]
        if len(rows) < ASK_FROM:
            return self.desk.each(title, "cancel_order", subjects)
        self._confirm(title, rows, lambda: self.desk.each(title, "cancel_order", subjects))
        return None

    def _confirm(self, title: str, rows: list[Row], run: Any) -> None:
        symbols = sorted({row["symbol"] for row in rows})
        more = f" and {len(symbols) - 8} more" if symbols[8:] else ""
        self.desk.ask(
            "confirm",
            title=title,
            facts=[
                ("Orders", str(len(rows))),
                ("Accounts", str(len({row["account"] for row in rows}))),
                ("Symbols", ", ".join(symbols[:8]) + more),
            ],
            go=f"Cancel {len(rows)} orders",
            run=run,
            danger=CONFIRM,
        )

    def _cancel_scope(self, kind: str) -> None:
        row = self.chosen_one()
        if row:
            rows = [one for one in self._working() if one[kind] == row[kind]]
            scope = f"{kind}:{row[kind]}"
            title = f"Cancel all orders of {row[kind]}"
            self._confirm(title, rows, lambda: self._send_cancels(scope))

    def _cancel_all(self) -> None:
        self._confirm(
            "Cancel all working orders", self._working(), lambda: self._send_cancels("all")
        )

    async def _send_cancels(self, scope: str) -> None:
        answer = await self.desk.command("cancel_orders", scope=scope)
        asked, closed = answer.get("cancels", 0), answer.get("closed", 0)
        where = "everywhere" if scope == "all" else f"of {scope.partition(':')[2]}"
        text = f"{asked} asked of the brokers, {closed} taken back before they left."
        self.desk.say("ok", f"Cancelling orders {where}", text)

    def _replace(self) -> None:
        rows = [row for row in self.chosen() if col.working(row)]
        if rows:
            self.desk.ask("replace", order=dict(rows[0]))

    def _why(self) -> None:
        row = self.chosen_one()
        if row:
            self.desk.ask("why", order=dict(row))

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

    def _trace(self) -> None:
        row = next((row for row in self.chosen() if row.get("signal_id")), None)
        if row:
            self._go_to_signal(str(row["cl_ord_id"]))

    def _go_to_signal(self, key: str) -> None:
        row = self.store.rows(tables.ORDERS).get(key)
        if row and row.get("signal_id"):
            self.desk.pick_signal(f"{row['source']}/{row['signal_id']}")
            self.desk.show_panel("signal_detail")


def _is_open(row: Row) -> bool:
    return row.get("status") in _OPEN


def _is_done(row: Row) -> bool:
    return row.get("status") not in _OPEN


def _unknown(row: Row) -> bool:
    return row.get("status") == "unknown"


def _absent(row: Row) -> bool:
    """Say whether an order ended because its broker was proven not to have it."""
    return row.get("status") == "expired" and row.get("code") == "ABSENT"
