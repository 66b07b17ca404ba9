"""A day and its rerun side by side: signal × account, then and now; orders, fills, profit and latency in sums."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from decimal import Decimal
from typing import Any, Final

from engine.days import html
from engine.days.html import Cell, amount, number, section, table, text
from engine.days.recorded import RecordedDay
from engine.days.report import DayFigures, figures_of
from engine.documents import signal_from_document
from engine.recovery import record_from_entry
from engine.views import Row, signal_detail

SHOWN: Final = ("outcome", "code", "order_qty", "cum_qty", "avg_px", "status")
CSV_COLUMNS: Final = (
    "signal", "symbol", "action", "account", "changed",
    *(f"{name}_{when}" for name in (*SHOWN, "ack_us") for when in ("then", "now")),
)  # fmt: skip
_EXACT: Final = ("outcome", "code", "order_qty", "cum_qty", "status")
_MOST: Final = 2_000


@dataclass(slots=True)
class Line:
    """One signal for one account."""

    signal: str
    symbol: str
    action: str
    account: str
    then: Row = field(default_factory=dict)
    now: Row = field(default_factory=dict)

    @property
    def changed(self) -> bool:
        """Say whether it came out otherwise: outcome, reason, quantity, fill or state; prices are told beside."""
        return any(self.then.get(name) != self.now.get(name) for name in _EXACT)


@dataclass(slots=True)
class Comparison:
    """Both days, counted and side by side; ``notes``: where the run is not exact."""

    then: DayFigures
    now: DayFigures
    lines: list[Line]
    notes: list[str]

    def summary(self) -> dict[str, Any]:
        """Return the sums, as JSON takes them."""
        changed = [line for line in self.lines if line.changed]
        return {
            "day": str(self.then.day.day),
            "signals": {"then": self.then.signals.total(), "now": self.now.signals.total()},
            "lines": len(self.lines),
            "changed": len(changed),
            "outcomes": {when: _counts(self.lines, when) for when in ("then", "now")},
            "orders": {"then": len(self.then.orders), "now": len(self.now.orders)},
            "fills": {"then": len(self.then.fills), "now": len(self.now.fills)},
            "pnl": {when: f"{one.total.total:.2f}" for when, one in self._both()},
            "latency_us": {when: one.latency for when, one in self._both()},
            "notes": self.notes,
        }

    def _both(self) -> tuple[tuple[str, DayFigures], tuple[str, DayFigures]]:
        return (("then", self.then), ("now", self.now))

    def rows(self) -> Iterable[dict[str, Any]]:
        """Return every line flat, for CSV and JSON."""
        for line in self.lines:
            row: dict[str, Any] = {
                "signal": line.signal, "symbol": line.symbol, "action": line.action, "account": line.account,
                "changed": line.changed,
            }  # fmt: skip
            for name in (*SHOWN, "ack_us"):
                row[f"{name}_then"], row[f"{name}_now"] = line.then.get(name), line.now.get(name)
            yield row


def compare(then: RecordedDay, now: RecordedDay, notes: list[str]) -> Comparison:
    """Put a day beside its rerun. Open positions of both are valued at their last fill, so that both say the same."""
    lines: dict[tuple[str, str], Line] = {}
    for when, day in (("then", then), ("now", now)):
        for line, row in _lines(day):
            known = lines.setdefault((line.signal, line.account), line)
            setattr(known, when, row)
    valued = replace(then, lines=[])
    return Comparison(figures_of(valued), figures_of(now), list(lines.values()), notes)


def _lines(day: RecordedDay) -> Iterable[tuple[Line, Row]]:
    orders = {kept.order.cl_ord_id: kept.order for kept in day.orders}
    acks = {kept.order.cl_ord_id: kept.ack_us for kept in day.orders}
    for entry in day.signals:
        signal = signal_from_document(entry.body, entry.body_hash)
        detail = signal_detail(record_from_entry(entry, signal, orders))
        for row in detail["accounts"]:
            shown = {name: row.get(name) for name in SHOWN}
            shown["ack_us"] = acks.get(row["cl_ord_id"] or "")
            yield Line(signal.key, signal.symbol, signal.action.value, row["account"]), shown


def _counts(lines: list[Line], when: str) -> dict[str, int]:
    rows = (getattr(line, when) for line in lines)
    return dict(Counter(str(row.get("outcome") or "absent") for row in rows).most_common())


# ---- as a page -------------------------------------------------------------------------------------------------------


def comparison_page(made: Comparison) -> str:
    """Return the comparison as a page: sums, latency, then every line that came out otherwise."""
    facts = made.summary()
    changed = [line for line in made.lines if line.changed]
    title = f"Volley: {facts['day']} run again"
    about = f"Book {made.then.day.book}. {facts['lines']:,} lines of signal and account, {len(changed):,} otherwise."
    return html.page(title, about, [
        section("Side by side", _sums(made, facts)),
        section("Outcomes", _outcomes(facts["outcomes"])),
        section("Latency (microseconds)", _latency(made)),
        section("What came out otherwise", _table(changed) or html.quiet("Nothing: each is as it was.")),
        section("The same as on the day", _table([line for line in made.lines if not line.changed])),
        section("Not exact", *(html.quiet(note) for note in made.notes)),
    ])  # fmt: skip


def _sums(made: Comparison, facts: dict[str, Any]) -> str:
    rows = [
        [text(name.capitalize()), number(facts[name]["then"]), number(facts[name]["now"])]
        for name in ("signals", "orders", "fills")
    ]
    then, now = made.then.total.total, made.now.total.total
    rows.append(
        [
            text("P&L, open positions at their last fill"),
            amount(then, signed=True),
            amount(now, signed=True),
        ]
    )
    return table(("", "Then#", "Now#"), rows)


def _outcomes(counts: dict[str, dict[str, int]]) -> str:
    names = sorted(set(counts["then"]) | set(counts["now"]))
    return table(
        ("Outcome", "Then#", "Now#"),
        (
            [text(name), number(counts["then"].get(name, 0)), number(counts["now"].get(name, 0))]
            for name in names
        ),
    )


def _latency(made: Comparison) -> str:
    names = sorted(set(made.then.latency) | set(made.now.latency))
    if not names:
        return html.quiet("Nothing was measured.")
    return table(
        ("Stage", "Then p50#", "Now p50#", "Then p99#", "Now p99#"),
        (
            [
                text(name),
                *(
                    number(one.latency.get(name, {}).get(at))
                    for at in ("p50", "p99")
                    for one in (made.then, made.now)
                ),
            ]
            for name in names
        ),
    )


def _table(lines: list[Line]) -> str:
    if not lines:
        return ""
    titles = ("Signal", "Symbol", "Account", "Then", "Now", "Qty then#", "Qty now#", "Price then#", "Price now#",
              "Ack then#", "Ack now#")  # fmt: skip
    body = table(titles, map(_cells, lines[:_MOST]))
    left = len(lines) - _MOST
    return body + (html.quiet(f"{left:,} more: CSV and JSON have them all.") if left > 0 else "")


def _cells(line: Line) -> list[Cell]:
    then, now = line.then, line.now
    return [
        text(line.signal), text(f"{line.action} {line.symbol}"), text(line.account), text(_word(then)),
        text(_word(now), "changed" if _word(then) != _word(now) else ""), number(_filled(then)), number(_filled(now)),
        number(_price(then)), number(_price(now)), number(then.get("ack_us")), number(now.get("ack_us")),
    ]  # fmt: skip


def _word(row: Row) -> str:
    if not row:
        return "no such account"
    return " ".join(str(row[name]) for name in ("outcome", "status", "code") if row.get(name))


def _filled(row: Row) -> str | None:
    ordered, filled = row.get("order_qty"), row.get("cum_qty")
    return ordered if ordered == filled else f"{filled} of {ordered}"


def _price(row: Row) -> Decimal | None:
    return round(Decimal(row["avg_px"]), 6) if row.get("avg_px") else None
