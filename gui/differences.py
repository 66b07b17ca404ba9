"""Settling a difference between our books and a broker's: the facts first, and only what was seen is settled."""

from __future__ import annotations

from engine.client import Row
from gui.commands import CONFIRM, HOLD
from gui.desk import Desk

ADOPT, REPAIR = "adopt", "repair"
WORDS = {
    ADOPT: "The broker's value becomes ours: positions, profit and limits count it from then on.",
    REPAIR: "An order is sent, or cancelled, so that the broker's book becomes what ours says.",
}


def may(row: Row | None, command: str) -> bool:
    """Say whether a line can be settled that way."""
    return row is not None and command in (row.get("actions") or ())


def ask(desk: Desk, command: str, row: Row) -> None:
    """Show a difference's facts, and adopt or repair it once that is confirmed."""
    word, danger = command.capitalize(), HOLD if command == REPAIR else CONFIRM
    desk.ask(
        "confirm",
        title=f"{word} {row['symbol'] or row['kind']} in {row['account']}",
        facts=[
            ("Expected", str(row.get("expected") or "none")),
            ("At the broker", str(row.get("actual") or "none")),
            ("Difference", str(row.get("difference") or "")),
            ("What happens", WORDS[command]),
        ],
        go=f"Hold to {command}" if danger == HOLD else word,
        run=lambda: _send(desk, command, row),
        danger=danger,
    )


async def _send(desk: Desk, command: str, row: Row) -> None:
    # ``at``: refused if the values have changed since these facts were shown.
    await desk.command(command, key=row["key"], at=row.get("at"), reason="by hand at the desk")
    desk.say("ok", f"{command.capitalize()}: {row['symbol']} in {row['account']}")
