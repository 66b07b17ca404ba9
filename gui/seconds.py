"""The engine's seconds (the table ``pnl``) as columns of numbers: sorted, grown by what is new, never read twice."""

from __future__ import annotations

from collections.abc import Iterable
from math import nan

from engine.client import Row
from engine.model import tables
from gui import formatting as fmt
from gui.bridge import CAPS, Store

KEPT = CAPS[tables.PNL]


class Seconds:
    """``at`` in seconds since 1970, a list of values for each name; ``fresh`` says whether there is anything new.

    ``moved``: and whether a value is another than it was in one of the two seconds before.
    """

    def __init__(self, store: Store, names: tuple[str, ...]) -> None:
        self._store = store
        self.at: list[float] = []
        self.columns: dict[str, list[float]] = {name: [] for name in names}
        self.fresh = self.moved = True
        store.watch(tables.PNL, self._on_rows, self._on_reset)
        self._on_reset()

    def _on_reset(self) -> None:
        self.moved = True
        self.at.clear()
        for column in self.columns.values():
            column.clear()
        rows = self._store.rows(tables.PNL).values()
        for row in sorted(rows, key=lambda row: fmt.epoch(row.get("at")) or 0.0):
            self._add(row)

    def _on_rows(self, changed: Iterable[str], _removed: object) -> None:
        rows = self._store.rows(tables.PNL)
        for key in sorted(changed):  # stamps: oldest first
            if key in rows:
                self._add(rows[key])

    def _add(self, row: Row) -> None:
        at = fmt.epoch(row.get("at"))
        if at is None or (self.at and at <= self.at[-1]):
            return
        self.fresh = True
        self.at.append(at)
        for name, column in self.columns.items():
            value = fmt.number(row.get(name))
            column.append(nan if value is None else value)
        self.moved = self.moved or any(
            len(set(map(str, column[-3:]))) > 1 for column in self.columns.values()
        )
        if len(self.at) > KEPT + KEPT // 8:
            del self.at[:-KEPT]
            for column in self.columns.values():
                del column[:-KEPT]

    def rates(self, name: str) -> list[float]:
        """Return how much a counter grew a second, at each second after the first; nothing where it began anew."""
        column = self.columns[name]
        return [
            max(0.0, (column[n] - column[n - 1]) / (self.at[n] - self.at[n - 1]))
            for n in range(1, len(column))
        ]
