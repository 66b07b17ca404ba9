"""What an operator may do with a signal by hand: release what is held, refuse it, force it past soft blocks."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from decimal import Decimal
from typing import Any

from engine.errors import CommandRefused, StoreError
from engine.model import commands as c
from engine.model import tables
from engine.model.codes import CODES
from engine.model.enums import OrderStatus, OrderType, SignalState
from engine.model.identifiers import ClOrdIDs
from engine.model.order import Order
from engine.model.signal import Signal
from engine.operators import acting
from engine.planner import Plan, Release
from engine.risk.trading_state import refusal
from engine.signal_record import SignalRecord
from engine.stage import Phase, Stage
from engine.staged_releases import StagedReleases
from engine.trading_engine import TradingEngine

Result = dict[str, Any]
FORCE_VALID_S = 60.0
"""An override holds for the orders it makes, and they leave within this time or not at all (C20)."""


class SignalsByHand:
    """Carries out the commands about signals."""

    def __init__(self, engine: TradingEngine) -> None:
        self._engine = engine
        self.staged = StagedReleases(engine, engine.drift, self.send_rest)

    def record(self, key: str) -> SignalRecord:
        """Return a signal that is remembered.

        Raises:
            CommandRefused: there is none of this key (404).
        """
        record = self._engine.records.get(key)
        if record is None:
            raise CommandRefused("NOT_FOUND", f"no recent signal {key}", 404)
        return record

    @staticmethod
    def held_of(record: SignalRecord, accounts: Iterable[str] | None) -> list[str]:
        """Return the accounts meant of those a signal is held for; ``None`` means all.

        Raises:
            CommandRefused: NOT_HELD, for one of them or for all.
        """
        chosen = list(record.held) if accounts is None else list(dict.fromkeys(accounts))
        waiting = record.waiting_rest  # for a canary: released sooner only where they are named
        wrong = [account for account in chosen if account not in {**record.held, **waiting}]
        if wrong or not chosen:
            what = (
                f"not held for {', '.join(wrong[:5])}"
                if wrong
                else f"{record.state.value}, {len(waiting)} wait for the canary: name them to release them now"
                if waiting
                else f"{record.state.value}, nothing is held"
            )
            raise CommandRefused("NOT_HELD", f"{record.key} is {what}")
        return chosen

    def earlier(self, record: SignalRecord) -> tuple[Order, ...]:
        """Return what the signal has had so far, with what took its orders' places."""
        signal = record.signal
        replaced = self._engine.pretrade.slices.replacements((signal.source, signal.id))
        return (*record.orders.values(), *replaced)

    async def approve(self, command: c.Approve) -> Result:
        """Release held orders, all or some, as they are or changed; with ``canary`` that account's first."""
        record = self.record(command.signal)
        await self._engine.prepare(record.signal)
        chosen = self.held_of(record, command.accounts)
        await self._guard_drift(record, chosen, command.seen_price)
        first, rest = _staged(record, command, chosen)
        plan = self._approved(record, first, command)
        if plan.orders and rest:
            self.staged.begin(record, command, rest)
        return await self._release(record, plan, "approved")

    async def send_rest(self, record: SignalRecord, stage: Stage) -> Result:
        """Release what waited for a canary, as it was approved."""
        chosen = list(stage.rest)
        command = c.Approve.model_validate(
            {"id": "staged", "command": "approve", "signal": record.key, **stage.changes}
        )
        plan = self._approved(record, chosen, command)
        stage.sent = [order.account for order in plan.orders]
        stage.end(Phase.RELEASED, f"canary {stage.canary} filled → {len(stage.sent)} released")
        return await self._release(record, plan, "approved")

    async def _guard_drift(
        self, record: SignalRecord, chosen: list[str], seen: Decimal | None
    ) -> None:
        """Refuse what the market has left behind, unless it was approved at the price it has now."""
        when = "when the signal came" if seen is None else "when you looked"
        moved = self._engine.drift.refusal(record.signal.symbol, seen or record.price, when)
        if not moved:
            return
        if self._engine.config.signals.approval_drift == "expire":
            await self._drop(record, chosen, ("PRICE_DRIFT", moved), SignalState.EXPIRED)
        raise CommandRefused("PRICE_DRIFT", moved)

    def _approved(self, record: SignalRecord, chosen: list[str], command: c.Approve) -> Plan:
        """Plan held accounts with an operator's changes, and take them out of those that wait."""
        release = Release(
            frozenset(chosen), command.scale, command.quantity, earlier=self.earlier(record)
        )
        plan = self._plan(changed(record.signal, command), release)
        if plan.code and not (plan.skipped or plan.refused):
            raise CommandRefused(plan.code, plan.message)
        known = {*plan.skipped, *plan.refused, *(order.account for order in plan.orders)}
        for account in chosen:
            _decided(record, account)
            if account not in known:
                plan.skipped[account] = ("INACTIVE", "the account was removed")
        if record.state is SignalState.HELD:
            if plan.orders:
                record.state = SignalState.ACCEPTED
            elif not record.undecided:
                record.state = SignalState.REFUSED
                record.code, record.message = plan.code, plan.message
        return plan

    def _plan(self, signal: Signal, release: Release) -> Plan:
        """Plan a release; when it comes to nothing the reasons per account are still told."""
        latch = self._engine.states.strictest(
            f"strategy:{signal.strategy}", f"symbol:{signal.symbol}"
        )
        if latch is not None:
            raise CommandRefused(*refusal(latch))
        return self._engine.planner.plan(signal, release)

    async def _release(self, record: SignalRecord, plan: Plan, result: str) -> Result:
        engine = self._engine
        record.skipped.update(plan.skipped)
        record.refused.update(plan.refused)
        for order in plan.orders:
            record.orders[order.account] = order
            record.skipped.pop(order.account, None)
            record.refused.pop(order.account, None)
        record.released = True
        engine.held.release(record)
        self.staged.settled(record)
        for order in plan.orders:
            engine.orders.add(order)
        try:
            await engine.commit_record(record)
        except StoreError:
            for order in plan.orders:
                engine.orders.take_back(order)
            raise
        engine.orders.ledger.committed(record.key, plan.orders)
        # An operator's decision is as fresh as the moment it was made: the age limit starts anew.
        seconds = record.signal.valid_for_s or engine.config.signals.max_age_s
        if result == "forced":
            seconds = min(float(seconds), FORCE_VALID_S)
        finish = engine.dispatcher.predict(
            [order.account for order in plan.orders],
            engine.clock.monotonic_ns(),
            entry=record.signal.side is not None,
        )
        engine.send(plan.orders, record, engine.clock.monotonic_ns() + int(float(seconds) * 1e9))
        engine.publisher.touch(tables.SIGNALS, record.key)
        refused = {**plan.skipped, **plan.refused}
        engine.controls.refused_all(refused)
        return {
            "result": result,
            "orders": {order.account: order.cl_ord_id for order in plan.orders},
            "predicted_finish_ms": round(finish.seconds * 1000),
            "predicted_cold": finish.cold,
            "refused": {
                account: {"code": code, "message": text}
                for account, (code, text) in refused.items()
            },
        }

    async def reject(self, command: c.Reject) -> Result:
        """Refuse held orders."""
        record = self.record(command.signal)
        accounts = command.accounts
        if accounts is None and record.waiting_rest:  # all of it: those behind a canary too
            accounts = (*record.held, *record.waiting_rest)
        chosen = self.held_of(record, accounts)
        text = command.reason or "rejected by an operator"
        await self._drop(record, chosen, ("REJECTED_BY_OPERATOR", text), SignalState.REJECTED)
        return {"result": "rejected", "accounts": chosen}

    async def _drop(
        self, record: SignalRecord, chosen: list[str], reason: tuple[str, str], state: SignalState
    ) -> None:
        """Pass over accounts that wait; a signal of which nothing is left goes into ``state``."""
        for account in chosen:
            _decided(record, account)
            record.skipped[account] = reason
        if record.state is SignalState.HELD and not record.undecided:
            record.state = state
        self._engine.held.release(record)
        self.staged.settled(record)
        await self._engine.commit_record(record)
        self._engine.publisher.touch(tables.SIGNALS, record.key)

    async def force(self, command: c.Force) -> Result:
        """Send past soft blocks for the accounts named."""
        record = self.record(command.signal)
        engine = self._engine
        await engine.prepare(record.signal)
        for account in command.accounts:
            if account not in engine.fleet.states:
                raise CommandRefused("NOT_FOUND", f"no account {account}", 404)
            self._may_force(record, account)
        plan = self._plan(
            record.signal,
            Release(frozenset(command.accounts), forced=True, earlier=self.earlier(record)),
        )
        if plan.code and not (plan.skipped or plan.refused):
            raise CommandRefused(plan.code, plan.message)
        for order in plan.orders:
            before = record.orders.get(order.account)
            if before is not None:  # denied before it left: a new leg, never the old id
                signal, leg = record.signal, f"{before.leg}.f"
                order.leg = leg
                order.cl_ord_id = ClOrdIDs(engine.journal.book, signal.source, signal.id).make(
                    order.account, leg
                )
            _decided(record, order.account)
        if plan.orders and record.state is not SignalState.ACCEPTED:
            record.state, record.code = SignalState.ACCEPTED, ""
            record.message = f"forced: {command.reason}"
        accounts = ", ".join(order.account for order in plan.orders)
        engine.alert(
            "warning",
            "FORCED",
            "",
            f"{record.key} forced for {accounts or 'nobody'} by {acting.get().name}: {command.reason}",
        )
        return await self._release(record, plan, "forced")

    @staticmethod
    def _may_force(record: SignalRecord, account: str) -> None:
        order = record.orders.get(account)
        absent = (
            order is not None and order.status is OrderStatus.EXPIRED and order.code == "ABSENT"
        )
        if order is not None and order.status is not OrderStatus.DENIED and not absent:
            raise CommandRefused(
                "ALREADY_SENT", f"{account} has order {order.cl_ord_id}, {order.status.value}"
            )
        reason = record.skipped.get(account) or record.refused.get(account)
        code = order.code if order is not None else reason[0] if reason else record.code
        if account in record.held or account in record.waiting_rest or not code:
            return
        info = CODES.get(code)
        if info is None or not info.soft:
            raise CommandRefused(code, f"{account}: {code} is a hard block and cannot be forced")


def _decided(record: SignalRecord, account: str) -> None:
    """Take an account out of those that wait."""
    record.held.pop(account, None)
    record.waiting_rest.pop(account, None)


def _staged(
    record: SignalRecord, command: c.Approve, chosen: list[str]
) -> tuple[list[str], list[str]]:
    """Return who goes now and who waits for the canary."""
    canary = command.canary
    if canary is None:
        return chosen, []
    if canary not in chosen:
        raise CommandRefused("NOT_HELD", f"the canary {canary} is not among the accounts approved")
    if record.stage is not None:
        _refuse_a_second(record, record.stage)
    return [canary], [account for account in chosen if account != canary]


def _refuse_a_second(record: SignalRecord, stage: Stage) -> None:
    """Refuse another release behind a canary while one goes on: who halts that one's rest after rejects?"""
    text = f"the release of {record.key} behind the canary {stage.canary} goes on"
    if stage.waits:
        raise CommandRefused("CANARY", f"{text}: {len(stage.rest)} wait for its fill")
    if left := stage.unanswered(record.orders):
        text = f"{text}: {left} of {len(stage.sent)} are not answered yet"
        raise CommandRefused("CANARY", f"{text}; wait, or approve without a canary")


def changed(signal: Signal, command: c.Approve | c.Preview) -> Signal:
    """Return the signal as the operator changed it; a limit price makes a market order a limit order."""
    changes: dict[str, Any] = {}
    if command.limit_price is not None:
        changes["limit_price"] = command.limit_price
        if signal.order_type is OrderType.MARKET:
            changes["order_type"] = OrderType.LIMIT
        elif not signal.order_type.needs_limit:
            raise CommandRefused(
                "INVALID_COMMAND", f"a {signal.order_type.value} order takes no limit_price", 422
            )
    for name in ("stop_loss", "take_profit", "trail_percent"):
        value = getattr(command, name)
        if value is not None:
            changes[name] = value
    return replace(signal, **changes) if changes else signal
