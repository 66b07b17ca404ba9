"""What the simulation has found, each in a scene of its own, so that it stays mended."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from datetime import timedelta
from decimal import Decimal
from typing import Any

import orjson
import pytest

from engine.clock import rfc3339
from engine.errors import CommandRefused
from engine.execution.reconciler import Reconciler
from engine.model.enums import ExecType, OrderStatus, TradingState
from engine.model.messages import ExecutionReport
from engine.model.order import Order
from tests.helpers import HandClock, ScriptedSession, make_order, make_state
from tests.simulation.day import Day
from tests.simulation.life import Life
from tests.simulation.oracle import STATE_TABLES
from tests.simulation.sending import Sending
from tests.simulation.venue import Request
from tests.simulation.world import SECOND


class Scene:
    """A day without chance: one account, and what the test does."""

    def __init__(self) -> None:
        self.day = Day(0)
        self.day.malice = 0.0
        self.day.documents.clear()
        limits = {"max_order_quantity": "100", "max_order_value": "100000"}
        self.day.put_account(
            {
                "id": "A-1", "broker": "alpaca", "limits": limits,
                "sizing": {"method": "fixed", "quantity": "5"},
            }
        )  # fmt: skip
        self.day.world.calm = True  # nothing happens by itself
        self.life = self.boot()

    def boot(self) -> Life:
        """Begin a life; return it once it takes signals."""
        self.life = self.day._new_life()
        self.life.begin()
        assert self.until(lambda: self.life.up or self.life.ended)
        assert self.life.up, self.day.world.violations
        assert self.until(lambda: all(s.up for s in self.life.sessions.values()))
        return self.life

    def until(self, fact: Callable[[], bool]) -> bool:
        """Let time go by until a fact holds, a minute at most."""
        return self.life.loop.live(fact, self.day.world.now_ns + 60 * SECOND)

    def let(self, seconds: float) -> None:
        """Let time go by."""
        end_ns = self.day.world.now_ns + int(seconds * SECOND)
        self.until(lambda: self.day.world.now_ns >= end_ns)

    def send(self, **fields: Any) -> None:
        """Send a signal and wait for its answer."""
        document = {
            "id": "s-1", "source": "bot", "strategy": "breakout", "symbol": "AAPL", "action": "buy",
            "issued_at": rfc3339(self.day.world.wall()), **fields,
        }  # fmt: skip
        life = self.life

        async def post() -> None:
            await self.day.engine.handle_signal(orjson.dumps(document))

        life.loop.call_soon(lambda: life.hold(post()))
        self.let(0.01)
        assert self.until(lambda: not life._tasks)

    def command(self, *commands: dict[str, Any]) -> list[str]:
        """Give commands at the same moment; return what each came to, once all have."""
        life, told = self.life, {}

        async def give(number: int, command: dict[str, Any]) -> None:
            try:
                told[number] = (await self.day.engine.handle_command(command))["result"]
            except CommandRefused as error:
                told[number] = error.code

        def begin() -> None:
            for number, command in enumerate(commands):
                life.hold(give(number, command))

        life.loop.call_soon(begin)
        assert self.until(lambda: len(told) == len(commands))
        return [told[number] for number in range(len(commands))]

    def close(self) -> None:
        """Leave nothing behind."""
        if not self.life.dead:
            self.life.kill()
        self.day.clear()


@pytest.fixture
def scene() -> Iterator[Scene]:
    made = Scene()
    yield made
    made.close()


def test_a_clock_that_was_set_back_keeps_no_engine_from_recovering(scene: Scene) -> None:
    scene.send()
    scene.let(2)
    scene.life.kill()
    scene.day.world.wall_offset_ns -= int(timedelta(hours=1).total_seconds()) * SECOND
    scene.boot()
    assert scene.day.world.violations == []
    assert list(scene.day.engine.records) == ["bot/s-1"]


def test_what_a_removed_account_left_behind_is_told_at_the_next_start(scene: Scene) -> None:
    far = scene.day.venue.prices["AAPL"] * Decimal("0.97")
    scene.send(order_type="limit", limit_price=str(far.quantize(Decimal("0.01"))))
    scene.let(2)
    assert [order.status for order in scene.day.engine.orders.working()] == [OrderStatus.NEW]
    scene.life.kill()
    del scene.day.documents["A-1"]
    scene.boot()
    told = [row for row in scene.day.engine.alerts if row["account"] == "A-1"]
    assert [(row["severity"], row["code"]) for row in told] == [("critical", "INACTIVE")]
    assert "1 working orders" in told[0]["text"]


@pytest.mark.parametrize("before", ["pause", "kill"])
def test_a_rearm_asked_for_before_a_kill_does_not_lift_it(scene: Scene, before: str) -> None:
    told = scene.command({"id": "c-1", "command": before, "scope": "all"})
    told += scene.command(
        {"id": "c-2", "command": "rearm", "scope": "all", "reason": "looked at"},
        {"id": "c-3", "command": "kill", "scope": "all"},
    )
    assert told[1:] == ["HALTED", "halted"]
    assert scene.day.engine.states.firm is TradingState.HALTED
    rearm = {"id": "c-4", "command": "rearm", "scope": "all", "reason": "looked at"}
    assert scene.command(rearm) == ["active"]


@pytest.mark.parametrize("flatten", [False, True])
def test_a_kill_repeated_after_a_rearm_cancels_what_works_by_then(
    scene: Scene, flatten: bool
) -> None:
    kill = {"id": "c-1", "command": "kill", "scope": "all", "flatten": flatten}
    rearm = {"id": "c-2", "command": "rearm", "scope": "all", "reason": "looked at"}
    assert scene.command(kill) == ["halted"]
    assert scene.command(rearm) == ["active"]
    scene.send(id="s-1")  # it fills in part
    scene.let(2)
    held = scene.day.venue_position("A-1", "AAPL")
    engine = scene.day.engine
    assert held
    assert [order.signal_id for order in engine.orders.working()] == ["s-1"]
    assert scene.command(kill) == ["halted"]
    scene.let(5)
    assert engine.states.firm is TradingState.HALTED
    assert engine.orders.working() == []
    assert not any(order.status.working for order in scene.day.venue.accounts["A-1"].orders)
    # What it was to close was closed once; what came after that press is not the repetition's business.
    assert scene.day.venue_position("A-1", "AAPL") == held


def test_an_exit_that_was_decided_leaves_although_its_asker_has_gone(scene: Scene) -> None:
    """A rearm ends a kill's run while the run makes its last exits durable."""
    scene.send(id="s-1")
    scene.let(2)
    by_hand = scene.day.engine.operator.by_hand
    exits = by_hand.exits("all", "c-1")
    loop = scene.life.loop

    def begin() -> None:
        asker = loop.create_task(by_hand.send_by_hand(exits))
        loop.call_soon(loop.call_soon, asker.cancel)

    loop.call_soon(begin)
    scene.let(5)
    sent = [scene.day.engine.orders.orders[order.cl_ord_id] for order in exits]
    assert [order.status for order in sent] == [OrderStatus.FILLED]
    assert scene.day.world.violations == []


@pytest.mark.parametrize(
    ("first", "beyond", "said"),
    [("exit", False, 1), ("entry", False, 0), ("exit", True, 0)],
)
def test_the_judge_of_positions_knows_what_an_entry_could_reckon_with(
    scene: Scene, first: str, beyond: bool, said: int
) -> None:
    """Long 10, at most 10: a sale of 13 passes, and with an exit of 10 that left before it, it does not."""
    day = scene.day
    account = day.venue.accounts["A-1"]
    account.positions["AAPL"] = Decimal(10)
    day.caps_seen["A-1"] = [Decimal(10)]
    entry, exit_ = make_order("ENTRY", "sell", "13"), make_order("EXIT", "sell", "10")
    exit_.reducing = True
    day.engine.orders.orders.update(ENTRY=entry, EXIT=exit_)
    for order in (exit_, entry) if first == "exit" else (entry, exit_):
        day.oracle.sent("A-1", order)
    day.venue.accept(account, Request.of(exit_))
    before = len(day.world.violations)
    day.oracle.arrived(account, Request.of(entry), beyond=beyond)
    found = [text for text in day.world.violations[before:] if "may lead to 13 AAPL" in text]
    assert len(found) == said


def test_entries_that_reckoned_with_a_short_position_do_not_leave_once_it_is_closed(
    scene: Scene,
) -> None:
    limits = {
        "max_order_quantity": "100", "max_order_value": "100000", "max_position_quantity": "2",
    }  # fmt: skip
    fixed = {"method": "fixed", "quantity": "1"}  # too little to fill in parts
    document = {"id": "A-1", "broker": "alpaca", "limits": limits, "sizing": fixed}
    scene.life.kill()
    scene.day.put_account(document)
    scene.day.caps_seen["A-1"] = [Decimal(2)]
    scene.boot()
    engine = scene.day.engine
    scene.send(id="s-1", action="sell")
    scene.let(2)
    lane = engine.dispatcher.lanes["A-1"]
    lane.hold_entries("BREAKER", "its broker fails")
    for number in (2, 3, 4):
        scene.send(id=f"s-{number}", valid_for_s="30")  # -1 + 3 is within the limit
    scene.send(id="s-5", action="close")
    scene.let(1)
    lane.release_entries("BREAKER")
    scene.let(2)
    came_to = [
        (order.signal_id, order.status, order.code)
        for order in engine.orders.orders.values()
        if order.signal_id in {"s-2", "s-3", "s-4"}
    ]
    assert came_to == [
        ("s-2", OrderStatus.FILLED, ""),
        ("s-3", OrderStatus.FILLED, ""),
        ("s-4", OrderStatus.DENIED, "POS_MAX"),
    ]
    assert scene.day.venue_position("A-1", "AAPL") == 2
    assert scene.day.world.violations == []


def test_an_approval_that_runs_out_between_two_recoveries_is_no_change_of_theirs(
    scene: Scene,
) -> None:
    scene.life.kill()
    sizing = {"method": "fixed", "quantity": "1"}
    scene.day.put_account({"id": "A-1", "broker": "alpaca", "sizing": sizing, "approval": "review"})
    scene.boot()
    scene.send()
    scene.let(1)
    dumps = [scene.day.disk.dump(*STATE_TABLES)]
    scene.let(60)
    dumps.append(scene.day.disk.dump(*STATE_TABLES))
    (row,) = dumps[1]["signals"]
    assert "expired" in row
    scene.day.oracle.judge_recovery(*dumps)
    assert scene.day.world.violations == []
    scene.day.oracle.judge_recovery(dumps[1], dumps[0])  # what is over stays over
    assert len(scene.day.world.violations) == 1


@pytest.mark.parametrize("listed", [OrderStatus.NEW, OrderStatus.PENDING_CANCEL])
async def test_a_cancel_that_was_lost_is_found_out_by_looking(listed: OrderStatus) -> None:
    order = make_order("O-1")
    order.status, order.order_id, order.first_byte_ns = OrderStatus.PENDING_CANCEL, "b-1", 1
    state = make_state()
    state.working[order.cl_ord_id] = order
    session = ScriptedSession()
    session.listed = [
        ExecutionReport(order.account, "O-1", ExecType.STATUS, listed, "b-1", symbol=order.symbol,
                        side=order.side, order_qty=order.order_qty)
    ]  # fmt: skip
    clock = HandClock()
    reconciler = Reconciler(
        clock,
        lambda report: order.apply(report, clock.now()) and None,
        lambda order: None,
        lambda account, text: None,
        lambda order, text: None,
    )
    await reconciler.compare(state, session)
    await reconciler.stop()
    assert order.status is listed


def test_what_was_given_up_as_absent_and_comes_after_all_is_cancelled(scene: Scene) -> None:
    """F08, beyond what the broker promises: its settling time is over when it takes the order."""
    session = scene.life.sessions["A-1"]

    def late(order: Order) -> None:
        order.first_byte_ns = order.last_byte_ns = scene.life.clock.monotonic_ns()
        Sending(session, order, "accept_beyond_settling")

    session.submit = late
    scene.send(order_type="limit", limit_price="185", time_in_force="gtc", valid_for_s="1")
    (order,) = scene.day.engine.orders.orders.values()
    assert scene.until(lambda: order.code == "ABSENT")
    placed = scene.day.venue.accounts["A-1"].by_id
    assert order.cl_ord_id not in placed
    assert scene.until(lambda: order.cl_ord_id in placed)
    (held,) = placed[order.cl_ord_id]
    assert scene.until(lambda: held.status is OrderStatus.CANCELED)
    assert order.code == "LATE_ACCEPT"
    assert "LATE_ACCEPT" in {row["code"] for row in scene.day.engine.alerts}
    assert scene.day.world.violations == []


def test_arming_everything_leaves_the_halts_of_a_strategy_at_work(scene: Scene) -> None:
    """Its latch stands, so its cancels go on: the broker was away when it was pressed."""
    scene.send(order_type="limit", limit_price="185", time_in_force="gtc")
    scene.let(1)
    (order,) = scene.day.engine.orders.orders.values()
    assert order.status is OrderStatus.NEW
    scene.life.sessions["A-1"].lose("the line is down", back_s=5)
    scene.command({"id": "k-1", "command": "kill", "scope": "all", "reason": "stop"})
    kill = {"id": "k-2", "command": "kill", "scope": "strategy:breakout", "reason": "stop"}
    scene.command(kill)
    scene.command(
        {"id": "r-1", "command": "rearm", "scope": "all", "reason": "it was the strategy"}
    )
    assert order.status is OrderStatus.NEW
    scene.let(10)
    assert order.status is OrderStatus.CANCELED
    assert scene.day.engine.states.get("strategy:breakout") is not None
    assert scene.day.world.violations == []


def test_what_is_sent_again_by_hand_is_known_after_a_crash(scene: Scene) -> None:
    """It was over on the disk, and nobody would look for it after a restart."""
    session = scene.life.sessions["A-1"]
    durable: list[str] = []
    arrives = False

    def lost(order: Order) -> None:
        order.first_byte_ns = order.last_byte_ns = scene.life.clock.monotonic_ns()
        durable.extend(row["status"] for row in scene.day.disk.rows("SELECT status FROM orders"))
        Sending(session, order, "" if arrives else "order_lost")

    session.submit = lost
    scene.send(order_type="limit", limit_price="185", time_in_force="gtc", valid_for_s="1")
    (order,) = scene.day.engine.orders.orders.values()
    assert scene.until(lambda: order.code == "ABSENT")
    scene.let(1)
    again = {"id": "c-1", "command": "resend", "cl_ord_id": order.cl_ord_id}
    scene.life.sessions["A-1"].lose("the line is down", back_s=5)
    assert scene.command(again) == ["NOT_PROVEN"]
    scene.let(10)
    (row,) = scene.day.disk.rows("SELECT status, code FROM orders")
    assert (row["status"], row["code"]) == ("expired", "ABSENT")
    arrives = True
    durable.clear()
    assert scene.command({**again, "id": "c-2"}) == ["sent"]
    assert durable == ["pending_new"]
    assert scene.until(lambda: order.status is OrderStatus.NEW)
    assert scene.day.world.violations == []
