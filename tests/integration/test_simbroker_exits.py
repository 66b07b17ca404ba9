"""Linked orders at the simulated venue: brackets, one-cancels-other, trailing stops, held positions."""

from __future__ import annotations

import asyncio
from decimal import Decimal
from typing import Any

import httpx
import pytest

from engine.model.enums import OrderStatus, OrderType, Side, TimeInForce
from engine.simbroker.venue import Exit, NewOrder, Reason, Refused, Rules, Venue
from tests.venue_rig import events, listening, place, venue

BRACKET = {
    "order_class": "bracket",
    "time_in_force": "gtc",
    "take_profit": {"limit_price": "195"},
    "stop_loss": {"stop_price": "185"},
}


async def at(http: httpx.AsyncClient, price: str) -> None:
    assert (await http.post("/sim/price", json={"AAPL": price})).status_code == 200


async def statuses(http: httpx.AsyncClient) -> dict[str, tuple[str, str]]:
    """Status and filled quantity by what an order is: entry, target or stop."""
    return {
        row["leg"] or "entry": (row["status"], row["filled_qty"])
        for row in (await http.get("/sim/orders")).json()
    }


async def test_a_bracket_waits_for_its_entry_and_one_exit_ends_the_other() -> None:
    async with venue() as (made, client), listening(made) as stream:
        http = client()
        await at(http, "190")
        entry = (await place(http, type="limit", limit_price="189", **BRACKET)).json()
        assert (entry["order_class"], entry["status"]) == ("bracket", "accepted")
        target, stop = entry["legs"]
        assert [leg["status"] for leg in entry["legs"]] == ["held", "held"]
        assert [leg["side"] for leg in entry["legs"]] == ["sell", "sell"]
        assert (target["type"], target["limit_price"], target["qty"]) == ("limit", "195", "10")
        assert (stop["type"], stop["stop_price"], stop["legs"]) == ("stop", "185", None)
        assert len({entry["client_order_id"]} | {x["client_order_id"] for x in entry["legs"]}) == 3
        assert made.venue.order_count == 1  # the exits came along

        await at(
            http, "180"
        )  # the stop is below, but not in the market yet: the entry fills at 189
        told = await events(stream, 6)
        assert [(e["event"], e["order"]["id"]) for e in told] == [
            ("new", entry["id"]),
            ("fill", entry["id"]),
            ("new", target["id"]),
            ("new", stop["id"]),
            ("fill", stop["id"]),
            ("canceled", target["id"]),
        ]
        assert [e.get("position_qty") for e in told if e["event"] == "fill"] == ["10", "0"]
        assert await statuses(http) == {
            "entry": ("filled", "10"),
            "stop": ("filled", "10"),
            "target": ("canceled", "0"),
        }
        nested = (await http.get(f"/v2/orders/{entry['id']}?nested=true")).json()
        assert [leg["status"] for leg in nested["legs"]] == ["canceled", "filled"]
        assert (await http.get(f"/v2/orders/{entry['id']}")).json()["legs"] is None


async def test_partial_fills_of_an_exit_reduce_the_other() -> None:
    async with venue(max_fill_qty=Decimal(4), tick_interval_s=60.0) as (made, client):
        http = client()
        await at(http, "190")
        await place(http, **BRACKET)
        await at(http, "190")
        await at(http, "190")
        assert (await statuses(http))["entry"] == ("filled", "10")
        await at(http, "195")
        rows = {row["leg"]: row for row in (await http.get("/sim/orders")).json()}
        assert (rows["target"]["status"], rows["target"]["filled_qty"]) == ("partially_filled", "4")
        assert (rows["stop"]["status"], rows["stop"]["qty"]) == ("new", "6")
        await at(http, "184")
        rows = {row["leg"]: row for row in (await http.get("/sim/orders")).json()}
        assert (rows["stop"]["filled_qty"], rows["target"]["qty"]) == ("4", "6")
        await at(http, "184")
        assert await statuses(http) == {
            "entry": ("filled", "10"),
            "stop": ("filled", "6"),
            "target": ("canceled", "4"),
        }
        assert made.venue.accounts["K1"].money.quantity("AAPL") == 0


@pytest.mark.parametrize("filled", ["0", "4"])
async def test_a_cancelled_entry_leaves_exits_for_what_it_filled(filled: str) -> None:
    settings = {"max_fill_qty": Decimal(4), "tick_interval_s": 60.0}
    async with venue(**settings) as (made, client), listening(made) as stream:
        http = client()
        await at(http, "190")
        entry = (await place(http, type="limit", limit_price="189", **BRACKET)).json()
        if filled != "0":
            await at(http, "189")
        assert (await http.delete(f"/v2/orders/{entry['id']}")).status_code == 204
        told = await events(stream, 4 if filled == "0" else 5)
        names = [e["event"] for e in told]
        if filled == "0":
            assert names == ["new", "canceled", "canceled", "canceled"]
            assert {e["order"]["qty"] for e in told} == {"10"}
            assert (await http.get("/v2/orders")).json() == []
        else:
            assert names == ["new", "partial_fill", "canceled", "new", "new"]
            assert [e["order"]["qty"] for e in told[3:]] == ["4", "4"]


async def test_an_oco_pair_and_cancels_that_go_together() -> None:
    async with venue() as (made, client), listening(made) as stream:
        http = client()
        await at(http, "190")
        await place(http, "entry")
        pair = {**BRACKET, "order_class": "oco", "side": "sell", "type": "limit"}
        target = (await place(http, "pair", **pair)).json()
        assert (target["type"], target["limit_price"]) == ("limit", "195")
        [stop] = target["legs"]
        assert (stop["side"], stop["stop_price"], stop["order_class"]) == ("sell", "185", "oco")
        told = [(e["event"], e["order"]["id"]) for e in await events(stream, 4)]
        assert told[2:] == [("new", target["id"]), ("new", stop["id"])]
        assert (await http.delete(f"/v2/orders/{stop['id']}")).status_code == 204
        told = [(e["event"], e["order"]["id"]) for e in await events(stream, 2)]
        assert told == [("canceled", stop["id"]), ("canceled", target["id"])]

        again = (await place(http, "again", **pair)).json()
        assert len((await http.delete("/v2/orders")).json()) == 2
        assert (await http.get("/v2/orders")).json() == []
        assert (await http.get(f"/v2/orders/{again['id']}")).json()["status"] == "canceled"


async def test_a_replaced_leg_stays_linked() -> None:
    async with venue() as (made, client):
        http = client()
        await at(http, "190")
        entry = (await place(http, **BRACKET)).json()
        old = entry["legs"][1]
        answer = await http.patch(f"/v2/orders/{old['id']}", json={"stop_price": "188"})
        assert answer.status_code == 200
        new = answer.json()
        assert (new["replaces"], new["stop_price"], new["order_class"]) == (
            old["id"],
            "188",
            "bracket",
        )
        await at(http, "187")
        nested = (await http.get(f"/v2/orders/{entry['id']}?nested=true")).json()
        assert [(x["id"], x["status"]) for x in nested["legs"]] == [
            (entry["legs"][0]["id"], "canceled"),
            (new["id"], "filled"),
        ]
        assert made.venue.accounts["K1"].money.quantity("AAPL") == 0


async def test_a_replaced_entry_keeps_its_exits() -> None:
    async with venue(max_fill_qty=Decimal(4), tick_interval_s=60.0) as (made, client):
        http = client()
        await at(http, "190")
        entry = (await place(http, type="limit", limit_price="189", **BRACKET)).json()
        await at(http, "189")
        patched = await http.patch(f"/v2/orders/{entry['id']}", json={"limit_price": "189.5"})
        assert (patched.json()["qty"], patched.json()["order_class"]) == ("6", "bracket")
        await at(http, "189.2")
        legs = [row for row in (await http.get("/sim/orders")).json() if row["leg"]]
        assert {(x["status"], x["qty"], x["parent"]) for x in legs} == {
            ("new", "10", patched.json()["id"])
        }
        assert made.venue.accounts["K1"].money.quantity("AAPL") == 10


async def test_open_exits_hold_the_position() -> None:
    async with venue() as (_, client):
        http = client()
        await at(http, "190")
        await place(http, "entry", **BRACKET)
        [position] = (await http.get("/v2/positions")).json()
        assert (position["qty"], position["qty_available"]) == ("10", "0")
        for refused in (
            await place(http, "x", side="sell"),
            await http.delete("/v2/positions/AAPL"),
        ):
            assert refused.status_code == 403
            assert refused.json() == {
                "code": 40310000,
                "message": "insufficient qty available for order (requested: 10, available: 0)",
                "symbol": "AAPL",
                "available": "0",
                "existing_qty": "10",
                "held_for_orders": "10",
            }
        assert (await place(http, "more")).status_code == 200
        assert (await place(http, "part", side="sell")).status_code == 200
        await http.delete("/v2/orders")
        assert (await http.delete("/v2/positions/AAPL")).status_code == 200
        assert (await http.get("/v2/positions")).json() == []


async def test_a_trailing_stop_follows_the_price_one_way() -> None:
    async with venue() as (_, client):
        http = client()
        await at(http, "200")
        await place(http, "entry")
        stop = {"side": "sell", "type": "trailing_stop", "trail_percent": "5"}
        order = (await place(http, "trail", **stop)).json()
        path = f"/v2/orders/{order['id']}"
        assert (order["type"], order["trail_percent"], order["stop_price"]) == (
            "trailing_stop",
            "5",
            "190",
        )
        for price, hwm, stop_price in (("220", "220", "209"), ("210", "220", "209")):
            await at(http, price)
            seen = (await http.get(path)).json()
            assert (seen["status"], seen["hwm"], seen["stop_price"]) == ("new", hwm, stop_price)
        patched = await http.patch(path, json={"trail": "1"})
        assert (patched.json()["trail_percent"], patched.json()["stop_price"]) == ("1", "207.9")
        await at(http, "207.9")
        seen = (await http.get(f"/v2/orders/{patched.json()['id']}")).json()
        assert (seen["status"], seen["filled_avg_price"]) == ("filled", "207.9")


@pytest.mark.parametrize(
    ("exits", "text"),
    [
        ({"take_profit": {"limit_price": "195"}, "stop_loss": {"stop_price": "195"}}, "base_price"),
        ({"order_class": "oco", "side": "sell", "stop_loss": {"stop_price": "196"}}, "must be <"),
        ({"time_in_force": "ioc"}, "day or gtc"),
    ],
)
async def test_exits_on_the_wrong_side_are_refused(exits: dict[str, Any], text: str) -> None:
    async with venue() as (made, client):
        http = client()
        await at(http, "190")
        answer = await place(http, **{**BRACKET, **exits})
        assert (answer.status_code, answer.json()["code"]) == (422, 42210000)
        assert text in answer.json()["message"]
        assert made.venue.order_count == 0


# Rules of other brokers


def market(client_id: str) -> NewOrder:
    return NewOrder(client_id, "AAPL", Side.BUY, Decimal(1), OrderType.MARKET, TimeInForce.GTC)


def limit(client_id: str) -> NewOrder:
    return NewOrder(
        client_id, "AAPL", Side.BUY, Decimal(1), OrderType.LIMIT, TimeInForce.GTC, Decimal(180)
    )


def the_account(book: Venue) -> Any:
    account = book.login("K1", "s")
    assert account is not None
    return account


@pytest.mark.parametrize(
    ("rule", "while_open", "when_filled"),
    [("durable", False, False), ("open_only", False, True), ("none", True, True)],
)
async def test_what_a_client_id_promises(rule: Any, while_open: bool, when_filled: bool) -> None:
    async with venue() as (made, _):
        book = made.venue
        book.rules = Rules(client_ids=rule)
        account = the_account(book)
        book.market.pin("AAPL", Decimal(190))

        def taken(wanted: NewOrder) -> bool:
            try:
                book.activate(book.place(account, wanted))
            except Refused as refused:
                return refused.reason is not Reason.DUPLICATE
            return True

        assert taken(limit("open"))
        assert taken(limit("open")) is while_open
        assert taken(market("filled"))
        assert taken(market("filled")) is when_filled
        if rule != "none":
            twins = (Exit(Decimal(195), None, "x"), Exit(None, Decimal(185), "x"))
            wanted = NewOrder(
                "y", "AAPL", Side.BUY, Decimal(1), OrderType.MARKET, TimeInForce.GTC, exits=twins
            )
            assert not taken(wanted)


async def test_orders_amended_and_turned_down_in_place() -> None:
    async with venue() as (made, _):
        book = made.venue
        account = the_account(book)
        book.market.pin("AAPL", Decimal(190))
        order = book.place(account, limit("a"))
        book.activate(order)
        book.amend(order, Decimal(3), Decimal(191))
        book.announce("replaced", order)
        book.reenter(order)
        assert (order.status, order.cum_qty, order.avg_px) == (OrderStatus.FILLED, 3, 190)
        with pytest.raises(Refused):
            book.amend(order, Decimal(4))
        late = book.place(account, limit("b"))
        book.activate(late)
        book.reject(late)
        assert (late.status, late.open, account.open) == (OrderStatus.REJECTED, False, {})
        assert account.money.reserved == 0


async def test_exits_that_end_alone() -> None:
    async with venue() as (made, _):
        book = made.venue
        book.rules = Rules(cancels_together=False)
        account = the_account(book)
        book.market.pin("AAPL", Decimal(190))
        legs = (Exit(Decimal(195)), Exit(None, Decimal(185)))
        entry = book.place(
            account,
            NewOrder(
                "e", "AAPL", Side.BUY, Decimal(1), OrderType.MARKET, TimeInForce.GTC, exits=legs
            ),
        )
        book.activate(entry)
        target, stop = entry.exits
        book.cancel(target)
        book.announce("canceled", target)
        assert (target.status, stop.status) == (OrderStatus.CANCELED, OrderStatus.NEW)
        book.market.pin("AAPL", Decimal(185))
        assert stop.status is OrderStatus.FILLED


async def test_exits_wait_for_the_fill_delay_too() -> None:
    async with venue(fill_delay_ms=20) as (made, client), listening(made) as stream:
        http = client()
        await at(http, "190")
        await place(http, **BRACKET)
        assert [e["event"] for e in await events(stream, 4)] == ["new", "fill", "new", "new"]
        async with asyncio.timeout(5):
            while (await statuses(http))["stop"] != ("filled", "10"):
                await at(http, "184")
        assert (await statuses(http))["target"] == ("canceled", "0")
