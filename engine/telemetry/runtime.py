"""Settings of the interpreter that an engine's process runs with."""

from __future__ import annotations

import gc
import sys


def settle_garbage_collection() -> None:
    """Keep the collector out of the way of orders.

    What exists once the engine is built lives as long as it does: it is set aside (``gc.freeze``) and never looked at
    again. Orders and reports are freed by reference counting; cycles are rare, so full collections may be too.
    """
    gc.collect()
    gc.freeze()
    gc.set_threshold(50_000, 20, 50)


def forbid_core_dumps() -> None:
    """Leave no image of this process's memory on the disk when it crashes: it holds credentials."""
    if sys.platform != "win32":
        import resource

        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))


def allow_open_files(wanted: int = 0) -> int:
    """Raise this process's limit of open files as far as it may go itself, and return the limit.

    Every account holds a connection or two and a stream; macOS starts a program with 256, many a Linux with 1024.
    ``wanted``: more than this are not asked for (0: all there are). Windows has no such limit: a very large number.
    """
    if sys.platform == "win32":
        return 1 << 30
    import resource

    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    most = 1 << 20 if hard == resource.RLIM_INFINITY else hard  # macOS refuses "infinite" itself
    target = min(most, wanted) if wanted else most
    if soft == resource.RLIM_INFINITY or soft >= target:
        return most if soft == resource.RLIM_INFINITY else soft
    for limit in (target, 10_240):  # OPEN_MAX of macOS, above which it refuses
        try:
            resource.setrlimit(resource.RLIMIT_NOFILE, (limit, hard))
        except (ValueError, OSError):
            continue
        return limit
    return soft
