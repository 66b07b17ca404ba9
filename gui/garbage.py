"""The garbage collector, kept to the desk's own thread.

Python collects in whichever thread happens to allocate. A window or a timer that dies in another one than its own
stays in Qt's list of timers: the next tick calls into freed memory, and the desk is gone. So nothing is collected by
itself any more, and the desk's thread looks at every frame and every second whether it is time.
"""

from __future__ import annotations

import gc
from typing import Final

YOUNG: Final = 50_000
"""So many new objects are looked at together: rows go by reference counting, cycles are few."""
MIDDLE: Final = 20
OLD: Final = 50


def keep_to_this_thread() -> None:
    """Keep the collector from other threads, and from stopping the desk: widgets and modules stay where they are."""
    gc.collect()
    gc.freeze()
    gc.disable()


def collect_if_due() -> None:
    """Collect what the interpreter would have collected by itself, in this thread."""
    young, middle, old = gc.get_count()
    if gc.isenabled() or young < YOUNG:
        return  # enabled: whoever runs this desk has another plan
    gc.collect(2 if middle >= MIDDLE and old >= OLD else 1 if middle >= MIDDLE else 0)
