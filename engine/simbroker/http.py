"""HTTP/1.1 and WebSocket on one port: a small, fast protocol over httptools.

Answers leave in the order of their requests (pipelining), each after its delay, and what follows
from an answer (an order entering the market) happens after its bytes are written.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable
from http import HTTPStatus
from typing import Any, NamedTuple, Protocol, cast

import httptools
from websockets.frames import Frame, Opcode
from websockets.http11 import Request as UpgradeRequest
from websockets.server import ServerProtocol

MAX_BODY = 64 * 1024
_JSON = "content-type: application/json; charset=UTF-8\r\n"


class Request(NamedTuple):
    """One request as it came; header names in lower case, the last of a name counts."""

    method: str
    target: str
    headers: dict[bytes, bytes]
    body: bytes
    keep_alive: bool


class Answer(NamedTuple):
    """What to send, when, and what then; ``payload`` ``None`` sends nothing, ever.

    ``close``: ``""`` keeps the connection, ``"close"`` ends it after the bytes, ``"reset"``
    abruptly, ``"hang"`` keeps it and reads no more.
    """

    payload: bytes | None
    delay_s: float = 0.0
    after: Callable[[], None] | None = None
    close: str = ""


def head(status: int, length: int, headers: str = "") -> bytes:
    """Return an answer's status line and headers."""
    phrase = HTTPStatus(status).phrase
    if status == HTTPStatus.NO_CONTENT:
        return f"HTTP/1.1 204 {phrase}\r\n{headers}\r\n".encode()
    return (
        f"HTTP/1.1 {status} {phrase}\r\n{_JSON}content-length: {length}\r\n{headers}\r\n".encode()
    )


class Application(Protocol):
    """What the connections serve."""

    def opened(self, connection: Connection) -> None:
        """Note a new connection."""
        ...

    def closed(self, connection: Connection) -> None:
        """Forget a connection."""
        ...

    def answer(self, request: Request) -> Answer:
        """Answer one request."""
        ...

    def accepts_stream(self, request: Request) -> bool:
        """Say whether a WebSocket may be opened here."""
        ...

    def stream_message(self, stream: Stream, message: bytes) -> None:
        """Take one message from a WebSocket."""
        ...


class Connection(asyncio.Protocol):
    """One client connection, HTTP until it asks for a WebSocket."""

    def __init__(self, application: Application) -> None:
        self._application = application
        self._parser = httptools.HttpRequestParser(self)
        self._transport: asyncio.Transport | None = None
        self._queue: deque[Answer] = deque()
        self._timer: asyncio.TimerHandle | None = None
        self._due_s = 0.0
        self._ended = False  # an answer closed it: what comes after is not read
        self.stream: Stream | None = None
        self._upgrade: Request | None = None
        self.on_message_begin()

    # asyncio.Protocol

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Keep the transport."""
        # uvloop's transports are asyncio.Transport in all but name.
        self._transport = cast(asyncio.Transport, transport)
        self._application.opened(self)

    def connection_lost(self, exc: Exception | None) -> None:
        """Forget the client; what its orders still have to do happens all the same."""
        self._transport = None
        self._send_due(everything=True)
        self._application.closed(self)

    def data_received(self, data: bytes) -> None:
        """Parse and answer every request in ``data``."""
        if self.stream is not None:
            self.stream.feed(data)
            return
        if self._ended:
            return
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserUpgrade as upgrade:
            self._open_stream(data[upgrade.args[0] :])
            return
        except (httptools.HttpParserError, ValueError):
            self._ended = True
            self._queue.append(Answer(head(400, 0), close="close"))
        self._send_due()

    def eof_received(self) -> bool:
        """Close when the client does."""
        return False

    # httptools callbacks

    def on_message_begin(self) -> None:
        """Start a request."""
        self._target = b""
        self._headers: dict[bytes, bytes] = {}
        self._body = b""

    def on_url(self, url: bytes) -> None:
        """Take the request target, in parts."""
        self._target += url

    def on_header(self, name: bytes, value: bytes) -> None:
        """Take one header."""
        self._headers[name.lower()] = value

    def on_body(self, body: bytes) -> None:
        """Take the body, in parts."""
        self._body += body
        if len(self._body) > MAX_BODY:
            raise ValueError("body too large")

    def on_message_complete(self) -> None:
        """Answer a request, or remember that a WebSocket is wanted."""
        if self._ended:
            return
        request = Request(
            self._parser.get_method().decode(),
            self._target.decode("ascii", "replace"),
            self._headers,
            self._body,
            self._parser.should_keep_alive(),
        )
        if self._parser.should_upgrade():
            self._upgrade = request
            return
        answer = self._application.answer(request)
        if not request.keep_alive and not answer.close:
            answer = answer._replace(close="close")
        self._ended = bool(answer.close)
        if answer.delay_s or self._timer is not None:
            now = asyncio.get_running_loop().time()
            # Never before an earlier request's answer.
            self._due_s = max(self._due_s, now + answer.delay_s)
            answer = answer._replace(delay_s=self._due_s)
        self._queue.append(answer)

    # answering

    def abort(self) -> None:
        """Cut the connection."""
        if self._transport is not None:
            self._transport.abort()

    def _send_due(self, *, everything: bool = False) -> None:
        """Write the answers whose time has come, in one piece, then do what follows from them."""
        now = asyncio.get_running_loop().time() if self._queue else 0.0
        due: list[Answer] = []
        while self._queue and (everything or self._queue[0].delay_s <= now):
            due.append(self._queue.popleft())
            if due[-1].close:
                break
        payload = b"".join([answer.payload for answer in due if answer.payload])
        if self._transport is not None and payload:
            self._transport.write(payload)
        for answer in due:
            if answer.after is not None:
                answer.after()
        if due and due[-1].close:
            self._finish(due[-1].close)
        self._arm(now)

    def _finish(self, how: str) -> None:
        if self._transport is None:
            return
        if how == "reset":
            self._transport.abort()
        elif how == "close":
            self._transport.close()

    def _arm(self, now: float) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if self._queue:
            loop = asyncio.get_running_loop()
            wait = max(self._queue[0].delay_s - now, 0.0)
            self._timer = loop.call_later(wait, self._send_due)

    def _open_stream(self, rest: bytes) -> None:
        request, self._upgrade = self._upgrade, None
        if request is None or self._transport is None:
            return
        if not self._application.accepts_stream(request):
            self._transport.abort()
            return
        self.stream = Stream(self._transport, self._application)
        lines = b"".join(b"%s: %s\r\n" % header for header in request.headers.items())
        self.stream.feed(b"GET %s HTTP/1.1\r\n%s\r\n%s" % (self._target, lines, rest))


class Stream:
    """A WebSocket over an accepted connection; ``tag`` is the application's own."""

    def __init__(self, transport: asyncio.Transport, application: Application) -> None:
        self._transport = transport
        self._application = application
        self._protocol = ServerProtocol(max_size=MAX_BODY)
        self._message = b""
        self._flushing = False
        self.tag: Any = None

    @property
    def closed(self) -> bool:
        """Say whether nothing can be sent any more."""
        return self._transport.is_closing()

    def feed(self, data: bytes) -> None:
        """Take bytes from the client."""
        self._protocol.receive_data(data)
        for event in self._protocol.events_received():
            if isinstance(event, UpgradeRequest):
                self._protocol.send_response(self._protocol.accept(event))
            elif isinstance(event, Frame) and event.opcode in {
                Opcode.TEXT,
                Opcode.BINARY,
                Opcode.CONT,
            }:
                self._message += bytes(event.data)
                if event.fin:
                    message, self._message = self._message, b""
                    self._application.stream_message(self, message)
        self._flush()

    def send(self, message: bytes) -> None:
        """Send one binary frame; frames of one loop turn leave together."""
        if self.closed:
            return
        self._protocol.send_binary(message)
        if not self._flushing:
            self._flushing = True
            asyncio.get_running_loop().call_soon(self._flush)

    def abort(self) -> None:
        """Cut the connection."""
        self._transport.abort()

    def _flush(self) -> None:
        self._flushing = False
        if self.closed:
            return
        pieces = self._protocol.data_to_send()
        payload = b"".join(pieces)
        if payload:
            self._transport.write(payload)
        # An empty piece is the protocol's way to say: end of stream.
        if b"" in pieces or self._protocol.close_expected():
            self._transport.close()
