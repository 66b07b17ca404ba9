"""C21: an unknown order reserves, blocks its side, and too many of them halt the account until a person looks."""

from __future__ import annotations

import pytest

from engine.execution import reconciler as module
from engine.execution.reconciler import Reconciler
from engine.model.enums import OrderStatus
from tests.helpers import HandClock, ScriptedSession, eventually, make_order
from tests.world import alpaca, venue, world
from tests.world import eventually as soon


@pytest.mark.parametrize(("count", "halts"), [(2, False), (3, True)])
async def test_more_than_two(count: int, halts: bool) -> None:
    clock, doubts = HandClock(), []
    made = Reconciler(
        clock, lambda _: None, lambda _: None, lambda *said: doubts.append(said), lambda *_: None
    )
    session = ScriptedSession()
    session.hold.clear()
    for number in range(count):
        order = make_order(f"O-{number}")
        order.status = OrderStatus.UNKNOWN
        made.resolve(order, session)
    await eventually(lambda: len(session.looked_up) == count)
    clock.advance(module.DOUBT_AFTER_NS / 1e9)
    made._doubt("A-1", 0.0)
    text = f"{count} orders have no proven outcome, at most 2 may"
    assert doubts == ([("A-1", text)] if halts else [])
    await made.stop()


@pytest.mark.parametrize(("seconds", "halts"), [(60, False), (60.001, True)])
async def test_one_for_more_than_a_minute(seconds: float, halts: bool) -> None:
    clock, doubts = HandClock(), []
    made = Reconciler(
        clock, lambda _: None, lambda _: None, lambda *said: doubts.append(said), lambda *_: None
    )
    session = ScriptedSession()
    session.hold.clear()
    order = make_order()
    order.status = OrderStatus.UNKNOWN
    made.resolve(order, session)
    await eventually(lambda: session.looked_up)
    clock.advance(seconds)
    made._doubt("A-1", 0.0)
    made._doubt("A-1", 0.0)
    text = "an order has had no proven outcome for 60 s > 60 s"
    assert doubts == ([("A-1", text)] if halts else [])
    await made.stop()


async def test_it_blocks_its_side_only_and_the_block_survives_a_restart(tmp_path) -> None:
    blind = [
        {"action": "hang", "match": {"method": "POST"}, "times": 1},
        {"action": "http_503", "match": {"method": "GET", "path": "/v2/orders:by"}, "times": 0},
    ]
    async with venue() as sim:
        async with world(tmp_path, [alpaca(1, f"http://127.0.0.1:{sim.port}")]) as w:
            sim.faults.replace(blind)
            await w.post(id="lost", valid_for_s=0.5)
            order = w.engine.records["bot/lost"].orders["A-001"]
            await soon(lambda: order.status is OrderStatus.UNKNOWN, 20)
            assert order.cl_ord_id in w.engine.fleet.states["A-001"].working  # it reserves
            assert await code(w, "same") == "UNKNOWN_OPEN"
            assert await code(w, "symbol", symbol="MSFT") == ""
        async with world(tmp_path) as w:
            assert await code(w, "again") == "UNKNOWN_OPEN"
            known = w.engine.orders.orders[order.cl_ord_id]
            detail = (await w.detail("bot/again"))["accounts"][0]
            assert detail["message"] == f"{known.cl_ord_id} has no proven outcome yet"
            sim.faults.replace([])
            await soon(lambda: known.status.terminal, 20)
            assert known.code == "ABSENT"
            assert await code(w, "free") == ""


async def test_a_doubt_halts_the_account_at_once_and_over_a_restart(tmp_path) -> None:
    async with venue() as sim:
        async with world(tmp_path, [alpaca(1, f"http://127.0.0.1:{sim.port}")]) as w:
            w.engine.news.on_doubt("A-001", "3 orders have no proven outcome, at most 2 may")
            assert await code(w, "s-1") == "HALTED"
            (alert,) = [row for row in w.engine.alerts if row["code"] == "UNKNOWN_ORDERS"]
            assert alert["text"].endswith("at most 2 may: the account is halted")
        async with world(tmp_path) as w:
            latch = w.engine.states.get("account:A-001")
            assert latch is not None
            assert latch.reason.startswith("UNKNOWN_ORDERS: 3 orders")
            assert await code(w, "s-2") == "HALTED"
            await w.command("rearm", scope="account:A-001", reason="looked")
            assert await code(w, "s-3") == ""


async def code(w, signal_id: str, **fields) -> str:
    await w.post(id=signal_id, **fields)
    return str((await w.detail(f"bot/{signal_id}"))["accounts"][0]["code"])
