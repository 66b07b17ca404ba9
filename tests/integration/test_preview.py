"""``preview``: what it says would happen is what then happens, and asking changes nothing."""

from __future__ import annotations

import asyncio
import sqlite3
from collections import Counter
from contextlib import closing
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest

from engine.execution.rate_limit import RateLimit, TokenBucket
from engine.model.enums import OrderStatus
from engine.obstacles import Obstacles
from engine.operators import Operators, Role
from engine.preview import AT_ONCE, Rows
from tests.processes import signal_document
from tests.world import World, eventually, paper, venue, world
from tests.world import alpaca as alpaca_account

PRICE = Decimal("189.40")
NOT_SAID = ("id", "issued_at")
OUTCOMES = {"send": "sent", "hold": "held", "skip": "skipped", "refuse": "refused"}


def fixed(number: int, quantity: str = "10", **fields: Any) -> dict[str, Any]:
    return paper(number, **({"sizing": {"method": "fixed", "quantity": quantity}} | fields))


def closed_now() -> dict[str, str]:
    """Return trading hours that are over, whenever this runs."""
    now = datetime.now(UTC)
    return {
        "zone": "UTC",
        "open": f"{now + timedelta(hours=6):%H:%M}",
        "close": f"{now + timedelta(hours=12):%H:%M}",
    }


def fleet() -> list[dict[str, Any]]:
    """Return an account for every way to size, and for every reason not to act that a document can hold."""
    return [
        fixed(1),
        paper(2, sizing={"method": "signal"}),
        paper(3, sizing={"method": "percent_equity", "percent": "1"}),
        paper(4, sizing={"method": "risk_percent", "percent": "0.5"}),
        paper(5, sizing={"method": "notional", "value": "1000"}),
        paper(6, sizing={"method": "multiplier", "factor": "2.5"}),
        fixed(7, approval="review"),
        fixed(8, active=False),
        fixed(9, strategies=["other"]),
        fixed(10, symbols=["MSFT"]),
        fixed(11, hours=closed_now()),
        fixed(12, limits={"max_positions": 0}),
        fixed(13, limits={"min_reward_risk": "5"}),
        fixed(14, limits={"max_order_quantity": "3"}),
        fixed(15, limits={"max_order_value": "100"}),
        fixed(16, limits={"max_gross_exposure": "100"}),
        fixed(17, limits={"max_position_quantity": "5"}),
        fixed(18, limits={"max_orders_per_day": 1}),
        fixed(19, "20"),
        fixed(20, tags=["gold"]),
        fixed(21, "0.4"),
    ]


def kept(w: World) -> dict[str, Any]:
    """Return everything an order or a signal would leave a trace in."""
    engine = w.engine
    pretrade = engine.pretrade
    with closing(sqlite3.connect(f"file:{w.path / 'journal.sqlite3'}?mode=ro", uri=True)) as base:
        names = [
            name for (name,) in base.execute("SELECT name FROM sqlite_master WHERE type='table'")
        ]
        rows = {name: base.execute(f"SELECT count(*) FROM {name}").fetchone() for name in names}
    return {
        "journal": rows,
        "throttle": {name: pretrade.throttle.executions(name) for name in ("breakout", "other")},
        "repeats": dict(pretrade.repeats._seen),
        "slices": dict(pretrade.slices._replacements),
        "days": (pretrade.days.of_firm(), pretrade.days.strategies()),
        "open": pretrade.exposure.open_value(),
        "orders": set(engine.orders.orders),
        "working": {name: set(state.working) for name, state in engine.fleet.states.items()},
        "records": {key: (r.state, dict(r.held)) for key, r in engine.records.items()},
        "turn": engine.dispatcher._turn,
        "tokens": {
            name: [tokens(lane.limit), *(tokens(stage.limit) for stage in lane.way.stages)]
            for name, lane in engine.dispatcher.lanes.items()
        },
        "counts": dict(engine.counts),
        "controls": list(map(engine.controls.row, engine.controls.keys())),
        "halts": engine.states.latches(),
    }


def tokens(limit: RateLimit) -> list[int]:
    return [len(bucket._taken) for bucket in limit.buckets if isinstance(bucket, TokenBucket)]


async def ask(w: World, **fields: Any) -> dict[str, Any]:
    """Preview a signal; nothing has changed by it."""
    document = {k: v for k, v in signal_document(**fields).items() if k not in NOT_SAID}
    return await unchanged(w, signal=document)


UNDER_WAY = {OrderStatus.PENDING_NEW, OrderStatus.PENDING_CANCEL}


async def unchanged(w: World, **fields: Any) -> dict[str, Any]:
    """Preview: nothing has changed by it. What came before has come to its end first."""
    orders = w.engine.orders.orders
    await eventually(lambda: not any(order.status in UNDER_WAY for order in orders.values()))
    await w.engine.journal.flushed()
    before = kept(w)
    result = await w.command("preview", **fields)
    await w.engine.journal.flushed()
    assert kept(w) == before
    return result


def said(result: dict[str, Any]) -> dict[str, tuple[str, str, str | None]]:
    return {
        row["account"]: (OUTCOMES[row["outcome"]], row["code"], row["quantity"])
        for row in result["accounts"]
    }


def came(detail: dict[str, Any], w: World) -> dict[str, tuple[str, str, str | None]]:
    """Return outcome, code and quantity of each account of a signal that was really sent."""
    found = {}
    for row in detail["accounts"]:
        order = w.engine.orders.orders.get(row["cl_ord_id"] or "")
        quantity = str(order.order_qty.normalize().__format__("f")) if order is not None else None
        found[row["account"]] = (row["outcome"], row["code"], quantity)
    return found


async def same(w: World, **fields: Any) -> dict[str, Any]:
    """Preview a signal, send it, and compare; return what was previewed."""
    result = await ask(w, **fields)
    answer = await w.post(**fields)
    assert answer.status_code == 202, answer.text
    record = w.engine.records[f"bot/{fields.get('id', 's-1')}"]
    assert (record.code, bool(result["code"])) == (result["code"], record.state == "refused")
    await eventually(lambda: not record.waiting, what="every order is answered")
    real = came(await w.detail(record.key), w)
    expected = said(result)
    held = {account for account, row in expected.items() if row[0] == "held"}
    for account in held:  # a held one has no order yet, the preview says what it would be
        expected[account] = (*expected[account][:2], None)
        assert real[account][0] == "held"
        real[account] = expected[account]
    assert expected == real
    return result


@pytest.fixture
async def assorted(tmp_path: Path) -> Any:
    async with world(tmp_path, fleet(), signals={"repeat_window_s": 60}) as w:
        w.engine.set_prices({"AAPL": PRICE, "MSFT": Decimal(400)})
        await w.command("pause", scope="account:P-019", reason="rest")
        states = [state for state in w.engine.fleet.states.values() if state.active]
        await eventually(lambda: all(state.balances for state in states), what="equities are read")
        yield w


@pytest.mark.parametrize(
    "signal",
    [
        {},
        {"quantity": "7"},
        {"quantity": "7", "stop_loss": "180", "take_profit": "200"},
        {"quantity": "7", "stop_loss": "180", "take_profit": "300"},
        {"action": "sell", "order_type": "limit", "limit_price": "191", "stop_loss": "195"},
        {"quantity": "3", "audience": {"tags": ["gold"]}},
        {"quantity": "3", "audience": {"accounts": ["P-001", "P-009", "P-014"]}},
        {"order_type": "limit", "limit_price": "300"},  # outside the collar
        {"stop_loss": "200"},  # on the wrong side
        {"reference_price": "150"},  # the market has moved away
        {"symbol": "MSFT"},
        {"strategy": "nobody"},
        {"action": "close"},
        {"action": "cancel"},
        {"action": "modify", "stop_loss": "180"},
    ],
)
async def test_what_is_said_is_what_happens(assorted: World, signal: dict[str, Any]) -> None:
    assorted.engine.set_prices({"AAPL": PRICE, "MSFT": Decimal(400)})
    await same(assorted, **signal)


async def test_every_sizing_method_and_most_refusals(assorted: World) -> None:
    w = assorted
    result = await same(w, quantity="7", stop_loss="180", take_profit="200")
    rows = {row["account"]: row for row in result["accounts"]}
    assert result["price"] == "189.4"
    assert {name: row["quantity"] for name, row in rows.items() if row["outcome"] == "send"} == {
        "P-001": "10", "P-002": "7", "P-003": "5", "P-004": "53", "P-005": "5", "P-006": "17",
        "P-018": "10", "P-020": "10",
    }  # fmt: skip
    first = rows["P-001"]
    assert (first["side"], first["price"], first["value"]) == ("buy", "189.4", "1894")
    assert first["risk"] == "94"  # ten times the 9.40 to its stop
    assert first["leaves_in_s"] == 0
    assert (rows["P-007"]["outcome"], rows["P-007"]["quantity"]) == ("hold", "10")
    codes = {name: row["code"] for name, row in rows.items() if row["code"]}
    assert codes == {
        "P-008": "INACTIVE", "P-009": "NOT_SUBSCRIBED", "P-010": "SYMBOL_NOT_ALLOWED",
        "P-011": "OUTSIDE_HOURS", "P-012": "POSITION_LIMIT", "P-013": "REWARD_RISK", "P-014": "QTY_MAX",
        "P-015": "VALUE_MAX", "P-016": "EXPOSURE_MAX", "P-017": "POS_MAX", "P-019": "PAUSED",
        "P-021": "QTY_MIN",
    }  # fmt: skip
    assert all(rows[name]["message"] for name in codes)
    # Once more: the same content was just sent, and P-018 has had its one order of the day.
    again = await ask(w, quantity="7", stop_loss="180", take_profit="200")
    assert again["code"] == "REPEATED"
    assert {row["code"] for row in again["accounts"] if row["outcome"] == "refuse"} == {"REPEATED"}
    other = await same(w, id="s-2", quantity="8", stop_loss="180", take_profit="200")
    assert {r["account"]: r["code"] for r in other["accounts"]}["P-018"] == "DAY_MAX"


async def test_positions_orders_and_stops_are_looked_at(assorted: World) -> None:
    w = assorted
    w.engine.set_prices({"AAPL": PRICE})
    await w.send(id="in", quantity="7", stop_loss="180")
    await eventually(lambda: w.position("P-001") == 10)
    await w.send(id="rest", order_type="limit", limit_price="182", quantity="2")
    canceled = await same(w, id="c", action="cancel")
    assert any(row["message"].startswith("cancels 1 of") for row in canceled["accounts"])
    resting = [one for one in w.engine.orders.orders.values() if one.signal_id == "rest"]
    await eventually(lambda: all(order.status.terminal for order in resting))
    await same(w, id="m", action="modify", stop_loss="181")
    closed = await same(w, id="out", action="close")
    sides = {row["account"]: row["side"] for row in closed["accounts"] if row["outcome"] == "send"}
    assert sides["P-001"] == "sell"


async def test_the_firms_states_and_limits(tmp_path: Path) -> None:
    limits = {"max_accounts_per_signal": 2, "max_orders_per_day": 3}
    async with world(tmp_path, [fixed(n) for n in (1, 2, 3)], limits=limits) as w:
        w.engine.set_prices({"AAPL": PRICE})
        everybody = await same(w)
        assert everybody["code"] == "FANOUT_ACCOUNTS"
        two = {"audience": {"accounts": ["P-001", "P-002"]}}
        await same(w, id="s-2", **two)
        third = await same(w, id="s-3", **two)  # the day's third order, not its fourth
        assert [row["code"] for row in third["accounts"]] == ["", "DAY_MAX", "NOT_IN_AUDIENCE"]
        await w.command("pause", scope="strategy:breakout")
        assert (await same(w, id="s-4"))["code"] == "PAUSED"
        await w.command("resume", scope="strategy:breakout")
        await w.command("disarm")
        assert (await same(w, id="s-5"))["code"] == "DISARMED"
        old = signal_document(valid_for_s=1, issued_at="2026-01-01T00:00:00Z", id="old")
        assert (await unchanged(w, signal=old))["code"] == "STALE"
        known = signal_document(id="s-2")
        assert (await unchanged(w, signal=known))["code"] == "DUPLICATE"


async def test_the_throttle_of_a_strategy(tmp_path: Path) -> None:
    async with world(tmp_path, [fixed(1)], limits={"max_unreviewed": 1}) as w:
        w.engine.set_prices({"AAPL": PRICE})
        assert not (await same(w))["code"]
        for _ in range(3):  # asking counts for nothing, however often
            await ask(w)
        assert (await same(w, id="s-2"))["code"] == "UNREVIEWED"


async def test_a_held_signal_as_it_would_be_approved(tmp_path: Path) -> None:
    documents = [fixed(n, approval="review", limits={"max_order_quantity": "10"}) for n in (1, 2)]
    async with world(tmp_path, documents) as w:
        w.engine.set_prices({"AAPL": PRICE})
        await w.post(stop_loss="180", take_profit="200")
        asked = {"held": "bot/s-1", "accounts": ["P-002"], "scale": "0.55", "limit_price": "189.5"}
        result = await unchanged(w, **asked)
        [row] = result["accounts"]
        assert (row["account"], row["outcome"], row["quantity"]) == ("P-002", "send", "5")
        assert (row["price"], row["value"], row["risk"]) == ("189.5", "947.5", "47.5")
        changes = {name: value for name, value in asked.items() if name != "held"}
        approved = await w.command("approve", signal="bot/s-1", **changes)
        assert set(approved["orders"]) == {"P-002"}
        order = w.engine.orders.orders[approved["orders"]["P-002"]]
        assert order.order_qty == 5
        await eventually(lambda: order.status.terminal)
        twice = await unchanged(w, held="bot/s-1", scale="2")
        assert [(r["account"], r["code"]) for r in twice["accounts"]] == [("P-001", "QTY_MAX")]
        assert await w.refused("preview", held="bot/s-1", accounts=["P-002"]) == (409, "NOT_HELD")
        assert await w.refused("preview", held="bot/none") == (404, "NOT_FOUND")
        await w.command("pause", scope="symbol:AAPL")
        paused = await unchanged(w, held="bot/s-1")
        assert [(r["outcome"], r["code"]) for r in paused["accounts"]] == [("refuse", "PAUSED")]


async def test_some_accounts_only_and_scaled(tmp_path: Path) -> None:
    async with world(tmp_path, [fixed(n) for n in (1, 2, 3)]) as w:
        w.engine.set_prices({"AAPL": PRICE})
        document = {"strategy": "breakout", "symbol": "AAPL", "action": "buy"}
        some = await unchanged(w, signal=document, accounts=["P-003", "P-001"])
        assert [row["account"] for row in some["accounts"]] == ["P-001", "P-003"]
        assert {row["outcome"] for row in some["accounts"]} == {"send"}
        half = await unchanged(w, signal=document, scale="0.5")
        assert {row["quantity"] for row in half["accounts"]} == {"5"}
        assert await w.refused("preview", signal=document, accounts=["X"]) == (404, "NOT_FOUND")


@pytest.mark.parametrize(
    ("fields", "code"),
    [
        ({}, "INVALID_COMMAND"),
        ({"signal": {}, "held": "bot/s"}, "INVALID_COMMAND"),
        ({"signal": {"symbol": "AAPL"}}, "MISSING"),
        ({"signal": {"strategy": "b", "symbol": "AAPL", "action": "buy", "x": 1}}, "UNKNOWN_FIELD"),
        ({"signal": {"strategy": "b", "symbol": "AAPL", "action": "buy", "source": "operator"}},
         "NOT_ALLOWED"),
        ({"signal": {"symbol": "AAPL"}, "limit_price": "3"}, "INVALID_COMMAND"),
        ({"signal": {"symbol": "AAPL"}, "accounts": []}, "INVALID_COMMAND"),
    ],
)  # fmt: skip
async def test_what_cannot_be_asked(tmp_path: Path, fields: dict[str, Any], code: str) -> None:
    async with world(tmp_path, [fixed(1)]) as w:
        assert await w.refused("preview", **fields) == (422, code)


async def test_a_viewer_may_ask(tmp_path: Path) -> None:
    async with world(tmp_path, [fixed(1)]) as w:
        w.engine.set_prices({"AAPL": PRICE})
        token = await asyncio.to_thread(Operators(_home(w)).add, "ann", Role.VIEW)
        w.http.headers["Authorization"] = f"Bearer {token}"
        document = {"strategy": "breakout", "symbol": "AAPL", "action": "buy"}
        result = await unchanged(w, signal=document)
        assert [row["outcome"] for row in result["accounts"]] == ["send"]


def _home(w: World) -> Any:
    from engine.home import Home

    return Home(w.path)


async def test_when_each_would_have_left(tmp_path: Path) -> None:
    """Ten orders a second at one address, entries take seven of them: the eighth leaves a second later."""
    async with venue() as sim:
        url = f"http://127.0.0.1:{sim.port}"
        accounts = [alpaca_account(n, url) for n in range(1, 13)]
        limits = {"max_orders_per_second": 10}
        async with world(tmp_path, accounts, limits=limits, signals={"max_age_s": 1.5}) as w:
            document = {
                "strategy": "breakout",
                "symbol": "AAPL",
                "action": "buy",
                "valid_for_s": 1.5,
            }
            result = await w.command("preview", signal=document)
            times = sorted(
                row["leaves_in_s"] for row in result["accounts"] if row["outcome"] == "send"
            )
            assert len(times) == 12
            assert result["finish_s"] == times[-1]
            now = w.engine.clock.monotonic_ns()
            whole = w.engine.dispatcher.predict(list(w.engine.fleet.states), now)
            assert whole.seconds == pytest.approx(result["finish_s"], abs=0.2)
            assert sum(at == 0 for at in times) == 7
            short = await w.command("preview", signal=document | {"valid_for_s": 0.5})
            late = [row for row in short["accounts"] if row["outcome"] == "refuse"]
            assert {row["code"] for row in late} == {"STALE"}
            assert len(late) == 5
            detail = await w.send(valid_for_s=0.5)
            outcomes = [row["outcome"] for row in detail["accounts"]]
            assert (outcomes.count("sent"), outcomes.count("refused")) == (7, 5)


async def test_a_thousand_accounts_and_a_real_signal_between(tmp_path: Path) -> None:
    """No turn of the loop is longer than a part of the preview, and a signal that comes meanwhile goes first."""
    documents = [fixed(n, limits={"max_order_quantity": "100"}) for n in range(1, 1001)]
    async with world(tmp_path, documents, limits={"max_accounts_per_signal": 1000}) as w:
        w.engine.set_prices({"AAPL": PRICE})
        document = {"id": "p", "command": "preview", "signal": {
            "strategy": "breakout", "symbol": "AAPL", "action": "buy"}}  # fmt: skip
        await w.engine.handle_command(document)
        result = await w.engine.handle_command(document)
        assert len(result["accounts"]) == 1000
        asking = asyncio.create_task(w.engine.handle_command(document))
        await asyncio.sleep(0)
        one = {"audience": {"accounts": ["P-500"]}}
        detail = await w.send(**one)
        assert not asking.cancelled()
        assert len((await asking)["accounts"]) == 1000
        assert [r["outcome"] for r in detail["accounts"] if r["account"] == "P-500"] == ["sent"]


@pytest.mark.parametrize(
    "signal",
    [
        {"quantity": "7", "stop_loss": "180", "take_profit": "200"},
        {"quantity": "7"},
        {"action": "sell", "order_type": "limit", "limit_price": "191.005", "stop_loss": "195"},
        {"audience": {"tags": ["gold"]}},
        {"order_type": "limit", "limit_price": "300"},
    ],
)
async def test_every_rule_is_listed_and_one_of_them_decides(
    assorted: World, signal: dict[str, Any]
) -> None:
    w = assorted
    plain = await ask(w, **signal)
    document = {k: v for k, v in signal_document(**signal).items() if k not in NOT_SAID}
    result = await unchanged(w, signal=document, rules=True)
    order = {rule: at for at, rule in enumerate(result["rules"])}
    for without, row in zip(plain["accounts"], result["accounts"], strict=True):
        assert {name: row[name] for name in without} == without  # listing changes no outcome
        places = [order[block["rule"]] for block in row["blocks"]]
        assert places == sorted(places)
        assert all(block["code"] and block["message"] for block in row["blocks"])
        if row["outcome"] in {"send", "hold"}:  # of a held one: what an approval would meet
            assert [block["code"] for block in row["blocks"]][:1] == (
                [row["code"]] if row["code"] else []
            )
        elif not plain["code"]:
            assert row["blocks"][0] == {
                "rule": row["rule"], "code": row["code"], "message": row["message"]}  # fmt: skip
        else:
            assert row["code"] in {block["code"] for block in row["blocks"]}


async def test_what_else_would_be_in_the_way(tmp_path: Path) -> None:
    limits = {"max_order_quantity": "3", "max_order_value": "100", "max_positions": 0}
    accounts = [
        fixed(1, limits=limits, strategies=["other"], active=False),
        paper(2, sizing={"method": "signal"}, hours=closed_now()),
        fixed(3),
    ]
    async with world(tmp_path, accounts) as w:
        w.engine.set_prices({"AAPL": PRICE})
        document = {"strategy": "breakout", "symbol": "AAPL", "action": "buy"}
        result = await unchanged(w, signal=document, rules=True)
        first, second, third = result["accounts"]
        assert [block["code"] for block in first["blocks"]] == [
            "NOT_SUBSCRIBED", "INACTIVE", "POSITION_LIMIT", "QTY_MAX", "VALUE_MAX",
        ]  # fmt: skip
        assert [block["code"] for block in second["blocks"]] == ["OUTSIDE_HOURS", "NO_QUANTITY"]
        assert "value" in second["unasked"]
        assert (third["outcome"], third["blocks"], third["unasked"]) == ("send", [], [])
        await w.command("kill", scope="all")
        # Its run goes on beside, and tells when nothing works any more.
        over = "nothing works any more"
        await eventually(lambda: any(over in row["text"] for row in w.engine.alerts))
        halted = await unchanged(w, signal=document, rules=True)
        assert {row["code"] for row in halted["accounts"]} == {"NOT_SUBSCRIBED", "HALTED"}
        assert {row["rule"] for row in halted["accounts"]} == {"strategy", "state"}
        closing = await unchanged(w, signal=document | {"action": "close"}, rules=True)
        assert {row["code"] for row in closing["accounts"]} == {"NOT_SUBSCRIBED", "HALTED"}


# ---- whom it holds up ------------------------------------------------------------------------------------------------


BUY = {"strategy": "breakout", "symbol": "AAPL", "action": "buy"}


@pytest.mark.parametrize("rules", [False, True])
async def test_no_turn_of_the_loop_does_more_than_a_few_accounts(
    tmp_path, monkeypatch, rules: bool
) -> None:
    """Turns are counted, not time: an order waits for one part of a preview, however many accounts there are."""
    turn = 0
    work: Counter[tuple[str, int]] = Counter()

    async def count() -> None:
        nonlocal turn
        while True:
            turn += 1
            await asyncio.sleep(0)

    def counted(owner: Any, name: str) -> None:
        original = getattr(owner, name)

        def call(*args: Any, **kwargs: Any) -> Any:
            states = args[-1] if name == "decide" else [None]
            work[name, turn] += len(states)
            return original(*args, **kwargs)

        monkeypatch.setattr(owner, name, call)

    accounts = 5 * AT_ONCE
    async with world(tmp_path, [fixed(n) for n in range(accounts)]) as w:
        w.engine.set_prices({"AAPL": PRICE})
        names = {"decide": w.engine.planner, "of": Obstacles, "gate": w.engine, "_order": Rows}
        for name, owner in names.items():
            counted(owner, name)
        counting = asyncio.create_task(count())
        answer = await w.command("preview", signal=BUY, rules=rules)
        counting.cancel()
    assert [row["outcome"] for row in answer["accounts"]] == ["send"] * accounts
    for name in names:
        done = [count for (what, _), count in work.items() if what == name]
        assert sum(done) == (accounts if name != "of" or rules else 0)
        assert max(done, default=0) <= AT_ONCE, name


async def test_while_orders_leave_a_preview_waits(tmp_path, monkeypatch) -> None:
    leaving = True
    async with world(tmp_path, [fixed(n) for n in range(3 * AT_ONCE)]) as w:
        w.engine.set_prices({"AAPL": PRICE})
        decided: list[int] = []
        decide = w.engine.planner.decide

        def counted(planning: Any, states: list[Any]) -> None:
            decided.append(len(states))
            decide(planning, states)

        monkeypatch.setattr(w.engine.planner, "decide", counted)
        monkeypatch.setattr(type(w.engine.dispatcher), "busy", property(lambda _: leaving))
        asking = asyncio.create_task(w.command("preview", signal=BUY))
        await eventually(lambda: decided)
        for _ in range(100):
            await asyncio.sleep(0)
        assert decided == [AT_ONCE]
        leaving = False
        await asking
        assert decided == [AT_ONCE] * 3
