"""Checks of the checks (G22): every engine broken on purpose is caught, and the unbroken one passes the same run.

``python -m tests.crash.sabotages [--only NAME]`` breaks the real engine in one way after the other, each in a process
of its own, and shows it to the judge that must notice: the simulation's oracle, the power-cut rig, the parser's judge,
or a test. It prints a table and ends with status 1 if one passes unseen, or if a judge finds fault with the engine as
it is. What each sabotage does is said by ``--list``.
"""

from __future__ import annotations

import argparse
import os
import resource
import subprocess
import sys
import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import partial

import pytest

from tests.bench import fuzz_parser
from tests.crash import broken, power_cut
from tests.simulation.runner import run_many
from tests.simulation.sabotages import SABOTAGES, sabotaged

SEEDS = 150
"""Within so many days one must be found."""
CUTS = 16
BODIES = 30_000

say = partial(print, flush=True)


@dataclass(frozen=True, slots=True)
class Judged:
    """Whom a sabotage is shown to.

    ``first``: the simulation's first seed. What takes a rare meeting of faults begins close to a day that has one.
    """

    judge: str
    where: tuple[str, ...] = ()
    first: int = 1

    @property
    def key(self) -> str:
        """Return what tells two runs of the unbroken engine apart."""
        return " ".join((self.judge, *self.where))


@dataclass(frozen=True, slots=True)
class Verdict:
    """What came of showing it: what was found (nothing: empty), and after how much."""

    name: str
    judged: Judged
    found: str
    after: str
    seconds: float


def simulation(first: int = 1) -> Judged:
    """Return a day of the simulation as the judge."""
    return Judged("simulation", first=first)


def tests(*where: str) -> Judged:
    """Return tests as the judge."""
    return Judged("tests", tuple(f"tests/{one}" for one in where))


POWER = Judged("power cuts")
PARSER = Judged("parser's judge")
_EXPOSURE = "controls/test_c06_exposure.py"
_POSITION = "controls/test_c05_projected_position.py"
JUDGES: dict[str, Judged] = {
    "blind-resend": simulation(),
    "no-settle-wait": simulation(81),
    "absent-believed-at-once": simulation(41),
    "latch-in-memory-only": simulation(111),
    "unknown-becomes-rejected": simulation(),
    "fills-applied-twice": simulation(61),
    "rate-limits-off": simulation(),
    "timeout-means-unsent": simulation(),
    "acknowledged-before-it-is-durable": simulation(),
    "intents-not-in-the-plan": simulation(),
    "plan-not-frozen": simulation(),
    "signals-not-deduplicated": simulation(),
    "halts-forgotten-by-a-restart": simulation(111),
    "halts-not-asked-before-the-first-byte": simulation(141),
    "age-judged-at-intake-only": simulation(),
    "throttle-by-the-wall-clock": simulation(11),
    "limits-not-checked": simulation(),
    "float-sums": simulation(),
    "looked-up-fills-counted-again": simulation(),
    "ends-are-not-final": simulation(11),
    "cancel-believed-when-asked": simulation(),
    "kill-without-cancels": simulation(),
    "gap-in-the-audit-trail": simulation(),
    "two-copies-leave": simulation(),
    "recovered-orders-leave-at-once": simulation(),
    "another-accounts-report-believed": simulation(131),
    "orders-of-others-cancelled": simulation(),
    "synchronous-normal": POWER,
    "synchronous-off": POWER,
    "told-before-the-commit": POWER,
    "goes-on-after-a-failed-sync": tests("crash/test_io_errors.py"),
    "epoch-not-checked": tests("crash/test_single_writer.py::test_an_earlier_epoch_writes_nothing"),
    "any-number-python-reads": PARSER,
    "last-of-two-keys-wins": PARSER,
    "unknown-fields-ignored": PARSER,
    "signals-from-the-future": PARSER,
    "action-and-fields-not-compared": PARSER,
    "audiences-without-end": PARSER,
    "members-without-end": PARSER,
    "bodies-without-end": PARSER,
    "kill-without-a-chase": tests(
        "controls/test_c18_kill_switch.py::test_what_is_accepted_late_is_chased"
    ),
    "ids-by-chance": tests("unit/test_model.py"),
    "nan-by-comparison": tests("controls/test_c16_exact_numbers.py"),
    "executions-not-checked-for-numbers": tests("controls/test_c16_exact_numbers.py"),
    "exit-beside-one-of-unknown-outcome": tests("unit/test_protective_exits.py"),
    "entries-beside-an-unknown-one": tests("controls/test_c21_unknown_orders.py"),
    "unknown-orders-not-reserved": tests(_EXPOSURE),
    "reservations-never-released": tests(_POSITION),
    "reservations-released-twice": tests(_EXPOSURE),
    "position-limit-not-asked-at-sending": tests("simulation/test_found.py"),
    "exits-not-counted-in-positions": tests(_POSITION),
    "nothing-counts-what-leaves": tests("controls/test_c22_conservation.py"),
    "late-accepts-left-alone": tests("simulation/test_found.py"),
    "replay-window-off": tests("security/test_t02_replay.py"),
    "signatures-compared-by-their-beginning": tests("security/test_t01_forged_webhook.py"),
}


# ---- in a process of its own ---------------------------------------------------------------------------------------


def _judge(judged: Judged) -> str:
    """Let a judge look at the engine as it now is; return what it found."""
    if judged is POWER:
        tally = power_cut.cuts(CUTS, seed=7)
        return str(tally) if tally.lost else ""
    if judged is PARSER:
        try:
            fuzz_parser.run(BODIES, seed=5)
        except AssertionError as error:
            return str(error)[:200]
        return ""
    failed = _Failed()
    here = "ignore:Module already imported:pytest.PytestAssertRewriteWarning"  # by this module
    options = ["-q", "-x", "-p", "no:cacheprovider", "-W", here]
    code = pytest.main([*options, *judged.where], plugins=[failed])
    if code not in {pytest.ExitCode.OK, pytest.ExitCode.TESTS_FAILED}:
        raise RuntimeError(f"pytest ended with {code}")
    return failed.first


class _Failed:
    """Notes the first test that fails."""

    def __init__(self) -> None:
        self.first = ""

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        """Take a test's end."""
        if report.failed and not self.first:
            self.first = report.nodeid.removeprefix("tests/")


_FOUND = "FOUND: "


def _child(name: str, judged: Judged) -> str:
    """Run a judge in a new process whose engine is broken so; return what it found.

    Raises:
        RuntimeError: the judge itself failed.
    """
    command = [sys.executable, "-m", "tests.crash.sabotages", "--judge", name, *judged.where]
    if not judged.where:
        command += [judged.judge]
    done = subprocess.run(command, capture_output=True, text=True, env=_environment(), check=False)
    said = [line for line in done.stdout.splitlines() if line.startswith(_FOUND)]
    if done.returncode or not said:
        raise RuntimeError(f"{name}: {done.stdout[-2000:]}{done.stderr[-2000:]}")
    return said[-1].removeprefix(_FOUND)


def _environment() -> dict[str, str]:
    return {**os.environ, "PYTHONHASHSEED": "0"}


def _serve(name: str, what: list[str]) -> None:
    by_word = {judged.judge: judged for judged in (POWER, PARSER)}
    judged = by_word.get(what[0]) or Judged("tests", tuple(what))
    with sabotaged(name.strip()):
        found = _judge(judged)
    say(f"{_FOUND}{found.splitlines()[0] if found else ''}")


# ---- all of them ---------------------------------------------------------------------------------------------------


def show(name: str) -> tuple[Verdict, list[int]]:
    """Show one sabotage to its judge; of the simulation also the seeds that found it."""
    judged, began = JUDGES[name], _cpu_s()
    if judged.judge != "simulation":
        found = _child(name, judged)
        after = {POWER.key: f"{CUTS} cuts", PARSER.key: "its seed"}.get(judged.key, "1 run")
        return Verdict(name, judged, found, after, _cpu_s() - began), []
    summary = run_many(judged.first, SEEDS, processes=1, sabotage=name, until_failure=True)
    found = next((f"seed {seed}: {texts[0]}" for seed, texts in summary.failures.items()), "")
    verdict = Verdict(name, judged, found, f"{summary.seeds} seeds", _cpu_s() - began)
    return verdict, list(summary.failures)


def unbroken(names: Iterable[str], seeds: Iterable[int]) -> Iterator[tuple[str, str]]:
    """Show the engine as it is to the same judges, and to the simulation with the same seeds; yield what each found."""
    asked = {JUDGES[name].key: JUDGES[name] for name in names}
    where = sorted({one for judged in asked.values() for one in judged.where})
    for judged in (POWER, PARSER):
        if judged.key in asked:
            yield judged.judge, _child(" ", judged)
    if where:
        yield f"tests ({len(where)} files)", _child(" ", Judged("tests", tuple(where)))
    for seed in sorted(set(seeds)):
        summary = run_many(seed, 1, processes=1)
        yield f"seed {seed}", "".join(text for texts in summary.failures.values() for text in texts)


def _cpu_s() -> float:
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def _words(name: str) -> str:
    of_it = SABOTAGES[name]
    return (of_it.__doc__ or "").partition("\n")[0]


def main() -> int:
    """Run from the command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--only", choices=sorted(JUDGES), action="append", help="only this one")
    parser.add_argument("--list", action="store_true", help="say what each does, and run nothing")
    parser.add_argument("--judge", nargs="+", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.judge:
        _serve(options.judge[0], options.judge[1:])
        return 0
    names = options.only or list(JUDGES)
    if options.list:
        for name in names:
            say(f"{name:40} {JUDGES[name].judge:14}  {_words(name)}")
        return 0
    began = time.monotonic()
    seeds: list[int] = []
    missed = 0
    for name in names:
        verdict, found_by = show(name)
        seeds += found_by
        missed += not verdict.found
        found = verdict.found or "NOT CAUGHT"
        say(
            f"{name:40} {verdict.judged.judge:14} {verdict.after:>9} {verdict.seconds:5.1f} s  {found[:110]}"
        )
    wrong = 0
    for judge, found in unbroken(names, seeds):
        wrong += bool(found)
        say(f"unbroken: {judge:30} {found[:110] or 'clean'}")
    took = f"{time.monotonic() - began:.0f} s, {_cpu_s():.0f} s of CPU"
    say(
        f"{len(names)} sabotages, {len(names) - missed} caught; unbroken: {wrong} findings ({took})"
    )
    return 1 if missed or wrong else 0


assert broken is not None  # it adds to the list when it is imported

if __name__ == "__main__":
    sys.exit(main())
