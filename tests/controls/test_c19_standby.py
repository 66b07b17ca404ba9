"""C19: the watchdog that is ready to cancel: at once where the engine does not, and never where it does."""

from __future__ import annotations

import asyncio
import errno
import json
import logging
import os
import sqlite3
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, closing
from pathlib import Path

import pytest

from engine import kill_standby
from engine.config import Config
from engine.home import Home
from engine.kill_act import Act, latch
from engine.kill_clearing import Clearing, Outcome
from engine.kill_connections import Connections
from engine.kill_file import KillFile
from engine.kill_latch import (
    CARRIED,
    FILE,
    FIRM,
    KEPT,
    READY_NS,
    RUNNING,
    SEEN,
    STATE,
    TAKEN,
    KillLatch,
)
from engine.kill_out_of_band import OutOfBandKill
from engine.kill_standby import Result, Standby
from engine.model.account import Account
from engine.simbroker import SimBroker
from engine.stores.accounts_sqlite import SqliteAccountStore
from engine.stores.vault import FileVault
from tests.controls.test_c18_kill_switch import place_elsewhere
from tests.crash.kill_drill import kept_ready
from tests.processes import (
    EngineProcess,
    VenueProcess,
    alpaca,
    import_accounts,
    until,
    volley,
    write_config,
)
from tests.world import World, eventually, put_accounts, venue, world

ALL = Act(FIRM, "test", "test")
STOPS = pytest.mark.skipif(os.name != "posix", reason="no SIGSTOP")
FAR = {"order_type": "limit", "limit_price": "185", "time_in_force": "gtc"}


class Ready:
    """A standby beside an engine that lives in this process; what it says and does is kept."""

    def __init__(self, w: World) -> None:
        self.words = w.engine.shared.words
        self.said: list[str] = []
        self.results: list[Result] = []
        self.gone = False
        self.shared = KillLatch(w.path / FILE)
        self.standby = Standby(
            Home(w.path), w.engine.config, self.shared, self.said.append, self.results.append
        )

    async def run(self) -> None:
        await self.standby.run(lambda: self.gone)
        self.shared.close()


@asynccontextmanager
async def ready(w: World, accounts: int) -> AsyncIterator[Ready]:
    made = Ready(w)
    made.words[STATE] = RUNNING
    task = asyncio.create_task(made.run())
    try:
        await eventually(lambda: made.words[KEPT] == accounts)
        yield made
    finally:
        made.gone = True
        await task
        made.words[STATE] = 0


@asynccontextmanager
async def hanging(w: World) -> AsyncIterator[None]:
    """Let the engine look at the latch no more, as if its loop stood still."""
    watch = next(one for one in w.engine.services if isinstance(one, KillFile))
    await watch.stop()
    yield


def url(sim: SimBroker) -> str:
    return f"http://127.0.0.1:{sim.port}"


def requests(sim: SimBroker, method: str) -> list[str]:
    return [row.path for row in sim.log.rows(0) if row.method == method]


async def resting(w: World, sim: SimBroker, count: int) -> None:
    before = sim.summary()["open_orders"]
    await w.send(id=f"rest-{before}", **FAR)
    await eventually(lambda: sim.summary()["open_orders"] == before + count)


# ---- in its stead ---------------------------------------------------------------------------------------------------


async def test_a_press_nobody_answers_is_carried_out_in_one_request_an_account(tmp_path) -> None:
    async with (
        venue() as sim,
        world(tmp_path, [alpaca(1, url(sim)), alpaca(2, url(sim))]) as w,
        ready(w, 2) as r,
        hanging(w),
    ):
        for _ in range(3):
            await resting(w, sim, 2)
        pressed = latch(w.path, ALL, taken=False)
        await eventually(lambda: r.results)
        assert r.words[TAKEN] == pressed.press == r.results[0].press
        assert requests(sim, "DELETE") == ["/v2/orders"] * 2
        by = {one.account: (one.asked, one.canceled, one.clear) for one in r.results[0].outcomes}
        assert by == {"A-001": (3, 3, True), "A-002": (3, 3, True)}
        assert all(one.verified_at for one in r.results[0].outcomes)
        assert r.results[0].cancels_ms >= 50  # the engine had its chance
        assert sim.summary()["open_orders"] == 0
        assert (w.engine.shared.of(FIRM) or {})[
            "open"
        ] is False  # nothing for the engine to go on with


async def test_a_symbol_s_orders_go_one_by_one_and_others_stay(tmp_path) -> None:
    async with (
        venue() as sim,
        world(tmp_path, [alpaca(1, url(sim))]) as w,
        ready(w, 1) as r,
        hanging(w),
    ):
        await resting(w, sim, 1)
        await place_elsewhere(sim, w, "of-another-program")
        latch(w.path, Act("symbol:AAPL", "test", "test"), taken=False)
        await eventually(lambda: r.results)
        assert r.results[0].clear, r.results
        assert [path.count("/") for path in requests(sim, "DELETE")] == [3]
        assert sim.summary()["open_orders"] == 1


async def test_an_engine_that_saw_it_and_does_nothing_is_not_waited_for_long(tmp_path) -> None:
    async with (
        venue() as sim,
        world(tmp_path, [alpaca(1, url(sim))]) as w,
        ready(w, 1) as r,
        hanging(w),
    ):
        await resting(w, sim, 1)
        pressed = latch(w.path, ALL, taken=False)
        r.words[SEEN] = pressed.press
        await eventually(lambda: r.results)
        assert r.said[0].startswith("the engine did not carry out the kill switch within 5")
        assert sim.summary()["open_orders"] == 0


async def test_what_the_cancel_of_all_did_not_reach_is_asked_for_by_itself(tmp_path) -> None:
    async with (
        venue() as sim,
        world(tmp_path, [alpaca(1, url(sim))]) as w,
        ready(w, 1) as r,
        hanging(w),
    ):
        await resting(w, sim, 1)
        sim.faults.replace([{"action": "http_500", "match": {"method": "DELETE"}}])
        latch(w.path, ALL, taken=False)
        await eventually(lambda: r.results, 30)
        assert r.results[0].clear, r.results
        assert [path.count("/") for path in requests(sim, "DELETE")] == [2, 3]


async def test_once_armed_again_nothing_more_is_cancelled(tmp_path) -> None:
    async with (
        venue() as sim,
        world(tmp_path, [alpaca(1, url(sim))]) as w,
        ready(w, 1) as r,
        hanging(w),
    ):
        await resting(w, sim, 1)
        sim.faults.replace([{"action": "http_500", "times": 0, "match": {"method": "DELETE"}}])
        latch(w.path, ALL, taken=False)
        await eventually(lambda: len(requests(sim, "DELETE")) == 2)
        w.engine.shared.lift(FIRM)
        await eventually(lambda: r.results)
        assert (
            r.results[0].outcomes[0].error
            == "armed again meanwhile: what works there was left alone"
        )
        assert sim.summary()["open_orders"] == 1


async def test_a_cancel_of_all_that_had_to_wait_is_not_sent_after_it_was_armed_again(
    tmp_path,
) -> None:
    async with venue() as sim, world(tmp_path, [alpaca(1, url(sim))]) as w, hanging(w):
        await resting(w, sim, 1)
        home, config, shared = Home(w.path), w.engine.config, w.engine.shared
        connections = Connections(home, config)
        line = connections.line(w.engine.fleet.states["A-001"].account)
        kill = OutOfBandKill(home, config, ALL, latch(w.path, ALL), connections)
        kill.stands = lambda: shared.stands(FIRM)
        clearing = Clearing(kill, line, Outcome("A-001", "alpaca"))
        await line.session.start()
        try:
            line.listener.on_limits("A-001", retry_after_s=0.1)  # the broker wants quiet
            asking = asyncio.create_task(clearing.cancel_in_one())
            shared.lift(FIRM)
            assert not await asking
            assert requests(sim, "DELETE") == []
        finally:
            await line.session.stop()
            await connections.close()


async def test_a_wider_press_does_not_wait_for_a_broker_that_fails_an_earlier_one(tmp_path) -> None:
    async with (
        venue() as sim,
        world(tmp_path, [alpaca(1, url(sim)), alpaca(2, url(sim))]) as w,
        ready(w, 2) as r,
        hanging(w),
    ):
        await resting(w, sim, 2)
        match = {"method": "DELETE", "account": "KEY001"}
        sim.faults.replace([{"action": "http_500", "times": 0, "match": match}])
        latch(w.path, Act("account:A-001", "test", "test"), taken=False)
        await eventually(lambda: len(requests(sim, "DELETE")) == 2)  # and goes on with it
        second = latch(w.path, ALL, taken=False)
        await eventually(lambda: sim.summary()["open_orders"] == 1)
        assert (r.words[TAKEN], r.results) == (second.press, [])
        sim.faults.replace([])
        await eventually(lambda: len(r.results) == 2, 30)
        assert all(result.clear for result in r.results)


async def test_a_disk_that_is_full_does_not_keep_what_came_of_it(tmp_path, monkeypatch) -> None:
    def full() -> None:
        raise OSError(errno.ENOSPC, "no space left")

    async with (
        venue() as sim,
        world(tmp_path, [alpaca(1, url(sim))]) as w,
        ready(w, 1) as r,
        hanging(w),
    ):
        await resting(w, sim, 1)
        monkeypatch.setattr(r.shared, "sync", full)
        latch(w.path, ALL, taken=False)
        await eventually(lambda: r.results)
        assert r.results[0].clear


# ---- left alone -----------------------------------------------------------------------------------------------------


async def test_an_engine_that_answers_does_it_alone(tmp_path) -> None:
    async with venue() as sim, world(tmp_path, [alpaca(1, url(sim))]) as w, ready(w, 1) as r:
        await resting(w, sim, 1)
        pressed = latch(w.path, ALL, taken=False)
        await eventually(lambda: r.words[CARRIED] == pressed.press)
        await eventually(lambda: r.standby.idle)
        assert (r.words[SEEN], r.words[TAKEN]) == (pressed.press, 0)
        assert (r.said, requests(sim, "DELETE")) == ([], ["/v2/orders"])


@pytest.mark.parametrize("why", ["stopping", "taken"])
async def test_an_engine_that_stops_and_a_press_of_somebody_who_acts_are_left_alone(
    tmp_path, why: str
) -> None:
    async with (
        venue() as sim,
        world(tmp_path, [alpaca(1, url(sim))]) as w,
        ready(w, 1) as r,
        hanging(w),
    ):
        await resting(w, sim, 1)
        if why == "stopping":
            r.words[STATE] = 2
        latch(w.path, ALL, taken=why == "taken")
        await eventually(lambda: r.standby.idle)
        assert (r.said, requests(sim, "DELETE")) == ([], [])


# ---- being ready ----------------------------------------------------------------------------------------------------


async def test_accounts_that_come_and_go_are_followed(tmp_path, monkeypatch) -> None:
    monkeypatch.setattr(kill_standby, "RELOAD_S", 0.05)
    async with venue() as sim, world(tmp_path, [alpaca(1, url(sim)), alpaca(2, url(sim))]) as w:
        async with ready(w, 2) as r:
            await w.command("set_account_active", account="A-002", active=False)
            await eventually(lambda: r.words[KEPT] == 1)
            await w.command("set_account_active", account="A-002", active=True)
            await eventually(lambda: r.words[KEPT] == 2)
        assert r.words[KEPT] == 0
        assert not w.engine.shared.watchdog_ready()


async def test_an_account_that_came_since_they_were_read_is_not_left_out(
    tmp_path, monkeypatch
) -> None:
    """The engine has taken it in and sent an order for it: "nothing works any more" must be true of it, too."""
    monkeypatch.setattr(kill_standby, "RELOAD_S", 3600.0)
    async with venue() as sim, world(tmp_path, [alpaca(1, url(sim))]) as w, ready(w, 1) as r:
        await put_accounts(w.path, [alpaca(2, url(sim))])
        await eventually(lambda: (s := w.engine.fleet.states.get("A-002")) and s.reconciled)
        await resting(w, sim, 2)
        async with hanging(w):
            latch(w.path, ALL, taken=False)
            await eventually(lambda: r.results)
        assert [one.account for one in r.results[0].outcomes] == ["A-001", "A-002"]
        assert (r.results[0].clear, sim.summary()["open_orders"]) == (True, 0)


async def test_accounts_that_cannot_be_read_again_are_no_all_clear(tmp_path, monkeypatch) -> None:
    monkeypatch.setattr(kill_standby, "RELOAD_S", 3600.0)
    async with (
        venue() as sim,
        world(tmp_path, [alpaca(1, url(sim))]) as w,
        ready(w, 1) as r,
        hanging(w),
    ):
        await resting(w, sim, 1)
        await put_accounts(w.path, [alpaca(2, url(sim))])
        with closing(sqlite3.connect(w.path / "accounts.sqlite3")) as other:
            other.execute("DROP TABLE accounts")
        latch(w.path, ALL, taken=False)
        await eventually(lambda: r.results)
        errors = [one.error for one in r.results[0].outcomes if not one.clear]
        assert len(errors) == 1
        assert "no such table" in errors[0]
        assert (r.results[0].clear, sim.summary()["open_orders"]) == (False, 0)
        assert (w.engine.shared.of(FIRM) or {})["open"]  # the engine goes on with it


async def test_accounts_that_could_not_be_read_are_read_again(
    tmp_path, monkeypatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(kill_standby, "RELOAD_S", 0.05)
    store = SqliteAccountStore(tmp_path / "accounts.sqlite3")
    await store.open()
    await store.close()
    shared, done = KillLatch(tmp_path / FILE), asyncio.Event()
    standby = Standby(Home(tmp_path), Config(), shared, lambda _text: None, lambda _result: None)
    with closing(sqlite3.connect(tmp_path / "accounts.sqlite3")) as other:
        other.execute("PRAGMA journal_mode = delete")
        other.execute("BEGIN EXCLUSIVE")
        with caplog.at_level(logging.WARNING, "engine.kill_standby"):
            task = asyncio.create_task(standby.run(done.is_set))
            await eventually(lambda: "locked" in caplog.text, 10)
            assert not shared.watchdog_ready()
            other.rollback()  # the file is as it was
            await eventually(shared.watchdog_ready, 10)
    done.set()
    await task
    shared.close()


def test_a_mark_of_before_the_machine_started_again_is_no_watchdog(tmp_path) -> None:
    with closing(KillLatch(tmp_path / FILE)) as shared:
        shared.words[READY_NS] = time.monotonic_ns()
        assert shared.watchdog_ready()
        shared.words[READY_NS] += 10**15  # that clock began anew
        assert not shared.watchdog_ready()


async def test_a_broker_that_counts_connections_is_not_kept_connected(tmp_path) -> None:
    sealed = {
        name: FileVault(tmp_path).seal("O-001", name, "101-004-1-001")
        for name in ("token", "account_id")
    }
    account = Account.model_validate(
        {"id": "O-001", "broker": "oanda", "environment": "paper", "credentials": sealed}
        | {"sizing": {"method": "fixed", "quantity": "1"}}
    )
    connections = Connections(Home(tmp_path), Config())
    assert not await connections.keep_ready(account)
    assert (connections.kept(), connections.line(account).ready) == ({}, False)
    await connections.close()


# ---- as processes ---------------------------------------------------------------------------------------------------


@STOPS
def test_the_command_presses_the_watchdog_cancels_and_flatten_follows(tmp_path: Path) -> None:
    home = tmp_path / "home"
    home.mkdir()
    write_config(home, safety={"watchdog_s": 60})
    with VenueProcess(tmp_path, "--still", "--follow-percent", "0") as sim:
        import_accounts(home, [alpaca(1, sim.url)])
        with EngineProcess(home) as engine:
            engine.wait_connected(1)
            assert engine.signal(id="held").status_code == 202
            until(lambda: engine.rows("positions"))
            assert engine.signal(id="rest", **FAR).status_code == 202
            until(lambda: len(sim.orders()) == 2)
            until(lambda: kept_ready(home) == 1, what="the watchdog is connected")
            engine.pause()
            said = json.loads(volley(home, "kill", "--json").stdout)
            assert (said["by"], said["clear"]) == ("watchdog", True), said
            assert [row["canceled"] for row in said["accounts"]] == [1]
            done = volley(home, "kill", "--flatten")
            assert done.returncode == 0, done.stdout + done.stderr
            assert "The watchdog beside it cancels at the brokers." in done.stdout
            sells = [order["status"] for order in sim.orders() if order["side"] == "sell"]
            assert sells == ["filled"]
            engine.resume()
            until(lambda: engine.status()["trading"] == "halted")
