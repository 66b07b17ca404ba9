"""How much each account trades: once per signal the prices, per account one multiplication and a rounding."""

from __future__ import annotations

from dataclasses import dataclass
from decimal import Decimal

from engine.model.account import Sizing
from engine.model.enums import Side
from engine.model.instrument import Instrument
from engine.model.numbers import floor_to, to_text
from engine.model.signal import Signal

Denied = tuple[str, str]
_HUNDRED = Decimal(100)


@dataclass(frozen=True, slots=True)
class Prices:
    """What a signal's sizes are reckoned from. ``entry`` is the signal's own price or the market's."""

    entry: Decimal | None
    risk_per_unit: Decimal | None  # |entry - stop loss|, when the stop lies on the losing side
    reward_risk: Decimal | None
    problem: Denied | None = None  # why nothing that needs the stop can be sized


def prices_of(signal: Signal, market: Decimal | None) -> Prices:
    """Work out a signal's prices once."""
    entry = signal.entry_price or market
    stop, side = signal.stop_loss, signal.side
    if entry is None or stop is None or side is None:
        return Prices(entry, None, None)
    risk = (entry - stop) * side.sign
    if risk <= 0:
        where = "below" if side is Side.BUY else "above"
        return Prices(
            entry,
            None,
            None,
            ("STOP_SIDE", f"stop_loss {to_text(stop)} must lie {where} the entry {to_text(entry)}"),
        )
    target = signal.take_profit
    reward = (target - entry) * side.sign if target is not None else None
    return Prices(entry, risk, reward / risk if reward is not None else None)


def size(
    sizing: Sizing, signal: Signal, prices: Prices, equity: Decimal | None, instrument: Instrument
) -> Decimal | Denied:
    """Return the quantity for one account, rounded down to the lot, or why there is none."""
    raw = _raw(sizing, signal, prices, equity, instrument)
    if isinstance(raw, tuple):
        return raw
    quantity = floor_to(raw, instrument.lot)
    if quantity <= 0 or quantity < instrument.min_qty:
        return (
            "QTY_MIN",
            f"{raw:.9f} rounds down to {to_text(quantity)} < {to_text(instrument.min_qty)}",
        )
    return quantity


def _raw(
    sizing: Sizing, signal: Signal, prices: Prices, equity: Decimal | None, instrument: Instrument
) -> Decimal | Denied:
    method = sizing.method
    if method == "fixed":
        assert sizing.quantity is not None
        return sizing.quantity
    if method in {"signal", "multiplier"}:
        if signal.quantity is None:
            return (
                "NO_QUANTITY",
                f"sizing method {method} needs the signal's quantity and it has none",
            )
        return signal.quantity * (sizing.factor or 1)
    if method == "notional":
        assert sizing.value is not None
        return _units(sizing.value, prices.entry, instrument)
    budget = _budget(sizing, equity)
    if isinstance(budget, tuple):
        return budget
    if method == "percent_equity":
        return _units(budget, prices.entry, instrument)
    if prices.problem is not None:
        return prices.problem
    if prices.risk_per_unit is None:
        return (
            "NO_STOP",
            "sizing method risk_percent needs a stop_loss and an entry or market price",
        )
    return budget / (prices.risk_per_unit * instrument.multiplier)


def _budget(sizing: Sizing, equity: Decimal | None) -> Decimal | Denied:
    """Return the share of equity to trade with."""
    assert sizing.percent is not None
    if equity is None:
        return (
            "NO_EQUITY",
            f"sizing method {sizing.method} needs the account's equity, which its broker has not told yet",
        )
    if not equity.is_finite():
        return "INEXACT", f"the equity the broker has told, {equity}, is not a number"
    budget = equity * sizing.percent / _HUNDRED
    if budget <= 0:
        return (
            "NO_EQUITY",
            f"{to_text(sizing.percent)} % of equity {to_text(equity)} is nothing to trade with",
        )
    return budget


def _units(value: Decimal, price: Decimal | None, instrument: Instrument) -> Decimal | Denied:
    if price is None:
        return "REF_MISSING", "there is no price to turn an amount of money into a quantity"
    return value / (price * instrument.multiplier)
