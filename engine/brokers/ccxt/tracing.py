"""Seeing a request leave through somebody else's HTTP client.

ccxt does not tell whether a byte of an order had left when something went wrong, and only that decides
whether it may be sent again. aiohttp's tracing tells: it runs in the task of the request, so a context
variable says whose request it is.
"""

from __future__ import annotations

from contextvars import ContextVar
from time import monotonic_ns
from typing import Any

from engine.model.order import Order

SENDING: ContextVar[Order | None] = ContextVar("SENDING", default=None)
"""The order the current task places."""


class TooLateError(Exception):
    """A connection came too late for the order that waited for it; not a byte left."""


def trace_config() -> Any:
    """Return what makes an aiohttp session stamp the orders it sends."""
    import aiohttp

    config = aiohttp.TraceConfig()
    config.on_request_headers_sent.append(_writing)
    config.on_request_chunk_sent.append(_writing)
    return config


async def _writing(_session: object, _context: object, _params: object) -> None:
    """Stamp what is about to be written; aiohttp calls this before it hands the bytes to the transport."""
    order = SENDING.get()
    if order is None:
        return
    now = monotonic_ns()
    if not order.first_byte_ns:
        if 0 < order.send_before_ns < now:
            raise TooLateError("it was too old by the time a connection was free")
        order.first_byte_ns = now
    order.last_byte_ns = now
