"""Every engine broken on purpose is caught by a judge that finds no fault with the engine as it is (G22)."""

from __future__ import annotations

import pytest

from tests.crash.sabotages import JUDGES, show, unbroken
from tests.simulation.sabotages import SABOTAGES

FOUND_BY: list[int] = []


def test_every_sabotage_has_a_judge() -> None:
    assert set(JUDGES) == set(SABOTAGES)
    assert len(JUDGES) >= 50
    assert all(SABOTAGES[name].__doc__ for name in JUDGES)


@pytest.mark.parametrize("name", list(JUDGES))
def test_it_is_caught(name: str) -> None:
    verdict, seeds = show(name)
    assert verdict.found, f"{name} passed {verdict.judged.key}, {verdict.after}"
    FOUND_BY.extend(seeds)


def test_the_same_judges_pass_the_engine_as_it_is() -> None:
    """The seeds are those that have just found something, or, run by itself, the first ones."""
    found = list(unbroken(JUDGES, FOUND_BY or range(1, 11)))
    assert len(found) > 10
    assert not [(judge, text) for judge, text in found if text]
