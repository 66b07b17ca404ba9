"""A reply that never ends, line by line: what OANDA streams transactions with."""

from __future__ import annotations

import asyncio
import ssl
from collections import deque
from collections.abc import Callable
from time import monotonic
from typing import Any

from httptools import HttpParserError, HttpParserUpgrade, HttpResponseParser

from engine.brokers.dial import Pacer, Rank, Route, dial
from engine.brokers.http import BaseUrl
from engine.errors import BrokerAuthError, BrokerError, BrokerUnavailable

MAX_LINE = 1 << 20
MAX_HELD = 4 << 20
"""Bytes that may wait for ``listen``; more is a failure."""
_OPEN_S = 10.0


class LineStream(asyncio.Protocol):
    """One connection; made by ``open``. A broken peer ends it, never the caller.

    ``over`` is done when it has ended: the reason, or the ``BrokerError`` that a listener raised.
    """

    def __init__(self, quiet_s: float) -> None:
        loop = asyncio.get_running_loop()
        self._parser = HttpResponseParser(self)
        self._quiet_s = quiet_s
        self._transport: Any = None
        self._timer: asyncio.TimerHandle | None = None
        self._heard = monotonic()
        self._head: asyncio.Future[int] = loop.create_future()
        self.over: asyncio.Future[str] = loop.create_future()
        self._rest = bytearray()
        self._held: deque[bytes] = deque()
        self._held_size = 0
        self._on_line: Callable[[bytes], None] | None = None
        self._retry_after: float | None = None
        self._failed = False

    @classmethod
    async def open(  # noqa: PLR0913 (what a connection needs)
        cls,
        base: BaseUrl,
        request: bytes,
        *,
        account: str,
        pacer: Pacer,
        quiet_s: float,
        context: ssl.SSLContext | None = None,
        egress: Route | None = None,
    ) -> LineStream:
        """Connect, ask and return once the reply's head is there; the stream is dead after ``quiet_s`` of silence.

        Raises:
            BrokerAuthError: HTTP 401 or 403.
            BrokerUnavailable: any other status than 200.
            OSError: no connection, no HTTP, or no answer in time.
        """
        await pacer.turn(Rank.STREAMS)
        async with asyncio.timeout(_OPEN_S):
            _, stream = await dial(
                lambda: cls(quiet_s), base.host, base.port, context=context, route=egress
            )
            try:
                await stream.ask(request, account)
            except BaseException:
                stream.close()
                raise
        return stream

    async def ask(self, request: bytes, account: str) -> None:
        """Send the request and wait for the reply's head; raises as ``open``."""
        self._transport.write(request)
        status = await self._head
        if status in {401, 403}:
            raise BrokerAuthError("the order stream refuses these credentials", account=account)
        if status != 200:
            raise BrokerUnavailable(
                f"HTTP {status}", account=account, retry_after=self._retry_after
            )

    def listen(self, on_line: Callable[[bytes], None]) -> None:
        """Hand over every line, those that waited first, even if the stream has ended meanwhile.

        Should ``on_line`` raise, the stream ends with that.
        """
        self._on_line = on_line
        while self._held and self._on_line is not None:
            line = self._held.popleft()
            self._held_size -= len(line)
            self._hand_over(line)

    def hold(self, line: bytes) -> None:
        """Keep ``line``, just handed over, and what follows until ``listen`` is called again."""
        self._on_line = None
        self._held.appendleft(line)
        self._held_size += len(line)

    def close(self) -> None:
        """Cut the connection."""
        self._end("it was closed")

    # asyncio.Protocol

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Keep the transport and watch the silence."""
        self._transport = transport
        self._watch()

    def data_received(self, data: bytes) -> None:
        """Parse what came; lines are handed over at once."""
        self._heard = monotonic()
        try:
            self._parser.feed_data(data)
        except (HttpParserError, HttpParserUpgrade):
            self._end("the reply is not HTTP")

    def eof_received(self) -> None:
        """Note that the server ended it."""
        self._end("the server closed it")

    def connection_lost(self, exc: Exception | None) -> None:
        """Note the end."""
        self._end("the connection was lost")

    # httptools

    def on_header(self, name: bytes, value: bytes) -> None:
        """Read how long a refusal asks to wait."""
        if name.lower() == b"retry-after" and value.isdigit() and len(value) < 7:
            self._retry_after = float(value)

    def on_headers_complete(self) -> None:
        """Tell the status."""
        if not self._head.done():
            self._head.set_result(self._parser.get_status_code())

    def on_body(self, piece: bytes) -> None:
        """Cut what came into lines; the last may be a part."""
        self._rest += piece
        if b"\n" in piece:
            *lines, rest = self._rest.split(b"\n")
            self._rest = rest
            for line in lines:
                if line.strip():
                    self._hand_over(bytes(line))
        if len(self._rest) > MAX_LINE:
            self._end("a line longer than 1 MiB")

    def on_message_complete(self) -> None:
        """Note that the reply ended after all."""
        self._end("the server ended it")

    # ours

    def _hand_over(self, line: bytes) -> None:
        if self._failed:
            return
        if self._on_line is None:
            self._held.append(line)
            self._held_size += len(line)
            if self._held_size > MAX_HELD:
                self._end("too much came before it was listened to")
            return
        try:
            self._on_line(line)
        except BrokerError as error:
            self._failed = True
            if not self.over.done():
                self.over.set_exception(error)
                self.over.exception()  # looked at, whether or not somebody waits for it
            self._end("")

    def _watch(self) -> None:
        silence = monotonic() - self._heard
        if silence >= self._quiet_s:
            self._end(f"nothing came for {self._quiet_s:g} s")
            return
        loop = asyncio.get_running_loop()
        self._timer = loop.call_later(self._quiet_s - silence, self._watch)

    def _end(self, reason: str) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if not self._head.done():
            self._head.set_exception(ConnectionError(reason))
            self._head.exception()  # looked at, whether or not somebody waits for it
        if not self.over.done():
            self.over.set_result(reason)
        if self._transport is not None:
            self._transport.abort()
