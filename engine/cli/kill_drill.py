"""``main.py kill --drill``: everything the kill switch does up to the cancels, timed; nothing is halted or sent."""

from __future__ import annotations

import argparse
import asyncio
import time
from typing import Any, Final

from engine.cli.common import DONE, FAILED, NoEngineError, emit, say
from engine.cli.kill import config_of, engine_of
from engine.errors import ConfigError, TradingError
from engine.home import Home
from engine.kill_latch import FILE, FIRM, KEPT, KillLatch

_SYNCS: Final = 20


def drill(args: argparse.Namespace, home: Home) -> int:
    """Measure the latch, the engine's answer and every broker's list; return the exit status."""
    facts: dict[str, Any] = {"scope": args.scope, "latch_ms": _latch_ms(home)}
    facts["engine_ms"], facts["engine"] = _answer_ms(home)
    facts["standby"] = _kept(home)
    try:
        outcomes = asyncio.run(_lists(args, home))
    except TradingError as error:
        outcomes = []
        facts["error"] = str(error)
    real = [outcome for outcome in outcomes if outcome.broker != "paper"]
    facts["accounts"] = len(real)
    facts["lists_ms"] = max((outcome.listed_ms or 0 for outcome in real), default=0)
    facts["would_cancel"] = sum(outcome.working for outcome in real)
    facts["unreachable"] = {o.account: o.error for o in real if not o.clear}
    if args.json:
        emit(facts)
    else:
        say(_line(facts))
    return FAILED if facts["unreachable"] or "error" in facts else DONE


def _line(facts: dict[str, Any]) -> str:
    engine = (
        f"the engine answers in {facts['engine_ms']:.0f} ms"
        if facts["engine_ms"]
        else facts["engine"]
    )
    lost = facts["unreachable"]
    read = facts["accounts"] - len(lost)
    lines = [
        (
            f"DRILL {facts['scope']}: latch durable in {facts['latch_ms']:.1f} ms; {engine}; {read} of "
            f"{facts['accounts']} accounts' lists read within {facts['lists_ms']} ms; "
            f"{facts['would_cancel']} orders would be canceled; "
            f"the watchdog has {facts['standby']} accounts connected"
        )
    ]
    lines += [f"NOT REACHED {account}: {text}" for account, text in lost.items()]
    if "error" in facts:
        lines.append(f"NOTHING COULD BE CANCELED from here: {facts['error']}")
    return "\n".join(lines)


def _kept(home: Home) -> int:
    """Return how many accounts a watchdog that is ready has connected."""
    shared = KillLatch(home.path / FILE)
    try:
        return int(shared.words[KEPT]) if shared.watchdog_ready() else 0
    finally:
        shared.close()


def _latch_ms(home: Home) -> float:
    """Return how long a latch takes to be durable, as the median of some, in a file of its own."""
    path = home.path / ".latch-drill"
    path.unlink(missing_ok=True)
    shared = KillLatch(path)
    times = []
    try:
        for number in range(_SYNCS):
            began = time.perf_counter()
            shared.halt(FIRM, f"drill {number}", "drill", "")
            shared.press()
            shared.sync()
            times.append((time.perf_counter() - began) * 1e3)
    finally:
        shared.close()
        path.unlink(missing_ok=True)
    return round(sorted(times)[len(times) // 2], 3)


def _answer_ms(home: Home) -> tuple[float, str]:
    """Return how long the engine takes to answer, or 0 and why it does not."""
    try:
        with engine_of(home) as api:
            api.get("/v1/status")
            began = time.perf_counter()
            api.get("/v1/status")
            return (time.perf_counter() - began) * 1e3, ""
    except (NoEngineError, ConfigError) as error:
        return 0.0, str(error)


async def _lists(args: argparse.Namespace, home: Home) -> Any:
    from engine.kill_act import Act, unlatched
    from engine.kill_out_of_band import OutOfBandKill

    act = Act(args.scope, "drill", "drill", drill=True)
    return await OutOfBandKill(home, config_of(args, home), act, unlatched()).run()
