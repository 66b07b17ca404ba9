"""A listener that keeps what a desk would show, for tests of what an engine or a recorded day tells."""

from __future__ import annotations

from typing import Any

from engine.model import tables
from engine.model.enums import ConnectionState

Tables = dict[str, dict[str, dict[str, Any]]]


class Listener:
    """``tables``: rows by table and key, as of now."""

    def __init__(self) -> None:
        self.tables: Tables = {}
        self.link: ConnectionState | None = None
        self.snapshots = 0

    def on_snapshot(self, snapshot: dict[str, list[dict[str, Any]]]) -> None:
        """Begin anew."""
        self.snapshots += 1
        self.tables = {
            name: {row[tables.KEYS[name]]: row for row in rows} for name, rows in snapshot.items()
        }

    def on_batch(
        self, changes: dict[str, list[dict[str, Any]]], removed: dict[str, list[str]]
    ) -> None:
        """Take what changed; what is removed may have come and gone unheard."""
        for name, rows in changes.items():
            self.tables[name].update({row[tables.KEYS[name]]: row for row in rows})
        for name, keys in removed.items():
            for key in keys:
                self.tables[name].pop(key, None)

    def on_link(self, state: ConnectionState, text: str) -> None:
        """Take the state of the link."""
        del text
        self.link = state
