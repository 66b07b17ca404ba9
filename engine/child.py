"""Our own program as a child process, from a checkout, an installation or a frozen build alike."""

from __future__ import annotations

import importlib.util
import sys


def own_command(*arguments: str) -> list[str]:
    """Return the command line that runs this program with ``arguments``."""
    if getattr(sys, "frozen", False):
        return [sys.executable, *arguments]
    spec = importlib.util.find_spec("main")
    if spec is None or spec.origin is None:
        raise RuntimeError("main.py is not to be found beside the engine: install volley again")
    return [sys.executable, spec.origin, *arguments]
