"""TLS: who is trusted, what a refusal says, and that stamps and failures stay honest under it."""

from __future__ import annotations

import asyncio
import os
import ssl
import subprocess
import sys
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path

import pytest
import truststore

from engine.brokers.http import HttpClient, check_base_url, tls_context
from engine.brokers.websocket import WebSocket
from engine.errors import BrokerUnavailable
from tests.wire_rig import (
    CHUNKED,
    NOT_ON_WINDOWS,
    PLAIN,
    REQUEST,
    TO_EOF,
    Authority,
    Probe,
    Server,
    always,
    ask,
    request,
    until,
    wired,
)


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    return Authority(tmp_path_factory.mktemp("tls"))


@pytest.fixture(autouse=True)
async def the_servers_complaints():
    """A refused handshake is logged by the server's loop, too; here it is the same loop."""
    asyncio.get_running_loop().set_exception_handler(lambda *_: None)


async def check_stamps(authority: Authority, trusting: Callable[[], ssl.SSLContext]) -> None:
    async with wired(
        always(PLAIN), tls=authority.server(), client_tls=trusting, host="localhost"
    ) as (pool, server):
        for _ in range(5):
            probe = Probe()
            pool.send(REQUEST, probe)
            assert (await probe.done)[:2] == ("reply", 200)
            assert 0 < probe.first_byte_ns <= probe.last_byte_ns <= probe.reply_ns
        assert server.connections == 2


async def test_a_trusted_server_gets_orders_and_they_get_stamps(authority: Authority):
    await check_stamps(authority, authority.trusting)


def by_the_system(authority: Authority) -> ssl.SSLContext:
    """What macOS and Windows use, here with one more authority."""
    context = truststore.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.load_verify_locations(authority.file)
    return context


async def check_refusals(
    authority: Authority, trusting: Callable[[], ssl.SSLContext], folder: Path
) -> None:
    other = Authority(folder)
    for context, host, words in (
        (other.server(), "localhost", "certificate is not trusted"),
        (authority.server("elsewhere.test"), "localhost", "Hostname mismatch"),
        (authority.server(), "127.0.0.1", "IP address mismatch"),
        (authority.server(life=timedelta(hours=-1)), "localhost", "certificate has expired"),
    ):
        heard: list[bytes] = []

        async def handler(reader, writer, heard=heard):
            heard.append(await reader.read(1))

        async with wired(handler, tls=context, client_tls=trusting, host=host) as (pool, server):
            kind, left, reason = await ask(pool)
            assert (kind, left) == ("failure", False)
            assert reason.startswith(f"cannot connect to {host}:{server.port}: its certificate")
            assert words in reason
        assert heard in ([], [b""])  # no request reached the server's side


async def test_a_server_that_cannot_be_trusted_gets_not_a_byte(authority: Authority, tmp_path):
    await check_refusals(authority, authority.trusting, tmp_path)


async def test_the_systems_own_trust_store_works_on_this_loop(authority: Authority, tmp_path):
    await check_stamps(authority, lambda: by_the_system(authority))
    await check_refusals(authority, lambda: by_the_system(authority), tmp_path)


async def test_old_tls_and_no_tls_are_refused_with_a_sentence(authority: Authority):
    old = authority.server()
    with pytest.warns(DeprecationWarning, match="TLS"):
        old.minimum_version = old.maximum_version = ssl.TLSVersion.TLSv1_1
    old.set_ciphers("ALL:@SECLEVEL=0")

    def ours() -> ssl.SSLContext:
        context = tls_context()
        context.load_verify_locations(authority.file)
        return context

    async with wired(always(PLAIN), tls=old, client_tls=ours, host="localhost") as (pool, _):
        kind, left, reason = await ask(pool)
        assert (kind, left) == ("failure", False)
        assert reason.endswith("it closed the connection")

    async def greets(reader, writer):
        writer.write(b"220 mail.test ready\r\n")
        await reader.read()

    plain = Server(greets)
    await plain.start()
    base = check_base_url("A", f"https://localhost:{plain.port}", (), allow_simulated=True)
    client = HttpClient(base, context=ours())
    with pytest.raises(BrokerUnavailable, match="no TLS with it"):
        await client.get("A", "/", headers={})
    await client.close()
    await plain.stop()


async def test_look_ups_and_streams_verify_alike(authority: Authority, tmp_path):
    context, other = authority.trusting(), Authority(tmp_path).trusting()
    server = Server(always(PLAIN))
    await server.start(authority.server())
    base = check_base_url("A", f"https://localhost:{server.port}", (), allow_simulated=True)
    for trusted, wrong in ((context, False), (other, True)):
        client = HttpClient(base, context=trusted)
        if wrong:
            with pytest.raises(BrokerUnavailable, match="certificate is not trusted"):
                await client.get("A", "/v2/x", headers={})
            with pytest.raises(ssl.SSLCertVerificationError):
                await WebSocket.connect(base.websocket, on_message=lambda _: None, context=trusted)
        else:
            assert (await client.get("A", "/v2/x", headers={})).body == {"id": "abc"}
            assert (await client.get("A", "/v2/x", headers={})).status == 200
            assert server.connections == 1
        await client.close()
    await server.stop()


@pytest.mark.parametrize("reply", [PLAIN, CHUNKED])
async def test_a_reply_cut_anywhere_under_tls_is_unknown(authority: Authority, reply: bytes):
    cut, rude = 0, False

    async def handler(reader, writer):
        await request(reader)
        writer.write(reply[:cut])
        await writer.drain()
        if rude:
            writer.transport.abort()  # the TCP connection ends, TLS does not say farewell

    async with wired(
        handler,
        tls=authority.server(),
        client_tls=authority.trusting,
        host="localhost",
        backoff_s=0.001,
        backoff_max_s=0.002,
    ) as (pool, _):
        for rude in (False, True):  # noqa: B007 (the server reads it)
            for cut in range(0, len(reply), 7):
                assert (await ask(pool))[:2] == ("failure", True), cut
        rude, cut = False, len(reply)
        assert (await ask(pool))[:2] == ("reply", 200)


async def test_a_tls_connection_closed_on_one_side_is_replaced(authority: Authority):
    """The server says farewell and keeps reading: nothing may be written into that."""
    written: list[bytes] = []

    async def handler(reader, writer):
        if len(written) < 2:
            written.append(b"")
            writer.transport.close()
            return
        await always(PLAIN)(reader, writer)

    async with wired(
        handler,
        tls=authority.server(),
        client_tls=authority.trusting,
        host="localhost",
        backoff_s=0.005,
    ) as (pool, server):
        await until(lambda: server.connections >= 4 and pool.ready())
        assert (await ask(pool))[:2] == ("reply", 200)


async def test_a_reply_ended_by_the_connection_under_tls(authority: Authority):
    async with wired(
        always(TO_EOF, close=True),
        tls=authority.server(),
        client_tls=authority.trusting,
        host="localhost",
    ) as (pool, _):
        assert (await ask(pool))[3] == b'{"id":"abc"}'


def test_ours_trusts_the_system_and_nothing_old():
    context = tls_context()
    assert context.minimum_version is ssl.TLSVersion.TLSv1_2
    assert context.verify_mode is ssl.CERT_REQUIRED
    assert context.check_hostname


def test_authorities_are_found_where_this_system_keeps_them(authority: Authority, tmp_path):
    """With OpenSSL's own place empty, as in a build made for another distribution."""
    code = "from engine.brokers.http import tls_context; print(len(tls_context().get_ca_certs()))"

    def known(**places: str) -> int:
        environment = {**os.environ, **places}
        done = subprocess.run(
            [sys.executable, "-c", code],
            env=environment,
            capture_output=True,
            text=True,
            timeout=60,
        )
        assert done.returncode == 0, done.stderr
        return int(done.stdout)

    if sys.platform in {"darwin", "win32"}:
        assert isinstance(tls_context(), truststore.SSLContext)
        return
    empty = tmp_path / "empty.pem"
    empty.write_bytes(b"")
    assert known(SSL_CERT_FILE=str(authority.file)) == 1
    elsewhere = known(SSL_CERT_FILE=str(empty), SSL_CERT_DIR=str(tmp_path))
    assert (elsewhere > 0) is Path("/etc/ssl").exists()


@NOT_ON_WINDOWS
def test_the_same_on_uvloop(authority: Authority, tmp_path):
    import uvloop

    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.get_loop().set_exception_handler(lambda *_: None)
        runner.run(check_stamps(authority, authority.trusting))
        runner.run(check_stamps(authority, lambda: by_the_system(authority)))
        runner.run(check_refusals(authority, authority.trusting, tmp_path))
        runner.run(check_refusals(authority, lambda: by_the_system(authority), tmp_path))
        runner.run(test_a_reply_cut_anywhere_under_tls_is_unknown(authority, CHUNKED))
        runner.run(test_a_tls_connection_closed_on_one_side_is_replaced(authority))
        runner.run(test_look_ups_and_streams_verify_alike(authority, tmp_path))
