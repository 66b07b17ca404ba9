"""Tables of live rows: which rows there are and in what order; what their cells say is in ``gui.table_cells``.

The model keeps its own order: new rows and new sort values move rows at most three times a second, and never while
the pointer is over the table or a menu is open on it, so nothing slides under a click. A large table is filtered and
sorted in slices (``gui.slices``): the first hits are shown at once, a new order when it is whole.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from math import inf
from time import monotonic
from typing import Any, Final, Protocol

from PySide6.QtCore import QModelIndex, Qt
from PySide6.QtWidgets import QWidget

from engine.client import Row
from gui import table_order
from gui.slices import Slices
from gui.table_cells import CellModel, Rows
from gui.table_filter import Filter, Texts, parse
from gui.table_look import Changes, Column

__all__ = ["Column", "TableModel"]

RESORT_S = 0.34
LOOK_AGAIN_S = 1.0
SLOW_TICKS = 4
AT_ONCE: Final = 2_000
"""So many rows are filtered and sorted at once; of more, what can be done in ``FIRST_S``, the rest in slices."""
FIRST_S: Final = 0.008
MANY: Final = 8_192  # hits that are shown in one go
MORE_S: Final = 0.1  # between two times that further hits are shown: each paints the whole


class Source(Protocol):
    """Where rows come from (``gui.bridge.Store``)."""

    def rows(self, table: str) -> Rows:
        """Return a table's rows by key."""
        ...

    def watch(
        self,
        table: str,
        changed: Callable[[Iterable[str], Iterable[str]], None],
        reset: Callable[[], None],
    ) -> None:
        """Tell changed and removed keys once a frame; ``reset`` on a snapshot."""
        ...

    def animate(self, step: Callable[[float], bool]) -> None:
        """Call ``step`` once a frame until it says it is done."""
        ...


@dataclass(slots=True)
class Search:
    """A search in slices. ``left``: the keys still to be looked at. ``found``: hits that are not shown yet.

    ``shown_at``: when hits were shown last (monotonic seconds).
    """

    left: list[str] = field(default_factory=list)
    found: dict[str, None] = field(default_factory=dict)
    shown_at: float = -inf

    @property
    def blank(self) -> bool:
        """Say whether nothing of it is shown yet."""
        return self.shown_at == -inf


class TableModel(CellModel):
    """Rows of one table of the feed, or rows put here by a panel, in the order the user asked for."""

    def __init__(
        self, columns: tuple[Column, ...], store: Source, parent: QWidget | None = None
    ) -> None:
        super().__init__(columns, parent)
        self.store = store
        self.filter_text = ""
        self.filter = Filter()
        self.texts = Texts(self.columns)
        self._unread: Iterator[str] | None = None  # rows whose texts are still to be written ahead
        self.keep: Callable[[Row], bool] | None = None
        self.frozen: Callable[[], bool] = bool  # bool() is False
        self.order_held: Callable[[], bool] = bool  # rows come and go, but none changes places
        self.column_in_sight: Callable[[int], bool] = lambda _at: True
        self.flashing = True
        self.stale = False
        self.waiting: dict[str, None] = {}
        self.leaving: dict[str, None] = {}  # changed so that they are not kept any more
        self.searched: Callable[[], object] = bool  # called when the last hits of a search are in
        self.searching = False  # rows are still to be looked at: what is shown are the first hits
        self._slices = Slices(self)
        self._search = Search()
        self._whole: dict[str, int] = {}  # as ``pos`` was when a filter came; empty: unknown
        self._came: dict[str, None] = {}  # rows that are none of these
        self._ordered = True  # no order that was asked for is still being made
        self._values: dict[
            str, tuple[Any, ...]
        ] = {}  # what rows are ordered by, as of the last look
        self._live_columns = tuple(at for at, c in enumerate(columns) if c.live)
        self._sort_due = False
        self._sorted_at = 0.0
        self._stepped_at = 0.0
        self._looked_at = 0.0
        self._ticks = 0

    @property
    def sort_column(self) -> int:
        """Return the column rows are sorted by first, -1 for none."""
        return self.sorting[0][0] if self.sorting else -1

    @property
    def descending(self) -> bool:
        """Say whether that column is sorted from the top down."""
        return bool(self.sorting) and self.sorting[0][1]

    # --- feeding ------------------------------------------------------------------------------

    def attach(self, table: str) -> None:
        """Show a table of the store."""
        self.rows = self.store.rows(table)
        self.store.watch(table, self.apply, self.load)
        self.load()

    def load(self) -> None:
        """Take every row anew (first connection, reconnection)."""
        self._values.clear()
        self._show_all()

    def _show_all(self) -> None:
        """Filter and sort every row at once."""
        self._give_up()
        self._whole = {}
        self._ordered = True
        self._show(self._arranged(self._belonging(self.rows)))

    def _show(self, order: list[str]) -> None:
        self._looks.clear()
        self._flashes.clear()
        self.waiting.clear()
        self.leaving.clear()
        self._reset(order)

    def _reset(self, order: list[str]) -> None:
        self.beginResetModel()
        self._set_order(order)
        self.endResetModel()

    def show_rows(self, rows: Rows) -> None:
        """Show rows of the panel's own; a changed set of keys is a load, else a change of each row."""
        if rows.keys() == self.rows.keys():
            self.rows = rows
            self.apply(rows, ())
        else:
            self.rows = rows
            self.load()

    def apply(self, changed: Iterable[str], removed: Iterable[str]) -> None:
        """Take changed and removed keys; rows that nobody sees cost a dictionary look-up."""
        span = self.visible_span()
        fresh: list[str] = []
        seen = Changes()
        for key in changed:
            at = self.pos.get(key)
            if at is not None:
                self._apply_one(key, at, span, seen)
            else:
                self._values.pop(key, None)  # kept for when the filter lets it in again
                if self._whole and key not in self._whole:
                    self._came[key] = None
                if key in self._search.found:
                    self._judge_again(key)
                elif key not in self.waiting and self._passes(self.rows[key]):
                    fresh.append(key)
        self._tell(seen)
        self._remove(removed)
        if fresh:
            self.waiting.update(dict.fromkeys(fresh))
        if self.waiting:
            self._admit()
        if self.leaving and not self.frozen():
            self._dismiss()
        if self._restless():
            self.store.animate(self.step)

    def _apply_one(self, key: str, at: int, span: tuple[int, int], seen: Changes) -> None:
        row = self.rows[key]
        if not self._holds(row):
            self.leaving[key] = None
        if self.sorting:
            value = self._value_of(key)
            self._sort_due = self._sort_due or value != self._values.get(key)
            self._values[key] = value
        look = self._looks.get(key)
        if not span[0] <= at <= span[1]:
            if look is not None:
                del self._looks[key]
        elif look is None:
            seen.add(at, range(len(self.columns)))
        else:
            moved = self._rewrite(look, row)
            if moved and self._flash_columns and self.flashing:
                self._flash(key, moved)
            seen.add(at, moved)

    def _kept(self, key: str) -> bool:
        return self._holds(self.rows[key])

    def _holds(self, row: Row) -> bool:
        return (self.keep is None or self.keep(row)) and self.filter.still_holds(row)

    def _restless(self) -> bool:
        sorting = self._sort_due and self.sorting and not self.order_held()
        return bool(sorting or self.waiting or self.leaving or self._flashes)

    def _dismiss(self) -> None:
        """Take out rows that are not kept any more; they stay while the order is frozen."""
        leaving, self.leaving = self.leaving, {}
        self._remove([key for key in leaving if key in self.rows and not self._kept(key)])

    def step(self, now: float) -> bool:
        """Fade flashes, admit waiting rows, re-sort when due; part of the frame pump."""
        if now - self._stepped_at < 0.08:
            return True
        self._stepped_at = now
        if self._flashes:
            self._fade(now)
        if not self.frozen():
            if self.leaving:
                self._dismiss()
            if self.waiting:
                self._admit()
            due = self._sort_due and self.sorting and now - self._sorted_at >= RESORT_S
            if due and not self._slices.busy and not self.order_held():
                self._begin_order(asked=False)
        return self._restless()

    def tick(self, *, whole: bool = False) -> None:
        """Rewrite the cells that change with time alone (ages, countdowns), where they are seen.

        Rows without seconds in them are looked at every fourth time; ``whole``: now.
        """
        again = self.filter.timed and not self.searching
        if again and monotonic() - self._looked_at >= LOOK_AGAIN_S:
            self._look_again()
        self.lively = False
        live = [at for at in self._live_columns if self.column_in_sight(at)]
        if not live or not self.order:
            return
        self._ticks += 1
        whole = whole or self._ticks % SLOW_TICKS == 0
        first, last = self.visible_span()
        seen = Changes()
        for at in range(max(first, 0), min(last, len(self.order) - 1) + 1):
            look = self._looks.get(self.order[at])
            if look is not None and (whole or not look.slow):
                seen.add(at, self._move_on(look, live))
        self._tell(seen)

    def _look_again(self) -> None:
        """Let rows come and go that match the filter, or do not, with time alone."""
        self._looked_at = monotonic()
        for key, row in self.rows.items():
            if key in self.pos:
                if not self._kept(key):
                    self.leaving[key] = None
            elif self._passes(row):
                self.waiting[key] = None
        if self.leaving or self.waiting:
            self.apply((), ())

    def _admit(self) -> None:
        """Insert rows that came, in one batch; they wait while the order is frozen, and for the end of a search."""
        if self.searching or (self.order and self.frozen()):
            return
        fresh = [key for key in self.waiting if key in self.rows and self._kept(key)]
        self.waiting.clear()
        if not fresh:
            return
        front = self.descending
        block = self._sorted(fresh) if self.sorting else fresh
        at = 0 if front else len(self.order)
        upper, lower = (block, self.order) if front else (self.order, block)
        if self.sorting and upper and lower:
            self._sort_due = self._sort_due or not self._in_order(upper[-1], lower[0])
        self.beginInsertRows(QModelIndex(), at, at + len(block) - 1)
        self._set_order(upper + lower)
        self.endInsertRows()

    def _remove(self, keys: Iterable[str]) -> None:
        rows = []
        for key in keys:
            self.waiting.pop(key, None)
            self._search.found.pop(key, None)
            if key not in self.rows:  # else it is only not shown any more
                self._came.pop(key, None)
            self._looks.pop(key, None)
            self._values.pop(key, None)
            self._flashes.pop(key, None)
            if key in self.pos:
                rows.append(self.pos[key])
        if not rows:
            return
        if len(rows) > 64:
            gone = set(rows)
            self._reset([key for at, key in enumerate(self.order) if at not in gone])
            return
        for at in sorted(rows, reverse=True):
            self.beginRemoveRows(QModelIndex(), at, at)
            del self.order[at]
            self.endRemoveRows()
        self._set_order(self.order)

    # --- order --------------------------------------------------------------------------------

    def _set_order(self, order: list[str]) -> None:
        self.order = order
        self.pos = {key: at for at, key in enumerate(order)}

    def _belonging(self, keys: Iterable[str]) -> list[str]:
        keep, rows = self.keep, self.rows
        found = self.filter.pick(keys, rows)
        return found if keep is None else [key for key in found if keep(rows[key])]

    def _arranged(self, keys: list[str]) -> list[str]:
        self._sort_due = False
        self._sorted_at = monotonic()
        return self._sorted(keys) if self.sorting else keys

    def _value_of(self, key: str) -> tuple[Any, ...]:
        row, columns = self.rows[key], self.columns
        return tuple([columns[column].sort_value(row) for column, _ in self.sorting])

    def _values_of(self, keys: Sequence[str]) -> list[tuple[Any, ...]]:
        """Return what rows are ordered by, as of the last look."""
        known = self._values
        return [known.get(key) or self._first_value(key) for key in keys]

    def _first_value(self, key: str) -> tuple[Any, ...]:
        """Look at a row for what it is ordered by; one that has gone meanwhile has nothing."""
        if key not in self.rows:
            return (None,) * len(self.sorting)
        found = self._values[key] = self._value_of(key)
        return found

    def _sorting(self, keys: list[str]) -> table_order.Sorting:
        return table_order.sort(keys, self._values_of, [down for _, down in self.sorting])

    def _sorted(self, keys: list[str]) -> list[str]:
        """Sort by the chosen columns; rows without a value come last either way."""
        work = self._sorting(keys)
        while True:
            try:
                next(work)
            except StopIteration as end:
                ordered: list[str] = end.value
                return ordered

    def _in_order(self, upper: str, lower: str) -> bool:
        one, other = self._values.get(upper, ()), self._values.get(lower, ())
        return table_order.in_order(one, other, [down for _, down in self.sorting])

    def _passes(self, row: Row) -> bool:
        if self.keep is not None and not self.keep(row):
            return False
        return self.filter.holds(row)

    def resort(self) -> None:
        """Put rows in order now, keeping selection and scroll with the rows; many rows a few frames later."""
        self._begin_order(asked=True)

    def _begin_order(self, *, asked: bool) -> None:
        """Begin to put rows in order. ``asked``: by the user, so that it is not given up because rows are held."""
        self._ordered = self._ordered and not asked
        if self.searching:  # in the order of before: once more, in this one
            self._look_through([*dict.fromkeys([*self._so_far(), *self.waiting])], False)
            return
        self._sort_due = False
        self._sorted_at = monotonic()
        self._slices.begin(self._order_rows(asked), inf if len(self.order) <= AT_ONCE else FIRST_S)

    def _order_rows(self, asked: bool) -> Iterator[None]:
        before = self.order.copy()
        order = (yield from self._sorting(before)) if self.sorting else before
        if not asked and (self.frozen() or self.order_held()):
            self._sort_due = True
            return
        self._ordered = True
        self._sorted_at = monotonic()
        if self.order != before:  # rows came or went meanwhile
            order = [key for key in order if key in self.pos]
            have = set(order)
            came = [key for key in self.order if key not in have]
            order = came + order if self.descending else order + came
            self._sort_due = True
        self._swap(order)

    def _swap(self, order: list[str]) -> None:
        """Show the same rows in another order."""
        if order == self.order:
            return
        self.layoutAboutToBeChanged.emit()
        old = self.persistentIndexList()
        keys = [self.order[index.row()] for index in old]
        self._set_order(order)
        new = [
            self.index(self.pos[key], index.column()) for key, index in zip(keys, old, strict=True)
        ]
        self.changePersistentIndexList(old, new)
        self.layoutChanged.emit()

    def sort(self, column: int, order: Qt.SortOrder = Qt.SortOrder.AscendingOrder) -> None:
        """Sort by one column (the header's click)."""
        descending = order is Qt.SortOrder.DescendingOrder
        self.sort_by([(column, descending)] if 0 <= column < len(self.columns) else [])

    def sort_by(self, sorting: list[tuple[int, bool]]) -> None:
        """Sort by several columns: each with whether from the top down, first things first."""
        self.sorting = sorting
        self._values.clear()
        self._whole = {}
        self.resort()

    def set_filter(self, text: str) -> None:
        """Show only rows for which a filter holds (``gui.table_filter``).

        Of a filter that narrows the one before, only the rows it showed are asked, and they are in order. Of a large
        table the first hits are shown now, the others as they are found (``searching``, ``searched``).
        """
        wider, self.filter_text = self.filter, text.strip()
        self.filter = parse(self.filter_text, self.columns, self.texts)
        self._spare_texts()
        narrower = self.filter.narrows(wider)
        unsettled = self.waiting or self.leaving or self._sort_due or self._slices.busy
        if len(self.rows) > AT_ONCE:
            self._begin_search(wider, narrower)
        elif narrower and not unsettled:
            self._show(self._belonging([key for key in self.order if key in self.rows]))
        else:
            self._show_all()

    # --- a search in slices -------------------------------------------------------------------

    def finish(self) -> None:
        """Do now what is left of a search or a sort: for what needs every row that belongs here."""
        self._slices.finish()

    def _give_up(self) -> None:
        """Give up a search or a sort that is at work."""
        self._sort_due = self._sort_due or self._slices.busy
        self._slices.drop()
        self.searching = False
        self._search = Search()

    def _so_far(self) -> list[str]:
        """Return the hits of this search, and what it has not come to yet."""
        return [*self.order, *self._search.found, *self._search.left]

    def _begin_search(self, wider: Filter, narrower: bool) -> None:
        """Look through the rows that the filter may show; ``wider`` is the filter of before."""
        if not (self.searching or wider.fields or wider.words):
            self._whole = self.pos if self._ordered else {}
            self._came = self._not_shown()
        self._look_through(*self._candidates(narrower))

    def _not_shown(self) -> dict[str, None]:
        """Return the rows that are not shown though there is no filter."""
        if self.keep is None:
            return self.waiting.copy()
        return {key: None for key in self.rows if key not in self.pos}

    def _look_through(self, keys: list[str], in_order: bool) -> None:
        self._give_up()
        self._ordered = self._ordered and in_order
        self.searching, self._search.left = True, keys
        self._slices.begin(self._look(keys, in_order), FIRST_S)
        if self._search.blank:
            self._publish()

    def _candidates(self, narrower: bool) -> tuple[list[str], bool]:
        """Return the keys to look at, and whether they are in order; some may have gone."""
        if narrower:
            known = self._so_far()
            have = set(known) if self.waiting else set()
            came = [key for key in self.waiting if key not in have and key in self.rows]
        else:
            known = list(self._whole)
            came = list(self._came if known else self.rows)
        if not self.sorting:
            return [*known, *came], True
        in_order = self._ordered and len(came) <= AT_ONCE
        # What has changed while the filter did not show it stands where it stood: it is put in order in the end.
        self._sort_due = self._sort_due or not narrower or bool(came)
        if in_order:
            came = self._sorted(came)
        return ([*came, *known] if self.descending else [*known, *came]), in_order

    def _look(self, keys: list[str], in_order: bool) -> Iterator[None]:
        if not in_order:
            keys = yield from self._sorting(keys)
            self._ordered = True
        for at in range(0, len(keys), table_order.BLOCK):
            block = keys[at : at + table_order.BLOCK]
            hits = self._belonging([key for key in block if key in self.rows])
            self._search.found.update(dict.fromkeys(hits))
            if self._slices.over():
                self._search.left = keys[at + table_order.BLOCK :]
                many = len(self._search.found) >= MANY
                if many or monotonic() - self._search.shown_at >= MORE_S:
                    self._publish()
                yield
        self._search.left = []
        self._publish()
        yield  # who was told may have begun another
        self._end_search()

    def _publish(self) -> None:
        """Show the next hits: instead of what was shown before, then below the others."""
        search = self._search
        keys, search.found = list(search.found), {}
        if self.sorting and not all(map(self._values.__contains__, keys)):
            self._sort_due = True  # changed while the filter did not show them
        blank, search.shown_at = search.blank, monotonic()
        if blank:
            self._show(keys)
        elif keys:
            for key in keys if self.waiting else ():
                self.waiting.pop(key, None)
            first = len(self.order)
            self.beginInsertRows(QModelIndex(), first, first + len(keys) - 1)
            self.order += keys
            self.pos.update(zip(keys, range(first, len(self.order)), strict=True))
            self.endInsertRows()

    def _judge_again(self, key: str) -> None:
        """Take the change of a hit that is not shown yet."""
        if not self._passes(self.rows[key]):
            del self._search.found[key]

    def _end_search(self) -> None:
        self.searching = False
        if not (self.filter.fields or self.filter.words):
            self._whole = {}  # it is all shown again
        self._admit()
        if self._sort_due and not self.frozen() and not self.order_held():
            self._begin_order(asked=False)
        if self._restless():
            self.store.animate(self.step)
        self.searched()

    def read_ahead(self, seconds: float) -> bool:
        """Write the texts a filter looks into, for so long; say whether some are left. ``rest`` ends it."""
        if self._unread is None:
            self._unread = iter([*self.order, *self.rows])  # from the top, as they are looked at
        until = monotonic() + seconds
        for key in self._unread:
            if key in self.rows:
                self.texts(self.rows[key])
            if monotonic() >= until:
                return True
        return False

    def rest(self) -> None:
        """Read no further ahead; texts that no filter needs are given back."""
        self._unread = None
        self._spare_texts()

    def _spare_texts(self) -> None:
        if not self.filter.words and self._unread is None:
            self.texts.clear()
