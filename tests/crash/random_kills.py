"""SIGKILL at random moments while signals flow and the venue fails three requests in ten, in every way it knows.

``python -m tests.crash.random_kills --kills 5000 --seed 7`` prints a line a chapter and the total. A chapter is a
book of its own, with its venue: some hundred lives of an engine, each of 20 to 500 ms. A source sends signals without
pause, again and again until each is answered, and some once more after that; now and then all is left alone until
every order is proven, for people to do what only they can. At a chapter's end the venue's book is the judge.
"""

from __future__ import annotations

import argparse
import json
import random
import sys
import tempfile
import threading
import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from decimal import Decimal
from pathlib import Path
from typing import Any, TextIO

import httpx

from tests.crash.history import Sent
from tests.crash.rig import CLASSES, SETTLE_S, Book, MakeEngine, Verdict
from tests.crash.zygote import engines
from tests.processes import VenueProcess, signal_document

CHAPTER = 150
"""Kills of one book: afterwards its books would cost more to read than to make."""
CALM_EVERY = 20
RATE = 0.3
PROMISE_S = 2.0
"""Within this the venue shows an order: an engine may believe "not found" from then on."""
LATE_S = 1.5
"""How late it shows what it hides, and takes what it takes late: long after the next engine has begun to ask."""
LIVES_S = (0.02, 0.5)
ACCOUNTS = 6
PAUSE_S = 0.01
SYMBOLS = {
    "D": ("AAPL", "MSFT", "NVDA", "AMZN", "META", "TSLA", "GOOG", "AMD", "INTC", "ORCL"),
    "T": tuple(
        f"{coin}USDT"
        for coin in ["BTC", "ETH", "BNB", "SOL", "XRP", "ADA", "DOT", "LTC", "TRX", "UNI"]
    ),
    "N": tuple(
        f"NSE:{name}"
        for name in [
            "INFY",
            "TCS",
            "RELIANCE",
            "HDFCBANK",
            "ICICIBANK",
            "SBIN",
            "ITC",
            "LT",
            "WIPRO",
            "AXISBANK",
        ]
    ),
}


class Source(threading.Thread):
    """Signals without end: each is sent until it is answered, one in seven again afterwards."""

    def __init__(self, book: Book, kind: str, seed: str) -> None:
        super().__init__(name=f"source-{seed}", daemon=True)
        self._book = book
        self._kind = kind
        self._chance = random.Random(seed)
        self._number = 0
        self.flows = threading.Event()
        self.idle = threading.Event()
        self.over = False
        self.failure = ""

    def run(self) -> None:
        """Send until ``over``; while nothing ``flows``, be ``idle``."""
        with httpx.Client(timeout=30, trust_env=False) as http:
            while True:
                if not self.flows.is_set():
                    self.idle.set()
                    self.flows.wait()
                    self.idle.clear()
                if self.over:
                    return
                try:
                    self._one(http)
                except Exception as error:  # noqa: BLE001 (told by the book's own thread)
                    self.failure = f"{type(error).__name__}: {error}"
                time.sleep(PAUSE_S)

    def pause(self) -> None:
        """Let what is under way be answered, then send nothing."""
        self.flows.clear()
        if not self.idle.wait(SETTLE_S):
            raise AssertionError("the source gets no answer")

    def stop(self) -> None:
        """End."""
        self.over = True
        self.flows.set()
        self.join(SETTLE_S)

    def _one(self, http: httpx.Client) -> None:
        number, chance = self._number, self._chance
        self._number += 1
        sent = Sent(self._document(f"r-{number}"))
        self._book.sent[sent.document["id"]] = sent
        self._post(http, sent)
        if chance.random() < 1 / 7:
            earlier = chance.choice(list(self._book.sent.values())[-40:])
            self._post(http, earlier)

    def _document(self, signal_id: str) -> dict[str, Any]:
        chance = self._chance
        symbol = chance.choice(SYMBOLS[self._kind])
        fields: dict[str, Any] = {
            "id": signal_id,
            "symbol": symbol,
            "valid_for_s": chance.choice((1, 10, 30)),
        }
        what = chance.random()
        if what < 0.12:
            fields |= {
                "order_type": "limit",
                "limit_price": str(self._book.dialect.price * Decimal("0.9")),
                "time_in_force": "day" if self._kind == "N" else "gtc",
                "strategy": "rest",
            }
        elif what < 0.2:
            fields |= {"action": "cancel", "strategy": "rest"}
        elif what < 0.32:
            fields |= {"action": "close"}
        elif what < 0.6 and self._kind != "T":  # nobody sells what he has not at a spot exchange
            fields |= {"action": "sell"}
        return signal_document(**fields)

    def _post(self, http: httpx.Client, sent: Sent) -> None:
        engine = self._book.engine
        deadline = time.monotonic() + SETTLE_S
        while time.monotonic() < deadline:
            try:
                answer = http.post(
                    f"{engine.url}/v1/signals",
                    json=sent.document,
                    headers={"Authorization": engine.http.headers["Authorization"]},
                )
            except httpx.HTTPError:
                time.sleep(0.02)
                continue
            if answer.status_code in {200, 202}:
                sent.answers.append((answer.status_code, answer.json()))
                return
            if answer.status_code not in {429, 503}:
                raise AssertionError(f"{sent.key}: {answer.status_code} {answer.text}")
            time.sleep(0.02)
        raise AssertionError(f"{sent.key} was never answered")


@dataclass(slots=True)
class Total:
    """What a run came to, by class."""

    kills: dict[str, int] = field(default_factory=dict)
    orders: dict[str, int] = field(default_factory=dict)
    signals: int = 0
    faults: int = 0
    resolved_by_hand: int = 0
    rearmed: int = 0
    seconds: float = 0.0
    failures: list[str] = field(default_factory=list)

    def take(self, kind: str, name: str, verdict: Verdict) -> None:
        """Add one chapter."""
        self.kills[kind] = self.kills.get(kind, 0) + verdict.kills
        self.orders[kind] = self.orders.get(kind, 0) + verdict.orders
        self.signals += verdict.signals
        self.faults += sum(verdict.faults.values())
        self.resolved_by_hand += verdict.resolved_by_hand
        self.rearmed += verdict.rearmed
        self.failures += [f"{name}: {text}" for text in verdict.violations]

    def _count(self, *rules: str) -> int:
        return sum(f": {rule}:" in text for text in self.failures for rule in rules)

    def line(self) -> str:
        """Return the summary."""
        kills, orders = sum(self.kills.values()), sum(self.orders.values())
        each = ", ".join(f"{k} {n}/{self.orders[k]}" for k, n in sorted(self.kills.items()))
        lost, twice, ghosts = (
            self._count("lost"),
            self._count("I3", "I5"),
            self._count("ghost", "I4"),
        )
        return (
            f"{kills} kills, {orders} orders of {self.signals} signals ({each}), {self.faults} faults: "
            f"lost {lost}, duplicated {twice}, ghosts {ghosts}, "
            f"other breaches {len(self.failures) - lost - twice - ghosts}; "
            f"by hand {self.resolved_by_hand}, armed again {self.rearmed}; {self.seconds:.0f} s, "
            f"{kills / max(self.seconds, 0.001) * 60:.0f} kills a minute"
        )


def chapter(
    directory: Path, make: MakeEngine, kind: str, seed: str, kills: int, settle_s: float
) -> Verdict:
    """Kill one book's engine ``kills`` times, and judge."""
    chance = random.Random(seed)
    directory.mkdir(parents=True)
    with VenueProcess(directory, "--still", "--dialect", CLASSES[kind]) as venue:
        # What is tripped by a failing broker would only thin the traffic: those controls have their own tests.
        quiet = {"consecutive_rejects": 0, "reject_percent": 0, "breaker_percent": 0}
        book = Book(directory, make, venue, kind, seed, accounts=ACCOUNTS, safety=quiet)
        book.engine.settle_s = settle_s
        venue.post("/sim/price", {symbol: str(book.dialect.price) for symbol in SYMBOLS[kind]})
        source = Source(book, kind, seed)
        try:
            book.start()
            source.start()
            _storm(book, source, chance, kills)
            source.pause()
            source.stop()
            if source.failure:
                book.verdict.violations.append(f"rig: {source.failure}")
            return book.judge()
        finally:
            source.over = True
            source.flows.set()
            book.close()


def _storm(book: Book, source: Source, chance: random.Random, kills: int) -> None:
    seed = chance.randrange(1 << 30)
    book.fault(
        {
            "action": "visibility_lag",
            "probability": RATE / 3,
            "times": 0,
            "delay_s": LATE_S,
            "seed": seed,
        },
        {"action": "mix", "rate": RATE, "seed": seed + 1, "delay_s": LATE_S},
    )
    for number in range(1, kills + 1):
        source.flows.set()
        time.sleep(chance.uniform(*LIVES_S))
        book.kill()
        # One half begins to live as it serves, in the middle of its recovery, the other once its accounts are there.
        book.start(connected=chance.random() < 0.5)
        if number % CALM_EVERY == 0 or number == kills:
            source.pause()
            book.until(book.settled, SETTLE_S, "every order is proven")
            book.rearm_doubted()


def run(
    kills: int,
    seed: int,
    directory: Path,
    classes: Iterable[str] = CLASSES,
    settle_s: float = PROMISE_S,
) -> Iterator[tuple[str, Verdict, Total]]:
    """Run chapters of every class side by side until so many engines were killed; yield each with the total so far.

    ``settle_s``: how long an engine gives its broker to show an order. Less than ``PROMISE_S`` and it sends orders
    twice, which must be found.
    """
    classes = tuple(classes)
    total, lock, begun = Total(), threading.Condition(), time.monotonic()
    done: list[tuple[str, str, Verdict]] = []

    def work(kind: str, share: int, make: MakeEngine) -> None:
        part = 0
        while share > 0:
            count, name = min(share, CHAPTER), f"{kind}{seed}-{part}"
            try:
                verdict = chapter(directory / name, make, kind, name, count, settle_s)
            except Exception as error:  # noqa: BLE001 (a chapter that cannot be told is a failure, not the end)
                verdict = Verdict(violations=[f"rig: {type(error).__name__}: {error}"])
            share, part = share - count, part + 1
            with lock:
                done.append((kind, name, verdict))
                lock.notify()
        with lock:
            done.append((kind, "", Verdict()))
            lock.notify()

    shares = [kills // len(classes) + (n < kills % len(classes)) for n in range(len(classes))]
    with engines() as make:
        workers = [
            threading.Thread(target=work, args=(kind, share, make), daemon=True)
            for kind, share in zip(classes, shares, strict=True)
        ]
        for worker in workers:
            worker.start()
        left = len(workers)
        while left:
            with lock:
                while not done:
                    lock.wait()
                kind, name, verdict = done.pop(0)
            if not name:
                left -= 1
                continue
            total.take(kind, name, verdict)
            total.seconds = time.monotonic() - begun
            yield name, verdict, total
        for worker in workers:
            worker.join()


def _say(*what: str, to: TextIO = sys.stdout) -> None:
    print(*what, file=to, flush=True)


def main() -> None:
    """Run and print."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--kills", type=int, default=300)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--classes", default="D,T,N")
    parser.add_argument("--settle", type=float, default=PROMISE_S)
    parser.add_argument("--keep", type=Path, help="keep homes and logs here")
    given = parser.parse_args()
    total = Total()
    with tempfile.TemporaryDirectory(prefix="volley-random-kills-") as temporary:
        directory = given.keep or Path(temporary)
        chapters = run(given.kills, given.seed, directory, given.classes.split(","), given.settle)
        for name, verdict, total in chapters:
            told: dict[str, Any] = {
                "kills": verdict.kills,
                "orders": verdict.orders,
                "statuses": verdict.statuses,
            }
            _say(name, json.dumps(told))
            for text in verdict.violations:
                _say(f"{name}: {text}", to=sys.stderr)
            _say("so far:", total.line())
    _say(total.line())
    raise SystemExit(bool(total.failures))


if __name__ == "__main__":
    main()
