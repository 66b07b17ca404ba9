"""Engines broken on purpose, each in one way: the simulation must find every one of them."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import replace
from typing import Any
from unittest.mock import patch

from engine.execution.rate_limit import PLENTY, RateLimit, TokenBucket
from engine.execution.reconciler import Reconciler
from engine.kill_latch import KillLatch
from engine.model.enums import ExecType, OrderStatus
from engine.model.messages import ExecutionReport
from engine.model.order import Order
from engine.ports import BrokerSession
from engine.stores.journal import Journal
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
