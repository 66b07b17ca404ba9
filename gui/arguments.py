"""The desk's own flags, kept apart from Qt so that ``-h`` and a usage error load none of it."""

from __future__ import annotations

import argparse


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the flags of ``desk``."""
    add = parser.add_argument
    how = parser.add_mutually_exclusive_group()
    how.add_argument("--demo", action="store_true", help="practice: nothing in it is real")
    how.add_argument("--connect", metavar="URL", help="attach to the engine at ws://HOST:PORT")
    how.add_argument(
        "--replay",
        metavar="HOME_OR_FILE",
        help="show a recorded day of a home or a copy of its journal",
    )
    add("--day", metavar="YYYY-MM-DD", help="which recorded day (default: the newest)")
    add("--inline", action="store_true", help="run the engine in the desktop's own process")
    add("--for", dest="seconds", type=float, metavar="SECONDS", help="close after that time")
    add("--screenshot", metavar="FILE.png", help="keep a picture of the window when closing")
    add_look(parser)


def add_look(parser: argparse.ArgumentParser) -> None:
    """Declare only the flags about looks."""
    add = parser.add_argument
    themes = ("dark", "light", "contrast_dark", "contrast_light", "system")
    add("--theme", choices=themes, help="colours of this run (default: those preferred)")
    add(
        "--layout-reset",
        "--reset-layout",
        action="store_true",
        help="forget where panels and columns were",
    )
