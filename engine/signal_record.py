"""A signal as the engine remembers it: what it asked, what was planned, what came of it, and when."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from datetime import datetime
from decimal import Decimal
from typing import Any

from engine.model.enums import OrderStatus, SignalState
from engine.model.order import Order
from engine.model.receipt import SignalReceipt
from engine.model.signal import Signal
from engine.stage import Stage
from engine.stores.journal_rows import SignalEntry

Reason = tuple[str, str]


@dataclass(slots=True)
class Stamps:
    """Monotonic nanoseconds of a signal's stages; 0 where it has not come to that."""

    received: int = 0
    validated: int = 0
    durable: int = 0
    planned: int = 0
    first_byte: int = 0
    last_byte: int = 0
    first_ack: int = 0
    last_ack: int = 0

    def since_received(self) -> dict[str, int | None]:
        """Return each stage as nanoseconds since ``received``."""
        return {
            name: value - self.received if (value := getattr(self, name)) else None
            for name in (
                "validated",
                "durable",
                "planned",
                "first_byte",
                "last_byte",
                "first_ack",
                "last_ack",
            )
        }

    def note_order(self, order: Order) -> None:
        """Widen the signal's sending and acknowledging by one order's."""
        if order.first_byte_ns:
            self.first_byte = min(self.first_byte or order.first_byte_ns, order.first_byte_ns)
        if order.last_byte_ns:
            self.last_byte = max(self.last_byte, order.last_byte_ns)
        if order.acked_ns:
            self.first_ack = min(self.first_ack or order.acked_ns, order.acked_ns)
            self.last_ack = max(self.last_ack, order.acked_ns)


@dataclass(slots=True)
class SignalRecord:
    """One signal, live."""

    signal: Signal
    origin: str
    received_at: datetime
    state: SignalState
    code: str = ""
    message: str = ""
    stamps: Stamps = field(default_factory=Stamps)
    orders: dict[str, Order] = field(
        default_factory=dict
    )  # by account: the entry (or exit) of this signal
    cancels: dict[str, list[Order]] = field(default_factory=dict)  # of a cancel signal, by account
    done: dict[str, str] = field(
        default_factory=dict
    )  # account → what was done without an order (modify)
    skipped: dict[str, Reason] = field(default_factory=dict)
    refused: dict[str, Reason] = field(default_factory=dict)
    held: dict[str, None] = field(default_factory=dict)
    hold_expires_at: datetime | None = None
    price: Decimal | None = None  # what drift is measured from while it is held
    stage: Stage | None = None  # of its release, where one account went first
    predicted_finish_ms: int | None = None  # of its held orders, were they released now
    predicted_cold: int | None = None  # of them, accounts without a free connection just now
    waiting: set[str] = field(default_factory=set)  # ClOrdIDs sent and not yet answered
    released: bool = False  # an operator's thinking time is no latency of ours
    entry: SignalEntry | None = None
    loaded_trace: dict[str, Any] | None = None
    weight: int = 0  # orders it is counted for in memory (engine.trading_engine)
    fp: str = ""  # the fingerprint it was planned with (engine.fingerprint)

    @property
    def key(self) -> str:
        """Return ``source/id``."""
        return self.signal.key

    @property
    def waiting_rest(self) -> dict[str, None]:
        """Return the accounts that wait for a canary's fill, in order."""
        return self.stage.rest if self.stage is not None else {}

    @property
    def undecided(self) -> bool:
        """Say whether accounts wait: for an operator, or for a canary."""
        return bool(self.held or self.waiting_rest)

    def receipt(self, body_hash: str | None = None) -> SignalReceipt:
        """Return the first outcome; with ``body_hash`` as the answer to a repeat."""
        state, code, message = self.first
        repeated = body_hash is not None and body_hash == self.signal.body_hash
        return SignalReceipt(
            signal_id=self.signal.id,
            source=self.signal.source,
            state=SignalState(state),
            code=code,
            message=message,
            repeated=repeated,
            contradicted=body_hash is not None and not repeated,
        )

    @property
    def first(self) -> list[str]:
        """Return state, code and sentence as the sender was told: nothing that came later changes that answer."""
        if self.entry is not None:
            told: list[str] = self.entry.plan["first"]
            return told
        return [self.state.value, self.code, self.message]

    def plan(self) -> dict[str, Any]:
        """Return the plan as the journal keeps it: every intent, and why every other account has none."""
        reasons: dict[tuple[str, str, str], list[str]] = {}
        for kind, table in (("skipped", self.skipped), ("refused", self.refused)):
            for account, (code, message) in table.items():
                reasons.setdefault((kind, code, message), []).append(account)
        return {
            "first": self.first,
            "fp": self.fp,
            "orders": order_intents(self.orders.values()),
            "cancels": {
                account: [order.cl_ord_id for order in orders]
                for account, orders in self.cancels.items()
            },
            "done": self.done,
            "held": list(self.held),
            "hold_expires_at": self.hold_expires_at.isoformat() if self.hold_expires_at else None,
            **self._held_terms(),
            "reasons": [
                [kind, code, message, accounts]
                for (kind, code, message), accounts in reasons.items()
            ],
        }

    def _held_terms(self) -> dict[str, Any]:
        """Return what only a held signal's plan has: most have none of it, and a plan's size is latency."""
        terms: dict[str, Any] = {}
        if self.price is not None:
            terms["price"] = str(self.price)
        if self.stage is not None:
            terms["stage"] = self.stage.document()
        return terms

    def counts(self) -> dict[str, int]:
        """Return how many accounts ended where."""
        sent = filled = working = rejected = unknown = denied = 0
        for order in self.orders.values():
            status = order.status
            if status is OrderStatus.DENIED:
                denied += 1
                continue
            if status is OrderStatus.UNKNOWN:
                unknown += 1
            elif order.was_sent:
                sent += 1
            if status is OrderStatus.FILLED:
                filled += 1
            elif status is OrderStatus.REJECTED:
                rejected += 1
            elif status.working:
                working += 1
        sent += len(self.cancels) + len(self.done)
        held = len(self.held) + len(self.waiting_rest)
        return {
            "accounts": len(self.orders)
            + held
            + len(self.refused)
            + len(self.cancels)
            + len(self.done),
            "sent": sent,
            "held": held,
            "skipped": len(self.skipped),
            "refused": len(self.refused) + denied,
            "filled": filled,
            "working": working,
            "rejected": rejected,
            "unknown": unknown,
        }


def order_intents(orders: Iterable[Order]) -> list[list[Any]]:
    """Return intents for the plan: everything that is needed to send the orders again after a crash.

    What a signal's orders share is written once: ``[side, type, time in force, limit, stop, leg, reducing, stop loss,
    take profit, trail percent, [[cl_ord_id, account, quantity], ...]]`` (before version 2 of the journal without the
    three exits). The plan is on disk before the first byte of any order leaves, so
    its size is part of the latency of all of them.
    """
    groups: dict[tuple[Any, ...], list[list[str]]] = {}
    texts: dict[Decimal, str] = {}
    for order in orders:
        quantity = order.order_qty
        text = texts.get(quantity)
        if text is None:
            text = texts[quantity] = str(quantity)
        key = (
            order.side,
            order.order_type,
            order.time_in_force,
            order.limit_price,
            order.stop_price,
            order.leg,
            order.reducing,
            order.stop_loss,
            order.take_profit,
            order.trail_percent,
        )
        group = groups.get(key)
        if group is None:
            group = groups[key] = []
        group.append([order.cl_ord_id, order.account, text])
    return [
        [side, kind, tif, _text(limit), _text(stop), leg, reducing, *map(_text, exits), rows]
        for (side, kind, tif, limit, stop, leg, reducing, *exits), rows in groups.items()
    ]


def _text(value: Decimal | None) -> str | None:
    return None if value is None else str(value)
