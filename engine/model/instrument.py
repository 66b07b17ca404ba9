"""What a broker lets one trade, and in which steps."""

from __future__ import annotations

from dataclasses import dataclass
from decimal import Decimal


@dataclass(frozen=True, slots=True)
class Instrument:
    """A tradable symbol at one broker. ``min_qty``, ``max_qty`` and ``lot`` in units, prices in quote currency.

    ``min_notional``: the smallest value of an order; ``max_qty`` 0: no such limit.
    """

    symbol: str
    lot: Decimal = Decimal(1)
    min_qty: Decimal = Decimal(1)
    tick: Decimal = Decimal("0.01")
    multiplier: Decimal = Decimal(1)
    tradable: bool = True
    min_notional: Decimal = Decimal(0)
    max_qty: Decimal = Decimal(0)
