"""The only place where the engine's parts meet."""

from __future__ import annotations

from engine import __version__
from engine.account_changes import AccountChanges
from engine.adjustments import Adjustments
from engine.alert_channels import CODE as ALERT_CHANNEL
from engine.alert_channels import AlertChannels
from engine.bars import Bars
from engine.brokers.paper.market import PaperMarket
from engine.clock import Clock, SystemClock, rfc3339
from engine.config import Config
from engine.config_watch import ConfigWatch
from engine.curves import Curves, StrategyBook
from engine.days.record import DayRecord
from engine.days.reports import DayReports
from engine.desk_watch import DeskWatch
from engine.eligibility.index import EligibilityIndex
from engine.execution.dispatcher import Dispatcher
from engine.execution.order_manager import OrderManager
from engine.execution.reconciler import Reconciler
from engine.exits import Exits
from engine.fingerprint import fingerprint
from engine.fleet import Fleet, FleetHooks
from engine.gate import Gate
from engine.guards import Guards
from engine.home import Home
from engine.kill_file import KillFile
from engine.kill_latch import FILE as LATCH
from engine.kill_latch import KillLatch
from engine.market.instruments import Instruments
from engine.model import commands, tables
from engine.operator_desk import OperatorDesk
from engine.operators import FACT as PIN_FACT
from engine.operators import Authority, Operators
from engine.order_news import OrderNews
from engine.outside import (
    Lease,
    Outside,
    RedisIntake,
    RegisteringVault,
    Stores,
    audit_copy,
    open_stores,
    open_vault,
    own_adapters,
    price_source,
)
from engine.owners import Owners
from engine.planner import Planner
from engine.portfolio.marks import Marks
from engine.portfolio.position_keeper import PositionKeeper
from engine.ports import AccountStore
from engine.pretrade_state import Reviews
from engine.preview import Previews
from engine.publisher import Publisher
from engine.reconciliation import Reconciliation
from engine.recovery import recover
from engine.reports import EngineReports
from engine.risk.pretrade import PreTrade
from engine.risk.trading_state import TradingStates
from engine.stores.channel_store import ChannelStore
from engine.stores.journal import Journal
from engine.stores.token_store import FileTokenStore
from engine.surroundings import Surroundings
from engine.telemetry.latency import Latency
from engine.trading_engine import TradingEngine


async def build_engine(home: Home, config: Config, outside: Outside | None = None) -> TradingEngine:
    """Make an engine of ``home`` and load its state; ``start`` connects it.

    Raises:
        StoreError: the journal or a server of the profile cannot be opened.
        ConfigError: a setting cannot be used.
        HomeLocked: another engine holds the book (profile ``servers``).
    """
    clock: Clock = outside.clock if outside else SystemClock()
    journal = outside.journal if outside else Journal(home.journal)
    await journal.open()
    try:
        return await _build(home, config, clock, journal, outside)
    except BaseException:
        await journal.close()
        raise


async def _build(
    home: Home, config: Config, clock: Clock, journal: Journal, outside: Outside | None
) -> TradingEngine:
    stores = await (outside.stores if outside else open_stores)(home, config)
    engine = _engine(home, config, clock, journal, stores)
    watch = _connect_accounts(engine, home, stores[0], outside)
    guards = engine.guards = _guard(engine)
    reconciliation = engine.reconciliation = _carry_orders(engine)
    _check_orders(engine)
    operator = _let_people_act(engine, home, reconciliation)
    await _load(engine)
    guards.load(engine.facts)
    reconciliation.load(engine.facts)
    operator.authority.load(engine.facts.get(PIN_FACT, {}))
    if watch is not None:
        await watch.compare()
    engine.services += [guards, reconciliation]
    if outside is None:  # a simulation has no days to look back on
        engine.services.append(DayRecord(engine, home.path))
    await _run_beside(engine, home, operator)
    return engine


def _engine(
    home: Home, config: Config, clock: Clock, journal: Journal, stores: Stores
) -> TradingEngine:
    """Make the engine around what holds its state."""
    marks = Marks(clock)
    _, mirror, history = stores
    engine = TradingEngine(
        config=config,
        clock=clock,
        journal=journal,
        publisher=Publisher(lambda: rfc3339(clock.now())),
        latency=Latency(),
        states=TradingStates(),
        marks=marks,
        keeper=PositionKeeper(marks),
        index=EligibilityIndex(),
        dispatcher=Dispatcher(),
        mirror=mirror,
        history=history,
    )
    engine.shared = KillLatch(home.path / LATCH)
    journal.on_failure = lambda text: engine.alert(
        "critical", "INTERNAL", "", f"the journal failed, nothing is sent: {text}"
    )
    return engine


def _connect_accounts(
    engine: TradingEngine, home: Home, accounts: AccountStore, outside: Outside | None
) -> ConfigWatch | None:
    """Make the fleet; return what notices edits made by hand."""
    config = engine.config
    paper = PaperMarket()
    engine.marks.listen(paper.set_price)
    vault = outside.vault if outside else open_vault(home)
    watch = ConfigWatch(engine, vault.derive) if isinstance(vault, RegisteringVault) else None
    tokens = FileTokenStore(home.path, vault)
    engine.outward = AlertChannels(
        config.alerts,
        config.engine.name,
        ChannelStore(home.path, vault).reveal,
        engine.clock,
        lambda text: engine.alert("warning", ALERT_CHANNEL, "", text),
    )
    engine.alerts.pass_on = engine.outward.tell
    engine.services.append(engine.outward)

    def accounts_changed() -> None:
        engine.index.replace(engine.fleet.states.values())
        _take_fingerprint(engine)
        engine.pretrade.follow_limits(engine.keeper)
        engine.controls.renew()
        if watch is not None:
            watch.changed()

    fleet = engine.fleet = Fleet(
        config=config,
        clock=engine.clock,
        store=accounts,
        vault=vault,
        make_adapter=(outside.adapter if outside else None)
        or own_adapters(engine, home, paper, tokens),
        keeper=engine.keeper,
        dispatcher=engine.dispatcher,
        sink=engine,
        gate=engine.gate,
        denied=engine.on_denied,
        hooks=FleetHooks(
            changed=lambda account: engine.publisher.touch(tables.ACCOUNTS, account),
            accounts_changed=accounts_changed,
            added=engine.on_account_added,
            connected=engine.on_connected,
            alert=engine.alert,
            failed=engine.failed,
            opened=lambda state, lane: engine.guards.guard(state, lane),  # noqa: PLW0108 (made after)
        ),
    )
    engine.check_owner = Owners(engine).check
    engine.dispatcher.denied = engine.on_denied
    engine.prices = price_source(config, fleet, engine.marks)
    engine.bars = Bars(engine.clock, engine.keeper.holders)
    engine.marks.listen(engine.bars.on_price)
    book = StrategyBook(engine.marks.price)
    engine.curves = Curves(engine.clock, engine.keeper, lambda: fleet.states, book)
    return watch


def _guard(engine: TradingEngine) -> Guards:
    """Make the controls that trip, and the last gate before a first byte."""
    guards = Guards(engine)
    engine.last_gate = Gate(
        engine.journal,
        engine.fleet.states,
        engine.keeper,
        engine.states,
        engine.shared,
        guards.losses.refusal,
    )
    return guards


def _take_fingerprint(engine: TradingEngine) -> None:
    accounts = [state.account for state in engine.fleet.states.values()]
    engine.fingerprint = fingerprint(engine.config, accounts)


def _carry_orders(engine: TradingEngine) -> Reconciliation:
    """Make what follows an order from its plan to its end; return what compares books."""
    news = engine.news = OrderNews(engine)
    engine.orders = OrderManager(
        engine.clock,
        engine.fleet.states,
        news.on_order_change,
        news.on_fill,
        news.on_broken,
        news.on_order_repeat,
    )
    engine.instruments = Instruments(engine.fleet.session_of)
    engine.reconciler = Reconciler(
        engine.clock,
        engine.on_report,
        news.on_absent,
        news.on_doubt,
        news.on_stuck,
        engine.orders.find,
    )
    engine.exits = Exits(engine)
    return Reconciliation(engine)


def _check_orders(engine: TradingEngine) -> None:
    """Make the checks before an order exists, let them follow every order and position, and the planner."""
    pretrade = engine.pretrade = PreTrade(
        config=engine.config,
        clock=engine.clock,
        states=engine.fleet.states,
        positions=engine.keeper,
        prices=engine.marks,
        instrument_if_known=engine.instruments.find,
        unsupported=engine.fleet.unsupported,
        orders=engine.orders.orders.values,
    )
    engine.orders.book = pretrade
    engine.keeper.moved = pretrade.moved
    engine.last_gate.position = pretrade.position_refusal
    engine.planner = Planner(
        book=engine.journal.book,
        config=engine.config,
        clock=engine.clock,
        index=engine.index,
        keeper=engine.keeper,
        marks=engine.marks,
        states=engine.states,
        instrument_of=engine.instruments.get,
        instrument_if_known=engine.instruments.find,
        pretrade=pretrade,
    )


def _let_people_act(
    engine: TradingEngine, home: Home, reconciliation: Reconciliation
) -> OperatorDesk:
    """Make what carries out commands, and what tells."""

    def refused(code: str, text: str) -> None:
        engine.controls.refused(code, "", text)
        if code == "PIN_WRONG":
            engine.alert("warning", code, "", text)

    authority = Authority(Operators(home), engine.clock, engine.journal, refused)
    desk = engine.operator = OperatorDesk(engine, authority)
    engine.staged = desk.signals.staged
    adjustments = Adjustments(engine, reconciliation, desk.by_hand)
    changes = AccountChanges(engine)
    desk.handlers.update(
        {
            commands.Acknowledge: engine.alerts.acknowledge,
            commands.TestAlerts: engine.outward.probe,
            commands.Review: Reviews(engine).review,
            commands.SetLimits: changes.set_limits,
            commands.SetAccount: changes.set_account,
            commands.SetAccountActive: changes.set_active,
            commands.SetAccountsActive: changes.set_all_active,
            commands.Adopt: adjustments.adopt,
            commands.Repair: adjustments.repair,
            commands.Bars: engine.bars.bars,
            commands.Curves: engine.curves.curves,
            commands.Preview: Previews(engine, desk.signals).preview,
        }
    )
    surroundings = Surroundings(
        home.path, engine.config, engine.marks, engine.keeper, prices=engine.prices is not None
    )
    reports = engine.reports = EngineReports(engine, desk, reconciliation, surroundings)
    desk.handlers[commands.Note] = reports.notes.note
    desk.handlers[commands.Report] = DayReports(engine, home.path).report
    return desk


async def _load(engine: TradingEngine) -> None:
    """Take up the state the journal kept."""
    await engine.fleet.load()
    engine.index.replace(engine.fleet.states.values())
    _take_fingerprint(engine)
    await recover(engine)
    engine.curves.book.load(engine.keeper)
    engine.journal.audit("start", {"version": __version__, "fp": engine.fingerprint})
    for position in engine.keeper:
        if position.qty and engine.prices is not None:
            engine.prices.follow(position.symbol)


async def _run_beside(engine: TradingEngine, home: Home, operator: OperatorDesk) -> None:
    """Add what runs beside; halts that were left for us are in force before anything connects."""
    kill_file = KillFile(engine, home.path / "kill.json")
    engine.last_gate.look_at_latch = kill_file.take
    await kill_file.latch_first()
    desk_watch = DeskWatch(engine)
    operator.handlers[commands.Presence] = desk_watch.presence
    engine.services += [kill_file, desk_watch, operator.signals.staged]
    if engine.config.storage.profile == "servers":
        intake = RedisIntake(engine.config, engine)
        engine.links["signals"] = intake.status
        lease = Lease(engine.config, engine, home)
        await lease.take()
        engine.last_gate.no_lease = lease.refusal
        audit = audit_copy(home, engine.config, engine.journal.book)
        engine.services += [intake, lease, audit]
