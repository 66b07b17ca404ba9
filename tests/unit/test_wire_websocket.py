"""Our WebSocket client against a real server library, and against servers that break every rule."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import hashlib
import os
import random
import time
from collections.abc import AsyncIterator, Awaitable, Callable

import pytest
from websockets.asyncio.server import Server, ServerConnection, serve
from websockets.exceptions import ConnectionClosed

from engine.brokers.reconnect import follow
from engine.brokers.websocket import HandshakeRefused, WebSocket
from engine.errors import BrokerAuthError, BrokerProtocolError, BrokerUnavailable
from tests.wire_rig import NOT_ON_WINDOWS

Handler = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]


def frame(first: int, payload: bytes = b"", *, mask: bool = False, wide: int = 0) -> bytes:
    """Write a server's frame; ``wide`` forces 2 or 8 bytes of length."""
    size = len(payload)
    bit = 0x80 if mask else 0
    if wide == 8 or size >= 1 << 16:
        head = bytes((first, bit | 127)) + size.to_bytes(8, "big")
    elif wide == 2 or size > 125:
        head = bytes((first, bit | 126)) + size.to_bytes(2, "big")
    else:
        head = bytes((first, bit | size))
    return head + (b"\0\0\0\0" if mask else b"") + payload


async def answer(reader: asyncio.StreamReader, **changes: str | None) -> bytes:
    """Read the request; return the answer that RFC 6455 wants, with ``changes``."""
    head = (await reader.readuntil(b"\r\n\r\n")).decode("ascii")
    fields = dict(line.split(": ", 1) for line in head.split("\r\n")[1:-2])
    assert fields["Sec-WebSocket-Version"] == "13"
    assert len(base64.b64decode(fields["Sec-WebSocket-Key"])) == 16
    digest = hashlib.sha1(
        fields["Sec-WebSocket-Key"].encode() + b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11"
    ).digest()
    lines = {
        "Upgrade": "websocket",
        "Connection": "keep-alive, Upgrade",
        "Sec-WebSocket-Accept": base64.b64encode(digest).decode(),
    }
    lines.update({name.replace("_", "-"): value for name, value in changes.items()})
    text = "".join(f"{name}: {value}\r\n" for name, value in lines.items() if value is not None)
    return f"HTTP/1.1 101 Switching Protocols\r\n{text}\r\n".encode()


async def read_frame(reader: asyncio.StreamReader) -> tuple[int, bytes]:
    """Read a client's frame, which must be masked."""
    first, size = await reader.readexactly(2)
    assert size & 0x80, "a client masks"
    size &= 0x7F
    if size >= 126:
        size = int.from_bytes(await reader.readexactly(2 if size == 126 else 8), "big")
    mask = await reader.readexactly(4)
    payload = await reader.readexactly(size)
    return first, bytes(byte ^ mask[at % 4] for at, byte in enumerate(payload))


@contextlib.asynccontextmanager
async def raw(handler: Handler) -> AsyncIterator[str]:
    tasks: set[asyncio.Task[None]] = set()

    async def client(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task
        tasks.add(task)
        try:
            await handler(reader, writer)
        except (ConnectionError, asyncio.IncompleteReadError, asyncio.CancelledError):
            pass
        finally:
            tasks.discard(task)
            writer.transport.abort()

    server = await asyncio.start_server(client, "127.0.0.1", 0)
    try:
        yield f"ws://127.0.0.1:{server.sockets[0].getsockname()[1]}"
    finally:
        server.close()
        for task in list(tasks):
            task.cancel()
        if tasks:
            await asyncio.wait(tasks)


def saying(stream: bytes, *, pieces: int = 0) -> Handler:
    """Shake hands, say ``stream`` (in pieces of so many bytes), and listen."""

    async def handler(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        whole = await answer(reader) + stream
        for start in range(0, len(whole), pieces or len(whole)):
            writer.write(whole[start : start + (pieces or len(whole))])
            await asyncio.sleep(0)
        while await reader.read(4096):
            pass

    return handler


class Client:
    """A connection and what it heard."""

    def __init__(self) -> None:
        self.heard: list[bytes] = []
        self.more = asyncio.Event()

    def on_message(self, message: bytes) -> None:
        self.heard.append(message)
        self.more.set()

    async def hears(self, count: int) -> list[bytes]:
        async with asyncio.timeout(5):
            while len(self.heard) < count:
                self.more.clear()
                await self.more.wait()
        return self.heard


async def ends(socket: WebSocket) -> str:
    return await asyncio.wait_for(socket.closed(), 5)


@contextlib.asynccontextmanager
async def library(handler: Callable[[ServerConnection], Awaitable[None]]) -> AsyncIterator[str]:
    server: Server = await serve(handler, "127.0.0.1", 0, compression="deflate", max_size=8 << 20)
    try:
        yield f"ws://127.0.0.1:{server.sockets[0].getsockname()[1]}/stream?token=canary"
    finally:
        server.close()
        await server.wait_closed()


SIZES = (0, 1, 125, 126, 127, 65_535, 65_536, 200_000)


async def test_speaks_with_a_real_server():
    async def echo(connection: ServerConnection) -> None:
        assert connection.request is not None
        assert connection.request.path == "/stream?token=canary"
        assert connection.request.headers["X-Key"] == "k"
        with contextlib.suppress(ConnectionClosed):
            async for message in connection:
                await connection.send(message)
                if isinstance(message, str):
                    await connection.send(iter((message, "é", message)))

    async with library(echo) as url:
        client = Client()
        socket = await WebSocket.connect(
            url, on_message=client.on_message, headers=[("X-Key", "k")]
        )
        wanted: list[bytes] = []
        for size in SIZES:
            blob = os.urandom(size)
            text = "ö" * size
            socket.send(blob)
            socket.send(text)
            wanted += [blob, text.encode(), f"{text}é{text}".encode()]
            await client.hears(len(wanted))
        assert client.heard == wanted
        await socket.close()
        assert await ends(socket) == "closed by us"
        with pytest.raises(ConnectionError, match="closed by us"):
            socket.send("late")


async def test_the_servers_closing_words_are_told_and_answered():
    codes: list[int | None] = []

    async def bye(connection: ServerConnection) -> None:
        await connection.send("last")
        await connection.close(4001, "token expired")
        codes.append(connection.close_code)

    async with library(bye) as url:
        client = Client()
        socket = await WebSocket.connect(url, on_message=client.on_message)
        assert await ends(socket) == "closed by the server (4001 token expired)"
        assert client.heard == [b"last"]
    assert codes == [4001]


STREAM = (
    frame(0x81, b"one")
    + frame(0x89, b"are you there")
    + frame(0x01, "ö".encode()[:1])  # a letter cut in two by fragments
    + frame(0x8A, b"unasked")
    + frame(0x00, "ö".encode()[1:] + b"-")
    + frame(0x89)
    + frame(0x80, b"end")
    + frame(0x82, bytes(range(256)))
    + frame(0x81, b"")
    + frame(0x82, b"wide", wide=2)
    + frame(0x82, b"wider", wide=8)
    + frame(0x81, b"x" * 300)
)
MESSAGES = [
    b"one",
    "ö-end".encode(),
    bytes(range(256)),
    b"",
    b"wide",
    b"wider",
    b"x" * 300,
]


@pytest.mark.parametrize("pieces", [1, 2, 3, 7, 0])
async def test_any_cut_of_the_stream_gives_the_same_messages(pieces: int):
    pongs: list[tuple[int, bytes]] = []

    async def handler(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        whole = await answer(reader) + STREAM
        for start in range(0, len(whole), pieces or len(whole)):
            writer.write(whole[start : start + (pieces or len(whole))])
            await asyncio.sleep(0)
        pongs.append(await read_frame(reader))
        pongs.append(await read_frame(reader))
        writer.write(frame(0x88, b"\x03\xe8"))
        pongs.append(await read_frame(reader))

    async with raw(handler) as url:
        client = Client()
        socket = await WebSocket.connect(url, on_message=client.on_message)
        assert await client.hears(len(MESSAGES)) == MESSAGES
        assert await ends(socket) == "closed by the server (1000)"
    assert pongs == [(0x8A, b"are you there"), (0x8A, b""), (0x88, b"\x03\xe8")]


def test_every_two_cuts_of_the_stream_give_the_same_messages():
    """Straight into the parser: each pair of cuts, as if three segments had come."""

    class Transport:
        def write(self, data: bytes) -> None: ...
        def get_write_buffer_size(self) -> int:
            return 0

        def is_closing(self) -> bool:
            return False

    async def run() -> None:
        stream = STREAM[:120]
        whole = [b"one", "ö-end".encode()]
        for first in range(len(stream)):
            for second in range(first, len(stream)):
                heard: list[bytes] = []
                socket = WebSocket(heard.append, b"", 4 << 20, 10.0)
                socket._open = None
                socket.connection_made(Transport())  # type: ignore[arg-type]
                for part in (stream[:first], stream[first:second], stream[second:]):
                    if part:
                        socket.data_received(part)
                assert heard == whole, (first, second)

    asyncio.run(run())


@pytest.mark.parametrize(
    ("stream", "code", "reason"),
    [
        (frame(0x81, b"x", mask=True), 1002, "masked"),
        (frame(0x82, b"x" * 126, mask=True), 1002, "masked"),
        (frame(0xC1, b"x"), 1002, "reserved"),
        (frame(0xA1, b"x"), 1002, "reserved"),
        (frame(0x83, b"x"), 1002, "reserved"),
        (frame(0x8B, b"x"), 1002, "reserved"),
        (frame(0x80, b"x"), 1002, "out of order"),
        (frame(0x01, b"x") + frame(0x81, b"y"), 1002, "out of order"),
        (frame(0x09, b"x"), 1002, "control frame"),
        (frame(0x89, b"x" * 126), 1002, "control frame"),
        (frame(0x88, b"x"), 1002, "closing frame"),
        (frame(0x88, b"\x03\xed"), 1002, "closing frame"),  # 1005 is never sent
        (frame(0x88, b"\x03\xe8\xff"), 1002, "closing frame"),
        (frame(0x81, b"\xff"), 1007, "UTF-8"),
        (frame(0x81, b"\xed\xa0\x80"), 1007, "UTF-8"),
        (frame(0x01, b"\xc3") + frame(0x80, b"x"), 1007, "UTF-8"),
        (b"\x82\x7f" + (5000).to_bytes(8, "big"), 1009, "more than 4096"),
        (b"\x82\x7f\xff" + bytes(7), 1009, "more than 4096"),
        (frame(0x02, b"x" * 4000) + frame(0x80, b"x" * 97), 1009, "more than 4096"),
        (frame(0x02) + frame(0x00) * 70_000, 1009, "more than 4096"),
    ],
)
async def test_a_server_that_breaks_the_rules_is_told_and_left(
    stream: bytes, code: int, reason: str
):
    told: list[tuple[int, bytes]] = []

    async def handler(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(await answer(reader) + stream + frame(0x81, b"never heard"))
        told.append(await read_frame(reader))

    async with raw(handler) as url:
        client = Client()
        socket = await WebSocket.connect(url, on_message=client.on_message, max_message=4096)
        assert reason in await ends(socket)
        assert client.heard == []
    assert told == [(0x88, code.to_bytes(2, "big"))]


@pytest.mark.parametrize(
    "changes",
    [
        {"Upgrade": None},
        {"Upgrade": "h2c"},
        {"Connection": "keep-alive"},
        {"Sec_WebSocket_Accept": "c29tZXRoaW5nIGVsc2U="},
        {"Sec_WebSocket_Accept": None},
        {"Sec_WebSocket_Extensions": "permessage-deflate"},
        {"Sec_WebSocket_Protocol": "chat"},
    ],
)
async def test_a_handshake_that_is_not_one(changes: dict[str, str | None]):
    async def handler(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(await answer(reader, **changes))
        await reader.read()

    async with raw(handler) as url:
        with pytest.raises(HandshakeRefused, match="not a WebSocket's"):
            await WebSocket.connect(url, on_message=Client().on_message)


@pytest.mark.parametrize(
    ("reply", "status", "pause"),
    [
        (b"HTTP/1.1 401 Unauthorized\r\nContent-Length: 0\r\n\r\n", 401, None),
        (b"HTTP/1.1 429 Slow\r\nRetry-After: 7\r\n\r\n", 429, 7.0),
        (b"HTTP/1.1 200 OK\r\n\r\n<html>", 200, None),
        (b"SSH-2.0-OpenSSH_9.6\r\n\r\n", 0, None),
        (b"X: y\r\n" * 4000, 0, None),
    ],
)
async def test_a_server_that_refuses(reply: bytes, status: int, pause: float | None):
    async def handler(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(reply)
        await reader.read()

    async with raw(handler) as url:
        with pytest.raises(HandshakeRefused) as caught:
            await WebSocket.connect(f"{url}/?key=canary", on_message=Client().on_message)
        assert (caught.value.status, caught.value.retry_after) == (status, pause)
        assert "canary" not in str(caught.value)


async def test_a_handshake_cut_short_or_never_answered():
    cut = 0

    async def handler(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write((await answer(reader))[:cut])
        if cut == 10:
            await reader.read()

    async with raw(handler) as url:
        for cut in (0, 1, 50, 60):  # noqa: B007 (the server reads it)
            with pytest.raises(ConnectionError):
                await WebSocket.connect(url, on_message=Client().on_message)
        cut = 10
        started = time.monotonic()
        with pytest.raises(TimeoutError):
            await WebSocket.connect(url, on_message=Client().on_message, timeout_s=0.1)
        assert time.monotonic() - started < 2
    with pytest.raises(OSError, match=r"refused|Connect call failed"):
        await WebSocket.connect(url, on_message=Client().on_message)


@pytest.mark.parametrize(
    ("url", "headers"),
    [
        ("http://127.0.0.1/", []),
        ("ws:///x", []),
        ("wss://127.0.0.1/", []),
        ("ws://127.0.0.1/a b", []),
        ("ws://127.0.0.1/", [("X", "a\r\nY: b")]),
    ],
)
async def test_what_cannot_be_asked(url: str, headers: list[tuple[str, str]]):
    with pytest.raises(ValueError, match=r"."):
        await WebSocket.connect(url, on_message=Client().on_message, headers=headers)


async def test_a_dead_peer_is_found_and_a_quiet_one_is_not():
    pings: list[tuple[int, bytes]] = []

    async def quiet(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(await answer(reader))
        while True:
            pings.append(await read_frame(reader))
            if len(pings) < 4:
                writer.write(frame(0x8A))

    async with raw(quiet) as url:
        socket = await WebSocket.connect(url, on_message=Client().on_message, ping_s=0.25)
        assert "nothing heard for 0.25 s" in await ends(socket)
    assert pings == [(0x89, b"")] * 4


async def test_closing_is_bounded_when_the_server_does_not_answer():
    async with raw(saying(b"")) as url:
        client = Client()
        socket = await WebSocket.connect(url, on_message=client.on_message)
        started = time.monotonic()
        await socket.close()
        assert 0.9 < time.monotonic() - started < 3
        assert await ends(socket) == "closed by us"


async def test_nothing_is_heard_after_closing():
    closing = asyncio.Event()

    async def handler(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(await answer(reader))
        assert (await read_frame(reader))[0] == 0x88
        writer.write(frame(0x81, b"late") + frame(0x89) + frame(0x88, b"\x03\xe8"))
        closing.set()
        await reader.read()

    async with raw(handler) as url:
        client = Client()
        socket = await WebSocket.connect(url, on_message=client.on_message)
        started = time.monotonic()
        await socket.close()
        assert time.monotonic() - started < 0.9
        assert closing.is_set()
        assert client.heard == []


async def test_a_message_that_cannot_be_taken_ends_it():
    told: list[object] = []
    asyncio.get_running_loop().set_exception_handler(lambda _, c: told.append(c["exception"]))

    def known(message: bytes) -> None:
        raise BrokerProtocolError("a message that is no JSON object", account="A")

    def fault(message: bytes) -> None:
        raise ZeroDivisionError

    async with raw(saying(frame(0x81, b"x"))) as url:
        socket = await WebSocket.connect(url, on_message=known)
        assert await ends(socket) == "a message that is no JSON object"
        assert told == []
        socket = await WebSocket.connect(url, on_message=fault)
        assert await ends(socket) == "ZeroDivisionError"
        assert isinstance(told[0], ZeroDivisionError)


async def test_waiting_for_an_answer_ends_with_the_connection():
    gate = asyncio.Event()

    async def handler(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(await answer(reader))
        await gate.wait()

    async with raw(handler) as url:
        loop = asyncio.get_running_loop()
        socket = await WebSocket.connect(url, on_message=Client().on_message)
        with pytest.raises(TimeoutError):
            await socket.reply(loop.create_future(), 0.02)
        gate.set()
        with pytest.raises(ConnectionError):
            await socket.reply(loop.create_future(), 5)


async def test_a_server_that_does_not_read_is_left():
    async def handler(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(await answer(reader))
        await asyncio.Event().wait()

    async with raw(handler) as url:
        socket = await WebSocket.connect(url, on_message=Client().on_message)

        def flood() -> None:
            for _ in range(64):
                socket.send(b"x" * (1 << 20))

        with pytest.raises(ConnectionError, match="does not read"):
            flood()
        await ends(socket)


async def test_rubbish_of_every_kind_ends_it_with_a_reason_and_leaves_nothing_running():
    """Random bytes, and a good stream with one byte changed: a reason or right messages, no hang."""
    chance = random.Random(6455)
    stream = b""

    async def handler(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(await answer(reader) + stream)
        await writer.drain()
        writer.write_eof()
        while await reader.read(4096):
            pass

    async with raw(handler) as url:
        for turn in range(300):
            if turn % 2:
                stream = chance.randbytes(chance.randrange(400))
            else:
                at = chance.randrange(len(STREAM))
                stream = STREAM[:at] + chance.randbytes(1) + STREAM[at + 1 :]
            client = Client()
            socket = await WebSocket.connect(url, on_message=client.on_message)
            assert await ends(socket), turn
            assert sum(map(len, client.heard)) <= len(stream)
            assert socket._timer is None or socket._timer.cancelled()


# The loop that keeps a stream up


async def test_a_stream_is_followed_until_the_credentials_are_refused():
    states: list[tuple[bool, str]] = []
    runs = 0

    async def session(up: Callable[[], None]) -> str:
        nonlocal runs
        runs += 1
        if runs == 1:
            raise OSError("nobody there")
        if runs == 2:
            raise TimeoutError
        if runs == 3:
            up()
            return "closed by the server (1001)"
        if runs == 4:
            raise BrokerProtocolError("not granted", account="A")
        if runs == 5:
            raise BrokerUnavailable("wait", account="A", retry_after=0.1)
        raise BrokerAuthError("refused", account="A")

    started = time.monotonic()
    with pytest.raises(BrokerAuthError):
        await asyncio.wait_for(
            follow(
                session, lambda *state: states.append(state), backoff_s=0.001, backoff_max_s=0.002
            ),
            5,
        )
    assert time.monotonic() - started >= 0.1
    assert states == [
        (False, "order stream: nobody there"),
        (False, "order stream: no answer in time"),
        (True, ""),
        (False, "order stream: closed by the server (1001)"),
        (False, "order stream: not granted"),
        (False, "order stream: wait"),
    ]


async def test_a_stream_that_is_lost_at_once_every_time_is_not_hammered():
    runs: list[float] = []

    async def session(up: Callable[[], None]) -> str:
        runs.append(time.monotonic())
        up()
        if len(runs) == 6:
            raise BrokerAuthError("enough", account="A")
        return "lost"

    with pytest.raises(BrokerAuthError):
        await follow(session, lambda *_: None, backoff_s=0.02, backoff_max_s=0.2)
    assert runs[-1] - runs[-2] >= 0.1  # the fifth pause: at least half of 0.2


@NOT_ON_WINDOWS
def test_the_same_on_uvloop():
    import uvloop

    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(test_speaks_with_a_real_server())
        runner.run(test_any_cut_of_the_stream_gives_the_same_messages(1))
        runner.run(test_the_servers_closing_words_are_told_and_answered())
        runner.run(test_a_handshake_cut_short_or_never_answered())
        runner.run(test_closing_is_bounded_when_the_server_does_not_answer())
        runner.run(test_a_dead_peer_is_found_and_a_quiet_one_is_not())
