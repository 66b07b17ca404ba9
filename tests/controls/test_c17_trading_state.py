"""C17: five scopes, four states, every kind of order: the strictest wins; exits and cancels pass but under a halt."""

from __future__ import annotations

import itertools

import pytest

from engine.model.enums import OrderStatus, TradingState
from engine.model.identifiers import OPERATOR, PROTECTIVE
from engine.model.order import Order
from tests.helpers import make_order
from tests.world import alpaca, eventually, venue, world

SCOPES = ("all", "broker:alpaca", "account:A-001", "strategy:breakout", "symbol:AAPL")
OTHERS = ("broker:kite", "account:A-002", "strategy:other", "symbol:MSFT")
STATES = (TradingState.ACTIVE, TradingState.REDUCING, TradingState.DISARMED, TradingState.HALTED)
KINDS = {
    "entry by signal": ("bot", False),
    "entry by hand": (OPERATOR, False),
    "exit by signal": ("bot", True),
    "exit by engine": (PROTECTIVE, True),
    "exit by hand": (OPERATOR, True),
}
CODES = {
    TradingState.REDUCING: "PAUSED",
    TradingState.DISARMED: "DISARMED",
    TradingState.HALTED: "HALTED",
}


def passes(state: TradingState, source: str, reducing: bool) -> bool:
    """What reliability.md says: exits pass a pause; nothing automatic passes more; a halt only the operator's exits."""
    if state is TradingState.ACTIVE:
        return True
    if state is TradingState.REDUCING:
        return reducing
    return reducing and source == OPERATOR


async def test_the_whole_matrix_at_the_gate(tmp_path) -> None:
    asked = 0
    async with venue() as sim, world(tmp_path, [alpaca(1, f"http://127.0.0.1:{sim.port}")]) as w:
        await w.send(id="held")
        await eventually(lambda: w.position("A-001"))
        for scope, state, (source, reducing) in itertools.product(SCOPES, STATES, KINDS.values()):
            await w.engine.latch(scope, state, "test", OPERATOR)
            refused = w.engine.gate(_order(source, reducing))
            assert (refused is None) is passes(state, source, reducing), (scope, state, source)
            if refused is not None:
                assert refused[0] == CODES[state]
                assert refused[1].startswith(f"{scope} is {state.value} since ")
            asked += 1
            await w.engine.latch(scope, TradingState.ACTIVE, "", OPERATOR)
    assert asked == 5 * 4 * 5


async def test_the_strictest_of_two_scopes_wins_and_others_do_not_count(tmp_path) -> None:
    async with venue() as sim, world(tmp_path, [alpaca(1, f"http://127.0.0.1:{sim.port}")]) as w:
        await w.send(id="held")
        await eventually(lambda: w.position("A-001"))
        for first, second in itertools.permutations(SCOPES, 2):
            for mild, strict in itertools.combinations(STATES[1:], 2):
                await w.engine.latch(first, mild, "mild", OPERATOR)
                await w.engine.latch(second, strict, "strict", OPERATOR)
                for source, reducing in KINDS.values():
                    refused = w.engine.gate(_order(source, reducing))
                    assert (refused is None) is passes(strict, source, reducing)
                    assert refused is None or refused[0] == CODES[strict]
                await w.engine.latch(first, TradingState.ACTIVE, "", OPERATOR)
                await w.engine.latch(second, TradingState.ACTIVE, "", OPERATOR)
        for scope in OTHERS:
            await w.engine.latch(scope, TradingState.HALTED, "test", OPERATOR)
        assert w.engine.gate(_order("bot", False)) is None


@pytest.mark.parametrize("state", STATES)
async def test_cancels_pass_every_state_and_replacements_are_entries(
    tmp_path, state: TradingState
) -> None:
    rests = {"order_type": "limit", "limit_price": "185"}
    async with venue() as sim, world(tmp_path, [alpaca(1, f"http://127.0.0.1:{sim.port}")]) as w:
        order = w.order(await w.send(id="s-1", **rests), "A-001")
        if state is not TradingState.ACTIVE:
            await w.engine.latch("account:A-001", state, "test", OPERATOR)
        changed = await w.try_command(
            "replace_order", cl_ord_id=order.cl_ord_id, limit_price="184.5"
        )
        assert (changed.status_code == 200) is (state is TradingState.ACTIVE), changed.text
        if state is TradingState.ACTIVE:
            new = w.engine.orders.orders[changed.json()["cl_ord_id"]]
            await eventually(lambda: new.status is OrderStatus.NEW)
            order = new
        else:
            assert changed.json()["code"] == CODES[state]
        await w.command("cancel_order", cl_ord_id=order.cl_ord_id)
        await eventually(lambda: order.status is OrderStatus.CANCELED)


@pytest.mark.parametrize("scope", SCOPES)
async def test_a_state_survives_a_restart(tmp_path, scope: str) -> None:
    async with venue() as sim:
        async with world(tmp_path, [alpaca(1, f"http://127.0.0.1:{sim.port}")]) as w:
            await w.command("pause", scope=scope, reason="test")
            assert await _code(w, "s-1") == "PAUSED"
        async with world(tmp_path) as w:
            assert await _code(w, "s-2") == "PAUSED"
            await w.command("resume", scope=scope)
            assert await _code(w, "s-3") == ""


async def _code(w, signal_id: str) -> str:
    answer = await w.post(id=signal_id)
    detail = await w.detail(f"bot/{answer.json()['signal_id']}")
    return str(detail["accounts"][0]["code"] or answer.json().get("code", ""))


def _order(source: str, reducing: bool) -> Order:
    return make_order(
        "X", "sell" if reducing else "buy", "1", account="A-001", source=source, reducing=reducing,
        strategy="breakout", symbol="AAPL",
    )  # fmt: skip
