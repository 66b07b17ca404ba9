"""T11, the API and the feed on this machine: closed to other users, web pages and names; nothing else listens."""

from __future__ import annotations

import asyncio
import json
import os
import random
import subprocess
import sys
from collections.abc import AsyncIterator
from pathlib import Path

import httpx
import pytest
from websockets.asyncio.client import connect
from websockets.exceptions import InvalidStatus

from tests.integration.stand_in_engine import TOKEN, StandInEngine, serving
from tests.processes import EngineProcess, import_accounts, paper, write_config

BEARER = {"authorization": f"Bearer {TOKEN}"}
FRAMES = 10_000
LINUX = pytest.mark.skipif(not Path("/proc/net/tcp").exists(), reason="/proc of Linux")


@pytest.fixture
async def served(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> AsyncIterator[tuple[StandInEngine, str]]:
    monkeypatch.delenv("VOLLEY_TOKEN", raising=False)
    async with serving(tmp_path) as (engine, url, _):
        yield engine, url


@pytest.mark.parametrize(
    "host",
    [
        "evil.example",
        "evil.example:8787",
        "127.0.0.1.evil.example",
        "localhost.evil.example",
        "",
        "[::2]",
        "10.0.0.1",
        "169.254.169.254",
        "127.0.0.1@evil.example",
    ],
)
async def test_a_name_that_is_not_ours_is_not_answered_even_with_the_token(
    served: tuple[StandInEngine, str], host: str
) -> None:
    """DNS rebinding: a page on a name that somebody points at loopback."""
    engine, url = served
    async with httpx.AsyncClient(
        base_url=url, headers=BEARER | {"host": host}, trust_env=False
    ) as client:
        for path in ("/v1/orders", "/v1/status", "/healthz", "/metrics", "/docs"):
            assert (await client.get(path)).status_code in {400, 403}
        assert (
            await client.post("/v1/commands", json={"id": "1", "command": "kill"})
        ).status_code in {400, 403}
    with pytest.raises((InvalidStatus, OSError)):
        async with connect(
            url.replace("http", "ws") + "/v1/feed",
            additional_headers=BEARER | {"host": host},
            proxy=None,
        ):
            pass
    assert not engine.commands


@pytest.mark.parametrize(
    "origin",
    [
        "http://evil.example",
        "https://evil.example",
        "null",
        "file://",
        "http://127.0.0.1.evil.example",
        "",
    ],
)
async def test_a_page_of_another_origin_is_refused_even_with_the_token(
    served: tuple[StandInEngine, str], origin: str
) -> None:
    engine, url = served
    async with httpx.AsyncClient(
        base_url=url, headers=BEARER | {"origin": origin}, trust_env=False
    ) as client:
        answer = await client.post("/v1/commands", json={"id": "1", "command": "kill"})
        assert answer.status_code == 403
        preflight = await client.options("/v1/commands")
        assert "access-control-allow-origin" not in preflight.headers
    with pytest.raises(InvalidStatus):
        async with connect(
            url.replace("http", "ws") + "/v1/feed",
            additional_headers=BEARER | {"origin": origin},
            proxy=None,
        ):
            pass
    assert not engine.commands


async def test_a_form_of_a_page_without_the_token_does_nothing(
    served: tuple[StandInEngine, str],
) -> None:
    """Cross-site requests carry no Authorization header, and no cookie means anything here."""
    engine, url = served
    async with httpx.AsyncClient(base_url=url, trust_env=False, cookies={"token": TOKEN}) as page:
        for kind in (
            "text/plain",
            "application/x-www-form-urlencoded",
            "multipart/form-data; boundary=x",
        ):
            for path in (
                "/v1/commands",
                "/v1/signals",
                "/v1/prices",
                f"/v1/commands?token={TOKEN}",
            ):
                body = json.dumps({"id": "1", "command": "kill", "token": TOKEN})
                answer = await page.post(path, content=body, headers={"content-type": kind})
                assert answer.status_code == 401
    assert not engine.commands
    assert not engine.taken


async def test_our_own_page_is_not_another_origin(served: tuple[StandInEngine, str]) -> None:
    _, url = served
    async with httpx.AsyncClient(
        base_url=url, headers=BEARER | {"origin": url}, trust_env=False
    ) as client:
        assert (await client.get("/v1/orders")).status_code == 200


async def test_ten_thousand_senseless_frames_and_it_still_answers(
    served: tuple[StandInEngine, str],
) -> None:
    _, url = served
    host, port = url.removeprefix("http://").split(":")
    rng = random.Random(11)
    starts = [
        b"GET /v1/orders HTTP/1.1\r\n",
        b"POST /v1/commands HTTP/1.1\r\nHost: 127.0.0.1\r\n",
        b"",
        b"\x16\x03\x01",
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
        b"GET / HTTP/9.9\r\n",
        b"POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n",
    ]
    ended = [b"", b"\r\n\r\n", b"\0" * 20]

    async def one() -> None:
        _reader, writer = await asyncio.open_connection(host, int(port))
        try:
            for _ in range(10):
                writer.write(
                    rng.choice(starts) + rng.randbytes(rng.randrange(120)) + rng.choice(ended)
                )
                await writer.drain()
        except OSError:
            pass  # it hung up on us
        finally:
            writer.close()

    for _ in range(FRAMES // 10 // 20):
        await asyncio.gather(*(one() for _ in range(20)))
    async with httpx.AsyncClient(base_url=url, headers=BEARER, trust_env=False) as client:
        assert (await client.get("/v1/orders")).status_code == 200


async def test_senseless_words_on_the_feed_do_nothing(served: tuple[StandInEngine, str]) -> None:
    engine, url = served
    rng = random.Random(12)
    feed = url.replace("http", "ws") + "/v1/feed"
    for _ in range(200):
        async with connect(feed, proxy=None) as socket:
            await socket.send(
                rng.choice(
                    [rng.randbytes(50), "x" * rng.randrange(1000), '{"token": 1}', "[" * 3000, "{}"]
                )
            )
            await socket.wait_closed()
            assert socket.close_code in {4401, 1002, 1003, 1007, 1009}
    assert not engine.commands


def listeners(pid: int) -> set[str]:
    """Return ``address:port`` of every TCP socket a process listens on, as the kernel has it."""
    inodes = set()
    for handle in Path(f"/proc/{pid}/fd").iterdir():
        try:
            target = os.readlink(handle)
        except OSError:
            continue
        if target.startswith("socket:["):
            inodes.add(target[8:-1])
    found = set()
    for table in ("/proc/net/tcp", "/proc/net/tcp6", "/proc/net/udp", "/proc/net/udp6"):
        for line in Path(table).read_text().splitlines()[1:]:
            columns = line.split()
            listening = columns[3] == "0A" or "udp" in table
            if listening and columns[9] in inodes:
                found.add(columns[1])
    return found


@LINUX
def test_one_listener_and_files_for_its_owner_only(tmp_path: Path) -> None:
    home = tmp_path / "home"
    home.mkdir(mode=0o700)
    write_config(home)
    import_accounts(home, [paper(1)])
    with EngineProcess(home) as engine:
        engine.wait_connected(1)
        engine.signal(id="s-1")
        port = int(engine.url.rpartition(":")[2])
        assert listeners(engine.pid) == {f"0100007F:{port:04X}"}
        for path in [home, *home.rglob("*")]:
            assert (
                path.stat().st_mode & 0o077 == 0
                or path.name in {"volley.toml", "accounts.sqlite3"} | GIVEN
            ), path
        if os.getuid() == 0:
            nobody_reads(home)


GIVEN = {"accounts.sqlite3-wal", "accounts.sqlite3-shm"}
"""Made by commands run under the test's own umask; the home around them is closed."""


def nobody_reads(home: Path) -> None:
    """As another user, in a process of its own: not the token, not the list of files."""
    for name in ("token", "vault.key", "journal.sqlite3", "accounts.sqlite3", "volley.toml"):
        program = f"import os,sys; os.setgid(65534); os.setuid(65534); open({str(home / name)!r},'rb').read()"
        done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
        assert "PermissionError" in done.stderr, name
