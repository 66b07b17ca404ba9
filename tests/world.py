"""A whole engine in the test's own process: API on a real socket, accounts on a simulated venue, nothing replaced."""

from __future__ import annotations

import asyncio
import time
import uuid
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from decimal import Decimal
from pathlib import Path
from typing import Any, TypeVar
from urllib.parse import quote

import httpx

from engine.api.server import ApiServer
from engine.config import Config
from engine.home import Home
from engine.model.account import Account
from engine.model.order import Order
from engine.simbroker import SimBroker, SimConfig
from engine.stores.accounts_sqlite import SqliteAccountStore
from engine.stores.vault import FileVault
from engine.trading_engine import TradingEngine
from engine.wiring import build_engine
from tests.processes import alpaca, paper, signal_document

__all__ = ["World", "alpaca", "eventually", "paper", "settings", "venue", "world"]

T = TypeVar("T")


async def eventually(fact: Callable[[], T], seconds: float = 10.0, what: str = "") -> T:
    """Poll until ``fact`` is true and return it."""
    deadline = time.monotonic() + seconds
    while not (value := fact()):
        assert time.monotonic() < deadline, f"not within {seconds:g} s: {what or fact}"
        await asyncio.sleep(0.005)
    return value


@asynccontextmanager
async def venue(**config: Any) -> AsyncIterator[SimBroker]:
    """Run a simulated venue whose prices stand still, and follow no order, unless told otherwise."""
    still = {"walk": False, "follow_percent": Decimal(0), "tick_interval_s": 0.02}
    made = SimBroker(SimConfig(**(still | config)))
    await made.start()
    try:
        yield made
    finally:
        await made.stop()


def settings(**sections: dict[str, Any]) -> Config:
    """Return a configuration: armed, simulated venues allowed, wide firm limits, and ``sections``."""
    tree: dict[str, dict[str, Any]] = {
        "engine": {"trading": "active", "allow_simulated_venues": True, "listen": "127.0.0.1:0"},
        "limits": {"max_signal_value": Decimal(10) ** 9, "max_orders_per_second": 10_000},
    }
    for section, values in sections.items():
        tree.setdefault(section, {}).update(values)
    return Config.model_validate(tree)


async def put_accounts(path: Path, documents: Sequence[dict[str, Any]]) -> None:
    """Store accounts as an import does: literal secrets sealed."""
    vault = FileVault(path, keyring=None)
    store = SqliteAccountStore(path / "accounts.sqlite3")
    await store.open()
    try:
        await store.put(
            Account.model_validate(
                document
                | {
                    "credentials": {
                        name: vault.seal(document["id"], name, text)
                        for name, text in document.get("credentials", {}).items()
                    }
                }
            )
            for document in documents
        )
    finally:
        await store.close()


class World:
    """A running engine, its API's client and its venue's address."""

    def __init__(self, path: Path, engine: TradingEngine, http: httpx.AsyncClient) -> None:
        self.path = path
        self.engine = engine
        self.http = http

    async def post(self, **fields: Any) -> httpx.Response:
        """Post a signal of schema v1, issued now."""
        return await self.http.post("/v1/signals", json=signal_document(**fields))

    async def send(self, **fields: Any) -> dict[str, Any]:
        """Post a signal that is taken; return its detail once every order of it is answered."""
        answer = await self.post(**fields)
        assert answer.status_code == 202, answer.text
        key = f"{answer.json()['source']}/{answer.json()['signal_id']}"
        record = self.engine.records[key]
        await eventually(lambda: not record.waiting, what=f"{key} is answered")
        return await self.detail(key)

    async def detail(self, key: str) -> dict[str, Any]:
        """Return one signal."""
        source, _, signal_id = key.partition("/")
        answer = await self.http.get(f"/v1/signals/{quote(source)}/{quote(signal_id)}")
        assert answer.status_code == 200, answer.text
        return dict(answer.json())

    async def rows(self, table: str, **where: object) -> list[dict[str, Any]]:
        """Return the rows of a list."""
        answer = await self.http.get(f"/v1/{table}", params={"limit": 1000, **where})
        assert answer.status_code == 200, answer.text
        return list(answer.json()["items"])

    async def try_command(self, command: str, **fields: Any) -> httpx.Response:
        """Give a command, whatever comes of it."""
        document = {"id": uuid.uuid4().hex, "command": command, **fields}
        return await self.http.post("/v1/commands", json=document)

    async def command(self, command: str, **fields: Any) -> dict[str, Any]:
        """Give a command that is carried out; return its result."""
        answer = await self.try_command(command, **fields)
        assert answer.status_code == 200, answer.text
        return dict(answer.json())

    async def refused(self, command: str, **fields: Any) -> tuple[int, str]:
        """Give a command that is refused; return status and code."""
        answer = await self.try_command(command, **fields)
        assert answer.status_code in {404, 409, 422}, answer.text
        assert answer.json()["message"]
        return answer.status_code, answer.json()["code"]

    def order(self, detail: dict[str, Any], account: str) -> Order:
        """Return the order one account has for a signal."""
        row = next(row for row in detail["accounts"] if row["account"] == account)
        assert row["cl_ord_id"], row
        return self.engine.orders.orders[row["cl_ord_id"]]

    def position(self, account: str, symbol: str = "AAPL") -> Decimal:
        """Return the signed quantity an account holds."""
        held = self.engine.keeper.get(account, symbol)
        return held.qty if held is not None else Decimal(0)


@asynccontextmanager
async def world(
    path: Path,
    accounts: Sequence[dict[str, Any]] = (),
    *,
    connected: int | None = None,
    **sections: dict[str, Any],
) -> AsyncIterator[World]:
    """Run an engine on ``path`` with ``accounts`` (none: those already there) until the block ends.

    ``connected``: how many accounts must be able to trade first (default: every active one); that is to be connected,
    and compared with their brokers (C01).
    """
    config = settings(**sections)
    home = Home(path / "home")
    if accounts:
        await put_accounts(home.path, accounts)
    async with AsyncExitStack() as stack:
        stack.enter_context(home.lock())
        engine = await build_engine(home, config)
        stack.push_async_callback(engine.stop)
        server = ApiServer(engine, home, config)
        stack.push_async_callback(server.stop)
        server.bind()
        await engine.start()
        url = await server.start()
        headers = {"Authorization": f"Bearer {home.token()}"}
        http = await stack.enter_async_context(
            httpx.AsyncClient(base_url=url, headers=headers, timeout=20, trust_env=False)
        )
        states = engine.fleet.states.values()
        wanted = connected
        if wanted is None:
            wanted = sum(state.account.active for state in states)
        await eventually(
            lambda: sum(state.usable and state.reconciled for state in states) >= wanted,
            what="accounts connect and are reconciled",
        )
        yield World(home.path, engine, http)


def by_account(detail: dict[str, Any]) -> dict[str, dict[str, Any]]:
    """Return a signal's rows by account."""
    return {row["account"]: row for row in detail["accounts"]}
