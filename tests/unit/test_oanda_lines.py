"""OANDA's endless replies: cut at every byte, refused, broken, silent."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

import pytest

from engine.brokers.dial import Pacer
from engine.brokers.http import check_base_url
from engine.brokers.oanda.lines import MAX_LINE, LineStream
from engine.errors import BrokerAuthError, BrokerProtocolError, BrokerUnavailable

HEAD = b"HTTP/1.1 200 OK\r\nContent-Type: application/octet-stream\r\nTransfer-Encoding: chunked\r\n\r\n"
FIRST, SECOND, THIRD = b'{"id":"1"}', b'{"id":"22"}', b'{"id":"333"}'


def chunk(data: bytes) -> bytes:
    return b"%x\r\n%s\r\n" % (len(data), data)


WHOLE = (
    HEAD + chunk(FIRST + b"\n" + SECOND[:5]) + chunk(SECOND[5:] + b"\n\n") + chunk(THIRD + b"\n")
)


@asynccontextmanager
async def serving(*pieces: bytes, then_close: bool = False) -> AsyncIterator[Callable]:
    """Serve ``pieces`` one by one to whoever asks, then stay silent or close."""
    over = asyncio.Event()

    async def talk(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        for piece in pieces:
            writer.write(piece)
            await writer.drain()
            await asyncio.sleep(0)
        if not then_close:
            await over.wait()
        writer.close()
        await writer.wait_closed()

    server = await asyncio.start_server(talk, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    base = check_base_url("A-1", f"http://127.0.0.1:{port}", (), allow_simulated=True)

    async def opened(quiet_s: float = 5.0) -> LineStream:
        request = b"GET /v3 HTTP/1.1\r\nHost: x\r\n\r\n"
        return await LineStream.open(base, request, account="A-1", pacer=Pacer(0), quiet_s=quiet_s)

    try:
        yield opened
    finally:
        over.set()
        server.close()
        await server.wait_closed()


async def end_of(stream: LineStream) -> str:
    return await asyncio.wait_for(asyncio.shield(stream.over), 5)


async def test_lines_whatever_the_pieces():
    """Cut in two at every byte: the same lines, whether they came before somebody listened or after."""
    for cut in range(len(HEAD), len(WHOLE)):
        for early in (True, False):
            stream = LineStream(60.0)
            stream.connection_made(Transport())
            lines: list[bytes] = []
            if early:
                stream.listen(lines.append)
            stream.data_received(WHOLE[:cut])
            stream.data_received(WHOLE[cut:])
            if not early:
                stream.listen(lines.append)
            assert lines == [FIRST, SECOND, THIRD], cut
            stream.close()


class Transport(asyncio.Transport):
    """Takes an abort."""

    def abort(self) -> None:
        pass


async def test_a_listener_that_holds_gets_the_rest_in_order():
    async with serving(WHOLE) as opened:
        stream = await opened()
        lines: list[bytes] = []
        again = asyncio.Event()

        def once(line: bytes) -> None:
            stream.hold(line)
            again.set()

        stream.listen(once)
        await asyncio.wait_for(again.wait(), 5)
        stream.listen(lines.append)
        while len(lines) < 3:
            await asyncio.wait_for(asyncio.sleep(0), 5)
        assert lines == [FIRST, SECOND, THIRD]
        stream.close()


@pytest.mark.parametrize("status", [401, 403])
async def test_refused_credentials(status: int):
    async with serving(b"HTTP/1.1 %d No\r\nContent-Length: 0\r\n\r\n" % status) as opened:
        with pytest.raises(BrokerAuthError):
            await opened()


async def test_a_refusal_says_how_long_to_wait():
    reply = b"HTTP/1.1 429 Too Many\r\nRetry-After: 7\r\nContent-Length: 0\r\n\r\n"
    async with serving(reply) as opened:
        with pytest.raises(BrokerUnavailable) as caught:
            await opened()
    assert caught.value.retry_after == 7


@pytest.mark.parametrize("reply", [b"", b"HTTP/1.1 2", b"not http at all\r\n\r\n"])
async def test_no_reply_is_no_stream(reply: bytes):
    async with serving(reply, then_close=True) as opened:
        with pytest.raises(OSError, match=r"closed|not HTTP|lost"):
            await opened()


@pytest.mark.parametrize(
    ("tail", "words"),
    [
        (b"0\r\n\r\n", "ended"),
        (b"zz\r\n", "not HTTP"),
        (b"", "closed"),
        (chunk(b"x" * (MAX_LINE + 1)), "longer than 1 MiB"),
    ],
)
async def test_why_a_stream_ended(tail: bytes, words: str):
    async with serving(WHOLE, tail, then_close=True) as opened:
        stream = await opened()
        lines: list[bytes] = []
        stream.listen(lines.append)
        assert words in await end_of(stream)
        assert lines == [FIRST, SECOND, THIRD]
        stream.close()


async def test_a_silent_stream_ends():
    async with serving(WHOLE) as opened:
        stream = await opened(quiet_s=0.1)
        assert "nothing came for 0.1 s" in await end_of(stream)


async def test_what_a_listener_raises_ends_the_stream():
    async with serving(WHOLE) as opened:
        stream = await opened()

        def refuse(line: bytes) -> None:
            raise BrokerProtocolError(f"unreadable: {line!r}")

        stream.listen(refuse)
        with pytest.raises(BrokerProtocolError, match="unreadable"):
            await end_of(stream)
        stream.close()
