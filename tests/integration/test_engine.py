"""The whole engine in one process: signals in at a real socket, orders out to a real venue, every outcome."""

from __future__ import annotations

import asyncio
import json
import os
import sys
import time
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from decimal import Decimal

import pytest

from engine.clock import rfc3339
from engine.model.enums import OrderStatus
from engine.model.position import Position
from engine.simbroker import SimBroker
from engine.stores.accounts_sqlite import SqliteAccountStore
from tests.processes import (
    ROOT,
    EngineProcess,
    VenueProcess,
    environment,
    import_accounts,
    signal_document,
    until,
    write_config,
)
from tests.servers import free_port
from tests.world import World, alpaca, by_account, eventually, paper, venue, world

PRICE = Decimal("189.40")
NO_QUOTES = {"source": "none"}


@pytest.fixture
async def sim() -> AsyncIterator[SimBroker]:
    async with venue() as made:
        yield made


def url(sim: SimBroker) -> str:
    return f"http://127.0.0.1:{sim.port}"


def at_venue(sim: SimBroker, number: int) -> list:
    account = sim.venue.accounts.get(f"KEY{number:03d}")
    return [o for o in account.orders.values() if not o.leg] if account else []


def all_at_venue(sim: SimBroker) -> dict[str, list[str]]:
    """Client order ids by account, as the venue has them."""
    return {
        f"A-{key[3:]}": [o.client_order_id for o in account.orders.values() if not o.leg]
        for key, account in sim.venue.accounts.items()
        if account.orders
    }


def ago(seconds: float) -> str:
    return rfc3339(datetime.now(UTC) - timedelta(seconds=seconds))


def closed_now() -> dict[str, str]:
    """Trading hours that do not contain now, whatever time it is."""
    now = datetime.now(UTC)
    opens, closes = now + timedelta(hours=2), now + timedelta(hours=3)
    return {"zone": "UTC", "open": f"{opens:%H:%M}", "close": f"{closes:%H:%M}"}


# ---- every outcome and code


async def test_each_account_has_an_order_or_a_code(tmp_path, sim: SimBroker) -> None:
    here = url(sim)
    limits = [
        {"min_reward_risk": "3"},
        {"max_order_quantity": "0.5"},
        {"max_order_value": "100"},
        {"max_positions": 0},
    ]
    accounts = [
        alpaca(1, here),
        alpaca(2, here, active=False),
        alpaca(3, here, strategies=["other"]),
        alpaca(4, here, symbols=["MSFT"]),
        alpaca(5, here, hours=closed_now()),
        alpaca(6, f"http://127.0.0.1:{free_port()}"),
        *(alpaca(7 + n, here, limits=limit) for n, limit in enumerate(limits)),
        alpaca(11, here, sizing={"method": "signal"}),
        alpaca(12, here, approval="review"),
        alpaca(13, here, sizing={"method": "fixed", "quantity": "0.0000000001"}),
        alpaca(14, here, tags=["gold"]),
        alpaca(15, here, sizing={"method": "multiplier", "factor": "2"}),
        paper(1),
        {**alpaca(16, here), "credentials": alpaca(1, here)["credentials"] | {"secret": "wrong"}},
    ]
    async with world(tmp_path, accounts, connected=13) as w:
        await eventually(lambda: w.engine.fleet.states["A-016"].connection.value == "error")
        detail = await w.send(stop_loss="180", take_profit="200")
        rows = by_account(detail)
        assert {name: (row["outcome"], row["code"]) for name, row in rows.items()} == {
            "A-001": ("sent", ""),
            "A-002": ("skipped", "INACTIVE"),
            "A-003": ("skipped", "NOT_SUBSCRIBED"),
            "A-004": ("skipped", "SYMBOL_NOT_ALLOWED"),
            "A-005": ("skipped", "OUTSIDE_HOURS"),
            "A-006": ("skipped", "NOT_CONNECTED"),
            "A-007": ("skipped", "REWARD_RISK"),
            "A-008": ("refused", "QTY_MAX"),
            "A-009": ("refused", "VALUE_MAX"),
            "A-010": ("skipped", "POSITION_LIMIT"),
            "A-011": ("refused", "NO_QUANTITY"),
            "A-012": ("held", "REVIEW"),
            "A-013": ("refused", "QTY_MIN"),
            "A-014": ("sent", ""),
            "A-015": ("refused", "NO_QUANTITY"),
            "A-016": ("skipped", "NOT_CONNECTED"),
            "P-001": ("sent", ""),
        }
        assert all(row["message"] for row in rows.values() if row["code"])
        for text in ("0.5", "100", "3"):
            assert any(text in row["message"] for row in rows.values()), text
        sent = {name: row["cl_ord_id"] for name, row in rows.items() if row["outcome"] == "sent"}
        assert all_at_venue(sim) == {name: [sent[name]] for name in ("A-001", "A-014")}
        await eventually(lambda: w.position("P-001") == 1)
        counts = detail["signal"]
        assert (counts["sent"], counts["held"], counts["skipped"], counts["refused"]) == (
            3,
            1,
            8,
            5,
        )
        assert len({row["cl_ord_id"] for row in rows.values()} - {None}) == 3

        second = await w.send(id="s-2", quantity="2", stop_loss="185", audience={"tags": ["gold"]})
        codes = {row["account"]: row["code"] for row in second["accounts"]}
        assert codes.pop("A-014") == ""
        assert codes["A-003"] == "NOT_SUBSCRIBED"
        assert codes["A-001"] == codes["P-001"] == codes["A-012"] == "NOT_IN_AUDIENCE"


async def test_sizing_methods_at_the_venue(tmp_path, sim: SimBroker) -> None:
    here = url(sim)
    sizings = [
        {"method": "fixed", "quantity": "3"},
        {"method": "signal"},
        {"method": "multiplier", "factor": "2.5"},
        {"method": "notional", "value": "1894"},
        {"method": "percent_equity", "percent": "1.894"},
        {"method": "risk_percent", "percent": "0.1"},
    ]
    accounts = [alpaca(n, here, sizing=sizing) for n, sizing in enumerate(sizings, 1)]
    async with world(tmp_path, accounts) as w:
        states = w.engine.fleet.states
        await eventually(lambda: all(state.balances for state in states.values()))
        detail = await w.send(quantity="4", stop_loss="187.40", take_profit="195")
        placed = {row["account"]: Decimal(row["order_qty"]) for row in detail["accounts"]}
        assert placed == {
            "A-001": Decimal(3),
            "A-002": Decimal(4),
            "A-003": Decimal(10),
            "A-004": Decimal(10),
            "A-005": Decimal(10),
            "A-006": Decimal(50),  # 100 of 100,000 at risk, 2 a unit
        }
        for number in range(1, 7):
            [order] = at_venue(sim, number)
            assert order.order_qty == placed[f"A-{number:03d}"]
        refusals = {}
        for number, fields in enumerate(({"quantity": "1"}, {"stop_loss": "195"})):
            detail = await w.send(id=f"bad-{number}", **fields)
            refusals |= {row["code"]: row["account"] for row in detail["accounts"] if row["code"]}
        assert (refusals["NO_STOP"], refusals["STOP_SIDE"]) == ("A-006", "A-006")


@pytest.mark.parametrize(
    ("fields", "limits", "code"),
    [
        ({"order_type": "limit", "limit_price": "200"}, {}, "COLLAR"),
        ({"order_type": "stop", "stop_price": "210"}, {}, "COLLAR"),
        ({"reference_price": "170"}, {}, "DRIFT"),
        ({"symbol": "NOQUOTE"}, {}, "REF_MISSING"),
        ({"issued_at": ago(20), "valid_for_s": 10}, {}, "STALE"),
        ({"issued_at": ago(6), "valid_for_s": None}, {}, "STALE"),
        ({"strategy": "nobodys"}, {}, "NO_ACCOUNTS"),
        ({"audience": {"accounts": ["nobody"]}}, {}, "NO_ACCOUNTS"),
        ({}, {"max_accounts_per_signal": 2}, "FANOUT_ACCOUNTS"),
        ({}, {"max_signal_value": "568.19"}, "FANOUT_VALUE"),
    ],
)
async def test_a_signal_is_refused_whole(tmp_path, sim: SimBroker, fields, limits, code) -> None:
    if "issued_at" in fields:
        fields = {**fields, "issued_at": ago(20)}
    accounts = [alpaca(n, url(sim), strategies=["breakout"]) for n in (1, 2, 3)]
    async with world(tmp_path, accounts, market=NO_QUOTES, limits=limits) as w:
        w.engine.set_prices({"AAPL": PRICE})
        given = {
            name: value for name, value in signal_document(**fields).items() if value is not None
        }
        answer = await w.http.post("/v1/signals", json=given)
        assert (answer.status_code, answer.json()["state"]) == (202, "refused")
        assert answer.json()["code"] == code
        assert answer.json()["message"]
        detail = await w.detail("bot/s-1")
        assert (detail["signal"]["state"], detail["signal"]["code"]) == ("refused", code)
        assert not sim.venue.order_count
        again = await w.http.post("/v1/signals", json=given)
        assert again.status_code == 200
        assert again.json() == answer.json()


async def test_an_order_worth_the_cap_exactly_passes(tmp_path, sim: SimBroker) -> None:
    accounts = [alpaca(n, url(sim)) for n in (1, 2, 3)]
    limits = {"max_signal_value": "568.20", "max_accounts_per_signal": 3}
    async with world(tmp_path, accounts, limits=limits) as w:
        detail = await w.send()
        assert detail["signal"]["sent"] == 3


async def test_an_old_reference_is_no_reference(tmp_path, sim: SimBroker) -> None:
    limits = {"reference_max_age_s": 0.1}
    async with world(tmp_path, [alpaca(1, url(sim))], market=NO_QUOTES, limits=limits) as w:
        assert (await w.http.post("/v1/prices", json={"AAPL": "189.40"})).status_code == 200
        await eventually(lambda: w.engine.marks.age_s("AAPL") > 0.12)
        answer = await w.post()
        assert answer.json()["code"] == "REF_STALE"
        await w.http.post("/v1/prices", json={"AAPL": "189.41"})
        assert (await w.send(id="s-2"))["signal"]["state"] == "accepted"


async def test_without_a_reference_when_available_goes_on(tmp_path, sim: SimBroker) -> None:
    limits = {"price_reference": "when_available"}
    accounts = [alpaca(1, url(sim)), alpaca(2, url(sim), limits={"max_order_value": "1000"})]
    async with world(tmp_path, accounts, market=NO_QUOTES, limits=limits) as w:
        rows = by_account(await w.send())
        assert rows["A-001"]["outcome"] == "sent"
        assert rows["A-002"]["code"] == "REF_MISSING"
        # its own price is one to size and check with
        rows = by_account(await w.send(id="s-2", order_type="limit", limit_price="189"))
        assert rows["A-002"]["outcome"] == "sent"


@pytest.mark.parametrize(
    ("command", "state", "code"), [("disarm", "disarmed", "DISARMED"), ("kill", "halted", "HALTED")]
)
async def test_states_refuse_signals(tmp_path, sim: SimBroker, command, state, code) -> None:
    async with world(tmp_path, [alpaca(1, url(sim))]) as w:
        await w.send()
        await w.command(command)
        assert w.engine.states.firm.value == state
        for number, action in enumerate(("buy", "sell", "close")):
            answer = await w.post(id=f"r-{number}", action=action)
            assert answer.json()["code"] == code
        assert len(at_venue(sim, 1)) == 1
        assert (await w.http.get("/v1/status")).json()["engine"]["trading"] == state
        await w.command("rearm", reason="test")
        assert (await w.http.get("/v1/status")).json()["engine"]["trading"] == "active"
        assert (await w.send(id="s-2"))["signal"]["sent"] == 1


async def test_a_new_engine_is_disarmed(tmp_path, sim: SimBroker) -> None:
    async with world(tmp_path, [alpaca(1, url(sim))], engine={"trading": "disarmed"}) as w:
        answer = await w.post()
        assert (answer.json()["state"], answer.json()["code"]) == ("refused", "DISARMED")
        assert not at_venue(sim, 1)


# ---- fills, positions, money


async def test_fills_update_positions_and_profit_exactly(tmp_path, sim: SimBroker) -> None:
    sizing = {"method": "signal"}
    accounts = [alpaca(1, url(sim), sizing=sizing), paper(1, sizing=sizing)]
    truth = {"A-001": Position("A-001", "BTCUSDT"), "P-001": Position("P-001", "BTCUSDT")}
    trades = [
        ("buy", "3", "100.00"), ("buy", "2", "101.37"), ("sell", "4", "103.11"), ("sell", "4", "99.02"),
        ("sell", "0.5", "98.765"), ("buy", "3.5", "97.01"), ("buy", "7", "97.77"), ("close", None, "96.5"),
        ("sell", "1.25", "96.49"),
    ]  # fmt: skip
    async with world(tmp_path, accounts, limits={"collar_percent": "50"}) as w:
        for number, (action, quantity, price) in enumerate(trades):
            sim.venue.market.pin("BTCUSDT", Decimal(price))
            w.engine.set_prices({"BTCUSDT": Decimal(price)})
            more = {} if quantity is None else {"quantity": quantity}
            detail = await w.send(id=f"t-{number}", action=action, symbol="BTCUSDT", **more)
            orders = [w.order(detail, account) for account in truth]
            await eventually(lambda now=orders: all(o.status is OrderStatus.FILLED for o in now))
            for order in orders:
                truth[order.account].apply(order.side, order.order_qty, Decimal(price))
                held = w.engine.keeper.get(order.account, "BTCUSDT")
                expected = truth[order.account]
                assert (held.qty, held.cash) == (expected.qty, expected.cash)
                assert held.realised == expected.realised
        money = sim.venue.accounts["KEY001"].money
        assert money.cash == 100_000 + truth["A-001"].cash
        assert money.positions["BTCUSDT"].qty == truth["A-001"].qty == Decimal("-1.25")
        assert money.positions["BTCUSDT"].realised == truth["A-001"].realised
        fills = await w.rows("fills")
        assert len(fills) == 2 * len(trades)
        assert len({fill["key"] for fill in fills}) == len(fills)
        for account, expected in truth.items():
            cash = sum(
                (-1 if fill["side"] == "buy" else 1)
                * Decimal(fill["last_qty"]) * Decimal(fill["last_px"])
                for fill in fills if fill["account"] == account
            )  # fmt: skip
            assert cash == expected.cash
        w.engine.set_prices({"BTCUSDT": Decimal(90)})
        rows = {row["account"]: row for row in await w.rows("positions")}
        unrealised = truth["A-001"].unrealised(Decimal(90))
        assert Decimal(rows["A-001"]["unrealised"]) == round(unrealised, 2)
        assert Decimal(rows["P-001"]["realised"]) == round(truth["P-001"].realised, 2)
        account = next(row for row in await w.rows("accounts") if row["id"] == "A-001")
        assert Decimal(account["day_pnl"]) == round(truth["A-001"].realised + unrealised, 2)


async def test_partial_fills_add_up(tmp_path) -> None:
    async with venue(max_fill_qty=Decimal(1)) as sim:
        account = alpaca(1, url(sim), sizing={"method": "fixed", "quantity": "5"})
        async with world(tmp_path, [account]) as w:
            detail = await w.send()
            order = w.order(detail, "A-001")
            await eventually(lambda: order.status is OrderStatus.FILLED)
            assert w.position("A-001") == 5
            fills = await w.rows("fills", account="A-001")
            assert [fill["last_qty"] for fill in fills] == ["1"] * 5
            assert (await w.rows("orders", status="filled"))[0]["cum_qty"] == "5"


async def test_the_broker_refuses_and_trading_goes_on(tmp_path, sim: SimBroker) -> None:
    big = {"sizing": {"method": "fixed", "quantity": "100000"}}
    accounts = [alpaca(1, url(sim)), alpaca(2, url(sim), **big)]
    async with world(tmp_path, accounts) as w:
        rows = by_account(await w.send())
        assert (rows["A-001"]["status"], rows["A-002"]["status"]) != ("rejected", "filled")
        assert (rows["A-002"]["outcome"], rows["A-002"]["code"]) == ("sent", "BROKER_REJECTED")
        assert rows["A-002"]["status"] == "rejected"
        assert "insufficient buying power" in rows["A-002"]["message"]
        row = next(row for row in await w.rows("accounts") if row["id"] == "A-002")
        assert (row["rejects"], row["open_orders"]) == (1, 0)
        await eventually(lambda: w.position("A-001") == 1)
        assert w.position("A-002") == 0
        await w.send(id="s-2", audience={"accounts": ["A-001"]})
        await eventually(lambda: w.position("A-001") == 2)


# ---- unknown outcomes


async def test_every_fault_ends_with_one_order(tmp_path, sim: SimBroker) -> None:
    """One fan-out, each account's order meeting another fault: no proof is unknown, never a second order."""
    absent = ["drop", "http_429", "http_500", "http_503", "hang"]
    actions = [*absent, "accept_then_drop", "reset_mid_reply", "garbage", "accept_then_hang"]
    async with world(tmp_path, [alpaca(n, url(sim)) for n in range(1, len(actions) + 2)]) as w:
        sim.faults.replace(
            {
                "action": action,
                "match": {"method": "POST", "account": f"KEY{number:03d}"},
                "times": 1,
            }
            for number, action in enumerate(actions, 1)
        )
        answer = await w.post(valid_for_s=60)
        assert answer.json()["state"] == "accepted"
        record = w.engine.records["bot/s-1"]
        seen: set[tuple[str, str]] = set()

        def settled() -> bool:
            for order in record.orders.values():
                seen.add((order.account, order.status.value))
            return all(o.status is OrderStatus.FILLED for o in record.orders.values())

        await eventually(settled, 40, "every order is filled")
        for number, action in enumerate(absent, 1):  # of the others the stream may tell first
            assert (f"A-{number:03d}", "unknown") in seen, action
        assert not any(status in {"rejected", "denied", "expired"} for _, status in seen)
        rows = by_account(await w.detail("bot/s-1"))
        assert all_at_venue(sim) == {name: [row["cl_ord_id"]] for name, row in rows.items()}
        assert all(w.position(name) == 1 for name in rows)
        assert (await w.http.get("/v1/status")).json()["engine"]["unknown_orders"] == 0


def test_an_order_that_is_lost_again_and_again_arrives(tmp_path) -> None:
    """Proven absent, sent again, lost again: each time it is looked up, however fast the bad news come."""
    with VenueProcess(tmp_path, "--still") as venue_:
        home = tmp_path / "home"
        home.mkdir(mode=0o700)
        write_config(home)
        import_accounts(home, [alpaca(n, venue_.url) for n in range(20)])
        with EngineProcess(home) as engine:
            engine.wait_connected(20)
            faults = [
                {"action": action, "match": {"method": "POST", "account": f"KEY{n:03d}"}}
                for n in range(20)
                for action in ("http_500", "drop", "http_503")
            ]
            venue_.post("/sim/faults", faults)
            engine.signal(valid_for_s=60)
            until(lambda: venue_.get("/sim/summary")["orders"] == 20, 30, "every order arrives")
            until(lambda: engine.status()["fills"] == 20)
            assert {row["status"] for row in engine.detail("bot/s-1")["accounts"]} == {"filled"}


async def test_an_unknown_order_blocks_its_side(tmp_path, sim: SimBroker) -> None:
    async with world(tmp_path, [alpaca(1, url(sim))]) as w:
        sim.faults.replace([{"action": "drop", "match": {"method": "POST"}, "times": 0}])
        await w.post(valid_for_s=1)
        order = next(iter(w.engine.records["bot/s-1"].orders.values()))
        await eventually(lambda: order.status is OrderStatus.UNKNOWN)
        answer = await w.post(id="s-2")
        assert answer.json()["state"] == "refused"
        assert by_account(await w.detail("bot/s-2"))["A-001"]["code"] == "UNKNOWN_OPEN"
        sim.faults.replace([])
        await eventually(lambda: order.status is OrderStatus.EXPIRED, 15)
        assert order.code == "ABSENT"
        assert not at_venue(sim, 1)
        row = by_account(await w.detail("bot/s-1"))["A-001"]
        assert (row["status"], row["code"]) == ("expired", "ABSENT")
        assert row["message"]
        await w.send(id="s-3")
        await eventually(lambda: w.position("A-001") == 1)


async def test_the_broker_goes_away_and_comes_back(tmp_path, sim: SimBroker) -> None:
    accounts = [alpaca(n, url(sim)) for n in (1, 2, 3)]
    async with world(tmp_path, [*accounts, paper(1)], limits={"reference_max_age_s": 60}) as w:
        await w.send()
        await eventually(lambda: all(w.position(f"A-{n:03d}") == 1 for n in (1, 2, 3)))
        sim.config.latency_ms = 60_000  # what arrives now is placed and not answered
        answer = await w.post(id="s-2", valid_for_s=60)
        assert answer.status_code == 202
        await eventually(lambda: sim.venue.order_count == 6)
        port = sim.port
        await sim.stop()
        states = w.engine.fleet.states
        await eventually(lambda: not any(states[f"A-{n:03d}"].usable for n in (1, 2, 3)))
        orders = list(w.engine.records["bot/s-2"].orders.values())
        assert {o.status for o in orders if o.account != "P-001"} == {OrderStatus.UNKNOWN}
        rows = by_account(await w.send(id="s-3"))
        assert {rows[f"A-{n:03d}"]["code"] for n in (1, 2, 3)} == {"NOT_CONNECTED"}
        assert rows["P-001"]["outcome"] == "sent"

        sim.config.latency_ms = 0
        await sim.start(port=port)
        await eventually(lambda: all(state.usable for state in states.values()), 30)
        # The venue had them; its acknowledgements were lost with it, so they were never activated there.
        await eventually(lambda: all(o.status is not OrderStatus.UNKNOWN for o in orders), 20)
        assert sim.venue.order_count == 6
        await w.send(id="s-4")
        await eventually(lambda: sim.venue.order_count == 9)


async def test_fills_missed_by_the_stream_are_found(tmp_path, sim: SimBroker) -> None:
    async with world(tmp_path, [alpaca(1, url(sim))]) as w:
        detail = await w.send(order_type="limit", limit_price="185")
        order = w.order(detail, "A-001")
        await eventually(lambda: order.status is OrderStatus.NEW)
        connection = w.engine.fleet.states["A-001"]
        for stream in sim.dialect.streams():
            stream.abort()
        sim.venue.market.pin("AAPL", Decimal("184.50"))  # it fills while nobody listens
        await eventually(lambda: order.status is OrderStatus.FILLED, 20)
        await eventually(lambda: connection.connection.value == "connected", 20)
        assert w.position("A-001") == 1
        assert w.engine.keeper.get("A-001", "AAPL").cash == -order.avg_px
        assert order.cum_qty == 1


# ---- close, cancel, modify


async def test_close_cancel_and_modify(tmp_path, sim: SimBroker) -> None:
    accounts = [alpaca(1, url(sim)), alpaca(2, url(sim), strategies=["breakout"]), paper(1)]
    async with world(tmp_path, accounts) as w:
        assert (await w.post(id="c-0", action="close")).json()["code"] == "NO_ACCOUNTS"
        await w.send(id="s-1", audience={"accounts": ["A-001", "P-001"]})
        await eventually(lambda: w.position("A-001") == w.position("P-001") == 1)

        rows = by_account(
            await w.send(id="m-1", action="modify", stop_loss="180", take_profit="210")
        )
        assert rows["A-002"]["code"] == "NO_POSITION"
        assert rows["A-001"]["outcome"] == rows["P-001"]["outcome"] == "sent"
        held = {row["account"]: row for row in await w.rows("positions")}
        assert (held["A-001"]["stop_loss"], held["A-001"]["take_profit"]) == ("180", "210")

        await w.send(id="l-1", order_type="limit", limit_price="185")
        await eventually(lambda: len(w.engine.orders.working()) == 3)
        other = by_account(
            await w.send(id="l-2", strategy="other", order_type="limit", limit_price="184")
        )
        assert other["A-002"]["code"] == "NOT_SUBSCRIBED"
        rows = by_account(await w.send(id="x-1", action="cancel"))
        assert {row["outcome"] for row in rows.values()} == {"sent"}
        await eventually(
            lambda: len(w.engine.orders.working()) == 2
        )  # those of the other strategy stay
        assert {o.strategy for o in w.engine.orders.working()} == {"other"}
        nothing = await w.post(id="x-2", action="cancel", strategy="third")
        assert nothing.json()["code"] == "NO_ACCOUNTS"

        rows = by_account(await w.send(id="c-1", action="close"))
        assert rows["A-002"]["code"] == "NO_POSITION"
        assert (rows["A-001"]["side"], rows["A-001"]["order_qty"]) == ("sell", "1")
        await eventually(lambda: w.position("A-001") == w.position("P-001") == 0)
        twice = await w.post(id="c-2", action="close")
        assert twice.json()["code"] == "NO_ACCOUNTS"


async def test_two_closes_at_once_close_once(tmp_path) -> None:
    async with venue(fill_delay_ms=200) as sim, world(tmp_path, [alpaca(1, url(sim))]) as w:
        await w.send()
        await eventually(lambda: w.position("A-001") == 1)
        await asyncio.gather(*(w.post(id=f"c-{n}", action="close") for n in range(5)))
        await eventually(lambda: w.position("A-001") == 0)
        assert len(at_venue(sim, 1)) == 2


# ---- the trace, repeats, rates


async def test_the_trace_is_monotone(tmp_path) -> None:
    async with venue(latency_ms=5) as sim:
        accounts = [alpaca(n, url(sim)) for n in range(1, 31)]
        async with world(tmp_path, accounts) as w:
            for number in range(5):
                detail = await w.send(id=f"s-{number}")
                trace = detail["trace"]
                names = ("validated", "durable", "planned", "first_byte", "last_byte", "last_ack")
                stamps = [trace[name] for name in names]
                assert stamps == sorted(stamps), trace
                assert stamps[0] > 0
                assert trace["first_byte"] < trace["first_ack"] <= trace["last_ack"]
                assert trace["received"] == 0
                received = datetime.fromisoformat(trace["received_at"])
                assert abs((datetime.now(UTC) - received).total_seconds()) < 30
                for row in detail["accounts"]:
                    own = row["trace"]
                    assert [own[name] for name in names] == sorted(own[name] for name in names)
                    assert trace["first_byte"] <= own["first_byte"]
                    assert own["last_byte"] <= trace["last_byte"]
                    assert trace["first_ack"] <= own["first_ack"] <= trace["last_ack"]
            stages = (await w.http.get("/v1/latency")).json()["stages"]
            assert stages["last_ack"]["total"]["count"] == 5
            assert stages["ack"]["total"]["count"] == 150
            assert stages["ack"]["total"]["p50"] >= 4_000
            text = (await w.http.get("/metrics")).text
            assert "volley_orders_total 150" in text


async def test_a_repeat_gets_the_first_outcome(tmp_path, sim: SimBroker) -> None:
    async with world(tmp_path, [alpaca(1, url(sim)), alpaca(2, url(sim), approval="review")]) as w:
        body = json.dumps(signal_document())
        answers = await asyncio.gather(
            *(w.http.post("/v1/signals", content=body) for _ in range(20))
        )
        assert sorted(answer.status_code for answer in answers) == [200] * 19 + [202]
        assert len({answer.text for answer in answers}) == 1
        spaced = json.dumps(json.loads(body), indent=2, sort_keys=True)
        assert (await w.http.post("/v1/signals", content=spaced)).status_code == 200
        for changed in ({"action": "sell"}, {"quantity": "2"}, {"strategy": "x"}):
            other = await w.http.post("/v1/signals", json=json.loads(body) | changed)
            assert (other.status_code, other.json()["code"]) == (409, "DUPLICATE")
        elsewhere = await w.http.post("/v1/signals", json=json.loads(body) | {"source": "other"})
        assert elsewhere.status_code == 202
        await eventually(lambda: len(at_venue(sim, 1)) == 2)
        assert not at_venue(sim, 2)


async def test_the_rate_limit_queues_and_then_sends(tmp_path, sim: SimBroker) -> None:
    slow = {"limits": {"max_orders_per_second": 4}}
    async with world(tmp_path, [alpaca(1, url(sim), **slow), alpaca(2, url(sim))]) as w:
        began = time.monotonic()
        for number in range(8):
            assert (await w.post(id=f"s-{number}")).json()["state"] == "accepted"
        await eventually(lambda: len(at_venue(sim, 2)) == 8)
        assert len(at_venue(sim, 1)) < 8
        assert next(r for r in await w.rows("accounts") if r["id"] == "A-001")["queue"] > 0
        await eventually(lambda: len(at_venue(sim, 1)) == 8)
        assert time.monotonic() - began >= 0.9  # a burst of four, then four a second
        ids = [order.client_order_id for order in at_venue(sim, 1)]
        sent = [by_account(await w.detail(f"bot/s-{n}"))["A-001"]["cl_ord_id"] for n in range(8)]
        assert ids == sent  # in the order the signals came


async def test_what_waits_too_long_is_stale(tmp_path, sim: SimBroker) -> None:
    slow = {"limits": {"max_orders_per_second": 1}}
    async with world(tmp_path, [alpaca(1, url(sim), **slow)]) as w:
        for number in range(3):
            await w.post(id=f"s-{number}", valid_for_s=0.4)
        last = w.engine.records["bot/s-2"].orders["A-001"]
        await eventually(lambda: last.status is OrderStatus.DENIED)
        row = by_account(await w.detail("bot/s-2"))["A-001"]
        assert (row["outcome"], row["code"], row["status"]) == ("refused", "STALE", "denied")
        assert len(at_venue(sim, 1)) == 1
        exits = await w.send(id="c-1", action="close")
        assert exits["signal"]["state"] == "accepted"


# ---- accounts change


async def other_process(w: World, *arguments: str) -> None:
    process = await asyncio.create_subprocess_exec(
        sys.executable, str(ROOT / "main.py"), "--home", str(w.path), *arguments, env=environment(),
        stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.STDOUT,
    )  # fmt: skip
    said, _ = await process.communicate()
    assert process.returncode == 0, said.decode()


async def test_another_process_changes_an_account(tmp_path, sim: SimBroker) -> None:
    async with world(tmp_path, [alpaca(1, url(sim)), alpaca(2, url(sim))]) as w:
        states = w.engine.fleet.states
        await w.send()
        await other_process(w, "accounts", "disable", "A-001")
        await eventually(lambda: not states["A-001"].account.active, 1.0)
        rows = by_account(await w.send(id="s-2"))
        assert (rows["A-001"]["code"], rows["A-002"]["outcome"]) == ("INACTIVE", "sent")
        await other_process(w, "accounts", "enable", "A-001")
        await eventually(lambda: states["A-001"].account.active, 1.0)
        assert by_account(await w.send(id="s-3"))["A-001"]["outcome"] == "sent"
        await other_process(w, "accounts", "remove", "A-002")
        # What it holds is still seen and managed; it takes no new orders.
        await eventually(lambda: not states["A-002"].active, 1.0)
        assert by_account(await w.send(id="s-4"))["A-002"]["code"] == "INACTIVE"
        await w.command("close_position", account="A-002", symbol="AAPL")
        await eventually(lambda: w.position("A-002") == 0)
        await w.command("reload_accounts")
        assert "A-002" not in by_account(await w.send(id="s-5"))
        assert [row["id"] for row in await w.rows("accounts")] == ["A-001"]


async def test_accounts_change_under_a_stream_of_signals(tmp_path, sim: SimBroker) -> None:
    """Limits change, an account goes and comes back: every signal is answered, every order accounted for."""
    accounts = [alpaca(n, url(sim)) for n in range(1, 6)]
    async with world(tmp_path, accounts) as w:
        store = SqliteAccountStore(w.path / "accounts.sqlite3")
        await store.open()
        loaded = {account.id: account for account in await store.load()}
        done = asyncio.Event()
        sent = 0

        async def stream() -> None:
            nonlocal sent
            while not done.is_set():
                answer = await w.post(id=f"s-{sent}")
                assert answer.status_code == 202, answer.text
                sent += 1

        streams = asyncio.create_task(stream())
        try:
            for turn in range(6):
                third = loaded["A-003"].model_dump(mode="json") | {
                    "limits": {"max_orders_per_second": 1000 + turn},
                    "credentials": {
                        n: s.get_secret_value() for n, s in loaded["A-003"].credentials.items()
                    },
                }
                await store.put([type(loaded["A-003"]).model_validate(third)])
                assert (await w.command("reload_accounts"))["result"] == "done"
                await store.remove("A-005")
                await w.command("reload_accounts")
                await store.put([loaded["A-005"]])
                await w.command("reload_accounts")
                state = w.engine.fleet.states["A-005"]
                await eventually(lambda now=state: now.usable)
                assert not streams.done(), streams.result()
        finally:
            done.set()
            await streams
            await store.close()
        await eventually(lambda: not w.engine.orders.working(), 20, "no order is left open")
        expected: dict[str, set[str]] = {}
        for number in range(sent):
            for row in (await w.detail(f"bot/s-{number}"))["accounts"]:
                assert row["code"] or row["status"] == "filled", row
                if row["status"] == "filled":
                    expected.setdefault(row["account"], set()).add(row["cl_ord_id"])
        assert {name: set(ids) for name, ids in all_at_venue(sim).items()} == expected
        critical = [a for a in w.engine.alerts if a["severity"] == "critical"]
        assert not critical


async def test_a_daily_loss_ends_entries_and_not_exits(tmp_path, sim: SimBroker) -> None:
    losing = {
        "limits": {"max_daily_loss": "50"},
        "sizing": {"method": "fixed", "quantity": "10"},
    }
    async with world(tmp_path, [alpaca(1, url(sim), **losing)]) as w:
        await w.send()
        await eventually(lambda: w.position("A-001") == 10)
        sim.venue.market.pin("AAPL", PRICE - 5)
        w.engine.set_prices({"AAPL": PRICE - 5})
        rows = by_account(await w.detail("bot/s-1"))
        answer = await w.post(id="s-2")
        assert answer.json()["code"] == "NO_ACCOUNTS"
        rows = by_account(await w.detail("bot/s-2"))
        assert rows["A-001"]["code"] == "DAILY_LOSS"
        await w.send(id="c-1", action="close")
        await eventually(lambda: w.position("A-001") == 0)


@pytest.mark.skipif(os.name != "posix", reason="modes of POSIX")
async def test_the_home_is_private(tmp_path, sim: SimBroker) -> None:
    async with world(tmp_path, [alpaca(1, url(sim))]) as w:
        await w.send()
        assert (w.path / "token").stat().st_mode & 0o777 == 0o600
        for file in w.path.iterdir():
            assert not file.stat().st_mode & 0o007 or w.path.stat().st_mode & 0o777 == 0o700
