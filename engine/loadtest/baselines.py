"""What people would fan out with otherwise, and the floor: a bare loop over the same prepared bytes.

Every baseline sends one order for each account at once and reads every reply, on warm connections of its own to the
same venue, in the same process and run as the measured engine. ``left_us`` is when the last order's last byte was
handed to the system, ``done_us`` when the last reply was read, both since the round began.
"""

from __future__ import annotations

import asyncio
import select
import socket
import time
from dataclasses import dataclass
from typing import Any, Protocol
from urllib.parse import urlsplit

import httpx

from engine.model.identifiers import cl_ord_id

SYMBOL = "AAPL"


@dataclass(frozen=True, slots=True)
class Round:
    """One fan-out. ``left_us`` is ``None`` where a library does not let one see it."""

    left_us: int | None
    done_us: int
    cpu_us: int
    failures: int


class Baseline(Protocol):
    """One way to fan out."""

    name: str

    async def open(self) -> None:
        """Connect and warm up."""
        ...

    async def round(self, number: int) -> Round:
        """Send one order for each account and wait for the replies."""
        ...

    async def close(self) -> None:
        """Disconnect."""
        ...


def order_fields(name: str, number: int, account: int) -> dict[str, str]:
    """Return the order every way of sending sends, under an id of its own."""
    return {
        "symbol": SYMBOL,
        "qty": "1",
        "side": "buy",
        "type": "market",
        "time_in_force": "day",
        "client_order_id": cl_ord_id("loadtest", name, str(number), str(account)),
    }


def headers(name: str, account: int) -> dict[str, str]:
    """Return credentials as Alpaca takes them; every way of sending has accounts of its own at the venue."""
    return {"APCA-API-KEY-ID": f"{name.upper()}{account:05d}", "APCA-API-SECRET-KEY": "load"}


class Floor:
    """A bare loop: prepared bytes to non-blocking sockets, then replies as they come."""

    name = "floor"

    def __init__(self, url: str, accounts: int) -> None:
        self._address = (urlsplit(url).hostname or "", urlsplit(url).port or 80)
        self._accounts = accounts
        self._sockets: list[socket.socket] = []

    async def open(self) -> None:
        """Connect one socket per account."""
        for _ in range(self._accounts):
            sock = socket.create_connection(self._address)
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            sock.setblocking(False)
            self._sockets.append(sock)

    def _request(self, number: int, account: int) -> bytes:
        fields = order_fields(self.name, number, account)
        body = "{" + ",".join(f'"{key}":"{value}"' for key, value in fields.items()) + "}"
        head = "".join(
            f"{name}: {value}\r\n" for name, value in headers(self.name, account).items()
        )
        return (
            f"POST /v2/orders HTTP/1.1\r\nHost: venue\r\n{head}Content-Type: application/json\r\n"
            f"Content-Length: {len(body)}\r\n\r\n{body}"
        ).encode()

    async def round(self, number: int) -> Round:
        """Write everything, then read everything; nothing else runs meanwhile."""
        requests = [self._request(number, account) for account in range(self._accounts)]
        poller = select.poll()
        by_descriptor = {sock.fileno(): sock for sock in self._sockets}
        for descriptor in by_descriptor:
            poller.register(descriptor, select.POLLIN)
        received: dict[int, bytes] = dict.fromkeys(by_descriptor, b"")
        waiting = len(by_descriptor)
        failures = 0
        cpu = time.process_time_ns()
        began = time.monotonic_ns()
        for sock, request in zip(self._sockets, requests, strict=True):
            sock.send(request)
        left = time.monotonic_ns()
        while waiting:
            for descriptor, _ in poller.poll(5000):
                received[descriptor] += by_descriptor[descriptor].recv(65536)
                if _complete(received[descriptor]):
                    failures += not received[descriptor].startswith(b"HTTP/1.1 200")
                    poller.unregister(descriptor)
                    waiting -= 1
        done = time.monotonic_ns()
        return Round(
            (left - began) // 1000,
            (done - began) // 1000,
            (time.process_time_ns() - cpu) // 1000,
            failures,
        )

    async def close(self) -> None:
        """Close the sockets."""
        for sock in self._sockets:
            sock.close()


def _complete(reply: bytes) -> bool:
    head, separator, body = reply.partition(b"\r\n\r\n")
    if not separator:
        return False
    for line in head.split(b"\r\n"):
        if line.lower().startswith(b"content-length:"):
            return len(body) >= int(line[15:])
    return True


class Httpx:
    """Plain httpx with asyncio.gather: one client with its default pool."""

    name = "httpx"

    def __init__(self, url: str, accounts: int) -> None:
        self._url = f"{url}/v2/orders"
        self._accounts = accounts
        # As it comes: with the pool opened to one warm connection an account, httpcore 1.0 looks at every pair of
        # idle connections for every request and takes 50 ms of CPU an order at 200 of them.
        self._client = httpx.AsyncClient(timeout=30, trust_env=False)

    async def open(self) -> None:
        """Warm the pool."""
        await self.round(-1)

    async def round(self, number: int) -> Round:
        """Gather one post per account."""
        return await _gathered(self._accounts, lambda account: self._post(number, account))

    async def _post(self, number: int, account: int) -> bool:
        fields = order_fields(self.name, number, account)
        reply = await self._client.post(self._url, json=fields, headers=headers(self.name, account))
        return reply.status_code == 200

    async def close(self) -> None:
        """Close the client."""
        await self._client.aclose()


class Aiohttp:
    """aiohttp with asyncio.gather, if it is installed."""

    name = "aiohttp"

    def __init__(self, url: str, accounts: int) -> None:
        self._url = f"{url}/v2/orders"
        self._accounts = accounts
        self._session: Any = None

    async def open(self) -> None:
        """Open a session and warm one connection per account."""
        import aiohttp

        self._session = aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=self._accounts))
        await self.round(-1)

    async def round(self, number: int) -> Round:
        """Gather one post per account."""
        return await _gathered(self._accounts, lambda account: self._post(number, account))

    async def _post(self, number: int, account: int) -> bool:
        fields = order_fields(self.name, number, account)
        async with self._session.post(
            self._url, json=fields, headers=headers(self.name, account)
        ) as reply:
            await reply.read()
            return bool(reply.status == 200)

    async def close(self) -> None:
        """Close the session."""
        await self._session.close()


async def _gathered(accounts: int, post: Any) -> Round:
    cpu = time.process_time_ns()
    began = time.monotonic_ns()
    answers = await asyncio.gather(*(post(account) for account in range(accounts)))
    done = time.monotonic_ns()
    return Round(
        None, (done - began) // 1000, (time.process_time_ns() - cpu) // 1000, answers.count(False)
    )


BASELINES: dict[str, Any] = {"floor": Floor, "httpx": Httpx, "aiohttp": Aiohttp}
