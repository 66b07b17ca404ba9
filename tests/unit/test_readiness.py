"""What each account has left and needs: the columns, the list of things to do, the one warning before an end."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest

from engine.execution.fair_queue import FairQueue
from engine.execution.lane import Lane
from engine.execution.rate_limit import RateLimit, TokenBucket
from engine.model.account import Hours
from engine.model.account_state import TradingHours
from engine.model.enums import ConnectionState, OrderStatus
from engine.ports import Headroom
from engine.readiness import Readiness
from tests.helpers import MONDAY, HandClock, ScriptedSession, make_order, make_state

NEW_YORK = {"zone": "America/New_York", "open": "09:30", "close": "16:00"}


class Watch:
    """One connected account, looked at."""

    def __init__(self, **account) -> None:
        self.clock = HandClock()
        self.state = make_state(id="A-1", **account)
        self.session = ScriptedSession()
        self.limit = RateLimit(TokenBucket(10, 1.0))
        self.lane = Lane(
            self.session, self.limit, FairQueue(RateLimit(), self.clock), self.clock,
            lambda _order: None, lambda *_denied: None,
        )  # fmt: skip
        self.alerts: list[tuple[str, str, str, str]] = []
        self.readiness = Readiness(
            self.clock,
            {"A-1": self.state},
            {"A-1": self.session},
            {"A-1": self.lane},
            lambda *said: self.alerts.append(said),
        )

    def room(self, **fields) -> None:
        self.session.room = Headroom(**fields)

    def codes(self) -> list[str]:
        return [item["code"] for item in self.readiness.to_do()]

    def column(self, name: str) -> object:
        return self.readiness.columns(self.state)[name]


@pytest.fixture
async def watch():
    return Watch()


async def test_a_ready_account_needs_nothing(watch):
    watch.room(warm=2, wanted=2, probed_at=MONDAY)
    assert watch.readiness.to_do() == []
    assert watch.readiness.columns(watch.state) == {
        "session_expires_at": None,
        "last_probe_at": "2026-11-23T15:00:00.000000Z",
        "warm_connections": "2/2",
        "rate_left": 7,
        "rate_most": 7,
        "paused_until": None,
        "logs_in": False,
        "todo": "",
        "needs": [],
    }
    assert watch.readiness.watch() == []
    assert watch.alerts == []


async def test_what_the_session_asks_for_is_to_do(watch):
    watch.state.connect(ConnectionState.ERROR, "the token has expired", MONDAY)
    watch.room(todo="log in with main.py accounts login A-1")
    assert watch.readiness.to_do() == [
        {
            "account": "A-1",
            "code": "NOT_CONNECTED",
            "text": "the token has expired",
            "todo": "log in with main.py accounts login A-1",
        }
    ]
    assert watch.column("todo") == "log in with main.py accounts login A-1"


@pytest.mark.parametrize("state", [s for s in ConnectionState if s is not ConnectionState.CONNECTED])  # fmt: skip
async def test_every_way_of_not_being_connected_says_what_to_do(watch, state):
    watch.state.connect(state, "", MONDAY)
    (item,) = watch.readiness.to_do()
    assert item["code"] == "NOT_CONNECTED"
    assert item["text"] == state.value
    assert item["todo"]


async def test_an_account_that_is_switched_off_needs_nothing(watch):
    watch.state.connect(ConnectionState.ERROR, "refused", MONDAY)
    watch.state.active = False
    assert watch.readiness.to_do() == []


async def test_orders_of_unknown_outcome_are_to_do(watch):
    order = make_order()
    order.status = OrderStatus.UNKNOWN
    watch.state.working[order.cl_ord_id] = order
    assert watch.codes() == ["OUTCOME_UNKNOWN"]


async def test_a_pause_is_shown_and_only_a_long_one_is_to_do(watch):
    watch.limit.pause(30.0, watch.clock.monotonic_ns())
    assert watch.column("paused_until") == "2026-11-23T15:00:30.000000Z"
    assert watch.column("rate_left") == 0
    assert watch.codes() == []
    watch.limit.pause(3600.0, watch.clock.monotonic_ns())
    assert watch.codes() == ["RATE"]
    watch.clock.advance(3600)
    assert watch.column("paused_until") is None
    assert watch.codes() == []


@pytest.mark.parametrize(
    ("left", "codes"),
    [
        (timedelta(minutes=31), []),
        (timedelta(minutes=30), ["SESSION_ENDS"]),
        (timedelta(seconds=1), ["SESSION_ENDS"]),
        (timedelta(0), ["SESSION_ENDED"]),
        (timedelta(hours=-3), ["SESSION_ENDED"]),
    ],
)
async def test_a_session_that_ends_soon_is_to_do(watch, left, codes):
    watch.room(expires_at=MONDAY + left)
    assert watch.codes() == codes
    assert all("accounts login A-1" in item["todo"] for item in watch.readiness.to_do())


async def test_a_session_that_ends_before_the_market_closes_is_to_do():
    watch = Watch(hours=NEW_YORK)  # it is 10:00 there
    watch.room(expires_at=MONDAY + timedelta(hours=6))
    assert watch.codes() == []
    watch.room(expires_at=MONDAY + timedelta(hours=5, minutes=59))
    assert watch.codes() == ["SESSION_ENDS"]
    assert "2026-11-23T21:00" in watch.readiness.to_do()[0]["text"]


async def test_one_alert_for_one_end_with_what_to_do(watch):
    watch.room(expires_at=MONDAY + timedelta(minutes=20))
    assert watch.readiness.watch() == ["A-1"]
    watch.clock.advance(300)
    watch.readiness.watch()
    (alert,) = watch.alerts
    assert alert[:3] == ("warning", "SESSION_ENDS", "A-1")
    assert "accounts login A-1" in alert[3]
    watch.room(expires_at=MONDAY + timedelta(minutes=40))  # renewed: soon enough it ends again
    assert watch.readiness.watch() == ["A-1"]
    watch.clock.advance(600)
    watch.readiness.watch()
    assert len(watch.alerts) == 2


@pytest.mark.parametrize(
    ("hours", "now", "close"),
    [
        (NEW_YORK, "2026-11-23T15:00", "2026-11-23T21:00"),
        (NEW_YORK, "2026-11-23T21:00", "2026-11-24T21:00"),
        (NEW_YORK, "2026-11-27T21:00", "2026-11-30T21:00"),  # over the weekend
        (NEW_YORK, "2026-11-28T12:00", "2026-11-30T21:00"),
        (NEW_YORK | {"square_off": "15:55"}, "2026-11-23T15:00", "2026-11-23T20:55"),
        # Winter time begins on 1 November: 16:00 is an hour later in UTC.
        (NEW_YORK, "2026-10-30T21:00", "2026-11-02T21:00"),
        # A session over midnight ends on the day after it began, from Monday to Friday.
        ({"zone": "UTC", "open": "22:00", "close": "21:00"}, "2026-11-22T23:00", "2026-11-23T21:00"),
        ({"zone": "UTC", "open": "22:00", "close": "21:00"}, "2026-11-27T21:30", "2026-11-30T21:00"),
        # Squared off before midnight it ends on its own evening, from Sunday to Thursday.
        ({"zone": "UTC", "open": "20:00", "close": "04:00", "square_off": "23:00"},
         "2026-11-27T12:00", "2026-11-29T23:00"),
    ],
)  # fmt: skip
def test_next_close(hours, now, close):
    made = TradingHours(Hours.model_validate(hours))
    moment = datetime.fromisoformat(now).replace(tzinfo=UTC)
    assert made.next_close(moment) == datetime.fromisoformat(close).replace(tzinfo=UTC)
