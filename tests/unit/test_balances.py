"""Reading accounts' money: the unknown first, a few at a venue, nobody held up by a venue that does not answer."""

from __future__ import annotations

import asyncio
from contextlib import asynccontextmanager
from decimal import Decimal

from engine.balances import AT_ONCE, BalanceReader
from engine.errors import BrokerError
from engine.execution.dispatcher import Dispatcher
from engine.execution.fair_queue import FairQueue
from engine.execution.lane import Lane
from engine.execution.rate_limit import RateLimit
from engine.model.messages import Balances
from engine.portfolio.marks import Marks
from engine.portfolio.position_keeper import PositionKeeper
from tests.helpers import HandClock, ScriptedSession, eventually, make_order, make_state

MONEY = Balances(Decimal(5), Decimal(5), Decimal(5))


class Asked(ScriptedSession):
    """A session whose balances come when the test lets them, and whether it lets them."""

    def __init__(self, account_id: str) -> None:
        super().__init__(account_id)
        self.times = 0
        self.answer: Balances | Exception = MONEY

    async def balances(self) -> Balances:
        self.times += 1
        await self.hold.wait()
        if isinstance(self.answer, Exception):
            raise self.answer
        return self.answer


class Bank:
    """A reader over accounts at two venues: names beginning with S at one, the others elsewhere."""

    def __init__(self, *accounts: str) -> None:
        self.clock = HandClock()
        self.states = {
            name: make_state(
                id=name,
                broker="alpaca",
                base_url=f"http://127.0.0.1:{1 + (name[0] == 'S')}",
                equity=None,
            )
            for name in accounts
        }
        self.sessions = {name: Asked(name) for name in accounts}
        way = FairQueue(RateLimit(), self.clock)
        self.dispatcher = Dispatcher()
        self.lanes = self.dispatcher.lanes = {
            name: Lane(session, RateLimit(), way, self.clock, lambda _o: None, lambda *_d: None)
            for name, session in self.sessions.items()
        }
        self.told: list[str] = []
        self.reader = BalanceReader(
            self.clock, self.states, self.sessions, self.dispatcher,
            PositionKeeper(Marks(self.clock)), self.told.append,
        )  # fmt: skip

    def known(self) -> set[str]:
        return {name for name, state in self.states.items() if state.balances is not None}

    @asynccontextmanager
    async def open(self):
        task = asyncio.get_running_loop().create_task(self.reader.run())
        try:
            yield
        finally:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)


async def test_everybody_s_money_is_read_once_and_told():
    bank = Bank(*(f"A{number}" for number in range(3 * AT_ONCE)))
    async with bank.open():
        await eventually(lambda: len(bank.known()) == 3 * AT_ONCE)
    assert sorted(bank.told) == sorted(bank.states)
    assert {session.times for session in bank.sessions.values()} == {1}


async def test_no_more_than_a_few_at_a_venue_at_once():
    bank = Bank(*(f"A{number}" for number in range(3 * AT_ONCE)))
    for session in bank.sessions.values():
        session.hold.clear()
    async with bank.open():
        await eventually(lambda: sum(s.times for s in bank.sessions.values()) == AT_ONCE)
        for session in bank.sessions.values():
            session.hold.set()
        await eventually(lambda: len(bank.known()) == 3 * AT_ONCE)


async def test_a_silent_venue_holds_up_nobody_else_s_and_is_asked_once_at_a_time():
    silent = [f"S{number}" for number in range(2 * AT_ONCE)]
    well = [f"A{number}" for number in range(3 * AT_ONCE)]
    bank = Bank(*silent, *well)
    for name in silent:
        bank.sessions[name].hold.clear()
    async with bank.open():
        await eventually(lambda: bank.known() == set(well))
        bank.clock.advance(60)
        for name in well:
            bank.reader.now(name)
        await eventually(lambda: all(bank.sessions[name].times == 2 for name in well))
    assert max(bank.sessions[name].times for name in silent) == 1
    assert sum(bank.sessions[name].times for name in silent) == AT_ONCE


async def test_a_failure_is_shown_and_tried_again():
    bank = Bank("A")
    bank.sessions["A"].answer = BrokerError("no answer")
    async with bank.open():
        await eventually(lambda: bank.told == ["A"])
        assert bank.states["A"].last_error == "balances: no answer"
        bank.sessions["A"].answer = MONEY
        bank.clock.advance(15)
        await eventually(lambda: bank.known() == {"A"})


async def test_a_broker_that_asked_for_quiet_is_not_asked():
    bank = Bank("A", "B")
    bank.lanes["A"].limit.pause(30.0, bank.clock.monotonic_ns())
    async with bank.open():
        await eventually(lambda: bank.known() == {"B"})
        assert bank.sessions["A"].times == 0
        bank.clock.advance(30)
        await eventually(lambda: bank.known() == {"A", "B"})


async def test_after_a_fill_it_is_read_sooner():
    bank = Bank("A")
    async with bank.open():
        await eventually(lambda: bank.sessions["A"].times == 1)
        bank.reader.soon("A")
        bank.clock.advance(3)
        await eventually(lambda: bank.sessions["A"].times == 2)


async def test_reading_stands_back_while_orders_leave_but_not_for_ever():
    bank = Bank("A", "B")
    async with bank.open():
        await eventually(lambda: bank.known() == {"A", "B"})
        bank.dispatcher.dispatch([make_order("s-A", account="A")])
        bank.clock.advance(0.5)
        bank.reader.now("B")
        # Somebody unknown is read even so, and that look finds B's turn not come.
        bank.states["A"].balances = None
        bank.reader.now("A")

        def a_is_read() -> bool:
            bank.dispatcher.dispatch(
                [make_order("s-A", account="A")]
            )  # orders go on leaving meanwhile
            return bank.sessions["A"].times == 2

        await eventually(a_is_read)
        assert bank.sessions["B"].times == 1

        def sent_and_read() -> bool:
            bank.dispatcher.dispatch([make_order("s-A", account="A")])
            bank.clock.advance(0.5)
            return bank.sessions["B"].times == 2

        await eventually(sent_and_read)  # signals without a pause: its turn comes all the same
    assert bank.dispatcher.idle_s() < 0.3
