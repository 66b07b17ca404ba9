"""What one decision has come to so far (controls C02, C03 and C07): a signal's orders, a command's, and replacements.

Approvals in parts, forced orders and replacements are held to the limits together: cutting an order into slices passes
no limit. A replacement belongs to the decision of the order whose place it takes.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime, timedelta
from decimal import Decimal

from engine.model.enums import OrderStatus
from engine.model.numbers import ZERO
from engine.model.order import Order

WITHIN = timedelta(seconds=60)
MOST_DECISIONS = 2_000
Origin = tuple[str, str]
"""Source and id of a signal; the operator's name and id of a command."""
_NOTHING = frozenset({OrderStatus.DENIED, OrderStatus.REJECTED, OrderStatus.REPLACED})


@dataclass(frozen=True, slots=True)
class Sum:
    """Quantity and value together."""

    quantity: Decimal = ZERO
    value: Decimal = ZERO


NO_SUM = Sum()


def counts(order: Order) -> bool:
    """Say whether an order may have come to something: not one denied, rejected, replaced or proven absent."""
    absent = order.status is OrderStatus.EXPIRED and order.code == "ABSENT"
    return order.status not in _NOTHING and not absent


def worth(order: Order, price: Decimal | None) -> Decimal:
    """Return an order's value per unit of multiplier, at its own price; ``price`` for one that has none."""
    own = order.limit_price or order.stop_price or order.avg_px or price or ZERO
    return order.order_qty * own


def recent(orders: Iterable[Order], account: str, now: datetime, price: Decimal | None) -> Sum:
    """Return what an account's part of a decision comes to within the last minute."""
    found = [
        order
        for order in orders
        if order.account == account and counts(order) and now - order.created_at <= WITHIN
    ]
    quantity = sum((order.order_qty for order in found), ZERO)
    return Sum(quantity, sum((worth(order, price) for order in found), ZERO))


class Slices:
    """Which decision replacements belong to. The newest few thousand decisions are remembered."""

    def __init__(self) -> None:
        self._replacements: OrderedDict[Origin, list[Order]] = OrderedDict()
        self._origins: dict[str, Origin] = {}

    def origin(self, order: Order) -> Origin:
        """Return the decision an order comes of."""
        return self._origins.get(order.cl_ord_id, (order.source, order.signal_id))

    def replaces(self, order: Order, replacement: Order) -> None:
        """Note that ``replacement`` is to take the place of ``order``."""
        origin = self.origin(order)
        self._origins[replacement.cl_ord_id] = origin
        self._replacements.setdefault(origin, []).append(replacement)
        while len(self._replacements) > MOST_DECISIONS:
            _, forgotten = self._replacements.popitem(last=False)
            for gone in forgotten:
                self._origins.pop(gone.cl_ord_id, None)

    def replacements(self, origin: Origin) -> list[Order]:
        """Return the replacements among a decision's orders."""
        return self._replacements.get(origin, [])

    def together_with(self, order: Order, orders: Iterable[Order]) -> list[Order]:
        """Return what else ``orders`` hold of the decision ``order`` comes of."""
        origin = self.origin(order)
        return [
            other
            for other in orders
            if self.origin(other) == origin and other.cl_ord_id != order.cl_ord_id
        ]
