"""Orders as Alpaca's clients ask for them: every field checked as Alpaca checks it."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import replace
from decimal import Decimal
from typing import Any

from engine.model.enums import OrderType, Side, TimeInForce
from engine.model.identifiers import SYMBOL
from engine.model.matching import practice_instrument
from engine.model.numbers import is_multiple, to_text
from engine.simbroker.alpaca_words import (
    ApiError,
    invalid,
    is_crypto,
    read_number,
    read_price,
)
from engine.simbroker.orders import Exit, NewOrder, new_id, trailing_stop_price
from engine.simbroker.venue import Venue

MAX_CLIENT_ID = 48
_CENT = Decimal("0.01")
_WHOLE = Decimal(100)
_FINEST_QTY = Decimal("1e-9")
_CRYPTO_TIF = frozenset({TimeInForce.GTC, TimeInForce.IOC})
_EXITS_TIF = frozenset({TimeInForce.GTC, TimeInForce.DAY})


class OrderReader:
    """Reads orders; symbols that match ``unknown_symbols`` are not traded."""

    def __init__(self, venue: Venue, unknown_symbols: str) -> None:
        self._venue = venue
        self._unknown = re.compile(unknown_symbols) if unknown_symbols else None

    def known(self, symbol: str) -> bool:
        """Say whether a symbol can be traded."""
        if not SYMBOL.fullmatch(symbol):
            return False
        return self._unknown is None or not self._unknown.fullmatch(symbol)

    def read(self, fields: Mapping[str, Any]) -> NewOrder:
        """Read one order.

        Raises:
            ApiError: a field is missing or wrong.
        """
        symbol = self._read_symbol(fields.get("symbol"))
        order_class = fields.get("order_class") or "simple"
        if order_class not in {"simple", "bracket", "oto", "oco"}:
            raise invalid(f"invalid order_class {order_class}")
        try:
            side = Side(str(fields.get("side")))
        except ValueError:
            raise ApiError(422, 40010001, "invalid side") from None
        order_type, trail = _read_type(fields)
        wanted = NewOrder(
            client_order_id=_read_client_id(fields),
            symbol=symbol,
            side=side,
            order_qty=_read_qty(symbol, fields),
            order_type=order_type,
            time_in_force=_read_time_in_force(symbol, fields.get("time_in_force")),
            limit_price=read_price(fields, "limit_price"),
            stop_price=read_price(fields, "stop_price"),
            trail_percent=trail,
        )
        if trail is not None:
            return self._trailing(wanted)
        if order_class != "simple":
            wanted = self._with_exits(wanted, str(order_class), fields)
        _check_prices(wanted)
        return wanted

    def _read_symbol(self, symbol: object) -> str:
        if not isinstance(symbol, str) or not symbol:
            raise ApiError(422, 40010001, "symbol is required")
        if not self.known(symbol):
            raise ApiError(422, 40010001, f'could not find us_equity "{symbol[:40]}"')
        return symbol

    def _trailing(self, wanted: NewOrder) -> NewOrder:
        if wanted.stop_price is not None or wanted.limit_price is not None:
            raise invalid("trailing_stop orders must not have limit_price or stop_price")
        assert wanted.trail_percent is not None
        market = self._venue.market.listing(wanted.symbol).price
        stop = trailing_stop_price(wanted.side, market, wanted.trail_percent)
        return replace(wanted, stop_price=stop)

    def _with_exits(
        self, wanted: NewOrder, order_class: str, fields: Mapping[str, Any]
    ) -> NewOrder:
        """Add the legs of ``take_profit`` and ``stop_loss``."""
        if wanted.time_in_force not in _EXITS_TIF or is_crypto(wanted.symbol):
            raise invalid(f"{order_class} orders must be day or gtc, and not crypto")
        target = _read_leg(fields, "take_profit", ("limit_price",))
        stop = _read_leg(fields, "stop_loss", ("stop_price", "limit_price"))
        needed = 1 if order_class == "oto" else 2
        if (target is not None) + (stop is not None) != needed:
            legs = "take_profit or stop_loss" if needed == 1 else "take_profit and stop_loss"
            raise invalid(f"{order_class} orders require {legs} (order_class {order_class})")
        tif = wanted.time_in_force
        exits = tuple(
            Exit(leg.get("limit_price"), leg.get("stop_price"), new_id(), tif)
            for leg in (target, stop)
            if leg is not None
        )
        if order_class == "oco":
            assert target is not None
            wanted = replace(
                wanted,
                order_type=OrderType.LIMIT,
                limit_price=target["limit_price"],
                exits=exits[1:],
                one_cancels_other=True,
            )
        else:
            wanted = replace(wanted, exits=exits)
            self._check_base(wanted, target, stop)
        _check_sides(wanted, target, stop)
        return wanted

    def _check_base(
        self,
        wanted: NewOrder,
        target: Mapping[str, Decimal] | None,
        stop: Mapping[str, Decimal] | None,
    ) -> None:
        """Check that the exits lie on their sides of where the entry fills."""
        base = wanted.limit_price or self._venue.market.listing(wanted.symbol).price
        sign = wanted.side.sign
        if target is not None and sign * (target["limit_price"] - base) < _CENT:
            raise invalid(
                f"take_profit.limit_price must be {'>=' if sign > 0 else '<='} base_price "
                f"{'+' if sign > 0 else '-'} 0.01"
            )
        if stop is not None and sign * (base - stop["stop_price"]) < _CENT:
            raise invalid(
                f"stop_loss.stop_price must be {'<=' if sign > 0 else '>='} base_price "
                f"{'-' if sign > 0 else '+'} 0.01"
            )


def _check_sides(
    wanted: NewOrder, target: Mapping[str, Decimal] | None, stop: Mapping[str, Decimal] | None
) -> None:
    exit_sign = wanted.side.sign if wanted.one_cancels_other else -wanted.side.sign
    if target is None or stop is None:
        return
    if exit_sign * (stop["stop_price"] - target["limit_price"]) <= 0:
        order = "<" if exit_sign < 0 else ">"
        raise invalid(f"stop_loss.stop_price must be {order} take_profit.limit_price")


def _read_leg(
    fields: Mapping[str, Any], name: str, prices: tuple[str, ...]
) -> Mapping[str, Decimal] | None:
    """Read ``take_profit`` or ``stop_loss``; the first of ``prices`` is required."""
    leg = fields.get(name)
    if leg is None:
        return None
    if not isinstance(leg, Mapping):
        raise invalid(f"{name} must be an object")
    found = {price: read_price(leg, price) for price in prices}
    if found[prices[0]] is None:
        raise invalid(f"{name}.{prices[0]} is required")
    return {price: value for price, value in found.items() if value is not None}


def _read_type(fields: Mapping[str, Any]) -> tuple[OrderType, Decimal | None]:
    """Return the order's type, and the distance of one that trails."""
    if fields.get("type") == "trailing_stop":
        trail = read_number(fields, "trail_percent")
        if trail is None or fields.get("trail_price") is not None or trail >= _WHOLE:
            raise invalid("trailing_stop orders require trail_percent below 100, not trail_price")
        return OrderType.STOP, trail
    try:
        return OrderType(str(fields.get("type"))), None
    except ValueError:
        raise ApiError(422, 40010001, "invalid order type") from None


def _read_client_id(fields: Mapping[str, Any]) -> str:
    client_id = fields.get("client_order_id")
    if client_id is None or client_id == "":
        return new_id()
    if not isinstance(client_id, str) or len(client_id) > MAX_CLIENT_ID:
        raise ApiError(
            422, 40010001, f"client_order_id must be no more than {MAX_CLIENT_ID} characters"
        )
    return client_id


def _read_time_in_force(symbol: str, value: object) -> TimeInForce:
    try:
        time_in_force = TimeInForce(str(value))
    except ValueError:
        raise invalid("invalid time_in_force") from None
    if is_crypto(symbol) and time_in_force not in _CRYPTO_TIF:
        raise invalid("invalid crypto time_in_force")
    return time_in_force


def _read_qty(symbol: str, fields: Mapping[str, Any]) -> Decimal:
    quantity = read_number(fields, "qty")
    if quantity is None:
        if fields.get("notional") is not None:
            raise invalid("the simulated venue takes qty, not notional")
        raise invalid("qty or notional is required")
    if not is_multiple(quantity, _FINEST_QTY):
        raise invalid("qty must be limited to 9 decimal places")
    lot = practice_instrument(symbol).lot
    if lot == 1 and not is_multiple(quantity, lot):
        raise ApiError(403, 40310000, f'asset "{symbol}" is not fractionable')
    if not is_multiple(quantity, lot):
        raise invalid(f"qty must be a multiple of {to_text(lot)}")
    return quantity


def _check_prices(wanted: NewOrder) -> None:
    kind = wanted.order_type
    for name, price, needed in (
        ("limit_price", wanted.limit_price, kind.needs_limit),
        ("stop_price", wanted.stop_price, kind.needs_stop),
    ):
        if needed and price is None:
            raise invalid(f"{kind} orders require {name}")
        if price is not None and not needed:
            raise invalid(f"{kind} orders must not have {name}")
