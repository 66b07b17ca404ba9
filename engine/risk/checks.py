"""Checks of an order before it may exist: pure functions, a code and a sentence or nothing."""

from __future__ import annotations

from decimal import Decimal

from engine.model.account import Limits
from engine.model.enums import Side
from engine.model.instrument import Instrument
from engine.model.numbers import ZERO, is_multiple, to_text

Denied = tuple[str, str] | None
_HUNDRED = Decimal(100)
_DIGITS = 18  # as many as engine.model.numbers reads before the point, and more than after it


def exact(order_qty: Decimal, price: Decimal | None) -> Denied:
    """Refuse numbers that are none: this comes before every comparison, which NaN would break (control C16)."""
    for name, number in (("quantity", order_qty), ("price", price)):
        if number is not None and not is_plain(number):
            return "INEXACT", f"{name} {number} is not a plain number greater than 0"
    return None


def exact_instrument(instrument: Instrument) -> Denied:
    """Refuse what no broker can mean: steps that are not above zero, bounds below it."""
    for name in ("lot", "tick", "multiplier"):
        number = getattr(instrument, name)
        if not is_plain(number):
            text = f"the broker's {name} {number} of {instrument.symbol} is not a number greater than 0"
            return "INEXACT", text
    for name in ("min_qty", "max_qty", "min_notional"):
        number = getattr(instrument, name)
        if not number.is_finite() or number < 0:
            text = (
                f"the broker's {name} {number} of {instrument.symbol} is not a number of at least 0"
            )
            return "INEXACT", text
    return None


def is_plain(number: Decimal) -> bool:
    """Say whether a number can be a price or a quantity: finite, above zero, of no more digits than are read."""
    return number.is_finite() and number > 0 and abs(number.adjusted()) <= _DIGITS


def lot(order_qty: Decimal, instrument: Instrument) -> Denied:
    """Check a quantity written by hand: nothing is rounded for it."""
    if not is_multiple(order_qty, instrument.lot):
        text = (
            f"quantity {to_text(order_qty)} is not a multiple of the lot {to_text(instrument.lot)}"
        )
        return "INEXACT", text
    if order_qty < instrument.min_qty:
        return "QTY_MIN", f"{to_text(order_qty)} < {to_text(instrument.min_qty)}"
    return None


def quantity(order_qty: Decimal, limits: Limits, before: Decimal = ZERO) -> Denied:
    """Check the account's largest quantity; ``before``: what the same decision ordered in the last minute."""
    most = limits.max_order_quantity
    if most is None or order_qty + before <= most:
        return None
    slices = f"{to_text(before)} within a minute + " if before else ""
    return "QTY_MAX", f"{slices}{to_text(order_qty)} > {to_text(most)}"


def value(
    order_qty: Decimal,
    price: Decimal | None,
    instrument: Instrument,
    limits: Limits,
    before: Decimal = ZERO,
) -> Denied:
    """Check the account's largest order value; without a price the value cannot be proven small enough.

    ``before``: the value that the same decision ordered in the last minute.
    """
    most = limits.max_order_value
    if most is None:
        return None
    if price is None:
        return "REF_MISSING", "there is no price to check max_order_value with"
    worth = order_qty * price * instrument.multiplier
    if worth + before <= most:
        return None
    slices = f"{before:.2f} within a minute + " if before else ""
    sentence = f"{slices}{to_text(order_qty)} × {to_text(price)} = {worth + before:.2f}"
    return "VALUE_MAX", f"{sentence} > {to_text(most)}"


def collar(price: Decimal, reference: Decimal, percent: Decimal) -> Denied:
    """Check that ``price`` lies within ±``percent`` of ``reference``."""
    if not is_plain(reference):
        return "REF_MISSING", f"the reference {reference} is no price"
    if not is_plain(price):
        return "INEXACT", f"price {price} is not a plain number greater than 0"
    away = abs(price - reference) / reference * _HUNDRED
    if away <= percent:
        return None
    return (
        "COLLAR",
        f"{to_text(price)} is {away:.2f} % from the reference {to_text(reference)}, allowed are {to_text(percent)} %",
    )


def drift(market: Decimal, intended: Decimal, percent: Decimal) -> Denied:
    """Check that the market is still near the price the producer decided on."""
    if not is_plain(market) or not is_plain(intended):
        return "REF_MISSING", f"{market} against {intended}: one of them is no price"
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
