"""Alpaca's words to ours and back: pure functions, no I/O.

Sources: https://docs.alpaca.markets (orders, trade updates, assets). What is not documented is
taken for "no proof": the order is then looked up by its client id.
"""

from __future__ import annotations

import re
import time
from collections.abc import Collection, Mapping
from decimal import Decimal
from typing import Any
from urllib.parse import quote

import orjson

from engine.brokers.http import plain, read_json
from engine.brokers.reading import (
    UNREADABLE,
    InexactError,
    moment,
    number,
    object_of,
    optional_number,
    read_object,
    reading,
    rejected,
    text_of,
    unknown,
    unreadable,
)
from engine.brokers.wire import header
from engine.model.enums import ExecType, OrderStatus, OrderType, Side, TimeInForce
from engine.model.identifiers import STOP_LEG, TARGET_LEG, exit_leg_id
from engine.model.instrument import Instrument
from engine.model.messages import Balances, BrokerPosition, ExecutionReport
from engine.model.numbers import ZERO, to_text
from engine.model.order import Order

LIVE_HOST = "api.alpaca.markets"
PAPER_HOST = "paper-api.alpaca.markets"
DATA_HOST = "data.alpaca.markets"

_NOT_FOUND = 40410000
# Alpaca's order status → why we report it, and ours. Working states it tells apart and we do not:
# new.
_STATUS: dict[str, tuple[ExecType, OrderStatus]] = {
    "filled": (ExecType.NEW, OrderStatus.FILLED),
    "partially_filled": (ExecType.NEW, OrderStatus.PARTIALLY_FILLED),
    "canceled": (ExecType.CANCELED, OrderStatus.CANCELED),
    "expired": (ExecType.EXPIRED, OrderStatus.EXPIRED),
    "replaced": (ExecType.REPLACED, OrderStatus.REPLACED),
    "rejected": (ExecType.REJECTED, OrderStatus.REJECTED),
    "pending_cancel": (ExecType.PENDING_CANCEL, OrderStatus.PENDING_CANCEL),
}
_STATUS |= dict.fromkeys(
    [
        *("new", "accepted", "pending_new", "accepted_for_bidding", "pending_replace"),
        *("held", "suspended", "stopped", "calculated", "done_for_day"),
    ],
    (ExecType.NEW, OrderStatus.NEW),
)
_EVENT: dict[str, ExecType] = {
    "new": ExecType.NEW,
    "accepted": ExecType.NEW,
    "pending_new": ExecType.NEW,
    "fill": ExecType.TRADE,
    "partial_fill": ExecType.TRADE,
    "canceled": ExecType.CANCELED,
    "expired": ExecType.EXPIRED,
    "replaced": ExecType.REPLACED,
    "rejected": ExecType.REJECTED,
    "pending_cancel": ExecType.PENDING_CANCEL,
    "trade_bust": ExecType.TRADE_CANCEL,
    "order_cancel_rejected": ExecType.CANCEL_REJECTED,
    "order_replace_rejected": ExecType.CANCEL_REJECTED,
}
# HTTP statuses that prove a refusal, given an error object of Alpaca's. Not 429: its documents do
# not say
# that nothing was placed. Not 408, 409 and above 499.
_REFUSALS = frozenset({400, 401, 403, 404, 422})
_BRACKET_TIF = frozenset({TimeInForce.DAY, TimeInForce.GTC})
_BRACKET_TYPES = frozenset({OrderType.MARKET, OrderType.LIMIT})
_WITH_EXITS = frozenset({"bracket", "oto"})
_OURS = re.compile(r"[A-Z2-7]{20}", re.ASCII)
_SAFE_ID = re.compile(r"[A-Za-z0-9-]{1,64}", re.ASCII)


# Requests


class OrderBodies:
    """Writes order bodies; remembers the part that all orders of one signal share."""

    __slots__ = (
        "_limit",
        "_loss",
        "_part",
        "_profit",
        "_side",
        "_stop",
        "_symbol",
        "_tail",
        "_tif",
        "_type",
    )

    def __init__(self) -> None:
        self._part = ""
        self._tail = ""
        self._loss: Decimal | None = None
        self._profit: Decimal | None = None
        self._symbol: str | None = None
        self._side: Side | None = None
        self._type: OrderType | None = None
        self._tif: TimeInForce | None = None
        self._limit: Decimal | None = None
        self._stop: Decimal | None = None

    def write(self, order: Order) -> str:
        """Return the JSON of ``POST /v2/orders``; every field was validated as plain ASCII."""
        # Orders of one signal share these very objects, so identity is enough and costs next to
        # nothing.
        if not (
            order.symbol is self._symbol
            and order.limit_price is self._limit
            and order.side is self._side
            and order.order_type is self._type
            and order.time_in_force is self._tif
            and order.stop_price is self._stop
            and order.stop_loss is self._loss
            and order.take_profit is self._profit
        ):
            self._remember(order)
        plain_order = (
            f'{self._part}{to_text(order.order_qty)}","client_order_id":"{order.cl_ord_id}"'
        )
        return plain_order + (self._tail if self._tail and works_exits(order) else "}")

    def _remember(self, order: Order) -> None:
        self._symbol, self._side, self._type = order.symbol, order.side, order.order_type
        self._tif, self._limit, self._stop = (
            order.time_in_force,
            order.limit_price,
            order.stop_price,
        )
        self._loss, self._profit = order.stop_loss, order.take_profit
        self._tail = _exits(self._loss, self._profit)
        limit = f'"limit_price":"{to_text(self._limit)}",' if self._limit is not None else ""
        stop = f'"stop_price":"{to_text(self._stop)}",' if self._stop is not None else ""
        self._part = (
            f'{{"symbol":"{self._symbol}","side":"{self._side.value}","type":"{self._type.value}",'
            f'"time_in_force":"{self._tif.value}",{limit}{stop}"qty":"'
        )


def _exits(stop_loss: Decimal | None, take_profit: Decimal | None) -> str:
    """Write the end of a body that carries exits, ``""`` when there are none."""
    loss = f',"stop_loss":{{"stop_price":"{to_text(stop_loss)}"}}' if stop_loss else ""
    profit = f',"take_profit":{{"limit_price":"{to_text(take_profit)}"}}' if take_profit else ""
    if not (loss or profit):
        return ""
    kind = "bracket" if loss and profit else "oto"
    return f',"order_class":"{kind}"{profit}{loss}}}'


def works_exits(order: Order) -> bool:
    """Say whether Alpaca takes this entry's exits along (``order_class`` bracket or oto).

    Its rules: day or gtc, whole shares of an equity, the entry a market or limit order; a trailing exit
    only as an order of its own (https://docs.alpaca.markets, Orders at Alpaca).
    """
    return (
        not order.reducing
        and not order.alone
        and order.trail_percent is None
        and (order.stop_loss is not None or order.take_profit is not None)
        and order.time_in_force in _BRACKET_TIF
        and order.order_type in _BRACKET_TYPES
        and "/" not in order.symbol
        and order.order_qty == order.order_qty.to_integral_value()
    )


def replace_body(replacement: Order) -> bytes:
    """Return the JSON of ``PATCH /v2/orders/{id}``."""
    fields = {
        "qty": to_text(replacement.order_qty),
        "time_in_force": replacement.time_in_force.value,
        "client_order_id": replacement.cl_ord_id,
    }
    if replacement.limit_price is not None:
        fields["limit_price"] = to_text(replacement.limit_price)
    if replacement.stop_price is not None:
        fields["stop_price"] = to_text(replacement.stop_price)
    return orjson.dumps(fields)


def order_path(order_id: str) -> str:
    """Return the path of one order; the id came from outside, so it is quoted if it must be."""
    return "/v2/orders/" + (order_id if _SAFE_ID.fullmatch(order_id) else quote(order_id, safe=""))


# Replies


def canceled_ids(body: bytes) -> list[str]:
    """Return the ids of the orders a reply to the cancel of all says it took (``[{"id": …, "status": 200}, …]``)."""
    found = read_json(body)
    rows = [object_of(one) for one in found] if isinstance(found, list) else []
    return [str(row["id"]) for row in rows if row.get("status") in range(200, 300)]


def _totals(order: Mapping[str, Any]) -> tuple[Decimal | None, Decimal | None]:
    filled = order.get("filled_qty")
    if filled == "0" or filled is None:
        return (ZERO if filled else None), None
    quantity = number(filled, "filled_qty")
    if quantity < 0:
        raise ValueError("filled_qty is negative")
    average = optional_number(order, "filled_avg_price")
    if average is not None and average < 0:
        raise ValueError("filled_avg_price is negative")
    return quantity, average


def submit_report(
    account: str, cl_ord_id: str, status: int, body: bytes, raw: bytes = b""
) -> ExecutionReport:
    """Say what a reply to a new order (or to a replacement) proves about it."""
    reply = read_object(body)
    if reply is not None and "id" in reply and status < 500:  # a 4xx may carry a placed order, too
        return _placed(account, cl_ord_id, reply, body)
    if reply is None or status not in _REFUSALS or not ("message" in reply or "code" in reply):
        text = _throttled(raw) if status == 429 else "no proof of the outcome"
        return unknown(account, cl_ord_id, f"HTTP {status}: {text}{_words(reply)}")
    message = plain(reply.get("message", ""))
    if status == 422 and "client_order_id" in message and "unique" in message:
        # The broker has this id: very likely our own first try. The look-up tells.
        return unknown(account, cl_ord_id, f"the broker has this id already: {message}")
    words = message or f"refused (HTTP {status}, code {plain(reply.get('code'))})"
    return rejected(account, cl_ord_id, words)


def _throttled(raw: bytes) -> str:
    pause = plain(header(raw, "retry-after"))
    return "the broker's rate limit is used up" + (f", retry after {pause} s" if pause else "")


def _words(reply: Mapping[str, Any] | None) -> str:
    message = plain(reply.get("message", "")) if reply else ""
    return f" ({message})" if message else ""


def _placed(account: str, cl_ord_id: str, reply: dict[str, Any], body: bytes) -> ExecutionReport:
    if reply.get("client_order_id") != cl_ord_id:
        return unknown(account, cl_ord_id, "the reply is about another order")
    order_id = reply["id"]
    if type(order_id) is not str or not order_id:
        return unknown(account, cl_ord_id, "the reply has no order id")
    try:
        exec_type, status = _STATUS.get(reply.get("status", ""), (ExecType.NEW, OrderStatus.NEW))
        cum_qty, avg_px = _totals(reply)
    except InexactError:
        return _placed(account, cl_ord_id, read_json(body), body)
    except (ValueError, TypeError) as error:
        return unknown(account, cl_ord_id, f"the reply cannot be read: {error}")
    at = reply.get("filled_at") or reply.get("updated_at") or reply.get("submitted_at")
    return ExecutionReport(
        account,
        cl_ord_id,
        exec_type,
        status,
        order_id,
        cum_qty=cum_qty,
        avg_px=avg_px,
        transact_time=moment(at),
    )


def error_text(status: int, body: bytes) -> str:
    """Return the broker's words of an error reply, or its status."""
    reply = read_object(body) or {}
    return plain(reply.get("message", "")) or f"HTTP {status}"


def usage(raw: bytes) -> tuple[int, int, float] | None:
    """Read ``X-RateLimit-Limit``, ``-Remaining`` and ``-Reset`` (epoch seconds) of a reply."""
    told = [header(raw, f"x-ratelimit-{name}") for name in ("limit", "remaining", "reset")]
    if not all(text.isascii() and text.isdigit() and len(text) < 12 for text in told):
        return None
    limit, remaining, reset = map(int, told)
    return limit - remaining, limit, max(0.0, reset - time.time())


def credentials_doubtful(status: int, body: bytes) -> bool:
    """Say whether a refusal may be about the credentials and not about the order."""
    return status == 401 or (status == 403 and "code" not in (read_object(body) or {"code": 0}))


# Orders as the broker tells them: look-ups, lists and the stream


def leg_reports(account: str, entry: str, order: Mapping[str, Any] | None) -> list[ExecutionReport]:
    """Return a report for every exit Alpaca made along with ``entry``; raises ``BrokerProtocolError``."""
    legs = order.get("legs") if order else None
    if not isinstance(legs, list):
        return []
    found = []
    for told in legs:
        report = status_report(account, told)
        leg = TARGET_LEG if report.order_type is OrderType.LIMIT else STOP_LEG
        report.cl_ord_id, report.parent, report.leg = exit_leg_id(entry, leg), entry, leg
        found.append(report)
    return found


def may_have_legs(order: Mapping[str, Any]) -> bool:
    """Say whether a listed order is an entry of ours that took exits along; a flat list does not link them."""
    return str(order.get("order_class")) in _WITH_EXITS and bool(
        _OURS.fullmatch(str(order.get("client_order_id")))
    )


def status_report(account: str, order: object) -> ExecutionReport:
    """Turn an order object into a report of its state as of now.

    Raises:
        BrokerProtocolError: it cannot be read.
    """
    with reading(account, "an order of the broker's"):
        return _told(account, order, ExecType.STATUS, {})


def stream_report(account: str, data: object) -> ExecutionReport:
    """Turn the ``data`` of one ``trade_updates`` message into a report.

    Raises:
        BrokerProtocolError: it cannot be read.
    """
    try:
        event = object_of(data)
        exec_type = _EVENT.get(str(event.get("event")), ExecType.STATUS)
        return _told(account, event.get("order"), exec_type, event)
    except UNREADABLE as error:
        raise unreadable(account, "an event of the order stream", error) from None


def _told(
    account: str, told: object, exec_type: ExecType, event: Mapping[str, Any]
) -> ExecutionReport:
    order = object_of(told)
    last_qty = last_px = ZERO
    exec_id = ""
    if exec_type is ExecType.TRADE:
        last_qty, last_px = number(event["qty"], "qty"), number(event["price"], "price")
        exec_id = str(event.get("execution_id") or "")
        if last_qty <= 0 or last_px <= 0:
            raise ValueError("a fill without quantity or price")
    elif exec_type is ExecType.TRADE_CANCEL:
        last_qty = abs(optional_number(event, "qty") or ZERO)
        last_px = optional_number(event, "price") or ZERO
        exec_id = str(event.get("execution_id") or "")
    cum_qty, avg_px = _totals(order)
    status = _STATUS.get(str(order.get("status")), (exec_type, None))[1]
    if status is OrderStatus.NEW and cum_qty:
        status = OrderStatus.PARTIALLY_FILLED
    if exec_type in _FINAL:  # the event decides, should its order object lag behind
        status = _FINAL[exec_type]
    kind = order.get("type") or order.get("order_type")
    return ExecutionReport(
        account,
        text_of(order["client_order_id"], "client_order_id"),
        exec_type,
        status,
        text_of(order["id"], "id"),
        exec_id,
        last_qty,
        last_px,
        cum_qty,
        avg_px,
        _event_text(event),
        moment(event.get("timestamp") or order.get("updated_at")),
        symbol=str(order.get("symbol") or ""),
        side=_SIDES.get(str(order.get("side"))),
        order_type=_TYPES.get(str(kind)),
        time_in_force=_TIFS.get(str(order.get("time_in_force"))),
        order_qty=optional_number(order, "qty"),
        limit_price=optional_number(order, "limit_price"),
        stop_price=optional_number(order, "stop_price"),
        replaces=str(order.get("replaces") or ""),
        busts=str(event.get("previous_execution_id") or ""),
    )


_FINAL: dict[ExecType, OrderStatus | None] = {
    ExecType.CANCELED: OrderStatus.CANCELED,
    ExecType.EXPIRED: OrderStatus.EXPIRED,
    ExecType.REPLACED: OrderStatus.REPLACED,
    ExecType.REJECTED: OrderStatus.REJECTED,
    ExecType.CANCEL_REJECTED: None,
}
_SIDES = {side.value: side for side in Side}
_TYPES = {kind.value: kind for kind in OrderType}
_TIFS = {tif.value: tif for tif in TimeInForce}
_SAID = {
    "rejected": "rejected by the broker",
    "order_cancel_rejected": "the broker refused to cancel it",
    "order_replace_rejected": "the broker refused to replace it",
    "done_for_day": "done for the day",
    "suspended": "suspended by the broker",
    "trade_bust": "a fill of this order was busted",
    "trade_correct": "a fill of this order was corrected",
}


def _event_text(event: Mapping[str, Any]) -> str:
    return _SAID.get(str(event.get("event")), "")


def is_not_found(body: object) -> bool:
    """Say whether a 404 is Alpaca's own word, and not that of something on the way."""
    return isinstance(body, dict) and body.get("code") == _NOT_FOUND


# The account


def balances(account: str, body: object) -> Balances:
    """Read ``GET /v2/account``.

    Raises:
        BrokerProtocolError: it cannot be read.
    """
    with reading(account, "the account's balances"):
        found = object_of(body)
        return Balances(
            equity=number(found["equity"], "equity"),
            cash=number(found["cash"], "cash"),
            buying_power=number(found["buying_power"], "buying_power"),
            currency=str(found.get("currency") or "USD"),
            owner=str(found.get("account_number") or ""),
            blocked=any(
                found.get(name) is True
                for name in ("trading_blocked", "account_blocked", "trade_suspended_by_user")
            ),
        )


def position(account: str, body: object) -> BrokerPosition:
    """Read one position; short ones get a minus sign whether or not the broker writes it.

    Raises:
        BrokerProtocolError: it cannot be read.
    """
    with reading(account, "a position"):
        found = object_of(body)
        qty = number(found["qty"], "qty")
        if found.get("side") == "short":
            qty = -abs(qty)
        return BrokerPosition(
            text_of(found["symbol"], "symbol"),
            qty,
            number(found["avg_entry_price"], "avg_entry_price"),
        )


def instrument(account: str, symbol: str, body: object) -> Instrument:
    """Read an asset. Equities trade in cents; whole units unless fractionable.

    Raises:
        BrokerProtocolError: it cannot be read.
    """
    with reading(account, f"the asset {symbol}"):
        found = object_of(body)
        whole = Decimal("0.000000001") if found.get("fractionable") is True else Decimal(1)
        lot = optional_number(found, "min_trade_increment") or whole
        return Instrument(
            symbol,
            lot=lot,
            min_qty=optional_number(found, "min_order_size") or lot,
            tick=optional_number(found, "price_increment") or Decimal("0.01"),
            tradable=found.get("tradable") is True,
        )


def prices(body: object, symbols: Collection[str]) -> dict[str, Decimal]:
    """Read latest trades; symbols without a price in the reply are left out."""
    trades = body.get("trades") if isinstance(body, dict) else None
    found: dict[str, Decimal] = {}
    for symbol in symbols:
        trade = trades.get(symbol) if isinstance(trades, dict) else None
        try:
            price = number(trade.get("p"), "p") if isinstance(trade, dict) else ZERO
        except (ValueError, TypeError):
            continue
        if price > 0:
            found[symbol] = price
    return found
