"""The brokers of a simulated day: a small exact model of what they hold, apart from the engine's own code.

``durable``: a client id is refused for ever once it was used. ``open_only``: refused while its first order is open.
``label``: taken as often as it is sent. What a broker holds is the truth the oracle judges by.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from decimal import Decimal

from engine.model.enums import ExecType, OrderStatus, OrderType, Side, TimeInForce
from engine.model.matching import Book, BookEvent, BookOrder
from engine.model.messages import ExecutionReport
from engine.model.order import Order
from tests.simulation.world import World

ZERO = Decimal(0)
CASH = Decimal(1_000_000)


@dataclass(frozen=True, slots=True)
class Request:
    """What an order says on the wire; a copy, since the engine's object goes on changing."""

    cl_ord_id: str
    symbol: str
    side: Side
    order_qty: Decimal
    order_type: OrderType
    time_in_force: TimeInForce
    limit_price: Decimal | None
    stop_price: Decimal | None

    @classmethod
    def of(cls, order: Order) -> Request:
        """Copy an order's words."""
        return cls(
            order.cl_ord_id, order.symbol, order.side, order.order_qty, order.order_type,
            order.time_in_force, order.limit_price, order.stop_price,
        )  # fmt: skip


class VenueOrder(BookOrder):
    """An order a broker has accepted."""

    def __init__(self, account: str, number: int, request: Request) -> None:
        super().__init__(
            f"{account}-{number}", request.side, request.order_qty, request.order_type,
            request.time_in_force,
            request.limit_price if request.order_type.needs_limit else None,
            request.stop_price if request.order_type.needs_stop else None,
        )  # fmt: skip
        self.account = account
        self.cl_ord_id = request.cl_ord_id
        self.symbol = request.symbol
        self.status = OrderStatus.NEW
        self.gross = ZERO
        self.fills = 0
        self.accepted_ns = 0
        self.visible_ns = 0
        self.external = False
        self.beyond = False  # accepted later than the broker's own settling time promises


@dataclass(slots=True)
class VenueAccount:
    """One account at its broker."""

    name: str
    client_id: str
    orders: list[VenueOrder] = field(default_factory=list)
    by_id: dict[str, list[VenueOrder]] = field(default_factory=dict)  # by client id
    books: dict[str, Book] = field(default_factory=dict)
    positions: dict[str, Decimal] = field(default_factory=dict)
    cash: Decimal = CASH


Tell = Callable[[VenueOrder, ExecutionReport], None]


class Venue:
    """All brokers' books. ``tell`` is called with every event of every order stream."""

    def __init__(self, world: World, symbols: dict[str, Decimal]) -> None:
        self.world = world
        self.prices = dict(symbols)
        self.accounts: dict[str, VenueAccount] = {}
        self.tell: Tell = lambda order, report: None
        self._number = 0

    def account(self, name: str, client_id: str) -> VenueAccount:
        """Return an account, opened on first use."""
        return self.accounts.setdefault(name, VenueAccount(name, client_id))

    def taken(self, account: VenueAccount, cl_ord_id: str) -> bool:
        """Say whether a broker refuses this client id."""
        earlier = account.by_id.get(cl_ord_id, ())
        if account.client_id == "durable":
            return bool(earlier)
        if account.client_id == "open_only":
            return any(order.status.working for order in earlier)
        return False

    # ---- what clients ask ------------------------------------------------------------------------------------

    def accept(
        self, account: VenueAccount, request: Request, *, lag_ns: int = 0, external: bool = False
    ) -> VenueOrder:
        """Take an order; it enters the market a moment later."""
        self._number += 1
        order = VenueOrder(account.name, self._number, request)
        order.external = external
        order.accepted_ns = self.world.now_ns
        order.visible_ns = self.world.now_ns + lag_ns
        account.orders.append(order)
        account.by_id.setdefault(order.cl_ord_id, []).append(order)
        self.world.counts["venue_orders"] += 1
        self.world.trace("accept", order.key, order.cl_ord_id, order.side, order.order_qty)
        self._tell(order, ExecType.NEW)
        self.world.after(0.0005, lambda: self._enter(account, order))
        return order

    def cancel(self, account: VenueAccount, order: VenueOrder, status: OrderStatus) -> bool:
        """End a working order; say whether it was working."""
        if not order.status.working:
            return False
        self._book(account, order.symbol).cancel(order)
        order.status = status
        self._tell(order, ExecType(status.value))
        return True

    def find(self, account: VenueAccount, cl_ord_id: str, order_id: str = "") -> VenueOrder | None:
        """Return the newest order of a client id, or the order of an id, that can be seen by now."""
        found = [
            order
            for order in account.by_id.get(cl_ord_id, ())
            if order.visible_ns <= self.world.now_ns and (not order_id or order.key == order_id)
        ]
        return found[-1] if found else None

    def working(self, account: VenueAccount) -> list[VenueOrder]:
        """Return the working orders that can be seen by now."""
        return [
            order
            for order in account.orders
            if order.status.working and order.visible_ns <= self.world.now_ns
        ]

    # ---- the market ------------------------------------------------------------------------------------------

    def move(self, symbol: str, price: Decimal) -> None:
        """Move a price through the books of every account."""
        self.prices[symbol] = price
        self.world.trace("price", symbol, price)
        for account in self.accounts.values():
            book = account.books.get(symbol)
            if book is not None:
                self._take(account, book.quote(price))

    def _book(self, account: VenueAccount, symbol: str) -> Book:
        book = account.books.get(symbol)
        if book is None:
            most = self.world.rng("book-depth").choice([None, None, Decimal(3), Decimal(7)])
            book = account.books[symbol] = Book(most)
            if symbol in self.prices:
                book.quote(self.prices[symbol])
        return book

    def _enter(self, account: VenueAccount, order: VenueOrder) -> None:
        if order.status.working:
            self._take(account, self._book(account, order.symbol).add(order))

    def _take(self, account: VenueAccount, events: list[BookEvent]) -> None:
        for event in events:
            order = event.order
            assert isinstance(order, VenueOrder)
            if event.exec_type is not ExecType.TRADE:
                order.status = OrderStatus(event.exec_type.value)
                self._tell(order, event.exec_type)
                continue
            signed = event.last_qty * order.side.sign
            held = account.positions.get(order.symbol, ZERO)
            account.positions[order.symbol] = held + signed
            account.cash -= signed * event.last_px
            order.gross += event.last_qty * event.last_px
            order.fills += 1
            done = order.cum_qty == order.order_qty
            order.status = OrderStatus.FILLED if done else OrderStatus.PARTIALLY_FILLED
            if not done:
                self.world.fault("partial_fills")
            self.world.counts["venue_fills"] += 1
            self._tell(order, ExecType.TRADE, event)

    # ---- words -----------------------------------------------------------------------------------------------

    def report(self, order: VenueOrder, exec_type: ExecType = ExecType.STATUS) -> ExecutionReport:
        """Say how an order stands."""
        return ExecutionReport(
            account=order.account,
            cl_ord_id=order.cl_ord_id,
            exec_type=exec_type,
            status=order.status,
            order_id=order.key,
            cum_qty=order.cum_qty,
            avg_px=order.gross / order.cum_qty if order.cum_qty else None,
            transact_time=self.world.wall(),
            symbol=order.symbol,
            side=order.side,
            order_type=order.order_type,
            time_in_force=order.time_in_force,
            order_qty=order.order_qty,
            limit_price=order.limit_price,
            stop_price=order.stop_price,
        )

    def _tell(self, order: VenueOrder, exec_type: ExecType, event: BookEvent | None = None) -> None:
        report = self.report(order, exec_type)
        if event is not None and self.accounts[order.account].client_id != "label":
            # Brokers of class N tell totals only; the others each execution under its id.
            report.exec_id = f"{order.key}-{order.fills}"
            report.last_qty, report.last_px = event.last_qty, event.last_px
        elif event is not None:
            report.exec_type = ExecType.STATUS
        self.world.trace("event", order.key, exec_type, order.status, order.cum_qty)
        self.tell(order, report)
