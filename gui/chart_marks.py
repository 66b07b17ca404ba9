"""Fills and signals of a symbol as marks on its chart: those of one bar and kind share one. No drawing here."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from engine.client import Row
from gui import formatting as fmt

MOST = 1_500
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


def fill_marks(
    fills: Iterable[Row], orders: Rows, signals: Rows, width: float, account: str = ""
) -> list[Mark]:
    """Return ▲ of bought and ▼ of sold: full where it opened, hollow where it closed; size by how many."""
    groups: dict[tuple[int, str, bool], list[tuple[float, float]]] = {}
    for fill in fills:
        if account not in {"", fill["account"]}:
            continue
        at, price = fmt.epoch(fill.get("at")), fmt.number(fill.get("last_px"))
        quantity = fmt.number(fill.get("last_qty"))
        if at is None or price is None or not quantity:
            continue
        key = (int(at // width), fill["side"], is_exit(fill, orders, signals))
        groups.setdefault(key, []).append((price, quantity))
    marks = []
    for (bar, side, leaves), found in groups.items():
        total = sum(quantity for _, quantity in found)
        average = sum(price * quantity for price, quantity in found) / total
        what = f"{fmt.side(side)} {'exit' if leaves else 'entry'}"
        text = f"{what}  {fmt.quantity(f'{total:g}')} at {fmt.average_price(f'{average:.6f}')}"
        text += f"  {len(found)} fills" if len(found) > 1 else ""
        marks.append({
            "x": (bar + 0.5) * width, "y": average, "symbol": "t1" if side == "buy" else "t",
            "size": 10 if len(found) < 5 else 13, "tone": "accent" if side == "buy" else "warn", "full": not leaves,
            "text": text,
        })  # fmt: skip
    return sorted(marks, key=lambda mark: float(mark["x"]))[-MOST:]


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
