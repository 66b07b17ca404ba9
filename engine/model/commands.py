"""An operator's commands, validated where they enter (API, desk)."""

from __future__ import annotations

from decimal import Decimal
from typing import Annotated, Any, Literal

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    SecretStr,
    StringConstraints,
    TypeAdapter,
    ValidationError,
    field_validator,
)

from engine.errors import CommandRefused
from engine.model.account import Name, Positive

Text = Annotated[str, StringConstraints(min_length=1, max_length=256, strip_whitespace=True)]
Percent = Annotated[Positive, Field(lt=100)]
ClOrdID = Annotated[str, StringConstraints(pattern=r"^[A-Z2-7]{20}$")]
SignalKey = Annotated[
    str, StringConstraints(pattern=r"^[A-Za-z0-9._:-]{1,64}/[A-Za-z0-9._:-]{1,64}$")
]
Symbol = Annotated[str, StringConstraints(pattern=r"^[A-Z0-9][A-Z0-9._:/-]{0,31}$")]
Scope = Annotated[
    str,
    StringConstraints(
        pattern=r"^(all|(account|broker|strategy):[A-Za-z0-9._:-]{1,64}|symbol:[A-Z0-9][A-Z0-9._:/-]{0,31})$"
    ),
]


class _Command(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)

    id: Annotated[str, StringConstraints(min_length=1, max_length=64)]
    pin: SecretStr | None = Field(None, exclude=True, repr=False)
    """The operator's PIN, where one is set and the command needs it; never stored and never shown."""


class Approve(_Command):
    """Release held orders, all or some, as they are or changed. ``signal`` is ``source/id``."""

    command: Literal["approve"]
    signal: SignalKey
    accounts: tuple[Name, ...] | None = None
    scale: Positive | None = None
    limit_price: Positive | None = None
    stop_loss: Positive | None = None
    take_profit: Positive | None = None
    trail_percent: Percent | None = None


class Reject(_Command):
    """Refuse held orders."""

    command: Literal["reject"]
    signal: SignalKey
    accounts: tuple[Name, ...] | None = None
    reason: Text | None = None


class Force(_Command):
    """Send past soft blocks for the accounts named."""

    command: Literal["force"]
    signal: SignalKey
    accounts: Annotated[tuple[Name, ...], Field(min_length=1)]
    reason: Text


class Resend(_Command):
    """Send an order again that the broker proves it never had."""

    command: Literal["resend"]
    cl_ord_id: ClOrdID


class CancelOrder(_Command):
    """Cancel one working order."""

    command: Literal["cancel_order"]
    cl_ord_id: ClOrdID


class ReplaceOrder(_Command):
    """Change a working order's quantity or prices."""

    command: Literal["replace_order"]
    cl_ord_id: ClOrdID
    order_qty: Positive | None = None
    limit_price: Positive | None = None
    stop_price: Positive | None = None


class ClosePosition(_Command):
    """Close a position, or ``fraction`` of it (0 < fraction ≤ 1), at the market."""

    command: Literal["close_position"]
    account: Name
    symbol: Symbol
    fraction: Positive = Decimal(1)

    @field_validator("fraction")
    @classmethod
    def _at_most_all(cls, value: Decimal) -> Decimal:
        if value > 1:
            raise ValueError("must be at most 1 (all of it)")
        return value


class Flatten(_Command):
    """Cancel working orders and close every position of a scope."""

    command: Literal["flatten"]
    scope: Scope
    reason: Text | None = None


class SetStops(_Command):
    """Set or clear (``null``, or absent) the stops of an open position."""

    command: Literal["set_stops"]
    account: Name
    symbol: Symbol
    stop_loss: Positive | None = None
    take_profit: Positive | None = None
    trail_percent: Percent | None = None


class Pause(_Command):
    """Take no new entries in a scope; exits pass."""

    command: Literal["pause"]
    scope: Scope
    reason: Text | None = None


class Resume(_Command):
    """End a pause."""

    command: Literal["resume"]
    scope: Scope


class Kill(_Command):
    """Latch HALTED for a scope, then cancel its working orders; ``flatten`` also closes positions."""

    command: Literal["kill"]
    scope: Scope = "all"
    reason: Text | None = None
    flatten: Annotated[bool, Field(strict=True)] = False


class Rearm(_Command):
    """Lift a halt, or arm a disarmed engine (scope ``all``)."""

    command: Literal["rearm"]
    scope: Scope = "all"
    reason: Text


class Disarm(_Command):
    """Go back to the disarmed state: no signal is acted on, exits by hand pass."""

    command: Literal["disarm"]
    reason: Text | None = None


class ResolveUnknown(_Command):
    """An operator's word on an order whose fate cannot be proven."""

    command: Literal["resolve_unknown"]
    cl_ord_id: ClOrdID
    exists: Annotated[bool, Field(strict=True)]


class SetAccountActive(_Command):
    """Switch an account on or off; working orders are still managed."""

    command: Literal["set_account_active"]
    account: Name
    active: Annotated[bool, Field(strict=True)]


class LogIn(_Command):
    """Begin the day's login of an account whose broker's sessions end; the result's ``url`` is to be opened."""

    command: Literal["log_in"]
    account: Name


class ReloadAccounts(_Command):
    """Read the accounts again now."""

    command: Literal["reload_accounts"]


class SetLimits(_Command):
    """Change an account's limits (only those named; ``null`` removes one); in force for new intents only."""

    command: Literal["set_limits"]
    account: Name
    limits: dict[str, Any]
    reason: Text


class Acknowledge(_Command):
    """Say that alerts were seen (``alerts`` absent: all); stops their escalation."""

    command: Literal["acknowledge"]
    alerts: tuple[str, ...] | None = None


class Review(_Command):
    """Confirm a strategy's automated executions: its repeated-execution throttle (C11) begins anew."""

    command: Literal["review"]
    strategy: Name


class Adopt(_Command):
    """Take a difference's actual value, the broker's, as ours. ``key`` as in the table ``differences``."""

    command: Literal["adopt"]
    key: Text
    reason: Text | None = None
    at: Text | None = None
    """The line's ``at`` as the operator has seen it: refused if its values have changed since."""


class Repair(_Command):
    """Send what brings a difference's actual value to the expected one. ``key`` as in ``differences``."""

    command: Literal["repair"]
    key: Text
    reason: Text | None = None
    at: Text | None = None
    """The line's ``at`` as the operator has seen it: refused if its values have changed since."""


class Presence(_Command):
    """The desk's sign of life for the dead-man's switch; never kept in the journal."""

    command: Literal["presence"]


Command = (
    Approve
    | Reject
    | Force
    | Resend
    | CancelOrder
    | ReplaceOrder
    | ClosePosition
    | Flatten
    | SetStops
    | Pause
    | Resume
    | Kill
    | Rearm
    | Disarm
    | ResolveUnknown
    | SetAccountActive
    | LogIn
    | ReloadAccounts
    | SetLimits
    | Acknowledge
    | Review
    | Adopt
    | Repair
    | Presence
)
_ADAPTER: TypeAdapter[Command] = TypeAdapter(Annotated[Command, Field(discriminator="command")])


def parse_command(document: dict[str, Any]) -> Command:
    """Validate a command.

    Raises:
        CommandRefused: with status 422, the field and what was expected.
    """
    try:
        return _ADAPTER.validate_python(document)
    except ValidationError as error:
        first = error.errors(include_url=False, include_context=False)[0]
        where = ".".join(str(part) for part in first["loc"][1:]) or "command"
        raise CommandRefused("INVALID_COMMAND", f"{where}: {first['msg']}", 422) from None
