"""Errors, named by what the caller must do next.

TradingError
    ConfigError            tell the user and exit with status 2
    HomeLocked             another engine holds this home: exit with status 3
    InvalidSignal          acknowledge to the sender, report, do nothing else
    CommandRefused         tell the operator: code, sentence
    BrokerError            about one account; never reaches the others
        BrokerUnavailable  not a byte left: may be sent again
        OutcomeUnknown     bytes left and no proof came back: look up by ClOrdID, never resend blind
        BrokerAuthError    stop that session until its credentials are mended
        BrokerRejected     the broker proved that it did not accept
        BrokerProtocolError unreadable reply: treat as unknown
    StoreError             no durable record, no order
    InvariantError         our own reasoning failed: halt trading

Denials (ours) and rejections (the broker's) of orders are values, not exceptions.
"""

from __future__ import annotations


class TradingError(Exception):
    """Base of every error this product raises on purpose; its text is fit for a user."""


class ConfigError(TradingError):
    """A configuration value is wrong; the text names the key, its value and what was expected."""


class HomeLocked(TradingError):
    """Another engine holds this home."""


class InvalidSignal(TradingError):
    """A signal that cannot be read or breaks a rule of schema v1."""

    def __init__(self, code: str, field: str, message: str) -> None:
        super().__init__(message)
        self.code = code
        self.field = field
        self.message = message

    def as_dict(self) -> dict[str, str]:
        """Return the body of the 400 answer."""
        return {"code": self.code, "field": self.field, "message": self.message}


class CommandRefused(TradingError):
    """An operator's command that cannot be carried out.

    ``status`` is the HTTP status it maps to: 404 no such thing, 409 not in this state, 422 wrong fields.
    """

    def __init__(self, code: str, message: str, status: int = 409) -> None:
        super().__init__(message)
        self.code = code
        self.message = message
        self.status = status


class BrokerError(TradingError):
    """Something went wrong with one account's broker."""

    def __init__(
        self, message: str, *, account: str = "", retry_after: float | None = None
    ) -> None:
        super().__init__(message)
        self.account = account
        self.retry_after = retry_after


class BrokerUnavailable(BrokerError):
    """Not a byte of the request left; it may be sent again."""


class OutcomeUnknown(BrokerError):
    """Bytes left and no proof came back; look up by ClOrdID before anything else."""


class BrokerAuthError(BrokerError):
    """The broker refuses these credentials."""


class BrokerRejected(BrokerError):
    """The broker proved that it did not accept the request."""


class BrokerProtocolError(BrokerError):
    """The reply cannot be read; the outcome is unknown."""


class StoreError(TradingError):
    """A store failed; without a durable record no order leaves."""


class InvariantError(TradingError):
    """An invariant of the engine is broken; trading halts."""
