"""Requests over the order wire that are no orders: short look-ups after a fill, and cancels of further slices.

A fan-out of market orders asks for the executions of each: other look-ups share a few connections, where these
would wait for each other.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from engine.brokers.wire import Exchange
from engine.errors import BrokerUnavailable, OutcomeUnknown

Heard = Callable[[Exchange, int, bytes, bytes], None]


class Look(Exchange):
    """A read; ``answer`` becomes its status and body, or a ``BrokerError``."""

    __slots__ = ("_account", "_heard", "answer")

    def __init__(self, account: str, heard: Heard) -> None:
        super().__init__()
        self._account = account
        self._heard = heard
        self.answer: asyncio.Future[tuple[int, bytes]] = asyncio.get_running_loop().create_future()

    def on_reply(self, status: int, raw: bytes, body: bytes) -> None:
        """Hand the reply over."""
        self._heard(self, status, raw, body)
        if not self.answer.done():
            self.answer.set_result((status, body))

    def on_failure(self, left: bool, reason: str) -> None:
        """Hand the failure over."""
        kind = OutcomeUnknown if left else BrokerUnavailable
        if not self.answer.done():
            self.answer.set_exception(
                kind(f"account {self._account}: {reason}", account=self._account)
            )


class Aside(Exchange):
    """A cancel whose outcome the socket and the book tell."""

    __slots__ = ("_heard",)

    def __init__(self, heard: Heard) -> None:
        super().__init__()
        self._heard = heard

    def on_reply(self, status: int, raw: bytes, body: bytes) -> None:
        """Note what every reply tells."""
        self._heard(self, status, raw, body)

    def on_failure(self, left: bool, reason: str) -> None:
        """Leave it to the socket and the book."""
        del left, reason
