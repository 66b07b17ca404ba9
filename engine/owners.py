"""Whose account it is at the broker: credentials that turn out to be another account's halt the account (T14)."""

from __future__ import annotations

from typing import Any, Final

from engine.errors import BrokerAuthError
from engine.model.account_state import AccountState
from engine.model.enums import TradingState
from engine.ports import BrokerSession
from engine.trading_engine import TradingEngine

FACT: Final = "owner"
"""Kind of the journal's facts that remember which account at the broker an account of ours is."""


class Owners:
    """Compares, before an account's books are, the broker's own id of the account with the one first seen.

    Brokers that tell none (Kite) are not compared; their session tokens are sealed to the account's id instead. At the
    very first connection there is nothing to compare with.
    """

    def __init__(self, engine: TradingEngine) -> None:
        self._engine = engine

    async def check(self, state: AccountState, session: BrokerSession) -> None:
        """Let an account's books be compared, or halt it.

        Raises:
            BrokerError: the broker cannot be asked, or its answer is about another account.
        """
        owner = (await session.balances()).owner
        if not owner:
            return
        account, facts = state.account, self._engine.facts.setdefault(FACT, {})
        seen = {"broker": account.broker, "environment": account.environment, "owner": owner}
        known: dict[str, Any] = facts.get(state.id, seen)
        moved = any(known[name] != seen[name] for name in ("broker", "environment"))
        if known["owner"] == owner or moved or self._was_rearmed(state.id, known, owner):
            if known is seen or known != seen:
                facts[state.id] = seen
                await self._engine.journal.commit_fact(FACT, state.id, seen)
            return
        text = (
            f"its credentials are those of account {owner} at {account.broker}, it was {known['owner']}: put the right "
            "ones in, or re-arm it if the change is meant"
        )
        facts[state.id] = known | {"refused": owner}
        await self._engine.journal.commit_fact(FACT, state.id, facts[state.id])
        await self._halt(state.id, text)
        raise BrokerAuthError(text, account=state.id)

    def _was_rearmed(self, account: str, known: dict[str, Any], owner: str) -> bool:
        """Say whether a person has seen this change and lifted the halt."""
        latch = self._engine.states.get(f"account:{account}")
        halted = latch is not None and latch.state is TradingState.HALTED
        return known.get("refused") == owner and not halted

    async def _halt(self, account: str, text: str) -> None:
        scope = f"account:{account}"
        latch = self._engine.states.get(scope)
        if latch is not None and latch.state is TradingState.HALTED:
            return
        self._engine.journal.audit("trip", {"code": "OTHER_ACCOUNT", "text": text}, account)
        self._engine.alert("critical", "OTHER_ACCOUNT", account, text)
        await self._engine.latch(scope, TradingState.HALTED, text, "OTHER_ACCOUNT")
