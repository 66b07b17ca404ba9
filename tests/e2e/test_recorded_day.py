"""A day as a user ends it: traded, reported, opened again in a window, run once more; every step from the shell."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from pathlib import Path

import pytest

from tests.processes import traded_home, volley


@pytest.fixture(scope="module")
def traded(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a home on which two accounts traded three signals; its engine has ended."""
    return traded_home(tmp_path_factory.mktemp("recorded"), signals=3)


def today() -> str:
    return str(datetime.now(UTC).date())


@pytest.mark.parametrize(("form", "begins"), [("html", b"<!DOCTYPE html>"), ("pdf", b"%PDF")])
def test_the_day_is_reported(traded: Path, tmp_path: Path, form: str, begins: bytes) -> None:
    out = tmp_path / f"day.{form}"
    done = volley(traded, "report", "--day", today(), "--format", form, "-o", str(out), "--json")
    assert done.returncode == 0, done.stderr
    facts = json.loads(done.stdout)
    assert (facts["signals"], facts["orders"], facts["fills"]) == (3, 6, 6)
    assert out.read_bytes().startswith(begins)


def test_the_day_is_opened_in_a_window(traded: Path, tmp_path: Path) -> None:
    picture = tmp_path / "window.png"
    arguments = (
        "desk",
        "--replay",
        str(traded),
        "--day",
        today(),
        "--for",
        "6",
        "--screenshot",
        str(picture),
    )
    done = volley(tmp_path, *arguments)
    assert done.returncode == 0, done.stderr
    assert picture.read_bytes().startswith(b"\x89PNG")
    for place, day, said in (
        (tmp_path / "nowhere", today(), "no journal"),
        (traded, "2020-01-02", "nothing is recorded"),
        (traded, "friday", "expected a day"),
    ):
        done = volley(tmp_path, "desk", "--replay", str(place), "--day", day, "--for", "5")
        assert done.returncode in {1, 2}
        assert said in done.stderr
        assert done.stderr.count("\n") == 1


def test_the_day_is_run_again(traded: Path, tmp_path: Path) -> None:
    out = tmp_path / "again.html"
    done = volley(traded, "replay", "--day", today(), "--speed", "1000", "-o", str(out), "--json")
    assert done.returncode == 0, done.stderr
    facts = json.loads(done.stdout)
    assert facts["orders"] == facts["fills"] == {"then": 6, "now": 6}
    assert facts["changed"] == 0
    assert "Side by side" in out.read_text("utf-8")
