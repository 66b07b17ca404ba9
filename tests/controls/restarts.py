"""A real engine on a simulated venue, stopped and started again on the same home: what a control's state survives."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from decimal import Decimal
from pathlib import Path
from typing import Any

from tests.processes import alpaca
from tests.world import World, by_account, venue, world

RESTS = {"order_type": "limit", "limit_price": "185", "symbol": "AAPL"}
"""A buy that stays working at the venue, whose AAPL stands at about 189."""


class Home:
    """A home and its venue; ``engine`` starts an engine on it, the first time with the account."""

    def __init__(self, path: Path, url: str, fields: dict[str, Any]) -> None:
        self._path = path
        self._accounts = [alpaca(1, url, **fields)]

    @asynccontextmanager
    async def engine(self, **sections: dict[str, Any]) -> AsyncIterator[World]:
        """Run an engine until the block ends; AAPL has a price that stays fresh, whatever else the machine does."""
        accounts, self._accounts = self._accounts, []
        limits = {"reference_max_age_s": 3600.0} | sections.pop("limits", {})
        still = {"limits": limits, "market": {"source": "none"}} | sections
        async with world(self._path, accounts, **still) as running:
            running.engine.set_prices({"AAPL": Decimal("189.43")})
            yield running


@asynccontextmanager
async def home(path: Path, **account: Any) -> AsyncIterator[Home]:
    """Make a home with one account, whose document ``account`` changes."""
    async with venue() as sim:
        yield Home(path, f"http://127.0.0.1:{sim.port}", account)


async def outcome(running: World, signal_id: str, **fields: Any) -> tuple[str, str]:
    """Send a signal; return the account's code and sentence, both empty when its order was sent."""
    row = by_account(await running.send(id=signal_id, **fields))["A-001"]
    return row["code"], row["message"]


def used(running: World, limit: str, scope: str = "account:A-001") -> str:
    """Return how much of a limit the table ``usage`` says is used."""
    (row,) = [
        row
        for row in running.engine.publisher.rows("usage")
        if row["scope"] == scope and row["limit"] == limit
    ]
    return str(row["used"])


def control(running: World, number: str) -> dict[str, Any]:
    """Return a control's row."""
    (row,) = [row for row in running.engine.publisher.rows("controls") if row["number"] == number]
    return row
