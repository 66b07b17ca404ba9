"""A table's rows added up by account or by symbol: each change moves its group's sums, nothing is added up anew."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from decimal import Decimal
from typing import Any

from PySide6.QtCore import Qt
from PySide6.QtWidgets import QComboBox, QStackedWidget

from engine.client import Row
from gui.desk import Desk
from gui.panel import TablePanel
from gui.table_model import Column, TableModel
from gui.table_view import TableView

ZERO = Decimal(0)
Parts = dict[str, Decimal]
EACH = ""


def exact(value: object) -> Decimal:
    """Return a row's decimal text as an exact number, zero where there is none."""
    return Decimal(str(value)) if value not in (None, "") else ZERO


@dataclass(slots=True)
class Group:
    """The rows that have one value in common, and the sums of their parts."""

    name: str
    members: set[str] = field(default_factory=set)
    sums: Parts = field(default_factory=dict)
    count_of: dict[str, dict[str, int]] = field(default_factory=dict)


class Sums:
    """Groups of rows by one column. ``parts`` says what a row adds; ``others`` are columns whose values are counted.

    A row whose column holds several values (tags) is in the group of each.
    """

    def __init__(self, by: str, parts: Callable[[Row], Parts], others: tuple[str, ...]) -> None:
        self.by = by
        self._parts = parts
        self._others = others
        self.groups: dict[str, Group] = {}
        self._of: dict[
            str, tuple[tuple[str, ...], Parts, tuple[str, ...]]
        ] = {}  # what each row added, to take it out again

    def put(self, key: str, row: Row | None) -> set[str]:
        """Take a row anew, or out (``None``); return the groups that changed."""
        touched: set[str] = set()
        before = self._of.pop(key, None)
        if before is not None:
            touched.update(before[0])
            self._move(key, *before, sign=-1)
        if row is not None:
            others = tuple(str(row.get(name) or "") for name in self._others)
            value = row.get(self.by) or "–"
            names = tuple(map(str, value)) if isinstance(value, list | tuple) else (str(value),)
            added = names, self._parts(row), others
            self._of[key] = added
            touched.update(names)
            self._move(key, *added, sign=1)
        return touched

    def _move(
        self, key: str, names: tuple[str, ...], parts: Parts, others: tuple[str, ...], *, sign: int
    ) -> None:
        for name in names:
            self._move_one(key, name, parts, others, sign=sign)

    def _move_one(
        self, key: str, name: str, parts: Parts, others: tuple[str, ...], *, sign: int
    ) -> None:
        group = self.groups.setdefault(name, Group(name))
        (group.members.add if sign > 0 else group.members.discard)(key)
        for part, value in parts.items():
            group.sums[part] = group.sums.get(part, ZERO) + value * sign
        for column, other in zip(self._others, others, strict=True):
            counts = group.count_of.setdefault(column, {})
            counts[other] = counts.get(other, 0) + sign
            if not counts[other]:
                del counts[other]
        if not group.members:
            del self.groups[name]

    def row(self, name: str) -> Row | None:
        """Return a group's row: its name, how many rows it has, its sums and how many different others."""
        group = self.groups.get(name)
        if group is None:
            return None
        return {
            "group": name,
            "rows": len(group.members),
            **group.sums,
            **{f"of_{column}": len(counts) for column, counts in group.count_of.items()},
        }


class GroupedPanel(TablePanel):
    """A table of rows that can be shown added up: by account, by symbol.

    ``GROUPINGS``: column and words of each way. The row menu and the commands act on a group's rows. Enter or a
    double click on a group goes to its rows.
    """

    GROUPINGS: tuple[tuple[str, str], ...] = (("symbol", "By symbol"), ("account", "By account"))
    OTHERS: tuple[str, ...] = ("account", "symbol")
    GROUP_SORT = ("rows", True)

    def __init__(self, desk: Desk) -> None:
        super().__init__(desk)
        self.by = EACH
        self.sums: Sums | None = None
        self._group_rows: dict[str, Row] = {}
        self.groups = TableModel(self.group_columns(), desk.store, self)
        self.group_view = TableView(self.groups, self.NAME + ".groups", self)
        self.group_view.setAccessibleName(f"{self.TITLE}, grouped")
        self.group_view.empty_title, self.group_view.empty_text = self.EMPTY
        self.group_view.changed = desk.layout_touched.emit
        self.group_view.chosen.connect(self.on_chosen)
        self.group_view.fill_menu = self.fill_menu
        self.group_view.activated_key.connect(self.open_group)
        key, descending = self.GROUP_SORT
        order = Qt.SortOrder.DescendingOrder if descending else Qt.SortOrder.AscendingOrder
        self.groups.sort([column.key for column in self.groups.columns].index(key), order)
        self.picker = QComboBox()
        self.picker.setObjectName(self.NAME + ".group")
        self.picker.setAccessibleName(f"Group {self.TITLE.lower()}")
        self.picker.setToolTip("Each row by itself, or added up")
        for value, words in ((EACH, "Each"), *self.GROUPINGS):
            self.picker.addItem(words, value)
        self.picker.currentIndexChanged.connect(
            lambda _at: self.group_by(self.picker.currentData())
        )
        self.stack = QStackedWidget()
        desk.store.watch(self.TABLE, self._on_rows, self._regroup)

    def group_columns(self) -> tuple[Column, ...]:
        """Return the columns of groups; their keys are ``group``, ``rows``, the parts and ``of_account`` or so."""
        raise NotImplementedError

    def parts(self, row: Row) -> Parts:
        """Return what a row adds to its group's sums."""
        raise NotImplementedError

    def counts(self, row: Row) -> bool:
        """Say whether a row belongs to what is grouped."""
        return self.model.keep is None or self.model.keep(row)

    def build(self) -> None:
        """Put both tables in, one over the other."""
        self.stack.addWidget(self.view)
        self.stack.addWidget(self.group_view)
        self.body.addWidget(self.stack, 1)
        self.view.installEventFilter(self)

    # --- grouping -----------------------------------------------------------------------------

    def group_by(self, by: str) -> None:
        """Add rows up by a column, or show each (empty)."""
        if by == self.by:
            return
        self.by = by
        at = self.picker.findData(by)
        if at != self.picker.currentIndex():
            self.picker.setCurrentIndex(at)
        self.filter.setEnabled(not by)
        self._regroup()
        self.stack.setCurrentIndex(1 if by else 0)
        self.on_chosen()
        self.tick()
        self.desk.layout_touched.emit()

    def open_group(self, name: str) -> None:
        """Show a group's rows one by one."""
        self.group_by(EACH)
        self.filter.setText(name)
        self.view.setFocus(Qt.FocusReason.OtherFocusReason)

    def _regroup(self) -> None:
        self.sums = Sums(self.by, self.parts, self.OTHERS) if self.by else None
        self._group_rows = {}
        if self.sums is not None:
            for key, row in self.store.rows(self.TABLE).items():
                if self.counts(row):
                    self.sums.put(key, row)
            self._group_rows = {name: self.sums.row(name) or {} for name in self.sums.groups}
        self.groups.show_rows(self._group_rows)
        self.groups.load()

    def _on_rows(self, changed: Iterable[str], removed: Iterable[str]) -> None:
        if self.sums is None:
            return
        rows = self.store.rows(self.TABLE)
        touched: set[str] = set()
        for key in changed:
            row = rows.get(key)
            touched |= self.sums.put(key, row if row is not None and self.counts(row) else None)
        for key in removed:
            touched |= self.sums.put(key, None)
        gone = [
            name for name in touched if name not in self.sums.groups and name in self._group_rows
        ]
        fresh = [name for name in touched if name in self.sums.groups]
        for name in gone:
            del self._group_rows[name]
        for name in fresh:
            self._group_rows[name] = self.sums.row(name) or {}
        self.groups.apply(fresh, gone)

    # --- what acts on rows --------------------------------------------------------------------

    def chosen(self) -> list[Row]:
        """Return the selected rows, or those of the selected groups."""
        if self.sums is None:
            return super().chosen()
        rows = self.store.rows(self.TABLE)
        names = self.group_view.chosen_keys()
        groups = [self.sums.groups[name] for name in names if name in self.sums.groups]
        return [rows[key] for group in groups for key in sorted(group.members) if key in rows]

    def tick(self) -> None:
        """Move on what changes with time, and say how many groups there are."""
        super().tick()
        if self.sums is not None:
            self.count.setText(f"{len(self.sums.groups)}")

    def on_link(self) -> None:
        """Grey both tables while not live."""
        super().on_link()
        self.groups.stale = self.model.stale
        self.group_view.viewport().update()

    def state(self) -> dict[str, Any]:
        """Keep columns of both tables, and how rows are grouped."""
        return super().state() | {"groups": self.group_view.layout_state(), "by": self.by}

    def restore(self, state: dict[str, Any]) -> None:
        """Take back columns and grouping."""
        super().restore(state)
        self.group_view.restore_layout(state.get("groups", {}))
        by = str(state.get("by", EACH))
        if by in {EACH, *(value for value, _ in self.GROUPINGS)}:
            self.group_by(by)
