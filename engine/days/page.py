"""The report of a day and an account's statement, as pages and as CSV."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from datetime import datetime
from decimal import Decimal
from typing import Any, Final
from zoneinfo import ZoneInfo

from engine.clock import rfc3339
from engine.days import html
from engine.days.charts import bar_chart, line_chart
from engine.days.html import Cell, amount, number, section, table, text
from engine.days.recorded import Told
from engine.days.report import DayFigures, Sum, title_of
from engine.model.numbers import ZERO, to_text

MOST_ROWS: Final = 500
"""Lines of a list in the report of the whole day; a statement has them all."""
_STAGES: Final = {
    "send": "Order: plan durable to last byte",
    "ack": "Order: last byte to the broker's answer",
    "last_byte": "Signal: received to the last order's last byte",
    "last_ack": "Signal: received to the last answer",
}
_SUMS: Final = (
    "Orders#",
    "Filled#",
    "Fills#",
    "Bought#",
    "Sold#",
    "Realised#",
    "Open P&L change#",
    "P&L of the day#",
)
_HOW: Final = {
    "signal": "Whole signal", "skipped": "Account passed over", "refused": "Account refused",
    "denied": "Order not sent", "rejected": "Rejected by the broker",
}  # fmt: skip


def day_page(made: DayFigures) -> str:
    """Return the report of a day over all accounts."""
    title = f"Volley: report of {made.day.day}"
    return html.page(title, _about(made), [*_overview(made), *_lists(made, MOST_ROWS)])


def statement_page(made: DayFigures) -> str:
    """Return the statement of one account."""
    title = f"Volley: statement of {made.account}, {made.day.day}"
    return html.page(title, _about(made), [*_overview(made), *_lists(made, None)])


def _about(made: DayFigures) -> str:
    day = made.day
    return (
        f"Book {day.book}, {day.day} in {day.zone} ({day.begin[:16]}Z to {day.end[:16]}Z). Made from the journal; "
        f"times are {day.zone}."
    )


def _overview(made: DayFigures) -> list[str]:
    zone = ZoneInfo(made.day.zone)
    return [
        section("At a glance", _glance(made)),
        section("Equity", line_chart("Equity", made.equity, zone)),
        section(
            "Profit and loss over the day",
            line_chart("Profit and loss", made.pnl, zone, steps=not made.recorded),
            "" if made.recorded else html.quiet("Realised only, from the fills: the engine's own are not recorded."),
        ),
        *(
            section(f"By {name}", _chart(f"P&L by {name}", sums), _sum_table(name.capitalize(), sums, made.total))
            for name, sums in (
                *((("account", made.by_account),) if not made.account else ()),
                ("strategy", made.by_strategy), ("symbol", made.by_symbol),
            )
            if sums
        ),
        section("Refusals by code", _refusals(made)),
        section("Latency", _latency(made)),
    ]  # fmt: skip


def _glance(made: DayFigures) -> str:
    total = made.total
    rows = [
        ("Profit or loss of the day", amount(total.total, signed=True)),
        ("of it realised", amount(total.realised, signed=True)),
        (_told("First equity recorded", made, made.opening_equity), _equity(made.opening_equity)),
        (_told("Last equity recorded", made, made.closing_equity), _equity(made.closing_equity)),
        ("Signals", text(_counts(made.signals), "n")),
        ("Orders", text(_counts(made.statuses), "n")),
        ("Fills", number(len(made.fills))),
        ("Bought / sold", text(f"{total.bought:,.2f} / {total.sold:,.2f}", "n")),
        ("Kept by brokers as fees, in kind", text(_fees(made), "n")),
        ("Kills, flattens and re-arms", number(len(made.kills))),
    ]
    return table(("", "#"), ([text(name), cell] for name, cell in rows))


def _told(name: str, made: DayFigures, told: tuple[str, str] | None) -> str:
    return f"{name} ({_clock(made, told[0])})" if told else name


def _equity(told: tuple[str, str] | None) -> Cell:
    return amount(None if told is None else Decimal(told[1]))


def _counts(counts: Counter[str]) -> str:
    named = ", ".join(f"{count:,} {name.replace('_', ' ')}" for name, count in counts.most_common())
    return f"{counts.total():,} ({named})" if named else "0"


def _fees(made: DayFigures) -> str:
    by_symbol: dict[str, Decimal] = {}
    for (_, symbol), quantity in made.fees.items():
        by_symbol[symbol] = by_symbol.get(symbol, ZERO) + quantity
    return ", ".join(
        f"{to_text(quantity)} of {symbol}" for symbol, quantity in sorted(by_symbol.items())
    )


def _chart(title: str, sums: dict[str, Sum]) -> str:
    worth = sorted(sums.items(), key=lambda item: -abs(item[1].total))[:12]
    bars = sorted(
        ((name, float(one.total)) for name, one in worth if one.total), key=lambda bar: -bar[1]
    )
    return bar_chart(title, bars)


def _sum_table(title: str, sums: dict[str, Sum], total: Sum) -> str:
    rows = [(text(name), one) for name, one in sorted(sums.items())]
    return table(
        (title, *_SUMS),
        ([name, *_sum_cells(one)] for name, one in [*rows, (text("All"), total)]),
        last_is_sum=True,
    )


def _sum_cells(one: Sum) -> list[Cell]:
    return [
        number(one.orders), number(one.filled), number(one.fills), amount(one.bought), amount(one.sold),
        amount(one.realised, signed=True), amount(one.open_change, signed=True), amount(one.total, signed=True),
    ]  # fmt: skip


def _refusals(made: DayFigures) -> str:
    if not made.refusals:
        return html.quiet("None.")
    rows = sorted(made.refusals.items(), key=lambda item: (-item[1], item[0]))
    return table(
        ("What", "Code", "Meaning", "Times#"),
        (
            [text(_HOW.get(how, how)), text(code), text(title_of(code), "quiet"), number(count)]
            for (how, code), count in rows
        ),
    )


def _latency(made: DayFigures) -> str:
    if not made.latency:
        return html.quiet("Nothing was measured.")
    return table(
        ("Stage (microseconds)", "Count#", "p50#", "p90#", "p99#", "p99.9#", "Most#"),
        (
            [
                text(_STAGES[name]),
                *(number(row[at]) for at in ("count", "p50", "p90", "p99", "p999", "max")),
            ]
            for name, row in made.latency.items()
        ),
    )


def _lists(made: DayFigures, most: int | None) -> list[str]:
    return [
        section("Positions", _positions(made)),
        section("Kills", _acts(made, made.kills)),
        section("Notes", _notes(made)),
        section("Alerts", _alerts(made)),
        section("Who did what", _acts(made, made.acts) or html.quiet("No command was given.")),
        section("Fills", _fills(made, most)),
        section("Orders", _orders(made, most)),
    ]


def _positions(made: DayFigures) -> str:
    if not made.held:
        return html.quiet("None, neither at the begin nor at the end.")
    unpriced = sorted({held.symbol for held in made.held if held.closing_qty} & made.approximate)
    return table(
        ("Account", "Symbol", "At the begin#", "At the end#", "Avg price#", "Last price#", "Value#", "Open P&L#"),
        (
            [text(one.account), text(one.symbol), number(to_text(one.opening_qty)), number(to_text(one.closing_qty)),
             number(to_text(round(one.avg_px, 6)) if one.closing_qty else None),
             number(None if one.price is None else to_text(one.price)), amount(one.value),
             amount(one.unrealised, signed=True)]
            for one in made.held
        ),
    ) + (
        html.quiet(f"Valued at their last fill, no price was recorded: {', '.join(unpriced)}.") if unpriced else ""
    )  # fmt: skip


def _clock(made: DayFigures, stamp: str | datetime | None) -> str:
    if not stamp:
        return ""
    moment = datetime.fromisoformat(stamp) if isinstance(stamp, str) else stamp
    return moment.astimezone(ZoneInfo(made.day.zone)).strftime("%H:%M:%S.%f")[:-3]


def _acts(made: DayFigures, acts: list[Told]) -> str:
    if not acts:
        return ""
    return table(
        ("Time", "Who", "Role", "Command", "With", "Refused"),
        (
            [text(_clock(made, told.at)), text(told.facts.get("by")), text(told.facts.get("role"), "quiet"),
             text(told.facts.get("command")), text(_with(told.facts.get("body") or {})),
             text(told.facts.get("refused") or "")]
            for told in acts[:MOST_ROWS]
        ),
    ) + _more(acts, MOST_ROWS)  # fmt: skip


def _with(body: dict[str, Any]) -> str:
    given = {
        name: value
        for name, value in body.items()
        if name not in {"id", "command", "pin"} and value not in (None, "")
    }
    return ", ".join(f"{name} {value}" for name, value in given.items())[:300]


def _more(rows: list[Any], most: int | None) -> str:
    left = len(rows) - most if most is not None else 0
    return (
        html.quiet(f"{left:,} more: volley export, or an account's statement, has them all.")
        if left > 0
        else ""
    )


def _notes(made: DayFigures) -> str:
    rows = []
    for key, note in sorted(made.day.notes.items(), key=lambda item: item[1]["at"]):
        of_day = made.day.begin <= note["at"] < made.day.end
        if of_day and (not made.account or f"/{made.account}/" in key):
            tags = ", ".join(note["tags"])
            rows.append(
                [
                    text(_clock(made, note["at"])),
                    text(note["by"]),
                    text(key),
                    text(tags),
                    text(note["text"]),
                ]
            )
    return table(("Time", "Who", "About", "Tags", "Note"), rows) if rows else ""


def _alerts(made: DayFigures) -> str:
    if not made.alerts:
        return html.quiet("None.")
    return table(
        ("Time", "Severity", "Code", "Account", "What", "Times#", "Seen"),
        (
            [text(_clock(made, row["at"])), text(row["severity"]), text(row.get("code")), text(row.get("account")),
             text(row["text"]), number(row.get("count", 1)), text(_clock(made, row.get("acknowledged_at")))]
            for row in made.alerts[:MOST_ROWS]
        ),
    ) + _more(made.alerts, MOST_ROWS)  # fmt: skip


def _fills(made: DayFigures, most: int | None) -> str:
    if not made.fills:
        return html.quiet("None.")
    return table(
        ("Time", "Account", "Side", "Symbol", "Quantity#", "Price#", "Value#", "Fee in kind#", "Strategy", "ClOrdID"),
        (
            [text(_clock(made, fill.at)), text(fill.account), text(fill.side.value), text(fill.symbol),
             number(to_text(fill.last_qty)), number(to_text(fill.last_px)), amount(fill.last_qty * fill.last_px),
             number(to_text(fill.fee_qty) if fill.fee_qty else None), text(fill.strategy, "quiet"),
             text(fill.cl_ord_id, "quiet")]
            for fill in made.fills[:most]
        ),
    ) + _more(made.fills, most)  # fmt: skip


def _orders(made: DayFigures, most: int | None) -> str:
    if not made.orders:
        return html.quiet("None.")
    return table(
        ("Time", "Account", "Side", "Symbol", "Type", "Quantity#", "Filled#", "Avg price#", "Status", "Code", "Signal"),
        (
            [text(_clock(made, order.created_at)), text(order.account), text(order.side.value), text(order.symbol),
             text(order.order_type.value), number(to_text(order.order_qty)), number(to_text(order.cum_qty)),
             number(to_text(round(order.avg_px, 6)) if order.cum_qty else None), text(order.status.value),
             text(order.code), text(f"{order.source}/{order.signal_id}", "quiet")]
            for order in (kept.order for kept in made.orders[:most])
        ),
    ) + _more(made.orders, most)  # fmt: skip


# ---- CSV -----------------------------------------------------------------------------------------------------------

CSV_COLUMNS: Final = (
    "line", "at", "account", "symbol", "side", "quantity", "price", "value", "fee_quantity", "strategy", "status",
    "code", "cl_ord_id", "exec_id",
)  # fmt: skip


def statement_rows(made: DayFigures) -> Iterable[dict[str, Any]]:
    """Return the lines of a statement: equity, positions, fills, orders, sums. Amounts are exact."""
    for line, told in (
        ("opening_equity", made.opening_equity),
        ("closing_equity", made.closing_equity),
    ):
        if told is not None:
            yield {"line": line, "at": told[0], "account": made.account, "value": told[1]}
    for held in made.held:
        for line, stamp, quantity in (("opening_position", made.day.begin, held.opening_qty),
                                      ("closing_position", made.day.end, held.closing_qty)):  # fmt: skip
            price = held.price if line == "closing_position" else None
            yield {
                "line": line, "at": stamp, "account": held.account, "symbol": held.symbol,
                "quantity": to_text(quantity),
                "price": None if price is None else to_text(price),
                "value": None if price is None else to_text(price * quantity),
            }  # fmt: skip
    for fill in made.fills:
        yield {
            "line": "fill", "at": rfc3339(fill.at), "account": fill.account, "symbol": fill.symbol,
            "side": fill.side.value, "quantity": to_text(fill.last_qty), "price": to_text(fill.last_px),
            "value": to_text(fill.last_qty * fill.last_px), "fee_quantity": to_text(fill.fee_qty),
            "strategy": fill.strategy, "cl_ord_id": fill.cl_ord_id, "exec_id": fill.exec_id,
        }  # fmt: skip
    for order in (kept.order for kept in made.orders):
        yield {
            "line": "order", "at": rfc3339(order.created_at), "account": order.account, "symbol": order.symbol,
            "side": order.side.value, "quantity": to_text(order.order_qty), "strategy": order.strategy,
            "status": order.status.value, "code": order.code, "cl_ord_id": order.cl_ord_id,
        }  # fmt: skip
    for symbol, one in sorted(made.by_symbol.items()):
        yield {"line": "realised", "at": made.day.end, "account": made.account, "symbol": symbol,
               "value": to_text(one.realised)}  # fmt: skip
    yield {
        "line": "pnl",
        "at": made.day.end,
        "account": made.account,
        "value": to_text(made.total.total),
    }
