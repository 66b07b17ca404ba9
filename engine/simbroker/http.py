"""HTTP/1.1 and WebSocket on one port: a small, fast protocol over httptools.

Answers leave in the order of their requests (pipelining), each after its delay, and what follows
from an answer (an order entering the market) happens after its bytes are written.
"""

from __future__ import annotations

import asyncio
import os
import socket
import struct
import time
from collections import deque
from collections.abc import Callable
from email.utils import formatdate
from http import HTTPStatus
from typing import NamedTuple, Protocol, cast

import httptools

from engine.simbroker.streams import HttpStream, Listener, Stream, WebSocketStream

__all__ = ["Answer", "Application", "Connection", "HttpStream", "Request", "Stream", "head"]

MAX_BODY = 64 * 1024
_JSON = "content-type: application/json; charset=UTF-8\r\n"
_PHRASES = {status.value: status.phrase for status in HTTPStatus}


class Request(NamedTuple):
    """One request as it came; header names in lower case, the last of a name counts.

    ``rank``: of a connection's first request, how many connections were opened before it in the same second.
    """

    method: str
    target: str
    headers: dict[bytes, bytes]
    body: bytes
    keep_alive: bool
    rank: int = 0


class Answer(NamedTuple):
    """What to send, when, and what then; ``payload`` ``None`` sends nothing, ever.

    ``close``: ``""`` keeps the connection, ``"close"`` ends it after the bytes, ``"reset"``
    abruptly, ``"hang"`` keeps it and reads no more. ``stream`` is handed the rest of a reply that
    never ends (``payload`` is its head). ``drip_s``: it leaves byte by byte, within this time.
    """

    payload: bytes | None
    delay_s: float = 0.0
    after: Callable[[], None] | None = None
    close: str = ""
    stream: Callable[[Stream], None] | None = None
    drip_s: float = 0.0


class _Clock:
    """The ``Date`` header's text, made once a second."""

    second = 0
    text = ""


def _date(skew_s: float) -> str:
    second = int(time.time() + skew_s)
    if second != _Clock.second:
        _Clock.second, _Clock.text = second, formatdate(second, usegmt=True)
    return _Clock.text


def head(status: int, length: int | None, headers: str = "", skew_s: float = 0.0) -> bytes:
    """Return an answer's status line and headers; no ``length`` means chunks without end.

    ``headers`` are whole lines; a ``content-type`` among them replaces JSON's. ``skew_s``: how
    wrong the ``Date`` is.
    """
    begin = f"HTTP/1.1 {status} {_PHRASES.get(status, 'Unknown')}\r\ndate: {_date(skew_s)}\r\n"
    if status == HTTPStatus.NO_CONTENT:
        return f"{begin}{headers}\r\n".encode()
    kind = "" if headers and "content-type:" in headers.lower() else _JSON
    size = "transfer-encoding: chunked" if length is None else f"content-length: {length}"
    return f"{begin}{kind}{size}\r\n{headers}\r\n".encode()


class Application(Listener, Protocol):
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

    def accepts_stream(self, request: Request) -> Answer | None:
        """Return the refusal of a WebSocket, ``None`` to open it."""
        ...

    def stream_opened(self, stream: Stream, request: Request) -> None:
        """Greet a new WebSocket."""
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
        self._dripping: Answer | None = None
        self._paused = False
        self.rank = 0  # until its first request, see ``Request``
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
        dripping, self._dripping = self._dripping, None
        if dripping is not None and dripping.after is not None:
            dripping.after()
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
            self.rank,
        )
        self.rank = 0
        if self._parser.should_upgrade():
            self._upgrade = request
            return
        answer = self._application.answer(request)
        if not request.keep_alive and not answer.close and answer.stream is None:
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

    def reset(self) -> None:
        """Cut the connection with a reset instead of an orderly end."""
        if self._transport is not None:
            _linger_not(self._transport)
            self._transport.abort()

    def pause(self) -> None:
        """Answer nothing and read nothing until ``resume``; the system still takes bytes in."""
        if self._transport is not None and not self._paused and not self._transport.is_closing():
            self._paused = True
            self._transport.pause_reading()

    def resume(self) -> None:
        """Go on after ``pause``."""
        if self._paused:
            self._paused = False
            if self._transport is not None and not self._transport.is_closing():
                self._transport.resume_reading()
            self._send_due()

    def _send_due(self, *, everything: bool = False) -> None:
        """Write the answers whose time has come, in one piece, then do what follows from them."""
        if self._dripping is not None or (self._paused and not everything):
            return
        now = asyncio.get_running_loop().time() if self._queue else 0.0
        due: list[Answer] = []
        while self._queue and (everything or self._queue[0].delay_s <= now):
            due.append(self._queue.popleft())
            if due[-1].close or due[-1].drip_s:
                break
        slow = due.pop() if due and due[-1].drip_s and self._transport is not None else None
        payload = b"".join([answer.payload for answer in due if answer.payload])
        if self._transport is not None and payload:
            self._transport.write(payload)
        for answer in due:
            self._sent(answer)
        if slow is not None:
            self._dripping = slow
            self._drip(slow, 0)
        self._arm(now)

    def _sent(self, answer: Answer) -> None:
        """Do what follows from an answer that has left."""
        if answer.after is not None:
            answer.after()
        if answer.stream is not None and self._transport is not None:
            self._ended = True  # a reply that never ends is the connection's last
            self.stream = HttpStream(self._transport, self._application, "")
            answer.stream(self.stream)
        if answer.close:
            self._finish(answer.close)

    def _drip(self, answer: Answer, position: int) -> None:
        """Write one byte of a slow answer, then wait for the next one's time."""
        payload = answer.payload or b""
        if self._transport is None or self._dripping is not answer:
            return
        if not self._paused:
            self._transport.write(payload[position : position + 1])
            position += 1
        if position < len(payload):
            wait = answer.drip_s / len(payload)
            asyncio.get_running_loop().call_later(wait, self._drip, answer, position)
            return
        self._dripping = None
        self._sent(answer)
        self._send_due()

    def _finish(self, how: str) -> None:
        if self._transport is None:
            return
        if how == "reset":
            self.reset()
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
        refusal = self._application.accepts_stream(request)
        if refusal is not None:
            self._ended = True
            self._queue.append(refusal)
            self._send_due()
            return
        path = request.target.partition("?")[0]
        stream = WebSocketStream(self._transport, self._application, path)
        self.stream = stream
        lines = b"".join(b"%s: %s\r\n" % header for header in request.headers.items())
        stream.feed(b"GET %s HTTP/1.1\r\n%s\r\n" % (self._target, lines))
        self._application.stream_opened(stream, request)
        if rest:
            stream.feed(rest)


def _linger_not(transport: asyncio.Transport) -> None:
    """Let the socket's end be a reset, whatever is still to be read or sent."""
    handle = transport.get_extra_info("socket")
    if handle is None:
        return
    now = struct.pack("ii" if os.name == "posix" else "hh", 1, 0)
    if hasattr(handle, "setsockopt"):
        handle.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, now)
