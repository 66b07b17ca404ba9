"""Space kept free for the journal's closing records, given up when the disk is full (failure F32)."""

from __future__ import annotations

import contextlib
import errno
import logging
import os
import sqlite3
from pathlib import Path
from typing import Final

log = logging.getLogger(__name__)

RESERVE_BYTES: Final = 8 << 20  # the last states of some ten thousand orders, with their audit rows
NAME: Final = "reserve"


def hold(directory: Path) -> None:
    """Make sure the reserve is there in full; where there is no room for it, say so and go on without."""
    path = directory / NAME
    try:
        if path.exists() and path.stat().st_size == RESERVE_BYTES:
            return
        with open(os.open(path, os.O_CREAT | os.O_TRUNC | os.O_WRONLY, 0o600), "wb") as file:
            if hasattr(os, "posix_fallocate"):
                os.posix_fallocate(file.fileno(), 0, RESERVE_BYTES)
            else:
                file.write(bytes(RESERVE_BYTES))
    except OSError as error:
        release(directory)
        log.warning("no room for the reserve of %d bytes: %s", RESERVE_BYTES, error)


def release(directory: Path) -> bool:
    """Give the space back; say whether there was any."""
    with contextlib.suppress(OSError):
        (directory / NAME).unlink()
        return True
    return False


def is_full(error: BaseException) -> bool:
    """Say whether an error means that the disk is full."""
    if isinstance(error, sqlite3.Error):
        return getattr(error, "sqlite_errorcode", None) == sqlite3.SQLITE_FULL
    return isinstance(error, OSError) and error.errno in {errno.ENOSPC, errno.EDQUOT}
