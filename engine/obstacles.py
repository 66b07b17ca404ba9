"""Every rule that is in the way of an account's entry, where a plan stops at the first: asked for a preview only."""

from __future__ import annotations

from typing import Final

from engine.eligibility import rules
from engine.model.account_state import AccountState
from engine.planner import Planner, Run
from engine.risk.pretrade import PreTrade

Reason = tuple[str, str]
Block = tuple[str, Reason]
"""The name of a rule, with code and sentence."""

SIZED: Final = (
    "order_type", "unknown", "order", "quantity", "value", "day_orders", "position", "exposure",
)  # fmt: skip
"""Rules that can be asked only once it is known how much an account trades."""
RULES: Final = (
    "strategy", "symbol", "audience", "signal", "standing", "state", "limits_set", "day_loss", "hours", "positions",
    "reward_risk", "throttle", "size", *SIZED, "fan_out", "leaving",
)  # fmt: skip
"""All, in the order in which they decide. ``signal``: what refuses it for everybody. ``standing``: on and connected.
``leaving``: what is asked at the last moment, and whether its turn comes before it is too old."""


class Obstacles:
    """Asks every rule of an entry, in the order in which the planner asks them."""

    def __init__(self, planner: Planner, pretrade: PreTrade) -> None:
        self._planner = planner
        self._pretrade = pretrade

    def of(self, state: AccountState, run: Run) -> tuple[list[Block], tuple[str, ...]]:
        """Return what is in the way, the first of it decides; and the rules that cannot be asked without a size."""
        planner, signal = self._planner, run.signal
        asked = {
            "strategy": rules.follows(state, signal.strategy),
            "symbol": rules.symbol_allowed(state, signal.symbol),
            "audience": rules.addressed(state, signal),
            "standing": rules.standing(state),
            "state": planner.latched(state, signal.strategy, signal.symbol),
            "limits_set": rules.limits_set(state),
            "day_loss": planner.day_lost(state),
            "hours": rules.open_hours(state, run.now),
            "positions": planner.no_room(state, signal.symbol),
            "reward_risk": rules.reward_worth_risk(state, run.prices.reward_risk),
            "throttle": run.throttled,
        }
        found = [(rule, reason) for rule, reason in asked.items() if reason is not None]
        instrument = planner.instrument(state.broker, run)
        if isinstance(instrument, tuple):
            return [*found, ("size", instrument)], SIZED
        quantity = planner.quantity(state, run, instrument)
        if isinstance(quantity, tuple):
            return [*found, ("size", quantity)], SIZED
        ask = run.ask(state.broker, quantity, instrument)
        return found + self._pretrade.refusals(state, signal, ask), ()
