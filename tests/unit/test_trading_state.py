"""Latches: the strictest wins, and who may send under which."""

from __future__ import annotations

import itertools

import pytest

from engine.model.codes import CODES
from engine.model.enums import TradingState
from engine.risk.trading_state import FIRM, Latch, TradingStates, may_send, refusal

ACTIVE, REDUCING, DISARMED, HALTED = TradingState  # from the mildest to the strictest


def latch(scope: str, state: TradingState, reason: str = "why") -> Latch:
    return Latch(scope, state, reason, "2026-11-23T15:00:00Z", "operator")


def states_of(**states: TradingState) -> TradingStates:
    made = TradingStates()
    for scope, state in states.items():
        made.set(latch(scope, state))
    return made


def test_without_latches_everything_is_active():
    states = TradingStates()
    assert not states
    assert states.firm is ACTIVE
    assert states.strictest("account:A") is None
    assert states.latches() == []


@pytest.mark.parametrize(
    ("firm", "account", "symbol"), list(itertools.product(TradingState, repeat=3))
)
def test_the_strictest_wins(firm, account, symbol):
    states = states_of(all=firm, account=account, symbol=symbol, elsewhere=HALTED)
    found = states.strictest("account", "symbol")
    expected = max(firm, account, symbol, key=[ACTIVE, REDUCING, DISARMED, HALTED].index)
    assert (found.state if found else ACTIVE) is expected
    assert states.firm is firm


def test_of_equally_strict_ones_the_firm_s_is_told():
    assert states_of(all=HALTED, account=HALTED).strictest("account").scope == FIRM
    assert (
        states_of(account=HALTED, symbol=HALTED).strictest("account", "symbol").scope == "account"
    )


def test_active_lifts_a_latch_and_a_new_one_replaces_the_old():
    states = states_of(account=HALTED, all=REDUCING)
    states.set(latch("account", REDUCING))
    assert states.get("account").state is REDUCING
    states.set(latch("account", ACTIVE))
    assert states.get("account") is None
    assert [one.scope for one in states.latches()] == [FIRM]
    states.set(latch(FIRM, ACTIVE))
    states.set(latch("never latched", ACTIVE))
    assert not states


@pytest.mark.parametrize(
    ("state", "code"), [(REDUCING, "PAUSED"), (DISARMED, "DISARMED"), (HALTED, "HALTED")]
)
def test_a_refusal_says_what_since_when_and_why(state, code):
    assert refusal(latch("account:A", state, "loss limit")) == (
        code,
        f"account:A is {state.value} since 2026-11-23T15:00:00Z: loss limit",
    )
    assert refusal(latch("all", state, ""))[1].endswith("00Z")
    assert code in CODES


@pytest.mark.parametrize(
    ("state", "entry", "exit_", "entry_by_hand", "exit_by_hand"),
    [
        (ACTIVE, True, True, True, True),
        (REDUCING, False, True, False, True),
        (DISARMED, False, False, False, True),
        (HALTED, False, False, False, True),
    ],
)
def test_who_may_send(state, entry, exit_, entry_by_hand, exit_by_hand):
    states = states_of(all=state)
    found = states.strictest()
    assert may_send(found, reducing=False, manual=False) is entry
    assert may_send(found, reducing=True, manual=False) is exit_
    assert may_send(found, reducing=False, manual=True) is entry_by_hand
    assert may_send(found, reducing=True, manual=True) is exit_by_hand
