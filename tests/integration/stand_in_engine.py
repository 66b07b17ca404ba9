"""An engine behind the API that does what it is told: real feed, real receipts, no broker."""

from __future__ import annotations

import asyncio
import json
from collections import Counter
from contextlib import asynccontextmanager
from decimal import Decimal
from typing import Any

from engine.api.server import ApiServer
from engine.clock import SystemClock, rfc3339
from engine.config import load_config
from engine.errors import CommandRefused, InvalidSignal
from engine.home import Home
from engine.model.commands import parse_command
from engine.model.enums import SignalState
from engine.model.receipt import SignalReceipt
from engine.model.tables import KEYS
from engine.publisher import Publisher

TOKEN = "t" * 40


class StandInEngine:
    """The facade's methods over dicts; ``gate`` holds every signal back while it is cleared."""

    def __init__(self) -> None:
        clock = SystemClock()
        self.publisher = Publisher(lambda: rfc3339(clock.now()))
        self.rows: dict[str, dict[str, dict[str, Any]]] = {name: {} for name in KEYS}
        for name, rows in self.rows.items():
            self.publisher.table(name, rows.keys, rows.get)
        self.gate = asyncio.Event()
        self.gate.set()
        self.bodies: dict[str, bytes] = {}
        self.taken: Counter[str] = Counter()
        self.stamps: list[int | None] = []
        self.commands: list[dict[str, Any]] = []
        self.prices: dict[str, Decimal] = {}
        self.listed: list[dict[str, Any]] = []
        self.reasons: list[str] = []
        self.needs: list[dict[str, str]] = []
        self.waiting = 0
        self.arrived = asyncio.Condition()
        self.failure: Exception | None = None

    def put(self, table: str, **row: Any) -> None:
        key = row[KEYS[table]]
        self.rows[table][key] = row
        self.publisher.touch(table, key)

    def drop(self, table: str, key: str) -> None:
        del self.rows[table][key]
        self.publisher.touch(table, key)

    async def has_waiting(self, count: int) -> None:
        async with asyncio.timeout(5), self.arrived:
            await self.arrived.wait_for(lambda: self.waiting >= count)

    async def handle_signal(
        self,
        body: bytes,
        *,
        source: str | None = None,
        origin: str = "api",
        received_ns: int | None = None,
    ) -> SignalReceipt:
        if self.failure is not None:
            raise self.failure
        async with self.arrived:
            self.waiting += 1
            self.arrived.notify_all()
        try:
            await self.gate.wait()
        finally:
            self.waiting -= 1
        self.stamps.append(received_ns)
        try:
            document = json.loads(body)
            key = f"{source or document['source']}/{document['id']}"
        except (ValueError, KeyError) as error:
            raise InvalidSignal("INVALID", "id", f"cannot be read: {error}") from None
        first = self.bodies.setdefault(key, body)
        self.taken[key] += 1
        name, _, number = key.partition("/")
        return SignalReceipt(
            number,
            name,
            SignalState.ACCEPTED,
            repeated=self.taken[key] > 1 and first == body,
            contradicted=first != body,
        )

    async def handle_alert(self, body: bytes, *, source: str) -> SignalReceipt:
        return await self.handle_signal(body, source=source, origin="hook")

    async def handle_command(self, document: dict[str, Any]) -> dict[str, Any]:
        command = parse_command(document)
        self.commands.append(document)
        if command.command == "cancel_order":
            raise CommandRefused("NO_SUCH_ORDER", "there is no such order", 404)
        if command.command == "resend":
            raise CommandRefused("NOT_ABSENT", "not proven absent", 409)
        return {"id": command.id, "done": command.command}

    async def signal_detail(self, key: str) -> dict[str, Any] | None:
        if key not in self.bodies:
            return None
        return {"signal": {"key": key}, "accounts": [], "trace": {}}

    async def list_rows(self, table: str, **filters: Any) -> dict[str, Any]:
        self.listed.append({"table": table, **filters})
        return {"items": list(self.rows[table].values())[: filters["limit"]], "next": None}

    def set_prices(self, prices: dict[str, Decimal]) -> None:
        self.prices.update(prices)

    def latency(self) -> dict[str, Any]:
        return {"stages": {"durable": {"total": {"count": 1}, "minute": {"count": 1}}}}

    def readiness(self) -> list[str]:
        return self.reasons

    def to_do(self) -> list[dict[str, str]]:
        return self.needs

    def metrics_text(self) -> str:
        return "# TYPE volley_signals_total counter\nvolley_signals_total 1\n"


@asynccontextmanager
async def serving(path, monkeypatch=None, listen="127.0.0.1:0", engine=None):
    """Serve a stand-in engine; yields (engine, url, home)."""
    home = Home(path)
    home.token_file.write_text(TOKEN)
    config = load_config(home.path, None, {"VOLLEY_ENGINE__LISTEN": listen})
    engine = engine or StandInEngine()
    server = ApiServer(engine, home, config)
    url = await server.start()
    try:
        yield engine, url, home
    finally:
        await server.stop()
