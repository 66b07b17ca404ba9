"""Alpaca's order stream against a real WebSocket server: log-in, events, refusals, faults."""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator, Awaitable, Callable
from http import HTTPStatus

import pytest
from websockets.asyncio.server import ServerConnection, serve
from websockets.exceptions import ConnectionClosed

from engine.brokers.alpaca.stream import OrderStream
from engine.model.messages import ExecutionReport
from tests.wire_rig import until

KEY, SECRET = "PK-stream-test", "canary-of-the-stream"
GRANTED = {"stream": "authorization", "data": {"status": "authorized", "action": "authenticate"}}
LISTENING = {"stream": "listening", "data": {"streams": ["trade_updates"]}}
ORDER = {
    "id": "61e69015-8549-4bfd-b9c3-01e75843f47d",
    "client_order_id": "ABCDEFGHIJKLMNOPQRST",
    "symbol": "AAPL",
    "side": "buy",
    "type": "limit",
    "order_type": "limit",
    "limit_price": "100",
    "qty": "10",
    "filled_qty": "0",
    "filled_avg_price": None,
    "status": "new",
}
EVENT = {"stream": "trade_updates", "data": {"event": "new", "order": ORDER}}

Script = Callable[[ServerConnection], Awaitable[None]]


class Follower:
    """A stream and what it told."""

    def __init__(self, port: int) -> None:
        self.reports: list[ExecutionReport] = []
        self.states: list[tuple[bool, str]] = []
        self.refused: list[str] = []
        self.stream = OrderStream(
            f"ws://127.0.0.1:{port}/stream",
            "A-9",
            KEY,
            SECRET,
            context=None,
            on_report=self.reports.append,
            on_state=lambda up, reason: self.states.append((up, reason)),
            on_refused=self.refused.append,
        )


@contextlib.asynccontextmanager
async def following(
    script: Script, status: HTTPStatus | None = None
) -> AsyncIterator[tuple[Follower, asyncio.Task[None]]]:
    async def handler(connection: ServerConnection) -> None:
        with contextlib.suppress(ConnectionClosed):
            await script(connection)

    def gate(connection: ServerConnection, request: object):
        return None if status is None else connection.respond(status, "no\n")

    async with serve(handler, "127.0.0.1", 0, process_request=gate) as server:
        follower = Follower(server.sockets[0].getsockname()[1])
        task = asyncio.create_task(follower.stream.run())
        try:
            yield follower, task
        finally:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)


async def enter(connection: ServerConnection) -> None:
    asked = json.loads(await connection.recv())
    assert asked == {
        "action": "authenticate",
        "data": {"key_id": KEY, "secret_key": SECRET},
    }
    await connection.send(json.dumps(GRANTED).encode())  # paper speaks in binary frames
    asked = json.loads(await connection.recv())
    assert asked == {"action": "listen", "data": {"streams": ["trade_updates"]}}


async def test_events_are_taken_from_the_first_one_on_in_text_and_binary():
    async def script(connection: ServerConnection) -> None:
        await enter(connection)
        await connection.send(json.dumps(EVENT))  # before the confirmation
        await connection.send(json.dumps(LISTENING))
        await connection.send(json.dumps(EVENT).encode())
        await connection.send(json.dumps({"stream": "account_updates", "data": {}}))
        await connection.wait_closed()

    async with following(script) as (follower, _):
        await until(lambda: len(follower.reports) == 2)
        assert follower.states == [(True, "")]
        assert {report.cl_ord_id for report in follower.reports} == {ORDER["client_order_id"]}


@pytest.mark.parametrize("status", [HTTPStatus.UNAUTHORIZED, HTTPStatus.FORBIDDEN, None])
async def test_refused_credentials_end_it_for_good(status: HTTPStatus | None):
    tries = 0

    async def script(connection: ServerConnection) -> None:
        nonlocal tries
        tries += 1
        await connection.recv()
        await connection.send(json.dumps(GRANTED).replace("authorized", "unauthorized"))
        await connection.wait_closed()

    async with following(script, status) as (follower, task):
        await asyncio.wait_for(task, 5)
        assert follower.refused == ["the order stream refuses these credentials"]
        assert follower.states == []
        assert tries <= 1


@pytest.mark.parametrize("answer", [HTTPStatus.SERVICE_UNAVAILABLE, HTTPStatus.TOO_MANY_REQUESTS])
async def test_a_server_that_is_busy_is_tried_again(answer: HTTPStatus):
    async def script(connection: ServerConnection) -> None:
        raise AssertionError

    async with following(script, answer) as (follower, _):
        await until(lambda: len(follower.states) >= 2)
        assert set(follower.states) == {
            (False, f"order stream: the server refuses the WebSocket (HTTP {answer.value})")
        }
        assert follower.refused == []


@pytest.mark.parametrize(
    ("message", "reason"),
    [
        ("[]", "a message that is no JSON object"),
        ("{", "a message that is no JSON object"),
        ('{"stream":"trade_updates","data":{"event":"fill"}}', "event of the order stream"),
    ],
)
async def test_what_cannot_be_read_means_a_new_connection_so_the_engine_reconciles(
    message: str, reason: str
):
    connections = 0

    async def script(connection: ServerConnection) -> None:
        nonlocal connections
        connections += 1
        await enter(connection)
        await connection.send(json.dumps(LISTENING))
        if connections == 1:
            await connection.send(message)
        await connection.wait_closed()

    async with following(script) as (follower, _):
        await until(lambda: len(follower.states) == 3)
        assert [up for up, _ in follower.states] == [True, False, True]
        assert reason in follower.states[1][1]
        assert connections == 2


@pytest.mark.parametrize("at", ["login", "listen", "not granted"])
async def test_a_log_in_that_ends_half_way_is_tried_again(at: str):
    connections = 0

    async def script(connection: ServerConnection) -> None:
        nonlocal connections
        connections += 1
        if connections == 1 and at == "login":
            await connection.recv()
            return
        await enter(connection)
        if connections == 1 and at == "listen":
            return
        granted = {"streams": []} if connections == 1 else LISTENING["data"]
        await connection.send(json.dumps({"stream": "listening", "data": granted}))
        await connection.wait_closed()

    async with following(script) as (follower, _):
        await until(lambda: len(follower.states) == 2)
        assert [up for up, _ in follower.states] == [False, True]
        assert SECRET not in follower.states[0][1]
