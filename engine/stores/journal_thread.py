"""The journal's thread: the one writer of the file, which turns queued work into durable transactions."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import sqlite3
import threading
from collections.abc import Callable
from concurrent.futures import Future
from pathlib import Path
from queue import SimpleQueue
from typing import Any, Final, NamedTuple

from engine import failpoints
from engine.errors import StoreError
from engine.stores import audit, reserve
from engine.stores.audit_rows import Tell
from engine.stores.journal_opening import Checker, Opener, Opening, open_file, open_journal

log = logging.getLogger(__name__)

CHECKPOINT_EVERY_S = 2.0
WAL_MOST_BYTES: Final = 32 << 20
PAGE_BYTES: Final = 4096  # SQLite's own

Work = Callable[[sqlite3.Connection], Any]


class Job(NamedTuple):
    """What to do in a transaction, who waits for it, the audit rows queued before it and those of its outcome.

    ``closing``: still done after the disk was full, in the space of the reserve: it tells what became of orders that
    have left, and lets none leave.
    """

    work: Work
    future: asyncio.Future[Any] | None
    entries: list[audit.Entry]
    tell: Tell | None
    closing: bool


Results = list[tuple["asyncio.Future[Any]", Any, BaseException | None]]
Deliver = Callable[[Results, BaseException | None], None]


class JournalThread:
    """Owns the file from ``start`` to ``stop``. ``deliver`` is called on ``loop`` with what became of the work.

    After the first failure nothing is promised any more: the handle that failed an fsync is not asked again, since a
    second one may report success for pages the first has lost. A full disk is the exception: what was written is
    sound, and with the reserve given back the closing records still find room.
    """

    def __init__(
        self,
        path: Path,
        loop: asyncio.AbstractEventLoop,
        deliver: Deliver,
        opener: Opener = open_file,
    ) -> None:
        self._path = path
        self._open = opener
        self._loop = loop
        self._deliver = deliver
        self._work: SimpleQueue[Job | None] = SimpleQueue()
        self._opening = Opening()
        self._head = self._kept = audit.Head(0, b"")
        self._wal_is_long = False  # the checkpointer's word: what it folds in is written on at once
        self._broken: StoreError | None = None
        self._closing_only: StoreError | None = None
        self._thread = threading.Thread(target=self._run, name="journal", daemon=True)
        self._opened: Future[Opening] = Future()
        self._at = ""

    async def start(self, at: str) -> Opening:
        """Open the file (``at``: now); return whose it is.

        Raises:
            StoreError: it cannot be opened, or is of a newer version.
        """
        self._at = at
        self._thread.start()
        return await asyncio.wrap_future(self._opened)

    def put(self, job: Job) -> None:
        """Queue work; whatever is queued when the thread looks is one transaction."""
        self._work.put(job)

    async def stop(self) -> None:
        """Do what is queued and close the file."""
        self._work.put(None)
        await self._loop.run_in_executor(None, self._thread.join)

    def _run(self) -> None:
        try:
            connection, self._opening = open_journal(self._path, self._open, self._at)
        except Exception as error:  # noqa: BLE001 (whatever it is, the opener must hear of it)
            self._opened.set_exception(StoreError(f"journal {self._path}: {error}"))
            return
        self._head = self._opening.head
        checker = Checker(self._path, self._open, self._found) if self._opening.suspect else None
        self._opened.set_result(self._opening)
        stop_checkpoints = threading.Event()
        checkpointer = threading.Thread(
            target=self._checkpoint,
            args=(stop_checkpoints,),
            name="journal-checkpoint",
            daemon=True,
        )
        checkpointer.start()
        try:
            self._serve(connection)
        finally:
            if checker is not None:
                checker.stop()
            stop_checkpoints.set()
            checkpointer.join()
            self._keep_head()
            with contextlib.suppress(sqlite3.Error):  # the disk has failed: that was told
                connection.close()  # the last connection: SQLite folds the rest of the WAL in

    def _serve(self, connection: sqlite3.Connection) -> None:
        while (first := self._work.get()) is not None:
            batch = [first]
            stop = False
            while not self._work.empty() and len(batch) < 64:
                item = self._work.get()
                if item is None:
                    stop = True
                    break
                batch.append(item)
            self._transact(connection, batch)
            if self._wal_is_long and self._broken is None:
                self._fold(connection)
            if stop:
                break
        if self._broken is None and self._closing_only is None:
            with contextlib.suppress(sqlite3.Error):
                connection.execute("UPDATE meta SET value = '1' WHERE key = 'clean'")

    def _checkpoint(self, stop: threading.Event) -> None:
        """Fold the WAL into the file beside the writer: a passive checkpoint never makes a commit wait for it."""
        connection = None
        try:
            connection = self._open(self._path)
            while not stop.wait(CHECKPOINT_EVERY_S):
                if failpoints.ARMED:
                    failpoints.hit("journal.checkpoint.before")
                _, pages, _ = connection.execute("PRAGMA wal_checkpoint(PASSIVE)").fetchone()
                self._wal_is_long = pages * PAGE_BYTES > WAL_MOST_BYTES
                if failpoints.ARMED:
                    failpoints.hit("journal.checkpoint.after")
                self._keep_head()
        except (sqlite3.Error, OSError) as error:
            # The kernel may have forgotten pages of the WAL that no commit will hear of.
            self._found(f"a checkpoint failed: {error}")
        finally:
            if connection is not None:
                with contextlib.suppress(sqlite3.Error):
                    connection.close()

    def _fold(self, connection: sqlite3.Connection) -> None:
        """Fold in the last of a long WAL between two writes, so that the next one begins it anew.

        While writes follow each other without a pause, the checkpoints beside them never come to the last one.
        """
        self._wal_is_long = False
        try:
            connection.execute("PRAGMA wal_checkpoint(PASSIVE)").fetchone()
        except (sqlite3.Error, OSError) as error:
            self._found(f"a checkpoint failed: {error}")

    def _keep_head(self) -> None:
        """Write down beside the file how far the audit trail has come: never on the way of a commit."""
        head = self._head
        if head is self._kept or self._broken is not None:
            return
        try:
            audit.keep_head(self._path, self._opening.book, head)
        except OSError as error:
            log.warning("audit.head: %s", error)
        else:
            self._kept = head

    def _found(self, damage: str) -> None:
        """Take the news that the file or the disk is damaged: nothing more is promised."""
        self._broken = StoreError(f"journal: {damage}")
        self._tell([], self._broken)

    # ---- transactions ------------------------------------------------------------------------------------------

    def _transact(self, connection: sqlite3.Connection, batch: list[Job]) -> None:
        if self._closing_only is not None and self._broken is None:
            refused = [job for job in batch if not job.closing]
            self._tell(_failed(refused, self._closing_only), None)
            batch = [job for job in batch if job.closing]
        if self._broken is not None:
            self._tell(_failed(batch, self._broken), self._broken)
            return
        try:
            results = self._commit(connection, batch) if batch else []
        except Exception as error:  # noqa: BLE001 (any failure here means nothing of the batch is durable)
            with contextlib.suppress(sqlite3.Error):  # whatever it says, nothing of it is durable
                if connection.in_transaction:
                    connection.execute("ROLLBACK")
            self._fail(connection, batch, error)
        else:
            self._tell(results, None)

    def _fail(self, connection: sqlite3.Connection, batch: list[Job], error: Exception) -> None:
        failure = StoreError(f"journal: {error}")
        if reserve.is_full(error) and self._closing_only is None:
            self._closing_only = failure
            reserve.release(self._path.parent)
            self._tell(_failed([job for job in batch if not job.closing], failure), failure)
            self._transact(connection, [job for job in batch if job.closing])
            return
        self._broken = failure
        self._tell(_failed(batch, failure), failure)

    def _tell(self, results: Results, failure: BaseException | None) -> None:
        if results or failure:
            try:
                self._loop.call_soon_threadsafe(self._deliver, results, failure)
            except RuntimeError:  # the loop is closed: nobody is left to be told
                log.warning("journal result after the loop was closed")

    def _commit(self, connection: sqlite3.Connection, batch: list[Job]) -> Results:
        results: Results = []
        head = self._head
        connection.execute("BEGIN IMMEDIATE")
        self._check_epoch(connection)
        for work, future, entries, tell, _ in batch:
            outcome = work(connection)
            told = tell(outcome) if tell is not None else ()
            if entries or told:
                head = audit.append(connection, head, (*entries, *told))
            if future is not None:
                results.append((future, outcome, None))
        if failpoints.ARMED:
            failpoints.hit("journal.commit.before")
        connection.execute("COMMIT")
        self._head = head
        if failpoints.ARMED:
            failpoints.hit("journal.commit.after")
        return results

    def _check_epoch(self, connection: sqlite3.Connection) -> None:
        row = connection.execute("SELECT value FROM meta WHERE key = 'epoch'").fetchone()
        if row is None or row[0] != str(self._opening.epoch):
            found = row and row[0]
            raise StoreError(
                f"EPOCH: another engine writes this book (epoch {found}, ours {self._opening.epoch})"
            )


def _failed(batch: list[Job], failure: BaseException) -> Results:
    return [(job.future, None, failure) for job in batch if job.future is not None]
