"""Who may act on a signal: pure rules, one code each."""

from __future__ import annotations

from datetime import datetime
from decimal import Decimal

from engine.model.account_state import AccountState
from engine.model.numbers import to_text
from engine.model.signal import Signal

Skip = tuple[str, str] | None


def addressed(state: AccountState, signal: Signal) -> Skip:
    """Check the signal's audience."""
    audience = signal.audience
    if audience is None:
        return None
    if audience.accounts is not None and state.id not in audience.accounts:
        return "NOT_IN_AUDIENCE", "the signal names other accounts"
    if audience.tags is not None and not (state.tags & audience.tags):
        return "NOT_IN_AUDIENCE", f"the signal is for tags {', '.join(sorted(audience.tags)[:5])}"
    return None


def subscribed(state: AccountState, signal: Signal) -> Skip:
    """Check strategy and symbol lists."""
    return follows(state, signal.strategy) or symbol_allowed(state, signal.symbol)


def follows(state: AccountState, strategy: str) -> Skip:
    """Check the account's list of strategies."""
    if state.all_strategies or strategy in state.strategies:
        return None
    return "NOT_SUBSCRIBED", f"the account does not follow strategy {strategy}"


def symbol_allowed(state: AccountState, symbol: str) -> Skip:
    """Check the account's list of symbols."""
    if state.all_symbols or symbol in state.symbols:
        return None
    return "SYMBOL_NOT_ALLOWED", f"{symbol} is not on the account's list of symbols"


def limits_set(state: AccountState) -> Skip:
    """Check that an account of real money has its order limits: entries wait for them (control C02)."""
    if not state.limits_unset:
        return None
    limits = state.limits
    named = ("max_order_quantity", "max_order_value")
    missing = [name for name in named if getattr(limits, name) is None]
    return (
        "LIMITS_UNSET",
        f"the live account has no {' and no '.join(missing)}; set_limits sets them",
    )


def standing(state: AccountState) -> Skip:
    """Check that the account is on and reachable."""
    if not state.active:
        return "INACTIVE", "the account is switched off"
    if not state.usable:
        text = state.connection_text or "its broker session is not up"
        return "NOT_CONNECTED", f"{state.connection.value}: {text}"
    return None


def open_hours(state: AccountState, now: datetime) -> Skip:
    """Check the account's trading hours."""
    if state.hours is None or state.hours.allows(now):
        return None
    return "OUTSIDE_HOURS", state.hours.closed_because(now)


def room_for_position(state: AccountState, held: set[str], symbol: str) -> Skip:
    """Check the number of positions; ``held`` are the symbols open or being opened."""
    limit = state.limits.max_positions
    if limit is None or symbol in held or len(held) < limit:
        return None
    return "POSITION_LIMIT", f"{len(held)} positions are open or being opened, the limit is {limit}"


def reward_worth_risk(state: AccountState, reward_risk: Decimal | None) -> Skip:
    """Check reward:risk where the account asks for it; a signal without both prices cannot prove it."""
    least = state.limits.min_reward_risk
    if least is None or least == 0:
        return None
    if reward_risk is None:
        return (
            "REWARD_RISK",
            f"the account asks for {to_text(least)}, the signal lacks stop_loss or take_profit",
        )
    if reward_risk < least:
        return "REWARD_RISK", f"{reward_risk:.2f} is less than the account's {to_text(least)}"
    return None


def within_daily_loss(state: AccountState, day_pnl: Decimal) -> Skip:
    """Check today's realised and unrealised loss against its limit."""
    limit = state.limits.max_daily_loss
    if limit is None or day_pnl > -limit:
        return None
    return "DAILY_LOSS", f"today's P&L is {day_pnl:.2f}, the limit is a loss of {to_text(limit)}"
