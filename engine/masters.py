"""What instruments were in earlier sessions: a lot, tick or multiplier that changed freezes the symbol (F55)."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import asdict
from datetime import date
from decimal import Decimal
from typing import TYPE_CHECKING, Any, Final

from engine.model.account_state import AccountState
from engine.model.instrument import Instrument
from engine.model.numbers import to_text

if TYPE_CHECKING:
    from engine.trading_engine import TradingEngine

FACT: Final = "instrument"
_WATCHED: Final = ("symbol", "lot", "tick", "multiplier")
Freeze = Callable[[str, str, str], Awaitable[None]]


class Masters:
    """Remembers every held instrument's terms in the journal, and reads them again each day."""

    def __init__(self, engine: TradingEngine, freeze: Freeze) -> None:
        self._engine = engine
        self._freeze = freeze
        self._known: dict[str, dict[str, Any]] = {}
        self._read: dict[str, date] = {}  # when the broker was last asked

    def load(self, facts: dict[str, dict[str, Any]]) -> None:
        """Take what instruments were before a restart."""
        self._known = dict(facts)

    async def look(self, state: AccountState) -> None:
        """Compare the terms of what an account holds with those of earlier sessions; a change freezes the symbol."""
        engine = self._engine
        today = engine.clock.now().date()
        for symbol in sorted(engine.keeper.open_symbols(state.id)):
            key = f"{state.broker}/{symbol}"
            if self._read.get(key) != today:
                if key in self._read:
                    await engine.instruments.refresh(state.broker, symbol)
                self._read[key] = today
            instrument = engine.instruments.find(state.broker, symbol)
            if instrument is not None:
                await self._compare(state, key, instrument)

    async def _compare(self, state: AccountState, key: str, instrument: Instrument) -> None:
        engine, fact = self._engine, terms(instrument)
        before = self._known.get(key)
        if before == fact:
            return
        self._known[key] = fact
        await engine.journal.commit_fact(FACT, key, fact)
        if before is None:
            return
        changes = ", ".join(
            f"{name} {before.get(name)} → {fact[name]}"
            for name in _WATCHED
            if before.get(name) != fact[name]
        )
        text = f"{instrument.symbol} has changed at {state.broker}: {changes}"
        await self._freeze(f"symbol:{instrument.symbol}", "CORPORATE_ACTION", text)
        engine.alert("critical", "CORPORATE_ACTION", state.id, text)
        engine.journal.audit("corporate_action", {"before": before, "now": fact}, state.id)


def terms(instrument: Instrument) -> dict[str, Any]:
    """Return the terms that may not change unseen."""
    values = asdict(instrument)
    return {
        name: to_text(value) if isinstance(value := values[name], Decimal) else value
        for name in _WATCHED
    }
