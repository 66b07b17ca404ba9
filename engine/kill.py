"""The kill switch at work: nothing leaves any more, every working order is cancelled, late ones are chased."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field
from datetime import datetime
from decimal import Decimal
from functools import partial
from typing import TYPE_CHECKING, Any

from engine import failpoints
from engine.clock import rfc3339
from engine.errors import BrokerError, StoreError
from engine.kill_exits import KillExits
from engine.kill_latch import CLOSED_OUTSIDE
from engine.model import tables
from engine.model.account_state import AccountState
from engine.model.enums import OrderStatus, OrderType, TimeInForce
from engine.model.identifiers import OPERATOR
from engine.model.messages import ExecutionReport
from engine.model.numbers import to_text
from engine.model.order import Order
from engine.risk.trading_state import FIRM

if TYPE_CHECKING:
    from engine.execution.lane import Lane
    from engine.orders_by_hand import OrdersByHand
    from engine.ports import BrokerSession, Swept
    from engine.trading_engine import TradingEngine

LOOK_EVERY_S = 0.1
LIST_EVERY_S = 0.5
CANCEL_AGAIN_S = 2.0
GIVE_UP_S = 120.0
"""After so long a person is called; the chase goes on, slower."""
SLOWER = 4
WHOLE = {"all", "account", "broker"}
"""Kinds of scopes in which an account's orders are to go whole, others' with them."""
WITHHELD = "the kill switch came before it left"
ONE = Decimal(1)
UNSEEN = "not connected: what works there cannot be seen"


@dataclass(slots=True)
class Progress:
    """One account under a kill. Times are the loop's seconds."""

    asked: dict[str, float] = field(default_factory=dict)
    """What was asked to be cancelled (ClOrdID, or the broker's id where it is not ours), and when last."""
    canceled: list[Order] = field(default_factory=list)
    listed: int = 0
    """What the broker's own list last held of the scope."""
    late: int = 0
    """Orders that came up after the first sweep."""
    error: str = ""
    verified_at: str | None = None
    """When the broker's own list was read without any of the scope, after the last cancel."""


class KillRun:
    """One press of the kill switch, from the latch to an empty book; its progress is the table ``kill``.

    Each account goes at its own pace: one that cannot be reached holds up no other.
    """

    def __init__(
        self, engine: TradingEngine, desk: OrdersByHand, scope: str, command_id: str, flatten: bool
    ) -> None:
        self._engine = engine
        self._desk = desk
        self._scope = scope
        self._kind = scope.partition(":")[0]
        self._command_id = command_id
        self._loop = asyncio.get_running_loop()
        self._began = self._loop.time()
        self._pressed_at = engine.clock.now()
        self._outside = KillExits(engine.shared)
        self._accounts: dict[str, Progress] = {}
        self._tasks: list[asyncio.Task[Any]] = []
        self.flatten = flatten
        self.over = False
        """Whether every account is clear."""
        self._closed = False  # its exits are durable
        self._told_outside = False
        self.count = 0
        """Cancels asked for at the beginning."""
        self.exits_wait = False
        """Whether positions are to be closed, and a cancel of all keeps the exits from leaving yet."""

    async def begin(self) -> int:
        """Deny what is queued, ask for every cancel; the rest goes on beside. Return the cancels asked for."""
        for lane in self._engine.dispatcher.lanes.values():
            lane.pump()  # the gate denies what the latch forbids
        self._engine.fleet.refuse_barred()
        await asyncio.sleep(0)  # what waited for a connection is back in its lane, and denied below
        count = 0
        for state in self._engine.fleet.states.values():
            if self._kind in {"symbol", "strategy"} or self._desk.in_scope(self._scope, state):
                self._accounts[state.id] = Progress()
                count += self._cancel_in_one(state)
                count += self._cancel(state)
        self.count = count
        self._touch_all()
        if self.flatten:
            self._engine.shared.begin_exits()
            if self._engine.shared.sweep_left_s(own=False):
                self.exits_wait = True
                self._tasks.append(self._engine.task(self._close_later(), "kill-exits"))
            else:
                await self._close()
        for account in self._accounts:
            self._tasks.append(self._engine.task(self._chase(account), f"kill-{account}"))
        self._tasks.append(self._engine.task(self._end(tuple(self._tasks)), "kill"))
        return count

    async def _close(self) -> None:
        """Close the scope's positions. Exits are an operator's own orders: they pass the halt they belong to."""
        try:
            exits = self._desk.exits(self._scope, self._command_id)
            await self._desk.send_by_hand(self._left_to_us(exits))
            self._closed = True
        except StoreError as error:
            self._engine.alert("critical", "INTERNAL", "", f"positions are not closed: {error}")

    def _left_to_us(self, orders: list[Order]) -> list[Order]:
        """Return those whose positions no other process closes; alert once if it closes some."""
        ours = self._desk.left_to_us(orders)
        if len(ours) < len(orders) and not self._told_outside:
            self._told_outside = True
            tell_closed_outside(self._engine, self._scope)
        return ours

    async def _close_later(self) -> None:
        await self._no_sweep()
        self.exits_wait = False
        if closed_outside(self._engine, self._scope):  # by whoever pressed, meanwhile
            tell_closed_outside(self._engine, self._scope)
        else:
            # Begun, it is not cut short by ``stop``.
            await asyncio.wait([self._engine.task(self._close(), "kill-close")])

    async def _no_sweep(self) -> None:
        """Wait until no cancel of all that left beside the engine can come to a broker, and take exits with it.

        After one of the engine's own, a lane sends nothing until it is answered.
        """
        while left := self._engine.shared.sweep_left_s(own=False):  # noqa: ASYNC110 (another process says it)
            await asyncio.sleep(min(left, LOOK_EVERY_S))

    def covers(self, flatten: bool) -> bool:
        """Say whether another press would add nothing: this run is young, at it, and does as much."""
        young = self._loop.time() - self._began < CANCEL_AGAIN_S
        return young and not self.over and self.flatten is flatten

    def stop(self) -> None:
        """End the chase (a newer press takes over, or the scope is armed again)."""
        for task in self._tasks:
            task.cancel()

    def accounts(self) -> list[str]:
        """Return the accounts whose progress is shown."""
        return list(self._accounts)

    # ---- what we know ------------------------------------------------------------------------------------------

    def _working(self, state: AccountState) -> list[Order]:
        return [
            order
            for order in state.working.values()
            if self._desk.in_scope(self._scope, state, order.symbol, order.strategy)
            and not self._spared(order)
        ]

    def _spared(self, order: Order) -> bool:
        """Say whether an order is an exit of ours, or an operator's since the press: those pass the halt."""
        if order.source == OPERATOR and order.created_at >= self._pressed_at:
            return True
        return order.reducing and order.signal_id == self._command_id

    def _cancel_in_one(self, state: AccountState) -> int:
        """Ask for the cancel of all in one request, where all is to go and the broker has one; return of how many."""
        lane = self._engine.dispatcher.lanes.get(state.id)
        if lane is None or self.flatten or self._kind not in WHOLE:
            return 0  # with flatten, each by itself: an exit follows at once
        progress = self._accounts[state.id]
        working = self._working(state)
        left = [order for order in working if not self._engine.withhold(order, "HALTED", WITHHELD)]
        if failpoints.ARMED:
            failpoints.hit("kill.cancel.before")
        if not left or not self._sweep(lane, state.id, progress, left):
            working = [order for order in working if order not in left]
        if failpoints.ARMED:
            failpoints.hit("kill.cancel.after")
        for order in working:
            progress.canceled.append(order)
            self._note(progress, order.cl_ord_id)
        return len(working)

    def _sweep(self, lane: Lane, account: str, progress: Progress, left: list[Order]) -> bool:
        """Ask for the cancel of all, unless it would take exits that another process has sent; say whether."""
        shared = self._engine.shared
        shared.begin_sweep()
        # First announced, then looked; whoever sends exits notes them first, then looks for a cancel of all.
        answered = partial(self._in_one_answered, progress, left)
        if not self._outside.of(account) and lane.cancel_all(answered):
            return True
        shared.end_sweep(proven=True)
        return False

    def _in_one_answered(self, progress: Progress, left: list[Order], swept: Swept) -> None:
        """Take which orders the broker says it was for; each of the others is asked for at the next look."""
        self._engine.shared.end_sweep(proven=swept.asked is not None or not swept.written_ns)
        asked = set(swept.asked or ())
        for order in left:
            if order.order_id not in asked:
                progress.asked[order.cl_ord_id] -= CANCEL_AGAIN_S
            asked.discard(order.order_id)
        for other in asked:
            self._note(progress, other)

    def _cancel(self, state: AccountState) -> int:
        """Ask for the cancel of what works and was not asked for lately; return how many."""
        progress = self._accounts[state.id]
        count = 0
        for order in self._working(state):
            if not self._due(progress, order.cl_ord_id, order.status is OrderStatus.PENDING_CANCEL):
                continue
            if failpoints.ARMED:
                failpoints.hit("kill.cancel.before")
            if not self._engine.cancel(order, "HALTED", WITHHELD):
                progress.error = "no broker session: cancel at the broker"
                continue
            if order.cl_ord_id not in progress.asked:
                progress.canceled.append(order)
            self._note(progress, order.cl_ord_id)
            count += 1
            if failpoints.ARMED:
                failpoints.hit("kill.cancel.after")
        return count

    def _due(self, progress: Progress, key: str, pending: bool = False) -> bool:
        """Say whether a cancel is to be asked for, now or again."""
        last = progress.asked.get(key)
        if last is None:
            return True
        return not pending and self._loop.time() - last >= CANCEL_AGAIN_S

    def _note(self, progress: Progress, key: str) -> None:
        if key not in progress.asked and self._tasks:
            progress.late += 1
        progress.asked[key] = self._loop.time()
        progress.verified_at = None

    # ---- what the broker says ----------------------------------------------------------------------------------

    def _of_scope(self, state: AccountState, report: ExecutionReport) -> bool:
        """Say whether a listed order is to go: ours of the scope, and others' where the scope is a whole account."""
        known = self._engine.orders.find(report)
        if known is not None and self._spared(known):
            return False
        if known is None and report.cl_ord_id in self._outside.of(state.id):
            return False  # it closes a position, sent by another process under this halt
        if self._kind in WHOLE:
            return True
        return known is not None and self._desk.in_scope(
            self._scope, state, known.symbol, known.strategy
        )

    def _cancel_listed(self, state: AccountState, report: ExecutionReport) -> None:
        """Cancel what works at the broker and is none of ours, or over as far as we know; the broker knows better."""
        known = self._engine.orders.find(report)
        lane = self._engine.dispatcher.lanes.get(state.id)
        if (known is not None and not known.status.terminal) or lane is None or report.side is None:
            return  # ours: asked for as such
        progress = self._accounts[state.id]
        # Ours may have ended while the list was on its way: it was asked for under its own id.
        key = known.cl_ord_id if known is not None else report.order_id or report.cl_ord_id
        if self._due(progress, key):
            lane.cancel(as_order(report, state.id, self._engine.clock.now()))
            self._note(progress, key)

    async def _chase(self, account: str) -> None:
        """Look again and again: what was accepted late is cancelled too, until the broker itself shows nothing."""
        progress = self._accounts[account]
        told = False
        listed_at = 0.0
        while progress.verified_at is None:
            state = self._engine.fleet.states.get(account)
            if state is None:
                progress.error = "the account was removed"
                break
            self._cancel(state)
            pace = SLOWER if told else 1
            if self._loop.time() - listed_at >= LIST_EVERY_S * pace:
                await self._list(state, progress)
                listed_at = self._loop.time()
            self._engine.publisher.touch(tables.KILL, account)
            if not told and self._loop.time() - self._began > GIVE_UP_S:
                told = True
                self._give_up(state, progress)
            if progress.verified_at is None:
                await asyncio.sleep(LOOK_EVERY_S * pace)
        self._engine.publisher.touch(tables.KILL, account)
        if self.flatten:
            await self._no_sweep()
            await self._desk.close_rest(self._left_to_us(progress.canceled), self._command_id)
            self._engine.publisher.touch(tables.KILL, account)

    async def _list(self, state: AccountState, progress: Progress) -> None:
        """Read the broker's own list, cancel what it holds of the scope, note when it holds nothing."""
        session = self._engine.fleet.sessions.get(state.id)
        if session is None or not state.usable:
            progress.error = UNSEEN
            if not state.account.active and not progress.asked:
                progress.verified_at = ""  # switched off, and nothing of ours was there
            return
        try:
            listed = await session.open_orders()
        except BrokerError as error:
            progress.error = f"its list of orders cannot be read: {error}"
            return
        progress.error = ""
        found = [report for report in listed if self._of_scope(state, report)]
        progress.listed = len(found)
        for report in found:
            self._cancel_listed(state, report)
        if not found and not self._working(state) and self._settled(session):
            progress.verified_at = rfc3339(self._engine.clock.now())

    def _settled(self, session: BrokerSession) -> bool:
        """Say whether everything that left before the latch had the time to show at the broker."""
        return self._loop.time() - self._began >= session.capabilities.settle_s

    def _give_up(self, state: AccountState, progress: Progress) -> None:
        names = [f"{order.symbol} {order.cl_ord_id}" for order in self._working(state)[:5]]
        why = progress.error or f"{progress.listed} listed by the broker"
        left = f"{', '.join(names)} still work" if names else why
        text = f"{self._scope}: not clear after {GIVE_UP_S:g} s: {left}; look at the broker"
        progress.error = progress.error or text
        self._engine.alert("critical", "KILL_INCOMPLETE", state.id, text)

    async def _end(self, chases: tuple[asyncio.Task[Any], ...]) -> None:
        """Once every account is clear, note that nothing is left to go on with after a restart."""
        ends = await asyncio.gather(*chases, return_exceptions=True)
        self.over = True
        if all(progress.verified_at is not None for progress in self._accounts.values()):
            asked = sum(len(progress.asked) for progress in self._accounts.values())
            # One that another process has taken over is that one's to bring to its end.
            if self._closed and not any(ends) and not closed_outside(self._engine, self._scope):
                self._engine.shared.closed(self._scope)
            self._engine.shared.finish(self._scope)
            await asyncio.to_thread(self._engine.shared.sync)
            text = f"{self._scope}: nothing works any more, {asked} orders canceled"
            self._engine.alert("info", "HALTED", "", text)

    # ---- telling -----------------------------------------------------------------------------------------------

    def _touch_all(self) -> None:
        for account in self._accounts:
            self._engine.publisher.touch(tables.KILL, account)

    def row(self, account: str) -> dict[str, Any] | None:
        """Return an account's row of the table ``kill``."""
        state = self._engine.fleet.states.get(account)
        progress = self._accounts.get(account)
        if state is None or progress is None:
            return None
        ours = {order.cl_ord_id for order in self._working(state)}
        working = max(len(ours), progress.listed if progress.verified_at is None else 0)
        residual = {
            position.symbol: to_text(position.qty)
            for position in self._engine.keeper.of(account)
            if position.qty
        }
        verified = progress.verified_at is not None
        return {
            "account": account,
            "blocked": True,
            "cancels_sent": len(progress.asked),
            "cancels_confirmed": max(0, len(progress.asked) - working),
            "working": working,
            "late": progress.late,
            "residual": residual,
            "done": verified and not (self.flatten and residual),
            "verified_at": progress.verified_at or None,
            "error": progress.error,
            "at": rfc3339(self._engine.clock.now()),
        }


def closed_outside(engine: TradingEngine, scope: str) -> bool:
    """Say whether all positions of a scope are left to another process."""
    wider = {FIRM, scope}
    kind, _, name = scope.partition(":")
    if kind == "account" and (state := engine.fleet.states.get(name)) is not None:
        wider.add(f"broker:{state.broker}")
    return not wider.isdisjoint(record["scope"] for record in engine.shared.flat())


def tell_closed_outside(engine: TradingEngine, scope: str) -> None:
    """Alert that the engine leaves positions to another process: its book does not know what that has closed."""
    engine.alert("critical", "KILL_INCOMPLETE", "", f"{scope}: {CLOSED_OUTSIDE}")


def as_order(report: ExecutionReport, account: str, now: datetime) -> Order:
    """Return what cancels a listed order that is none of ours."""
    assert report.side is not None
    order = Order(
        cl_ord_id=report.cl_ord_id,
        account=account,
        symbol=report.symbol,
        side=report.side,
        order_qty=report.order_qty or ONE,  # no cancel depends on it
        order_type=report.order_type or OrderType.MARKET,
        time_in_force=report.time_in_force or TimeInForce.DAY,
        created_at=now,
    )
    order.order_id = report.order_id
    order.status = report.status or OrderStatus.NEW
    return order
