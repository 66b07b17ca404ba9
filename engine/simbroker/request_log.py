"""The venue's own account of everything it was sent: the truth that tests compare with."""

from __future__ import annotations

from asyncio import Handle, get_running_loop
from collections import deque
from datetime import UTC, datetime
from io import BufferedWriter
from pathlib import Path
from typing import Any, NamedTuple

import orjson

_LINE = orjson.OPT_APPEND_NEWLINE | orjson.OPT_UTC_Z


class LogRow(NamedTuple):
    """One request: ``status`` is what was answered, 0 for nothing; never holds a secret."""

    n: int
    monotonic_ns: int
    at: datetime
    key_id: str
    method: str
    path: str
    client_order_id: str
    body: Any
    status: int
    fault: str

    def as_dict(self) -> dict[str, Any]:
        """Return the row as orjson takes it."""
        return self._asdict()


class RequestLog:
    """Numbers every request from 1; rows go to memory at once, to the file once per loop turn."""

    def __init__(self, path: Path | None, keep: int) -> None:
        self.total = 0
        self._rows: deque[LogRow] = deque(maxlen=keep)
        self._file: BufferedWriter | None = None
        self._pending: list[LogRow] = []
        self._flush_handle: Handle | None = None
        if path is not None:
            path.parent.mkdir(parents=True, exist_ok=True)
            self._file = path.open("ab")

    def add(  # noqa: PLR0913 (a row has this many facts)
        self,
        arrived_ns: int,
        key_id: str,
        method: str,
        path: str,
        *,
        client_order_id: str = "",
        body: Any = None,
        status: int = 0,
        fault: str = "",
    ) -> None:
        """Note one request that arrived at ``arrived_ns`` (monotonic)."""
        self.total += 1
        row = LogRow(
            self.total,
            arrived_ns,
            datetime.now(UTC),
            key_id,
            method,
            path,
            client_order_id,
            body,
            status,
            fault,
        )
        self._rows.append(row)
        if self._file is not None:
            self._pending.append(row)
            if self._flush_handle is None:
                self._flush_handle = get_running_loop().call_soon(self._flush)

    def rows(self, after: int = 0) -> list[LogRow]:
        """Return the rows in memory with a number above ``after``."""
        newest: list[LogRow] = []
        for row in reversed(self._rows):
            if row.n <= after:
                break
            newest.append(row)
        newest.reverse()
        return newest

    def close(self) -> None:
        """Write what is pending and close the file."""
        if self._flush_handle is not None:
            self._flush_handle.cancel()
        self._flush()
        if self._file is not None:
            self._file.close()
            self._file = None

    def _flush(self) -> None:
        self._flush_handle = None
        if self._file is None or not self._pending:
            return
        self._file.write(b"".join(orjson.dumps(r.as_dict(), option=_LINE) for r in self._pending))
        self._file.flush()
        self._pending.clear()
