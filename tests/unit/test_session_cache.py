"""Tokens of sessions that end: kept, renewed once before their end, and never in a storm."""

from __future__ import annotations

import asyncio
import heapq
import os
import time
from collections import Counter
from datetime import UTC, datetime, timedelta
from itertools import pairwise
from pathlib import Path

import pytest

from engine.brokers.session_cache import SessionCache
from engine.errors import BrokerAuthError, BrokerUnavailable
from engine.ports import SessionToken
from engine.stores.token_store import FileTokenStore
from engine.stores.vault import FileVault

START = datetime(2026, 11, 23, 3, 30, tzinfo=UTC)


class Clock:
    """Time that passes when the test says so; ``sleep`` ends then."""

    def __init__(self) -> None:
        self.passed = 0.0
        self._sleepers: list[tuple[float, int, asyncio.Future[None]]] = []
        self._count = 0

    def now(self) -> datetime:
        return START + timedelta(seconds=self.passed)

    def monotonic_ns(self) -> int:
        return int(self.passed * 1e9) + 1

    async def sleep(self, seconds: float) -> None:
        self._count += 1
        future = asyncio.get_running_loop().create_future()
        heapq.heappush(self._sleepers, (self.passed + seconds, self._count, future))
        await future

    async def advance(self, seconds: float) -> None:
        """Let time pass, waking each sleeper at its moment."""
        end = self.passed + seconds
        await self.settle()
        while self._sleepers and self._sleepers[0][0] <= end:
            self.passed, _, future = heapq.heappop(self._sleepers)
            if not future.done():
                future.set_result(None)
            await self.settle()
        self.passed = end

    async def settle(self) -> None:
        for _ in range(12):  # more turns of the loop than any chain of awaits here needs
            await asyncio.sleep(0)


class Broker:
    """Renews tokens and remembers when; ``gate`` holds its answers back, ``fails`` are errors to give first."""

    def __init__(self, clock: Clock, life_s: float = 3600.0) -> None:
        self.clock = clock
        self.life_s = life_s
        self.asked: list[tuple[float, str]] = []
        self.fails: list[Exception] = []
        self.gate: asyncio.Event | None = None

    async def refresh(self, before: SessionToken) -> SessionToken:
        self.asked.append((self.clock.passed, before.token))
        if self.gate is not None:
            await self.gate.wait()
        if self.fails:
            raise self.fails.pop(0)
        return token(self.clock, f"{before.token}+", self.life_s)


def token(clock: Clock, text: str = "t", life_s: float = 3600.0) -> SessionToken:
    return SessionToken(text, clock.now() + timedelta(seconds=life_s), "key", "again")


def cache(clock: Clock, store: FileTokenStore | None = None, **options: object) -> SessionCache:
    options = {"per_second": 0.0} | options
    return SessionCache(store, clock=clock, sleep=clock.sleep, **options)  # type: ignore[arg-type]


def test_a_token_is_good_until_its_end_or_the_brokers_word():
    clock = Clock()
    kept = cache(clock)
    assert kept.get("A") is None
    kept.put("A", token(clock))
    assert kept.get("A", "key") is not None
    assert kept.get("A", "another app's key") is None
    assert kept.get("B") is None
    kept.drop("A", "another")
    assert kept.get("A") is not None
    kept.drop("A", "t")
    assert kept.get("A") is None
    assert kept.is_over("A", "t")
    kept.put("A", token(clock, "new"))
    assert kept.get("A") is not None
    clock.passed = 3600
    assert kept.get("A") is None


async def test_all_who_ask_at_once_share_one_renewal():
    clock = Clock()
    broker, kept = Broker(clock), cache(clock)
    broker.gate = asyncio.Event()
    kept.put("A", token(clock))
    asking = [asyncio.create_task(kept.renew("A", broker.refresh)) for _ in range(200)]
    await clock.settle()
    asking[0].cancel()  # one who gives up takes nothing from the others
    broker.gate.set()
    found = await asyncio.gather(*asking[1:])
    assert {one.token for one in found} == {"t+"}
    assert len(broker.asked) == 1
    assert kept.get("A") == found[0]


async def test_accounts_do_not_wait_for_each_other():
    clock = Clock()
    stuck, quick, kept = Broker(clock), Broker(clock), cache(clock)
    stuck.gate = asyncio.Event()
    for name in "AB":
        kept.put(name, token(clock, name))
    waiting = asyncio.create_task(kept.renew("A", stuck.refresh))
    await clock.settle()
    assert (await kept.renew("B", quick.refresh)).token == "B+"
    assert not waiting.done()
    stuck.gate.set()
    assert (await waiting).token == "A+"


async def test_a_failed_renewal_is_not_asked_for_again_at_once():
    clock = Clock()
    broker, kept = Broker(clock), cache(clock)
    kept.put("A", token(clock))
    broker.fails = [BrokerUnavailable("down"), BrokerUnavailable("still down", retry_after=90)]
    for _ in range(50):
        with pytest.raises(BrokerUnavailable, match=r"^down"):
            await kept.renew("A", broker.refresh)
    assert len(broker.asked) == 1
    clock.passed = 1.1
    with pytest.raises(BrokerUnavailable, match="still"):
        await kept.renew("A", broker.refresh)
    clock.passed = 90.0  # less than it was asked to wait
    with pytest.raises(BrokerUnavailable, match="still"):
        await kept.renew("A", broker.refresh)
    assert len(broker.asked) == 2
    clock.passed = 91.2
    assert (await kept.renew("A", broker.refresh)).token == "t+"


async def test_nobody_logged_in_needs_a_person():
    clock = Clock()
    broker, kept = Broker(clock), cache(clock)
    with pytest.raises(BrokerAuthError, match="account A"):
        await kept.renew("A", broker.refresh)
    assert broker.asked == []


async def test_renewals_start_one_after_another():
    clock = Clock()
    kept = cache(clock, per_second=200.0)
    starts: list[float] = []

    async def refresh(before: SessionToken) -> SessionToken:
        starts.append(time.monotonic())
        return token(clock, before.token + "+")

    names = [f"A{n}" for n in range(12)]
    for name in names:
        kept.put(name, token(clock, name))
    await asyncio.gather(*(kept.renew(name, refresh) for name in names))
    assert len(starts) == 12
    assert starts[-1] - starts[0] >= 11 / 200 * 0.95


async def test_two_hundred_sessions_that_end_together_are_renewed_apart_and_in_time():
    clock = Clock()
    kept = cache(clock, ahead=timedelta(minutes=10))
    brokers = {f"A{n}": Broker(clock, life_s=86_400) for n in range(200)}
    got: Counter[str] = Counter()
    tasks = []
    for name, broker in brokers.items():
        kept.put(name, token(clock, name))

        def on_token(found: SessionToken, name: str = name) -> None:
            got[name] += 1

        tasks.append(asyncio.create_task(kept.keep(name, broker.refresh, on_token)))
    await clock.advance(3600 - 20 * 60 - 1)
    assert not got  # at most twice the ten minutes ahead
    await clock.advance(10 * 60 + 2)
    assert set(got.values()) == {1}
    assert len(got) == 200
    at = [broker.asked[0][0] for broker in brokers.values()]
    assert max(at) < 3600 - 10 * 60 + 1
    minutes = Counter(int(moment // 60) for moment in at)
    assert len(minutes) >= 9  # spread over the ten minutes, not all at once
    assert max(minutes.values()) < 60
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)


async def test_a_broker_that_is_down_is_asked_again_with_growing_pauses():
    clock = Clock()
    broker, kept = Broker(clock, life_s=86_400), cache(clock)
    kept.put("A", token(clock))
    broker.fails = [BrokerUnavailable("down")] * 6
    found: list[SessionToken] = []
    task = asyncio.create_task(kept.keep("A", broker.refresh, found.append))
    await clock.advance(3600)
    times = [at for at, _ in broker.asked]
    assert len(times) == 7
    pauses = [later - earlier for earlier, later in pairwise(times)]
    assert all(pause >= 0.5 * 2**n for n, pause in enumerate(pauses))
    assert [one.token for one in found] == ["t+"]
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)


async def test_a_refusal_ends_the_renewals():
    clock = Clock()
    broker, kept = Broker(clock), cache(clock)
    kept.put("A", token(clock))
    broker.fails = [BrokerAuthError("log in")]
    task = asyncio.create_task(kept.keep("A", broker.refresh, lambda found: None))
    await clock.advance(3600)
    with pytest.raises(BrokerAuthError):
        await task
    await clock.advance(86_400)
    assert len(broker.asked) == 1  # no loop of attempts that would lock the account


async def test_a_machine_that_slept_renews_when_it_wakes():
    clock = Clock()
    broker, kept = Broker(clock), cache(clock)
    kept.put("A", token(clock, life_s=86_400))
    task = asyncio.create_task(kept.keep("A", broker.refresh, lambda found: None))
    await clock.advance(100)
    clock.passed += 86_400  # the wall clock went on, the nap did not notice
    await clock.advance(0)
    assert len(broker.asked) == 1
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)


# What the store keeps


def store(home: Path) -> FileTokenStore:
    return FileTokenStore(home, FileVault(home, keyring=None))


def test_the_store_keeps_tokens_sealed_and_bound_to_their_account(tmp_path: Path):
    kept = store(tmp_path)
    assert kept.load("A:1") is None
    assert kept.version() == 0
    given = SessionToken("canary-token", START, "key", "canary-refresh")
    kept.save("A:1", given)
    kept.save("a:1", SessionToken("other", START))
    assert store(tmp_path).load("A:1") == given
    assert store(tmp_path).load("a:1") == SessionToken("other", START)
    files = sorted((tmp_path / "sessions").iterdir())
    assert len(files) == 2
    for file in files:
        assert b"canary" not in file.read_bytes()
        assert os.name == "nt" or file.stat().st_mode & 0o077 == 0
    assert "canary" not in repr(given)
    # Another account's file is of no use under this one's name.
    names = {f.name: f.read_bytes() for f in files}
    first, second = names
    (tmp_path / "sessions" / first).write_bytes(names[second])
    assert {store(tmp_path).load("A:1"), store(tmp_path).load("a:1")} & {None}
    kept.forget("A:1")
    kept.forget("a:1")
    assert kept.load("A:1") is kept.load("a:1") is None


@pytest.mark.parametrize("damage", [b"", b"{}", b"[]", b"\xff", b'{"sealed":"enc:v1:AAAA"}'])
def test_a_damaged_file_is_no_token(tmp_path: Path, damage: bytes):
    kept = store(tmp_path)
    kept.save("A", SessionToken("t", START))
    (file,) = (tmp_path / "sessions").iterdir()
    file.write_bytes(damage)
    assert kept.load("A") is None


async def test_a_login_made_by_another_process_is_taken_up(tmp_path: Path):
    clock = Clock()
    kept = cache(clock, store(tmp_path))
    found: list[SessionToken] = []
    leave = kept.follow("A", found.append)
    elsewhere = store(tmp_path)
    await clock.advance(1)
    assert found == []
    elsewhere.save("B", token(clock, "not ours"))
    elsewhere.save("A", token(clock, "one"))
    await clock.advance(1)
    assert [one.token for one in found] == ["one"]
    assert kept.get("A") == found[0]
    await clock.advance(5)
    assert len(found) == 1  # told once
    elsewhere.save("A", token(clock, "two"))
    await clock.advance(1)
    assert [one.token for one in found] == ["one", "two"]
    elsewhere.save("A", token(clock, "over before it began", life_s=-1))
    await clock.advance(1)
    assert len(found) == 2
    await leave()
    elsewhere.save("A", token(clock, "three"))
    await clock.advance(5)
    assert len(found) == 2


async def test_a_token_that_cannot_be_kept_works_all_the_same(tmp_path: Path, caplog):
    clock = Clock()
    broker, kept = Broker(clock), cache(clock, store(tmp_path))
    kept.put("A", token(clock))
    (tmp_path / "sessions").rename(tmp_path / "gone")
    (tmp_path / "sessions").write_bytes(b"no directory")
    found = await kept.renew("A", broker.refresh)
    assert found.token == "t+"
    assert kept.get("A") == found
    assert "cannot be kept" in caplog.text
    assert "t+" not in caplog.text


async def test_a_token_survives_a_restart(tmp_path: Path):
    clock = Clock()
    cache(clock, store(tmp_path)).put("A", token(clock))
    found = cache(clock, store(tmp_path)).get("A")
    assert found == token(clock)
