"""One measured run: the whole engine, intake to journalled report, against a venue in another process."""

from __future__ import annotations

import asyncio
import ssl
import tempfile
import time
from collections.abc import AsyncIterator, Collection, Sequence
from contextlib import AbstractContextManager, AsyncExitStack, asynccontextmanager, nullcontext
from dataclasses import dataclass, field
from decimal import Decimal
from pathlib import Path
from typing import Any

import orjson

from engine.clock import rfc3339
from engine.config import Config
from engine.errors import TradingError
from engine.home import Home
from engine.loadtest.baselines import Aiohttp, Baseline, Floor, Httpx, Round, Venue
from engine.loadtest.ccxt_baseline import Ccxt
from engine.loadtest.dialects import DIALECTS, SECRET, Dialect
from engine.model.account_state import AccountState
from engine.model.enums import OrderStatus
from engine.services.practice_venue import practice_venue
from engine.signal_record import SignalRecord
from engine.stores.accounts_sqlite import SqliteAccountStore
from engine.stores.vault import FileVault
from engine.telemetry.runtime import allow_open_files, settle_garbage_collection
from engine.trading_engine import TradingEngine
from engine.wiring import build_engine

BASELINES: dict[str, Any] = {"floor": Floor, "httpx": Httpx, "aiohttp": Aiohttp, "ccxt": Ccxt}
OWNER = "VOLLEY"
CONNECT_WITHIN_S = 60.0
CONNECT_EACH_S = 0.05
ANSWER_WITHIN_S = 30.0
WARM_UP = 3
OTHER_FILES = 256
BASELINE_US = 10_000_000
"""No baseline is measured for longer than this altogether, but each at least once."""


@dataclass(frozen=True, slots=True)
class LoadPlan:
    """What to run. ``rate``: signals a second, 0 for one after the other."""

    accounts: int
    signals: int
    rate: float
    dialect: str
    compare: tuple[str, ...]
    tls: bool = False


@dataclass(slots=True)
class Measured:
    """What came out. Times in microseconds, start-up in seconds."""

    volley: list[Round] = field(default_factory=list)
    baselines: dict[str, list[Round]] = field(default_factory=dict)
    notes: dict[str, str] = field(default_factory=dict)
    stages: dict[str, Any] = field(default_factory=dict)
    connected_s: float = 0.0
    orders: int = 0
    filled: int = 0
    not_sent: int = 0


async def measure(plan: LoadPlan, around: AbstractContextManager[object] | None = None) -> Measured:
    """Run the engine and its baselines in turn, round by round, so that the machine's moods hit all alike.

    ``around`` is entered for the rounds only: start, connecting and warm-up are no part of them.

    Raises:
        TradingError: the venue does not start, the accounts do not connect, or something a baseline needs is missing.
    """
    _check_open_files(plan)
    measured = Measured(baselines={name: [] for name in plan.compare})
    async with AsyncExitStack() as stack:
        path = stack.enter_context(
            tempfile.TemporaryDirectory(prefix="volley-load-", ignore_cleanup_errors=True)
        )
        home = Home(Path(path))
        dialect = DIALECTS[plan.dialect]
        options = ["--dialect", plan.dialect, "--cash", "1000000000"]
        options += ["--accounts", str(_venue_accounts(plan, dialect, home.path))]
        venue = await stack.enter_async_context(practice_venue(*options, tls=plan.tls))
        url = await venue.url()
        config = _config(venue.authority)
        began = time.monotonic()
        engine = await stack.enter_async_context(_engine(plan, dialect, home, config, url))
        measured.connected_s = time.monotonic() - began
        context = _trusting(venue.authority)
        place = Venue(url, dialect, plan.accounts, config, context)
        baselines: list[Baseline] = []
        for name in plan.compare:
            baseline: Baseline = BASELINES[name](place)
            stack.push_async_callback(baseline.close)
            await baseline.open()
            baselines.append(baseline)
            measured.notes[name] = baseline.note
        await _warm_up(plan, engine)
        with around or nullcontext():
            await _rounds(plan, engine, baselines, measured)
        measured.stages = engine.latency()["stages"]
    return measured


def _check_open_files(plan: LoadPlan) -> None:
    """Make room for two connections of the engine's and one of each baseline's, an account; the venue inherits it."""
    needed = plan.accounts * (3 + len(plan.compare)) + OTHER_FILES
    found = allow_open_files()
    if found < needed:
        raise TradingError(
            f"{plan.accounts} accounts need about {needed} open files, the limit is {found}: "
            f"raise it (ulimit -n {needed}) or take fewer accounts"
        )


def _venue_accounts(plan: LoadPlan, dialect: Dialect, directory: Path) -> Path:
    """Write the keys the venue takes: everybody's, so that signatures can be checked."""
    owners = {OWNER, *(name.upper() for name in plan.compare)}
    path = directory / "venue-accounts.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    keys = {
        dialect.credentials(owner, number)[dialect.key]: SECRET
        for owner in owners
        for number in range(plan.accounts)
    }
    path.write_bytes(orjson.dumps(keys))
    return path


def _trusting(authority: Path | None) -> ssl.SSLContext | None:
    return None if authority is None else ssl.create_default_context(cafile=str(authority))


def _config(authority: Path | None) -> Config:
    """Return the settings of the run's own home: no limit of ours may slow the run."""
    engine: dict[str, Any] = {
        "trading": "active",
        "allow_simulated_venues": True,
        "listen": "127.0.0.1:0",
    }
    if authority is not None:
        engine["simulated_ca"] = str(authority)
    return Config.model_validate(
        {
            "engine": engine,
            "limits": {
                "max_accounts_per_signal": 100_000,
                "max_signal_value": Decimal(10) ** 12,
                "max_orders_per_second": 100_000,
            },
            "market": {"source": "none"},
        }
    )


async def _warm_up(plan: LoadPlan, engine: TradingEngine) -> None:
    for number in range(-WARM_UP, 0):
        await _volley(engine, DIALECTS[plan.dialect], number)


async def _rounds(
    plan: LoadPlan, engine: TradingEngine, baselines: Sequence[Baseline], measured: Measured
) -> None:
    dialect = DIALECTS[plan.dialect]
    for number in range(plan.signals):
        began = time.monotonic()
        record, round_ = await _volley(engine, dialect, number)
        measured.volley.append(round_)
        _count(record, measured)
        for baseline in baselines:
            rounds = measured.baselines[baseline.name]
            if sum(one.done_us for one in rounds) < BASELINE_US:
                rounds.append(await baseline.round(number))
        if plan.rate:
            await asyncio.sleep(max(0.0, 1 / plan.rate - (time.monotonic() - began)))


def _count(record: SignalRecord, measured: Measured) -> None:
    statuses = [order.status for order in record.orders.values()]
    measured.orders += len(statuses)
    measured.filled += statuses.count(OrderStatus.FILLED)
    measured.not_sent += statuses.count(OrderStatus.DENIED)


async def _volley(
    engine: TradingEngine, dialect: Dialect, number: int
) -> tuple[SignalRecord, Round]:
    """Send one signal through the engine's intake and wait until every order is answered."""
    engine.set_prices({dialect.symbol: dialect.price})
    signal_id = f"load-{number + WARM_UP}"
    body = orjson.dumps(
        {
            "id": signal_id,
            "source": "loadtest",
            "strategy": "load",
            "symbol": dialect.symbol,
            "action": "buy",
            "issued_at": rfc3339(engine.clock.now()),
        }
    )
    cpu = time.process_time_ns()
    began = time.monotonic_ns()
    receipt = await engine.handle_signal(body, origin="loadtest", received_ns=began)
    record = engine.records[f"loadtest/{signal_id}"]
    if not record.orders:
        raise TradingError(f"the engine sent nothing: {receipt.code} {receipt.message}")
    # Everything an order causes is counted: its fill by the order stream and its rows in the journal, too.
    await _settled(engine.fleet.states.values())
    await engine.journal.flushed()
    cpu = time.process_time_ns() - cpu
    orders = record.orders.values()
    replies = sorted((order.acked_ns - began) // 1000 for order in orders if order.acked_ns)
    failed = {OrderStatus.REJECTED, OrderStatus.DENIED, OrderStatus.UNKNOWN}
    failures = sum(order.status in failed for order in orders)
    left = max(order.last_byte_ns for order in orders)
    done = replies[-1] if replies else 0
    return record, Round((left - began) // 1000, done, cpu // 1000, failures, replies)


async def _settled(states: Collection[AccountState]) -> None:
    """Wait until no account has a working order; each account is looked at until it has none, then never again."""
    try:
        async with asyncio.timeout(ANSWER_WITHIN_S):
            for state in states:
                while state.working:  # noqa: ASYNC110 (the engine has no bell for this and needs none)
                    await asyncio.sleep(0.002)
    except TimeoutError:
        working = sum(bool(state.working) for state in states)
        raise TradingError(
            f"{working} accounts have working orders after {ANSWER_WITHIN_S:g} s"
        ) from None


@asynccontextmanager
async def _engine(
    plan: LoadPlan, dialect: Dialect, home: Home, config: Config, url: str
) -> AsyncIterator[TradingEngine]:
    store = SqliteAccountStore(home.path / "accounts.sqlite3")
    await store.open()
    vault = FileVault(home.path, practice=True)
    accounts = []
    for number in range(plan.accounts):
        account = dialect.account(OWNER, number, url, {})
        sealed = {
            name: vault.seal(account.id, name, text)
            for name, text in dialect.credentials(OWNER, number).items()
        }
        accounts.append(dialect.account(OWNER, number, url, sealed))
    await store.put(accounts)
    await store.close()
    engine = await build_engine(home, config)
    try:
        await engine.start()
        await _connected(engine, CONNECT_WITHIN_S + CONNECT_EACH_S * plan.accounts)
        settle_garbage_collection()
        yield engine
    finally:
        await engine.stop()


async def _connected(engine: TradingEngine, within_s: float) -> None:
    states = engine.fleet.states.values()
    try:
        async with asyncio.timeout(within_s):
            while not all(map(_ready, states)):  # noqa: ASYNC110 (a state of many)
                await asyncio.sleep(0.02)
    except TimeoutError:
        ready = sum(map(_ready, states))
        raise TradingError(
            f"{ready} of {len(states)} accounts were ready within {within_s:g} s"
        ) from None


def _ready(state: AccountState) -> bool:
    """Say whether an account is connected, compared and its money known: the first reading is no part of a round."""
    return state.usable and state.reconciled and state.balances is not None
