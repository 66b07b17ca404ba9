"""C23: rejections in a row, or half of the last twenty, take an account's or a strategy's entries off."""

from __future__ import annotations

from typing import Any

import pytest

from engine.model.enums import OrderStatus
from engine.risk.rejects import Rejects
from tests.controls.restarts import control
from tests.helpers import make_order
from tests.world import alpaca, eventually, venue, world


class Count:
    def __init__(
        self, in_a_row: int = 5, percent: int = 50, facts: dict[str, Any] | None = None
    ) -> None:
        self.facts = dict(facts or {})
        self.trips: list[tuple[str, str]] = []
        self.rejects = Rejects(in_a_row, percent, lambda *said: self.trips.append(said), self._keep)
        self.rejects.load(self.facts)
        self._number = len(self.facts) * 1000

    def _keep(self, _kind: str, key: str, value: dict[str, Any] | None) -> None:
        self.facts.pop(key, None)
        if value is not None:
            self.facts[key] = value

    def order(self, *bads: bool, account: str = "A-1") -> None:
        for bad in bads:
            self._number += 1
            order = make_order(f"O-{self._number}", account=account)
            order.status = OrderStatus.REJECTED if bad else OrderStatus.FILLED
            order.order_id, order.text = "" if bad else "9", "no funds" if bad else ""
            self.rejects.order(order)
            self.rejects.order(order)  # told twice, by reply and stream: counted once

    def signal(self, *statuses: OrderStatus) -> None:
        orders = {}
        for number, status in enumerate(statuses):
            order = orders[str(number)] = make_order(f"{number}")
            order.status, order.first_byte_ns = status, 1
        self.rejects.signal("breakout", orders)


@pytest.mark.parametrize(("bad", "trips"), [(4, False), (5, True)])
def test_five_in_a_row(bad: int, trips: bool) -> None:
    count = Count()
    count.order(*[True] * bad)
    text = "5 rejections in a row, the limit is 5; no funds"
    assert count.trips == ([("account:A-1", text)] if trips else [])


def test_one_taken_begins_the_row_anew_and_accounts_count_apart() -> None:
    count = Count()
    count.order(*[True] * 4, False, *[True] * 4)
    count.order(*[True] * 4, account="A-2")
    assert count.trips == []


@pytest.mark.parametrize(("bad", "trips"), [(9, False), (10, True)])
def test_half_of_the_last_twenty(bad: int, trips: bool) -> None:
    count = Count(in_a_row=0)
    count.order(*[False] * 5, *[True] * (bad - 1), *[False] * (15 - bad))
    assert count.trips == []  # nineteen: not twenty yet
    count.order(True)
    text = "50 % of the last 20 rejected, the limit is 50 %; no funds"
    assert count.trips == ([("account:A-1", text)] if trips else [])


def test_switched_off_nothing_trips() -> None:
    count = Count(in_a_row=0, percent=0)
    count.order(*[True] * 100)
    assert count.trips == []


@pytest.mark.parametrize(
    "status", [OrderStatus.UNKNOWN, OrderStatus.DENIED, OrderStatus.PENDING_NEW]
)
def test_what_is_not_proven_or_never_left_counts_as_neither(status: OrderStatus) -> None:
    count = Count(in_a_row=2)
    count.order(True)
    order = make_order("x")
    order.status = status
    count.rejects.order(order)
    count.order(True)
    assert len(count.trips) == 1


R, F, U = OrderStatus.REJECTED, OrderStatus.FILLED, OrderStatus.UNKNOWN


@pytest.mark.parametrize(
    ("statuses", "counted"), [((R,) * 50, 1), ((R,) * 49 + (F,), 0), ((R, U), 0), ((), 0)]
)
def test_a_signal_counts_once_for_its_strategy_however_wide(
    statuses: tuple[OrderStatus, ...], counted: int
) -> None:
    count = Count(in_a_row=1)
    count.signal(*statuses)
    assert [scope for scope, _ in count.trips] == ["strategy:breakout"] * counted


def test_the_count_survives_a_restart_and_ends_with_a_reset() -> None:
    first = Count()
    first.order(*[True] * 4)
    second = Count(facts=first.facts)
    second.order(True)
    assert len(second.trips) == 1
    second.rejects.reset("account:A-1")
    assert not second.facts
    second.order(*[True] * 4)
    assert len(second.trips) == 1


async def test_a_storm_pauses_until_a_person_resumes(tmp_path) -> None:
    async with venue() as sim:
        account = alpaca(1, f"http://127.0.0.1:{sim.port}")
        async with world(tmp_path, [account], safety={"consecutive_rejects": 3}) as w:
            await w.send(id="held")
            sim.faults.replace([{"action": "http_422", "match": {"method": "POST"}, "times": 0}])
            for number in range(3):
                await w.send(id=f"bad-{number}")
            await eventually(lambda: w.engine.states.get("account:A-001"))
            latch = w.engine.states.get("account:A-001")
            assert latch is not None
            assert (latch.state.value, latch.by) == ("reducing", "C23")
            assert latch.reason.startswith("REJECT_STORM: 3 rejections in a row, the limit is 3; ")
            assert {row["scope"] for row in w.engine.publisher.rows("halts")} == {
                "account:A-001", "strategy:breakout",
            }  # fmt: skip
            assert control(w, "C23")["state"] == "tripped"
            sim.faults.replace([])
            assert (await w.post(id="no-1")).json()["code"] == "REJECT_STORM"
            closed = await w.send(id="close", action="close")
            assert closed["accounts"][0]["outcome"] == "sent"  # exits pass
        async with world(tmp_path, safety={"consecutive_rejects": 3}) as w:
            assert (await w.post(id="no-2")).json()["code"] == "REJECT_STORM"
            await w.command("resume", scope="account:A-001")
            await w.command("resume", scope="strategy:breakout")
            assert control(w, "C23")["state"] == "on"
            assert (await w.send(id="yes"))["accounts"][0]["outcome"] == "sent"
            assert w.engine.facts is not None
            assert not len(w.engine.guards.trips)
