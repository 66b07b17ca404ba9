"""One account at Binance Spot: what it sends, what the replies prove, what its stream tells."""

from __future__ import annotations

import asyncio
import contextlib
import re
from collections.abc import Mapping, Sequence
from dataclasses import replace as changed
from time import monotonic_ns
from typing import Any

from engine.brokers.binance import mapping, requests
from engine.brokers.binance.reads import RECV_WINDOW_MS, BinanceReads
from engine.brokers.binance.signing import websocket_payload
from engine.brokers.http import plain
from engine.brokers.order_exchanges import CancelVerdict
from engine.brokers.reading import read_object, rejected, unknown
from engine.brokers.wire import Exchange
from engine.errors import BrokerError
from engine.model.enums import ExecType, OrderStatus, OrderType, TimeInForce
from engine.model.identifiers import STOP_LEG, TARGET_LEG
from engine.model.messages import ExecutionReport
from engine.model.order import Order
from engine.ports import Headroom

_WAY_MS = 500
"""What a request may take on its way beyond the moment up to which its order may be sent."""
_WEIGHT = re.compile(rb"(?i)\r\nx-mbx-used-weight-1m: *([0-9]{1,9})")
_ORDERS = re.compile(rb"(?i)\r\nx-mbx-order-count-10s: *([0-9]{1,9})")
_READ_ERRORS = (ValueError, KeyError, TypeError)


class BinanceSession(BinanceReads):
    """One account; see ``engine.ports.BrokerSession``."""

    # Life

    async def check_credentials(self) -> None:
        """Read something light that needs a valid signature; the clock and the limits in force before it."""
        await self._clock.fresh(self.account_id)
        await self._venue.read_limits(self.account_id)
        count = self._venue.limits.get(("ORDERS", 10))
        if count is not None:
            self.capabilities = changed(
                self.capabilities, max_orders_per_second=count / 10, burst=count
            )
        reply = await self._signed("/api/v3/openOrderList", {}, 6)
        if reply.status != 200:
            raise self._refused_read("/api/v3/openOrderList", reply)

    async def follow(self) -> None:
        """Follow the user data stream, and keep the broker's clock."""
        self.hold(self._keep_clock())
        await self._venue.streams.follow(self)

    async def _keep_clock(self) -> None:
        while True:
            try:
                await self._clock.fresh(self.account_id)
            except BrokerError:
                await asyncio.sleep(5.0)
            else:
                await asyncio.sleep(60.0)

    def ready(self) -> bool:
        """Say whether ``submit`` would write at once; not while a refused clock is being set."""
        return super().ready() and not self._clock.doubtful

    def clock_refused(self) -> None:
        """Set the clock: the broker refused a time signed by it."""
        self._clock.doubtful = True
        self.hold(self._refresh_clock())

    async def _refresh_clock(self) -> None:
        with contextlib.suppress(BrokerError):  # the next refusal asks again, and so does time
            await self._clock.refresh(self.account_id)

    # What is sent

    def refusal(self, order_type: OrderType, time_in_force: TimeInForce) -> str:
        """Say why this account can have no such order, empty if it can."""
        return requests.refusal(order_type, time_in_force, day_as_gtc=self._day_as_gtc)

    def works_exits(self, order: Order) -> bool:
        """Say whether this entry and its exits go out as one order list."""
        return requests.works_exits(order) and not self.refusal(
            order.order_type, order.time_in_force
        )

    def _request(self, method: str, path: str, query: str, send_before_ns: int = 0) -> bytes:
        """Sign a request; it is valid no longer than its order may still be sent."""
        window = RECV_WINDOW_MS
        if send_before_ns:
            left_ms = (send_before_ns - monotonic_ns()) // 1_000_000
            window = max(1, min(window, left_ms + _WAY_MS))
        payload = f"{query}&recvWindow={window}&timestamp={self._clock.now_ms()}"
        signature = self._signer.sign_query(payload)
        return f"{method} {path}?{payload}&signature={signature}{self._tail}".encode("ascii")

    def submit(self, order: Order) -> None:
        """Send a new order."""
        text = self.refusal(order.order_type, order.time_in_force)
        if text:
            self._report_soon(
                order.cl_ord_id, ExecType.REJECTED, OrderStatus.REJECTED, f"not sent: {text}"
            )
            return
        self._memory.note(order.cl_ord_id, order.symbol)
        super().submit(order)

    def new_order_request(self, order: Order) -> bytes:
        """Write ``POST /api/v3/order``, or ``orderList/otoco`` or ``oto`` for an entry with its exits."""
        if (order.stop_loss is None and order.take_profit is None) or not self.works_exits(order):
            query = self._queries.write(order)
            return self._request("POST", "/api/v3/order", query, order.send_before_ns)
        for leg in (STOP_LEG, TARGET_LEG):
            self._memory.note_leg(order, leg)
        path, query = requests.list_request(order)
        return self._request("POST", path, query, order.send_before_ns)

    def cancel_request(self, order: Order) -> bytes | None:
        """Write ``DELETE /api/v3/order``, by our id while the broker's is not known."""
        which = requests.which_order(order, ours="origClientOrderId", theirs="orderId")
        query = f"symbol={requests.in_query(order.symbol)}&{which}"
        return self._request("DELETE", "/api/v3/order", query)

    def replace(self, order: Order, replacement: Order) -> None:
        """Cancel and send anew in one request; an order of a list cannot be replaced without ending the list."""
        text = self.refusal(replacement.order_type, replacement.time_in_force)
        if order.parent or self.works_exits(order) or self.works_exits(replacement):
            text = "Binance cannot replace an order that has exits with it; cancel it and send a new one"
        elif order.cl_ord_id in self._replacing:
            text = "another replacement of this order is on its way"
        if text:
            self._report_soon(
                replacement.cl_ord_id, ExecType.REJECTED, OrderStatus.REJECTED, f"not sent: {text}"
            )
            return
        self._memory.note(replacement.cl_ord_id, replacement.symbol)
        self._replacing[order.cl_ord_id] = (replacement.cl_ord_id, [])
        super().replace(order, replacement)

    def replace_request(self, order: Order, replacement: Order) -> bytes | None:
        """Write ``POST /api/v3/order/cancelReplace``."""
        query = requests.replace_query(order, replacement)
        path = "/api/v3/order/cancelReplace"
        return self._request("POST", path, query, replacement.send_before_ns)

    # What replies prove

    def heard(self, exchange: Exchange, status: int, raw: bytes, body: bytes) -> None:
        """Take limits and doubts; a 429 for too many unfilled orders is this account's alone."""
        self._own_limit = status == 429 and mapping.error_of(body)[0] == mapping.TOO_MANY_ORDERS
        found = _ORDERS.search(raw)
        if found is not None:
            self._orders_used = int(found[1])
        super().heard(exchange, status, raw, body)

    @property
    def limits_address(self) -> bool:
        """Say whether the last limit told is the address's."""
        return not self._own_limit

    def usage(self, status: int, raw: bytes) -> tuple[int, int, float] | None:
        """Return the address's request weight of this minute."""
        del status
        found = _WEIGHT.search(raw)
        if found is None:
            return None
        used = int(found[1])
        self._venue.weights.told(used)
        return used, self._venue.weights.limit, 60.0 - self._clock.now_ms() % 60_000 / 1000

    def headroom(self) -> Headroom:
        """Return what is left: the account's unfilled orders of ten seconds."""
        return changed(
            super().headroom(),
            used=self._orders_used,
            limit=self._venue.limits.get(("ORDERS", 10), self.capabilities.burst),
        )

    def credentials_doubtful(self, status: int, body: bytes) -> bool:
        """Say whether a refusal is about the key, its rights or its signature."""
        return mapping.refused_key(mapping.error_of(body)[0])

    def judge_new(
        self, order: Order, status: int, raw: bytes, body: bytes
    ) -> Sequence[ExecutionReport]:
        """Say what a reply to a new order proves."""
        del raw
        reply = read_object(body)
        if 200 <= status < 300:
            return self._placed(order, reply)
        code, words = mapping.code_of(reply)
        if code == mapping.NEW_ORDER_REJECTED and words == mapping.DUPLICATE and status == 400:
            self.hold(self._adopt(order))
            return ()
        if code == mapping.BAD_SYMBOL:
            words = f"{words} {order.symbol}"
        report = mapping.refused_or_unknown(self.account_id, order.cl_ord_id, status, code, words)
        if code == mapping.CLOCK:
            self.clock_refused()
        return (report,)

    def _placed(self, order: Order, reply: Mapping[str, Any] | None) -> Sequence[ExecutionReport]:
        try:
            if reply is None:
                raise ValueError("no JSON object")
            if "orderReports" in reply:
                reports = mapping.list_reports(self.account_id, order, reply)
            else:
                reports = mapping.placed(self.account_id, order.cl_ord_id, reply)
        except _READ_ERRORS as error:
            text = f"the reply cannot be read: {plain(error)}"
            return (unknown(self.account_id, order.cl_ord_id, text),)
        return self._fresh(reports)

    def _fresh(self, reports: Sequence[ExecutionReport]) -> list[ExecutionReport]:
        """Leave out executions the stream has told already."""
        self._holdings = (0, None)
        return [one for one in reports if not one.exec_id or self._memory.is_new(one.exec_id)]

    async def _adopt(self, order: Order) -> None:
        """The broker has an open order of this id: ours, sent before, or another, which halts the account (F15)."""
        try:
            report = await self.find(order.cl_ord_id, order.symbol)
        except BrokerError as error:
            self.unknown(order.cl_ord_id, f"the broker has this id already: {error}")
            return
        except asyncio.CancelledError:
            self.unknown(order.cl_ord_id, "the broker has this id already")
            raise
        if report is None:
            self.unknown(order.cl_ord_id, "the broker has this id already, and then not")
        else:
            self.deliver(report)

    def judge_cancel(self, order: Order, status: int, raw: bytes, body: bytes) -> CancelVerdict:
        """Say what a reply to a cancel proves: Binance cancels before it answers."""
        del raw
        reply = read_object(body)
        if 200 <= status < 300:
            try:
                reports = self._canceled(reply)
            except _READ_ERRORS as error:
                return CancelVerdict("unknown", f"the reply cannot be read: {plain(error)}")
            return CancelVerdict("done", reports=reports)
        code, words = mapping.code_of(reply)
        text = f"{words} ({code})" if code else f"HTTP {status}"
        if code == mapping.CANCEL_REJECTED and not order.order_id:
            # It may have overtaken its order: look until that is there, then once more.
            self.hold(self._cancel_once_found(order))
            return CancelVerdict("pending", f"not there yet: {text}")
        if code == mapping.CLOCK:
            self.clock_refused()
        elif not mapping.throttled(status, code) and not mapping.proves_refusal(status, code):
            return CancelVerdict("unknown", text)
        elif code == mapping.CANCEL_REJECTED and order.status.working:
            self.hold(self._tell_state(order))
        return CancelVerdict("refused", text)

    def _canceled(self, reply: Mapping[str, Any] | None) -> list[ExecutionReport]:
        """Read one canceled order, or all of a list: one of them canceled is all of it canceled."""
        if reply is None:
            raise ValueError("no JSON object")
        told = reply.get("orderReports", [reply])
        self._holdings = (0, None)
        return [
            self._memory.named(mapping.told_order(self.account_id, one, ExecType.CANCELED))
            for one in told
        ]

    async def _tell_state(self, order: Order) -> None:
        """Say what became of an order that is no longer there to be canceled."""
        try:
            report = await self.find(order.cl_ord_id, order.symbol)
        except BrokerError:
            return  # the stream or the next reconciliation tells
        if report is not None:
            self.deliver(report)

    def judge_replace(
        self, order: Order, replacement: Order, status: int, raw: bytes, body: bytes
    ) -> Sequence[ExecutionReport]:
        """Say what a cancelReplace did: both, neither, or the cancel alone (409)."""
        del raw
        _, held = self._replacing.pop(order.cl_ord_id, ("", []))
        reply = read_object(body) or {}
        code, words = mapping.code_of(reply)
        told = reply if 200 <= status < 300 else reply.get("data")
        if not isinstance(told, dict) or "cancelResult" not in told:
            if code == mapping.CLOCK:
                self.clock_refused()
            report = mapping.refused_or_unknown(
                self.account_id, replacement.cl_ord_id, status, code, words
            )
            return [*held, report]
        try:
            return self._replaced(order, replacement, told) or held
        except _READ_ERRORS as error:
            text = f"the reply cannot be read: {plain(error)}"
            return [*held, unknown(self.account_id, replacement.cl_ord_id, text)]

    def _replaced(
        self, order: Order, replacement: Order, told: Mapping[str, Any]
    ) -> list[ExecutionReport]:
        old, new = told["cancelResponse"], told["newOrderResponse"]
        if told["cancelResult"] != "SUCCESS":
            code, words = mapping.code_of(old)
            if order.status.working:
                self.hold(self._tell_state(order))
            return [rejected(self.account_id, replacement.cl_ord_id, f"{words} ({code})")]
        [end] = self._canceled(old)
        if told["newOrderResult"] == "SUCCESS":
            reports = mapping.placed(
                self.account_id, replacement.cl_ord_id, new, replaces=end.order_id
            )
            end.exec_type, end.status = ExecType.REPLACED, OrderStatus.REPLACED
            return [*self._fresh(reports), end]
        code, words = mapping.code_of(new)
        if mapping.proves_refusal(400, code) or mapping.throttled(429, code):
            text = f"the old order is canceled, the new one refused: {words} ({code})"
            return [end, rejected(self.account_id, replacement.cl_ord_id, text)]
        text = f"the old order is canceled, of the new one there is no proof: {words} ({code})"
        return [end, unknown(self.account_id, replacement.cl_ord_id, text)]

    def deliver(self, report: ExecutionReport) -> None:
        """Pass a report on; news of a replacement without its reply ends the wait of what it replaces."""
        super().deliver(report)
        if self._replacing and report.exec_type in {ExecType.UNKNOWN, ExecType.REJECTED}:
            for old, (new, held) in list(self._replacing.items()):
                if new == report.cl_ord_id:
                    del self._replacing[old]
                    for one in held:
                        super().deliver(one)

    # The order stream

    def subscription(self) -> dict[str, str | int]:
        """Return the signed parameters of a subscription."""
        params: dict[str, str | int] = {
            "apiKey": self.stream_key,
            "recvWindow": RECV_WINDOW_MS,
            "timestamp": self._clock.now_ms(),
        }
        return {**params, "signature": self._signer.sign(websocket_payload(params))}

    def take_event(self, event: Mapping[str, Any]) -> None:
        """Take one event of the user data stream.

        Raises:
            BrokerProtocolError: an order's event that cannot be read.
        """
        if event.get("e") != "executionReport":
            self._holdings = (0, None)  # balances changed; lists are told by their orders
            return
        kind = event.get("x")
        if kind == "NEW" and event.get("o") == "MARKET":
            return  # what it comes to follows at once
        if kind == "TRADE" and self._memory.knows(mapping.event_exec_id(event)):
            return  # the reply has told it
        report = self._memory.named(mapping.event_report(self.account_id, event))
        if report.exec_id:
            self._memory.is_new(report.exec_id)
        self._holdings = (0, None)
        replacing = self._replacing.get(report.cl_ord_id)
        if replacing is not None and report.exec_type is ExecType.CANCELED:
            replacing[1].append(report)  # canceled, or replaced? The reply tells
            return
        self.streamed(report)
