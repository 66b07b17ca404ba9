"""The journal's file and its thread, simulated: the real SQL in the real transactions, on a disk that outlives engines.

What a commit has returned for is durable; what is queued when the process dies is gone. The work runs on the world's
time instead of a thread: everything queued when the disk becomes free is one transaction, as in the real thread.
"""

from __future__ import annotations

import asyncio
import sqlite3
from pathlib import Path
from typing import Any

from engine.clock import Clock
from engine.stores import audit
from engine.stores.journal import Journal
from engine.stores.journal_opening import Opening
from engine.stores.journal_schema import make_or_migrate
from engine.stores.journal_thread import Job, JournalThread
from tests.simulation.world import SECOND, World

MOST_AT_ONCE = 64

# Terminal states never change (I6); only what was proven absent may be sent once more (the command resend).
_WATCH = """
CREATE TEMP TABLE undone (text TEXT);
CREATE TEMP TRIGGER terminal_stays AFTER UPDATE OF status ON main.orders
WHEN OLD.status IN ('filled', 'canceled', 'replaced', 'rejected', 'denied', 'expired')
 AND NEW.status IS NOT OLD.status AND NOT (OLD.status = 'expired' AND OLD.code = 'ABSENT')
BEGIN INSERT INTO undone VALUES (OLD.cl_ord_id || ' was ' || OLD.status || ' and became ' || NEW.status); END;
CREATE TEMP TRIGGER fills_never_shrink AFTER UPDATE OF cum_qty ON main.orders
WHEN CAST(NEW.cum_qty AS REAL) < CAST(OLD.cum_qty AS REAL)
BEGIN INSERT INTO undone VALUES (OLD.cl_ord_id || ' had filled ' || OLD.cum_qty || ', then ' || NEW.cum_qty); END;
"""


_NO_STATE = {"halts": ("at",), "signals": ("settled",)}
"""Columns that say when a row was written, or only spare the next recovery a look."""


class Disk:
    """The journal's file: a connection that no crash touches."""

    def __init__(self, world: World) -> None:
        self.world = world
        self.connection = sqlite3.connect(":memory:", isolation_level=None)
        self.connection.row_factory = sqlite3.Row
        book = world.rng("book")
        self.connection.create_function("randomblob", 1, book.randbytes)
        self.commits = 0
        self._watched = False

    def take_over(self, at: str) -> Opening:
        """Make or migrate the tables and begin an epoch, in one transaction."""
        opening = Opening()
        make_or_migrate(self.connection, lambda: self._begin_epoch(opening, at))
        if not self._watched:
            self._watched = True
            self.connection.executescript(_WATCH)
        return opening

    def _begin_epoch(self, opening: Opening, at: str) -> None:
        """Do what ``journal_opening`` does of it that concerns no real file."""
        meta = {row["key"]: row["value"] for row in self.rows("SELECT key, value FROM meta")}
        opening.book = meta["book"]
        opening.epoch = int(meta.get("epoch", "0")) + 1
        self.connection.execute(
            "INSERT OR REPLACE INTO meta VALUES ('epoch', ?)", (str(opening.epoch),)
        )
        head = audit.read_head(self.connection, opening.book)
        entry = (at, "open", "", {"epoch": opening.epoch})
        opening.head = audit.append(self.connection, head, [entry])

    def rows(self, query: str, *values: object) -> list[sqlite3.Row]:
        """Read what is durable."""
        return self.connection.execute(query, values).fetchall()

    def dump(self, *tables: str) -> dict[str, list[tuple[Any, ...]]]:
        """Return the rows of tables, in the order of their first columns, without when they were last written."""
        return {table: self._rows_of(table) for table in tables}

    def _rows_of(self, table: str) -> list[tuple[Any, ...]]:
        stamps = {"updated_at", *_NO_STATE.get(table, ())}
        rows = self.rows(f"SELECT * FROM {table} ORDER BY 1, 2")
        return [tuple(row[key] for key in row.keys() if key not in stamps) for row in rows]  # noqa: SIM118


class _Failing:
    """A connection whose next COMMIT fails, before or after it has taken effect."""

    def __init__(self, connection: sqlite3.Connection, durable: bool) -> None:
        self._connection = connection
        self._durable = durable

    def __getattr__(self, name: str) -> Any:
        return getattr(self._connection, name)

    def execute(self, sql: str, values: Any = ()) -> sqlite3.Cursor:
        if sql == "COMMIT":
            if self._durable:
                self._connection.execute(sql)
            raise sqlite3.OperationalError("disk I/O error")
        return self._connection.execute(sql, values)


class InlineThread(JournalThread):
    """The journal's thread without a thread: its transactions take place at the world's times."""

    def __init__(self, disk: Disk, loop: asyncio.AbstractEventLoop, deliver: Any) -> None:
        super().__init__(Path("simulated"), loop, deliver)
        self._disk = disk
        self._queue: list[Job] = []
        self._working = False
        self.dead = False

    async def start(self, at: str) -> Opening:
        """Open the file."""
        await asyncio.sleep(0.005)
        self._opening = self._disk.take_over(at)
        self._head = self._kept = self._opening.head
        return self._opening

    def put(self, job: Job) -> None:
        """Queue work."""
        if self.dead:
            return
        self._queue.append(job)
        if not self._working:
            self._begin()

    async def stop(self) -> None:
        """Do what is queued."""
        while self._queue or self._working:  # noqa: ASYNC110 (there is no time to wait for but simulated)
            await asyncio.sleep(0.001)
        self.dead = True

    @property
    def busy(self) -> bool:
        """Say whether a transaction is under way."""
        return self._working

    def _begin(self) -> None:
        world = self._disk.world
        self._working = True
        batch, self._queue = self._queue[:MOST_AT_ONCE], self._queue[MOST_AT_ONCE:]
        took_ns = 150_000 + world.rng("disk").randrange(200_000)
        if world.chance("disk-slow", 0.004):
            world.fault("commit_slow")
            took_ns += world.rng("disk").randrange(2 * SECOND)
        world.at(world.now_ns + took_ns, lambda: self._work_off(batch))

    def _work_off(self, batch: list[Job]) -> None:
        if self.dead:
            return
        world, connection = self._disk.world, self._disk.connection
        self._working = False
        writer: Any = connection
        if world.chance("disk-fails", 0.0006):
            durable = world.rng("disk").random() < 0.5
            world.fault("commit_failed_durable" if durable else "commit_failed")
            writer = _Failing(connection, durable)
        before = connection.total_changes
        self._transact(writer, batch)
        self._disk.commits += 1
        world.trace("commit", len(batch), connection.total_changes - before, self._broken or "")
        if self._queue:
            self._begin()


class SimJournal(Journal):
    """The real journal on a simulated disk."""

    def __init__(self, disk: Disk, clock: Clock) -> None:
        super().__init__(Path("simulated"), clock)
        self._disk = disk
        self.inline: InlineThread | None = None

    async def open(self) -> None:
        """Open the file on the simulated disk."""
        self._loop = asyncio.get_running_loop()
        self.inline = InlineThread(self._disk, self._loop, self._deliver)
        opening = await self.inline.start(self._now())
        self._thread = self.inline
        self.book, self.epoch, self.findings = opening.book, opening.epoch, opening.findings

    def kill(self) -> None:
        """Lose what is not durable, for ever."""
        if self.inline is not None:
            self.inline.dead = True
