"""The paper broker: makes sessions that share one price feed and one ledger."""

from __future__ import annotations

from decimal import Decimal
from pathlib import Path

from engine.brokers.paper.ledger import MemoryLedger, PaperLedger, SqliteLedger
from engine.brokers.paper.market import PaperMarket
from engine.brokers.paper.session import CAPABILITIES, PaperSession
from engine.errors import ConfigError
from engine.model.account import Account
from engine.model.numbers import parse_decimal
from engine.ports import BrokerSink

_CASH = Decimal(100_000)


class PaperAdapter:
    """Practice accounts against ``market``; they outlive the process in ``state_dir``, if given.

    A credential ``cash`` sets what a fresh account starts with (default 100,000).
    """

    name = "paper"
    capabilities = CAPABILITIES

    def __init__(
        self,
        market: PaperMarket,
        state_dir: Path | None = None,
        *,
        max_fill_qty: Decimal | None = None,
    ) -> None:
        self._market = market
        self._max_fill_qty = max_fill_qty
        self._ledger: PaperLedger = (
            MemoryLedger() if state_dir is None else SqliteLedger(state_dir / "paper.sqlite3")
        )

    def session(
        self, account: Account, credentials: dict[str, str], sink: BrokerSink
    ) -> PaperSession:
        """Make one account's session.

        Raises:
            ConfigError: a ``base_url`` is given, or ``cash`` is no number.
        """
        if account.base_url is not None:
            raise ConfigError(f"account {account.id}: a paper account takes no base_url")
        try:
            cash = parse_decimal(credentials["cash"]) if "cash" in credentials else _CASH
        except ValueError:
            raise ConfigError(f"account {account.id}: cash must be a plain number") from None
        return PaperSession(
            account.id, cash, self._market, self._ledger, sink, max_fill_qty=self._max_fill_qty
        )

    async def close(self) -> None:
        """Write and close the ledger."""
        await self._ledger.close()
