"""ccxt's Binance class, over real sockets, against the simulated venue."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import AsyncIterator
from datetime import UTC, datetime
from decimal import Decimal
from time import monotonic_ns
from typing import Any

import pytest

from engine.brokers.ccxt.adapter import CcxtAdapter
from engine.brokers.ccxt.session import CcxtSession
from engine.errors import BrokerRejected, ConfigError, OutcomeUnknown
from engine.model.account import Account
from engine.model.enums import ConnectionState, ExecType, OrderStatus, OrderType, Side, TimeInForce
from engine.model.identifiers import cl_ord_id
from engine.model.messages import ExecutionReport
from engine.model.order import Order
from engine.simbroker.config import SimConfig
from engine.simbroker.server import SimBroker
from tests.contract.conftest import Sink, until

KEYS = {f"key-of-{name}": f"canary-secret-of-{name}" for name in ("A", "B")}
SYMBOL = "BTC/USDT"
PLACE = {"method": "POST", "path": "/api/v3/order"}


class Desk:
    """A venue, the adapter, and a session for each account asked for."""

    def __init__(self) -> None:
        self.sim = SimBroker(
            SimConfig(dialect="binance", accounts=KEYS, walk=False, follow_percent=Decimal(0))
        )
        self.adapter = CcxtAdapter(allow_simulated=True, reply_timeout_s=0.5)
        self.sink = Sink()
        self.sessions: list[CcxtSession] = []
        self.port = 0

    def account(self, name: str = "A", **changes: Any) -> Account:
        document = {
            "id": name,
            "broker": "ccxt",
            "base_url": f"http://127.0.0.1:{self.port}",
            "options": {"exchange": "binance"},
            "sizing": {"method": "signal"},
        }
        return Account.model_validate(document | changes)

    def make(self, name: str = "A", secret: str = "") -> CcxtSession:
        credentials = {"key_id": f"key-of-{name}", "secret": secret or KEYS[f"key-of-{name}"]}
        session = self.adapter.session(self.account(name), credentials, self.sink)
        self.sessions.append(session)
        return session

    async def session(self, name: str = "A") -> CcxtSession:
        session = self.make(name)
        await session.start()
        assert session.state is ConnectionState.CONNECTED, self.sink.connections
        return session

    def order(
        self,
        number: int,
        *,
        limit: str | None = None,
        quantity: str = "1",
        symbol: str = SYMBOL,
        tif: TimeInForce = TimeInForce.GTC,
    ) -> Order:
        order = Order(
            cl_ord_id=cl_ord_id("book", "ccxt", str(number), "A"),
            account="A",
            symbol=symbol,
            side=Side.BUY,
            order_qty=Decimal(quantity),
            order_type=OrderType.MARKET if limit is None else OrderType.LIMIT,
            time_in_force=tif,
            created_at=datetime.now(UTC),
            limit_price=None if limit is None else Decimal(limit),
        )
        self.sink.orders[order.cl_ord_id] = order
        return order

    async def first(self, session: CcxtSession, order: Order) -> ExecutionReport:
        """Submit and return the first news of it."""
        session.submit(order)
        await until(lambda: self.of(order))
        return self.of(order)[0]

    def of(self, order: Order) -> list[ExecutionReport]:
        return [one for one in self.sink.reports if one.cl_ord_id == order.cl_ord_id]

    def fault(self, action: str, times: int = 1, **match: str) -> None:
        self.sim.faults.replace([{"action": action, "match": match or PLACE, "times": times}])

    def asked(self, path: str, method: str = "GET") -> int:
        rows = [row.as_dict() for row in self.sim.log.rows(0)]
        return sum(row["path"] == path and row["method"] == method for row in rows)


@pytest.fixture
async def desk() -> AsyncIterator[Desk]:
    desk = Desk()
    desk.port = await desk.sim.start()
    desk.sim.venue.market.pin("BTCUSDT", Decimal(100))
    yield desk
    for session in desk.sessions:
        await session.stop()
    await desk.adapter.close()
    await desk.sim.stop()


async def test_a_market_order_fills(desk: Desk) -> None:
    session = await desk.session()
    order = desk.order(1)
    before = monotonic_ns()
    await desk.first(session, order)
    assert (order.status, order.cum_qty, order.avg_px) == (OrderStatus.FILLED, 1, 100), order.text
    assert before < order.first_byte_ns <= order.last_byte_ns < order.acked_ns
    assert [(one.symbol, one.qty) for one in await session.positions()] == [(SYMBOL, Decimal(1))]
    assert (await session.balances()).equity == 99_900


async def test_a_resting_order_is_followed_to_its_fill(desk: Desk) -> None:
    session = await desk.session()
    order = desk.order(1, limit="90")
    await desk.first(session, order)
    assert order.status is OrderStatus.NEW
    assert [one.cl_ord_id for one in await session.open_orders()] == [order.cl_ord_id]
    desk.sim.venue.market.pin("BTCUSDT", Decimal(89))
    await until(lambda: order.status is OrderStatus.FILLED)
    assert order.avg_px in {Decimal(89), Decimal(90)}
    assert await session.open_orders() == []


async def test_orders_of_before_a_restart_are_followed(desk: Desk) -> None:
    order = desk.order(1, limit="90")
    earlier = await desk.session()
    await desk.first(earlier, order)
    await earlier.stop()
    session = await desk.session()
    assert len(await session.open_orders()) == 1
    desk.sim.venue.market.pin("BTCUSDT", Decimal(89))
    await until(lambda: order.status is OrderStatus.FILLED)


async def test_a_cancel(desk: Desk) -> None:
    session = await desk.session()
    order = desk.order(1, limit="90")
    await desk.first(session, order)
    session.cancel(order)
    await until(lambda: order.status is OrderStatus.CANCELED)
    session.cancel(order)
    await until(lambda: desk.of(order)[-1].exec_type is ExecType.CANCEL_REJECTED)
    assert order.status is OrderStatus.CANCELED


async def test_a_cancel_without_the_brokers_id_finds_it(desk: Desk) -> None:
    session = await desk.session()
    order = desk.order(1, limit="90")
    desk.fault("accept_then_drop")
    await desk.first(session, order)
    assert (order.status, order.order_id) == (OrderStatus.UNKNOWN, "")
    session.cancel(order)
    await until(lambda: order.status is OrderStatus.CANCELED)


@pytest.mark.parametrize(
    ("action", "placed"),
    [
        ("drop", False),
        ("http_503", False),
        ("http_429", False),
        ("html_200", False),
        ("accept_then_drop", True),
        ("accept_then_hang", True),
        ("accept_then_http_500", True),
        ("accept_then_html_200", True),
        ("reset_mid_reply", True),
        ("truncated_json", True),
        ("garbage", True),
    ],
)
async def test_no_answer_is_never_a_rejection(desk: Desk, action: str, placed: bool) -> None:
    session = await desk.session()
    order = desk.order(1, limit="90")
    desk.fault(action)
    report = await desk.first(session, order)
    assert report.exec_type is ExecType.UNKNOWN, report.text
    assert order.first_byte_ns
    found = await session.find(order.cl_ord_id, SYMBOL)
    assert (found is not None) is placed
    if found is not None:
        assert (found.status, found.cl_ord_id) == (OrderStatus.NEW, order.cl_ord_id)
    assert desk.asked("/api/v3/order", "POST") == 1  # nobody sent it again


async def test_a_throttle_makes_the_account_quiet(desk: Desk) -> None:
    session = await desk.session()
    desk.fault("http_429")
    await desk.first(session, desk.order(1))
    assert not session.ready()
    assert session.headroom().paused_until_ns > monotonic_ns()
    assert desk.sink.limits[0][1]["retry_after_s"] == 1.0
    assert desk.sink.limits[0][1]["address_wide"]
    await until(session.ready)


async def test_refusals(desk: Desk) -> None:
    session = await desk.session()
    small = await desk.first(session, desk.order(4, quantity="0.01"))
    assert (small.status, small.text[:10]) == (OrderStatus.REJECTED, "BadRequest")  # its notional
    dear = await desk.first(session, desk.order(1, quantity="5000"))
    assert (dear.status, dear.text[:17]) == (OrderStatus.REJECTED, "InsufficientFunds")
    unknown = await desk.first(session, desk.order(2, symbol="NO/SUCH"))
    assert (unknown.status, unknown.text[:9]) == (OrderStatus.REJECTED, "not sent:")
    day = await desk.first(session, desk.order(3, limit="90", tif=TimeInForce.DAY))
    assert (day.status, day.text[:9]) == (OrderStatus.REJECTED, "not sent:")
    assert desk.asked("/api/v3/order", "POST") == 2


async def test_a_repeated_id_is_not_taken_for_a_refusal(desk: Desk) -> None:
    session = await desk.session()
    await desk.first(session, desk.order(1, limit="90"))
    again = desk.order(1, limit="90")
    desk.sink.reports.clear()
    assert (await desk.first(session, again)).exec_type is ExecType.UNKNOWN


async def test_nothing_left_is_said_so(desk: Desk) -> None:
    session = await desk.session()
    old = desk.order(1)
    old.send_before_ns = monotonic_ns() - 1
    assert (await desk.first(session, old)).exec_type is ExecType.UNSENT
    assert desk.asked("/api/v3/order", "POST") == 0
    await desk.sim.stop()
    down = desk.order(2)
    report = await desk.first(session, down)
    assert (report.exec_type, down.first_byte_ns) == (ExecType.UNSENT, 0), report.text


async def test_orders_leave_in_turn(desk: Desk) -> None:
    session = await desk.session()
    orders = [desk.order(number, limit="90") for number in range(5)]
    for order in orders:
        session.submit(order)
        assert not session.ready() or order is orders[0]
    await until(lambda: all(order.order_id for order in orders))
    ids = [int(order.order_id) for order in orders]
    assert ids == sorted(ids)


async def test_stopping_says_what_is_not_known(desk: Desk) -> None:
    session = await desk.session()
    desk.fault("accept_then_hang")
    order = desk.order(1)
    session.submit(order)
    await until(lambda: order.first_byte_ns)
    await session.stop()
    assert [one.exec_type for one in desk.of(order)] == [ExecType.UNKNOWN]
    late = desk.order(2)
    assert (await desk.first(session, late)).exec_type is ExecType.UNSENT


async def test_updates_that_cannot_be_read_degrade_and_recover(desk: Desk) -> None:
    session = await desk.session()
    desk.fault("http_503", times=2, path="/api/v3/openOrders")
    await desk.first(session, desk.order(1, limit="90"))
    await until(lambda: session.state is ConnectionState.DEGRADED)
    await until(lambda: session.state is ConnectionState.CONNECTED)


async def test_an_exchange_that_is_down_at_the_start_is_tried_again(desk: Desk) -> None:
    desk.fault("http_503", path="/api/v3/exchangeInfo")
    session = desk.make()
    await session.start()
    assert session.state is ConnectionState.DISCONNECTED
    assert not session.ready()
    await until(lambda: session.state is ConnectionState.CONNECTED)


async def test_wrong_credentials_end_in_an_error_without_the_secret(desk: Desk) -> None:
    session = desk.make(secret="another-canary-secret")
    await session.start()
    assert session.state is ConnectionState.ERROR
    assert not session.ready()
    assert session.headroom().todo
    said = f"{desk.sink.connections} {desk.sink.reports} {session.headroom()} {vars(session)}"
    assert "another-canary-secret" not in said
    order = desk.order(1)
    assert (await desk.first(session, order)).exec_type is ExecType.UNSENT


async def test_accounts_share_markets_and_connections(desk: Desk) -> None:
    first, second = await asyncio.gather(desk.session("A"), desk.session("B"))
    assert desk.asked("/api/v3/exchangeInfo") == 1
    assert await first.instrument(SYMBOL) == await second.instrument(SYMBOL)
    found = await first.instrument(SYMBOL)
    assert found is not None
    assert (found.symbol, found.tradable) == (SYMBOL, True)
    assert await first.instrument("NO/SUCH") is None
    assert desk.asked("/api/v3/exchangeInfo") == 1
    assert await second.quotes([SYMBOL, "NO/SUCH"]) == {SYMBOL: Decimal(100)}


async def test_look_ups(desk: Desk) -> None:
    session = await desk.session()
    order = desk.order(1)
    await desk.first(session, order)
    by_client_id = await session.find(order.cl_ord_id, SYMBOL)
    by_id = await session.find(order.cl_ord_id, SYMBOL, order.order_id)
    assert by_client_id is not None
    assert by_id is not None
    assert by_id.status is by_client_id.status is OrderStatus.FILLED
    assert await session.find("NOSUCHORDERNOSUCHORD", SYMBOL) is None
    assert await session.find("NOSUCHORDERNOSUCHORD", SYMBOL, "424242") is None
    desk.fault("http_503", path="/api/v3/allOrders")
    with pytest.raises(OutcomeUnknown, match="account A"):
        await session.find("NOSUCHORDERNOSUCHORD", SYMBOL)
    with pytest.raises(BrokerRejected):
        await session.find("NOSUCHORDERNOSUCHORD", "NO/SUCH")


async def test_nothing_is_amended(desk: Desk) -> None:
    session = await desk.session()
    order = desk.order(1, limit="90")
    await desk.first(session, order)
    replacement = desk.order(2, limit="91")
    session.replace(order, replacement)
    await until(lambda: desk.of(replacement))
    assert replacement.status is OrderStatus.REJECTED
    assert desk.of(order)[-1].exec_type is ExecType.CANCEL_REJECTED
    assert order.status is OrderStatus.NEW


@pytest.mark.parametrize(
    ("changes", "credentials", "says"),
    [
        ({"options": {}}, {}, "exchange = ''"),
        ({"options": {"exchange": "nosuch"}}, {}, "exchange = 'nosuch'"),
        ({"options": {"exchange": "binance", "colour": "red"}}, {}, "colour"),
        ({"options": {"exchange": "binance", "type": "barter"}}, {}, "barter"),
        ({"options": {"exchange": "binance"}}, {"key_id": "k"}, "secret"),
        ({"options": {"exchange": "okx"}}, {"key_id": "k", "secret": "s"}, "password"),
        ({"options": {"exchange": "hyperliquid"}}, {}, "hyperliquid wants"),
        ({"base_url": "https://api.binance.com"}, {"key_id": "k", "secret": "s"}, "base_url"),
        (
            {"base_url": None, "options": {"exchange": "bitvavo"}},
            {"key_id": "k", "secret": "s"},
            "no sandbox",
        ),
        (
            {"egress": {"proxy": "socks5://127.0.0.1:1080"}},
            {"key_id": "k", "secret": "s"},
            "socks5",
        ),
    ],
    ids=lambda one: str(one)[:50],
)
def test_wrong_settings_are_named(
    changes: dict[str, Any], credentials: dict[str, str], says: str
) -> None:
    desk = Desk()
    desk.port = 9
    with pytest.raises(ConfigError) as caught:
        desk.adapter.session(desk.account(**changes), credentials, desk.sink)
    assert says in str(caught.value)


def test_without_ccxt_it_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "ccxt.async_support", None)
    with pytest.raises(ConfigError, match=r"pip install 'volley\[ccxt\]'"):
        CcxtAdapter()


async def test_sandbox_and_live_addresses_are_ccxts_own(desk: Desk) -> None:
    paper = desk.account(base_url=None)
    live = desk.account(base_url=None, environment="live")
    credentials = {"api_key": "k-1", "api_secret": "s-1"}
    sessions = [desk.adapter.session(account, credentials, desk.sink) for account in (paper, live)]
    urls = [session._exchange.urls["api"]["private"] for session in sessions]
    assert urls == ["https://testnet.binance.vision/api/v3", "https://api.binance.com/api/v3"]
