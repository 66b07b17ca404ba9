"""One account at Kite: orders as forms over the wire, the day's book for all that is in doubt."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from dataclasses import replace as changed
from datetime import UTC, datetime
from decimal import Decimal
from typing import Any
from urllib.parse import quote

from engine.brokers.credentials import credential
from engine.brokers.http import BaseUrl, plain
from engine.brokers.hub import WireHub
from engine.brokers.kite import login, mapping, portfolio
from engine.brokers.kite.allowance import DAY_LIMIT, Allowance
from engine.brokers.kite.changes import Changes
from engine.brokers.kite.exchanges import Aside, Look
from engine.brokers.kite.mapping import Row
from engine.brokers.kite.news import News
from engine.brokers.kite.stream import OrderSocket
from engine.brokers.kite.venue import Venue
from engine.brokers.order_exchanges import CancelVerdict
from engine.brokers.reading import rejected, unknown
from engine.brokers.session import WireSession
from engine.brokers.session_cache import SessionCache
from engine.brokers.wire import CONTROL, Exchange
from engine.errors import BrokerAuthError
from engine.model.account import Account
from engine.model.enums import ExecType, OrderStatus, OrderType, TimeInForce
from engine.model.instrument import Instrument
from engine.model.messages import Balances, BrokerPosition, ExecutionReport
from engine.model.order import Order
from engine.ports import BrokerSink, Capabilities, Headroom, SessionToken

CAPABILITIES = Capabilities(
    client_id="label",
    settle_s=3.0,
    order_types=frozenset(OrderType),
    time_in_force=frozenset({TimeInForce.DAY, TimeInForce.IOC}),
    # 400 a minute at most, whatever minute one looks at: a full bucket and a minute's refill.
    max_orders_per_second=6.0,
    burst=40,
    per_calendar_second=8,  # SEBI's 10, less a margin for the clocks
    sessions_end=True,
    day_zone="Asia/Kolkata",
)
_NAP_S = 60.0


class KiteSession(WireSession):
    """One account at Kite Connect."""

    def __init__(  # noqa: PLR0913 (what a session is made of)
        self,
        account: Account,
        credentials: Mapping[str, str],
        sink: BrokerSink,
        base: BaseUrl,
        *,
        venue: Venue,
        hub: WireHub,
        bodies: mapping.OrderBodies,
        sessions: SessionCache,
        refuse: str,
        idle_s: float,
    ) -> None:
        self._api_key = credential(account.id, credentials, "key_id", "api_key")
        self._secret = credential(account.id, credentials, "secret", "api_secret")
        pasted = credentials.get("access_token")
        self._pasted = credential(account.id, credentials, "access_token") if pasted else ""
        super().__init__(
            account,
            CAPABILITIES,
            sink,
            hub,
            base,
            secrets=(self._secret,),
            idle_s=idle_s,
            egress=venue.route,
        )
        self._venue = venue
        self._bodies = bodies
        self._sessions = sessions
        self._unconfirmed = refuse
        self._product = account.options.get("product", mapping.PRODUCTS[0])
        self._user_id = account.options.get("user_id", "")
        self._news = News(account.id, self._read, self._trades_of, self.streamed, self.hold)
        self.book = self._news.book
        self._changes = Changes(account.id, self._news, self.deliver, CAPABILITIES.settle_s)
        self.allowance = Allowance()
        self._token = ""
        self._use(self._pasted)
        self._socket = OrderSocket(
            account.id,
            url=self._stream_url,
            context=hub.context if base.tls else None,
            route=venue.route,
            on_row=self._changes.row,
            on_state=self.stream_changed,
            on_refused=self.verify,
        )
        self._unfollow: Any = None
        self._restart: asyncio.Task[None] | None = None
        self._login = login.BrowserLogin(
            base,
            account.id,
            self._api_key,
            self._secret,
            venue=venue,
            on_token=self._logged_in,
            on_failure=self._login_failed,
        )

    # The day's login

    def _use(self, token: str, expires_at: datetime | None = None) -> None:
        """Prepare what every request carries."""
        self._token = token
        self.expires_at = expires_at
        self._secrets = tuple(filter(None, (token, self._secret)))
        self._headers = {
            "X-Kite-Version": "3",
            "Authorization": f"token {self._api_key}:{token}",
        }
        self._tail = (
            f" HTTP/1.1\r\nHost: {self.base.authority}\r\nUser-Agent: volley\r\nX-Kite-Version: 3\r\n"
            f"Authorization: token {self._api_key}:{token}\r\n"
        )
        self._form = f"{self._tail}Content-Type: application/x-www-form-urlencoded\r\n"
        self.wire.probe = f"GET {self._venue.prefix}/user/profile{self._tail}\r\n".encode("ascii")
        self._place = f"POST {self._venue.prefix}/orders/regular{self._form}Content-Length: "

    def _stream_url(self) -> str:
        host = mapping.STREAM_HOSTS.get(self.base.host)
        root = f"wss://{host}/" if host else f"{self.base.websocket}/stream"
        user = f"&user_id={quote(self._user_id, safe='')}" if self._user_id else ""
        key, token = quote(self._api_key, safe=""), quote(self._token, safe="")
        return f"{root}?api_key={key}&access_token={token}{user}"

    def _unfit(self) -> str:
        """Return why the account cannot be connected, empty when it can."""
        if self._unconfirmed:
            return f"account {self.account_id}: {self._unconfirmed}"
        kept = self._sessions.get(self.account_id, self._api_key)
        if kept is not None:
            self._use(kept.token, kept.expires_at)
        elif self._sessions.is_over(self.account_id, self._token):
            self._use("")
        return "" if self._token else self._log_in("nobody has logged in to Kite today")

    def _log_in(self, why: str) -> str:
        return f"{why}: log in with `volley accounts login {self.account_id}`"

    async def start(self) -> None:
        """Connect, if somebody has logged in; wait for the login otherwise."""
        if self._unfollow is None:
            self._unfollow = self._sessions.follow(self.account_id, self._new_token)
        await self._begin()

    async def _begin(self) -> None:
        problem = self._unfit()
        if problem:
            self._running = True
            self.refuse_credentials(problem)
            return
        self.book.begin_day(datetime.now(mapping.IST).date().isoformat())
        await super().start()
        kept = self._sessions.get(self.account_id, self._api_key)
        if kept is not None and kept.refresh:
            self.hold(self._keep_fresh())
        if self.expires_at is not None:
            self.hold(self._end_on_time())

    async def stop(self) -> None:
        """Close every connection; afterwards nothing is left running."""
        unfollow, self._unfollow = self._unfollow, None
        if unfollow is not None:
            await unfollow()
        await self._login.end()
        restart, self._restart = self._restart, None
        if restart is not None:
            restart.cancel()
            await asyncio.gather(restart, return_exceptions=True)
        await super().stop()

    async def log_in(self, port: int = login.DEFAULT_PORT) -> str:
        """Begin a login in a browser on this machine; return the address to open in it.

        When the person is back, the session starts by itself; a later call takes an earlier one's place.

        Raises:
            ConfigError: the port of the redirect address is taken.
        """
        return await self._login.begin(port)

    def _logged_in(self, token: SessionToken) -> None:
        self._sessions.put(self.account_id, token)
        self._new_token(token)

    def _login_failed(self, why: str) -> None:
        if self._refused:
            self.refuse_credentials(self._log_in(plain(why, self._secrets)))

    def _new_token(self, token: SessionToken) -> None:
        """Take the token of a login made elsewhere, or of a renewal."""
        if token.owner and token.owner != self._api_key:
            return
        self._use(token.token, token.expires_at)
        if self._unconfirmed:
            return
        if not self._refused:
            self.hold(self._socket.reconnect())
        elif self._restart is None or self._restart.done():
            self._restart = asyncio.get_running_loop().create_task(self._start_again())

    async def _start_again(self) -> None:
        await super().stop()
        await self._begin()

    async def _end_on_time(self) -> None:
        while self.expires_at is not None:
            left = (self.expires_at - datetime.now(UTC)).total_seconds()
            if left <= 0:
                self._session_over("the day's login has ended")
                return
            await asyncio.sleep(min(left, _NAP_S))  # in naps: a machine may sleep through the end

    async def _keep_fresh(self) -> None:
        try:
            await self._sessions.keep(self.account_id, self._renew, self._new_token)
        except BrokerAuthError as error:
            self._session_over(str(error))

    async def _renew(self, before: SessionToken) -> SessionToken:
        return await self._login.renew(before)

    def _session_over(self, why: str) -> None:
        self._sessions.drop(self.account_id, self._token)
        self.refuse_credentials(self._log_in(why))

    async def check_credentials(self) -> None:
        """Ask Kite whether the token is good."""
        await self._read("/user/profile")

    def credentials_doubtful(self, status: int, body: bytes) -> bool:
        """Say whether a refusal is about the token; Kite names it, and other 403s are about permissions."""
        return mapping.session_over(status, body)

    def heard(self, exchange: Exchange, status: int, raw: bytes, body: bytes) -> None:
        """Stop at the first word that the session is over: nothing sent after it can be accepted."""
        if mapping.session_over(status, body):
            self._refuse_token(mapping.refusal(status, body).text)
        else:
            super().heard(exchange, status, raw, body)

    def _refuse_token(self, said: str) -> None:
        self._session_over(f"the broker refuses these credentials ({plain(said, self._secrets)})")

    async def follow(self) -> None:
        """Follow the order socket."""
        await self._socket.run()

    # Orders

    def submit(self, order: Order) -> None:
        """Send a new order, if Kite has such orders and takes more of them today."""
        why = self._unsendable(order)
        if why:
            self._report_soon(
                order.cl_ord_id, ExecType.REJECTED, OrderStatus.REJECTED, f"not sent: {why}"
            )
            return
        super().submit(order)

    def _unsendable(self, order: Order) -> str:
        if order.time_in_force not in self.capabilities.time_in_force:
            return f"Kite has no {order.time_in_force.value} orders"
        exchange = mapping.split_symbol(order.symbol)[0]
        if exchange in mapping.UNPRICED and not order.reducing:
            return f"Kite does not tell what a contract of {exchange} is worth"
        return self.allowance.refused(len(self.waiting), reducing=order.reducing)

    def new_order_request(self, order: Order) -> bytes:
        """Write ``POST /orders/regular``."""
        self.book.sent(order)
        body = self._bodies.write(order, self._product)
        return f"{self._place}{len(body)}\r\n\r\n{body}".encode("ascii")

    def judge_new(
        self, order: Order, status: int, raw: bytes, body: bytes
    ) -> Sequence[ExecutionReport]:
        """Say what a reply to a new order proves: 200 that Kite's order system has it, no more."""
        self.allowance.count()
        cl_ord_id = order.cl_ord_id
        if 200 <= status < 300:
            ids, refused = mapping.placed_ids(body)
            if not ids:
                return (unknown(self.account_id, cl_ord_id, "the reply has no order id"),)
            self.book.placed(cl_ord_id, ids, refused)
            text = f"{len(refused)} of its slices were refused: {refused[0]}" if refused else ""
            return (
                ExecutionReport(
                    self.account_id, cl_ord_id, ExecType.NEW, OrderStatus.NEW, ids[0], text=text
                ),
            )
        refusal = mapping.refusal(status, body)
        if refusal.proof:
            return (rejected(self.account_id, cl_ord_id, refusal.text),)
        return (unknown(self.account_id, cl_ord_id, f"HTTP {status}: {refusal.text}"),)

    def cancel(self, order: Order) -> None:
        """Ask to cancel a working order, and every other order at Kite that stands for it."""
        super().cancel(order)
        family = self.book.of(order.order_id) if order.order_id else None
        for order_id in sorted(family.ids - {order.order_id}) if family is not None else ():
            self.wire.send(self._cancel(order_id), Aside(self.heard), CONTROL)

    def cancel_request(self, order: Order) -> bytes | None:
        """Write ``DELETE /orders/regular/{id}``."""
        return self._cancel(order.order_id) if order.order_id else None

    def _cancel(self, order_id: str) -> bytes:
        path = self._venue.prefix + mapping.order_path(order_id)
        return f"DELETE {path}{self._tail}\r\n".encode("ascii")

    def judge_cancel(self, order: Order, status: int, raw: bytes, body: bytes) -> CancelVerdict:
        """Say what a reply to a cancel proves: 200 is a promise, the socket tells the end."""
        if 200 <= status < 300:
            return CancelVerdict("pending")
        refusal = mapping.refusal(status, body)
        if refusal.proof:
            return CancelVerdict("refused", refusal.text)
        return CancelVerdict("unknown", f"HTTP {status}: {refusal.text}")

    # Changes

    def replace(self, order: Order, replacement: Order) -> None:
        """Ask to change an order, in place: Kite keeps its id, and its first tag."""
        why = self._changes.refused(order)
        why = why or self.allowance.refused(len(self.waiting), reducing=True)
        if why:
            loop = asyncio.get_running_loop()
            loop.call_soon(self._changes.not_made, order, replacement, why)
            return
        super().replace(order, replacement)

    def replace_request(self, order: Order, replacement: Order) -> bytes | None:
        """Write ``PUT /orders/regular/{id}``."""
        if not order.order_id:
            return None
        self._changes.sent(order, replacement)
        body = mapping.replace_body(replacement)
        path = self._venue.prefix + mapping.order_path(order.order_id)
        return f"PUT {path}{self._form}Content-Length: {len(body)}\r\n\r\n{body}".encode("ascii")

    def judge_replace(
        self, order: Order, replacement: Order, status: int, raw: bytes, body: bytes
    ) -> Sequence[ExecutionReport]:
        """Say what a reply to a change proves: 200 that it was asked for, the book whether it was made."""
        self.allowance.count()
        if 200 <= status < 300:
            self.hold(self._changes.settle(replacement.cl_ord_id))
            return ()
        refusal = mapping.refusal(status, body)
        if refusal.proof:
            self._changes.forget(replacement.cl_ord_id)
            return (rejected(self.account_id, replacement.cl_ord_id, refusal.text),)
        return (unknown(self.account_id, replacement.cl_ord_id, f"HTTP {status}: {refusal.text}"),)

    # The day's allowance

    def unknown(self, cl_ord_id: str, text: str) -> None:
        """Report that a byte left and no proof came back; it may count at Kite."""
        self.allowance.count()
        super().unknown(cl_ord_id, text)

    def headroom(self) -> Headroom:
        """Return what the session has left; the window is the day's orders, by our own count."""
        return changed(super().headroom(), used=self.allowance.used, limit=DAY_LIMIT)

    # Look-ups

    async def find(
        self, cl_ord_id: str, symbol: str = "", order_id: str = ""
    ) -> ExecutionReport | None:
        """Look an order up in the day's book by its tag, or by Kite's id where a change made the tag old."""
        rows = await self._read_book()
        self._changes.look(cl_ord_id, rows)
        tagged = [row.order_id for row in rows.values() if cl_ord_id in row.tags]
        for one in filter(None, (order_id, *tagged)):
            self.book.claim(cl_ord_id, one)
        family = self.book.named(cl_ord_id)
        return None if family is None else family.report(self.account_id)

    async def open_orders(self) -> list[ExecutionReport]:
        """List working orders, ours and others'."""
        rows = await self._read_book()
        families = {id(f): f for f in (self.book.of(order_id) for order_id in rows) if f}
        return [family.report(self.account_id) for family in families.values() if not family.over]

    async def _read_book(self) -> dict[str, Row]:
        rows = await self._news.read_book()
        self.allowance.at_least(len(rows))
        return rows

    async def positions(self) -> list[BrokerPosition]:
        """List the open positions of the account's product; delivered shares are holdings."""
        body, holdings = await asyncio.gather(self._read("/portfolio/positions"), self._holdings())
        found = portfolio.positions(self.account_id, self._product, body, holdings)
        return [changed(one, symbol=self._venue.spelled(one.symbol)) for one in found]

    async def _holdings(self) -> Any:
        delivered = self._product in {"CNC", "MTF"}
        return await self._read("/portfolio/holdings") if delivered else None

    async def balances(self) -> Balances:
        """Read the account's money."""
        margins, body, holdings = await asyncio.gather(
            self._read("/user/margins"), self._read("/portfolio/positions"), self._holdings()
        )
        return portfolio.balances(self.account_id, margins, body, holdings)

    async def instrument(self, symbol: str) -> Instrument | None:
        """Read what a symbol is, once a day for all accounts; ``None``: the exchange has no such symbol."""
        return await self._venue.instrument(self.account_id, symbol, self._headers)

    async def quotes(self, symbols: Sequence[str]) -> dict[str, Decimal]:
        """Read the last prices of those of ``symbols`` Kite quotes."""
        return await self._venue.quotes(self.account_id, symbols, self._headers)

    async def _read(self, path: str) -> Any:
        await self.read_turn()
        try:
            return await self._venue.read(self.account_id, path, self._headers)
        except BrokerAuthError as error:
            if self._running:
                self._refuse_token(str(error))
            raise BrokerAuthError(
                self._log_in(f"the broker refuses these credentials ({error})"),
                account=self.account_id,
            ) from None

    async def _trades_of(self, order_id: str) -> Any:
        """Read the executions of one order, over the wire."""
        path = mapping.trades_path(order_id)
        look = Look(self.account_id, self.heard)
        request = f"GET {self._venue.prefix}{path}{self._tail}\r\n"
        self.wire.send(request.encode("ascii"), look, CONTROL)
        status, body = await look.answer
        return self._venue.judge(self.account_id, path, status, body)
