"""Exits sent beside the engine: ``HOME/kill-exits``, those of ``main.py kill --flatten``, so that nobody cancels them.

No journal has a row for them. Each is noted here, durably, before its first byte; whoever cancels by a broker's list,
or all that works in one request, looks here first. A line counts for as long as the halt stands it was sent under.

One process at a time closes positions: it holds a lock on the file, which the system frees when it ends.
"""

from __future__ import annotations

import contextlib
import errno
import json
import os
import threading
from collections.abc import Iterable
from pathlib import Path
from typing import Any, Final

from engine.file_lock import try_lock
from engine.kill_latch import KillLatch

FILE: Final = "kill-exits"
_FIELDS: Final = ("id", "account", "symbol", "scope", "since")

Row = dict[str, str]


class KillExits:
    """The file beside a home's latch. It is read again when it has changed."""

    def __init__(self, shared: KillLatch) -> None:
        self._shared = shared
        self._path = shared.path.with_name(FILE)
        self._stamp: tuple[int, int, int] | None = None
        self._rows: list[Row] = []
        self._file: int | None = None
        self._writing = threading.Lock()

    # ---- whoever cancels -----------------------------------------------------------------------------------------

    def of(self, account: str = "", symbol: str = "") -> set[str]:
        """Return the ClOrdIDs sent under a halt that stands: an account's, or all; a symbol's, or all."""
        self._look()
        found = [
            row
            for row in self._rows
            if account in {"", row["account"]} and symbol in {"", row["symbol"]}
        ]
        if not found:
            return set()
        standing = {(record["scope"], record["at"]) for record in self._shared.halts()}
        return {row["id"] for row in found if (row["scope"], row["since"]) in standing}

    def _look(self) -> None:
        try:
            found = os.stat(self._path)
            stamp = found.st_ino, found.st_mtime_ns, found.st_size
            if stamp != self._stamp:
                self._rows = _read(self._path)
                self._stamp = stamp
        except FileNotFoundError:
            self._rows, self._stamp = [], None
        except OSError:
            return  # what was read before still counts

    # ---- whoever closes ------------------------------------------------------------------------------------------

    def try_turn(self) -> bool:
        """Begin to close positions; ``False``: another process is at it.

        Raises:
            OSError: the file cannot be made.
        """
        flags = os.O_RDWR | os.O_CREAT | os.O_APPEND
        flags |= getattr(os, "O_BINARY", 0) | getattr(os, "O_CLOEXEC", 0)
        file = os.open(self._path, flags, 0o600)
        try:
            mine = try_lock(file)
        except OSError:
            os.close(file)
            raise
        if not mine:
            os.close(file)
            return False
        self._file = file
        if not self.of():
            with contextlib.suppress(OSError):
                os.ftruncate(file, 0)  # those of halts that were lifted
        return True

    def note(self, rows: Iterable[Row]) -> None:
        """Write down what is about to be sent; durable when this returns.

        Raises:
            OSError: it is not.
        """
        if self._file is None:
            raise OSError(errno.EBADF, "it could not be opened")
        # A line that a crash cut short ends before the next one.
        text = "".join(f"\n{json.dumps(row)}\n" for row in rows)
        with self._writing:
            if os.write(self._file, text.encode("ascii")) != len(text):
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            os.fsync(self._file)

    def close(self) -> None:
        """Let the next one close positions."""
        if self._file is not None:
            os.close(self._file)
            self._file = None


def _read(path: Path) -> list[Row]:
    """Return the whole lines; the last one may have been cut short, and then nothing was sent for it."""
    rows = []
    for line in path.read_text("utf-8", "replace").splitlines():
        with contextlib.suppress(ValueError):
            row: Any = json.loads(line)
            if isinstance(row, dict) and all(isinstance(row.get(name), str) for name in _FIELDS):
                rows.append(row)
    return rows
