"""Reading what brokers send: numbers exactly, stamps with an offset, and one error for all that is unreadable."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from datetime import datetime
from decimal import Decimal, DecimalException
from typing import Any

import orjson

from engine.brokers.http import plain
from engine.errors import BrokerProtocolError
from engine.model.enums import ExecType, OrderStatus
from engine.model.messages import ExecutionReport

_BIGGEST = Decimal(10) ** 18
_LEAST = -_BIGGEST


class InexactError(ValueError):
    """A fraction came as a bare JSON number; the object must be read again, exactly (``http.read_json``)."""


def read_object(body: bytes) -> dict[str, Any] | None:
    """Read a JSON object fast, ``None`` if it is none; bare fractions become floats."""
    try:
        found = orjson.loads(body)
    except ValueError:
        return None
    return found if type(found) is dict else None


def number(value: object, name: str) -> Decimal:
    """Read a number: text, int or Decimal.

    Raises:
        InexactError: it came as a float.
        TypeError: not a number at all.
        ValueError: not a finite number of reasonable size.
    """
    if type(value) is float:
        raise InexactError(name)
    if type(value) is bool or not isinstance(value, (str, int, Decimal)):
        raise TypeError(f"{name} is no number")
    try:
        found = Decimal(value)
        if _LEAST < found < _BIGGEST:  # raises for NaN
            return found
    except DecimalException:
        raise ValueError(f"{name} is no number") from None
    raise ValueError(f"{name} is out of range")


def optional_number(fields: Mapping[str, Any], name: str) -> Decimal | None:
    """Read a number that may be absent or null; raises as ``number``."""
    value = fields.get(name)
    return None if value is None else number(value, name)


def text_of(value: object, name: str) -> str:
    """Read text that must be there.

    Raises:
        ValueError: it is missing, empty or no text.
    """
    if not isinstance(value, str) or not value:
        raise ValueError(f"{name} is missing")
    return value


def object_of(value: object) -> dict[str, Any]:
    """Return ``value`` if it is a JSON object.

    Raises:
        TypeError: it is none.
    """
    if not isinstance(value, dict):
        raise TypeError("no object")
    return value


def moment(text: object) -> datetime | None:
    """Read an RFC 3339 stamp with an offset; anything else is no stamp."""
    if not isinstance(text, str):
        return None
    try:
        found = datetime.fromisoformat(text)
    except ValueError:
        return None
    return found if found.tzinfo else None


UNREADABLE = (ValueError, KeyError, TypeError, IndexError)
"""What goes wrong while something is read that is not what it should be."""


def unreadable(account: str, what: str, error: Exception) -> BrokerProtocolError:
    """Return the one error for all of ``UNREADABLE``."""
    return BrokerProtocolError(
        f"account {account}: {what} cannot be read: {plain(error)}", account=account
    )


@contextmanager
def reading(account: str, what: str) -> Iterator[None]:
    """Turn what goes wrong while reading ``what`` into one ``BrokerProtocolError``.

    Costs a microsecond and a half: what is read for every order catches ``UNREADABLE`` itself.
    """
    try:
        yield
    except UNREADABLE as error:
        raise unreadable(account, what, error) from None


def unknown(account: str, cl_ord_id: str, text: str) -> ExecutionReport:
    """Return the report of bytes that left without proof of what became of them."""
    return ExecutionReport(account, cl_ord_id, ExecType.UNKNOWN, OrderStatus.UNKNOWN, text=text)


def rejected(account: str, cl_ord_id: str, text: str) -> ExecutionReport:
    """Return the report of a proven refusal."""
    return ExecutionReport(account, cl_ord_id, ExecType.REJECTED, OrderStatus.REJECTED, text=text)


def unsent(account: str, cl_ord_id: str, text: str) -> ExecutionReport:
    """Return the report of an order proven not accepted and safe to send again (a documented throttle)."""
    return ExecutionReport(account, cl_ord_id, ExecType.UNSENT, text=text)
