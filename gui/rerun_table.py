"""A day and its rerun side by side: the result's file read, and its tables: sums above, signal by account below."""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import dataclass
from decimal import Decimal, InvalidOperation
from pathlib import Path
from typing import Any, Final

from engine.client import Row
from gui import columns as col
from gui import formatting as fmt
from gui.table_model import Column

SAME, OTHER = "= same", "≠ other"
_MOST_BYTES: Final = 1 << 30


class NoComparisonError(ValueError):
    """A file is no result of a rerun; the text says why."""


@dataclass(frozen=True, slots=True)
class Compared:
    """What a rerun's file holds: the day, its sums and its lines as rows by key, and where the run is not exact."""

    day: str
    sums: dict[str, Row]
    lines: dict[str, Row]
    notes: list[str]

    @property
    def changed(self) -> int:
        """Return how many lines came out otherwise."""
        return sum(bool(row["changed"]) for row in self.lines.values())


def read(path: Path) -> Compared:
    """Read a rerun's file (``main.py replay … -o FILE.json``).

    Raises:
        NoComparisonError: it cannot be read, or is something else.
    """
    try:
        if path.stat().st_size > _MOST_BYTES:
            raise NoComparisonError(f"{path}: too large")
        found = json.loads(path.read_text("utf-8"))
    except OSError as error:
        raise NoComparisonError(f"{path}: {error.strerror or error}") from None
    except ValueError:
        raise NoComparisonError(f"{path}: expected JSON, as a rerun writes it") from None
    try:
        lines = {f"{row['signal']} {row['account']}": _line(row) for row in found["rows"]}
        sums = {row["key"]: row for row in _sums(found)}
        return Compared(str(found["day"]), sums, lines, [str(note) for note in found["notes"]])
    except (KeyError, TypeError, AttributeError):
        raise NoComparisonError(f"{path}: this JSON is no result of a rerun") from None


# ---- sums ------------------------------------------------------------------------------------------------------------


def _sums(found: dict[str, Any]) -> Iterable[Row]:
    for name, title in (("signals", "Signals"), ("orders", "Orders"), ("fills", "Fills")):
        yield _sum(name, title, "count", found[name]["then"], found[name]["now"])
    then, now = found["outcomes"]["then"], found["outcomes"]["now"]
    for name in sorted({*then, *now}):
        title = f"Outcome: {fmt.words(name).lower()}"
        yield _sum(f"outcome.{name}", title, "count", then.get(name, 0), now.get(name, 0))
    pnl = found["pnl"]
    yield _sum("pnl", "Profit or loss", "money", pnl["then"], pnl["now"])
    then, now = found["latency_us"]["then"], found["latency_us"]["now"]
    for name in sorted({*then, *now}):
        for at in ("p50", "p99"):
            both = ((one.get(name) or {}).get(at) for one in (then, now))
            yield _sum(
                f"latency.{name}.{at}", f"Latency: {fmt.words(name).lower()} {at}", "time", *both
            )


def _sum(key: str, title: str, unit: str, then: object, now: object) -> Row:
    return {
        "key": key,
        "title": title,
        "unit": unit,
        "then": then,
        "now": now,
        "gap": _gap(then, now),
    }


def _write(unit: str, value: object) -> str:
    if value is None:
        return fmt.NONE
    if unit == "time":
        return fmt.micros(value)
    return fmt.pnl(value) if unit == "money" else fmt.count(value)


def _write_gap(unit: str, gap: str | None) -> str:
    """Write a difference with its sign; none is said by ``=``."""
    number = fmt.number(gap)
    if number is None:
        return fmt.NONE
    if not number:
        return "="
    sign = "+" if number > 0 else "−"
    if unit == "time":
        return f"{sign}{fmt.micros(abs(number))}"
    return fmt.pnl(gap) if unit == "money" else f"{sign}{fmt.quantity(str(gap).lstrip('-'))}"


def _gap_tone(row: Row) -> str:
    return "warn" if fmt.number(row.get("gap")) else "muted"


SUM_COLUMNS: Final = (
    col.text("title", "What", 210),
    Column("then", "Then", 110, "number", text=lambda row: _write(row["unit"], row.get("then"))),
    Column("now", "Now", 110, "number", text=lambda row: _write(row["unit"], row.get("now"))),
    Column("gap", "Difference", 110, "number", text=lambda row: _write_gap(row["unit"], row.get("gap")),
           tone=_gap_tone, about="Now less then, with its sign; = is none"),
)  # fmt: skip


# ---- lines -----------------------------------------------------------------------------------------------------------

_CAME: Final = ("outcome", "code", "order_qty", "cum_qty", "status")


def _line(row: Row) -> Row:
    """Add what is only shown: the differences, in words and with their signs."""
    made = {
        **row,
        "key": f"{row['signal']} {row['account']}",
        "cum_qty_gap": _gap(row["cum_qty_then"] or 0, row["cum_qty_now"] or 0),
        "avg_px_gap": _gap(row["avg_px_then"], row["avg_px_now"]),
        "ack_us_gap": _gap(row["ack_us_then"], row["ack_us_now"]),
    }
    return {**made, "what": _words(made)}


def _gap(then: object, now: object) -> str | None:
    """Return by how much more it is now; nothing where one of them is not there."""
    try:
        gap = Decimal(str(now)) - Decimal(str(then))
    except InvalidOperation:
        return None
    return format(gap.normalize(), "f") if gap else "0"


def _words(row: Row) -> str:
    """Return what came out otherwise, in a line."""
    said = []
    then, now = _outcome(row, "then"), _outcome(row, "now")
    if then != now:
        said.append(f"{then} → {now}")
    elif row["status_then"] != row["status_now"]:
        said.append(
            " → ".join(fmt.words(row[f"status_{when}"]).lower() for when in ("then", "now"))
        )
    for name, title in (("cum_qty", "filled"), ("avg_px", "price")):
        gap = row[f"{name}_gap"]
        if gap not in (None, "0"):
            said.append(f"{title} {_write_gap('quantity', gap)}")
    if not said and row["changed"]:
        differs = [name for name in _CAME if row[f"{name}_then"] != row[f"{name}_now"]]
        said.append(", ".join(fmt.words(name).lower() for name in differs))
    return " · ".join(said)


def _outcome(row: Row, when: str) -> str:
    outcome = row[f"outcome_{when}"]
    if not outcome:
        return "absent"
    code = row[f"code_{when}"]
    word = fmt.words(outcome).lower()
    return f"{word} ({col.code_title(code)})" if code else word


def _pair(name: str, title: str, width: int, write: Any) -> tuple[Column, Column]:
    """Return the two columns of one thing, then and now; what is other now is in another ink."""

    def made(when: str) -> Column:
        key = f"{name}_{when}"
        return Column(
            key, f"{title} {when}", width, "number", text=lambda row: write(row.get(key)), tone=tone
        )

    def tone(row: Row) -> str:
        return "muted" if row.get(f"{name}_then") == row.get(f"{name}_now") else ""

    return made("then"), made("now")


def _signed(name: str, title: str, unit: str) -> Column:
    key = f"{name}_gap"
    return Column(key, title, 72, "number", text=lambda row: _write_gap(unit, row.get(key)),
                  tone=lambda row: "warn" if fmt.number(row.get(key)) else "muted",
                  about="Now less then, with its sign; = is none")  # fmt: skip


LINE_COLUMNS: Final = (
    Column("changed", "Came out", 84, "chip", text=lambda row: OTHER if row.get("changed") else SAME,
           raw=lambda row: int(bool(row.get("changed"))), tone=lambda row: "warn" if row.get("changed") else "muted",
           about="Other: outcome, reason, quantity, fill or state; prices and times are told beside"),
    col.text("signal", "Signal", 110),
    col.text("symbol", "Symbol", 66),
    col.side("action", "Action"),
    col.text("account", "Account", 70),
    Column("outcome_then", "Outcome then", 118, text=lambda row: _outcome(row, "then")),
    Column("outcome_now", "Outcome now", 118, text=lambda row: _outcome(row, "now"),
           tone=lambda row: "warn" if _outcome(row, "then") != _outcome(row, "now") else ""),
    *_pair("cum_qty", "Filled", 80, fmt.short_quantity),
    _signed("cum_qty", "Filled ±", "quantity"),
    *_pair("avg_px", "Price", 80, fmt.average_price),
    _signed("avg_px", "Price ±", "quantity"),
    *_pair("ack_us", "Ack", 74, lambda value: fmt.NONE if value is None else fmt.micros(value)),
    _signed("ack_us", "Ack ±", "time"),
    *_pair("order_qty", "Ordered", 92, fmt.short_quantity),
    col.text("what", "What differs", 260, tip=lambda row: str(row.get("what") or "")),
)  # fmt: skip
