"""SIGKILL before and after every kill point, at every class of broker: nothing lost, nothing twice."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from tests.crash.kill_points import cases, run
from tests.crash.points import names
from tests.crash.zygote import FORKS


@pytest.mark.timeout(900)
def test_killed_at_every_point(tmp_path: Path):
    """Where nothing can be forked a start takes seconds: there every point is passed at one class of broker."""
    total = run(cases() if FORKS else cases(classes="D"), tmp_path)
    assert not total.failures, "\n".join(total.failures)
    assert total.points == set(names()) if FORKS else total.points
    assert total.kills >= (200 if FORKS else 50), total.line()
    assert total.orders > 5 * total.kills, total.line()  # what it was all about did happen


@pytest.mark.skipif(os.name != "posix", reason="SIGSTOP is POSIX's")
@pytest.mark.timeout(600)
def test_held_up_until_everything_is_stale(tmp_path: Path):
    """SIGSTOP instead: what has become too old meanwhile does not leave, and nobody else takes the book (I9, I10)."""
    points = ("K04", "K08", "K11", "K12", "K14", "K15", "K19", "K22")
    total = run(cases(points, "D", action="stop"), tmp_path)
    assert not total.failures, "\n".join(total.failures)
    assert total.stops >= 2 * len(points) - 2, total.line()
