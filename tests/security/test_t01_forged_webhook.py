"""T01, a forged webhook: only its source's key signs for it, and nothing is read before the signature is right."""

from __future__ import annotations

import ast
import hmac
import json
import random
from collections.abc import AsyncIterator
from pathlib import Path

import httpx
import pytest

import engine
from engine.api.server import build_app
from engine.api.signatures import HookKeys, sign
from engine.config import Config
from engine.home import Home, hook_secret
from engine.stores.vault import FileVault
from tests.integration.stand_in_engine import StandInEngine
from tests.security.signing import Sender, body, now

TAMPERED = 10_000


class Desk:
    """The API in this process, under one configuration."""

    def __init__(self, path: Path, config: Config, address: str = "127.0.0.1") -> None:
        self.home = Home(path / "home")
        self.engine = StandInEngine()
        self.keys = HookKeys(self.home, FileVault(self.home.path, keyring=None))
        transport = httpx.ASGITransport(
            build_app(self.engine, self.home, config), client=(address, 40_000)
        )
        self.http = httpx.AsyncClient(transport=transport, base_url="http://127.0.0.1:8787")

    def sender(self, source: str = "tv") -> Sender:
        return Sender(source, *self.keys.make(source))

    async def post(self, path: str, content: bytes, headers: dict[str, str]) -> httpx.Response:
        return await self.http.post(path, content=content, headers=headers)


@pytest.fixture
async def desk(tmp_path: Path) -> AsyncIterator[Desk]:
    made = Desk(tmp_path, Config())
    async with made.http:
        yield made


async def test_a_signed_request_needs_no_secret_in_its_address(desk: Desk) -> None:
    sender, content = desk.sender(), body("s-1")
    answer = await desk.post("/v1/hooks/tv", content, sender.headers(content))
    assert answer.status_code == 202, answer.text
    assert desk.engine.taken["tv/s-1"] == 1


async def test_ten_thousand_tampered_requests_none_accepted(desk: Desk) -> None:
    sender, rng = desk.sender(), random.Random(1)
    content = body("s-2")
    for number in range(TAMPERED):
        headers, changed = sender.headers(content), bytearray(content)
        kind = number % 6
        if kind < 3:  # one bit anywhere in the body
            changed[rng.randrange(len(changed))] ^= 1 << rng.randrange(8)
        elif kind == 3:  # one character of the signature
            text = headers["volley-signature"]
            place = rng.randrange(len(text))
            other = rng.choice([c for c in "0123456789abcdefv=G" if c != text[place]])
            headers["volley-signature"] = text[:place] + other + text[place + 1 :]
        elif kind == 4:  # the stamp, without signing again
            headers["volley-timestamp"] = repr(now() + rng.choice([-1, 1]) * rng.uniform(0.001, 25))
        else:  # another source's key, a key that is none, one header missing
            headers |= rng.choice(
                [{"volley-key": "k-00000000"}, {"volley-key": ""}, {"volley-signature": "v1="}]
            )
            if rng.random() < 0.3:
                del headers[rng.choice(list(headers))]
        answer = await desk.post("/v1/hooks/tv", bytes(changed), headers)
        assert answer.status_code == 401, (number, headers, bytes(changed))
    assert not desk.engine.taken
    assert (await desk.post("/v1/hooks/tv", content, sender.headers(content))).status_code == 202


async def test_every_byte_of_body_and_signature_counts(desk: Desk) -> None:
    sender, content = desk.sender(), body("s-3")
    headers = sender.headers(content)
    for place in range(len(content)):
        for bit in range(8):
            changed = bytearray(content)
            changed[place] ^= 1 << bit
            answer = await desk.post("/v1/hooks/tv", bytes(changed), headers)
            assert answer.status_code == 401
    assert not desk.engine.taken


async def test_another_sources_key_signs_for_its_own_source_only(desk: Desk) -> None:
    tv, other = desk.sender("tv"), desk.sender("other")
    content = body("s-4")
    assert (await desk.post("/v1/hooks/tv", content, other.headers(content))).status_code == 401
    assert (await desk.post("/v1/hooks/other", content, tv.headers(content))).status_code == 401
    assert not desk.engine.taken


async def test_a_wrong_signature_is_refused_before_the_body_is_read_as_anything(
    desk: Desk, monkeypatch: pytest.MonkeyPatch
) -> None:
    sender = desk.sender()

    async def never(content: bytes, *, source: str) -> None:
        raise AssertionError("read without a right signature")

    monkeypatch.setattr(desk.engine, "handle_alert", never)
    headers = sender.headers(b"{}")
    for content in (b"not JSON", b"[" * 5000, b'{"a":1,"a":2}', b"\xff", b""):
        assert (await desk.post("/v1/hooks/tv", content, headers)).status_code == 401


async def test_two_keys_serve_while_one_is_brought_out(desk: Desk) -> None:
    first, second = desk.sender(), desk.sender()
    for number, sender in enumerate((first, second)):
        content = body(f"s-5{number}")
        answer = await desk.post("/v1/hooks/tv", content, sender.headers(content))
        assert answer.status_code == 202
    third = desk.sender()  # the first key ends
    content = body("s-6")
    assert (await desk.post("/v1/hooks/tv", content, first.headers(content))).status_code == 401
    assert (await desk.post("/v1/hooks/tv", content, second.headers(content))).status_code == 202
    assert desk.keys.ids("tv") == [third.name, second.name]
    assert desk.keys.drop("tv", second.name)
    content = body("s-7")
    assert (await desk.post("/v1/hooks/tv", content, second.headers(content))).status_code == 401


async def test_a_source_that_has_to_sign_is_not_served_by_its_secret_alone(tmp_path: Path) -> None:
    desk = Desk(tmp_path, Config.model_validate({"hooks": {"tv": {"signed": True}}}))
    sender, content = desk.sender(), body("s-8")
    path = f"/v1/hooks/tv/{hook_secret(desk.home, 'tv')}"
    async with desk.http:
        assert (await desk.post(path, content, {})).status_code == 401
        assert not desk.engine.taken
        assert (await desk.post(path, content, sender.headers(content))).status_code == 202
        wrong = "/v1/hooks/tv/" + "x" * 43
        assert (await desk.post(wrong, content, sender.headers(content))).status_code == 404


async def test_a_source_that_need_not_sign_may_and_then_has_to_be_right(desk: Desk) -> None:
    sender, content = desk.sender(), body("s-9")
    path = f"/v1/hooks/tv/{hook_secret(desk.home, 'tv')}"
    assert (await desk.post(path, content, sender.headers(b"other"))).status_code == 401
    assert (await desk.post(path, content, {})).status_code == 202


@pytest.mark.parametrize(
    ("address", "status"),
    [
        ("203.0.113.7", 202), ("198.51.100.200", 202), ("203.0.113.8", 404), ("127.0.0.1", 404), ("2001:db8::1", 202),
        ("::ffff:203.0.113.7", 202), ("nonsense", 404),
    ],
)  # fmt: skip
async def test_addresses_a_source_may_send_from(tmp_path: Path, address: str, status: int) -> None:
    networks = ["203.0.113.7", "198.51.100.0/24", "2001:db8::/32"]
    config = Config.model_validate({"hooks": {"tv": {"allow_from": networks}}})
    desk = Desk(tmp_path, config, address)
    async with desk.http:
        path = f"/v1/hooks/tv/{hook_secret(desk.home, 'tv')}"
        assert (await desk.post(path, body("s-10"), {})).status_code == status


async def test_signing_keys_lie_sealed_in_the_home(desk: Desk) -> None:
    sender = desk.sender()
    for file in desk.home.path.rglob("*"):
        assert not file.is_file() or sender.key.encode() not in file.read_bytes(), file


def test_what_is_signed_is_stamp_dot_body() -> None:
    """The documented recipe, spelled out with the standard library alone."""
    by_hand = hmac.new(b"key", b"1795363200.{}", "sha256").hexdigest()
    assert sign(b"key", b"1795363200", b"{}") == f"v1={by_hand}".encode()
    assert json.loads(body("x"))["id"] == "x"


def test_no_secret_is_compared_with_equals() -> None:
    """Digests, signatures, tokens, secrets and PINs go through ``compare_digest`` or a library's own verification."""
    secretive = ("digest", "signature", "secret", "token", "pin", "mac", "hmac", "passphrase")
    found = []
    for path in Path(engine.__file__).parent.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text("utf-8"))):
            if not isinstance(node, ast.Compare) or not any(
                isinstance(operator, ast.Eq | ast.NotEq) for operator in node.ops
            ):
                continue
            for side in (node.left, *node.comparators):
                name = getattr(side, "id", getattr(side, "attr", "")).lower().strip("_")
                made_here = isinstance(side, ast.Call) and getattr(side.func, "attr", "") in {
                    "digest",
                    "hexdigest",
                }
                if (
                    made_here
                    or name in secretive
                    or name.endswith(tuple("_" + word for word in secretive))
                ):
                    found.append(f"{path.name}:{node.lineno}: {ast.unparse(node)}")
    assert not [line for line in found if not line.startswith(KNOWN_HARMLESS)], found


KNOWN_HARMLESS = ("session_cache.py",)
"""Whether a session's token is still the one it was: both sides are our own, nobody's guess."""
