"""The order of rows: sorted by several columns, in steps short enough to come between two frames."""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from typing import Any, Final

BLOCK: Final = 64
"""Rows whose texts are looked into in one step; of eight times as many values are asked for."""
RUN: Final = 20_000
"""Rows that are sorted in one step; sorted runs are then merged, two in each step."""

Values = tuple[Any, ...]
Sorting = Generator[None, None, list[str]]


def blocks(keys: Sequence[str], size: int) -> Iterator[Sequence[str]]:
    """Cut keys into blocks, in their order."""
    return (keys[at : at + size] for at in range(0, len(keys), size))


def sort(
    keys: list[str],
    values_of: Callable[[Sequence[str]], Iterable[Values]],
    descending: Sequence[bool],
) -> Sorting:
    """Sort keys by their values, the first of them first; those without a value come last either way.

    Values are asked for once: what changes while it works does not disturb it.
    """
    values: dict[str, Values] = {}
    for block in blocks(keys, 8 * BLOCK):
        values.update(zip(block, values_of(block), strict=True))
        yield
    ordered = keys
    for level in reversed(range(len(descending))):
        ordered = yield from _by(level, ordered, values, descending[level])
    return ordered


def _by(level: int, keys: list[str], values: dict[str, Values], descending: bool) -> Sorting:
    """Sort by one of the values, and leave equals as they are: runs first, then neighbours merged."""
    known: dict[str, Any] = {}
    runs: list[list[str]] = []
    lacking: list[str] = []
    for block in blocks(keys, RUN):
        found = {key: value for key in block if (value := values[key][level]) is not None}
        if len(found) < len(block):
            lacking += [key for key in block if key not in found]
        known = {**known, **found} if known else found
        runs.append(sorted(found, key=found.__getitem__, reverse=descending))
        yield
    while len(runs) > 1:
        for at in range(0, len(runs) - 1, 2):
            runs[at] += runs[at + 1]
            # Two runs are seen as such and merged; it is no sort from the beginning.
            runs[at].sort(key=known.__getitem__, reverse=descending)
            yield
        runs = runs[::2]
    return [*(runs[0] if runs else ()), *lacking]


def in_order(upper: Values, lower: Values, descending: Sequence[bool]) -> bool:
    """Say whether a row with the values ``upper`` may stand above one with ``lower``."""
    for one, other, down in zip(upper, lower, descending, strict=False):
        if one is None or other is None:
            return other is None
        if one != other:
            return bool(one > other if down else one < other)
    return True
