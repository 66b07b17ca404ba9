"""One practice account: its orders, its money, and the reports of what becomes of them."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from functools import partial

import orjson

from engine.brokers.paper.ledger import PaperLedger, Row
from engine.brokers.paper.market import PaperMarket
from engine.errors import BrokerUnavailable, StoreError
from engine.model.enums import (
    ConnectionState,
    ExecType,
    OrderStatus,
    OrderType,
    Side,
    TimeInForce,
)
from engine.model.instrument import Instrument
from engine.model.matching import Book, BookEvent, BookOrder, MarginAccount, practice_instrument
from engine.model.messages import Balances, BrokerPosition, ExecutionReport
from engine.model.numbers import ZERO, is_multiple, to_text
from engine.model.order import Order
from engine.model.position import Position
from engine.ports import BrokerSink, Capabilities, Headroom

CAPABILITIES = Capabilities(
    client_id="durable",
    settle_s=0.0,
    order_types=frozenset(OrderType),
    time_in_force=frozenset(TimeInForce),
    max_orders_per_second=1000.0,
    burst=1000,
    cash="trades",
)
_MARGIN = Decimal(4)
_DUPLICATE = "client_order_id must be unique"


class PaperOrder(BookOrder):
    """An order of a practice account; ``key`` is its ClOrdID."""

    __slots__ = ("fills", "gross", "placed_on", "replaces", "reserve", "status", "symbol")

    def __init__(self, order: Order, replaces: str = "") -> None:
        super().__init__(
            order.cl_ord_id,
            order.side,
            order.order_qty,
            order.order_type,
            order.time_in_force,
            order.limit_price if order.order_type.needs_limit else None,
            order.stop_price if order.order_type.needs_stop else None,
        )
        self.symbol = order.symbol
        self.status = OrderStatus.NEW
        self.gross = ZERO  # Σ quantity × price of what filled
        self.reserve = ZERO
        self.fills = 0
        self.replaces = replaces
        self.placed_on = datetime.now(UTC).date()

    @property
    def order_id(self) -> str:
        """Return the venue's id: the client id is unique here, so it serves."""
        return f"paper-{self.key}"

    def document(self) -> str:
        """Return the order as JSON."""
        return orjson.dumps(
            {
                "symbol": self.symbol,
                "side": self.side,
                "order_qty": to_text(self.order_qty),
                "order_type": self.order_type,
                "time_in_force": self.time_in_force,
                "limit_price": None if self.limit_price is None else to_text(self.limit_price),
                "stop_price": None if self.stop_price is None else to_text(self.stop_price),
                "cum_qty": to_text(self.cum_qty),
                "gross": str(self.gross),
                "status": self.status,
                "triggered": self.triggered,
                "fills": self.fills,
                "replaces": self.replaces,
                "placed_on": self.placed_on.isoformat(),
            }
        ).decode()

    @classmethod
    def read(cls, key: str, document: str) -> PaperOrder:
        """Return an order from its document.

        Raises:
            KeyError, ValueError, ArithmeticError: the document is damaged.
        """
        fields = orjson.loads(document)
        order = cls.__new__(cls)
        BookOrder.__init__(
            order,
            key,
            Side(fields["side"]),
            Decimal(fields["order_qty"]),
            OrderType(fields["order_type"]),
            TimeInForce(fields["time_in_force"]),
            None if fields["limit_price"] is None else Decimal(fields["limit_price"]),
            None if fields["stop_price"] is None else Decimal(fields["stop_price"]),
            Decimal(fields["cum_qty"]),
            triggered=fields["triggered"],
        )
        order.symbol = fields["symbol"]
        order.status = OrderStatus(fields["status"])
        order.gross = Decimal(fields["gross"])
        order.reserve = ZERO
        order.fills = fields["fills"]
        order.replaces = fields["replaces"]
        order.placed_on = date.fromisoformat(fields["placed_on"])
        return order


class PaperSession:
    """One practice account as a broker session.

    Reports reach the sink in order, once the ledger holds what they tell. The day of ``day`` orders
    ends at midnight UTC. A market order without any price yet stays pending until the first.
    """

    capabilities = CAPABILITIES

    def __init__(
        self,
        account_id: str,
        cash: Decimal,
        market: PaperMarket,
        ledger: PaperLedger,
        sink: BrokerSink,
        *,
        max_fill_qty: Decimal | None = None,
    ) -> None:
        self.account_id = account_id
        self.state = ConnectionState.DISCONNECTED
        self._market = market
        self._ledger = ledger
        self._sink = sink
        self._max_fill_qty = max_fill_qty
        self._fresh_cash = cash
        self._money = MarginAccount(cash, _MARGIN)
        self._orders: dict[str, PaperOrder] = {}
        self._open: dict[str, PaperOrder] = {}
        self._books: dict[str, Book] = {}
        self._on_price = self._price_moved  # one bound method, so that the market finds it again
        self._changed: dict[tuple[str, str], Row] = {}
        self._reports: list[ExecutionReport] = []
        self._acks: list[Order] = []
        self._saving = 0
        self._saved = asyncio.Event()
        self._saved.set()
        self._midnight: asyncio.TimerHandle | None = None

    # Life

    async def start(self) -> None:
        """Read the account back from the ledger and put its open orders into the market."""
        if self.state is ConnectionState.CONNECTED:
            return
        try:
            self._restore(await self._ledger.load(self.account_id))
        except StoreError as error:
            self._set_state(ConnectionState.ERROR, str(error))
            return
        except (KeyError, ValueError, ArithmeticError):
            self._set_state(ConnectionState.ERROR, "the paper ledger of this account is damaged")
            return
        self._set_state(ConnectionState.CONNECTED, "practice account, fills at the price feed")
        self._arm_midnight()
        for order in list(self._open.values()):
            self._enter(order)
        self._expire_before(datetime.now(UTC).date())
        self._commit()

    async def stop(self) -> None:
        """Leave the market and wait until the ledger holds everything."""
        if self._midnight is not None:
            self._midnight.cancel()
            self._midnight = None
        for symbol in self._books:
            self._market.unwatch(symbol, self._on_price)
        self._books.clear()
        if self.state is not ConnectionState.DISCONNECTED:
            self._set_state(ConnectionState.DISCONNECTED, "stopped")
        await self._saved.wait()

    def ready(self) -> bool:
        """Say whether orders can be sent."""
        return self.state is ConnectionState.CONNECTED

    # Orders

    def submit(self, order: Order) -> None:
        """Send a new order."""
        if self._send(order):
            self._place(order)
            self._commit()

    def cancel(self, order: Order) -> None:
        """Ask to cancel a working order."""
        if not self._may_send(order):
            return
        held = self._open.get(order.cl_ord_id)
        if held is None:
            self._refuse_cancel(order)
        else:
            self._take_out(held, OrderStatus.CANCELED)
            self._tell(held, ExecType.CANCELED)
        self._commit()

    def replace(self, order: Order, replacement: Order) -> None:
        """Ask to put ``replacement``, which starts unfilled, in the place of ``order``."""
        if not self._send(replacement):
            return
        held = self._open.get(order.cl_ord_id)
        if held is None:
            self._refuse_cancel(order)
            self._reject(replacement, f"{order.cl_ord_id} is not open")
        else:
            self._place(replacement, held)
        self._commit()

    # Look-ups

    async def market_open(self, symbol: str) -> bool | None:
        """Say that the practice market never closes."""
        del symbol
        return True

    def refusal(self, order_type: OrderType, time_in_force: TimeInForce) -> str:
        """Say that every order can be had here."""
        return self.capabilities.refusal(order_type, time_in_force)

    def works_exits(self, order: Order) -> bool:
        """Say that exits are the engine's own here."""
        del order
        return False

    def headroom(self) -> Headroom:
        """Return what there is to say of a session without a wire."""
        up = int(self.ready())
        return Headroom(probed_at=datetime.now(UTC) if up else None, warm=up, wanted=1)

    async def find(
        self, cl_ord_id: str, symbol: str = "", order_id: str = ""
    ) -> ExecutionReport | None:
        """Look an order up by client id."""
        del symbol, order_id
        self._require()
        order = self._orders.get(cl_ord_id)
        return self._report(order, ExecType.STATUS) if order else None

    async def open_orders(self) -> list[ExecutionReport]:
        """List working orders."""
        self._require()
        return [self._report(order, ExecType.STATUS) for order in self._open.values()]

    async def positions(self) -> list[BrokerPosition]:
        """List open positions."""
        self._require()
        held = (position for position in self._money.positions.values() if position.qty)
        return [BrokerPosition(p.symbol, p.qty, p.avg_px) for p in held]

    async def balances(self) -> Balances:
        """Read the account's money, positions at the last price."""
        self._require()
        price = self._market.price
        return Balances(
            equity=self._money.equity(price),
            cash=self._money.cash,
            buying_power=self._money.buying_power(price),
        )

    async def instrument(self, symbol: str) -> Instrument | None:
        """Return the practice rules of a symbol."""
        return practice_instrument(symbol)

    async def quotes(self, symbols: Sequence[str]) -> dict[str, Decimal]:
        """Return the last prices."""
        known = {symbol: self._market.price(symbol) for symbol in symbols}
        return {symbol: price for symbol, price in known.items() if price is not None}

    # Sending

    def _may_send(self, order: Order) -> bool:
        if not self.ready():
            self._answer(order, ExecType.UNSENT, None, "the paper session is not connected")
            self._commit()
            return False
        return True

    def _send(self, order: Order) -> bool:
        """Stamp an order as sent, or say that it was not."""
        if not self._may_send(order):
            return False
        now = time.monotonic_ns()
        if order.send_before_ns and now > order.send_before_ns:
            self._answer(order, ExecType.UNSENT, None, "too late to send")
            self._commit()
            return False
        order.first_byte_ns = order.last_byte_ns = now
        self._acks.append(order)
        return True

    def _place(self, order: Order, old: PaperOrder | None = None) -> None:
        if order.cl_ord_id in self._orders:
            # The id is taken: very likely by this very order, so this proves nothing against it.
            self._answer(order, ExecType.UNKNOWN, OrderStatus.UNKNOWN, _DUPLICATE)
            return
        instrument = practice_instrument(order.symbol)
        if order.order_qty < instrument.min_qty or not is_multiple(order.order_qty, instrument.lot):
            lot = to_text(instrument.lot)
            self._reject(order, f"quantity {to_text(order.order_qty)} is no multiple of {lot}")
            return
        try:
            placed = PaperOrder(order, old.order_id if old else "")
        except ValueError as error:
            self._reject(order, str(error))
            return
        if not self._reserve(placed, old.reserve if old else ZERO):
            self._reject(order, "insufficient buying power")
            return
        if old is not None:
            self._take_out(old, OrderStatus.REPLACED)
            self._tell(old, ExecType.REPLACED)
        self._orders[placed.key] = self._open[placed.key] = placed
        unpriced = self._market.price(placed.symbol) is None
        if unpriced and placed.order_type is OrderType.MARKET:
            placed.status = OrderStatus.PENDING_NEW
        self._tell(placed, ExecType.NEW)
        self._enter(placed)

    def _reserve(self, order: PaperOrder, freed: Decimal) -> bool:
        price = order.limit_price or order.stop_price or self._market.price(order.symbol)
        if price is None:
            return True  # nothing to judge it by yet
        money = self._money
        cost = money.opening_qty(order.symbol, order.side, order.order_qty) * price
        if cost and cost > money.buying_power(self._market.price) + freed:
            return False
        order.reserve = cost
        money.reserved += cost
        return True

    def _refuse_cancel(self, order: Order) -> None:
        held = self._orders.get(order.cl_ord_id)
        if held is None:
            self._answer(order, ExecType.CANCEL_REJECTED, None, "order not found")
        else:
            self._tell(held, ExecType.CANCEL_REJECTED, f"order is {held.status}")

    def _reject(self, order: Order, text: str) -> None:
        self._answer(order, ExecType.REJECTED, OrderStatus.REJECTED, text)

    # The market

    def _book(self, symbol: str) -> Book:
        """Return the account's book of a symbol, at the last price."""
        book = self._books.get(symbol)
        if book is None:
            book = self._books[symbol] = Book(self._max_fill_qty)
        price = self._market.price(symbol)
        if price is not None and price != book.last:
            self._take(book.quote(price))
        return book

    def _enter(self, order: PaperOrder) -> None:
        book = self._book(order.symbol)
        self._take(book.add(order))
        if len(book):
            self._market.watch(order.symbol, self._on_price)

    def _price_moved(self, symbol: str, price: Decimal) -> None:
        book = self._books[symbol]
        self._take(book.quote(price))
        if not len(book):
            self._market.unwatch(symbol, self._on_price)
        self._commit()

    def _take(self, events: list[BookEvent]) -> None:
        for event in events:
            order = event.order
            assert isinstance(order, PaperOrder)
            if event.exec_type is ExecType.TRADE:
                self._fill(order, event)
            else:
                status = OrderStatus(event.exec_type.value)
                self._end(order, status)
                self._tell(order, event.exec_type)

    def _fill(self, order: PaperOrder, event: BookEvent) -> None:
        position = self._money.apply(self.account_id, order.symbol, event)
        order.gross += event.last_qty * event.last_px
        order.fills += 1
        left = order.order_qty - order.cum_qty
        if left:
            order.status = OrderStatus.PARTIALLY_FILLED
            self._release(order, order.reserve * event.last_qty / (left + event.last_qty))
        else:
            self._end(order, OrderStatus.FILLED)
        self._note("position", order.symbol, _position_document(position))
        self._note("money", "", orjson.dumps({"cash": str(self._money.cash)}).decode())
        self._tell(order, ExecType.TRADE, event=event)

    def _take_out(self, order: PaperOrder, status: OrderStatus) -> None:
        book = self._books[order.symbol]
        book.cancel(order)
        if not len(book):
            self._market.unwatch(order.symbol, self._on_price)
        self._end(order, status)

    def _end(self, order: PaperOrder, status: OrderStatus) -> None:
        order.status = status
        self._open.pop(order.key, None)
        self._release(order, order.reserve)

    def _release(self, order: PaperOrder, part: Decimal) -> None:
        order.reserve -= part
        self._money.reserved -= part

    def _arm_midnight(self) -> None:
        now = datetime.now(UTC)
        midnight = (now + timedelta(days=1)).replace(hour=0, minute=0, second=0, microsecond=0)
        loop = asyncio.get_running_loop()
        wait = (midnight - now).total_seconds() + 0.1
        self._midnight = loop.call_later(wait, self._end_day)

    def _end_day(self) -> None:
        self._arm_midnight()
        self._expire_before(datetime.now(UTC).date())
        self._commit()

    def _expire_before(self, today: date) -> None:
        for order in list(self._open.values()):
            if order.time_in_force is TimeInForce.DAY and order.placed_on < today:
                self._take_out(order, OrderStatus.EXPIRED)
                self._tell(order, ExecType.EXPIRED)

    # Reports and ledger

    def _report(self, order: PaperOrder, exec_type: ExecType, text: str = "") -> ExecutionReport:
        return ExecutionReport(
            account=self.account_id,
            cl_ord_id=order.key,
            exec_type=exec_type,
            status=order.status,
            order_id=order.order_id,
            cum_qty=order.cum_qty,
            avg_px=order.gross / order.cum_qty if order.cum_qty else None,
            text=text,
            transact_time=datetime.now(UTC),
            symbol=order.symbol,
            side=order.side,
            order_type=order.order_type,
            time_in_force=order.time_in_force,
            order_qty=order.order_qty,
            limit_price=order.limit_price,
            stop_price=order.stop_price,
            replaces=order.replaces,
        )

    def _tell(
        self,
        order: PaperOrder,
        exec_type: ExecType,
        text: str = "",
        event: BookEvent | None = None,
    ) -> None:
        """Queue a report of an order we hold, and note the order for the ledger."""
        report = self._report(order, exec_type, text)
        if event is not None:
            report = ExecutionReport(
                account=report.account,
                cl_ord_id=report.cl_ord_id,
                exec_type=exec_type,
                status=report.status,
                order_id=report.order_id,
                exec_id=f"{order.order_id}-{order.fills}",
                last_qty=event.last_qty,
                last_px=event.last_px,
                cum_qty=report.cum_qty,
                avg_px=report.avg_px,
                transact_time=report.transact_time,
                symbol=report.symbol,
                side=report.side,
            )
        self._reports.append(report)
        self._note("order", order.key, order.document())

    def _answer(
        self, order: Order, exec_type: ExecType, status: OrderStatus | None, text: str
    ) -> None:
        """Queue a report of an order the account does not hold."""
        self._reports.append(
            ExecutionReport(
                account=self.account_id,
                cl_ord_id=order.cl_ord_id,
                exec_type=exec_type,
                status=status,
                text=text,
                transact_time=datetime.now(UTC),
            )
        )

    def _note(self, kind: str, key: str, document: str) -> None:
        self._changed[kind, key] = Row(self.account_id, kind, key, document)

    def _commit(self) -> None:
        """Hand what changed to the ledger; what is to be told follows once it is safe."""
        if not self._reports and not self._changed:
            return
        rows = tuple(self._changed.values())
        reports, acks = tuple(self._reports), tuple(self._acks)
        self._changed.clear()
        self._reports.clear()
        self._acks.clear()
        self._saving += 1
        self._saved.clear()
        deliver = partial(self._deliver, reports, acks)
        if rows or self._saving > 1:
            self._ledger.save(rows, deliver)
        else:  # a refusal: nothing to keep, and the ledger may be closed
            asyncio.get_running_loop().call_soon(deliver, None)

    def _deliver(
        self,
        reports: tuple[ExecutionReport, ...],
        acks: tuple[Order, ...],
        error: BaseException | None,
    ) -> None:
        if error is not None:
            self._set_state(ConnectionState.ERROR, f"the paper ledger cannot be written: {error}")
        now = time.monotonic_ns()
        for order in acks:
            order.acked_ns = now
        for report in reports:
            self._sink.on_report(report)
        self._saving -= 1
        if not self._saving:
            self._saved.set()

    def _restore(self, rows: list[Row]) -> None:
        self._money = MarginAccount(self._fresh_cash, _MARGIN)
        self._orders.clear()
        self._open.clear()
        for row in rows:
            if row.kind == "order":
                order = PaperOrder.read(row.key, row.document)
                self._orders[order.key] = order
                if order.status.working:
                    self._open[order.key] = order
            elif row.kind == "position":
                position = _read_position(self.account_id, row)
                self._money.positions[row.key] = position
            elif row.kind == "money":
                self._money.cash = Decimal(orjson.loads(row.document)["cash"])
        for order in self._open.values():
            self._reserve_again(order)

    def _reserve_again(self, order: PaperOrder) -> None:
        price = order.limit_price or order.stop_price or ZERO
        left = order.order_qty - order.cum_qty
        order.reserve = self._money.opening_qty(order.symbol, order.side, left) * price
        self._money.reserved += order.reserve

    def _require(self) -> None:
        if not self.ready():
            raise BrokerUnavailable("the paper session is not connected", account=self.account_id)

    def _set_state(self, state: ConnectionState, text: str) -> None:
        self.state = state
        self._sink.on_connection(self.account_id, state, text)


def _position_document(position: Position) -> str:
    return orjson.dumps(
        {"qty": str(position.qty), "cash": str(position.cash), "cost": str(position.cost)}
    ).decode()


def _read_position(account: str, row: Row) -> Position:
    fields = orjson.loads(row.document)
    position = Position(account, row.key)
    position.qty = Decimal(fields["qty"])
    position.cash = Decimal(fields["cash"])
    position.cost = Decimal(fields["cost"])
    return position
