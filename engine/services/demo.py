"""The demo: practice accounts (on the venue of ``practice_venue``) and a stream of practice signals."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import random
from decimal import Decimal
from typing import Any

import orjson

from engine.clock import rfc3339
from engine.config import Config
from engine.errors import InvalidSignal, StoreError
from engine.home import Home
from engine.model.account import Account
from engine.model.numbers import to_text
from engine.stores.accounts_sqlite import SqliteAccountStore
from engine.stores.vault import FileVault
from engine.trading_engine import TradingEngine

log = logging.getLogger(__name__)

_PACE_S = (0.5, 1.6)  # between two practice signals
_FIRST, _FIRST_PACE_S = 4, 0.2  # the first few come quickly: something to see
_CONNECTED_WITHIN_S = 3.0
_CENT = Decimal("0.01")
_BOOK = {
    "breakout": ("AAPL", "NVDA", "TSLA"),
    "mean-rev": ("MSFT", "SPY", "AMZN"),
    "momo": ("BTCUSDT", "ETHUSDT"),
}
_NAMES = (
    "Alder", "Birch", "Cedar", "Dogwood", "Elm", "Fir", "Ginkgo", "Hazel", "Ironwood", "Juniper", "Katsura",
    "Larch", "Maple", "Nutmeg", "Oak", "Pine", "Quince", "Rowan", "Spruce", "Tamarack", "Umbrella Pine",
    "Viburnum", "Willow", "Yew",
)  # fmt: skip
_SIZINGS: tuple[dict[str, str], ...] = (
    {"method": "notional", "value": "5000"},
    {"method": "percent_equity", "percent": "4"},
    {"method": "risk_percent", "percent": "0.1"},
    {"method": "notional", "value": "12000"},
    {"method": "multiplier", "factor": "2"},
    {"method": "signal"},
)


def practice_accounts(venue: str, vault: FileVault) -> list[Account]:
    """Return the demo's accounts: most on the simulated venue, some on paper, some that pass signals over."""
    accounts = []
    for number, name in enumerate(_NAMES):
        account_id = f"D-{number + 1:02d}"
        document: dict[str, Any] = {
            "id": account_id,
            "name": f"{name} Partners" if number % 3 else f"{name} Family",
            "broker": "paper" if number % 4 == 3 else "alpaca",
            "tags": ["gold"] if number < 8 else ["silver"] if number < 16 else ["bronze"],
            "strategies": [["*"], ["breakout", "momo"], ["*"], ["mean-rev", "breakout"]][
                number % 4
            ],
            "approval": "review" if number in {6, 13, 20} else "auto",
            "active": number != 22,
            "sizing": _SIZINGS[number % len(_SIZINGS)],
            "limits": {"max_order_value": "25000", "max_positions": 6, "max_orders_per_second": 8},
        }
        if number == 17:
            document["symbols"] = ["AAPL", "MSFT", "SPY"]
        if number == 9:
            document["limits"]["min_reward_risk"] = "2.5"
        if document["broker"] == "alpaca":
            document["base_url"] = venue
            keys = {"key_id": f"DEMO{number + 1:02d}", "secret": f"practice-{number + 1:02d}-only"}
            document["credentials"] = {
                field: vault.seal(account_id, field, text) for field, text in keys.items()
            }
        accounts.append(Account.model_validate(document))
    return accounts


def demo_config(config: Config) -> Config:
    """Return the configuration a demo runs with: armed, simulated venues allowed, any free port."""
    engine = {"trading": "active", "allow_simulated_venues": True}
    if "engine" not in config.model_fields_set or "listen" not in config.engine.model_fields_set:
        engine["listen"] = "127.0.0.1:0"
    limits = {"max_signal_value": Decimal(1_000_000), "max_orders_per_second": 1_000}
    return config.model_copy(
        update={
            "engine": config.engine.model_copy(update=engine),
            "limits": config.limits.model_copy(update=limits),
            "storage": config.storage.model_copy(update={"profile": "embedded"}),
            "market": config.market.model_copy(update={"source": "brokers"}),
        }
    )


async def put_practice_accounts(home: Home, venue: str) -> None:
    """Put the practice accounts into ``home``; ``venue`` is the simulated venue's URL."""
    store = SqliteAccountStore(home.path / "accounts.sqlite3")
    await store.open()
    try:
        await store.put(practice_accounts(venue, FileVault(home.path, practice=True)))
    finally:
        await store.close()


class PracticeSignals:
    """Sends practice signals as a producer would, bytes through the strict intake, for as long as it runs."""

    def __init__(self, engine: TradingEngine, seed: int = 11) -> None:
        self._engine = engine
        self._random = random.Random(seed)  # noqa: S311 (practice, not secrets)
        self._entries: dict[tuple[str, str], int] = {}
        self._long: dict[str, bool] = {}
        self._number = 0
        self._task: asyncio.Task[None] | None = None

    async def start(self) -> None:
        """Begin; the first signal goes out once the accounts are connected."""
        if self._engine.prices is not None:
            for symbols in _BOOK.values():
                for symbol in symbols:
                    self._engine.prices.follow(symbol)
        self._task = asyncio.get_running_loop().create_task(self._run(), name="practice-signals")

    async def stop(self) -> None:
        """End."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)

    async def _run(self) -> None:
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(_CONNECTED_WITHIN_S):
                while not self._all_connected():  # noqa: ASYNC110 (a state, not an event)
                    await asyncio.sleep(0.02)
        while True:
            strategy = self._random.choice(list(_BOOK))
            symbol = self._random.choice(_BOOK[strategy])
            if self._engine.prices is not None and self._engine.marks.price(symbol) is None:
                await self._engine.prices.ask(symbol)
            body = orjson.dumps(self._signal(strategy, symbol))
            try:
                await self._engine.handle_signal(body, origin="demo")
            except (InvalidSignal, StoreError) as error:
                log.warning("practice signal refused: %s", error)
            pace = _FIRST_PACE_S if self._number < _FIRST else self._random.uniform(*_PACE_S)
            await asyncio.sleep(pace)

    def _all_connected(self) -> bool:
        states = self._engine.fleet.states.values()
        return all(state.usable for state in states if state.account.active)

    def _signal(self, strategy: str, symbol: str) -> dict[str, Any]:
        self._number += 1
        signal: dict[str, Any] = {
            "id": f"{strategy}-{self._number:05d}",
            "source": "practice",
            "strategy": strategy,
            "symbol": symbol,
            "issued_at": rfc3339(self._engine.clock.now()),
        }
        open_entries = self._entries.get((strategy, symbol), 0)
        if open_entries >= self._random.randint(2, 4):
            self._entries[strategy, symbol] = 0
            self._long.pop(symbol, None)
            return signal | {"action": "close"}
        self._entries[strategy, symbol] = open_entries + 1
        return signal | self._entry(symbol)

    def _entry(self, symbol: str) -> dict[str, Any]:
        # One direction until it is closed, as a strategy would.
        buys = self._long.setdefault(symbol, self._random.random() < 0.6)
        fields: dict[str, Any] = {"action": "buy" if buys else "sell", "order_type": "market"}
        price = self._engine.marks.price(symbol)
        if price is None:
            return fields | {"quantity": "5"}
        sign = 1 if buys else -1
        fields["quantity"] = "0.05" if price > 1000 else "10"
        fields["reference_price"] = to_text(price)
        fields["stop_loss"] = self._near(price, -sign * 8)
        fields["take_profit"] = self._near(price, sign * 16)
        if self._random.random() < 0.5:
            fields["order_type"] = "limit"
            # Marketable: an order that rests would hold what the next one may want to close.
            fields["limit_price"] = self._near(price, sign)
        return fields

    @staticmethod
    def _near(price: Decimal, thousandths: int) -> str:
        return to_text((price * (1000 + thousandths) / 1000).quantize(_CENT))
