"""C07, fan-out: one signal's accounts and total value; over it nothing of the signal is sent, nor in slices."""

from __future__ import annotations

from decimal import Decimal
from pathlib import Path

import pytest

from engine.model.enums import ExecType
from engine.planner import Release
from tests.controls.restarts import control
from tests.helpers import make_account, make_order, make_state
from tests.planning import Desk, quantities
from tests.processes import alpaca
from tests.world import by_account, venue, world

D = Decimal


def three(**fields):
    return [make_state(make_account(name, **fields)) for name in "abc"]


@pytest.mark.parametrize(
    ("limits", "code"),
    [
        ({"max_accounts_per_signal": 3}, ""),
        ({"max_accounts_per_signal": 2}, "FANOUT_ACCOUNTS"),
        ({"max_signal_value": "3000"}, ""),
        ({"max_signal_value": "2999.99"}, "FANOUT_VALUE"),
    ],
)
def test_over_a_cap_nothing_is_sent(limits, code):
    plan = Desk(*three(), **limits).plan()
    assert plan.code == code
    assert len(plan.orders) == (0 if code else 3)


def test_the_sentences_name_value_and_limit():
    assert Desk(*three(), max_accounts_per_signal=2).plan().message == "3 accounts > 2"
    assert Desk(*three(), max_signal_value="2999").plan().message == "3000.00 > 2999"


def release(*accounts: str, earlier=()) -> Release:
    return Release(frozenset(accounts), earlier=tuple(earlier))


@pytest.mark.parametrize(
    ("limits", "code"),
    [
        ({"max_signal_value": "3000", "max_accounts_per_signal": 3}, ""),
        ({"max_signal_value": "2999"}, "FANOUT_VALUE"),
        ({"max_accounts_per_signal": 2}, "FANOUT_ACCOUNTS"),
    ],
)
def test_approvals_in_slices_count_together(limits, code):
    desk = Desk(*three(approval="review"), **limits)
    assert desk.plan().held == ["a", "b", "c"]
    had = []
    for account in "ab":
        plan = desk.plan(release(account, earlier=had))
        assert not plan.code
        had += plan.orders
    last = desk.plan(release("c", earlier=had))
    assert last.code == code
    assert bool(last.orders) is not bool(code)


@pytest.mark.parametrize("kind", [ExecType.REJECTED, ExecType.EXPIRED])
def test_what_came_to_nothing_gives_its_room_back(kind):
    desk = Desk(*three(approval="review"), max_accounts_per_signal=1)
    (order,) = desk.plan(release("a")).orders
    desk.orders.add(order)
    assert desk.plan(release("b", earlier=[order])).code == "FANOUT_ACCOUNTS"
    order.code = "ABSENT"
    desk.end(order, kind)
    assert quantities(desk.plan(release("b", earlier=[order]))) == {"b": 10}


@pytest.mark.parametrize(("quantity", "code"), [("20", None), ("21", "FANOUT_VALUE")])
def test_a_replacement_counts_with_its_signal(quantity, code):
    desk = Desk(*three(), max_signal_value="4000")
    order = desk.take().orders[0]
    replacement = make_order("R", quantity=quantity, account="a", source="operator", signal_id="c")
    refused = desk.planner.check_by_hand(desk.states["a"], replacement, instead_of=order)
    assert (refused[0] if refused else None) == code


def test_an_old_price_still_bounds_the_value():
    desk = Desk(*three(), price_reference="when_available", max_signal_value="2999")
    desk.clock.advance(3600)
    assert desk.plan().code == "FANOUT_VALUE"
    assert desk.plan(symbol="MSFT").orders  # without any price there is nothing to count with


def test_exits_are_not_capped():
    desk = Desk(*three(), max_accounts_per_signal=1, max_signal_value="1")
    for account in "abc":
        desk.hold("10", account)
    assert len(desk.plan(action="close").orders) == 3


async def test_slices_count_together_after_a_restart(tmp_path: Path) -> None:
    async with venue() as sim:
        accounts = [
            alpaca(number, f"http://127.0.0.1:{sim.port}", approval="review")
            for number in (1, 2, 3)
        ]
        sections = {
            "limits": {"max_signal_value": "400", "reference_max_age_s": 3600.0},
            "signals": {"approval_timeout_s": 600},
            "market": {"source": "none"},
        }
        async with world(tmp_path, accounts, **sections) as running:
            running.engine.set_prices({"AAPL": D("189.43")})
            held = await running.post(order_type="limit", limit_price="185", valid_for_s=600)
            assert held.json()["state"] == "held"
            await running.command("approve", signal="bot/s-1", accounts=["A-001"])
        async with world(tmp_path, **sections) as running:
            running.engine.set_prices({"AAPL": D("189.43")})
            await running.command("approve", signal="bot/s-1", accounts=["A-002"])
            answer = await running.try_command("approve", signal="bot/s-1", accounts=["A-003"])
            assert (answer.status_code, answer.json()["code"]) == (409, "FANOUT_VALUE")
            assert answer.json()["message"] == "555.00 > 400"
            assert control(running, "C07")["refusals"] == 1
            rows = by_account(await running.detail("bot/s-1"))
            assert [rows[f"A-00{n}"]["outcome"] for n in (1, 2, 3)] == ["sent", "sent", "held"]
            assert len(running.engine.orders.working()) == 2
