"""What a load test sends in each dialect: one market order, for accounts the venue opens on first sight."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from decimal import Decimal
from zlib import crc32

from engine.brokers.paper.market import PaperMarket
from engine.brokers.registry import make_adapter
from engine.brokers.session import WireSession
from engine.config import Config
from engine.errors import ConfigError
from engine.model.account import Account
from engine.model.enums import ConnectionState, OrderType, Side, TimeInForce
from engine.model.identifiers import cl_ord_id
from engine.model.messages import ExecutionReport
from engine.model.order import Order

SECRET = "loadtest-secret"  # noqa: S105 (of accounts that live as long as one run)


@dataclass(frozen=True, slots=True)
class Dialect:
    """One broker's side of a load test.

    ``price``: the reference the engine plans with. ``key`` and ``secret``: names of the credentials the venue
    knows an account by; ``token``: of the one a login would bring, for which the venue takes the secret.
    ``library`` and ``library_symbol``: ccxt's class and symbol, empty where it has none.
    """

    name: str
    symbol: str
    price: Decimal
    quantity: str
    key: str = "key_id"
    secret: str = "secret"  # noqa: S105 (a name)
    token: str = ""
    library: str = ""
    library_symbol: str = ""

    def credentials(self, owner: str, number: int) -> dict[str, str]:
        """Return the credentials of one account; every way of sending has accounts of its own."""
        name = f"{owner}{number:05d}"
        if self.key == "account_id":  # OANDA's are digits and dashes
            name = f"101-{crc32(owner.encode()):010d}-{number:05d}"
        found = {self.key: name, self.secret: SECRET}
        return found | {self.token: SECRET} if self.token else found

    def account(self, owner: str, number: int, url: str, credentials: Mapping[str, str]) -> Account:
        """Return the document of one account."""
        return Account.model_validate(
            {
                "id": f"{owner}-{number:05d}",
                "broker": self.name,
                "base_url": url,
                "credentials": dict(credentials),
                "sizing": {"method": "fixed", "quantity": self.quantity},
            }
        )


DIALECTS = {
    dialect.name: dialect
    for dialect in (
        # ccxt's Alpaca class knows crypto only.
        Dialect(
            "alpaca", "AAPL", Decimal("189.40"), "1", library="alpaca", library_symbol="BTC/USD"
        ),
        Dialect(
            "binance",
            "BTCUSDT",
            Decimal(60_000),
            "0.001",
            library="binance",
            library_symbol="BTC/USDT",
        ),
        Dialect("oanda", "EUR_USD", Decimal("1.1"), "1", key="account_id", secret="token"),  # noqa: S106 (a name)
        Dialect("kite", "NSE:INFY", Decimal(1_500), "1", token="access_token"),  # noqa: S106 (a name)
    )
}


class RequestWriter:
    """Writes the very requests the engine's adapter sends, for accounts of ``owner``.

    So every way of sending is measured on the same bytes, signed where the broker wants them signed.
    """

    def __init__(
        self, dialect: Dialect, config: Config, owner: str, accounts: int, url: str
    ) -> None:
        self._dialect = dialect
        self._owner = owner
        self._adapter = make_adapter(dialect.name, config, PaperMarket())
        self._sessions: list[WireSession] = []
        for number in range(accounts):
            credentials = dialect.credentials(owner, number)
            account = dialect.account(owner, number, url, credentials)
            session = self._adapter.session(account, credentials, _Nobody())
            if not isinstance(session, WireSession):
                raise ConfigError(f"the {dialect.name} adapter does not send over the wire")
            self._sessions.append(session)

    def requests(self, number: int) -> list[bytes]:
        """Return one new order for each account."""
        dialect, now = self._dialect, datetime.now(UTC)
        return [
            session.new_order_request(
                Order(
                    cl_ord_id=cl_ord_id(
                        "loadtest", self._owner, str(number), session.account_id, "entry"
                    ),
                    account=session.account_id,
                    symbol=dialect.symbol,
                    side=Side.BUY,
                    order_qty=Decimal(dialect.quantity),
                    order_type=OrderType.MARKET,
                    time_in_force=TimeInForce.DAY,
                    created_at=now,
                )
            )
            for session in self._sessions
        ]

    async def close(self) -> None:
        """Release what the adapter shares; its sessions were never started."""
        await self._adapter.close()


class _Nobody:
    """A sink for sessions that only write."""

    def on_report(self, report: ExecutionReport) -> None:
        """Take nothing."""

    def on_connection(self, account: str, state: ConnectionState, text: str) -> None:
        """Take nothing."""

    def on_ready(self, account: str) -> None:
        """Take nothing."""

    def on_limits(
        self,
        account: str,
        *,
        used: int | None = None,
        limit: int | None = None,
        resets_in_s: float | None = None,
        retry_after_s: float | None = None,
        address_wide: bool = False,
    ) -> None:
        """Take nothing."""
