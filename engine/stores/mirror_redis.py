"""Live state mirrored to Redis, for other programs to read.

Hashes ``volley:position:{account}`` (field: symbol) and ``volley:order:{account}`` (field:
ClOrdID) hold one JSON row a field; pub/sub ``volley:events`` carries ``{"kind", "row"}``. Orders
that are over stay until their account has more than ``KEPT_ORDERS``; then the oldest of them go.
Nothing here is the only copy of anything.
"""

from __future__ import annotations

import secrets
from collections import deque
from collections.abc import Callable, Iterable
from decimal import Decimal
from itertools import islice
from typing import Any

import orjson
from redis.asyncio import Redis

from engine.model.enums import TERMINAL, ConnectionState
from engine.stores.redis_client import open_redis
from engine.stores.write_behind import WriteBehind

FLUSH_S = 0.02
IDLE_S = 1.0
KEPT_ORDERS = 500
KEPT_EVENTS = 10_000
BATCH = 500
CHANNEL = "volley:events"
_MARK_S = 86_400

Row = dict[str, Any]


class RedisMirror:
    """``Mirror`` over one Redis server.

    Only the newest row of a key is written, many to a round trip. While the server is away rows
    gather (one a key) and events up to ``KEPT_EVENTS``; whenever it may have lost something (an
    error, a restart, a flush by somebody) everything known is written again. An account's
    hash is emptied before its first row is written: after a start, note all its working orders
    and open positions.
    """

    def __init__(self, url: str) -> None:
        self._client: Redis = open_redis(url)
        self._known: dict[str, dict[str, Row]] = {}  # hash key → field → newest row
        self._pending: dict[tuple[str, str], Row | None] = {}  # None: the field goes
        self._events: deque[tuple[str, Row]] = deque(maxlen=KEPT_EVENTS)
        self._lost_events = 0
        # A key that only this mirror sets: where it is missing, so is everything else.
        self._mark = f"volley:mirror:{secrets.token_hex(8)}"
        self._rewrite = True
        self._stale: set[str] = set()  # hashes that may hold fields of another time: written anew
        self._behind = WriteBehind("Redis mirror", self._flush, delay_s=FLUSH_S, idle_s=IDLE_S)

    async def open(self) -> None:
        """Start mirroring; a server that is away is waited for in the background."""
        self._behind.start()

    async def close(self) -> None:
        """Write what is pending within two seconds, and disconnect."""
        await self._behind.close()
        await self._client.aclose()

    def order(self, account: str, cl_ord_id: str, row: Row) -> None:
        """Note an order's newest row."""
        key = f"volley:order:{account}"
        orders = self._rows(key)
        orders[cl_ord_id] = row
        self._pending[key, cl_ord_id] = row
        if len(orders) > KEPT_ORDERS:
            over = next((i for i, o in orders.items() if o.get("status") in TERMINAL), None)
            if over is not None:
                del orders[over]
                self._pending[key, over] = None
        self._behind.wake()

    def position(self, account: str, symbol: str, row: Row) -> None:
        """Note a position's newest row."""
        key = f"volley:position:{account}"
        self._rows(key)[symbol] = row
        self._pending[key, symbol] = row
        self._behind.wake()

    def event(self, kind: str, row: Row) -> None:
        """Publish an event; lost if nobody listens, like everything on pub/sub."""
        if len(self._events) == KEPT_EVENTS:
            self._lost_events += 1
        self._events.append((kind, row))
        self._behind.wake()

    def status(self) -> tuple[ConnectionState, str]:
        """Return the connection's state and a sentence."""
        state, text = self._behind.status()
        if self._lost_events:
            text += f"; {self._lost_events} events were lost while it was away"
        return state, text

    def _rows(self, key: str) -> dict[str, Row]:
        if key not in self._known:
            self._known[key] = {}
            self._stale.add(key)
        return self._known[key]

    async def _flush(self) -> None:
        try:
            await self._mark_or_rewrite()
            await self._in_batches(self._take_rows)
            await self._in_batches(self._take_events)
        except BaseException:
            self._rewrite = True
            raise

    async def _mark_or_rewrite(self) -> None:
        marked = await self._client.set(self._mark, b"1", ex=_MARK_S, get=True)
        if marked is not None and not self._rewrite:
            return
        self._pending = {
            (key, field): row for key, rows in self._known.items() for field, row in rows.items()
        }
        self._stale.update(self._known)
        self._rewrite = False

    async def _in_batches(self, take: Callable[[Any], int]) -> None:
        """Send pipelines of ``BATCH`` rows at most until ``take`` puts nothing into one."""
        while True:
            async with self._client.pipeline(transaction=False) as pipeline:
                if not take(pipeline):
                    return
                await pipeline.execute()

    def _take_rows(self, pipeline: Any) -> int:
        # What is taken here and fails on the way is known, and written again by the rewrite.
        places = list(islice(self._pending, BATCH))
        written: dict[str, dict[str, bytes]] = {}
        gone: dict[str, list[str]] = {}
        for key, field in places:
            row = self._pending.pop((key, field))
            if row is None:
                gone.setdefault(key, []).append(field)
            else:
                written.setdefault(key, {})[field] = _json(row)
        for key, fields in written.items():
            if key in self._stale:
                self._stale.discard(key)
                pipeline.delete(key)
            pipeline.hset(key, mapping=fields)
        for key, names in gone.items():
            pipeline.hdel(key, *names)
        return len(places)

    def _take_events(self, pipeline: Any) -> int:
        taken = min(len(self._events), BATCH)
        for _ in range(taken):
            kind, row = self._events.popleft()
            pipeline.publish(CHANNEL, _json({"kind": kind, "row": row}))
        return taken


def _json(row: Row) -> bytes:
    return orjson.dumps(row, default=_text, option=orjson.OPT_NON_STR_KEYS)


def _text(value: object) -> object:
    if isinstance(value, Decimal):
        return format(value, "f")
    return list(value) if isinstance(value, Iterable) else str(value)
