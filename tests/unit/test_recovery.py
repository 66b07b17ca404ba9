"""Recovery: done twice it changes nothing, what is unknown stays so, and a plan keeps what it was planned with."""

from __future__ import annotations

import json
import sqlite3
from contextlib import closing
from pathlib import Path

import pytest

from engine.home import Home
from engine.model.enums import OrderStatus
from engine.wiring import build_engine
from tests.bench.recovery import ACCOUNTS, write_book
from tests.helpers import make_account, make_engine, signal_body
from tests.unit.test_journal import change
from tests.world import alpaca, eventually, put_accounts, settings, venue, world


def rows(path: Path) -> list[tuple]:
    with closing(sqlite3.connect(path)) as file:
        return file.execute(
            "SELECT cl_ord_id, account, status, working, cum_qty, code, text FROM orders ORDER BY cl_ord_id"
        ).fetchall()


async def test_a_second_recovery_changes_nothing_and_unknown_is_never_rejected(tmp_path):
    home = Home(tmp_path / "home")
    await put_accounts(home.path, [alpaca(n, "http://127.0.0.1:9") for n in range(ACCOUNTS)])
    await write_book(home.journal, ACCOUNTS)
    seen = []
    for _ in range(3):
        engine = await build_engine(home, settings())
        try:
            orders = engine.orders.orders
            assert len(orders) == ACCOUNTS
            assert {order.status for order in orders.values()} == {OrderStatus.UNKNOWN}
            record = engine.records["bot/s-0"]
            assert {order.cl_ord_id for order in record.orders.values()} == set(orders)
            assert record.waiting == set(orders)
        finally:
            await engine.stop()
        seen.append(rows(home.journal))
    assert seen[0] == seen[1] == seen[2]
    assert {row[2] for row in seen[0]} == {"unknown"}


def told(path: Path) -> list[tuple]:
    """Return the audit's rows that are not about starting and stopping."""
    with closing(sqlite3.connect(path)) as file:
        return file.execute(
            "SELECT kind, account, facts FROM audit WHERE kind NOT IN ('open', 'start', 'stop') ORDER BY seq"
        ).fetchall()


async def test_restarts_tell_the_audit_nothing_it_was_told_before(tmp_path):
    """Orders of unknown outcome, working ones, a held signal: after the first restart nothing of them is new."""
    sets = {"signals": {"approval_timeout_s": 3600}}
    rest = {"order_type": "limit", "limit_price": "185", "time_in_force": "gtc"}
    async with venue() as sim:
        at = f"http://127.0.0.1:{sim.port}"
        accounts = [alpaca(1, at), alpaca(2, at), alpaca(3, at) | {"approval": "review"}]
        async with world(tmp_path, accounts, **sets) as w:
            journal = w.path / "journal.sqlite3"
            await w.send(id="filled")
            await w.send(id="rests", valid_for_s=3000, **rest)
            lost = {"method": "POST", "account": "KEY001"}
            blind = {"method": "GET", "path": "/v2/orders:by_client", "account": "KEY001"}
            sim.faults.replace(
                [
                    {"action": "hang", "times": 0, "match": lost},
                    {"action": "http_500", "times": 0, "match": blind},
                ]
            )
            await w.post(id="unknown", **rest)
            await eventually(lambda: any(row.fault == "hang" for row in sim.log.rows()))
        seen = []
        for _ in range(3):
            asked = sim.log.total
            async with world(tmp_path, **sets) as w:
                unknown = [o for o in w.engine.orders.working() if o.status is OrderStatus.UNKNOWN]
                assert len(unknown) == 1
                await eventually(
                    lambda n=asked: any(row.fault == "http_500" for row in sim.log.rows(n))
                )
            seen.append(told(journal))
        assert seen[0] == seen[1] == seen[2]
        [row] = [row for row in seen[0] if row[0] == "order" and unknown[0].cl_ord_id in row[2]]
        assert "unknown" in row[2]


async def plan_of(path: Path, signal_id: str) -> dict:
    with closing(sqlite3.connect(path)) as file:
        row = file.execute("SELECT plan FROM signals WHERE id = ?", (signal_id,)).fetchone()
    return json.loads(row[0])


async def take(engine, signal_id: str) -> None:
    await engine.handle_signal(json.dumps(signal_body(signal_id)).encode())


async def test_every_plan_carries_the_fingerprint_it_was_made_with(tmp_path):
    path = tmp_path / "journal.sqlite3"
    async with make_engine(tmp_path, make_account("A-1")) as engine:
        await take(engine, "s-1")
        first = engine.fingerprint
        assert len(first) == 16
    limits = {"max_order_quantity": "77"}
    async with make_engine(tmp_path, make_account("A-1", limits=limits)) as engine:
        assert engine.fingerprint != first
        assert engine.records["bot/s-1"].fp == first
        await take(engine, "s-2")
        second = engine.fingerprint
    async with make_engine(
        tmp_path, make_account("A-1", limits=limits), safety={"consecutive_rejects": 9}
    ) as engine:
        third = engine.fingerprint
    assert len({first, second, third}) == 3
    assert [(await plan_of(path, name))["fp"] for name in ("s-1", "s-2")] == [first, second]
    with closing(sqlite3.connect(path)) as file:
        started = [
            json.loads(row[0])["fp"]
            for row in file.execute("SELECT facts FROM audit WHERE kind = 'start'")
        ]
        told = [
            json.loads(row[0])["fp"]
            for row in file.execute("SELECT facts FROM audit WHERE kind = 'signal'")
        ]
    assert started == [first, second, third]
    assert told == [first, second]


@pytest.mark.parametrize("trading", ["active", "disarmed"])
async def test_a_damaged_book_is_never_armed_by_itself(tmp_path, trading):
    async with make_engine(tmp_path, make_account("A-1")) as engine:
        await take(engine, "s-1")
    path = tmp_path / "journal.sqlite3"
    whole = path.read_bytes()
    path.write_bytes(whole[: len(whole) // 2])
    async with make_engine(tmp_path, make_account("A-1"), engine={"trading": trading}) as engine:
        assert engine.states.get("all").state.value == "halted"
        assert "QUARANTINED" in {alert["code"] for alert in engine.alerts}
        receipt = await engine.handle_signal(json.dumps(signal_body("s-2")).encode())
        assert receipt.code == "HALTED"


async def test_a_book_on_another_machine_stays_disarmed_over_restarts(tmp_path):
    async with make_engine(tmp_path, make_account("A-1")):
        pass
    change(
        tmp_path / "journal.sqlite3",
        "UPDATE meta SET value = json_set(value, '$.machine', 'another', '$.host', 'elsewhere') WHERE key = 'binding'",
    )
    for turn in range(2):
        async with make_engine(tmp_path, make_account("A-1")) as engine:
            latch = engine.states.get("all")
            assert (latch.state.value, latch.by) == ("disarmed", "engine")
            assert "elsewhere" in latch.reason
            told = {alert["code"] for alert in engine.alerts}
            assert "OTHER_HOST" in told or turn
