"""Turning rows into text a trader reads at a glance: one formatter for every number and time.

Values arrive as decimal text and are shown as they are, grouped with thin spaces and a real minus sign; they
become floats only for comparing, sorting and drawing, never for anything that is sent.
"""

from __future__ import annotations

import locale
import re
from collections.abc import Iterable
from datetime import UTC, datetime, tzinfo
from decimal import Decimal, InvalidOperation
from functools import lru_cache
from typing import ClassVar
from zoneinfo import ZoneInfo

_QUANTITY_PLACES = 6
THIN = "\u202f"  # narrow, and no line breaks at it
MINUS = "\u2212"
NONE = "–"
UP, DOWN = "▲", "▼"
MASK = "•••"


class Numbers:
    """How numbers are written: what groups the thousands and what begins the decimals.

    Only what is shown: what people type and what is copied into a field stays plain, ``1234.5``.
    """

    STYLES: ClassVar[dict[str, tuple[str, str]]] = {
        "thin": (THIN, "."),
        "comma": (",", "."),
        "dot": (".", ","),
        "space_comma": (THIN, ","),
        "apostrophe": ("’", "."),
        "plain": ("", "."),
    }
    thousands = THIN
    decimal = "."

    @classmethod
    def use(cls, style: str) -> None:
        """Write numbers in a style from now on; ``system`` asks the machine's locale."""
        cls.thousands, cls.decimal = (
            _of_locale() if style == "system" else cls.STYLES.get(style, cls.STYLES["thin"])
        )
        decimal_text.cache_clear()


def _of_locale() -> tuple[str, str]:
    """Return the separators of the machine's locale, which this process is not switched to for longer than that."""
    before = locale.setlocale(locale.LC_NUMERIC)
    try:
        locale.setlocale(locale.LC_NUMERIC, "")
        known = locale.localeconv()
    except locale.Error:
        return Numbers.STYLES["thin"]
    finally:
        locale.setlocale(locale.LC_NUMERIC, before)
    thousands = str(known["thousands_sep"])
    blank = not thousands.strip()
    return THIN if blank else thousands, str(known["decimal_point"]) or "."


def _plain(text: str) -> str:
    """Return a written float with the decimal separator in force."""
    return text if Numbers.decimal == "." else text.replace(".", Numbers.decimal)


class Privacy:
    """Whether money and account names are masked, for a screen that others see.

    Every account has a number for that time (``#3``), so that rows can still be told apart.
    """

    on = False
    _aliases: ClassVar[dict[str, str]] = {}
    _numbered: ClassVar[int] = 0
    _known: ClassVar[re.Pattern[str] | None] = None

    @classmethod
    def know(cls, accounts: Iterable[tuple[str, ...]]) -> None:
        """Learn which words are accounts; the words of each (its id, its name) get one number."""
        before = len(cls._aliases)
        for words_of_one in accounts:
            fresh = [word for word in words_of_one if word and word not in cls._aliases]
            cls._numbered += bool(fresh)
            cls._aliases.update(dict.fromkeys(fresh, f"#{cls._numbered}"))
        if len(cls._aliases) > before:
            longest_first = sorted(cls._aliases, key=len, reverse=True)
            words = "|".join(map(re.escape, longest_first))
            cls._known = re.compile(rf"(?<![\w.-])(?:{words})(?![\w-])")

    @classmethod
    def veil(cls, text: str) -> str:
        """Return a text with every account in it masked, as long as privacy is on."""
        if not cls.on or cls._known is None or not text:
            return text
        return cls._known.sub(lambda found: cls._aliases[found[0]], text)


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
    return Numbers.thousands.join(parts)


def _write(value: Decimal, places: int | None) -> str:
    if places is not None:
        value = round(value, places)
    whole, _, fraction = format(abs(value), "f").partition(".")
    return _group(whole) + (Numbers.decimal + fraction if fraction else "")


@lru_cache(maxsize=4_096)  # a few screens: prices come and never return
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
    if value is None or value == "":
        return NONE
    return MASK if Privacy.on else decimal_text(str(value), places, signed)


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
        return _plain(f"{us / 1_000:.{places}f} ms")
    return _plain(f"{us / 1_000_000:.2f} s")


def age(seconds: float | None) -> str:
    """Write how old something is: ``0.4 s``, ``12 s``, ``3 m 20 s``, ``42 m``, ``2 h 05 m``."""
    if seconds is None:
        return NONE
    seconds = max(0.0, seconds)
    if seconds < 9.95:
        return _plain(f"{seconds:.1f} s")
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


def whole_age(seconds: float | None) -> str:
    """Write how old something is in whole seconds: ``< 1 s``, ``4 s``, ``12 s``."""
    if seconds is None or seconds >= 9.95:
        return age(seconds)
    return f"{int(seconds)} s" if seconds >= 1 else "< 1 s"


def in_tenths(text: str) -> bool:
    """Say whether an age is written with tenths of a second: it is another one several times a second."""
    return text.endswith(" s") and Numbers.decimal in text


def countdown(seconds: float | None) -> str:
    """Write what is left of a time limit."""
    return NONE if seconds is None or seconds <= 0 else age(seconds)


@lru_cache(maxsize=32_768)  # the stamps of the longest table: sorting asks for each
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
    """How stamps are written: in UTC, this machine's zone or an exchange's; one switch for the whole desk."""

    utc = False
    zone: tzinfo | None = None  # an exchange's; None is this machine's

    @classmethod
    def use(cls, kind: str, exchange: str = "UTC") -> None:
        """Write times in ``utc``, ``local`` or ``exchange`` (a name like ``America/New_York``) from now on.

        Raises:
            ValueError: there is no such zone.
        """
        zone: tzinfo | None = None
        if kind == "exchange":
            try:
                zone = ZoneInfo(exchange)
            except (KeyError, OSError, ValueError) as error:
                raise ValueError(f"there is no time zone {exchange!r}") from error
        cls.utc, cls.zone = kind == "utc", zone

    @classmethod
    def there(cls, moment: datetime) -> datetime:
        """Return a moment in the zone in force."""
        return moment.astimezone(UTC if cls.utc else cls.zone)

    @classmethod
    def clock(cls, stamp: str | None, *, millis: bool = False) -> str:
        """Write the time of day of a stamp."""
        return clock_text(stamp, UTC if cls.utc else cls.zone, millis)

    @classmethod
    def full(cls, stamp: str | None) -> str:
        """Write date, time and zone of a stamp."""
        seconds = epoch(stamp)
        if seconds is None:
            return NONE
        moment = cls.there(datetime.fromtimestamp(seconds, UTC))
        return f"{moment:%Y-%m-%d %H:%M:%S}.{moment.microsecond // 1000:03d} {moment:%Z}"

    @classmethod
    def now(cls) -> str:
        """Write the time of day now, with its zone."""
        return cls.of(datetime.now(UTC))

    @classmethod
    def of(cls, moment: datetime) -> str:
        """Write the time of day of a moment, with its zone."""
        return f"{cls.there(moment):%H:%M:%S %Z}"


@lru_cache(maxsize=4_096)
def clock_text(stamp: str | None, zone: tzinfo | None, millis: bool) -> str:
    """Write the time of day of a stamp in a zone; ``None``: this machine's."""
    seconds = epoch(stamp)
    if seconds is None:
        return NONE
    moment = datetime.fromtimestamp(seconds, UTC).astimezone(zone)
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


def percent(value: object) -> str:
    """Write a signed share in percent, two decimals (``+0.40 %``): no money, so privacy leaves it."""
    if value is None or value == "":
        return NONE
    return f"{decimal_text(str(value), 2, True)} %"


def tone_of(value: object) -> str:
    """Return the tone of a signed amount: ``gain``, ``loss`` or none."""
    amount = number(value)
    return "" if not amount else ("gain" if amount > 0 else "loss")
