"""T14, accounts mixed up: credentials of another account halt the account before anything of it is read or sent."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from engine.errors import ConfigError
from engine.model.enums import TradingState
from engine.ports import SessionToken
from engine.stores.token_store import FileTokenStore
from engine.stores.vault import FileVault
from tests.processes import alpaca
from tests.security.operators import audit_rows
from tests.world import World, eventually, put_accounts, venue, world


def swapped(url: str) -> list[dict[str, Any]]:
    first, second = alpaca(1, url), alpaca(2, url)
    return [
        first | {"credentials": second["credentials"]},
        second | {"credentials": first["credentials"]},
    ]


def halted(made: World, account: str) -> bool:
    latch = made.engine.states.get(f"account:{account}")
    return latch is not None and latch.state is TradingState.HALTED and latch.by == "OTHER_ACCOUNT"


async def test_two_accounts_with_swapped_keys_are_halted_and_send_nothing(tmp_path: Path) -> None:
    async with venue() as sim:
        url = f"http://127.0.0.1:{sim.port}"
        async with world(tmp_path, [alpaca(1, url), alpaca(2, url)]) as made:
            await eventually(
                lambda: len(made.engine.facts.get("owner", {})) == 2, what="both are known"
            )
            owners = {name: fact["owner"] for name, fact in made.engine.facts["owner"].items()}
            assert len(set(owners.values())) == 2
        await put_accounts(tmp_path / "home", swapped(url))
        async with world(tmp_path, connected=0) as made:
            await eventually(
                lambda: halted(made, "A-001") and halted(made, "A-002"), what="both are halted"
            )
            before = len(sim.log.rows())
            answer = await made.post(id="s-1")
            assert answer.status_code == 202
            detail = await made.detail("bot/s-1")
            assert not [row for row in detail["accounts"] if row["outcome"] == "sent"]
            assert not [row for row in sim.log.rows()[before:] if row.method == "POST"]
            alerts = [row for row in made.engine.alerts if row["code"] == "OTHER_ACCOUNT"]
            assert {row["account"] for row in alerts} == {"A-001", "A-002"}
            assert owners["A-002"] in next(
                row["text"] for row in alerts if row["account"] == "A-001"
            )
            home = made.path
        trips = [
            row
            for row in audit_rows(home)
            if row["kind"] == "trip" and "OTHER_ACCOUNT" in str(row["facts"])
        ]
        assert {row["account"] for row in trips} == {"A-001", "A-002"}
        # Still so after a restart; and right again once the keys are, after a person re-armed it.
        async with world(tmp_path, connected=0) as made:
            assert halted(made, "A-001")
        await put_accounts(tmp_path / "home", [alpaca(1, url), alpaca(2, url)])
        async with world(tmp_path, connected=0) as made:
            for account in ("A-001", "A-002"):
                await made.command(
                    "rearm", scope=f"account:{account}", reason="the right keys are back"
                )
            await eventually(lambda: not halted(made, "A-001"), what="it is armed")
            states = made.engine.fleet.states.values()
            await eventually(
                lambda: all(state.usable and state.reconciled for state in states),
                what="both are compared with the broker's books",
            )
            assert {
                name: fact["owner"] for name, fact in made.engine.facts["owner"].items()
            } == owners
            assert all(row["outcome"] == "sent" for row in (await made.send(id="s-2"))["accounts"])


async def test_a_change_that_is_meant_is_accepted_by_re_arming(tmp_path: Path) -> None:
    async with venue() as sim:
        url = f"http://127.0.0.1:{sim.port}"
        async with world(tmp_path, [alpaca(1, url)]) as made:
            await eventually(
                lambda: "A-001" in made.engine.facts.get("owner", {}), what="it is known"
            )
            first = made.engine.facts["owner"]["A-001"]["owner"]
        other = alpaca(1, url) | {"credentials": alpaca(7, url)["credentials"]}
        await put_accounts(tmp_path / "home", [other])
        async with world(tmp_path, connected=0) as made:
            await eventually(lambda: halted(made, "A-001"), what="it is halted")
            await made.command(
                "rearm", scope="account:A-001", reason="moved to a new account at the broker"
            )
            await eventually(
                lambda: made.engine.facts["owner"]["A-001"].get("owner") != first,
                40,
                "the new one is known",
            )
            await eventually(
                lambda: not made.engine.states.get("account:A-001"), what="it stays armed"
            )


def test_a_login_token_of_one_account_is_none_of_another(tmp_path: Path) -> None:
    """Brokers that tell no id (Kite): the token's file is sealed to the account's id."""
    from datetime import UTC, datetime, timedelta

    store = FileTokenStore(tmp_path, FileVault(tmp_path, keyring=None))
    for account in ("K-1", "K-2"):
        store.save(
            account, SessionToken(f"token-of-{account}", datetime.now(UTC) + timedelta(hours=1))
        )
    one, two = store._path("K-1"), store._path("K-2")
    first, second = one.read_bytes(), two.read_bytes()
    one.write_bytes(second)
    two.write_bytes(first)
    assert store.load("K-1") is None
    assert store.load("K-2") is None
    one.write_bytes(first)
    kept = store.load("K-1")
    assert kept is not None
    assert kept.token == "token-of-K-1"


def test_ciphertext_of_one_account_opens_under_no_other(tmp_path: Path) -> None:
    vault = FileVault(tmp_path, keyring=None)
    sealed = {name: vault.seal(name, "secret", f"secret of {name}") for name in ("A-1", "A-2")}
    for owner, other in (("A-1", "A-2"), ("A-2", "A-1")):
        with pytest.raises(ConfigError, match=owner):
            vault.reveal(owner, "secret", sealed[other])
