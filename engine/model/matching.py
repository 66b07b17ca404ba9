"""A practice market: resting orders against a moving price, and the money of its accounts.

Pure and exact; the paper adapter and the simulated venue both stand on it. Rules:

* a market order fills at the other side of the quote as soon as there is one;
* a limit order that is marketable when it arrives fills at the market's price (never worse than its
  limit); one that had to wait fills at its limit;
* a stop is touched when the last price reaches it, and is a market (or limit) order from then on;
* ``ioc`` and ``fok`` are judged at once, for stops at the moment they are touched; ``day`` orders
  end with ``expire_day``, which the owner of the book calls when its day is over;
* of each order at most ``max_fill_qty`` units fill at one price tick; its remainder goes on at the
  next tick, ``ioc`` cancels it, ``fok`` refuses a part.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from decimal import Decimal
from heapq import heapify, heappop, heappush
from typing import NamedTuple

from engine.model.enums import ExecType, OrderType, Side, TimeInForce
from engine.model.instrument import Instrument
from engine.model.numbers import ZERO
from engine.model.position import Position

_AT_ONCE = frozenset({TimeInForce.IOC, TimeInForce.FOK})
_FRACTION = Decimal("0.00000001")
_PIPETTE = Decimal("0.00001")


def practice_instrument(symbol: str) -> Instrument:
    """Return what a symbol is on the practice market.

    Symbols that look like a pair (a slash, or at least six characters ending in ``USDT`` or
    ``USD``) trade in steps of 0.00000001, everything else in whole units; names with an underscore are
    currencies, in whole units at prices of five decimals, three against the yen.
    """
    if "_" in symbol:
        return Instrument(symbol=symbol, tick=_PIPETTE * (100 if symbol.endswith("_JPY") else 1))
    pair = "/" in symbol or (len(symbol) >= 6 and symbol.endswith(("USDT", "USD")))
    lot = _FRACTION if pair else Decimal(1)
    return Instrument(symbol=symbol, lot=lot, min_qty=lot, tick=Decimal("0.01"))


class BookOrder:
    """An order as a book sees it. Quantities in units, prices in quote currency."""

    __slots__ = (
        "cum_qty",
        "key",
        "limit_price",
        "order_qty",
        "order_type",
        "rested",
        "seq",
        "side",
        "stop_price",
        "time_in_force",
        "triggered",
    )

    def __init__(  # noqa: PLR0913 (an order has this many facts)
        self,
        key: str,
        side: Side,
        order_qty: Decimal,
        order_type: OrderType,
        time_in_force: TimeInForce,
        limit_price: Decimal | None = None,
        stop_price: Decimal | None = None,
        cum_qty: Decimal = ZERO,
        *,
        triggered: bool = False,
    ) -> None:
        if order_type.needs_limit and limit_price is None:
            raise ValueError(f"a {order_type} order needs a limit price")
        if order_type.needs_stop and stop_price is None:
            raise ValueError(f"a {order_type} order needs a stop price")
        self.key = key
        self.side = side
        self.order_qty = order_qty
        self.order_type = order_type
        self.time_in_force = time_in_force
        self.limit_price = limit_price
        self.stop_price = stop_price
        self.cum_qty = cum_qty
        self.triggered = triggered  # a stop that was touched
        self.rested = False  # waited in the book, so it fills at its own limit
        self.seq = 0

    @property
    def waits_for_stop(self) -> bool:
        """Say whether this is a stop that was not touched yet."""
        return not self.triggered and self.order_type.needs_stop


class BookEvent(NamedTuple):
    """What became of an order: ``TRADE`` (with quantity and price), ``CANCELED`` or ``EXPIRED``."""

    order: BookOrder
    exec_type: ExecType
    last_qty: Decimal = ZERO
    last_px: Decimal = ZERO


class _Queue:
    """Orders by price, then arrival; ``sign`` makes the first to be reached the smallest."""

    __slots__ = ("_heap", "_sign")

    def __init__(self, sign: int) -> None:
        self._sign = sign
        self._heap: list[tuple[Decimal, int, BookOrder]] = []

    def push(self, price: Decimal, order: BookOrder) -> None:
        heappush(self._heap, (price * self._sign, order.seq, order))

    def pop_reached(self, market: Decimal) -> Iterator[BookOrder]:
        reach = market * self._sign
        while self._heap and self._heap[0][0] <= reach:
            _, seq, order = heappop(self._heap)
            if seq == order.seq:  # else it was taken out and came back, at another price
                yield order

    def prune(self, live: dict[str, BookOrder]) -> None:
        """Forget cancelled orders once they are most of the heap (they are removed lazily)."""
        if len(self._heap) > 64 and len(self._heap) > 2 * len(live):
            self._heap = [entry for entry in self._heap if live.get(entry[2].key) is entry[2]]
            heapify(self._heap)


class Book:
    """The resting orders of one symbol against its price; keys are unique among them."""

    __slots__ = (
        "_limits",
        "_market",
        "_resting",
        "_seq",
        "_stops",
        "ask",
        "bid",
        "last",
        "max_fill_qty",
    )

    def __init__(self, max_fill_qty: Decimal | None = None) -> None:
        self.max_fill_qty = max_fill_qty
        self.last: Decimal | None = None
        self.bid: Decimal | None = None
        self.ask: Decimal | None = None
        self._seq = 0
        self._resting: dict[str, BookOrder] = {}
        self._market: list[BookOrder] = []
        self._limits = {Side.BUY: _Queue(-1), Side.SELL: _Queue(1)}
        self._stops = {Side.BUY: _Queue(1), Side.SELL: _Queue(-1)}

    def __len__(self) -> int:
        return len(self._resting)

    def resting(self) -> list[BookOrder]:
        """Return the orders that wait, in order of arrival."""
        return list(self._resting.values())

    def quote(
        self, last: Decimal, bid: Decimal | None = None, ask: Decimal | None = None
    ) -> list[BookEvent]:
        """Move the market and return what that does to the resting orders, best first."""
        self.last = last
        self.bid = last if bid is None else bid
        self.ask = last if ask is None else ask
        events: list[BookEvent] = []
        if not self._resting:
            return events
        ready = [order for order in self._market if self._alive(order)]
        self._market.clear()
        for side, queue in self._limits.items():
            ready.extend(filter(self._alive, queue.pop_reached(self._price_for(side))))
        touched: list[BookOrder] = []
        for queue in self._stops.values():
            touched.extend(filter(self._alive, queue.pop_reached(last)))
        for order in touched:
            order.triggered = True
        for order in [*ready, *sorted(touched, key=lambda order: order.seq)]:
            self._enter(order, events)
        return events

    def add(self, order: BookOrder) -> list[BookEvent]:
        """Take a new order and return what becomes of it at once; whatever is not over rests.

        Raises:
            ValueError: an order with this key is resting already.
        """
        if order.key in self._resting:
            raise ValueError(f"an order {order.key} is resting already")
        self._seq += 1
        order.seq = self._seq
        self._resting[order.key] = order
        events: list[BookEvent] = []
        if order.waits_for_stop:
            if not self._touched(order):
                assert order.stop_price is not None
                self._stops[order.side].push(order.stop_price, order)
                return events
            order.triggered = True
        self._enter(order, events)
        return events

    def cancel(self, order: BookOrder) -> bool:
        """Take an order out; say whether it was there."""
        if not self._alive(order):
            return False
        del self._resting[order.key]
        if order in self._market:
            self._market.remove(order)
        for queue in (*self._limits.values(), *self._stops.values()):
            queue.prune(self._resting)
        return True

    def expire_day(self) -> list[BookEvent]:
        """End the day: take out every ``day`` order."""
        ended = [o for o in self._resting.values() if o.time_in_force is TimeInForce.DAY]
        for order in ended:
            self.cancel(order)
        return [BookEvent(order, ExecType.EXPIRED) for order in ended]

    def _alive(self, order: BookOrder) -> bool:
        return self._resting.get(order.key) is order

    def _price_for(self, side: Side) -> Decimal:
        price = self.ask if side is Side.BUY else self.bid
        assert price is not None
        return price

    def _touched(self, order: BookOrder) -> bool:
        if self.last is None or order.stop_price is None:
            return False
        return order.side.sign * (self.last - order.stop_price) >= 0

    def _enter(self, order: BookOrder, events: list[BookEvent]) -> None:
        """Match an order that is live (no stop, or a touched one) against the quote."""
        price = self._match_price(order)
        leaves = order.order_qty - order.cum_qty
        quantity = leaves if price is not None else ZERO
        if self.max_fill_qty is not None:
            quantity = min(quantity, self.max_fill_qty)
        if order.time_in_force is TimeInForce.FOK and quantity < leaves:
            quantity = ZERO
        if price is not None and quantity:
            order.cum_qty += quantity
            events.append(BookEvent(order, ExecType.TRADE, quantity, price))
        if quantity == leaves:
            del self._resting[order.key]
        elif order.time_in_force in _AT_ONCE:
            del self._resting[order.key]
            events.append(BookEvent(order, ExecType.CANCELED))
        elif order.limit_price is None:
            self._market.append(order)
        else:
            # One that could have filled but for max_fill_qty, or before any price, did not rest.
            order.rested = order.rested or (price is None and self.last is not None)
            self._limits[order.side].push(order.limit_price, order)

    def _match_price(self, order: BookOrder) -> Decimal | None:
        """Return the price this order fills at now, ``None`` if it cannot."""
        if self.last is None:
            return None
        market = self._price_for(order.side)
        limit = order.limit_price
        if limit is None:
            return market
        if order.side.sign * (limit - market) < 0:
            return None
        return limit if order.rested else market


PriceOf = Callable[[str], Decimal | None]


class MarginAccount:
    """Cash and positions of one practice account. Money in quote currency, shorts allowed.

    ``multiplier``: how much exposure a unit of equity carries (2 overnight,
    4 within the day, at Alpaca).
    ``reserved`` is what working orders would add to the exposure.
    """

    __slots__ = ("cash", "multiplier", "positions", "reserved")

    def __init__(self, cash: Decimal, multiplier: Decimal) -> None:
        self.cash = cash
        self.multiplier = multiplier
        self.positions: dict[str, Position] = {}
        self.reserved = ZERO

    def quantity(self, symbol: str) -> Decimal:
        """Return the signed position."""
        position = self.positions.get(symbol)
        return position.qty if position else ZERO

    def exposure(self, price_of: PriceOf) -> tuple[Decimal, Decimal]:
        """Return net and gross value of the positions; one without a price counts at cost."""
        net = gross = ZERO
        for symbol, position in self.positions.items():
            if not position.qty:
                continue
            price = price_of(symbol)
            value = position.cost if price is None else position.qty * price
            net += value
            gross += abs(value)
        return net, gross

    def equity(self, price_of: PriceOf) -> Decimal:
        """Return cash plus the value of the positions."""
        return self.cash + self.exposure(price_of)[0]

    def buying_power(self, price_of: PriceOf) -> Decimal:
        """Return the exposure that may still be added; never negative."""
        net, gross = self.exposure(price_of)
        return max(ZERO, (self.cash + net) * self.multiplier - gross - self.reserved)

    def opening_qty(self, symbol: str, side: Side, quantity: Decimal) -> Decimal:
        """Return the part of an order that opens or adds (the rest closes what is held)."""
        closable = max(ZERO, -side.sign * self.quantity(symbol))
        return max(ZERO, quantity - closable)

    def apply(self, account: str, symbol: str, event: BookEvent) -> Position:
        """Book one trade and return the position after it."""
        position = self.positions.get(symbol)
        if position is None:
            position = self.positions[symbol] = Position(account, symbol)
        side = event.order.side
        position.apply(side, event.last_qty, event.last_px)
        self.cash -= side.sign * event.last_qty * event.last_px
        return position
