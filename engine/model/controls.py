"""The thirty named controls: what each keeps in bounds, the codes it refuses with, where the desk shows it.

The numbers are those of the project's reliability specification, whose sources are the market-access rules of the
USA (17 CFR 240.15c3-5), the EU (RTS 6, 2017/589) and India (SEBI 2025), and the FIA's guides.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final


@dataclass(frozen=True, slots=True)
class Control:
    """One control. ``codes`` are those of engine.model.codes; ``place`` is the desk's panel."""

    number: str
    title: str
    meaning: str
    codes: tuple[str, ...]
    place: str


CONTROLS: Final = tuple(
    Control(*row)
    for row in (
        ("C01", "Arm gate", "Nothing is sent until recovery and reconciliation have passed and a person has armed.",
         ("DISARMED", "NOT_RECONCILED", "LIMITS_UNSET"), "risk"),
        ("C02", "Order quantity", "One order, and all orders of one signal and account within a minute.",
         ("QTY_MAX",), "risk"),
        ("C03", "Order value", "Quantity × price × multiplier of one order, and of a signal's slices together.",
         ("VALUE_MAX",), "risk"),
        ("C04", "Price collar", "Prices lie near a fresh reference; without one nothing is sent.",
         ("COLLAR", "REF_MISSING", "REF_STALE", "DRIFT"), "risk"),
        ("C05", "Projected position", "Position, working, unknown and this order together.",
         ("POS_MAX", "POSITION_LIMIT"), "risk"),
        ("C06", "Exposure", "Open orders and gross exposure of the account and of the firm, counted when reserved.",
         ("OPEN_VALUE_MAX", "EXPOSURE_MAX"), "risk"),
        ("C07", "Fan-out", "One signal's accounts and total value; over it nothing of the signal is sent.",
         ("FANOUT_ACCOUNTS", "FANOUT_VALUE"), "signals"),
        ("C08", "Daily loss", "Realised and unrealised since the session's open; entries end, exits go on.",
         ("DAILY_LOSS",), "risk"),
        ("C09", "Message rate", "Tokens and calendar seconds, per account, address and firm; 30 % is kept for cancels.",
         ("RATE",), "risk"),
        ("C10", "Orders a day", "Per account, strategy and firm.", ("DAY_MAX",), "risk"),
        ("C11", "Repeated execution", "A strategy's automated executions until a person reviews it.",
         ("UNREVIEWED",), "risk"),
        ("C12", "Duplicate signal", "The same id for ever, the same content within a window.",
         ("DUPLICATE", "REPEATED"), "signals"),
        ("C13", "Freshness", "The signal's age when its order leaves.", ("STALE", "FUTURE"), "signals"),
        ("C14", "Instrument and permission", "The account's list, the broker's master and the restricted list.",
         ("SYMBOL_NOT_ALLOWED", "NOT_TRADABLE", "RESTRICTED"), "risk"),
        ("C15", "Session calendar", "The account's hours in its zone, holidays, early closes.",
         ("OUTSIDE_HOURS",), "accounts"),
        ("C16", "Exact numbers", "Decimal from text, finite, positive, on the tick and the lot.",
         ("TICK", "QTY_MIN", "INEXACT"), "signals"),
        ("C17", "Trading state", "Firm, broker, account, strategy, symbol: the strictest wins; cancels always pass.",
         ("HALTED", "PAUSED", "DISARMED"), "risk"),
        ("C18", "Kill switch", "Latch durably, send nothing, cancel everything, chase what is accepted late.",
         ("HALTED", "KILL_INCOMPLETE"), "risk"),
        ("C19", "Out-of-band kill", "A process of its own that cancels with engine or desk hung; dead-man's switch.",
         ("DESK_LOST", "ENGINE_HUNG"), "risk"),
        ("C20", "Override", "Soft blocks only, one order at a time, with a reason and the PIN.",
         ("PIN_REQUIRED", "PIN_WRONG", "FORBIDDEN"), "signals"),
        ("C21", "Unknown orders", "They reserve exposure, block their side, and halt the account when too many.",
         ("UNKNOWN_OPEN", "UNKNOWN_ORDERS", "OUTCOME_UNKNOWN"), "orders"),
        ("C22", "Conservation", "What leaves is never more than what was planned, at the socket.",
         ("CONSERVATION",), "risk"),
        ("C23", "Reject storm", "Rejections in a row, or a share of the last twenty.", ("REJECT_STORM",), "accounts"),
        ("C24", "Broker breaker", "Failures and timeouts open the circuit; a read closes it again.",
         ("BREAKER_OPEN",), "accounts"),
        ("C25", "Reconciliation", "Orders, positions and cash against the broker's; a difference seen twice reduces.",
         ("DRIFTED", "CORPORATE_ACTION", "FOREIGN_ORDER"), "risk"),
        ("C26", "Clock", "Drift against brokers' clocks, wall steps against the monotonic clock, a high-water mark.",
         ("CLOCK",), "risk"),
        ("C27", "Single writer", "One engine a home by the system's lock, one a book by epoch and lease.",
         ("EPOCH", "OTHER_HOST"), "risk"),
        ("C28", "Fingerprint", "Program, configuration and limits, stamped on every intent.",
         ("FINGERPRINT",), "risk"),
        ("C29", "Alerts", "Seen within seconds, grouped, and escalated when nobody acknowledges.",
         ("UNACKNOWLEDGED",), "alerts"),
        ("C30", "Audit trail", "Append-only, chained by hashes, every decision.", ("AUDIT_BROKEN",), "risk"),
    )
)  # fmt: skip
BY_CODE: Final = {code: control.number for control in reversed(CONTROLS) for code in control.codes}
"""The first control a code belongs to."""
