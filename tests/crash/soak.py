"""A day's traffic, faster: memory, descriptors, threads, tasks, WAL and journal bytes an order stay flat (G10, G11).

``python -m tests.crash.soak [--signals N] [--accounts N] [--rate SIGNALS/S]`` runs a real engine against the simulated
venue, both processes of their own, and prints a line a minute and a verdict. Signals buy and sell in turn; after each
run every order the engine sent is at the venue, each once, and the positions are equal. 86,400 signals to 20 accounts
are a day at one signal a second. A broker takes only so many orders of an account a second, so that a faster day needs
more accounts: they stand in groups of ``--accounts``, and signals go to one group after the other. Linux only: it
reads ``/proc``.
"""

from __future__ import annotations

import argparse
import json
import math
import sqlite3
import statistics
import sys
import tempfile
import threading
import time
from contextlib import closing
from dataclasses import dataclass, field
from itertools import combinations
from pathlib import Path
from typing import Any

import httpx

from tests.processes import (
    EngineProcess,
    VenueProcess,
    alpaca,
    import_accounts,
    signal_document,
    until,
    write_config,
)

SENDERS = 4
PER_ACCOUNT = 2.0  # orders a second: the broker takes 200 a minute, of which entries may have 70 %
WARM_UP = 0.25  # of the signals: until then the newest few thousand rows still fill their places in memory
SAMPLES = 120
RSS_MIB_PER_100_000 = 0.5
WAL_MIB = 64.0
BYTES_AN_ORDER = (
    1.1  # the journal's growth an order: that of the last half to that of the one before
)


@dataclass
class Sample:
    """The engine's resources at one moment."""

    signals: int
    rss_mib: float
    descriptors: int
    threads: int
    tasks: int
    wal_mib: float
    journal_mib: float
    loop_lag_ms: float


@dataclass
class Verdict:
    """What a run came to."""

    signals: int
    orders: int
    seconds: float
    samples: list[Sample] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)
    held_back: int = 0

    def steady(self) -> list[Sample]:
        """Return the samples after the warm-up."""
        return [sample for sample in self.samples if sample.signals >= WARM_UP * self.signals]

    def slope(self) -> float:
        """Return the growth of the resident memory in MiB per 100,000 signals (Theil–Sen: the median of all slopes)."""
        slopes = [
            (b.rss_mib - a.rss_mib) / (b.signals - a.signals)
            for a, b in combinations(self.steady(), 2)
            if b.signals > a.signals
        ]
        return statistics.median(slopes) * 100_000 if slopes else 0.0

    def grown(self, name: str) -> int:
        """Return by how much a count grew from the warm-up's end to the run's."""
        steady = self.steady()
        third = max(1, len(steady) // 3)
        first, last = steady[:third], steady[-third:]
        return int(
            statistics.median(getattr(each, name) for each in last)
            - statistics.median(getattr(each, name) for each in first)
        )

    def journal_growth(self) -> tuple[float, float]:
        """Return the journal's bytes a signal in the first and in the last half of the steady time."""
        steady = self.steady()
        halves = steady[: len(steady) // 2 + 1], steady[len(steady) // 2 :]
        first, last = (
            (half[-1].journal_mib - half[0].journal_mib)
            * (1 << 20)
            / max(1, half[-1].signals - half[0].signals)
            for half in halves
        )
        return first, last

    def judge(self) -> list[str]:
        """Return everything that is wrong: what was lost, and what grew."""
        problems = list(self.problems)
        steady = self.steady()
        if self.slope() > RSS_MIB_PER_100_000:
            problems.append(
                f"the resident memory grew by {self.slope():.1f} MiB in 100,000 signals"
            )
        if self.held_back:
            problems.append(f"{self.held_back} signals were held back by orders of unknown outcome")
        problems += [
            f"{self.grown(name):+d} {name}"
            for name in ("descriptors", "threads", "tasks")
            if self.grown(name)
        ]
        if max(each.wal_mib for each in steady) > WAL_MIB:
            problems.append(f"the WAL grew beyond {WAL_MIB:g} MiB")
        first, last = self.journal_growth()
        if last > BYTES_AN_ORDER * first:
            problems.append(f"{last:.0f} bytes of journal a signal, {first:.0f} before")
        return problems

    def line(self) -> str:
        """Say it in one line."""
        steady = self.steady()
        lags = sorted(sample.loop_lag_ms for sample in steady)
        a_signal = max(1.0, self.orders / self.signals)
        first, last = (each / a_signal for each in self.journal_growth())
        held_back = f"{self.held_back} held back by unknown orders, " if self.held_back else ""
        return (
            f"{self.signals} signals, {held_back}{self.orders} orders, {self.seconds:.0f} s "
            f"({self.orders / self.seconds:.0f} orders/s): RSS {steady[0].rss_mib:.1f} → {steady[-1].rss_mib:.1f} MiB, "
            f"slope {self.slope():+.2f} MiB per 100,000 signals; descriptors {self.grown('descriptors'):+d}, "
            f"threads {self.grown('threads'):+d}, tasks {self.grown('tasks'):+d}, "
            f"WAL at most {max(sample.wal_mib for sample in steady):.1f} MiB, "
            f"journal {first:.0f} → {last:.0f} bytes an order, loop lag p99 of samples "
            f"{lags[int(len(lags) * 0.99)]:.1f} ms; {'; '.join(self.judge()) or '0 lost, 0 duplicated, nothing grew'}"
        )


def sample(engine: EngineProcess, signals: int) -> Sample:
    """Read the engine's resources."""
    process = Path("/proc") / str(engine.pid)
    status = dict(
        line.split(":", 1) for line in (process / "status").read_text("ascii").splitlines()
    )
    metrics = dict(
        line.rsplit(" ", 1)
        for line in engine.request("GET", "/metrics").text.splitlines()
        if not line.startswith("#")
    )
    wal = engine.home / "journal.sqlite3-wal"
    return Sample(
        signals=signals,
        rss_mib=int(status["VmRSS"].split()[0]) / 1024,
        descriptors=sum(1 for _ in (process / "fd").iterdir()),
        threads=int(status["Threads"]),
        tasks=int(float(metrics["volley_tasks"])),
        wal_mib=wal.stat().st_size / (1 << 20) if wal.exists() else 0.0,
        journal_mib=(engine.home / "journal.sqlite3").stat().st_size / (1 << 20),
        loop_lag_ms=float(metrics["volley_loop_lag_ms"]),
    )


class Source:
    """Posts signals at a rate from a few threads, buys and sells in turn."""

    def __init__(self, engine: EngineProcess, signals: int, rate: float, groups: int) -> None:
        self._engine = engine
        self._groups = groups
        self._signals = signals
        self._rate = rate
        self._lock = threading.Lock()
        self._next = 0
        self._began = time.monotonic()
        self.accepted = 0
        self.refused: list[str] = []
        self.held_back = 0  # refused for every account: orders of unknown outcome held it up (C21)
        self.threads = [threading.Thread(target=self._run, daemon=True) for _ in range(SENDERS)]
        for thread in self.threads:
            thread.start()

    def _take(self) -> int | None:
        with self._lock:
            if self._next >= self._signals:
                return None
            self._next += 1
            return self._next - 1

    def _run(self) -> None:
        headers = dict(self._engine.http.headers)
        with httpx.Client(timeout=60, trust_env=False, headers=headers) as client:
            while (number := self._take()) is not None:
                wait = self._began + number / self._rate - time.monotonic()
                if wait > 0:
                    time.sleep(wait)
                turn, group = divmod(number, self._groups)
                document = signal_document(
                    id=f"soak-{number}",
                    action="buy" if turn % 2 == 0 else "sell",
                    audience={"tags": [f"group-{group}"]},
                )
                answer = client.post(self._engine.url + "/v1/signals", json=document)
                with self._lock:
                    if answer.status_code == 202 and answer.json()["state"] == "accepted":
                        self.accepted += 1
                    elif "UNKNOWN_OPEN" in answer.text:
                        self.held_back += 1
                    else:
                        self.refused.append(answer.text[:200])

    @property
    def done(self) -> bool:
        """Say whether everything was posted."""
        return not any(thread.is_alive() for thread in self.threads)


def compare(engine: EngineProcess, venue: VenueProcess, orders: int) -> list[str]:
    """Return what differs between the engine's journal and the venue's book."""
    problems = []
    summary = venue.get("/sim/summary")
    with closing(sqlite3.connect(engine.home / "journal.sqlite3")) as journal:
        sent = journal.execute("SELECT count(*) FROM orders WHERE order_id != ''").fetchone()[0]
        rows = journal.execute("SELECT account, symbol, qty FROM positions").fetchall()
        plans = journal.execute("SELECT plan FROM signals")
        planned = sum(len(of[-1]) for (plan,) in plans for of in json.loads(plan)["orders"])
    if not planned == sent == summary["orders"] == orders:
        problems.append(
            f"{planned} planned, {orders} counted, {sent} in the journal, {summary['orders']} at the venue"
        )
    if summary["distinct_client_order_ids"] != summary["orders"]:
        problems.append(f"{summary['orders'] - summary['distinct_client_order_ids']} duplicated")
    ours: dict[tuple[str, str], Any] = {(account, symbol): qty for account, symbol, qty in rows}
    for key, account in summary["accounts"].items():
        name = key.replace("KEY", "A-")
        for symbol, position in account["positions"].items():
            if ours.get((name, symbol), "0") != position["qty"]:
                problems.append(f"{name} {symbol}: {ours.get((name, symbol))}, {position['qty']}")
    return problems


def run(signals: int, accounts: int, rate: float, directory: Path, *, said: bool) -> Verdict:
    """Run it; returns what it came to."""
    with VenueProcess(directory, "--still") as venue:
        home = directory / "home"
        home.mkdir(mode=0o700)
        write_config(home, limits={"price_reference": "when_available"})
        groups = max(1, math.ceil(rate / PER_ACCOUNT))
        import_accounts(
            home,
            [
                alpaca(number, venue.url, tags=[f"group-{number % groups}"])
                for number in range(accounts * groups)
            ],
            VOLLEY_ENGINE__ALLOW_SIMULATED_VENUES="true",
        )
        with EngineProcess(home) as engine:
            engine.wait_connected(accounts * groups)
            began = time.monotonic()
            source = Source(engine, signals, rate, groups)
            verdict = Verdict(signals, 0, 0.0)
            every = signals / rate / SAMPLES
            spoke = began
            while not source.done:
                source.threads[0].join(every)
                verdict.samples.append(sample(engine, source.accepted))
                if said and time.monotonic() - spoke > 60:
                    spoke = time.monotonic()
                    sys.stdout.write(f"{verdict.samples[-1]}\n")
                    sys.stdout.flush()
            verdict.seconds = time.monotonic() - began
            until(lambda: engine.status()["open_orders"] == 0, 120, "every order has an outcome")
            verdict.orders = engine.status()["orders"]
            if source.refused:
                verdict.problems.append(f"{len(source.refused)} refused: {source.refused[0]}")
            verdict.held_back = source.held_back
        verdict.problems += compare(engine, venue, verdict.orders)
    return verdict


def main() -> int:
    """Run from the command line; 1 when something was lost, duplicated or grew."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--signals", type=int, default=86_400)
    parser.add_argument("--accounts", type=int, default=20)
    parser.add_argument("--rate", type=float, default=24.0)
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as directory:
        verdict = run(args.signals, args.accounts, args.rate, Path(directory), said=True)
    sys.stdout.write(verdict.line() + "\n")
    return 1 if verdict.judge() else 0


if __name__ == "__main__":
    sys.exit(main())
