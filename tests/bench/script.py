"""The script of a busy morning in a process of its own, as the engine is: the desk takes rows, it makes none."""

from __future__ import annotations

import multiprocessing
import time
from collections.abc import Iterator
from multiprocessing.connection import Connection
from typing import Any, Self

from tests.gui.scripted import ScriptedClient

EVERY_S = 0.012
Changes = dict[str, list[dict[str, Any]]]
Tables = dict[str, dict[str, dict[str, Any]]]


class _Keep:
    """Takes what the script tells."""

    changes: Changes

    def on_batch(self, changes: Changes, _removed: object) -> None:
        self.changes = changes


def _play(conn: Connection, tables: Tables, rate: int) -> None:
    client = ScriptedClient(accounts=0)
    client.tables = tables
    client.dirty = {}
    keep = client.listener = _Keep()
    conn.send(None)  # ready
    begun, made = time.perf_counter(), 0
    while not conn.poll(EVERY_S):  # anything that is said ends it
        due = int((time.perf_counter() - begun) * rate) - made
        client.step(due)
        client.flush()
        made += due
        try:
            conn.send((due, keep.changes))
        except OSError:
            return  # the bench is gone


class Script:
    """Rows that change at ``rate`` a second, from the state that ``client`` has now; ``news`` returns what came.

    ``made``: changes so far; the newest of each row is told, as the feed does it.
    """

    def __init__(self, client: ScriptedClient, rate: int) -> None:
        context = multiprocessing.get_context("spawn")
        self._conn, theirs = context.Pipe()
        self._process = context.Process(
            target=_play, args=(theirs, client.tables, rate), daemon=True
        )
        self.made = 0
        self._process.start()
        theirs.close()
        self._conn.recv()

    def news(self) -> Iterator[Changes]:
        """Return the batches that wait."""
        while self._conn.poll():
            made, changes = self._conn.recv()
            self.made += made
            yield changes

    def close(self) -> None:
        """End it."""
        try:
            self._conn.send(None)
            while True:  # it may wait for room in the pipe
                self._conn.recv()
        except (EOFError, OSError):
            self._conn.close()
        self._process.join()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()
