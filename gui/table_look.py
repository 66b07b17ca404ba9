"""What is seen of a row: its columns, the texts and tones made of them, and which of them a change made different."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Any

from engine.client import Row
from gui import formatting as fmt
from gui.words import tr

NEAR_ROWS = 2  # rows between two that changed, which are told along with them


@dataclass(frozen=True, slots=True)
class Column:
    """One column: where its value comes from, how it is written, painted, sorted and filtered.

    ``kind``: ``text`` (left), ``number`` (right, sorted as a number), ``chip`` (a state in its tone), ``bar`` (a
    share of ``bar``), ``toggle`` (a switch), ``mono`` (identifiers). ``live`` cells are rewritten as time passes.
    ``measure``: what the filter compares, where that is not the value. ``also``: other names the filter knows it by.
    ``total``: selected rows are added up: ``all`` of them, or only those of one ``symbol``. ``alone``: text, tone and
    bar depend on the row's ``key`` and nothing else, so that they are not made anew when another field changes.
    """

    key: str
    title: str
    width: int
    kind: str = "text"
    text: Callable[[Row], str] | None = None
    raw: Callable[[Row], Any] | None = None
    tone: Callable[[Row], str] | None = None
    bar: Callable[[Row], float | None] | None = None
    tip: Callable[[Row], str] | None = None
    visible: bool = True
    live: bool = False
    flash: bool = False
    about: str = ""
    measure: Callable[[Row], float | None] | None = None
    also: str = ""
    total: str = ""
    alone: bool = False

    @property
    def field(self) -> str | None:
        """Return the one field of the row that it is made of, ``None`` where it may be more."""
        plain = self.text is None and self.tone is None and self.bar is None
        return self.key if self.alone or plain else None

    @property
    def heading(self) -> str:
        """Return its title in the language in force."""
        return tr(self.title)

    @property
    def explained(self) -> str:
        """Return what it means, in the language in force; the title where there is no more to say."""
        return tr(self.about or self.title)

    @property
    def names(self) -> tuple[str, ...]:
        """Return what the filter knows it by: title, in English and as shown, and key, in small letters."""
        titles = (title.lower().replace(" ", "") for title in (self.title, self.heading))
        return (
            *dict.fromkeys(titles),
            self.key.lower(),
            self.key.lower().split(".")[0],
            *self.also.split(),
        )

    def measured(self, row: Row) -> float | None:
        """Return it as a number to compare with."""
        return self.measure(row) if self.measure else fmt.number(self.value(row))

    def value(self, row: Row) -> Any:
        """Return the raw value: what is sorted, exported and compared."""
        return self.raw(row) if self.raw else row.get(self.key)

    def write(self, row: Row) -> str:
        """Return the text shown."""
        value = self.text(row) if self.text else row.get(self.key)
        text = "" if value is None else str(value)
        return fmt.Privacy.veil(text) if fmt.Privacy.on else text

    def sort_value(self, row: Row) -> Any:
        """Return what rows are ordered by."""
        value = self.value(row)
        if self.kind in {"number", "bar"}:
            return fmt.number(value)
        return value if value is None or isinstance(value, int | float) else str(value)


class Look:
    """What a row looks like: texts, tones and shares of its bars by column, and the tint of the whole.

    ``slow``: no text that changes with time has seconds in it.
    """

    __slots__ = ("row", "shares", "slow", "texts", "tint", "tones")

    def __init__(self, columns: tuple[Column, ...], row: Row, tint: str) -> None:
        self.row = row
        self.tint = tint
        self.slow = False
        self.texts = [column.write(row) for column in columns]
        self.tones = [column.tone(row) if column.tone else "" for column in columns]
        self.shares = [column.bar(row) if column.bar else None for column in columns]

    def write(self, at: int, column: Column, row: Row) -> bool:
        """Write a cell anew; say whether it looks different now."""
        text = column.write(row)
        tone = column.tone(row) if column.tone else ""
        same = text == self.texts[at] and tone == self.tones[at]
        if column.bar:
            share, before = column.bar(row), self.shares[at]
            same = same and _pixels(share, column) == _pixels(before, column)
            self.shares[at] = share
        self.texts[at], self.tones[at] = text, tone
        return not same


def _pixels(share: float | None, column: Column) -> int | None:
    return None if share is None else round(share * column.width)


class Changes:
    """Cells that changed, by row; ``blocks`` puts neighbours together."""

    __slots__ = ("_runs",)

    def __init__(self) -> None:
        self._runs: dict[tuple[int, int], list[int]] = {}  # rows by first and last column

    def add(self, row: int, columns: Iterable[int]) -> None:
        """Take columns of a row that changed, from left to right."""
        first = last = -1
        for column in columns:
            if first < 0:
                first = column
            elif column != last + 1:
                self._runs.setdefault((first, last), []).append(row)
                first = column
            last = column
        if first >= 0:
            self._runs.setdefault((first, last), []).append(row)

    def blocks(self) -> Iterator[tuple[int, int, int, int]]:
        """Return rectangles: first and last column, first and last row."""
        for (left, right), rows in self._runs.items():
            rows.sort()
            top = end = rows[0]
            for row in rows:
                if row > end + 1 + NEAR_ROWS:
                    yield left, right, top, end
                    top = row
                end = row
            yield left, right, top, end
