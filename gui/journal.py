"""What the desk does with its journal: the report of a day, a recorded day in a window of its own, notes."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from engine.client import Row
from gui.commands import CONFIRM, Command
from gui.desk import Desk
from gui.panel import Panel, TablePanel

NOTED = {"signals": "signal", "orders": "order", "positions": "position"}
"""Panels whose rows can bear notes, and what a row of each is."""
KEYS = {"signal": "Shift+N", "order": "N | Shift+N", "position": "N | Shift+N"}
"""Among signals N is the next one that is held."""
NOTE_KEYS = {"signal": "key", "order": "cl_ord_id", "position": "key"}


def commands(desk: Desk, home: Path) -> list[Command]:
    """Return the commands that need no row."""
    group = "Journal"
    return [
        Command("journal.report", "Report of a day…", lambda: desk.ask("report"), "statement pdf html print end",
                "Ctrl+Shift+R", group, CONFIRM, enabled=lambda: desk.store.connected and not desk.store.recorded,
                about="Signals, orders, fills, refusals, profit and loss, latency and who did what, as a page or PDF"),
        Command("journal.replay", "Open a recorded day…", lambda: desk.ask("recording", home=home),
                "replay scrub journal history", "", group, CONFIRM,
                about="Show a day of this home, or of a copy of a journal, in a window of its own"),
        Command("journal.rerun", "Run a day again…", lambda: desk.ask("rerun", home=home),
                "replay what if other limits rules simulate backtest", "", group, CONFIRM,
                about="A recorded day with other limits on the simulated venue, in a process of its own"),
        Command("journal.compare", "Compare a rerun with its day…", lambda: desk.ask("comparison", home=home),
                "replay side by side then now difference result", "", group, CONFIRM,
                about="Orders, fills and latency of a day and of its rerun, side by side"),
    ]  # fmt: skip


def note_commands(desk: Desk, panels: Mapping[str, Panel]) -> list[Command]:
    """Return a command for the notes of each table that has them."""
    found = ((panels.get(name), on) for name, on in NOTED.items())
    return [_note(desk, panel, on) for panel, on in found if isinstance(panel, TablePanel)]


def _note(desk: Desk, panel: TablePanel, on: str) -> Command:
    def ask() -> None:
        row = panel.chosen_one()
        if row is not None:
            desk.ask("note", on=on, key=row[NOTE_KEYS[on]], name=name_of(on, row), row=dict(row))

    return Command(
        f"{on}.note", f"Note on this {on}…", ask, "tag comment journal write", KEYS[on], "Journal",
        enabled=panel.offers(lambda _row: True), scope=panel.view,
        about=f"Write down a text and tags about the {on}; kept with it, in exports and in the report",
    )  # fmt: skip


def name_of(on: str, row: Row) -> str:
    """Return what a note is about, for people."""
    if on == "signal":
        return f"{row.get('action')} {row.get('symbol')}, {row.get('id')}"
    if on == "order":
        return (
            f"{row.get('side')} {row.get('order_qty')} {row.get('symbol')} of {row.get('account')}"
        )
    return f"{row.get('symbol')} of {row.get('account')}"
