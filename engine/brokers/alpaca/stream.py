"""Alpaca's order stream: one WebSocket an account, followed until stopped."""

from __future__ import annotations

import asyncio
import contextlib
import random
import ssl
from collections.abc import Callable
from typing import Any

import orjson
from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import WebSocketException

from engine.brokers.alpaca import mapping
from engine.brokers.http import plain, read_json
from engine.errors import BrokerAuthError, BrokerError, BrokerProtocolError
from engine.model.messages import ExecutionReport

_AUTH_TIMEOUT_S = 10.0
_BACKOFF_S = 0.25
_BACKOFF_MAX_S = 15.0


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
        self._on_report = on_report
        self._on_state = on_state
        self._on_refused = on_refused

    async def run(self) -> None:
        """Follow the stream until cancelled, or until the credentials are refused."""
        failures = 0
        while True:
            reason = "the order stream was closed"
            try:
                async with connect(
                    self._url,
                    ssl=self._context() if self._context else None,
                    proxy=None,
                    compression=None,
                    open_timeout=_AUTH_TIMEOUT_S,
                    ping_interval=10,
                    ping_timeout=10,
                    close_timeout=1,
                    max_size=4 << 20,
                    user_agent_header=None,
                ) as socket:
                    async with asyncio.timeout(_AUTH_TIMEOUT_S):
                        await self._enter(socket)
                    failures = 0
                    self._on_state(True, "")
                    async for message in socket:
                        self._take(message)
            except BrokerAuthError as error:
                self._on_refused(str(error))
                return
            except (OSError, TimeoutError, WebSocketException, BrokerError, EOFError) as error:
                reason = f"order stream: {plain(str(error) or type(error).__name__)}"
            failures += 1
            self._on_state(False, reason)
            ceiling = min(_BACKOFF_S * 2 ** min(failures - 1, 10), _BACKOFF_MAX_S)
            await asyncio.sleep(ceiling * random.uniform(0.5, 1.0))  # noqa: S311 (spreads the load)

    async def _enter(self, socket: ClientConnection) -> None:
        """Log in and subscribe; events that come before the confirmation are taken, too."""
        await socket.send(self._login)
        data = await self._await(socket, "authorization")
        if data.get("status") != "authorized":
            raise BrokerAuthError(
                "the order stream refuses these credentials", account=self._account
            )
        await socket.send('{"action":"listen","data":{"streams":["trade_updates"]}}')
        data = await self._await(socket, "listening")
        if "trade_updates" not in (data.get("streams") or ()):
            raise BrokerProtocolError("trade_updates was not granted", account=self._account)

    async def _await(self, socket: ClientConnection, stream: str) -> dict[str, Any]:
        while True:
            message = await socket.recv()
            found = mapping.read_object(_bytes(message)) or {}
            if found.get("stream") == stream:
                data = found.get("data")
                return data if isinstance(data, dict) else {}
            self._take(message)

    def _take(self, message: str | bytes) -> None:
        raw = _bytes(message)
        found = mapping.read_object(raw)
        if found is None:
            raise BrokerProtocolError("a message that is no JSON object", account=self._account)
        if found.get("stream") != "trade_updates":
            return
        try:
            report = mapping.stream_report(self._account, found.get("data"))
        except BrokerProtocolError:
            # Once more with exact numbers. Still unreadable: reconnect, the engine then reconciles.
            with contextlib.suppress(ValueError):
                found = read_json(raw)
            report = mapping.stream_report(self._account, found.get("data"))
        self._on_report(report)


def _bytes(message: str | bytes) -> bytes:
    return message.encode("utf-8") if isinstance(message, str) else message
