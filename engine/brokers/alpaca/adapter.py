"""Alpaca as a broker: sessions that send over the wire and read over connections apart."""

from __future__ import annotations

import asyncio
import ssl
import time
from collections.abc import Callable, Mapping, Sequence
from decimal import Decimal
from typing import Any
from urllib.parse import quote

from engine.brokers.alpaca import mapping
from engine.brokers.alpaca.stream import OrderStream
from engine.brokers.credentials import check_options, credential
from engine.brokers.dial import Route
from engine.brokers.http import (
    BaseUrl,
    HttpClient,
    Reply,
    base_for,
    check_base_url,
    plain,
    tls_context,
)
from engine.brokers.order_exchanges import CancelVerdict
from engine.brokers.reading import object_of, read_object, reading, text_of
from engine.brokers.session import WireSession
from engine.brokers.wire import WireHub
from engine.errors import BrokerAuthError, BrokerProtocolError, BrokerRejected
from engine.model.account import Account
from engine.model.enums import ExecType, OrderType, TimeInForce
from engine.model.instrument import Instrument
from engine.model.messages import Balances, BrokerPosition, ExecutionReport
from engine.model.order import Order
from engine.ports import BrokerSink, Capabilities

CAPABILITIES = Capabilities(
    client_id="durable",
    settle_s=2.0,
    order_types=frozenset(OrderType),
    time_in_force=frozenset(TimeInForce),
    max_orders_per_second=200 / 60,
    burst=200,
    counts_reads=True,
    native_exits=True,
    cash="trades",
)
_HOSTS = {"live": mapping.LIVE_HOST, "paper": mapping.PAPER_HOST}
_PAGE = 500
_QUOTE_AGE_S = 0.5
_INSTRUMENT_AGE_S = 6 * 3600.0  # terms change overnight
_ABSENT_AGE_S = 60.0  # how long "no such symbol" is believed


class AlpacaAdapter:
    """Makes Alpaca sessions; shares one wire hub and, per address, look-ups and caches."""

    name = "alpaca"
    capabilities = CAPABILITIES

    def __init__(
        self,
        *,
        allow_simulated: bool = False,
        order_connections: int = 1,
        reply_timeout_s: float = 10.0,
        idle_s: float = 60.0,
        tls: Callable[[], ssl.SSLContext] = tls_context,
    ) -> None:
        self.order_connections = order_connections
        self.idle_s = idle_s
        self.hub = WireHub(reply_timeout_s=reply_timeout_s, tls=tls)
        self.bodies = mapping.OrderBodies()
        self._allow_simulated = allow_simulated
        self._venues: dict[tuple[str, Route | None], Venue] = {}

    def session(
        self, account: Account, credentials: dict[str, str], sink: BrokerSink
    ) -> AlpacaSession:
        """Make one account's session.

        Raises:
            ConfigError: a credential is missing or ``base_url`` is not allowed.
        """
        check_options(account, {})
        base = base_for(account, _HOSTS, allow_simulated=self._allow_simulated)
        route = Route.of(account.id, account.egress, credentials)
        return AlpacaSession(self, account, base, route, credentials, sink)

    def venue(self, base: BaseUrl, route: Route | None) -> Venue:
        """Return what accounts at one address, by one way out, share."""
        venue = self._venues.get((base.url, route))
        if venue is None:
            venue = self._venues[base.url, route] = Venue(base, route, self.hub)
        return venue

    async def close(self) -> None:
        """Close the shared connections."""
        venues = list(self._venues.values())
        self._venues.clear()
        for venue in venues:
            await venue.close()


class Venue:
    """What the accounts at one address share: connections for look-ups, instruments, prices."""

    def __init__(self, base: BaseUrl, route: Route | None, hub: WireHub) -> None:
        context = hub.context() if base.tls else None
        self.http = HttpClient(base, context=context, egress=route)
        self.simulated = base.simulated
        if base.simulated:
            self.data = self.http
        else:
            data = check_base_url(
                "", f"https://{mapping.DATA_HOST}", {mapping.DATA_HOST}, allow_simulated=False
            )
            self.data = HttpClient(data, context=context, egress=route)
        self.instruments: dict[str, tuple[float, Instrument]] = {}  # with when each was read
        self.absent: dict[str, float] = {}
        self.locks: dict[str, asyncio.Lock] = {}
        self.quotes: dict[str, tuple[float, Decimal]] = {}

    async def close(self) -> None:
        """Close the connections."""
        await self.http.close()
        if self.data is not self.http:
            await self.data.close()


class AlpacaSession(WireSession):
    """One account at Alpaca."""

    def __init__(
        self,
        adapter: AlpacaAdapter,
        account: Account,
        base: BaseUrl,
        route: Route | None,
        credentials: Mapping[str, str],
        sink: BrokerSink,
    ) -> None:
        key_id = credential(account.id, credentials, "key_id", "api_key")
        secret = credential(account.id, credentials, "secret", "api_secret")
        super().__init__(
            account,
            CAPABILITIES,
            sink,
            adapter.hub,
            base,
            secrets=(secret, key_id),
            order_connections=adapter.order_connections,
            idle_s=adapter.idle_s,
            egress=route,
        )
        self._route = route
        self._adapter = adapter
        self._bodies = adapter.bodies
        self._headers = {"APCA-API-KEY-ID": key_id, "APCA-API-SECRET-KEY": secret}
        self._tail = (
            f" HTTP/1.1\r\nHost: {base.authority}\r\nUser-Agent: volley\r\n"
            f"APCA-API-KEY-ID: {key_id}\r\nAPCA-API-SECRET-KEY: {secret}\r\n"
        )
        self._head = (
            f"POST /v2/orders{self._tail}Content-Type: application/json\r\nContent-Length: "
        )
        self.wire.probe = f"GET /v2/clock{self._tail}\r\n".encode("ascii")
        self._stream = OrderStream(
            base.websocket + "/stream",
            account.id,
            key_id,
            secret,
            context=adapter.hub.context if base.tls else None,
            egress=route,
            on_report=self.streamed,
            on_state=self.stream_changed,
            on_refused=self.refuse_credentials,
        )

    async def follow(self) -> None:
        """Follow ``trade_updates``."""
        await self._stream.run()

    # Orders

    def new_order_request(self, order: Order) -> bytes:
        """Write ``POST /v2/orders``."""
        body = self._bodies.write(order)
        return f"{self._head}{len(body)}\r\n\r\n{body}".encode("ascii")

    def cancel_request(self, order: Order) -> bytes | None:
        """Write ``DELETE /v2/orders/{id}``."""
        if not order.order_id:
            return None
        return f"DELETE {mapping.order_path(order.order_id)}{self._tail}\r\n".encode("ascii")

    def cancel_all_request(self) -> bytes | None:
        """Write ``DELETE /v2/orders``."""
        return f"DELETE /v2/orders{self._tail}\r\n".encode("ascii")

    def judge_cancel_all(self, status: int, body: bytes) -> Sequence[str] | None:
        """Read the orders and their own statuses (207): one refused stays for the list to tell."""
        return mapping.canceled_ids(body) if 200 <= status < 300 else None

    def replace_request(self, order: Order, replacement: Order) -> bytes | None:
        """Write ``PATCH /v2/orders/{id}``."""
        if not order.order_id:
            return None
        body = mapping.replace_body(replacement)
        head = (
            f"PATCH {mapping.order_path(order.order_id)}{self._tail}"
            f"Content-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n"
        )
        return head.encode("ascii") + body

    def works_exits(self, order: Order) -> bool:
        """Say whether Alpaca takes this entry's exits along."""
        return mapping.works_exits(order)

    def judge_new(
        self, order: Order, status: int, raw: bytes, body: bytes
    ) -> Sequence[ExecutionReport]:
        """Say what a reply to a new order proves."""
        report = mapping.submit_report(self.account_id, order.cl_ord_id, status, body, raw)
        if order.stop_loss is None and order.take_profit is None:
            return (report,)
        return (report, *self._legs(order.cl_ord_id, body))

    def _legs(self, entry: str, body: bytes) -> list[ExecutionReport]:
        try:
            return mapping.leg_reports(self.account_id, entry, read_object(body))
        except BrokerProtocolError:
            return []  # reconciliation finds them: the entry itself is proven

    def judge_cancel(self, order: Order, status: int, raw: bytes, body: bytes) -> CancelVerdict:
        """Say what a reply to a cancel proves: 204 is a promise, the stream tells the end."""
        if 200 <= status < 300:
            return CancelVerdict("pending")
        if status >= 500:
            return CancelVerdict("unknown", f"HTTP {status}")
        return CancelVerdict("refused", mapping.error_text(status, body))

    def judge_replace(
        self, order: Order, replacement: Order, status: int, raw: bytes, body: bytes
    ) -> Sequence[ExecutionReport]:
        """Say what a reply to a replacement proves; Alpaca gives it a new id."""
        report = mapping.submit_report(self.account_id, replacement.cl_ord_id, status, body, raw)
        if report.exec_type is not ExecType.REJECTED:
            report.replaces = order.order_id
        return (report,)

    def credentials_doubtful(self, status: int, body: bytes) -> bool:
        """Say whether a refusal may be about the credentials."""
        return mapping.credentials_doubtful(status, body)

    def usage(self, status: int, raw: bytes) -> tuple[int, int, float] | None:
        """Return what ``X-RateLimit-*`` says; documented for the Broker API, read where it is sent."""
        del status
        return mapping.usage(raw) if b"imit-" in raw else None

    # Look-ups

    async def find(
        self, cl_ord_id: str, symbol: str = "", order_id: str = ""
    ) -> ExecutionReport | None:
        """Look an order up by client id, an exit (to which Alpaca gives an id of its own) by the broker's."""
        if order_id:
            reply = await self._ask(mapping.order_path(order_id), {"nested": "true"})
        else:
            reply = await self._ask(
                "/v2/orders:by_client_order_id", {"client_order_id": cl_ord_id, "nested": "true"}
            )
        if reply is None:
            return None
        report = mapping.status_report(self.account_id, reply.body)
        for leg in mapping.leg_reports(self.account_id, report.cl_ord_id, reply.body):
            self.deliver(leg)
        return report

    async def market_open(self, symbol: str) -> bool | None:
        """Say whether the exchange is open by Alpaca's clock; crypto always is."""
        if "/" in symbol:
            return True
        reply = await self._get("/v2/clock")
        said = reply.body.get("is_open") if isinstance(reply.body, dict) else None
        return said if isinstance(said, bool) else None

    async def open_orders(self) -> list[ExecutionReport]:
        """List working orders, ours and others'; exits of our entries that still work as theirs."""
        told = await self._list_open("false")
        found = {key: mapping.status_report(self.account_id, one) for key, one in told.items()}
        if any(mapping.may_have_legs(one) for one in told.values()):
            for one in (await self._list_open("true")).values():
                entry = str(one.get("client_order_id"))
                legs = mapping.leg_reports(self.account_id, entry, one)
                for leg in legs if mapping.may_have_legs(one) else ():
                    if leg.status is not None and leg.status.working:
                        found[leg.order_id] = leg
        return list(found.values())

    async def _list_open(self, nested: str) -> dict[str, dict[str, Any]]:
        """Read every page of the open orders, by Alpaca's id."""
        found: dict[str, dict[str, Any]] = {}
        params = {"status": "open", "limit": str(_PAGE), "direction": "asc", "nested": nested}
        while True:
            reply = await self._get("/v2/orders", params)
            with reading(self.account_id, "the open orders"):
                page = [object_of(one) for one in reply.body]
                known = len(found)
                found |= {text_of(one["id"], "id"): one for one in page}
            if len(page) < _PAGE or len(found) == known:
                return found
            params["after"] = str(page[-1].get("submitted_at"))

    async def positions(self) -> list[BrokerPosition]:
        """List open positions."""
        reply = await self._get("/v2/positions")
        rows = reply.body if isinstance(reply.body, list) else [None]
        return [mapping.position(self.account_id, row) for row in rows]

    async def balances(self) -> Balances:
        """Read the account's money."""
        return mapping.balances(self.account_id, (await self._get("/v2/account")).body)

    async def instrument(self, symbol: str) -> Instrument | None:
        """Read what a symbol is, once for all accounts; ``None``: Alpaca has no such symbol."""
        venue = self._adapter.venue(self.base, self._route)
        lock = venue.locks.setdefault(symbol, asyncio.Lock())
        async with lock:
            read_at, known = venue.instruments.get(symbol, (0.0, None))
            if known is not None and time.monotonic() - read_at < _INSTRUMENT_AGE_S:
                return known
            if time.monotonic() - venue.absent.get(symbol, -_ABSENT_AGE_S) < _ABSENT_AGE_S:
                return None
            reply = await self._ask(f"/v2/assets/{quote(symbol, safe='')}")
            if reply is None:
                venue.absent[symbol] = time.monotonic()
                return None
            found = mapping.instrument(self.account_id, symbol, reply.body)
            venue.instruments[symbol] = (time.monotonic(), found)
            return found

    async def quotes(self, symbols: Sequence[str]) -> dict[str, Decimal]:
        """Read the last trades of those of ``symbols`` Alpaca quotes."""
        venue = self._adapter.venue(self.base, self._route)
        now = time.monotonic()
        wanted = [s for s in symbols if now - venue.quotes.get(s, (-1.0, 0))[0] > _QUOTE_AGE_S]
        pairs = [s for s in wanted if "/" in s and not venue.simulated]
        stocks = [s for s in wanted if s not in pairs]
        for path, group in (
            ("/v2/stocks/trades/latest", stocks),
            ("/v1beta3/crypto/us/latest/trades", pairs),
        ):
            if group:
                reply = await self._get(path, {"symbols": ",".join(group)}, data=True)
                for symbol, price in mapping.prices(reply.body, group).items():
                    venue.quotes[symbol] = (time.monotonic(), price)
        fresh = now - _QUOTE_AGE_S
        return {
            symbol: venue.quotes[symbol][1]
            for symbol in symbols
            if symbol in venue.quotes and venue.quotes[symbol][0] >= fresh
        }

    async def _get(
        self, path: str, params: Mapping[str, str] | None = None, *, data: bool = False
    ) -> Reply:
        reply = await self._ask(path, params, data=data)
        if reply is None:
            raise BrokerRejected(
                f"account {self.account_id}: the broker has no {path}", account=self.account_id
            )
        return reply

    async def _ask(
        self, path: str, params: Mapping[str, str] | None = None, *, data: bool = False
    ) -> Reply | None:
        """Read; ``None`` is the broker's own "not found". ``data``: market data, which has a limit of its own."""
        venue = self._adapter.venue(self.base, self._route)
        client = venue.data if data else venue.http
        if not data:
            await self.read_turn()
        reply = await client.get(self.account_id, path, headers=self._headers, params=params)
        if 200 <= reply.status < 300:
            return reply
        if reply.status == 404 and mapping.is_not_found(reply.body):
            return None
        said = reply.body.get("message", "") if isinstance(reply.body, dict) else ""
        text = f"account {self.account_id}: GET {path}: HTTP {reply.status} " + plain(
            said, self._secrets
        )
        if reply.status == 403 and isinstance(reply.body, dict) and "code" not in reply.body:
            raise BrokerAuthError(text, account=self.account_id)
        if 400 <= reply.status < 500 and isinstance(reply.body, dict):
            raise BrokerRejected(text, account=self.account_id)
        raise BrokerProtocolError(text, account=self.account_id)
