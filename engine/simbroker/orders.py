"""What the venue keeps: orders, their exits, executions and accounts."""

from __future__ import annotations

import uuid
from dataclasses import dataclass
from datetime import UTC, datetime
from decimal import Decimal
from enum import StrEnum
from hmac import compare_digest
from itertools import chain
from os import urandom
from typing import NamedTuple

from engine.model.enums import OrderStatus, OrderType, Side, TimeInForce
from engine.model.identifiers import STOP_LEG, TARGET_LEG
from engine.model.matching import BookOrder, MarginAccount
from engine.model.numbers import ZERO


def new_id() -> str:
    """Return a random UUID's text, several times faster than the ``uuid`` module does."""
    digits = urandom(16).hex()
    return f"{digits[:8]}-{digits[8:12]}-4{digits[13:16]}-a{digits[17:20]}-{digits[20:]}"


class Reason(StrEnum):
    """Why the venue refuses; each dialect has its own words and codes for these."""

    DUPLICATE = "duplicate"
    FUNDS = "funds"
    HELD = "held"  # open orders hold the position already
    NOT_OPEN = "not_open"


class Refused(Exception):
    """The venue does not do what was asked; ``facts`` are numbers for the message.

    ``placed``: the order that it placed all the same, since a fault makes it refuse.
    """

    def __init__(
        self, reason: Reason, *, placed: VenueOrder | None = None, **facts: Decimal | str
    ) -> None:
        super().__init__(reason)
        self.reason = reason
        self.placed = placed
        self.facts = facts


@dataclass(frozen=True, slots=True)
class Exit:
    """An exit that an order brings along: a target (limit), a stop, or a stop limit.

    Its side is the opposite of its entry's, its quantity what the entry fills.
    """

    limit_price: Decimal | None = None
    stop_price: Decimal | None = None
    client_order_id: str = ""
    time_in_force: TimeInForce = TimeInForce.GTC

    @property
    def leg(self) -> str:
        """Return ``"stop"`` or ``"target"``."""
        return TARGET_LEG if self.stop_price is None else STOP_LEG

    @property
    def order_type(self) -> OrderType:
        """Return the type of the order it becomes."""
        if self.stop_price is None:
            return OrderType.LIMIT
        return OrderType.STOP if self.limit_price is None else OrderType.STOP_LIMIT


@dataclass(frozen=True, slots=True)
class NewOrder:
    """What a client asks for, read and checked by its dialect.

    ``exits`` enter the market when this order has filled. With ``one_cancels_other`` this order is
    one of the exits itself: all are on its side and enter the market together.
    ``trail_percent``: a stop that follows the best price at this distance, in percent of it;
    ``stop_price`` is where it starts.
    """

    client_order_id: str
    symbol: str
    side: Side
    order_qty: Decimal
    order_type: OrderType
    time_in_force: TimeInForce
    limit_price: Decimal | None = None
    stop_price: Decimal | None = None
    exits: tuple[Exit, ...] = ()
    one_cancels_other: bool = False
    trail_percent: Decimal | None = None


def trailing_stop_price(side: Side, best_px: Decimal, trail_percent: Decimal) -> Decimal:
    """Return where a stop stands that trails ``best_px``; a sell stands below it."""
    distance = best_px * trail_percent / 100
    return round(best_px + side.sign * distance, 2 if best_px >= 1 else 4)


class VenueOrder(BookOrder):
    """An order at the venue; ``status`` ``None``: placed, its acknowledgement not yet away.

    ``held``: an exit that waits for its entry. ``exits`` are the orders it brought along,
    ``siblings`` those that its fills reduce and its end cancels.
    """

    __slots__ = (
        "account",
        "best_px",
        "canceled_at",
        "cascade",
        "client_order_id",
        "created_at",
        "exits",
        "expired_at",
        "filled_at",
        "filled_before",
        "gross",
        "held",
        "leg",
        "parent",
        "replaced_at",
        "replaced_by",
        "replaces",
        "reserve",
        "siblings",
        "status",
        "symbol",
        "taken_out",
        "trail_percent",
        "updated_at",
    )

    def __init__(self, account: VenueAccount, wanted: NewOrder) -> None:
        super().__init__(
            new_id(),
            wanted.side,
            wanted.order_qty,
            wanted.order_type,
            wanted.time_in_force,
            wanted.limit_price,
            wanted.stop_price,
        )
        self.account = account
        self.client_order_id = wanted.client_order_id
        self.symbol = wanted.symbol
        self.status: OrderStatus | None = None
        self.gross = ZERO  # Σ quantity × price of what filled
        self.reserve = ZERO
        self.replaces = ""
        self.replaced_by = ""
        self.created_at = self.updated_at = datetime.now(UTC)
        self.filled_at: datetime | None = None
        self.canceled_at: datetime | None = None
        self.expired_at: datetime | None = None
        self.replaced_at: datetime | None = None
        self.parent: VenueOrder | None = None
        self.leg = ""
        self.held = False
        self.exits: list[VenueOrder] = []
        self.siblings: list[VenueOrder] = []
        self.filled_before = ZERO  # of the orders it replaced
        self.cascade: list[VenueOrder] = []  # ended with it, not told yet
        self.taken_out = False  # of its book, while it is amended
        self.trail_percent = wanted.trail_percent
        self.best_px: Decimal | None = None  # what a trailing stop follows

    @property
    def open(self) -> bool:
        """Say whether it may still fill."""
        return self.status is None or not self.status.terminal

    @property
    def leaves_qty(self) -> Decimal:
        """Return what may still fill."""
        return self.order_qty - self.cum_qty if self.open else ZERO

    @property
    def avg_px(self) -> Decimal:
        """Return the average price of what filled, zero before the first fill."""
        return self.gross / self.cum_qty if self.cum_qty else ZERO


class Execution(NamedTuple):
    """One fill as the venue tells it; ``position_qty`` is the account's position after it."""

    exec_id: str
    order: VenueOrder
    last_qty: Decimal
    last_px: Decimal
    cum_qty: Decimal
    position_qty: Decimal
    at: datetime


class VenueAccount:
    """One client's account; the secret is only ever compared.

    ``orders``, ``by_client_id`` (the last of an id) and ``open`` are what a dialect may look up;
    ``hidden`` are orders that a fault keeps out of look-ups for a while.
    """

    __slots__ = (
        "_secret",
        "by_client_id",
        "fills",
        "hidden",
        "id",
        "key_id",
        "money",
        "open",
        "orders",
        "since",
    )

    def __init__(self, key_id: str, secret: str, money: MarginAccount) -> None:
        self.key_id = key_id
        self._secret = secret.encode()
        self.id = str(uuid.uuid5(uuid.NAMESPACE_OID, key_id))
        self.money = money
        self.since = datetime.now(UTC)
        self.orders: dict[str, VenueOrder] = {}
        self.by_client_id: dict[str, VenueOrder] = {}
        self.open: dict[str, VenueOrder] = {}
        self.hidden: dict[str, VenueOrder] = {}
        self.fills: list[Execution] = []

    def knows(self, secret: str) -> bool:
        """Say whether this is the account's secret."""
        return compare_digest(self._secret, secret.encode())

    def named(self, client_order_id: str) -> list[VenueOrder]:
        """Return the last order of a client id, and what is hidden of it."""
        hidden = [o for o in self.hidden.values() if o.client_order_id == client_order_id]
        order = self.by_client_id.get(client_order_id)
        return [*hidden, order] if order else hidden

    def show(self, order: VenueOrder) -> None:
        """Let look-ups see an order."""
        self.hidden.pop(order.key, None)
        self.orders[order.key] = order
        if order.client_order_id:
            self.by_client_id[order.client_order_id] = order
        if order.open:
            self.open[order.key] = order

    def held_qty(self, symbol: str, side: Side) -> Decimal:
        """Return the units that open orders of a side hold; of linked ones the largest counts."""
        held = ZERO
        counted: set[str] = set()
        for order in chain(self.open.values(), self.hidden.values()):
            if order.symbol != symbol or order.side is not side or order.held:
                continue
            if order.key not in counted:
                group = [order, *order.siblings]
                counted.update(member.key for member in group)
                held += max(member.leaves_qty for member in group)
        return held

    def available_qty(self, symbol: str) -> Decimal:
        """Return the units of a position that no open order will close; never negative."""
        quantity = self.money.quantity(symbol)
        closing = Side.SELL if quantity > 0 else Side.BUY
        return max(ZERO, abs(quantity) - self.held_qty(symbol, closing))
