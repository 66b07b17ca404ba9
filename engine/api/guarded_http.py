"""HTTP connections that cannot be held open for nothing: slow, silent and many ones cost little.

Uvicorn bounds none of this for connections that never complete a request. What is whole in its first packet, as a
producer's signal is, pays nothing here but two assignments.
"""

from __future__ import annotations

import asyncio
from typing import Any, Final, cast

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from engine.api.auth import is_loopback

READ_S: Final = 2.0
"""From a request's first byte to its last."""
SILENT_S: Final = 75.0
"""A connection opened ahead of its first request stays this long."""
HEAD_BYTES: Final = 32 * 1024
MOST: Final = 1024
"""Connections in all; beyond it the one idle longest goes, those that were never served first."""
MOST_PER_ADDRESS: Final = 64
"""From one other machine; the next is turned away."""


class _Parting:
    """The transport as an answer sees it: a close waits for a request that is still coming in.

    Closed before, the system resets the connection, and who writes to the end first never reads the answer.
    """

    __slots__ = ("_protocol", "is_closing", "write")

    def __init__(self, protocol: GuardedProtocol) -> None:
        self._protocol = protocol
        self.write = protocol.transport.write
        self.is_closing = protocol.transport.is_closing

    def close(self) -> None:
        """Close once the request is whole, ``READ_S`` after its first byte at the latest."""
        self._protocol.close_when_read()


class GuardedProtocol(HttpToolsProtocol):
    """Uvicorn's protocol with limits in time, size and number."""

    _parting: _Parting
    _leaving = False
    _reading = False
    served = False
    _in_head = False
    _head_bytes = 0
    heard_at = 0.0
    _deadline: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Take a connection if there is room for it."""
        super().connection_made(cast("asyncio.Transport", transport))
        self._parting = _Parting(self)
        self.heard_at = self.loop.time()
        others = [cast("GuardedProtocol", other) for other in self.connections if other is not self]
        address = self.client[0] if self.client else ""
        if not is_loopback(address):
            same = sum(1 for other in others if other.client and other.client[0] == address)
            if same >= MOST_PER_ADDRESS:
                self.transport.abort()
                return
        if len(others) >= MOST:
            idle = [other for other in others if other.is_idle()]
            min(idle, key=lambda other: (other.served, other.heard_at), default=self).give_up()
        self._deadline = self.loop.call_later(SILENT_S, self.give_up)

    def connection_lost(self, exc: Exception | None) -> None:
        """Forget the deadline."""
        self._in_time()
        super().connection_lost(exc)
        del self._parting  # it holds us: nothing is left to the garbage collector
        if self.cycle is not None:
            self.cycle.transport = self.transport

    def data_received(self, data: bytes) -> None:
        """Read on; what has begun has to end in time, and its head be of a decent size."""
        self.heard_at = self.loop.time()
        super().data_received(data)
        if self._reading and self._deadline is None:
            self._deadline = self.loop.call_later(READ_S, self.give_up)
        if self._in_head:
            self._head_bytes += len(data)
            if self._head_bytes > HEAD_BYTES:
                self.give_up()

    def on_message_begin(self) -> None:
        """A request begins."""
        self._reading = self._in_head = True
        self._head_bytes = 0
        self._in_time()
        super().on_message_begin()

    def on_headers_complete(self) -> None:
        """A request's head is whole."""
        self._in_head = False
        if self._leaving:
            return  # behind the last request that is answered nothing is heard
        before = self.cycle
        super().on_headers_complete()
        if self.cycle is not before:  # no WebSocket's
            self.cycle.transport = cast("asyncio.Transport", self._parting)

    def handle_websocket_upgrade(self) -> None:
        """Hand the connection over: its time is the feed's now."""
        if self._leaving:
            return  # behind the last request that is answered nothing is heard
        self._reading = self._in_head = False
        self._in_time()
        super().handle_websocket_upgrade()

    def on_message_complete(self) -> None:
        """A request is whole."""
        self._reading, self.served = False, True
        self._in_time()
        super().on_message_complete()
        if self._leaving:
            self.transport.close()

    def close_when_read(self) -> None:
        """Close after an answer: at once, or once the request it answers is whole."""
        if self._reading and not self.pipeline:
            self._leaving = True
        else:
            self.transport.close()

    def give_up(self) -> None:
        """Close without another word; whoever was slow on purpose would not read it."""
        self._in_time()
        self.transport.abort()

    def _in_time(self) -> None:
        if self._deadline is not None:
            self._deadline.cancel()
            self._deadline = None

    def is_idle(self) -> bool:
        """Say whether no request of it is being answered."""
        cycle: Any = self.cycle
        return cycle is None or cycle.response_complete
