"""What the controls before an order carry over a restart, and a person's review of a strategy (control C11)."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import datetime, timedelta
from typing import Any

from engine.clock import rfc3339
from engine.documents import signal_from_document
from engine.model import commands as c
from engine.model.account_state import AccountState
from engine.model.enums import Action, SignalState
from engine.model.order import Order
from engine.risk import throttle
from engine.risk.day_counts import OrdersSince
from engine.risk.proposal import Proposal, proposal
from engine.stores.journal_rows import LoadedState, SignalEntry
from engine.trading_engine import TradingEngine

PAGE = 500
_ENTRIES = frozenset({Action.BUY.value, Action.SELL.value})


async def restore(engine: TradingEngine, loaded: LoadedState, fresh: Iterable[Order]) -> None:
    """Go on where the journal says things stood; ``fresh`` are orders it holds no row of yet."""
    pretrade = engine.pretrade
    pretrade.follow_limits(engine.keeper)
    engine.controls.renew()
    rows: list[OrdersSince] = []
    for begins in sorted(pretrade.days.begins()):
        counted = await engine.journal.count_orders(rfc3339(begins))
        rows += [OrdersSince(begins, *row) for row in counted]
    pretrade.days.load(rows, fresh)
    if pretrade.throttle.on:
        facts = loaded.facts.get(throttle.FACT, {})
        since = pretrade.throttle.load(facts, _executions(engine, loaded.signals))
        if since is not None:
            engine.journal.note_fact(throttle.FACT, throttle.SINCE, since)
        for strategy in pretrade.throttle.strategies():
            _tell_if_tripped(engine, strategy)
    if pretrade.repeats.window_s:
        await _restore_repeats(engine)


def _executions(engine: TradingEngine, entries: Iterable[SignalEntry]) -> list[tuple[str, int]]:
    """Return the signals whose entries left by themselves: strategy and number."""
    found = []
    for entry in entries:
        record = engine.records.get(f"{entry.source}/{entry.id}")
        if record is not None and record.signal.side is not None and by_itself(entry.plan):
            found.append((record.signal.strategy, entry.seq))
    return found


def by_itself(plan: dict[str, Any]) -> bool:
    """Say whether a signal's plan had orders at once: what was held or refused first left by a person's hand."""
    accepted: bool = plan["first"][0] == SignalState.ACCEPTED.value
    return accepted and bool(plan.get("orders"))


async def _restore_repeats(engine: TradingEngine) -> None:
    """Remember the entries of the last window, oldest first."""
    repeats, clock = engine.pretrade.repeats, engine.clock
    now, now_ns = clock.now(), clock.monotonic_ns()
    since = now - timedelta(seconds=repeats.window_s)
    found: list[tuple[datetime, Any]] = []
    after: str | None = None
    while True:
        rows = await engine.journal.page("signals", {}, PAGE, after)
        for row in rows:
            received = datetime.fromisoformat(row["received_at"])
            if received >= since and row["state"] not in {SignalState.REFUSED.value}:
                signal = signal_from_document(row["body"], row["body_hash"])
                found.append((received, signal))
        if len(rows) < PAGE or datetime.fromisoformat(rows[-1]["received_at"]) < since:
            break
        after = rows[-1]["cursor"]
    for received, signal in reversed(found):
        age_ns = max(int((now - received).total_seconds() * 1e9), 0)
        repeats.taken(signal, now_ns - age_ns)


def _tell_if_tripped(engine: TradingEngine, strategy: str) -> None:
    """Show that a strategy waits for a review, once."""
    refusal = engine.pretrade.throttle.refusal(strategy)
    if refusal is None or engine.controls.is_tripped("C11", strategy):
        return
    code, text = refusal
    engine.controls.trip("C11", text, code=code, key=strategy)
    engine.alert("warning", code, "", f"{text}: entries wait for a person's review")
    engine.journal.audit("tripped", {"control": "C11", "strategy": strategy, "text": text})


def propose(engine: TradingEngine, state: AccountState) -> Proposal:
    """Propose an account's order limits from its equity and the newest prices."""
    equity = state.equity(engine.keeper.pnl(state.id).total)
    held = engine.keeper.open_symbols(state.id)
    return proposal(state, equity, held, engine.marks, engine.instruments.find)


class Reviews:
    """Keeps the throttle's counts in the journal, tells when it trips, and takes a person's review."""

    def __init__(self, engine: TradingEngine) -> None:
        self._engine = engine
        engine.pretrade.on_execution = self._executed

    def _executed(self, strategy: str, fact: dict[str, Any]) -> None:
        self._engine.journal.note_fact(throttle.FACT, strategy, fact)
        _tell_if_tripped(self._engine, strategy)

    async def review(self, command: c.Review) -> dict[str, Any]:
        """Let a strategy go on: its count begins anew, durably."""
        engine = self._engine
        executions, fact = engine.pretrade.throttle.reviewed(command.strategy)
        engine.journal.audit("reviewed", {"strategy": command.strategy, "executions": executions})
        await engine.journal.commit_fact(throttle.FACT, command.strategy, fact)
        engine.controls.clear("C11", command.strategy)
        text = f"{command.strategy} was reviewed after {executions} executions"
        engine.alert("info", "REVIEWED", "", text)
        return {"result": "reviewed", "strategy": command.strategy, "executions": executions}
