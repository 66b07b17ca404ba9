"""``main.py kill``: the kill switch from any shell, even while the desk or the engine hangs."""

from __future__ import annotations

import argparse
import json
import os
import re
import time
import uuid
from pathlib import Path
from typing import Any, Final

from engine.cli.common import DONE, NoEngineError, emit, find_engine, open_home, say
from engine.errors import CommandRefused, ConfigError
from engine.home import Home, write_json_atomic

LATCH: Final = "kill.json"
_ANSWER_S: Final = 2.0
_SCOPE: Final = re.compile(
    r"all|(account|broker|strategy):[A-Za-z0-9._:-]{1,64}|symbol:[A-Z0-9][A-Z0-9._:/-]{0,31}",
    re.ASCII,
)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options."""
    parser.add_argument(
        "--scope",
        default="all",
        type=_scope,
        metavar="SCOPE",
        help="all, account:ID, broker:NAME, strategy:NAME or symbol:SYM",
    )
    parser.add_argument("--flatten", action="store_true", help="also close every position")
    parser.add_argument("--reason", default="killed from the command line", help="for the record")


def _scope(text: str) -> str:
    if not _SCOPE.fullmatch(text):
        raise argparse.ArgumentTypeError(
            f"{text[:80]!r}: expected all, account:ID, broker:NAME, strategy:NAME or symbol:SYM"
        )
    return text


def run(args: argparse.Namespace) -> int:
    """Ask the engine; if it does not answer, leave it no choice. Return the exit status."""
    home = open_home(args)
    order = {
        "id": uuid.uuid4().hex,
        "command": "kill",
        "scope": args.scope,
        "flatten": args.flatten,
        "reason": args.reason[:256] or "killed from the command line",
    }
    try:
        with find_engine(home, _ANSWER_S) as api:
            result = api.post("/v1/commands", order)
    except (NoEngineError, ConfigError) as error:
        return _latch(args, home, order, str(error))
    except CommandRefused as error:
        if error.status < 500:
            raise
        return _latch(args, home, order, str(error))  # it failed inside: leave it no choice
    if args.json:
        emit({"by": "engine", "scope": args.scope, "result": result})
    else:
        closing = " and positions are being closed" if args.flatten else ""
        say(f"HALTED {args.scope}: nothing new is sent; working orders are being canceled{closing}")
    return DONE


def _latch(args: argparse.Namespace, home: Home, order: dict[str, Any], why: str) -> int:
    """Put the order where the engine looks before it sends anything, now or at its next start."""
    path = home.path / LATCH
    write_json_atomic(path, [*_pending(home), order])
    holder = home.running_engine()
    obeyed = holder is not None and _taken(path)
    if args.json:
        emit({"by": "latch", "scope": args.scope, "obeyed": obeyed, "file": str(path), "why": why})
        return DONE
    say(f"{why}\nLATCHED {args.scope} in {path}.")
    if obeyed:
        say(f"HALTED {args.scope}: the engine has taken the order from there.")
    elif holder is None:
        say("No engine is running: at its next start it halts before it sends anything.")
        say("Orders already at the brokers are canceled then; until then they work on.")
    else:
        say(f"The engine (process {holder.pid}) obeys as soon as it moves, and at its next start.")
        say(f"If it hangs for good, end that process: {_end(holder.pid)}")
    return DONE


def _taken(path: Path) -> bool:
    """Wait a moment for the engine to take the file away; say whether it did."""
    deadline = time.monotonic() + _ANSWER_S
    while path.exists():
        if time.monotonic() > deadline:
            return False
        time.sleep(0.05)
    return True


def _end(pid: int) -> str:
    return f"taskkill /F /PID {pid}" if os.name == "nt" else f"kill -9 {pid}"


def _pending(home: Home) -> list[dict[str, Any]]:
    try:
        content = json.loads((home.path / LATCH).read_text("utf-8"))
    except (OSError, ValueError):
        return []
    return content if isinstance(content, list) else []
