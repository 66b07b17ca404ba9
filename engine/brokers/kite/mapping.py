"""Kite's words to ours and back: pure functions, no I/O.

Sources: https://kite.trade/docs/connect/v3 (orders, user, portfolio, market quotes, postbacks,
exceptions) and the sample replies Zerodha publishes for its client libraries. What is not documented
is taken for "no proof": the order is then looked up by its tag.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta, timezone
from decimal import Decimal
from hashlib import sha256
from hmac import compare_digest
from typing import Any
from urllib.parse import quote

from engine.brokers.http import plain
from engine.brokers.reading import number, object_of, read_object, reading, text_of
from engine.model.enums import ExecType, OrderStatus, OrderType, Side, TimeInForce
from engine.model.messages import ExecutionReport
from engine.model.numbers import ZERO, to_text
from engine.model.order import Order

LIVE_HOST = "api.kite.trade"
SANDBOX_HOST = "sandbox.kite.trade"
STREAM_HOSTS = {LIVE_HOST: "ws.kite.trade", SANDBOX_HOST: "ws-sandbox.kite.trade"}
IST = timezone(timedelta(hours=5, minutes=30), "IST")
"""Kite's stamps carry no offset; India has had no summer time since 1945."""

PRODUCTS = ("MIS", "CNC", "NRML", "MTF")
EXCHANGES = frozenset({"NSE", "BSE", "NFO", "BFO", "CDS", "BCD", "MCX"})
UNPRICED = frozenset({"CDS", "BCD", "MCX"})
"""Exchanges whose contract multipliers Kite's instrument list does not tell."""

_ORDER_TYPES = {
    OrderType.MARKET: "MARKET",
    OrderType.LIMIT: "LIMIT",
    OrderType.STOP: "SL-M",
    OrderType.STOP_LIMIT: "SL",
}
_FROM_TYPE = {word: kind for kind, word in _ORDER_TYPES.items()}
_VALIDITIES = {TimeInForce.DAY: "DAY", TimeInForce.IOC: "IOC"}
_FROM_VALIDITY = {word: tif for tif, word in _VALIDITIES.items()}
_SIDES = {"BUY": Side.BUY, "SELL": Side.SELL}
_OVER = {
    "COMPLETE": OrderStatus.FILLED,
    "CANCELLED": OrderStatus.CANCELED,
    "CANCELLED AMO": OrderStatus.CANCELED,
    "CANCEL": OrderStatus.CANCELED,  # the postback's word
    "REJECTED": OrderStatus.REJECTED,
}
_EXEC_TYPES = {
    OrderStatus.CANCELED: ExecType.CANCELED,
    OrderStatus.REJECTED: ExecType.REJECTED,
}
# Kite names the exception in its reply. These say that the request itself was refused; the network
# and data ones, and the general one, say that the API lost sight of the order system.
_REFUSALS = frozenset(
    {
        *("TokenException", "UserException", "InputException", "OrderException"),
        *("MarginException", "HoldingException", "PermissionException"),
    }
)

_LOST_SIGHT = re.compile(r"timed? ?out|check the order ?book", re.IGNORECASE)
"""Kite's "Order request timed out. Please check the order book and confirm before placing again", whatever its kind."""


# Names


def prefix(host: str) -> str:
    """Return what stands before every path at ``host``, but before that of the instrument lists."""
    return "/oms" if host == SANDBOX_HOST else ""


def split_symbol(symbol: str) -> tuple[str, str]:
    """Return exchange and trading symbol of ``NSE:INFY``; without an exchange it is NSE's."""
    exchange, colon, name = symbol.partition(":")
    return (exchange, name) if colon else ("NSE", symbol)


# Requests


class OrderBodies:
    """Writes form bodies; remembers the parts that all orders of one signal share."""

    __slots__ = ("_head", "_key", "_tail")

    def __init__(self) -> None:
        self._key: tuple[object, ...] = ()
        self._head = self._tail = ""

    def write(self, order: Order, product: str) -> str:
        """Return the form of ``POST /orders/regular``; every field was validated as plain ASCII."""
        key = (
            *(order.symbol, order.side, order.order_type, order.time_in_force),
            *(order.limit_price, order.stop_price, product),
        )
        if key != self._key:
            self._remember(order, product)
            self._key = key
        return f"{self._head}{to_text(order.order_qty)}{self._tail}{order.cl_ord_id}"

    def _remember(self, order: Order, product: str) -> None:
        exchange, name = split_symbol(order.symbol)
        self._head = (
            f"exchange={quote(exchange, safe='')}&tradingsymbol={quote(name, safe='')}"
            f"&transaction_type={order.side.value.upper()}&quantity="
        )
        self._tail = (
            f"&product={product}{_terms(order)}&validity={_VALIDITIES[order.time_in_force]}&tag="
        )


def _terms(order: Order) -> str:
    """Return order type and prices; orders without a limit go with market protection (2026-04-01)."""
    terms = f"&order_type={_ORDER_TYPES[order.order_type]}"
    if order.limit_price is not None:
        terms += f"&price={to_text(order.limit_price)}"
    if order.stop_price is not None:
        terms += f"&trigger_price={to_text(order.stop_price)}"
    return terms if order.order_type.needs_limit else f"{terms}&market_protection=-1"


def replace_body(replacement: Order) -> str:
    """Return the form of ``PUT /orders/regular/{id}``; ``quantity`` is the order's whole quantity."""
    return (
        f"quantity={to_text(replacement.order_qty)}{_terms(replacement)}"
        f"&validity={_VALIDITIES[replacement.time_in_force]}"
    )


def order_path(order_id: str) -> str:
    """Return the path of one order; the id came from outside, so it is quoted."""
    return f"/orders/regular/{quote(order_id, safe='')}"


def trades_path(order_id: str) -> str:
    """Return the path of one order's executions."""
    return f"/orders/{quote(order_id, safe='')}/trades"


def ltp_path(symbols: Iterable[str]) -> str:
    """Return the path of ``/quote/ltp`` for these symbols."""
    keys = (":".join(split_symbol(symbol)) for symbol in symbols)
    return "/quote/ltp?" + "&".join(f"i={quote(key, safe='')}" for key in keys)


# Replies


def placed_ids(body: bytes) -> tuple[list[str], list[str]]:
    """Return the ids of the orders one placement made, and what was said of slices that were refused.

    Usually one id. Sliced orders come as ``{"order_id", "children": [{"order_id"} | {"error"}]}``; the
    parent is then no order of its own. A bare list of either is read, too. No id: not readable.
    """
    reply = read_object(body)
    data = reply.get("data") if reply is not None and reply.get("status") == "success" else None
    refused: list[str] = []
    ids: list[str] = []
    for entry in data if isinstance(data, list) else [data]:
        ids += _ids_of(entry, refused)
    return list(dict.fromkeys(ids)), refused


def _ids_of(entry: object, refused: list[str]) -> list[str]:
    if isinstance(entry, str) and entry:
        return [entry]
    if not isinstance(entry, dict):
        return []
    if isinstance(error := entry.get("error"), dict):
        refused.append(plain(error.get("message", "")) or "refused")
        return []
    children = entry.get("children")
    if isinstance(children, list) and children:
        return [order_id for child in children for order_id in _ids_of(child, refused)]
    order_id = entry.get("order_id")
    if isinstance(order_id, list):
        return [one for one in order_id if isinstance(one, str) and one]
    return [order_id] if isinstance(order_id, str) and order_id else []


@dataclass(frozen=True, slots=True)
class Refusal:
    """An error reply. ``proof``: it proves that the request was not accepted."""

    text: str
    kind: str
    proof: bool


def refusal(status: int, body: bytes) -> Refusal:
    """Read an error reply; only a 4xx in Kite's own words is proof, and a 429 never is."""
    reply = read_object(body) or {}
    kind = reply.get("error_type")
    kind = kind if isinstance(kind, str) else ""
    said = plain(reply.get("message") or "")
    proof = 400 <= status < 500 and status not in {408, 429} and kind in _REFUSALS
    proof = proof and not _LOST_SIGHT.search(said)
    return Refusal(said or f"HTTP {status}", kind, proof and reply.get("status") == "error")


def session_over(status: int, body: bytes) -> bool:
    """Say whether a reply means that the access token is not, or no longer, good."""
    return status == 403 and refusal(status, body).kind == "TokenException"


# Orders as Kite tells them


@dataclass(frozen=True, slots=True)
class Row:
    """One order of the day's book, or one message of the order socket. Quantities in units."""

    order_id: str
    tags: tuple[str, ...]
    word: str  # Kite's status
    said: str  # why
    symbol: str  # EXCHANGE:TRADINGSYMBOL
    side: Side | None
    order_type: OrderType | None
    time_in_force: TimeInForce | None
    quantity: Decimal
    filled: Decimal
    avg_px: Decimal
    price: Decimal
    trigger: Decimal
    modified: bool
    at: datetime | None

    @property
    def status(self) -> OrderStatus:
        """Return the status in our words; whatever is not over is working."""
        over = _OVER.get(self.word)
        if over is not None:
            return over
        return OrderStatus.PARTIALLY_FILLED if self.filled else OrderStatus.NEW

    @property
    def settled(self) -> bool:
        """Say whether nothing is on its way: no transient status like ``MODIFY PENDING``."""
        return self.word in {"OPEN", "TRIGGER PENDING", "UPDATE"} or self.word in _OVER


@dataclass(frozen=True, slots=True)
class Trade:
    """One execution of ``GET /trades``."""

    trade_id: str
    order_id: str
    quantity: Decimal
    price: Decimal
    at: datetime | None


def stamp(value: object) -> datetime | None:
    """Read Kite's ``2021-05-31 09:18:57``, Indian time without an offset; anything else is no stamp."""
    if not isinstance(value, str):
        return None
    try:
        found = datetime.fromisoformat(value)
    except ValueError:
        return None
    return (found if found.tzinfo else found.replace(tzinfo=IST)).astimezone(UTC)


def row(account: str, value: object) -> Row:
    """Read one order; ``value`` must come from ``http.read_json`` (exact numbers).

    Raises:
        BrokerProtocolError: it cannot be read.
    """
    with reading(account, "an order of the broker's"):
        order = object_of(value)
        exchange, name = text_of(order["exchange"], "exchange"), order["tradingsymbol"]
        quantity, filled = number(order["quantity"], "quantity"), amount(order, "filled_quantity")
        if quantity < 0 or filled < 0 or filled > quantity:
            raise ValueError("filled_quantity is not within quantity")
        avg_px = amount(order, "average_price")
        if avg_px < 0:
            raise ValueError("average_price is negative")
        return Row(
            order_id=text_of(order["order_id"], "order_id"),
            tags=_tags(order),
            word=text_of(order["status"], "status"),
            said=plain(order.get("status_message") or ""),
            symbol=f"{exchange}:{text_of(name, 'tradingsymbol')}",
            side=_SIDES.get(str(order.get("transaction_type"))),
            order_type=_FROM_TYPE.get(str(order.get("order_type"))),
            time_in_force=_FROM_VALIDITY.get(str(order.get("validity"))),
            quantity=quantity,
            filled=filled,
            avg_px=avg_px,
            price=amount(order, "price"),
            trigger=amount(order, "trigger_price"),
            modified=order.get("modified") is True,
            at=stamp(order.get("exchange_update_timestamp") or order.get("order_timestamp")),
        )


def _tags(order: dict[str, Any]) -> tuple[str, ...]:
    tags = order.get("tags")
    found = [order.get("tag"), *(tags if isinstance(tags, list) else ())]
    return tuple(dict.fromkeys(tag for tag in found if isinstance(tag, str) and tag))


def amount(fields: Mapping[str, Any], name: str) -> Decimal:
    """Read a number that is zero where Kite writes nothing; raises as ``number``."""
    value = fields.get(name)
    return ZERO if value is None else number(value, name)


def data_of(body: object, kind: type) -> Any:
    """Return the ``data`` of a reply.

    Raises:
        TypeError: it is of another kind.
    """
    data = object_of(body).get("data")
    if not isinstance(data, kind):
        raise TypeError(f"data is no {kind.__name__}")
    return data


def rows(account: str, body: object) -> list[Row]:
    """Read ``GET /orders``; raises as ``row``."""
    with reading(account, "the order book"):
        found = data_of(body, list)
    return [row(account, value) for value in found]


def trades(account: str, body: object) -> list[Trade]:
    """Read ``GET /trades`` or ``GET /orders/{id}/trades``, oldest first.

    Raises:
        BrokerProtocolError: it cannot be read.
    """
    with reading(account, "the trades"):
        found = [_trade(object_of(value)) for value in data_of(body, list)]
    return sorted(found, key=lambda trade: trade.at or datetime.min.replace(tzinfo=UTC))


def _trade(fields: dict[str, Any]) -> Trade:
    quantity = number(fields["quantity"], "quantity")
    price = number(fields["average_price"], "average_price")
    if quantity <= 0 or price <= 0:
        raise ValueError("a trade without quantity or price")
    return Trade(
        text_of(fields["trade_id"], "trade_id"),
        text_of(fields["order_id"], "order_id"),
        quantity,
        price,
        stamp(fields.get("fill_timestamp") or fields.get("exchange_timestamp")),
    )


def report(account: str, cl_ord_id: str, found: Sequence[Row], symbol: str = "") -> ExecutionReport:
    """Tell the state of an order, which may be several at the broker, as one; totals are summed."""
    first = found[0]
    if len(found) == 1:
        status, quantity, filled, avg_px = first.status, first.quantity, first.filled, first.avg_px
    else:
        status = _joint_status(found)
        quantity = sum((one.quantity for one in found), ZERO)
        filled = sum((one.filled for one in found), ZERO)
        paid = sum((one.filled * one.avg_px for one in found), ZERO)
        avg_px = paid / filled if filled else ZERO
    return ExecutionReport(
        account,
        cl_ord_id,
        ExecType.STATUS,
        status,
        first.order_id,
        cum_qty=filled,
        avg_px=avg_px if filled else None,
        text=next((one.said for one in found if one.said), ""),
        transact_time=max((one.at for one in found if one.at), default=None),
        symbol=symbol or first.symbol,
        side=first.side,
        order_type=first.order_type,
        time_in_force=first.time_in_force,
        order_qty=quantity,
        limit_price=first.price or None,
        stop_price=first.trigger or None,
    )


def _joint_status(found: Sequence[Row]) -> OrderStatus:
    statuses = {one.status for one in found}
    if any(status.working for status in statuses):
        some = any(one.filled for one in found)
        return OrderStatus.PARTIALLY_FILLED if some else OrderStatus.NEW
    return statuses.pop() if len(statuses) == 1 else OrderStatus.CANCELED


def told_as(status: OrderStatus | None) -> ExecType:
    """Return why a stream would report a status (``NEW`` for whatever is working)."""
    return _EXEC_TYPES.get(status, ExecType.NEW) if status else ExecType.STATUS


# Signatures


def login_checksum(api_key: str, request_token: str, api_secret: str) -> str:
    """Return the checksum of ``POST /session/token``."""
    return sha256(f"{api_key}{request_token}{api_secret}".encode()).hexdigest()


def postback_is_genuine(postback: object, api_secret: str) -> bool:
    """Say whether a postback's checksum was made by someone who knows the app's secret."""
    if not isinstance(postback, dict):
        return False
    given, order_id = postback.get("checksum"), postback.get("order_id")
    at = postback.get("order_timestamp")
    if not (isinstance(given, str) and isinstance(order_id, str) and isinstance(at, str)):
        return False
    expected = sha256(f"{order_id}{at}{api_secret}".encode()).hexdigest()
    return compare_digest(expected.encode(), given.encode())
