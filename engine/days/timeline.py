"""A recorded day as the feed's rows over time: what each table showed at any moment, as far as it was recorded.

Exact: signals, plans, orders, fills, positions, latches, notes, commands; an order's answer is placed by the latencies
its row keeps. From the record of the day (``HOME/days``), to ten seconds and for accounts to a minute: prices, equity,
accounts, alerts, limits in use. Kills, differences and controls: ``timeline_safety``. Not recorded, and empty:
queues, rate limits, bars.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from datetime import UTC, datetime
from decimal import Decimal
from functools import partial
from typing import Final, NamedTuple

from engine import __version__
from engine.clock import rfc3339
from engine.days.recorded import KeptOrder, RecordedDay, Told, apply_fill
from engine.days.timeline_kills import Books
from engine.days.timeline_rows import accounts_of, bare_account, classes, planned, shown
from engine.days.timeline_safety import Safety
from engine.documents import signal_from_document
from engine.model import tables
from engine.model.enums import OrderStatus
from engine.model.messages import Fill
from engine.model.numbers import ZERO, to_text
from engine.model.order import BUST, Order
from engine.model.position import Levels
from engine.notes import columns as note_columns
from engine.portfolio.marks import Marks
from engine.recovery import record_from_entry
from engine.risk.trading_state import FIRM
from engine.stores.journal_rows import SignalEntry
from engine.telemetry.latency import Latency
from engine.views import Row, average, fill_row, money, order_row, position_row, signal_row

LATENCY_EVERY_S: Final = 10.0
POINT_EVERY_S: Final = 1.0
"""Between points of profit and loss where only fills tell of it; the engine's own are a second apart, too."""
_MARGIN_S: Final = 1.0


class Change(NamedTuple):
    """At a moment (seconds since 1970) these columns of a row became so; ``None``: the row went."""

    at: float
    table: str
    key: str
    columns: Row | None


class Mark(NamedTuple):
    """A moment worth going to: a ``signal``, an ``alert``, a ``command``."""

    at: float
    kind: str
    text: str


@dataclass(slots=True)
class Timeline:
    """All changes of a day in their order, from just before the first to just after the last."""

    day: RecordedDay
    begins: float
    ends: float
    changes: list[Change] = field(default_factory=list)
    marks: list[Mark] = field(default_factory=list)
    recorded: set[str] = field(default_factory=set)
    """Tables that only the record of the day tells of, as far as it did."""


class _Clock:
    """The recorded time, for what computes ages."""

    def __init__(self) -> None:
        self.at = 0.0

    def now(self) -> datetime:
        return datetime.fromtimestamp(self.at, UTC)

    def monotonic_ns(self) -> int:
        return int(self.at * 1e9)


def seconds(stamp: str | datetime) -> float:
    """Return a stamp in seconds since 1970."""
    return (datetime.fromisoformat(stamp) if isinstance(stamp, str) else stamp).timestamp()


_Happening = tuple[float, int, Callable[[], None]]


def timeline_of(day: RecordedDay) -> Timeline:
    """Put a day's happenings into their order and follow what each changed."""
    return _Fold(day).run()


class _Fold:
    """Goes through a day once; holds what a row of now needs of before."""

    def __init__(self, day: RecordedDay) -> None:
        self.day = day
        self.clock = _Clock()
        self.marks = Marks(self.clock)
        self.changes: list[Change] = []
        self.worth: list[Mark] = []
        self.positions = day.opening
        self.stages = Latency()
        self.brokers: dict[str, str] = {}
        self.status: dict[str, OrderStatus] = {}
        self.cum: dict[str, tuple[Decimal, Decimal]] = {}  # quantity and cash
        self.kept = {kept.order.cl_ord_id: kept for kept in day.orders}
        self.orders = {name: kept.order for name, kept in self.kept.items()}
        self.filled: defaultdict[str, Decimal] = defaultdict(Decimal)  # of the day, by order
        for fill in day.fills:
            self.filled[fill.cl_ord_id] += (
                -fill.last_qty if fill.exec_id.startswith(BUST) else fill.last_qty
            )
        self.counts: dict[str, dict[str, int]] = {}  # by signal
        self.unproven: set[str] = set()
        self.working: dict[str, dict[str, int]] = {}  # by account
        self.accounts = accounts_of(day)
        self.safety = Safety(
            Books(
                self.orders,
                self.status,
                self.positions,
                self.brokers,
                self.accounts,
                self._put,
                lambda: (rfc3339(self.clock.now()), self.clock.at),
            )
        )
        self.latency_at = 0.0
        self.point_due: float | None = None
        self.run_number = 0

    def run(self) -> Timeline:
        happenings = sorted(self._happenings(), key=lambda one: one[:2])
        begins = (happenings[0][0] if happenings else self.day.begins.timestamp()) - _MARGIN_S
        self.clock.at = begins
        self._opening()
        for at, _, happen in happenings:
            self._point_before(at)
            self.clock.at = at
            happen()
        self._point_before(float("inf"))
        self._tell_latency()
        self.clock.at += _MARGIN_S
        recorded = self.safety.recorded
        return Timeline(self.day, begins, self.clock.at, self.changes, self.worth, recorded)

    def _put(self, table: str, key: str, columns: Row | None) -> None:
        self.changes.append(Change(self.clock.at, table, key, columns))

    def _mark(self, kind: str, text: str) -> None:
        self.worth.append(Mark(self.clock.at, kind, text))

    # ---- what happened -----------------------------------------------------------------------------------------

    def _happenings(self) -> Iterable[_Happening]:
        """Yield everything, with a rank for what bears the same stamp: a cause comes before its effect."""
        day = self.day
        told_signals = {t.facts.get("signal"): t for t in day.audit if t.kind == "signal"}
        for entry in day.signals:
            first = told_signals.get(f"{entry.source}/{entry.id}")
            yield seconds(entry.received_at), 1, partial(self._signal, entry, first)
            done = (entry.trace or {}).get("last_ack")
            if done is not None:
                yield seconds(entry.received_at) + done / 1e9, 6, partial(self._measured, entry)
        yield from self._order_happenings()
        for fill in day.fills:
            yield seconds(fill.at), 4, partial(self._fill, fill)
        for told in day.audit:
            happen = self._told(told)
            if happen is not None:
                yield seconds(told.at), 2, happen
            if self.safety.wants(told):
                yield seconds(told.at), 2, partial(self.safety.take, told)
        for line in day.lines:
            yield seconds(line["at"]), 7, partial(self._line, line)

    def _order_happenings(self) -> Iterable[_Happening]:
        for kept in self.day.orders:
            order = kept.order
            created = seconds(order.created_at)
            if rfc3339(order.created_at) >= self.day.begin:
                yield created, 2, partial(self._order, kept)
            if kept.send_us is not None and kept.ack_us is not None:
                answered = created + (kept.send_us + kept.ack_us) / 1e6
                yield answered, 3, partial(self._answered, kept)
            if self.day.begin <= rfc3339(order.updated_at) < self.day.end:
                yield seconds(order.updated_at), 5, partial(self._ended, kept)

    def _told(self, told: Told) -> Callable[[], None] | None:
        """Return what a row of the audit trail changed that nothing else tells."""
        kinds: dict[str, Callable[[Told], None]] = {
            "plan": self._plan,
            "command": self._stops,
            "latch": self._latch,
            "operator": self._command,
        }
        if not self.day.lines:
            kinds["alert"] = self._alert
        if told.kind == "order" and told.facts.get("status") == OrderStatus.UNKNOWN.value:
            return partial(self._set, str(told.facts["cl_ord_id"]), OrderStatus.UNKNOWN, {})
        happen = kinds.get(told.kind)
        return None if happen is None else partial(happen, told)

    # ---- the begin ---------------------------------------------------------------------------------------------

    def _opening(self) -> None:
        self._put(tables.ENGINE, "engine", self._first_engine())
        for told in self.day.latches.values():
            self._latch(told)
        for position in self.positions.values():
            if position.qty:
                self._position(position.account, position.symbol)
        for account in sorted(self.accounts):
            self._put(tables.ACCOUNTS, account, bare_account(account))
        self.safety.open(self.day.standing)
        for kept in self.day.orders:
            if rfc3339(kept.order.created_at) < self.day.begin:
                self._order(kept)

    def _first_engine(self) -> Row:
        """Return the engine's row at the begin."""
        told = self.day.latches.get(FIRM)
        return {
            **dict.fromkeys(tables.COLUMNS[tables.ENGINE]),
            "key": "engine", "name": "recording", "version": __version__, "pid": 0, "book": self.day.book,
            "profile": "embedded", "simulated": True, "services": {}, "prices": {}, "signals_per_s": 0,
            "orders_per_s": 0, "started_at": rfc3339(self.clock.now()), "replay": str(self.day.day),
            "trading": str(told.facts.get("state")) if told else "active",
            "reason": str(told.facts.get("reason") or "") if told else "",
        }  # fmt: skip

    # ---- signals -----------------------------------------------------------------------------------------------

    def _signal(self, entry: SignalEntry, first: Told | None) -> None:
        signal = signal_from_document(entry.body, entry.body_hash)
        record = record_from_entry(entry, signal, self.orders)
        row = signal_row(record)
        counts = self.counts[record.key] = dict.fromkeys(
            (
                "sent",
                "filled",
                "working",
                "rejected",
                "unknown",
                "denied",
                "held",
                "skipped",
                "refused",
            ),
            0,
        )
        if first is not None:
            row |= {name: first.facts.get(name) or "" for name in ("state", "code", "message")}
            counts |= planned(first)
            self.safety.reasons(record.key, first, entry.plan.get("reasons", ()))
            row["accounts"] = (
                int(first.facts.get("intents", 0)) + counts["held"] + counts["refused"]
            )
        else:
            counts["skipped"], counts["refused"] = row["skipped"], len(record.refused)
        counts["sent"] += len(record.cancels) + len(record.done)
        if not counts["held"]:
            row["hold_expires_at"] = None
        row |= dict.fromkeys(("first_byte_us", "last_byte_us", "last_ack_us"))
        row |= shown(counts) | note_columns(self.day.notes, tables.SIGNALS, record.key)
        self._put(tables.SIGNALS, record.key, row)
        self._mark("signal", f"{signal.action.value} {signal.symbol} ({signal.strategy})")

    def _plan(self, told: Told) -> None:
        """Take what a person, or the clock, made of a signal that was held."""
        key = str(told.facts.get("signal", ""))
        counts = self.counts.get(key)
        if counts is None:
            return
        counts |= planned(told)
        self.safety.reasons(key, told, ())
        columns: Row = {name: told.facts.get(name) or "" for name in ("state", "code", "message")}
        columns["accounts"] = int(told.facts.get("intents", 0)) + counts["held"] + counts["refused"]
        if not counts["held"]:
            columns["hold_expires_at"] = None
        self._put(tables.SIGNALS, key, columns | shown(counts))

    def _measured(self, entry: SignalEntry) -> None:
        trace = entry.trace or {}
        key = f"{entry.source}/{entry.id}"
        stages = {name: trace.get(name) for name in ("first_byte", "last_byte", "last_ack")}
        self._put(
            tables.SIGNALS,
            key,
            {f"{name}_us": None if ns is None else ns // 1000 for name, ns in stages.items()},
        )
        for name, nanoseconds in trace.items():
            if name in self.stages.stages and isinstance(nanoseconds, int):
                self.stages.record(name, nanoseconds)
        if self.clock.at - self.latency_at >= LATENCY_EVERY_S:
            self._tell_latency()

    def _tell_latency(self) -> None:
        self.latency_at = self.clock.at
        self.stages.tick()
        at = rfc3339(self.clock.now())
        for stage in self.stages.stages:
            self._put(tables.LATENCY, stage, self.stages.row(stage, at))

    # ---- orders ------------------------------------------------------------------------------------------------

    def _order(self, kept: KeptOrder) -> None:
        order = kept.order
        earlier = rfc3339(order.created_at) < self.day.begin
        filled = order.cum_qty - self.filled[order.cl_ord_id] if earlier else ZERO
        self.cum[order.cl_ord_id] = filled, filled * order.avg_px
        row = order_row(order, self.brokers.get(order.account, ""))
        row |= {
            "order_id": "", "cum_qty": to_text(filled), "leaves_qty": row["order_qty"], "avg_px": None, "code": "",
            "text": "", "updated_at": row["created_at"],
        }  # fmt: skip
        row |= note_columns(self.day.notes, tables.ORDERS, order.cl_ord_id)
        self._set(order.cl_ord_id, OrderStatus.NEW if earlier else OrderStatus.PENDING_NEW, row)

    def _answered(self, kept: KeptOrder) -> None:
        order = kept.order
        self.stages.record("send", (kept.send_us or 0) * 1000)
        self.stages.record("ack", (kept.ack_us or 0) * 1000)
        columns = {"first_byte_us": kept.send_us, "ack_us": kept.ack_us, "order_id": order.order_id}
        status = self.status.get(order.cl_ord_id)
        if status is not OrderStatus.PENDING_NEW:  # a fill told of it first
            self._put(tables.ORDERS, order.cl_ord_id, columns)
        elif order.status is OrderStatus.REJECTED:
            self._ended(kept, columns)
        else:
            self._set(order.cl_ord_id, OrderStatus.NEW, columns)

    def _ended(self, kept: KeptOrder, more: Row | None = None) -> None:
        """Take the last that is known of an order."""
        order = kept.order
        columns = {
            "order_id": order.order_id, "cum_qty": to_text(order.cum_qty), "leaves_qty": to_text(order.leaves_qty),
            "avg_px": average(order.avg_px), "code": order.code, "text": order.text,
            "limit_price": None if order.limit_price is None else to_text(order.limit_price),
        }  # fmt: skip
        self.cum[order.cl_ord_id] = order.cum_qty, order.cash
        self._set(order.cl_ord_id, order.status, columns | (more or {}))

    def _set(self, key: str, status: OrderStatus, columns: Row) -> None:
        """Put an order's status, and what follows from it for its signal and its account."""
        kept = self.kept.get(key)
        if kept is None:
            return
        order, before = kept.order, self.status.get(key)
        self.status[key] = status
        self._put(
            tables.ORDERS,
            key,
            {**columns, "status": status.value, "updated_at": rfc3339(self.clock.now())},
        )
        if before is status:
            return
        self.safety.order_moved(order, status)
        self._unknown(order, status)
        of_account = self.working.setdefault(order.account, {"open_orders": 0, "unknown_orders": 0})
        signal = f"{order.source}/{order.signal_id}"
        counts = {} if order.parent else self.counts.get(signal, {})
        account_was, counts_were = of_account.copy(), counts.copy()
        for one, step in ((before, -1), (status, 1)):
            if one is None:
                continue
            of_account["open_orders"] += step * one.working
            of_account["unknown_orders"] += step * (one is OrderStatus.UNKNOWN)
            for name in classes(one) if counts else ():
                counts[name] += step
        if of_account != account_was:
            self._put(tables.ACCOUNTS, order.account, dict(of_account))
        if counts != counts_were:
            self._put(tables.SIGNALS, signal, shown(counts))

    def _unknown(self, order: Order, status: OrderStatus) -> None:
        """Keep an order among the unknown ones while it is; what was known of it then is not recorded."""
        key = order.cl_ord_id
        if status is OrderStatus.UNKNOWN:
            known: Row = dict.fromkeys(tables.COLUMNS[tables.UNKNOWN])
            known |= order_row(order, self.brokers.get(order.account, ""))
            known |= {
                "status": status.value, "may_resend": False, "said": "",
                "updated_at": rfc3339(self.clock.now()),
            }  # fmt: skip
            self._put(tables.UNKNOWN, key, known)
            self.unproven.add(key)
        elif key in self.unproven:
            self.unproven.discard(key)
            self._put(tables.UNKNOWN, key, None)

    # ---- fills and positions -----------------------------------------------------------------------------------

    def _fill(self, fill: Fill) -> None:
        row = fill_row(fill)
        self._put(tables.FILLS, row["key"], row)
        position = apply_fill(self.positions, fill)
        kept = self.kept.get(fill.cl_ord_id)
        if kept is not None and not kept.order.reducing and kept.order.levels and position.qty:
            position.protect(kept.order.levels)
        if not self.day.lines or self.marks.price(fill.symbol) is None:
            self.marks.set(fill.symbol, fill.last_px)
        self._position(fill.account, fill.symbol)
        self._fill_order(fill)
        if not self.day.lines and self.point_due is None:
            self.point_due = self.clock.at + POINT_EVERY_S

    def _fill_order(self, fill: Fill) -> None:
        kept = self.kept.get(fill.cl_ord_id)
        if kept is None:
            return
        sign = -1 if fill.exec_id.startswith(BUST) else 1
        quantity, cash = self.cum.get(fill.cl_ord_id, (ZERO, ZERO))
        quantity, cash = quantity + sign * fill.last_qty, cash + sign * fill.last_qty * fill.last_px
        self.cum[fill.cl_ord_id] = quantity, cash
        whole = quantity >= kept.order.order_qty
        columns = {
            "cum_qty": to_text(quantity),
            "leaves_qty": "0" if whole else to_text(kept.order.order_qty - quantity),
            "avg_px": average(cash / quantity) if quantity else None,
        }
        self._set(
            fill.cl_ord_id, OrderStatus.FILLED if whole else OrderStatus.PARTIALLY_FILLED, columns
        )

    def _position(self, account: str, symbol: str) -> None:
        position = self.positions[account, symbol]
        row = position_row(position, self.marks, self.clock.now())
        row |= note_columns(self.day.notes, tables.POSITIONS, row["key"])
        self._put(tables.POSITIONS, row["key"], row)
        self.safety.position_moved(account)

    def _point_before(self, at: float) -> None:
        """Write the second's point of profit and loss that is due before a moment: fills come by the hundred."""
        due = self.point_due
        if due is not None and due <= at:
            self.point_due, self.clock.at = None, due
            self._point(None)

    def _point(self, equity: str | None) -> None:
        realised = unrealised = ZERO
        for position in self.positions.values():
            realised += position.realised
            price = self.marks.price(position.symbol)
            unrealised += position.unrealised(price) if position.qty and price is not None else ZERO
        at = rfc3339(self.clock.now())
        self._put(tables.PNL, at, {
            "at": at, "equity": equity, "total": money(realised + unrealised), "realised": money(realised),
            "unrealised": money(unrealised),
        })  # fmt: skip

    def _stops(self, told: Told) -> None:
        """Take stops that were set by hand."""
        body = told.facts.get("command")
        if not isinstance(body, dict) or body.get("command") != "set_stops":
            return
        position = self.positions.get((str(body.get("account")), str(body.get("symbol"))))
        if position is not None and position.qty:
            given = (body.get(name) for name in ("stop_loss", "take_profit", "trail_percent"))
            position.protect(
                Levels(*(None if text is None else Decimal(str(text)) for text in given))
            )
            self._position(position.account, position.symbol)

    # ---- people and states -------------------------------------------------------------------------------------

    def _latch(self, told: Told) -> None:
        facts = told.facts
        scope, state = str(facts.get("scope", "")), str(facts.get("state", ""))
        if state == "active":
            self._put(tables.HALTS, scope, None)
        else:
            self._put(tables.HALTS, scope, {
                "scope": scope, "state": state, "reason": facts.get("reason") or "", "at": told.at,
                "by": facts.get("by") or "",
            })  # fmt: skip
        if scope == FIRM:
            self._put(
                tables.ENGINE, "engine", {"trading": state, "reason": facts.get("reason") or ""}
            )

    def _command(self, told: Told) -> None:
        refused = f", refused: {told.facts['refused']}" if told.facts.get("refused") else ""
        self._mark("command", f"{told.facts.get('command')} by {told.facts.get('by')}{refused}")

    def _alert(self, told: Told) -> None:
        at = told.at
        self._put_alert(str(told.seq), {
            "id": str(told.seq), "at": at, "severity": "critical", "area": "account" if told.account else "engine",
            "code": told.facts.get("code", ""), "account": told.account, "text": told.facts.get("text", ""), "count": 1,
            "last_at": at, "acknowledged_at": None,
        })  # fmt: skip

    def _put_alert(self, key: str, row: Row) -> None:
        self._put(tables.ALERTS, key, {**row, "id": key})
        self.safety.alert(row)
        if row["severity"] != "info" and row["count"] == 1:
            self._mark("alert", f"{row['code']} {row['text']}"[:160])

    # ---- the record of the day ---------------------------------------------------------------------------------

    def _line(self, line: Row) -> None:
        if "run" in line:
            self.run_number += 1
        prices = line.get("prices") or {}
        for symbol, text in prices.items():
            self.marks.set(symbol, Decimal(text))
        for account, symbol in list(self.positions) if prices else ():
            if symbol in prices:
                self._position(account, symbol)
        for account, columns in (line.get("accounts") or {}).items():
            if "broker" in columns:
                self.brokers[account] = columns["broker"]
            self.accounts.add(account)
            self._put(tables.ACCOUNTS, account, columns)
        for row in line.get("alerts") or ():
            self._put_alert(f"{self.run_number}.{row['id']}", row)
        self.safety.line(line)
        figures = line.get("pnl") or {}
        self._point(figures.get("equity"))
        known = {
            symbol: to_text(self.marks.price(symbol) or ZERO) for symbol in self.marks.symbols()
        }
        self._put(tables.ENGINE, "engine", {**figures, "prices": known})
