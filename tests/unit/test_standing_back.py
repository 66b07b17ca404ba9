"""Reading of our own accord: behind orders and their answers, and never not at all."""

from __future__ import annotations

import pytest

from engine.execution.dispatcher import Dispatcher
from engine.execution.standing_back import ALONE_S, ANSWERS_S, HELD_NS, MOST_NS, StandingBack
from engine.model.enums import OrderStatus
from tests.helpers import make_account, make_order, make_state

START_NS = 10 * HELD_NS


class Sending(Dispatcher):
    """A dispatcher whose last order left so many seconds ago."""

    ago_s = float("inf")

    def idle_s(self) -> float:
        return self.ago_s


class Desk:
    def __init__(self) -> None:
        self.dispatcher = Sending()
        self.order = make_order()
        state = make_state(make_account("A-1"))
        state.working[self.order.cl_ord_id] = self.order
        self.order.status = OrderStatus.NEW
        self.back = StandingBack(self.dispatcher, {"A-1": state})
        assert not self.back.holds(START_NS)  # nothing left lately: something is read now


async def test_while_nothing_leaves_reading_goes_on_whatever_is_unanswered():
    desk = Desk()
    desk.order.status = OrderStatus.PENDING_NEW
    assert not desk.back.holds(START_NS + 1)
    desk.dispatcher.ago_s = ANSWERS_S
    assert not desk.back.holds(START_NS + 2)


async def test_while_orders_leave_it_waits_for_a_second_at_most():
    desk = Desk()
    desk.dispatcher.ago_s = ALONE_S / 2
    assert desk.back.holds(START_NS + HELD_NS - 1)
    assert not desk.back.holds(START_NS + HELD_NS)
    assert desk.back.holds(START_NS + HELD_NS + 1)  # counted from then


@pytest.mark.parametrize("ago_s", [ALONE_S / 2, ALONE_S * 2])
async def test_answers_are_waited_for_a_second_more_and_no_longer(ago_s: float):
    desk = Desk()
    desk.dispatcher.ago_s = ago_s
    desk.order.status = OrderStatus.PENDING_NEW
    assert desk.back.holds(START_NS + HELD_NS)
    assert desk.back.holds(START_NS + MOST_NS - 1)
    assert not desk.back.holds(START_NS + MOST_NS)
    desk.order.status = OrderStatus.NEW
    desk.dispatcher.ago_s = ALONE_S
    assert not desk.back.holds(START_NS + MOST_NS + 1)  # all are answered
