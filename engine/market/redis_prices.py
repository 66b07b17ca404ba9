"""Prices from outside on Redis pub/sub: messages ``{"SYMBOL": "price"}``."""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import Callable
from decimal import Decimal
from typing import NoReturn

from redis.asyncio import Redis

from engine.model.enums import ConnectionState
from engine.model.identifiers import SYMBOL
from engine.model.numbers import parse_decimal

MAX_BYTES = 64 * 1024
FIRST_WAIT_S = 0.1
LONGEST_WAIT_S = 2.0
_POLL_S = 1.0

PriceSink = Callable[[str, Decimal], None]


class _Number(str):
    """A JSON number in its own notation, so that none passes through a float."""

    __slots__ = ()


def parse_prices(body: bytes) -> dict[str, Decimal]:
    """Read one message.

    Raises:
        ValueError: it is not one flat object of symbols and plain decimal numbers above zero
        (text or JSON
            numbers), or names a symbol twice; nothing of it counts.
    """
    if len(body) > MAX_BYTES:
        raise ValueError(f"{len(body)} bytes are more than {MAX_BYTES}")
    try:
        pairs = json.loads(
            body.decode("utf-8"),
            object_pairs_hook=tuple,  # an array is a list
            parse_float=_Number,
            parse_int=_Number,
            parse_constant=_refuse,
        )
    except RecursionError:
        raise ValueError("nested too deep") from None
    if not isinstance(pairs, tuple):
        raise ValueError("not an object")  # noqa: TRY004 (one kind of failure)
    prices: dict[str, Decimal] = {}
    for symbol, text in pairs:
        if not SYMBOL.fullmatch(symbol) or symbol in prices:
            raise ValueError(f"{symbol[:40]!r} is no symbol, or there twice")
        if not isinstance(text, str):
            raise ValueError(f"{symbol} has no number")  # noqa: TRY004 (one kind of failure)
        price = parse_decimal(text)
        if price <= 0:
            raise ValueError(f"{symbol} has a price of zero")
        prices[symbol] = price
    return prices


def _refuse(constant: str) -> NoReturn:
    raise ValueError(f"{constant} is no price")


class RedisPrices:
    """Subscribes to ``channel`` and calls ``sink(symbol, price)`` for every price, on the loop.

    A message that breaks a rule is dropped whole and counted in ``refused``. While the server is
    away it is tried again; pub/sub keeps nothing, so prices grow stale meanwhile, which the
    collar notices.
    """

    def __init__(self, client: Redis, sink: PriceSink, channel: str = "volley:prices") -> None:
        self._client = client
        self._sink = sink
        self._channel = channel
        self._task: asyncio.Task[None] | None = None
        self._status = (ConnectionState.DISCONNECTED, f"channel {channel} is not followed")
        self.received = 0
        self.refused = 0
        self._last_refusal = ""

    async def start(self) -> None:
        """Begin to follow the channel."""
        if self._task is None:
            self._status = (ConnectionState.CONNECTING, f"connecting to channel {self._channel}")
            self._task = asyncio.create_task(self._run(), name=f"prices {self._channel}")

    async def stop(self) -> None:
        """Stop; the client stays its owner's to close."""
        task, self._task = self._task, None
        if task is not None:
            task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await task
        self._status = (ConnectionState.DISCONNECTED, f"channel {self._channel} is not followed")

    def status(self) -> tuple[ConnectionState, str]:
        """Return the connection's state and a sentence."""
        state, text = self._status
        if self.refused:
            text += f"; {self.refused} messages were refused, last: {self._last_refusal}"
        return state, text

    async def _run(self) -> None:
        wait = FIRST_WAIT_S
        while True:
            try:
                async with self._client.pubsub() as subscription:
                    await subscription.subscribe(self._channel)
                    wait = FIRST_WAIT_S
                    while True:
                        await self._take(await subscription.get_message(timeout=_POLL_S))
            except Exception as error:  # noqa: BLE001  (whatever it is, prices must come again)
                text = f"channel {self._channel}: {type(error).__name__}: {str(error)[:200]}"
                self._status = (ConnectionState.DISCONNECTED, text)
                await asyncio.sleep(wait)
                wait = min(wait * 2, LONGEST_WAIT_S)

    async def _take(self, message: dict[str, object] | None) -> None:
        if message is None:
            return
        if message["type"] == "subscribe":
            self._status = (ConnectionState.CONNECTED, f"channel {self._channel} is followed")
        elif message["type"] == "message" and isinstance(body := message["data"], bytes):
            try:
                prices = parse_prices(body)
            except ValueError as error:
                self.refused += 1
                self._last_refusal = str(error)[:120]
                return
            self.received += len(prices)
            for symbol, price in prices.items():
                self._sink(symbol, price)
