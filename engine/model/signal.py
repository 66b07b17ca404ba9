"""A trading signal, validated (schema v1 of the public interface)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from decimal import Decimal

from engine.model.enums import Action, OrderType, Side, TimeInForce


@dataclass(frozen=True, slots=True)
class Audience:
    """Who a signal is for; ``None`` everywhere means every account subscribed to its strategy."""

    accounts: frozenset[str] | None = None
    tags: frozenset[str] | None = None


@dataclass(frozen=True, slots=True)
class Signal:
    """What a producer asks for. Immutable; ``body_hash`` tells a repeat from a contradiction."""

    id: str
    source: str
    strategy: str
    symbol: str
    action: Action
    issued_at: datetime
    order_type: OrderType = OrderType.MARKET
    time_in_force: TimeInForce = TimeInForce.DAY
    limit_price: Decimal | None = None
    stop_price: Decimal | None = None
    stop_loss: Decimal | None = None
    take_profit: Decimal | None = None
    trail_percent: Decimal | None = None
    quantity: Decimal | None = None
    valid_for_s: Decimal | None = None
    reference_price: Decimal | None = None
    audience: Audience | None = None
    meta: Mapping[str, str] = field(default_factory=dict)
    body_hash: str = ""

    @property
    def key(self) -> str:
        """Return ``source/id``, unique for ever."""
        return f"{self.source}/{self.id}"

    @property
    def side(self) -> Side | None:
        """Return the side of an entry; ``None`` for close, cancel and modify."""
        if self.action is Action.BUY:
            return Side.BUY
        if self.action is Action.SELL:
            return Side.SELL
        return None

    @property
    def entry_price(self) -> Decimal | None:
        """Return the price the signal itself names for its entry, if it does."""
        return self.limit_price if self.limit_price is not None else self.stop_price
