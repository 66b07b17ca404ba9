"""``main.py hook``: where a source's webhook is; its secret is made on first demand."""

from __future__ import annotations

import argparse

from engine.cli.common import DONE, emit, open_config, open_home, say
from engine.home import hook_secret


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options."""
    parser.add_argument(
        "source", nargs="?", default="tradingview", help="who sends (default: tradingview)"
    )


def run(args: argparse.Namespace) -> int:
    """Print the address; whoever knows it may send signals as this source."""
    home = open_home(args)
    config = open_config(args, home)
    info = home.running_engine()
    base = info.url if info is not None else f"http://{config.engine.listen}"
    url = f"{base}/v1/hooks/{args.source}/{hook_secret(home, args.source)}"
    if args.json:
        emit({"source": args.source, "url": url})
    else:
        say(url)
    return DONE
