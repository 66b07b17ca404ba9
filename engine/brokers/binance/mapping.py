"""Binance's words about orders, in ours: pure functions, no I/O.

Sources: rest-api.md, errors.md, enums.md, user-data-stream.md of binance-spot-api-docs. An error proves
a refusal only if its code is documented as one; everything else is "no proof", and the order is looked up.
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any

from engine.brokers.binance.requests import SIDES, TYPES
from engine.brokers.http import plain
from engine.brokers.reading import (
    number,
    object_of,
    read_object,
    rejected,
    text_of,
    unknown,
    unsent,
)
from engine.brokers.reading import reading as guarded
from engine.model.enums import ExecType, OrderStatus, OrderType, Side, TimeInForce
from engine.model.identifiers import STOP_LEG, TARGET_LEG, exit_leg_id
from engine.model.messages import ExecutionReport
from engine.model.numbers import ZERO
from engine.model.order import Order

TOO_MUCH_WEIGHT, TOO_MANY_ORDERS = -1003, -1015
CLOCK, SIGNATURE = -1021, -1022
BAD_SYMBOL, NEW_ORDER_REJECTED, CANCEL_REJECTED = -1121, -2010, -2011
NO_SUCH_ORDER, ORDER_ARCHIVED = -2013, -2026
PARTLY_REPLACED, NOT_REPLACED = -2021, -2022
DUPLICATE = "Duplicate order sent."

_KEY_REFUSED = frozenset({-1002, SIGNATURE, -2014, -2015})
# Codes that prove that an order was not accepted: refused before the matching engine (-1013 and the checks of a
# request's form, 11xx and 12xx), by it (-1010, -2010), or for its key. Not -1000, -1001, -1006, -1007, -1008, -1016.
_REFUSALS = _KEY_REFUSED | {-1010, -1013, -1014, -1020, NEW_ORDER_REJECTED, CANCEL_REJECTED, -2016}
_FORM = range(-1299, -1099)
_REFUSED_WITH = frozenset({400, 401, 403, 404, 422})

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_TWELVE = Decimal("1e-12")
_TYPES = {word: kind for kind, word in TYPES.items()} | {"LIMIT_MAKER": OrderType.LIMIT}
_TIFS = {"GTC": TimeInForce.GTC, "IOC": TimeInForce.IOC, "FOK": TimeInForce.FOK}
_SIDES = {word: side for side, word in SIDES.items()}
_STATUS: dict[str, tuple[ExecType, OrderStatus]] = {
    "NEW": (ExecType.NEW, OrderStatus.NEW),
    "PENDING_NEW": (ExecType.NEW, OrderStatus.NEW),  # an exit that waits for its entry
    "PARTIALLY_FILLED": (ExecType.NEW, OrderStatus.PARTIALLY_FILLED),
    "FILLED": (ExecType.NEW, OrderStatus.FILLED),
    "PENDING_CANCEL": (ExecType.PENDING_CANCEL, OrderStatus.PENDING_CANCEL),
    "CANCELED": (ExecType.CANCELED, OrderStatus.CANCELED),
    "REJECTED": (ExecType.REJECTED, OrderStatus.REJECTED),
    "EXPIRED": (ExecType.EXPIRED, OrderStatus.EXPIRED),
    "EXPIRED_IN_MATCH": (ExecType.EXPIRED, OrderStatus.EXPIRED),
}
_EVENT = {
    "NEW": ExecType.NEW,
    "CANCELED": ExecType.CANCELED,
    "REJECTED": ExecType.REJECTED,
    "TRADE": ExecType.TRADE,
    "EXPIRED": ExecType.EXPIRED,
}


# Errors


def error_of(body: bytes) -> tuple[int, str]:
    """Return code and words of Binance's error object; (0, "") if it is none."""
    return code_of(read_object(body))


def code_of(found: object) -> tuple[int, str]:
    """Return code and words of an error object that was read."""
    if not isinstance(found, dict):
        return 0, ""
    code = found.get("code")
    return (code, plain(found.get("msg", ""))) if type(code) is int else (0, "")


def proves_refusal(status: int, code: int) -> bool:
    """Say whether an error proves that the request was not carried out (errors.md)."""
    return status in _REFUSED_WITH and (code in _REFUSALS or code in _FORM)


def refused_key(code: int) -> bool:
    """Say whether an error is about the API key, its rights, its addresses or its signature."""
    return code in _KEY_REFUSED


def throttled(status: int, code: int) -> bool:
    """Say whether Binance itself says that a limit is used up: documented as not processed.

    A 429 in other words may come from something on the way, and proves nothing.
    """
    return status in {418, 429} and code in {TOO_MUCH_WEIGHT, TOO_MANY_ORDERS}


def refused_or_unknown(
    account: str, cl_ord_id: str, status: int, code: int, words: str
) -> ExecutionReport:
    """Say what an error proves about a new order."""
    text = f"{words or 'no words'} ({code})" if code else f"HTTP {status}"
    if throttled(status, code):
        return unsent(account, cl_ord_id, f"Binance asks for a pause: {text}")
    if code == CLOCK and status < 500:
        return unsent(account, cl_ord_id, f"too late or too early for Binance's clock: {text}")
    if proves_refusal(status, code):
        return rejected(account, cl_ord_id, text)
    return unknown(account, cl_ord_id, f"HTTP {status}: no proof of the outcome: {text}")


# Orders as Binance tells them


def moment(milliseconds: object) -> datetime | None:
    """Read a stamp in milliseconds; anything else is no stamp."""
    if type(milliseconds) is not int or not 0 < milliseconds < 1 << 47:
        return None
    return _EPOCH + timedelta(milliseconds=milliseconds)


def exec_id(symbol: str, order_id: str, trade_id: object) -> str:
    """Return an execution's id: trade ids count within a symbol, and an account's own two orders may meet."""
    return f"{symbol}:{order_id}:{trade_id}"


def _order_id(found: Mapping[str, Any]) -> str:
    value = found["orderId"]
    if type(value) is not int or value < 0:
        raise ValueError("orderId is no order id")
    return str(value)


def _average(cash: Decimal, quantity: Decimal) -> Decimal | None:
    """Return the average price; Binance writes a negative total where it has none (rest-api.md, Query order)."""
    if quantity <= 0 or cash <= 0:
        return None
    return (cash / quantity).quantize(_TWELVE)


def _executed(found: Mapping[str, Any]) -> Decimal:
    executed = number(found["executedQty"], "executedQty")
    if executed < 0:
        raise ValueError("executedQty is negative")
    return executed


def _totals(found: Mapping[str, Any]) -> tuple[Decimal, Decimal | None]:
    executed = _executed(found)
    if not executed:
        return ZERO, None
    return executed, _average(number(found["cummulativeQuoteQty"], "cummulativeQuoteQty"), executed)


def placed(
    account: str, cl_ord_id: str, found: Mapping[str, Any], *, replaces: str = ""
) -> list[ExecutionReport]:
    """Turn the order object of a successful reply into reports: its executions, or that it is working, or its end.

    Raises:
        ValueError, KeyError, TypeError: it cannot be read.
    """
    if found.get("clientOrderId") != cl_ord_id:
        raise ValueError("the reply is about another order")
    order_id, at = _order_id(found), moment(found.get("transactTime"))
    exec_type, status = _STATUS.get(found.get("status", "NEW"), (ExecType.NEW, OrderStatus.NEW))
    executed = _executed(found) if "executedQty" in found else ZERO
    reports: list[ExecutionReport] = []
    if executed:
        reports = _fills(account, cl_ord_id, order_id, found, at)
        if reports and status is OrderStatus.FILLED and reports[-1].cum_qty == executed:
            reports[-1].status = OrderStatus.FILLED
    ended = status.terminal and status is not OrderStatus.FILLED
    # Totals beyond the executions told (or none told): the difference is for the order to derive.
    untold = bool(executed) and (not reports or reports[-1].cum_qty != executed)
    if not reports or ended or untold:
        report = ExecutionReport(account, cl_ord_id, exec_type, status, order_id, transact_time=at)
        if executed:
            report.cum_qty, report.avg_px = _totals(found)
        reports.append(report)
    reports[0].replaces = replaces
    return reports


def _fee_qty(symbol: str, amount: object, asset: object) -> Decimal:
    """Return what of the base asset itself was kept as commission, zero where it was paid in another asset.

    Binance takes it of the asset bought unless it is paid in BNB (rest-api.md, ``commissionAsset``).
    """
    if not isinstance(asset, str) or not asset or not symbol.startswith(asset):
        return ZERO
    return number(amount, "commission")


def _fills(
    account: str, cl_ord_id: str, order_id: str, found: Mapping[str, Any], at: datetime | None
) -> list[ExecutionReport]:
    symbol = text_of(found["symbol"], "symbol")
    total, reports = ZERO, []
    for fill in found.get("fills") or ():
        quantity, price = number(fill["qty"], "qty"), number(fill["price"], "price")
        if quantity <= 0 or price <= 0:
            raise ValueError("a fill without quantity or price")
        total += quantity
        reports.append(
            ExecutionReport(
                account,
                cl_ord_id,
                ExecType.TRADE,
                OrderStatus.PARTIALLY_FILLED,
                order_id,
                exec_id(symbol, order_id, fill["tradeId"]),
                quantity,
                price,
                total,
                transact_time=at,
                fee_qty=_fee_qty(symbol, fill.get("commission"), fill.get("commissionAsset")),
            )
        )
    return reports


def list_reports(account: str, order: Order, found: Mapping[str, Any]) -> list[ExecutionReport]:
    """Turn the reply to an order list into the entry's reports, then one for each exit.

    Raises:
        ValueError, KeyError, TypeError: it cannot be read.
    """
    told = {str(object_of(one).get("clientOrderId")): one for one in found["orderReports"]}
    reports = placed(account, order.cl_ord_id, told[order.cl_ord_id])
    for leg in (STOP_LEG, TARGET_LEG):
        one = told.get(exit_leg_id(order.cl_ord_id, leg))
        if one is not None:
            report = told_order(account, one, ExecType.NEW)
            report.parent, report.leg = order.cl_ord_id, leg
            reports.append(report)
    return reports


def status_report(account: str, order: object) -> ExecutionReport:
    """Turn an order object of a look-up into a report of its state as of now.

    Raises:
        BrokerProtocolError: it cannot be read.
    """
    with guarded(account, "an order of the broker's"):
        return told_order(account, object_of(order), ExecType.STATUS)


def told_order(account: str, found: Mapping[str, Any], exec_type: ExecType) -> ExecutionReport:
    """Read an order object; a canceled one's own id is ``origClientOrderId``, the other is the cancel's.

    Raises:
        ValueError, KeyError, TypeError: it cannot be read.
    """
    executed, avg_px = _totals(found)
    status = _STATUS.get(str(found["status"]), (exec_type, None))[1]
    if status is OrderStatus.NEW and executed:
        status = OrderStatus.PARTIALLY_FILLED
    at = found.get("updateTime") or found.get("transactTime") or found.get("time")
    price, stop = number(found["price"], "price"), number(found.get("stopPrice", "0"), "stopPrice")
    return ExecutionReport(
        account,
        text_of(found.get("origClientOrderId") or found["clientOrderId"], "clientOrderId"),
        exec_type,
        status,
        _order_id(found),
        cum_qty=executed,
        avg_px=avg_px,
        text=_expiry(found.get("expiryReason")),
        transact_time=moment(at),
        symbol=text_of(found["symbol"], "symbol"),
        side=_SIDES.get(str(found["side"])),
        order_type=_TYPES.get(str(found["type"])),
        time_in_force=_TIFS.get(str(found.get("timeInForce"))),
        order_qty=number(found["origQty"], "origQty"),
        limit_price=price or None,
        stop_price=stop or None,
    )


def _expiry(reason: object) -> str:
    return f"expired: {plain(reason)}" if reason and reason != "NONE" else ""


def trade_reports(
    account: str, cl_ord_id: str, order_id: str, trades: object
) -> list[ExecutionReport]:
    """Turn ``GET /api/v3/myTrades`` of one order, all of them, into executions with running totals.

    Raises:
        BrokerProtocolError: it cannot be read.
    """
    with guarded(account, "the trades of an order"):
        if not isinstance(trades, list):
            raise TypeError("no list")
        mine = [object_of(one) for one in trades]
        mine = sorted(
            (t for t in mine if str(t["orderId"]) == order_id), key=lambda t: int(t["id"])
        )
        reports, total = [], ZERO
        for trade in mine:
            quantity, price = number(trade["qty"], "qty"), number(trade["price"], "price")
            total += quantity
            symbol = text_of(trade["symbol"], "symbol")
            reports.append(
                ExecutionReport(
                    account,
                    cl_ord_id,
                    ExecType.TRADE,
                    OrderStatus.PARTIALLY_FILLED,
                    order_id,
                    exec_id(symbol, order_id, trade["id"]),
                    quantity,
                    price,
                    total,
                    transact_time=moment(trade.get("time")),
                    symbol=symbol,
                    side=Side.BUY if trade["isBuyer"] is True else Side.SELL,
                    fee_qty=_fee_qty(symbol, trade.get("commission"), trade.get("commissionAsset")),
                )
            )
        return reports


def event_report(account: str, event: Mapping[str, Any]) -> ExecutionReport:
    """Turn one ``executionReport`` of the user data stream into a report.

    Raises:
        BrokerProtocolError: it cannot be read.
    """
    with guarded(account, "an event of the order stream"):
        return _event(account, event)


def event_exec_id(event: Mapping[str, Any]) -> str:
    """Return the execution's id of a ``TRADE`` event."""
    return exec_id(str(event.get("s")), str(event.get("i")), event.get("t"))


def _event(account: str, event: Mapping[str, Any]) -> ExecutionReport:
    symbol, order_id = text_of(event["s"], "s"), event["i"]
    if type(order_id) is not int:
        raise ValueError("i is no order id")
    exec_type = _EVENT.get(event["x"], ExecType.STATUS)
    status = _STATUS.get(event["X"], (exec_type, None))[1]
    last_qty = last_px = ZERO
    trade = ""
    if exec_type is ExecType.TRADE:
        last_qty, last_px = number(event["l"], "l"), number(event["L"], "L")
        if last_qty <= 0 or last_px <= 0:
            raise ValueError("a fill without quantity or price")
        trade = event_exec_id(event)
    cum_qty = number(event["z"], "z")
    # C names the order a cancel is about; c is then the cancel's own id.
    cl_ord_id = (event.get("C") if exec_type is ExecType.CANCELED else "") or event["c"]
    return ExecutionReport(
        account,
        text_of(cl_ord_id, "c"),
        exec_type,
        status,
        str(order_id),
        trade,
        last_qty,
        last_px,
        cum_qty,
        None if trade or not cum_qty else _average(number(event["Z"], "Z"), cum_qty),
        _event_words(event),
        moment(event.get("T") or event.get("E")),
        symbol=symbol,
        side=_SIDES.get(event["S"]),
        order_type=_TYPES.get(event["o"]),
        time_in_force=_TIFS.get(event["f"]),
        order_qty=number(event["q"], "q"),
        limit_price=number(event["p"], "p") or None,
        stop_price=number(event["P"], "P") or None,
        fee_qty=_fee_qty(symbol, event.get("n"), event.get("N")) if trade else ZERO,
    )


def _event_words(event: Mapping[str, Any]) -> str:
    reason = event.get("r")
    if reason and reason != "NONE":
        return f"rejected: {plain(reason)}"
    if event.get("x") == "TRADE_PREVENTION":
        return "expired by self-trade prevention"
    return _expiry(event.get("eR"))
