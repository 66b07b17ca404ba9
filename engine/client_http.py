"""Requests to one engine over connections that stay open, written the moment they are made.

A general HTTP client gives the event loop some turns before it writes; at a desk each may paint a table. Here a
request leaves in the caller's own step where a connection is idle. Answers are read by httptools.
"""

from __future__ import annotations

import asyncio
import ssl
from typing import Any, Final, NamedTuple, cast

import httptools

CONNECT_S: Final = 5.0
ANSWER_S: Final = 15.0
MOST_IDLE: Final = 8
"""Connections kept open beyond those in use."""


class Answer(NamedTuple):
    """What came back."""

    status: int
    content: bytes

    @property
    def is_success(self) -> bool:
        """Say whether the request was carried out."""
        return 200 <= self.status < 300


class HttpLines:
    """Connections to one place. ``headers`` go with every request.

    Raises:
        OSError: from ``request``: no connection, or it broke before the whole answer was there.
        TimeoutError: from ``request``: no whole answer in time.
    """

    def __init__(self, host: str, port: int, *, tls: bool, headers: dict[str, str]) -> None:
        self._place = host, port
        self._tls = ssl.create_default_context() if tls else None
        shown = f"[{host}]" if ":" in host else host
        given = {"host": f"{shown}:{port}", **headers}
        self._head = "".join(f"{name}: {value}\r\n" for name, value in given.items())
        self._idle: list[_Line] = []
        self._closed = False

    async def warm(self) -> None:
        """Connect ahead of the first request.

        Raises:
            OSError: it cannot be.
        """
        if not any(line.open for line in self._idle):
            self._idle.append(await self._open())

    async def request(self, method: str, path: str, body: bytes | None) -> Answer:
        """Send a request and return its answer; nothing is sent twice here."""
        content = body or b""
        length = f"content-length: {len(content)}\r\n" if body is not None else ""
        data = f"{method} {path} HTTP/1.1\r\n{self._head}{length}\r\n".encode() + content
        line = self._warm() or await self._open()
        try:
            answering = line.ask(data)
            async with asyncio.timeout(ANSWER_S):
                answer = await answering
        except BaseException as error:  # cancelled, too: what comes late would answer the next
            line.close()
            if isinstance(error, OSError):  # what broke it has likely broken those that are idle
                self._forget_idle()
            raise
        if line.open and not self._closed and len(self._idle) < MOST_IDLE:
            self._idle.append(line)
        else:
            line.close()
        return answer

    def close(self) -> None:
        """Close what is idle; what is in use is closed once it is not."""
        self._closed = True
        self._forget_idle()

    def _forget_idle(self) -> None:
        for line in self._idle:
            line.close()
        self._idle.clear()

    def _warm(self) -> _Line | None:
        while self._idle:
            line = self._idle.pop()
            if line.open:
                return line
        return None

    async def _open(self) -> _Line:
        async with asyncio.timeout(CONNECT_S):
            loop = asyncio.get_running_loop()
            _, line = await loop.create_connection(_Line, *self._place, ssl=self._tls)
        return line


class _Line(asyncio.Protocol):
    """One connection: a request at a time."""

    def __init__(self) -> None:
        self.open = False
        self._answer: asyncio.Future[Answer] | None = None
        self._transport: asyncio.Transport | None = None
        self._parser: Any = None
        self._parts: list[bytes] = []

    def ask(self, data: bytes) -> asyncio.Future[Answer]:
        """Write a request; return what will be its answer."""
        assert self._transport is not None
        self._parser = httptools.HttpResponseParser(self)
        self._parts = []
        self._answer = asyncio.get_running_loop().create_future()
        self._transport.write(data)
        return self._answer

    def close(self) -> None:
        """Drop the connection."""
        self.open = False
        if self._transport is not None:
            self._transport.abort()

    # ---- the transport's ---------------------------------------------------------------------------------------

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Take the connection."""
        self._transport = cast("asyncio.Transport", transport)
        self.open = True

    def data_received(self, data: bytes) -> None:
        """Read on."""
        if self._answer is None or self._answer.done():
            self.close()  # nothing was asked
            return
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserError as error:
            self._fail(ConnectionError(f"its answer is no HTTP: {error}"))

    def connection_lost(self, exc: Exception | None) -> None:
        """Fail what waits."""
        self._fail(exc or ConnectionError("the connection was closed before the whole answer"))

    def _fail(self, error: Exception) -> None:
        self.close()
        if self._answer is not None and not self._answer.done():
            self._answer.set_exception(error)

    # ---- the parser's ------------------------------------------------------------------------------------------

    def on_body(self, body: bytes) -> None:
        """Keep a part of the answer."""
        self._parts.append(body)

    def on_message_complete(self) -> None:
        """Hand the answer over."""
        self.open = self.open and bool(self._parser.should_keep_alive())
        if self._answer is not None and not self._answer.done():
            content = b"".join(self._parts)
            self._answer.set_result(Answer(self._parser.get_status_code(), content))
