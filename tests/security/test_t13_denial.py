"""T13, denial of service: bodies, heads, slow and silent connections, wrong tries and too many of all are bounded."""

from __future__ import annotations

import asyncio
import contextlib
import http.client
import json
import time
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import httpx
import pytest

from engine.api import guarded_http, strangers
from engine.api.server import build_app
from engine.api.strangers import Strangers
from engine.config import Config
from engine.home import Home
from tests.integration.stand_in_engine import TOKEN, StandInEngine, serving
from tests.security.signing import body

BEARER = {"authorization": f"Bearer {TOKEN}"}
SLOW = 1_000


@pytest.fixture
async def url(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[str]:
    monkeypatch.delenv("VOLLEY_TOKEN", raising=False)
    async with serving(tmp_path) as (_, address, _home):
        yield address


async def opened(url: str) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    host, port = url.removeprefix("http://").split(":")
    return await asyncio.open_connection(host, int(port))


async def ended(reader: asyncio.StreamReader) -> bool:
    """Wait until the other side has closed."""
    with contextlib.suppress(ConnectionError):
        while await reader.read(4096):
            pass
    return True


async def test_bodies_larger_than_allowed_are_not_read_to_the_end(url: str) -> None:
    for path, most in (
        ("/v1/signals", 8 * 1024),
        ("/v1/commands", 64 * 1024),
        ("/v1/prices", 64 * 1024),
    ):
        for head in (f"Content-Length: {1 << 40}", "Transfer-Encoding: chunked"):
            reader, writer = await opened(url)
            writer.write(
                f"POST {path} HTTP/1.1\r\nHost: 127.0.0.1\r\nAuthorization: Bearer {TOKEN}\r\n{head}\r\n\r\n".encode()
            )
            if "chunked" in head:
                piece = b"x" * 4096
                for _ in range(most // len(piece) + 1):
                    writer.write(b"%x\r\n%b\r\n" % (len(piece), piece))
            answer = await reader.readuntil(b"\r\n")
            assert b" 413 " in answer
            writer.close()


async def test_a_sender_that_writes_to_the_end_first_reads_why_it_was_refused(url: str) -> None:
    """Closed while it writes, it would see a broken pipe and no answer."""
    calls = (
        ("POST", "/v1/signals", BEARER, 413, "TOO_LARGE"),
        ("POST", "/v1/signals", {}, 401, "UNAUTHORIZED"),
        ("POST", "/v1/commands", {"authorization": "Bearer wrong"}, 401, "UNAUTHORIZED"),
        ("POST", "/v1/signals", BEARER | {"host": "elsewhere"}, 403, "HOST_NOT_ALLOWED"),
        ("POST", "/v1/hooks/tradingview/wrong", {}, 404, "NOT_FOUND"),
        ("PUT", "/v1/prices", BEARER, 405, "METHOD_NOT_ALLOWED"),
    )

    def send(method: str, path: str, headers: dict[str, str], size: int) -> tuple[int, str]:
        connection = http.client.HTTPConnection(url.removeprefix("http://"), timeout=30)
        try:
            connection.request(method, path, b"x" * size, headers)
            answer = connection.getresponse()
            return answer.status, json.loads(answer.read())["code"]
        finally:
            connection.close()

    for size in (8 * 1024 + 1, 3 << 20, 20 << 20):
        for ending in ({}, {"connection": "close"}):
            for method, path, headers, status, code in calls:
                given = await asyncio.to_thread(send, method, path, headers | ending, size)
                assert given == (status, code)


async def test_what_comes_behind_a_refused_body_is_not_heard(url: str) -> None:
    """The answer says that the connection ends: whoever pipelines behind it learns that this was not taken."""
    reader, writer = await opened(url)
    head = f"Host: 127.0.0.1\r\nAuthorization: Bearer {TOKEN}\r\n"
    start = f"POST /v1/signals HTTP/1.1\r\n{head}Content-Length: 9000\r\n\r\n".encode()
    writer.write(start + b"x" * 8_000)
    assert b" 413 " in await reader.readuntil(b"\r\n\r\n")
    writer.write(b"x" * 1_000 + f"GET /v1/latency HTTP/1.1\r\n{head}\r\n".encode())
    rest = await reader.read()
    assert b"TOO_LARGE" in rest
    assert b"HTTP/1.1" not in rest
    writer.close()


async def test_a_head_without_end_is_cut_off(url: str) -> None:
    reader, writer = await opened(url)
    writer.write(b"GET /healthz HTTP/1.1\r\nHost: 127.0.0.1\r\n")
    with contextlib.suppress(ConnectionError):
        for number in range(10_000):
            writer.write(b"X-%d: %b\r\n" % (number, b"y" * 100))
            await writer.drain()
    assert await ended(reader)
    writer.close()


async def test_a_request_that_does_not_end_is_cut_off_in_time(url: str) -> None:
    began = time.monotonic()
    for start in (
        b"G",
        b"POST /v1/signals HTTP/1.1\r\nHost:",
        b"POST /v1/signals HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Length: 9\r\n\r\n{",
    ):
        reader, writer = await opened(url)
        writer.write(start)
        assert await ended(reader)
        writer.close()
    assert time.monotonic() - began < 3 * (guarded_http.READ_S + 2)


async def test_a_byte_now_and_then_buys_no_more_time(url: str) -> None:
    reader, writer = await opened(url)
    began = time.monotonic()

    async def drip() -> None:
        with contextlib.suppress(ConnectionError):
            for letter in b"POST /v1/signals HTTP/1.1\r\nHost: 127.0.0.1\r\nX: " + b"y" * 200:
                writer.write(bytes([letter]))
                await writer.drain()
                await asyncio.sleep(0.05)

    dripping = asyncio.create_task(drip())
    assert await ended(reader)
    assert time.monotonic() - began < guarded_http.READ_S + 2
    dripping.cancel()
    await asyncio.gather(dripping, return_exceptions=True)
    writer.close()


async def test_a_thousand_slow_connections_hold_up_nobody(url: str) -> None:
    async with httpx.AsyncClient(base_url=url, headers=BEARER, trust_env=False) as client:
        slow = await asyncio.gather(*(opened(url) for _ in range(SLOW)))
        for _, writer in slow:
            writer.write(b"POST /v1/hooks/tv/x HTTP/1.1\r\nHost: 127.0.0.1\r\nX-Slow: ")
        taken = []
        for number in range(100):
            began = time.monotonic()
            answer = await client.post("/v1/signals", content=body(f"s-{number}"))
            assert answer.status_code == 202
            taken.append(time.monotonic() - began)
        assert all(await asyncio.gather(*(ended(reader) for reader, _ in slow)))
        for _, writer in slow:
            writer.close()
        assert (await client.get("/healthz")).status_code == 200
    assert max(taken) < guarded_http.READ_S


async def test_when_all_places_are_taken_the_idle_ones_make_room(
    url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(guarded_http, "MOST", 20)
    async with httpx.AsyncClient(base_url=url, headers=BEARER, trust_env=False) as client:
        assert (await client.get("/v1/orders")).status_code == 200  # served: it stays
        silent = [await opened(url) for _ in range(60)]
        assert (await client.get("/v1/orders")).status_code == 200
        assert (await httpx.AsyncClient.get(client, "/healthz")).status_code == 200
        gone = 0
        for reader, _ in silent[:40]:
            gone += await ended(reader)
        assert gone == 40
        for _, writer in silent:
            writer.close()


class Clock:
    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


def test_wrong_tries_of_an_address_run_out_and_come_back() -> None:
    clock = Clock()
    seen = Strangers(clock)
    for _ in range(strangers.BURST):
        assert seen.wait_s("203.0.113.5") == 0
        seen.wrong("203.0.113.5")
    assert seen.wait_s("203.0.113.5") > 0
    assert seen.wait_s("203.0.113.6") == 0
    clock.now += 1
    assert seen.wait_s("203.0.113.5") == 0
    clock.now += 3600
    for _ in range(strangers.BURST):
        seen.wrong("203.0.113.5")
    assert seen.wait_s("203.0.113.5") > 0  # no more than a burst is saved up


def test_a_million_addresses_take_no_more_room_than_ten_thousand() -> None:
    seen = Strangers(Clock())
    for number in range(50_000):
        seen.wrong(f"203.{number >> 16 & 255}.{number >> 8 & 255}.{number & 255}")
    assert len(seen._left) == 10_000


def test_this_machine_is_not_counted() -> None:
    seen = Strangers(Clock())
    for _ in range(100):
        seen.wrong("127.0.0.1")
        seen.wrong("::1")
    assert seen.wait_s("127.0.0.1") == seen.wait_s("::1") == 0


@pytest.fixture
def stranger(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[httpx.AsyncClient]:
    monkeypatch.setenv("VOLLEY_TOKEN", TOKEN)
    app = build_app(StandInEngine(), Home(tmp_path), Config())
    transport = httpx.ASGITransport(app, client=("203.0.113.9", 4000))
    return httpx.AsyncClient(transport=transport, base_url="http://127.0.0.1:8787")


@pytest.mark.parametrize("path", ["/v1/orders", "/v1/hooks/tv/guess", "/v1/hooks/tv"])
async def test_guessing_stops_getting_answers(stranger: httpx.AsyncClient, path: str) -> None:
    async with stranger:
        statuses = []
        for number in range(60):
            if path == "/v1/orders":
                answer = await stranger.get(
                    path, headers={"authorization": f"Bearer guess-{number}"}
                )
            else:
                answer = await stranger.post(path, content=body(f"s-{number}"))
            statuses.append(answer.status_code)
        assert set(statuses[: strangers.BURST]) <= {401, 404}
        assert statuses.count(429) >= 60 - strangers.BURST - 5
        assert int(answer.headers["retry-after"]) >= 1
