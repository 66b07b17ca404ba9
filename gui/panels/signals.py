"""Signals: every one that came in, what became of it, and the five things an operator does with one."""

from __future__ import annotations

from typing import Any

from PySide6.QtWidgets import QWidget

from engine.client import Row
from engine.model import tables
from gui import columns as col
from gui import formatting as fmt
from gui.commands import CONFIRM, Command, Work
from gui.desk import Desk
from gui.panel import TablePanel
from gui.table_model import Column


class SignalsPanel(TablePanel):
    """Live signals with **Approve, Reject, Force, Close, Cancel** on the selected ones."""

    NAME = "signals"
    TITLE = "Signals"
    ABOUT = "Every signal that came in and what became of it"
    TABLE = tables.SIGNALS
    SORT = ("received_at.age", True)
    EMPTY = (
        "No signals yet",
        "They come from your bots over the API or a webhook, from a replay, or from the ticket (Ctrl+N).",
    )

    def __init__(self, desk: Desk) -> None:
        super().__init__(desk)
        self.view.activated_key.connect(lambda _key: desk.show_panel("signal_detail"))
        desk.registry.add_all(self._commands())

    def columns(self) -> tuple[Column, ...]:
        """Return the columns; their ages are told by this desk's clock."""
        return _columns(self.desk)

    def build(self) -> None:
        """Put table and buttons in."""
        super().build()
        button = self.desk.registry.button
        self.tools = [
            button("signal.approve", "Approve", "primary"),
            button("signal.reject", "Reject"),
            button("signal.force", "Force"),
            button("signal.close", "Close"),
            button("signal.cancel", "Cancel"),
        ]

    def header_tools(self) -> list[QWidget]:
        """Return the buttons, then count and filter."""
        return [*self.tools, self.count, self.filter]

    def _commands(self) -> list[Command]:
        held = self.offers(_held)
        one = self.offers(lambda _row: True)
        view, group = self.view, "Signals"
        return [
            Command("signal.approve", "Approve signal", self._approve, "release held orders", "A", group,
                    icon="check", enabled=held, scope=view, about="Send the held orders of the selected signals"),
            Command("signal.approve_edit", "Approve with changes…", lambda: self._ask("approve"),
                    "scale limit stops subset", "Shift+A", group, CONFIRM, enabled=held, scope=view,
                    about="Choose accounts, scale, limit and stops before the held orders go out"),
            Command("signal.reject", "Reject signal", self._reject, "refuse held orders", "R", group,
                    icon="cross", enabled=held, scope=view, about="Drop the held orders of the selected signals"),
            Command("signal.force", "Force past soft blocks…", lambda: self._ask("force"), "override send anyway",
                    "F", group, CONFIRM, icon="force", enabled=self.offers(_blocked), scope=view,
                    about="Send for accounts that a soft rule passed over, with a reason"),
            Command("signal.close", "Close this signal's positions", self._close, "exit flatten", "C", group,
                    CONFIRM, icon="close", enabled=one, scope=view,
                    about="Close the positions in this symbol of the accounts this signal traded"),
            Command("signal.cancel", "Cancel this signal's orders", self._cancel, "working", "X", group,
                    icon="cancel", enabled=one, scope=view, about="Cancel the working orders of the selected signals"),
        ]  # fmt: skip

    def menu_commands(self) -> list[str]:
        """Return the row menu."""
        return ["signal.approve", "signal.approve_edit", "signal.reject", "signal.force", "", "signal.close",
                "signal.cancel"]  # fmt: skip

    def on_chosen(self) -> None:
        """Show the details of the chosen signal."""
        self.desk.pick_signal(self.view.current_key())
        super().on_chosen()

    def _ask(self, dialog: str) -> None:
        row = self.chosen_one()
        if row:
            self.desk.ask(dialog, signal=dict(row))

    def _held_rows(self) -> list[Row]:
        return [row for row in self.chosen() if _held(row)]

    def _approve(self) -> Work:
        return self._each_held("approve", "Approved")

    def _reject(self) -> Work:
        return self._each_held("reject", "Rejected")

    async def _each_held(self, command: str, word: str) -> None:
        rows = self._held_rows()
        names = ", ".join(f"{row['symbol']} {row['id']}" for row in rows[:3])
        await self.desk.each(f"{word}: {names}", command, [{"signal": row["key"]} for row in rows])

    def _orders(self) -> list[Row]:
        wanted = {(row["source"], row["id"]) for row in self.chosen()}
        orders = self.store.rows(tables.ORDERS).values()
        return [row for row in orders if (row.get("source"), row.get("signal_id")) in wanted]

    def _positions(self) -> list[Row]:
        """Return open positions of the chosen signals' symbols in the accounts they were sent for."""
        reached = {
            (row["account"], row["symbol"]) for row in self._orders() if row["status"] != "denied"
        }
        held = self.store.rows(tables.POSITIONS).values()
        return [
            row
            for row in held
            if (row["account"], row["symbol"]) in reached and fmt.number(row["qty"])
        ]

    def _close(self) -> Work | None:
        found = self._positions()
        if not found:
            self.desk.say("info", "Nothing to close", "No account of this signal holds its symbol.")
            return None
        subjects = [{"account": row["account"], "symbol": row["symbol"]} for row in found]
        title = f"Close {len(found)} position{'s' if len(found) > 1 else ''}"
        work = self.desk.each
        if len(found) == 1:
            return work(title, "close_position", subjects)
        self.desk.ask(
            "confirm",
            title=title,
            facts=_close_facts(found),
            go=title,
            run=lambda: work(title, "close_position", subjects),
            danger=CONFIRM,
        )
        return None

    def _cancel(self) -> Work | None:
        orders = [row for row in self._orders() if row["status"] in _CANCELABLE]
        if not orders:
            self.desk.say("info", "Nothing to cancel", "This signal has no working orders.")
            return None
        title = f"Cancel {len(orders)} order{'s' if len(orders) > 1 else ''}"
        return self.desk.each(
            title, "cancel_order", [{"cl_ord_id": row["cl_ord_id"]} for row in orders]
        )


_CANCELABLE = {"pending_new", "new", "partially_filled"}


def _held(row: Row) -> bool:
    return row.get("state") == "held" or bool(row.get("held"))


def _blocked(row: Row) -> bool:
    return bool(row.get("skipped") or row.get("refused"))


def _close_facts(rows: list[Row]) -> list[tuple[str, str]]:
    symbols = ", ".join(sorted({row["symbol"] for row in rows}))
    open_pnl = sum(fmt.number(row.get("unrealised")) or 0.0 for row in rows)
    return [
        ("Symbol", symbols),
        ("Accounts", str(len({row["account"] for row in rows}))),
        ("Open profit or loss", fmt.pnl(f"{open_pnl:.2f}")),
        ("How", "Market orders, at once"),
    ]


def _columns(desk: Desk) -> tuple[Column, ...]:
    store = desk.store

    def left(row: Row) -> float | None:
        age = store.age_of(row.get("hold_expires_at"))
        return None if age is None or age >= 0 or not _held(row) else -age

    def share(row: Row) -> float | None:
        remaining, expires, came = (
            left(row),
            fmt.epoch(row.get("hold_expires_at")),
            fmt.epoch(row.get("received_at")),
        )
        if remaining is None or expires is None or came is None or expires <= came:
            return None
        return remaining / (expires - came)

    def hurry(row: Row) -> str:
        part = share(row)
        return "muted" if part is None else ("crit" if part < 0.25 else "warn")

    review = Column(
        "review", "Review", 54, "bar", text=lambda row: "" if left(row) is None else fmt.countdown(left(row)),
        raw=left, tone=hurry, bar=share, live=True, about="Time left to approve what is held",
    )  # fmt: skip
    return (
        col.stamp("received_at", "Time", visible=False),
        col.aged("received_at", "Age", store.age_of),
        col.chip("state", "State", 84, col.SIGNAL_TONES, _MARKS),
        col.side("action", "Action", 64),
        col.text("symbol", "Symbol", 72),
        review,
        Column(
            "predicted_finish_ms",
            "Leaves in",
            72,
            "number",
            text=_predicted,
            tone=lambda row: "warn" if row.get("predicted_cold") else "muted",
            tip=lambda row: col.leaving(
                row.get("predicted_finish_ms"), row.get("predicted_cold"), int(row["held"])
            ),
            about="How soon the last of its held orders would leave, released now, by the rate limits;"
            " ▲ accounts without a free connection",
        ),
        col.count("sent", "Sent", 40, "pos", flash=True, about="Accounts whose order went out"),
        col.count("held", "Held", 40, "warn", about="Accounts that wait for approval"),
        col.count("skipped", "Skip", 40, about="Accounts passed over: not eligible"),
        col.count("refused", "Ref", 36, "crit", about="Accounts refused by sizing or risk"),
        col.count("filled", "Filled", 48, "pos", flash=True, about="Accounts filled"),
        col.count("working", "Work", 46, "accent", about="Accounts with a working order"),
        col.count("rejected", "Rej", 42, "crit", about="Rejected by the broker"),
        col.count("unknown", "Unk", 44, "warn", about="Sent, no proof of their fate"),
        col.quiet("strategy", "Strategy", 92),
        Column("terms", "Terms", 104, text=_terms, raw=_terms, tone=lambda _row: "muted"),
        col.micros("last_byte_us", "Out in", about="From arrival to the last order's last byte"),
        col.micros(
            "last_ack_us",
            "Acked in",
            about="From arrival to the last broker's answer",
            visible=False,
        ),
        col.code(),
        col.quiet("source", "Source", 90),
        col.quiet("id", "Signal id", 150, visible=False),
        col.quiet("origin", "Origin", 70, visible=False),
    )


def _predicted(row: Row) -> str:
    milliseconds, cold = row.get("predicted_finish_ms"), row.get("predicted_cold")
    if milliseconds is None:
        return ""
    return f"▲{cold}  {col.in_about(milliseconds)}" if cold else col.in_about(milliseconds)


_MARKS = {"accepted": "✓", "held": "◷", "refused": "✕", "rejected": "✕", "expired": "–"}


def _terms(row: Row) -> str:
    kind = str(row.get("order_type") or "market")
    parts: list[Any] = [
        {"market": "MKT", "limit": "LMT", "stop": "STP", "stop_limit": "STP LMT"}.get(kind, kind)
    ]
    given = row.get("limit_price") or row.get("stop_price")
    if given:
        parts.append(fmt.price(given))
    tif = str(row.get("time_in_force") or "")
    if tif and tif != "day":
        parts.append(tif.upper())
    return " ".join(parts)
