"""Ways out of this machine, the pace of new connections, and connections proven alive."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import time
from collections.abc import AsyncIterator

import pytest
from websockets.asyncio.server import serve

from engine.brokers.dial import Pacer, Route, dial
from engine.brokers.http import HttpClient, check_base_url
from engine.brokers.websocket import WebSocket
from engine.brokers.wire import CONTROL, WireHub, WirePool, header
from engine.errors import BrokerUnavailable, ConfigError
from engine.model.account import Egress
from tests.wire_rig import (
    NOT_ON_WINDOWS,
    PLAIN,
    REQUEST,
    Authority,
    Probe,
    Server,
    always,
    ask,
    request,
    until,
    wired,
)

USER, PASSWORD = "me", "canary:pässword"


class Proxy:
    """A real little proxy for CONNECT and SOCKS5; ``answer`` replaces what it would say."""

    def __init__(self) -> None:
        self.server = Server(self._client)
        self.asked: list[str] = []
        self.answer: bytes | None = None
        self.hang = False
        self.password = ""

    async def _client(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        first = await reader.readexactly(1)
        if self.hang:
            await reader.read()
        elif self.answer is not None:
            writer.write(self.answer)
            await writer.drain()
            await reader.read()
        elif first == b"\x05":
            await self._socks(reader, writer)
        else:
            await self._connect(first, reader, writer)

    async def _connect(
        self, first: bytes, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        head = first + await reader.readuntil(b"\r\n\r\n")
        method, authority, version = head.split(b"\r\n")[0].decode().split(" ")
        assert (method, version) == ("CONNECT", "HTTP/1.1")
        assert header(head, "host") == authority
        self.asked.append(authority)
        wanted = base64.b64encode(f"{USER}:{self.password}".encode()).decode()
        if self.password and header(head, "proxy-authorization") != f"Basic {wanted}":
            writer.write(b"HTTP/1.1 407 Who\r\nProxy-Authenticate: Basic\r\n\r\n")
            return
        assert self.password or not header(head, "proxy-authorization")
        host, _, port = authority.rpartition(":")
        writer.write(b"HTTP/1.1 200 Connected\r\nX-Proxy: yes\r\n\r\n")
        await self._join(host.strip("[]"), int(port), reader, writer)

    async def _socks(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        methods = await reader.readexactly((await reader.readexactly(1))[0])
        method = 2 if self.password else 0
        if method not in methods:
            writer.write(b"\x05\xff")
            return
        writer.write(bytes((5, method)))
        if method:
            assert await reader.readexactly(1) == b"\x01"
            user = await reader.readexactly((await reader.readexactly(1))[0])
            password = await reader.readexactly((await reader.readexactly(1))[0])
            right = (user.decode(), password.decode()) == (USER, self.password)
            writer.write(b"\x01\x00" if right else b"\x01\x01")
            if not right:
                return
        assert await reader.readexactly(3) == b"\x05\x01\x00"
        kind = (await reader.readexactly(1))[0]
        if kind == 3:
            host = (await reader.readexactly((await reader.readexactly(1))[0])).decode()
        else:
            assert kind == 1
            host = ".".join(map(str, await reader.readexactly(4)))
        port = int.from_bytes(await reader.readexactly(2), "big")
        self.asked.append(f"{host}:{port}")
        writer.write(b"\x05\x00\x00\x03\x04test\x00\x01")
        await self._join(host, port, reader, writer)

    async def _join(
        self, host: str, port: int, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        far_reader, far_writer = await asyncio.open_connection(host, port)

        async def copy(source: asyncio.StreamReader, sink: asyncio.StreamWriter) -> None:
            with contextlib.suppress(ConnectionError):
                while data := await source.read(65536):
                    sink.write(data)
            sink.close()

        back = asyncio.create_task(copy(far_reader, writer))
        try:
            await copy(reader, far_writer)
            await back
        finally:
            back.cancel()
            far_writer.transport.abort()
            await asyncio.gather(back, return_exceptions=True)


@pytest.fixture
async def proxy() -> AsyncIterator[Proxy]:
    made = Proxy()
    await made.server.start()
    yield made
    await made.server.stop()


def route(proxy: Proxy, scheme: str, *, signed: bool = True) -> Route:
    found = Route.of(
        "A",
        Egress(proxy=f"{scheme}://127.0.0.1:{proxy.server.port}"),
        {"proxy_user": USER, "proxy_password": PASSWORD} if signed else {},
    )
    assert found is not None
    return found


SCHEMES = pytest.mark.parametrize("scheme", ["http", "socks5"])


@SCHEMES
@pytest.mark.parametrize("signed", [False, True])
async def test_orders_leave_through_the_proxy(proxy: Proxy, scheme: str, signed: bool):
    proxy.password = PASSWORD if signed else ""
    async with wired(always(PLAIN), egress=route(proxy, scheme, signed=signed)) as (pool, server):
        for _ in range(3):
            assert (await ask(pool))[:2] == ("reply", 200)
        assert server.connections == 2
        assert proxy.asked == [f"127.0.0.1:{server.port}"] * 2


@SCHEMES
async def test_tls_goes_through_the_proxy_to_the_server_itself(proxy: Proxy, scheme: str, tmp_path):
    authority = Authority(tmp_path)
    async with wired(
        always(PLAIN),
        tls=authority.server(),
        client_tls=authority.trusting,
        host="localhost",
        egress=route(proxy, scheme, signed=False),
    ) as (pool, server):
        assert (await ask(pool))[:2] == ("reply", 200)
        assert proxy.asked[0] == f"localhost:{server.port}"  # the proxy resolves the name
        asyncio.get_running_loop().set_exception_handler(lambda *_: None)
        base = check_base_url("A", f"https://127.0.0.1:{server.port}", (), allow_simulated=True)
        client = HttpClient(
            base, context=authority.trusting(), egress=route(proxy, scheme, signed=False)
        )
        with pytest.raises(BrokerUnavailable, match="certificate is not trusted"):
            await client.get("A", "/", headers={})
        await client.close()


@SCHEMES
async def test_look_ups_and_streams_leave_through_the_proxy(proxy: Proxy, scheme: str):
    proxy.password = PASSWORD
    server = Server(always(PLAIN))
    await server.start()
    base = check_base_url("A", f"http://127.0.0.1:{server.port}", (), allow_simulated=True)
    client = HttpClient(base, egress=route(proxy, scheme))
    assert (await client.get("A", "/v2/x", headers={})).body == {"id": "abc"}
    assert len(proxy.asked) == 1
    with pytest.raises(ConnectionError, match="HTTP 200"):  # a server of another trade
        await WebSocket.connect(
            base.websocket, on_message=lambda _: None, egress=route(proxy, scheme)
        )
    assert len(proxy.asked) == 2
    await client.close()
    await server.stop()


@SCHEMES
async def test_a_stream_over_tls_through_the_proxy(proxy: Proxy, scheme: str, tmp_path):
    async def echo(connection):
        async for message in connection:
            await connection.send(message)

    proxy.password = PASSWORD
    authority = Authority(tmp_path)
    server = await serve(echo, "127.0.0.1", 0, ssl=authority.server())
    port = server.sockets[0].getsockname()[1]
    heard: list[bytes] = []
    socket = await WebSocket.connect(
        f"wss://localhost:{port}/stream",
        on_message=heard.append,
        context=authority.trusting(),
        egress=route(proxy, scheme),
    )
    for size in (1, 1000, 100_000, 1 << 20):
        socket.send(b"x" * size)
    await until(lambda: len(heard) == 4)
    assert [len(message) for message in heard] == [1, 1000, 100_000, 1 << 20]
    assert proxy.asked == [f"localhost:{port}"]
    await socket.close()
    assert await socket.closed() == "closed by us"
    server.close()
    await server.wait_closed()


RUBBISH = [
    ("http", b"HTTP/1.1 403 No\r\n\r\n", "it refuses to connect (HTTP 403)"),
    ("http", b"HTTP/1.1 407 Who\r\n\r\n", "it refuses proxy_user and proxy_password"),
    ("http", b"SSH-2.0-OpenSSH\r\n\r\n", "its answer is not HTTP"),
    ("http", b"HTTP/1.1 abc\r\n\r\n", "its answer is not HTTP"),
    ("http", b"X" * 20_000, "its answer is not HTTP"),
    ("http", b"HTTP/1.1 200 OK\r\n\r\nHTTP/1.1 200 OK\r\n\r\n", "it speaks before"),
    ("http", b"HTTP/1.1 200 OK\r\n\r\n{}", "it speaks before it is spoken to"),
    ("socks5", b"\x04\x00", "its answer is not SOCKS5"),
    ("socks5", b"HTTP/1.1 400 Bad\r\n\r\n", "its answer is not SOCKS5"),
    ("socks5", b"\x05\xff", "it wants credentials, or refuses ours"),
    ("socks5", b"\x05\x02\x01\x01", "it refuses proxy_user and proxy_password"),
    ("socks5", b"\x05\x00\x05\x05\x00\x01", "it refuses to connect (the host refuses connections)"),
    ("socks5", b"\x05\x00\x05\x63\x00\x01", "it refuses to connect (code 99)"),
    ("socks5", b"\x05\x00\x05\x00\x00\x09", "its answer is not SOCKS5"),
]


@pytest.mark.parametrize(("scheme", "answer", "words"), RUBBISH)
async def test_a_proxy_that_refuses_or_answers_rubbish_is_proof_that_nothing_left(
    proxy: Proxy, scheme: str, answer: bytes, words: str
):
    proxy.answer = answer
    async with wired(always(PLAIN), egress=route(proxy, scheme)) as (pool, server):
        kind, left, reason = await ask(pool)
        assert (kind, left) == ("failure", False)
        assert f"proxy 127.0.0.1:{proxy.server.port}: {words}" in reason
        assert "canary" not in reason
        assert server.connections == 0


@SCHEMES
async def test_a_proxy_that_hangs_closes_or_is_gone(proxy: Proxy, scheme: str):
    proxy.hang = True
    async with wired(
        always(PLAIN),
        egress=route(proxy, scheme, signed=False),
        connect_timeout_s=0.2,
        backoff_s=0.01,
    ) as (pool, server):
        kind, left, reason = await ask(pool)
        assert (kind, left) == ("failure", False)
        assert f"through {scheme}://127.0.0.1:{proxy.server.port}: no answer in time" in reason
        proxy.hang = False
        await until(pool.ready)
        assert (await ask(pool))[:2] == ("reply", 200)
        await proxy.server.stop()
        await until(lambda: not pool.up)
        kind, left, reason = await ask(pool)
        assert (kind, left) == ("failure", False)
        assert f"proxy 127.0.0.1:{proxy.server.port}: " in reason
        assert server.connections in {1, 2}


async def test_every_cut_of_a_proxys_answer(proxy: Proxy):
    """A proxy that stops in the middle of a word leaves us without a connection, never with half."""
    whole = {
        "http": b"HTTP/1.1 200 OK\r\nA: b\r\n\r\n",
        "socks5": b"\x05\x00\x05\x00\x00\x03\x02ab12",
    }
    cut, scheme = 0, "http"

    async def handler(reader, writer):
        await reader.read(3)
        writer.write(whole[scheme][:cut])
        await writer.drain()

    proxy.server.handler = handler
    for scheme in whole:
        found = route(proxy, scheme, signed=False)
        for cut in range(len(whole[scheme])):  # noqa: B007 (the proxy reads it)
            with pytest.raises(ConnectionError, match="proxy"):
                await WebSocket.connect(
                    "ws://127.0.0.1:9", on_message=lambda _: None, egress=found, timeout_s=5
                )


async def test_a_connection_leaves_from_the_address_asked_for():
    peers: list[str] = []

    async def handler(reader, writer):
        peers.append(writer.get_extra_info("peername")[0])
        await always(PLAIN)(reader, writer)

    mine = Route.of("A", Egress(local_address="127.0.0.2"), {})
    async with wired(handler, egress=mine) as (pool, server):
        assert (await ask(pool))[:2] == ("reply", 200)
        base = check_base_url("A", f"http://127.0.0.1:{server.port}", (), allow_simulated=True)
        client = HttpClient(base, egress=mine)
        await client.get("A", "/", headers={})
        with pytest.raises(ConnectionError):
            await WebSocket.connect(base.websocket, on_message=lambda _: None, egress=mine)
        await client.close()
        assert peers == ["127.0.0.2"] * 4
    foreign = Route.of("A", Egress(local_address="192.0.2.7"), {})
    async with wired(handler, egress=foreign) as (pool, _):
        kind, left, reason = await ask(pool)
        assert (kind, left) == ("failure", False)
        assert "192.0.2.7" in reason


@pytest.mark.parametrize(
    ("egress", "credentials", "words"),
    [
        ({"local_address": "1.2.3"}, {}, "'1.2.3' is no address"),
        ({"proxy": "http://[::1:8080"}, {}, "is no address"),
        ({"proxy": "socks5://proxy:99999"}, {}, "is no address"),
        ({"local_address": "::1", "proxy": "http://p:1"}, {}, "expected one of them"),
        ({"proxy": "http://p:1"}, {"proxy_user": "a:b"}, "no colon"),
        ({"proxy": "http://p:1"}, {"proxy_password": "canary" * 50}, "255 bytes"),
    ],
)
def test_a_way_out_that_is_none(egress: dict[str, str], credentials: dict[str, str], words: str):
    with pytest.raises(ConfigError, match="account A-9: ") as caught:
        Route.of("A-9", Egress(**egress), credentials)
    assert words in str(caught.value)
    assert "canary" not in str(caught.value)


def test_proxy_credentials_are_never_shown(proxy: Proxy):
    assert "canary" not in repr(route(proxy, "http"))
    assert Route.of("A", None, {}) is None
    assert Route.of("A", Egress(), {"proxy_password": "x"}) is None


# Pace


async def test_new_connections_to_one_address_are_spaced_whoever_opens_them(monkeypatch):
    opened: list[tuple[float, object]] = []

    async def dialled(*args, **options):
        opened.append((time.monotonic(), options["route"]))
        return await dial(*args, **options)

    monkeypatch.setattr("engine.brokers.wire.dial", dialled)
    monkeypatch.setattr("engine.brokers.lookups.dial", dialled)
    server = Server(always(PLAIN))
    await server.start()
    hub, elsewhere = WireHub(), Route(local_address="127.0.0.3")
    pools = [
        WirePool(hub, "127.0.0.1", server.port, tls=False, connects_per_second=50) for _ in range(3)
    ]
    other = WirePool(hub, "127.0.0.1", server.port, tls=False, egress=elsewhere)
    await asyncio.gather(*(pool.start() for pool in (*pools, other)))
    base = check_base_url("A", f"http://127.0.0.1:{server.port}", (), allow_simulated=True)
    client = HttpClient(base, pacer=hub.pacer("127.0.0.1", None, 50))
    await client.get("A", "/", headers={})
    free = [at for at, route in opened if route is elsewhere]
    paced = [at for at, route in opened if route is None]
    assert (len(free), len(paced)) == (2, 7)
    assert paced[-1] - paced[0] >= 5 * 0.02
    assert max(free) < paced[-1]  # another way out does not wait
    assert all(pool.warm == pool.wanted == 1 for pool in pools)
    await client.close()
    await asyncio.gather(*(pool.stop() for pool in (*pools, other)))
    await server.stop()


async def test_a_pace_keeps_the_order_and_forgives_who_left():
    pacer = Pacer(100)
    done: list[int] = []

    async def turn(number: int) -> None:
        await pacer.turn()
        done.append(number)

    tasks = [asyncio.create_task(turn(number)) for number in range(5)]
    await asyncio.sleep(0)
    tasks[2].cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
    assert done == [0, 1, 3, 4]
    started = time.monotonic()
    for _ in range(3):
        await Pacer(0).turn()
    assert time.monotonic() - started < 0.5


async def test_few_connections_to_one_place_are_opened_at_a_time(monkeypatch):
    """Each has its whole time for itself, however long it waited for its turn; others do not wait."""
    monkeypatch.setattr("engine.brokers.dial._AT_ONCE", 3)
    shaking = most = 0

    async def silent(reader, writer):
        nonlocal shaking, most
        shaking += 1
        most = max(most, shaking)
        try:
            await reader.read()
        finally:
            shaking -= 1

    proxy, other = Server(silent), Server(always(PLAIN))
    await proxy.start()
    await other.start()
    found = Route(proxy=f"socks5://127.0.0.1:{proxy.port}")

    async def connect(egress: Route | None) -> None:
        await WebSocket.connect(
            f"ws://127.0.0.1:{other.port}",
            on_message=lambda _: None,
            egress=egress,
            timeout_s=0.1,
        )

    started = time.monotonic()
    waiting = [asyncio.create_task(connect(found)) for _ in range(12)]
    await until(lambda: shaking == 3)
    with pytest.raises(ConnectionError, match="HTTP 200"):
        await connect(None)
    assert not all(task.done() for task in waiting)
    outcomes = await asyncio.gather(*waiting, return_exceptions=True)
    assert all(isinstance(outcome, TimeoutError) for outcome in outcomes)
    assert time.monotonic() - started >= 4 * 0.1 - 0.01  # four rounds, not one
    assert proxy.connections == 12
    assert most <= 2 * 3  # the server may see the next before it sees the last one's end
    await proxy.stop()
    await other.stop()


# Alive?

PROBE = b"GET /clock HTTP/1.1\r\nHost: venue\r\n\r\n"


async def test_a_half_open_connection_is_found_before_an_order_needs_it():
    deaf: set[int] = set()
    made = probes = 0

    async def handler(reader, writer):
        nonlocal made, probes
        made += 1
        me = made
        while True:
            got = await request(reader)
            probes += got == PROBE
            if me not in deaf:
                writer.write(PLAIN)

    async with wired(handler, timeout_s=1.0, probe=PROBE, probe_s=0.03, backoff_s=0.01) as (
        pool,
        server,
    ):
        await until(lambda: probes >= 3)
        assert server.connections == 2  # answered probes change nothing
        deaf |= {1, 2}
        await until(lambda: server.connections >= 4 and pool.ready())
        assert (await ask(pool))[:2] == ("reply", 200)


async def test_a_half_open_connection_without_a_successor_is_given_up():
    deaf = False

    async def handler(reader, writer):
        while True:
            await request(reader)
            if not deaf:
                writer.write(PLAIN)

    async with wired(
        handler, timeout_s=0.1, probe=PROBE, probe_s=0.03, backoff_s=0.01, backoff_max_s=0.02
    ) as (pool, server):
        assert pool.ready()
        deaf = True
        server.server.close()  # nobody new gets in; the old ones stay open and silent
        await until(lambda: not pool.up)
        kind, left, _ = await ask(pool)
        assert (kind, left) == ("failure", False)


async def test_a_cancel_does_not_wait_for_a_probe():
    async def handler(reader, writer):
        while True:
            got = await request(reader)
            if got != PROBE:
                writer.write(PLAIN)

    async with wired(handler, timeout_s=5, probe=PROBE, probe_s=0.02) as (pool, _):
        await until(lambda: not pool._control.idle)  # the probe is out, and stays without an answer
        for _ in range(3):
            assert (await ask(pool, REQUEST, CONTROL))[:2] == ("reply", 200)


async def test_a_probe_stops_with_the_pool():
    probes = 0

    async def handler(reader, writer):
        nonlocal probes
        while True:
            probes += (await request(reader)) == PROBE
            writer.write(PLAIN)

    answers: list[tuple[int, bytes]] = []
    async with wired(
        handler,
        probe=PROBE,
        probe_s=0.01,
        on_probe=lambda _exchange, status, _raw, body: answers.append((status, body)),
    ) as (pool, _):
        await until(lambda: probes > 3)
        assert set(answers) == {(200, b'{"id":"abc"}')}
        await pool.stop()
        timer = pool._probe_timer
        assert timer is not None
        assert timer.cancelled()
        probe = Probe()
        pool.send(REQUEST, probe)
        assert (await probe.done)[:2] == ("failure", False)


@NOT_ON_WINDOWS
def test_the_same_on_uvloop(tmp_path):
    import uvloop

    async def each() -> None:
        for scheme in ("http", "socks5"):
            proxy = Proxy()
            await proxy.server.start()
            await test_orders_leave_through_the_proxy(proxy, scheme, True)
            await proxy.server.stop()
        for scheme, answer, words in RUBBISH:
            proxy = Proxy()
            await proxy.server.start()
            await test_a_proxy_that_refuses_or_answers_rubbish_is_proof_that_nothing_left(
                proxy, scheme, answer, words
            )
            await proxy.server.stop()
        proxy = Proxy()
        await proxy.server.start()
        await test_tls_goes_through_the_proxy_to_the_server_itself(proxy, "http", tmp_path)
        await proxy.server.stop()
        for scheme in ("http", "socks5"):
            proxy = Proxy()
            await proxy.server.start()
            await test_a_stream_over_tls_through_the_proxy(proxy, scheme, tmp_path)
            await proxy.server.stop()
        await test_a_connection_leaves_from_the_address_asked_for()
        await test_a_half_open_connection_is_found_before_an_order_needs_it()

    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(each())
