"""What a day came to: figures by account, strategy and symbol, orders, refusals, latencies, who did what.

Every figure is exact and comes from the journal: profits from fills at the prices they were made at, open positions
at the last price known at that moment (the record of the day, else the last fill of the symbol). Fees are those that
brokers take in kind (``fee_qty``); what they charge in money beside the trades is in their own statements.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable
from copy import copy
from dataclasses import dataclass, field
from datetime import datetime
from decimal import Decimal
from typing import Any

from engine.days.recorded import KeptOrder, PositionKey, RecordedDay, Told, apply_fill
from engine.model.codes import CODES
from engine.model.enums import OrderStatus
from engine.model.messages import Fill
from engine.model.numbers import ZERO
from engine.model.position import Position
from engine.telemetry.histograms import Histogram

Point = tuple[float, float]


@dataclass(slots=True)
class Sum:
    """Figures of one account, strategy or symbol."""

    orders: int = 0
    filled: int = 0
    fills: int = 0
    bought: Decimal = ZERO
    sold: Decimal = ZERO
    realised: Decimal = ZERO
    """Of the day."""
    open_change: Decimal = ZERO
    """How the profit of what is open changed over the day."""

    @property
    def total(self) -> Decimal:
        """Return the profit or loss of the day."""
        return self.realised + self.open_change


@dataclass(slots=True)
class Held:
    """A position at the begin and the end of the day."""

    account: str
    symbol: str
    opening_qty: Decimal
    closing_qty: Decimal
    avg_px: Decimal
    price: Decimal | None
    value: Decimal
    unrealised: Decimal


@dataclass(slots=True)
class DayFigures:
    """Everything a report shows."""

    day: RecordedDay
    account: str = ""
    signals: Counter[str] = field(default_factory=Counter)
    statuses: Counter[str] = field(default_factory=Counter)
    refusals: Counter[tuple[str, str]] = field(default_factory=Counter)
    """How often by (what: signal, skipped, refused, denied, rejected; code)."""
    by_account: dict[str, Sum] = field(default_factory=dict)
    by_strategy: dict[str, Sum] = field(default_factory=dict)
    by_symbol: dict[str, Sum] = field(default_factory=dict)
    total: Sum = field(default_factory=Sum)
    held: list[Held] = field(default_factory=list)
    fees: dict[PositionKey, Decimal] = field(default_factory=dict)
    """Units a broker kept, by account and symbol."""
    latency: dict[str, dict[str, int | None]] = field(default_factory=dict)
    equity: list[Point] = field(default_factory=list)
    pnl: list[Point] = field(default_factory=list)
    opening_equity: tuple[str, str] | None = None
    """When the first of the day was recorded, and what it was."""
    closing_equity: tuple[str, str] | None = None
    recorded: bool = False
    """Whether ``pnl`` is as the engine told it; else what the fills realised."""
    alerts: list[dict[str, Any]] = field(default_factory=list)
    acts: list[Told] = field(default_factory=list)
    kills: list[Told] = field(default_factory=list)
    orders: list[KeptOrder] = field(default_factory=list)
    fills: list[Fill] = field(default_factory=list)
    approximate: set[str] = field(default_factory=set)
    """Symbols valued at their last fill: no price of the end of the day was recorded."""


def figures_of(day: RecordedDay, account: str = "") -> DayFigures:
    """Count and add up a day; ``account``: of this one only."""
    made = DayFigures(day, account)
    mine: Callable[[str], bool] = (
        (lambda name: name == account) if account else (lambda _name: True)
    )
    made.orders = [kept for kept in day.orders if mine(kept.order.account)]
    made.fills = [fill for fill in day.fills if mine(fill.account)]
    _count_signals(made, mine)
    _count_orders(made)
    _add_up(made, mine)
    _add_latency(made)
    _add_curves(made)
    _add_alerts(made, mine)
    _add_acts(made, mine)
    return made


def _count_signals(made: DayFigures, mine: Callable[[str], bool]) -> None:
    for entry in made.day.signals:
        touched = not made.account or _names(entry.plan, made.account)
        if touched:
            made.signals[entry.state] += 1
        if entry.code and touched:
            made.refusals["signal", entry.code] += 1
        for how, code, _, accounts in entry.plan.get("reasons", ()):
            made.refusals[how, code] += sum(map(mine, accounts))


def _names(plan: dict[str, Any], account: str) -> bool:
    """Say whether a plan has anything for an account but that it was passed over."""
    orders = any(row[1] == account for *_, rows in plan.get("orders", ()) for row in rows)
    others = (*plan.get("held", ()), *plan.get("cancels", ()), *plan.get("done", ()))
    refused = any(
        how == "refused" and account in names for how, _, _, names in plan.get("reasons", ())
    )
    return orders or account in others or refused


def _count_orders(made: DayFigures) -> None:
    for kept in made.orders:
        order = kept.order
        made.statuses[order.status.value] += 1
        if order.status is OrderStatus.DENIED:
            made.refusals["denied", order.code or "?"] += 1
        elif order.status is OrderStatus.REJECTED:
            made.refusals["rejected", order.code or "REJECTED"] += 1
        for one in _sums(made, order.account, order.strategy, order.symbol):
            one.orders += 1
            one.filled += order.status is OrderStatus.FILLED
    made.refusals = Counter({key: count for key, count in made.refusals.items() if count})


def _sums(made: DayFigures, account: str, strategy: str, symbol: str) -> Iterable[Sum]:
    return (
        made.by_account.setdefault(account, Sum()),
        made.by_strategy.setdefault(strategy or "(none)", Sum()),
        made.by_symbol.setdefault(symbol, Sum()),
        made.total,
    )


def _add_up(made: DayFigures, mine: Callable[[str], bool]) -> None:
    """Follow every position through the day; its profit goes to the strategy of the newest fill that opened it."""
    opening = {key: copy(position) for key, position in made.day.opening.items() if mine(key[0])}
    now = {key: copy(position) for key, position in opening.items()}
    first, last = _prices(made)
    owner: dict[PositionKey, str] = {}
    for fill in made.fills:
        key = fill.account, fill.symbol
        before = now[key].realised if key in now else ZERO
        was_flat = key not in now or not now[key].qty
        position = apply_fill(now, fill)
        if was_flat or key not in owner:
            owner[key] = fill.strategy
        gained = position.realised - before
        value = fill.last_qty * fill.last_px
        for one in _sums(made, fill.account, owner[key] or fill.strategy, fill.symbol):
            one.fills += 1
            one.realised += gained
            if fill.side.sign > 0:
                one.bought += value
            else:
                one.sold += value
        if fill.fee_qty:
            made.fees[key] = made.fees.get(key, ZERO) + fill.fee_qty
    for key, position in sorted(now.items()):
        _close(made, opening.get(key), position, (first, last), owner.get(key, ""))


def _close(
    made: DayFigures,
    before: Position | None,
    position: Position,
    prices: tuple[dict[str, Decimal], dict[str, Decimal]],
    owner: str,
) -> None:
    (first, last), account, symbol = prices, position.account, position.symbol
    held = before.qty if before is not None else ZERO
    if not held and not position.qty:
        return
    price = last.get(symbol)
    valued = price if price is not None else position.avg_px
    unrealised = position.unrealised(valued) if position.qty else ZERO
    opened = ZERO
    if before is not None and held:
        opened = before.unrealised(first.get(symbol, before.avg_px))
    for one in _sums(made, account, owner or position.strategy, symbol):
        one.open_change += unrealised - opened
    made.held.append(
        Held(
            account,
            symbol,
            held,
            position.qty,
            position.avg_px,
            price,
            position.qty * valued,
            unrealised,
        )
    )


def _prices(made: DayFigures) -> tuple[dict[str, Decimal], dict[str, Decimal]]:
    """Return the first and the last price known of each symbol."""
    first: dict[str, Decimal] = {}
    last: dict[str, Decimal] = {}
    recorded: set[str] = set()
    for line in made.day.lines:
        for symbol, text in (line.get("prices") or {}).items():
            first.setdefault(symbol, Decimal(text))
            last[symbol] = Decimal(text)
            recorded.add(symbol)
    for fill in made.day.fills:
        if fill.symbol not in recorded:
            first.setdefault(fill.symbol, fill.last_px)
            last[fill.symbol] = fill.last_px
            made.approximate.add(fill.symbol)
    return first, last


def _add_latency(made: DayFigures) -> None:
    """Measure each order's way out and its answer, and each signal's until its last byte and its last answer."""
    stages = {name: Histogram() for name in ("send", "ack", "last_byte", "last_ack")}
    for kept in made.orders:
        if kept.send_us is not None:
            stages["send"].record(kept.send_us)
        if kept.ack_us is not None:
            stages["ack"].record(kept.ack_us)
    for entry in () if made.account else made.day.signals:
        for name in ("last_byte", "last_ack"):
            nanoseconds = (entry.trace or {}).get(name)
            if nanoseconds is not None:
                stages[name].record(nanoseconds // 1000)
    made.latency = {name: stage.summary() for name, stage in stages.items() if stage.count}


def _add_curves(made: DayFigures) -> None:
    """Take equity and profit over the day from the record; without it, the realised profit from the fills."""
    equity: str | None = None
    for line in made.day.lines:
        at = datetime.fromisoformat(line["at"]).timestamp()
        row = (
            line.get("accounts", {}).get(made.account, {}) if made.account else line.get("pnl", {})
        )
        value = row.get("equity")
        if value is not None and Decimal(value):  # before any broker has told, it is nothing
            equity = value
            made.opening_equity = made.opening_equity or (line["at"], value)
            made.closing_equity = line["at"], value
        if equity is not None:
            made.equity.append((at, float(equity)))
        if row.get("day_pnl") is not None:
            made.pnl.append((at, float(row["day_pnl"])))
    made.recorded = len(made.pnl) > 1
    if not made.recorded:
        made.pnl = _realised_curve(made)


def _realised_curve(made: DayFigures) -> list[Point]:
    positions = {key: copy(position) for key, position in made.day.opening.items()}
    total, points = ZERO, [(made.day.begins.timestamp(), 0.0)]
    for fill in made.fills:
        key = fill.account, fill.symbol
        before = positions[key].realised if key in positions else ZERO
        total += apply_fill(positions, fill).realised - before
        points.append((fill.at.timestamp(), float(total)))
    return points if made.fills else []


def _add_alerts(made: DayFigures, mine: Callable[[str], bool]) -> None:
    """Take the alerts from the record; where it has none, the critical ones the audit trail kept."""
    found: dict[tuple[str, str], dict[str, Any]] = {}
    run = ""
    for line in made.day.lines:
        run = line.get("run", run)
        for row in line.get("alerts") or ():
            found[run, row["id"]] = row
    rows = list(found.values()) or [
        {"at": told.at, "severity": "critical", "account": told.account, "count": 1, "acknowledged_at": None,
         "code": told.facts.get("code", ""), "text": told.facts.get("text", "")}
        for told in made.day.audit if told.kind == "alert"
    ]  # fmt: skip
    made.alerts = [row for row in rows if not made.account or mine(row.get("account") or "")]


def _add_acts(made: DayFigures, mine: Callable[[str], bool]) -> None:
    commands = {
        told.facts.get("id"): told.facts.get("command")
        for told in made.day.audit
        if told.kind == "command"
    }
    for told in made.day.audit:
        if told.kind != "operator":
            continue
        body = commands.get(told.facts.get("id"))
        whole = told._replace(facts={**told.facts, "body": body if isinstance(body, dict) else {}})
        if made.account and not _about(whole, mine):
            continue
        made.acts.append(whole)
        if told.facts.get("command") in {"kill", "flatten", "rearm"}:
            made.kills.append(whole)


def _about(told: Told, mine: Callable[[str], bool]) -> bool:
    body = told.facts["body"]
    names = [body.get("account"), str(body.get("scope", "")).removeprefix("account:")]
    names += [str(body.get("key", "")).partition("/")[0], *(body.get("accounts") or ())]
    return any(mine(str(name)) for name in names if name)


def title_of(code: str) -> str:
    """Return the words for a code."""
    info = CODES.get(code)
    return info.title if info else code
