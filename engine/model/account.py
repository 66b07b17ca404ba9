"""An account as its document describes it (the accounts file of the public interface)."""

from __future__ import annotations

import re
from datetime import date, datetime, time, timedelta
from decimal import Decimal
from typing import Annotated, Any, Literal
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    PlainSerializer,
    SecretStr,
    StringConstraints,
    field_validator,
    model_validator,
)

from engine.model.numbers import parse_decimal, to_text

_ISO_DATE = re.compile(r"[0-9]{4}-[0-9]{2}-[0-9]{2}", re.ASCII)
BROKERS = ("paper", "alpaca", "binance", "oanda", "kite", "ccxt")


def _exact(value: object) -> Decimal:
    """Accept text, Decimal or int; a float or a bool has already lost the number that was meant."""
    if isinstance(value, Decimal):
        # The bound comes first: writing 1E+999999 out would fill the memory.
        if not value.is_finite() or abs(value.adjusted()) > 20:
            raise ValueError("not a plain decimal number")
        value = format(value, "f")
    elif isinstance(value, int) and not isinstance(value, bool):
        value = str(value)
    if not isinstance(value, str):
        raise ValueError('expected a number written as text, like "0.5"')  # noqa: TRY004 (pydantic)
    return parse_decimal(value)


def _positive(value: object) -> Decimal:
    number = _exact(value)
    if number <= 0:
        raise ValueError("must be greater than zero")
    return number


_AS_TEXT = PlainSerializer(to_text, return_type=str, when_used="unless-none")
Exact = Annotated[Decimal, BeforeValidator(_exact), _AS_TEXT]
Positive = Annotated[Decimal, BeforeValidator(_positive), _AS_TEXT]
Name = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9._:-]{1,64}$")]
NamePattern = Annotated[str, StringConstraints(pattern=r"^(\*|[A-Za-z0-9._:-]{1,64})$")]
SymbolPattern = Annotated[str, StringConstraints(pattern=r"^(\*|[A-Z0-9][A-Z0-9._:/-]{0,31})$")]


_DATES = PlainSerializer(
    lambda days: sorted(day.isoformat() for day in days), return_type=list, when_used="json"
)


class _Document(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, hide_input_in_errors=True)


_SIZING_FIELD = {
    "fixed": "quantity",
    "signal": None,
    "percent_equity": "percent",
    "risk_percent": "percent",
    "notional": "value",
    "multiplier": "factor",
}


class Sizing(_Document):
    """How much one account trades.

    ``fixed``: ``quantity`` units. ``signal``: the signal's own quantity. ``percent_equity``: ``percent`` of
    equity at the entry price. ``risk_percent``: ``percent`` of equity lost if the stop loss is hit.
    ``notional``: ``value`` at the entry price. ``multiplier``: ``factor`` × the signal's quantity.
    """

    method: Literal["fixed", "signal", "percent_equity", "risk_percent", "notional", "multiplier"]
    quantity: Positive | None = None
    percent: Positive | None = None
    value: Positive | None = None
    factor: Positive | None = None

    @model_validator(mode="after")
    def _fields_fit_the_method(self) -> Sizing:
        needed = _SIZING_FIELD[self.method]
        for name in ("quantity", "percent", "value", "factor"):
            given = getattr(self, name) is not None
            if name == needed and not given:
                raise ValueError(f"sizing method {self.method} needs {name}")
            if name != needed and given:
                raise ValueError(f"sizing method {self.method} does not take {name}")
        return self


class Limits(_Document):
    """Hard limits of one account; an absent one is not checked here (the firm's still are)."""

    max_order_quantity: Positive | None = None
    max_order_value: Positive | None = None
    max_positions: Annotated[int, Field(ge=0, le=100_000, strict=True)] | None = None
    max_daily_loss: Positive | None = None
    min_reward_risk: Exact | None = None
    max_orders_per_second: Annotated[int, Field(ge=1, le=10_000, strict=True)] | None = None
    max_position_quantity: Positive | None = None
    """The largest position in one symbol, with what works, what is unknown and the order itself (C05)."""
    max_open_value: Positive | None = None
    """The value of all working and unknown orders together (C06)."""
    max_gross_exposure: Positive | None = None
    """The value of all positions, either way, and of all working and unknown entries (C06)."""
    max_orders_per_day: Annotated[int, Field(ge=1, le=1_000_000, strict=True)] | None = None


class Hours(_Document):
    """When entries are allowed: local times of ``zone``; ``close`` before ``open`` spans midnight.

    ``holidays``: dates without a session; ``early_closes``: dates whose session closes sooner, and when. The date of a
    session over midnight is that of the evening it begins on. Exits are allowed at any time.
    """

    zone: str
    open: time
    close: time
    square_off: time | None = None
    holidays: Annotated[frozenset[date], _DATES] = frozenset()
    early_closes: dict[date, time] = Field(default_factory=dict)

    @field_validator("zone")
    @classmethod
    def _known_zone(cls, value: str) -> str:
        try:
            ZoneInfo(value)
        except (ZoneInfoNotFoundError, ValueError, OSError):
            raise ValueError(f"{value!r} is no IANA time zone, like America/New_York") from None
        return value

    @field_validator("open", "close", "square_off", mode="before")
    @classmethod
    def _hh_mm(cls, value: object) -> object:
        return _local_time(value)

    @field_validator("holidays", mode="before")
    @classmethod
    def _dates(cls, value: object) -> object:
        return [_date(day) for day in value] if isinstance(value, list | tuple) else value

    @field_validator("early_closes", mode="before")
    @classmethod
    def _times_by_date(cls, value: object) -> object:
        if not isinstance(value, dict):
            return value
        return {_date(day): _local_time(moment) for day, moment in value.items()}

    @model_validator(mode="after")
    def _early_is_early(self) -> Hours:
        for day, moment in self.early_closes.items():
            if not _into(self, self.open) < _into(self, moment) < _into(self, self.close):
                raise ValueError(
                    f"early_closes: {day} must close between {self.open:%H:%M} and {self.close:%H:%M},"
                    f" not at {moment:%H:%M}"
                )
        return self

    def __hash__(self) -> int:
        early = tuple(sorted(self.early_closes.items()))
        return hash((self.zone, self.open, self.close, self.square_off, self.holidays, early))


def _local_time(value: object) -> object:
    if value is None or isinstance(value, time):
        return value
    if not isinstance(value, str):
        raise ValueError('expected a time like "09:30"')  # noqa: TRY004 (pydantic)
    moment = time.fromisoformat(value)
    if moment.tzinfo is not None:
        raise ValueError("expected a local time of the zone, without an offset")
    return moment


def _date(value: object) -> date:
    if isinstance(value, date) and not isinstance(value, datetime):
        return value
    if not isinstance(value, str) or not _ISO_DATE.fullmatch(value):
        raise ValueError('expected a date like "2026-12-25"')
    return date.fromisoformat(value)


def _into(hours: Hours, moment: time) -> timedelta:
    """Return how far into the session a local time lies, over midnight if need be."""
    anyday = date(2000, 1, 1)
    began, then = (datetime.combine(anyday, at) for at in (hours.open, moment))
    return (then - began) % timedelta(days=1)


class Egress(_Document):
    """How an account's connections leave this machine: brokers bind keys to addresses.

    ``local_address``: the address of ours to connect from. ``proxy``: ``http://host:port`` or ``socks5://host:port``
    to connect through (its user and password, if any, are credentials ``proxy_user`` and ``proxy_password``).
    """

    local_address: Annotated[str, StringConstraints(pattern=r"^[0-9A-Fa-f.:]{2,45}$")] | None = None
    proxy: (
        Annotated[
            str, StringConstraints(pattern=r"^(http|socks5)://[A-Za-z0-9.\[\]:-]+:[0-9]{1,5}$")
        ]
        | None
    ) = None


class Account(_Document):
    """One trading account. Credentials are references or ciphertext, and never shown."""

    id: Name
    name: Annotated[str, StringConstraints(max_length=128)] = ""
    broker: Literal["paper", "alpaca", "binance", "oanda", "kite", "ccxt"]
    environment: Literal["paper", "live"] = "paper"
    base_url: Annotated[str, StringConstraints(max_length=256)] | None = None
    credentials: dict[Name, SecretStr] = Field(default_factory=dict)
    active: Annotated[bool, Field(strict=True)] = True
    tags: tuple[Name, ...] = ()
    strategies: tuple[NamePattern, ...] = ("*",)
    symbols: tuple[SymbolPattern, ...] = ("*",)
    approval: Literal["auto", "review"] = "auto"
    sizing: Sizing
    limits: Limits = Limits()
    hours: Hours | None = None
    egress: Egress | None = None
    options: dict[Name, Annotated[str, StringConstraints(max_length=128)]] = Field(
        default_factory=dict
    )
    """Settings of one broker's adapter, which refuses those it does not know (see its package)."""

    def document(self) -> dict[str, Any]:
        """Return the document for a store: JSON types, credentials revealed (references or ciphertext)."""
        document = self.model_dump(mode="json", exclude_none=True)
        document["credentials"] = {
            name: secret.get_secret_value() for name, secret in self.credentials.items()
        }
        return document

    def public(self) -> dict[str, Any]:
        """Return the document without credentials, for lists and screens."""
        document = self.model_dump(mode="json", exclude={"credentials"})
        document["credentials"] = sorted(self.credentials)
        return document
