"""An engine in this process and on this loop: no sockets, the same rows at the same pace."""

from __future__ import annotations

import asyncio
import contextlib
import uuid
from typing import Any, Final, Protocol

import orjson

from engine.client import EngineListener, exact, tell
from engine.errors import CommandRefused, InvalidSignal
from engine.model.enums import ConnectionState
from engine.model.receipt import SignalReceipt
from engine.publisher import Publisher

_FRAME_S: Final = 1 / 60


class LocalEngine(Protocol):
    """What the client asks of the engine (``engine.trading_engine.TradingEngine``)."""

    publisher: Publisher

    async def handle_signal(self, body: bytes, *, origin: str = "api") -> SignalReceipt:
        """Take a signal."""
        ...

    async def handle_command(self, document: dict[str, Any]) -> dict[str, Any]:
        """Carry out a command."""
        ...

    async def signal_detail(self, key: str) -> dict[str, Any] | None:
        """Return one signal."""
        ...


class LocalClient:
    """``EngineClient`` straight on an engine."""

    def __init__(self, engine: LocalEngine) -> None:
        self._engine = engine
        self._task: asyncio.Task[None] | None = None

    async def start(self, listener: EngineListener) -> None:
        """Hand rows to the listener until ``stop``, at most once a frame (60 Hz)."""
        if self._task is None:
            self._task = asyncio.create_task(self._pump(listener), name="engine feed")

    async def stop(self) -> None:
        """Stop listening; the engine goes on. A second call does nothing."""
        task, self._task = self._task, None
        if task is not None:
            task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await task

    async def command(self, command: str, **fields: Any) -> dict[str, Any]:
        """Carry out an operator's command (``EngineClient.command``)."""
        document = {**fields, "id": uuid.uuid4().hex, "command": command}
        return await self._engine.handle_command(document)

    async def send_signal(self, document: dict[str, Any]) -> dict[str, Any]:
        """Send a signal (``EngineClient.send_signal``)."""
        body = orjson.dumps(document, default=exact)
        try:
            receipt = await self._engine.handle_signal(body, origin="desk")
        except InvalidSignal as error:
            raise CommandRefused(error.code, error.message, 400) from None
        if receipt.contradicted:
            key = f"{receipt.source}/{receipt.signal_id}"
            raise CommandRefused("DUPLICATE", f"{key} was sent before with another body", 409)
        return dict(receipt.as_dict())

    async def signal_detail(self, key: str) -> dict[str, Any]:
        """Return one signal (``EngineClient.signal_detail``)."""
        detail = await self._engine.signal_detail(key)
        if detail is None:
            raise CommandRefused("NOT_FOUND", f"no signal {key[:130]}", 404)
        return detail

    async def _pump(self, listener: EngineListener) -> None:
        subscription = self._engine.publisher.subscribe()
        try:
            tell(listener.on_link, ConnectionState.CONNECTED, "the engine runs in this process")
            tell(listener.on_snapshot, subscription.snapshot()["tables"])
            while True:
                await subscription.changed()
                batch = subscription.take()
                if batch is not None:
                    tell(listener.on_batch, batch["changes"], batch.get("removed", {}))
                await asyncio.sleep(_FRAME_S)
        finally:
            subscription.close()
