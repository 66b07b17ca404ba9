"""Addresses accounts may use, and what look-ups make of a bad server."""

from __future__ import annotations

import asyncio
import contextlib
import gzip
import zlib
from collections.abc import AsyncIterator
from decimal import Decimal

import pytest

from engine.brokers.dial import dial
from engine.brokers.http import HttpClient, check_base_url, plain, read_json
from engine.errors import (
    BrokerAuthError,
    BrokerProtocolError,
    BrokerUnavailable,
    ConfigError,
    OutcomeUnknown,
)

HOSTS = {"api.broker.test", "paper-api.broker.test"}


@pytest.mark.parametrize(
    ("url", "host", "port", "websocket", "simulated"),
    [
        ("https://api.broker.test", "api.broker.test", 443, "wss://api.broker.test", False),
        ("HTTPS://API.broker.test:443/", "api.broker.test", 443, "wss://api.broker.test", False),
        ("http://127.0.0.1:9101", "127.0.0.1", 9101, "ws://127.0.0.1:9101", True),
        ("https://localhost:9101/", "localhost", 9101, "wss://localhost:9101", True),
        ("http://[::1]:9101", "::1", 9101, "ws://[::1]:9101", True),
        ("http://localhost", "localhost", 80, "ws://localhost", True),
    ],
)
def test_allowed_addresses(url: str, host: str, port: int, websocket: str, simulated: bool):
    base = check_base_url("A", url, HOSTS, allow_simulated=True)
    assert (base.host, base.port, base.websocket) == (host, port, websocket)
    assert base.simulated is simulated


@pytest.mark.parametrize(
    "url",
    [
        "http://api.broker.test",
        "https://api.broker.test:8443",
        "https://api.broker.test.",
        "https://api.broker.test.evil.test",
        "https://evil.test/api.broker.test",
        "https://user@api.broker.test",
        "https://api.broker.test@evil.test",
        "https://api.broker.test:443@evil.test",
        "https://api.broker.test/v2",
        "https://api.broker.test?x=1",
        "https://api.broker.test#x",
        "https://api.broker.test\\@evil.test",
        "https://api.broker.tesT\u0331",
        " https://api.broker.test",
        "https://api.broker.test\n",
        "https:/api.broker.test",
        "//api.broker.test",
        "ftp://127.0.0.1",
        "ws://127.0.0.1:1",
        "http://127.0.0.1.:9101",
        "http://localhost.:9101",
        "http://127.1:9101",
        "http://127.0.0.2:9101",
        "http://2130706433:9101",
        "http://0x7f000001:9101",
        "http://0177.0.0.1:9101",
        "http://127.0.0.01:9101",
        "http://0.0.0.0:9101",
        "http://%31%32%37.0.0.1:9101",
        "http://１２７.0.0.1:9101",
        "http://[::ffff:127.0.0.1]:9101",
        "http://[0:0:0:0:0:0:0:1]:9101",
        "http://[::]:9101",
        "http://::1:9101",
        "http://localhost.evil.test:9101",
        "http://evil@127.0.0.1:9101",
        "http://127.0.0.1:0",
        "http://127.0.0.1:65536",
        "http://127.0.0.1:-1",
        "http://127.0.0.1:",
        "http://127.0.0.1:9101/x",
        "http://10.0.0.1:9101",
        "http://169.254.169.254",
        "",
    ],
)
def test_refused_addresses(url: str):
    with pytest.raises(
        ConfigError, match=r"account A-9: base_url .* is not allowed; allowed: https"
    ):
        check_base_url("A-9", url, HOSTS, allow_simulated=True)


@pytest.mark.parametrize("url", ["http://127.0.0.1:9101", "https://localhost", "http://[::1]"])
def test_loopback_needs_permission(url: str):
    with pytest.raises(ConfigError, match="allow_simulated_venues"):
        check_base_url("A", url, HOSTS, allow_simulated=False)


def test_a_password_in_an_address_is_not_repeated():
    with pytest.raises(ConfigError) as caught:
        check_base_url("A", "https://me:canary@api.broker.test", HOSTS, allow_simulated=False)
    assert "canary" not in str(caught.value)


def test_plain_and_json():
    assert plain("the secret-1234 is\nout", ["secret-1234", ""]) == "the *** is out"
    assert read_json(b'{"a":0.1,"b":1}') == {"a": Decimal("0.1"), "b": 1}
    for bad in (b'{"a":NaN}', b"[Infinity]", b"\xff", b"[" * 100_000, b"{"):
        with pytest.raises(ValueError, match=r"."):
            read_json(bad)


class Script:
    """A server that answers every request with ``reply`` and closes."""

    def __init__(self) -> None:
        self.reply = b""
        self.heads: list[bytes] = []

    async def client(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            self.heads.append(await reader.readuntil(b"\r\n\r\n"))
            writer.write(self.reply)
            await writer.drain()
        except (ConnectionError, asyncio.IncompleteReadError):
            pass
        finally:
            writer.close()


@pytest.fixture
async def script() -> AsyncIterator[tuple[Script, HttpClient]]:
    script = Script()
    server = await asyncio.start_server(script.client, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    base = check_base_url("A", f"http://127.0.0.1:{port}", (), allow_simulated=True)
    client = HttpClient(base, timeout_s=2.0)
    yield script, client
    await client.close()
    server.close()
    await server.wait_closed()


def http(status: str, body: bytes, *headers: str) -> bytes:
    lines = "".join(f"{line}\r\n" for line in headers)
    return f"HTTP/1.1 {status}\r\n{lines}Content-Length: {len(body)}\r\n\r\n".encode() + body


KEY = {"X-Key": "canary-of-this-test"}


async def get(client: HttpClient):
    return await client.get("A-9", "/v2/x", headers=KEY, params={"q": "hidden-query"})


async def test_replies(script):
    server, client = script
    server.reply = http("200 OK", b'{"p": 1.10}')
    found = await get(client)
    assert (found.status, found.body) == (200, {"p": Decimal("1.10")})
    assert b"GET /v2/x?q=hidden-query HTTP/1.1" in server.heads[0]
    assert b"canary-of-this-test" in server.heads[0]
    server.reply = http("404 Not Found", b'{"code": 1}')
    assert (await get(client)).status == 404
    server.reply = http("302 Found", b"", "Location: http://127.0.0.1:1/")
    found = await get(client)
    assert (found.status, found.body) == (302, None)  # never followed


@pytest.mark.parametrize(
    ("reply", "error", "pause"),
    [
        (http("500 Oops", b"{}"), OutcomeUnknown, None),
        (http("503 Busy", b"", "Retry-After: 3"), OutcomeUnknown, 3.0),
        (http("429 Slow", b"{}", "Retry-After: 2"), BrokerUnavailable, 2.0),
        (http("429 Slow", b"{}", "Retry-After: Wed, 21 Oct"), BrokerUnavailable, None),
        (http("401 No", b"{}"), BrokerAuthError, None),
        (http("200 OK", b"<html>"), BrokerProtocolError, None),
        (http("200 OK", b'{"a": NaN}'), BrokerProtocolError, None),
        (http("200 OK", b"{}" * 100)[:-3], OutcomeUnknown, None),
        (b"garbage\r\n\r\n", OutcomeUnknown, None),
        (b"", OutcomeUnknown, None),
    ],
)
async def test_errors_say_what_to_do_and_keep_secrets(script, reply, error, pause):
    server, client = script
    server.reply = reply
    with pytest.raises(error) as caught:
        await get(client)
    assert type(caught.value) is error
    assert caught.value.account == "A-9"
    assert caught.value.retry_after == pause
    assert "account A-9: GET http://127.0.0.1:" in str(caught.value)
    for hidden in ("canary", "hidden-query"):
        assert hidden not in str(caught.value)


async def test_too_much_is_refused(script):
    server, client = script
    server.reply = http("200 OK", b"[" + b" " * (17 << 20) + b"]")
    with pytest.raises(BrokerProtocolError, match="16 MiB"):
        await get(client)


async def test_nobody_there():
    base = check_base_url("A", "http://127.0.0.1:1", (), allow_simulated=True)
    client = HttpClient(base)
    with pytest.raises(BrokerUnavailable):
        await get(client)
    await client.close()


async def test_one_connection_serves_many_reads_and_stray_bytes_answer_nobody():
    """A reply that comes unasked on an idle connection must not be taken for the next one's."""
    connections = 0
    stray = b""
    told = asyncio.Event()

    async def client(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal connections
        connections += 1
        mine = connections
        with contextlib.suppress(ConnectionError, asyncio.IncompleteReadError):
            while True:
                await reader.readuntil(b"\r\n\r\n")
                writer.write(http("200 OK", b"%d" % mine))
                if stray:
                    await writer.drain()
                    await asyncio.sleep(0.01)
                    writer.write(stray)
                    await writer.drain()
                    told.set()
        writer.close()

    server = await asyncio.start_server(client, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    base = check_base_url("A", f"http://127.0.0.1:{port}", (), allow_simulated=True)
    reads = HttpClient(base)
    for _ in range(5):
        assert (await get(reads)).body == 1
    stray = http("200 OK", b'"not yours"')
    assert (await get(reads)).body == 1
    await told.wait()
    stray = b""
    await asyncio.sleep(0.01)
    assert (await get(reads)).body == 2
    await reads.close()
    server.close()
    await server.wait_closed()


async def test_a_connection_that_closes_as_it_opens_says_at_once_that_nothing_left(
    script, monkeypatch
):
    server, client = script

    async def too_late(*args, **options):
        opened = await dial(*args, **options)
        opened[0].abort()
        await opened[1].lost
        return opened

    monkeypatch.setattr("engine.brokers.lookups.dial", too_late)
    with pytest.raises(BrokerUnavailable, match="closed the connection as it was opened"):
        await get(client)
    monkeypatch.undo()
    server.reply = http("200 OK", b"1")
    assert (await get(client)).body == 1  # it has left its place to others
    assert len(server.heads) == 1


async def test_a_connection_that_opens_after_the_client_was_closed_is_not_kept(script, monkeypatch):
    server, client = script
    opened = []

    async def slowly(*args, **options):
        opened.append(await dial(*args, **options))
        await client.close()
        return opened[0]

    monkeypatch.setattr("engine.brokers.lookups.dial", slowly)
    with pytest.raises(BrokerUnavailable, match="the look-ups were stopped"):
        await get(client)
    await opened[0][1].lost
    assert server.heads == []


async def test_a_connection_the_server_closed_is_not_used_again(script):
    server, client = script  # it closes after every reply without saying so
    server.reply = http("200 OK", b"1")
    for count in range(1, 6):
        assert (await get(client)).body == 1
        assert len(server.heads) == count
        await asyncio.sleep(0.005)


async def test_what_waits_while_the_broker_wants_quiet_is_not_asked(script):
    server, client = script
    client._one_limit = True
    server.reply = http("429 Slow", b"{}", "Retry-After: 30")
    answers = await asyncio.gather(*(get(client) for _ in range(20)), return_exceptions=True)
    assert {type(answer) for answer in answers} == {BrokerUnavailable}
    assert all(0 < answer.retry_after <= 30 for answer in answers)
    assert len(server.heads) == 8  # what was under way already
    with pytest.raises(BrokerUnavailable, match=r"not asked, the broker wants quiet for (29|30) s"):
        await get(client)
    assert len(server.heads) == 8


async def test_a_head_without_an_end_is_given_up(script):
    server, client = script
    server.reply = b"HTTP/1.1 200 OK\r\nX: " + b"x" * (1 << 20)
    with pytest.raises(OutcomeUnknown, match="has no end"):
        await get(client)


PACKED = gzip.compress(b'{"a": 1}')


@pytest.mark.parametrize(
    "reply",
    [
        http("200 OK", PACKED, "Content-Encoding: gzip"),
        http("200 OK", zlib.compress(b'{"a": 1}'), "content-encoding: Deflate"),
        http("200 OK", b'{"a": 1}', "Content-Encoding: identity"),
        b'HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n4\r\n{"a"\r\n4\r\n: 1}\r\n0\r\n\r\n',
        b'HTTP/1.1 200 OK\r\nConnection: close\r\n\r\n{"a": 1}',
        b"HTTP/1.1 103 Early Hints\r\nRetry-After: 9\r\n\r\n" + http("200 OK", b'{"a": 1}'),
    ],
)
async def test_bodies_of_every_kind(script, reply):
    server, client = script
    server.reply = reply
    found = await get(client)
    assert (found.status, found.body, found.retry_after) == (200, {"a": 1}, None)


@pytest.mark.parametrize(
    ("body", "error"),
    [
        (PACKED[:-6], OutcomeUnknown),
        (b"not packed", OutcomeUnknown),
        (gzip.compress(b" " * (17 << 20)), BrokerProtocolError),
    ],
)
async def test_packed_replies_that_deceive(script, body, error):
    server, client = script
    server.reply = http("200 OK", body, "Content-Encoding: gzip")
    with pytest.raises(error):
        await get(client)


async def test_what_is_asked_cannot_be_split(script):
    server, client = script
    server.reply = http("200 OK", b"1")
    asked = {"q": "a b&c=d\r\nX: 1", "ü": "/"}
    await client.get("A-9", "/v2/ü#x\r\nY: 1?p=1", headers=KEY, params=asked)
    line = server.heads[0].split(b"\r\n")[0]
    assert line == (
        b"GET /v2/%C3%BC%23x%0D%0AY:%201?p=1&q=a%20b%26c%3Dd%0D%0AX%3A%201&%C3%BC=%2F HTTP/1.1"
    )
    for value in ("a\r\nX: 1", "a\n", "ü"):
        with pytest.raises(BrokerUnavailable, match="printable ASCII") as caught:
            await client.get("A-9", "/", headers={"X-Key": value})
        assert value not in str(caught.value)
    assert len(server.heads) == 1


async def test_a_read_is_repeated_once_when_its_connection_was_closed_in_that_moment():
    requests: list[int] = []

    async def client(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        number = len(requests)
        with contextlib.suppress(asyncio.IncompleteReadError):
            while True:
                await reader.readuntil(b"\r\n\r\n")
                requests.append(number)
                if len(requests) in {2, 4, 5}:  # read, and closed without a word
                    break
                writer.write(http("200 OK", b"%d" % len(requests)))
        writer.close()

    server = await asyncio.start_server(client, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    base = check_base_url("A", f"http://127.0.0.1:{port}", (), allow_simulated=True)
    reads = HttpClient(base)
    assert (await get(reads)).body == 1
    assert (await get(reads)).body == 3  # the second on a new connection
    with pytest.raises(OutcomeUnknown, match="closed before the reply"):
        await get(reads)  # once, not for ever
    assert requests == [0, 0, 2, 2, 4]
    await reads.close()
    server.close()
    await server.wait_closed()


async def test_a_large_reply_is_read_whole(script):
    """Larger than what is read ahead, so the server is made to wait and let go again."""
    server, client = script
    server.reply = http("200 OK", b'"' + b"x" * (6 << 20) + b'"')
    found = await get(client)
    assert found.body == "x" * (6 << 20)


async def test_an_answer_that_never_comes_is_unknown():
    async def client(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read()
        writer.close()

    server = await asyncio.start_server(client, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    base = check_base_url("A", f"http://127.0.0.1:{port}", (), allow_simulated=True)
    reads = HttpClient(base, timeout_s=0.05)
    with pytest.raises(OutcomeUnknown, match="no answer in time"):
        await get(reads)
    await reads.close()
    server.close()
    await server.wait_closed()
