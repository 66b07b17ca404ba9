"""What a session at Binance reads: orders and their executions, money, holdings, symbols, prices."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from decimal import Decimal
from time import monotonic_ns
from typing import TYPE_CHECKING, Any

from engine.brokers.binance import mapping, requests, rules
from engine.brokers.binance.memory import Memory
from engine.brokers.binance.signing import make_signer, query_string
from engine.brokers.http import BaseUrl, Reply, plain
from engine.brokers.session import WireSession
from engine.errors import (
    BrokerAuthError,
    BrokerError,
    BrokerProtocolError,
    BrokerRejected,
    BrokerUnavailable,
    ConfigError,
)
from engine.model.account import Account
from engine.model.enums import ExecType, OrderStatus
from engine.model.identifiers import STOP_LEG, TARGET_LEG, exit_leg_id
from engine.model.instrument import Instrument
from engine.model.messages import Balances, BrokerPosition, ExecutionReport
from engine.model.numbers import ZERO
from engine.ports import BrokerSink

if TYPE_CHECKING:
    from engine.brokers.binance.adapter import BinanceAdapter
    from engine.brokers.binance.venue import Venue

RECV_WINDOW_MS = 5000
"""How long a request stays valid; Binance recommends 5000 or less."""
_ASSET = re.compile(r"[A-Z0-9]{1,20}", re.ASCII)
_ACCOUNT_AGE_NS = 1_000_000_000
_TRADES = 1000


class BinanceReads(WireSession):
    """The reading half of a session. Spot holds no positions: they are what the balances say."""

    def __init__(
        self,
        adapter: BinanceAdapter,
        account: Account,
        base: BaseUrl,
        venue: Venue,
        credentials: Mapping[str, str],
        sink: BrokerSink,
    ) -> None:
        key_id, signer, secrets = make_signer(account.id, credentials)
        super().__init__(
            account,
            adapter.capabilities,
            sink,
            adapter.hub,
            base,
            secrets=secrets,
            egress=venue.route,
            order_connections=adapter.order_connections,
            idle_s=adapter.idle_s,
        )
        self._venue = venue
        self._clock = venue.clock
        self._signer = signer
        self.stream_key = key_id
        self._headers = {"X-MBX-APIKEY": key_id}
        self._day_as_gtc = account.options.get("day_as_gtc") == "yes"
        self._quote = account.options.get("quote_asset", "USDT")
        if not _ASSET.fullmatch(self._quote):
            raise ConfigError(
                f"account {account.id}: option quote_asset = {self._quote!r} is no asset, like USDT"
            )
        self._queries = requests.OrderQueries()
        self._tail = (
            f" HTTP/1.1\r\nHost: {base.authority}\r\nUser-Agent: volley\r\n"
            f"X-MBX-APIKEY: {key_id}\r\nContent-Length: 0\r\n\r\n"
        )
        self._memory = Memory()
        self._replacing: dict[str, tuple[str, list[ExecutionReport]]] = {}
        self._holdings: tuple[int, Any] = (0, None)
        self._owner = ""
        self._orders_used: int | None = None
        self._own_limit = (
            False  # the last 429 was about this account's orders, not about the address
        )

    async def find(
        self, cl_ord_id: str, symbol: str = "", order_id: str = ""
    ) -> ExecutionReport | None:
        """Look an order up, its executions and the exits made with it, too; ``None``: the broker has none."""
        symbol = symbol or self._memory.symbol_of(cl_ord_id)
        if not symbol:
            for report in await self.open_orders():
                if report.cl_ord_id == cl_ord_id:
                    return report
            raise BrokerRejected(
                f"account {self.account_id}: Binance finds a closed order by its symbol only",
                account=self.account_id,
            )
        which = {"orderId": order_id} if order_id.isdigit() else {"origClientOrderId": cl_ord_id}
        reply = await self._signed("/api/v3/order", {"symbol": symbol, **which}, 4)
        if reply.status != 200:
            return self._not_found(reply, cl_ord_id, symbol)
        report = self._memory.named(mapping.status_report(self.account_id, reply.body))
        await self._tell_trades(report)
        if isinstance(reply.body, dict) and reply.body.get("orderListId", -1) != -1:
            await self._tell_legs(report)
        return report

    def _not_found(self, reply: Reply, cl_ord_id: str, symbol: str) -> ExecutionReport | None:
        code, words = mapping.code_of(reply.body)
        if code == mapping.NO_SUCH_ORDER:
            return None
        if code == mapping.ORDER_ARCHIVED:  # canceled or expired unfilled more than 90 days ago
            return ExecutionReport(
                self.account_id,
                cl_ord_id,
                ExecType.STATUS,
                OrderStatus.CANCELED,
                text=words,
                symbol=symbol,
            )
        raise self._refused_read("/api/v3/order", reply)

    async def _tell_trades(self, report: ExecutionReport) -> None:
        """Deliver an order's executions: exact ones, before totals would have to be taken for one."""
        if not report.cum_qty:
            return
        params = {"symbol": report.symbol, "orderId": report.order_id, "limit": str(_TRADES)}
        reply = await self._signed("/api/v3/myTrades", params, 5)
        if reply.status != 200:
            raise self._refused_read("/api/v3/myTrades", reply)
        trades = mapping.trade_reports(
            self.account_id, report.cl_ord_id, report.order_id, reply.body
        )
        for trade in trades:
            if self._memory.is_new(trade.exec_id):
                self.deliver(trade)

    async def _tell_legs(self, entry: ExecutionReport) -> None:
        """Deliver the exits made with an entry whose reply was lost."""
        if entry.parent:
            return
        for leg in (STOP_LEG, TARGET_LEG):
            leg_id = exit_leg_id(entry.cl_ord_id, leg)
            params = {"symbol": entry.symbol, "origClientOrderId": leg_id}
            reply = await self._signed("/api/v3/order", params, 4)
            if reply.status == 200:
                report = mapping.status_report(self.account_id, reply.body)
                report.parent, report.leg = entry.cl_ord_id, leg
                await self._tell_trades(report)
                self.deliver(report)

    async def open_orders(self) -> list[ExecutionReport]:
        """List working orders, ours and others'; what filled of them meanwhile is told exactly."""
        reply = await self._signed("/api/v3/openOrders", {}, 80)
        if reply.status != 200 or not isinstance(reply.body, list):
            raise self._refused_read("/api/v3/openOrders", reply)
        reports = [mapping.status_report(self.account_id, one) for one in reply.body]
        self._memory.note_lists(reports, reply.body)
        reports = [self._memory.named(report) for report in reports]
        for report in reports:
            await self._tell_trades(report)
        return reports

    async def positions(self) -> list[BrokerPosition]:
        """List what is held of assets that trade against the account's quote asset; Binance knows no entry price."""
        held, _ = await self._read_account()
        symbols = {
            asset: self._venue.symbol_of(asset, self._quote)
            for asset, (free, locked) in held.items()
            if asset != self._quote and free + locked
        }
        prices = await self._venue.prices(self.account_id, set(symbols.values()))
        return [
            BrokerPosition(symbol, sum(held[asset], ZERO), ZERO)
            for asset, symbol in sorted(symbols.items())
            if symbol in prices
        ]

    async def balances(self) -> Balances:
        """Read the account's money in its quote asset; what does not trade against that counts nothing."""
        held, may_trade = await self._read_account()
        free, locked = held.get(self._quote, (ZERO, ZERO))
        equity = cash = free + locked
        others = [a for a, (free, locked) in held.items() if a != self._quote and free + locked]
        if others:
            symbols = {asset: self._venue.symbol_of(asset, self._quote) for asset in others}
            prices = await self._venue.prices(self.account_id, set(symbols.values()))
            for asset, symbol in symbols.items():
                equity += sum(held[asset], ZERO) * prices.get(symbol, ZERO)
        return Balances(equity, cash, free, self._quote, blocked=not may_trade, owner=self._owner)

    async def _read_account(self) -> tuple[dict[str, tuple[Decimal, Decimal]], bool]:
        """Read the balances, a second old at most and never older than the last news of an order."""
        at, known = self._holdings
        if known is not None and monotonic_ns() - at < _ACCOUNT_AGE_NS:
            return known  # type: ignore[no-any-return]
        mark = self._holdings = (monotonic_ns(), None)
        reply = await self._signed("/api/v3/account", {"omitZeroBalances": "true"}, 20)
        if reply.status != 200:
            raise self._refused_read("/api/v3/account", reply)
        found = rules.holdings(self.account_id, reply.body)
        self._owner = str(reply.body.get("uid") or "")
        if self._holdings is mark:  # nothing happened while it was read
            self._holdings = (mark[0], found)
        return found

    async def instrument(self, symbol: str) -> Instrument | None:
        """Read what a symbol is; ``None``: Binance has no such symbol."""
        return await self._venue.instrument(self.account_id, symbol)

    async def quotes(self, symbols: Sequence[str]) -> dict[str, Decimal]:
        """Read current prices of those of ``symbols`` Binance has, in one call."""
        return await self._venue.prices(self.account_id, set(symbols))

    async def market_open(self, symbol: str) -> bool | None:
        """Say whether a symbol trades; Binance never closes as a whole."""
        return await self._venue.tradable(self.account_id, symbol)

    async def _signed(self, path: str, params: Mapping[str, str], weight: int) -> Reply:
        """Read with the account's signature; a refused clock is set and the read repeated once.

        Raises:
            BrokerError: as ``HttpClient.get``; a refused key is ``BrokerAuthError``.
        """
        reply = await self._signed_once(path, params, weight)
        if mapping.code_of(reply.body)[0] == mapping.CLOCK:
            await self._clock.refresh(self.account_id)
            reply = await self._signed_once(path, params, weight)
        code, words = mapping.code_of(reply.body)
        if mapping.refused_key(code) and reply.status >= 400:
            raise BrokerAuthError(
                f"account {self.account_id}: GET {path}: the broker refuses these credentials: {words}",
                account=self.account_id,
            )
        return reply

    async def _signed_once(self, path: str, params: Mapping[str, str], weight: int) -> Reply:
        await self.read_turn()
        await self._venue.weights.spend(weight)
        signed = {
            **params,
            "recvWindow": str(RECV_WINDOW_MS),
            "timestamp": str(self._clock.now_ms()),
        }
        signed["signature"] = self._signer.sign(query_string(signed))
        try:
            reply = await self._venue.http.get(
                self.account_id, path, headers=self._headers, params=signed
            )
        except BrokerUnavailable as error:
            if error.retry_after is not None:
                self._own_limit = False
                self.pause(error.retry_after)
            raise
        if reply.status == 418:
            self._own_limit = False
            self.pause(reply.retry_after)
            raise BrokerUnavailable(
                f"account {self.account_id}: GET {path}: Binance has banned this address for a while "
                "(HTTP 418)",
                account=self.account_id,
                retry_after=reply.retry_after,
            )
        return reply

    def _refused_read(self, path: str, reply: Reply) -> BrokerError:
        code, words = mapping.code_of(reply.body)
        text = (
            f"account {self.account_id}: GET {path}: HTTP {reply.status} "
            f"{plain(words, self._secrets)} ({code})"
        )
        kind = BrokerRejected if code else BrokerProtocolError
        return kind(text, account=self.account_id)
