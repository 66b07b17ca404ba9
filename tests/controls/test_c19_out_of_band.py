"""C19: the kill switch from a process of its own, the watchdog, and the dead-man's switch."""

from __future__ import annotations

import asyncio
import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from engine.kill_latch import BEATS, FILE, FIRM, STALLED_MS, STATE, KillLatch
from engine.services.watchdog import REPORT, RUNNING, WARN_S, Watchdog
from tests.processes import (
    EngineProcess,
    VenueProcess,
    alpaca,
    import_accounts,
    paper,
    until,
    volley,
    write_config,
)
from tests.world import eventually, world

STOPS = pytest.mark.skipif(os.name != "posix", reason="no SIGSTOP")
FAR = {"order_type": "limit", "limit_price": "185", "time_in_force": "gtc"}
WORKING = {"new", "accepted", "partially_filled", "pending_cancel"}


@pytest.fixture
def venue(tmp_path: Path) -> Iterator[VenueProcess]:
    with VenueProcess(tmp_path, "--still", "--follow-percent", "0") as made:
        yield made


def make_home(tmp_path: Path, venue: VenueProcess, count: int = 2, **safety: Any) -> Path:
    home = tmp_path / "home"
    home.mkdir()
    write_config(home, safety={"watchdog_s": 0} | safety)
    import_accounts(home, [alpaca(n, venue.url) for n in range(1, count + 1)])
    return home


def working(venue: VenueProcess) -> list[dict[str, Any]]:
    return [order for order in venue.orders() if order["status"] in WORKING]


def rest(engine: EngineProcess, venue: VenueProcess, number: int, count: int = 2) -> None:
    for n in range(number):
        assert engine.signal(id=f"rest-{n}", **FAR).status_code == 202
    until(lambda: len(working(venue)) == number * count)


def place_elsewhere(venue: VenueProcess, name: str) -> None:
    keys = alpaca(1, venue.url)["credentials"]
    answer = venue.http.post(
        f"{venue.url}/v2/orders",
        json={
            "symbol": "AAPL", "qty": "1", "side": "buy", "type": "limit", "time_in_force": "gtc",
            "limit_price": "150", "client_order_id": name,
        },
        headers={"APCA-API-KEY-ID": keys["key_id"], "APCA-API-SECRET-KEY": keys["secret"]},
    )  # fmt: skip
    assert answer.status_code == 200, answer.text


def positions(venue: VenueProcess, number: int = 1) -> dict[str, str]:
    keys = alpaca(number, venue.url)["credentials"]
    rows = venue.http.get(
        f"{venue.url}/v2/positions",
        headers={"APCA-API-KEY-ID": keys["key_id"], "APCA-API-SECRET-KEY": keys["secret"]},
    ).json()
    return {row["symbol"]: row["qty"] for row in rows}


# ---- pass: the engine hangs -----------------------------------------------------------------------------------------


@STOPS
def test_with_the_engine_hung_everything_is_cancelled_and_it_sends_nothing_more(tmp_path, venue):
    home = make_home(tmp_path, venue)
    with EngineProcess(home) as engine:
        engine.wait_connected(2)
        rest(engine, venue, 3)
        place_elsewhere(venue, "another-program")
        engine.pause()
        done = volley(home, "kill", "--json")
        said = json.loads(done.stdout)
        assert (done.returncode, said["by"], said["clear"]) == (0, "latch", True), done.stderr
        assert "does not answer" in said["why"]
        by = {row["account"]: (row["canceled"], row["asked"]) for row in said["accounts"]}
        assert by == {"A-001": (4, 4), "A-002": (3, 3)}
        assert all(row["verified_at"] for row in said["accounts"])
        assert working(venue) == []
        count = len(venue.orders())
        engine.resume()
        until(lambda: engine.status()["trading"] == "halted")
        assert engine.signal(id="after").json()["code"] == "HALTED"
        assert len(venue.orders()) == count
    with EngineProcess(home) as engine:  # and the next one is halted, too
        assert engine.status()["trading"] == "halted"


def test_without_an_engine_the_brokers_are_reached_all_the_same(tmp_path, venue):
    home = make_home(tmp_path, venue)
    with EngineProcess(home) as engine:
        engine.wait_connected(2)
        rest(engine, venue, 2)
        engine.kill()
        done = volley(home, "kill", "--flatten")
        assert done.returncode == 0, done.stdout
        assert "No engine is running: the next one is halted" in done.stdout
        assert "CLEAR: nothing works any more on 2 accounts." in done.stdout
        assert working(venue) == []
        engine.start()
        assert engine.status()["trading"] == "halted"
        engine.command("rearm", reason="seen to")
        assert engine.status()["trading"] == "active"


def test_a_living_engine_does_it_and_the_list_is_its_own(tmp_path, venue):
    home = make_home(tmp_path, venue)
    with EngineProcess(home) as engine:
        engine.wait_connected(2)
        rest(engine, venue, 2)
        done = volley(home, "kill")
        assert done.returncode == 0, done.stdout + done.stderr
        assert done.stdout.startswith("HALTED all")
        assert done.stdout.count("2/2") == 2
        assert working(venue) == []


# ---- flatten --------------------------------------------------------------------------------------------------------


@STOPS
def test_flatten_closes_what_is_ours_once_and_a_repeat_closes_nothing(tmp_path, venue):
    home = make_home(tmp_path, venue, 1)
    with EngineProcess(home) as engine:
        engine.wait_connected(1)
        engine.signal(id="s-1")
        until(lambda: engine.rows("positions"))
        place_elsewhere(venue, "theirs")
        venue.post("/sim/price", {"AAPL": "149"})  # theirs fills as well
        until(lambda: positions(venue) == {"AAPL": "2"})
        until(lambda: _written(home))
        engine.pause()
        for _ in range(2):
            done = volley(home, "kill", "--flatten", "--json")
            said = json.loads(done.stdout)["accounts"][0]
            assert (done.returncode, said["residual"], said["error"]) == (0, {"AAPL": "1"}, "")
        sells = [order for order in venue.orders() if order["side"] == "sell"]
        assert [(order["qty"], order["status"]) for order in sells] == [("1", "filled")]
        engine.resume()


@STOPS
def test_an_exit_that_works_on_is_left_alone_by_an_engine_that_moves_again(tmp_path, venue):
    """Its market is closed: it fills in an hour. No row of the engine's journal tells of it."""
    home = make_home(tmp_path, venue, 1)
    with EngineProcess(home) as engine:
        engine.wait_connected(1)
        engine.signal(id="s-1")
        until(lambda: engine.rows("positions") and _written(home))
        rest(engine, venue, 1, 1)
        venue.post("/sim/config", {"fill_delay_ms": 3_600_000})
        engine.pause()
        done = volley(home, "kill", "--flatten", "--json")
        said = json.loads(done.stdout)["accounts"][0]
        assert (done.returncode, said["error"]) == (1, "not closed yet: AAPL")
        [exit_] = working(venue)
        assert (exit_["side"], said["closing"]) == ("sell", [exit_["client_order_id"]])
        engine.resume()
        until(lambda: any(row["verified_at"] for row in engine.get("/v1/status")["kill"]), 30)
        assert [order["client_order_id"] for order in working(venue)] == said["closing"]


def _written(home: Path) -> bool:
    from engine.kill_books import Books

    books = Books(home / "journal.sqlite3")
    books.read()
    return bool(books.positions)


# ---- boundary: scopes -----------------------------------------------------------------------------------------------


@STOPS
def test_a_scope_ends_where_it_ends(tmp_path, venue):
    home = make_home(tmp_path, venue)
    everyone = {"A-001", "A-002", "theirs"}
    names = {"KEY001": "A-001", "KEY002": "A-002"}
    steps = {
        "broker:oanda": everyone,
        "symbol:MSFT": everyone,
        "strategy:other": everyone,
        "account:A-002": everyone - {"A-002"},
        "strategy:breakout": {"theirs"},
        "symbol:AAPL": {"theirs"},
        "broker:alpaca": set(),
    }
    with EngineProcess(home) as engine:
        engine.wait_connected(2)
        rest(engine, venue, 1)
        place_elsewhere(venue, "theirs")
        engine.pause()
        for scope, left in steps.items():
            done = volley(home, "kill", "--scope", scope, "--out-of-band")
            assert done.returncode == 0, done.stdout + done.stderr
            found = {
                "theirs" if o["client_order_id"] == "theirs" else names[o["key_id"]]
                for o in working(venue)
            }
            assert found == left, scope
        engine.resume()


# ---- refuse and text ------------------------------------------------------------------------------------------------


def test_what_cannot_be_reached_is_named_and_the_status_says_so(tmp_path):
    home = tmp_path / "home"
    home.mkdir()
    write_config(home)
    dead = "http://127.0.0.1:9"
    import_accounts(home, [alpaca(1, dead), paper(2)])
    from engine.config import load_config
    from engine.home import Home
    from engine.kill_act import Act, latch
    from engine.kill_out_of_band import OutOfBandKill

    act = Act("all", "test", "test", give_up_s=0.5)
    pressed = latch(home, act)
    outcomes = asyncio.run(OutOfBandKill(Home(home), load_config(home, None), act, pressed).run())
    by = {outcome.account: outcome for outcome in outcomes}
    assert (by["A-001"].clear, by["A-001"].verified_at) == (False, None)
    assert "its list of orders cannot be read" in by["A-001"].error
    assert by["P-002"].error == "practice: the engine cancels it before it does anything else"


def test_a_broken_configuration_latches_all_the_same(tmp_path):
    home = tmp_path / "home"
    home.mkdir()
    (home / "volley.toml").write_text("[engine]\nnonsense = 7\n", "utf-8")
    done = volley(home, "kill")
    assert done.returncode == 1
    assert "LATCHED all" in done.stdout
    assert "NOT CLEAR: nothing could be canceled from here" in done.stdout
    latch = KillLatch(home / FILE)
    assert latch.of(FIRM) is not None
    latch.close()


def test_a_drill_measures_and_changes_nothing(tmp_path, venue):
    home = make_home(tmp_path, venue)
    with EngineProcess(home) as engine:
        engine.wait_connected(2)
        rest(engine, venue, 1)
        done = volley(home, "kill", "--drill")
        assert done.returncode == 0, done.stdout + done.stderr
        assert done.stdout.startswith("DRILL all: latch durable in ")
        assert "2 of 2 accounts' lists read within" in done.stdout
        assert "2 orders would be canceled; the watchdog has 0 accounts connected" in done.stdout
        assert len(working(venue)) == 2
        assert engine.status()["trading"] == "active"
    assert not list(home.glob(".latch*"))


# ---- the watchdog ---------------------------------------------------------------------------------------------------


@STOPS
def test_the_watchdog_acts_in_the_stead_of_an_engine_that_hangs(tmp_path, venue):
    home = make_home(tmp_path, venue, watchdog_s=2.5)
    with EngineProcess(home) as engine:
        engine.wait_connected(2)
        rest(engine, venue, 2)
        engine.pause()
        until(lambda: _report(home).get("state") == "acted", 40, "the watchdog has acted")
        assert working(venue) == []
        assert _report(home)["result"]["clear"] is True
        engine.resume()
        until(lambda: engine.status()["trading"] == "halted")
        halt = next(h for h in engine.get("/v1/status")["halts"] if h["scope"] == "all")
        assert halt["by"] == "watchdog"
        assert halt["reason"].startswith("ENGINE_HUNG: no sign of life for ")


@pytest.mark.parametrize("end", ["stop", "kill"])
def test_the_watchdog_ends_with_its_engine(tmp_path, venue, end: str):
    home = make_home(tmp_path, venue, watchdog_s=10)
    with EngineProcess(home) as engine:
        engine.wait_connected(2)
        pid = until(lambda: _watchdog_of(engine.pid))
        getattr(engine, end)()
        until(lambda: not _lives(pid), what="the watchdog has ended")
        assert not (home / REPORT).exists()
        latch = KillLatch(home / FILE)
        assert latch.halts() == []
        latch.close()


def _report(home: Path) -> dict[str, Any]:
    try:
        return dict(json.loads((home / REPORT).read_text("utf-8")))
    except OSError:
        return {}


def _watchdog_of(pid: int) -> int:
    children = Path(f"/proc/{pid}/task/{pid}/children").read_text("ascii").split()
    for child in children:
        if b"watchdog" in Path(f"/proc/{child}/cmdline").read_bytes():
            return int(child)
    return 0


def _lives(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text("ascii").rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


class _Dog(Watchdog):
    """Counts instead of acting."""

    def __init__(self, home: Path, after_s: float) -> None:
        super().__init__(home, after_s, [])
        self.acts = 0

    def _act(self) -> None:
        self.acts += 1


@pytest.fixture
def dog(tmp_path: Path) -> Iterator[_Dog]:
    made = _Dog(tmp_path, 10.0)
    made._shared.words[STATE] = RUNNING
    made._shared.words[BEATS] = 1
    made.look(0.25)  # learns the beats
    yield made
    made._shared.close()


def test_it_warns_at_two_seconds_and_acts_at_the_limit_once(tmp_path, dog: _Dog):
    for _ in range(7):
        dog.look(0.25)
    assert not (tmp_path / REPORT).exists()
    dog.look(WARN_S - 7 * 0.25)
    assert _report(tmp_path)["state"] == "hung"
    assert dog._shared.words[STALLED_MS] == 2000
    for _ in range(31):
        dog.look(0.25)
    assert dog.acts == 0  # 9.75 s
    dog.look(0.25)
    assert dog.acts == 1
    dog.look(5.0)
    assert dog.acts == 1
    dog._shared.words[BEATS] += 1
    dog.look(0.25)
    assert _report(tmp_path)["state"] == "ok"


@pytest.mark.parametrize("state", [0, 2])
def test_it_leaves_an_engine_alone_that_starts_or_stops(tmp_path, dog: _Dog, state: int):
    dog._shared.words[STATE] = state
    for _ in range(100):
        dog.look(0.5)
    assert dog.acts == 0
    assert not (tmp_path / REPORT).exists()


def test_an_engine_that_moves_is_never_touched(dog: _Dog):
    for _ in range(100):
        dog._shared.words[BEATS] += 1
        for _ in range(7):
            dog.look(0.25)
    assert dog.acts == 0


async def test_an_engine_that_stood_still_says_so(tmp_path):
    from engine.home import Home
    from engine.services.heartbeat import watched

    async with world(tmp_path, [paper(1)], safety={"watchdog_s": 0}) as w:
        async with watched(w.engine, Home(w.path), None, demo=False):
            beats = w.engine.shared.words[BEATS]
            await eventually(lambda: w.engine.shared.words[BEATS] > beats)
            assert w.engine.shared.words[STATE] == RUNNING
            w.engine.shared.words[STALLED_MS] = 3_200  # as the watchdog notes it
            alert = await eventually(
                lambda: next((a for a in w.engine.alerts if a["code"] == "ENGINE_HUNG"), None)
            )
            assert (alert["severity"], alert["text"]) == (
                "critical",
                "the engine stood still for 3.2 s",
            )
        assert w.engine.shared.words[STATE] == 0


# ---- the dead-man's switch ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("what", "state", "code"),
    [
        ("pause", "reducing", "DESK_LOST"),
        ("disarm", "disarmed", "DISARMED"),
        ("halt", "halted", "HALTED"),
    ],
)
async def test_a_desk_that_falls_silent_trips_what_is_set(
    tmp_path, what: str, state: str, code: str
):
    safety = {"desk_lost": what, "desk_lost_after_s": 1}
    async with world(tmp_path, [paper(1)], safety=safety) as w:
        said = await w.command("presence")
        assert said == {"result": "heard", "desk_lost": what, "after_s": 1.0}
        await eventually(lambda: w.engine.states.firm.value == state)
        alert = next(a for a in w.engine.alerts if a["code"] == "DESK_LOST")
        assert alert["text"] == f"no desk for 1 s (safety.desk_lost = {what})"
        assert (await w.post()).json()["code"] == code
        await w.command("presence")  # it comes back: a person resumes, nothing does by itself
        assert w.engine.states.firm.value == state
    async with world(tmp_path, safety=safety) as w:
        assert w.engine.states.firm.value == state


async def test_an_engine_that_never_had_a_desk_has_lost_none(tmp_path):
    async with world(
        tmp_path, [paper(1)], safety={"desk_lost": "halt", "desk_lost_after_s": 1}
    ) as w:
        began = w.engine.clock.monotonic_ns()
        await eventually(lambda: w.engine.clock.monotonic_ns() - began > 1_500_000_000)
        assert w.engine.states.firm.value == "active"


async def test_a_desk_that_speaks_is_not_lost_and_ignoring_is_the_default(tmp_path):
    async with world(
        tmp_path, [paper(1)], safety={"desk_lost": "halt", "desk_lost_after_s": 1}
    ) as w:
        for _ in range(8):
            await w.command("presence")
            await asyncio.sleep(0.25)
        assert w.engine.states.firm.value == "active"
        rows = await w.engine.journal.page("orders", {}, 10, None)
        assert rows == []
    async with world(tmp_path / "other", [paper(1)]) as w:
        assert (await w.command("presence"))["desk_lost"] == "ignore"


async def test_a_sign_of_life_is_not_written_down(tmp_path):
    async with world(tmp_path, [paper(1)]) as w:
        answer = None
        for _ in range(2):
            answer = await w.http.post("/v1/commands", json={"id": "same", "command": "presence"})
            assert answer.status_code == 200
        assert isinstance(answer, httpx.Response)
        # Its id is free for another command: the journal knows nothing of it.
        answer = await w.http.post(
            "/v1/commands", json={"id": "same", "command": "pause", "scope": "all"}
        )
        assert answer.status_code == 200
