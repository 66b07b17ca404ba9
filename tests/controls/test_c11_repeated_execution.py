"""C11, repeated execution: a strategy's automated executions until a person reviews it, whatever day or process."""

from __future__ import annotations

from pathlib import Path

import pytest

from engine.planner import Release
from engine.risk.throttle import SINCE, Throttle
from tests.controls.restarts import RESTS, control, home, outcome, used
from tests.helpers import make_account, make_state
from tests.planning import Desk, codes

TWO = {"limits": {"max_unreviewed": 2}}
A1 = frozenset({"A-1"})


@pytest.mark.parametrize("most", [1, 4])
def test_the_limit_is_the_number_of_executions(most):
    desk = Desk(
        make_state(make_account("A-1")), make_state(make_account("A-2")), max_unreviewed=most
    )
    for number in range(most):
        assert (
            len(desk.take(signal_id=f"s-{number}").orders) == 2
        )  # one execution, however many orders
    plan = desk.plan(signal_id="s-x")
    assert plan.code == "UNREVIEWED"
    assert codes(plan.refused) == {"A-1": "UNREVIEWED", "A-2": "UNREVIEWED"}


def test_the_sentence_names_value_and_limit():
    desk = Desk(max_unreviewed=1)
    desk.take(signal_id="s-0")
    text = "breakout was carried out 1 times since its last review, the limit is 1"
    assert desk.plan().message == text


def test_another_strategy_and_exits_go_on():
    desk = Desk(max_unreviewed=1)
    desk.take(signal_id="s-0")
    assert desk.plan(strategy="other").orders
    desk.hold("10")
    assert desk.plan(action="close").orders


def test_what_a_person_approves_is_no_automated_execution():
    desk = Desk(make_state(approval="review"), max_unreviewed=1)
    for number in range(3):
        assert desk.take(signal_id=f"s-{number}").held == ["A-1"]
        assert desk.plan(Release(A1), signal_id=f"s-{number}").orders
    assert desk.pretrade.throttle.executions("breakout") == 0


def test_accounts_under_review_are_still_held_when_the_others_are_refused():
    desk = Desk(make_state(make_account("auto")), make_state(make_account("held", approval="review")),
                max_unreviewed=1)  # fmt: skip
    desk.take(signal_id="s-0")
    plan = desk.plan()
    assert (plan.code, plan.held) == ("", ["held"])
    assert codes(plan.refused) == {"auto": "UNREVIEWED"}


def test_what_led_to_no_order_or_was_not_durable_does_not_count():
    throttle = Throttle(1)
    throttle.begin("a")
    assert throttle.refusal("a") is not None  # while it is written it counts
    assert throttle.end("a", None) is None
    assert throttle.refusal("a") is None
    desk = Desk(make_state(active=False), max_unreviewed=1)
    desk.take(signal_id="s-0")
    assert desk.pretrade.throttle.executions("breakout") == 0


def test_executions_that_no_fact_counts_yet_are_counted_at_the_start():
    """Facts are written a moment after the signal: a crash between must not lose one."""
    throttle = Throttle(5)
    facts = {SINCE: {"seq": 2}, "a": {"executions": 3, "seq": 7}}
    assert throttle.load(facts, [("a", 6), ("a", 7), ("a", 8), ("b", 1), ("b", 3)]) is None
    assert (throttle.executions("a"), throttle.executions("b")) == (4, 1)


def test_where_the_control_is_switched_on_later_the_past_does_not_count():
    throttle = Throttle(5)
    assert throttle.load({}, [("a", 6), ("a", 9)]) == {"seq": 9}
    assert throttle.executions("a") == 0


async def test_it_survives_a_restart_and_a_review_lets_it_go_on(tmp_path: Path) -> None:
    async with home(tmp_path) as place:
        async with place.engine(**TWO) as running:
            for number in range(2):
                assert (await outcome(running, f"s-{number}", **RESTS))[0] == ""
            row = control(running, "C11")
            assert (row["state"], row["last_code"]) == ("tripped", "UNREVIEWED")
            assert any(alert["code"] == "UNREVIEWED" for alert in running.engine.alerts)
        async with place.engine(**TWO) as running:
            assert control(running, "C11")["state"] == "tripped"
            assert used(running, "max_unreviewed", "strategy:breakout") == "2"
            answer = await running.post(id="s-2", **RESTS)
            assert answer.json()["code"] == "UNREVIEWED"
            result = await running.command("review", strategy="breakout")
            assert result == {"result": "reviewed", "strategy": "breakout", "executions": 2}
            assert control(running, "C11")["state"] == "on"
            assert (await outcome(running, "s-3", **RESTS))[0] == ""
        async with place.engine(**TWO) as running:
            assert used(running, "max_unreviewed", "strategy:breakout") == "1"
            assert (await outcome(running, "s-4", **RESTS))[0] == ""
            assert (await running.post(id="s-5", **RESTS)).json()["code"] == "UNREVIEWED"


async def test_a_day_roll_does_not_begin_it_anew(tmp_path: Path) -> None:
    async with home(tmp_path) as place, place.engine(**TWO) as running:
        for number in range(2):
            await outcome(running, f"s-{number}", **RESTS)
        days = running.engine.pretrade.days
        days._firm.ends = running.engine.clock.now()  # the next look begins another day
        assert days.of_firm() == 0
        assert (await running.post(id="s-2", **RESTS)).json()["code"] == "UNREVIEWED"
