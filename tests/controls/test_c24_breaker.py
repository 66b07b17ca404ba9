"""C24: when half of a venue's answers fail, entries wait until a read succeeds; exits and cancels pass."""

from __future__ import annotations

import pytest

from engine.model.enums import OrderStatus
from engine.risk.breaker import LEAST, MOST_PROBE_S, Breaker
from tests.controls.restarts import control
from tests.world import alpaca, eventually, venue, world

SECOND = 1_000_000_000


def opened(breaker: Breaker, *answers: bool, at: int = 0) -> list[str]:
    return [why for failed in answers if (why := breaker.note(failed, at))]


@pytest.mark.parametrize(
    ("good", "bad", "opens"), [(9, 10, False), (10, 10, True), (11, 9, False), (0, 19, False)]
)
def test_half_of_at_least_twenty(good: int, bad: int, opens: bool) -> None:
    breaker = Breaker(50, 30)
    said = opened(breaker, *[False] * good, *[True] * bad)
    assert bool(said) is opens is breaker.is_open
    assert good + bad >= LEAST or not said


def test_the_sentence_has_value_and_limit() -> None:
    (why,) = opened(Breaker(50, 30), *[False] * 10, *[True] * 10, at=7)
    assert why == "10 of 20 answers (50 %) failed or did not come in 30 s, the limit is 50 %"


def test_answers_older_than_the_window_do_not_count() -> None:
    breaker = Breaker(50, 30)
    assert not opened(breaker, *[True] * 19, at=SECOND)
    assert not opened(breaker, True, at=31 * SECOND)
    assert not opened(breaker, *[True] * 18, at=31 * SECOND)
    assert opened(breaker, True, at=31 * SECOND)


def test_it_opens_once_and_begins_anew_when_closed() -> None:
    breaker = Breaker(50, 30)
    assert len(opened(breaker, *[True] * 60, at=1)) == 1
    breaker.close()
    assert not opened(breaker, *[True] * 19, at=1)
    assert len(opened(breaker, True, at=1)) == 1


def test_switched_off_it_never_opens() -> None:
    assert not opened(Breaker(0, 30), *[True] * 100, at=1)


def test_reads_come_slower_and_slower() -> None:
    breaker = Breaker(50, 30)
    assert [breaker.next_probe_s() for _ in range(7)] == [
        1,
        2,
        4,
        8,
        16,
        MOST_PROBE_S,
        MOST_PROBE_S,
    ]


async def test_entries_wait_exits_pass_and_a_read_closes_it(tmp_path) -> None:
    async with venue() as sim:
        accounts = [alpaca(n, f"http://127.0.0.1:{sim.port}") for n in range(1, 21)]
        async with world(tmp_path, accounts) as w:
            lanes = w.engine.dispatcher.lanes
            await eventually(lambda: not any(lane.waits for lane in lanes.values()))
            await w.send(id="held", audience={"accounts": ["A-001"]})
            await eventually(lambda: w.position("A-001"))
            broken = [
                {"action": "http_503", "match": {"method": "POST"}, "times": 40},
                {
                    "action": "http_503",
                    "match": {"method": "GET", "path": "/v2/account"},
                    "times": 0,
                },
            ]
            sim.faults.replace(broken)
            await w.post(id="storm", valid_for_s=0.5)
            await eventually(lambda: all("BREAKER_OPEN" in lane.waits for lane in lanes.values()))
            row = control(w, "C24")
            assert (row["state"], row["last_code"]) == ("tripped", "BREAKER_OPEN")
            assert "answers" in row["last_text"]
            assert "the limit is 50 %" in row["last_text"]
            sim.faults.replace(broken[1:])
            await w.post(id="waits", valid_for_s=60, symbol="MSFT")
            waiting = w.engine.records["bot/waits"].orders
            assert {o.status for o in waiting.values()} == {OrderStatus.PENDING_NEW}
            assert not any(o.first_byte_ns for o in waiting.values())
            closed = await w.send(id="close", action="close", audience={"accounts": ["A-001"]})
            assert closed["accounts"][0]["outcome"] == "sent"
            sim.faults.replace([])
            await eventually(lambda: not any(lane.waits for lane in lanes.values()), 40)
            await eventually(lambda: all(o.status is OrderStatus.FILLED for o in waiting.values()))
            assert control(w, "C24")["state"] == "on"
        async with world(tmp_path) as w:  # a restart asks anew: the first comparison is the read
            lanes = w.engine.dispatcher.lanes
            assert not any("BREAKER_OPEN" in lane.waits for lane in lanes.values())
