"""The only place where the engine's parts meet."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from pathlib import Path

from engine.brokers.paper.market import PaperMarket
from engine.brokers.registry import make_adapter
from engine.clock import SystemClock, rfc3339
from engine.config import Config
from engine.eligibility.index import EligibilityIndex
from engine.execution.dispatcher import Dispatcher
from engine.execution.order_manager import OrderManager
from engine.execution.reconciler import Reconciler
from engine.exits import Exits
from engine.fleet import Fleet, FleetHooks
from engine.home import Home
from engine.kill_file import KillFile
from engine.log import register_secret
from engine.market.broker_quotes import BrokerQuotes
from engine.market.instruments import Instruments
from engine.market.simulated import SimulatedPrices
from engine.model import tables
from engine.model.enums import ConnectionState
from engine.operator_desk import OperatorDesk
from engine.parts import PriceSource
from engine.planner import Planner
from engine.portfolio.marks import Marks
from engine.portfolio.position_keeper import PositionKeeper
from engine.ports import AccountStore, BrokerAdapter, History, Mirror, TokenStore, Vault
from engine.publisher import Publisher
from engine.recovery import recover
from engine.reports import EngineReports
from engine.risk.trading_state import TradingStates
from engine.stores.accounts_sqlite import SqliteAccountStore
from engine.stores.journal import Journal
from engine.stores.token_store import FileTokenStore
from engine.stores.vault import FileVault
from engine.telemetry.latency import Latency
from engine.trading_engine import TradingEngine

Closer = Callable[[], Awaitable[None]]


class _Registered:
    """A vault whose every revealed secret is known to the log's redaction."""

    def __init__(self, vault: Vault) -> None:
        self._vault = vault

    def seal(self, account_id: str, name: str, text: str) -> str:
        return self._vault.seal(account_id, name, text)

    def reveal(self, account_id: str, name: str, stored: str) -> str:
        secret = self._vault.reveal(account_id, name, stored)
        register_secret(secret)
        return secret


async def build_engine(home: Home, config: Config) -> TradingEngine:
    """Make an engine of ``home`` and load its state; ``start`` connects it.

    Raises:
        StoreError: the journal or a server of the profile cannot be opened.
        ConfigError: a setting cannot be used.
    """
    clock = SystemClock()
    journal = Journal(home.journal)
    await journal.open()
    try:
        return await _build(home, config, clock, journal)
    except BaseException:
        await journal.close()
        raise


async def _build(home: Home, config: Config, clock: SystemClock, journal: Journal) -> TradingEngine:
    publisher = Publisher(lambda: rfc3339(clock.now()))
    marks = Marks(clock)
    keeper = PositionKeeper(marks)
    index = EligibilityIndex()
    dispatcher = Dispatcher()
    states = TradingStates()
    accounts, mirror, history = await _stores(home, config)
    engine = TradingEngine(
        config=config,
        clock=clock,
        journal=journal,
        publisher=publisher,
        latency=Latency(),
        states=states,
        marks=marks,
        keeper=keeper,
        index=index,
        dispatcher=dispatcher,
        mirror=mirror,
        history=history,
    )
    paper = PaperMarket()
    marks.listen(paper.set_price)
    vault = _Registered(FileVault(home.path))
    tokens = FileTokenStore(home.path, vault)
    fleet = engine.fleet = Fleet(
        config=config,
        clock=clock,
        store=accounts,
        vault=vault,
        make_adapter=lambda name: _adapter(name, config, paper, home.path / "paper", tokens),
        keeper=keeper,
        dispatcher=dispatcher,
        sink=engine,
        gate=engine.gate,
        denied=engine.on_denied,
        hooks=FleetHooks(
            changed=lambda account: publisher.touch(tables.ACCOUNTS, account),
            accounts_changed=lambda: index.replace(fleet.states.values()),
            added=engine.on_account_added,
            connected=engine.on_connected,
            alert=engine.alert,
        ),
    )
    engine.orders = OrderManager(
        clock,
        fleet.states,
        engine.on_order_change,
        engine.on_fill,
        engine.on_broken,
        engine.on_order_repeat,
    )
    dispatcher.denied = engine.on_denied
    engine.instruments = Instruments(fleet.session_of)
    engine.reconciler = Reconciler(
        clock, engine.on_report, engine.on_absent, engine.on_doubt, engine.on_stuck
    )
    engine.exits = Exits(engine)
    engine.planner = Planner(
        book=journal.book,
        config=config,
        clock=clock,
        index=index,
        keeper=keeper,
        marks=marks,
        states=states,
        instrument_of=engine.instruments.get,
        instrument_if_known=engine.instruments.find,
        unsupported=fleet.unsupported,
    )
    engine.prices = _prices(config, fleet, marks)
    operator = engine.operator = OperatorDesk(engine)
    engine.reports = EngineReports(engine, operator)
    journal.on_failure = lambda text: engine.alert(
        "critical", "INTERNAL", "", f"the journal failed, nothing is sent: {text}"
    )
    await fleet.load()
    index.replace(fleet.states.values())
    await recover(engine)
    kill_file = KillFile(engine, home.path / "kill.json")
    await kill_file.latch_first()
    engine.services.append(kill_file)
    if config.storage.profile == "servers":
        intake = _RedisIntake(config, engine)
        engine.services.append(intake)
        engine.links["signals"] = intake.status
    for position in keeper:
        if position.qty and engine.prices is not None:
            engine.prices.follow(position.symbol)
    return engine


def _adapter(
    name: str, config: Config, paper: PaperMarket, directory: Path, tokens: TokenStore
) -> BrokerAdapter:
    if name == "paper":
        directory.mkdir(mode=0o700, exist_ok=True)
    return make_adapter(name, config, paper, directory, tokens)


async def _stores(home: Home, config: Config) -> tuple[AccountStore, Mirror | None, History | None]:
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


def _prices(config: Config, fleet: Fleet, marks: Marks) -> PriceSource | None:
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


class _RedisIntake:
    """Signals from the stream; a signal is acknowledged once the journal has it."""

    def __init__(self, config: Config, engine: TradingEngine) -> None:
        from engine.intake.redis_stream import RedisSignals
        from engine.stores.redis_client import open_redis

        async def handle(body: bytes) -> object:
            return await engine.handle_signal(body, origin="redis")

        self._client = open_redis(config.storage.redis_url)
        self._signals = RedisSignals(
            self._client, handle, stream=config.signals.redis_stream, consumer=config.engine.name
        )

    def status(self) -> tuple[ConnectionState, str]:
        return self._signals.status()

    async def start(self) -> None:
        await self._signals.start()

    async def stop(self) -> None:
        await self._signals.stop()
        await self._client.aclose()
