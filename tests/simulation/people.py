"""Who trades on a simulated day: the firm's configuration and the documents of its accounts."""

from __future__ import annotations

from decimal import Decimal
from random import Random
from typing import Any

from engine.config import Config

STRATEGIES = ("breakout", "mean")
TAGS = ("gold", "silver")
HOURS = {"zone": "America/New_York", "open": "09:30", "close": "16:00", "square_off": "15:55"}


def configuration(rng: Random) -> Config:
    """Return the firm's configuration: armed, its limits wide or narrow."""
    return Config.model_validate(
        {
            "engine": {"trading": "active", "allow_simulated_venues": True},
            "limits": {
                "max_signal_value": Decimal(rng.choice([30_000, 250_000, 10**9])),
                "max_accounts_per_signal": rng.choice([4, 200]),
                "max_orders_per_second": rng.choice([3, 20, 100]),
                "price_reference": rng.choice(["required", "required", "when_available"]),
            },
            "signals": {
                "max_age_s": rng.choice([2.0, 5.0, 20.0]),
                "approval_timeout_s": rng.choice([5.0, 15.0]),
            },
        }
    )


def account_document(rng: Random, number: int) -> dict[str, Any]:
    """Return one account's document."""
    sizing = rng.choice(
        [
            {"method": "fixed", "quantity": str(rng.randint(1, 20))},
            {"method": "signal"},
            {"method": "notional", "value": str(rng.randint(500, 9000))},
            {"method": "risk_percent", "percent": "0.01"},
        ]
    )
    return {
        "id": f"A-{number:02d}",
        "broker": rng.choice(["alpaca", "binance", "kite"]),
        "environment": rng.choice(["paper", "live"]),
        "tags": [rng.choice(TAGS)],
        "strategies": rng.choice([["*"], ["*"], [STRATEGIES[0]]]),
        "approval": "review" if rng.random() < 0.15 else "auto",
        "sizing": sizing,
        "limits": limits_document(rng),
    }


def limits_document(rng: Random) -> dict[str, Any]:
    """Return an account's limits; a live account has those without which it takes no entries."""
    limits: dict[str, Any] = {
        "max_order_quantity": str(rng.choice([5, 50, 500])),
        "max_order_value": str(rng.choice([2000, 20_000, 200_000])),
    }
    if rng.random() < 0.3:
        limits["max_orders_per_second"] = rng.choice([1, 2, 5])
    if rng.random() < 0.2:
        limits["max_positions"] = rng.randint(1, 3)
    if rng.random() < 0.2:
        limits["max_position_quantity"] = str(rng.choice([10, 60]))
    return limits
