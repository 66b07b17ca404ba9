"""Exits on a whole engine: stops fire once for every account, survive restarts and kills, and never close twice."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from pathlib import Path

import orjson
import pytest

from engine.clock import rfc3339
from engine.errors import BrokerUnavailable
from engine.model.account import Hours
from engine.model.enums import ExecType, OrderStatus, OrderType, Side
from engine.model.identifiers import exit_leg_id
from engine.model.messages import ExecutionReport
from engine.model.order import Order
from engine.recovery import record_from_entry
from engine.signal_record import order_intents
from engine.simbroker import SimBroker
from engine.stores.journal_rows import SignalEntry
from tests.helpers import MONDAY, make_order, make_signal
from tests.integration.dying_engine import KILL
from tests.world import World, alpaca, eventually, paper, venue, world

D = Decimal


@pytest.fixture
async def sim() -> AsyncIterator[SimBroker]:
    async with venue() as made:
        made.venue.market.pin("AAPL", D(190))
        yield made


def url(sim: SimBroker) -> str:
    return f"http://127.0.0.1:{sim.port}"


def at(w: World, sim: SimBroker, price: str) -> None:
    """Move the market, at the venue and for the engine."""
    sim.venue.market.pin("AAPL", D(price))
    w.engine.set_prices({"AAPL": D(price)})


def exits(w: World) -> list[Order]:
    return [order for order in w.engine.orders.orders.values() if order.source == "protective"]


def venue_orders(sim: SimBroker) -> int:
    return sim.venue.order_count


async def held(w: World, *accounts: str) -> None:
    await eventually(lambda: all(w.position(account) for account in accounts), what="positions")


async def test_a_stop_fires_once_for_every_account(tmp_path: Path, sim: SimBroker) -> None:
    accounts = [alpaca(n, url(sim)) for n in range(1, 41)] + [paper(n) for n in range(1, 11)]
    names = [account["id"] for account in accounts]
    async with world(tmp_path, accounts) as w:
        at(w, sim, "190")
        await w.send(trail_percent="5")  # watched by the engine at every broker
        await held(w, *names)
        rows = {row["account"]: row for row in await w.rows("positions")}
        assert {row["protected"] for row in rows.values()} == {"engine"}
        assert {row["trail_percent"] for row in rows.values()} == {"5"}
        before = venue_orders(sim)
        at(w, sim, "200")
        at(w, sim, "190.01")
        await asyncio.sleep(0)
        assert exits(w) == []
        at(w, sim, "190")
        for _ in range(20):
            at(w, sim, "189")
        await eventually(lambda: not any(w.position(name) for name in names), what="flat")
        at(w, sim, "150")
        assert sorted(order.account for order in exits(w)) == sorted(names)
        assert venue_orders(sim) - before == 40
        assert {order.leg for order in exits(w)} == {"trail"}
        assert all(
            not account.money.positions["AAPL"].qty for account in sim.venue.accounts.values()
        )
        said = [alert for alert in w.engine.alerts if alert["code"] == "EXIT"]
        assert [alert["text"].rpartition(" closes ")[2] for alert in said] == ["50 positions"]


async def test_stop_target_and_change_by_signal_and_by_hand(tmp_path: Path, sim: SimBroker) -> None:
    async with world(tmp_path, [paper(1), paper(2)]) as w:
        at(w, sim, "190")
        await w.send(stop_loss="180", take_profit="210", trail_percent="20")
        await held(w, "P-001", "P-002")
        await w.send(id="m-1", action="modify", stop_loss="185", audience={"accounts": ["P-001"]})
        where = {"account": "P-002", "symbol": "AAPL"}
        assert await w.refused("set_stops", **where, stop_loss="190") == (409, "STOP_SIDE")
        assert await w.refused("set_stops", **where, take_profit="189") == (409, "TARGET_SIDE")
        await w.command("set_stops", **where, take_profit="200", trail_percent="3")
        rows = {row["account"]: row for row in await w.rows("positions")}
        told = [
            tuple(rows[name][k] for k in ("stop_loss", "take_profit", "trail_percent", "protected"))
            for name in ("P-001", "P-002")
        ]
        assert told == [("185", "210", "20", "engine"), (None, "200", "3", "engine")]
        assert rows["P-001"]["stop_distance_percent"] == "2.63"
        at(w, sim, "200")
        await eventually(lambda: not w.position("P-002"))
        assert w.position("P-001") == 1
        at(w, sim, "185")
        await eventually(lambda: not w.position("P-001"))
        assert sorted((o.account, o.leg) for o in exits(w)) == [
            ("P-001", "stop"),
            ("P-002", "target"),
        ]


async def test_levels_and_trail_survive_a_restart(tmp_path: Path, sim: SimBroker) -> None:
    async with world(tmp_path, [paper(1)]) as w:
        at(w, sim, "190")
        await w.send(stop_loss="150", trail_percent="10")
        await held(w, "P-001")
        at(w, sim, "220")
        await eventually(lambda: w.engine.keeper.get("P-001", "AAPL").best == 220)
    async with world(tmp_path) as w:
        position = w.engine.keeper.get("P-001", "AAPL")
        assert (position.stop_loss, position.trail_percent, position.best) == (150, 10, 220)
        assert position.protected == "engine"
        at(w, sim, "198.01")
        assert exits(w) == []
        at(w, sim, "198")
        await eventually(lambda: not w.position("P-001"))
    async with world(tmp_path) as w:
        at(w, sim, "100")
        assert len(exits(w)) == 1
        assert w.engine.keeper.get("P-001", "AAPL").generation == 2


def test_an_entry_that_never_left_is_planned_again_with_its_exits() -> None:
    signal = make_signal(stop_loss="95", take_profit="110")
    changed = make_order(
        "O-1", account="A-1", stop_loss=D("96.50"), take_profit=None, trail_percent=D("2.5")
    )  # as an operator approved it
    plan = {"orders": order_intents([changed])}

    def planned(plan: dict[str, object]) -> Order:
        entry = SignalEntry(
            source="bot", id="s-1", body_hash="", body=b"", origin="api", received_at=rfc3339(MONDAY),
            state="accepted", code="", message="", plan=plan,
        )  # fmt: skip
        return record_from_entry(entry, signal, {}).orders["A-1"]

    assert planned(orjson.loads(orjson.dumps(plan))).levels == changed.levels
    version_1 = [["buy", "market", "day", None, None, "entry", False, [["O-1", "A-1", "10"]]]]
    assert not planned({"orders": version_1}).levels


async def test_halted_it_waits_and_looks_again_when_that_is_lifted(
    tmp_path: Path, sim: SimBroker
) -> None:
    async with world(tmp_path, [paper(1)]) as w:
        at(w, sim, "190")
        await w.send(stop_loss="180")
        await held(w, "P-001")
        await w.command("kill", scope="account:P-001")
        at(w, sim, "170")
        assert [a["code"] for a in w.engine.alerts if a["code"] == "EXIT_BLOCKED"]
        assert (exits(w), w.position("P-001")) == ([], 1)
        at(w, sim, "171")
        await w.command("rearm", scope="account:P-001", reason="seen")
        await eventually(lambda: not w.position("P-001"))
        assert len(exits(w)) == 1


@pytest.mark.parametrize("point", ["committed", "sent"])
async def test_killed_on_an_exit_s_way_it_leaves_once(
    tmp_path: Path, sim: SimBroker, point: str
) -> None:
    names = [f"A-{number:03d}" for number in range(1, 6)]
    async with world(tmp_path, [alpaca(number, url(sim)) for number in range(1, 6)]) as w:
        at(w, sim, "190")
        await w.send(trail_percent="5")
        await held(w, *names)
    before = venue_orders(sim)
    sim.venue.market.pin("AAPL", D(150))
    child = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "tests.integration.dying_engine", str(tmp_path), point,
        cwd=Path(__file__).parents[2],
    )  # fmt: skip
    assert await asyncio.wait_for(child.wait(), 60) in {-KILL, KILL}
    async with world(tmp_path) as w:
        at(w, sim, "150")
        await eventually(lambda: not any(w.position(name) for name in names), 30, "flat")
        await eventually(lambda: not w.engine.orders.working())
        at(w, sim, "149")
        assert venue_orders(sim) - before == len(names)
        sold = [o for account in sim.venue.accounts.values() for o in account.orders.values()]
        assert sum(o.side is Side.SELL for o in sold) == len(names)
        assert all(
            not account.money.positions["AAPL"].qty for account in sim.venue.accounts.values()
        )


async def test_too_much_unknown_halts_the_account_until_a_person_re_arms_it(
    tmp_path: Path, sim: SimBroker
) -> None:
    async with world(tmp_path, [alpaca(1, url(sim)), alpaca(2, url(sim))]) as w:
        engine = w.engine
        at(w, sim, "190")

        async def down(*_asked: object, **_more: object) -> None:
            raise BrokerUnavailable("no route")

        def lost(order: Order) -> None:
            order.first_byte_ns = order.last_byte_ns = 1
            engine.on_report(
                ExecutionReport("A-001", order.cl_ord_id, ExecType.UNKNOWN, OrderStatus.UNKNOWN)
            )

        session = engine.fleet.sessions["A-001"]
        find, session.find, session.submit = session.find, down, lost
        only = {"audience": {"accounts": ["A-001"]}, "order_type": "limit", "limit_price": "185"}
        for number, action in enumerate(("buy", "sell")):
            await w.post(id=f"u-{number}", **(only | {"action": action}))
        w.engine.set_prices({"MSFT": D(190)})
        await w.post(id="u-3", **(only | {"symbol": "MSFT"}))
        await eventually(lambda: engine.states.get("account:A-001") is not None, 15, "halted")
        latch = engine.states.get("account:A-001")
        assert (latch.state.value, latch.reason.split(":")[0]) == ("halted", "UNKNOWN_ORDERS")
        assert engine.states.get("account:A-002") is None
        await w.send(id="others", audience={"accounts": ["A-002"]})
        session.find = find
        await eventually(
            lambda: not any(o.status is OrderStatus.UNKNOWN for o in engine.orders.working()), 15
        )
        await w.command("rearm", scope="account:A-001", reason="looked at the broker")
        assert engine.states.get("account:A-001") is None


# ---- at the broker ---------------------------------------------------------------------------------------------


async def bracket(w: World, account: str, stop: str, target: str) -> tuple[Order, Order]:
    """Tell the engine that the venue works a stop and a target for a position, placing them there as it would."""
    engine = w.engine
    entry = next(
        o for o in engine.orders.orders.values() if o.account == account and not o.reducing
    )
    session = engine.fleet.sessions[account]
    made = []
    for leg, kind, fields in (
        ("stop", OrderType.STOP, {"stop_price": D(stop)}),
        ("target", OrderType.LIMIT, {"limit_price": D(target)}),
    ):
        name = exit_leg_id(entry.cl_ord_id, leg)
        engine.on_report(
            ExecutionReport(
                account, name, ExecType.NEW, side=Side.SELL, order_type=kind, order_qty=entry.cum_qty,
                symbol="AAPL", parent=entry.cl_ord_id, leg=leg, **fields,
            )
        )  # fmt: skip
        made.append(engine.orders.orders[name])
        session.submit(made[-1])
    await eventually(lambda: all(order.order_id for order in made))
    return made[0], made[1]


async def test_a_close_takes_the_broker_s_legs_back_first(tmp_path: Path, sim: SimBroker) -> None:
    async with world(tmp_path, [paper(1)]) as w:
        at(w, sim, "190")
        await w.send()
        await held(w, "P-001")
        await w.command(
            "set_stops", account="P-001", symbol="AAPL", stop_loss="180", take_profit="200"
        )
        stop, target = await bracket(w, "P-001", "180", "200")
        [row] = await w.rows("positions")
        assert row["protected"] == "broker"
        legs = {row["leg"]: row for row in await w.rows("orders", status="new")}
        assert legs["stop"]["parent"] == legs["target"]["parent"] == stop.parent
        assert await w.refused("replace_order", cl_ord_id=stop.cl_ord_id, stop_price="1") == (
            409,
            "PROTECTIVE",
        )
        assert (await w.post(id="x", action="cancel")).json()["code"] == "NO_ACCOUNTS"
        result = await w.command("close_position", account="P-001", symbol="AAPL")
        assert result["order_qty"] == "1"
        await eventually(lambda: not w.position("P-001"))
        assert {stop.status, target.status} == {OrderStatus.CANCELED}
        await eventually(lambda: not w.engine.orders.working())
        assert w.position("P-001") == 0


async def test_changed_stops_are_changed_at_the_broker(tmp_path: Path, sim: SimBroker) -> None:
    async with world(tmp_path, [paper(1)]) as w:
        at(w, sim, "190")
        await w.send()
        await held(w, "P-001")
        where = {"account": "P-001", "symbol": "AAPL"}
        await w.command("set_stops", **where, stop_loss="180", take_profit="200")
        stop, target = await bracket(w, "P-001", "180", "200")
        await w.command("set_stops", **where, stop_loss="185", take_profit="200")
        assert (stop.status, target.status) == (OrderStatus.REPLACED, OrderStatus.NEW)
        [successor] = [o for o in w.engine.orders.working() if o.leg == "stop"]
        assert (successor.stop_price, successor.parent) == (185, stop.parent)
        position = w.engine.keeper.get("P-001", "AAPL")
        assert (position.stop_loss, position.protected) == (185, "broker")
        # what the broker is not to work any more, the engine does
        await w.command("set_stops", **where, stop_loss="185", trail_percent="2")
        assert not w.engine.orders.working()
        assert (position.levels.take_profit, position.protected) == (None, "engine")
        at(w, sim, "186")
        await eventually(lambda: not w.position("P-001"))


async def test_legs_that_somebody_cancels_are_taken_over(tmp_path: Path, sim: SimBroker) -> None:
    async with world(tmp_path, [paper(1)]) as w:
        at(w, sim, "190")
        await w.send()
        await held(w, "P-001")
        await w.command(
            "set_stops", account="P-001", symbol="AAPL", stop_loss="180", take_profit="200"
        )
        stop, target = await bracket(w, "P-001", "180", "200")
        w.engine.keeper.get("P-001", "AAPL").native = True
        for leg in (stop, target):
            await w.command("cancel_order", cl_ord_id=leg.cl_ord_id)
        await eventually(lambda: stop.status.terminal and target.status.terminal)
        assert [a["severity"] for a in w.engine.alerts if a["code"] == "EXITS_TAKEN_OVER"]
        at(w, sim, "179")
        await eventually(lambda: not w.position("P-001"))
        assert [order.leg for order in exits(w)] == ["stop"]


# ---- a venue that works brackets itself ------------------------------------------------------------------------


async def with_bracket(w: World, *names: str, **fields: str) -> None:
    await w.send(**({"stop_loss": "180", "take_profit": "200"} | fields))
    await held(w, *names)
    await eventually(
        lambda: (
            sum(bool(o.parent) and bool(o.order_id) for o in w.engine.orders.working())
            == 2 * len(names)
        ),
        what="legs",
    )


async def test_the_venue_works_a_bracket_and_the_engine_keeps_still(
    tmp_path: Path, sim: SimBroker
) -> None:
    async with world(tmp_path, [alpaca(1, url(sim)), alpaca(2, url(sim))]) as w:
        at(w, sim, "190")
        await with_bracket(w, "A-001", "A-002")
        rows = await w.rows("positions")
        assert {row["protected"] for row in rows} == {"broker"}
        at(w, sim, "179")
        await eventually(lambda: not w.position("A-001") and not w.position("A-002"))
        await eventually(lambda: not w.engine.orders.working())
        assert exits(w) == []
        assert not [a for a in w.engine.alerts if a["code"].startswith("EXIT")]
    async with world(tmp_path) as w:
        assert (w.engine.orders.working(), w.position("A-001")) == ([], 0)


async def test_a_bracket_that_fills_while_the_engine_is_away(
    tmp_path: Path, sim: SimBroker
) -> None:
    async with world(tmp_path, [alpaca(1, url(sim)), alpaca(2, url(sim))]) as w:
        at(w, sim, "190")
        await with_bracket(w, "A-001", "A-002")
        await w.command(
            "set_stops", account="A-002", symbol="AAPL", stop_loss="100", take_profit="300"
        )
    sim.venue.market.pin("AAPL", D(201))
    async with world(tmp_path) as w:
        at(w, sim, "201")
        await eventually(lambda: not w.position("A-001"), what="found out")
        assert w.position("A-002") == 1
        [row] = [row for row in await w.rows("positions") if row["account"] == "A-002"]
        assert (row["protected"], row["stop_loss"]) == ("broker", "100")
        await w.command("close_position", account="A-002", symbol="AAPL")
        await eventually(lambda: not w.position("A-002"))
        await eventually(lambda: not w.engine.orders.working())
        for account in sim.venue.accounts.values():
            assert not account.money.positions["AAPL"].qty
        assert exits(w) == []


async def test_flatten_and_kill_take_brackets_back_and_close_once(
    tmp_path: Path, sim: SimBroker
) -> None:
    accounts = [alpaca(number, url(sim)) for number in range(1, 7)]
    names = [account["id"] for account in accounts]
    async with world(tmp_path, accounts) as w:
        at(w, sim, "190")
        await with_bracket(w, *names)
        await w.command("flatten", scope="account:A-001")
        await w.post(id="c-1", action="close", audience={"accounts": ["A-002"]})
        await w.command("kill", scope="account:A-003", flatten=True)
        await eventually(lambda: not any(w.position(name) for name in names[:3]), what="flat")
        # the venue fills some legs while the others are being closed
        asyncio.get_running_loop().call_later(0.004, at, w, sim, "200")
        answers = await asyncio.gather(
            *(w.try_command("close_position", account=name, symbol="AAPL") for name in names[3:])
        )
        assert {answer.status_code for answer in answers} <= {200, 409}  # 409: closed by its leg
        await eventually(lambda: not any(w.position(name) for name in names), what="flat")
        await eventually(lambda: not w.engine.orders.working())
        for account in sim.venue.accounts.values():
            assert account.money.positions["AAPL"].qty == 0
        sold = sum(order.cum_qty for a in sim.venue.accounts.values() for order in a.orders.values()
                   if order.side is Side.SELL)  # fmt: skip
        assert sold == len(names)


# ---- time ------------------------------------------------------------------------------------------------------


async def give_hours(w: World, account: str) -> None:
    """Change an account's document: nine to four, squared off at five to four, UTC."""
    fleet = w.engine.fleet
    hours = Hours.model_validate(
        {"zone": "UTC", "open": "09:00", "close": "16:00", "square_off": "15:55"}
    )
    changed = fleet.states[account].account.model_copy(update={"hours": hours})
    await fleet.store.put([changed])
    await w.command("reload_accounts")


class Shifted:
    """The machine's clock, so many seconds ahead."""

    def __init__(self, clock) -> None:
        self._clock = clock
        self.ahead = timedelta()
        self.monotonic_ns = clock.monotonic_ns

    def now(self) -> datetime:
        return self._clock.now() + self.ahead


def shift(w: World, moment: datetime) -> None:
    """Let the exits see ``moment`` as now."""
    shifted = Shifted(w.engine.clock)
    shifted.ahead = moment - w.engine.clock.now()
    w.engine.clock = shifted


BEGINS = datetime(2027, 1, 13, 15, 55, tzinfo=UTC)
"""A Wednesday, whatever day it is today."""


async def test_the_square_off_flattens_once_a_session(tmp_path: Path, sim: SimBroker) -> None:
    async with world(tmp_path, [paper(1), paper(2)]) as w:
        at(w, sim, "190")
        await w.send()
        await w.send(id="rest", order_type="limit", limit_price="185")
        await held(w, "P-001", "P-002")
        await eventually(lambda: len(w.engine.orders.working()) == 2)
        shift(w, BEGINS - timedelta(minutes=1))
        await give_hours(w, "P-001")
        w.engine.exits.tick()
        assert exits(w) == []
        shift(w, BEGINS)
        await eventually(lambda: not w.position("P-001"), what="squared off")
        await eventually(lambda: len(w.engine.orders.working()) == 1)
        assert w.position("P-002") == 1
        assert [order.leg for order in exits(w)] == ["time"]
        await eventually(lambda: w.engine.exits._squared.get("P-001") == "2027-01-13")
    async with world(tmp_path) as w:
        at(w, sim, "190")
        shift(w, BEGINS + timedelta(minutes=1))
        # opened by hand after the square-off: it is not squared off again
        w.engine.exits.guards.close_now = None
        w.engine.exits.tick()
        assert w.engine.exits._squared == {"P-001": "2027-01-13"}


async def test_a_missed_square_off_is_said(tmp_path: Path, sim: SimBroker) -> None:
    async with world(tmp_path, [paper(1)]) as w:
        at(w, sim, "190")
        await w.send()
        await held(w, "P-001")
        shift(w, BEGINS + timedelta(hours=1))
        await give_hours(w, "P-001")
        await eventually(lambda: any(a["code"] == "SQUARE_OFF_MISSED" for a in w.engine.alerts))
        assert (exits(w), w.position("P-001")) == ([], 1)


async def test_an_entry_against_a_bracket_takes_it_back_first(
    tmp_path: Path, sim: SimBroker
) -> None:
    """The bracket holds the quantity that is to be sold, and would buy back what was sold."""
    async with world(tmp_path, [alpaca(1, url(sim))]) as w:
        at(w, sim, "190")
        await with_bracket(w, "A-001")
        held = w.position("A-001")
        detail = await w.send(id="against", action="sell", stop_loss="200", take_profit="180")
        order = w.order(detail, "A-001")
        await eventually(lambda: order.status.terminal)
        assert (order.status, order.text) == (OrderStatus.FILLED, "")
        assert w.position("A-001") == held - order.order_qty == 0
        await eventually(lambda: not w.engine.orders.working())
        assert sim.summary()["open_orders"] == 0
        assert not [a for a in w.engine.alerts if a["code"].startswith("EXIT")]
