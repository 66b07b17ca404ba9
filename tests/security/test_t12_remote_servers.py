"""T12, Redis and MongoDB: never in the open over a network, and with no more rights than the engine needs."""

from __future__ import annotations

from pathlib import Path

import pytest

from engine.errors import ConfigError
from engine.stores.mongo import open_mongo
from engine.stores.redis_client import open_redis
from tests.processes import volley

PASSWORD = "cnry-remote-pw"
HERE_REDIS = [
    "redis://127.0.0.1:6379/0", "redis://localhost/0", "redis://[::1]:6379/0", "redis://127.9.9.9/0",
    "unix:///run/redis.sock", "rediss://127.0.0.1/0", f"redis://u:{PASSWORD}@127.0.0.1/0",
]  # fmt: skip
OPEN_REDIS = [
    "redis://cache/0", "redis://10.0.0.5:6379/0", "redis://192.168.1.4/0", "redis://[2001:db8::1]/0", "redis://0.0.0.0/0",
    f"redis://u:{PASSWORD}@cache/0", "rediss://cache/0", f"rediss://u:{PASSWORD}@cache/0?ssl_cert_reqs=none",
    "redis://127.0.0.1.evil.example/0", "redis://localhost.evil.example/0", "redis://127.0.0.1@evil.example/0",
]  # fmt: skip
HERE_MONGO = [
    "mongodb://127.0.0.1/v", "mongodb://localhost:27017,[::1]:27018/v", "mongodb://%2Ftmp%2Fmongodb.sock/v",
    f"mongodb://u:{PASSWORD}@db/v?tls=true", "mongodb://db/v?tls=true&authMechanism=MONGODB-X509",
]  # fmt: skip
OPEN_MONGO = [
    "mongodb://db/v", f"mongodb://u:{PASSWORD}@db/v", "mongodb://db/v?tls=true", "mongodb://127.0.0.1,db/v",
    f"mongodb://u:{PASSWORD}@db/v?tls=false", f"mongodb://u:{PASSWORD}@db/v?tls=true&tlsInsecure=true",
    f"mongodb://u:{PASSWORD}@db/v?tls=true&tlsAllowInvalidCertificates=true",
    f"mongodb://u:{PASSWORD}@db/v?tls=true&tlsAllowInvalidHostnames=true", "mongodb+srv://c.example/v",
    f"mongodb+srv://u:{PASSWORD}@c.example/v?tls=false", "mongodb://10.1.2.3/v", "mongodb://127.0.0.1.evil.example/v",
]  # fmt: skip


@pytest.mark.parametrize("url", [*HERE_REDIS, f"rediss://u:{PASSWORD}@cache:6380/0"])
async def test_redis_here_or_locked_is_taken(url: str) -> None:
    await open_redis(url).aclose()


@pytest.mark.parametrize("url", OPEN_REDIS)
def test_redis_in_the_open_is_refused(url: str) -> None:
    with pytest.raises(ConfigError, match=r"storage\.redis_url") as caught:
        open_redis(url)
    assert PASSWORD not in str(caught.value)


@pytest.mark.parametrize("driver", ["pymongo", "motor"])
@pytest.mark.parametrize("url", HERE_MONGO)
async def test_mongodb_here_or_locked_is_taken(url: str, driver: str) -> None:
    await open_mongo(url, driver).close()


@pytest.mark.parametrize("url", OPEN_MONGO)
async def test_mongodb_in_the_open_is_refused(url: str) -> None:
    with pytest.raises(ConfigError, match=r"storage\.mongo_url") as caught:
        open_mongo(url)
    assert PASSWORD not in str(caught.value)


@pytest.mark.parametrize(
    "urls",
    [
        {"VOLLEY_STORAGE__REDIS_URL": f"redis://u:{PASSWORD}@192.0.2.1/0"},
        {"VOLLEY_STORAGE__MONGO_URL": f"mongodb://u:{PASSWORD}@192.0.2.1/v"},
    ],
)
def test_an_engine_does_not_start_on_them(tmp_path: Path, urls: dict[str, str]) -> None:
    done = volley(tmp_path, "engine", "--for", "1", VOLLEY_STORAGE__PROFILE="servers", **urls)
    assert done.returncode == 2, done.stderr
    assert len(done.stderr.splitlines()) == 1
    assert "another machine" in done.stderr
    assert PASSWORD not in done.stderr + done.stdout


ENGINE_USER = (
    "+xadd", "+xreadgroup", "+xack", "+xautoclaim", "+xpending", "+xgroup", "+xlen", "+xinfo", "+xrange", "+xtrim",
    "+xdel", "+hset", "+hdel", "+hget", "+hgetall", "+del", "+unlink", "+exists", "+expire", "+pexpire", "+get", "+set",
    "+publish", "+subscribe", "+unsubscribe", "+psubscribe", "+multi", "+exec", "+ping", "+hello", "+auth", "+client",
    "+select", "+info", "+eval", "+evalsha", "+watch", "+unwatch", "+scan", "+time",
)  # fmt: skip
"""What resources/help tells to grant: named commands on keys and channels of ``volley:`` only."""


async def test_a_user_with_named_commands_serves_the_engine_and_may_not_flush(
    valkey: object,
) -> None:
    from redis.exceptions import NoPermissionError

    from engine.model.enums import ConnectionState
    from engine.stores.mirror_redis import RedisMirror
    from tests.helpers import eventually

    url: str = valkey.url  # type: ignore[attr-defined]
    root = open_redis(url)
    try:
        await root.execute_command(
            "ACL",
            "SETUSER",
            "volley",
            "reset",
            "on",
            f">{PASSWORD}",
            "~volley:*",
            "&volley:*",
            *ENGINE_USER,
        )
        mirror = RedisMirror(url.replace("redis://", f"redis://volley:{PASSWORD}@"))
        await mirror.open()
        try:
            mirror.order("A-1", "X" * 20, {"status": "new"})
            mirror.position("A-1", "AAPL", {"qty": "1"})
            mirror.event("order", {"cl_ord_id": "X" * 20})
            await eventually(lambda: mirror.status()[0] is ConnectionState.CONNECTED)
        finally:
            await mirror.close()
        assert await root.hgetall("volley:order:A-1")
        user = open_redis(url.replace("redis://", f"redis://volley:{PASSWORD}@"))
        try:
            for command in (["FLUSHALL"], ["FLUSHDB"], ["CONFIG", "GET", "*"], ["KEYS", "*"], ["SHUTDOWN"],
                            ["ACL", "LIST"],
                            ["SET", "other:key", "x"]):  # fmt: skip
                with pytest.raises(NoPermissionError):
                    await user.execute_command(*command)
        finally:
            await user.aclose()
        assert await root.hgetall("volley:position:A-1")
    finally:
        await root.execute_command("ACL", "DELUSER", "volley")
        await root.aclose()
