"""The controls that act while trading, put together: what trips by itself, and what keeps entries waiting."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Iterable, Iterator
from datetime import datetime
from typing import TYPE_CHECKING, Any, Final

from engine.eligibility import rules
from engine.errors import BrokerError
from engine.execution.lane import Lane
from engine.model.account import Account
from engine.model.account_state import AccountState
from engine.model.enums import OrderStatus, TradingState
from engine.model.order import Order
from engine.ports import PacedSession
from engine.risk import clock_guard, daily_loss, rejects, trips
from engine.risk.breaker import Breaker
from engine.risk.clock_guard import ClockGuard
from engine.risk.daily_loss import DailyLoss
from engine.risk.rejects import Rejects
from engine.risk.trading_state import FIRM, Latch
from engine.risk.trips import Trips
from engine.signal_record import SignalRecord

if TYPE_CHECKING:
    from engine.trading_engine import TradingEngine

log = logging.getLogger(__name__)

TICK_S: Final = 1.0
NOT_RECONCILED: Final = "NOT_RECONCILED"
BREAKER_OPEN: Final = "BREAKER_OPEN"
PROBE_WITHIN_S: Final = 10.0
RECALL_S: Final = 60.0


class Guards:
    """C01, C08, C22 to C24, C26 and the escalation of C29, on one engine."""

    def __init__(self, engine: TradingEngine) -> None:
        self._engine = engine
        config, clock, keep = engine.config, engine.clock, engine.journal.note_fact
        safety = config.safety
        self.trips = Trips(
            clock,
            engine.states,
            engine.controls,
            engine.journal,
            engine.alert,
            engine.latch,
            engine.spawn,
        )
        self.rejects = Rejects(
            safety.consecutive_rejects,
            safety.reject_percent,
            lambda scope, text: self.trips.trip("C23", scope, "REJECT_STORM", text),
            keep,
        )
        self.clock = ClockGuard(
            clock,
            safety.clock_warn_ms,
            safety.clock_block_ms,
            lambda scope, text: self.trips.trip("C26", scope, "CLOCK", text),
            lambda scope, why: self.trips.clear("C26", scope, why),
            lambda broker, text: engine.alerts.tell("warning", "CLOCK", "", text, broker),
            self._stepped,
            keep,
        )
        self.losses = DailyLoss(
            clock,
            engine.fleet.states,
            config.limits.max_daily_loss,
            lambda account: engine.keeper.pnl(account).total,
            rules.within_daily_loss,
            lambda scope, text: self.trips.trip("C08", scope, "DAILY_LOSS", text),
            lambda scope, why: self.trips.clear("C08", scope, why),
            keep,
            self._priced,
        )
        self.trips.on_lifted = {"C23": self.rejects.reset, "C26": self.clock.accept}
        self._breakers: dict[str, Breaker] = {}
        self._task: asyncio.Task[None] | None = None

    # ---- life ------------------------------------------------------------------------------------------------

    def load(self, facts: dict[str, dict[str, Any]]) -> None:
        """Go on after a restart: latches, accounts and orders have been loaded."""
        self.trips.load(facts.get(trips.FACT, {}))
        self.rejects.load(facts.get(rejects.FACT, {}))
        self.losses.load(facts.get(daily_loss.FACT, {}))
        self.clock.load(facts.get(clock_guard.FACT, {}))
        self._engine.fleet.limits.recall(self._just_sent())

    def _just_sent(self) -> Iterator[tuple[Account, int]]:
        """Return what an earlier process has sent within the longest window of any limit."""
        engine = self._engine
        now = engine.clock.now()
        for order in engine.orders.orders.values():
            state = engine.fleet.states.get(order.account)
            if state is None or not (order.was_sent or order.status is OrderStatus.UNKNOWN):
                continue
            ago_s = (now - order.created_at).total_seconds()
            if ago_s < RECALL_S:
                yield state.account, int(max(ago_s, 0.0) * 1e9)

    async def start(self) -> None:
        """Begin to look each second; say how much is unknown from before the start."""
        unknown = sum(
            order.status is OrderStatus.UNKNOWN for order in self._engine.orders.working()
        )
        if unknown:
            orders = "1 order is" if unknown == 1 else f"{unknown} orders are"
            text = f"{orders} of unknown outcome since before the start and being looked up"
            self._engine.alert("warning", "OUTCOME_UNKNOWN", "", text)
        self._task = self._engine.task(self._run(), "guards")

    async def stop(self) -> None:
        """End."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)
            self._task = None
        self.clock.mark()

    async def _run(self) -> None:
        while True:
            try:
                self.tick()
            except Exception as error:  # a fault here must not end every control
                log.exception("controls")
                text = f"controls: {type(error).__name__}: {error}"
                self._engine.alert("critical", "INTERNAL", "", text)
            await asyncio.sleep(TICK_S)

    def tick(self) -> None:
        """Do what is due."""
        self.clock.tick()
        self.losses.tick()
        self._engine.alerts.tick()

    def _priced(self, state: AccountState) -> bool:
        engine = self._engine
        symbols = engine.keeper.open_symbols(state.id)
        return all(engine.marks.price(symbol) is not None for symbol in symbols)

    # ---- the arm gate (C01) ----------------------------------------------------------------------------------

    def guard(self, state: AccountState, lane: Lane) -> None:
        """Take a new lane: its account's entries wait until it has been compared with its broker."""
        engine = self._engine
        lane.conserve = engine.orders.ledger.let_go
        lane.on_violation = self.violated
        if isinstance(lane.session, PacedSession):
            account = state.id
            lane.session.pace(lane.read_wait_s, lambda *heard: self.date(account, *heard))
        if not state.reconciled:
            lane.hold_entries(NOT_RECONCILED, f"{state.id}: not reconciled")
        venue = state.venue
        if (breaker := self._breakers.get(venue)) is not None and breaker.is_open:
            lane.hold_entries(BREAKER_OPEN, f"the breaker of {venue} is open")

    def reconciled(self, state: AccountState) -> None:
        """Let an account's entries leave: it has been compared with its broker."""
        lane = self._engine.dispatcher.lanes.get(state.id)
        if lane is not None:
            lane.release_entries(NOT_RECONCILED)

    # ---- conservation (C22) ----------------------------------------------------------------------------------

    def violated(self, order: Order, why: str) -> None:
        """Halt everything: more was about to leave than was planned."""
        engine = self._engine
        engine.journal.audit("trip", {"control": "C22", "scope": FIRM, "code": "CONSERVATION",
                                      "text": why}, order.account)  # fmt: skip
        engine.controls.trip("C22", why, code="CONSERVATION", account=order.account, key=FIRM)
        engine.alert("critical", "CONSERVATION", order.account, f"{why}: everything is halted")
        self.halt(FIRM, f"CONSERVATION: {why}")

    def halt(self, scope: str, reason: str) -> None:
        """Halt a scope at once, durably a moment later."""
        engine = self._engine
        at = engine.publisher.stamp()
        standing = engine.states.get(scope)
        if standing is None or standing.state is not TradingState.HALTED:
            engine.states.set(Latch(scope, TradingState.HALTED, reason, at, "engine"))
        engine.spawn(engine.latch(scope, TradingState.HALTED, reason, "engine"), f"halt-{scope}")

    def latched(self, scope: str, before: Latch | None, after: Latch) -> None:
        """Follow a scope's latch."""
        self.trips.latched(scope, before, after)
        if after.state is TradingState.ACTIVE and scope == FIRM:
            self._engine.controls.clear("C22", FIRM)

    # ---- what brokers answer (C23, C24) ------------------------------------------------------------------------

    def answered(self, order: Order) -> None:
        """Take an order's change: rejections are counted, and answers that failed or did not come."""
        self.rejects.order(order)
        status = order.status
        if status is OrderStatus.DENIED or status is OrderStatus.PENDING_NEW:
            return
        state = self._engine.fleet.states.get(order.account)
        if state is not None and order.first_byte_ns:
            self._note_answer(state, status is OrderStatus.UNKNOWN)

    def decided(self, record: SignalRecord) -> None:
        """Take a signal all of whose orders have been answered."""
        self.rejects.signal(record.signal.strategy, record.orders)

    def _note_answer(self, state: AccountState, failed: bool) -> None:
        venue = state.venue
        breaker = self._breakers.get(venue)
        if breaker is None:
            safety = self._engine.config.safety
            breaker = Breaker(safety.breaker_percent, float(safety.breaker_window_s))
            self._breakers[venue] = breaker
        why = breaker.note(failed, self._engine.clock.monotonic_ns())
        if why:
            self._open(venue, state.broker, f"{venue}: {why}; entries wait for a read to succeed")

    def _open(self, venue: str, broker: str, text: str) -> None:
        engine = self._engine
        for lane in self._lanes_at(venue):
            lane.hold_entries(BREAKER_OPEN, text)
        engine.controls.trip("C24", text, code=BREAKER_OPEN, key=venue)
        engine.journal.audit("breaker", {"venue": venue, "open": True, "text": text})
        engine.alerts.tell("critical", BREAKER_OPEN, "", text, venue)
        engine.spawn(self._probe(venue), f"breaker {broker}")

    async def _probe(self, venue: str) -> None:
        """Read until a read succeeds; never an order."""
        breaker = self._breakers[venue]
        while True:
            await asyncio.sleep(breaker.next_probe_s())
            if await self._reads(venue, breaker.probes - 1):
                break
        breaker.close()
        engine = self._engine
        engine.controls.clear("C24", venue)
        engine.journal.audit("breaker", {"venue": venue, "open": False})
        engine.alerts.tell("info", BREAKER_OPEN, "", f"{venue}: a read succeeded, entries go on",
                           f"{venue} over")  # fmt: skip
        for lane in self._lanes_at(venue):
            lane.release_entries(BREAKER_OPEN)

    async def _reads(self, venue: str, attempt: int) -> bool:
        """Read by one of a venue's accounts, by another each time: one that is locked out must not hold up all."""
        engine = self._engine
        now = engine.clock.monotonic_ns()
        sessions = [
            session
            for state in engine.fleet.states.values()
            if state.usable
            and state.venue == venue
            and (session := engine.fleet.sessions.get(state.id)) is not None
            # Asked for quiet, the broker gets it.
            and (
                (lane := engine.dispatcher.lanes.get(state.id)) is None
                or lane.paused_until_ns <= now
            )
        ]
        if not sessions:
            return False
        try:
            async with asyncio.timeout(PROBE_WITHIN_S):
                await sessions[attempt % len(sessions)].balances()
        except (BrokerError, TimeoutError) as error:
            log.info("breaker of %s: %s", venue, error)
            return False
        return True

    def _lanes_at(self, venue: str) -> Iterable[Lane]:
        engine = self._engine
        return [
            engine.dispatcher.lanes[state.id]
            for state in engine.fleet.states.values()
            if state.venue == venue and state.id in engine.dispatcher.lanes
        ]

    # ---- the clock (C26) ---------------------------------------------------------------------------------------

    def date(self, account: str, date: datetime, sent_ns: int, came_ns: int) -> None:
        """Take a broker's ``Date``, from a read or a probe."""
        state = self._engine.fleet.states.get(account)
        if state is not None:
            self.clock.heard(state.broker, date, sent_ns, came_ns)

    def look_at_clock(self) -> None:
        """Compare the wall clock with the monotonic one, before a signal's age is believed."""
        self.clock.look()

    def _stepped(self, ahead_ns: int) -> None:
        """Make what waits older: the monotonic clock stood still (the machine slept), or the wall clock was set."""
        for lane in self._engine.dispatcher.lanes.values():
            lane.age(ahead_ns)
