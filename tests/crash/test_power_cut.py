"""The power fails at random writes and around every sync: what the journal acknowledged is there (G3, F06)."""

from __future__ import annotations

import time
from decimal import Decimal
from pathlib import Path

import pytest

from engine import wiring
from engine.stores.journal import Journal
from tests.crash.power_cut import Disk, cuts, opener
from tests.world import World, alpaca, eventually, venue, world

CUTS = 200


def test_nothing_acknowledged_is_lost() -> None:
    tally = cuts(CUTS, seed=20_261_122)
    assert tally.cuts == CUTS
    assert tally.rows > 10 * CUTS
    assert not tally.lost, str(tally)


@pytest.mark.parametrize("synchronous", ["NORMAL", "OFF"])
def test_a_journal_that_does_not_sync_every_commit_is_caught(synchronous: str) -> None:
    tally = cuts(16, seed=7, synchronous=synchronous)
    assert tally.hurt >= 4, str(tally)


async def test_an_order_s_intent_is_on_the_platter_before_its_first_byte(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """F06: the sync of the WAL that holds an order's ClOrdID ended before its first byte was at the socket."""
    disk = Disk()
    synced: list[tuple[int, str, bytes]] = []
    disk.on_synced = lambda name, written: synced.append((time.monotonic_ns(), name, written))
    monkeypatch.setattr(
        wiring, "Journal", lambda path, *rest: Journal(path, *rest, opener=opener(disk))
    )
    async with venue() as sim:
        accounts = [alpaca(n, f"http://127.0.0.1:{sim.port}") for n in range(1, 6)]
        async with world(tmp_path, accounts, connected=5) as w:
            for number in range(4):
                await w.send(id=f"s-{number}")
            await eventually(lambda: sum(map(_is_filled, _orders(w))) == 20)
            for order in _orders(w):
                name = order.cl_ord_id.encode()
                durable = min(
                    at for at, file, data in synced if file.endswith("-wal") and name in data
                )
                assert 0 < durable < order.first_byte_ns
    disk.vfs.unregister()


def _orders(w: World) -> list:
    return [order for record in w.engine.records.values() for order in record.orders.values()]


def _is_filled(order: object) -> bool:
    return order.cum_qty > Decimal(0)
