"""Reports of an order in every order, doubled and late (F17 to F19), and fills that the broker undoes."""

from __future__ import annotations

from collections.abc import Iterable
from decimal import Decimal

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from engine.brokers.alpaca import mapping
from engine.execution.order_manager import OrderManager
from engine.model.enums import ExecType, OrderStatus, Side
from engine.model.messages import ExecutionReport, Fill
from engine.model.order import BUST, Order
from engine.model.position import Position
from tests.helpers import HandClock, make_order, make_report, make_state, make_trade

D = Decimal


class Books:
    """An order manager and the position its fills make."""

    def __init__(self) -> None:
        self.state = make_state()
        self.broken: list[tuple[str, str]] = []
        self.fills: list[Fill] = []
        self.position = Position("A-1", "AAPL")
        self.manager = OrderManager(
            HandClock(),
            {"A-1": self.state},
            lambda _order, _report: None,
            self._fill,
            lambda account, text: self.broken.append((account, text)),
        )

    def _fill(self, fill: Fill, _order: Order) -> None:
        self.fills.append(fill)
        self.position.apply(fill.side, fill.last_qty, fill.last_px)

    def order(self) -> Order:
        order = make_order()
        order.first_byte_ns = 1
        self.manager.add(order)
        return order

    def take(self, reports: Iterable[ExecutionReport]) -> None:
        for report in reports:
            self.manager.apply(report)


@st.composite
def lives(draw: st.DrawFn) -> tuple[list[tuple[str, str, str]], bool]:
    """Return executions (id, quantity, price) of at most 10 in all, and whether a cancel ends the order."""
    left, fills = 10, []
    while left and draw(st.booleans()):
        quantity = draw(st.integers(1, left))
        left -= quantity
        fills.append((f"x{len(fills)}", str(quantity), draw(st.sampled_from(["99", "100.5"]))))
    return fills, draw(st.booleans()) and left > 0


@settings(max_examples=500, deadline=None)
@given(life=lives(), data=st.data())
def test_whatever_the_order_of_its_reports_each_execution_counts_once(life, data):
    fills, canceled = life
    books = Books()
    order = books.order()
    reports = [make_report(order, ExecType.NEW, OrderStatus.NEW, order_id="b-1")]
    reports += [make_trade(order, *fill) for fill in fills]
    if canceled:
        reports.append(make_report(order, ExecType.CANCELED, OrderStatus.CANCELED))
        reports.append(make_report(order, ExecType.CANCEL_REJECTED, text="too late"))
    doubled = reports + data.draw(st.lists(st.sampled_from(reports), max_size=6))
    seen_terminal: OrderStatus | None = None
    for report in data.draw(st.permutations(doubled)):
        books.take([report])
        if seen_terminal is not None:
            assert order.status is seen_terminal  # I6
        if order.status.terminal:
            seen_terminal = order.status
    total = sum((D(quantity) for _, quantity, _ in fills), D(0))
    assert order.cum_qty == total == books.position.qty  # I5, I7
    assert order.cash == sum(D(quantity) * D(price) for _, quantity, price in fills)
    assert sorted(fill.exec_id for fill in books.fills) == sorted(fill[0] for fill in fills)  # I11
    assert books.broken == []
    if canceled:
        assert order.status is OrderStatus.CANCELED
    elif total == 10:
        assert order.status is OrderStatus.FILLED


@settings(max_examples=200, deadline=None)
@given(data=st.data())
def test_more_filled_than_was_ordered_halts_the_account_in_every_order(data):
    books = Books()
    order = books.order()
    reports = [
        make_report(order, ExecType.NEW, OrderStatus.NEW, order_id="b-1"),
        make_trade(order, "x1", "6"),
        make_trade(order, "x2", "3"),
        make_trade(order, "x3", "4"),
    ]
    books.take(data.draw(st.permutations(reports)))
    assert order.cum_qty <= 10  # I5
    ((account, text),) = books.broken
    assert account == "A-1"
    assert f"of 10 on {order.cl_ord_id}" in text


# ---- another order under our id ------------------------------------------------------------------------------------


def told(order: Order, **fields: object) -> ExecutionReport:
    contents = {"symbol": "AAPL", "side": Side.BUY, "order_qty": D(10), "order_id": "b-1"}
    return make_report(order, ExecType.STATUS, OrderStatus.NEW, **(contents | fields))


@pytest.mark.parametrize(
    "differs",
    [{"symbol": "MSFT"}, {"side": Side.SELL}, {"order_qty": D(11)}, {"order_qty": D(9)}],
    ids=lambda fields: next(iter(fields)),
)
def test_what_is_no_order_of_ours_is_not_taken_and_halts_once(differs):
    books = Books()
    order = books.order()
    for _ in range(3):
        books.take([told(order, **differs)])
    ((_, text),) = books.broken
    assert "ours is buy 10 AAPL" in text
    assert (order.status, order.code) == (OrderStatus.UNKNOWN, "DUPLICATE_ID")
    assert (order.order_id, order.cum_qty) == ("", 0)


@pytest.mark.parametrize(
    "same",
    [
        {},
        {"symbol": "aapl"},
        {"order_qty": None},
        {"symbol": "", "side": None},
        {"order_qty": D(5), "text": "only 5 of 10 was placed"},
    ],
    ids=["same", "case", "no quantity", "no contents", "placed in part"],
)
def test_what_is_the_same_order_is_taken(same):
    books = Books()
    order = books.order()
    books.take([told(order, **same)])
    assert (books.broken, order.status) == ([], OrderStatus.NEW)


def test_a_proven_order_that_was_changed_at_the_broker_is_no_other_order():
    books = Books()
    order = books.order()
    books.take([told(order), told(order, order_qty=D(12))])
    assert (books.broken, order.status) == ([], OrderStatus.NEW)


# ---- busts -----------------------------------------------------------------------------------------------------------


def bust(order: Order, busts: str, quantity: str = "0", price: str = "0") -> ExecutionReport:
    return make_report(
        order,
        ExecType.TRADE_CANCEL,
        exec_id=f"{busts}-busted",
        busts=busts,
        last_qty=D(quantity),
        last_px=D(price),
        text="a fill of this order was busted",
    )


@pytest.mark.parametrize("told_in_full", [True, False])
def test_a_bust_takes_back_quantity_position_cash_and_gain(told_in_full: bool):
    books = Books()
    order = books.order()
    books.take([make_trade(order, "x1", "4", "100"), make_trade(order, "x2", "6", "101")])
    assert order.status is OrderStatus.FILLED
    books.take([bust(order, "x2", "6", "101") if told_in_full else bust(order, "x2")] * 2)
    assert (order.cum_qty, order.cash, order.status) == (4, 400, OrderStatus.FILLED)  # I6 stands
    assert (books.position.qty, books.position.cash) == (4, -400)
    undone = books.fills[-1]
    assert (undone.side, undone.last_qty, undone.last_px) == (Side.SELL, 6, 101)
    assert undone.exec_id == f"{BUST}x2-busted"
    books.take([make_trade(order, "x2", "6", "101")])  # the old fill, told once more
    assert order.cum_qty == 4


def test_a_bust_survives_a_restart():
    books = Books()
    order = books.order()
    books.take([make_trade(order, "x1", "10"), bust(order, "x1", "10", "100")])
    again = make_order()
    again.cum_qty = order.cum_qty
    again.restore_fills([fill.exec_id for fill in books.fills])
    assert again.bust("x1-busted", D(10), D(100), HandClock().now()) is None


def test_a_bust_of_what_never_filled_changes_nothing():
    books = Books()
    order = books.order()
    books.take([bust(order, "x9", "5", "100")])
    assert (order.cum_qty, books.fills, books.broken) == (0, [], [])


@settings(max_examples=200, deadline=None)
@given(data=st.data())
def test_fills_and_busts_in_any_possible_order_add_up(data):
    books = Books()
    order = books.order()
    waiting = [make_trade(order, f"x{n}", str(n + 1), "100") for n in range(3)]
    possible: list[ExecutionReport] = list(waiting)
    done: set[str] = set()
    while possible:
        report = data.draw(st.sampled_from(possible))
        books.take([report])
        if report.exec_type is ExecType.TRADE:
            possible.remove(report)
            if data.draw(st.booleans()):
                possible.append(bust(order, report.exec_id, str(report.last_qty), "100"))
        else:
            possible.remove(report)
            done.add(report.busts)
    left = sum(n + 1 for n in range(3) if f"x{n}" not in done)
    assert order.cum_qty == books.position.qty == left
    assert books.position.cash == -100 * left


def test_alpaca_tells_a_bust():
    order = {"id": "b-1", "client_order_id": "O-1", "status": "filled", "symbol": "AAPL", "side": "buy",
             "qty": "10", "filled_qty": "4", "filled_avg_price": "100"}  # fmt: skip
    event = {
        "event": "trade_bust",
        "execution_id": "x2-busted",
        "previous_execution_id": "x2",
        "qty": "6",
        "price": "101",
        "order": order,
    }
    report = mapping.stream_report("A-1", event)
    assert report.exec_type is ExecType.TRADE_CANCEL
    assert (report.busts, report.exec_id) == ("x2", "x2-busted")
    assert (report.last_qty, report.last_px) == (6, 101)
    assert report.text == "a fill of this order was busted"
