"""The load test itself: every way of sending is measured, and the run cleans up behind it."""

from __future__ import annotations

import asyncio
import sys
from typing import Any

import pytest

from engine.errors import TradingError
from engine.loadtest import driver
from engine.loadtest.baselines import Round
from engine.loadtest.driver import BASELINES, LoadPlan, measure
from engine.loadtest.report import as_text, summarise
from engine.telemetry.runtime import allow_open_files


@pytest.mark.parametrize("tls", [False, True], ids=["plain", "tls"])
async def test_all_ways_of_sending(tls: bool) -> None:
    plan = LoadPlan(3, 2, 0.0, "alpaca", tuple(BASELINES), tls)
    report = summarise(plan, await measure(plan))
    assert (report["orders"], report["filled"], report["not_sent"]) == (6, 6, 0)
    ways = {"volley": report["volley"], **report["baselines"]}
    assert list(ways) == ["volley", "floor", "httpx", "aiohttp", "ccxt"]
    for name, figures in ways.items():
        assert figures["failures"] == 0, name
        assert 0 < figures["reply_us_p50"] <= figures["reply_us_p99"] <= figures["done_us_max"]
        assert figures["cpu_us_per_order"] > 0
    assert set(report["to_floor"]) == set(ways) - {"floor"}
    lines = as_text(report).splitlines()
    assert any(line.startswith("volley / ccxt: ") for line in lines)
    assert ("over TLS" in lines[0]) is tls
    others = asyncio.all_tasks() - {asyncio.current_task()}
    assert not others


async def test_too_few_open_files(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(driver, "allow_open_files", lambda: 300)
    plan = LoadPlan(100, 1, 0.0, "alpaca", ("floor",))
    with pytest.raises(TradingError, match="about 656 open files, the limit is 300"):
        await measure(plan)


@pytest.mark.parametrize(
    ("name", "module"), [("aiohttp", "aiohttp"), ("ccxt", "ccxt.async_support")]
)
async def test_a_baseline_that_is_not_installed(
    monkeypatch: pytest.MonkeyPatch, name: str, module: str
) -> None:
    monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(TradingError, match="pip install"):
        await measure(LoadPlan(1, 1, 0.0, "alpaca", (name,)))


def test_figures_are_medians_and_ratios() -> None:
    def rounds(*figures: tuple[int, int, int]) -> list[Round]:
        return [Round(left, done, cpu, 0, (done // 2, done)) for left, done, cpu in figures]

    measured = driver.Measured(
        volley=rounds((20, 100, 400), (40, 300, 600), (30, 200, 500)),
        baselines={"floor": rounds((10, 50, 100), (10, 50, 100))},
        notes={"floor": "bare"},
    )
    report: dict[str, Any] = summarise(LoadPlan(2, 3, 0.0, "alpaca", ("floor",)), measured)
    assert report["volley"]["left_us_p50"] == 30
    assert report["volley"]["cpu_us_per_order"] == 250
    ratio = report["to_floor"]["volley"]
    assert (ratio["left_us_p50"], ratio["done_us_p50"], ratio["cpu_us_per_order"]) == (3, 4, 5)


if sys.platform != "win32":  # Windows has no such limit

    def test_open_files_are_raised_never_lowered() -> None:
        import resource

        before = resource.getrlimit(resource.RLIMIT_NOFILE)
        try:
            resource.setrlimit(resource.RLIMIT_NOFILE, (256, before[1]))
            assert allow_open_files(300) == 300
            assert allow_open_files(200) == 300
            assert allow_open_files() >= 300
        finally:
            resource.setrlimit(resource.RLIMIT_NOFILE, before)
