"""Alpaca's words: its objects, errors and the numbers in its requests."""

from __future__ import annotations

import json
import uuid
from collections.abc import Mapping
from datetime import UTC, datetime
from decimal import Decimal
from typing import Any, NamedTuple

import orjson

from engine.model.enums import OrderStatus
from engine.model.numbers import is_multiple, parse_decimal, to_text
from engine.simbroker.dialect import Reply
from engine.simbroker.orders import Execution, Reason, Refused, VenueOrder, new_id

_CENT, _SUB_PENNY, _DOLLAR = Decimal("0.01"), Decimal("0.0001"), Decimal(1)


class Digits(NamedTuple):
    """A number that JSON writes with exactly these digits."""

    value: Decimal


def _digits(value: object) -> orjson.Fragment:
    assert isinstance(value, Digits)
    return orjson.Fragment(to_text(value.value))


def to_json(value: object) -> bytes:
    """Write JSON: stamps in UTC with ``Z``, prices of market data as numbers with exact digits."""
    return orjson.dumps(value, default=_digits, option=orjson.OPT_UTC_Z)


class ApiError(Exception):
    """An error object of Alpaca's."""

    def __init__(self, status: int, code: int, message: str, **more: str) -> None:
        super().__init__(message)
        self.status = status
        self.body = to_json({"code": code, "message": message, **more})


def invalid(message: str) -> ApiError:
    """Return a validation error."""
    return ApiError(422, 42210000, message)


def not_found(message: str) -> ApiError:
    """Return a not-found error."""
    return ApiError(404, 40410000, message)


FORBIDDEN = Reply(403, b'{"message":"forbidden."}')
UNAUTHORIZED = Reply(401, b'{"code":40110000,"message":"request is not authorized"}')
THROTTLED = Reply(429, b'{"code":42910000,"message":"rate limit exceeded"}')


_BAD_BODY = ApiError(400, 40010000, "request body format is invalid")


def refusal(refused: Refused) -> ApiError:
    """Return Alpaca's error for what the venue refuses."""
    facts = {
        name: to_text(round(value, 2)) if isinstance(value, Decimal) else value
        for name, value in refused.facts.items()
    }
    match refused.reason:
        case Reason.DUPLICATE:
            return ApiError(422, 40010001, "client_order_id must be unique")
        case Reason.FUNDS:
            return ApiError(403, 40310000, "insufficient buying power", **facts)
        case Reason.HELD:
            message = (
                "insufficient qty available for order "
                f"(requested: {facts['requested']}, available: {facts['available']})"
            )
            del facts["requested"]
            return ApiError(403, 40310000, message, **facts)
        case Reason.NOT_OPEN:
            return invalid(f'order is already in "{facts["status"]}" state')


def text_of(value: Decimal | None) -> str | None:
    """Write a number, ``None`` as ``None``."""
    return None if value is None else to_text(value)


def rounded(value: Decimal) -> str:
    """Write a quotient (an average, a share of a cost) with at most 12 decimals."""
    return to_text(round(value, 12))


def is_crypto(symbol: str) -> bool:
    """Say whether a symbol is a pair."""
    return "/" in symbol


def asset_id(symbol: str) -> str:
    """Return the asset's UUID, the same for ever."""
    return str(uuid.uuid5(uuid.NAMESPACE_DNS, symbol))


def order_class(order: VenueOrder) -> str:
    """Return how an order is linked: ``bracket``, ``oto``, ``oco``, empty for a simple one."""
    entry = order.parent or order
    if not entry.exits:
        return ""
    if entry in entry.exits[0].siblings:
        return "oco"
    return "bracket" if len(entry.exits) > 1 else "oto"


def order_object(order: VenueOrder, *, nested: bool = False) -> dict[str, Any]:
    """Return an order as Alpaca writes it; ``nested`` with the objects of its legs."""
    kind = "trailing_stop" if order.trail_percent else order.order_type.value
    status = "held" if order.held else "accepted"
    legs = [order_object(leg) for leg in order.exits] if nested else None
    return {
        "id": order.key,
        "client_order_id": order.client_order_id,
        "created_at": order.created_at,
        "updated_at": order.updated_at,
        "submitted_at": order.created_at,
        "filled_at": order.filled_at,
        "expired_at": order.expired_at,
        "canceled_at": order.canceled_at,
        "failed_at": None,
        "replaced_at": order.replaced_at,
        "replaced_by": order.replaced_by or None,
        "replaces": order.replaces or None,
        "asset_class": "crypto" if is_crypto(order.symbol) else "us_equity",
        "symbol": order.symbol,
        "notional": None,
        "qty": to_text(order.order_qty),
        "filled_qty": to_text(order.cum_qty),
        "filled_avg_price": rounded(order.avg_px) if order.cum_qty else None,
        "order_class": order_class(order),
        "order_type": kind,
        "type": kind,
        "side": order.side.value,
        "time_in_force": order.time_in_force.value,
        "limit_price": text_of(order.limit_price),
        "stop_price": text_of(order.stop_price),
        "status": status if order.status is None else order.status.value,
        "extended_hours": False,
        "legs": legs or None,
        "trail_percent": text_of(order.trail_percent),
        "trail_price": None,
        "hwm": text_of(order.best_px),
    }


def update_object(event: str, order: VenueOrder, execution: Execution | None) -> dict[str, Any]:
    """Return one message of the ``trade_updates`` stream."""
    data: dict[str, Any] = {"event": event, "order": order_object(order)}
    if execution is None:
        data["execution_id"] = new_id()
        data["timestamp"] = order.updated_at
    else:
        data["execution_id"] = execution.exec_id
        data["timestamp"] = execution.at
        data["price"] = to_text(execution.last_px)
        data["qty"] = to_text(execution.last_qty)
        data["position_qty"] = to_text(execution.position_qty)
    return {"stream": "trade_updates", "data": data}


def read_body(body: bytes) -> dict[str, Any]:
    """Read a request's JSON object; numbers outside quotes stay exact.

    Raises:
        ApiError: it is no JSON object.
    """
    try:
        fields = orjson.loads(body)
        if isinstance(fields, dict) and any(isinstance(v, float) for v in fields.values()):
            fields = json.loads(body, parse_float=Decimal)
    except ValueError:
        fields = None
    if not isinstance(fields, dict):
        raise _BAD_BODY
    return fields


def read_number(fields: Mapping[str, Any], name: str) -> Decimal | None:
    """Read a number above zero, quoted or not.

    Raises:
        ApiError: it cannot be read.
    """
    value = fields.get(name)
    if value is None:
        return None
    text = format(value, "f") if isinstance(value, Decimal) else value
    if isinstance(value, int) and not isinstance(value, bool):
        text = str(value)
    try:
        number = parse_decimal(text if isinstance(text, str) else "")
    except ValueError:
        raise invalid(f"{name} must be a number") from None
    if number <= 0:
        raise invalid(f"{name} must be > 0")
    return number


def read_price(fields: Mapping[str, Any], name: str) -> Decimal | None:
    """Read a price in whole cents, below a dollar in hundredths of one.

    Raises:
        ApiError: it cannot be read.
    """
    price = read_number(fields, name)
    if price is not None and not is_multiple(price, _CENT if price >= _DOLLAR else _SUB_PENNY):
        raise invalid(
            f"invalid {name} {to_text(price)}. "
            "sub-penny increment does not fulfill minimum pricing criteria"
        )
    return price


def activity_object(fill: Execution) -> dict[str, Any]:
    """Return a fill as the account's activities list it."""
    order = fill.order
    done = fill.cum_qty == order.order_qty
    return {
        "id": f"{fill.at:%Y%m%d%H%M%S}{fill.at.microsecond // 1000:03d}::{fill.exec_id}",
        "activity_type": "FILL",
        "transaction_time": fill.at,
        "type": "fill" if done else "partial_fill",
        "price": to_text(fill.last_px),
        "qty": to_text(fill.last_qty),
        "side": order.side.value,
        "symbol": order.symbol,
        "leaves_qty": to_text(order.order_qty - fill.cum_qty),
        "cum_qty": to_text(fill.cum_qty),
        "order_id": order.key,
        "order_status": OrderStatus.FILLED.value if done else OrderStatus.PARTIALLY_FILLED.value,
    }


def read_moment(query: Mapping[str, str], name: str) -> datetime | None:
    """Read a stamp; one without an offset is UTC.

    Raises:
        ApiError: it cannot be read.
    """
    text = query.get(name)
    if not text:
        return None
    try:
        moment = datetime.fromisoformat(text)
    except ValueError:
        raise invalid(f"invalid {name}") from None
    return moment if moment.tzinfo else moment.replace(tzinfo=UTC)


def read_count(query: Mapping[str, str], name: str, default: int, most: int) -> int:
    """Read how many rows are wanted.

    Raises:
        ApiError: it cannot be read.
    """
    text = query.get(name, str(default))
    if not text.isascii() or not text.isdigit() or not 0 < int(text) <= most:
        raise invalid(f"{name} must be between 1 and {most}")
    return int(text)
