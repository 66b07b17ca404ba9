"""Every framing a reply may have, cut and split at every byte, and replies that are none.

The rule: an answer is complete and right, or the outcome is unknown. Never a wrong answer, never a hang,
and nothing of one exchange ever answers the next.
"""

from __future__ import annotations

import asyncio
import socket
import struct
import sys

import pytest

from engine.brokers.wire import WireHub, WirePool
from tests.wire_rig import (
    CHUNKED,
    CLOSING,
    INTERIM,
    NOT_ON_WINDOWS,
    OLD,
    PLAIN,
    TO_EOF,
    Probe,
    Server,
    request,
    wired,
)

BODY = b'{"id":"abc"}'
EMPTY = b"HTTP/1.1 204 No Content\r\nX-A: b\r\n\r\n"
NOTHING = b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n"
OLD_KEPT = b"HTTP/1.0 200 OK\r\nConnection: keep-alive\r\nContent-Length: 12\r\n\r\n" + BODY
TRAILERS = (
    b"HTTP/1.1 201 Created\r\nTransfer-Encoding: chunked\r\nTrailer: X-Sum\r\n\r\n"
    b'6\r\n{"id":\r\n6;ext="a b"\r\n"abc"}\r\n0\r\nX-Sum: 12\r\nX-More: y\r\n\r\n'
)
EARLY = b"HTTP/1.1 102 Processing\r\n\r\n"
REPLIES = {
    "length": PLAIN,
    "chunked": CHUNKED,
    "trailers": TRAILERS,
    "interim": INTERIM + PLAIN,
    "interim, chunked": EARLY + TRAILERS,
    "closing": CLOSING,
    "HTTP/1.0": OLD,
    "HTTP/1.0 kept": OLD_KEPT,
    "204": EMPTY,
    "empty": NOTHING,
    "interim, 204": EARLY + EMPTY,
}
KEPT = {"length", "chunked", "trailers", "interim", "interim, chunked", "HTTP/1.0 kept", "204"} | {
    "empty",
    "interim, 204",
}


def wanted(reply: bytes) -> tuple[int, bytes]:
    """Return the status and body a careful reader finds in ``reply``."""
    final = reply
    for interim in (INTERIM, EARLY):
        final = final.removeprefix(interim)
    return int(final[9:12]), b"" if reply in {EMPTY, NOTHING, EARLY + EMPTY} else BODY


def rude(writer: asyncio.StreamWriter) -> None:
    """Reset the connection: the system throws away what it has not sent, the peer gets an error."""
    sock = writer.get_extra_info("socket")
    linger = struct.pack("hh" if sys.platform == "win32" else "ii", 1, 0)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
    writer.transport.abort()


async def send(pool: WirePool, name: str) -> tuple[object, ...]:
    """Send a request that carries its own name, which the server checks."""
    probe = Probe()
    pool.send(b"POST /%b HTTP/1.1\r\nContent-Length: 0\r\n\r\n" % name.encode(), probe)
    return await asyncio.wait_for(probe.done, 10)


@pytest.mark.parametrize("name", REPLIES)
@pytest.mark.parametrize("reset", [False, True])
async def test_cut_at_every_byte(name: str, reset: bool):
    reply, cut = REPLIES[name], 0

    async def handler(reader, writer):
        while True:
            await request(reader)
            writer.write(reply[:cut])
            await writer.drain()
            if cut < len(reply):
                break
        if reset:
            rude(writer)

    async with wired(handler, backoff_s=0.0005, backoff_max_s=0.001) as (pool, _):
        for cut in range(len(reply)):
            kind, left, *_rest = await send(pool, str(cut))
            assert (kind, left) == ("failure", True), cut
        cut = len(reply)
        kind, status, _, body = await send(pool, "whole")
        assert (kind, (status, body)) == ("reply", wanted(reply))


@pytest.mark.parametrize("name", REPLIES)
async def test_split_at_every_byte(name: str):
    """Two segments, on one connection where the reply allows it: nothing is carried over."""
    reply = REPLIES[name]
    split = 0

    async def handler(reader, writer):
        while True:
            got = await request(reader)
            assert got.startswith(b"POST /%d " % split)
            writer.write(reply[:split])
            await writer.drain()
            for _ in range(3):  # let the first segment be read alone
                await asyncio.sleep(0)
            writer.write(reply[split:])
            if name not in KEPT:
                return

    async with wired(handler, backoff_s=0.0005, backoff_max_s=0.001) as (pool, server):
        for split in range(len(reply) + 1):
            kind, status, raw, body = await send(pool, str(split))
            assert (kind, (status, body)) == ("reply", wanted(reply)), split
            assert raw.startswith(b"HTTP/1."), split
        if name in KEPT:
            assert server.connections == 2


class Segments:
    """A transport's reading end: hands segments to a protocol, keeps what it writes."""

    def __init__(self) -> None:
        self.written: list[bytes] = []
        self.aborted = False

    def get_extra_info(self, name: str) -> None:
        return None

    def write(self, data: bytes) -> None:
        self.written.append(data)

    def get_write_buffer_size(self) -> int:
        return 0

    def set_write_buffer_limits(self, high: int) -> None:
        assert high == 0  # nothing may be kept back

    def is_closing(self) -> bool:
        return self.aborted

    def abort(self) -> None:
        self.aborted = True


@pytest.mark.parametrize("name", ["length", "trailers", "interim, 204"])
async def test_split_at_every_two_bytes(name: str):
    """Three segments at every pair of places, straight into the connection."""
    from engine.brokers.connection import Connection

    reply, hub = REPLIES[name], WireHub()
    hub.attach()
    pool = WirePool(hub, "venue", 1, tls=False)
    lane = pool._orders
    for first in range(1, len(reply) - 1):
        for second in range(first + 1, len(reply)):
            connection, probe = Connection(lane), Probe()
            connection.connection_made(Segments())  # type: ignore[arg-type]
            connection.write(b"x", probe)
            for part in (reply[:first], reply[first:second]):
                connection.data_received(part)
                assert not probe.done.done(), (first, second)
            connection.data_received(reply[second:])
            kind, status, _, body = probe.done.result()
            assert (kind, (status, body)) == ("reply", wanted(reply)), (first, second)
            lane.idle.clear()
            connection.drop("")
    assert hub.timer is not None
    hub.timer.cancel()


@pytest.mark.parametrize("reset", [False, True])
async def test_a_reply_without_a_length_ends_with_the_connection(reset: bool):
    """Its head must be whole and its end clean; what is missing of the body the JSON shows."""
    cut, head = 0, TO_EOF.index(b"\r\n\r\n") + 4

    async def handler(reader, writer):
        await request(reader)
        writer.write(TO_EOF[:cut])
        await writer.drain()
        if reset:
            rude(writer)

    async with wired(handler, backoff_s=0.0005, backoff_max_s=0.001) as (pool, _):
        for cut in range(len(TO_EOF) + 1):
            kind, found, *rest = await send(pool, str(cut))
            if reset or cut < head:
                assert (kind, found) == ("failure", True), cut
            else:
                assert (kind, found, rest[1]) == ("reply", 200, TO_EOF[head:cut])


NOT_HTTP = "the reply is not HTTP"
TOO_LARGE = "the reply is larger than 1 MiB"
GONE = "the connection was closed before the reply was complete"
START = b"HTTP/1.1 200 OK\r\n"
BROKEN = {
    "two lengths": (START + b"Content-Length: 12\r\nContent-Length: 13\r\n\r\n" + BODY, NOT_HTTP),
    "a length twice": (
        START + b"Content-Length: 12\r\nContent-Length: 12\r\n\r\n" + BODY,
        NOT_HTTP,
    ),
    "two in one": (START + b"Content-Length: 12, 13\r\n\r\n" + BODY, NOT_HTTP),
    "length and chunks": (
        START + b"Content-Length: 12\r\nTransfer-Encoding: chunked\r\n\r\n" + BODY,
        NOT_HTTP,
    ),
    "negative": (START + b"Content-Length: -12\r\n\r\n" + BODY, NOT_HTTP),
    "plus": (START + b"Content-Length: +12\r\n\r\n" + BODY, NOT_HTTP),
    "hexadecimal": (START + b"Content-Length: 0xC\r\n\r\n" + BODY, NOT_HTTP),
    "beyond 64 bits": (START + b"Content-Length: 99999999999999999999\r\n\r\n" + BODY, NOT_HTTP),
    "no number": (START + b"Content-Length: \r\n\r\n" + BODY, NOT_HTTP),
    "short of its length": (START + b"Content-Length: 13\r\n\r\n" + BODY, GONE),
    "chunk beyond 64 bits": (
        START + b"Transfer-Encoding: chunked\r\n\r\n11111111111111111\r\n" + BODY,
        NOT_HTTP,
    ),
    "chunk without a size": (START + b"Transfer-Encoding: chunked\r\n\r\n\r\n" + BODY, NOT_HTTP),
    "chunk of a wrong size": (
        START + b"Transfer-Encoding: chunked\r\n\r\n5\r\n" + BODY + b"\r\n0\r\n\r\n",
        NOT_HTTP,
    ),
    "negative chunk": (START + b"Transfer-Encoding: chunked\r\n\r\n-1\r\n", NOT_HTTP),
    "chunks without an end": (
        START + b"Transfer-Encoding: chunked\r\n\r\nc\r\n" + BODY + b"\r\n",
        GONE,
    ),
    "a large body": (START + b"Content-Length: 2000000\r\n\r\n" + b"x" * 1_100_000, TOO_LARGE),
    "a large chunk": (
        START + b"Transfer-Encoding: chunked\r\n\r\n200000\r\n" + b"x" * 1_100_000,
        TOO_LARGE,
    ),
    "many headers": (START + b"X: y\r\n" * 200_000, TOO_LARGE),
    "a long header": (START + b"X: " + b"y" * 1_100_000, TOO_LARGE),
    "a long status": (b"HTTP/1.1 200 " + b"y" * 1_100_000, TOO_LARGE),
    "interim for ever": (EARLY * 50_000, TOO_LARGE),
    "many trailers": (
        START + b"Transfer-Encoding: chunked\r\n\r\n0\r\n" + b"X: y\r\n" * 200_000,
        TOO_LARGE,
    ),
    "a NUL": (START + b"X: \0\r\n\r\n", NOT_HTTP),
    "a blank in a name": (START + b"X Y: z\r\nContent-Length: 0\r\n\r\n", NOT_HTTP),
    "a preface": (b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", NOT_HTTP),
    "a request": (b"GET / HTTP/1.1\r\nHost: x\r\n\r\n", NOT_HTTP),
    "TLS": (b"\x15\x03\x01\x00\x02\x02\x46", NOT_HTTP),
    "an upgrade": (b"HTTP/1.1 101 S\r\nUpgrade: x\r\nConnection: upgrade\r\n\r\n", NOT_HTTP),
    "nothing": (b"", GONE),
    "line ends": (b"\r\n\r\n", GONE),
    "line ends before": (b"\r\n\r\n" + START + b"Content-Length: 13\r\n\r\n" + BODY, GONE),
    "only an interim": (EARLY, GONE),
}


@pytest.mark.parametrize("name", BROKEN)
async def test_a_reply_that_is_none(name: str):
    reply, reason = BROKEN[name]
    whole = False

    async def handler(reader, writer):
        while True:
            await request(reader)
            writer.write(PLAIN if whole else reply)
            if not whole:
                await writer.drain()
                return

    async with wired(handler, backoff_s=0.001) as (pool, _):
        kind, left, why = await send(pool, "x")
        assert (kind, left) == ("failure", True)
        # The system may lose the connection before it gives us all of a reply that is too large.
        assert why == reason or (reason == TOO_LARGE and "lost" in str(why))
        whole = True
        kind, status, _, body = await send(pool, "y")
        assert (kind, status, body) == ("reply", 200, BODY)


@pytest.mark.parametrize(
    "extra", [PLAIN, EARLY, b"H", b"\0", b"0\r\n\r\n", BODY, CHUNKED, b"x" * 2_000_000]
)
@pytest.mark.parametrize("late", [False, True])
@pytest.mark.parametrize("name", ["length", "chunked", "204"])
async def test_what_follows_a_reply_answers_nobody(extra: bytes, late: bool, name: str):
    """With the reply or after it: that connection is closed and the next request has its own answer."""
    first = True

    async def handler(reader, writer):
        nonlocal first
        await request(reader)
        if first:
            first = False
            writer.write(REPLIES[name] + (b"" if late else extra))
            await writer.drain()
            if late:
                writer.write(extra)
        else:
            writer.write(b"HTTP/1.1 201 Created\r\nContent-Length: 4\r\n\r\nmine")
        await reader.read()

    async with wired(handler, backoff_s=0.001) as (pool, server):
        kind, status, _, body = await send(pool, "1")
        assert (kind, (status, body)) == ("reply", wanted(REPLIES[name]))
        # At once: a request may go into the connection just before the stray bytes are read.
        outcome = await send(pool, "2")
        if outcome[0] == "reply":
            assert (outcome[1], outcome[3]) == (201, b"mine")
        else:
            assert outcome[1] is True
            assert (await send(pool, "3"))[1] == 201
        assert server.connections == 3


async def test_a_reply_before_the_request_is_not_its_answer():
    """A server that speaks first is not believed."""
    greeted = 0

    async def handler(reader, writer):
        nonlocal greeted
        greeted += 1
        if greeted <= 2:
            writer.write(PLAIN)
        else:
            await request(reader)
            writer.write(b"HTTP/1.1 201 Created\r\nContent-Length: 4\r\n\r\nmine")
        await reader.read()

    async with wired(handler, backoff_s=0.001) as (pool, _):
        while True:
            outcome = await send(pool, "1")
            if outcome[0] == "reply":
                break
        assert (outcome[1], outcome[3]) == (201, b"mine")


async def test_a_slow_reply_is_unknown_however_steady_it_drips():
    async def handler(reader, writer):
        await request(reader)
        for byte in PLAIN:
            writer.write(bytes([byte]))
            await asyncio.sleep(0.02)

    async with wired(handler, timeout_s=0.2) as (pool, _):
        kind, left, why = await send(pool, "1")
        assert (kind, left, why) == ("failure", True, "no complete reply in time")


async def test_bodies_of_one_account_never_reach_another():
    """Two pools on one hub, one server that breaks off now and then: each reply is its own request's."""
    count = 0

    async def handler(reader, writer):
        nonlocal count
        while True:
            got = await request(reader)
            count += 1
            name = got.split(b" ")[1]
            reply = b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%b" % (len(name), name)
            if count % 5 == 0:
                writer.write(reply[: count % len(reply)])
                return
            writer.write(reply)

    server = Server(handler)
    await server.start()
    hub = WireHub()
    pools = [
        WirePool(hub, "127.0.0.1", server.port, tls=False, orders=2, backoff_s=0.001)
        for _ in range(2)
    ]
    await asyncio.gather(*(pool.start() for pool in pools))

    async def trade(pool: WirePool, account: str) -> int:
        right = 0
        for number in range(200):
            outcome = await send(pool, f"{account}-{number}")
            if outcome[0] == "reply":
                assert outcome[3] == f"/{account}-{number}".encode()
                right += 1
            else:
                assert outcome[1] is True
        return right

    found = await asyncio.gather(
        *(trade(pool, name) for pool, name in zip(pools, "ab", strict=True))
    )
    assert all(right >= 100 for right in found)
    await asyncio.gather(*(pool.stop() for pool in pools))
    await server.stop()


@NOT_ON_WINDOWS
def test_the_same_on_uvloop():
    import uvloop

    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        for name in ("length", "trailers", "interim, 204"):
            runner.run(test_cut_at_every_byte(name, True))
            runner.run(test_split_at_every_byte(name))
        for name in ("a length twice", "a large body", "nothing"):
            runner.run(test_a_reply_that_is_none(name))
        runner.run(test_a_reply_without_a_length_ends_with_the_connection(True))
        runner.run(test_bodies_of_one_account_never_reach_another())
