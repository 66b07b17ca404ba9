"""Positions: what every account holds, what it is worth now, and the ways out of it."""

from __future__ import annotations

from decimal import Decimal

from PySide6.QtWidgets import QWidget

from engine.client import Row
from engine.model import tables
from gui import columns as col
from gui import formatting as fmt
from gui.commands import CONFIRM, HOLD, UNDOABLE, Command, Work
from gui.desk import Desk
from gui.grouping import ZERO, GroupedPanel, exact
from gui.table_model import Column
from gui.undo import pause

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


class PositionsPanel(GroupedPanel):
    """Open positions, each or added up; exits are never gated by the armed state."""

    NAME = "positions"
    TITLE = "Positions"
    ABOUT = "What every account holds and its profit or loss"
    TABLE = tables.POSITIONS
    SORT = ("account", False)
    GROUP_SORT = ("gross", True)
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

    def group_columns(self) -> tuple[Column, ...]:
        """Return the columns of positions added up. Quantities add up by symbol; over symbols only money does."""
        return (
            col.text("group", "Group", 110),
            col.text("net", "Net qty", 90, kind="number", flash=True, text=_net, raw=_raw_net,
                     tone=lambda row: fmt.tone_of(_raw_net(row)), about="Long less short; of one symbol only"),
            col.pnl("unrealised", "Open P&L", 100, flash=True),
            col.money("value", "Net value", 104),
            col.money("gross", "Gross", 104),
            col.count("rows", "Positions", 72),
            col.count("of_account", "Accounts", 72),
            col.count("of_symbol", "Symbols", 68),
            col.money("long", "Long", 112),
            col.money("short", "Short", 112),
            col.pnl("realised", "Realised", 92),
            col.count("unwatched", "Unwatched", 80, "crit", about="Have stops that nobody acts on"),
        )  # fmt: skip

    def parts(self, row: Row) -> dict[str, Decimal]:
        """Return what a position adds."""
        value, quantity = exact(row.get("value")), exact(row.get("qty"))
        return {
            "net": quantity,
            "value": value,
            "gross": abs(value),
            "long": max(value, ZERO),
            "short": min(value, ZERO),
            "unrealised": exact(row.get("unrealised")),
            "realised": exact(row.get("realised")),
            "unwatched": Decimal(unwatched(row)),
        }

    def build(self) -> None:
        """Put table and buttons in."""
        super().build()
        button = self.desk.registry.button
        self.tools: list[QWidget] = [
            self.picker,
            button("position.close", "Close"),
            button("position.half", "½"),
            button("position.quarter", "¼"),
            button("position.part", "Part…"),
            button("position.stops", "Stops…"),
        ]

    def _commands(self) -> list[Command]:
        some, group, scope = self.offers(lambda _row: True), "Positions", self.stack
        flatten, halt = self._flatten, self._pause
        return [
            Command("position.close", "Close position", lambda: self._close("1"), "exit market", "C", group,
                    CONFIRM, icon="close", enabled=some, scope=scope, about="Close what is selected at the market"),
            Command("position.half", "Close half of position", lambda: self._close("0.5"), "reduce 50", "H", group,
                    CONFIRM, enabled=some, scope=scope, about="Close half of the selected positions"),
            Command("position.quarter", "Close a quarter of position", lambda: self._close("0.25"), "reduce 25", "Q",
                    group, CONFIRM, enabled=some, scope=scope, about="Close a quarter of the selected positions"),
            Command("position.part", "Close a quantity…", self._part, "reduce partial", "Shift+C", group, CONFIRM,
                    enabled=some, scope=scope, about="Close so many units, or so many percent, of the position"),
            Command("position.stops", "Edit stops…", self._stops, "stop loss take profit trail", "S", group, CONFIRM,
                    enabled=some, scope=scope, about="Set or clear the stop loss, take profit and trail"),
            Command("position.flatten_symbol", "Flatten symbol…", lambda: flatten("symbol"), "close all",
                    "", group, HOLD, enabled=some, about="Cancel and close this symbol in every account"),
            Command("position.flatten_account", "Flatten account…", lambda: flatten("account"), "close all",
                    "", group, HOLD, enabled=some, about="Cancel and close everything of this account"),
            Command("position.flatten_strategy", "Flatten strategy…", lambda: self.desk.ask("scope", act="flatten",
                    kind="strategy"), "close all", "", group, HOLD, enabled=self.can_command,
                    about="Cancel a strategy's orders and close the symbols it has traded"),
            Command("position.flatten_all", "Flatten everything…", lambda: flatten("all"), "close all exit",
                    "Ctrl+Alt+F6", group, HOLD, enabled=self.can_command,
                    about="Cancel every working order and close every position"),
            Command("position.pause_symbol", "Pause symbol", lambda: halt("symbol"), "no new entries", "", group,
                    UNDOABLE, enabled=some, about="Take no new entries in the selected symbols; exits pass"),
            Command("position.pause_account", "Pause account", lambda: halt("account"), "no new entries", "", group,
                    UNDOABLE, enabled=some, about="Take no new entries for the selected accounts; exits pass"),
        ]  # fmt: skip

    def menu_commands(self) -> list[str]:
        """Return the row menu."""
        return ["position.close", "position.half", "position.quarter", "position.part", "position.stops", "",
                "position.note", "", "position.pause_symbol", "position.pause_account", "", "position.flatten_symbol",
                "position.flatten_account", "position.flatten_strategy", "position.flatten_all"]  # fmt: skip

    def _close(self, fraction: str) -> Work | None:
        rows = self.chosen()
        subjects = [
            {"account": row["account"], "symbol": row["symbol"], "fraction": fraction}
            for row in rows
        ]
        word = {"1": "Close", "0.5": "Close half of", "0.25": "Close a quarter of"}[fraction]
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

    def _part(self) -> None:
        row = self.chosen_one()
        if row:
            self.desk.ask("close_part", position=dict(row))

    def _stops(self) -> None:
        row = self.chosen_one()
        if row:
            self.desk.ask("stops", position=dict(row))

    def _pause(self, kind: str) -> Work:
        names = sorted({str(row[kind]) for row in self.chosen()})
        more = f" and {len(names) - 4} more" if names[4:] else ""
        title = f"Paused: {', '.join(names[:4])}{more}"
        return pause(self.desk, title, [f"{kind}:{name}" for name in names])

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
        answer = await self.desk.command("flatten", scope=scope, reason="by hand at the desk")
        exits, cancels = len(answer.get("orders") or ()), answer.get("cancels", 0)
        self.desk.say(
            "ok", f"Flatten {scope}", f"{cancels} cancels and {exits} exits are on their way."
        )


def _raw_net(row: Row) -> Decimal | None:
    """Return a group's net quantity; ``None`` where it would add up apples and pears."""
    return row["net"] if row.get("of_symbol") == 1 else None


def _net(row: Row) -> str:
    return fmt.short_quantity(_raw_net(row))


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
        col.note(),
    )
