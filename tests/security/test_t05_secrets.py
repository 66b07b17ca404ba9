"""T05 and T20 (G18), secrets where they do not belong: every kind of secret, an engine at DEBUG, errors and crashes.

Beside what tests/e2e/test_canary.py looks through (logs, answers, exports, terminals, command lines): the vault's
passphrase, PINs, operators' tokens, webhook signing keys; Redis and MongoDB as they are after a run; the core limit.
"""

from __future__ import annotations

import json
import os
import re
from pathlib import Path

import pytest

from tests.e2e.test_canary import Everything, hits
from tests.processes import (
    EngineProcess,
    VenueProcess,
    alpaca,
    import_accounts,
    signal_document,
    volley,
    write_config,
)

PASSPHRASE = "cnry-passphrase+/=&%p1~Za"
PIN = "cnry-pin-97531"
LITERAL = "cnry-credential+/=&%q2~Yb"
GUESSED_PIN = "cnry-guessed-pin-1"
CHILD_ONLY = {"VOLLEY_PASSPHRASE"}
"""The interface demands it from the environment: it is in the environment of the engine, and nowhere else."""

pytestmark = pytest.mark.skipif(os.name != "posix", reason="/proc and modes of POSIX")


def test_no_new_kind_of_secret_gets_out(tmp_path: Path) -> None:
    every, home = Everything(), tmp_path / "home"
    home.mkdir(mode=0o700)
    locked = {"VOLLEY_PASSPHRASE": PASSPHRASE}
    with VenueProcess(tmp_path, "--still") as venue:
        write_config(home, log={"level": "DEBUG"}, hooks={})
        key = alpaca(1, venue.url)["credentials"]["key_id"]
        import_accounts(
            home, [alpaca(1, venue.url, credentials={"key_id": key, "secret": LITERAL})], **locked
        )
        made = json.loads(
            volley(home, "operators", "add", "alice", "--role", "risk", "--json").stdout
        )
        token = str(made["token"])
        every.command(home, "operators", "pin", "set", "alice", VOLLEY_PIN=PIN)
        signing = json.loads(volley(home, "hook", "tv", "--new-key", "--json", **locked).stdout)
        with EngineProcess(home, VOLLEY_DEBUG="1", **locked) as engine:
            engine.wait_connected(1)
            for _ in range(2):
                use(every, engine, token, signing)
                status = Path(f"/proc/{engine.pid}/cmdline").read_bytes()
                every.note("the command line", status)
                every.note(
                    "the environment",
                    without(Path(f"/proc/{engine.pid}/environ").read_bytes(), CHILD_ONLY),
                )
                for child in children(engine.pid):
                    every.note(
                        "a child's command line", Path(f"/proc/{child}/cmdline").read_bytes()
                    )
                assert core_limit(engine.pid) == ("0", "0")
                engine.kill()  # a crash, in the middle of it all
                engine.start()
                engine.wait_connected(1)
            for arguments in (
                ["vault", "status"],
                ["operators", "list"],
                ["hook", "tv", "--keys"],
                ["doctor"],
                ["status"],
            ):
                every.command(home, *arguments, **locked)
            for table in ("orders", "fills", "signals", "positions"):
                for form in ("csv", "jsonl", "xlsx"):
                    out = home / f"{table}.{form}"
                    assert (
                        every.command(home, "export", table, "--format", form, "--out", str(out))
                        == 0
                    )
        every.command(home, "engine", "--for", "1", VOLLEY_PASSPHRASE=PASSPHRASE + "x")
        every.command(home, "vault", "passphrase", VOLLEY_NEW_PASSPHRASE=PASSPHRASE[:8], **locked)
    secrets = {
        "the passphrase": PASSPHRASE, "a PIN": PIN, "a credential": LITERAL, "an operator's token": token,
        "a signing key": str(signing["key"]), "a guessed PIN": GUESSED_PIN,
    }  # fmt: skip
    found = [line for name, text in every.said for line in hits(name, text, secrets)]
    for path in sorted(tmp_path.rglob("*")):
        if path.is_file():
            found += hits(str(path.relative_to(tmp_path)), path.read_bytes(), secrets)
    assert not found


def use(every: Everything, engine: EngineProcess, token: str, signing: dict[str, str]) -> None:
    """Put every secret to use, rightly and wrongly."""
    import httpx

    from tests.security.signing import Sender

    number = len(every.said)
    sender = Sender("tv", signing["id"], signing["key"])
    content = json.dumps(signal_document(id=f"s-{number}", source="tv")).encode()
    with httpx.Client(base_url=engine.url, trust_env=False, timeout=20) as alice:
        alice.headers["Authorization"] = f"Bearer {token}"
        every.answer("the list", alice.get("/v1/orders"))
        for pin in (GUESSED_PIN, PIN):
            document = {
                "id": f"c-{number}-{pin[-1]}",
                "command": "rearm",
                "reason": "test",
                "pin": pin,
            }
            every.answer("a command", alice.post("/v1/commands", json=document))
        wrong = {"id": f"w-{number}", "command": "rearm", "pin": {"not": PIN}, "reason": PIN[:4]}
        every.answer("a wrong command", alice.post("/v1/commands", json=wrong))
        alice.headers["Authorization"] = f"Bearer {token}x"
        every.answer("a wrong token", alice.get("/v1/orders"))
        every.answer(
            "a signed body",
            alice.post("/v1/hooks/tv", content=content, headers=sender.headers(content)),
        )
        every.answer(
            "a wrongly signed body",
            alice.post("/v1/hooks/tv", content=b"x", headers=sender.headers(content)),
        )
        every.answer(
            "a key in the path", alice.post(f"/v1/hooks/tv/{signing['key']}", content=content)
        )


def without(environ: bytes, names: set[str]) -> bytes:
    """Return an environment without some of its variables."""
    return b"\0".join(
        entry for entry in environ.split(b"\0") if entry.partition(b"=")[0].decode() not in names
    )


def children(pid: int) -> list[int]:
    """Return the processes a process has started."""
    return [
        int(word)
        for path in Path(f"/proc/{pid}/task").glob("*/children")
        for word in path.read_text().split()
    ]


def core_limit(pid: int) -> tuple[str, str]:
    """Return soft and hard limit of the size of a core dump."""
    found = re.search(
        r"Max core file size\s+(\S+)\s+(\S+)", Path(f"/proc/{pid}/limits").read_text()
    )
    assert found
    return found[1], found[2]


async def test_redis_and_mongodb_hold_no_credential(
    tmp_path: Path, valkey: object, mongo: object
) -> None:
    """Profile ``servers``: what the engine leaves in both, every value of both searched."""
    import pymongo
    import redis

    from tests.integration.test_servers_profile import put_accounts
    from tests.world import eventually

    name = "canaries_t05"
    redis_url, url = valkey.url, mongo.database(name)  # type: ignore[attr-defined]
    with VenueProcess(tmp_path, "--still") as sim:
        home = tmp_path / "home"
        home.mkdir(mode=0o700)
        key = alpaca(1, sim.url)["credentials"]["key_id"]
        await put_accounts(
            home,
            url,
            "pymongo",
            [alpaca(1, sim.url, credentials={"key_id": key, "secret": LITERAL})],
        )
        write_config(
            home,
            storage={"profile": "servers", "redis_url": redis_url, "mongo_url": url},
            log={"level": "DEBUG"},
        )
        with EngineProcess(home) as engine:
            engine.wait_connected(1)
            assert engine.signal(id="s-1").status_code == 202
            redis_client = redis.Redis.from_url(redis_url)
            try:
                await eventually(
                    lambda: bool(list(redis_client.scan_iter("volley:*"))),
                    what="the mirror is written",
                )
            finally:
                redis_client.close()
    found: list[str] = []
    redis_client = redis.Redis.from_url(redis_url)
    try:
        for entry in redis_client.scan_iter("*"):
            dumped = redis_client.dump(entry) or b""
            whole = (
                repr(redis_client.hgetall(entry)).encode()
                if redis_client.type(entry) == b"hash"
                else b""
            )
            found += hits(f"Redis {entry!r}", dumped + whole, {"it": LITERAL})
        redis_client.delete(*redis_client.scan_iter("volley:*"))
    finally:
        redis_client.close()
    with pymongo.MongoClient(url) as client:
        for collection in client[name].list_collection_names():
            for document in client[name][collection].find():
                found += hits(f"MongoDB {collection}", repr(document).encode(), {"it": LITERAL})
        assert client[name]["accounts"].count_documents({}) == 1
        client.drop_database(name)
    assert not found
