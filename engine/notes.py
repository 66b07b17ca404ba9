"""What people write down about a signal, an order or a position: a text and tags, kept in the journal and audited."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from engine.clock import rfc3339
from engine.errors import CommandRefused
from engine.model import tables
from engine.model.commands import Note
from engine.operators import acting

if TYPE_CHECKING:
    from engine.trading_engine import TradingEngine

FACT: Final = "note"
"""Kind of the journal's facts that hold notes; their key is ``on/key``."""
TABLES: Final = {"signal": tables.SIGNALS, "order": tables.ORDERS, "position": tables.POSITIONS}
_ON: Final = {table: on for on, table in TABLES.items()}


class Notes:
    """Every note of the book. Durable before a command is answered."""

    def __init__(self, engine: TradingEngine) -> None:
        self._engine = engine

    @property
    def _known(self) -> dict[str, dict[str, Any]]:
        """Return the notes by ``on/key``, those of before a restart too."""
        known: dict[str, dict[str, Any]] = self._engine.facts.setdefault(FACT, {})
        return known

    def columns(self, table: str, key: str) -> dict[str, Any]:
        """Return a row's ``note`` and ``tags``."""
        return columns(self._known, table, key)

    async def note(self, command: Note) -> dict[str, Any]:
        """Carry out the command: an empty text without tags removes the note.

        Raises:
            CommandRefused: there is nothing of that key (404).
            StoreError: it could not be made durable.
        """
        table = TABLES[command.on]
        if self._engine.publisher.makers[table](command.key) is None:
            raise CommandRefused("NOT_FOUND", f"no {command.on} {command.key}", 404)
        key = f"{command.on}/{command.key}"
        value: dict[str, Any] | None = None
        if command.text or command.tags:
            value = {
                "text": command.text,
                "tags": list(command.tags),
                "by": acting.get().name,
                "at": rfc3339(self._engine.clock.now()),
            }
        await self._engine.journal.commit_fact(FACT, key, value)
        if value is None:
            self._known.pop(key, None)
        else:
            self._known[key] = value
        self._engine.publisher.touch(table, command.key)
        return {"result": "noted" if value else "removed", "on": command.on, "key": command.key}


def columns(known: dict[str, dict[str, Any]], table: str, key: str) -> dict[str, Any]:
    """Return a row's ``note`` and ``tags`` out of notes by ``on/key``."""
    found = known.get(f"{_ON[table]}/{key}")
    if found is None:
        return {"note": "", "tags": []}
    return {"note": found["text"], "tags": list(found["tags"])}
