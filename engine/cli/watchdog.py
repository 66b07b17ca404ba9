"""``main.py watchdog``: the engine starts it for itself (engine.services.watchdog); nobody types it."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from pathlib import Path

from engine.services.watchdog import Watchdog, watch


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options."""
    parser.add_argument("--after", type=float, required=True, metavar="SECONDS")
    parser.add_argument("--standby", action="store_true")


def run(args: argparse.Namespace) -> int:
    """Watch until the engine lets go."""
    options = ["--home", args.home, *(["--config", args.config] if args.config else [])]

    def standby(watchdog: Watchdog, gone: Callable[[], bool]) -> None:
        from engine.services.standby import stand_by  # slow to import: not before the engine runs

        stand_by(Path(args.home), args.config, watchdog, gone)

    watch(Path(args.home), args.after, options, standby if args.standby else None)
    return 0
