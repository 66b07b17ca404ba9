"""One account at an exchange of ccxt's: orders out, updates in by polling."""

from __future__ import annotations

import asyncio
import contextlib
import random
from collections.abc import Coroutine
from dataclasses import dataclass
from dataclasses import replace as changed
from datetime import UTC, datetime, timedelta
from time import monotonic_ns
from typing import Any

from engine.brokers.ccxt import mapping
from engine.brokers.ccxt.reads import PAUSE_S, Reader, Shared, Terms
from engine.brokers.ccxt.tracing import SENDING, TooLateError
from engine.brokers.reading import unsent
from engine.errors import (
    BrokerAuthError,
    BrokerError,
    BrokerProtocolError,
    BrokerRejected,
    OutcomeUnknown,
)
from engine.model.enums import (
    ConnectionState,
    ExecType,
    OrderStatus,
    OrderType,
    TimeInForce,
)
from engine.model.messages import ExecutionReport
from engine.model.order import Order
from engine.ports import BrokerSink, Headroom

POLL_S = 1.0
PROBE_S = 30.0
RETRY_S = 1.0
RETRY_MOST_S = 30.0


@dataclass(slots=True)
class _Watched:
    """An order that may still change at the exchange."""

    cl_ord_id: str
    symbol: str
    order_id: str
    since_ns: int


class CcxtSession:
    """One account; see ``engine.ports.BrokerSession``."""

    def __init__(
        self, account_id: str, exchange: Any, shared: Shared, terms: Terms, sink: BrokerSink
    ) -> None:
        self.account_id = account_id
        self.capabilities = terms.capabilities
        self.state = ConnectionState.DISCONNECTED
        self._exchange = exchange
        self._shared = shared
        self._terms = terms
        self._sink = sink
        self._reader = reader = Reader(account_id, exchange, shared, terms, self._pause)
        self.positions = reader.positions
        self.balances = reader.balances
        self.instrument = reader.instrument
        self.quotes = reader.quotes
        self._tasks: set[asyncio.Task[None]] = set()
        self._sending = asyncio.Lock()  # orders leave in the order they were submitted
        self._waiting = 0  # submitted, not answered yet
        self._look = asyncio.Event()  # something was sent: look soon
        self._watched: dict[str, _Watched] = {}  # by client id
        self._running = False
        self._refused = ""
        self._paused_until_ns = 0

    # Life

    async def start(self) -> None:
        """Load the markets, check the credentials and begin to follow the orders."""
        self._running, self._refused = True, ""
        self._set(ConnectionState.CONNECTING, "connecting")
        self._shared.equip(self._exchange)
        await self._connect()
        self._hold(self._follow())

    async def stop(self) -> None:
        """End everything; the shared connections stay."""
        self._running = False
        # Again and again: a library on the way may swallow a cancellation.
        while tasks := list(self._tasks):
            for task in tasks:
                task.cancel()
            await asyncio.wait(tasks, timeout=1.0)
        self._exchange.session = None  # not its own to close
        self._set(ConnectionState.DISCONNECTED, "stopped")

    async def _connect(self) -> None:
        try:
            await self._reader.load_markets()
            await self.balances()
        except BrokerAuthError as error:
            self._refuse(str(error))
        except BrokerError as error:
            self._set(ConnectionState.DISCONNECTED, str(error))
        else:
            self._set(ConnectionState.CONNECTED, "connected")

    def ready(self) -> bool:
        """Say whether ``submit`` would send at once."""
        return (
            self._running
            and not self._refused
            and self._exchange.markets is not None
            and not self._waiting
            and monotonic_ns() >= self._paused_until_ns
        )

    def _refuse(self, reason: str) -> None:
        self._refused = reason
        self._set(ConnectionState.ERROR, reason)

    def _set(self, state: ConnectionState, text: str) -> None:
        if state is not self.state:
            self.state = state
            self._sink.on_connection(self.account_id, state, self._reader.plain(text))

    def _hold(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    def headroom(self) -> Headroom:
        """Return what the session has left."""
        now = monotonic_ns()
        probed = None
        if self._reader.heard_ns:
            probed = datetime.now(UTC) - timedelta(
                microseconds=(now - self._reader.heard_ns) / 1000
            )
        up = self._running and not self._refused
        return Headroom(
            probed_at=probed,
            warm=int(up),
            wanted=1,
            paused_until_ns=self._paused_until_ns if now < self._paused_until_ns else 0,
            todo=self._reader.plain(self._refused),
        )

    async def market_open(self, symbol: str) -> bool | None:
        """Say nothing: ccxt has no market clock."""
        del symbol
        return None

    def refusal(self, order_type: OrderType, time_in_force: TimeInForce) -> str:
        """Say why this account can have no such order, empty if it can."""
        return self.capabilities.refusal(order_type, time_in_force)

    def works_exits(self, order: Order) -> bool:
        """Say no: exits along with an entry differ too much between exchanges."""
        del order
        return False

    def _pause(self) -> None:
        self._paused_until_ns = max(self._paused_until_ns, monotonic_ns() + int(PAUSE_S * 1e9))
        self._sink.on_limits(self.account_id, retry_after_s=PAUSE_S, address_wide=True)

    # Orders

    def submit(self, order: Order) -> None:
        """Send a new order."""
        refused = mapping.refusal(order, day_as_gtc=self._terms.day_as_gtc)
        if refused:
            self._soon(
                order.cl_ord_id, ExecType.REJECTED, OrderStatus.REJECTED, f"not sent: {refused}"
            )
        elif not self._running or self._refused:
            reason = self._refused or "the session is not running"
            self._soon(order.cl_ord_id, ExecType.UNSENT, None, reason)
        else:
            self._waiting += 1
            self._hold(self._place(order))

    async def _place(self, order: Order) -> None:
        try:
            async with self._sending:
                report = await self._placed(order)
        except asyncio.CancelledError:
            self._report_stopped(order)
            raise
        finally:
            self._waiting -= 1
        if not order.acked_ns and order.first_byte_ns:
            order.acked_ns = monotonic_ns()
        self._deliver(report)
        if report.status is not None and not report.status.terminal:
            self._watch(order.cl_ord_id, order.symbol, report.order_id)

    async def _placed(self, order: Order) -> ExecutionReport:
        """Place an order; return what is proven of it."""
        account, cl_ord_id = self.account_id, order.cl_ord_id
        SENDING.set(order)
        try:
            told = await self._exchange.create_order(**mapping.order_arguments(order))
            self._reader.heard_ns = monotonic_ns()
            return mapping.placed(account, cl_ord_id, told)
        except TooLateError as error:
            return unsent(account, cl_ord_id, str(error))
        except Exception as error:  # noqa: BLE001 (ccxt's own, and what its parsers trip over)
            if mapping.throttled(error):
                self._pause()
            elif mapping.credentials_refused(error):
                self._hold(self._check_credentials())
            return mapping.judge_new(account, cl_ord_id, error, left=order.first_byte_ns > 0)
        finally:
            SENDING.set(None)

    def _report_stopped(self, order: Order) -> None:
        """Say what is known of an order whose sending was cut off by ``stop``."""
        text = "the session was stopped before an answer came"
        if order.first_byte_ns:
            self._report(order.cl_ord_id, ExecType.UNKNOWN, OrderStatus.UNKNOWN, text)
        else:
            self._report(order.cl_ord_id, ExecType.UNSENT, None, text)

    async def _check_credentials(self) -> None:
        try:
            await self.balances()
        except BrokerAuthError as error:
            self._refuse(str(error))
        except BrokerError:
            pass  # says nothing about the credentials

    def cancel(self, order: Order) -> None:
        """Ask to cancel a working order."""
        self._hold(self._cancel(order))

    async def _cancel(self, order: Order) -> None:
        cl_ord_id = order.cl_ord_id
        try:
            if not order.order_id:
                found = await self.find(cl_ord_id, order.symbol)
                if found is None:
                    raise BrokerRejected("the exchange does not have this order")
                self._deliver(found)
                order.order_id = order.order_id or found.order_id
            await self._reader.call(
                "cancel", self._exchange.cancel_order(order.order_id, order.symbol)
            )
        except (OutcomeUnknown, BrokerProtocolError) as error:
            text = f"the outcome of the cancel is unknown: {error}"
        except BrokerError as error:
            self._report(cl_ord_id, ExecType.CANCEL_REJECTED, None, str(error))
            text = ""
        else:
            text = "the exchange took the cancel"
        if text:
            self._report(cl_ord_id, ExecType.PENDING_CANCEL, OrderStatus.PENDING_CANCEL, text)
        self._watch(cl_ord_id, order.symbol, order.order_id)

    def replace(self, order: Order, replacement: Order) -> None:
        """Refuse: where an exchange cannot amend, ccxt cancels first and may then fail to place."""
        text = (
            "not sent: orders at exchanges of ccxt's are not amended; cancel it and send a new one"
        )
        self._soon(replacement.cl_ord_id, ExecType.REJECTED, OrderStatus.REJECTED, text)
        self._soon(order.cl_ord_id, ExecType.CANCEL_REJECTED, None, text)

    # Reports

    def _deliver(self, report: ExecutionReport) -> None:
        if report.text:
            report = changed(report, text=self._reader.plain(report.text))
        self._sink.on_report(report)

    def _report(
        self, cl_ord_id: str, exec_type: ExecType, status: OrderStatus | None, text: str
    ) -> None:
        self._deliver(ExecutionReport(self.account_id, cl_ord_id, exec_type, status, text=text))

    def _soon(
        self, cl_ord_id: str, exec_type: ExecType, status: OrderStatus | None, text: str
    ) -> None:
        # Never from inside submit: the caller may be in the middle of a fan-out.
        loop = asyncio.get_running_loop()
        loop.call_soon(self._report, cl_ord_id, exec_type, status, text)

    # Following

    def _watch(self, cl_ord_id: str, symbol: str, order_id: str) -> None:
        self._reader.symbols.add(symbol)
        self._watched[cl_ord_id] = _Watched(cl_ord_id, symbol, order_id, monotonic_ns())
        self._look.set()

    async def _follow(self) -> None:
        """Look at our open orders until stopped, and get back what was lost."""
        failures = 0
        while self._running and not self._refused:
            try:
                if self.state is ConnectionState.DISCONNECTED:
                    await self._connect()
                else:
                    await (self._poll() if self._watched else self.balances())
                    self._set(ConnectionState.CONNECTED, "connected")
                failures = 0 if self.state is not ConnectionState.DISCONNECTED else failures + 1
            except BrokerAuthError as error:
                self._refuse(str(error))
            except BrokerError as error:
                failures += 1
                self._set(ConnectionState.DEGRADED, f"order updates cannot be read: {error}")
            await self._wait(failures)

    async def _wait(self, failures: int) -> None:
        """Wait for the next look: soon while orders are open, seldom while none is."""
        if failures:
            pause = min(RETRY_S * 2 ** min(failures - 1, 10), RETRY_MOST_S)
        else:
            self._look.clear()
            if not self._watched:
                with contextlib.suppress(TimeoutError):
                    # Not wait_for: before Python 3.12 it loses a cancellation that comes with the event.
                    async with asyncio.timeout(PROBE_S):
                        await self._look.wait()
            pause = max(POLL_S, 2 / self.capabilities.max_orders_per_second)
        await asyncio.sleep(pause * random.uniform(0.5, 1.0))  # noqa: S311 (spreads the load)

    async def _poll(self) -> None:
        """Report what became of the orders that may still change."""
        watched = list(self._watched.values())
        told = await self._reader.open_at(sorted({one.symbol for one in watched}))
        listed = {str(one.get("id")): one for one in told}
        for one in watched:
            known = listed.get(one.order_id) or mapping.find_by_client_id(told, one.cl_ord_id)
            if known is not None:
                report = await self._reader.named(known, one.cl_ord_id)
            else:
                found = await self._reader.find(one.cl_ord_id, one.symbol, one.order_id)
                report = found or self._absent(one)
            self._deliver(report)
            if report.status is not None and report.status.terminal:
                self._watched.pop(one.cl_ord_id, None)

    def _absent(self, one: _Watched) -> ExecutionReport:
        """Say that the exchange has no such order; after its settling time it is not asked again."""
        if monotonic_ns() - one.since_ns > int(self.capabilities.settle_s * 1e9):
            self._watched.pop(one.cl_ord_id, None)
        text = "the exchange does not list this order"
        return ExecutionReport(self.account_id, one.cl_ord_id, ExecType.STATUS, text=text)

    # Look-ups

    async def find(
        self, cl_ord_id: str, symbol: str = "", order_id: str = ""
    ) -> ExecutionReport | None:
        """Look an order up; one that still works is followed from now on, too."""
        report = await self._reader.find(cl_ord_id, symbol, order_id)
        self._follow_up(report)
        return report

    async def open_orders(self) -> list[ExecutionReport]:
        """List working orders; they are followed from now on (after a restart none was)."""
        reports = await self._reader.open_orders()
        for report in reports:
            self._follow_up(report)
        return reports

    def _follow_up(self, report: ExecutionReport | None) -> None:
        if report is None or not report.cl_ord_id or report.cl_ord_id in self._watched:
            return
        if report.status is not None and not report.status.terminal:
            self._watch(report.cl_ord_id, report.symbol, report.order_id)
