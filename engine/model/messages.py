"""What comes back from brokers, and what goes to the desk: immutable values."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from decimal import Decimal

from engine.model.enums import ExecType, OrderStatus, OrderType, Side, TimeInForce
from engine.model.numbers import ZERO


@dataclass(
    slots=True
)  # not frozen: that trebles the cost of making one, and one is made for every reply
class ExecutionReport:
    """One fact about one order, from a reply, a stream, a look-up or the wire (FIX 35=8). Never changed once made.

    ``cum_qty`` and ``avg_px`` are the broker's totals when it says them, else ``None``. A trade that
    carries no id of the broker's has an empty ``exec_id``; ``Order.apply`` then derives a stable one.
    ``legs`` counts further broker orders created by the same request.
    """

    account: str
    cl_ord_id: str
    exec_type: ExecType
    status: OrderStatus | None = None
    order_id: str = ""
    exec_id: str = ""
    last_qty: Decimal = ZERO
    last_px: Decimal = ZERO
    cum_qty: Decimal | None = None
    avg_px: Decimal | None = None
    text: str = ""
    transact_time: datetime | None = None
    # For orders we do not know (placed elsewhere, or adopted after a loss of state):
    symbol: str = ""
    side: Side | None = None
    order_type: OrderType | None = None
    time_in_force: TimeInForce | None = None
    order_qty: Decimal | None = None
    limit_price: Decimal | None = None
    stop_price: Decimal | None = None
    replaces: str = ""  # order_id this one took the place of
    # For an exit the broker made along with an entry (bracket, OTOCO, on-fill order):
    parent: str = ""  # the entry's ClOrdID
    leg: str = ""  # STOP_LEG or TARGET_LEG, see engine.model.identifiers
    fee_qty: Decimal = (
        ZERO  # of last_qty, what the broker kept as its fee (spot: paid in the asset bought)
    )
    busts: str = ""  # exec_id of the fill that a trade_cancel undoes


@dataclass(frozen=True, slots=True)
class Fill:
    """One execution applied to a position. Quantities unsigned, price in quote currency.

    ``fee_qty``: units of ``last_qty`` that never arrived, because the broker takes its fee in kind.
    """

    account: str
    exec_id: str
    cl_ord_id: str
    symbol: str
    side: Side
    last_qty: Decimal
    last_px: Decimal
    at: datetime
    strategy: str = ""
    source: str = ""
    signal_id: str = ""
    fee_qty: Decimal = ZERO


@dataclass(frozen=True, slots=True)
class Balances:
    """Money of one account, in its own currency."""

    equity: Decimal
    cash: Decimal
    buying_power: Decimal
    currency: str = "USD"
    blocked: bool = False
    owner: str = ""
    """The broker's own id of the account, where it tells one."""


@dataclass(frozen=True, slots=True)
class BrokerPosition:
    """A position as the broker sees it; ``qty`` signed."""

    symbol: str
    qty: Decimal
    avg_px: Decimal


@dataclass(frozen=True, slots=True)
class Quote:
    """A price from outside. ``at_ns`` is the monotonic stamp of its arrival."""

    symbol: str
    price: Decimal
    at_ns: int
