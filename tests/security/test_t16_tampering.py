"""T16, configuration and limits changed while no engine ran: told at the start; disarmed where asked for."""

from __future__ import annotations

import sqlite3
from pathlib import Path
from typing import Any

import orjson
import pytest

from engine.config import Config
from engine.config_seal import FACT, ConfigSeal, values_of
from tests.processes import paper
from tests.security.operators import audit_rows
from tests.world import World, eventually, world

ACCOUNT = paper(1, limits={"max_order_value": "1000", "max_positions": 3})


def told(made: World) -> list[str]:
    return [str(row["text"]) for row in made.engine.alerts if row["code"] == "FINGERPRINT"]


def edit_limits(home: Path, **limits: Any) -> None:
    """Change an account's limits in its file, as somebody with an editor for databases would."""
    connection = sqlite3.connect(home / "accounts.sqlite3")
    try:
        [(name, text)] = connection.execute("SELECT id, document FROM accounts").fetchall()
        document = orjson.loads(text)
        document["limits"] |= limits
        connection.execute(
            "UPDATE accounts SET document = ? WHERE id = ?", (orjson.dumps(document).decode(), name)
        )
        connection.commit()
    finally:
        connection.close()


async def test_nothing_changed_nothing_told(tmp_path: Path) -> None:
    for accounts in ([ACCOUNT], (), ()):
        async with world(tmp_path, accounts) as made:
            assert told(made) == []


async def test_a_changed_setting_is_told_once_with_both_values(tmp_path: Path) -> None:
    async with world(tmp_path, [ACCOUNT]) as made:
        home = made.path
    async with world(tmp_path, limits={"collar_percent": "50"}) as made:
        [text] = told(made)
        assert "limits.collar_percent 5 → 50" in text
        assert made.engine.states.firm.value == "active"  # a notice: a person edits volley.toml
    async with world(tmp_path, limits={"collar_percent": "50"}) as made:
        assert told(made) == []
    rows = [row["facts"] for row in audit_rows(home) if "FINGERPRINT" in str(row["facts"])]
    assert any("collar_percent" in str(row) for row in rows)
    versions = [
        row["facts"]["version"] for row in audit_rows(home) if row["kind"] == "configuration"
    ]
    assert versions == [1, 2]


async def test_limits_edited_behind_the_engines_back_are_told_and_disarm_if_asked(
    tmp_path: Path,
) -> None:
    async with world(tmp_path, [ACCOUNT], safety={"disarm_after_edit": True}) as made:
        home = made.path
    edit_limits(home, max_order_value="1000000")
    async with world(tmp_path, safety={"disarm_after_edit": True}) as made:
        [text] = told(made)
        assert "account P-001 max_order_value 1000 → 1000000" in text
        assert made.engine.states.firm.value == "disarmed"
        latch = made.engine.states.get("all")
        assert latch is not None
        assert latch.by == "FINGERPRINT"


async def test_an_old_configuration_put_back_is_told_too(tmp_path: Path) -> None:
    for collar, count in (("5", 0), ("3", 1), ("5", 1)):
        async with world(
            tmp_path, [ACCOUNT] if count == 0 else (), limits={"collar_percent": collar}
        ) as made:
            assert len(told(made)) == count


async def test_limits_changed_through_the_engine_are_no_edit(tmp_path: Path) -> None:
    async with world(tmp_path, [ACCOUNT]) as made:
        await made.command(
            "set_limits", account="P-001", limits={"max_order_value": "2000"}, reason="agreed"
        )
        await eventually(
            lambda: sealed(made.path).get("account P-001 max_order_value") == "2000",
            what="it is sealed",
        )
    async with world(tmp_path) as made:
        assert told(made) == []


def sealed(home: Path) -> dict[str, str]:
    connection = sqlite3.connect(home / "journal.sqlite3")
    try:
        rows = connection.execute("SELECT value FROM facts WHERE kind = ?", (FACT,)).fetchall()
    finally:
        connection.close()
    return dict(orjson.loads(rows[0][0])["values"]) if rows else {}


async def test_a_seal_edited_along_with_the_limits_does_not_verify(tmp_path: Path) -> None:
    async with world(tmp_path, [ACCOUNT]) as made:
        home = made.path
    edit_limits(home, max_order_value="1000000")
    connection = sqlite3.connect(home / "journal.sqlite3")
    try:
        [(text,)] = connection.execute("SELECT value FROM facts WHERE kind = ?", (FACT,)).fetchall()
        fact = orjson.loads(text)
        fact["values"]["account P-001 max_order_value"] = "1000000"
        connection.execute("UPDATE facts SET value = ? WHERE kind = ?", (orjson.dumps(fact), FACT))
        connection.commit()
    finally:
        connection.close()
    async with world(tmp_path) as made:
        [text] = told(made)
        assert "does not verify" in text


class Books:
    """A journal in memory."""

    def __init__(self) -> None:
        self.facts: dict[str, Any] = {}

    async def commit_fact(self, kind: str, key: str, value: dict[str, Any] | None) -> None:
        self.facts[key] = value

    def audit(self, kind: str, facts: dict[str, Any], account: str = "") -> None:
        """Kept elsewhere."""


@pytest.mark.parametrize("field", ["version", "values", "mac", "key"])
async def test_every_part_of_the_seal_counts(field: str) -> None:
    books = Books()
    seal = ConfigSeal(lambda: ("k-1", b"k" * 32), books)
    values = values_of(Config(), [])
    await seal.seal(values)
    assert ConfigSeal(lambda: ("k-1", b"k" * 32), books).problems(books.facts, values) == []
    wrong = {
        "version": 7,
        "values": values | {"limits.collar_percent": "99"},
        "mac": "0" * 64,
        "key": "k-2",
    }
    books.facts["config"] = books.facts["config"] | {field: wrong[field]}
    assert ConfigSeal(lambda: ("k-1", b"k" * 32), books).problems(books.facts, values)


def test_no_password_is_in_what_is_sealed() -> None:
    config = Config.model_validate({"storage": {"redis_url": "redis://u:cnry-sealed@127.0.0.1/0"}})
    assert "cnry-sealed" not in str(values_of(config, []))
