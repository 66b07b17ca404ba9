"""Positions: what every account holds, what it is worth now, and the ways out of it."""

from __future__ import annotations

from engine.client import Row
from engine.model import tables
from gui import columns as col
from gui import formatting as fmt
from gui.commands import CONFIRM, HOLD, Command, Work
from gui.desk import Desk
from gui.panel import TablePanel
from gui.table_model import Column

NEAR_PERCENT = 0.5
OLD_MARK_S = 5.0
"""A price older than this may not be acted on (the engine's ``reference_max_age_s`` unless set otherwise)."""


def wants_watch(row: Row) -> bool:
    """Say whether somebody asked for a stop loss, a take profit or a trail."""
    return any(row.get(name) for name in ("stop_loss", "take_profit", "trail_percent"))


def unwatched(row: Row) -> bool:
    """Say whether a position has stops that nobody would act on."""
    return not row.get("protected") and wants_watch(row) and bool(fmt.number(row.get("qty")))


def _blind(row: Row, age: float | None) -> bool:
    """Say whether Volley watches a position of which it has no price it may act on."""
    return row.get("protected") == "engine" and (age is None or age > OLD_MARK_S)


def watched(row: Row, age: float | None) -> str:
    """Return who watches a position whose price is ``age`` seconds old, with a mark where that is an alarm."""
    if unwatched(row):
        return "✕ NOBODY"
    if _blind(row, age):
        return "▲ Volley, blind"
    return {"broker": "✓ Broker", "engine": "✓ Volley"}.get(str(row.get("protected")), "no stops")


def watch_tone(row: Row, age: float | None) -> str:
    """Return the tone of who watches a position."""
    if unwatched(row):
        return "crit"
    return "warn" if _blind(row, age) else "pos" if row.get("protected") else "muted"


def watch_words(row: Row, age: float | None) -> str:
    """Return who watches a position in a sentence, and what to do when nobody does."""
    if unwatched(row):
        return "It has stops, and nobody acts on them: set them again (S), or close it."
    if _blind(row, age):
        return "Volley watches it, but has no fresh price to act on: watch it by hand."
    return {
        "broker": "Its stops rest at the broker and work without Volley.",
        "engine": "Volley watches the price; its stops work while the engine runs.",
    }.get(str(row.get("protected")), "No stop loss, take profit or trail is set.")


def _trail(row: Row) -> str:
    value = row.get("trail_percent")
    return fmt.NONE if value in {None, ""} else f"{value} %"


def _to_stop(row: Row) -> str:
    distance = fmt.number(row.get("stop_distance_percent"))
    if distance is None:
        return fmt.NONE
    return (
        "▲ " if distance < NEAR_PERCENT else ""
    ) + f"{fmt.money(row['stop_distance_percent'])} %"


def _near(row: Row) -> str:
    distance = fmt.number(row.get("stop_distance_percent"))
    if distance is None or distance >= NEAR_PERCENT:
        return ""
    return "crit" if distance < 0 else "warn"


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

    def __init__(self, desk: Desk) -> None:
        super().__init__(desk)
        self.model.keep = lambda row: bool(fmt.number(row.get("qty")))
        self.model.load()
        desk.registry.add_all(self._commands())

    def columns(self) -> tuple[Column, ...]:
        """Return the columns; ages of prices go on while none comes."""
        return _columns(self.desk)

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
            Command("position.stops", "Edit stops…", self._stops, "stop loss take profit trail", "S", group, CONFIRM,
                    enabled=some, scope=self.view, about="Set or clear the stop loss, take profit and trail"),
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


def _columns(desk: Desk) -> tuple[Column, ...]:
    store = desk.store

    def age(row: Row) -> float | None:
        """Return the age of a position's price now: as it was told, and since."""
        then, since = fmt.number(row.get("mark_age_s")), store.age_of(row.get("updated_at"))
        return None if then is None else then + max(0.0, since or 0.0)

    return (
        col.text("account", "Account", 76),
        col.text("symbol", "Symbol", 76),
        col.quantity("qty", "Qty", 84, flash=True, tone=lambda row: fmt.tone_of(row.get("qty"))),
        col.average("avg_px", "Avg price"),
        col.price("mark", "Mark", flash=True),
        col.money("value", "Value", 98),
        col.pnl("unrealised", "Open P&L", flash=True),
        col.text(
            "protected",
            "Watched by",
            112,
            kind="chip",
            text=lambda row: watched(row, age(row)),
            raw=lambda row: watched(row, age(row)),
            tone=lambda row: watch_tone(row, age(row)),
            tip=lambda row: watch_words(row, age(row)),
            live=True,
            about="Who closes it at its stop loss, take profit or trail",
        ),
        col.pnl("realised", "Realised"),
        col.price("stop_loss", "Stop loss"),
        col.price("take_profit", "Take profit"),
        col.text(
            "trail_percent",
            "Trail",
            58,
            kind="number",
            text=_trail,
            about="Closed when the price falls this far from its best",
        ),
        col.text(
            "stop_distance_percent",
            "To stop",
            76,
            kind="number",
            text=_to_stop,
            tone=_near,
            about="How far the price is from the nearest stop; below zero it is beyond it",
        ),
        col.text(
            "mark_age_s",
            "Mark age",
            74,
            kind="number",
            text=lambda row: fmt.age(age(row)),
            raw=age,
            tone=lambda row: "warn" if (age(row) or 0) > OLD_MARK_S else "muted",
            live=True,
        ),
        col.stamp("updated_at", "Updated"),
    )
