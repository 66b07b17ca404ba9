"""The table ``unknown``, looking an order up once more, and closing a quantity: each against a venue."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest

from engine.model import commands as c
from engine.model import tables
from engine.model.enums import OrderStatus
from engine.operators import PERMISSIONS, Role
from engine.simbroker import SimBroker
from tests.world import World, alpaca, eventually, venue, world

SILENT = {"action": "http_500", "match": {"path": "/v2/orders:by_client_order_id"}, "times": 0}
LOST = {"action": "drop", "match": {"method": "POST"}, "times": 0}


@pytest.fixture
async def sim() -> AsyncIterator[SimBroker]:
    async with venue() as made:
        yield made


def url(sim: SimBroker) -> str:
    return f"http://127.0.0.1:{sim.port}"


async def lose(w: World, sim: SimBroker) -> str:
    """Let an order go out that the venue never gets, while it cannot be asked; return its id."""
    sim.faults.replace([LOST, SILENT])
    await w.post(valid_for_s=0.5)
    order = next(iter(w.engine.records["bot/s-1"].orders.values()))
    await eventually(lambda: order.status is OrderStatus.UNKNOWN)
    return order.cl_ord_id


async def test_what_is_known_of_an_unknown_order_is_told_while_it_is_unknown(
    tmp_path, sim: SimBroker
) -> None:
    async with world(tmp_path, [alpaca(1, url(sim))]) as w:
        publisher = w.engine.publisher
        reader = publisher.subscribe()
        assert reader.snapshot()["tables"][tables.UNKNOWN] == []
        key = await lose(w, sim)
        seen: dict[str, dict] = {}
        gone: list[str] = []

        def listen() -> None:
            batch = reader.take() or {}
            seen.update(
                {r["cl_ord_id"]: r for r in batch.get("changes", {}).get(tables.UNKNOWN, ())}
            )
            gone.extend(batch.get("removed", {}).get(tables.UNKNOWN, ()))

        def looked_up() -> bool:
            listen()
            return seen.get(key, {}).get("looks", 0) >= 1

        await eventually(looked_up, what="its look-ups are told")
        row = seen[key]
        assert set(row) == set(tables.COLUMNS[tables.UNKNOWN])
        assert (row["account"], row["symbol"], row["status"]) == ("A-001", "AAPL", "unknown")
        assert (row["promise"], row["may_resend"]) == ("D", True)
        assert row["sent"] in {"all", "part"}
        assert row["created_at"] <= row["sent_at"] <= row["looked_at"]
        assert row["said"].startswith("looking it up failed")
        await w.command("resolve_unknown", cl_ord_id=key, exists=False)

        def is_gone() -> bool:
            listen()
            return key in gone

        await eventually(is_gone, what="it leaves the table")
        assert publisher.rows(tables.UNKNOWN) == []
        assert w.engine.reconciler.looks == {}
        reader.close()


async def test_the_orders_of_a_scope_are_cancelled_and_positions_stay(
    tmp_path, sim: SimBroker
) -> None:
    async with world(tmp_path, [alpaca(n, url(sim)) for n in (1, 2)]) as w:
        await w.send()
        await eventually(lambda: w.position("A-001") == w.position("A-002") == 1)
        detail = await w.send(id="rest", order_type="limit", limit_price="185")
        first, second = w.order(detail, "A-001"), w.order(detail, "A-002")
        await eventually(lambda: first.status is second.status is OrderStatus.NEW)
        answer = await w.command("cancel_orders", scope="account:A-001")
        assert (answer["cancels"], answer["of"]) == (1, 2)
        await eventually(lambda: first.status is OrderStatus.CANCELED)
        assert second.status is OrderStatus.NEW
        assert (await w.command("cancel_orders", scope="symbol:NONE"))["cancels"] == 0
        assert (await w.command("cancel_orders", scope="strategy:breakout"))["cancels"] == 1
        await eventually(lambda: second.status is OrderStatus.CANCELED)
        assert w.position("A-001") == w.position("A-002") == 1
        assert w.engine.states.get("account:A-001") is None, "nothing is latched"


async def test_looking_up_takes_what_the_broker_says(tmp_path, sim: SimBroker) -> None:
    async with world(tmp_path, [alpaca(1, url(sim))]) as w:
        key = await lose(w, sim)
        assert await w.refused("look_up", cl_ord_id=key) == (409, "NOT_PROVEN")
        before = w.engine.reconciler.looks[key].count
        sim.faults.replace([LOST])
        answer = await w.command("look_up", cl_ord_id=key)
        assert answer == {"result": "not_found", "status": "unknown", "cl_ord_id": key}
        assert w.engine.orders.orders[key].status is OrderStatus.UNKNOWN, (
            "not found once is no proof"
        )
        assert w.engine.reconciler.looks[key].count > before
        await w.command("resolve_unknown", cl_ord_id=key, exists=False)
        assert await w.refused("look_up", cl_ord_id=key) == (409, "NOT_UNKNOWN")
        assert await w.refused("look_up", cl_ord_id="A" * 20) == (404, "NOT_FOUND")


async def test_looking_up_finds_what_was_taken_in(tmp_path, sim: SimBroker) -> None:
    async with world(tmp_path, [alpaca(1, url(sim))]) as w:
        sim.faults.replace(
            [
                {"action": "accept_then_drop", "match": {"method": "POST"}},
                SILENT,
                {"action": "drop", "match": {"path": "/stream"}, "times": 0},
            ]
        )
        for stream in sim.dialect.streams():
            stream.abort()
        await eventually(lambda: w.engine.fleet.states["A-001"].connection.value == "degraded")
        await w.post()
        order = w.engine.records["bot/s-1"].orders["A-001"]
        await eventually(lambda: order.status is OrderStatus.UNKNOWN)
        sim.faults.replace([{"action": "drop", "match": {"path": "/stream"}, "times": 0}])
        answer = await w.command("look_up", cl_ord_id=order.cl_ord_id)
        assert answer["result"] == "found"
        assert answer["status"] != "unknown"
        await eventually(lambda: w.position("A-001") == 1)


async def test_close_a_quantity(tmp_path, sim: SimBroker) -> None:
    sizing = {"method": "fixed", "quantity": "10"}
    async with world(tmp_path, [alpaca(1, url(sim), sizing=sizing)]) as w:
        await w.send()
        await eventually(lambda: w.position("A-001") == 10)
        given = {"account": "A-001", "symbol": "AAPL"}
        assert (await w.command("close_position", **given, quantity="3"))["order_qty"] == "3"
        await eventually(lambda: w.position("A-001") == 7)
        assert await w.refused("close_position", **given, quantity="8") == (409, "MORE_THAN_HELD")
        assert await w.refused("close_position", **given, quantity="0.1") == (409, "NO_POSITION")
        both = {"quantity": "2", "fraction": "0.5"}
        assert await w.refused("close_position", **given, **both) == (422, "INVALID_COMMAND")
        assert (await w.command("close_position", **given, quantity="7"))["order_qty"] == "7"
        await eventually(lambda: w.position("A-001") == 0)
        assert await w.refused("close_position", **given, quantity="1") == (409, "NO_POSITION")
        assert sim.venue.accounts["KEY001"].money.positions["AAPL"].qty == 0


def test_looking_up_takes_a_trader_and_no_more() -> None:
    assert PERMISSIONS[c.LookUp] is Role.TRADE
