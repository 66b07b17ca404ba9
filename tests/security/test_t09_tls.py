"""T09, TLS: who cannot prove to be the broker hears not a byte of a request, however orders, reads or streams go."""

from __future__ import annotations

import ast
import asyncio
import datetime as dt
import ssl
from collections.abc import Callable
from pathlib import Path

import pytest
import trustme

import engine
from engine.brokers.dial import dial, why
from engine.brokers.http import HttpClient, check_base_url, tls_context
from engine.errors import BrokerError
from tests.security.test_t08_key_theft import Listener

KEY = "cnry-over-tls"


def server(make: Callable[[trustme.CA], trustme.LeafCert]) -> tuple[trustme.CA, ssl.SSLContext]:
    authority = trustme.CA()
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    make(authority).configure_cert(context)
    return authority, context


def past(authority: trustme.CA) -> trustme.LeafCert:
    return authority.issue_cert(
        "localhost",
        not_before=dt.datetime(2020, 1, 1, tzinfo=dt.UTC),
        not_after=dt.datetime(2020, 2, 1, tzinfo=dt.UTC),
    )


def future(authority: trustme.CA) -> trustme.LeafCert:
    return authority.issue_cert(
        "localhost",
        not_before=dt.datetime(2090, 1, 1, tzinfo=dt.UTC),
        not_after=dt.datetime(2091, 1, 1, tzinfo=dt.UTC),
    )


MATRIX = {
    "expired": (past, True, None),
    "not valid yet": (future, True, None),
    "another host": (lambda authority: authority.issue_cert("other.example"), True, None),
    "an address only": (lambda authority: authority.issue_cert("127.0.0.1"), True, None),
    "a wildcard above it": (lambda authority: authority.issue_cert("*.localhost"), True, None),
    "an authority nobody trusts": (
        lambda authority: authority.issue_cert("localhost"),
        False,
        None,
    ),
    "TLS 1.1 at most": (
        lambda authority: authority.issue_cert("localhost"),
        True,
        ssl.TLSVersion.TLSv1_1,
    ),
    "TLS 1.0 only": (
        lambda authority: authority.issue_cert("localhost"),
        True,
        ssl.TLSVersion.TLSv1,
    ),
}


async def refused(context: ssl.SSLContext, trusting: ssl.SSLContext) -> tuple[str, bytes]:
    """Ask over the reads' client and over the orders' dialling; return what the server heard."""
    asyncio.get_running_loop().set_exception_handler(lambda *_: None)
    async with Listener(context, b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n{}") as listener:
        base = check_base_url("A", f"https://localhost:{listener.port}", (), allow_simulated=True)
        client = HttpClient(base, context=trusting, timeout_s=5)
        try:
            with pytest.raises(BrokerError) as caught:
                await client.get("A", "/v2/account", headers={"authorization": KEY})
        finally:
            await client.close()
        with pytest.raises(OSError) as dialled:  # noqa: PT011 (whatever TLS has to say)
            await dial(asyncio.Protocol, "localhost", listener.port, context=trusting, timeout_s=5)
        assert why(dialled.value)
        return str(caught.value), listener.heard


@pytest.mark.parametrize("what", MATRIX)
async def test_nothing_is_told_to(what: str) -> None:
    make, trusted, newest = MATRIX[what]
    authority, context = server(make)
    trusting = tls_context()
    if trusted:
        authority.configure_trust(trusting)
    if newest is not None:
        context.set_ciphers("ALL:@SECLEVEL=0")
        _allow_old(context, newest)
    said, heard = await refused(context, trusting)
    assert heard == b""
    assert KEY not in said


def _allow_old(context: ssl.SSLContext, newest: ssl.TLSVersion) -> None:
    import warnings

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        context.minimum_version = ssl.TLSVersion.TLSv1
        context.maximum_version = newest


async def test_a_good_certificate_is_taken() -> None:
    """The matrix would pass with a client that refuses everybody."""
    authority, context = server(lambda made: made.issue_cert("localhost"))
    trusting = tls_context()
    authority.configure_trust(trusting)
    async with Listener(context, b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n{}") as listener:
        base = check_base_url("A", f"https://localhost:{listener.port}", (), allow_simulated=True)
        client = HttpClient(base, context=trusting, timeout_s=5)
        try:
            assert (await client.get("A", "/", headers={"authorization": KEY})).status == 200
        finally:
            await client.close()
        assert KEY.encode() in listener.heard


def test_our_context_verifies_and_speaks_no_old_tls() -> None:
    context = tls_context()
    assert context.verify_mode is ssl.CERT_REQUIRED
    assert context.check_hostname
    assert context.minimum_version >= ssl.TLSVersion.TLSv1_2


VERIFYING = {"verify", "ssl", "verify_ssl", "check_hostname"}


def weakening(source: str) -> list[str]:
    """Return what switches verification off, as Python can say it."""
    found = []
    for node in ast.walk(ast.parse(source)):
        if (
            isinstance(node, ast.keyword)
            and node.arg in VERIFYING
            and ast.unparse(node.value) == "False"
        ):
            found.append(f"{node.arg}=False")
        if isinstance(node, ast.Attribute) and node.attr in {
            "CERT_NONE",
            "CERT_OPTIONAL",
            "_create_unverified_context",
        }:
            found.append(node.attr)
        if (
            isinstance(node, ast.Assign)
            and isinstance(node.value, ast.Constant)
            and node.value.value is False
        ):
            found += [
                t.attr
                for t in node.targets
                if isinstance(t, ast.Attribute) and t.attr == "check_hostname"
            ]
        if isinstance(node, ast.keyword) and node.arg == "disable_ssl":
            found.append("disable_ssl")
    return found


@pytest.mark.parametrize(
    "source",
    ["httpx.get(u, verify=False)", "c.verify_mode = ssl.CERT_NONE", "ssl._create_unverified_context()",
     "c.check_hostname = False", "KiteConnect(disable_ssl=True)", "connect(u, ssl=False)"],
)  # fmt: skip
def test_the_scan_finds_what_it_looks_for(source: str) -> None:
    assert weakening(source)


def test_no_source_of_the_product_switches_verification_off() -> None:
    root = Path(engine.__file__).parents[1]
    for path in [*(root / "engine").rglob("*.py"), *(root / "gui").rglob("*.py"), root / "main.py"]:
        assert not weakening(path.read_text("utf-8")), path
