"""Checks of an order before it may exist: pure functions, a code and a sentence or nothing."""

from __future__ import annotations

from decimal import Decimal

from engine.model.account import Limits
from engine.model.enums import Side
from engine.model.instrument import Instrument
from engine.model.numbers import is_multiple, to_text

Denied = tuple[str, str] | None
_HUNDRED = Decimal(100)


def quantity(order_qty: Decimal, limits: Limits) -> Denied:
    """Check the account's largest quantity."""
    most = limits.max_order_quantity
    if most is None or order_qty <= most:
        return None
    return "QTY_MAX", f"{to_text(order_qty)} > {to_text(most)}"


def value(
    order_qty: Decimal, price: Decimal | None, instrument: Instrument, limits: Limits
) -> Denied:
    """Check the account's largest order value; without a price the value cannot be proven small enough."""
    most = limits.max_order_value
    if most is None:
        return None
    if price is None:
        return "REF_MISSING", "there is no price to check max_order_value with"
    worth = order_qty * price * instrument.multiplier
    if worth <= most:
        return None
    return "VALUE_MAX", f"{to_text(order_qty)} × {to_text(price)} = {worth:.2f} > {to_text(most)}"


def collar(price: Decimal, reference: Decimal, percent: Decimal) -> Denied:
    """Check that ``price`` lies within ±``percent`` of ``reference``."""
    away = abs(price - reference) / reference * _HUNDRED
    if away <= percent:
        return None
    return (
        "COLLAR",
        f"{to_text(price)} is {away:.2f} % from the reference {to_text(reference)}, allowed are {to_text(percent)} %",
    )


def drift(market: Decimal, intended: Decimal, percent: Decimal) -> Denied:
    """Check that the market is still near the price the producer decided on."""
    away = abs(market - intended) / intended * _HUNDRED
    if away <= percent:
        return None
    moved = f"{away:.2f} % > {to_text(percent)} % from the producer's {to_text(intended)}"
    return "DRIFT", f"the market is at {to_text(market)}, {moved}"


def tick(price: Decimal | None, instrument: Instrument) -> Denied:
    """Check that a price lies on the instrument's grid."""
    if price is None or is_multiple(price, instrument.tick):
        return None
    return "TICK", f"{to_text(price)} is not a multiple of {to_text(instrument.tick)}"


def tradable(order_qty: Decimal, price: Decimal | None, instrument: Instrument) -> Denied:
    """Check what the broker would refuse: a symbol not traded now, too large or too small an order."""
    if not instrument.tradable:
        return "NOT_TRADABLE", f"the broker does not trade {instrument.symbol} now"
    if instrument.max_qty and order_qty > instrument.max_qty:
        return "QTY_MAX", f"{to_text(order_qty)} > the broker's {to_text(instrument.max_qty)}"
    if instrument.min_notional and price is not None:
        worth = order_qty * price * instrument.multiplier
        if worth < instrument.min_notional:
            return "VALUE_MIN", f"{worth:.8g} < the broker's {to_text(instrument.min_notional)}"
    return None


def fan_out(orders: int, worth: Decimal, most_orders: int, most_worth: Decimal) -> Denied:
    """Check one signal's reach; over the cap none of its orders is sent."""
    if orders > most_orders:
        return "FANOUT_ACCOUNTS", f"{orders} accounts > {most_orders}"
    if worth <= most_worth:
        return None
    return "FANOUT_VALUE", f"{worth:.2f} > {to_text(most_worth)}"


def exit_sides(
    side: Side, price: Decimal, stop_loss: Decimal | None, take_profit: Decimal | None
) -> Denied:
    """Refuse exits on the wrong side of ``price``: they would close a position of ``side`` at once."""
    losing, winning = ("below", "above") if side is Side.BUY else ("above", "below")
    if stop_loss is not None and (price - stop_loss) * side.sign <= 0:
        text = f"stop_loss {to_text(stop_loss)} must lie {losing} {to_text(price)}"
        return "STOP_SIDE", text
    if take_profit is not None and (take_profit - price) * side.sign <= 0:
        text = f"take_profit {to_text(take_profit)} must lie {winning} {to_text(price)}"
        return "TARGET_SIDE", text
    return None
