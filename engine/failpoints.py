"""Named points at which a test may kill, stop, hold up or break this process (reliability rig, not for users).

Every durable or external step of an order's way has one before and one after it::

    if failpoints.ARMED:
        failpoints.hit("K14.before")

Unarmed, that costs one attribute read. They are armed by ``VOLLEY_FAILPOINTS`` in the environment (or ``arm``), a
``;``-separated list of ``name=action[@n]``: the ``n``-th hit (default the first) does ``action``. A frozen application
never arms them.

``kill``        SIGKILL, as a crash that nobody sees coming
``term``        SIGTERM
``stop``        SIGSTOP; whoever tests sends SIGCONT
``exit``        ``os._exit(70)``
``pause:S``     blocks this thread for S seconds
``raise``       raises ``OSError(EIO)``
``enospc``      raises ``OSError(ENOSPC)``
"""

from __future__ import annotations

import errno
import os
import signal
import sys
import threading
import time
from collections.abc import Callable
from typing import Final

VARIABLE: Final = "VOLLEY_FAILPOINTS"
ARMED = False
"""Whether any point is armed or hits are being counted."""

hits: dict[str, int] = {}
"""How often each point was passed since ``arm`` or ``count``."""

_armed: dict[str, tuple[str, int]] = {}
_lock = threading.Lock()


def arm(spec: str) -> None:
    """Arm the points of ``spec`` and count every hit from now on; an empty one disarms all.

    Raises:
        ValueError: it is not a list of ``name=action[@n]``.
    """
    global ARMED  # noqa: PLW0603 (read at every point: an attribute is the cheapest)
    found: dict[str, tuple[str, int]] = {}
    for item in filter(None, spec.split(";")):
        name, equals, rest = item.partition("=")
        action, _, nth = rest.partition("@")
        if not equals or action.partition(":")[0] not in _ACTIONS or not (nth or "1").isdigit():
            raise ValueError(f"{VARIABLE}: {item!r}: expected name=action[@n]")
        found[name] = (action, int(nth or 1))
    with _lock:
        _armed.clear()
        _armed.update(found)
        hits.clear()
        ARMED = bool(found)


def count() -> None:
    """Count hits without any action, to learn which points a run passes."""
    global ARMED  # noqa: PLW0603
    arm("")
    ARMED = True


def hit(name: str) -> None:
    """Pass a point: count it, and do what is armed there at this hit."""
    with _lock:
        number = hits[name] = hits.get(name, 0) + 1
        action, nth = _armed.get(name, ("", 0))
    if action and number == nth:
        verb, _, argument = action.partition(":")
        _ACTIONS[verb](argument)


def _send(name: str) -> None:
    os.kill(os.getpid(), getattr(signal, name, signal.SIGTERM))  # Windows has SIGTERM only


def _break(number: int) -> None:
    raise OSError(number, f"{os.strerror(number)} (failpoint)")


_ACTIONS: Final[dict[str, Callable[[str], None]]] = {
    "kill": lambda _: _send("SIGKILL"),
    "term": lambda _: _send("SIGTERM"),
    "stop": lambda _: _send("SIGSTOP"),
    "exit": lambda _: os._exit(70),
    "pause": lambda seconds: time.sleep(float(seconds or 1)),
    "raise": lambda _: _break(errno.EIO),
    "enospc": lambda _: _break(errno.ENOSPC),
}

if not getattr(sys, "frozen", False) and (_spec := os.environ.get(VARIABLE)):
    arm(_spec)
