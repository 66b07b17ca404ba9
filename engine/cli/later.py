"""Commands that are announced and not there yet: one honest line each."""

from __future__ import annotations

import argparse

from engine.cli.common import FAILED, complain

_INSTEAD = {
    "ingest": "until then `volley engine` takes signals in and executes them in one process",
    "execute": "until then `volley engine` executes for all accounts in one process",
}
_OPTIONS = ("--partitions",)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Accept what the real command will, so that its line is the answer, not a usage error."""
    for option in _OPTIONS:
        parser.add_argument(option, nargs="?", help=argparse.SUPPRESS)
    parser.add_argument("rest", nargs="*", help=argparse.SUPPRESS)


def run(args: argparse.Namespace) -> int:
    """Say so."""
    complain(f"{args.command} comes with a later version; {_INSTEAD[args.command]}")
    return FAILED
