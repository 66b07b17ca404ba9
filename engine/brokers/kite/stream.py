"""Kite's order socket: postbacks of one account's orders, wherever they were placed."""

from __future__ import annotations

import ssl
from collections.abc import Callable

from engine.brokers.dial import Route
from engine.brokers.http import read_json
from engine.brokers.kite import mapping
from engine.brokers.kite.mapping import Row
from engine.brokers.reconnect import follow
from engine.brokers.websocket import HandshakeRefused, WebSocket
from engine.errors import BrokerProtocolError


class OrderSocket:
    """Follows the order messages and reconnects by itself.

    The address carries the access token: it is asked for at each connection (the token may be a new one by
    then) and never told to anyone. What happened while it was away is in the order book.
    """

    def __init__(  # noqa: PLR0913 (what it needs, no more)
        self,
        account: str,
        *,
        url: Callable[[], str],
        context: Callable[[], ssl.SSLContext] | None,
        route: Route | None,
        on_row: Callable[[Row], None],
        on_state: Callable[[bool, str], None],
        on_refused: Callable[[], None],
    ) -> None:
        self._account = account
        self._url = url
        self._context = context
        self._route = route
        self._on_row = on_row
        self._on_state = on_state
        self._on_refused = on_refused
        self._socket: WebSocket | None = None

    async def run(self) -> None:
        """Follow the socket until cancelled."""
        await follow(self._session, self._on_state)

    async def reconnect(self) -> None:
        """Close the connection, if there is one: the next is made with the token of then."""
        if self._socket is not None:
            await self._socket.close()

    async def _session(self, up: Callable[[], None]) -> str:
        try:
            socket = await WebSocket.connect(
                self._url(),
                on_message=self._take,
                context=self._context() if self._context else None,
                egress=self._route,
            )
        except HandshakeRefused as error:
            if error.status == 403:  # the token may be over: the REST API says so in words
                self._on_refused()
            raise
        self._socket = socket
        try:
            up()
            return await socket.closed()
        finally:
            self._socket = None
            await socket.close()

    def _take(self, message: bytes) -> None:
        if not message.startswith(b"{"):
            return  # binary: heartbeats and quotes
        try:
            told = read_json(message)
        except ValueError:
            raise BrokerProtocolError("a message that is no JSON", account=self._account) from None
        if isinstance(told, dict) and told.get("type") == "order":
            self._on_row(mapping.row(self._account, told.get("data")))
