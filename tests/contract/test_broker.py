"""What every broker adapter must do, over real sockets where it has any."""

from __future__ import annotations

import asyncio
import time
from decimal import Decimal

import pytest

from engine.errors import BrokerError
from engine.model.enums import ConnectionState, ExecType, OrderStatus, OrderType, Side, TimeInForce
from tests.contract.conftest import MakeRig, Rig, until
from tests.contract.kinds import KINDS, WIRED, Kind

DAY, GTC, IOC, FOK = TimeInForce.DAY, TimeInForce.GTC, TimeInForce.IOC, TimeInForce.FOK
MARKET, LIMIT = OrderType.MARKET, OrderType.LIMIT
STOP, STOP_LIMIT = OrderType.STOP, OrderType.STOP_LIMIT


def each(name: str):
    """Every broker with every time in force it has for a type of order."""
    pairs = [(kind, tif) for kind in KINDS for tif in getattr(kind, f"{name}_tifs")]
    ids = [f"{kind}-{tif.value}" for kind, tif in pairs]
    return pytest.mark.parametrize(("rig", "tif"), pairs, indirect=["rig"], ids=ids)


# Orders of every kind


@each("market")
async def test_a_market_order_fills(rig: Rig, tif: TimeInForce):
    order = await rig.submit(rig.order(tif=tif))
    await rig.becomes(order, "filled")
    assert order.cum_qty == 10
    assert order.avg_px == 100
    assert order.order_id
    assert 0 < order.first_byte_ns <= order.last_byte_ns <= order.acked_ns <= time.monotonic_ns()
    trades = rig.sink.of(order, ExecType.TRADE)
    assert [(t.last_qty, t.last_px, t.cum_qty) for t in trades] == [(10, 100, 10)]
    assert trades[0].exec_id
    assert trades[0].transact_time


@each("limit")
async def test_a_marketable_limit_order_fills_at_the_market(rig: Rig, tif: TimeInForce):
    order = await rig.submit(rig.order(order_type=LIMIT, limit="101", tif=tif))
    await rig.becomes(order, "filled")
    assert order.avg_px == 100


@each("limit")
async def test_a_limit_order_away_from_the_market(rig: Rig, tif: TimeInForce):
    order = await rig.submit(rig.order(order_type=LIMIT, limit="99", tif=tif))
    if tif in {IOC, FOK}:
        await rig.becomes(order, rig.kind.unfilled)
        assert order.cum_qty == 0
        return
    await rig.becomes(order, "new")
    rig.price("98.50")
    await rig.becomes(order, "filled")
    assert order.avg_px == 99


@each("stop")
@pytest.mark.parametrize(
    ("side", "stop", "touch"), [(Side.BUY, "105", "106"), (Side.SELL, "95", "94")]
)
async def test_a_stop_order_waits_for_its_price(rig: Rig, side: Side, stop: str, touch: str, tif):
    if side is Side.SELL and not rig.kind.short:
        await rig.becomes(await rig.submit(rig.order()), "filled")
    order = await rig.submit(rig.order(side, order_type=STOP, stop=stop, tif=tif))
    await rig.becomes(order, "new")
    rig.price(touch)
    await rig.becomes(order, "filled")
    assert order.avg_px == Decimal(touch)


@each("stop_limit")
async def test_a_stop_limit_order_keeps_its_limit(rig: Rig, tif: TimeInForce):
    order = await rig.submit(rig.order(order_type=STOP_LIMIT, stop="105", limit="105.50", tif=tif))
    await rig.becomes(order, "new")
    rig.price("106")  # touched, and already past the limit
    if tif in {IOC, FOK}:
        await rig.becomes(order, rig.kind.unfilled)
        return
    rig.price("105.20")
    await rig.becomes(order, "filled")
    assert order.avg_px == Decimal("105.50")


# Fills


async def test_partial_fills_add_up(thin_rig: Rig):
    rig = thin_rig
    order = await rig.submit(rig.order(order_type=LIMIT, limit="102"))
    await until(lambda: order.cum_qty == 4)
    assert order.status is OrderStatus.PARTIALLY_FILLED
    rig.price("100.50")
    await until(lambda: order.cum_qty == 8)
    rig.price("101")
    await rig.becomes(order, "filled")
    trades = rig.sink.of(order, ExecType.TRADE)
    assert [t.last_qty for t in trades] == [4, 4, 2]
    assert len({t.exec_id for t in trades}) == 3
    assert order.cash == sum(t.last_qty * t.last_px for t in trades)


async def test_ioc_cancels_the_rest_and_fok_takes_all_or_nothing(thin_rig: Rig):
    rig = thin_rig
    some = await rig.submit(rig.order(order_type=LIMIT, limit="101", tif=IOC))
    await rig.becomes(some, rig.kind.unfilled)
    assert some.cum_qty == 4
    if FOK not in rig.kind.limit_tifs:
        return
    none = await rig.submit(rig.order(order_type=LIMIT, limit="101", tif=FOK))
    await rig.becomes(none, rig.kind.unfilled)
    assert none.cum_qty == 0


@pytest.mark.parametrize("rig", KINDS, indirect=True, ids=str)
async def test_every_symbol_held_is_a_position(rig: Rig):
    rig.price("50", rig.kind.other_symbol)
    assert await rig.session.positions() == []
    await rig.becomes(await rig.submit(rig.order(quantity="10", tif=TimeInForce.DAY)), "filled")
    other = rig.order(quantity="4", symbol=rig.kind.other_symbol, tif=TimeInForce.DAY)
    await rig.becomes(await rig.submit(other), "filled")
    await rig.becomes(await rig.submit(rig.order(Side.SELL, "3", tif=TimeInForce.DAY)), "filled")
    await until_equal(rig, {rig.kind.symbol: 7, rig.kind.other_symbol: 4})
    spot = rig.session.capabilities.spot
    for one in await rig.session.positions():  # balances know no price
        assert one.avg_px == (0 if spot else 100 if one.symbol == rig.kind.symbol else 50)


async def until_equal(rig: Rig, wanted: dict[str, int]) -> None:
    """Wait until the broker's list, which may be a moment behind its stream, is this."""
    for _ in range(200):
        found = {one.symbol: one.qty for one in await rig.session.positions()}
        if found == wanted:
            return
        await asyncio.sleep(0.02)
    raise AssertionError(f"{found}, not {wanted}")


@pytest.mark.parametrize("rig", [k for k in KINDS if k.short], indirect=True, ids=str)
async def test_positions_and_money_follow_the_fills(rig: Rig):
    before = await rig.session.balances()
    assert before.equity == before.cash == 100_000
    assert before.buying_power >= before.cash
    assert not before.blocked
    await rig.becomes(await rig.submit(rig.order(quantity="10")), "filled")
    rig.price("110")
    await rig.becomes(await rig.submit(rig.order(quantity="5")), "filled")
    positions = await rig.session.positions()
    assert [(p.symbol, p.qty) for p in positions] == [(rig.kind.symbol, 15)]
    assert round(positions[0].avg_px, 6) == Decimal("103.333333")
    money = await rig.session.balances()
    assert money.cash == 100_000 - (1550 if rig.kind.pays else 0)
    assert money.equity == 100_000 + 100
    assert money.buying_power < before.buying_power
    await rig.becomes(await rig.submit(rig.order(Side.SELL, "20")), "filled")
    assert [p.qty for p in await rig.session.positions()] == [-5]
    await rig.becomes(await rig.submit(rig.order(Side.BUY, "5")), "filled")
    assert await rig.session.positions() == []
    assert (await rig.session.balances()).cash == 100_100


# Cancel and replace


async def test_cancel(rig: Rig):
    order = await rig.submit(rig.order(order_type=LIMIT, limit="90"))
    await rig.becomes(order, "new")
    rig.session.cancel(order)
    await rig.becomes(order, "canceled")
    assert await rig.session.open_orders() == []
    found = await rig.session.find(order.cl_ord_id, order.symbol)
    assert found is not None
    assert found.status is OrderStatus.CANCELED


async def test_cancel_at_once_after_submit(rig: Rig):
    order = rig.order(order_type=LIMIT, limit="90")
    rig.session.submit(order)
    rig.session.cancel(order)
    await rig.becomes(order, "canceled")


async def test_cancel_of_what_is_filled_is_refused(rig: Rig):
    order = await rig.submit(rig.order())
    await rig.becomes(order, "filled")
    rig.session.cancel(order)
    await until(lambda: rig.sink.of(order, ExecType.CANCEL_REJECTED))
    assert order.status is OrderStatus.FILLED
    assert rig.sink.of(order, ExecType.CANCEL_REJECTED)[0].text


CAN_REPLACE = [kind for kind in KINDS if kind.can_replace]
REPLACES = pytest.mark.parametrize("rig", CAN_REPLACE, indirect=True, ids=str)


@REPLACES
async def test_replace(rig: Rig):
    order = await rig.submit(rig.order(order_type=LIMIT, limit="90"))
    await rig.becomes(order, "new")
    successor = rig.order(order_type=LIMIT, limit="91", quantity="12")
    rig.session.replace(order, successor)
    await rig.becomes(order, "replaced")
    await rig.becomes(successor, "new")
    assert (successor.order_id != order.order_id) is rig.kind.fresh_id
    assert any(r.replaces == order.order_id for r in rig.sink.of(successor))
    working = await rig.session.open_orders()
    assert [(r.cl_ord_id, r.order_qty, r.limit_price) for r in working] == [
        (successor.cl_ord_id, 12, 91)
    ]
    rig.price("90.50")
    await rig.becomes(successor, "filled")
    assert order.cum_qty == 0


@REPLACES
async def test_replace_of_what_is_over_is_refused(rig: Rig):
    order = await rig.submit(rig.order())
    await rig.becomes(order, "filled")
    successor = rig.order(order_type=LIMIT, limit="91")
    rig.session.replace(order, successor)
    await rig.becomes(successor, "rejected")
    assert order.status is OrderStatus.FILLED
    assert await rig.session.find(successor.cl_ord_id, successor.symbol) is None


# Ids and look-ups


DURABLE = [kind for kind in KINDS if kind.client_id == "durable"]


@pytest.mark.parametrize("rig", DURABLE, indirect=True, ids=str)
async def test_a_client_id_used_twice_makes_one_order(rig: Rig):
    order = await rig.submit(rig.order())
    await rig.becomes(order, "filled")
    news = len(rig.sink.of(order))
    rig.session.submit(order)
    await until(lambda: len(rig.sink.of(order)) > news)
    second = rig.sink.of(order)[-1]
    assert second.exec_type in {ExecType.UNKNOWN, ExecType.REJECTED}
    assert second.text
    assert order.status is OrderStatus.FILLED
    found = await rig.session.find(order.cl_ord_id, order.symbol)
    assert found is not None
    assert (found.order_id, found.cum_qty) == (order.order_id, 10)
    assert [p.qty for p in await rig.session.positions()] == [10]


OPEN_ONLY = [kind for kind in KINDS if kind.client_id == "open_only"]


@pytest.mark.parametrize("rig", [*DURABLE, *OPEN_ONLY], indirect=True, ids=str)
async def test_a_client_id_used_twice_while_the_first_is_open_makes_one_order(rig: Rig):
    order = await rig.submit(rig.order(order_type=LIMIT, limit="90"))
    await rig.becomes(order, "new")
    news = len(rig.sink.of(order))
    rig.session.submit(order)
    await until(lambda: len(rig.sink.of(order)) > news)
    assert order.status is OrderStatus.NEW
    assert [r.cl_ord_id for r in await rig.session.open_orders()] == [order.cl_ord_id]


async def test_find(rig: Rig):
    order = await rig.submit(rig.order(order_type=LIMIT, limit="90.5", tif=rig.kind.rest))
    await rig.becomes(order, "new")
    found = await rig.session.find(order.cl_ord_id, order.symbol)
    assert found is not None
    assert found.exec_type is ExecType.STATUS
    assert found.status is OrderStatus.NEW
    assert (found.account, found.cl_ord_id, found.order_id) == (
        "A-1",
        order.cl_ord_id,
        order.order_id,
    )
    assert (found.symbol, found.side, found.order_type) == (rig.kind.symbol, Side.BUY, LIMIT)
    assert (found.time_in_force, found.order_qty, found.cum_qty) == (rig.kind.rest, 10, 0)
    assert found.limit_price == Decimal("90.5")
    assert found.stop_price is None
    assert await rig.session.find("ABSENT2222222222222A", rig.kind.symbol) is None


async def test_a_look_up_tells_fills_the_stream_did_not(rig: Rig):
    order = await rig.submit(rig.order())
    await rig.becomes(order, "filled")
    found = await rig.session.find(order.cl_ord_id, order.symbol)
    assert found is not None
    assert (found.cum_qty, found.avg_px) == (10, 100)
    twin = rig.order()
    twin.cl_ord_id = order.cl_ord_id
    fill = twin.apply(found, found.transact_time)
    assert fill is not None
    assert (fill.last_qty, fill.last_px) == (10, 100)
    assert twin.status is OrderStatus.FILLED


async def test_open_orders(rig: Rig):
    assert await rig.session.open_orders() == []
    orders = [
        await rig.submit(rig.order(order_type=LIMIT, limit=str(90 - n), tif=rig.kind.rest))
        for n in range(5)
    ]
    listed = await rig.session.open_orders()
    assert {r.cl_ord_id for r in listed} == {o.cl_ord_id for o in orders}
    assert {r.limit_price for r in listed} == {Decimal(90 - n) for n in range(5)}
    assert all(r.symbol == rig.kind.symbol and r.side is Side.BUY for r in listed)


async def test_instruments_and_quotes(rig: Rig):
    found = await rig.session.instrument(rig.kind.symbol)
    assert found is not None
    assert (found.symbol, found.tradable) == (rig.kind.symbol, True)
    assert 0 < found.lot <= 1
    assert 0 < found.tick <= Decimal("0.05")
    other = rig.kind.other_symbol
    rig.price("46350.25", other)
    quotes = await rig.session.quotes([rig.kind.symbol, other])
    assert quotes == {rig.kind.symbol: 100, other: Decimal("46350.25")}


# Refusals


async def test_insufficient_buying_power(rig: Rig):
    order = await rig.submit(rig.order(quantity="1000000"))
    await rig.becomes(order, "rejected")
    assert order.text
    assert await rig.session.open_orders() == []


async def test_a_quantity_off_the_lot_is_refused(rig: Rig):
    order = await rig.submit(rig.order(quantity=rig.kind.off_lot))
    await rig.becomes(order, "rejected")
    assert order.text


async def test_too_old_to_be_sent_is_unsent(rig: Rig):
    order = rig.order()
    order.send_before_ns = time.monotonic_ns() - 1
    await rig.submit(order)
    assert [r.exec_type for r in rig.sink.of(order)] == [ExecType.UNSENT]
    assert await rig.session.find(order.cl_ord_id, order.symbol) is None


# Order and life


async def test_orders_of_one_session_leave_in_order(rig: Rig):
    orders = [rig.order(quantity="1", order_type=LIMIT, limit="90") for _ in range(30)]
    for order in orders:
        rig.session.submit(order)
    await until(lambda: all(order.status is OrderStatus.NEW for order in orders))
    first_bytes = [order.first_byte_ns for order in orders]
    assert first_bytes == sorted(first_bytes)
    if rig.sim is not None:
        placed = [o.client_order_id for o in rig.sim.venue.accounts[rig.kind.key].orders.values()]
        assert placed == [order.cl_ord_id for order in orders]


async def test_stop_leaves_nothing_behind(rig: Rig):
    before = asyncio.all_tasks()
    await rig.session.stop()
    assert rig.session.state is ConnectionState.DISCONNECTED
    assert not rig.session.ready()
    await until(lambda: asyncio.all_tasks() <= before)
    # What a session holds are tasks of its own: with it they are gone.
    left = [t for t in asyncio.all_tasks() if "brokers" in repr(t.get_coro())]
    assert left == []
    order = await rig.submit(rig.order())
    assert [r.exec_type for r in rig.sink.of(order)] == [ExecType.UNSENT]


async def test_start_again_after_stop(rig: Rig):
    first = await rig.submit(rig.order(order_type=LIMIT, limit="90", tif=rig.kind.rest))
    await rig.becomes(first, "new")
    await rig.session.stop()
    await rig.session.start()
    assert rig.session.state is ConnectionState.CONNECTED
    assert [r.cl_ord_id for r in await rig.session.open_orders()] == [first.cl_ord_id]
    await rig.becomes(await rig.submit(rig.order()), "filled")


# Alpaca over its wire: what the network can do to an order


def placed(rig: Rig) -> list[str]:
    assert rig.sim is not None
    return [order.client_order_id for order in rig.sim.venue.accounts[rig.kind.key].orders.values()]


def fault(rig: Rig, action: str, **match: str) -> None:
    assert rig.sim is not None
    rig.sim.faults.replace([{"action": action, "match": match or rig.kind.place, "times": 1}])


@pytest.mark.parametrize(
    "action", ["accept_then_drop", "accept_then_hang", "reset_mid_reply", "garbage"]
)
async def test_placed_but_no_readable_reply_is_unknown_until_found(wired: Rig, action: str):
    fault(wired, action)
    wired.sim.venue.config.fill_delay_ms = 60_000  # the stream shall not tell first
    order = wired.order(order_type=LIMIT, limit="90")
    wired.session.submit(order)
    await until(lambda: wired.sink.of(order, ExecType.UNKNOWN))
    assert not wired.sink.of(order, ExecType.UNSENT, ExecType.REJECTED)
    assert placed(wired) == [order.cl_ord_id]
    found = await wired.session.find(order.cl_ord_id, order.symbol)
    assert found is not None
    order.apply(found, found.transact_time)
    assert order.status is OrderStatus.NEW
    assert order.order_id == found.order_id


@pytest.mark.parametrize("action", ["drop", "hang", "http_500", "http_503"])
async def test_not_placed_and_no_proof_is_unknown_until_proven_absent(wired: Rig, action: str):
    fault(wired, action)
    order = await wired.submit(wired.order())
    assert [r.exec_type for r in wired.sink.of(order)] == [ExecType.UNKNOWN]
    assert order.status is OrderStatus.UNKNOWN
    assert order.text
    assert await wired.session.find(order.cl_ord_id, order.symbol) is None
    assert placed(wired) == []
    await until(wired.session.ready)
    await wired.becomes(await wired.submit(wired.order()), "filled")


async def test_a_throttled_order_is_never_taken_for_a_rejection(wired: Rig):
    fault(wired, "http_429")
    order = await wired.submit(wired.order())
    proof = ExecType.UNSENT if wired.kind.throttled == "unsent" else ExecType.UNKNOWN
    assert [r.exec_type for r in wired.sink.of(order)] == [proof]
    assert placed(wired) == []
    assert any(told.get("retry_after_s") for _, told in wired.sink.limits)
    assert not wired.session.ready()  # quiet, as it was asked to be
    assert wired.session.headroom().paused_until_ns > time.monotonic_ns()
    await until(wired.session.ready)
    await wired.becomes(await wired.submit(wired.order()), "filled")


async def test_connection_refused_is_unsent_and_comes_back(wired: Rig):
    assert wired.sim is not None
    port = wired.sim.port
    await wired.sim.stop()
    await until(lambda: wired.session.state is ConnectionState.DISCONNECTED)
    order = await wired.submit(wired.order())
    assert [r.exec_type for r in wired.sink.of(order)] == [ExecType.UNSENT]
    assert f"127.0.0.1:{port}" in wired.sink.of(order)[0].text
    assert order.first_byte_ns == 0
    await wired.sim.start(port=port)
    await until(lambda: wired.session.state is ConnectionState.CONNECTED, 15)
    wired.price("100")
    await wired.becomes(await wired.submit(wired.order()), "filled")


async def test_a_lost_stream_is_degraded_and_comes_back(wired: Rig):
    assert wired.sim is not None
    wired.sim.faults.replace([{"action": "drop", "match": wired.kind.stream, "times": 2}])
    await simulate(wired, "/sim/disconnect", b'{"streams":true}')
    await until(lambda: wired.session.state is ConnectionState.DEGRADED)
    order = await wired.submit(wired.order())
    # The wire works on.
    assert order.status == ("filled" if wired.kind.fills_in_reply else "new")
    await until(lambda: wired.session.state is ConnectionState.CONNECTED, 15)
    found = await wired.session.find(order.cl_ord_id, order.symbol)
    assert found is not None
    wired.sink.on_report(found)  # what the engine's reconciliation does
    assert order.status is OrderStatus.FILLED


async def simulate(rig: Rig, path: str, body: bytes) -> None:
    assert rig.sim is not None
    reader, writer = await asyncio.open_connection("127.0.0.1", rig.sim.port)
    writer.write(
        b"POST %s HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n\r\n%s"
        % (path.encode(), len(body), body)
    )
    assert b" 200 " in await reader.readline()
    writer.close()
    await writer.wait_closed()


async def test_an_unknown_symbol(wired: Rig):
    assert await wired.session.instrument(wired.kind.unknown_symbol) is None
    order = await wired.submit(wired.order(symbol=wired.kind.unknown_symbol))
    assert order.status is OrderStatus.REJECTED
    assert wired.kind.unknown_symbol in order.text


@pytest.mark.parametrize("action", ["http_500", "drop", "hang"])
async def test_a_cancel_without_answer_is_pending_until_looked_up(wired: Rig, action: str):
    order = await wired.submit(wired.order(order_type=LIMIT, limit="90"))
    await wired.becomes(order, "new")
    fault(wired, action, **wired.kind.cancel)
    wired.session.cancel(order)
    await wired.becomes(order, "pending_cancel")
    await wired.becomes(order, "new")  # the look-up proved that it still works
    wired.session.cancel(order)
    await wired.becomes(order, "canceled")


async def test_a_cancel_never_waits_behind_an_order(wired: Rig):
    working = await wired.submit(wired.order(order_type=LIMIT, limit="90"))
    await wired.becomes(working, "new")
    fault(wired, "hang")
    stuck = wired.order()
    wired.session.submit(stuck)
    wired.session.cancel(working)
    await wired.becomes(working, "canceled")
    assert not wired.sink.of(stuck)
    await wired.becomes(stuck, "unknown")


@pytest.mark.parametrize("kind", WIRED, ids=str)
async def test_wrong_credentials_need_a_person(make_rig: MakeRig, kind: Kind):
    rig = await make_rig(kind, start=False)
    assert rig.sim is not None
    rig.sim.venue.config.accounts = {kind.key: "another"}
    await rig.session.start()
    assert rig.session.state is ConnectionState.ERROR
    assert "credentials" in rig.sink.connections[-1][1]
    order = await rig.submit(rig.order())
    assert [r.exec_type for r in rig.sink.of(order)] == [ExecType.UNSENT]
    with pytest.raises(BrokerError) as caught:
        await rig.session.balances()
    shown = repr(caught.value) + repr(rig.sink.connections) + repr(rig.sink.reports)
    for value in kind.credentials.values():
        assert value not in shown
    assert rig.sim.venue.accounts == {} or not placed_any(rig)


def placed_any(rig: Rig) -> bool:
    assert rig.sim is not None
    return any(account.orders for account in rig.sim.venue.accounts.values())


@pytest.mark.parametrize("kind", WIRED, ids=str)
async def test_a_venue_that_is_down_at_start_is_found_later(make_rig: MakeRig, kind: Kind):
    rig = await make_rig(kind, start=False)
    assert rig.sim is not None
    port = rig.sim.port
    await rig.sim.stop()
    await rig.session.start()
    assert rig.session.state is ConnectionState.DISCONNECTED
    await rig.sim.start(port=port)
    await until(lambda: rig.session.state is ConnectionState.CONNECTED, 15)
