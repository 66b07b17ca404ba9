"""A simulated venue, its clients and what they say, for its own tests."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from typing import Any

import httpx
import websockets

from engine.simbroker import SimBroker, SimConfig

SECRET = "s3cret-of-the-tests"
ORDER = {"symbol": "AAPL", "qty": "10", "side": "buy", "type": "market", "time_in_force": "day"}

Client = Callable[..., httpx.AsyncClient]


@asynccontextmanager
async def venue(**settings: Any) -> AsyncIterator[tuple[SimBroker, Client]]:
    made = SimBroker(SimConfig(**({"walk": False, "tick_interval_s": 0.01} | settings)))
    port = await made.start()
    clients: list[httpx.AsyncClient] = []

    def client(key: str = "K1", secret: str = SECRET) -> httpx.AsyncClient:
        headers = {"APCA-API-KEY-ID": key, "APCA-API-SECRET-KEY": secret}
        limits = httpx.Limits(max_connections=1)
        clients.append(
            httpx.AsyncClient(
                base_url=f"http://127.0.0.1:{port}", headers=headers, limits=limits, trust_env=False
            )
        )
        return clients[-1]

    try:
        yield made, client
    finally:
        for opened in clients:
            await opened.aclose()
        await made.stop()


def listening(
    made: SimBroker, key: str = "K1", secret: str = SECRET
) -> AbstractAsyncContextManager[Any]:
    @asynccontextmanager
    async def opened() -> AsyncIterator[Any]:
        async with websockets.connect(f"ws://127.0.0.1:{made.port}/stream", proxy=None) as stream:
            credentials = {"key_id": key, "secret_key": secret}
            await stream.send(json.dumps({"action": "authenticate", "data": credentials}))
            assert (await heard(stream))["data"]["status"] == "authorized"
            wanted = {"action": "listen", "data": {"streams": ["trade_updates"]}}
            await stream.send(json.dumps(wanted))
            answer = await heard(stream)
            assert answer == {"stream": "listening", "data": {"streams": ["trade_updates"]}}
            yield stream

    return opened()


async def heard(stream: Any) -> dict[str, Any]:
    async with asyncio.timeout(5):
        message = await stream.recv()
    assert isinstance(message, bytes)  # the practice environment sends binary frames
    return dict(json.loads(message))


async def events(stream: Any, count: int) -> list[dict[str, Any]]:
    return [(await heard(stream))["data"] for _ in range(count)]


async def place(http: httpx.AsyncClient, client_id: str = "a", **fields: Any) -> httpx.Response:
    return await http.post("/v2/orders", json={**ORDER, "client_order_id": client_id, **fields})


def raw_order(body: bytes, key: str = "K1") -> bytes:
    head = (
        f"POST /v2/orders HTTP/1.1\r\nHost: x\r\nAPCA-API-KEY-ID: {key}\r\n"
        f"APCA-API-SECRET-KEY: {SECRET}\r\nContent-Length: {len(body)}\r\n\r\n"
    )
    return head.encode() + body
