"""The kill switch in a process of its own: cancels everything at the brokers while the engine hangs or is gone.

It shares nothing with the engine but files: it latches first (``HOME/latch``), reads journal and accounts, speaks to
the brokers over sessions of its own, follows no order stream and renews no token. What it believes is each broker's
own list of working orders, read until it stays empty for as long as an order may take to show.
"""

from __future__ import annotations

import asyncio
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from decimal import Decimal
from pathlib import Path
from time import monotonic, monotonic_ns
from typing import Any, Final

from engine.brokers.paper.market import PaperMarket
from engine.brokers.registry import make_adapter
from engine.brokers.session import WireSession
from engine.clock import rfc3339
from engine.config import Config
from engine.errors import StoreError, TradingError
from engine.execution.rate_limit import RateLimit, TokenBucket, calendar_second
from engine.home import Home
from engine.kill_books import Books, accounts_of
from engine.kill_clearing import Clearing, Listener, Outcome
from engine.kill_latch import FILE, KillLatch
from engine.log import register_secret
from engine.model.account import Account
from engine.model.messages import ExecutionReport
from engine.model.numbers import ZERO
from engine.model.order import Order
from engine.ports import BrokerAdapter, BrokerSession, Capabilities, SessionToken, TokenStore, Vault
from engine.stores.token_store import FileTokenStore
from engine.stores.vault import FileVault

GIVE_UP_S: Final = 60.0
AT_ONCE: Final = 32
"""Accounts connecting to one place at a time."""


@dataclass(frozen=True, slots=True)
class Act:
    """What is asked for."""

    scope: str
    reason: str
    by: str
    flatten: bool = False
    drill: bool = False
    """Only connect and list; nothing is latched and nothing sent."""
    give_up_s: float = GIVE_UP_S


def latch(home: Path, act: Act) -> tuple[float, str]:
    """Halt the scope for whatever engine runs or will run here; durable when this returns.

    Return the milliseconds that took, and when the scope was halted first.

    Raises:
        OSError: the latch cannot be written.
    """
    began = monotonic_ns()
    shared = KillLatch(home / FILE)
    try:
        now = rfc3339(datetime.now(UTC))
        shared.halt(act.scope, act.reason, act.by, now, unfinished=True)
        if act.flatten:
            shared.flattened(act.scope)
        shared.press()
        shared.sync()
        record = shared.of(act.scope)
        return (monotonic_ns() - began) / 1e6, record["at"] if record else now
    finally:
        shared.close()


class OutOfBandKill:
    """Cancels a scope's orders at every broker, from this process alone; ``latch`` comes first."""

    def __init__(self, home: Home, config: Config, act: Act, since: str) -> None:
        self._home = home
        self._config = config
        self._act = act
        self._since = since
        self._kind, _, self._name = act.scope.partition(":")
        self._books = Books(home.journal)
        self._vault: Vault = FileVault(home.path)
        self._adapters: dict[str, BrokerAdapter] = {}
        self._ways: dict[tuple[object, ...], RateLimit] = {}
        self._places: dict[tuple[str, str | None], asyncio.Semaphore] = {}
        self._began = monotonic()
        self.reply_timeout_s = float(config.engine.reply_timeout_s)
        self.problem = ""
        """Why the journal could not be read: what is ours is not known then."""
        self.canceled_ms = 0.0
        """When the last cancel was handed to its wire for the first time, since this object was made."""

    async def run(self) -> list[Outcome]:
        """Carry it out; every account of the scope has its outcome.

        Raises:
            StoreError: the accounts cannot be read.
        """
        try:
            await asyncio.to_thread(self._books.read)
        except StoreError as error:
            self.problem = str(error)
        accounts, unreadable = await accounts_of(self._home, self._config)
        chosen = [account for account in accounts if self._touches(account)]
        try:
            outcomes = await asyncio.gather(*map(self._account, chosen))
        finally:
            for adapter in self._adapters.values():
                await adapter.close()
        return outcomes + [
            Outcome(account, "?", error=f"its document cannot be read: {text}")
            for account, text in unreadable.items()
        ]

    def _touches(self, account: Account) -> bool:
        if self._kind == "account":
            return account.id == self._name
        return self._kind != "broker" or account.broker == self._name

    # ---- one account -------------------------------------------------------------------------------------------

    async def _account(self, account: Account) -> Outcome:
        outcome = Outcome(account.id, account.broker)
        if account.broker == "paper":
            # Its venue is the engine: nothing of it lives on beside it, and a living one knows what we cannot.
            outcome.clear = True
            outcome.error = "practice: the engine cancels it before it does anything else"
            return outcome
        if self.problem and self._kind in {"symbol", "strategy"}:
            outcome.error = self.problem
            return outcome
        place = (account.broker, account.base_url)
        try:
            session, listener = self._session(account)
        except TradingError as error:
            outcome.error = str(error)
            return outcome
        clearing = Clearing(self, account, session, listener, outcome)
        try:
            starting = asyncio.create_task(session.start())
            try:
                if not self._act.drill:
                    await clearing.cancel_known()
            finally:
                await starting
            async with self._places.setdefault(place, asyncio.Semaphore(AT_ONCE)):
                await (clearing.rehearse() if self._act.drill else clearing.sweep())
            if self._act.drill:
                return outcome
            await clearing.cancel_all(self._began + self._act.give_up_s)
            await clearing.read_positions()
            if self._act.flatten and outcome.verified_at is not None:
                await clearing.flatten(self._books.book, self._since)
        except TradingError as error:
            outcome.clear = False
            outcome.error = str(error)
        finally:
            await session.stop()
        return outcome

    def _session(self, account: Account) -> tuple[BrokerSession, Listener]:
        credentials = {}
        for name, secret in account.credentials.items():
            credentials[name] = self._vault.reveal(account.id, name, secret.get_secret_value())
            register_secret(credentials[name])
        adapter = self._adapters.get(account.broker)
        if adapter is None:
            tokens = _ReadOnly(FileTokenStore(self._home.path, self._vault))
            adapter = make_adapter(account.broker, self._config, PaperMarket(), None, tokens)
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

    def elapsed_ms(self) -> int:
        """Return the milliseconds since this object was made."""
        return round((monotonic() - self._began) * 1e3)

    def note_cancel(self) -> None:
        """Take the time: a cancel was handed to its wire."""
        self.canceled_ms = (monotonic() - self._began) * 1e3

    # ---- the scope ---------------------------------------------------------------------------------------------

    def ours_of_scope(self, account: str) -> dict[str, Order | None]:
        """Return what the journal thinks is not over: ClOrdID → the order, ``None`` for one only planned."""
        found: dict[str, Order | None] = {}
        for planned, (symbol, strategy) in self._books.planned[account].items():
            if self._within(symbol, strategy):
                found[planned] = None
        for order in self._books.orders[account]:
            if self._within(order.symbol, order.strategy):
                found[order.cl_ord_id] = order
        return found

    def position(self, account: str, symbol: str) -> Decimal:
        """Return what the journal says is held of ours."""
        return self._books.positions.get((account, symbol), ZERO)

    def _within(self, symbol: str, strategy: str) -> bool:
        if self._kind == "symbol":
            return symbol == self._name
        return self._kind != "strategy" or strategy == self._name

    def of_scope(self, listed: list[ExecutionReport]) -> list[ExecutionReport]:
        """Return the listed orders that are to go: all, or where the scope is a symbol or strategy, ours of it."""
        if self._kind not in {"symbol", "strategy"}:
            return listed
        strategies = self._books.strategies(report.cl_ord_id for report in listed)
        return [
            report
            for report in listed
            if report.cl_ord_id in strategies
            and self._within(report.symbol, strategies[report.cl_ord_id])
        ]

    def in_symbol(self, symbol: str) -> bool:
        """Say whether positions of a symbol lie in the scope."""
        return self._kind != "symbol" or symbol == self._name

    @property
    def closes_whole(self) -> bool:
        """Say whether what is held of a symbol is wholly in the scope (a strategy's part of it is not known)."""
        return self._kind != "strategy"


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


def row(outcome: Outcome) -> dict[str, Any]:
    """Return an outcome as JSON has it."""
    return asdict(outcome)
