"""An engine in another process: the feed over a WebSocket, commands over a warm HTTP connection.

Runs on any asyncio loop, qasync's included.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import random
import uuid
from collections.abc import Mapping
from typing import Any, Final
from urllib.parse import quote, urlsplit

import orjson
from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed, InvalidHandshake

from engine.client import EngineListener, exact, tell
from engine.client_http import CONNECT_S, Answer, HttpLines
from engine.errors import CommandRefused, ConfigError
from engine.model.enums import ConnectionState

log = logging.getLogger(__name__)

_UNAUTHORIZED: Final = 4401
_FIRST_WAIT_S: Final = 0.1
_LONGEST_WAIT_S: Final = 5.0
_NO_ENGINE: Final = "NO_ENGINE"
_SCHEMES: Final = {"ws": "ws", "http": "ws", "wss": "wss", "https": "wss"}


class _Gap(Exception):
    """A batch of the feed is missing."""


class RemoteClient:
    """``EngineClient`` over the network.

    ``url``: ``ws://HOST:PORT`` or ``http://HOST:PORT`` (``wss``/``https`` behind TLS).
    ``token``: the engine's bearer token.

    Raises:
        ConfigError: ``url`` is none of these.
    """

    def __init__(self, url: str, token: str) -> None:
        scheme, place = _place(url)
        self._feed_url = f"{scheme}://{place}/v1/feed"
        self._http_url = f"{'https' if scheme == 'wss' else 'http'}://{place}"
        self._headers = {"authorization": f"Bearer {token}"}
        parts = urlsplit(self._http_url)
        tls = parts.scheme == "https"
        self._lines = HttpLines(
            parts.hostname or "",
            parts.port or (443 if tls else 80),
            tls=tls,
            headers={**self._headers, "content-type": "application/json"},
        )
        self._task: asyncio.Task[None] | None = None
        self._batches = 0  # heard over this connection

    def __repr__(self) -> str:
        return f"RemoteClient({self._http_url!r})"

    async def start(self, listener: EngineListener) -> None:
        """Connect and keep connected until ``stop``; the listener hears the rest."""
        if self._task is None:
            self._task = asyncio.create_task(self._follow(listener), name="engine feed")

    async def stop(self) -> None:
        """Disconnect; nothing is left running. A second call does nothing."""
        task, self._task = self._task, None
        if task is not None:
            task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await task
        self._lines.close()

    async def command(self, command: str, **fields: Any) -> dict[str, Any]:
        """Carry out an operator's command (``EngineClient.command``)."""
        document = {**fields, "id": uuid.uuid4().hex, "command": command}
        return await self._call("POST", "/v1/commands", document)

    async def send_signal(self, document: dict[str, Any]) -> dict[str, Any]:
        """Send a signal (``EngineClient.send_signal``)."""
        return await self._call("POST", "/v1/signals", document)

    async def signal_detail(self, key: str) -> dict[str, Any]:
        """Return one signal (``EngineClient.signal_detail``)."""
        return await self._call("GET", f"/v1/signals/{quote(key, safe='/')}")

    async def _call(
        self, method: str, path: str, document: Mapping[str, Any] | None = None
    ) -> dict[str, Any]:
        body = None if document is None else orjson.dumps(document, default=exact)
        response = await self._answer(method, path, body)
        try:
            answer: dict[str, Any] = orjson.loads(response.content)
            if response.is_success:
                return answer
            raise CommandRefused(answer["code"], answer["message"], response.status)
        except (orjson.JSONDecodeError, KeyError, TypeError):
            message = f"{self._http_url} answers like no engine (HTTP {response.status})"
            raise CommandRefused(_NO_ENGINE, message, 502) from None

    async def _answer(self, method: str, path: str, body: bytes | None) -> Answer:
        # A warm connection may have been closed under us: a command's id and a signal's key make
        # a second try harmless. An engine that hangs is not asked twice.
        for last in (False, True):
            try:
                return await self._lines.request(method, path, body)
            except OSError as error:
                if not last and not isinstance(error, TimeoutError):
                    continue
                reason = str(error) or type(error).__name__
                message = f"the engine at {self._http_url} does not answer: {reason}"
                raise CommandRefused(_NO_ENGINE, message, 503) from None
        raise AssertionError  # the loop returns or raises

    async def _follow(self, listener: EngineListener) -> None:
        wait = _FIRST_WAIT_S
        while True:
            tell(listener.on_link, ConnectionState.CONNECTING, f"connecting to {self._http_url}")
            self._batches = 0
            state, text = await self._connection(listener)
            tell(listener.on_link, state, text)
            wait = _FIRST_WAIT_S if self._batches else min(wait * 2, _LONGEST_WAIT_S)
            await asyncio.sleep(wait * random.uniform(0.5, 1.0))  # noqa: S311 (spread, not secrecy)

    async def _connection(self, listener: EngineListener) -> tuple[ConnectionState, str]:
        """Follow the feed over one connection; return how it ended."""
        try:
            async with connect(
                self._feed_url,
                additional_headers=self._headers,
                open_timeout=CONNECT_S,
                close_timeout=1.0,
                ping_interval=5.0,
                ping_timeout=10.0,
                max_size=None,
                compression=None,
                proxy=None,
            ) as socket:
                await self._lines.warm()
                await self._read(socket, listener)
        except _Gap:
            return ConnectionState.DISCONNECTED, "a batch of the feed is missing"
        except ConnectionClosed as error:
            if error.rcvd is not None and error.rcvd.code == _UNAUTHORIZED:
                return ConnectionState.ERROR, "the engine refuses this token"
        except (OSError, InvalidHandshake) as error:  # TimeoutError is an OSError
            reason = str(error) or type(error).__name__
            return ConnectionState.DISCONNECTED, f"cannot reach {self._http_url}: {reason}"
        except (orjson.JSONDecodeError, KeyError, TypeError):
            return ConnectionState.ERROR, f"{self._http_url} speaks no feed of this version"
        return ConnectionState.DISCONNECTED, "the engine closed the feed"

    async def _read(self, socket: ClientConnection, listener: EngineListener) -> None:
        expected = 0
        async for message in socket:
            content = orjson.loads(message)
            if content["seq"] != expected:
                raise _Gap
            expected += 1
            self._batches += 1
            if content["type"] == "snapshot":
                tell(listener.on_link, ConnectionState.CONNECTED, f"connected to {self._http_url}")
                tell(listener.on_snapshot, content["tables"])
            else:
                tell(listener.on_batch, content["changes"], content.get("removed", {}))


def _place(url: str) -> tuple[str, str]:
    """Return the feed's scheme and ``host:port`` of what a person typed."""
    parts = urlsplit(url)
    try:
        good = parts.scheme in _SCHEMES and parts.hostname and parts.port != 0
    except ValueError:
        good = False
    if not good or parts.username or parts.path not in {"", "/", "/v1/feed"}:
        raise ConfigError(f"--connect {url[:80]!r}: expected ws://HOST:PORT or wss://HOST:PORT")
    return _SCHEMES[parts.scheme], parts.netloc
