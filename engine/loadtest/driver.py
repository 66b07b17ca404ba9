"""One measured run: the whole engine, intake to journalled report, against a venue in another process."""

from __future__ import annotations

import asyncio
import tempfile
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from decimal import Decimal
from pathlib import Path
from typing import Any

import orjson

from engine.clock import rfc3339
from engine.config import Config
from engine.errors import TradingError
from engine.home import Home
from engine.loadtest.baselines import BASELINES, SYMBOL, Baseline, Round, headers
from engine.model.account import Account
from engine.model.enums import OrderStatus
from engine.services.practice_venue import practice_venue
from engine.stores.accounts_sqlite import SqliteAccountStore
from engine.stores.vault import FileVault
from engine.telemetry.runtime import settle_garbage_collection
from engine.trading_engine import TradingEngine
from engine.wiring import build_engine

CONNECT_WITHIN_S = 60.0
ANSWER_WITHIN_S = 30.0
WARM_UP = 3


@dataclass(frozen=True, slots=True)
class LoadPlan:
    """What to run. ``rate``: signals a second, 0 for one after the other."""

    accounts: int
    signals: int
    rate: float
    dialect: str
    compare: tuple[str, ...]


@dataclass(slots=True)
class Measured:
    """What came out. Times in microseconds."""

    volley: list[Round] = field(default_factory=list)
    baselines: dict[str, list[Round]] = field(default_factory=dict)
    stages: dict[str, Any] = field(default_factory=dict)
    orders: int = 0
    filled: int = 0
    not_sent: int = 0


async def measure(plan: LoadPlan) -> Measured:
    """Run the engine and its baselines in turn, round by round, so that the machine's moods hit all alike.

    Raises:
        TradingError: the venue does not start, or the accounts do not connect.
    """
    measured = Measured(baselines={name: [] for name in plan.compare})
    async with (
        practice_venue("--dialect", plan.dialect, "--cash", "1000000000") as venue,
        _engine(plan, url := await venue.url()) as engine,
    ):
        baselines: list[Baseline] = [BASELINES[name](url, plan.accounts) for name in plan.compare]
        try:
            for baseline in baselines:
                await baseline.open()
            await _rounds(plan, engine, baselines, measured)
        finally:
            for baseline in baselines:
                await baseline.close()
        measured.stages = engine.latency()["stages"]
        statuses = [
            order.status for record in engine.records.values() for order in record.orders.values()
        ]
        measured.orders = len(statuses)
        measured.filled = statuses.count(OrderStatus.FILLED)
        measured.not_sent = statuses.count(OrderStatus.DENIED)
    return measured


async def _rounds(
    plan: LoadPlan, engine: TradingEngine, baselines: list[Baseline], measured: Measured
) -> None:
    for number in range(-WARM_UP, plan.signals):
        began = time.monotonic()
        round_ = await _volley(engine, number)
        if number >= 0:
            measured.volley.append(round_)
        for baseline in baselines:
            other = await baseline.round(number + WARM_UP)
            if number >= 0:
                measured.baselines[baseline.name].append(other)
        if plan.rate:
            await asyncio.sleep(max(0.0, 1 / plan.rate - (time.monotonic() - began)))


async def _volley(engine: TradingEngine, number: int) -> Round:
    """Send one signal through the engine's intake and wait until every order is answered."""
    engine.set_prices({SYMBOL: engine.marks.price(SYMBOL) or Decimal("189.40")})
    signal_id = f"load-{number + WARM_UP}"
    body = orjson.dumps(
        {
            "id": signal_id,
            "source": "loadtest",
            "strategy": "load",
            "symbol": SYMBOL,
            "action": "buy",
            "issued_at": rfc3339(engine.clock.now()),
        }
    )
    cpu = time.process_time_ns()
    began = time.monotonic_ns()
    await engine.handle_signal(body, origin="loadtest", received_ns=began)
    record = engine.records[f"loadtest/{signal_id}"]
    async with asyncio.timeout(ANSWER_WITHIN_S):
        while record.waiting:  # noqa: ASYNC110 (the engine has no bell for this and needs none)
            await asyncio.sleep(0.002)
        # Everything an order causes is counted: its fill by the order stream and its rows in the journal too.
        while any(state.working for state in engine.fleet.states.values()):  # noqa: ASYNC110
            await asyncio.sleep(0.002)
    await engine.journal.flushed()
    stamps = record.stamps
    failures = sum(
        order.status in {OrderStatus.REJECTED, OrderStatus.DENIED}
        for order in record.orders.values()
    )
    return Round(
        (stamps.last_byte - began) // 1000,
        (stamps.last_ack - began) // 1000,
        (time.process_time_ns() - cpu) // 1000,
        failures,
    )


@asynccontextmanager
async def _engine(plan: LoadPlan, url: str) -> AsyncIterator[TradingEngine]:
    with tempfile.TemporaryDirectory(prefix="volley-load-", ignore_cleanup_errors=True) as path:
        home = Home(Path(path))
        config = Config.model_validate(
            {
                "engine": {
                    "trading": "active",
                    "allow_simulated_venues": True,
                    "listen": "127.0.0.1:0",
                },
                "limits": {
                    "max_accounts_per_signal": 100_000,
                    "max_signal_value": Decimal(10) ** 12,
                    "max_orders_per_second": 100_000,
                },
                "market": {"source": "none"},
            }
        )
        store = SqliteAccountStore(home.path / "accounts.sqlite3")
        await store.open()
        vault = FileVault(home.path, keyring=None)
        await store.put(_account(number, url, vault) for number in range(plan.accounts))
        await store.close()
        engine = await build_engine(home, config)
        try:
            await engine.start()
            async with asyncio.timeout(CONNECT_WITHIN_S):
                while not all(state.usable for state in engine.fleet.states.values()):  # noqa: ASYNC110
                    await asyncio.sleep(0.02)
            settle_garbage_collection()
            yield engine
        except TimeoutError:
            raise TradingError(f"not all accounts answered within {CONNECT_WITHIN_S:g} s") from None
        finally:
            await engine.stop()


def _account(number: int, url: str, vault: FileVault) -> Account:
    account_id, keys = f"L-{number:05d}", headers("volley", number)
    words = {"key_id": keys["APCA-API-KEY-ID"], "secret": keys["APCA-API-SECRET-KEY"]}
    return Account.model_validate(
        {
            "id": account_id,
            "broker": "alpaca",
            "base_url": url,
            "credentials": {
                name: vault.seal(account_id, name, text) for name, text in words.items()
            },
            "sizing": {"method": "fixed", "quantity": "1"},
        }
    )
