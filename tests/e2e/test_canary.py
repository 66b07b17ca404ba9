"""Secrets are nowhere but where they belong: canaries in every place a secret goes in, then a search everywhere.

The engine runs at DEBUG, meets wrong credentials, hostile bodies, a venue that fails and a SIGKILL. Then
every file it left, everything it and its commands said, its answers and its command line are searched for
each canary, plain and URL-, base64- and hex-encoded.
"""

from __future__ import annotations

import base64
import json
import os
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import quote, quote_plus

import httpx
import pytest

from tests.processes import (
    EngineProcess,
    VenueProcess,
    alpaca,
    import_accounts,
    signal_document,
    stamp,
    until,
    volley,
    write_config,
)
from tests.servers import free_port

LITERAL = "cnry-literal+/=&%aZ09~7Qw"
BY_ENVIRONMENT = "cnry-environment+/=&%b1~8Re"
REFUSED = "cnry-refused+/=&%c2~9Tk"
REDIS = "cnry-redis+/=&%d3~Uy"
MONGO = "cnry-mongo+/=&%e4~Io"
GUESSED = "cnry-guessed-token.f5Pa"
GUESSED_HOOK = "cnry-guessed-hook.g6Sd"
IN_A_BODY = "cnry-in-a-body.h7Fg"
IN_A_QUERY = "cnry-in-a-query.j8Hj"
PLANTED = {
    "a literal secret": LITERAL,
    "a secret by environment": BY_ENVIRONMENT,
    "a refused secret": REFUSED,
    "Redis' password": REDIS,
    "MongoDB's password": MONGO,
    "a guessed token": GUESSED,
    "a guessed hook": GUESSED_HOOK,
    "a secret in a body": IN_A_BODY,
    "a secret in a query": IN_A_QUERY,
}
MAY_HOLD_THEIR_OWN = {"token", "hooks.json"}


def forms(secret: str) -> Iterator[tuple[str, bytes]]:
    raw = secret.encode()
    yield "plain", raw
    yield "URL", quote(secret, safe="").encode()
    yield "URL with plus", quote_plus(secret).encode()
    yield "hex", raw.hex().encode()
    yield "HEX", raw.hex().upper().encode()
    yield "JSON", json.dumps(secret)[1:-1].encode()
    yield "backwards", raw[::-1]
    for shift in range(3):  # wherever in a longer text it stood
        whole = base64.b64encode(b"\0" * shift + raw)
        start, end = (0, 2, 3)[shift], len(whole) - 4
        yield f"base64 at {shift}", whole[start:end]
        yield (
            f"URL-safe base64 at {shift}",
            whole[start:end].replace(b"+", b"-").replace(b"/", b"_"),
        )


def hits(name: str, content: bytes, secrets: dict[str, str]) -> list[str]:
    return [
        f"{what} ({form}) in {name}"
        for what, secret in secrets.items()
        for form, text in forms(secret)
        if text in content
    ]


class Everything:
    """What was said to anybody, by name."""

    def __init__(self) -> None:
        self.said: list[tuple[str, bytes]] = []

    def note(self, name: str, text: str | bytes) -> None:
        self.said.append((name, text.encode() if isinstance(text, str) else text))

    def answer(self, name: str, answer: httpx.Response) -> httpx.Response:
        headers = "\n".join(f"{key}: {value}" for key, value in answer.headers.items())
        self.note(f"the answer to {name}", f"{answer.status_code}\n{headers}\n{answer.text}")
        return answer

    def command(self, home: Path, *arguments: str, **more: str) -> int:
        done = volley(home, *arguments, **more)
        self.note(f"volley {arguments[0]}", f"{done.stdout}\n{done.stderr}")
        return done.returncode


def test_the_search_finds_what_it_looks_for() -> None:
    secrets = {"it": LITERAL}
    assert not hits("nothing", b"cnry and the rest of it", secrets)
    wrapped = b"prefix " + LITERAL.encode() + b" suffix"
    for shown in (
        wrapped,
        wrapped.hex().encode(),
        base64.b64encode(wrapped),
        base64.b64encode(b"." + wrapped),
        base64.urlsafe_b64encode(b".." + wrapped),
        quote(LITERAL, safe="").encode(),
        json.dumps({"x": LITERAL}).encode(),
    ):
        assert hits("planted", shown, secrets), shown


@pytest.mark.skipif(os.name != "posix", reason="/proc and modes of POSIX")
def test_no_secret_gets_out(tmp_path: Path) -> None:
    every = Everything()
    home = tmp_path / "home"
    home.mkdir(mode=0o700)
    environment = {"THE_SECRET": BY_ENVIRONMENT, "VOLLEY_DEBUG": "1"}
    with VenueProcess(tmp_path, "--still") as venue:
        write_config(home, log={"level": "DEBUG"}, signals={"approval_timeout_s": 1})
        key = alpaca(1, venue.url)["credentials"]["key_id"]
        import_accounts(
            home,
            [
                alpaca(1, venue.url, credentials={"key_id": key, "secret": LITERAL}),
                alpaca(2, venue.url, credentials={"key_id": "KEY002", "secret": "env:THE_SECRET"}),
                alpaca(3, venue.url, credentials={"key_id": key, "secret": REFUSED}),
                alpaca(
                    4,
                    venue.url,
                    active=False,  # no engine would start with it
                    credentials={"key_id": "KEY004", "secret": "env:NOT_SET"},
                ),
                alpaca(5, f"http://127.0.0.1:{free_port()}"),
            ],
        )
        bad_imports(every, home)
        with EngineProcess(home, **environment) as engine:
            engine.wait_connected(2)
            hook = volley(home, "hook", "tv").stdout.strip().rpartition("/")[2]
            assert volley(home, "accounts", "enable", "A-004").returncode == 0
            trouble(every, engine, venue, hook)
            until(lambda: engine.rows("positions"))
            engine.kill()
            engine.start()
            engine.wait_connected(2)
            trouble(every, engine, venue, hook, again="-again")
            if Path(f"/proc/{engine.pid}/cmdline").exists():
                every.note("its command line", Path(f"/proc/{engine.pid}/cmdline").read_bytes())
            questions(every, engine)
        wrong_servers(every, home, environment)
    token = (home / "token").read_text("utf-8").strip()
    secrets = PLANTED | {"the token": token, "the hook's secret": hook}
    found = [hit for name, content in every.said for hit in hits(name, content, secrets)]
    files = [path for path in tmp_path.rglob("*") if path.is_file()]
    for path in files:
        if path.name not in MAY_HOLD_THEIR_OWN:
            found += hits(str(path.relative_to(tmp_path)), path.read_bytes(), secrets)
    names = {path.name for path in files}
    assert {
        "engine.log",
        "journal.sqlite3",
        "accounts.sqlite3",
        "engine.stderr",
        "orders.csv",
    } <= names
    log = (home / "logs" / "engine.log").read_text("utf-8")
    assert "A-004" in log
    assert not found, "\n".join(found)
    for name in MAY_HOLD_THEIR_OWN:
        assert not (home / name).stat().st_mode & 0o077
        assert not hits(name, (home / name).read_bytes(), PLANTED)


def bad_imports(every: Everything, home: Path) -> None:
    """Files a person may get wrong, with the secret in the wrong place."""
    good = alpaca(9, "http://127.0.0.1:1")
    wrong = [
        good | {"secret": LITERAL},
        good | {"credentials": LITERAL},
        good | {"credentials": {"secret": {"value": LITERAL}}},
        good | {"base_url": f"http://user:{quote(LITERAL, safe='')}@127.0.0.1:1"},
    ]
    file = home / "wrong.json"
    for number, document in enumerate(wrong):
        file.write_text(json.dumps([document]), "utf-8")
        assert every.command(home, "accounts", "import", str(file)) == 1, number
    odd = good | {"credentials": {"key_id": "k", "secret": LITERAL + "\n"}}  # no header carries it
    file.write_text(json.dumps([odd]), "utf-8")
    assert every.command(home, "accounts", "import", str(file)) == 1
    file.write_text('[{"credentials": {"secret": "' + LITERAL, "utf-8")
    assert every.command(home, "accounts", "import", str(file)) == 1
    file.unlink()


def trouble(
    every: Everything, engine: EngineProcess, venue: VenueProcess, hook: str, again: str = ""
) -> None:
    """Everything that makes an engine talk."""
    post = engine.http.post
    url = engine.url
    taken = every.answer("a signal", engine.signal(id=f"s-1{again}"))
    assert taken.status_code == 202
    venue.post(
        "/sim/faults",
        [
            {"action": a, "match": {"method": "POST"}}
            for a in ("http_500", "garbage", "drop", "http_429")
        ],
    )
    every.answer("a signal that fails", engine.signal(id=f"s-2{again}"))
    until(lambda: not engine.status()["unknown_orders"], 30)
    venue.post("/sim/disconnect", {})
    until(lambda: engine.status()["connected"] == 2, 30)

    strange = [
        signal_document(secret=IN_A_BODY),
        signal_document(id=IN_A_BODY + " "),
        signal_document(symbol=IN_A_BODY),
        signal_document(quantity=IN_A_BODY),
        signal_document(action=IN_A_BODY),
        signal_document(issued_at=IN_A_BODY),
        {IN_A_BODY: IN_A_BODY},
    ]
    for number, document in enumerate(strange):
        answer = post(url + "/v1/signals", json=document)
        assert answer.status_code == 400, answer.text
        every.note(f"strange body {number}", "" if number else answer.text)
    post(url + "/v1/signals", content=b'{"secret": "' + IN_A_BODY.encode())
    alert = {
        "ticker": "AAPL", "action": "buy", "price": "189.43", "time": stamp(), "strategy": "breakout",
        "secret": IN_A_BODY, "passphrase": IN_A_BODY, "id": f"alert{again}",
    }  # fmt: skip
    every.answer("an alert", post(f"{url}/v1/hooks/tv/{hook}", json=alert))
    every.answer("a wrong hook", post(f"{url}/v1/hooks/tv/{GUESSED_HOOK}", json=alert))
    every.answer("a hook's wrong method", engine.http.get(f"{url}/v1/hooks/tv/{hook}"))
    every.answer("a hook's nonsense", post(f"{url}/v1/hooks/tv/{hook}", content=b"\xff\xfe"))
    with httpx.Client(trust_env=False) as stranger:
        wrong = {"Authorization": f"Bearer {GUESSED}"}
        for path in ("/v1/signals", "/v1/accounts", "/v1/feed"):
            refused = every.answer(path, stranger.get(url + path, headers=wrong))
            assert refused.status_code == 401
        query = {"token": IN_A_QUERY}
        assert (
            every.answer("a query", stranger.get(url + "/v1/orders", params=query)).status_code
            == 401
        )
    answer = engine.http.get(url + "/v1/orders", params={"account": IN_A_QUERY + "!"})
    assert answer.status_code == 422
    for command in (
        {"id": f"x{again}", "command": "kill", "password": IN_A_BODY},
        {"id": f"y{again}", "command": IN_A_BODY},
    ):
        assert post(url + "/v1/commands", json=command).status_code == 422


def questions(every: Everything, engine: EngineProcess) -> None:
    """Everything that may be asked of it."""
    home = engine.home
    for path in (
        "/v1/signals", "/v1/orders", "/v1/fills", "/v1/positions", "/v1/accounts", "/v1/status", "/v1/latency",
        "/v1/signals/bot/s-1", "/healthz", "/readyz", "/metrics", "/openapi.json", "/docs", "/nowhere",
    ):  # fmt: skip
        every.answer(path, engine.request("GET", path))
    for arguments in (
        ["status"], ["status", "--json"], ["accounts", "list"], ["accounts", "list", "--json"],
        *(["accounts", "show", f"A-00{n}"] for n in range(1, 6)),
        ["doctor"], ["doctor", "--json"],
    ):  # fmt: skip
        every.command(home, *arguments, THE_SECRET=BY_ENVIRONMENT)
    for table, form in (("orders", "csv"), ("fills", "jsonl"), ("signals", "csv")):
        out = home / f"{table}.{form}"
        assert every.command(home, "export", table, "--format", form, "--out", str(out)) == 0


def wrong_servers(every: Everything, home: Path, environment: dict[str, str]) -> None:
    """Profile ``servers`` with passwords in its URLs and nobody there; and configurations that are refused."""
    nobody = free_port()
    urls = {
        "VOLLEY_STORAGE__PROFILE": "servers",
        "VOLLEY_STORAGE__REDIS_URL": f"redis://u:{quote(REDIS, safe='')}@127.0.0.1:{nobody}/0",
        "VOLLEY_STORAGE__MONGO_URL": f"mongodb://u:{quote(MONGO, safe='')}@127.0.0.1:{nobody}/volley"
        "?serverSelectionTimeoutMS=300",
    }
    for command in (["engine", "--for", "1"], ["doctor"], ["accounts", "list"]):
        assert every.command(home, *command, **urls, **environment) == 1
    for name, value in (
        ("VOLLEY_STORAGE__REDIS_URL", f"http://u:{quote(REDIS, safe='')}@h"),
        ("VOLLEY_STORAGE__MONGO_URL", f"nonsense {MONGO}"),
        ("VOLLEY_STORAGE__REDIS_PASSWORD", REDIS),
        ("VOLLEY_TOKEN", f"{GUESSED} with blanks"),
    ):
        assert every.command(home, "engine", "--for", "1", **environment, **{name: value}) == 2, (
            name
        )
    file = home / "other.toml"
    file.write_text(f'[storage]\nmongo_password = "{MONGO}"\n[api]\ntoken = "{GUESSED}"\n', "utf-8")
    assert every.command(home, "engine", "--config", str(file), **environment) == 2
    file.write_text(f'[engine]\nname = "{GUESSED}\n', "utf-8")
    assert every.command(home, "engine", "--config", str(file), **environment) == 2
    file.unlink()
