"""SIGKILL before and after every kill point, for every class of broker; then recovery, and the venue's book as judge.

``python -m tests.crash.kill_points --rounds 10`` prints one line a class and the total; ``--points K13,K22`` and
``--classes D,T,N`` choose. D: the broker refuses a client id it knows; T: it does so only while the order is open; N:
the id is a label. ``--action stop`` holds the engine up at each point until every signal is too old instead, and lets
it go on: nothing that has become stale may leave then.
"""

from __future__ import annotations

import argparse
import itertools
import json
import queue
import sys
import tempfile
import threading
import time
from collections.abc import Iterable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from pathlib import Path

from engine.loadtest.dialects import DIALECTS
from tests.crash.points import POINTS
from tests.crash.rig import CLASSES, SECRET, Book, MakeEngine, RigError, Verdict
from tests.crash.scenarios import SCENARIOS
from tests.crash.zygote import engines
from tests.processes import VenueProcess
from tests.servers import Mongo, Valkey

AT_ONCE = 6
TRIES = 3
LAG_S = 0.7
STOPPED_VALID_S = 2.0
SETTLE_S = 1.0
"""How long the brokers of these runs take to show an order; their venue keeps to it."""


@dataclass(frozen=True, slots=True)
class Case:
    """One kill: where, and at which class of broker."""

    point: str
    side: str
    kind: str
    action: str = "kill"
    round: int = 0

    @property
    def name(self) -> str:
        """Return its name, good for a directory."""
        return f"{self.point}.{self.side}-{self.kind}-{self.action}-{self.round}"

    @property
    def arm(self) -> str:
        """Return what arms its failpoint; later rounds come by a different number of passes."""
        hit = POINTS[self.point].hit + self.round % 3
        return f"{self.point}.{self.side}={self.action}@{hit}"


@dataclass(slots=True)
class Total:
    """What a whole run came to."""

    cases: int = 0
    kills: int = 0
    stops: int = 0
    signals: int = 0
    orders: int = 0
    resolved_by_hand: int = 0
    seconds: float = 0.0
    points: set[str] = field(default_factory=set)
    failures: list[str] = field(default_factory=list)

    def take(self, case: Case, verdict: Verdict) -> None:
        """Add one case."""
        self.cases += 1
        self.kills += verdict.kills
        self.stops += verdict.stops
        self.signals += verdict.signals
        self.orders += verdict.orders
        self.resolved_by_hand += verdict.resolved_by_hand
        self.points.add(f"{case.point}.{case.side}")
        self.failures += [f"{case.name}: {text}" for text in verdict.violations]

    @property
    def lost(self) -> int:
        """Return how many orders were lost."""
        return sum(": lost:" in text for text in self.failures)

    @property
    def duplicated(self) -> int:
        """Return how many orders were duplicated."""
        return sum(": I3:" in text or ": I5:" in text for text in self.failures)

    def line(self) -> str:
        """Return the summary."""
        a_minute = self.kills / self.seconds * 60 if self.seconds else 0.0
        return (
            f"{self.kills} kills, {self.stops} stops at {len(self.points)} points, "
            f"{self.orders} orders of {self.signals} signals: "
            f"lost {self.lost}, duplicated {self.duplicated}, other breaches "
            f"{len(self.failures) - self.lost - self.duplicated}, by hand {self.resolved_by_hand}, "
            f"{self.seconds:.0f} s, {a_minute:.0f} kills a minute"
        )


class NeverPastError(RigError):
    """A life did not pass its point: how often some are passed depends on what is told together."""


def cases(
    points: Iterable[str] = POINTS,
    classes: Iterable[str] = CLASSES,
    rounds: int = 1,
    action: str = "kill",
) -> Iterator[Case]:
    """Return every case there is."""
    wanted = set(classes)
    for number, point, side in itertools.product(range(rounds), points, ("before", "after")):
        for kind in POINTS[point].classes:
            if kind in wanted:
                yield Case(point, side, kind, action, number)


def run_case(case: Case, directory: Path, make: MakeEngine, venue: VenueProcess) -> Verdict:
    """Kill one engine at one point, and let the next one make it good."""
    way = SCENARIOS[POINTS[case.point].way]
    with ExitStack() as stack:
        options = dict(way.options)
        if way.servers:
            valkey, mongo = stack.enter_context(Valkey()), stack.enter_context(Mongo())
            options["servers"] = (valkey.url, mongo.url)
        name = case.name.replace(".", "")
        if not way.options.get("logged_in", True):
            venue = stack.enter_context(_venue_with(directory, case, name))
        book = Book(directory / case.name, make, venue, case.kind, name, **options)
        stack.callback(book.close)
        book.engine.settle_s = SETTLE_S
        if case.kind == "T":  # the next engine asks before an order can be seen
            book.always = [{"action": "visibility_lag", "times": 0, "delay_s": LAG_S}]
            book.fault()
        if case.action == "stop":
            book.valid_for_s = STOPPED_VALID_S
            book.stopped_past_check = POINTS[case.point].past_check
            book.hold_up()
        way.play(book, case.arm)
        if not book.hit:
            raise NeverPastError(f"never came past {case.arm}")
        return book.judge()


def _venue_with(directory: Path, case: Case, name: str) -> VenueProcess:
    """Return a venue that knows one key before its first login."""
    place = directory / f"{case.name}-venue"
    place.mkdir(parents=True)
    dialect = DIALECTS[CLASSES[case.kind]]
    key = dialect.credentials(name, 0)[dialect.key]
    (place / "accounts.json").write_text(json.dumps({key: SECRET}), "utf-8")
    arguments = ("--dialect", dialect.name, "--accounts", str(place / "accounts.json"))
    return VenueProcess(place, "--still", *arguments)


def run(chosen: Iterable[Case], directory: Path, at_once: int = AT_ONCE) -> Total:
    """Run cases, a few at a time, each class on a venue of its worker's own."""
    total, lock = Total(), threading.Lock()
    waiting: queue.SimpleQueue[Case] = queue.SimpleQueue()
    for case in chosen:
        waiting.put(case)
    started = time.monotonic()
    with engines() as make:
        workers = [
            threading.Thread(target=_work, args=(waiting, directory / str(n), make, total, lock))
            for n in range(at_once)
        ]
        for worker in workers:
            worker.start()
        for worker in workers:
            worker.join()
    total.seconds = time.monotonic() - started
    return total


def _work(
    waiting: queue.SimpleQueue[Case],
    directory: Path,
    make: MakeEngine,
    total: Total,
    lock: threading.Lock,
) -> None:
    venues: dict[str, VenueProcess] = {}
    with ExitStack() as stack:
        while True:
            try:
                case = waiting.get_nowait()
            except queue.Empty:
                return
            try:
                venue = venues.get(case.kind)
                if venue is None:
                    place = directory / case.kind
                    place.mkdir(parents=True)
                    arguments = ("--still", "--dialect", CLASSES[case.kind])
                    venue = venues[case.kind] = stack.enter_context(VenueProcess(place, *arguments))
                verdict = _until_passed(case, directory, make, venue)
            except Exception as error:  # noqa: BLE001 (a case that cannot be told is a failure, not the end)
                verdict = Verdict(violations=[f"rig: {type(error).__name__}: {error}"])
            with lock:
                total.take(case, verdict)
                for text in verdict.violations:
                    print(f"{case.name}: {text}", file=sys.stderr, flush=True)  # noqa: T201 (told at once)


def _until_passed(case: Case, directory: Path, make: MakeEngine, venue: VenueProcess) -> Verdict:
    """Run a case; one that never came past its point has another life, three at most."""
    for life in range(TRIES - 1):
        try:
            return run_case(replace(case, round=case.round + 1000 * life), directory, make, venue)
        except NeverPastError:
            continue
    return run_case(replace(case, round=case.round + 1000 * TRIES), directory, make, venue)


def main() -> None:
    """Run the cases chosen and print what came of them."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--points", default="", help="names or labels, by comma; all")
    parser.add_argument("--classes", default="D,T,N")
    parser.add_argument("--rounds", type=int, default=1)
    parser.add_argument("--action", choices=("kill", "stop"), default="kill")
    parser.add_argument("--at-once", type=int, default=AT_ONCE)
    given = parser.parse_args()
    wanted = set(filter(None, given.points.split(",")))
    points = [n for n, p in POINTS.items() if not wanted or {n, p.label} & wanted]
    with tempfile.TemporaryDirectory(prefix="volley-kill-points-") as directory:
        chosen = cases(points, given.classes.split(","), given.rounds, given.action)
        total = run(chosen, Path(directory), given.at_once)
    print(total.line())  # noqa: T201 (its purpose)
    raise SystemExit(bool(total.failures))


if __name__ == "__main__":
    main()
