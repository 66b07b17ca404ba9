"""The kill switch in the middle of fan-outs: no order later than 10 ms after the latch, nothing works at the end.

Times are printed, not judged: `python -m tests.crash.kill_drill` says them for as many rounds as one likes.
"""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from tests.crash.kill_drill import Round, drill

POSIX = os.name == "posix"
ACCOUNTS = 20


@pytest.mark.parametrize("hung", ["none", "desk", "loop", *(["engine"] if POSIX else [])])
def test_no_order_follows_the_latch_and_nothing_works_at_the_end(tmp_path: Path, hung: str) -> None:
    with drill(tmp_path, hung, accounts=ACCOUNTS, orders=2) as made:
        check([made.round() for _ in range(1 if hung == "loop" else 3)])


@pytest.mark.skipif(not POSIX, reason="no SIGSTOP")
def test_without_a_watchdog_the_command_does_it(tmp_path: Path) -> None:
    with drill(tmp_path, "engine", accounts=ACCOUNTS, orders=2, beside=False) as made:
        check([made.round()])


def check(rounds: list[Round]) -> None:
    """Judge what must hold however long it takes; each account's orders go by one request."""
    assert [one.late_orders for one in rounds] == [0] * len(rounds), rounds
    assert [one.working for one in rounds] == [0] * len(rounds), rounds
    assert all(one.clear and one.cancels >= ACCOUNTS for one in rounds), rounds
