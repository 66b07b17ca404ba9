"""A broker session of the simulation (``engine.ports.BrokerSession``): the way to the venue and what befalls it."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import replace as changed
from decimal import Decimal
from typing import TYPE_CHECKING, Any

from engine.errors import BrokerUnavailable, OutcomeUnknown
from engine.model.account import Account
from engine.model.enums import ConnectionState, ExecType, OrderStatus, OrderType, TimeInForce
from engine.model.instrument import Instrument
from engine.model.messages import Balances, BrokerPosition, ExecutionReport
from engine.model.order import Order
from engine.ports import BrokerSink, Capabilities, Headroom
from tests.simulation.sending import ORDER_FAULTS, WEIGHTS, Sending
from tests.simulation.venue import Request, VenueAccount, VenueOrder
from tests.simulation.world import SECOND

if TYPE_CHECKING:
    from tests.simulation.life import Life

CONNECTIONS = 2
_ALL = {
    "order_types": frozenset(OrderType),
    "time_in_force": frozenset(TimeInForce),
    "max_orders_per_second": 10.0,
    "burst": 10,
}
CAPABILITIES = {
    "alpaca": Capabilities(client_id="durable", settle_s=2.0, **_ALL),  # type: ignore[arg-type]
    "binance": Capabilities(
        client_id="open_only",
        settle_s=3.0,
        can_replace=False,
        **_ALL,  # type: ignore[arg-type]
    ),
    "kite": Capabilities(
        client_id="label",
        settle_s=5.0,
        can_replace=False,
        per_calendar_second=10,
        **_ALL,  # type: ignore[arg-type]
    ),
}
"""One broker of each class: D, T and N."""


class SimAdapter:
    """Makes sessions of one broker (``engine.ports.BrokerAdapter``)."""

    def __init__(self, name: str, life: Life) -> None:
        self.name = name
        self.capabilities = CAPABILITIES[name]
        self._life = life

    def session(
        self, account: Account, credentials: dict[str, str], sink: BrokerSink
    ) -> SimSession:
        """Make one account's session."""
        del credentials
        return self._life.keep(SimSession(account.id, self.capabilities, sink, self._life))

    async def close(self) -> None:
        """Nothing is shared."""


class SimSession:
    """One account's wire and order stream."""

    def __init__(
        self, account_id: str, capabilities: Capabilities, sink: BrokerSink, life: Life
    ) -> None:
        self.account_id = account_id
        self.capabilities = capabilities
        self.state = ConnectionState.DISCONNECTED
        self._sink = sink
        self._life = life
        self._world = life.world
        self._venue = life.venue
        self._loop = life.loop
        self._held: VenueAccount = life.venue.account(account_id, capabilities.client_id)
        self._inflight: dict[int, Callable[[], None]] = {}  # what a broken connection makes of each
        self._numbers = 0
        self._running = False
        self._paused_until_ns = 0
        self._last_event_ns = 0
        self.settle_s = capabilities.settle_s  # what the broker keeps, whatever the engine believes

    # ---- life ------------------------------------------------------------------------------------------------

    async def start(self) -> None:
        """Connect."""
        self._running = True
        self._set(ConnectionState.CONNECTING, "connecting")
        await asyncio.sleep(0.02 + self._rng("connect").random() * 0.2)
        if self._running:
            self._set(ConnectionState.CONNECTED, "connected")

    async def stop(self) -> None:
        """Disconnect."""
        self._running = False
        self.lose("stopped", back_s=0)
        self._set(ConnectionState.DISCONNECTED, "stopped")

    def lose(self, reason: str, back_s: float) -> None:
        """Lose wire and stream; what was on its way has no answer any more. Back after ``back_s`` (0: never)."""
        if self._running and self.state is ConnectionState.CONNECTED:
            self._later(self._set, ConnectionState.DISCONNECTED, reason)
            self.state = ConnectionState.DISCONNECTED
        for fail in list(self._inflight.values()):
            fail()
        if back_s:
            self._world.after(back_s, self._come_back)

    def _come_back(self) -> None:
        if self._running and not self._life.dead and self.state is not ConnectionState.CONNECTED:
            self._later(self._connect_again)

    def _connect_again(self) -> None:
        if self._running:
            self._set(ConnectionState.CONNECTED, "connected")

    def _set(self, state: ConnectionState, text: str) -> None:
        self.state = state
        self._world.trace("connection", self.account_id, state, text)
        self._sink.on_connection(self.account_id, state, text)

    def ready(self) -> bool:
        """Say whether an order would leave at once."""
        return (
            self.state is ConnectionState.CONNECTED
            and len(self._inflight) < CONNECTIONS
            and self._world.now_ns >= self._paused_until_ns
        )

    @property
    def up(self) -> bool:
        """Say whether the order stream tells."""
        return self.state is ConnectionState.CONNECTED and not self._life.dead

    # ---- chance ----------------------------------------------------------------------------------------------

    def _rng(self, name: str) -> Any:
        return self._world.rng(f"{name}-{self.account_id}")

    def _strikes(self, stream: str, share: float = 1.0) -> bool:
        return self._world.chance(f"{stream}-{self.account_id}", self._life.malice * share)

    def _latency_s(self) -> float:
        return 0.002 + self._rng("latency").random() * 0.03

    # ---- to the engine ---------------------------------------------------------------------------------------

    def _later(self, call: Callable[..., None], *args: Any) -> None:
        """Call the engine from its own loop, if it still lives."""
        if not self._life.dead:
            self._loop.call_soon(call, *args)

    def _report(
        self, cl_ord_id: str, kind: ExecType, status: OrderStatus | None = None, text: str = ""
    ) -> None:
        self._later(
            self._hand, ExecutionReport(self.account_id, cl_ord_id, kind, status, text=text)
        )

    def _hand(self, report: ExecutionReport) -> None:
        self._world.trace(
            "report", report.account, report.cl_ord_id, report.exec_type, report.status,
            report.exec_id, report.last_qty, report.cum_qty,
        )  # fmt: skip
        self._sink.on_report(report)

    def streamed(self, order: VenueOrder, report: ExecutionReport) -> None:
        """Carry an event of the order stream to the engine, with what befalls it on the way."""
        world = self._world
        delay_s = self._latency_s()
        if self._strikes("event-late", 0.4):
            world.fault("event_late")
            delay_s += self._rng("event-late").random() * 8
        elif self._strikes("event-order", 0.4):
            world.fault("event_reordered")
            delay_s += 0.2
        else:  # in the order of events, unless a fault says otherwise
            due = world.now_ns + int(delay_s * SECOND)
            self._last_event_ns = max(due, self._last_event_ns + 1000)
            delay_s = (self._last_event_ns - world.now_ns) / SECOND
        session = self

        def arrive() -> None:
            if session.up:
                session._later(session._hand, report)

        world.after(delay_s, arrive)
        if self._strikes("event-twice", 0.4):
            world.fault("event_duplicated")
            world.after(delay_s + self._rng("event-twice").random() * 3, arrive)
        if self._strikes("event-crossed", 0.004):
            other = self._life.another_account(self.account_id)
            if other is not None:
                world.fault("crossed_report")
                other._later(other._hand, changed(report, account=other.account_id))
        if self._strikes("stream-breaks", 0.05):
            world.fault("disconnect")
            self.lose("the order stream broke", 0.3 + self._rng("stream-breaks").random() * 10)

    # ---- new orders ------------------------------------------------------------------------------------------

    def submit(self, order: Order) -> None:
        """Send a new order."""
        if not self.up:
            self._report(order.cl_ord_id, ExecType.UNSENT, None, "not connected")
            return
        fault = ""
        if self._strikes("order"):
            fault = self._rng("order").choices(ORDER_FAULTS, WEIGHTS)[0]
            if fault == "accept_beyond_settling" and self.capabilities.client_id != "durable":
                fault = "late_accept"
            self._world.fault(fault)
        if fault == "connect_refused":
            self._report(order.cl_ord_id, ExecType.UNSENT, None, "connection refused")
            return
        order.first_byte_ns = order.last_byte_ns = self._life.clock.monotonic_ns()
        self._life.sent(self.account_id, order)
        Sending(self, order, fault)

    def expire_token(self) -> None:
        """Refuse everything until the token is renewed."""
        self.lose("401: the session's token has ended", 1 + self._rng("token").random() * 5)

    def throttle(self, seconds: float) -> None:
        """Ask for quiet."""
        self._paused_until_ns = self._world.now_ns + int(seconds * SECOND)
        self._later(lambda: self._sink.on_limits(self.account_id, retry_after_s=seconds))

    # ---- cancels and replaces --------------------------------------------------------------------------------

    def cancel(self, order: Order) -> None:
        """Ask to cancel a working order."""
        if not self.up:
            text = "the cancel was not sent: not connected"
            self._report(order.cl_ord_id, ExecType.CANCEL_REJECTED, None, text)
            return
        self._life.changed(self.account_id, "cancel", order)
        lost = self._strikes("cancel-lost", 0.5)
        if lost:
            self._world.fault("cancel_lost")
        cl_ord_id, order_id = order.cl_ord_id, order.order_id
        self._world.after(
            self._latency_s(), lambda: self._cancel_arrives(order, cl_ord_id, order_id, lost)
        )

    def _cancel_arrives(self, order: Order, cl_ord_id: str, order_id: str, lost: bool) -> None:
        venue, world = self._venue, self._world
        if lost:
            self._cancel_unknown(order, "no reply")
            return
        found = [
            o
            for o in self._held.orders
            if (o.key == order_id if order_id else o.cl_ord_id == cl_ord_id)
        ]
        held = found[-1] if found else None
        if held is None:
            text = "the broker does not have this order"
            self._report(cl_ord_id, ExecType.CANCEL_REJECTED, None, text)
            return
        if held.status is OrderStatus.FILLED:
            world.fault("cancel_fill_race")
        if held.status.working and self._strikes("cancel-refused", 0.3):
            world.fault("cancel_refused")
            self._report(cl_ord_id, ExecType.CANCEL_REJECTED, None, "try again later")
            return
        self._life.cancel_arrived(held)
        if not venue.cancel(self._held, held, OrderStatus.CANCELED):
            self._report(cl_ord_id, ExecType.CANCEL_REJECTED, None, f"order is {held.status}")
            self._later(self._hand, venue.report(held))
            return
        if self._strikes("cancel-reply", 0.5):
            world.fault("cancel_done_reply_lost")
            self._cancel_unknown(order, "no reply")
            return
        self._report(cl_ord_id, ExecType.PENDING_CANCEL, OrderStatus.PENDING_CANCEL)

    def _cancel_unknown(self, order: Order, text: str) -> None:
        """Look at what became of a cancel without an answer, as ``brokers.session`` does."""
        text = f"the outcome of the cancel is unknown: {text}"
        self._report(order.cl_ord_id, ExecType.PENDING_CANCEL, OrderStatus.PENDING_CANCEL, text)
        self._later(lambda: self._life.hold(self._look_up(order)))

    async def _look_up(self, order: Order) -> None:
        await asyncio.sleep(2.0)
        if not self._running:
            return  # it ends with its session
        try:
            report = await self.find(order.cl_ord_id, order.symbol, order.order_id)
        except (BrokerUnavailable, OutcomeUnknown) as error:
            text = f"no proof: {error}"
            self._report(order.cl_ord_id, ExecType.CANCEL_REJECTED, None, text)
            return
        if report is not None:
            self._hand(report)
        if report is None or (report.status is not None and report.status.working):
            text = "it is still working"
            self._report(order.cl_ord_id, ExecType.CANCEL_REJECTED, None, text)

    def replace(self, order: Order, replacement: Order) -> None:
        """Ask to put ``replacement`` in the place of ``order``."""
        if not self.up:
            self._replace_refused(order, replacement, "not connected")
            return
        replacement.first_byte_ns = replacement.last_byte_ns = self._life.clock.monotonic_ns()
        self._life.changed(self.account_id, "replace", replacement)
        lost = self._strikes("replace-lost")
        if lost:
            self._world.fault("replace_lost")
        request, order_id = Request.of(replacement), order.order_id
        self._world.after(
            self._latency_s(),
            lambda: self._replace_arrives(order, replacement, request, order_id, lost),
        )

    def _replace_arrives(
        self, order: Order, replacement: Order, request: Request, order_id: str, lost: bool
    ) -> None:
        if lost:
            self._unknown(request.cl_ord_id, "no reply to the replace")
            return
        held = next((o for o in self._held.orders if o.key == order_id), None)
        if held is None or not held.status.working or held.cum_qty:
            self._replace_refused(order, replacement, "it cannot be replaced")
            return
        self._venue.cancel(self._held, held, OrderStatus.REPLACED)
        self._life.arrived(self._held, request)
        placed = self._venue.accept(self._held, request)
        if self._strikes("replace-reply"):
            self._world.fault("replace_done_reply_lost")
            self._unknown(request.cl_ord_id, "no reply to the replace")
            return
        self._later(self._hand, self._venue.report(placed, ExecType.NEW))

    def _replace_refused(self, order: Order, replacement: Order, text: str) -> None:
        self._report(replacement.cl_ord_id, ExecType.REJECTED, OrderStatus.REJECTED, text)
        self._report(order.cl_ord_id, ExecType.CANCEL_REJECTED, None, f"not replaced: {text}")

    def _unknown(self, cl_ord_id: str, text: str) -> None:
        self._report(cl_ord_id, ExecType.UNKNOWN, OrderStatus.UNKNOWN, text)

    # ---- look-ups --------------------------------------------------------------------------------------------

    async def _ask(self, failure: str, share: float = 1.0) -> None:
        """Go to the broker and back, or fail on the way."""
        if not self.up:
            raise BrokerUnavailable("not connected", account=self.account_id)
        await asyncio.sleep(self._latency_s())
        if self._strikes(failure, share):
            self._world.fault(failure)
            raise OutcomeUnknown("no answer", account=self.account_id)
        if not self.up:
            raise OutcomeUnknown("the connection was lost", account=self.account_id)

    async def find(
        self, cl_ord_id: str, symbol: str = "", order_id: str = ""
    ) -> ExecutionReport | None:
        """Look an order up by client id."""
        del symbol
        if self._strikes("lookup-slow", 0.5):
            self._world.fault("lookup_slow")
            await asyncio.sleep(self._rng("lookup-slow").random() * 5)
        await self._ask("lookup_failed")
        found = self._venue.find(self._held, cl_ord_id, order_id)
        self._world.trace("find", self.account_id, cl_ord_id, found and found.status)
        return self._venue.report(found) if found else None

    async def open_orders(self) -> list[ExecutionReport]:
        """List working orders."""
        await self._ask("list_failed")
        return [self._venue.report(order) for order in self._venue.working(self._held)]

    async def positions(self) -> list[BrokerPosition]:
        """List positions."""
        await self._ask("positions_failed")
        prices = self._venue.prices
        return [
            BrokerPosition(symbol, qty, prices[symbol])
            for symbol, qty in self._held.positions.items()
            if qty
        ]

    async def balances(self) -> Balances:
        """Read the account's money."""
        await self._ask("balances_failed", 0.5)
        worth = sum(
            (qty * self._venue.prices[symbol] for symbol, qty in self._held.positions.items()),
            Decimal(0),
        )
        cash = self._held.cash
        return Balances(equity=cash + worth, cash=cash, buying_power=cash)

    async def instrument(self, symbol: str) -> Instrument | None:
        """Return whole units at cents."""
        await asyncio.sleep(self._latency_s())
        return Instrument(symbol) if symbol in self._venue.prices else None

    async def quotes(self, symbols: Sequence[str]) -> dict[str, Decimal]:
        """Read current prices."""
        if self._strikes("quotes-hang", 0.1):
            self._world.fault("quotes_hang")
            await asyncio.sleep(4)
        await self._ask("quotes_failed", 0.1)
        prices = self._venue.prices
        return {symbol: prices[symbol] for symbol in symbols if symbol in prices}

    async def market_open(self, symbol: str) -> bool | None:
        """Say that there is no such clock."""
        del symbol
        return None

    def refusal(self, order_type: OrderType, time_in_force: TimeInForce) -> str:
        """Say why this account can have no such order."""
        return self.capabilities.refusal(order_type, time_in_force)

    def works_exits(self, order: Order) -> bool:
        """Say that the engine watches exits itself."""
        del order
        return False

    def headroom(self) -> Headroom:
        """Return what the session has left."""
        return Headroom(warm=int(self.up), wanted=CONNECTIONS)
