"""The venue behind every dialect: accounts, orders and fills on the practice market."""

from __future__ import annotations

import uuid
from asyncio import get_running_loop
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from decimal import Decimal
from enum import StrEnum
from hmac import compare_digest
from os import urandom
from typing import NamedTuple

from engine.model.enums import ExecType, OrderStatus, OrderType, Side, TimeInForce
from engine.model.matching import BookEvent, BookOrder, MarginAccount
from engine.model.numbers import ZERO
from engine.simbroker.config import SimConfig
from engine.simbroker.market import SimMarket


def new_id() -> str:
    """Return a random UUID's text, several times faster than the ``uuid`` module does."""
    digits = urandom(16).hex()
    return f"{digits[:8]}-{digits[8:12]}-4{digits[13:16]}-a{digits[17:20]}-{digits[20:]}"


class Reason(StrEnum):
    """Why the venue refuses; each dialect has its own words and codes for these."""

    DUPLICATE = "duplicate"
    FUNDS = "funds"
    NOT_OPEN = "not_open"


class Refused(Exception):
    """The venue does not do what was asked; ``facts`` are numbers for the message."""

    def __init__(self, reason: Reason, **facts: Decimal | str) -> None:
        super().__init__(reason)
        self.reason = reason
        self.facts = facts


@dataclass(frozen=True, slots=True)
class NewOrder:
    """What a client asks for, read and checked by its dialect."""

    client_order_id: str
    symbol: str
    side: Side
    order_qty: Decimal
    order_type: OrderType
    time_in_force: TimeInForce
    limit_price: Decimal | None = None
    stop_price: Decimal | None = None


class VenueOrder(BookOrder):
    """An order at the venue. ``accepted``: placed, its acknowledgement not yet away."""

    __slots__ = (
        "account",
        "canceled_at",
        "client_order_id",
        "created_at",
        "expired_at",
        "filled_at",
        "gross",
        "replaced_at",
        "replaced_by",
        "replaces",
        "reserve",
        "status",
        "symbol",
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

    @property
    def open(self) -> bool:
        """Say whether it may still fill."""
        return self.status is None or not self.status.terminal

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
    """One client's account; the secret is only ever compared."""

    __slots__ = (
        "_secret",
        "by_client_id",
        "fills",
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
        self.fills: list[Execution] = []

    def knows(self, secret: str) -> bool:
        """Say whether this is the account's secret."""
        return compare_digest(self._secret, secret.encode())


OnEvent = Callable[[str, VenueOrder, Execution | None], None]


class Venue:
    """Places, matches, cancels.

    Everything happens at once, except that the owner decides when an order's acknowledgement is
    away and calls ``activate``: only then it can fill and events of it are told.
    """

    def __init__(self, config: SimConfig, on_event: OnEvent) -> None:
        self.config = config
        self.market = SimMarket(config, self._take)
        self.accounts: dict[str, VenueAccount] = {}
        self.order_count = 0
        self.fill_count = 0
        self._on_event = on_event

    def login(self, key_id: str, secret: str) -> VenueAccount | None:
        """Return the account of these credentials, opened on first use, ``None`` if wrong."""
        account = self.accounts.get(key_id)
        if account is None:
            allowed = self.config.accounts
            if not key_id or not secret or (allowed is not None and key_id not in allowed):
                return None
            true_secret = secret if allowed is None else allowed[key_id]
            money = MarginAccount(self.config.cash, self.config.margin)
            account = self.accounts[key_id] = VenueAccount(key_id, true_secret, money)
        return account if account.knows(secret) else None

    def place(self, account: VenueAccount, wanted: NewOrder) -> VenueOrder:
        """Take an order in, not yet into the market.

        Raises:
            Refused: the client id was used before, or the buying power does not suffice.
        """
        if wanted.client_order_id in account.by_client_id:
            raise Refused(Reason.DUPLICATE)
        order = VenueOrder(account, wanted)
        self._reserve(order)
        self._register(order)
        return order

    def activate(self, order: VenueOrder) -> None:
        """Let an acknowledged order into the market, now or after the fill delay."""
        if order.status is not None:
            return  # cancelled before its acknowledgement was away
        order.status = OrderStatus.NEW
        self._on_event("new", order, None)
        if self.config.fill_delay_ms > 0:
            get_running_loop().call_later(self.config.fill_delay_ms / 1000, self._enter, order)
        else:
            self._enter(order)

    def cancel(self, order: VenueOrder) -> None:
        """Cancel; the owner tells it with ``announce`` once the answer is away.

        Raises:
            Refused: the order is not open any more.
        """
        self._close(order, OrderStatus.CANCELED)
        order.canceled_at = order.updated_at

    def replace(self, order: VenueOrder, wanted: NewOrder) -> VenueOrder:
        """Put a new order in the place of an open one; it starts unfilled, before ``activate``.

        Raises:
            Refused: not open, a used client id, or not enough buying power; the old order stands.
        """
        account = order.account
        if not order.open:
            raise Refused(Reason.NOT_OPEN, status=str(order.status))
        if wanted.client_order_id in account.by_client_id:
            raise Refused(Reason.DUPLICATE)
        successor = VenueOrder(account, wanted)
        account.money.reserved -= order.reserve
        try:
            self._reserve(successor)
        finally:
            account.money.reserved += order.reserve
        self._close(order, OrderStatus.REPLACED)
        order.replaced_at = order.updated_at
        order.replaced_by, successor.replaces = successor.key, order.key
        self._register(successor)
        return successor

    def announce(self, event: str, order: VenueOrder) -> None:
        """Tell an event that waited for an answer to be away."""
        self._on_event(event, order, None)

    def _register(self, order: VenueOrder) -> None:
        account = order.account
        account.orders[order.key] = account.by_client_id[order.client_order_id] = order
        account.open[order.key] = order
        self.order_count += 1

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

    def _enter(self, order: VenueOrder) -> None:
        if not order.open:
            return  # cancelled within the fill delay
        if order.order_type is OrderType.LIMIT and order.limit_price is not None:
            self.market.follow(order.symbol, order.limit_price)
        self._take(self.market.listing(order.symbol).book.add(order))

    def _take(self, events: list[BookEvent]) -> None:
        for event in events:
            order = event.order
            assert isinstance(order, VenueOrder)
            if event.exec_type is ExecType.TRADE:
                self._fill(order, event)
            elif event.exec_type is ExecType.EXPIRED:
                self._end(order, OrderStatus.EXPIRED)
                order.expired_at = order.updated_at
                self._on_event("expired", order, None)
            else:
                self._end(order, OrderStatus.CANCELED)
                order.canceled_at = order.updated_at
                self._on_event("canceled", order, None)

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
            self._on_event("partial_fill", order, execution)
        else:
            order.filled_at = execution.at
            self._end(order, OrderStatus.FILLED)
            self._on_event("fill", order, execution)
