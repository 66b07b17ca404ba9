"""A release in two steps: one account's order first, the others only once it is filled."""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import datetime
from decimal import Decimal
from enum import StrEnum
from typing import Any

from engine.model.enums import OrderStatus
from engine.model.order import Order


class Phase(StrEnum):
    """Where a staged release stands; words the desk shows."""

    WAITING = "waiting"  # for the canary's fill
    RELEASED = "released"  # the rest has gone out
    HALTED = "halted"  # so many of the rest were rejected that what had not left was withheld
    STOPPED = "stopped"  # the canary was not filled: the rest is held again
    EXPIRED = "expired"  # no fill in time: the rest is over
    ENDED = "ended"  # an operator decided on the rest before the canary's fill


@dataclass(slots=True)
class Stage:
    """One staged release of a signal.

    ``rest``: the accounts that wait, in order. ``sent``: those that were released. ``price``: the market when it was
    approved. ``changes``: what the operator changed, as in the command. ``max_rejects``: with so many of the rest
    rejected nothing more leaves. ``going``: the rest is being released just now; never kept, a restart decides anew.
    """

    canary: str
    rest: dict[str, None]
    expires_at: datetime
    max_rejects: int
    price: Decimal | None = None
    changes: dict[str, str] = field(default_factory=dict)
    sent: list[str] = field(default_factory=list)
    phase: Phase = Phase.WAITING
    text: str = ""
    going: bool = False

    @property
    def waits(self) -> bool:
        """Say whether the rest still waits for the canary."""
        return self.phase is Phase.WAITING

    def rejected(self, orders: dict[str, Order]) -> int:
        """Return how many of the rest their brokers have rejected."""
        return sum(
            orders[account].status is OrderStatus.REJECTED
            for account in self.sent
            if account in orders
        )

    def unanswered(self, orders: dict[str, Order]) -> int:
        """Return how many of the rest their brokers have not answered: they may still be rejected, or come back."""
        open_states = {OrderStatus.PENDING_NEW, OrderStatus.UNKNOWN}
        return sum(
            orders[account].status in open_states for account in self.sent if account in orders
        )

    def end(self, phase: Phase, text: str) -> None:
        """Go to another phase, and say why."""
        self.phase, self.text = phase, text

    def document(self) -> dict[str, Any]:
        """Return it as the plan in the journal keeps it."""
        return {
            "canary": self.canary,
            "rest": list(self.rest),
            "expires_at": self.expires_at.isoformat(),
            "max_rejects": self.max_rejects,
            "price": None if self.price is None else str(self.price),
            "changes": self.changes,
            "sent": self.sent,
            "phase": self.phase.value,
            "text": self.text,
        }


def stage_from_document(document: dict[str, Any] | None) -> Stage | None:
    """Read what ``document`` wrote."""
    if document is None:
        return None
    price = document["price"]
    return Stage(
        canary=document["canary"],
        rest=dict.fromkeys(document["rest"]),
        expires_at=datetime.fromisoformat(document["expires_at"]),
        max_rejects=document["max_rejects"],
        price=None if price is None else Decimal(price),
        changes=document["changes"],
        sent=document["sent"],
        phase=Phase(document["phase"]),
        text=document["text"],
    )


def sentence(stage: Stage) -> str:
    """Say where it stands, in a line for the blotter."""
    if stage.waits:
        return f"canary {stage.canary} 1/{1 + len(stage.rest)} → waiting for its fill"
    return stage.text
