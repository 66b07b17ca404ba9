"""Operators of an engine under test, each with a client of their own."""

from __future__ import annotations

import uuid
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any

import httpx

from engine.home import Home
from engine.operators import Operators, Role
from tests.world import World

PRICES = {"AAPL": "100"}


class Desk:
    """One operator's way to the engine."""

    def __init__(self, name: str, http: httpx.AsyncClient) -> None:
        self.name = name
        self.http = http

    async def command(self, command: str, **fields: Any) -> httpx.Response:
        """Give a command."""
        document = {"id": uuid.uuid4().hex, "command": command, **fields}
        return await self.http.post("/v1/commands", json=document)


@asynccontextmanager
async def desks(
    made: World, *, pins: dict[str, str] | None = None
) -> AsyncIterator[dict[str, Desk]]:
    """Yield a desk for each role (the operator is named after it), and ``operator``, who has the home's token."""
    operators = Operators(Home(made.path))
    async with AsyncExitStack() as stack:
        found = {"operator": Desk("operator", made.http)}
        for role in Role:
            token = operators.add(role.value, role)
            client = httpx.AsyncClient(
                base_url=made.http.base_url,
                headers={"Authorization": f"Bearer {token}"},
                timeout=20,
                trust_env=False,
            )
            found[role.value] = Desk(role.value, await stack.enter_async_context(client))
        for name, pin in (pins or {}).items():
            operators.set_pin(name, pin)
        yield found


def code_of(answer: httpx.Response) -> tuple[int, str]:
    """Return status and code."""
    return answer.status_code, str(answer.json().get("code", ""))


def audit_rows(home: Path) -> list[dict[str, Any]]:
    """Return the audit trail's rows as the file has them."""
    import sqlite3

    import orjson

    connection = sqlite3.connect(home / "journal.sqlite3")
    try:
        connection.row_factory = sqlite3.Row
        rows = connection.execute("SELECT * FROM audit ORDER BY seq").fetchall()
    finally:
        connection.close()
    return [{**dict(row), "facts": orjson.loads(row["facts"])} for row in rows]
