"""The filter of tables: words, and terms on columns.

``symbol:NVDA side:buy age<60`` shows rows in which all of it holds. A term is a word (anywhere in the row),
``column:text`` (occurs in that column), ``column=text`` (is exactly that) or a comparison (``filled>=3``, ``age<5m``).
``,`` and ``|`` mean or (``state:held,refused``, ``rejected>0|unknown>0``), ``-`` in front means not, quotes keep blanks
together. A column is named by its title without blanks, or by its key; what names none is a plain word.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

from engine.client import Row

Test = Callable[[Row], bool]
_TERM = re.compile(r'-?(?:"[^"]*"?|[^\s"])+')
_FIELD = re.compile(r"^(?P<name>[A-Za-z_][\w.]*)(?P<how><=|>=|[:=<>])(?P<value>.*)$", re.S)
_NUMBER = re.compile(r"^(?P<number>[+-]?\d+(?:\.\d+)?)(?P<unit>[a-z%]*)$")
_UNITS = {"": 1.0, "%": 1.0, "s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0, "k": 1e3, "mio": 1e6}
_COMPARES: dict[str, Callable[[float, float], bool]] = {
    "<": lambda one, other: one < other,
    ">": lambda one, other: one > other,
    "<=": lambda one, other: one <= other,
    ">=": lambda one, other: one >= other,
}


class Field(Protocol):
    """What a filter needs to know of a column (``gui.table_model.Column``)."""

    @property
    def names(self) -> tuple[str, ...]:
        """Return what it may be called, in small letters."""
        ...

    @property
    def live(self) -> bool:
        """Say whether it changes with time alone."""
        ...

    def write(self, row: Row) -> str:
        """Return its text."""
        ...

    def value(self, row: Row) -> object:
        """Return its raw value."""
        ...

    def measured(self, row: Row) -> float | None:
        """Return it as a number to compare with."""
        ...


@dataclass(frozen=True, slots=True)
class Filter:
    """A filter as it was understood.

    ``fields``: the tests on columns, cheap enough for every change of a row. ``words``: the tests on the whole row.
    ``timed``: whether rows may begin or cease to match with time alone. ``problem``: what was not understood.
    ``needles``: the terms that are one word; ``others``: every other term, as it was typed.
    """

    fields: tuple[Test, ...] = ()
    words: tuple[Test, ...] = ()
    timed: bool = False
    problem: str = ""
    needles: tuple[str, ...] = ()
    others: tuple[str, ...] = ()

    def narrows(self, wider: Filter) -> bool:
        """Say whether it shows no row that ``wider`` does not: a word has grown, or a term was added."""
        if self.timed or wider.timed:
            return False
        grown = all(any(word in mine for mine in self.needles) for word in wider.needles)
        return grown and set(wider.others) <= set(self.others)

    def holds(self, row: Row) -> bool:
        """Say whether a row is shown."""
        return all(test(row) for test in (*self.fields, *self.words))

    def pick(self, keys: Iterable[str], rows: Mapping[str, Row]) -> list[str]:
        """Return those of the keys whose rows are shown: test by test, which is quicker than row by row."""
        found = list(keys)
        for test in (*self.fields, *self.words):
            found = [key for key in found if test(rows[key])]
        return found

    def still_holds(self, row: Row) -> bool:
        """Say whether a row that was shown is shown after it changed: words are not looked for again."""
        return all(test(row) for test in self.fields)


class Texts:
    """What stands in a row, in small letters: its own words, and its columns as they are written.

    Writing a row costs many times what looking into it does, and a person types a filter key by key: it is kept for as
    long as the row is the same one (rows are replaced, never changed).
    """

    MOST = 120_000

    def __init__(self, columns: Sequence[Field]) -> None:
        self._columns = [column for column in columns if not column.live]
        self._kept: dict[int, tuple[Row, str]] = {}

    def __call__(self, row: Row) -> str:
        """Return a row's text."""
        found = self._kept.get(id(row))
        if found is not None and found[0] is row:
            return found[1]
        words = [value for value in row.values() if isinstance(value, str)]
        words += [column.write(row) for column in self._columns]
        text = "\n".join(words).lower()
        if len(self._kept) >= self.MOST:
            self._kept.clear()
        self._kept[id(row)] = (row, text)
        return text

    def containing(self, word: str) -> Test:
        """Return the test whether a word stands in a row: asked of every row at every key."""
        kept = self._kept

        def test(row: Row) -> bool:
            found = kept.get(id(row))
            return word in (found[1] if found is not None and found[0] is row else self(row))

        return test

    def clear(self) -> None:
        """Forget them: numbers or times are written otherwise now, or nothing is filtered."""
        self._kept.clear()


def parse(text: str, columns: Sequence[Field], texts: Texts) -> Filter:
    """Understand a filter; what cannot be compared is said in ``problem`` and matches nothing."""
    by_name: dict[str, Field] = {}
    for column in columns:
        for name in column.names:
            by_name.setdefault(name, column)
    fields: list[Test] = []
    words: list[Test] = []
    needles: list[str] = []
    others: list[str] = []
    timed, problem = False, ""
    for term in _TERM.findall(text.lower()):
        negative = len(term) > 1 and term.startswith("-")
        parts = [
            _part(part, by_name) for part in _alternatives(term[1:] if negative else term) if part
        ]
        if not parts:
            continue
        timed = timed or any(part.timed for part in parts)
        problem = problem or next((part.problem for part in parts if part.problem), "")
        test = _any_of([part.test or texts.containing(part.word) for part in parts])
        kind = fields if all(part.test for part in parts) else words
        kind.append(_not(test) if negative else test)
        if negative or len(parts) > 1 or parts[0].test:
            others.append(term)
        else:
            needles.append(parts[0].word)
    return Filter(tuple(fields), tuple(words), timed, problem, tuple(needles), tuple(others))


@dataclass(frozen=True, slots=True)
class _Part:
    word: str = ""
    test: Test | None = None
    timed: bool = False
    problem: str = ""


def _part(text: str, columns: dict[str, Field]) -> _Part:
    found = _FIELD.match(text)
    column = columns.get(found["name"]) if found else None
    if found is None or column is None:
        return _Part(word=text.replace('"', ""))
    how, value = found["how"], found["value"].replace('"', "")
    if how in _COMPARES:
        number = _NUMBER.match(value)
        if number is None or number["unit"] not in _UNITS:
            return _Part(test=_never, problem=f"{text}: expected a number like 60, 5m or 10k")
        limit = float(number["number"]) * _UNITS[number["unit"]]
        return _Part(test=_compared(column, _COMPARES[how], limit), timed=column.live)
    wanted = [one for one in value.split(",") if one]
    return _Part(test=_worded(column, wanted, exact=how == "="), timed=column.live)


def _alternatives(term: str) -> Iterable[str]:
    return term.split("|") if '"' not in term else [term]


def _compared(column: Field, compare: Callable[[float, float], bool], limit: float) -> Test:
    def test(row: Row) -> bool:
        number = column.measured(row)
        return number is not None and compare(number, limit)

    return test


def _worded(column: Field, wanted: list[str], *, exact: bool) -> Test:
    def test(row: Row) -> bool:
        texts = (column.write(row).lower(), str(column.value(row)).lower())
        if exact:
            return any(one in texts for one in wanted)
        return not wanted or any(one in text for one in wanted for text in texts)

    return test


def _any_of(tests: list[Test]) -> Test:
    return tests[0] if len(tests) == 1 else lambda row: any(test(row) for test in tests)


def _not(test: Test) -> Test:
    return lambda row: not test(row)


def _never(_row: Row) -> bool:
    return False
