"""Orders as Kite's clients ask for them: forms, checked as Kite checks them, and the day's book."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from decimal import Decimal

from engine.model.enums import OrderStatus, OrderType, Side
from engine.model.numbers import ZERO, is_multiple, parse_decimal
from engine.simbroker.kite_words import ORDER_TYPES, VALIDITIES, ApiError, Entry, invalid, stamp
from engine.simbroker.venue import NewOrder, Refused, Venue, VenueAccount, VenueOrder

EXCHANGES = ("NSE", "BSE", "NFO", "BFO", "CDS", "BCD", "MCX")
PRODUCTS = frozenset({"MIS", "CNC", "NRML", "MTF"})
MOST_CHANGES = 25
TICK = Decimal("0.05")
_TAG = re.compile(r"[A-Za-z0-9]{0,20}", re.ASCII)


class KiteOrders:
    """The day's book of every account, in Kite's own ids."""

    def __init__(self, venue: Venue, unknown_symbols: str) -> None:
        self._venue = venue
        self._unknown = re.compile(unknown_symbols) if unknown_symbols else None
        self._by_key: dict[str, Entry] = {}  # the venue's keys
        self._books: dict[str, dict[str, Entry]] = {}  # account → Kite's id
        self._made = 0

    # What is there

    def known(self, symbol: str) -> bool:
        """Say whether a symbol (``EXCHANGE:NAME``) is traded."""
        exchange, _, name = symbol.partition(":")
        if exchange not in EXCHANGES or not name:
            return False
        unknown = self._unknown
        return unknown is None or not (unknown.fullmatch(name) or unknown.fullmatch(symbol))

    def of(self, order: VenueOrder) -> Entry | None:
        """Return the entry of one of the venue's orders."""
        return self._by_key.get(order.key)

    def all(self, account: VenueAccount) -> Iterator[Entry]:
        """Return an account's orders that look-ups may see, oldest first."""
        for entry in self._books.get(account.key_id, {}).values():
            if entry.order.key in account.orders:
                yield entry

    def find(self, account: VenueAccount, order_id: str) -> Entry:
        """Return one order.

        Raises:
            ApiError: there is none.
        """
        entry = self._books.get(account.key_id, {}).get(order_id)
        if entry is None or entry.order.key not in account.orders:
            raise ApiError(404, "OrderException", f"Couldn't find that `order_id`: {order_id}")
        return entry

    # What is asked for

    def place(
        self, account: VenueAccount, variety: str, form: Mapping[str, str], slices: int
    ) -> list[Entry | ApiError]:
        """Take an order, or as many as it is sliced into; what the margin does not cover of a whole one is
        turned down only later, as Kite does.

        Raises:
            ApiError: a field is missing or wrong.
        """
        wanted, product, tag = self._read(form)
        parts = _parts(wanted.order_qty, slices)
        found: list[Entry | ApiError] = []
        for part in parts:
            one = _with_quantity(wanted, part)
            order, said = self._take(account, one)
            if said and len(parts) > 1:
                found.append(ApiError(400, "MarginException", said))
                continue
            if said:
                account.show(order)
            found.append(self._enter(account, order, variety, product, tag, said))
        return found

    def _take(self, account: VenueAccount, wanted: NewOrder) -> tuple[VenueOrder, str]:
        """Return the order, and why it will be turned down."""
        said = "Price is not a multiple of the tick size."
        self._venue.quirks.duplicate = False  # Kite has no such refusal: tags are not checked
        if _on_tick(wanted):
            try:
                return self._venue.place(account, wanted), ""
            except Refused as refused:
                said = _funds(refused)
        return VenueOrder(account, wanted), said

    def _enter(
        self,
        account: VenueAccount,
        order: VenueOrder,
        variety: str,
        product: str,
        tag: str,
        said: str,
    ) -> Entry:
        self._made += 1
        day = stamp(self._venue.now())[2:10].replace("-", "")
        entry = Entry(order, f"{day}{self._made:09d}", tag, product, variety, said)
        self._by_key[order.key] = entry
        self._books.setdefault(account.key_id, {})[entry.order_id] = entry
        return entry

    def turn_down(self, entry: Entry) -> None:
        """End an order that was taken and cannot be afforded."""
        order = entry.order
        order.status = OrderStatus.REJECTED
        order.updated_at = self._venue.now()
        order.account.open.pop(order.key, None)

    def change(self, account: VenueAccount, order_id: str, form: Mapping[str, str]) -> Entry:
        """Change an order in place; the caller lets it into the market again.

        Raises:
            ApiError: it cannot be changed, or not so.
        """
        entry = self.find(account, order_id)
        order = entry.order
        if not order.open or order.status is None:
            raise invalid("Order cannot be modified as it is being processed. Try later.")
        if entry.changes >= MOST_CHANGES:
            raise ApiError(400, "OrderException", "Maximum allowed order modifications exceeded.")
        kind = ORDER_TYPES.get(form.get("order_type", ""), order.order_type)
        if kind is not order.order_type:
            raise invalid("The simulated venue does not change an order's type.")
        _check_protection(kind, form)
        quantity = _number(form, "quantity")
        if quantity is not None and not is_multiple(quantity, Decimal(1)):
            raise invalid("Invalid `quantity`.")
        try:
            self._venue.amend(order, quantity, _price(form, "price"), _price(form, "trigger_price"))
        except Refused:
            raise invalid("Order cannot be modified to less than what was traded.") from None
        entry.changes += 1
        entry.modified = True
        return entry

    def cancel(self, account: VenueAccount, order_id: str) -> Entry:
        """Cancel.

        Raises:
            ApiError: it is over, or was never there.
        """
        entry = self.find(account, order_id)
        try:
            self._venue.cancel(entry.order)
        except Refused:
            raise ApiError(
                400, "OrderException", "Order cannot be cancelled as it is being processed."
            ) from None
        return entry

    # Reading a form

    def _read(self, form: Mapping[str, str]) -> tuple[NewOrder, str, str]:
        symbol = f"{form.get('exchange', '')}:{form.get('tradingsymbol', '')}"
        if not self.known(symbol):
            raise invalid(f"Invalid `tradingsymbol`: {symbol}")
        product, tag = form.get("product", ""), form.get("tag", "")
        if product not in PRODUCTS:
            raise invalid("Invalid `product`.")
        if not _TAG.fullmatch(tag):
            raise invalid("Invalid `tag`: at most 20 letters and digits.")
        kind, validity = ORDER_TYPES.get(form.get("order_type", "")), form.get("validity", "DAY")
        if kind is None or validity not in VALIDITIES:
            raise invalid("Invalid `order_type` or `validity`.")
        _check_protection(kind, form)
        sides = {"BUY": Side.BUY, "SELL": Side.SELL}
        side = sides.get(form.get("transaction_type", ""))
        quantity = _number(form, "quantity")
        if side is None or quantity is None or not is_multiple(quantity, Decimal(1)):
            raise invalid("Invalid `transaction_type` or `quantity`.")
        price, trigger = _price(form, "price"), _price(form, "trigger_price")
        if kind.needs_limit != (price is not None) or kind.needs_stop != (trigger is not None):
            raise invalid("`price` and `trigger_price` do not fit `order_type`.")
        return (
            NewOrder(tag, symbol, side, quantity, kind, VALIDITIES[validity], price, trigger),
            (product),
            tag,
        )


def _check_protection(kind: OrderType, form: Mapping[str, str]) -> None:
    """Since April 2026 an order without a limit needs market protection."""
    if kind.needs_limit:
        return
    given = form.get("market_protection", "0")
    if given == "-1":
        return
    try:
        percent = parse_decimal(given)
    except ValueError:
        percent = ZERO
    if not 0 < percent <= 100:
        raise invalid("Market orders without `market_protection` are not allowed.")


def _number(form: Mapping[str, str], name: str) -> Decimal | None:
    text = form.get(name)
    if not text:
        return None
    try:
        number = parse_decimal(text)
    except ValueError:
        raise invalid(f"Invalid `{name}`.") from None
    if number <= 0 and name == "quantity":
        raise invalid(f"Invalid `{name}`.")
    return number


def _price(form: Mapping[str, str], name: str) -> Decimal | None:
    return _number(form, name) or None


def _on_tick(wanted: NewOrder) -> bool:
    prices = (wanted.limit_price, wanted.stop_price)
    return all(price is None or is_multiple(price, TICK) for price in prices)


def _parts(quantity: Decimal, slices: int) -> list[Decimal]:
    part = quantity // slices
    if slices < 2 or not part:
        return [quantity]
    return [*[part] * (slices - 1), quantity - part * (slices - 1)]


def _with_quantity(wanted: NewOrder, quantity: Decimal) -> NewOrder:
    return NewOrder(
        wanted.client_order_id,
        wanted.symbol,
        wanted.side,
        quantity,
        wanted.order_type,
        wanted.time_in_force,
        wanted.limit_price,
        wanted.stop_price,
    )


def _funds(refused: Refused) -> str:
    numbers = {name: value for name, value in refused.facts.items() if isinstance(value, Decimal)}
    needed = round(numbers.get("cost_basis", ZERO), 2)
    power = round(numbers.get("buying_power", ZERO), 2)
    return (
        f"Insufficient funds. Required margin is {needed} but available margin is {power}. "
        "Check the orderbook for open orders."
    )
