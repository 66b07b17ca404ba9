"""Bars and curves as a program reads them from a running engine."""

from __future__ import annotations

from decimal import Decimal
from pathlib import Path
from typing import Any

from engine.model import tables
from tests.world import World, alpaca, eventually, venue, world


async def test_bars_of_prices_from_outside_and_the_curves_of_who_traded(tmp_path: Path) -> None:
    async with (
        venue(follow_percent=Decimal(0)) as sim,
        world(
            tmp_path, [alpaca(1, f"http://127.0.0.1:{sim.port}")], market={"source": "none"}
        ) as w,
    ):
        sim.venue.market.pin("AAPL", Decimal(100))
        assert await w.refused("bars", symbol="AAPL") == (404, "NO_PRICE")
        for price in ("100", "104.5", "99"):
            await w.http.post("/v1/prices", json={"AAPL": price})
        told = (await w.command("bars", symbol="AAPL"))["bars"]
        assert (max(b["high"] for b in told), min(b["low"] for b in told)) == ("104.5", "99")
        await w.http.post("/v1/prices", json={"AAPL": "100"})
        wide = await w.command("bars", symbol="AAPL", interval_s=300, limit=1)
        assert (wide["interval_s"], len(wide["bars"])) == (300, 1)
        assert await w.refused("bars", symbol="AAPL", interval_s=7) == (422, "INVALID_COMMAND")
        live = await eventually(lambda: row(w, tables.BARS, "AAPL@60"))
        assert tuple(live) == tables.COLUMNS[tables.BARS]
        assert live["close"] == "100"

        await w.send(symbol="AAPL", strategy="orb")
        made = await eventually(lambda: row(w, tables.STRATEGIES, "orb"))
        assert tuple(made) == tables.COLUMNS[tables.STRATEGIES]
        assert (made["total"], made["exposure"], made["fills"]) == ("0.00", "100.00", 1)
        seconds = await eventually(lambda: w.engine.publisher.rows(tables.PNL))
        assert tuple(seconds[-1]) == tables.COLUMNS[tables.PNL]
        curves = (await w.command("curves", of="account", top=3))["curves"]
        assert list(curves) == ["A-001"]


def row(w: World, table: str, key: str) -> Any:
    return w.engine.publisher.makers[table](key)
