"""ccxt's unified words to ours and back: pure functions, no I/O.

Sources: the unified API's manual (https://docs.ccxt.com) and ccxt's table of exceptions
(ccxt/base/errors.py). ccxt's exceptions come to us as the names of their classes, so that this
module needs no ccxt.

What proves a refusal is listed in ``_REFUSED`` and ``_REFUSED_UNLESS_DUPLICATE``; all else that bytes
were sent for is an unknown outcome. ccxt maps the exchanges' duplicate-id errors loosely (Binance -2010 to
``InvalidOrder``, Alpaca's 40010001 to ``BadRequest``), so a refusal whose words speak of a duplicate is unknown, too:
it is very likely our own first try.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from datetime import UTC, datetime
from decimal import Decimal
from typing import Any

from engine.brokers.http import plain
from engine.brokers.reading import UNREADABLE, number, rejected, unknown, unreadable, unsent
from engine.model.enums import ExecType, OrderStatus, OrderType, Side, TimeInForce
from engine.model.instrument import Instrument
from engine.model.messages import Balances, BrokerPosition, ExecutionReport
from engine.model.numbers import ZERO
from engine.model.order import Order

_REFUSED = frozenset(
    {
        *("InsufficientFunds", "BadSymbol", "MarketClosed", "RestrictedLocation"),
        *("ManualInteractionNeeded", "AuthenticationError", "ContractUnavailable"),
        *("OrderImmediatelyFillable", "OrderNotFillable"),
    }
)
_REFUSED_UNLESS_DUPLICATE = frozenset({"InvalidOrder", "OperationRejected", "BadRequest"})
_NO_PROOF = frozenset({"OrderNotFound", "OrderNotCached", "DuplicateOrderId", "NoChange"})
_NETWORK = frozenset({"OperationFailed"})
_THROTTLED = frozenset({"RateLimitExceeded", "DDoSProtection"})
_CREDENTIALS = frozenset({"AuthenticationError"})
_DUPLICATE = re.compile(r"duplicat|already|unique|repeat", re.IGNORECASE)
TICK_SIZE = 4
"""ccxt's ``precisionMode`` of all exchanges but two (ccxt.base.decimal_to_precision)."""
_FINEST = Decimal("1e-8")
_STATUS = {
    "open": (ExecType.NEW, OrderStatus.NEW),
    "canceled": (ExecType.CANCELED, OrderStatus.CANCELED),
    "canceling": (ExecType.PENDING_CANCEL, OrderStatus.PENDING_CANCEL),
    "expired": (ExecType.EXPIRED, OrderStatus.EXPIRED),
    "rejected": (ExecType.REJECTED, OrderStatus.REJECTED),
}
_TYPES = {OrderType.MARKET: "market", OrderType.LIMIT: "limit"}
_TYPES_BACK = {name: kind for kind, name in _TYPES.items()}
_SIDES = {side.value: side for side in Side}
_TIFS = {
    TimeInForce.GTC: "GTC",
    TimeInForce.IOC: "IOC",
    TimeInForce.FOK: "FOK",
    TimeInForce.DAY: "GTC",
}


# Requests


def refusal(order: Order, *, day_as_gtc: bool) -> str:
    """Say why ccxt is not asked to place ``order``, empty if it may be."""
    if order.order_type not in _TYPES:
        return f"order type {order.order_type.value} is not the same at every exchange of ccxt's"
    if order.order_type is OrderType.LIMIT and (
        order.time_in_force is TimeInForce.DAY and not day_as_gtc
    ):
        return "exchanges that never close have no day orders (option day_as_gtc = yes sends them as gtc)"
    for value in (order.order_qty, order.limit_price):
        if value is not None and Decimal(repr(float(value))) != value:
            return f"{value} has more digits than ccxt carries"
    return ""


def order_arguments(order: Order) -> dict[str, Any]:
    """Return the arguments of ``create_order``; numbers were checked by ``refusal`` to survive as floats."""
    params: dict[str, Any] = {"clientOrderId": order.cl_ord_id}
    if order.order_type is OrderType.LIMIT:
        params["timeInForce"] = _TIFS[order.time_in_force]
    return {
        "symbol": order.symbol,
        "type": _TYPES[order.order_type],
        "side": order.side.value,
        "amount": float(order.order_qty),
        "price": None if order.limit_price is None else float(order.limit_price),
        "params": params,
    }


# What went wrong


def classes_of(error: BaseException) -> list[str]:
    """Return the names of an exception's classes, its own first."""
    return [kind.__name__ for kind in type(error).__mro__]


def judge_new(account: str, cl_ord_id: str, error: BaseException, *, left: bool) -> ExecutionReport:
    """Say what an exception of ``create_order`` proves about the order.

    ``left``: whether a byte of a request may have been sent while it was being placed.
    """
    names = classes_of(error)
    text = f"{names[0]}: {plain(error)}"
    if not left:
        if _NETWORK.intersection(names):
            return unsent(account, cl_ord_id, text)
        # ccxt itself refused it (limits, precision, a missing argument): sending again changes nothing.
        return rejected(account, cl_ord_id, f"not sent: {text}")
    if _NO_PROOF.isdisjoint(names) and (
        not _REFUSED.isdisjoint(names)
        or (not _REFUSED_UNLESS_DUPLICATE.isdisjoint(names) and not _DUPLICATE.search(str(error)))
    ):
        return rejected(account, cl_ord_id, text)
    return unknown(account, cl_ord_id, text)


def throttled(error: BaseException) -> bool:
    """Say whether the exchange asks for a pause."""
    return bool(_THROTTLED.intersection(classes_of(error)))


def credentials_refused(error: BaseException) -> bool:
    """Say whether the exchange refuses the credentials."""
    return bool(_CREDENTIALS.intersection(classes_of(error)))


def not_found(error: BaseException) -> bool:
    """Say whether the exchange has no such order."""
    return "OrderNotFound" in classes_of(error)


def exchange_said(error: BaseException) -> bool:
    """Say whether it is the exchange's (or ccxt's) own refusal."""
    return "ExchangeError" in classes_of(error)


def network(error: BaseException) -> bool:
    """Say whether nothing is known of what became of a request."""
    return bool(_NETWORK.intersection(classes_of(error)))


# Orders as ccxt tells them


def order_report(
    account: str, told: Mapping[str, Any], exec_type: ExecType | None = None
) -> ExecutionReport:
    """Turn a unified order into a report; ``exec_type``: ``STATUS`` for look-ups, else as its status says.

    Raises:
        BrokerProtocolError: it cannot be read.
    """
    try:
        return _report(account, told, exec_type)
    except UNREADABLE as error:
        raise unreadable(account, "an order of the exchange's", error) from None


def _report(account: str, told: Mapping[str, Any], exec_type: ExecType | None) -> ExecutionReport:
    order_id = told["id"]
    if not order_id:
        raise ValueError("id is missing")
    quantity, cum_qty = _number(told, "amount"), _number(told, "filled")
    kind, status = _state(told, quantity, cum_qty)
    stamp = (
        told.get("lastTradeTimestamp") or told.get("lastUpdateTimestamp") or told.get("timestamp")
    )
    return ExecutionReport(
        account,
        str(told.get("clientOrderId") or ""),
        exec_type or kind,
        status,
        str(order_id),
        cum_qty=cum_qty,
        avg_px=_average(told, cum_qty),
        transact_time=_moment(stamp),
        symbol=str(told.get("symbol") or ""),
        side=_SIDES.get(str(told.get("side"))),
        order_type=_TYPES_BACK.get(str(told.get("type"))),
        order_qty=quantity,
        limit_price=_number(told, "price") or None,
    )


def _state(
    told: Mapping[str, Any], quantity: Decimal | None, cum_qty: Decimal | None
) -> tuple[ExecType, OrderStatus]:
    status = told.get("status")
    if status == "closed":
        if cum_qty is not None and quantity is not None and cum_qty < quantity:
            # Closed without being filled: an ioc order's rest, or an exchange that says so of a cancelled one.
            return ExecType.CANCELED, OrderStatus.CANCELED
        return ExecType.NEW, OrderStatus.FILLED
    found = _STATUS.get(str(status), (ExecType.NEW, OrderStatus.NEW))
    if found[1] is OrderStatus.NEW and cum_qty:
        return ExecType.NEW, OrderStatus.PARTIALLY_FILLED
    return found


def _average(told: Mapping[str, Any], cum_qty: Decimal | None) -> Decimal | None:
    if not cum_qty:
        return None
    average = _number(told, "average")
    if average:
        return average
    cost = _number(told, "cost")
    return cost / cum_qty if cost else _number(told, "price") or None


def _number(fields: Mapping[str, Any], name: str) -> Decimal | None:
    """Read one of ccxt's numbers: the shortest decimal that its float stands for."""
    value = fields.get(name)
    if value is None:
        return None
    found = number(repr(value) if isinstance(value, float) else value, name)
    if found < 0:
        raise ValueError(f"{name} is negative")
    return found


def _moment(milliseconds: object) -> datetime | None:
    if not isinstance(milliseconds, int | float) or milliseconds <= 0:
        return None
    return datetime.fromtimestamp(milliseconds / 1000, UTC)


def placed(account: str, cl_ord_id: str, told: Mapping[str, Any]) -> ExecutionReport:
    """Say what the reply to a new order proves. Many exchanges answer with no more than an id."""
    theirs = str(told.get("clientOrderId") or "")
    if theirs and not theirs.endswith(cl_ord_id):
        return unknown(account, cl_ord_id, "the reply is about another order")
    try:
        report = _report(account, told, None)
    except UNREADABLE as error:
        return unknown(account, cl_ord_id, f"the reply cannot be read: {plain(error)}")
    report.cl_ord_id = cl_ord_id
    return report


def find_by_client_id(
    orders: Iterable[Mapping[str, Any]], cl_ord_id: str
) -> Mapping[str, Any] | None:
    """Return the order with a client id; exchanges that prefix it (broker ids) still end with it."""
    for told in orders:
        if str(told.get("clientOrderId") or "").endswith(cl_ord_id):
            return told
    return None


def totals(
    account: str, trades: Iterable[Mapping[str, Any]], order_id: str
) -> tuple[Decimal | None, Decimal | None]:
    """Return quantity and average price of an order's unified trades, ``None`` without any.

    Raises:
        BrokerProtocolError: they cannot be read.
    """
    quantity = cash = ZERO
    try:
        for trade in trades:
            if str(trade.get("order")) == order_id:
                amount = _number(trade, "amount") or ZERO
                quantity += amount
                cash += amount * (_number(trade, "price") or ZERO)
    except UNREADABLE as error:
        raise unreadable(account, "a trade", error) from None
    return (quantity, cash / quantity) if quantity else (None, None)


# Money and markets


def balances(account: str, told: Mapping[str, Any], currency: str) -> Balances:
    """Read a unified balance: what there is of ``currency``; other coins are not counted.

    Raises:
        BrokerProtocolError: it cannot be read.
    """
    try:
        total = _number(told.get("total") or {}, currency) or ZERO
        free = (told.get("free") or {}).get(currency)
        spendable = total if free is None else _number({currency: free}, currency) or ZERO
        return Balances(equity=total, cash=total, buying_power=spendable, currency=currency)
    except UNREADABLE as error:
        raise unreadable(account, "the account's balances", error) from None


def holdings(
    account: str, told: Mapping[str, Any], currency: str, symbols: Mapping[str, Any]
) -> list[BrokerPosition]:
    """Read a spot account's coins as positions in ``COIN/currency``; spot accounts know no average price.

    Raises:
        BrokerProtocolError: it cannot be read.
    """
    try:
        total = told.get("total") or {}
        return [
            BrokerPosition(f"{coin}/{currency}", quantity, ZERO)
            for coin in total
            if f"{coin}/{currency}" in symbols and (quantity := _number(total, coin))
        ]
    except UNREADABLE as error:
        raise unreadable(account, "the account's coins", error) from None


def position(account: str, told: Mapping[str, Any]) -> BrokerPosition | None:
    """Read a unified position, in contracts; ``None`` for one that is closed.

    Raises:
        BrokerProtocolError: it cannot be read.
    """
    try:
        quantity = _number(told, "contracts")
        if not quantity:
            return None
        sign = -1 if told.get("side") == "short" else 1
        return BrokerPosition(
            str(told["symbol"]), sign * quantity, _number(told, "entryPrice") or ZERO
        )
    except UNREADABLE as error:
        raise unreadable(account, "a position", error) from None


def instrument(account: str, market: Mapping[str, Any], precision_mode: int) -> Instrument:
    """Read a unified market.

    Raises:
        BrokerProtocolError: it cannot be read.
    """
    try:
        precision, limits = market.get("precision") or {}, market.get("limits") or {}
        lot, tick = _number(precision, "amount"), _number(precision, "price")
        if (
            precision_mode != TICK_SIZE
        ):  # amounts count digits, prices significant ones: no one step
            lot, tick = None if lot is None else Decimal(1).scaleb(-int(lot)), None
        lot = lot or _FINEST
        least = _number(limits.get("amount") or {}, "min")
        return Instrument(
            str(market["symbol"]),
            lot=lot,
            min_qty=max(least or lot, lot),
            tick=tick or _FINEST,
            multiplier=_number(market, "contractSize") or Decimal(1),
            tradable=market.get("active") is not False,
        )
    except UNREADABLE as error:
        raise unreadable(account, "a market", error) from None


def price(ticker: Mapping[str, Any]) -> Decimal | None:
    """Read the price of a ticker, or of ``fetch_last_prices``; ``None`` if it has none."""
    try:
        return _number(ticker, "last") or _number(ticker, "price") or None
    except UNREADABLE:
        return None
