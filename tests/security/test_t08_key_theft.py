"""T08, key theft by a broker's address: credentials go to the broker's own hosts, which prove it, or nowhere."""

from __future__ import annotations

import asyncio
import socket
import ssl
from pathlib import Path
from typing import Any

import pytest
import trustme

from engine.brokers.http import HttpClient, base_for, check_base_url
from engine.brokers.paper.market import PaperMarket
from engine.brokers.registry import make_adapter
from engine.config import Config
from engine.errors import BrokerError, ConfigError
from engine.model.account import Account

HOSTS = ("api.alpaca.markets", "paper-api.alpaca.markets")
KEY = "cnry-stolen-key"
DISGUISES = [
    # 127.0.0.1, as people have written it
    "https://127.0.0.1", "https://127.1", "https://127.0.1", "https://2130706433", "https://0x7f000001", "https://0x7f.1",
    "https://017700000001", "https://0177.0.0.1", "https://127.0.0.1.", "https://127.0.0.1:443", "https://127.0.0.2",
    "https://[::1]", "https://[::ffff:127.0.0.1]", "https://[::ffff:7f00:1]", "https://[0:0:0:0:0:0:0:1]",
    "https://[::127.0.0.1]", "https://localhost", "https://LOCALHOST", "https://localhost.", "https://localtest.me",
    "https://127.0.0.1.nip.io", "https://①②⑦.⓪.⓪.①", "https://127。0。0。1", "https://0", "https://0.0.0.0", "https://[::]",
    # the clouds' metadata, private and shared networks
    "https://169.254.169.254", "https://2852039166", "https://0xa9fea9fe", "https://0251.0376.0251.0376",
    "https://[::ffff:a9fe:a9fe]", "https://[fd00:ec2::254]", "https://metadata.google.internal", "https://10.0.0.1",
    "https://172.16.0.1", "https://192.168.0.1", "https://100.64.0.1", "https://[fe80::1]", "https://[fc00::1]",
    # the broker's name, and somebody else's address
    "https://api.alpaca.markets@evil.example", "https://api.alpaca.markets:pw@evil.example",
    "https://evil.example/api.alpaca.markets", "https://evil.example?api.alpaca.markets",
    "https://evil.example#api.alpaca.markets", "https://api.alpaca.markets.evil.example", "https://evilapi.alpaca.markets",
    "https://evil.api.alpaca.markets", "https://api.alpaca.markets%2eevil.example", "https://api.alpaca.markets%00.evil.example",
    "https://api.alpaca.markets\\@evil.example", "https://api.alpaca.markets\t.evil.example", "https://аpi.alpaca.markets",
    "https://api.alpaca.markets\r\nHost: evil.example", "https://api.alpaca.markets:8443", "https://api.alpaca.markets:0",
    "https://api.alpaca.markets/v2", "https://api.alpaca.markets//", "https:api.alpaca.markets", "//api.alpaca.markets",
    # not TLS, or not the web
    "http://api.alpaca.markets", "HTTP://api.alpaca.markets", "ftp://api.alpaca.markets", "file:///etc/passwd",
    "gopher://api.alpaca.markets", "javascript:alert(1)", "unix:///run/x.sock", "", " ", "https://",
    "api.alpaca.markets",
    "https://api.alpaca.markets ", " https://api.alpaca.markets",
]  # fmt: skip


def account(broker: str, base_url: str | None, **more: Any) -> Account:
    return Account.model_validate(
        {
            "id": "A-1",
            "broker": broker,
            "base_url": base_url,
            "sizing": {"method": "fixed", "quantity": "1"},
            **more,
        }
    )


def test_there_are_sixty_disguises_and_more() -> None:
    assert len(set(DISGUISES)) >= 60


@pytest.mark.parametrize("url", DISGUISES)
def test_no_disguise_is_an_address_of_the_broker(url: str) -> None:
    with pytest.raises(ConfigError, match="not allowed"):
        check_base_url("A-1", url, HOSTS, allow_simulated=False)


@pytest.mark.parametrize("url", DISGUISES)
@pytest.mark.parametrize("broker", ["alpaca", "binance", "oanda", "kite"])
async def test_no_adapter_makes_a_session_on_it(broker: str, url: str) -> None:
    if not url:
        return  # no base_url of its own: the broker's
    adapter = make_adapter(broker, Config(), PaperMarket())
    names = (
        "key_id",
        "secret",
        "api_key",
        "api_secret",
        "token",
        "account_id",
        "access_token",
        "user_id",
        "account",
    )
    try:
        with pytest.raises(ConfigError) as caught:
            adapter.session(account(broker, url), dict.fromkeys(names, KEY), NoSink())  # type: ignore[arg-type]
    finally:
        await adapter.close()
    assert KEY not in str(caught.value)


class NoSink:
    """Hears nothing."""


@pytest.mark.parametrize(
    "url",
    [
        f"https://{HOSTS[0]}",
        f"https://{HOSTS[0]}/",
        f"https://{HOSTS[0]}:443",
        f"HTTPS://{HOSTS[0].upper()}",
    ],
)
def test_the_brokers_own_address_is_taken(url: str) -> None:
    assert check_base_url("A-1", url, HOSTS, allow_simulated=False).host == HOSTS[0]


@pytest.mark.parametrize("url", [url for url in DISGUISES if "127.0.0.1" not in url or "@" in url])
def test_allowing_simulated_venues_lets_loopback_in_and_nothing_else(url: str) -> None:
    try:
        base = check_base_url("A-1", url, HOSTS, allow_simulated=True)
    except ConfigError:
        return
    assert base.host in {"127.0.0.1", "localhost", "::1"}


def test_a_live_account_is_not_pointed_at_the_paper_host_or_back() -> None:
    hosts = {"live": HOSTS[0], "paper": HOSTS[1]}
    with pytest.raises(ConfigError, match="does not fit"):
        base_for(account("alpaca", f"https://{HOSTS[0]}"), hosts, allow_simulated=False)


class Listener:
    """A TLS server on loopback that keeps every byte it was told, and sends everybody on elsewhere."""

    def __init__(self, context: ssl.SSLContext, reply: bytes) -> None:
        self.heard = b""
        self.connections = 0
        self._context, self._reply = context, reply

    async def __aenter__(self) -> Listener:
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", 0, ssl=self._context)
        self.port = self._server.sockets[0].getsockname()[1]
        return self

    async def __aexit__(self, *_error: object) -> None:
        self._server.close()
        await self._server.wait_closed()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        self.heard += await reader.read(65536)
        writer.write(self._reply)
        await writer.drain()
        writer.close()


@pytest.fixture
def quiet() -> None:
    """The server's side of a refused handshake is logged by the loop; here it is the same loop."""


async def ask(
    base_port: int, context: ssl.SSLContext, monkeypatch: pytest.MonkeyPatch
) -> Exception | None:
    """Read an account at the broker's name, which a lying DNS has point at loopback."""
    asyncio.get_running_loop().set_exception_handler(lambda *_: None)
    real = socket.getaddrinfo

    def lying(host: Any, port: Any, *args: Any, **more: Any) -> Any:
        if host in {HOSTS[0], HOSTS[0].encode()}:
            host, port = "127.0.0.1", base_port
        return real(host, port, *args, **more)

    monkeypatch.setattr(socket, "getaddrinfo", lying)
    base = check_base_url("A-1", f"https://{HOSTS[0]}", HOSTS, allow_simulated=False)
    client = HttpClient(base, context=context, timeout_s=5)
    try:
        await client.get("A-1", "/v2/account", headers={"APCA-API-SECRET-KEY": KEY})
    except BrokerError as error:
        return error
    finally:
        await client.close()
    return None


def server_context(*names: str) -> tuple[trustme.CA, ssl.SSLContext]:
    authority = trustme.CA()
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    authority.issue_cert(*names).configure_cert(context)
    return authority, context


async def test_rebinding_to_another_machine_gets_no_byte_of_the_request(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    from engine.brokers.http import tls_context

    _, context = server_context(HOSTS[0])  # the right name, by an authority nobody trusts
    async with Listener(context, b"") as listener:
        error = await ask(listener.port, tls_context(), monkeypatch)
        assert error is not None
        assert listener.heard == b""
        assert KEY not in str(error)


async def test_a_redirect_is_not_followed(monkeypatch: pytest.MonkeyPatch) -> None:
    authority, context = server_context(HOSTS[0])
    trusting = ssl.create_default_context()
    authority.configure_trust(trusting)
    other_authority, other_context = server_context("127.0.0.1")
    other_authority.configure_trust(trusting)
    async with Listener(other_context, b"") as metadata:
        for status in (301, 302, 303, 307, 308):
            place = f"https://127.0.0.1:{metadata.port}/latest/meta-data"
            reply = f"HTTP/1.1 {status} Moved\r\nLocation: {place}\r\nContent-Length: 0\r\n\r\n".encode()
            async with Listener(context, reply) as broker:
                with monkeypatch.context() as patch:
                    await ask(broker.port, trusting, patch)
                assert KEY.encode() in broker.heard  # the broker itself was asked
        assert metadata.connections == 0


def test_no_client_of_ours_takes_proxies_or_redirects_from_outside() -> None:
    """Every ``httpx`` client is made with ``trust_env=False``; none follows redirects."""
    import ast

    import engine

    for path in Path(engine.__file__).parent.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text("utf-8"))):
            if not isinstance(node, ast.Call) or getattr(node.func, "attr", "") not in {
                "AsyncClient",
                "Client",
            }:
                continue
            if getattr(getattr(node.func, "value", None), "id", "") != "httpx":
                continue
            given = {keyword.arg: ast.unparse(keyword.value) for keyword in node.keywords}
            assert given.get("trust_env") == "False", f"{path.name}:{node.lineno}"
            assert given.get("follow_redirects", "False") == "False", f"{path.name}:{node.lineno}"
