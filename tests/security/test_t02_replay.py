"""T02, replay: outside the window a right signature is too old, inside it the signal's id is used up for ever."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import httpx
import pytest

from engine.api.signatures import HookKeys, Signatures
from engine.config import Config
from engine.home import Home
from engine.stores.vault import FileVault
from tests.security.signing import Sender, body, now
from tests.world import paper, world


def keys_of(path: Path) -> HookKeys:
    return HookKeys(Home(path), FileVault(path, keyring=None))


@pytest.mark.parametrize(
    ("off", "taken"),
    [(0, True), (-29.9, True), (29.9, True), (-30.1, False), (30.1, False), (31, False), (-86_400, False)],
)  # fmt: skip
def test_the_window(tmp_path: Path, off: float, taken: bool) -> None:
    keys = keys_of(tmp_path)
    sender = Sender("tv", *keys.make("tv"))
    at = 1_795_363_200.0
    judge = Signatures(keys, Config().signals.signature_window_s, now=lambda: at + off)
    content = body("s-1")
    headers = [(k.encode(), v.encode()) for k, v in sender.headers(content, at).items()]
    problem = judge.problem("tv", headers, content)
    assert (problem == "") is taken, problem
    if not taken:
        assert "allowed are 30 s" in problem


@pytest.mark.parametrize(
    "stamp", ["", "-1", "1e9", "NaN", "inf", "1795363200 ", "0x6b", "1_795_363_200", "９", "9" * 30]
)
def test_a_stamp_that_is_none_is_refused_even_signed(tmp_path: Path, stamp: str) -> None:
    import hmac

    keys = keys_of(tmp_path)
    name, key = keys.make("tv")
    raw = stamp.encode()
    made = hmac.new(key.encode(), raw + b"." + b"{}", "sha256").hexdigest()
    headers = [
        (b"volley-key", name.encode()),
        (b"volley-timestamp", raw),
        (b"volley-signature", f"v1={made}".encode()),
    ]
    assert Signatures(keys, 30.0).problem("tv", headers, b"{}")


def test_a_header_given_twice_is_refused(tmp_path: Path) -> None:
    keys = keys_of(tmp_path)
    sender = Sender("tv", *keys.make("tv"))
    headers = [(k.encode(), v.encode()) for k, v in sender.headers(b"{}").items()]
    judge = Signatures(keys, 30.0)
    assert judge.problem("tv", headers, b"{}") == ""
    for extra in headers:
        assert judge.problem("tv", [*headers, extra], b"{}")


async def test_the_same_request_again_does_nothing_more_also_after_a_restart(
    tmp_path: Path,
) -> None:
    keys = keys_of(tmp_path / "home")
    sender = Sender("tv", *keys.make("tv"))
    content = body("s-2", strategy="breakout")
    request: dict[str, Any] = {"content": content, "headers": sender.headers(content)}
    limits = {"price_reference": "when_available"}
    accounts: list[dict[str, Any]] = [paper(1)]
    for run in range(2):  # the second run: the engine has been started again
        async with world(tmp_path, accounts if run == 0 else (), limits=limits) as made:
            async with httpx.AsyncClient(base_url=made.http.base_url, trust_env=False) as stranger:
                for again in range(3):
                    answer = await stranger.post("/v1/hooks/tv", **request)
                    first = run == 0 and again == 0
                    assert answer.status_code == (202 if first else 200), answer.text
                old = sender.headers(content, at=now() - 31)
                answer = await stranger.post("/v1/hooks/tv", content=content, headers=old)
                assert answer.status_code == 401
                assert "old" in answer.json()["message"]
            rows = await made.rows("signals")
            assert [row["id"] for row in rows] == ["s-2"]
            assert len(await made.rows("orders")) <= 1
