"""The feed: newest row per key, conflated, for any number of readers of any speed.

Producers only note *that* a row changed (a set insertion); rows are made when a reader takes them, so a burst of
changes to one order costs one row, and a slow reader costs a bounded set of keys, never a queue.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable
from typing import Any

Row = dict[str, Any]
RowMaker = Callable[[str], Row | None]
TableKeys = Callable[[], Iterable[str]]


class Subscription:
    """One reader's view: what changed since it last asked."""

    def __init__(self, publisher: Publisher) -> None:
        self._publisher = publisher
        self._wake = asyncio.Event()
        self._dirty: dict[str, dict[str, None]] = {}
        self._seq = 0

    def touch(self, table: str, key: str) -> None:
        """Note a change; called by the publisher."""
        keys = self._dirty.get(table)
        if keys is None:
            keys = self._dirty[table] = {}
        keys[key] = None
        self._wake.set()

    async def changed(self) -> None:
        """Wait until there is something to take."""
        await self._wake.wait()

    def snapshot(self) -> dict[str, Any]:
        """Return everything as it is now, and forget what was pending."""
        self._dirty.clear()
        self._wake.clear()
        self._seq = 0
        return {
            "type": "snapshot",
            "seq": 0,
            "at": self._publisher.stamp(),
            "tables": self._publisher.tables(),
        }

    def take(self, most: int = 2000) -> dict[str, Any] | None:
        """Return the next batch of at most ``most`` rows, or ``None`` when nothing changed."""
        changes: dict[str, list[Row]] = {}
        removed: dict[str, list[str]] = {}
        left = most
        for table in list(self._dirty):
            keys = self._dirty[table]
            make = self._publisher.makers[table]
            while keys and left:
                key = next(iter(keys))
                del keys[key]
                left -= 1
                row = make(key)
                if row is None:
                    removed.setdefault(table, []).append(key)
                else:
                    changes.setdefault(table, []).append(row)
            if not keys:
                del self._dirty[table]
            if not left:
                break
        if not self._dirty:
            self._wake.clear()
        if not changes and not removed:
            return None
        self._seq += 1
        batch: dict[str, Any] = {
            "type": "batch",
            "seq": self._seq,
            "at": self._publisher.stamp(),
            "changes": changes,
        }
        if removed:
            batch["removed"] = removed
        return batch

    def close(self) -> None:
        """Stop listening."""
        self._publisher.forget(self)


class Publisher:
    """Knows how to make the rows of every table and who wants them."""

    def __init__(self, stamp: Callable[[], str]) -> None:
        self.stamp = stamp
        self.makers: dict[str, RowMaker] = {}
        self._keys: dict[str, TableKeys] = {}
        self._readers: list[Subscription] = []

    def table(self, name: str, keys: TableKeys, make: RowMaker) -> None:
        """Declare a table: how to list its keys and how to make the row of one."""
        self.makers[name] = make
        self._keys[name] = keys

    def touch(self, table: str, key: str) -> None:
        """Note that a row changed. Cheap with no readers, a set insertion with one."""
        for reader in self._readers:
            reader.touch(table, key)

    def tables(self) -> dict[str, list[Row]]:
        """Return every row of every table."""
        return {name: self.rows(name) for name in self.makers}

    def keys(self, table: str) -> list[str]:
        """Return the keys of one table."""
        return list(self._keys[table]())

    def rows(self, table: str) -> list[Row]:
        """Return the rows of one table."""
        make = self.makers[table]
        return [row for key in self._keys[table]() if (row := make(key)) is not None]

    def subscribe(self) -> Subscription:
        """Add a reader."""
        subscription = Subscription(self)
        self._readers.append(subscription)
        return subscription

    def forget(self, subscription: Subscription) -> None:
        """Remove a reader."""
        if subscription in self._readers:
            self._readers.remove(subscription)
