"""Alpaca as a broker: sessions that send over the wire and read over ``httpx``."""

from __future__ import annotations

import asyncio
import re
import ssl
import time
from collections.abc import Callable, Coroutine, Mapping, Sequence
from dataclasses import replace as changed
from decimal import Decimal
from time import monotonic_ns
from typing import Any
from urllib.parse import quote

from engine.brokers.alpaca import mapping
from engine.brokers.alpaca.stream import OrderStream
from engine.brokers.http import BaseUrl, HttpClient, Reply, check_base_url, plain, tls_context
from engine.brokers.wire import CONTROL, Exchange, WireHub, WirePool
from engine.errors import (
    BrokerAuthError,
    BrokerError,
    BrokerProtocolError,
    BrokerRejected,
    ConfigError,
)
from engine.model.account import Account
from engine.model.enums import (
    ConnectionState,
    ExecType,
    OrderStatus,
    OrderType,
    TimeInForce,
)
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
)
_HOSTS = {"live": mapping.LIVE_HOST, "paper": mapping.PAPER_HOST}
_HEADER_SAFE = re.compile(r"[\x21-\x7e]{1,256}", re.ASCII)
_PAGE = 500
_START_S = 12.0
_QUOTE_AGE_S = 0.5
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
        self._venues: dict[str, Venue] = {}

    def session(
        self, account: Account, credentials: dict[str, str], sink: BrokerSink
    ) -> AlpacaSession:
        """Make one account's session.

        Raises:
            ConfigError: a credential is missing or ``base_url`` is not allowed.
        """
        for name in ("key_id", "secret"):
            value = credentials.get(name, "")
            if not value:
                raise ConfigError(f"account {account.id}: credential {name} is missing")
            if not _HEADER_SAFE.fullmatch(value):
                raise ConfigError(
                    f"account {account.id}: credential {name} must be 1 to 256 printable ASCII "
                    "characters without blanks"
                )
        base = self._base(account)
        return AlpacaSession(self, account.id, base, credentials, sink)

    def _base(self, account: Account) -> BaseUrl:
        own = _HOSTS[account.environment]
        base = check_base_url(
            account.id,
            account.base_url or f"https://{own}",
            _HOSTS.values(),
            allow_simulated=self._allow_simulated,
        )
        if not base.simulated and base.host != own:
            raise ConfigError(
                f"account {account.id}: environment {account.environment!r} does not fit base_url "
                f"{base.url!r}; expected https://{own}"
            )
        return base

    def venue(self, base: BaseUrl) -> Venue:
        """Return what accounts at one address share."""
        venue = self._venues.get(base.url)
        if venue is None:
            venue = self._venues[base.url] = Venue(base, self.hub)
        return venue

    async def close(self) -> None:
        """Close the shared connections."""
        venues = list(self._venues.values())
        self._venues.clear()
        for venue in venues:
            await venue.close()


class Venue:
    """What the accounts at one address share: connections for look-ups, instruments, prices."""

    def __init__(self, base: BaseUrl, hub: WireHub) -> None:
        self.http = HttpClient(base, context=hub.context() if base.tls else None)
        self.simulated = base.simulated
        if base.simulated:
            self.data = self.http
        else:
            data = check_base_url(
                "", f"https://{mapping.DATA_HOST}", {mapping.DATA_HOST}, allow_simulated=False
            )
            self.data = HttpClient(data, context=hub.context())
        self.instruments: dict[str, Instrument] = {}
        self.absent: dict[str, float] = {}
        self.locks: dict[str, asyncio.Lock] = {}
        self.quotes: dict[str, tuple[float, Decimal]] = {}

    async def close(self) -> None:
        """Close the connections."""
        await self.http.close()
        if self.data is not self.http:
            await self.data.close()


class AlpacaSession:
    """One account at Alpaca; see ``engine.ports.BrokerSession``."""

    capabilities = CAPABILITIES

    def __init__(
        self,
        adapter: AlpacaAdapter,
        account_id: str,
        base: BaseUrl,
        credentials: Mapping[str, str],
        sink: BrokerSink,
    ) -> None:
        self.account_id = account_id
        self.state = ConnectionState.DISCONNECTED
        self.waiting: dict[str, Order] = {}  # sent, no reply yet
        self._adapter = adapter
        self._base = base
        self._sink = sink
        self._bodies = adapter.bodies
        key_id, secret = credentials["key_id"], credentials["secret"]
        self._secrets = (secret, key_id)
        self._headers = {"APCA-API-KEY-ID": key_id, "APCA-API-SECRET-KEY": secret}
        self._tail = (
            f" HTTP/1.1\r\nHost: {base.authority}\r\nUser-Agent: volley\r\n"
            f"APCA-API-KEY-ID: {key_id}\r\nAPCA-API-SECRET-KEY: {secret}\r\n"
        )
        self._head = (
            f"POST /v2/orders{self._tail}Content-Type: application/json\r\nContent-Length: "
        )
        self.wire = WirePool(
            adapter.hub,
            base.host,
            base.port,
            tls=base.tls,
            orders=adapter.order_connections,
            idle_s=adapter.idle_s,
            on_change=self._wire_changed,
        )
        self._stream = OrderStream(
            base.websocket + "/stream",
            account_id,
            key_id,
            secret,
            context=adapter.hub.context if base.tls else None,
            on_report=self._streamed,
            on_state=self._stream_changed,
            on_refused=self.refuse_credentials,
        )
        self._tasks: set[asyncio.Task[None]] = set()
        self._settled = asyncio.Event()  # the stream's first attempt is over
        self._running = False
        self._stream_up = False
        self._stream_reason = "the order stream is not connected"
        self._refused = ""
        self._verifying = False

    # Life

    async def start(self) -> None:
        """Connect, check the credentials, warm the wire and follow the order stream."""
        self._refused = ""
        self._stream_up = False
        self._settled.clear()
        self._set(ConnectionState.CONNECTING, "connecting")
        await asyncio.gather(self.wire.start(), self._check_credentials())
        if not self._refused:
            self._hold(self._stream.run())
            try:
                await asyncio.wait_for(self._settled.wait(), _START_S)
            except TimeoutError:
                self._stream_reason = "the order stream does not answer"
        self._running = True
        self._refresh()

    async def stop(self) -> None:
        """Close every connection; afterwards nothing is left running."""
        self._running = False
        tasks = list(self._tasks)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await self.wire.stop()
        self._set(ConnectionState.DISCONNECTED, "stopped")

    def ready(self) -> bool:
        """Say whether ``submit`` would write at once."""
        return not self._refused and self.wire.ready()

    def _hold(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    # State

    def _wire_changed(self, up: bool, reason: str) -> None:
        del up, reason
        self._refresh()

    def _stream_changed(self, up: bool, reason: str) -> None:
        self._stream_up, self._stream_reason = up, reason
        self._settled.set()
        self._refresh()

    def refuse_credentials(self, reason: str) -> None:
        """Note that the broker refuses these credentials; nothing is sent until a new start."""
        self._refused = reason
        self._settled.set()
        self._refresh()

    def _refresh(self) -> None:
        if not self._running:
            return
        if self._refused:
            self._set(ConnectionState.ERROR, self._refused)
        elif not self.wire.up:
            self._set(ConnectionState.DISCONNECTED, self.wire.reason)
        elif not self._stream_up:
            self._set(ConnectionState.DEGRADED, self._stream_reason)
        else:
            self._set(ConnectionState.CONNECTED, "connected")

    def _set(self, state: ConnectionState, text: str) -> None:
        if state is not self.state:
            self.state = state
            self._sink.on_connection(self.account_id, state, plain(text, self._secrets))

    def verify(self) -> None:
        """Ask the broker whether the credentials still hold, after a refusal that may mean them."""
        if not self._verifying and self._running:
            self._verifying = True
            self._hold(self._check_credentials())

    async def _check_credentials(self) -> None:
        try:
            await self.balances()
        except BrokerAuthError as error:
            self.refuse_credentials(str(error))
        except BrokerError:
            pass  # says nothing about the credentials
        finally:
            self._verifying = False

    # Orders

    def submit(self, order: Order) -> None:
        """Send a new order."""
        if self._refused:
            self._report_soon(order.cl_ord_id, ExecType.UNSENT, None, self._refused)
            return
        body = self._bodies.write(order)
        self.waiting[order.cl_ord_id] = order
        self.wire.send(
            f"{self._head}{len(body)}\r\n\r\n{body}".encode("ascii"), _Submission(self, order)
        )

    def cancel(self, order: Order) -> None:
        """Ask to cancel a working order."""
        if order.order_id:
            self.wire.send(
                f"DELETE {mapping.order_path(order.order_id)}{self._tail}\r\n".encode("ascii"),
                _Cancellation(self, order),
                CONTROL,
            )
        else:
            self._hold(self._cancel_by_client_id(order))

    def replace(self, order: Order, replacement: Order) -> None:
        """Ask to put ``replacement`` in the place of ``order``."""
        if not order.order_id:
            self._report_soon(
                replacement.cl_ord_id,
                ExecType.REJECTED,
                OrderStatus.REJECTED,
                "not sent: the broker's id of the order to replace is not known yet",
            )
            return
        body = mapping.replace_body(replacement)
        path = mapping.order_path(order.order_id)
        head = (
            f"PATCH {path}{self._tail}Content-Type: application/json\r\n"
            f"Content-Length: {len(body)}\r\n\r\n"
        )
        self.wire.send(head.encode("ascii") + body, _Replacement(self, order, replacement), CONTROL)

    async def _cancel_by_client_id(self, order: Order) -> None:
        """Find the broker's id first; an order on its way has the settling time to appear."""
        deadline = time.monotonic() + CAPABILITIES.settle_s
        text = "the broker does not have this order"
        while not order.order_id:
            try:
                report = await self.find(order.cl_ord_id)
            except BrokerError as error:
                report, text = None, f"cannot be looked up: {error}"
            if report is not None:
                self.deliver(report)
                order.order_id = order.order_id or report.order_id
            elif time.monotonic() > deadline:
                self.report(order.cl_ord_id, ExecType.CANCEL_REJECTED, None, text)
                return
            else:
                await asyncio.sleep(0.25)
        if order.status.working:
            self.cancel(order)

    def look_up_later(self, order: Order) -> None:
        """Find out what became of a cancel without an answer."""
        if self._running:
            self._hold(self._look_up(order))

    async def _look_up(self, order: Order) -> None:
        await asyncio.sleep(CAPABILITIES.settle_s)
        try:
            report = await self.find(order.cl_ord_id)
        except BrokerError as error:
            self.report(order.cl_ord_id, ExecType.CANCEL_REJECTED, None, f"no proof: {error}")
            return
        if report is None:
            return
        self.deliver(report)
        if report.status is not None and report.status.working:
            self.report(order.cl_ord_id, ExecType.CANCEL_REJECTED, None, "it is still working")

    # Reports

    def deliver(self, report: ExecutionReport) -> None:
        """Pass a report on."""
        if report.text:
            report = changed(report, text=plain(report.text, self._secrets))
        self._sink.on_report(report)

    def report(
        self, cl_ord_id: str, exec_type: ExecType, status: OrderStatus | None, text: str
    ) -> None:
        """Make and pass on a report of our own."""
        self.deliver(ExecutionReport(self.account_id, cl_ord_id, exec_type, status, text=text))

    def _report_soon(
        self, cl_ord_id: str, exec_type: ExecType, status: OrderStatus | None, text: str
    ) -> None:
        # Never from inside submit: the caller may be in the middle of a fan-out.
        loop = asyncio.get_running_loop()
        loop.call_soon(self.report, cl_ord_id, exec_type, status, text)

    def _streamed(self, report: ExecutionReport) -> None:
        order = self.waiting.get(report.cl_ord_id)
        if order is not None and not order.acked_ns:
            order.acked_ns = monotonic_ns()
        self.deliver(report)

    # Look-ups

    async def find(self, cl_ord_id: str) -> ExecutionReport | None:
        """Look an order up by client id; ``None`` is the broker's word that it has none."""
        reply = await self._ask("/v2/orders:by_client_order_id", {"client_order_id": cl_ord_id})
        if reply is None:
            return None
        return mapping.status_report(self.account_id, reply.body)

    async def open_orders(self) -> list[ExecutionReport]:
        """List working orders, ours and others'."""
        found: dict[str, ExecutionReport] = {}
        params = {"status": "open", "limit": str(_PAGE), "direction": "asc", "nested": "false"}
        while True:
            reply = await self._get("/v2/orders", params)
            page: list[Any] = reply.body if isinstance(reply.body, list) else [None]
            known = len(found)
            for order in page:
                report = mapping.status_report(self.account_id, order)
                found[report.order_id] = report
            if len(page) < _PAGE or len(found) == known:
                return list(found.values())
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
        venue = self._adapter.venue(self._base)
        lock = venue.locks.setdefault(symbol, asyncio.Lock())
        async with lock:
            known = venue.instruments.get(symbol)
            if known is not None:
                return known
            if time.monotonic() - venue.absent.get(symbol, -_ABSENT_AGE_S) < _ABSENT_AGE_S:
                return None
            reply = await self._ask(f"/v2/assets/{quote(symbol, safe='')}")
            if reply is None:
                venue.absent[symbol] = time.monotonic()
                return None
            found = mapping.instrument(self.account_id, symbol, reply.body)
            venue.instruments[symbol] = found
            return found

    async def quotes(self, symbols: Sequence[str]) -> dict[str, Decimal]:
        """Read the last trades of those of ``symbols`` Alpaca quotes."""
        venue = self._adapter.venue(self._base)
        now = time.monotonic()
        wanted = [s for s in symbols if now - venue.quotes.get(s, (-1.0, 0))[0] > _QUOTE_AGE_S]
        pairs = [s for s in wanted if "/" in s and not venue.simulated]
        stocks = [s for s in wanted if s not in pairs]
        for path, group in (
            ("/v2/stocks/trades/latest", stocks),
            ("/v1beta3/crypto/us/latest/trades", pairs),
        ):
            if group:
                reply = await self._get(path, {"symbols": ",".join(group)}, venue.data)
                for symbol, price in mapping.prices(reply.body, group).items():
                    venue.quotes[symbol] = (time.monotonic(), price)
        fresh = now - _QUOTE_AGE_S
        return {
            symbol: venue.quotes[symbol][1]
            for symbol in symbols
            if symbol in venue.quotes and venue.quotes[symbol][0] >= fresh
        }

    async def _get(
        self, path: str, params: Mapping[str, str] | None = None, client: HttpClient | None = None
    ) -> Reply:
        reply = await self._ask(path, params, client)
        if reply is None:
            raise BrokerRejected(
                f"account {self.account_id}: the broker has no {path}", account=self.account_id
            )
        return reply

    async def _ask(
        self, path: str, params: Mapping[str, str] | None = None, client: HttpClient | None = None
    ) -> Reply | None:
        """Read; ``None`` is the broker's own "not found"."""
        client = client or self._adapter.venue(self._base).http
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


class _Submission(Exchange):
    """A new order on its way."""

    __slots__ = ("order", "session")

    def __init__(self, session: AlpacaSession, order: Order) -> None:
        # All of Exchange's slots, without its call: one of these is made for every order.
        self.first_byte_ns = self.last_byte_ns = self.reply_ns = 0
        self.send_before_ns = order.send_before_ns
        self.stamps = self.order = order
        self.session = session

    def on_reply(self, status: int, raw: bytes, body: bytes) -> None:
        session, order = self.session, self.order
        session.waiting.pop(order.cl_ord_id, None)
        if not order.acked_ns:
            order.acked_ns = self.reply_ns
        session.deliver(
            mapping.submit_report(session.account_id, order.cl_ord_id, status, body, raw)
        )
        if status >= 400 and mapping.credentials_doubtful(status, body):
            session.verify()

    def on_failure(self, left: bool, reason: str) -> None:
        session, order = self.session, self.order
        session.waiting.pop(order.cl_ord_id, None)
        if left:
            session.deliver(mapping.unknown(session.account_id, order.cl_ord_id, reason))
        else:
            session.report(order.cl_ord_id, ExecType.UNSENT, None, reason)


class _Cancellation(Exchange):
    """A cancel on its way; the order's own stamps stay as they are."""

    __slots__ = ("order", "session")

    def __init__(self, session: AlpacaSession, order: Order) -> None:
        super().__init__()
        self.session = session
        self.order = order

    def on_reply(self, status: int, raw: bytes, body: bytes) -> None:
        if 200 <= status < 300:
            self._pending("")
        elif status >= 500:
            self._pending(f"the outcome of the cancel is unknown (HTTP {status})")
            self.session.look_up_later(self.order)
        else:
            self._refused(mapping.error_text(status, body))
            if mapping.credentials_doubtful(status, body):
                self.session.verify()

    def on_failure(self, left: bool, reason: str) -> None:
        if left:
            self._pending(f"the outcome of the cancel is unknown: {reason}")
            self.session.look_up_later(self.order)
        else:
            self._refused(f"the cancel was not sent: {reason}")

    def _pending(self, text: str) -> None:
        self.session.report(
            self.order.cl_ord_id, ExecType.PENDING_CANCEL, OrderStatus.PENDING_CANCEL, text
        )

    def _refused(self, text: str) -> None:
        self.session.report(self.order.cl_ord_id, ExecType.CANCEL_REJECTED, None, text)


class _Replacement(Exchange):
    """A replacement on its way. It is never told as unsent: it must not be sent as a new order."""

    __slots__ = ("order", "replacement", "session")

    def __init__(self, session: AlpacaSession, order: Order, replacement: Order) -> None:
        super().__init__(replacement, replacement.send_before_ns)
        self.session = session
        self.order = order
        self.replacement = replacement

    def on_reply(self, status: int, raw: bytes, body: bytes) -> None:
        session, replacement = self.session, self.replacement
        if not replacement.acked_ns:
            replacement.acked_ns = self.reply_ns
        report = mapping.submit_report(session.account_id, replacement.cl_ord_id, status, body, raw)
        if report.exec_type is ExecType.REJECTED:
            self._refused(report.text)
        else:
            session.deliver(changed(report, replaces=self.order.order_id))
        if status >= 400 and mapping.credentials_doubtful(status, body):
            session.verify()

    def on_failure(self, left: bool, reason: str) -> None:
        if left:
            self.session.deliver(
                mapping.unknown(self.session.account_id, self.replacement.cl_ord_id, reason)
            )
        else:
            self._refused(f"not sent: {reason}")

    def _refused(self, text: str) -> None:
        """The replacement never existed, and the order it was for goes on."""
        session = self.session
        session.report(self.replacement.cl_ord_id, ExecType.REJECTED, OrderStatus.REJECTED, text)
        session.report(
            self.order.cl_ord_id, ExecType.CANCEL_REJECTED, None, f"not replaced: {text}"
        )
