"""C12, duplicate signal: the same id for ever; the same content under another id within a window, where set."""

from __future__ import annotations

from decimal import Decimal
from pathlib import Path

import pytest

from engine.model.enums import OrderType
from engine.planner import Release
from tests.controls.restarts import RESTS, control, home, outcome
from tests.helpers import MONDAY, make_account, make_signal, make_state
from tests.planning import Desk, quantities

D = Decimal
TEN = {"repeat_window_s": 10.0}


def desk(window: float = 10.0, *states) -> Desk:
    return Desk(*states, signals={"repeat_window_s": window})


@pytest.mark.parametrize(
    ("after_ns", "code"), [(0, "REPEATED"), (10_000_000_000, "REPEATED"), (10_000_000_001, "")]
)
def test_the_window_s_end_is_the_last_moment_refused(after_ns, code):
    made = desk()
    made.take(signal_id="s-0")
    made.clock.advance_ns(after_ns)
    made.marks.set("AAPL", D(100))
    plan = made.plan(signal_id="s-1")
    assert plan.code == code
    assert bool(plan.orders) is not bool(code)


def test_the_sentence_names_the_first_its_age_and_the_window():
    made = desk()
    made.take(signal_id="s-0")
    made.clock.advance(3.2)
    plan = made.plan(signal_id="s-1")
    assert plan.message == "the same as bot/s-0 3.2 s ago, allowed after 10 s"


@pytest.mark.parametrize(
    "change",
    [
        {"source": "other"},
        {"strategy": "other"},
        {"action": "sell"},
        {"order_type": OrderType.LIMIT, "limit_price": "100"},
        {"stop_loss": "95"},
        {"take_profit": "110"},
        {"quantity": "2"},
        {"accounts": ["A-1"]},
    ],
)
def test_other_content_is_no_repeat(change):
    made = desk()
    made.take(signal_id="s-0")
    assert made.plan(signal_id="s-1", **change).code == ""


@pytest.mark.parametrize(
    "change",
    [
        {"issued_at": MONDAY.replace(second=1)},
        {"reference_price": "100.5"},
        {"valid_for_s": "3"},
        {"meta": {"note": "x"}},
        {"body_hash": "another"},
    ],
)
def test_stamps_and_notes_make_no_other_content(change):
    made = desk()
    made.take(signal_id="s-0")
    assert made.plan(signal_id="s-1", **change).code == "REPEATED"


def test_it_is_off_unless_a_window_is_set():
    made = desk(0)
    made.take(signal_id="s-0")
    assert made.plan(signal_id="s-1").orders


def test_exits_are_never_repeats():
    made = desk()
    made.hold("10")
    for number in range(2):
        assert made.take(signal_id=f"s-{number}", action="cancel").code != "REPEATED"
    assert made.take(signal_id="s-2", action="close").orders


def test_what_was_refused_may_come_again():
    made = desk(10.0, make_state(active=False))
    assert made.take(signal_id="s-0").code == "NO_ACCOUNTS"
    assert made.plan(signal_id="s-1").code == "NO_ACCOUNTS"


def test_it_is_soft_an_operator_may_force_past_it():
    made = desk()
    made.take(signal_id="s-0")
    release = Release(frozenset({"A-1"}), forced=True)
    assert quantities(made.plan(release, signal_id="s-1")) == {"A-1": 10}


def test_a_held_signal_counts_too():
    made = desk(10.0, make_state(make_account(approval="review")))
    assert made.take(signal_id="s-0").held
    assert made.plan(signal_id="s-1").code == "REPEATED"


def test_what_did_not_become_durable_is_forgotten():
    made = desk()
    signal = make_signal("s-0")
    made.pretrade.begin(signal, sent=True, held=False)
    made.pretrade.end(signal, None, sent=True, held=False)
    assert made.plan(signal_id="s-1").orders


async def test_both_survive_a_restart(tmp_path: Path) -> None:
    hour = {"signals": {"repeat_window_s": 3600.0}}
    async with home(tmp_path) as place:
        async with place.engine(**hour) as running:
            assert (await outcome(running, "s-0", **RESTS))[0] == ""
            body = {"id": "s-x", **RESTS, "issued_at": "2026-01-01T00:00:00Z"}
            assert (await running.post(**body)).json()["code"] == "STALE"  # refused: may come again
        async with place.engine(**hour) as running:
            answer = await running.post(id="s-1", **RESTS)
            assert (answer.status_code, answer.json()["code"]) == (202, "REPEATED")
            assert answer.json()["message"].startswith("the same as bot/s-0 ")
            assert answer.json()["message"].endswith("allowed after 3600 s")
            assert len(running.engine.orders.orders) == 1
            assert control(running, "C12")["refusals"] == 1
            result = await running.command(
                "force", signal="bot/s-1", accounts=["A-001"], reason="meant so"
            )
            assert list(result["orders"]) == ["A-001"]


async def test_the_same_id_is_answered_with_the_first_outcome_for_ever(tmp_path: Path) -> None:
    stamp = {"issued_at": "2026-01-01T00:00:00Z"}
    async with home(tmp_path) as place:
        async with place.engine() as running:
            first = await running.post(**RESTS, **stamp)
            assert first.json()["code"] == "STALE"
        async with place.engine() as running:
            again = await running.post(**RESTS, **stamp)
            assert (again.status_code, again.json()) == (200, first.json())
            other = await running.post(**RESTS, **stamp, quantity="2")
            assert other.status_code == 409
            assert not running.engine.orders.orders
