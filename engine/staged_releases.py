"""Staged releases: they follow the canary's order, let the rest go or hold it again, and stop it after rejects.

What has been decided is part of the signal's plan in the journal, written in one commit with the intents it makes: a
crash finds the canary's intent and its waiting rest, or all the rest's intents, never a part of either.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from datetime import timedelta
from typing import Any

from engine.errors import CommandRefused
from engine.model import commands as c
from engine.model import tables
from engine.model.enums import OrderStatus
from engine.model.order import Order
from engine.price_drift import DriftGuard
from engine.signal_record import SignalRecord
from engine.stage import Phase, Stage
from engine.trading_engine import TradingEngine

Release = Callable[[SignalRecord, Stage], Awaitable[Any]]
CHANGES = ("scale", "quantity", "limit_price", "stop_loss", "take_profit", "trail_percent")


class StagedReleases:
    """Every signal of which one account went first. Also a service: it takes up what a restart found waiting.

    ``release`` plans and sends a stage's rest; it raises ``CommandRefused`` where that may not be.
    """

    def __init__(self, engine: TradingEngine, guard: DriftGuard, release: Release) -> None:
        self._engine = engine
        self._guard = guard
        self._release = release
        self._timers: dict[str, asyncio.TimerHandle] = {}
        self._stopped = False

    async def start(self) -> None:
        """Go on with what waits; canaries may have been filled while no engine ran."""
        for record in list(self._engine.records.values()):
            stage = record.stage
            if stage is None:
                continue
            if stage.waits and self._engine.clock.now() >= stage.expires_at:
                self._expire(record, stage)
            elif stage.waits and stage.canary in record.orders:
                self._watch(record, stage)
                self.on_order(record, record.orders[stage.canary])

    async def stop(self) -> None:
        """End every countdown; the journal knows what waits, and the next engine goes on with it."""
        self._stopped = True
        for timer in self._timers.values():
            timer.cancel()
        self._timers.clear()

    # ---- beginning and ending ------------------------------------------------------------------------------------

    def begin(self, record: SignalRecord, command: c.Approve, rest: list[str]) -> Stage:
        """Make the rest of a release wait for the canary, whose order the caller commits and sends."""
        assert command.canary is not None
        config = self._engine.config.signals
        seconds = float(command.canary_timeout_s or config.canary_timeout_s)
        changes = {
            name: str(value) for name in CHANGES if (value := getattr(command, name)) is not None
        }
        stage = record.stage = Stage(
            canary=command.canary,
            rest=dict.fromkeys(rest),
            expires_at=self._engine.clock.now() + timedelta(seconds=seconds),
            max_rejects=int(command.max_rejects or config.canary_max_rejects),
            price=self._engine.marks.price(record.signal.symbol),
            changes=changes,
        )
        for account in rest:
            record.held.pop(account, None)
        self._watch(record, stage)
        return stage

    def settled(self, record: SignalRecord) -> None:
        """Take note that an operator has decided on accounts of the rest."""
        stage = record.stage
        if stage is not None and stage.waits and not stage.rest:
            stage.end(Phase.ENDED, "decided by hand before the canary's fill")
            self._forget(record)

    # ---- following -----------------------------------------------------------------------------------------------

    def on_order(self, record: SignalRecord, order: Order) -> None:
        """Follow a change of one of a signal's orders."""
        stage = record.stage
        if stage is None or self._stopped:
            return
        if stage.waits and order is record.orders.get(stage.canary) and order.status.terminal:
            if self._engine.clock.now() >= stage.expires_at:  # heard of too late, say by a restart
                self._expire(record, stage)
            elif order.status is OrderStatus.FILLED:
                self._go_on(record, stage)
            else:
                self._hold_again(record, stage, f"canary {stage.canary} {order.status.value}")
        elif stage.phase is Phase.RELEASED and order.status is OrderStatus.REJECTED:
            self._count(record, stage)

    def _watch(self, record: SignalRecord, stage: Stage) -> None:
        left = (stage.expires_at - self._engine.clock.now()).total_seconds()
        loop = asyncio.get_running_loop()
        self._timers[record.key] = loop.call_later(max(left, 0.0), self._expire, record, stage)

    def _forget(self, record: SignalRecord) -> None:
        if (timer := self._timers.pop(record.key, None)) is not None:
            timer.cancel()

    def _expire(self, record: SignalRecord, stage: Stage) -> None:
        if not stage.waits or stage.going:
            return
        self._forget(record)
        text = f"canary {stage.canary} was not filled in time → {len(stage.rest)} not sent"
        record.skipped.update(dict.fromkeys(stage.rest, ("CANARY_TIMEOUT", text)))
        stage.rest.clear()
        stage.end(Phase.EXPIRED, text)
        self._keep(record, text)

    def _go_on(self, record: SignalRecord, stage: Stage) -> None:
        if not stage.going:
            stage.going = True
            self._forget(record)
            self._engine.spawn(self._send_rest(record, stage), f"staged release of {record.key}")

    async def _send_rest(self, record: SignalRecord, stage: Stage) -> None:
        """Send the rest as it was approved, unless the market or a latch is in the way by now."""
        try:
            await self._engine.prepare(record.signal)
            if not stage.waits:
                return  # decided by hand meanwhile
            moved = self._guard.refusal(
                record.signal.symbol, stage.price, "when the canary was approved"
            )
            if moved:
                self._hold_again(record, stage, f"PRICE_DRIFT: {moved}")
            else:
                await self._release(record, stage)
        except CommandRefused as refusal:
            self._hold_again(record, stage, f"{refusal.code}: {refusal.message}")
        finally:
            stage.going = False

    def _hold_again(self, record: SignalRecord, stage: Stage, why: str) -> None:
        """Hold the rest once more, with a countdown of its own: an operator decides."""
        self._forget(record)
        text = f"{why} → {len(stage.rest)} held again"
        record.held.update(stage.rest)
        stage.rest.clear()
        stage.end(Phase.STOPPED, text)
        seconds = self._engine.config.signals.approval_timeout_s
        record.hold_expires_at = self._engine.clock.now() + timedelta(seconds=seconds)
        self._engine.hold(record)
        self._keep(record, text)

    # ---- rejects -------------------------------------------------------------------------------------------------

    def _count(self, record: SignalRecord, stage: Stage) -> None:
        rejected = stage.rejected(record.orders)
        if rejected < stage.max_rejects:
            return
        stage.end(Phase.HALTED, "")
        withheld = self._withhold(record, stage)
        text = f"halted after {rejected} rejects of {len(stage.sent)} → {withheld} not sent"
        stage.end(Phase.HALTED, text)
        self._keep(record, text)

    def _withhold(self, record: SignalRecord, stage: Stage) -> int:
        """Keep from leaving what has not left; return how many that are. Those on the wire come back or do not."""
        engine = self._engine
        unsent = [
            order
            for account in stage.sent
            if (order := record.orders.get(account)) is not None and order.status.working
        ]
        now = engine.clock.monotonic_ns()
        for order in unsent:
            # Not a byte of one may have left when its connection broke: it comes back too late.
            order.send_before_ns = now
        text = f"{stage.max_rejects} of this release were rejected"
        return sum(engine.withhold(order, "CANARY_HALTED", text) for order in unsent)

    def _keep(self, record: SignalRecord, text: str) -> None:
        """Make it durable, and tell."""
        engine = self._engine
        engine.alert("warning", "STAGED_RELEASE", "", f"{record.key}: {text}")
        engine.spawn(engine.commit_record(record), f"stage-{record.key}")
        engine.publisher.touch(tables.SIGNALS, record.key)
