"""What planning one signal for many accounts costs, in microseconds per account; also against another checkout.

    python -m tests.bench.plan_cost [--accounts 200] [--against DIRECTORY]

``--against``: a directory with another version of this project (``git archive REVISION | tar -x -C DIRECTORY``). Both
are measured in turns, each in a process of its own, and the best of each counts. ``limits`` is planning for accounts
and a firm that have every limit there is (this version only).
"""

from __future__ import annotations

import argparse
import inspect
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable
from decimal import Decimal
from pathlib import Path
from typing import Any

from engine.config import Config
from engine.eligibility.index import EligibilityIndex
from engine.model.instrument import Instrument
from engine.planner import Planner
from engine.portfolio.marks import Marks
from engine.portfolio.position_keeper import PositionKeeper
from engine.risk.trading_state import TradingStates
from tests.helpers import HandClock, make_account, make_signal, make_state

ROUNDS = 5
PLANS = 100
ACCOUNT = {
    "max_order_quantity": "500", "max_order_value": "25000", "max_positions": 10, "max_daily_loss": "1000",
    "min_reward_risk": "1.0",
}  # fmt: skip
SUMS = {
    "max_position_quantity": "100000", "max_open_value": "10000000", "max_gross_exposure": "10000000",
    "max_orders_per_day": 1_000_000,
}  # fmt: skip
FIRM = {
    "max_open_value": "1000000000", "max_gross_exposure": "1000000000", "max_orders_per_day": 10_000_000,
    "max_strategy_orders_per_day": 10_000_000,
}  # fmt: skip


def planner(accounts: int, limits: dict[str, Any], firm: dict[str, Any]) -> Callable[[], Any]:
    """Return a call that plans one signal for ``accounts`` accounts."""
    clock = HandClock()
    marks = Marks(clock)
    keeper = PositionKeeper(marks)
    states = {
        f"A-{n:04}": make_state(
            make_account(
                f"A-{n:04}", limits=limits,
                hours={"zone": "America/New_York", "open": "09:30", "close": "16:00"},
            )
        )
        for n in range(accounts)
    }  # fmt: skip
    index = EligibilityIndex()
    index.replace(states.values())
    instrument = Instrument("AAPL")
    wide = {"max_accounts_per_signal": accounts, "max_signal_value": "1000000000"}
    config = Config.model_validate({"limits": wide | firm})
    parts: dict[str, Any] = {
        "book": "book", "config": config, "clock": clock, "index": index, "keeper": keeper, "marks": marks,
        "states": TradingStates(), "instrument_of": lambda _broker, _symbol: instrument,
        "instrument_if_known": lambda _broker, _symbol: instrument,
    }  # fmt: skip
    if "pretrade" in inspect.signature(Planner).parameters:
        from engine.risk.pretrade import PreTrade

        made = PreTrade(
            config=config, clock=clock, states=states, positions=keeper, prices=marks,
            instrument_if_known=lambda _broker, _symbol: instrument,
            unsupported=lambda _state, _kind, _tif: "", orders=list,
        )  # fmt: skip
        made.follow_limits(keeper)
        parts["pretrade"] = made
    else:
        parts["unsupported"] = lambda _state, _kind, _tif: ""
    plan = Planner(**parts).plan
    marks.set("AAPL", Decimal(100))
    signal = make_signal(stop_loss="95", take_profit="110")
    assert len(plan(signal).orders) == accounts
    return lambda: plan(signal)


def best_us(call: Callable[[], Any], accounts: int) -> float:
    """Return the best time of a plan, per account."""
    best = float("inf")
    for _ in range(ROUNDS):
        begun = time.perf_counter_ns()
        for _ in range(PLANS):
            call()
        best = min(best, (time.perf_counter_ns() - begun) / PLANS / accounts / 1000)
    return best


def measure(accounts: int) -> dict[str, float]:
    """Measure this process's version."""
    found = {
        "bare": best_us(planner(accounts, {}, {}), accounts),
        "usual": best_us(planner(accounts, ACCOUNT, {}), accounts),
    }
    if "pretrade" in inspect.signature(Planner).parameters:
        found["limits"] = best_us(planner(accounts, ACCOUNT | SUMS, FIRM), accounts)
    return found


def in_turns(directories: dict[str, Path], accounts: int) -> dict[str, dict[str, float]]:
    """Measure versions in turns, each in its own processes; the best of each counts."""
    best: dict[str, dict[str, float]] = {name: {} for name in directories}
    script = Path(__file__).resolve()
    for _ in range(ROUNDS):
        for name, directory in directories.items():
            done = subprocess.run(
                [sys.executable, str(script), "--accounts", str(accounts), "--json"],
                cwd=directory,
                env=os.environ | {"PYTHONPATH": str(directory)},
                capture_output=True,
                text=True,
                check=True,
            )
            for what, cost in json.loads(done.stdout).items():
                best[name][what] = min(cost, best[name].get(what, cost))
    return best


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--accounts", type=int, default=200)
    parser.add_argument("--against", type=Path)
    parser.add_argument("--json", action="store_true")
    asked = parser.parse_args()
    if asked.json:
        sys.stdout.write(json.dumps(measure(asked.accounts)))
        return
    directories = {"this": Path(__file__).resolve().parents[2]}
    if asked.against is not None:
        directories["other"] = asked.against.resolve()
    found = in_turns(directories, asked.accounts)
    for what, cost in found["this"].items():
        line = f"{what:8} {cost:6.2f} µs an account"
        if what in found.get("other", {}):
            other = found["other"][what]
            line += f", the other version {other:6.2f}: {cost / other - 1:+.1%}"
        sys.stdout.write(f"{line}\n")


if __name__ == "__main__":
    main()
