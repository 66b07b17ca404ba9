"""The feed and both clients of it, over real sockets."""

from __future__ import annotations

import asyncio
import json
import socket
from decimal import Decimal
from typing import Any

import pytest
from websockets.asyncio.client import ClientConnection, connect
from websockets.asyncio.server import serve
from websockets.exceptions import ConnectionClosed, InvalidStatus

from engine.client import local_client, remote_client
from engine.errors import CommandRefused, ConfigError
from engine.model.enums import ConnectionState
from tests.integration.stand_in_engine import TOKEN, StandInEngine, serving

BEARER = {"authorization": f"Bearer {TOKEN}"}


@pytest.fixture(autouse=True)
def _no_token_variable(monkeypatch):
    monkeypatch.delenv("VOLLEY_TOKEN", raising=False)


@pytest.fixture
async def served(tmp_path):
    async with serving(tmp_path) as (engine, url, _):
        yield engine, url


def feed(url: str, headers: dict[str, str] | None = None, **more: Any) -> connect:
    address = url.replace("http", "ws", 1) + "/v1/feed"
    return connect(address, additional_headers=headers, proxy=None, **more)


async def hear(socket: ClientConnection) -> dict[str, Any]:
    async with asyncio.timeout(5):
        return json.loads(await socket.recv())


async def closed_with(socket: ClientConnection, within: float = 6) -> int:
    async with asyncio.timeout(within):
        with pytest.raises(ConnectionClosed):
            await socket.recv()
    return socket.close_code


class Listener:
    """Keeps what it hears; ``until`` awaits a fact."""

    def __init__(self) -> None:
        self.tables: dict[str, dict[str, Any]] = {}
        self.snapshots = 0
        self.batches = 0
        self.links: list[tuple[ConnectionState, str]] = []
        self._news = asyncio.Event()

    def on_snapshot(self, tables) -> None:
        self.snapshots += 1
        self.tables = {
            name: {next(iter(row.values())): row for row in rows} for name, rows in tables.items()
        }
        self._news.set()

    def on_batch(self, changes, removed) -> None:
        self.batches += 1
        for name, rows in changes.items():
            self.tables[name].update({next(iter(row.values())): row for row in rows})
        for name, keys in removed.items():
            for key in keys:
                self.tables[name].pop(key, None)
        self._news.set()

    def on_link(self, state, text) -> None:
        self.links.append((state, text))
        self._news.set()

    async def until(self, fact, seconds: float = 8) -> None:
        async with asyncio.timeout(seconds):
            while not fact():
                self._news.clear()
                await self._news.wait()

    @property
    def state(self) -> ConnectionState | None:
        return self.links[-1][0] if self.links else None


# ---- the feed itself


async def test_a_snapshot_and_then_numbered_batches(served):
    engine, url = served
    engine.put("orders", cl_ord_id="A", status="new")
    async with feed(url, BEARER) as socket:
        snapshot = await hear(socket)
        assert (snapshot["type"], snapshot["seq"]) == ("snapshot", 0)
        assert snapshot["tables"]["orders"] == [{"cl_ord_id": "A", "status": "new"}]
        engine.put("orders", cl_ord_id="A", status="filled")
        batch = await hear(socket)
        assert (batch["type"], batch["seq"]) == ("batch", 1)
        assert batch["changes"] == {"orders": [{"cl_ord_id": "A", "status": "filled"}]}
        engine.drop("orders", "A")
        batch = await hear(socket)
        assert (batch["seq"], batch["removed"]) == (2, {"orders": ["A"]})


async def test_the_token_may_come_as_the_first_message(served):
    _, url = served
    async with feed(url) as socket:
        await socket.send(json.dumps({"token": TOKEN}))
        assert (await hear(socket))["type"] == "snapshot"


@pytest.mark.parametrize(
    "message",
    ['{"token": "wrong"}', "{}", "[]", "nonsense", '{"token": 1}', '{"token": null}', b"bytes", ""],
)
async def test_a_wrong_first_message_closes(served, message):
    _, url = served
    async with feed(url) as socket:
        await socket.send(message)
        assert await closed_with(socket, 2) == 4401


async def test_a_wrong_header_closes_at_once_and_silence_after_a_while(served, monkeypatch):
    monkeypatch.setattr("engine.api.feed.TOKEN_WITHIN_S", 0.2)
    _, url = served
    async with feed(url, {"authorization": "Bearer wrong"}) as socket:
        assert await closed_with(socket, 2) == 4401
    async with feed(url) as socket:
        assert await closed_with(socket, 2) == 4401


async def test_another_host_name_is_refused_before_the_upgrade(served):
    _, url = served
    with pytest.raises(InvalidStatus) as refused:
        async with feed(url, {**BEARER, "host": "evil.example"}):
            raise AssertionError
    assert refused.value.response.status_code == 403


async def test_a_burst_is_conflated_and_cut_into_slices(served):
    engine, url = served
    async with feed(url, BEARER) as socket:
        await hear(socket)
        for status in ("new", "partially_filled", "filled"):
            for number in range(1200):
                engine.put("orders", cl_ord_id=f"O{number}", status=status)
        rows: list[dict[str, Any]] = []
        while len(rows) < 1200:
            batch = (await hear(socket))["changes"]["orders"]
            assert len(batch) <= 500
            rows += batch
    assert len(rows) == 1200
    assert {row["status"] for row in rows} == {"filled"}


async def test_no_more_than_about_30_batches_a_second(served):
    engine, url = served
    async with feed(url, BEARER) as socket:
        await hear(socket)
        loop = asyncio.get_running_loop()
        began, batches, number = loop.time(), 0, 0
        while loop.time() - began < 0.7:
            engine.put("orders", cl_ord_id="A", number=(number := number + 1))
            try:
                async with asyncio.timeout(0.002):
                    await socket.recv()
                    batches += 1
            except TimeoutError:
                continue
    assert 10 <= batches <= 24


async def test_a_reader_that_stops_reading_costs_no_queue(served):
    """It misses states in between; once it reads again it gets the newest of each key."""
    engine, url = served
    text = "x" * 2000
    async with feed(url, BEARER, max_queue=1, ping_interval=None) as slow:
        await hear(slow)
        async with feed(url, BEARER) as quick:
            await hear(quick)
            for number in range(60):
                for key in range(200):
                    engine.put("orders", cl_ord_id=f"O{key}", number=number, text=text)
                seen = 0
                while seen < 200:  # the quick one has it all: the slow one holds nobody up
                    seen += len((await hear(quick))["changes"]["orders"])
        newest: dict[str, int] = {}
        batches = 0
        while len(newest) < 200 or set(newest.values()) != {59}:
            batch = await hear(slow)
            batches += 1
            for row in batch["changes"]["orders"]:
                newest[row["cl_ord_id"]] = row["number"]
    assert batches < 60, "nothing was conflated"


async def test_a_reader_that_leaves_is_forgotten(served):
    engine, url = served
    readers = engine.publisher._readers
    async with feed(url, BEARER) as socket:
        await hear(socket)
        assert len(readers) == 1
    async with asyncio.timeout(5):
        while readers:
            engine.put("orders", cl_ord_id="A")
            await asyncio.sleep(0.01)


# ---- the remote client


async def test_the_remote_client_follows_and_commands(served):
    engine, url = served
    engine.put("orders", cl_ord_id="A", status="new")
    client, listener = remote_client(url.replace("http", "ws", 1), TOKEN), Listener()
    assert TOKEN not in repr(client)
    await client.start(listener)
    await listener.until(lambda: listener.snapshots)
    assert [state for state, _ in listener.links] == ["connecting", "connected"]
    assert listener.tables["orders"]["A"]["status"] == "new"
    engine.put("orders", cl_ord_id="B", status="new")
    engine.drop("orders", "A")
    await listener.until(lambda: list(listener.tables["orders"]) == ["B"])

    assert (await client.command("kill", scope="all"))["done"] == "kill"
    assert engine.commands[-1]["id"]
    result = await client.command(
        "close_position", account="A", symbol="X", fraction=Decimal("0.5")
    )
    assert result["done"] == "close_position"
    assert engine.commands[-1]["fraction"] == "0.5"
    with pytest.raises(CommandRefused) as refused:
        await client.command("nonsense")
    assert (refused.value.code, refused.value.status) == ("INVALID_COMMAND", 422)

    document = {"id": "s-1", "source": "desk", "quantity": Decimal("1.5")}
    assert (await client.send_signal(document))["state"] == "accepted"
    assert (await client.signal_detail("desk/s-1"))["signal"] == {"key": "desk/s-1"}
    with pytest.raises(CommandRefused, match="no signal"):
        await client.signal_detail("desk/none")
    with pytest.raises(CommandRefused) as contradicted:
        await client.send_signal({**document, "quantity": "2"})
    assert contradicted.value.status == 409
    await client.stop()
    await client.stop()


async def test_the_remote_client_comes_back_with_a_fresh_snapshot(tmp_path):
    engine, listener = StandInEngine(), Listener()
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        listen = f"127.0.0.1:{free.getsockname()[1]}"
    client = remote_client(f"ws://{listen}", TOKEN)
    await client.start(listener)
    await listener.until(lambda: listener.state is ConnectionState.DISCONNECTED)
    with pytest.raises(CommandRefused) as refused:
        await client.command("kill")
    assert refused.value.code == "NO_ENGINE"
    for round_number in (1, 2):
        async with serving(tmp_path, listen=listen, engine=engine):
            engine.put("orders", cl_ord_id=f"O{round_number}")
            await listener.until(lambda: listener.state is ConnectionState.CONNECTED)
            await listener.until(lambda n=round_number: listener.snapshots == n)
            assert f"O{round_number}" in listener.tables["orders"]
            assert await client.command("kill")  # over a fresh connection, too
        await listener.until(lambda: listener.state is ConnectionState.DISCONNECTED)
    await client.stop()


async def test_a_refused_token_is_an_error_that_needs_a_person(served):
    _, url = served
    client, listener = remote_client(url, "wrong"), Listener()
    await client.start(listener)
    await listener.until(lambda: listener.state is ConnectionState.ERROR)
    assert "token" in listener.links[-1][1]
    with pytest.raises(CommandRefused) as refused:
        await client.command("kill")
    assert refused.value.code == "UNAUTHORIZED"
    await client.stop()


async def test_a_gap_means_a_new_snapshot():
    connections = 0

    async def lossy(server_side) -> None:
        nonlocal connections
        connections += 1
        tables = {"orders": [{"cl_ord_id": f"C{connections}"}]}
        await server_side.send(json.dumps({"type": "snapshot", "seq": 0, "tables": tables}))
        seq = 2 if connections == 1 else 1
        rows = {"orders": [{"cl_ord_id": "late"}]}
        await server_side.send(json.dumps({"type": "batch", "seq": seq, "changes": rows}))
        await server_side.wait_closed()

    async with serve(lossy, "127.0.0.1", 0) as server:
        port = server.sockets[0].getsockname()[1]
        client, listener = remote_client(f"ws://127.0.0.1:{port}", TOKEN), Listener()
        await client.start(listener)
        await listener.until(lambda: listener.batches == 1)
        assert listener.snapshots == 2
        assert set(listener.tables["orders"]) == {"C2", "late"}
        assert any("missing" in text for _, text in listener.links)
        await client.stop()


async def test_a_listener_that_fails_does_not_end_the_link(served, caplog):
    engine, url = served
    listener = Listener()
    failing = [True]

    class Failing:
        on_snapshot, on_link = listener.on_snapshot, listener.on_link

        def on_batch(self, changes, removed) -> None:
            if failing:
                failing.clear()
                listener.on_link(ConnectionState.CONNECTED, "it has failed")
                raise KeyError("of the listener")
            listener.on_batch(changes, removed)

    for client in (remote_client(url, TOKEN), local_client(engine)):
        failing[:] = [True]
        await client.start(Failing())
        await listener.until(lambda: listener.state is ConnectionState.CONNECTED)
        await listener.until(lambda: listener.snapshots)
        engine.put("orders", cl_ord_id="first")
        await listener.until(lambda: not failing)
        engine.put("orders", cl_ord_id="second")
        await listener.until(lambda: "second" in listener.tables["orders"])
        await client.stop()
        assert listener.links[-1][0] is ConnectionState.CONNECTED
        listener.snapshots = 0
        listener.links.clear()
        engine.drop("orders", "second")
    assert caplog.text.count("a listener of the engine failed") == 2


@pytest.mark.parametrize(
    "url", ["", "127.0.0.1:1", "ftp://h:1", "ws://", "ws://u:p@h:1", "ws://h:x", "ws://h:1/other"]
)
def test_an_address_that_is_none_is_refused(url):
    with pytest.raises(ConfigError, match="expected ws://"):
        remote_client(url, TOKEN)


# ---- the local client


async def test_the_local_client_is_the_same_without_sockets():
    engine, listener = StandInEngine(), Listener()
    engine.put("orders", cl_ord_id="A", status="new")
    client = local_client(engine)
    await client.start(listener)
    await listener.until(lambda: listener.snapshots)
    assert listener.state is ConnectionState.CONNECTED
    loop = asyncio.get_running_loop()
    began, number = loop.time(), 0
    while loop.time() - began < 0.4:
        engine.put("orders", cl_ord_id="A", number=(number := number + 1))
        await asyncio.sleep(0)
    await listener.until(lambda: listener.tables["orders"]["A"].get("number") == number)
    assert 5 <= listener.batches <= 27  # a frame is 1/60 s
    assert (await client.command("kill"))["done"] == "kill"
    with pytest.raises(CommandRefused):
        await client.command("resend", cl_ord_id="A" * 20)
    assert (await client.send_signal({"id": "1", "source": "desk"}))["state"] == "accepted"
    assert (await client.signal_detail("desk/1"))["signal"] == {"key": "desk/1"}
    for call in (
        client.signal_detail("desk/2"),
        client.send_signal({"id": "1", "source": "desk", "quantity": Decimal(2)}),
        client.send_signal({"source": "desk"}),
    ):
        with pytest.raises(CommandRefused):
            await call
    await client.stop()
    assert not engine.publisher._readers
