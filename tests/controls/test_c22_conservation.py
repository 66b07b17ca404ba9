"""C22: at the socket nothing leaves twice, nothing more than was planned, and nothing that was not planned."""

from __future__ import annotations

from decimal import Decimal

import pytest

from engine.execution.conservation import Ledger
from engine.model.enums import OrderStatus
from engine.model.order import Order
from tests.helpers import make_order
from tests.world import alpaca, eventually, venue, world


def planned(*orders: Order, key: str = "bot/s-1") -> Ledger:
    ledger = Ledger()
    for order in orders:
        ledger.planned(order)
    ledger.committed(key, list(orders))
    return ledger


def test_each_planned_order_leaves_once() -> None:
    first, second = make_order("1"), make_order("2")
    ledger = planned(first, second)
    assert ledger.let_go(first) == ledger.let_go(second) == ""
    assert "has left before" in ledger.let_go(first)
    assert ledger.refused == 1


def test_what_was_never_planned_does_not_leave() -> None:
    assert Ledger().let_go(make_order("1")) == "A-1 AAPL 1: was never planned"


@pytest.mark.parametrize(
    ("quantity", "why"),
    [("10", ""), ("9", ""), ("10.00000001", "A-1 AAPL 1: 10.00000001 > planned 10")],
)
def test_never_more_than_planned(quantity: str, why: str) -> None:
    order = make_order("1", quantity="10")
    ledger = planned(order)
    order.order_qty = Decimal(quantity)
    assert ledger.let_go(order) == why


def test_a_signals_orders_together_never_more_than_its_plan() -> None:
    order, again = make_order("1"), make_order("2")
    ledger = planned(order)
    assert ledger.let_go(order) == ""
    ledger.planned(again)
    ledger._intents["2"].signal = ledger._intents["1"].signal  # a second order for the same plan
    assert ledger.let_go(again).endswith("10 > 0 in 0 orders that its signal has left")


def test_a_release_adds_to_the_plan() -> None:
    order, released = make_order("1"), make_order("2")
    ledger = planned(order)
    ledger.planned(released)
    ledger.committed("bot/s-1", [released])
    assert ledger.let_go(order) == ledger.let_go(released) == ""


def test_proof_of_absence_lets_it_leave_once_more() -> None:
    order = make_order("1")
    ledger = planned(order)
    for _ in range(3):
        assert ledger.let_go(order) == ""
        assert ledger.let_go(order)
        ledger.proven_absent(order)
        ledger.proven_absent(order)  # told twice, it leaves once
    assert ledger.let_go(order) == ""
    assert ledger.let_go(order)


@pytest.mark.parametrize("status", [OrderStatus.UNKNOWN, OrderStatus.NEW, OrderStatus.EXPIRED])
def test_orders_of_an_earlier_life_have_left(status: OrderStatus) -> None:
    order = make_order("1")
    order.status = status
    ledger = planned(order)
    assert "has left before" in ledger.let_go(order)
    ledger.proven_absent(order)
    assert ledger.let_go(order) == ""


def test_taken_back_or_forgotten_does_not_leave() -> None:
    order = make_order("1")
    ledger = planned(order)
    ledger.forget("1")
    assert "never planned" in ledger.let_go(order)


async def test_a_second_send_halts_everything_and_sends_nothing(tmp_path) -> None:
    async with venue() as sim:
        account = alpaca(1, f"http://127.0.0.1:{sim.port}")
        async with world(tmp_path, [account]) as w:
            detail = await w.send(id="s-1")
            order = w.order(detail, "A-001")
            await eventually(lambda: order.status is OrderStatus.FILLED)
            session = w.engine.fleet.sessions["A-001"]
            sent: list[Order] = []
            session.submit = sent.append
            order.status = OrderStatus.PENDING_NEW  # as a fault of ours might
            w.engine.dispatcher.lanes["A-001"].put(order)
            assert w.engine.states.firm.value == "halted"
            assert not sent
            (alert,) = [row for row in w.engine.alerts if row["code"] == "CONSERVATION"]
            assert order.cl_ord_id in alert["text"]
            assert "everything is halted" in alert["text"]
            assert alert["severity"] == "critical"
            assert w.engine.controls.row("C22")["state"] == "tripped"
            latch = w.engine.states.get("all")
            assert latch is not None
            assert latch.reason.startswith("CONSERVATION: A-001 AAPL")
            assert (await w.post(id="s-2")).json()["code"] == "HALTED"
            order.status = OrderStatus.FILLED
        async with world(tmp_path) as w:
            assert w.engine.states.firm.value == "halted"
            known = w.engine.orders.orders[order.cl_ord_id]
            assert "has left before" in w.engine.orders.ledger.let_go(known)
