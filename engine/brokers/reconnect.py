"""Keeping an order stream up: one loop for every broker's."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Awaitable, Callable
from time import monotonic

from engine.brokers.http import plain
from engine.errors import BrokerAuthError, BrokerError

_STEADY_S = 10.0
"""A stream that was up for so long starts again with the shortest pause."""


async def follow(
    session: Callable[[Callable[[], None]], Awaitable[str]],
    on_state: Callable[[bool, str], None],
    *,
    backoff_s: float = 0.25,
    backoff_max_s: float = 15.0,
) -> None:
    """Run ``session(up)`` again and again until cancelled, with growing, jittered pauses between.

    One run connects, logs in, calls ``up()``, and returns why it was lost (``WebSocket.closed()``) or
    raises. ``on_state(True, "")`` is called at ``up()``, ``on_state(False, reason)`` after each run.
    A ``retry_after`` the failure carries is obeyed.

    Raises:
        BrokerAuthError: the broker refuses the credentials; trying again would only lock the account.
    """
    failures = 0
    while True:
        since: list[float] = []

        def up(since: list[float] = since) -> None:
            since.append(monotonic())
            on_state(True, "")

        pause: float | None = None
        try:
            reason = await session(up)
        except BrokerAuthError:
            raise
        except (OSError, BrokerError, EOFError) as error:  # TimeoutError is an OSError
            reason = str(error) or ("no answer in time" if isinstance(error, TimeoutError) else "")
            pause = getattr(error, "retry_after", None)
            reason = reason or type(error).__name__
        if since and monotonic() - since[0] >= _STEADY_S:
            failures = 0
        failures += 1
        on_state(False, f"order stream: {plain(reason)}")
        ceiling = min(backoff_s * 2 ** min(failures - 1, 10), backoff_max_s)
        await asyncio.sleep(max(ceiling * random.uniform(0.5, 1.0), pause or 0.0))  # noqa: S311
