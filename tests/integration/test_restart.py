"""A clean stop and a start again: everything is as it was, and what happened meanwhile is found."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from decimal import Decimal
from typing import Any

import pytest

from engine.model.enums import OrderStatus
from engine.simbroker import SimBroker
from engine.trading_engine import TradingEngine
from tests.processes import signal_document
from tests.world import World, alpaca, by_account, eventually, paper, venue, world

FAR = {"order_type": "limit", "limit_price": "185"}
TABLES = ("signals", "orders", "fills", "positions")
LIVE = {"mark", "mark_age_s", "value", "unrealised", "updated_at", "stop_distance_percent"}


@pytest.fixture
async def sim() -> AsyncIterator[SimBroker]:
    async with venue() as made:
        yield made


def url(sim: SimBroker) -> str:
    return f"http://127.0.0.1:{sim.port}"


async def picture(w: World) -> dict[str, Any]:
    """Return everything the lists say, without what the market moves."""
    return {
        table: [
            {name: value for name, value in row.items() if name not in LIVE}
            for row in await w.rows(table)
        ]
        for table in TABLES
    }


def book(engine: TradingEngine) -> dict[tuple[str, str], tuple[Decimal, ...]]:
    return {(p.account, p.symbol): (p.qty, p.cash, p.cost) for p in engine.keeper}


def without_stamps(row: dict[str, Any]) -> dict[str, Any]:
    """An order's own stamps are monotonic ones of a process that is gone."""
    return {name: value for name, value in row.items() if name != "trace"}


async def test_everything_is_as_it_was(tmp_path, sim: SimBroker) -> None:
    accounts = [
        alpaca(1, url(sim)),
        alpaca(2, url(sim), sizing={"method": "fixed", "quantity": "3"}),
        alpaca(3, url(sim), strategies=["other"]),
        alpaca(4, url(sim), limits={"max_order_quantity": "0.5"}),
        alpaca(5, url(sim), sizing={"method": "fixed", "quantity": "1000000"}),
        paper(1),
    ]
    prices = ("189.40", "190.11", "188.02", "187.77", "191.93")
    keys = []
    async with world(tmp_path, accounts, limits={"max_signal_value": Decimal(10) ** 12}) as w:
        for number, price in enumerate(prices):
            sim.venue.market.pin("AAPL", Decimal(price))
            w.engine.set_prices({"AAPL": Decimal(price)})
            action = "sell" if number % 2 else "buy"
            await w.send(id=f"s-{number}", action=action, quantity="2")
            keys.append(f"bot/s-{number}")
        await w.send(id="rest", **FAR)
        await w.post(id="gone", issued_at="2020-01-01T00:00:00Z")
        await w.command(
            "set_stops", account="A-001", symbol="AAPL", stop_loss="180", take_profit="200"
        )
        await w.command("pause", scope="symbol:TSLA", reason="earnings")
        keys += ["bot/rest", "bot/gone"]
        await eventually(lambda: len(w.engine.orders.working()) == 3)
        before = await picture(w)
        details = {key: await w.detail(key) for key in keys}
        held = book(w.engine)
        counts = dict(w.engine.counts)
        account_rows = {row["id"]: row["realised"] for row in await w.rows("accounts")}
    orders_before = sim.venue.order_count
    async with world(tmp_path, limits={"max_signal_value": Decimal(10) ** 12}) as w:
        await eventually(
            lambda: all(o.status is OrderStatus.NEW for o in w.engine.orders.working())
        )
        assert book(w.engine) == held
        assert w.engine.counts == counts
        after = await picture(w)
        for table in TABLES:
            for now, then in zip(after[table], before[table], strict=True):
                assert now == then, table
        for key, detail in details.items():
            now = await w.detail(key)
            for name in ("raw", "trace"):
                assert now[name] == detail[name], (key, name)
            assert [without_stamps(row) for row in now["accounts"]] == [
                without_stamps(row) for row in detail["accounts"]
            ], key
        assert {row["id"]: row["realised"] for row in await w.rows("accounts")} == account_rows
        assert w.engine.keeper.get("A-001", "AAPL").stop_loss == 180
        assert w.engine.states.get("symbol:TSLA").reason == "earnings"
        assert sim.venue.order_count == orders_before
        # and trading goes on from there
        await w.send(id="next", quantity="2")
        await eventually(lambda: len(w.engine.orders.working()) == 3)
        truth = sim.venue.accounts["KEY001"].money
        assert truth.positions["AAPL"].qty == w.position("A-001")
        assert truth.cash == 100_000 + w.engine.keeper.get("A-001", "AAPL").cash


async def test_a_repeat_after_a_restart_gets_the_first_outcome(tmp_path, sim: SimBroker) -> None:
    bodies = {
        "accepted": signal_document(id="a"),
        "refused": signal_document(id="r", strategy="nobodys"),
        "held": signal_document(id="h", symbol="MSFT"),
    }
    accounts = [
        alpaca(1, url(sim), symbols=["AAPL"], strategies=["breakout"]),
        alpaca(2, url(sim), symbols=["MSFT"], strategies=["breakout"], approval="review"),
    ]
    async with world(tmp_path, accounts) as w:
        first = {
            name: (await w.http.post("/v1/signals", json=b)).json() for name, b in bodies.items()
        }
        assert {name: answer["state"] for name, answer in first.items()} == {n: n for n in bodies}
        await w.command("reject", signal="bot/h")
        await eventually(lambda: w.position("A-001") == 1)
    async with world(tmp_path) as w:
        for name, body in bodies.items():
            again = await w.http.post("/v1/signals", content=json.dumps(body))
            assert (again.status_code, again.json()) == (200, first[name])
            other = await w.http.post("/v1/signals", json=body | {"action": "sell"})
            assert other.status_code == 409
        assert sim.venue.order_count == 1


async def test_a_hold_goes_on_with_the_time_it_had_left(tmp_path, sim: SimBroker) -> None:
    accounts = [alpaca(n, url(sim), approval="review") for n in (1, 2)]
    signals = {"approval_timeout_s": 60}
    async with world(tmp_path, accounts, signals=signals) as w:
        await w.post(id="long")
        expires = (await w.detail("bot/long"))["signal"]["hold_expires_at"]
    async with world(tmp_path, signals=signals) as w:
        detail = await w.detail("bot/long")
        assert detail["signal"]["hold_expires_at"] == expires
        assert detail["signal"]["state"] == "held"
        assert {row["code"] for row in detail["accounts"]} == {"REVIEW"}
        result = await w.command("approve", signal="bot/long", accounts=["A-001"])
        assert set(result["orders"]) == {"A-001"}
        await eventually(lambda: w.position("A-001") == 1)
    async with world(tmp_path, signals=signals) as w:
        rows = by_account(await w.detail("bot/long"))
        assert (rows["A-001"]["status"], rows["A-002"]["outcome"]) == ("filled", "held")
        await w.command("approve", signal="bot/long")
        await eventually(lambda: w.position("A-002") == 1)
        assert w.position("A-001") == 1
    assert sim.venue.order_count == 2


async def test_steps_of_an_instrument_are_known_again(tmp_path, sim: SimBroker) -> None:
    """What a broker trades in fractions is still traded in fractions, whatever comes first after a start."""
    part = {"sizing": {"method": "fixed", "quantity": "0.5"}, "approval": "review"}
    async with world(tmp_path, [alpaca(1, url(sim), **part)]) as w:
        for number in range(2):
            await w.post(id=f"s-{number}", symbol="BTCUSDT")
        await w.command("approve", signal="bot/s-0")
        await eventually(lambda: w.position("A-001", "BTCUSDT") == Decimal("0.5"))
    given = {"account": "A-001", "symbol": "BTCUSDT"}
    async with world(tmp_path) as w:
        await w.command("approve", signal="bot/s-1")
        await eventually(lambda: w.position("A-001", "BTCUSDT") == 1)
    async with world(tmp_path) as w:
        result = await w.command("close_position", **given, fraction="0.25")
        assert result["order_qty"] == "0.25"
        await eventually(lambda: w.position("A-001", "BTCUSDT") == Decimal("0.75"))


async def test_a_hold_that_ran_out_meanwhile_is_expired(tmp_path, sim: SimBroker) -> None:
    account = alpaca(1, url(sim), approval="review")
    async with world(tmp_path, [account], signals={"approval_timeout_s": 1}) as w:
        await w.post()
        await w.engine.journal.flushed()
    async with world(tmp_path, signals={"approval_timeout_s": 1}) as w:
        record = w.engine.records["bot/s-1"]
        await eventually(lambda: not record.held)
        detail = await w.detail("bot/s-1")
        assert detail["signal"]["state"] == "expired"
        assert by_account(detail)["A-001"]["code"] == "APPROVAL_TIMEOUT"
    assert not sim.venue.order_count


async def test_fills_that_happened_meanwhile_are_found(tmp_path) -> None:
    async with venue(max_fill_qty=Decimal(1)) as sim:
        sizing = {"method": "fixed", "quantity": "3"}
        accounts = [alpaca(n, url(sim), sizing=sizing) for n in (1, 2, 3)]
        async with world(tmp_path, accounts) as w:
            detail = await w.send(**FAR)
            orders = {name: w.order(detail, name).cl_ord_id for name in by_account(detail)}
            await eventually(lambda: all(o.order_id for o in w.engine.orders.working()))
        # one order fills, one is cancelled at the broker, one expires there
        placed = {n: next(iter(sim.venue.accounts[f"KEY00{n}"].orders.values())) for n in (1, 2, 3)}
        sim.venue.cancel(placed[2])
        sim.venue.market.pin("AAPL", Decimal("184.90"))
        await eventually(lambda: placed[1].status is OrderStatus.FILLED)
        await eventually(lambda: placed[3].status is OrderStatus.FILLED)
        async with world(tmp_path) as w:
            await eventually(lambda: not w.engine.orders.working())
            found = {name: w.engine.orders.orders[i].status.value for name, i in orders.items()}
            assert found == {"A-001": "filled", "A-002": "canceled", "A-003": "filled"}
            assert (w.position("A-001"), w.position("A-002"), w.position("A-003")) == (3, 0, 3)
            truth = sim.venue.accounts["KEY001"].money
            assert w.engine.keeper.get("A-001", "AAPL").cash == truth.cash - 100_000
            fills = await w.rows("fills", account="A-001")
            assert sum(Decimal(fill["last_qty"]) for fill in fills) == 3
        async with world(tmp_path) as w:  # nothing is counted a second time
            assert w.position("A-001") == 3
            assert len(await w.rows("fills", account="A-001")) == len(fills)


async def test_a_partial_fill_goes_on_after_a_restart(tmp_path) -> None:
    async with venue(max_fill_qty=Decimal(1), tick_interval_s=0.05) as sim:
        account = alpaca(1, url(sim), sizing={"method": "fixed", "quantity": "40"})
        async with world(tmp_path, [account]) as w:
            detail = await w.send()
            cl_ord_id = w.order(detail, "A-001").cl_ord_id
            await eventually(lambda: w.position("A-001") >= 3)
        async with world(tmp_path) as w:
            order = w.engine.orders.orders[cl_ord_id]
            await eventually(lambda: order.status is OrderStatus.FILLED, 20)
            assert w.position("A-001") == order.cum_qty == 40
            assert w.engine.keeper.get("A-001", "AAPL").cash == -40 * Decimal("189.40")
            fills = await w.rows("fills")
            assert sum(Decimal(fill["last_qty"]) for fill in fills) == 40


async def test_states_and_day_survive(tmp_path, sim: SimBroker) -> None:
    async with world(tmp_path, [alpaca(1, url(sim))]) as w:
        await w.send()
        await eventually(lambda: w.position("A-001") == 1)
        await w.command("kill", scope="account:A-001", reason="test")
        await w.command("pause", scope="strategy:breakout")
    async with world(tmp_path) as w:
        halts = {latch.scope: latch.state.value for latch in w.engine.states.latches()}
        assert halts == {"account:A-001": "halted", "strategy:breakout": "reducing"}
        assert (await w.post(id="s-2")).json()["code"] == "PAUSED"
        await w.command("rearm", scope="account:A-001", reason="ok")
        await w.command("resume", scope="strategy:breakout")
    async with world(tmp_path, engine={"trading": "disarmed"}) as w:
        assert not [latch for latch in w.engine.states.latches() if latch.scope != "all"]
        assert (await w.post(id="s-3")).json()["code"] == "DISARMED"
        await w.command("rearm", reason="armed by hand")
    async with world(tmp_path, engine={"trading": "disarmed"}) as w:  # a start is disarmed again
        assert (await w.post(id="s-4")).json()["code"] == "DISARMED"


async def test_a_command_is_remembered(tmp_path, sim: SimBroker) -> None:
    close = {"id": "once", "command": "close_position", "account": "A-001", "symbol": "AAPL"}
    async with world(tmp_path, [alpaca(1, url(sim))]) as w:
        await w.send()
        await eventually(lambda: w.position("A-001") == 1)
        first = await w.http.post("/v1/commands", json=close)
        await eventually(lambda: w.position("A-001") == 0)
        await w.send(id="s-2")
        await eventually(lambda: w.position("A-001") == 1)
    async with world(tmp_path) as w:
        again = await w.http.post("/v1/commands", json=close)
        assert (again.status_code, again.json()) == (200, first.json())
        assert w.position("A-001") == 1
    assert sim.venue.order_count == 3


async def test_what_is_queued_at_a_clean_stop_is_told_not_sent(tmp_path, sim: SimBroker) -> None:
    slow = alpaca(1, url(sim), limits={"max_orders_per_second": 1})
    async with world(tmp_path, [slow]) as w:
        for number in range(4):
            await w.post(id=f"s-{number}", valid_for_s=60)
        sent = sim.venue.order_count
    assert sim.venue.order_count == sent
    async with world(tmp_path) as w:
        await eventually(lambda: not w.engine.orders.working())
        rows = [by_account(await w.detail(f"bot/s-{n}"))["A-001"] for n in range(4)]
        denied = [row for row in rows if row["status"] == "denied"]
        assert {row["code"] for row in denied} == {"NOT_SENT"}
        assert len(denied) == 4 - sim.venue.order_count
