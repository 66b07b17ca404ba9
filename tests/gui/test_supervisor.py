"""The desk's engine process: started, watched, restarted, attached to, and never left behind."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import sys
from collections.abc import AsyncIterator, Callable
from datetime import UTC, datetime
from pathlib import Path

import pytest
from pytestqt.qtbot import QtBot

from engine.client import remote_client
from engine.kill_latch import FILE as LATCH
from engine.kill_latch import KillLatch
from engine.model.enums import ConnectionState
from gui import supervisor as sut
from gui.bridge import Store
from gui.supervisor import (
    EngineAddress,
    EngineFailedError,
    Supervisor,
    engine_command,
    kill_beside,
    read_address,
)
from tests.gui.conftest import until

CHILD = """
import json, os, sys, datetime, pathlib
home = pathlib.Path(sys.argv[1]); runs = home / "runs"
with runs.open("a") as file:
    file.write("x")
what = sys.argv[2]
if what.isdigit():
    print("configuration: limits.collar_percent: expected a number", file=sys.stderr)
    sys.exit(int(what))
stamp = datetime.datetime.now(datetime.UTC).isoformat()
(home / "token").write_text("t" * 32)
(home / "engine.json").write_text(json.dumps({"pid": os.getpid(), "url": "http://127.0.0.1:1", "started_at": stamp}))
if what == "dies":
    sys.exit(9)
sys.stdin.read()
(home / "clean").write_text("yes")
"""


class Heard:
    def __init__(self) -> None:
        self.up: list[EngineAddress] = []
        self.down: list[tuple[str, bool]] = []

    async def on_up(self, address: EngineAddress) -> None:
        self.up.append(address)

    def on_down(self, text: str, gave_up: bool) -> None:
        self.down.append((text, gave_up))


Make = Callable[..., tuple[Supervisor, Heard]]


@pytest.fixture
async def make(qtbot: QtBot, tmp_path: Path) -> AsyncIterator[Make]:
    made: list[Supervisor] = []

    def build(
        *arguments: str, command: list[str] | None = None, **environment: str
    ) -> tuple[Supervisor, Heard]:
        heard = Heard()
        line = command or [sys.executable, "-c", CHILD, str(tmp_path), *arguments]
        keeper = Supervisor(tmp_path, line, heard.on_up, heard.on_down, environment)
        made.append(keeper)
        keeper.start()
        return keeper, heard

    yield build
    for keeper in made:
        await keeper.stop()
        assert keeper.first is not None
        if keeper.first.done() and not keeper.first.cancelled():
            keeper.first.exception()


def alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


async def test_up_then_a_clean_stop_by_the_lifeline(make: Make, tmp_path: Path) -> None:
    keeper, heard = make("stays")
    await until(lambda: heard.up, 10)
    assert heard.up == [EngineAddress("http://127.0.0.1:1", "t" * 32, ours=True)]
    assert "t" * 32 not in repr(heard.up[0])
    pid = keeper.pid
    await keeper.stop()
    assert (tmp_path / "clean").read_text() == "yes"
    assert not alive(pid)
    assert heard.down == []


async def test_a_wrong_configuration_is_not_tried_again(make: Make, tmp_path: Path) -> None:
    keeper, heard = make("2")
    assert keeper.first is not None
    with pytest.raises(EngineFailedError, match=r"collar_percent") as caught:
        await asyncio.wait_for(asyncio.shield(keeper.first), 10)
    assert caught.value.status == 2
    await until(lambda: heard.down)
    assert heard.down[0][1] is True
    assert (tmp_path / "runs").read_text() == "x"


async def test_crashes_are_followed_by_restarts_until_there_are_too_many(
    make: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sut, "backoff", lambda _n: 0.0)
    keeper, heard = make("9")
    await until(lambda: heard.down and heard.down[-1][1], 20)
    assert len((tmp_path / "runs").read_text()) == sut.MOST_RESTARTS + 1
    assert "Restarting… trading is disarmed" in heard.down[0][0]
    assert [gave_up for _, gave_up in heard.down] == [False] * sut.MOST_RESTARTS + [True]
    keeper.again()
    await until(lambda: len((tmp_path / "runs").read_text()) > sut.MOST_RESTARTS + 1, 10)
    await keeper.stop()  # here: between a test and its fixtures Qt moves on, asyncio does not


async def test_a_home_that_is_held_is_attached_to(make: Make, tmp_path: Path) -> None:
    (tmp_path / "token").write_text("s" * 32)
    (tmp_path / "engine.json").write_text(
        '{"pid": 1, "url": "http://127.0.0.1:9", "started_at": "2020-01-01T00:00:00Z"}'
    )
    _, heard = make("3")
    await until(lambda: heard.up, 10)
    assert heard.up == [EngineAddress("http://127.0.0.1:9", "s" * 32, ours=False)]
    assert heard.down == []


async def test_what_an_engine_killed_just_now_left_is_not_taken_for_a_new_one(
    make: Make, tmp_path: Path
) -> None:
    stamp = datetime.now(UTC).isoformat()
    left = {"pid": 1, "url": "http://127.0.0.1:9", "started_at": stamp}
    (tmp_path / "engine.json").write_text(json.dumps(left))
    _, heard = make("stays")
    await until(lambda: heard.up, 10)
    assert heard.up[0].url == "http://127.0.0.1:1"


async def test_a_program_that_is_not_there(make: Make) -> None:
    _, heard = make(command=["/no/such/engine"])
    await until(lambda: heard.down, 10)
    assert "exit 1" in heard.down[0][0]


async def test_the_second_road_leaves_the_kill_in_the_home(qtbot: QtBot, tmp_path: Path) -> None:
    done: list[bool] = []
    parent = Store()
    kill_beside(tmp_path, True, lambda: done.append(True), parent)
    await until(lambda: done, 15)
    latch = KillLatch(tmp_path / LATCH)
    (halt,) = latch.halts()
    latch.close()
    assert halt["scope"] == "all"
    assert halt["flat"]  # positions were closed past the engine, which must not close them again


def test_the_command_line_frozen_and_not(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    line = engine_command(tmp_path, ["--demo"])
    assert line[0] == sys.executable
    assert Path(line[1]).name == "main.py"
    assert line[2:] == ["engine", "--home", str(tmp_path), "--lifeline", "--demo"]
    monkeypatch.setattr(sys, "frozen", True, raising=False)
    assert engine_command(tmp_path)[1] == "engine"


def test_an_unreadable_address_is_none(tmp_path: Path) -> None:
    assert read_address(tmp_path) is None
    (tmp_path / "engine.json").write_text("{")
    assert read_address(tmp_path) is None


async def test_the_real_engine_killed_comes_back_and_leaves_nothing_behind(
    make: Make, tmp_path: Path
) -> None:
    keeper, heard = make(
        command=engine_command(tmp_path, ["--demo"]), VOLLEY_ENGINE__LISTEN="127.0.0.1:0"
    )
    await until(lambda: heard.up, 30)
    store = Store()
    client = remote_client(heard.up[0].url, heard.up[0].token)
    await client.start(store)
    await until(lambda: store.connected and store.rows("accounts"), 10)
    await client.stop()
    first = keeper.pid
    os.kill(first, getattr(signal, "SIGKILL", signal.SIGTERM))
    await until(lambda: len(heard.up) == 2, 30)
    assert [gave_up for _, gave_up in heard.down] == [False]
    assert "Restarting… trading is disarmed" in heard.down[0][0]
    second = keeper.pid
    assert second != first
    client = remote_client(heard.up[1].url, heard.up[1].token)
    await client.start(store)
    await until(lambda: store.connected, 10)
    assert store.link is ConnectionState.CONNECTED
    await client.stop()
    await keeper.stop()
    assert not alive(second)
    assert read_address(tmp_path) is None
