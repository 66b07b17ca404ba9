"""Real servers for the wire: scripted, plain or TLS with a throw-away authority."""

from __future__ import annotations

import asyncio
import contextlib
import ssl
import sys
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from engine.brokers.wire import ORDERS, Exchange, WireHub, WirePool, header

REQUEST = b"POST /v2/orders HTTP/1.1\r\nHost: venue\r\nContent-Length: 2\r\n\r\n{}"
OK = b'HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: 11\r\n\r\n{"id":"abc"}'[
    :-1
]

NOT_ON_WINDOWS = pytest.mark.skipif(
    sys.platform == "win32",
    reason="uvloop is not made for Windows; everywhere else it has to be there",
)

Handler = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]


class Probe(Exchange):
    """Remembers what became of it."""

    __slots__ = ("done", "outcome")

    def __init__(self, send_before_ns: int = 0) -> None:
        super().__init__(None, send_before_ns)
        self.done = asyncio.get_running_loop().create_future()
        self.outcome: tuple[object, ...] = ()

    def on_reply(self, status: int, raw: bytes, body: bytes) -> None:
        assert not self.done.done(), "told twice"
        self.done.set_result(("reply", status, raw, body))

    def on_failure(self, left: bool, reason: str) -> None:
        assert not self.done.done(), "told twice"
        assert reason
        self.done.set_result(("failure", left, reason))


class Server:
    """A raw server; ``handler`` is run for each connection."""

    def __init__(self, handler: Handler) -> None:
        self.handler = handler
        self.connections = 0
        self.writers: list[asyncio.StreamWriter] = []
        self.tasks: set[asyncio.Task[None]] = set()
        self.port = 0

    async def start(self, context: ssl.SSLContext | None = None) -> None:
        self.server = await asyncio.start_server(self._client, "127.0.0.1", self.port, ssl=context)
        self.port = self.server.sockets[0].getsockname()[1]

    async def _client(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        self.writers.append(writer)
        task = asyncio.current_task()
        assert task
        self.tasks.add(task)
        try:
            await self.handler(reader, writer)
        except (ConnectionError, asyncio.IncompleteReadError, asyncio.CancelledError):
            pass
        finally:
            self.tasks.discard(task)
            writer.close()

    async def stop(self) -> None:
        self.server.close()
        for task in list(self.tasks):
            task.cancel()
        for writer in self.writers:
            writer.transport.abort()
        if self.tasks:
            await asyncio.wait(self.tasks)
        await self.server.wait_closed()
        await asyncio.sleep(0)  # uvloop gives the listening socket back an iteration later


async def request(reader: asyncio.StreamReader) -> bytes:
    head = await reader.readuntil(b"\r\n\r\n")
    length = int(header(head, "content-length") or 0)
    return head + (await reader.readexactly(length) if length else b"")


def always(reply: bytes, *, close: bool = False) -> Handler:
    async def handler(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while True:
            await request(reader)
            writer.write(reply)
            await writer.drain()
            if close:
                return

    return handler


@contextlib.asynccontextmanager
async def wired(
    handler: Handler,
    *,
    timeout_s: float = 5.0,
    tls: ssl.SSLContext | None = None,
    **options: object,
) -> AsyncIterator[tuple[WirePool, Server]]:
    server = Server(handler)
    await server.start(tls)
    hub = WireHub(reply_timeout_s=timeout_s, tls=options.pop("client_tls", None))  # type: ignore[arg-type]
    pool = WirePool(
        hub, options.pop("host", "127.0.0.1"), server.port, tls=tls is not None, **options
    )  # type: ignore[arg-type]
    await pool.start()
    try:
        yield pool, server
    finally:
        await pool.stop()
        left = [task for task in asyncio.all_tasks() if "_Slot" in repr(task.get_coro())]
        await server.stop()
        assert left == []


async def ask(pool: WirePool, request: bytes = REQUEST, lane=ORDERS) -> tuple[object, ...]:
    probe = Probe()
    pool.send(request, probe, lane)
    return await asyncio.wait_for(probe.done, 10)


async def until(fact: Callable[[], bool], seconds: float = 5.0) -> None:
    end = time.monotonic() + seconds
    while not fact():
        assert time.monotonic() < end, "never became true"
        await asyncio.sleep(0.005)


CHUNKED = (
    b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"
    b'4;x=y\r\n{"id\r\n7\r\n":"abc"\r\n1\r\n}\r\n0\r\nTrailer: 1\r\n\r\n'
)
PLAIN = b'HTTP/1.1 200 OK\r\nX-A: b\r\nContent-Length: 12\r\n\r\n{"id":"abc"}'
INTERIM = b"HTTP/1.1 100 Continue\r\nRetry-After: 9\r\n\r\nHTTP/1.1 103 Hints\r\nLink: x\r\n\r\n"
CLOSING = b'HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: 12\r\n\r\n{"id":"abc"}'
TO_EOF = b'HTTP/1.1 200 OK\r\nServer: old\r\n\r\n{"id":"abc"}'
OLD = b'HTTP/1.0 200 OK\r\nContent-Length: 12\r\n\r\n{"id":"abc"}'


class Authority:
    """A throw-away certificate authority."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._key = ec.generate_private_key(ec.SECP256R1())
        self._name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "throw-away")])
        self._made = 0
        usage = x509.KeyUsage(
            **dict.fromkeys(
                (
                    "digital_signature",
                    "content_commitment",
                    "key_encipherment",
                    "data_encipherment",
                    "key_agreement",
                    "encipher_only",
                    "decipher_only",
                ),
                False,
            ),
            key_cert_sign=True,
            crl_sign=True,
        )
        root = (
            self._start(self._name, self._key, timedelta(hours=1))
            .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
            .add_extension(usage, critical=True)
            .sign(self._key, hashes.SHA256())
        )
        self.file = folder / "authority.pem"
        self.file.write_bytes(root.public_bytes(serialization.Encoding.PEM))

    def _start(
        self, name: x509.Name, key: ec.EllipticCurvePrivateKey, life: timedelta
    ) -> x509.CertificateBuilder:
        now = datetime.now(UTC)
        public = self._key.public_key()
        return (
            x509.CertificateBuilder()
            .subject_name(name)
            .issuer_name(self._name)
            .public_key(key.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(now - timedelta(hours=2))
            .not_valid_after(now + life)
            .add_extension(
                x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False
            )
            .add_extension(
                x509.AuthorityKeyIdentifier.from_issuer_public_key(public), critical=False
            )
        )

    def server(
        self, host: str = "localhost", life: timedelta = timedelta(hours=1)
    ) -> ssl.SSLContext:
        """Return a server's context with a fresh certificate for ``host``."""
        self._made += 1
        key = ec.generate_private_key(ec.SECP256R1())
        name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, host)])
        signed = (
            self._start(name, key, life)
            .add_extension(x509.SubjectAlternativeName([x509.DNSName(host)]), critical=False)
            .sign(self._key, hashes.SHA256())
        )
        file = self._folder / f"server-{self._made}.pem"
        file.write_bytes(
            key.private_bytes(
                serialization.Encoding.PEM,
                serialization.PrivateFormat.PKCS8,
                serialization.NoEncryption(),
            )
            + signed.public_bytes(serialization.Encoding.PEM)
        )
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(file)
        return context

    def trusting(self) -> ssl.SSLContext:
        """Return a client's context that trusts this authority and nobody else."""
        return ssl.create_default_context(cafile=str(self.file))
