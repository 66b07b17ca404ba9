"""Unknown: orders with no proof of their fate, what is known of each, and only what is safe to do about them."""

from __future__ import annotations

from collections.abc import Callable, Iterable

from PySide6.QtWidgets import QDockWidget

from engine.client import Row
from engine.model import tables
from gui import columns as col
from gui import formatting as fmt
from gui.commands import CONFIRM, HOLD, Command, Work
from gui.desk import Desk
from gui.panel import TablePanel
from gui.table_model import Column

PROMISES = {
    "D": ("D  refuses repeats", "The broker refuses a repeated id for ever: sending it again cannot double it."),
    "T": ("T  can be found", "It can be asked for the id, but a repeat might be taken: absence must be proven first."),
    "N": ("N  proves nothing", "It cannot be asked for the id: only a person can tell, and it is never sent again."),
}  # fmt: skip
SENT = {
    "all": "all of it",
    "part": "a part of it",
    "not known": "by an earlier run",
}


def promise(row: Row) -> str:
    """Return what the broker can prove, in words."""
    return PROMISES.get(str(row.get("promise")), ("no session", ""))[0]


def promise_tip(row: Row) -> str:
    """Return what follows from that."""
    said = PROMISES.get(
        str(row.get("promise")), ("", "The account has no session with its broker now.")
    )[1]
    settle = row.get("settle_s")
    return said + (f"\n“Not found” counts {settle:g} s after the send." if settle else "")


class UnknownPanel(TablePanel):
    """Orders of unknown fate. The engine keeps looking them up; a person may look, or say what he has found."""

    NAME = "unknown"
    TITLE = "Unknown"
    ABOUT = "Orders whose fate nobody can prove, and what is safe to do"
    TABLE = tables.UNKNOWN
    SORT = ("created_at", True)
    EMPTY = (
        "Every order is proven",
        "An order that left without an answer waits here, with its exposure held, until it is found or proven absent.",
    )

    def __init__(self, desk: Desk) -> None:
        super().__init__(desk)
        desk.registry.add_all(self._commands())
        desk.store.watch(self.TABLE, self._on_rows, self.retitle)
        self.view.activated_key.connect(lambda _key: self._ask())

    def columns(self) -> tuple[Column, ...]:
        """Return the columns; the age goes on by itself."""
        return _columns(self.desk.store.age_of)

    def build(self) -> None:
        """Put table and buttons in."""
        super().build()
        button = self.desk.registry.button
        self.tools = [
            button("unknown.look", "Look again"),
            button("unknown.exists", "It exists…"),
            button("unknown.absent", "It does not exist…"),
            button("unknown.resend", "Send again…"),
        ]

    def _commands(self) -> list[Command]:
        some, group = self.offers(lambda _row: True), "Unknown orders"
        return [
            Command("unknown.look", "Look up again", self._look, "query broker find", "L", group, enabled=some,
                    scope=self.view, about="Ask the broker now for the selected orders; safe at any time"),
            Command("unknown.exists", "It exists at the broker…", lambda: self._settle(exists=True),
                    "resolve working found", "", group, CONFIRM, enabled=some, scope=self.view,
                    about="You have seen it at the broker: it works from now on"),
            Command("unknown.absent", "It does not exist at the broker…", lambda: self._settle(exists=False),
                    "resolve lost gone", "", group, HOLD, enabled=some, scope=self.view,
                    about="You are certain that the broker never had it: its exposure is freed"),
            Command("unknown.resend", "Send again once proven absent…", self._resend, "again repeat", "", group,
                    CONFIRM, enabled=self.offers(_may_resend), scope=self.view,
                    about="The engine looks twice first, and sends only if the broker proves that it has nothing"),
        ]  # fmt: skip

    def menu_commands(self) -> list[str]:
        """Return the row menu."""
        return ["unknown.look", "unknown.exists", "unknown.absent", "", "unknown.resend"]

    # --- the count in the tab -----------------------------------------------------------------

    def _on_rows(self, _changed: Iterable[str], _removed: Iterable[str]) -> None:
        self.retitle()

    def retitle(self) -> None:
        """Show in the tab how many there are."""
        dock, count = self.parentWidget(), len(self.store.rows(self.TABLE))
        title = f"▲ {self.TITLE} {count}" if count else self.TITLE
        if isinstance(dock, QDockWidget) and dock.windowTitle() != title:
            dock.setWindowTitle(title)

    # --- acting -------------------------------------------------------------------------------

    def _look(self) -> Work:
        return self._look_up(self.chosen())

    async def _look_up(self, rows: list[Row]) -> None:
        if len(rows) > 1:
            await self.desk.each(
                "Look up", "look_up", [{"cl_ord_id": row["cl_ord_id"]} for row in rows]
            )
            return
        for row in rows:
            answer = await self.desk.command("look_up", cl_ord_id=row["cl_ord_id"])
            found = answer.get("result") == "found"
            what = f"{row['symbol']} in {row['account']}"
            if found:
                self.desk.say("ok", f"Found: {what}", fmt.words(answer.get("status")))
            else:
                text = "Not found now. That proves nothing before the broker's settling time."
                self.desk.say("info", f"Not found: {what}", text)

    def _ask(self) -> None:
        row = self.chosen_one()
        if row:
            self.desk.ask("resolve", order=dict(row))

    def _settle(self, *, exists: bool) -> None:
        rows = self.chosen()
        if not rows:
            return
        what = "It exists" if exists else "It does not exist"
        after = (
            "It counts as working: it can be cancelled, and its fills are taken."
            if exists
            else "It ends as absent and its exposure is freed. Should the broker have it after all, it trades unseen "
            "until the next comparison. Be certain."
        )
        self.desk.ask(
            "confirm",
            title=f"{what} at the broker",
            facts=[*_facts(rows), ("What follows", after)],
            go=what if exists else "Hold: it does not exist",
            run=lambda: self.desk.each(
                what,
                "resolve_unknown",
                [{"cl_ord_id": row["cl_ord_id"], "exists": exists} for row in rows],
            ),
            danger=CONFIRM if exists else HOLD,
        )

    def _resend(self) -> None:
        rows = [row for row in self.chosen() if _may_resend(row)]
        if not rows:
            return
        how = (
            "The engine asks the broker twice, at least a second apart. Only if both prove that it has nothing, the "
            "same order is sent again."
        )
        self.desk.ask(
            "confirm",
            title="Send again once proven absent",
            facts=[*_facts(rows), ("How", how)],
            go="Prove and send",
            run=lambda: self.desk.each(
                "Send again", "resend", [{"cl_ord_id": row["cl_ord_id"]} for row in rows]
            ),
            danger=CONFIRM,
        )


def _may_resend(row: Row) -> bool:
    return bool(row.get("may_resend"))


def _facts(rows: list[Row]) -> list[tuple[str, str]]:
    facts = [
        (
            str(row["account"]),
            f"{fmt.side(row['side'])} {fmt.quantity(row['order_qty'])} {row['symbol']}   {row['cl_ord_id']}",
        )
        for row in rows[:6]
    ]
    return [*facts, ("And", f"{len(rows) - 6} more")] if rows[6:] else facts


def _columns(age: Callable[[str | None], float | None]) -> tuple[Column, ...]:
    return (
        col.text("account", "Account", 66),
        col.side(width=60),
        col.text("symbol", "Symbol", 76),
        col.quantity("order_qty", "Qty", 60),
        col.text("sent_at", "Sent", 68, text=lambda row: fmt.Times.clock(row.get("sent_at") or row.get("created_at")),
                 tip=lambda row: fmt.Times.full(row.get("sent_at") or row.get("created_at"))),
        col.text("since", "Unknown for", 82, kind="number", text=lambda row: fmt.age(age(row.get("created_at"))),
                 raw=lambda row: fmt.epoch(row.get("created_at")), tone=lambda _row: "warn", live=True),
        col.text("looks", "Looked up", 74, kind="number", flash=True,
                 text=lambda row: f"{row.get('looks') or 0} ×", about="How often its broker was asked for it"),
        col.text("said", "It said", 116, tip=lambda row: str(row.get("said") or "")),
        col.text("promise", "The broker", 128, text=promise, tip=promise_tip),
        col.text("sent", "Left here", 98, text=lambda row: SENT.get(str(row.get("sent")), ""),
                 about="How much of the order left this machine"),
        col.text("looked_at", "Last look", 74, text=lambda row: fmt.Times.clock(row.get("looked_at")),
                 tip=lambda row: fmt.Times.full(row.get("looked_at"))),
        col.text("order_type", "Type", 62, text=lambda row: fmt.words(row.get("order_type"))),
        col.price("limit_price", "Limit", 76),
        col.quiet("text", "Engine says", 260, tip=lambda row: str(row.get("text") or "")),
        col.quiet("broker", "At", 70),
        col.quiet("strategy", "Strategy", 90),
        col.quiet("cl_ord_id", "ClOrdID", 190),
    )  # fmt: skip
