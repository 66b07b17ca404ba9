"""Signals from a Redis stream through a consumer group: nothing acknowledged before it is durable.

A group delivers at least once: what was read and not acknowledged comes again, to this consumer
after a restart, to another after its reader died. The engine's own memory of (source, id) makes
that once.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Awaitable, Callable, Iterable, Mapping
from dataclasses import dataclass
from itertools import chain
from typing import Any

import orjson
from redis.asyncio import Redis
from redis.exceptions import ResponseError

from engine import failpoints
from engine.errors import InvalidSignal, StoreError
from engine.model.enums import ConnectionState

FIELD = b"signal"
REFUSED_KEPT = 100_000
FIRST_WAIT_S = 0.1
LONGEST_WAIT_S = 2.0
STOP_S = 5.0
_ORIGINAL_BYTES = 8 * 1024

Handler = Callable[[bytes], Awaitable[object]]
Entry = tuple[bytes, Mapping[bytes, bytes]]


@dataclass(frozen=True, slots=True)
class StreamSettings:
    """How a group is read.

    ``count``: entries a read, handled together. ``block_s``: how long a read waits for the
    first; must lie below the client's own time limit. ``retry_s``: pause before an entry that
    failed is handled again. ``claim_idle_s``: an entry another consumer has held that long is
    taken over; must exceed the longest handling. ``max_deliveries``: an entry that still fails
    then is put aside.
    """

    count: int = 100
    block_s: float = 0.5
    retry_s: float = 0.25
    claim_idle_s: float = 30.0
    max_deliveries: int = 3


class RedisSignals:
    """Reads ``stream`` as ``consumer`` of ``group`` and hands each ``signal`` field to ``handler``.

    ``handler`` returns once the signal is durable; then the entry is acknowledged, all of a
    batch in one round trip. ``InvalidSignal`` puts the entry on ``<stream>:refused`` (``code``,
    ``field``, ``message``, ``original``, ``entry``) and acknowledges it. ``StoreError`` leaves
    it pending until the store works.
    Anything else is our own failure: tried again, and after ``max_deliveries`` refused as
    ``INTERNAL``.
    The group begins at ``0``, never at ``$``: what came before it, or before a flush, is not
    skipped.
    """

    def __init__(
        self,
        client: Redis,
        handler: Handler,
        *,
        stream: str = "volley:signals",
        group: str = "exec:0",
        consumer: str,
        settings: StreamSettings | None = None,
    ) -> None:
        self._client = client
        self._handler = handler
        self._stream = stream
        self._refused_stream = f"{stream}:refused"
        self._group = group
        self._consumer = consumer
        self._settings = settings or StreamSettings()
        self._task: asyncio.Task[None] | None = None
        self._stopping = False
        self._status = (ConnectionState.DISCONNECTED, f"stream {stream} is not read")
        self._own_due = (
            0.0  # monotonic seconds: when to read what we already hold, inf for not at all
        )
        self._claim_due = 0.0
        self.acknowledged = 0
        self.refused = 0
        self.failed = 0

    async def start(self) -> None:
        """Begin to read; a server that is away is waited for in the background."""
        if self._task is None:
            self._stopping = False
            self._status = (ConnectionState.CONNECTING, f"connecting to stream {self._stream}")
            self._task = asyncio.create_task(self._run(), name=f"signals {self._stream}")

    async def stop(self) -> None:
        """Finish the batch in hand and stop; what is not acknowledged comes at the next start."""
        task, self._task = self._task, None
        if task is None:
            return
        self._stopping = True
        await asyncio.wait({task}, timeout=STOP_S)
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await task
        self._status = (ConnectionState.DISCONNECTED, f"stream {self._stream} is not read")

    def status(self) -> tuple[ConnectionState, str]:
        """Return the connection's state and a sentence."""
        return self._status

    async def _run(self) -> None:
        wait = FIRST_WAIT_S
        while not self._stopping:
            try:
                await self._ensure_group()
                self._own_due = self._claim_due = 0.0
                while not self._stopping:
                    await self._step()
                    wait = FIRST_WAIT_S
                    text = f"stream {self._stream} is read as {self._group}"
                    self._status = (ConnectionState.CONNECTED, text)
            except Exception as error:  # noqa: BLE001  (whatever it is, signals must be read again)
                if not _group_is_gone(error):
                    self._status = (_state_for(error), _sentence(self._stream, error))
                    await asyncio.sleep(wait)
                    wait = min(wait * 2, LONGEST_WAIT_S)

    async def _ensure_group(self) -> None:
        try:
            await self._client.xgroup_create(self._stream, self._group, id="0", mkstream=True)
        except ResponseError as error:
            if "BUSYGROUP" not in str(error):
                raise

    async def _step(self) -> None:
        now = time.monotonic()
        if now >= self._own_due:  # first of all at a start: what we held when we ended
            self._own_due = float("inf")
            await self._read_own()
        if now >= self._claim_due:
            self._claim_due = now + self._settings.claim_idle_s / 3
            await self._claim_from_the_dead()
        wait_s = min(self._settings.block_s, max(self._own_due - time.monotonic(), 0.001))
        await self._handle(await self._read(b">", block_s=wait_s))

    async def _read(self, after: bytes, block_s: float | None = None) -> list[Entry]:
        reply: Any = await self._client.xreadgroup(
            self._group,
            self._consumer,
            {self._stream: after},
            count=self._settings.count,
            block=None if block_s is None else max(1, int(block_s * 1000)),
        )
        return _entries(reply)

    async def _read_own(self) -> None:
        after = b"0"
        while entries := await self._read(after):
            await self._handle(entries)
            after = entries[-1][0]

    async def _claim_from_the_dead(self) -> None:
        idle_ms = int(self._settings.claim_idle_s * 1000)
        start = b"0-0"
        while True:
            reply: Any = await self._client.xautoclaim(
                self._stream, self._group, self._consumer, idle_ms, start, self._settings.count
            )
            await self._handle([(entry_id, fields or {}) for entry_id, fields in reply[1]])
            start = reply[0]
            if start == b"0-0":
                return

    async def _handle(self, entries: list[Entry]) -> None:
        if not entries:
            return
        outcomes = await asyncio.gather(*(self._outcome(entry) for entry in entries))
        done = [entry for entry, outcome in zip(entries, outcomes, strict=True) if outcome is None]
        refused = [
            (entry, outcome)
            for entry, outcome in zip(entries, outcomes, strict=True)
            if isinstance(outcome, InvalidSignal)
        ]
        failed = {
            entry[0]: entry
            for entry, outcome in zip(entries, outcomes, strict=True)
            if not (outcome is None or isinstance(outcome, InvalidSignal | StoreError))
        }
        if failed:
            self._own_due = time.monotonic() + self._settings.retry_s
            refused += [(entry, _INTERNAL) for entry in await self._hopeless(failed)]
        await self._acknowledge(done, refused)
        for outcome in outcomes:
            if isinstance(outcome, StoreError):  # the whole engine's trouble, not the entry's: wait
                raise outcome

    async def _outcome(self, entry: Entry) -> Exception | None:
        """Return ``None`` for done, else what went wrong; one entry's failure is not another's."""
        body = entry[1].get(FIELD)
        if body is None:
            if not entry[1]:  # deleted or trimmed away while it was pending: nothing is left to do
                return None
            return InvalidSignal("MISSING", "signal", "the stream entry has no field named signal")
        if failpoints.ARMED:
            failpoints.hit("redis.taken.before")
        try:
            await self._handler(body)
        except Exception as error:  # noqa: BLE001  (judged by the caller)
            return error
        if failpoints.ARMED:
            failpoints.hit("redis.taken.after")
        return None

    async def _hopeless(self, failed: dict[bytes, Entry]) -> list[Entry]:
        """Return those of ``failed`` delivered too often; the server counts, over restarts too."""
        rows: Any = await self._client.xpending_range(
            self._stream,
            self._group,
            min(failed, key=_order),
            max(failed, key=_order),
            10_000,
            self._consumer,
        )
        most = self._settings.max_deliveries
        return [
            failed[row["message_id"]]
            for row in rows
            if row["message_id"] in failed and row["times_delivered"] >= most
        ]

    async def _acknowledge(
        self, done: list[Entry], refused: list[tuple[Entry, InvalidSignal]]
    ) -> None:
        ids = [entry_id for entry_id, _ in done] + [entry_id for (entry_id, _), _ in refused]
        if not ids:
            return
        pipeline: Any  # its commands are queued here, not awaited
        async with self._client.pipeline(transaction=bool(refused)) as pipeline:
            for (entry_id, fields), reason in refused:
                row = {**reason.as_dict(), "original": _original(fields), "entry": entry_id}
                pipeline.xadd(self._refused_stream, row, maxlen=REFUSED_KEPT)
            pipeline.xack(self._stream, self._group, *ids)
            if failpoints.ARMED:
                failpoints.hit("redis.ack.before")
            await pipeline.execute()
            if failpoints.ARMED:
                failpoints.hit("redis.ack.after")
        self.acknowledged += len(ids)
        self.refused += len(refused)
        self.failed += sum(reason is _INTERNAL for _, reason in refused)


_INTERNAL = InvalidSignal(
    "INTERNAL", "", "Volley failed to handle this signal several times; the log has the details"
)


def _order(entry_id: bytes) -> tuple[int, int]:
    milliseconds, _, number = entry_id.partition(b"-")
    return int(milliseconds), int(number)


def _entries(reply: Any) -> list[Entry]:
    """Flatten the reply of one stream; RESP2 and RESP3 wrap it differently."""
    if not reply:
        return []
    batches: Iterable[Any] = reply.values() if isinstance(reply, dict) else (b[1] for b in reply)
    entries: list[Entry] = []
    for batch in batches:
        nested = batch and isinstance(batch[0], list)  # RESP3: a list of lists of entries
        flat = chain.from_iterable(batch) if nested else batch
        entries.extend((entry_id, fields or {}) for entry_id, fields in flat)
    return entries


def _original(fields: Mapping[bytes, bytes]) -> bytes:
    if FIELD in fields:
        return fields[FIELD][:_ORIGINAL_BYTES]
    readable = {k.decode(errors="replace"): v.decode(errors="replace") for k, v in fields.items()}
    return orjson.dumps(readable)[:_ORIGINAL_BYTES]


def _group_is_gone(error: Exception) -> bool:
    return isinstance(error, ResponseError) and str(error).startswith("NOGROUP")


def _state_for(error: Exception) -> ConnectionState:
    # A ResponseError is an answer: wrong type, no permission, read-only, out of memory.
    wrong = isinstance(error, ResponseError | StoreError)
    return ConnectionState.ERROR if wrong else ConnectionState.DISCONNECTED


def _sentence(stream: str, error: Exception) -> str:
    if isinstance(error, StoreError):
        return f"stream {stream} waits: {error}"
    return f"stream {stream} cannot be read: {type(error).__name__}: {str(error)[:200]}"
