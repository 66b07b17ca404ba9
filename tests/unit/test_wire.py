"""The wire against real servers that behave badly in every way a server can."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import struct
import sys
import time

import pytest

from engine.brokers.wire import CONTROL, WireHub, WirePool, header
from tests.helpers import make_order
from tests.wire_rig import (
    CHUNKED,
    CLOSING,
    INTERIM,
    NOT_ON_WINDOWS,
    OK,
    OLD,
    PLAIN,
    REQUEST,
    TO_EOF,
    Probe,
    Server,
    always,
    ask,
    request,
    until,
    wired,
)


async def test_keeps_one_connection_per_lane_and_stamps_in_order():
    async with wired(always(OK)) as (pool, server):
        for _ in range(50):
            probe = Probe()
            assert pool.ready()
            pool.send(REQUEST, probe)
            assert not pool.ready()
            kind, status, raw, body = await probe.done
            assert (kind, status, body) == ("reply", 200, b'{"id":"abc"')
            assert header(raw, "Content-type") == "application/json"
            assert header(raw, "retry-after") == ""
            assert 0 < probe.first_byte_ns <= probe.last_byte_ns <= probe.reply_ns
        assert server.connections == 2


async def test_orders_leave_in_the_order_given_and_a_cancel_does_not_wait():
    seen: list[bytes] = []
    gate = asyncio.Event()

    async def handler(reader, writer):
        while True:
            got = await request(reader)
            seen.append(got)
            if b"DELETE" not in got:
                await gate.wait()
            writer.write(OK)

    async with wired(handler) as (pool, _):
        orders = [Probe() for _ in range(20)]
        for number, probe in enumerate(orders):
            pool.send(b"POST /%d HTTP/1.1\r\n\r\n" % number, probe)
        reply = await ask(pool, b"DELETE /x HTTP/1.1\r\n\r\n", CONTROL)
        assert reply[:2] == ("reply", 200)
        assert not any(probe.done.done() for probe in orders)
        gate.set()
        await asyncio.gather(*(probe.done for probe in orders))
        assert [got for got in seen if b"POST" in got] == [
            b"POST /%d HTTP/1.1\r\n\r\n" % number for number in range(20)
        ]


@pytest.mark.parametrize("reply", [PLAIN, CHUNKED, INTERIM + PLAIN, CLOSING, TO_EOF, OLD])
async def test_reads_every_framing_byte_by_byte(reply: bytes):
    async def handler(reader, writer):
        await request(reader)
        for byte in reply:
            writer.write(bytes([byte]))
            await asyncio.sleep(0)
        if reply is not TO_EOF:
            await reader.read()

    async with wired(handler) as (pool, _):
        kind, status, raw, body = await ask(pool)
        assert (kind, status, body) == ("reply", 200, b'{"id":"abc"}')
        assert raw.startswith(b"HTTP/1.")
        assert header(raw, "retry-after") == ""


@pytest.mark.parametrize("reset", [False, True])
@pytest.mark.parametrize("reply", [PLAIN, CHUNKED, INTERIM + PLAIN, CLOSING, OLD])
async def test_a_reply_cut_at_any_byte_is_never_taken_for_success(reply: bytes, reset: bool):
    cut = 0

    async def handler(reader, writer):
        await request(reader)
        writer.write(reply[:cut])
        await writer.drain()
        if reset:
            writer.transport.abort()

    async with wired(handler, backoff_s=0.001, backoff_max_s=0.002) as (pool, _):
        for cut in range(len(reply)):
            outcome = await ask(pool)
            assert outcome[:2] == ("failure", True), (cut, outcome)
        cut = len(reply)
        outcome = await ask(pool)
        assert outcome[:2] == ("reply", 200)


async def test_a_reply_that_ends_with_the_connection_needs_its_head_and_a_clean_end():
    cut, reset = 0, False
    head = TO_EOF.index(b"\r\n\r\n") + 4

    async def handler(reader, writer):
        await request(reader)
        writer.write(TO_EOF[:cut])
        await writer.drain()
        if reset:
            sock = writer.get_extra_info("socket")
            linger = struct.pack("hh" if sys.platform == "win32" else "ii", 1, 0)
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)  # a reset, not an end
            writer.transport.abort()

    async with wired(handler, backoff_s=0.001, backoff_max_s=0.002) as (pool, _):
        for cut in range(len(TO_EOF) + 1):
            outcome = await ask(pool)
            if cut < head:
                assert outcome[:2] == ("failure", True)
            else:  # what is missing of the body is for the reader of the JSON to notice
                assert outcome[3] == TO_EOF[head:cut]
        reset = True
        outcome = await ask(pool)
        assert outcome[:2] == ("failure", True)


@pytest.mark.parametrize(
    ("garbage", "reason"),
    [
        (b"SSH-2.0-OpenSSH_9.6\r\n", "not HTTP"),
        (b"\0" * 40, "not HTTP"),
        (b"HTTP/1.1 101 Switching\r\nUpgrade: x\r\nConnection: upgrade\r\n\r\n", "not HTTP"),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\nContent-Length: 6\r\n\r\n", "not HTTP"),
        (b"HTTP/1.1 200 OK\r\nContent-Length: -1\r\n\r\n", "not HTTP"),
        (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n", "not HTTP"),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 9999999\r\n\r\n" + b"x" * 1_100_000, "1 MiB"),
        (b"HTTP/1.1 200 OK\r\n" + b"X: y\r\n" * 300_000, "1 MiB"),
    ],
)
async def test_garbage_is_an_unknown_outcome(garbage: bytes, reason: str):
    async def handler(reader, writer):
        await request(reader)
        writer.write(garbage)
        await reader.read()

    async with wired(handler) as (pool, server):
        kind, left, why = await ask(pool)
        assert (kind, left) == ("failure", True)
        assert reason in why
        await until(pool.ready)
        assert server.connections == 3


@pytest.mark.parametrize("extra", [PLAIN, b"garbage", b"HTTP/1.1 200"])
async def test_what_follows_a_reply_never_answers_the_next_request(extra: bytes):
    first = True

    async def handler(reader, writer):
        nonlocal first
        while True:
            await request(reader)
            writer.write(OK + extra if first else PLAIN)
            first = False

    async with wired(handler) as (pool, server):
        assert (await ask(pool))[3] == b'{"id":"abc"'
        await until(pool.ready)
        assert (await ask(pool))[3] == b'{"id":"abc"}'
        assert server.connections == 3


async def test_no_answer_in_time_is_unknown_and_the_connection_is_not_used_again():
    hold = True

    async def handler(reader, writer):
        while True:
            await request(reader)
            if not hold:
                writer.write(PLAIN)

    async with wired(handler, timeout_s=0.1) as (pool, server):
        started = time.monotonic()
        waiting = [Probe() for _ in range(3)]
        for probe in waiting:
            pool.send(REQUEST, probe)
        assert (await waiting[0].done)[:2] == ("failure", True)
        assert 0.1 <= time.monotonic() - started < 1.0
        outcomes = [await probe.done for probe in waiting[1:]]
        assert all(outcome[0] == "failure" for outcome in outcomes)
        assert outcomes[1][1] is False  # waited for a connection until its time was over
        hold = False
        await until(pool.ready)
        assert (await ask(pool))[:2] == ("reply", 200)
        assert server.connections >= 3


async def test_connection_refused_is_not_a_byte_left_and_recovers_by_itself():
    server = Server(always(PLAIN))
    await server.start()
    await server.stop()
    changes: list[tuple[bool, str]] = []
    pool = WirePool(
        WireHub(),
        "127.0.0.1",
        server.port,
        tls=False,
        backoff_s=0.02,
        on_change=lambda up, why: changes.append((up, why)),
    )
    await pool.start()
    try:
        kind, left, reason = await ask(pool)
        assert (kind, left) == ("failure", False)
        assert f"127.0.0.1:{server.port}" in reason
        assert changes == []  # it was never up
        await server.start()
        await until(pool.ready)
        assert (await ask(pool))[:2] == ("reply", 200)
        assert changes == [(True, "")]
        await server.stop()
        await until(lambda: not pool.ready())
        assert (await ask(pool))[:2] == ("failure", False)
        assert [up for up, _ in changes] == [True, False]
    finally:
        await pool.stop()


async def test_unknown_host_is_not_a_byte_left():
    pool = WirePool(WireHub(), "no-such-host.invalid", 443, tls=True)
    await pool.start()
    try:
        assert (await ask(pool))[:2] == ("failure", False)
    finally:
        await pool.stop()


async def test_a_server_that_closes_idle_connections_is_reconnected_before_it_matters():
    async def handler(reader, writer):
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(0.03):
                await request(reader)
                writer.write(PLAIN)
                await reader.read()

    async with wired(handler, backoff_s=0.005, backoff_max_s=0.01) as (pool, server):
        await until(lambda: server.connections > 6)
        replies = 0
        for _ in range(20):
            await until(pool.ready)
            outcome = await ask(pool)
            assert outcome[0] == "reply" or outcome[1] is True  # closed at the moment of writing
            replies += outcome[0] == "reply"
        assert replies


async def test_idle_connections_are_replaced_while_staying_ready():
    async with wired(always(PLAIN), idle_s=0.05) as (pool, server):
        gaps = 0
        end = time.monotonic() + 5
        while server.connections < 10 and time.monotonic() < end:
            gaps += not pool.ready()
            await asyncio.sleep(0.001)
        assert server.connections >= 10
        assert gaps == 0
        assert (await ask(pool))[:2] == ("reply", 200)


async def test_too_old_to_be_sent_never_leaves():
    seen = 0

    async def handler(reader, writer):
        nonlocal seen
        while True:
            await request(reader)
            seen += 1
            await asyncio.sleep(0.05)
            writer.write(PLAIN)

    async with wired(handler) as (pool, _):
        old = Probe(time.monotonic_ns() - 1)
        pool.send(REQUEST, old)
        assert not old.done.done()
        assert (await old.done)[:2] == ("failure", False)
        first, second = Probe(), Probe(time.monotonic_ns() + 20_000_000)
        pool.send(REQUEST, first)
        pool.send(REQUEST, second)
        assert (await first.done)[0] == "reply"
        assert (await second.done)[:2] == ("failure", False)
        assert seen == 1


async def test_stop_settles_every_request():
    async def handler(reader, _writer):
        await reader.read()

    async with wired(handler) as (pool, _):
        probes = [Probe() for _ in range(3)]
        for probe in probes:
            pool.send(REQUEST, probe)
        await pool.stop()
        outcomes = [await probe.done for probe in probes]
        assert [outcome[1] for outcome in outcomes] == [True, False, False]
        assert (await ask(pool))[:2] == ("failure", False)
        assert not pool.ready()


async def test_a_window_that_is_full_has_no_last_byte_yet():
    gate = asyncio.Event()

    async def handler(reader, writer):
        await gate.wait()
        await request(reader)
        writer.write(PLAIN)
        await reader.read()

    async with wired(handler) as (pool, _):
        probe = Probe()
        big = 8 << 20
        pool.send(b"POST / HTTP/1.1\r\nContent-Length: %d\r\n\r\n" % big + b"x" * big, probe)
        await asyncio.sleep(0.02)
        assert probe.first_byte_ns
        assert not probe.last_byte_ns
        gate.set()
        assert (await probe.done)[:2] == ("reply", 200)
        assert probe.first_byte_ns < probe.last_byte_ns <= probe.reply_ns


async def test_a_callback_that_raises_is_reported_and_harms_nobody():
    class Broken(Probe):
        def on_reply(self, status: int, raw: bytes, body: bytes) -> None:
            raise ZeroDivisionError

    told: list[dict[str, object]] = []
    asyncio.get_running_loop().set_exception_handler(lambda _, context: told.append(context))
    async with wired(always(PLAIN)) as (pool, server):
        pool.send(REQUEST, Broken())
        assert (await ask(pool))[:2] == ("reply", 200)
        assert server.connections == 2
    assert isinstance(told[0]["exception"], ZeroDivisionError)


@NOT_ON_WINDOWS
def test_the_same_on_uvloop():
    import uvloop

    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(test_keeps_one_connection_per_lane_and_stamps_in_order())
        runner.run(test_orders_leave_in_the_order_given_and_a_cancel_does_not_wait())
        runner.run(test_a_reply_cut_at_any_byte_is_never_taken_for_success(CHUNKED, True))
        runner.run(test_a_reply_cut_at_any_byte_is_never_taken_for_success(PLAIN, False))
        runner.run(test_a_reply_that_ends_with_the_connection_needs_its_head_and_a_clean_end())
        runner.run(test_connection_refused_is_not_a_byte_left_and_recovers_by_itself())
        runner.run(test_a_window_that_is_full_has_no_last_byte_yet())
        runner.run(test_idle_connections_are_replaced_while_staying_ready())
        runner.run(test_stop_settles_every_request())


async def test_an_order_that_waited_for_a_connection_asks_the_gate_again():
    """A halt that was latched meanwhile keeps it here; what is no order goes all the same."""
    answered = asyncio.Event()
    seen: list[bytes] = []

    async def slow(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while True:
            seen.append(await request(reader))
            await answered.wait()
            writer.write(PLAIN)
            await writer.drain()

    async with wired(slow) as (pool, _server):
        first, second, third = Probe(), Probe(), Probe()
        second.stamps = make_order("O-2")  # type: ignore[assignment]
        pool.send(REQUEST, first)
        pool.send(REQUEST, second)
        pool.send(REQUEST.replace(b"POST", b"READ"), third)  # behind it, and no order
        pool.hub.gate = lambda order: ("HALTED", f"{order.cl_ord_id} may not leave")
        answered.set()
        assert (await second.done)[:2] == ("failure", False)
        assert (await third.done)[0] == "reply"
    assert [each[:4] for each in seen] == [b"POST", b"READ"]
