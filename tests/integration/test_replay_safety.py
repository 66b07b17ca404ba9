"""What kept a day safe, when it is replayed: kills, differences, controls, limits; against what the engine showed."""

from __future__ import annotations

from collections.abc import AsyncIterator
from decimal import Decimal
from pathlib import Path
from typing import Any

import httpx
import orjson
import pytest

from engine.client import Recording, replay_client
from engine.client_replay import load
from engine.days.record import DayRecord, file_of
from engine.model import tables
from engine.simbroker import SimBroker
from tests.listener import Listener
from tests.processes import alpaca
from tests.world import World, eventually, venue, world

QUICK = {"reconcile_orders_s": 0.2, "reconcile_positions_s": 0.2, "reconcile_cash_s": 0.0}


@pytest.fixture
async def sim() -> AsyncIterator[SimBroker]:
    async with venue(follow_percent=Decimal("0.0001")) as made:
        yield made


def url(sim: SimBroker) -> str:
    return f"http://127.0.0.1:{sim.port}"


def accounts(sim: SimBroker) -> list[dict[str, Any]]:
    fixed = {"method": "fixed", "quantity": "2"}
    return [
        alpaca(1, url(sim), sizing=fixed, limits={"max_positions": 2}),
        alpaca(2, url(sim), sizing=fixed, limits={"max_positions": 100}),
        alpaca(3, url(sim), sizing={"method": "fixed", "quantity": "9"},
               limits={"max_order_quantity": "5"}),
    ]  # fmt: skip


async def elsewhere(sim: SimBroker, number: int, **order: str) -> None:
    """Trade an account past the engine, with its own key."""
    keys = alpaca(number, url(sim))["credentials"]
    headers = {"APCA-API-KEY-ID": keys["key_id"], "APCA-API-SECRET-KEY": keys["secret"]}
    body = {"symbol": "AAPL", "side": "buy", "time_in_force": "day", **order}
    async with httpx.AsyncClient(trust_env=False, headers=headers) as broker:
        (await broker.post(f"{url(sim)}/v2/orders", json=body)).raise_for_status()


def live(w: World, table: str) -> dict[str, dict[str, Any]]:
    return {row[tables.KEYS[table]]: row for row in w.engine.publisher.rows(table)}


async def recorded(w: World) -> None:
    """Let the record of the day write what is now."""
    await w.engine.journal.flushed()
    record = next(service for service in w.engine.services if isinstance(service, DayRecord))
    await record.stop()


def show(client: Recording, moment: float) -> None:
    client.move(moment)
    while client.behind:
        client.catch_up()


async def priced(w: World, sim: SimBroker) -> None:
    async with httpx.AsyncClient(trust_env=False) as market:
        (await market.post(f"{url(sim)}/sim/price", json={"AAPL": "100"})).raise_for_status()
    w.engine.set_prices({"AAPL": Decimal(100)})


def pick(row: dict[str, Any], *names: str) -> dict[str, Any]:
    return {name: row[name] for name in names}


async def test_a_kill_is_followed_account_by_account(tmp_path: Path, sim: SimBroker) -> None:
    names = ("blocked", "cancels_sent", "cancels_confirmed", "working", "residual", "done")
    async with world(tmp_path, accounts(sim)) as w:
        await priced(w, sim)
        await w.send(symbol="AAPL")
        await eventually(lambda: w.position("A-001") == 2 and w.position("A-002") == 2)
        await w.send(id="rest", symbol="AAPL", order_type="limit", limit_price="97")
        await eventually(lambda: len(w.engine.orders.working()) == 2)
        await w.command("kill", scope="all", reason="enough")
        await eventually(lambda: all(row["done"] for row in live(w, tables.KILL).values()))
        there = live(w, tables.KILL)
        await w.command("rearm", scope="all", reason="over")
        assert live(w, tables.KILL) == {}
        await recorded(w)
    client, shown = load(w.path), Listener()
    await client.start(shown)
    marks = [mark.at for mark in client.marks if mark.text.startswith("kill")]
    assert len(marks) == 1
    show(client, marks[0] - 1e-4)
    assert shown.tables[tables.KILL] == {}
    seen: list[tuple[int, int]] = []
    for at in sorted({one.at for one in client._timeline.changes if one.table == tables.KILL}):
        show(client, at)
        rows = shown.tables[tables.KILL]
        if rows:
            seen.append((sum(row["working"] for row in rows.values()), len(rows)))
            last = rows.copy()
    assert seen[0] == (2, 3)
    assert seen[-1] == (0, 3)
    assert [left for left, _ in seen] == sorted((left for left, _ in seen), reverse=True)
    assert {a: pick(row, *names) for a, row in last.items()} == {
        a: pick(row, *names) for a, row in there.items()
    }
    show(client, client.ends)
    assert shown.tables[tables.KILL] == {}


async def test_differences_and_controls_stand_as_long_as_they_did(
    tmp_path: Path, sim: SimBroker
) -> None:
    columns = ("account", "broker", "kind", "symbol", "expected", "actual", "difference", "text")
    async with world(tmp_path, accounts(sim), safety=QUICK) as w:
        await priced(w, sim)
        await w.send(symbol="AAPL")
        await eventually(lambda: w.position("A-001") == 2 and w.position("A-002") == 2)
        await elsewhere(sim, 1, qty="5", type="market")
        await elsewhere(sim, 2, qty="1", type="limit", limit_price="90")
        await eventually(lambda: live(w, tables.DIFFERENCES), 20)
        await eventually(lambda: live(w, tables.EXTERNAL), 20)
        await eventually(lambda: "account:A-001" in live(w, tables.HALTS), 20)
        await recorded(w)
        difference = next(iter(live(w, tables.DIFFERENCES).values()))
        controls = live(w, tables.CONTROLS)
        usage, external = live(w, tables.USAGE), live(w, tables.EXTERNAL)
    client, shown = replay_client(w.path), Listener()
    await client.start(shown)
    show(client, client.ends)
    rows = shown.tables[tables.DIFFERENCES]
    assert {k: pick(row, *columns) for k, row in rows.items()} == {
        difference["key"]: pick(difference, *columns)
    }
    assert shown.tables[tables.ACCOUNTS]["A-001"]["differences"] == 1
    again = shown.tables[tables.CONTROLS]
    assert again.keys() == controls.keys()
    for number, row in controls.items():
        assert pick(again[number], "state", "setting", "refusals", "title") == pick(
            row, "state", "setting", "refusals", "title"
        ), number
    assert controls["C25"]["state"] == "tripped"
    assert pick(again["C02"], "refusals", "last_code", "last_account", "last_text") == pick(
        controls["C02"], "refusals", "last_code", "last_account", "last_text"
    )
    # Of an account's limits those that are half used, and every one of the firm's.
    limits = ("scope", "limit", "used", "most", "percent", "unit", "text")
    assert {k: pick(row, *limits) for k, row in shown.tables[tables.USAGE].items()} == {
        key: pick(row, *limits)
        for key, row in usage.items()
        if not key.startswith("account:") or row["percent"] >= 50
    }
    assert "account:A-001/max_positions" in shown.tables[tables.USAGE]
    orders = (
        "account",
        "order_id",
        "symbol",
        "side",
        "order_qty",
        "limit_price",
        "status",
        "since",
    )
    assert {k: pick(row, *orders) for k, row in shown.tables[tables.EXTERNAL].items()} == {
        k: pick(row, *orders) for k, row in external.items()
    }
    show(client, client.begins)
    assert shown.tables[tables.DIFFERENCES] == shown.tables[tables.USAGE] == {}
    assert {row["state"] for row in shown.tables[tables.CONTROLS].values()} == {None}


async def test_a_day_recorded_before_limits_were_says_so(tmp_path: Path, sim: SimBroker) -> None:
    async with world(tmp_path, accounts(sim)) as w:
        await priced(w, sim)
        await w.send(symbol="AAPL")
        await eventually(lambda: w.position("A-001") == 2)
        await recorded(w)
    assert replay_client(w.path).recorded >= {tables.USAGE, tables.CONTROLS, tables.EXTERNAL}
    files = list((w.path / "days").iterdir())
    for file in files:
        lines = [orjson.loads(line) for line in file.read_bytes().splitlines()]
        old = [{k: v for k, v in line.items() if k not in tables.KEYS or k in {"accounts", "alerts", "pnl"}}
               for line in lines]  # fmt: skip
        file.write_bytes(b"".join(orjson.dumps(line) + b"\n" for line in old))
    assert files == [file_of(w.path, files[0].stem)]
    client, shown = replay_client(w.path), Listener()
    assert not client.recorded
    await client.start(shown)
    show(client, client.ends)
    assert shown.tables[tables.USAGE] == shown.tables[tables.EXTERNAL] == {}
    told = shown.tables[tables.CONTROLS]["C02"]
    assert (told["state"], told["refusals"], told["last_account"]) == (None, 1, "A-003")
