"""Exact numbers: Decimal in, Decimal out, never through a float."""

from __future__ import annotations

import decimal
import re
from decimal import ROUND_HALF_EVEN, Decimal

# Products of two numbers of 18.12 digits have up to 60 digits: with 28, Decimal's default, money would be
# rounded unseen. Set for this thread and, by DefaultContext, for every thread started later.
PRECISION = 72
decimal.DefaultContext.prec = PRECISION
decimal.getcontext().prec = PRECISION

ZERO = Decimal(0)
# At most 18 digits before and 12 after the point: every price and quantity a market quotes.
_DECIMAL = re.compile(r"[0-9]{1,18}(?:\.[0-9]{1,12})?", re.ASCII)
_SIGNED = re.compile(r"-?[0-9]{1,18}(?:\.[0-9]{1,12})?", re.ASCII)


def parse_decimal(text: str) -> Decimal:
    """Read an unsigned number in plain decimal notation.

    Raises:
        ValueError: exponent, sign, underscore, blank, non-ASCII digit, NaN, infinity or too many digits.
    """
    if not _DECIMAL.fullmatch(text):
        raise ValueError(f"{text[:40]!r} is not a plain decimal number of at most 18.12 digits")
    return Decimal(text)


def parse_signed(text: str) -> Decimal:
    """Read a number in plain decimal notation that may carry a minus sign (balances, P&L)."""
    if not _SIGNED.fullmatch(text):
        raise ValueError(f"{text[:40]!r} is not a plain decimal number of at most 18.12 digits")
    return Decimal(text)


def to_text(value: Decimal) -> str:
    """Write a Decimal in plain notation, without exponent and without trailing zeros."""
    text = str(value)  # half the time of format(), and the same but for exponents
    if "E" in text:
        text = format(value, "f")
    if "." in text:
        text = text.rstrip("0").rstrip(".")
    return "0" if text in {"-0", ""} else text


def floor_to(value: Decimal, step: Decimal) -> Decimal:
    """Round towards zero to a multiple of ``step`` (lots: never round up into more risk)."""
    return value // step * step


def nearest(value: Decimal, step: Decimal) -> Decimal:
    """Round to the nearest multiple of ``step``, halves to even (marks and displays, never limits)."""
    return (value / step).to_integral_value(ROUND_HALF_EVEN) * step


def is_multiple(value: Decimal, step: Decimal) -> bool:
    """Say whether ``value`` lies on the grid of ``step``."""
    return value % step == 0
