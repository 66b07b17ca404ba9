"""Odd cases a review of the brokers' adapters found, each over real sockets or from the first byte on."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from decimal import Decimal
from typing import Any

import orjson
import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

from engine.brokers.alpaca import mapping as alpaca
from engine.brokers.alpaca.adapter import AlpacaAdapter
from engine.brokers.binance.adapter import BinanceAdapter
from engine.brokers.kite import mapping as kite
from engine.brokers.kite.book import DayBook
from engine.cli.accounts import UnreadableError, read_accounts
from engine.config import Config
from engine.errors import BrokerProtocolError
from engine.model.account import Account
from engine.model.enums import ExecType, OrderStatus, OrderType, Side, TimeInForce
from engine.model.identifiers import cl_ord_id, exit_leg_id
from engine.model.order import Order
from engine.ports import BrokerAdapter, BrokerSession
from engine.simbroker.config import SimConfig
from engine.simbroker.server import SimBroker
from tests.contract.conftest import Sink, until

KEY, SECRET = "PKREVIEW000000000001", "canary-secret-of-the-review"
SIZING = {"method": "fixed", "quantity": "1"}


@asynccontextmanager
async def market(dialect: str, symbol: str) -> AsyncIterator[SimBroker]:
    sim = SimBroker(
        SimConfig(dialect=dialect, accounts={KEY: SECRET}, walk=False, follow_percent=Decimal(0))
    )
    await sim.start()
    sim.venue.market.pin(symbol, Decimal(100))
    try:
        yield sim
    finally:
        await sim.stop()


@asynccontextmanager
async def joined(
    adapter: BrokerAdapter, sim: SimBroker, sink: Sink, **start: bool
) -> AsyncIterator[BrokerSession]:
    document = {
        "id": "A-1",
        "broker": adapter.name,
        "sizing": SIZING,
        "base_url": f"http://127.0.0.1:{sim.port}",
    }
    session = adapter.session(
        Account.model_validate(document), {"key_id": KEY, "secret": SECRET}, sink
    )
    if start.get("start", True):
        await session.start()
    try:
        yield session
    finally:
        await session.stop()
        await adapter.close()


def make(sink: Sink, symbol: str, **more: Any) -> Order:
    facts = {"side": Side.BUY, "order_type": OrderType.LIMIT, "time_in_force": TimeInForce.GTC}
    order = Order(
        cl_ord_id=cl_ord_id("book", "review", str(len(sink.orders)), "A-1"),
        account="A-1",
        symbol=symbol,
        order_qty=Decimal(1),
        created_at=datetime.now(UTC),
        **(facts | more),
    )
    sink.orders[order.cl_ord_id] = order
    return order


# Accounts files


def document(broker: str, **credentials: str) -> bytes:
    told = {"id": "A-1", "broker": broker, "sizing": SIZING, "credentials": credentials}
    return orjson.dumps([told])


PEM = (
    Ed25519PrivateKey.generate()
    .private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    .decode()
)


@pytest.mark.parametrize(
    ("broker", "credentials"),
    [
        ("oanda", {"token": "t0ken", "account_id": "101-004-1234567-001"}),
        ("oanda", {"token": "env:OANDA_TOKEN", "account_id": "env:OANDA_ACCOUNT"}),
        ("oanda", {"token": "keyring:oanda", "account_id": "101-004-1234567-001"}),
        ("binance", {"key_id": KEY, "private_key": PEM}),
        ("binance", {"key_id": KEY, "private_key": PEM.replace("\n", "\\n")}),
        ("binance", {"key_id": "env:KEY", "private_key": "keyring:binance"}),
        ("kite", {"key_id": "env:KEY", "secret": "env:SECRET"}),
    ],
)
async def test_accounts_can_be_imported_wherever_their_credentials_are_kept(broker, credentials):
    [account] = await read_accounts(document(broker, **credentials), Config())
    assert account.broker == broker


@pytest.mark.parametrize(
    ("broker", "credentials", "named"),
    [
        ("oanda", {"token": "t0ken", "account_id": "my-oanda"}, "account_id"),
        ("oanda", {"token": "env:OANDA_TOKEN", "account_id": "my-oanda"}, "account_id"),
        ("binance", {"key_id": KEY, "private_key": "no key at all"}, "private_key"),
        ("alpaca", {"key_id": KEY, "secret": "two\r\nlines"}, "secret"),
    ],
)
async def test_values_that_are_there_are_looked_at_when_they_are_imported(
    broker, credentials, named
):
    with pytest.raises(UnreadableError) as refused:
        await read_accounts(document(broker, **credentials), Config())
    assert f"credential {named} must be" in str(refused.value)
    assert credentials[named] not in str(refused.value)


# Alpaca


async def test_after_a_crash_the_exits_of_an_entry_that_still_works_are_known_as_its_own():
    async with market("alpaca", "AAPL") as sim:
        sink = Sink()
        async with joined(AlpacaAdapter(allow_simulated=True), sim, sink) as session:
            levels = {"stop_loss": Decimal(80), "take_profit": Decimal(120)}
            entry = make(sink, "AAPL", limit_price=Decimal(90), **levels)
            alone = make(sink, "AAPL", limit_price=Decimal(91))
            session.submit(entry)
            session.submit(alone)
            await until(lambda: entry.order_id and alone.order_id)
        async with joined(AlpacaAdapter(allow_simulated=True), sim, Sink()) as again:
            listed = {report.cl_ord_id: report for report in await again.open_orders()}
        legs = [exit_leg_id(entry.cl_ord_id, leg) for leg in ("stop", "target")]
        assert set(listed) == {entry.cl_ord_id, alone.cl_ord_id, *legs}
        assert [(listed[leg].parent, listed[leg].leg) for leg in legs] == [
            (entry.cl_ord_id, "stop"),
            (entry.cl_ord_id, "target"),
        ]
        assert not listed[entry.cl_ord_id].parent


@pytest.mark.parametrize("status", [["filled"], {"filled": 1}, 7, None])
def test_a_status_that_is_no_word_leaves_the_outcome_to_a_look_up_or_working(status):
    told = orjson.dumps({"id": "1", "client_order_id": "A", "status": status, "filled_qty": "0"})
    report = alpaca.submit_report("A-1", "A", 200, told)
    assert report.status in {OrderStatus.UNKNOWN, OrderStatus.NEW}


# Binance


class Told(asyncio.Protocol):
    """A Binance that answers every order with one status and one body."""

    def __init__(self, status: str, body: dict[str, Any]) -> None:
        self.answer = status.encode(), orjson.dumps(body)

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = transport

    def data_received(self, data: bytes) -> None:
        status, body = self.answer
        head = b"HTTP/1.1 %s\r\nContent-Length: %d\r\n\r\n" % (status, len(body))
        assert isinstance(self.transport, asyncio.Transport)
        self.transport.write(head + body)


def replaced(code: int, words: str) -> dict[str, Any]:
    """The documented reply to a cancelReplace whose cancel was made and whose new order was not."""
    old = {
        "symbol": "BTCUSDT", "origClientOrderId": "%OLD%", "orderId": 9, "orderListId": -1, "clientOrderId": "c",
        "transactTime": 1684804350068, "price": "90.00", "origQty": "1.0", "executedQty": "0.0",
        "cummulativeQuoteQty": "0.0", "status": "CANCELED", "timeInForce": "GTC", "type": "LIMIT", "side": "BUY",
    }  # fmt: skip
    data = {
        "cancelResult": "SUCCESS",
        "newOrderResult": "FAILURE",
        "cancelResponse": old,
        "newOrderResponse": {"code": code, "msg": words},
    }
    return {"code": -2021, "msg": "Order cancel-replace partially failed.", "data": data}


@pytest.mark.parametrize(
    ("code", "words", "status"),
    [
        (-2010, "Account has insufficient balance for requested action.", OrderStatus.REJECTED),
        (-1015, "Too many new orders.", OrderStatus.REJECTED),
        (-1007, "Timeout waiting for response from backend server.", OrderStatus.UNKNOWN),
        (-1006, "An unexpected response was received from the message bus.", OrderStatus.UNKNOWN),
    ],
)
async def test_a_replacement_the_exchange_lost_sight_of_is_not_rejected(code, words, status):
    sink = Sink()
    order = make(sink, "BTCUSDT", limit_price=Decimal(90))
    new = make(sink, "BTCUSDT", limit_price=Decimal(91))
    order.order_id, order.status = "9", OrderStatus.NEW
    told = replaced(code, words)
    told["data"]["cancelResponse"]["origClientOrderId"] = order.cl_ord_id
    loop = asyncio.get_running_loop()
    server = await loop.create_server(lambda: Told("409 Conflict", told), "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    account = {"id": "A-1", "broker": "binance", "sizing": SIZING}
    account["base_url"] = f"http://127.0.0.1:{port}"
    adapter = BinanceAdapter(allow_simulated=True)
    credentials = {"key_id": KEY, "secret": SECRET}
    session = adapter.session(Account.model_validate(account), credentials, sink)
    try:
        await session.wire.start()
        session.replace(order, new)
        await until(lambda: sink.of(new))
        assert new.status is status, new.text
        assert order.status is OrderStatus.CANCELED
    finally:
        await session.stop()
        await adapter.close()
        server.close()
        await server.wait_closed()


# Kite


def test_two_orders_of_an_account_that_meet_have_executions_of_their_own():
    book = DayBook("A-1")
    sink = Sink()
    buy = make(sink, "NSE:INFY")
    sell = make(sink, "NSE:INFY", side=Side.SELL)
    told = []
    for number, order in enumerate((buy, sell), 1):
        book.sent(order)
        family = book.take(kite.row("A-1", _row(str(number), order)))
        assert family is not None
        trade = kite.Trade("10000000", str(number), Decimal(1), Decimal(1500), None)
        told += family.executions("A-1", [trade])
    assert [report.exec_type for report in told] == [ExecType.TRADE, ExecType.TRADE]
    assert len({report.exec_id for report in told}) == 2


def _row(order_id: str, order: Order) -> dict[str, Any]:
    text = {
        "order_id": order_id, "tag": order.cl_ord_id, "status": "COMPLETE", "exchange": "NSE",
        "tradingsymbol": "INFY", "transaction_type": order.side.value.upper(), "order_type": "LIMIT",
        "validity": "DAY", "quantity": 1, "filled_quantity": 1, "average_price": 1500, "price": 1500,
    }  # fmt: skip
    return dict(json.loads(json.dumps(text)))


@pytest.mark.parametrize(
    ("kind", "words", "proof"),
    [
        (
            "OrderException",
            "Order request timed out. Please check the order book and confirm.",
            False,
        ),
        ("InputException", "Invalid `quantity`.", True),
    ],
)
def test_a_refusal_that_sends_one_to_the_order_book_proves_nothing(kind, words, proof):
    body = orjson.dumps({"status": "error", "message": words, "error_type": kind})
    assert kite.refusal(400, body).proof is proof


def test_an_average_below_zero_is_no_news():
    order = make(Sink(), "NSE:INFY")
    with pytest.raises(BrokerProtocolError):
        kite.row("A-1", _row("1", order) | {"average_price": -1500})
    told = {
        "id": "1", "client_order_id": order.cl_ord_id, "symbol": "AAPL", "status": "filled", "qty": "1",
        "filled_qty": "1", "filled_avg_price": "-3", "side": "buy", "type": "market", "time_in_force": "day",
    }  # fmt: skip
    with pytest.raises(BrokerProtocolError):
        alpaca.status_report("A-1", told)
