"""G20: money against exact fractions; the million is ``python -m tests.simulation --money 1000000``."""

from __future__ import annotations

from decimal import Decimal
from fractions import Fraction
from unittest.mock import patch

from engine.model.position import Position
from tests.simulation.money import differences


def test_a_hundred_thousand_fills_agree_with_exact_fractions() -> None:
    assert differences(100_000) == []


def test_a_sum_in_binary_floating_point_is_found() -> None:
    exact = Position.apply

    def apply(self: Position, *fill: object) -> None:
        exact(self, *fill)  # type: ignore[arg-type]
        self.cash = Decimal(float(self.cash))

    with patch.object(Position, "apply", apply):
        assert Fraction(0.1) != Fraction("0.1")
        assert differences(100)
