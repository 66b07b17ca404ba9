"""Prices asked of the brokers: every venue, every followed symbol, every second."""

from __future__ import annotations

import asyncio
from decimal import Decimal

import pytest

from engine.errors import BrokerUnavailable
from engine.market import broker_quotes as module
from engine.market.broker_quotes import MOST_SYMBOLS, BrokerQuotes
from tests.helpers import ScriptedSession, eventually

D = Decimal


class Venues:
    """Two venues and what they told."""

    def __init__(self) -> None:
        self.first, self.second = ScriptedSession("A"), ScriptedSession("B")
        self.first.prices = {"AAPL": D("189.43")}
        self.second.prices = {"EUR/USD": D("1.0951")}
        self.prices: dict[str, Decimal] = {}
        self.quotes = BrokerQuotes(lambda: [self.first, self.second], self.prices.__setitem__)


@pytest.fixture
async def venues(monkeypatch):
    monkeypatch.setattr(module, "EVERY_S", 0.005)
    made = Venues()
    yield made
    await made.quotes.stop()


async def test_asking_brings_a_price_at_once(venues):
    await venues.quotes.ask("AAPL")
    assert venues.prices == {"AAPL": D("189.43")}
    assert venues.first.asked_quotes == venues.second.asked_quotes == [["AAPL"]]
    assert venues.quotes.problem == ""


async def test_nobody_is_asked_twice_in_a_row_for_what_nobody_knows(venues, monkeypatch):
    for _ in range(5):
        await venues.quotes.ask("NONE")
    assert len(venues.first.asked_quotes) == 1
    monkeypatch.setattr(module, "ASK_AGAIN_S", 0.0)
    await venues.quotes.ask("OTHER")
    await venues.quotes.ask("OTHER")
    assert len(venues.first.asked_quotes) == 3


async def test_a_slow_venue_is_not_waited_for(venues, monkeypatch):
    monkeypatch.setattr(module, "ASK_WITHIN_S", 0.01)
    venues.second.hold.clear()
    await asyncio.wait_for(venues.quotes.ask("AAPL"), 2)
    assert venues.quotes.problem == "no quote of AAPL within 0.01 s"


async def test_followed_symbols_stay_fresh(venues):
    await venues.quotes.start()
    venues.quotes.follow("AAPL")
    venues.quotes.follow("EUR/USD")
    await eventually(lambda: venues.prices == {"AAPL": D("189.43"), "EUR/USD": D("1.0951")})
    venues.first.prices = {"AAPL": D("189.50")}
    await eventually(lambda: venues.prices["AAPL"] == D("189.50"))
    assert venues.first.asked_quotes[-1] == ["AAPL", "EUR/USD"]


async def test_nothing_followed_nothing_asked(venues):
    venues.quotes._sessions = lambda: pytest.fail("asked")
    await venues.quotes.start()
    for _ in range(5):
        await asyncio.sleep(0.005)
    assert venues.quotes._task is not None
    assert not venues.quotes._task.done()


async def test_a_venue_that_fails_does_not_keep_the_other_s_prices(venues):
    venues.first.prices = BrokerUnavailable("no route")
    await venues.quotes.start()
    venues.quotes.follow("EUR/USD")
    await eventually(lambda: "EUR/USD" in venues.prices)
    assert venues.quotes.problem == "A: no route"
    venues.first.prices = {}
    await eventually(lambda: venues.quotes.problem == "")


async def test_an_adapter_that_breaks_does_not_end_all_polling(venues, caplog):
    venues.first.prices = ValueError("unreadable")
    venues.quotes.follow("EUR/USD")
    await venues.quotes.start()
    await eventually(lambda: len(venues.second.asked_quotes) > 2)
    assert venues.prices == {"EUR/USD": D("1.0951")}
    assert venues.quotes.problem == "A: unreadable"
    assert "ValueError: unreadable" in caplog.text


async def test_a_venue_that_hangs_does_not_keep_the_other_s_prices(venues, monkeypatch):
    monkeypatch.setattr(module, "ROUND_WITHIN_S", 0.02)
    venues.first.hold.clear()
    venues.quotes.follow("EUR/USD")
    await venues.quotes.start()
    await eventually(lambda: venues.prices)  # not only once the other has given up
    await eventually(lambda: len(venues.second.asked_quotes) > 2)
    assert venues.quotes.problem == "A: no quotes within 0.02 s"


def test_the_least_recently_named_symbols_give_way():
    quotes = BrokerQuotes(list, lambda _symbol, _price: None)
    for number in range(MOST_SYMBOLS):
        quotes.follow(f"S{number}")
    quotes.follow("S0")  # named again: the youngest now
    quotes.follow("NEW")
    assert len(quotes._symbols) == MOST_SYMBOLS
    assert list(quotes._symbols)[-2:] == ["S0", "NEW"]
    assert "S1" not in quotes._symbols


async def test_stopping_leaves_nothing_running(venues):
    venues.first.hold.clear()
    venues.quotes.follow("AAPL")
    await venues.quotes.start()
    await eventually(lambda: venues.first.asked_quotes)
    await venues.quotes.stop()
    await venues.quotes.stop()
    assert not [task for task in asyncio.all_tasks() if task.get_name() == "broker-quotes"]
