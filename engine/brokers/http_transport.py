"""``httpx`` over our own way of opening connections: the same egress and sentences as the wire."""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import Iterable
from typing import Any

import httpcore
import httpx

from engine.brokers.dial import Route, dial, why

_ENOUGH = 256 << 10
"""Bytes read ahead of the reader before the peer is made to wait."""


class OwnTransport(httpx.AsyncHTTPTransport):
    """The connections of an ``httpx`` client. ``context`` None: plain text."""

    def __init__(
        self,
        context: ssl.SSLContext | None,
        limits: httpx.Limits,
        route: Route | None,
    ) -> None:
        # The base class is built for its handling of requests and errors; its pool is replaced,
        # because only the pool takes a network of our own.
        super().__init__(verify=context or False, trust_env=False, limits=limits)
        self._pool = httpcore.AsyncConnectionPool(
            ssl_context=context,
            max_connections=limits.max_connections,
            max_keepalive_connections=limits.max_keepalive_connections,
            keepalive_expiry=limits.keepalive_expiry,
            network_backend=_Network(context, route),
        )


class _Network(httpcore.AsyncNetworkBackend):
    def __init__(self, context: ssl.SSLContext | None, route: Route | None) -> None:
        self._context = context
        self._route = route

    async def connect_tcp(
        self,
        host: str,
        port: int,
        timeout: float | None = None,  # noqa: ASYNC109 (httpcore's signature)
        local_address: str | None = None,
        socket_options: Iterable[Any] | None = None,
    ) -> httpcore.AsyncNetworkStream:
        """Connect and, for TLS, shake hands in one go."""
        del local_address, socket_options
        try:
            _, channel = await dial(
                _Channel,
                host,
                port,
                context=self._context,
                route=self._route,
                timeout_s=timeout or 10.0,
            )
        except TimeoutError as error:
            raise httpcore.ConnectTimeout(why(error)) from None
        except (OSError, ValueError) as error:
            raise httpcore.ConnectError(why(error)) from None
        return _Stream(channel)

    async def sleep(self, seconds: float) -> None:
        """Wait."""
        await asyncio.sleep(seconds)


class _Channel(asyncio.Protocol):
    """What came and was not read yet."""

    def __init__(self) -> None:
        self.transport: Any = None
        self.buffer = bytearray()
        self.ended = False
        self.error: Exception | None = None
        self.lost = asyncio.get_running_loop().create_future()
        self._more: asyncio.Future[None] | None = None
        self._paused = False

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = transport

    def data_received(self, data: bytes) -> None:
        self.buffer += data
        if len(self.buffer) > _ENOUGH and not self._paused:
            self._paused = True
            self.transport.pause_reading()
        self._wake()

    def eof_received(self) -> None:
        self.ended = True
        self._wake()

    def connection_lost(self, exc: Exception | None) -> None:
        self.ended, self.error = True, exc
        self._wake()
        if not self.lost.done():
            self.lost.set_result(None)

    def _wake(self) -> None:
        if self._more is not None and not self._more.done():
            self._more.set_result(None)

    async def take(self, most: int) -> bytes:
        """Return what there is, at least a byte; nothing at the end."""
        while not self.buffer and not self.ended:
            self._more = asyncio.get_running_loop().create_future()
            await self._more
        if self.error is not None and not self.buffer:
            raise self.error
        found = bytes(self.buffer[:most])
        del self.buffer[:most]
        if self._paused and not self.ended:
            self._paused = False
            self.transport.resume_reading()
        return found


class _Stream(httpcore.AsyncNetworkStream):
    def __init__(self, channel: _Channel) -> None:
        self._channel = channel

    async def read(self, max_bytes: int, timeout: float | None = None) -> bytes:  # noqa: ASYNC109
        """Read what there is."""
        try:
            async with asyncio.timeout(timeout):
                return await self._channel.take(max_bytes)
        except TimeoutError:
            raise httpcore.ReadTimeout("no answer in time") from None
        except OSError as error:
            raise httpcore.ReadError(why(error)) from None

    async def write(self, buffer: bytes, timeout: float | None = None) -> None:  # noqa: ASYNC109
        """Write; what is sent here is small, so nobody waits for the window."""
        del timeout
        if self._channel.ended:
            raise httpcore.WriteError("the connection was closed")
        if buffer:
            self._channel.transport.write(buffer)

    async def aclose(self) -> None:
        """Close; a peer that does not answer the farewell is not waited for."""
        self._channel.transport.close()
        try:
            async with asyncio.timeout(0.5):
                await asyncio.shield(self._channel.lost)
        except TimeoutError:
            self._channel.transport.abort()

    async def start_tls(
        self,
        ssl_context: ssl.SSLContext,
        server_hostname: str | None = None,
        timeout: float | None = None,  # noqa: ASYNC109
    ) -> httpcore.AsyncNetworkStream:
        """Return this stream: the handshake was part of connecting."""
        del ssl_context, server_hostname, timeout
        return self

    def get_extra_info(self, info: str) -> Any:
        """Say whether an idle connection has something to read: it must not be used then."""
        if info == "is_readable":
            return bool(self._channel.buffer) or self._channel.ended
        return self._channel.transport.get_extra_info(info)
