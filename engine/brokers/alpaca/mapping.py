"""Alpaca's words to ours and back: pure functions, no I/O.

Sources: https://docs.alpaca.markets (orders, trade updates, assets). What is not documented is
taken for "no proof": the order is then looked up by its client id.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager
from datetime import datetime
from decimal import Decimal, DecimalException
from typing import Any
from urllib.parse import quote

import orjson

from engine.brokers.http import plain, read_json
from engine.brokers.wire import header
from engine.errors import BrokerProtocolError
from engine.model.enums import ExecType, OrderStatus, OrderType, Side, TimeInForce
from engine.model.instrument import Instrument
from engine.model.messages import Balances, BrokerPosition, ExecutionReport
from engine.model.numbers import ZERO, to_text
from engine.model.order import Order

LIVE_HOST = "api.alpaca.markets"
PAPER_HOST = "paper-api.alpaca.markets"
DATA_HOST = "data.alpaca.markets"

_NOT_FOUND = 40410000
_BIGGEST = Decimal(10) ** 18
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
    "order_cancel_rejected": ExecType.CANCEL_REJECTED,
    "order_replace_rejected": ExecType.CANCEL_REJECTED,
}
# HTTP statuses that prove a refusal, given an error object of Alpaca's. Not 429: its documents do
# not say
# that nothing was placed. Not 408, 409 and above 499.
_REFUSALS = frozenset({400, 401, 403, 404, 422})
_SAFE_ID = re.compile(r"[A-Za-z0-9-]{1,64}", re.ASCII)


# Requests


class OrderBodies:
    """Writes order bodies; remembers the part that all orders of one signal share."""

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
        ):
            self._remember(order)
        return f'{self._part}{to_text(order.order_qty)}","client_order_id":"{order.cl_ord_id}"}}'

    def _remember(self, order: Order) -> None:
        self._symbol, self._side, self._type = order.symbol, order.side, order.order_type
        self._tif, self._limit, self._stop = (
            order.time_in_force,
            order.limit_price,
            order.stop_price,
        )
        limit = f'"limit_price":"{to_text(self._limit)}",' if self._limit is not None else ""
        stop = f'"stop_price":"{to_text(self._stop)}",' if self._stop is not None else ""
        self._part = (
            f'{{"symbol":"{self._symbol}","side":"{self._side.value}","type":"{self._type.value}",'
            f'"time_in_force":"{self._tif.value}",{limit}{stop}"qty":"'
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


def read_object(body: bytes) -> dict[str, Any] | None:
    """Read a JSON object fast, ``None`` if it is none; bare fractions become floats."""
    try:
        found = orjson.loads(body)
    except ValueError:
        return None
    return found if type(found) is dict else None


class _InexactError(ValueError):
    """A number came without quotes; the object must be read again, exactly."""


def _number(value: object, name: str) -> Decimal:
    """Read a number: text, int or Decimal.

    Raises:
        TypeError: not a number at all.
        ValueError: not a finite number of reasonable size.
    """
    if type(value) is float:
        raise _InexactError(name)
    if isinstance(value, bool) or not isinstance(value, str | int | Decimal):
        raise TypeError(f"{name} is no number")
    try:
        number = Decimal(value)
    except DecimalException:
        raise ValueError(f"{name} is no number") from None
    if not number.is_finite() or abs(number) >= _BIGGEST:
        raise ValueError(f"{name} is out of range")
    return number


def _optional(order: Mapping[str, Any], name: str) -> Decimal | None:
    value = order.get(name)
    return None if value is None else _number(value, name)


def _totals(order: Mapping[str, Any]) -> tuple[Decimal | None, Decimal | None]:
    filled = order.get("filled_qty")
    if filled == "0" or filled is None:
        return (ZERO if filled else None), None
    quantity = _number(filled, "filled_qty")
    if quantity < 0:
        raise ValueError("filled_qty is negative")
    return quantity, _optional(order, "filled_avg_price")


def _moment(text: object) -> datetime | None:
    if not isinstance(text, str):
        return None
    try:
        moment = datetime.fromisoformat(text)
    except ValueError:
        return None
    return moment if moment.tzinfo else None


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
    return ExecutionReport(
        account,
        cl_ord_id,
        ExecType.REJECTED,
        OrderStatus.REJECTED,
        text=message or f"refused (HTTP {status}, code {plain(reply.get('code'))})",
    )


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
    exec_type, status = _STATUS.get(reply.get("status", ""), (ExecType.NEW, OrderStatus.NEW))
    try:
        cum_qty, avg_px = _totals(reply)
    except _InexactError:
        return _placed(account, cl_ord_id, read_json(body), body)
    except (ValueError, TypeError) as error:
        return unknown(account, cl_ord_id, f"the reply cannot be read: {error}")
    moment = reply.get("filled_at") or reply.get("updated_at") or reply.get("submitted_at")
    return ExecutionReport(
        account,
        cl_ord_id,
        exec_type,
        status,
        order_id,
        cum_qty=cum_qty,
        avg_px=avg_px,
        transact_time=_moment(moment),
    )


def unknown(account: str, cl_ord_id: str, text: str) -> ExecutionReport:
    """Return the report of bytes that left without proof of what became of them."""
    return ExecutionReport(account, cl_ord_id, ExecType.UNKNOWN, OrderStatus.UNKNOWN, text=text)


def error_text(status: int, body: bytes) -> str:
    """Return the broker's words of an error reply, or its status."""
    reply = read_object(body) or {}
    return plain(reply.get("message", "")) or f"HTTP {status}"


def credentials_doubtful(status: int, body: bytes) -> bool:
    """Say whether a refusal may be about the credentials and not about the order."""
    return status == 401 or (status == 403 and "code" not in (read_object(body) or {"code": 0}))


@contextmanager
def _reading(account: str, what: str) -> Iterator[None]:
    try:
        yield
    except (ValueError, KeyError, TypeError) as error:
        raise BrokerProtocolError(
            f"account {account}: {what} cannot be read: {plain(error)}", account=account
        ) from None


def _object(value: object) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise TypeError("no object")
    return value


# Orders as the broker tells them: look-ups, lists and the stream


def status_report(account: str, order: object) -> ExecutionReport:
    """Turn an order object into a report of its state as of now.

    Raises:
        BrokerProtocolError: it cannot be read.
    """
    with _reading(account, "an order of the broker's"):
        return _told(account, order, ExecType.STATUS, {})


def stream_report(account: str, data: object) -> ExecutionReport:
    """Turn the ``data`` of one ``trade_updates`` message into a report.

    Raises:
        BrokerProtocolError: it cannot be read.
    """
    with _reading(account, "an event of the order stream"):
        event = _object(data)
        exec_type = _EVENT.get(str(event.get("event")), ExecType.STATUS)
        return _told(account, event.get("order"), exec_type, event)


def _told(
    account: str, told: object, exec_type: ExecType, event: Mapping[str, Any]
) -> ExecutionReport:
    order = _object(told)
    last_qty = last_px = ZERO
    exec_id = ""
    if exec_type is ExecType.TRADE:
        last_qty, last_px = _number(event["qty"], "qty"), _number(event["price"], "price")
        exec_id = str(event.get("execution_id") or "")
        if last_qty <= 0 or last_px <= 0:
            raise ValueError("a fill without quantity or price")
    cum_qty, avg_px = _totals(order)
    status = _STATUS.get(str(order.get("status")), (exec_type, None))[1]
    if status is OrderStatus.NEW and cum_qty:
        status = OrderStatus.PARTIALLY_FILLED
    if exec_type in _FINAL:  # the event decides, should its order object lag behind
        status = _FINAL[exec_type]
    kind = order.get("type") or order.get("order_type")
    return ExecutionReport(
        account,
        _text(order["client_order_id"], "client_order_id"),
        exec_type,
        status,
        _text(order["id"], "id"),
        exec_id,
        last_qty,
        last_px,
        cum_qty,
        avg_px,
        _event_text(event),
        _moment(event.get("timestamp") or order.get("updated_at")),
        symbol=str(order.get("symbol") or ""),
        side=_SIDES.get(str(order.get("side"))),
        order_type=_TYPES.get(str(kind)),
        time_in_force=_TIFS.get(str(order.get("time_in_force"))),
        order_qty=_optional(order, "qty"),
        limit_price=_optional(order, "limit_price"),
        stop_price=_optional(order, "stop_price"),
        replaces=str(order.get("replaces") or ""),
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


def _text(value: object, name: str) -> str:
    if not isinstance(value, str) or not value:
        raise ValueError(f"{name} is missing")
    return value


def is_not_found(body: object) -> bool:
    """Say whether a 404 is Alpaca's own word, and not that of something on the way."""
    return isinstance(body, dict) and body.get("code") == _NOT_FOUND


# The account


def balances(account: str, body: object) -> Balances:
    """Read ``GET /v2/account``.

    Raises:
        BrokerProtocolError: it cannot be read.
    """
    with _reading(account, "the account's balances"):
        found = _object(body)
        return Balances(
            equity=_number(found["equity"], "equity"),
            cash=_number(found["cash"], "cash"),
            buying_power=_number(found["buying_power"], "buying_power"),
            currency=str(found.get("currency") or "USD"),
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
    with _reading(account, "a position"):
        found = _object(body)
        qty = _number(found["qty"], "qty")
        if found.get("side") == "short":
            qty = -abs(qty)
        return BrokerPosition(
            _text(found["symbol"], "symbol"),
            qty,
            _number(found["avg_entry_price"], "avg_entry_price"),
        )


def instrument(account: str, symbol: str, body: object) -> Instrument:
    """Read an asset. Equities trade in cents; whole units unless fractionable.

    Raises:
        BrokerProtocolError: it cannot be read.
    """
    with _reading(account, f"the asset {symbol}"):
        found = _object(body)
        whole = Decimal("0.000000001") if found.get("fractionable") is True else Decimal(1)
        lot = _optional(found, "min_trade_increment") or whole
        return Instrument(
            symbol,
            lot=lot,
            min_qty=_optional(found, "min_order_size") or lot,
            tick=_optional(found, "price_increment") or Decimal("0.01"),
            tradable=found.get("tradable") is True,
        )


def prices(body: object, symbols: Collection[str]) -> dict[str, Decimal]:
    """Read latest trades; symbols without a price in the reply are left out."""
    trades = body.get("trades") if isinstance(body, dict) else None
    found: dict[str, Decimal] = {}
    for symbol in symbols:
        trade = trades.get(symbol) if isinstance(trades, dict) else None
        try:
            price = _number(trade.get("p"), "p") if isinstance(trade, dict) else ZERO
        except (ValueError, TypeError):
            continue
        if price > 0:
            found[symbol] = price
    return found
