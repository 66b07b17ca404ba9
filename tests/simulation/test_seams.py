"""The engine's seams: time, chance and tasks come through ports (``tests.simulation.seams`` names the exceptions)."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.simulation.seams import ALLOWED, allowed, violations


def test_the_core_reads_no_clock_no_chance_and_begins_no_unheld_task() -> None:
    found = [f"{name}:{line}: {used}" for name, line, used in violations() if not allowed(name)]
    assert found == []


def test_every_exception_is_needed() -> None:
    using = {name for name, _, _ in violations()}
    idle = [
        place
        for place in ALLOWED
        if not any(name == place or name.startswith(place) for name in using)
    ]
    assert idle == []


@pytest.mark.parametrize(
    "source",
    [
        "import time\ntime.monotonic()",
        "from time import monotonic_ns as now\nnow()",
        "from datetime import datetime, UTC\ndatetime.now(UTC)",
        "import datetime\ndatetime.datetime.utcnow",
        "import random\nrandom.random()",
        "from uuid import uuid4\nuuid4()",
        "import asyncio\nasyncio.create_task(work())",
        "loop.create_task(work())",
    ],
)
def test_the_check_finds(source: str, tmp_path: Path) -> None:
    (tmp_path / "part.py").write_text(source, "utf-8")
    assert list(violations(tmp_path))
