"""Tells what was edited while no engine ran, and keeps the seal of the configuration up to date (C28, T16)."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from functools import partial

from engine.config_seal import FACT, ConfigSeal, sentence, values_of
from engine.errors import ConfigError, StoreError
from engine.model.enums import TradingState
from engine.risk.trading_state import FIRM
from engine.trading_engine import TradingEngine

log = logging.getLogger(__name__)

FINGERPRINT = "FINGERPRINT"


class ConfigWatch:
    """One engine's."""

    def __init__(self, engine: TradingEngine, derive: Callable[[str], tuple[str, bytes]]) -> None:
        self._engine = engine
        self._seal = ConfigSeal(partial(derive, "configuration"), engine.journal)
        self._one = asyncio.Lock()

    async def compare(self) -> None:
        """Tell what differs from the last run; disarm where the configuration says so; seal what is now."""
        engine = self._engine
        try:
            problems = self._seal.problems(engine.facts.get(FACT, {}), self._values())
        except ConfigError as error:
            engine.alert("warning", FINGERPRINT, "", f"edits cannot be looked for: {error}")
            return
        if problems:
            text = sentence(problems)
            engine.journal.audit("trip", {"code": FINGERPRINT, "text": text, "changes": problems})
            engine.alert("warning", FINGERPRINT, "", text)
            halted = engine.states.firm is TradingState.HALTED
            if engine.config.safety.disarm_after_edit and not halted:
                await engine.latch(FIRM, TradingState.DISARMED, text, FINGERPRINT)
        await self.seal()

    async def seal(self) -> None:
        """Seal what is in force now; accounts and limits changed through the engine are no edits."""
        async with self._one:
            try:
                await self._seal.seal(self._values())
            except (ConfigError, StoreError) as error:
                log.warning("the configuration is not sealed: %s", error)

    def changed(self) -> None:
        """Seal soon: accounts were changed while the engine runs."""
        self._engine.spawn(self.seal(), "seal the configuration")

    def _values(self) -> dict[str, str]:
        accounts = [state.account for state in self._engine.fleet.states.values()]
        return values_of(self._engine.config, accounts)
