"""Binance over real sockets against the simulated venue: signatures, clock, ids, lists, limits, the shared stream."""

from __future__ import annotations

import asyncio
import hmac
import re
import time
from collections.abc import AsyncIterator, Callable
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any

import httpx
import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
)

from engine.brokers.binance.adapter import BinanceAdapter
from engine.brokers.binance.session import BinanceSession
from engine.brokers.binance.signing import HmacSigner, query_string, websocket_payload
from engine.brokers.binance.stream import UserStreams
from engine.brokers.binance.venue import Weights
from engine.errors import (
    BrokerAuthError,
    BrokerError,
    BrokerProtocolError,
    BrokerUnavailable,
    ConfigError,
)
from engine.execution.order_manager import contradiction
from engine.model.account import Account
from engine.model.enums import ConnectionState, ExecType, OrderStatus, OrderType, Side, TimeInForce
from engine.model.identifiers import cl_ord_id, exit_leg_id
from engine.model.messages import ExecutionReport
from engine.model.order import Order
from engine.simbroker.config import SimConfig
from engine.simbroker.server import SimBroker
from tests.contract.conftest import Sink, until

KEYS = {f"key-{n}": f"secret-of-{n}-canary" for n in range(4)}
GTC, IOC, DAY = TimeInForce.GTC, TimeInForce.IOC, TimeInForce.DAY
LIMIT, MARKET = OrderType.LIMIT, OrderType.MARKET
CONNECTED, DEGRADED = ConnectionState.CONNECTED, ConnectionState.DEGRADED


class Desk:
    """A venue, an adapter, and accounts at it."""

    def __init__(self) -> None:
        self.sim: SimBroker
        self.adapter: BinanceAdapter
        self.sessions: list[BinanceSession] = []
        self.sinks: list[Sink] = []
        self.made = 0

    async def open(self, config: dict[str, Any], **options: Any) -> None:
        facts = {
            "dialect": "binance",
            "accounts": KEYS,
            "walk": False,
            "follow_percent": Decimal(0),
        }
        self.sim = SimBroker(SimConfig(**(facts | config)))
        await self.sim.start()
        self.adapter = BinanceAdapter(allow_simulated=True, **({"settle_s": 0.5} | options))
        self.price("100")

    def account(self, number: int, **changes: Any) -> Account:
        return Account.model_validate(
            {
                "id": f"A-{number}",
                "broker": "binance",
                "sizing": {"method": "fixed", "quantity": "1"},
                "base_url": f"http://127.0.0.1:{self.sim.port}",
                **changes,
            }
        )

    async def join(
        self, number: int = 0, credentials: dict[str, str] | None = None, **changes: Any
    ) -> tuple[BinanceSession, Sink]:
        key = f"key-{number}"
        sink = Sink()
        session = self.adapter.session(
            self.account(number, **changes),
            credentials or {"key_id": key, "secret": KEYS[key]},
            sink,
        )
        self.sessions.append(session)
        self.sinks.append(sink)
        await session.start()
        return session, sink

    def price(self, price: str, symbol: str = "BTCUSDT") -> None:
        self.sim.venue.market.pin(symbol, Decimal(price))

    def order(self, sink: Sink, account: str = "A-0", **changes: Any) -> Order:
        self.made += 1
        facts = {
            "cl_ord_id": cl_ord_id("book", "it", str(self.made), account),
            "account": account,
            "symbol": "BTCUSDT",
            "side": Side.BUY,
            "order_qty": Decimal(10),
            "order_type": MARKET,
            "time_in_force": GTC,
            "created_at": datetime.now(UTC),
        }
        order = Order(**(facts | changes))
        sink.orders[order.cl_ord_id] = order
        return order

    def limit(self, sink: Sink, price: str, **changes: Any) -> Order:
        return self.order(sink, order_type=LIMIT, limit_price=Decimal(price), **changes)

    def fault(self, action: str, **match: str) -> None:
        self.sim.faults.replace([{"action": action, "match": match, "times": 1}])

    def skew(self, seconds: float) -> None:
        """Put the venue's clock wrong, for every request on every connection."""
        self.sim.venue.now = lambda: datetime.now(UTC) + timedelta(seconds=seconds)

    def placed(self, key: str = "key-0") -> list[str]:
        return [order.client_order_id for order in self.sim.venue.accounts[key].orders.values()]

    async def close(self) -> None:
        for session in self.sessions:
            await session.stop()
        await self.adapter.close()
        await self.sim.stop()


@pytest.fixture
async def make_desk() -> AsyncIterator[Callable[..., Any]]:
    desks: list[Desk] = []

    async def make(config: dict[str, Any] | None = None, **options: Any) -> Desk:
        desk = Desk()
        await desk.open(config or {}, **options)
        desks.append(desk)
        return desk

    yield make
    for desk in desks:
        await desk.close()


@pytest.fixture
async def desk(make_desk: Callable[..., Any]) -> Desk:
    return await make_desk()


async def becomes(order: Order, status: str, seconds: float = 5.0) -> None:
    try:
        await until(lambda: order.status == status, seconds)
    except AssertionError:
        raise AssertionError(f"{order.status}, not {status}: {order.text}") from None


# Keys and clock


async def test_an_order_is_signed_byte_for_byte(desk: Desk):
    session, sink = await desk.join()
    request = session.new_order_request(desk.order(sink)).decode()
    line = request.split(" ")[1]
    payload, signature = re.fullmatch(
        r"/api/v3/order\?(.*)&signature=([0-9a-f]{64})", line
    ).groups()
    assert hmac.new(KEYS["key-0"].encode(), payload.encode(), "sha256").hexdigest() == signature
    assert "\r\nX-MBX-APIKEY: key-0\r\n" in request
    assert re.search(r"&recvWindow=5000&timestamp=[0-9]{13}$", payload)


async def test_a_wrong_signature_is_refused_and_stops_the_session(desk: Desk):
    session, sink = await desk.join(0, {"key_id": "key-0", "secret": "not-the-secret"})
    assert session.state is ConnectionState.ERROR
    assert "credentials" in sink.connections[-1][1]
    with pytest.raises(BrokerAuthError) as caught:
        await session.balances()
    assert "not-the-secret" not in str(caught.value) + repr(session)
    assert "key-0" not in str(caught.value)


async def test_an_ed25519_account_trades(make_desk: Callable[..., Any]):
    key = Ed25519PrivateKey.generate()
    public = key.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
    private = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()).decode()
    desk = await make_desk({"accounts": {"ed": public.decode()}})
    session, sink = await desk.join(0, {"key_id": "ed", "private_key": private})
    assert session.state is CONNECTED
    order = desk.order(sink)
    session.submit(order)
    await becomes(order, "filled")
    assert (await session.find(order.cl_ord_id, order.symbol)).order_id == order.order_id


@pytest.mark.parametrize("skew", [-3600.0, 3600.0])
async def test_a_venue_with_another_clock_is_followed(desk: Desk, skew: float):
    desk.skew(skew)
    session, sink = await desk.join()
    order = desk.order(sink)
    session.submit(order)
    await becomes(order, "filled")
    assert not sink.of(order, ExecType.UNSENT, ExecType.UNKNOWN)


@pytest.mark.parametrize("skew", [-30.0, 30.0])
async def test_a_clock_that_steps_costs_one_try(desk: Desk, skew: float):
    session, sink = await desk.join()
    # What was read just now is not read again for a refusal of what was signed before.
    await until(lambda: time.monotonic() - session._clock._at > 0.3)
    desk.skew(skew)
    order = desk.order(sink)
    session.submit(order)
    await until(lambda: sink.of(order))
    assert [r.exec_type for r in sink.of(order)] == [ExecType.UNSENT]  # proof: -1021
    assert desk.placed() == []
    await until(
        lambda: abs(session._clock.now_ms() - desk.sim.venue.now().timestamp() * 1000) < 500
    )
    await until(session.ready)
    session.submit(order)
    await becomes(order, "filled")


async def test_a_request_dies_with_its_order(desk: Desk):
    session, sink = await desk.join()
    order = desk.order(sink)
    order.send_before_ns = time.monotonic_ns() + 1_000_000_000
    window = int(re.search(rb"recvWindow=([0-9]+)", session.new_order_request(order))[1])
    assert 1300 < window <= 1500
    order.send_before_ns = time.monotonic_ns() + 60_000_000_000
    assert b"recvWindow=5000&" in session.new_order_request(order)


# Client ids


async def test_the_venue_takes_an_id_again_once_its_order_is_filled(desk: Desk):
    """Why the client id is ``open_only``: sending blind a second time would buy twice."""
    session, sink = await desk.join()
    order = desk.order(sink)
    session.submit(order)
    await becomes(order, "filled")
    twin = desk.order(Sink(), cl_ord_id=order.cl_ord_id)
    sink.orders.clear()
    session.submit(twin)
    await until(lambda: len(desk.placed()) == 2)
    assert session.capabilities.client_id == "open_only"
    assert [p.qty for p in await session.positions()] == [20]


async def test_an_id_whose_order_is_open_is_looked_up(desk: Desk):
    session, sink = await desk.join()
    order = desk.limit(sink, "90")
    session.submit(order)
    await becomes(order, "new")
    session.submit(order)
    await until(lambda: sink.of(order, ExecType.STATUS))
    [report] = sink.of(order, ExecType.STATUS)
    assert (report.status, report.order_id) == (OrderStatus.NEW, order.order_id)
    assert not sink.of(order, ExecType.REJECTED, ExecType.UNKNOWN)
    assert desk.placed() == [order.cl_ord_id]


async def test_an_id_with_another_order_behind_it_is_told_with_what_it_is(desk: Desk):
    """The order manager sees that it is none of ours, and halts the account (F15)."""
    session, sink = await desk.join()
    order = desk.limit(sink, "90")
    session.submit(order)
    await becomes(order, "new")
    other = desk.limit(sink, "90", cl_ord_id=order.cl_ord_id, order_qty=Decimal(3))
    before = len(sink.reports)
    session.submit(other)
    await until(lambda: len(sink.reports) > before)
    report = sink.reports[-1]
    assert (report.cl_ord_id, report.order_qty) == (order.cl_ord_id, order.order_qty)
    assert "is another: buy" in contradiction(other, report)
    assert contradiction(order, report) == ""
    assert desk.placed() == [order.cl_ord_id]


# Orders


async def test_what_binance_does_not_have_is_not_sent(desk: Desk):
    session, sink = await desk.join()
    lazy, _ = await desk.join(1, options={"day_as_gtc": "yes"})
    assert session.refusal(MARKET, DAY) == ""
    assert "day_as_gtc" in session.refusal(LIMIT, DAY)
    order = desk.limit(sink, "90", time_in_force=DAY)
    session.submit(order)
    await becomes(order, "rejected")
    assert "not sent" in order.text
    assert "key-0" not in desk.sim.venue.accounts or desk.placed() == []
    resting = desk.limit(desk.sinks[1], "90", account="A-1", time_in_force=DAY)
    lazy.submit(resting)
    await becomes(resting, "new")


async def test_a_cancel_needs_no_id_of_the_broker_s(desk: Desk):
    session, sink = await desk.join()
    order = desk.limit(sink, "90")
    session.submit(order)
    await becomes(order, "new")
    order.order_id = ""
    assert f"&origClientOrderId={order.cl_ord_id}&".encode() in session.cancel_request(order)
    session.cancel(order)
    await becomes(order, "canceled")


async def test_a_refused_cancel_says_what_became_of_the_order(desk: Desk):
    session, sink = await desk.join()
    order = desk.limit(sink, "90")
    session.submit(order)
    await becomes(order, "new")
    desk.sim.disconnect(only_streams=True)
    desk.price("89")  # it fills, and no stream tells
    session.cancel(order)
    await becomes(order, "filled")
    assert sink.of(order, ExecType.CANCEL_REJECTED)
    assert [t.exec_id for t in sink.of(order, ExecType.TRADE)] == [f"BTCUSDT:{order.order_id}:1"]


async def test_a_replacement_that_fails_leaves_the_old_order_canceled(desk: Desk):
    session, sink = await desk.join()
    order = desk.limit(sink, "90")
    session.submit(order)
    await becomes(order, "new")
    new = desk.limit(sink, "91", order_qty=Decimal(100_000))
    session.replace(order, new)
    await becomes(new, "rejected")
    await becomes(order, "canceled")
    assert "insufficient balance" in new.text
    assert await session.open_orders() == []


async def test_a_replacement_the_cancel_of_which_fails_is_not_attempted(desk: Desk):
    session, sink = await desk.join()
    order = desk.limit(sink, "90")
    session.submit(order)
    await becomes(order, "new")
    order.order_id = "999"  # nobody's
    new = desk.limit(sink, "91")
    session.replace(order, new)
    await becomes(new, "rejected")
    assert desk.placed() == [order.cl_ord_id]
    assert order.status is OrderStatus.NEW


@pytest.mark.parametrize("action", ["accept_then_drop", "garbage", "http_500"])
async def test_a_replacement_without_an_answer(desk: Desk, action: str):
    session, sink = await desk.join()
    order = desk.limit(sink, "90")
    session.submit(order)
    await becomes(order, "new")
    desk.fault(action, method="POST", path="/api/v3/order/cancelReplace")
    new = desk.limit(sink, "91")
    session.replace(order, new)
    if action == "http_500":
        await becomes(new, "unknown")
        assert order.status is OrderStatus.NEW
        assert await session.find(new.cl_ord_id, new.symbol) is None
    else:
        await becomes(order, "canceled")
        await becomes(new, "new")  # by the stream


async def test_one_replacement_at_a_time(desk: Desk):
    session, sink = await desk.join()
    order = desk.limit(sink, "90")
    session.submit(order)
    await becomes(order, "new")
    first, second = desk.limit(sink, "91"), desk.limit(sink, "92")
    session.replace(order, first)
    session.replace(order, second)
    await becomes(second, "rejected")
    await becomes(first, "new")
    await becomes(order, "replaced")
    assert [report.cl_ord_id for report in await session.open_orders()] == [first.cl_ord_id]


# Order lists


def bracket(desk: Desk, sink: Sink, price: str = "99", **changes: Any) -> Order:
    exits = {"stop_loss": Decimal(90), "take_profit": Decimal(120)}
    return desk.limit(sink, price, **(exits | changes))


def leg(sink: Sink, entry: Order, name: str) -> list[ExecutionReport]:
    return sink.of(exit_leg_id(entry.cl_ord_id, name))


async def test_an_entry_s_exits_go_along_and_one_cancels_the_other(desk: Desk):
    session, sink = await desk.join()
    entry = bracket(desk, sink)
    assert session.works_exits(entry)
    session.submit(entry)
    await becomes(entry, "new")
    for name, side in (("stop", Side.SELL), ("target", Side.SELL)):
        await until(lambda name=name: leg(sink, entry, name))
        for report in leg(sink, entry, name):
            assert (report.parent, report.leg, report.side) == (entry.cl_ord_id, name, side)
            assert (report.status, report.order_qty) == (OrderStatus.NEW, 10)
        assert leg(sink, entry, name)[0].order_id
    desk.price("98")
    await becomes(entry, "filled")
    desk.price("121")
    await until(lambda: leg(sink, entry, "target")[-1].status is OrderStatus.FILLED)
    assert leg(sink, entry, "target")[-1].last_px == 120
    await until(lambda: leg(sink, entry, "stop")[-1].status is OrderStatus.EXPIRED)
    assert "OCO_TRIGGER" in leg(sink, entry, "stop")[-1].text
    assert await session.positions() == []


async def test_the_stop_of_a_bracket_fires(desk: Desk):
    session, sink = await desk.join()
    entry = bracket(desk, sink, "101")  # fills at once
    session.submit(entry)
    await becomes(entry, "filled")
    desk.price("89")
    await until(lambda: leg(sink, entry, "stop") and leg(sink, entry, "stop")[-1].cum_qty == 10)
    await until(lambda: leg(sink, entry, "target")[-1].status is OrderStatus.EXPIRED)
    assert leg(sink, entry, "stop")[-1].last_px == 89


async def test_one_exit_is_an_oto(desk: Desk):
    session, sink = await desk.join()
    entry = bracket(desk, sink, take_profit=None)
    session.submit(entry)
    await becomes(entry, "new")
    await until(lambda: leg(sink, entry, "stop"))
    assert leg(sink, entry, "target") == []
    desk.price("98")
    await becomes(entry, "filled")
    desk.price("90")
    await until(lambda: leg(sink, entry, "stop")[-1].status is OrderStatus.FILLED)


async def test_a_canceled_entry_takes_its_exits_along(desk: Desk):
    session, sink = await desk.join()
    entry = bracket(desk, sink)
    session.submit(entry)
    await becomes(entry, "new")
    session.cancel(entry)
    await becomes(entry, "canceled")
    for name in ("stop", "target"):
        await until(lambda name=name: leg(sink, entry, name)[-1].status is OrderStatus.CANCELED)
    assert await session.open_orders() == []


@pytest.mark.parametrize("action", ["accept_then_drop", "garbage"])
async def test_exits_are_found_when_the_reply_was_lost(desk: Desk, action: str):
    session, sink = await desk.join()
    desk.sim.disconnect(only_streams=True)
    await until(lambda: session.state is DEGRADED)
    desk.fault(action, path="/api/v3/orderList/otoco")
    entry = bracket(desk, sink)
    session.submit(entry)
    await becomes(entry, "unknown")
    # Another session knows nothing but what the engine tells it, as after a restart.
    other, other_sink = await desk.join(0)
    found = await other.find(entry.cl_ord_id, entry.symbol)
    assert (found.status, found.cl_ord_id) == (OrderStatus.NEW, entry.cl_ord_id)
    for name in ("stop", "target"):
        [report] = [r for r in leg(other_sink, entry, name) if r.exec_type is ExecType.STATUS]
        assert (report.parent, report.leg) == (entry.cl_ord_id, name)
    listed = {report.cl_ord_id: report for report in await other.open_orders()}
    assert listed[exit_leg_id(entry.cl_ord_id, "stop")].leg == "stop"


async def test_a_market_entry_keeps_its_exits_to_the_engine(desk: Desk):
    session, sink = await desk.join()
    entry = desk.order(sink, stop_loss=Decimal(90), take_profit=Decimal(120))
    assert not session.works_exits(entry)
    session.submit(entry)
    await becomes(entry, "filled")
    assert desk.placed() == [entry.cl_ord_id]


async def test_an_order_with_exits_is_not_replaced(desk: Desk):
    session, sink = await desk.join()
    entry = bracket(desk, sink)
    session.submit(entry)
    await becomes(entry, "new")
    new = bracket(desk, sink, "98")
    session.replace(entry, new)
    await becomes(new, "rejected")
    assert "exits" in new.text
    assert entry.status is OrderStatus.NEW


# Limits


async def test_the_broker_s_own_counts_are_read_back(make_desk: Callable[..., Any]):
    desk = await make_desk({"rate_limit": 6000})  # Binance's own
    session, sink = await desk.join()
    order = desk.limit(sink, "90")
    session.submit(order)
    await becomes(order, "new")
    told = [one for _, one in sink.limits if one.get("used") is not None]
    assert told[-1]["limit"] == 6000
    assert told[-1]["address_wide"] is True
    assert 0 < told[-1]["resets_in_s"] <= 60
    assert (session.headroom().used, session.headroom().limit) == (1, 50)


async def test_too_much_weight_pauses_the_address(make_desk: Callable[..., Any]):
    desk = await make_desk({"rate_limit": 200})
    session, sink = await desk.join()
    await until(lambda: time.time() % 60 < 55, 6)  # not across a minute's end
    session._venue.weights.limit = 1_000_000  # as if others used the address, too
    with pytest.raises(BrokerUnavailable) as caught:
        await asyncio.gather(*[session.open_orders() for _ in range(4)])
    assert 0 < caught.value.retry_after <= 60
    assert sink.limits[-1][1]["address_wide"] is True
    assert sink.limits[-1][1]["retry_after_s"] == caught.value.retry_after
    assert not session.ready()
    order = desk.order(sink)
    session.submit(order)
    await until(lambda: sink.of(order))
    assert [r.exec_type for r in sink.of(order)] == [ExecType.UNSENT]
    with pytest.raises(BrokerUnavailable, match="not asked, the broker wants quiet"):
        await session.find("X", "BTCUSDT")
    for _ in range(10):  # who goes on all the same is banned
        session._venue.http._quiet_until = 0.0
        with pytest.raises(BrokerUnavailable) as caught:
            await session.find("X", "BTCUSDT")
    assert "418" in str(caught.value)
    assert caught.value.retry_after > 60


async def test_too_many_unfilled_orders_are_the_account_s_own_matter(make_desk: Callable[..., Any]):
    desk = await make_desk({"rate_limit": 100_000})
    session, sink = await desk.join()
    orders = [desk.limit(sink, "90", order_qty=Decimal("0.1")) for _ in range(51)]
    for order in orders:
        session.submit(order)
    await until(lambda: all(sink.of(order) for order in orders))
    assert [r.exec_type for r in sink.of(orders[-1])] == [ExecType.UNSENT]
    paused = [one for _, one in sink.limits if one.get("retry_after_s")]
    assert paused
    assert not any(one["address_wide"] for one in paused)
    assert len(desk.placed()) == 50


async def test_reads_wait_for_the_next_minute_rather_than_earn_a_ban():
    weights = Weights()
    weights.limit = 100
    await until(lambda: time.time() % 60 < 58, 3)
    await weights.spend(60)
    waiting = asyncio.create_task(weights.spend(20))
    done, _ = await asyncio.wait([waiting], timeout=0.05)
    assert not done  # 70 of 100 are for reads; the rest is for orders and cancels
    waiting.cancel()
    await asyncio.gather(waiting, return_exceptions=True)


async def test_nothing_is_lost_or_bought_twice_whatever_happens(make_desk: Callable[..., Any]):
    """A fifth of the requests fail in every way; the rules of an open-only id are kept."""
    desk = await make_desk(reply_timeout_s=0.15, settle_s=0.6)
    session, sink = await desk.join()
    desk.price("10")
    faults = [
        {"action": "mix", "rate": 0.2, "match": {"method": "POST"}, "delay_s": 0.2, "seed": 7}
    ]
    desk.sim.faults.replace(faults)
    orders = [desk.order(sink, order_qty=Decimal(1)) for _ in range(120)]
    await asyncio.gather(*[see_through(session, sink, order) for order in orders])
    assert {order.status for order in orders} == {OrderStatus.FILLED}
    assert sorted(desk.placed()) == sorted(order.cl_ord_id for order in orders)
    assert len(desk.sim.venue.accounts["key-0"].fills) == len(orders)
    assert sum(order.cum_qty for order in orders) == len(orders)


async def see_through(session: BinanceSession, sink: Sink, order: Order) -> None:
    """Do as the engine does: send again only what is proven not to be there."""
    while order.status.working:
        heard = len(sink.of(order))
        await until(session.ready, 60)
        if order.status.terminal:
            return  # the stream has told, while a 429 had us wait
        session.submit(order)
        await until(lambda heard=heard: len(sink.of(order)) > heard)
        if order.status is OrderStatus.UNKNOWN and not await resolved(session, sink, order):
            order.reopen()
        elif sink.of(order)[-1].exec_type is not ExecType.UNSENT:
            await until(lambda: order.status.terminal)


async def resolved(session: BinanceSession, sink: Sink, order: Order) -> bool:
    asked, absent = time.monotonic(), 0
    while order.status is OrderStatus.UNKNOWN:
        try:
            found = await session.find(order.cl_ord_id, order.symbol)
        except BrokerError:
            continue
        if found is not None:
            sink.on_report(found)
        else:
            absent += 1
            if absent >= 2 and time.monotonic() - asked >= session.capabilities.settle_s:
                return False
            await asyncio.sleep(0.05)
    return True


# The stream


async def test_accounts_share_a_socket_and_hear_only_of_themselves(desk: Desk):
    joined = [await desk.join(n) for n in range(3)]
    assert len(desk.sim.dialect.streams()) == 1
    orders = []
    for number, (session, sink) in enumerate(joined):
        order = desk.limit(sink, "90", account=f"A-{number}")
        session.submit(order)
        orders.append(order)
    for order in orders:
        await becomes(order, "new")
    desk.price("89")
    for order in orders:
        await becomes(order, "filled")
    for order, (session, sink) in zip(orders, joined, strict=True):
        assert {report.account for report in sink.reports} == {session.account_id}
        assert {report.cl_ord_id for report in sink.reports} == {order.cl_ord_id}


async def test_a_lost_socket_degrades_all_and_what_filled_meanwhile_is_told_exactly(desk: Desk):
    joined = [await desk.join(n) for n in range(2)]
    orders = [desk.limit(sink, "90", account=f"A-{n}") for n, (_, sink) in enumerate(joined)]
    for (session, _), order in zip(joined, orders, strict=True):
        session.submit(order)
        await becomes(order, "new")
    desk.sim.faults.replace([{"action": "drop", "match": {"path": "/ws-api/v3"}, "times": 1}])
    desk.sim.disconnect(only_streams=True)
    await until(lambda: all(session.state is DEGRADED for session, _ in joined))
    desk.price("89.5")
    await until(lambda: all(session.state is CONNECTED for session, _ in joined), 10)
    for (session, sink), order in zip(joined, orders, strict=True):
        found = await session.find(order.cl_ord_id, order.symbol)  # as the engine reconciles
        sink.on_report(found)
        assert order.status is OrderStatus.FILLED
        [trade] = sink.of(order, ExecType.TRADE)
        assert order.exec_ids == {trade.exec_id}
        await session.find(order.cl_ord_id, order.symbol)
        assert len(sink.of(order, ExecType.TRADE)) == 1  # told once


async def test_one_account_s_refused_subscription_is_its_own(desk: Desk):
    good, good_sink = await desk.join(0)
    bad, bad_sink = await desk.join(1)
    desk.sim.venue.expire("key-1")
    desk.sim.disconnect(only_streams=True)
    await until(lambda: bad.state is ConnectionState.ERROR, 10)
    await until(lambda: good.state is CONNECTED, 10)
    order = desk.limit(good_sink, "90")
    good.submit(order)
    await becomes(order, "new")
    desk.price("89")
    await becomes(order, "filled")
    refused = desk.order(bad_sink, account="A-1")
    bad.submit(refused)
    await until(lambda: bad_sink.of(refused))
    assert bad_sink.of(refused)[0].exec_type is ExecType.UNSENT


async def test_a_subscription_the_broker_ends_is_made_again(desk: Desk):
    session, sink = await desk.join(0)
    _, other_sink = await desk.join(1)
    desk.sim.dialect.end_subscription("key-0")
    await until(lambda: DEGRADED in [state for state, _ in sink.connections])
    await until(lambda: session.state is CONNECTED)
    assert [state for state, _ in other_sink.connections].count(DEGRADED) == 0
    order = desk.limit(sink, "90")
    session.submit(order)
    await becomes(order, "new")
    desk.price("89")
    await becomes(order, "filled")


async def test_a_server_that_shuts_down_is_left_before_it_does(desk: Desk):
    joined = [await desk.join(n) for n in range(2)]
    [old] = desk.sim.dialect.streams()
    desk.sim.dialect.shut_down()
    await until(lambda: old not in desk.sim.dialect.streams())
    assert len(desk.sim.dialect.streams()) == 1
    for number, (session, sink) in enumerate(joined):
        assert DEGRADED not in [state for state, _ in sink.connections]
        order = desk.limit(sink, "90", account=f"A-{number}")
        session.submit(order)
        await becomes(order, "new")
    desk.price("89")
    for sink in desk.sinks:
        [order] = sink.orders.values()
        await becomes(order, "filled")


async def test_a_connection_is_renewed_before_its_life_is_over(desk: Desk):
    account = desk.adapter.session(
        desk.account(0), {"key_id": "key-0", "secret": KEYS["key-0"]}, Sink()
    )
    account._venue.streams.life_s = 0.2
    session, sink = await desk.join(0)
    seen = {id(stream): stream for stream in desk.sim.dialect.streams()}

    def renewed() -> bool:
        seen.update({id(stream): stream for stream in desk.sim.dialect.streams()})
        return len(seen) >= 3

    await until(renewed)
    assert DEGRADED not in [state for state, _ in sink.connections]
    order = desk.limit(sink, "90")
    session.submit(order)
    await becomes(order, "new")
    desk.price("89")
    await becomes(order, "filled")


async def test_an_event_that_cannot_be_read_breaks_one_account_only(desk: Desk):
    session, sink = await desk.join(0)
    _, other_sink = await desk.join(1)
    await until(lambda: session.state is CONNECTED)
    before = len(sink.connections)
    for stream, number in desk.sim.dialect._subscriptions["key-0"]:
        stream.send_text(
            b'{"subscriptionId":%d,"event":{"e":"executionReport","x":"NEW"}}' % number
        )
    await until(lambda: len(sink.connections) == before + 2)
    assert [state for state, _ in sink.connections[before:]] == [DEGRADED, CONNECTED]
    assert [state for state, _ in other_sink.connections].count(DEGRADED) == 0


async def test_an_ended_subscription_s_news_is_nobody_s(desk: Desk):
    """Not even when a new account's subscription is being made at that moment."""
    first, sink = await desk.join(0)
    [(stream, number)] = desk.sim.dialect._subscriptions["key-0"]
    second, _ = await desk.join(1)
    await first.stop()
    await until(lambda: not desk.sim.dialect._subscriptions["key-0"])
    link = second._venue.streams._links[0]
    answer = asyncio.get_running_loop().create_future()
    link._current._asked[-1] = answer  # a question without an answer yet
    event = EVENT % (number, b"A" * 20)
    stream.send_text(event)
    third, third_sink = await desk.join(2)
    answer.cancel()
    del link._current._asked[-1]
    assert third.state is CONNECTED
    assert link._current._early == []
    assert [sink.reports, third_sink.reports, desk.sinks[1].reports] == [[], [], []]


EVENT = (
    b'{"subscriptionId":%d,"event":{"e":"executionReport","E":1,"s":"BTCUSDT","c":"%s","S":"BUY",'
    b'"o":"LIMIT","f":"GTC","q":"1","p":"1","P":"0","C":"","x":"NEW","X":"NEW","r":"NONE","i":1,'
    b'"l":"0","z":"0","L":"0","T":1,"t":-1,"Z":"0"}}'
)


async def test_news_of_nobody_is_given_to_nobody(desk: Desk):
    _, sink = await desk.join(0)
    [stream] = desk.sim.dialect.streams()
    stream.send_text(b'{"subscriptionId":77,"event":{"e":"executionReport","x":"NEW"}}')
    stream.send_text(b'{"event":{"e":"executionReport","x":"NEW"}}')
    session, _ = await desk.join(1)  # a question and its answer behind them
    assert session.state is CONNECTED
    assert sink.reports == []


class Listener:
    """A bare subscriber: what the stream needs of a session, no more."""

    def __init__(self, number: int) -> None:
        self.account_id = f"L-{number}"
        self.stream_key = f"listener-{number}"
        self.up = False
        self.events: list[Any] = []

    def subscription(self) -> dict[str, str | int]:
        params: dict[str, str | int] = {
            "apiKey": self.stream_key,
            "timestamp": int(time.time() * 1000),
        }
        return {**params, "signature": HmacSigner("s").sign(websocket_payload(params))}

    def take_event(self, event: Any) -> None:
        self.events.append(event)

    def stream_changed(self, up: bool, reason: str) -> None:
        self.up = up

    def refuse_credentials(self, reason: str) -> None:
        raise BrokerProtocolError(reason)

    def clock_refused(self) -> None:
        raise BrokerProtocolError("clock")


async def test_a_thousand_and_five_accounts_are_two_sockets(make_desk: Callable[..., Any]):
    desk = await make_desk({"accounts": None})
    streams = UserStreams(f"ws://127.0.0.1:{desk.sim.port}/ws-api/v3", None, None)
    listeners = [Listener(n) for n in range(1005)]
    tasks = [asyncio.create_task(streams.follow(one)) for one in listeners]
    await until(lambda: all(one.up for one in listeners), 20)
    counts = sorted(len(stream.tag) for stream in desk.sim.dialect.streams())
    assert counts == [5, 1000]
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
    await until(lambda: desk.sim.dialect.streams() == [])


# What is held, and what there is


async def test_balances_are_positions_and_count_in_the_quote_asset(desk: Desk):
    session, sink = await desk.join()
    before = await session.balances()
    assert (before.equity, before.cash, before.buying_power) == (100_000,) * 3
    assert (before.currency, before.blocked) == ("USDT", False)
    order = desk.order(sink)
    session.submit(order)
    await becomes(order, "filled")
    desk.price("110")
    began = time.monotonic()
    while (await session.balances()).equity != 100_100:  # prices are half a second old at most
        assert time.monotonic() - began < 2
        await asyncio.sleep(0.01)
    [held] = await session.positions()
    assert (held.symbol, held.qty, held.avg_px) == ("BTCUSDT", 10, 0)
    money = await session.balances()
    assert (money.cash, money.equity, money.buying_power) == (99_000, 100_100, 99_000)
    resting = desk.limit(sink, "50", order_qty=Decimal(100))
    session.submit(resting)
    await becomes(resting, "new")
    money = await session.balances()
    assert (money.cash, money.buying_power) == (99_000, 94_000)


async def test_what_is_not_held_cannot_be_sold(desk: Desk):
    session, sink = await desk.join()
    order = desk.order(sink, side=Side.SELL)
    session.submit(order)
    await becomes(order, "rejected")
    assert "insufficient balance" in order.text


async def test_symbols_are_read_once_for_all_accounts(desk: Desk):
    joined = [await desk.join(n) for n in range(3)]
    found = await asyncio.gather(*[session.instrument("ETHUSDT") for session, _ in joined])
    assert len(set(found)) == 1
    asked = [row.path for row in desk.sim.log.rows(0) if "exchangeInfo" in row.path]
    assert [path for path in asked if "ETHUSDT" in path] == asked[-1:]
    assert len(asked) == 2  # and once for the limits in force
    session = joined[0][0]
    assert await session.market_open("ETHUSDT") is True
    assert await session.market_open("no such") is None
    assert session._venue.limits["ORDERS", 10] == 50


async def test_prices_of_some_when_others_do_not_exist(make_desk: Callable[..., Any]):
    desk = await make_desk({"unknown_symbols": "NO.*"})
    session, _ = await desk.join()
    assert await session.quotes(["BTCUSDT", "NOSUCH"]) == {"BTCUSDT": 100}


async def test_a_closed_order_is_found_by_its_symbol_only(desk: Desk):
    session, sink = await desk.join()
    order = desk.limit(sink, "90")
    session.submit(order)
    await becomes(order, "new")
    other, _ = await desk.join(0)
    assert (await other.find(order.cl_ord_id)).order_id == order.order_id  # open: listed
    session.cancel(order)
    await becomes(order, "canceled")
    found = await other.find(order.cl_ord_id, "BTCUSDT")
    assert found.status is OrderStatus.CANCELED
    by_id = await other.find("of-no-use", "BTCUSDT", order.order_id)
    assert by_id.cl_ord_id == order.cl_ord_id


# Accounts that do not fit


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"base_url": "https://api.binance.com:8443"}, "is not allowed"),
        ({"base_url": "http://testnet.binance.vision"}, "is not allowed"),
        ({"base_url": "https://api.binance.com"}, "is not allowed"),  # live, but paper is asked for
        ({"base_url": "https://evil.example"}, "is not allowed"),
        ({"base_url": None, "environment": "live", "options": {"venue": "demo"}}, "does not fit"),
        ({"options": {"venue": "moon"}}, "is none of"),
        ({"options": {"colour": "red"}}, "not known"),
        ({"options": {"quote_asset": "us dollars"}}, "is no asset"),
    ],
)
def test_accounts_that_do_not_fit_are_refused(changes: dict[str, Any], words: str):
    adapter = BinanceAdapter(allow_simulated=False)
    document = {"id": "A-0", "broker": "binance", "sizing": {"method": "fixed", "quantity": "1"}}
    account = Account.model_validate(document | changes)
    with pytest.raises(ConfigError, match=words):
        adapter.session(account, {"key_id": "k", "secret": "s-e-c-r-e-t"}, Sink())


@pytest.mark.parametrize(
    ("changes", "rest", "websocket"),
    [
        (
            {"environment": "paper"},
            "https://testnet.binance.vision",
            "wss://ws-api.testnet.binance.vision/ws-api/v3",
        ),
        (
            {"environment": "paper", "options": {"venue": "demo"}},
            "https://demo-api.binance.com",
            "wss://demo-ws-api.binance.com/ws-api/v3",
        ),
        (
            {"environment": "live"},
            "https://api.binance.com",
            "wss://ws-api.binance.com:443/ws-api/v3",
        ),
        (
            {"environment": "live", "base_url": "https://api-gcp.binance.com/"},
            "https://api-gcp.binance.com",
            "wss://ws-api.binance.com:443/ws-api/v3",
        ),
    ],
)
async def test_where_accounts_live(changes: dict[str, Any], rest: str, websocket: str):
    adapter = BinanceAdapter()
    document = {"id": "A-0", "broker": "binance", "sizing": {"method": "fixed", "quantity": "1"}}
    account = Account.model_validate(document | changes)
    session = adapter.session(account, {"key_id": "k", "secret": "s-e-c-r-e-t"}, Sink())
    assert session.base.url == rest
    assert session._venue.streams.url == websocket
    await adapter.close()


# The venue's own words


async def call(desk: Desk, method: str, path: str, key: str = "key-0", **params: str) -> Any:
    """Ask the venue with the signature of an account; return status, headers and body."""
    fields = {**params, "timestamp": str(int(time.time() * 1000))}
    payload = query_string(fields)
    target = f"{path}?{payload}&signature={HmacSigner(KEYS[key]).sign(payload)}"
    return await raw_call(desk, method, target, key)


async def raw_call(desk: Desk, method: str, target: str, key: str = "") -> Any:
    async with httpx.AsyncClient(trust_env=False) as client:
        headers = {"X-MBX-APIKEY": key} if key else {}
        url = f"http://127.0.0.1:{desk.sim.port}{target}"
        reply = await client.request(method, url, headers=headers)
        return reply.status_code, reply.headers, reply.json()


ORDER = {"symbol": "BTCUSDT", "side": "BUY", "quantity": "1"}


@pytest.mark.parametrize(
    ("params", "code", "words"),
    [
        ({"type": "MARKET", "timeInForce": "GTC"}, -1106, "'timeInForce' sent when not required"),
        ({"type": "LIMIT", "price": "90"}, -1102, "'timeInForce'"),
        ({"type": "LIMIT", "timeInForce": "DAY", "price": "90"}, -1115, "Invalid timeInForce."),
        ({"type": "LIMIT", "timeInForce": "GTC", "price": "90.001"}, -1013, "PRICE_FILTER"),
        ({"type": "MARKET", "quantity": "0.000001"}, -1013, "LOT_SIZE"),
        ({"type": "MARKET", "quantity": "0.00001"}, -1013, "NOTIONAL"),
        ({"type": "MARKET", "quantity": "1.123456789"}, -1111, "too much precision"),
        ({"type": "MARKET", "quantity": "1e3"}, -1100, "Illegal characters"),
        ({"type": "MARKET", "newClientOrderId": "not allowed!"}, -1100, "newClientOrderId"),
        ({"type": "MARKET", "symbol": "no pair"}, -1121, "Invalid symbol."),
        ({"type": "MARKET", "side": "SHORT"}, -1117, "Invalid side."),
        ({"type": "WISH"}, -1116, "Invalid orderType."),
        ({"type": "STOP_LOSS", "stopPrice": "99"}, -2010, "trigger immediately"),
        (
            {"type": "LIMIT_MAKER", "price": "101"},
            -2010,
            "Order would immediately match and take.",
        ),
        ({"type": "MARKET", "quantity": "2000"}, -2010, "insufficient balance"),
    ],
)
async def test_what_the_venue_refuses(desk: Desk, params: dict[str, str], code: int, words: str):
    status, _, body = await call(desk, "POST", "/api/v3/order", **(ORDER | params))
    assert (status, body["code"]) == (400, code)
    assert words in body["msg"]
    assert desk.placed() == []


async def test_what_the_venue_says_of_signatures_and_time(desk: Desk):
    good = query_string({**ORDER, "type": "MARKET", "timestamp": str(int(time.time() * 1000))})
    signature = HmacSigner(KEYS["key-0"]).sign(good)

    async def said(query: str, key: str = "key-0") -> tuple[int, int]:
        status, _, body = await raw_call(desk, "POST", f"/api/v3/order?{query}", key)
        return status, body["code"]

    assert await said(f"{good}&signature={'0' * 64}") == (400, -1022)
    assert await said(good) == (400, -1102)
    assert await said(f"signature={signature}&{good}") == (400, -1102)  # not the last
    assert await said(f"{good}&signature={signature}", "") == (401, -2014)
    assert await said(f"{good}&signature={signature}", "nobody") == (401, -2015)
    for shift, recv_window in ((-6, "5000"), (2, "5000"), (-0.5, "100")):
        stamp = str(int((time.time() + shift) * 1000))
        late = query_string(
            {**ORDER, "type": "MARKET", "recvWindow": recv_window, "timestamp": stamp}
        )
        assert await said(f"{late}&signature={HmacSigner(KEYS['key-0']).sign(late)}") == (
            400,
            -1021,
        )
    assert desk.placed() == []
    status, headers, body = await raw_call(
        desk, "POST", f"/api/v3/order?{good}&signature={signature.upper()}", "key-0"
    )
    assert (status, body["status"]) == (200, "FILLED")
    assert int(headers["X-MBX-USED-WEIGHT-1M"]) >= 0
    assert headers["X-MBX-ORDER-COUNT-10S"] == "0"  # it filled: the count is given back
    assert body["fills"][0] == {
        "price": "100.00000000",
        "qty": "1.00000000",
        "commission": "0.00000000",
        "commissionAsset": "USDT",
        "tradeId": 1,
    }


async def test_a_pair_of_exits_is_an_oco(desk: Desk):
    await call(desk, "POST", "/api/v3/order", **ORDER, type="MARKET")
    pair = {
        "symbol": "BTCUSDT",
        "side": "SELL",
        "quantity": "1",
        "aboveType": "LIMIT_MAKER",
        "abovePrice": "110",
        "belowType": "STOP_LOSS",
        "belowStopPrice": "90",
    }
    wrong = pair | {"abovePrice": "80"}
    status, _, body = await call(desk, "POST", "/api/v3/orderList/oco", **wrong)
    assert (status, body["code"]) == (400, -2010)
    status, _, body = await call(desk, "POST", "/api/v3/orderList/oco", **pair)
    assert (status, body["contingencyType"]) == (200, "OCO")
    assert [one["status"] for one in body["orderReports"]] == ["NEW", "NEW"]
    _, _, lists = await call(desk, "GET", "/api/v3/openOrderList")
    assert [one["orderListId"] for one in lists] == [body["orderListId"]]
    _, _, money = await call(desk, "GET", "/api/v3/account")
    [held] = [row for row in money["balances"] if row["asset"] == "BTC"]
    assert (held["free"], held["locked"]) == ("0.00000000", "1.00000000")  # locked once for both
    desk.price("89")
    _, _, orders = await call(desk, "GET", "/api/v3/allOrders", symbol="BTCUSDT")
    assert [one["status"] for one in orders] == ["FILLED", "EXPIRED", "FILLED"]
    _, _, trades = await call(desk, "GET", "/api/v3/myTrades", symbol="BTCUSDT", fromId="2")
    assert [(one["id"], one["orderId"], one["isBuyer"]) for one in trades] == [(2, 3, False)]
