"""``main.py watchdog``: the engine starts it for itself (engine.services.watchdog); nobody types it."""

from __future__ import annotations

import argparse
from pathlib import Path

from engine.services.watchdog import watch


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options."""
    parser.add_argument("--after", type=float, required=True, metavar="SECONDS")


def run(args: argparse.Namespace) -> int:
    """Watch until the engine lets go."""
    options = ["--home", args.home, *(["--config", args.config] if args.config else [])]
    watch(Path(args.home), args.after, options)
    return 0
