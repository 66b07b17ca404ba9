"""A lock on an open file that the system frees when its holder ends; never waits. Only the standard library is used."""

from __future__ import annotations

import os
import sys
from typing import Final

_BYTE: Final = 1 << 30  # Windows locks bytes: one far behind the content, which stays readable

if sys.platform == "win32":
    import msvcrt

    def try_lock(file: int) -> bool:
        """Take the lock of a file descriptor if nobody has it; say whether it was taken."""
        return _at_the_byte(file, msvcrt.LK_NBLCK)

    def unlock(file: int) -> None:
        """Give the lock back."""
        _at_the_byte(file, msvcrt.LK_UNLCK)

    def _at_the_byte(file: int, what: int) -> bool:
        position = os.lseek(file, 0, os.SEEK_CUR)
        os.lseek(file, _BYTE, os.SEEK_SET)
        try:
            msvcrt.locking(file, what, 1)
        except OSError:
            return False
        finally:
            os.lseek(file, position, os.SEEK_SET)
        return True

else:
    import fcntl

    def try_lock(file: int) -> bool:
        """Take the lock of a file descriptor if nobody has it; say whether it was taken."""
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
        return True

    def unlock(file: int) -> None:
        """Give the lock back."""
        fcntl.flock(file, fcntl.LOCK_UN)
