"""The pure model: identifiers, numbers, a position against a brute-force one, an order against every sequence."""

# ruff: noqa: E501 (tables)
from __future__ import annotations

import itertools
import random
from base64 import b32encode
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from fractions import Fraction
from hashlib import sha256

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from engine.errors import InvariantError
from engine.model.enums import (
    TERMINAL,
    Action,
    ExecType,
    OrderStatus,
    OrderType,
    Side,
    TimeInForce,
)
from engine.model.identifiers import NAME, SYMBOL, ClOrdIDs, cl_ord_id
from engine.model.messages import ExecutionReport, Fill
from engine.model.numbers import (
    floor_to,
    is_multiple,
    nearest,
    parse_decimal,
    parse_signed,
    to_text,
)
from engine.model.order import Order
from engine.model.position import Position

AT = datetime(2026, 11, 22, 14, 30, tzinfo=UTC)
names = st.from_regex(r"[A-Za-z0-9._:-]{1,64}", fullmatch=True)
decimals = st.decimals(
    min_value=Decimal("0.00000001"), max_value=Decimal(10**7), places=8, allow_nan=False
)

# Identifiers.


def test_a_cl_ord_id_is_what_its_definition_says():
    digest = sha256(b"book|src|sig-1|A-001|entry").digest()
    assert cl_ord_id("book", "src", "sig-1", "A-001") == b32encode(digest).decode()[:20]
    assert cl_ord_id("book", "src", "sig-1", "A-001") == ClOrdIDs("book", "src", "sig-1").make(
        "A-001"
    )


@given(names, names, names, names, names)
def test_cl_ord_ids_are_20_characters_and_pure(book, source, signal, account, leg):
    made = cl_ord_id(book, source, signal, account, leg)
    assert len(made) == 20
    assert set(made) <= set("ABCDEFGHIJKLMNOPQRSTUVWXYZ234567")
    assert made == cl_ord_id(book, source, signal, account, leg)


def test_no_two_logical_orders_share_an_id():
    # Parts shifted over their borders, too: "a"+"bc" is not "ab"+"c".
    parts = ["a", "ab", "abc", "b", "bc", "c", "a-b", "a:b"]
    made = {cl_ord_id(*combination) for combination in itertools.product(parts, repeat=5)}
    assert len(made) == len(parts) ** 5


@pytest.mark.parametrize("bad", ["", "a b", "a|b", "a/b", "ä", "x" * 65, "a\n", "\u0661"])
def test_names(bad):
    assert not NAME.fullmatch(bad)
    assert NAME.fullmatch("A-001.x_y:z")


@pytest.mark.parametrize("bad", ["", "a", ".A", "A B", "A" * 33, "A\n", "\uff21"])
def test_symbols(bad):
    assert not SYMBOL.fullmatch(bad)
    assert SYMBOL.fullmatch("BTC/USD")


# Numbers.


@given(st.integers(0, 10**18 - 1), st.integers(0, 10**12 - 1))
def test_plain_decimals_are_read_exactly(whole, fraction):
    text = f"{whole}.{fraction:012d}"
    assert Fraction(parse_decimal(text)) == Fraction(whole) + Fraction(fraction, 10**12)
    assert Fraction(parse_signed("-" + text)) == -Fraction(parse_decimal(text))
    assert Fraction(to_text(parse_decimal(text))) == Fraction(text)


@given(st.text(max_size=12))
@example("1e5")
@example("NaN")
@example("１")
@example("1_0")
@example("1\n")
@example("+1")
@example("9" * 19)
@example("0." + "1" * 13)
@example("9" * 5000)
def test_anything_else_is_refused(text):
    plain = text.isascii() and text.replace(".", "", 1).isdigit()
    plain = plain and not text.startswith(".") and not text.endswith(".")
    plain = plain and len(text.partition(".")[0]) <= 18 and len(text.partition(".")[2]) <= 12
    if plain:
        assert parse_decimal(text) == Decimal(text)
    else:
        with pytest.raises(ValueError, match="plain decimal"):
            parse_decimal(text)


@pytest.mark.parametrize(
    ("value", "text"),
    [("0", "0"), ("-0", "0"), ("1E+3", "1000"), ("1.500", "1.5"), ("0.00", "0"), ("-2.50", "-2.5"), ("1E-12", "0.000000000001"), ("100", "100")],
)  # fmt: skip
def test_numbers_are_written_plainly(value, text):
    assert to_text(Decimal(value)) == text


@given(decimals, decimals)
def test_rounding_stays_on_the_grid_and_near(value, step):
    low, near = floor_to(value, step), nearest(value, step)
    assert 0 <= value - low < step
    assert abs(Fraction(value) - Fraction(near)) * 2 <= Fraction(step)
    for rounded in (low, near):
        assert (Fraction(rounded) / Fraction(step)).denominator == 1
        assert is_multiple(rounded, step)
    assert floor_to(-value, step) == -low


# A position. Its sums are exact while they fit Decimal's 28 digits: 12 digits a price, 12 a quantity.

amounts = st.decimals(
    min_value=Decimal("0.000001"), max_value=Decimal(10**6), places=6, allow_nan=False
)
fills = st.lists(st.tuples(st.sampled_from(Side), amounts, amounts), max_size=30)


def brute_force(history):
    """Average cost in exact fractions: quantity, cash and cost of what is open."""
    qty = cash = cost = Fraction(0)
    for side, quantity, price in history:
        step, at = side.sign * Fraction(quantity), Fraction(price)
        cash -= step * at
        if qty * step >= 0:
            cost += step * at
        elif abs(step) <= abs(qty):
            cost *= (qty + step) / qty
        else:
            cost = (qty + step) * at
        qty += step
    return qty, cash, cost


@given(fills, amounts)
def test_a_position_is_its_fills(history, mark):
    position = Position("A", "X")
    for side, quantity, price in history:
        position.apply(side, quantity, price)
    qty, cash, cost = brute_force(history)
    assert Fraction(position.qty) == qty
    assert Fraction(position.cash) == cash
    # The split into realised and unrealised divides, so it is rounded; their sum never is.
    scale = 1 + sum(Fraction(q) * Fraction(p) for _, q, p in history)
    assert abs(Fraction(position.cost) - cost) <= scale / 10**20
    total = Fraction(position.realised) + Fraction(position.unrealised(mark))
    assert abs(total - (cash + qty * Fraction(mark))) <= scale * (1 + Fraction(mark)) / 10**20


@given(fills.filter(bool), amounts)
def test_a_flat_position_has_exact_profit(history, price):
    position = Position("A", "X")
    for side, quantity, at in history:
        position.apply(side, quantity, at)
    if position.qty:
        side = Side.SELL if position.qty > 0 else Side.BUY
        history = [*history, (side, abs(position.qty), price)]
        position.apply(*history[-1])
    assert position.qty == 0
    assert position.avg_px == 0
    assert Fraction(position.realised) == brute_force(history)[1]
    assert position.unrealised(price) == 0
    assert (position.stop_loss, position.take_profit) == (None, None)


@pytest.mark.parametrize("seed", range(3))
def test_ten_thousand_fills_stay_exact(seed):
    rng = random.Random(seed)
    position, history = Position("A", "X"), []
    for _ in range(10_000):
        fill = (rng.choice(list(Side)), Decimal(rng.randint(1, 10**6)).scaleb(-4), Decimal(rng.randint(1, 10**7)).scaleb(-2))  # fmt: skip
        history.append(fill)
        position.apply(*fill)
    qty, cash, cost = brute_force(history)
    assert (Fraction(position.qty), Fraction(position.cash)) == (qty, cash)
    assert abs(Fraction(position.cost) - cost) < Fraction(1, 10**10)


def test_adding_reducing_and_flipping():
    position = Position("A", "X")
    position.apply(Side.BUY, Decimal(10), Decimal(100))
    position.apply(Side.BUY, Decimal(10), Decimal(110))
    assert (position.avg_px, position.realised) == (105, 0)
    position.apply(Side.SELL, Decimal(5), Decimal(120))
    assert (position.qty, position.avg_px, position.realised) == (15, 105, 75)
    position.apply(Side.SELL, Decimal(25), Decimal(100))
    assert (position.qty, position.avg_px, position.realised) == (-10, 100, 0)
    assert position.unrealised(Decimal(90)) == 100


# An order. A venue makes a true history of reports; they arrive repeated, late and in any order.


def new_order(quantity: int = 100) -> Order:
    return Order(
        cl_ord_id="C" * 20,
        account="A",
        symbol="X",
        side=Side.BUY,
        order_qty=Decimal(quantity),
        order_type=OrderType.LIMIT,
        time_in_force=TimeInForce.DAY,
        created_at=AT,
        limit_price=Decimal(10),
    )


def report(kind: ExecType, status: OrderStatus | None = None, **facts) -> ExecutionReport:
    return ExecutionReport("A", "C" * 20, kind, status, **facts)


def trade(exec_id: str, quantity: int, price: int = 10, **facts) -> ExecutionReport:
    return report(
        ExecType.TRADE, exec_id=exec_id, last_qty=Decimal(quantity), last_px=Decimal(price), **facts
    )


def apply_all(order: Order, reports) -> list[Fill]:
    """Apply and check after each: I5, I6, I11 and the order's own sums."""
    found: list[Fill] = []
    for one in reports:
        before, cum = order.status, order.cum_qty
        fill = order.apply(one, AT)
        found += [fill] if fill else []
        assert order.cum_qty <= order.order_qty  # I5
        assert order.cum_qty >= cum
        if before in TERMINAL:
            assert order.status is before  # I6
        assert len({f.exec_id for f in found}) == len(found)  # I11
        assert order.cum_qty == sum((f.last_qty for f in found), Decimal(0))
        assert order.cash == sum((f.last_qty * f.last_px for f in found), Decimal(0))
        if order.status not in TERMINAL:
            assert order.leaves_qty == order.order_qty - order.cum_qty
        else:
            assert order.leaves_qty == 0
        if order.status is OrderStatus.FILLED:
            assert order.cum_qty == order.order_qty
    return found


HISTORY = [
    report(ExecType.PENDING_CANCEL, OrderStatus.PENDING_NEW),
    report(ExecType.NEW, OrderStatus.NEW, order_id="V1"),
    trade("x1", 40, 10),
    trade("x2", 30, 11),
    trade("x3", 30, 12),
]


@pytest.mark.parametrize("order_of", list(itertools.permutations(range(1, 5))))
def test_every_permutation_with_repeats_ends_filled(order_of):
    for repeat in (1, 2):
        order = new_order()
        fills_ = apply_all(order, [HISTORY[i] for i in order_of for _ in range(repeat)])
        assert order.status is OrderStatus.FILLED
        assert order.cum_qty == 100
        assert order.cash == 40 * 10 + 30 * 11 + 30 * 12
        assert {f.exec_id for f in fills_} == {"x1", "x2", "x3"}
        assert order.order_id == "V1"


@pytest.mark.parametrize("order_of", list(itertools.permutations(range(3))))
def test_fills_late_after_the_cancel_still_count(order_of):
    order = new_order()
    reports = [trade("x1", 40), report(ExecType.CANCELED), trade("x2", 10)]
    apply_all(order, [reports[i] for i in order_of])
    assert order.status is OrderStatus.CANCELED
    assert order.cum_qty == 50
    assert order.leaves_qty == 0


@given(st.data())
def test_any_shuffle_of_a_true_history_keeps_the_invariants(data):
    sizes = data.draw(st.lists(st.integers(1, 40), min_size=1, max_size=6))
    extra = data.draw(st.integers(0, 30))
    quantity = sum(sizes) + extra
    ending = data.draw(
        st.sampled_from([None, ExecType.CANCELED, ExecType.EXPIRED, ExecType.CANCEL_REJECTED])
    )
    total, history = 0, [report(ExecType.NEW, OrderStatus.NEW, order_id="V1")]
    for index, size in enumerate(sizes):
        total += size
        history.append(trade(f"x{index}", size))
    noise = [
        report(ExecType.UNKNOWN),
        report(ExecType.PENDING_CANCEL),
        report(ExecType.STATUS, OrderStatus.NEW),
    ]
    history += data.draw(st.lists(st.sampled_from(noise), max_size=3))
    if ending:
        history.append(report(ending))
    history += data.draw(st.lists(st.sampled_from(history), max_size=8))
    order = new_order(quantity)
    apply_all(order, data.draw(st.permutations(history)))
    assert order.cum_qty == total
    if not extra and ending in {None, ExecType.CANCEL_REJECTED}:
        assert order.status is OrderStatus.FILLED
    if extra and ending in {ExecType.CANCELED, ExecType.EXPIRED}:
        assert order.status == ending.value
    if extra and ending is None:
        assert order.status in {OrderStatus.PARTIALLY_FILLED, OrderStatus.PENDING_CANCEL}


@given(st.lists(st.integers(1, 30), min_size=1, max_size=6), st.data())
def test_the_stream_and_look_ups_together_count_once(sizes, data):
    """Totals from look-ups between fills with ids: each share is counted once, whichever comes first."""
    quantity = sum(sizes)
    done, stream, look_ups = 0, [], [None]
    for index, size in enumerate(sizes):
        done += size
        stream.append(trade(f"x{index}", size, cum_qty=Decimal(done)))
        look_ups.append(
            report(ExecType.STATUS, cum_qty=Decimal(done), avg_px=Decimal(10),
                   status=OrderStatus.FILLED if done == quantity else OrderStatus.PARTIALLY_FILLED)
        )  # fmt: skip
    order, reports = new_order(quantity), []
    for index, one in enumerate(stream):
        seen = data.draw(st.integers(0, index + 1))
        if data.draw(st.booleans()) and look_ups[seen]:
            reports.append(look_ups[seen])
        reports.append(one)
        if data.draw(st.booleans()):
            reports.append(look_ups[index + 1])
        if data.draw(st.booleans()):
            reports.append(one)
    apply_all(order, reports)
    assert order.cum_qty == quantity
    assert order.cash == quantity * 10
    assert order.status is OrderStatus.FILLED


def test_a_look_up_ahead_of_the_stream_counts_once():
    order = new_order()
    ahead = report(
        ExecType.STATUS, OrderStatus.PARTIALLY_FILLED, cum_qty=Decimal(70), avg_px=Decimal(10)
    )
    late = [trade("x1", 40, cum_qty=Decimal(40)), trade("x2", 30, cum_qty=Decimal(70))]
    apply_all(order, [ahead, *late, ahead, trade("x3", 30, cum_qty=Decimal(100))])
    assert (order.cum_qty, order.cash) == (100, 1000)


def test_more_than_was_ordered_is_an_alarm():
    order = new_order()
    order.apply(trade("x1", 60), AT)
    with pytest.raises(InvariantError, match="120 of 100"):
        order.apply(trade("x2", 60), AT)
    assert order.cum_qty == 60
    fresh = new_order()
    with pytest.raises(InvariantError):
        fresh.apply(report(ExecType.STATUS, cum_qty=Decimal(101), avg_px=Decimal(1)), AT)


def test_unknown_gives_way_to_proof_and_never_the_other_way():
    order = new_order()
    apply_all(order, [report(ExecType.UNKNOWN)])
    assert order.status is OrderStatus.UNKNOWN
    apply_all(order, [report(ExecType.NEW), report(ExecType.UNKNOWN)])
    assert order.status is OrderStatus.NEW
    rejected = new_order()
    apply_all(rejected, [report(ExecType.UNKNOWN), report(ExecType.REJECTED, text="no funds")])
    assert (rejected.status, rejected.text) == (OrderStatus.REJECTED, "no funds")


@pytest.mark.parametrize("before", [[], [report(ExecType.UNKNOWN)]])
def test_a_cancel_that_was_asked_for_proves_no_order(before):
    """Without this, an unanswered order became working by a cancel that the broker then had nothing to cancel for."""
    order = new_order()
    apply_all(order, before)
    unproven = order.status
    apply_all(order, [report(ExecType.PENDING_CANCEL), report(ExecType.CANCEL_REJECTED)])
    assert order.status is unproven


def test_a_refused_cancel_leaves_the_order_working():
    order = new_order()
    apply_all(order, [report(ExecType.NEW), report(ExecType.PENDING_CANCEL)])
    assert order.status is OrderStatus.PENDING_CANCEL
    apply_all(order, [report(ExecType.CANCEL_REJECTED)])
    assert order.status is OrderStatus.NEW
    apply_all(
        order, [trade("x", 10), report(ExecType.PENDING_CANCEL), report(ExecType.CANCEL_REJECTED)]
    )
    assert order.status is OrderStatus.PARTIALLY_FILLED


def test_filled_without_its_executions_is_not_believed():
    order = new_order()
    apply_all(order, [report(ExecType.NEW), report(ExecType.STATUS, OrderStatus.FILLED)])
    assert order.status is OrderStatus.NEW


def test_only_an_order_that_never_left_can_be_denied():
    order = new_order()
    order.deny("QTY_MAX", "too large", AT + timedelta(seconds=1))
    assert (order.status, order.code, order.leaves_qty) == (OrderStatus.DENIED, "QTY_MAX", 0)
    assert not order.was_sent
    sent = new_order()
    sent.apply(report(ExecType.NEW, order_id="V"), AT)
    assert sent.was_sent
    with pytest.raises(InvariantError):
        sent.deny("QTY_MAX", "too large", AT)


def test_a_fill_carries_where_it_belongs():
    order = new_order()
    order.source, order.signal_id, order.strategy = "s", "i", "t"
    at = AT + timedelta(seconds=3)
    fill = order.apply(trade("x1", 5, 11, transact_time=at), AT)
    assert (fill.account, fill.symbol, fill.side, fill.cl_ord_id) == ("A", "X", Side.BUY, "C" * 20)
    assert (fill.source, fill.signal_id, fill.strategy, fill.at) == ("s", "i", "t", at)
    assert order.avg_px == 11


def test_words():
    assert Side.BUY.opposite is Side.SELL
    assert (Side.BUY.sign, Side.SELL.sign) == (1, -1)
    assert [kind.value for kind in OrderType if kind.needs_limit] == ["limit", "stop_limit"]
    assert [kind.value for kind in OrderType if kind.needs_stop] == ["stop", "stop_limit"]
    assert {status for status in OrderStatus if not status.working} == TERMINAL
    assert {action.value for action in Action} == {"buy", "sell", "close", "cancel", "modify"}
