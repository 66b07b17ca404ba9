"""Reports find their orders: by our id, by the broker's, never across accounts; old orders make room."""

from __future__ import annotations

from decimal import Decimal

import pytest

from engine.execution import order_manager as module
from engine.execution.order_manager import OrderManager
from engine.model.enums import ExecType, OrderStatus
from engine.model.messages import ExecutionReport
from engine.model.order import Order
from tests.helpers import HandClock, make_account, make_order, make_report, make_state, make_trade


class Book:
    """An order manager that notes what it tells."""

    def __init__(self, *accounts: str) -> None:
        self.states = {a: make_state(make_account(a)) for a in accounts}
        self.changes: list[tuple[str, str | None]] = []
        self.fills: list[tuple[str, str, Decimal]] = []
        self.broken: list[tuple[str, str]] = []
        self.manager = OrderManager(
            HandClock(), self.states, self._changed, self._filled, self._broken
        )

    def _changed(self, order: Order, report: ExecutionReport | None) -> None:
        self.changes.append((order.cl_ord_id, report.exec_type.value if report else None))

    def _filled(self, fill, order) -> None:
        assert fill.cl_ord_id == order.cl_ord_id
        self.fills.append((fill.cl_ord_id, fill.exec_id, fill.last_qty))

    def _broken(self, account: str, text: str) -> None:
        self.broken.append((account, text))

    def add(self, cl_ord_id: str = "O-1", account: str = "A", **fields) -> Order:
        order = make_order(cl_ord_id, account=account, **fields)
        self.manager.add(order)
        return order


@pytest.fixture
def book() -> Book:
    return Book("A", "B")


def test_one_road_for_every_report(book):
    order = book.add()
    assert book.states["A"].working == {"O-1": order}
    book.manager.apply(make_report(order, ExecType.NEW, order_id="b-1"))
    book.manager.apply(make_trade(order, "x1", "4"))
    book.manager.apply(make_trade(order, "x1", "4"))  # told twice, counted once
    book.manager.apply(make_trade(order, "x2", "6"))
    assert order.status is OrderStatus.FILLED
    assert book.fills == [("O-1", "x1", Decimal(4)), ("O-1", "x2", Decimal(6))]
    assert [kind for _, kind in book.changes] == ["new", "trade", "trade", "trade"]
    assert book.states["A"].working == {}
    assert [fill.exec_id for fill in book.manager.fills] == ["x1", "x2"]
    assert book.broken == []


def test_a_report_of_an_order_we_do_not_know_changes_nothing(book):
    book.add()
    stranger = ExecutionReport("A", "somebody-else", ExecType.NEW, order_id="b-9")
    nameless = ExecutionReport("A", "", ExecType.CANCELED, order_id="b-9")
    assert book.manager.apply(stranger) is None
    assert book.manager.apply(nameless) is None
    assert (book.changes, book.fills, book.broken) == ([], [], [])


def test_a_report_without_our_id_is_found_by_the_broker_s(book):
    order = book.add()
    book.manager.apply(make_report(order, ExecType.NEW, order_id="b-1"))
    late = ExecutionReport("A", "", ExecType.CANCELED, order_id="b-1")
    assert book.manager.apply(late) is order
    assert order.status is OrderStatus.CANCELED


def test_the_same_broker_s_id_in_two_accounts_is_two_orders(book):
    ours, theirs = book.add("O-1", "A"), book.add("O-2", "B")
    for order in (ours, theirs):
        book.manager.apply(make_report(order, ExecType.NEW, order_id="7"))
    assert book.manager.apply(ExecutionReport("B", "", ExecType.CANCELED, order_id="7")) is theirs
    assert ours.status is OrderStatus.NEW


def test_another_account_s_report_is_never_applied(book):
    order = book.add("O-1", "A")
    crossed = ExecutionReport(
        "B", "O-1", ExecType.TRADE, exec_id="x", last_qty=Decimal(10), last_px=Decimal(1)
    )
    assert book.manager.apply(crossed) is None
    assert order.status is OrderStatus.PENDING_NEW
    assert not order.cum_qty
    assert book.fills == []
    assert book.broken == [("B", "a report for A's order O-1")]


def test_more_filled_than_ordered_is_told_and_not_counted(book):
    order = book.add()
    book.manager.apply(make_trade(order, "x1", "8"))
    assert book.manager.apply(make_trade(order, "x2", "3")) is order
    assert order.cum_qty == 8
    assert book.broken == [("A", "A: broker filled 11 of 10 on O-1")]


def test_what_never_left_is_passed_on_and_changes_no_status(book):
    order = book.add()
    book.manager.apply(make_report(order, ExecType.UNSENT, text="connection refused"))
    assert order.status is OrderStatus.PENDING_NEW
    assert book.changes == [("O-1", "unsent")]
    assert book.states["A"].working == {"O-1": order}


def test_a_denied_order_works_no_more(book):
    order = book.add()
    book.manager.deny(order, "STALE", "too late")
    assert (order.status, order.code, order.text) == (OrderStatus.DENIED, "STALE", "too late")
    assert book.states["A"].working == {}
    assert book.changes == [("O-1", None)]


def test_finished_orders_make_room_for_newer_ones_and_working_ones_stay(book, monkeypatch):
    monkeypatch.setattr(module, "MOST_DONE", 10)
    working = book.add("W")
    book.manager.apply(make_report(working, ExecType.NEW, order_id="bw"))
    for number in range(50):
        order = book.add(f"O-{number}")
        book.manager.apply(make_report(order, ExecType.NEW, order_id=f"b{number}"))
        book.manager.apply(make_report(order, ExecType.CANCELED))
    assert list(book.manager.orders) == ["W", *(f"O-{number}" for number in range(40, 50))]
    assert len(book.manager._by_order_id) == 11
    assert book.manager.working() == [working]
    # A late report of one that is gone is one of an order we do not know.
    assert book.manager.apply(ExecutionReport("A", "O-1", ExecType.NEW, order_id="b1")) is None


def test_what_was_before_a_restart_is_taken_in(book):
    working, done = make_order("W", account="A"), make_order("D", account="B")
    working.order_id, working.status = "bw", OrderStatus.NEW
    done.status = OrderStatus.FILLED
    book.manager.load([done, working], [])
    assert book.manager.working() == [working]
    assert book.states["B"].working == {}
    assert book.manager.apply(ExecutionReport("A", "", ExecType.CANCELED, order_id="bw")) is working
    assert book.manager.working() == []
    assert set(book.manager.orders) == {"W", "D"}


def test_an_account_that_becomes_known_later_is_handed_its_working_orders(book):
    """Its document could not be read at the start; kill, reconciliation and closes look at what works."""
    ours, done = make_order("W", account="C"), make_order("D", account="C")
    ours.status, done.status = OrderStatus.NEW, OrderStatus.FILLED
    theirs = make_order("T", account="B")
    book.manager.load([done, ours, theirs], [])
    state = book.states["C"] = make_state(make_account("C"))
    book.manager.adopt(state)
    assert state.working == {"W": ours}
    assert book.manager.working() == [theirs, ours]


def test_the_newest_fills_are_kept(book, monkeypatch):
    order = book.add(quantity="100000")
    for number in range(module.MOST_FILLS + 5):
        book.manager.apply(make_trade(order, f"x{number}", "1"))
    assert len(book.manager.fills) == module.MOST_FILLS
    assert book.manager.fills[0].exec_id == "x5"
