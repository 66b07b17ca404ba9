"""What brokers do differently with the one book, and what faults make it do."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True, slots=True)
class Rules:
    """What brokers do differently; a dialect sets ``venue.rules`` to its own.

    ``client_ids`` are unique for ever, among open orders only, or labels that nobody checks.
    ``holds_positions``: while open orders hold some of a position, what would close more than they
    leave is refused.
    ``cancels_together``: cancelling one of linked orders cancels the others.
    """

    client_ids: Literal["durable", "open_only", "none"] = "durable"
    holds_positions: bool = False
    cancels_together: bool = True


@dataclass(slots=True)
class Quirks:
    """What a fault makes the venue do for the one request it is busy with.

    ``skew_s``: how wrong its clock is. ``hide_s``: how long look-ups do not see a new order.
    ``duplicate``: a new order is placed, and refused as if its client id had been used before
    (``Refused.placed``), where client ids are more than labels.
    ``several_ids``: for dialects whose placements may have several ids (Kite).
    """

    skew_s: float = 0.0
    hide_s: float = 0.0
    duplicate: bool = False
    several_ids: bool = False
