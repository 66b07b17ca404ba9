"""``main.py profile``: a load test whose time is drawn as a flame graph."""

from __future__ import annotations

import json
import sys
import time
from itertools import pairwise
from pathlib import Path
from xml.etree import ElementTree as ET

import pytest

from engine.errors import TradingError
from engine.loadtest.flame import Node, Profiled, as_svg, hottest
from tests.processes import volley

SVG = "{http://www.w3.org/2000/svg}"


def boxes(svg: str) -> dict[str, list[tuple[float, float, float]]]:
    """Return left, right and top of every box by the text that the pointer is told."""
    found: dict[str, list[tuple[float, float, float]]] = {}
    for group in ET.fromstring(svg).iter(f"{SVG}g"):
        title, rect = group.find(f"{SVG}title"), group.find(f"{SVG}rect")
        assert title is not None
        assert title.text
        assert rect is not None
        left, width, top = (float(rect.attrib[name]) for name in ("x", "width", "y"))
        found.setdefault(title.text, []).append((left, left + width, top))
    return found


def test_it_writes_a_flame_graph_and_names_it(tmp_path: Path) -> None:
    done = volley(tmp_path, "profile", "--accounts", "3", "--signals", "20")
    assert (done.returncode, done.stderr) == (0, "")
    file = tmp_path / "volley-profile.svg"
    assert done.stdout.splitlines()[-1] == f"flame graph: {file}"
    assert done.stdout.startswith("alpaca: 20 signals × 3 accounts = 60 orders, 60 filled")
    shown = boxes(file.read_text("utf-8"))
    told = "\n".join(shown)
    assert "(engine/" in told.replace("\\", "/")
    (root,) = (places for text, places in shown.items() if text.startswith("all: "))
    assert root[0][:2] == (0.0, 1200.0)
    rows: dict[float, list[tuple[float, float]]] = {}
    for places in shown.values():
        for left, right, top in places:
            rows.setdefault(top, []).append((left, right))
    assert len(rows) > 5
    below = None
    for _, row in sorted(rows.items(), reverse=True):
        row.sort()
        for (_, right), (left, _) in pairwise(row):
            assert right <= left + 0.02  # nothing lies on its neighbour
        for left, right in row if below else ():
            assert any(a - 0.02 <= left and right <= b + 0.02 for a, b in below)  # its caller
        below = row


def test_its_figures_are_json_and_its_file_goes_where_it_is_told(tmp_path: Path) -> None:
    file = tmp_path / "flames.svg"
    done = volley(
        tmp_path,
        *("profile", "--accounts", "2", "--signals", "10", "--rate", "50", "--json"),
        *("--dialect", "oanda", "--tls", "--out", str(file)),
    )
    assert (done.returncode, done.stderr) == (0, "")
    figures = json.loads(done.stdout)
    assert figures["file"] == str(file)
    assert boxes(file.read_text("utf-8"))
    assert 0 < figures["busy_seconds"] < figures["seconds"]
    assert figures["seconds"] > 0.15  # ten at fifty a second
    assert figures["samples"] > 0
    assert figures["cpu_seconds"] > 0
    assert figures["hottest"][0]["own_ms"] >= figures["hottest"][-1]["own_ms"] > 0
    assert sum(one["percent"] for one in figures["hottest"]) <= 100.5
    run = figures["loadtest"]
    assert (run["dialect"], run["tls"], run["orders"], run["filled"]) == ("oanda", True, 20, 20)
    assert run["baselines"] == {}


def spin(seconds: float) -> None:
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        sorted(range(100))


def short() -> None:
    spin(0.05)


def long() -> None:
    spin(0.15)


def test_equal_ways_are_one_box_as_wide_as_its_time() -> None:
    with Profiled() as profiled:
        for _ in range(2):
            short()
            long()
    root = profiled.tree()

    def found(node: Node, name: str) -> list[Node]:
        inside = [one for child in node.children.values() for one in found(child, name)]
        return [node, *inside] if node.name == name else inside

    (few,), (much,) = found(root, "short"), found(root, "long")
    assert few.seconds > 0.08
    assert much.seconds > 0.25
    assert root.seconds >= few.seconds + much.seconds - 1e-6
    assert profiled.figures()["seconds"] >= 0.38
    names = {one["function"] for one in hottest(root, 3)}
    assert names & {"spin", "sorted"}


def test_texts_of_code_cannot_break_the_picture() -> None:
    root = Node("all", "", seconds=1.0)
    root.children["x", "y"] = Node('<lambda>&"', "a<b>.py:1", own=1.0, seconds=1.0)
    shown = boxes(as_svg(root, "a & <b>"))
    assert list(shown) == ["all: 1000.0 ms, 100.0 %", '<lambda>&" (a<b>.py:1): 1000.0 ms, 100.0 %']
    assert boxes(as_svg(Node("all", ""), "nothing")) == {}


def test_without_its_library_it_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pyinstrument", None)
    with pytest.raises(TradingError, match="pip install pyinstrument"):
        Profiled()
