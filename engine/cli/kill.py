"""``main.py kill``: the kill switch from any shell, even while the desk or the engine hangs."""

from __future__ import annotations

import argparse
import asyncio
import importlib
import json
import os
import re
import time
import uuid
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, Final

from engine.home import TOKEN_VARIABLE, Home
from engine.kill_act import Act, Pressed, latch, unlatched
from engine.kill_latch import FILE, SEEN, TAKEN, KillLatch

if TYPE_CHECKING:
    from engine.cli.common import Api
    from engine.config import Config
    from engine.kill_clearing import Outcome

# Everything slow to import comes after the latch.

REPORT: Final = "watchdog.json"
_ANSWER_S: Final = 1.0
"""How long the engine may take to answer before it is done without it."""
_SEEN_WITHIN_S: Final = 1.0
"""How long an engine, or the watchdog in its stead, may take to act on the latch before it is done from here."""
_WATCHDOG_WITHIN_S: Final = 75.0
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
    """Latch; then the engine cancels, or the watchdog, or this process. Return the exit status."""
    home = Home(args.home)
    if args.drill:
        from engine.cli.kill_drill import drill

        return drill(args, home)
    # Bytes that are no text in this terminal's encoding must not keep a kill from being taken.
    reason = args.reason.encode("utf-8", "replace").decode("utf-8")
    args.reason = reason[:256] or "killed from the command line"
    by = "watchdog" if args.out_of_band else "kill command"
    # Closing positions is a second act, of whoever carries it out.
    act = Act(args.scope, args.reason, by)
    try:
        pressed = latch(home.path, act, taken=args.out_of_band)
    except OSError as error:  # a full or broken disk: what works is canceled all the same
        from engine.cli.common import complain

        complain(
            f"NOT LATCHED, the engine does not hear of this: {home.path / FILE}: {error.strerror}"
        )
        pressed = unlatched()
    if args.out_of_band:
        return _out_of_band(args, home, pressed, "")
    return _carry_out(args, home, pressed)


def _carry_out(args: argparse.Namespace, home: Home, pressed: Pressed) -> int:
    from engine.cli.common import NoEngineError
    from engine.errors import CommandRefused, ConfigError

    try:
        who, why = _who_acts(home, pressed), "the engine does not answer"
        if who == "engine":
            return _tell(args, {"by": "engine"}, _through_engine(args, home))
    except (NoEngineError, ConfigError) as error:
        why = str(error)
    except CommandRefused as error:
        if error.status < 500:
            raise
        why = str(error)  # it failed inside
    if _taken(home, pressed):
        return _through_watchdog(args, home, pressed, why)
    return _out_of_band(args, home, pressed, why)


def _who_acts(home: Home, pressed: Pressed) -> str:
    """Wait until the engine has seen the latch, or the watchdog has taken it, but not for long.

    Raises:
        NoEngineError: no engine runs.
    """
    _running(home)
    if not pressed.press:
        return "engine"  # whether it answers shows when it is asked
    shared = KillLatch(home.path / FILE)
    try:
        end = time.monotonic() + _SEEN_WITHIN_S
        if not shared.watchdog_ready():  # maybe it is to be done here
            importlib.import_module("engine.kill_out_of_band")
        while True:
            if shared.words[SEEN] == pressed.press:
                return "engine"
            if shared.words[TAKEN] == pressed.press:
                return "watchdog"
            if time.monotonic() > end:
                return ""
            time.sleep(0.002)
    finally:
        shared.close()


def _taken(home: Home, pressed: Pressed) -> bool:
    try:
        shared = KillLatch(home.path / FILE)
    except OSError:
        return False
    taken = shared.words[TAKEN] == pressed.press
    shared.close()
    return taken and pressed.press != 0


# ---- through the engine ------------------------------------------------------------------------------------------


def _running(home: Home) -> str:
    """Return the address of the running engine. Nothing here waits for a lock that a hung process may hold.

    Raises:
        NoEngineError: there is none.
    """
    info = home.running_engine()
    if info is None:
        from engine.cli.common import NoEngineError

        raise NoEngineError(f"no engine runs on {home.path}")
    return info.url


def engine_of(home: Home) -> Api:
    """Return the running engine's API, impatient.

    Raises:
        NoEngineError: there is none, or its token cannot be read.
    """
    from engine.cli.common import Api, NoEngineError
    from engine.log import register_secret

    url = _running(home)
    try:
        token = os.environ.get(TOKEN_VARIABLE) or home.token_file.read_text("utf-8").strip()
    except OSError as error:
        raise NoEngineError(f"{home.token_file}: {error.strerror}") from None
    register_secret(token)
    return Api(url, token, _ANSWER_S)


def _through_engine(args: argparse.Namespace, home: Home) -> list[dict[str, Any]]:
    """Have the engine carry it out, and return its list."""
    with engine_of(home) as api:
        _press(api, args, flatten=False)
        if args.flatten:  # an engine that hangs before it must not do it later, too
            _press(api, args, flatten=True)
        return _follow(api)


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


def _through_watchdog(args: argparse.Namespace, home: Home, pressed: Pressed, why: str) -> int:
    """Wait for what the watchdog's kill comes to; if it does not come to an end, or is no more, do it from here."""
    from engine.cli.common import say

    if not args.json:
        say(_latched(args, home, pressed, why))
        say("The watchdog beside it cancels at the brokers.")
    result = _watchdog_result(home, pressed)
    if result is None:
        return _out_of_band(args, home, pressed, "the watchdog has not come to an end", told=True)
    if args.flatten and result["clear"]:
        return _out_of_band(args, home, pressed, why, told=True)
    facts = _facts(home, pressed, why) | {"by": "watchdog", "cancels_ms": result["cancels_ms"]}
    return _tell(args, facts, result["accounts"])


def _watchdog_result(home: Home, pressed: Pressed) -> dict[str, Any] | None:
    shared = KillLatch(home.path / FILE)
    end = time.monotonic() + _WATCHDOG_WITHIN_S
    try:
        while shared.watchdog_ready() and time.monotonic() < end:
            found = _report(home)
            if found.get("press") == pressed.press:
                return found
            time.sleep(0.02)
        found = _report(home)
        return found if found.get("press") == pressed.press else None
    finally:
        shared.close()


def _report(home: Home) -> dict[str, Any]:
    try:
        return dict(json.loads((home.path / REPORT).read_text("utf-8"))["result"])
    except (OSError, ValueError, LookupError, TypeError):
        return {}


def _facts(home: Home, pressed: Pressed, why: str) -> dict[str, Any]:
    return {
        "by": "latch",
        "why": why,
        "file": str(home.path / FILE),
        "latch_ms": round(pressed.latch_ms, 3),
    }


def _latched(args: argparse.Namespace, home: Home, pressed: Pressed, why: str) -> str:
    lines = [why] if why else []
    if pressed.press:
        where = home.path / FILE
        lines.append(f"LATCHED {args.scope} in {where} within {pressed.latch_ms:.1f} ms.")
    return "\n".join([*lines, _who(home)])


def _out_of_band(
    args: argparse.Namespace, home: Home, pressed: Pressed, why: str, *, told: bool = False
) -> int:
    """Cancel at the brokers from here."""
    from engine.cli.common import FAILED, complain, emit, say
    from engine.cli.engine import loop_factory
    from engine.errors import TradingError

    facts = _facts(home, pressed, why)
    if not args.json and not told:
        say(_latched(args, home, pressed, why))
    try:
        with asyncio.Runner(loop_factory=loop_factory()) as runner:
            outcomes, facts["cancels_ms"] = runner.run(_cancel(args, home, pressed))
    except (TradingError, OSError) as error:
        complain(str(error))
        if args.json:
            emit({**facts, "scope": args.scope, "clear": False, "error": str(error)})
        else:
            say("NOT CLEAR: nothing could be canceled from here; cancel at the brokers.")
        return FAILED
    if outcomes and all(o.clear and o.broker != "paper" for o in outcomes):
        _finish(home, args)
    from engine.kill_out_of_band import row

    return _tell(args, facts, [row(outcome) for outcome in outcomes])


async def _cancel(
    args: argparse.Namespace, home: Home, pressed: Pressed
) -> tuple[list[Outcome], float]:
    from engine.cli.common import complain
    from engine.clock import rfc3339
    from engine.kill_out_of_band import OutOfBandKill

    act = Act(args.scope, args.reason, "kill command", args.flatten)
    shared = KillLatch(home.path / FILE) if pressed.press else None
    try:
        kill = OutOfBandKill(home, config_of(args, home), act, pressed)
        if shared is not None:
            if act.closes:
                shared.flattened(args.scope, rfc3339(datetime.now(UTC)))
            kill.stands = lambda: shared.stands(args.scope)
            kill.shared = shared
        outcomes = await kill.run()
    finally:
        if shared is not None:
            shared.close()
    if kill.problem:
        complain(kill.problem)
    return outcomes, round(kill.canceled_ms, 1)


def config_of(args: argparse.Namespace, home: Home) -> Config:
    """Return the configuration the engine of this home runs with, or last ran with."""
    from engine.services.standby import config_of as config_of_home

    shared = KillLatch(home.path / FILE)
    try:
        return config_of_home(home, args.config, shared)
    finally:
        shared.close()


def _finish(home: Home, args: argparse.Namespace) -> None:
    """Note that no engine has to go on with this."""
    shared = KillLatch(home.path / FILE)
    shared.finish(args.scope)
    if args.flatten:
        shared.closed(args.scope)
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
    from engine.cli.common import DONE, FAILED, complain, emit, say, table

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
