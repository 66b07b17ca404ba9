"""What an engine meets of the world besides its home: servers, keys, prices, brokers; a simulation brings its own."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass

from engine.brokers.paper.market import PaperMarket
from engine.brokers.registry import make_adapter
from engine.clock import Clock
from engine.config import Config
from engine.errors import InvalidSignal
from engine.fleet import Fleet
from engine.home import Home
from engine.log import register_secret
from engine.market.broker_quotes import BrokerQuotes
from engine.market.simulated import SimulatedPrices
from engine.model.enums import ConnectionState, SignalState
from engine.parts import PriceSource, Service
from engine.portfolio.marks import Marks
from engine.ports import AccountStore, BrokerAdapter, History, Mirror, TokenStore, Vault
from engine.stores.accounts_sqlite import SqliteAccountStore
from engine.stores.journal import Journal
from engine.stores.vault import FileVault
from engine.trading_engine import TradingEngine

Closer = Callable[[], Awaitable[None]]
Stores = tuple[AccountStore, Mirror | None, History | None]


@dataclass(frozen=True, slots=True)
class Outside:
    """All an engine meets of the world besides its home; a simulation brings its own."""

    clock: Clock
    journal: Journal
    vault: Vault
    stores: Callable[[Home, Config], Awaitable[Stores]]
    adapter: Callable[[str], BrokerAdapter] | None = None  # the brokers' own


class RegisteringVault:
    """A vault whose every revealed secret is known to the log's redaction."""

    def __init__(self, vault: FileVault) -> None:
        self._vault = vault
        self.derive = vault.derive

    def seal(self, account_id: str, name: str, text: str) -> str:
        """Return what may be stored."""
        return self._vault.seal(account_id, name, text)

    def reveal(self, account_id: str, name: str, stored: str) -> str:
        """Return the secret."""
        secret = self._vault.reveal(account_id, name, stored)
        register_secret(secret)
        return secret


def open_vault(home: Home) -> RegisteringVault:
    """Open a home's vault; what it reveals is known to the log's redaction."""
    vault = FileVault(home.path)
    vault.unlock()
    return RegisteringVault(vault)


def own_adapters(
    engine: TradingEngine, home: Home, paper: PaperMarket, tokens: TokenStore
) -> Callable[[str], BrokerAdapter]:
    """Return what makes a broker's adapter by its name; its wires ask latch and gate before an order leaves."""

    def make(name: str) -> BrokerAdapter:
        directory = home.path / "paper"
        if name == "paper":
            directory.mkdir(mode=0o700, exist_ok=True)
        adapter = make_adapter(name, engine.config, paper, directory, tokens)
        hub = getattr(adapter, "hub", None)  # what a broker's wires share; paper and ccxt have none
        if hub is not None:
            hub.latch = engine.shared
            hub.gate = engine.gate
        return adapter

    return make


async def open_stores(home: Home, config: Config) -> Stores:
    """Open the stores of the configured profile: accounts, mirror, history."""
    if config.storage.profile == "embedded":
        return SqliteAccountStore(home.path / "accounts.sqlite3"), None, None
    from engine.stores.accounts_mongo import MongoAccountStore
    from engine.stores.history_mongo import MongoHistory
    from engine.stores.mirror_redis import RedisMirror
    from engine.stores.mongo import open_mongo

    register_secret(config.storage.redis_url)
    register_secret(config.storage.mongo_url)
    database = open_mongo(config.storage.mongo_url, config.storage.mongo_driver)
    return (
        MongoAccountStore(database),
        RedisMirror(config.storage.redis_url),
        _Owning(MongoHistory(database), database.close),
    )


def audit_copy(home: Home, config: Config, book: str) -> Service:
    """Return what copies a book's audit trail to the servers of the profile."""
    from engine.stores.audit_mongo import MongoAudit
    from engine.stores.mongo import open_mongo

    database = open_mongo(config.storage.mongo_url, config.storage.mongo_driver)
    return MongoAudit(database, home.journal, book)


class _Owning:
    """A history that closes the client it shares with the accounts, last of all."""

    def __init__(self, history: History, close: Closer) -> None:
        self._history = history
        self._close = close
        self.open = history.open
        self.write = history.write
        self.status = history.status

    async def close(self) -> None:
        await self._history.close()
        await self._close()


def price_source(config: Config, fleet: Fleet, marks: Marks) -> PriceSource | None:
    """Return where reference prices come from, nothing for ``market.source = none``."""
    match config.market.source:
        case "brokers":
            return BrokerQuotes(fleet.one_session_per_venue, marks.set)
        case "simulated":
            return SimulatedPrices(marks.set)
        case "redis":
            return _RedisPriceSource(config, marks)
        case "none":
            return None


class _RedisPriceSource:
    """Prices pushed by others: following a symbol costs nothing and asking brings nothing sooner."""

    def __init__(self, config: Config, marks: Marks) -> None:
        from engine.market.redis_prices import RedisPrices
        from engine.stores.redis_client import open_redis

        self._client = open_redis(config.storage.redis_url)
        self._prices = RedisPrices(self._client, marks.set)

    @property
    def problem(self) -> str:
        state, text = self._prices.status()
        return "" if state is ConnectionState.CONNECTED else text

    def follow(self, symbol: str) -> None:
        """Every symbol on the channel is taken."""

    async def ask(self, symbol: str) -> None:
        """Prices come when they come."""

    async def start(self) -> None:
        await self._prices.start()

    async def stop(self) -> None:
        await self._prices.stop()
        await self._client.aclose()


class Lease:
    """The book's lease in Redis: taken before anything connects, given back at the stop."""

    def __init__(self, config: Config, engine: TradingEngine, home: Home) -> None:
        from engine.stores.lease_redis import BookLease
        from engine.stores.redis_client import open_redis

        journal = engine.journal
        last = engine.facts.get("lease", {}).get("last")
        self._client = open_redis(config.storage.redis_url)
        self._lease = BookLease(self._client, journal.book, home.path, last=last)
        self._lease.on_change = lambda fact: journal.note_fact("lease", "last", fact)
        self._lease.on_lost = lambda text: engine.alert("critical", "EPOCH", "", text)
        self.refusal = self._lease.refusal

    async def take(self) -> None:
        """Raise HomeLocked where another engine has the book."""
        try:
            await self._lease.start()
        except BaseException:
            await self._client.aclose()
            raise

    async def start(self) -> None:
        """It was taken before."""

    async def stop(self) -> None:
        """Give it back."""
        await self._lease.stop()
        await self._client.aclose()


class RedisIntake:
    """Signals from the stream; a signal is acknowledged once the journal has it."""

    def __init__(self, config: Config, engine: TradingEngine) -> None:
        from engine.intake.redis_stream import RedisSignals
        from engine.stores.redis_client import open_redis

        async def handle(body: bytes) -> object:
            receipt = await engine.handle_signal(body, origin="redis")
            # Nobody is answered here: what was refused is told where a producer can look.
            if receipt.contradicted:
                text = f"{receipt.source}/{receipt.signal_id} was sent before with another body"
                raise InvalidSignal("DUPLICATE", "id", text)
            if receipt.state is SignalState.REFUSED:
                raise InvalidSignal(receipt.code, "", receipt.message)
            return receipt

        self._client = open_redis(config.storage.redis_url)
        self._signals = RedisSignals(
            self._client, handle, stream=config.signals.redis_stream, consumer=config.engine.name
        )

    def status(self) -> tuple[ConnectionState, str]:
        """Return the link's state, and what is wrong with it."""
        return self._signals.status()

    async def start(self) -> None:
        """Begin to read."""
        await self._signals.start()

    async def stop(self) -> None:
        """End; what was not taken stays in the stream."""
        await self._signals.stop()
        await self._client.aclose()
