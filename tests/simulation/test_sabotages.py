"""Teeth: every engine broken on purpose is found within a few hundred seeds."""

from __future__ import annotations

import pytest

from tests.simulation.runner import run_many
from tests.simulation.sabotages import SABOTAGES

WITHIN = 300


@pytest.mark.parametrize("name", sorted(SABOTAGES))
def test_a_sabotage_is_found(name: str) -> None:
    summary = run_many(1, WITHIN, sabotage=name, until_failure=True)
    assert summary.failures, f"{name} was not found in {summary.seeds} seeds"
