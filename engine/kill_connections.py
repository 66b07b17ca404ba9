"""Sessions with the brokers that belong to no engine: for a kill from another process, opened for it or kept ready."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from time import monotonic_ns
from typing import Final

from engine.brokers.paper.market import PaperMarket
from engine.brokers.registry import make_adapter
from engine.brokers.session import WireSession
from engine.brokers.wire import WirePool
from engine.config import Config
from engine.execution.rate_limit import RateLimit, TokenBucket, calendar_second
from engine.home import Home
from engine.log import register_secret
from engine.model.account import Account
from engine.model.enums import ConnectionState, ExecType
from engine.model.messages import ExecutionReport
from engine.ports import BrokerAdapter, BrokerSession, Capabilities, SessionToken, TokenStore
from engine.stores.token_store import FileTokenStore
from engine.stores.vault import FileVault

REPLY_WITHIN_S: Final = 3.0
"""A cancel without an answer for so long is asked for again over another connection."""


@dataclass(frozen=True, slots=True)
class Line:
    """One account's session, what it tells, and whether it was connected beforehand."""

    account: Account
    session: BrokerSession
    listener: Listener
    ready: bool = False


class Connections:
    """Makes lines; those that are kept ready are there at once."""

    def __init__(self, home: Home, config: Config) -> None:
        within = min(float(config.engine.reply_timeout_s), REPLY_WITHIN_S)
        engine = config.engine.model_copy(update={"reply_timeout_s": within})
        self._config = config.model_copy(update={"engine": engine})
        self._vault = FileVault(home.path)
        self._tokens = _ReadOnly(FileTokenStore(home.path, self._vault))
        self._adapters: dict[str, BrokerAdapter] = {}
        self._ways: dict[tuple[object, ...], RateLimit] = {}
        self._ready: dict[str, Line] = {}

    def line(self, account: Account) -> Line:
        """Return the line kept ready for an account, else a new one, not connected yet.

        Raises:
            ConfigError: a credential cannot be opened, or the account's document is of no use.
        """
        kept = self._ready.get(account.id)
        if kept is not None and kept.account == account:
            return kept
        session, listener = self._session(account)
        return Line(account, session, listener)

    async def keep_ready(self, account: Account) -> bool:
        """Connect an account and keep it so, with one connection that is used for nothing else; say whether it is.

        Not where the broker counts new connections, or gives each session an end: those are opened when needed.
        """
        await self.let_go(account.id)
        session, listener = self._session(account)
        caps = session.capabilities
        wire = session.wire if isinstance(session, WireSession) else None
        if not isinstance(wire, WirePool) or caps.connects_per_second or caps.sessions_end:
            return False
        wire.without_control()
        self._ready[account.id] = Line(account, session, listener, ready=True)
        await session.start()
        return True

    def kept(self) -> dict[str, Account]:
        """Return the accounts kept ready, as they were then."""
        return {account_id: line.account for account_id, line in self._ready.items()}

    @property
    def connected(self) -> int:
        """Return how many of them have a connection now."""
        return sum(line.session.ready() for line in self._ready.values())

    async def let_go(self, account_id: str) -> None:
        """Keep an account ready no longer."""
        line = self._ready.pop(account_id, None)
        if line is not None:
            await line.session.stop()

    async def close(self) -> None:
        """Close everything."""
        await asyncio.gather(*map(self.let_go, list(self._ready)))
        for adapter in self._adapters.values():
            await adapter.close()

    def _session(self, account: Account) -> tuple[BrokerSession, Listener]:
        credentials = {}
        for name, secret in account.credentials.items():
            credentials[name] = self._vault.reveal(account.id, name, secret.get_secret_value())
            register_secret(credentials[name])
        adapter = self._adapters.get(account.broker)
        if adapter is None:
            adapter = make_adapter(account.broker, self._config, PaperMarket(), None, self._tokens)
            self._adapters[account.broker] = adapter
        caps = adapter.capabilities
        own = RateLimit(*_rules(caps))
        per_address = [TokenBucket(caps.per_address_second, 1.0)] * bool(caps.per_address_second)
        egress = (account.egress.local_address, account.egress.proxy) if account.egress else ()
        address = (account.broker, account.base_url, account.environment, egress)
        way = self._ways.setdefault(address, RateLimit(*per_address))
        listener = Listener(own, way)
        session = adapter.session(account, credentials, listener)
        if isinstance(session, WireSession):
            session.streams = False  # the engine's own may still be there
        return session, listener


class Listener:
    """Hears what a session tells, and keeps to its broker's limits: cancels have all of them to themselves."""

    def __init__(self, own: RateLimit, way: RateLimit) -> None:
        self._own = own
        self._way = way
        self.refused: dict[str, str] = {}

    async def turn(self) -> None:
        """Wait until one more request may leave."""
        while True:
            now = monotonic_ns()
            wait = max(self._own.wait_ns(now), self._way.wait_ns(now))
            if wait <= 0:
                self._own.spend(now)
                self._way.spend(now)
                return
            await asyncio.sleep(wait / 1e9)

    def on_report(self, report: ExecutionReport) -> None:
        """Note what became of an order sent here."""
        if report.exec_type in {ExecType.REJECTED, ExecType.UNSENT}:
            self.refused[report.cl_ord_id] = f"not closed: {report.text}"

    def on_connection(self, account: str, state: ConnectionState, text: str) -> None:
        """Take no notice: what cannot be read says so."""

    def on_ready(self, account: str) -> None:
        """Take no notice: requests wait for their connection."""

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
        """Keep quiet when the broker asks for it."""
        if retry_after_s is not None:
            which = self._way if address_wide else self._own
            which.pause(max(retry_after_s, 0.0), monotonic_ns())


class _ReadOnly:
    """The engine's session tokens, to be used and not to be touched."""

    def __init__(self, tokens: TokenStore) -> None:
        self.load = tokens.load
        self.version = tokens.version

    def save(self, account: str, token: SessionToken) -> None:
        """Keep nothing."""

    def forget(self, account: str) -> None:
        """Remove nothing."""


def _rules(caps: Capabilities) -> list[TokenBucket]:
    rules = [TokenBucket(caps.burst, caps.burst / caps.max_orders_per_second)]
    if caps.per_calendar_second:
        rules.append(calendar_second(caps.per_calendar_second))
    return rules
