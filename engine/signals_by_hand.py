"""What an operator may do with a signal by hand: release what is held, refuse it, force it past soft blocks."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
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
from engine.trading_engine import TradingEngine

Result = dict[str, Any]
FORCE_VALID_S = 60.0
"""An override holds for the orders it makes, and they leave within this time or not at all (C20)."""


class SignalsByHand:
    """Carries out the commands about signals."""

    def __init__(self, engine: TradingEngine) -> None:
        self._engine = engine

    def _record(self, key: str) -> SignalRecord:
        record = self._engine.records.get(key)
        if record is None:
            raise CommandRefused("NOT_FOUND", f"no recent signal {key}", 404)
        return record

    @staticmethod
    def _held(record: SignalRecord, accounts: Iterable[str] | None) -> list[str]:
        chosen = list(record.held) if accounts is None else list(dict.fromkeys(accounts))
        wrong = [account for account in chosen if account not in record.held]
        if wrong or not chosen:
            what = (
                f"not held for {', '.join(wrong[:5])}"
                if wrong
                else f"{record.state.value}, nothing is held"
            )
            raise CommandRefused("NOT_HELD", f"{record.key} is {what}")
        return chosen

    def _earlier(self, record: SignalRecord) -> tuple[Order, ...]:
        """Return what the signal has had so far, with what took its orders' places."""
        signal = record.signal
        replaced = self._engine.pretrade.slices.replacements((signal.source, signal.id))
        return (*record.orders.values(), *replaced)

    async def approve(self, command: c.Approve) -> Result:
        """Release held orders, all or some, as they are or changed."""
        record = self._record(command.signal)
        await self._engine.prepare(record.signal)
        chosen = self._held(record, command.accounts)
        signal = _changed(record.signal, command)
        plan = self._plan(
            signal, Release(frozenset(chosen), command.scale, earlier=self._earlier(record))
        )
        if plan.code and not (plan.skipped or plan.refused):
            raise CommandRefused(plan.code, plan.message)
        for account in chosen:
            del record.held[account]
        if record.state is SignalState.HELD:
            if plan.orders:
                record.state = SignalState.ACCEPTED
            elif not record.held:
                record.state = SignalState.REFUSED
                record.code, record.message = plan.code, plan.message
        return await self._release(record, plan, "approved")

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
        record = self._record(command.signal)
        chosen = self._held(record, command.accounts)
        text = command.reason or "rejected by an operator"
        for account in chosen:
            del record.held[account]
            record.skipped[account] = ("REJECTED_BY_OPERATOR", text)
        if record.state is SignalState.HELD and not record.held:
            record.state = SignalState.REJECTED
        self._engine.held.release(record)
        await self._engine.commit_record(record)
        self._engine.publisher.touch(tables.SIGNALS, record.key)
        return {"result": "rejected", "accounts": chosen}

    async def force(self, command: c.Force) -> Result:
        """Send past soft blocks for the accounts named."""
        record = self._record(command.signal)
        engine = self._engine
        await engine.prepare(record.signal)
        for account in command.accounts:
            if account not in engine.fleet.states:
                raise CommandRefused("NOT_FOUND", f"no account {account}", 404)
            self._may_force(record, account)
        plan = self._plan(
            record.signal,
            Release(frozenset(command.accounts), forced=True, earlier=self._earlier(record)),
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
            record.held.pop(order.account, None)
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
        if account in record.held or not code:
            return
        info = CODES.get(code)
        if info is None or not info.soft:
            raise CommandRefused(code, f"{account}: {code} is a hard block and cannot be forced")


def _changed(signal: Signal, command: c.Approve) -> Signal:
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
