"""What became of an order: asked until it is proven, believed absent only after the settling time, and twice."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from decimal import Decimal

import pytest

from engine.errors import BrokerUnavailable
from engine.execution import reconciler as module
from engine.execution.reconciler import MOST_LOOK_UPS, Reconciler
from engine.model.enums import ExecType, OrderStatus, OrderType, Side, TimeInForce
from engine.model.messages import ExecutionReport
from engine.model.order import Order
from tests.helpers import (
    CAPABILITIES,
    MONDAY,
    HandClock,
    ScriptedSession,
    eventually,
    make_order,
    make_report,
    make_state,
    make_trade,
)


class Desk:
    """A reconciler over a scripted session; reports go through the order as in the engine."""

    def __init__(self, settle_s: float = 0.0) -> None:
        self.clock = HandClock()
        self.session = ScriptedSession(capabilities=replace(CAPABILITIES, settle_s=settle_s))
        self.reports: list[ExecutionReport] = []
        self.absent: list[str] = []
        self.orders: dict[str, Order] = {}
        self.doubts: list[tuple[str, str]] = []
        self.stuck: list[tuple[str, str]] = []
        self.reconciler = Reconciler(
            self.clock,
            self._report,
            self._absent,
            lambda account, text: self.doubts.append((account, text)),
            lambda order, text: self.stuck.append((order.cl_ord_id, text)),
        )

    def _report(self, report: ExecutionReport) -> None:
        self.reports.append(report)
        if order := self.orders.get(report.cl_ord_id):
            order.apply(report, self.clock.now())

    def _absent(self, order: Order) -> None:
        self.absent.append(order.cl_ord_id)

    def order(self, cl_ord_id: str = "O-1", status: OrderStatus = OrderStatus.UNKNOWN) -> Order:
        order = self.orders[cl_ord_id] = make_order(cl_ord_id)
        order.status, order.first_byte_ns = status, 1
        return order

    def looked_up(self) -> int:
        return len(self.session.looked_up)

    async def done(self) -> None:
        await eventually(lambda: not self.reconciler._resolving)


@pytest.fixture
async def desk(monkeypatch):
    monkeypatch.setattr(module, "LOOK_UP_AGAIN_S", 0.001)
    monkeypatch.setattr(module, "LOOK_UP_SLOWLY_S", 0.001)
    made = Desk()
    yield made
    await made.reconciler.stop()
    assert not [task for task in asyncio.all_tasks() if task.get_name().startswith("resolve-")]


async def test_what_the_broker_has_is_reported(desk):
    order = desk.order()
    desk.session.answers = [make_report(order, ExecType.STATUS, OrderStatus.NEW, order_id="b-1")]
    desk.reconciler.resolve(order, desk.session)
    await desk.done()
    assert order.status is OrderStatus.NEW
    assert desk.looked_up() == 1
    assert desk.absent == []


async def test_absent_is_believed_the_second_time(desk):
    desk.reconciler.resolve(desk.order(), desk.session)
    await desk.done()
    assert desk.looked_up() == 2
    assert desk.absent == ["O-1"]
    assert desk.reports == []


async def test_seen_at_the_second_look_is_not_absent(desk):
    order = desk.order()
    desk.session.answers.append(make_report(order, ExecType.STATUS, OrderStatus.NEW))
    desk.reconciler.resolve(order, desk.session)
    await desk.done()
    assert (desk.absent, order.status) == ([], OrderStatus.NEW)


async def test_not_found_counts_only_after_the_settling_time(monkeypatch):
    monkeypatch.setattr(module, "LOOK_UP_AGAIN_S", 0.001)
    desk = Desk(settle_s=0.002)
    desk.reconciler.resolve(desk.order(), desk.session)
    await eventually(lambda: desk.looked_up() >= 6)
    assert desk.absent == []  # however often it was asked: no time has passed
    desk.clock.advance_ns(1_999_999)
    looked_up = desk.looked_up()
    await eventually(lambda: desk.looked_up() >= looked_up + 2)
    assert desk.absent == []
    desk.clock.advance_ns(1)
    await desk.done()
    assert desk.absent == ["O-1"]


async def test_the_stream_may_be_faster(desk, monkeypatch):
    monkeypatch.setattr(module, "LOOK_UP_AGAIN_S", 0.2)
    order = desk.order()
    desk.reconciler.resolve(order, desk.session)
    await eventually(lambda: desk.looked_up() == 1)
    desk._report(make_report(order, ExecType.NEW, order_id="b-1"))
    await desk.done()
    assert desk.looked_up() == 1
    assert desk.absent == []
    assert order.status is OrderStatus.NEW


async def test_a_failed_look_up_is_told_and_tried_again_and_proves_nothing(desk):
    order = desk.order()
    desk.session.answers.clear()
    desk.session.answers.extend(
        [None, BrokerUnavailable("no route"), BrokerUnavailable("no route"), None]
    )
    desk.reconciler.resolve(order, desk.session)
    await eventually(lambda: order.text)
    assert order.text == "looking it up failed: no route"
    await desk.done()
    assert desk.looked_up() == 4
    assert desk.absent == ["O-1"]


async def test_after_a_while_a_person_is_told_once_and_the_broker_is_asked_on(desk):
    desk.session.answers = [BrokerUnavailable("down")]
    order = desk.order()
    desk.reconciler.resolve(order, desk.session)
    await eventually(lambda: desk.looked_up() >= MOST_LOOK_UPS + 5)
    ((stuck, text),) = desk.stuck
    assert stuck == "O-1"
    assert "resolve_unknown" in text
    assert (order.status, desk.absent) == (OrderStatus.UNKNOWN, [])
    desk.session.answers = [make_report(order, ExecType.STATUS, OrderStatus.NEW, order_id="b-1")]
    await desk.done()
    assert order.status is OrderStatus.NEW


async def test_a_broker_whose_client_ids_are_labels_never_proves_absence(monkeypatch):
    monkeypatch.setattr(module, "LOOK_UP_AGAIN_S", 0.001)
    monkeypatch.setattr(module, "LOOK_UP_SLOWLY_S", 0.001)
    desk = Desk()
    desk.session.capabilities = replace(CAPABILITIES, client_id="label")
    order = desk.order()
    desk.reconciler.resolve(order, desk.session)
    await eventually(lambda: desk.looked_up() > MOST_LOOK_UPS)
    assert (desk.absent, len(desk.stuck)) == ([], 1)
    desk._report(make_report(order, ExecType.NEW))  # a person's word
    await desk.done()


async def test_three_orders_without_proof_are_too_many_and_told_once(desk):
    desk.session.answers = [BrokerUnavailable("down")]
    orders = [desk.order(f"O-{number}") for number in range(3)]
    for order in orders[:2]:
        desk.reconciler.resolve(order, desk.session)
    await eventually(lambda: desk.looked_up() >= 2)
    desk.clock.advance(10)
    looked_up = desk.looked_up()
    await eventually(lambda: desk.looked_up() > looked_up + 4)
    assert desk.doubts == []  # two may be
    desk.reconciler.resolve(orders[2], desk.session)
    await eventually(lambda: "O-2" in desk.session.looked_up)
    desk.clock.advance(1.9)
    looked_up = desk.looked_up()
    await eventually(lambda: desk.looked_up() > looked_up + 6)
    assert desk.doubts == []  # the third has only just been asked for
    desk.clock.advance(0.1)
    await eventually(lambda: desk.doubts)
    assert desk.doubts == [("A-1", "3 orders have no proven outcome, at most 2 may")]
    desk.clock.advance(100)
    looked_up = desk.looked_up()
    await eventually(lambda: desk.looked_up() > looked_up + 6)
    assert len(desk.doubts) == 1
    for order in orders:
        desk._report(make_report(order, ExecType.NEW))
    await desk.done()
    assert (desk.reconciler._since, desk.reconciler._doubted) == ({}, set())


async def test_a_minute_without_proof_is_too_long(desk):
    desk.session.answers = [BrokerUnavailable("down")]
    desk.reconciler.resolve(desk.order(), desk.session)
    await eventually(lambda: desk.looked_up() > 1)
    desk.clock.advance(60)
    looked_up = desk.looked_up()
    await eventually(lambda: desk.looked_up() > looked_up + 1)
    assert desk.doubts == []
    desk.clock.advance(0.5)
    await eventually(lambda: desk.doubts)
    assert desk.doubts == [("A-1", "an order has had no proven outcome for 60 s > 60 s")]


async def test_one_look_at_an_order_that_ought_to_have_ended(desk):
    order = desk.order(status=OrderStatus.PENDING_CANCEL)
    desk.session.answers = [BrokerUnavailable("no route"), make_report(order, ExecType.CANCELED)]
    desk.reconciler.ask(order, desk.session)
    await eventually(lambda: "no route" in order.text)
    desk.reconciler.ask(order, desk.session)
    await eventually(lambda: order.status is OrderStatus.CANCELED)
    await eventually(lambda: not desk.reconciler._asking)


async def test_exits_a_broker_made_are_told_when_they_are_listed(desk):
    told = ExecutionReport("A-1", "L-1", ExecType.STATUS, order_id="b-9", parent="O-1", leg="stop")
    desk.session.listed = [told]
    check = await desk.reconciler.compare(state_of(), desk.session)
    assert len(check.foreign) == 0
    assert desk.reports == [told]


async def test_a_resting_exit_that_is_gone_is_told(desk):
    leg = desk.order(status=OrderStatus.NEW)
    leg.reducing, leg.order_type = True, OrderType.STOP
    await desk.reconciler.compare(state_of(leg), desk.session)
    assert [name for name, _text in desk.stuck] == ["O-1"]


async def test_proof_that_comes_while_the_broker_is_asked_wins(desk):
    order = desk.order()
    desk.session.hold.clear()
    desk.reconciler.resolve(order, desk.session)
    await eventually(lambda: desk.looked_up() == 1)
    desk.session.hold.set()
    desk.session.hold.clear()
    await eventually(lambda: desk.looked_up() == 2)  # the second "none" would be believed
    desk._report(make_trade(order, "x1", "10"))
    desk.session.hold.set()
    await desk.done()
    assert desk.absent == []
    assert order.status is OrderStatus.FILLED


async def test_an_order_that_was_absent_and_is_unknown_at_once_again_is_looked_up_again(desk):
    order = desk.order()

    def send_again(absent: Order) -> None:
        desk.absent.append(absent.cl_ord_id)
        if len(desk.absent) == 1:
            desk.reconciler.resolve(absent, desk.session)

    desk.reconciler._on_absent = send_again
    desk.reconciler.resolve(order, desk.session)
    await desk.done()
    assert desk.absent == ["O-1", "O-1"]
    assert desk.looked_up() == 4


async def test_one_look_up_an_order_at_a_time(desk):
    order, other = desk.order(), desk.order("O-2")
    desk.session.hold.clear()
    for _ in range(5):
        desk.reconciler.resolve(order, desk.session)
    desk.reconciler.resolve(other, desk.session)
    await eventually(lambda: desk.looked_up() == 2)
    assert sorted(desk.session.looked_up) == ["O-1", "O-2"]
    desk.session.hold.set()
    await desk.done()
    assert sorted(desk.absent) == ["O-1", "O-2"]
    desk.reconciler.resolve(order, desk.session)  # later it may be asked for again
    await desk.done()
    assert desk.absent.count("O-1") == 2


async def test_stopping_ends_look_ups_wherever_they_are(desk):
    desk.session.hold.clear()
    for number in range(10):
        desk.reconciler.resolve(desk.order(f"O-{number}"), desk.session)
    await eventually(lambda: desk.looked_up() == 10)
    await desk.reconciler.stop()
    assert desk.reconciler._resolving == {}
    assert (desk.reports, desk.absent) == ([], [])


async def test_an_order_that_is_proven_already_is_not_looked_up(desk):
    desk.reconciler.resolve(desk.order(status=OrderStatus.NEW), desk.session)
    await desk.done()
    assert desk.looked_up() == 0


# A connection comes up.


def state_of(*orders: Order):
    state = make_state()
    state.working = {order.cl_ord_id: order for order in orders}
    return state


async def test_working_orders_are_brought_up_to_the_broker_s_list(desk):
    order = desk.order(status=OrderStatus.NEW)
    desk.session.listed = [
        make_report(order, ExecType.STATUS, OrderStatus.PENDING_CANCEL, order_id="b-1"),
        ExecutionReport("A-1", "", ExecType.STATUS, order_id="b-7"),
        ExecutionReport("A-1", "by-hand", ExecType.STATUS, order_id="b-8"),
    ]
    check = await desk.reconciler.compare(state_of(order), desk.session)
    assert len(check.foreign) == 2
    assert order.status is OrderStatus.PENDING_CANCEL
    assert desk.looked_up() == 0


async def test_an_order_listed_only_under_the_broker_s_id_is_ours(desk):
    order = desk.order(status=OrderStatus.NEW)
    order.order_id = "b-1"
    desk.session.listed = [ExecutionReport("A-1", "", ExecType.STATUS, order_id="b-1")]
    check = await desk.reconciler.compare(state_of(order), desk.session)
    assert len(check.foreign) == 0
    assert len(desk.reports) == 1


async def test_what_is_not_listed_is_looked_up(desk):
    gone, lost = desk.order("O-1", OrderStatus.NEW), desk.order("O-2", OrderStatus.UNKNOWN)
    desk.session.answers = [make_report(gone, ExecType.CANCELED, OrderStatus.CANCELED)]
    check = await desk.reconciler.compare(state_of(gone), desk.session)
    assert len(check.foreign) == 0
    assert gone.status is OrderStatus.CANCELED
    desk.session.answers = [None]
    await desk.reconciler.compare(state_of(lost), desk.session)
    await desk.done()
    assert desk.absent == ["O-2"]


async def test_an_order_once_proven_and_now_gone_is_left_to_a_person(desk):
    order = desk.order(status=OrderStatus.PARTIALLY_FILLED)
    await desk.reconciler.compare(state_of(order), desk.session)
    assert order.status is OrderStatus.PARTIALLY_FILLED
    assert order.text == "the broker no longer lists this order"
    assert (desk.absent, desk.stuck) == ([], [])


async def test_an_order_that_has_not_left_is_none_of_the_broker_s_business(desk):
    order = desk.order(status=OrderStatus.PENDING_NEW)
    order.first_byte_ns = 0
    check = await desk.reconciler.compare(state_of(order), desk.session)
    assert len(check.foreign) == 0
    await desk.done()
    assert (desk.looked_up(), desk.reports) == (0, [])


# ---- each was once broken -----------------------------------------------------------------------------------------


async def test_an_order_on_its_way_is_never_called_absent(desk):
    """Its stream bounced while the reply was slow: the reply tells, not a look-up that is too early."""
    order = desk.order(status=OrderStatus.PENDING_NEW)
    state = make_state()
    state.working[order.cl_ord_id] = order
    await desk.reconciler.compare(state, desk.session)
    assert desk.looked_up() == 0
    assert not desk.absent


async def test_what_was_seen_before_an_order_was_sent_again_is_of_no_account():
    desk = Desk(settle_s=3)
    order = desk.order()
    desk.reconciler.resolve(order, desk.session)
    await eventually(lambda: desk.looked_up() == 1)
    order.first_byte_ns = 2  # absent once, then sent again
    desk.clock.advance(4)
    await eventually(lambda: desk.looked_up() >= 3, 60)
    assert not desk.absent
    await desk.reconciler.stop()


async def test_a_new_session_takes_over_the_look_ups_of_the_old_one(desk):
    order = desk.order()
    desk.reconciler.resolve(order, desk.session)
    await eventually(lambda: desk.looked_up() >= 1)
    successor = ScriptedSession(capabilities=desk.session.capabilities)
    desk.reconciler.resolve(order, successor)
    await eventually(lambda: len(successor.looked_up) >= 1)


# ---- days, twins, and what is over for us only ---------------------------------------------------------------------


@pytest.mark.parametrize(
    ("zone", "created", "tif", "expires"),
    [
        ("Asia/Kolkata", MONDAY - timedelta(days=1), TimeInForce.DAY, True),
        ("Asia/Kolkata", MONDAY - timedelta(days=1), TimeInForce.IOC, True),
        ("Asia/Kolkata", MONDAY - timedelta(days=1), TimeInForce.GTC, False),
        ("Asia/Kolkata", MONDAY, TimeInForce.DAY, False),
        # 20:30 in Kolkata is 15:00 UTC; midnight there was at 18:30 UTC of the day before.
        ("Asia/Kolkata", datetime(2026, 11, 22, 18, 29, 59, tzinfo=UTC), TimeInForce.DAY, True),
        ("Asia/Kolkata", datetime(2026, 11, 22, 18, 30, tzinfo=UTC), TimeInForce.DAY, False),
        ("", MONDAY - timedelta(days=9), TimeInForce.DAY, False),
    ],
)
async def test_a_day_order_of_an_earlier_day_that_is_not_listed_has_expired(
    desk, zone, created, tif, expires
):
    desk.session.capabilities = replace(CAPABILITIES, day_zone=zone)
    order = desk.order(status=OrderStatus.NEW)
    order.created_at, order.time_in_force = created, tif
    check = await desk.reconciler.compare(state_of(order), desk.session)
    if expires:
        assert (order.status, check.findings) == (OrderStatus.EXPIRED, [])
        assert order.text == "the exchange's day is over and the broker's book has it no more"
    else:
        assert order.status is OrderStatus.NEW
        assert [one.difference for one in check.findings] == ["missing"]


async def test_a_day_order_that_is_still_listed_goes_on(desk):
    desk.session.capabilities = replace(CAPABILITIES, day_zone="Asia/Kolkata")
    order = desk.order(status=OrderStatus.NEW)
    order.created_at = MONDAY - timedelta(days=3)
    desk.session.listed = [make_report(order, ExecType.STATUS, OrderStatus.NEW, order_id="b-1")]
    check = await desk.reconciler.compare(state_of(order), desk.session)
    assert (order.status, check.findings) == (OrderStatus.NEW, [])


async def test_several_orders_under_one_id_are_all_told(desk):
    order = desk.order(status=OrderStatus.NEW)
    order.order_id = "b-1"
    terms = {"symbol": "AAPL", "side": Side.BUY}
    desk.session.listed = [
        make_report(order, ExecType.STATUS, order_id=f"b-{n}", order_qty=Decimal(size), **terms)
        for n, size in ((1, "10"), (2, "10"), (3, "4"))
    ]
    check = await desk.reconciler.compare(state_of(order), desk.session)
    twins = [one for one in check.findings if one.actions == ("repair",)]
    assert [one.subject for one in twins] == ["O-1/b-2", "O-1/b-3"]
    assert {one.difference for one in twins} == {"+14"}
    assert {one.actual for one in twins} == {"3 orders of 24 together"}
    assert check.foreign == []


async def test_an_order_the_list_does_not_know_yet_is_not_foreign(desk):
    """Sent while the list was on its way: the broker has it, and so do we."""
    order = desk.order(status=OrderStatus.NEW)
    desk.reconciler._ours = lambda report: order if report.cl_ord_id == "O-1" else None
    desk.session.listed = [make_report(order, ExecType.STATUS, OrderStatus.NEW, order_id="b-1")]
    check = await desk.reconciler.compare(state_of(), desk.session)
    assert (check.foreign, check.findings) == ([], [])


async def test_one_that_is_over_for_us_and_works_at_the_broker_differs(desk):
    order = desk.order(status=OrderStatus.CANCELED)
    desk.reconciler._ours = lambda _report: order
    desk.session.listed = [
        make_report(order, ExecType.STATUS, OrderStatus.NEW, order_id="b-1", symbol="AAPL")
    ]
    check = await desk.reconciler.compare(state_of(), desk.session)
    assert [(one.expected, one.difference) for one in check.findings] == [("canceled", "extra")]


async def test_a_missing_exit_is_told_once_however_often_it_is_missed(desk):
    leg = desk.order(status=OrderStatus.NEW)
    leg.reducing, leg.order_type = True, OrderType.STOP
    for _ in range(3):
        await desk.reconciler.compare(state_of(leg), desk.session)
    assert len(desk.stuck) == 1
