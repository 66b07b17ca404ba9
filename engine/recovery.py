"""Going on after a restart: signals, orders, positions and latches as the journal kept them."""

from __future__ import annotations

import contextlib
import gc
from collections.abc import Iterator
from datetime import datetime, timedelta
from decimal import Decimal
from typing import Any

from engine import failpoints
from engine.alerts import FACT as ALERT_FACT
from engine.documents import signal_from_document
from engine.model.enums import OrderStatus, OrderType, Side, SignalState, TimeInForce, TradingState
from engine.model.order import Order
from engine.model.signal import Signal
from engine.pretrade_state import restore
from engine.risk.trading_state import FIRM, Latch
from engine.signal_record import SignalRecord
from engine.stage import Phase, stage_from_document
from engine.stores.journal_rows import LoadedState, SignalEntry
from engine.trading_engine import TradingEngine

CONFIGURATION = "configuration"


def record_from_entry(entry: SignalEntry, signal: Signal, orders: dict[str, Order]) -> SignalRecord:
    """Rebuild a signal's record; intents without an order row become orders whose fate is not known."""
    plan = entry.plan
    received = datetime.fromisoformat(entry.received_at)
    record = SignalRecord(
        signal, entry.origin, received, SignalState(entry.state), entry.code, entry.message
    )
    record.entry = entry
    record.loaded_trace = entry.trace
    record.fp = plan.get("fp", "")
    for *shared, rows in plan.get("orders", ()):
        for cl_ord_id, account, quantity in rows:
            known = orders.get(cl_ord_id)
            record.orders[account] = known or _order_from_intent(
                cl_ord_id, account, quantity, shared, signal, received
            )
    record.cancels = {
        account: [orders[i] for i in ids if i in orders]
        for account, ids in plan.get("cancels", {}).items()
    }
    record.done = plan.get("done", {})
    record.held = dict.fromkeys(plan.get("held", ()))
    expires = plan.get("hold_expires_at")
    record.hold_expires_at = datetime.fromisoformat(expires) if expires else None
    record.price = _number(plan.get("price"))
    record.stage = stage_from_document(plan.get("stage"))
    record.released = True
    for kind, code, message, accounts in plan.get("reasons", ()):
        table = record.skipped if kind == "skipped" else record.refused
        table.update(dict.fromkeys(accounts, (code, message)))
    return record


def _order_from_intent(
    cl_ord_id: str,
    account: str,
    quantity: str,
    shared: list[Any],
    signal: Signal,
    created_at: datetime,
) -> Order:
    side, order_type, time_in_force, limit, stop, leg, reducing, *exits = shared
    stop_loss, take_profit, trail_percent = map(_number, exits or (None, None, None))
    return Order(
        cl_ord_id=cl_ord_id,
        account=account,
        symbol=signal.symbol,
        side=Side(side),
        order_qty=Decimal(quantity),
        order_type=OrderType(order_type),
        time_in_force=TimeInForce(time_in_force),
        created_at=created_at,
        limit_price=_number(limit),
        stop_price=_number(stop),
        source=signal.source,
        signal_id=signal.id,
        strategy=signal.strategy,
        leg=leg,
        reducing=reducing,
        stop_loss=stop_loss,
        take_profit=take_profit,
        trail_percent=trail_percent,
    )


def _number(text: str | None) -> Decimal | None:
    return Decimal(text) if text else None


async def recover(engine: TradingEngine) -> None:
    """Load everything. Orders without proof become ``unknown``; each is looked up once its account connects.

    It may be cut short anywhere and done again: what it writes is what it found, and the second time it finds that.
    """
    if failpoints.ARMED:
        failpoints.hit("recovery.before")
    with _no_collection():
        await _recover(engine)
    _tell_findings(engine)
    _tell_orphans(engine)
    if failpoints.ARMED:
        failpoints.hit("recovery.after")


@contextlib.contextmanager
def _no_collection() -> Iterator[None]:
    """Keep the garbage collector from looking again and again at what is being made to stay."""
    was = gc.isenabled()  # not in a desk's process (gui.garbage)
    gc.disable()
    try:
        yield
    finally:
        if was:
            gc.enable()


async def _recover(engine: TradingEngine) -> None:
    loaded = await engine.journal.load()
    engine.facts = loaded.facts
    engine.alerts.load(loaded.facts.get(ALERT_FACT, {}))
    fresh = _load_records(engine, loaded)
    for order in loaded.orders:
        if order.status is OrderStatus.PENDING_NEW:  # made by hand
            order.status = OrderStatus.UNKNOWN
            engine.journal.note_order(order)
    engine.keeper.load(loaded.positions)
    engine.orders.load([*loaded.orders, *fresh], loaded.fills)
    await restore(engine, loaded, fresh)  # before ``fresh`` get rows of their own: counted once
    for order in fresh:
        engine.journal.note_order(order)
    for entry in loaded.signals:
        if not entry.settled and not _undecided(engine, entry):
            engine.journal.note_settled(entry.seq)
    engine.counts.update(loaded.counts)
    await _restore_states(engine, loaded)
    engine.exits.load(loaded.square_offs)
    for record in engine.records.values():
        if record.held:
            engine.hold(record)


def _undecided(engine: TradingEngine, entry: SignalEntry) -> bool:
    """Say whether accounts of a signal still wait: it must be found again, however old it is by then."""
    record = engine.records.get(f"{entry.source}/{entry.id}")
    return record is not None and record.undecided


def _load_records(engine: TradingEngine, loaded: LoadedState) -> list[Order]:
    """Rebuild the signals; return the orders of intents that have no row."""
    orders = {order.cl_ord_id: order for order in loaded.orders}
    fresh: list[Order] = []
    for entry in loaded.signals:
        if entry.settled and any(cl_ord_id not in orders for cl_ord_id in _intents(entry)):
            continue  # its orders are done and too old to be in memory: the journal answers for it
        signal = signal_from_document(entry.body, entry.body_hash)
        record = record_from_entry(entry, signal, orders)
        engine.remember(record)
        fresh += [order for order in record.orders.values() if order.cl_ord_id not in orders]
        _doubt(engine, record)
    return fresh


def _tell_findings(engine: TradingEngine) -> None:
    """Tell the operator what was out of order when the journal was opened."""
    for finding in engine.journal.findings:
        severity = "critical" if finding.critical else "warning"
        engine.alert(severity, finding.code, "", finding.text)


def _tell_orphans(engine: TradingEngine) -> None:
    """Tell the operator of orders and positions whose account was removed while no engine ran: nobody watches them."""
    left: dict[str, int] = {}
    for order in engine.orders.orders.values():
        if order.status.working and order.account not in engine.fleet.states:
            left[order.account] = left.get(order.account, 0) + 1
    for position in engine.keeper:
        if position.qty and position.account not in engine.fleet.states:
            left.setdefault(position.account, 0)
    for account, orders in sorted(left.items()):
        text = f"it was removed and has {orders} working orders, or a position: put it back, or look at its broker"
        engine.alert("critical", "INACTIVE", account, text)


def _intents(entry: SignalEntry) -> list[str]:
    """Return the ClOrdIDs of a plan."""
    return [row[0] for *_, rows in entry.plan.get("orders", ()) for row in rows]


def _doubt(engine: TradingEngine, record: SignalRecord) -> None:
    """Turn orders whose fate nobody noted into unknown ones, to be sent again only while they are fresh."""
    signal, config = record.signal, engine.config
    limit = float(
        signal.valid_for_s if signal.valid_for_s is not None else config.signals.max_age_s
    )
    left = (signal.issued_at + timedelta(seconds=limit) - engine.clock.now()).total_seconds()
    if record.stage is not None and record.stage.phase is Phase.HALTED:
        left = 0.0  # too many of it were rejected: what had not left does not leave
    mono = engine.clock.monotonic_ns()
    for order in record.orders.values():
        if order.status not in {OrderStatus.PENDING_NEW, OrderStatus.UNKNOWN}:
            continue
        if order.status is OrderStatus.PENDING_NEW:  # else its row, and the audit's, say so already
            order.status = OrderStatus.UNKNOWN
            order.code = "OUTCOME_UNKNOWN"
            order.text = "the engine stopped before its outcome was known; it is being looked up"
            engine.journal.note_order(order)  # the lists are read from the journal
        order.send_before_ns = mono + int(left * 1e9) if left > 0 else 0
        order.planned_ns = mono
        record.waiting.add(order.cl_ord_id)


async def _restore_states(engine: TradingEngine, loaded: LoadedState) -> None:
    if failpoints.ARMED:
        failpoints.hit("recovery.states.before")
    for halt in loaded.halts:
        state = TradingState(halt["state"])
        engine.states.set(Latch(halt["scope"], state, halt["reason"], halt["at"], halt["by"]))
    for account, day, baseline in loaded.days:
        state_of = engine.fleet.states.get(account)
        if state_of is not None:
            state_of.day, state_of.day_baseline = datetime.fromisoformat(day).date(), baseline
    await _starting_state(engine)
    if failpoints.ARMED:
        failpoints.hit("recovery.states.after")


async def _starting_state(engine: TradingEngine) -> None:
    """Begin as configured; a halt that was latched stays, and no restart arms what was disarmed by hand."""
    latch = engine.states.get(FIRM)
    if latch is not None and latch.state is TradingState.HALTED:
        return
    disarmed = latch is not None and latch.state is TradingState.DISARMED
    if disarmed and latch is not None and latch.by != CONFIGURATION:
        return  # by a person, or for a reason a person has to look at
    found = any(one.critical or one.code == "UNCLEAN_STOP" for one in engine.journal.findings)
    crashed = engine.config.safety.disarm_after_crash and found
    if engine.config.engine.trading == "active" and crashed:
        text = "the engine did not stop cleanly; look at its orders, then arm it"
        await engine.latch(FIRM, TradingState.DISARMED, text, "engine")
        return
    if engine.config.engine.trading == "active":
        if disarmed:
            await engine.latch(FIRM, TradingState.ACTIVE, "engine.trading = active", CONFIGURATION)
        return
    await engine.latch(FIRM, TradingState.DISARMED, "not armed since the start", CONFIGURATION)
