"""What goes over the wire, for the API's own description (``/openapi.json``).

Nothing is validated with these: signals are read by the strict parser from their bytes, commands by
``engine.model.commands``; they tell a program what to send and what to expect.
"""

from __future__ import annotations

from typing import Any, Final, Literal

from pydantic import BaseModel, ConfigDict, Field, TypeAdapter

from engine.model.commands import Command
from engine.model.enums import OrderStatus, SignalState

Responses = dict[int | str, dict[str, Any]]


class Error(BaseModel):
    """Every error: a stable upper-case code and a sentence."""

    code: str = Field(examples=["UNAUTHORIZED"])
    message: str


class FieldError(Error):
    """An error of one field."""

    field: str = Field(examples=["limit_price"])


class Receipt(BaseModel):
    """What became of a signal when it came in; the same for every repeat of it."""

    signal_id: str
    source: str
    state: SignalState
    code: str | None = None
    message: str | None = None


class Page(BaseModel):
    """Rows of a list, newest first, and where the next page starts."""

    items: list[dict[str, Any]]
    next: str | None = Field(description="pass as `after` for the next page; null at the end")


class SignalDetail(BaseModel):
    """One signal, what each account did with it, and when."""

    model_config = ConfigDict(extra="allow")

    signal: dict[str, Any]
    accounts: list[dict[str, Any]] = Field(
        description="account, outcome, code, message, cl_ord_id, status, its own trace"
    )
    trace: dict[str, Any] = Field(description="nanoseconds since `received` (RFC 3339)")


class Latency(BaseModel):
    """Percentiles per stage in microseconds, since start and over the last minute."""

    stages: dict[str, Any]


class Status(BaseModel):
    """The engine in one answer."""

    engine: dict[str, Any] | None
    halts: list[dict[str, Any]]
    kill: list[dict[str, Any]]
    readiness: list[dict[str, str]]


class Taken(BaseModel):
    """How many prices were taken."""

    accepted: int


class Health(BaseModel):
    """The process answers."""

    status: Literal["ok"]


class Readiness(BaseModel):
    """Whether signals would be acted on, and why not."""

    ready: bool
    reasons: list[str]


_NAME: Final = {"type": "string", "pattern": "^[A-Za-z0-9._:-]{1,64}$"}
_PRICE: Final = {"type": ["string", "number"], "description": "exact, plain decimal notation"}
SIGNAL: Final[dict[str, Any]] = {
    "type": "object",
    "additionalProperties": False,
    "required": ["id", "source", "strategy", "symbol", "action", "issued_at"],
    "properties": {
        "id": _NAME,
        "source": _NAME,
        "strategy": _NAME,
        "symbol": {"type": "string", "pattern": "^[A-Z0-9][A-Z0-9._:/-]{0,31}$"},
        "action": {"enum": ["buy", "sell", "close", "cancel", "modify"]},
        "order_type": {"enum": ["market", "limit", "stop", "stop_limit"], "default": "market"},
        "limit_price": _PRICE,
        "stop_price": _PRICE,
        "stop_loss": _PRICE,
        "take_profit": _PRICE,
        "trail_percent": _PRICE,
        "quantity": _PRICE,
        "time_in_force": {"enum": ["day", "gtc", "ioc", "fok"], "default": "day"},
        "issued_at": {"type": "string", "format": "date-time"},
        "valid_for_s": {"type": ["string", "number"], "minimum": 0.1, "maximum": 86400},
        "audience": {
            "type": "object",
            "additionalProperties": False,
            "properties": {
                "accounts": {"type": "array", "items": _NAME},
                "tags": {"type": "array", "items": _NAME},
            },
        },
        "reference_price": _PRICE,
        "meta": {
            "type": "object",
            "maxProperties": 20,
            "additionalProperties": {"type": "string"},
        },
    },
}
SIGNAL_EXAMPLE: Final = {
    "id": "brk-2026-11-22-0001",
    "source": "my-bot",
    "strategy": "breakout",
    "symbol": "AAPL",
    "action": "buy",
    "order_type": "limit",
    "limit_price": "101.25",
    "stop_loss": "99.80",
    "issued_at": "2026-11-22T14:30:00.123Z",
}
PRICES: Final[dict[str, Any]] = {
    "type": "object",
    "additionalProperties": _PRICE,
    "example": {"AAPL": "189.43"},
}

FEED: Final = """A WebSocket. Authenticate with the `Authorization` header, or send
`{"token": "..."}` as the first text message within 3 seconds; otherwise it closes with 4401.

The first message is a snapshot, `{"type":"snapshot","seq":0,"at":...,"tables":{table:[rows]}}`;
then come batches of changes, numbered 1, 2, 3…,
`{"type":"batch","seq":n,"at":...,"changes":{table:[rows]},"removed":{table:[keys]}}`, at most about
30 times a second. Changes are conflated per key: a slow reader skips states in between, never the
newest. A jump in `seq` means a batch was lost: connect again for a new snapshot."""


def body(schema: dict[str, Any], example: object = None) -> dict[str, Any]:
    """Return the OpenAPI description of a JSON body that a route reads by itself."""
    content: dict[str, Any] = {"schema": schema}
    if example is not None:
        content["example"] = example
    return {"requestBody": {"required": True, "content": {"application/json": content}}}


def errors(*statuses: int) -> Responses:
    """Return the OpenAPI descriptions of error answers."""
    return {
        status: {"model": FieldError if status == 400 else Error, "description": _SAYS[status]}
        for status in statuses
    }


def commands() -> tuple[dict[str, Any], dict[str, Any]]:
    """Return the schema of a command, and the schemas of each kind it refers to."""
    schema = TypeAdapter(Command).json_schema(ref_template="#/components/schemas/{model}")
    return schema, schema.pop("$defs")


_SAYS: Final = {
    400: "a field is missing or wrong",
    401: "no token, or not this engine's",
    403: "this operator may not, or the PIN is missing or wrong",
    404: "there is no such thing",
    409: "not in this state, or the same id with another body",
    413: "the body is too large",
    422: "a field is missing or wrong",
    426: "this path speaks WebSocket",
    429: "the intake is full; see Retry-After",
    503: "nothing could be made durable; send it again",
}
STATUSES: Final = {
    "orders": frozenset(OrderStatus),
    "signals": frozenset(SignalState),
}
