"""What stands whatever becomes of the engine: ``HOME/latch``, a small file that every process of a home maps.

A kill switch pressed outside the engine (``main.py kill``, the watchdog) writes here first and durably. The engine
reads one word of it before each order's first byte: hung or stopped, and then moving again, it sends nothing more.
Halts are kept here beside the journal's rows; a scope is halted if either says so, and only ``rearm`` lifts both.

The file is 64 sectors of 512 bytes. Sector 0 holds words; every other one holds at most one record, a JSON object
behind its checksum and length, so that a write cut short damages one record, which then counts as a halt of
everything. Those who write records take turns, but nobody waits long: who has the turn may hang.

Only the standard library is used: the watchdog's process must be small and start at once.
"""

from __future__ import annotations

import contextlib
import json
import mmap
import os
import secrets
import struct
import sys
import time
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

from engine.file_lock import try_lock, unlock

FILE: Final = "latch"
FIRM: Final = "all"
CLOSED_OUTSIDE: Final = "positions were closed outside the engine; close what is left one by one"
"""What is said where the engine leaves positions to another process: its book does not know what that has closed."""
SECTOR: Final = 512
SECTORS: Final = 64
SIZE: Final = SECTOR * SECTORS
MAGIC: Final = int.from_bytes(b"volley\x00\x01", "little")

GENERATION: Final = 1
"""Word that differs after every press outside the engine."""
BEATS: Final = 2
"""Word the engine's loop raises for as long as it moves."""
STATE: Final = 3
"""Word: 0 nobody beats, 1 the engine runs, 2 it is stopping."""
STALLED_MS: Final = 4
"""Word in which the watchdog notes how long the engine has stood still; the engine takes it away."""
PRESSED_NS: Final = 5
"""Word: ``time.monotonic_ns`` of the last press outside the engine (one clock for all processes of a machine)."""
SEEN: Final = 6
"""Word: the press the engine has put in force."""
CARRIED: Final = 7
"""Word: the press whose cancels the engine has handed to its wires."""
TAKEN: Final = 8
"""Word: the press that a process beside the engine carries out."""
READY_NS: Final = 9
"""Word: ``time.monotonic_ns`` of the watchdog's last look, if it can cancel by itself; 0: it cannot."""

KEPT: Final = 10
"""Word: how many accounts the watchdog has connected, as of a few seconds ago."""
SWEPT_NS: Final = 11
"""Word: ``time.monotonic_ns`` until which a cancel of all may still come to a broker."""
EXITS_NS: Final = 12
"""Word: ``time.monotonic_ns`` since when exits of a kill are sent: no cancel of all may leave beside them."""
SWEEP_NS: Final = 5_000_000_000
"""How long a cancel of all may be on its way: the wait for its connection, then for its answer."""
RUNNING: Final = 1
"""``STATE`` of an engine that beats."""
READY_WITHIN_NS: Final = 1_000_000_000
"""A watchdog that has not looked for so long is not ready."""

_ENGINE_SECTOR: Final = 1
_FIRM_SECTOR: Final = 2
_FIRST_SECTOR: Final = 3
_HEAD: Final = struct.Struct("<IH")
_MOST: Final = SECTOR - _HEAD.size
_PATIENCE_S: Final = 0.05
_DAMAGED: Final = "a record of the latch file is damaged"

Record = dict[str, Any]


class KillLatch:
    """The mapped file. ``words`` are its first sector's; everything written is seen by all processes at once.

    ``seen``: the generation its owner has acted on.

    Raises:
        OSError: the file can neither be opened nor made.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._file = _open(path)
        try:
            self._memory = mmap.mmap(self._file, SIZE)
        except BaseException:
            os.close(self._file)
            raise
        self._sectors = memoryview(self._memory)
        self.words = self._sectors[:SECTOR].cast("Q")
        self.seen = 0
        self._sweeps = 0  # asked for here and not answered
        self._swept_ns = self._doubtful_until = 0
        if self.words[0] != MAGIC:  # not ours, or overwritten
            self._sectors[:] = bytes(SIZE)
            self.words[0] = MAGIC
            self._put(_FIRM_SECTOR, _damaged())
            self.press()

    def close(self) -> None:
        """Unmap; what was written stays."""
        self.words.release()
        self._sectors.release()
        self._memory.close()
        os.close(self._file)

    def sync(self) -> None:
        """Make everything written durable; blocks for as long as the disk takes.

        Raises:
            OSError: it could not be.
        """
        if sys.platform == "linux":  # one page cache, and no wait for the file's time stamps
            os.fdatasync(self._file)
        else:
            self._memory.flush()
            os.fsync(self._file)

    def watchdog_ready(self) -> bool:
        """Say whether a watchdog stands by that cancels what is pressed now, should the engine not."""
        # A mark from before the machine was started again may lie ahead of this clock.
        return 0 <= time.monotonic_ns() - self.words[READY_NS] < READY_WITHIN_NS

    # ---- exits beside a cancel of all ----------------------------------------------------------------------------

    def begin_sweep(self, pressed_ns: int | None = None) -> bool:
        """Announce a cancel of all; say whether it may leave: not once positions are closed since that press.

        Without a press it may: whoever asks has looked for exits after this.
        """
        # Another process's, or one that is not proven.
        if self.words[SWEPT_NS] != self._swept_ns and self.sweep_left_s():
            self._doubtful_until = max(self._doubtful_until, self.words[SWEPT_NS])
        # First said, then looked: of two at the same time at least one sees the other.
        self._sweeps += 1
        self._swept_ns = self.words[SWEPT_NS] = time.monotonic_ns() + SWEEP_NS
        exits_ns = self.words[EXITS_NS]
        now = time.monotonic_ns()
        if pressed_ns is None or not pressed_ns <= exits_ns <= now:
            return True  # ahead: of before the machine started
        self.end_sweep(proven=True)
        return False

    def end_sweep(self, *, proven: bool) -> None:
        """Note that one of them was answered; ``proven``: it cancels nothing new any more."""
        self._sweeps -= 1
        if not proven:
            self._doubtful_until = self.words[SWEPT_NS]
        if not self._sweeps and self.words[SWEPT_NS] == self._swept_ns:  # else another process's
            self.words[SWEPT_NS] = self._doubtful_until

    def begin_exits(self) -> None:
        """Announce that exits of a kill are to leave; they wait for ``sweep_left_s``."""
        self.words[EXITS_NS] = time.monotonic_ns()

    def sweep_left_s(self, *, own: bool = True) -> float:
        """Return how long a cancel of all that has left may still come to a broker, at most (seconds).

        ``own``: also those asked for here that wait for their answer. An account's exits wait for its own anyway.
        """
        until = self.words[SWEPT_NS]
        if not own and self._sweeps and until == self._swept_ns:
            until = self._doubtful_until
        left = until - time.monotonic_ns()
        return (
            left / 1e9 if 0 < left <= SWEEP_NS else 0.0
        )  # further ahead: of before the machine started

    # ---- halts -------------------------------------------------------------------------------------------------

    def press(self, *, taken: bool = False) -> int:
        """Make the engine look, before its next order, and the watchdog; return the press.

        ``taken``: whoever presses cancels by itself, the watchdog need not.
        """
        generation = secrets.randbits(63) | 1
        if taken:
            self.words[TAKEN] = generation
        self.words[PRESSED_NS] = time.monotonic_ns()
        self.words[GENERATION] = generation
        return generation

    def halts(self) -> list[Record]:
        """Return what is halted: ``scope``, ``reason``, ``by``, ``at``, and ``open`` while its cancels are not through.

        ``exits`` while positions are still to be closed; ``flat``: since when another process does, if one did.
        A damaged record counts as a halt of everything.
        """
        found = [self._get(sector) for sector in range(_FIRM_SECTOR, SECTORS)]
        return [record for record in found if record is not None]

    def halt(
        self,
        scope: str,
        reason: str,
        by: str,
        at: str,
        *,
        unfinished: bool = False,
        exits: bool = False,
    ) -> bool:
        """Halt a scope; in force at once, durable after ``sync``. A scope halted before keeps its ``at``.

        Where no room is left for one more scope, everything is halted. Say whether more is to be done than before.
        """
        with self._turn():  # or two that halt at once choose the same place
            sector, known = self._find(scope)
            record = {"scope": scope, "reason": reason, "by": by, "at": at, "open": unfinished}
            if known is not None:
                record["at"] = known["at"]
                record["open"] = unfinished or known["open"]
                record["flat"] = known.get("flat", "")
            before = (known["open"], known.get("exits", False)) if known else (False, False)
            record["exits"] = exits or before[1]
            if sector is None:
                sector, record["scope"] = _FIRM_SECTOR, FIRM
            self._put(sector, record)
            return before != (record["open"], record["exits"])

    def flattened(self, scope: str, at: str) -> None:
        """Note that another process closes positions of a halted scope from now (``at``): the engine's book does not
        know, and no exit made before may leave any more.
        """
        self._change(scope, flat=at, exits=True)

    def closed(self, scope: str) -> None:
        """Note that what was to be closed of a halted scope is through."""
        self._change(scope, exits=False)

    def finish(self, scope: str) -> None:
        """Note that nothing of a halted scope works any more."""
        self._change(scope, open=False)

    def _change(self, scope: str, **facts: bool | str) -> None:
        with self._turn():  # of two that note something at once none is lost
            sector, known = self._find(scope)
            if sector is not None and known is not None:
                self._put(sector, {**known, **facts})

    def lift(self, scope: str) -> None:
        """Halt a scope no longer; with everything, damaged records go, too: they halt everything."""
        sector, known = self._find(scope)
        if sector is not None and known is not None:
            self._write(sector, bytes(SECTOR))
        if scope == FIRM:
            for damaged in range(_FIRST_SECTOR, SECTORS):
                if self._get(damaged) == _damaged():
                    self._write(damaged, bytes(SECTOR))

    def of(self, scope: str) -> Record | None:
        """Return a scope's record."""
        return self._find(scope)[1]

    def flat(self) -> list[Record]:
        """Return the halts whose positions another process closes, or has closed since."""
        return [record for record in self.halts() if record.get("flat")]

    def stands(self, scope: str) -> bool:
        """Say whether a scope is halted, by its own record or with everything."""
        return any(record["scope"] in {scope, FIRM} for record in self.halts())

    # ---- the engine's own --------------------------------------------------------------------------------------

    def engine(self) -> Record:
        """Return what the newest engine wrote of itself, empty if none did."""
        try:
            return self._get(_ENGINE_SECTOR) or {}
        except ValueError:
            return {}

    def name_engine(self, **facts: Any) -> None:
        """Write what another process needs to know of the engine."""
        self._put(_ENGINE_SECTOR, facts)

    @contextlib.contextmanager
    def _turn(self) -> Iterator[None]:
        """Write alone, unless whoever writes takes too long about it."""
        deadline = time.monotonic() + _PATIENCE_S
        while not (mine := try_lock(self._file)) and time.monotonic() < deadline:
            time.sleep(0.0005)
        try:
            yield
        finally:
            if mine:
                unlock(self._file)

    # ---- sectors -----------------------------------------------------------------------------------------------

    def _find(self, scope: str) -> tuple[int | None, Record | None]:
        """Return a scope's sector and record; without one, a sector to use and nothing."""
        if scope == FIRM:
            return _FIRM_SECTOR, self._get(_FIRM_SECTOR)
        free: int | None = None
        for sector in range(_FIRST_SECTOR, SECTORS):
            record = self._get(sector)
            if record is None:
                free = sector if free is None else free
            elif record["scope"] == scope:
                return sector, record
        return free, None

    def _get(self, sector: int) -> Record | None:
        raw = bytes(self._sectors[sector * SECTOR : (sector + 1) * SECTOR])
        checksum, size = _HEAD.unpack_from(raw)
        if not checksum and not size:
            return None
        text = raw[_HEAD.size : _HEAD.size + size]
        if sector == _ENGINE_SECTOR and zlib.crc32(text) != checksum:
            return None
        if zlib.crc32(text) != checksum:
            return _damaged()
        record: Record = json.loads(text)
        return record

    def _put(self, sector: int, record: Record) -> None:
        text = json.dumps(record).encode("ascii")
        while len(text) > _MOST:  # the reason is the only long one
            reason = str(record.get("reason", ""))
            if not reason:
                raise ValueError(f"{sorted(record)}: too long for a record of {self.path}")
            record = {**record, "reason": reason[: len(reason) // 2]}
            text = json.dumps(record).encode("ascii")
        self._write(sector, (_HEAD.pack(zlib.crc32(text), len(text)) + text).ljust(SECTOR, b"\0"))

    def _write(self, sector: int, content: bytes) -> None:
        self._sectors[sector * SECTOR : (sector + 1) * SECTOR] = content


def _damaged() -> Record:
    return {"scope": FIRM, "reason": _DAMAGED, "by": "latch file", "at": "", "open": False}


def _open(path: Path) -> int:
    """Open the file, made whole first where there is none; one of the wrong size is put aside, and all is halted."""
    flags = os.O_RDWR | getattr(os, "O_BINARY", 0) | getattr(os, "O_CLOEXEC", 0)
    damaged = False
    for _ in range(3):
        try:
            file = os.open(path, flags)
        except FileNotFoundError:
            _make(path, damaged)
            continue
        if os.fstat(file).st_size == SIZE:
            return file
        os.close(file)
        os.replace(path, path.with_name(f"{path.name}.damaged"))
        damaged = True
    raise OSError(f"{path} cannot be made")


def _make(path: Path, damaged: bool) -> None:
    """Make the file under its name in one step; another process may do the same."""
    words = struct.pack("<Q", 0 if damaged else MAGIC)  # a wrong mark halts everything
    draft = path.with_name(f".{path.name}.{secrets.token_hex(8)}")
    with open(os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as file:
        file.write(words.ljust(SIZE, b"\0"))
        file.flush()
        os.fsync(file.fileno())
    place = os.link if os.name == "posix" else os.rename
    try:
        with contextlib.suppress(FileExistsError):
            place(draft, path)  # never over a file that another process maps
    except OSError:  # a file system without links
        os.replace(draft, path)
    draft.unlink(missing_ok=True)
