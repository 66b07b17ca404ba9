"""What every session over the wire does alike: its life, its state, and orders on their way.

A broker's session says how its broker is spoken (requests as bytes, what a reply proves); this base
sends, classifies what left, and reports. The rule it keeps for all: no answer is never a rejection.
"""

from __future__ import annotations

import asyncio
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Coroutine, Sequence
from dataclasses import replace as changed
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from email.utils import parsedate_to_datetime
from time import monotonic_ns
from typing import Any

from engine.brokers.dial import Route
from engine.brokers.http import BaseUrl, plain
from engine.brokers.order_exchanges import (
    CancelAll,
    Cancellation,
    CancelVerdict,
    Replacement,
    Submission,
)
from engine.brokers.shared_wire import SharedWire, Wire
from engine.brokers.wire import CONTROL, Exchange, WireHub, WirePool, header
from engine.errors import BrokerAuthError, BrokerError, BrokerUnavailable
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
from engine.ports import BrokerSink, Capabilities, Headroom, Swept

START_S = 12.0
"""How long a start waits for the order stream's first attempt."""
LOOK_AFTER_CANCEL_S = 2.0
"""How long after a cancel without an answer its order is looked up."""
DEFAULT_PAUSE_S = 1.0
"""How long a session is quiet after a 429 or 418 that names no time."""
MOST_READ_WAIT_S = 5.0
"""A read that had to wait longer is given up; whoever asked asks again."""
MOST_PAUSE_S = 3 * 86_400.0
"""Binance bans an address for three days at most; nobody's Retry-After is believed beyond that."""


class WireSession(ABC):
    """One account over the wire; see ``engine.ports.BrokerSession``. Subclasses speak for one broker.

    ``shared``: the pool to send over instead of one of its own (which the other knobs are for).
    """

    def __init__(  # noqa: PLR0913 (what a session is made of)
        self,
        account: Account,
        capabilities: Capabilities,
        sink: BrokerSink,
        hub: WireHub,
        base: BaseUrl,
        *,
        secrets: Sequence[str],
        order_connections: int = 1,
        idle_s: float = 60.0,
        egress: Route | None = None,
        connects_per_second: float | None = None,
        shared: SharedWire | None = None,
    ) -> None:
        self.account_id = account.id
        self.capabilities = capabilities
        self.state = ConnectionState.DISCONNECTED
        self.base = base
        self.waiting: dict[str, Order] = {}  # sent, no reply yet
        self.streams = True
        """Whether ``start`` follows the order stream; brokers allow few, and another process may hold them."""
        self.on_cancel_written: Callable[[Order, int], None] | None = None
        """Told the order and ``time.monotonic_ns`` of each cancel's first byte, once its answer is there."""
        self.expires_at: datetime | None = None
        self._sink = sink
        self._secrets = tuple(secrets)
        self.wire: Wire
        if shared is not None:
            self.wire = shared.member(
                on_change=self._wire_changed, on_probe=self._probed, on_free=self._wire_free
            )
        else:
            self.wire = WirePool(
                hub,
                base.host,
                base.port,
                tls=base.tls,
                orders=order_connections,
                idle_s=idle_s,
                egress=egress,
                connects_per_second=(
                    capabilities.connects_per_second
                    if connects_per_second is None
                    else connects_per_second
                ),
                on_probe=self._probed,
                on_change=self._wire_changed,
            )
        self._tasks: set[asyncio.Task[None]] = set()
        self._settled = asyncio.Event()  # the stream's first attempt is over
        self._running = False
        self._stream_up = False
        self._stream_reason = "the order stream is not connected"
        self._refused = self._told = ""
        self._verifying = False
        self._paused_until_ns = 0
        self._heard_ns = 0
        self._turn: Callable[[], float] | None = None
        self._date: Callable[[datetime, int, int], None] | None = None

    # How a broker is spoken

    @abstractmethod
    def new_order_request(self, order: Order) -> bytes:
        """Write the request that places ``order``."""

    @abstractmethod
    def cancel_request(self, order: Order) -> bytes | None:
        """Write the request that cancels ``order``; ``None``: it needs the broker's id, not known yet."""

    def cancel_all_request(self) -> bytes | None:
        """Write the request that cancels whatever works in the account; ``None``: the broker has none."""
        return None

    def judge_cancel_all(self, status: int, body: bytes) -> Sequence[str] | None:
        """Return the ids of the orders a reply to it says it was for; ``None``: it proves nothing."""
        del status, body
        return None

    @abstractmethod
    def replace_request(self, order: Order, replacement: Order) -> bytes | None:
        """Write the request that replaces ``order``; ``None``: it needs the broker's id, not known yet."""

    @abstractmethod
    def judge_new(
        self, order: Order, status: int, raw: bytes, body: bytes
    ) -> Sequence[ExecutionReport]:
        """Say what a reply to a new order proves: its report first, then those of exits made with it."""

    @abstractmethod
    def judge_cancel(self, order: Order, status: int, raw: bytes, body: bytes) -> CancelVerdict:
        """Say what a reply to a cancel proves."""

    @abstractmethod
    def judge_replace(
        self, order: Order, replacement: Order, status: int, raw: bytes, body: bytes
    ) -> Sequence[ExecutionReport]:
        """Say what a reply to a replacement proves, the replacement's report first.

        ``REJECTED`` there means that the replacement never existed and ``order`` goes on; the base then says
        so of ``order``, too.
        """

    def credentials_doubtful(self, status: int, body: bytes) -> bool:
        """Say whether a refusal may mean the credentials."""
        del body
        return status in {401, 403}

    def usage(self, status: int, raw: bytes) -> tuple[int, int, float] | None:
        """Return (used, limit, seconds to the reset) of the broker's own window as a reply tells it."""
        del status, raw
        return None

    @property
    def limits_address(self) -> bool:
        """Say whether this broker's 429 and 418 speak of the address, not of the account."""
        return self.capabilities.per_address_second > 0

    async def check_credentials(self) -> None:
        """Ask the broker whether it takes these credentials.

        Raises:
            BrokerAuthError: it does not.
            BrokerError: it cannot be asked now.
        """
        await self.balances()

    @abstractmethod
    async def follow(self) -> None:
        """Follow the order stream until cancelled, telling ``stream_changed`` and ``streamed``."""

    # Life

    async def start(self) -> None:
        """Connect, check the credentials, warm the wire and follow the order stream."""
        self._refused = ""
        self._stream_up = False
        self._settled.clear()
        self._set(ConnectionState.CONNECTING, "connecting")
        # Without the stream what comes first is a cancel: it tells as much of the credentials.
        checks = [self._verify()] if self.streams else []
        await asyncio.gather(self.wire.start(), *checks)
        if not self.streams:
            self.stream_changed(True, "")
        elif not self._refused:
            self.hold(self.follow())
            try:
                async with asyncio.timeout(START_S):
                    await self._settled.wait()
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
        return not self._refused and not self._pausing() and self.wire.ready()

    def hold(self, work: Coroutine[Any, Any, None]) -> None:
        """Run work beside; it ends with the session."""
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    # State

    def _wire_changed(self, up: bool, reason: str) -> None:
        del up, reason
        self._refresh()

    def _wire_free(self) -> None:
        self._sink.on_ready(self.account_id)

    def stream_changed(self, up: bool, reason: str) -> None:
        """Note that the order stream came up, went down, or could not be reached."""
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
        if state is not self.state or (state is ConnectionState.ERROR and text != self._told):
            self.state, self._told = state, text
            self._sink.on_connection(self.account_id, state, plain(text, self._secrets))

    def verify(self) -> None:
        """Ask the broker whether the credentials still hold, after a refusal that may mean them."""
        if not self._verifying and self._running:
            self._verifying = True
            self.hold(self._verify())

    async def _verify(self) -> None:
        try:
            await self.check_credentials()
            self._heard_ns = monotonic_ns()
        except BrokerAuthError as error:
            self.refuse_credentials(str(error))
        except BrokerError:
            pass  # says nothing about the credentials
        finally:
            self._verifying = False

    def pause(self, seconds: float | None) -> None:
        """Send no order for a while: the broker asked for quiet, for ``seconds`` or without saying."""
        seconds = min(DEFAULT_PAUSE_S if seconds is None else max(seconds, 0.0), MOST_PAUSE_S)
        until = monotonic_ns() + int(seconds * 1e9)
        self._paused_until_ns = max(self._paused_until_ns, until)
        self._sink.on_limits(
            self.account_id, retry_after_s=seconds, address_wide=self.limits_address
        )

    def _pausing(self) -> bool:
        return self._paused_until_ns > 0 and monotonic_ns() < self._paused_until_ns

    def headroom(self) -> Headroom:
        """Return what the session has left."""
        probed = None
        if self._heard_ns:
            probed = datetime.now(UTC) - timedelta(
                microseconds=(monotonic_ns() - self._heard_ns) / 1000
            )
        return Headroom(
            expires_at=self.expires_at,
            probed_at=probed,
            warm=self.wire.warm,
            wanted=self.wire.wanted,
            paused_until_ns=self._paused_until_ns if self._pausing() else 0,
            todo=plain(self._refused, self._secrets),
        )

    async def market_open(self, symbol: str) -> bool | None:
        """Say whether the market of ``symbol`` is open; ``None``: this broker has no such clock."""
        del symbol
        return None

    def refusal(self, order_type: OrderType, time_in_force: TimeInForce) -> str:
        """Say why this account can have no such order, empty if it can."""
        return self.capabilities.refusal(order_type, time_in_force)

    def works_exits(self, order: Order) -> bool:
        """Say whether the broker itself will work this entry's exits."""
        del order
        return False

    # Orders

    def submit(self, order: Order) -> None:
        """Send a new order."""
        if self._refused:
            self._report_soon(order.cl_ord_id, ExecType.UNSENT, None, self._refused)
            return
        try:
            request = self.new_order_request(order)
        except Exception as error:  # noqa: BLE001 (whatever it is, an order is never left without news)
            self.complain(error)
            self._report_soon(order.cl_ord_id, ExecType.UNSENT, None, _unwritten(error))
            return
        self.waiting[order.cl_ord_id] = order
        self.wire.send(request, Submission(self, order))

    def cancel(self, order: Order) -> None:
        """Ask to cancel a working order."""
        try:
            request = self.cancel_request(order)
        except Exception as error:  # noqa: BLE001 (one order's fault must not stop a kill of all)
            self.complain(error)
            self._report_soon(order.cl_ord_id, ExecType.CANCEL_REJECTED, None, _unwritten(error))
            return
        if request is None:
            self.hold(self._cancel_once_found(order))
        else:
            self.wire.send(request, Cancellation(self, order), CONTROL)

    def cancel_all(self, done: Callable[[Swept], None]) -> bool:
        """Ask to cancel whatever works in the account, ours and others', in one request; say whether the broker can."""
        try:
            request = self.cancel_all_request()
        except Exception as error:  # noqa: BLE001 (as above: each is asked for by itself then)
            self.complain(error)
            request = None
        if request is not None:
            self.wire.send(request, CancelAll(self, done), CONTROL)
        return request is not None

    def replace(self, order: Order, replacement: Order) -> None:
        """Ask to put ``replacement`` in the place of ``order``."""
        exchange = Replacement(self, order, replacement)
        try:
            request = self.replace_request(order, replacement)
        except Exception as error:  # noqa: BLE001 (as above: neither order is left without news)
            self.complain(error)
            self._soon(exchange.on_failure, False, _unwritten(error))
            return
        if request is None:
            text = "the broker's id of the order to replace is not known yet"
            self._soon(exchange.on_failure, False, text)
        else:
            self.wire.send(request, exchange, CONTROL)

    async def _cancel_once_found(self, order: Order) -> None:
        """Find the broker's id first; an order on its way has the settling time to appear."""
        deadline = time.monotonic() + self.capabilities.settle_s
        text = "the broker does not have this order"
        while not order.order_id:
            try:
                report = await self.find(order.cl_ord_id, order.symbol, order.order_id)
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

    def pace(self, turn: Callable[[], float], date: Callable[[datetime, int, int], None]) -> None:
        """Ask ``turn`` before each read, and tell ``date`` the broker's clock (``ports.PacedSession``)."""
        self._turn, self._date = turn, date

    async def read_turn(self) -> None:
        """Wait until a read may go: it counts against the limits, and a broker that asked for quiet gets it.

        Raises:
            BrokerUnavailable: that would take too long; nothing was asked.
        """
        if self._turn is None:
            return
        waited = 0.0
        while (wait := self._turn()) > 0:
            waited += wait
            if waited > MOST_READ_WAIT_S:
                text = f"account {self.account_id}: not asked, its limits leave no read for {wait:.0f} s"
                raise BrokerUnavailable(text, account=self.account_id)
            await asyncio.sleep(wait)

    def _probed(self, exchange: Exchange, status: int, raw: bytes, body: bytes) -> None:
        self.heard(exchange, status, raw, body)
        if self._date is None or not exchange.first_byte_ns:
            return
        try:
            date = parsedate_to_datetime(header(raw, "date"))
        except ValueError:
            return  # none, or none that can be read
        if date.tzinfo is not None:
            self._date(date, exchange.first_byte_ns, exchange.reply_ns)

    def look_up_later(self, order: Order) -> None:
        """Find out what became of a cancel without an answer."""
        if self._running:
            self.hold(self._look_up(order))

    async def _look_up(self, order: Order) -> None:
        # The order is there to be seen; a cancel that comes even later is told by the stream.
        await asyncio.sleep(min(self.capabilities.settle_s, LOOK_AFTER_CANCEL_S))
        try:
            report = await self.find(order.cl_ord_id, order.symbol, order.order_id)
        except BrokerError as error:
            self.report(order.cl_ord_id, ExecType.CANCEL_REJECTED, None, f"no proof: {error}")
            return
        if report is None:
            text = "the broker does not have this order"
            self.report(order.cl_ord_id, ExecType.CANCEL_REJECTED, None, text)
            return
        self.deliver(report)
        if report.status is not None and report.status.working:
            self.report(order.cl_ord_id, ExecType.CANCEL_REJECTED, None, "it is still working")

    # Look-ups

    @abstractmethod
    async def find(
        self, cl_ord_id: str, symbol: str = "", order_id: str = ""
    ) -> ExecutionReport | None:
        """Look an order up by client id; ``None`` is the broker's word that it has none."""

    @abstractmethod
    async def open_orders(self) -> list[ExecutionReport]:
        """List working orders, ours and others'."""

    @abstractmethod
    async def positions(self) -> list[BrokerPosition]:
        """List open positions."""

    @abstractmethod
    async def balances(self) -> Balances:
        """Read the account's money."""

    @abstractmethod
    async def instrument(self, symbol: str) -> Instrument | None:
        """Read what a symbol is; ``None``: the broker has no such symbol."""

    @abstractmethod
    async def quotes(self, symbols: Sequence[str]) -> dict[str, Decimal]:
        """Read current prices of those of ``symbols`` the broker quotes."""

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

    def unknown(self, cl_ord_id: str, text: str) -> None:
        """Report that a byte left and no proof came back."""
        self.report(cl_ord_id, ExecType.UNKNOWN, OrderStatus.UNKNOWN, text)

    def complain(self, error: Exception) -> None:
        """Tell that a request could not be written, or a reply not judged: a fault of ours, or of the broker's."""
        asyncio.get_running_loop().call_exception_handler(
            {
                "message": f"account {self.account_id}: a request cannot be written or a reply read",
                "exception": error,
            }
        )

    def _report_soon(
        self, cl_ord_id: str, exec_type: ExecType, status: OrderStatus | None, text: str
    ) -> None:
        self._soon(self.report, cl_ord_id, exec_type, status, text)

    @staticmethod
    def _soon(call: Callable[..., None], *arguments: object) -> None:
        # Never from inside submit: the caller may be in the middle of a fan-out.
        asyncio.get_running_loop().call_soon(call, *arguments)

    def streamed(self, report: ExecutionReport) -> None:
        """Take a report from the order stream; it may come before the reply to the order it speaks of."""
        order = self.waiting.get(report.cl_ord_id)
        if order is not None and not order.acked_ns:
            order.acked_ns = monotonic_ns()
        self.deliver(report)

    def heard(self, exchange: Exchange, status: int, raw: bytes, body: bytes) -> None:
        """Take what every reply tells beside its answer: limits, life, doubts about the credentials."""
        self._heard_ns = exchange.reply_ns
        found = self.usage(status, raw)
        if found is not None:
            used, limit, resets_in_s = found
            self._sink.on_limits(
                self.account_id, used=used, limit=limit, resets_in_s=resets_in_s,
                address_wide=self.limits_address,
            )  # fmt: skip
        if status >= 400:
            if status in {418, 429}:
                self.pause(retry_after(raw))
            elif self.credentials_doubtful(status, body):
                self.verify()


def _unwritten(error: Exception) -> str:
    return f"its request cannot be written: {type(error).__name__}: {error}"


def retry_after(raw: bytes) -> float | None:
    """Return the seconds a reply asks to wait (RFC 9110 §10.2.3), ``None`` if it names none we can read."""
    text = header(raw, "retry-after")
    return float(text) if text.isascii() and text.isdigit() and len(text) < 8 else None
