"""A signal as JSON of schema v1, and back."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime
from decimal import Decimal
from typing import Any

import orjson

from engine.clock import rfc3339
from engine.intake.parser import build_signal
from engine.model.numbers import to_text
from engine.model.signal import Signal

_NUMBERS = (
    "limit_price", "stop_price", "stop_loss", "take_profit", "trail_percent", "quantity",
    "valid_for_s", "reference_price",
)  # fmt: skip


def signal_document(signal: Signal) -> dict[str, Any]:
    """Return a signal as a schema v1 object: numbers as text, absent fields left out."""
    document: dict[str, Any] = {
        "id": signal.id,
        "source": signal.source,
        "strategy": signal.strategy,
        "symbol": signal.symbol,
        "action": signal.action.value,
        "order_type": signal.order_type.value,
        "time_in_force": signal.time_in_force.value,
        "issued_at": rfc3339(signal.issued_at),
    }
    for name in _NUMBERS:
        value: Decimal | None = getattr(signal, name)
        if value is not None:
            document[name] = to_text(value)
    if signal.audience is not None:
        audience = {"accounts": signal.audience.accounts, "tags": signal.audience.tags}
        document["audience"] = {
            name: sorted(names) for name, names in audience.items() if names is not None
        }
    if signal.meta:
        document["meta"] = dict(signal.meta)
    return document


_ANY_TIME = datetime.max.replace(tzinfo=UTC)


def signal_from_document(body: bytes, body_hash: str) -> Signal:
    """Rebuild a signal the journal kept. It was judged when it came: the clock may have been set back since."""
    signal = build_signal(orjson.loads(body), source=None, now=_ANY_TIME)
    return replace(signal, body_hash=body_hash)
