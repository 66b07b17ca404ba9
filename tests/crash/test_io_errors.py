"""Each write, truncation and sync of the journal's life fails once (EIO), or all from then on (disk full): G4, F32."""

from __future__ import annotations

import asyncio
import errno
import os
from pathlib import Path

import apsw
import pytest

from engine import failpoints
from engine.errors import StoreError
from engine.stores import audit, reserve
from engine.stores.journal import Journal
from tests.crash.power_cut import (
    Acknowledged,
    Disk,
    live,
    lost_after,
    opener,
    quick,
    steps_of_a_life,
)
from tests.helpers import make_order
from tests.unit.test_journal import STAMP, entry, opened


def platter(path: Path, disk: Disk) -> None:
    """Put in the place of the files what the platter holds: the power failed behind the error."""
    head = audit.head_file(path).read_bytes() if audit.head_file(path).exists() else b""
    for file in path.parent.iterdir():
        file.unlink()
    for name, image in disk.after_cut(None).items():
        (path.parent / name).write_bytes(image)
    if head:
        audit.head_file(path).write_bytes(head)
    disk.vfs.unregister()


def fail_at(path: Path, number: int, *, full: bool) -> tuple[Acknowledged, str, bool]:
    """Live with the ``number``-th step failing; return what was acknowledged, the error, and whether it came to it."""
    disk, failed = Disk(), []

    def step(kind: str, name: str) -> None:
        if kind == "synced":
            return
        if full and disk.steps >= number and (path.parent / reserve.NAME).exists():
            failed.append(disk.steps)
            raise apsw.FullError("disk full")
        if not full and disk.steps == number:
            failed.append(number)
            if kind == "sync":
                disk.sync_fails(name, disk.handle)
            raise apsw.IOError("I/O error")

    disk.on_step = step
    done, error = asyncio.run(live(path, disk))
    platter(path, disk)
    return done, error, bool(failed)


@pytest.mark.parametrize("full", [False, True], ids=["EIO", "ENOSPC"])
def test_every_step_failing(tmp_path: Path, full: bool) -> None:
    with quick():
        steps = steps_of_a_life()["any"]
        met = told = rows = 0
        for number in range(1, steps + 1):
            home = tmp_path / str(number)
            home.mkdir()
            path = home / "journal.sqlite3"
            done, error, happened = fail_at(path, number, full=full)
            met += happened
            told += bool(error)
            rows += done.count()
            assert not error or "journal" in error, (number, error)
            lost = asyncio.run(lost_after(path, done))
            assert not lost, (number, error, lost)
            for file in home.iterdir():
                file.unlink()
        assert rows > met
        assert met >= steps * 0.9  # threads differ a little from life to life
        assert told >= met * (0.4 if full else 0.6)  # the rest were a checkpoint's, tried again


@pytest.mark.parametrize("point", ["journal.commit.before", "journal.flush.before", "K03.before"])
async def test_disk_full_at_a_step_leaves_room_for_closing_records(
    tmp_path: Path, point: str
) -> None:
    path = tmp_path / "journal.sqlite3"
    told: list[str] = []
    journal = Journal(path)
    journal.on_failure = told.append
    async with opened(path, journal):
        await journal.commit_signal(entry("before"))
        failpoints.arm(f"{point}=enospc")
        try:
            journal.note_order(make_order("O-left"))
            if point == "journal.flush.before":
                journal._flush()
            with pytest.raises((StoreError, OSError)):
                await journal.commit_signal(entry("refused"))
        finally:
            failpoints.arm("")
        if point == "K03.before":  # not the journal's own failure: nothing was queued
            assert not told
            return
        assert os.strerror(errno.ENOSPC) in journal.failed
        assert len(told) == 1
        assert not (tmp_path / reserve.NAME).exists()
        with pytest.raises(StoreError):
            await journal.commit_signal(entry("later"))
        await journal.commit_halt("all", "halted", "disk full", STAMP, "engine")
        journal.note_order(make_order("O-closed"))
        await journal.flushed()
    async with opened(path) as journal:
        loaded = await journal.load()
        assert [signal.id for signal in loaded.signals] == ["before"]
        assert {order.cl_ord_id for order in loaded.orders} == {"O-left", "O-closed"}
        assert [halt["reason"] for halt in loaded.halts] == ["disk full"]
        assert (tmp_path / reserve.NAME).stat().st_size == reserve.RESERVE_BYTES


async def test_a_sync_that_failed_is_not_asked_again(tmp_path: Path) -> None:
    """The second fsync of a handle may succeed for pages the first has lost: it must never be believed."""
    path, disk = tmp_path / "journal.sqlite3", Disk()
    journal = Journal(path, opener=opener(disk))
    await journal.open()
    try:
        await journal.commit_signal(entry("good"))
        failing = True

        def step(kind: str, name: str) -> None:
            nonlocal failing
            if kind == "sync" and failing and name.endswith("-wal"):
                failing = False
                disk.sync_fails(name, disk.handle)

        disk.on_step = step
        with pytest.raises(StoreError, match="sync failed"):
            await journal.commit_signal(entry("lost"))
        for again in (
            journal.commit_signal(entry("again")),
            journal.commit_halt("all", "halted", "", STAMP, "engine"),
            journal.commit_fact("k", "v", {}),
            journal.flushed(),
        ):
            with pytest.raises(StoreError, match="sync failed"):
                await again
    finally:
        await journal.close()
    platter(path, disk)
    async with opened(path) as journal:
        assert [signal.id for signal in (await journal.load()).signals] == ["good"]
