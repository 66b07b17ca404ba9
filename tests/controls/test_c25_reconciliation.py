"""C25 reconciliation: what passes, what is refused, the boundary, a restart, and the words the operator reads."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from decimal import Decimal
from pathlib import Path
from typing import Any

import httpx
import pytest

from engine.model.enums import ExecType, OrderStatus, TradingState
from engine.model.messages import ExecutionReport
from engine.simbroker import SimBroker
from tests.world import World, alpaca, eventually, venue, world

D = Decimal
QUICK = {"reconcile_orders_s": 0.2, "reconcile_positions_s": 0.2, "reconcile_cash_s": 0.2}
ACCOUNT = "A-001"


class Scene:
    """An engine, its venue, and the same account in somebody else's hands."""

    def __init__(self, here: World, sim: SimBroker, other: httpx.AsyncClient) -> None:
        self.here = here
        self.sim = sim
        self.other = other

    async def trade(self, **order: Any) -> dict[str, Any]:
        """Trade by the second client; a market order unless said otherwise."""
        body = {"symbol": "AAPL", "type": "market", "time_in_force": "day", **order}
        answer = await self.other.post("/v2/orders", json=body)
        assert answer.status_code == 200, answer.text
        return dict(answer.json())

    async def prices(self) -> None:
        answer = await self.here.http.post("/v1/prices", json={"AAPL": "100"})
        assert answer.status_code == 200

    async def buy(self, signal: str, **fields: Any) -> dict[str, Any]:
        """Send a signal to buy; return the account's row of it."""
        await self.prices()
        detail = await self.here.send(id=signal, **fields)
        return dict(detail["accounts"][0])

    async def compared(self, times: int = 4) -> None:
        """Wait for so many more comparisons."""
        counts = self.here.engine.reconciliation.counts
        before = counts["comparisons_total"]
        await eventually(lambda: counts["comparisons_total"] >= before + times, 20)

    async def line(self, key: str) -> dict[str, Any]:
        """Wait for a difference that counts."""
        rows = self.here.engine.publisher.rows
        found = await eventually(
            lambda: [row for row in rows("differences") if row["key"] == key], 20, key
        )
        return dict(found[0])

    @property
    def lines(self) -> list[str]:
        return [str(row["key"]) for row in self.here.engine.publisher.rows("differences")]

    @property
    def latch(self) -> tuple[TradingState, str] | None:
        found = self.here.engine.states.get(f"account:{ACCOUNT}")
        return None if found is None else (found.state, found.by)

    def alerts(self, code: str) -> list[str]:
        rows = self.here.engine.publisher.rows("alerts")
        return [str(row["text"]) for row in rows if row["code"] == code]


@asynccontextmanager
async def scene(
    path: Path, quantity: str = "10", limits: dict[str, str] | None = None, **safety: float
) -> AsyncIterator[Scene]:
    """Run it all; the account buys ``quantity`` a signal."""
    async with venue() as sim:
        sim.venue.market.pin("AAPL", D(100))
        url = f"http://127.0.0.1:{sim.port}"
        sizing = {"method": "fixed", "quantity": quantity}
        account = alpaca(1, url, sizing=sizing, limits=limits or {})
        keys = account["credentials"]
        headers = {"APCA-API-KEY-ID": keys["key_id"], "APCA-API-SECRET-KEY": keys["secret"]}
        async with (
            world(path, [account], safety=QUICK | safety) as here,
            httpx.AsyncClient(base_url=url, headers=headers, trust_env=False) as other,
        ):
            made = Scene(here, sim, other)
            await eventually(lambda: here.engine.fleet.states[ACCOUNT].reconciled)
            yield made


POSITION = f"{ACCOUNT}/position/AAPL"


async def test_an_account_as_its_broker_has_it_passes(tmp_path: Path):
    async with scene(tmp_path) as desk:
        for number in range(3):
            assert (await desk.buy(f"s-{number}"))["outcome"] == "sent"
            await desk.compared()
        assert (desk.lines, desk.latch, desk.alerts("DRIFTED")) == ([], None, [])


async def test_a_difference_refuses_entries_and_lets_exits_pass(tmp_path: Path):
    async with scene(tmp_path) as desk:
        await desk.buy("s-1")
        await desk.trade(side="buy", qty="2")
        await desk.line(POSITION)
        await eventually(lambda: desk.latch == (TradingState.REDUCING, "reconciliation"))
        refused = await desk.buy("s-2")
        assert refused["code"] == "DRIFTED"
        assert "position AAPL expected 10, broker has 12" in refused["message"]
        assert (await desk.buy("s-3", action="close"))["outcome"] == "sent"
        await eventually(lambda: desk.here.position(ACCOUNT) == 0)


@pytest.mark.parametrize("quantity", ["0.000000001", "1"])
async def test_the_boundary_is_the_smallest_quantity_there_is(tmp_path: Path, quantity: str):
    async with scene(tmp_path) as desk:
        await desk.buy("s-1")
        await desk.compared(6)
        assert desk.lines == []
        account = next(iter(desk.sim.venue.accounts.values()))
        account.money.positions["AAPL"].qty += D(quantity)  # not a trade: the broker's own books
        line = await desk.line(POSITION)
        assert D(line["difference"]) == D(quantity)
        account.money.positions["AAPL"].qty -= D(quantity)
        await eventually(lambda: not desk.lines, 20)


async def test_once_is_not_enough(tmp_path: Path):
    async with scene(tmp_path) as desk:
        await desk.buy("s-1")
        await desk.compared(6)
        reconciliation = desk.here.engine.reconciliation
        account = next(iter(desk.sim.venue.accounts.values()))
        account.money.positions["AAPL"].qty += 5
        await eventually(lambda: reconciliation.book.suspected(ACCOUNT, "position"), 20)
        account.money.positions["AAPL"].qty -= 5
        await eventually(lambda: not reconciliation.book.suspected(ACCOUNT, "position"), 20)
        assert (desk.lines, desk.latch, desk.alerts("DRIFTED")) == ([], None, [])


async def test_it_survives_a_restart_and_goes_by_itself(tmp_path: Path):
    async with venue() as sim:
        sim.venue.market.pin("AAPL", D(100))
        account = alpaca(1, f"http://127.0.0.1:{sim.port}")
        async with world(tmp_path, [account], safety=QUICK) as here:
            desk = Scene(here, sim, here.http)
            await eventually(lambda: here.engine.fleet.states[ACCOUNT].reconciled)
            await desk.buy("s-1")
            await eventually(lambda: here.position(ACCOUNT) == 1)
            next(iter(sim.venue.accounts.values())).money.positions["AAPL"].qty += 2
            first = await desk.line(POSITION)
            await eventually(lambda: desk.latch)
        async with world(tmp_path, safety=QUICK) as here:
            desk = Scene(here, sim, here.http)
            assert desk.latch == (TradingState.REDUCING, "reconciliation")
            assert (await desk.line(POSITION))["since"] == first["since"]
            assert len(desk.alerts("DRIFTED")) == 0  # told before the restart
            next(iter(sim.venue.accounts.values())).money.positions["AAPL"].qty -= 2
            await eventually(lambda: desk.latch is None, 20)
            assert desk.lines == []
        async with world(tmp_path, safety=QUICK) as here:
            desk = Scene(here, sim, here.http)
            assert (desk.lines, desk.latch) == ([], None)


async def test_what_the_operator_reads(tmp_path: Path):
    async with scene(tmp_path) as desk:
        await desk.buy("s-1")
        await desk.trade(side="buy", qty="2")
        line = await desk.line(POSITION)
        text = "position AAPL expected 10, broker has 12"
        assert (line["text"], line["value"]) == (text, "200.00")
        assert desk.alerts("DRIFTED") == [text]
        engine = desk.here.engine
        (todo,) = [one for one in engine.to_do() if one["code"] == "DRIFTED"]
        assert (todo["account"], todo["text"]) == (ACCOUNT, text)
        assert todo["todo"] == f"look at the broker, then adopt or repair the line {POSITION}"
        latch = await eventually(lambda: engine.states.get(f"account:{ACCOUNT}"))
        assert latch.reason == f"DRIFTED: {text}"
        (control,) = [row for row in engine.publisher.rows("controls") if row["number"] == "C25"]
        assert (control["state"], control["last_code"]) == ("tripped", "DRIFTED")
        metrics = (await desk.here.http.get("/metrics")).text
        assert "volley_differences 1.0" in metrics
        assert "volley_differences_total 1.0" in metrics


async def test_a_latch_of_somebody_else_stays(tmp_path: Path):
    async with scene(tmp_path) as desk:
        await desk.buy("s-1")
        await desk.here.command("pause", scope=f"account:{ACCOUNT}")
        await desk.trade(side="buy", qty="2")
        await desk.line(POSITION)
        assert desk.latch == (TradingState.REDUCING, "operator")
        await desk.here.command("resume", scope=f"account:{ACCOUNT}")
        await eventually(lambda: desk.latch == (TradingState.REDUCING, "reconciliation"), 20)
        await desk.here.command("resume", scope=f"account:{ACCOUNT}")  # a person who knows of it
        await desk.compared(8)
        assert desk.latch is None
        assert desk.lines == [POSITION]


async def test_switched_off_it_compares_orders_when_an_account_connects_and_no_more(
    tmp_path: Path,
):
    off = {"reconcile_orders_s": 0.0, "reconcile_positions_s": 0.0, "reconcile_cash_s": 0.0}
    async with scene(tmp_path, **off) as desk:
        await desk.buy("s-1")
        await desk.trade(side="buy", qty="2")
        (row,) = await desk.here.rows("accounts")
        assert row["reconciliation"] == "orders when it connects"
        assert desk.here.engine.reconciliation.turns.every_s(ACCOUNT) == {}


# ---- orders --------------------------------------------------------------------------------------------------------


async def resting(desk: Scene) -> Any:
    """Place an order of ours that rests."""
    row = await desk.buy("s-rest", order_type="limit", limit_price="97", time_in_force="gtc")
    order = desk.here.engine.orders.orders[row["cl_ord_id"]]
    await eventually(lambda: order.status is OrderStatus.NEW)
    return order


def lose(desk: Scene, order: Any) -> None:
    """Make the venue forget an order."""
    account = next(iter(desk.sim.venue.accounts.values()))
    del account.open[order.order_id], account.orders[order.order_id]
    del account.by_client_id[order.cl_ord_id]


async def test_an_order_the_broker_has_lost_is_closed_by_adopting(tmp_path: Path):
    async with scene(tmp_path) as desk:
        order = await resting(desk)
        lose(desk, order)
        key = f"{ACCOUNT}/order/{order.cl_ord_id}"
        line = await desk.line(key)
        assert (line["expected"], line["actual"]) == ("new buy 10 AAPL at 97", "absent")
        await eventually(lambda: desk.latch == (TradingState.REDUCING, "reconciliation"))
        await desk.here.command("adopt", key=key)
        assert order.status is OrderStatus.CANCELED
        assert (desk.lines, desk.latch) == ([], None)


async def test_an_order_the_broker_has_lost_is_placed_again_by_repairing(tmp_path: Path):
    async with scene(tmp_path) as desk:
        order = await resting(desk)
        lose(desk, order)
        key = f"{ACCOUNT}/order/{order.cl_ord_id}"
        await desk.line(key)
        await desk.prices()
        done = await desk.here.command("repair", key=key)
        again = desk.here.engine.orders.orders[done["cl_ord_id"]]
        assert again.cl_ord_id != order.cl_ord_id
        assert order.status is OrderStatus.CANCELED
        await eventually(lambda: again.status is OrderStatus.NEW, what=again.text)
        assert (again.limit_price, again.order_qty, again.source) == (97, 10, "operator")
        open_orders = [
            o.client_order_id for a in desk.sim.venue.accounts.values() for o in a.open.values()
        ]
        assert open_orders == [again.cl_ord_id]


async def test_an_order_changed_at_the_broker_is_adopted_or_changed_back(tmp_path: Path):
    async with scene(tmp_path) as desk:
        order = await resting(desk)
        account = next(iter(desk.sim.venue.accounts.values()))
        account.open[order.order_id].limit_price = D(96)
        key = f"{ACCOUNT}/order/{order.cl_ord_id}"
        line = await desk.line(key)
        assert line["difference"] == "limit price -1"
        assert line["text"].endswith("broker has buy 10 AAPL at 96")
        await desk.here.command("adopt", key=key)
        assert order.limit_price == 96
        assert (desk.lines, desk.latch) == ([], None)
        account.open[order.order_id].order_qty = D(11)
        line = await desk.line(key)
        assert line["difference"] == "quantity +1"
        await desk.prices()
        done = await desk.here.command("repair", key=key)
        back = desk.here.engine.orders.orders[done["cl_ord_id"]]
        await eventually(lambda: back.status is OrderStatus.NEW, what=back.text)
        await eventually(lambda: order.status is OrderStatus.REPLACED)
        assert [o.order_qty for o in account.open.values()] == [10]
        await eventually(lambda: not desk.lines and desk.latch is None, 20)


async def test_an_order_over_for_us_that_works_at_the_broker_is_canceled_by_repairing(
    tmp_path: Path,
):
    async with scene(tmp_path) as desk:
        order = await resting(desk)
        over = ExecutionReport(ACCOUNT, order.cl_ord_id, ExecType.CANCELED)
        desk.here.engine.on_report(over)  # word of an end that was none
        key = f"{ACCOUNT}/order/{order.cl_ord_id}"
        line = await desk.line(key)
        assert (line["expected"], line["actions"]) == ("canceled", ["repair"])
        assert await desk.here.refused("adopt", key=key) == (409, "NOT_POSSIBLE")
        await desk.here.command("repair", key=key)
        account = next(iter(desk.sim.venue.accounts.values()))
        await eventually(lambda: not account.open)
        await eventually(lambda: not desk.lines, 20)


async def test_a_foreign_order_is_counted_in_the_exposure(tmp_path: Path):
    limits = {"max_open_value": "350"}
    async with scene(tmp_path, "1", limits=limits) as desk:
        await desk.trade(side="buy", qty="3", type="limit", limit_price="90", client_order_id="x")
        rows = desk.here.engine.publisher.rows
        await eventually(lambda: list(rows("external")), 20)
        (text,) = desk.alerts("FOREIGN_ORDER")
        assert text.startswith("buy 3 AAPL at 90 (")
        assert desk.lines == []
        refused = await desk.buy("s-1")  # 270 + 100
        assert (refused["outcome"], refused["code"]) == ("refused", "OPEN_VALUE_MAX")
        for order in (await desk.other.get("/v2/orders")).json():
            await desk.other.delete(f"/v2/orders/{order['id']}")
        await eventually(lambda: not list(rows("external")), 20)
        assert (await desk.buy("s-2"))["outcome"] == "sent"


# ---- cash ----------------------------------------------------------------------------------------------------------


async def test_cash_alone_is_told_and_stops_nothing(tmp_path: Path):
    async with scene(tmp_path) as desk:
        await desk.buy("s-1")
        cash = desk.here.engine.reconciliation.cash
        await eventually(lambda: ACCOUNT in cash._baselines, 20)
        assert desk.lines == []
        account = next(iter(desk.sim.venue.accounts.values()))
        account.money.cash -= D("49.99")
        key = f"{ACCOUNT}/cash/USD"
        line = await desk.line(key)
        assert line["difference"] == "-49.99"
        assert line["actions"] == ["adopt"]
        assert desk.latch is None
        (text,) = desk.alerts("DRIFTED")
        assert text.startswith("cash expected ")
        assert await desk.here.refused("repair", key=key) == (409, "NOT_POSSIBLE")
        await desk.here.command("adopt", key=key)
        await desk.compared(8)
        assert desk.lines == []


async def test_pennies_and_fees_are_no_difference(tmp_path: Path):
    async with scene(tmp_path) as desk:
        await desk.compared(8)
        account = next(iter(desk.sim.venue.accounts.values()))
        account.money.cash -= D("0.05")
        await desk.compared(8)
        assert desk.lines == []
        account.money.cash -= D("0.051")
        assert await desk.line(f"{ACCOUNT}/cash/USD")


# ---- corporate changes ---------------------------------------------------------------------------------------------


async def test_a_split_freezes_the_account_and_is_adopted_without_gain_or_loss(tmp_path: Path):
    async with scene(tmp_path) as desk:
        await desk.buy("s-1")
        position = next(iter(desk.sim.venue.accounts.values())).money.positions["AAPL"]
        position.qty *= 4
        line = await desk.line(POSITION)
        assert "looks like a split" in line["text"]
        assert desk.alerts("CORPORATE_ACTION") == [line["text"]]
        latch = await eventually(lambda: desk.here.engine.states.get(f"account:{ACCOUNT}"))
        assert latch.reason.startswith("CORPORATE_ACTION: position AAPL")
        await desk.here.command("adopt", key=POSITION)
        held = desk.here.engine.keeper.get(ACCOUNT, "AAPL")
        assert held is not None
        assert (held.qty, held.avg_px, held.realised) == (40, 25, 0)


async def test_an_instrument_whose_lot_changed_overnight_freezes_its_symbol(tmp_path: Path):
    async with scene(tmp_path) as desk:
        await desk.buy("s-1")
        engine = desk.here.engine
        masters = engine.reconciliation.masters
        await eventually(lambda: masters._known, 20)
        masters._known["alpaca/AAPL"]["lot"] = "25"  # as an earlier session would have left it
        latch = await eventually(lambda: engine.states.get("symbol:AAPL"), 20)
        assert latch.state is TradingState.REDUCING
        (text,) = await eventually(lambda: desk.alerts("CORPORATE_ACTION"))
        assert text.startswith("AAPL has changed at alpaca: lot 25 → ")
        assert (await desk.buy("s-2"))["code"] == "CORPORATE_ACTION"


async def test_what_was_held_before_is_expected_to_stay_and_is_what_goes_first(tmp_path: Path):
    async with venue() as sim:
        sim.venue.market.pin("AAPL", D(100))
        url = f"http://127.0.0.1:{sim.port}"
        account = alpaca(1, url)
        keys = account["credentials"]
        headers = {"APCA-API-KEY-ID": keys["key_id"], "APCA-API-SECRET-KEY": keys["secret"]}
        async with httpx.AsyncClient(base_url=url, headers=headers, trust_env=False) as other:
            order = {"symbol": "AAPL", "type": "market", "time_in_force": "day"}
            await other.post("/v2/orders", json={**order, "side": "buy", "qty": "5"})
            books = next(iter(sim.venue.accounts.values())).money.positions
            await eventually(lambda: "AAPL" in books and books["AAPL"].qty == 5)
            async with world(tmp_path, [account], safety=QUICK) as here:
                desk = Scene(here, sim, other)
                await eventually(lambda: here.engine.fleet.states[ACCOUNT].reconciled)
                await desk.buy("s-1")
                await eventually(lambda: here.position(ACCOUNT) == 1)
                await desk.compared(6)
                assert desk.lines == []
                await desk.trade(side="sell", qty="3")
                line = await desk.line(POSITION)
                text = "position AAPL expected 6, broker has 3 (5 of it held before)"
                assert line["text"] == text
                await here.command("adopt", key=POSITION)
                assert here.position(ACCOUNT) == 1  # ours is untouched
                await desk.compared(6)
                assert desk.lines == []
                await desk.trade(side="sell", qty="3")  # two held before, and one of ours
                await desk.line(POSITION)
                await here.command("adopt", key=POSITION)
                assert here.position(ACCOUNT) == 0
                await desk.compared(6)
                assert desk.lines == []
