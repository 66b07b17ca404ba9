"""An operator's commands, validated where they enter (API, desk)."""

from __future__ import annotations

from decimal import Decimal
from typing import Annotated, Any, Literal, get_args

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    SecretStr,
    StringConstraints,
    TypeAdapter,
    ValidationError,
    ValidationInfo,
    field_validator,
    model_validator,
)
from pydantic_core import ErrorDetails

from engine.errors import CommandRefused
from engine.model.account import Name, Positive

Text = Annotated[str, StringConstraints(min_length=1, max_length=256, strip_whitespace=True)]
BAR_WIDTHS = (5, 60, 300, 900, 3600)
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

Accounts = Annotated[tuple[Name, ...], Field(min_length=1, max_length=10_000)]


class _Command(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)

    id: Annotated[str, StringConstraints(min_length=1, max_length=64)]
    pin: SecretStr | None = Field(None, exclude=True, repr=False)
    """The operator's PIN, where one is set and the command needs it; never stored and never shown."""


class Approve(_Command):
    """Release held orders, all or some, as they are or changed. ``signal`` is ``source/id``.

    ``quantity``: this many units for each account, instead of its own size. ``seen_price``: the price the operator
    has seen, where the market has drifted. ``canary``: this account first, the others only after its fill and within
    ``canary_timeout_s``; ``max_rejects``: with so many of them rejected no other leaves.
    """

    command: Literal["approve"]
    signal: SignalKey
    accounts: tuple[Name, ...] | None = None
    scale: Positive | None = None
    quantity: Positive | None = None
    limit_price: Positive | None = None
    stop_loss: Positive | None = None
    take_profit: Positive | None = None
    trail_percent: Percent | None = None
    seen_price: Positive | None = None
    canary: Name | None = None
    canary_timeout_s: Annotated[Positive, Field(ge=Decimal("0.1"), le=86_400)] | None = None
    max_rejects: Annotated[Positive, Field(multiple_of=1, le=100_000)] | None = None

    @model_validator(mode="after")
    def _fits_together(self) -> Approve:
        if self.scale is not None and self.quantity is not None:
            raise ValueError("give scale or quantity, not both")
        staged = self.canary_timeout_s is not None or self.max_rejects is not None
        if staged and self.canary is None:
            raise ValueError("canary_timeout_s and max_rejects need a canary")
        return self


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


class CancelOrders(_Command):
    """Cancel every working order of a scope; positions stay, and nothing is latched."""

    command: Literal["cancel_orders"]
    scope: Scope


class ReplaceOrder(_Command):
    """Change a working order's quantity or prices."""

    command: Literal["replace_order"]
    cl_ord_id: ClOrdID
    order_qty: Positive | None = None
    limit_price: Positive | None = None
    stop_price: Positive | None = None


class ClosePosition(_Command):
    """Close a position, ``fraction`` of it (0 < fraction ≤ 1) or ``quantity`` of it (units), at the market."""

    command: Literal["close_position"]
    account: Name
    symbol: Symbol
    fraction: Positive = Decimal(1)
    quantity: Positive | None = None

    @field_validator("fraction")
    @classmethod
    def _at_most_all(cls, value: Decimal) -> Decimal:
        if value > 1:
            raise ValueError("must be at most 1 (all of it)")
        return value

    @field_validator("quantity")
    @classmethod
    def _one_of_both(cls, value: Decimal | None, info: ValidationInfo) -> Decimal | None:
        if value is not None and info.data.get("fraction", 1) != 1:
            raise ValueError("give fraction or quantity, not both")
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


class LookUp(_Command):
    """Ask the broker once more, now, for an order whose fate is unproven."""

    command: Literal["look_up"]
    cl_ord_id: ClOrdID


class SetAccountActive(_Command):
    """Switch an account on or off; working orders are still managed."""

    command: Literal["set_account_active"]
    account: Name
    active: Annotated[bool, Field(strict=True)]


class SetAccountsActive(_Command):
    """Switch several accounts on or off: all, or none."""

    command: Literal["set_accounts_active"]
    accounts: Accounts
    active: Annotated[bool, Field(strict=True)]


class SetAccount(_Command):
    """Change approval, sizing or limits (those named; ``null`` removes one) of accounts: of all, or of none."""

    command: Literal["set_account"]
    accounts: Accounts
    approval: Literal["auto", "review"] | None = None
    sizing: dict[str, Any] | None = None
    limits: dict[str, Any] | None = None
    reason: Text

    @model_validator(mode="after")
    def _something(self) -> SetAccount:
        if self.approval is None and self.sizing is None and self.limits is None:
            raise ValueError("name approval, sizing or limits")
        return self


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


class TestAlerts(_Command):
    """Send a message to every channel of ``[alerts]`` now; the answer says which took it."""

    __test__ = False  # no test of pytest's

    command: Literal["test_alerts"]


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


class Preview(_Command):
    """Say what would come of a signal now, account by account; nothing is stored, counted or sent.

    ``signal``: a document of schema v1, where ``id``, ``source`` and ``issued_at`` may be missing. ``held``: a signal
    that waits for approval, as ``source/id``; the prices are then those an approval would change. ``accounts``: these
    only. ``scale``: as an approval with it. ``rules``: of each account also every rule that is in its way.
    """

    command: Literal["preview"]
    signal: dict[str, Any] | None = None
    held: SignalKey | None = None
    accounts: Annotated[tuple[Name, ...], Field(min_length=1)] | None = None
    scale: Positive | None = None
    quantity: Positive | None = None
    limit_price: Positive | None = None
    stop_loss: Positive | None = None
    take_profit: Positive | None = None
    trail_percent: Percent | None = None
    rules: Annotated[bool, Field(strict=True)] = False

    @model_validator(mode="after")
    def _one_of_both(self) -> Preview:
        if (self.signal is None) is (self.held is None):
            raise ValueError("name either signal (a document) or held (source/id)")
        changes = (
            self.quantity,
            self.limit_price,
            self.stop_loss,
            self.take_profit,
            self.trail_percent,
        )
        if self.signal is not None and any(change is not None for change in changes):
            raise ValueError(
                "quantity and prices stand in the signal itself; only a held one's are changed"
            )
        return self


class Note(_Command):
    """Write down a text and tags about a signal (``source/id``), an order (ClOrdID) or a position (``account/symbol``).

    It takes the place of the note before; without text and tags there is none any more.
    """

    command: Literal["note"]
    on: Literal["signal", "order", "position"]
    key: Text
    text: Annotated[str, StringConstraints(max_length=2_000, strip_whitespace=True)] = ""
    tags: Annotated[tuple[Name, ...], Field(max_length=10)] = ()


class Report(_Command):
    """Make the report of a day, or an account's statement: the result's ``text``. Never kept in the journal."""

    command: Literal["report"]
    day: Annotated[str, StringConstraints(pattern=r"^\d{4}-\d\d-\d\d$")]
    account: Name | None = None
    zone: Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9_+/-]{1,60}$")] = "UTC"
    form: Literal["html", "csv"] = "html"


class Bars(_Command):
    """Read a symbol's price bars, oldest first (engine.bars); never kept in the journal."""

    command: Literal["bars"]
    symbol: Symbol
    interval_s: int = 60
    limit: Annotated[int, Field(ge=1, le=1_001)] = 500

    @field_validator("interval_s")
    @classmethod
    def _a_width_there_is(cls, value: int) -> int:
        if value not in BAR_WIDTHS:
            raise ValueError(f"expected one of {', '.join(map(str, BAR_WIDTHS))} (seconds)")
        return value


class Curves(_Command):
    """Read the curves of profit of accounts or strategies (engine.curves); never kept in the journal.

    ``names``: these; absent: the ``top`` that have moved most.
    """

    command: Literal["curves"]
    of: Literal["account", "strategy"]
    names: Annotated[tuple[Text, ...], Field(min_length=1, max_length=20)] | None = None
    top: Annotated[int, Field(ge=1, le=20)] = 8


class Presence(_Command):
    """The desk's sign of life for the dead-man's switch; never kept in the journal."""

    command: Literal["presence"]


Command = (
    Approve
    | Reject
    | Force
    | Resend
    | CancelOrder
    | CancelOrders
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
    | LookUp
    | SetAccountActive
    | SetAccountsActive
    | LogIn
    | ReloadAccounts
    | SetLimits
    | SetAccount
    | Acknowledge
    | TestAlerts
    | Review
    | Adopt
    | Repair
    | Preview
    | Note
    | Report
    | Bars
    | Curves
    | Presence
)
UNRECORDED = (Presence, Preview, Report, Bars, Curves)
"""What changes nothing and is asked often: kept neither in the journal nor in the audit trail; any role may."""
_COMMANDS = tuple(
    get_args(kind.model_fields["command"].annotation)[0] for kind in get_args(Command)
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
        raise CommandRefused("INVALID_COMMAND", f"{where}: {_says(first)}", 422) from None


def _says(finding: ErrorDetails) -> str:
    """Return a finding in words for whoever sent the command."""
    if finding["type"] not in {"union_tag_not_found", "union_tag_invalid"}:
        return finding["msg"].removeprefix("Value error, ")
    given = finding["input"].get("command")
    shown = "" if given is None else f"{str(given)[:64]!a}: "
    return f"{shown}expected one of {', '.join(_COMMANDS)}"
