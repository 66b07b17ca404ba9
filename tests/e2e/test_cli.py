"""The command line as a user has it: real processes, a real engine, practice accounts."""

from __future__ import annotations

import contextlib
import csv
import json
import os
import select
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
POSIX = os.name == "posix"
ACCOUNTS = [
    {
        "id": "A-1",
        "name": "Alice",
        "broker": "paper",
        "sizing": {"method": "fixed", "quantity": "2"},
    },
    {
        "id": "A-2",
        "broker": "paper",
        "strategies": ["other"],
        "sizing": {"method": "fixed", "quantity": 1},
    },
]
SETTINGS = {
    "VOLLEY_ENGINE__LISTEN": "127.0.0.1:0",
    "VOLLEY_ENGINE__TRADING": "active",
    "VOLLEY_ENGINE__ALLOW_SIMULATED_VENUES": "true",
    "VOLLEY_MARKET__SOURCE": "none",
}


def environment(**more: str) -> dict[str, str]:
    plain = {
        name: value
        for name, value in os.environ.items()
        if not name.startswith("VOLLEY_") or name == "VOLLEY_KEY_DIR"
    }
    return plain | SETTINGS | more


def volley(
    home: Path, *arguments: str, stdin: str | None = None, **more: str
) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, ROOT / "main.py", "--home", home, *arguments],
        input=stdin,
        capture_output=True,
        text=True,
        timeout=60,
        env=environment(**more),
        cwd=home,
    )


def read_line(process: subprocess.Popen[str], seconds: float = 30) -> str:
    assert process.stdout is not None
    if POSIX:
        assert select.select([process.stdout], [], [], seconds)[0], "the engine said nothing"
    return process.stdout.readline().strip()


@contextlib.contextmanager
def engine(home: Path, *arguments: str, **more: str) -> Iterator[subprocess.Popen[str]]:
    process = subprocess.Popen(
        [sys.executable, ROOT / "main.py", "engine", "--home", home, *arguments],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=environment(**more),
        cwd=home,
    )
    try:
        yield process
    finally:
        if process.poll() is None:
            process.kill()
        process.communicate()


@contextlib.contextmanager
def running(home: Path, **more: str) -> Iterator[tuple[subprocess.Popen[str], str]]:
    """An engine that listens; yields it and its URL."""
    with engine(home, **more) as process:
        line = read_line(process)
        assert line.startswith("engine desk-1 on http://127.0.0.1:"), line
        yield process, line.split()[3].rstrip(",")


def until(fact, seconds: float = 10):
    """Poll until a fact of another process holds; return it."""
    deadline = time.monotonic() + seconds
    while not (value := fact()):
        assert time.monotonic() < deadline, "it did not come to be"
        time.sleep(0.05)
    return value


def status(home: Path) -> dict:
    return json.loads(volley(home, "status", "--json").stdout)


def signal_body(number: int, **more: object) -> str:
    fields = {
        "id": f"s-{number}",
        "source": "bot",
        "strategy": "breakout",
        "symbol": "AAPL",
        "action": "buy",
        "reference_price": "100",
        "issued_at": "2026-01-02T00:00:00Z",
        "valid_for_s": 30,
    }
    return json.dumps(fields | more)


@pytest.fixture
def home(tmp_path) -> Path:
    path = tmp_path / "home"
    path.mkdir(mode=0o700)
    return path


@pytest.fixture
def with_accounts(home) -> Path:
    file = home / "accounts.json"
    file.write_text(json.dumps(ACCOUNTS))
    done = volley(home, "accounts", "import", str(file))
    assert (done.returncode, done.stderr) == (0, "")
    return home


# ---- the engine's life


@pytest.mark.skipif(not POSIX, reason="signals of POSIX")
@pytest.mark.parametrize(("number", "expected"), [("SIGINT", 130), ("SIGTERM", 0), ("SIGHUP", 0)])
def test_signals_stop_it_cleanly(with_accounts, number, expected):
    with running(with_accounts) as (process, url):
        assert json.loads((with_accounts / "engine.json").read_text())["url"] == url
        process.send_signal(getattr(signal, number))
        assert process.wait(15) == expected
        assert process.stderr.read() == ""
    assert not (with_accounts / "engine.json").exists()
    assert "Traceback" not in (with_accounts / "logs" / "engine.log").read_text()


@pytest.mark.parametrize("how", ["close", "stop"])
def test_the_lifeline_stops_it(home, how):
    with engine(home, "--lifeline") as process:
        assert "trading active" in read_line(process)
        if how == "close":
            process.stdin.close()
            process.stdin = None
        else:
            process.stdin.write("stop\n")
            process.stdin.flush()
        assert process.wait(15) == 0


def test_it_stops_after_its_time(home):
    with engine(home, "--for", "0.2", VOLLEY_ENGINE__TRADING="disarmed") as process:
        assert "trading disarmed" in read_line(process)
        assert process.wait(15) == 0


def test_a_second_engine_is_status_3_and_the_first_goes_on(home):
    with running(home) as (process, url):
        second = volley(home, "engine")
        assert (second.returncode, second.stdout) == (3, "")
        assert str(process.pid) in second.stderr
        assert len(second.stderr.splitlines()) == 1
        with urllib.request.urlopen(f"{url}/healthz") as answer:
            assert json.load(answer) == {"status": "ok"}
        assert status(home)["url"] == url


@pytest.mark.parametrize(
    ("name", "value", "says"),
    [
        ("VOLLEY_ENGINE__LISTEN", "nowhere", "host:port"),
        ("VOLLEY_LIMITS__COLLAR_PERCENT", "-1", "collar_percent"),
        ("VOLLEY_ENGINE__NONSENSE", "1", "unknown"),
        ("VOLLEY_TOKEN", "with blank", "VOLLEY_TOKEN"),
    ],
)
def test_a_wrong_configuration_is_status_2(home, name, value, says):
    done = volley(home, "engine", "--for", "1", **{name: value})
    assert (done.returncode, done.stdout) == (2, "")
    assert len(done.stderr.splitlines()) == 1
    assert says in done.stderr


def test_a_port_in_use_is_status_2(home):
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        listen = f"127.0.0.1:{taken.getsockname()[1]}"
        done = volley(home, "engine", "--for", "1", VOLLEY_ENGINE__LISTEN=listen)
    assert (done.returncode, done.stdout) == (2, "")
    assert f"engine.listen = {listen}" in done.stderr
    assert len(done.stderr.splitlines()) == 1


def test_a_missing_configuration_file_is_status_2(home):
    done = volley(home, "engine", "--config", str(home / "none.toml"))
    assert done.returncode == 2
    assert "none.toml" in done.stderr


# ---- accounts


def test_accounts_are_imported_shown_switched_and_removed(with_accounts):
    listed = json.loads(volley(with_accounts, "accounts", "list", "--json").stdout)
    assert [row["id"] for row in listed["accounts"]] == ["A-1", "A-2"]
    assert volley(with_accounts, "accounts", "disable", "A-1").returncode == 0
    shown = json.loads(volley(with_accounts, "accounts", "show", "A-1").stdout)
    assert (shown["active"], shown["name"]) == (False, "Alice")
    assert volley(with_accounts, "accounts", "enable", "A-1").returncode == 0
    assert json.loads(volley(with_accounts, "accounts", "show", "A-1").stdout)["active"] is True
    assert volley(with_accounts, "accounts", "remove", "A-2").returncode == 0
    missing = volley(with_accounts, "accounts", "show", "A-2")
    assert (missing.returncode, missing.stdout) == (1, "")
    assert "A-2" in missing.stderr
    again = volley(with_accounts, "accounts", "import", "accounts.json", "--json")
    assert json.loads(again.stdout) == {"imported": ["A-1", "A-2"], "replaced": 1}


def test_a_running_engine_notices(with_accounts):
    with running(with_accounts):
        assert volley(with_accounts, "accounts", "disable", "A-1").returncode == 0
        until(lambda: [row["active"] for row in status(with_accounts)["accounts"]] == [False, True])


def test_an_import_names_every_problem_and_takes_nothing(home):
    bad = [
        ACCOUNTS[0],
        {**ACCOUNTS[1], "sizing": {"method": "percent_equity", "percent": "-1"}},
        {**ACCOUNTS[1], "nonsense": 1},
        ACCOUNTS[0],
        {
            **ACCOUNTS[0],
            "id": "E",
            "broker": "alpaca",
            "base_url": "https://evil.example",
            "credentials": {"key_id": "canary-key", "secret": "canary-secret"},
        },
    ]
    (home / "bad.json").write_text(json.dumps(bad))
    done = volley(home, "accounts", "import", "bad.json")
    assert (done.returncode, done.stdout) == (1, "")
    for place in (
        "accounts[1].sizing.percent: ",
        "accounts[2].nonsense: ",
        "accounts[3].id: ",
        "accounts[4]: ",
    ):
        assert place in done.stderr, place
    assert len(done.stderr.splitlines()) == 1
    assert done.stderr.startswith("volley: bad.json: nothing was imported: accounts[1].sizing")
    assert "evil.example" in done.stderr
    assert "canary" not in done.stderr
    assert "no accounts" in volley(home, "accounts", "list").stdout
    missing = volley(home, "accounts", "import", "none.json")
    assert (missing.returncode, len(missing.stderr.splitlines())) == (1, 1)


def test_literal_secrets_are_sealed_and_never_shown(home):
    secret = "canary-9f8e7d6c5b4a"
    account = {
        **ACCOUNTS[0],
        "broker": "alpaca",
        "credentials": {"key_id": "env:THE_KEY", "secret": secret},
    }
    (home / "in.json").write_text(json.dumps([account]))
    done = volley(home, "accounts", "import", "in.json")
    assert "remove it" in done.stdout
    (home / "in.json").unlink()
    shown = volley(home, "accounts", "show", "A-1").stdout
    assert json.loads(shown)["credentials"] == ["key_id", "secret"]
    checked = volley(home, "doctor").stdout
    for text in (done.stdout, shown, checked, volley(home, "accounts", "list", "--json").stdout):
        assert secret not in text
    for file in home.rglob("*"):
        assert not file.is_file() or secret.encode() not in file.read_bytes(), file
    assert "environment variable THE_KEY" in checked


def test_a_secret_that_is_not_set_is_refused_at_start_by_name(with_accounts):
    account = {
        **ACCOUNTS[0],
        "id": "A-3",
        "broker": "alpaca",
        "credentials": {"key_id": "env:THE_KEY", "secret": "env:THE_SECRET"},
    }
    (with_accounts / "in.json").write_text(json.dumps([account]))
    assert volley(with_accounts, "accounts", "import", "in.json").returncode == 0
    refused = volley(with_accounts, "engine", "--for", "1", THE_KEY="PK1")
    assert (refused.returncode, refused.stdout) == (2, "")
    assert refused.stderr == (
        "volley: account A-3: secret = env:THE_SECRET: the environment variable THE_SECRET is not set; "
        "set it, or switch the account off: volley accounts disable A-3\n"
    )
    both = volley(with_accounts, "engine", "--for", "1", THE_SECRET="")
    assert both.returncode == 2
    assert "THE_KEY is not set" in both.stderr
    assert both.stderr.endswith("; 1 more are missing\n")

    assert volley(with_accounts, "accounts", "disable", "A-3").returncode == 0
    with running(with_accounts) as (_, url):
        # Switched on beside a running engine it is only told of.
        assert volley(with_accounts, "accounts", "enable", "A-3").returncode == 0
        until(lambda: "THE_KEY" in status(with_accounts)["accounts"][2]["last_error"])
        token = (with_accounts / "token").read_text().strip()
        price = urllib.request.Request(
            f"{url}/v1/prices", b'{"AAPL": "100"}', {"Authorization": f"Bearer {token}"}
        )
        urllib.request.urlopen(price).close()
        (with_accounts / "signals.jsonl").write_text(signal_body(1))
        sent = volley(with_accounts, "signal", "replay", "signals.jsonl")
        assert sent.returncode == 0, sent.stderr
        again = volley(with_accounts, "signal", "replay", "signals.jsonl")
        assert (again.returncode, again.stderr) == (
            1,
            "volley: 1 of 1 signals were not taken: DUPLICATE 1; --id-prefix makes new signals of them\n",
        )
        until(lambda: status(with_accounts)["engine"]["fills"] == 1)
    # With a position to look after the engine starts all the same.
    with running(with_accounts):
        assert status(with_accounts)["engine"]["exposure"] == "200.00"


# ---- signals, status, export, kill


def test_without_an_engine_commands_say_so(home):
    for arguments in (
        ["status"],
        ["signal", "send", "-"],
        ["export", "orders", "--out", "x.csv"],
    ):
        done = volley(home, *arguments, stdin="{}")
        assert (done.returncode, done.stdout) == (1, "")
        assert "no engine runs on" in done.stderr
        assert len(done.stderr.splitlines()) == 1


def test_a_recording_becomes_orders_fills_and_files(with_accounts):
    recording = "\n".join(
        signal_body(number, issued_at=f"2022-01-01T00:00:{number:02d}Z") for number in range(10)
    )
    (with_accounts / "signals.jsonl").write_text(recording)
    with running(with_accounts):
        replayed = volley(
            with_accounts, "signal", "replay", "signals.jsonl", "--speed", "100", "--json"
        )
        summary = json.loads(replayed.stdout)
        assert (replayed.returncode, summary["sent"], summary["failed"]) == (0, 10, 0)
        assert summary["states"] == {"accepted": 10}

        now = until(lambda: (s := status(with_accounts))["engine"]["fills"] == 10 and s)
        assert now["engine"]["orders"] == 10
        assert {row["id"]: row["positions"] for row in now["accounts"]} == {"A-1": 1, "A-2": 0}
        text = volley(with_accounts, "status").stdout
        assert "trading active" in text
        assert "unknown orders (0)" in text

        again = volley(
            with_accounts,
            "signal",
            "replay",
            "signals.jsonl",
            "--speed",
            "100",
            "--id-prefix",
            "b-",
        )
        assert again.returncode == 0
        assert "10 signals in" in again.stdout
        exported = volley(with_accounts, "export", "orders", "--out", "o.csv", "--json")
        assert json.loads(exported.stdout)["rows"] == 20
        with (with_accounts / "o.csv").open(newline="") as file:
            rows = list(csv.DictReader(file))
        assert len({row["cl_ord_id"] for row in rows}) == 20
        assert {row["order_qty"] for row in rows} == {"2"}
        assert (
            volley(
                with_accounts, "export", "fills", "--format", "jsonl", "--out", "f.jsonl"
            ).returncode
            == 0
        )
        fills = [json.loads(line) for line in (with_accounts / "f.jsonl").read_text().splitlines()]
        assert len(fills) == 20


def test_one_signal_is_sent_repeated_and_refused(with_accounts):
    now = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
    body = signal_body(1, issued_at=now)
    with running(with_accounts):
        sent = volley(with_accounts, "signal", "send", "-", "--json", stdin=body)
        assert sent.returncode in {0, 1}
        answer = json.loads(sent.stdout)
        assert (answer["signal_id"], answer["source"]) == ("s-1", "bot")
        again = volley(with_accounts, "signal", "send", "-", "--json", stdin=body)
        assert json.loads(again.stdout) == answer
        other = volley(with_accounts, "signal", "send", "-", stdin=body.replace("buy", "sell"))
        assert (other.returncode, other.stdout) == (1, "")
        assert "DUPLICATE" in other.stderr
        unknown = volley(with_accounts, "signal", "send", "-", stdin='{"nonsense": 1}')
        assert unknown.returncode == 1
        assert len(unknown.stderr.splitlines()) == 1
        stale = volley(with_accounts, "signal", "send", "-", stdin=signal_body(2))
        assert stale.returncode == 1
        assert "refused STALE" in stale.stderr


def test_kill_halts_a_running_engine(with_accounts):
    with running(with_accounts):
        killed = volley(with_accounts, "kill", "--reason", "test")
        assert (killed.returncode, killed.stderr) == (0, "")
        assert killed.stdout.startswith("HALTED all")
        now = status(with_accounts)
        assert now["engine"]["trading"] == "halted"
        assert [(halt["scope"], halt["state"]) for halt in now["halts"]] == [("all", "halted")]
    with running(with_accounts):
        assert status(with_accounts)["engine"]["trading"] == "halted"


@pytest.mark.skipif(not POSIX, reason="SIGSTOP")
def test_kill_reaches_an_engine_that_hangs(with_accounts):
    with running(with_accounts) as (process, _):
        process.send_signal(signal.SIGSTOP)
        began = time.monotonic()
        killed = volley(with_accounts, "kill", "--scope", "account:A-1")
        assert time.monotonic() - began < 10
        assert killed.returncode == 0
        assert "LATCHED account:A-1" in killed.stdout
        assert f"kill -9 {process.pid}" in killed.stdout
        process.send_signal(signal.SIGCONT)
        until(lambda: not (with_accounts / "kill.json").exists())
        halts = {halt["scope"]: halt["state"] for halt in status(with_accounts)["halts"]}
        assert halts["account:A-1"] == "halted"


def test_kill_without_an_engine_halts_the_next_start(with_accounts):
    for scope in ("symbol:AAPL", "account:A-1"):
        killed = volley(with_accounts, "kill", "--scope", scope, "--json")
        assert (killed.returncode, json.loads(killed.stdout)["by"]) == (0, "latch")
    with running(with_accounts):
        halts = {halt["scope"]: halt["state"] for halt in status(with_accounts)["halts"]}
        assert halts["symbol:AAPL"] == halts["account:A-1"] == "halted"
        until(lambda: not (with_accounts / "kill.json").exists())


# ---- doctor, hook


def test_doctor_checks_what_is_there(with_accounts):
    well = volley(with_accounts, "doctor", "--json")
    report = json.loads(well.stdout)
    assert (well.returncode, report["healthy"]) == (0, True), well.stdout
    checks = {finding["check"]: finding["state"] for finding in report["findings"]}
    assert checks["account A-1"] == checks["configuration"] == checks["sqlite"] == "ok"


def test_doctor_says_what_is_broken_and_what_to_do(with_accounts):
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        listen = f"127.0.0.1:{taken.getsockname()[1]}"
        ill = volley(with_accounts, "doctor", VOLLEY_ENGINE__LISTEN=listen)
    assert ill.returncode == 1
    assert f"bad   engine.listen: {listen}" in ill.stdout
    assert "→ stop what listens there" in ill.stdout
    servers = volley(
        with_accounts,
        "doctor",
        VOLLEY_STORAGE__PROFILE="servers",
        VOLLEY_STORAGE__REDIS_URL=f"redis://u:canary-pw@{listen}/0",
        VOLLEY_STORAGE__MONGO_URL=f"mongodb://u:canary-pw@{listen}/volley?serverSelectionTimeoutMS=300",
    )
    assert servers.returncode == 1
    assert "bad   redis: " in servers.stdout
    assert "bad   mongo: " in servers.stdout
    assert "canary-pw" not in servers.stdout + servers.stderr
    wrong = volley(with_accounts, "doctor", VOLLEY_LIMITS__COLLAR_PERCENT="x")
    assert wrong.returncode == 1
    assert "bad   configuration: " in wrong.stdout


def test_a_hook_address_takes_an_alert(with_accounts):
    with running(with_accounts):
        address = volley(with_accounts, "hook", "tv").stdout.strip()
        now = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
        alert = {
            "ticker": "AAPL",
            "action": "buy",
            "price": "100",
            "time": now,
            "strategy": "breakout",
        }
        request = urllib.request.Request(address, json.dumps(alert).encode(), method="POST")
        with urllib.request.urlopen(request) as answer:
            assert answer.status == 202
            assert json.load(answer)["source"] == "tv"
        secret = address.rpartition("/")[2]
    for file in (with_accounts / "logs").iterdir():
        assert secret not in file.read_text()
