"""What a second pair of eyes found in journal, kill switch, watchdog and wire. Each was once broken."""

from __future__ import annotations

import asyncio
import json
import os
import sqlite3
import sys
import threading
from collections.abc import AsyncIterator, Iterator
from contextlib import closing
from datetime import timedelta
from decimal import Decimal
from pathlib import Path

import pytest
import pytest_asyncio

from engine.brokers.http import read_json
from engine.errors import CommandRefused
from engine.execution.lane import Lane
from engine.kill_file import KillFile
from engine.kill_latch import FILE, FIRM, SECTOR, STATE, KillLatch
from engine.model.enums import ExecType, OrderStatus, TradingState
from engine.model.messages import ExecutionReport
from engine.services import watchdog
from engine.simbroker import SimBroker
from engine.stores import journal_opening
from engine.stores.journal import Journal
from engine.stores.lease_redis import BookLease
from engine.stores.redis_client import open_redis
from tests.controls.test_c19_out_of_band import _written, place_elsewhere, positions
from tests.helpers import HandClock
from tests.processes import (
    EngineProcess,
    VenueProcess,
    import_accounts,
    until,
    volley,
    write_config,
)
from tests.servers import Valkey
from tests.world import World, alpaca, eventually, venue, world


@pytest_asyncio.fixture
async def sim() -> AsyncIterator[SimBroker]:
    async with venue() as made:
        yield made


@pytest_asyncio.fixture
async def running(tmp_path: Path, sim: SimBroker) -> AsyncIterator[World]:
    async with world(tmp_path, [alpaca(1, f"http://127.0.0.1:{sim.port}")]) as made:
        yield made


# ---- journal -------------------------------------------------------------------------------------------------------


async def test_the_full_check_of_a_large_sound_file_finds_nothing(tmp_path, monkeypatch) -> None:
    """It once used a connection of another thread and took SQLite's refusal for damage."""
    path = tmp_path / "journal.sqlite3"
    journal = Journal(path)
    await journal.open()
    await journal.close()
    with closing(sqlite3.connect(path)) as other:
        other.execute("UPDATE meta SET value = '0' WHERE key = 'clean'")
        other.commit()
    monkeypatch.setattr(journal_opening, "CHECK_AT_ONCE_BYTES", 0)
    ran = []
    check = journal_opening.Checker._check
    monkeypatch.setattr(
        journal_opening.Checker, "_check", lambda self: ran.append(check(self)) or ran[-1]
    )
    journal = Journal(path)
    await journal.open()
    try:
        await eventually(lambda: ran)
        await journal.commit_halt("account:A-001", "halted", "x", "2026-01-01T00:00:00Z", "me")
        assert (ran, journal.failed) == (["ok"], "")
        assert not journal_opening.suspect_file(path).exists()
    finally:
        await journal.close()


# ---- watchdog and latch --------------------------------------------------------------------------------------------


@pytest.fixture
def hung(tmp_path: Path, monkeypatch) -> Iterator[watchdog.Watchdog]:
    """A watchdog of an engine that has stood still for too long; its kill says more than a pipe holds."""
    code = "import json; print(json.dumps({'accounts': ['x' * 400] * 500}))"
    monkeypatch.setattr(watchdog, "own_command", lambda *_: [sys.executable, "-c", code])
    dog = watchdog.Watchdog(tmp_path, 1.0, [])
    dog._shared.words[STATE] = watchdog.RUNNING
    dog.look(0.1)
    dog.look(2.0)
    yield dog
    dog._shared.close()


async def test_the_watchdog_hears_out_a_kill_of_many_accounts(tmp_path, hung) -> None:
    def noted() -> bool:
        hung.look(0.1)
        return hung._kill is None

    await eventually(noted)
    report = json.loads((tmp_path / watchdog.REPORT).read_text())
    assert (report["state"], len(report["result"]["accounts"])) == ("acted", 500)


def test_a_damaged_record_halts_everything_until_everything_is_armed(tmp_path) -> None:
    latch = KillLatch(tmp_path / FILE)
    try:
        latch.halt("account:A-001", "x", "me", "now")
        latch._sectors[3 * SECTOR] ^= 0xFF
        assert [record["scope"] for record in latch.halts()] == [FIRM]
        latch.halt("symbol:AAPL", "x", "me", "now")
        latch.lift(FIRM)
        assert [record["scope"] for record in latch.halts()] == ["symbol:AAPL"]
    finally:
        latch.close()


async def test_a_kill_in_the_middle_of_a_rearm_stands(running: World, monkeypatch) -> None:
    engine, disk = running.engine, threading.Event()
    await running.command("kill")
    sync = engine.shared.sync
    monkeypatch.setattr(engine.shared, "sync", lambda: disk.wait(5) and sync())
    rearm = asyncio.create_task(running.try_command("rearm", reason="all is well"))
    await eventually(lambda: engine.shared.of(FIRM) is None)
    kill = asyncio.create_task(running.try_command("kill"))
    await eventually(lambda: engine.shared.of(FIRM) is not None)
    disk.set()
    assert (await rearm).json()["code"] == "HALTED"
    assert (await kill).status_code == 200
    assert engine.states.firm is TradingState.HALTED
    assert (await running.post()).json()["code"] == "HALTED"
    await running.command("rearm", reason="now it is")
    assert engine.states.firm is TradingState.ACTIVE


async def test_a_press_outside_is_not_lifted_by_a_rearm_that_has_not_seen_it(
    running: World,
) -> None:
    engine = running.engine
    await running.command("kill")
    watch = next(service for service in engine.services if isinstance(service, KillFile))
    await watch.stop()  # between two looks
    other = KillLatch(running.path / FILE)
    try:
        other.halt(FIRM, "pressed outside", "kill command", "now", unfinished=True)
        other.press()
        document = {"id": "r-1", "command": "rearm", "reason": "all is well"}
        with pytest.raises(CommandRefused):
            await engine.handle_command(document)
    finally:
        other.close()
    assert engine.states.firm is TradingState.HALTED
    assert engine.shared.of(FIRM) is not None


async def test_an_unreadable_kill_file_is_obeyed_once(running: World) -> None:
    file = running.path / "kill.json"
    file.write_text("{ no JSON")
    await eventually(lambda: not file.exists())
    assert running.engine.states.firm is TradingState.HALTED
    await running.command("rearm", reason="it was nothing")
    assert running.engine.states.firm is TradingState.ACTIVE


@pytest.mark.skipif(os.name != "posix", reason="no SIGSTOP")
def test_a_repeated_flatten_leaves_alone_what_others_hold(tmp_path: Path) -> None:
    """The journal of a stopped engine still tells of two shares; the one that is left is another's."""
    home = tmp_path / "home"
    home.mkdir()
    write_config(home, safety={"watchdog_s": 0})
    with VenueProcess(tmp_path, "--still", "--follow-percent", "0") as made:
        sizing = {"method": "fixed", "quantity": "2"}
        import_accounts(home, [alpaca(1, made.url, sizing=sizing)])
        with EngineProcess(home) as engine:
            engine.wait_connected(1)
            engine.signal(id="s-1")
            until(lambda: engine.rows("positions"))
            place_elsewhere(made, "theirs")
            made.post("/sim/price", {"AAPL": "149"})
            until(lambda: positions(made) == {"AAPL": "3"})
            until(lambda: _written(home))
            engine.pause()
            for _ in range(2):
                done = volley(home, "kill", "--flatten", "--json")
                said = json.loads(done.stdout)["accounts"][0]
                assert (done.returncode, said["residual"], said["error"]) == (0, {"AAPL": "1"}, "")
            sells = [order for order in made.orders() if order["side"] == "sell"]
            assert [(order["qty"], order["status"]) for order in sells] == [("2", "filled")]
            engine.resume()


# ---- an order is never left without news ---------------------------------------------------------------------------


async def test_an_order_whose_request_cannot_be_written_is_told(
    running: World, monkeypatch
) -> None:
    session = running.engine.fleet.sessions["A-001"]

    def fails(order: object) -> bytes:
        raise KeyError("nothing like that")

    monkeypatch.setattr(session, "new_order_request", fails)
    order = running.order(await running.send(id="s-1"), "A-001")
    assert (order.status, order.code) == (OrderStatus.DENIED, "NOT_SENT")
    assert "cannot be written" in order.text


async def test_a_replacement_that_cannot_be_written_is_told_and_its_order_goes_on(
    running: World, monkeypatch
) -> None:
    far = {"order_type": "limit", "limit_price": "185", "time_in_force": "gtc"}
    first = running.order(await running.send(id="s-1", **far), "A-001")
    session = running.engine.fleet.sessions["A-001"]

    def fails(order: object, replacement: object) -> bytes:
        raise KeyError("nothing like that")

    monkeypatch.setattr(session, "replace_request", fails)
    given = {"cl_ord_id": first.cl_ord_id, "limit_price": "184"}
    result = await running.command("replace_order", **given)
    new = running.engine.orders.orders[result["cl_ord_id"]]
    await eventually(lambda: new.status is OrderStatus.REJECTED)
    assert "cannot be written" in new.text
    assert first.status is OrderStatus.NEW
    assert list(running.engine.fleet.states["A-001"].working) == [first.cl_ord_id]


async def test_a_cancel_that_cannot_be_written_stops_no_kill(running: World, monkeypatch) -> None:
    far = {"order_type": "limit", "limit_price": "185", "time_in_force": "gtc"}
    first = running.order(await running.send(id="s-1", **far), "A-001")
    second = running.order(await running.send(id="s-2", **far), "A-001")
    session = running.engine.fleet.sessions["A-001"]
    write, failed = session.cancel_request, []

    def fails_once(order: object) -> bytes | None:
        if order is first and not failed:
            failed.append(order)
            raise KeyError("nothing like that")
        return write(order)

    monkeypatch.setattr(session, "cancel_request", fails_once)
    # A symbol's orders go one by one; a cancel of all in one request would not need either.
    assert (await running.command("kill", scope="symbol:AAPL"))["cancels"] == 2
    await eventually(lambda: second.status is OrderStatus.CANCELED)
    await eventually(lambda: first.status is OrderStatus.CANCELED)  # asked for once more
    assert failed


async def test_an_order_unsent_when_its_account_is_gone_is_told(
    running: World, monkeypatch
) -> None:
    monkeypatch.setattr(Lane, "put", lambda lane, order: None)  # it waits for a connection
    assert (await running.post(id="s-1")).status_code == 202
    order = running.engine.records["bot/s-1"].orders["A-001"]
    lane = running.engine.dispatcher.lanes.pop("A-001")
    unsent = ExecutionReport("A-001", order.cl_ord_id, ExecType.UNSENT, text="stopped")
    running.engine.on_report(unsent)
    running.engine.dispatcher.lanes["A-001"] = lane
    assert (order.status, order.code) == (OrderStatus.DENIED, "NOT_SENT")


@pytest.mark.parametrize("id_", [b'"\\ud800"', b'"\xed\xa0\x80"', b'"x\\udfffy"'])
def test_half_a_surrogate_pair_in_a_reply_is_no_reply(id_: bytes) -> None:
    """As an order's id it would have broken the journal, and so have stopped every account."""
    with pytest.raises(ValueError, match=r"surrogate|UTF-8|utf-8"):
        read_json(b'{"id": ' + id_ + b"}")
    assert read_json(b'{"id": "\\ud83d\\ude00", "n": 1.10}')["n"] == Decimal("1.10")


# ---- the lease -----------------------------------------------------------------------------------------------------


async def test_a_lease_is_no_proof_after_the_machine_slept(tmp_path) -> None:
    """The monotonic clock stands still in a sleep (Linux): another engine may have been granted the book."""
    clock = HandClock()
    with Valkey() as server:
        client = open_redis(server.url, timeout_s=1.0)
        lease = BookLease(client, "book", tmp_path, clock=clock)
        try:
            await lease.start()
            assert lease.refusal() is None
            clock._now += timedelta(hours=8)
            assert lease.refusal()[0] == "EPOCH"
            await lease._ask("renew")
            assert lease.refusal() is None
        finally:
            await lease.stop()
            await client.aclose()
