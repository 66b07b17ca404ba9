"""T19, edits of the audit trail: a changed byte, a removed row, a cut-off end, a row put in: each is found."""

from __future__ import annotations

import shutil
import sqlite3
from pathlib import Path

import pytest

from tests.processes import paper, volley
from tests.security.operators import audit_rows
from tests.world import eventually, world

EDITS = {
    "a fact": "UPDATE audit SET facts = replace(facts, 'pause', 'PAUSE') WHERE seq = (SELECT max(seq) - 2 FROM audit)",
    "a stamp": "UPDATE audit SET at = '2020-01-01T00:00:00.000000Z' WHERE seq = 2",
    "a kind": "UPDATE audit SET kind = 'nothing' WHERE seq = 2",
    "an account": "UPDATE audit SET account = 'P-002' WHERE seq = 2",
    "a removed row": "DELETE FROM audit WHERE seq = 3",
    "the last ten": "DELETE FROM audit WHERE seq > (SELECT max(seq) - 10 FROM audit)",
    "everything": "DELETE FROM audit",
}


async def home_with_a_trail(path: Path) -> Path:
    async with world(path, [paper(1)]) as made:
        for number in range(12):
            await made.command("pause", scope=f"symbol:S{number}")
        await eventually(lambda: len(audit_rows(made.path)) >= 24, what="the rows are written")
        return made.path


async def test_every_edit_is_found(tmp_path: Path) -> None:
    home = await home_with_a_trail(tmp_path)
    good = volley(home, "audit", "verify", "--json")
    assert good.returncode == 0, good.stdout + good.stderr
    for what, statement in EDITS.items():
        copy = tmp_path / "copy"
        shutil.copytree(home, copy)
        connection = sqlite3.connect(copy / "journal.sqlite3")
        try:
            for (name,) in connection.execute(
                "SELECT name FROM sqlite_master WHERE type = 'trigger'"
            ).fetchall():
                connection.execute(f'DROP TRIGGER "{name}"')
            changed = connection.execute(statement).rowcount
            connection.commit()
        finally:
            connection.close()
        assert changed, what
        found = volley(copy, "audit", "verify", "--json")
        assert found.returncode == 1, (what, found.stdout, found.stderr)
        shutil.rmtree(copy)


@pytest.mark.parametrize("seq", [1, 5, 20])
async def test_a_flipped_byte_of_a_hash_is_found(tmp_path: Path, seq: int) -> None:
    home = await home_with_a_trail(tmp_path)
    connection = sqlite3.connect(home / "journal.sqlite3")
    try:
        for (name,) in connection.execute(
            "SELECT name FROM sqlite_master WHERE type = 'trigger'"
        ).fetchall():
            connection.execute(f'DROP TRIGGER "{name}"')
        [(old,)] = connection.execute("SELECT hash FROM audit WHERE seq = ?", (seq,)).fetchall()
        raw = bytearray(old if isinstance(old, bytes) else bytes.fromhex(old))
        raw[0] ^= 1
        new = bytes(raw) if isinstance(old, bytes) else raw.hex()
        connection.execute("UPDATE audit SET hash = ? WHERE seq = ?", (new, seq))
        connection.commit()
    finally:
        connection.close()
    assert volley(home, "audit", "verify").returncode == 1
