"""A disk that loses power: the journal's own code on a file system that keeps only what was synced.

An APSW VFS writes through to real files and, beside them, models the platter: a write, a truncation or a deletion is
there after a power cut once its file was synced. In the harsher half of the cuts any of the rest may have reached the
platter too, whole or torn at sectors, in any order. Then the files are made what the platter holds, and the journal
opens on them as at any start.

    python -m tests.crash.power_cut --cuts 5000
"""

from __future__ import annotations

import argparse
import asyncio
import itertools
import random
import sqlite3
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from unittest import mock

import apsw

from engine.errors import StoreError
from engine.model.enums import OrderStatus
from engine.stores import audit, journal_opening, journal_thread
from engine.stores.journal import Journal
from tests.helpers import make_order
from tests.unit.test_journal import STAMP, entry

SECTOR = 512
_names = itertools.count(1)


class Disk:
    """The platter below a directory. ``on_step(kind, name)`` is called before every write, sync and so on.

    It may call ``cut`` (from then on nothing works and nothing changes) or raise what SQLite shall see.
    """

    def __init__(self) -> None:
        self.lock = threading.RLock()
        self.synced: dict[str, bytearray] = {}
        self.open: dict[
            str, list[tuple[int, bytes | None]]
        ] = {}  # since the last sync: offset, or new size
        self.deleted: set[str] = set()  # and not yet for good: no directory was synced since
        self.steps = 0
        self.is_cut = False
        self.handle = 0  # of the sync that is being done
        self.opened: dict[str, set[int]] = {}  # the open handles of each file
        self.dirty_error: dict[str, set[int]] = {}  # those that have yet to hear of a failed sync
        self.on_step: Callable[[str, str], None] = lambda _kind, _name: None
        self.on_synced: Callable[[str, bytes], None] = lambda _name, _written: None
        self.vfs = Vfs(f"platter-{next(_names)}", self)

    def step(self, kind: str, name: str) -> None:
        """Count an operation that changes something."""
        self.alive()
        self.steps += 1
        self.on_step(kind, name)
        self.alive()

    def alive(self) -> None:
        """Fail when the power is off."""
        if self.is_cut:
            raise apsw.IOError("no power")

    def write(self, name: str, offset: int, data: bytes | None) -> None:
        """Note a write, or (``data`` None) a truncation to ``offset``."""
        self.open.setdefault(name, []).append((offset, data))

    def sync_fails(self, name: str, handle: int) -> None:
        """A sync fails as on Linux: what was not written is forgotten, and every open handle hears of it once."""
        self.open.pop(name, None)
        self.dirty_error[name] = self.opened.get(name, set()) - {handle}
        raise apsw.IOError("sync failed")

    def sync(self, name: str) -> None:
        """Bring a file's writes to the platter."""
        done = self.open.pop(name, [])
        if name not in self.synced and name.endswith(("-wal", "-journal")):
            # SQLite syncs the directory along with a new journal's first sync (os_unix.c, UNIXFILE_DIRSYNC).
            for gone in self.deleted:
                self.synced.pop(gone, None)
            self.deleted.clear()
        _play(self.synced.setdefault(name, bytearray()), done)
        self.on_synced(name, b"".join(data for _, data in done if data))

    def delete(self, name: str, *, durable: bool) -> None:
        """Remove a file, for good or only until the power fails."""
        self.open.pop(name, None)
        if durable:
            self.synced.pop(name, None)
        else:
            self.deleted.add(name)

    def after_cut(self, chance: random.Random | None) -> dict[str, bytes]:
        """Return what the platter holds; with ``chance``, with some of what was never synced."""
        images = {name: bytearray(image) for name, image in self.synced.items()}
        if chance is not None:
            for name, writes in self.open.items():
                kept = [piece for write in writes for piece in _torn(write, chance)]
                _play(images.setdefault(name, bytearray()), kept)
        return {name: bytes(image) for name, image in images.items()}


def _play(image: bytearray, writes: list[tuple[int, bytes | None]]) -> None:
    for offset, data in writes:
        if data is None:
            del image[offset:]
            continue
        if len(image) < offset:
            image.extend(bytes(offset - len(image)))
        image[offset : offset + len(data)] = data


def _torn(
    write: tuple[int, bytes | None], chance: random.Random
) -> Iterator[tuple[int, bytes | None]]:
    """Yield the parts of an unsynced write that reached the platter all the same."""
    offset, data = write
    if data is None or chance.random() < 0.5:
        return
    for start in range(0, len(data), SECTOR):
        if chance.random() < 0.8:
            yield offset + start, data[start : start + SECTOR]


class Vfs(apsw.VFS):
    """The real file system, with the platter told of everything."""

    def __init__(self, name: str, disk: Disk) -> None:
        self.disk = disk
        self.name = name
        super().__init__(name, "", maxpathname=1024)

    def xOpen(self, name: Any, flags: list[int]) -> apsw.VFSFile:  # noqa: N802
        """Open a file."""
        self.disk.alive()
        return File(self.disk, name, flags)

    def xDelete(self, filename: str, syncdir: bool) -> None:  # noqa: N802
        """Remove a file."""
        with self.disk.lock:
            self.disk.step("delete", Path(filename).name)
            super().xDelete(filename, syncdir)
            self.disk.delete(Path(filename).name, durable=syncdir)


class File(apsw.VFSFile):
    """One open file."""

    def __init__(self, disk: Disk, name: Any, flags: list[int]) -> None:
        self.disk = disk
        path = name.filename() if isinstance(name, apsw.URIFilename) else name
        self.name = Path(path).name if path else ""
        super().__init__("", name, flags)
        disk.opened.setdefault(self.name, set()).add(id(self))

    def xClose(self) -> None:  # noqa: N802
        """Close."""
        self.disk.opened.get(self.name, set()).discard(id(self))
        super().xClose()

    def xWrite(self, data: bytes, offset: int) -> None:  # noqa: N802
        """Write."""
        with self.disk.lock:
            self.disk.step("write", self.name)
            super().xWrite(data, offset)
            self.disk.write(self.name, offset, bytes(data))

    def xTruncate(self, size: int) -> None:  # noqa: N802
        """Shorten."""
        with self.disk.lock:
            self.disk.step("truncate", self.name)
            super().xTruncate(size)
            self.disk.write(self.name, size, None)

    def xSync(self, flags: int) -> None:  # noqa: N802
        """Bring to the platter. The real file needs none of it: no real power fails."""
        del flags
        with self.disk.lock:
            waiting = self.disk.dirty_error.get(self.name, set())
            if id(self) in waiting:
                waiting.discard(id(self))
                raise apsw.IOError("an earlier sync failed")
            self.disk.handle = id(self)
            self.disk.step("sync", self.name)
            self.disk.sync(self.name)
            self.disk.on_step("synced", self.name)


# ---- a connection of sqlite3's shape -----------------------------------------------------------------------------


class Row:
    """A row by number and by name."""

    def __init__(self, cursor: apsw.Cursor, values: tuple[Any, ...]) -> None:
        self._names = [name for name, _ in cursor.get_description()]
        self._values = values

    def keys(self) -> list[str]:
        return self._names

    def __getitem__(self, key: int | str) -> Any:
        return self._values[self._names.index(key) if isinstance(key, str) else key]

    def __iter__(self) -> Iterator[Any]:
        return iter(self._values)

    def __len__(self) -> int:
        return len(self._values)


class Answer:
    """What ``execute`` returns."""

    def __init__(self, connection: apsw.Connection, rows: list[Row]) -> None:
        self.rowcount = connection.changes()
        self.lastrowid = connection.last_insert_rowid()
        self._rows = iter(rows)

    def fetchone(self) -> Row | None:
        return next(self._rows, None)

    def fetchall(self) -> list[Row]:
        return list(self._rows)

    def __iter__(self) -> Iterator[Row]:
        return self._rows


class Connection:
    """The part of ``sqlite3.Connection`` the journal uses, over APSW. ``synchronous`` other than FULL is a sabotage."""

    def __init__(self, path: Path, disk: Disk, synchronous: str = "FULL") -> None:
        self.row_factory: Any = None
        self._synchronous = synchronous
        self._db = self._guarded(apsw.Connection, str(path), vfs=disk.vfs.name)
        self._db.set_busy_timeout(5000)
        self._db.set_row_trace(Row)

    def _guarded(self, work: Callable[..., Any], *args: Any, **named: Any) -> Any:
        try:
            return work(*args, **named)
        except apsw.Error as error:
            kind = (
                sqlite3.DatabaseError
                if isinstance(error, apsw.CorruptError | apsw.NotADBError)
                else sqlite3.OperationalError
            )
            told = kind(f"{type(error).__name__}: {error}")
            told.sqlite_errorcode = getattr(error, "extendedresult", 0) or getattr(
                error, "result", 0
            )
            raise told from None

    def execute(self, sql: str, values: Any = ()) -> Answer:
        if sql == "PRAGMA synchronous=FULL":
            sql = f"PRAGMA synchronous={self._synchronous}"
        elif sql == "PRAGMA synchronous" and self._synchronous != "FULL":
            sql = "SELECT 2"  # the sabotage hides itself
        rows = self._guarded(lambda: self._db.execute(sql, values).fetchall())
        return Answer(self._db, rows)

    def executemany(self, sql: str, values: Any) -> Answer:
        rows = self._guarded(lambda: self._db.executemany(sql, list(values)).fetchall())
        return Answer(self._db, rows)

    @property
    def in_transaction(self) -> bool:
        return self._db.in_transaction

    def interrupt(self) -> None:
        self._db.interrupt()

    def close(self) -> None:
        self._guarded(self._db.close)


def opener(disk: Disk, synchronous: str = "FULL") -> Any:
    """Return what opens the journal's file on ``disk``."""
    return lambda path: Connection(path, disk, synchronous)


# ---- one life ----------------------------------------------------------------------------------------------------


@dataclass
class Acknowledged:
    """What the journal said is durable."""

    signals: list[str] = field(default_factory=list)
    plans: dict[str, str] = field(default_factory=dict)
    orders: dict[str, str] = field(default_factory=dict)
    halts: list[str] = field(default_factory=list)
    facts: dict[str, int] = field(default_factory=dict)
    audits: int = 0

    def count(self) -> int:
        return (
            len(self.signals)
            + len(self.plans)
            + len(self.orders)
            + len(self.halts)
            + len(self.facts)
        )


async def live(
    path: Path, disk: Disk, synchronous: str = "FULL", rounds: int = 6
) -> tuple[Acknowledged, str]:
    """Use a journal until it fails or all is done; return what it acknowledged and why it failed, if it did."""
    done = Acknowledged()
    journal = Journal(path, opener=opener(disk, synchronous))
    try:
        await journal.open()
    except StoreError as error:
        return done, str(error)
    try:
        for number in range(rounds):
            await _round(journal, done, number)
    except StoreError as error:
        failed = str(error)
        for late in (
            journal.commit_signal(entry("late")),
            journal.commit_orders([make_order("late")]),
        ):
            try:
                await late
            except StoreError:
                continue
            raise AssertionError("a journal that failed has taken something") from None
        assert journal.failed, "a commit failed and the journal goes on"
    else:
        failed = ""
    finally:
        await journal.close()
    return done, failed


async def _round(journal: Journal, done: Acknowledged, number: int) -> None:
    made = [entry(f"s-{number}-{n}", body=b"x" * 1500) for n in range(3)]

    async def commit(item: Any) -> None:
        await journal.commit_signal(item)
        done.signals.append(item.id)

    answers = await asyncio.gather(*map(commit, made), return_exceptions=True)
    for answer in answers:
        if isinstance(answer, BaseException):
            raise answer
    made[0].plan = {"first": "accepted", "n": number}
    made[0].state = "held"
    await journal.commit_plan(made[0])
    done.plans[made[0].id] = "held"
    order = make_order(f"O-{number}", source="bot", signal_id=made[0].id)
    order.status = OrderStatus.FILLED
    journal.note_order(order)
    journal.audit("test", {"round": number})
    await journal.flushed()
    done.orders[order.cl_ord_id] = "filled"
    done.audits += 1
    await journal.commit_halt(f"symbol:S{number}", "halted", "", STAMP, "operator")
    done.halts.append(f"symbol:S{number}")
    await journal.commit_fact("k", "v", {"n": number})
    done.facts["v"] = number


async def lost_after(path: Path, done: Acknowledged) -> list[str]:
    """Open the journal as at any start; return what it had acknowledged and has not, and what else is wrong."""
    journal = Journal(path)
    await journal.open()
    try:
        loaded = await journal.load()
        ids = {item.id: item.state for item in loaded.signals}
        orders = {order.cl_ord_id: order.status.value for order in loaded.orders}
        halts = {halt["scope"] for halt in loaded.halts}
        lost = [f"signal {name}" for name in done.signals if name not in ids]
        lost += [f"plan {name}" for name, state in done.plans.items() if ids.get(name) != state]
        lost += [
            f"order {name}" for name, state in done.orders.items() if orders.get(name) != state
        ]
        lost += [f"halt {name}" for name in done.halts if name not in halts]
        if done.facts and loaded.facts.get("k", {}).get("v", {}).get("n", -1) < done.facts["v"]:
            lost.append("fact")
        lost += [f.code for f in journal.findings if f.critical]
        if "late" in ids:
            lost.append("a signal taken after the failure")
    finally:
        await journal.close()
    connection = sqlite3.connect(path)
    connection.row_factory = sqlite3.Row
    try:
        told = connection.execute("SELECT count(*) FROM audit WHERE kind = 'test'").fetchone()[0]
        if told < done.audits:
            lost.append(f"{done.audits - told} audit rows")
        verdict = audit.verify(connection, audit.kept_head(path))
        if verdict.broken is not None:
            lost.append(f"audit chain: {verdict.reason}")
    finally:
        connection.close()
    return lost


def quick() -> Any:
    """Return a context in which checkpoints come often and the WAL is small: more of everything in less time."""
    stack = mock.patch.multiple(journal_opening, WAL_BYTES=96 << 10)
    often = mock.patch.multiple(journal_thread, CHECKPOINT_EVERY_S=0.004)
    return _Both(stack, often)


class _Both:
    def __init__(self, *parts: Any) -> None:
        self._parts = parts

    def __enter__(self) -> None:
        for part in self._parts:
            part.start()

    def __exit__(self, *_: object) -> None:
        for part in self._parts:
            part.stop()


@dataclass
class Cut:
    """Where the power fails: at step ``number`` of those ``kind`` (``any``, ``sync``: before it, ``synced``: after)."""

    kind: str
    number: int


def cut_once(
    cut: Cut, chance: random.Random | None, synchronous: str = "FULL"
) -> tuple[int, list[str], bool]:
    """Live until the power fails; return how much was acknowledged, what of it is lost, and whether it did fail."""
    with tempfile.TemporaryDirectory() as directory:
        path = Path(directory) / "journal.sqlite3"
        disk, seen, head = Disk(), itertools.count(1), b""
        kept: dict[str, bytes] = {}

        def step(kind: str, _name: str) -> None:
            nonlocal head
            counts = cut.kind == kind or (cut.kind == "any" and kind != "synced")
            if counts and next(seen) == cut.number:
                file = audit.head_file(path)
                head = file.read_bytes() if file.exists() else b""
                kept.update(disk.after_cut(chance))
                disk.is_cut = True

        disk.on_step = step
        done, _ = asyncio.run(live(path, disk, synchronous))
        if not disk.is_cut:
            return done.count(), [], False
        for name in ("journal.sqlite3", "journal.sqlite3-wal", "journal.sqlite3-shm", "audit.head"):
            (path.parent / name).unlink(missing_ok=True)
        for name, image in kept.items():
            (path.parent / name).write_bytes(image)
        if head:
            audit.head_file(path).write_bytes(head)
        disk.vfs.unregister()
        return done.count(), asyncio.run(lost_after(path, done)), True


def steps_of_a_life() -> dict[str, int]:
    """Return how many steps of each kind an undisturbed life has, about."""
    counts = {"any": 0, "sync": 0, "synced": 0}
    with tempfile.TemporaryDirectory() as directory:
        disk = Disk()

        def step(kind: str, _name: str) -> None:
            counts["any"] += kind != "synced"
            if kind in counts:
                counts[kind] += 1

        disk.on_step = step
        done, failed = asyncio.run(live(Path(directory) / "journal.sqlite3", disk))
        assert not failed
        assert done.count() > 20
        disk.vfs.unregister()
    return counts


@dataclass
class Tally:
    """What a series of cuts came to."""

    cuts: int = 0
    rows: int = 0
    lost: int = 0
    hurt: int = 0  # cuts that lost anything
    first: str = ""

    def add(self, where: Cut, rows: int, lost: list[str]) -> None:
        self.cuts += 1
        self.rows += rows
        self.lost += len(lost)
        self.hurt += bool(lost)
        if lost and not self.first:
            self.first = f"{where}: {', '.join(lost[:5])}"

    def join(self, other: Tally) -> None:
        """Add another series."""
        self.cuts += other.cuts
        self.rows += other.rows
        self.lost += other.lost
        self.hurt += other.hurt
        self.first = self.first or other.first

    def __str__(self) -> str:
        text = f"{self.cuts} power cuts, {self.rows} acknowledged rows, {self.lost} lost in {self.hurt} cuts"
        return f"{text}; first: {self.first}" if self.first else text


def cuts(number: int, seed: int, synchronous: str = "FULL") -> Tally:
    """Cut before and after every sync, and at random steps until there were ``number`` cuts."""
    tally, chance = Tally(), random.Random(seed)
    with quick():
        life = steps_of_a_life()
        planned = [Cut(kind, n) for kind in ("sync", "synced") for n in range(1, life[kind] + 1)]
        chance.shuffle(planned)
        wanted = itertools.chain(
            planned[: number // 2],
            (Cut("any", chance.randint(1, life["any"])) for _ in itertools.count()),
        )
        for turn, where in enumerate(wanted):
            rows, lost, happened = cut_once(where, chance if turn % 2 else None, synchronous)
            if happened:
                tally.add(where, rows, lost)
            if tally.cuts >= number:
                return tally
    raise AssertionError


def main() -> int:
    """Run a long series; exit status 1 if anything acknowledged was lost."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--cuts", type=int, default=200)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--synchronous", default="FULL", choices=("FULL", "NORMAL", "OFF"))
    args = parser.parse_args()
    began, total, seed = time.monotonic(), Tally(), args.seed
    while total.cuts < args.cuts:
        total.join(cuts(min(250, args.cuts - total.cuts), seed, args.synchronous))
        seed += 1
        took = f"{time.monotonic() - began:.0f} s, seeds {args.seed} to {seed - 1}"
        print(f"{total} ({took}, synchronous={args.synchronous})", flush=True)  # noqa: T201 (its purpose)
    return 1 if total.lost else 0


if __name__ == "__main__":
    sys.exit(main())
