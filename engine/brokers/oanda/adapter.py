"""OANDA as a broker: sessions that send over the wire, read over connections apart and follow the account's ledger."""

from __future__ import annotations

import ssl
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import replace as changed
from decimal import Decimal
from typing import Any

from engine.brokers.credentials import StandIn, check_options, credential
from engine.brokers.dial import Route
from engine.brokers.http import (
    BaseUrl,
    Reply,
    base_for,
    plain,
    tls_context,
)
from engine.brokers.oanda import account as account_facts
from engine.brokers.oanda import mapping
from engine.brokers.oanda.ledger import Ledger
from engine.brokers.oanda.stream import AddressBudget, OrderFeed
from engine.brokers.oanda.transactions import TransactionReader
from engine.brokers.oanda.venue import Venue
from engine.brokers.order_exchanges import CancelVerdict
from engine.brokers.reading import object_of, read_object, reading, unknown
from engine.brokers.session import WireSession
from engine.brokers.wire import WireHub
from engine.errors import (
    BrokerAuthError,
    BrokerError,
    BrokerProtocolError,
    BrokerRejected,
    ConfigError,
)
from engine.model.account import Account
from engine.model.enums import ExecType, OrderType, TimeInForce
from engine.model.instrument import Instrument
from engine.model.messages import Balances, BrokerPosition, ExecutionReport
from engine.model.order import Order
from engine.ports import BrokerSink, Capabilities, Headroom

CAPABILITIES = Capabilities(
    client_id="open_only",
    settle_s=2.0,  # a look-up right after a fill may say NO_SUCH_ORDER for half a second
    order_types=frozenset(OrderType),
    time_in_force=frozenset(TimeInForce),
    max_orders_per_second=100.0,  # of one connection, as OANDA advises
    burst=100,
    native_exits=True,
    native_trailing=True,
    per_address_second=120.0,
    connects_per_second=2.0,
    cash="realised",
    reads_per_second=30.0,  # a quarter of what one address may ask
)
_HOSTS = {"live": mapping.LIVE_HOST, "paper": mapping.PRACTICE_HOST}
_MOST_SENT = 10_000
_HEDGING = (
    "hedging is on at OANDA: long and short of one instrument are shown as their sum; turn it off"
)


class OandaAdapter:
    """Makes OANDA sessions; shares, per address and way out, connections, caches and the request budget."""

    name = "oanda"
    capabilities = CAPABILITIES

    def __init__(
        self,
        *,
        allow_simulated: bool = False,
        reply_timeout_s: float = 10.0,
        idle_s: float = 60.0,
        connects_per_second: float = CAPABILITIES.connects_per_second,
        most_streams: int | None = None,
        tls: Callable[[], ssl.SSLContext] = tls_context,
    ) -> None:
        self.idle_s = idle_s
        self.hub = WireHub(reply_timeout_s=reply_timeout_s, tls=tls)
        self.bodies = mapping.OrderBodies()
        self.connects_per_second = connects_per_second
        self._most_streams = most_streams
        self._allow_simulated = allow_simulated
        self._venues: dict[tuple[str, Route | None], Venue] = {}

    def session(
        self, account: Account, credentials: dict[str, str], sink: BrokerSink
    ) -> OandaSession:
        """Make one account's session.

        Raises:
            ConfigError: a credential is missing or none, or ``base_url`` is not allowed.
        """
        check_options(account, {})
        base = base_for(account, _HOSTS, allow_simulated=self._allow_simulated)
        route = Route.of(account.id, account.egress, credentials)
        return OandaSession(self, account, base, route, credentials, sink)

    def venue(self, base: BaseUrl, route: Route | None) -> Venue:
        """Return what accounts that reach one address by one way out share."""
        venue = self._venues.get((base.url, route))
        if venue is None:
            budget = (
                AddressBudget() if self._most_streams is None else AddressBudget(self._most_streams)
            )
            venue = self._venues[base.url, route] = Venue(
                self.hub, base, route, budget, self.connects_per_second, self.idle_s
            )
        return venue

    async def close(self) -> None:
        """Close the shared connections."""
        venues = list(self._venues.values())
        self._venues.clear()
        for venue in venues:
            await venue.http.close()


class OandaSession(WireSession):
    """One account at OANDA."""

    def __init__(
        self,
        adapter: OandaAdapter,
        account: Account,
        base: BaseUrl,
        route: Route | None,
        credentials: Mapping[str, str],
        sink: BrokerSink,
    ) -> None:
        token = credential(account.id, credentials, "token", "access_token")
        broker_account = credential(account.id, credentials, "account_id")
        known = not isinstance(broker_account, StandIn)
        if known and not mapping.ACCOUNT_ID.fullmatch(broker_account):
            raise ConfigError(
                f"account {account.id}: credential account_id must be 1 to 32 digits and dashes, "
                "like 101-004-1234567-001"
            )
        venue = adapter.venue(base, route)
        super().__init__(
            account,
            CAPABILITIES,
            sink,
            adapter.hub,
            base,
            secrets=(token, broker_account),
            shared=venue.wire,
        )
        self._bodies = adapter.bodies
        self._venue = venue
        self._headers = {
            "Authorization": f"Bearer {token}",
            "Accept-Datetime-Format": "RFC3339",
        }
        self._root = f"/v3/accounts/{broker_account}"
        own = f"Authorization: Bearer {token}\r\nAccept-Datetime-Format: RFC3339\r\n"
        self._tail = f" HTTP/1.1\r\nHost: {base.authority}\r\nUser-Agent: volley\r\n{own}"
        self._json = "Content-Type: application/json\r\nContent-Length: "
        self.wire.probe = f"GET {self._root}/summary{self._tail}\r\n".encode("ascii")
        self._head = f"POST {self._root}/orders{self._tail}{self._json}"
        self.reader = TransactionReader(account.id, broker_account)
        self._sent: dict[str, Order] = {}  # since the cursor began
        self._ledger = Ledger(account.id, self.reader, self._get, self.streamed)
        self._hedging = False
        streams = self._venue.stream_base
        self._feed = OrderFeed(
            account.id,
            streams,
            f"GET {self._root}/transactions/stream HTTP/1.1\r\nHost: {streams.authority}\r\n"
            f"User-Agent: volley\r\n{own}\r\n".encode("ascii"),
            self.reader,
            self._venue.budget,
            pacer=self._venue.pacer,
            context=adapter.hub.context if streams.tls else None,
            egress=route,
            begin=self._begin,
            fill_gap=self._ledger.catch_up,
            poll=self._ledger.poll,
            on_report=self.streamed,
            on_state=self.stream_changed,
            on_refused=self.refuse_credentials,
        )

    async def follow(self) -> None:
        """Follow the account's transactions."""
        await self._feed.run()

    async def check_credentials(self) -> None:
        """Read the summary: it needs the token and the account, and tells where the ledger stands."""
        try:
            await self.balances()
        except BrokerRejected as error:
            raise BrokerAuthError(
                f"the broker has no such account for these credentials: {error}",
                account=self.account_id,
            ) from None

    def headroom(self) -> Headroom:
        """Return what the session has left, and what a hedging account has to do."""
        left = super().headroom()
        return changed(left, todo=_HEDGING) if self._hedging and not left.todo else left

    # Orders

    def new_order_request(self, order: Order) -> bytes:
        """Write ``POST …/orders``."""
        self._venue.budget.ordered()
        self._note_sent(order)
        body = self._body(order)
        return f"{self._head}{len(body)}\r\n\r\n{body}".encode("ascii")

    def _body(self, order: Order) -> str:
        return self._bodies.write(order, self._venue.tick(order.symbol))

    def _note_sent(self, order: Order) -> None:
        if self.reader.cursor:  # else its transactions may come before the cursor begins
            self._sent[order.cl_ord_id] = order
            if len(self._sent) > _MOST_SENT:
                del self._sent[next(iter(self._sent))]

    def cancel_request(self, order: Order) -> bytes | None:
        """Write ``PUT …/orders/{specifier}/cancel``."""
        if not order.order_id:
            return None
        spec = mapping.order_specifier(order.cl_ord_id, order.order_id)
        path = f"PUT {self._root}/orders/{spec}/cancel"
        return f"{path}{self._tail}Content-Length: 0\r\n\r\n".encode("ascii")

    def replace_request(self, order: Order, replacement: Order) -> bytes | None:
        """Write ``PUT …/orders/{specifier}``; of an exit, its new price."""
        if not order.order_id:
            return None
        kind, trade_id = self.reader.exit_of(order.order_id)
        body = (
            self._body(replacement) if not kind else mapping.exit_body(kind, trade_id, replacement)
        )
        if body is None:
            return None
        self._note_sent(replacement)
        spec = mapping.order_specifier(order.cl_ord_id, order.order_id)
        head = f"PUT {self._root}/orders/{spec}{self._tail}{self._json}{len(body)}"
        return f"{head}\r\n\r\n{body}".encode("ascii")

    def works_exits(self, order: Order) -> bool:
        """Say whether OANDA takes this entry's exits along."""
        return mapping.works_exits(order)

    def judge_new(
        self, order: Order, status: int, raw: bytes, body: bytes
    ) -> Sequence[ExecutionReport]:
        """Say what a reply to a new order proves: the transactions in it, unless the stream told them first."""
        del raw
        reports = self._judge(order.cl_ord_id, status, body)
        if (
            reports
            and reports[0].exec_type is ExecType.UNSENT
            and not mapping.harmless_twice(order)
        ):
            return [unknown(self.account_id, order.cl_ord_id, reports[0].text)]
        if len(reports) > 1 and reports[1].exec_type is ExecType.TRADE:
            del reports[0]  # that it is new: the fill says it all
        if not self._feed.streaming and mapping.works_exits(order):
            # The exits made with it are not in the reply, and this account's next poll may be seconds away.
            self.hold(self._look_on())
        return reports

    def judge_cancel(self, order: Order, status: int, raw: bytes, body: bytes) -> CancelVerdict:
        """Say what a reply to a cancel proves: 200 holds the transaction that ended the order."""
        del raw
        reply = read_object(body) or {}
        if 200 <= status < 300 and "orderCancelTransaction" in reply:
            try:
                return CancelVerdict("done", reports=self._read_reply(reply))
            except BrokerProtocolError as error:
                return CancelVerdict("unknown", str(error))
        if status == 429:
            return CancelVerdict("refused", "not sent: the broker's rate limit is used up")
        if 400 <= status < 500 and not {"errorMessage", "orderCancelRejectTransaction"}.isdisjoint(
            reply
        ):
            return CancelVerdict("refused", mapping.error_text(status, reply))
        return CancelVerdict("unknown", f"HTTP {status}")

    def judge_replace(
        self, order: Order, replacement: Order, status: int, raw: bytes, body: bytes
    ) -> Sequence[ExecutionReport]:
        """Say what a reply to a replacement proves: OANDA cancels the old order and creates a new one."""
        del order, raw
        own = replacement.cl_ord_id
        reports = self._judge(own, status, body)
        return sorted(reports, key=lambda report: report.cl_ord_id != own)

    def _judge(self, cl_ord_id: str, status: int, body: bytes) -> list[ExecutionReport]:
        reply = read_object(body) or {}
        report = mapping.verdict(self.account_id, cl_ord_id, status, reply)
        if report is not None:
            if report.exec_type is ExecType.REJECTED:
                self.reader.skip(reply.get("orderRejectTransaction"))
            return [report]
        try:
            return self._read_reply(reply)
        except BrokerProtocolError as error:
            return [unknown(self.account_id, cl_ord_id, str(error))]

    def _read_reply(self, reply: Mapping[str, Any]) -> list[ExecutionReport]:
        """Read the transactions of a reply; they may be ahead of the cursor."""
        return [
            report
            for transaction in mapping.transactions_of(reply)
            for report in self.reader.read(transaction, in_order=False)
        ]

    async def _look_on(self) -> None:
        await self._venue.budget.turn()
        with suppress(BrokerError):
            await self._ledger.catch_up()

    # Look-ups of orders

    async def _begin(self) -> None:
        if not self.reader.cursor:
            await self.balances()

    async def find(
        self, cl_ord_id: str, symbol: str = "", order_id: str = ""
    ) -> ExecutionReport | None:
        """Look an order up in the ledger and by client id; ``None`` is OANDA's word that it has none."""
        del symbol
        await self._begin()
        await self._ledger.catch_up()
        report = self.reader.find(cl_ord_id)
        if report is None:
            report = await self._find_elsewhere(cl_ord_id, order_id)
        return report

    async def _find_elsewhere(self, cl_ord_id: str, order_id: str) -> ExecutionReport | None:
        order_id = self.reader.order_id(cl_ord_id) or order_id
        told = await self._order(order_id or f"@{cl_ord_id}")
        if told is None and not order_id:
            if cl_ord_id in self._sent:
                return None  # every transaction since before it was sent is known
            order_id = (await self._ledger.look_back()).get(cl_ord_id, "")
            if not order_id:
                return None
        if told is not None and told.get("state") in {"PENDING", "TRIGGERED"}:
            return self.reader.listed(told)
        order_id = str(told["id"]) if told is not None else order_id
        return await self._ledger.replay(cl_ord_id, order_id)

    async def _order(self, spec: str) -> dict[str, Any] | None:
        reply = await self._ask(f"/orders/{spec}")
        if reply is None:
            return None
        with reading(self.account_id, "an order"):
            return object_of(object_of(reply.body)["order"])

    async def open_orders(self) -> list[ExecutionReport]:
        """List working orders, ours and others'; what exits close is their trades' to tell."""
        reply = await self._get("/pendingOrders")
        with reading(self.account_id, "the pending orders"):
            rows = list(object_of(reply.body)["orders"])
        if any(self.reader.lacks_trade(row) for row in rows):
            reply = await self._get("/openTrades")
            with reading(self.account_id, "the open trades"):
                for trade in object_of(reply.body)["trades"]:
                    self.reader.note_trade(trade)
        return [self.reader.listed(row) for row in rows]

    # The account

    async def positions(self) -> list[BrokerPosition]:
        """List open positions, long and short of one instrument as their sum."""
        reply = await self._get("/openPositions")
        with reading(self.account_id, "the positions"):
            rows = list(object_of(reply.body)["positions"])
        found = [account_facts.position(self.account_id, row) for row in rows]
        return [position for position in found if position is not None]

    async def balances(self) -> Balances:
        """Read the account's money; the first time also where its ledger stands."""
        reply = await self._get("/summary")
        money, last, self._hedging = account_facts.balances(self.account_id, reply.body)
        self.reader.begin(last)
        return money

    async def instrument(self, symbol: str) -> Instrument | None:
        """Read what a symbol is, once for all accounts; ``None``: OANDA has no such instrument."""
        return await self._venue.instrument(self.account_id, symbol, self._get)

    async def quotes(self, symbols: Sequence[str]) -> dict[str, Decimal]:
        """Read the mid prices of those of ``symbols`` OANDA quotes."""
        prices = await self._venue.prices_of(symbols, self._get)
        return {symbol: price for symbol, (price, _) in prices.items()}

    async def market_open(self, symbol: str) -> bool | None:
        """Say whether an instrument trades now; ``None``: OANDA does not quote it."""
        known = (await self._venue.prices_of([symbol], self._get)).get(symbol)
        return known[1] if known is not None else None

    # Look-ups

    async def _get(self, path: str, params: Mapping[str, str] | None = None) -> Reply:
        reply = await self._ask(path, params)
        if reply is None:
            raise BrokerRejected(
                f"account {self.account_id}: the broker has no {path}", account=self.account_id
            )
        return reply

    async def _ask(self, path: str, params: Mapping[str, str] | None = None) -> Reply | None:
        """Read; ``None`` is OANDA's own "no such order"."""
        await self.read_turn()
        try:
            reply = await self._venue.http.get(
                self.account_id, self._root + path, headers=self._headers, params=params
            )
        except BrokerError as error:
            if error.retry_after is not None:
                self.pause(error.retry_after)
            # Paths hold OANDA's account id, which is a credential here.
            text = plain(error, self._secrets)
            raise type(error)(text, account=error.account, retry_after=error.retry_after) from None
        if 200 <= reply.status < 300:
            return reply
        if mapping.is_no_order(reply.status, reply.body):
            return None
        said = reply.body if isinstance(reply.body, dict) else {}
        words = plain(mapping.error_text(reply.status, said), self._secrets)
        text = f"account {self.account_id}: GET {path}: HTTP {reply.status} {words}"
        if reply.status == 403:
            raise BrokerAuthError(text, account=self.account_id)
        if 400 <= reply.status < 500 and said:
            raise BrokerRejected(text, account=self.account_id)
        raise BrokerProtocolError(text, account=self.account_id)
