"""OANDA's v20 words to ours and back: pure functions, no I/O.

Sources: https://developer.oanda.com/rest-live-v20 and OANDA's own OpenAPI document (v20.json 3.0.25).
What is not documented is taken for "no proof": the order is then looked up.

How our words are said there:

* ``units`` carry the side as their sign; exits (``order.reducing``) are ``REDUCE_ONLY``, all else ``DEFAULT``.
* A market order is ``FOK`` or ``IOC`` by OANDA's rule, so ``day`` and ``gtc`` market orders go as ``FOK``.
* ``day`` is ``GFD`` (good for day), ``gtc`` ``GTC``, ``ioc`` ``IOC``, ``fok`` ``FOK``.
* Whether OANDA lets a resting stop be ``IOC`` or ``FOK`` is not documented; it is sent as asked, and its
  ``TIME_IN_FORCE_INVALID`` is then a rejection like any other.
* A stop-limit order is a ``STOP`` with ``priceBound``: once touched it fills no worse than the bound, and where
  the market has jumped past the bound OANDA **cancels** it; it does not rest at its limit as elsewhere.
* Orders that fill at once also name the trade they open after themselves (``tradeClientExtensions``): OANDA keeps
  client ids unique among *pending* orders only, but trade ids among *open trades*, so a market order that
  filled unseen cannot be filled again while its trade is open. Resting orders do not: one filled in parts would
  open a second trade of that name and lose its rest.
* Exits of an entry go along as ``takeProfitOnFill``, ``stopLossOnFill`` or ``trailingStopLossOnFill``; their client
  extensions hold our ClOrdID, the leg (tag) and the entry (comment), so each tells whose it is by itself.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from decimal import ROUND_HALF_UP, Decimal
from typing import Any
from urllib.parse import quote

from engine.brokers.http import plain
from engine.brokers.reading import (
    moment,
    optional_number,
    rejected,
    text_of,
    unknown,
    unsent,
)
from engine.model.enums import ExecType, OrderStatus, OrderType, Side, TimeInForce
from engine.model.identifiers import STOP_LEG, TARGET_LEG, exit_leg_id
from engine.model.messages import ExecutionReport
from engine.model.numbers import to_text
from engine.model.order import Order

LIVE_HOST = "api-fxtrade.oanda.com"
PRACTICE_HOST = "api-fxpractice.oanda.com"
STREAM_HOSTS = {
    LIVE_HOST: "stream-fxtrade.oanda.com",
    PRACTICE_HOST: "stream-fxpractice.oanda.com",
}
TAG = "volley"
"""The tag of our entries' client extensions."""
ACCOUNT_ID = re.compile(r"[0-9-]{1,32}", re.ASCII)
INSTRUMENT = re.compile(r"[A-Z0-9]{2,16}_[A-Z0-9]{2,8}", re.ASCII)
"""What an instrument's name looks like: base and quote, ``EUR_USD``, ``SPX500_USD``."""
TRADE_ID_TAKEN = "CLIENT_TRADE_ID_ALREADY_EXISTS"
IDS_TAKEN = frozenset({"CLIENT_ORDER_ID_ALREADY_EXISTS", TRADE_ID_TAKEN})

_OURS = re.compile(r"[A-Z2-7]{20}", re.ASCII)
_TIF = {
    TimeInForce.DAY: "GFD",
    TimeInForce.GTC: "GTC",
    TimeInForce.IOC: "IOC",
    TimeInForce.FOK: "FOK",
}
_TIF_BACK = {word: tif for tif, word in _TIF.items()}
_AT_ONCE = frozenset({"IOC", "FOK"})
_TYPE = {
    OrderType.MARKET: "MARKET",
    OrderType.LIMIT: "LIMIT",
    OrderType.STOP: "STOP",
    OrderType.STOP_LIMIT: "STOP",
}
# OANDA's types, as orders have them and, with _ORDER, the transactions that create them.
ORDER_TYPES = {
    "MARKET": OrderType.MARKET,
    "FIXED_PRICE": OrderType.MARKET,
    "LIMIT": OrderType.LIMIT,
    "STOP": OrderType.STOP,
    "MARKET_IF_TOUCHED": OrderType.STOP,
    "TAKE_PROFIT": OrderType.LIMIT,
    "STOP_LOSS": OrderType.STOP,
    "GUARANTEED_STOP_LOSS": OrderType.STOP,
    "TRAILING_STOP_LOSS": OrderType.STOP,
}
_LEGS = {
    "TAKE_PROFIT": TARGET_LEG,
    "STOP_LOSS": STOP_LEG,
    "GUARANTEED_STOP_LOSS": STOP_LEG,
    "TRAILING_STOP_LOSS": STOP_LEG,
}
# Statuses that prove a refusal, given an error object of OANDA's.
_REFUSALS = frozenset({400, 401, 403, 404, 405})
_REASONS = {
    "ACCOUNT_LOCKED": "the account is locked",
    "ACCOUNT_NEW_POSITIONS_LOCKED": "the account may not open positions",
    "ACCOUNT_NOT_ACTIVE": "the account is not active",
    "ACCOUNT_ORDER_CREATION_LOCKED": "the account may not create orders",
    "BOUNDS_VIOLATION": "the market was past the price bound",
    "CLIENT_ORDER_ID_ALREADY_EXISTS": "a pending order has this client id already",
    "CLIENT_REQUEST": "canceled on request",
    "CLIENT_REQUEST_REPLACED": "replaced on request",
    "CLIENT_TRADE_ID_ALREADY_EXISTS": "an open trade has this client id already",
    "FIFO_VIOLATION": "it would close trades against the first-in-first-out rule",
    "INSTRUMENT_NOT_TRADEABLE": "the instrument is not tradeable now",
    "INSTRUMENT_UNKNOWN": "the broker has no such instrument",
    "INSUFFICIENT_FUNDS": "not enough funds",
    "INSUFFICIENT_LIQUIDITY": "not enough liquidity to fill it",
    "INSUFFICIENT_MARGIN": "not enough margin",
    "LINKED_TRADE_CLOSED": "the trade it was for is closed",
    "LOSING_TAKE_PROFIT": "the take profit would close at a loss",
    "MARKET_HALTED": "the market is halted",
    "OPEN_TRADES_ALLOWED_EXCEEDED": "the account has too many open trades",
    "ORDER_DOESNT_EXIST": "the broker has no such pending order",
    "PENDING_ORDERS_ALLOWED_EXCEEDED": "the account has too many pending orders",
    "POSITION_CLOSEOUT_FAILED": "there is no position to reduce",
    "POSITION_SIZE_EXCEEDED": "the position would be too large",
    "PRICE_PRECISION_EXCEEDED": "a price has too many digits",
    "STOP_LOSS_ON_FILL_LOSS": "the stop loss is on the wrong side of the price",
    "TAKE_PROFIT_ON_FILL_LOSS": "the take profit is on the wrong side of the price",
    "TIME_IN_FORCE_EXPIRED": "its time was over",
    "TIME_IN_FORCE_INVALID": "this time in force does not go with this order type",
    "UNITS_LIMIT_EXCEEDED": "more units than one order may have",
    "UNITS_MINIMUM_NOT_MET": "fewer units than the smallest trade",
    "UNITS_MIMIMUM_NOT_MET": "fewer units than the smallest trade",  # so spelt in OANDA's document
    "UNITS_PRECISION_EXCEEDED": "the units have too many digits",
}


def reason_text(reason: object) -> str:
    """Say a cancel or reject reason in words, followed by OANDA's own: what a person can search for."""
    code = plain(reason or "no reason given")
    return f"{_REASONS.get(code) or code.replace('_', ' ').lower()} ({code})"


# Requests


class OrderBodies:
    """Writes order bodies; remembers the part that all orders of one signal share."""

    __slots__ = ("_at_once", "_exits", "_part", "_seen", "_tick")

    def __init__(self) -> None:
        self._part = ""
        self._at_once = False
        self._exits: tuple[tuple[str, str], ...] = ()
        self._tick: Decimal | None = None
        self._seen: Order | None = None

    def write(self, order: Order, tick: Decimal | None) -> str:
        """Return the JSON of ``POST`` and ``PUT …/orders``; every field was validated as plain ASCII.

        ``tick``: the instrument's smallest price step, which a trailing distance must keep to.
        """
        seen = self._seen
        # Orders of one signal share these very objects, so identity is enough and costs next to nothing.
        if seen is None or not (
            order.symbol is seen.symbol
            and order.limit_price is seen.limit_price
            and order.stop_price is seen.stop_price
            and order.side is seen.side
            and order.order_type is seen.order_type
            and order.time_in_force is seen.time_in_force
            and order.strategy is seen.strategy
            and order.reducing is seen.reducing
            and order.alone is seen.alone
            and order.stop_loss is seen.stop_loss
            and order.take_profit is seen.take_profit
            and order.trail_percent is seen.trail_percent
            and tick is self._tick
        ):
            self._remember(order, tick)
        own = order.cl_ord_id
        trade = f',"tradeClientExtensions":{{"id":"{own}"}}' if self._at_once else ""
        exits = "".join(
            f'{begin}"{exit_leg_id(own, leg)}","tag":"{leg}","comment":"{own}"}}}}'
            for leg, begin in self._exits
        )
        return (
            f'{self._part}"units":"{signed_units(order)}","clientExtensions":{{"id":"{own}",'
            f'"tag":"{TAG}","comment":"{order.strategy}"}}{trade}{exits}}}}}'
        )

    def _remember(self, order: Order, tick: Decimal | None) -> None:
        self._seen, self._tick = order, tick
        tif = _TIF[order.time_in_force]
        if order.order_type is OrderType.MARKET and tif not in _AT_ONCE:
            tif = "FOK"
        self._at_once = tif in _AT_ONCE and not order.reducing
        price, bound = order.stop_price or order.limit_price, None
        if order.order_type is OrderType.STOP_LIMIT:
            bound = order.limit_price
        self._part = (
            f'{{"order":{{"type":"{_TYPE[order.order_type]}","instrument":"{order.symbol}",'
            f'"timeInForce":"{tif}",'
            f'"positionFill":"{"REDUCE_ONLY" if order.reducing else "DEFAULT"}",'
            + (f'"price":"{to_text(price)}",' if price is not None else "")
            + (f'"priceBound":"{to_text(bound)}",' if bound is not None else "")
        )
        self._exits = tuple(_exits(order, tick)) if works_exits(order) else ()


def signed_units(order: Order) -> str:
    """Return the order's quantity as OANDA writes it: a sale has a minus."""
    return ("-" if order.side is Side.SELL else "") + to_text(order.order_qty)


def _exits(order: Order, tick: Decimal | None) -> list[tuple[str, str]]:
    """Return (leg, its JSON up to the client id) of every exit that goes along."""
    found = []
    for leg, name, key, value in (
        (TARGET_LEG, "takeProfitOnFill", "price", order.take_profit),
        (STOP_LEG, "stopLossOnFill", "price", order.stop_loss),
        (STOP_LEG, "trailingStopLossOnFill", "distance", trail_distance(order, tick)),
    ):
        if value is not None:
            begin = f',"{name}":{{"{key}":"{to_text(value)}","timeInForce":"GTC",'
            found.append((leg, begin + '"clientExtensions":{"id":'))
    return found


def trail_distance(order: Order, tick: Decimal | None) -> Decimal | None:
    """Return how far the trailing stop stays behind, in price units: the percentage of the entry's own price.

    Rounded to ``tick``, or, where that is not known, to the digits of the price itself; never zero.
    """
    price = order.limit_price or order.stop_price
    if order.trail_percent is None or price is None:
        return None
    step = tick or Decimal(1).scaleb(min(0, int(price.as_tuple().exponent)))
    steps = (price * order.trail_percent / 100 / step).to_integral_value(ROUND_HALF_UP)
    return max(steps, Decimal(1)) * step


def works_exits(order: Order) -> bool:
    """Say whether OANDA itself works this entry's exits.

    A trailing stop is a distance in price there: it needs an entry that names a price, and both a fixed and
    a trailing stop would want the one name of the stop leg. The engine's own exits do those.
    """
    if order.reducing or order.alone or order.parent:
        return False
    if order.trail_percent is not None:
        price = order.limit_price or order.stop_price
        return price is not None and order.stop_loss is None
    return order.stop_loss is not None or order.take_profit is not None


def order_specifier(cl_ord_id: str, order_id: str) -> str:
    """Return how an order is named in a path: by our client id, an order of others by OANDA's own."""
    return f"@{cl_ord_id}" if _OURS.fullmatch(cl_ord_id) else quote(order_id, safe="")


def exit_body(kind: str, trade_id: str, replacement: Order) -> str | None:
    """Return the JSON that puts ``replacement`` in the place of an exit; ``None``: it cannot be said.

    ``kind`` is the exit's type at OANDA. A trailing stop has a distance and no price, which is all we name.
    """
    price = replacement.limit_price if kind == "TAKE_PROFIT" else replacement.stop_price
    if kind not in {"TAKE_PROFIT", "STOP_LOSS"} or price is None or not trade_id:
        return None
    leg = _LEGS[kind]
    return (
        f'{{"order":{{"type":"{kind}","tradeID":"{trade_id}","price":"{to_text(price)}",'
        f'"timeInForce":"GTC","clientExtensions":{{"id":"{replacement.cl_ord_id}","tag":"{leg}",'
        f'"comment":"{replacement.parent}"}}}}}}'
    )


# Replies to orders


def harmless_twice(order: Order) -> bool:
    """Say whether an order that was taken although a 429 said otherwise does no harm when it is sent again.

    One that fills at once carries its trade's id, which OANDA takes only once while that trade is open; one that
    only reduces cannot turn a position around. A resting order has no such guard once it has filled.
    """
    at_once = order.order_type is OrderType.MARKET or _TIF[order.time_in_force] in _AT_ONCE
    return at_once or order.reducing


def verdict(
    account: str, cl_ord_id: str, status: int, reply: Mapping[str, Any]
) -> ExecutionReport | None:
    """Say what a reply to an order proves; ``None``: it was taken, and the reply's transactions tell more.

    ``reply`` is empty where there was no JSON object.
    """
    # OANDA rejects what is above its rate; a 429 of somebody on the way proves nothing.
    if status == 429 and ("errorMessage" in reply or "errorCode" in reply):
        return unsent(account, cl_ord_id, "the broker's rate limit is used up (HTTP 429)")
    if 200 <= status < 300:
        return _taken(account, cl_ord_id, reply)
    refusal = reply.get("orderRejectTransaction")
    reason = refusal.get("rejectReason") if isinstance(refusal, dict) else reply.get("errorCode")
    if not isinstance(reason, str):
        reason = ""
    if status not in _REFUSALS or not (reason or "errorMessage" in reply):
        return unknown(account, cl_ord_id, f"HTTP {status}: no proof of the outcome")
    if reason in IDS_TAKEN:
        # Very likely our own first try. The look-up tells.
        return unknown(account, cl_ord_id, reason_text(reason))
    return rejected(account, cl_ord_id, error_text(status, reply))


def _taken(account: str, cl_ord_id: str, reply: Mapping[str, Any]) -> ExecutionReport | None:
    created = reply.get("orderCreateTransaction")
    if not isinstance(created, dict):
        return unknown(account, cl_ord_id, "the reply tells of no order")
    if client_id(created) != cl_ord_id:
        return unknown(account, cl_ord_id, "the reply is about another order")
    canceled = reply.get("orderCancelTransaction")
    if isinstance(canceled, dict) and canceled.get("reason") == TRADE_ID_TAKEN:
        return unknown(account, cl_ord_id, reason_text(TRADE_ID_TAKEN))
    return None


def transactions_of(reply: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Return the transactions a reply holds, as they happened."""
    found = [
        value
        for name, value in reply.items()
        if name.endswith("Transaction") and isinstance(value, dict)
    ]
    return sorted(found, key=lambda told: transaction_id(told.get("id")))


def transaction_id(value: object) -> int:
    """Read a transaction's id, a decimal number as text; 0 for anything else."""
    if not isinstance(value, str) or not value.isascii() or not value.isdigit() or len(value) > 18:
        return 0
    return int(value)


def client_id(fields: Mapping[str, Any]) -> str:
    """Return the client's own id of an order, a trade or the transaction that created it."""
    extensions = fields.get("clientExtensions")
    found = extensions.get("id") if isinstance(extensions, dict) else None
    return found if isinstance(found, str) else ""


def refusal_text(refusal: Mapping[str, Any]) -> str:
    """Say why a reject transaction was made, and of which instrument."""
    instrument = refusal.get("instrument")
    about = f"{plain(instrument)}: " if instrument else ""
    return about + reason_text(refusal.get("rejectReason"))


def error_text(status: int, reply: Mapping[str, Any]) -> str:
    """Return OANDA's reason of an error reply in words, or its status."""
    for name in ("orderRejectTransaction", "orderCancelRejectTransaction"):
        refusal = reply.get(name)
        if isinstance(refusal, dict) and refusal.get("rejectReason"):
            return refusal_text(refusal)
    message, code = plain(reply.get("errorMessage") or ""), plain(reply.get("errorCode") or "")
    words = message or (reason_text(code) if code else "")
    return words or f"HTTP {status}"


# Orders as OANDA tells them


def order_facts(account: str, told: Mapping[str, Any]) -> ExecutionReport:
    """Read what an order is, from its object or the transaction that created it; a report of nothing yet.

    Exits have neither units nor an instrument of their own; see ``TransactionReader``.
    """
    kind = str(told.get("type") or "").removesuffix("_ORDER")
    units, price = optional_number(told, "units"), optional_number(told, "price")
    bound = optional_number(told, "priceBound")
    order_type = ORDER_TYPES.get(kind)
    if kind == "STOP" and bound is not None:
        order_type = OrderType.STOP_LIMIT
    cl_ord_id = client_id(told)
    extensions = told.get("clientExtensions")
    leg = _LEGS.get(kind, "")
    parent = str(extensions.get("comment") or "") if leg and isinstance(extensions, dict) else ""
    if leg and exit_leg_id(parent, leg) != cl_ord_id:
        parent = leg = ""  # an exit of somebody else's making
    return ExecutionReport(
        account,
        cl_ord_id,
        ExecType.STATUS,
        OrderStatus.NEW,
        text_of(told.get("id"), "id"),
        transact_time=moment(told.get("time") or told.get("createTime")),
        symbol=str(told.get("instrument") or ""),
        side=None if units is None else side_of(units),
        order_type=order_type,
        time_in_force=_TIF_BACK.get(str(told.get("timeInForce"))),
        order_qty=None if units is None else abs(units),
        limit_price=bound
        if bound is not None
        else price
        if order_type is OrderType.LIMIT
        else None,
        stop_price=price if order_type in {OrderType.STOP, OrderType.STOP_LIMIT} else None,
        replaces=str(told.get("replacesOrderID") or ""),
        parent=parent,
        leg=leg,
    )


def side_of(units: Decimal) -> Side:
    """Return the side that signed units mean."""
    return Side.SELL if units < 0 else Side.BUY


def is_no_order(status: int, body: object) -> bool:
    """Say whether a 404 is OANDA's own "no such order", and not the word of something on the way."""
    return status == 404 and isinstance(body, dict) and body.get("errorCode") == "NO_SUCH_ORDER"
