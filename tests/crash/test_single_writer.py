"""One engine a home, one a book: a hundred starts at once, a copied home, a frozen plan (C27, C28, F03, F49, F51)."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from engine.errors import StoreError
from engine.home import Home
from engine.stores.journal import Journal
from tests.crash.test_kill9 import all_terminal, arrived, intents_of, prepared
from tests.processes import EngineProcess, VenueProcess, signal_document, until, write_config

ROOT = Path(__file__).parents[2]
STARTS = 100
STAMP = "2026-11-23T15:00:00.000000Z"
# What `main.py engine` does with the home, without the rest of an engine, so that a hundred fit on one machine.
CONTENDER = """
import sys
from engine.errors import HomeLocked
from engine.home import Home
home = Home(sys.argv[1])
sys.stdin.readline()
try:
    with home.lock():
        print("holds", flush=True)
        sys.stdin.readline()
except HomeLocked as error:
    print(error, flush=True)
"""


def test_of_a_hundred_simultaneous_starts_one_gets_the_home(tmp_path: Path) -> None:
    """All wait at the same line; the winner keeps the home until the last has been refused."""
    children = [
        subprocess.Popen(
            [sys.executable, "-c", CONTENDER, str(tmp_path)],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, cwd=ROOT, text=True,
        )
        for _ in range(STARTS)
    ]  # fmt: skip
    try:
        for child in children:
            assert child.stdin is not None
            child.stdin.write("go\n")
            child.stdin.flush()
        said = [child.stdout.readline().strip() for child in children if child.stdout]
        winners = [child.pid for child, line in zip(children, said, strict=True) if line == "holds"]
        assert len(winners) == 1
        refused = [line for line in said if line != "holds"]
        assert len(refused) == STARTS - 1
        named = [line for line in refused if f"process {winners[0]}" in line]
        assert (
            len(named) >= STARTS - 3
        )  # who comes before the winner has written its name is told of a process
        assert all("another engine holds" in line for line in refused)
    finally:
        for child in children:
            child.communicate("end\n")


def test_engines_started_at_once_are_one(tmp_path: Path) -> None:
    write_config(tmp_path)
    ends: list[tuple[int, str, float]] = []

    def start() -> None:
        began = time.monotonic()
        done = subprocess.run(
            [sys.executable, "main.py", "--home", str(tmp_path), "engine", "--for", "6"],
            cwd=ROOT, capture_output=True, text=True, env=dict(os.environ), check=False,
        )  # fmt: skip
        ends.append((done.returncode, done.stderr, time.monotonic() - began))

    threads = [threading.Thread(target=start) for _ in range(5)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(code for code, *_ in ends) == [0, 3, 3, 3, 3]
    assert all("another engine holds" in text for code, text, _ in ends if code == 3)


async def test_an_earlier_epoch_writes_nothing(tmp_path: Path) -> None:
    """F50: two journals of one file, whatever became of the lock: the one opened first writes no more, and says why."""
    path = tmp_path / "journal.sqlite3"
    first, second = Journal(path), Journal(path)
    await first.open()
    await first.commit_halt("symbol:A", "halted", "", STAMP, "operator")
    await second.open()
    try:
        with pytest.raises(StoreError, match="EPOCH: another engine writes this book"):
            await first.commit_halt("symbol:B", "halted", "", STAMP, "operator")
        assert first.failed
        await second.commit_halt("symbol:C", "halted", "", STAMP, "operator")
        loaded = await second.load()
    finally:
        await first.close()
        await second.close()
    assert {halt["scope"] for halt in loaded.halts} == {"symbol:A", "symbol:C"}


def test_a_copied_home_sends_nothing_until_it_is_armed_by_a_person(tmp_path: Path) -> None:
    """F51: the book is copied while it trades; the original goes on, the copy takes signals and sends nothing."""
    with VenueProcess(tmp_path, "--still") as venue:
        home = prepared(tmp_path, venue, 5)
        with EngineProcess(home) as original:
            original.wait_connected(5)
            original.signal(id="s-1")
            until(lambda: arrived(venue) == 5)
            until(lambda: all_terminal(original))
            copy = tmp_path / "copy"
            shutil.copytree(home, copy)
            for name in ("lock", "engine.json"):
                (copy / name).unlink(missing_ok=True)
            with EngineProcess(copy) as second:
                assert "disarmed" in second.line
                second.wait_connected(5)
                answer = second.request("POST", "/v1/signals", json=signal_document(id="s-2"))
                assert answer.json()["code"] == "DISARMED"
                original.signal(id="s-3")
                until(lambda: arrived(venue) == 10)
                until(lambda: all_terminal(original))
                assert arrived(venue) == 10
        assert Home(copy).running_engine() is None


def test_the_eligible_set_is_frozen_with_the_plan(tmp_path: Path) -> None:
    """F03: between the kill and the restart accounts are switched off and another comes: the plan stands as it was."""
    with VenueProcess(
        tmp_path, "--still", "--latency-ms", "80", "--latency-jitter-ms", "40"
    ) as venue:
        home = prepared(tmp_path, venue, 8)
        with EngineProcess(home) as engine:
            engine.wait_connected(8)
            engine.signal(id="warm-up")
            until(lambda: arrived(venue) == 8 and all_terminal(engine))
            venue.post("/sim/faults", [{"action": "drop", "match": {"method": "POST"}, "times": 0}])
            engine.request(
                "POST", "/v1/signals", json=signal_document(id="frozen", valid_for_s=120)
            )
            engine.kill()
            venue.post("/sim/faults", [])
            planned = intents_of(home, "frozen")
            assert len(planned) == 8
            for account in ("A-001", "A-002"):
                subprocess.run(
                    [sys.executable, "main.py", "--home", str(home), "accounts", "disable", account],
                    cwd=ROOT, check=True, capture_output=True,
                )  # fmt: skip
            engine.start()
            until(lambda: engine.status()["connected"] >= 6)
            until(lambda: arrived(venue) == 14, 30)  # the other six, each once
            detail = engine.detail("bot/frozen")
            rows = {row["account"]: row for row in detail["accounts"]}
            assert {account: row["cl_ord_id"] for account, row in rows.items()} == planned
            assert intents_of(home, "frozen") == planned
            assert {rows[account]["status"] for account in ("A-001", "A-002")} <= {
                "unknown",
                "expired",
            }
