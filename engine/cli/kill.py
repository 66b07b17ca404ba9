"""``main.py kill``: the kill switch from any shell, even while the desk or the engine hangs."""

from __future__ import annotations

import argparse
import asyncio
import os
import re
import time
import uuid
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from engine.cli.common import (
    DONE,
    FAILED,
    Api,
    NoEngineError,
    complain,
    emit,
    open_config,
    open_home,
    say,
    table,
)
from engine.cli.engine import loop_factory
from engine.clock import rfc3339
from engine.errors import CommandRefused, ConfigError, TradingError
from engine.home import TOKEN_VARIABLE, Home
from engine.kill_latch import FILE, KillLatch
from engine.log import register_secret

if TYPE_CHECKING:
    from engine.kill_clearing import Outcome

_ANSWER_S: Final = 1.0
"""How long the engine may take to answer before it is done without it."""
_CLEAR_WITHIN_S: Final = 60.0
_LOOK_EVERY_S: Final = 0.1
_SCOPE: Final = re.compile(
    r"all|(account|broker|strategy):[A-Za-z0-9._:-]{1,64}|symbol:[A-Z0-9][A-Z0-9._:/-]{0,31}",
    re.ASCII,
)
_COLUMNS: Final = {
    "account": "account",
    "state": "state",
    "canceled": "canceled",
    "working": "working",
    "late": "late",
    "residual": "positions",
    "verified_at": "list read empty",
    "error": "",
}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options."""
    parser.add_argument(
        "--scope",
        default="all",
        type=_scope,
        metavar="SCOPE",
        help="all, account:ID, broker:NAME, strategy:NAME or symbol:SYM",
    )
    parser.add_argument("--flatten", action="store_true", help="then also close every position")
    parser.add_argument("--reason", default="killed from the command line", help="for the record")
    parser.add_argument(
        "--drill",
        action="store_true",
        help="halt and cancel nothing: measure how long the latch, the engine and the brokers take",
    )
    parser.add_argument(
        "--out-of-band", action="store_true", help="do not ask the engine (the watchdog does this)"
    )


def _scope(text: str) -> str:
    if not _SCOPE.fullmatch(text):
        raise argparse.ArgumentTypeError(
            f"{text[:80]!r}: expected all, account:ID, broker:NAME, strategy:NAME or symbol:SYM"
        )
    return text


def run(args: argparse.Namespace) -> int:
    """Ask the engine; if it does not answer, do it without. Return the exit status."""
    home = open_home(args)
    if args.drill:
        from engine.cli.kill_drill import drill

        return drill(args, home)
    # Bytes that are no text in this terminal's encoding must not keep a kill from being taken.
    reason = args.reason.encode("utf-8", "replace").decode("utf-8")
    args.reason = reason[:256] or "killed from the command line"
    if args.out_of_band:
        return _out_of_band(args, home, "")
    try:
        with engine_of(home) as api:
            _press(api, args, flatten=False)
            if (
                args.flatten
            ):  # a second act: an engine that hangs before it must not do it later, too
                _press(api, args, flatten=True)
            rows = _follow(api)
    except (NoEngineError, ConfigError) as error:
        return _out_of_band(args, home, str(error))
    except CommandRefused as error:
        if error.status < 500:
            raise
        return _out_of_band(args, home, str(error))  # it failed inside
    return _tell(args, {"by": "engine"}, rows)


# ---- through the engine ------------------------------------------------------------------------------------------


def engine_of(home: Home) -> Api:
    """Return the running engine's API. Nothing here waits for a lock that a hung process may hold."""
    info = home.running_engine()
    if info is None:
        raise NoEngineError(f"no engine runs on {home.path}")
    try:
        token = os.environ.get(TOKEN_VARIABLE) or home.token_file.read_text("utf-8").strip()
    except OSError as error:
        raise NoEngineError(f"{home.token_file}: {error.strerror}") from None
    register_secret(token)
    return Api(info.url, token, _ANSWER_S)


def _press(api: Api, args: argparse.Namespace, *, flatten: bool) -> None:
    order = {
        "id": uuid.uuid4().hex,
        "command": "kill",
        "scope": args.scope,
        "flatten": flatten,
        "reason": args.reason,
    }
    api.post("/v1/commands", order)


def _follow(api: Api) -> list[dict[str, Any]]:
    """Return the engine's list once every account is clear, or when that takes too long."""
    end = time.monotonic() + _CLEAR_WITHIN_S
    while True:
        rows: list[dict[str, Any]] = api.get("/v1/status")["kill"]
        if all(row["done"] for row in rows) or time.monotonic() > end:
            return [
                {
                    **row,
                    "clear": row["done"],
                    "asked": row["cancels_sent"],
                    "canceled": row["cancels_confirmed"],
                }
                for row in rows
            ]
        time.sleep(_LOOK_EVERY_S)


# ---- without it --------------------------------------------------------------------------------------------------


def _out_of_band(args: argparse.Namespace, home: Home, why: str) -> int:
    """Latch, durably and before anything else; then cancel at the brokers from here."""
    from engine.kill_out_of_band import Act, latch

    by = "watchdog" if args.out_of_band else "kill command"
    act = Act(args.scope, args.reason, by, args.flatten)
    try:
        latch_ms, since = latch(home.path, act)
    except OSError as error:  # a full or broken disk: what works is canceled all the same
        complain(
            f"NOT LATCHED, the engine does not hear of this: {home.path / FILE}: {error.strerror}"
        )
        latch_ms, since = 0.0, rfc3339(datetime.now(UTC))
    facts: dict[str, Any] = {"by": "latch", "why": why, "file": str(home.path / FILE)}
    facts["latch_ms"] = round(latch_ms, 3)
    if not args.json:
        if why:
            say(why)
        say(f"LATCHED {args.scope} in {home.path / FILE} within {latch_ms:.1f} ms.")
        say(_who(home))
    try:
        with asyncio.Runner(loop_factory=loop_factory()) as runner:
            outcomes, facts["cancels_ms"] = runner.run(_cancel(args, home, act, since))
    except (TradingError, OSError) as error:
        complain(str(error))
        if args.json:
            emit({**facts, "scope": args.scope, "clear": False, "error": str(error)})
        else:
            say("NOT CLEAR: nothing could be canceled from here; cancel at the brokers.")
        return FAILED
    if outcomes and all(o.clear and o.broker != "paper" for o in outcomes):
        _finish(home, args.scope)
    from engine.kill_out_of_band import row

    return _tell(args, facts, [row(outcome) for outcome in outcomes])


async def _cancel(
    args: argparse.Namespace, home: Home, act: Any, since: str
) -> tuple[list[Outcome], float]:
    from engine.kill_out_of_band import OutOfBandKill

    kill = OutOfBandKill(home, config_of(args, home), act, since)
    outcomes = await kill.run()
    if kill.problem:
        complain(kill.problem)
    return outcomes, round(kill.canceled_ms, 1)


def config_of(args: argparse.Namespace, home: Home) -> Any:
    """Return the configuration the engine of this home runs with, or last ran with."""
    shared = KillLatch(home.path / FILE)
    known = shared.engine()
    shared.close()
    if not args.config and known.get("config") and Path(known["config"]).exists():
        args.config = known["config"]
    config = open_config(args, home)
    if known.get("demo"):
        from engine.services.demo import demo_config

        return demo_config(config)
    return config


def _finish(home: Home, scope: str) -> None:
    """Note that no engine has to go on with this."""
    shared = KillLatch(home.path / FILE)
    shared.finish(scope)
    shared.sync()
    shared.close()


def _who(home: Home) -> str:
    holder = home.running_engine()
    if holder is None:
        return "No engine is running: the next one is halted before it sends anything."
    return (
        f"The engine (process {holder.pid}) does not answer: when it moves, it sends nothing. "
        f"If it hangs for good, end that process: {_end(holder.pid)}"
    )


def _end(pid: int) -> str:
    return f"taskkill /F /PID {pid}" if os.name == "nt" else f"kill -9 {pid}"


# ---- telling -----------------------------------------------------------------------------------------------------


def _tell(args: argparse.Namespace, facts: dict[str, Any], rows: list[dict[str, Any]]) -> int:
    """Print the verified-flat list; the status says whether every account is on it."""
    unclear = [row["account"] for row in rows if not row["clear"]]
    if not rows and args.scope.startswith("account:"):
        text = f"no account here is {args.scope}; it is halted all the same: is it spelled right?"
        complain(text)
        if args.json:
            emit({**facts, "scope": args.scope, "clear": False, "accounts": [], "error": text})
        return FAILED
    if args.json:
        emit({**facts, "scope": args.scope, "clear": not unclear, "accounts": rows})
        return FAILED if unclear else DONE
    say(f"HALTED {args.scope}: nothing new is sent.")
    if rows:
        say(table([_line(row) for row in rows], _COLUMNS))
    if unclear:
        say(f"NOT CLEAR: {', '.join(unclear)}. Look at the broker.")
    else:
        say(f"CLEAR: nothing works any more on {len(rows)} accounts.")
    return FAILED if unclear else DONE


def _line(row: dict[str, Any]) -> dict[str, Any]:
    held = ", ".join(f"{symbol} {qty}" for symbol, qty in row["residual"].items())
    return {
        **row,
        "state": "clear" if row["clear"] else "NOT CLEAR",
        "canceled": f"{row['canceled']}/{row['asked']}",
        "residual": held or "-",
    }
