"""A WebSocket client (RFC 6455) made for order streams: one call from the socket to the message.

Order streams are most of the work an order causes after it left, so nothing is queued, no task is
woken: ``on_message`` is called from ``data_received``. No extensions, no compression.
"""

from __future__ import annotations

import asyncio
import os
import ssl
from collections.abc import Callable, Iterable
from typing import Any, TypeVar, cast
from urllib.parse import urlsplit

from engine.brokers.dial import Route, dial
from engine.brokers.handshake import HandshakeRefused, accept_for, new_key, refusal, upgrade_request
from engine.errors import TradingError

__all__ = ["HandshakeRefused", "WebSocket"]

_T = TypeVar("_T")
_HEAD_MAX = 16 << 10
_UNSENT_MAX = 4 << 20
_FRAGMENTS_MAX = 65_536
_CLOSE_S = 1.0
_CONTINUATION, _TEXT, _BINARY, _CLOSE, _PING, _PONG = 0, 1, 2, 8, 9, 10
_CLOSE_CODES = frozenset((1000, 1001, 1002, 1003, *range(1007, 1015)))


class WebSocket(asyncio.Protocol):
    """One connection; made by ``connect``. A broken peer ends it, never the caller."""

    __slots__ = (
        "_buffer",
        "_closing",
        "_deaf",
        "_expected",
        "_fragments",
        "_fragments_size",
        "_heard",
        "_kind",
        "_loop",
        "_max_message",
        "_need",
        "_on_message",
        "_open",
        "_over",
        "_ping_s",
        "_pinged",
        "_reason",
        "_timer",
        "_transport",
    )

    def __init__(
        self, on_message: Callable[[bytes], None], expected: bytes, max_message: int, ping_s: float
    ) -> None:
        self._on_message = on_message
        self._expected = expected
        self._max_message = max_message
        self._ping_s = ping_s
        self._loop = asyncio.get_running_loop()
        self._transport: Any = None
        self._buffer = bytearray()
        self._need = 0
        self._fragments: list[bytes] = []
        self._fragments_size = self._kind = 0
        self._open: asyncio.Future[None] | None = self._loop.create_future()
        self._over: asyncio.Future[None] = self._loop.create_future()
        self._reason = ""
        self._closing = self._deaf = self._heard = self._pinged = False
        self._timer: asyncio.TimerHandle | None = None

    @classmethod
    async def connect(  # noqa: PLR0913 (every knob of a connection)
        cls,
        url: str,
        *,
        on_message: Callable[[bytes], None],
        context: ssl.SSLContext | None = None,
        egress: Route | None = None,
        headers: Iterable[tuple[str, str]] = (),
        timeout_s: float = 10.0,
        max_message: int = 4 << 20,
        ping_s: float = 10.0,
    ) -> WebSocket:
        """Connect and shake hands; ``wss`` needs ``context``.

        ``on_message`` gets each whole message, text (proven UTF-8) or binary, as bytes, never before
        this call's awaiter had its turn. If it raises, the connection is closed for that reason. The
        peer is dead when nothing, not even the answer to a ping, comes within ``ping_s`` of the ping.

        Raises:
            HandshakeRefused: an answer that is no WebSocket; ``status`` says which.
            OSError: no connection, or no answer in time.
            ValueError: a URL or header that cannot be written.
        """
        parts = urlsplit(url)
        if parts.scheme not in {"ws", "wss"} or not parts.hostname:
            raise ValueError("expected ws://host or wss://host")
        tls = parts.scheme == "wss"
        if tls and context is None:
            raise ValueError("wss needs a TLS context")
        port = parts.port or (443 if tls else 80)
        key = new_key()
        target = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
        request = upgrade_request(target, parts.netloc.rpartition("@")[2], key, headers)
        socket: WebSocket | None = None
        try:
            _, socket = await dial(
                lambda: cls(on_message, accept_for(key), max_message, ping_s),
                parts.hostname,
                port,
                context=context if tls else None,
                route=egress,
                timeout_s=timeout_s,
            )
            async with asyncio.timeout(timeout_s):
                await socket.shake_hands(request)
        except BaseException:
            if socket is not None:
                socket.end("the handshake failed", abort=True)
            raise
        return socket

    async def shake_hands(self, request: bytes) -> None:
        """Send the request and wait for the server's word; for ``connect``."""
        opened = cast("asyncio.Future[None]", self._open)
        self._transport.write(request)
        await opened
        self._timer = self._loop.call_later(self._ping_s, self._tick)
        self._loop.call_soon(self._begin)

    def _begin(self) -> None:
        """Read on; the caller of ``connect`` has the connection in hand now."""
        self._open = None
        if self._buffer and not self._deaf:
            self._read()

    # For the caller

    def send(self, text: str | bytes) -> None:
        """Send a text frame for str, a binary frame for bytes.

        Raises:
            ConnectionError: the connection is over, or the peer has not read for too long.
        """
        if self._reason:
            raise ConnectionError(self._reason)
        if isinstance(text, str):
            self._write(_TEXT, text.encode("utf-8"))
        else:
            self._write(_BINARY, text)
        if self._reason:
            raise ConnectionError(self._reason)

    async def closed(self) -> str:
        """Wait until it is over; return why."""
        await asyncio.shield(self._over)
        return self._reason

    async def reply(self, answer: asyncio.Future[_T], timeout_s: float = 10.0) -> _T:
        """Wait for ``answer``, which ``on_message`` will set.

        Raises:
            ConnectionError: the connection was lost first.
            TimeoutError: neither came in time.
        """
        await asyncio.wait(
            (answer, self._over), timeout=timeout_s, return_when=asyncio.FIRST_COMPLETED
        )
        if answer.done():
            return answer.result()
        answer.cancel()
        if self._over.done():
            raise ConnectionError(self._reason)
        raise TimeoutError("no answer in time")

    async def close(self) -> None:
        """Close politely, within a second; afterwards ``on_message`` is not called."""
        if not self._reason:
            self._write(_CLOSE, b"\x03\xe8")
            self._reason = self._reason or "closed by us"
            self._closing = True
        try:
            async with asyncio.timeout(_CLOSE_S):
                await asyncio.shield(self._over)
        except TimeoutError:
            self.end("", abort=True)
            await asyncio.shield(self._over)

    # asyncio.Protocol

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Take the transport."""
        self._transport = transport

    def data_received(self, data: bytes) -> None:
        """Read what came; whole frames are acted on at once."""
        self._heard = True
        if self._deaf:
            return
        if self._buffer or self._open is not None:
            self._buffer += data
            if self._open is not None:
                self._read_head()
            elif len(self._buffer) >= self._need:
                self._read()
            return
        rest = self._frames(data)
        if rest < len(data) and not self._deaf:
            self._buffer += data[rest:]

    def _read(self) -> None:
        data = bytes(self._buffer)
        self._buffer.clear()
        rest = self._frames(data)
        if rest < len(data) and not self._deaf:
            self._buffer += data[rest:]

    def eof_received(self) -> None:
        """Note that the server ended the connection."""
        self.end("the connection was closed without a word")

    def connection_lost(self, exc: Exception | None) -> None:
        """Note that it is over."""
        if not self._over.done():
            self._over.set_result(None)
        self.end(str(exc) if exc else "the connection was lost")

    # Handshake

    def _read_head(self) -> None:
        opened = self._open
        if opened is None or opened.done():
            return  # answered; what follows waits for _begin
        end = self._buffer.find(b"\r\n\r\n")
        if end < 0:
            if len(self._buffer) > _HEAD_MAX:
                opened.set_exception(HandshakeRefused("the answer is not a WebSocket's"))
            return
        wrong = refusal(bytes(self._buffer[:end]), self._expected)
        if wrong is not None:
            opened.set_exception(wrong)
            return
        del self._buffer[: end + 4]
        opened.set_result(None)

    # Frames

    def _frames(self, data: bytes) -> int:
        """Act on every whole frame; return where the first incomplete one begins."""
        position, size = 0, len(data)
        while size - position >= 2:
            first, length = data[position], data[position + 1]
            start = position + 2
            if length > 125:
                start, length = self._long_length(data, start, length)
                if length < 0:
                    break
            end = start + length
            if length > self._max_message:
                self._fail(1009, f"a message of more than {self._max_message} bytes")
                break
            if end > size:
                self._need = end - position
                break
            payload = data[start:end]
            position = end
            if 0x81 <= first <= 0x82 and not self._kind and not self._reason:
                self._deliver(first & 15, payload)
            else:
                self._take(first, payload)
            if self._deaf:
                break
        else:
            self._need = 2
        return position

    def _long_length(self, data: bytes, start: int, length: int) -> tuple[int, int]:
        """Return where the payload begins and its length, or -1: not to be known (yet)."""
        if length & 0x80:
            self._fail(1002, "a masked frame")
            return start, -1
        wide = 2 if length == 126 else 8
        if len(data) < start + wide:
            self._need = wide + 2
            return start, -1
        return start + wide, int.from_bytes(data[start : start + wide], "big")

    def _take(self, first: int, payload: bytes) -> None:
        """Act on a frame that is not simply a message."""
        kind = first & 15
        if first & 0x70 or kind in {3, 4, 5, 6, 7} or kind > _PONG:
            self._fail(1002, "a frame with reserved bits")
        elif kind >= _CLOSE:
            self._take_control(first, kind, payload)
        elif self._reason:
            pass  # we are closing: only their closing frame matters
        elif (kind == _CONTINUATION) != bool(self._kind):
            self._fail(1002, "fragments out of order")
        else:
            self._take_fragment(bool(first & 0x80), kind, payload)

    def _take_fragment(self, final: bool, kind: int, payload: bytes) -> None:
        self._kind = self._kind or kind
        self._fragments.append(payload)
        self._fragments_size += len(payload)
        if self._fragments_size > self._max_message or len(self._fragments) > _FRAGMENTS_MAX:
            self._fail(1009, f"a message of more than {self._max_message} bytes")
        elif final:
            kind, whole = self._kind, b"".join(self._fragments)
            self._kind = self._fragments_size = 0
            self._fragments.clear()
            self._deliver(kind, whole)

    def _take_control(self, first: int, kind: int, payload: bytes) -> None:
        if not first & 0x80 or len(payload) > 125:
            self._fail(1002, "a control frame in pieces or too long")
        elif kind == _PING:
            if not self._reason:
                self._write(_PONG, payload)
        elif kind == _CLOSE:
            self._take_close(payload)

    def _take_close(self, payload: bytes) -> None:
        if self._closing:  # the answer to ours
            self.end("")
            return
        code, text = int.from_bytes(payload[:2], "big"), ""
        try:
            text = payload[2:].decode("utf-8")
        except UnicodeDecodeError:
            code = 0
        if payload and not (code in _CLOSE_CODES or 3000 <= code < 5000):
            self._fail(1002, "a closing frame that cannot be read")
            return
        said = f"{code} {text}".strip() if payload else "no reason given"
        self._write(_CLOSE, payload[:2])
        self.end(f"closed by the server ({said})")

    def _deliver(self, kind: int, message: bytes) -> None:
        if kind == _TEXT and not message.isascii():
            try:
                message.decode("utf-8")
            except UnicodeDecodeError:
                self._fail(1007, "text that is not UTF-8")
                return
        try:
            self._on_message(message)
        except Exception as error:  # noqa: BLE001 (its cause is told; the connection ends)
            if not isinstance(error, TradingError):
                self._loop.call_exception_handler(
                    {"message": "a WebSocket's on_message raised", "exception": error}
                )
            self._fail(1011, str(error) or type(error).__name__)

    def _write(self, kind: int, payload: bytes) -> None:
        transport = self._transport
        if transport.is_closing():
            self.end("the connection was lost")
        elif transport.get_write_buffer_size() > _UNSENT_MAX:
            self.end("the server does not read", abort=True)
        else:
            transport.write(_frame(kind, payload))

    # End

    def _fail(self, code: int, reason: str) -> None:
        """Say that the peer broke the rules, and leave."""
        if not self._closing:
            self._write(_CLOSE, code.to_bytes(2, "big"))
        self.end(reason)

    def end(self, reason: str, *, abort: bool = False) -> None:
        """Read no more and close, politely unless ``abort``; the first reason stays."""
        self._reason = self._reason or reason
        self._deaf = True
        self._buffer.clear()
        self._fragments.clear()
        if self._open is not None and not self._open.done():
            self._open.set_exception(ConnectionError(self._reason))
        if self._timer is not None:
            self._timer.cancel()
        if self._over.done():
            return
        if abort:
            self._transport.abort()
        else:
            self._transport.close()
            self._timer = self._loop.call_later(_CLOSE_S, self._transport.abort)

    def _tick(self) -> None:
        if self._pinged and not self._heard:
            self.end(
                f"nothing heard for {self._ping_s:g} s, not even the answer to a ping", abort=True
            )
            return
        self._heard, self._pinged = False, True
        self._timer = self._loop.call_later(self._ping_s, self._tick)
        self._write(_PING, b"")


def _frame(kind: int, payload: bytes) -> bytes:
    """Write one whole, masked frame (RFC 6455, 5.2 and 5.3)."""
    size = len(payload)
    if size < 126:
        head = bytes((0x80 | kind, 0x80 | size))
    elif size < 1 << 16:
        head = bytes((0x80 | kind, 0xFE)) + size.to_bytes(2, "big")
    else:
        head = bytes((0x80 | kind, 0xFF)) + size.to_bytes(8, "big")
    mask = os.urandom(4)
    stream = (mask * (size // 4 + 1))[:size]
    masked = int.from_bytes(payload, "little") ^ int.from_bytes(stream, "little")
    return head + mask + masked.to_bytes(size, "little")
