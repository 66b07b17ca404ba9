"""Reconciliation (control C25) at real venue processes: somebody else trades the same accounts, and we notice."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest

from engine.model.account import Account
from engine.model.enums import ConnectionState, OrderStatus, OrderType, Side, TimeInForce
from engine.model.identifiers import ENTRY_LEG, ClOrdIDs
from engine.model.messages import ExecutionReport
from engine.model.order import Order
from engine.ports import BrokerSession
from tests.contract.kinds import WIRED, Kind
from tests.processes import VenueProcess
from tests.world import World, eventually, world

QUICK = {"reconcile_orders_s": 0.3, "reconcile_positions_s": 0.3, "reconcile_cash_s": 0.0}
each_venue = pytest.mark.parametrize("kind", WIRED, ids=str)


class Elsewhere:
    """The same account in somebody else's hands: a second client with the same keys."""

    def __init__(self, kind: Kind) -> None:
        self.kind = kind
        self.orders: dict[str, Order] = {}
        self.session: BrokerSession

    def on_report(self, report: ExecutionReport) -> None:
        order = self.orders.get(report.cl_ord_id)
        if order is not None:
            order.apply(report, datetime.now(UTC))

    def on_connection(self, account: str, state: ConnectionState, text: str) -> None:
        pass

    def on_ready(self, account: str) -> None:
        pass

    def on_limits(self, account: str, **told: object) -> None:
        pass

    async def place(self, name: str, side: Side, quantity: str, limit: str | None = None) -> Order:
        """Place an order and wait until the venue has it, or has filled it."""
        order = self.orders[name] = Order(
            cl_ord_id=name,
            account="ELSEWHERE",
            symbol=self.kind.symbol,
            side=side,
            order_qty=Decimal(quantity),
            order_type=OrderType.MARKET if limit is None else OrderType.LIMIT,
            time_in_force=self.kind.rest if limit else TimeInForce.DAY,
            created_at=datetime.now(UTC),
            limit_price=None if limit is None else Decimal(limit),
        )
        self.session.submit(order)
        wanted = OrderStatus.NEW if limit else OrderStatus.FILLED
        await eventually(lambda: order.status is wanted, what=f"{name} is {wanted}")
        return order


def document(kind: Kind, url: str, account: str = "A-1") -> dict[str, Any]:
    return {
        "id": account,
        "broker": kind.name,
        "base_url": url,
        "credentials": dict(kind.credentials),
        "sizing": {"method": "fixed", "quantity": "10"},
    }


@asynccontextmanager
async def elsewhere(kind: Kind, path: Path) -> AsyncIterator[tuple[Elsewhere, VenueProcess]]:
    """Run a venue process and the second client."""
    with VenueProcess(path, "--dialect", kind.name, "--still") as venue:
        venue.post("/sim/price", {kind.symbol: "100"})
        assert kind.adapter is not None
        adapter = kind.adapter()
        other = Elsewhere(kind)
        account = Account.model_validate(document(kind, venue.url, "ELSEWHERE"))
        other.session = adapter.session(account, dict(kind.credentials), other)
        try:
            await other.session.start()
            yield other, venue
        finally:
            await other.session.stop()
            await adapter.close()


@asynccontextmanager
async def scene(kind: Kind, path: Path) -> AsyncIterator[tuple[World, Elsewhere]]:
    """Run the venue, and an engine whose only account has bought 10."""
    async with (
        elsewhere(kind, path) as (other, venue),
        world(path, [document(kind, venue.url)], safety=QUICK) as here,
    ):
        await bought(here, kind)
        yield here, other


async def bought(here: World, kind: Kind) -> None:
    await prices(here, kind)
    detail = await here.send(symbol=kind.symbol)
    await eventually(lambda: here.position("A-1", kind.symbol) == 10, what=str(detail))


async def prices(here: World, kind: Kind) -> None:
    answer = await here.http.post("/v1/prices", json={kind.symbol: "100"})
    assert answer.status_code == 200


async def row(here: World, **wanted: object) -> dict[str, Any]:
    """Wait for the only difference, with these values."""
    differences = here.engine.publisher.rows

    def found() -> dict[str, Any] | None:
        rows = list(differences("differences"))
        if len(rows) == 1 and all(rows[0][name] == value for name, value in wanted.items()):
            return dict(rows[0])
        return None

    told = await eventually(found, 20, f"a difference {wanted}: {list(differences('differences'))}")
    assert told is not None
    return told


async def settled(here: World) -> None:
    """Wait until nothing differs and two more comparisons have said so."""
    await eventually(lambda: not list(here.engine.publisher.rows("differences")), 20)
    before = here.engine.reconciliation.counts["comparisons_total"]
    await eventually(
        lambda: here.engine.reconciliation.counts["comparisons_total"] >= before + 4, 20
    )
    assert not list(here.engine.publisher.rows("differences"))


def codes(here: World) -> list[str]:
    return [str(one["code"]) for one in here.engine.publisher.rows("alerts")]


@each_venue
async def test_what_somebody_else_trades_is_seen_adopted_and_repaired(kind: Kind, tmp_path: Path):
    async with scene(kind, tmp_path) as (here, other):
        await settled(here)
        assert "DRIFTED" not in codes(here)
        await other.place("ELSEWHERE1", Side.BUY, "2")
        line = await row(here, kind="position", expected="10", actual="12")
        assert line["key"] == f"A-1/position/{kind.symbol}"
        assert line["difference"] == "+2"
        assert line["actions"] == ["adopt", "repair"]
        assert line["text"] == f"position {kind.symbol} expected 10, broker has 12"
        latch = await eventually(lambda: here.engine.states.get("account:A-1"))
        assert (latch.state, latch.by) == ("reducing", "reconciliation")
        assert latch.reason.startswith("DRIFTED: position")
        assert [row["key"] for row in await here.rows("differences", account="A-1")] == [
            line["key"]
        ]
        (account,) = await here.rows("accounts")
        assert account["differences"] == 1
        todo = [one for one in here.engine.to_do() if one["code"] == "DRIFTED"]
        assert [one["text"] for one in todo] == [line["text"]]

        await prices(here, kind)  # an entry is refused while it stands
        refused = await here.send(id="s-2", symbol=kind.symbol)
        assert refused["accounts"][0]["code"] == "DRIFTED"

        stale = await here.try_command("adopt", key=line["key"], at="2020-01-01T00:00:00Z")
        assert (stale.status_code, stale.json()["code"]) == (409, "CHANGED")
        body = {"id": "adopt-1", "command": "adopt", "key": line["key"], "at": line["at"]}
        for _ in range(2):  # the second is a repeat, and changes nothing
            answer = await here.http.post("/v1/commands", json=body)
            assert answer.status_code == 200, answer.text
            assert answer.json()["result"] == "adopted"
        assert here.position("A-1", kind.symbol) == 12
        assert here.engine.states.get("account:A-1") is None
        synthetic = [f for f in await here.rows("fills") if f["exec_id"].startswith("adopt-")]
        assert [(f["side"], f["last_qty"]) for f in synthetic] == [("buy", "2")]
        await settled(here)

        await other.place("ELSEWHERE2", Side.BUY, "3")
        line = await row(here, kind="position", expected="12", actual="15")
        await prices(here, kind)
        done = await here.command("repair", key=line["key"])
        order = here.engine.orders.orders[done["cl_ord_id"]]
        await eventually(lambda: order.status is OrderStatus.FILLED, what=order.text)
        assert (order.side, order.order_qty, order.source) == (Side.SELL, 3, "operator")
        assert here.position("A-1", kind.symbol) == 12
        await settled(here)
        assert [one.qty for one in await other.session.positions()] == [12]
        assert await here.refused("repair", key=line["key"]) == (404, "NOT_FOUND")


@each_venue
async def test_orders_of_somebody_else_are_shown_counted_and_left_alone(kind: Kind, tmp_path: Path):
    async with scene(kind, tmp_path) as (here, other):
        order = await other.place("ELSEWHERE3", Side.BUY, "4", limit="80")
        rows = here.engine.publisher.rows
        (told,) = await eventually(lambda: list(rows("external")), 20)
        assert told["symbol"] == kind.symbol
        assert (told["side"], told["order_qty"], told["leaves_qty"]) == ("buy", "4", "4")
        assert (told["limit_price"], told["value"]) == ("80", "320.00")
        before = here.engine.reconciliation.counts["comparisons_total"]
        await eventually(
            lambda: here.engine.reconciliation.counts["comparisons_total"] > before + 6, 20
        )
        assert codes(here).count("FOREIGN_ORDER") == 1
        (account,) = await here.rows("accounts")
        assert account["external_orders"] == 1
        assert here.engine.states.get("account:A-1") is None
        assert [one["key"] for one in await here.rows("external")] == [told["key"]]
        metrics = (await here.http.get("/metrics")).text
        assert "volley_external_orders 1.0" in metrics
        found = await other.session.find("ELSEWHERE3", kind.symbol, order.order_id)
        assert found is not None
        assert found.status is OrderStatus.NEW  # nobody touched it
        other.session.cancel(order)
        await eventually(lambda: not list(rows("external")), 20)


@each_venue
async def test_what_was_held_before_is_no_difference_and_a_restart_remembers(
    kind: Kind, tmp_path: Path
):
    async with elsewhere(kind, tmp_path) as (other, venue):
        async with world(tmp_path, [document(kind, venue.url)], safety=QUICK) as here:
            await bought(here, kind)
            await settled(here)
            await other.place("ELSEWHERE4", Side.BUY, "2")
            line = await row(here, kind="position", expected="10", actual="12")
            await eventually(lambda: here.engine.states.get("account:A-1"))
        async with world(tmp_path, safety=QUICK) as again:
            latch = again.engine.states.get("account:A-1")
            assert latch is not None
            assert latch.by == "reconciliation"
            (kept,) = again.engine.publisher.rows("differences")
            assert (kept["key"], kept["since"]) == (line["key"], line["since"])
            await prices(again, kind)
            await again.command("adopt", key=line["key"])
            assert again.position("A-1", kind.symbol) == 12
            assert again.engine.states.get("account:A-1") is None
        # An account that is new to a home, with the same holdings.
        async with world(tmp_path / "new", [document(kind, venue.url, "B-1")], safety=QUICK) as new:
            await eventually(lambda: new.engine.fleet.states["B-1"].reconciled, 20)
            await settled(new)
            assert codes(new) == []


async def test_the_row_says_how_often_an_account_is_compared(tmp_path: Path):
    kind = next(one for one in WIRED if one.name == "kite")
    async with scene(kind, tmp_path) as (here, _other):
        await settled(here)
        (account,) = await here.rows("accounts")
        assert account["reconciliation"].startswith("orders every ")
        assert "cash not compared" not in account["reconciliation"]  # it was never due


@pytest.mark.parametrize("kind", [one for one in WIRED if one.client_id != "label"], ids=str)
@pytest.mark.parametrize(("side", "quantity"), [(Side.BUY, "3"), (Side.BUY, "12")])
async def test_another_order_under_our_id_halts_the_account(
    kind: Kind, side: Side, quantity: str, tmp_path: Path
):
    """F15: the broker refuses the id as taken, and what it has under it is not what was sent."""
    async with scene(kind, tmp_path) as (here, other):
        ids = ClOrdIDs(here.engine.journal.book, "bot", "s-2")
        name = ids.make("A-1", ENTRY_LEG)
        await other.place(name, side, quantity, limit="98")
        await prices(here, kind)
        answer = await here.post(
            id="s-2", symbol=kind.symbol, order_type="limit", limit_price="98", time_in_force="gtc"
        )
        assert answer.status_code == 202
        latch = await eventually(lambda: here.engine.states.get("account:A-1"), 30)
        assert latch.state == "halted"
        assert f"buy {quantity} {kind.symbol}" in latch.reason
        assert f"ours is buy 10 {kind.symbol}" in latch.reason
        order = here.engine.orders.orders[name]
        assert order.status is OrderStatus.UNKNOWN  # nothing of the other was taken for ours
        assert (order.order_id, order.cum_qty) == ("", 0)
