"""Alerts outside the desk: apprise posts them to a real HTTP server; the engine's loop waits for none of it."""

from __future__ import annotations

import json
import logging
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from time import monotonic
from typing import Any

import pytest

import main
from engine.alert_channels import MOST_LINES, AlertChannels, Batch, Told, is_quiet
from engine.config import AlertsConfig, load_config
from engine.errors import CommandRefused, ConfigError
from engine.log import register_secret
from engine.stores.channel_store import ChannelStore
from engine.stores.vault import FileVault
from tests.helpers import HandClock
from tests.world import eventually, paper, world

SECRET = "s3cr3t-path-41"


@dataclass
class Receiver:
    """What the server got, and how it answers."""

    port: int = 0
    got: list[dict[str, Any]] = field(default_factory=list)
    status: int = 200
    hold: threading.Event = field(default_factory=threading.Event)
    asked: int = 0

    @property
    def url(self) -> str:
        return f"json://127.0.0.1:{self.port}/{SECRET}"


@contextmanager
def receiving() -> Iterator[Receiver]:
    made = Receiver()
    made.hold.set()

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["Content-Length"]))
            made.asked += 1
            made.hold.wait(10)
            if made.status == 200:
                made.got.append(json.loads(body))
            self.send_response(made.status)
            self.send_header("Content-Length", "0")
            self.end_headers()

        def log_message(self, *_: Any) -> None:
            """Keep quiet."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    made.port = server.server_address[1]
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    try:
        yield made
    finally:
        made.hold.set()
        server.shutdown()
        thread.join()
        server.server_close()


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    with receiving() as made:
        yield made


@pytest.fixture(autouse=True)
def _short_waits(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("engine.alert_channels.RETRY_S", (0.02, 0.02))


def channels(receiver: Receiver, failed: Any = lambda _text: None, **config: Any) -> AlertChannels:
    base = {"channels": ["env:UNUSED"], "group_s": 0.0} | config
    return AlertChannels(
        AlertsConfig(**base), "desk-1", lambda _ref: receiver.url, HandClock(), failed
    )


async def test_a_critical_alert_of_the_engine_arrives(
    receiver: Receiver, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ALERT_URL", receiver.url)
    alerts = {"channels": ["env:ALERT_URL"], "group_s": 0.0}
    async with world(tmp_path, [paper(1)], alerts=alerts) as made:
        made.engine.alert("critical", "BREAKER_OPEN", "a", "five answers failed")
        made.engine.alert("warning", "REF_STALE", "a", "below the severity asked for")
        await eventually(lambda: receiver.got, what="the message")
        message = receiver.got[0]
        assert "critical" in message["title"]
        assert "BREAKER_OPEN a: five answers failed" in message["message"]
        answer = await made.engine.operator.handle({"id": "t1", "command": "test_alerts"})
        assert [one["problem"] for one in answer["channels"]] == [""]
        assert "(json)" in answer["channels"][0]["channel"]
        assert SECRET not in json.dumps(answer)
    assert not any("REF_STALE" in one["message"] for one in receiver.got)


async def test_without_channels_nothing_runs_and_a_test_is_refused(tmp_path: Path) -> None:
    async with world(tmp_path, [paper(1)]) as made:
        assert not any(thread.name == "alerts" for thread in threading.enumerate())
        with pytest.raises(CommandRefused) as refusal:
            await made.engine.operator.handle({"id": "t1", "command": "test_alerts"})
        assert refusal.value.code == "NO_CHANNEL"


async def test_a_slow_channel_holds_nobody_and_a_flood_is_bounded(receiver: Receiver) -> None:
    receiver.hold.clear()
    made = channels(receiver, min_severity="info")
    await made.start()
    try:
        made.tell("critical", "HALTED", "", "first")
        await eventually(lambda: receiver.asked)
        before = monotonic()
        for number in range(20_000):
            made.tell("warning", "RATE", f"a{number % 5_000}", "busy")
        assert (
            monotonic() - before < 2.0
        )  # 20,000 times; a single wait for the channel would be longer
        receiver.hold.set()
        await eventually(lambda: len(receiver.got) >= 2, what="the rest in one message")
        lines = receiver.got[-1]["message"].splitlines()
        assert len(lines) <= MOST_LINES + 1
        assert "more; see the desk" in lines[-1]
    finally:
        await made.stop()


async def test_what_comes_soon_after_is_one_message(receiver: Receiver) -> None:
    made = channels(receiver, group_s=0.3)
    await made.start()
    try:
        made.tell("critical", "HALTED", "", "first")
        await eventually(lambda: receiver.got)
        for number in range(5):
            made.tell("critical", "UNKNOWN_ORDERS", "a", f"order {number}")
        made.tell("critical", "NOT_CONNECTED", "b", "line down")
        await eventually(lambda: len(receiver.got) == 2)
        assert "UNKNOWN_ORDERS a: order 4 (×5)" in receiver.got[1]["message"]
        assert "NOT_CONNECTED b: line down" in receiver.got[1]["message"]
        assert "6 alerts" in receiver.got[1]["title"]
    finally:
        await made.stop()
    assert len(receiver.got) == 2


async def test_no_more_messages_an_hour_than_allowed(receiver: Receiver) -> None:
    made = channels(receiver, max_per_hour=2)
    await made.start()
    try:
        for number in range(3):
            made.tell("critical", "HALTED", f"a{number}", "x")
            if number < 2:
                await eventually(lambda wanted=number + 1: len(receiver.got) == wanted)
        await eventually(made._queue.empty)
        assert made._pause_s() > 3_000
        assert len(receiver.got) == 2
    finally:
        await made.stop()  # what waits is sent as a farewell
    assert len(receiver.got) == 3


async def test_a_failing_channel_is_one_local_alert_until_it_works_again(
    receiver: Receiver,
) -> None:
    said: list[str] = []
    receiver.status = 500
    made = channels(receiver, said.append)
    await made.start()
    try:
        made.tell("critical", "HALTED", "", "one")
        await eventually(lambda: said)
        made.tell("critical", "HALTED", "", "two")
        made.tell("critical", "ALERT_CHANNEL", "", "its own words are not passed on")
        await eventually(lambda: len(made._sent_at) == 2)
        receiver.status = 200
        made.tell("critical", "HALTED", "", "three")
        await eventually(lambda: receiver.got)
        receiver.status = 500
        made.tell("critical", "HALTED", "", "four")
        await eventually(lambda: len(said) == 2)
    finally:
        await made.stop()
    assert len(said) == 2
    assert SECRET not in " ".join(said)
    assert "ALERT_CHANNEL" not in json.dumps(receiver.got)


async def test_an_address_that_is_none_is_said_without_it(caplog: pytest.LogCaptureFixture) -> None:
    said: list[str] = []
    config = AlertsConfig(channels=("env:UNUSED",))
    made = AlertChannels(
        config, "desk-1", lambda _ref: f"nonsense://{SECRET}", HandClock(), said.append
    )
    with caplog.at_level(logging.DEBUG):
        await made.start()
        await eventually(lambda: said)
        await made.stop()
    assert "entry 1" in said[0]
    assert SECRET not in said[0] + caplog.text


async def test_nothing_of_the_address_is_logged(
    receiver: Receiver, caplog: pytest.LogCaptureFixture
) -> None:
    receiver.status = 500
    made = channels(receiver)
    with caplog.at_level(logging.DEBUG):
        await made.start()
        made.tell("critical", "HALTED", "", "one")
        await eventually(lambda: made._broken)
        await made.stop()
    assert receiver.asked == 3
    assert SECRET not in caplog.text


@pytest.mark.parametrize(
    ("hours", "zone", "at", "quiet"),
    [
        ("", "UTC", "2026-11-23T23:00", False),
        ("22:00-06:30", "UTC", "2026-11-23T23:00", True),
        ("22:00-06:30", "UTC", "2026-11-23T06:29", True),
        ("22:00-06:30", "UTC", "2026-11-23T06:30", False),
        ("12:00-13:00", "UTC", "2026-11-23T12:59", True),
        ("12:00-13:00", "UTC", "2026-11-23T13:00", False),
        ("22:00-06:30", "Asia/Tokyo", "2026-11-23T13:30", True),  # 22:30 there
    ],
)
def test_quiet_hours(hours: str, zone: str, at: str, quiet: bool) -> None:
    config = AlertsConfig(quiet_hours=hours, quiet_zone=zone)
    assert is_quiet(config, datetime.fromisoformat(at).replace(tzinfo=UTC)) is quiet


async def test_in_quiet_hours_only_critical_alerts_leave(receiver: Receiver) -> None:
    made = channels(receiver, min_severity="info", quiet_hours="14:00-16:00")  # it is 15:00
    await made.start()
    try:
        made.tell("warning", "REF_STALE", "a", "waits")
        made.tell("critical", "HALTED", "", "leaves")
        await eventually(lambda: receiver.got)
        assert "leaves" in receiver.got[0]["message"]
        assert "waits" not in receiver.got[0]["message"]
    finally:
        await made.stop()


def test_what_waits_for_the_end_of_quiet_hours_keeps_no_processor_busy(receiver: Receiver) -> None:
    made = channels(receiver, min_severity="info", quiet_hours="14:00-16:00")
    batch = Batch()
    batch.add(Told("warning", "REF_STALE", "a", "waits"))
    assert made._wait_s(batch) == 30.0
    batch.add(Told("critical", "HALTED", "", "leaves"))
    assert made._wait_s(batch) == 0.01


async def test_no_secret_leaves_in_a_message(receiver: Receiver) -> None:
    register_secret("account-key-77aa12")
    made = channels(receiver)
    await made.start()
    try:
        made.tell("critical", "INTERNAL", "a", "failed: https://x/?key=account-key-77aa12")
        await eventually(lambda: receiver.got)
        assert "failed: https://x/" in receiver.got[0]["message"]
        assert "account-key-77aa12" not in receiver.got[0]["message"]
    finally:
        await made.stop()


def test_a_message_puts_the_gravest_first() -> None:
    batch = Batch()
    for severity, code in (("info", "A"), ("critical", "B"), ("warning", "C")):
        batch.add(Told(severity, code, "", "x"))
    severity, title, text = batch.compose("desk-1")
    assert severity == "critical"
    assert [line.split()[1] for line in text.splitlines()] == ["B:", "C:", "A:"]
    assert "3 alerts" in title


# --- the addresses, the command line ----------------------------------------------------------


def test_an_address_is_kept_sealed_and_survives_a_new_key(tmp_path: Path) -> None:
    vault = FileVault(tmp_path, keyring=None)
    store = ChannelStore(tmp_path, vault)
    store.add("ops", f"json://h/{SECRET}")
    assert SECRET not in (tmp_path / "channels.json").read_text("utf-8")
    assert store.reveal("vault:ops") == f"json://h/{SECRET}"
    vault.begin_rotation("", lambda: "")
    assert store.reseal() == 1
    vault.end_rotation()
    assert (
        ChannelStore(tmp_path, FileVault(tmp_path, keyring=None)).reveal("vault:ops")
        == f"json://h/{SECRET}"
    )
    with pytest.raises(ConfigError, match="vault:other"):
        store.reveal("vault:other")
    with pytest.raises(ConfigError, match="name"):
        store.add("two words", "json://h")
    assert store.remove("ops")
    assert not store.remove("ops")


@pytest.mark.parametrize(
    "line",
    [
        'channels = ["json://h/secret-in-the-open"]',
        'quiet_hours = "22-6"',
        'quiet_zone = "Mars/Base"',
        'min_severity = "loud"',
        "max_per_hour = 0",
    ],
)
def test_a_wrong_setting_is_refused_without_what_it_said(tmp_path: Path, line: str) -> None:
    (tmp_path / "volley.toml").write_text(f"[alerts]\n{line}\n", "utf-8")
    with pytest.raises(ConfigError) as caught:
        load_config(tmp_path, None, {})
    assert f"alerts.{line.partition(' ')[0]}" in str(caught.value)
    assert "secret-in-the-open" not in str(caught.value)


def test_the_command_tries_every_channel(
    receiver: Receiver,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    def run(*arguments: str) -> tuple[int, str]:
        status = main.main(["--home", str(tmp_path), "alerts", *arguments])
        out = capsys.readouterr()
        return status, out.out + out.err

    assert run("test")[0] == 1  # there is no channel yet
    monkeypatch.setenv("VOLLEY_ALERT_ADDRESS", receiver.url)
    assert run("add", "ops")[0] == 0
    (tmp_path / "volley.toml").write_text('[alerts]\nchannels = ["vault:ops"]\n', "utf-8")
    status, text = run("test")
    assert (status, "sent" in text, SECRET in text) == (0, True, False)
    assert "test" in receiver.got[0]["title"]
    receiver.status = 500
    status, text = run("test")
    assert (status, "not taken" in text) == (1, True)
    assert "ops" in run("list")[1]
    assert run("remove", "ops")[0] == 0
    assert run("remove", "ops")[0] == 1
    assert "vault:ops" in run("test")[1]
