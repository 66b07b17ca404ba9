"""One rig per adapter: a session that trades, its venue's price in the test's hand."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from datetime import UTC, datetime
from decimal import Decimal
from typing import Any

import pytest

from engine.brokers.paper import PaperAdapter, PaperMarket
from engine.model.account import Account
from engine.model.enums import ConnectionState, ExecType, OrderType, Side, TimeInForce
from engine.model.identifiers import cl_ord_id
from engine.model.messages import ExecutionReport
from engine.model.order import Order
from engine.ports import BrokerAdapter, BrokerSession
from engine.simbroker.config import SimConfig
from engine.simbroker.server import SimBroker
from tests.contract.kinds import KINDS, WIRED, Kind

SIZING = {"method": "fixed", "quantity": "1"}


async def until(fact: Callable[[], object], seconds: float = 5.0) -> None:
    end = time.monotonic() + seconds
    while not fact():
        assert time.monotonic() < end, "never became true"
        await asyncio.sleep(0.002)


class Sink:
    """Keeps what a session delivers, and applies it to the orders it knows as the engine would."""

    def __init__(self) -> None:
        self.orders: dict[str, Order] = {}
        self.reports: list[ExecutionReport] = []
        self.connections: list[tuple[ConnectionState, str]] = []
        self.limits: list[tuple[str, dict[str, object]]] = []

    def on_report(self, report: ExecutionReport) -> None:
        self.reports.append(report)
        order = self.orders.get(report.cl_ord_id)
        if order is not None:
            order.apply(report, datetime.now(UTC))

    def on_connection(self, account: str, state: ConnectionState, text: str) -> None:
        self.connections.append((state, text))

    def on_ready(self, account: str) -> None:
        pass

    def on_limits(self, account: str, **told: object) -> None:
        self.limits.append((account, told))

    def of(self, order: Order | str, *kinds: ExecType) -> list[ExecutionReport]:
        cl_ord_id = order if isinstance(order, str) else order.cl_ord_id
        return [
            report
            for report in self.reports
            if report.cl_ord_id == cl_ord_id and (not kinds or report.exec_type in kinds)
        ]


class Rig:
    """A session, its sink, and the venue's price."""

    def __init__(self, kind: Kind) -> None:
        self.kind = kind
        self.sink = Sink()
        self.adapter: BrokerAdapter
        self.session: BrokerSession
        self.sim: SimBroker | None = None
        self.market: PaperMarket | None = None
        self.made = 0

    def price(self, price: str, symbol: str = "") -> None:
        symbol = symbol or self.kind.symbol
        if self.sim is not None:
            self.sim.venue.market.pin(symbol, Decimal(price))
        else:
            assert self.market is not None
            self.market.set_price(symbol, Decimal(price))

    def order(
        self,
        side: Side = Side.BUY,
        quantity: str = "10",
        order_type: OrderType = OrderType.MARKET,
        tif: TimeInForce | None = None,
        *,
        limit: str | None = None,
        stop: str | None = None,
        symbol: str = "",
    ) -> Order:
        self.made += 1
        order = Order(
            cl_ord_id=cl_ord_id("book", "contract", f"s-{self.made}", "A-1"),
            account="A-1",
            symbol=symbol or self.kind.symbol,
            side=side,
            order_qty=Decimal(quantity),
            order_type=order_type,
            time_in_force=tif or self.kind.rest,
            created_at=datetime.now(UTC),
            limit_price=None if limit is None else Decimal(limit),
            stop_price=None if stop is None else Decimal(stop),
        )
        self.sink.orders[order.cl_ord_id] = order
        return order

    async def submit(self, order: Order) -> Order:
        """Submit and wait for the first news of it."""
        self.session.submit(order)
        await until(lambda: self.sink.of(order))
        return order

    async def becomes(self, order: Order, status: str) -> None:
        try:
            await until(lambda: order.status == status)
        except AssertionError:
            raise AssertionError(f"{order.status}, not {status}: {self.sink.of(order)}") from None


MakeRig = Callable[..., Awaitable[Rig]]


@pytest.fixture
async def make_rig() -> AsyncIterator[MakeRig]:
    rigs: list[Rig] = []

    async def make(
        kind: Kind, *, max_fill: str | None = None, start: bool = True, **options: Any
    ) -> Rig:
        rig = Rig(kind)
        rigs.append(rig)
        account = {"id": "A-1", "broker": kind.name, "sizing": SIZING, **kind.account}
        most = None if max_fill is None else Decimal(max_fill)
        if kind.adapter is None:
            rig.market = PaperMarket()
            rig.adapter = PaperAdapter(rig.market, max_fill_qty=most)
        else:
            rig.sim = SimBroker(
                SimConfig(
                    dialect=kind.name,
                    accounts={kind.key: kind.secret},
                    walk=False,
                    follow_percent=Decimal(0),
                    max_fill_qty=most,
                    unknown_symbols="NO.*",
                )
            )
            account["base_url"] = f"http://127.0.0.1:{await rig.sim.start()}"
            rig.adapter = kind.adapter(**options)
        rig.price("100")
        rig.session = rig.adapter.session(
            Account.model_validate(account), dict(kind.credentials), rig.sink
        )
        if start:
            await rig.session.start()
            assert rig.session.state is ConnectionState.CONNECTED, rig.sink.connections
        return rig

    yield make
    for rig in rigs:
        await rig.session.stop()
        await rig.adapter.close()
        if rig.sim is not None:
            await rig.sim.stop()


@pytest.fixture(params=KINDS, ids=str)
async def rig(request: pytest.FixtureRequest, make_rig: MakeRig) -> Rig:
    return await make_rig(request.param)


@pytest.fixture(params=KINDS, ids=str)
async def thin_rig(request: pytest.FixtureRequest, make_rig: MakeRig) -> Rig:
    """A venue that fills at most 4 units of an order at each price."""
    return await make_rig(request.param, max_fill="4")


@pytest.fixture(params=WIRED, ids=str)
async def wired(request: pytest.FixtureRequest, make_rig: MakeRig) -> Rig:
    """A broker over real sockets."""
    return await make_rig(request.param, reply_timeout_s=0.3)
