"""Reads over keep-alive HTTP/1.1 connections of our own: some microseconds each, where ``httpx`` takes a millisecond.

An engine compares a thousand accounts with their brokers all day, on the loop its orders leave from. One read is
under way on a connection at a time; one that timed out, broke or said something unasked is never used again.
"""

from __future__ import annotations

import asyncio
import ssl
import zlib
from collections import deque
from typing import Any

from httptools import HttpParserError, HttpParserUpgrade, HttpResponseParser

from engine.brokers.dial import Pacer, Rank, Route, dial, why

MAX_BODY = 16 << 20
"""Bytes of one reply's body, as sent and as unpacked."""
_MAX_HEAD = 100 << 10
_MOST = 8
"""Connections to one server by one way out."""
_CONNECT_S = 5.0
_IDLE_S = 30.0
_PATIENCE_S = 30.0
_FAREWELL_S = 0.5
_PACKED = {"gzip", "x-gzip", "deflate"}


class NotSentError(Exception):
    """Not a byte of the request left."""


class NoReplyError(Exception):
    """No complete reply came."""


class TooMuchError(Exception):
    """The reply is larger than ``MAX_BODY``."""


class Gate:
    """Where connecting is slow, lets in as many look-ups at a time as there are connections, and one more.

    That one opens the next connection. Without this, look-ups that come together would each be tied to a
    connection of its own that is not open yet, and wait for its turn though others have long been free.
    """

    def __init__(self, most: int, pacer: Pacer | None) -> None:
        self._most = most
        self._slow = pacer is not None and pacer.slow
        self._inside = 0
        self._line: deque[asyncio.Future[None]] = deque()
        self.open = 0
        """Connections, idle or busy."""

    @property
    def _room(self) -> bool:
        return self._inside < (min(self._most, self.open + 1) if self._slow else self._most)

    async def __aenter__(self) -> None:
        """Wait to be let in, first come, first served.

        Raises:
            NotSentError: for too long; nothing left.
        """
        if self._room and not self._line:
            self._inside += 1
            return
        turn: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._line.append(turn)
        try:
            async with asyncio.timeout(_PATIENCE_S):
                await turn
        except BaseException as error:
            if turn.done() and not turn.cancelled():
                self._inside -= 1
            turn.cancel()
            self._let_in()
            if isinstance(error, TimeoutError):
                raise NotSentError("no connection was free in time") from None
            raise

    async def __aexit__(self, *_: object) -> None:
        """Leave."""
        self._inside -= 1
        self._let_in()

    def opened(self, count: int) -> None:
        """Note that a connection was opened (1) or closed (-1)."""
        self.open += count
        self._let_in()

    def _let_in(self) -> None:
        while self._line and self._room:
            turn = self._line.popleft()
            if not turn.done():
                turn.set_result(None)
                self._inside += 1


class Answer:
    """A reply as it came: ``status``, ``retry_after`` (text, empty if there was none) and the unpacked ``body``."""

    __slots__ = (
        "_encoding",
        "_length",
        "_pieces",
        "_size",
        "body",
        "headed",
        "retry_after",
        "status",
    )

    def __init__(self) -> None:
        self.status = 0
        self.retry_after = ""
        self.body = b""
        self.headed = False
        """Whether its head is complete."""
        self._encoding = ""
        self._length = False
        self._pieces: list[bytes] = []
        self._size = 0

    @property
    def ends_with_connection(self) -> bool:
        """Whether its head names no length: its end is the connection's."""
        return self.headed and not self._length

    def head(self, name: bytes, value: bytes) -> None:
        """Take a header."""
        name = name.lower()
        if name in {b"content-length", b"transfer-encoding"}:
            self._length = True
        elif name == b"content-encoding":
            self._encoding = value.decode("latin-1").strip().lower()
        elif name == b"retry-after":
            self.retry_after = value.decode("latin-1").strip()

    def add(self, piece: bytes) -> None:
        """Take a piece of the body.

        Raises:
            TooMuchError: it is one too many.
        """
        self._pieces.append(piece)
        self._size += len(piece)
        if self._size > MAX_BODY:
            raise TooMuchError

    def unpack(self) -> None:
        """Put the body together.

        Raises:
            NoReplyError: what was packed cannot be unpacked.
            TooMuchError: unpacked it is too large.
        """
        self.body = self._pieces[0] if len(self._pieces) == 1 else b"".join(self._pieces)
        self._pieces.clear()
        if self._encoding in _PACKED and self.body:
            reader = zlib.decompressobj(zlib.MAX_WBITS | 32)  # gzip or zlib, as its head says
            try:
                self.body = reader.decompress(self.body, MAX_BODY + 1)
            except zlib.error:
                raise NoReplyError("its packed reply cannot be unpacked") from None
            if len(self.body) > MAX_BODY:
                raise TooMuchError
            if not reader.eof:
                raise NoReplyError("its packed reply is cut short")


class _Line(asyncio.Protocol):
    """One connection."""

    def __init__(self, gate: Gate) -> None:
        self._gate = gate
        self._loop = asyncio.get_running_loop()
        self._parser = HttpResponseParser(self)
        self._waiting: asyncio.Future[Answer] | None = None
        self._answer = Answer()
        self._patience: asyncio.Timeout | None = None
        self._patience_s = 0.0
        self._heads = 0  # bytes that came before a head was complete
        self._keep = False
        self.transport: Any = None
        self.usable = True
        self.heard = False
        """Whether a byte of an answer to the latest request came."""
        self.ended = False
        """Whether the other side has closed it."""
        self.free_since = 0.0
        self.lost = self._loop.create_future()

    # ---- asyncio.Protocol --------------------------------------------------------------------------------------

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = transport
        self._gate.opened(1)

    def data_received(self, data: bytes) -> None:
        if self._waiting is None:
            self.drop()  # it speaks unasked: nobody's answer
            return
        self.heard = True
        if not self._answer.headed:
            self._heads += len(data)
        try:
            self._parser.feed_data(data)
        except (HttpParserError, HttpParserUpgrade) as error:
            self._keep = False  # a whole answer counts, whatever follows it
            if not self._answer.status:
                too_much = isinstance(error.__context__, TooMuchError)
                self._fail(TooMuchError() if too_much else NoReplyError("the reply is not HTTP"))
                return
        if self._answer.status:
            self._finish()
        elif self._heads > _MAX_HEAD and not self._answer.headed:
            self._fail(NoReplyError("the head of the reply has no end"))
        elif self._patience is not None and not self._patience.expired():
            self._patience.reschedule(self._loop.time() + self._patience_s)

    def eof_received(self) -> None:
        self.ended = True
        answer = self._answer
        if self._waiting is not None and answer.ends_with_connection:
            answer.status, self._keep = self._parser.get_status_code(), False
            self._finish()
        else:
            self._fail(NoReplyError("the connection was closed before the reply was complete"))

    def connection_lost(self, exc: Exception | None) -> None:
        self.ended = True
        text = "the connection was lost before the reply was complete"
        self._fail(NoReplyError(f"{text} ({why(exc)})" if exc else text))
        self._gate.opened(-1)
        if not self.lost.done():
            self.lost.set_result(None)

    # ---- httptools ---------------------------------------------------------------------------------------------

    def on_message_begin(self) -> None:
        if self._answer.status:
            self._keep = False  # more than one reply to one request

    def on_header(self, name: bytes, value: bytes) -> None:
        if not self._answer.status:
            self._answer.head(name, value)

    def on_headers_complete(self) -> None:
        if not self._answer.status:
            self._answer.headed = True

    def on_body(self, piece: bytes) -> None:
        if not self._answer.status:
            self._answer.add(piece)

    def on_message_complete(self) -> None:
        if self._answer.status:
            return
        status = self._parser.get_status_code()
        if status < 200:  # 100, 102, 103: the answer follows
            self._answer = Answer()
        else:
            self._answer.status, self._keep = status, self._parser.should_keep_alive()

    # ---- ours --------------------------------------------------------------------------------------------------

    async def ask(self, request: bytes, timeout_s: float) -> Answer:
        """Send a request and return its answer; ``timeout_s`` without a byte are too many.

        Raises:
            NoReplyError: no complete reply.
            TooMuchError: it is too large.
        """
        self._waiting, self._answer, self._keep = self._loop.create_future(), Answer(), False
        self._patience_s, self._heads, self.heard = timeout_s, 0, False
        try:
            self.transport.write(request)
            async with asyncio.timeout(timeout_s) as self._patience:
                answer = await self._waiting
        except TimeoutError:
            raise NoReplyError("no answer in time") from None
        finally:
            self._waiting = self._patience = None
            if not self._keep:
                self.drop()
        self.free_since = self._loop.time()
        answer.unpack()
        return answer

    def _finish(self) -> None:
        if self._waiting is not None and not self._waiting.done():
            self._waiting.set_result(self._answer)
        else:
            self._keep = False

    def _fail(self, error: Exception) -> None:
        self._keep = False
        if self._waiting is not None and not self._waiting.done():
            self._waiting.set_exception(error)
        self.drop()

    def drop(self) -> None:
        """Close for good, without a farewell."""
        if self.usable:
            self.usable = False
            self.transport.abort()


class Lines:
    """The connections to one server by one way out. ``context`` None: plain text."""

    def __init__(
        self,
        host: str,
        port: int,
        context: ssl.SSLContext | None,
        route: Route | None,
        pacer: Pacer | None,
    ) -> None:
        self._where = host, port
        self._context = context
        self._route = route
        self._pacer = pacer
        self.gate = Gate(_MOST, pacer)
        self._all: set[_Line] = set()
        self._free: list[_Line] = []
        self._closed = False

    async def read(self, request: bytes, timeout_s: float) -> Answer:
        """Send a request whose turn it is (``gate``) and return its answer.

        Raises:
            NotSentError: no connection; not a byte left.
            NoReplyError: no complete reply.
            TooMuchError: it is too large.
        """
        line = self._idle()
        if line is not None:
            try:
                return await self._ask(line, request, timeout_s)
            except NoReplyError:
                if line.heard or not line.ended:
                    raise
                # The server had closed it in this moment, as it may when nothing is asked: reads can be repeated.
        return await self._ask(await self._open(), request, timeout_s)

    async def _ask(self, line: _Line, request: bytes, timeout_s: float) -> Answer:
        try:
            return await line.ask(request, timeout_s)
        finally:
            if line.usable:
                self._free.append(line)

    def _idle(self) -> _Line | None:
        """Return the connection that was used last, if it is young enough to be trusted."""
        now = asyncio.get_running_loop().time()
        while self._free:
            line = self._free.pop()
            if line.usable and now - line.free_since < _IDLE_S and not line.transport.is_closing():
                return line
            line.drop()
        return None

    async def _open(self) -> _Line:
        try:
            if self._pacer is not None:
                await self._pacer.turn(Rank.READS if self.gate.open else Rank.NEEDED)
            host, port = self._where
            _, line = await dial(
                lambda: _Line(self.gate),
                host,
                port,
                context=self._context,
                route=self._route,
                timeout_s=_CONNECT_S,
            )
        except (OSError, ValueError) as error:  # TimeoutError, too
            raise NotSentError(why(error)) from None
        if self._closed:
            line.drop()
            raise NotSentError("the look-ups were stopped")
        if not line.usable:  # what is written to it would never be answered
            raise NotSentError("the server closed the connection as it was opened")
        self._all.add(line)
        line.lost.add_done_callback(lambda _: self._all.discard(line))
        return line

    async def close(self) -> None:
        """Close every connection; a peer that does not answer the farewell is not waited for."""
        self._closed = True
        lines = list(self._all)
        self._free.clear()
        for line in lines:
            line.usable = False
            line.transport.close()
        if lines:
            await asyncio.wait([line.lost for line in lines], timeout=_FAREWELL_S)
        for line in lines:
            line.transport.abort()
