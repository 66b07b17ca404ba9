"""Kite's words: replies, errors, and the rows of its order book, trades and portfolio."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timedelta, timezone
from decimal import Decimal
from typing import Any

import orjson

from engine.model.enums import OrderStatus, OrderType, Side, TimeInForce
from engine.model.numbers import ZERO, to_text
from engine.simbroker.dialect import Reply
from engine.simbroker.venue import Execution, VenueOrder

IST = timezone(timedelta(hours=5, minutes=30), "IST")
ORDER_TYPES = {
    "MARKET": OrderType.MARKET,
    "LIMIT": OrderType.LIMIT,
    "SL-M": OrderType.STOP,
    "SL": OrderType.STOP_LIMIT,
}
TYPE_WORDS = {kind: word for word, kind in ORDER_TYPES.items()}
VALIDITIES = {"DAY": TimeInForce.DAY, "IOC": TimeInForce.IOC}
VALIDITY_WORDS = {tif: word for word, tif in VALIDITIES.items()}
_STATUSES = {
    OrderStatus.FILLED: "COMPLETE",
    OrderStatus.CANCELED: "CANCELLED",
    OrderStatus.EXPIRED: "CANCELLED",
    OrderStatus.REJECTED: "REJECTED",
}
_BY_STATUS = {
    403: "PermissionException",
    429: "NetworkException",
    502: "DataException",
    503: "NetworkException",
    504: "NetworkException",
}


def _plain(value: object) -> orjson.Fragment:
    """Write a Decimal as a bare JSON number with its exact digits, as Kite writes prices."""
    if not isinstance(value, Decimal):
        raise TypeError
    return orjson.Fragment(to_text(value))


def to_json(value: object) -> bytes:
    """Write JSON."""
    return orjson.dumps(value, default=_plain)


def success(data: object) -> bytes:
    """Return the body of a reply that worked."""
    return to_json({"status": "success", "data": data})


class ApiError(Exception):
    """An error reply."""

    def __init__(self, status: int, error_type: str, message: str) -> None:
        super().__init__(message)
        self.reply = Reply(
            status,
            to_json(
                {"status": "error", "message": message, "data": None, "error_type": error_type}
            ),
        )


def invalid(message: str) -> ApiError:
    """Return the error of a parameter that is missing or wrong."""
    return ApiError(400, "InputException", message)


def no_session() -> ApiError:
    """Return the error of a token that is not, or no longer, good."""
    return ApiError(403, "TokenException", "Incorrect `api_key` or `access_token`.")


def failure(status: int, retry_after_s: float | None) -> Reply:
    """Return Kite's reply with a status a fault asked for."""
    kind = _BY_STATUS.get(status, "GeneralException" if status >= 500 else "InputException")
    words = "Too many requests" if status == 429 else "Something went wrong"
    retry = "" if retry_after_s is None else f"Retry-After: {retry_after_s:.0f}\r\n"
    return ApiError(status, kind, words).reply._replace(headers=retry)


def stamp(moment: datetime) -> str:
    """Write Indian time without an offset."""
    return f"{moment.astimezone(IST):%Y-%m-%d %H:%M:%S}"


@dataclass(slots=True)
class Entry:
    """One order of the day's book: the venue's, with what only Kite keeps."""

    order: VenueOrder
    order_id: str
    tag: str
    product: str
    variety: str
    said: str = ""
    modified: bool = False
    changes: int = 0

    @property
    def word(self) -> str:
        """Return Kite's status."""
        status = self.order.status
        if status is None:
            return "PUT ORDER REQ RECEIVED"
        waits = self.order.waits_for_stop
        return _STATUSES.get(status, "TRIGGER PENDING" if waits else "OPEN")


def order_row(entry: Entry, word: str = "") -> dict[str, Any]:
    """Return an order as ``GET /orders`` and the order socket tell it."""
    order = entry.order
    exchange, _, name = order.symbol.partition(":")
    over = not order.open
    rejected = order.status is OrderStatus.REJECTED
    left = order.order_qty - order.cum_qty
    return {
        "placed_by": order.account.key_id[:6].upper(),
        "order_id": entry.order_id,
        "exchange_order_id": None if rejected else f"13{entry.order_id}",
        "parent_order_id": None,
        "status": word or entry.word,
        "status_message": entry.said or None,
        "status_message_raw": entry.said or None,
        "order_timestamp": stamp(order.created_at),
        "exchange_update_timestamp": None if rejected else stamp(order.updated_at),
        "exchange_timestamp": None if rejected else stamp(order.created_at),
        "variety": entry.variety,
        "modified": entry.modified,
        "exchange": exchange,
        "tradingsymbol": name,
        "instrument_token": token_of(order.symbol),
        "order_type": TYPE_WORDS[order.order_type],
        "transaction_type": order.side.value.upper(),
        "validity": VALIDITY_WORDS[order.time_in_force],
        "validity_ttl": 0,
        "product": entry.product,
        "quantity": order.order_qty,
        "disclosed_quantity": 0,
        "price": order.limit_price or 0,
        "trigger_price": order.stop_price or 0,
        "average_price": round(order.avg_px, 12),
        "filled_quantity": order.cum_qty,
        "pending_quantity": 0 if order.status is OrderStatus.FILLED else left,
        "cancelled_quantity": left if over and not rejected else 0,
        "market_protection": 0,
        "meta": {},
        "tag": entry.tag or None,
        "guid": None,
    }


def trade_row(number: int, fill: Execution, entry: Entry) -> dict[str, Any]:
    """Return an execution; ``number`` makes its id."""
    exchange, _, name = fill.order.symbol.partition(":")
    return {
        "trade_id": str(10_000_000 + number),
        "order_id": entry.order_id,
        "exchange": exchange,
        "tradingsymbol": name,
        "instrument_token": token_of(fill.order.symbol),
        "product": entry.product,
        "average_price": fill.last_px,
        "quantity": fill.last_qty,
        "exchange_order_id": f"13{entry.order_id}",
        "transaction_type": fill.order.side.value.upper(),
        "fill_timestamp": stamp(fill.at),
        "order_timestamp": stamp(fill.order.created_at)[11:],
        "exchange_timestamp": stamp(fill.at),
    }


def position_row(
    symbol: str, product: str, fills: list[Execution], price: Decimal
) -> dict[str, Any]:
    """Return a net position from all of the day's executions in it."""
    exchange, _, name = symbol.partition(":")
    sums = {Side.BUY: (ZERO, ZERO), Side.SELL: (ZERO, ZERO)}
    for fill in fills:
        quantity, value = sums[fill.order.side]
        sums[fill.order.side] = (quantity + fill.last_qty, value + fill.last_qty * fill.last_px)
    (bought, paid), (sold, got) = sums[Side.BUY], sums[Side.SELL]
    net, value = bought - sold, got - paid
    gain = value + net * price
    return {
        "tradingsymbol": name,
        "exchange": exchange,
        "instrument_token": token_of(symbol),
        "product": product,
        "quantity": net,
        "overnight_quantity": 0,
        "multiplier": 1,
        "average_price": ZERO,
        "close_price": 0,
        "last_price": price,
        "value": value,
        "pnl": gain,
        "m2m": gain,
        "unrealised": gain,
        "realised": 0,
        "buy_quantity": bought,
        "buy_price": round(paid / bought, 12) if bought else 0,
        "buy_value": paid,
        "buy_m2m": paid,
        "sell_quantity": sold,
        "sell_price": round(got / sold, 12) if sold else 0,
        "sell_value": got,
        "sell_m2m": got,
        "day_buy_quantity": bought,
        "day_buy_price": round(paid / bought, 12) if bought else 0,
        "day_buy_value": paid,
        "day_sell_quantity": sold,
        "day_sell_price": round(got / sold, 12) if sold else 0,
        "day_sell_value": got,
    }


def token_of(symbol: str) -> int:
    """Return a stable number for a symbol, as the instrument list has it."""
    return int.from_bytes(symbol.encode()[-4:], "big") & 0xFFFFFF
