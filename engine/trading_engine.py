"""The engine as others see it: signals and commands in, rows out; inside, the straight way of an order."""

from __future__ import annotations

import asyncio
import logging
from collections import OrderedDict, deque
from collections.abc import Callable, Coroutine, Mapping
from datetime import timedelta
from decimal import Decimal
from typing import Any

import orjson

from engine.clock import Clock, rfc3339
from engine.config import Config, HookConfig
from engine.copies import Copies
from engine.documents import signal_document
from engine.eligibility.index import EligibilityIndex
from engine.errors import InvalidSignal, StoreError
from engine.execution.dispatcher import Dispatcher
from engine.execution.order_manager import OrderManager
from engine.execution.reconciler import Reconciler
from engine.fleet import Fleet
from engine.held_signals import HeldSignals
from engine.intake.parser import parse_signal
from engine.intake.tradingview import map_alert
from engine.market.instruments import Instruments
from engine.model import tables
from engine.model.account_state import AccountState
from engine.model.enums import (
    Action,
    ConnectionState,
    ExecType,
    OrderStatus,
    SignalState,
    TradingState,
)
from engine.model.identifiers import OPERATOR, PROTECTIVE
from engine.model.messages import ExecutionReport, Fill
from engine.model.order import Order
from engine.model.receipt import SignalReceipt
from engine.model.signal import Signal
from engine.parts import Exits, Operator, PriceSource, Reports, Service
from engine.planner import Plan, Planner
from engine.portfolio.marks import Marks
from engine.portfolio.position_keeper import PositionKeeper
from engine.ports import History, Mirror
from engine.publisher import Publisher
from engine.risk.trading_state import Latch, TradingStates, may_send, refusal
from engine.signal_record import SignalRecord, Stamps
from engine.stores.journal import Journal
from engine.stores.journal_rows import SignalEntry
from engine.telemetry.latency import Latency

log = logging.getLogger(__name__)

MOST_RECORDS = 2_000
FIRST_TRY_S = 3.0
DURABLE_WITHIN_S = 1.0
_OWN_SOURCES = {
    OPERATOR: "orders made by hand",
    PROTECTIVE: "the engine's own exits",
}


class TradingEngine:
    """One book: its accounts, signals, orders and positions. Lives on one event loop."""

    def __init__(  # noqa: PLR0913 (wiring.py is the only caller)
        self,
        *,
        config: Config,
        clock: Clock,
        journal: Journal,
        publisher: Publisher,
        latency: Latency,
        states: TradingStates,
        marks: Marks,
        keeper: PositionKeeper,
        index: EligibilityIndex,
        dispatcher: Dispatcher,
        mirror: Mirror | None,
        history: History | None,
    ) -> None:
        self.config = config
        self.clock = clock
        self.journal = journal
        self.publisher = publisher
        self.latency_stages = latency
        self.states = states
        self.marks = marks
        self.keeper = keeper
        self.index = index
        self.dispatcher = dispatcher
        self.mirror = mirror
        self.history = history
        self.records: OrderedDict[str, SignalRecord] = OrderedDict()
        self.alerts: deque[dict[str, Any]] = deque(maxlen=500)
        self.counts = {"signals": 0, "orders": 0, "fills": 0}
        self.started_at = clock.now()
        self._alert_number = 0
        self._inflight: dict[str, asyncio.Future[None]] = {}
        self._tasks: set[asyncio.Task[Any]] = set()
        self._fresh_ns = int(float(config.limits.reference_max_age_s) * 1e9)
        self.copies = Copies(mirror, history, clock, marks, self._broker_of)
        self.held = HeldSignals(clock, config.signals.approval_timeout_s, self._hold_over)
        # Set by wiring, which knows what they need of the engine:
        self.exits: Exits
        self.fleet: Fleet
        self.operator: Operator
        self.reports: Reports
        self.services: list[Service] = []
        self.links: dict[str, Callable[[], tuple[ConnectionState, str]]] = {}
        self.orders: OrderManager
        self.planner: Planner
        self.instruments: Instruments
        self.reconciler: Reconciler
        self.prices: PriceSource | None = None

    # ---- life ------------------------------------------------------------------------------------------------

    async def start(self) -> None:
        """Connect the accounts and begin to take signals; state was loaded by wiring."""
        log.info("starting: book %s, %d accounts", self.journal.book, len(self.fleet.states))
        if self.prices is not None:
            await self.prices.start()
        await self.copies.open()
        self.copies.everything(self.orders.working(), self.keeper)
        await self.fleet.start()
        await self.fleet.first_try(
            FIRST_TRY_S
        )  # a signal that comes sooner would find nobody to act
        await self.reports.start()
        await self.exits.start()
        for source in self.services:
            await source.start()

    async def stop(self) -> None:
        """Take no more signals, send nothing more, write down everything, disconnect."""
        log.info("stopping: %d working orders", len(self.orders.working()))
        for source in self.services:
            await source.stop()
        await self.exits.stop()
        for lane in self.dispatcher.lanes.values():
            lane.close("NOT_SENT", "the engine stopped before it could leave")
        self.held.stop()
        await self.reports.stop()
        if self.prices is not None:
            await self.prices.stop()
        await self.reconciler.stop()
        await self.instruments.stop()
        for task in list(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await self.fleet.stop()
        await self.copies.close()
        await self.journal.close()

    # ---- what others ask -----------------------------------------------------------------------------------------

    async def handle_command(self, document: dict[str, Any]) -> dict[str, Any]:
        """Carry out an operator's command (engine.model.commands).

        Raises:
            CommandRefused: with a code, a sentence and the HTTP status it maps to.
        """
        return await self.operator.handle(document)

    async def signal_detail(self, key: str) -> dict[str, Any] | None:
        """Return one signal (``source/id``) with a row per account and its trace."""
        return await self.reports.signal_detail(key)

    async def list_rows(
        self,
        table: str,
        *,
        account: str | None = None,
        symbol: str | None = None,
        status: str | None = None,
        limit: int = 100,
        after: str | None = None,
    ) -> dict[str, Any]:
        """Return a page of rows, newest first: ``{"items": [...], "next": cursor or null}``."""
        given = {"account": account, "symbol": symbol, "status": status}
        where = {name: value for name, value in given.items() if value is not None}
        return await self.reports.list_rows(table, where, limit, after)

    def latency(self) -> dict[str, Any]:
        """Return every stage's percentiles, since start and over the last minute."""
        return self.reports.latency()

    def readiness(self) -> list[str]:
        """Return why the engine is not ready; empty when it is."""
        return self.reports.readiness()

    def to_do(self) -> list[dict[str, str]]:
        """Return what a person must do: ``account``, ``code``, ``text`` and ``todo`` of each thing."""
        return self.reports.to_do()

    def metrics_text(self) -> str:
        """Return the metrics in Prometheus' text format."""
        return self.reports.metrics_text()

    # ---- signals ---------------------------------------------------------------------------------------------

    async def handle_signal(
        self,
        body: bytes,
        *,
        source: str | None = None,
        origin: str = "api",
        received_ns: int | None = None,
    ) -> SignalReceipt:
        """Take a signal of schema v1; returns once it is durable.

        Raises:
            InvalidSignal: it breaks a rule of the schema; nothing is kept of it.
            StoreError: it could not be made durable; nothing was sent.
        """
        received = received_ns or self.clock.monotonic_ns()
        signal = parse_signal(body, source=source, now=self.clock.now())
        return await self.take(signal, origin, received)

    async def handle_alert(self, body: bytes, *, source: str) -> SignalReceipt:
        """Take a webhook's body: a TradingView alert, or schema v1. Raises as ``handle_signal``."""
        received = self.clock.monotonic_ns()
        hook = self.config.hooks.get(source) or HookConfig()
        signal = map_alert(body, source=source, hook=hook, now=self.clock.now())
        return await self.take(signal, "hook", received)

    async def take(self, signal: Signal, origin: str, received: int) -> SignalReceipt:
        """Carry a valid signal as far as durable and dispatched."""
        if (kept := _OWN_SOURCES.get(signal.source)) is not None:
            text = f"source {signal.source} is kept for {kept}"
            raise InvalidSignal("NOT_ALLOWED", "source", text)
        key = signal.key
        while (waiting := self._inflight.get(key)) is not None:
            await asyncio.wait({waiting})
        known = self.records.get(key)
        if known is not None:
            return known.receipt(signal.body_hash)
        gate = self._inflight[key] = asyncio.get_running_loop().create_future()
        try:
            stamps = Stamps(received=received, validated=self.clock.monotonic_ns())
            return await self._take_new(signal, origin, stamps)
        finally:
            del self._inflight[key]
            gate.set_result(None)

    async def _take_new(self, signal: Signal, origin: str, stamps: Stamps) -> SignalReceipt:
        record = SignalRecord(signal, origin, self.clock.now(), SignalState.ACCEPTED, stamps=stamps)
        code, message = self._triage(signal)
        plan = Plan(code=code, message=message)
        if not code:
            await self.prepare(signal)
            plan = self.planner.plan(signal)
        self._adopt(record, plan)
        for order in plan.orders:
            self.orders.add(
                order
            )  # counts from now on: the next signal is planned while this one is written
        entry = SignalEntry(
            source=signal.source,
            id=signal.id,
            body_hash=signal.body_hash,
            body=orjson.dumps(signal_document(signal)),
            origin=origin,
            received_at=rfc3339(record.received_at),
            state=record.state.value,
            code=record.code,
            message=record.message,
            plan=record.plan(),
            settled=not record.orders,
        )
        earlier = await self._make_durable(entry, plan)
        stamps.durable = self.clock.monotonic_ns()
        if earlier is not None:
            same = earlier.body_hash == signal.body_hash
            state, code, message = earlier.plan["first"]
            return SignalReceipt(
                signal.id, signal.source, SignalState(state), code, message, repeated=same, contradicted=not same
            )  # fmt: skip
        record.entry = entry
        self._remember(record)
        self.counts["signals"] += 1
        self._carry_out(record, plan)
        self.publisher.touch(tables.SIGNALS, record.key)
        if self.prices is not None:
            self.prices.follow(signal.symbol)
        return record.receipt()

    async def _make_durable(self, entry: SignalEntry, plan: Plan) -> SignalEntry | None:
        """Write the plan; what it reserved is given back unless it is durable and new."""
        durable = False
        try:
            earlier = await self.journal.commit_signal(entry)
            durable = earlier is None
            return earlier
        finally:
            if not durable:
                for order in plan.orders:
                    self.orders.take_back(order)

    def _triage(self, signal: Signal) -> tuple[str, str]:
        """Refuse at once what is too old or may not act: ``("", "")`` to go on."""
        age = (self.clock.now() - signal.issued_at).total_seconds()
        most = self._max_age_s(signal)
        if age > most:
            return "STALE", f"{age:.1f} s old when it came in, allowed are {most:g} s"
        if signal.action is Action.CANCEL:
            return "", ""  # cancels pass under every state
        latch = self.states.strictest(f"strategy:{signal.strategy}", f"symbol:{signal.symbol}")
        if latch is None or (signal.side is None and latch.state is TradingState.REDUCING):
            return "", ""
        return refusal(latch)

    def _max_age_s(self, signal: Signal) -> float:
        return float(
            signal.valid_for_s if signal.valid_for_s is not None else self.config.signals.max_age_s
        )

    async def prepare(self, signal: Signal) -> None:
        """Get what planning needs of the outside and does not have yet: a price, the instrument's steps.

        Only the first signal of a symbol waits here, at most a second; afterwards both are kept fresh.
        """
        wanted: list[Any] = []
        quote = self.marks.get(signal.symbol)
        if self.prices is not None and (
            quote is None or self.clock.monotonic_ns() - quote.at_ns > self._fresh_ns
        ):
            wanted.append(self.prices.ask(signal.symbol))
        wanted += [
            self.instruments.ensure(broker, signal.symbol)
            for broker in self.fleet.usable_brokers
            if not self.instruments.known(broker, signal.symbol)
        ]
        if wanted:
            await asyncio.gather(*wanted)

    def _adopt(self, record: SignalRecord, plan: Plan) -> None:
        """Write a plan into the record."""
        if plan.code:
            record.state, record.code, record.message = SignalState.REFUSED, plan.code, plan.message
        elif plan.held and not plan.orders:
            record.state = SignalState.HELD
        record.skipped, record.refused = plan.skipped, plan.refused
        if plan.code and not plan.skipped and not plan.refused:
            # Refused as a whole: every account is told so, in its own row.
            chosen, passed_over = self.index.candidates(record.signal)
            record.skipped = dict(passed_over)
            record.refused = {state.id: (plan.code, plan.message) for state in chosen}
        record.orders = {order.account: order for order in plan.orders}
        record.cancels = plan.cancels
        record.done = dict.fromkeys(plan.stops, "stops changed")
        if plan.held:
            record.held = dict.fromkeys(plan.held)
            record.hold_expires_at = record.received_at + timedelta(
                seconds=self.config.signals.approval_timeout_s
            )

    def _carry_out(self, record: SignalRecord, plan: Plan) -> None:
        """Act on a durable plan."""
        now = record.stamps.planned = self.clock.monotonic_ns()
        deadline = now + self._time_left_ns(record.signal)
        self.send(plan.orders, record, deadline)
        for orders in plan.cancels.values():
            for order in orders:
                self.cancel(order, "CANCELED", f"cancelled by signal {record.key} before it left")
        for account, levels in plan.stops.items():
            position = self.keeper.get(account, record.signal.symbol)
            if position is not None and position.qty:
                self.exits.change_soon(position, levels, record.key)
        if record.held:
            self.hold(record)
        self._record_stages(record)

    def _time_left_ns(self, signal: Signal) -> int:
        age = (self.clock.now() - signal.issued_at).total_seconds()
        return int((self._max_age_s(signal) - max(age, 0.0)) * 1e9)

    def send(self, orders: list[Order], record: SignalRecord | None, deadline_ns: int) -> None:
        """Dispatch durable orders; none leaves later than ``deadline_ns`` (0: no limit)."""
        now = self.clock.monotonic_ns()
        for order in orders:
            order.planned_ns = now
            order.send_before_ns = deadline_ns
        if record is not None:
            record.waiting.update(order.cl_ord_id for order in orders)
        self.counts["orders"] += len(orders)
        if orders and orders[0].reducing:
            # What still rests of their positions is taken back first.
            self.dispatcher.dispatch([order for order in orders if not self.exits.hold(order)])
        elif orders and self.keeper.holders(orders[0].symbol):
            self.dispatcher.dispatch([o for o in orders if not self.exits.makes_way(o)])
        else:
            self.dispatcher.dispatch(orders)
        self._note_sent(orders, record)

    def _note_sent(self, orders: list[Order], record: SignalRecord | None) -> None:
        """Write down and show what was dispatched, once all of it is on its way: no order leaves later for that."""
        if self.dispatcher.busy:
            asyncio.get_running_loop().call_soon(self._note_sent, orders, record)
            return
        for order in orders:
            self.journal.note_order(order)
            self.publisher.touch(tables.ORDERS, order.cl_ord_id)
            self.publisher.touch(tables.ACCOUNTS, order.account)
        if record is not None and record.entry is not None and orders:
            self.journal.note_settled(record.entry.seq)

    def cancel(self, order: Order, code: str, text: str) -> bool:
        """Cancel a working order: deny it while it has not left, else ask the broker. Say whether either was done."""
        lane = self.dispatcher.lanes.get(order.account)
        if lane is not None and lane.deny(order, code, text):
            return True
        if self.dispatcher.deny(order, code, text) or self.exits.deny(order, code, text):
            return True
        if lane is None:
            return False
        lane.cancel(order)
        return True

    def _remember(self, record: SignalRecord) -> None:
        self.records[record.key] = record
        while len(self.records) > MOST_RECORDS:
            key, oldest = next(iter(self.records.items()))
            if oldest.held or any(order.status.working for order in oldest.orders.values()):
                self.records.move_to_end(key)
                break
            del self.records[key]
            self.publisher.touch(tables.SIGNALS, key)

    # ---- held signals ------------------------------------------------------------------------------------------

    def hold(self, record: SignalRecord) -> None:
        """Wait for an operator, until the hold expires."""
        self.predict(record)
        self.held.hold(record)

    def predict(self, record: SignalRecord) -> None:
        """Note how long a held signal's orders would take to leave, were they released now."""
        if record.held:
            now, entry = self.clock.monotonic_ns(), record.signal.side is not None
            said = self.dispatcher.predict(record.held, now, entry=entry)
            record.predicted_finish_ms = round(said.seconds * 1000)
            record.predicted_cold = said.cold

    def _hold_over(self, record: SignalRecord) -> None:
        self.spawn(self.commit_record(record), f"expire-{record.key}")
        self.publisher.touch(tables.SIGNALS, record.key)

    async def commit_record(self, record: SignalRecord) -> None:
        """Make a record's changed state and plan durable."""
        entry = record.entry
        assert entry is not None
        entry.state, entry.code, entry.message = record.state.value, record.code, record.message
        entry.plan = record.plan()
        entry.settled = False if record.orders else entry.settled
        await self.journal.commit_plan(entry)
        if all(order.first_byte_ns or order.status.terminal for order in record.orders.values()):
            self.journal.note_settled(entry.seq)

    # ---- reports -------------------------------------------------------------------------------------------------

    def on_report(self, report: ExecutionReport) -> None:
        """Take an execution report from a session."""
        self.orders.apply(report)

    def on_connection(self, account: str, state: ConnectionState, text: str) -> None:
        """Take a session's new state."""
        self.fleet.on_connection(account, state, text)

    def on_ready(self, account: str) -> None:
        """Let an account's orders leave that waited for a connection (``ports.BrokerSink``)."""
        lane = self.dispatcher.lanes.get(account)
        if lane is not None:
            lane.pump()

    def on_limits(self, account: str, **said: Any) -> None:
        """Take what a broker says of its rate limits (``ports.BrokerSink``)."""
        self.fleet.limits.note(account, **said)
        self.publisher.touch(tables.ACCOUNTS, account)

    def on_order_change(self, order: Order, report: ExecutionReport | None) -> None:
        """Follow up a changed order: journal, feed, mirror, its signal, its lane."""
        lane = self.dispatcher.lanes.get(order.account)
        if report is not None and report.exec_type is ExecType.UNSENT:
            if order.status is OrderStatus.PENDING_NEW and lane is not None:
                order.first_byte_ns = order.last_byte_ns = 0
                order.text = report.text
                lane.put_back(order)
            return
        if lane is not None:
            lane.forget(order)
        status = order.status
        if status is OrderStatus.UNKNOWN:
            session = self.fleet.sessions.get(order.account)
            if session is not None:
                self.reconciler.resolve(order, session)
        elif status is OrderStatus.REJECTED and report is not None:
            self._note_reject(order)
        elif order.code == "ABSENT" and order.order_id and report is not None:
            self._note_late(order)
        record = self.records.get(f"{order.source}/{order.signal_id}")
        if record is not None:
            self._note_progress(record, order)
        self.journal.note_order(order)
        self.publisher.touch(tables.ORDERS, order.cl_ord_id)
        self.publisher.touch(tables.ACCOUNTS, order.account)
        self.copies.order(order)
        self.exits.on_order(order)
        if lane is not None:
            lane.pump()

    def on_order_repeat(self, order: Order) -> None:
        """Take a report that told nothing new; that it came may still free the lane or complete the trace."""
        record = self.records.get(f"{order.source}/{order.signal_id}")
        if record is not None and order.cl_ord_id in record.waiting:
            self._note_progress(record, order)
        lane = self.dispatcher.lanes.get(order.account)
        if lane is not None:
            lane.pump()

    def _note_late(self, order: Order) -> None:
        """Cancel an order that was closed as absent, and that the broker has after all (F08)."""
        order.code = "LATE_ACCEPT"
        text = (
            f"{order.symbol} {order.cl_ord_id} was proven absent, and the broker has it after all"
        )
        self.alert("critical", "LATE_ACCEPT", order.account, f"{text}: it is being cancelled")
        lane = self.dispatcher.lanes.get(order.account)
        if lane is not None:
            lane.cancel(order)

    def _note_reject(self, order: Order) -> None:
        if order.code:
            return  # told already: by the reply, or by the stream
        order.code = "BROKER_REJECTED"
        state = self.fleet.states.get(order.account)
        if state is not None:
            state.rejects += 1
            state.last_error = f"{order.cl_ord_id} rejected: {order.text}"
        self.alert(
            "warning",
            "BROKER_REJECTED",
            order.account,
            f"{order.symbol} {order.cl_ord_id}: {order.text}",
        )

    def _note_progress(self, record: SignalRecord, order: Order) -> None:
        """Widen the signal's trace; once all its orders are answered, its stages count."""
        self.publisher.touch(tables.SIGNALS, record.key)
        if order.cl_ord_id not in record.waiting or not (order.acked_ns or order.status.terminal):
            return
        record.waiting.discard(order.cl_ord_id)
        record.stamps.note_order(order)
        stages = self.latency_stages
        if order.last_byte_ns:
            stages.record("send", order.last_byte_ns - order.planned_ns)
            if order.acked_ns:
                stages.record("ack", order.acked_ns - order.last_byte_ns)
                stages.record_account(order.account, order.acked_ns - order.last_byte_ns)
        self._record_stages(record)

    def _record_stages(self, record: SignalRecord) -> None:
        if record.waiting:
            return
        trace = record.stamps.since_received()
        if not record.released:
            for stage, nanoseconds in trace.items():
                if nanoseconds is not None:
                    self.latency_stages.record(stage, nanoseconds)
        if record.entry is not None:
            self.journal.note_trace(record.entry.seq, trace)
        self.copies.signal(record)

    def on_fill(self, fill: Fill, order: Order) -> None:
        """Apply a fill to its position and tell everybody."""
        position = self.keeper.apply(fill)
        self.exits.on_fill(fill, order, position)
        self.counts["fills"] += 1
        self.journal.note_order(order)
        self.journal.note_fill(fill, position)
        key = f"{fill.account}/{fill.symbol}"
        self.publisher.touch(tables.FILLS, f"{fill.account}/{fill.exec_id}")
        self.publisher.touch(tables.POSITIONS, key)
        self.publisher.touch(tables.ACCOUNTS, fill.account)
        self.fleet.balances.soon(fill.account)
        self.copies.fill(fill, position)

    def on_broken(self, account: str, text: str) -> None:
        """An invariant broke for one account: halt it, say so."""
        log.critical("account %s: %s", account, text)
        self.alert("critical", "INTERNAL", account, text)
        self.spawn(
            self.latch(f"account:{account}", TradingState.HALTED, text, "engine"), f"halt-{account}"
        )

    def on_absent(self, order: Order) -> None:
        """The broker proves it never had this order: send it again while it is fresh, else close it."""
        lane = self.dispatcher.lanes.get(order.account)
        if order.status is not OrderStatus.UNKNOWN:
            return  # proven meanwhile
        fresh = order.send_before_ns and self.clock.monotonic_ns() < order.send_before_ns
        if lane is None:
            return
        if fresh and self.gate(order) is None:
            order.status = OrderStatus.PENDING_NEW
            order.first_byte_ns = order.last_byte_ns = 0
            self.send_again(order)
            return
        order.code = "ABSENT"
        self.on_report(
            ExecutionReport(
                account=order.account,
                cl_ord_id=order.cl_ord_id,
                exec_type=ExecType.EXPIRED,
                text="the broker never had it, and it was too old or not allowed to be sent again",
            )
        )

    def send_again(self, order: Order) -> None:
        """Send an order once more of which the broker is known to have nothing."""
        if order.reducing and (self.exits.hold(order) or not self.exits.fits(order)):
            return  # it waits for what rests of its position, or nothing is left to close
        self.dispatcher.dispatch([order])

    def on_doubt(self, account: str, text: str) -> None:
        """Halt an account of which too much is unknown (control C21): a person looks and re-arms it."""
        self.alert("critical", "UNKNOWN_ORDERS", account, f"{text}: the account is halted")
        self.spawn(
            self.latch(
                f"account:{account}", TradingState.HALTED, f"UNKNOWN_ORDERS: {text}", "engine"
            ),
            f"halt-{account}",
        )

    def on_stuck(self, order: Order, text: str) -> None:
        """Tell the operator of an order that only a person can judge."""
        self.alert(
            "critical",
            "OUTCOME_UNKNOWN",
            order.account,
            f"{order.symbol} {order.cl_ord_id}: {text}",
        )

    def gate(self, order: Order) -> tuple[str, str] | None:
        """Say why an order may not leave now; asked at the last moment before its first byte."""
        if self.journal.failed:
            return "INTERNAL", f"the journal failed: {self.journal.failed}"
        state = self.fleet.states.get(order.account)
        if state is None:
            return "INACTIVE", "the account was removed"
        if order.reducing:
            held = self.keeper.get(order.account, order.symbol)
            if held is None or held.qty * order.side.sign >= 0:
                return "NO_POSITION", "nothing is left to close"
        elif not state.active:
            return "INACTIVE", "the account was switched off"
        if not self.states:
            return None
        latch = self.states.strictest(
            f"account:{order.account}",
            f"broker:{state.broker}",
            f"strategy:{order.strategy}",
            f"symbol:{order.symbol}",
        )
        if may_send(latch, reducing=order.reducing, manual=order.source == OPERATOR):
            return None
        assert latch is not None
        return refusal(latch)

    def on_denied(self, order: Order, code: str, text: str) -> None:
        """Close an order that a lane would not send."""
        self.orders.deny(order, code, text)

    def on_account_added(self, state: AccountState) -> None:
        """Hand an account that became known after the start the orders it has."""
        self.orders.adopt(state)

    def on_connected(self, state: AccountState) -> None:
        """Bring a freshly connected account up to its broker's truth."""
        self.spawn(self._reconcile(state), f"reconcile-{state.id}")

    async def _reconcile(self, state: AccountState) -> None:
        session = self.fleet.sessions.get(state.id)
        if session is None:
            return
        pause = 1.0
        while self.fleet.sessions.get(state.id) is session and state.usable:
            try:
                external = await self.reconciler.reconcile(state, session)
                for symbol in self.keeper.open_symbols(state.id):  # its exits need to know the lot
                    await self.instruments.ensure(state.broker, symbol)
            except Exception as error:  # noqa: BLE001 (one account's failure stays its own)
                log.warning("reconciling %s failed: %s", state.id, error)
                state.last_error = f"reconciliation: {error}"
                self.publisher.touch(tables.ACCOUNTS, state.id)
                await asyncio.sleep(pause)
                pause = min(pause * 2, 30.0)
            else:
                self.exits.on_reconciled(state.id)
                if external:
                    text = f"{external} working orders at the broker are not ours"
                    self.alert("warning", "EXTERNAL", state.id, text)
                return

    # ---- latches ------------------------------------------------------------------------------------------------

    async def latch(self, scope: str, state: TradingState, reason: str, by: str) -> None:
        """Put a scope into a state: in force at once, durable when this returns."""
        at = rfc3339(self.clock.now())
        self.states.set(Latch(scope, state, reason, at, by))
        self.publisher.touch(tables.HALTS, scope)
        self.publisher.touch(tables.ENGINE, "engine")
        for account in self.fleet.states:
            self.publisher.touch(tables.ACCOUNTS, account)
        try:
            async with asyncio.timeout(
                DURABLE_WITHIN_S
            ):  # a hung disk must not hold up the cancels
                if state is TradingState.ACTIVE:
                    await self.journal.clear_halt(scope)
                else:
                    await self.journal.commit_halt(scope, state.value, reason, at, by)
        except (StoreError, TimeoutError) as error:
            self.alert(
                "critical",
                "INTERNAL",
                "",
                f"the latch of {scope} is in force but not durable: {error}",
            )
        if state in {TradingState.ACTIVE, TradingState.REDUCING}:
            self.exits.look_again()
        severity = "critical" if state is TradingState.HALTED else "info"
        self.alert(
            severity,
            state.value.upper(),
            "",
            f"{scope} is {state.value}" + (f": {reason}" if reason else ""),
        )

    # ---- prices ---------------------------------------------------------------------------------------------

    def set_prices(self, prices: Mapping[str, Decimal]) -> None:
        """Take prices from outside."""
        for symbol, price in prices.items():
            self.marks.set(symbol, price)

    # ---- telling ------------------------------------------------------------------------------------------------

    def alert(self, severity: str, code: str, account: str, text: str) -> None:
        """Tell the operator something happened."""
        self._alert_number += 1
        row = {
            "id": str(self._alert_number),
            "at": rfc3339(self.clock.now()),
            "severity": severity,
            "area": "account" if account else "engine",
            "code": code,
            "account": account,
            "text": text,
        }
        self.alerts.append(row)
        self.publisher.touch(tables.ALERTS, row["id"])
        level = {"critical": logging.ERROR, "warning": logging.WARNING}.get(severity, logging.INFO)
        log.log(level, "%s %s %s", code, account, text)

    def spawn(self, work: Coroutine[Any, Any, None], name: str) -> None:
        """Run work beside; its failure is told, never swallowed."""
        self.task(work, name).add_done_callback(self._ended)

    def task(self, work: Coroutine[Any, Any, None], name: str) -> asyncio.Task[None]:
        """Run work beside and return its task, which is also ended when the engine stops."""
        task = asyncio.get_running_loop().create_task(work, name=name)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task

    def _ended(self, task: asyncio.Task[Any]) -> None:
        if not task.cancelled() and (error := task.exception()) is not None:
            log.error("%s failed", task.get_name(), exc_info=error)
            self.alert("critical", "INTERNAL", "", f"{task.get_name()} failed: {error}")

    def _broker_of(self, account: str) -> str:
        state = self.fleet.states.get(account)
        return state.broker if state else ""
