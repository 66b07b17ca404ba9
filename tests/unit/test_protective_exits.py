"""Protective exits: they fire at their price, once, whatever ends in between; and nobody loses them silently."""

from __future__ import annotations

import random
import time
from decimal import Decimal

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from engine.execution.triggers import Triggers
from engine.model.enums import ExecType, OrderStatus, Side
from engine.model.identifiers import ClOrdIDs, exit_leg_id
from engine.model.messages import ExecutionReport
from engine.model.position import Levels
from tests.helpers import CAPABILITIES
from tests.unit.exits_desk import Desk

D = Decimal


def levels(stop: str | None = None, target: str | None = None, trail: str | None = None) -> Levels:
    return Levels(*(None if text is None else D(text) for text in (stop, target, trail)))


@pytest.fixture
def desk():
    made = Desk()
    made.price("100")
    yield made
    made.shut()
    assert made.broken == []


def holding(desk: Desk, where: Levels, side: str = "buy", **fields) -> None:
    desk.enter(where, side=side, **fields)
    desk.deliver()


# ---- the watch -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("side", "where", "quiet", "fires", "leg"),
    [
        ("buy", levels("95", "110"), ["95.01", "109.99"], "95", "stop"),
        ("buy", levels("95", "110"), ["96"], "110", "target"),
        ("buy", levels("95"), ["1000"], "94.99", "stop"),
        ("buy", levels("95", "110"), [], "50", "stop"),  # a gap right through it
        ("sell", levels("105", "90"), ["104.99", "90.01"], "105", "stop"),
        ("sell", levels("105", "90"), ["91"], "90", "target"),
        ("sell", levels("105", "90"), [], "200", "stop"),
        ("buy", levels(trail="10"), ["100", "110", "99.01"], "99", "trail"),
        ("buy", levels(trail="10"), ["100", "90.01"], "90", "trail"),
        ("sell", levels(trail="10"), ["100", "80", "87.99"], "88", "trail"),
        ("buy", levels(trail="10"), [], "90", "trail"),  # the entry's own price counts
        ("buy", levels("95", trail="10"), ["100", "96"], "95", "stop"),
        ("buy", levels("80", trail="10"), ["100", "91"], "90", "trail"),
    ],
)
def test_it_fires_at_its_price_and_not_before(desk, side, where, quiet, fires, leg):
    holding(desk, where, side)
    assert desk.held.protected == "engine"
    for price in quiet:
        desk.price(price)
    assert desk.exits == []
    desk.price(fires)
    (order,) = desk.exits
    assert (order.leg, order.order_qty, order.reducing) == (leg, 10, True)
    assert order.side is (Side.SELL if side == "buy" else Side.BUY)
    assert order.strategy == "breakout"
    desk.price(fires)
    desk.deliver()
    desk.broker.fill(order.cl_ord_id)
    desk.deliver()
    desk.price(fires)
    assert len(desk.exits) == 1
    assert (desk.broker.position, desk.held.qty, desk.held.protected) == (0, 0, "")


def test_a_price_that_reaches_both_stop_and_target_is_a_stop(desk):
    holding(desk, levels("120", "110"))  # set by hand before it moved
    desk.price("115")
    assert [order.leg for order in desk.exits] == ["stop"]


def test_the_id_of_an_exit_is_a_pure_function_of_what_it_closes(desk):
    holding(desk, levels("95"))
    desk.price("95")
    (order,) = desk.exits
    assert order.cl_ord_id == ClOrdIDs("book", "protective", "AAPL.1").make("A-1", "stop")


def test_the_newest_entry_sets_the_levels_and_one_without_leaves_them(desk):
    holding(desk, levels("95", "110"))
    holding(desk, levels())
    assert desk.held.levels == levels("95", "110")
    holding(desk, levels("97"))
    assert desk.held.levels == levels("97")
    desk.price("96")
    (order,) = desk.exits
    assert order.order_qty == 30


def test_fills_of_one_entry_set_its_levels_once(desk):
    entry = desk.enter(levels("95"))
    desk.deliver(1)
    held = desk.broker.orders[entry.cl_ord_id]
    held.filled, held.status = D(0), OrderStatus.NEW
    desk.broker.mail.clear()
    desk.broker.position = D(0)
    desk.broker.fill(entry.cl_ord_id, D(4))
    desk.deliver()
    desk.guards.set_levels(desk.held, levels("90"))
    desk.broker.fill(entry.cl_ord_id, D(6))
    desk.deliver()
    assert (desk.held.qty, desk.held.levels) == (10, levels("90"))


def test_a_position_that_turns_around_takes_the_new_entry_s_levels_and_none_of_the_old(desk):
    holding(desk, levels("95", "110", "5"))
    desk.price("104")
    holding(desk, levels("108", trail="5"), "sell", quantity="25")
    assert (desk.held.qty, desk.held.levels, desk.held.best) == (
        -15,
        levels("108", trail="5"),
        100,
    )
    holding(desk, levels(), "buy", quantity="30")
    assert (desk.held.qty, desk.held.levels, desk.held.protected) == (15, levels(), "")


def test_a_trail_keeps_its_best_price_over_fills_changes_and_restarts(desk):
    holding(desk, levels(trail="10"))
    desk.price("100")
    desk.price("120")
    holding(desk, levels())
    desk.guards.set_levels(desk.held, levels("50", trail="10"))
    desk.price("115")
    desk.wait(0.25)
    assert desk.held.best == 120
    desk.restart(kept=True)
    assert desk.held.best == 120
    desk.price("108.01")
    assert desk.exits == []
    desk.price("108")
    assert [order.leg for order in desk.exits] == ["trail"]


# ---- what goes wrong -------------------------------------------------------------------------------------------


def test_a_refused_exit_is_tried_again_later_each_time_and_said_aloud_once(desk):
    holding(desk, levels("95"))
    desk.broker.refuses = "market is closed"
    desk.price("94")
    sent = []
    for _ in range(80):
        desk.deliver()
        sent.append(len(desk.exits))
        desk.wait(1)
        desk.price("94")
    assert sent[0] == 1
    assert 5 <= sent[-1] <= 8  # after 1, 2, 4, 8, 16, 30 seconds
    assert len({order.cl_ord_id for order in desk.exits}) == len(desk.exits)
    assert desk.codes() == ["EXIT_FAILED"]
    desk.broker.refuses = ""
    desk.wait(31)
    desk.price("94")
    desk.wait(31)
    desk.deliver()
    (live,) = desk.broker.live_exits()
    desk.broker.fill(live.order.cl_ord_id)
    desk.deliver()
    assert desk.broker.position == desk.held.qty == 0


def test_a_refused_exit_whose_price_is_over_is_not_tried_again(desk):
    holding(desk, levels("95"))
    desk.broker.refuses = "no"
    desk.price("94")
    desk.deliver()
    desk.broker.refuses = ""
    desk.price("99")
    desk.wait(2)
    assert len(desk.exits) == 1
    desk.price("95")
    assert len(desk.exits) == 2


@pytest.mark.parametrize("arrived", [True, False])
def test_an_exit_of_unknown_outcome_blocks_every_other(desk, arrived):
    holding(desk, levels("95", "110", "5"))
    desk.broker.deaf, desk.broker.gone = arrived, not arrived
    desk.price("94")
    desk.deliver()
    (order,) = desk.exits
    assert order.status is OrderStatus.UNKNOWN
    for price in ("93", "112", "50"):
        desk.price(price)
        desk.wait(40)
    assert len(desk.exits) == 1
    desk.broker.deaf = desk.broker.gone = False
    desk.price("93")
    desk.look_up(order)
    desk.deliver()
    assert len(desk.exits) == (1 if arrived else 2) or desk.codes() == ["EXIT_FAILED"]
    desk.wait(2)
    desk.price("93")
    desk.deliver()
    assert len(desk.broker.live_exits()) == 1


@pytest.mark.parametrize("latch", ["HALTED", "DISARMED"])
def test_a_latch_stops_it_and_lifting_it_looks_at_the_price_of_then(desk, latch):
    holding(desk, levels("95"))
    desk.halted = latch
    desk.price("94")
    desk.wait(30)
    desk.price("94")
    assert desk.exits == []
    assert desk.codes() == ["EXIT_BLOCKED"]
    desk.halted = ""
    desk.price("99")
    desk.guards.look_again()
    assert desk.exits == []  # the price has come back
    desk.halted = latch
    desk.price("94")
    desk.halted = ""
    desk.guards.look_again()
    assert len(desk.exits) == 1


def test_a_latch_that_comes_between_the_decision_and_the_first_byte(desk):
    holding(desk, levels("95"))
    desk.before_send = lambda: setattr(desk, "halted", "HALTED")
    desk.price("94")
    assert [order.status for order in desk.exits] == [OrderStatus.DENIED]
    assert desk.codes() == ["EXIT_BLOCKED"]
    desk.halted, desk.before_send = "", lambda: None
    desk.price("93")
    desk.guards.look_again()
    assert [order.status for order in desk.exits][1:] == [OrderStatus.PENDING_NEW]


def test_no_fresh_price_is_said_once_and_nothing_fires_on_an_old_one(desk):
    holding(desk, levels("95"))
    desk.price("96")
    for _ in range(40):
        desk.wait(1)
    assert desk.codes() == ["REF_STALE"]
    desk.guards.set_levels(desk.held, levels("97"))  # beyond the old price
    assert desk.exits == []
    desk.price("96")
    assert len(desk.exits) == 1


def test_no_price_is_missed_where_nobody_needs_one(desk):
    holding(desk, levels())
    for _ in range(60):
        desk.wait(1)
    assert desk.alerts == []


def test_an_exit_by_hand_holds_the_others_back_and_they_look_again_when_it_is_over(desk):
    holding(desk, levels("95"))
    order = desk.close_by_hand()
    desk.price("94")
    assert desk.exits == []
    desk.deliver()
    desk.broker.fill(order.cl_ord_id, D(3))
    desk.broker.end(order.cl_ord_id)
    desk.deliver()
    (own,) = desk.exits
    assert own.order_qty == 7


# ---- restarts --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kept", [True, False])
def test_killed_between_the_commit_and_the_send(desk, kept):
    holding(desk, levels("95"))
    desk.flush()

    def die() -> None:
        raise KeyboardInterrupt

    desk.before_send = die
    with pytest.raises(KeyboardInterrupt):
        desk.price("94")
    desk.before_send = lambda: None
    desk.restart(kept=kept)
    assert [o.status for o in desk.exits] == [OrderStatus.EXPIRED]  # proven absent
    desk.price("94")
    desk.wait(2)
    desk.price("94")
    assert len(desk.broker.live_exits()) == 1
    assert len({o.cl_ord_id for o in desk.exits}) == 2


@pytest.mark.parametrize("kept", [True, False])
def test_killed_after_the_send(desk, kept):
    holding(desk, levels("95"))
    desk.flush()
    desk.price("94")
    (order,) = desk.exits
    desk.restart(kept=kept)
    desk.price("94")
    desk.wait(5)
    desk.price("94")
    assert [o.cl_ord_id for o in desk.exits] == [order.cl_ord_id]
    desk.broker.fill(order.cl_ord_id)
    desk.deliver()
    desk.price("94")
    assert (desk.held.qty, len(desk.exits)) == (0, 1)


def test_generations_go_on_after_a_restart(desk):
    for generation in (1, 2, 3):
        holding(desk, levels("95"))
        desk.price("94")
        order = desk.exits[-1]
        assert order.signal_id == f"AAPL.{generation}"
        desk.deliver()
        desk.broker.fill(order.cl_ord_id)
        desk.deliver()
        desk.restart(kept=True)
        desk.price("100")


# ---- at the broker ---------------------------------------------------------------------------------------------

BRACKET = levels("95", "110")


def legs(desk: Desk):
    return {o.leg: o for o in desk.manager.orders.values() if o.parent}


def test_the_broker_s_exits_are_orders_of_ours_and_the_engine_keeps_still(desk):
    holding(desk, BRACKET, native=True)
    stop, target = legs(desk)["stop"], legs(desk)["target"]
    assert stop.cl_ord_id == exit_leg_id("ENTRY1", "stop")
    assert (stop.stop_price, target.limit_price) == (95, 110)
    assert (stop.source, stop.signal_id, stop.strategy) == ("bot", "s-1", "breakout")
    assert stop.reducing
    assert (desk.held.protected, desk.held.native) == ("broker", True)
    desk.price("94")
    desk.price("111")
    assert desk.exits == []
    desk.broker.fill(stop.cl_ord_id)
    desk.deliver()
    assert desk.held.qty == desk.broker.position == 0
    assert (target.status, desk.alerts) == (OrderStatus.CANCELED, [])
    desk.restart(kept=True)
    assert legs(desk)["stop"].status is OrderStatus.FILLED
    assert desk.account.working == {}


def test_a_leg_is_found_by_the_broker_s_id(desk):
    holding(desk, BRACKET, native=True)
    stop = legs(desk)["stop"]
    desk.restart(kept=True)
    desk.manager.apply(
        ExecutionReport("A-1", "made-by-the-broker", ExecType.CANCELED, order_id=stop.order_id)
    )
    assert legs(desk)["stop"].status is OrderStatus.CANCELED


def test_an_entry_that_filled_in_part_is_watched_and_closed_with_what_is_left_of_it(desk):
    """Its exits at the broker sleep until it has filled; were it to fill on, they would cover too much."""
    desk.enter(BRACKET, quantity="10", fill="4", native=True)
    desk.deliver()
    assert (desk.held.qty, desk.held.protected) == (4, "engine")
    desk.price("95")
    desk.deliver()
    entry = desk.manager.orders["ENTRY1"]
    assert entry.status is OrderStatus.CANCELED
    assert {o.status for o in legs(desk).values()} == {OrderStatus.CANCELED}
    (own,) = desk.exits
    assert (own.leg, own.order_qty) == ("stop", 4)


def test_legs_that_vanish_are_taken_over_at_once_and_said(desk):
    holding(desk, BRACKET, native=True)
    desk.wait(6)
    desk.price("100")
    for leg in legs(desk).values():
        desk.broker.end(leg.cl_ord_id, ExecType.EXPIRED)
    desk.deliver()
    assert desk.alerts == [("warning", "EXITS_TAKEN_OVER")]
    assert desk.held.protected == "engine"
    desk.price("95")
    assert [o.leg for o in desk.exits] == ["stop"]


def test_legs_that_vanish_where_there_is_no_price_are_critical(desk):
    holding(desk, BRACKET, native=True)
    desk.wait(60)
    for leg in legs(desk).values():
        desk.broker.end(leg.cl_ord_id)
    desk.deliver()
    assert desk.alerts == [("critical", "EXITS_TAKEN_OVER")]


def test_legs_the_broker_never_tells_of_are_taken_over(desk):
    desk.enter(BRACKET, native=True)
    desk.broker.mail = type(desk.broker.mail)(r for r in desk.broker.mail if not r.parent)
    desk.deliver()
    assert (desk.held.protected, desk.exits) == ("broker", [])
    desk.price("94")
    assert desk.exits == []  # they may be on their way
    desk.mute = True
    desk.wait(5)
    desk.price("94")
    assert desk.exits == []  # asked for
    desk.wait(5)
    desk.price("100")
    assert desk.held.protected == "engine"
    assert desk.alerts == [("warning", "EXITS_TAKEN_OVER")]
    desk.price("94")
    assert len(desk.exits) == 1


def test_legs_lost_in_a_crash_are_asked_for_before_anything_is_taken_over(desk):
    desk.enter(BRACKET, native=True)
    desk.broker.mail = type(desk.broker.mail)(r for r in desk.broker.mail if not r.parent)
    desk.deliver()
    desk.broker.fill(exit_leg_id("ENTRY1", "stop"))
    desk.restart(kept=True)
    desk.price("94")
    for _ in range(20):
        desk.wait(1)
        desk.price("94")
    assert (desk.exits, desk.held.qty, desk.broker.position) == ([], 0, 0)


def test_a_trail_beside_the_broker_s_legs_is_the_engine_s(desk):
    assert not CAPABILITIES.native_trailing
    holding(desk, levels("90", "120", "5"), native=True)
    assert desk.held.protected == "engine"
    desk.price("100")
    desk.price("95")
    (own,) = desk.exits
    assert (own.leg, own.status) == ("trail", OrderStatus.PENDING_NEW)
    assert desk.broker.live_exits() == []  # it waits for the legs to end
    desk.deliver()
    assert [held.order for held in desk.broker.live_exits()] == [own]
    assert {o.status for o in legs(desk).values()} == {OrderStatus.CANCELED}
    assert desk.alerts == []


@pytest.mark.parametrize("filled", ["4", "10"])
def test_a_leg_that_fills_while_the_position_is_being_closed(desk, filled):
    holding(desk, BRACKET, native=True)
    desk.broker.fill(legs(desk)["target"].cl_ord_id, D(filled))  # we do not know yet
    order = desk.close_by_hand()
    assert order.status is OrderStatus.PENDING_NEW
    desk.deliver()
    if filled == "10":
        assert (order.status, order.code) == (OrderStatus.DENIED, "NO_POSITION")
    else:
        assert order.order_qty == 6
        desk.broker.fill(order.cl_ord_id)
        desk.deliver()
    assert desk.held.qty == desk.broker.position == 0


def test_what_does_not_end_is_looked_up_and_then_told(desk):
    holding(desk, levels("90", "120", "5"), native=True)
    desk.price("100")
    desk.price("95")
    desk.broker.mail.clear()  # the cancels' proof is lost
    desk.wait(2)
    desk.deliver()
    assert len(desk.broker.live_exits()) == 1  # found by looking


def test_an_exit_beside_legs_that_never_end_is_a_person_s_to_risk(desk):
    holding(desk, levels("90", "120", "5"), native=True)
    desk.cancel = lambda _order: None
    desk.price("100")
    desk.price("95")
    desk.wait(10)
    assert desk.broker.live_exits() == []
    assert desk.exits[0].code == "EXITS_REST"
    assert desk.codes() == ["EXITS_REST", "EXIT_FAILED"]
    order = desk.close_by_hand()
    desk.wait(10)
    assert [held.order for held in desk.broker.live_exits()] == [order]


def test_a_bracket_that_covers_a_part_leaves_the_rest_to_the_engine(desk):
    holding(desk, BRACKET, native=True)
    holding(desk, levels())
    assert desk.held.protected == "engine"
    assert desk.alerts == []
    desk.price("95")
    desk.deliver()
    (own,) = desk.exits
    assert own.order_qty == 20
    assert {o.status for o in legs(desk).values()} == {OrderStatus.CANCELED}


# ---- any sequence ----------------------------------------------------------------------------------------------

PRICES = st.sampled_from(["80", "90", "94", "95", "96", "100", "104", "106", "110", "120"])
LEVELS = st.builds(
    levels,
    st.sampled_from([None, "90", "95"]),
    st.sampled_from([None, "105", "110"]),
    st.sampled_from([None, "5", "10"]),
)


class AnySequence(RuleBasedStateMachine):
    """Entries are long; so at the broker the position must never be short: only exits could make it so."""

    def __init__(self) -> None:
        super().__init__()
        self.desk = Desk()
        self.desk.price("100")

    def teardown(self) -> None:
        self.desk.shut()

    @rule(where=LEVELS, native=st.booleans(), quantity=st.sampled_from(["5", "10"]))
    def enter(self, where, native, quantity) -> None:
        if self.desk.broker.orders and len(self.desk.broker.orders) > 60:
            return
        native = native and (where.stop_loss or where.take_profit) is not None
        self.desk.enter(where, quantity, native=native)

    @rule(price=PRICES)
    def price(self, price) -> None:
        self.desk.price(price)

    @rule(seconds=st.sampled_from([0.3, 1.1, 3, 7]))
    def wait(self, seconds) -> None:
        self.desk.deliver()  # a broker's word may take long, but not for ever
        for order in list(self.desk.account.working.values()):
            if order.status is OrderStatus.UNKNOWN:
                self.desk.look_up(order)
        self.desk.wait(seconds)

    @rule(count=st.integers(1, 4))
    def deliver(self, count) -> None:
        self.desk.deliver(count)

    @rule(mood=st.sampled_from(["", "deaf", "gone", "no"]))
    def mood(self, mood) -> None:
        broker = self.desk.broker
        broker.deaf, broker.gone = mood == "deaf", mood == "gone"
        broker.refuses = "refused" if mood == "no" else ""

    @rule(data=st.data(), part=st.sampled_from([None, D(3)]))
    def something_fills(self, data, part) -> None:
        names = [
            name for name, held in self.desk.broker.orders.items() if held.status is OrderStatus.NEW
        ]
        if names:
            self.desk.broker.fill(data.draw(st.sampled_from(names)), part)

    @rule(data=st.data(), kind=st.sampled_from([ExecType.CANCELED, ExecType.EXPIRED]))
    def something_ends(self, data, kind) -> None:
        names = [
            name for name, held in self.desk.broker.orders.items() if held.status is OrderStatus.NEW
        ]
        if names:
            self.desk.broker.end(data.draw(st.sampled_from(names)), kind)

    @rule()
    def close_by_hand(self) -> None:
        self.desk.close_by_hand()

    @precondition(lambda self: self.desk.held is not None and self.desk.held.qty)
    @rule(where=LEVELS)
    def set_levels(self, where) -> None:
        if not any(o.parent for o in self.desk.account.working.values()):
            self.desk.guards.set_levels(self.desk.held, where)

    @rule(latch=st.sampled_from(["", "HALTED"]))
    def latch(self, latch) -> None:
        self.desk.halted = latch
        if not latch:
            self.desk.guards.look_again()

    @rule(kept=st.booleans())
    def restart(self, kept) -> None:
        self.desk.restart(kept=kept)

    @rule()
    def flush(self) -> None:
        self.desk.flush()

    @invariant()
    def no_exit_turns_the_position_around(self) -> None:
        assert self.desk.broker.position >= 0
        assert self.desk.broken == []

    @invariant()
    def at_most_one_exit_is_under_way(self) -> None:
        live = self.desk.broker.live_exits()
        assert sum(held.order.source == "protective" for held in live) <= 1
        assert sum(held.quantity - held.filled for held in live) <= self.desk.broker.position

    @invariant()
    def somebody_watches(self) -> None:
        desk = self.desk
        held = desk.held
        if held is None or not held.qty or not held.levels or desk.under_way():
            return
        guard = desk.guards._guards["A-1", "AAPL"]
        watched = "A-1" in desk.guards._triggers.get("AAPL", ())
        due = guard.wait_until_ns and ("A-1", "AAPL") in desk.guards._due
        told = due and {"EXIT_FAILED", "EXIT_BLOCKED"} & set(desk.codes())
        legs_work = any(o.parent and o.rests for o in desk.account.working.values())
        assert watched or told or legs_work or guard.legs_until_ns, held.protected

    @invariant()
    def what_is_known_adds_up(self) -> None:
        if not self.desk.broker.mail and not any(
            o.status is OrderStatus.UNKNOWN for o in self.desk.account.working.values()
        ):
            held = self.desk.held
            assert self.desk.broker.position == (held.qty if held else 0)


TestAnySequence = AnySequence.TestCase
TestAnySequence.settings = settings(
    max_examples=150,
    stateful_step_count=40,
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.filter_too_much],
)


# ---- the price watch by itself ---------------------------------------------------------------------------------


def test_the_watch_fires_what_looking_at_every_position_would():
    chance = random.Random(20261122)
    for _ in range(30):
        triggers, plain = Triggers(), {}
        price = D(100)
        for step in range(300):
            act = chance.random()
            account = f"A-{chance.randrange(12)}"
            if act < 0.25:
                long = chance.random() < 0.5
                sign = 1 if long else -1
                stop = price - sign * chance.randrange(1, 9) if chance.random() < 0.6 else None
                target = price + sign * chance.randrange(1, 9) if chance.random() < 0.6 else None
                trail = D(chance.choice(["1", "2.5", "5"])) if chance.random() < 0.5 else None
                if where := Levels(stop, target, trail):
                    triggers.set(account, where, None, long=long)
                    plain[account] = [long, where, None]
            elif act < 0.3:
                triggers.remove(account)
                plain.pop(account, None)
            else:
                price = max(D(5), price + D(chance.randrange(-30, 31)) / 10)
                expected = {}
                for name, (long, where, so_far) in list(plain.items()):
                    best = so_far
                    sign = 1 if long else -1
                    if where.trail_percent is not None:
                        best = price if best is None or (price - best) * sign > 0 else best
                        plain[name][2] = best
                    if where.stop_loss is not None and (price - where.stop_loss) * sign <= 0:
                        expected[name] = "stop"
                    elif (
                        best is not None
                        and (price - best * (1 - sign * where.trail_percent / 100)) * sign <= 0
                    ):
                        expected[name] = "trail"
                    elif where.take_profit is not None and (price - where.take_profit) * sign >= 0:
                        expected[name] = "target"
                assert triggers.hit(price) == expected, step
                for name in expected:
                    del plain[name]
            assert sorted(triggers.accounts()) == sorted(plain)


def test_a_price_costs_the_same_however_many_positions_are_watched():
    def cost(accounts: int) -> float:
        triggers = Triggers()
        for number in range(accounts):
            triggers.set(f"A-{number}", levels("90", "110", "5"), D(100), long=True)
        prices = [D(100) + D(step % 40) / 100 for step in range(4_000)]
        best = 1e9
        for _ in range(5):
            began = time.perf_counter()
            for price in prices:
                triggers.hit(price)
            best = min(best, time.perf_counter() - began)
        return best / len(prices)

    few, many = cost(10), cost(5_000)
    assert many < 3 * few + 2e-6, f"{few * 1e6:.2f} µs → {many * 1e6:.2f} µs"
