"""Limits of a whole engine at a real venue: pauses obeyed, others untouched, cancels through, finishes foreseen."""

from __future__ import annotations

from collections.abc import AsyncIterator
from itertools import pairwise

import pytest

from engine.cli.status import screen
from engine.model.enums import OrderStatus
from engine.simbroker import SimBroker
from tests.world import alpaca, by_account, eventually, paper, venue, world

S = 1_000_000_000


@pytest.fixture
async def sim() -> AsyncIterator[SimBroker]:
    async with venue() as made:
        yield made


def url(sim: SimBroker) -> str:
    return f"http://127.0.0.1:{sim.port}"


def posts(sim: SimBroker, number: int) -> list:
    """Return the requests for new orders that an account's key has made."""
    key = f"KEY{number:03d}"
    return [row for row in sim.log.rows() if row.method == "POST" and row.key_id == key]


def placed(sim: SimBroker, number: int) -> list[str]:
    account = sim.venue.accounts.get(f"KEY{number:03d}")
    return [order.client_order_id for order in account.orders.values()] if account else []


# ---- 429 (F12)


@pytest.mark.parametrize("action", ["http_429", "accept_then_http_429"])
async def test_a_429_is_obeyed_by_its_account_and_by_no_other(tmp_path, sim, action) -> None:
    """Placed or not, it ends with one order; while the quiet lasts nothing of that account leaves."""
    async with world(tmp_path, [alpaca(n, url(sim)) for n in (1, 2)]) as w:
        sim.faults.replace(
            [
                {
                    "action": action,
                    "match": {"method": "POST", "account": "KEY001"},
                    "retry_after_s": 4,
                }
            ]
        )
        await w.post(id="s-1", valid_for_s=30)
        throttled = w.engine.dispatcher.lanes["A-001"]
        await eventually(lambda: throttled.paused_until_ns)
        row = next(r for r in await w.rows("accounts") if r["id"] == "A-001")
        assert row["paused_until"]
        assert row["rate_left"] == 0
        await w.post(id="s-2", valid_for_s=30)
        other = w.engine.records["bot/s-2"].orders["A-002"]
        await eventually(lambda: other.status is OrderStatus.FILLED)
        assert len(posts(sim, 2)) == 2
        assert len(posts(sim, 1)) == 1
        # While it is unknown whether the first order was taken, the account gets no second one.
        orders = [
            order
            for n in (1, 2)
            if (order := w.engine.records[f"bot/s-{n}"].orders.get("A-001")) is not None
        ]
        await eventually(lambda: all(o.status is OrderStatus.FILLED for o in orders), 20)
        assert placed(sim, 1) == [order.cl_ord_id for order in orders]
        times = [row.monotonic_ns for row in posts(sim, 1)]
        assert len(times) == (2 if action == "http_429" else len(orders))
        assert all(later - times[0] >= 4 * S for later in times[1:])
        row = next(r for r in await w.rows("accounts") if r["id"] == "A-001")
        if len(times) > 1:
            assert row["paused_until"] is None


async def test_what_the_broker_counts_is_what_is_left(tmp_path) -> None:
    """Somebody else uses the same key: the broker's word lowers ours, and never raises it."""
    async with venue(rate_limit=60) as sim, world(tmp_path, [alpaca(1, url(sim))]) as w:
        lane = w.engine.dispatcher.lanes["A-001"]
        before = lane.limit.left(w.engine.clock.monotonic_ns())
        await w.send(id="s-1")
        after = lane.limit.left(w.engine.clock.monotonic_ns())
        window = next(iter(sim.log.rows()))
        assert window.status == 200
        assert after < 60 <= before
        (row,) = await w.rows("accounts")
        assert row["rate_left"] == max(0, after - 60)  # sixty of two hundred are kept


# ---- cancels


async def test_cancels_leave_when_entries_and_exits_may_not(tmp_path, sim: SimBroker) -> None:
    slow = {"limits": {"max_orders_per_second": 2}}
    async with world(tmp_path, [alpaca(1, url(sim), **slow)]) as w:
        ids = []
        for number in range(3):
            await w.post(id=f"s-{number}", order_type="limit", limit_price="185", valid_for_s=20)
            order = w.engine.records[f"bot/s-{number}"].orders["A-001"]
            await eventually(lambda order=order: order.status is OrderStatus.NEW)
            ids.append(order.cl_ord_id)
        await w.post(id="s-3", order_type="limit", limit_price="185", valid_for_s=20)
        assert len(w.engine.dispatcher.lanes["A-001"]) == 1  # one a second for entries
        for cl_ord_id in ids:
            await w.command("cancel_order", cl_ord_id=cl_ord_id)
        orders = [w.engine.orders.orders[cl_ord_id] for cl_ord_id in ids]
        await eventually(lambda: all(order.status is OrderStatus.CANCELED for order in orders))
        deletes = [row for row in sim.log.rows() if row.method == "DELETE"]
        assert len(deletes) == 3
        # They left at once, and the entry in the queue pays for them.
        assert deletes[-1].monotonic_ns - deletes[0].monotonic_ns < S
        await eventually(lambda: len(posts(sim, 1)) == 4)
        assert posts(sim, 1)[-1].monotonic_ns - deletes[-1].monotonic_ns >= 0.9 * S


# ---- fairness


async def test_under_the_firm_s_limit_nobody_is_served_twice_while_another_waits(
    tmp_path, sim: SimBroker
) -> None:
    accounts = [alpaca(n, url(sim)) for n in range(1, 7)]
    async with world(tmp_path, accounts, limits={"max_orders_per_second": 9}) as w:
        for number in range(3):  # eighteen orders, six a second
            await w.post(id=f"s-{number}", valid_for_s=60)
        await eventually(lambda: sum(len(posts(sim, n)) for n in range(1, 7)) == 18)
        rows = [row for row in sim.log.rows() if row.method == "POST"]
        served = [row.key_id for row in rows]
        for third in (served[:6], served[6:12], served[12:]):
            assert len(set(third)) == 6
        # 70 % of nine is six, and never more than that in a second.
        for first, seventh in zip(rows, rows[6:], strict=False):
            assert seventh.monotonic_ns - first.monotonic_ns >= 0.95 * S
        assert all(a.n < b.n for a, b in pairwise(rows))


# ---- prediction


async def test_a_held_signal_says_how_long_it_would_take(tmp_path, sim: SimBroker) -> None:
    accounts = [alpaca(n, url(sim), approval="review") for n in range(1, 9)]
    async with world(tmp_path, accounts, limits={"max_orders_per_second": 4}) as w:
        answer = await w.post(id="s-1", valid_for_s=30)
        assert answer.json()["state"] == "held"
        detail = await w.detail("bot/s-1")
        # Two entries a second (four less the reserve): eight leave in three more seconds.
        assert detail["predicted_finish_ms"] == detail["signal"]["predicted_finish_ms"] == 3000
        (row,) = await w.rows("signals")
        assert row["predicted_finish_ms"] == 3000
        result = await w.command("approve", signal="bot/s-1")
        assert (result["predicted_finish_ms"], result["predicted_cold"]) == (3000, 0)
        record = w.engine.records["bot/s-1"]
        await eventually(lambda: not record.waiting)
        stamps = sorted(order.last_byte_ns for order in record.orders.values())
        assert 2.9 <= (stamps[-1] - stamps[0]) / S <= 3.6
        assert (await w.detail("bot/s-1"))["predicted_finish_ms"] is None


async def test_the_prediction_is_made_anew_when_asked(tmp_path, sim: SimBroker) -> None:
    held, busy = alpaca(1, url(sim), approval="review"), alpaca(2, url(sim), tags=["busy"])
    async with world(tmp_path, [held, busy], limits={"max_orders_per_second": 2}) as w:
        await w.post(id="s-1", audience={"accounts": ["A-001"]}, valid_for_s=30)
        assert (await w.detail("bot/s-1"))["predicted_finish_ms"] == 0
        for number in range(3):
            await w.post(id=f"b-{number}", audience={"tags": ["busy"]}, valid_for_s=30)
        assert (await w.detail("bot/s-1"))["predicted_finish_ms"] > 1000


# ---- readiness


async def test_what_there_is_to_do_is_told_everywhere(tmp_path, sim: SimBroker) -> None:
    wrong = alpaca(2, url(sim))
    wrong["credentials"] = wrong["credentials"] | {"secret": "not-the-secret"}
    accounts = [alpaca(1, url(sim)), paper(1), wrong]
    sim.config.accounts = {"KEY001": "practice-secret-001", "KEY002": "practice-secret-002"}
    async with world(tmp_path, accounts, connected=2) as w:
        await eventually(lambda: w.engine.fleet.states["A-002"].connection.value == "error")
        rows = {row["id"]: row for row in await w.rows("accounts")}
        assert rows["A-001"]["todo"] == rows["P-001"]["todo"] == ""
        warm, wanted = rows["A-001"]["warm_connections"].split("/")
        assert warm == wanted != "0"
        assert 100 < rows["A-001"]["rate_left"] <= 140  # what was read since counts, too
        assert rows["A-001"]["last_probe_at"]
        assert rows["A-002"]["todo"]
        status = (await w.http.get("/v1/status")).json()
        (item,) = status["readiness"]
        assert (item["account"], item["code"]) == ("A-002", "NOT_CONNECTED")
        assert item["todo"] == rows["A-002"]["todo"]
        state = status | {
            "url": "",
            "accounts": list(rows.values()),
            "open_orders": [],
            "unknown_orders": [],
            "differences": [],
            "external": [],
            "latency": w.engine.latency(),
        }
        shown = screen(state)
        assert "to do before the open (1)" in shown
        assert item["todo"] in shown
        assert by_account(await w.send())["A-001"]["outcome"] == "sent"
