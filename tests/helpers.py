"""What unit tests build on: small builders, a clock moved by hand, a broker session that follows a script."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable, Iterable, Sequence
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any

from engine.clock import rfc3339
from engine.config import Config
from engine.home import Home
from engine.model.account import Account
from engine.model.account_state import AccountState
from engine.model.enums import (
    Action,
    ConnectionState,
    ExecType,
    OrderStatus,
    OrderType,
    Side,
    TimeInForce,
)
from engine.model.instrument import Instrument
from engine.model.messages import Balances, BrokerPosition, ExecutionReport
from engine.model.order import Order
from engine.model.signal import Audience, Signal
from engine.ports import Capabilities, Headroom
from engine.stores.accounts_sqlite import SqliteAccountStore
from engine.trading_engine import TradingEngine
from engine.wiring import build_engine

MONDAY = datetime(2026, 11, 23, 15, 0, tzinfo=UTC)
"""10:00 in New York, on a trading day."""

PATIENCE_S = 5.0


class HandClock:
    """A clock that stands still until a test moves it."""

    def __init__(self, now: datetime = MONDAY, monotonic_ns: int = 1_000_000_000_000) -> None:
        self._now = now
        self._monotonic_ns = monotonic_ns

    def now(self) -> datetime:
        return self._now

    def monotonic_ns(self) -> int:
        return self._monotonic_ns

    def advance(self, seconds: float) -> None:
        """Move both clocks on."""
        self._now += timedelta(seconds=seconds)
        self._monotonic_ns += round(seconds * 1e9)

    def advance_ns(self, nanoseconds: int) -> None:
        """Move the monotonic clock on by exactly this."""
        self._monotonic_ns += nanoseconds


async def eventually(fact: Callable[[], object], within_s: float = PATIENCE_S) -> None:
    """Return as soon as ``fact`` is true; fail when it does not come true in time."""
    deadline = time.monotonic() + within_s
    while not fact():
        if time.monotonic() > deadline:
            raise AssertionError(f"not true within {within_s:g} s")
        await asyncio.sleep(0.002)


# ---- the model ---------------------------------------------------------------------------------------------------


def make_account(account_id: str = "A-1", **fields: Any) -> Account:
    """Return a paper account of fixed size 10 that follows everything; ``fields`` of the document change it."""
    document: dict[str, Any] = {
        "id": account_id,
        "broker": "paper",
        "sizing": {"method": "fixed", "quantity": "10"},
    }
    return Account.model_validate(document | fields)


def make_state(
    account: Account | None = None, *, equity: str | None = "10000", **fields: Any
) -> AccountState:
    """Return a connected account's state."""
    state = AccountState(account or make_account(**fields))
    state.connect(ConnectionState.CONNECTED, "", MONDAY)
    state.reconciled = True
    if equity is not None:
        money = Decimal(equity)
        state.balances = Balances(equity=money, cash=money, buying_power=money)
    return state


_SIGNAL_NUMBERS = (
    "limit_price", "stop_price", "stop_loss", "take_profit", "trail_percent", "quantity", "valid_for_s",
    "reference_price",
)  # fmt: skip


def make_signal(
    signal_id: str = "s-1",
    action: str = "buy",
    *,
    accounts: Iterable[str] | None = None,
    tags: Iterable[str] | None = None,
    **fields: Any,
) -> Signal:
    """Return a signal; numbers may be given as text."""
    for name in _SIGNAL_NUMBERS:
        if isinstance(fields.get(name), str):
            fields[name] = Decimal(fields[name])
    if accounts is not None or tags is not None:
        fields["audience"] = Audience(
            None if accounts is None else frozenset(accounts),
            None if tags is None else frozenset(tags),
        )
    defaults: dict[str, Any] = {
        "id": signal_id,
        "source": "bot",
        "strategy": "breakout",
        "symbol": "AAPL",
        "action": Action(action),
        "issued_at": MONDAY,
    }
    return Signal(**(defaults | fields))


def make_order(
    cl_ord_id: str = "O-1", side: str = "buy", quantity: str = "10", **fields: Any
) -> Order:
    """Return an order of account ``A-1`` that has not left."""
    defaults: dict[str, Any] = {
        "account": "A-1",
        "symbol": "AAPL",
        "order_type": OrderType.MARKET,
        "time_in_force": TimeInForce.DAY,
        "created_at": MONDAY,
    }
    return Order(
        cl_ord_id=cl_ord_id, side=Side(side), order_qty=Decimal(quantity), **(defaults | fields)
    )


def make_report(
    order: Order, exec_type: ExecType, status: OrderStatus | None = None, **fields: Any
) -> ExecutionReport:
    """Return a report about ``order``."""
    return ExecutionReport(order.account, order.cl_ord_id, exec_type, status, **fields)


def make_trade(order: Order, exec_id: str, quantity: str, price: str = "100") -> ExecutionReport:
    """Return a report of one execution."""
    return make_report(
        order, ExecType.TRADE, exec_id=exec_id, last_qty=Decimal(quantity), last_px=Decimal(price)
    )


# ---- a broker by script ------------------------------------------------------------------------------------------

CAPABILITIES = Capabilities(
    client_id="durable",
    settle_s=0.0,
    order_types=frozenset(OrderType),
    time_in_force=frozenset(TimeInForce),
    max_orders_per_second=1000.0,
    burst=1000,
)


class ScriptedSession:
    """A broker session without sockets: notes what it was asked, answers what the test has put in.

    ``on_submit`` is called with every order sent. ``answers`` are those of ``find``, in turn: a report, ``None``
    (the broker has none) or an error to raise; the last one stays. ``listed`` is what ``open_orders`` tells.
    """

    def __init__(self, account_id: str = "A-1", capabilities: Capabilities = CAPABILITIES) -> None:
        self.account_id = account_id
        self.capabilities = capabilities
        self.state = ConnectionState.CONNECTED
        self.is_ready = True
        self.room = Headroom()
        self.submitted: list[Order] = []
        self.canceled: list[Order] = []
        self.replaced: list[tuple[Order, Order]] = []
        self.looked_up: list[str] = []
        self.asked_quotes: list[list[str]] = []
        self.asked_instruments: list[str] = []
        self.on_submit: Callable[[Order], None] = lambda _order: None
        self.answers: list[ExecutionReport | Exception | None] = [None]
        self.listed: list[ExecutionReport] = []
        self.prices: dict[str, Decimal] | Exception = {}
        self.instruments: dict[str, Instrument] | Exception = {}
        self.hold = asyncio.Event()  # cleared: look-ups, quotes and instruments wait
        self.hold.set()

    async def start(self) -> None:
        self.state = ConnectionState.CONNECTED

    async def stop(self) -> None:
        self.state = ConnectionState.DISCONNECTED

    def ready(self) -> bool:
        return self.is_ready

    def headroom(self) -> Headroom:
        return self.room

    def submit(self, order: Order) -> None:
        self.submitted.append(order)
        self.on_submit(order)

    def cancel(self, order: Order) -> None:
        self.canceled.append(order)

    def replace(self, order: Order, replacement: Order) -> None:
        self.replaced.append((order, replacement))

    def refusal(self, order_type: OrderType, time_in_force: TimeInForce) -> str:
        return self.capabilities.refusal(order_type, time_in_force)

    def works_exits(self, order: Order) -> bool:
        return self.capabilities.native_exits and bool(order.levels)

    async def find(
        self, cl_ord_id: str, symbol: str = "", order_id: str = ""
    ) -> ExecutionReport | None:
        del symbol, order_id
        self.looked_up.append(cl_ord_id)
        await self.hold.wait()
        answer = self.answers.pop(0) if len(self.answers) > 1 else self.answers[0]
        if isinstance(answer, Exception):
            raise answer
        return answer

    async def open_orders(self) -> list[ExecutionReport]:
        return list(self.listed)

    async def positions(self) -> list[BrokerPosition]:
        return []

    async def balances(self) -> Balances:
        return Balances(Decimal(10_000), Decimal(10_000), Decimal(10_000))

    async def instrument(self, symbol: str) -> Instrument | None:
        self.asked_instruments.append(symbol)
        await self.hold.wait()
        if isinstance(self.instruments, Exception):
            raise self.instruments
        return self.instruments.get(symbol)

    async def quotes(self, symbols: Sequence[str]) -> dict[str, Decimal]:
        self.asked_quotes.append(list(symbols))
        await self.hold.wait()
        if isinstance(self.prices, Exception):
            raise self.prices
        return {symbol: self.prices[symbol] for symbol in symbols if symbol in self.prices}


# ---- a whole engine ----------------------------------------------------------------------------------------------

PRICES = {"AAPL": Decimal(100), "MSFT": Decimal(200)}


@asynccontextmanager
async def make_engine(
    home: Path, *accounts: Account, **sections: dict[str, Any]
) -> AsyncIterator[TradingEngine]:
    """Run an engine of real parts on ``home``: paper accounts, all connected, armed, with fresh ``PRICES``.

    ``accounts`` are added to the home's; ``sections`` change the configuration, like ``limits={...}``.
    """
    tree: dict[str, Any] = {"engine": {"trading": "active"}, "market": {"source": "none"}}
    for name, values in sections.items():
        tree[name] = tree.get(name, {}) | values
    place = Home(home)
    store = SqliteAccountStore(place.path / "accounts.sqlite3")
    await store.open()
    await store.put(accounts)
    await store.close()
    engine = await build_engine(place, Config.model_validate(tree))
    try:
        engine.set_prices(PRICES)
        await engine.start()
        await eventually(lambda: all(state.usable for state in engine.fleet.states.values()))
        await eventually(lambda: all(state.balances for state in engine.fleet.states.values()))
        yield engine
    finally:
        await engine.stop()


def signal_body(signal_id: str = "s-1", action: str = "buy", **fields: Any) -> dict[str, Any]:
    """Return a signal of schema v1, issued now."""
    document = {
        "id": signal_id,
        "source": "bot",
        "strategy": "breakout",
        "symbol": "AAPL",
        "action": action,
        "issued_at": rfc3339(datetime.now(UTC)),
    }
    return document | fields
