"""What must hold when things go wrong: restarts, failed books, changed minds. Each was once broken."""

from __future__ import annotations

from collections.abc import AsyncIterator
from decimal import Decimal

import pytest_asyncio

import engine.trading_engine
from engine.model.enums import OrderStatus
from engine.simbroker import SimBroker
from engine.stores import journal_rows
from tests.processes import signal_document
from tests.world import alpaca, eventually, paper, venue, world

FAR = {"order_type": "limit", "limit_price": "185", "time_in_force": "gtc"}


@pytest_asyncio.fixture
async def sim() -> AsyncIterator[SimBroker]:
    async with venue() as made:
        yield made


def url(sim: SimBroker) -> str:
    return f"http://127.0.0.1:{sim.port}"


async def test_a_restart_leaves_alone_what_is_done(tmp_path, sim: SimBroker, monkeypatch) -> None:
    """More finished orders than are loaded: none comes back to life, no fill counts twice."""
    monkeypatch.setattr(journal_rows, "MOST_DONE", 3)
    async with world(tmp_path, [alpaca(1, url(sim)), alpaca(2, url(sim))]) as w:
        for number in range(5):
            await w.send(id=f"s-{number}")
        await eventually(lambda: not w.engine.orders.working())
        assert (w.position("A-001"), w.engine.counts["fills"]) == (5, 10)
    async with world(tmp_path) as w:
        assert not w.engine.orders.working()
        assert (w.position("A-001"), w.engine.counts["fills"]) == (5, 10)
        detail = await w.detail("bot/s-0")
        assert {row["status"] for row in detail["accounts"]} == {"filled"}
        again = await w.http.post("/v1/signals", json=signal_document(id="s-0"))
        assert again.status_code in {200, 409}
        assert not w.engine.orders.working()
    assert sim.venue.order_count == 10


async def test_repeating_an_old_signal_keeps_its_live_order(
    tmp_path, sim: SimBroker, monkeypatch
) -> None:
    monkeypatch.setattr(engine.trading_engine, "MOST_RECORDS", 2)
    async with world(tmp_path, [alpaca(1, url(sim))]) as w:
        document = signal_document(id="resting", **FAR)
        await w.http.post("/v1/signals", json=document)
        order = await eventually(lambda: next(iter(w.engine.orders.working()), None))
        await eventually(lambda: order.status is OrderStatus.NEW)
        for number in range(4):
            await w.send(id=f"s-{number}")
        w.engine.records.pop("bot/resting", None)
        again = await w.http.post("/v1/signals", json=document)
        assert (again.status_code, again.json()["state"]) == (200, "accepted")
        assert w.engine.orders.working() == [order]
        assert (await w.command("kill"))["cancels"] == 1
        await eventually(lambda: order.status is OrderStatus.CANCELED)
    assert sim.summary()["open_orders"] == 0


async def test_a_replacement_obeys_every_limit(tmp_path, sim: SimBroker) -> None:
    account = alpaca(1, url(sim), limits={"max_order_quantity": "5"})
    async with world(tmp_path, [account]) as w:
        await w.send(id="rest", **FAR)
        order = await eventually(lambda: next(iter(w.engine.orders.working()), None))
        await eventually(lambda: order.status is OrderStatus.NEW)
        change = {"cl_ord_id": order.cl_ord_id}
        assert await w.refused("replace_order", **change, order_qty="6") == (409, "QTY_MAX")
        assert await w.refused("replace_order", **change, limit_price="400") == (409, "COLLAR")
        assert await w.refused("replace_order", **change, limit_price="185.001") == (409, "TICK")
        await w.command("disarm")
        assert await w.refused("replace_order", **change, order_qty="2") == (409, "DISARMED")
        assert order.status is OrderStatus.NEW


async def test_a_partly_filled_order_is_not_replaced(tmp_path) -> None:
    async with venue(max_fill_qty=Decimal(4), tick_interval_s=600) as sim:
        account = alpaca(1, url(sim), sizing={"method": "fixed", "quantity": "10"})
        async with world(tmp_path, [account]) as w:
            await w.post(id="p", order_type="limit", limit_price="190")
            await eventually(lambda: w.position("A-001") == 4)
            order = w.engine.orders.working()[0]
            refused = await w.refused(
                "replace_order", cl_ord_id=order.cl_ord_id, limit_price="190.5"
            )
            assert refused == (409, "PARTIALLY_FILLED")


async def test_the_kill_switch_needs_no_books(tmp_path, sim: SimBroker) -> None:
    async with world(tmp_path, [alpaca(1, url(sim))]) as w:
        await w.send(id="rest", **FAR)
        order = await eventually(lambda: next(iter(w.engine.orders.working()), None))
        await eventually(lambda: order.status is OrderStatus.NEW)
        w.engine.journal.failed = "the disk is full"
        assert (await w.command("kill"))["cancels"] == 1
        await eventually(lambda: sim.summary()["open_orders"] == 0)
        assert w.engine.states.firm.value == "halted"


async def test_a_disarm_by_hand_outlives_a_restart(tmp_path, sim: SimBroker) -> None:
    async with world(tmp_path, [alpaca(1, url(sim))]) as w:
        await w.command("disarm", reason="over for today")
    async with world(tmp_path) as w:
        assert (await w.post()).json()["code"] == "DISARMED"


async def test_a_day_s_loss_outlives_a_restart(tmp_path) -> None:
    account = paper(
        1, limits={"max_daily_loss": "100"}, sizing={"method": "fixed", "quantity": "10"}
    )
    name = account["id"]
    async with world(tmp_path, [account], market={"source": "none"}) as w:
        await eventually(lambda: w.engine.fleet.states[name].day)
        w.engine.set_prices({"AAPL": Decimal(100)})
        await w.send(id="s-1")
        await eventually(lambda: w.position(name) == 10)
        w.engine.set_prices({"AAPL": Decimal(80)})
        await w.command("close_position", account=name, symbol="AAPL")
        await eventually(lambda: w.position(name) == 0)
    async with world(tmp_path, market={"source": "none"}) as w:
        await eventually(lambda: w.engine.fleet.states[name].day)
        w.engine.set_prices({"AAPL": Decimal(80)})
        assert (await w.post(id="s-2")).json()["code"] == "NO_ACCOUNTS"
        rows = (await w.detail("bot/s-2"))["accounts"]
        assert [row["code"] for row in rows] == ["DAILY_LOSS"]


async def test_queued_orders_of_an_account_switched_off_stay(tmp_path, sim: SimBroker) -> None:
    account = alpaca(1, url(sim), limits={"max_orders_per_second": 1})
    async with world(tmp_path, [account]) as w:
        for number in range(4):
            await w.post(id=f"s-{number}", valid_for_s=60)
        await eventually(lambda: sim.venue.order_count == 1)
        await w.command("set_account_active", account="A-001", active=False)
        orders = list(w.engine.orders.orders.values())
        await eventually(lambda: all(order.status.terminal for order in orders))
        denied = [order for order in orders if order.status is OrderStatus.DENIED]
        assert {order.code for order in denied} == {"INACTIVE"}
        assert sim.venue.order_count == 4 - len(denied)
        assert denied


async def test_a_second_kill_does_not_stop_the_first(tmp_path, sim: SimBroker) -> None:
    async with world(tmp_path, [alpaca(1, url(sim)), alpaca(2, url(sim))]) as w:
        await w.send(id="s-1")
        await eventually(lambda: w.position("A-001") == w.position("A-002") == 1)
        await w.command("kill", scope="account:A-001", flatten=True)
        await w.command("kill", scope="account:A-002", flatten=True)
        await eventually(lambda: w.position("A-001") == w.position("A-002") == 0)


async def test_a_kill_of_all_cancels_what_others_placed(tmp_path, sim: SimBroker) -> None:
    async with world(tmp_path, [alpaca(1, url(sim))]) as w:
        await w.send(id="s-1")
        account = alpaca(1, url(sim))["credentials"]
        answer = await w.http.post(
            f"{url(sim)}/v2/orders",
            json={
                "symbol": "AAPL", "qty": "1", "side": "buy", "type": "limit", "time_in_force": "gtc",
                "limit_price": "150", "client_order_id": "by-another-program",
            },
            headers={"APCA-API-KEY-ID": account["key_id"], "APCA-API-SECRET-KEY": account["secret"]},
        )  # fmt: skip
        assert answer.status_code == 200, answer.text
        assert sim.summary()["open_orders"] == 1
        await w.command("kill")
        await eventually(lambda: sim.summary()["open_orders"] == 0)


async def test_an_order_taken_after_it_was_proven_absent_is_told_and_cancelled(
    tmp_path, sim: SimBroker
) -> None:
    """F08: the broker took it later than its own settling time; it must not live on unseen."""
    engine_settings = {"reply_timeout_s": 0.3}
    async with world(tmp_path, [alpaca(1, url(sim))], engine=engine_settings) as w:
        sim.venue.market.pin("AAPL", Decimal(190))
        late = {"action": "late_accept", "delay_s": 5, "times": 1}
        sim.faults.replace([late | {"match": {"method": "POST", "path": "/v2/orders"}}])
        await w.post(id="late", valid_for_s=1, **FAR)
        order = await eventually(lambda: next(iter(w.engine.orders.working()), None))
        await eventually(lambda: order.status is OrderStatus.EXPIRED)
        assert order.code == "ABSENT"
        await eventually(lambda: sim.venue.order_count == 1)
        await eventually(lambda: [a for a in w.engine.alerts if a["code"] == "LATE_ACCEPT"])
        await eventually(lambda: sim.summary()["open_orders"] == 0)
        assert (order.status, order.code) == (OrderStatus.EXPIRED, "LATE_ACCEPT")
