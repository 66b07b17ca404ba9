"""What a start finds: a damaged file, an older copy, a copy of the home, a stop that was none, a second writer."""

from __future__ import annotations

import asyncio
import os
import shutil
import signal
import sqlite3
import subprocess
import sys
from contextlib import closing
from decimal import Decimal
from pathlib import Path

import pytest

from engine import failpoints
from engine.errors import StoreError
from engine.model.enums import Side
from engine.model.messages import Fill
from engine.model.position import Position
from engine.stores import audit, binding, journal_opening, salvage
from engine.stores.journal import Journal
from tests.helpers import MONDAY, eventually, make_order
from tests.unit.test_journal import (
    ROOT,
    STAMP,
    change,
    entry,
    old_state,
    opened,
    schema_of,
    version_1,
    version_2,
)


@pytest.fixture
def path(tmp_path) -> Path:
    home = tmp_path / "home"
    home.mkdir()
    return home / "journal.sqlite3"


async def fill_up(path: Path, signals: int = 40) -> str:
    """Write a book: signals with a plan of two intents each, their orders, fills, positions, facts; return its id."""
    async with opened(path) as journal:
        for number in range(signals):
            orders = [
                make_order(
                    f"O-{number}-{n}", account=f"A-{n}", source="bot", signal_id=f"s-{number}"
                )
                for n in (1, 2)
            ]
            rows = [[order.cl_ord_id, order.account, "10"] for order in orders]
            plan = {"first": "accepted", "orders": [["buy", rows]]}
            await journal.commit_signal(
                entry(
                    f"s-{number}", plan=plan, settled=True, body=b'{"text":"' + b"y" * 600 + b'"}'
                )
            )
            for order in orders:
                order.text = "t" * 300
                journal.note_order(order)
                journal.note_fill(
                    Fill(
                        order.account,
                        f"x{number}",
                        order.cl_ord_id,
                        "AAPL",
                        Side.BUY,
                        Decimal(10),
                        Decimal(1),
                        MONDAY,
                    ),
                    Position(order.account, "AAPL"),
                )
        await journal.commit_fact("limits", "A-1", {"max": "5"})
        await journal.commit_halt("account:A-2", "halted", "loss", STAMP, "engine")
        return journal.book


def damage(path: Path, share: float = 0.25) -> None:
    """Overwrite a run of pages behind those the small tables begin in."""
    pages = path.stat().st_size // 4096
    with path.open("r+b") as file:
        for page in range(int(pages * 0.7), int(pages * (0.7 + share))):
            file.seek(page * 4096)
            file.write(b"\xa5" * 4096)


def codes(journal: Journal) -> list[str]:
    return [finding.code for finding in journal.findings]


async def test_a_damaged_file_is_kept_aside_and_what_can_be_read_is_taken_over(path):
    book = await fill_up(path)
    whole = path.read_bytes()
    damage(path)
    damaged = path.read_bytes()
    assert damaged != whole
    async with opened(path) as journal:
        assert codes(journal) == ["QUARANTINED"]
        assert journal.book == book
        loaded = await journal.load()
        firm = next(halt for halt in loaded.halts if halt["scope"] == "all")
        assert (firm["state"], firm["by"]) == ("halted", "engine")
        text = journal.findings[0].text
        assert "lost: " in text
        assert firm["reason"] == f"QUARANTINED: {text}"
        kept = len(loaded.signals) + len(loaded.orders) + len(loaded.fills)
        assert 20 < kept < 40 + 80 + 80
        # An intent whose order row is lost is gone through again: it may be working.
        rows = {order.cl_ord_id for order in loaded.orders}
        for kept_signal in loaded.signals:
            intents = {row[0] for *_, rows_ in kept_signal.plan["orders"] for row in rows_}
            assert kept_signal.settled == (intents <= rows)
        assert any(not kept_signal.settled for kept_signal in loaded.signals) or len(rows) == 80
        # It is a journal as any other: the same signal again is known.
        known = loaded.signals[0]
        assert (await journal.commit_signal(entry(known.id))).id == known.id
    [aside] = (path.parent / "quarantine").glob("*/journal.sqlite3")
    assert aside.read_bytes() == damaged
    async with opened(path) as journal:
        assert codes(journal) == []
        assert len((await journal.load()).signals) == len(loaded.signals)


async def test_a_page_of_rubbish_in_every_place_is_survived(path, tmp_path):
    """Whatever page is gone: no traceback, the firm halted, and every row that is there is one of the old ones."""
    await fill_up(path, 12)
    async with opened(path) as journal:
        before = {order.cl_ord_id for order in (await journal.load()).orders}
    whole = path.read_bytes()
    found = 0
    for page in range(len(whole) // 4096):
        home = tmp_path / f"page-{page}"
        home.mkdir()
        shutil.copy(path.parent / "audit.head", home)
        (home / "journal.sqlite3").write_bytes(
            whole[: page * 4096] + b"\xff" * 4096 + whole[(page + 1) * 4096 :]
        )
        async with opened(home / "journal.sqlite3") as journal:
            loaded = await journal.load()
            assert {order.cl_ord_id for order in loaded.orders} <= before
            assert "QUARANTINED" in codes(journal), page
            assert {h["scope"]: h["state"] for h in loaded.halts}["all"] == "halted"
            found += len(loaded.orders)
        shutil.rmtree(home)
    assert found > len(before) * 3  # most pages cost little


async def test_a_file_that_is_no_database_halts_and_is_kept(path):
    path.write_bytes(b"this is not SQLite " * 1000)
    async with opened(path) as journal:
        assert codes(journal) == ["QUARANTINED"]
        loaded = await journal.load()
        assert [(halt["scope"], halt["state"]) for halt in loaded.halts] == [("all", "halted")]
        assert loaded.signals == []
    [aside] = (path.parent / "quarantine").glob("*/journal.sqlite3")
    assert aside.read_bytes().startswith(b"this is not SQLite")


@pytest.mark.parametrize("step", ["link", "made", "finish"])
async def test_a_salvage_cut_short_is_done_again_or_finished(path, monkeypatch, step):
    book = await fill_up(path)
    damage(path)
    name = {"link": "_take_over", "made": "_doubt", "finish": "finish"}[step]
    real = getattr(salvage, name)

    def cut(*args: object) -> None:
        if step == "finish" and not salvage._made(path).exists():
            return real(*args)  # the one at the begin, which finds nothing
        raise OSError("cut short")

    with monkeypatch.context() as patched:
        patched.setattr(salvage, name, cut)
        with pytest.raises(StoreError, match="cut short"):
            await Journal(path).open()
    async with opened(path) as journal:
        loaded = await journal.load()
        assert journal.book == book
        assert {halt["scope"]: halt["state"] for halt in loaded.halts} == {
            "all": "halted",
            "account:A-2": "halted",
        }
        assert loaded.facts == {"limits": {"A-1": {"max": "5"}}}


async def test_damage_a_quick_check_does_not_see_is_found_after_an_unclean_stop(path):
    await fill_up(path)
    with closing(sqlite3.connect(path)) as other:
        (root,) = other.execute(
            "SELECT rootpage FROM sqlite_master WHERE name = 'orders_signal'"
        ).fetchone()
        # An index that does not know all rows: quick_check skips it, a look-up by signal would miss orders.
        other.execute("PRAGMA writable_schema = 1")
        other.execute(
            "UPDATE sqlite_master SET rootpage = (SELECT rootpage FROM sqlite_master WHERE name = 'orders_working') "
            "WHERE name = 'orders_signal'"
        )
        other.commit()
        assert root
    async with opened(path) as journal:
        clean = codes(journal)
    change(path, "UPDATE meta SET value = '0' WHERE key = 'clean'")
    async with opened(path) as journal:
        assert "QUARANTINED" in (clean or codes(journal))
        assert len((await journal.load()).orders) == 80


async def test_a_large_file_is_checked_in_full_beside_and_stops_all_sending_when_damaged(
    path, monkeypatch
):
    await fill_up(path)
    monkeypatch.setattr(journal_opening, "CHECK_AT_ONCE_BYTES", 0)
    with closing(sqlite3.connect(path)) as other:
        other.execute("UPDATE meta SET value = '0' WHERE key = 'clean'")
        other.execute("PRAGMA writable_schema = 1")
        other.execute(
            "UPDATE sqlite_master SET sql = replace(sql, '(cl_ord_id)', '(account)') WHERE name = 'fills_order'"
        )
        other.commit()
    told: list[str] = []
    journal = Journal(path)
    journal.on_failure = told.append
    async with opened(path, journal):
        await eventually(lambda: told)
        assert "full check" in journal.failed
        with pytest.raises(StoreError):
            await journal.commit_signal(entry("late"))
    async with opened(path) as journal:  # the mark it left: checked before anything else
        assert codes(journal)[0] == "QUARANTINED"
        assert len((await journal.load()).fills) == 80


# Stops.


async def test_a_clean_stop_says_nothing_and_an_unclean_one_is_told(path):
    async with opened(path) as journal:
        assert codes(journal) == []
        first = journal.epoch
    async with opened(path) as journal:
        assert (codes(journal), journal.epoch) == ([], first + 1)
    code = (
        "import asyncio, os, signal, sys\nfrom pathlib import Path\nfrom engine.stores.journal import Journal\n"
        "async def main():\n    await Journal(Path(sys.argv[1])).open()\n"
        "    os.kill(os.getpid(), getattr(signal, 'SIGKILL', signal.SIGTERM))\nasyncio.run(main())\n"
    )
    done = await asyncio.to_thread(
        subprocess.run, [sys.executable, "-c", code, str(path)], cwd=ROOT, check=False
    )
    assert done.returncode != 0
    async with opened(path) as journal:
        assert codes(journal) == ["UNCLEAN_STOP"]
        assert not journal.findings[0].critical
    async with opened(path) as journal:
        assert codes(journal) == []


# One writer.


async def test_a_writer_of_an_older_epoch_writes_nothing_any_more(path):
    stale, told = Journal(path), []
    stale.on_failure = told.append
    async with opened(path, stale):
        await stale.commit_signal(entry("s-1"))
        async with opened(path) as newer:
            assert newer.epoch == stale.epoch + 1
            with pytest.raises(StoreError, match="EPOCH"):
                await stale.commit_signal(entry("s-2"))
            assert "EPOCH" in stale.failed
            assert told == [stale.failed]
            with pytest.raises(StoreError, match="EPOCH"):
                await stale.commit_halt("all", "halted", "", STAMP, "x")
            await newer.commit_signal(entry("s-3"))
    async with opened(path) as journal:
        loaded = await journal.load()
        assert [signal.id for signal in loaded.signals] == ["s-1", "s-3"]
        assert loaded.halts == []


async def test_a_copy_of_a_home_starts_disarmed_and_the_original_does_not(path, tmp_path):
    await fill_up(path, 3)
    copy = tmp_path / "copy"
    shutil.copytree(path.parent, copy)
    async with opened(copy / "journal.sqlite3") as journal:
        assert codes(journal) == ["OTHER_HOST"]
        assert str(path) in journal.findings[0].text
        [firm] = [halt for halt in (await journal.load()).halts if halt["scope"] == "all"]
        assert (firm["state"], firm["by"]) == ("disarmed", "engine")
    async with opened(copy / "journal.sqlite3") as journal:
        assert codes(journal) == []  # told once; the latch stays until a person lifts it
        assert any(halt["state"] == "disarmed" for halt in (await journal.load()).halts)
        await journal.clear_halt("all")
    for home in (path.parent, copy):
        async with opened(home / "journal.sqlite3") as journal:
            assert codes(journal) == []
            assert [h["scope"] for h in (await journal.load()).halts] == ["account:A-2"]


async def test_a_home_that_was_moved_or_put_back_is_no_copy(path, tmp_path):
    await fill_up(path, 3)
    moved = tmp_path / "moved"
    path.parent.rename(moved)
    async with opened(moved / "journal.sqlite3") as journal:
        assert codes(journal) == []
    shutil.copytree(moved, tmp_path / "backup")
    shutil.rmtree(moved)
    shutil.copytree(tmp_path / "backup", moved)
    async with opened(moved / "journal.sqlite3") as journal:
        assert codes(journal) == []


async def test_a_home_of_another_machine_starts_disarmed_even_if_it_was_halted_less(
    path, monkeypatch
):
    async with opened(path) as journal:
        await journal.commit_halt("all", "reducing", "paused", STAMP, "operator")
    monkeypatch.setattr(binding, "machine_id", lambda: "another one")
    async with opened(path) as journal:
        assert codes(journal) == ["OTHER_HOST"]
        [firm] = (await journal.load()).halts
        assert firm["state"] == "disarmed"
        await journal.commit_halt("all", "halted", "kill switch", STAMP, "operator")
    monkeypatch.undo()
    async with opened(path) as journal:
        assert codes(journal) == ["OTHER_HOST"]
        [firm] = (await journal.load()).halts
        assert (firm["state"], firm["reason"]) == ("halted", "kill switch")  # stricter stays


def test_a_machine_s_id_stays_with_the_system():
    digest = binding.machine_digest()
    assert len(digest) == 64
    assert digest == binding.machine_digest()
    raw = binding.machine_id()
    assert not raw or raw not in digest


# An older copy.


async def test_an_older_copy_of_the_journal_alone_starts_halted(path, tmp_path):
    await fill_up(path, 3)
    older = path.read_bytes()
    async with opened(path) as journal:
        await journal.commit_signal(entry("newer"))
    path.write_bytes(older)
    async with opened(path) as journal:
        assert codes(journal) == ["AUDIT_BROKEN"]
        assert {h["scope"]: h["state"] for h in (await journal.load()).halts}["all"] == "halted"
    async with opened(path) as journal:
        assert codes(journal) == []


async def test_a_journal_that_was_removed_is_missed(path):
    await fill_up(path, 3)
    path.unlink()
    async with opened(path) as journal:
        assert codes(journal) == ["AUDIT_BROKEN"]
        assert [h["state"] for h in (await journal.load()).halts] == ["halted"]


# Kills.


if hasattr(os, "fork"):

    @pytest.mark.parametrize("write", [version_1, version_2])
    def test_killed_at_every_statement_of_a_migration(path, write):
        write(path)
        before, points = schema_of(path), 0
        while opened_and_killed(
            path, f"K29.{('before', 'after')[points % 2]}=kill@{points // 2 + 1}"
        ):
            assert schema_of(path) == before
            points += 1
        assert points > 40
        asyncio.run(old_state(path))

    @pytest.mark.parametrize("point", ["journal.commit", "journal.checkpoint", "journal.flush"])
    def test_killed_around_its_own_steps_it_keeps_what_it_acknowledged(path, point):
        said = path.with_name("said")
        said.touch()
        for number in range(4):
            nth = number + 1 if point == "journal.commit" else 1
            assert opened_and_killed(path, f"{point}.{('before', 'after')[number % 2]}=kill@{nth}")
            done = {int(line) for line in said.read_text().split()}
            with closing(sqlite3.connect(path)) as file:
                kept = {
                    int(row[0].partition("-")[2]) for row in file.execute("SELECT id FROM signals")
                }
            assert done <= kept
            assert len(kept) <= len(done) + number + 1

    def opened_and_killed(path: Path, spec: str) -> bool:
        """Use a journal in a process of its own with a point armed; say whether that killed it."""
        pid = os.fork()
        if not pid:
            status = 1
            try:
                failpoints.arm(spec)
                asyncio.run(use(path))
                status = 0
            finally:
                os._exit(status)
        status = os.waitpid(pid, 0)[1]
        assert os.waitstatus_to_exitcode(status) in {0, -signal.SIGKILL}
        return os.WIFSIGNALED(status)


async def use(path: Path) -> None:
    """Write signals and what follows them, noting beside the journal what it has acknowledged."""
    async with opened(path) as journal:
        if journal.book == "old-book":
            return  # a migration is all it is about
        for number in range(journal.epoch * 100, journal.epoch * 100 + 20):
            await journal.commit_signal(entry(f"s-{number}"))
            with path.with_name("said").open("a") as said:
                said.write(f"{number}\n")
            journal.note_order(make_order(f"O-{number}"))
            await asyncio.sleep(0)
        await eventually(lambda: failpoints.hits.get("journal.checkpoint.after"), 10)


def test_the_head_is_kept_before_the_first_row(path):
    asyncio.run(fill_up(path, 1))
    kept = audit.kept_head(path)
    assert kept is not None
    assert kept.head.seq > 3
