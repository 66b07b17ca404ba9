"""Reports find their orders: by our id, by the broker's, never across accounts; old orders make room."""

from __future__ import annotations

from decimal import Decimal

import pytest

from engine.execution import order_manager as module
from engine.execution.order_manager import OrderManager
from engine.model.enums import ExecType, OrderStatus, OrderType, Side
from engine.model.identifiers import exit_leg_id
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


# Exits the broker makes along with an entry.


def told_leg(
    entry: Order, leg: str, exec_type: ExecType = ExecType.NEW, **fields
) -> ExecutionReport:
    return ExecutionReport(
        entry.account,
        exit_leg_id(entry.cl_ord_id, leg),
        exec_type,
        order_id=f"b-{leg}",
        parent=entry.cl_ord_id,
        leg=leg,
        **fields,
    )


def test_an_exit_told_with_its_entry_is_an_order_of_ours_from_then_on(book):
    entry = book.add(
        source="bot", signal_id="s-1", strategy="breakout", stop_loss=Decimal(95), take_profit=Decimal(110)
    )  # fmt: skip
    stop = book.manager.apply(told_leg(entry, "stop", stop_price=Decimal(95)))
    target = book.manager.apply(
        told_leg(entry, "target")
    )  # what it does not say is as the entry asked
    assert stop.cl_ord_id == exit_leg_id("O-1", "stop")
    assert (stop.side, stop.order_qty, stop.order_type) == (Side.SELL, 10, OrderType.STOP)
    assert (target.order_type, target.limit_price) == (OrderType.LIMIT, 110)
    for leg in (stop, target):
        assert (leg.source, leg.signal_id, leg.strategy) == ("bot", "s-1", "breakout")
        assert (leg.parent, leg.reducing, leg.rests, leg.protective) == ("O-1", True, True, True)
        assert book.states["A"].working[leg.cl_ord_id] is leg
    assert book.manager.apply(told_leg(entry, "stop")) is stop  # told again
    # later the broker speaks of it by its own ids
    late = ExecutionReport(
        "A", "made-there", ExecType.TRADE, order_id="b-stop", exec_id="x1",
        last_qty=Decimal(10), last_px=Decimal("94.9"),
    )  # fmt: skip
    assert book.manager.apply(late) is stop
    assert (stop.status, book.fills) == (OrderStatus.FILLED, [(stop.cl_ord_id, "x1", Decimal(10))])


def test_an_exit_of_nobody_s_entry_or_of_another_account_s_is_not_taken_in(book):
    entry = book.add()
    stranger = told_leg(make_order("O-9", account="A"), "stop")
    other = told_leg(entry, "stop")
    other.account = "B"
    odd = told_leg(entry, "middle")
    assert [book.manager.apply(report) for report in (stranger, other, odd)] == [None, None, None]
    assert list(book.manager.orders) == ["O-1"]


def test_a_replaced_exit_told_as_the_same_leg_is_its_successor(book):
    entry = book.add()
    stop = book.manager.apply(told_leg(entry, "stop"))
    book.manager.apply(make_report(stop, ExecType.REPLACED))
    successor = book.add(
        "O-2", side="sell", leg="stop", parent="O-1", reducing=True, order_type=OrderType.STOP
    )
    book.manager.apply(make_report(successor, ExecType.NEW, order_id="b-2"))
    told = told_leg(entry, "stop", ExecType.STATUS, cum_qty=Decimal(10), avg_px=Decimal(95))
    told.order_id = "b-2"
    assert book.manager.apply(told) is successor
    assert [name for name, _exec_id, _qty in book.fills] == ["O-2"]


def test_a_restart_finds_exits_by_the_broker_s_id(book):
    entry = book.add()
    stop = book.manager.apply(told_leg(entry, "stop"))
    again = Book("A")
    again.manager.load([entry, stop], [])
    found = again.manager.apply(ExecutionReport("A", "there", ExecType.EXPIRED, order_id="b-stop"))
    assert (found, stop.status) == (stop, OrderStatus.EXPIRED)


def test_a_new_that_is_told_twice_is_no_second_change():
    book = Book("A")
    repeated: list[Order] = []
    book.manager = OrderManager(
        HandClock(), book.states, book._changed, book._filled, book._broken, repeated.append
    )
    order = book.add()

    def new(**said) -> None:
        book.manager.apply(
            make_report(
                order, ExecType.NEW, **({"order_id": "b-1", "status": OrderStatus.NEW} | said)
            )
        )

    new()
    new()
    assert (len(book.changes), repeated) == (1, [order])
    book.manager.apply(make_trade(order, "x1", "4"))
    new()  # the reply, slower than the stream
    assert (order.status, len(book.changes), len(repeated)) == (OrderStatus.PARTIALLY_FILLED, 2, 2)
    # What tells anything beside goes the whole way.
    new(cum_qty=Decimal(6), avg_px=Decimal(100))
    new(text="held by the broker")
    new(order_id="b-2")
    assert (order.cum_qty, order.text) == (6, "held by the broker")
    assert (len(book.changes), len(repeated)) == (5, 2)
