"""Every failpoint of the engine is registered, every registered one is in the engine, each with both its sides."""

from __future__ import annotations

import re
from pathlib import Path

from tests.crash.points import POINTS, names
from tests.crash.scenarios import SCENARIOS
from tests.processes import ROOT

HIT = re.compile(r'failpoints\.hit\(\s*(f?"[^"]*"|[^")]+)\s*\)')


def in_the_source() -> dict[str, list[Path]]:
    found: dict[str, list[Path]] = {}
    for path in sorted((ROOT / "engine").rglob("*.py")):
        if path.name != "failpoints.py":
            for name in HIT.findall(path.read_text("utf-8")):
                found.setdefault(name, []).append(path)
    return found


def test_every_point_is_named_in_full_where_it_stands():
    """A name that is put together at run time could not be found by looking."""
    wrong = [
        name for name in in_the_source() if not re.fullmatch(r'"[\w.]+\.(before|after)"', name)
    ]
    assert not wrong, wrong


def test_the_register_and_the_source_have_the_same_points():
    source = {name.strip('"') for name in in_the_source()}
    assert source - set(names()) == set(), "in the source, not registered in tests/crash/points.py"
    assert set(names()) - source == set(), "registered, and nowhere in the source"


def test_every_kill_point_of_the_specification_is_there():
    labels = {point.label or name for name, point in POINTS.items()}
    assert {f"K{number:02d}" for number in range(1, 34)} - labels == set()


def test_every_point_has_a_way_that_passes_it():
    assert {point.way for point in POINTS.values()} == set(SCENARIOS)
    assert all(point.says and set(point.classes) <= set("DTN") for point in POINTS.values())
