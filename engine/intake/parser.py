"""Bytes to a ``Signal``, or a refusal with a code: every rule of the public interface.

Written by hand rather than with a schema library: a JSON number must be read as its own text (never
through a float), duplicate keys must be seen, and a typical body takes 26 microseconds.

Codes: TOO_LARGE NOT_UTF8 NOT_JSON TOO_DEEP DUPLICATE_KEY UNKNOWN_FIELD MISSING TYPE FORMAT RANGE
NOT_ALLOWED FUTURE.
"""

from __future__ import annotations

import difflib
import json
import re
from collections.abc import Callable, Mapping
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from functools import lru_cache
from hashlib import sha256
from typing import Any, Final, TypeVar

from engine.errors import InvalidSignal
from engine.model.enums import Action, OrderType, TimeInForce
from engine.model.identifiers import NAME, SYMBOL
from engine.model.numbers import parse_decimal
from engine.model.signal import Audience, Signal

MAX_BYTES: Final = 8 * 1024
MAX_PRICES_BYTES: Final = 64 * 1024
MAX_DEPTH: Final = 8
MAX_NAMES: Final = 1000
MAX_META: Final = 20
MAX_META_KEY: Final = 64
MAX_META_VALUE: Final = 512
FUTURE_TOLERANCE: Final = timedelta(seconds=1)
_SHOWN = 60

FIELDS: Final = frozenset(
    {
        "id", "source", "strategy", "symbol", "action", "order_type", "limit_price", "stop_price",
        "stop_loss", "take_profit", "trail_percent", "quantity", "time_in_force", "issued_at",
        "valid_for_s", "audience", "reference_price", "meta",
    }
)  # fmt: skip

_TOKENS = re.compile(r'"(?:[^"\\]++|\\.)*+"?|[\[{]|[\]}]', re.DOTALL)
_STAMP = re.compile(
    r"[0-9]{4}-[0-9]{2}-[0-9]{2}[Tt][0-9]{2}:[0-9]{2}:[0-9]{2}(?:\.[0-9]{1,9})?"
    r"(?:[Zz]|[+-](?:[01][0-9]|2[0-3]):[0-5][0-9])",  # fromisoformat takes +00:80
    re.ASCII,
)
_CONTROL = re.compile("[\x00-\x1f\x7f-\x9f\u2028-\u202e\u2066-\u2069\ud800-\udfff]")
_ACTIONS: Final = {action.value: action for action in Action}
_ORDER_TYPES: Final = {kind.value: kind for kind in OrderType}
_TIMES_IN_FORCE: Final = {tif.value: tif for tif in TimeInForce}
_LOWEST_AGE, _HIGHEST_AGE = Decimal("0.1"), Decimal(86_400)
_NAME_RULE = "1 to 64 characters of A-Z a-z 0-9 . _ : -"
_SYMBOL_RULE = "1 to 32 characters of A-Z 0-9 . _ : / - beginning with a letter or digit"
_PRICE_RULE = 'a number greater than zero in plain decimal notation, like "101.25"'
_T = TypeVar("_T")


class Number(str):
    """A JSON number, kept as the text it was written in."""

    __slots__ = ()


class _NotANumber(str):
    """``NaN``, ``Infinity`` or ``-Infinity``, which Python reads and JSON does not have."""

    __slots__ = ()


def parse_signal(body: bytes, *, source: str | None, now: datetime) -> Signal:
    """Read a schema v1 signal.

    ``source``: what the entry point says the source is, or ``None`` when the body must.
    ``now``: aware UTC; a stamp more than a second later is refused. Age is not judged here.

    Raises:
        InvalidSignal: with a stable code, the field and a sentence.
    """
    return build_signal(read_object(body, MAX_BYTES), source=source, now=now)


def parse_prices(body: bytes) -> dict[str, Decimal]:
    """Read ``{"SYMBOL": "price", ...}``, prices from outside, as strictly as a signal.

    Raises:
        InvalidSignal: the same codes; ``field`` is the symbol.
    """
    prices = {}
    for symbol, value in read_object(body, MAX_PRICES_BYTES).items():
        if not SYMBOL.fullmatch(symbol):
            raise refusal("FORMAT", symbol, symbol, f"a symbol: {_SYMBOL_RULE}")
        prices[symbol] = read_number(symbol, value)
    return prices


def read_object(body: bytes, limit: int) -> dict[str, Any]:
    """Read one JSON object whose numbers stay text (``Number``).

    Raises:
        InvalidSignal: TOO_LARGE, NOT_UTF8, TOO_DEEP, NOT_JSON, DUPLICATE_KEY.
    """
    if len(body) > limit:
        raise InvalidSignal("TOO_LARGE", "", f"{len(body)} bytes, expected at most {limit}")
    try:
        text = body.decode("utf-8")
    except UnicodeDecodeError as error:
        raise InvalidSignal("NOT_UTF8", "", f"byte {error.start} is not UTF-8 text") from None
    # Depth cannot exceed the number of brackets: an ordinary body costs two counts.
    if text.count("{") + text.count("[") > MAX_DEPTH and _too_deep(text):
        raise InvalidSignal("TOO_DEEP", "", f"nested deeper than {MAX_DEPTH} levels")
    try:
        value = _DECODER.decode(text)
    except json.JSONDecodeError as error:
        where = f"line {error.lineno} column {error.colno}"
        raise InvalidSignal("NOT_JSON", "", f"not JSON: {error.msg} at {where}") from None
    except RecursionError:  # a stack already deep in use
        raise InvalidSignal("TOO_DEEP", "", "nested too deep") from None
    if type(value) is not dict:
        raise InvalidSignal("TYPE", "", f"{_show(value)}: expected a JSON object")
    return value


def _too_deep(text: str) -> bool:
    depth = 0
    for match in _TOKENS.finditer(text):
        bracket = match[0]
        if bracket in "[{":
            depth += 1
            if depth > MAX_DEPTH:
                return True
        elif bracket in "]}":
            depth -= 1
    return False


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    value = dict(pairs)
    if len(value) != len(pairs):
        seen: set[str] = set()
        for key, _ in pairs:
            if key in seen:
                raise InvalidSignal("DUPLICATE_KEY", _name(key), f"{_name(key)} is given twice")
            seen.add(key)
    return value


_DECODER = json.JSONDecoder(
    object_pairs_hook=_object,
    parse_float=Number,
    parse_int=Number,
    parse_constant=_NotANumber,
)


def build_signal(data: dict[str, Any], *, source: str | None, now: datetime) -> Signal:
    """Check the fields of ``data``, as ``read_object`` returns it, and make the signal.

    Raises:
        InvalidSignal: see ``parse_signal``.
    """
    if not data.keys() <= FIELDS:
        unknown = min(data.keys() - FIELDS)
        raise _unknown(unknown)
    data = _with_source(data, source)
    order_type = _choice(data, "order_type", _ORDER_TYPES, OrderType.MARKET)
    signal = Signal(
        id=_text(data, "id", NAME, _NAME_RULE),
        source=_text(data, "source", NAME, _NAME_RULE),
        strategy=_text(data, "strategy", NAME, _NAME_RULE),
        symbol=_text(data, "symbol", SYMBOL, _SYMBOL_RULE),
        action=_choice(data, "action", _ACTIONS, None),
        issued_at=_issued_at(data, now),
        order_type=order_type,
        time_in_force=_choice(data, "time_in_force", _TIMES_IN_FORCE, TimeInForce.DAY),
        limit_price=_order_price(data, "limit_price", order_type, order_type.needs_limit),
        stop_price=_order_price(data, "stop_price", order_type, order_type.needs_stop),
        stop_loss=_optional(data, "stop_loss", read_number),
        take_profit=_optional(data, "take_profit", read_number),
        trail_percent=_optional(data, "trail_percent", _percent),
        quantity=_optional(data, "quantity", read_number),
        valid_for_s=_optional(data, "valid_for_s", _age),
        reference_price=_optional(data, "reference_price", read_number),
        audience=_optional(data, "audience", _audience),
        meta=_meta(data["meta"]) if "meta" in data else {},
        body_hash=content_hash(data),
    )
    if signal.action not in _ENTRIES:
        _check_action(signal)
    return signal


def _unknown(field: str) -> InvalidSignal:
    # Without its value: a secret in a field of another schema must not travel on in a refusal.
    hint, name = _hint(field[:64]), _name(field)
    return InvalidSignal("UNKNOWN_FIELD", name, f'"{name}" is no field of schema v1{hint}')


@lru_cache(maxsize=256)  # looking for the nearest name takes ten times as long as the whole refusal
def _hint(field: str) -> str:
    close = difflib.get_close_matches(field, FIELDS, n=1, cutoff=0.6)
    return f"; did you mean {close[0]}?" if close else ""


def content_hash(data: Mapping[str, Any]) -> str:
    """Return SHA-256 (hex) of what ``data`` says; key order and white space do not matter."""
    canonical = json.dumps(data, sort_keys=True, ensure_ascii=True, separators=(",", ":"))
    return sha256(canonical.encode("ascii")).hexdigest()


def refusal(code: str, field: str, value: object, expected: str) -> InvalidSignal:
    """Return the refusal of one field: its name, its value (shortened, escaped), the rule."""
    name = _name(field)
    return InvalidSignal(code, name, f"{name} = {_show(value)}: expected {expected}")


def read_number(field: str, value: object) -> Decimal:
    """Read a price or a quantity: text or a JSON number, exact, greater than zero."""
    if type(value) is not str and type(value) is not Number:
        raise refusal("TYPE", field, value, _PRICE_RULE)
    try:
        number = parse_decimal(value)
    except ValueError:
        code = "RANGE" if value.startswith("-") else "FORMAT"
        raise refusal(code, field, value, _PRICE_RULE) from None
    if not number:
        raise refusal("RANGE", field, value, _PRICE_RULE)
    return number


_ENTRIES = frozenset({Action.BUY, Action.SELL})


def _check_action(signal: Signal) -> None:
    """Refuse what makes no sense beside ``close``, ``cancel`` or ``modify``."""
    action, kind = signal.action, signal.order_type
    if kind.needs_stop or (kind.needs_limit and action is not Action.CLOSE):
        allowed = '"market" or "limit"' if action is Action.CLOSE else '"market" or nothing'
        raise InvalidSignal(
            "NOT_ALLOWED", "order_type", f'order_type = "{kind}": action {action} takes {allowed}'
        )
    stops = (signal.stop_loss, signal.take_profit, signal.trail_percent)
    if action is Action.MODIFY and not any(stops):
        raise InvalidSignal(
            "MISSING",
            "stop_loss",
            "action modify needs at least one of stop_loss, take_profit and trail_percent",
        )


def _with_source(data: dict[str, Any], source: str | None) -> dict[str, Any]:
    if source is None:
        return data
    if data.get("source", source) != source or type(data.get("source", source)) is not str:
        raise refusal(
            "NOT_ALLOWED", "source", data["source"], f"{_show(source)} or no source at this entry"
        )
    return {**data, "source": source}


def _text(data: Mapping[str, Any], field: str, pattern: re.Pattern[str], rule: str) -> str:
    value = _required(data, field)
    if type(value) is not str:
        raise refusal("TYPE", field, value, f"text: {rule}")
    if not pattern.fullmatch(value):
        raise refusal("FORMAT", field, value, rule)
    return value


def _required(data: Mapping[str, Any], field: str) -> Any:
    try:
        return data[field]
    except KeyError:
        raise InvalidSignal("MISSING", field, f"{field} is required") from None


def _optional(data: Mapping[str, Any], field: str, read: Callable[[str, Any], _T]) -> _T | None:
    return read(field, data[field]) if field in data else None


def _choice(
    data: Mapping[str, Any], field: str, choices: Mapping[str, _T], default: _T | None
) -> _T:
    if default is not None and field not in data:
        return default
    value = _required(data, field)
    words = ", ".join(choices)
    if type(value) is not str:
        raise refusal("TYPE", field, value, f"one of {words}")
    chosen = choices.get(value)
    if chosen is None:
        raise refusal("FORMAT", field, value, f"one of {words}")
    return chosen


def _order_price(
    data: Mapping[str, Any], field: str, order_type: OrderType, needed: bool
) -> Decimal | None:
    if needed:
        if field not in data:
            raise InvalidSignal("MISSING", field, f"order_type {order_type} needs {field}")
        return read_number(field, data[field])
    if field in data:
        raise refusal("NOT_ALLOWED", field, data[field], f"none with order_type {order_type}")
    return None


def _issued_at(data: Mapping[str, Any], now: datetime) -> datetime:
    value = _required(data, "issued_at")
    rule = 'a stamp of RFC 3339 with its offset, like "2026-11-22T14:30:00.123Z"'
    if type(value) is not str:
        raise refusal("TYPE", "issued_at", value, rule)
    if not _STAMP.fullmatch(value):
        raise refusal("FORMAT", "issued_at", value, rule)
    try:
        stamp = datetime.fromisoformat(value.upper()).astimezone(UTC)
    except (ValueError, OverflowError):  # no such day, hour, second (60) or offset
        raise refusal("FORMAT", "issued_at", value, rule) from None
    check_not_future("issued_at", stamp, now)
    return stamp


def check_not_future(field: str, stamp: datetime, now: datetime) -> None:
    """Refuse a stamp more than a second ahead of ``now``."""
    if stamp - now > FUTURE_TOLERANCE:
        ahead = (stamp - now).total_seconds()
        raise InvalidSignal(
            "FUTURE",
            field,
            f"{field} lies {ahead:.3f} s in the future, expected at most 1 s; check both clocks",
        )


def _percent(field: str, value: object) -> Decimal:
    number = read_number(field, value)
    if number >= 100:
        raise refusal("RANGE", field, value, "a percentage greater than 0 and below 100")
    return number


def _age(field: str, value: object) -> Decimal:
    number = read_number(field, value)
    if not _LOWEST_AGE <= number <= _HIGHEST_AGE:
        raise refusal("RANGE", field, value, "a number of seconds from 0.1 to 86400")
    return number


def _audience(field: str, value: object) -> Audience:
    rule = '{"accounts": [names], "tags": [names]}, one of them or both'
    if type(value) is not dict:
        raise refusal("TYPE", field, value, rule)
    if not value:
        raise refusal("RANGE", field, value, rule)
    for key in value:
        if key not in {"accounts", "tags"}:
            raise refusal("UNKNOWN_FIELD", f"{field}.{key}", value[key], rule)
    return Audience(
        accounts=_names("audience.accounts", value["accounts"]) if "accounts" in value else None,
        tags=_names("audience.tags", value["tags"]) if "tags" in value else None,
    )


def _names(field: str, value: object) -> frozenset[str]:
    rule = f"a list of 1 to {MAX_NAMES} names, each {_NAME_RULE}"
    if type(value) is not list:
        raise refusal("TYPE", field, value, rule)
    if not 1 <= len(value) <= MAX_NAMES:
        raise InvalidSignal("RANGE", field, f"{field} has {len(value)} entries: expected {rule}")
    for name in value:
        if type(name) is not str:
            raise refusal("TYPE", field, name, rule)
        if not NAME.fullmatch(name):
            raise refusal("FORMAT", field, name, rule)
    return frozenset(value)


def _meta(value: object) -> dict[str, str]:
    if type(value) is not dict:
        raise refusal("TYPE", "meta", value, "an object of text values")
    if len(value) > MAX_META:
        count = len(value)
        raise InvalidSignal(
            "RANGE", "meta", f"meta has {count} values: expected at most {MAX_META}"
        )
    for key, item in value.items():
        field = f"meta.{key}"
        if type(item) is not str:
            raise refusal("TYPE", field, item, "text")
        if not fits_meta(key, item):
            raise refusal(
                "FORMAT",
                field,
                item,
                f"a key of 1 to {MAX_META_KEY} and a value of at most {MAX_META_VALUE} characters, "
                "without control characters",
            )
    return value


def fits_meta(key: str, value: str) -> bool:
    """Say whether ``key`` and ``value`` may stand in ``meta``."""
    if not 0 < len(key) <= MAX_META_KEY or len(value) > MAX_META_VALUE:
        return False
    return not _CONTROL.search(key) and not _CONTROL.search(value)


def _name(field: str) -> str:
    """Return a field's name fit to be repeated: names come from outside, too."""
    return ascii(field[:_SHOWN])[1:-1] + ("..." if len(field) > _SHOWN else "")


def _show(value: object) -> str:
    if type(value) is str:
        return f'"{_name(value)}"'
    if isinstance(value, str):
        return _name(value)
    if isinstance(value, dict):
        return "an object"
    if isinstance(value, list):
        return "a list"
    return {True: "true", False: "false", None: "null"}.get(value, "?")  # type: ignore[call-overload, no-any-return]
