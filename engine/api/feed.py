"""The feed: one WebSocket per reader, a snapshot and then conflated batches.

What a reader costs is bounded by the number of rows, not by how slow it is: nothing is made while
the socket is full, and the newest row of each key is made when it has room again.
"""

from __future__ import annotations

import asyncio
import json
import logging
import time
from typing import Any, Final

import orjson
from starlette.websockets import WebSocket, WebSocketDisconnect, WebSocketState

from engine.api.auth import Tokens, bearer
from engine.publisher import Publisher

log = logging.getLogger(__name__)

UNAUTHORIZED: Final = 4401
TOKEN_WITHIN_S: Final = 3.0
_BATCH_EVERY_S: Final = 1 / 30
_SLICE: Final = 500  # rows made in one go; the loop has orders to send
_STALLED_AFTER_S: Final = 60.0


class Feed:
    """Serves ``/v1/feed``."""

    def __init__(self, publisher: Publisher, tokens: Tokens) -> None:
        self._publisher = publisher
        self._tokens = tokens

    async def serve(self, socket: WebSocket) -> None:
        """Serve one reader until it leaves or stalls."""
        await socket.accept()
        try:
            if not await self._admitted(socket):
                await socket.close(UNAUTHORIZED, "send the engine's token")
                return
            await self._stream(socket)
        except (WebSocketDisconnect, TimeoutError):
            log.debug("a reader of the feed is gone")
        except RuntimeError:
            # Starlette's word for a send after the peer has left.
            if socket.application_state is WebSocketState.CONNECTED:
                raise

    async def _admitted(self, socket: WebSocket) -> bool:
        if "authorization" in socket.headers:
            return self._tokens.whose(bearer(socket.scope["headers"])) is not None
        try:
            async with asyncio.timeout(TOKEN_WITHIN_S):
                message = await socket.receive_text()
        except (TimeoutError, KeyError):
            return False
        try:
            given = json.loads(message)["token"].encode()
        except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
            return False
        return self._tokens.whose(given) is not None

    async def _stream(self, socket: WebSocket) -> None:
        sender = asyncio.create_task(self._send(socket), name="feed sender")
        reader = asyncio.create_task(self._until_gone(socket), name="feed reader")
        try:
            await asyncio.wait({sender, reader}, return_when=asyncio.FIRST_COMPLETED)
        finally:
            sender.cancel()
            reader.cancel()
            results = await asyncio.gather(sender, reader, return_exceptions=True)
        for result in results:
            if isinstance(result, Exception):
                raise result

    async def _send(self, socket: WebSocket) -> None:
        subscription = self._publisher.subscribe()
        try:
            await self._say(socket, subscription.snapshot())
            while True:
                await subscription.changed()
                began = time.monotonic()
                while (batch := subscription.take(_SLICE)) is not None:
                    await self._say(socket, batch)
                    if _rows(batch) < _SLICE:
                        break  # what came meanwhile waits its turn
                    await asyncio.sleep(0)
                await asyncio.sleep(max(0.0, _BATCH_EVERY_S - (time.monotonic() - began)))
        finally:
            subscription.close()

    @staticmethod
    async def _say(socket: WebSocket, message: dict[str, Any]) -> None:
        async with asyncio.timeout(_STALLED_AFTER_S):
            await socket.send_text(orjson.dumps(message).decode())

    @staticmethod
    async def _until_gone(socket: WebSocket) -> None:
        while True:  # what a reader says is not listened to
            message = await socket.receive()
            if message["type"] == "websocket.disconnect":
                return


def _rows(batch: dict[str, Any]) -> int:
    groups = [*batch["changes"].values(), *batch.get("removed", {}).values()]
    return sum(len(group) for group in groups)
