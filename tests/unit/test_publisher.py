"""The feed: newest row per key, in slices, for readers of any speed."""

from __future__ import annotations

import asyncio

import pytest

from engine.publisher import Publisher


class Desk:
    """Two tables over plain dictionaries; counts the rows made."""

    def __init__(self) -> None:
        self.publisher = Publisher(lambda: "now")
        self.rows: dict[str, dict[str, int]] = {"orders": {}, "fills": {}}
        self.made = 0
        for table in self.rows:
            self.publisher.table(table, lambda t=table: list(self.rows[t]), self._maker(table))

    def _maker(self, table):
        def make(key):
            self.made += 1
            value = self.rows[table].get(key)
            return None if value is None else {"key": key, "value": value}

        return make

    def put(self, table: str, key: str, value: int | None) -> None:
        if value is None:
            self.rows[table].pop(key, None)
        else:
            self.rows[table][key] = value
        self.publisher.touch(table, key)


class Reader:
    """What a client makes of the feed."""

    def __init__(self, desk: Desk) -> None:
        self.subscription = desk.publisher.subscribe()
        self.seq = 0
        snapshot = self.subscription.snapshot()
        assert (snapshot["type"], snapshot["seq"], snapshot["at"]) == ("snapshot", 0, "now")
        self.tables = {
            table: {row["key"]: row["value"] for row in rows}
            for table, rows in snapshot["tables"].items()
        }

    def take(self, most: int = 2000) -> int:
        """Take one batch; return how many keys it spoke of."""
        batch = self.subscription.take(most)
        if batch is None:
            return 0
        self.seq += 1
        assert (batch["type"], batch["seq"], batch["at"]) == ("batch", self.seq, "now")
        count = 0
        for table, rows in batch["changes"].items():
            for row in rows:
                self.tables[table][row["key"]] = row["value"]
                count += 1
        for table, keys in batch.get("removed", {}).items():
            for key in keys:
                self.tables[table].pop(key, None)
                count += 1
        return count


def test_a_snapshot_holds_every_table_empty_ones_too():
    desk = Desk()
    desk.put("orders", "a", 1)
    assert Reader(desk).tables == {"orders": {"a": 1}, "fills": {}}


def test_a_thousand_changes_of_one_row_cost_one_row():
    desk = Desk()
    reader = Reader(desk)
    for value in range(1000):
        desk.put("orders", "a", value)
    assert desk.made == 0
    assert reader.take() == 1
    assert desk.made == 1
    assert reader.tables["orders"] == {"a": 999}
    assert reader.take() == 0


def test_changes_come_in_slices_and_none_is_lost():
    desk = Desk()
    reader = Reader(desk)
    for number in range(25):
        desk.put("orders", f"o{number}", number)
        desk.put("fills", f"f{number}", number)
    assert [reader.take(most=10) for _ in range(7)] == [10, 10, 10, 10, 10, 0, 0]
    assert reader.tables == desk.rows


def test_removed_rows_are_told_by_key_and_what_came_back_is_a_row():
    desk = Desk()
    desk.put("orders", "a", 1)
    desk.put("orders", "b", 2)
    reader = Reader(desk)
    desk.put("orders", "a", None)
    desk.put("orders", "b", None)
    desk.put("orders", "b", 3)
    batch = reader.subscription.take()
    assert batch["removed"] == {"orders": ["a"]}
    assert batch["changes"] == {"orders": [{"key": "b", "value": 3}]}
    desk.put("orders", "b", 4)
    assert "removed" not in reader.subscription.take()


def test_readers_of_any_speed_end_with_the_same_tables():
    desk = Desk()
    fast, slow, late = Reader(desk), Reader(desk), None
    for number in range(300):
        desk.put("orders", f"o{number % 40}", number)
        desk.put("fills", f"f{number}", number if number % 3 else None)
        fast.take()
        if number % 50 == 0:
            slow.take(most=5)
        if number == 200:
            late = Reader(desk)
    for reader in (fast, slow, late):
        while reader.take(most=7):
            pass
        assert reader.tables == desk.rows


def test_a_new_snapshot_starts_the_numbers_anew_and_forgets_what_was_pending():
    desk = Desk()
    reader = Reader(desk)
    desk.put("orders", "a", 1)
    assert reader.take() == 1
    desk.put("orders", "a", 2)
    assert reader.subscription.snapshot()["seq"] == 0
    assert reader.subscription.take() is None
    desk.put("orders", "a", 3)
    assert reader.subscription.take()["seq"] == 1


async def test_a_reader_sleeps_until_there_is_something_and_wakes_until_it_has_all():
    desk = Desk()
    reader = Reader(desk)
    waiting = asyncio.create_task(reader.subscription.changed())
    await asyncio.sleep(0)
    assert not waiting.done()
    for number in range(3):
        desk.put("orders", f"o{number}", number)
    await asyncio.wait_for(waiting, 1)
    assert reader.take(most=2) == 2
    await asyncio.wait_for(reader.subscription.changed(), 1)  # one is left
    assert reader.take(most=2) == 1
    with pytest.raises(TimeoutError):
        await asyncio.wait_for(reader.subscription.changed(), 0.01)


def test_a_closed_reader_is_told_nothing_more():
    desk = Desk()
    reader, other = Reader(desk), Reader(desk)
    reader.subscription.close()
    reader.subscription.close()
    desk.put("orders", "a", 1)
    assert reader.take() == 0
    assert other.take() == 1
