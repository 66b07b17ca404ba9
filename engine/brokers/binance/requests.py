"""What we say to Binance: which orders it has, and the parameters of each request, percent-encoded. No I/O.

Source: rest-api.md ("New order", "New Order list", "Cancel an Existing Order and Send a New Order").
"""

from __future__ import annotations

import re
from decimal import Decimal
from urllib.parse import quote

from engine.model.enums import OrderType, Side, TimeInForce
from engine.model.identifiers import STOP_LEG, TARGET_LEG, exit_leg_id
from engine.model.numbers import ZERO, to_text
from engine.model.order import Order

TYPES = {
    OrderType.MARKET: "MARKET",
    OrderType.LIMIT: "LIMIT",
    OrderType.STOP: "STOP_LOSS",
    OrderType.STOP_LIMIT: "STOP_LOSS_LIMIT",
}
SIDES = {Side.BUY: "BUY", Side.SELL: "SELL"}
_TIFS = {
    TimeInForce.DAY: "GTC",
    TimeInForce.GTC: "GTC",
    TimeInForce.IOC: "IOC",
    TimeInForce.FOK: "FOK",
}
_SAFE = re.compile(r"[A-Za-z0-9._-]*", re.ASCII)


def refusal(order_type: OrderType, time_in_force: TimeInForce, *, day_as_gtc: bool) -> str:
    """Say why Binance has no such order, empty if it has.

    MARKET and STOP_LOSS take no time in force: what does not fill at once expires (``ioc``). ``day`` asks nothing
    more of an order that never rests; of one that rests it asks what Binance does not do.
    """
    at_market = not order_type.needs_limit
    if time_in_force is TimeInForce.FOK and at_market:
        return f"Binance fills {order_type} orders in part; it has fok for limit orders only"
    if time_in_force is TimeInForce.DAY and order_type is not OrderType.MARKET and not day_as_gtc:
        return (
            f"Binance has no day orders: send the {order_type} order with gtc, or set the account's "
            'option day_as_gtc = "yes" to let day orders rest until canceled'
        )
    return ""


def works_exits(order: Order) -> bool:
    """Say whether an order's exits go along as an order list: a resting limit entry, no trail.

    Both exits make an OTOCO, one an OTO. Only a LIMIT may be a list's working order (rest-api.md, OTO).
    """
    return (
        order.order_type is OrderType.LIMIT
        and order.time_in_force in {TimeInForce.GTC, TimeInForce.DAY}
        and (order.stop_loss is not None or order.take_profit is not None)
        and order.trail_percent is None
        and not order.reducing
        and not order.alone
        and not order.parent
    )


class OrderQueries:
    """Writes the parameters of ``POST /api/v3/order``; remembers the part that all orders of one signal share."""

    __slots__ = ("_limit", "_part", "_side", "_stop", "_symbol", "_tif", "_type")

    def __init__(self) -> None:
        self._part = ""
        self._symbol: str | None = None
        self._side: Side | None = None
        self._type: OrderType | None = None
        self._tif: TimeInForce | None = None
        self._limit: Decimal | None = None
        self._stop: Decimal | None = None

    def write(self, order: Order) -> str:
        """Return the parameters, percent-encoded, without ``recvWindow``, ``timestamp`` and ``signature``."""
        # Orders of one signal share these very objects: identity is enough and costs next to nothing.
        if not (
            order.symbol is self._symbol
            and order.limit_price is self._limit
            and order.side is self._side
            and order.order_type is self._type
            and order.time_in_force is self._tif
            and order.stop_price is self._stop
        ):
            self._remember(order)
        return f"{self._part}{to_text(order.order_qty)}&newClientOrderId={order.cl_ord_id}"

    def _remember(self, order: Order) -> None:
        self._symbol, self._side, self._type = order.symbol, order.side, order.order_type
        self._tif, self._limit, self._stop = (
            order.time_in_force,
            order.limit_price,
            order.stop_price,
        )
        self._part = f"{order_terms(order)}&quantity="


def order_terms(order: Order) -> str:
    """Return what is the same for every account: symbol, side, type, time in force, prices."""
    tif = f"&timeInForce={_TIFS[order.time_in_force]}" if order.order_type.needs_limit else ""
    limit = f"&price={to_text(order.limit_price)}" if order.limit_price is not None else ""
    stop = f"&stopPrice={to_text(order.stop_price)}" if order.stop_price is not None else ""
    return (
        f"symbol={in_query(order.symbol)}&side={SIDES[order.side]}"
        f"&type={TYPES[order.order_type]}{tif}{limit}{stop}&newOrderRespType=FULL"
    )


def in_query(text: str) -> str:
    """Percent-encode what is not plain."""
    return text if _SAFE.fullmatch(text) else quote(text, safe="")


def list_request(order: Order) -> tuple[str, str]:
    """Return path and parameters of an entry with its exits: an OTOCO, or an OTO with one exit.

    A profit target is a LIMIT_MAKER (a resting limit order), a stop loss a STOP_LOSS (market once touched).
    """
    exit_side = order.side.opposite
    quantity = to_text(order.order_qty)
    head = (
        f"symbol={in_query(order.symbol)}&listClientOrderId=L-{order.cl_ord_id}&newOrderRespType=FULL"
        f"&workingType=LIMIT&workingSide={SIDES[order.side]}&workingClientOrderId={order.cl_ord_id}"
        f"&workingPrice={to_text(order.limit_price or ZERO)}&workingQuantity={quantity}"
        f"&workingTimeInForce=GTC&pendingSide={SIDES[exit_side]}&pendingQuantity={quantity}"
    )
    if order.stop_loss is None or order.take_profit is None:
        leg = TARGET_LEG if order.stop_loss is None else STOP_LEG
        return "/api/v3/orderList/oto", head + _pending("pending", order, leg)
    # Of a long position's exits the target lies above, of a short one's the stop.
    above, below = (TARGET_LEG, STOP_LEG) if order.side is Side.BUY else (STOP_LEG, TARGET_LEG)
    return (
        "/api/v3/orderList/otoco",
        head + _pending("pendingAbove", order, above) + _pending("pendingBelow", order, below),
    )


def _pending(name: str, order: Order, leg: str) -> str:
    if leg == TARGET_LEG:
        terms = f"&{name}Type=LIMIT_MAKER&{name}Price={to_text(order.take_profit or ZERO)}"
    else:
        terms = f"&{name}Type=STOP_LOSS&{name}StopPrice={to_text(order.stop_loss or ZERO)}"
    return f"{terms}&{name}ClientOrderId={exit_leg_id(order.cl_ord_id, leg)}"


def which_order(order: Order, *, ours: str, theirs: str) -> str:
    """Name an order by the broker's id under ``theirs`` (faster there), else by its ClOrdID under ``ours``."""
    return f"{theirs}={order.order_id}" if order.order_id.isdigit() else f"{ours}={order.cl_ord_id}"


def replace_query(order: Order, replacement: Order) -> str:
    """Return the parameters of ``POST /api/v3/order/cancelReplace``; without the cancel there is no new order."""
    which = which_order(order, ours="cancelOrigClientOrderId", theirs="cancelOrderId")
    return (
        f"{order_terms(replacement)}&quantity={to_text(replacement.order_qty)}"
        f"&newClientOrderId={replacement.cl_ord_id}&cancelReplaceMode=STOP_ON_FAILURE&{which}"
    )
