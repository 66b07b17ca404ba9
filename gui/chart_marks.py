"""Fills and signals of a symbol as marks on its chart: those of one bar and kind share one. No drawing here."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from itertools import islice, takewhile
from typing import Any

from engine.client import Row
from engine.model import tables
from gui import formatting as fmt

MOST = 1_500
MOST_FILLS = 30_000
"""How many of the newest fills are looked through for those of a symbol."""
NEAR_PX = 9
EXIT_LEGS = frozenset({"stop", "target"})
REFUSED = frozenset({"refused", "rejected", "expired"})

Rows = dict[str, Row]
Mark = dict[str, Any]


def is_exit(fill: Row, orders: Rows, signals: Rows) -> bool:
    """Say whether a fill closed something: by its order's leg, or by what its signal wanted."""
    if fill.get("source") == "protective":
        return True
    order = orders.get(str(fill.get("cl_ord_id"))) or {}
    signal = signals.get(f"{fill.get('source')}/{fill.get('signal_id')}")
    if order.get("leg") in EXIT_LEGS or (signal or {}).get("action") == "close":
        return True
    return fill.get("source") == "operator" and signal is None


class FillMarks:
    """Fills of a symbol as marks, added up by bar and kind as they come: what has been read is not read again."""

    def __init__(self) -> None:
        self._asked: tuple[str, str, float] | None = None
        self._last = ""
        self._groups: dict[tuple[int, str, bool], list[float]] = {}
        self._made: dict[tuple[int, str, bool], Mark] = {}

    def forget(self) -> None:
        """Read all again with the next look: the table is another one."""
        self._asked = None

    def of(
        self, rows: Callable[[str], Rows], symbol: str, account: str, width: float
    ) -> list[Mark]:
        """Return ▲ of bought and ▼ of sold: full where it opened, hollow where it closed; size by how many.

        ``account``: of one, of all where it is empty; ``width``: of a bar (seconds).
        """
        fills, asked = rows(tables.FILLS), (symbol, account, width)
        if asked != self._asked or self._last not in fills:
            self._asked, self._last = asked, ""
            self._groups.clear()
            self._made.clear()
        fresh = takewhile(lambda key: key != self._last, islice(reversed(fills), MOST_FILLS))
        for key in reversed(list(fresh)):
            fill = fills[key]
            if fill["symbol"] == symbol and account in {"", fill["account"]}:
                self._add(fill, is_exit(fill, rows(tables.ORDERS), rows(tables.SIGNALS)), width)
        self._last = next(reversed(fills), "")
        for group, sums in self._groups.items():
            if group not in self._made:
                self._made[group] = _fill_mark(group, sums, width)
        marks = (self._made[group] for group in self._groups)
        return sorted(marks, key=lambda mark: float(mark["x"]))[-MOST:]

    def _add(self, fill: Row, leaves: bool, width: float) -> None:
        at, price = fmt.epoch(fill.get("at")), fmt.number(fill.get("last_px"))
        quantity = fmt.number(fill.get("last_qty"))
        if at is None or price is None or not quantity:
            return
        group = (int(at // width), str(fill["side"]), leaves)
        sums = self._groups.setdefault(group, [0.0, 0.0, 0.0])
        sums[0] += 1
        sums[1] += quantity
        sums[2] += price * quantity
        self._made.pop(group, None)


def _fill_mark(group: tuple[int, str, bool], sums: list[float], width: float) -> Mark:
    (bar, side, leaves), (count, total, worth) = group, sums
    average = worth / total
    what = f"{fmt.side(side)} {'exit' if leaves else 'entry'}"
    text = f"{what}  {fmt.quantity(f'{total:g}')} at {fmt.average_price(f'{average:.6f}')}"
    text += f"  {count:g} fills" if count > 1 else ""
    return {
        "x": (bar + 0.5) * width, "y": average, "symbol": "t1" if side == "buy" else "t",
        "size": 10 if count < 5 else 13, "tone": "accent" if side == "buy" else "warn", "full": not leaves,
        "text": text,
    }  # fmt: skip


def signal_marks(signals: Iterable[Row], price_at: Any, width: float) -> list[Mark]:
    """Return ◆ of signals that were acted on and ✕ of those that were not, where the price was when they came."""
    marks = []
    for row in signals:
        at = fmt.epoch(row.get("received_at"))
        if at is None:
            continue
        price = fmt.number(row.get("reference_price")) or price_at(at)
        if price is None:
            continue
        refused = row.get("state") in REFUSED
        text = f"Signal {row['id']}: {fmt.side(row['action'])}, {fmt.words(row['state'])}"
        marks.append({
            "x": (at // width + 0.5) * width, "y": price, "symbol": "x" if refused else "d", "size": 9,
            "tone": "muted" if refused else "text", "full": False, "text": text,
        })  # fmt: skip
    return marks[-MOST:]


def mark_near(marks: Iterable[Mark], where: tuple[float, float], pixel: tuple[float, float]) -> str:
    """Return what the mark at a place says, empty where there is none; ``pixel``: one's width and height there."""
    x, y = where
    near = (
        mark
        for mark in marks
        if abs(mark["x"] - x) < NEAR_PX * pixel[0] and abs(mark["y"] - y) < NEAR_PX * pixel[1]
    )
    return str(next(near, {}).get("text", ""))
