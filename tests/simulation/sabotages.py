"""Engines broken on purpose, each in one way: the simulation must find every one of them."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import replace
from decimal import Decimal
from typing import Any
from unittest.mock import patch

from engine import recovery
from engine.execution.lane import Lane
from engine.execution.order_manager import OrderManager
from engine.execution.rate_limit import PLENTY, RateLimit, TokenBucket
from engine.execution.reconciler import Reconciler
from engine.gate import Gate
from engine.kill import KillRun
from engine.kill_latch import KillLatch
from engine.model.account_state import AccountState
from engine.model.enums import ExecType, OrderStatus, OrderType, Side, TimeInForce
from engine.model.messages import ExecutionReport
from engine.model.order import Order
from engine.model.position import Position
from engine.model.receipt import SignalReceipt
from engine.model.signal import Signal
from engine.ports import BrokerSession
from engine.risk.pretrade import PreTrade
from engine.signal_record import SignalRecord
from engine.stores import audit
from engine.stores.journal import Journal
from engine.stores.journal_rows import LoadedState, SignalEntry
from engine.trading_engine import TradingEngine

Sabotage = Callable[[], AbstractContextManager[Any]]
SABOTAGES: dict[str, Sabotage] = {}
"""By name: what breaks the engine while the context lasts. Add one with ``@sabotage`` and say what it breaks."""


def sabotage(work: Callable[[], Iterator[Any]]) -> Callable[[], Iterator[Any]]:
    """Put a sabotage into the list, under its name with dashes."""
    SABOTAGES[work.__name__.strip("_").replace("_", "-")] = contextmanager(work)
    return work


def sabotaged(name: str) -> AbstractContextManager[Any]:
    """Return the context in which the engine is broken so; unbroken without a name."""
    return SABOTAGES[name]() if name else nullcontext()


@sabotage
def blind_resend() -> Iterator[Any]:
    """An order without an answer is sent again at once."""

    def resolve(self: Reconciler, order: Order, session: BrokerSession) -> None:
        del session
        self._on_absent(order)

    with patch.object(Reconciler, "resolve", resolve):
        yield


@sabotage
def no_settle_wait() -> Iterator[Any]:
    """Two look-ups without a finding are believed before the broker's settling time is over."""
    original = Reconciler.resolve

    def resolve(self: Reconciler, order: Order, session: BrokerSession) -> None:
        session.capabilities = replace(session.capabilities, settle_s=0.0)
        original(self, order, session)

    with patch.object(Reconciler, "resolve", resolve):
        yield


@sabotage
def absent_believed_at_once() -> Iterator[Any]:
    """The first look-up without a finding is proof."""

    async def ask(self: Reconciler, order: Order, session: BrokerSession, _asked_ns: int) -> None:
        report = await session.find(order.cl_ord_id, order.symbol, order.order_id)
        if order.status is not OrderStatus.UNKNOWN:
            return
        self._forget(order, None)
        if report is not None:
            self._on_report(report)
        else:
            self._on_absent(order)

    with patch.object(Reconciler, "_ask_until_proven", ask):
        yield


@sabotage
def latch_in_memory_only() -> Iterator[Any]:
    """The kill switch is not written down: a crash forgets it."""

    async def commit_halt(*_: Any) -> None:
        return None

    def halt(*_: Any, **__: Any) -> None:
        return None

    with patch.object(Journal, "commit_halt", commit_halt), patch.object(KillLatch, "halt", halt):
        yield


@sabotage
def unknown_becomes_rejected() -> Iterator[Any]:
    """No answer counts as a refusal."""
    original = TradingEngine.on_report

    def on_report(self: TradingEngine, report: ExecutionReport) -> None:
        if report.exec_type is ExecType.UNKNOWN:
            report.exec_type, report.status = ExecType.REJECTED, OrderStatus.REJECTED
        original(self, report)

    with patch.object(TradingEngine, "on_report", on_report):
        yield


@sabotage
def fills_applied_twice() -> Iterator[Any]:
    """A fill that is told again counts again."""
    original = Order._fill

    def fill(self: Order, report: ExecutionReport, at: Any) -> Any:
        if report.exec_id in self.exec_ids:
            self.exec_ids.discard(report.exec_id)
        return original(self, report, at)

    with patch.object(Order, "_fill", fill):
        yield


@sabotage
def rate_limits_off() -> Iterator[Any]:
    """No limit of orders a second is kept."""

    def left(*_: Any, **__: Any) -> int:
        return PLENTY

    def nothing(*_: Any, **__: Any) -> None:
        return None

    with (
        patch.object(RateLimit, "left", left),
        patch.object(TokenBucket, "left", left),
        patch.object(TokenBucket, "spend", nothing),
    ):
        yield


@sabotage
def timeout_means_unsent() -> Iterator[Any]:
    """A request without an answer is taken for one that never left."""
    original = TradingEngine.on_report

    def on_report(self: TradingEngine, report: ExecutionReport) -> None:
        if report.exec_type is ExecType.UNKNOWN:
            report.exec_type, report.status = ExecType.UNSENT, None
        original(self, report)

    with patch.object(TradingEngine, "on_report", on_report):
        yield


@sabotage
def acknowledged_before_it_is_durable() -> Iterator[Any]:
    """A signal counts as written as soon as it was handed to the journal."""
    original = Journal.commit_signal
    under_way: set[asyncio.Task[Any]] = set()

    async def commit_signal(self: Journal, entry: SignalEntry) -> SignalEntry | None:
        task = asyncio.get_running_loop().create_task(original(self, entry))
        under_way.add(task)
        task.add_done_callback(under_way.discard)
        await asyncio.sleep(0)
        return None

    with patch.object(Journal, "commit_signal", commit_signal):
        yield


@sabotage
def intents_not_in_the_plan() -> Iterator[Any]:
    """The journal hears of a signal, not of the orders it is about to become."""
    original = SignalRecord.plan

    def plan(self: SignalRecord) -> dict[str, Any]:
        return original(self) | {"orders": []}

    with patch.object(SignalRecord, "plan", plan):
        yield


@sabotage
def plan_not_frozen() -> Iterator[Any]:
    """After a restart a planned order has the size that today's limits would give it."""
    original = recovery._load_records

    def load(engine: TradingEngine, loaded: LoadedState) -> list[Order]:
        fresh = original(engine, loaded)
        for record in engine.records.values():
            for order in record.orders.values():
                state = engine.fleet.states.get(order.account)
                most = state.limits.max_order_quantity if state is not None else None
                if most is not None and order.status.working:
                    order.order_qty = min(order.order_qty, max(most, order.cum_qty))
        return fresh

    with patch.object(recovery, "_load_records", load):
        yield


@sabotage
def signals_not_deduplicated() -> Iterator[Any]:
    """A signal told again is a new one."""
    original = TradingEngine.take

    async def take(
        self: TradingEngine, signal: Signal, origin: str, received: int
    ) -> SignalReceipt:
        if signal.key in self.records:
            signal = replace(signal, id=f"{signal.id}.{len(self.records)}")
        return await original(self, signal, origin, received)

    with patch.object(TradingEngine, "take", take):
        yield


@sabotage
def halts_forgotten_by_a_restart() -> Iterator[Any]:
    """What was halted is written down, and never read."""
    original = recovery._restore_states

    async def restore(engine: TradingEngine, loaded: LoadedState) -> None:
        loaded.halts.clear()
        await original(engine, loaded)

    with (
        patch.object(recovery, "_restore_states", restore),
        patch.object(KillLatch, "halts", lambda _self: []),
    ):
        yield


@sabotage
def halts_not_asked_before_the_first_byte() -> Iterator[Any]:
    """Only planning looks at halts; what waits in a queue leaves."""
    with patch.object(Gate, "_latched", lambda *_: None):
        yield


@sabotage
def age_judged_at_intake_only() -> Iterator[Any]:
    """A signal that was fresh when it came in stays fresh, however long its orders wait."""
    with patch.object(Lane, "_refused", lambda self, order, _now: self._gate(order)):
        yield


@sabotage
def throttle_by_the_wall_clock() -> Iterator[Any]:
    """Orders a second are counted by a clock that people set."""
    original = Lane._may_leave

    def may_leave(self: Lane, order: Order, _now: int) -> bool:
        return original(self, order, int(self._clock.now().timestamp() * 1e9))

    with patch.object(Lane, "_may_leave", may_leave):
        yield


@sabotage
def limits_not_checked() -> Iterator[Any]:
    """No entry is held against its account's limits."""
    with patch.object(PreTrade, "refusal", lambda *_: None):
        yield


@sabotage
def float_sums() -> Iterator[Any]:
    """Positions and cash are added up in binary floating point."""
    original = Position.apply

    def apply(self: Position, side: Side, quantity: Decimal, price: Decimal) -> None:
        cash = float(self.cash) - float(quantity) * float(price) * side.sign
        original(self, side, quantity, price)
        self.cash = Decimal(cash)

    with patch.object(Position, "apply", apply):
        yield


@sabotage
def looked_up_fills_counted_again() -> Iterator[Any]:
    """Executions that come late, behind the look-up that told their total, count once more."""
    with patch.object(Order, "_not_derived", lambda _self, quantity, _total: quantity):
        yield


@sabotage
def ends_are_not_final() -> Iterator[Any]:
    """A late report revives an order that has ended."""
    original = Order._next_status

    def next_status(self: Order, report: ExecutionReport) -> OrderStatus | None:
        if self.status.terminal and report.exec_type is ExecType.NEW and not self.cum_qty:
            return OrderStatus.NEW
        return original(self, report)

    with patch.object(Order, "_next_status", next_status):
        yield


@sabotage
def cancel_believed_when_asked() -> Iterator[Any]:
    """An order counts as cancelled as soon as its cancel was sent."""
    original = Lane._send_change

    def send(self: Lane, order: Order, replacement: Order | None) -> None:
        original(self, order, replacement)
        if replacement is None and order.was_sent:
            order.status = OrderStatus.CANCELED

    with patch.object(Lane, "_send_change", send):
        yield


@sabotage
def kill_without_cancels() -> Iterator[Any]:
    """The kill switch stops what has not left, and lets what works at the brokers go on."""

    async def chase(*_: Any) -> None:
        return None

    with patch.object(KillRun, "_cancel", lambda *_: 0), patch.object(KillRun, "_chase", chase):
        yield


@sabotage
def kill_without_a_chase() -> Iterator[Any]:
    """The kill switch cancels what the engine knows, once, and never looks at the brokers' lists."""

    async def chase(*_: Any) -> None:
        return None

    with patch.object(KillRun, "_chase", chase):
        yield


@sabotage
def gap_in_the_audit_trail() -> Iterator[Any]:
    """One row in a hundred is chained and never written."""
    original = audit.append

    def append(connection: Any, head: audit.Head, entries: Any) -> audit.Head:
        rows = list(entries)
        kept = [row for n, row in enumerate(rows, head.seq + 1) if n % 100]
        after = original(connection, head, kept)
        return audit.Head(head.seq + len(rows), after.hash)

    with patch.object(audit, "append", append):
        yield


@sabotage
def two_copies_leave() -> Iterator[Any]:
    """Every twentieth order is handed to its connection twice, and nothing counts what leaves."""
    original = Lane._send_first
    count = 0

    def send_first(self: Lane, queue: deque[Order]) -> bool:
        nonlocal count
        order = queue[0]
        went_on = original(self, queue)
        if order.status is OrderStatus.PENDING_NEW and order not in queue:
            count += 1
            if not count % 20:
                self.session.submit(order)
        return went_on

    with patch.object(Lane, "_send_first", send_first):
        yield


@sabotage
def recovered_orders_leave_at_once() -> Iterator[Any]:
    """After a restart an order without proof is sent, not looked up."""
    original = Reconciler.resolve

    def resolve(self: Reconciler, order: Order, session: BrokerSession) -> None:
        if order.text.startswith("the engine stopped"):
            self._on_absent(order)
        else:
            original(self, order, session)

    with patch.object(Reconciler, "resolve", resolve):
        yield


@sabotage
def another_accounts_report_believed() -> Iterator[Any]:
    """A report under the wrong account is taken for the order it names."""
    original = OrderManager.apply

    def apply(self: OrderManager, report: ExecutionReport) -> Order | None:
        order = self.find(report)
        if order is not None and order.account != report.account:
            report = replace(report, account=order.account)
            report.exec_id = f"{report.exec_id}'" if report.exec_id else ""
        return original(self, report)

    with patch.object(OrderManager, "apply", apply):
        yield


@sabotage
def orders_of_others_cancelled() -> Iterator[Any]:
    """What the engine does not know at a broker is taken for a stray of its own, and cancelled."""
    original = Reconciler._unlisted_here

    def unlisted(self: Reconciler, account: str, report: ExecutionReport, check: Any) -> None:
        original(self, account, report, check)
        session = _SESSIONS.get(account)
        if report in check.foreign and session is not None and report.side is not None:
            stray = Order(
                cl_ord_id=report.cl_ord_id, account=account, symbol=report.symbol, side=report.side,
                order_qty=report.order_qty or Decimal(1), order_type=OrderType.LIMIT,
                time_in_force=TimeInForce.GTC, created_at=self._clock.now(),
            )  # fmt: skip
            stray.order_id = report.order_id
            session.cancel(stray)

    compare = Reconciler.compare

    async def noting(self: Reconciler, state: AccountState, session: BrokerSession) -> Any:
        _SESSIONS[state.id] = session
        return await compare(self, state, session)

    with (
        patch.object(Reconciler, "_unlisted_here", unlisted),
        patch.object(Reconciler, "compare", noting),
    ):
        yield


_SESSIONS: dict[str, BrokerSession] = {}
