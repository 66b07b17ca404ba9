"""The day's login as a user makes it: a venue, a running engine, a browser, one command."""

from __future__ import annotations

import json
import re
import subprocess
import sys
import time
from pathlib import Path
from urllib.parse import parse_qs, urlsplit

import httpx

from tests.processes import (
    ROOT,
    EngineProcess,
    VenueProcess,
    environment,
    import_accounts,
    stamp,
    until,
    volley,
    write_config,
)

SECRET = "canary-app-secret-of-the-login"
PORT = "18791"
PAPER = {"id": "P-1", "broker": "paper", "strategies": [], "sizing": {"method": "signal"}}


def account(name: str, url: str, **more: object) -> dict[str, object]:
    return {
        "id": name,
        "broker": "kite",
        "base_url": url,
        "credentials": {"key_id": f"key{name}", "secret": SECRET},
        "sizing": {"method": "fixed", "quantity": "3"},
    } | more


def open_login(home: Path, *arguments: str) -> tuple[subprocess.Popen[str], str]:
    """Start the command and return it with the address it prints."""
    command = [sys.executable, str(ROOT / "main.py"), "--home", str(home), "accounts", "login"]
    process = subprocess.Popen(
        [*command, *arguments, "--no-browser", "--port", PORT],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=environment(),
        cwd=home,
    )
    assert process.stdout is not None
    line = process.stdout.readline()
    found = re.search(r"http\S+", line)
    assert found, f"{line}{process.communicate()[1]}"
    return process, found[0]


def test_a_running_engine_takes_up_the_days_login(tmp_path: Path):
    home = tmp_path / "home"
    home.mkdir()
    keys = tmp_path / "keys.json"
    keys.write_text(json.dumps({f"key{name}": SECRET for name in ("K1", "K2", "K3")}))
    venue = VenueProcess(tmp_path, "--dialect", "kite", "--still", "--accounts", str(keys))
    with venue:
        keys.unlink()
        write_config(home, market={"source": "brokers"})
        import_accounts(home, [account("K1", venue.url), account("K2", venue.url), PAPER])
        with EngineProcess(home) as engine:
            rows = {row["id"]: row for row in engine.rows("accounts")}
            assert {rows[name]["connection"] for name in ("K1", "K2")} == {"error"}
            assert "volley accounts login K1" in rows["K1"]["last_error"]
            process, url = open_login(home, "K1")
            shown = httpx.get(url, follow_redirects=True)
            assert "Logged in" in shown.text
            assert parse_qs(urlsplit(str(shown.url)).query)["state"]
            out, err = process.communicate(timeout=30)
            assert process.returncode == 0, err
            assert "account K1: logged in as KEYK1" in out
            since = time.monotonic()
            until(lambda: row_of(engine, "K1")["connection"] == "connected", 5)
            assert not row_of(engine, "K1")["last_error"]  # "log in" is no news any more
            assert time.monotonic() - since < 2
            assert row_of(engine, "K2")["connection"] == "error"  # its own login is its own
            signal = {
                "id": "s-1", "source": "bot", "strategy": "x", "symbol": "NSE:INFY",
                "action": "buy", "order_type": "market", "issued_at": stamp(),
            }  # fmt: skip
            assert engine.request("POST", "/v1/signals", json=signal).status_code == 202
            until(lambda: [o["status"] for o in engine.rows("orders")] == ["filled"])
            process, url = open_login(home, "K2")
            httpx.get(f"{url}&cancel=1", follow_redirects=True)
            out, err = process.communicate(timeout=30)
            assert process.returncode == 1
            assert "cancelled in the browser" in err
            # The desk's way: the engine listens, the desk opens the address it is told.
            begun = engine.request(
                "POST", "/v1/commands", json={"id": "c-1", "command": "log_in", "account": "K2"}
            )
            assert begun.status_code == 200, begun.text
            httpx.get(begun.json()["url"], follow_redirects=True)
            until(lambda: row_of(engine, "K2")["connection"] == "connected", 5)
            refused = engine.request(
                "POST", "/v1/commands", json={"id": "c-2", "command": "log_in", "account": "P-1"}
            )
            assert (refused.status_code, refused.json()["code"]) == (409, "NO_LOGIN")
        # The session outlives the engine.
        with EngineProcess(home) as engine:
            until(lambda: row_of(engine, "K1")["connection"] == "connected", 10)
            until(lambda: row_of(engine, "K2")["connection"] == "connected", 10)
    for file in tmp_path.rglob("*"):
        assert not file.is_file() or SECRET.encode() not in file.read_bytes(), file


def row_of(engine: EngineProcess, name: str) -> dict[str, object]:
    return next(row for row in engine.rows("accounts") if row["id"] == name)


def test_what_the_command_refuses(tmp_path: Path):
    live = account("K1", "https://api.kite.trade", environment="live")
    write_config(tmp_path)
    import_accounts(tmp_path, [PAPER, live])
    for arguments, status, words in (
        (["NOPE"], 1, "there is no account NOPE"),
        (["P-1"], 2, "needs no login"),
        (["K1", "--token", "http://127.0.0.1:8790/?status=success"], 2, "request_token"),
    ):
        done = volley(tmp_path, "accounts", "login", *arguments)
        assert done.returncode == status, done.stderr
        assert words in done.stderr
        assert done.stderr.count("\n") == 1
