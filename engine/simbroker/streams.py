"""What a client listens to: a WebSocket, or an HTTP reply that never ends."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any, Protocol

from websockets.frames import Frame, Opcode
from websockets.http11 import Request as UpgradeRequest
from websockets.server import ServerProtocol

MAX_MESSAGE = 64 * 1024
_DATA = frozenset({Opcode.TEXT, Opcode.BINARY, Opcode.CONT})


Held = list[tuple["Stream", Callable[[], None]]]
"""What was kept from leaving: for each message its stream and what sends it."""


class Listener(Protocol):
    """Who owns the streams. ``held``: while it is a list, what would be sent is put there."""

    held: Held | None

    def stream_message(self, stream: Stream, message: bytes) -> None:
        """Take one message from a WebSocket."""
        ...


class Stream:
    """An open order stream; ``tag`` is the dialect's own, ``path`` where it was opened."""

    def __init__(self, transport: asyncio.Transport, owner: Listener, path: str) -> None:
        self._transport = transport
        self._owner = owner
        self.path = path
        self.tag: Any = None

    @property
    def closed(self) -> bool:
        """Say whether nothing can be sent any more."""
        return self._transport.is_closing()

    def feed(self, data: bytes) -> None:
        """Take bytes from the client."""

    def send(self, message: bytes) -> None:
        """Send one binary frame, or a piece of an endless reply (end a line with ``\\n``)."""
        self._deliver(lambda: self._write(message, text=False))

    def send_text(self, message: bytes) -> None:
        """Send one text frame of UTF-8, or a piece of an endless reply."""
        self._deliver(lambda: self._write(message, text=True))

    def close(self, code: int = 1000, reason: str = "") -> None:
        """Say goodbye; ``code`` and ``reason`` are a WebSocket's."""
        raise NotImplementedError

    def abort(self) -> None:
        """Cut the connection."""
        self._transport.abort()

    def _deliver(self, delivery: Callable[[], None]) -> None:
        if self._owner.held is not None:
            self._owner.held.append((self, delivery))
        elif not self.closed:
            delivery()

    def _write(self, message: bytes, *, text: bool) -> None:
        raise NotImplementedError


class HttpStream(Stream):
    """A chunked reply that never ends; what the client sends meanwhile is not read."""

    def close(self, code: int = 1000, reason: str = "") -> None:
        """End the reply and the connection."""
        if not self.closed:
            self._transport.write(b"0\r\n\r\n")
            self._transport.close()

    def _write(self, message: bytes, *, text: bool) -> None:
        if not self.closed and message:
            self._transport.write(b"%x\r\n%s\r\n" % (len(message), message))


class WebSocketStream(Stream):
    """A WebSocket over an accepted connection; frames of one loop turn leave together."""

    def __init__(self, transport: asyncio.Transport, owner: Listener, path: str) -> None:
        super().__init__(transport, owner, path)
        self._protocol = ServerProtocol(max_size=MAX_MESSAGE)
        self._message = b""
        self._flushing = False

    def feed(self, data: bytes) -> None:
        """Take bytes from the client, the handshake first."""
        self._protocol.receive_data(data)
        for event in self._protocol.events_received():
            if isinstance(event, UpgradeRequest):
                self._protocol.send_response(self._protocol.accept(event))
            elif isinstance(event, Frame) and event.opcode in _DATA:
                self._message += bytes(event.data)
                if event.fin:
                    message, self._message = self._message, b""
                    self._owner.stream_message(self, message)
        self._flush()

    def ping(self, data: bytes = b"") -> None:
        """Send a ping; the answer is not awaited."""
        if not self.closed:
            self._protocol.send_ping(data)
            self._flush_soon()

    def close(self, code: int = 1000, reason: str = "") -> None:
        """Send a close frame."""
        if not self.closed:
            self._protocol.send_close(code, reason)
            self._flush_soon()

    def _write(self, message: bytes, *, text: bool) -> None:
        if self.closed:
            return
        if text:
            self._protocol.send_text(message)
        else:
            self._protocol.send_binary(message)
        self._flush_soon()

    def _flush_soon(self) -> None:
        if not self._flushing:
            self._flushing = True
            asyncio.get_running_loop().call_soon(self._flush)

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
