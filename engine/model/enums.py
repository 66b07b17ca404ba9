"""Enumerations; values are the words the API and the files use."""

from __future__ import annotations

from enum import StrEnum


class Action(StrEnum):
    """What a signal asks for."""

    BUY = "buy"
    SELL = "sell"
    CLOSE = "close"
    CANCEL = "cancel"
    MODIFY = "modify"


class Side(StrEnum):
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


class OrderType(StrEnum):
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


class TimeInForce(StrEnum):
    """TimeInForce (FIX 59)."""

    DAY = "day"
    GTC = "gtc"
    IOC = "ioc"
    FOK = "fok"


class OrderStatus(StrEnum):
    """OrdStatus (FIX 39), plus our own ``denied`` (never sent) and ``unknown`` (sent, no proof)."""

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

    @property
    def terminal(self) -> bool:
        """Say whether nothing may change this status any more."""
        return self in TERMINAL

    @property
    def working(self) -> bool:
        """Say whether the order may still fill, as far as we know."""
        return self not in TERMINAL


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


class ExecType(StrEnum):
    """Why a report was made (FIX 150)."""

    NEW = "new"
    TRADE = "trade"
    CANCELED = "canceled"
    REPLACED = "replaced"
    REJECTED = "rejected"
    EXPIRED = "expired"
    PENDING_CANCEL = "pending_cancel"
    CANCEL_REJECTED = "cancel_rejected"
    STATUS = "status"  # answer to a look-up: state as of now
    UNSENT = "unsent"  # the wire: not a byte left
    UNKNOWN = "unknown"  # the wire: bytes left, no proof


class SignalState(StrEnum):
    """Where a signal stands."""

    ACCEPTED = "accepted"
    HELD = "held"
    REFUSED = "refused"
    REJECTED = "rejected"  # by an operator
    EXPIRED = "expired"  # held for review until its time was over


class Outcome(StrEnum):
    """What became of one account for one signal."""

    SENT = "sent"
    SKIPPED = "skipped"  # not eligible, or nothing to do
    REFUSED = "refused"  # eligible, denied by sizing or risk
    HELD = "held"  # waits for approval
    UNKNOWN = "unknown"
    PENDING = "pending"  # durable, not yet on the wire


class TradingState(StrEnum):
    """State of a scope; the strictest that applies wins."""

    ACTIVE = "active"
    REDUCING = "reducing"
    DISARMED = "disarmed"
    HALTED = "halted"


class ConnectionState(StrEnum):
    """State of one account's broker session."""

    DISCONNECTED = "disconnected"
    CONNECTING = "connecting"
    CONNECTED = "connected"
    DEGRADED = "degraded"  # orders can be sent, the order stream is down
    ERROR = "error"  # needs a person: credentials, permissions


class Severity(StrEnum):
    """How loudly to say it."""

    INFO = "info"
    WARNING = "warning"
    CRITICAL = "critical"
