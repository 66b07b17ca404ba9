"""The engine as others see it: signals and commands in, rows out; inside, the straight way of an order."""

from __future__ import annotations

import asyncio
import logging
from collections import OrderedDict
from collections.abc import Awaitable, Callable, Coroutine, Mapping
from datetime import timedelta
from decimal import Decimal
from typing import Any

import orjson

from engine import failpoints
from engine.alert_channels import AlertChannels
from engine.alerts import AlertBook
from engine.bars import Bars
from engine.clock import Clock, rfc3339
from engine.config import Config, HookConfig
from engine.copies import Copies
from engine.curves import Curves
from engine.documents import signal_document
from engine.eligibility.index import EligibilityIndex
from engine.errors import InvalidSignal
from engine.execution.dispatcher import Dispatcher
from engine.execution.order_manager import OrderManager
from engine.execution.reconciler import Reconciler
from engine.fleet import Fleet
from engine.gate import Gate
from engine.held_signals import HeldSignals
from engine.intake.parser import parse_signal
from engine.intake.tradingview import map_alert
from engine.kill_latch import KillLatch
from engine.latches import Latches, LatchHooks
from engine.market.instruments import Instruments
from engine.model import tables
from engine.model.account_state import AccountState
from engine.model.enums import (
    Action,
    ConnectionState,
    OrderStatus,
    SignalState,
    TradingState,
)
from engine.model.identifiers import OPERATOR, PROTECTIVE
from engine.model.messages import ExecutionReport
from engine.model.order import Order
from engine.model.receipt import SignalReceipt
from engine.model.signal import Signal
from engine.parts import (
    Exits,
    Guards,
    News,
    Operator,
    PriceSource,
    Reconciliation,
    Reports,
    Service,
    Staged,
)
from engine.planner import Plan, Planner
from engine.portfolio.marks import Marks
from engine.portfolio.position_keeper import PositionKeeper
from engine.ports import BrokerSession, History, Mirror
from engine.price_drift import DriftGuard
from engine.publisher import Publisher
from engine.risk.controls_book import ControlsBook
from engine.risk.pretrade import PreTrade
from engine.risk.settings import settings_of
from engine.risk.trading_state import FIRM, TradingStates, refusal
from engine.signal_record import SignalRecord, Stamps
from engine.stores.journal import Journal
from engine.stores.journal_rows import SignalEntry
from engine.telemetry.latency import Latency

log = logging.getLogger(__name__)

MOST_RECORDS = 2_000
MOST_RECORDED_ORDERS = 100_000  # together: so many records of wide signals would fill the memory
FIRST_TRY_S = 3.0
SETTLE_NS = 2_000_000_000
_OWN_SOURCES = {
    OPERATOR: "orders made by hand",
    PROTECTIVE: "the engine's own exits",
}


class TradingEngine:
    """One book: its accounts, signals, orders and positions. Lives on one event loop."""

    pretrade: PreTrade  # set by wiring, as those below

    def __init__(  # noqa: PLR0913, PLR0915 (wiring.py is the only caller; half of it declares what that sets)
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
        self._recorded_orders = 0
        self.alerts = AlertBook(
            clock,
            lambda key: publisher.touch(tables.ALERTS, key),
            journal.note_fact,
            float(config.safety.halt_unacknowledged_s),
            self._nobody_acknowledged,
        )
        self.controls = ControlsBook(
            lambda: rfc3339(clock.now()),
            lambda number: publisher.touch(tables.CONTROLS, number),
            lambda: settings_of(config, self.fleet.states.values()),
        )
        self.facts: dict[str, dict[str, Any]] = {}
        """What the controls kept in the journal, by kind and key, as of the start."""
        self.counts = {"signals": 0, "orders": 0, "fills": 0}
        self.started_at = clock.now()
        self.fingerprint = ""  # of program, configuration and limits; new intents carry it (C28)
        self._inflight: dict[str, asyncio.Future[None]] = {}
        self._tasks: set[asyncio.Task[Any]] = set()
        self._fresh_ns = int(float(config.limits.reference_max_age_s) * 1e9)
        self.copies = Copies(mirror, history, clock, marks, self._broker_of)
        self.held = HeldSignals(clock, config.signals.approval_timeout_s, self._hold_over)
        self.drift = DriftGuard(config.signals, marks)
        # Set by wiring, which knows what they need of the engine:
        self.bars: Bars
        self.curves: Curves
        self.exits: Exits
        self.fleet: Fleet
        self.outward: AlertChannels
        self.operator: Operator
        self.reconciliation: Reconciliation
        self.reports: Reports
        self.shared: KillLatch
        self.guards: Guards
        self.last_gate: Gate
        self.staged: Staged
        self.news: News
        self.services: list[Service] = []
        self.latches = Latches(clock, states, journal, publisher, self._latch_hooks())
        self.links: dict[str, Callable[[], tuple[ConnectionState, str]]] = {}
        self.orders: OrderManager
        self.planner: Planner
        self.instruments: Instruments
        self.reconciler: Reconciler
        self.check_owner: Callable[[AccountState, BrokerSession], Awaitable[None]]
        self.prices: PriceSource | None = None

    def _latch_hooks(self) -> LatchHooks:
        """Return what latches need of parts that are not there yet."""
        return LatchHooks(
            shared=lambda: self.shared,
            accounts=lambda: self.fleet.states,
            alert=self._tell_of_scope,
            changed=lambda scope, before, after: self.guards.latched(scope, before, after),  # noqa: PLW0108
            loosened=lambda: self.exits.look_again(),  # noqa: PLW0108 (set by wiring, later)
        )

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
        await self._settle()
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
        self.shared.close()

    async def _settle(self) -> None:
        """Wait a moment for the answers to what is on the wire; what stays open is looked up by the next engine."""
        deadline = self.clock.monotonic_ns() + SETTLE_NS
        while self.clock.monotonic_ns() < deadline and any(  # noqa: ASYNC110 (a state of many)
            order.first_byte_ns and order.status is OrderStatus.PENDING_NEW
            for order in self.orders.working()
        ):
            await asyncio.sleep(0.01)

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
        self.guards.look_at_clock()
        record = SignalRecord(signal, origin, self.clock.now(), SignalState.ACCEPTED, stamps=stamps)
        record.fp = self.fingerprint
        code, message = self.triage(signal)
        plan = Plan(code=code, message=message)
        if not code:
            await self.prepare(signal)
            plan = self.planner.plan(signal)
        self._adopt(record, plan)
        if failpoints.ARMED:
            failpoints.hit("K09.before")
        self.pretrade.begin(signal, sent=bool(plan.orders), held=bool(plan.held))
        for order in plan.orders:
            self.orders.add(
                order
            )  # counts from now on: the next signal is planned while this one is written
        if failpoints.ARMED:
            failpoints.hit("K09.after")
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
        earlier = await self._make_durable(signal, entry, plan)
        if failpoints.ARMED:
            failpoints.hit("K04.before")
        stamps.durable = self.clock.monotonic_ns()
        if earlier is not None:
            same = earlier.body_hash == signal.body_hash
            state, code, message = earlier.plan["first"]
            return SignalReceipt(
                signal.id, signal.source, SignalState(state), code, message, repeated=same, contradicted=not same
            )  # fmt: skip
        self.orders.ledger.committed(record.key, plan.orders)
        record.entry = entry
        self.remember(record)
        self.counts["signals"] += 1
        if failpoints.ARMED:
            failpoints.hit("K08.before")
        self._carry_out(record, plan)
        if failpoints.ARMED:
            failpoints.hit("K08.after")
        self.controls.refused_all(record.skipped)
        self.controls.refused_all(record.refused)
        self.publisher.touch(tables.SIGNALS, record.key)
        if self.prices is not None:
            self.prices.follow(signal.symbol)
        return record.receipt()

    async def _make_durable(
        self, signal: Signal, entry: SignalEntry, plan: Plan
    ) -> SignalEntry | None:
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
            seq = entry.seq if durable else None
            self.pretrade.end(signal, seq, sent=bool(plan.orders), held=bool(plan.held))

    def triage(self, signal: Signal) -> tuple[str, str]:
        """Refuse at once what is too old or may not act: ``("", "")`` to go on."""
        age = (self.clock.now() - signal.issued_at).total_seconds()
        most = self.max_age_s(signal)
        if age > most:
            return "STALE", f"{age:.1f} s old when it came in, allowed are {most:g} s"
        if signal.action is Action.CANCEL:
            return "", ""  # cancels pass under every state
        latch = self.states.strictest(f"strategy:{signal.strategy}", f"symbol:{signal.symbol}")
        if latch is None or (signal.side is None and latch.state is TradingState.REDUCING):
            return "", ""
        return refusal(latch)

    def max_age_s(self, signal: Signal) -> float:
        """Return how old a signal may be when its orders leave."""
        return float(
            signal.valid_for_s if signal.valid_for_s is not None else self.config.signals.max_age_s
        )

    async def prepare(self, signal: Signal | Order) -> None:
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
            for broker in sorted(self.fleet.usable_brokers)
            if not self.instruments.known(broker, signal.symbol)
        ]
        if wanted:
            await asyncio.gather(*wanted)

    def _adopt(self, record: SignalRecord, plan: Plan) -> None:
        """Write a plan into the record."""
        self.planner.tell_everybody(record.signal, plan)
        if plan.code:
            record.state, record.code, record.message = SignalState.REFUSED, plan.code, plan.message
        elif plan.held and not plan.orders:
            record.state = SignalState.HELD
        record.skipped, record.refused = plan.skipped, plan.refused
        record.orders = {order.account: order for order in plan.orders}
        record.cancels = plan.cancels
        record.done = dict.fromkeys(plan.stops, "stops changed")
        if plan.held:
            record.held = dict.fromkeys(plan.held)
            record.price = self.drift.since(record.signal)
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
        self.news.record_stages(record)

    def _time_left_ns(self, signal: Signal) -> int:
        age = (self.clock.now() - signal.issued_at).total_seconds()
        return int((self.max_age_s(signal) - max(age, 0.0)) * 1e9)

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
        if record is not None and record.entry is not None and orders and not record.undecided:
            self.journal.note_settled(record.entry.seq)

    def cancel(self, order: Order, code: str, text: str) -> bool:
        """Cancel a working order: deny it while it has not left, else ask the broker. Say whether either was done."""
        if self.withhold(order, code, text):
            return True
        lane = self.dispatcher.lanes.get(order.account)
        if lane is None:
            return False
        if failpoints.ARMED:
            failpoints.hit("K26.before")
        lane.cancel(order)
        if failpoints.ARMED:
            failpoints.hit("K26.after")
        return True

    def withhold(self, order: Order, code: str, text: str) -> bool:
        """Deny an order that has not left; say whether it was still here."""
        lane = self.dispatcher.lanes.get(order.account)
        if lane is not None and lane.deny(order, code, text):
            return True
        return self.dispatcher.deny(order, code, text) or self.exits.deny(order, code, text)

    def remember(self, record: SignalRecord) -> None:
        """Keep a signal in memory; the oldest of those that are over go."""
        self.records[record.key] = record
        record.weight = len(record.orders) + len(record.held)
        self._recorded_orders += record.weight
        while len(self.records) > MOST_RECORDS or self._recorded_orders > MOST_RECORDED_ORDERS:
            key, oldest = next(iter(self.records.items()))
            if oldest.undecided or any(order.status.working for order in oldest.orders.values()):
                self.records.move_to_end(key)
                break
            del self.records[key]
            self._recorded_orders -= oldest.weight
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
        done = (order.first_byte_ns or order.status.terminal for order in record.orders.values())
        if not record.undecided and all(done):
            self.journal.note_settled(entry.seq)

    # ---- reports -------------------------------------------------------------------------------------------------

    def on_report(self, report: ExecutionReport) -> None:
        """Take an execution report from a session."""
        if failpoints.ARMED and (report.last_qty or report.cum_qty):
            failpoints.hit("K23.before")
        try:
            self.orders.apply(report)
        except Exception as error:  # noqa: BLE001 (a fault of ours in a callback must halt, not vanish)
            self.failed(f"a report of {report.cl_ord_id}", error, report.account)
        if failpoints.ARMED and (report.last_qty or report.cum_qty):
            failpoints.hit("K23.after")

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

    def gate(self, order: Order) -> tuple[str, str] | None:
        """Say why an order may not leave now; asked at the last moment before its first byte."""
        return self.last_gate.refusal(order)

    def on_denied(self, order: Order, code: str, text: str) -> None:
        """Close an order that a lane would not send."""
        self.controls.refused(code, order.account, text)
        self.orders.deny(order, code, text)

    def on_account_added(self, state: AccountState) -> None:
        """Hand an account that became known after the start the orders it has."""
        self.orders.adopt(state)

    def on_connected(self, state: AccountState) -> None:
        """Bring a freshly connected account up to its broker's truth."""
        self.spawn(self._reconcile(state), f"reconcile-{state.id}", state.id)

    async def _reconcile(self, state: AccountState) -> None:
        session = self.fleet.sessions.get(state.id)
        if session is None:
            return
        pause = 1.0
        while self.fleet.sessions.get(state.id) is session and state.usable:
            try:
                await self.check_owner(state, session)
                await self.reconciliation.first(state, session)
            except Exception as error:  # noqa: BLE001 (one account's failure stays its own)
                log.warning("reconciling %s failed: %s", state.id, error)
                state.last_error = f"reconciliation: {error}"
                self.publisher.touch(tables.ACCOUNTS, state.id)
                await asyncio.sleep(pause)
                pause = min(pause * 2, 30.0)
            else:
                self.exits.on_reconciled(state.id)
                self.guards.reconciled(state)
                return

    # ---- latches ------------------------------------------------------------------------------------------------

    async def latch(self, scope: str, state: TradingState, reason: str, by: str) -> None:
        """Put a scope into a state: in force at once, durable when this returns."""
        await self.latches.set(scope, state, reason, by)

    # ---- prices ---------------------------------------------------------------------------------------------

    def set_prices(self, prices: Mapping[str, Decimal]) -> None:
        """Take prices from outside."""
        for symbol, price in prices.items():
            self.marks.set(symbol, price)

    # ---- telling ------------------------------------------------------------------------------------------------

    def alert(self, severity: str, code: str, account: str, text: str) -> None:
        """Tell the operator something happened."""
        self._tell_of_scope(severity, code, account, text, "")

    def _tell_of_scope(self, severity: str, code: str, account: str, text: str, scope: str) -> None:
        self.controls.told(code, account, text)
        self.alerts.tell(severity, code, account, text, scope)
        if severity == "critical":
            self.journal.audit("alert", {"code": code, "text": text, "scope": scope}, account)

    def _nobody_acknowledged(self, text: str) -> None:
        self.alert("critical", "UNACKNOWLEDGED", "", f"{text}: everything is halted")
        self.guards.halt(FIRM, f"UNACKNOWLEDGED: {text}")

    def spawn(self, work: Coroutine[Any, Any, None], name: str, account: str = "") -> None:
        """Run work beside, for one account or for all; its failure halts them and is told, never swallowed (F59)."""
        self._tasks.add(self.task(work, name, account))

    def task(
        self, work: Coroutine[Any, Any, None], name: str, account: str = ""
    ) -> asyncio.Task[None]:
        """Run work beside as ``spawn`` does and return its task, which is also ended when the engine stops."""
        task = asyncio.get_running_loop().create_task(work, name=name)
        self._tasks.add(task)
        task.add_done_callback(lambda done: self._ended(done, account))
        return task

    def _ended(self, task: asyncio.Task[Any], account: str) -> None:
        self._tasks.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None:
            self.failed(task.get_name(), error, account)

    def failed(self, what: str, error: BaseException, account: str = "") -> None:
        """Halt what a fault of ours may have touched: the account it belongs to, or everything."""
        log.error("%s failed", what, exc_info=error)
        text = f"{what} failed: {type(error).__name__}: {error}"
        self.alert("critical", "INTERNAL", account, text)
        self.guards.halt(f"account:{account}" if account else FIRM, f"INTERNAL: {text}")

    def _broker_of(self, account: str) -> str:
        state = self.fleet.states.get(account)
        return state.broker if state else ""
