from __future__ import annotations

import asyncio
import sqlite3
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from pathlib import Path

import pytest

from engine.brokers.paper import PaperAdapter, PaperMarket
from engine.brokers.paper.session import PaperSession
from engine.errors import BrokerUnavailable, ConfigError
from engine.model.account import Account, Sizing
from engine.model.enums import (
    ConnectionState,
    ExecType,
    OrderStatus,
    OrderType,
    Side,
    TimeInForce,
)
from engine.model.messages import ExecutionReport
from engine.model.order import Order
from engine.ports import BrokerAdapter, BrokerSession

TODAY = datetime.now(UTC)


class Desk:
    """Takes reports as the engine does: through the order state machine."""

    def __init__(self) -> None:
        self.reports: list[ExecutionReport] = []
        self.states: list[tuple[ConnectionState, str]] = []
        self.orders: dict[str, Order] = {}
        self._came = asyncio.Event()

    def on_report(self, report: ExecutionReport) -> None:
        self.reports.append(report)
        order = self.orders.get(report.cl_ord_id)
        if order is not None:
            order.apply(report, TODAY)
        self._came.set()

    def on_connection(self, account: str, state: ConnectionState, text: str) -> None:
        self.states.append((state, text))

    def on_limits(self, account: str, **told: object) -> None:
        pass

    def order(
        self,
        cl_ord_id: str = "A1",
        side: Side = Side.BUY,
        qty: str = "10",
        kind: OrderType = OrderType.MARKET,
        tif: TimeInForce = TimeInForce.DAY,
        *,
        limit: str | None = None,
        stop: str | None = None,
        symbol: str = "AAPL",
    ) -> Order:
        made = Order(
            cl_ord_id=cl_ord_id,
            account="P-1",
            symbol=symbol,
            side=side,
            order_qty=Decimal(qty),
            order_type=kind,
            time_in_force=tif,
            created_at=TODAY,
            limit_price=None if limit is None else Decimal(limit),
            stop_price=None if stop is None else Decimal(stop),
        )
        self.orders.setdefault(cl_ord_id, made)
        return made

    async def told(self, count: int) -> list[tuple[str, str]]:
        """Wait for ``count`` reports in all; return them as (client id, exec type)."""
        async with asyncio.timeout(5):
            while len(self.reports) < count:
                self._came.clear()
                await self._came.wait()
        return [(report.cl_ord_id, report.exec_type.value) for report in self.reports]


def account(**more: object) -> Account:
    fields = {"id": "P-1", "broker": "paper", "sizing": Sizing(method="signal")}
    return Account.model_validate(fields | more)


@asynccontextmanager
async def running(
    home: Path | None, market: PaperMarket, desk: Desk, **settings: Decimal
) -> AsyncIterator[PaperSession]:
    adapter = PaperAdapter(market, home, **settings)
    session = adapter.session(account(), {}, desk)
    await session.start()
    try:
        yield session
    finally:
        await session.stop()
        await adapter.close()


@pytest.fixture(params=["memory", "file"])
def home(request: pytest.FixtureRequest, tmp_path: Path) -> Path | None:
    return tmp_path if request.param == "file" else None


@pytest.fixture
def market() -> PaperMarket:
    made = PaperMarket()
    made.set_price("AAPL", Decimal(100))
    return made


async def test_it_is_an_adapter_and_a_session(market: PaperMarket) -> None:
    desk = Desk()
    adapter: BrokerAdapter = PaperAdapter(market)
    session: BrokerSession = adapter.session(account(), {}, desk)
    assert session.capabilities.client_id == "durable"
    assert session.state is ConnectionState.DISCONNECTED
    assert not session.ready()
    for look_up in (session.positions, session.balances, session.open_orders):
        call: Callable[[], Awaitable[object]] = look_up
        with pytest.raises(BrokerUnavailable):
            await call()
    session.submit(desk.order())
    assert await desk.told(1) == [("A1", "unsent")]
    await session.start()
    assert session.ready()
    assert desk.states[-1][0] is ConnectionState.CONNECTED
    await session.stop()
    assert desk.states[-1][0] is ConnectionState.DISCONNECTED
    await adapter.close()


async def test_market_order_is_stamped_told_and_booked(
    home: Path | None, market: PaperMarket
) -> None:
    desk = Desk()
    async with running(home, market, desk) as session:
        order = desk.order()
        session.submit(order)
        assert desk.reports == []  # never from inside submit
        assert await desk.told(2) == [("A1", "new"), ("A1", "trade")]
        assert order.status is OrderStatus.FILLED
        assert order.avg_px == Decimal(100)
        assert 0 < order.first_byte_ns <= order.last_byte_ns <= order.acked_ns
        assert [(p.symbol, p.qty, p.avg_px) for p in await session.positions()] == [
            ("AAPL", Decimal(10), Decimal(100))
        ]
        market.set_price("AAPL", Decimal(105))
        balances = await session.balances()
        assert (balances.cash, balances.equity) == (Decimal(99_000), Decimal(100_050))
        assert await session.quotes(["AAPL", "MSFT"]) == {"AAPL": Decimal(105)}


@pytest.mark.parametrize("tif", TimeInForce)
@pytest.mark.parametrize("kind", OrderType)
async def test_every_type_and_time_in_force(
    market: PaperMarket, kind: OrderType, tif: TimeInForce
) -> None:
    desk = Desk()
    async with running(None, market, desk) as session:
        limit = "95" if kind is OrderType.LIMIT else "105" if kind.needs_limit else None
        stop = "102" if kind.needs_stop else None
        session.submit(desk.order("A1", kind=kind, tif=tif, limit=limit, stop=stop))
        after = "filled" if kind is OrderType.MARKET else "new"
        if kind is OrderType.LIMIT and tif in {TimeInForce.IOC, TimeInForce.FOK}:
            after = "canceled"
        await desk.told(1 if after == "new" else 2)
        assert desk.orders["A1"].status.value == after
        if after == "new":
            assert [r.cl_ord_id for r in await session.open_orders()] == ["A1"]
            market.set_price("AAPL", Decimal(103) if kind.needs_stop else Decimal(94))
            await desk.told(2)
            assert desk.orders["A1"].avg_px == (103 if kind.needs_stop else 95)
            assert await session.open_orders() == []


async def test_market_order_without_a_price(market: PaperMarket) -> None:
    desk = Desk()
    async with running(None, market, desk) as session:
        waits = desk.order("A1", symbol="MSFT")
        session.submit(waits)
        session.submit(desk.order("A2", symbol="MSFT", tif=TimeInForce.IOC))
        assert await desk.told(3) == [("A1", "new"), ("A2", "new"), ("A2", "canceled")]
        assert waits.status is OrderStatus.PENDING_NEW
        market.set_price("MSFT", Decimal(400))
        await desk.told(4)
        assert (waits.status, waits.avg_px) == (OrderStatus.FILLED, Decimal(400))


async def test_partial_fills(home: Path | None, market: PaperMarket) -> None:
    desk = Desk()
    async with running(home, market, desk, max_fill_qty=Decimal(4)) as session:
        order = desk.order()
        session.submit(order)
        await desk.told(2)
        assert order.status is OrderStatus.PARTIALLY_FILLED
        market.set_price("AAPL", Decimal(101))
        market.set_price("AAPL", Decimal(102))
        await desk.told(4)
        assert order.status is OrderStatus.FILLED
        assert order.cash == 4 * 100 + 4 * 101 + 2 * 102
        assert len(order.exec_ids) == 3


async def test_cancel(market: PaperMarket) -> None:
    desk = Desk()
    async with running(None, market, desk) as session:
        order = desk.order(kind=OrderType.LIMIT, limit="90")
        session.submit(order)
        session.cancel(order)
        session.cancel(order)
        session.cancel(desk.order("A9"))
        assert await desk.told(4) == [
            ("A1", "new"),
            ("A1", "canceled"),
            ("A1", "cancel_rejected"),
            ("A9", "cancel_rejected"),
        ]
        assert order.status is OrderStatus.CANCELED
        market.set_price("AAPL", Decimal(80))
        assert await session.positions() == []


async def test_replace(market: PaperMarket) -> None:
    desk = Desk()
    async with running(None, market, desk) as session:
        old = desk.order("A1", kind=OrderType.LIMIT, limit="90")
        new = desk.order("A2", kind=OrderType.LIMIT, limit="99", qty="7")
        session.submit(old)
        session.replace(old, new)
        assert await desk.told(3) == [("A1", "new"), ("A1", "replaced"), ("A2", "new")]
        assert desk.reports[2].replaces == old.order_id
        session.replace(old, desk.order("A3", kind=OrderType.LIMIT, limit="98"))
        assert (await desk.told(5))[3:] == [("A1", "cancel_rejected"), ("A3", "rejected")]
        market.set_price("AAPL", Decimal(95))
        await desk.told(6)
        assert [p.qty for p in await session.positions()] == [Decimal(7)]


@pytest.mark.parametrize(
    ("order", "text"),
    [
        ({"qty": "1.5"}, "no multiple"),
        ({"qty": "100000"}, "buying power"),
        ({"kind": OrderType.LIMIT}, "limit price"),
    ],
)
async def test_refusals(market: PaperMarket, order: dict[str, str], text: str) -> None:
    desk = Desk()
    async with running(None, market, desk) as session:
        session.submit(desk.order(**order))
        assert await desk.told(1) == [("A1", "rejected")]
        assert text in desk.orders["A1"].text
        assert await session.find("A1") is None


async def test_too_late_is_not_sent(market: PaperMarket) -> None:
    desk = Desk()
    async with running(None, market, desk) as session:
        order = desk.order()
        order.send_before_ns = 1
        session.submit(order)
        assert await desk.told(1) == [("A1", "unsent")]
        assert not order.was_sent


async def test_duplicates_are_refused_for_ever(home: Path | None, market: PaperMarket) -> None:
    desk = Desk()
    adapter = PaperAdapter(market, home)
    for round_number in range(3):
        session = adapter.session(account(), {}, desk)
        await session.start()
        session.submit(desk.order())
        await desk.told(2 + round_number)
        await session.stop()
    await adapter.close()
    last = desk.reports[2:]
    assert [(r.exec_type, r.text) for r in last] == [
        (ExecType.UNKNOWN, "client_order_id must be unique")
    ] * 2
    assert desk.orders["A1"].cum_qty == Decimal(10)


async def test_restart_tells_the_truth(tmp_path: Path, market: PaperMarket) -> None:
    desk = Desk()
    async with running(tmp_path, market, desk, max_fill_qty=Decimal(4)) as session:
        session.submit(desk.order("A1", qty="4"))
        session.submit(desk.order("A2", qty="6", tif=TimeInForce.GTC))
        session.submit(desk.order("A3", Side.SELL, kind=OrderType.STOP, stop="90", qty="4"))
        await desk.told(5)
        before = await session.balances()

    later, desk = PaperMarket(), Desk()
    async with running(tmp_path, later, desk) as session:
        assert (await session.balances()).cash == before.cash
        assert [(p.qty, p.avg_px) for p in await session.positions()] == [
            (Decimal(8), Decimal(100))
        ]
        filled = await session.find("A1")
        assert filled is not None
        assert (filled.status, filled.cum_qty) == (OrderStatus.FILLED, Decimal(4))
        assert {r.cl_ord_id: r.cum_qty for r in await session.open_orders()} == {
            "A2": Decimal(4),
            "A3": Decimal(0),
        }
        assert await session.find("A9") is None
        later.set_price("AAPL", Decimal(101))
        later.set_price("AAPL", Decimal(89))
        assert await desk.told(2) == [("A2", "trade"), ("A3", "trade")]
        assert [r.exec_id for r in desk.reports] == ["paper-A2-2", "paper-A3-1"]
        assert [r.last_px for r in desk.reports] == [Decimal(101), Decimal(89)]


async def test_nothing_is_told_before_it_is_safe(tmp_path: Path, market: PaperMarket) -> None:
    """What a kill in the moment of the first report would leave on disk."""
    desk = Desk()
    seen: list[int] = []

    class Witness(Desk):
        def on_report(self, report: ExecutionReport) -> None:
            with sqlite3.connect(f"file:{tmp_path}/paper.sqlite3?mode=ro", uri=True) as other:
                seen.extend(n for (n,) in other.execute("SELECT count(*) FROM facts"))
            other.close()
            super().on_report(report)

    desk = Witness()
    async with running(tmp_path, market, desk) as session:
        session.submit(desk.order())
        await desk.told(2)
    assert seen == [3, 3]  # the order, the position, the money


async def test_day_orders_of_yesterday_expire_at_start(tmp_path: Path, market: PaperMarket) -> None:
    desk = Desk()
    async with running(tmp_path, market, desk) as session:
        for cl_ord_id, tif in (("A1", TimeInForce.DAY), ("A2", TimeInForce.GTC)):
            session.submit(desk.order(cl_ord_id, kind=OrderType.LIMIT, limit="90", tif=tif))
        await desk.told(2)
        for order in session._orders.values():
            order.placed_on -= timedelta(days=1)
            session._note("order", order.key, order.document())
        session._commit()
    desk = Desk()
    async with running(tmp_path, market, desk) as session:
        assert await desk.told(1) == [("A1", "expired")]
        assert [r.cl_ord_id for r in await session.open_orders()] == ["A2"]


async def test_accounts_share_the_market_and_nothing_else(
    tmp_path: Path, market: PaperMarket
) -> None:
    adapter = PaperAdapter(market, tmp_path)
    desks = [Desk() for _ in range(50)]
    sessions = []
    for number, desk in enumerate(desks):
        sessions.append(adapter.session(account(id=f"P-{number}"), {"cash": "5000"}, desk))
        await sessions[-1].start()
    for session, desk in zip(sessions, desks, strict=True):
        session.submit(desk.order(kind=OrderType.LIMIT, limit="90"))
    market.set_price("AAPL", Decimal(89))
    for session, desk in zip(sessions, desks, strict=True):
        await desk.told(2)
        assert (await session.balances()).cash == Decimal(4100)
        await session.stop()
    await adapter.close()


async def test_a_broken_ledger_is_an_error_and_no_order_leaves(
    tmp_path: Path, market: PaperMarket
) -> None:
    (tmp_path / "paper.sqlite3").write_bytes(b"no database, but long enough to look at " * 40)
    desk = Desk()
    async with running(tmp_path, market, desk) as session:
        assert desk.states[-1][0] is ConnectionState.ERROR
        session.submit(desk.order())
        assert await desk.told(1) == [("A1", "unsent")]


@pytest.mark.parametrize(
    ("fields", "credentials"),
    [({"base_url": "http://127.0.0.1:1"}, {}), ({}, {"cash": "1e5"})],
)
def test_bad_accounts(
    market: PaperMarket, fields: dict[str, str], credentials: dict[str, str]
) -> None:
    with pytest.raises(ConfigError, match="P-1"):
        PaperAdapter(market).session(account(**fields), credentials, Desk())
