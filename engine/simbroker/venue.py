"""The venue behind every dialect: accounts, orders and fills on the practice market."""

from __future__ import annotations

from asyncio import get_running_loop
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from decimal import Decimal

from engine.model.enums import ExecType, OrderStatus, OrderType
from engine.model.matching import BookEvent, MarginAccount
from engine.model.numbers import ZERO
from engine.simbroker.config import SimConfig
from engine.simbroker.market import Listing, SimMarket
from engine.simbroker.orders import (
    Execution,
    Exit,
    NewOrder,
    Reason,
    Refused,
    VenueAccount,
    VenueOrder,
    new_id,
    trailing_stop_price,
)
from engine.simbroker.rules import Quirks, Rules

__all__ = [
    "Execution",
    "Exit",
    "NewOrder",
    "Quirks",
    "Reason",
    "Refused",
    "Rules",
    "Venue",
    "VenueAccount",
    "VenueOrder",
    "new_id",
]


OnEvent = Callable[[str, VenueOrder, Execution | None], None]


class Venue:
    """Places, matches, cancels.

    Everything happens at once, except that the owner decides when an order's acknowledgement is
    away and calls ``activate``: only then it can fill and events of it are told.
    ``order_count`` counts what clients asked for, not the exits an order brought along.
    """

    def __init__(self, config: SimConfig, on_event: OnEvent) -> None:
        self.config = config
        self.market = SimMarket(config, self._take, self._trail)
        self.accounts: dict[str, VenueAccount] = {}
        self.order_count = 0
        self.fill_count = 0
        self.rules = Rules()
        self.quirks = Quirks()
        self.skew_s = 0.0  # how wrong its clock is for every request
        self._expired: set[str] = set()
        self._trailing: dict[str, list[VenueOrder]] = {}
        self._on_event = on_event

    def now(self) -> datetime:
        """Return the venue's own time of day."""
        now = datetime.now(UTC)
        skew_s = self.skew_s + self.quirks.skew_s
        return now + timedelta(seconds=skew_s) if skew_s else now

    def login(self, key_id: str, secret: str) -> VenueAccount | None:
        """Return the account of these credentials, opened on first use, ``None`` if wrong."""
        if key_id in self._expired:
            return None
        account = self.accounts.get(key_id)
        if account is None:
            allowed = self.config.accounts
            if not key_id or not secret or (allowed is not None and key_id not in allowed):
                return None
            true_secret = secret if allowed is None else allowed[key_id]
            money = MarginAccount(self.config.cash, self.config.margin)
            account = self.accounts[key_id] = VenueAccount(key_id, true_secret, money)
        return account if account.knows(secret) else None

    def expire(self, key_id: str) -> None:
        """End an account's credentials: ``login`` refuses them until ``renew``."""
        self._expired.add(key_id)

    def renew(self, key_id: str) -> None:
        """Take an account's credentials again (a new session began)."""
        self._expired.discard(key_id)

    def place(self, account: VenueAccount, wanted: NewOrder) -> VenueOrder:
        """Take an order and its exits in, not yet into the market.

        Raises:
            Refused: the client id was used before, open orders hold the position, or the buying
                power does not suffice.
        """
        self._check_ids(account, wanted)
        self._check_holds(account, wanted, ZERO)
        order = VenueOrder(account, wanted)
        self._reserve(order)
        self._register(order)
        self.order_count += 1
        self._bring_exits(order, wanted)
        if self.quirks.duplicate and self.rules.client_ids != "none":
            get_running_loop().call_soon(self.activate, order)
            raise Refused(Reason.DUPLICATE, placed=order)
        return order

    def activate(self, order: VenueOrder) -> None:
        """Let an acknowledged order into the market, now or after the fill delay."""
        if order.status is not None or order.held:
            return  # cancelled before its acknowledgement was away, or waits for its entry
        order.status = OrderStatus.NEW
        self._tell("new", order)
        if self.config.fill_delay_ms > 0:
            get_running_loop().call_later(self.config.fill_delay_ms / 1000, self._enter, order)
        else:
            self._enter(order)
        for other in list(order.exits):
            self.activate(other)

    def cancel(self, order: VenueOrder) -> None:
        """Cancel; the owner tells it with ``announce`` once the answer is away.

        Raises:
            Refused: the order is not open any more.
        """
        self._close(order, OrderStatus.CANCELED)
        order.canceled_at = order.updated_at

    def reject(self, order: VenueOrder) -> None:
        """Turn an order down after it was acknowledged; the owner tells it with ``announce``.

        Raises:
            Refused: the order is not open any more.
        """
        self._close(order, OrderStatus.REJECTED)

    def replace(self, order: VenueOrder, wanted: NewOrder) -> VenueOrder:
        """Put a new order in the place of an open one; it starts unfilled, before ``activate``.

        Exits and links of the old order are the new one's.

        Raises:
            Refused: not open, a used client id, or not enough buying power; the old order stands.
        """
        account = order.account
        if not order.open:
            raise Refused(Reason.NOT_OPEN, status=str(order.status))
        self._check_ids(account, wanted)
        self._check_holds(account, wanted, order.leaves_qty)
        successor = VenueOrder(account, wanted)
        account.money.reserved -= order.reserve
        try:
            if order.parent is None:  # exits reserve nothing
                self._reserve(successor)
        finally:
            account.money.reserved += order.reserve
        self._close(order, OrderStatus.REPLACED)
        order.replaced_at = order.updated_at
        order.replaced_by, successor.replaces = successor.key, order.key
        _take_over(order, successor)
        self._register(successor)
        self.order_count += 1
        return successor

    def amend(
        self,
        order: VenueOrder,
        order_qty: Decimal | None = None,
        limit_price: Decimal | None = None,
        stop_price: Decimal | None = None,
    ) -> None:
        """Change an open order in place; the owner tells ``replaced``, then calls ``reenter``.

        ``None`` leaves a value as it is; ``order_qty`` includes what filled already.

        Raises:
            Refused: not open, or no more than what filled is asked for.
        """
        quantity = order.order_qty if order_qty is None else order_qty
        if not order.open or quantity <= order.cum_qty:
            raise Refused(Reason.NOT_OPEN, status=str(order.status))
        order.taken_out |= self.market.listing(order.symbol).book.cancel(order)
        order.order_qty = quantity
        order.limit_price = order.limit_price if limit_price is None else limit_price
        order.stop_price = order.stop_price if stop_price is None else stop_price
        order.rested = False
        order.updated_at = datetime.now(UTC)

    def reenter(self, order: VenueOrder) -> None:
        """Let an amended order into the market again."""
        if order.taken_out:
            order.taken_out = False
            self._enter(order)

    def announce(self, event: str, order: VenueOrder) -> None:
        """Tell an event that waited for an answer to be away."""
        self._tell(event, order)

    def fill_open(self, key_id: str, symbol: str = "") -> None:
        """Fill an account's open orders (of one symbol) at once: a cancel on its way comes too late."""
        account = self.accounts.get(key_id)
        for order in list(account.open.values()) if account else ():
            working = order.open and order.status is not None and not order.held
            if working and symbol in {"", order.symbol}:
                listing = self.market.listing(order.symbol)
                listing.book.cancel(order)
                quantity, order.cum_qty = order.leaves_qty, order.order_qty
                price = order.limit_price or listing.price
                self._fill(order, BookEvent(order, ExecType.TRADE, quantity, price))

    def link(self, *orders: VenueOrder) -> None:
        """Let a fill of one of these reduce the others, and its end cancel them."""
        for order in orders:
            order.siblings = [other for other in orders if other is not order]

    # Taking in

    def _check_ids(self, account: VenueAccount, wanted: NewOrder) -> None:
        if self.rules.client_ids == "none":
            return
        ids = [wanted.client_order_id, *(leg.client_order_id for leg in wanted.exits)]
        ids = [client_id for client_id in ids if client_id]
        for client_id in ids:
            used = account.named(client_id)
            if self.rules.client_ids == "open_only":
                used = [order for order in used if order.open]
            if used or ids.count(client_id) > 1:
                raise Refused(Reason.DUPLICATE)

    def _check_holds(self, account: VenueAccount, wanted: NewOrder, freed: Decimal) -> None:
        position = account.money.quantity(wanted.symbol)
        if not self.rules.holds_positions or wanted.side.sign * position >= 0:
            return
        available = account.available_qty(wanted.symbol) + freed
        if available < abs(position) and wanted.order_qty > available:
            raise Refused(
                Reason.HELD,
                symbol=wanted.symbol,
                requested=wanted.order_qty,
                available=available,
                existing_qty=abs(position),
                held_for_orders=abs(position) - available,
            )

    def _bring_exits(self, order: VenueOrder, wanted: NewOrder) -> None:
        together = wanted.one_cancels_other
        side = order.side if together else order.side.opposite
        for leg in wanted.exits:
            child = VenueOrder(
                order.account,
                NewOrder(
                    leg.client_order_id,
                    order.symbol,
                    side,
                    order.order_qty,
                    leg.order_type,
                    leg.time_in_force,
                    leg.limit_price,
                    leg.stop_price,
                ),
            )
            child.parent, child.leg, child.held = order, leg.leg, not together
            order.exits.append(child)
            self._register(child)
        self.link(*([order, *order.exits] if together else order.exits))

    def _register(self, order: VenueOrder) -> None:
        account, hide_s = order.account, self.quirks.hide_s
        if hide_s:
            account.hidden[order.key] = order
            get_running_loop().call_later(hide_s, account.show, order)
        else:
            account.show(order)

    def _reserve(self, order: VenueOrder) -> None:
        money = order.account.money
        hint = order.limit_price or order.stop_price
        price = hint or self.market.listing(order.symbol).price
        cost = money.opening_qty(order.symbol, order.side, order.order_qty) * price
        if cost:
            power = money.buying_power(self.market.price)
            if cost > power:
                raise Refused(Reason.FUNDS, buying_power=power, cost_basis=cost)
        self.market.listing(order.symbol, hint)
        order.reserve = cost
        money.reserved += cost

    def _release(self, order: VenueOrder, part: Decimal) -> None:
        order.reserve -= part
        order.account.money.reserved -= part

    # Ending

    def _close(self, order: VenueOrder, status: OrderStatus) -> None:
        if not order.open:
            raise Refused(Reason.NOT_OPEN, status=str(order.status))
        self.market.listing(order.symbol).book.cancel(order)
        self._end(order, status)

    def _end(self, order: VenueOrder, status: OrderStatus) -> None:
        order.status = status
        order.updated_at = datetime.now(UTC)
        order.account.open.pop(order.key, None)
        self._release(order, order.reserve)
        if status is OrderStatus.REPLACED:
            return
        if status is OrderStatus.FILLED or self.rules.cancels_together:
            self._end_others(order, order.siblings)
        if not order.cum_qty + order.filled_before:
            self._end_others(order, [child for child in order.exits if child.held])

    def _end_others(self, cause: VenueOrder, others: list[VenueOrder]) -> None:
        """Cancel what ends with ``cause``; it is told after it."""
        for other in others:
            if other.open:
                self._close(other, OrderStatus.CANCELED)
                other.canceled_at = other.updated_at
                cause.cascade.append(other)

    def _tell(self, event: str, order: VenueOrder, execution: Execution | None = None) -> None:
        """Tell an event, then what followed from it."""
        self._on_event(event, order, execution)
        ended, order.cascade = order.cascade, []
        for other in ended:
            self._tell("canceled", other)
        filled = order.cum_qty + order.filled_before
        if order.open or order.status is OrderStatus.REPLACED or not filled:
            return
        for child in order.exits:
            if child.held and child.open:
                child.held, child.order_qty = False, filled
                self.activate(child)

    # The market

    def _enter(self, order: VenueOrder) -> None:
        if not order.open:
            return  # cancelled within the fill delay
        exits = bool(order.leg or order.siblings)  # which wait for the market, not the reverse
        if order.order_type is OrderType.LIMIT and order.limit_price is not None and not exits:
            self.market.follow(order.symbol, order.limit_price)
        listing = self.market.listing(order.symbol)
        if order.trail_percent is not None:
            order.best_px = order.best_px or listing.price
            self._trailing.setdefault(order.symbol, []).append(order)
        self._take(listing.book.add(order))

    def _trail(self, listing: Listing) -> None:
        """Let trailing stops follow a price that moved their way."""
        waiting = [o for o in self._trailing.pop(listing.symbol, ()) if o.open and not o.triggered]
        if not waiting:
            return
        self._trailing[listing.symbol] = waiting
        for order in waiting:
            assert order.best_px is not None
            assert order.trail_percent is not None
            if order.side.sign * (listing.price - order.best_px) < 0:  # a sell follows it up
                listing.book.cancel(order)
                order.best_px = listing.price
                order.stop_price = trailing_stop_price(
                    order.side, listing.price, order.trail_percent
                )
                listing.book.add(order)

    def _take(self, events: list[BookEvent]) -> None:
        for event in events:
            order = event.order
            assert isinstance(order, VenueOrder)
            if event.exec_type is ExecType.TRADE:
                self._fill(order, event)
            elif event.exec_type is ExecType.EXPIRED:
                self._end(order, OrderStatus.EXPIRED)
                order.expired_at = order.updated_at
                self._tell("expired", order)
            else:
                self._end(order, OrderStatus.CANCELED)
                order.canceled_at = order.updated_at
                self._tell("canceled", order)

    def _fill(self, order: VenueOrder, event: BookEvent) -> None:
        account = order.account
        position = account.money.apply(account.key_id, order.symbol, event)
        order.gross += event.last_qty * event.last_px
        execution = Execution(
            new_id(),
            order,
            event.last_qty,
            event.last_px,
            order.cum_qty,  # a book move fills an order at most once
            position.qty,
            datetime.now(UTC),
        )
        account.fills.append(execution)
        self.fill_count += 1
        order.updated_at = execution.at
        if order.cum_qty < order.order_qty:
            order.status = OrderStatus.PARTIALLY_FILLED
            left = order.order_qty - order.cum_qty
            self._release(order, order.reserve * event.last_qty / (left + event.last_qty))
            for other in order.siblings:
                other.order_qty -= event.last_qty
            self._tell("partial_fill", order, execution)
        else:
            order.filled_at = execution.at
            self._end(order, OrderStatus.FILLED)
            self._tell("fill", order, execution)


def _take_over(order: VenueOrder, successor: VenueOrder) -> None:
    """Give a replaced order's place among its exits and links to its successor."""
    successor.filled_before = order.filled_before + order.cum_qty
    successor.parent, successor.leg, successor.held = order.parent, order.leg, order.held
    if order.parent is not None:
        order.parent.exits = [successor if o is order else o for o in order.parent.exits]
    successor.siblings, successor.exits = order.siblings, order.exits
    for other in successor.siblings:
        other.siblings = [successor if o is order else o for o in other.siblings]
    for child in successor.exits:
        child.parent = successor
    order.siblings, order.exits = [], []
