"""Signals: every one that came in, what became of it, and what an operator does with one."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

from PySide6.QtWidgets import QWidget

from engine.client import Row
from engine.model import tables
from gui import columns as col
from gui import formatting as fmt
from gui.commands import CONFIRM, Command, Work
from gui.desk import Desk
from gui.panel import TablePanel
from gui.table_model import Column
from gui.undo import say_approved
from gui.views import View


class SignalsPanel(TablePanel):
    """Live signals with **Approve, Reject, Force, Close, Cancel** on the selected ones; and the review queue."""

    NAME = "signals"
    TITLE = "Signals"
    ABOUT = "Every signal that came in and what became of it"
    TABLE = tables.SIGNALS
    SORT = ("received_at.age", True)
    EMPTY = (
        "No signals yet",
        "They come from your bots over the API or a webhook, from a replay, or from the ticket (Ctrl+N).",
    )
    VIEWS: ClassVar[Mapping[str, View]] = {
        "Everything": {"filter": "", "sort": "received_at.age", "descending": True},
        "Review queue": {"filter": "held>0", "sort": "review", "descending": False},
        "Went wrong": {"filter": "rejected>0|unknown>0|refused>0", "sort": "received_at.age", "descending": True},
        "Last five minutes": {"filter": "age<5m", "sort": "received_at.age", "descending": True},
    }  # fmt: skip

    def __init__(self, desk: Desk) -> None:
        super().__init__(desk)
        self.model.row_tone = _row_tone
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
        return [*self.tools, self.count, self.views_button, self.filter]

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
            Command("signal.release_rest", "Release the rest now…", self._release_rest, "canary staged waiting", "",
                    group, CONFIRM, enabled=self.offers(_staged), scope=view,
                    about="Send what waits for a canary's fill without waiting for it"),
            Command("signal.next_held", "Next held signal", self._next_held, "review queue approve", "N", group,
                    enabled=self.can_command, scope=view, about="Select the held signal whose time runs out first"),
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
        return ["signal.approve", "signal.approve_edit", "signal.release_rest", "signal.reject",
                "signal.force", "", "signal.close",
                "signal.cancel", "", "signal.note"]  # fmt: skip

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

    async def _approve(self) -> None:
        """Approve; what the market has left behind is shown with its price, to be confirmed or left."""
        rows = self._held_rows()
        drifted = [row for row in rows if row.get("drifted")]
        ready = [row for row in rows if row not in drifted]
        if drifted:
            self.desk.ask("approve", signal=dict(drifted[0]))
        if len(ready) == 1:
            await self._approve_one(ready[0])
        else:
            await self._each_held("approve", "Approved", ready)

    async def _approve_one(self, row: Row) -> None:
        answer = await self.desk.command("approve", signal=row["key"])
        orders = answer.get("orders") or {}
        text = f"{len(orders)} order{'s' if len(orders) != 1 else ''} released."
        say_approved(self.desk, row, f"Approved: {row['symbol']} {row['id']}", text, orders)

    def _next_held(self) -> None:
        rows = [row for row in self.store.rows(self.TABLE).values() if _held(row)]
        rows.sort(key=lambda row: _expires(row) or "~")
        now = self.view.current_key()
        keys = [row["key"] for row in rows if row["key"] in self.model.pos]
        if not keys:
            self.desk.say("info", "Nothing to review", "No signal waits for approval.")
            return
        self.view.select_key(keys[(keys.index(now) + 1) % len(keys)] if now in keys else keys[0])

    def _release_rest(self) -> None:
        row = next((row for row in self.chosen() if _staged(row)), None)
        if row is None:
            return
        self.desk.ask(
            "confirm",
            title="Release the rest now",
            facts=[
                ("Signal", f"{fmt.side(row['action'])} {row['symbol']}, {row['strategy']}"),
                ("Now", str(row.get("stage_text"))),
                ("Effect", "The others leave at once; the canary's order stays as it is"),
            ],
            go="Release the rest now",
            run=lambda: self._send_rest(row["key"]),
            danger=CONFIRM,
        )

    async def _send_rest(self, key: str) -> None:
        detail = await self.desk.signal_detail(key)
        rest = [one["account"] for one in detail["accounts"] if one.get("code") == "CANARY"]
        await self.desk.command("approve", signal=key, accounts=rest)
        self.desk.say("ok", "Released the rest", f"{len(rest)} accounts")

    def _reject(self) -> Work:
        return self._each_held("reject", "Rejected", self._held_rows())

    async def _each_held(self, command: str, word: str, rows: list[Row]) -> None:
        if not rows:
            return
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


def _staged(row: Row) -> bool:
    return row.get("stage") == "waiting"


def _expires(row: Row) -> str | None:
    """Return when what waits is over: by the hold, or by the canary's time."""
    return row.get("hold_expires_at") or row.get("stage_expires_at")


def _state(row: Row) -> str:
    """Return the state with its mark; while a release is in stages, the stage."""
    stage = _STAGES.get(str(row.get("stage")))
    if stage is not None and (row.get("held") or row.get("stage") == "halted"):
        return stage
    state = str(row.get("state") or "")
    return f"{_MARKS.get(state, '')} {fmt.words(state)}".strip()


def _state_tone(row: Row) -> str:
    stage = str(row.get("stage"))
    if _state(row) == _STAGES.get(stage):
        return _STAGE_TONES[stage]
    return col.SIGNAL_TONES.get(str(row.get("state")), "")


def _row_tone(row: Row) -> str:
    """Return the tone of a row that wants a look; its state, counts and codes say the same in words."""
    if row.get("unknown") or row.get("drifted"):
        return "crit"
    if _held(row):
        return "warn"
    return "crit" if row.get("state") == "refused" or row.get("rejected") else ""


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
        age = store.age_of(_expires(row))
        return None if age is None or age >= 0 or not _held(row) else -age

    def share(row: Row) -> float | None:
        remaining, expires, came = (
            left(row),
            fmt.epoch(_expires(row)),
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
        Column(
            "state",
            "State",
            96,
            "chip",
            text=_state,
            tone=_state_tone,
            also="stage",
            tip=lambda row: str(row.get("stage_text") or row.get("message") or ""),
            about="What became of it; of a staged release where that stands",
        ),
        col.side("action", "Action", 64, also="side"),
        col.text("symbol", "Symbol", 72),
        review,
        Column(
            "drift_percent",
            "Drift",
            80,
            "number",
            text=col.drift_text,
            tip=col.drift_sentence,
            tone=lambda row: "crit" if row.get("drifted") else "muted",
            about="How far the market has moved since the held signal came; ⚠ beyond signals.approval_drift_percent",
        ),
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
        Column(
            "stage_text",
            "Release",
            168,
            tone=lambda row: _STAGE_TONES.get(str(row.get("stage")), "muted"),
            tip=lambda row: str(row.get("stage_text") or ""),
            about="A staged release: which account went first, and what became of the others",
        ),
        col.quiet("strategy", "Strategy", 92),
        col.note(),
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


_STAGES = {"waiting": "◷ Canary", "halted": "✕ Halted", "stopped": "◷ Held again"}
_STAGE_TONES = {"waiting": "warn", "released": "pos", "halted": "crit", "stopped": "warn"}
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
