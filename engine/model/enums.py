"""Enumerations; values are the words the API and the files use."""

from __future__ import annotations

from enum import StrEnum
from typing import TypeVar

_E = TypeVar("_E", bound=type[StrEnum])


def _plain_members(enum: _E) -> _E:
    """Make ``Enum.MEMBER`` a plain look-up, as it is from Python 3.12 on; 3.11 runs Python code each time."""
    for name, member in enum.__members__.items():
        type.__setattr__(enum, name, member)
    return enum


class Word(StrEnum):
    """A word of the API. Hashes as the text it equals, in C (``Enum`` hashes the member's name, in Python)."""

    __hash__ = str.__hash__


@_plain_members
class Action(Word):
    """What a signal asks for."""

    BUY = "buy"
    SELL = "sell"
    CLOSE = "close"
    CANCEL = "cancel"
    MODIFY = "modify"


@_plain_members
class Side(Word):
    """Side of an order (FIX 54)."""

    BUY = "buy"
    SELL = "sell"

    @property
    def sign(self) -> int:
        """Return +1 for a buy, -1 for a sell."""
        return 1 if self is Side.BUY else -1

    @property
    def opposite(self) -> Side:
        """Return the side that closes this one."""
        return Side.SELL if self is Side.BUY else Side.BUY


@_plain_members
class OrderType(Word):
    """OrdType (FIX 40)."""

    MARKET = "market"
    LIMIT = "limit"
    STOP = "stop"
    STOP_LIMIT = "stop_limit"

    @property
    def needs_limit(self) -> bool:
        """Say whether a limit price belongs to this type."""
        return self in {OrderType.LIMIT, OrderType.STOP_LIMIT}

    @property
    def needs_stop(self) -> bool:
        """Say whether a stop price belongs to this type."""
        return self in {OrderType.STOP, OrderType.STOP_LIMIT}


@_plain_members
class TimeInForce(Word):
    """TimeInForce (FIX 59)."""

    DAY = "day"
    GTC = "gtc"
    IOC = "ioc"
    FOK = "fok"


@_plain_members
class OrderStatus(Word):
    """OrdStatus (FIX 39), plus our own ``denied`` (never sent) and ``unknown`` (sent, no proof).

    ``terminal``: nothing may change it any more. ``working``: the order may still fill, as far as we know.
    """

    terminal: bool
    working: bool

    PENDING_NEW = "pending_new"
    NEW = "new"
    PARTIALLY_FILLED = "partially_filled"
    FILLED = "filled"
    PENDING_CANCEL = "pending_cancel"
    CANCELED = "canceled"
    REPLACED = "replaced"
    REJECTED = "rejected"
    DENIED = "denied"
    EXPIRED = "expired"
    UNKNOWN = "unknown"


TERMINAL = frozenset(
    {
        OrderStatus.FILLED,
        OrderStatus.CANCELED,
        OrderStatus.REPLACED,
        OrderStatus.REJECTED,
        OrderStatus.DENIED,
        OrderStatus.EXPIRED,
    }
)
# Set once: they are asked for every report of every order.
for _status in OrderStatus:
    _status.terminal = _status in TERMINAL
    _status.working = not _status.terminal


@_plain_members
class ExecType(Word):
    """Why a report was made (FIX 150)."""

    NEW = "new"
    TRADE = "trade"
    TRADE_CANCEL = "trade_cancel"  # a fill is undone (bust)
    CANCELED = "canceled"
    REPLACED = "replaced"
    REJECTED = "rejected"
    EXPIRED = "expired"
    PENDING_CANCEL = "pending_cancel"
    CANCEL_REJECTED = "cancel_rejected"
    STATUS = "status"  # answer to a look-up: state as of now
    UNSENT = "unsent"  # the wire: not a byte left
    UNKNOWN = "unknown"  # the wire: bytes left, no proof


@_plain_members
class SignalState(Word):
    """Where a signal stands."""

    ACCEPTED = "accepted"
    HELD = "held"
    REFUSED = "refused"
    REJECTED = "rejected"  # by an operator
    EXPIRED = "expired"  # held for review until its time was over


@_plain_members
class Outcome(Word):
    """What became of one account for one signal."""

    SENT = "sent"
    SKIPPED = "skipped"  # not eligible, or nothing to do
    REFUSED = "refused"  # eligible, denied by sizing or risk
    HELD = "held"  # waits for approval
    UNKNOWN = "unknown"
    PENDING = "pending"  # durable, not yet on the wire


@_plain_members
class TradingState(Word):
    """State of a scope; the strictest that applies wins."""

    ACTIVE = "active"
    REDUCING = "reducing"
    DISARMED = "disarmed"
    HALTED = "halted"


@_plain_members
class ConnectionState(Word):
    """State of one account's broker session."""

    DISCONNECTED = "disconnected"
    CONNECTING = "connecting"
    CONNECTED = "connected"
    DEGRADED = "degraded"  # orders can be sent, the order stream is down
    ERROR = "error"  # needs a person: credentials, permissions


@_plain_members
class Severity(Word):
    """How loudly to say it."""

    INFO = "info"
    WARNING = "warning"
    CRITICAL = "critical"
