"""Settings of the interpreter that an engine's process runs with."""

from __future__ import annotations

import gc


def settle_garbage_collection() -> None:
    """Keep the collector out of the way of orders.

    What exists once the engine is built lives as long as it does: it is set aside (``gc.freeze``) and never looked at
    again. Orders and reports are freed by reference counting; cycles are rare, so full collections may be too.
    """
    gc.collect()
    gc.freeze()
    gc.set_threshold(50_000, 20, 50)
