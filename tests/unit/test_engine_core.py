"""The whole engine on practice accounts: what happens at once, what is still queued, who is missing."""

from __future__ import annotations

import asyncio
from decimal import Decimal

import orjson
import pytest

from engine.errors import InvalidSignal
from engine.model.enums import ConnectionState, ExecType, OrderStatus, SignalState, TradingState
from engine.model.order import Order
from engine.trading_engine import TradingEngine
from tests.helpers import (
    eventually,
    make_account,
    make_engine,
    make_order,
    make_report,
    signal_body,
)


async def send(engine: TradingEngine, signal_id: str, action: str = "buy", **fields) -> None:
    await engine.handle_signal(orjson.dumps(signal_body(signal_id, action, **fields)))


def held(engine: TradingEngine, account: str = "A", symbol: str = "AAPL") -> Decimal:
    position = engine.keeper.get(account, symbol)
    return position.qty if position else Decimal(0)


async def open_ten(engine: TradingEngine, *accounts: str) -> None:
    await send(engine, "open")
    await eventually(lambda: all(held(engine, account) == 10 for account in accounts))


async def nothing_works(engine: TradingEngine) -> None:
    await eventually(lambda: not engine.orders.working())


def queued(engine: TradingEngine, count: int) -> list[Order]:
    """Put orders into A's lane that wait for its session."""
    engine.fleet.sessions["A"].state = ConnectionState.CONNECTING
    orders = [make_order(f"O-{number}", account="A") for number in range(count)]
    for order in orders:
        engine.orders.add(order)
    engine.send(orders, None, 0)
    return orders


# At once.


async def test_two_closes_at_once_close_once(tmp_path):
    async with make_engine(tmp_path, make_account("A")) as engine:
        await open_ten(engine, "A")
        await asyncio.gather(*(send(engine, f"close-{n}", "close") for n in range(2)))
        await nothing_works(engine)
        assert held(engine) == 0


async def test_two_entries_at_once_keep_the_position_limit(tmp_path):
    async with make_engine(tmp_path, make_account("A", limits={"max_positions": 1})) as engine:
        await asyncio.gather(send(engine, "a"), send(engine, "b", symbol="MSFT"))
        await nothing_works(engine)
        assert engine.keeper.open_symbols("A") == {"AAPL"}


# Still queued.


async def test_a_halt_denies_a_queue_however_long(tmp_path):
    async with make_engine(tmp_path, make_account("A")) as engine:
        orders = queued(engine, 400)
        await eventually(lambda: len(engine.dispatcher.lanes["A"]) == 400)
        await engine.latch("all", TradingState.HALTED, "test", "test")
        engine.dispatcher.lanes["A"].pump()
        assert {(order.status, order.code) for order in orders} == {(OrderStatus.DENIED, "HALTED")}
        assert engine.orders.working() == []


async def test_emptying_a_lane_sends_nothing(tmp_path):
    async with make_engine(tmp_path, make_account("A")) as engine:
        orders = queued(engine, 4)
        engine.fleet.sessions["A"].state = ConnectionState.CONNECTED  # it could leave now
        assert engine.dispatcher.lanes["A"].deny_all("NOT_SENT", "the engine stopped") == 4
        assert {order.status for order in orders} == {OrderStatus.DENIED}
        assert not any(order.first_byte_ns for order in orders)


async def test_a_cancel_reaches_what_is_still_queued(tmp_path):
    async with make_engine(tmp_path, make_account("A")) as engine:
        session = engine.fleet.sessions["A"]
        await send(engine, "s-0", order_type="limit", limit_price="99")
        (resting,) = engine.orders.working()
        await eventually(lambda: resting.status is OrderStatus.NEW)
        session.state = ConnectionState.CONNECTING
        await send(engine, "s-1", order_type="limit", limit_price="99")
        (waiting,) = (order for order in engine.orders.working() if order is not resting)
        session.state = ConnectionState.CONNECTED
        await send(engine, "c", "cancel")
        assert (waiting.status, waiting.code) == (OrderStatus.DENIED, "CANCELED")
        await nothing_works(engine)
        assert resting.status is OrderStatus.CANCELED
        assert waiting.first_byte_ns == 0


async def test_the_tries_of_an_order_that_arrived_are_forgotten(tmp_path):
    async with make_engine(tmp_path, make_account("A")) as engine:
        lane = engine.dispatcher.lanes["A"]
        (order,) = queued(engine, 1)
        lane._entries.clear()  # as if the session had it
        engine.on_report(make_report(order, ExecType.UNSENT, text="connection refused"))
        assert lane._tries == {"O-0": 1}
        engine.fleet.sessions["A"].state = ConnectionState.CONNECTED
        await eventually(lambda: order.status is OrderStatus.FILLED)
        assert lane._tries == {}


# Who may.


async def test_a_producer_called_operator_is_no_operator(tmp_path):
    """An operator's exits pass a halt: no signal may take that name."""
    async with make_engine(tmp_path, make_account("A")) as engine:
        await open_ten(engine, "A")
        await engine.latch("account:A", TradingState.HALTED, "test", "test")
        with pytest.raises(InvalidSignal) as caught:
            await send(engine, "c", "close", source="operator")
        assert caught.value.code == "NOT_ALLOWED"
        assert engine.orders.working() == []
        assert held(engine) == 10


async def test_an_approval_that_comes_to_nothing_does_not_leave_the_signal_held(tmp_path):
    account = make_account("A", approval="review")
    async with make_engine(tmp_path, account) as engine:
        await send(engine, "s")
        record = engine.records["bot/s"]
        assert (record.state, list(record.held)) == (SignalState.HELD, ["A"])
        await engine.latch("account:A", TradingState.HALTED, "test", "test")
        await engine.handle_command({"id": "c", "command": "approve", "signal": "bot/s"})
        assert record.held == {}
        assert record.hold_expires_at is None
        assert (record.state, record.code) == (SignalState.REFUSED, "NO_ACCOUNTS")


async def test_accounts_without_a_session_do_not_break_flatten(tmp_path):
    async with make_engine(tmp_path, *(make_account(name) for name in "ABC")) as engine:
        await open_ten(engine, *"ABC")
        for name in "AB":  # as after credentials that cannot be read
            engine.dispatcher.lanes.pop(name).close()
            await engine.fleet.sessions.pop(name).stop()
        await engine.handle_command({"id": "f", "command": "flatten", "scope": "all"})
        await eventually(lambda: held(engine, "C") == 0)
        await nothing_works(engine)
        assert [held(engine, name) for name in "AB"] == [10, 10]
