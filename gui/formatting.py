"""Turning rows into text a trader reads at a glance: one formatter for every number and time.

Values arrive as decimal text and are shown as they are, grouped with thin spaces and a real minus sign; they
become floats only for comparing, sorting and drawing, never for anything that is sent.
"""

from __future__ import annotations

from datetime import UTC, datetime
from decimal import Decimal, InvalidOperation
from functools import lru_cache
from typing import Any

_QUANTITY_PLACES = 6
THIN = "\u202f"  # narrow, and no line breaks at it
MINUS = "\u2212"
NONE = "–"
UP, DOWN = "▲", "▼"


def number(value: object) -> float | None:
    """Return a float for comparing and drawing, or ``None`` where there is no number."""
    if value is None or value == "" or isinstance(value, bool):
        return None
    try:
        return float(value)  # type: ignore[arg-type]
    except (TypeError, ValueError):
        return None


def _group(digits: str) -> str:
    head = len(digits) % 3
    parts = [digits[:head]] if head else []
    parts += [digits[at : at + 3] for at in range(head, len(digits), 3)]
    return THIN.join(parts)


def _write(value: Decimal, places: int | None) -> str:
    if places is not None:
        value = round(value, places)
    whole, _, fraction = format(abs(value), "f").partition(".")
    return _group(whole) + ("." + fraction if fraction else "")


@lru_cache(maxsize=65536)
def decimal_text(text: str, places: int | None = None, signed: bool = False) -> str:
    """Write decimal text for people: ``places`` fixed decimals or as given, ``signed`` with a plus."""
    try:
        value = Decimal(text)
    except (InvalidOperation, ValueError):
        return text
    body = _write(value, places)
    nothing = not any(digit in body for digit in "123456789")
    if value < 0 and not nothing:
        return MINUS + body
    return "+" + body if signed and not nothing else body


def money(value: object, *, signed: bool = False, places: int = 2) -> str:
    """Write an amount with fixed decimals (``1 234.50``)."""
    return NONE if value is None or value == "" else decimal_text(str(value), places, signed)


def compact_money(value: object, *, signed: bool = False) -> str:
    """Write an amount for a small place: whole units from ten thousand up."""
    amount = number(value)
    if amount is None:
        return NONE
    return money(value, signed=signed, places=0 if abs(amount) >= 10_000 else 2)


def quantity(value: object) -> str:
    """Write a quantity as it is, without padding."""
    return NONE if value is None or value == "" else decimal_text(_trimmed(str(value)))


def short_quantity(value: object) -> str:
    """Write a quantity for a narrow place: six decimals, all of them where fewer would show nothing."""
    if value is None or value == "":
        return NONE
    text = _trimmed(str(value))
    if len(text.partition(".")[2]) <= _QUANTITY_PLACES:
        return decimal_text(text)
    short = decimal_text(text, _QUANTITY_PLACES)
    return short if any(digit in short for digit in "123456789") else decimal_text(text)


def average_price(value: object) -> str:
    """Write a price that was computed: two decimals from a thousand up, four from one up, else as it is."""
    amount = number(value)
    if amount is None or abs(amount) < 1:
        return price(value)
    text = _trimmed(str(value))
    most = 2 if abs(amount) >= 1_000 else 4
    return decimal_text(text, max(2, min(len(text.partition(".")[2]), most)))


def price(value: object) -> str:
    """Write a price with at least two decimals and every decimal it has."""
    if value is None or value == "":
        return NONE
    text = str(value)
    fraction = _trimmed(text).partition(".")[2]
    return decimal_text(text, max(2, min(len(fraction), 8)))


def _trimmed(text: str) -> str:
    return text.rstrip("0").rstrip(".") if "." in text else text


def count(value: object) -> str:
    """Write a whole number; nothing for zero would hide a fact, so zero is shown."""
    return NONE if value is None or value == "" else decimal_text(str(value))


def quiet_count(value: object) -> str:
    """Write a whole number, a faint dot for zero: columns of zeros are noise."""
    return "·" if value in (0, "0", None, "") else decimal_text(str(value))


def micros(value: object) -> str:
    """Write a latency in microseconds: ``412 µs``, ``1.32 ms``, ``2.10 s``."""
    us = number(value)
    if us is None:
        return NONE
    if us < 1_000:
        return f"{us:.0f} µs"
    if us < 1_000_000:
        places = 2 if us < 10_000 else (1 if us < 100_000 else 0)
        return f"{us / 1_000:.{places}f} ms"
    return f"{us / 1_000_000:.2f} s"


def age(seconds: float | None) -> str:
    """Write how old something is: ``0.4 s``, ``12 s``, ``3 m 20 s``, ``42 m``, ``2 h 05 m``."""
    if seconds is None:
        return NONE
    seconds = max(0.0, seconds)
    if seconds < 9.95:
        return f"{seconds:.1f} s"
    whole = int(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 600:
        return f"{whole // 60} m {whole % 60:02d} s"
    if whole < 3_600:
        return f"{whole // 60} m"
    if whole < 86_400:
        return f"{whole // 3_600} h {whole % 3_600 // 60:02d} m"
    return f"{whole // 86_400} d {whole % 86_400 // 3_600:02d} h"


def countdown(seconds: float | None) -> str:
    """Write what is left of a time limit."""
    return NONE if seconds is None or seconds <= 0 else age(seconds)


@lru_cache(maxsize=65536)
def epoch(stamp: str | None) -> float | None:
    """Read an RFC 3339 stamp as seconds since 1970, or ``None``."""
    if not stamp:
        return None
    try:
        moment = datetime.fromisoformat(stamp)
    except ValueError:
        return None
    return (moment if moment.tzinfo else moment.replace(tzinfo=UTC)).timestamp()


class Times:
    """How stamps are written: in UTC or in this machine's zone; one switch for the whole desk."""

    utc = False

    @classmethod
    def clock(cls, stamp: str | None, *, millis: bool = False) -> str:
        """Write the time of day of a stamp."""
        return clock_text(stamp, cls.utc, millis)

    @classmethod
    def full(cls, stamp: str | None) -> str:
        """Write date, time and zone of a stamp."""
        seconds = epoch(stamp)
        if seconds is None:
            return NONE
        moment = datetime.fromtimestamp(seconds, UTC)
        moment = moment if cls.utc else moment.astimezone()
        return f"{moment:%Y-%m-%d %H:%M:%S}.{moment.microsecond // 1000:03d} {moment:%Z}"

    @classmethod
    def now(cls) -> str:
        """Write the time of day now, with its zone."""
        moment = datetime.now(UTC)
        return f"{moment:%H:%M:%S} UTC" if cls.utc else f"{moment.astimezone():%H:%M:%S %Z}"


@lru_cache(maxsize=65536)
def clock_text(stamp: str | None, utc: bool, millis: bool) -> str:
    """Write the time of day of a stamp in UTC or local time."""
    seconds = epoch(stamp)
    if seconds is None:
        return NONE
    moment = datetime.fromtimestamp(seconds, UTC)
    moment = moment if utc else moment.astimezone()
    text = f"{moment:%H:%M:%S}"
    return f"{text}.{moment.microsecond // 1000:03d}" if millis else text


def words(value: object) -> str:
    """Write an enumeration's word for people: ``partially_filled`` → ``Partially filled``."""
    text = str(value or "").replace("_", " ")
    return text[:1].upper() + text[1:] if text else NONE


def side(value: object) -> str:
    """Write a side or action with its arrow, so that colour is never alone."""
    word = str(value or "")
    arrow = {"buy": UP + " ", "sell": DOWN + " ", "close": "■ ", "cancel": "✕ ", "modify": "◆ "}
    return arrow.get(word, "") + words(word)


def arrow(value: object) -> str:
    """Return the glyph that goes with a signed number."""
    amount = number(value)
    return "" if not amount else (UP if amount > 0 else DOWN)


def pnl(value: object) -> str:
    """Write a profit or loss: sign, two decimals."""
    return money(value, signed=True)


def tone_of(value: object) -> str:
    """Return the tone of a signed number: ``pos``, ``neg`` or none."""
    amount = number(value)
    return "" if not amount else ("pos" if amount > 0 else "neg")


def csv_cell(value: Any) -> str:
    """Return a raw value as a CSV cell that no spreadsheet runs as a formula."""
    if value is None:
        return ""
    if isinstance(value, (list, tuple)):
        value = " ".join(str(item) for item in value)
    text = str(value)
    if text[:1] in {"=", "+", "-", "@", "\t", "\r"} and number(text) is None:
        return "'" + text
    return text
