"""SIGKILL at random moments, under traffic and faults of every kind: nothing lost, nothing twice, no ghost."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.crash.random_kills import run
from tests.crash.zygote import FORKS

KILLS = 300 if FORKS else 30


@pytest.mark.timeout(900)
def test_killed_at_random(tmp_path: Path):
    *_, (_name, _verdict, total) = run(KILLS, 20_261_122, tmp_path)
    assert not total.failures, "\n".join(total.failures)
    assert sum(total.kills.values()) == KILLS, total.line()
    assert set(total.kills) == {"D", "T", "N"}
    assert total.faults > KILLS / 4, total.line()
    assert all(count > 2 * total.kills[kind] for kind, count in total.orders.items()), total.line()
