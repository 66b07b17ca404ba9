"""What reconciliation is made of: lines that count the second time, what a position may be found to be, cash."""

from __future__ import annotations

from dataclasses import replace
from decimal import Decimal
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from engine.execution.cash import CashBook, not_comparable, own_sum
from engine.execution.differences import ORDER, POSITION, DifferenceBook, Finding
from engine.execution.expected import (
    KEEP_NS,
    MOST_FILLS,
    RecentFills,
    Span,
    by_our_names,
    looks_split,
    outside,
)
from engine.execution.external import ExternalOrders
from engine.model.enums import ExecType, Side
from engine.model.messages import Balances, BrokerPosition, ExecutionReport
from engine.model.position import Position
from tests.helpers import CAPABILITIES

D = Decimal
ONE = 1_000_000_000


class Kept:
    """A journal's facts."""

    def __init__(self) -> None:
        self.facts: dict[str, dict[str, dict[str, Any]]] = {}

    def __call__(self, kind: str, key: str, value: dict[str, Any] | None) -> None:
        if value is None:
            self.facts[kind].pop(key)
        else:
            self.facts.setdefault(kind, {})[key] = value


def found(actual: str = "12", kind: str = POSITION, subject: str = "AAPL") -> Finding:
    text = f"{subject} expected 10, broker has {actual}"
    return Finding("A-1", kind, subject, subject, "10", actual, "+2", text)


# ---- lines ---------------------------------------------------------------------------------------------------------


def test_a_line_counts_the_second_time_in_a_row():
    kept = Kept()
    book = DifferenceBook(kept)
    assert book.compared("A-1", POSITION, [found()], "t1").proven == []
    assert (book.lines(), book.get("A-1/position/AAPL"), kept.facts) == ([], None, {})
    assert book.suspected("A-1", POSITION)
    (line,) = book.compared("A-1", POSITION, [found()], "t2").proven
    assert (line.seen, line.since, line.at) == (2, "t1", "t1")
    assert not book.suspected("A-1", POSITION)
    assert list(kept.facts["difference"]) == ["A-1/position/AAPL"]
    assert book.compared("A-1", POSITION, [found()], "t3").proven == []  # told once


def test_a_look_that_finds_nothing_between_two_begins_anew():
    book = DifferenceBook(Kept())
    book.compared("A-1", POSITION, [found()], "t1")
    book.compared("A-1", POSITION, [], "t2")
    assert book.compared("A-1", POSITION, [found()], "t3").proven == []
    assert book.lines() == []


def test_a_line_is_gone_once_it_is_not_found():
    kept = Kept()
    book = DifferenceBook(kept)
    for stamp in ("t1", "t2"):
        book.compared("A-1", POSITION, [found()], stamp)
    book.compared("A-1", ORDER, [], "t3")  # another kind's look
    book.compared("A-2", POSITION, [], "t3")  # another account's
    assert len(book.lines("A-1")) == 1
    (gone,) = book.compared("A-1", POSITION, [], "t4").gone
    assert gone.found.key == "A-1/position/AAPL"
    assert (book.lines(), kept.facts["difference"]) == ([], {})


def test_a_doubtful_subject_is_neither_counted_nor_dropped():
    book = DifferenceBook(Kept())
    book.compared("A-1", POSITION, [found()], "t1")
    book.compared("A-1", POSITION, [found()], "t2", doubtful={"AAPL"})
    book.compared("A-1", POSITION, [], "t3", doubtful={"AAPL"})
    assert book.lines() == []
    assert len(book.compared("A-1", POSITION, [found()], "t4").proven) == 1


def test_new_values_move_its_stamp_and_a_restart_brings_it_back():
    kept = Kept()
    book = DifferenceBook(kept)
    for stamp in ("t1", "t2"):
        book.compared("A-1", POSITION, [found()], stamp)
    book.compared("A-1", POSITION, [found("13")], "t3")
    line = book.get("A-1/position/AAPL")
    assert line is not None
    assert (line.at, line.since) == ("t3", "t1")
    line.acted = True
    book.note(line)
    again = DifferenceBook(kept)
    again.load(kept.facts["difference"])
    (back,) = again.lines("A-1")
    assert (back.found.actual, back.at, back.since, back.acted) == ("13", "t3", "t1", True)
    assert back.found.actions == ()  # until the broker has been asked again
    assert back.row("alpaca")["text"] == "AAPL expected 10, broker has 13"
    assert again.compared("A-1", POSITION, [found("13")], "t4").proven == []  # it counted already


# ---- positions -----------------------------------------------------------------------------------------------------


def test_a_position_may_be_found_without_the_fills_just_heard_of():
    fills = RecentFills()
    fills.note("A-1", "AAPL", 10 * ONE, D(5))
    fills.note("A-1", "AAPL", 11 * ONE, D(-2))
    assert fills.span("A-1", "AAPL", 9 * ONE, D(13)) == Span(D(8), D(15), D(13))
    assert fills.span("A-1", "AAPL", 10 * ONE + 1, D(13)) == Span(D(13), D(15), D(13))
    assert fills.span("A-1", "AAPL", 11 * ONE + 1, D(13)) == Span(D(13), D(13), D(13))
    assert fills.span("A-2", "AAPL", 0, D(0)) == Span(D(0), D(0), D(0))
    assert fills.since("A-1", 11 * ONE)
    assert not fills.since("A-1", 11 * ONE + 1)
    assert not fills.since("A-2", 0)


def test_fills_are_kept_for_a_while_and_never_without_bound():
    fills = RecentFills()
    fills.note("A-1", "AAPL", 0, D(100))
    fills.note("A-1", "AAPL", KEEP_NS + 1, D(1))
    assert fills.span("A-1", "AAPL", 0, D(6)) == Span(D(5), D(6), D(6))
    for _ in range(3 * MOST_FILLS):
        fills.note("A-1", "AAPL", KEEP_NS + 2, D(1))
    span = fills.span("A-1", "AAPL", 0, D(0))
    assert (span.least, span.most) == (D(-3 * MOST_FILLS - 1), D(0))  # nothing of them is lost
    assert len(fills._fills["A-1"]["AAPL"]) == MOST_FILLS


@pytest.mark.parametrize(
    ("actual", "tolerance", "missed"),
    [("10", "0", False), ("9.999", "0", True), ("10.001", "0", True), ("10.5", "0.5", False)],
)
def test_the_boundary_of_a_difference(actual: str, tolerance: str, missed: bool):
    span = Span(D(10), D(10), D(10))
    told = {"AAPL": BrokerPosition("AAPL", D(actual), D(1))}
    assert outside({"AAPL": span}, told, {"AAPL": D(tolerance)}) == ["AAPL"] * missed


def test_what_is_missing_on_either_side_differs():
    spans = {"AAPL": Span(D(1), D(1), D(1)), "FLAT": Span(D(0), D(0), D(0))}
    told = {"TSLA": BrokerPosition("TSLA", D(-3), D(1))}
    assert outside(spans, told, {}) == ["AAPL", "TSLA"]


def test_positions_are_known_by_our_names():
    told = [BrokerPosition("BTCUSD", D(1), D(5)), BrokerPosition("AAPL", D(2), D(6))]
    assert {n: p.qty for n, p in by_our_names(told, ["BTC/USD"]).items()} == {
        "BTC/USD": 1,
        "AAPL": 2,
    }


@settings(max_examples=600, deadline=None)
@given(st.data())
def test_no_order_of_events_makes_a_false_difference(data: st.DataObject):
    """Partial fills reach the broker's books, us, and its list of positions in any order.

    A fill happens, and is told to us at any later time or, at the latest, when we look its order up before the
    comparison is made. The list shows the position of any moment since ``LAG`` before we asked.
    """
    lag, asked, answered = 5, 100, 120
    times = st.integers(0, 130)
    fills = data.draw(
        st.lists(st.tuples(times, times, st.sampled_from([-3, -1, 1, 2, 5])), max_size=12)
    )
    happened = sorted((min(a, b), max(a, b), D(q)) for a, b, q in fills)
    seen_at = data.draw(st.integers(asked - lag, answered))
    book, ours = RecentFills(), D(0)
    compared = answered + data.draw(st.integers(0, 5))
    for fell, told, quantity in sorted(happened, key=lambda one: one[1]):
        if fell <= compared:  # told by the look-ups, if not before
            book.note("A-1", "X", min(told, compared), quantity)
            ours += quantity
    listed = sum((quantity for fell, _, quantity in happened if fell <= seen_at), D(0))
    span = book.span("A-1", "X", asked - lag, ours)
    assert not span.misses(listed, D(0))
    late = [q for fell, told, q in happened if told >= asked - lag and fell <= compared]
    foreign = data.draw(st.sampled_from([1, -1])) * (sum(map(abs, late), D(0)) + 1)
    assert span.misses(listed + foreign, D(0))  # and more than they moved is never explained away


@pytest.mark.parametrize(
    ("expected", "cost", "actual", "average", "split"),
    [
        ("10", "1000", "20", "50", True),  # 2:1
        ("30", "3000", "10", "300", True),  # 1:3
        ("10", "1000", "15", "66.6667", True),  # 3:2
        ("10", "1000", "20", "100", False),  # bought: worth twice
        ("10", "1000", "13.7", "73", False),  # no usual factor
        ("10", "1000", "-20", "50", False),
        ("-10", "-1000", "-20", "50", True),
        ("0", "0", "20", "50", False),
    ],
)
def test_what_a_split_looks_like(expected, cost, actual, average, split):
    told = BrokerPosition("AAPL", D(actual), D(average))
    assert looks_split(D(expected), D(cost), told) is split


# ---- cash ------------------------------------------------------------------------------------------------------------


def test_cash_follows_the_fills_within_fees():
    kept = Kept()
    book = CashBook(kept)
    assert book.expected("A-1", D(1000), D(0)) is None  # where it begins
    book.traded("A-1", D(2), D(100))
    assert book.expected("A-1", D("799.80"), D(-200)) is None  # 0.20 of fees: 0.1 %
    book.traded("A-1", D(2), D(100))
    tolerance = D("0.05") + D("0.003") * 200
    assert book.expected("A-1", D("999.80") - tolerance, D(0)) is None
    assert book.expected("A-1", D("1500"), D(0)) == D("999.80") - tolerance
    again = CashBook(kept)
    again.load(kept.facts["cash"])
    assert again.expected("A-1", D("1500"), D(0)) == D("999.80") - tolerance
    again.agree("A-1", D("1500"), D(0))
    assert again.expected("A-1", D("1500"), D(0)) is None
    again.forget("A-1")
    assert kept.facts["cash"] == {}


def test_where_cash_does_not_follow_from_fills_it_is_said():
    position = Position("A-1", "EUR_USD")
    position.apply(Side.BUY, D(10), D(2))
    money = Balances(D(1), D(1), D(1), "USD")
    assert "does not follow" in not_comparable(CAPABILITIES, money, [])
    trades = replace(CAPABILITIES, cash="trades")
    realised = replace(CAPABILITIES, cash="realised")
    assert not_comparable(trades, money, [position]) == ""
    assert "EUR_USD is not paid in GBP" in not_comparable(
        trades, Balances(D(1), D(1), D(1), "GBP"), [position]
    )
    assert "while nothing is held" in not_comparable(realised, money, [position])
    assert own_sum(trades, [position]) == -20
    position.apply(Side.SELL, D(10), D(3))
    assert not_comparable(realised, money, [position]) == ""
    assert own_sum(realised, [position]) == 10


# ---- orders that are none of ours ----------------------------------------------------------------------------------


def told(order_id: str, quantity: str = "5", filled: str = "0") -> ExecutionReport:
    return ExecutionReport(
        "A-1",
        "",
        ExecType.STATUS,
        order_id=order_id,
        symbol="AAPL",
        side=Side.BUY,
        order_qty=D(quantity),
        cum_qty=D(filled),
    )


def test_a_foreign_order_is_told_once_even_over_a_restart():
    kept = Kept()
    book = ExternalOrders(kept)
    new, changed = book.listed("A-1", [told("b-1")], "t1")
    assert ([one.key for one in new], changed) == (["A-1/b-1"], {"A-1/b-1"})
    assert book.listed("A-1", [told("b-1")], "t2") == ([], set())
    again = ExternalOrders(kept)
    again.load(kept.facts["external"])
    new, changed = again.listed("A-1", [told("b-1"), told("b-2")], "t3")
    assert [one.key for one in new] == ["A-1/b-2"]
    assert again.of("A-1")[0].since == "t1"
    _, changed = again.listed("A-1", [told("b-2", filled="2")], "t4")
    assert changed == {"A-1/b-1", "A-1/b-2"}
    assert [one.leaves for one in again.of("A-1")] == [3]
    assert list(kept.facts["external"]) == ["A-1/b-2"]
