"""A pool many accounts share, against real servers: nobody gets another's reply, and nobody waits for another."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import random
import time
from collections.abc import AsyncIterator

import pytest

from engine.brokers.dial import Pacer, Rank, dial
from engine.brokers.http import HttpClient, check_base_url
from engine.brokers.shared_wire import MOST, Member, SharedWire
from engine.brokers.wire import CONTROL, ORDERS, WireHub
from engine.errors import BrokerUnavailable
from tests.wire_rig import PLAIN, Handler, Probe, Server, always, request, until

NS = 1_000_000_000


class Account:
    """A member and what it was told."""

    def __init__(self, pool: Pool, name: str) -> None:
        self.name = name
        self.pool = pool
        self.changes: list[tuple[bool, str]] = []
        self.probed: list[int] = []
        self.frees = 0
        self.wire: Member = pool.shared.member(
            on_change=lambda up, reason: self.changes.append((up, reason)),
            on_probe=lambda _exchange, status, _raw, _body: self.probed.append(status),
            on_free=self.free,
        )
        self.wire.probe = self.request("probe")

    def free(self) -> None:
        self.frees += 1

    def request(self, what: str) -> bytes:
        return f"GET /{self.name}/{what} HTTP/1.1\r\nHost: venue\r\n\r\n".encode()

    def send(self, what: str, lane=ORDERS, send_before_ns: int = 0) -> Probe:
        probe = Probe(send_before_ns)
        self.wire.send(self.request(what), probe, lane)
        return probe


class Pool:
    """A server that answers with the path it was asked for, and a pool to it.

    Requests whose path holds ``hang`` are answered once ``gate`` is set. ``seen``: the paths, as they came.
    """

    def __init__(self) -> None:
        self.server = Server(self.answer)
        self.gate = asyncio.Event()
        self.seen: list[str] = []
        self.accounts: list[Account] = []
        self.delay_s = 0.0
        self.random = random.Random(7)

    async def answer(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while True:
            path = (await request(reader)).split(b" ")[1].decode()
            self.seen.append(path)
            if "hang" in path:
                await self.gate.wait()
            if self.delay_s:
                await asyncio.sleep(self.random.random() * self.delay_s)
            body = path.encode()
            writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%s" % (len(body), body))

    def open(self, timeout_s: float = 5.0, **options: float) -> None:
        self.hub = WireHub(reply_timeout_s=timeout_s)
        url = f"http://127.0.0.1:{self.server.port}"
        base = check_base_url("A", url, (), allow_simulated=True)
        self.shared = SharedWire(self.hub, base, **options)

    async def join(self, count: int = 1) -> list[Account]:
        first = len(self.accounts)
        new = [Account(self, f"A-{first + number}") for number in range(count)]
        self.accounts += new
        await asyncio.gather(*(account.wire.start() for account in new))
        return new

    async def warm(self, control: int = 1) -> None:
        pool = self.shared.pool
        assert pool is not None
        await until(lambda: pool.warm == pool.wanted and len(pool._control.open) == control)


@contextlib.asynccontextmanager
async def pooled(handler: Handler | None = None, **options: float) -> AsyncIterator[Pool]:
    pool = Pool()
    pool.server.handler = handler or pool.server.handler
    await pool.server.start()
    pool.open(**options)
    try:
        yield pool
    finally:
        await asyncio.gather(*(account.wire.stop() for account in pool.accounts))
        assert pool.shared.pool is None
        left = [task for task in asyncio.all_tasks() if "_Slot" in repr(task.get_coro())]
        await pool.server.stop()
        assert left == []


async def test_it_opens_with_the_first_and_closes_with_the_last():
    async with pooled() as pool:
        first, second = await pool.join(2)
        await pool.warm()
        assert pool.server.connections == 3
        assert first.wire.warm == second.wire.warm == first.wire.wanted == 2
        await first.wire.stop()
        assert not first.wire.up
        assert not first.wire.ready()
        assert (await first.send("late").done)[:2] == ("failure", False)
        assert (await second.send("x").done)[3] == b"/A-1/x"
        await second.wire.stop()
        assert pool.shared.pool is None
        await until(lambda: not pool.server.tasks)
        await second.wire.start()
        assert (await second.send("y").done)[3] == b"/A-1/y"


async def test_leaving_and_joining_at_once_makes_two_pools():
    async with pooled() as pool:
        (first,) = await pool.join()
        old = pool.shared.pool
        leaving = asyncio.create_task(first.wire.stop())
        await asyncio.sleep(0)
        (second,) = await pool.join()
        await leaving
        assert pool.shared.pool is not old
        assert (await second.send("x").done)[3] == b"/A-1/x"


async def test_it_grows_with_its_members_at_the_pace_the_broker_allows(monkeypatch):
    opened: list[float] = []

    async def dialled(*args, **options):
        opened.append(time.monotonic())
        return await dial(*args, **options)

    monkeypatch.setattr("engine.brokers.wire.dial", dialled)
    async with pooled(connects_per_second=50.0) as pool:
        await pool.join(76)
        assert pool.accounts[0].wire.warm < 6  # nobody waits for more than the first
        await pool.warm(control=2)
        assert pool.accounts[0].wire.wanted == 6
        assert pool.server.connections == len(opened) == 8
        assert all(b - a >= 0.019 for a, b in itertools.pairwise(opened))
        pool.shared.members |= {Account(pool, f"B-{n}").wire: None for n in range(500)}
        (more,) = await pool.join()
        assert more.wire.wanted == MOST
        pool.shared.members = {account.wire: None for account in pool.accounts}


async def test_replies_never_cross_accounts_and_each_keeps_its_order():
    async with pooled() as pool:
        pool.delay_s = 0.004
        accounts = await pool.join(60)
        await pool.warm()
        sent = [
            (account, f"o{number}", account.send(f"o{number}"))
            for number in range(8)
            for account in pool.random.sample(accounts, 60)
        ]
        for account, what, probe in sent:
            kind, status, _, body = await probe.done
            assert (kind, status) == ("reply", 200)
            assert body == f"/{account.name}/{what}".encode()
            assert probe.first_byte_ns <= probe.last_byte_ns <= probe.reply_ns
        for account in accounts:
            own = [path for path in pool.seen if path.startswith(f"/{account.name}/")]
            assert own == [f"/{account.name}/o{number}" for number in range(8)]


async def test_an_accounts_next_order_leaves_when_the_one_before_is_answered():
    async with pooled() as pool:
        (account, _) = await pool.join(2)
        await pool.warm()
        assert account.wire.ready()
        hung, after = account.send("hang"), account.send("after")
        assert not account.wire.ready()
        assert (await account.send("cancel", CONTROL).done)[0] == "reply"
        assert pool.seen == ["/A-0/hang", "/A-0/cancel"]
        pool.gate.set()
        assert (await hung.done)[3] == b"/A-0/hang"
        assert (await after.done)[3] == b"/A-0/after"
        assert hung.reply_ns <= after.first_byte_ns
        assert account.wire.ready()


async def test_who_sends_from_a_reply_does_not_overtake_what_waits():
    async with pooled() as pool:
        (account,) = await pool.join()
        await pool.warm()
        last = Probe()

        class Answering(Probe):
            """Sends when it is answered, as the engine does when a report lets the next order go."""

            __slots__ = ()

            def on_reply(self, *reply):
                account.wire.send(account.request("last"), last)
                super().on_reply(*reply)

        hung = Answering()
        account.wire.send(account.request("hang"), hung)
        after = account.send("after")
        pool.gate.set()
        await asyncio.gather(hung.done, after.done, last.done)
        assert pool.seen == ["/A-0/hang", "/A-0/after", "/A-0/last"]


async def test_a_hung_order_delays_nobody_else():
    async with pooled() as pool:
        stuck, *others = await pool.join(20)
        await pool.warm()
        hung = stuck.send("hang")
        began = time.monotonic()
        for account in others:
            assert (await account.send("x").done)[0] == "reply"
        assert time.monotonic() - began < 4.0  # it is given up after five
        assert not hung.done.done()
        assert pool.server.connections == 3


async def test_all_hung_what_waits_says_why_it_never_left():
    async with pooled(timeout_s=0.6) as pool:
        accounts = await pool.join(5)
        await pool.warm()
        hung = [account.send("hang") for account in accounts[:2]]
        soon = time.monotonic_ns() + NS // 10
        late = accounts[2].send("late", send_before_ns=soon)
        behind = accounts[0].send("behind", send_before_ns=soon)
        patient = accounts[3].send("patient")
        assert not accounts[4].wire.ready()
        kind, left, reason = await late.done
        assert (kind, left) == ("failure", False)
        assert reason == "no connection was free in time: every connection waits for an answer"
        assert (await behind.done)[1:] == (
            False,
            "the account's request before it was not answered in time",
        )
        for probe in hung:
            assert (await probe.done)[:2] == ("failure", True)
        # The hung ones' connections are gone; new ones serve who waited and was not refused before.
        kind, left, *_ = await patient.done
        assert (kind, left) in {("reply", 200), ("failure", False)}
        await until(accounts[4].wire.ready)
        assert (await accounts[4].send("x").done)[3] == b"/A-4/x"
        assert "/A-2/late" not in pool.seen
        assert "/A-0/behind" not in pool.seen


async def test_who_waits_for_a_connection_is_told_in_turn_when_one_is_free():
    async with pooled() as pool:
        accounts = await pool.join(6)
        await pool.warm()
        hung = [account.send("hang") for account in accounts[:2]]
        order: list[str] = []
        for account in accounts[2:]:
            assert not account.wire.ready()

            def free(account=account) -> None:
                order.append(account.name)
                account.sent = account.send("x")

            account.wire.on_free = free
        pool.gate.set()
        await asyncio.gather(*(probe.done for probe in hung))
        await until(lambda: len(order) == 4)
        assert order == ["A-2", "A-3", "A-4", "A-5"]
        await asyncio.gather(*(account.sent.done for account in accounts[2:]))
        assert all(account.wire.ready() for account in accounts)


async def test_a_member_that_leaves_fails_only_its_own():
    async with pooled() as pool:
        leaver, other, third, _ = await pool.join(4)
        await pool.warm()
        flying, held = leaver.send("hang"), leaver.send("held")
        theirs, queued = other.send("hang-too"), third.send("queued")
        stuck = other.send("hang-cancel", CONTROL)
        canceling = leaver.send("cancel", CONTROL)  # no connection is free: it waits
        await until(lambda: len(pool.seen) == 3)
        await leaver.wire.stop()
        assert flying.done.result()[:2] == ("failure", True)
        assert "stopped before the reply came" in str(flying.done.result()[2])
        for probe in (held, canceling):
            assert probe.done.result() == ("failure", False, "the session was stopped")
        assert not theirs.done.done()
        assert not queued.done.done()
        pool.gate.set()
        assert (await theirs.done)[3] == b"/A-1/hang-too"
        assert (await queued.done)[3] == b"/A-2/queued"
        assert (await stuck.done)[3] == b"/A-1/hang-cancel"
        assert (
            pool.server.connections == 3
        )  # the late reply was nobody's, and its connection serves on
        await leaver.wire.start()
        assert (await leaver.send("again").done)[3] == b"/A-0/again"


async def test_what_was_refused_as_its_account_left_is_told_once():
    async with pooled() as pool:
        leaver, _ = await pool.join(2)
        await pool.warm()
        late = leaver.send("late", send_before_ns=1)  # refused at once, told a turn later
        await leaver.wire.stop()
        assert late.done.result() == ("failure", False, "it was too old to be sent")


async def test_a_hung_cancel_delays_no_other_cancel():
    async with pooled() as pool:
        first, second, third = await pool.join(3)
        await pool.warm()
        hung = first.send("hang", CONTROL)
        assert (await second.send("cancel", CONTROL).done)[3] == b"/A-1/cancel"
        orders = [first.send("hang-1"), second.send("hang-2")]
        waits = third.send("cancel", CONTROL)
        await until(lambda: len(pool.seen) == 4)
        assert "/A-2/cancel" not in pool.seen
        for connection in list(pool.shared.pool._orders.open):
            connection.transport.abort()  # its successor helps
        assert (await waits.done)[3] == b"/A-2/cancel"
        assert not hung.done.done()
        assert all(order.done.result()[:2] == ("failure", True) for order in orders)
        pool.gate.set()


async def test_a_freed_order_connection_takes_a_waiting_cancel():
    async with pooled() as pool:
        first, second, third = await pool.join(3)
        await pool.warm()
        slow = asyncio.Event()
        gate, pool.gate = pool.gate, slow
        orders = [first.send("hang-1"), second.send("hang-2")]
        await until(lambda: len(pool.seen) == 2)
        pool.gate = gate
        hung = first.send("hang", CONTROL)
        await until(lambda: len(pool.seen) == 3)
        waits = third.send("cancel", CONTROL)
        slow.set()
        assert (await waits.done)[3] == b"/A-2/cancel"
        assert not hung.done.done()
        await asyncio.gather(*(order.done for order in orders))
        gate.set()
        await hung.done


async def test_everybody_is_told_when_the_venue_goes_and_comes_back():
    async with pooled() as pool:
        accounts = await pool.join(5)
        await pool.warm()
        await pool.server.stop()
        await until(lambda: all(account.changes[-1][0] is False for account in accounts))
        assert all("cannot connect" in account.changes[-1][1] for account in accounts)
        assert not any(account.wire.up for account in accounts)
        (late,) = await pool.join()  # joins while it is down: does not wait for it
        assert not late.wire.up
        assert (await late.send("x").done)[:2] == ("failure", False)
        await pool.server.start()
        await until(lambda: all(account.wire.up for account in [*accounts, late]), 10)
        assert all(account.changes[-1] == (True, "") for account in [*accounts, late])


async def test_one_probe_serves_all_in_the_name_of_each_in_turn():
    async with pooled(probe_s=0.02) as pool:
        accounts = await pool.join(3)
        await until(lambda: all(account.probed for account in accounts))
        probes = [path for path in pool.seen if path.endswith("probe")]
        assert probes[:4] == ["/A-0/probe", "/A-1/probe", "/A-2/probe", "/A-0/probe"][: len(probes)]
        await accounts[0].wire.stop()
        count = len(accounts[0].probed)
        await until(lambda: len(accounts[1].probed) + len(accounts[2].probed) > count * 2 + 6)
        assert len(accounts[0].probed) == count


# Connecting


async def test_the_pace_serves_who_is_needed_first():
    pacer = Pacer(100)
    await pacer.turn()
    came: list[str] = []

    async def turn(name: str, rank: Rank) -> None:
        await pacer.turn(rank)
        came.append(name)

    wanted = [
        ("stream", Rank.STREAMS),
        ("read", Rank.READS),
        ("order", Rank.ORDERS),
        ("first", Rank.NEEDED),
        ("order 2", Rank.ORDERS),
    ]
    began = time.monotonic()
    tasks = [asyncio.create_task(turn(*one)) for one in wanted]
    await asyncio.sleep(0)
    assert pacer.crowded
    await asyncio.gather(*tasks)
    assert came == ["first", "order", "order 2", "read", "stream"]
    assert time.monotonic() - began >= 0.045
    assert not pacer.crowded


async def test_look_ups_that_come_together_do_not_wait_for_connections_of_their_own():
    async def slowly(reader, writer):
        while True:
            await request(reader)
            await asyncio.sleep(0.002)
            writer.write(PLAIN)

    server = Server(slowly)
    await server.start()
    url = f"http://127.0.0.1:{server.port}"
    base = check_base_url("A", url, (), allow_simulated=True)
    client = HttpClient(base, pacer=Pacer(0.5))
    began = time.monotonic()
    done = [asyncio.create_task(client.get("A", "/", headers={})) for _ in range(60)]
    await asyncio.wait(done[:1] + done[2:])
    assert time.monotonic() - began < 2.0  # before the second connection's turn
    assert server.connections == 1
    assert (await done[1]).status == 200  # the one that opens it
    assert server.connections <= 2
    await client.close()
    await server.stop()


async def test_a_look_up_that_is_given_up_makes_room():
    gate = asyncio.Event()

    async def hanging(reader, writer):
        await request(reader)
        await gate.wait()
        writer.write(PLAIN)

    server = Server(hanging)
    await server.start()
    url = f"http://127.0.0.1:{server.port}"
    base = check_base_url("A", url, (), allow_simulated=True)
    client = HttpClient(base, pacer=Pacer(1000), timeout_s=5.0)
    given_up = [asyncio.create_task(client.get("A", "/", headers={})) for _ in range(20)]
    await until(lambda: server.connections == 8)
    for task in given_up:
        task.cancel()
    await asyncio.gather(*given_up, return_exceptions=True)
    gate.set()
    replies = await asyncio.gather(*(client.get("A", "/", headers={}) for _ in range(12)))
    assert {reply.status for reply in replies} == {200}
    await client.close()
    await server.stop()


async def test_a_look_up_nobody_has_room_for_says_that_nothing_left(monkeypatch):
    monkeypatch.setattr("engine.brokers.lookups._PATIENCE_S", 0.1)
    server = Server(always(PLAIN))
    await server.start()
    url = f"http://127.0.0.1:{server.port}"
    base = check_base_url("A", url, (), allow_simulated=True)
    pacer = Pacer(0.2)
    await pacer.turn()  # the next is five seconds away
    client = HttpClient(base, pacer=pacer)
    first = asyncio.create_task(client.get("A", "/", headers={}))
    await asyncio.sleep(0)
    with pytest.raises(BrokerUnavailable, match="no connection was free in time"):
        await client.get("A", "/", headers={})
    first.cancel()
    await asyncio.gather(first, return_exceptions=True)
    await client.close()
    await server.stop()
