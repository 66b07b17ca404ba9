"""Binance's orders and order lists at the simulated venue, and the objects its API tells them in.

Source: github.com/binance/binance-spot-api-docs at a5e0bc3 (rest-api.md, user-data-stream.md, filters.md).
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from datetime import datetime
from decimal import Decimal
from typing import Any

from engine.model.enums import OrderStatus, OrderType, Side, TimeInForce
from engine.model.matching import practice_instrument
from engine.model.numbers import ZERO, is_multiple, parse_decimal
from engine.simbroker.venue import NewOrder, VenueAccount, VenueOrder

QUOTES = ("USDT", "USDC", "FDUSD", "BTC", "ETH", "BNB", "EUR", "USD")
CLIENT_ID = "^[a-zA-Z0-9-_]{1,36}$"
_CLIENT_ID = re.compile(r"[a-zA-Z0-9_-]{1,36}", re.ASCII)
TYPES = {
    "LIMIT": OrderType.LIMIT,
    "LIMIT_MAKER": OrderType.LIMIT,
    "MARKET": OrderType.MARKET,
    "STOP_LOSS": OrderType.STOP,
    "STOP_LOSS_LIMIT": OrderType.STOP_LIMIT,
}
_NEEDS = {
    "LIMIT": {"timeInForce", "price"},
    "LIMIT_MAKER": {"price"},
    "MARKET": set[str](),
    "STOP_LOSS": {"stopPrice"},
    "STOP_LOSS_LIMIT": {"timeInForce", "price", "stopPrice"},
}
_TIFS = {"GTC": TimeInForce.GTC, "IOC": TimeInForce.IOC, "FOK": TimeInForce.FOK}
_STATUS = {
    None: "NEW",
    OrderStatus.NEW: "NEW",
    OrderStatus.PARTIALLY_FILLED: "PARTIALLY_FILLED",
    OrderStatus.FILLED: "FILLED",
    OrderStatus.CANCELED: "CANCELED",
    OrderStatus.EXPIRED: "EXPIRED",
}
_FINEST = Decimal("0.00000001")
_PAIR_STEP = Decimal("0.00001")
MAX_QTY = Decimal(9_000_000)
MIN_NOTIONAL = Decimal(5)


class ApiError(Exception):
    """An error object of Binance's."""

    def __init__(self, code: int, msg: str, status: int = 400, data: object = None) -> None:
        super().__init__(msg)
        self.status = status
        self.body: dict[str, Any] = {"code": code, "msg": msg}
        if data is not None:
            self.body["data"] = data


def mandatory(name: str) -> ApiError:
    """Return the error of a parameter that is missing."""
    return ApiError(
        -1102, f"Mandatory parameter '{name}' was not sent, was empty/null, or malformed."
    )


def rejected(msg: str) -> ApiError:
    """Return an error of the matching engine's."""
    return ApiError(-2010, msg)


INSUFFICIENT = "Account has insufficient balance for requested action."


class OrderList:
    """An OCO (two legs at once) or an OTO (a working order, then one leg or two)."""

    def __init__(self, list_id: int, client_id: str, contingency: str, symbol: str) -> None:
        self.id = list_id
        self.client_id = client_id
        self.contingency = contingency
        self.symbol = symbol
        self.working: Row | None = None
        self.legs: list[Row] = []
        self.done = False

    def rows(self) -> list[Row]:
        """Return its orders, the working one first."""
        return [self.working, *self.legs] if self.working is not None else list(self.legs)


class Row:
    """An order as Binance numbers it; ``order`` is ``None`` while it waits for its list's working order."""

    __slots__ = (
        "account",
        "ended",
        "in_list",
        "kind",
        "order",
        "order_id",
        "reason",
        "since",
        "terms",
        "updated",
        "wanted",
    )

    def __init__(self, order_id: int, account: VenueAccount, terms: Terms, now: datetime) -> None:
        self.order_id = order_id
        self.account = account
        self.terms = terms
        self.wanted = terms.wanted
        self.kind = terms.kind
        self.order: VenueOrder | None = None
        self.in_list: OrderList | None = None
        self.ended = ""  # a status the venue's own order does not tell
        self.reason = "NONE"
        self.since = self.updated = milliseconds(now)

    @property
    def status(self) -> str:
        """Return Binance's word for where it stands."""
        if self.ended:
            return self.ended
        return "PENDING_NEW" if self.order is None else _STATUS[self.order.status]

    @property
    def open(self) -> bool:
        """Say whether it may still fill."""
        return self.status in {"NEW", "PENDING_NEW", "PARTIALLY_FILLED"}

    @property
    def hidden(self) -> bool:
        """Say whether a fault keeps look-ups from seeing it."""
        return self.order is not None and self.order.key in self.account.hidden

    @property
    def cum_qty(self) -> Decimal:
        """Return what filled."""
        return ZERO if self.order is None else self.order.cum_qty

    @property
    def gross(self) -> Decimal:
        """Return the money of what filled."""
        return ZERO if self.order is None else self.order.gross


class Terms:
    """What a client asks for, checked as Binance checks it before its matching engine sees it."""

    __slots__ = ("kind", "tif", "wanted")

    def __init__(self, fields: Mapping[str, str], symbol: str, prefix: str, side: str, qty: str):
        self.kind = fields.get(_name(prefix, "type"), "")
        if self.kind not in TYPES:
            raise ApiError(-1116, "Invalid orderType.")
        if side not in {"BUY", "SELL"}:
            raise ApiError(-1117, "Invalid side.")
        for name in ("timeInForce", "price", "stopPrice"):
            key = _name(prefix, name)
            if name in _NEEDS[self.kind] and not fields.get(key):
                raise mandatory(key)
            if name not in _NEEDS[self.kind] and key in fields:
                raise ApiError(-1106, f"Parameter '{key}' sent when not required.")
        tif = fields.get(_name(prefix, "timeInForce"), "")
        if tif and tif not in _TIFS:
            raise ApiError(-1115, "Invalid timeInForce.")
        self.tif = tif or "GTC"
        kind = TYPES[self.kind]
        # What a market order, or a touched stop, cannot fill at once expires.
        time_in_force = _TIFS[self.tif] if kind.needs_limit else TimeInForce.IOC
        self.wanted = NewOrder(
            client_order_id=read_client_id(
                fields, _name(prefix, "clientOrderId") if prefix else "newClientOrderId"
            ),
            symbol=symbol,
            side=Side.BUY if side == "BUY" else Side.SELL,
            order_qty=_number(fields, qty) or ZERO,
            order_type=kind,
            time_in_force=time_in_force,
            limit_price=_number(fields, _name(prefix, "price")),
            stop_price=_number(fields, _name(prefix, "stopPrice")),
        )
        self._check_filters()

    def _check_filters(self) -> None:
        wanted = self.wanted
        rules = practice_instrument(wanted.symbol)
        step = lot_of(wanted.symbol)
        for price in (wanted.limit_price, wanted.stop_price):
            if price is not None and not is_multiple(price, rules.tick):
                raise ApiError(-1013, "Filter failure: PRICE_FILTER")
        quantity = wanted.order_qty
        if not step <= quantity <= MAX_QTY or not is_multiple(quantity, step):
            raise ApiError(-1013, "Filter failure: LOT_SIZE")

    def check_notional(self, last: Decimal) -> None:
        """Refuse an order that is worth too little."""
        price = self.wanted.limit_price or self.wanted.stop_price or last
        if self.wanted.order_qty * price < MIN_NOTIONAL:
            raise ApiError(-1013, "Filter failure: NOTIONAL")

    def check_market(self, last: Decimal) -> None:
        """Refuse what the matching engine refuses on sight."""
        wanted = self.wanted
        sign = wanted.side.sign
        if wanted.stop_price is not None and sign * (wanted.stop_price - last) <= 0:
            raise rejected("Order would trigger immediately.")
        if (
            self.kind == "LIMIT_MAKER"
            and wanted.limit_price is not None
            and sign * (wanted.limit_price - last) >= 0
        ):
            raise rejected("Order would immediately match and take.")


def _name(prefix: str, name: str) -> str:
    return prefix + name[0].upper() + name[1:] if prefix else name


def read_client_id(fields: Mapping[str, str], name: str) -> str:
    """Return a client id, empty if none was sent (the venue then makes one)."""
    text = fields.get(name, "")
    if text and not _CLIENT_ID.fullmatch(text):
        raise ApiError(
            -1100,
            f"Illegal characters found in parameter '{name}'; legal range is '{CLIENT_ID}'.",
        )
    return text


def _number(fields: Mapping[str, str], name: str) -> Decimal | None:
    text = fields.get(name)
    if text is None:
        return None
    try:
        value = parse_decimal(text)
    except ValueError:
        raise ApiError(
            -1100,
            f"Illegal characters found in parameter '{name}'; "
            r"legal range is '^([0-9]{1,20})(\.[0-9]{1,20})?$'.",
        ) from None
    if not is_multiple(value, _FINEST):
        raise ApiError(-1111, f"Parameter '{name}' has too much precision.")
    if not value:
        raise mandatory(name)
    return value


def assets_of(symbol: str) -> tuple[str, str]:
    """Return base and quote asset; what is no pair is quoted in USDT."""
    for quote in QUOTES:
        if symbol.endswith(quote) and len(symbol) > len(quote):
            return symbol[: -len(quote)].rstrip("/"), quote
    return symbol, "USDT"


def lot_of(symbol: str) -> Decimal:
    """Return the step of quantities: whole units, or 0.00001 of a pair."""
    return max(practice_instrument(symbol).lot, ZERO) if not _is_pair(symbol) else _PAIR_STEP


def _is_pair(symbol: str) -> bool:
    return practice_instrument(symbol).lot < 1


def fixed(value: Decimal | None) -> str:
    """Write a number with Binance's eight decimals."""
    return f"{value or ZERO:.8f}"


def milliseconds(moment: datetime) -> int:
    """Return a stamp in milliseconds."""
    return int(moment.timestamp() * 1000)
