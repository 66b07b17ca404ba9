"""Reading what clients of the venue's OANDA dialect ask for; every refusal is one of OANDA's reasons."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from datetime import datetime
from decimal import Decimal
from typing import Any

import orjson

from engine.model.enums import OrderType, Side, TimeInForce
from engine.model.matching import practice_instrument
from engine.model.numbers import is_multiple, parse_decimal, parse_signed
from engine.simbroker.oanda_ledger import SimLedger, SimOrder, digits_of
from engine.simbroker.venue import NewOrder

SHOWN = (
    "instrument", "units", "price", "priceBound", "timeInForce", "positionFill", "clientExtensions",
    "tradeClientExtensions", "takeProfitOnFill", "stopLossOnFill", "trailingStopLossOnFill",
)  # fmt: skip
"""The fields of a request that its order and its transaction show again."""
EXITS = {
    "takeProfitOnFill": "TAKE_PROFIT",
    "stopLossOnFill": "STOP_LOSS",
    "trailingStopLossOnFill": "TRAILING_STOP_LOSS",
}
_CLIENT_ID = re.compile(r"[\x20-\x7e]{1,128}", re.ASCII)
_TIF = {
    "GTC": TimeInForce.GTC,
    "GFD": TimeInForce.DAY,
    "IOC": TimeInForce.IOC,
    "FOK": TimeInForce.FOK,
}
MOST_UNITS = Decimal(100_000_000)


class Refusal(Exception):
    """An order that is rejected before it exists."""


class Problem(Exception):
    """A whole error reply."""

    def __init__(self, status: int, message: str, code: str = "") -> None:
        super().__init__(message)
        self.status = status
        self.body = {"errorMessage": message, **({"errorCode": code} if code else {})}


def read_order(
    ledger: SimLedger, kind: str, fields: Mapping[str, Any], known: Callable[[str], bool]
) -> NewOrder:
    """Read an order that may be created; ``known`` says whether there is such an instrument.

    Raises:
        Refusal: OANDA's reason why not.
    """
    symbol = str(fields.get("instrument") or "")
    if not symbol:
        raise Refusal("INSTRUMENT_MISSING")
    if not known(symbol):
        raise Refusal("INSTRUMENT_UNKNOWN")
    units = _units(fields)
    price, bound = _price(symbol, fields, "price"), _price(symbol, fields, "priceBound")
    if kind != "MARKET" and price is None:
        raise Refusal("PRICE_MISSING")
    default = "FOK" if kind == "MARKET" else "GTC"
    tif = _TIF.get(str(fields.get("timeInForce") or default))
    if tif is None or (kind == "MARKET" and tif not in {TimeInForce.IOC, TimeInForce.FOK}):
        raise Refusal("TIME_IN_FORCE_INVALID")
    _check_exits(symbol, fields)
    order_type = OrderType(kind.lower())
    if kind == "STOP" and bound is not None:
        # Past its bound when touched it ends: the book's ioc does that, at the touch.
        order_type = OrderType.STOP_LIMIT
        tif = tif if tif is TimeInForce.FOK else TimeInForce.IOC
    return NewOrder(
        client_order_id=_client_id(ledger, fields),
        symbol=symbol,
        side=Side.BUY if units > 0 else Side.SELL,
        order_qty=abs(units),
        order_type=order_type,
        time_in_force=tif,
        limit_price=price if kind == "LIMIT" else bound if order_type.needs_limit else None,
        stop_price=price if kind == "STOP" else None,
    )


def _client_id(ledger: SimLedger, fields: Mapping[str, Any]) -> str:
    client_id = (fields.get("clientExtensions") or {}).get("id")
    if client_id is None:
        return ""
    if not isinstance(client_id, str) or not _CLIENT_ID.fullmatch(client_id):
        raise Refusal("CLIENT_ORDER_ID_INVALID")
    if ledger.pending_with(client_id) is not None:
        raise Refusal("CLIENT_ORDER_ID_ALREADY_EXISTS")
    return client_id


def _check_exits(symbol: str, fields: Mapping[str, Any]) -> None:
    ids = []
    for name, kind in EXITS.items():
        details = fields.get(name)
        if not isinstance(details, dict):
            continue
        key = "distance" if kind == "TRAILING_STOP_LOSS" else "price"
        try:
            value = _price(symbol, details, key)
        except Refusal as refusal:
            raise Refusal(f"{kind}_ON_FILL_{refusal}") from None
        if value is None:
            raise Refusal(f"{kind}_ON_FILL_PRICE_MISSING")
        ids.append((details.get("clientExtensions") or {}).get("id"))
    given = [client_id for client_id in ids if client_id]
    if len(given) != len(set(given)):
        raise Refusal("ORDERS_ON_FILL_DUPLICATE_CLIENT_ORDER_IDS")


def read_exit(old: SimOrder, fields: Mapping[str, Any]) -> Decimal:
    """Read where an exit that hangs on a trade shall be from now on.

    Raises:
        Refusal: OANDA's reason why not.
    """
    if old.trade is None or str(fields.get("tradeID")) != old.trade.id:
        raise Refusal("REPLACING_TRADE_ID_INVALID")
    if fields.get("type") != old.kind or old.distance is not None:
        raise Refusal("REPLACING_ORDER_INVALID")
    price = _price(old.trade.instrument, fields, "price")
    if price is None:
        raise Refusal("PRICE_MISSING")
    return price


def read_body(body: bytes) -> dict[str, Any]:
    """Read a request's JSON object, an empty one for no body."""
    if not body:
        return {}
    try:
        found = orjson.loads(body)
    except ValueError:
        found = None
    if not isinstance(found, dict):
        raise Problem(400, "Invalid JSON")
    return found


def kind_of(fields: Mapping[str, Any]) -> str:
    """Read an order's type."""
    kind = str(fields.get("type", "MARKET"))
    if kind not in {"MARKET", "LIMIT", "STOP"}:
        raise Problem(400, f"Invalid value specified for 'order/type': {kind[:40]}")
    return kind


def _units(fields: Mapping[str, Any]) -> Decimal:
    text = fields.get("units")
    if text is None:
        raise Refusal("UNITS_MISSING")
    try:
        units = parse_signed(str(text))
    except ValueError:
        raise Refusal("UNITS_INVALID") from None
    if not units:
        raise Refusal("UNITS_INVALID")
    if not is_multiple(units, practice_instrument(str(fields["instrument"])).lot):
        raise Refusal("UNITS_PRECISION_EXCEEDED")
    if abs(units) > MOST_UNITS:
        raise Refusal("UNITS_LIMIT_EXCEEDED")
    return units


def _price(symbol: str, fields: Mapping[str, Any], name: str) -> Decimal | None:
    text = fields.get(name)
    if text is None:
        return None
    word = {"price": "PRICE", "priceBound": "PRICE_BOUND", "distance": "PRICE_DISTANCE"}[name]
    try:
        price = parse_decimal(str(text))
    except ValueError:
        raise Refusal(f"{word}_INVALID") from None
    if not price:
        raise Refusal(f"{word}_INVALID")
    if not is_multiple(price, Decimal(1).scaleb(-digits_of(symbol))):
        raise Refusal(f"{word}_PRECISION_EXCEEDED")
    return price


def number_of(text: str | None) -> int:
    """Read a transaction's id, -1 for anything else."""
    return int(text) if text and text.isascii() and text.isdigit() and len(text) < 12 else -1


def moment_of(text: str | None) -> datetime | None:
    """Read a moment of a query."""
    if text is None:
        return None
    try:
        return datetime.fromisoformat(text)
    except ValueError:
        raise Problem(400, "Invalid value specified for 'from'") from None
