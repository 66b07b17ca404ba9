"""Accounts of each dialect on a simulated venue that opens them on first sight."""

from __future__ import annotations

from decimal import Decimal
from typing import Any

from engine.loadtest.dialects import DIALECTS
from tests.processes import VenueProcess

PLACE: dict[str, dict[str, str]] = {
    "alpaca": {"method": "POST", "path": "/v2/orders"},
    "binance": {"method": "POST", "path": "/api/v3/order"},
    "oanda": {"method": "POST", "path": "/v3/accounts/"},
    "kite": {"method": "POST", "path": "/orders/"},
}
"""What places an order, as a fault matches it."""


def account_documents(
    dialect: str, accounts: int, venue: VenueProcess
) -> tuple[list[dict[str, Any]], str, Decimal]:
    """Return account documents, the symbol they trade and its price."""
    spoken = DIALECTS[dialect]
    documents = [
        {
            "id": f"S-{number:05d}",
            "broker": dialect,
            "base_url": venue.url,
            "credentials": spoken.credentials("S", number),
            "sizing": {"method": "fixed", "quantity": spoken.quantity},
        }
        for number in range(accounts)
    ]
    return documents, spoken.symbol, spoken.price
