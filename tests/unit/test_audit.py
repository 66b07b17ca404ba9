"""The audit trail: every decision in it, append-only, and no byte of it changed unseen (control C30, threat T19)."""

from __future__ import annotations

import asyncio
import json
import sqlite3
from contextlib import closing
from decimal import Decimal
from pathlib import Path

import pytest

from engine.model.enums import OrderStatus, Side
from engine.model.messages import Fill
from engine.model.position import Position
from engine.stores import audit
from engine.stores.journal import Journal
from main import main
from tests.helpers import MONDAY, eventually, make_order
from tests.unit.test_journal import STAMP, Watched, change, entry, opened


@pytest.fixture
def path(tmp_path) -> Path:
    return tmp_path / "journal.sqlite3"


def rows_of(path: Path) -> list[sqlite3.Row]:
    with closing(sqlite3.connect(path)) as file:
        file.row_factory = sqlite3.Row
        return list(audit.rows_of(file))


def verdict(path: Path) -> audit.Verdict:
    with closing(sqlite3.connect(path)) as file:
        file.row_factory = sqlite3.Row
        return audit.verify(file, audit.kept_head(path))


async def write(path: Path, number: int = 19) -> None:
    async with opened(path) as journal:
        for n in range(number):
            journal.audit("alert", {"text": f"number {n}", "at": n}, account=f"A-{n}")
        await journal.flushed()


def facts_of(path: Path, kind: str) -> list[dict]:
    return [json.loads(row["facts"]) for row in rows_of(path) if row["kind"] == kind]


# What is in it.


async def test_every_kind_of_decision_has_its_row(path):
    order = make_order("O-1", source="bot", signal_id="s-1")
    reasons = [
        ["skipped", "SYMBOL_NOT_ALLOWED", "not on its list", ["A-2", "A-3"]],
        ["refused", "QTY_MAX", "9 > 5", ["A-4"]],
    ]
    plan = {
        "first": "accepted",
        "orders": [["buy", [["O-1", "A-1", "10"]]]],
        "reasons": reasons,
        "fp": "f00",
    }
    async with opened(path) as journal:
        signal = entry(plan=plan)
        await journal.commit_signal(signal)
        await journal.commit_signal(entry(body_hash="again"))  # known: nothing was decided
        await journal.commit_plan(signal)
        await journal.commit_orders([order])
        await journal.commit_command(
            "c-1", STAMP, {"command": "kill", "reason": "why", "pin": "1234"}
        )
        await journal.commit_command("c-1", STAMP, {"command": "kill"})
        journal.note_result("c-1", {"result": "halted"})
        await journal.commit_halt("all", "halted", "kill", STAMP, "operator")
        await journal.clear_halt("all")
        journal.note_order(order)  # it works: nothing to tell yet
        await journal.flushed()
        order.status, order.cum_qty = OrderStatus.FILLED, Decimal(10)
        journal.note_order(order)
        journal.note_fill(
            Fill("A-1", "x-1", "O-1", "AAPL", Side.BUY, Decimal(10), Decimal("1.5"), MONDAY),
            Position("A-1", "AAPL"),
        )
        unknown = make_order("O-2")
        unknown.status = OrderStatus.UNKNOWN
        journal.note_order(unknown)
        journal.audit("limits", {"version": Decimal("1.0")}, "A-1")
    kinds = [row["kind"] for row in rows_of(path)]
    assert kinds == [
        "open", "signal", "plan", "intent", "command", "result", "latch", "latch", "limits", "order", "order",
        "fill", "stop",
    ]  # fmt: skip
    [told] = facts_of(path, "signal")
    assert told["plan"]["reasons"] == reasons
    assert told["reasons"] == [["skipped", "SYMBOL_NOT_ALLOWED", 2], ["refused", "QTY_MAX", 1]]
    assert (told["signal"], told["intents"], told["fp"]) == ("bot/s-1", 1, "f00")
    assert facts_of(path, "command") == [
        {"id": "c-1", "command": {"command": "kill", "reason": "why"}}
    ]
    assert facts_of(path, "result") == [{"id": "c-1", "result": {"result": "halted"}}]
    assert [fact["state"] for fact in facts_of(path, "latch")] == ["halted", "active"]
    assert {(f["cl_ord_id"], f["status"]) for f in facts_of(path, "order")} == {
        ("O-1", "filled"),
        ("O-2", "unknown"),
    }
    assert facts_of(path, "fill")[0]["px"] == "1.5"
    assert verdict(path) == audit.Verdict(len(kinds))


async def test_a_long_plan_is_told_by_its_digest_and_counts(path):
    rows = [[f"O-{n}", f"A-{n}", "10"] for n in range(500)]
    reasons = [["skipped", "INACTIVE", "off", [f"B-{n}" for n in range(300)]]]
    async with opened(path) as journal:
        await journal.commit_signal(entry(plan={"orders": [["buy", rows]], "reasons": reasons}))
    [told] = facts_of(path, "signal")
    assert (told["intents"], told["reasons"]) == (500, [["skipped", "INACTIVE", 300]])
    assert set(told["plan"]) == {"sha256", "bytes"}
    assert len(json.dumps(told)) < 1000


async def test_a_row_is_written_with_the_commit_that_follows(path):
    journal = Watched(path)
    async with opened(path, journal):
        before = journal.commits()
        journal.audit("alert", {"text": "x"})
        await journal.commit_signal(entry())
        assert journal.commits() == before + 1
        assert [row["kind"] for row in rows_of(path)] == ["open", "alert", "signal"]
        journal.audit("alert", {"text": "y"})
        await eventually(lambda: rows_of(path)[-1]["kind"] == "alert")


# Append-only.


@pytest.mark.parametrize(
    "statement",
    [
        "UPDATE audit SET facts = '{}' WHERE seq = 3",
        "DELETE FROM audit WHERE seq = 3",
        "DELETE FROM audit",
        "INSERT OR REPLACE INTO audit SELECT seq, at, 'other', account, facts, hash FROM audit WHERE seq = 3",
        "INSERT INTO audit SELECT seq + 2, at, kind, account, facts, hash FROM audit ORDER BY seq DESC LIMIT 1",
        "INSERT INTO audit VALUES (NULL, '', '', '', '', '')",
    ],
)
async def test_even_our_own_sql_cannot_change_it(path, statement):
    await write(path)
    before = [tuple(row) for row in rows_of(path)]
    with pytest.raises(sqlite3.IntegrityError, match="append-only"):
        change(path, statement)
    assert [tuple(row) for row in rows_of(path)] == before


# Tampering.

OFF = ("DROP TRIGGER audit_no_update", "DROP TRIGGER audit_no_delete", "DROP TRIGGER audit_append")


@pytest.mark.parametrize(
    ("statement", "broken"),
    [
        ("UPDATE audit SET facts = replace(facts, 'number 5', 'number 6')", 7),
        ("UPDATE audit SET at = '2020-01-01T00:00:00.000000Z' WHERE seq = 9", 9),
        ("UPDATE audit SET kind = 'alerT' WHERE seq = 4", 4),
        ("UPDATE audit SET account = 'B' WHERE seq = 5", 5),
        ("UPDATE audit SET hash = zeroblob(32) WHERE seq = 6", 6),
        ("UPDATE audit SET hash = (SELECT hash FROM audit WHERE seq = 5) WHERE seq = 6", 6),
        ("DELETE FROM audit WHERE seq = 8", 8),
        ("DELETE FROM audit WHERE seq <= 3", 1),
        ("DELETE FROM audit WHERE seq > (SELECT max(seq) FROM audit) - 10", 12),
        ("DELETE FROM audit WHERE seq = (SELECT max(seq) FROM audit)", 21),
        ("DELETE FROM audit", 1),
        ("UPDATE audit SET seq = seq + 1 WHERE seq = 21", 21),
        ("UPDATE audit SET facts = CAST(facts AS BLOB) WHERE seq = 7", 7),
        ("UPDATE meta SET value = 'another' WHERE key = 'book'", 1),
    ],
)
async def test_tampering_is_found_and_the_first_row_named(path, capsys, statement, broken):
    await write(path)
    assert verdict(path).broken is None
    change(path, *OFF, statement)
    assert verdict(path).broken == broken
    assert main(["--home", str(path.parent), "audit", "verify"]) == 1
    assert f"row #{broken}" in capsys.readouterr().out


async def test_a_chain_rewritten_to_its_end_is_found_by_the_head(path):
    """Somebody who knows how it is made changes a row and every hash behind it."""
    await write(path)
    change(path, *OFF)
    with closing(sqlite3.connect(path)) as file:
        file.row_factory = sqlite3.Row
        book = file.execute("SELECT value FROM meta WHERE key = 'book'").fetchone()[0]
        head = audit.first_head(book)
        for row in audit.rows_of(file):
            text = row["facts"].replace("number 5", "number 6")
            head = audit.chained(head, row["at"], row["kind"], row["account"], text)
            file.execute(
                "UPDATE audit SET facts = ?, hash = ? WHERE seq = ?", (text, head.hash, head.seq)
            )
        file.commit()
    assert verdict(path).broken == 21
    audit.head_file(path).unlink()
    assert "missing" in verdict(path).reason


async def test_any_byte_flipped_is_found(path):
    """Every byte of the pages the trail lies in: whatever reads differently afterwards is found."""
    await write(path, 12)
    whole = path.read_bytes()
    before = [tuple(row) for row in rows_of(path)]
    kept = audit.kept_head(path)
    pages = [
        n for n in range(len(whole) // 4096) if b"number 5" in whole[n * 4096 : (n + 1) * 4096]
    ]
    assert pages
    changed = 0
    with closing(sqlite3.connect(":memory:")) as file:
        for place in range(pages[0] * 4096, (pages[0] + 1) * 4096):
            image = bytearray(whole)
            image[place] ^= 0x01
            image[18:20] = b"\x01\x01"  # read from memory there is no WAL
            file.deserialize(bytes(image))
            file.row_factory = sqlite3.Row
            try:
                same = [tuple(row) for row in audit.rows_of(file)] == before
            except (sqlite3.Error, UnicodeError):
                same = False
            found = audit.verify(file, kept)
            assert same == (found.broken is None), place
            changed += not same
    assert changed > 1000  # the rest is free space of the page


async def test_a_break_found_at_a_start_is_never_forgotten(path):
    await write(path)
    change(path, *OFF, "DELETE FROM audit WHERE seq > 15")
    async with opened(path) as journal:
        assert [finding.code for finding in journal.findings] == ["AUDIT_BROKEN"]
    async with opened(path) as journal:
        assert journal.findings == []
    found = verdict(path)
    assert found.broken == 16
    assert "cut off" in found.reason


# The command.


async def test_the_command_verifies_shows_and_exports(path, capsys, tmp_path):
    await write(path)
    home = ["--home", str(path.parent)]
    assert main([*home, "audit", "verify"]) == 0
    assert capsys.readouterr().out == "Chain verified to #21\n"
    assert main([*home, "audit", "verify", "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == {"verified": 21, "broken": None, "reason": ""}
    assert main([*home, "audit", "show", "--limit", "2"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in lines] == ["#", "20", "21"]
    assert main([*home, "--json", "audit", "show", "--limit", "3"]) == 0
    shown = json.loads(capsys.readouterr().out)
    assert [row["facts"].get("at") for row in shown] == [17, 18, None]
    out = tmp_path / "trail.jsonl"
    assert main([*home, "audit", "export", "--out", str(out)]) == 0
    exported = [json.loads(line) for line in out.read_text().splitlines()]
    assert [row["seq"] for row in exported] == list(range(1, 22))
    # Anybody can check the export without this program.
    head = audit.first_head(exported[0]["facts"]["book"])
    for row, kept in zip(exported, rows_of(path), strict=True):
        head = audit.chained(head, row["at"], row["kind"], row["account"], kept["facts"])
        assert head.hash.hex() == row["hash"]


async def test_it_verifies_beside_a_writing_engine(path, capsys):
    async with opened(path) as journal:

        async def keep_on() -> None:
            for n in range(300):
                journal.audit("alert", {"n": n})
                await journal.commit_fact("k", "v", {"n": n})

        writing = asyncio.create_task(keep_on())
        while not writing.done():
            assert (
                await asyncio.to_thread(main, ["--home", str(path.parent), "audit", "verify"]) == 0
            )
        await writing
    assert capsys.readouterr().out.startswith("Chain verified to #")


@pytest.mark.parametrize("action", [["verify"], ["show"], ["export", "--out", "x"]])
def test_without_a_journal_it_says_so(tmp_path, capsys, action, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert main(["--home", str(tmp_path), "audit", *action]) == 1
    assert "no journal" in capsys.readouterr().err


def test_a_journal_of_an_older_version_has_none_yet(path, capsys):
    change(path, "CREATE TABLE meta (key, value)")
    assert main(["--home", str(path.parent), "audit", "verify"]) == 1
    assert "no audit trail yet" in capsys.readouterr().err


async def test_an_unclosed_journal_can_be_verified(path, capsys):
    """After a crash the newest rows are in the WAL only."""
    journal = Journal(path)
    await journal.open()
    await journal.commit_fact("k", "v", {})
    copy = path.parent / "crashed"
    copy.mkdir()
    for file in path.parent.iterdir():
        if file.is_file():
            (copy / file.name).write_bytes(file.read_bytes())
    await journal.close()
    (copy / "journal.sqlite3-shm").unlink()
    assert main(["--home", str(copy), "audit", "verify"]) == 0
    assert "verified to #1\n" in capsys.readouterr().out
