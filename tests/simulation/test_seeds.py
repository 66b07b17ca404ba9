"""Two thousand seeds of everything at once (G5): every kind of fault strikes (G6), every limit is held (G16)."""

from __future__ import annotations

import pytest

from tests.simulation.faults import FAULTS
from tests.simulation.runner import run_many, say

SEEDS = 2000


@pytest.mark.timeout(900)  # 140 s on two idle cores; the tests beside it take their share
def test_two_thousand_seeds_hold_every_invariant() -> None:
    summary = run_many(1, SEEDS)
    say("\n".join(summary.lines()))
    assert summary.failures == {}
    assert summary.seeds == SEEDS
    assert set(FAULTS) - set(summary.faults) == set()
    assert summary.counts["crashes"] > SEEDS / 4
    assert summary.counts["venue_fills"] > SEEDS
