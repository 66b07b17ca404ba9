"""What follows from news of an order: journal, feed, mirror, its signal, its lane; and from news of its absence."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

from engine import failpoints
from engine.model import tables
from engine.model.enums import ExecType, OrderStatus
from engine.model.messages import ExecutionReport, Fill
from engine.model.numbers import ZERO
from engine.model.order import Order
from engine.signal_record import SignalRecord

if TYPE_CHECKING:
    from engine.execution.lane import Lane
    from engine.trading_engine import TradingEngine

log = logging.getLogger(__name__)


class OrderNews:
    """Follows up what order manager and reconciler have found."""

    def __init__(self, engine: TradingEngine) -> None:
        self._engine = engine

    def on_order_change(self, order: Order, report: ExecutionReport | None) -> None:
        """Follow up a changed order: journal, feed, mirror, its signal, its lane."""
        lane = self._engine.dispatcher.lanes.get(order.account)
        if report is not None and report.exec_type is ExecType.UNSENT:
            if order.status is OrderStatus.PENDING_NEW:
                self._unsent(order, lane, report.text)
            return
        if lane is not None:
            lane.forget(order)
        status = order.status
        if status is OrderStatus.UNKNOWN:
            session = self._engine.fleet.sessions.get(order.account)
            if session is not None:
                self._engine.reconciler.resolve(order, session)
        elif status is OrderStatus.REJECTED and report is not None:
            self._note_reject(order)
        elif order.code == "ABSENT" and order.order_id and report is not None:
            self._note_late(order)
        self._engine.guards.answered(order)
        record = self._engine.records.get(f"{order.source}/{order.signal_id}")
        if record is not None:
            self._note_progress(record, order)
        self._engine.journal.note_order(order)
        self._engine.publisher.touch(tables.ORDERS, order.cl_ord_id)
        self._engine.publisher.touch(tables.ACCOUNTS, order.account)
        self._engine.copies.order(order)
        self._engine.exits.on_order(order)
        if lane is not None:
            lane.pump()

    def _unsent(self, order: Order, lane: Lane | None, text: str) -> None:
        order.first_byte_ns = order.last_byte_ns = 0
        order.text = text
        self._engine.orders.ledger.proven_absent(order)
        if lane is not None:
            lane.put_back(order)
        else:  # its account was taken out of service while it waited for a connection
            self._engine.on_denied(order, "NOT_SENT", f"not a byte left: {text}")

    def on_order_repeat(self, order: Order) -> None:
        """Take a report that told nothing new; that it came may still free the lane or complete the trace."""
        record = self._engine.records.get(f"{order.source}/{order.signal_id}")
        if record is not None and order.cl_ord_id in record.waiting:
            self._note_progress(record, order)
        lane = self._engine.dispatcher.lanes.get(order.account)
        if lane is not None:
            lane.pump()

    def _note_late(self, order: Order) -> None:
        """Cancel an order that was closed as absent, and that the broker has after all (F08)."""
        order.code = "LATE_ACCEPT"
        text = (
            f"{order.symbol} {order.cl_ord_id} was proven absent, and the broker has it after all"
        )
        self._engine.alert(
            "critical", "LATE_ACCEPT", order.account, f"{text}: it is being cancelled"
        )
        lane = self._engine.dispatcher.lanes.get(order.account)
        if lane is not None:
            lane.cancel(order)

    def _note_reject(self, order: Order) -> None:
        if order.code:
            return  # told already: by the reply, or by the stream
        order.code = "BROKER_REJECTED"
        state = self._engine.fleet.states.get(order.account)
        if state is not None:
            state.rejects += 1
            state.last_error = f"{order.cl_ord_id} rejected: {order.text}"
        self._engine.alert(
            "warning",
            "BROKER_REJECTED",
            order.account,
            f"{order.symbol} {order.cl_ord_id}: {order.text}",
        )

    def _note_progress(self, record: SignalRecord, order: Order) -> None:
        """Widen the signal's trace; once all its orders are answered, its stages count."""
        if record.stage is not None:
            self._engine.staged.on_order(record, order)
        self._engine.publisher.touch(tables.SIGNALS, record.key)
        if order.cl_ord_id not in record.waiting or not (order.acked_ns or order.status.terminal):
            return
        record.waiting.discard(order.cl_ord_id)
        record.stamps.note_order(order)
        stages = self._engine.latency_stages
        if order.last_byte_ns:
            stages.record("send", order.last_byte_ns - order.planned_ns)
            if order.acked_ns:
                stages.record("ack", order.acked_ns - order.last_byte_ns)
                stages.record_account(order.account, order.acked_ns - order.last_byte_ns)
        self.record_stages(record)

    def record_stages(self, record: SignalRecord) -> None:
        """Count a signal's stages once all its orders are answered."""
        if record.waiting:
            return
        trace = record.stamps.since_received()
        if not record.released:
            for stage, nanoseconds in trace.items():
                if nanoseconds is not None:
                    self._engine.latency_stages.record(stage, nanoseconds)
        self._engine.guards.decided(record)
        if record.entry is not None:
            self._engine.journal.note_trace(record.entry.seq, trace)
        self._engine.copies.signal(record)

    def on_fill(self, fill: Fill, order: Order) -> None:
        """Apply a fill to its position and tell everybody."""
        if failpoints.ARMED:
            failpoints.hit("K24.before")
        held = self._engine.keeper.get(fill.account, fill.symbol)
        before = held.qty if held is not None else ZERO
        position = self._engine.keeper.apply(fill)
        self._engine.reconciliation.on_fill(fill, position.qty - before)
        if failpoints.ARMED:
            failpoints.hit("K24.after")
        self._engine.exits.on_fill(fill, order, position)
        self._engine.counts["fills"] += 1
        self._engine.curves.book.on_fill(fill)
        if order.cl_ord_id:  # behind an adopted position there is none
            self._engine.journal.note_order(order)
        self._engine.journal.note_fill(fill, position)
        if failpoints.ARMED:
            failpoints.hit("K25.before")
        key = f"{fill.account}/{fill.symbol}"
        self._engine.publisher.touch(tables.FILLS, f"{fill.account}/{fill.exec_id}")
        self._engine.publisher.touch(tables.POSITIONS, key)
        self._engine.publisher.touch(tables.ACCOUNTS, fill.account)
        self._engine.fleet.balances.soon(fill.account)
        self._engine.copies.fill(fill, position)
        if failpoints.ARMED:
            failpoints.hit("K25.after")

    def on_broken(self, account: str, text: str) -> None:
        """An invariant broke for one account: halt it, say so."""
        log.critical("account %s: %s", account, text)
        self._engine.alert("critical", "INTERNAL", account, text)
        self._engine.guards.halt(f"account:{account}", text)

    def on_absent(self, order: Order) -> None:
        """The broker proves it never had this order: send it again while it is fresh, else close it."""
        lane = self._engine.dispatcher.lanes.get(order.account)
        if order.status is not OrderStatus.UNKNOWN:
            return  # proven meanwhile
        fresh = order.send_before_ns and self._engine.clock.monotonic_ns() < order.send_before_ns
        if lane is None:
            return
        if fresh and self._engine.gate(order) is None:
            self._engine.orders.ledger.proven_absent(order)
            order.status = OrderStatus.PENDING_NEW
            order.first_byte_ns = order.last_byte_ns = 0
            self.send_again(order)
            return
        order.code = "ABSENT"
        self._engine.on_report(
            ExecutionReport(
                account=order.account,
                cl_ord_id=order.cl_ord_id,
                exec_type=ExecType.EXPIRED,
                text="the broker never had it, and it was too old or not allowed to be sent again",
            )
        )

    def send_again(self, order: Order) -> None:
        """Send an order once more of which the broker is known to have nothing."""
        if order.reducing and (
            self._engine.exits.hold(order) or not self._engine.exits.fits(order)
        ):
            return  # it waits for what rests of its position, or nothing is left to close
        self._engine.dispatcher.dispatch([order])

    def on_doubt(self, account: str, text: str) -> None:
        """Halt an account of which too much is unknown (control C21): a person looks and re-arms it."""
        self._engine.alert("critical", "UNKNOWN_ORDERS", account, f"{text}: the account is halted")
        self._engine.guards.halt(f"account:{account}", f"UNKNOWN_ORDERS: {text}")

    def on_stuck(self, order: Order, text: str) -> None:
        """Tell the operator of an order that only a person can judge."""
        self._engine.alert(
            "critical",
            "OUTCOME_UNKNOWN",
            order.account,
            f"{order.symbol} {order.cl_ord_id}: {text}",
        )
