"""Alpaca's order stream: one WebSocket an account, followed until stopped."""

from __future__ import annotations

import asyncio
import contextlib
import ssl
from collections.abc import Callable
from typing import Any

import orjson

from engine.brokers.alpaca import mapping
from engine.brokers.dial import Route
from engine.brokers.http import read_json
from engine.brokers.reading import read_object
from engine.brokers.reconnect import follow
from engine.brokers.websocket import HandshakeRefused, WebSocket
from engine.errors import BrokerAuthError, BrokerProtocolError
from engine.model.messages import ExecutionReport


class OrderStream:
    """Follows ``trade_updates`` and reconnects by itself.

    ``on_state(up, reason)`` is called after each connection made, lost or failed;
    ``on_refused(reason)`` once if the broker refuses the credentials, after which it stays down.
    """

    def __init__(  # noqa: PLR0913 (what it needs, no more)
        self,
        url: str,
        account: str,
        key_id: str,
        secret: str,
        *,
        context: Callable[[], ssl.SSLContext] | None,
        egress: Route | None = None,
        on_report: Callable[[ExecutionReport], None],
        on_state: Callable[[bool, str], None],
        on_refused: Callable[[str], None],
    ) -> None:
        self._url = url
        self._account = account
        self._login = orjson.dumps(
            {"action": "authenticate", "data": {"key_id": key_id, "secret_key": secret}}
        ).decode("utf-8")
        self._context = context
        self._egress = egress
        self._awaited: tuple[str, asyncio.Future[dict[str, Any]]] | None = None
        self._on_report = on_report
        self._on_state = on_state
        self._on_refused = on_refused

    async def run(self) -> None:
        """Follow the stream until cancelled, or until the credentials are refused."""
        try:
            await follow(self._session, self._on_state)
        except BrokerAuthError as error:
            self._on_refused(str(error))

    async def _session(self, up: Callable[[], None]) -> str:
        try:
            socket = await WebSocket.connect(
                self._url,
                on_message=self._take,
                context=self._context() if self._context else None,
                egress=self._egress,
            )
        except HandshakeRefused as error:
            if error.status in {401, 403}:
                raise self._refused() from None
            raise
        try:
            await self._enter(socket)
            up()
            return await socket.closed()
        finally:
            self._awaited = None
            await socket.close()

    async def _enter(self, socket: WebSocket) -> None:
        """Log in and subscribe; events that come before the confirmation are taken, too."""
        data = await self._ask(socket, "authorization", self._login)
        if data.get("status") != "authorized":
            raise self._refused()
        listen = '{"action":"listen","data":{"streams":["trade_updates"]}}'
        data = await self._ask(socket, "listening", listen)
        if "trade_updates" not in (data.get("streams") or ()):
            raise BrokerProtocolError("trade_updates was not granted", account=self._account)

    def _refused(self) -> BrokerAuthError:
        return BrokerAuthError("the order stream refuses these credentials", account=self._account)

    async def _ask(self, socket: WebSocket, stream: str, message: str) -> dict[str, Any]:
        answer: asyncio.Future[dict[str, Any]] = asyncio.get_running_loop().create_future()
        self._awaited = (stream, answer)
        socket.send(message)
        return await socket.reply(answer)

    def _take(self, raw: bytes) -> None:
        found = read_object(raw)
        if found is None:
            raise BrokerProtocolError("a message that is no JSON object", account=self._account)
        stream = found.get("stream")
        if stream != "trade_updates":
            self._answered(stream, found.get("data"))
            return
        try:
            report = mapping.stream_report(self._account, found.get("data"))
        except BrokerProtocolError:
            # Once more with exact numbers. Still unreadable: reconnect, the engine then reconciles.
            with contextlib.suppress(ValueError):
                found = read_json(raw)
            report = mapping.stream_report(self._account, found.get("data"))
        self._on_report(report)

    def _answered(self, stream: Any, data: Any) -> None:
        if self._awaited is not None and stream == self._awaited[0]:
            answer, self._awaited = self._awaited[1], None
            if not answer.done():
                answer.set_result(data if isinstance(data, dict) else {})
