"""From a signal to a plan: who trades how much, and for everyone else the code why not."""

from __future__ import annotations

from decimal import Decimal

import pytest

from engine.model.account_state import AccountState
from engine.model.codes import CODES
from engine.model.enums import (
    ConnectionState,
    OrderStatus,
    OrderType,
    Side,
    TradingState,
)
from engine.model.identifiers import cl_ord_id
from engine.model.instrument import Instrument
from engine.model.position import Levels
from engine.planner import Plan, Release
from tests.helpers import (
    make_account,
    make_state,
)
from tests.planning import Desk, codes, quantities

D = Decimal


# Entries.


def test_an_order_carries_everything_of_its_signal():
    desk = Desk()
    plan = desk.plan(
        action="sell",
        order_type=OrderType.STOP_LIMIT,
        limit_price="99.50",
        stop_price="99.75",
    )
    (order,) = plan.orders
    assert order.cl_ord_id == cl_ord_id("book", "bot", "s-1", "A-1")
    assert (order.side, order.order_qty, order.order_type) == (Side.SELL, 10, OrderType.STOP_LIMIT)
    assert (order.limit_price, order.stop_price) == (D("99.50"), D("99.75"))
    assert (order.source, order.signal_id, order.strategy) == ("bot", "s-1", "breakout")
    assert (order.status, order.reducing, order.leg) == (OrderStatus.PENDING_NEW, False, "entry")
    assert order.created_at == desk.clock.now()
    assert (plan.code, plan.skipped, plan.refused, plan.held) == ("", {}, {}, [])


def test_every_account_has_an_order_or_a_code():
    off = make_state(make_account("off", active=False))
    away = make_state(make_account("away"))
    away.connect(ConnectionState.CONNECTING, "", away.updated_at)
    desk = Desk(
        make_state(make_account("ok")),
        off,
        away,
        make_state(make_account("deaf", strategies=["other"])),
        make_state(make_account("picky", symbols=["MSFT"])),
        make_state(make_account("asleep", hours={"zone": "UTC", "open": "16:00", "close": "17:00"})),
        make_state(make_account("full", limits={"max_positions": 0})),
        make_state(make_account("careful", limits={"min_reward_risk": "1"})),
        make_state(make_account("small", limits={"max_order_quantity": "9"})),
        make_state(make_account("poor", limits={"max_order_value": "999.99"})),
        make_state(make_account("mirror", sizing={"method": "signal"})),
        make_state(make_account("risky", sizing={"method": "risk_percent", "percent": "1"})),
        make_state(make_account("new", sizing={"method": "percent_equity", "percent": "1"}), equity=None),
        make_state(make_account("tiny", sizing={"method": "notional", "value": "99"})),
        make_state(make_account("watched", approval="review")),
    )  # fmt: skip
    plan = desk.plan()
    assert quantities(plan) == {"ok": 10}
    assert plan.held == ["watched"]
    assert codes(plan.skipped) == {
        "off": "INACTIVE", "away": "NOT_CONNECTED", "deaf": "NOT_SUBSCRIBED", "picky": "SYMBOL_NOT_ALLOWED",
        "asleep": "OUTSIDE_HOURS", "full": "POSITION_LIMIT", "careful": "REWARD_RISK",
    }  # fmt: skip
    assert codes(plan.refused) == {
        "small": "QTY_MAX", "poor": "VALUE_MAX", "mirror": "NO_QUANTITY", "risky": "NO_STOP", "new": "NO_EQUITY",
        "tiny": "QTY_MIN",
    }  # fmt: skip


def test_accounts_that_size_alike_get_the_same_and_others_their_own():
    def sized(name: str, equity: str = "10000", **sizing: str) -> AccountState:
        return make_state(make_account(name, sizing=sizing), equity=equity)

    desk = Desk(
        sized("a", method="fixed", quantity="3"),
        sized("b", method="fixed", quantity="3"),
        sized("c", method="fixed", quantity="4"),
        sized("d", method="percent_equity", percent="10"),
        sized("e", method="percent_equity", percent="10", equity="20000"),
        sized("f", method="multiplier", factor="2"),
        sized("g", method="multiplier", factor="3"),
        sized("h", method="signal"),
        sized("i", method="notional", value="500"),
        sized("j", method="notional", value="700"),
        sized("k", method="risk_percent", percent="1"),
        sized("l", method="risk_percent", percent="1", equity="5000"),
    )
    assert quantities(desk.plan(quantity="5", stop_loss="90")) == {
        "a": 3, "b": 3, "c": 4, "d": 10, "e": 20, "f": 10, "g": 15, "h": 5, "i": 5, "j": 7, "k": 10, "l": 5,
    }  # fmt: skip


@pytest.mark.parametrize(
    ("age_s", "limits", "code"),
    [
        (0, {}, ""),
        (5.0, {}, ""),
        (5.000000001, {}, "REF_STALE"),
        (5.1, {"reference_max_age_s": 6}, ""),
        (3600, {"price_reference": "when_available"}, ""),
    ],
)
def test_the_age_of_the_reference(age_s, limits, code):
    desk = Desk(**limits)
    desk.clock.advance(age_s)
    assert desk.plan().code == code


@pytest.mark.parametrize(
    ("limits", "code"), [({}, "REF_MISSING"), ({"price_reference": "when_available"}, "")]
)
def test_no_reference_at_all(limits, code):
    desk = Desk(**limits)
    plan = desk.plan(symbol="MSFT")
    assert plan.code == code
    assert len(plan.orders) == (0 if code else 1)


@pytest.mark.parametrize(
    ("signal", "code"),
    [
        ({"limit_price": "105"}, ""),
        ({"limit_price": "95"}, ""),
        ({"limit_price": "105.01"}, "COLLAR"),
        ({"limit_price": "94.99"}, "COLLAR"),
        ({"stop_price": "105.01"}, "COLLAR"),
        ({"limit_price": "100", "stop_price": "94.99"}, "COLLAR"),
        ({"reference_price": "100"}, ""),
        ({"reference_price": "105.26"}, ""),
        ({"reference_price": "105.27"}, "DRIFT"),
        ({"reference_price": "95.23"}, "DRIFT"),
        ({"limit_price": "106", "reference_price": "200"}, "COLLAR"),
    ],
)
def test_collar_and_drift_refuse_the_whole_signal(signal, code):
    plan = Desk().plan(**signal)
    assert plan.code == code
    assert bool(plan.orders) is not bool(code)


def test_a_stale_reference_makes_no_collar_where_none_is_required():
    desk = Desk(price_reference="when_available")
    assert desk.plan(limit_price="200").code == "COLLAR"
    desk.clock.advance(6)
    assert desk.plan(limit_price="200").code == ""
    assert desk.plan(reference_price="200").code == ""


def test_a_stale_price_sizes_nothing():
    sizing = {"method": "notional", "value": "1000"}
    desk = Desk(make_state(sizing=sizing), price_reference="when_available")
    assert quantities(desk.plan()) == {"A-1": 10}
    desk.clock.advance(86_400)
    assert codes(desk.plan().refused) == {"A-1": "REF_MISSING"}


def test_without_any_price_an_order_s_value_is_not_counted():
    """Except where an account has a limit on it: what cannot be checked is not let through there."""
    desk = Desk(
        make_state(),
        make_state(make_account("B", limits={"max_order_value": "1"})),
        price_reference="when_available",
        max_signal_value="1",
    )
    plan = desk.plan(symbol="MSFT")
    assert quantities(plan) == {"A-1": 10}
    assert codes(plan.refused) == {"B": "REF_MISSING"}
    own_price = desk.plan(symbol="MSFT", order_type=OrderType.LIMIT, limit_price="100")
    assert own_price.code == "FANOUT_VALUE"


@pytest.mark.parametrize(
    ("limits", "code"),
    [
        ({"max_accounts_per_signal": 3, "max_signal_value": "3000"}, ""),
        ({"max_accounts_per_signal": 2}, "FANOUT_ACCOUNTS"),
        ({"max_signal_value": "2999.99"}, "FANOUT_VALUE"),
    ],
)
def test_over_a_fan_out_cap_nothing_at_all_is_sent(limits, code):
    plan = Desk(*(make_state(make_account(a)) for a in "abc"), **limits).plan()
    assert plan.code == code
    if code:
        assert plan == Plan(code=code, message=plan.message)
        assert plan.message
    else:
        assert len(plan.orders) == 3


def test_accounts_passed_over_do_not_count_towards_the_caps():
    states = [make_state(make_account("a")), make_state(make_account("b", active=False))]
    assert len(Desk(*states, max_accounts_per_signal=1).plan().orders) == 1


def test_the_value_counts_the_contract_s_multiplier():
    desk = Desk(max_signal_value="50000")
    desk.instrument = Instrument("AAPL", multiplier=D(50))
    assert desk.plan().code == ""
    desk.instrument = Instrument("AAPL", multiplier=D("50.01"))
    assert desk.plan().code == "FANOUT_VALUE"


@pytest.mark.parametrize("what", ["limit_price", "stop_price"])
def test_prices_off_the_tick(what):
    assert codes(Desk().plan(**{what: "100.001"}).refused) == {"A-1": "TICK"}


def test_what_the_broker_does_not_have():
    desk = Desk()
    desk.unsupported.add(OrderType.STOP)
    assert codes(desk.plan(order_type=OrderType.STOP, stop_price="101").refused) == {
        "A-1": "BROKER_UNSUPPORTED"
    }
    assert desk.plan().orders


@pytest.mark.parametrize(
    ("order", "blocks"),
    [
        ({"status": OrderStatus.UNKNOWN}, True),
        ({"status": OrderStatus.UNKNOWN, "side": "sell"}, False),
        ({"status": OrderStatus.UNKNOWN, "symbol": "MSFT"}, False),
        ({"status": OrderStatus.NEW}, False),
    ],
)
def test_an_order_of_unknown_fate_blocks_its_like(order, blocks):
    desk = Desk(make_state(), make_state(make_account("B")))
    desk.works(**order)
    plan = desk.plan()
    assert codes(plan.refused) == ({"A-1": "UNKNOWN_OPEN"} if blocks else {})
    assert "B" in quantities(plan)


# Limits that look at what the account has.


@pytest.mark.parametrize(
    ("held", "working", "refused"),
    [
        ([], [], False),
        (["MSFT"], [], False),
        (["MSFT", "NVDA"], [], True),
        (["MSFT", "AAPL"], [], False),
        (["MSFT"], [{"symbol": "NVDA"}], True),
        ([], [{"symbol": "NVDA"}, {"symbol": "MSFT"}], True),
        (["MSFT"], [{"symbol": "MSFT"}], False),
        (["MSFT"], [{"symbol": "AAPL"}], False),
        (["MSFT"], [{"symbol": "NVDA", "reducing": True}], False),
        (["MSFT"], [{"symbol": "NVDA", "status": OrderStatus.UNKNOWN}], True),
    ],
)
def test_the_position_limit_counts_what_is_being_opened(held, working, refused):
    desk = Desk(make_state(limits={"max_positions": 2}))
    for symbol in held:
        desk.hold("5", symbol=symbol)
    for number, order in enumerate(working):
        desk.works(f"W-{number}", **order)
    assert codes(desk.plan().skipped) == ({"A-1": "POSITION_LIMIT"} if refused else {})


def test_a_closed_position_is_none():
    desk = Desk(make_state(limits={"max_positions": 1}))
    desk.hold("5", symbol="MSFT")
    assert desk.plan().code == "NO_ACCOUNTS"
    desk.keeper.get("A-1", "MSFT").apply(Side.SELL, D(5), D(100))
    assert desk.plan().orders


@pytest.mark.parametrize(
    ("mark", "baseline", "refused"),
    [("90.01", "0", False), ("90", "0", True), ("90", "-0.01", False), ("95", "50", True)],
)
def test_the_daily_loss_counts_open_positions_since_the_day_began(mark, baseline, refused):
    desk = Desk(make_state(limits={"max_daily_loss": "100"}))
    desk.hold("10", symbol="MSFT")
    desk.marks.set("MSFT", D(mark))
    desk.states["A-1"].day_baseline = D(baseline)
    assert codes(desk.plan().skipped) == ({"A-1": "DAILY_LOSS"} if refused else {})


@pytest.mark.parametrize(
    ("scope", "state", "code"),
    [
        ("all", TradingState.REDUCING, "PAUSED"),
        ("all", TradingState.DISARMED, "DISARMED"),
        ("account:A-1", TradingState.HALTED, "HALTED"),
        ("broker:paper", TradingState.REDUCING, "PAUSED"),
        ("strategy:breakout", TradingState.HALTED, "HALTED"),
        ("symbol:AAPL", TradingState.HALTED, "HALTED"),
        ("account:B", TradingState.HALTED, None),
        ("broker:alpaca", TradingState.HALTED, None),
        ("strategy:other", TradingState.HALTED, None),
        ("symbol:MSFT", TradingState.HALTED, None),
    ],
)
def test_a_latch_stops_entries_in_its_scope(scope, state, code):
    desk = Desk()
    desk.latch(scope, state)
    assert codes(desk.plan().skipped) == ({"A-1": code} if code else {})


# Nobody.


def test_why_nobody_acts_is_counted_commonest_first():
    states = [make_state(make_account(str(n), active=False)) for n in range(3)]
    states.append(make_state(make_account("x", strategies=[])))
    states.append(make_state(make_account("y", limits={"max_order_quantity": "1"})))
    plan = Desk(*states).plan()
    assert plan.code == "NO_ACCOUNTS"
    assert plan.message == "no account may act: INACTIVE 3, NOT_SUBSCRIBED 1, QTY_MAX 1"
    assert len(plan.skipped) + len(plan.refused) == 5


def test_an_empty_book_says_so():
    desk = Desk()
    desk.index.replace([])
    plan = desk.plan()
    assert (plan.code, plan.message) == ("NO_ACCOUNTS", "no accounts are set up")


# Review, approval, force.


def test_accounts_under_review_are_held_once_everything_else_lets_them():
    desk = Desk(
        make_state(make_account("a", approval="review")),
        make_state(make_account("b", approval="review", active=False)),
        make_state(make_account("c")),
    )
    plan = desk.plan()
    assert plan.held == ["a"]
    assert quantities(plan) == {"c": 10}
    assert codes(plan.skipped) == {"b": "INACTIVE"}


def test_a_release_sends_for_the_accounts_it_names_and_says_nothing_of_others():
    desk = Desk(*(make_state(make_account(a, approval="review")) for a in "abc"))
    plan = desk.plan(Release(frozenset({"a", "c"})))
    assert quantities(plan) == {"a": 10, "c": 10}
    assert (plan.held, plan.skipped, plan.refused) == ([], {}, {})
    # The ids are those the signal's own plan would have had.
    assert plan.orders[0].cl_ord_id == cl_ord_id("book", "bot", "s-1", "a")


@pytest.mark.parametrize(
    ("scale", "expected"), [("0.5", 5), ("0.59", 5), ("2", 20), ("0.1", 1), ("0.0999", "QTY_MIN")]
)
def test_a_release_may_scale(scale, expected):
    plan = Desk().plan(Release(frozenset({"A-1"}), scale=D(scale)))
    if expected == "QTY_MIN":
        assert codes(plan.refused) == {"A-1": "QTY_MIN"}
    else:
        assert quantities(plan) == {"A-1": expected}


def test_scaled_up_it_meets_the_limits_again():
    desk = Desk(make_state(limits={"max_order_quantity": "15"}))
    assert desk.plan(Release(frozenset({"A-1"}), scale=D("1.5"))).orders
    plan = desk.plan(Release(frozenset({"A-1"}), scale=D("1.6")))
    assert codes(plan.refused) == {"A-1": "QTY_MAX"}


@pytest.mark.parametrize(
    ("fields", "code"),
    [
        ({"hours": {"zone": "UTC", "open": "16:00", "close": "17:00"}}, "OUTSIDE_HOURS"),
        ({"limits": {"max_positions": 0}}, "POSITION_LIMIT"),
        ({"limits": {"min_reward_risk": "1"}}, "REWARD_RISK"),
    ],
)
def test_force_passes_soft_blocks_and_approval_does_not(fields, code):
    desk = Desk(make_state(**fields))
    everybody = frozenset({"A-1"})
    assert CODES[code].soft
    assert codes(desk.plan(Release(everybody)).skipped) == {"A-1": code}
    assert desk.plan(Release(everybody, forced=True)).orders


@pytest.mark.parametrize(
    ("fields", "code"),
    [
        ({"active": False}, "INACTIVE"),
        ({"limits": {"max_order_quantity": "9"}}, "QTY_MAX"),
        ({"limits": {"max_order_value": "9"}}, "VALUE_MAX"),
        ({"limits": {"max_daily_loss": "100"}}, "DAILY_LOSS"),
        ({"strategies": []}, "NOT_SUBSCRIBED"),
    ],
)
def test_force_never_passes_hard_blocks(fields, code):
    desk = Desk(make_state(**fields))
    desk.states["A-1"].day_baseline = D(100)
    plan = desk.plan(Release(frozenset({"A-1"}), forced=True))
    assert plan.orders == []
    assert plan.code == "NO_ACCOUNTS"
    assert codes(plan.skipped | plan.refused) == ({"A-1": code} if code else {})


def test_neither_force_nor_approval_passes_a_latch_or_a_missing_price():
    desk = Desk()
    desk.latch("account:A-1", TradingState.HALTED)
    plan = desk.plan(Release(frozenset({"A-1"}), forced=True))
    assert codes(plan.skipped) == {"A-1": "HALTED"}
    desk.clock.advance(6)
    assert desk.plan(Release(frozenset({"A-1"}), forced=True)).code == "REF_STALE"


# Exits, cancels, new stops.


@pytest.mark.parametrize(
    ("position", "exits", "expected"),
    [
        ("10", [], ("sell", 10)),
        ("-10", [], ("buy", 10)),
        ("10", ["4"], ("sell", 6)),
        ("-10", ["4", "3"], ("buy", 3)),
        ("10", ["10"], None),
        ("10", ["6", "6"], None),
        (None, [], None),
    ],
)
def test_closing_what_no_working_exit_covers(position, exits, expected):
    desk = Desk()
    if position:
        desk.hold(position)
    side = "sell" if position and D(position) > 0 else "buy"
    for number, quantity in enumerate(exits):
        desk.works(f"W-{number}", side=side, quantity=quantity, reducing=True)
    plan = desk.plan(action="close")
    if expected is None:
        assert codes(plan.skipped) == {"A-1": "NO_POSITION"}
        assert plan.code == "NO_ACCOUNTS"
    else:
        (order,) = plan.orders
        assert (order.side, order.order_qty) == (Side(expected[0]), expected[1])
        assert order.reducing


def test_only_exits_of_the_same_symbol_and_only_what_they_leave_open_count():
    desk = Desk()
    desk.hold("10")
    desk.works("W-0", side="sell", quantity="10", symbol="MSFT", reducing=True)
    desk.works("W-1", side="sell", quantity="10")  # an entry the other way
    partly = desk.works("W-2", side="sell", quantity="8", reducing=True)
    partly.cum_qty = D(5)
    assert desk.planner.closable(desk.states["A-1"], "AAPL") == 7


def test_a_close_needs_no_price_no_hours_and_no_arming():
    desk = Desk(
        make_state(
            hours={"zone": "UTC", "open": "16:00", "close": "17:00"},
            limits={"max_order_quantity": "1", "max_positions": 0},
            active=False,
        )
    )
    desk.hold("10")
    desk.clock.advance(3600 * 24)
    desk.latch("all", TradingState.REDUCING)
    assert quantities(desk.plan(action="close")) == {"A-1": 10}


def test_a_close_needs_a_connection():
    desk = Desk()
    desk.hold("10")
    desk.states["A-1"].connect(ConnectionState.DISCONNECTED, "gone", desk.clock.now())
    assert codes(desk.plan(action="close").skipped) == {"A-1": "NOT_CONNECTED"}


def test_a_close_is_for_its_audience():
    desk = Desk(*(make_state(make_account(a)) for a in "ab"))
    desk.hold("10", "a")
    desk.hold("-4", "b")
    assert quantities(desk.plan(action="close")) == {"a": 10, "b": 4}
    plan = desk.plan(action="close", accounts=["b"])
    assert quantities(plan) == {"b": 4}
    assert codes(plan.skipped) == {"a": "NOT_IN_AUDIENCE"}


def test_a_cancel_names_the_working_orders_of_its_strategy_and_symbol():
    desk = Desk(make_state(), make_state(make_account("B")))
    ours = desk.works("W-0", strategy="breakout")
    more = desk.works("W-1", strategy="breakout", status=OrderStatus.PARTIALLY_FILLED)
    desk.works("W-2", strategy="other")
    desk.works("W-3", strategy="breakout", symbol="MSFT")
    plan = desk.plan(action="cancel")
    assert plan.cancels == {"A-1": [ours, more]}
    assert codes(plan.skipped) == {"B": "NO_ORDERS"}
    assert (plan.code, plan.orders) == ("", [])


def test_new_stops_are_for_open_positions():
    desk = Desk(make_state(), make_state(make_account("B")))
    desk.hold("10")
    desk.keeper.get("A-1", "AAPL").protect(Levels(D(90), D(120), D(3)))
    plan = desk.plan(action="modify", stop_loss="95")
    assert plan.stops == {"A-1": Levels(D(95), D(120), D(3))}  # what it does not name stays
    assert codes(plan.skipped) == {"B": "NO_POSITION"}
    assert plan.code == ""


@pytest.mark.parametrize(
    ("held", "fields", "code"),
    [
        ("10", {"stop_loss": "100"}, "STOP_SIDE"),
        ("-10", {"stop_loss": "99"}, "STOP_SIDE"),
        ("10", {"take_profit": "99.99"}, "TARGET_SIDE"),
        ("-10", {"take_profit": "100"}, "TARGET_SIDE"),
    ],
)
def test_stops_on_the_wrong_side_of_the_price_are_refused(held, fields, code):
    desk = Desk()
    desk.hold(held)
    plan = desk.plan(action="modify", **fields)
    assert codes(plan.refused) == {"A-1": code}
    assert plan.stops == {}


@pytest.mark.parametrize(
    ("action", "fields", "code"),
    [
        ("buy", {"stop_loss": "100"}, "STOP_SIDE"),
        ("sell", {"stop_loss": "99"}, "STOP_SIDE"),
        ("buy", {"take_profit": "100"}, "TARGET_SIDE"),
        ("sell", {"take_profit": "101"}, "TARGET_SIDE"),
        (
            "buy",
            {"order_type": OrderType.LIMIT, "limit_price": "98", "stop_loss": "99"},
            "STOP_SIDE",
        ),
    ],
)
def test_an_entry_that_its_own_exits_would_close_at_once_is_refused(action, fields, code):
    assert Desk().plan(action=action, **fields).code == code


def test_an_entry_carries_its_exits_and_an_exit_none():
    desk = Desk()
    exits = {"stop_loss": "95", "take_profit": "110", "trail_percent": "2"}
    (entry,) = desk.plan(**exits).orders
    assert entry.levels == Levels(D(95), D(110), D(2))
    desk.hold("10")
    (close,) = desk.plan(action="close", **exits).orders
    assert not close.levels


def test_exits_that_rest_hide_nothing_from_a_close_and_are_no_signal_s_to_cancel():
    desk = Desk()
    desk.hold("10")
    fields = {"side": "sell", "quantity": "10", "reducing": True, "strategy": "breakout"}
    desk.works("W-1", order_type=OrderType.STOP, stop_price=D(95), leg="stop", parent="E", **fields)
    desk.works(
        "W-2", order_type=OrderType.LIMIT, limit_price=D(110), leg="target", parent="E", **fields
    )
    assert desk.planner.closable(desk.states["A-1"], "AAPL") == 10
    assert codes(desk.plan(action="cancel").skipped) == {"A-1": "NO_ORDERS"}
    desk.works("W-3", source="protective", leg="stop", **fields)
    assert desk.planner.closable(desk.states["A-1"], "AAPL") == 0
    assert codes(desk.plan(action="cancel").skipped) == {"A-1": "NO_ORDERS"}


@pytest.mark.parametrize(
    ("action", "code"),
    [("close", "NO_POSITION"), ("cancel", "NO_ORDERS"), ("modify", "NO_POSITION")],
)
def test_nothing_to_do_is_told(action, code):
    plan = Desk().plan(action=action)
    assert plan.code == "NO_ACCOUNTS"
    assert plan.message == f"no account may act: {code} 1"
    assert codes(plan.skipped) == {"A-1": code}


def test_planning_changes_nothing():
    desk = Desk()
    desk.hold("10")
    desk.works(strategy="breakout")
    for action in ("buy", "close", "cancel", "modify"):
        first, second = desk.plan(action=action), desk.plan(action=action)
        assert [o.cl_ord_id for o in first.orders] == [o.cl_ord_id for o in second.orders]
        assert quantities(first) == quantities(second)
    assert list(desk.states["A-1"].working) == ["W-1"]
    assert desk.keeper.get("A-1", "AAPL").qty == 10
