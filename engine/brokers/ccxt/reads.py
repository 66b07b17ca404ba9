"""What is read of an exchange through ccxt; everything here may be asked again."""

from __future__ import annotations

import time
from collections.abc import Callable, Coroutine, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from decimal import Decimal
from time import monotonic_ns
from typing import Any, Protocol, TypeVar

from engine.brokers.ccxt import mapping
from engine.brokers.http import plain
from engine.errors import (
    BrokerAuthError,
    BrokerError,
    BrokerProtocolError,
    BrokerRejected,
    BrokerUnavailable,
    OutcomeUnknown,
)
from engine.model.enums import ExecType, OrderStatus
from engine.model.instrument import Instrument
from engine.model.messages import Balances, BrokerPosition, ExecutionReport
from engine.ports import Capabilities

T = TypeVar("T")

PAUSE_S = 1.0
"""How long an account is quiet after ccxt says that a rate limit was hit; it does not say for how long."""
FIND_BACK_S = 86_400.0


@dataclass(frozen=True, slots=True)
class Terms:
    """What a session goes by. ``quote``: the currency whose total is the account's equity."""

    capabilities: Capabilities
    quote: str
    day_as_gtc: bool
    secrets: tuple[str, ...] = field(repr=False)


class Shared(Protocol):
    """What accounts of one exchange share (``adapter.Place``)."""

    def equip(self, exchange: Any) -> None:
        """Give an instance the shared connections."""
        ...

    async def load_markets(self, exchange: Any) -> None:
        """Give an instance the exchange's markets."""
        ...


class Reader:
    """Asks one account's instance; ccxt's exceptions come out as ours. ``throttled`` is called for each throttle."""

    def __init__(
        self,
        account_id: str,
        exchange: Any,
        shared: Shared,
        terms: Terms,
        throttled: Callable[[], None],
    ) -> None:
        self.account_id = account_id
        self.exchange = exchange
        self.heard_ns = 0
        self.symbols: set[str] = set()  # for exchanges that list open orders only by symbol
        self._shared = shared
        self._terms = terms
        self._throttled = throttled

    def plain(self, text: object) -> str:
        """Return words fit to be shown."""
        return plain(text, self._terms.secrets)

    async def call(self, what: str, call: Coroutine[Any, Any, T]) -> T:
        """Await a call; raises ``BrokerError``."""
        try:
            found = await call
        except Exception as error:  # noqa: BLE001 (ccxt's own, and what its parsers trip over)
            raise self.as_ours(what, error) from None
        self.heard_ns = monotonic_ns()
        return found

    def as_ours(self, what: str, error: Exception) -> BrokerError:
        """Return the error of ours that says what one of ccxt's means."""
        text = self.plain(f"account {self.account_id}: {what}: {type(error).__name__}: {error}")
        if mapping.throttled(error):
            self._throttled()
            return BrokerUnavailable(text, account=self.account_id, retry_after=PAUSE_S)
        if mapping.credentials_refused(error):
            return BrokerAuthError(text, account=self.account_id)
        if mapping.network(error):
            return OutcomeUnknown(text, account=self.account_id)
        if mapping.exchange_said(error):
            return BrokerRejected(text, account=self.account_id)
        return BrokerProtocolError(text, account=self.account_id)

    async def load_markets(self) -> None:
        """Have the markets, an hour old at most."""
        await self.call("loading the markets", self._shared.load_markets(self.exchange))

    async def named(self, told: Mapping[str, Any], cl_ord_id: str) -> ExecutionReport:
        """Return the state of an order we know, under our own id: exchanges may prefix or drop it."""
        report = mapping.order_report(self.account_id, told, ExecType.STATUS)
        report.cl_ord_id = cl_ord_id
        if report.status is OrderStatus.FILLED and not report.avg_px:
            await self._add_trades(report)
        return report

    async def _add_trades(self, report: ExecutionReport) -> None:
        """Complete the state of an order whose exchange does not say what it was filled at."""
        exchange = self.exchange
        if exchange.has.get("fetchMyTrades"):
            trades = await self.call("trades", exchange.fetch_my_trades(report.symbol))
            report.cum_qty, report.avg_px = mapping.totals(self.account_id, trades, report.order_id)

    async def open_at(self, symbols: Iterable[str]) -> list[Mapping[str, Any]]:
        """List open orders: of all symbols where the exchange allows, else of ``symbols``."""
        found: list[Mapping[str, Any]] = []
        for symbol in symbols:
            found += await self.call("open orders", self.exchange.fetch_open_orders(symbol))
        return found

    async def find(
        self, cl_ord_id: str, symbol: str = "", order_id: str = ""
    ) -> ExecutionReport | None:
        """Look an order up by the exchange's id, else among the open and the day's closed orders.

        Raises:
            OutcomeUnknown: it is not among the open ones, and this exchange does not list the closed ones.
        """
        exchange = self.exchange
        if order_id and exchange.has.get("fetchOrder"):
            try:
                told = await exchange.fetch_order(order_id, symbol or None)
            except Exception as error:  # noqa: BLE001 (ccxt's own, and what its parsers trip over)
                if mapping.not_found(error):
                    return None
                raise self.as_ours("order look-up", error) from None
            self.heard_ns = monotonic_ns()
            return await self.named(told, cl_ord_id)
        found = mapping.find_by_client_id(await self.open_at([symbol] if symbol else ()), cl_ord_id)
        if found is None:
            found = mapping.find_by_client_id(await self._recent(symbol), cl_ord_id)
        return None if found is None else await self.named(found, cl_ord_id)

    async def _recent(self, symbol: str) -> list[Mapping[str, Any]]:
        exchange = self.exchange
        since = int((time.time() - FIND_BACK_S) * 1000)
        for name, call in (
            ("fetchClosedOrders", exchange.fetch_closed_orders),
            ("fetchOrders", exchange.fetch_orders),
        ):
            if exchange.has.get(name):
                found: list[Mapping[str, Any]] = await self.call(
                    "closed orders", call(symbol or None, since)
                )
                return found
        raise OutcomeUnknown(
            f"account {self.account_id}: {exchange.id} does not list closed orders",
            account=self.account_id,
        )

    async def open_orders(self) -> list[ExecutionReport]:
        """List working orders; at an exchange that wants a symbol, those of symbols traded here."""
        try:
            told = await self.call("open orders", self.exchange.fetch_open_orders())
        except BrokerRejected:
            told = await self.open_at(sorted(self.symbols))
        return [mapping.order_report(self.account_id, one, ExecType.STATUS) for one in told]

    async def positions(self) -> list[BrokerPosition]:
        """List positions, and on a spot account coins against the quote asset."""
        exchange = self.exchange
        kind = exchange.options.get("defaultType", "spot")
        if kind in {"swap", "future"} and exchange.has.get("fetchPositions"):
            told = await self.call("positions", exchange.fetch_positions())
            found = (mapping.position(self.account_id, one) for one in told)
            return [one for one in found if one is not None]
        told = await self.call("balances", exchange.fetch_balance())
        return mapping.holdings(self.account_id, told, self._terms.quote, exchange.markets or {})

    async def balances(self) -> Balances:
        """Read the account's money."""
        told = await self.call("balances", self.exchange.fetch_balance())
        return mapping.balances(self.account_id, told, self._terms.quote)

    async def instrument(self, symbol: str) -> Instrument | None:
        """Read what a symbol is; ``None``: the exchange has no such symbol."""
        exchange = self.exchange
        await self.load_markets()
        market = exchange.markets.get(symbol)
        if market is None:
            return None
        return mapping.instrument(self.account_id, market, exchange.precisionMode)

    async def quotes(self, symbols: Sequence[str]) -> dict[str, Decimal]:
        """Read the last prices of those of ``symbols`` the exchange has."""
        exchange = self.exchange
        known = [symbol for symbol in symbols if symbol in (exchange.markets or {})]
        if not known:
            return {}
        if exchange.has.get("fetchLastPrices"):
            told = await self.call("prices", exchange.fetch_last_prices(known))
        elif exchange.has.get("fetchTickers"):
            told = await self.call("prices", exchange.fetch_tickers(known))
        else:
            told = {
                symbol: await self.call("prices", exchange.fetch_ticker(symbol)) for symbol in known
            }
        prices = {symbol: mapping.price(told.get(symbol) or {}) for symbol in known}
        return {symbol: price for symbol, price in prices.items() if price is not None}
