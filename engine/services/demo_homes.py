"""Throw-away homes of demos that were killed: found in the temporary directory and removed."""

from __future__ import annotations

import contextlib
import os
import shutil
import tempfile
import time
from pathlib import Path
from typing import Final

from engine.home import lock_holder

PREFIX: Final = "volley-demo-"
DESK_FILE: Final = (
    "desk.pid"  # the desk that made the home, so that one between two engines keeps it
)
_YOUNG_S: Final = 60.0  # may be about to start
_OLD_S: Final = 86_400.0  # where a process id cannot be asked for (Windows)


def remove_stale_homes(directory: Path | None = None) -> list[Path]:
    """Remove the homes of demos that are no more; returns them. Those of others, or in use, stay."""
    removed = []
    for home in (directory or Path(tempfile.gettempdir())).glob(PREFIX + "*"):
        with contextlib.suppress(OSError):  # another demo may be cleaning as well
            if _is_stale(home):
                shutil.rmtree(home, ignore_errors=True)
                removed.append(home)
    return removed


def _is_stale(home: Path) -> bool:
    status = home.lstat()
    if home.is_symlink() or not home.is_dir():
        return False
    if hasattr(os, "getuid") and status.st_uid != os.getuid():
        return False
    age = time.time() - status.st_mtime
    if age < (_YOUNG_S if os.name == "posix" else _OLD_S):
        return False
    lock = home / "lock"
    if lock.exists() and lock_holder(lock) is not None:
        return False
    return not _desk_lives(home)


def _desk_lives(home: Path) -> bool:
    try:
        pid = int((home / DESK_FILE).read_text("ascii"))
        if os.name == "posix":
            os.kill(pid, 0)
    except (OSError, ValueError):
        return False
    return os.name == "posix"
